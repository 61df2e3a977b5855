//! What becomes of packets, and the chains that do it.

use margay_netlink::nftables::{self, Chain, Data, Expr, Field};
use margay_policy::compile::{self, CauseId, PolicySetId, Verdict, Way};

use super::super::{
    rule::{self, rule, verdict},
    table::Table,
};

/// The NFLOG group to which packets are told that policy drops, or would drop: the letters `mg`. Its listener sees
/// the name of the cause as the prefix, and the packet's first [`LOG_SNAPLEN`] octets.
pub(crate) const LOG_GROUP: u16 = 0x6d67;
pub(crate) const LOG_SNAPLEN: u32 = 128;
/// Packets that each cause may tell of, in a second and at once: what policy drops may come as fast as the wire is.
const LOG_PER_SECOND: u64 = 100;
const LOG_BURST: u32 = 100;
/// Where a decision by a policy of the cluster goes.
pub(super) const CAUSES: &str = "causes";

/// What a cause does to packets, beside counting them and telling of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It drops them.
    Drop,
    /// It lets them pass the direction.
    Audit,
}

/// What a direction decides, as its maps hold it: a number, so that what a class may do changes without a look of the
/// kernel at all chains, which it takes whenever a verdict that leads to a chain is added, and then at all elements
/// of all maps of verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The packet passes the direction.
    Pass,
    /// No policy allows it: it goes to the direction's own cause.
    Own(Cause),
    /// A policy of the cluster denies it: it goes to the cause of that.
    Cluster(CauseId, Cause),
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Self {
        let (cause, of) = match verdict {
            Verdict::Allow => return Self::Pass,
            Verdict::Deny(of) => (Cause::Drop, of),
            Verdict::Audit(of) => (Cause::Audit, of),
        };
        match of {
            compile::Cause::Isolation => Self::Own(cause),
            compile::Cause::Cluster(id) => Self::Cluster(id, cause),
        }
    }
}

impl Decision {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Pass => 0,
            Self::Own(cause) => 2 + cause as u32,
            // Causes count from 1.
            Self::Cluster(id, cause) => 2 + 2 * id.0 + cause as u32,
        }
    }

    /// As the value of an element.
    pub(crate) fn data(self) -> Data {
        Data::Number(self.number())
    }
}

/// The name of the chain of a policy set.
pub(crate) fn chain_of(id: PolicySetId, way: Way) -> String {
    format!("s{}_{}", id.0, if way == Way::Ingress { "in" } else { "out" })
}

/// The name of the chain of a cause, and of its counter; also what it says to the listeners of [`LOG_GROUP`].
pub(crate) fn cause_of(name: &str, cause: Cause) -> String {
    format!("{name}_{}", if cause == Cause::Drop { "drop" } else { "audit" })
}

/// The names of the causes of a direction of a policy set, whether they are there or not.
pub(crate) fn cause_names(id: PolicySetId, way: Way) -> [String; 2] {
    [Cause::Drop, Cause::Audit].map(|cause| cause_of(&chain_of(id, way), cause))
}

/// The names of the causes of a policy of the cluster.
pub(crate) fn cluster_cause_names(id: CauseId) -> [String; 2] {
    [Cause::Drop, Cause::Audit].map(|cause| cause_of(&cluster_cause(id), cause))
}

/// The name of what a policy of the cluster denies.
pub(crate) fn cluster_cause(id: CauseId) -> String {
    format!("c{}", id.0)
}

/// Wants the causes of a policy of the cluster.
pub(crate) fn put_cluster_cause(table: &mut Table, id: CauseId) {
    for cause in [Cause::Drop, Cause::Audit] {
        put_cause(table, &cluster_cause(id), cause);
        let data = Some(Data::Verdict(nftables::Verdict::Goto(cause_of(&cluster_cause(id), cause))));
        table.put(CAUSES, vec![Field::Number(Decision::Cluster(id, cause).number())], data);
    }
}

/// Wants them no more.
pub(crate) fn remove_cluster_cause(table: &mut Table, id: CauseId) {
    for cause in [Cause::Drop, Cause::Audit] {
        table.remove(CAUSES, &vec![Field::Number(Decision::Cluster(id, cause).number())]);
        remove_cause(table, &cluster_cause(id), cause);
    }
}

/// Wants the chain and the counter of a direction's own cause. Isolation never comes between a pod and its node.
pub(super) fn put_own_cause(table: &mut Table, name: &str, way: Way, cause: Cause) {
    put_cause(table, name, cause);
    if way == Way::Egress {
        let name = cause_of(name, cause);
        let mut chain = cause_chain(&name, cause);
        chain.rules.insert(0, rule([rule::is_for_this_node(), verdict(nftables::Verdict::Return)]));
        table.put_chain(&name, chain);
    }
}

/// Wants the chain and the counter of a cause, which others go to.
fn put_cause(table: &mut Table, name: &str, cause: Cause) {
    let name = cause_of(name, cause);
    table.put_counter(&name);
    table.put_chain(&name, cause_chain(&name, cause));
}

/// Wants a cause no more.
pub(super) fn remove_cause(table: &mut Table, name: &str, cause: Cause) {
    let name = cause_of(name, cause);
    table.remove_chain(&name);
    table.remove_counter(&name);
}

/// The end of a chain that is gone to leads where the end of the one before would have led.
pub(super) fn cause_chain(name: &str, cause: Cause) -> Chain {
    let tell = vec![
        Expr::Limit { per_second: LOG_PER_SECOND, burst: LOG_BURST },
        Expr::Log { group: LOG_GROUP, prefix: name.to_owned(), snaplen: LOG_SNAPLEN },
    ];
    let mut rules = vec![vec![Expr::Counter(name.to_owned())], tell];
    if cause == Cause::Drop {
        rules.push(verdict(nftables::Verdict::Drop));
    }
    Chain::regular(rules)
}
