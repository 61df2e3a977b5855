//! `margayctl ipam check`: does everything that knows of an address say the same?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use margay_api::{
    endpoint::{Endpoint, EndpointId, HOST_IFNAME_PREFIX, Records},
    lock::EndpointLock,
    paths,
};
use margay_ipam::{Allocation, Store};
use margay_netlink::{
    Socket, addr, link,
    route::{self, Filter, Kind, Protocol, TableId},
};

use crate::{Answer, table::Table};

/// What the disk and the kernel say of this node's addresses.
#[derive(Debug, Default)]
struct Seen {
    allocations: Vec<Allocation>,
    endpoints: Vec<Endpoint>,
    /// Records that cannot be read, and why.
    damaged: Vec<(EndpointId, String)>,
    /// Endpoints that a call of the plugin is at right now.
    busy: BTreeSet<EndpointId>,
    /// Host ends of pods' links.
    links: BTreeSet<String>,
    /// Our routes to addresses of pods, each with the name of its link.
    routes: BTreeMap<IpAddr, String>,
    /// Addresses of the node's own interfaces.
    node: BTreeMap<IpAddr, String>,
}

/// Something that does not agree with the rest.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    address: String,
    who: String,
    problem: &'static str,
    advice: &'static str,
}

/// How long a pod that comes or goes may leave things half done: what is not found again then, was that.
const SETTLE: Duration = Duration::from_millis(500);

/// Exit status 1 when there is something to report.
pub(crate) fn run(run_dir: &Path, state_dir: &Path) -> anyhow::Result<Answer> {
    let mut found = findings(&look(run_dir, state_dir)?);
    if !found.is_empty() {
        #[expect(clippy::disallowed_methods, reason = "there is no event to wait for when all is settled")]
        std::thread::sleep(SETTLE);
        let again = findings(&look(run_dir, state_dir)?);
        found.retain(|finding| again.contains(finding));
    }
    let mut table = Table::new(&["address", "who", "problem", "what_to_do"]);
    let status = if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    for Finding { address, who, problem, advice } in found {
        table.push([address, who, problem.into(), advice.into()]);
    }
    Ok(Answer { status, ..table.into() })
}

fn look(run_dir: &Path, state_dir: &Path) -> anyhow::Result<Seen> {
    // The disk after the kernel: what an ADD makes in between is then missed as a whole, or busy.
    let mut socket = Socket::open()?;
    let links = link::list(&mut socket)?;
    let name = |index| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let filter = Filter { table: Some(TableId::MAIN), protocol: Some(Protocol::MARGAY) };
    let routes = route::list(&mut socket, filter)?.into_iter().filter_map(|route| {
        let Kind::Unicast(hops) = &route.kind else { return None };
        Some((route.destination.ip(), hops.first()?.link.and_then(name)?))
    });
    let node = addr::list(&mut socket)?.into_iter();
    let node = node.filter_map(|address| Some((address.network.ip(), name(address.link)?)));
    let mut seen = Seen {
        routes: routes.collect(),
        node: node.collect(),
        links: links
            .iter()
            .map(|link| link.name.clone())
            .filter(|name| name.starts_with(HOST_IFNAME_PREFIX))
            .collect(),
        ..Seen::default()
    };
    seen.allocations = Store::new(&state_dir.join(paths::IPAM)).allocations()?;
    let listing = Records::below(run_dir).list()?;
    seen.endpoints = listing.endpoints;
    seen.damaged = listing.damaged.into_iter().map(|(id, error)| (id, error.to_string())).collect();
    let owners = seen.allocations.iter().filter_map(|allocation| allocation.owner.as_ref());
    let ids = owners.map(|owner| EndpointId::of(owner.container_id(), owner.ifname()));
    let links = seen.links.iter().filter_map(|name| name.strip_prefix(HOST_IFNAME_PREFIX)?.parse().ok());
    let recorded = seen.endpoints.iter().map(Endpoint::id);
    let all: BTreeSet<EndpointId> = ids.chain(links).chain(recorded).collect();
    for id in all {
        match EndpointLock::try_take(run_dir, &id)? {
            // Only a record's own lock file is worth keeping.
            Some(lock) => lock.forget(),
            None => drop(seen.busy.insert(id)),
        }
    }
    Ok(seen)
}

/// What is found, in the order of addresses. What a running call is at is not judged.
fn findings(seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut report = |address: String, who: String, problem, advice| {
        found.push(Finding { address, who, problem, advice });
    };
    let records: BTreeMap<EndpointId, &Endpoint> =
        seen.endpoints.iter().map(|endpoint| (endpoint.id(), endpoint)).collect();
    let unreadable: BTreeSet<&EndpointId> = seen.damaged.iter().map(|(id, _)| id).collect();
    let mut holders: BTreeMap<IpAddr, BTreeSet<EndpointId>> = BTreeMap::new();
    for allocation in &seen.allocations {
        let address = allocation.address.to_string();
        let Some(owner) = &allocation.owner else {
            let advice = "move the block's file away and restart the agent, which frees what no pod holds";
            report(address, String::new(), "its entry on disk is damaged: nobody gets it", advice);
            continue;
        };
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        holders.entry(allocation.address).or_default().insert(id.clone());
        if let Some(ifname) = seen.node.get(&allocation.address) {
            let advice = "take it off the node's interface, or delete the pod";
            report(
                address.clone(),
                format!("{owner}, {ifname}"),
                "a pod and an interface of the node have it",
                advice,
            );
        }
        if seen.busy.contains(&id) || unreadable.contains(&id) {
            continue;
        }
        match records.get(&id) {
            Some(endpoint) if endpoint.addresses.contains(&allocation.address) => {}
            Some(_) => report(
                address,
                owner.to_string(),
                "leaked: its pod has other addresses",
                "delete the pod, which frees both",
            ),
            None => report(
                address,
                owner.to_string(),
                "leaked: no endpoint has it",
                "nothing: the agent frees it within seconds, if it runs and has its records",
            ),
        }
    }
    for (id, endpoint) in records.iter().filter(|(id, _)| !seen.busy.contains(id)) {
        let who = endpoint.pod.as_ref().map_or_else(|| endpoint.container_id.clone(), ToString::to_string);
        let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
        if !seen.links.contains(&endpoint.host_ifname) {
            let problem = "its link is gone";
            report(addresses.join(" "), who, problem, "delete the pod: only a new sandbox gets a new link");
            continue;
        }
        for address in &endpoint.addresses {
            if !holders.get(address).is_some_and(|holders| holders.contains(id)) {
                let advice = "delete the pod before another gets the address";
                report(address.to_string(), who.clone(), "not held on disk: another pod may get it", advice);
            }
            if seen.routes.get(address) != Some(&endpoint.host_ifname) {
                let advice = "nothing: the agent puts it back within seconds, if it runs";
                report(address.to_string(), who.clone(), "the route to it is not there", advice);
            }
        }
    }
    for (id, reason) in &seen.damaged {
        let advice = "delete the pod with this endpoint; until then it stays closed";
        report(String::new(), format!("{id}: {reason}"), "its record cannot be read", advice);
    }
    let known: BTreeSet<String> = records.keys().chain(unreadable).map(EndpointId::host_ifname).collect();
    let busy: BTreeSet<String> = seen.busy.iter().map(EndpointId::host_ifname).collect();
    for name in seen.links.iter().filter(|name| !known.contains(*name) && !busy.contains(*name)) {
        let advice = "nothing: the agent removes it within seconds, if it runs and has its records";
        report(String::new(), name.clone(), "a link without an endpoint", advice);
    }
    for (address, holders) in holders.iter().filter(|(_, holders)| holders.len() > 1) {
        let who: Vec<&str> = holders.iter().map(EndpointId::as_str).collect();
        let advice = "delete one of the pods; overlapping blocks on disk are the cause";
        report(address.to_string(), who.join(" "), "held twice", advice);
    }
    found
}

#[cfg(test)]
mod tests {
    use margay_api::endpoint::{Endpoint, EndpointId};
    use margay_ipam::{Allocation, Owner};

    use super::{Seen, findings};

    /// A node with the pod c1, about whom all agree.
    fn sound() -> Seen {
        let id = EndpointId::of("c1", "eth0");
        let endpoint = Endpoint {
            container_id: "c1".into(),
            ifname: "eth0".into(),
            network: "margay".into(),
            netns: String::new(),
            host_ifname: id.host_ifname(),
            mac: String::new(),
            host_mac: String::new(),
            addresses: vec!["192.0.2.7".parse().unwrap()],
            mtu: 1500,
            pod: None,
        };
        Seen {
            allocations: vec![Allocation {
                address: "192.0.2.7".parse().unwrap(),
                owner: Some(Owner::new("c1", "eth0").unwrap()),
            }],
            links: [id.host_ifname()].into(),
            routes: [("192.0.2.7".parse().unwrap(), id.host_ifname())].into(),
            endpoints: vec![endpoint],
            ..Seen::default()
        }
    }

    #[test]
    fn each_kind_of_disagreement_is_found_and_agreement_is_not() {
        type Damage = fn(&mut Seen);
        let cases: [(Damage, &str); 11] = [
            (|_| {}, ""),
            (|seen| seen.allocations[0].owner = None, "damaged not held"),
            (|seen| drop(seen.allocations.pop()), "not held"),
            (|seen| drop(seen.endpoints.pop()), "leaked without"),
            (
                |seen| seen.endpoints[0].addresses = vec!["192.0.2.8".parse().unwrap()],
                "leaked not held route",
            ),
            (|seen| seen.links.clear(), "gone"),
            (|seen| seen.routes.clear(), "route"),
            (|seen| seen.links.extend(["mgy000000000000".into()]), "without"),
            (|seen| drop(seen.node.insert("192.0.2.7".parse().unwrap(), "eth0".into())), "interface"),
            (
                |seen| {
                    let mut second = seen.allocations[0].clone();
                    second.owner = Some(Owner::new("c2", "eth0").unwrap());
                    seen.allocations.push(second);
                },
                "leaked twice",
            ),
            (
                |seen| {
                    let endpoint = seen.endpoints.pop().unwrap();
                    seen.damaged.push((endpoint.id(), "it is damaged".into()));
                },
                "cannot be read",
            ),
        ];
        for (place, (damage, expected)) in cases.into_iter().enumerate() {
            let mut seen = sound();
            damage(&mut seen);
            let found = findings(&seen);
            let problems: Vec<&str> = found.iter().map(|finding| finding.problem).collect();
            let words = [
                "damaged",
                "leaked",
                "not held",
                "route",
                "without",
                "interface",
                "twice",
                "gone",
                "be read",
            ];
            for word in words {
                let has = problems.iter().any(|problem| problem.contains(word));
                assert_eq!(has, expected.contains(word), "case {place}: {word}: {found:?}");
            }
        }
    }

    #[test]
    fn what_a_call_is_at_is_not_judged() {
        let mut seen = sound();
        seen.endpoints.clear();
        seen.busy.insert(EndpointId::of("c1", "eth0"));
        assert_eq!(findings(&seen), []);
    }
}
