//! `quorate repair` and `quorate scrub`: six whole copies again, and proof of it.

use crate::common::{At, Fail, Io, close, human};
use crate::info;
use crate::progress::{self, Progress};
use quorate::{Event, Health, Volume};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at what a writer has done.
const POLL: Duration = Duration::from_secs(1);

/// What was mended, slot by slot, and what could not be.
#[derive(Default)]
struct Found {
    mended: BTreeMap<u8, u64>,
    superblocks: BTreeMap<u8, u64>,
    /// Of what nothing can be made, in words.
    wrong: Vec<String>,
}

impl Found {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Mended { slot, bytes, .. } => *self.mended.entry(slot.0).or_default() += bytes,
            Event::SuperblockMended { slot } => *self.superblocks.entry(slot.0).or_default() += 1,
            Event::Differs { .. } | Event::NoCopy { .. } => {
                let text = event.to_string();
                // The same place is looked at again and again.
                if self.wrong.len() < 1000 && !self.wrong.contains(&text) {
                    self.wrong.push(text);
                }
            }
            _ => (),
        }
    }

    fn say(&self, io: &Io) -> Result<(), Fail> {
        for (slot, bytes) in &self.mended {
            let text = format!("slot {slot}: {} were missing or damaged, and are mended", human(*bytes));
            io.say(json!({ "slot": slot, "mended_bytes": bytes }), text)?;
        }
        for slot in self.superblocks.keys() {
            io.say(json!({ "slot": slot, "superblock": "mended" }), format!("slot {slot}: its superblock is mended"))?;
        }
        for text in &self.wrong {
            io.say(json!({ "wrong": text }), text)?;
        }
        Ok(())
    }
}

/// Opens for writing, and collects what is found.
fn open(io: &Io, at: &At) -> Result<(Volume, Arc<Mutex<Found>>), Fail> {
    let found = Arc::new(Mutex::new(Found::default()));
    let teller = found.clone();
    let add = move |event: &Event| teller.lock().unwrap_or_else(PoisonError::into_inner).add(event);
    let volume = Volume::open(at.0.clone(), &io.options.clone().on_event(add))?;
    Ok((volume, found))
}

/// `quorate repair`: beside a running writer it tells what that one has still to do, else it does it.
pub fn repair(io: &Io, at: &At, wait: bool, most: Duration) -> Result<(), Fail> {
    if io.read(at)?.health().holder.is_some() {
        return beside(io, at, wait, most, None);
    }
    let (volume, found) = open(io, at)?;
    // Damage that nobody has met yet is found by comparing alone.
    volume.scrub();
    let result = finish(io, at, &volume, &found, "repair", most);
    close(volume);
    result
}

/// `quorate scrub`.
pub fn scrub(io: &Io, at: &At) -> Result<(), Fail> {
    if let Some(holder) = io.read(at)?.health().holder {
        let pid = holder.pid;
        return Err(Fail::new(format!(
            "process {pid} has the volume open for writing, and scrubs it by itself; for a scrub at once it calls \
             `Volume::scrub`, or close it there"
        )));
    }
    let (volume, found) = open(io, at)?;
    volume.scrub();
    let result = finish(io, at, &volume, &found, "scrub", Duration::MAX);
    close(volume);
    result
}

/// Waits for the healing's end, and says what came of it.
fn finish(
    io: &Io,
    at: &At,
    volume: &Volume,
    found: &Mutex<Found>,
    what: &'static str,
    most: Duration,
) -> Result<(), Fail> {
    let (health, healed) = progress::heal(io, volume, what, most)?;
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    found.say(io)?;
    if let Some(why) = &health.ended {
        return Err(Fail::new(format!("the volume takes no more writes: {why}; try again")));
    }
    let missing = missing(io, at, &health);
    let whole = healed && missing.is_empty() && found.wrong.is_empty() && health.repair.unmendable == 0;
    let r = &health.repair;
    let facts = json!({ "whole": whole, "mends": r.mends, "mended_bytes": r.mended_bytes,
        "superblocks_mended": r.superblocks_mended, "differences": r.differences, "unmendable": r.unmendable,
        "bytes_left": r.bytes_left, "missing": missing.iter().map(|(s, _)| *s).collect::<Vec<_>>() });
    if whole {
        let nothing = r.mends + r.superblocks_mended == 0;
        let mended =
            if nothing { "nothing was wrong".into() } else { format!("{} were mended", human(r.mended_bytes)) };
        return io.say(facts, format!("whole: six copies, and {mended}"));
    }
    if io.json {
        io.say(facts, "")?;
    }
    Err(Fail::new(not_whole(&missing, r.unmendable, r.differences, r.bytes_left)))
}

fn not_whole(missing: &[(u8, String)], unmendable: usize, differences: u64, left: u64) -> String {
    let mut all: Vec<String> = missing.iter().map(|(slot, why)| format!("slot {slot}: {why}")).collect();
    if unmendable > 0 {
        all.push(format!("{unmendable} MiB of log hold something without a good copy: bring back a disk that is away"));
    }
    if differences > 0 {
        all.push(format!("{differences} groups differ and verify on both slots: look at their files"));
    }
    if all.is_empty() {
        all.push(format!("{} are left: give it more time", human(left)));
    }
    format!("not whole: {}", all.join("; "))
}

/// Slots that do not take part, and why, as a reader sees it.
fn missing(io: &Io, at: &At, health: &Health) -> Vec<(u8, String)> {
    let away = health.slots.iter().filter(|s| s.away.is_some() || s.fault.is_some());
    let seen = io.read(at).map(|r| r.health().slots).unwrap_or_default();
    let why = |slot: &quorate::SlotHealth| {
        let fault = seen.iter().find(|s| s.slot == slot.slot).and_then(|s| s.fault.clone());
        fault.unwrap_or_else(|| info::state(slot))
    };
    away.map(|s| (s.slot.0, why(s))).collect()
}

/// Beside a writer: what its superblocks tell, once or until nothing is left. Of one slot, if only that is meant.
pub fn beside(io: &Io, at: &At, wait: bool, most: Duration, only: Option<u8>) -> Result<(), Fail> {
    let begun = Instant::now();
    let mut progress = Progress::new(io, "repair");
    let mut most_left = 0;
    loop {
        // A writer that opens meanwhile may be in the way for a moment.
        let health = match io.read(at) {
            Ok(reader) => reader.health(),
            Err(e) if !wait || begun.elapsed() > most => return Err(e),
            Err(_) => {
                std::thread::sleep(POLL);
                continue;
            }
        };
        let meant = |slot: u8| only.is_none_or(|o| o == slot);
        let missing: Vec<_> = missing(io, at, &health).into_iter().filter(|(s, _)| meant(*s)).collect();
        let gaps = health.slots.iter().any(|s| meant(s.slot.0) && !s.gaps.is_empty());
        let mut r = health.repair;
        let whole = missing.is_empty() && !gaps && (only.is_some() || r.unchecked.is_empty());
        most_left = most_left.max(r.bytes_left);
        let took = begun.elapsed().as_secs();
        r.bytes_done = most_left - r.bytes_left;
        r.bytes_per_second = r.bytes_done.checked_div(took).unwrap_or(0);
        r.left = r.bytes_left.checked_div(r.bytes_per_second).map(Duration::from_secs);
        let over = whole || !wait || begun.elapsed() > most || health.holder.is_none();
        if !over {
            progress.show(&r)?;
            std::thread::sleep(POLL);
            continue;
        }
        progress.end();
        let pid = health.holder.map(|h| h.pid);
        if whole {
            return io.say(json!({ "whole": true, "writer": pid }), "whole, as far as the superblocks tell");
        }
        if io.json {
            let slots: Vec<u8> = missing.iter().map(|(s, _)| *s).collect();
            let facts = json!({ "whole": false, "writer": pid, "repair": progress::facts(&r), "missing": slots });
            io.say(facts, Value::Null)?;
        }
        let mut text = not_whole(&missing, 0, 0, r.bytes_left);
        match pid {
            Some(pid) => text += &format!("; process {pid} has the volume open, and mends what it can"),
            None => text += "; its writer has closed it: repair it again",
        }
        return Err(Fail::new(text));
    }
}
