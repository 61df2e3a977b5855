//! What the calls so far must have left on a node, and what is found there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use margay_api::endpoint::{EndpointId, HOST_IFNAME_PREFIX, Records};
use margay_ipam::Store;
use margay_netlink::{
    Socket, addr,
    link::{self, IfName},
    neigh,
    netns::Namespace,
    route::{self, Filter, Protocol},
};
use serde_json::Value;

/// An interface of a container, by the numbers of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attachment {
    pub(super) container: usize,
    pub(super) interface: usize,
}

pub(super) const CONTAINERS: usize = 4;
/// Each with the network that it is attached to.
pub(super) const INTERFACES: [(&str, &str); 2] = [("eth0", "margay"), ("net1", "storage")];

impl Attachment {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..CONTAINERS)
            .flat_map(|container| (0..INTERFACES.len()).map(move |interface| Self { container, interface }))
    }

    pub(super) fn container_id(self) -> String {
        format!("container-{}", self.container)
    }

    pub(super) fn ifname(self) -> &'static str {
        INTERFACES[self.interface].0
    }

    pub(super) fn network(self) -> &'static str {
        INTERFACES[self.interface].1
    }

    pub(super) fn id(self) -> EndpointId {
        EndpointId::of(&self.container_id(), self.ifname())
    }
}

/// What is known of an attachment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Known {
    Absent,
    /// With the result of its ADD.
    Present(Value),
    /// A call for it was cut off.
    Unknown,
}

/// The state of a node as it must be.
#[derive(Debug)]
pub(super) struct Model {
    states: BTreeMap<Attachment, Known>,
}

impl Default for Model {
    fn default() -> Self {
        Self { states: Attachment::all().map(|attachment| (attachment, Known::Absent)).collect() }
    }
}

impl Model {
    pub(super) fn of(&self, attachment: Attachment) -> &Known {
        &self.states[&attachment]
    }

    pub(super) fn set(&mut self, attachment: Attachment, known: Known) {
        self.states.insert(attachment, known);
    }

    /// Takes a result of an ADD, whose addresses nobody else may have.
    pub(super) fn added(&mut self, attachment: Attachment, result: Value) {
        for (other, known) in &self.states {
            if let Known::Present(theirs) = known
                && *other != attachment
            {
                for address in addresses(&result) {
                    assert!(
                        !addresses(theirs).contains(&address),
                        "{address} is {attachment:?}'s and {other:?}'s"
                    );
                }
            }
        }
        self.set(attachment, Known::Present(result));
    }

    pub(super) fn unknown(&self) -> impl Iterator<Item = Attachment> {
        self.states.iter().filter(|(_, known)| **known == Known::Unknown).map(|(attachment, _)| *attachment)
    }

    fn present(&self) -> BTreeSet<(EndpointId, IpAddr)> {
        let of = |(attachment, known): (&Attachment, &Known)| match known {
            Known::Present(result) => {
                addresses(result).into_iter().map(|address| (attachment.id(), address)).collect()
            }
            _ => Vec::new(),
        };
        self.states.iter().flat_map(of).collect()
    }

    /// Compares with what is found, but for attachments of which a call was cut off. An address may be held for a
    /// moment longer than its pod is there.
    pub(super) fn compare(&self, found: &Found) -> Result<(), String> {
        let wanted = self.present();
        let unknown: BTreeSet<EndpointId> = self.unknown().map(Attachment::id).collect();
        if !wanted.is_subset(&found.held) {
            return Err(format!("held in blocks: {:?}, not {wanted:?}", found.held));
        }
        for (what, set) in found.sets() {
            let known: BTreeSet<_> = set.iter().filter(|(id, _)| !unknown.contains(id)).cloned().collect();
            if known != wanted {
                return Err(format!("{what}: {known:?}, not {wanted:?}"));
            }
            let distinct: BTreeSet<&IpAddr> = set.iter().map(|(_, address)| address).collect();
            if distinct.len() != set.len() {
                return Err(format!("{what}: an address is there twice: {set:?}"));
            }
        }
        let links: BTreeSet<_> = found.links.difference(&unknown).cloned().collect();
        let wanted: BTreeSet<_> = wanted.into_iter().map(|(id, _)| id).collect();
        if links == wanted { Ok(()) } else { Err(format!("links: {links:?}, not {wanted:?}")) }
    }

    /// Compares with what is found once the agent has looked: held is what is recorded. Of a call that was cut off there
    /// is a record, which the runtime takes down, with the addresses held, or nothing at all.
    pub(super) fn compare_settled(&self, found: &Found) -> Result<(), String> {
        self.compare(found)?;
        if found.held != found.recorded {
            return Err(format!("held in blocks: {:?}, recorded: {:?}", found.held, found.recorded));
        }
        for id in self.unknown().map(Attachment::id) {
            let is_in = |set: &BTreeSet<(EndpointId, IpAddr)>| set.iter().any(|(other, _)| *other == id);
            if !is_in(&found.recorded) && (found.links.contains(&id) || is_in(&found.routes)) {
                return Err(format!("{id} has a link or a route and no record"));
            }
        }
        Ok(())
    }
}

pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
}

/// What is on a node, each address with the endpoint that it is of.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    links: BTreeSet<EndpointId>,
    /// In blocks.
    pub(super) held: BTreeSet<(EndpointId, IpAddr)>,
    pub(super) recorded: BTreeSet<(EndpointId, IpAddr)>,
    routes: BTreeSet<(EndpointId, IpAddr)>,
    neighbours: BTreeSet<(EndpointId, IpAddr)>,
    /// On the interfaces inside.
    inside: BTreeSet<(EndpointId, IpAddr)>,
}

impl Found {
    /// Looks around in the namespace of the calling thread.
    pub(super) fn look(records: &Records, store: &Store, containers: &[Arc<Namespace>]) -> Self {
        let mut found = Self::default();
        let mut socket = Socket::open().unwrap();
        let mut names = BTreeMap::new();
        for link in link::list(&mut socket).unwrap() {
            let Some(digits) = link.name.strip_prefix(HOST_IFNAME_PREFIX) else { continue };
            let id: EndpointId = digits.parse().unwrap();
            for neighbour in neigh::list_on(&mut socket, link.index).unwrap() {
                if neighbour.permanent {
                    found.neighbours.insert((id.clone(), neighbour.address));
                }
            }
            found.links.insert(id.clone());
            names.insert(link.index, id);
        }
        let filter = Filter { table: None, protocol: Some(Protocol::MARGAY) };
        for route in route::list(&mut socket, filter).unwrap() {
            let route::Kind::Unicast(hops) = &route.kind else { panic!("{route}") };
            let id = names[&hops[0].link.unwrap()].clone();
            found.routes.insert((id, route.destination.ip()));
        }
        for allocation in store.allocations().unwrap() {
            let owner = allocation.owner.unwrap();
            found.held.insert((EndpointId::of(owner.container_id(), owner.ifname()), allocation.address));
        }
        let listing = records.list().unwrap();
        assert!(listing.damaged.is_empty(), "{listing:?}");
        for endpoint in listing.endpoints {
            found.recorded.extend(endpoint.addresses.iter().map(|address| (endpoint.id(), *address)));
        }
        for attachment in Attachment::all() {
            let _inside = containers[attachment.container].enter().unwrap();
            let mut socket = Socket::open().unwrap();
            let name: IfName = attachment.ifname().parse().unwrap();
            let Some(link) = link::by_name(&mut socket, &name).unwrap() else { continue };
            let addresses = addr::list_on(&mut socket, link.index).unwrap();
            let global = addresses.iter().filter(|address| address.global);
            found.inside.extend(global.map(|address| (attachment.id(), address.network.ip())));
        }
        found
    }

    /// All but what is held.
    fn sets(&self) -> [(&'static str, &BTreeSet<(EndpointId, IpAddr)>); 4] {
        [
            ("recorded", &self.recorded),
            ("routed on the host", &self.routes),
            ("neighbours on the host", &self.neighbours),
            ("addresses in pods", &self.inside),
        ]
    }
}
