//! The definitions of the custom resources, printed for the manifests.

use std::io::{self, Write};

use anyhow::Context;

/// Prints them as YAML, a document each.
pub(crate) fn print() -> anyhow::Result<()> {
    let mut text = String::from("# Written by `make manifests` from the types in api/src/resource.\n");
    for definition in margay_api::resource::definitions() {
        // By way of a value, whose keys are sorted: the order does not depend on that of the types' fields.
        let definition = serde_json::to_value(definition).context("write a definition")?;
        text += "---\n";
        text += &serde_saphyr::to_string(&definition).context("write a definition as YAML")?;
    }
    io::stdout().write_all(text.as_bytes()).context("write to standard output")
}
