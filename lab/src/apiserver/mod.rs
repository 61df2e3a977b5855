//! A Kubernetes API server in memory.
//!
//! Good enough for stock kubectl and the `kube` crate: discovery, list, watch, create, update, the four patch forms,
//! status, delete, tables and custom resource definitions, with the defaults and the validation that matter to a
//! network plugin. Any number of listeners can serve one store; a test stops serving by dropping the future of
//! [`ApiServer::serve`], which cuts every connection, and starts again on the same store.
//!
//! ```text
//!  http/ (hyper; the only async part)          registry/ (verbs)             store (objects, history)
//!  router -> list, watch, write  --- lock -->  default, typed, validate,  --> put, remove, changes
//!                ^                             admission                        |
//!                +------------- one signal for each table <---- touched tables -+
//! ```
//! Below `http/` everything is pure. The lock is never held across an await; a watch reads the history instead of
//! having events queued for it.
//!
//! What a real API server does and this one does not:
//! - No TLS, admission webhooks, policies that mutate, quotas or audit. Of policies that validate (`admission`) what is not known is refused.
//!   Who brings no token is an administrator, to whom all reviews are granted; who brings one is the service account that
//!   [`ApiServer::admit`] gave it to, and may do what RBAC says (`authorize`) and read what describes the server. Server-side apply asks for `patch` alone, also where it makes the object.
//! - No controllers: only cluster-wide objects of one owner, itself cluster-wide, go with it; no service account, token or `kube-root-ca.crt` appears
//!   in new namespaces, workloads make no pods, deletion propagation policies are ignored.
//! - Answers are JSON, never protobuf. Protobuf bodies are understood for the kinds that kubectl's imperative commands
//!   send (the table in `http::protobuf`); others get 415. `OpenAPI` has no schemas of built-in kinds, so
//!   `kubectl explain` knows custom resources only.
//! - Managed fields are kept for server-side apply alone; see the module `patch::apply` for its rules.
//! - Validation covers metadata, pods (containers and what may change), nodes' pod CIDRs, services, workloads'
//!   selectors, network policies, definitions and structural schemas with their rules. Other kinds are stored as sent.
//! - Custom resources of several versions are served without conversion beyond `apiVersion`; no webhooks.
//! - Subresources: `status`, `pods/binding`, `pods/eviction` (which heeds no disruption budget). No `scale`, `log`,
//!   `exec`, `proxy`, `finalize` or `serviceaccounts/token`.
//! - A list of an old version (`resourceVersionMatch=Exact`, `continue`) reaches as far as the history does.
//! - A watch from a version newer than the newest waits for it instead of failing.

mod admission;
mod authorize;
mod default;
mod discovery;
mod expression;
mod http;
mod openapi;
mod patch;
mod registry;
mod resource;
mod select;
mod status;
mod store;
mod table;
mod typed;
mod user;
mod validate;

pub use authorize::Refusal;
pub use status::{ApiError, Cause};
pub use user::User;

use authorize::Attributes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use ipnetwork::IpNetwork;
use registry::{Registry, Stamp};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Key, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What can be chosen about an API server.
#[derive(Debug, Clone)]
pub struct ApiServerConfig {
    /// Where cluster addresses of services come from; the first network's family is the default one.
    pub service_networks: Vec<IpNetwork>,
    /// How many changes of each resource can be watched from the past.
    pub history_limit: usize,
    /// How often a watch that allows bookmarks gets one.
    pub bookmark_period: Duration,
    /// Writes an object in place of the server, or leaves it to it. So hundreds of thousands of objects can be as long on the
    /// wire as a real cluster's and short in memory, as nothing that is written so is kept. Metadata and tables are as stored.
    pub writer: Option<Writer>,
}

/// The JSON of an object as clients are to see it, from that which is stored; `None` to write it as it is stored.
pub type Writer = fn(&Value) -> Option<String>;

impl Default for ApiServerConfig {
    fn default() -> Self {
        let services = IpNetwork::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 16);
        Self {
            service_networks: services.into_iter().collect(),
            history_limit: 20_000,
            bookmark_period: Duration::from_mins(1),
            writer: None,
        }
    }
}

/// A handle to one in-memory cluster state; clones share it.
#[derive(Debug, Clone)]
pub struct ApiServer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Mutex<Registry>,
    /// The newest version of each table, for those who watch it.
    signals: Mutex<BTreeMap<String, watch::Sender<u64>>>,
    /// Changes when all watches have to end.
    ended: watch::Sender<u64>,
    bookmark_period: Duration,
    writer: Option<Writer>,
    /// Octets that lists and watches of each resource have sent.
    sent: Mutex<BTreeMap<String, u64>>,
    /// Whose each token is.
    users: Mutex<BTreeMap<String, User>>,
    refusals: Mutex<BTreeSet<Refusal>>,
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiServer {
    /// A server with the default configuration, holding the namespaces that every cluster has.
    pub fn new() -> Self {
        Self::with_config(ApiServerConfig::default())
    }

    /// A server with a configuration of its own.
    pub fn with_config(config: ApiServerConfig) -> Self {
        let mut registry = Registry::new(Store::new(config.history_limit), config.service_networks);
        registry.create_system_namespaces(stamp);
        let shared = Shared {
            registry: Mutex::new(registry),
            signals: Mutex::default(),
            ended: watch::Sender::new(0),
            bookmark_period: config.bookmark_period,
            writer: config.writer,
            sent: Mutex::default(),
            users: Mutex::default(),
            refusals: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves HTTP/1.1 and HTTP/2 without TLS on `listener` until `shutdown` completes.
    ///
    /// The end of the future cuts all connections that came through this listener. When it is dropped instead, they
    /// are cut a moment later.
    ///
    /// # Errors
    /// When the listener fails for good; connections that fail are only logged.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> std::io::Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
                Some(_ended) = connections.join_next() => continue,
            };
            let stream = match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "set TCP_NODELAY on an API connection");
            }
            let server = self.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| http::answer(server.clone(), request));
                let builder = auto::Builder::new(TokioExecutor::new());
                if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(error, "API connection ended");
                }
            });
        }
        connections.shutdown().await;
        Ok(())
    }

    /// Stores `object` as it is, over whatever has its name: no defaults, no validation, no version check.
    ///
    /// The namespace `default` is filled in where one is needed, as are the unique identifier and the creation time.
    ///
    /// # Errors
    /// When `apiVersion` and `kind` name nothing that is served, or `metadata` is not an object.
    pub fn put_raw(&self, object: Value) -> Result<Value, ApiError> {
        self.write(|registry, stamp| registry.put_raw(object, stamp)).map(|stored| stored.value.clone())
    }

    /// Takes an object away as it is: no finalizers, no grace, nothing that depends on it; false when it was not there.
    ///
    /// `namespace` is empty for cluster-wide kinds.
    pub fn remove_raw(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> bool {
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        self.write(|registry, _| {
            let resource = registry.resources.of_kind(api_version, kind);
            resource.is_some_and(|resource| registry.store.remove(&resource.storage, &key).is_some())
        })
    }

    /// The object as it is stored, if it is; `namespace` is empty for cluster-wide kinds.
    pub fn find(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let registry = self.registry();
        let resource = registry.resources.of_kind(api_version, kind)?;
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        registry.store.find(&resource.storage, &key).map(|o| registry::present(&resource, o).value.clone())
    }

    /// All objects of a kind in the order of their namespaces and names.
    pub fn list(&self, api_version: &str, kind: &str) -> Vec<Value> {
        let registry = self.registry();
        let Some(resource) = registry.resources.of_kind(api_version, kind) else { return Vec::new() };
        let all = registry.store.list(&resource.storage, &select::Selector::default(), None);
        all.iter().map(|(_, o)| registry::present(&resource, o).value.clone()).collect()
    }

    /// The newest resource version.
    pub fn resource_version(&self) -> u64 {
        self.registry().store.version()
    }

    /// Drops all history: a list or watch of any older version gets 410 Gone. Watches that are up to date go on.
    pub fn compact(&self) {
        self.registry().store.compact();
    }

    /// Ends every watch, as a restart of the server would; clients come back with the version they know.
    pub fn end_watches(&self) {
        self.shared.ended.send_modify(|n| *n += 1);
    }

    /// Octets in the bodies of lists and watches so far, by the plural of their resource.
    pub fn sent(&self) -> BTreeMap<String, u64> {
        self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count_sent(&self, plural: &str, octets: usize) {
        let mut sent = self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sent.get_mut(plural) {
            *count += octets as u64;
        } else {
            sent.insert(plural.to_owned(), octets as u64);
        }
    }

    /// Lets whoever brings this bearer token be a user.
    pub fn admit(&self, token: &str, user: User) {
        self.users().insert(token.to_owned(), user);
    }

    /// All that users were refused for want of a rule, once each.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.shared.refusals.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// All that policies of admission denied to users, once each.
    pub fn denials(&self) -> Vec<String> {
        self.registry().denials.iter().cloned().collect()
    }

    /// Whose request one with this header `Authorization` is; `None` for an administrator's.
    fn user(&self, header: Option<&str>) -> Result<Option<User>, ApiError> {
        let Some(header) = header else { return Ok(None) };
        let token = header.strip_prefix("Bearer ").unwrap_or_default();
        self.users().get(token).cloned().map(Some).ok_or_else(ApiError::unauthorized)
    }

    /// Refuses what no rule lets the user do, and takes note of it.
    fn authorize(&self, user: &User, asked: Attributes) -> Result<(), ApiError> {
        if self.registry().permits(&user.name, &asked) {
            return Ok(());
        }
        let refusal = Refusal::new(&user.name, asked);
        let error = refusal.error();
        self.shared.refusals.lock().unwrap_or_else(PoisonError::into_inner).insert(refusal);
        Err(error)
    }

    fn users(&self) -> MutexGuard<'_, BTreeMap<String, User>> {
        self.shared.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, change: impl FnOnce(&mut Registry, &Stamp) -> T) -> T {
        let stamp = stamp();
        let mut registry = self.registry();
        let result = change(&mut registry, &stamp);
        let (touched, version) = (registry.store.take_touched(), registry.store.version());
        drop(registry);
        let signals = self.signals();
        for table in touched {
            if let Some(signal) = signals.get(&table) {
                signal.send_replace(version);
            }
        }
        result
    }

    fn subscribe(&self, table: &str) -> (watch::Receiver<u64>, watch::Receiver<u64>) {
        let mut signals = self.signals();
        let signal = signals.entry(table.to_owned()).or_insert_with(|| watch::Sender::new(0));
        (signal.subscribe(), self.shared.ended.subscribe())
    }

    fn signals(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<u64>>> {
        self.shared.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bookmark_period(&self) -> Duration {
        self.shared.bookmark_period
    }

    /// What a client sees of an object, in full.
    fn written(&self, shown: &store::Stored) -> bytes::Bytes {
        let by_writer = self.shared.writer.and_then(|writer| writer(&shown.value));
        by_writer.map_or_else(|| shown.json(), bytes::Bytes::from)
    }
}

/// The clock of the server.
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn stamp() -> Stamp {
    // Letters as Kubernetes uses them: no vowels, no look-alikes.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let uid = uuid::Uuid::new_v4();
    let letter = |b: &u8| LETTERS.get(usize::from(*b) % LETTERS.len()).copied().map_or('x', char::from);
    let suffix = uid.as_bytes().iter().take(5).map(letter).collect();
    Stamp { now: now(), uid: uid.to_string(), suffix }
}
