//! The programs and their maps, loaded into the kernel.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned,
    maps::MapInfo,
    programs::{ProgramError, SchedClassifier},
};
use margay_api::paths;
use margay_ebpf_common::LAYOUT_VERSION;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tracing::info;

use super::{handover, hook::Hook, maps::Maps, sizes::Sizes};

/// What `ebpf/build` has made of `ebpf/`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/margay-dataplane"));

/// How often it is tried to load a program of which a signal kept the verifier.
const ATTEMPTS: usize = 10;

/// Whether loads may come before loads, and stores before stores, on this machine.
const WEAKLY_ORDERED: u32 = if cfg!(target_arch = "x86_64") { 0 } else { 1 };

/// What the kernel holds for the short way.
pub(super) struct Object {
    pub(super) maps: Maps,
    pub(super) programs: Ebpf,
    pub(super) pins: Pins,
    /// Whether the maps were there before, and with them what the flows in them need.
    pub(super) is_found: bool,
}

/// Where maps and links are pinned: they outlive the agent.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    /// Of all versions.
    root: PathBuf,
    /// Of this version of the layouts.
    maps: PathBuf,
}

impl Pins {
    /// Below the mount point of a bpf file system.
    pub(super) fn below(bpf_fs: &Path) -> Self {
        let root = bpf_fs.join(paths::BPF_PINS);
        Self { maps: root.join(format!("v{LAYOUT_VERSION}")), root }
    }

    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// Where the link of a hook at an interface is pinned.
    pub(super) fn link(&self, index: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{index}-{}", hook.program()))
    }

    /// The folder of all links.
    pub(super) fn links(&self) -> PathBuf {
        self.maps.join("links")
    }

    /// Whether there is anything of this version.
    pub(super) fn exist(&self) -> bool {
        self.map("CONTROL").exists()
    }

    /// The folders of all versions that are there.
    ///
    /// # Errors
    /// When the file system does not tell.
    pub(super) fn versions(&self) -> anyhow::Result<Vec<PathBuf>> {
        let listed = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
            }),
        };
        listed.with_context(|| format!("list {}", self.root.display()))
    }

    /// Unpins everything, of all versions: programs without a pin leave their interfaces. Says whether there was anything.
    ///
    /// # Errors
    /// When the file system does not let go of something.
    pub(super) fn remove(&self) -> anyhow::Result<bool> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            outcome => outcome.map(|()| true).with_context(|| format!("remove {}", self.root.display())),
        }
    }

    /// Makes room for new maps beside those that are there, which are then as those of another version.
    ///
    /// # Errors
    /// When the file system does not move them.
    fn set_aside(&self) -> anyhow::Result<()> {
        // A file system of bpf takes no dots in names.
        let name = |number: u32| self.root.join(format!("v{LAYOUT_VERSION}-old{number}"));
        // There is one already where an agent died before it had taken it away.
        let aside = (1..=u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0));
        fs::rename(&self.maps, &aside)
            .with_context(|| format!("move {} to {}", self.maps.display(), aside.display()))
    }

    /// Unpins what other versions have left, once their flows are the stack's.
    fn remove_others(&self) -> anyhow::Result<()> {
        for path in self.versions()?.into_iter().filter(|path| *path != self.maps) {
            handover::give_away(&path);
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
            info!(
                "maps and programs that are not of this version, or of other sizes, are taken away: {}",
                path.display()
            );
        }
        Ok(())
    }
}

/// Loads the programs, with the maps that are pinned or, where those have other sizes, new ones.
///
/// # Errors
/// When the kernel refuses: the reason is what it lacks.
pub(super) fn load(bpf_fs: &Path, sizes: &Sizes) -> anyhow::Result<Object> {
    let is_bpf_fs = statfs(bpf_fs).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    anyhow::ensure!(
        is_bpf_fs,
        "{path} is no bpf file system; mount one: mount -t bpf bpf {path}",
        path = bpf_fs.display()
    );
    let pins = Pins::below(bpf_fs);
    if let Some(difference) = sizes.differing(|name| entries(&pins.map(name))) {
        info!("{difference}: all maps are made anew, and what takes the short way goes on in the stack");
        pins.set_aside()?;
    }
    let is_found = pins.exist();
    let loaded = try_load(&pins, sizes);
    if loaded.is_err() && !is_found {
        // Half of the maps help nobody. What other versions have is for who retires them.
        fs::remove_dir_all(&pins.maps).with_context(|| format!("remove {}", pins.maps.display()))?;
    }
    let (maps, programs) = loaded?;
    pins.remove_others()?;
    Ok(Object { maps, programs, pins, is_found })
}

fn try_load(pins: &Pins, sizes: &Sizes) -> anyhow::Result<(Maps, Ebpf)> {
    let links = pins.links();
    fs::create_dir_all(&links).with_context(|| format!("make {}", links.display()))?;
    let mut loader = EbpfLoader::new();
    // Without it all that the verifier thinks is written down whenever it has stopped, too.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for name in super::maps::NAMES {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.override_global("WEAKLY_ORDERED", &WEAKLY_ORDERED, true);
    for (name, entries) in sizes.of_maps() {
        loader.map_max_entries(name, entries);
    }
    let mut ebpf = loader.load(OBJECT).context("make the maps")?;
    for hook in Hook::ALL {
        let program = program(&mut ebpf, hook)?;
        let mut loaded = program.load();
        for _ in 1..ATTEMPTS {
            // The verifier stops when a signal is to be taken, whichever that is.
            let Err(ProgramError::LoadError { io_error, .. }) = &loaded else { break };
            if io_error.kind() != io::ErrorKind::WouldBlock {
                break;
            }
            loaded = program.load();
        }
        loaded.map_err(|error| anyhow::anyhow!("load {}: {}", hook.program(), without_log(&error)))?;
    }
    Ok((Maps::take(&mut ebpf)?, ebpf))
}

/// The program of a hook.
///
/// # Errors
/// When the object has none by that name.
pub(super) fn program(ebpf: &mut Ebpf, hook: Hook) -> anyhow::Result<&mut SchedClassifier> {
    let name = hook.program();
    let program = ebpf.program_mut(name).with_context(|| format!("there is no program {name}"))?;
    program.try_into().with_context(|| format!("the program {name}"))
}

/// The verifier's log is long, and for who has the source.
fn without_log(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            tracing::debug!(%verifier_log, "the verifier");
            format!("the kernel refuses it: {io_error}; its log is in the agent's at level debug")
        }
        other => other.to_string(),
    }
}

/// The entries that a pinned map has room for; `None` when there is none that can be opened, which whoever loads it finds out.
fn entries(pin: &Path) -> Option<u32> {
    Some(MapInfo::from_pin(pin).ok()?.max_entries())
}
