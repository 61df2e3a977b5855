//! Clocks that somebody sets, far ahead and far back.

use std::{fs, path::PathBuf};

use margay_lab::{Daemon, LabConfig, Node};

use crate::{
    cluster::{deny, is_open, leave_nothing, run, start, until, until_open},
    traffic::Traffic,
};

/// Where a node's processes look how far their clock is off.
const OFFSET: &str = "/run/lab/clock";

/// Has processes see the time of day that [`OFFSET`] says. The clock by which they wait goes on as it is: nobody can set that.
fn environment() -> Vec<(String, String)> {
    let library: PathBuf = fs::read_dir("/usr/lib")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no libfaketime: run ./setup"));
    [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", OFFSET),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The year of the last line that an agent has logged.
fn year(node: &Node) -> Option<i32> {
    node.log(Daemon::Agent, 1).first()?.get(..4)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_costs_no_packet_no_session_and_no_verdict() {
    let config = LabConfig { nodes: 2, environment: environment(), ..LabConfig::default() };
    let lab = start(config).await;
    let mut pods = run(&lab, &[("client", "n1"), ("web", "n2"), ("db", "n2")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "client", "db", false).await;
    let mut traffic = Traffic::start(&lab, &[("client", "web")]).await;
    let today = year(lab.node(0)).unwrap();
    for (number, (offset, years)) in
        [("+1000d", 2..=3), ("-1000d", -3..=-2), ("+0", 0..=0)].into_iter().enumerate()
    {
        let up_for = lab.node(0).bgp_status().await.unwrap().neighbors[0].since_seconds;
        for node in lab.nodes() {
            fs::write(node.path(OFFSET), offset).unwrap();
        }
        // Pods and policies are as they are at any time.
        let (free, closed) = (format!("free{number}"), format!("closed{number}"));
        deny(&lab, &closed).await;
        pods.extend(run(&lab, &[(&free, "n2"), (&closed, "n1")]).await);
        until_open(&lab, "client", &free, true).await;
        until_open(&lab, "client", &closed, false).await;
        assert!(!is_open(&lab, "client", "db").await, "{offset}");
        traffic.goes_on(&lab, offset).await;
        // An agent that is started anew writes a line, and has the time that was set.
        let node = lab.node(0);
        node.stop_daemon(Daemon::Agent).await;
        node.start_daemon(Daemon::Agent).await;
        until(&lab, &format!("the clock of n1 is off by {offset}"), async || {
            year(node).is_some_and(|year| years.contains(&(year - today)))
        })
        .await;
        until_open(&lab, "client", &free, true).await;
        assert!(!is_open(&lab, "client", &closed).await, "{offset}");
        let neighbor = &node.bgp_status().await.unwrap().neighbors[0];
        assert_eq!(neighbor.state, "Established", "{offset}");
        assert!(neighbor.since_seconds >= up_for, "{offset}: up for {} s", neighbor.since_seconds);
    }
    traffic.lost_nothing(&lab, "the clocks jumped").await;
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}
