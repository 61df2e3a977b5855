//! Links, addresses, routes, neighbours and namespaces, typed and thin.
