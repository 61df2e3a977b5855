//! As much of the `OpenAPI` documents as stock kubectl needs to trust the server with validation.
//!
//! kubectl looks in `/openapi/v3` for the PATCH operation of a kind and whether it takes `fieldValidation`; if it
//! does, the server validates. The operations do not list strategic merge patches, which makes kubectl build them
//! from the types it is compiled with, as it did before there were schemas.

use super::discovery::group_versions;
use super::resource::{Resource, Resources};
use serde_json::{Map, Value, json};

/// `/openapi/v3`.
pub(crate) fn index(resources: &Resources) -> Value {
    let mut paths = Map::new();
    for (group, versions) in group_versions(resources) {
        for version in versions {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            // The hash busts kubectl's cache whenever the set of resources changes.
            let hash = resources.iter().filter(|r| r.group == group && r.version == version).count();
            let url = format!("/openapi/v3/{path}?hash={hash:064}");
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`.
pub(crate) fn group_version(resources: &Resources, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let prefix =
        if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    for resource in resources.iter().filter(|r| r.group == group && r.version == version) {
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{prefix}{scope}/{}", resource.plural);
        paths.insert(
            collection.clone(),
            json!({"get": operation(resource, "list"), "post": operation(resource, "post")}),
        );
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation(resource, "get"), "put": operation(resource, "put"),
                "patch": operation(resource, "patch"), "delete": operation(resource, "delete"),
            }),
        );
        let name = schema_name(resource);
        let mut schema =
            resource.custom.as_ref().map_or_else(|| json!({"type": "object"}), |c| c.schema.clone());
        schema["x-kubernetes-group-version-kind"] = json!([kind(resource)]);
        schemas.insert(name, schema);
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Margay lab", "version": "v1.32.4"},
        "paths": paths, "components": {"schemas": schemas},
    })
}

/// `/openapi/v2` as JSON.
pub(crate) fn swagger() -> Value {
    json!({
        "swagger": "2.0", "info": {"title": "Margay lab", "version": "v1.32.4"}, "paths": {}, "definitions": {},
    })
}

/// `/openapi/v2` as protobuf: the same document, `openapi.v2.Document` with its fields `swagger` (1) and `info` (2).
pub(crate) const SWAGGER_PROTOBUF: &[u8] = b"\x0a\x032.0\x12\x15\x0a\x0aMargay lab\x12\x07v1.32.4";

fn kind(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn schema_name(resource: &Resource) -> String {
    let group = if resource.group.is_empty() { "core" } else { &resource.group };
    format!("{group}.{}.{}", resource.version, resource.kind)
}

fn operation(resource: &Resource, action: &str) -> Value {
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let schema = json!({"$ref": format!("#/components/schemas/{}", schema_name(resource))});
    let mut operation = json!({
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind(resource),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
    });
    if matches!(action, "post" | "put" | "patch") {
        operation["parameters"] =
            ["dryRun", "fieldManager", "fieldValidation"].map(parameter).into_iter().collect();
        let content = match action {
            "patch" => json!({"application/apply-patch+yaml": {}, "application/merge-patch+json": {}}),
            _ => json!({"application/json": {"schema": schema}}),
        };
        operation["requestBody"] = json!({"content": content});
    }
    operation
}
