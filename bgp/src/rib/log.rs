//! What the peers of a group are told, encoded once and shared by all of them.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use super::peer::PeerId;

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Audience {
    /// Every member of the group.
    All,
    /// All but the one who said it.
    Except(PeerId),
    /// One who was left out before, or is to be from now on.
    Only(PeerId),
}

impl Audience {
    pub(super) fn includes(self, peer: PeerId) -> bool {
        match self {
            Self::All => true,
            Self::Except(other) => other != peer,
            Self::Only(other) => other == peer,
        }
    }
}

/// A part of some encoded messages, shared by all peers that get the same.
#[derive(Clone, Debug)]
pub struct Segment {
    octets: Arc<[u8]>,
    start: usize,
    end: usize,
}

impl Deref for Segment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.octets.get(self.start..self.end).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Segment {
    fn from(octets: Vec<u8>) -> Self {
        let octets: Arc<[u8]> = octets.into();
        Self { start: 0, end: octets.len(), octets }
    }
}

/// Whole messages for one peer, in order.
pub type Batch = Vec<Segment>;

/// Messages under construction.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) octets: Vec<u8>,
    /// Where messages end that are not for all, with whom they are for; adjacent ones are one.
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    end: usize,
    audience: Audience,
}

/// Messages that change no more.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    octets: Arc<[u8]>,
    parts: Arc<[Part]>,
}

impl Draft {
    pub(super) fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Says for whom everything is that was appended since the octets ended at `start`.
    pub(super) fn address(&mut self, start: usize, audience: Audience) {
        let end = self.octets.len();
        match self.parts.last_mut() {
            _ if audience == Audience::All => {}
            Some(last) if last.audience == audience && last.end == start => last.end = end,
            _ => self.parts.push(Part { start, end, audience }),
        }
    }

    pub(super) fn finish(&mut self) -> Chunk {
        let draft = std::mem::take(self);
        Chunk { octets: draft.octets.into(), parts: draft.parts.into() }
    }
}

impl Chunk {
    /// Appends what is in it for the peer.
    pub(super) fn append_for(&self, peer: PeerId, batch: &mut Batch) {
        let mut from = 0;
        let mut piece = |start, end| {
            if start < end {
                batch.push(Segment { octets: Arc::clone(&self.octets), start, end });
            }
        };
        for part in self.parts.iter().filter(|part| !part.audience.includes(peer)) {
            piece(from, part.start);
            from = part.end;
        }
        piece(from, self.octets.len());
    }
}

/// What a group was told lately, as far as some member has not taken it yet.
#[derive(Debug, Default)]
pub(super) struct Log {
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk kept.
    first: u64,
    octets: usize,
}

impl Log {
    /// The number that the next chunk will have.
    pub(super) fn head(&self) -> u64 {
        self.first + u64::try_from(self.chunks.len()).unwrap_or(u64::MAX)
    }

    /// Octets kept.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        self.octets += chunk.octets.len();
        self.chunks.push_back(chunk);
    }

    /// Appends what a peer has not taken from `cursor` on.
    pub(super) fn read(&self, cursor: u64, peer: PeerId, batch: &mut Batch) {
        let skip = usize::try_from(cursor.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for chunk in self.chunks.iter().skip(skip) {
            chunk.append_for(peer, batch);
        }
    }

    /// Drops what every member has taken.
    pub(super) fn trim(&mut self, slowest: u64) {
        while self.first < slowest
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.octets -= chunk.octets.len();
            self.first += 1;
        }
    }
}
