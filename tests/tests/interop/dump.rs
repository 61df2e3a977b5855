//! Others read the tables that the speaker wrote.

use std::path::Path;

use crate::harness::{contains, run};
use crate::lab::{Daemon, Lab, Setup};

/// What `bgpdump` reads, a path a line: type, time and B, then peer, its AS, prefix, AS path, origin, next hop and so on.
fn read(file: &Path) -> String {
    run("bgpdump", ["-m".as_ref(), file.as_os_str()])
}

#[test]
fn bgpdump_reads_all_paths_with_their_peers() {
    let lab = Lab::converged(64497, vec![Setup::new(Daemon::Bird), Setup::new(Daemon::Frr)]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tables.mrt");
    // What is there is replaced.
    for _ in 0..2 {
        lab.dump(&file).unwrap();
    }
    let text = read(&file);
    let expected = [
        "|B|192.0.2.1|64496|198.51.100.0/25|64496|IGP|192.0.2.1|0|0||NAG||",
        "|B|192.0.2.3|64496|198.51.100.0/25|64496|IGP|192.0.2.3|0|0||NAG||",
        "|B|192.0.2.1|64496|2001:db8:100::/40|64496|IGP|2001:db8::1|0|0||NAG||",
        "|B|192.0.2.3|64496|2001:db8:100::/40|64496|IGP|2001:db8::3|0|0||NAG||",
        "|B|0.0.0.0|64497|203.0.113.0/25||IGP|0.0.0.0|0|0||NAG||",
        "|B|0.0.0.0|64497|2001:db8:200::/40||IGP|::|0|0||NAG||",
    ];
    contains(&text, &expected).unwrap();
    // Three networks of each peer, two of ours.
    assert_eq!(text.lines().count(), 8, "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn bgpdump_reads_several_paths_of_one_peer() {
    let lab = Lab::converged(64496, vec![Setup { add_path: true, ..Setup::new(Daemon::Bird) }]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tables.mrt");
    lab.dump(&file).unwrap();
    let text = read(&file);
    // The peer's number of the path stands behind the prefix.
    let is_one = |line: &&str| {
        line.contains("|192.0.2.1|64496|198.51.100.0/25|") && line.ends_with("||IGP|192.0.2.1|100|0||NAG||")
    };
    let paths: std::collections::BTreeSet<&str> = text.lines().filter(is_one).collect();
    assert_eq!(paths.len(), 2, "{text}");
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let lab = Lab::converged(64497, vec![Setup::new(Daemon::Bird)]);
    let cases =
        [("/nowhere/tables.mrt", "write /nowhere/tables.mrt: No such file"), ("t.mrt", "absolute path")];
    for (file, expected) in cases {
        contains(&lab.dump(Path::new(file)).unwrap_err().to_string(), &[expected]).unwrap();
    }
}
