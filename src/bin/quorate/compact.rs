//! `quorate compact`: what is dead comes back at once, and not when enough of it is.

use crate::common::{At, Fail, Io, close, human};
use crate::progress::Steps;
use quorate::{Space, Volume};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// Compacts a volume that nobody else has open.
pub fn run(io: &Io, at: &At, most: Duration) -> Result<(), Fail> {
    if let Some(holder) = io.read(at)?.health().holder {
        let pid = holder.pid;
        return Err(Fail::new(format!(
            "process {pid} has the volume open for writing, and gives space back by itself; for all of it at once it \
             calls `Volume::compact`, or close it there"
        )));
    }
    let volume = io.open(at)?;
    let result = compact(io, &volume, most).map(|_| ());
    close(volume);
    result
}

/// Compacts an open one, and says how far it is. What it takes in the end.
pub fn compact(io: &Io, volume: &Volume, most: Duration) -> Result<Space, Fail> {
    let (begun, before) = (Instant::now(), volume.health());
    let mut progress = Steps::new(io, "compact");
    let done = loop {
        let done = volume.compact(POLL.min(most.saturating_sub(begun.elapsed())));
        let health = volume.health();
        if let Some(why) = &health.ended {
            return Err(Fail::new(format!("the volume takes no more writes: {why}; try again")));
        }
        if done || begun.elapsed() >= most {
            break done;
        }
        let s = health.space;
        let text = format!("{} given back, {} written anew", human(s.given_back), human(s.moved));
        progress.show(&facts(&s), &text)?;
    };
    progress.end();
    let health = volume.health();
    let (was, is) = (before.device_bytes, health.device_bytes);
    if !done {
        return Err(Fail::new(format!(
            "not all of it after {} s: {} were {} on all disks; run it again",
            most.as_secs(),
            human(is),
            human(was)
        )));
    }
    let refused: Vec<String> =
        health.slots.iter().filter(|s| s.punches_refused > 0).map(|s| s.slot.to_string()).collect();
    let facts = json!({ "before": was, "after": is, "space": facts(&health.space), "punches_refused": refused });
    io.say(facts, format!("{} on all disks, where {} were", human(is), human(was)))?;
    if !io.json && !refused.is_empty() {
        let slots = refused.join(" ");
        let text =
            format!("slots {slots}: their file systems punch no holes; what is dead there goes with its whole group");
        io.say(Value::Null, text)?;
    }
    Ok(health.space)
}

/// What the log takes, as facts.
pub fn facts(s: &Space) -> Value {
    json!({ "allocated": s.allocated, "live": s.live, "dead": s.dead, "pinned": s.pinned, "moved": s.moved,
        "given_back": s.given_back, "reserve": s.reserve })
}
