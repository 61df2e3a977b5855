//! What nodes say to each other to test a way: as little as there is.
//!
//! A datagram of a prober is the word, the number of the question, and zeros up to the length that is to be tested. Its answer is the word and
//! that number. On a connection the prober sends the word and then zeros, [`STREAM_OCTETS`] in all, and the listener as many back.

/// How every message begins.
pub(super) const WORD: [u8; 8] = *b"MARGAY01";
/// Octets of an answer, and the least of a question: the word and a number.
pub(super) const SHORTEST: usize = 12;
/// Octets that a connection carries each way: some full segments.
pub(super) const STREAM_OCTETS: usize = 8192;

/// A question of this number.
pub(super) fn question(number: u32, octets: usize) -> Vec<u8> {
    let mut message = answer(number).to_vec();
    message.resize(octets.max(SHORTEST), 0);
    message
}

/// The answer to it.
pub(super) fn answer(number: u32) -> [u8; SHORTEST] {
    let mut message = [0; SHORTEST];
    let (word, rest) = message.split_at_mut(WORD.len());
    word.copy_from_slice(&WORD);
    rest.copy_from_slice(&number.to_be_bytes());
    message
}

/// The number of a question or of an answer; `None` when it is neither.
pub(super) fn number_of(message: &[u8]) -> Option<u32> {
    let (number, _) = message.strip_prefix(&WORD)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::{SHORTEST, answer, number_of, question};

    #[test]
    fn an_answer_has_the_number_of_its_question_and_is_never_longer() {
        for (octets, expected) in [(0, SHORTEST), (SHORTEST, SHORTEST), (1472, 1472)] {
            let asked = question(0x0102_0304, octets);
            assert_eq!((asked.len(), number_of(&asked)), (expected, Some(0x0102_0304)));
            assert!(answer(7).len() <= asked.len());
        }
        assert_eq!(number_of(&answer(7)), Some(7));
        for stranger in [&b""[..], b"MARGAY01", b"MARGAY01123", b"margay010000", b"GET / HTTP/1.0"] {
            assert_eq!(number_of(stranger), None, "{stranger:?}");
        }
    }
}
