//! The configuration of all speakers, checked.

use kube::core::ObjectMeta;
use margay_api::resource::{Announcement, BGPConfiguration, Bfd, GracefulRestart, Mesh};
use margay_bgp::{
    Asn, HoldTime, Prefix,
    config::{BfdOptions, GracefulRestartOptions},
    policy::AnyCommunity,
};

use super::{Read, Told, guarded::Kind};

/// The name of the one that counts.
const NAME: &str = "default";

/// What the agent needs to know of it; what is not set, or wrong, is the agent's own setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ConfigurationFacts {
    pub(crate) asn: Option<Asn>,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) listen_port: Option<u16>,
    pub(crate) hold_time: Option<HoldTime>,
    pub(crate) connect_retry: Option<u16>,
    pub(crate) graceful_restart: Option<GracefulRestartOptions>,
    pub(crate) bfd: Option<BfdOptions>,
    pub(crate) services: ServiceRanges,
    pub(crate) announcements: Vec<AnnouncementFacts>,
    /// What is wrong with it.
    pub(crate) problems: Vec<String>,
    /// What its status says, and of what.
    pub(crate) told: Told,
}

/// Of which ranges the addresses of Services are announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceRanges {
    pub(crate) cluster: Vec<Prefix>,
    pub(crate) external: Vec<Prefix>,
    pub(crate) load_balancer: Vec<Prefix>,
}

impl ServiceRanges {
    /// Whether Services have to be known.
    pub(crate) fn is_empty(&self) -> bool {
        self.cluster.is_empty() && self.external.is_empty() && self.load_balancer.is_empty()
    }
}

/// What is said with the routes within a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnnouncementFacts {
    pub(crate) prefix: Prefix,
    pub(crate) communities: Vec<AnyCommunity>,
    pub(crate) local_preference: Option<u32>,
}

impl Kind for BGPConfiguration {}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &BGPConfiguration) -> Read<ConfigurationFacts> {
    let name = key(&object.metadata);
    if name != NAME {
        let problem = format!("BGPConfiguration {name}: only the one named {NAME} counts; it is passed over");
        return Read { value: None, problems: vec![problem] };
    }
    let spec = &object.spec;
    let mut problems = Problems::new(format!("BGPConfiguration {name}"));
    let asn = spec.asn.and_then(|number| problems.keep("asn", asn(number)));
    let hold_time = spec.hold_time_seconds.and_then(|it| problems.keep("holdTimeSeconds", hold_time(it)));
    let listen_port = spec.listen_port.and_then(|port| {
        problems
            .keep("listenPort", if port == 0 { Err("0: expected 1 to 65535".to_owned()) } else { Ok(port) })
    });
    let connect_retry = spec.connect_retry_seconds.and_then(|seconds| {
        let checked = (1..=3600).contains(&seconds).then_some(seconds);
        problems.keep("connectRetrySeconds", checked.ok_or_else(|| format!("{seconds}: expected 1 to 3600")))
    });
    let mut services = ServiceRanges::default();
    if let Some(ranges) = &spec.service_addresses {
        let mut read = |field: &str, texts: &[String]| -> Vec<Prefix> {
            let numbered = texts.iter().enumerate();
            numbered
                .filter_map(|(index, text)| {
                    problems.keep(&format!("serviceAddresses.{field}[{index}]"), prefix(text))
                })
                .collect()
        };
        services = ServiceRanges {
            cluster: read("clusterIPs", &ranges.cluster_ips),
            external: read("externalIPs", &ranges.external_ips),
            load_balancer: read("loadBalancerIPs", &ranges.load_balancer_ips),
        };
    }
    let numbered = spec.announcements.iter().enumerate();
    let announcements = numbered
        .filter_map(|(index, it)| problems.keep(&format!("announcements[{index}]"), announcement(it)))
        .collect();
    let graceful_restart =
        spec.graceful_restart.as_ref().and_then(|it| problems.keep("gracefulRestart", graceful_restart(it)));
    let bfd = spec.bfd.and_then(|it| problems.keep("bfd", bfd(it)));
    let problems = problems.list;
    let conditions = object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let value = ConfigurationFacts {
        asn,
        mesh: spec.mesh,
        listen_port,
        hold_time,
        connect_retry,
        graceful_restart,
        bfd,
        services,
        announcements,
        problems: problems.clone(),
        told: Told { generation: object.metadata.generation, conditions },
    };
    Read { value: Some(value), problems }
}

/// What is wrong with an object, field by field.
pub(super) struct Problems {
    object: String,
    pub(super) list: Vec<String>,
}

impl Problems {
    pub(super) fn new(object: String) -> Self {
        Self { object, list: Vec::new() }
    }

    /// The value, unless there is something wrong with it.
    pub(super) fn keep<T>(&mut self, field: &str, checked: Result<T, String>) -> Option<T> {
        let note = |reason| self.list.push(format!("{}: spec.{field}: {reason}", self.object));
        checked.map_err(note).ok()
    }
}

pub(super) fn asn(number: u32) -> Result<Asn, String> {
    Asn::new(number).ok_or_else(|| "0: expected an AS number from 1 to 4294967295".to_owned())
}

pub(super) fn hold_time(seconds: u16) -> Result<HoldTime, String> {
    HoldTime::new(seconds).ok_or_else(|| format!("{seconds}: expected 0 (never) or 3 to 65535"))
}

pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    text.parse::<Prefix>().map_err(|error| error.to_string())
}

pub(super) fn communities(texts: &[String]) -> Result<Vec<AnyCommunity>, String> {
    texts
        .iter()
        .map(|text| text.parse().map_err(|error: <AnyCommunity as std::str::FromStr>::Err| error.to_string()))
        .collect()
}

pub(super) fn graceful_restart(options: &GracefulRestart) -> Result<GracefulRestartOptions, String> {
    let defaults = GracefulRestartOptions::default();
    let restart_time = options.restart_time_seconds.unwrap_or(defaults.restart_time);
    if !(1..=4095).contains(&restart_time) {
        return Err(format!("restartTimeSeconds is {restart_time}; it takes 1 to 4095"));
    }
    Ok(GracefulRestartOptions {
        enabled: options.enabled,
        restart_time,
        long_lived_time: options.long_lived_time_seconds.unwrap_or(defaults.long_lived_time),
    })
}

pub(super) fn bfd(options: Bfd) -> Result<BfdOptions, String> {
    let defaults = BfdOptions::default();
    let interval = options.interval_milliseconds.unwrap_or(defaults.min_tx);
    if !(10..=60000).contains(&interval) {
        return Err(format!("intervalMilliseconds is {interval}; it takes 10 to 60000"));
    }
    let multiplier = options.multiplier.unwrap_or(defaults.multiplier);
    if multiplier == 0 {
        return Err("multiplier is 0; it takes 1 to 255".to_owned());
    }
    Ok(BfdOptions { min_tx: interval, min_rx: interval, multiplier, multihop: options.multihop })
}

fn announcement(announcement: &Announcement) -> Result<AnnouncementFacts, String> {
    Ok(AnnouncementFacts {
        prefix: prefix(&announcement.cidr)?,
        communities: communities(&announcement.communities)?,
        local_preference: announcement.local_preference,
    })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_wrong_field_is_named_and_costs_no_other() {
        let text = "{metadata: {name: default}, spec: {asn: 64500, holdTimeSeconds: 2, serviceAddresses: \
                    {clusterIPs: [10.96.0.1/12, 'fd00:96::/112'], loadBalancerIPs: [192.0.2.0/24]}, \
                    announcements: [{cidr: 10.0.0.0/8, communities: [x]}]}}";
        let read = read(&serde_saphyr::from_str(text).unwrap());
        let facts = read.value.unwrap();
        assert_eq!(facts.asn.unwrap().number(), 64500);
        assert_eq!(facts.hold_time, None);
        assert_eq!(facts.services.cluster, ["fd00:96::/112".parse().unwrap()]);
        assert_eq!(facts.services.load_balancer, ["192.0.2.0/24".parse().unwrap()]);
        assert_eq!(facts.problems, read.problems);
        for field in [
            "spec.holdTimeSeconds: 2",
            "spec.serviceAddresses.clusterIPs[0]",
            "spec.announcements[0]: community `x`",
        ] {
            let named = format!("BGPConfiguration default: {field}");
            assert!(
                read.problems.iter().any(|problem| problem.starts_with(&named)),
                "{named}: {:?}",
                read.problems
            );
        }
        assert_eq!(read.problems.len(), 3);
    }

    #[test]
    fn only_the_one_named_default_counts() {
        let read = read(&serde_saphyr::from_str("{metadata: {name: other}, spec: {asn: 64500}}").unwrap());
        assert_eq!(read.value, None);
        assert!(read.problems[0].contains("BGPConfiguration other"), "{:?}", read.problems);
    }
}
