//! Reads: one object, or a list of them.

use super::query::Query;
use super::router::{Target, View};
use super::{Body, JSON, watch, whole};
use crate::apiserver::ApiServer;
use crate::apiserver::registry::present;
use crate::apiserver::resource::Resource;
use crate::apiserver::select::Selector;
use crate::apiserver::status::ApiError;
use crate::apiserver::store::{Key, Page, Stored};
use crate::apiserver::table::table;
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn get(
    server: &ApiServer,
    target: &Target,
    query: &Query,
    view: View,
) -> Result<Response<Body>, ApiError> {
    let name = target.name.as_deref().unwrap_or_default();
    let stored = server.registry().get(&target.resource, target.space(), name)?;
    Ok(whole(200, JSON, one(server, &target.resource, &stored, view, query.text("includeObject"), true)))
}

/// One object in the form that the client wants.
pub(super) fn one(
    server: &ApiServer,
    resource: &Resource,
    stored: &Arc<Stored>,
    view: View,
    include: &str,
    headers: bool,
) -> Bytes {
    let shown = present(resource, stored);
    match view {
        View::Whole => server.written(&shown),
        View::Metadata => partial(&shown.value).to_string().into(),
        View::Table => {
            let metadata = json!({"resourceVersion": shown.value["metadata"]["resourceVersion"]});
            let now = crate::apiserver::now();
            table(resource, &[&shown.value], &metadata, include, headers, now).to_string().into()
        }
    }
}

pub(super) fn list_or_watch(
    server: &ApiServer,
    target: &Target,
    query: &Query,
    view: View,
) -> Result<Response<Body>, ApiError> {
    let selector = Selector::parse(
        &target.resource,
        target.namespace.as_deref(),
        query.text("labelSelector"),
        query.text("fieldSelector"),
    )?;
    if query.flag("watch") {
        return watch::watch(server, target, selector, query, view);
    }
    list(server, target, &selector, query, view)
}

fn list(
    server: &ApiServer,
    target: &Target,
    selector: &Selector,
    query: &Query,
    view: View,
) -> Result<Response<Body>, ApiError> {
    let limit = query.number("limit")?.filter(|l| *l > 0).map(|l| usize::try_from(l).unwrap_or(usize::MAX));
    let asked = query.number("resourceVersion")?.unwrap_or_default();
    let resource = &target.resource;
    let registry = server.registry();
    let store = &registry.store;
    if asked > store.version() {
        return Err(ApiError::future_version(asked, store.version()));
    }
    let (version, after) = match query.text("continue") {
        "" if query.text("resourceVersionMatch") == "Exact" && asked > 0 => (asked, None),
        "" => (store.version(), None),
        token => {
            let (version, key) = read_token(token)?;
            (version, Some(key))
        }
    };
    let all = store.list_at(&resource.storage, version, selector, after.as_ref(), limit);
    let Page { objects: found, left } = all.map_err(|_compacted| {
        ApiError::expired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.")
    })?;
    drop(registry);
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if left > 0
        && let Some((last, _)) = found.last()
    {
        metadata["continue"] = format!("{version}:{}/{}", last.namespace, last.name).into();
        // As the real server: selectors make the number of remaining items unknown.
        if selector.takes_all() {
            metadata["remainingItemCount"] = left.into();
        }
    }
    let shown = found.iter().map(|(_, o)| present(resource, o)).collect::<Vec<_>>();
    let body = rendered(server, resource, &shown, &metadata, view, query);
    server.count_sent(&resource.plural, body.len());
    Ok(whole(200, JSON, body))
}

fn rendered(
    server: &ApiServer,
    resource: &Resource,
    shown: &[Arc<Stored>],
    metadata: &Value,
    view: View,
    query: &Query,
) -> Bytes {
    match view {
        View::Whole => {
            let head = format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                resource.list_kind,
                resource.api_version()
            );
            let mut body = head.into_bytes();
            for (index, object) in shown.iter().enumerate() {
                if index > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(&server.written(object));
            }
            body.extend_from_slice(b"]}");
            body.into()
        }
        View::Metadata => {
            let items = shown.iter().map(|o| partial(&o.value)).collect::<Value>();
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "items": items,
            });
            list.to_string().into()
        }
        View::Table => {
            let values = shown.iter().map(|o| &o.value).collect::<Vec<_>>();
            let now = crate::apiserver::now();
            table(resource, &values, metadata, query.text("includeObject"), true, now).to_string().into()
        }
    }
}

fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// `VERSION:NAMESPACE/NAME`: the version of the list and the last key that was given out.
fn read_token(token: &str) -> Result<(u64, Key), ApiError> {
    let bad = || ApiError::bad_request("continue key is not valid: it was not made by this server");
    let (version, key) = token.split_once(':').ok_or_else(bad)?;
    let (namespace, name) = key.split_once('/').ok_or_else(bad)?;
    let version = version.parse().ok().ok_or_else(bad)?;
    Ok((version, Key { namespace: namespace.to_owned(), name: name.to_owned() }))
}
