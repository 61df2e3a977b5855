//! A BGP-4 speaker as a library: wire format, session machine, routing tables.
