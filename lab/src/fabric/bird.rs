//! The router of a routed fabric: stock BIRD 2.

use super::ROUTER_ASN;
use crate::machine::ProcessSpec;
use crate::plan::NodePlan;
use anyhow::Context;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Its control socket, on its machine.
pub(super) const CONTROL: &str = "/run/lab/bird.ctl";

/// Finds the program.
pub(super) fn find() -> anyhow::Result<PathBuf> {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&in_path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places
        .map(|place| place.join("bird"))
        .find(|path| path.is_file())
        .context("the routed fabric needs BIRD 2: apt-get install bird2")
}

pub(super) fn spec(program: PathBuf) -> ProcessSpec {
    let path = |name: &str| Path::new("/run/lab").join(name).display().to_string();
    let args = ["-f".into(), "-c".into(), path("bird.conf"), "-s".into(), CONTROL.into()];
    ProcessSpec { name: "bird".into(), program, args: args.into(), environment: Vec::new() }
}

pub(super) fn configuration(nodes: &[NodePlan]) -> String {
    let mut text = String::from(
        "log stderr all;\n\
         router id 172.18.0.1;\n\
         protocol device {}\n\
         protocol direct { ipv4; ipv6; }\n\
         protocol kernel k4 { ipv4 { export where source = RTS_BGP; }; }\n\
         protocol kernel k6 { ipv6 { export where source = RTS_BGP; }; }\n",
    );
    for node in nodes {
        let (name, asn) = (&node.name, node.asn);
        let Some(address) = node.address() else { continue };
        // Writing to a String cannot fail.
        let _ok = write!(
            text,
            "protocol bgp {name} {{\n  \
               local as {ROUTER_ASN};\n  \
               neighbor {address} as {asn};\n  \
               connect delay time 1;\n  connect retry time 2;\n  error wait time 1, 5;\n  \
               ipv4 {{ import all; export where source = RTS_BGP; }};\n  \
               ipv6 {{ import all; export where source = RTS_BGP; }};\n}}\n"
        );
    }
    text
}
