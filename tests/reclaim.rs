//! Space that comes back: extents whose pages are dead, or were written anew, are punched, and protection groups removed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::churn::{Churn, PAGE, PG, options};
use quorate::{PageId, Volume};
use std::path::Path;
use std::time::{Duration, Instant};

/// In three directories below.
fn churn_at(at: &Path, pages: usize) -> Churn {
    common::make_azs(at);
    Churn::new(common::placement(at), &options(), pages)
}

#[test]
fn churn_does_not_grow_the_volume_and_every_page_stays() {
    let temp = common::dir();
    let mut churn = churn_at(temp.path(), 4096);
    let live = 4096 * (PAGE as u64 + 64);
    let mut most = 0;
    let begun = Instant::now();
    for _ in 0..24 {
        churn.write(live / 2);
        most = most.max(churn.volume.health().space.allocated);
        println!("SPACE {:?} {:?}", begun.elapsed(), churn.volume.health().space);
    }
    churn.check(&churn.volume);
    assert!(churn.volume.compact(Duration::from_secs(120)), "{:?}", churn.volume.health().space);
    let space = churn.volume.health().space;
    println!("live {live}, most {most}, now {space:?}, device {}", churn.volume.health().device_bytes);
    churn.check(&churn.volume);
    assert!(space.given_back > 0 && space.allocated < 2 * live + 3 * PG, "{space:?}");
    // After a crash as well as after a close.
    let Churn { volume, pages, random, turn, written } = churn;
    volume.close().unwrap();
    let volume = Volume::open(common::placement(temp.path()), &options()).unwrap();
    let churn = Churn { volume, pages, random, turn, written };
    churn.check(&churn.volume);
    assert!(churn.volume.wait_repaired(Duration::from_secs(60)));
    churn.volume.close().unwrap();
    let found = Volume::open_read_only(common::placement(temp.path()), &options()).unwrap().verify();
    assert!(found.is_clean(), "{:?} {:?}", found.differences, found.unreadable);
}

/// Small patches of cached pages: of what dies only images are told, and most of what is kept is dead all the same.
#[test]
fn patches_alone_do_not_grow_the_volume() {
    let temp = common::dir();
    common::make_azs(temp.path());
    let options = options().cache_bytes(12 << 20);
    let mut churn = Churn::new(common::placement(temp.path()), &options, 1024);
    let mut worst = 0.0;
    for round in 0..24 {
        let tail = churn.volume.health().tail;
        while churn.volume.health().tail < tail + (8 << 20) {
            churn.patch(256);
        }
        let space = churn.volume.health().space;
        let live = 1024 * (PAGE as u64 + 16 * 300);
        let over = space.allocated as f64 / (1.35 * live as f64 + (space.pinned + space.reserve) as f64);
        worst = if round < 8 { 0.0 } else { f64::max(worst, over) };
        println!("SPACE {over:.2} {space:?}");
    }
    churn.check(&churn.volume);
    assert!(worst < 1.15, "{worst:.2} times what is promised");
}

#[test]
fn what_is_freed_comes_back_and_groups_go() {
    let temp = common::dir();
    let mut churn = churn_at(temp.path(), 16 << 10);
    let segments = || {
        std::fs::read_dir(common::slot(temp.path(), 3))
            .unwrap()
            .flatten()
            .filter(|f| f.file_name().to_string_lossy().starts_with("seg-"))
            .count()
    };
    let (before, files) = (churn.volume.health().device_bytes, segments());
    churn.keep(100);
    let begun = Instant::now();
    assert!(churn.volume.compact(Duration::from_secs(120)), "{:?}", churn.volume.health().space);
    let (after, left) = (churn.volume.health().device_bytes, segments());
    println!("{before} bytes in {files} files, then {after} in {left}, {:?}", begun.elapsed());
    assert!(after < before / 3 && left < files, "{before} {after} {files} {left}");
    assert!(churn.volume.health().slots.iter().all(|s| s.away.is_none()), "{:?}", churn.volume.health().slots);
    churn.check(&churn.volume);
}

/// A page that was moved is the version that it was.
#[test]
fn reclaiming_is_no_conflict() {
    let temp = common::dir();
    let mut churn = churn_at(temp.path(), 8 << 10);
    let seen: Vec<_> = (0..50).map(|i| churn.volume.read(churn.pages[i * 7].0).unwrap()).collect();
    // Everything else dies, so that these have to move.
    let keep: Vec<PageId> = seen.iter().map(|p| p.id()).collect();
    let gone: Vec<PageId> = churn.pages.iter().map(|(p, _)| *p).filter(|p| !keep.contains(p)).collect();
    churn.pages.retain(|(p, _)| keep.contains(p));
    for pages in gone.chunks(256) {
        let mut mtr = churn.volume.begin();
        pages.iter().for_each(|page| {
            mtr.free(*page);
        });
        drop(mtr.commit().unwrap());
    }
    let moved = churn.volume.health().space.moved;
    assert!(churn.volume.compact(Duration::from_secs(120)));
    assert!(churn.volume.health().space.moved > moved, "{:?}", churn.volume.health().space);
    assert!(seen.iter().all(|p| churn.volume.read(p.id()).unwrap().lsn() == p.lsn()), "one is another version now");
    for page in &seen {
        let mut mtr = churn.volume.begin();
        mtr.expect(page).patch(page.id(), 0, b"seen");
        mtr.commit().unwrap().wait().unwrap();
        let mut again = churn.volume.begin();
        again.expect(page).patch(page.id(), 0, b"lost");
        assert!(matches!(again.commit(), Err(quorate::WriteError::Conflict(_))));
    }
}

/// No checkpoint is due before the volume is full, and all but a sliver of it is dead then.
#[test]
fn what_is_above_redo_comes_back_to_who_has_no_room() {
    let temp = common::dir();
    common::make_azs(temp.path());
    let options = options().max_bytes(4 * PG).checkpoint_bytes(1 << 40);
    let mut churn = Churn::new(common::placement(temp.path()), &options, 256);
    // Without an overlay that grows: the same few pages, whole.
    for _ in 0..40 {
        churn.write(32 << 20);
    }
    churn.check(&churn.volume);
    assert!(churn.volume.health().space.given_back > 8 * PG);
}
