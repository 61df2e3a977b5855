//! Who sends a request.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A user, as authentication makes it of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub(crate) name: String,
    groups: Vec<String>,
    /// What else the credential says.
    extra: BTreeMap<String, Vec<String>>,
}

impl Default for User {
    /// Who brings no token is an administrator.
    fn default() -> Self {
        let groups = ["system:masters", "system:authenticated"].map(ToOwned::to_owned).into();
        Self { name: "lab".to_owned(), groups, extra: BTreeMap::new() }
    }
}

impl User {
    /// A service account, by a token that is bound to nothing.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ];
        let name = format!("system:serviceaccount:{namespace}:{name}");
        Self { name, groups: groups.into(), extra: BTreeMap::new() }
    }

    /// The same by a token that is bound to a pod of this node, as Kubernetes 1.30 and newer name it.
    #[must_use]
    pub fn on_node(mut self, node: &str) -> Self {
        self.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]);
        self
    }

    /// As `userInfo` of requests and reviews has it.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}
