//! Where in a file a path such as `neighbors[2].port` is.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The shape of a file, with the line of everything in it.
#[derive(Debug)]
pub struct Located {
    root: Node,
}

#[derive(Debug)]
enum Node {
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
    List(Vec<Spanned<Node>>),
    Scalar,
}

impl Located {
    /// Reads a file that is YAML; of another nothing is found.
    pub fn new(text: &str) -> Self {
        Self { root: serde_saphyr::from_str(text).unwrap_or(Node::Scalar) }
    }

    /// The line of a path, or of the nearest thing around it that is there.
    pub fn line(&self, path: &str) -> Option<u64> {
        let (mut node, mut line, mut rest) = (&self.root, None, path);
        while !rest.is_empty() {
            rest = rest.trim_start_matches('.');
            let next =
                if let Some((index, behind)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                    rest = behind;
                    let Node::List(nodes) = node else { break };
                    index
                        .parse::<usize>()
                        .ok()
                        .and_then(|index| nodes.get(index))
                        .map(|node| (node.referenced, node))
                } else {
                    let Node::Map(entries) = node else { break };
                    // Names of policies may have dots: the longest key counts.
                    let fits = |key: &str| {
                        rest.strip_prefix(key).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                    };
                    let found = entries.iter().filter(|(key, _)| fits(&key.value).is_some());
                    let found = found.max_by_key(|(key, _)| key.value.len());
                    found.map(|(key, node)| {
                        rest = fits(&key.value).unwrap_or_default();
                        (key.referenced, node)
                    })
                };
            let Some((location, found)) = next else { break };
            (node, line) = (&found.value, Some(location.line()).filter(|line| *line > 0).or(line));
        }
        line
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element()? {
                    nodes.push(node);
                }
                Ok(Node::List(nodes))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_str<E>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Scalar)
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
                IgnoredAny::deserialize(inner).map(|IgnoredAny| Node::Scalar)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_line_of_what_it_names() {
        let text = "asn: 1\nneighbors:\n- address: a\n  port: 0\n- {address: b,\n   port: 1}\npolicies:\n  a.b:\n    terms:\n    - then: next\n";
        let located = Located::new(text);
        let cases = [
            ("asn", Some(1)),
            ("neighbors[0].port", Some(4)),
            ("neighbors[0].interface", Some(3)),
            ("neighbors[1].port", Some(6)),
            ("policies.a.b.terms[0].then", Some(10)),
            ("policies.a.b.terms[0].set.prepend", Some(10)),
            ("colour", None),
        ];
        for (path, line) in cases {
            assert_eq!(located.line(path), line, "{path}");
        }
    }
}
