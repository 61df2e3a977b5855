//! Writing the maps, and opening and closing the short way.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use ipnetwork::IpNetwork;
use margay_api::endpoint::EndpointId;
use margay_ebpf_common::{control::Control, counter};
use margay_policy::compile::{Changes, Compiler};
use tracing::{info, warn};

use super::{
    contents::Contents,
    handover,
    links::{Attachments, Programs},
    maps::{Hash, Maps},
    object::{self, Object, Pins},
};
use crate::decide::{Admitted, Wanted};

/// Where the short way's maps are, and what they are to hold.
pub(crate) struct Driver {
    maps: Maps,
    contents: Contents,
    attachments: Attachments,
    /// The endpoints and the blocks that were noted last, unless interfaces have changed since.
    noted: Option<Noted>,
    /// What the kernel's map says.
    control: Control,
    /// Whether flows that connection tracking keeps are known to the programs.
    is_seeded: bool,
    /// Why the short way is closed; `None` when it is open, or waits for its interfaces.
    closed: Option<String>,
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
    pub(crate) fn load(bpf_fs: &Path) -> anyhow::Result<(Self, Programs)> {
        let Object { maps, programs, pins, is_found } = object::load(bpf_fs)?;
        let control = maps.control.get(&0, 0).context("read the map CONTROL")?;
        let driver = Self {
            maps,
            contents: Contents::default(),
            attachments: Attachments::default(),
            noted: None,
            control,
            // An agent that let flows begin had made them known.
            is_seeded: is_found && control.admits != 0,
            closed: None,
        };
        Ok((driver, Programs::new(programs, pins)))
    }

    /// Takes note of which interfaces are attached.
    pub(crate) fn attached(&mut self, attachments: Attachments) {
        self.attachments = attachments;
        self.noted = None;
    }

    /// Takes note of what is wanted now, for the next [`Driver::write`].
    pub(crate) fn note(&mut self, wanted: &Wanted, compiler: &Compiler, changes: &Changes) {
        self.contents.policy(compiler, changes);
        if self.noted.as_ref().is_some_and(|noted| noted.is_of(wanted)) {
            return;
        }
        self.contents.endpoints(&wanted.endpoints, &self.attachments.pods);
        self.contents.uplinks.replace(self.attachments.uplinks.iter().flatten().map(|index| (*index, 0)));
        self.contents.pods(&wanted.pod_blocks);
        let (endpoints, pod_blocks) = (Arc::clone(&wanted.endpoints), Arc::clone(&wanted.pod_blocks));
        self.noted = Some(Noted { endpoints, pod_blocks });
    }

    /// Has no flow judged from now on, until [`Driver::write`] or [`Driver::resume`]; nothing, when there is nothing to write.
    pub(crate) fn pause(&mut self) {
        if !self.contents.is_dirty() {
            return;
        }
        let paused = Control { revision: self.control.revision | 1, ..self.control };
        if let Err(error) = self.set_control(paused) {
            self.fail(&error);
        }
    }

    /// Has flows judged again by what the maps have said all the time: nothing could be changed.
    pub(crate) fn resume(&mut self) {
        if self.control.revision & 1 == 0 {
            return;
        }
        let resumed = Control { revision: self.control.revision & !1, ..self.control };
        if let Err(error) = self.set_control(resumed) {
            self.fail(&error);
        }
    }

    /// Makes the maps hold what is wanted, and has all flows judged by it from now on. What cannot be done closes the short way: all
    /// goes through the stack then, until the next attempt.
    pub(crate) fn write(&mut self) {
        if !self.contents.is_dirty() && self.control.admits == u32::from(self.is_ready()) {
            return;
        }
        match self.try_write() {
            Ok(()) => {
                if self.closed.take().is_some() {
                    info!("the short way is open again");
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Why the short way is closed, if it is.
    pub(crate) fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// What the programs have counted since the maps were made.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn counters(&self) -> anyhow::Result<[u64; counter::ENTRIES as usize]> {
        self.maps.counters()
    }

    fn is_ready(&self) -> bool {
        self.attachments.uplinks.is_some()
    }

    fn try_write(&mut self) -> anyhow::Result<()> {
        // The programs note what the stack has from the moment that they are attached; this is what it had before.
        if !self.is_seeded && self.is_ready() {
            handover::from_stack(&mut self.maps)?;
            self.is_seeded = true;
        }
        self.set_control(Control { revision: self.control.revision | 1, ..self.control })?;
        let (contents, maps) = (&mut self.contents, &mut self.maps);
        // Whoever cannot go on leaves no endpoint by which to judge.
        contents.verdicts.write("VERDICTS", &mut maps.verdicts)?;
        contents.ranges.write("RANGES", &mut maps.ranges)?;
        contents.addresses.write("ADDRESSES", &mut maps.addresses)?;
        contents.pods.write("PODS", &mut maps.pods)?;
        contents.uplinks.write("UPLINKS", &mut maps.uplinks)?;
        contents.endpoints.write("ENDPOINTS", &mut maps.endpoints)?;
        contents.local.write("LOCAL", &mut maps.local)?;
        let admits = u32::from(self.is_ready());
        self.set_control(Control { revision: self.control.revision.wrapping_add(1), admits })
    }

    /// Closes the short way: its flows become the stack's, and no other can be judged.
    fn fail(&mut self, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        if self.closed.as_ref() != Some(&reason) {
            warn!("the short way is closed, and all traffic takes that through the stack: {reason}");
        }
        self.closed = Some(reason);
        if let Err(error) = self.close() {
            warn!("the short way cannot be closed: {error:#}; trying again");
        }
        self.contents.lose();
    }

    fn close(&mut self) -> anyhow::Result<()> {
        if let Err(error) = handover::to_stack([&self.maps.flows, &self.maps.embryos]) {
            warn!("flows on the short way may end: {error:#}");
        }
        // Without endpoints nothing is allowed; and what was allowed in another revision is nothing without being judged anew.
        let mut nothing = Contents::default();
        nothing.close();
        nothing.endpoints.write("ENDPOINTS", &mut self.maps.endpoints)?;
        nothing.local.write("LOCAL", &mut self.maps.local)?;
        self.set_control(Control { revision: (self.control.revision | 1).wrapping_add(1), admits: 0 })
    }

    fn set_control(&mut self, control: Control) -> anyhow::Result<()> {
        if control != self.control {
            self.maps.control.set(0, control, 0).context("write the map CONTROL")?;
            self.control = control;
        }
        Ok(())
    }
}

/// Takes away what an agent with the short way has left, so that all traffic goes through the stack; its flows go on there. Says
/// whether there was anything.
///
/// # Errors
/// When it cannot be taken away.
pub(crate) fn retire(bpf_fs: &Path) -> anyhow::Result<bool> {
    let pins = Pins::below(bpf_fs);
    if !pins.exist() {
        return Ok(false);
    }
    let flows = || {
        let [flows, embryos] = [Hash::open(&pins.map("FLOWS"))?, Hash::open(&pins.map("EMBRYOS"))?];
        handover::to_stack([&flows, &embryos])
    };
    match flows() {
        Ok(flows) => info!(flows, "the short way's flows are the stack's now"),
        Err(error) => warn!("flows on the short way may end: {error:#}"),
    }
    pins.remove()?;
    Ok(true)
}
