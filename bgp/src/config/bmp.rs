//! Collectors that are told of sessions and routes by BMP (RFC 7854).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::bmp::View;
use crate::identifier::BgpIdentifier;
use crate::rib::Views;

/// Who is told by BMP, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BmpConfig {
    /// The speaker's name, up to 255 octets. Default: that of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_name: Option<String>,
    /// What the speaker is, up to 255 octets. Default: `margay-bgp` and its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_descr: Option<String>,
    /// Whom the speaker dials.
    pub collectors: Vec<Collector>,
}

/// One that collects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collector {
    /// Its address and port. There is no port that all have.
    pub address: SocketAddr,
    /// Our address on the session. Default: what the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
    /// Which routes it is told of. Default `pre-policy`.
    #[serde(default = "default_routes")]
    pub routes: Vec<View>,
    /// Seconds from one report of statistics to the next: 0 (never) or 5 to 86400. Default 300.
    #[serde(default = "default_statistics_interval")]
    pub statistics_interval: u32,
    /// Seconds after a failure until it is dialled again, doubled each time in a row up to 720, 1 to 720. Default 30.
    #[serde(default = "default_connect_retry")]
    pub connect_retry: u16,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// The longest time between two dials (RFC 7854 section 3.2).
pub(crate) const LONGEST_RETRY: u16 = 720;
/// Octets in the longest text (RFC 1213, `DisplayString`).
const LONGEST_TEXT: usize = 255;

fn default_routes() -> Vec<View> {
    vec![View::PrePolicy]
}

fn default_statistics_interval() -> u32 {
    300
}

fn default_connect_retry() -> u16 {
    30
}

/// A collector with nothing left to look up elsewhere; two of them are equal if the session need not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckedCollector {
    pub(crate) address: SocketAddr,
    pub(crate) local_address: Option<IpAddr>,
    pub(crate) views: Views,
    pub(crate) statistics_interval: Option<Duration>,
    pub(crate) connect_retry: Duration,
    pub(crate) sys_name: Option<String>,
    pub(crate) sys_descr: Option<String>,
    /// Who the Loc-RIB is of.
    pub(crate) speaker: (Asn, BgpIdentifier),
}

impl Collector {
    /// With defaults everywhere else.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            local_address: None,
            routes: default_routes(),
            statistics_interval: default_statistics_interval(),
            connect_retry: default_connect_retry(),
            description: None,
        }
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let address = self.address;
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            return Err(("address", format!("{} is no address of a host", address.ip())));
        }
        if address.port() == 0 {
            return Err(("address", format!("{address}: expected a port from 1 to 65535")));
        }
        if let Some(local) = self.local_address
            && local.is_ipv4() != address.is_ipv4()
        {
            return Err(("local_address", format!("{local} is of another family than {address}")));
        }
        if self.routes.is_empty() {
            let reason = "is empty: expected pre-policy, post-policy, loc-rib, or some of them";
            return Err(("routes", reason.to_owned()));
        }
        if !matches!(self.statistics_interval, 0 | 5..=86400) {
            let reason = format!("{} s: expected 0 (never) or 5 to 86400", self.statistics_interval);
            return Err(("statistics_interval", reason));
        }
        if !(1..=LONGEST_RETRY).contains(&self.connect_retry) {
            let reason = format!("{} s: expected 1 to {LONGEST_RETRY}", self.connect_retry);
            return Err(("connect_retry", reason));
        }
        Ok(())
    }
}

impl BmpConfig {
    /// All collectors by address.
    ///
    /// # Errors
    /// The first thing that is wrong, with its path within `bmp`.
    pub(super) fn check(
        &self,
        speaker: (Asn, BgpIdentifier),
    ) -> Result<BTreeMap<SocketAddr, CheckedCollector>, (String, String)> {
        for (field, text) in [("sys_name", &self.sys_name), ("sys_descr", &self.sys_descr)] {
            if let Some(text) = text
                && !(1..=LONGEST_TEXT).contains(&text.len())
            {
                let reason = format!("{} octets: expected 1 to {LONGEST_TEXT}", text.len());
                return Err((field.to_owned(), reason));
            }
        }
        let mut collectors = BTreeMap::new();
        for (index, collector) in self.collectors.iter().enumerate() {
            let path = |field: &str| format!("collectors[{index}].{field}");
            collector.check().map_err(|(field, reason)| (path(field), reason))?;
            let interval = u64::from(collector.statistics_interval);
            let checked = CheckedCollector {
                address: collector.address,
                local_address: collector.local_address,
                views: collector.routes.iter().copied().collect(),
                statistics_interval: (interval > 0).then(|| Duration::from_secs(interval)),
                connect_retry: Duration::from_secs(collector.connect_retry.into()),
                sys_name: self.sys_name.clone(),
                sys_descr: self.sys_descr.clone(),
                speaker,
            };
            if collectors.insert(collector.address, checked).is_some() {
                return Err((path("address"), format!("{} is there twice", collector.address)));
            }
        }
        Ok(collectors)
    }
}
