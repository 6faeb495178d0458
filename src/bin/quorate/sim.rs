//! `quorate sim`: lifetimes of simulated volumes under seeds. A seed that breaks something is one command to repeat.

use crate::common::{Fail, Io};
use quorate::sim::{self, Failure, Report};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is to be run.
pub struct Runs {
    pub seeds: Range<u64>,
    /// Stop after so long, wherever it is.
    pub most: Option<Duration>,
    pub steps: u64,
    pub workers: usize,
    pub verbose: bool,
}

/// `A..B` as seeds.
pub fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("write A..B")?;
    let number = |s: &str| s.parse::<u64>().map_err(|_| format!("{s:?} is not a number"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("the second number must be larger than the first".into()) } else { Ok(range) }
}

/// What the workers found together.
#[derive(Default)]
struct Found {
    totals: BTreeMap<&'static str, u64>,
    lives: u64,
    /// Of all runs, in whatever order they ended.
    hash: u64,
    failures: Vec<(u64, String)>,
}

pub fn run(io: &Io, runs: &Runs) -> Result<(), Fail> {
    let begun = Instant::now();
    let next = AtomicU64::new(runs.seeds.start);
    let found = Mutex::new(Found::default());
    std::thread::scope(|scope| {
        for _ in 0..runs.workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let late = runs.most.is_some_and(|most| begun.elapsed() >= most);
                    if seed >= runs.seeds.end || late || failures(&found) >= 10 {
                        return;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| sim::run(seed, runs.steps, runs.verbose)));
                    note(&found, seed, runs, result.ok());
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    tell(io, runs, &found, begun.elapsed());
    match found.failures.first() {
        None => Ok(()),
        Some((seed, what)) => {
            let (count, steps) = (found.failures.len(), runs.steps);
            Err(Fail::new(format!(
                "seed {seed}: {what} ({count} seeds broke); repeat it with: quorate sim --seed {seed} --steps {steps} --verbose"
            )))
        }
    }
}

fn failures(found: &Mutex<Found>) -> usize {
    found.lock().map_or(0, |f| f.failures.len())
}

fn note(found: &Mutex<Found>, seed: u64, runs: &Runs, result: Option<Result<Report, Box<Failure>>>) {
    let Ok(mut found) = found.lock() else { return };
    let (trace, what) = match result {
        Some(Ok(report)) => {
            found.lives += 1;
            found.hash = found.hash.wrapping_add(report.hash);
            for (name, count) in report.counts {
                *found.totals.entry(name).or_default() += count;
            }
            (report.trace, None)
        }
        Some(Err(failure)) => (failure.trace, Some(failure.what)),
        None => (Vec::new(), Some("it panicked".to_string())),
    };
    if runs.verbose {
        trace.iter().for_each(|line| println!("{line}"));
    }
    found.failures.extend(what.map(|what| (seed, what)));
}

fn tell(io: &Io, runs: &Runs, found: &Found, took: Duration) {
    let per_s = found.lives as f64 / took.as_secs_f64();
    if io.json {
        let totals: serde_json::Map<_, _> = found.totals.iter().map(|(k, v)| ((*k).to_string(), (*v).into())).collect();
        let failed: Vec<u64> = found.failures.iter().map(|f| f.0).collect();
        let facts = serde_json::json!({
            "from": runs.seeds.start, "lives": found.lives, "seconds": took.as_secs_f64(), "per_s": per_s,
            "hash": format!("{:016x}", found.hash), "totals": totals, "failed": failed,
        });
        println!("{facts}");
        return;
    }
    let (from, seconds) = (runs.seeds.start, took.as_secs_f64());
    println!("{} lives from seed {from}, {seconds:.1} s, {per_s:.0} a second, hash {:016x}", found.lives, found.hash);
    for (name, count) in &found.totals {
        println!("  {name:<14} {count:>10}");
    }
    found.failures.iter().for_each(|(seed, what)| println!("seed {seed}: {what}"));
}
