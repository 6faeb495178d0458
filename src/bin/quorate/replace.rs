//! `quorate replace`: another directory for a slot, with or without a running writer.

use crate::common::{At, Fail, Io, close};
use crate::{progress, repair};
use quorate::{ReplaceError, Slot, Volume};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A running writer sees the new directory within this time.
const TAKEN: Duration = Duration::from_secs(15);

impl From<ReplaceError> for Fail {
    fn from(e: ReplaceError) -> Fail {
        Fail::new(e)
    }
}

/// Puts it there, and waits until it is whole if asked to. Beside a writer that one fills it; else the next open for writing
/// does, which with `wait` is this one.
pub fn run(io: &Io, at: &At, slot: u8, directory: &Path, wait: bool, most: Duration) -> Result<(), Fail> {
    let reader = io.read(at)?;
    let holder = reader.health().holder;
    let old = reader.replace(Slot(slot), directory)?;
    drop(reader);
    said(io, slot, directory, old)?;
    match holder {
        Some(holder) if !is_taken(io, at, slot) => {
            let pid = holder.pid;
            let text = format!("process {pid} has not taken the directory within {TAKEN:?}");
            Err(Fail::new(format!("{text}; `quorate info` tells more, and the next open for writing takes it")))
        }
        Some(_) if wait => repair::beside(io, at, true, most, Some(slot)),
        Some(_) => Ok(()),
        None if wait => {
            let volume = io.open(at)?;
            let result = fill(io, &volume, slot, most);
            close(volume);
            result
        }
        None => {
            let text = "it is filled by the next process that opens the volume for writing, such as `quorate repair`";
            io.say(json!({ "slot": slot, "whole": false }), text)
        }
    }
}

fn fill(io: &Io, volume: &Volume, slot: u8, most: Duration) -> Result<(), Fail> {
    let (health, healed) = progress::heal(io, volume, "repair", most)?;
    let s = &health.slots[usize::from(slot)];
    if s.away.is_none() && s.gaps.is_empty() && healed {
        return io.say(json!({ "slot": slot, "whole": true }), format!("slot {slot} is whole"));
    }
    Err(Fail::new(format!("slot {slot} is not whole yet; `quorate repair` goes on, and says what is in its way")))
}

fn said(io: &Io, slot: u8, directory: &Path, old: Option<PathBuf>) -> Result<(), Fail> {
    let old = old.map(|old| old.display().to_string());
    let text = match &old {
        Some(old) => format!("; its old one is {old} now: delete it once the slot is whole"),
        None => String::new(),
    };
    let directory = directory.display().to_string();
    io.say(
        json!({ "slot": slot, "directory": directory, "old": old }),
        format!("slot {slot} is in {directory} now{text}"),
    )
}

/// The running writer has formatted the new directory.
fn is_taken(io: &Io, at: &At, slot: u8) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < TAKEN {
        let slots = io.read(at).map(|r| r.health().slots).unwrap_or_default();
        if slots.get(usize::from(slot)).is_some_and(|s| s.fault.is_none()) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}
