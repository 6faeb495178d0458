//! Space comes back on each file system that we know, and where one refuses to punch whole protection groups do. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Mount;
use common::churn::{Churn, PAGE, PG, options};
use quorate::{Placement, Volume};
use std::path::Path;
use std::time::Duration;

/// Pages at first, and those that are kept then.
const PAGES: usize = 2048;
const KEPT: usize = 256;
const MIB: u64 = 1 << 20;

/// Bytes that a slot's directory takes, and its segments.
fn taken(slot: &Path) -> (u64, usize) {
    use std::os::unix::fs::MetadataExt;
    let files: Vec<_> = std::fs::read_dir(slot).unwrap().flatten().collect();
    let segments = files.iter().filter(|f| f.file_name().to_string_lossy().starts_with("seg-")).count();
    (files.iter().map(|f| f.metadata().unwrap().blocks() * 512).sum(), segments)
}

/// Churns, keeps an eighth, gives back, closes, opens, verifies. `punches` tells whether a slot's file system does.
fn comes_back(at: &Placement, name: &str, punches: impl Fn(usize) -> bool) {
    let mut churn = Churn::new(at.clone(), &options(), PAGES);
    // Three protection groups and something of a fourth.
    churn.write(180 * MIB);
    let full = churn.volume.health();
    let slots: Vec<_> = full.slots.iter().map(|s| s.path.clone()).collect();
    let before: Vec<_> = slots.iter().map(|s| taken(s)).collect();
    churn.keep(KEPT);
    // A slot that fell behind on a busy machine comes back first: it has as much to give back.
    for _ in 0..5 {
        assert!(churn.volume.wait_repaired(Duration::from_secs(60)), "{name}: {:?}", churn.volume.health().slots);
        assert!(churn.volume.compact(Duration::from_secs(120)), "{name}: {:?}", churn.volume.health().space);
        if churn.volume.health().slots.iter().all(|s| s.away.is_none() && s.gaps.is_empty()) {
            break;
        }
    }
    let health = churn.volume.health();
    let after: Vec<_> = slots.iter().map(|s| taken(s)).collect();
    println!("{name}: {} MiB of log, {before:?}, then {after:?}; {:?}", full.tail.0 / MIB, health.space);
    assert!(full.tail.0 > 3 * PG, "{name}: {}", full.tail.0);
    // What lives, and what is too young, whatever the file system.
    let live = (KEPT * PAGE) as u64;
    assert!(
        health.space.given_back > 2 * PG && health.space.allocated < 2 * live + 64 * MIB,
        "{name}: {:?}",
        health.space
    );
    assert!(health.slots.iter().all(|s| s.away.is_none()), "{name}: {:?}", health.slots);
    for (i, slot) in health.slots.iter().enumerate() {
        let (bytes, segments) = after[i];
        // Where there are no holes the file of each group of which something is kept is there as a whole.
        let most = if punches(i) { health.space.allocated + 2 * PG } else { (segments as u64 + 1) * PG };
        assert!(bytes <= most, "{name}: slot {i} takes {bytes}, more than {most}");
        assert_eq!(slot.punches_refused == 0, punches(i), "{name}: {slot:?}");
    }
    // Groups of which nothing is kept are gone on all slots alike.
    assert!(after.iter().all(|(_, segments)| *segments == after[0].1), "{name}: {after:?}");
    assert!(!slots.iter().any(|s| s.join("seg-00000000").exists()), "{name}: the first group is still there");
    churn.check(&churn.volume);
    let Churn { volume, pages, random, turn, written } = churn;
    volume.close().unwrap();
    let volume = Volume::open(at.clone(), &options()).unwrap();
    let churn = Churn { volume, pages, random, turn, written };
    churn.check(&churn.volume);
    assert!(churn.volume.wait_repaired(Duration::from_secs(60)), "{name}");
    churn.volume.close().unwrap();
    let found = Volume::open_read_only(at.clone(), &options()).unwrap().verify();
    assert!(found.is_clean(), "{name}: {:?} {:?}", found.differences, found.unreadable);
}

fn on(kind: &str) {
    let dir = common::dir();
    let Some(disk) = Mount::of(dir.path(), kind, 3 << 10, kind) else { return };
    let azs = common::make_azs(&disk.path);
    comes_back(&Placement::from(azs), kind, |_| true);
}

#[test]
fn space_comes_back_on_ext4() {
    on("ext4");
}

#[test]
fn space_comes_back_on_xfs() {
    on("xfs");
}

#[test]
fn space_comes_back_on_btrfs() {
    on("btrfs");
}

/// No space can be taken ahead there.
#[test]
fn space_comes_back_on_ext2() {
    on("ext2");
}

#[test]
fn where_nothing_can_be_punched_whole_groups_come_back() {
    let dir = common::dir();
    let Some(disk) = Mount::ramfs(dir.path(), "ramfs") else { return };
    let azs = common::make_azs(dir.path());
    let at = Placement::new([disk.path.join("az"), azs[1].clone(), azs[2].clone()]);
    std::fs::create_dir(disk.path.join("az")).unwrap();
    comes_back(&at, "ramfs beside others", |slot| slot > 1);
    #[cfg(feature = "cli")]
    {
        // A volume that is opened is given all of it back once more.
        let azs: Vec<_> = at.paths().iter().map(|az| az.display().to_string()).collect();
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["--allow-volatile", "compact", &azs.join(",")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.contains("slots 0 1: their file systems punch no holes"), "{out:?}");
    }
}
