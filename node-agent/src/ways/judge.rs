//! What the fate of probes says of a way. Pure.

/// What became of the probes on a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The node answers at its own address, outside of tunnels.
    pub(super) answers: bool,
    /// A short packet without a checksum comes through and back.
    pub(super) short: bool,
    /// One of full size that must not be cut does.
    pub(super) full: bool,
    /// The most octets of one that does, when not all do.
    pub(super) most: Option<u32>,
    /// A connection of TCP opens, and data in full segments comes both ways.
    pub(super) stream: Stream,
}

/// What became of a connection of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// All came.
    Whole,
    /// It did not.
    Broken,
    /// It did only once the kernel computed the checksums.
    WithoutOffload,
    /// It was not tried, as packets do not pass, or was refused.
    Untried,
}

/// How a way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Well,
    /// It is since checksums are computed by the kernel.
    Corrected,
    /// The node answers nowhere: it is away, its agent is or does not test, or a firewall is in front of it. Others see to that.
    Silent,
    Fault(Fault),
}

/// What does not pass on a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Nothing does, although the node answers outside of the tunnel.
    Filtered,
    /// Nothing that is longer.
    Long { most: u32 },
    /// No connection of TCP, although packets of full size do.
    Tcp,
}

/// What is to be said of a way.
pub(super) fn judge(seen: &Seen) -> Verdict {
    match *seen {
        Seen { short: false, answers: true, .. } => Verdict::Fault(Fault::Filtered),
        Seen { full: false, most: Some(most), .. } => Verdict::Fault(Fault::Long { most }),
        // It may have been there when the first packet passed, and is no more.
        Seen { short: false, .. } | Seen { full: false, .. } => Verdict::Silent,
        Seen { stream: Stream::Whole | Stream::Untried, .. } => Verdict::Well,
        Seen { stream: Stream::WithoutOffload, .. } => Verdict::Corrected,
        Seen { stream: Stream::Broken, .. } => Verdict::Fault(Fault::Tcp),
    }
}

/// Finds the longest that passes, by halves: what is to be asked next, or the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Search {
    /// This passes.
    passes: u32,
    /// This does not.
    fails: u32,
}

impl Search {
    /// Of packets of some octets, of which the shorter passes and the longer does not.
    pub(super) fn between(passes: u32, fails: u32) -> Self {
        Self { passes, fails }
    }

    /// How long the next one is to be; `None` when it is found.
    pub(super) fn next(self) -> Option<u32> {
        (self.passes + 1 < self.fails).then(|| self.passes + (self.fails - self.passes) / 2)
    }

    /// Takes what became of that.
    pub(super) fn note(&mut self, octets: u32, has_passed: bool) {
        if has_passed {
            self.passes = octets;
        } else {
            self.fails = octets;
        }
    }

    /// The longest that passes, as far as it is known.
    pub(super) fn most(self) -> u32 {
        self.passes
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, Search, Seen, Stream, Verdict, judge};

    #[test]
    fn each_fate_of_the_probes_has_its_words() {
        let well = Seen { answers: true, short: true, full: true, most: None, stream: Stream::Whole };
        let long = Verdict::Fault(Fault::Long { most: 1300 });
        for (seen, expected) in [
            (well, Verdict::Well),
            (Seen { answers: false, ..well }, Verdict::Well),
            (
                Seen { short: false, full: false, stream: Stream::Untried, ..well },
                Verdict::Fault(Fault::Filtered),
            ),
            (
                Seen { answers: false, short: false, full: false, stream: Stream::Untried, ..well },
                Verdict::Silent,
            ),
            (Seen { full: false, most: Some(1300), stream: Stream::Untried, ..well }, long),
            (Seen { full: false, most: None, stream: Stream::Untried, ..well }, Verdict::Silent),
            (Seen { stream: Stream::WithoutOffload, ..well }, Verdict::Corrected),
            (Seen { stream: Stream::Broken, ..well }, Verdict::Fault(Fault::Tcp)),
        ] {
            assert_eq!(judge(&seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn the_longest_that_passes_is_found_whatever_it_is_in_few_questions() {
        for carried in 576..1500 {
            let mut search = Search::between(576, 1500);
            let mut asked = 0;
            while let Some(octets) = search.next() {
                assert!(octets > 576 && octets < 1500);
                search.note(octets, octets <= carried);
                asked += 1;
            }
            assert_eq!(search.most(), carried);
            assert!(asked <= 10, "{asked}");
        }
    }
}
