//! GC: frees what the runtime no longer names.

use std::collections::BTreeSet;

use margay_api::endpoint::{EndpointId, Records};
use margay_ipam::Owner;

use super::{store, take_apart, take_lock};
use crate::{
    config::Config,
    result::{Code, Failure},
};

/// CNI spec 1.1, section 2, "GC". Goes through all and reports all failures at the end. What another network's
/// configuration made with this plugin is not on this network's list, and none of its business.
pub(super) fn run(config: &Config) -> Result<String, Failure> {
    let Some(valid) = &config.valid_attachments else {
        return Err(Failure::new(
            Code::Config,
            "GC needs `cni.dev/valid-attachments`: without it every pod would be taken for gone",
        ));
    };
    let valid: BTreeSet<&Owner> = valid.iter().collect();
    let records = Records::below(&config.run_dir);
    let listing = records.list().map_err(|error| Failure::new(Code::Io, "list endpoints").because(&error))?;
    let mut failures: Vec<Failure> = listing
        .damaged
        .iter()
        .map(|(_, error)| Failure::new(Code::Io, "collect garbage").because(error))
        .collect();
    let allocations = store(config)
        .allocations()
        .map_err(|error| Failure::new(Code::Io, "list addresses").because(&error))?;
    let recorded = listing.endpoints.iter().filter_map(|e| Owner::new(&e.container_id, &e.ifname).ok());
    let known: BTreeSet<Owner> = recorded.chain(allocations.into_iter().filter_map(|a| a.owner)).collect();
    for owner in known.iter().filter(|owner| !valid.contains(owner)) {
        failures.extend(collect(config, &records, owner).err());
    }
    summary(&failures).map_or(Ok(String::new()), Err)
}

/// Takes an endpoint apart that is this network's, or nobody's. Looks under its lock, as an ADD of another network may
/// have written its record meanwhile.
fn collect(config: &Config, records: &Records, owner: &Owner) -> Result<(), Failure> {
    let id = EndpointId::of(owner.container_id(), owner.ifname());
    let lock = take_lock(&config.run_dir, &id)?;
    let record =
        records.read(&id).map_err(|error| Failure::new(Code::Io, "collect garbage").because(&error))?;
    if record.is_some_and(|endpoint| endpoint.network != config.name) {
        return Ok(());
    }
    take_apart(&config.run_dir, &store(config), owner)?;
    lock.forget();
    Ok(())
}

/// The first failure, with all of them in its details.
fn summary(failures: &[Failure]) -> Option<Failure> {
    let first = failures.first()?;
    let all: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
    Some(Failure::new(first.code, first.message.clone()).details(all.join("; ")))
}
