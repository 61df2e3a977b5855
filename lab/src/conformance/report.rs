//! What came of the cases.

use serde::Serialize;
use std::fmt;

/// The outcome of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The cases, in the order in which they ran.
    pub cases: Vec<CaseReport>,
    /// How long the run took, the lab's start included.
    pub seconds: f64,
}

/// What came of a case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a case ended.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was as expected.
    Passed,
    /// Something was not.
    Failed {
        /// What.
        failures: Vec<Failure>,
    },
    /// The lab cannot run it.
    Skipped {
        /// Why not.
        reason: String,
    },
}

/// An expectation that did not hold, or a step that could not be taken.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The step's name, or number.
    pub step: String,
    /// Who probed; empty when it is no matter of a probe.
    pub from: String,
    /// Who was probed.
    pub to: String,
    /// On which port.
    pub port: String,
    /// What was expected.
    pub expected: String,
    /// What was seen.
    pub seen: String,
}

impl Failure {
    /// A step that could not be taken.
    pub(super) fn of_step(step: &str, error: &anyhow::Error) -> Self {
        Self {
            step: step.to_owned(),
            from: String::new(),
            to: String::new(),
            port: String::new(),
            expected: "the step to be taken".into(),
            seen: format!("{error:#}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step `{}`: ", self.step)?;
        if !self.from.is_empty() {
            write!(f, "{} to {} port {}: ", self.from, self.to, self.port)?;
        }
        write!(f, "expected {}, seen {}", self.expected, self.seen)
    }
}

/// A case's lines in the account.
pub(super) struct Line<'a>(pub(super) &'a CaseReport);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CaseReport { name, seconds, outcome } = self.0;
        match outcome {
            Outcome::Passed => write!(f, "pass  {name} ({seconds:.1} s)"),
            Outcome::Skipped { reason } => write!(f, "skip  {name}: {reason}"),
            Outcome::Failed { failures } => {
                write!(f, "FAIL  {name} ({seconds:.1} s)")?;
                failures.iter().try_for_each(|failure| write!(f, "\n      {failure}"))
            }
        }
    }
}

impl Report {
    /// The number of cases that passed, failed and were skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count =
            |wanted: fn(&Outcome) -> bool| self.cases.iter().filter(|case| wanted(&case.outcome)).count();
        (
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            count(|outcome| matches!(outcome, Outcome::Skipped { .. })),
        )
    }

    /// The report for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let (passed, failed, skipped) = self.counts();
        serde_json::json!({
            "passed": passed,
            "failed": failed,
            "skipped": skipped,
            "seconds": self.seconds,
            "cases": self.cases,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed, skipped) = self.counts();
        write!(f, "in {:.1} s\n{passed} passed, {failed} failed, {skipped} skipped", self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::{CaseReport, Failure, Line, Outcome, Report};

    #[test]
    fn the_last_line_counts_and_a_failure_names_the_row() {
        let failure = Failure {
            step: "deny".into(),
            from: "x/a".into(),
            to: "x/b".into(),
            port: "80/TCP".into(),
            expected: "deny".into(),
            seen: "open".into(),
        };
        let case = |name: &str, outcome| CaseReport { name: name.into(), seconds: 1.0, outcome };
        let failed = case("c", Outcome::Failed { failures: vec![failure] });
        let line = Line(&failed).to_string();
        assert!(line.ends_with("step `deny`: x/a to x/b port 80/TCP: expected deny, seen open"), "{line}");
        let skipped = case("d", Outcome::Skipped { reason: "needs service".into() });
        let report = Report { cases: vec![case("b", Outcome::Passed), failed, skipped], seconds: 2.0 };
        assert_eq!(report.to_string().lines().last(), Some("1 passed, 1 failed, 1 skipped"));
        assert_eq!(report.to_json()["cases"][1]["failures"][0]["port"], "80/TCP");
    }
}
