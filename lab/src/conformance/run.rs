//! Goes through the steps of a case.

use super::case::{Case, Expect, Fate, ProbeSpec, Step, Verdict};
use super::pattern::Endpoint;
use super::report::{Failure, Outcome};
use super::startup::Startup;
use super::table::{Member, Row, narrowed, own_rows, rows, verdict};
use super::world::{World, families};
use crate::clock;
use crate::lab::PROBE_LIMIT;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long a table may take to hold.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a change is given before the first look: a table that held before it proves nothing.
const SETTLE: Duration = Duration::from_millis(150);
/// How long after it held a table without a denial is looked at again. One with a denial needs no second look: the
/// probe that gets no answer takes longer than this.
const CONFIRM: Duration = Duration::from_millis(700);
/// Failures that are shown of one table.
const SHOWN: usize = 20;

/// Runs a case.
pub(super) async fn run(world: &mut World<'_>, case: &Case) -> Outcome {
    let mut failures = Vec::new();
    if let Err(error) = world.begin(case).await {
        failures.push(Failure::of_step("begin", &error));
        return Outcome::Failed { failures };
    }
    match preflight(world, case).await {
        Ok(mut closed) => failures.append(&mut closed),
        Err(error) => failures.push(Failure::of_step("before any policy", &error)),
    }
    if failures.is_empty() {
        for (number, step) in case.steps.iter().enumerate() {
            let name = step.name.clone().unwrap_or_else(|| format!("{}", number + 1));
            match take(world, case, step, &name).await {
                Ok(mut failed) => failures.append(&mut failed),
                Err(error) => failures.push(Failure::of_step(&name, &error)),
            }
            // Later steps build on this one.
            if !failures.is_empty() {
                break;
            }
        }
    }
    if failures.is_empty() { Outcome::Passed } else { Outcome::Failed { failures } }
}

/// Probes every row of the first cluster, which must be open: a denial proves nothing about a path that never worked.
async fn preflight(world: &mut World<'_>, case: &Case) -> anyhow::Result<Vec<Failure>> {
    let mut all = BTreeSet::new();
    for step in case.steps.iter().filter(|step| step.expect.is_some()) {
        let probe = narrowed(&case.probe, step.probe.as_ref());
        world.serve_on_nodes(&probe)?;
        let rows: Vec<(Row, Verdict)> = rows(&world.members(&probe), &probe, &families(case))
            .into_iter()
            .filter(|row| all.insert(row.clone()))
            .map(|row| (row, Verdict::Allow))
            .collect();
        let failures = until_it_holds(world, "before any policy", &rows).await?;
        if !failures.is_empty() {
            return Ok(shown(failures));
        }
    }
    Ok(Vec::new())
}

async fn take(world: &mut World<'_>, case: &Case, step: &Step, name: &str) -> anyhow::Result<Vec<Failure>> {
    let probe = narrowed(&case.probe, step.probe.as_ref());
    world.serve_on_nodes(&probe)?;
    let startup = step
        .expect
        .as_ref()
        .filter(|expect| expect.from_start)
        .map(|expect| Startup::begin(world, name, expect, startup_rows(world, case, step, &probe)));
    world.change(step, case.needs.iter().any(|need| need == "raw-objects")).await?;
    let mut failures = Vec::new();
    if let Some(expect) = &step.expect {
        clock::settle(SETTLE).await;
        failures = expectations(world, case, expect, &probe, name).await?;
    }
    if let Some(startup) = startup {
        failures.append(&mut startup.end());
    }
    if failures.is_empty() {
        failures = open(world, step, name).await?;
    }
    Ok(shown(failures))
}

async fn expectations(
    world: &mut World<'_>,
    case: &Case,
    expect: &Expect,
    probe: &ProbeSpec,
    step: &str,
) -> anyhow::Result<Vec<Failure>> {
    let members = world.members(probe);
    let judged = |row: Row| {
        let verdict = verdict(expect, &row);
        (row, verdict)
    };
    let mut table: Vec<(Row, Verdict)> =
        rows(&members, probe, &families(case)).into_iter().map(judged).collect();
    if let Some(own) = expect.own {
        table.extend(own_rows(&members, probe, &families(case)).into_iter().map(|row| (row, own)));
    }
    let mut failures = until_it_holds(world, step, &table).await?;
    if failures.is_empty() && table.iter().all(|(_, verdict)| *verdict != Verdict::Deny) {
        // A policy that closes too much may only now be in force.
        clock::settle(CONFIRM).await;
        failures = world.check(step, &table).await?;
    }
    if failures.is_empty() {
        failures = connections(world, expect, step).await;
    }
    Ok(failures)
}

/// Probes the whole table until it holds or the time is up.
async fn until_it_holds(
    world: &World<'_>,
    step: &str,
    table: &[(Row, Verdict)],
) -> anyhow::Result<Vec<Failure>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let failures = world.check(step, table).await?;
        if failures.is_empty() || Instant::now() >= end {
            return Ok(failures);
        }
    }
}

/// Looks at the connections that are kept.
async fn connections(world: &mut World<'_>, expect: &Expect, step: &str) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (id, fate) in &expect.open {
        let Some((definition, kept)) = world.kept.get_mut(id) else {
            let error = anyhow::anyhow!("there is no open connection {id}");
            failures.push(Failure::of_step(step, &error));
            continue;
        };
        let end = Instant::now() + PATIENCE;
        let holds = |alive: bool| match fate {
            Fate::Alive => alive,
            Fate::Ended => !alive,
            Fate::Any => true,
        };
        let mut alive = kept.is_alive(PROBE_LIMIT).await;
        while !holds(alive) && Instant::now() < end {
            alive = kept.is_alive(PROBE_LIMIT).await;
        }
        if !holds(alive) {
            failures.push(Failure {
                step: step.to_owned(),
                from: definition.from.clone(),
                to: definition.to.clone(),
                port: format!("{}, open since earlier as {id}", definition.port),
                expected: if *fate == Fate::Alive { "alive" } else { "ended" }.into(),
                seen: if alive { "data passing" } else { "no data passing" }.into(),
            });
        }
    }
    failures
}

/// Opens the connections that the step asks for.
async fn open(world: &mut World<'_>, step: &Step, name: &str) -> anyhow::Result<Vec<Failure>> {
    let mut failures = Vec::new();
    for (id, definition) in &step.open {
        let (from, to) = (definition.from.parse()?, definition.to.parse()?);
        match world.lab.keep(&from, &to, definition.port).await? {
            Some(kept) => {
                world.kept.insert(id.clone(), (definition.clone(), kept));
            }
            None => failures.push(Failure {
                step: name.to_owned(),
                from: definition.from.clone(),
                to: definition.to.clone(),
                port: definition.port.to_string(),
                expected: "to open and be kept".into(),
                seen: "closed".into(),
            }),
        }
    }
    Ok(failures)
}

/// The rows that touch pods which the step adds, without those to services: who answers those is another row.
fn startup_rows(world: &World<'_>, case: &Case, step: &Step, probe: &ProbeSpec) -> Vec<Row> {
    let added: BTreeSet<Endpoint> = step.pods.iter().map(|pod| Endpoint::Pod(pod.name.0.clone())).collect();
    let stays = |member: &Member| {
        !added.contains(&member.endpoint) && !matches!(member.endpoint, Endpoint::Service(_))
    };
    let mut members: Vec<Member> = world.members(probe).into_iter().filter(stays).collect();
    members.extend(step.pods.iter().map(|pod| Member {
        endpoint: Endpoint::Pod(pod.name.0.clone()),
        is_pod: !pod.host,
        ports: pod.ports.iter().chain(&pod.sidecar_ports).map(|named| named.port).collect(),
        families: families(case),
        backends: BTreeSet::new(),
    }));
    let touches = |row: &Row| added.contains(&row.from) || added.contains(&row.to);
    rows(&members, probe, &families(case)).into_iter().filter(touches).collect()
}

fn shown(mut failures: Vec<Failure>) -> Vec<Failure> {
    let more = failures.len().saturating_sub(SHOWN);
    failures.truncate(SHOWN);
    if more > 0 {
        let error = anyhow::anyhow!("{more} more rows that are not as they must be");
        failures.extend(
            failures.last().map(|last| last.step.clone()).map(|step| Failure::of_step(&step, &error)),
        );
    }
    failures
}
