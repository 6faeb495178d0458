//! The command, run as a process: every verb, exit statuses, kills, damage.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use quorate::{Options, Volume};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(args).stdin(Stdio::null());
    command
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn run(args: &[&str]) -> Ran {
    ran(command(args).output().unwrap())
}

fn ok(args: &[&str]) -> String {
    let ran = run(args);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    ran.out
}

/// It fails with one line that says all of `words`.
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let ran = run(args);
    assert_eq!((ran.code, ran.err.lines().count()), (code, 1), "{args:?}: {} {}", ran.out, ran.err);
    words.iter().for_each(|w| assert!(ran.err.contains(w), "{args:?}: {:?} lacks {w:?}", ran.err));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that no two pages share.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}

/// A new volume of small pages: trees get high soon.
fn volume(dir: &Path) -> PathBuf {
    let at = dir.join("volume");
    std::fs::create_dir(&at).unwrap();
    ok(&["create", text(&at), "--page-size", "4KiB", "--pg-size", "64MiB"]);
    at
}

fn export(at: &Path, name: &str) -> Vec<u8> {
    let out = at.with_extension("out");
    ok(&["export", text(at), name, text(&out)]);
    std::fs::read(out).unwrap()
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

fn pages(at: &Path) -> usize {
    Volume::open_read_only(at, &Options::default()).unwrap().view().pages().unwrap().len()
}

#[test]
fn files_go_in_and_come_out() {
    let dir = dir();
    let at = volume(dir.path());
    let v = text(&at);
    let file = dir.path().join("file");
    // About a page, about a batch, about a full index page, two levels of them.
    for len in [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 509 * 4096, 509 * 4096 + 1, 9_000_000] {
        let contents = bytes(len, len as u64);
        std::fs::write(&file, &contents).unwrap();
        assert_eq!(ok(&["import", v, text(&file)]), format!("stored file {len}\n"));
        assert!(export(&at, "file") == contents, "{len}");
        assert_eq!(ok(&["ls", v]).trim(), format!("{len}  file"));
    }
    let other = dir.path().join("other");
    std::fs::write(&other, b"other").unwrap();
    let out = ok(&["import", v, text(&other), text(&file), "--json"]);
    let stored: Vec<_> = out.lines().map(json).collect();
    assert_eq!((stored[0]["stored"].as_str(), stored[1]["bytes"].as_u64()), (Some("other"), Some(9_000_000)));
    ok(&["import", v, text(&other), "--name", "ein Name, länger"]);
    let names: Vec<_> = ok(&["ls", v, "--json"]).lines().map(|l| json(l)["name"].clone()).collect();
    assert_eq!(names, ["ein Name, länger", "file", "other"]);
    assert_eq!(export(&at, "ein Name, länger"), b"other");
    for name in ["file", "other", "ein Name, länger"] {
        ok(&["rm", v, name]);
    }
    assert_eq!(ok(&["ls", v]), "");
    assert_eq!(pages(&at), 1, "all pages but the root were freed");
    fails(&["rm", v, "file"], 1, &["file", "no such file", "quorate ls"]);
    fails(&["export", v, "file", text(&other)], 1, &["no such file"]);
    assert_eq!(std::fs::read(&other).unwrap(), b"other", "a failed export leaves the target alone");
}

#[test]
fn many_names_share_the_directory() {
    let dir = dir();
    let at = volume(dir.path());
    let mut args = vec!["import".to_string(), text(&at).to_string()];
    let mut want = Vec::new();
    for i in 0..1500 {
        let name = format!("{i:04}-{}", "n".repeat(200));
        let file = dir.path().join(&name);
        std::fs::write(&file, i.to_string()).unwrap();
        args.push(text(&file).to_string());
        want.push(name);
    }
    ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let names: Vec<_> = ok(&["ls", text(&at), "--json"]).lines().map(|l| json(l)["name"].clone()).collect();
    assert_eq!(names, want);
    assert_eq!(export(&at, &want[777]), b"777");
    ok(&["rm", text(&at), &want[777]]);
    assert_eq!(ok(&["ls", text(&at)]).lines().count(), 1499);
}

#[test]
fn bad_usage_is_told_in_one_line() {
    let dir = dir();
    let at = volume(dir.path());
    let v = text(&at);
    let d = text(dir.path());
    let missing = format!("{d}/missing");
    let long = "x".repeat(256);
    let this = file!();
    for (args, code, words) in [
        (&[][..], 2, &["--help"][..]),
        (&["frob"], 2, &["frob", "--help"]),
        (&["import", v], 2, &["FILES", "--help"]),
        (&["create", v, "--page-size", "16K"], 2, &["16K", "KiB"]),
        (&["create", v, "--page-size", "12KiB"], 2, &["power of two"]),
        (&["create", v, "--pg-size", "1MiB"], 2, &["64MiB"]),
        (&["create", "a,b"], 2, &["three"]),
        (&["create", "a,b,c,d"], 2, &["three"]),
        (&["create", v], 1, &["not empty"]),
        (&["create", &missing], 1, &["missing", "create it"]),
        (&["create", this], 1, &["not a directory"]),
        (&["create", &format!("{d},{d},{d}")], 1, &["twice"]),
        (&["import", v, &missing], 1, &["missing", "check the path"]),
        (&["import", v, d, "--name", "x"], 1, &["is a directory"]),
        (&["import", v, this, "--name", &long], 2, &["255"]),
        (&["import", v, this, "--name", "a\nb"], 2, &["control"]),
        (&["import", v, this, "--name", ""], 2, &["255"]),
        (&["import", v, this, this, "--name", "x"], 2, &["one file"]),
        (&["import", d, this], 1, &["holds no volume"]),
        (&["ls", &missing], 1, &["missing"]),
    ] {
        fails(args, code, words);
    }
    assert!(ok(&["--help"]).contains("import") && ok(&["--version"]).starts_with("quorate "));
    assert_eq!(ok(&["ls", v]), "", "nothing of it was stored");
}

#[test]
fn one_directory_is_warned_of_and_a_writer_is_alone() {
    let dir = dir();
    let one = dir.path().join("one");
    std::fs::create_dir(&one).unwrap();
    let made = run(&["create", text(&one)]);
    assert!(made.code == 0 && made.err.contains("failure domain") && made.err.lines().count() == 1, "{}", made.err);
    let three: Vec<PathBuf> = ["a", "b", "c"].iter().map(|d| dir.path().join(d)).collect();
    three.iter().for_each(|d| std::fs::create_dir(d).unwrap());
    let at = three.iter().map(|d| text(d)).collect::<Vec<_>>().join(",");
    ok(&["create", &at, "--json"]);
    let held = Volume::open([&three[0], &three[1], &three[2]].map(PathBuf::from), &Options::default()).unwrap();
    let pid = std::process::id().to_string();
    fails(&["import", &at, file!(), "--name", "x"], 1, &[&pid, "open for writing"]);
    assert_eq!(ok(&["ls", &at]), "", "beside the writer");
    held.close().unwrap();
    for threads in [false, true] {
        let flag = if threads { "--threads" } else { "--json" };
        ok(&["import", &at, file!(), "--name", "x", flag]);
    }
}

#[test]
fn a_killed_import_leaves_a_file_whole_or_not_at_all() {
    let dir = dir();
    let at = volume(dir.path());
    let v = text(&at);
    let (old, new) = (bytes(700_000, 1), bytes(12_000_000, 2));
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::write(&a, &old).unwrap();
    std::fs::write(&b, &new).unwrap();
    ok(&["import", v, text(&a), "--name", "file"]);
    let few = pages(&at);
    let begun = Instant::now();
    ok(&["import", v, text(&b), "--name", "whole"]);
    let whole = begun.elapsed();
    ok(&["rm", v, "whole"]);
    let mut cut = 0;
    for round in 0..8u32 {
        let mut child = command(&["import", v, text(&b), "--name", "file"]).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(whole * (round + 1) / 9);
        child.kill().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines().next();
        child.wait().unwrap();
        let is = export(&at, "file");
        if said.is_some() {
            assert!(is == new, "what was acknowledged is there");
        }
        assert!(is == old || is == new, "whole or not at all");
        cut += usize::from(is == old);
        // The next verb that writes frees what the kill left.
        ok(&["import", v, text(&a), "--name", "file"]);
        assert!(export(&at, "file") == old);
        assert_eq!(pages(&at), few, "round {round}");
    }
    assert!(cut > 0, "some kills came in the midst of it");
}

