//! All objects of a kind, listed in the way that the API server can.

use std::fmt::Debug;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tracing::info;

use super::{
    feed::status,
    guarded::{Guarded, Kind},
};

/// What a watcher says.
pub(super) type Event<O> = watcher::Result<watcher::Event<Guarded<O>>>;

/// All objects of a kind, or those that a field selector selects, and what happens to them.
pub(super) fn watched<O>(
    api: Api<Guarded<O>>,
    fields: Option<&str>,
    resource: &'static str,
) -> BoxStream<'static, Event<O>>
where
    O: Kind + Clone + Debug + Send + 'static,
{
    let base = match fields {
        Some(fields) => watcher::Config::default().fields(fields),
        None => watcher::Config::default(),
    };
    let listing = Listing::Stream;
    let events = listing.of(&api, &base);
    let first = Watched { api, base, resource, listing, events, stage: Stage::Begins };
    stream::unfold(first, |mut watched| async move { Some((watched.next().await?, watched)) }).boxed()
}

/// How the API server is asked for all there is of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    /// As events of the watch: Kubernetes has it behind the feature gate `WatchList`, which is beta since 1.32.
    Stream,
    /// In pages, and then the watch: all servers have that.
    Pages,
}

impl Listing {
    /// Asks anew.
    fn of<O>(self, api: &Api<Guarded<O>>, base: &watcher::Config) -> BoxStream<'static, Event<O>>
    where
        O: Kind + Clone + Debug + Send + 'static,
    {
        let config = match self {
            Self::Stream => base.clone().streaming_lists(),
            Self::Pages => base.clone(),
        };
        watcher(api.clone(), config).default_backoff().boxed()
    }

    /// Whether an event says that this way does not lead to the end of the list: the server refuses the parameters, or the
    /// stream ended without its mark.
    fn fails<T>(self, event: &watcher::Result<watcher::Event<T>>, stage: Stage) -> bool {
        self == Self::Stream
            && match event {
                Ok(watcher::Event::Init) => stage == Stage::Lists,
                Ok(_) => false,
                Err(error) => matches!(status(error), Some(400 | 422)),
            }
    }
}

/// How far a watch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is to list, in the way that was chosen.
    Begins,
    /// A list has begun and not ended.
    Lists,
    /// It has a list.
    Follows,
}

/// A watch with the way in which it lists. Each time that it must list anew the stream is tried first: it may have been cut
/// off, or the server was not upgraded yet.
struct Watched<O> {
    api: Api<Guarded<O>>,
    base: watcher::Config,
    resource: &'static str,
    listing: Listing,
    events: BoxStream<'static, Event<O>>,
    stage: Stage,
}

impl<O> Watched<O>
where
    O: Kind + Clone + Debug + Send + 'static,
{
    async fn next(&mut self) -> Option<Event<O>> {
        loop {
            let event = self.events.next().await?;
            if self.listing.fails(&event, self.stage) {
                info!(
                    resource = self.resource,
                    "the API server has not streamed a list to its end; it is asked for in pages"
                );
                self.ask(Listing::Pages);
                continue;
            }
            if self.listing == Listing::Pages
                && self.stage == Stage::Follows
                && matches!(event, Ok(watcher::Event::Init))
            {
                self.ask(Listing::Stream);
                continue;
            }
            self.stage = match event {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => Stage::Lists,
                Ok(_) => Stage::Follows,
                Err(_) => self.stage,
            };
            return Some(event);
        }
    }

    fn ask(&mut self, listing: Listing) {
        self.listing = listing;
        self.events = listing.of(&self.api, &self.base);
        self.stage = Stage::Begins;
    }
}
