//! Has pods that are there follow an MTU that has become smaller.
//!
//! The agent may not enter pods' namespaces (`CAP_SYS_ADMIN`), and to change the host's end alone would have the kernel drop
//! what is longer without a word. The plugin may: it finds the file that is written here whenever a runtime calls it.

use std::{fs, io, path::Path};

use anyhow::Context;
use margay_api::{endpoint::Endpoint, paths};
use margay_netlink::link::Mtu;
use tracing::info;

/// With less, the kernel takes IPv6 away from an interface (RFC 8200 section 5).
const LEAST: u32 = 1280;

/// Has the file say which MTU pods get now, as long as some have a larger one. Never is one made larger: other nodes may not
/// take what is longer yet.
pub(crate) fn tell<'a>(
    run_dir: &Path,
    mtu: Mtu,
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> anyhow::Result<()> {
    let path = run_dir.join(paths::POD_MTU);
    let has_more =
        |endpoint: &&Endpoint| endpoint.network == paths::CNI_NETWORK && endpoint.mtu > mtu.octets();
    let larger = if mtu.octets() < LEAST { 0 } else { endpoints.filter(has_more).count() };
    if larger == 0 {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        };
    }
    let text = format!("{}\n", mtu.octets());
    if fs::read_to_string(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    let half = run_dir.join(format!(".{}.new", paths::POD_MTU));
    fs::write(&half, text)
        .and_then(|()| fs::rename(&half, &path))
        .with_context(|| format!("write {}", path.display()))?;
    info!(
        pods = larger,
        mtu = mtu.octets(),
        "pods have a larger MTU than new ones get; the plugin makes it smaller when the runtime calls it next"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use margay_api::{endpoint::Endpoint, paths};
    use margay_netlink::link::Mtu;

    use super::tell;

    fn endpoint(network: &str, mtu: u32) -> Endpoint {
        Endpoint {
            container_id: "c1".into(),
            ifname: "eth0".into(),
            network: network.into(),
            netns: "/run/netns/x".into(),
            host_ifname: "mgy0123456789ab".into(),
            mac: "02:00:00:00:00:01".into(),
            host_mac: "02:00:00:00:00:02".into(),
            addresses: Vec::new(),
            mtu,
            pod: None,
        }
    }

    #[test]
    fn the_file_is_there_while_a_pod_of_the_network_has_a_larger_mtu_that_may_become_smaller() {
        let dir = tempfile::tempdir().unwrap();
        let ours = paths::CNI_NETWORK;
        for (endpoints, mtu, expected) in [
            (vec![endpoint(ours, 1500), endpoint(ours, 1400)], 1400, Some("1400\n")),
            (vec![endpoint(ours, 1500)], 1300, Some("1300\n")),
            (vec![endpoint(ours, 1400)], 1400, None),
            (vec![endpoint(ours, 1400)], 1500, None),
            (vec![endpoint("another", 1500)], 1400, None),
            (vec![endpoint(ours, 1500)], 1279, None),
        ] {
            tell(dir.path(), Mtu::new(mtu).unwrap(), endpoints.iter()).unwrap();
            let found = fs::read_to_string(dir.path().join(paths::POD_MTU)).ok();
            assert_eq!(found.as_deref(), expected, "{mtu}: {endpoints:?}");
        }
    }
}
