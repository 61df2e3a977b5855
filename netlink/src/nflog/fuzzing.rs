//! Datagrams of NFLOG, of any octets.

use super::{Logged, read};

/// The packets that it tells of.
pub fn datagram(octets: &[u8]) -> Vec<Logged> {
    let mut found = Vec::new();
    for message in read::messages(octets) {
        let _code = message.error();
        found.extend(message.packet().map(|(logged, _)| logged));
    }
    let kept: usize = found.iter().map(|logged| logged.payload.len()).sum();
    assert!(kept <= octets.len(), "{kept} octets of packets out of {}", octets.len());
    found
}
