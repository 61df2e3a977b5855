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
        // An argument, as of a command or a plugin.
        Value::String(text) => {
            if let Some((name, _)) = text.split_once('=')
                && name.starts_with('-')
                && is_secret(name)
            {
                *text = format!("{name}={REMOVED}");
            }
        }
        _ => {}
    }
}

/// Takes secrets out of the texts of `ConfigMap`s that are YAML, and all of those that are not.
pub(super) fn redact_texts(mut objects: Value) -> Value {
    let lists = objects.as_array_mut().into_iter().flatten();
    let texts = lists.filter_map(|object| object.get_mut("data")?.as_object_mut()).flatten();
    for (_, text) in texts {
        let parsed = text.as_str().and_then(|text| serde_saphyr::from_str::<Value>(text).ok());
        let redacted = parsed.filter(Value::is_object).and_then(|mut value| {
            redact(&mut value);
            serde_saphyr::to_string(&value).ok()
        });
        *text = redacted.map_or_else(|| REMOVED.into(), Value::from);
    }
    objects
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

    use super::{REMOVED, redact, redact_texts};

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
    fn secrets_in_a_text_and_in_arguments_go_too() {
        let text =
            "logLevel: info\nchainedPlugins: [{type: x, token: abc, args: [--password=def, --mtu=9]}]\n";
        let other = json!([{"data": {"margay-node.yaml": text, "notes": "token abc"}}]);
        let redacted = redact_texts(other);
        let yaml = redacted[0]["data"]["margay-node.yaml"].as_str().unwrap();
        let value: Value = serde_saphyr::from_str(yaml).unwrap();
        let args = json!([format!("--password={REMOVED}"), "--mtu=9"]);
        assert_eq!(value["chainedPlugins"], json!([{"type": "x", "token": REMOVED, "args": args}]));
        assert_eq!((&value["logLevel"], &redacted[0]["data"]["notes"]), (&json!("info"), &json!(REMOVED)));
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
