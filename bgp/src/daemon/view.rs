//! What the control socket shows of tasks and tables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::time::Duration;

use super::bfd::BfdStatus;
use super::bmp::CollectorHandle;
use crate::control::{BfdView, CollectorStatus, NegotiatedView, RouteView};
use crate::family::FamilySet;
use crate::fsm::Negotiated;
use crate::policy::AnyCommunity;
use crate::rib::{PathView, PeerId};
use crate::wire::{AsWidth, MAX_MESSAGE_LEN, NextHop};

pub(super) fn collector(handle: &CollectorHandle) -> CollectorStatus {
    let state = handle.state.borrow();
    CollectorStatus {
        address: handle.collector.address,
        state: if state.connected { "Connected" } else { "Waiting" }.to_owned(),
        since_seconds: state.since.elapsed().as_secs(),
        messages: state.messages,
        waiting: state.waiting(),
        sessions: state.sessions,
        lagged: state.lagged,
        last_error: state.last_error.clone(),
    }
}

pub(super) fn bfd(status: &BfdStatus) -> Option<BfdView> {
    let view = status.view?;
    Some(BfdView {
        state: view.state.name().to_owned(),
        since_seconds: view.since.elapsed().as_secs(),
        diagnostic: view.diagnostic.to_string(),
        transmit_milliseconds: view.transmit_interval.map(milliseconds),
        detection_milliseconds: view.detection_time.map(milliseconds),
        losses: status.losses,
    })
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

pub(super) fn route(path: &PathView, addresses: &BTreeMap<PeerId, IpAddr>) -> RouteView {
    let attributes = &path.attributes;
    RouteView {
        prefix: path.prefix,
        neighbor: addresses.get(&path.peer).copied(),
        next_hop: match attributes.next_hop {
            NextHop::Local => None,
            NextHop::V4(address) => Some(address.into()),
            NextHop::V6 { global, .. } => Some(global.into()),
        },
        best: path.best,
        multipath: path.multipath,
        stale: path.stale,
        origin: attributes.origin.to_string(),
        as_path: attributes.as_path.to_string(),
        med: attributes.med,
        local_pref: attributes.local_pref,
        communities: AnyCommunity::all_of(attributes).iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn negotiated(session: &Negotiated) -> NegotiatedView {
    let words = |of: &str, families: FamilySet| {
        let names: Vec<String> = families.iter().map(|family| family.to_string()).collect();
        (!names.is_empty()).then(|| format!("{of} ({})", names.join(", ")))
    };
    let simple = |has: bool, name: &str| has.then(|| name.to_owned());
    let restart = session.graceful_restart.map(|restart| {
        let notification = if restart.notification { ", notification" } else { "" };
        format!("graceful-restart ({} s{notification})", restart.restart_time)
    });
    let capabilities = [
        simple(session.as_width == AsWidth::Four, "4-octet-as"),
        simple(session.route_refresh, "route-refresh"),
        simple(session.enhanced_route_refresh, "enhanced-route-refresh"),
        simple(session.message_limit > MAX_MESSAGE_LEN, "extended-message"),
        simple(session.extended_next_hop, "extended-next-hop"),
        words("add-path-receive", session.add_path.receive),
        words("add-path-send", session.add_path.send),
        restart,
        words("long-lived-graceful-restart", session.long_lived.families),
    ];
    NegotiatedView {
        router_id: session.identifier,
        hold_seconds: session.hold_time.seconds(),
        families: session.families.iter().collect(),
        capabilities: capabilities.into_iter().flatten().collect(),
    }
}
