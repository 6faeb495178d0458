//! The command's verbs of the past, run as a process.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

fn run(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate")).args(args).stdin(Stdio::null()).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn ok(args: &[&str]) -> String {
    let (code, out, err) = run(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    out
}

fn json(args: &[&str]) -> serde_json::Value {
    let out = ok(args);
    serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{e}: {out}"))
}

fn fails(args: &[&str], code: i32, words: &str) {
    let (got, out, err) = run(args);
    assert_eq!((got, err.lines().count()), (code, 1), "{args:?}: {out} {err}");
    assert!(err.contains(words), "{args:?}: {err:?} lacks {words:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_mistake_is_undone() {
    let dir = common::dir();
    let (volume, other) = (dir.path().join("v"), dir.path().join("clone"));
    let (file, out) = (dir.path().join("file"), dir.path().join("out"));
    std::fs::create_dir(&volume).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::fs::write(&file, b"the first").unwrap();
    let v = text(&volume);
    ok(&["create", v, "--page-size", "4KiB", "--pg-size", "64MiB", "--window", "2h"]);
    ok(&["import", v, text(&file), "--name", "a"]);
    let taken = json(&["snapshot", v, "monday", "--json"]);
    fails(&["snapshot", v, "monday"], 1, "already");
    assert!(ok(&["snapshots", v]).contains("monday"));
    std::fs::write(&file, b"the second").unwrap();
    ok(&["import", v, text(&file), "--name", "a"]);
    ok(&["rm", v, "a"]);
    assert!(!ok(&["ls", v]).contains(" a"));
    assert!(ok(&["ls", v, "--at", "monday"]).contains(" a"));
    ok(&["export", v, "a", text(&out), "--at", "monday"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"the first");
    let lsn = taken["lsn"].to_string();
    assert!(ok(&["diff", v, "monday", &lsn]).starts_with("0 pages"));
    let now = json(&["snapshot", v, "now", "--json"])["lsn"].to_string();
    let diff = ok(&["diff", v, "monday", &now]);
    assert!(diff.starts_with("pages ") && !diff.contains("\n0 pages"), "{diff}");

    // A dry run changes nothing and tells the same.
    let dry = json(&["backtrack", v, "--to", "monday", "--dry-run", "--json"]);
    assert!(!ok(&["ls", v]).contains(" a") && dry.get("undo").is_none());
    let done = json(&["backtrack", v, "--to", "monday", "--json"]);
    assert_eq!((&done["lsn"], &done["time"]), (&dry["lsn"], &dry["time"]));
    ok(&["export", v, "a", text(&out)]);
    assert_eq!(std::fs::read(&out).unwrap(), b"the first");
    ok(&["backtrack", v, "--to", &done["undo"].to_string()]);
    assert!(!ok(&["ls", v]).contains(" a"));

    ok(&["clone", v, text(&other), "--at", "monday"]);
    ok(&["export", text(&other), "a", text(&out)]);
    assert_eq!(std::fs::read(&out).unwrap(), b"the first");
    let history = ok(&["history", v, "--json"]);
    for event in ["epoch", "checkpoint", "rewind", "snapshot"] {
        assert!(history.contains(&format!("\"event\":\"{event}\"")), "{history}");
    }
    assert!(ok(&["info", v]).contains("window"));
    ok(&["forget", v, "monday"]);
    fails(&["backtrack", v, "--to", "monday"], 2, "no snapshot and no moment");
    fails(&["backtrack", v, "--to", "3h ago"], 1, "is not kept");
    fails(&["backtrack", v, "--to", "99999999999"], 1, "above what is durable");
    fails(&["forget", v, "monday"], 1, "no snapshot");
    fails(&["window", v, "soon"], 2, "2h30m");
    ok(&["window", v, "off"]);
    assert!(!ok(&["info", v]).contains("window"));
    ok(&["verify", v]);
}

#[test]
fn the_windows_bytes_win_over_its_time() {
    let dir = common::dir();
    let (volume, file) = (dir.path().join("v"), dir.path().join("file"));
    std::fs::create_dir(&volume).unwrap();
    let v = text(&volume);
    ok(&["create", v, "--page-size", "4KiB", "--pg-size", "64MiB", "--window", "2h", "--window-bytes", "1MiB"]);
    let told = || json(&["info", v, "--json"])["past"].clone();
    assert_eq!((&told()["window_seconds"], &told()["window_bytes"]), (&7200.into(), &(1u64 << 20).into()));
    assert_eq!(told()["cut_short"], false);
    // Much more than that is the past's alone: it goes when space is asked for.
    for n in 0..2u64 {
        let bytes: Vec<u8> = (0..3 << 20).flat_map(|i: u64| (i * 31 + n).to_le_bytes()).collect();
        std::fs::write(&file, bytes).unwrap();
        ok(&["import", v, text(&file), "--name", "a"]);
        ok(&["compact", v]);
    }
    assert_eq!(told()["cut_short"], true, "{}", told());
    assert!(told()["oldest"].as_u64().unwrap() > 1 << 20);
    assert!(ok(&["info", v]).contains("window"));
    ok(&["window", v, "1d", "--bytes", "2GiB"]);
    assert_eq!((&told()["window_seconds"], &told()["window_bytes"]), (&86400.into(), &(2u64 << 30).into()));
}

#[test]
fn a_clone_by_the_command_shares_where_it_can() {
    let dir = common::dir();
    let Some(disk) = common::Mount::of(dir.path(), "xfs", 1 << 10, "xfs") else { return };
    let [volume, alone, beside] = ["v", "alone", "beside"].map(|name| disk.path.join(name));
    [&volume, &alone, &beside].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let v = text(&volume);
    ok(&["create", v, "--page-size", "4KiB", "--pg-size", "64MiB"]);
    let file = dir.path().join("file");
    std::fs::write(&file, vec![7; 1 << 20]).unwrap();
    ok(&["import", v, text(&file), "--name", "a"]);
    ok(&["snapshot", v, "monday"]);
    ok(&["rm", v, "a"]);
    let cloned = |to: &Path| {
        ok(&["clone", v, text(to), "--at", "monday"]);
        assert!(ok(&["ls", text(to)]).contains(" a"));
        common::is_shared(&to.join("az-0/slot-0/seg-00000000"))
    };
    assert!(cloned(&alone));
    // While somebody else writes it nobody holds back what is shared: it is copied.
    let held = quorate::Volume::open(&volume, &quorate::Options::default()).unwrap();
    assert!(!cloned(&beside));
    held.close().unwrap();
}

#[test]
fn a_moment_is_gone_back_to() {
    let dir = common::dir();
    let (volume, file) = (dir.path().join("v"), dir.path().join("file"));
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(&file, b"kept").unwrap();
    let v = text(&volume);
    ok(&["create", v, "--page-size", "4KiB", "--pg-size", "64MiB", "--window", "1d"]);
    ok(&["import", v, text(&file), "--name", "a"]);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    ok(&["rm", v, "a"]);
    ok(&["backtrack", v, "--to", "2s ago"]);
    assert!(ok(&["ls", v]).contains(" a"));
}
