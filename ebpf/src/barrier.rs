//! The order in which memory is read and written, on machines that do not keep the one of the program.
//!
//! What is judged must lie between the two looks at the revision, and an entry's ends are good only with its revision. x86 does
//! not move loads before loads nor stores before stores; arm64 does. Programs have no barrier of their own that kernels before
//! 6.15 know (load-acquire came then), but an atomic operation that fetches is a full one: the kernel's JITs make it what
//! `xchg()` is in the kernel, which orders all before it before all after it (`Documentation/atomic_t.txt`;
//! on arm64 `swpal`, or `ldxr`, `stlxr` and `dmb ish`). So an exchange on the program's own stack is enough, and no two CPUs share
//! what it writes to.

use core::{arch::asm, ptr::read_volatile};

/// Whether this machine needs it; who loads the programs says so. The verifier knows its value, and leaves out what is not
/// needed. 1, where nobody says anything: too much order costs time alone.
#[unsafe(no_mangle)]
static WEAKLY_ORDERED: u32 = 1;

/// All that was read or written before, before all that comes; to the compiler, too.
#[inline(always)]
pub(crate) fn barrier() {
    // SAFETY: a number that lives as long as the program. Read as it is in memory, which is not what the compiler knows.
    if unsafe { read_volatile(&raw const WEAKLY_ORDERED) } != 0 {
        let mut word = 0_u64;
        // In the machine's words, as Rust has no exchange for this target.
        // SAFETY: exchanges a number on the stack with one in a register.
        unsafe {
            asm!("{old} = xchg_64({word} + 0, {old})", word = in(reg) &raw mut word, old = inout(reg) 1_u64 => _);
        };
    }
}
