//! What the README and docs/ have their readers type, and a shell as such a reader has one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// The project's folder.
///
/// # Panics
/// When it is gone.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The text of one of its files.
///
/// # Panics
/// When there is none.
pub fn text(file: &str) -> String {
    std::fs::read_to_string(project().join(file)).unwrap()
}

/// The blocks of commands in a text.
pub fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("```\n").skip(1).step_by(2)
}

/// What is in single backquotes in a text, blocks left out.
pub fn in_backquotes(text: &str) -> Vec<String> {
    let text: String = text.split("```").step_by(2).collect();
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Where the programs are that were built beside the test.
///
/// # Panics
/// When they were not.
pub fn programs() -> PathBuf {
    margay_lab::program("margayctl").unwrap().parent().unwrap().to_owned()
}

/// Runs a line as an operator's shell in the project's folder does.
///
/// # Panics
/// When the programs were not built.
pub fn shell(line: &str, kubeconfig: &Path) -> Command {
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command
        .args(["-c", line])
        .current_dir(project())
        .env("PATH", path)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null());
    command
}

/// Writes into a `DaemonSet` what its controller writes: of this many nodes this many have their pod.
pub fn roll_out(object: &mut Value, nodes: usize, available: usize) {
    object["status"] = json!({
        "observedGeneration": object["metadata"]["generation"], "desiredNumberScheduled": nodes,
        "currentNumberScheduled": nodes, "updatedNumberScheduled": nodes, "numberAvailable": available,
        "numberReady": available, "numberMisscheduled": 0,
    });
}
