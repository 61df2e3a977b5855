//! The forms of an answer.

use clap::ValueEnum;
use serde_json::Value;

/// Form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for a person.
    Table,
    /// The same with more columns, where there are more.
    Wide,
    /// JSON for a program.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Output {
    /// The answer for a program, if it is one that asks.
    pub(crate) fn structured(self, value: &Value) -> Option<String> {
        match self {
            Self::Table | Self::Wide => None,
            Self::Json => Some(format!("{value:#}\n")),
            // What is no YAML is printed as the YAML that JSON is.
            Self::Yaml => Some(serde_saphyr::to_string(value).unwrap_or_else(|_| format!("{value:#}\n"))),
        }
    }
}
