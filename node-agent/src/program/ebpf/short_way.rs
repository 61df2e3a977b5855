//! The short way as the core has it, also where there is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use margay_ebpf_common::{counter::Counter, denial::Denial};
use margay_policy::compile::{Changes, Compiler};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, spawn_blocking},
};
use tracing::{info, warn};

use super::{
    contents,
    driver::{Driver, Loaded, retire},
    links::{self, Attachments},
    occupancy,
    sizes::Sizes,
    tunnels::TunnelMap,
};
use crate::{
    config::{Dataplane, Settings},
    core::Event,
    decide::Wanted,
    metrics::{DataplaneLabels, MapLabels, Metrics, WayLabels},
    news::tell,
    notice::{Notices, Reason},
    observe::{self, Denials, Subscription},
    program::{network_condition::Detour, nft::Cause},
};

/// The eBPF dataplane, or none.
pub(crate) struct ShortWay {
    open: Option<Open>,
    /// Why there is none, where one is wanted.
    refused: Option<String>,
    /// Who tells the operator.
    notices: Notices,
    /// Who says it in a condition of the Node.
    detour: watch::Sender<Option<Detour>>,
    /// What was counted when it was last looked.
    counted: [u64; Counter::ALL.len()],
}

struct Open {
    driver: Driver,
    /// The host ends that are to be attached.
    links: watch::Sender<Option<BTreeSet<String>>>,
    /// Who wants the flows counted.
    counts: mpsc::Sender<oneshot::Sender<()>>,
    /// For the task that makes the tunnels, until it takes it.
    tunnels: Option<TunnelMap>,
}

/// Scrapes that may wait for the flows to be counted; more of them do not.
const SCRAPES: usize = 16;

impl ShortWay {
    /// Loads the programs and starts to attach them, if that is wanted and the kernel can. Where it is not, what an agent
    /// before has left is taken away.
    pub(crate) async fn start(
        settings: &Settings,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        events: &mpsc::Sender<Event>,
        listeners: mpsc::Receiver<Subscription>,
        denials: Denials,
        notices: &Notices,
        detour: watch::Sender<Option<Detour>>,
    ) -> anyhow::Result<Self> {
        let metrics = notices.metrics();
        let (bpf_fs, run_dir) = (settings.bpf_dir.clone(), settings.run_dir.clone());
        let (loaded, refused) = match settings.dataplane {
            Dataplane::Nftables => {
                spawn_blocking(move || remove(&bpf_fs, &run_dir)).await?;
                (None, None)
            }
            Dataplane::Auto | Dataplane::Ebpf => {
                let (sizes, chained_plugins) = (settings.map_sizes.clone(), settings.chained_plugins.clone());
                match spawn_blocking(move || load(&bpf_fs, &run_dir, &sizes, &chained_plugins)).await? {
                    Ok(loaded) => (Some(loaded), None),
                    Err(error) => (None, Some(format!("{error:#}"))),
                }
            }
        };
        let open = loaded.map(|Loaded { driver, programs, tables, ring, tunnels }| {
            let (links, wanted) = watch::channel(None);
            tasks.spawn(links::run(programs, wanted, events.clone()));
            tasks.spawn(observe::run_flows(ring, listeners, denials, events.clone()));
            let (counts, asked) = mpsc::channel(SCRAPES);
            tasks.spawn(occupancy::run(tables, asked, metrics.map_entries.clone()));
            for (map, entries) in settings.map_sizes.of_fields() {
                metrics.map_capacity.get_or_create(&MapLabels { map }).set(entries.into());
            }
            Open { driver, links, counts, tunnels: Some(tunnels) }
        });
        match (&open, &refused) {
            // Nobody knows before the maps are written.
            (Some(_), _) => {}
            (None, None) => tell(&detour, Some(Detour::Unwanted)),
            (None, Some(why)) => tell(&detour, Some(Detour::Refused(why.clone()))),
        }
        let counted = [0; Counter::ALL.len()];
        let short_way = Self { open, refused, notices: notices.clone(), detour, counted };
        let labels = DataplaneLabels { dataplane: short_way.dataplane() };
        metrics.dataplane.get_or_create(&labels).set(1);
        Ok(short_way)
    }

    /// Why there is none, where one is wanted.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// What carries and judges packets, in a word.
    pub(crate) fn dataplane(&self) -> &'static str {
        if self.open.is_some() { "ebpf" } else { "nftables" }
    }

    /// The map by which the programs put packets into tunnels themselves, for who makes the tunnels: once. There is none without a
    /// short way.
    pub(crate) fn take_tunnels(&mut self) -> Option<TunnelMap> {
        self.open.as_mut()?.tunnels.take()
    }

    /// Takes note of which interfaces are attached.
    pub(crate) fn attached(&mut self, attachments: Attachments) {
        if let Some(Open { driver, .. }) = &mut self.open {
            driver.attached(attachments);
        }
    }

    /// Takes note of what is wanted now. No flow is judged from then on, until [`Self::write`] or [`Self::resume`].
    pub(crate) fn prepare(&mut self, wanted: &Wanted, compiler: &Compiler, changes: &Changes) {
        let Some(Open { driver, links, .. }) = &mut self.open else { return };
        links.send_if_modified(|told| {
            let wanted = wanted.endpoints.values().map(|admitted| &admitted.endpoint.host_ifname);
            // They come in another order than names have.
            let is_same = told.as_ref().is_some_and(|told| {
                wanted.clone().count() == told.len() && wanted.clone().all(|name| told.contains(name))
            });
            if !is_same {
                *told = Some(wanted.cloned().collect());
            }
            !is_same
        });
        driver.note(wanted, compiler, changes);
        driver.pause();
    }

    /// Has flows judged as before: what is wanted could not be written elsewhere.
    pub(crate) fn resume(&mut self) {
        if let Some(Open { driver, .. }) = &mut self.open {
            driver.resume();
        }
    }

    /// Has flows judged as is wanted now. Gives back the ends of flows that have become the stack's, which takes them for allowed:
    /// policy is to be asked about them.
    pub(crate) fn write(&mut self) -> BTreeSet<IpAddr> {
        let Some(Open { driver, .. }) = &mut self.open else { return BTreeSet::new() };
        let was_closed = driver.closed().is_some();
        let ends = driver.write();
        // Once for each time: what changes while it is closed changes the numbers, and the log has those.
        match (was_closed, driver.closed()) {
            (false, Some(why)) => {
                let note = format!("all goes through the stack, under the same policy: {why}");
                self.notices.of_node(Reason::SHORT_WAY_CLOSED, note);
            }
            (true, None) => {
                self.notices.of_node(Reason::SHORT_WAY_OPEN, "what policy allows goes round the stack again");
            }
            _ => {}
        }
        match driver.closed() {
            Some(why) => tell(&self.detour, Some(Detour::Closed(why.to_owned()))),
            None if driver.is_open() => tell(&self.detour, Some(Detour::Open)),
            // It waits for its interfaces.
            None => {}
        }
        ends
    }

    /// Has the programs tell of what these flags of `CONTROL` say; an error in words for an operator.
    pub(crate) fn tell(&mut self, flags: u32) -> Result<(), String> {
        let Some(Open { driver, .. }) = &mut self.open else { return Ok(()) };
        driver.tell(flags).map_err(|error| format!("{error:#}"))
    }

    /// The packets that the programs have dropped, by why: as a counter of nftables is called that counts the like.
    ///
    /// `None` when the kernel does not tell.
    pub(crate) fn denials(&self) -> Option<BTreeMap<String, u64>> {
        let Some(Open { driver, .. }) = &self.open else { return Some(BTreeMap::new()) };
        match driver.denials() {
            Ok(denials) => {
                let named = denials.into_iter().filter_map(|(denial, count)| Some((name(denial)?, count)));
                Some(named.collect())
            }
            Err(error) => {
                warn!("the counters of packets that the programs drop cannot be read: {error:#}");
                None
            }
        }
    }

    /// Forgets those of which this is not true.
    pub(crate) fn keep_denials(&mut self, is_kept: impl Fn(&str) -> bool) {
        let Some(Open { driver, .. }) = &mut self.open else { return };
        let forget = |driver: &mut Driver| {
            for denial in driver.denials()?.into_keys() {
                if !name(denial).is_some_and(|name| is_kept(&name)) {
                    driver.forget_denials(denial)?;
                }
            }
            anyhow::Ok(())
        };
        if let Err(error) = forget(driver) {
            warn!("counters of packets that the programs drop cannot be taken away: {error:#}");
        }
    }

    /// Whether it is closed, and to be tried again.
    pub(crate) fn is_closed(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.driver.closed().is_some())
    }

    /// Brings the metrics up to date, and answers when they are; the flows are counted by somebody else.
    pub(crate) fn count(&mut self, metrics: &Metrics, answer: oneshot::Sender<()>) {
        let Some(Open { driver, counts, .. }) = &self.open else {
            // A scrape that has been given up hears nothing.
            let _given_up = answer.send(());
            return;
        };
        for (map, entries) in driver.entries() {
            let entries = i64::try_from(entries).unwrap_or(i64::MAX);
            metrics.map_entries.get_or_create(&MapLabels { map }).set(entries);
        }
        metrics.short_way_open.set(i64::from(driver.is_open()));
        match driver.counters() {
            Ok(counters) => {
                for (counter, (now, before)) in Counter::ALL.iter().zip(counters.iter().zip(self.counted)) {
                    let labels = WayLabels { way: word(*counter) };
                    metrics.ways.get_or_create(&labels).inc_by(now.saturating_sub(before));
                }
                self.counted = counters;
            }
            Err(error) => warn!("the counters of the short way cannot be read: {error:#}"),
        }
        // Who finds no place there is told at once, and has the flows as they were counted before.
        drop(counts.try_send(answer));
    }
}

fn name(denial: Denial) -> Option<String> {
    contents::origin(denial)?.name(Cause::Drop)
}

/// What became of a packet, in a word.
fn word(counter: Counter) -> &'static str {
    match counter {
        Counter::ToPod => "to_pod",
        Counter::ToNode => "to_node",
        Counter::ToTunnel => "to_tunnel",
        Counter::Stacked => "stack_flow",
        Counter::NoFlow => "stack_no_flow",
        Counter::NotAllowed => "stack_not_allowed",
        Counter::Denied => "denied",
        Counter::BeingWritten => "stack_being_written",
        Counter::Unroutable => "stack_unroutable",
        Counter::Unparsed => "stack_unparsed",
        Counter::Lost => "lost",
    }
}

fn load(bpf_fs: &Path, run_dir: &Path, sizes: &Sizes, chained_plugins: &[Value]) -> anyhow::Result<Loaded> {
    let loaded = Driver::load(bpf_fs, sizes, chained_plugins);
    match &loaded {
        Ok(_) => info!("dataplane ebpf: flows between pods that policy allows go round the stack"),
        Err(error) => {
            warn!("dataplane nftables, as eBPF does not go here: {error:#}");
            // Programs that nobody tells what has changed would go on with what they know.
            remove(bpf_fs, run_dir);
        }
    }
    loaded
}

fn remove(bpf_fs: &Path, run_dir: &Path) {
    match retire(bpf_fs, run_dir) {
        Ok(true) => info!("the programs of the eBPF dataplane are taken away"),
        Ok(false) => {}
        Err(error) => warn!("the programs of the eBPF dataplane cannot be taken away: {error:#}"),
    }
}
