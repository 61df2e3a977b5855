//! The API's Node to what policy needs of it.

use k8s_openapi::api::core::v1::Node as Object;

use crate::Node;

/// Reads a node: its labels, and its addresses of type `InternalIP` and `ExternalIP`. Those of tunnels are not in the object. What
/// cannot be read is left out and said in words.
pub fn convert_node(object: &Object) -> (Node, Vec<String>) {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let mut problems = Vec::new();
    let mut addresses = Vec::new();
    let listed = object.status.as_ref().and_then(|status| status.addresses.as_ref());
    // The other types are names.
    let listed =
        listed.into_iter().flatten().filter(|it| matches!(it.type_.as_str(), "InternalIP" | "ExternalIP"));
    for text in listed.map(|address| &address.address) {
        match text.parse() {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(_not_an_address) => problems.push(format!(
                "Node {name}: status.addresses: `{text}` is not an address; it is passed over"
            )),
        }
    }
    let labels = object.metadata.labels.clone().unwrap_or_default();
    (Node { labels, addresses, ..Node::default() }, problems)
}

#[cfg(test)]
mod tests {
    use super::convert_node;

    #[test]
    fn both_kinds_of_addresses_are_read_and_what_is_malformed_is_named() {
        let text = "{metadata: {name: n1, labels: {rack: r1}}, status: {addresses: [{type: Hostname, address: n1},\
                    {type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: 198.51.100.1},\
                    {type: ExternalIP, address: 192.0.2.1}, {type: InternalIP, address: x}]}}";
        let (node, problems) = convert_node(&serde_saphyr::from_str(text).unwrap());
        assert_eq!(node.labels["rack"], "r1");
        assert_eq!(
            node.addresses,
            ["192.0.2.1", "198.51.100.1"].map(|text| text.parse::<std::net::IpAddr>().unwrap())
        );
        assert_eq!(problems, ["Node n1: status.addresses: `x` is not an address; it is passed over"]);
    }
}
