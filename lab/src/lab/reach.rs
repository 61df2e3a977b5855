//! Probes between those who take part.

use super::Lab;
use crate::matrix::{Cell, Matrix};
use crate::node::Node;
use crate::party::Party;
use crate::pods::{PodKey, Pods};
use crate::station::{Kept, Port, Reach, Station, Stream};
use anyhow::Context;
use futures::future::join_all;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a probe waits for an answer: longer than any answer takes, and all that a refusal by silence costs.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(1);

impl Lab {
    /// Where someone is, with the addresses that are known now.
    pub(crate) fn locate(&self, party: &Party) -> anyhow::Result<(Arc<Station>, Vec<IpAddr>)> {
        match party {
            Party::Pod(key) => {
                let running = self.pods.find(key).with_context(|| format!("pod {key} is not running"))?;
                let addresses = self.pod_addresses(key);
                anyhow::ensure!(!addresses.is_empty(), "pod {key} has no address yet");
                Ok((running.station, addresses))
            }
            Party::Node(name) => {
                let node = self.node_named(name)?;
                let mut addresses = node.addresses();
                // What it sends through a tunnel comes from the tunnel's address.
                let more = node.station().addresses()?;
                addresses.extend(more.into_iter().filter(|address| !node.addresses().contains(address)));
                Ok((Arc::clone(node.station()), addresses))
            }
            Party::External(name) => {
                let external =
                    self.externals.get(name).with_context(|| format!("there is no external host {name}"))?;
                Ok((Arc::clone(external.station()), external.addresses().to_vec()))
            }
        }
    }

    /// The pods as the kubelets know them, from their first moment on.
    pub(crate) fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Probes a port of `to` from `from`, over IPv4 where both have it.
    ///
    /// # Errors
    /// When one of them is not there.
    pub async fn reach(&self, from: &Party, to: &Party, port: Port) -> anyhow::Result<Cell> {
        let (station, own, address) = self.way(from, to)?;
        let reach = station.probe(SocketAddr::new(address, port.number), port.protocol, PROBE_LIMIT).await;
        Ok(Cell { reach, own })
    }

    /// Probes a port between all pairs at once.
    ///
    /// # Errors
    /// When one of them is not there.
    pub async fn matrix(&self, parties: &[Party], port: Port) -> anyhow::Result<Matrix> {
        self.matrix_of(parties, port, |_| true).await
    }

    /// Probes a port from all to those who serve it, at once.
    ///
    /// # Errors
    /// When one of them is not there.
    pub async fn matrix_of(
        &self,
        parties: &[Party],
        port: Port,
        serves: impl Fn(&Party) -> bool,
    ) -> anyhow::Result<Matrix> {
        let serves = &serves;
        let rows = parties.iter().map(|from| async move {
            let row = parties.iter().map(|to| async move {
                if from == to || !serves(to) { Ok(None) } else { self.reach(from, to, port).await.map(Some) }
            });
            join_all(row).await.into_iter().collect::<anyhow::Result<Vec<Option<Cell>>>>()
        });
        let cells = join_all(rows).await.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(Matrix { port, parties: parties.to_vec(), cells })
    }

    /// Probes an address, whosever it is.
    ///
    /// # Errors
    /// When `from` is not there.
    pub async fn reach_address(&self, from: &Party, to: IpAddr, port: Port) -> anyhow::Result<Reach> {
        let (station, _) = self.locate(from)?;
        Ok(station.probe(SocketAddr::new(to, port.number), port.protocol, PROBE_LIMIT).await)
    }

    /// The node of a pod, and the path there of the pod's network namespace; `None` for the node's own.
    ///
    /// # Errors
    /// When the pod does not run.
    pub fn pod_netns(&self, pod: &PodKey) -> anyhow::Result<(&Node, Option<PathBuf>)> {
        let running = self.pods.find(pod).with_context(|| format!("pod {pod} is not running"))?;
        Ok((self.node_named(&running.node)?, running.netns))
    }

    /// Opens a connection that is kept; `None` when it does not open.
    ///
    /// # Errors
    /// When one of them is not there.
    pub async fn keep(&self, from: &Party, to: &Party, port: Port) -> anyhow::Result<Option<Kept>> {
        let (station, _, address) = self.way(from, to)?;
        Ok(station.keep(SocketAddr::new(address, port.number), port.protocol, PROBE_LIMIT).await)
    }

    /// Sends numbered datagrams, one after each of these pauses, until the stream is finished.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn stream(&self, from: &Party, to: &Party, every: Duration) -> anyhow::Result<Stream> {
        let (_, _, address) = self.way(from, to)?;
        self.stream_to(from, to, address, every)
    }

    /// Likewise, to one of the addresses of `to`.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn stream_to(
        &self,
        from: &Party,
        to: &Party,
        address: IpAddr,
        every: Duration,
    ) -> anyhow::Result<Stream> {
        let [(sender, _), (receiver, _)] = [self.locate(from)?, self.locate(to)?];
        Stream::start(&sender, &receiver, address, every)
    }

    /// Where `from` is, with its addresses, and the address at which it asks `to`: IPv4 where both have it.
    fn way(&self, from: &Party, to: &Party) -> anyhow::Result<(Arc<Station>, Vec<IpAddr>, IpAddr)> {
        let (station, own) = self.locate(from)?;
        let (_, others) = self.locate(to)?;
        let common = |address: &&IpAddr| own.iter().any(|mine| mine.is_ipv4() == address.is_ipv4());
        let address = others
            .iter()
            .find(common)
            .copied()
            .with_context(|| format!("{from} and {to} have no address family in common"))?;
        Ok((station, own, address))
    }
}
