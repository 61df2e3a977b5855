//! Regular expressions on AS paths, as routers write them.

use regex::Regex;

use crate::wire::attr::AsPath;

/// An expression, compiled once. It is matched against the path as it is shown: the numbers, the nearest first, with a
/// space between, sets in braces with commas: `64501 64502 {64503,64504}`. `_` stands for where a number begins or
/// ends: the begin or the end of the path, a space, a comma or a brace.
#[derive(Clone, Debug)]
pub struct PathRegex {
    written: String,
    compiled: Regex,
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPathRegex {
    /// It cannot be read.
    #[error("`{written}`, column {column}: {reason}")]
    Syntax {
        /// As it is written.
        written: String,
        /// Where, counted in characters from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// It would take too much memory.
    #[error("`{0}`: is too large; expected less than 256 KiB when it is compiled")]
    TooLarge(String),
}

/// What `_` stands for.
const BOUNDARY: &str = "(?:^|$|[ ,{}])";
/// Octets that a compiled expression may take.
const LARGEST: usize = 256 << 10;

impl PathRegex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn new(written: &str) -> Result<Self, InvalidPathRegex> {
        // As it is written, `_` being like any other character, so that places are those that the user sees.
        let (place, reason) = match regex_syntax::parse(written) {
            Ok(_) => {
                let compiled = regex::RegexBuilder::new(&with_boundaries(written))
                    .size_limit(LARGEST)
                    .dfa_size_limit(LARGEST)
                    .build();
                let written = written.to_owned();
                return match compiled {
                    Ok(compiled) => Ok(Self { written, compiled }),
                    Err(regex::Error::CompiledTooBig(_)) => Err(InvalidPathRegex::TooLarge(written)),
                    Err(_) => {
                        let reason = "a `_` is in a place where it cannot be a boundary".to_owned();
                        Err(InvalidPathRegex::Syntax { written, column: 1, reason })
                    }
                };
            }
            Err(regex_syntax::Error::Parse(error)) => (error.span().start, error.kind().to_string()),
            Err(regex_syntax::Error::Translate(error)) => (error.span().start, error.kind().to_string()),
            Err(other) => {
                let (column, reason) = (1, other.to_string());
                return Err(InvalidPathRegex::Syntax { written: written.to_owned(), column, reason });
            }
        };
        Err(InvalidPathRegex::Syntax { written: written.to_owned(), column: place.column, reason })
    }

    /// Whether a path has a part that fits, or all of it where the expression says so.
    pub fn is_match(&self, path: &AsPath) -> bool {
        self.compiled.is_match(&path.to_string())
    }
}

impl PartialEq for PathRegex {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for PathRegex {}

/// The expression with each `_` written out, but those in brackets and behind a backslash.
fn with_boundaries(written: &str) -> String {
    let (mut out, mut brackets, mut is_escaped) = (String::new(), 0_u32, false);
    // A `]` is a plain character there.
    let mut begins_brackets = false;
    for character in written.chars() {
        match character {
            '_' if !is_escaped && brackets == 0 => out.push_str(BOUNDARY),
            other => out.push(other),
        }
        match character {
            '[' if !is_escaped => brackets += 1,
            ']' if !is_escaped && !begins_brackets => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        begins_brackets = !is_escaped && (character == '[' || begins_brackets && character == '^');
        is_escaped = character == '\\' && !is_escaped;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Asn;
    use crate::wire::attr::{Segment, SegmentKind};

    fn path(sequence: &[u32], set: &[u32]) -> AsPath {
        let segment = |kind, numbers: &[u32]| Segment {
            kind,
            asns: numbers.iter().map(|number| Asn::new(*number).unwrap()).collect(),
        };
        AsPath::new([segment(SegmentKind::Sequence, sequence), segment(SegmentKind::Set, set)])
    }

    #[test]
    fn an_underscore_is_where_a_number_begins_or_ends() {
        let cases = [
            ("^64501_", &[64501, 64502][..], &[][..], true),
            ("^64501_", &[64501], &[], true),
            ("^6450_", &[64501], &[], false),
            ("_64502$", &[64501, 64502], &[], true),
            ("_64502$", &[64502], &[], true),
            ("_4502$", &[64502], &[], false),
            ("_64502_", &[64501, 64502, 64503], &[], true),
            ("_64501_64502_", &[64501, 64502], &[], true),
            ("_64503_", &[64501], &[64503, 64504], true),
            ("_64504_", &[64501], &[64503, 64504], true),
            ("^64501 \\{64503,64504\\}$", &[64501], &[64503, 64504], true),
            ("^$", &[], &[], true),
            ("^$", &[64501], &[], false),
            ("^64501( 64501)*$", &[64501, 64501, 64501], &[], true),
            ("^(64501|64502)_[0-9]+$", &[64502, 7], &[], true),
            ("_645[0-9][0-9]_", &[1, 64599], &[], true),
            ("^64501[_ ]", &[64501, 1], &[], true),
            ("^64501[]_]", &[64501, 1], &[], false),
            ("^64501[^]_]1", &[64501, 1], &[], true),
        ];
        for (written, sequence, set, fits) in cases {
            let path = path(sequence, set);
            assert_eq!(PathRegex::new(written).unwrap().is_match(&path), fits, "{written} on {path}");
        }
    }

    #[test]
    fn an_expression_that_cannot_be_is_named_with_the_place() {
        for (written, expected) in [
            ("^(64501", "`^(64501`, column 2: unclosed group"),
            ("_64501_[", "`_64501_[`, column 8: unclosed character class"),
            ("*", "`*`, column 1: repetition operator missing expression"),
            ("64501{4294967296}", "`64501{4294967296}`, column 7: decimal literal invalid"),
            ("(?<first_as>64501)_", "`(?<first_as>64501)_`, column 1: a `_` is in a place"),
            ("(?:[0-9]{1000}){1000}", "`(?:[0-9]{1000}){1000}`: is too large"),
        ] {
            let error = PathRegex::new(written).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
