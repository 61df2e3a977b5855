//! `margayctl policy test`: expectations, written in YAML, against manifests or a cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::{
    Answer, ERROR, From,
    expectation::{Expect, Expectation, File},
    explain::{Explanation, Word, explain},
    junit::{self, Case, Outcome, Suite},
    manifests,
    party::{Party, PortChoice},
    source::Source,
    tell,
};
use crate::output::Output;

/// What is expected of all objects, unwritten.
const READABLE: &str = "the objects can be read";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Files with expectations.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    // No doc comment: the help text would show its backticks.
    #[arg(long, value_name = "OUT.xml", help = "Write the results as JUnit XML too")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    objects: From,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> anyhow::Result<Answer> {
    let mut files = Vec::new();
    for path in &arguments.files {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        files.push((path, File::read(path, &text)?));
    }
    let mut cluster = None;
    let mut suites = Vec::new();
    for (path, file) in &files {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut paths: Vec<PathBuf> = file.manifests.iter().map(|path| folder.join(path)).collect();
        paths.extend(arguments.objects.manifests.iter().cloned());
        let networks = [file.pod_cidrs.as_slice(), &arguments.objects.pod_cidr].concat();
        let name = file.name.clone().unwrap_or_else(|| path.display().to_string());
        let cases = if paths.is_empty() {
            // One look at the cluster serves all files.
            let mut source = match cluster.take() {
                Some(source) => source,
                None => arguments.objects.load()?,
            };
            source.pod_networks.clone_from(&networks);
            let cases = check(&source, file);
            cluster = Some(source);
            cases
        } else {
            match manifests::load(&paths) {
                Ok(mut source) => {
                    source.pod_networks = networks;
                    tell(source.passed_over());
                    check(&source, file)
                }
                Err(error) => {
                    vec![Case { name: READABLE.to_owned(), outcome: Outcome::Error(format!("{error:#}")) }]
                }
            }
        };
        suites.push(Suite { name, cases });
    }
    if let Some(path) = &arguments.junit {
        let xml = junit::report(&suites).context("write the report")?;
        fs::write(path, xml).with_context(|| format!("write {}", path.display()))?;
    }
    let text = output.structured(&as_json(&suites)).unwrap_or_else(|| text(&suites));
    let has = |fits: fn(&Outcome) -> bool| {
        suites.iter().flat_map(|suite| &suite.cases).any(|case| fits(&case.outcome))
    };
    let status = match () {
        () if has(|outcome| matches!(outcome, Outcome::Error(_))) => ExitCode::from(ERROR),
        () if has(|outcome| matches!(outcome, Outcome::Failed { .. })) => ExitCode::FAILURE,
        () => ExitCode::SUCCESS,
    };
    Ok(Answer { text, status })
}

fn check(source: &Source, file: &File) -> Vec<Case> {
    let mut cases = Vec::new();
    // Part of a policy that cannot be read is not enforced: whoever wrote it meant something.
    for problem in &source.problems {
        let outcome = Outcome::Failed { short: problem.clone(), text: problem.clone() };
        cases.push(Case { name: READABLE.to_owned(), outcome });
    }
    for case in &file.cases {
        let plain = || format!("{} to {} on {}: {}", case.from, case.to, case.port, case.expect);
        let outcome = judge(source, case).unwrap_or_else(|error| Outcome::Error(format!("{error:#}")));
        cases.push(Case { name: case.name.clone().unwrap_or_else(plain), outcome });
    }
    cases
}

fn judge(source: &Source, case: &Expectation) -> anyhow::Result<Outcome> {
    let port: PortChoice =
        case.port.to_string().parse().map_err(|reason| anyhow::anyhow!("port: {reason}"))?;
    let because = case.because.as_deref().map(because).transpose()?;
    let from = Party::find(source, &case.from).context("from")?;
    let to = Party::find(source, &case.to).context("to")?;
    let explanation = explain(source, from, to, &port)?;
    let met = explanation.allowed == (case.expect == Expect::Allow);
    if explanation.uncertain && met {
        // What may be otherwise in the cluster must not pass.
        let notes = explanation.notes.join("; ");
        bail!("whether it is denied depends on addresses that are not known: {notes}");
    }
    let expected = match (met, because) {
        (false, _) => case.expect.to_string(),
        (true, None) => return Ok(Outcome::Passed),
        (true, Some(policy)) if is_reason(&explanation, policy) => return Ok(Outcome::Passed),
        (true, Some(policy)) => format!("{} because of {policy}", case.expect),
    };
    let text = explanation.text();
    let verdict = if explanation.allowed { "allowed" } else { "denied" };
    Ok(Outcome::Failed { short: format!("expected {expected}, but it is {verdict}"), text })
}

/// `NetworkPolicy NAMESPACE/NAME` or `ClusterNetworkPolicy NAME`.
fn because(text: &str) -> anyhow::Result<&str> {
    let named = match text.split_once(' ') {
        Some(("NetworkPolicy", name)) => {
            name.split_once('/').is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        }
        Some(("ClusterNetworkPolicy", name)) => !name.is_empty() && !name.contains('/'),
        _ => false,
    };
    if !named {
        bail!("because: `{text}` is neither NetworkPolicy NAMESPACE/NAME nor ClusterNetworkPolicy NAME");
    }
    Ok(text)
}

/// Whether a policy opens the way, where it is open, or closes or isolates a side that is closed.
fn is_reason(explanation: &Explanation, policy: &str) -> bool {
    explanation.verdicts.iter().any(|verdict| {
        [&verdict.egress, &verdict.ingress].into_iter().any(|side| {
            let mut of_side = match side.verdict {
                Word::Denied => side.isolated_by.iter().chain(&side.denied_by),
                _ => side.opened_by.iter().chain(&None),
            };
            // What one side opens is no reason for a denial by the other.
            (side.verdict == Word::Denied || explanation.allowed) && of_side.any(|name| name == policy)
        })
    })
}

fn text(suites: &[Suite]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let (mut passed, mut failed, mut errors) = (0, 0, 0);
    for suite in suites {
        lines.push(suite.name.clone());
        for case in &suite.cases {
            match &case.outcome {
                Outcome::Passed => {
                    passed += 1;
                    lines.push(format!("  ok      {}", case.name));
                }
                Outcome::Failed { short, text: why } => {
                    failed += 1;
                    lines.push(format!("  FAILED  {}\n          {short}", case.name));
                    for line in why.lines().filter(|line| line != short) {
                        lines.push(format!("            {line}"));
                    }
                }
                Outcome::Error(reason) => {
                    errors += 1;
                    lines.push(format!("  ERROR   {}\n          {reason}", case.name));
                }
            }
        }
    }
    lines.push(format!("{passed} passed, {failed} failed, {errors} could not be judged\n"));
    lines.join("\n")
}

fn as_json(suites: &[Suite]) -> serde_json::Value {
    let case = |case: &Case| match &case.outcome {
        Outcome::Passed => json!({"name": case.name, "outcome": "passed"}),
        Outcome::Failed { short, text } => {
            json!({"name": case.name, "outcome": "failed", "message": short, "explanation": text})
        }
        Outcome::Error(reason) => json!({"name": case.name, "outcome": "error", "message": reason}),
    };
    let suite = |suite: &Suite| json!({"name": suite.name, "cases": suite.cases.iter().map(case).collect::<Vec<_>>()});
    suites.iter().map(suite).collect()
}
