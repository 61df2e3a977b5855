//! What the map `CONTROL` holds: an array with one [`Control`], by which the agent takes turns with the programs.

use core::mem::{align_of, offset_of, size_of};

/// Entries of the map.
pub const ENTRIES: u32 = 1;

/// Whether what the other maps say of policy may be used.
///
/// The agent makes the revision odd, writes the maps, then makes it even again, one more than before. So a program that reads
/// the same even revision before and after it has judged a flow has seen one state of the maps, whole. A flow that was judged in
/// an older revision is judged anew at its next packet; while the revision is odd, what was judged in the one before it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// Even: the maps are whole. Odd: they are being written. 0 before they were written once. It never goes back while there
    /// are flows: one that was judged in a revision of this number would count as judged.
    pub revision: u32,
    /// Some of the constants below.
    pub flags: u32,
}

/// Flows may begin to take the short way.
pub const ADMITS: u32 = 1;
/// Somebody listens to the flows that begin ([`event`](crate::event)).
pub const TELLS_FLOWS: u32 = 2;
/// Somebody listens to the packets that are dropped.
pub const TELLS_DENIALS: u32 = 4;

impl Control {
    /// Whether flows may begin to take the short way.
    pub const fn admits(&self) -> bool {
        self.flags & ADMITS != 0
    }

    /// Whether somebody listens to the flows that begin.
    pub const fn tells_flows(&self) -> bool {
        self.flags & TELLS_FLOWS != 0
    }

    /// Whether somebody listens to the packets that are dropped.
    pub const fn tells_denials(&self) -> bool {
        self.flags & TELLS_DENIALS != 0
    }

    /// Whether a flow that was judged in some revision is still judged.
    pub const fn holds(&self, judged: u32) -> bool {
        judged == self.revision & !1
    }
}

const _: () = assert!(size_of::<Control>() == 8 && align_of::<Control>() == 4);
const _: () = assert!(offset_of!(Control, revision) == 0 && offset_of!(Control, flags) == 4);

plain!(Control);
