//! `quorate sim`: lifetimes of simulated volumes under seeds. A seed that breaks something is one command to repeat.

use crate::common::{Fail, Io, out};
use quorate::sim::{Failure, Fault, Life, Mode, Report};
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
    /// Faults go beyond what six copies can bear.
    pub beyond: bool,
    /// Faults that do not strike, by their numbers.
    pub without: Vec<u64>,
    pub workers: usize,
    pub verbose: bool,
}

/// Runs that are made to shorten a failing life.
const SHRINKING: usize = 400;

impl Runs {
    fn life(&self, seed: u64) -> Life {
        let mode = if self.beyond { Mode::Beyond } else { Mode::Atlas };
        Life::new(seed).steps(self.steps).mode(mode).without(self.without.clone())
    }
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
    faults: BTreeMap<Fault, u64>,
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
                    let result = catch_unwind(AssertUnwindSafe(|| runs.life(seed).trace(runs.verbose).run()));
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
            let count = found.failures.len();
            let repeat = shortened(runs, *seed);
            Err(Fail::new(format!("seed {seed}: {what} ({count} seeds broke); repeat it with: {repeat}")))
        }
    }
}

/// Shortens a failing life, tells its events, and returns the command that repeats it.
fn shortened(runs: &Runs, seed: u64) -> String {
    let mut command = format!("quorate sim --seed {seed}");
    if runs.beyond {
        command.push_str(" --beyond");
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let short = runs.life(seed).shrink(SHRINKING);
    std::panic::set_hook(hook);
    let Some((life, failure)) = short else { return format!("{command} --steps {}", runs.steps) };
    if !runs.verbose {
        out!("seed {seed}, shortened:");
        failure.trace.iter().for_each(|line| out!("{line}"));
        out!("{}", failure.what);
    }
    let left_out: Vec<String> = life.left_out().iter().map(u64::to_string).collect();
    command.push_str(&format!(" --steps {}", life.length()));
    if !left_out.is_empty() {
        command.push_str(&format!(" --without {}", left_out.join(",")));
    }
    command
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
            for (fault, count) in report.faults {
                *found.faults.entry(fault).or_default() += count;
            }
            (report.trace, None)
        }
        Some(Err(failure)) => (failure.trace, Some(failure.what)),
        None => (Vec::new(), Some("it panicked".to_string())),
    };
    if runs.verbose {
        trace.iter().for_each(|line| out!("{line}"));
    }
    found.failures.extend(what.map(|what| (seed, what)));
}

fn tell(io: &Io, runs: &Runs, found: &Found, took: Duration) {
    let per_s = found.lives as f64 / took.as_secs_f64();
    if io.json {
        let totals: serde_json::Map<_, _> = found.totals.iter().map(|(k, v)| ((*k).to_string(), (*v).into())).collect();
        let failed: Vec<u64> = found.failures.iter().map(|f| f.0).collect();
        let faults: serde_json::Map<_, _> =
            found.faults.iter().map(|(f, n)| (f.name().to_string(), (*n).into())).collect();
        let facts = serde_json::json!({
            "from": runs.seeds.start, "lives": found.lives, "seconds": took.as_secs_f64(), "per_s": per_s,
            "hash": format!("{:016x}", found.hash), "totals": totals, "faults": faults,
            "failed": failed,
        });
        out!("{facts}");
        return;
    }
    let (from, seconds) = (runs.seeds.start, took.as_secs_f64());
    out!("{} lives from seed {from}, {seconds:.1} s, {per_s:.0} a second, hash {:016x}", found.lives, found.hash);
    for (name, count) in &found.totals {
        out!("  {name:<20} {count:>10}");
    }
    out!("faults:");
    for (fault, count) in &found.faults {
        out!("  {:<20} {count:>10}", fault.name());
    }
    found.failures.iter().for_each(|(seed, what)| out!("seed {seed}: {what}"));
}
