//! Three judges of the same packets: the programs of the eBPF dataplane, the table of nftables, and the reference evaluator.
//!
//! Random clusters with random histories, those that the compiler is tested with (`policy/`), go through the agent's own
//! code into the maps and into the table of a network namespace. After each change random packets are judged:
//!
//! | judge | how it is asked | what it must say |
//! | --- | --- | --- |
//! | reference evaluator | straight from the objects | - |
//! | nftables | the packet is sent, by a link of its source | it comes out where its destination is exactly if the evaluator allows it |
//! | the programs | `BPF_PROG_TEST_RUN` | the short way exactly for what the evaluator plainly allows between two pods, and none for what it denies |
//!
//! "Plainly": with no policy in audit that would deny it. Of pods of other nodes, other nodes decide.

// The random clusters of the compiler's own tests.
#[path = "../../../../../policy/src/compile/tests/arbitrary.rs"]
mod arbitrary;
mod link;
mod node;
mod packet;

use std::cell::RefCell;

use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};

use self::{arbitrary::Probe, node::Node};
use crate::program::ebpf::own::with_bpf_fs;

/// Histories that `make test` tries.
const CASES: u32 = 144;

/// A packet, of which an end may be any local pod's address instead.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    probe: Probe,
    source: Option<Index>,
    destination: Option<Index>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let local = || prop::option::weighted(0.8, any::<Index>());
    (arbitrary::probe(), local(), local()).prop_map(|(probe, source, destination)| Sent {
        probe,
        source,
        destination,
    })
}

#[test]
fn programs_and_table_let_pass_what_the_reference_evaluator_allows() {
    // `make fuzz` asks for more.
    let more =
        std::env::var("MARGAY_FUZZ_FACTOR").ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(1);
    let config =
        ProptestConfig { cases: CASES * more, failure_persistence: None, ..ProptestConfig::default() };
    with_bpf_fs(|bpf_fs| {
        let node = RefCell::new(Node::new(bpf_fs));
        let judged =
            TestRunner::new(config).run(&(arbitrary::batches(), vec(sent(), 40)), |(batches, packets)| {
                let mut node = node.borrow_mut();
                node.restart();
                for batch in batches {
                    node.hear(batch);
                    for sent in &packets {
                        node.judge(sent)?;
                    }
                }
                Ok(())
            });
        judged.unwrap_or_else(|error| panic!("{error}"));
        // Judges who are asked about nothing agree, too.
        let seen = node.borrow().seen;
        assert!(seen.iter().all(|(_, packets)| *packets > 100), "{seen:?}");
    });
}
