//! `margayctl policy`: what policies say about a connection, from the cluster's objects or from files.
//!
//! ```text
//!  manifests (files) --+                                        +--> explain: one connection, with the reasons
//!                      +--> source: Objects --> judge: a pair --+--> matrix:  who may reach whom
//!  cluster (API) ------+                                        +--> test:    expectations, for CI
//! ```
//! Every verdict is the reference evaluator's (`margay_policy::evaluate`); nothing here decides about traffic. It reads
//! objects and changes none.

mod cluster;
mod expectation;
mod explain;
mod judge;
mod junit;
mod manifests;
mod matrix;
mod party;
mod source;
mod test;
mod words;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use ipnetwork::IpNetwork;

use crate::output::Output;
use source::Source;

/// The exit status of an answer that could not be had; 1 is "denied" or "failed".
pub(crate) const ERROR: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// May this connection be made, and which rule says so? Exit status 0: allowed, 1: denied, 2: error.
    Explain(explain::Arguments),
    /// Who may reach whom. Exit status 0, or 2: error.
    Matrix(matrix::Arguments),
    /// Check expectations written in YAML. Exit status 0: all met, 1: some are not, 2: some could not be judged.
    Test(test::Arguments),
}

/// Where the objects come from: the cluster of the kubeconfig, unless files are given.
#[derive(Debug, Clone, Args)]
pub(crate) struct From {
    /// Manifests in place of a cluster: a file, or a folder with all .yaml, .yml and .json files below it. Can be
    /// repeated.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    manifests: Vec<PathBuf>,
    /// How to reach the API server [default: $KUBECONFIG, ~/.kube/config, or the service account of this pod].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where pods without a known address will have one, for ipBlock rules; can be repeated [default: unknown, but
    /// private].
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Vec<IpNetwork>,
}

impl From {
    fn load(&self) -> anyhow::Result<Source> {
        let mut source = if self.manifests.is_empty() {
            cluster::load(self.kubeconfig.as_deref())?
        } else {
            manifests::load(&self.manifests)?
        };
        source.pod_networks.clone_from(&self.pod_cidr);
        Ok(source)
    }
}

/// What is printed, and the exit status.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) status: ExitCode,
}

pub(crate) fn run(command: &Command, output: Output) -> anyhow::Result<Answer> {
    match command {
        Command::Explain(arguments) => explain::run(arguments, output),
        Command::Matrix(arguments) => matrix::run(arguments, output),
        Command::Test(arguments) => test::run(arguments, output),
    }
}

/// Says on standard error what of the objects was not read.
fn warn(source: &Source) {
    tell(source.problems.iter().map(|problem| format!("warning: {problem}")));
    tell(source.passed_over());
}

fn tell(lines: impl IntoIterator<Item = String>) {
    for line in lines {
        // Nobody is left to tell when standard error is closed.
        drop(writeln!(io::stderr(), "{line}"));
    }
}
