//! Netlink attributes, written and read.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use crate::conntrack::attributes;

const NESTED: u16 = 0x8000;
/// Octets before an attribute's value.
const HEAD: usize = 4;

/// Messages under construction. Numbers are in network order, as nftables wants them.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) octets: Vec<u8>,
}

impl Writer {
    pub(super) fn value(&mut self, kind: u16, value: &[u8]) {
        // Values are names, keys and userdata of a few hundred octets at most.
        let length = u16::try_from(value.len().saturating_add(HEAD)).unwrap_or(u16::MAX);
        self.octets.extend(length.to_ne_bytes());
        self.octets.extend(kind.to_ne_bytes());
        self.octets.extend(value);
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
    }

    pub(super) fn number(&mut self, kind: u16, number: u32) {
        self.value(kind, &number.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, text: &str) {
        self.value(kind, &[text.as_bytes(), &[0]].concat());
    }

    /// An attribute made of attributes: of less than 64 KiB, which the caller sees to.
    pub(super) fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.octets.len();
        self.octets.extend([0; 2]);
        self.octets.extend((kind | NESTED).to_ne_bytes());
        content(self);
        let length = u16::try_from(self.octets.len().saturating_sub(start)).unwrap_or(u16::MAX);
        self.patch(start, &length.to_ne_bytes());
    }

    /// Overwrites what was written before.
    pub(super) fn patch(&mut self, start: usize, octets: &[u8]) {
        let place = self.octets.get_mut(start..).and_then(|rest| rest.get_mut(..octets.len()));
        if let Some(place) = place {
            place.copy_from_slice(octets);
        }
    }
}

/// The attributes of a message, or of a nest.
pub(super) struct Attributes<'a>(Vec<(u16, &'a [u8], &'a [u8])>);

impl<'a> Attributes<'a> {
    pub(super) fn parse(octets: &'a [u8]) -> Self {
        Self(attributes(octets))
    }

    pub(super) fn value(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|(found, ..)| *found == kind).map(|(_, value, _)| *value)
    }

    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        self.value(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn long(&self, kind: u16) -> Option<u64> {
        self.value(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(super) fn text(&self, kind: u16) -> Option<&'a str> {
        let value = self.value(kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    pub(super) fn nest(&self, kind: u16) -> Option<Self> {
        self.value(kind).map(Self::parse)
    }

    /// The attributes of one kind, each a nest.
    pub(super) fn nests(&self, kind: u16) -> impl Iterator<Item = Self> {
        self.0.iter().filter(move |(found, ..)| *found == kind).map(|(_, value, _)| Self::parse(value))
    }
}
