//! Records that rotted, were overwritten or never came, on some slots and on all: any good copy answers, and without one
//! the error names the page, the record and each slot's fault. It never shortens the log.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::fixture::{Fixture, PAGE, open, read_only, slot, unreachable};
use quorate::{Lsn, OpenError, PageId, ReadError, Slot, SlotFault, SlotFaults};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The page's newest record on disk: its address from the page itself.
fn flip(at: &Path, lsn: Lsn, slots: impl IntoIterator<Item = u8>) {
    for s in slots {
        let file = fs::File::options().read(true).write(true).open(slot(at, s).join("seg-00000000")).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, lsn.0 + 40).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], lsn.0 + 40).unwrap();
    }
}

fn all_of(slots: &SlotFaults) -> bool {
    let mut told: Vec<u8> = slots.0.iter().map(|(s, _)| s.0).collect();
    told.sort_unstable();
    told == [0, 1, 2, 3, 4, 5] && slots.0.iter().all(|(_, f)| matches!(f, SlotFault::Damaged(_)))
}

#[test]
fn a_rotten_copy_is_answered_from_another_and_six_are_an_error_that_names_them() {
    let fixture = Fixture::new();
    for of in ["closed", "killed"] {
        for bad in 1..=6u8 {
            for first in 0..if bad == 6 { 1 } else { 6 } {
                let at = fixture.fresh(of);
                let lsn = read_only(&at).unwrap().view().read(PageId(7)).unwrap().lsn();
                let what = format!("{of}, record {lsn} rotten on {bad} slots from {first} on");
                flip(&at, lsn, (0..bad).map(|i| (first + i) % 6));
                if bad < 6 {
                    let reader = read_only(&at).unwrap_or_else(|e| panic!("{what}: {e}"));
                    fixture.check(|p| reader.view().read(p), &what);
                    if first == 0 {
                        let volume = open(&at).unwrap_or_else(|e| panic!("{what}: {e}"));
                        fixture.check(|p| volume.read(p), &what);
                        volume.close().unwrap();
                    }
                    continue;
                }
                if of == "closed" {
                    // Below the manifest: the open does not read it, and whoever needs it is told.
                    let lost = |e: ReadError| match e {
                        ReadError::Lost { page, lsn: at, slots } => {
                            assert!(page == PageId(7) && at == lsn && all_of(&slots), "{what}: {page} {at} {slots}");
                        }
                        other => panic!("{what}: {other:?}"),
                    };
                    let reader = read_only(&at).unwrap();
                    lost(reader.view().read(PageId(7)).unwrap_err());
                    let volume = open(&at).unwrap();
                    lost(volume.read(PageId(7)).unwrap_err());
                    assert_eq!(volume.read(PageId(8)).unwrap()[..], fixture.expected[&PageId(8)][..]);
                    // Writing it anew whole mends the page.
                    let mut mtr = volume.begin();
                    mtr.put(PageId(7), vec![9; PAGE as usize]);
                    mtr.commit().unwrap().wait().unwrap();
                    assert_eq!(volume.read(PageId(7)).unwrap()[0], 9);
                    volume.close().unwrap();
                } else {
                    // Past the manifest: a later record says that VDL was beyond it, so it is no end of the log.
                    let before = common::bytes_below(&at);
                    for e in [read_only(&at).err(), open(&at).err()] {
                        match e.unwrap_or_else(|| panic!("{what}: it opened")) {
                            OpenError::Lost { lsn: at, page, known, slots } => {
                                assert_eq!((at, page), (lsn, Some(PageId(7))), "{what}: {slots}");
                                assert!(lsn < known && all_of(&slots), "{what}: {known} {slots}");
                            }
                            other => panic!("{what}: {other:?}"),
                        }
                    }
                    // The damaged log is as it was: only claims may have come.
                    for (path, bytes) in common::bytes_below(&at) {
                        let claim = path.to_str().unwrap().contains("claim-");
                        assert!(claim || before.get(&path) == Some(&bytes), "{what}: {}", path.display());
                    }
                }
            }
        }
    }
}

#[test]
fn damage_anywhere_in_the_log_never_shortens_it() {
    let fixture = Fixture::new();
    let end = read_only(&fixture.fresh("killed")).unwrap().visible();
    let begin = read_only(&fixture.fresh("killed")).unwrap().health().redo;
    assert!(begin > Lsn(0) && begin < end);
    let mut lost = 0;
    // A block after another is ruined on all six, from where redo begins to the last that something speaks for.
    let mut at_block = begin.0 / 4096 * 4096;
    while at_block + 8192 < end.0 {
        let at = fixture.fresh("killed");
        for s in 0..6 {
            let file = fs::File::options().write(true).open(slot(&at, s).join("seg-00000000")).unwrap();
            file.write_all_at(&[0x5A; 4096], at_block).unwrap();
        }
        match read_only(&at) {
            Err(OpenError::Lost { lsn, slots, .. }) => {
                assert!(lsn.0 <= at_block && all_of(&slots), "{slots}");
                lost += 1;
            }
            // The manifest itself.
            Err(OpenError::Read(ReadError::Lost { lsn, slots, .. })) => {
                assert!(at_block <= lsn.0 && lsn.0 < at_block + 4096 && all_of(&slots));
                lost += 1;
            }
            Ok(reader) => {
                // Between epochs there is nothing to lose.
                assert_eq!(reader.visible(), end, "block {at_block} was ruined, and the log is shorter");
                fixture.check(|p| reader.view().read(p), &format!("block {at_block}"));
            }
            Err(e) => panic!("block {at_block}: {e}"),
        }
        // Extents between epochs are long; step over them.
        at_block += if at_block % (1 << 20) > 256 << 10 { 1 << 20 } else { 4096 };
    }
    assert!(lost >= 3, "{lost} blocks were missed");
}

/// A slot's segment, the record's address, and its group's.
type Ruin = fn(&fs::File, u64, u64);

fn rot(file: &fs::File, record: u64, _: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, record + 70).unwrap();
    file.write_all_at(&[byte[0] ^ 1], record + 70).unwrap();
}

fn garbage(file: &fs::File, _: u64, group: u64) {
    file.write_all_at(&[0x5A; 4096], group).unwrap();
}

fn zeros(file: &fs::File, _: u64, group: u64) {
    file.write_all_at(&[0; 4096], group).unwrap();
}

fn cut(file: &fs::File, _: u64, group: u64) {
    file.set_len(group).unwrap();
}

fn misdirected(file: &fs::File, _: u64, group: u64) {
    let mut bytes = [0; 4096];
    file.read_exact_at(&mut bytes, group - 4096).unwrap();
    file.write_all_at(&bytes, group).unwrap();
}

#[test]
fn each_slots_fault_is_told_as_what_it_is() {
    // A letter a slot: damaged, no copy, unreachable, missing.
    let cases: &[(&str, [Option<Ruin>; 6], &str, bool)] = &[
        ("a byte of the record", [Some(rot); 6], "DDDDDD", true),
        ("garbage over the group", [Some(garbage); 6], "DDDDDD", false),
        ("zeros over the group", [Some(zeros); 6], "NNNNNN", false),
        ("the group before in its place", [Some(misdirected); 6], "DDDDDD", false),
        (
            "files that end before it, and one rotten",
            [Some(cut), Some(cut), Some(cut), Some(cut), Some(cut), Some(rot)],
            "NNNNND",
            true,
        ),
        (
            "rot, garbage and zeros, and an AZ that is missing",
            [Some(rot), Some(garbage), Some(zeros), Some(rot), None, None],
            "DDNDMM",
            true,
        ),
        (
            "a mixture without a header, and slots that cannot be reached",
            [Some(garbage), Some(zeros), Some(misdirected), None, Some(cut), None],
            "DNDUNU",
            false,
        ),
    ];
    let letters = |slots: &SlotFaults| {
        let letter = |s: Slot| match slots.0.iter().find(|(at, _)| *at == s).map(|(_, fault)| fault) {
            Some(SlotFault::Damaged(_)) => 'D',
            Some(SlotFault::NoCopy) => 'N',
            Some(SlotFault::Missing) => 'M',
            Some(SlotFault::Io(_)) => 'U',
            other => panic!("slot {s}: {other:?}"),
        };
        Slot::ALL.map(letter).iter().collect::<String>()
    };
    let fixture = Fixture::new();
    for (what, ruins, faults, told) in cases {
        for of in ["killed", "closed"] {
            let at = fixture.fresh(of);
            let lsn = read_only(&at).unwrap().view().read(PageId(7)).unwrap().lsn();
            let group = lsn.0 / 4096 * 4096;
            for (s, ruin) in (0..6).zip(ruins) {
                let file = slot(&at, s).join("seg-00000000");
                match ruin {
                    Some(ruin) => ruin(&fs::File::options().read(true).write(true).open(file).unwrap(), lsn.0, group),
                    None if faults.as_bytes()[usize::from(s)] == b'U' => unreachable(&at, s),
                    None => drop(fs::remove_dir_all(slot(&at, s).parent().unwrap())),
                }
            }
            let what = format!("{what} ({of})");
            if of == "killed" {
                for e in [read_only(&at).err(), open(&at).err()] {
                    let e = e.unwrap_or_else(|| panic!("{what}: it opened"));
                    let OpenError::Lost { lsn: named, page, slots, .. } = &e else { panic!("{what}: {e:?}") };
                    assert_eq!(letters(slots), *faults, "{what}: {e}");
                    let want = if *told { (lsn, Some(PageId(7))) } else { (Lsn(group), None) };
                    assert_eq!((*named, *page), want, "{what}: {e}");
                    assert_eq!(e.to_string().contains("page 7"), *told, "{what}: {e}");
                }
            } else {
                let (reader, volume) = (read_only(&at).unwrap(), open(&at).unwrap());
                for e in [reader.view().read(PageId(7)), volume.read(PageId(7))] {
                    let e = e.expect_err(&what);
                    let ReadError::Lost { lsn: named, page, slots } = &e else { panic!("{what}: {e:?}") };
                    assert_eq!((*named, *page), (lsn, PageId(7)), "{what}: {e}");
                    assert_eq!(letters(slots), *faults, "{what}: {e}");
                }
            }
        }
    }
}
