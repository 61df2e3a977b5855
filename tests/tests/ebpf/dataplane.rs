//! The programs of the dataplane with maps of their own.

use std::path::PathBuf;

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, programs::SchedClassifier};

/// All programs.
pub(crate) const PROGRAMS: [&str; 4] = ["from_pod", "from_uplink", "to_pod", "to_uplink"];

/// Which of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Object {
    /// The short way between the pods of a node.
    Node,
    /// Between nodes too.
    Nodes,
}

/// Loads all programs, with maps as small as tests need.
pub(crate) fn load(object: Object) -> Ebpf {
    let file = match object {
        Object::Node => "../target/bpf/margay-dataplane",
        Object::Nodes => "../target/bpf/margay-dataplane-gpl",
    };
    let object = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
    assert!(object.exists(), "{} is not built: run `make ebpf`", object.display());
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for map in ["ADDRESSES", "VERDICTS", "FLOWS", "EMBRYOS", "STACKED", "FRAGMENTS"] {
        loader.map_max_entries(map, 4096);
    }
    let mut ebpf = loader.load_file(&object).unwrap();
    for name in PROGRAMS {
        program(&mut ebpf, name).load().unwrap_or_else(|error| panic!("{name}: {error:#?}"));
    }
    ebpf
}

/// One of them.
pub(crate) fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut SchedClassifier {
    ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name} in the object")).try_into().unwrap()
}
