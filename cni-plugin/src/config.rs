//! Environment and standard input, checked.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnetwork::IpNetwork;
use margay_api::{endpoint::PodRef, paths};
use margay_ipam::Owner;
use margay_netlink::{
    MacAddr,
    link::{IfName, Mtu},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::result::{Code, Failure};

/// The versions of the CNI spec that we speak, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// All that a VERSION call and an error about versions name.
pub(crate) fn supported_versions() -> Vec<&'static str> {
    Version::ALL.iter().map(|version| version.text()).collect()
}

impl Version {
    const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.text() == text)
    }
}

/// `cniVersion` of whatever came on standard input, for an error that answers it.
pub(crate) fn version_of(stdin: &[u8]) -> String {
    let version = serde_json::from_slice::<Value>(stdin)
        .ok()
        .and_then(|config| Version::parse(config.get("cniVersion")?.as_str()?));
    version.unwrap_or(Version::V1_1_0).text().to_owned()
}

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the spec that has it.
    fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// The variables that it cannot do without.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc | Self::Status | Self::Version => &[],
        }
    }
}

/// The variables that begin with `CNI_`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of these variables.
    pub(crate) fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let variables = variables.filter_map(|(key, value)| Some((key.into_string().ok()?, value)));
        Self(
            variables
                .filter(|(key, _)| key.starts_with("CNI_"))
                .map(|(key, value)| (key, value.to_string_lossy().into_owned()))
                .collect(),
        )
    }

    /// `CNI_COMMAND`, when all that it needs beside it is there.
    pub(crate) fn command(&self) -> Result<Command, Failure> {
        let command = match self.required("CNI_COMMAND")? {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            other => {
                return Err(Failure::new(
                    Code::Environment,
                    format!("CNI_COMMAND is `{other}`; it takes ADD, DEL, CHECK, GC, STATUS or VERSION"),
                ));
            }
        };
        let missing: Vec<&str> =
            command.required().iter().copied().filter(|key| self.get(key).is_none()).collect();
        if missing.is_empty() {
            return Ok(command);
        }
        Err(Failure::new(
            Code::Environment,
            format!("{} not set; the runtime must set what {} needs", missing.join(", "), command.text()),
        ))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn required(&self, key: &str) -> Result<&str, Failure> {
        self.get(key).ok_or_else(|| {
            Failure::new(
                Code::Environment,
                format!("{key} is not set; the runtime must set it for this call"),
            )
        })
    }

    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    pub(crate) fn attachment(&self) -> Result<Attachment, Failure> {
        let container_id = self.required("CNI_CONTAINERID")?;
        // CNI spec 1.1, section 2, "Parameters".
        if !is_identifier(container_id) {
            return Err(Failure::new(
                Code::Environment,
                format!(
                    "CNI_CONTAINERID `{container_id}` must begin with a letter or digit and hold only those, `_`, `.` and `-`"
                ),
            ));
        }
        let ifname: IfName = self
            .required("CNI_IFNAME")?
            .parse()
            .map_err(|error| Failure::new(Code::Environment, "read CNI_IFNAME").because(&error))?;
        let owner = Owner::new(container_id, ifname.as_str()).map_err(|error| {
            Failure::new(Code::Environment, "read CNI_CONTAINERID and CNI_IFNAME").because(&error)
        })?;
        Ok(Attachment { owner, ifname })
    }

    pub(crate) fn netns(&self) -> Result<&Path, Failure> {
        self.required("CNI_NETNS").map(Path::new)
    }

    pub(crate) fn args(&self) -> Result<Args, Failure> {
        Args::parse(self.get("CNI_ARGS").unwrap_or_default())
    }
}

/// The interface of a container that a call is about.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) owner: Owner,
    pub(crate) ifname: IfName,
}

/// `CNI_ARGS`, as far as we know them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) pod: Option<PodRef>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) mac: Option<MacAddr>,
}

impl Args {
    fn parse(text: &str) -> Result<Self, Failure> {
        let bad = |message: String| Failure::new(Code::Environment, message);
        let mut pairs = BTreeMap::new();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| bad(format!("CNI_ARGS: `{part}` is not of the form KEY=VALUE")))?;
            pairs.insert(key, value);
        }
        let mut take = |key: &str| pairs.remove(key).filter(|value| !value.is_empty());
        let ignore_unknown =
            take("IgnoreUnknown").is_some_and(|value| matches!(value, "1" | "true" | "True" | "TRUE"));
        let (namespace, name, uid) = (take("K8S_POD_NAMESPACE"), take("K8S_POD_NAME"), take("K8S_POD_UID"));
        take("K8S_POD_INFRA_CONTAINER_ID");
        let address = take("IP")
            .map(|value| {
                value.parse().map_err(|_error| bad(format!("CNI_ARGS: IP `{value}` is not an address")))
            })
            .transpose()?;
        let mac =
            take("MAC").map(|value| parse_mac(value, Code::Environment, "CNI_ARGS: MAC")).transpose()?;
        if let Some(key) = pairs.keys().next()
            && !ignore_unknown
        {
            return Err(bad(format!(
                "CNI_ARGS: `{key}` is unknown here; set IgnoreUnknown=1 to pass it over"
            )));
        }
        let pod = match (namespace, name) {
            (Some(namespace), Some(name)) => Some(PodRef {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: uid.map(str::to_owned),
            }),
            (None, None) => None,
            _ => {
                return Err(bad(
                    "CNI_ARGS: K8S_POD_NAMESPACE and K8S_POD_NAME come together or not at all".into()
                ));
            }
        };
        Ok(Self { pod, address, mac })
    }
}

fn parse_mac(text: &str, code: Code, place: &str) -> Result<MacAddr, Failure> {
    let mac: MacAddr = text.parse().map_err(|error| Failure::new(code, place).because(&error))?;
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err(Failure::new(code, format!("{place}: {mac} is a multicast address, which no interface can have")))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    prev_result: Option<Value>,
    #[serde(default)]
    runtime_config: RawRuntime,
    args: Option<Value>,
    #[serde(rename = "capabilities")]
    _capabilities: Option<Value>,
    dns: Option<Value>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    mtu: Option<u32>,
    policy_wait_seconds: Option<u64>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
    /// The same under the name of an early text of the spec; libcni sends both.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<RawAttachment>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Default, Deserialize)]
struct RawRuntime {
    ips: Option<Vec<String>>,
    mac: Option<String>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// Which plugin the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pod,
    Loopback,
}

/// The network configuration, checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) version: Version,
    /// Empty in a DEL, which needs none.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) prev_result: Option<Value>,
    pub(crate) dns: Option<Value>,
    pub(crate) wishes: Vec<IpAddr>,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) run_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) mtu: Mtu,
    pub(crate) policy_wait: Duration,
    pub(crate) valid_attachments: Option<Vec<Owner>>,
}

impl Config {
    /// MTU of pod interfaces, in octets, when the configuration names none.
    const DEFAULT_MTU: u32 = 1500;
    /// How long an ADD waits for the policy, in seconds. The kubelet gives a sandbox four minutes.
    const DEFAULT_POLICY_WAIT: u64 = 30;

    /// For DEL and GC only what they use is looked at: what an ADD refused, or an earlier version took, must not
    /// keep a pod from being taken down.
    pub(crate) fn parse(stdin: &[u8], command: Command) -> Result<Self, Failure> {
        let decode = |error: &serde_json::Error| {
            Failure::new(Code::Decode, "read the network configuration").because(error)
        };
        // The version decides what the rest means, so it comes first, as VERSION answers it alone.
        let mut value: Value = serde_json::from_slice(stdin).map_err(|error| decode(&error))?;
        let Some(object) = value.as_object_mut() else {
            return Err(Failure::new(
                Code::Decode,
                "read the network configuration: it is not a JSON object",
            ));
        };
        let takes_down = matches!(command, Command::Del | Command::Gc);
        if takes_down {
            const USED: [&str; 7] = [
                "cniVersion",
                "name",
                "type",
                "runDir",
                "stateDir",
                "cni.dev/valid-attachments",
                "cni.dev/attachments",
            ];
            object.retain(|key, _| USED.contains(&key.as_str()));
        }
        let raw: Raw = serde_json::from_value(value).map_err(|error| decode(&error))?;
        // CNI spec 1.1, section 1: without a version it is 0.1.0, which had no plugins in a list.
        let asked = raw.cni_version.as_deref().unwrap_or("0.1.0");
        let version = Version::parse(asked).ok_or_else(|| {
            Failure::new(Code::IncompatibleVersion, format!("cniVersion {asked} is not spoken here"))
                .details(format!("supported versions: {}", supported_versions().join(", ")))
        })?;
        if version < command.since() {
            let (verb, since) = (command.text(), command.since().text());
            return Err(Failure::new(
                Code::IncompatibleVersion,
                format!("{verb} came with version {since}; the configuration asks for {asked}"),
            ));
        }
        let name = raw.name.unwrap_or_default();
        // CNI spec 1.1, section 1: as a container ID, and so no path.
        if command != Command::Del && !is_identifier(&name) {
            return Err(Failure::new(
                Code::Config,
                format!(
                    "the network configuration's `name` is `{name}`; it must begin with a letter or digit and hold only those, `_`, `.` and `-`"
                ),
            ));
        }
        let kind = if raw.kind.as_deref() == Some("loopback") { Kind::Loopback } else { Kind::Pod };
        if kind == Kind::Pod
            && let Some((key, value)) = raw.rest.iter().find(|(key, value)| !is_harmless(key, value))
        {
            return Err(Failure::new(
                Code::UnsupportedField,
                format!("the network configuration has `{key}`: {value}, which is not supported here"),
            )
            .details(
                "supported: cniVersion name type prevResult runtimeConfig args capabilities dns runDir stateDir mtu policyWaitSeconds",
            ));
        }
        let mut wishes = Vec::new();
        for (place, list) in [
            ("runtimeConfig.ips", raw.runtime_config.ips),
            ("args.cni.ips", raw.args.as_ref().map(ips_of_args).transpose()?.flatten()),
        ] {
            for text in list.into_iter().flatten() {
                // With or without a prefix: the spec's convention has one, users leave it out.
                let wish: IpNetwork = text.parse().map_err(|error| {
                    Failure::new(Code::Config, format!("{place}: `{text}`")).because(&error)
                })?;
                wishes.push(wish.ip());
            }
        }
        let octets = raw.mtu.unwrap_or(Self::DEFAULT_MTU);
        let mtu = Mtu::new(octets).ok_or_else(|| {
            Failure::new(
                Code::Config,
                format!("mtu is {octets}; it takes {} to {} octets", Mtu::MIN, Mtu::MAX),
            )
        })?;
        // One that no ADD of ours can have made is none of ours to keep.
        let valid_attachments = raw.valid_attachments.or(raw.attachments).map(|list| {
            list.iter().filter_map(|item| Owner::new(&item.container_id, &item.ifname).ok()).collect()
        });
        Ok(Self {
            version,
            name,
            kind,
            prev_result: raw.prev_result.map(object_of_result).transpose()?,
            dns: raw.dns,
            wishes,
            mac: raw
                .runtime_config
                .mac
                .map(|text| parse_mac(&text, Code::Config, "runtimeConfig.mac"))
                .transpose()?,
            run_dir: raw.run_dir.unwrap_or_else(|| paths::RUN_DIR.into()),
            state_dir: raw.state_dir.unwrap_or_else(|| paths::STATE_DIR.into()),
            mtu,
            policy_wait: Duration::from_secs(raw.policy_wait_seconds.unwrap_or(Self::DEFAULT_POLICY_WAIT)),
            valid_attachments,
        })
    }
}

fn object_of_result(value: Value) -> Result<Value, Failure> {
    if value.is_object() {
        return Ok(value);
    }
    Err(Failure::new(Code::Decode, "read the network configuration: `prevResult` is not a JSON object"))
}

/// An alphanumeric character, then those and `_`, `.`, `-`.
fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Whether a field that we do not use asks for nothing: the runtime's own fields, those of a whole list, and a wish
/// that is `false`.
fn is_harmless(key: &str, value: &Value) -> bool {
    const OF_LISTS: [&str; 4] = ["cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"];
    key.starts_with("cni.dev/") || OF_LISTS.contains(&key) || (key == "ipMasq" && *value == false)
}

/// `args.cni.ips`, the older way to ask for addresses (`CONVENTIONS.md` of the CNI project).
fn ips_of_args(args: &Value) -> Result<Option<Vec<String>>, Failure> {
    serde_json::from_value(args["cni"]["ips"].clone())
        .map_err(|error| Failure::new(Code::Config, "args.cni.ips").because(&error))
}

#[cfg(test)]
mod tests {
    use super::{Args, Command, Config, Environment, supported_versions};
    use crate::result::Code;

    fn refusal(config: &str) -> (Code, String) {
        let failure = Config::parse(config.as_bytes(), Command::Add).unwrap_err();
        (failure.code, failure.message)
    }

    #[test]
    fn bad_configurations_get_the_code_of_the_spec_and_say_what_is_wrong() {
        for (config, code, word) in [
            ("", Code::Decode, "EOF"),
            ("[]", Code::Decode, "object"),
            (r#"{"cniVersion":"1.1.0","name":3}"#, Code::Decode, "string"),
            (r#"{"cniVersion":"1.1.0","name":"n","prevResult":[]}"#, Code::Decode, "prevResult"),
            (r#"{"name":"n"}"#, Code::IncompatibleVersion, "0.1.0"),
            (r#"{"cniVersion":"9.0.0","name":"n"}"#, Code::IncompatibleVersion, "9.0.0"),
            (r#"{"cniVersion":"1.1.0"}"#, Code::Config, "name"),
            (r#"{"cniVersion":"1.1.0","name":"n","mtu":5}"#, Code::Config, "mtu"),
            (r#"{"cniVersion":"1.1.0","name":"../n"}"#, Code::Config, "../n"),
            (r#"{"cniVersion":"1.1.0","name":"n","mtuu":5}"#, Code::UnsupportedField, "`mtuu`: 5"),
            (r#"{"cniVersion":"1.1.0","name":"n","ipMasq":true}"#, Code::UnsupportedField, "`ipMasq`: true"),
            (r#"{"cniVersion":"1.1.0","name":"n","args":{"cni":{"ips":"x"}}}"#, Code::Config, "args.cni.ips"),
            (
                r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"ips":["x"]}}"#,
                Code::Config,
                "runtimeConfig.ips",
            ),
            (
                r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"mac":"01:00:00:00:00:00"}}"#,
                Code::Config,
                "multicast",
            ),
        ] {
            let (got, message) = refusal(config);
            assert_eq!(got, code, "{config}");
            assert!(message.contains(word), "{config}: {message}");
        }
    }

    #[test]
    fn a_verb_is_refused_in_versions_that_do_not_have_it() {
        for (command, since) in [(Command::Check, 2), (Command::Gc, 4), (Command::Status, 4)] {
            for (index, version) in supported_versions().into_iter().enumerate() {
                let config = format!(r#"{{"cniVersion":"{version}","name":"n"}}"#);
                let code = Config::parse(config.as_bytes(), command).map_err(|failure| failure.code).err();
                let expected = (index < since).then_some(Code::IncompatibleVersion);
                assert_eq!(code, expected, "{command:?} {version}");
            }
        }
    }

    #[test]
    fn what_an_add_refuses_does_not_keep_a_del_from_its_work() {
        let config =
            r#"{"cniVersion":"1.1.0","name":"n","mtu":5,"mtuu":5,"runtimeConfig":{"ips":"x"},"runDir":"/r"}"#;
        assert!(Config::parse(config.as_bytes(), Command::Add).is_err());
        for command in [Command::Del, Command::Gc] {
            assert_eq!(Config::parse(config.as_bytes(), command).unwrap().run_dir.to_str(), Some("/r"));
        }
    }

    #[test]
    fn cni_args_come_in_any_order_and_unknown_ones_need_leave() {
        let text = "K8S_POD_NAME=web;IgnoreUnknown=1;X=1;K8S_POD_NAMESPACE=app;K8S_POD_UID=u;IP=192.0.2.9";
        let args = Args::parse(text).unwrap();
        let pod = args.pod.unwrap();
        assert_eq!((pod.to_string().as_str(), pod.uid.as_deref()), ("app/web", Some("u")));
        assert_eq!(args.address, Some("192.0.2.9".parse().unwrap()));
        assert_eq!(Args::parse("").unwrap(), Args::default());
        for bad in ["X=1", "X", "K8S_POD_NAME=web", "IgnoreUnknown=1;IP=x", "IgnoreUnknown=1;MAC=x"] {
            assert!(Args::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn container_ids_that_could_be_paths_are_refused() {
        for (id, good) in [("c1", true), ("a.b_c-d", true), ("../x", false), (".x", false), ("a/b", false)] {
            let variables = [("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")];
            let environment = Environment(variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
            assert_eq!(environment.attachment().is_ok(), good, "{id}");
        }
    }
}
