//! What of the table each piece of state needs.
//!
//! The functions are about one piece each: an address with its class, a range, an endpoint, a policy set's direction,
//! a class in it, a cause. Whoever calls them keeps account of the pieces, and [`Table`] of what that changes.

mod base;
mod cause;
mod direction;
mod masquerade;
mod tunnel;

use std::{borrow::Cow, net::IpAddr};

use margay_api::endpoint::Endpoint;
use margay_netlink::nftables::{self, Data, Field, Key};
use margay_policy::{
    AddressRange,
    compile::{ClassId, PolicySetId, Way},
};

pub(crate) use self::{
    base::put_base,
    cause::{
        Cause, LOG_GROUP, LOG_SNAPLEN, cause_names, cause_of, chain_of, cluster_cause, cluster_cause_names,
        put_cluster_cause, remove_cluster_cause,
    },
    direction::{
        Lookup, of_any, of_band, of_class, of_class_in_bands, put_band, put_direction, remove_band,
        remove_direction,
    },
    masquerade::{put_masquerade, remove_masquerade},
    tunnel::{of_tunnel_ends, put_untracked, remove_untracked},
};
use super::table::Table;

/// An element with the set that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) set: Cow<'static, str>,
    pub(crate) key: Key,
    pub(crate) data: Option<Data>,
}

impl Entry {
    /// Wants it.
    pub(crate) fn put(self, table: &mut Table) {
        table.put(&self.set, self.key, self.data);
    }

    /// Wants it no more.
    pub(crate) fn remove(&self, table: &mut Table) {
        table.remove(&self.set, &self.key);
    }
}

/// The element of a pod's address.
pub(crate) fn of_address(address: IpAddr, class: ClassId) -> Entry {
    let set = by_family(address, "pods4", "pods6");
    Entry { set, key: vec![Field::Address(address)], data: Some(Data::Number(class.0)) }
}

/// The element of a range of addresses, which overlaps with no other.
pub(crate) fn of_range(range: &AddressRange, class: ClassId) -> Entry {
    let set = by_family(range.first, "blocks4", "blocks6");
    Entry { set, key: vec![Field::Addresses(range.first, range.last)], data: Some(Data::Number(class.0)) }
}

/// Wants an address to have no class of its own any more.
pub(crate) fn remove_address(table: &mut Table, address: IpAddr) {
    of_address(address, ClassId::NONE).remove(table);
}

/// Wants a range to have no class any more.
pub(crate) fn remove_range(table: &mut Table, range: &AddressRange) {
    of_range(range, ClassId::NONE).remove(table);
}

/// The elements of an endpoint that policy isolates in these ways, and whose pod may send from these addresses: its own
/// and those of the pod's other interfaces. A pod with several answers by its default route, with the address that it
/// was asked at.
pub(crate) fn of_endpoint(
    endpoint: &Endpoint,
    sources: &[IpAddr],
    isolated: &[(Way, PolicySetId)],
) -> Vec<Entry> {
    let name = || Field::Name(endpoint.host_ifname.as_str().into());
    let entry = |set: &'static str, key, data| Entry { set: set.into(), key, data };
    let mut entries = vec![entry("endpoints", vec![name()], None)];
    for address in sources {
        let set = by_family(*address, "sources4", "sources6");
        entries.push(Entry { set, key: vec![name(), Field::Address(*address)], data: None });
    }
    if !isolated.is_empty() {
        entries.push(entry("isolated", vec![name()], None));
    }
    for (way, id) in isolated {
        let data = || Some(Data::Verdict(nftables::Verdict::Jump(chain_of(*id, *way))));
        match way {
            Way::Ingress => entries.push(entry("ingress", vec![name()], data())),
            Way::Egress => {
                entries.push(entry("egress", vec![name()], data()));
                for address in &endpoint.addresses {
                    let set = by_family(*address, "egress4", "egress6");
                    entries.push(Entry { set, key: vec![Field::Address(*address)], data: data() });
                }
            }
        }
    }
    entries
}

/// The set for the family of an address.
fn by_family(address: IpAddr, v4: &'static str, v6: &'static str) -> Cow<'static, str> {
    if address.is_ipv4() { v4 } else { v6 }.into()
}
