//! The cluster's `NetworkConfig`: what the agents of all nodes have in common, followed as it changes.
//!
//! The last one that could be taken is kept on the node's disk: an agent that starts while the API server is away begins as
//! the one before it went on.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, api::ListParams};
use margay_api::{
    left,
    resource::{NetworkConfig, NetworkConfigSpec},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, interval, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    causes::in_full,
    conditions::{Conditions, Named},
    config::{Settings, Sources},
    core::Event,
    facts::Facts,
    notice::Notices,
    watch::{self as watches, Change, NETWORK_CONFIG, NetworkFacts},
};

/// The copy, below the state directory.
const FILE: &str = "network-config.json";
/// How long the first agent of a node waits for the API server, and one that has a copy.
const FIRST: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(3);
/// Changes that may wait.
const QUEUE: usize = 16;
/// Between two attempts of the first.
const PAUSE: Duration = Duration::from_millis(500);

/// What an agent begins with.
pub(crate) struct Start {
    pub(crate) settings: Settings,
    pub(crate) follower: Follower,
}

/// Asks the API server for what all nodes have in common, and takes the copy if it does not say.
///
/// # Errors
/// When the agent's own flags, environment and file cannot be taken.
pub(crate) async fn at_start(client: &Client, sources: Sources, state_dir: &Path) -> anyhow::Result<Start> {
    let copy = Copy::below(state_dir);
    let kept = copy.read();
    let limit = if kept.is_some() { AGAIN } else { FIRST };
    let mut last = None;
    let asked = timeout(limit, ask(client, kept.is_none(), &mut last)).await;
    let asked = asked.unwrap_or_else(|_elapsed| {
        let why = last.map(|error| format!(": {error}")).unwrap_or_default();
        Err(format!("no answer within {limit:?}{why}"))
    });
    let taken = asked.and_then(|common| {
        let settings = sources.settings(common.as_ref()).map_err(|error| format!("{error:#}"))?;
        Ok((settings, common))
    });
    let (settings, common) = match taken {
        Ok((settings, common)) => {
            copy.keep(common.as_ref());
            (settings, common)
        }
        Err(why) => {
            let instead = if kept.is_some() { "the last one that was right" } else { "none" };
            warn!("NetworkConfig {NETWORK_CONFIG}: {why}; {instead} counts until there is another");
            let common = kept.flatten();
            // The file may be another since; what is wrong with both together is told when the object is listed.
            match sources.settings(common.as_ref()) {
                Ok(settings) => (settings, common),
                Err(_) => (sources.settings(None)?, None),
            }
        }
    };
    Ok(Start { settings, follower: Follower { sources, common, copy } })
}

/// What the API server has, if it is there; else in words why not. Who is patient may see the `last` failure meanwhile.
async fn ask(
    client: &Client,
    patiently: bool,
    last: &mut Option<String>,
) -> Result<Option<NetworkConfigSpec>, String> {
    let api: Api<NetworkConfig> = Api::all(client.clone());
    // By listing: the role has no other verb that the watch does not need.
    let only = ListParams::default().fields(&format!("metadata.name={NETWORK_CONFIG}"));
    let mut attempts = interval(PAUSE);
    loop {
        attempts.tick().await;
        match api.list(&only).await {
            Ok(list) => return Ok(list.items.into_iter().next().map(|object| object.spec)),
            // No such kind: not yet, or not for the moment, if there was an object of it.
            Err(kube::Error::Api(status)) if status.code == 404 && patiently => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 403 => return Err(status.to_string()),
            Err(error) if !patiently => return Err(in_full(&error)),
            Err(error) => *last = Some(in_full(&error)),
        }
    }
}

/// Has the core follow the object, and says on it whether it can be taken.
pub(crate) struct Follower {
    sources: Sources,
    /// What counts of the cluster's.
    common: Option<NetworkConfigSpec>,
    copy: Copy,
}

impl Follower {
    /// Starts the watch of the object and the task that follows it.
    pub(crate) fn start(
        self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        client: &Client,
        facts: watch::Receiver<Facts>,
        core: &mpsc::Sender<Event>,
        notices: &Notices,
    ) {
        let (changes, inbox) = mpsc::channel(QUEUE);
        watches::start_network_config(tasks, client, &self.sources, &changes, notices);
        tasks.spawn(self.run(client.clone(), inbox, facts, core.clone()));
    }

    async fn run(
        mut self,
        client: Client,
        mut inbox: mpsc::Receiver<Change<String, NetworkFacts>>,
        mut facts: watch::Receiver<Facts>,
        core: mpsc::Sender<Event>,
    ) -> anyhow::Result<()> {
        let mut objects = BTreeMap::new();
        let mut listed = false;
        let mut conditions = Conditions::default();
        let mut next = None;
        loop {
            tokio::select! {
                change = inbox.recv() => match change {
                    Some(change) => {
                        change.changes(&mut objects);
                        listed = true;
                    }
                    None => return Ok(()),
                },
                changed = facts.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            let speaks = facts.borrow_and_update().speaks;
            next = if speaks { write(&mut conditions, &client, &objects) } else { None };
            let object: Option<&NetworkFacts> = objects.get(NETWORK_CONFIG);
            let is_wrong = object.is_some_and(|object| !object.problems.is_empty());
            let wanted = object.map(|object| &object.spec);
            // What is not listed yet says nothing.
            if !listed || is_wrong || wanted == self.common.as_ref() {
                continue;
            }
            let settings = self.sources.settings(wanted)?;
            self.common = wanted.cloned();
            self.copy.keep(self.common.as_ref());
            info!(
                "NetworkConfig {NETWORK_CONFIG} is {}",
                if self.common.is_some() { "taken" } else { "gone" }
            );
            if core.send(Event::Settings(Box::new(settings))).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Says on the object whether it can be taken; and when to come again.
fn write(
    conditions: &mut Conditions,
    client: &Client,
    objects: &BTreeMap<String, NetworkFacts>,
) -> Option<Instant> {
    let all = objects
        .iter()
        .map(|(name, object)| (Named::Network(name.clone()), &object.told, object.problems.as_slice()));
    conditions.write(client, all, Instant::now(), Timestamp::now())
}

/// The copy on the node's disk: `null` of a cluster that has no such object.
struct Copy {
    dir: PathBuf,
}

impl Copy {
    fn below(state_dir: &Path) -> Self {
        Self { dir: state_dir.to_owned() }
    }

    /// `None` when no agent has kept one, or it cannot be read.
    #[expect(clippy::option_option, reason = "no copy is not the copy of no object")]
    fn read(&self) -> Option<Option<NetworkConfigSpec>> {
        left::read(&self.dir, FILE).unwrap_or_else(|error| {
            warn!(path = %self.dir.join(FILE).display(), %error, "the copy of NetworkConfig cannot be read");
            None
        })
    }

    /// One that cannot be written costs nothing but the next start without the API server.
    fn keep(&self, common: Option<&NetworkConfigSpec>) {
        let written = fs::create_dir_all(&self.dir).and_then(|()| left::write(&self.dir, FILE, &common));
        if let Err(error) = written {
            let path = self.dir.join(FILE);
            warn!(path = %path.display(), %error, "the copy of NetworkConfig cannot be kept; an agent that starts without the API server takes what it has");
        }
    }
}
