//! The protocol on the agent's Unix socket: the client sends a line of JSON, the agent answers with one, and so on
//! until the client closes. An answer comes before the next request is read. [`Request::Monitor`] and [`Request::Flows`] are
//! the last of a client: answers follow until it closes.
//!
//! Records, not messages, carry the facts: a message names an endpoint and the agent reads its record.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{
    endpoint::{EndpointId, PodRef},
    monitor::{Begun, Dropped, Filter},
};

/// Longest line that either side accepts, in octets.
pub const MAX_LINE: usize = 64 * 1024;

/// What the plugin asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Which addresses may a new endpoint have? Answered with [`Response::Addressing`] once one of each family is
    /// free in a block of this node, or with [`Response::NoAddress`].
    Addressing {
        /// Whose it is; `None` when no Kubernetes runtime makes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<PodRef>,
        /// Addresses that the runtime asks for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<IpAddr>,
    },
    /// Answer [`Response::Done`] once the endpoint, whose record is written, is in the kernel with its policy.
    EndpointAdded {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// The endpoint's record is gone: take the rest of it down. Answered with [`Response::Done`] once no packet passes
    /// its link any more; its tracked connections are forgotten and its addresses freed soon after. Refused, it is
    /// the caller's to do.
    #[serde(rename_all = "camelCase")]
    TakeDown {
        /// `CNI_CONTAINERID`.
        container_id: String,
        /// `CNI_IFNAME`.
        ifname: String,
    },
    /// Is the endpoint in the kernel with its policy?
    EndpointCheck {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// Can pods be added now?
    Status,
    /// Tell of packets that are dropped, from now on. Answered with [`Response::Done`] once none is missed any more,
    /// then with a [`Response::Dropped`] for each packet that the filter lets pass.
    Monitor {
        /// Of which.
        #[serde(default)]
        filter: Filter,
    },
    /// Tell of flows that begin to take the short way of the eBPF dataplane, from now on. Answered with [`Response::Done`]
    /// once none is missed any more, then with a [`Response::Begun`] for each that the filter lets pass.
    Flows {
        /// Of which; `direction` and `verdict` say nothing of them.
        #[serde(default)]
        filter: Filter,
    },
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "camelCase", deny_unknown_fields)]
pub enum Response {
    /// It is so.
    Done,
    /// Where to take addresses from.
    Addressing(Addressing),
    /// There is no address for the endpoint.
    NoAddress {
        /// Who can do something about it.
        cause: NoAddress,
        /// Why, in words for an operator.
        reason: String,
    },
    /// It is not so, or cannot be done.
    Refused {
        /// Why, in words for an operator.
        reason: String,
    },
    /// To [`Request::Status`]: no pod can be added, and those that are here may lack connectivity, because what
    /// changes in the cluster does not reach the kernel.
    Degraded {
        /// Why, in words for an operator.
        reason: String,
    },
    /// To [`Request::Monitor`].
    Dropped(Box<Dropped>),
    /// To [`Request::Flows`].
    Begun(Box<Begun>),
    /// To either: packets that were dropped, or flows that began, and that are not told of, because they came faster than
    /// the agent or its client reads. Some of them the filter may not have let pass.
    Lost {
        /// How many, since the last such answer.
        packets: u64,
    },
}

/// What an endpoint may have: an address of each family that the blocks are of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Addressing {
    /// The blocks to take addresses from, the preferred ones first.
    pub blocks: Vec<IpNetwork>,
    /// Addresses and ranges in them that it may not have: reserved, or an interface of the node has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<IpNetwork>,
    /// Addresses that it must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// Who can do something about a missing address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NoAddress {
    /// The administrator: all that there are, are in use.
    Full,
    /// The user: what was asked for cannot be.
    Refused,
    /// Time: something is not known or not settled yet.
    Later,
}

#[cfg(test)]
mod tests {
    use super::{Addressing, Request, Response};

    #[test]
    fn messages_are_single_lines_of_plain_json() {
        let request = Request::EndpointAdded { endpoint: "0123456789ab".parse().unwrap() };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"request":"endpointAdded","endpoint":"0123456789ab"}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert_eq!(serde_json::to_string(&Response::Done).unwrap(), r#"{"response":"done"}"#);
        assert!(serde_json::from_str::<Request>(r#"{"request":"endpointAdded","endpoint":"../x"}"#).is_err());
        let request = Request::Addressing { pod: None, addresses: vec![] };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"request":"addressing"}"#);
        let blocks = vec!["192.0.2.0/26".parse().unwrap()];
        let response = Response::Addressing(Addressing { blocks, ..Addressing::default() });
        let text = serde_json::to_string(&response).unwrap();
        assert_eq!(text, r#"{"response":"addressing","blocks":["192.0.2.0/26"]}"#);
        assert_eq!(serde_json::from_str::<Response>(&text).unwrap(), response);
    }
}
