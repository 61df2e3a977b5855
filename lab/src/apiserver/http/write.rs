//! Requests that change objects.

use super::query::Query;
use super::router::Target;
use super::{Body, JSON, json, protobuf, whole, with_warnings};
use crate::apiserver::ApiServer;
use crate::apiserver::admission::{Asked, Operation};
use crate::apiserver::patch::Patch;
use crate::apiserver::registry::{DeleteOptions, Deleted, Part, WriteOptions, Written, present};
use crate::apiserver::resource::Resource;
use crate::apiserver::select::Selector;
use crate::apiserver::status::ApiError;
use crate::apiserver::user::User;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json as value};

/// As large as the real server takes.
const MAX_BODY: usize = 3 * 1024 * 1024;

pub(super) async fn post(
    server: &ApiServer,
    target: &Target,
    query: &Query,
    user: User,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let object = body(request).await?.object()?;
    let options = write_options(query, user)?;
    let resource = &target.resource;
    let Some(name) = target.name.as_deref() else {
        if resource.namespaced && target.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let written = server
            .write(|registry, stamp| registry.create(resource, target.space(), object, &options, stamp))?;
        return Ok(answered(resource, &written));
    };
    if let Some(part) = target.part.as_deref() {
        let asked = Asked {
            user: &options.user,
            operation: Operation::Create,
            resource,
            subresource: part,
            namespace: target.space(),
            name,
            dry_run: options.dry_run,
        };
        server.write(|registry, _| registry.admit(&asked, Some(&object), None))?;
    }
    match target.part.as_deref() {
        Some("binding") => {
            let node = object["target"]["name"].as_str().unwrap_or_default();
            if !options.dry_run {
                server.write(|registry, stamp| registry.bind(target.space(), name, node, stamp))?;
            }
            Ok(json(201, &success()))
        }
        Some("eviction") => {
            let mut given = delete_options(&Query::default(), &object["deleteOptions"], options.user)?;
            given.dry_run |= options.dry_run;
            server.write(|registry, stamp| registry.delete(resource, target.space(), name, &given, stamp))?;
            Ok(json(201, &success()))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

pub(super) async fn put(
    server: &ApiServer,
    target: &Target,
    query: &Query,
    user: User,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let object = body(request).await?.object()?;
    let options = write_options(query, user)?;
    let (resource, part) = (&target.resource, part(target)?);
    let name = target.name.as_deref().unwrap_or_default();
    let written = server.write(|registry, stamp| {
        registry.update(resource, target.space(), name, part, object, &options, stamp)
    })?;
    Ok(answered(resource, &written))
}

pub(super) async fn patch(
    server: &ApiServer,
    target: &Target,
    query: &Query,
    user: User,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let body = body(request).await?;
    let (resource, part) = (&target.resource, part(target)?);
    let mut options = write_options(query, user)?;
    let patch = match body.media.as_str() {
        "application/json-patch+json" => Patch::Json(body.json()?),
        "application/merge-patch+json" => Patch::Merge(body.json()?),
        "application/strategic-merge-patch+json" if resource.custom.is_none() => {
            Patch::Strategic(body.json()?)
        }
        "application/apply-patch+yaml" => {
            query.text("fieldManager").clone_into(&mut options.manager);
            options.force = query.flag("force");
            Patch::Apply(body.yaml()?)
        }
        other => {
            let accepted = [
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ];
            return Err(ApiError::unsupported_media(other, &accepted));
        }
    };
    let name = target.name.as_deref().unwrap_or_default();
    let written = server.write(|registry, stamp| {
        registry.patch(resource, target.space(), name, part, &patch, &options, stamp)
    })?;
    Ok(answered(resource, &written))
}

pub(super) async fn delete(
    server: &ApiServer,
    target: &Target,
    query: &Query,
    user: User,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if target.part.is_some() {
        return Err(ApiError::method_not_allowed());
    }
    let body = body(request).await?;
    let options = delete_options(query, &body.object_or_null()?, user)?;
    let resource = &target.resource;
    let name = target.name.as_deref().unwrap_or_default();
    let outcome =
        server.write(|registry, stamp| registry.delete(resource, target.space(), name, &options, stamp))?;
    match outcome {
        Deleted::Pending(object) => Ok(whole(200, JSON, present(resource, &object).json())),
        Deleted::Gone(object) => {
            let mut status = success();
            status["details"] = value!({
                "name": name, "group": resource.group, "kind": resource.plural,
                "uid": object.value["metadata"]["uid"],
            });
            Ok(json(200, &status))
        }
    }
}

pub(super) async fn delete_collection(
    server: &ApiServer,
    target: &Target,
    query: &Query,
    user: User,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let resource = &target.resource;
    if resource.namespaced && target.namespace.is_none() {
        return Err(ApiError::method_not_allowed());
    }
    let body = body(request).await?;
    let options = delete_options(query, &body.object_or_null()?, user)?;
    let (labels, fields) = (query.text("labelSelector"), query.text("fieldSelector"));
    let selector = Selector::parse(resource, target.namespace.as_deref(), labels, fields)?;
    let deleted =
        server.write(|registry, stamp| registry.delete_collection(resource, &selector, &options, stamp))?;
    let items = deleted.iter().map(|o| present(resource, o).value.clone()).collect::<Value>();
    let list = value!({
        "kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": {}, "items": items,
    });
    Ok(json(200, &list))
}

/// Reviews are granted: the lab has one user, who may do everything.
pub(super) async fn review(request: Request<Incoming>, kind: &str) -> Result<Response<Body>, ApiError> {
    if request.method() != http::Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let mut object = body(request).await?.object()?;
    if !object.is_object() {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    }
    let user = value!({"username": "lab", "groups": ["system:masters", "system:authenticated"]});
    let everything = value!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    object["status"] = match kind {
        "TokenReview" => value!({"authenticated": true, "user": user}),
        "SelfSubjectReview" => value!({"userInfo": user}),
        "SelfSubjectRulesReview" => {
            value!({
                "resourceRules": everything, "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": false,
            })
        }
        _ => value!({"allowed": true}),
    };
    Ok(json(201, &object))
}

fn part(target: &Target) -> Result<Part, ApiError> {
    match target.part.as_deref() {
        None => Ok(Part::Main),
        Some("status") => Ok(Part::Status),
        Some(_) => Err(ApiError::method_not_allowed()),
    }
}

fn answered(resource: &Resource, written: &Written) -> Response<Body> {
    let code = if written.created { 201 } else { 200 };
    with_warnings(whole(code, JSON, present(resource, &written.object).json()), &written.warnings)
}

fn success() -> Value {
    value!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 200})
}

fn dry_run(query: &Query) -> Result<bool, ApiError> {
    match query.text("dryRun") {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(ApiError::bad_request(format!("invalid query parameter dryRun: {other:?} is not All"))),
    }
}

fn write_options(query: &Query, user: User) -> Result<WriteOptions, ApiError> {
    let strict = query.text("fieldValidation") == "Strict";
    Ok(WriteOptions { dry_run: dry_run(query)?, strict, user, ..WriteOptions::default() })
}

fn delete_options(query: &Query, body: &Value, user: User) -> Result<DeleteOptions, ApiError> {
    let text = |v: &Value| v.as_str().map(ToOwned::to_owned);
    let grace = match body["gracePeriodSeconds"].as_i64() {
        Some(grace) => Some(grace),
        None => query.number("gracePeriodSeconds")?.map(|g| i64::try_from(g).unwrap_or(i64::MAX)),
    };
    Ok(DeleteOptions {
        grace,
        uid: text(&body["preconditions"]["uid"]),
        version: text(&body["preconditions"]["resourceVersion"]),
        dry_run: dry_run(query)? || body["dryRun"][0] == "All",
        user,
    })
}

/// A request's body with its media type.
struct Content {
    media: String,
    bytes: Bytes,
}

impl Content {
    fn object(&self) -> Result<Value, ApiError> {
        match self.media.as_str() {
            "" | JSON | "text/json" => self.json(),
            "application/yaml" | "text/yaml" | "application/x-yaml" => self.yaml(),
            protobuf::MEDIA_TYPE => protobuf::decode(&self.bytes),
            other => Err(ApiError::unsupported_media(other, &[JSON, "application/yaml"])),
        }
    }

    fn object_or_null(&self) -> Result<Value, ApiError> {
        if self.bytes.is_empty() { Ok(Value::Null) } else { self.object() }
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.bytes)
            .map_err(|error| ApiError::bad_request(format!("error decoding the body as JSON: {error}")))
    }

    fn yaml(&self) -> Result<Value, ApiError> {
        // JSON is the common case, even where the media type says YAML.
        serde_json::from_slice(&self.bytes).or_else(|_| {
            serde_saphyr::from_slice(&self.bytes)
                .map_err(|error| ApiError::bad_request(format!("error decoding the body as YAML: {error}")))
        })
    }
}

async fn body(request: Request<Incoming>) -> Result<Content, ApiError> {
    let header = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let read = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let bytes = read.map_err(|error| ApiError::bad_request(format!("error reading the body: {error}")))?;
    Ok(Content { media, bytes: bytes.to_bytes() })
}
