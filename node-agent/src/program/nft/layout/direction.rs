//! What one direction of a policy set takes: the maps that it asks, its bands and its chains.

use margay_netlink::nftables::{self, Chain, Data, Field, Found, Key, Rule, SetKind, Type};
use margay_policy::{
    PortRange, Protocol,
    compile::{ClassId, Direction, Entries, PortEntry, Way},
};

use super::super::{
    band::{Bands, Named, is_range},
    rule::{self, goto, rule, verdict},
    table::Table,
};
use super::{
    Entry,
    cause::{CAUSES, Cause, Decision, cause_of, cluster_cause, put_own_cause, remove_cause},
};

/// A map of a direction; they are asked in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lookup {
    /// What a class may do on a port.
    Ports,
    /// The same on ports from one to another, which are of a band.
    Ranges,
    /// The rest of a class.
    Classes,
    /// What everybody else may do on a port.
    Any,
    /// The same on ports from one to another.
    AnyRanges,
}

impl Lookup {
    const ALL: [Self; 5] = [Self::Ports, Self::Ranges, Self::Classes, Self::Any, Self::AnyRanges];

    /// Those that have elements, of a direction whose classes name these ports: a packet passes the others by.
    pub(crate) fn of(direction: &Direction, named: &Named) -> Vec<Self> {
        let by_any = |wanted: bool| direction.any.ports.iter().any(|entry| is_range(entry) == wanted);
        let has_elements = |lookup: &Self| match lookup {
            Self::Ports => named.has_few(),
            Self::Ranges => named.has_ranges(),
            Self::Classes => !direction.classes.is_empty(),
            Self::Any => by_any(false),
            Self::AnyRanges => by_any(true),
        };
        Self::ALL.into_iter().filter(has_elements).collect()
    }

    /// The name of the map, of a direction that [`chain_of`] names.
    fn name(self, chain: &str) -> String {
        let suffix = match self {
            Self::Ports => "ports",
            Self::Ranges => "ranges",
            Self::Classes => "classes",
            Self::Any => "any",
            Self::AnyRanges => "any_ranges",
        };
        format!("{chain}_{suffix}")
    }

    fn kind(self) -> SetKind {
        use Type::{ClassId, InetProto, InetService, Verdict};
        let (key, data, intervals): (&[Type], Type, bool) = match self {
            Self::Ports => (&[ClassId, InetProto, InetService], ClassId, false),
            Self::Ranges => (&[InetProto, InetService], Verdict, true),
            Self::Classes => (&[ClassId], ClassId, false),
            Self::Any => (&[InetProto, InetService], ClassId, false),
            Self::AnyRanges => (&[InetProto, InetService], ClassId, true),
        };
        SetKind { key, data: Some(data), intervals }
    }

    /// Loads the key.
    fn key(self) -> Rule {
        match self {
            Self::Ports => rule::class_and_port(),
            Self::Classes => vec![rule::priority()],
            Self::Ranges | Self::Any | Self::AnyRanges => rule::protocol_and_port(),
        }
    }

    /// What it decides, or leaves to the chain of a band, in the direction that [`chain_of`] names.
    fn rule(self, chain: &str) -> Rule {
        if self == Self::Ranges {
            rule([self.key(), vec![rule::lookup(&self.name(chain), Found::Verdict)]])
        } else {
            decided(self.key(), &self.name(chain), chain)
        }
    }
}

/// The name of the chain of a band, which [`Lookup::Ranges`] leads to, in a direction that [`chain_of`] names.
fn band_chain(chain: &str, protocol: Protocol, band: PortRange) -> String {
    format!("{chain}_{}_{}", protocol.to_string().to_lowercase(), band.first)
}

/// The name of what the chain of a band asks: what each class may do on its ports.
fn classes_of(band_chain: &str) -> String {
    format!("{band_chain}_classes")
}

/// Wants the chain of a band and what it asks.
pub(crate) fn put_band(table: &mut Table, chain: &str, (protocol, band): (Protocol, PortRange)) {
    let name = band_chain(chain, protocol, band);
    table.put_set(&classes_of(&name), Lookup::Classes.kind());
    let rules = vec![decided(Lookup::Classes.key(), &classes_of(&name), chain), goto(&rest_of(chain))];
    table.put_chain(&name, Chain::regular(rules));
}

/// Wants a band no more.
pub(crate) fn remove_band(table: &mut Table, chain: &str, (protocol, band): (Protocol, PortRange)) {
    let name = band_chain(chain, protocol, band);
    table.remove_chain(&name);
    table.remove_set(&classes_of(&name));
}

/// The element that leads to a band.
pub(crate) fn of_band(chain: &str, (protocol, band): (Protocol, PortRange)) -> Entry {
    let verdict = nftables::Verdict::Goto(band_chain(chain, protocol, band));
    Entry {
        set: Lookup::Ranges.name(chain).into(),
        key: vec![number_of(protocol), numbers_of(band)],
        data: Some(Data::Verdict(verdict)),
    }
}

/// The name of the chain of the look-ups after [`Lookup::Ranges`], where there is that.
fn rest_of(chain: &str) -> String {
    format!("{chain}_rest")
}

/// The name of the chain that does what was decided.
fn verdict_chain(chain: &str) -> String {
    format!("{chain}_verdict")
}

/// Ends the direction with what a map holds for a key, if it holds anything.
fn decided(key: Rule, map: &str, chain: &str) -> Rule {
    let decision = rule::lookup(map, Found::Value(rule::FIRST));
    rule([key, vec![decision, rule::set_priority()], goto(&verdict_chain(chain))])
}

/// The elements of a class in a direction that [`chain_of`] names, but for those of [`of_class_in_bands`].
pub(crate) fn of_class(chain: &str, id: ClassId, entries: &Entries) -> Vec<Entry> {
    let class = Field::Number(id.0);
    let set = Lookup::Ports.name(chain);
    let few = entries.ports.iter().filter(|entry| !is_range(entry));
    let ports = few.flat_map(|entry| {
        let key = |port: u16| vec![class.clone(), number_of(entry.protocol), Field::Number(port.into())];
        each(entry.ports).map(|port| of_entry(set.clone(), key(port), entry)).collect::<Vec<_>>()
    });
    let rest = Entry {
        set: Lookup::Classes.name(chain).into(),
        key: vec![class.clone()],
        data: Some(Decision::from(entries.rest).data()),
    };
    ports.chain([rest]).collect()
}

/// What a class may do on ranges of ports, in a direction that [`chain_of`] names, with these bands.
pub(crate) fn of_class_in_bands(chain: &str, id: ClassId, entries: &Entries, bands: &Bands) -> Vec<Entry> {
    let ranges = entries.ports.iter().filter(|entry| is_range(entry));
    let of_range = |entry: &PortEntry| {
        let set = |band| classes_of(&band_chain(chain, entry.protocol, band));
        let element = |band| of_entry(set(band), vec![Field::Number(id.0)], entry);
        bands.within(entry).map(element).collect::<Vec<_>>()
    };
    ranges.flat_map(of_range).collect()
}

/// The elements of what a direction says of everybody else.
pub(crate) fn of_any(chain: &str, any: &Entries) -> Vec<Entry> {
    let of_ports = |entry: &PortEntry| {
        if is_range(entry) {
            let key = vec![number_of(entry.protocol), numbers_of(entry.ports)];
            vec![of_entry(Lookup::AnyRanges.name(chain), key, entry)]
        } else {
            let key = |port: u16| vec![number_of(entry.protocol), Field::Number(port.into())];
            let set = Lookup::Any.name(chain);
            each(entry.ports).map(|port| of_entry(set.clone(), key(port), entry)).collect()
        }
    };
    any.ports.iter().flat_map(of_ports).collect()
}

fn of_entry(set: String, key: Key, entry: &PortEntry) -> Entry {
    Entry { set: set.into(), key, data: Some(Decision::from(entry.verdict).data()) }
}

fn each(ports: PortRange) -> impl Iterator<Item = u16> {
    ports.first..=ports.last
}

fn number_of(protocol: Protocol) -> Field {
    Field::Number(protocol.number().into())
}

fn numbers_of(ports: PortRange) -> Field {
    Field::Numbers(ports.first.into(), ports.last.into())
}

/// Wants the chains of a direction that [`chain_of`] names, the maps that it asks, its causes and what it says of
/// everybody else; its bands and classes are not among that. Where it is there already, what it said of everybody else is
/// taken away before, by the elements of [`of_any`].
pub(crate) fn put_direction(
    table: &mut Table,
    chain: &str,
    way: Way,
    direction: &Direction,
    lookups: &[Lookup],
) {
    // The kernel looks for a set among all of a table, one by one: fewer of them make every change cheaper.
    for lookup in Lookup::ALL {
        let name = lookup.name(chain);
        if lookups.contains(&lookup) {
            table.put_set(&name, lookup.kind());
        } else {
            table.remove_set(&name);
        }
    }
    put_own_cause(table, chain, way, Cause::Drop);
    if direction.audited.is_empty() {
        remove_cause(table, chain, Cause::Audit);
    } else {
        put_own_cause(table, chain, way, Cause::Audit);
    }
    let last = match Decision::from(direction.any.rest) {
        Decision::Pass => verdict(nftables::Verdict::Return),
        Decision::Own(cause) => goto(&cause_of(chain, cause)),
        Decision::Cluster(id, cause) => goto(&cause_of(&cluster_cause(id), cause)),
    };
    let of = |lookups: &[Lookup]| lookups.iter().map(|lookup| lookup.rule(chain)).collect::<Vec<Rule>>();
    // A packet on ports of a band does not come back from there: a return is what lets it pass the direction.
    let after = lookups.iter().position(|lookup| *lookup == Lookup::Ranges).map(|place| place + 1);
    let (first, rest) = lookups.split_at(after.unwrap_or_default());
    let rest = [of(rest), vec![last]].concat();
    if after.is_some() {
        table.put_chain(chain, Chain::regular([of(first), vec![goto(&rest_of(chain))]].concat()));
        table.put_chain(&rest_of(chain), Chain::regular(rest));
    } else {
        table.put_chain(chain, Chain::regular(rest));
        table.remove_chain(&rest_of(chain));
    }
    let is = |decision: Decision| rule::priority_is(decision.number());
    let mut rules = vec![rule([is(Decision::Pass), verdict(nftables::Verdict::Return)])];
    if !direction.audited.is_empty() {
        rules.push(rule([is(Decision::Own(Cause::Audit)), goto(&cause_of(chain, Cause::Audit))]));
    }
    rules.push(rule([vec![rule::priority(), rule::lookup(CAUSES, Found::Verdict)]]));
    // What no cause is known of is dropped, too.
    rules.push(goto(&cause_of(chain, Cause::Drop)));
    table.put_chain(&verdict_chain(chain), Chain::regular(rules));
    for entry in of_any(chain, &direction.any) {
        entry.put(table);
    }
}

/// Wants a direction no more, nor its sets with all classes, nor its cause; its bands are gone.
pub(crate) fn remove_direction(table: &mut Table, chain: &str) {
    table.remove_chain(chain);
    table.remove_chain(&rest_of(chain));
    table.remove_chain(&verdict_chain(chain));
    for lookup in Lookup::ALL {
        table.remove_set(&lookup.name(chain));
    }
    remove_cause(table, chain, Cause::Drop);
    remove_cause(table, chain, Cause::Audit);
}
