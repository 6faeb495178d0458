//! Slots as an open may find them: blank, foreign, swapped, stale, half copied, missing, damaged. Each does what
//! PROTOCOL.md says: within the promise the open succeeds and the data is right, beyond it the error is typed, and a
//! wrong disk is refused and left as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::fixture::{Fixture, PAGE, empty, open, read_only, replace, slot, unreachable};
use quorate::{OpenError, PageId, Slot, SlotFault, SlotFaults, SuperFault};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

fn exchange(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    fs::rename(a, &aside).unwrap();
    fs::rename(b, a).unwrap();
    fs::rename(&aside, b).unwrap();
}

/// The slot's files whose names begin so.
fn files(dir: &Path, begins: &str) -> Vec<PathBuf> {
    let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with(begins);
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(name).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has a {begins} file", dir.display());
    files
}

/// Overwrites a superblock place of every epoch file.
fn ruin(dir: &Path, places: &[u64]) {
    for file in files(dir, "epoch-") {
        let file = fs::File::options().write(true).open(file).unwrap();
        places.iter().for_each(|p| file.write_all_at(&[0xA5; 16 << 10], p * (16 << 10)).unwrap());
    }
}

/// Changes bytes of both places of every epoch file, with a checksum that fits.
fn forge(dir: &Path, at: usize, byte: u8) {
    for path in files(dir, "epoch-") {
        let mut bytes = fs::read(&path).unwrap();
        for place in bytes.chunks_mut(16 << 10) {
            place[at] = byte;
            let mut crc = crc32fast::Hasher::new();
            crc.update(&place[..8]);
            crc.update(&place[12..]);
            place[8..12].copy_from_slice(&crc.finalize().to_le_bytes());
        }
        fs::write(path, bytes).unwrap();
    }
}

struct Case {
    name: &'static str,
    make: fn(&Path, &Fixture),
    /// What a read-only open says of slots that do not take part.
    faults: &'static [(u8, &'static str)],
    /// Slots whose bytes no open may change.
    untouched: &'static [u8],
}

const CASES: &[Case] = &[
    Case { name: "all as it should be", make: |_, _| (), faults: &[], untouched: &[] },
    Case { name: "a blank slot", make: |at, _| empty(&slot(at, 2)), faults: &[(2, "blank")], untouched: &[] },
    Case {
        name: "a blank AZ",
        make: |at, _| [0, 1].iter().for_each(|s| empty(&slot(at, *s))),
        faults: &[(0, "blank"), (1, "blank")],
        untouched: &[],
    },
    Case {
        name: "an AZ directory with nothing in it",
        make: |at, _| empty(&common::azs(at)[1]),
        faults: &[(2, "blank"), (3, "blank")],
        untouched: &[],
    },
    Case {
        name: "an AZ directory that is missing",
        make: |at, _| fs::remove_dir_all(&common::azs(at)[2]).unwrap(),
        faults: &[(4, "missing"), (5, "missing")],
        untouched: &[],
    },
    Case {
        name: "a slot directory that is missing",
        make: |at, _| fs::remove_dir_all(slot(at, 5)).unwrap(),
        faults: &[(5, "blank")],
        untouched: &[],
    },
    Case { name: "a slot that is a file", make: |at, _| unreachable(at, 1), faults: &[(1, "")], untouched: &[1] },
    Case {
        name: "two blank slots in two AZs",
        make: |at, _| [1, 4].iter().for_each(|s| empty(&slot(at, *s))),
        faults: &[(1, "blank"), (4, "blank")],
        untouched: &[],
    },
    Case {
        name: "three blank slots",
        make: |at, _| [1, 2, 4].iter().for_each(|s| empty(&slot(at, *s))),
        faults: &[(1, "blank"), (2, "blank"), (4, "blank")],
        untouched: &[],
    },
    Case {
        name: "another volume's slot",
        make: |at, f| replace(&slot(at, 3), &slot(&f.at("other"), 3)),
        faults: &[(3, "another volume")],
        untouched: &[3],
    },
    Case {
        name: "another volume's AZ",
        make: |at, f| replace(&common::azs(at)[0], &common::azs(&f.at("other"))[0]),
        faults: &[(0, "another volume"), (1, "another volume")],
        untouched: &[0, 1],
    },
    Case {
        name: "another volume's AZ of another number",
        make: |at, f| replace(&common::azs(at)[0], &common::azs(&f.at("other"))[1]),
        faults: &[(0, "right disk"), (1, "right disk")],
        untouched: &[0, 1],
    },
    Case {
        name: "one AZ twice",
        make: |at, _| replace(&common::azs(at)[2], &common::azs(at)[1]),
        faults: &[(4, "right disk"), (5, "right disk")],
        untouched: &[4, 5],
    },
    Case {
        name: "two slots exchanged",
        make: |at, _| exchange(&slot(at, 0), &slot(at, 5)),
        faults: &[(0, "slot 5"), (5, "slot 0")],
        untouched: &[0, 5],
    },
    Case {
        name: "the two slots of an AZ exchanged",
        make: |at, _| exchange(&slot(at, 2), &slot(at, 3)),
        faults: &[(2, "slot 3"), (3, "slot 2")],
        untouched: &[2, 3],
    },
    Case {
        name: "one slot twice",
        make: |at, _| replace(&slot(at, 4), &slot(at, 1)),
        faults: &[(4, "slot 1")],
        untouched: &[4],
    },
    Case {
        name: "an old copy of a slot",
        make: |at, f| replace(&slot(at, 4), &slot(&f.at("old"), 4)),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "an old copy of an AZ",
        make: |at, f| replace(&common::azs(at)[2], &common::azs(&f.at("old"))[2]),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "old copies of three slots",
        make: |at, f| [0, 2, 4].iter().for_each(|s| replace(&slot(at, *s), &slot(&f.at("old"), *s))),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "no epoch files",
        make: |at, _| files(&slot(at, 1), "epoch-").iter().for_each(|f| fs::remove_file(f).unwrap()),
        faults: &[(1, "no superblock")],
        untouched: &[],
    },
    Case {
        name: "segments alone",
        make: |at, _| {
            for begins in ["epoch-", "claim-"] {
                files(&slot(at, 1), begins).iter().for_each(|f| fs::remove_file(f).unwrap());
            }
        },
        faults: &[(1, "no superblock")],
        untouched: &[],
    },
    Case {
        name: "no segment",
        make: |at, _| files(&slot(at, 0), "seg-").iter().for_each(|f| fs::remove_file(f).unwrap()),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "no segment on three",
        make: |at, _| {
            [0, 3, 5]
                .iter()
                .for_each(|s| files(&slot(at, *s), "seg-").iter().for_each(|f| fs::remove_file(f).unwrap()));
        },
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "an empty segment",
        make: |at, _| files(&slot(at, 0), "seg-").iter().for_each(|f| fs::write(f, "").unwrap()),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "a truncated segment",
        make: |at, _| {
            for file in files(&slot(at, 3), "seg-") {
                fs::File::options().write(true).open(file).unwrap().set_len(10_000).unwrap();
            }
        },
        faults: &[],
        untouched: &[],
    },
    Case { name: "a ruined first place", make: |at, _| ruin(&slot(at, 3), &[0]), faults: &[], untouched: &[] },
    Case { name: "a ruined second place", make: |at, _| ruin(&slot(at, 3), &[1]), faults: &[], untouched: &[] },
    Case {
        name: "a ruined place on every slot",
        make: |at, _| (0..6).for_each(|s| ruin(&slot(at, s), &[u64::from(s) % 2])),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "both places ruined",
        make: |at, _| ruin(&slot(at, 3), &[0, 1]),
        faults: &[(3, "no superblock")],
        untouched: &[],
    },
    Case {
        name: "both places ruined on an AZ",
        make: |at, _| [4, 5].iter().for_each(|s| ruin(&slot(at, *s), &[0, 1])),
        faults: &[(4, "no superblock"), (5, "no superblock")],
        untouched: &[],
    },
    Case {
        name: "a superblock of a newer version",
        make: |at, _| forge(&slot(at, 2), 12, 9),
        faults: &[(2, "version 9")],
        untouched: &[2],
    },
    Case {
        name: "a superblock with an unknown feature",
        make: |at, _| forge(&slot(at, 2), 17, 1),
        faults: &[(2, "0x100")],
        untouched: &[2],
    },
    Case {
        name: "a claim of long ago to come",
        make: |at, _| fs::write(slot(at, 2).join("claim-5000"), "").unwrap(),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "an epoch file that is garbage, above all others",
        make: |at, _| fs::write(slot(at, 2).join("epoch-700"), [3; 40_000]).unwrap(),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "a tail file that is garbage",
        make: |at, _| (0..6).for_each(|s| fs::write(slot(at, s).join("tail-2"), [3; 100_000]).unwrap()),
        faults: &[],
        untouched: &[],
    },
    Case {
        name: "files that are none of ours",
        make: |at, _| {
            for name in ["lost+found", "notes.txt", "seg-1", "claim-", "epoch-x"] {
                (0..6).for_each(|s| fs::write(slot(at, s).join(name), "mine").unwrap());
            }
        },
        faults: &[],
        untouched: &[],
    },
];

#[test]
fn each_slot_does_what_the_protocol_says() {
    let fixture = Fixture::new();
    let failed = Mutex::new(Vec::new());
    let cases = Mutex::new(CASES.iter().flat_map(|case| ["closed", "killed"].map(|of| (case, of))));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let Some((case, of)) = cases.lock().unwrap().next() else { return };
                    let what = format!("{} ({of})", case.name);
                    let run = std::panic::AssertUnwindSafe(|| one(&fixture, case, of, &what));
                    if std::panic::catch_unwind(run).is_err() {
                        failed.lock().unwrap().push(what);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), 2 * CASES.len());
}

fn one(fixture: &Fixture, case: &Case, of: &str, what: &str) {
    let at = fixture.fresh(of);
    (case.make)(&at, fixture);
    let wrong: Vec<_> = case.untouched.iter().map(|s| (slot(&at, *s), contents(&slot(&at, *s)))).collect();
    let untouched = |when: &str| {
        for (path, before) in &wrong {
            assert!(contents(path) == *before, "{what}: {} was changed {when}", path.display());
        }
    };
    let before = common::bytes_below(&at);
    let reader = read_only(&at).unwrap_or_else(|e| panic!("{what}: read-only: {e}"));
    fixture.check(|p| reader.view().read(p), &format!("{what}: read-only at settled"));
    fixture.check(|p| reader.view_visible().read(p), &format!("{what}: read-only"));
    for s in reader.health().slots {
        let want = case.faults.iter().find(|(n, _)| *n == s.slot.0).map(|(_, text)| *text);
        match (&s.fault, want) {
            (None, None) => (),
            (Some(fault), Some(text)) => assert!(fault.contains(text), "{what}: slot {}: {fault}", s.slot),
            (got, want) => panic!("{what}: slot {}: {got:?} and not {want:?}", s.slot),
        }
    }
    drop(reader);
    assert!(common::bytes_below(&at) == before, "{what}: a read-only open changed something");

    let mut text = [0; 8];
    for turn in 1..=3u8 {
        let volume = open(&at).unwrap_or_else(|e| panic!("{what}: open {turn}: {e}"));
        fixture.check(|p| volume.read(p), &format!("{what}: open {turn}"));
        let root = volume.read(PageId::ROOT).unwrap();
        assert_eq!(root[..8], text, "{what}: open {turn}: what the turn before had committed");
        text.fill(turn);
        common::patch(&volume, PageId::ROOT, 0, &text);
        // Time for a slot that is away to be tried, and for the filler.
        std::thread::sleep(Duration::from_millis(60));
        let health = volume.health();
        for s in case.untouched {
            assert!(health.slots[usize::from(*s)].away.is_some(), "{what}: slot {s} takes part");
        }
        if turn == 2 {
            drop(volume);
        } else {
            volume.close().unwrap_or_else(|e| panic!("{what}: close {turn}: {e}"));
        }
        untouched(&format!("by open {turn}"));
    }
}

/// Of a directory, or of the file in its place.
fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    if path.is_file() {
        BTreeMap::from([(path.to_path_buf(), fs::read(path).unwrap())])
    } else {
        common::bytes_below(path)
    }
}

fn quorum(e: OpenError, what: &str) -> SlotFaults {
    match e {
        OpenError::Quorum { slots, .. } => slots,
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn four_reachable_slots_can_be_written_and_three_can_be_read() {
    let fixture = Fixture::new();
    for missing in 0u8..64 {
        let of = if missing % 2 == 0 { "killed" } else { "closed" };
        let (at, gone) = (fixture.fresh(of), missing.count_ones());
        let what = format!("{of}, without {missing:06b}");
        let away: Vec<u8> = (0..6).filter(|s| missing >> s & 1 == 1).collect();
        away.iter().for_each(|s| unreachable(&at, *s));
        let before = common::bytes_below(&at);
        let told = |slots: SlotFaults| {
            let told: Vec<u8> = slots.0.iter().map(|(s, _)| s.0).collect();
            assert_eq!(told, away, "{what}: {slots}");
            assert!(slots.0.iter().all(|(_, f)| matches!(f, SlotFault::Io(_))), "{what}: {slots}");
        };
        match read_only(&at) {
            Ok(reader) => {
                assert!(gone <= 3, "{what}");
                fixture.check(|p| reader.view().read(p), &what);
            }
            Err(e) => {
                assert!(gone > 3, "{what}: {e}");
                told(quorum(e, &what));
            }
        }
        match open(&at) {
            Ok(volume) => {
                assert!(gone <= 2, "{what}");
                fixture.check(|p| volume.read(p), &what);
                common::patch(&volume, PageId::ROOT, 0, b"new");
                volume.close().unwrap();
                let volume = open(&at).unwrap();
                assert_eq!(&volume.read(PageId::ROOT).unwrap()[..3], b"new");
            }
            Err(e) => {
                assert!(gone > 2, "{what}: {e}");
                told(quorum(e, &what));
                assert!(common::bytes_below(&at) == before, "{what}: a refused open changed something");
            }
        }
    }
}

#[test]
fn too_many_blank_or_wrong_slots_are_refused_and_nothing_is_changed() {
    let fixture = Fixture::new();
    type Make = fn(&Path, &Fixture);
    type Is = fn(&SlotFault) -> bool;
    let cases: [(&str, Make, Is, usize); 5] = [
        (
            "four blank slots",
            |at, _| [0, 1, 2, 3].iter().for_each(|s| empty(&slot(at, *s))),
            |f| matches!(f, SlotFault::Blank),
            4,
        ),
        (
            "two AZs exchanged",
            |at, _| exchange(&common::azs(at)[0], &common::azs(at)[1]),
            |f| matches!(f, SlotFault::Io(_)),
            4,
        ),
        (
            "two AZs' slots exchanged",
            |at, _| [0, 1].iter().for_each(|s| exchange(&slot(at, *s), &slot(at, s + 2))),
            |f| matches!(f, SlotFault::Swapped(_)),
            4,
        ),
        (
            "three slots of each of two volumes",
            |at, f| [0, 2, 4].iter().for_each(|s| replace(&slot(at, *s), &slot(&f.at("other"), *s))),
            |f| matches!(f, SlotFault::Foreign(_)),
            6,
        ),
        (
            "no superblock on four",
            |at, _| [0, 1, 2, 5].iter().for_each(|s| ruin(&slot(at, *s), &[0, 1])),
            |f| matches!(f, SlotFault::NoSuperblock),
            4,
        ),
    ];
    for (what, make, fault, count) in cases {
        for of in ["closed", "killed"] {
            let at = fixture.fresh(of);
            make(&at, &fixture);
            let before = common::bytes_below(&at);
            for e in [read_only(&at).err(), open(&at).err()] {
                let slots = quorum(e.unwrap_or_else(|| panic!("{what} ({of}): it opened")), what);
                assert!(slots.0.len() == count && slots.0.iter().all(|(_, f)| fault(f)), "{what} ({of}): {slots}");
            }
            assert!(common::bytes_below(&at) == before, "{what} ({of})");
        }
    }
    // Everything blank is no volume.
    let at = fixture.fresh("closed");
    (0..6).for_each(|s| empty(&slot(&at, s)));
    assert!(matches!(open(&at), Err(OpenError::NoVolume(_))));
    assert!(matches!(read_only(&at), Err(OpenError::NoVolume(_))));
    // A newer version everywhere says so.
    let at = fixture.fresh("closed");
    (0..6).for_each(|s| forge(&slot(&at, s), 12, 9));
    let before = common::bytes_below(&at);
    for e in [open(&at).err(), read_only(&at).err()] {
        let slots = quorum(e.unwrap(), "a newer version");
        assert_eq!(slots.0.len(), 6);
        assert!(slots.0.iter().all(|(_, f)| matches!(f, SlotFault::Superblock(SuperFault::Version(9)))), "{slots}");
    }
    assert!(common::bytes_below(&at) == before);
}

/// Without a superblock that verifies a slot is known by its log, or holds none: else its bytes may be anybody's.
#[test]
fn a_slot_without_superblocks_comes_back_unless_its_bytes_may_be_somebodys() {
    let zeros: fn(&Path) = |segment| {
        let file = fs::File::options().write(true).open(segment).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(0).unwrap();
        file.set_len(len).unwrap();
    };
    let garbage: fn(&Path) = |segment| {
        fs::File::options().write(true).open(segment).unwrap().write_all_at(&[7; 1 << 20], 0).unwrap();
    };
    let as_it_is: fn(&Path) = |_| ();
    let cases = [("its log", as_it_is, true), ("nothing", zeros, true), ("what nobody knows", garbage, false)];
    let fixture = Fixture::new();
    for (what, make, back) in cases {
        let at = fixture.fresh("killed");
        ruin(&slot(&at, 3), &[0, 1]);
        files(&slot(&at, 3), "seg-").iter().for_each(|f| make(f));
        let before = contents(&slot(&at, 3));
        let volume = open(&at).unwrap();
        let away = || volume.health().slots[3].away;
        if back {
            assert!(volume.wait_repaired(Duration::from_secs(60)), "{what}: {:?}", volume.health().repair);
            assert_eq!(away(), None, "{what}");
            volume.close().unwrap();
            assert!(read_only(&at).unwrap().verify().is_clean(), "{what}");
        } else {
            std::thread::sleep(Duration::from_secs(2));
            assert!(away().is_some(), "{what}: taken back");
            let why = volume.health().slots[3].fault.clone().unwrap_or_default();
            assert!(why.contains("no superblock"), "{what}: {why}");
            volume.close().unwrap();
            assert!(contents(&slot(&at, 3)) == before, "{what}: changed");
        }
    }
}

#[test]
fn a_replaced_az_has_its_vote_also_when_its_decision_left_the_superblocks() {
    let fixture = Fixture::new();
    let at = fixture.fresh("closed");
    [0, 1].iter().for_each(|s| empty(&slot(&at, *s)));
    // Everything is written anew, so that four copies of it are in the other two AZs and two here.
    for turn in 1..=4u8 {
        let volume = open(&at).unwrap();
        for page in fixture.expected.keys() {
            let mut mtr = volume.begin();
            mtr.put(*page, vec![turn; PAGE as usize]);
            mtr.commit().unwrap().wait().unwrap();
        }
        volume.close().unwrap();
    }
    fs::rename(&common::azs(&at)[1], at.join("away")).unwrap();
    let reader = read_only(&at).unwrap();
    assert_eq!(reader.view().read(PageId(1)).unwrap()[0], 4);
    let volume = open(&at).unwrap();
    for page in fixture.expected.keys() {
        assert_eq!(volume.read(*page).unwrap()[0], 4);
    }
    volume.close().unwrap();
}

/// What a directory holds once its own writer's first jobs are done: they remove and create files beside us.
fn at_rest(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut last = None;
    for _ in 0..50 {
        let now = std::panic::catch_unwind(|| contents(path)).ok();
        if now.is_some() && now == last {
            break;
        }
        last = now;
        std::thread::sleep(Duration::from_millis(100));
    }
    last.expect("a directory that comes to rest")
}

#[test]
fn an_az_of_another_volume_is_left_alone_and_its_lock_is_not_ours() {
    let fixture = Fixture::new();
    for of in ["closed", "killed"] {
        let at = fixture.fresh(of);
        let az = &common::azs(&at)[1];
        // The other volume is open, and its disk stands where ours should.
        let other = fixture.at("other");
        let theirs = open(&other).unwrap();
        fs::remove_dir_all(az).unwrap();
        std::os::unix::fs::symlink(&common::azs(&other)[1], az).unwrap();
        let before = at_rest(&common::azs(&other)[1]);
        let volume = open(&at).unwrap();
        fixture.check(|p| volume.read(p), "beside another volume's AZ");
        common::patch(&volume, PageId::ROOT, 0, b"ours");
        std::thread::sleep(Duration::from_millis(60));
        volume.close().unwrap();
        assert!(contents(&common::azs(&other)[1]) == before, "{of}: another volume's AZ was changed");
        common::patch(&theirs, PageId::ROOT, 0, b"theirs");
        theirs.close().unwrap();
    }
}

#[test]
fn a_read_only_open_names_the_faults_of_each_slot_in_its_health() {
    let fixture = Fixture::new();
    let at = fixture.fresh("killed");
    empty(&slot(&at, 0));
    unreachable(&at, 1);
    replace(&slot(&at, 2), &slot(&fixture.at("other"), 2));
    let health = read_only(&at).unwrap().health();
    let faulty: Vec<Slot> = health.slots.iter().filter(|s| s.fault.is_some()).map(|s| s.slot).collect();
    assert_eq!(faulty, [Slot(0), Slot(1), Slot(2)]);
    // Blank counts as reachable for a writer; a file and a wrong disk do not.
    let volume = open(&at).unwrap();
    fixture.check(|p| volume.read(p), "three voters and a blank one");
    volume.close().unwrap();
}
