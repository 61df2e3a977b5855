//! GC: frees what the runtime no longer names.

use std::collections::BTreeSet;

use margay_api::endpoint::Records;
use margay_ipam::Owner;

use super::{remove_endpoint, store};
use crate::{
    config::Config,
    result::{Code, Failure},
};

/// CNI spec 1.1, section 2, "GC". Goes through all and reports the first failure at the end.
pub(super) fn run(config: &Config) -> Result<String, Failure> {
    let Some(valid) = &config.valid_attachments else {
        return Err(Failure::new(
            Code::Config,
            "GC needs `cni.dev/valid-attachments`: without it every pod would be taken for gone",
        ));
    };
    let valid: BTreeSet<&Owner> = valid.iter().collect();
    let store = store(config);
    let listing = Records::below(&config.run_dir)
        .list()
        .map_err(|error| Failure::new(Code::Io, "list endpoints").because(&error))?;
    let mut failures: Vec<Failure> = listing
        .damaged
        .iter()
        .map(|(_, error)| Failure::new(Code::Io, "collect garbage").because(error))
        .collect();
    let allocations =
        store.allocations().map_err(|error| Failure::new(Code::Io, "list addresses").because(&error))?;
    let recorded = listing.endpoints.iter().filter_map(|e| Owner::new(&e.container_id, &e.ifname).ok());
    let known: BTreeSet<Owner> = recorded.chain(allocations.into_iter().filter_map(|a| a.owner)).collect();
    for owner in known.iter().filter(|owner| !valid.contains(owner)) {
        failures.extend(remove_endpoint(&config.run_dir, &store, owner).err());
    }
    failures.into_iter().next().map_or(Ok(String::new()), Err)
}
