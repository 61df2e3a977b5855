//! Attaches the programs to interfaces as those come.
//!
//! ```text
//!  core ─ host ends of pods' links that may talk ─> this task <─ interfaces and queueing disciplines that change ─ kernel
//!  core <─ which of them are attached, and how ────────┘
//! ```
//!
//! Attaching takes the kernel some milliseconds, in which it keeps its lock on all interfaces: so it is done beside the core, and
//! no pod waits for it. Until then, its packets go through the stack.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::Context;
use aya::Ebpf;
use margay_api::endpoint::HOST_IFNAME_PREFIX;
use margay_ebpf_common::endpoint::{BARE, FRAMES};
use margay_netlink::{
    Group, Monitor, Socket,
    link::{self, Link},
    qdisc::{self, Qdisc},
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use super::{
    hook::Hook,
    means::{Means, Place},
    object::{Pins, program},
};
use crate::{core::Event, decide::Carrier, program::overlay::name_of, watch::drift};

/// How often is looked whether all are still attached.
const LOOK: Duration = Duration::from_secs(10);
/// Shortest time from one look to the next: pods that come together share one.
const PACE: Duration = Duration::from_millis(100);

/// Which interfaces have programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attachments {
    /// The host ends of pods' links, by name.
    pub(crate) pods: BTreeMap<String, Attached>,
    /// The others, by index, with what `UPLINKS` says of them.
    pub(crate) uplinks: BTreeMap<u32, u32>,
    /// Whether all that are there are among them.
    pub(crate) is_complete: bool,
}

/// A pod's link that has programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) index: u32,
    /// Whether packets to the pod may go round its host end: nobody holds them back there, or looks at them.
    pub(crate) goes_round: bool,
}

/// The programs, and where they are attached.
pub(crate) struct Programs {
    ebpf: Ebpf,
    pins: Pins,
    /// The hooks that have the programs of this agent, as they were when it was last looked.
    attached: BTreeMap<(u32, Hook), Place>,
    /// What was told last of those that the kernel refuses.
    refused: BTreeMap<(u32, Hook), String>,
    means: Means,
    /// Whether the next look is to see for itself that they are there.
    is_distrusted: bool,
}

impl Programs {
    pub(super) fn new(ebpf: Ebpf, pins: Pins, means: Means) -> Self {
        Self { ebpf, pins, attached: BTreeMap::new(), refused: BTreeMap::new(), means, is_distrusted: false }
    }

    /// The program of a hook.
    #[cfg(test)]
    pub(super) fn of(&mut self, hook: Hook) -> &mut aya::programs::SchedClassifier {
        program(&mut self.ebpf, hook).unwrap()
    }
}

/// Attaches for ever.
pub(crate) async fn run(
    mut programs: Programs,
    mut wanted: watch::Receiver<Option<BTreeSet<String>>>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let mut monitor = drift::watched(Monitor::open(&[Group::Links, Group::Qdiscs])?)?;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    let mut seen = Vec::new();
    loop {
        pace.tick().await;
        // The links that are wanted first are all attached before anything is told.
        let Ok(names) = wanted.wait_for(Option::is_some).await.map(|names| names.clone().unwrap_or_default())
        else {
            return Ok(());
        };
        let work = spawn_blocking(move || {
            let attachments = programs.attach(&names);
            (programs, attachments)
        });
        let (back, attachments) = work.await.context("attach programs")?;
        programs = back;
        match attachments {
            Ok(attachments) if told.as_ref() != Some(&attachments) => {
                told = Some(attachments.clone());
                if events.send(Event::Attached(attachments)).await.is_err() {
                    return Ok(());
                }
            }
            Ok(_) => {}
            Err(error) => warn!("the interfaces cannot be looked at: {error:#}; trying again"),
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            ready = monitor.readable_mut() => {
                let mut ready = ready?;
                // Whatever it was, the next look sees it.
                while let Ok(read) = ready.try_io(|monitor| monitor.get_mut().read(&mut seen)) {
                    read?;
                    seen.clear();
                }
            }
            _ = look.tick() => programs.is_distrusted = true,
        }
    }
}

impl Programs {
    /// Has the programs at the pods' links of these names and at all other interfaces that other nodes may be behind.
    fn attach(&mut self, names: &BTreeSet<String>) -> anyhow::Result<Attachments> {
        let mut socket = Socket::open()?;
        let links = link::list(&mut socket)?;
        let mut qdiscs: BTreeMap<u32, Vec<Qdisc>> = BTreeMap::new();
        for qdisc in qdisc::list(&mut socket)? {
            qdiscs.entry(qdisc.link.number()).or_default().push(qdisc);
        }
        self.forget(&links);
        if std::mem::take(&mut self.is_distrusted) {
            self.verify(&links);
        }
        let mut attachments =
            Attachments { pods: BTreeMap::new(), uplinks: BTreeMap::new(), is_complete: true };
        for link in &links {
            let index = link.index.number();
            if link.name.starts_with(HOST_IFNAME_PREFIX) {
                let at = qdiscs.get(&index).map_or(&[][..], Vec::as_slice);
                if !names.contains(&link.name)
                    || !self.means.fit(at)
                    || !self.attach_all(link, Hook::OF_POD)
                    || !self.means.come_last(at)
                {
                    continue;
                }
                let goes_round = at.iter().all(|qdisc| self.means.let_round(qdisc))
                    && Hook::OF_POD
                        .iter()
                        .all(|hook| self.attached.get(&(index, *hook)) == Some(&Place::Alone));
                attachments.pods.insert(link.name.clone(), Attached { index, goes_round });
            } else if let Some((hooks, kind)) = as_uplink(link) {
                if self.attach_all(link, hooks) {
                    attachments.uplinks.insert(index, kind);
                } else if is_there(link) {
                    attachments.is_complete = false;
                }
            }
        }
        Ok(attachments)
    }

    /// Attaches what is not attached yet at an interface; false when the kernel refuses.
    fn attach_all(&mut self, link: &Link, hooks: [Hook; 2]) -> bool {
        for hook in hooks {
            if self.attached.contains_key(&(link.index.number(), hook)) {
                continue;
            }
            let attached = program(&mut self.ebpf, hook)
                .and_then(|program| self.means.attach(program, link, hook, &self.pins));
            match attached {
                Ok(place) => {
                    self.attached.insert((link.index.number(), hook), place);
                    self.refused.remove(&(link.index.number(), hook));
                }
                Err(error) => {
                    // A link that is gone meanwhile is no news, nor is what was told at the look before.
                    let why = format!("{error:#}");
                    let told = self.refused.insert((link.index.number(), hook), why.clone());
                    if is_there(link) && told.as_ref() != Some(&why) {
                        warn!(link = link.name, "attach {}: {why}; trying again", hook.program());
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Forgets interfaces that are gone, and their pins.
    fn forget(&mut self, links: &[Link]) {
        let present: BTreeSet<u32> = links.iter().map(|link| link.index.number()).collect();
        self.attached.retain(|(index, _), _| present.contains(index));
        self.refused.retain(|(index, _), _| present.contains(index));
        let Ok(entries) = fs::read_dir(self.pins.links()) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let index = name.split_once('-').and_then(|(index, _)| index.parse::<u32>().ok());
            if index.is_some_and(|index| present.contains(&index)) {
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                warn!("remove {}: {error}", path.display());
            }
        }
    }

    /// Forgets hooks from which somebody took the program, and looks who else is at the others.
    fn verify(&mut self, links: &[Link]) {
        for link in links {
            for hook in Hook::ALL {
                let at = (link.index.number(), hook);
                let Ok(program) = program(&mut self.ebpf, hook) else { continue };
                let Some(known) = self.attached.get_mut(&at) else { continue };
                *known = self.means.place(program, link.index, hook);
                if *known == Place::Off {
                    warn!(link = link.name, "somebody took {} off; it is attached anew", hook.program());
                    self.attached.remove(&at);
                }
            }
        }
    }
}

/// What is to be at an interface that other nodes may be behind, and what `UPLINKS` says of it: any with Ethernet headers that is no pod's,
/// and our own tunnel of IP-in-IP, of which the programs know how it sends. What a port of a bridge or bond receives, that receives, too.
fn as_uplink(link: &Link) -> Option<([Hook; 2], u32)> {
    if link.loopback || !link.up || link.controller.is_some() {
        return None;
    }
    if link.address.is_some() {
        return Some((Hook::OF_UPLINK, FRAMES));
    }
    let is_ours = link.ipip.is_some() && link.name == name_of(Carrier::Ipip);
    is_ours.then_some((Hook::OF_TUNNEL, BARE))
}

/// Whether it is still there.
fn is_there(link: &Link) -> bool {
    let name = link.name.parse().ok();
    name.is_some_and(|name| matches!(link::index_of(&name), Ok(Some(index)) if index == link.index))
}
