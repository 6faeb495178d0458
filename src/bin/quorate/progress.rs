//! How far healing is: a bar on a terminal, else a line now and then.

use crate::common::{Fail, Io, human};
use indicatif::{ProgressBar, ProgressStyle};
use quorate::{Health, RepairHealth, Volume};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two lines.
const LINES: Duration = Duration::from_secs(2);
/// A slot that is away may come back within this time: its directory is tried every two seconds.
const AWAY: Duration = Duration::from_secs(5);
/// What cannot be mended is not waited for longer.
const STUCK: Duration = Duration::from_secs(5);
/// ... nor what does not move, whatever it waits for: a slot's disk that is full, or hangs.
const STILL: Duration = Duration::from_secs(60);

pub struct Progress<'a> {
    io: &'a Io,
    what: &'static str,
    bar: Option<ProgressBar>,
    said: Option<Instant>,
}

impl<'a> Progress<'a> {
    /// Of a verb.
    pub fn new(io: &'a Io, what: &'static str) -> Progress<'a> {
        let bar = (!io.json && std::io::stderr().is_terminal()).then(|| ProgressBar::new(0));
        if let Some(bar) = &bar
            && let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes} {msg}")
        {
            bar.set_style(style);
            bar.set_prefix(what);
        }
        Progress { io, what, bar, said: None }
    }

    pub fn show(&mut self, r: &RepairHealth) -> Result<(), Fail> {
        if let Some(bar) = &self.bar {
            bar.set_length(r.bytes_done + r.bytes_left);
            bar.set_position(r.bytes_done);
            bar.set_message(pace(r));
            return Ok(());
        }
        if r.bytes_left == 0 || self.said.is_some_and(|at| at.elapsed() < LINES) {
            return Ok(());
        }
        self.said = Some(Instant::now());
        let text = format!("{}: {} done, {} left {}", self.what, human(r.bytes_done), human(r.bytes_left), pace(r));
        self.io.say(json!({ self.what: facts(r) }), text.trim_end())
    }

    /// The bar goes, and what follows has the line.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Work of which nobody knows how much there is: a moving sign on a terminal, else a line now and then.
pub struct Steps<'a> {
    io: &'a Io,
    what: &'static str,
    sign: Option<ProgressBar>,
    said: Instant,
}

impl<'a> Steps<'a> {
    /// Of a verb.
    pub fn new(io: &'a Io, what: &'static str) -> Steps<'a> {
        let sign = (!io.json && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
        Steps { io, what, sign, said: Instant::now() }
    }

    /// How far it is.
    pub fn show(&mut self, facts: &Value, text: &str) -> Result<(), Fail> {
        let what = self.what;
        if let Some(sign) = &self.sign {
            sign.set_message(format!("{what}: {text}"));
            sign.tick();
            return Ok(());
        }
        if self.said.elapsed() < LINES {
            return Ok(());
        }
        self.said = Instant::now();
        self.io.say(json!({ what: facts }), format_args!("{what}: {text}"))
    }

    /// The sign goes, and what follows has the line.
    pub fn end(self) {
        if let Some(sign) = self.sign {
            sign.finish_and_clear();
        }
    }
}

fn pace(r: &RepairHealth) -> String {
    let left = |left: Duration| format!(", about {} s left", left.as_secs().max(1));
    match r.bytes_per_second {
        0 => String::new(),
        rate => format!("({}/s{})", human(rate), r.left.map_or(String::new(), left)),
    }
}

/// The numbers.
pub fn facts(r: &RepairHealth) -> Value {
    json!({ "bytes_done": r.bytes_done, "bytes_left": r.bytes_left, "bytes_per_second": r.bytes_per_second,
        "seconds_left": r.left.map(|l| l.as_secs()), "unmendable": r.unmendable })
}

/// Waits until nothing is left that can be mended, and slots that are away had their chance. The last state, and whether
/// all of it is done.
pub fn heal(io: &Io, volume: &Volume, what: &'static str, most: Duration) -> Result<(Health, bool), Fail> {
    let begun = Instant::now();
    let mut progress = Progress::new(io, what);
    let mut moved = (begun, 0, 0);
    loop {
        let healed = volume.wait_repaired(Duration::from_millis(200));
        let health = volume.health();
        let r = health.repair;
        progress.show(&r)?;
        if (r.bytes_left, r.mends) != (moved.1, moved.2) {
            moved = (Instant::now(), r.bytes_left, r.mends);
        }
        let away = health.slots.iter().any(|s| s.away.is_some());
        let stuck = moved.0.elapsed() > if r.unmendable > 0 { STUCK } else { STILL };
        let over = stuck || begun.elapsed() > most || health.ended.is_some();
        if over || healed && (!away || begun.elapsed() > AWAY) {
            progress.end();
            return Ok((health, healed));
        }
    }
}
