//! Runs many seeds and says what came of them.
//!
//! ```text
//! cargo run --release -p countersign-simulation -- --seeds 10000
//! cargo run -p countersign-simulation -- --tell 4711
//! ```

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use countersign_simulation::{Counts, Outcome, run, tell};

/// What is asked for.
struct Asked {
    from: u64,
    seeds: u64,
    /// The one whose story is told.
    told: Option<u64>,
}

fn main() -> ExitCode {
    match asked().and_then(|asked| report(&asked)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _unheard = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(64)
        }
    }
}

fn asked() -> Result<Asked, Box<dyn Error>> {
    let mut asked = Asked {
        from: 0,
        seeds: 1000,
        told: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or("a number is missing")?.parse()?;
        match argument.as_str() {
            "--seeds" => asked.seeds = value,
            "--from" => asked.from = value,
            "--tell" => asked.told = Some(value),
            _ => {
                return Err(
                    "usage: countersign-simulation [--from SEED] [--seeds COUNT] [--tell SEED]".into(),
                );
            }
        }
    }
    Ok(asked)
}

/// Runs the seeds, half of them in a second thread. Whether nothing was found.
fn report(asked: &Asked) -> Result<bool, Box<dyn Error>> {
    if let Some(seed) = asked.told {
        return story(seed, &mut std::io::stdout().lock());
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "how long it takes is a matter of this machine's time"
    )]
    let began = std::time::Instant::now();
    let every_other = |first: u64| -> Vec<Outcome> {
        let seeds = asked.from..asked.from.saturating_add(asked.seeds);
        let seeds = seeds.filter(|seed| seed % 2 == first);
        seeds.map(run).collect()
    };
    let (even, odd) = std::thread::scope(|scope| {
        let odd = scope.spawn(|| every_other(1));
        (every_other(0), odd.join())
    });
    let odd = odd.map_err(|_panicked| "a run panicked")?;
    let took = began.elapsed();
    let outcomes: Vec<Outcome> = even.into_iter().chain(odd).collect();
    let mut out = std::io::stdout().lock();
    for outcome in &outcomes {
        if let Some(violation) = &outcome.violation {
            writeln!(
                out,
                "seed {}: {} at {:?}: {}",
                outcome.seed, violation.invariant, violation.at, violation.what
            )?;
        }
    }
    write!(out, "{}", totals(&outcomes, took))?;
    Ok(outcomes.iter().all(|outcome| outcome.violation.is_none()))
}

/// Tells what happens in one seed.
fn story(seed: u64, out: &mut dyn std::io::Write) -> Result<bool, Box<dyn Error>> {
    let (outcome, log) = tell(seed);
    for line in log {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "{outcome:#?}")?;
    Ok(outcome.violation.is_none())
}

fn totals(outcomes: &[Outcome], took: Duration) -> String {
    let sum = |count: fn(&Counts) -> u64| outcomes.iter().map(|outcome| count(&outcome.counts)).sum::<u64>();
    let lasted: Duration = outcomes.iter().map(|outcome| outcome.lasted).sum();
    let mut faults = std::collections::BTreeMap::new();
    for (fault, times) in outcomes.iter().flat_map(|outcome| &outcome.counts.faults) {
        *faults.entry(*fault).or_insert(0_u64) += times;
    }
    let faults: Vec<String> = faults
        .iter()
        .map(|(fault, times)| format!("  {fault:?}: {times}"))
        .collect();
    let seconds = took.as_secs().max(1);
    let runs = u64::try_from(outcomes.len()).unwrap_or_default();
    format!(
        "{runs} seeds in {took:.1?}, {} a second; {} hours of their time\n\
         {} events, {} checks of invariants, {} decisions, {} of them accepted\n\
         {} streams, {} states put in force, {} keys activated\n\
         {} publishing keys activated, {} links followed, {} links and updates forged\n\
         {} trust files made, {} starts from them\n\
         {} authorities stopped, {} recoveries\nfaults:\n{}\n",
        runs / seconds,
        lasted.as_secs() / 3600,
        sum(|counts| counts.events),
        sum(|counts| counts.checks),
        sum(|counts| counts.decisions),
        sum(|counts| counts.accepted),
        sum(|counts| counts.streams),
        sum(|counts| counts.installed),
        sum(|counts| counts.activated),
        sum(|counts| counts.publishers),
        sum(|counts| counts.followed),
        sum(|counts| counts.forged),
        sum(|counts| counts.exported),
        sum(|counts| counts.warm_starts),
        sum(|counts| counts.stopped),
        sum(|counts| counts.recovered),
        faults.join("\n"),
    )
}
