//! `reopen_after_kill`: the program runs itself as a writer, kills it with SIGKILL, and times the open that recovers.

use crate::bench::{Measured, NAME, Random, Side, patch};
use crate::common::{At, Fail, Io};
use crate::store;
use quorate::{PageId, Volume};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Commits of the child before it is killed.
const COMMITS: usize = 500;
const ROUNDS_MAX: u32 = 50;

/// The hidden verb: commits until it is killed, and says when there is enough.
pub fn run(io: &Io, at: &At) -> Result<(), Fail> {
    let volume = io.open(at)?;
    let page_size = volume.health().page_size as usize;
    let entry = store::find(&volume, NAME)?.ok_or_else(|| Fail::new("this verb is run by `quorate bench` alone"))?;
    let pages = store::pages(&volume, entry)?;
    let mut random = Random::new(u64::from(std::process::id()));
    let begun = Instant::now();
    for i in 0.. {
        patch(&volume, &pages, page_size, &mut random)?.wait()?;
        if i == COMMITS {
            io.say(Value::Null, "enough")?;
        }
        // Nobody kills it: its parent is gone.
        if begun.elapsed() > Duration::from_secs(60) {
            break;
        }
    }
    Ok(())
}

/// A child that does not outlive the bench.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills and reopens for about `time`. No floor: there is nothing to compare with.
pub fn reopen(io: &Io, at: &At, pages: &[PageId], time: Duration) -> Result<Measured, Fail> {
    let mut side = Side::new()?;
    let program = std::env::current_exe().map_err(|e| Fail::new(format!("the program itself: {e}")))?;
    let volume = at.0.paths().iter().map(|p| p.as_os_str()).collect::<Vec<_>>().join(",".as_ref());
    let begun = Instant::now();
    for round in 0..ROUNDS_MAX {
        if round > 2 && begun.elapsed() > time {
            break;
        }
        let fail = |e: std::io::Error| Fail::new(format!("{}: {e}", program.display()));
        let mut command = Command::new(&program);
        command.arg("bench-child").arg(&volume).stdout(Stdio::piped()).stdin(Stdio::null());
        if io.volatile {
            command.arg("--allow-volatile");
        }
        let mut child = Killed(command.spawn().map_err(fail)?);
        let mut said = String::new();
        if let Some(out) = child.0.stdout.take() {
            BufReader::new(out).read_line(&mut said).map_err(fail)?;
        }
        drop(child);
        if said.trim() != "enough" && said.trim() != "null" {
            return Err(Fail::new("the bench's writer ended early: its error is above"));
        }
        let begun = Instant::now();
        let volume = Volume::open(at.0.clone(), &io.options)?;
        side.one(begun);
        side.took += begun.elapsed();
        // It serves reads at once.
        volume.read(pages[round as usize % pages.len()])?;
        crate::common::close(volume);
    }
    Ok(Measured { volume: side, floor: None, bytes_written: None })
}
