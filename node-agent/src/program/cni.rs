//! The network configuration that tells the runtime about us.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use anyhow::Context;
use margay_api::{endpoint::LEAST_MTU, paths};
use margay_netlink::{Socket, addr, link::Mtu};
use serde_json::{Value, json};
use tracing::info;

use crate::{config::Settings, program::uplink};

/// Writes the configuration unless it is there as it must be. The runtime takes the node for ready on seeing it,
/// so this is called last. It is renamed into place within its directory, which is what containerd notices.
/// Files of others are left alone, and so is ours when the agent ends: pods go on.
pub(crate) fn write(settings: &Settings, mtu: Mtu) -> anyhow::Result<()> {
    let path = settings.cni_conf_dir.join(paths::CNI_CONF_FILE);
    let text = conflist(&settings.run_dir, &settings.state_dir, mtu, &settings.chained_plugins);
    if fs::read_to_string(&path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::create_dir_all(&settings.cni_conf_dir)
        .with_context(|| format!("create {}", settings.cni_conf_dir.display()))?;
    let half = settings.cni_conf_dir.join(format!(".{}.new", paths::CNI_CONF_FILE));
    fs::write(&half, text)
        .and_then(|()| fs::rename(&half, &path))
        .with_context(|| format!("write {}", path.display()))?;
    info!(path = %path.display(), mtu = mtu.octets(), "the runtime can add pods");
    Ok(())
}

fn conflist(run_dir: &Path, state_dir: &Path, mtu: Mtu, chained: &[Value]) -> String {
    let ours = json!({
        "type": paths::CNI_TYPE,
        "mtu": mtu.octets(),
        "runDir": run_dir,
        "stateDir": state_dir,
        "capabilities": {"ips": true, "mac": true},
    });
    let list = json!({
        // What containerd 1.6 speaks; runtimes that know `cniVersions` take the newest of it that they speak
        // (CNI spec 1.1, section 1), and with 1.1.0 ask for STATUS.
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": paths::CNI_NETWORK,
        "plugins": std::iter::once(&ours).chain(chained).collect::<Vec<_>>(),
    });
    format!("{list:#}\n")
}

/// What fits on the way to other nodes, of which tunnels take `overhead` octets: in the smallest of several uplinks. `None` as long as
/// it is not known which these are: the Node is gone, an interface has lost its address, or no route leads to any other node.
pub(crate) fn fits(
    addresses: &[IpAddr],
    others: &BTreeSet<IpAddr>,
    overhead: u32,
) -> anyhow::Result<Option<Mtu>> {
    let mut socket = Socket::open()?;
    let all = addr::list(&mut socket)?;
    let Some(uplink) = uplink::smallest(&mut socket, &all, addresses, others)? else { return Ok(None) };
    less(uplink, overhead).map(Some)
}

/// An uplink's MTU without what tunnels take.
pub(crate) fn less(uplink: u32, overhead: u32) -> anyhow::Result<Mtu> {
    let octets = uplink.saturating_sub(overhead);
    // Of a smaller uplink nobody but the operator knows what is to become.
    if overhead > 0 && octets < LEAST_MTU {
        anyhow::bail!(
            "find the MTU of pods: that of the node's interface is {uplink}, of which a tunnel takes {overhead}; pods \
             need {LEAST_MTU}: give the interface more, or say with --mtu what is to be"
        );
    }
    Mtu::new(octets).context("find the MTU of the node's interface; or give --mtu")
}

#[cfg(test)]
mod tests {
    use margay_netlink::link::Mtu;
    use serde_json::{Value, json};

    use super::conflist;

    #[test]
    fn the_configuration_names_the_plugin_what_it_can_do_and_those_behind_it() {
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let mtu = Mtu::new(1450).unwrap();
        let text =
            conflist("/run/margay".as_ref(), "/var/lib/margay".as_ref(), mtu, std::slice::from_ref(&portmap));
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(list["plugins"][0]["type"], "margay");
        assert_eq!(list["plugins"][0]["mtu"], 1450);
        assert_eq!(list["plugins"][0]["capabilities"]["ips"], true);
        assert_eq!(list["plugins"][1], portmap);
    }
}
