//! States of the past: how long views stay, and what two of them differ in.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Random;
use quorate::{Options, PageId, ReadError, View, Volume};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Which version of each page there is.
type State = BTreeMap<PageId, u64>;

fn differ(a: &State, b: &State) -> Vec<PageId> {
    let all = a.keys().chain(b.keys()).copied().collect::<std::collections::BTreeSet<PageId>>();
    all.into_iter().filter(|page| a.get(page) != b.get(page)).collect()
}

#[test]
fn two_views_differ_in_what_was_written_between_them() {
    const PAGES: u64 = 30_000;
    let dir = common::dir();
    // Leaves are written by some checkpoints, runs by others, and much is left in the overlay.
    let options = Options::default().page_size(4096).checkpoint_bytes(2 * MIB).cache_bytes(2 * MIB);
    let volume = Volume::create(dir.path(), &options).unwrap();
    let mut random = Random::seeded();
    let (mut state, mut n) = (State::from([(PageId::ROOT, 0)]), 0);
    for _ in 0..PAGES / 300 {
        let mut mtr = volume.begin();
        for _ in 0..300 {
            state.insert(mtr.alloc().unwrap(), 0);
        }
        drop(mtr.commit().unwrap());
    }
    volume.sync().wait().unwrap();
    let mut views: Vec<(View, State)> = vec![(volume.view(), state.clone())];
    let mut pages: Vec<PageId> = state.keys().copied().skip(1).collect();
    for _ in 0..8 {
        for _ in 0..random.below(600) {
            let mut mtr = volume.begin();
            for _ in 0..1 + random.below(12) {
                n += 1;
                let i = random.below(pages.len() as u64) as usize;
                match random.below(20) {
                    0 if pages.len() > 1000 => {
                        let page = pages.swap_remove(i);
                        mtr.free(page);
                        state.remove(&page);
                        break;
                    }
                    1 => {
                        let page = mtr.alloc().unwrap();
                        state.insert(page, n);
                        pages.push(page);
                    }
                    _ => {
                        mtr.patch(pages[i], random.below(4000) as u32, &n.to_le_bytes());
                        state.insert(pages[i], n);
                    }
                }
            }
            drop(mtr.commit().unwrap());
        }
        volume.sync().wait().unwrap();
        views.push((volume.view(), state.clone()));
    }
    assert_eq!(volume.health().space.moved, 0);
    let mut most = 0;
    for (a, old) in &views {
        for (b, new) in &views {
            let told = a.diff(b).unwrap();
            assert_eq!(told, differ(old, new), "{} and {}", a.lsn(), b.lsn());
            most = most.max(told.len());
        }
    }
    assert!(most > 3000, "{most}");
    let other = common::dir();
    let stranger = Volume::create(other.path(), &options).unwrap();
    assert!(matches!(stranger.view().diff(&views[0].0), Err(ReadError::OtherVolume)));
    // What a reader sees is the same volume.
    volume.sync().wait().unwrap();
    let reader = Volume::open_read_only(dir.path(), &options).unwrap();
    assert_eq!(reader.view_visible().diff(&views[8].0).unwrap(), []);
    assert_eq!(views[3].0.diff(&reader.view_visible()).unwrap(), differ(&views[3].1, &state));
    drop(views);
    volume.close().unwrap();
}

#[test]
fn a_view_that_is_too_old_is_revoked_and_a_young_one_is_not() {
    let dir = common::dir();
    let options = Options::default().view_max(Duration::from_millis(700), u64::MAX);
    let volume = Volume::create(dir.path(), &options).unwrap();
    let begun = Instant::now();
    let old = volume.view();
    std::thread::sleep(Duration::from_millis(400));
    let young = volume.view();
    let gone = |view: &View| matches!(view.read(PageId::ROOT), Err(ReadError::ReadPointGone(_)));
    while !gone(&old) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the old one stays");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(begun.elapsed() >= Duration::from_millis(690), "{:?}", begun.elapsed());
    // It may be late in its turn, where the machine is busy; never early.
    assert!(!gone(&young) || begun.elapsed() >= Duration::from_millis(1090));
    while !gone(&young) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the young one stays");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(begun.elapsed() >= Duration::from_millis(1090), "{:?}", begun.elapsed());
    assert!(old.pages().is_err() && volume.view().read(PageId::ROOT).is_ok());
    volume.close().unwrap();
}

/// A view keeps space from being given back, up to what it may.
#[test]
fn views_hold_so_much_space_and_no_more() {
    let dir = common::dir();
    let options = Options::default()
        .pg_size(64 * MIB)
        .checkpoint_bytes(4 * MIB)
        .cache_bytes(4 * MIB)
        .view_max(Duration::from_secs(3600), 48 * MIB);
    let volume = Volume::create(dir.path(), &options).unwrap();
    let mut mtr = volume.begin();
    let pages: Vec<PageId> = (0..256).map(|_| mtr.alloc().unwrap()).collect();
    mtr.commit().unwrap().wait().unwrap();
    let write = |n: u64| {
        for some in pages.chunks(64) {
            let mut mtr = volume.begin();
            for page in some {
                mtr.put(*page, (n + page.0).to_le_bytes().repeat(2048));
            }
            drop(mtr.commit().unwrap());
        }
    };
    write(1);
    volume.sync().wait().unwrap();
    let view = volume.view();
    let (begun, mut n, mut held) = (Instant::now(), 1, 0);
    while view.read(pages[9]).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(100), "it stays: {:?}", volume.health().space);
        assert_eq!(view.read(pages[7]).unwrap()[..8], (1 + pages[7].0).to_le_bytes());
        n += 1;
        write(n);
        held = volume.health().space.pinned.max(held);
    }
    assert!(matches!(view.read(pages[9]), Err(ReadError::ReadPointGone(_))));
    assert!(held > 16 * MIB && n > 8, "{held} after {n}");
    assert!(volume.compact(Duration::from_secs(60)));
    assert!(volume.health().space.allocated < 40 * MIB, "{:?}", volume.health().space);
    volume.close().unwrap();
}
