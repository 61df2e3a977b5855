//! What an agent says over HTTP: whether it is ready, and its metrics.

use crate::node::Node;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Where agents serve it, in the node's network.
const ADDRESS: (&str, u16) = ("127.0.0.1", 9099);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);

impl Node {
    /// What the agent says at a path, as an error if that is not 200 OK; nothing while it is not there.
    ///
    /// # Errors
    /// When the node is gone.
    pub async fn page(&self, path: &str) -> anyhow::Result<Result<String, String>> {
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        // Nobody is there while an agent begins.
        let text = self.run(move || ask(&request).unwrap_or_default()).await?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let is_well = head.lines().next().is_some_and(|status| status.contains(" 200 "));
        Ok(if is_well { Ok(body.to_owned()) } else { Err(body.to_owned()) })
    }

    /// The agent's metrics of this name that are whole numbers, by their labels as they are written.
    ///
    /// # Errors
    /// When the node is gone.
    pub async fn metrics(&self, name: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let page = self.page("/metrics").await?.unwrap_or_default();
        let of_it = page.lines().filter_map(|line| {
            let (labels, number) = line.strip_prefix(name)?.rsplit_once(' ')?;
            Some((labels.to_owned(), number.parse().ok()?))
        });
        Ok(of_it.collect())
    }
}

fn ask(request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
