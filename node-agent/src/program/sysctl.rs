//! Kernel settings that a router of pods needs.

use std::{fs, io, path::Path};

use anyhow::Context;
use ipnetwork::IpNetwork;
use tracing::info;

/// Lets the node forward the families that its pods have, and no other: a host that forwards IPv6 no longer heeds
/// router advertisements (`accept_ra` = 1), which is how many a node has its default route.
///
/// `dir` is the node's `/proc/sys/net`. Only what differs is written, so that a read-only one with the right values
/// is good enough.
pub(crate) fn enable_forwarding(dir: &Path, blocks: &[IpNetwork]) -> anyhow::Result<()> {
    for (setting, wanted) in [
        ("ipv4/ip_forward", blocks.iter().any(IpNetwork::is_ipv4)),
        ("ipv6/conf/all/forwarding", blocks.iter().any(IpNetwork::is_ipv6)),
    ] {
        let path = dir.join(setting);
        if !wanted {
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(value) if value.trim() == "1" => {}
            Ok(_) => {
                fs::write(&path, "1").with_context(|| {
                    format!(
                        "write 1 to {}; set it on the node (sysctl -w), or mount the node's /proc/sys/net writable and name it with --sysctl-dir",
                        path.display()
                    )
                })?;
                info!(path = %path.display(), "forwarding enabled");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let family = if setting.starts_with("ipv6") { "IPv6" } else { "IPv4" };
                anyhow::bail!(
                    "read {}: there is none, but the node has an {family} podCIDR; is {family} in this kernel, and does --sysctl-dir name the node's /proc/sys/net?",
                    path.display()
                );
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::enable_forwarding;

    const SETTINGS: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

    #[test]
    fn only_the_families_of_the_nodes_blocks_are_forwarded() {
        for (blocks, expected) in [
            (&[][..], ["0", "0"]),
            (&["192.0.2.0/24"][..], ["1", "0"]),
            (&["2001:db8::/64"], ["0", "1"]),
            (&["192.0.2.0/24", "2001:db8::/64"], ["1", "1"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for setting in SETTINGS {
                let path = dir.path().join(setting);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "0").unwrap();
            }
            let networks: Vec<_> = blocks.iter().map(|block| block.parse().unwrap()).collect();
            enable_forwarding(dir.path(), &networks).unwrap();
            let found = SETTINGS.map(|setting| fs::read_to_string(dir.path().join(setting)).unwrap());
            assert_eq!(found, expected, "{blocks:?}");
        }
    }

    #[test]
    fn a_family_that_the_kernel_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = enable_forwarding(dir.path(), &["2001:db8::/64".parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("is IPv6 in this kernel"), "{error}");
        enable_forwarding(dir.path(), &[]).unwrap();
    }
}
