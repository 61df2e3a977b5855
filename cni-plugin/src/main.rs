//! cni-plugin

fn main() {}
