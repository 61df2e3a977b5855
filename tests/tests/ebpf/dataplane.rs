//! The programs of the dataplane with maps of their own.

use std::{collections::BTreeMap, fs::File, iter, net::IpAddr, thread};

use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
    programs::{
        ProgramError, SchedClassifier,
        tc::{TcAttachType, qdisc_add_clsact},
    },
    util::KernelVersion,
};
use margay_ebpf_common::{
    address::{Address, IPV4_PREFIX_LEN},
    control::Control,
    counter::Counter,
    denial::Denial,
    endpoint::{BARE, Endpoint, FRAMES},
    flow::{Flow, FlowKey, Stacked},
    verdict::VerdictKey,
};
use margay_tests::programs::{load, object};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
};

/// Entries of most maps: as many as tests need.
pub(crate) const ENTRIES: u32 = 4096;

/// All programs.
pub(crate) const PROGRAMS: [&str; 6] =
    ["from_pod", "from_uplink", "from_tunnel", "to_pod", "to_uplink", "to_tunnel"];

/// Descriptors that a thread may have to use up.
const MOST_DESCRIPTORS: usize = 1 << 21;

/// The programs, loaded, and their maps, of which only `CONTROL` has something in it: revision 2, and flows may begin.
pub(crate) struct Dataplane {
    pub(crate) ebpf: Ebpf,
}

impl Dataplane {
    /// With maps as small as tests need.
    pub(crate) fn load() -> Self {
        Self::load_for(u32::from(!cfg!(target_arch = "x86_64")))
    }

    /// Likewise, for a machine that keeps the order of memory (0) or one that does not (1).
    pub(crate) fn load_for(weakly_ordered: u32) -> Self {
        let mut loaded = Self { ebpf: read(weakly_ordered) };
        for name in PROGRAMS {
            let outcome = load(loaded.program(name));
            outcome.unwrap_or_else(|error| panic!("{name}: {error:#?}"));
        }
        loaded.control(2, 1);
        loaded
    }

    /// What the verifier says of a program that it accepts, for a machine as in [`Dataplane::load_for`].
    ///
    /// It is heard only when a program is not loaded: so the kernel is left without a descriptor for it, which is the last thing that it
    /// needs. That is done to a thread with descriptors of its own.
    pub(crate) fn verifier_log(name: &'static str, weakly_ordered: u32) -> String {
        let alone = thread::spawn(move || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            let mut loaded = Self { ebpf: read(weakly_ordered) };
            let one = File::open("/dev/null").unwrap();
            let all: Vec<File> = iter::from_fn(|| one.try_clone().ok()).take(MOST_DESCRIPTORS).collect();
            assert!(
                all.len() < MOST_DESCRIPTORS,
                "too many descriptors are allowed: ulimit -n {MOST_DESCRIPTORS}"
            );
            match load(loaded.program(name)) {
                Err(ProgramError::LoadError { io_error, verifier_log })
                    if io_error.raw_os_error() == Some(Errno::EMFILE as i32) =>
                {
                    verifier_log.to_string()
                }
                other => panic!("{name}: expected that it lacks a descriptor: {other:#?}"),
            }
        });
        alone.join().unwrap()
    }

    /// One of the programs.
    pub(crate) fn program(&mut self, name: &str) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut(name);
        program.unwrap_or_else(|| panic!("no program {name} in the object")).try_into().unwrap()
    }

    /// What the agent says of the maps.
    pub(crate) fn control(&mut self, revision: u32, flags: u32) {
        let mut map: Array<_, Control> = self.ebpf.map_mut("CONTROL").unwrap().try_into().unwrap();
        map.set(0, Control { revision, flags }, 0).unwrap();
    }

    /// Takes the address of a pod away, and gives back its link.
    pub(crate) fn take_address(&mut self, address: IpAddr) -> u32 {
        let mut local = self.hash::<Address, u32>("LOCAL");
        let link = local.get(&Address::from(address), 0).unwrap();
        local.remove(&Address::from(address)).unwrap();
        link
    }

    /// Has an address be that of the pod behind a link.
    pub(crate) fn add_address(&mut self, address: IpAddr, link: u32) {
        self.hash::<Address, u32>("LOCAL").insert(Address::from(address), link, 0).unwrap();
    }

    /// A pod link, and the addresses of its pod.
    pub(crate) fn add_pod(&mut self, ifindex: u32, endpoint: Endpoint, addresses: &[IpAddr]) {
        self.hash("ENDPOINTS").insert(ifindex, endpoint, 0).unwrap();
        for address in addresses {
            self.hash("LOCAL").insert(Address::from(*address), ifindex, 0).unwrap();
        }
    }

    /// An interface that leads to other nodes.
    pub(crate) fn add_uplink(&mut self, ifindex: u32) {
        self.hash("UPLINKS").insert(ifindex, FRAMES, 0).unwrap();
    }

    /// Likewise one whose packets have no link-layer header.
    pub(crate) fn add_bare(&mut self, ifindex: u32) {
        self.hash("UPLINKS").insert(ifindex, BARE, 0).unwrap();
    }

    /// Attaches programs to an interface of the current namespace.
    pub(crate) fn attach(&mut self, link: &str, ingress: &str, egress: &str) {
        // Without tcx they are filters of a discipline, which has to be there.
        if KernelVersion::current().unwrap() < KernelVersion::new(6, 6, 0) {
            qdisc_add_clsact(link).unwrap();
        }
        for (program, direction) in [(ingress, TcAttachType::Ingress), (egress, TcAttachType::Egress)] {
            self.program(program).attach(link, direction).unwrap();
        }
    }

    /// A range of pods' addresses.
    pub(crate) fn add_pods(&mut self, network: (IpAddr, u32)) {
        self.trie("PODS").insert(&prefix(network), 0_u32, 0).unwrap();
    }

    /// Where a class begins and ends.
    pub(crate) fn classify(&mut self, network: (IpAddr, u32), class: u32) {
        let full = if network.0.is_ipv4() { 32 } else { 128 };
        if network.1 == full {
            self.hash("ADDRESSES").insert(Address::from(network.0), class, 0).unwrap();
        } else {
            self.trie("RANGES").insert(&prefix(network), class, 0).unwrap();
        }
    }

    /// What a policy set says; `bits` of the key count.
    pub(crate) fn decide(&mut self, bits: u32, key: VerdictKey, verdict: u32) {
        self.trie("VERDICTS").insert(&Key::new(bits, key), verdict, 0).unwrap();
    }

    /// Takes back what [`classify`](Self::classify) wrote, if it is still there.
    pub(crate) fn forget_class(&mut self, network: (IpAddr, u32)) {
        drop(self.hash::<Address, u32>("ADDRESSES").remove(&network.0.into()));
        drop(self.trie::<Address, u32>("RANGES").remove(&prefix(network)));
    }

    /// Takes back what [`decide`](Self::decide) wrote, if it is still there.
    pub(crate) fn forget_verdict(&mut self, bits: u32, key: VerdictKey) {
        drop(self.trie::<VerdictKey, u32>("VERDICTS").remove(&Key::new(bits, key)));
    }

    /// An entry of `FLOWS` or `EMBRYOS`.
    pub(crate) fn flow(&mut self, map: &str, key: FlowKey) -> Option<Flow> {
        self.hash(map).get(&key, 0).ok()
    }

    /// Whether the stack has a flow.
    pub(crate) fn is_stacked(&mut self, key: FlowKey) -> bool {
        self.hash::<_, Stacked>("STACKED").get(&key, 0).is_ok()
    }

    /// One of the hashes.
    pub(crate) fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }

    fn trie<K: Pod, V: Pod>(&mut self, name: &str) -> LpmTrie<&mut MapData, K, V> {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }

    /// Packets counted so far.
    pub(crate) fn counted(&self, counter: Counter) -> u64 {
        let map: PerCpuArray<_, u64> = self.ebpf.map("COUNTERS").unwrap().try_into().unwrap();
        map.get(&counter.index(), 0).unwrap().iter().sum()
    }

    /// What was not told of: `UNTOLD` or `UNTOLD_DENIALS`.
    pub(crate) fn untold(&self, index: u32) -> u64 {
        let map: PerCpuArray<_, u64> = self.ebpf.map("COUNTERS").unwrap().try_into().unwrap();
        map.get(&index, 0).unwrap().iter().sum()
    }

    /// The packets that were dropped, by why.
    pub(crate) fn denials(&self) -> BTreeMap<Denial, u64> {
        let map: PerCpuHashMap<_, Denial, u64> = self.ebpf.map("DENIALS").unwrap().try_into().unwrap();
        let denials = map.iter().map(|denial| {
            let (denial, by_cpu) = denial.unwrap();
            (denial, by_cpu.iter().sum())
        });
        denials.collect()
    }

    /// All of them, in the order of [`Counter::ALL`].
    pub(crate) fn all_counted(&self) -> [u64; Counter::ALL.len()] {
        Counter::ALL.map(|counter| self.counted(counter))
    }
}

/// The object with maps as small as tests need, and no program in the kernel.
fn read(weakly_ordered: u32) -> Ebpf {
    let mut loader = EbpfLoader::new();
    // Without it all that the verifier thinks is written down, each time.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    loader.override_global("WEAKLY_ORDERED", &weakly_ordered, true);
    for map in ["ADDRESSES", "VERDICTS", "FLOWS", "EMBRYOS", "STACKED", "FRAGMENTS"] {
        loader.map_max_entries(map, ENTRIES);
    }
    loader.load_file(object()).unwrap()
}

fn prefix((address, bits): (IpAddr, u32)) -> Key<Address> {
    let before = if address.is_ipv4() { IPV4_PREFIX_LEN } else { 0 };
    Key::new(before + bits, address.into())
}

/// The flow between two ends.
pub(crate) fn key(protocol: u8, one: (IpAddr, u16), other: (IpAddr, u16)) -> FlowKey {
    let end = |(address, port): (IpAddr, u16)| (Address::from(address), port.to_be_bytes());
    let (low, high) = (end(one).min(end(other)), end(one).max(end(other)));
    FlowKey { low: low.0, high: high.0, low_port: low.1, high_port: high.1, protocol, padding: [0; 3] }
}
