//! Changes that others make to the kernel's objects of ours.

use std::os::fd::AsRawFd;

use margay_api::endpoint::HOST_IFNAME_PREFIX;
use margay_netlink::{
    Event as KernelEvent, Group, Monitor,
    nftables::{TableMonitor, Touched},
    route::Protocol,
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use crate::{core::Event, program::nft};

/// Tells the core whenever something of ours is taken away: it looks what, and puts it back.
pub(crate) async fn run(events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let monitor = Monitor::open(&[Group::Links, Group::Routes, Group::Neighbours])?;
    let mut monitor = watched(monitor)?;
    let mut seen = Vec::new();
    loop {
        let mut ready = monitor.readable_mut().await?;
        match ready.try_io(|monitor| monitor.get_mut().read(&mut seen)) {
            Ok(read) => read?,
            // Nothing to read after all.
            Err(_would_block) => continue,
        }
        let concerns_us = seen.drain(..).fold(false, |before, event| before | is_loss_of_ours(&event));
        // When the core is behind, one notice in its queue is as good as two.
        if concerns_us && matches!(events.try_send(Event::Drift), Err(mpsc::error::TrySendError::Closed(_))) {
            return Ok(());
        }
    }
}

/// Tells the core who changes our table: it knows which of them are its own, and undoes what others did.
pub(crate) async fn run_table(events: mpsc::Sender<Event>) -> anyhow::Result<()> {
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
            Touched::Lost => Event::Drift,
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may close or exchange its descriptor; a monitor owns the one it has"
)]
fn watched<M: AsRawFd>(monitor: M) -> std::io::Result<AsyncFd<M>> {
    AsyncFd::new(monitor)
}

fn is_loss_of_ours(event: &KernelEvent) -> bool {
    match event {
        KernelEvent::RouteGone(route) => route.protocol == Protocol::MARGAY,
        KernelEvent::LinkGone(link) => link.name.starts_with(HOST_IFNAME_PREFIX),
        KernelEvent::LinkChanged(link) => link.name.starts_with(HOST_IFNAME_PREFIX) && !link.up,
        KernelEvent::NeighbourGone(neighbour) => neighbour.permanent,
        KernelEvent::Lost => true,
        _ => false,
    }
}
