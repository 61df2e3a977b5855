//! The runtime's side of CNI: how a container runtime finds, calls and hears plugins.

use crate::machine::Machine;
use anyhow::Context;
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where the runtime looks for plugins.
const PLUGIN_DIRECTORY: &str = "/opt/cni/bin";

/// A network configuration list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkList {
    name: String,
    version: String,
    plugins: Vec<Value>,
}

/// What a call is about.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) container_id: String,
    /// Empty when the namespace is gone.
    pub(crate) netns: String,
    pub(crate) ifname: &'static str,
    pub(crate) args: String,
    /// What the runtime has for each capability that a plugin may declare.
    pub(crate) capabilities: Map<String, Value>,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct CallError {
    plugin: String,
    verb: &'static str,
    code: Option<u64>,
    message: String,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin type={:?} failed ({}): {}", self.plugin, self.verb.to_lowercase(), self.message)?;
        self.code.map_or(Ok(()), |code| write!(f, " (code {code})"))
    }
}

impl std::error::Error for CallError {}

impl NetworkList {
    /// The list that every pod's `lo` is brought up with.
    pub(crate) fn loopback() -> Self {
        Self {
            name: "cni-loopback".into(),
            version: "1.0.0".into(),
            plugins: vec![json!({"type": "loopback"})],
        }
    }

    /// The first valid configuration of a directory, in the order of names.
    pub(crate) fn load(directory: &Path) -> anyhow::Result<Self> {
        let mut files: Vec<PathBuf> = match std::fs::read_dir(directory) {
            Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).context("read the directory of network configurations"),
        };
        let known = ["conf", "conflist", "json"];
        files.retain(|path| path.extension().and_then(|e| e.to_str()).is_some_and(|e| known.contains(&e)));
        files.sort();
        let mut problem = None;
        for path in files {
            match std::fs::read(&path).map_err(Into::into).and_then(|text| Self::parse(&text)) {
                Ok(list) => return Ok(list),
                Err(error) => problem = Some(error.context(format!("{}", path.display()))),
            }
        }
        Err(problem
            .unwrap_or_else(|| anyhow::anyhow!("cni plugin not initialized: no network configuration yet")))
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_slice(text)?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let plugins = match value["plugins"].as_array() {
            Some(plugins) => plugins.clone(),
            // A file with one plugin and no list.
            None => vec![value.clone()],
        };
        anyhow::ensure!(!plugins.is_empty(), "it lists no plugin");
        anyhow::ensure!(plugins.iter().all(|plugin| plugin["type"].is_string()), "a plugin has no type");
        Ok(Self {
            name: text("name").context("it has no name")?,
            version: text("cniVersion").unwrap_or_else(|| "0.2.0".into()),
            plugins,
        })
    }

    /// A plugin's standard input.
    fn configuration(&self, plugin: &Value, attachment: &Attachment, previous: Option<&Value>) -> Value {
        let mut configuration = plugin.clone();
        configuration["name"] = self.name.as_str().into();
        configuration["cniVersion"] = self.version.as_str().into();
        let wanted = |(name, _): &(&String, &Value)| plugin["capabilities"][name.as_str()] == true;
        let given: Map<String, Value> = attachment
            .capabilities
            .iter()
            .filter(wanted)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if let Some(map) = configuration.as_object_mut() {
            map.remove("capabilities");
            if !given.is_empty() {
                map.insert("runtimeConfig".into(), given.into());
            }
            if let Some(previous) = previous {
                map.insert("prevResult".into(), previous.clone());
            }
        }
        configuration
    }
}

/// Calls plugins on a node.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    machine: Arc<Machine>,
}

impl Runtime {
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self { machine }
    }

    /// Calls ADD on each plugin in turn, and gives the last one's result.
    pub(crate) async fn add(&self, list: &NetworkList, attachment: &Attachment) -> anyhow::Result<Value> {
        let mut result = None;
        for plugin in &list.plugins {
            let input = list.configuration(plugin, attachment, result.as_ref());
            result = Some(self.call("ADD", plugin, attachment, &input).await?);
        }
        result.context("the list has no plugin")
    }

    /// Calls DEL on each plugin, the last one first.
    pub(crate) async fn del(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
        result: Option<&Value>,
    ) -> anyhow::Result<()> {
        for plugin in list.plugins.iter().rev() {
            let input = list.configuration(plugin, attachment, result);
            self.call("DEL", plugin, attachment, &input).await?;
        }
        Ok(())
    }

    async fn call(
        &self,
        verb: &'static str,
        plugin: &Value,
        attachment: &Attachment,
        input: &Value,
    ) -> anyhow::Result<Value> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let mut command = Command::new(Path::new(PLUGIN_DIRECTORY).join(kind));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &attachment.container_id)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_IFNAME", attachment.ifname)
            .env("CNI_ARGS", &attachment.args)
            .env("CNI_PATH", PLUGIN_DIRECTORY)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.machine.spawn(command).await?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read has other ways to complain.
            drop(stdin.write_all(input.to_string().as_bytes()).await);
        }
        let output = child.wait_with_output().await.context("wait for the plugin")?;
        let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        if output.status.success() {
            return match answer {
                Some(answer) => Ok(answer),
                None if verb == "DEL" => Ok(Value::Null),
                None => {
                    anyhow::bail!("plugin {kind} gave no result: {}", String::from_utf8_lossy(&output.stdout))
                }
            };
        }
        let words = |answer: &Value| {
            let details = answer["details"].as_str().filter(|text| !text.is_empty());
            let message = answer["msg"].as_str()?;
            Some(details.map_or_else(|| message.to_owned(), |more| format!("{message}; {more}")))
        };
        let message = answer.as_ref().and_then(words).unwrap_or_else(|| {
            format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
        });
        let code = answer.and_then(|answer| answer["code"].as_u64());
        Err(CallError { plugin: kind.to_owned(), verb, code, message }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::{Attachment, NetworkList};
    use serde_json::{Map, Value, json};

    fn attachment() -> Attachment {
        let capabilities: Map<String, Value> =
            json!({"ips": ["192.0.2.1/32"], "mac": "02:00:00:00:00:01"}).as_object().cloned().unwrap();
        let (container_id, netns, args) = ("c1".into(), "/run/netns/x".into(), String::new());
        Attachment { container_id, netns, ifname: "eth0", args, capabilities }
    }

    #[test]
    fn a_plugin_gets_the_lists_name_and_version_and_the_capabilities_that_it_declares() {
        let text = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [
            {"type": "a", "capabilities": {"ips": true, "mac": false}}, {"type": "b"}]}"#;
        let list = NetworkList::parse(text.as_bytes()).unwrap();
        let first = list.configuration(&list.plugins[0], &attachment(), None);
        let wanted = json!({"type": "a", "name": "net", "cniVersion": "1.0.0", "runtimeConfig": {"ips": ["192.0.2.1/32"]}});
        assert_eq!(first, wanted);
        let second = list.configuration(&list.plugins[1], &attachment(), Some(&json!({"ips": []})));
        assert_eq!(
            second,
            json!({"type": "b", "name": "net", "cniVersion": "1.0.0", "prevResult": {"ips": []}})
        );
    }

    #[test]
    fn the_first_valid_file_by_name_is_the_network() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            NetworkList::load(directory.path()).unwrap_err().to_string().contains("no network configuration")
        );
        for (name, text) in [
            ("00-half.conflist", "{"),
            ("10-good.conflist", r#"{"name": "good", "plugins": [{"type": "a"}]}"#),
            ("05-not-ours.txt", r#"{"name": "text", "plugins": [{"type": "a"}]}"#),
            ("20-late.conf", r#"{"name": "late", "type": "b"}"#),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        assert_eq!(NetworkList::load(directory.path()).unwrap().name, "good");
    }
}
