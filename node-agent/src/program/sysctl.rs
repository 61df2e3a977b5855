//! Kernel settings that a router of pods needs.

use std::{fs, io};

use anyhow::Context;
use tracing::info;

/// Lets the node forward. Only what differs is written, so that a read-only `/proc/sys` with the right values,
/// as a container without privileges has it, is good enough.
pub(crate) fn enable_forwarding() -> anyhow::Result<()> {
    for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
        match fs::read_to_string(path) {
            Ok(value) if value.trim() == "1" => {}
            Ok(_) => {
                fs::write(path, "1")
                    .with_context(|| format!("write 1 to {path}; or set it on the node: sysctl -w"))?;
                info!(path, "forwarding enabled");
            }
            // No IPv6 in this kernel.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {path}")),
        }
    }
    Ok(())
}
