//! nftables: the table `inet margay`, and nothing else.
//!
//! ```text
//!  prerouting (raw)    a pod's packet has the pod's address, or -> spoof; of an unknown pod -> unknown_out
//!                      a pod's packet to the port, or of the protocol, of the nodes' tunnels -> tunnel_out; in forward and output, too
//!                      where there are tunnels, and only then: their own packets from other nodes -> no connection tracking
//!  output_raw (raw)    likewise, to other nodes
//!  input (filter)      to that port, from no other node -> tunnel_in
//!                      established -> pass; the rest from a pod as in forward, but for isolation
//!  forward (filter)    established -> pass
//!                      TCP of no connection and not the first of one, from or to an isolated pod -> midstream_*
//!                      from a pod to itself -> pass
//!                      from a pod: class of the destination -> priority; iifname -> chain of the policy set
//!                      to a pod:   class of the source      -> priority; oifname -> chain of the policy set
//!  postrouting (nat)   where any pool or the settings want it, and only then: from its addresses to outside -> masquerade
//!  output (filter)     the node's own, established, or from a pod to itself -> pass; midstream as in forward
//!                      the rest as in forward, with the policy set of the source's address instead of iifname's
//!  chain of a policy set and direction:
//!                      (class, protocol, port) -> decision   what a class may; maps without elements are not looked at
//!                      (protocol, ports) -> chain of a band  the same on a range of ports: class -> decision, or on
//!                                                            with what follows here, which has a chain then
//!                      class -> decision                     the rest of a class that a rule names
//!                      (protocol, port) -> decision          what everybody may
//!                      cause or return                       the rest
//!  its verdict chain:  decision, a number in the priority -> return or cause
//!  chain of a cause; midstream_in, midstream_out, unknown_in, unknown_out, tunnel_in, tunnel_out, spoof:
//!                      count; tell NFLOG; drop
//! ```
//!
//! What leaves the node in output without an address of the node's is a pod's or a stranger's packet that was never
//! forwarded: kube-proxy's IPVS mode takes packets to services from input and sends them on from there.
//!
//! `return` goes on to the other direction, so that both sides must agree also on one node. The packet priority is
//! the scratch word between the two look-ups: it is zero when a packet leaves a pod, and is zeroed again; the mark
//! is kube-proxy's. A link that is in no set leads to `unknown_in` or `unknown_out`: an
//! unknown pod is closed.
//!
//! [`layout`] says what each piece of state needs, [`table::Table`] keeps what is wanted with what the kernel lacks of it, and
//! [`Driver`] writes the difference, as one transaction. The first is a replacement of the whole table, in one
//! transaction too.

mod apply;
mod band;
mod driver;
mod layout;
mod origin;
mod rule;
mod table;

pub(crate) use driver::Driver;
pub(crate) use layout::{Cause, LOG_GROUP, LOG_SNAPLEN, cause_names, cluster_cause_names};
pub(crate) use origin::Origin;
pub(crate) use table::TABLE;
