//! `margay-lab`: Kubernetes clusters out of network namespaces, for trying Margay and testing it.

mod cli;
mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
