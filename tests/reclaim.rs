//! Space that comes back: extents whose pages are dead, or were written anew, are punched, and protection groups removed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Random;
use quorate::{Options, PageId, Volume};
use std::path::Path;
use std::time::{Duration, Instant};

const PAGE: usize = 16 << 10;
const PG: u64 = 64 << 20;

fn options() -> Options {
    Options::default().pg_size(PG).allow_volatile(true).checkpoint_bytes(8 << 20).cache_bytes(8 << 20)
}

/// A page's bytes at its `n`th version.
fn image(page: PageId, n: u64) -> Vec<u8> {
    (page.0 * 1_000_003 + n).to_le_bytes().repeat(PAGE / 8)
}

/// Writes of random pages, whole or in part; what should be read is kept beside.
struct Churn {
    volume: Volume,
    pages: Vec<(PageId, Vec<u8>)>,
    random: Random,
    turn: u64,
    written: u64,
}

impl Churn {
    fn new(at: &Path, pages: usize) -> Churn {
        let volume = Volume::create(
            {
                common::make_azs(at);
                common::placement(at)
            },
            &options(),
        )
        .unwrap();
        let mut churn = Churn { volume, pages: Vec::new(), random: Random::seeded(), turn: 0, written: 0 };
        for _ in 0..pages.div_ceil(64) {
            let mut mtr = churn.volume.begin();
            for _ in 0..64 {
                let page = mtr.alloc().unwrap();
                mtr.put(page, image(page, 0));
                churn.pages.push((page, image(page, 0)));
            }
            drop(mtr.commit().unwrap());
        }
        churn.volume.sync().wait().unwrap();
        churn
    }

    /// So many bytes of log, about.
    fn write(&mut self, bytes: u64) {
        let end = self.written + bytes;
        let mut last = None;
        while self.written < end {
            let mut mtr = self.volume.begin();
            for _ in 0..16 {
                self.turn += 1;
                let i = self.random.below(self.pages.len() as u64) as usize;
                let (page, now) = &mut self.pages[i];
                if self.random.below(3) == 0 {
                    *now = image(*page, self.turn);
                    mtr.put(*page, now.clone());
                    self.written += PAGE as u64;
                } else {
                    let at = self.random.below(PAGE as u64 - 200) as usize;
                    let bytes = self.turn.to_le_bytes().repeat(25);
                    now[at..at + 200].copy_from_slice(&bytes);
                    mtr.patch(*page, at as u32, &bytes);
                    self.written += 300;
                }
            }
            last = Some(mtr.commit().unwrap());
        }
        last.unwrap().wait().unwrap();
    }

    fn check(&self, volume: &Volume) {
        for (page, want) in &self.pages {
            assert!(volume.read(*page).unwrap()[..] == want[..], "{page:?}");
        }
    }
}

#[test]
fn churn_does_not_grow_the_volume_and_every_page_stays() {
    let temp = common::dir();
    let mut churn = Churn::new(temp.path(), 4096);
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

#[test]
fn what_is_freed_comes_back_and_groups_go() {
    let temp = common::dir();
    let mut churn = Churn::new(temp.path(), 16 << 10);
    let segments = || {
        std::fs::read_dir(common::slot(temp.path(), 3))
            .unwrap()
            .flatten()
            .filter(|f| f.file_name().to_string_lossy().starts_with("seg-"))
            .count()
    };
    let (before, files) = (churn.volume.health().device_bytes, segments());
    let gone: Vec<PageId> = churn.pages.drain(100..).map(|(page, _)| page).collect();
    for pages in gone.chunks(256) {
        let mut mtr = churn.volume.begin();
        pages.iter().for_each(|page| {
            mtr.free(*page);
        });
        drop(mtr.commit().unwrap());
    }
    churn.volume.sync().wait().unwrap();
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
    let mut churn = Churn::new(temp.path(), 8 << 10);
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
