//! The `AS_PATH` attribute.

use std::fmt;

use super::AsWidth;
use crate::asn::Asn;
use crate::wire::reader::Reader;

/// Whether the order of a segment's numbers means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// `AS_SET`: unordered, counts as one.
    Set,
    /// `AS_SEQUENCE`: the last AS passed comes first.
    Sequence,
}

/// A run of AS numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// How to read the numbers.
    pub kind: SegmentKind,
    /// One to 255 numbers.
    pub asns: Vec<Asn>,
}

/// The autonomous systems that a route passed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsPath {
    segments: Vec<Segment>,
}

const SET: u8 = 1;
const SEQUENCE: u8 = 2;
const SEGMENT_LIMIT: usize = 255;

impl AsPath {
    /// A path of these segments; empty ones are left out and long ones split.
    pub fn new(segments: impl IntoIterator<Item = Segment>) -> Self {
        let mut path = Self::default();
        for segment in segments {
            for asns in segment.asns.chunks(SEGMENT_LIMIT) {
                path.segments.push(Segment { kind: segment.kind, asns: asns.to_vec() });
            }
        }
        path
    }

    /// A path of one sequence.
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> Self {
        Self::new([Segment { kind: SegmentKind::Sequence, asns: asns.into_iter().collect() }])
    }

    /// The segments, the nearest AS first.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the route never left its AS.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The length that route selection compares: a set counts as one (RFC 4271 section 9.1.2.2 a).
    pub fn path_length(&self) -> usize {
        self.segments.iter().fold(0, |length: usize, segment| length.saturating_add(segment.path_length()))
    }

    /// Whether the AS is anywhere in the path.
    pub fn contains(&self, asn: Asn) -> bool {
        self.segments.iter().any(|segment| segment.asns.contains(&asn))
    }

    /// The AS that the route was received from, as MED comparison wants it (RFC 4271 section 9.1.2.2 c).
    pub fn neighbor_as(&self) -> Option<Asn> {
        let first = self.segments.first()?;
        (first.kind == SegmentKind::Sequence).then(|| first.asns.first().copied())?
    }

    /// The AS that the route is from, if the path ends in a sequence.
    pub fn origin_as(&self) -> Option<Asn> {
        let last = self.segments.last()?;
        (last.kind == SegmentKind::Sequence).then(|| last.asns.last().copied())?
    }

    /// The path after passing one more AS.
    #[must_use]
    pub fn prepended(&self, asn: Asn) -> Self {
        let mut path = self.clone();
        match path.segments.first_mut() {
            Some(first) if first.kind == SegmentKind::Sequence && first.asns.len() < SEGMENT_LIMIT => {
                first.asns.insert(0, asn);
            }
            _ => path.segments.insert(0, Segment { kind: SegmentKind::Sequence, asns: vec![asn] }),
        }
        path
    }

    /// The first `count` steps of this path followed by all of `tail`, as `AS4_PATH` is merged (RFC 6793 section 4.2.3).
    pub(super) fn merged(&self, tail: &AsPath) -> Self {
        let Some(mut missing) = self.path_length().checked_sub(tail.path_length()) else {
            return self.clone();
        };
        let mut segments: Vec<Segment> = Vec::new();
        for segment in &self.segments {
            if missing == 0 {
                break;
            }
            let taken = match segment.kind {
                SegmentKind::Set => segment.clone(),
                SegmentKind::Sequence => Segment {
                    kind: SegmentKind::Sequence,
                    asns: segment.asns.iter().take(missing).copied().collect(),
                },
            };
            missing = missing.saturating_sub(taken.path_length());
            segments.push(taken);
        }
        for segment in &tail.segments {
            match segments.last_mut() {
                Some(last) if last.kind == SegmentKind::Sequence && segment.kind == last.kind => {
                    last.asns.extend_from_slice(&segment.asns);
                }
                _ => segments.push(segment.clone()),
            }
        }
        Self::new(segments)
    }

    /// Reads the attribute's value; `None` if it is malformed (RFC 7606 section 7.2, RFC 7607).
    pub(super) fn decode(value: &[u8], width: AsWidth) -> Option<Self> {
        let mut reader = Reader::new(value);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            // Confederation segments are malformed too: we are member of none (RFC 5065 section 5).
            let kind = match reader.u8()? {
                SET => SegmentKind::Set,
                SEQUENCE => SegmentKind::Sequence,
                _ => return None,
            };
            let count = reader.u8()?;
            if count == 0 {
                return None;
            }
            let asns = (0..count)
                .map(|_| match width {
                    AsWidth::Two => reader.u16().map(u32::from),
                    AsWidth::Four => reader.u32(),
                })
                .map(|number| number.and_then(Asn::new))
                .collect::<Option<Vec<_>>>()?;
            segments.push(Segment { kind, asns });
        }
        Some(Self { segments })
    }

    /// Appends the attribute's value; numbers that do not fit become `AS_TRANS`.
    pub(super) fn encode(&self, width: AsWidth, out: &mut Vec<u8>) {
        for segment in &self.segments {
            out.push(match segment.kind {
                SegmentKind::Set => SET,
                SegmentKind::Sequence => SEQUENCE,
            });
            out.push(u8::try_from(segment.asns.len()).unwrap_or(u8::MAX));
            for asn in &segment.asns {
                match width {
                    AsWidth::Two => out.extend_from_slice(&two_octets(*asn).to_be_bytes()),
                    AsWidth::Four => out.extend_from_slice(&asn.number().to_be_bytes()),
                }
            }
        }
    }

    /// Whether two octets cannot express the path.
    pub(super) fn needs_four_octets(&self) -> bool {
        self.segments.iter().flat_map(|segment| &segment.asns).any(|asn| u16::try_from(asn.number()).is_err())
    }
}

/// The number in two octets, `AS_TRANS` if it does not fit.
pub(super) fn two_octets(asn: Asn) -> u16 {
    u16::try_from(asn.number()).or_else(|_| u16::try_from(Asn::TRANS.number())).unwrap_or(u16::MAX)
}

impl Segment {
    fn path_length(&self) -> usize {
        match self.kind {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => self.asns.len(),
        }
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for segment in &self.segments {
            f.write_str(separator)?;
            separator = " ";
            let numbers: Vec<String> = segment.asns.iter().map(Asn::to_string).collect();
            match segment.kind {
                SegmentKind::Set => write!(f, "{{{}}}", numbers.join(","))?,
                SegmentKind::Sequence => f.write_str(&numbers.join(" "))?,
            }
        }
        Ok(())
    }
}
