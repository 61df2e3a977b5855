//! Errors of the API, shaped as Kubernetes' `Status` objects.

use serde_json::{Value, json};

/// One reason why an object is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The kind of problem, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// Path of the field, such as `spec.ingress[0].ports[0].port`.
    pub field: String,
    /// What is wrong, as a user reads it.
    pub message: String,
}

impl Cause {
    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message =
            if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            reason: "FieldValueInvalid",
            field: field.into(),
            message: format!("Invalid value: {}: {detail}", shown(value)),
        }
    }

    pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {detail}") }
    }

    pub(crate) fn unsupported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        Self {
            reason: "FieldValueNotSupported",
            field: field.into(),
            message: format!("Unsupported value: {}: supported values: {list}", shown(value)),
        }
    }

    pub(crate) fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {}", shown(value)),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => format!("{value:.200}"),
        other => other.to_string(),
    }
}

/// A refusal by the API server.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Kubernetes' machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// Kubernetes' human-readable message.
    pub message: String,
    /// The `details` of the `Status`, or null.
    pub details: Value,
}

impl ApiError {
    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    pub(crate) fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self {
            details: details(group, plural, name),
            ..Self::plain(404, "NotFound", format!("{} {name:?} not found", qualified(group, plural)))
        }
    }

    pub(crate) fn no_such_path() -> Self {
        Self {
            details: json!({}),
            ..Self::plain(404, "NotFound", "the server could not find the requested resource")
        }
    }

    pub(crate) fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Self {
            details: details(group, plural, name),
            ..Self::plain(
                409,
                "AlreadyExists",
                format!("{} {name:?} already exists", qualified(group, plural)),
            )
        }
    }

    pub(crate) fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        Self {
            details: details(group, plural, name),
            ..Self::plain(
                409,
                "Conflict",
                format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, plural)),
            )
        }
    }

    pub(crate) fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        Self {
            details: details(group, plural, name),
            ..Self::plain(
                403,
                "Forbidden",
                format!("{} {name:?} is forbidden: {why}", qualified(group, plural)),
            )
        }
    }

    /// As authorisation says it; objects without a name are all of a kind.
    pub(crate) fn not_permitted(group: &str, plural: &str, name: &str, why: &str) -> Self {
        if !name.is_empty() {
            return Self::forbidden(group, plural, name, why);
        }
        let mut details = details(group, plural, name);
        if let Some(details) = details.as_object_mut() {
            details.remove("name");
        }
        let message = format!("{} is forbidden: {why}", qualified(group, plural));
        Self { details, ..Self::plain(403, "Forbidden", message) }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn invalid(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let each = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>();
        let text = if let [one] = each.as_slice() { one.clone() } else { format!("[{}]", each.join(", ")) };
        let mut details = details(group, kind, name);
        details["causes"] = causes
            .iter()
            .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
            .collect();
        Self {
            details,
            ..Self::plain(422, "Invalid", format!("{} {name:?} is invalid: {text}", qualified(group, kind)))
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self {
            details: json!({}),
            ..Self::plain(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
        }
    }

    pub(crate) fn unsupported_media(got: &str, accepted: &[&str]) -> Self {
        Self::plain(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format ({got}) - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    pub(crate) fn full(what: &str) -> Self {
        Self {
            details: json!({"causes": [{"message": what}]}),
            ..Self::plain(500, "InternalError", format!("Internal error occurred: {what}"))
        }
    }

    pub(crate) fn future_version(asked: u64, current: u64) -> Self {
        Self {
            details: json!({
                "retryAfterSeconds": 1,
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            }),
            ..Self::plain(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"))
        }
    }

    pub(crate) fn apply_conflict(causes: Vec<(String, String)>) -> Self {
        let shown = causes
            .iter()
            .map(|(manager, field)| format!("conflict with {manager:?}: {field}"))
            .collect::<Vec<_>>();
        let list = causes
            .into_iter()
            .map(|(manager, field)| {
                json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {manager:?}"),
                    "field": field,
                })
            })
            .collect::<Value>();
        Self {
            details: json!({"causes": list}),
            ..Self::plain(
                409,
                "Conflict",
                format!(
                    "Apply failed with {} conflict{}: {}",
                    shown.len(),
                    if shown.len() == 1 { "" } else { "s" },
                    shown.join("; ")
                ),
            )
        }
    }

    /// The error as a `v1` `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind});
    if !group.is_empty() {
        details["group"] = group.into();
    }
    details
}

fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}
