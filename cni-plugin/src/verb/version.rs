//! VERSION: which versions of the spec the plugin speaks.

use serde_json::json;

use crate::config::{supported_versions, version_of};

/// CNI spec 1.1, section 2, "VERSION". Whatever the configuration says, it is answered.
pub(super) fn run(stdin: &[u8]) -> String {
    json!({"cniVersion": version_of(stdin), "supportedVersions": supported_versions()}).to_string()
}
