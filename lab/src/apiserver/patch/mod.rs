//! Patches in the four forms that clients send.

pub(crate) mod apply;
mod rules;
mod strategic;

use super::status::ApiError;
use serde_json::Value;

/// The body of a PATCH request.
#[derive(Debug, Clone)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' merge with keyed lists and directives.
    Strategic(Value),
    /// Server-side apply: the whole intent of one field manager.
    Apply(Value),
}

impl Patch {
    /// The patched form of `live`. Apply patches need the managers of the fields: see [`apply`].
    pub(crate) fn of(&self, kind: &str, live: &Value) -> Result<Value, ApiError> {
        let mut object = live.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut object, patch).map_err(|error| ApiError {
                code: 422,
                reason: "Invalid",
                message: format!("the server rejected our request due to an error in our request: {error}"),
                details: serde_json::json!({}),
            })?,
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => strategic::merge(kind, &mut object, patch)?,
            Self::Apply(_) => {
                return Err(ApiError::bad_request("apply patches name a field manager"));
            }
        }
        Ok(object)
    }
}
