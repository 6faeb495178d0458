//! The volume grows: protection groups are there before the log comes to them, the log stops where it may hold no more, and
//! memory stays what was promised.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::{Child, Random};
use quorate::{Options, PageId, Slot, Volume, WriteError};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const EXTENT: u64 = 64 * MIB;
const AT: &str = "QUORATE_GROWTH_AT";

/// The slot has the file of this protection group.
fn has_segment(volume: &Volume, slot: u8, pg: u64) -> bool {
    volume.slot_path(Slot(slot)).join(format!("seg-{pg:08x}")).exists()
}

#[test]
fn no_commit_waits_for_the_next_protection_group() {
    const PAGE: usize = 64 << 10;
    for io_uring in [true, false] {
        let dir = common::dir();
        let options = Options::default().page_size(PAGE as u32).pg_size(EXTENT).io_uring(io_uring);
        let volume = Volume::create(dir.path(), &options).unwrap();
        let (mut slowest, mut early) = (Duration::ZERO, Vec::new());
        let mut mtr = volume.begin();
        let pages: Vec<PageId> = (0..64).map(|_| mtr.alloc().unwrap()).collect();
        mtr.commit().unwrap().wait().unwrap();
        // Space is taken in steps that grow with the rate: at first it may be waited for.
        let mut at_begin = None;
        let mut n = 0u64;
        while volume.health().tail.0 < 7 * EXTENT {
            let mut mtr = volume.begin();
            for page in &pages[..8] {
                mtr.put(*page, vec![n as u8; PAGE]);
            }
            let begun = Instant::now();
            mtr.commit().unwrap().wait().unwrap();
            n += 1;
            let tail = volume.health().tail.0;
            if tail < EXTENT {
                continue;
            }
            let waits = *at_begin.get_or_insert(volume.health().space_waits);
            slowest = slowest.max(begun.elapsed());
            // The file of the next group is there on all slots before the log comes to its last megabytes.
            if EXTENT - tail % EXTENT < 8 * MIB {
                early.push((0..6).all(|slot| has_segment(&volume, slot, tail / EXTENT + 1)));
            }
            let now = volume.health().space_waits;
            assert_eq!(now, waits, "a commit waited for space at {} MiB", tail / MIB);
        }
        println!(
            "io_uring {io_uring}: {n} commits over 6 borders, {} waits at the begin, slowest {slowest:?}",
            at_begin.unwrap()
        );
        assert!(early.len() > 6 && early.iter().all(|there| *there), "{early:?}");
        volume.close().unwrap();
        let volume = Volume::open(dir.path(), &options).unwrap();
        assert!(pages[..8].iter().all(|p| volume.read(*p).unwrap()[PAGE - 1] == (n - 1) as u8));
        volume.close().unwrap();
    }
}

fn put(volume: &Volume, page: PageId, n: u64) -> Result<(), WriteError> {
    let mut mtr = volume.begin();
    let mut image = vec![n as u8; 64 << 10];
    image[..8].copy_from_slice(&n.to_le_bytes());
    mtr.put(page, image);
    mtr.commit()?.wait().map(drop)
}

fn number(volume: &Volume, page: PageId) -> u64 {
    u64::from_le_bytes(volume.read(page).unwrap()[..8].try_into().unwrap())
}

/// Writes page after page, each its own number, until it is told that the volume is full.
fn fill(volume: &Volume, pages: &mut Vec<PageId>) -> WriteError {
    loop {
        let mut mtr = volume.begin();
        let page = mtr.alloc().unwrap();
        mtr.put(page, (pages.len() as u64).to_le_bytes().repeat(8 << 10));
        match mtr.commit().and_then(|ticket| ticket.wait()) {
            Ok(_) => pages.push(page),
            Err(e) => return e,
        }
        assert!(pages.len() < 20_000, "it is never full");
    }
}

#[test]
fn a_full_volume_is_read_frees_closes_and_opens_and_the_limit_can_be_raised() {
    let dir = common::dir();
    let options = Options::default().page_size(64 << 10).checkpoint_bytes(16 * MIB);
    let limit = |extents: u64| options.clone().max_bytes(extents * EXTENT);
    let volume = Volume::create(dir.path(), &limit(2)).unwrap();
    let mut pages = Vec::new();
    let e = fill(&volume, &mut pages);
    let WriteError::VolumeFull { holds, most } = e else { panic!("{e:?}") };
    let health = volume.health();
    // What is written anew to make room may go past the limit by an extent.
    assert!(most == 2 * EXTENT && (2 * EXTENT..=3 * EXTENT).contains(&holds), "{holds} of {most}");
    assert_eq!((health.log_bytes, health.log_bytes_max), (holds, most));
    // To the last page that fits.
    assert!(pages.len() as u64 * (64 << 10) > 2 * EXTENT / 10 * 9, "{} pages", pages.len());
    // Nothing was accepted: the page is what it was. A small commit may fit yet; a large one does not, again and again.
    for _ in 0..3 {
        let begun = Instant::now();
        assert!(matches!(put(&volume, pages[0], 7), Err(WriteError::VolumeFull { .. })));
        assert!(begun.elapsed() < Duration::from_secs(1), "it is told at once");
    }
    let check = |volume: &Volume, pages: &[PageId]| {
        pages.iter().enumerate().for_each(|(n, page)| assert_eq!(number(volume, *page), n as u64));
    };
    check(&volume, &pages);
    // Freeing makes room, so it is not refused.
    let mut mtr = volume.begin();
    mtr.free(pages.pop().unwrap());
    mtr.commit().unwrap().wait().unwrap();
    let mut mtr = volume.begin();
    mtr.put(pages[0], vec![1; 64 << 10]).put(pages[2], vec![1; 64 << 10]).free(pages[1]);
    assert!(matches!(mtr.commit(), Err(WriteError::VolumeFull { .. })), "one that does not only free is");
    volume.close().expect("clean");

    // Opened again with the same limit: full, and a kill and an open later, too.
    let volume = Volume::open(dir.path(), &limit(2)).unwrap();
    check(&volume, &pages);
    assert!(matches!(put(&volume, pages[0], 7), Err(WriteError::VolumeFull { .. })));
    let after = Volume::take_over(dir.path(), &limit(2)).unwrap();
    drop(volume);
    check(&after, &pages);
    assert!(matches!(put(&after, pages[0], 7), Err(WriteError::VolumeFull { .. })));
    after.close().expect("clean");
    let reader = Volume::open_read_only(dir.path(), &limit(2)).unwrap();
    assert!(reader.verify().is_clean() && reader.health().log_bytes >= 2 * EXTENT);
    drop(reader);

    // Raised, it takes more; lowered, it takes nothing, and says what it holds.
    let volume = Volume::open(dir.path(), &limit(5)).unwrap();
    let before = pages.len();
    let e = fill(&volume, &mut pages);
    assert!(pages.len() - before > 800 && matches!(e, WriteError::VolumeFull { .. }), "{before} {} {e:?}", pages.len());
    let health = volume.health();
    assert!(health.log_bytes <= 5 * EXTENT && health.log_bytes > 3 * EXTENT, "{}", health.log_bytes);
    check(&volume, &pages);
    volume.close().expect("clean");
    let volume = Volume::open(dir.path(), &limit(3)).unwrap();
    check(&volume, &pages);
    match put(&volume, pages[0], 7) {
        Err(e @ WriteError::VolumeFull { holds, most }) => {
            assert!(holds > most && most == 3 * EXTENT);
            assert!(e.to_string().contains("max_bytes") && e.to_string().contains("free pages"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    volume.close().expect("clean");
    // As ever without a limit.
    let volume = Volume::open(dir.path(), &options).unwrap();
    put(&volume, pages[0], 7).unwrap();
    assert_eq!((number(&volume, pages[0]), volume.health().log_bytes_max), (7, 64 << 40));
    volume.close().unwrap();
    for bad in [0, 1, 2 * EXTENT - 1] {
        assert!(Volume::open(dir.path(), &options.clone().max_bytes(bad)).is_err());
    }
}

#[test]
fn few_changes_of_many_leaves_cost_little_and_are_all_found() {
    const PAGES: u64 = 60_000;
    let dir = common::dir();
    let options = Options::default().page_size(4096).checkpoint_bytes(4 * MIB).cache_bytes(4 * MIB);
    let volume = Volume::create(dir.path(), &options).unwrap();
    for _ in 1..PAGES / 250 {
        let mut mtr = volume.begin();
        for _ in 0..250 {
            mtr.alloc().unwrap();
        }
        drop(mtr.commit().unwrap());
    }
    volume.close().unwrap();
    let volume = Volume::open(dir.path(), &options).unwrap();
    let (from, mut random) = (volume.health().tail, Random(77));
    let mut model = std::collections::BTreeMap::new();
    let check = |view: &quorate::View, model: &std::collections::BTreeMap<PageId, Option<u64>>, every: usize| {
        for (page, n) in model.iter().step_by(every) {
            match n {
                Some(n) => assert_eq!(view.read(*page).unwrap()[..8], n.to_le_bytes(), "{page}"),
                None => assert!(matches!(view.read(*page), Err(quorate::ReadError::NoSuchPage(_))), "{page}"),
            }
        }
    };
    let early = {
        let mut n = 0u64;
        let mut early = None;
        while volume.health().tail.0 < from.0 + 16 * MIB {
            let mut mtr = volume.begin();
            for _ in 0..25 {
                n += 1;
                let page = PageId(1 + random.below(PAGES - 500));
                match model.get(&page) {
                    Some(None) => continue,
                    _ if n.is_multiple_of(50) => {
                        mtr.free(page);
                        model.insert(page, None);
                        break;
                    }
                    _ => {
                        mtr.patch(page, 0, &n.to_le_bytes()).patch(page, 100, &[1; 192]);
                        model.insert(page, Some(n));
                    }
                }
            }
            drop(mtr.commit().unwrap());
            if early.is_none() && volume.health().tail.0 > from.0 + 8 * MIB {
                volume.sync().wait().unwrap();
                early = Some((volume.view(), model.clone()));
            }
        }
        early.unwrap()
    };
    volume.sync().wait().unwrap();
    check(&volume.view(), &model, 7);
    let freed = model.values().filter(|n| n.is_none()).count();
    let all = volume.view().pages().unwrap();
    assert!(freed > 100 && all.len() as u64 + freed as u64 == PAGES - 249, "{} {freed}", all.len());
    check(&early.0, &early.1, 11);
    drop(early);

    // As a kill leaves it: the runs are read again.
    let next = Volume::take_over(dir.path(), &options).unwrap();
    drop(volume);
    check(&next.view(), &model, 7);
    assert_eq!(next.view().pages().unwrap(), all);
    next.close().unwrap();
    let reader = Volume::open_read_only(dir.path(), &options).unwrap();
    check(&reader.view(), &model, 7);
    assert_eq!(reader.view().pages().unwrap(), all);
    let (mut table, mut runs, mut rest) = (0, 0, 0);
    reader.log(from, |record| {
        let record = record.unwrap();
        match record.kind {
            quorate::LogKind::Table if record.depth == 2 => runs += record.len,
            quorate::LogKind::Table => table += record.len,
            _ => rest += record.len,
        }
        std::ops::ControlFlow::Continue(())
    });
    println!("{} KiB of leaves and {} KiB of runs beside {} KiB of log", table >> 10, runs >> 10, rest >> 10);
    assert!(runs > 0 && table + runs < rest / 5, "{table} {runs} {rest}");
    assert!(reader.verify().is_clean());
}

/// Resident memory of this process.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn say(line: String) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// A volume of 32 GiB: two million pages of 16 KiB, most of them zeros.
#[test]
fn child_main() {
    let Ok(at) = std::env::var(AT) else { return };
    const PAGES: u64 = 2 << 20;
    say(String::new());
    let begun = Instant::now();
    let (most, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let watch = || {
        while !done.load(Ordering::Relaxed) {
            most.fetch_max(resident(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(watch);
        let volume = Volume::create(Path::new(&at), &Options::default()).unwrap();
        let mut pages = 1;
        while pages < PAGES {
            let mut mtr = volume.begin();
            for _ in 0..256.min(PAGES - pages) {
                mtr.alloc().unwrap();
                pages += 1;
            }
            drop(mtr.commit().unwrap());
        }
        volume.sync().wait().unwrap();
        let told = |what: &str, volume: &Volume| {
            let health = volume.health();
            let (used, promised) = (health.memory_bytes, health.memory_bytes_max);
            let peak = most.swap(0, Ordering::Relaxed);
            say(format!("{what} {peak} {used} {promised} {}", begun.elapsed().as_millis()));
        };
        told("grown", &volume);
        volume.close().unwrap();
        let volume = Volume::open(Path::new(&at), &Options::default()).unwrap();
        told("opened", &volume);
        // Four threads patch uniformly, and read what is in no cache; views come and go.
        let until = Instant::now() + Duration::from_secs(4);
        std::thread::scope(|scope| {
            for i in 1..=4 {
                let volume = &volume;
                scope.spawn(move || {
                    let (mut random, mut views, mut n) = (Random(i * 7919), Vec::new(), 0);
                    while Instant::now() < until {
                        let mut mtr = volume.begin();
                        for _ in 0..20 {
                            mtr.patch(PageId(random.below(PAGES)), random.below(16_000) as u32, &[i as u8; 200]);
                        }
                        drop(mtr.commit().unwrap());
                        for _ in 0..5 {
                            let page = volume.read(PageId(random.below(PAGES))).unwrap();
                            assert_eq!(page.len(), 16 << 10);
                        }
                        n += 1;
                        if n % 100 == 0 {
                            views.push(volume.view());
                        }
                        if views.len() > 20 {
                            views.clear();
                        }
                    }
                });
            }
        });
        told("worked", &volume);
        volume.scrub();
        assert!(volume.wait_repaired(Duration::from_secs(120)), "{:#?}", volume.health());
        told("scrubbed", &volume);
        assert!(volume.health().manifest.0 > 0);
        volume.close().unwrap();
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn memory_stays_under_the_one_number_that_is_promised() {
    let dir = common::dir();
    let child = Child::start("child_main", &[(AT, dir.path().to_str().unwrap().into())]);
    let lines = child.join(Duration::from_secs(300));
    let mut seen = 0;
    for what in ["grown", "opened", "worked", "scrubbed"] {
        let line = lines.iter().find_map(|l| l.strip_prefix(what)).unwrap_or_else(|| panic!("{what}: {lines:?}"));
        let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let [peak, used, promised, ms] = numbers[..] else { panic!("{line}") };
        println!(
            "{what} after {ms} ms: at most {} MiB resident, {} MiB counted, {} MiB promised",
            peak / MIB,
            used / MIB,
            promised / MIB
        );
        assert!(peak > 0 && peak < promised, "{what}: {peak} bytes resident, {promised} promised");
        assert!(used <= promised);
        seen += 1;
    }
    assert_eq!(seen, 4);
}
