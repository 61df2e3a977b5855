//! Objects of the API as the agent's watches read them, of any content: documents of JSON, each an object. What the agent takes of a
//! `BGPPeer`, the speaker takes.
#![no_main]
#![allow(dead_code)]

mod addresses {
    use margay_api::resource::Encapsulation;

    /// As in the agent.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub(crate) struct PoolTraffic {
        pub(crate) encapsulation: Encapsulation,
        pub(crate) nat_outgoing: bool,
    }
}

#[path = "../../node-agent/src/tunnels.rs"]
mod tunnels;

mod program {
    pub(crate) mod network_condition {
        /// As in the agent.
        pub(crate) const KINDS: [&str; 3] = ["PodNetworkImpaired", "PodShortWayClosed", "NetworkUnavailable"];
    }
}

#[path = "."]
mod watch {
    #[path = "../../node-agent/src/watch/bgp_configuration.rs"]
    mod bgp_configuration;
    #[path = "../../node-agent/src/watch/bgp_peer.rs"]
    mod bgp_peer;
    #[path = "../../node-agent/src/watch/endpoint_slice.rs"]
    mod endpoint_slice;
    #[path = "../../node-agent/src/watch/guarded.rs"]
    mod guarded;
    #[path = "../../node-agent/src/watch/ip_block.rs"]
    mod ip_block;
    #[path = "../../node-agent/src/watch/ip_pool.rs"]
    mod ip_pool;
    #[path = "../../node-agent/src/watch/namespace.rs"]
    mod namespace;
    #[path = "../../node-agent/src/watch/node.rs"]
    mod node;
    #[path = "../../node-agent/src/watch/pod.rs"]
    mod pod;
    #[path = "../../node-agent/src/watch/read.rs"]
    mod read;
    #[path = "../../node-agent/src/watch/service.rs"]
    mod service;

    use std::collections::BTreeMap;

    use k8s_openapi::{
        api::{
            core::v1::{Namespace, Node, Pod, Service},
            discovery::v1::EndpointSlice,
        },
        apimachinery::pkg::apis::meta::v1::Condition,
    };
    use margay_api::resource::{IPBlock, IPPool};
    use margay_bgp::{
        Asn,
        config::{Config, Neighbor, PolicyConfig},
    };
    use serde_json::Value;

    use self::{
        bgp_peer::{FilterFacts, PeerFacts},
        guarded::{Guarded, Kind},
        read::Read,
    };

    /// As in the agent.
    #[derive(Debug, Clone, Default, PartialEq)]
    pub(crate) struct Told {
        pub(crate) generation: Option<i64>,
        pub(crate) conditions: Vec<Condition>,
    }

    /// Of one object, which has a name as all do.
    pub(super) fn object(object: Value) {
        match object["kind"].as_str() {
            Some("BGPPeer") => {
                let facts = check("BGPPeer", of(object), bgp_peer::read);
                facts.iter().for_each(speaker_takes);
            }
            Some("BGPConfiguration") => drop(check("BGPConfiguration", of(object), bgp_configuration::read)),
            Some("IPPool") => {
                let facts = check("IPPool", of::<IPPool>(object), ip_pool::read);
                let Some(range) = facts.and_then(|facts| facts.pool.range.ok()) else { return };
                let block = range.block_of(range.cidr().network()).expect("the first block");
                assert!(block.prefix() == range.block_size() && range.cidr().contains(block.ip()));
                assert!(range.total_blocks() > 0);
            }
            Some("IPBlock") => drop(check("IPBlock", of::<IPBlock>(object), ip_block::read)),
            Some("Namespace") => drop(check("Namespace", of::<Namespace>(object), namespace::read)),
            Some("Pod") => {
                let common = pod::Common::default();
                if let Some(facts) = check("Pod", of::<Pod>(object), |pod| pod::read(pod, &common)) {
                    assert!(
                        facts.announced.is_none_or(|it| it.addresses.len() <= 16),
                        "believed without end"
                    );
                }
            }
            Some("Node") => {
                if let Some(facts) = check("Node", of::<Node>(object), |node| node::read(node, "n1")) {
                    let both =
                        facts.node.passed_over.iter().any(|address| facts.node.addresses.contains(address));
                    assert!(!both, "an address that is taken and passed over");
                }
            }
            // One without a spec, or for a name outside, is none here, and nothing is said of it.
            Some("Service") => drop(of::<Service>(object).map(|it| service::read(&it).value)),
            Some("EndpointSlice") => {
                drop(of::<EndpointSlice>(object).map(|slice| endpoint_slice::read(&slice, "n1").value));
            }
            _ => {}
        }
    }

    /// An object as a watch has it; one that has not its kind's form still has its name.
    fn of<O: Kind>(object: Value) -> Option<O> {
        let name = object["metadata"]["name"].as_str().map(str::to_owned);
        let guarded: Guarded<O> = serde_json::from_value(object).ok()?;
        match guarded.0 {
            Ok(object) => Some(object),
            Err(unreadable) => {
                assert_eq!(unreadable.metadata.name, name);
                assert!(!unreadable.error.is_empty());
                None
            }
        }
    }

    /// What is wrong says with which object; what is passed over says why.
    fn check<O, V>(kind: &str, object: Option<O>, read: impl Fn(&O) -> Read<V>) -> Option<V> {
        let Read { value, problems } = read(&object?);
        for problem in &problems {
            assert!(problem.starts_with(kind), "{problem}");
        }
        assert!(value.is_some() || !problems.is_empty(), "passed over in silence");
        value
    }

    /// The filters of a session that the agent takes are none that the speaker refuses.
    fn speaker_takes(facts: &PeerFacts) {
        let Ok(session) = &facts.session else { return };
        // As many rules as the schema lets pass.
        let filters = [&session.own.import, &session.own.export].into_iter().flatten();
        if filters.into_iter().any(|filter| filter.terms.len() > 32) {
            return;
        }
        let mut config = Config::new(
            Asn::TRANS,
            margay_bgp::BgpIdentifier::new(std::net::Ipv4Addr::LOCALHOST).expect("not 0"),
        );
        let mut neighbor = Neighbor::new("192.0.2.2".parse().expect("an address"), Asn::TRANS);
        neighbor.import = session.own.import.as_ref().map(|it| put("import", it, &mut config));
        neighbor.export = session.own.export.as_ref().map(|it| put("export", it, &mut config));
        config.neighbors.push(neighbor);
        if let Err(error) = config.check() {
            panic!("the speaker refuses what the agent takes: {error}");
        }
    }

    fn put(name: &str, filter: &FilterFacts, config: &mut Config) -> String {
        let mut lists = BTreeMap::new();
        let terms = filter.terms.iter().enumerate().map(|(index, (term, prefixes))| {
            let mut term = term.clone();
            if !prefixes.is_empty() {
                let list = format!("{name}-{index}");
                term.conditions.prefix = vec![list.clone()];
                lists.insert(list, prefixes.clone());
            }
            term
        });
        let policy = PolicyConfig { terms: terms.collect(), default: filter.default };
        config.policies.insert(name.to_owned(), policy);
        config.prefix_lists.extend(lists);
        name.to_owned()
    }
}

use libfuzzer_sys::fuzz_target;
use margay_api::annotation;
use serde_json::{Deserializer, Value};

fuzz_target!(|input: &[u8]| {
    for object in Deserializer::from_slice(input).into_iter::<Value>().map_while(Result::ok).take(32) {
        watch::object(object);
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let told = [
        annotation::pools(text).map(drop).err(),
        annotation::addresses(text).map(|all| assert!(all.len() <= 2)).err(),
        annotation::node_ips(text).map(|all| assert!(all.len() <= 2)).err(),
        annotation::log_drops(text).map(drop).err(),
    ];
    for error in told.into_iter().flatten() {
        let said = error.to_string();
        assert!(said.contains("margay.dev/") && said.len() <= 3 * 4096, "{} octets: {said}", said.len());
    }
});
