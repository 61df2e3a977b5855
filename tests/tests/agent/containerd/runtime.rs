//! containerd in a process namespace of its own, with which all that it starts ends.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::cri::Client;
use crate::node::{Node, program};

const IMAGE: &str = "margay.test/sandbox:1";
/// Where a sandbox's process serves [`GREETING`].
pub(super) const PORT: u16 = 8080;
pub(super) const GREETING: &str = "a sandbox was here";

/// The first process of the namespace. libcni remembers results in `/var/lib/cni`, runtimes keep sockets and namespaces
/// in `/run`: both are the test's own here. Each line on standard input starts containerd once more.
const INIT: &str = r#"
    mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib || exit 1
    while read -r _; do containerd --config "$0" < /dev/null >> "$1" 2>&1; done
"#;

pub(super) struct Runtime {
    directory: PathBuf,
    pub(super) client: Client,
    init: Child,
    pub(super) cgroup: String,
}

impl Runtime {
    /// Starts containerd in the namespaces of the calling thread, with our plugins installed as on any node and the
    /// agent's network configuration.
    pub(super) async fn start(node: &Node) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let directory = node.path("containerd");
        fs::create_dir(&directory).unwrap();
        install_plugins(&directory.join("bin"));
        let socket = directory.join("containerd.sock");
        let config = directory.join("config.toml");
        fs::write(&config, configuration(&directory, &socket, &node.path("cni"))).unwrap();
        let init = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", INIT])
            .args([&config, &directory.join("log")])
            .stdin(Stdio::piped())
            // It complains of being killed.
            .stderr(File::create(directory.join("init.log")).unwrap())
            .spawn()
            .expect("setpriv and unshare of util-linux run");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/margay-test-{}-{number}", std::process::id());
        let mut runtime = Self { directory, client: Client { socket }, init, cgroup };
        runtime.start_containerd(node).await;
        runtime.import_image();
        runtime
    }

    /// Starts it again after [`Self::kill_containerd`].
    pub(super) async fn start_containerd(&mut self, node: &Node) {
        self.init.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        node.eventually("containerd can run pods", async || {
            self.client.ready().await.map_err(|error| format!("{error}\n{}", self.log()))
        })
        .await;
    }

    /// SIGKILL for containerd; its shims and sandboxes live on.
    pub(super) fn kill_containerd(&self) {
        let containerd = children(self.first_process()).into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() == "containerd\n"
        });
        kill(containerd.expect("containerd runs"), Signal::SIGKILL).unwrap();
    }

    pub(super) fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// containerd's own client, with the images that kubelets use.
    pub(super) fn ctr(&self) -> Command {
        let mut command = self.plain_ctr();
        command.args(["--namespace", "k8s.io"]);
        command
    }

    /// It as an operator calls it, on a node where there is one containerd.
    pub(super) fn plain_ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.client.socket);
        command
    }

    /// A path that is the same inside.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn first_process(&self) -> Pid {
        let unshare = Pid::from_raw(self.init.id().try_into().unwrap());
        children(unshare).first().copied().expect("unshare has forked")
    }

    /// An image of one program, made here: nothing is pulled.
    fn import_image(&self) {
        let tree = self.directory.join("image/layer");
        fs::create_dir_all(&tree).unwrap();
        fs::copy("/usr/bin/busybox", tree.join("busybox"))
            .or_else(|_| fs::copy("/bin/busybox", tree.join("busybox")))
            .expect("./setup installs busybox-static");
        fs::write(tree.join("index.html"), GREETING).unwrap();
        let folder = self.directory.join("image");
        tar(&folder.join("layer.tar"), &tree, &["."]);
        let digest = digest(&folder.join("layer.tar"));
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": ["/busybox", "httpd", "-f", "-p", PORT.to_string(), "-h", "/"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
        let archive = folder.join("image.tar");
        tar(&archive, &folder, &["manifest.json", "config.json", "layer.tar"]);
        // Inside, where the layer is unpacked by the daemon's own mounts.
        let output = self.ctr().args(["images", "import"]).arg(&archive).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // The first process takes all others of its namespace with it, and unshare ends once they are gone.
        if let Some(first) = children(Pid::from_raw(self.init.id().cast_signed())).first() {
            // Gone already is as good.
            let _gone = kill(*first, Signal::SIGKILL);
        }
        drop(self.init.wait());
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroup(&hierarchy.path().join(self.cgroup.trim_start_matches('/')));
        }
        // Where there is one hierarchy.
        remove_cgroup(&Path::new("/sys/fs/cgroup").join(self.cgroup.trim_start_matches('/')));
    }
}

/// Removes empty groups: a killed runtime leaves them.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // Most hierarchies have none.
    drop(fs::remove_dir(path));
}

fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
}

fn digest(path: &Path) -> String {
    let mut text = String::new();
    for octet in Sha256::digest(fs::read(path).unwrap()) {
        write!(text, "{octet:02x}").unwrap();
    }
    text
}

/// The names that images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(archive: &Path, directory: &Path, names: &[&str]) {
    let status = Command::new("tar")
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(directory)
        .args(names)
        .status()
        .unwrap();
    assert!(status.success(), "{}", archive.display());
}

/// Ours as a node gets it, and the `portmap` of Debian.
fn install_plugins(to: &Path) {
    let agent = program("margay-node");
    let output = Command::new(&agent)
        .arg("install-cni")
        .arg("--from")
        .arg(agent.parent().unwrap())
        .arg("--to")
        .arg(to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::os::unix::fs::symlink("/usr/lib/cni/portmap", to.join("portmap")).unwrap();
}

fn configuration(directory: &Path, socket: &Path, networks: &Path) -> String {
    let text = |path: &Path| json!(path.display().to_string()).to_string();
    format!(
        r#"version = 2
root = {root}
state = {state}
disabled_plugins = [
    "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = {socket}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {bin}
conf_dir = {networks}
"#,
        root = text(&directory.join("root")),
        state = text(&directory.join("state")),
        socket = text(socket),
        bin = text(&directory.join("bin")),
        networks = text(networks),
    )
}
