//! Datagrams of nftables, of any octets.

use super::{
    Expr, FAMILY_HEADER, LIST_ELEMENT,
    attribute::{Attributes, Writer},
    change::RULE_EXPRESSIONS,
    connection::messages,
    monitor::ports,
    read::{base, counter, rule},
};

/// Reads it as an answer and as a notice.
pub fn datagram(octets: &[u8]) {
    assert!(
        ports("margay", octets).len() <= octets.len() / FAMILY_HEADER,
        "more changes than there is room for"
    );
    let mut rest = octets.len();
    for message in messages(octets) {
        let Ok(message) = message else { break };
        rest = rest.checked_sub(message.body.len()).expect("more octets than came");
        let _refusal = message.refusal();
        let body = Attributes::parse(message.body.get(FAMILY_HEADER..).unwrap_or_default());
        let _chain = base(&body);
        let _counter = counter(&body);
        let _rule = rule(&body);
        for list in body.nests(RULE_EXPRESSIONS) {
            list.nests(LIST_ELEMENT).filter_map(|expr| Expr::decode(&expr)).for_each(|expr| again(&expr));
        }
    }
}

/// What is understood of an expression is said again in the same words.
fn again(expr: &Expr) {
    let mut writer = Writer::default();
    expr.encode(&mut writer);
    let list = Attributes::parse(&writer.octets);
    let read: Vec<_> = list.nests(LIST_ELEMENT).map(|expr| Expr::decode(&expr)).collect();
    assert_eq!(read, [Some(expr.clone())], "said again in other words");
}
