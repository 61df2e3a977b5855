//! The agent's log, on standard error.

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    layer::SubscriberExt as _,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use crate::config::LogFormat;

/// The log, of which the filter can be another.
#[derive(Debug)]
pub(crate) struct Log {
    filter: Handle<EnvFilter, Registry>,
    level: String,
}

impl Log {
    /// Begins it.
    ///
    /// # Errors
    /// When the filter is none.
    pub(crate) fn to_stderr(level: &str, format: LogFormat) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let lines = match format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        tracing_subscriber::registry().with(filter).with(lines).init();
        Ok(Self { filter: handle, level: level.to_owned() })
    }

    /// Takes another filter, if it is another.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn set_level(&mut self, level: &str) -> anyhow::Result<()> {
        if self.level != level {
            self.filter.reload(parse(level)?)?;
            level.clone_into(&mut self.level);
        }
        Ok(())
    }
}

/// The client tells of each failed request without its cause, at every attempt; who made the request does better. A module that is named
/// here may be named in a filter, too, which counts then.
const TOLD_BY_OTHERS: &str = "kube_client::client::builder=off";

fn parse(level: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(format!("{TOLD_BY_OTHERS},{level}"))
        .map_err(|error| anyhow::anyhow!("log level `{level}`: {error}"))
}
