//! nftables: the table `inet margay`, and nothing else.
//!
//! ```text
//!  prerouting (raw)    a pod's packet has the pod's address, or goes
//!  forward (filter)    established, or from a pod to itself -> pass
//!                      from a pod: class of the destination -> priority; iifname -> chain of the policy set
//!                      to a pod:   class of the source      -> priority; oifname -> chain of the policy set
//!  output (filter)     the node's own, established, or from a pod to itself -> pass
//!                      the rest as in forward, with the policy set of the source's address instead of iifname's
//!  chain of a policy set and direction:
//!                      (class, protocol, port) -> return     what a class may
//!                      class -> drop or return               the rest of a class that a rule names
//!                      (protocol, port) -> return            what everybody may
//!                      drop or return                        the rest
//! ```
//!
//! What leaves the node in output without an address of the node's is a pod's or a stranger's packet that was never
//! forwarded: kube-proxy's IPVS mode takes packets to services from input and sends them on from there.
//!
//! `return` goes on to the other direction, so that both sides must agree also on one node. The packet priority is
//! the scratch word between the two look-ups: it is zero when a packet leaves a pod, and is zeroed again; the mark
//! is kube-proxy's. A link that is in no set is dropped: an unknown pod is closed.
//!
//! [`layout`] is the wanted table as data, [`diff`] the commands from one to another, [`Driver`] runs them, each
//! batch as one transaction. The first is a replacement of the whole table, in one transaction too. Where only pods come
//! and go, [`elements`] needs neither tables nor commands.

mod diff;
mod driver;
mod elements;
mod layout;
mod outline;
mod ruleset;

pub(crate) use driver::Driver;
use layout::layout;
pub(crate) use ruleset::TABLE;
