//! Address blocks and the allocations in them.
