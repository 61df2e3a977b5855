//! VERSION: which versions of the spec the plugin speaks.

use serde_json::{Value, json};

use crate::config::{supported_versions, version_of};

/// CNI spec 1.1, section 2, "VERSION". Whatever the configuration says, it is answered, in the version that it names,
/// spoken or not.
pub(super) fn run(stdin: &[u8]) -> String {
    let asked = serde_json::from_slice::<Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|config| config.get("cniVersion")?.as_str());
    let version = asked.map_or_else(|| version_of(stdin), str::to_owned);
    json!({"cniVersion": version, "supportedVersions": supported_versions()}).to_string()
}
