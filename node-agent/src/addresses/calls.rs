//! Calls to the API server about blocks and pools: each by itself, its outcome a message.

use std::time::Duration;

use ipnetwork::IpNetwork;
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use margay_api::resource::{IPBlock, IPBlockSpec, IPPool};
use serde_json::{Value, json};
use tokio::time::timeout;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The node in whose name blocks are claimed.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) uid: String,
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The claim of a block of a pool.
    Claim {
        pool: String,
        /// The block that is this node's now; `None` when others have all candidates.
        claimed: Result<Option<IpNetwork>, (IpNetwork, String)>,
        /// The blocks that others turned out to have.
        taken: Vec<(IpNetwork, String)>,
    },
    /// Another change of a block's object.
    Block { network: IpNetwork, action: &'static str, result: Result<(), String> },
    /// The status of a pool was written.
    Status { pool: String, result: Result<(), String> },
}

/// Makes the object of the first candidate that nobody has. The API server lets only one node make each.
pub(super) async fn claim(client: Client, owner: Owner, pool: String, candidates: Vec<IpNetwork>) -> Outcome {
    let api: Api<IPBlock> = Api::all(client);
    let mut taken = Vec::new();
    for network in candidates {
        match within(create(&api, &owner, &pool, network)).await {
            Ok(None) => return Outcome::Claim { pool, claimed: Ok(Some(network)), taken },
            Ok(Some(node)) => taken.push((network, node)),
            Err(error) => {
                let claimed = Err((network, format!("claim block {network}: {error}")));
                return Outcome::Claim { pool, claimed, taken };
            }
        }
    }
    Outcome::Claim { pool, claimed: Ok(None), taken }
}

/// Who has it, when it is not us.
async fn create(
    api: &Api<IPBlock>,
    owner: &Owner,
    pool: &str,
    network: IpNetwork,
) -> kube::Result<Option<String>> {
    let name = IPBlock::name_of(network);
    let block = IPBlock {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: serde_json::from_value(owner_references(owner)).ok(),
            ..ObjectMeta::default()
        },
        spec: IPBlockSpec { cidr: network.to_string(), pool: pool.to_owned(), node: owner.name.clone() },
        status: None,
    };
    match api.create(&PostParams::default(), &block).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // The answer to an earlier attempt may have been lost.
            let present = api.get(&name).await?.spec.node;
            Ok((present != owner.name).then_some(present))
        }
        Err(error) => Err(error),
    }
}

/// Makes the object of a block again whose addresses are in use here.
pub(super) async fn reclaim(client: Client, owner: Owner, pool: String, network: IpNetwork) -> Outcome {
    claim(client, owner, pool, vec![network]).await
}

/// Deletes the object that the node knows, and no other of its name.
pub(super) async fn delete(client: Client, network: IpNetwork, uid: Option<String>) -> Outcome {
    let api: Api<IPBlock> = Api::all(client);
    let preconditions = Some(Preconditions { uid, resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    let name = IPBlock::name_of(network);
    let result = within(async {
        match api.delete(&name, &parameters).await {
            // Gone already, or made anew since.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            deleted => deleted.map(drop),
        }
    });
    Outcome::Block { network, action: "give back", result: result.await }
}

/// Makes the node that there is now the owner of a block: the one before it is gone, and its blocks would go too.
pub(super) async fn adopt(client: Client, owner: Owner, network: IpNetwork) -> Outcome {
    let patch = json!({"metadata": {"ownerReferences": owner_references(&owner)}});
    let result = patched(Api::all(client), network, patch, Part::Main).await;
    Outcome::Block { network, action: "become the owner of", result }
}

/// Writes on a block whether addresses of it are still held here although another node has it.
pub(super) async fn set_conflict(client: Client, network: IpNetwork, conditions: Value) -> Outcome {
    let patch = json!({"status": {"conditions": conditions}});
    let result = patched(Api::all(client), network, patch, Part::Status).await;
    Outcome::Block { network, action: "write the status of", result }
}

/// Writes a pool's status.
pub(super) async fn set_pool_status(client: Client, pool: String, status: Value) -> Outcome {
    let api: Api<IPPool> = Api::all(client);
    let patch = Patch::Merge(json!({"status": status}));
    let result =
        within(async { api.patch_status(&pool, &PatchParams::default(), &patch).await.map(drop) }).await;
    Outcome::Status { pool, result }
}

enum Part {
    Main,
    Status,
}

async fn patched(api: Api<IPBlock>, network: IpNetwork, patch: Value, part: Part) -> Result<(), String> {
    let name = IPBlock::name_of(network);
    let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
    within(async {
        let patched = match part {
            Part::Main => api.patch(&name, &parameters, &patch).await,
            Part::Status => api.patch_status(&name, &parameters, &patch).await,
        };
        match patched {
            // Gone meanwhile: the watch says so.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            patched => patched.map(drop),
        }
    })
    .await
}

fn owner_references(owner: &Owner) -> Value {
    json!([{"apiVersion": "v1", "kind": "Node", "name": owner.name, "uid": owner.uid}])
}

async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("the API server did not answer within {PATIENCE:?}")),
    }
}
