//! The CNI plugin: one call of one verb, then gone.
//!
//! A runtime runs this binary with `CNI_COMMAND` and friends in the environment and a network configuration on
//! standard input, and reads a result or an error from standard output. Named `margay` in a configuration it
//! connects pods; named `loopback` it brings up `lo`, which runtimes want done by a plugin too.
//!
//! ```text
//! ADD:  lock endpoint -> agent: which blocks -> address (ipam) -> endpoint record -> agent told -> veth pair ->
//!       addresses, routes, neighbours -> agent: policy is in the kernel -> result
//!       any failure undoes all before it
//! ```
//!
//! It is synchronous: no runtime, no thread. It holds no credential and asks no API server.

mod agent;
mod config;
mod link;
mod result;
mod verb;

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
};

use result::{Code, Failure};

/// More configuration than any network has.
const MAX_STDIN: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let outcome = io::stdin()
        .take(MAX_STDIN)
        .read_to_end(&mut stdin)
        .map_err(|error| Failure::new(Code::Io, "read the network configuration from stdin").because(&error))
        .and_then(|_| verb::run(&config::Environment::of(env::vars_os()), &stdin));
    let (output, status) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(&config::version_of(&stdin)), ExitCode::FAILURE),
    };
    // Nobody is left to tell when standard output is closed.
    match io::stdout().write_all(output.as_bytes()) {
        Ok(()) => status,
        Err(_closed) => ExitCode::FAILURE,
    }
}
