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

/// A volume with a file of some size, closed.
fn with_file(dir: &Path) -> (PathBuf, Vec<u8>) {
    let at = volume(dir);
    let (file, contents) = (dir.join("input"), bytes(3_000_000, 9));
    std::fs::write(&file, &contents).unwrap();
    ok(&["import", text(&at), text(&file), "--name", "file"]);
    (at, contents)
}

fn slot(at: &Path, slot: usize) -> PathBuf {
    at.join(format!("az-{}", slot / 2)).join(format!("slot-{slot}"))
}

#[test]
fn verify_names_what_is_wrong_and_changes_nothing() {
    use std::os::unix::fs::FileExt;
    let dir = dir();
    let (at, contents) = with_file(dir.path());
    let v = text(&at);
    let clean = json(&ok(&["verify", v, "--json"]));
    assert_eq!((clean["clean"].as_bool(), clean["pages"].as_u64()), (Some(true), Some(pages(&at) as u64)));
    assert!(clean["bytes"].as_u64().unwrap() >= 6 * 3_000_000 && clean["records"].as_u64().unwrap() > 700);

    // One flipped byte, in the middle of a page's image.
    let segment = std::fs::File::options().read(true).write(true).open(slot(&at, 3).join("seg-00000000")).unwrap();
    let mut byte = [0];
    segment.read_exact_at(&mut byte, 1_500_000).unwrap();
    segment.write_all_at(&[byte[0] ^ 1], 1_500_000).unwrap();
    drop(segment);
    let one = run(&["verify", v, "--json"]);
    let found = json(&one.out)["differences"].clone();
    assert_eq!((one.code, one.err.lines().count(), found.as_array().unwrap().len()), (1, 1, 1), "{found}");
    let d = &found[0];
    assert_eq!(
        (d["slot"].as_u64(), d["file"].as_str(), d["kind"].as_str()),
        (Some(3), Some("seg-00000000"), Some("damaged"))
    );
    let lsn = d["lsn"].as_u64().unwrap();
    assert!(lsn <= 1_500_000 && lsn + 5000 > 1_500_000 && d["page"].is_u64(), "{d}");
    // The log says the same of that record.
    let record = ok(&["log", v, "--json", "--from", &lsn.to_string()]);
    let record = json(record.lines().next().unwrap());
    assert_eq!((&record["lsn"], &record["page"]), (&d["lsn"], &d["page"]));
    fails(&["verify", v], 1, &["1 differences", "nothing was changed"]);
    let out = run(&["verify", v]).out;
    assert!(out.contains("slot 3") && out.contains("seg-00000000") && out.contains(&format!("LSN {lsn}")), "{out}");

    // A short segment, one that is gone, a superblock with one bad place, one that is gone.
    std::fs::File::options().write(true).open(slot(&at, 0).join("seg-00000000")).unwrap().set_len(2_000_000).unwrap();
    std::fs::remove_file(slot(&at, 5).join("seg-00000000")).unwrap();
    let epoch = |s: usize| {
        let newest = std::fs::read_dir(slot(&at, s)).unwrap().map(|e| e.unwrap().path());
        newest.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("epoch-")).max().unwrap()
    };
    let bad = std::fs::File::options().write(true).open(epoch(1)).unwrap();
    bad.write_all_at(b"!", 200).unwrap();
    std::fs::remove_file(epoch(4)).unwrap();
    let found = json(&run(&["verify", v, "--json"]).out)["differences"].clone();
    let mut said: Vec<String> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            format!(
                "{} {} {}",
                d["slot"],
                d["kind"].as_str().unwrap(),
                d["file"].as_str().unwrap().split('-').next().unwrap()
            )
        })
        .collect();
    said.sort();
    assert_eq!(said, ["0 missing seg", "1 damaged epoch", "3 damaged seg", "4 missing epoch", "5 missing seg"]);
    assert!(export(&at, "file") == contents);
    assert_eq!(json(&run(&["verify", v, "--json"]).out)["differences"], found, "verifying mended nothing");
}

#[test]
fn info_tells_of_damage_and_beside_a_writer() {
    let dir = dir();
    let (at, contents) = with_file(dir.path());
    let v = text(&at);
    let info = |code: i32| {
        let ran = run(&["info", v, "--json"]);
        assert_eq!(ran.code, code, "{}", ran.err);
        json(&ran.out)
    };
    let oks = |info: &serde_json::Value| info["slots"].as_array().unwrap().iter().filter(|s| s["ok"] == true).count();
    let whole = info(0);
    assert_eq!((oks(&whole), whole["shared_devices"].as_array().unwrap().len()), (6, 3));
    assert!(whole["durability"] == "dsync" && ok(&["info", v]).contains("durability    dsync"));
    assert!(whole["writer"].is_null() && ok(&["info", v]).contains("writer        none"));
    assert!(whole["slots"][5]["bytes_allocated"].as_u64().unwrap() > 3_000_000 && whole["settled"] == whole["vdl"]);
    assert!(whole["azs"][0]["file_system"].is_string() && whole["io_uring"]["available"].is_boolean());

    let writer = Volume::open(at.as_path(), &Options::default()).unwrap();
    let mut mtr = writer.begin();
    let page = mtr.alloc().unwrap();
    mtr.patch(page, 0, b"beside");
    let commit = mtr.commit().unwrap();
    commit.wait().unwrap();
    let beside = info(0);
    assert_eq!(beside["epoch"].as_u64(), Some(whole["epoch"].as_u64().unwrap() + 1));
    assert!(beside["settled"].as_u64().unwrap() >= commit.lsn().0, "what was acknowledged is certain");
    let (pid, epoch) = (std::process::id(), beside["epoch"].as_u64().unwrap());
    assert_eq!(beside["writer"], serde_json::json!({ "pid": pid, "epoch": epoch }));
    let said = format!("writer        process {pid} has it open for writing (epoch {epoch})");
    assert!(ok(&["info", v]).contains(&said));
    assert!(export(&at, "file") == contents && ok(&["verify", v]).contains("records"));
    writer.close().unwrap();

    // An AZ and one more slot away: three copies are left.
    std::fs::rename(at.join("az-1"), dir.path().join("away")).unwrap();
    std::fs::rename(slot(&at, 4), dir.path().join("slot-away")).unwrap();
    let damaged = info(0);
    assert_eq!((oks(&damaged), damaged["azs"][1]["present"].as_bool()), (3, Some(false)));
    assert!(ok(&["info", v]).contains("slot 2        its directory is missing"));
    assert!(export(&at, "file") == contents);
    assert_eq!(run(&["verify", v]).code, 1);
    // One more: nothing can be read, and each slot still says why.
    std::fs::rename(slot(&at, 0), dir.path().join("slot-0-away")).unwrap();
    let gone = info(1);
    assert!(gone["error"].as_str().unwrap().contains("slot 2"), "{gone}");
    assert_eq!(gone["slots"].as_array().unwrap().len(), 6);
    fails(&["info", v], 1, &["slot 2", "missing"]);
    fails(&["ls", v], 1, &["3 are needed"]);
}

#[test]
fn small_protection_groups_are_made_as_the_log_grows() {
    let dir = dir();
    let (at, usual) = (volume(dir.path()), dir.path().join("usual"));
    let v = text(&at);
    let info = |at: &str| json(&ok(&["info", at, "--json"]));
    let before = info(v);
    assert_eq!((before["pg_size"].as_u64(), before["space"]["pgs"].as_array().unwrap().len()), (Some(64 << 20), 1));
    assert_eq!(before["space"]["log_bytes"].as_u64(), Some(64 << 20));
    let file = dir.path().join("file");
    let contents = bytes(70 << 20, 9);
    std::fs::write(&file, &contents).unwrap();
    ok(&["import", v, text(&file)]);
    let grown = info(v);
    let pgs = grown["space"]["pgs"].as_array().unwrap();
    assert_eq!((pgs[0]["pg"].as_u64(), pgs[1]["pg"].as_u64()), (Some(0), Some(1)), "{grown}");
    assert_eq!(pgs[0]["bytes"].as_u64(), Some(64 << 20), "the first one is full: {grown}");
    assert!(grown["space"]["log_bytes"].as_u64() >= Some(128 << 20) && grown["vdl"].as_u64() > Some(70 << 20));
    let text_of = ok(&["info", v]);
    assert!(text_of.contains(&format!("PG 0          {}  64.0 MiB of 64.0 MiB", "#".repeat(32))), "{text_of}");
    assert!(text_of.contains("PG 1          #") && text_of.contains("at most 64.0 TiB"), "{text_of}");
    assert!(export(&at, "file") == contents);
    for slot in ["az-0/slot-0", "az-2/slot-5"] {
        let files = std::fs::read_dir(at.join(slot)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let segments = files.filter(|name| name.starts_with("seg-")).count();
        assert_eq!(segments, pgs.len(), "{slot}");
    }
    // The usual ones, and sizes that there are not.
    std::fs::create_dir(&usual).unwrap();
    ok(&["create", text(&usual)]);
    assert_eq!(info(text(&usual))["pg_size"].as_u64(), Some(10 << 30));
    for size in ["32MiB", "65MiB", "0MiB", "2048GiB", "64"] {
        fails(&["create", text(&usual), "--pg-size", size], 2, &["--pg-size"]);
    }
}

#[test]
fn the_log_is_told_a_line_a_record() {
    let dir = dir();
    let (at, _) = with_file(dir.path());
    let all = ok(&["log", text(&at), "--json"]);
    let records: Vec<_> = all.lines().map(json).collect();
    assert_eq!(records[0]["page"], 0, "the root's first image");
    assert!(records.windows(2).all(|w| w[0]["lsn"].as_u64() < w[1]["lsn"].as_u64()));
    assert!(records.iter().filter(|r| r["kind"] == "image").count() > 730);
    assert!(records.iter().any(|r| r["kind"] == "manifest" && r["cpl"]["vdl"].is_u64()));
    let from = records[500]["lsn"].as_u64().unwrap();
    assert_eq!(ok(&["log", text(&at), "--from", &from.to_string()]).lines().count(), records.len() - 500);
    assert!(ok(&["log", text(&at)]).lines().next().unwrap().contains("image"));
}

#[test]
fn the_demo_shows_the_main_job() {
    let dir = dir();
    let out = ok(&["demo", text(dir.path())]);
    assert_eq!(out.matches("the same").count(), 5, "{out}");
    for step in ["the file is there", "the file is gone again", "it is there for good"] {
        assert!(out.contains(step), "{out}");
    }
    assert!(out.contains("gave the space back") && out.contains("on all disks, where"), "{out}");
    assert!(out.contains("4 of 6 slots ok") && out.contains("{2, 3, 4}"), "{out}");
    assert!(out.contains("grown past its first protection group") && out.contains("PG 1  "), "{out}");
    assert!(out.contains("all whole and equal") && out.ends_with("Six healthy copies again.\n"), "{out}");
    let file = dir.path().join("file");
    std::fs::write(&file, bytes(100_000, 3)).unwrap();
    ok(&["demo", text(dir.path()), text(&file), "--json"]).lines().for_each(|l| drop(json(l)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "it leaves nothing behind");
    fails(&["demo", text(&dir.path().join("missing"))], 1, &["check the path"]);
}

#[test]
fn reading_beside_a_busy_writer_never_sees_damage() {
    let dir = dir();
    let at = volume(dir.path());
    let writer = Volume::open(at.as_path(), &Options::default()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut page = None;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let mut mtr = writer.begin();
                let id = page.unwrap_or_else(|| mtr.alloc().unwrap());
                page = Some(id);
                for i in 0..100u8 {
                    mtr.put(id, vec![i; 4096]);
                }
                drop(mtr.commit().unwrap());
            }
        });
        let begun = Instant::now();
        let mut settled = quorate::Lsn::NONE;
        while begun.elapsed() < std::time::Duration::from_secs(2) {
            let reader = Volume::open_read_only(at.as_path(), &Options::default());
            let now = reader.map(|r| r.settled());
            stop.store(now.is_err(), std::sync::atomic::Ordering::Relaxed);
            let now = now.unwrap();
            assert!(now >= settled, "what is certain stays");
            settled = now;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    writer.close().unwrap();
}

#[test]
fn the_healing_bench_tells_each_figure_and_leaves_nothing() {
    let dir = dir();
    let args = ["bench", "heal", text(dir.path()), "--mib", "128", "--rounds", "1", "--seconds", "1", "--json"];
    let all = json(&ok(&args));
    for key in [
        "rebuild_x",
        "rebuild_plain_x",
        "scrub_x",
        "scrub_plain_x",
        "commit_p99_x",
        "whole_after_s",
        "rebuild_beside_per_s",
        "memory_bytes",
    ] {
        assert!(all[key].as_f64().unwrap() > 0.0, "{key}: {all}");
    }
    assert!(all["log_bytes"].as_u64().unwrap() > 128 << 20, "{all}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_bench_tells_each_figure_and_its_floor() {
    let dir = dir();
    let at = volume(dir.path());
    for flag in ["--json", "--threads"] {
        let out = ok(&["bench", text(&at), "--seconds", "2", "--json", flag][..if flag == "--json" { 5 } else { 6 }]);
        let all = json(&out);
        let keys: Vec<_> = all.as_object().unwrap().keys().map(String::as_str).collect();
        let want =
            ["read_cold", "read_hot_1", "read_hot_2", "commit_1", "commit_16", "commit_pipelined_64", "put_8_pages"];
        assert_eq!((&keys[..7], keys[7]), (&want[..], "reopen_after_kill"));
        for (key, m) in all.as_object().unwrap() {
            assert!(
                m["p50_us"].as_f64().unwrap() > 0.0 && m["p99_us"].is_f64() && m["per_s"].as_f64().unwrap() > 0.0,
                "{key}: {m}"
            );
            assert_eq!(m["floor_p50_us"].is_null(), key == "reopen_after_kill");
            assert_eq!(m["bytes_written"].is_u64(), key.starts_with("commit") || key.starts_with("put"), "{key}: {m}");
        }
    }
    let all = json(&ok(&["bench", text(&at), "--seconds", "1", "--json", "--only", "commit_1"]));
    assert_eq!(all.as_object().unwrap().len(), 1, "{all}");
    assert!(all["commit_1"]["cpu_us"].as_f64().unwrap() > 0.0, "{all}");
    assert_eq!(ok(&["ls", text(&at)]), "", "it leaves no file");
    let left: Vec<_> = std::fs::read_dir(at.join("az-0")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(
        left.iter().all(|n| n.to_str().unwrap().starts_with("slot-") || n.to_str().unwrap().starts_with("lock-")),
        "{left:?}"
    );
}

/// A pipe into `head`.
#[cfg(feature = "sim")]
#[test]
fn who_reads_the_lines_may_have_enough() {
    let child = command(&["sim", "--seed", "5", "--steps", "5000", "--verbose"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().is_some());
    drop(lines);
    let ended = ran(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (141, ""));
}

#[test]
fn compact_gives_back_what_was_removed() {
    let dir = dir();
    let at = volume(dir.path());
    let v = text(&at);
    let (big, small) = (dir.path().join("big"), dir.path().join("small"));
    std::fs::write(&big, bytes(150 << 20, 4)).unwrap();
    std::fs::write(&small, bytes(1 << 20, 5)).unwrap();
    ok(&["import", v, text(&big)]);
    ok(&["import", v, text(&small)]);
    ok(&["rm", v, "big"]);
    let space = || json(&ok(&["info", v, "--json"]))["space"].clone();
    let before = space();
    let number = |s: &serde_json::Value, of: &str| s["copy"][of].as_u64().unwrap();
    assert!(number(&before, "dead") > 100 << 20 && number(&before, "live") < 60 << 20, "{before}");
    let out = ok(&["compact", v]);
    assert!(out.contains("on all disks, where"), "{out}");
    let after = space();
    let bytes_of = |s: &serde_json::Value| s["device_bytes"].as_u64().unwrap();
    assert!(bytes_of(&after) < bytes_of(&before) / 2 && number(&after, "allocated") < 100 << 20, "{before} {after}");
    let chart = ok(&["info", v]);
    assert!(chart.contains("of one copy") && chart.contains("pinned 0 B"), "{chart}");
    assert!(export(&at, "small") == bytes(1 << 20, 5));
    ok(&["verify", v]);
    fails(&["compact", text(&dir.path().join("missing"))], 1, &["missing"]);
    // Not beside a writer.
    let writer = quorate::Volume::open(at.clone(), &quorate::Options::default()).unwrap();
    fails(&["compact", v], 1, &["has the volume open for writing", "Volume::compact"]);
    drop(writer);
}

/// What is exported to where the program speaks is not mixed with what it says, and no link is replaced by a file.
#[test]
fn an_export_goes_through_a_link_and_to_the_output() {
    let dir = dir();
    let at = volume(dir.path());
    let v = text(&at);
    let [file, link, target] = ["in", "link", "target"].map(|name| dir.path().join(name));
    std::fs::write(&file, b"content").unwrap();
    ok(&["import", v, text(&file), "--name", "file"]);
    assert_eq!(ok(&["export", v, "file", "/dev/stdout"]), "content");
    std::fs::write(&target, b"what was there, and is longer").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    ok(&["export", v, "file", text(&link)]);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(&target).unwrap(), b"content");
    fails(&["snapshot", v, "20261130"], 2, &["LSN"]);
}
