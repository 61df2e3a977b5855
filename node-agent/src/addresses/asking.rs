//! Plugins that ask for addresses of a pod, until the API server has told of the pod.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnetwork::IpNetwork;
use margay_api::{
    agent::{Addressing, NoAddress, Response},
    annotation,
    endpoint::PodRef,
};
use tokio::{
    sync::{
        mpsc::{Sender, error::TrySendError},
        oneshot,
    },
    time::Instant,
};

use super::{Answer, Ask, Message, OwnAddresses, Wanted};
use crate::{decide::State, notice::Notices};

/// Below the plugin's own patience, so that it hears what is missing.
const PATIENCE: Duration = Duration::from_secs(25);

/// A plugin that waits.
#[derive(Debug)]
struct Plugin {
    pod: Option<PodRef>,
    addresses: Vec<IpAddr>,
    answer: Answer,
    until: Instant,
}

/// Those who ask.
#[derive(Debug)]
pub(crate) struct Asking {
    /// The task of mode `pool`.
    task: Option<Sender<Message>>,
    waiting: Vec<Plugin>,
    own: OwnAddresses,
    notices: Notices,
}

impl Asking {
    /// `task` has the pools; `None` where blocks come with the Node object.
    pub(crate) fn new(task: Option<Sender<Message>>, notices: Notices) -> Self {
        Self { task, waiting: Vec::new(), own: OwnAddresses::default(), notices }
    }

    /// Takes in one more.
    pub(crate) fn push(
        &mut self,
        pod: Option<PodRef>,
        addresses: Vec<IpAddr>,
        answer: oneshot::Sender<Response>,
    ) {
        let answer = Answer::new(answer, pod.clone(), self.notices.clone());
        self.waiting.push(Plugin { pod, addresses, answer, until: Instant::now() + PATIENCE });
    }

    /// When the first of them has waited long enough.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.iter().map(|plugin| plugin.until).min()
    }

    /// Answers, or passes on, those whose pod is known, and those who have waited long enough.
    pub(crate) fn serve(&mut self, state: &State, blocks: &[IpNetwork]) {
        if self.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        for plugin in std::mem::take(&mut self.waiting) {
            if plugin.answer.is_closed() {
                continue;
            }
            match wanted(&plugin, state) {
                Known::Wanted(wanted) => self.settle(wanted, plugin, blocks),
                Known::Refused(reason) => plugin.answer.refuse(NoAddress::Refused, reason),
                Known::NotYet(reason) if plugin.until <= now => {
                    plugin.answer.refuse(NoAddress::Later, reason);
                }
                Known::NotYet(_) => self.waiting.push(plugin),
            }
        }
    }

    fn settle(&mut self, wanted: Wanted, plugin: Plugin, blocks: &[IpNetwork]) {
        let Some(task) = &self.task else {
            let own = self.own.look_for(&wanted.addresses);
            let response = from_node(wanted, blocks, own);
            plugin.answer.send(response);
            return;
        };
        let ask = Ask { wanted, answer: plugin.answer, until: plugin.until };
        if let Err(TrySendError::Full(Message::Ask(ask)) | TrySendError::Closed(Message::Ask(ask))) =
            task.try_send(Message::Ask(ask))
        {
            ask.answer.refuse(NoAddress::Later, "the agent has too much to do; try again".into());
        }
    }
}

enum Known {
    Wanted(Wanted),
    Refused(String),
    NotYet(String),
}

/// What a pod may have, from its annotations, those of its namespace, and what the runtime asks for.
fn wanted(plugin: &Plugin, state: &State) -> Known {
    if let Some(missing) = state.missing() {
        return Known::NotYet(format!("the API server has not listed everything yet; missing: {missing}"));
    }
    let mut wanted = Wanted { pools: None, addresses: plugin.addresses.clone() };
    let Some(pod) = &plugin.pod else { return Known::Wanted(wanted) };
    let facts = match state.pod(pod) {
        Ok(facts) => facts,
        Err(reason) => return Known::NotYet(reason),
    };
    let wish = facts.wish.as_deref().cloned().unwrap_or_default();
    let of_pod = wish.pools.as_deref().map(|pools| (pools, format!("pod {pod}")));
    let of_namespace =
        || Some((state.pools_of_namespace(&pod.namespace)?, format!("namespace {}", pod.namespace)));
    if let Some((pools, place)) = of_pod.or_else(of_namespace) {
        match annotation::pools(pools) {
            Ok(names) => wanted.pools = Some((names, place)),
            Err(error) => return Known::Refused(format!("{place}: {error}")),
        }
    }
    match wish.address.as_deref().map(annotation::addresses).transpose() {
        Ok(addresses) => wanted.addresses.extend(addresses.into_iter().flatten()),
        Err(error) => return Known::Refused(format!("pod {pod}: {error}")),
    }
    wanted.addresses.sort_unstable();
    wanted.addresses.dedup();
    for is_ipv4 in [true, false] {
        let family: Vec<_> = wanted.addresses.iter().filter(|address| address.is_ipv4() == is_ipv4).collect();
        if let [one, other, ..] = family[..] {
            return Known::Refused(format!(
                "pod {pod} asks for {one} and {other}, by its annotation {} and by the runtime; it takes one address of each family",
                annotation::ADDRESS
            ));
        }
    }
    Known::Wanted(wanted)
}

/// In mode `podCIDR`: the node's blocks, all of them.
fn from_node(wanted: Wanted, blocks: &[IpNetwork], own: &BTreeSet<IpAddr>) -> Response {
    if blocks.is_empty() {
        let reason = "this node has no address block; has it got a podCIDR (kubectl get node -o jsonpath={.items[*].spec.podCIDRs})?";
        return Response::NoAddress { cause: NoAddress::Later, reason: reason.into() };
    }
    if let Some(address) = wanted.addresses.iter().find(|address| own.contains(address)) {
        return Response::NoAddress { cause: NoAddress::Refused, reason: taken_by_node(*address) };
    }
    let excluded = own.iter().filter(|address| blocks.iter().any(|block| block.contains(**address)));
    Response::Addressing(Addressing {
        blocks: blocks.to_vec(),
        excluded: excluded.map(|address| IpNetwork::from(*address)).collect(),
        addresses: wanted.addresses,
    })
}

/// Says that a pod asks for an address of the node itself.
pub(super) fn taken_by_node(address: IpAddr) -> String {
    format!(
        "address {address} was asked for, but an interface of this node has it; ask for another, or take it from the interface"
    )
}
