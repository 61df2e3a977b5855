//! What is said over the control socket, in lines of JSON.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::asn::Asn;
use crate::config::Config;
use crate::family::Family;
use crate::identifier::BgpIdentifier;
use crate::prefix::Prefix;

/// What can be asked of the speaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Take this configuration in place of the one before; only neighbours that differ are touched.
    Configure(Box<Config>),
    /// Say how the speaker and its sessions are.
    Status,
    /// Say all paths.
    Routes,
    /// Say what a neighbour announces, before the import policy.
    Received(IpAddr),
    /// Say what a neighbour is told.
    Advertised(IpAddr),
    /// Say why a path to this prefix is used, and who is told of it.
    Explain(Prefix),
    /// End the session with a neighbour (Cease, administrative reset), and begin a new one.
    Reset(IpAddr),
    /// Have a neighbour announce all its routes again (RFC 2918).
    Refresh(IpAddr),
    /// Write the tables as MRT (RFC 6396) to this file of the speaker's, an absolute path.
    Dump(PathBuf),
}

/// What the speaker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The configuration is in force; sessions come up by and by.
    Configured,
    /// To [`Request::Status`].
    Status(Status),
    /// The session is reset, its neighbour asked, or the file written.
    Done,
    /// To [`Request::Explain`].
    Explained(Explained),
    /// To [`Request::Routes`], [`Request::Received`] and [`Request::Advertised`].
    Routes(Vec<RouteView>),
    /// The request was refused; nothing has changed.
    Error(String),
}

/// How the speaker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it has a configuration; without one it waits.
    pub configured: bool,
    /// Its identifier, once configured.
    pub router_id: Option<BgpIdentifier>,
    /// Its autonomous system, once configured.
    pub asn: Option<Asn>,
    /// Its neighbours, by address.
    pub neighbors: Vec<NeighborStatus>,
    /// Its BMP collectors, by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collectors: Vec<CollectorStatus>,
}

/// How the session with a BMP collector is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorStatus {
    /// The collector's address.
    pub address: SocketAddr,
    /// `Connected`, or `Waiting` until it is dialled again.
    pub state: String,
    /// Seconds in this state.
    pub since_seconds: u64,
    /// Messages that it was sent in all sessions.
    pub messages: u64,
    /// Routes that changed and wait for it to take what came before.
    pub waiting: usize,
    /// Sessions with it that began.
    pub sessions: u64,
    /// Sessions that ended as it did not take what there was for it.
    pub lagged: u64,
    /// Why the session or the last dial ended.
    pub last_error: Option<String>,
}

/// How one session is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborStatus {
    /// The neighbour's address.
    pub address: IpAddr,
    /// The neighbour's autonomous system.
    pub remote_as: Asn,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm` or `Established` (RFC 4271 section 8.2.2).
    pub state: String,
    /// Seconds in this state.
    pub since_seconds: u64,
    /// Prefixes the neighbour announces to us.
    pub prefixes_received: usize,
    /// Those of them that the import policy accepts.
    pub prefixes_accepted: usize,
    /// Prefixes we announce to the neighbour.
    pub prefixes_advertised: usize,
    /// Why the session or the last attempt ended.
    pub last_error: Option<String>,
    /// What BFD says of the path to it; `None` where BFD is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdView>,
    /// How often it was Established and ended since the session's task began.
    #[serde(default)]
    pub flaps: u64,
    /// Messages of all kinds that came from it and went to it since then.
    #[serde(default)]
    pub messages: [u64; 2],
    /// What both speakers agreed on; `None` unless the session is Established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negotiated: Option<NegotiatedView>,
}

/// What both speakers of a session agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NegotiatedView {
    /// The neighbour's BGP identifier (RFC 6286).
    pub router_id: BgpIdentifier,
    /// Seconds of silence that end the session; 0: none do (RFC 4271 section 4.2).
    pub hold_seconds: u16,
    /// The address families that both announce (RFC 4760).
    pub families: Vec<Family>,
    /// The other capabilities that are in use, in words.
    pub capabilities: Vec<String>,
}

/// How the path to a neighbour is, as BFD sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdView {
    /// `AdminDown`, `Down`, `Init` or `Up` (RFC 5880 section 6.2).
    pub state: String,
    /// Seconds in this state.
    pub since_seconds: u64,
    /// Why it came into this state.
    pub diagnostic: String,
    /// Milliseconds between packets that we send, before jitter; `None` while the neighbour wants none.
    pub transmit_milliseconds: Option<u64>,
    /// Milliseconds of silence after which the path counts as broken; `None` before anything was heard.
    pub detection_milliseconds: Option<u64>,
    /// How often the path was found broken since the session's task began.
    pub losses: u64,
}

/// One path to a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// The prefix.
    pub prefix: Prefix,
    /// Which neighbour announced it; `None` for one of our own.
    pub neighbor: Option<IpAddr>,
    /// The next hop; `None` for one of our own.
    pub next_hop: Option<IpAddr>,
    /// Whether it is the best path.
    pub best: bool,
    /// Whether it is used, as the best path or beside it.
    pub multipath: bool,
    /// Whether its neighbour restarts and has yet to announce it again.
    pub stale: bool,
    /// `igp`, `egp` or `incomplete`.
    pub origin: String,
    /// The AS path, nearest first, sets in braces.
    pub as_path: String,
    /// `MULTI_EXIT_DISC`.
    pub med: Option<u32>,
    /// `LOCAL_PREF`.
    pub local_pref: Option<u32>,
    /// Communities of all kinds, as policies have them.
    pub communities: Vec<String>,
}

/// What became of the paths to a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The prefix.
    pub prefix: Prefix,
    /// Paths in the tables, in order of preference.
    pub paths: Vec<ExplainedPath>,
    /// Who is told of which path.
    pub advertisements: Vec<ExplainedAdvertisement>,
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPath {
    /// Which neighbour announced it; `None` for our own.
    pub neighbor: Option<IpAddr>,
    /// The neighbour's number for it.
    pub path_id: u32,
    /// `best`, `multipath`, `unused`, or `rejected` by the import policy.
    pub state: String,
    /// Where it lost, or which term rejected it; `None` for the best path.
    pub reason: Option<String>,
    /// Whose path was better there.
    pub lost_to: Option<String>,
}

/// Whether a neighbour is told of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedAdvertisement {
    /// Which neighbour.
    pub to: IpAddr,
    /// Whose path; `None` for our own.
    pub from: Option<IpAddr>,
    /// The announcing neighbour's number for it.
    pub path_id: u32,
    /// Whether it is told.
    pub told: bool,
    /// Why not, where it is not.
    pub reason: Option<String>,
    /// Which term of the export policy decided.
    pub decided: Option<String>,
}
