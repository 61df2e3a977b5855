//! The API server of a lab: the one in memory, or a real one, at 127.0.0.1:6443 of every node either way.

use crate::apiserver::ApiServer;
use crate::identity;
use anyhow::Context;
use futures::future::join_all;
use kube::config::{
    AuthInfo, Cluster, Context as KubeContext, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster,
    NamedContext,
};
use kube::{Client, Config};
use margay_netlink::netns::Namespace;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Where every node finds the API server.
const IN_NODE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6443);

/// Access to the API server.
pub(crate) struct Api {
    backend: Backend,
    client: Client,
    host: Kubeconfig,
    node: Kubeconfig,
    places: Mutex<Vec<Place>>,
}

/// Where it can be found.
struct Place {
    /// `None` for the host's.
    namespace: Option<Arc<Namespace>>,
    address: SocketAddr,
    /// `None` while it is cut.
    served: Option<Served>,
}

/// What serves at a place.
struct Served {
    /// Tells it to end.
    end: watch::Sender<()>,
    task: JoinSet<()>,
}

impl Served {
    /// Ends it; nothing is told to anybody afterwards.
    async fn cut(self) {
        self.end.send_replace(());
        self.task.join_all().await;
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the client nor the kubeconfigs: they may hold credentials.
        f.debug_struct("Api").field("backend", &self.backend).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
enum Backend {
    Memory(ApiServer),
    /// A real server, by `HOST:PORT`.
    Real(String),
}

impl Api {
    /// The server in memory, or the one of a kubeconfig.
    pub(crate) async fn start(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        match kubeconfig {
            None => {
                let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let address = listener.local_addr()?;
                let host = plain(address);
                let config =
                    Config::from_custom_kubeconfig(host.clone(), &KubeConfigOptions::default()).await?;
                let server = ApiServer::new();
                identity::admit_agent(&server)?;
                let api = Self {
                    backend: Backend::Memory(server),
                    client: Client::try_from(config)?,
                    host,
                    node: plain(IN_NODE),
                    places: Mutex::default(),
                };
                api.serve_on(listener, None, address)?;
                Ok(api)
            }
            Some(path) => {
                let host = Kubeconfig::read_from(path)
                    .with_context(|| format!("read kubeconfig {}", path.display()))?;
                let config = Config::from_custom_kubeconfig(host.clone(), &KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("use kubeconfig {}", path.display()))?;
                let name = config.cluster_url.host().context("the server's URL has no host")?.to_owned();
                let tls = config.cluster_url.scheme_str() == Some("https");
                let port = config.cluster_url.port_u16().unwrap_or(if tls { 443 } else { 80 });
                let client = Client::try_from(config)?;
                let version = client.apiserver_version().await;
                version.with_context(|| format!("talk to the API server of {}", path.display()))?;
                Ok(Self {
                    backend: Backend::Real(format!("{name}:{port}")),
                    client,
                    node: through_node(host.clone(), &name, tls),
                    host,
                    places: Mutex::default(),
                })
            }
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The server in memory, when it is that.
    pub(crate) fn memory(&self) -> Option<&ApiServer> {
        match &self.backend {
            Backend::Memory(server) => Some(server),
            Backend::Real(_) => None,
        }
    }

    /// The configuration of a client on the host.
    pub(crate) fn host_kubeconfig(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(&self.host)?)
    }

    /// The configuration of the agent of a node.
    pub(crate) fn node_kubeconfig(&self, node: &str) -> anyhow::Result<String> {
        let config = match self.memory() {
            Some(server) => with_token(self.node.clone(), &identity::admit_on_node(server, node)),
            None => self.node.clone(),
        };
        Ok(serde_json::to_string_pretty(&config)?)
    }

    /// Serves inside a node.
    pub(crate) fn serve_in(&self, namespace: &Arc<Namespace>) -> anyhow::Result<()> {
        let listener = listen(Some(namespace), IN_NODE)?;
        self.serve_on(listener, Some(Arc::clone(namespace)), IN_NODE)
    }

    /// Ends what [`Self::serve_in`] began.
    pub(crate) async fn leave(&self, namespace: &Arc<Namespace>) {
        let of_node =
            |place: &mut Place| place.namespace.as_ref().is_some_and(|served| Arc::ptr_eq(served, namespace));
        let left: Vec<Place> = self.places().extract_if(.., of_node).collect();
        join_all(left.into_iter().filter_map(|place| place.served).map(Served::cut)).await;
    }

    /// Cuts every connection and accepts no more, as when the server is down; nothing is told to anybody afterwards.
    pub(crate) async fn cut(&self) {
        let served: Vec<Served> = self.places().iter_mut().filter_map(|place| place.served.take()).collect();
        join_all(served.into_iter().map(Served::cut)).await;
    }

    /// Serves again, at all the places where it was cut.
    pub(crate) fn restore(&self) -> anyhow::Result<()> {
        for place in self.places().iter_mut().filter(|place| place.served.is_none()) {
            let listener = listen(place.namespace.as_deref(), place.address)?;
            place.served = Some(self.serve(listener)?);
        }
        Ok(())
    }

    fn serve_on(
        &self,
        listener: std::net::TcpListener,
        namespace: Option<Arc<Namespace>>,
        address: SocketAddr,
    ) -> anyhow::Result<()> {
        let served = Some(self.serve(listener)?);
        self.places().push(Place { namespace, address, served });
        Ok(())
    }

    fn serve(&self, listener: std::net::TcpListener) -> anyhow::Result<Served> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let backend = self.backend.clone();
        let (end, mut ends) = watch::channel(());
        let ended = async move { drop(ends.changed().await) };
        let mut task = JoinSet::new();
        task.spawn(async move {
            let served = match backend {
                Backend::Memory(server) => server.serve(listener, ended).await,
                Backend::Real(server) => forward(listener, server, ended).await,
            };
            if let Err(error) = served {
                tracing::error!(%error, "the API server's listener failed");
            }
        });
        Ok(Served { end, task })
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(namespace: Option<&Namespace>, address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let _inside = namespace.map(Namespace::enter).transpose()?;
    std::net::TcpListener::bind(address).with_context(|| format!("listen on {address}"))
}

/// Carries each connection to the real server, until `end` completes.
async fn forward(
    listener: TcpListener,
    server: String,
    end: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let mut end = std::pin::pin!(end);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => {
                let (mut near, _) = accepted?;
                let server = server.clone();
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(server).await {
                        // Either end may break off.
                        drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                    }
                });
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
    Ok(())
}

fn plain(address: SocketAddr) -> Kubeconfig {
    let name = || "margay-lab".to_owned();
    let cluster = Cluster { server: Some(format!("http://{address}")), ..Cluster::default() };
    let context = KubeContext { cluster: name(), ..KubeContext::default() };
    Kubeconfig {
        api_version: Some("v1".into()),
        kind: Some("Config".into()),
        clusters: vec![NamedCluster { name: name(), cluster: Some(cluster), ..NamedCluster::default() }],
        contexts: vec![NamedContext { name: name(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(name()),
        ..Kubeconfig::default()
    }
}

/// The same servers, for an agent that brings this token, in its namespace.
fn with_token(mut kubeconfig: Kubeconfig, token: &str) -> Kubeconfig {
    let user = "margay-node".to_owned();
    let auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
    kubeconfig.auth_infos =
        vec![NamedAuthInfo { name: user.clone(), auth_info: Some(auth_info), ..NamedAuthInfo::default() }];
    for context in kubeconfig.contexts.iter_mut().filter_map(|named| named.context.as_mut()) {
        context.user = Some(user.clone());
        context.namespace = Some(identity::NAMESPACE.to_owned());
    }
    kubeconfig
}

/// The same servers and credentials, through the forwarder in the node.
fn through_node(mut kubeconfig: Kubeconfig, server: &str, tls: bool) -> Kubeconfig {
    let scheme = if tls { "https" } else { "http" };
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(format!("{scheme}://{IN_NODE}"));
        if tls && cluster.tls_server_name.is_none() {
            cluster.tls_server_name = Some(server.to_owned());
        }
    }
    kubeconfig
}
