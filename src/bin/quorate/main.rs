//! The `quorate` command: files kept in six copies, and what an operator asks of a volume.
//!
//! Exit status 0 only on success, 2 for bad usage, 1 else. An error is one line on stderr that says what to do next.

mod bench;
#[cfg(all(feature = "sim", quorate_bugs))]
mod bugs;
mod common;
mod compact;
mod create;
mod demo;
#[cfg(feature = "sim")]
mod explore;
mod files;
mod import;
mod info;
mod log;
mod past;
mod progress;
mod repair;
mod replace;
#[cfg(feature = "sim")]
mod sim;
mod space;
mod store;
mod verify;
mod when;

use clap::{Args, Parser, Subcommand};
use common::{Fail, Io};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "quorate", version, about = "A storage volume in six verified copies", max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args)]
struct Global {
    /// Print facts as JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Use threads even where there is io_uring
    #[arg(long, global = true, hide = true)]
    threads: bool,
    /// Allow directories that do not survive a restart
    #[arg(long, global = true, hide = true)]
    allow_volatile: bool,
}

/// VOLUME, everywhere.
const VOLUME: &str = "One directory (to try it out), or three with commas between, one a disk";

#[derive(Subcommand)]
enum Verb {
    /// Make a new volume in empty directories
    Create {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// Bytes of a page: a power of two from 4KiB to 64KiB
        #[arg(long, default_value = "16KiB", value_parser = common::page_size)]
        page_size: u32,
        /// Bytes of a protection group, the unit in which files are made: a multiple of 64MiB, up to 1024GiB
        #[arg(long, default_value = "10GiB", value_parser = common::pg_size)]
        pg_size: u64,
        /// Keep states of the past for so long: 90s, 2h30m, 7d, or off
        #[arg(long, default_value = "off", value_parser = when::window)]
        window: Duration,
        /// ... and while they hold no more than so many bytes of the log, of one copy
        #[arg(long, default_value = "10GiB", value_parser = common::size)]
        window_bytes: u64,
    },
    /// Keep files under names; a name that exists is replaced
    Import {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The name of the one file; its last component by default
        #[arg(long, value_parser = common::name)]
        name: Option<String>,
    },
    /// List the files that are kept
    Ls {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// Also what the next writer may still drop
        #[arg(long)]
        visible: bool,
        /// As it was: an LSN, a moment or a snapshot, as for `backtrack`
        #[arg(long, conflicts_with = "visible")]
        at: Option<String>,
    },
    /// Write a kept file to FILE
    Export {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// The name that it is kept under
        #[arg(value_parser = common::name)]
        name: String,
        /// Where it goes; replaced if it exists
        file: PathBuf,
        /// Also what the next writer may still drop
        #[arg(long)]
        visible: bool,
        /// As it was: an LSN, a moment or a snapshot, as for `backtrack`
        #[arg(long, conflicts_with = "visible")]
        at: Option<String>,
    },
    /// Remove a kept file
    Rm {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// The name that it is kept under
        #[arg(value_parser = common::name)]
        name: String,
    },
    /// Give the newest state a name, under which it is kept until it is forgotten
    Snapshot {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// Its name: 1 to 255 bytes
        #[arg(value_parser = when::name)]
        name: String,
    },
    /// List the snapshots, and what of the log each holds
    Snapshots {
        #[arg(help = VOLUME)]
        volume: common::At,
    },
    /// Forget a snapshot: what only it held comes back by and by
    Forget {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// Its name
        #[arg(value_parser = common::name)]
        name: String,
    },
    /// Set how far back states of the past are kept
    Window {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// 90s, 2h30m, 7d, or off
        #[arg(value_parser = when::window)]
        time: Duration,
        /// ... and while they hold no more than so many bytes of the log, of one copy
        #[arg(long, default_value = "10GiB", value_parser = common::size)]
        bytes: u64,
    },
    /// Go back to a state of the past, at once and however large the volume is; the answer tells how to undo it
    Backtrack {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// A snapshot's name, an LSN, or a moment: 2026-11-26T16:00:00Z, "2h30m ago", "yesterday 16:00"
        #[arg(long)]
        to: String,
        /// Tell where it would go, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a new volume with the pages of a state, in empty directories
    Clone {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// Where: one directory, or three with commas between, one a disk
        target: common::At,
        /// The state, as for `backtrack`; the newest by default
        #[arg(long)]
        at: Option<String>,
    },
    /// Tell the pages in which two states differ
    Diff {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// A state, as for `backtrack`
        a: String,
        /// Another
        b: String,
    },
    /// Tell what happened: epochs, checkpoints, rewinds and snapshots, oldest first
    History {
        #[arg(help = VOLUME)]
        volume: common::At,
    },
    /// Tell the state of a volume, damaged or beside a running writer
    Info {
        #[arg(help = VOLUME)]
        volume: common::At,
    },
    /// Read every record of every copy, compare the six, and read every page; changes nothing
    Verify {
        #[arg(help = VOLUME)]
        volume: common::At,
    },
    /// Fill, compare and mend until six copies are whole: exit status 0 when they are. Without a running writer it does
    /// the work and waits for it; beside one it tells what that one has still to do
    Repair {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// Beside a running writer: wait until it is done. Without one it always waits
        #[arg(long)]
        wait: bool,
        /// Give up after so many seconds
        #[arg(long, default_value_t = 86_400)]
        timeout: u64,
    },
    /// Compare the six copies of everything now, and mend what is missing or damaged
    Scrub {
        #[arg(help = VOLUME)]
        volume: common::At,
    },
    /// Give back at once all the space that dead pages take; a running writer does so by itself when it is a fifth
    Compact {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// Give up after so many seconds
        #[arg(long, default_value_t = 86_400)]
        timeout: u64,
    },
    /// Put another directory in a slot's place, also while a writer works, and have it filled. The old one is kept beside
    /// the link that takes its name: delete it once the slot is whole
    Replace {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// The slot, 0 to 5
        #[arg(value_parser = clap::value_parser!(u8).range(0..6))]
        slot: u8,
        /// An empty directory, or one that is made; best below the mount point of a disk of its own
        directory: PathBuf,
        /// Wait until the slot is whole
        #[arg(long)]
        wait: bool,
        /// Give up waiting after so many seconds
        #[arg(long, default_value_t = 86_400)]
        timeout: u64,
    },
    /// Print the records of the log, a line each
    Log {
        #[arg(help = VOLUME)]
        volume: common::At,
        /// Begin with the record at or behind this LSN
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Measure commits and reads, and beside them what the disks allow; the log that it writes stays
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Bench {
        #[command(subcommand)]
        what: Option<Bench>,
        #[arg(help = VOLUME, required = true)]
        volume: Option<common::At>,
        /// About how long
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// Only these, with commas between; all the time is theirs
        #[arg(long, value_delimiter = ',', value_parser = bench::ALL)]
        only: Vec<String>,
    },
    #[command(hide = true)]
    BenchChild {
        volume: common::At,
        #[arg(long)]
        fill: Option<u64>,
    },
    /// Run simulated lifetimes; a seed is one, and repeats to the byte
    #[cfg(feature = "sim")]
    Sim {
        /// The one seed to run
        #[arg(long, conflicts_with = "seeds")]
        seed: Option<u64>,
        /// The seeds to run: A..B, without B
        #[arg(long, value_parser = sim::seeds)]
        seeds: Option<std::ops::Range<u64>>,
        /// Stop after so many minutes
        #[arg(long, value_parser = bench::minutes)]
        minutes: Option<f64>,
        /// Steps of a life
        #[arg(long, default_value_t = 500)]
        steps: u64,
        /// Threads, each with lives of its own
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
        workers: u64,
        /// Let faults go beyond what six copies can bear, and demand honesty alone
        #[arg(long)]
        beyond: bool,
        /// Leave out these faults of the run, by their numbers
        #[arg(long, value_delimiter = ',')]
        without: Vec<u64>,
        /// Print every event
        #[arg(long)]
        verbose: bool,
    },
    /// Run simulated lives with each planted bug, until it is seen
    #[cfg(all(feature = "sim", quorate_bugs))]
    Bugs {
        /// Lives for each bug
        #[arg(long, default_value_t = 2000)]
        lives: u64,
        /// Only these
        only: Vec<String>,
    },
    /// Search every interleaving of writers, openers and faults within bounds; tells what was not exhausted
    #[cfg(feature = "sim")]
    Explore {
        /// How much may happen: with small it takes less than a minute, with full as long as it is let
        #[arg(long, value_enum, default_value = "small")]
        bounds: explore::Size,
        /// Only scenarios whose names hold this
        #[arg(long)]
        only: Option<String>,
        /// Go as far as memory allows, for so many minutes, shared among the scenarios
        #[arg(long, value_parser = bench::minutes)]
        minutes: Option<f64>,
    },
    /// The main job in a minute: keep a file, destroy an AZ and one more copy, read it back, and let the volume heal
    Demo {
        /// Where the demo works, in a directory of its own; the current one by default
        directory: Option<PathBuf>,
        /// The file; the running program by default
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Measure healing on a volume of its own, of which it wipes an AZ again and again: rebuild, scrub, and commits beside
    /// it; then remove it. Takes eight times --gib of space in all
    Heal {
        /// Where: one directory, or three with commas between, one a disk
        under: common::At,
        /// Log of the volume
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
        gib: u64,
        /// ... in MiB
        #[arg(long, hide = true, conflicts_with = "gib")]
        mib: Option<u64>,
        /// How often each side is measured; what is told are medians
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
        rounds: u32,
        /// How long sixteen threads commit, alone and beside healing
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
    /// Measure commits during checkpoints and between them, on a volume of its own; then remove it
    Checkpoint {
        /// Where: one directory, or three with commas between, one a disk
        under: common::At,
        /// Pages of the volume, that are patched uniformly
        #[arg(long, default_value_t = 256 << 10, value_parser = clap::value_parser!(u64).range(1000..=16 << 20))]
        pages: u64,
        /// MiB of log between two checkpoints
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1024))]
        every_mib: u64,
        /// How often it is measured; what is told are medians
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
        rounds: u32,
        /// How long each round is, for one thread and for sixteen
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
    /// Measure how the cost of a commit grows with threads, with the bytes that it changes and with the volume, on volumes of
    /// its own; then remove them. Takes up to nine GiB of space in all
    Scale {
        /// Where: one directory, or three with commas between, one a disk
        under: common::At,
        /// How long each is measured
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
    /// Write random pages of a volume of its own again and again, a third of them whole and of the others 200 bytes, and
    /// tell whether it stays flat; then compare every page, before and after a close, verify, and remove it. Takes about
    /// twenty times --live-mib of space in all
    ///
    /// Each second: what is allocated, live, pinned and kept in reserve, what devices hold; log appended, and what slots
    /// wrote (a sixth of it), for each byte that was written into pages: an image counts with the page's size, a patch with
    /// its 200 bytes, so that records' headers, the table, superblocks and pages written anew by reclaiming are what is above
    /// 1; times of reads of random pages beside it, one in 2 ms, without a cache.
    ///
    /// It has no limit of space but its bound: 1.35 times what lives, so that three quarters of it do, and what is pinned and
    /// the reserve, as the volume tells them. What lives are the pages' bytes as written, not the volume's estimate.
    ///
    /// Ends with an error unless, in the second half of the samples, allocated is at most 1.1 times its bound in each,
    /// what devices hold (medians of quarters) at most 1.1 times six copies of allocated, reserve and 66 MiB of space ahead, and
    /// medians of allocated and of log per byte are in the last quarter at most 1.3 times those of the second quarter. Times
    /// of reads are told, and not judged: they are the disk's.
    Churn {
        /// Where: one directory, or three with commas between, one a disk
        under: common::At,
        /// MiB of pages that live
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
        live_mib: u64,
        /// Stop when so many times as much was written
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        times: u64,
        /// ... or after so many minutes
        #[arg(long, default_value_t = 10.0, value_parser = bench::minutes)]
        minutes: f64,
        /// MiB of log between two checkpoints
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
        every_mib: u64,
        /// Write three plots over time to this file
        #[arg(long)]
        svg: Option<PathBuf>,
    },
}

fn run(cli: Cli) -> Result<(), Fail> {
    let io = Io::new(cli.global.json, cli.global.threads, cli.global.allow_volatile);
    match cli.verb {
        Verb::Create { volume, page_size, pg_size, window, window_bytes } => {
            create::run(&io, &volume, page_size, pg_size, (window, window_bytes))
        }
        Verb::Import { volume, files, name } => import::run(&io, &volume, &files, name),
        Verb::Ls { volume, visible, at } => files::ls(&io, &volume, visible, at.as_deref()),
        Verb::Export { volume, name, file, visible, at } => {
            files::export(&io, &volume, &name, &file, visible, at.as_deref())
        }
        Verb::Rm { volume, name } => files::rm(&io, &volume, &name),
        Verb::Snapshot { volume, name } => past::snapshot(&io, &volume, &name),
        Verb::Snapshots { volume } => past::snapshots(&io, &volume),
        Verb::Forget { volume, name } => past::forget(&io, &volume, &name),
        Verb::Window { volume, time, bytes } => past::window(&io, &volume, time, bytes),
        Verb::Backtrack { volume, to, dry_run } => past::backtrack(&io, &volume, &to, dry_run),
        Verb::Clone { volume, target, at } => past::clone(&io, &volume, &target, at.as_deref()),
        Verb::Diff { volume, a, b } => past::diff(&io, &volume, &a, &b),
        Verb::History { volume } => past::history(&io, &volume),
        Verb::Info { volume } => info::run(&io, &volume),
        Verb::Verify { volume } => verify::run(&io, &volume),
        Verb::Repair { volume, wait, timeout } => repair::repair(&io, &volume, wait, Duration::from_secs(timeout)),
        Verb::Scrub { volume } => repair::scrub(&io, &volume),
        Verb::Compact { volume, timeout } => compact::run(&io, &volume, Duration::from_secs(timeout)),
        Verb::Replace { volume, slot, directory, wait, timeout } => {
            replace::run(&io, &volume, slot, &directory, wait, Duration::from_secs(timeout))
        }
        Verb::Log { volume, from } => log::run(&io, &volume, from),
        Verb::Bench { what: Some(Bench::Heal { under, gib, mib, rounds, seconds }), .. } => {
            bench::heal(&io, &under, mib.unwrap_or(gib << 10), rounds, seconds)
        }
        Verb::Bench { what: Some(Bench::Checkpoint { under, pages, every_mib, rounds, seconds }), .. } => {
            bench::checkpoint(&io, &under, &bench::Plan { pages, every: every_mib, rounds, seconds })
        }
        Verb::Bench { what: Some(Bench::Scale { under, seconds }), .. } => bench::scale(&io, &under, seconds),
        Verb::Bench {
            what: Some(Bench::Churn { under, live_mib: live, times, minutes, every_mib: every, svg }),
            ..
        } => bench::churn(&io, &under, &bench::Churn { live, times, minutes, every, svg }),
        // Without a subcommand it is required.
        Verb::Bench { volume, seconds, only, .. } => {
            volume.map_or(Ok(()), |volume| bench::run(&io, &volume, seconds, &only))
        }
        Verb::BenchChild { volume, fill } => bench::child(&io, &volume, fill),
        #[cfg(feature = "sim")]
        Verb::Sim { seed, seeds, minutes, steps, workers, beyond, without, verbose } => {
            let seeds = match (seed, seeds) {
                (Some(seed), _) => seed..seed.saturating_add(1),
                (None, Some(seeds)) => seeds,
                (None, None) if minutes.is_some() => 0..u64::MAX,
                (None, None) => 0..1000,
            };
            let most = minutes.map(|m| std::time::Duration::from_secs_f64(m * 60.0));
            let workers = workers as usize;
            sim::run(&io, &sim::Runs { seeds, most, steps, beyond, without, workers, verbose })
        }
        #[cfg(all(feature = "sim", quorate_bugs))]
        Verb::Bugs { lives, only } => bugs::run(&io, lives, &only),
        #[cfg(feature = "sim")]
        Verb::Explore { bounds, only, minutes } => {
            let most = minutes.map(|m| std::time::Duration::from_secs_f64(m * 60.0));
            explore::run(&io, bounds, only.as_deref(), most)
        }
        Verb::Demo { directory, file } => demo::run(&io, directory, file),
    }
}

/// clap's error in one line.
fn usage(e: &clap::Error) -> Fail {
    let text = e.to_string();
    let lines = text.lines().map(str::trim).take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more"));
    let line = lines.filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    Fail::usage(format!("{}; `quorate --help` tells more", line.trim_start_matches("error: ")))
}

fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => Err(usage(&e)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            if !fail.text.is_empty() {
                common::complain("error", anstyle::AnsiColor::Red, &fail.text);
            }
            ExitCode::from(fail.status)
        }
    }
}
