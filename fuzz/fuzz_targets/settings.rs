//! The agent's file, an empty line, and `NetworkConfig` as the API has it: what comes of both is checked, or the field is named.
#![no_main]
#![allow(dead_code)]

#[path = "../../node-agent/src/config/mod.rs"]
mod config;
#[path = "../../node-agent/src/node_address/method.rs"]
mod node_address_method;
mod node_address {
    pub(crate) use super::node_address_method::{File, NodeAddress};
}
#[path = "../../node-agent/src/program/ebpf/sizes.rs"]
mod sizes;
mod program {
    pub(crate) mod ebpf {
        pub(crate) use crate::sizes::{Sizes, SizesFile};
    }
}
#[path = "../../node-agent/src/traffic.rs"]
mod traffic;
#[path = "../../node-agent/src/ways/file.rs"]
mod ways;

use clap::Parser;
use config::{Cli, Sources};
use libfuzzer_sys::fuzz_target;
use margay_api::resource::NetworkConfigSpec;
use margay_fuzz::halves;

thread_local! {
    /// No flags; the environment is the same for all inputs.
    static CLI: Cli = Cli::parse_from(["margay-node"]);
}

fuzz_target!(|input: &[u8]| {
    let (file, common) = halves(input);
    let Ok(file) = std::str::from_utf8(file) else { return };
    let Ok(sources) = Sources::of(CLI.with(Clone::clone), file) else { return };
    let own = sources.settings(None);
    let Ok(common) = serde_json::from_slice::<NetworkConfigSpec>(common) else { return };
    let both = sources.settings(Some(&common));
    for refused in [own.as_ref().err(), both.as_ref().err()].into_iter().flatten() {
        assert!(!format!("{refused:#}").is_empty());
    }
    if let (Ok(mut own), Ok(both)) = (own, both) {
        // What is followed is what would have been taken at the start, but for what is named.
        let later = own.follow(both.clone());
        assert!(own.mtu.is_none_or(|mtu| mtu.octets() >= 1280));
        assert!(later.iter().all(|field| !field.is_empty()));
        assert!(own.clone().follow(both) == later, "following twice is following once");
    }
});
