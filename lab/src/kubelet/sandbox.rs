//! A pod's network namespace, from its making to its end.

use super::Context;
use crate::cni::{Attachment, NetworkList};
use crate::pods::PodKey;
use crate::station::{Port, Protocol, Servers, Station};
use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use margay_api::paths;
use margay_netlink::netns::Namespace;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Map, Value, json};
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An annotation with addresses that the pod asks for, as a list with commas; the capability `ips`.
pub(crate) const ADDRESSES: &str = "lab.margay.dev/ips";

/// A pod's network, with its servers.
#[derive(Debug)]
pub(super) struct Sandbox {
    addresses: Vec<IpAddr>,
    servers: Servers,
    attached: Option<Attached>,
}

/// What a runtime remembers of a sandbox with a network of its own.
#[derive(Debug)]
struct Attached {
    list: NetworkList,
    attachment: Attachment,
    result: Value,
    path: PathBuf,
}

/// The network of a pod with hostNetwork.
pub(super) fn host_sandbox(context: &Context, pod: &Pod) -> anyhow::Result<Sandbox> {
    let servers = context.station.serve(&ports(pod))?;
    let uid = pod.uid().unwrap_or_default();
    context.pods.start(&PodKey::of(pod), &uid, &context.node, &context.station, None);
    Ok(Sandbox { addresses: context.addresses.clone(), servers: servers, attached: None })
}

impl Sandbox {
    /// Makes the namespace and calls the plugins. A failure leaves nothing.
    pub(super) async fn create(context: &Context, key: &PodKey, pod: &Pod) -> anyhow::Result<Self> {
        let list = NetworkList::load(&context.machine.path(paths::CNI_CONF_DIR))?;
        let uid = pod.uid().unwrap_or_default();
        let name = format!("cni-{}", uuid::Uuid::new_v4());
        let path = PathBuf::from("/run/netns").join(name);
        let at = path.clone();
        let namespace = context.machine.run(move || make_namespace(&at)).await?;
        let attachment = Attachment {
            container_id: container_id(),
            netns: path.display().to_string(),
            ifname: "eth0",
            args: String::new(),
            capabilities: capabilities(pod),
        };
        let attachment = Attachment { args: arguments(key, &uid, &attachment.container_id), ..attachment };
        let ready = async {
            let namespace = Arc::new(namespace?);
            let station = Station::open(namespace)?;
            // Before the network is there: a probe that finds the pod finds it serving.
            let servers = station.serve(&ports(pod))?;
            context.pods.start(key, &uid, &context.node, &station, Some(path.clone()));
            let lo = Attachment { ifname: "lo", capabilities: Map::new(), ..attachment.clone() };
            context.runtime.add(&NetworkList::loopback(), &lo).await?;
            let result = context.runtime.add(&list, &attachment).await?;
            let addresses = addresses(&result)?;
            anyhow::Ok((addresses, servers, result))
        };
        match ready.await {
            Ok((addresses, servers, result)) => {
                let attached = Some(Attached { list, attachment, result, path });
                Ok(Self { addresses, servers: servers, attached })
            }
            Err(error) => {
                // The next attempt has another namespace; this one must leave nothing.
                if let Err(more) = context.runtime.del(&list, &attachment, None).await {
                    tracing::debug!(pod = %key, "clean up after a failed ADD: {more:#}");
                }
                let at = path.clone();
                drop(context.machine.run(move || remove_namespace(&at)).await);
                Err(error)
            }
        }
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Stops the servers, calls the plugins and drops the namespace.
    pub(super) async fn destroy(self, context: &Context) -> anyhow::Result<()> {
        drop(self.servers);
        let Some(Attached { list, attachment, result, path }) = self.attached else { return Ok(()) };
        let first = context.runtime.del(&list, &attachment, Some(&result)).await;
        context.machine.run(move || remove_namespace(&path)).await??;
        first?;
        // Runtimes call again when they remove what they had stopped.
        let later = Attachment { netns: String::new(), ..attachment };
        context.runtime.del(&list, &later, None).await
    }
}

/// Makes a namespace and binds it to a path, where runtimes leave theirs. Runs on the machine's thread.
fn make_namespace(path: &Path) -> anyhow::Result<Namespace> {
    let back = Namespace::current()?;
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let made = Namespace::current();
    setns(&back, CloneFlags::CLONE_NEWNET).context("return to the node's namespace")?;
    let made = made?;
    fs::File::create(path).with_context(|| format!("make {}", path.display()))?;
    let from = format!("/proc/self/fd/{}", made.as_fd().as_raw_fd());
    mount(Some(from.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind the namespace to {}", path.display()))?;
    Ok(made)
}

fn remove_namespace(path: &Path) -> anyhow::Result<()> {
    umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", path.display()))?;
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

/// 64 hex digits, as containerd and CRI-O make them.
fn container_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

fn arguments(key: &PodKey, uid: &str, container_id: &str) -> String {
    let PodKey { namespace, name } = key;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={uid}"
    )
}

fn capabilities(pod: &Pod) -> Map<String, Value> {
    let Some(wanted) = pod.annotations().get(ADDRESSES) else { return Map::new() };
    let networks: Vec<String> = wanted
        .split(',')
        .filter_map(|text| text.trim().parse::<IpAddr>().ok())
        .map(|address| ipnetwork::IpNetwork::from(address).to_string())
        .collect();
    Map::from_iter([("ips".to_owned(), json!(networks))])
}

fn addresses(result: &Value) -> anyhow::Result<Vec<IpAddr>> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let texts = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok());
    let addresses: Vec<IpAddr> = texts.collect();
    anyhow::ensure!(!addresses.is_empty(), "the plugin's result has no address: {result}");
    Ok(addresses)
}

/// The declared ports of containers and native sidecars.
pub(crate) fn ports(pod: &Pod) -> Vec<Port> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let declared =
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>().ok()?;
        Some(Port { number: u16::try_from(port.container_port).ok()?, protocol })
    };
    declared.filter_map(port).collect()
}

/// An init container that keeps running.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests {
    use super::ports;

    #[test]
    fn containers_and_sidecars_serve_and_init_containers_do_not() {
        let text = "{metadata: {name: a}, spec: {containers: [{name: c, ports: [{containerPort: 80}]}],\
            initContainers: [{name: i, ports: [{containerPort: 1}]},\
            {name: s, restartPolicy: Always, ports: [{containerPort: 53, protocol: UDP}]}]}}";
        let pod = serde_saphyr::from_str(text).unwrap();
        let served: Vec<String> = ports(&pod).iter().map(ToString::to_string).collect();
        assert_eq!(served, ["80/TCP", "53/UDP"]);
    }
}
