//! The image that `image/build --profile dev` makes, in a real runtime: what is in it, and that it installs and starts as the
//! `DaemonSet` does it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use super::{prepare, runtime::Runtime};
use crate::node::on_node;

const IMAGE: &str = "docker.io/library/margay:dev";
/// What a container has unless it is taken away; `drop: [ALL]` takes all of it.
const CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn archive() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image-dev/margay.tar");
    assert!(path.exists(), "there is no {}: image/build --profile dev amd64", path.display());
    path
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn tar(arguments: &[&str], input: Stdio) -> Vec<u8> {
    let output = Command::new("tar").args(arguments).stdin(input).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    output.stdout
}

/// A file of the archive by its digest.
fn blob(digest: &Value) -> Vec<u8> {
    let name = format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    tar(&["-xOf", archive().to_str().unwrap(), &name], Stdio::null())
}

fn document(octets: &[u8]) -> Value {
    serde_json::from_slice(octets).unwrap()
}

#[test]
fn the_image_holds_four_static_programs_and_nothing_else() {
    let index = document(&tar(&["-xOf", archive().to_str().unwrap(), "index.json"], Stdio::null()));
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], IMAGE);
    let platforms = document(&blob(&index["manifests"][0]["digest"]));
    let platforms = platforms["manifests"].as_array().unwrap();
    assert!(!platforms.is_empty());
    for platform in platforms {
        holds_four_static_programs(&document(&blob(&platform["digest"])));
    }
}

fn holds_four_static_programs(manifest: &Value) {
    let config = document(&blob(&manifest["config"]["digest"]));
    assert_eq!(config["config"]["Env"], json!(["PATH=/usr/local/bin"]));

    let folder = tempfile::tempdir().unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let path = folder.path().join("layer.tar.gz");
        fs::write(&path, blob(&layer["digest"])).unwrap();
        tar(&["-C", folder.path().to_str().unwrap(), "-xzf", path.to_str().unwrap()], Stdio::null());
        fs::remove_file(path).unwrap();
    }
    let found =
        Command::new("find").arg(folder.path()).args(["-type", "f", "-printf", "%P %m\n"]).output().unwrap();
    let found = text(&found);
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    let programs = ["margay", "margay-bgp", "margay-node", "margayctl"];
    assert_eq!(found, programs.map(|program| format!("usr/local/bin/{program} 755")));
    for program in programs {
        let path = folder.path().join("usr/local/bin").join(program);
        // That reads programs of any machine, which ldd does not. What asks for a dynamic linker has a segment with its name.
        let headers = text(&Command::new("readelf").arg("--program-headers").arg(&path).output().unwrap());
        assert!(headers.contains("LOAD") && !headers.contains("INTERP"), "{program}: {headers}");
    }
}

/// Runs a command of the image as a container of the `DaemonSet` runs: its root read-only, and without capabilities.
fn run(runtime: &Runtime, name: &str, more: &[&str], command: &[&str]) -> Output {
    let fifos = runtime.path("fifos");
    let dropped = CAPABILITIES.map(|capability| format!("--cap-drop=CAP_{capability}"));
    let output = runtime
        .ctr()
        .args(["run", "--rm", "--read-only", "--snapshotter=native"])
        .arg(format!("--cgroup={}/{name}", runtime.cgroup))
        .arg(format!("--fifo-dir={}", fifos.display()))
        .args(dropped)
        .args(more)
        .args([IMAGE, name])
        .args(command)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}", text(&output), runtime.log());
    output
}

#[test]
fn the_image_installs_the_plugin_and_starts_its_programs_without_capabilities() {
    on_node(async |node| {
        prepare(node, &[]).await;
        let runtime = Runtime::start(node).await;
        let output =
            runtime.ctr().args(["images", "import", "--snapshotter=native"]).arg(archive()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));

        for program in ["margay-node", "margay-bgp", "margayctl"] {
            let said = text(&run(&runtime, program, &[], &[program, "--version"]));
            assert!(said.contains(env!("CARGO_PKG_VERSION")), "{program}: {said}");
        }

        let plugins = node.path("plugins");
        fs::create_dir(&plugins).unwrap();
        let mount =
            format!("--mount=type=bind,src={},dst=/host/opt/cni/bin,options=rbind:rw", plugins.display());
        let command = ["margay-node", "install-cni", "--from", "/usr/local/bin", "--to", "/host/opt/cni/bin"];
        run(&runtime, "install", &[&mount], &command);
        for name in ["margay", "loopback"] {
            assert_eq!(
                fs::metadata(plugins.join(name)).unwrap().permissions().mode() & 0o777,
                0o755,
                "{name}"
            );
        }
        let mut plugin = Command::new(plugins.join("margay"));
        plugin.env("CNI_COMMAND", "VERSION").stdin(Stdio::null());
        let version = plugin.output().unwrap();
        assert!(text(&version).contains("1.1.0"), "{}", text(&version));
    });
}
