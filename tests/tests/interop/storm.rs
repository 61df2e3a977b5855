//! Many neighbours that dial at once are all served.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use margay_bgp::config::DynamicNeighbors;
use margay_bgp::wire::{Capabilities, Open, header};
use margay_bgp::{BgpIdentifier, Family, FamilySet, HoldTime};
use nix::sched::{CloneFlags, setns};

use crate::harness::{eventually, prefix};
use crate::lab::Lab;

const CLIENTS: u8 = 100;

#[test]
fn a_hundred_clients_that_dial_at_once_are_all_established() {
    let mut lab = Lab::new(64497, vec![]);
    let mut config = lab.config();
    let mut dynamic = DynamicNeighbors::new(prefix("127.0.1.0/24"), "64496".parse().unwrap());
    dynamic.limit = CLIENTS.into();
    config.dynamic_neighbors = vec![dynamic];
    lab.start_speaker();
    lab.configure(&config);
    let namespace = std::fs::File::open(format!("/run/netns/{}", lab.node.name)).unwrap();
    // A thread of its own, as it does not come back from the namespace.
    let dialling = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dials = (1..=CLIENTS).map(|last| async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 1, last], 0))).unwrap();
            socket.connect(SocketAddr::from(([127, 0, 0, 1], 179))).await.unwrap().into_std().unwrap()
        });
        runtime.block_on(async {
            let mut dialling = tokio::task::JoinSet::new();
            for dial in dials {
                dialling.spawn(dial);
            }
            dialling.join_all().await
        })
    });
    let mut connections = dialling.join().unwrap();
    for connection in &mut connections {
        let address = connection.local_addr().unwrap().ip();
        let last = address.to_string().rsplit('.').next().unwrap().parse().unwrap();
        let mut message = Vec::new();
        let capabilities =
            Capabilities { families: FamilySet::from_iter(Family::ALL), ..Capabilities::default() };
        let identifier = BgpIdentifier::new(Ipv4Addr::new(192, 0, 2, last)).unwrap();
        let hold_time = HoldTime::new(180).unwrap();
        Open { asn: "64496".parse().unwrap(), hold_time, identifier, capabilities }.encode(&mut message);
        header::encode_keepalive(&mut message);
        connection.write_all(&message).unwrap();
    }
    eventually("all are established", || {
        let status = lab.try_status()?;
        let up = status.neighbors.iter().filter(|neighbor| neighbor.state == "Established").count();
        if up == usize::from(CLIENTS) { Ok(()) } else { Err(format!("{up} of {CLIENTS}")) }
    });
}
