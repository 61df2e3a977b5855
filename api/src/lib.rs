//! What the processes of a node say to each other, and where they leave it.
//!
//! [`endpoint`] is the record that the CNI plugin leaves of every pod interface; [`agent`] is the protocol on
//! the agent's socket, [`monitor`] what it says there of dropped packets; [`lock`] keeps them out of each other's way;
//! [`pools`] and [`ways`] are what the agent leaves for operators; [`paths`] says where all is found. What users write are the
//! annotations in [`annotation`], the labels in [`label`] and, with the feature `resources`, the custom resources in `resource`.

pub mod agent;
pub mod annotation;
pub mod endpoint;
pub mod label;
pub mod left;
pub mod lock;
pub mod monitor;
pub mod paths;
pub mod pools;
#[cfg(feature = "resources")]
pub mod resource;
pub mod ways;
