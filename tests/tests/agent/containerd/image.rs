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
    blob_of(&archive(), digest)
}

fn blob_of(archive: &Path, digest: &Value) -> Vec<u8> {
    let name = format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    tar(&["-xOf", archive.to_str().unwrap(), &name], Stdio::null())
}

/// What an archive has under the name of the image.
fn named(archive: &Path) -> Value {
    let index = document(&tar(&["-xOf", archive.to_str().unwrap(), "index.json"], Stdio::null()));
    index["manifests"][0].clone()
}

/// The line of README.md that calls this program, without what is said of it.
fn of_readme(program: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(&format!("{program} "))).collect();
    let [line] = lines[..] else { panic!("README.md calls {program} in one line: {lines:?}") };
    line.split_once("  #").unwrap_or((line, "")).0.trim().to_owned()
}

fn document(octets: &[u8]) -> Value {
    serde_json::from_slice(octets).unwrap()
}

#[test]
fn the_image_holds_four_static_programs_and_nothing_else() {
    let named = named(&archive());
    assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], IMAGE);
    let platforms = document(&blob(&named["digest"]));
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

/// Runs the line that README.md and docs/operating.md have for it, where the archive is. The test's containerd is elsewhere, and has
/// no overlayfs to unpack to.
fn import_as_readme_does(runtime: &Runtime) {
    let line = of_readme("ctr");
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
    assert!(fs::read_to_string(guide).unwrap().lines().any(|other| other == line), "{line}");
    let words: Vec<&str> = line.split(' ').collect();
    let ["ctr", words @ .., file] = &words[..] else { panic!("{line}") };
    let archive = archive();
    assert_eq!(archive.file_name().unwrap().to_str(), Some(*file), "{line}");
    let mut command = runtime.plain_ctr();
    command.args(words).args(["--snapshotter=native", file]).current_dir(archive.parent().unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output));
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
        import_as_readme_does(&runtime);

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

/// In namespaces of its own: a registry without TLS under the name that README.md has, on the loopback.
const REGISTRY: &str = r#"
    set -e
    ip link set lo up
    mount --bind "$1/hosts" /etc/hosts
    mount --bind "$1/registries.conf" /etc/containers/registries.conf
    docker-registry serve "$1/registry.yml" > "$1/registry.log" 2>&1 &
    timeout 60 bash -c 'until (exec 3<>/dev/tcp/127.0.0.1/80) 2> /dev/null; do kill -0 $0; sleep 0.05; done' $!
    $2
    skopeo copy --all "${2##* }" "oci-archive:$1/back.tar"
"#;

#[test]
fn the_image_goes_to_a_registry_as_the_readme_has_it_and_comes_back_with_all_its_platforms() {
    // The archive of the tests is beside that of a release.
    let line = of_readme("skopeo").replace("target/image/margay.tar", archive().to_str().unwrap());
    let host = line.rsplit_once("docker://").unwrap().1.split('/').next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("hosts"), format!("127.0.0.1 localhost {host}\n")).unwrap();
    let insecure = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
    fs::write(path("registries.conf"), insecure).unwrap();
    let stored = path("stored");
    let registry = json!({
        "version": "0.1", "http": {"addr": "127.0.0.1:80"},
        "storage": {"filesystem": {"rootdirectory": stored}},
    });
    fs::write(path("registry.yml"), registry.to_string()).unwrap();
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "bash", "-c", REGISTRY, "bash"])
        .arg(folder.path())
        .arg(&line)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = fs::read_to_string(path("registry.log")).unwrap_or_default();
    assert!(output.status.success(), "{line}: {}\n{log}", text(&output));

    let (sent, back) = (named(&archive()), named(&path("back.tar")));
    assert_eq!(sent["digest"], back["digest"]);
    let platforms = document(&blob_of(&path("back.tar"), &back["digest"]));
    for platform in platforms["manifests"].as_array().unwrap() {
        let manifest = document(&blob_of(&path("back.tar"), &platform["digest"]));
        for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            assert_eq!(blob_of(&path("back.tar"), &part["digest"]), blob(&part["digest"]), "{platform}");
        }
    }
}
