//! Clusters made of network namespaces.

pub mod apiserver;
