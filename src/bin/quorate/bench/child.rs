//! `reopen_after_kill`: the program runs itself as a writer, kills it with SIGKILL, and times the open that recovers. And
//! the process that fills a volume for `bench heal`.

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

/// Pages that one MTR puts while a volume is filled.
const FILL: u64 = 16;

/// The hidden verb: commits until it is killed, and says when there is enough; or fills a volume.
pub fn run(io: &Io, at: &At, mib: Option<u64>) -> Result<(), Fail> {
    let volume = io.open(at)?;
    if let Some(mib) = mib {
        let filled = put_pages(&volume, mib << 20);
        crate::common::close(volume);
        return filled;
    }
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

/// Pages that no disk can make smaller.
fn put_pages(volume: &Volume, bytes: u64) -> Result<(), Fail> {
    let page_size = volume.health().page_size as usize;
    let mut random = Random::new(9);
    let mut last = None;
    for _ in 0..bytes / (FILL * page_size as u64) {
        let mut mtr = volume.begin();
        for _ in 0..FILL {
            let image: Vec<u8> = (0..page_size / 8).flat_map(|_| random.next().to_le_bytes()).collect();
            let page = mtr.alloc()?;
            mtr.put(page, image);
        }
        last = Some(mtr.commit()?);
    }
    last.map_or(Ok(()), |last| Ok(last.wait().map(|_| ())?))
}

/// Fills a volume, in a process of its own: what that one takes of memory is not this one's.
pub fn fill(io: &Io, at: &At, mib: u64) -> Result<(), Fail> {
    let mut command = command(io, at)?;
    let mut child = Killed(command.arg("--fill").arg(mib.to_string()).stdout(Stdio::null()).spawn().map_err(failed)?);
    let status = child.0.wait().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(Fail::new("the process that fills the volume failed: see above")) }
}

fn failed(e: std::io::Error) -> Fail {
    Fail::new(format!("the program itself: {e}"))
}

fn command(io: &Io, at: &At) -> Result<Command, Fail> {
    let volume = at.0.paths().iter().map(|p| p.as_os_str()).collect::<Vec<_>>().join(",".as_ref());
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("bench-child").arg(&volume).stdin(Stdio::null());
    if io.volatile {
        command.arg("--allow-volatile");
    }
    Ok(command)
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
    let begun = Instant::now();
    for round in 0..ROUNDS_MAX {
        if round > 2 && begun.elapsed() > time {
            break;
        }
        let mut child = Killed(command(io, at)?.stdout(Stdio::piped()).spawn().map_err(failed)?);
        let mut said = String::new();
        if let Some(out) = child.0.stdout.take() {
            BufReader::new(out).read_line(&mut said).map_err(failed)?;
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
    Ok(Measured::without_writes(side, None))
}
