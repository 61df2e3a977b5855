//! What goes to standard output: results and errors in the shapes of the CNI spec.

use std::{error::Error, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Version;

/// Error codes (CNI spec 1.1, section 5, "Error").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The `cniVersion` is none that we speak.
    IncompatibleVersion = 1,
    /// The network configuration has a field, or a value of one, that we do not know.
    UnsupportedField = 2,
    /// The container is unknown or does not exist, and the runtime need not call DEL for it.
    UnknownContainer = 3,
    /// An environment variable is missing or wrong.
    Environment = 4,
    /// Input or output failed; here also the kernel's refusals.
    Io = 5,
    /// The content is no JSON, or not of the right form.
    Decode = 6,
    /// The network configuration is wrong.
    Config = 7,
    /// Nothing is wrong that time does not mend.
    TryAgain = 11,
    /// STATUS: no pod can be added.
    NotAvailable = 50,
    /// STATUS: no pod can be added, and those that are here may lack connectivity.
    LimitedConnectivity = 51,
    /// No address is left (ours: 100 and above are the plugin's own).
    Exhausted = 100,
    /// CHECK found the kernel's state to differ from the result.
    Differs = 101,
}

/// A failure as the runtime is told of it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// Adds the cause, with its own causes.
    pub(crate) fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut cause: Option<&dyn Error> = Some(error);
        let mut texts = Vec::new();
        while let Some(error) = cause {
            texts.push(error.to_string());
            cause = error.source();
        }
        self.message = format!("{}: {}", self.message, texts.join(": "));
        self
    }

    pub(crate) fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    pub(crate) fn to_json(&self, version: &str) -> String {
        let mut object = json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": self.message,
        });
        if !self.details.is_empty() {
            object["details"] = Value::String(self.details.clone());
        }
        object.to_string()
    }
}

/// An interface of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
}

/// A route of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteEntry {
    pub(crate) dst: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
}

/// The result of an ADD that connected a pod.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    pub(crate) interfaces: Vec<Interface>,
    /// Address with prefix, gateway, index into `interfaces`.
    pub(crate) ips: Vec<(String, Option<IpAddr>, usize)>,
    pub(crate) routes: Vec<RouteEntry>,
}

impl Added {
    /// The result in the version that the configuration asked for, after what plugins before us made.
    pub(crate) fn to_json(&self, version: Version, previous: Option<&Value>, dns: Option<&Value>) -> String {
        let mut result = previous.cloned().unwrap_or_else(|| json!({}));
        result["cniVersion"] = json!(version.text());
        let list = |result: &mut Value, key: &str| -> Vec<Value> {
            result[key].as_array_mut().map(std::mem::take).unwrap_or_default()
        };
        let mut interfaces = list(&mut result, "interfaces");
        let first = interfaces.len();
        for interface in &self.interfaces {
            let mut interface = interface.clone();
            if version < Version::V1_1_0 {
                interface.mtu = None;
            }
            interfaces.push(json!(interface));
        }
        result["interfaces"] = Value::Array(interfaces);
        let mut ips = list(&mut result, "ips");
        for (address, gateway, interface) in &self.ips {
            let mut ip = json!({"address": address, "interface": first + interface});
            if let Some(gateway) = gateway {
                ip["gateway"] = json!(gateway);
            }
            if version < Version::V1_0_0 {
                ip["version"] = json!(if address.contains(':') { "6" } else { "4" });
            }
            ips.push(ip);
        }
        result["ips"] = Value::Array(ips);
        let mut routes = list(&mut result, "routes");
        routes.extend(self.routes.iter().map(|route| json!(route)));
        result["routes"] = Value::Array(routes);
        if let Some(dns) = dns {
            result["dns"] = dns.clone();
        }
        result.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Added, Code, Failure, Interface, RouteEntry};
    use crate::config::Version;

    fn added() -> Added {
        Added {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1400),
                sandbox: "/run/netns/x".into(),
            }],
            ips: vec![
                ("192.0.2.1/32".into(), Some("169.254.1.1".parse().unwrap()), 0),
                ("2001:db8::1/128".into(), Some("fe80::1".parse().unwrap()), 0),
            ],
            routes: vec![RouteEntry { dst: "0.0.0.0/0".into(), gw: None }],
        }
    }

    #[test]
    fn the_result_has_the_shape_of_the_version_asked_for() {
        for (version, has_ip_version, has_mtu) in [
            (Version::V0_3_0, true, false),
            (Version::V0_4_0, true, false),
            (Version::V1_0_0, false, false),
            (Version::V1_1_0, false, true),
        ] {
            let result: Value = serde_json::from_str(&added().to_json(version, None, None)).unwrap();
            assert_eq!(result["cniVersion"], version.text());
            assert_eq!(result["ips"][1].get("version").is_some(), has_ip_version, "{version:?}");
            assert_eq!(result["interfaces"][0].get("mtu").is_some(), has_mtu, "{version:?}");
        }
    }

    #[test]
    fn what_earlier_plugins_made_stays_and_ours_points_behind_it() {
        let previous =
            json!({"interfaces": [{"name": "lo"}], "ips": [{"address": "127.0.0.1/8", "interface": 0}]});
        let text =
            added().to_json(Version::V1_0_0, Some(&previous), Some(&json!({"nameservers": ["192.0.2.53"]})));
        let result: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
        assert_eq!(result["ips"][1]["interface"], 1);
        assert_eq!(result["dns"]["nameservers"][0], "192.0.2.53");
    }

    #[test]
    fn an_error_names_code_message_and_all_causes() {
        let cause = std::io::Error::other("no such thing");
        let failure = Failure::new(Code::Config, "read mtu").because(&cause);
        let text: Value = serde_json::from_str(&failure.to_json("1.1.0")).unwrap();
        assert_eq!(text, json!({"cniVersion": "1.1.0", "code": 7, "msg": "read mtu: no such thing"}));
    }
}
