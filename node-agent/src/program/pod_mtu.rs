//! Has pods that are there follow an MTU that has become smaller.
//!
//! The agent may not enter pods' namespaces (`CAP_SYS_ADMIN`), and to change the host's end alone would have the kernel drop
//! what is longer without a word. The plugin may: it finds the file that is written here whenever a runtime calls it.

use std::{path::Path, time::Duration};

use anyhow::Context;
use margay_api::{
    endpoint::{Endpoint, LEAST_MTU},
    left, paths,
};
use margay_netlink::link::Mtu;
use tokio::time::Instant;
use tracing::info;

/// How long a smaller MTU must last before pods that are there get it: nothing makes them larger again, and an uplink, or a route to
/// other nodes, may be another one for a moment.
pub(crate) const HOLD: Duration = Duration::from_secs(30);

/// How far pods that are there are from what new ones get.
#[derive(Debug, Default)]
pub(crate) struct Shrinking {
    /// What new pods get that is smaller, and since when.
    smaller: Option<(Mtu, Instant)>,
}

impl Shrinking {
    /// Takes note of what new pods get, if that is known. Has the file say so once it has lasted, as long as some pods have a larger one; says when
    /// it will have. Never is one made larger: other nodes may not take what is longer yet.
    pub(crate) fn note<'a>(
        &mut self,
        run_dir: &Path,
        mtu: Option<Mtu>,
        endpoints: impl Iterator<Item = &'a Endpoint>,
        now: Instant,
    ) -> anyhow::Result<Option<Instant>> {
        let remove =
            || left::remove(run_dir, paths::POD_MTU).context("remove the MTU that the plugin is asked for");
        let mtu = mtu.filter(|mtu| mtu.octets() >= LEAST_MTU);
        let has_more = |endpoint: &&Endpoint| {
            endpoint.network == paths::CNI_NETWORK && mtu.is_some_and(|mtu| endpoint.mtu > mtu.octets())
        };
        let larger = endpoints.filter(has_more).count();
        let Some(mtu) = mtu.filter(|_| larger > 0) else {
            self.smaller = None;
            remove()?;
            return Ok(None);
        };
        let since = match self.smaller {
            Some((before, since)) if before == mtu => since,
            _ => now,
        };
        self.smaller = Some((mtu, since));
        if now < since + HOLD {
            // What is there is of another MTU, or an earlier agent's, which may have known no better.
            remove()?;
            return Ok(Some(since + HOLD));
        }
        let octets = mtu.octets();
        if left::read(run_dir, paths::POD_MTU).ok() != Some(Some(octets)) {
            left::write(run_dir, paths::POD_MTU, &octets).context("ask the plugin for a smaller MTU")?;
            info!(
                pods = larger,
                mtu = octets,
                "pods have a larger MTU than new ones get; the plugin makes it smaller when the runtime calls it next"
            );
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use margay_api::{endpoint::Endpoint, left, paths};
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
            (vec![endpoint(ours, 1500), endpoint(ours, 1400)], Some(1400), Some(1400)),
            (vec![endpoint(ours, 1500)], Some(1300), Some(1300)),
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
            let found: Option<u32> = left::read(dir.path(), paths::POD_MTU).unwrap();
            assert_eq!(found, expected, "{mtu:?}: {endpoints:?}");
        }
    }

    #[test]
    fn what_is_smaller_for_a_moment_is_nothing_to_pods_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let pods = [endpoint(paths::CNI_NETWORK, 9000)];
        let (mut shrinking, start) = (Shrinking::default(), Instant::now());
        let mut check = |seconds, mtu, due: Option<u64>, told: bool| {
            let at = |seconds| start + Duration::from_secs(seconds);
            let said = shrinking.note(dir.path(), Mtu::new(mtu), pods.iter(), at(seconds)).unwrap();
            assert_eq!(said, due.map(at), "at {seconds} s");
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
