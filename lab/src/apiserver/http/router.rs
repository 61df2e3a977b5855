//! From a request to the handler that answers it.

use super::query::{Query, decode};
use super::{Body, json, list, refusal, whole, write};
use crate::apiserver::ApiServer;
use crate::apiserver::authorize::Attributes;
use crate::apiserver::resource::{REVIEWS, Resource};
use crate::apiserver::status::ApiError;
use crate::apiserver::{discovery, openapi};
use http::header::{ACCEPT, AUTHORIZATION};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;

/// What a path below a group and version names.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) resource: Arc<Resource>,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) part: Option<String>,
}

impl Target {
    /// The namespace in the keys of the store.
    pub(super) fn space(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

/// The form in which a client wants objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Whole,
    Table,
    Metadata,
}

pub(in crate::apiserver) async fn answer(
    server: ApiServer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = route(&server, request).await.unwrap_or_else(|error| refusal(&error));
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    Ok(response)
}

async fn route(server: &ApiServer, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let path = request.uri().path().to_owned();
    let segments = path.split('/').filter(|s| !s.is_empty()).map(|s| decode(s, false)).collect::<Vec<_>>();
    let segments = segments.iter().map(String::as_str).collect::<Vec<_>>();
    let accept = request.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    match segments.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => {
            object(server, request, "", version, rest, &accept).await
        }
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            object(server, request, group, version, rest, &accept).await
        }
        other if request.method() == Method::GET => document(server, other, &accept),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn document(server: &ApiServer, segments: &[&str], accept: &str) -> Result<Response<Body>, ApiError> {
    let registry = server.registry();
    let resources = &registry.resources;
    let found = |value: Option<Value>| value.map(|v| json(200, &v)).ok_or_else(ApiError::no_such_path);
    match segments {
        ["healthz" | "livez" | "readyz", ..] => Ok(whole(200, "text/plain; charset=utf-8", "ok")),
        ["version"] => Ok(json(200, &discovery::version())),
        ["api" | "apis"]
            if accept.split(',').any(|f| has_parameters(f, &["as=APIGroupDiscoveryList", "v=v2"])) =>
        {
            let body = discovery::aggregated(resources, segments == ["api"]);
            let form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            Ok(whole(200, form, body.to_string()))
        }
        ["api"] => Ok(json(200, &discovery::core_versions())),
        ["apis"] => Ok(json(200, &discovery::groups(resources))),
        ["api", version] => found(discovery::resource_list(resources, "", version)),
        ["apis", group] => found(discovery::group(resources, group)),
        ["apis", group, version] => found(discovery::resource_list(resources, group, version)),
        ["openapi", "v3"] => Ok(json(200, &openapi::index(resources))),
        ["openapi", "v3", "api", version] => Ok(json(200, &openapi::group_version(resources, "", version))),
        ["openapi", "v3", "apis", group, version] => {
            Ok(json(200, &openapi::group_version(resources, group, version)))
        }
        ["openapi", "v2"] if accept.contains("proto") => {
            let form = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            Ok(whole(200, form, openapi::SWAGGER_PROTOBUF))
        }
        ["openapi", "v2"] => Ok(json(200, &openapi::swagger())),
        _ => Err(ApiError::no_such_path()),
    }
}

async fn object(
    server: &ApiServer,
    request: Request<Incoming>,
    group: &str,
    version: &str,
    rest: &[&str],
    accept: &str,
) -> Result<Response<Body>, ApiError> {
    let mut query = Query::parse(request.uri().query());
    let rest = if let ["watch", rest @ ..] = rest {
        query.set("watch", "true");
        rest
    } else {
        rest
    };
    let header = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let user = server.user(header)?;
    let named = named(group, rest)?;
    if let Some(user) = &user {
        server.authorize(user, attributes(group, &named, request.method(), &query))?;
    }
    let user = user.unwrap_or_default();
    if let Some(review) = review(group, version, rest) {
        return write::review(request, review).await;
    }
    let target = target(server, group, version, named)?;
    let view = view(accept);
    let (method, named) = (request.method().clone(), target.name.is_some());
    match (method, named) {
        (Method::GET, false) => list::list_or_watch(server, &target, &query, view),
        (Method::GET, true) if query.flag("watch") => {
            let name = target.name.clone().unwrap_or_default();
            query.set("fieldSelector", &format!("metadata.name={name}"));
            list::list_or_watch(server, &Target { name: None, ..target }, &query, view)
        }
        (Method::GET, true) => list::get(server, &target, &query, view),
        (Method::POST, _) => write::post(server, &target, &query, user, request).await,
        (Method::PUT, true) => write::put(server, &target, &query, user, request).await,
        (Method::PATCH, true) => write::patch(server, &target, &query, user, request).await,
        (Method::DELETE, true) => write::delete(server, &target, &query, user, request).await,
        (Method::DELETE, false) => write::delete_collection(server, &target, &query, user, request).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn review(group: &str, version: &str, rest: &[&str]) -> Option<&'static str> {
    let ([plural] | ["namespaces", _, plural]) = rest else { return None };
    REVIEWS.iter().find(|r| r.0 == group && r.1 == version && r.3 == *plural).map(|r| r.2)
}

/// What a path says, before anybody has looked whether it is there.
struct Named<'a> {
    plural: &'a str,
    namespace: Option<String>,
    name: Option<String>,
    part: Option<String>,
}

fn named<'a>(group: &str, rest: &[&'a str]) -> Result<Named<'a>, ApiError> {
    let own = |s: &str| Some(s.to_owned());
    let (plural, namespace, name, part) = match *rest {
        // The namespaces themselves, unless a plural of the group follows.
        ["namespaces", name] if group.is_empty() => ("namespaces", None, own(name), None),
        ["namespaces", name, part @ ("status" | "finalize")] if group.is_empty() => {
            ("namespaces", None, own(name), own(part))
        }
        ["namespaces", ns, plural] => (plural, own(ns), None, None),
        ["namespaces", ns, plural, name] => (plural, own(ns), own(name), None),
        ["namespaces", ns, plural, name, part] => (plural, own(ns), own(name), own(part)),
        [plural] => (plural, None, None, None),
        [plural, name] => (plural, None, own(name), None),
        [plural, name, part] => (plural, None, own(name), own(part)),
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(Named { plural, namespace, name, part })
}

/// What the request asks for, as RBAC has it: a field selector of one name is a name.
fn attributes(group: &str, named: &Named<'_>, method: &Method, query: &Query) -> Attributes {
    let selected = query.text("fieldSelector").strip_prefix("metadata.name=").filter(|it| !it.contains(','));
    let name = named.name.clone().or_else(|| selected.map(ToOwned::to_owned));
    let is_named = named.name.is_some();
    let verb = match *method {
        Method::GET if query.flag("watch") => "watch",
        Method::GET if is_named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if is_named => "delete",
        Method::DELETE => "deletecollection",
        _ => "unknown",
    };
    let part = named.part.as_ref().map(|part| format!("/{part}")).unwrap_or_default();
    Attributes {
        verb,
        group: group.to_owned(),
        resource: format!("{}{part}", named.plural),
        namespace: named.namespace.clone().unwrap_or_default(),
        name: name.unwrap_or_default(),
    }
}

fn target(server: &ApiServer, group: &str, version: &str, named: Named<'_>) -> Result<Target, ApiError> {
    let Named { plural, namespace, name, part } = named;
    let found = server.registry().resources.find(group, version, plural);
    let resource = found.ok_or_else(ApiError::no_such_path)?;
    let misplaced = resource.namespaced != namespace.is_some() && (name.is_some() || namespace.is_some());
    if misplaced || part.as_deref().is_some_and(|p| !has_part(&resource, p)) {
        return Err(ApiError::no_such_path());
    }
    Ok(Target { resource, namespace, name, part })
}

fn has_part(resource: &Resource, part: &str) -> bool {
    match part {
        "status" => resource.status,
        "binding" | "eviction" => resource.is("", "pods"),
        _ => false,
    }
}

fn has_parameters(form: &str, wanted: &[&str]) -> bool {
    wanted.iter().all(|w| form.split(';').any(|parameter| parameter.trim() == *w))
}

fn view(accept: &str) -> View {
    for form in accept.split(',') {
        if has_parameters(form, &["as=Table", "v=v1"]) {
            return View::Table;
        }
        if form.contains("as=PartialObjectMetadata") {
            return View::Metadata;
        }
        if form.trim() == super::JSON {
            return View::Whole;
        }
    }
    View::Whole
}
