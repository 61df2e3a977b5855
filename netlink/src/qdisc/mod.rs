//! Queueing disciplines: what holds packets back, or filters them, at an interface.

mod show;

use std::fmt;

use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

pub use show::list;

use crate::link::IfIndex;

/// What the kernel says of a queueing discipline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// The interface that it is at.
    pub link: IfIndex,
    /// Its kind: `noqueue`, `fq_codel`, `tbf`, `clsact`.
    pub kind: String,
    /// Whether it is where filters of what the interface receives are (`ingress`, `clsact`).
    pub ingress: bool,
}

impl Qdisc {
    pub(crate) fn parse(message: &TcMessage) -> Option<Self> {
        let kind = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        })?;
        Some(Self {
            link: IfIndex::new(u32::try_from(message.header.index).ok()?)?,
            kind,
            ingress: message.header.parent == TcHandle::INGRESS,
        })
    }
}

/// A message about a discipline or a filter in words, for errors.
pub(crate) struct Described<'a>(pub(crate) &'a TcMessage);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for attribute in &self.0.attributes {
            if let TcAttribute::Kind(kind) = attribute {
                write!(f, "{kind} ")?;
            }
        }
        write!(f, "on link {}", self.0.header.index)
    }
}
