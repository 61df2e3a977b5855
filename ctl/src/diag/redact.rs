//! Taking from objects what must not leave the cluster.

use serde_json::Value;

/// What stands in the place of a secret.
pub(super) const REMOVED: &str = "(removed)";

/// Words that the name of a field, or of an environment variable, has whose value is a secret.
const SECRET: [&str; 8] =
    ["password", "passwd", "token", "secret", "authorization", "credential", "privatekey", "apikey"];

/// Takes away secrets, and what only makes an object long.
///
/// Text of a field with such a name is one, wherever it is; a reference to a Secret, which has an object there, is not.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // A copy of the whole object, with all its fields as text.
            if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
                annotations.retain(|name, _| !name.ends_with("last-applied-configuration"));
            }
            fields.remove("managedFields");
            let is_variable = fields.get("name").and_then(Value::as_str).is_some_and(is_secret)
                && fields.contains_key("value");
            for (name, field) in fields.iter_mut() {
                let is_text = field.is_string() || field.is_number();
                if is_text && (is_secret(name) && !is_reference(name) || is_variable && name == "value") {
                    *field = REMOVED.into();
                } else {
                    redact(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn is_secret(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    SECRET.iter().any(|word| name.contains(word))
}

/// Fields of the Kubernetes API that name a Secret, and whether a token is mounted.
fn is_reference(name: &str) -> bool {
    ["secretName", "automountServiceAccountToken", "tokenExpirationSeconds"].contains(&name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{REMOVED, redact};

    fn redacted(mut value: Value) -> Value {
        redact(&mut value);
        value
    }

    #[test]
    fn passwords_and_tokens_are_taken_away_wherever_they_are() {
        let object = json!({
            "spec": {"peers": [{"address": "192.0.2.1", "password": "hunter2", "authPassword": 7}]},
            "data": {"api-token": "abc", "API_KEY": "def", "private.key": "ghi"},
            "env": [{"name": "DB_PASSWORD", "value": "jkl"}, {"name": "NODE_NAME", "value": "n1"}],
        });
        let expected = json!({
            "spec": {"peers": [{"address": "192.0.2.1", "password": REMOVED, "authPassword": REMOVED}]},
            "data": {"api-token": REMOVED, "API_KEY": REMOVED, "private.key": REMOVED},
            "env": [{"name": "DB_PASSWORD", "value": REMOVED}, {"name": "NODE_NAME", "value": "n1"}],
        });
        assert_eq!(redacted(object), expected);
    }

    #[test]
    fn the_name_of_a_secret_stays() {
        let object = json!({
            "password": {"secretKeyRef": {"name": "margay-bgp", "key": "rack-7"}},
            "volumes": [{"secret": {"secretName": "certificates"}}],
        });
        assert_eq!(redacted(object.clone()), object);
    }

    #[test]
    fn copies_of_an_object_within_it_go() {
        let object = json!({"metadata": {
            "name": "x",
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"},
        }});
        assert_eq!(redacted(object), json!({"metadata": {"name": "x", "annotations": {"a": "b"}}}));
    }
}
