//! Who the agent is to the API server in memory: the service account of the manifests, with its roles.

use crate::apiserver::{ApiServer, User};
use anyhow::Context;
use serde_json::Value;

/// Where the manifests put the service account, and the agent finds its Secret.
pub const NAMESPACE: &str = "kube-system";
const ACCOUNT: &str = "margay";
/// A bearer token of the agent's account that is bound to no node. It opens nothing but the memory of a test.
pub const TOKEN: &str = "margay-lab-agent";
const ROLES: &str = include_str!("../../manifests/base/rbac.yaml");

/// Gives the agent its account, with the roles of `manifests/base/rbac.yaml`; from then on [`TOKEN`] may do what they
/// say and nothing else. Requests without a token stay those of an administrator.
///
/// # Errors
/// When the manifest cannot be read or names a kind that the server does not have.
pub fn admit_agent(api: &ApiServer) -> anyhow::Result<()> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(ROLES).context("read manifests/base/rbac.yaml")?;
    for mut object in objects {
        // As kustomize does.
        if matches!(object["kind"].as_str(), Some("ServiceAccount" | "Role" | "RoleBinding")) {
            object["metadata"]["namespace"] = NAMESPACE.into();
        }
        api.put_raw(object)
            .map_err(|error| anyhow::anyhow!("put what manifests/base/rbac.yaml has: {}", error.message))?;
    }
    api.admit(TOKEN, User::service_account(NAMESPACE, ACCOUNT));
    Ok(())
}

/// The token that the agent of a node has: of the same account, and bound to that node.
pub fn admit_on_node(api: &ApiServer, node: &str) -> String {
    let token = format!("{TOKEN}-{node}");
    api.admit(&token, User::service_account(NAMESPACE, ACCOUNT).on_node(node));
    token
}
