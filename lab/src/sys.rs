//! The one place with unsafe code: what a child does between fork and exec.
#![expect(unsafe_code, reason = "the standard library offers no other way to run code in a child")]

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// Has the kernel kill the child when the *thread* that spawns it ends, however it ends.
pub(crate) fn die_with_spawner(command: &mut tokio::process::Command) {
    let parent = Pid::this();
    let prepare = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above.
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: the closure makes two system calls and allocates nothing, as is asked of code after a fork in a
    // process with threads.
    unsafe { command.pre_exec(prepare) };
}
