//! What the processes of a node say to each other, and where they leave it.
//!
//! [`endpoint`] is the record that the CNI plugin leaves of every pod interface; [`agent`] is the protocol on
//! the agent's socket; [`lock`] keeps them out of each other's way; [`paths`] says where all is found.

pub mod agent;
pub mod annotation;
pub mod endpoint;
pub mod lock;
pub mod paths;
