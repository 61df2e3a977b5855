//! Whole clusters with IP-in-IP, on a kernel that has it: `make test-kernels SUITES=ipip`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test helper fails its test by panicking")]

#[path = "../overlay/cluster.rs"]
#[expect(dead_code, reason = "the tests of other tunnels use the rest")]
mod cluster;
#[path = "../overlay/life.rs"]
mod life;
mod live;
mod modes;
mod short_way;
mod tunnel;

/// Fails where the kernel has no IP-in-IP: nothing here could pass.
fn assert_kernel_can() {
    let status = std::process::Command::new("modprobe").arg("ipip").status();
    let can = status.is_ok_and(|status| status.success());
    assert!(can, "this kernel has no module ipip: run these tests with `make test-kernels SUITES=ipip`");
}
