//! What collectors are told by BMP (RFC 7854): pmacct's, and one that takes nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;

use margay_bgp::bmp::View;
use margay_bgp::config::{Collector, Config, PolicyConfig};
use margay_bgp::control::CollectorStatus;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Process, contains, eventually, run};
use crate::lab::{Daemon, Lab, Setup, Start};

/// pmacct's collector in the speaker's namespace, which writes what it hears as lines of JSON.
struct Pmacct {
    process: Option<Process>,
    address: SocketAddr,
    folder: TempDir,
}

impl Pmacct {
    fn new(address: &str) -> Self {
        Self { process: None, address: address.parse().unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Begins with an empty record.
    fn start(&mut self, lab: &Lab) {
        let (config, log) = (self.path("config"), self.path("log.json"));
        drop(std::fs::remove_file(&log));
        let text = format!(
            "daemonize: false\nbmp_daemon_ip: {}\nbmp_daemon_port: {}\nbmp_daemon_max_peers: 8\n\
             bmp_daemon_msglog_file: {}\n",
            self.address.ip(),
            self.address.port(),
            log.display(),
        );
        std::fs::write(&config, text).unwrap();
        let output = File::create(self.path("output")).unwrap();
        let arguments: [&OsStr; 2] = ["-f".as_ref(), config.as_ref()];
        self.process = Some(Process::start(&lab.node, "pmbmpd", &arguments, output));
    }

    fn stop(&mut self) {
        self.process.take().unwrap().end(Signal::SIGKILL);
    }

    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("log.json")).unwrap_or_default();
        // The last line may be half there.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event with all these fields, which it gives.
    fn event(&self, fields: &[(&str, &str)]) -> Value {
        eventually(&format!("the collector hears {fields:?}"), || {
            self.events().into_iter().find(|event| has(event, fields)).ok_or_else(|| {
                let output = std::fs::read_to_string(self.path("output")).unwrap_or_default();
                format!("{:#?}\n{output}", self.events())
            })
        })
    }
}

/// Whether an event has these fields; numbers are written as text.
fn has(event: &Value, fields: &[(&str, &str)]) -> bool {
    fields.iter().all(|(name, expected)| match &event[*name] {
        Value::String(text) => text == expected,
        Value::Number(number) => number.to_string() == *expected,
        _ => false,
    })
}

const ADDRESS: &str = "127.0.0.1:1790";

fn collector(address: &str, routes: &[View]) -> Collector {
    let routes = routes.to_vec();
    Collector { routes, connect_retry: 1, statistics_interval: 5, ..Collector::new(address.parse().unwrap()) }
}

fn status(lab: &Lab) -> Result<CollectorStatus, String> {
    lab.try_status()?.collectors.pop().ok_or_else(|| "no collector".to_owned())
}

const PRE: (&str, &str) = ("is_post", "0");
const POST: (&str, &str) = ("is_post", "1");
const LOC: (&str, &str) = ("is_loc", "1");
const BIRD: (&str, &str) = ("peer_ip", "192.0.2.1");
const FRR: (&str, &str) = ("peer_ip", "2001:db8::3");

fn everything(address: &str) -> Collector {
    collector(address, &[View::PrePolicy, View::PostPolicy, View::LocRib])
}

/// BIRD over IPv4 and FRR over IPv6 around a speaker with this configuration, and its collector.
fn lab(pmacct: &mut Pmacct, change: impl FnOnce(&mut Config)) -> Lab {
    let frr = Setup { ipv6: true, networks: vec!["2001:db8:101::/48"], ..Setup::new(Daemon::Frr) };
    let mut lab = Lab::new(64497, vec![Setup::new(Daemon::Bird), frr]);
    pmacct.start(&lab);
    let mut config = lab.config();
    config.bmp.collectors = vec![everything(ADDRESS)];
    change(&mut config);
    lab.start_all(&config);
    lab
}

#[test]
fn pmacct_hears_of_sessions_routes_counts_and_their_ends() {
    let mut pmacct = Pmacct::new(ADDRESS);
    let mut lab = lab(&mut pmacct, |config| config.bmp.sys_name = Some("edge-1".to_owned()));
    lab.wait_converged();
    pmacct.event(&[("bmp_msg_type", "init"), ("bmp_init_info_sysname", "edge-1")]);

    let up = ("bmp_msg_type", "peer_up");
    let [asn, router] = [("peer_asn", "64496"), ("peer_type", "0")];
    pmacct.event(&[up, BIRD, asn, router, ("bgp_id", "192.0.2.1"), ("local_ip", "192.0.2.2")]);
    pmacct.event(&[up, FRR, asn, router, ("bgp_id", "192.0.2.3"), ("local_ip", "2001:db8::2")]);
    pmacct.event(&[up, LOC, ("peer_type", "3"), ("peer_asn", "64497"), ("bgp_id", "192.0.2.2")]);

    let update = ("log_type", "update");
    for table in [PRE, POST] {
        let ipv4 = [("ip_prefix", "198.51.100.0/25"), ("bgp_nexthop", "192.0.2.1"), ("as_path", "64496")];
        pmacct.event(&[&[update, BIRD, table][..], &ipv4].concat());
        let ipv6 = [("ip_prefix", "2001:db8:100::/40"), ("bgp_nexthop", "2001:db8::1"), ("origin", "i")];
        pmacct.event(&[&[update, BIRD, table][..], &ipv6].concat());
        pmacct.event(&[update, FRR, table, ("ip_prefix", "2001:db8:101::/48")]);
    }
    for prefix in ["198.51.100.0/25", "2001:db8:101::/48", "203.0.113.0/25", "2001:db8:200::/40"] {
        pmacct.event(&[update, LOC, ("ip_prefix", prefix)]);
    }

    lab.peers[0].setup.networks.pop();
    lab.peers[0].configure();
    for table in [PRE, POST, LOC] {
        pmacct.event(&[("log_type", "withdraw"), table, ("ip_prefix", "2001:db8:100::/40")]);
    }
    let count = |kind: &'static str, value| [("counter_type", kind), ("counter_value", value)];
    pmacct.event(&[&[("bmp_msg_type", "stats"), BIRD][..], &count("7", "2")].concat());
    pmacct.event(&[&[("bmp_msg_type", "stats"), BIRD, ("afi", "1")][..], &count("9", "2")].concat());
    pmacct.event(&[&[("bmp_msg_type", "stats"), LOC][..], &count("8", "5")].concat());

    let down = ("bmp_msg_type", "peer_down");
    lab.margayctl("reset 192.0.2.1").unwrap();
    pmacct.event(&[down, BIRD, ("reason_type", "1")]);
    lab.wait_established(&lab.peers[0]);
    lab.peers[0].process.take().unwrap().end(Signal::SIGTERM);
    pmacct.event(&[down, BIRD, ("reason_type", "3")]);
    lab.peers[1].kill();
    pmacct.event(&[down, FRR, ("reason_type", "4")]);
    lab.speaker.take().unwrap().end(Signal::SIGTERM);
    pmacct.event(&[("bmp_msg_type", "term"), ("bmp_term_info_reason", "Session administratively closed")]);
}

#[test]
fn what_the_policy_refuses_is_before_it_only_and_follows_the_policy_without_a_new_session() {
    let mut pmacct = Pmacct::new(ADDRESS);
    let refuse = |config: &mut Config, refused: &str| {
        let policy = format!(
            "{{default: accept, terms: [{{match: {{as_path: {{origin: [{refused}]}}}}, then: reject}}]}}"
        );
        let policy: PolicyConfig = serde_saphyr::from_str(&policy).unwrap();
        config.policies.insert("most".to_owned(), policy);
        config.import = Some("most".to_owned());
    };
    let lab = lab(&mut pmacct, |config| refuse(config, "64496"));
    let known = [("log_type", "update"), BIRD, ("ip_prefix", "198.51.100.0/25")];
    pmacct.event(&[&known[..], &[PRE]].concat());
    let post = [&known[..], &[POST]].concat();
    assert!(!pmacct.events().iter().any(|event| has(event, &post)));
    let mut config = lab.config();
    config.bmp.collectors = vec![everything(ADDRESS)];
    refuse(&mut config, "64499");
    lab.configure(&config);
    pmacct.event(&post);
    assert_eq!(status(&lab).unwrap().sessions, 1);
}

#[test]
fn several_paths_of_a_peer_keep_their_numbers() {
    let mut pmacct = Pmacct::new(ADDRESS);
    let mut lab = Lab::new(64496, vec![Setup { add_path: true, ..Setup::new(Daemon::Bird) }]);
    pmacct.start(&lab);
    let mut config = lab.config();
    config.bmp.collectors = vec![everything(ADDRESS)];
    lab.start_all(&config);
    lab.wait_converged();
    let known = [("log_type", "update"), BIRD, ("ip_prefix", "198.51.100.0/25"), PRE];
    eventually("the collector has both paths", || {
        let events = pmacct.events();
        let numbers: BTreeSet<String> = events
            .iter()
            .filter(|event| has(event, &known))
            .map(|event| event["as_path_id"].to_string())
            .collect();
        if numbers.len() == 2 { Ok(()) } else { Err(format!("{numbers:?} of {events:?}")) }
    });
}

#[test]
fn a_collector_that_comes_back_is_told_all_and_another_one_is_not_touched() {
    let mut first = Pmacct::new(ADDRESS);
    let mut second = Pmacct::new("[::1]:1791");
    let lab = lab(&mut first, |_| {});
    second.start(&lab);
    let mut config = lab.config();
    config.bmp.collectors = vec![everything(ADDRESS), collector("[::1]:1791", &[View::LocRib])];
    lab.configure(&config);
    let known = [("log_type", "update"), LOC, ("ip_prefix", "198.51.100.0/25")];
    first.event(&known);
    second.event(&known);
    let other = [("log_type", "update"), PRE];
    assert!(!second.events().iter().any(|event| has(event, &other)), "it is told of the best paths alone");

    first.stop();
    eventually("the collector is missed", || contains(&lab.margayctl("collectors")?, &["Waiting"]));
    first.start(&lab);
    first.event(&known);
    let sessions = |at: usize| lab.try_status().unwrap().collectors[at].sessions;
    assert_eq!([sessions(0), sessions(1)], [2, 1]);

    config.bmp.collectors.remove(0);
    lab.configure(&config);
    first.event(&[("bmp_msg_type", "term")]);
    assert_eq!(status(&lab).unwrap().sessions, 1, "the other one stays as it was");
    contains(&lab.margayctl("collectors").unwrap(), &["[::1]:1791", "Connected"]).unwrap();
}

#[test]
fn a_collector_that_takes_nothing_holds_nobody_up_and_then_hears_how_it_is() {
    let mut pmacct = Pmacct::new(ADDRESS);
    let address = "127.0.0.1:9179".parse().unwrap();
    let mut lab = Lab::new(64497, vec![Setup::new(Daemon::Bird)]);
    for buffers in ["tcp_rmem", "tcp_wmem"] {
        let setting = format!("net.ipv4.{buffers}=4096 8192 8192");
        run("ip", ["netns", "exec", &lab.node.name, "sysctl", "-qw", &setting]);
    }
    pmacct.start(&lab);
    let mut config = lab.config();
    config.metrics = Some(address);
    config.bmp.collectors = vec![everything(ADDRESS)];
    lab.start_all(&config);
    lab.wait_converged();
    pmacct.event(&[("log_type", "update"), LOC, ("ip_prefix", "198.51.100.0/25")]);
    pmacct.process.as_ref().unwrap().signal(Signal::SIGSTOP);

    let networks = lab.peers[0].setup.networks.clone();
    let many: Vec<&'static str> = (0..20_000_u32)
        .map(|number| format!("10.{}.{}.{}/32", number >> 16, number >> 8 & 255, number & 255))
        .map(|text| &*text.leak())
        .collect();
    for round in 0..6 {
        lab.peers[0].setup.networks = if round % 2 == 0 { many.clone() } else { networks.clone() };
        lab.peers[0].configure();
        let expected = lab.peers[0].setup.networks.len();
        eventually("the speaker has what BIRD says", || {
            let neighbor = lab.neighbor(&lab.peers[0])?;
            let found = neighbor.prefixes_received;
            if found == expected { Ok(()) } else { Err(format!("{found} of {expected}")) }
        });
    }
    let waiting = status(&lab).unwrap().waiting;
    // Three tables with each route once, however often it changed.
    assert!((1000..=60_009).contains(&waiting), "{waiting} routes wait");
    contains(&lab.metrics(address).unwrap(), &["margay_bgp_bmp_connected{collector=\"127.0.0.1:1790\"} 1\n"])
        .unwrap();

    pmacct.process.as_ref().unwrap().signal(Signal::SIGCONT);
    eventually("the collector has caught up", || {
        let waiting = status(&lab)?.waiting;
        if waiting == 0 { Ok(()) } else { Err(format!("{waiting} wait")) }
    });
    for table in [PRE, POST, LOC] {
        eventually("the last word about a route is that it is gone", || {
            let about = |event: &Value| has(event, &[table, ("ip_prefix", "10.0.78.31/32")]);
            let last = pmacct.events().into_iter().rfind(about);
            match last {
                Some(last) if !has(&last, &[("log_type", "withdraw")]) => Err(last.to_string()),
                _ => Ok(()),
            }
        });
    }
    assert_eq!(status(&lab).unwrap().sessions, 1);
}

#[test]
fn a_collector_that_is_not_there_is_dialled_again_and_costs_nothing_else() {
    let mut pmacct = Pmacct::new(ADDRESS);
    let mut lab = Lab::new(64497, vec![Setup::new(Daemon::Bird)]);
    let mut config = lab.config();
    config.bmp.collectors = vec![everything(ADDRESS)];
    lab.start_all(&config);
    lab.wait_converged();
    eventually("the collector is missed", || {
        let status = status(&lab)?;
        contains(
            &format!("{} {:?}", status.state, status.last_error),
            &["Waiting", "dial: Connection refused"],
        )
    });
    pmacct.start(&lab);
    pmacct.event(&[("log_type", "update"), PRE, BIRD, ("ip_prefix", "198.51.100.0/25")]);
    // A session that begins later.
    lab.peers[0].kill();
    lab.peers[0].start(Start::Fresh);
    lab.wait_converged();
    pmacct.event(&[("bmp_msg_type", "peer_down"), BIRD]);
}
