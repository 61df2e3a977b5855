//! Admission: what `ValidatingAdmissionPolicy` objects say of requests that write.
//!
//! A policy that a binding names is asked about each request that its rules match, after the object is complete and valid and
//! before it is stored, also with `dryRun`. The answer to a request that is denied is in the words of the real server. The reads of
//! anybody, and writes of the policies and bindings themselves, are asked of nobody.
//!
//! ```text
//!  policy.rs   an object of the API -> a checked policy, or what of it this server does not know
//!  rule.rs     which requests a policy is about
//!  judge.rs    a policy and a request -> allowed, or why not
//! ```

mod judge;
mod policy;
mod rule;
#[cfg(test)]
mod tests;

pub(crate) use policy::{Policy, complain_of_binding, complain_of_policy};

use super::registry::{Registry, present};
use super::resource::Resource;
use super::select::Selector;
use super::status::ApiError;
use super::store::{Key, Stored};
use super::user::User;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
const BINDINGS: &str = "validatingadmissionpolicybindings.admissionregistration.k8s.io";

/// What a request does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    fn text(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A request that writes, all but the object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) user: &'a User,
    pub(crate) operation: Operation,
    pub(crate) resource: &'a Resource,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) dry_run: bool,
}

impl Registry {
    /// Lets a request pass, or denies it and takes note of that. `object` is as it is to be stored, `old` as it is there.
    pub(crate) fn admit(
        &mut self,
        asked: &Asked<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        if asked.resource.group == GROUP {
            return Ok(());
        }
        for (_, binding) in self.store.list(BINDINGS, &Selector::default(), None) {
            let name = binding.value["spec"]["policyName"].as_str().unwrap_or_default().to_owned();
            let Some(policy) = self.store.find(POLICIES, &Key { namespace: String::new(), name }).cloned()
            else {
                continue;
            };
            let Err(denied) = self.ask(&policy, asked, object, old) else { continue };
            let text = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let why = format!(
                "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
                text(&policy.value),
                text(&binding.value),
                denied.message
            );
            let resource = asked.resource;
            let mut error = ApiError::forbidden(&resource.group, &resource.plural, asked.name, &why);
            (error.reason, error.code) = denied.reason;
            error.details["causes"] = json!([{"message": why}]);
            self.denials.insert(format!("User {:?}: {}", asked.user.name, error.message));
            return Err(error);
        }
        Ok(())
    }

    fn ask(
        &mut self,
        policy: &Stored,
        asked: &Asked<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), judge::Denied> {
        let policy = self.compiled(policy)?;
        // An object has a resource in each version and group in which it is served, and a policy may name any of them.
        let own = [asked.resource].into_iter();
        let others =
            self.resources.iter().map(AsRef::as_ref).filter(|it| it.storage == asked.resource.storage);
        let Some(resource) = own.chain(others).find(|resource| {
            let is_own = std::ptr::eq(*resource, asked.resource);
            (is_own || policy.is_equivalent) && policy.is_about(&Asked { resource, ..*asked })
        }) else {
            return Ok(());
        };
        let seen = |object: &Value| match asked.subresource {
            "" | "status" => present(resource, &Arc::new(Stored::new(object.clone()))).value.clone(),
            // It is of another kind, such as Binding.
            _ => object.clone(),
        };
        let (object, old) = (object.map(seen), old.map(seen));
        policy.judge(asked, resource, object.as_ref(), old.as_ref())
    }

    /// The policy of this object, compiled once for each version of it.
    fn compiled(&mut self, policy: &Stored) -> Result<Arc<Policy>, judge::Denied> {
        let text = |field: &str| policy.value["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (name, version) = (text("name"), text("resourceVersion"));
        if let Some((compiled, policy)) = self.policies.get(&name)
            && *compiled == version
        {
            return Ok(Arc::clone(policy));
        }
        let policy = Policy::of(&policy.value).map_err(|causes| {
            // It was put in raw.
            let causes = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message));
            judge::Denied::error(causes.collect::<Vec<_>>().join(", "))
        })?;
        let policy = Arc::new(policy);
        self.policies.insert(name, (version, Arc::clone(&policy)));
        Ok(policy)
    }
}
