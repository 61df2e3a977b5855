//! `margayctl diag`: all that a bug report needs, in one file.
//!
//! Of the node that it runs on, if there is one, and of the cluster, if an API server is reached. What cannot be had is
//! named in the bundle and left out. Secrets are taken out (`redact`), and Secrets are never read.

mod bundle;
mod cluster;
mod node;
mod redact;

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;
use k8s_openapi::jiff::Timestamp;

use crate::{Answer, output::Output, status, table::Table};
use bundle::Bundle;
pub(crate) use node::Places;

/// What to gather, and where to.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) cluster: status::Options,
    /// The bundle, a gzipped tar archive; `-` is standard output [default: margay-diag-TIME.tar.gz in the current directory].
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Logs of the agent and speaker of this node; can be repeated [default: of those whose pods are not ready, and of
    /// enough others to make three].
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// How many of the last lines of each log.
    #[arg(long, value_name = "LINES", default_value_t = 5000)]
    log_lines: u32,
}

/// Gathers, and says what could not be had: on standard error where the bundle goes to standard output.
///
/// # Errors
/// When the bundle cannot be written. A file that is there is not overwritten, and none is left half written.
pub(crate) fn run(places: &Places<'_>, options: &Options) -> anyhow::Result<Option<Answer>> {
    let now = Timestamp::now();
    let name = format!("margay-diag-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let time = u64::try_from(now.as_second()).unwrap_or(0);
    let path = options.file.clone().unwrap_or_else(|| format!("{name}.tar.gz").into());
    if path.as_os_str() == "-" {
        let bundle = Bundle::new(io::stdout().lock(), &name, time);
        let table = gather(places, options, bundle)?;
        // Nobody is left to tell when standard error is closed.
        drop(write!(io::stderr(), "{}", table("standard output").text(Output::Table)));
        return Ok(None);
    }
    // What it holds is for who runs this, wherever that is.
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("create {}; --file names another place", path.display()))?;
    match gather(places, options, Bundle::new(file, &name, time)) {
        Ok(table) => Ok(Some(table(&path.display().to_string()).into())),
        Err(error) => {
            // What is left says nothing, and the next attempt wants its place.
            drop(fs::remove_file(&path));
            Err(error.context(format!("write {}", path.display())))
        }
    }
}

/// Fills a bundle, and gives what is to be said of it, once its name is known.
fn gather(
    places: &Places<'_>,
    options: &Options,
    mut bundle: Bundle<'_>,
) -> anyhow::Result<impl FnOnce(&str) -> Table> {
    bundle.add("version.txt", Ok(format!("margayctl {}\n", env!("CARGO_PKG_VERSION"))))?;
    if places.run_dir.exists() {
        node::gather(places, &mut bundle)?;
    } else {
        let why =
            format!("there is no {}; run it on a node, or in an agent's container", places.run_dir.display());
        bundle.add("node", Err(anyhow::Error::msg(why)))?;
    }
    cluster::gather(options, &mut bundle)?;
    let (files, missing) = bundle.finish()?;
    Ok(move |bundle: &str| {
        let mut table = Table::new(&["bundle", "files", "not_to_be_had"]);
        let mut lines = missing.lines();
        table.push([bundle.to_owned(), files.to_string(), lines.next().unwrap_or_default().to_owned()]);
        for line in lines {
            table.push([String::new(), String::new(), line.to_owned()]);
        }
        table
    })
}
