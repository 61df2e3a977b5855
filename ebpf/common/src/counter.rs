//! What the map `COUNTERS` holds: a per-CPU array of numbers, `u64`: packets by [`Counter`], [`UNTOLD`] and [`UNTOLD_DENIALS`].

/// What became of a packet that a program looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// It went straight into a pod of this node.
    ToPod,
    /// It went straight to another node, or to the device of a tunnel.
    ToNode,
    /// It went straight to another node, put into a tunnel here.
    ToTunnel,
    /// To the stack: its flow is the stack's.
    Stacked,
    /// To the stack: it is of no flow that is known, and begins none.
    NoFlow,
    /// To the stack: policy does not plainly allow its flow.
    NotAllowed,
    /// Dropped: policy denies what it begins.
    Denied,
    /// To the stack: the maps were being written when its flow was to be judged.
    BeingWritten,
    /// To the stack: the way to its destination is one only the stack can tell, as is what is wrong with it. It has no
    /// route, is too large, or has no hops left.
    Unroutable,
    /// To the stack: its headers are not ones that the programs understand.
    Unparsed,
    /// It is lost: it could not be written to after room for a tunnel was made. No kernel that keeps its promises lets that be.
    Lost,
}

impl Counter {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 11] = [
        Self::ToPod,
        Self::ToNode,
        Self::ToTunnel,
        Self::Stacked,
        Self::NoFlow,
        Self::NotAllowed,
        Self::Denied,
        Self::BeingWritten,
        Self::Unroutable,
        Self::Unparsed,
        Self::Lost,
    ];

    /// Index in the map.
    pub const fn index(self) -> u32 {
        self as u32
    }
}

/// Index in the map of the flows that began and for which `EVENTS` had no room.
pub const UNTOLD: u32 = Counter::Lost.index() + 1;
const _: () = assert!(Counter::ALL.len() == UNTOLD as usize);

/// Likewise of the packets that were dropped.
pub const UNTOLD_DENIALS: u32 = UNTOLD + 1;

/// Entries of the map.
pub const ENTRIES: u32 = UNTOLD_DENIALS + 1;
