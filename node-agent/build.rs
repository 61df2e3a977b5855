//! Builds the kernel programs, which the agent carries within itself.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const OBJECT: &str = "margay-dataplane-gpl";

fn main() -> ExitCode {
    for path in ["src", "common/src", "common/Cargo.toml", "Cargo.toml", "Cargo.lock", "build"] {
        println!("cargo::rerun-if-changed=../ebpf/{path}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=the kernel programs of ../ebpf are not built: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> io::Result<()> {
    let here = variable("CARGO_MANIFEST_DIR")?;
    let mut command = Command::new(here.join("../ebpf/build"));
    // What the cargo that runs this tells it is about this target and not about that of the programs.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let is_ours = ["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&name.as_str());
        if (name.starts_with("CARGO") || name.starts_with("RUST")) && !is_ours && !name.starts_with("RUSTUP")
        {
            command.env_remove(name);
        }
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let built = here.join("../target/bpf").join(OBJECT);
    fs::copy(built, Path::new(&variable("OUT_DIR")?).join(OBJECT))?;
    Ok(())
}

fn variable(name: &str) -> io::Result<PathBuf> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(format!("{name} is not set")))
}
