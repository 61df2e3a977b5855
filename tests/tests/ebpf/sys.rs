//! `BPF_PROG_TEST_RUN` with flags, which `aya` sets for other kinds of programs alone.
#![expect(unsafe_code, reason = "a system call that no library makes as it is needed here")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::{errno::Errno, libc};

const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// What the call takes, of `union bpf_attr` (`linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    returned: u32,
    octets_in: u32,
    octets_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_octets_in: u32,
    context_octets_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// Runs a program once on a packet with a context, and gives what it returned and how many octets the packet has then, which are in `out`.
pub(crate) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
    flags: u32,
    out: &mut [u8],
) -> Result<(u32, usize), Errno> {
    let length = |of: &[u8]| u32::try_from(of.len()).unwrap();
    let mut attributes = Attributes {
        program: program.as_raw_fd().try_into().unwrap(),
        octets_in: length(packet),
        data_in: packet.as_ptr() as u64,
        octets_out: length(out),
        data_out: out.as_mut_ptr() as u64,
        context_octets_in: length(context),
        context_in: context.as_ptr() as u64,
        flags,
        ..Attributes::default()
    };
    // SAFETY: the kernel reads and writes the structure, whose length it is told, and as many octets behind its pointers as that says; all
    // of it outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<Attributes>())
    };
    Errno::result(result)?;
    Ok((attributes.returned, attributes.octets_out.try_into().unwrap()))
}
