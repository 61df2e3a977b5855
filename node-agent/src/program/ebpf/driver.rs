//! Writing the maps, and opening and closing the short way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use anyhow::Context;
use ipnetwork::IpNetwork;
use margay_api::endpoint::EndpointId;
use margay_ebpf_common::{
    control::{ADMITS, Control, TELLS_DENIALS, TELLS_FLOWS},
    counter::Counter,
    denial::Denial,
};
use margay_policy::compile::{Changes, Compiler};
use serde_json::Value;
use tracing::{info, warn};

use super::{
    capability,
    contents::Contents,
    handover,
    links::{Attachments, Programs},
    maps::Maps,
    means::{self, Means},
    object::{self, Object, Pins},
    occupancy::Tables,
    ring::Ring,
    sizes::Sizes,
    tunnels::TunnelMap,
};
use crate::decide::{Admitted, Wanted};

/// Where the short way's maps are, and what they are to hold.
pub(crate) struct Driver {
    maps: Maps,
    contents: Contents,
    /// `None` before the links that were wanted first are attached.
    attachments: Option<Attachments>,
    /// The endpoints and the blocks that were noted last, unless interfaces have changed since.
    noted: Option<Noted>,
    /// What the kernel's map says.
    control: Control,
    /// What the programs are to tell of, as flags of `CONTROL`.
    tells: u32,
    /// Whether what `DENIALS` has was counted for this agent.
    counts_denials: bool,
    /// Whether the revision is odd because of [`Driver::pause`], over maps that are whole.
    is_paused: bool,
    /// Whether flows that connection tracking keeps are known to the programs.
    is_seeded: bool,
    /// Why the short way is closed; `None` when it is open, or waits for its interfaces.
    closed: Option<String>,
}

/// What the kernel has taken, for those who work with it.
pub(crate) struct Loaded {
    pub(super) driver: Driver,
    pub(super) programs: Programs,
    pub(super) tables: Tables,
    pub(super) ring: Ring,
    pub(super) tunnels: TunnelMap,
}

/// What most changes leave as it is.
struct Noted {
    endpoints: Arc<BTreeMap<EndpointId, Admitted>>,
    pod_blocks: Arc<BTreeSet<IpNetwork>>,
}

impl Noted {
    fn is_of(&self, wanted: &Wanted) -> bool {
        Arc::ptr_eq(&self.endpoints, &wanted.endpoints) && Arc::ptr_eq(&self.pod_blocks, &wanted.pod_blocks)
    }
}

impl Driver {
    /// Loads the programs, which attach themselves to nothing yet.
    ///
    /// # Errors
    /// When the kernel cannot: the reason is for the operator.
    pub(crate) fn load(bpf_fs: &Path, sizes: &Sizes, chained_plugins: &[Value]) -> anyhow::Result<Loaded> {
        let means = Means::of_kernel();
        // It would find `clsact` in the place of its own discipline `ingress`, and its pods would fail.
        let has_bandwidth = chained_plugins.iter().any(|plugin| plugin["type"] == "bandwidth");
        anyhow::ensure!(
            means == Means::Tcx || !has_bandwidth,
            "this kernel has no tcx (Linux 6.6), without which the chained plugin `bandwidth` and the programs want the same place"
        );
        capability::check()?;
        let Object { maps, programs, pins, is_found } = object::load(bpf_fs, sizes)?;
        let control = maps.control.get(&0, 0).context("read the map CONTROL")?;
        let mut driver = Self {
            maps,
            contents: Contents::default(),
            attachments: None,
            noted: None,
            control,
            is_paused: false,
            // An agent that let flows begin had made them known.
            is_seeded: is_found && control.admits(),
            tells: 0,
            counts_denials: false,
            closed: None,
        };
        // Who listened to the agent before is gone.
        driver.tell(0)?;
        let (tables, ring) = (Tables::open(&pins)?, Ring::open(&pins)?);
        let tunnels = TunnelMap::open(&pins)?;
        Ok(Loaded { driver, programs: Programs::new(programs, pins, means), tables, ring, tunnels })
    }

    /// Forgets what is wanted, as if another agent began over the same maps.
    #[cfg(test)]
    pub(super) fn restart(&mut self) {
        (self.contents, self.attachments, self.noted) = (Contents::default(), None, None);
    }

    /// Takes note of which interfaces are attached.
    pub(crate) fn attached(&mut self, attachments: Attachments) {
        // What went out there was not noted as long as no programs were.
        let has_more = |before: &Attachments| {
            attachments.uplinks.keys().any(|index| !before.uplinks.contains_key(index))
        };
        self.is_seeded &= !self.attachments.as_ref().is_some_and(has_more);
        self.attachments = Some(attachments);
        self.noted = None;
    }

    /// Takes note of what is wanted now, for the next [`Driver::write`].
    pub(crate) fn note(&mut self, wanted: &Wanted, compiler: &Compiler, changes: &Changes) {
        self.contents.policy(compiler, changes);
        let Some(attachments) = &self.attachments else { return };
        if self.noted.as_ref().is_some_and(|noted| noted.is_of(wanted)) {
            return;
        }
        self.contents.endpoints(&wanted.endpoints, &attachments.pods);
        self.contents.uplinks.replace(attachments.uplinks.iter().map(|(index, kind)| (*index, *kind)));
        self.contents.pods(&wanted.pod_blocks);
        let (endpoints, pod_blocks) = (Arc::clone(&wanted.endpoints), Arc::clone(&wanted.pod_blocks));
        self.noted = Some(Noted { endpoints, pod_blocks });
    }

    /// Has no flow judged from now on, until [`Driver::write`] or [`Driver::resume`]; nothing, when there is nothing to write.
    ///
    /// What an agent before has written counts no more then either, although nothing takes its place before the links are known:
    /// an address may be another pod's by now, and policy another.
    pub(crate) fn pause(&mut self) {
        if !self.contents.is_dirty() || self.control.revision & 1 == 1 {
            return;
        }
        match self.set_control(Control { revision: self.control.revision | 1, ..self.control }) {
            Ok(()) => self.is_paused = true,
            Err(error) => self.warn(&error),
        }
    }

    /// Has flows judged again by what the maps have said all the time, if that is what kept them from it: nothing could be changed.
    pub(crate) fn resume(&mut self) {
        if !std::mem::take(&mut self.is_paused) {
            return;
        }
        if let Err(error) = self.set_control(Control { revision: self.control.revision & !1, ..self.control })
        {
            self.warn(&error);
        }
    }

    /// Makes the maps hold what is wanted, and has all flows judged by it from now on. What cannot be done closes the short way: all
    /// goes through the stack then, until the next attempt. Gives back the ends of the flows that were given to the stack.
    pub(crate) fn write(&mut self) -> BTreeSet<IpAddr> {
        // Flows that an agent before has let begin go on until all links are known again.
        let Some(attachments) = &self.attachments else { return BTreeSet::new() };
        let admits = attachments.is_complete;
        if !self.contents.is_dirty() && self.control.admits() == admits {
            return BTreeSet::new();
        }
        self.is_paused = false;
        match self.try_write(admits) {
            Ok(()) => {
                if self.closed.take().is_some() {
                    info!("the short way is open again");
                }
                BTreeSet::new()
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Whether flows may begin to take the short way.
    pub(crate) fn is_open(&self) -> bool {
        self.control.admits()
    }

    /// Why the short way is closed, if it is.
    pub(crate) fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// What the programs have counted since the maps were made.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn counters(&self) -> anyhow::Result<[u64; Counter::ALL.len()]> {
        self.maps.counters()
    }

    /// How many entries are wanted in each map that the agent writes, by its field in the section `ebpf`. Of which there are more
    /// than it has room for, that is why the short way is closed.
    pub(crate) fn entries(&self) -> [(&'static str, usize); 7] {
        self.contents.entries()
    }

    fn try_write(&mut self, admits: bool) -> anyhow::Result<()> {
        // The programs note what the stack has from the moment that they are attached; this is what it had before.
        if !self.is_seeded && admits {
            let blocks = self.noted.as_ref().map(|noted| Arc::clone(&noted.pod_blocks)).unwrap_or_default();
            handover::from_stack(&mut self.maps, |address| holds(&blocks, address))?;
            self.is_seeded = true;
        }
        self.set_control(Control { revision: self.control.revision | 1, ..self.control })?;
        if !self.counts_denials {
            // Those of an agent before had its numbers.
            for denial in self.maps.denials()?.into_keys() {
                self.maps.forget_denials(denial)?;
            }
            self.counts_denials = true;
        }
        let (contents, maps) = (&mut self.contents, &mut self.maps);
        contents.verdicts.write("VERDICTS", &mut maps.verdicts)?;
        contents.ranges.write("RANGES", &mut maps.ranges)?;
        contents.addresses.write("ADDRESSES", &mut maps.addresses)?;
        contents.pods.write("PODS", &mut maps.pods)?;
        contents.uplinks.write("UPLINKS", &mut maps.uplinks)?;
        contents.endpoints.write("ENDPOINTS", &mut maps.endpoints)?;
        contents.local.write("LOCAL", &mut maps.local)?;
        let flags = if admits { ADMITS } else { 0 };
        self.set_control(Control { revision: self.control.revision.wrapping_add(1), flags })
    }

    /// Closes the short way: its flows become the stack's, and no other can be judged.
    fn fail(&mut self, error: &anyhow::Error) -> BTreeSet<IpAddr> {
        self.contents.lose();
        let was_open = self.closed.is_none();
        self.warn(error);
        self.closed = Some(format!("{error:#}"));
        match self.close(was_open) {
            Ok(ends) => ends,
            Err(error) => {
                warn!("the short way is not closed as it is to be: {error:#}; trying again");
                BTreeSet::new()
            }
        }
    }

    fn warn(&self, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        if self.closed.as_ref() != Some(&reason) {
            warn!("the short way is closed, and all traffic takes that through the stack: {reason}");
        }
    }

    fn close(&mut self, was_open: bool) -> anyhow::Result<BTreeSet<IpAddr>> {
        // From here on no flow is judged, and none that was holds.
        let revision = (self.control.revision | 1).wrapping_add(2);
        self.set_control(Control { revision, flags: 0 })?;
        let mut ends = BTreeSet::new();
        if was_open {
            match handover::to_stack([&self.maps.flows, &self.maps.embryos]) {
                Ok(flows) => ends.extend(flows.iter().flat_map(|flow| [flow.source, flow.destination])),
                Err(error) => warn!("flows on the short way may end: {error:#}"),
            }
        }
        // Without endpoints nothing is allowed.
        let mut nothing = Contents::default();
        nothing.endpoints.write("ENDPOINTS", &mut self.maps.endpoints)?;
        nothing.local.write("LOCAL", &mut self.maps.local)?;
        Ok(ends)
    }

    /// Has the programs tell of what these flags say, [`TELLS_FLOWS`] and [`TELLS_DENIALS`], and of nothing else.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn tell(&mut self, flags: u32) -> anyhow::Result<()> {
        self.tells = flags;
        self.set_control(self.control)
    }

    /// The packets that the programs have dropped since this agent has them judge, by why.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn denials(&self) -> anyhow::Result<BTreeMap<Denial, u64>> {
        if self.counts_denials { self.maps.denials() } else { Ok(BTreeMap::new()) }
    }

    /// Forgets those of a reason.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn forget_denials(&mut self, denial: Denial) -> anyhow::Result<()> {
        self.maps.forget_denials(denial)
    }

    fn set_control(&mut self, control: Control) -> anyhow::Result<()> {
        let flags = control.flags & !(TELLS_FLOWS | TELLS_DENIALS) | self.tells;
        let control = Control { flags, ..control };
        if control != self.control {
            // What the programs read after this revision was written after it, and what they read before it, before (`ebpf/src/barrier.rs`). The
            // kernel orders what one system call writes, but not that of one before that of the next.
            fence(Ordering::SeqCst);
            self.maps.control.set(0, control, 0).context("write the map CONTROL")?;
            fence(Ordering::SeqCst);
            self.control = control;
        }
        Ok(())
    }
}

/// Whether an address is in one of some blocks, which do not overlap.
fn holds(blocks: &BTreeSet<IpNetwork>, address: IpAddr) -> bool {
    let last = blocks.range(..=IpNetwork::from(address)).next_back();
    last.is_some_and(|block| block.contains(address))
}

/// Takes away what an agent with the short way has left, of whatever version, so that all traffic goes through the stack; its flows go on
/// there. Says whether there was anything.
///
/// # Errors
/// When it cannot be taken away.
pub(crate) fn retire(bpf_fs: &Path, run_dir: &Path) -> anyhow::Result<bool> {
    let pins = Pins::below(bpf_fs);
    match pins.versions() {
        Ok(versions) => versions.iter().for_each(|pins| handover::give_away(pins)),
        Err(error) => warn!("flows on the short way may end: {error:#}"),
    }
    remove_all(&pins, run_dir)
}

/// Both kinds, as a kernel that has one now may have had the other; and the second too when the first cannot be taken away.
fn remove_all(pins: &Pins, run_dir: &Path) -> anyhow::Result<bool> {
    let filters = means::remove_filters(run_dir).context("take filters off");
    let pins = pins.remove();
    Ok(filters? | pins?)
}

#[cfg(test)]
mod tests {
    use margay_policy::compile::{Changes, Compiler};

    use super::{Attachments, Driver, Loaded, retire};
    use crate::{
        decide::Wanted,
        program::ebpf::{own::with_bpf_fs, sizes::Sizes},
    };

    /// An agent's start, as far as the maps go; `attached` is when its links are known.
    fn start(driver: &mut Driver, attached: bool) -> u32 {
        if attached {
            driver.attached(Attachments { is_complete: true, ..Attachments::default() });
        }
        driver.note(&Wanted::default(), &Compiler::default(), &Changes::default());
        driver.pause();
        driver.write();
        driver.maps.control.get(&0, 0).unwrap().revision
    }

    #[test]
    fn a_program_that_is_left_takes_no_flow_when_its_maps_have_gone() {
        with_bpf_fs(|bpf_fs| {
            let run_dir = tempfile::tempdir().unwrap();
            let Loaded { mut driver, .. } = Driver::load(bpf_fs, &Sizes::default(), &[]).unwrap();
            let judged = start(&mut driver, true);
            assert!(retire(bpf_fs, run_dir.path()).unwrap());
            let left = driver.maps.control.get(&0, 0).unwrap();
            assert!(!left.holds(judged) && !left.admits(), "{left:?} after {judged}");
            assert_eq!(left.revision & 1, 1, "none is judged");
        });
    }

    #[test]
    fn an_agent_has_no_flow_judged_by_what_the_one_before_it_wrote() {
        with_bpf_fs(|bpf_fs| {
            let load = || Driver::load(bpf_fs, &Sizes::default(), &[]).unwrap();
            let Loaded { driver: mut before, .. } = load();
            let written = start(&mut before, true);
            assert_eq!(written % 2, 0, "{written}");
            drop(before);

            let Loaded { mut driver, .. } = load();
            assert_eq!(driver.control.revision, written);
            // Not even before its links are known; what was judged holds meanwhile.
            let unknown = start(&mut driver, false);
            assert_eq!(unknown, written + 1);
            assert_eq!(start(&mut driver, true), written + 2);
        });
    }
}
