//! Has pods that are there follow an MTU that has become smaller.
//!
//! The agent may not enter pods' namespaces (`CAP_SYS_ADMIN`), and to change the host's end alone would have the kernel drop
//! what is longer without a word. The plugin may: it finds the file that is written here whenever a runtime calls it.

use std::{fs, io, path::Path, time::Duration};

use anyhow::Context;
use margay_api::{endpoint::Endpoint, paths};
use margay_netlink::link::Mtu;
use tokio::time::Instant;
use tracing::info;

use super::cni::LEAST;

/// How long a smaller MTU must last before pods that are there get it: nothing makes them larger again, and an uplink, or a route to
/// other nodes, may be another one for a moment.
pub(crate) const HOLD: Duration = Duration::from_secs(30);

/// How far pods that are there are from what new ones get.
#[derive(Debug, Default)]
pub(crate) struct Shrinking {
    /// What new pods get that is smaller, since when, and whether the plugin was told.
    smaller: Option<(Mtu, Instant, bool)>,
}

impl Shrinking {
    /// Takes note of what new pods get, if that is known. Has the file say so once it has lasted, as long as some pods have a larger one. Never is
    /// one made larger: other nodes may not take what is longer yet.
    pub(crate) fn note<'a>(
        &mut self,
        run_dir: &Path,
        mtu: Option<Mtu>,
        endpoints: impl Iterator<Item = &'a Endpoint>,
        now: Instant,
    ) -> anyhow::Result<()> {
        let path = run_dir.join(paths::POD_MTU);
        let mtu = mtu.filter(|mtu| mtu.octets() >= LEAST);
        let has_more = |endpoint: &&Endpoint| {
            endpoint.network == paths::CNI_NETWORK && mtu.is_some_and(|mtu| endpoint.mtu > mtu.octets())
        };
        let larger = endpoints.filter(has_more).count();
        let Some(mtu) = mtu.filter(|_| larger > 0) else {
            self.smaller = None;
            return remove(&path);
        };
        let since = match self.smaller {
            Some((before, since, _)) if before == mtu => since,
            _ => now,
        };
        let has_lasted = now.duration_since(since) >= HOLD;
        self.smaller = Some((mtu, since, has_lasted));
        if !has_lasted {
            // What is there is of another MTU, or an earlier agent's, which may have known no better.
            return remove(&path);
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

    /// When it will have lasted.
    pub(crate) fn due(&self) -> Option<Instant> {
        let (_, since, is_told) = self.smaller?;
        (!is_told).then(|| since + HOLD)
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use margay_api::{endpoint::Endpoint, paths};
    use margay_netlink::link::Mtu;
    use tokio::time::Instant;

    use super::{HOLD, Shrinking};

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
        let start = Instant::now();
        for (endpoints, mtu, expected) in [
            (vec![endpoint(ours, 1500), endpoint(ours, 1400)], Some(1400), Some("1400\n")),
            (vec![endpoint(ours, 1500)], Some(1300), Some("1300\n")),
            (vec![endpoint(ours, 1400)], Some(1400), None),
            (vec![endpoint(ours, 1400)], Some(1500), None),
            (vec![endpoint("another", 1500)], Some(1400), None),
            (vec![endpoint(ours, 1500)], Some(1279), None),
            (vec![endpoint(ours, 1500)], None, None),
        ] {
            let mut shrinking = Shrinking::default();
            for now in [start, start + HOLD] {
                shrinking.note(dir.path(), mtu.and_then(Mtu::new), endpoints.iter(), now).unwrap();
            }
            let found = fs::read_to_string(dir.path().join(paths::POD_MTU)).ok();
            assert_eq!(found.as_deref(), expected, "{mtu:?}: {endpoints:?}");
        }
    }

    #[test]
    fn what_is_smaller_for_a_moment_is_nothing_to_pods_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let pods = [endpoint(paths::CNI_NETWORK, 9000)];
        let (mut shrinking, start) = (Shrinking::default(), Instant::now());
        let mut check = |seconds, mtu, due: Option<u64>, told: bool| {
            let at = |seconds| start + Duration::from_secs(seconds);
            shrinking.note(dir.path(), Mtu::new(mtu), pods.iter(), at(seconds)).unwrap();
            assert_eq!(shrinking.due(), due.map(at), "at {seconds} s");
            assert_eq!(dir.path().join(paths::POD_MTU).exists(), told, "at {seconds} s");
        };
        check(0, 1500, Some(30), false);
        check(20, 9000, None, false);
        check(40, 1500, Some(70), false);
        check(60, 1400, Some(90), false);
        check(89, 1400, Some(90), false);
        check(90, 1400, None, true);
        check(99, 1400, None, true);
        // Another one has to last as long.
        check(100, 1300, Some(130), false);
        check(110, 9000, None, false);
    }
}
