//! The one question to bpf(2) that `aya` asks with more privilege than it takes.

#![expect(unsafe_code, reason = "a system call that no library makes as it is needed here")]

use std::io;

use aya::programs::TcAttachType;

/// `BPF_PROG_QUERY`.
const PROG_QUERY: libc::c_int = 16;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// Programs that are asked for; of more, it is enough to know that there are others.
const MOST: u32 = 64;

/// What `union bpf_attr` is for a query (`linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The IDs of the programs at an interface in one direction, in the order in which they run. Takes `CAP_NET_ADMIN`; `aya`
/// makes descriptors of the IDs, which takes `CAP_SYS_ADMIN`.
///
/// # Errors
/// When the kernel does not tell: there is no such interface.
pub(super) fn programs_at(ifindex: u32, direction: TcAttachType) -> io::Result<Vec<u32>> {
    let attach_type = match direction {
        TcAttachType::Ingress => TCX_INGRESS,
        TcAttachType::Egress => TCX_EGRESS,
        TcAttachType::Custom(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut ids = [0_u32; MOST as usize];
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        count: MOST,
        ..Query::default()
    };
    // SAFETY: the kernel reads and writes the structure, of as many octets as it is told, and no more than `count` numbers at
    // `prog_ids`; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    let error = io::Error::last_os_error();
    // More than were asked for.
    if result < 0 && error.raw_os_error() != Some(libc::ENOSPC) {
        return Err(error);
    }
    Ok(ids[..query.count.min(MOST) as usize].to_vec())
}
