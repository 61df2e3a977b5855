//! Datagrams of connection tracking, of any octets.

use super::{Connection, FAMILY_HEADER, HEADER, attributes, read, read_answers, u32_at};

/// The connections that it tells of.
pub fn datagram(octets: &[u8]) -> Vec<Connection> {
    let mut found = Vec::new();
    let what = || "fuzz".to_owned();
    let _outcome = read_answers(octets, &what, &mut |family, attributes| {
        found.extend(read(family, attributes));
    });
    for connection in &found {
        let deletion = &connection.deletion;
        assert_eq!(u32_at(deletion, 0) as usize, deletion.len(), "a deletion with a wrong length");
        assert!(deletion.len() <= octets.len() + HEADER, "more is sent than came");
        // What is deleted is what was read.
        let named = attributes(&deletion[HEADER + FAMILY_HEADER..]);
        let original = named.iter().find(|(kind, ..)| *kind == super::TUPLE_ORIG).expect("its tuple");
        let source = super::Tuple::read(original.1).map(|tuple| tuple.source);
        assert_eq!(source, Some(connection.source), "another connection than was found");
    }
    found
}
