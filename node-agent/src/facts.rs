//! What the core knows and the tasks beside it need.

use crate::watch::Identity;

/// What the core knows and the tasks beside it need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The node's object; `None` while there is none.
    pub(crate) node: Option<Identity>,
    /// Whether this agent speaks for all: writes the status of what nodes share, and tells what is wrong with it.
    pub(crate) speaks: bool,
}
