//! What hot paths cost in instructions, counted by callgrind: a change that costs more is seen without a clock.
//!
//! `cargo bench --features fuzzing --bench instructions` compares with `benches/instructions.txt`, and fails where a path takes
//! 5 % more, or so much less that the record should be renewed: `-- --record` does. Everything runs in one thread and in
//! memory (`quorate::fuzzing::alone`), so that two runs take the same instructions. A compiler that is not the record's may
//! well come to others.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

mod long_log;

use long_log::{fill_one, long_log, options};
use quorate::PageId;
use quorate::fuzzing::alone::Alone;
use quorate::fuzzing::bench::{self, Appender};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const PAGE: usize = 16 << 10;
/// A path that takes so much more, or less, than what is recorded is told.
const TOLERATED: f64 = 0.05;

/// A path's name, and what prepares it: the piece that is measured is given to [`measured`].
const PATHS: [(&str, fn()); 8] = [
    ("encode 100 B", encode),
    ("append and publish 100 B", append),
    ("commit 100 B", commit),
    ("commit 8 pages", commit_pages),
    ("read, cached", read),
    ("look up in the table", lookup),
    ("scan 16 MiB of log at an open", scan),
    ("copy 16 MiB to a blank slot", copy),
];

/// What callgrind counts: it knows the function by its name.
#[inline(never)]
fn measured(piece: &mut dyn FnMut()) {
    piece();
    black_box(());
}

fn encode() {
    let (payload, mut out) = (vec![7; 100], vec![0; bench::encoded_len(100)]);
    measured(&mut || (0..1000).for_each(|_| bench::encode(black_box(&mut out), black_box(&payload))));
}

fn append() {
    let (payload, appender) = (vec![7; 100], Appender::new());
    measured(&mut || (0..1000).for_each(|_| appender.append(black_box(&payload))));
}

/// A volume of so many pages, which are in the table.
fn with_pages(pages: usize) -> (Alone, Vec<PageId>) {
    let alone = Alone::new(options());
    let (volume, _background) = alone.open();
    let ids = (0..pages).map(|_| fill_one(&volume)).collect();
    volume.close().unwrap();
    (alone, ids)
}

fn commit() {
    let (alone, _) = with_pages(0);
    let (volume, _background) = alone.open();
    measured(&mut || {
        for _ in 0..1000 {
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, black_box(&[7; 100]));
            mtr.commit().unwrap().wait().unwrap();
        }
    });
}

fn commit_pages() {
    let (alone, ids) = with_pages(8);
    let (volume, _background) = alone.open();
    let image = bytes::Bytes::from(vec![3; PAGE]);
    measured(&mut || {
        for _ in 0..100 {
            let mut mtr = volume.begin();
            for page in &ids {
                mtr.put(*page, image.clone());
            }
            mtr.commit().unwrap().wait().unwrap();
        }
    });
}

fn read() {
    let (alone, ids) = with_pages(100);
    let (volume, _background) = alone.open();
    ids.iter().for_each(|p| drop(volume.read(*p).unwrap()));
    measured(&mut || (0..10).for_each(|_| ids.iter().for_each(|p| drop(black_box(volume.read(*p).unwrap())))));
}

fn lookup() {
    let (alone, _) = with_pages(100);
    let (volume, _background) = alone.open();
    // A page that does not exist: two nodes of the table and no page.
    measured(&mut || (0..1000).for_each(|_| assert!(volume.read(black_box(PageId(1500))).is_err())));
}

fn scan() {
    let alone = long_log();
    measured(&mut || assert!(alone.scan() > 16 << 20));
}

fn copy() {
    let alone = long_log();
    alone.blank(5);
    let (_volume, background) = alone.open();
    measured(&mut || assert!(background.heal(100_000), "it does not heal"));
}

/// Counts a path's instructions, in a process of its own.
fn count(name: &str) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut valgrind = Command::new("valgrind");
    // `rep movsb` counts as an instruction a byte, and would hide all else.
    let no_rep = "glibc.cpu.x86_rep_movsb_threshold=0x40000000:glibc.cpu.x86_rep_stosb_threshold=0x40000000";
    valgrind.env("GLIBC_TUNABLES", no_rep);
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*measured*"]);
    let output = valgrind.arg(own).args(["--path", name]).output();
    let output = output.map_err(|e| format!("valgrind cannot be run ({e}): install it, as `.ci/run` does"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let counted = told.lines().find_map(|l| l.split_once("Collected :")).and_then(|(_, n)| n.trim().parse().ok());
    match counted {
        Some(counted) if output.status.success() && counted > 0 => Ok(counted),
        _ => Err(format!("{name}: it was not counted: {told}")),
    }
}

fn record() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt")
}

fn recorded() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(record()).unwrap_or_default();
    let lines = text.lines().filter_map(|l| l.split_once('\t'));
    lines.filter_map(|(n, name)| Some((name.to_string(), n.parse().ok()?))).collect()
}

fn compare(record_anew: bool) -> Result<(), String> {
    let (before, mut anew, mut wrong) = (recorded(), String::new(), String::new());
    for (name, _) in PATHS {
        let now = count(name)?;
        let _ = writeln!(anew, "{now}\t{name}");
        let change = before.get(name).map(|before| now as f64 / *before as f64 - 1.0);
        let told = change.map_or("not recorded".into(), |c| format!("{:+.2} %", 100.0 * c));
        println!("{now:>12}  {told:>12}  {name}");
        match change {
            Some(change) if change.abs() <= TOLERATED => (),
            _ => {
                let _ = writeln!(wrong, "{name}: {now} instructions, {told}");
            }
        }
    }
    if record_anew {
        return std::fs::write(record(), anew).map_err(|e| e.to_string());
    }
    let advice = "if that is as it should be: cargo bench --features fuzzing --bench instructions -- --record";
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong}{advice}")) }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(false),
        ["--record"] => compare(true),
        ["--path", name] => {
            let path = PATHS.iter().find(|(n, _)| *n == name);
            path.map(|(_, run)| run()).ok_or(format!("there is no path {name:?}"))
        }
        _ => Err("usage: instructions [--record | --path NAME]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
