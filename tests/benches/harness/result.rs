//! What a plugin answers.

use std::{fmt::Debug, str::FromStr};

use serde_json::Value;

/// The first address in the result of an ADD, of one family or of both.
pub(crate) fn address<A: FromStr<Err: Debug>>(result: &[u8]) -> A {
    let result: Value = serde_json::from_slice(result).unwrap();
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()
}
