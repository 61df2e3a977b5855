//! Programs that read what to do.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Runs a program that reads what to do.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    let child = command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}; ./setup installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}: {input}", String::from_utf8_lossy(&output.stderr));
}

/// Has `ip` do what is said line by line, in the caller's namespace.
pub(crate) fn ip(lines: &str) {
    feed("ip", &["-batch", "-"], lines);
}
