//! `quorate snapshot`, `snapshots`, `forget`, `window`, `backtrack`, `clone`, `diff` and `history`: the past of a volume.

use crate::common::{At, Fail, Io, close, human, warn};
use crate::when;
use quorate::{Backtrack, Clock, HistoryError, HistoryHealth, Moment, Reader, View, Volume};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

impl From<HistoryError> for Fail {
    fn from(e: HistoryError) -> Fail {
        Fail::new(e)
    }
}

/// Opens a volume, does something, and closes it, however that went.
fn on<R>(io: &Io, at: &At, what: impl FnOnce(&Volume) -> Result<R, Fail>) -> Result<R, Fail> {
    let volume = io.open(at)?;
    let result = what(&volume);
    close(volume);
    result
}

/// Gives the newest state a name.
pub fn snapshot(io: &Io, at: &At, name: &str) -> Result<(), Fail> {
    let taken = on(io, at, |volume| Ok(volume.snapshot(name)?))?;
    let facts = json!({ "snapshot": taken.name, "lsn": taken.lsn.0, "time": when::rfc3339(taken.time) });
    io.say(facts, format_args!("snapshot {name} at LSN {}", taken.lsn))
}

/// A line for each, oldest first.
pub fn snapshots(io: &Io, at: &At) -> Result<(), Fail> {
    for s in io.read(at)?.snapshots() {
        let time = when::rfc3339(s.time);
        let facts = json!({ "snapshot": s.name, "lsn": s.lsn.0, "time": time, "held": s.held });
        io.say(facts, format_args!("{:>16}  {time}  holds {:>10}  {}", s.lsn.0, human(s.held), s.name))?;
    }
    Ok(())
}

/// A snapshot is needed no more.
pub fn forget(io: &Io, at: &At, name: &str) -> Result<(), Fail> {
    on(io, at, |volume| Ok(volume.forget(name)?))?;
    io.say(json!({ "forgot": name }), format_args!("forgot {name}"))
}

/// How far back states are kept from now on.
pub fn window(io: &Io, at: &At, time: Duration, bytes: u64) -> Result<(), Fail> {
    on(io, at, |volume| Ok(volume.set_window(time, bytes)?))?;
    let facts = json!({ "window_seconds": time.as_secs(), "window_bytes": bytes });
    match time.is_zero() {
        true => io.say(facts, "the window is off"),
        false => io.say(facts, format_args!("states are kept for {time:?}, in {} of log at most", human(bytes))),
    }
}

fn clock(c: Clock) -> Option<(Value, String)> {
    let Clock::WentBack { by, at } = c else { return None };
    let facts = json!({ "went_back_ms": by.as_millis() as u64, "at": at.0 });
    Some((facts, format!("the clock was put back by {by:?} around there, at LSN {at}")))
}

/// Goes back, or tells where it would.
pub fn backtrack(io: &Io, at: &At, to: &str, dry_run: bool) -> Result<(), Fail> {
    if dry_run {
        let reader = io.read(at)?;
        let (point, taken_for) = of_reader(&reader, to)?;
        return told(io, reader.find(point)?, &taken_for, None);
    }
    let (done, taken_for) = on(io, at, |volume| {
        let snapshots = volume.snapshots();
        let (point, taken_for) = when::point(to, |n| snapshots.iter().any(|s| s.name == n)).map_err(Fail::usage)?;
        Ok((volume.backtrack(point)?, taken_for))
    })?;
    let Backtrack { lsn, time, clock, undo, .. } = done;
    said(io, (lsn.0, time, clock), &taken_for, Some(undo.0))
}

fn told(io: &Io, m: Moment, taken_for: &str, undo: Option<u64>) -> Result<(), Fail> {
    said(io, (m.lsn.0, m.time, m.clock), taken_for, undo)
}

fn said(io: &Io, found: (u64, SystemTime, Clock), taken_for: &str, undo: Option<u64>) -> Result<(), Fail> {
    let (lsn, time, c) = found;
    if let Some((_, text)) = clock(c) {
        warn(text);
    }
    let (facts, time) = (facts_of(found, undo), when::rfc3339(time));
    match undo {
        None => io.say(facts, format_args!("would go back to {taken_for}: LSN {lsn}, {time}")),
        Some(undo) => {
            io.say(facts, format_args!("went back to {taken_for}: LSN {lsn}, {time}; undo it with --to {undo}"))
        }
    }
}

fn facts_of((lsn, time, c): (u64, SystemTime, Clock), undo: Option<u64>) -> Value {
    let mut facts = json!({ "lsn": lsn, "time": when::rfc3339(time) });
    if let Some((told, _)) = clock(c) {
        facts["clock"] = told;
    }
    if let Some(undo) = undo {
        facts["undo"] = json!(undo);
    }
    facts
}

fn of_reader(reader: &Reader, text: &str) -> Result<(quorate::Point, String), Fail> {
    let snapshots = reader.snapshots();
    when::point(text, |name| snapshots.iter().any(|s| s.name == name)).map_err(Fail::usage)
}

/// The state that a text names; what is certain without one.
pub fn view(reader: &Reader, at: Option<&str>) -> Result<View, Fail> {
    match at {
        None => Ok(reader.view()),
        Some(text) => Ok(reader.view_at(of_reader(reader, text)?.0)?),
    }
}

/// A new volume with the pages of a state. Only a writer can hold back what is shared with it: a volume that somebody else
/// writes, or that lies on disks that cannot be written, is read and copied.
pub fn clone(io: &Io, from: &At, to: &At, at: Option<&str>) -> Result<(), Fail> {
    let made = |view: View| -> Result<(String, u64), Fail> {
        let clone = view.clone_to(to.0.clone(), &io.options)?;
        let id = clone.health().volume.to_string();
        close(clone);
        Ok((id, view.lsn().0))
    };
    let (id, lsn) = match io.open(from) {
        Ok(origin) => {
            let made = view_of_writer(&origin, at).and_then(made);
            close(origin);
            made?
        }
        Err(_) => made(view(&io.read(from)?, at)?)?,
    };
    io.say(json!({ "cloned": id, "lsn": lsn }), format_args!("cloned LSN {lsn} to volume {id}"))
}

fn view_of_writer(volume: &Volume, at: Option<&str>) -> Result<View, Fail> {
    let Some(text) = at else { return Ok(volume.view()) };
    let snapshots = volume.snapshots();
    let (point, _) = when::point(text, |name| snapshots.iter().any(|s| s.name == name)).map_err(Fail::usage)?;
    Ok(volume.view_at(point)?)
}

/// The pages in which two states differ, as ranges.
pub fn diff(io: &Io, at: &At, a: &str, b: &str) -> Result<(), Fail> {
    let reader = io.read(at)?;
    let pages = view(&reader, Some(a))?.diff(&view(&reader, Some(b))?)?;
    for run in pages.chunk_by(|x, y| x.0 + 1 == y.0) {
        let (first, last) = (run[0].0, run[run.len() - 1].0);
        io.say(json!({ "from": first, "to": last }), format_args!("pages {first} to {last}"))?;
    }
    io.say(json!({ "differ": pages.len() }), format_args!("{} pages differ", pages.len()))
}

/// Checkpoints, rewinds and snapshots, oldest first; on a terminal with the line that time takes.
pub fn history(io: &Io, at: &At) -> Result<(), Fail> {
    use std::io::IsTerminal;
    let reader = io.read(at)?;
    let draws = std::io::stdout().is_terminal() && !io.json;
    let mut all: Vec<(u64, Value, String, char)> = Vec::new();
    for c in reader.history() {
        let time = when::rfc3339(c.time);
        let (kind, text, mark) = match c.rewound {
            Some(to) => ("rewind", format!("went back to LSN {to}"), '↶'),
            None if c.lsn.0 == 0 => ("begin", "the empty volume".into(), '○'),
            None => ("checkpoint", "checkpoint".into(), '│'),
        };
        let facts = json!({ "event": kind, "lsn": c.from.0, "time": time, "to": c.rewound.map(|l| l.0) });
        all.push((c.from.0, facts, format!("{time}  {text}"), mark));
    }
    for s in reader.snapshots() {
        let time = when::rfc3339(s.time);
        let facts = json!({ "event": "snapshot", "lsn": s.lsn.0, "time": time, "name": s.name });
        all.push((s.lsn.0, facts, format!("{time}  snapshot {}", s.name), '●'));
    }
    for (epoch, begin) in reader.epochs() {
        let facts = json!({ "event": "epoch", "lsn": begin.0, "epoch": epoch });
        all.push((begin.0, facts, format!("{:27}  epoch {epoch}", ""), '┬'));
    }
    all.sort_by_key(|e| e.0);
    for (lsn, facts, text, mark) in all {
        let mark = if draws { format!("{mark} ") } else { String::new() };
        io.say(facts, format_args!("{mark}{lsn:>16}  {text}"))?;
    }
    Ok(())
}

/// The same as facts.
pub fn facts(h: &HistoryHealth) -> Value {
    json!({ "window_seconds": h.window.map(|w| w.as_secs()), "window_bytes": h.window_bytes, "oldest": h.oldest.0,
        "cut_short": h.cut_short, "held_by_window": h.held_by_window, "held_by_snapshots": h.held_by_snapshots,
        "snapshots": h.snapshots.len() })
}

/// What the window and snapshots hold, in a line; none where there is nothing to say.
pub fn told_by_info(h: &HistoryHealth) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(time) = h.window {
        let short = if h.cut_short { ", cut short by its bytes" } else { "" };
        parts.push(format!("window {time:?} from LSN {} on{short}, holds {}", h.oldest, human(h.held_by_window)));
    }
    if !h.snapshots.is_empty() || h.held_by_snapshots > 0 {
        parts.push(format!("{} snapshots hold {}", h.snapshots.len(), human(h.held_by_snapshots)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::Lsn;

    #[test]
    fn what_the_clock_did_is_told() {
        let back = Clock::WentBack { by: Duration::from_millis(1500), at: Lsn(77) };
        let told = |clock, undo| facts_of((9, SystemTime::UNIX_EPOCH, clock), undo).to_string();
        let time = "1970-01-01T00:00:00";
        let steady = told(Clock::Steady, None);
        assert!(steady.starts_with(&format!("{{\"lsn\":9,\"time\":\"{time}")) && !steady.contains("clock"), "{steady}");
        let back = told(back, Some(5));
        for part in ["\"undo\":5", "\"went_back_ms\":1500", "\"at\":77", time] {
            assert!(back.contains(part), "{back} lacks {part}");
        }
    }
}
