//! `quorate sim`: lifetimes of a volume in the simulator, each replayable by its seed.

use crate::common::{Fail, Io};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Runs seeds from `seed` on, and stops at the first that breaks a property.
pub fn run(io: &Io, seed: u64, count: u64, steps: u64, trace: bool) -> Result<(), Fail> {
    let mut met: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seed..seed.saturating_add(count) {
        let (events, result) = match quorate::sim::run(seed, steps, trace) {
            Ok(report) => {
                report.counts.iter().for_each(|(name, n)| *met.entry(name).or_default() += n);
                (report.trace, Ok(report.hash))
            }
            Err(failure) => (failure.trace, Err(failure.what)),
        };
        for event in events {
            io.say(json!({ "seed": seed, "event": event }), &event)?;
        }
        let hash = result.map_err(|what| {
            Fail::new(format!("seed {seed}: {what}; `quorate sim --seed {seed} --steps {steps} --trace` shows it"))
        })?;
        if count == 1 {
            io.say(json!({ "seed": seed, "hash": format!("{hash:016x}") }), format_args!("seed {seed}: {hash:016x}"))?;
        }
    }
    let text: Vec<String> = met.iter().map(|(name, n)| format!("{name} {n}")).collect();
    let met: Map<String, Value> = met.into_iter().map(|(name, n)| (name.to_string(), json!(n))).collect();
    io.say(json!({ "seeds": count, "met": met }), format_args!("{count} seeds, no property broke: {}", text.join(", ")))
}
