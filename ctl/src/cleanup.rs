//! `margayctl node cleanup`: takes from a node what Margay has made on it.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use margay_api::{endpoint::HOST_IFNAME_PREFIX, left, paths};
use margay_netlink::{
    Socket, filter,
    link::{self, IfIndex, Link},
    nftables::{Change, Connection, Transaction},
    route::{self, Filter, Protocol, TableId},
};

use crate::{Answer, table::Table};

/// How tunnel devices are called.
const TUNNEL_PREFIX: &str = "margay.";

/// What to take away, and where it is.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only says what would be taken away.
    #[arg(long)]
    dry_run: bool,
    /// Also takes the links of pods that still run, which end their network.
    #[arg(long)]
    with_pods: bool,
    /// Where the runtime looks for network configurations.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_CONF_DIR)]
    cni_conf_dir: PathBuf,
    /// The runtime's plugin directory.
    #[arg(long, value_name = "DIR", default_value = paths::CNI_BIN_DIR)]
    cni_bin_dir: PathBuf,
    /// The node's bpf file system.
    #[arg(long, value_name = "DIR", default_value = paths::BPF_DIR)]
    bpf_dir: PathBuf,
}

/// Takes everything away, in an order in which nothing opens before its pods are gone. What cannot be taken is named, and the rest goes
/// on.
///
/// # Errors
/// When the agent runs, which would make all of it again, or pods still have links.
pub(crate) fn run(run_dir: &Path, state_dir: &Path, options: &Options) -> anyhow::Result<Answer> {
    let socket = run_dir.join(paths::AGENT_SOCKET);
    anyhow::ensure!(
        UnixStream::connect(&socket).is_err(),
        "the agent runs and would make all of it again: delete the DaemonSet first (kubectl delete -f manifests/margay.yaml)"
    );
    let links = link::list(&mut Socket::open()?).context("list the interfaces")?;
    let pods: Vec<&Link> = links.iter().filter(|it| it.name.starts_with(HOST_IFNAME_PREFIX)).collect();
    anyhow::ensure!(
        pods.is_empty() || options.with_pods,
        "{} pods on this node still have a link: drain the node first, or say --with-pods to end their network",
        pods.len()
    );
    let mut cleanup =
        Cleanup { table: Table::new(&["what", "outcome"]), failed: false, dry_run: options.dry_run };
    // No new pods, and then what old ones have.
    cleanup.file(&options.cni_conf_dir.join(paths::CNI_CONF_FILE));
    plugins(&mut cleanup, &options.cni_bin_dir);
    let tunnels = links.iter().filter(|it| it.name.starts_with(TUNNEL_PREFIX));
    for link in pods.into_iter().chain(tunnels) {
        cleanup.step(&format!("link {}", link.name), true, || {
            Ok(Socket::open()?.execute(&link::delete_by_index(link.index))?)
        });
    }
    let failed_before = cleanup.failed;
    filters(&mut cleanup, run_dir);
    // The next attempt is to know where they are.
    let keeps_run_dir = cleanup.failed && !failed_before;
    cleanup.folder(&options.bpf_dir.join(paths::BPF_PINS));
    routes(&mut cleanup);
    nftables(&mut cleanup);
    if !keeps_run_dir {
        cleanup.folder(run_dir);
    }
    cleanup.folder(state_dir);
    let Cleanup { table, failed, .. } = cleanup;
    let status = if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    Ok(Answer { status, ..table.into() })
}

/// The plugin, and `loopback` where that is the plugin by another name.
fn plugins(cleanup: &mut Cleanup, folder: &Path) {
    let plugin = folder.join(paths::CNI_TYPE);
    let loopback = folder.join("loopback");
    let ours = fs::read(&plugin).ok();
    if ours.is_some() && fs::read(&loopback).ok() == ours {
        cleanup.file(&loopback);
    }
    cleanup.file(&plugin);
}

/// Programs at interfaces of a kernel without tcx, and the disciplines that they are or were at; with it, they go with their links below the
/// bpf file system.
fn filters(cleanup: &mut Cleanup, run_dir: &Path) {
    let prefix = paths::BPF_FILTER_PREFIX;
    let what = format!("filters {prefix}*");
    // What cannot be read is nothing that anybody left.
    let left: Vec<u32> = left::read(run_dir, paths::CLSACT).ok().flatten().unwrap_or_default();
    let mut at: BTreeSet<IfIndex> = left.into_iter().filter_map(IfIndex::new).collect();
    match Socket::open().and_then(|mut socket| filter::programs(&mut socket, prefix)) {
        Ok(found) => {
            at.extend(found.iter().map(|filter| filter.link));
            cleanup.step(&format!("{what}: {}", found.len()), !found.is_empty(), || {
                Ok(filter::delete_programs(&mut Socket::open()?, &found)?)
            });
        }
        Err(error) => cleanup.step(&what, true, || Err(error.into())),
    }
    cleanup.step("disciplines clsact without filters", !at.is_empty(), || {
        Ok(filter::delete_unused(&mut Socket::open()?, &at)?)
    });
}

fn routes(cleanup: &mut Cleanup) {
    let all = [
        ("bgp", Protocol::BGP),
        ("margay, of pods", Protocol::MARGAY),
        ("margay, of other nodes", Protocol::MARGAY_OVERLAY),
    ];
    for (name, protocol) in all {
        let filter = Filter { table: Some(TableId::MAIN), protocol: Some(protocol) };
        let found = Socket::open().and_then(|mut socket| route::list(&mut socket, filter));
        let what = format!("routes of protocol {name}");
        let routes = match found {
            Ok(routes) => routes,
            Err(error) => {
                cleanup.step(&what, true, || Err(error.into()));
                continue;
            }
        };
        cleanup.step(&format!("{what}: {}", routes.len()), !routes.is_empty(), || {
            let requests: Vec<_> = routes.iter().map(route::delete).collect();
            for outcome in Socket::open()?.execute_all(&requests)? {
                // It went with its interface.
                outcome.or_else(|error| if error.is_gone() { Ok(()) } else { Err(error) })?;
            }
            Ok(())
        });
    }
}

fn nftables(cleanup: &mut Cleanup) {
    let what = format!("table inet {} of nftables", paths::NFT_TABLE);
    match Connection::open().and_then(|mut connection| connection.outline(paths::NFT_TABLE)) {
        Ok(outline) => cleanup.step(&what, outline != margay_netlink::nftables::Outline::default(), || {
            Ok(Connection::open()?.commit(&Transaction::new(paths::NFT_TABLE, vec![Change::DeleteTable]))?)
        }),
        Err(error) => cleanup.step(&what, !error.is_gone(), || Err(error.into())),
    }
}

/// What was done so far.
struct Cleanup {
    table: Table,
    failed: bool,
    dry_run: bool,
}

impl Cleanup {
    fn file(&mut self, path: &Path) {
        let is_there = path.symlink_metadata().is_ok();
        self.step(&path.display().to_string(), is_there, || Ok(gone_is_fine(fs::remove_file(path))?));
    }

    fn folder(&mut self, path: &Path) {
        let is_there = path.symlink_metadata().is_ok();
        self.step(&path.display().to_string(), is_there, || {
            match fs::remove_dir_all(path) {
                // A mount point, as in a container, whose root may be read-only: it is emptied and stays.
                Err(error)
                    if [io::ErrorKind::ResourceBusy, io::ErrorKind::ReadOnlyFilesystem]
                        .contains(&error.kind())
                        && fs::read_dir(path)?.next().is_none() =>
                {
                    Ok(())
                }
                outcome => Ok(gone_is_fine(outcome)?),
            }
        });
    }

    /// Does something about what is there, and writes down how it went.
    fn step(&mut self, what: &str, is_there: bool, work: impl FnOnce() -> anyhow::Result<()>) {
        let outcome = match (is_there, self.dry_run) {
            (false, _) => "not there".to_owned(),
            (true, true) => "would be removed".to_owned(),
            (true, false) => match work() {
                Ok(()) => "removed".to_owned(),
                Err(error) => {
                    self.failed = true;
                    format!("failed: {error:#}")
                }
            },
        };
        self.table.push([what.to_owned(), outcome]);
    }
}

fn gone_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
