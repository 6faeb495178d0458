//! `quorate replace`: another directory for a slot, with or without a running writer.

use crate::common::{At, Fail, Io, close};
use crate::{progress, repair};
use quorate::{ReplaceError, Slot};
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

/// Puts it there, and waits until it is whole if asked to.
pub fn run(io: &Io, at: &At, slot: u8, directory: &Path, wait: bool, most: Duration) -> Result<(), Fail> {
    let reader = io.read(at)?;
    if let Some(holder) = reader.health().holder {
        let old = reader.replace(Slot(slot), directory)?;
        drop(reader);
        said(io, slot, directory, old)?;
        if !is_taken(io, at, slot) {
            let pid = holder.pid;
            return Err(Fail::new(format!(
                "process {pid} has not taken the directory within {TAKEN:?}; the next open for writing does"
            )));
        }
        return if wait { repair::beside(io, at, true, most, Some(slot)) } else { Ok(()) };
    }
    drop(reader);
    let volume = io.open(at)?;
    let result = alone(io, &volume, slot, directory, wait, most);
    close(volume);
    result
}

fn alone(
    io: &Io,
    volume: &quorate::Volume,
    slot: u8,
    directory: &Path,
    wait: bool,
    most: Duration,
) -> Result<(), Fail> {
    let begun = Instant::now();
    // A slot that was behind when the volume was opened may need a moment.
    let old = loop {
        match volume.replace(Slot(slot), directory) {
            Err(ReplaceError::TooFew { .. }) if begun.elapsed() < Duration::from_secs(2) => {
                std::thread::sleep(Duration::from_millis(100));
            }
            other => break other?,
        }
    };
    said(io, slot, directory, old)?;
    let is_back = || volume.health().slots[usize::from(slot)].away.is_none();
    while !is_back() && begun.elapsed() < TAKEN {
        std::thread::sleep(Duration::from_millis(20));
    }
    if !is_back() {
        return Err(Fail::new(format!("slot {slot} has not come back; `quorate info` says why")));
    }
    if !wait {
        return Ok(());
    }
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
