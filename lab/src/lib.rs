//! Clusters made of network namespaces.
