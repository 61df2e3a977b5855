//! What a process has used.

use std::{fs, time::Duration};

use nix::{sys::time::TimeSpec, time::clock_getcpuclockid, unistd::Pid};

/// The most memory that a process had.
pub(crate) const PEAK: &str = "VmHWM:";

/// On all its threads, in the kernel on its behalf too.
pub(crate) fn processor_time(id: u32) -> Duration {
    let clock = clock_getcpuclockid(Pid::from_raw(id.cast_signed())).unwrap();
    TimeSpec::into(clock.now().unwrap())
}

/// Memory, in MiB, by its name in `/proc/PID/status`.
pub(crate) fn mib(id: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
