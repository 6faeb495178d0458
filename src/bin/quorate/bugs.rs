//! `quorate bugs`, under `--cfg quorate_bugs` alone: does the simulator see each planted bug, and after how many lives?

use crate::common::{Fail, Io, out};
use quorate::bugs::{Bug, with};
use quorate::sim::{Life, Mode};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Lives of the simulator with a bug switched on, until something breaks. A panic is seen, too.
fn seen(bug: Bug, lives: u64) -> Option<(u64, String)> {
    (0..lives).find_map(|n| {
        // By turns within the atlas and beyond it.
        let mode = if n % 2 == 0 { Mode::Atlas } else { Mode::Beyond };
        let life = || with(bug, || Life::new(n).mode(mode).run());
        match catch_unwind(AssertUnwindSafe(life)) {
            Ok(Ok(_)) => None,
            Ok(Err(failure)) => Some((n + 1, failure.what.clone())),
            Err(_) => Some((n + 1, "it panics".into())),
        }
    })
}

/// Tells of each bug, or of those named, the seeds that it takes. An error if one of those named is not seen.
pub fn run(io: &Io, lives: u64, only: &[String]) -> Result<(), Fail> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let mut missed = Vec::new();
    for bug in Bug::ALL.iter().filter(|b| only.is_empty() || only.contains(&format!("{b:?}"))) {
        let name = format!("{bug:?}");
        let found = seen(*bug, lives);
        if io.json {
            let (lives, what) = found.clone().unzip();
            out!("{}", serde_json::json!({ "bug": name, "lives": lives, "what": what }));
        } else {
            match &found {
                Some((n, what)) => out!("{name:<24} {n:>6}  {}", what.chars().take(120).collect::<String>()),
                None => out!("{name:<24}      -  not in {lives} lives"),
            }
        }
        missed.extend(found.is_none().then_some(name));
    }
    std::panic::set_hook(hook);
    if missed.is_empty() || only.is_empty() {
        return Ok(());
    }
    Err(Fail::new(format!("the simulator did not see {} in {lives} lives", missed.join(", "))))
}
