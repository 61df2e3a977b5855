//! A small client of the Container Runtime Interface, version 1.
//!
//! Messages have the fields that the tests use, with the numbers of Kubernetes' `cri-api` (`runtime/v1/api.proto`);
//! protobuf passes over the others. One connection for each call: a runtime that was killed has none to reuse.

use std::{collections::HashMap, net::IpAddr, path::PathBuf, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::UnixStream, time::timeout};

/// A kubelet gives a runtime two minutes.
const PATIENCE: Duration = Duration::from_mins(2);

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
    /// Different in each attempt to run the same pod.
    #[prost(uint32, tag = "4")]
    pub(super) attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PortMapping {
    /// 0 is TCP.
    #[prost(int32, tag = "1")]
    pub(super) protocol: i32,
    #[prost(int32, tag = "2")]
    pub(super) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(super) host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    pub(super) cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub(super) hostname: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) port_mappings: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "6")]
    pub(super) labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub(super) linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

/// `StopPodSandbox`, `RemovePodSandbox` and `PodSandboxStatus` begin with the same field.
#[derive(Clone, PartialEq, Message)]
struct SandboxRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxResponse {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(message, optional, tag = "5")]
    network: Option<PodSandboxNetworkStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeCondition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

/// Calls a runtime.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) socket: PathBuf,
}

impl Client {
    /// Makes a sandbox and gives its ID.
    pub(super) async fn run(&self, config: PodSandboxConfig) -> Result<String, String> {
        let request = RunPodSandboxRequest { config: Some(config) };
        let response: RunPodSandboxResponse = self.call("RunPodSandbox", &request).await?;
        Ok(response.pod_sandbox_id)
    }

    pub(super) async fn stop(&self, id: &str) -> Result<(), String> {
        let Empty {} = self.call("StopPodSandbox", &SandboxRequest { pod_sandbox_id: id.into() }).await?;
        Ok(())
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), String> {
        let Empty {} = self.call("RemovePodSandbox", &SandboxRequest { pod_sandbox_id: id.into() }).await?;
        Ok(())
    }

    /// A sandbox's addresses, when it is ready.
    pub(super) async fn addresses(&self, id: &str) -> Result<Vec<IpAddr>, String> {
        let request = SandboxRequest { pod_sandbox_id: id.into() };
        let response: PodSandboxStatusResponse = self.call("PodSandboxStatus", &request).await?;
        let status = response.status.ok_or("no status")?;
        if status.state != 0 {
            return Err(format!("sandbox {id} is not ready"));
        }
        let network = status.network.ok_or("no network")?;
        let texts = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|more| &more.ip));
        texts.map(|text| text.parse().map_err(|_error| format!("`{text}` is no address"))).collect()
    }

    /// The IDs of all sandboxes.
    pub(super) async fn list(&self) -> Result<Vec<String>, String> {
        let response: ListPodSandboxResponse = self.call("ListPodSandbox", &Empty {}).await?;
        Ok(response.items.into_iter().map(|sandbox| sandbox.id).collect())
    }

    /// Whether pods can be run, or what the runtime says is missing.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let response: StatusResponse = self.call("Status", &Empty {}).await?;
        let conditions = response.status.unwrap_or_default().conditions;
        let missing = conditions.iter().find(|condition| !condition.status);
        missing.map_or(Ok(()), |condition| Err(format!("{}: {}", condition.kind, condition.message)))
    }

    /// One unary call of gRPC: each message has a flag and its length before it, and the trailers tell how it went.
    async fn call<Answer: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<Answer, String> {
        timeout(PATIENCE, self.converse(method, request))
            .await
            .unwrap_or_else(|elapsed| Err(elapsed.to_string()))
            .map_err(|error| format!("{method}: {error}"))
    }

    async fn converse<Answer: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<Answer, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| text(&error))?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| text(&error))?;
        // It ends with the sender.
        tokio::spawn(connection);
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(request.encoded_len()).unwrap());
        request.encode(&mut body).map_err(|error| text(&error))?;
        let request = Request::post(format!("http://runtime/runtime.v1.RuntimeService/{method}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .map_err(|error| text(&error))?;
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        // A failure without an answer has its status among the headers.
        let headers = response.headers().clone();
        let collected = response.into_body().collect().await.map_err(|error| text(&error))?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let field = |name: &str| {
            let value = trailers.get(name).or_else(|| headers.get(name))?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        if field("grpc-status").as_deref() != Some("0") {
            return Err(field("grpc-message").unwrap_or_else(|| "it broke off".into()));
        }
        let body: Bytes = collected.to_bytes();
        let message = body.get(5..).ok_or("the answer is empty")?;
        Answer::decode(message).map_err(|error| text(&error))
    }
}
