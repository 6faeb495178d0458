//! `quorate repair`, `scrub` and `replace`, and what a running volume does with directories that are emptied, replaced by
//! links, or gone.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

mod common;

use common::slot;
use quorate::{Options, PageId, ReplaceError, Slot, Volume};
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MOST: Duration = Duration::from_secs(60);

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate")).args(args).stdin(Stdio::null()).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn ok(args: &[&str]) -> String {
    let ran = run(args);
    assert_eq!(ran.code, 0, "{args:?}: {} {}", ran.out, ran.err);
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

fn options() -> Options {
    Options::default().page_size(4096).pg_size(64 << 20)
}

/// How the command names the volume.
fn named(at: &Path) -> String {
    common::azs(at).iter().map(|az| text(az)).collect::<Vec<_>>().join(",")
}

fn open(at: &Path) -> Volume {
    Volume::open(common::placement(at), &options()).unwrap()
}

/// Some pages, and a clean close.
fn volume(at: &Path) -> Volume {
    common::make_azs(at);
    let volume = Volume::create(common::placement(at), &options()).unwrap();
    for i in 0..400u64 {
        let mut mtr = volume.begin();
        let page = mtr.alloc().unwrap();
        mtr.put(page, i.to_le_bytes().repeat(512));
        drop(mtr.commit().unwrap());
    }
    volume.sync().wait().unwrap();
    volume
}

fn closed(at: &Path) -> String {
    volume(at).close().unwrap();
    named(at)
}

fn flip(file: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
}

/// Until it is so; for as long as a slow machine may need.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < MOST, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn all_live(volume: &Volume) -> bool {
    volume.health().slots.iter().all(|s| s.away.is_none())
}

/// All six copies are whole and the same.
fn is_clean(at: &Path) {
    let found = Volume::open_read_only(common::placement(at), &options()).unwrap().verify();
    assert!(found.is_clean(), "{:?} {:?}", found.differences, found.unreadable);
}

#[test]
fn repair_and_scrub_make_verify_clean_again() {
    let dir = common::dir();
    let at = dir.path();
    let v = &closed(at);
    assert_eq!(ok(&["repair", v]), "whole: six copies, and nothing was wrong\n");
    assert!(ok(&["info", v]).contains("repair        whole"));

    flip(&slot(at, 3).join("seg-00000000"), 900_000);
    empty(&slot(at, 1));
    fails(&["verify", v], 1, &["2 differences"]);
    assert!(ok(&["info", v]).contains("repair        5 of 6 slots are whole"));
    let out = ok(&["repair", v]);
    assert!(out.contains("slot 1: ") && out.contains("slot 3: ") && out.contains("whole: six copies"), "{out}");
    ok(&["verify", v]);

    flip(&slot(at, 5).join("seg-00000000"), 700_000);
    fails(&["verify", v], 1, &["1 differences"]);
    let out = ok(&["scrub", v, "--json"]);
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert!(last["whole"] == true && last["mends"].as_u64() > Some(0) && out.contains("\"slot\":5"), "{out}");
    ok(&["verify", v]);
    let info: serde_json::Value = serde_json::from_str(&ok(&["info", v, "--json"])).unwrap();
    assert!(info["repair"]["whole"] == true && info["repair"]["bytes_left"] == 0, "{info}");

    // What is not there cannot be mended.
    fs::rename(&common::azs(at)[2], at.join("away")).unwrap();
    fails(&["repair", v], 1, &["slot 4", "slot 5", "missing"]);
    fails(&["scrub", v], 1, &["slot 4", "slot 5"]);
    fs::rename(at.join("away"), &common::azs(at)[2]).unwrap();
    ok(&["repair", v]);
    ok(&["verify", v]);
}

#[test]
fn a_slot_is_replaced_under_load_and_again_when_it_is_a_link() {
    let dir = common::dir();
    let (at, v) = (dir.path(), named(dir.path()));
    let volume = volume(at);
    let (stop, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    let news = ["one", "two", "three"].map(|n| at.join(n));
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (volume, stop, commits) = (&volume, &stop, &commits);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    common::patch(volume, PageId(1 + thread), 0, &commits.load(Ordering::Relaxed).to_le_bytes());
                    commits.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let moves = || {
                let before = commits.load(Ordering::Relaxed);
                until("commits go on", || commits.load(Ordering::Relaxed) > before + 10);
            };
            moves();
            // By another process, of a directory and of a link.
            for new in &news[..2] {
                let out = ok(&["replace", &v, "2", text(new), "--wait", "--timeout", "60"]);
                assert!(out.contains("delete it once the slot is whole"), "{out}");
                assert_eq!(fs::read_link(slot(at, 2)).unwrap(), *new);
                moves();
            }
            // And by the process itself.
            let old = loop {
                // Under load a slot is behind now and then.
                match volume.replace(Slot(2), &news[2]) {
                    Err(ReplaceError::TooFew { .. }) => std::thread::sleep(Duration::from_millis(10)),
                    other => break other.unwrap(),
                }
            };
            assert!(old.unwrap().ends_with("slot-2.replaced-2"));
            until("the slot is back", || volume.health().slots[2].away.is_none());
            moves();
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    until("all are live", || all_live(&volume));
    assert!(volume.wait_repaired(MOST));
    is_clean(at);
    // The old ones are the user's.
    for n in 0..3 {
        let old = slot(at, 2).with_extension(format!("replaced-{n}"));
        assert!(old.join("seg-00000000").is_file(), "{}", old.display());
    }
    volume.close().unwrap();
    news[..2].iter().for_each(|new| fs::remove_dir_all(new).unwrap());
    open(at).close().unwrap();
    assert!(ok(&["verify", &v]).contains("records"));
}

#[test]
fn wrong_replacements_are_refused_and_change_nothing() {
    let dir = common::dir();
    let at = &dir.path().join("volume");
    fs::create_dir(at).unwrap();
    let v = &closed(at);
    let (full, new) = (dir.path().join("full"), dir.path().join("new"));
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "mine").unwrap();
    symlink(dir.path().join("nowhere"), dir.path().join("dangling")).unwrap();
    let d = text(dir.path());
    let path = |name: &str| format!("{d}/{name}");
    let before = common::bytes_below(at);
    for (slot, directory, code, words) in [
        ("9", path("new"), 2, &["9", "--help"][..]),
        ("-1", path("new"), 2, &["--help"]),
        ("3", path("full"), 1, &["full", "not empty"]),
        ("3", path("full/file"), 1, &["not a directory"]),
        ("3", path("missing/new"), 1, &["missing/new", "no such directory"]),
        ("3", path("dangling"), 1, &["dangling", "no such directory"]),
        ("3", path("volume/b/slot-3"), 1, &["is the directory of slot 3 already"]),
        ("3", path("volume/b/slot-2"), 1, &["the volume's own"]),
        ("3", path("volume/a/new"), 1, &["the volume's own"]),
        ("3", path("volume/c"), 1, &["the volume's own"]),
        ("3", "/proc/self".into(), 1, &["/proc"]),
    ] {
        fails(&["replace", v, slot, &directory], code, words);
    }
    assert!(common::bytes_below(at) == before && !new.exists());
    fails(&["replace", "nowhere", "3", text(&new)], 1, &["nowhere"]);
    assert!(run(&["replace", v, "3"]).code == 2);

    // Four other slots must be live; one that is dead itself can be replaced all the same.
    fs::rename(&common::azs(at)[0], dir.path().join("away")).unwrap();
    fails(&["replace", v, "3", text(&new)], 1, &["slot 3 is not replaced", "four are needed"]);
    assert!(!new.exists());
    fails(&["replace", v, "0", text(&new)], 1, &["mount a disk at that path instead"]);
    let writer = open(at);
    fails(&["replace", v, "3", text(&new)], 1, &["slot 3 is not replaced"]);
    assert!(
        matches!(writer.replace(Slot(3), &new), Err(ReplaceError::TooFew { slot: Slot(3), live }) if live.len() == 3)
    );
    assert!(matches!(writer.replace(Slot(6), &new), Err(ReplaceError::NoSuchSlot(_))));
    assert!(!slot(at, 3).is_symlink());
    writer.close().unwrap();

    // Another volume's disk in the AZ's place is left alone.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    closed(&other);
    symlink(&common::azs(&other)[0], &common::azs(at)[0]).unwrap();
    fails(&["replace", v, "0", text(&new)], 1, &["another volume"]);
    fs::remove_file(&common::azs(at)[0]).unwrap();
    fs::rename(dir.path().join("away"), &common::azs(at)[0]).unwrap();

    // A slot that is no directory any more.
    fs::remove_dir_all(slot(at, 0)).unwrap();
    fs::write(slot(at, 0), "").unwrap();
    ok(&["replace", v, "0", text(&new), "--wait"]);
    ok(&["repair", v]);
    ok(&["verify", v]);
    assert!(slot(at, 0).with_extension("replaced-0").is_file());
}

#[test]
fn a_link_to_a_disk_that_is_not_mounted_is_a_missing_slot_and_no_blank_one() {
    let dir = common::dir();
    let at = &dir.path().join("volume");
    fs::create_dir(at).unwrap();
    let v = &closed(at);
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    ok(&["replace", v, "4", text(&disk.join("vol")), "--wait"]);
    fs::rename(&disk, dir.path().join("unmounted")).unwrap();
    let info = ok(&["info", v]);
    assert!(
        info.contains("slot 4        its directory is missing") && info.contains(text(&disk.join("vol"))),
        "{info}"
    );
    let volume = open(at);
    common::patch(&volume, PageId::ROOT, 0, b"five");
    std::thread::sleep(Duration::from_millis(500));
    assert!(volume.health().slots[4].away.is_some() && !disk.exists(), "nothing is made through it");
    // It comes back while the volume runs.
    fs::rename(dir.path().join("unmounted"), &disk).unwrap();
    until("the disk is taken back", || all_live(&volume));
    assert!(volume.wait_repaired(MOST));
    volume.close().unwrap();
    ok(&["verify", v]);
}

#[test]
fn a_replacement_that_was_cut_short_leaves_a_slot_that_can_be_replaced() {
    let dir = common::dir();
    let at = &dir.path().join("volume");
    fs::create_dir(at).unwrap();
    let v = &closed(at);
    let new = dir.path().join("new");
    fs::create_dir(&new).unwrap();
    let (place, fresh) = (slot(at, 2), slot(at, 2).with_extension("new"));
    let aside = place.with_extension("replaced-0");
    // The link alone: the old slot works on.
    symlink(&new, &fresh).unwrap();
    let volume = open(at);
    assert!(volume.health().whole() == 6);
    volume.close().unwrap();
    // The old one is aside already: not blank, so that nobody formats what comes next there.
    fs::rename(&place, &aside).unwrap();
    let volume = open(at);
    std::thread::sleep(Duration::from_millis(200));
    assert!(volume.health().slots[2].away.is_some() && !place.exists());
    volume.close().unwrap();
    assert!(ok(&["info", v]).contains("cut short"));
    ok(&["replace", v, "2", text(&new), "--wait"]);
    assert!(fs::read_link(&place).unwrap() == new && !fresh.is_symlink());
    ok(&["verify", v]);
    // Nothing but the old one: a blank slot, and the one beside it is none of its business.
    fs::remove_file(&place).unwrap();
    empty(&slot(at, 3));
    fs::remove_dir(slot(at, 3)).unwrap();
    ok(&["repair", v]);
    ok(&["verify", v]);
    assert!(place.is_dir() && !place.is_symlink() && aside.join("seg-00000000").is_file());
}

#[test]
fn a_blank_directory_is_taken_back_by_a_volume_that_has_nothing_to_do() {
    let dir = common::dir();
    let at = dir.path();
    let volume = volume(at);
    volume.sync().wait().unwrap();
    let azs = common::azs(at);
    let cases: [(&str, &dyn Fn()); 4] = [
        ("a slot's directory is emptied", &|| empty(&slot(at, 0))),
        ("a slot's directory is gone", &|| fs::remove_dir_all(slot(at, 5)).unwrap()),
        ("an AZ is emptied", &|| empty(&azs[1])),
        ("an AZ is another directory", &|| {
            fs::rename(&azs[2], at.join("away")).unwrap();
            fs::create_dir(&azs[2]).unwrap();
        }),
    ];
    for (what, change) in cases {
        std::thread::sleep(Duration::from_millis(500));
        let formatted = |s: u8| fs::read_dir(slot(at, s)).is_ok_and(|d| d.count() > 1);
        change();
        until(what, || (0..6).all(formatted) && all_live(&volume));
        assert!(volume.wait_repaired(MOST), "{what}");
        is_clean(at);
    }
    volume.close().unwrap();
    ok(&["verify", &named(at)]);
}

#[test]
fn beside_a_writer_repair_tells_what_that_one_has_to_do() {
    let dir = common::dir();
    let at = dir.path();
    let volume = volume(at);
    let v = &named(at);
    let out = ok(&["repair", v]);
    assert!(out.contains("whole, as far as the superblocks tell"), "{out}");
    let pid = std::process::id().to_string();
    fails(&["scrub", v], 1, &[&pid, "by itself"]);
    volume.pause_repair(true);
    empty(&slot(at, 1));
    until("the slot is formatted", || slot(at, 1).join("seg-00000000").is_file() && all_live(&volume));
    fails(&["repair", v], 1, &["not whole", &pid]);
    fails(&["repair", v, "--wait", "--timeout", "1"], 1, &["not whole"]);
    volume.pause_repair(false);
    ok(&["repair", v, "--wait"]);
    volume.close().unwrap();
    ok(&["verify", v]);
}
