//! The capabilities that programs take of the agent's process.

use std::fs;

use anyhow::Context;

const CAP_SYS_ADMIN: u32 = 21;
/// Each with its number (`linux/capability.h`), and whether `CAP_SYS_ADMIN` has what it has.
const REQUIRED: [(&str, u32, bool); 3] =
    [("CAP_NET_ADMIN", 12, false), ("CAP_PERFMON", 38, true), ("CAP_BPF", 39, true)];

/// Makes sure of them, as the kernel's own errors name none.
///
/// # Errors
/// When one is missing, which the error names.
pub(super) fn check() -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/thread-self/status").context("read /proc/thread-self/status")?;
    let missing = missing(&status)?;
    anyhow::ensure!(
        missing.is_empty(),
        "the agent lacks {}: add to the container margay-node (securityContext.capabilities.add), as \
         manifests/base/daemonset.yaml does",
        missing.join(" and ")
    );
    Ok(())
}

fn missing(status: &str) -> anyhow::Result<Vec<&'static str>> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.context("find CapEff in /proc/thread-self/status")?.trim();
    let effective = u64::from_str_radix(effective, 16).with_context(|| format!("read CapEff {effective}"))?;
    let has = |number: u32| effective >> number & 1 == 1;
    let missing = REQUIRED
        .into_iter()
        .filter(|(_, number, of_admin)| !(has(*number) || *of_admin && has(CAP_SYS_ADMIN)));
    Ok(missing.map(|(name, ..)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn what_a_process_has_not_is_named() {
        let check = |effective: u64, expected: &[&str]| {
            let status =
                format!("Name:\tmargay-node\nCapPrm:\t{:016x}\nCapEff:\t{effective:016x}\n", u64::MAX);
            assert_eq!(missing(&status).unwrap(), expected, "{effective:x}");
        };
        let [net_admin, sys_admin, perfmon, bpf] = [12, 21, 38, 39].map(|number| 1_u64 << number);
        check(net_admin | perfmon | bpf, &[]);
        check(net_admin | sys_admin, &[]);
        check(net_admin, &["CAP_PERFMON", "CAP_BPF"]);
        check(sys_admin, &["CAP_NET_ADMIN"]);
        assert!(missing("Name:\tmargay-node\n").is_err());
    }
}
