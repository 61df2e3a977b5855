//! DEL: takes an interface away, however much of it is left.

use super::{remove_endpoint, store};
use crate::{
    config::{Config, Environment},
    result::Failure,
};

/// CNI spec 1.1, section 2, "DEL". Succeeds whatever is already gone: the namespace, the interface, the record,
/// the agent. Everything it needs is found by container ID and interface name, so neither `CNI_NETNS` nor
/// `prevResult` is looked at.
pub(super) fn run(environment: &Environment, config: &Config) -> Result<String, Failure> {
    let attachment = environment.attachment()?;
    remove_endpoint(&config.run_dir, &store(config), &attachment.owner)?;
    Ok(String::new())
}
