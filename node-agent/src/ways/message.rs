//! What nodes say to each other to test a way: as little as there is.
//!
//! A datagram of a prober is the word, the number of the question, and zeros up to the length that is to be tested. Its answer is the word and
//! that number: another word, so that no answer is taken for a question. On a connection the prober sends the word and then zeros, [`STREAM_OCTETS`] in all, and the listener as many back.

/// How a question begins, and a connection.
pub(super) const WORD: [u8; 8] = *b"MARGAY01";
/// How an answer begins.
const ANSWER: [u8; 8] = *b"MARGAYA1";
/// Octets of an answer, and the least of a question: the word and a number.
pub(super) const SHORTEST: usize = 12;
/// Octets that a connection carries each way: some full segments.
pub(super) const STREAM_OCTETS: usize = 8192;

/// A question of this number.
pub(super) fn question(number: u32, octets: usize) -> Vec<u8> {
    let mut message = of(WORD, number).to_vec();
    message.resize(octets.max(SHORTEST), 0);
    message
}

/// The answer to it.
pub(super) fn answer(number: u32) -> [u8; SHORTEST] {
    of(ANSWER, number)
}

/// The number of a question; `None` when it is none.
pub(super) fn asked(message: &[u8]) -> Option<u32> {
    number(WORD, message)
}

/// The number of the question that is answered; `None` when it is no answer.
pub(super) fn answered(message: &[u8]) -> Option<u32> {
    number(ANSWER, message)
}

fn of(word: [u8; 8], number: u32) -> [u8; SHORTEST] {
    let mut message = [0; SHORTEST];
    let (begin, rest) = message.split_at_mut(word.len());
    begin.copy_from_slice(&word);
    rest.copy_from_slice(&number.to_be_bytes());
    message
}

fn number(word: [u8; 8], message: &[u8]) -> Option<u32> {
    let (number, _) = message.strip_prefix(&word)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::{SHORTEST, answer, answered, asked, question};

    #[test]
    fn an_answer_has_the_number_of_its_question_and_is_never_longer() {
        for (octets, expected) in [(0, SHORTEST), (SHORTEST, SHORTEST), (1472, 1472)] {
            let message = question(0x0102_0304, octets);
            assert_eq!((message.len(), asked(&message)), (expected, Some(0x0102_0304)));
            assert_eq!(answered(&message), None);
            assert!(answer(7).len() <= message.len());
        }
        // Or two listeners would answer each other for ever.
        assert_eq!((answered(&answer(7)), asked(&answer(7))), (Some(7), None));
        for stranger in [&b""[..], b"MARGAY01", b"MARGAY01123", b"margay010000", b"GET / HTTP/1.0"] {
            assert_eq!((asked(stranger), answered(stranger)), (None, None), "{stranger:?}");
        }
    }
}
