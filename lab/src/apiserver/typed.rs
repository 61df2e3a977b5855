//! The fields of built-in kinds, known from their Rust types.

use super::default::prune_custom;
use super::resource::Resource;
use super::status::ApiError;
use k8s_openapi::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Refuses values of wrong JSON types, drops fields that the kind does not have and returns their paths.
pub(crate) fn check_shape(resource: &Resource, object: &mut Value) -> Result<Vec<String>, ApiError> {
    if let Some(custom) = &resource.custom {
        let mut unknown = prune_custom(&custom.schema, object);
        unknown.extend(check_metadata(resource, object)?);
        return Ok(unknown);
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => through::<api::core::v1::Namespace>(resource, object),
        ("", "Node") => through::<api::core::v1::Node>(resource, object),
        ("", "Pod") => through::<api::core::v1::Pod>(resource, object),
        ("", "Service") => through::<api::core::v1::Service>(resource, object),
        ("", "Endpoints") => through::<api::core::v1::Endpoints>(resource, object),
        ("", "ConfigMap") => through::<api::core::v1::ConfigMap>(resource, object),
        ("", "ServiceAccount") => through::<api::core::v1::ServiceAccount>(resource, object),
        ("apps", "DaemonSet") => through::<api::apps::v1::DaemonSet>(resource, object),
        ("apps", "Deployment") => through::<api::apps::v1::Deployment>(resource, object),
        ("apps", "ReplicaSet") => through::<api::apps::v1::ReplicaSet>(resource, object),
        ("apps", "StatefulSet") => through::<api::apps::v1::StatefulSet>(resource, object),
        ("batch", "Job") => through::<api::batch::v1::Job>(resource, object),
        ("coordination.k8s.io", "Lease") => through::<api::coordination::v1::Lease>(resource, object),
        ("discovery.k8s.io", "EndpointSlice") => {
            through::<api::discovery::v1::EndpointSlice>(resource, object)
        }
        ("networking.k8s.io", "NetworkPolicy") => {
            through::<api::networking::v1::NetworkPolicy>(resource, object)
        }
        ("policy", "PodDisruptionBudget") => {
            through::<api::policy::v1::PodDisruptionBudget>(resource, object)
        }
        ("rbac.authorization.k8s.io", "Role") => through::<api::rbac::v1::Role>(resource, object),
        ("rbac.authorization.k8s.io", "ClusterRole") => {
            through::<api::rbac::v1::ClusterRole>(resource, object)
        }
        ("rbac.authorization.k8s.io", "RoleBinding") => {
            through::<api::rbac::v1::RoleBinding>(resource, object)
        }
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => {
            through::<api::rbac::v1::ClusterRoleBinding>(resource, object)
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            through::<api::admissionregistration::v1::ValidatingAdmissionPolicy>(resource, object)
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            through::<api::admissionregistration::v1::ValidatingAdmissionPolicyBinding>(resource, object)
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            through::<CustomResourceDefinition>(resource, object)
        }
        _ => check_metadata(resource, object),
    }
}

fn check_metadata(resource: &Resource, object: &mut Value) -> Result<Vec<String>, ApiError> {
    let unknown = through::<ObjectMeta>(resource, &mut object["metadata"])?;
    Ok(unknown.into_iter().map(|path| format!("metadata.{path}")).collect())
}

fn through<T: Serialize + DeserializeOwned>(
    resource: &Resource,
    object: &mut Value,
) -> Result<Vec<String>, ApiError> {
    let wrong = |error: serde_json::Error| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {error}",
            resource.kind, resource.version, resource.kind
        ))
    };
    let known = serde_json::to_value(T::deserialize(&*object).map_err(wrong)?).map_err(wrong)?;
    let mut unknown = Vec::new();
    drop_unknown(object, &known, "", &mut unknown);
    Ok(unknown)
}

fn drop_unknown(object: &mut Value, known: &Value, at: &str, unknown: &mut Vec<String>) {
    match (object, known) {
        (Value::Object(map), Value::Object(known)) => map.retain(|name, inner| {
            let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            if let Some(known) = known.get(name) {
                drop_unknown(inner, known, &path, unknown);
                true
            } else {
                // Null is how a known field says that it is absent.
                if !inner.is_null() {
                    unknown.push(path);
                }
                false
            }
        }),
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter_mut().zip(known).enumerate() {
                drop_unknown(item, known, &format!("{at}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}
