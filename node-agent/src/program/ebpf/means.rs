//! How a program comes to an interface: by a link of tcx, or as a filter where the kernel has none of those.

use std::{collections::BTreeSet, fs, os::fd::AsFd, path::Path};

use anyhow::Context;
use aya::programs::{
    LinkOrder, SchedClassifier,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLinkId, TcAttachOptions, TcAttachType},
};
use margay_api::{left, paths};
use margay_netlink::{
    Socket, filter,
    link::{IfIndex, Link},
    qdisc::Qdisc,
};
use nix::errno::Errno;
use tracing::{info, warn};

use super::{hook::Hook, object::Pins, sys};

/// Our place among filters: the last that there is. Those that others add without a number come before it, and may keep a packet.
const PRIORITY: u16 = u16::MAX;

/// What the kernel has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// Links of tcx, which are pinned (Linux 6.6).
    Tcx,
    /// Filters of the discipline `clsact`, which stay by themselves (Linux 4.5).
    Filters,
}

/// Where a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it was attached, and nobody else's.
    Alone,
    /// There, among others.
    WithOthers,
    /// Not there.
    Off,
}

impl Means {
    /// What this kernel has, which stays as it is until the next start of the machine.
    pub(super) fn of_kernel() -> Self {
        /// The loopback interface of every network namespace.
        const LOOPBACK: u32 = 1;
        match sys::programs_at(LOOPBACK, TcAttachType::Ingress) {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Self::Filters,
            _ => Self::Tcx,
        }
    }

    /// Whether programs can be at an interface with these disciplines: `ingress` is in the place of `clsact`.
    pub(super) fn fit(self, at: &[Qdisc]) -> bool {
        self == Self::Tcx || at.iter().all(|qdisc| qdisc.kind != "ingress")
    }

    /// Whether no filter of somebody else's comes after ours: what it is to see may not be taken away before it.
    pub(super) fn come_last(self, at: &[Qdisc]) -> bool {
        self == Self::Filters || at.iter().all(|qdisc| !qdisc.ingress)
    }

    /// Whether a discipline neither holds packets back nor, beside what [`Place`] says of it, shows them to anybody.
    pub(super) fn let_round(self, qdisc: &Qdisc) -> bool {
        qdisc.kind == "noqueue" || (self == Self::Filters && qdisc.kind == "clsact")
    }

    /// Attaches a program, in the place of the one of an agent before, and says where it then is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach(
        self,
        program: &mut SchedClassifier,
        link: &Link,
        hook: Hook,
        pins: &Pins,
    ) -> anyhow::Result<Place> {
        match self {
            Self::Tcx => attach_link(program, link, hook, pins)?,
            Self::Filters => attach_filter(program, link, hook)?,
        }
        Ok(self.place(program, link.index, hook))
    }

    /// Whether a program is where it was attached, and alone there.
    pub(super) fn place(self, program: &SchedClassifier, link: IfIndex, hook: Hook) -> Place {
        let Ok(ours) = program.info().map(|info| info.id()) else { return Place::Off };
        let found: Vec<Option<u32>> = match self {
            Self::Tcx => sys::programs_at(link.number(), hook.attach_type())
                .map(|found| found.into_iter().map(Some).collect())
                .unwrap_or_default(),
            Self::Filters => Socket::open()
                .and_then(|mut socket| filter::list_on(&mut socket, link, hook.direction()))
                .map(|found| found.into_iter().map(|filter| filter.program).collect())
                .unwrap_or_default(),
        };
        if found == [Some(ours)] {
            Place::Alone
        } else if found.contains(&Some(ours)) {
            Place::WithOthers
        } else {
            Place::Off
        }
    }
}

fn attach_link(program: &mut SchedClassifier, link: &Link, hook: Hook, pins: &Pins) -> anyhow::Result<()> {
    let pin = pins.link(link.index.number(), hook);
    // Somebody may have emptied the bpf file system.
    fs::create_dir_all(pins.links()).context("make the folder of pinned links")?;
    if pin.exists() {
        match replace(program, &pin) {
            Ok(()) if Means::Tcx.place(program, link.index, hook) != Place::Off => return Ok(()),
            Ok(()) => {}
            Err(error) => info!(link = link.name, "the programs of the agent before: {error:#}"),
        }
        // Of an interface that is no more, or somebody took it off.
        fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(&link.name, hook.attach_type(), order)?;
    keep(program, id)?.pin(&pin).with_context(|| format!("pin {}", pin.display()))?;
    Ok(())
}

/// Puts a program in the place of the one before it, atomically.
fn replace(program: &mut SchedClassifier, pin: &Path) -> anyhow::Result<()> {
    let link = FdLink::from(PinnedLink::from_pin(pin).context("open its pin")?);
    let id = program.attach_to_link(link.try_into()?).context("replace it")?;
    // The pin keeps it.
    drop(keep(program, id)?);
    Ok(())
}

/// Takes a link from its program, which would end it with itself.
fn keep(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> anyhow::Result<FdLink> {
    Ok(program.take_link(id)?.try_into()?)
}

fn attach_filter(program: &SchedClassifier, link: &Link, hook: Hook) -> anyhow::Result<()> {
    let mut socket = Socket::open()?;
    let disciplines = margay_netlink::qdisc::list(&mut socket)?;
    let mut at = disciplines.iter().filter(|qdisc| qdisc.link == link.index && qdisc.ingress);
    match at.next() {
        Some(qdisc) if qdisc.kind == "clsact" => {}
        Some(qdisc) => anyhow::bail!(
            "a discipline of the kind `{kind}` is in the place of `clsact`, which programs are at before Linux 6.6: take it off \
             (tc qdisc delete dev {name} {kind}), or have `dataplane: nftables`",
            kind = qdisc.kind,
            name = link.name
        ),
        None => socket.execute(&filter::add_discipline(link.index))?,
    }
    let direction = hook.direction();
    let others = filter::list_on(&mut socket, link.index, direction)?;
    let taken = others
        .iter()
        .find(|filter| filter.priority == PRIORITY && !filter.name.starts_with(paths::BPF_FILTER_PREFIX));
    if let Some(filter) = taken {
        anyhow::bail!("somebody else has a filter of kind {} and priority {PRIORITY} there", filter.kind);
    }
    let name = format!("{}{}", paths::BPF_FILTER_PREFIX, hook.program());
    let program = program.fd()?.as_fd();
    let filter = filter::Program { link: link.index, direction, priority: PRIORITY, name: &name, program };
    Ok(socket.execute(&filter::replace_program(&filter))?)
}

/// Takes the filters of all interfaces off. Says whether there were any.
///
/// Their disciplines stay, as packets would be lost with them, and are noted in `run_dir` for who cleans the node up.
///
/// # Errors
/// When the kernel does not let go of one.
pub(super) fn remove_filters(run_dir: &Path) -> anyhow::Result<bool> {
    let mut socket = Socket::open()?;
    let found = filter::programs(&mut socket, paths::BPF_FILTER_PREFIX)?;
    if found.is_empty() {
        return Ok(false);
    }
    let mut at: BTreeSet<u32> = left::read(run_dir, paths::CLSACT).ok().flatten().unwrap_or_default();
    at.extend(found.iter().map(|filter| filter.link.number()));
    if let Err(error) = left::write(run_dir, paths::CLSACT, &at) {
        warn!(
            "`margayctl node cleanup` will not know of disciplines clsact that are left: write {}: {error}",
            paths::CLSACT
        );
    }
    filter::delete_programs(&mut socket, &found)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use margay_api::{left, paths};
    use margay_netlink::{
        Socket,
        link::{self, Bridge, Link},
    };

    use super::{Means, Place, remove_filters};
    use crate::program::ebpf::{
        hook::Hook,
        object::{self, Object, program},
        own::with_bpf_fs,
        sizes::Sizes,
    };

    /// Runs a test with an interface and a bpf file system of its own.
    fn with_interface(test: impl FnOnce(&Link, &Path) + Send) {
        with_bpf_fs(|bpf_fs| {
            let mut socket = Socket::open().unwrap();
            let name = "uplink".parse().unwrap();
            socket.execute(&link::add_bridge(&Bridge { name: &name })).unwrap();
            let link = link::by_name(&mut socket, &name).unwrap().unwrap();
            test(&link, bpf_fs);
        });
    }

    fn tc(arguments: &str) {
        let status = Command::new("tc").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "tc {arguments}: {status}");
    }

    fn attach(object: &mut Object, link: &Link, hook: Hook) -> anyhow::Result<Place> {
        Means::Filters.attach(program(&mut object.programs, hook)?, link, hook, &object.pins)
    }

    fn place(object: &mut Object, link: &Link, hook: Hook) -> Place {
        Means::Filters.place(program(&mut object.programs, hook).unwrap(), link.index, hook)
    }

    #[test]
    fn filters_of_the_next_agent_take_the_place_of_those_before_and_all_others_come_first() {
        const THEIRS: &str = "filter add dev uplink egress bpf da bytecode 1,6@0@0@4294967295,";
        with_interface(|link, bpf_fs| {
            let mut before = object::load(bpf_fs, &Sizes::default()).unwrap();
            for hook in Hook::OF_UPLINK {
                assert_eq!(place(&mut before, link, hook), Place::Off);
                assert_eq!(attach(&mut before, link, hook).unwrap(), Place::Alone);
                assert_eq!(attach(&mut before, link, hook).unwrap(), Place::Alone, "a second time");
            }
            let mut next = object::load(bpf_fs, &Sizes::default()).unwrap();
            assert_eq!(attach(&mut next, link, Hook::ToUplink).unwrap(), Place::Alone);
            assert_eq!(place(&mut before, link, Hook::ToUplink), Place::Off);
            assert_eq!(place(&mut before, link, Hook::FromUplink), Place::Alone);
            // Filters stay without those who made them.
            drop(before);

            // A comma and a space are one argument to `tc`.
            let theirs: Vec<String> = THEIRS.split(' ').map(|word| word.replace('@', " ")).collect();
            assert!(Command::new("tc").args(&theirs).status().unwrap().success());
            assert_eq!(place(&mut next, link, Hook::ToUplink), Place::WithOthers);
            let mut socket = Socket::open().unwrap();
            let at = margay_netlink::filter::list_on(
                &mut socket,
                link.index,
                margay_netlink::filter::Direction::Egress,
            );
            let names: Vec<String> = at.unwrap().into_iter().map(|filter| filter.name).collect();
            assert_eq!(names.last().map(String::as_str), Some("margay_to_uplink"), "{names:?}");

            tc("filter delete dev uplink egress pref 65535");
            assert_eq!(place(&mut next, link, Hook::ToUplink), Place::Off, "somebody took it off");
            assert_eq!(attach(&mut next, link, Hook::ToUplink).unwrap(), Place::WithOthers);
            let run_dir = tempfile::tempdir().unwrap();
            assert!(remove_filters(run_dir.path()).unwrap());
            assert!(!remove_filters(run_dir.path()).unwrap(), "there are none any more");
            let noted: Option<Vec<u32>> = left::read(run_dir.path(), paths::CLSACT).unwrap();
            assert_eq!(noted, Some(vec![link.index.number()]), "the discipline is there still");
            tc("filter delete dev uplink egress");
            tc("qdisc delete dev uplink clsact");
        });
    }

    #[test]
    fn what_is_in_the_place_of_a_filter_is_named() {
        with_interface(|link, bpf_fs| {
            let mut object = object::load(bpf_fs, &Sizes::default()).unwrap();
            tc("qdisc add dev uplink ingress");
            let refused = attach(&mut object, link, Hook::FromUplink).unwrap_err().to_string();
            assert!(refused.contains("tc qdisc delete dev uplink ingress"), "{refused}");
            tc("qdisc delete dev uplink ingress");
            assert_eq!(attach(&mut object, link, Hook::FromUplink).unwrap(), Place::Alone);
        });
    }
}
