//! Probes rows and compares them with what they must be.

use super::case::{IpFamily, Verdict};
use super::pattern::Endpoint;
use super::report::Failure;
use super::table::Row;
use super::world::World;
use crate::lab::PROBE_LIMIT;
use crate::station::Reach;
use futures::StreamExt;
use futures::stream;
use std::net::SocketAddr;

/// Probes that are under way at once.
const AT_ONCE: usize = 1024;

impl World<'_> {
    /// Probes rows, all at once, and gives those that are not as they must be.
    pub(super) async fn check(&self, step: &str, rows: &[(Row, Verdict)]) -> anyhow::Result<Vec<Failure>> {
        let probes = rows.iter().filter(|(_, verdict)| *verdict != Verdict::Any).map(|(row, verdict)| {
            let located = self.locate(row);
            async move {
                let (station, own, to) = located?;
                let reach = station.probe(to, row.port.protocol, PROBE_LIMIT).await;
                let seen = match (&reach, verdict) {
                    (Reach::Open { client }, Verdict::Allow) if !own.contains(client) => {
                        format!("open, but the server saw {client}")
                    }
                    (Reach::Open { .. }, Verdict::Deny) => "open".into(),
                    (Reach::Closed { reason }, Verdict::Allow) => format!("closed: {reason}"),
                    _ => return Ok(None),
                };
                anyhow::Ok(Some(failure(step, row, *verdict, seen)))
            }
        });
        let probes: Vec<_> = probes.collect();
        let outcomes: Vec<anyhow::Result<Option<Failure>>> =
            stream::iter(probes).buffered(AT_ONCE).collect().await;
        outcomes.into_iter().filter_map(Result::transpose).collect()
    }

    fn locate(
        &self,
        row: &Row,
    ) -> anyhow::Result<(std::sync::Arc<crate::station::Station>, Vec<std::net::IpAddr>, SocketAddr)> {
        let (station, own) = self.lab.locate(&Self::party(&row.from)?)?;
        let others = match &row.to {
            Endpoint::Service(key) => self.addresses.services.get(key).cloned().unwrap_or_default(),
            to => self.lab.locate(&Self::party(to)?)?.1,
        };
        let is_ipv4 = row.family == IpFamily::Ipv4;
        let address = others.iter().find(|address| address.is_ipv4() == is_ipv4);
        let address = address.ok_or_else(|| anyhow::anyhow!("{} has no {:?} address", row.to, row.family))?;
        Ok((station, own, SocketAddr::new(*address, row.port.number)))
    }
}

/// A row that is not as it must be.
pub(super) fn failure(step: &str, row: &Row, verdict: Verdict, seen: String) -> Failure {
    let family = if row.family == IpFamily::Ipv6 { " over IPv6" } else { "" };
    Failure {
        step: step.to_owned(),
        from: row.from.to_string(),
        to: row.to.to_string(),
        port: format!("{}{family}", row.port),
        expected: if verdict == Verdict::Allow { "allow" } else { "deny" }.into(),
        seen,
    }
}
