//! A failing life made shorter: fewer steps, then fault by fault left out, while it still fails.

use crate::sim::{Failure, Life};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a life fails; a panic is a failure, too.
fn fails(life: &Life) -> Option<Box<Failure>> {
    match catch_unwind(AssertUnwindSafe(|| life.run())) {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()));
            let what = format!("it panicked: {}", text.unwrap_or_default());
            let (step, faults) = (life.steps, life.removed.iter().max().map_or(1000, |m| m + 1));
            Some(Box::new(Failure { seed: life.seed, what, step, faults, trace: Vec::new() }))
        }
    }
}

/// Delta debugging: leaves out faults in stretches that are halved, from the last to the first.
pub fn shrink(life: &Life, mut runs: usize) -> Option<(Life, Box<Failure>)> {
    let mut best = life.clone().trace(false);
    let mut failure = fails(&best)?;
    let shorter = best.clone().steps(failure.step + 1);
    if let Some(f) = fails(&shorter) {
        (best, failure) = (shorter, f);
    }
    let mut stretch = failure.faults.max(1);
    while stretch > 0 && runs > 0 {
        let mut to = failure.faults;
        while to > 0 && runs > 0 {
            let from = to.saturating_sub(stretch);
            let more: Vec<u64> = (from..to).filter(|n| !best.removed.contains(n)).collect();
            to = from;
            if more.is_empty() {
                continue;
            }
            runs -= 1;
            let attempt = best.clone().without([best.removed.clone(), more].concat());
            if let Some(f) = fails(&attempt) {
                (best, failure) = (attempt, f);
            }
        }
        stretch /= 2;
    }
    let traced = best.clone().trace(true);
    let failure = fails(&traced).unwrap_or(failure);
    Some((best, failure))
}
