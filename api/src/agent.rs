//! The protocol on the agent's Unix socket: the client sends one line of JSON, the agent answers with one.
//!
//! Records, not messages, carry the facts: a message names an endpoint and the agent reads its record.

use serde::{Deserialize, Serialize};

use crate::endpoint::EndpointId;

/// Longest line that either side accepts, in octets.
pub const MAX_LINE: usize = 64 * 1024;

/// What the plugin asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
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
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "camelCase", deny_unknown_fields)]
pub enum Response {
    /// It is so.
    Done,
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
}

#[cfg(test)]
mod tests {
    use super::{Request, Response};

    #[test]
    fn messages_are_single_lines_of_plain_json() {
        let request = Request::EndpointAdded { endpoint: "0123456789ab".parse().unwrap() };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"request":"endpointAdded","endpoint":"0123456789ab"}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert_eq!(serde_json::to_string(&Response::Done).unwrap(), r#"{"response":"done"}"#);
        assert!(serde_json::from_str::<Request>(r#"{"request":"endpointAdded","endpoint":"../x"}"#).is_err());
    }
}
