//! Changes that others make to the kernel's objects of ours.

use std::{collections::BTreeMap, net::IpAddr, os::fd::AsRawFd, sync::Arc};

use margay_api::endpoint::{EndpointId, HOST_IFNAME_PREFIX};
use margay_netlink::{
    Error, Event as KernelEvent, Group, Monitor, Socket,
    link::{self, IfIndex, Link},
    nftables::{TableMonitor, Touched},
    route::Protocol,
};
use tokio::{io::unix::AsyncFd, sync::mpsc};
use tracing::{info, warn};

use crate::{
    core::Event,
    metrics::{Metrics, News},
    program::{nft, takedown::Pending},
};

/// Something that may be ours is gone, or down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The link of an endpoint.
    Link(EndpointId),
    /// A route to an address, or its permanent neighbour.
    Address(IpAddr),
    /// Nobody knows what.
    Unknown,
}

/// Tells the core whenever something that may be ours is taken away: it knows whether that was to be. It is told too that
/// an interface has another MTU.
///
/// What `pending` waits for is no loss.
pub(crate) async fn run(
    events: mpsc::Sender<Event>,
    pending: Pending,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let monitor = Monitor::open(&[Group::Links, Group::Routes, Group::Neighbours])?;
    let mut monitor = watched(monitor)?;
    let mut mtus = Mtus::read()?;
    let mut seen = Vec::new();
    loop {
        let mut ready = monitor.readable_mut().await?;
        match ready.try_io(|monitor| monitor.get_mut().read(&mut seen)) {
            Ok(read) => read?,
            // Nothing to read after all.
            Err(_would_block) => continue,
        }
        let mut is_other = false;
        for event in &seen {
            if *event == KernelEvent::Lost {
                overrun(&metrics, &News::ROUTES);
            }
            is_other |= mtus.note(event);
        }
        if is_other && events.send(Event::Mtu).await.is_err() {
            return Ok(());
        }
        let losses: Vec<Loss> = seen.drain(..).filter_map(|event| loss(&event, &pending)).collect();
        if !losses.is_empty() && events.send(Event::Drift(losses)).await.is_err() {
            return Ok(());
        }
    }
}

/// Tells the core who changes our table: it knows which of them are its own, and undoes what others did.
pub(crate) async fn run_table(events: mpsc::Sender<Event>, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let mut monitor = watched(TableMonitor::open(nft::TABLE)?)?;
    loop {
        let mut ready = monitor.readable_mut().await?;
        let touched = match ready.try_io(|monitor| monitor.get_mut().read()) {
            Ok(read) => read?,
            Err(_would_block) => continue,
        };
        let event = match touched {
            Touched::By(ports) if ports.is_empty() => continue,
            Touched::By(ports) => Event::TableTouched(ports),
            Touched::Lost => {
                overrun(&metrics, &News::TABLE);
                Event::TableMissed
            }
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}

fn overrun(metrics: &Metrics, news: &News) {
    info!(of = news.of, "the kernel told of changes faster than they were read: all is looked at anew");
    metrics.overruns.get_or_create(news).inc();
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may close or exchange its descriptor; a monitor owns the one it has"
)]
pub(crate) fn watched<M: AsRawFd>(monitor: M) -> std::io::Result<AsyncFd<M>> {
    AsyncFd::new(monitor)
}

/// Waits for changes in the kernel; whether one of them is of those that matter.
pub(crate) async fn heard(
    monitor: &mut AsyncFd<Monitor>,
    matters: impl Fn(&KernelEvent) -> bool,
) -> std::io::Result<bool> {
    let mut seen = Vec::new();
    let mut ready = monitor.readable_mut().await?;
    match ready.try_io(|monitor| monitor.get_mut().read(&mut seen)) {
        Ok(read) => read?,
        Err(_would_block) => return Ok(false),
    }
    Ok(seen.iter().any(matters))
}

/// The MTU of each interface that is no pod's.
#[derive(Debug)]
struct Mtus(BTreeMap<IfIndex, u32>);

impl Mtus {
    fn read() -> Result<Self, Error> {
        let links = link::list(&mut Socket::open()?)?;
        let links = links.iter().filter(|link| !link.name.starts_with(HOST_IFNAME_PREFIX));
        Ok(Self(links.map(|link| (link.index, link.mtu)).collect()))
    }

    /// Whether an interface that was there has another from now on, or may have.
    fn note(&mut self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::LinkChanged(link) if !link.name.starts_with(HOST_IFNAME_PREFIX) => {
                self.0.insert(link.index, link.mtu).is_some_and(|before| before != link.mtu)
            }
            KernelEvent::LinkGone(link) => {
                self.0.remove(&link.index);
                false
            }
            KernelEvent::Lost => {
                // What cannot be read amid a storm of changes is seen by the next change, and by the next look at all that is there.
                match Self::read() {
                    Ok(now) => *self = now,
                    Err(error) => warn!("the MTUs of interfaces cannot be read: {error}"),
                }
                true
            }
            _ => false,
        }
    }
}

fn loss(event: &KernelEvent, pending: &Pending) -> Option<Loss> {
    let endpoint = |link: &Link| link.name.strip_prefix(HOST_IFNAME_PREFIX)?.parse().ok();
    match event {
        KernelEvent::RouteGone(route) if route.protocol == Protocol::MARGAY => {
            Some(Loss::Address(route.destination.ip()))
        }
        KernelEvent::LinkGone(link) => {
            let id = endpoint(link)?;
            (!pending.link_gone(&id)).then_some(Loss::Link(id))
        }
        KernelEvent::LinkChanged(link) if !link.up => Some(Loss::Link(endpoint(link)?)),
        KernelEvent::NeighbourGone(neighbour) if neighbour.permanent => {
            Some(Loss::Address(neighbour.address))
        }
        KernelEvent::Lost => Some(Loss::Unknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use margay_netlink::{
        Event as KernelEvent,
        link::{Carrier, IfIndex, Link},
    };

    use super::Mtus;

    fn link(name: &str, index: u32, mtu: u32) -> Link {
        Link {
            index: IfIndex::new(index).unwrap(),
            name: name.to_owned(),
            address: None,
            mtu,
            up: true,
            carrier: Carrier::Sends,
            loopback: false,
            kind: String::new(),
            controller: None,
            vxlan: None,
            ipip: None,
        }
    }

    #[test]
    fn an_interface_that_gets_another_mtu_is_told_of_and_no_pods_and_no_new_one() {
        let mut mtus = Mtus(BTreeMap::new());
        let changed = |name: &str, index, mtu| KernelEvent::LinkChanged(link(name, index, mtu));
        assert!(!mtus.note(&changed("eth0", 2, 1500)), "it is new");
        assert!(!mtus.note(&changed("eth0", 2, 1500)), "something else of it has changed");
        assert!(mtus.note(&changed("eth0", 2, 1400)));
        assert!(!mtus.note(&changed("mgy0123456789ab", 3, 1500)));
        assert!(!mtus.note(&changed("mgy0123456789ab", 3, 1400)));
        assert!(!mtus.note(&KernelEvent::LinkGone(link("eth0", 2, 1400))));
        assert!(!mtus.note(&changed("eth1", 2, 1500)), "another has its number");
    }
}
