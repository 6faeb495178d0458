//! `--strace`: shows that commits are durable. A child makes 100 commits under `strace`, and opens
//! a file that is not there before and after them, so that opening and closing the engine stay out of the count. A call counts if it makes something durable: fsync, fdatasync, msync with MS_SYNC, a write with
//! RWF_DSYNC or to a file that was opened with O_DSYNC or O_SYNC, a submission to io_uring. What is in a submission cannot
//! be seen, so who uses one (quorate) is run without it, too.

use crate::child::{self, MARK};
use crate::peer::{Kind, Setup};
use crate::place::Place;
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const COMMITS: u64 = 100;
const CALLS: &str = "fsync,fdatasync,sync_file_range,msync,pwritev,pwritev2,pwrite64,io_uring_enter,openat";

/// Counts of one run.
#[derive(Default)]
struct Counts {
    fsync: i64,
    fdatasync: i64,
    msync: i64,
    dsync_writes: i64,
    uring: i64,
}

impl Counts {
    fn all(&self) -> i64 {
        self.fsync + self.fdatasync + self.msync + self.dsync_writes + self.uring
    }
}

/// Traces all of them; an error if one of them has less than a sync call per commit.
pub fn run(kinds: &[&'static Kind], dirs: &[PathBuf]) -> Result<String> {
    let mut text = format!(
        "| a commit of 100 bytes | fsync | fdatasync | msync | O_DSYNC, RWF_DSYNC | io_uring | all |\n|---|{}\n",
        "---:|".repeat(6)
    );
    let mut lazy = Vec::new();
    for kind in kinds {
        for uring in if kind.name == "quorate" { vec![true, false] } else { vec![true] } {
            let name = if uring { kind.name.to_string() } else { format!("{}, no io_uring", kind.name) };
            let place = Place::make(dirs, kind.name)?;
            let setup = Setup { dirs: place.dirs.clone(), cache: 64 << 20, keep_log: false, uring };
            let c = trace(kind, &setup)?;
            let per = |n: i64| format!("{:.2}", n as f64 / COMMITS as f64);
            let all = [c.fsync, c.fdatasync, c.msync, c.dsync_writes, c.uring, c.all()].map(per);
            text += &format!("| {name} | {} |\n", all.join(" | "));
            if c.all() < COMMITS as i64 {
                lazy.push(name);
            }
        }
    }
    print!("{text}");
    ensure!(lazy.is_empty(), "fewer than one sync call a commit: {}", lazy.join(", "));
    Ok(text)
}

fn trace(kind: &Kind, setup: &Setup) -> Result<Counts> {
    let log = setup.dirs[0].with_extension("strace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&log).args(["-e", &format!("trace={CALLS}"), "--"]);
    command.arg(std::env::current_exe()?).args(child::arguments(kind, setup));
    let status = command.args(["--commits", &COMMITS.to_string()]).status().context("strace: is it installed?")?;
    let counts = count(&log);
    let _ = std::fs::remove_file(&log);
    ensure!(status.success(), "{}: the traced process failed", kind.name);
    counts
}

fn count(log: &Path) -> Result<Counts> {
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    let mut counts = Counts::default();
    let mut durable: HashSet<&str> = HashSet::new();
    let mut marks = 0;
    for line in text.lines() {
        marks += i32::from(line.contains(MARK));
        // "123 fsync(4) = 0", and "123 <... fsync resumed>) = 0", of which the first half was counted.
        let Some((call, rest)) = line.split_once(' ').and_then(|(_, l)| l.trim_start().split_once('(')) else {
            continue;
        };
        let first = rest.split([',', ')', ' ']).next().unwrap_or_default();
        match call {
            // Files that are opened before stay in the set.
            "openat" => {
                let fd = rest.rsplit("= ").next().unwrap_or_default();
                if rest.contains("O_DSYNC") || rest.contains("O_SYNC") {
                    durable.insert(fd);
                } else {
                    durable.remove(fd);
                }
            }
            _ if marks != 1 => (),
            "fsync" => counts.fsync += 1,
            "fdatasync" => counts.fdatasync += 1,
            "msync" if rest.contains("MS_SYNC") => counts.msync += 1,
            "pwritev2" if rest.contains("RWF_DSYNC") => counts.dsync_writes += 1,
            "pwrite64" | "pwritev" | "pwritev2" if durable.contains(first) => counts.dsync_writes += 1,
            "io_uring_enter" if rest.split(", ").nth(1).is_some_and(|n| n != "0") => counts.uring += 1,
            _ => (),
        }
    }
    ensure!(marks == 2, "the traced process left {marks} marks instead of two");
    Ok(counts)
}
