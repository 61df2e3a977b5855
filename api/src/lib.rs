//! Configuration, endpoint records and the protocol between the CNI plugin and the node agent.
