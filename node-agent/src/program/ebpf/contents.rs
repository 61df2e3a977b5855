//! What the maps of policy are to hold.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use margay_api::endpoint::EndpointId;
use margay_ebpf_common::{
    address::{Address, IPV4_PREFIX_LEN},
    denial::{self, Denial},
    endpoint::{Endpoint, PEER},
    verdict::{ALLOW, ANY_CLASS, CLUSTER, EGRESS, INGRESS, ISOLATE, NO_CLASS, TELL, VerdictKey},
};
use margay_netlink::MacAddr;
use margay_policy::compile::{
    Cause, CauseId, Changes, ClassId, Compiler, Direction, DirectionChange, Entries, PolicySetId, Verdict,
    Way,
};

use super::{
    links::Attached,
    mirror::Mirror,
    prefix::{self, Prefix},
};
use crate::{decide::Admitted, program::nft::Origin};

/// The maps that the agent writes, as wanted.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) endpoints: Mirror<u32, Endpoint>,
    pub(super) local: Mirror<Address, u32>,
    pub(super) uplinks: Mirror<u32, u32>,
    pub(super) addresses: Mirror<Address, u32>,
    pub(super) ranges: Mirror<Prefix<Address>, u32>,
    pub(super) pods: Mirror<Prefix<Address>, u32>,
    pub(super) verdicts: Mirror<Prefix<VerdictKey>, u32>,
}

impl Contents {
    /// Has the maps hold what the compiler says now, of what has changed.
    pub(super) fn policy(&mut self, compiler: &Compiler, changes: &Changes) {
        for address in &changes.addresses {
            match compiler.class_of(*address) {
                Some(class) => self.addresses.put((*address).into(), class.0),
                None => self.addresses.remove(&(*address).into()),
            }
        }
        // Ranges that are no more first: those that came in their place may have prefixes of theirs.
        for range in &changes.ranges {
            if compiler.class_of_range(range).is_none() {
                prefix::of_addresses(range).for_each(|prefix| self.ranges.remove(&prefix));
            }
        }
        for range in &changes.ranges {
            if let Some(class) = compiler.class_of_range(range) {
                prefix::of_addresses(range).for_each(|prefix| self.ranges.put(prefix, class.0));
            }
        }
        // Prefixes of IPv6 that hold the mapped addresses, as ::/0 does, are not about IPv4.
        let ipv4 = Prefix { data: Address::from_ipv4([0; 4]), len: IPV4_PREFIX_LEN };
        if !self.ranges.wanted().contains_key(&ipv4) {
            self.ranges.put(ipv4, NO_CLASS);
        }
        for (id, change) in &changes.sets {
            let set = compiler.set(*id);
            for way in Way::ALL {
                self.direction(*id, way, set.and_then(|set| set.way(way)), change.way(way));
            }
        }
    }

    /// Has the maps hold the endpoints of which the links are attached.
    pub(super) fn endpoints(
        &mut self,
        wanted: &BTreeMap<EndpointId, Admitted>,
        attached: &BTreeMap<String, Attached>,
    ) {
        let mut endpoints = BTreeMap::new();
        // An address on two links is no proof of who sends.
        let mut links: BTreeMap<Address, BTreeSet<u32>> = BTreeMap::new();
        for admitted in wanted.values() {
            let record = &admitted.endpoint;
            let Some(Attached { index, goes_round }) = attached.get(&record.host_ifname) else { continue };
            // The plugin has written what the kernel told it.
            let [Ok(mac), Ok(host_mac)] = [&record.mac, &record.host_mac].map(|mac| mac.parse::<MacAddr>())
            else {
                continue;
            };
            let number = |way| match admitted.set {
                Some(set) if admitted.ways.contains(&way) => number(set),
                _ => 0,
            };
            let endpoint = Endpoint {
                ingress: number(Way::Ingress),
                egress: number(Way::Egress),
                flags: if *goes_round { PEER } else { 0 },
                mtu: record.mtu,
                mac: mac.octets(),
                host_mac: host_mac.octets(),
            };
            endpoints.insert(*index, endpoint);
            for address in &record.addresses {
                links.entry((*address).into()).or_default().insert(*index);
            }
        }
        self.endpoints.replace(endpoints);
        let sole = links.into_iter().filter(|(_, links)| links.len() == 1);
        self.local.replace(sole.filter_map(|(address, links)| Some((address, links.first().copied()?))));
    }

    /// Has the maps hold which addresses are of pods.
    pub(super) fn pods(&mut self, blocks: &BTreeSet<IpNetwork>) {
        self.pods.replace(blocks.iter().map(|block| (prefix::of_network(*block), 0)));
    }

    /// Whether the kernel may lack something.
    pub(super) fn is_dirty(&self) -> bool {
        let Self { endpoints, local, uplinks, addresses, ranges, pods, verdicts } = self;
        endpoints.is_dirty()
            || local.is_dirty()
            || uplinks.is_dirty()
            || addresses.is_dirty()
            || ranges.is_dirty()
            || pods.is_dirty()
            || verdicts.is_dirty()
    }

    /// How many entries each map is to have, by its field in the section `ebpf`.
    pub(super) fn entries(&self) -> [(&'static str, usize); 7] {
        let Self { endpoints, local, uplinks, addresses, ranges, pods, verdicts } = self;
        [
            ("endpoints", endpoints.wanted().len()),
            ("local", local.wanted().len()),
            ("uplinks", uplinks.wanted().len()),
            ("addresses", addresses.wanted().len()),
            ("ranges", ranges.wanted().len()),
            ("pods", pods.wanted().len()),
            ("verdicts", verdicts.wanted().len()),
        ]
    }

    /// Takes note that nobody knows what the kernel holds.
    pub(super) fn lose(&mut self) {
        let Self { endpoints, local, uplinks, addresses, ranges, pods, verdicts } = self;
        endpoints.lose();
        local.lose();
        uplinks.lose();
        addresses.lose();
        ranges.lose();
        pods.lose();
        verdicts.lose();
    }

    fn direction(&mut self, set: PolicySetId, way: Way, now: Option<&Direction>, change: &DirectionChange) {
        if *change == DirectionChange::default() {
            return;
        }
        let Some(now) = now else {
            let in_set = |class| rest(set, way, class);
            let of_set: Vec<_> = self
                .verdicts
                .wanted()
                .range(first(in_set(0))..=last(in_set(ANY_CLASS)))
                .filter(|(key, _)| key.data.way == in_set(0).way)
                .map(|(key, _)| *key)
                .collect();
            for key in &of_set {
                self.verdicts.remove(key);
            }
            return;
        };
        if change.any {
            self.class(rest(set, way, ANY_CLASS), Some(&now.any));
        }
        for ClassId(class) in &change.classes {
            self.class(rest(set, way, *class), now.classes.get(&ClassId(*class)));
        }
    }

    fn class(&mut self, rest: VerdictKey, entries: Option<&Entries>) {
        self.verdicts.remove_range(first(rest)..=last(rest));
        let Some(Entries { ports, rest: others }) = entries else { return };
        let others = value(*others);
        self.verdicts.put(Prefix { data: rest, len: VerdictKey::REST }, others);
        for entry in ports.iter().filter(|entry| value(entry.verdict) != others) {
            for key in prefix::of_ports(rest, entry.protocol.number(), entry.ports) {
                self.verdicts.put(key, value(entry.verdict));
            }
        }
    }
}

/// The number by which the maps know a policy set.
fn number(set: PolicySetId) -> u32 {
    // Sets are numbered as they come; this takes four thousand million of them to wrap.
    set.0.wrapping_add(1)
}

fn value(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Allow => ALLOW,
        Verdict::Audit(_) => TELL,
        Verdict::Deny(Cause::Isolation) => ISOLATE,
        // They are numbered as they come, too.
        Verdict::Deny(Cause::Cluster(CauseId(number))) => CLUSTER | number,
    }
}

/// Why packets were dropped, as nftables says it; `None` for a reason that no agent has written.
pub(crate) fn origin(denial: Denial) -> Option<Origin> {
    let isolation = |way| Origin::Isolation(PolicySetId(denial.number.wrapping_sub(1)), way);
    match denial.by {
        denial::INGRESS => Some(isolation(Way::Ingress)),
        denial::EGRESS => Some(isolation(Way::Egress)),
        denial::CLUSTER => Some(Origin::Cluster(CauseId(denial.number))),
        _ => None,
    }
}

/// The key of what a class may where no port says else.
fn rest(set: PolicySetId, way: Way, class: u32) -> VerdictKey {
    let way = match way {
        Way::Ingress => INGRESS,
        Way::Egress => EGRESS,
    };
    VerdictKey { set: number(set), class, way, protocol: 0, port: [0; 2] }
}

/// The first key, in their order, of a class.
fn first(rest: VerdictKey) -> Prefix<VerdictKey> {
    Prefix { data: rest, len: 0 }
}

/// The last one.
fn last(rest: VerdictKey) -> Prefix<VerdictKey> {
    Prefix { data: VerdictKey { protocol: u8::MAX, port: [u8::MAX; 2], ..rest }, len: u32::MAX }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use margay_ebpf_common::{
        denial::{self, Denial},
        verdict::{ALLOW, ANY_CLASS, CLUSTER, ISOLATE, TELL, VerdictKey},
    };
    use margay_policy::{
        PortRange, PortSet, Protocol,
        compile::{
            Cause, CauseId, ClassId, Direction, DirectionChange, Entries, PolicySetId, PortEntry, Verdict,
            Way,
        },
    };
    use proptest::{
        collection::{btree_map, vec},
        prelude::*,
        sample::select,
    };

    use super::{Contents, origin, rest, value};
    use crate::program::nft::Origin;

    const SET: PolicySetId = PolicySetId(3);

    fn verdict() -> impl Strategy<Value = Verdict> {
        select(vec![
            Verdict::Allow,
            Verdict::Deny(Cause::Isolation),
            Verdict::Deny(Cause::Cluster(CauseId(1))),
            Verdict::Audit(Cause::Isolation),
        ])
    }

    /// Entries as the compiler makes them: disjoint, and other than the rest.
    fn entries() -> impl Strategy<Value = Entries> {
        let range = (0_u16..40, 0_u16..20).prop_map(|(first, more)| PortRange { first, last: first + more });
        let part = (select(Protocol::ALL.to_vec()), range, verdict());
        (vec(part, 0..5), verdict()).prop_map(|(parts, rest)| {
            let mut taken = PortSet::nothing();
            let mut ports = Vec::new();
            for (protocol, range, verdict) in parts {
                let mut wanted = PortSet::nothing();
                wanted.insert(protocol, range);
                let free = wanted.minus(&taken);
                taken.extend(&wanted);
                if verdict != rest {
                    ports.extend(free.ranges().map(|(protocol, ports)| PortEntry {
                        protocol,
                        ports,
                        verdict,
                    }));
                }
            }
            ports.sort_unstable();
            Entries { ports, rest }
        })
    }

    fn direction() -> impl Strategy<Value = Direction> {
        (btree_map((0_u32..4).prop_map(ClassId), entries(), 0..4), entries())
            .prop_map(|(classes, any)| Direction { classes, any, isolating: Vec::new(), audited: Vec::new() })
    }

    /// What has changed from one to the other.
    fn change(before: Option<&Direction>, after: Option<&Direction>) -> DirectionChange {
        let classes = |it: Option<&Direction>| it.map(|it| it.classes.clone()).unwrap_or_default();
        let (old, new) = (classes(before), classes(after));
        let named: BTreeSet<ClassId> = old.keys().chain(new.keys()).copied().collect();
        DirectionChange {
            any: before.map(|it| &it.any) != after.map(|it| &it.any),
            classes: named.into_iter().filter(|class| old.get(class) != new.get(class)).collect(),
        }
    }

    /// What a program finds.
    fn looked_up(contents: &Contents, key: VerdictKey) -> Option<u32> {
        let bits = |key: VerdictKey| -> u128 {
            let [set, class] = [key.set, key.class].map(u32::to_be_bytes);
            let tail = [key.way, key.protocol, key.port[0], key.port[1]];
            [set, class, tail].concat().into_iter().fold(0, |bits, octet| bits << 8 | u128::from(octet))
        };
        let matching = contents.verdicts.wanted().iter().filter(|(prefix, _)| {
            let shift = VerdictKey::PORT - prefix.len;
            bits(prefix.data) >> shift == bits(key) >> shift
        });
        matching.max_by_key(|(prefix, _)| prefix.len).map(|(_, verdict)| *verdict)
    }

    #[test]
    fn why_a_packet_is_dropped_is_read_from_what_the_maps_said() {
        for way in Way::ALL {
            let by = u32::from(rest(SET, way, 0).way);
            let said = origin(Denial { by, number: rest(SET, way, 0).set });
            assert_eq!(said, Some(Origin::Isolation(SET, way)));
        }
        let cause = CauseId(4);
        let written = value(Verdict::Deny(Cause::Cluster(cause)));
        let denial = Denial { by: denial::CLUSTER, number: written & !CLUSTER };
        assert_eq!((written & CLUSTER, origin(denial)), (CLUSTER, Some(Origin::Cluster(cause))));
        assert_eq!(origin(Denial { by: denial::NOBODY, number: 0 }), None);
        let all = [Verdict::Allow, Verdict::Audit(Cause::Isolation), Verdict::Deny(Cause::Isolation)];
        assert_eq!(all.map(value), [ALLOW, TELL, ISOLATE]);
    }

    proptest! {
        #[test]
        fn programs_find_what_the_compiler_says_whatever_was_before(
            steps in vec(prop::option::of(direction()), 1..4),
            other in direction(),
            asked in vec((0_u32..6, select(Protocol::ALL.to_vec()), 0_u16..64), 20),
        ) {
            let mut contents = Contents::default();
            // A neighbour in the same set is never touched.
            contents.direction(SET, Way::Egress, Some(&other), &change(None, Some(&other)));
            let mut before: Option<&Direction> = None;
            for step in &steps {
                let change = change(before, step.as_ref());
                contents.direction(SET, Way::Ingress, step.as_ref(), &change);
                before = step.as_ref();
            }
            for (way, now) in [(Way::Ingress, before), (Way::Egress, Some(&other))] {
                for (class, protocol, port) in &asked {
                    let key = |class| VerdictKey {
                        protocol: protocol.number(),
                        port: port.to_be_bytes(),
                        ..rest(SET, way, class)
                    };
                    let found = looked_up(&contents, key(*class)).or_else(|| looked_up(&contents, key(ANY_CLASS)));
                    let said = now.map(|now| now.of(ClassId(*class)).verdict(Some((*protocol, *port))));
                    prop_assert_eq!(
                        found,
                        said.map(value),
                        "class {} {:?} {}", class, protocol, port
                    );
                }
            }
            let mut fresh = Contents::default();
            fresh.direction(SET, Way::Egress, Some(&other), &change(None, Some(&other)));
            fresh.direction(SET, Way::Ingress, before, &change(None, before));
            let held: BTreeMap<_, _> = contents.verdicts.wanted().clone();
            prop_assert_eq!(&held, fresh.verdicts.wanted());
        }
    }
}
