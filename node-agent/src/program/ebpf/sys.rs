//! What is asked of bpf(2) in another way than `aya` does: with less privilege, or much at once.

#![expect(unsafe_code, reason = "a system call that no library makes as it is needed here")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::{Pod, programs::TcAttachType};

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

/// `BPF_MAP_LOOKUP_BATCH` (Linux 5.6).
const MAP_LOOKUP_BATCH: libc::c_int = 24;

/// What `union bpf_attr` is for a batch (`linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct Batch {
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: i32,
    element_flags: u64,
    flags: u64,
}

/// Looks at all entries of a hash, some at a time; which, where others write it, is that of no one moment. What is looked at
/// does not count as used.
///
/// # Errors
/// When the kernel does not tell: it is no hash, or has other keys or values.
pub(super) fn for_each<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    at_once: usize,
    mut look: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut keys = vec![K::default(); at_once];
    let mut values = vec![V::default(); at_once];
    // Where the kernel stopped: the number of a bucket.
    let mut place = None;
    loop {
        let mut next = 0_u32;
        let mut batch = Batch {
            from: place.as_ref().map_or(0, |place: &u32| std::ptr::from_ref(place).addr() as u64),
            next: (&raw mut next).addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: u32::try_from(at_once).unwrap_or(u32::MAX),
            map: map.as_raw_fd(),
            ..Batch::default()
        };
        // SAFETY: the kernel reads and writes the structure, of as many octets as it is told, writes no more than `count` keys
        // and values, of which every bit pattern is one, and a number each at the two places; all of them outlive the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let error = io::Error::last_os_error();
        let is_last = result < 0;
        if is_last && error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error);
        }
        let entries = keys.iter().zip(&values).take(batch.count as usize);
        entries.for_each(|(key, value)| look(key, value));
        if is_last {
            return Ok(());
        }
        place = Some(next);
    }
}
