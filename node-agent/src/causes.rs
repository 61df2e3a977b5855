//! Errors with what they come from.

use std::error::Error;

use anyhow::Chain;

/// What an error says, and after it what its causes say that is not in it: of a connection that fails the client of the API server says
/// just that, and its causes why.
pub(crate) fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in Chain::new(error).skip(1) {
        let says = cause.to_string();
        if !text.contains(&says) {
            text = format!("{text}: {says}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::in_full;

    #[derive(Debug, thiserror::Error)]
    #[error("{says}")]
    struct Failure {
        says: &'static str,
        source: Option<Box<Failure>>,
    }

    fn failure(says: &'static str, source: Option<Failure>) -> Failure {
        Failure { says, source: source.map(Box::new) }
    }

    #[test]
    fn each_cause_is_told_once() {
        let cause = failure("connect", Some(failure("certificate expired", None)));
        assert_eq!(in_full(&failure("list: connect", Some(cause))), "list: connect: certificate expired");
        assert_eq!(in_full(&failure("list", None)), "list");
    }
}
