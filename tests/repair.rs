//! Healing on real disks: what is wiped, cut short or damaged under a working volume is whole again without a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::{Child, Mount, Random};
use quorate::{Event, Options, PageId, Placement, Slot, Volume};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PAGE: usize = 16 << 10;
const THREADS: u64 = 4;
const AT: &str = "QUORATE_REPAIR_AT";
/// MiB of data; `.ci/run` takes 1,024.
const MIB: &str = "QUORATE_REPAIR_MIB";

fn options() -> Options {
    Options::default().page_size(PAGE as u32).cache_bytes(8 << 20)
}

fn mib() -> u64 {
    std::env::var(MIB).ok().and_then(|s| s.parse().ok()).unwrap_or(48)
}

/// A page that says `n` all over.
fn image(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(PAGE / 8)
}

/// Six identical copies, and every page can be read.
fn assert_whole(at: impl Into<Placement>) {
    let reader = Volume::open_read_only(at, &options()).unwrap();
    let found = reader.verify();
    assert!(found.is_clean(), "{:#?} {:?}", found.differences, found.unreadable);
    assert!(found.groups > 0);
}

/// Fills the volume, then commits from some threads until a file says stop. Says what was acknowledged.
#[test]
fn child_main() {
    let Ok(at) = std::env::var(AT) else { return };
    let at = Path::new(&at);
    println!();
    let volume = Volume::open(common::placement(at), &options()).unwrap();
    let pages = (mib() << 20) / PAGE as u64;
    let mut last = None;
    for first in (0..pages).step_by(32) {
        let mut mtr = volume.begin();
        for _ in first..pages.min(first + 32) {
            let page = mtr.alloc().unwrap();
            mtr.put(page, image(page.0));
        }
        last = Some(mtr.commit().unwrap());
    }
    last.unwrap().wait().unwrap();
    // Four of six have all of it; a slot that fell behind gets the rest now. What is damaged next is four slots' copies, and
    // the other two are all there is.
    assert!(volume.wait_repaired(Duration::from_secs(120)), "{:#?}", volume.health());
    println!("filled");
    let stop = at.join("stop");
    let slowest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (volume, stop, slowest) = (volume.clone(), &stop, &slowest);
            scope.spawn(move || {
                for n in 1.. {
                    // Pages 1 to 4 are the threads', and are written again and again.
                    let begun = Instant::now();
                    let mut mtr = volume.begin();
                    mtr.put(PageId(1 + thread), image(n));
                    mtr.commit().expect("no commit fails").wait().expect("no commit fails");
                    slowest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
                    println!("acked {thread} {n}");
                    if n % 64 == 0 && stop.exists() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
    });
    println!("slowest {} us", slowest.into_inner());
    volume.scrub();
    let begun = Instant::now();
    assert!(volume.wait_repaired(Duration::from_secs(120)), "{:#?}", volume.health());
    println!("healed in {:?}: {:?}", begun.elapsed(), volume.health().repair);
    volume.close().unwrap();
    println!("closed");
}

#[test]
fn an_az_is_wiped_a_segment_cut_and_bytes_flipped_under_load() {
    let dir = common::dir();
    let at = dir.path();
    let azs = common::make_azs(at);
    Volume::create(common::placement(at), &options()).unwrap().close().unwrap();
    let child = Child::start("child_main", &[(AT, at.to_str().unwrap().into()), (MIB, mib().to_string())]);
    child.until("filled", Duration::from_secs(240)).expect("it is filled");
    let mut random = Random::seeded();
    // An AZ goes, and a blank one comes in its place.
    common::remove_live(&azs[0]);
    fs::create_dir(&azs[0]).unwrap();
    let wiped = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    // Two slots of another are damaged, each in places of its own: half of one is cut off, bytes of the other are flipped.
    let segment = |slot: u8| {
        let path = common::slot(at, slot).join("seg-00000000");
        fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
    };
    let cut = segment(2);
    cut.set_len(cut.metadata().unwrap().len() / 2 / 4096 * 4096).unwrap();
    let flipped = segment(3);
    let len = (mib() << 20).min(flipped.metadata().unwrap().len());
    for _ in 0..1000 {
        let (mut byte, at) = ([0], random.below(len));
        flipped.read_exact_at(&mut byte, at).unwrap();
        flipped.write_all_at(&[byte[0] ^ 1 << random.below(8)], at).unwrap();
    }
    flipped.sync_all().unwrap();
    // The slots are taken back within seconds.
    while !(0..2).all(|s| common::slot(at, s).join("seg-00000000").exists()) {
        assert!(wiped.elapsed() < Duration::from_secs(10), "the blank AZ was not taken back");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("taken back after {:?}", wiped.elapsed());
    std::thread::sleep(Duration::from_secs(2));
    fs::write(at.join("stop"), b"").unwrap();
    let lines = child.join(Duration::from_secs(240));
    let mut acked = [0; THREADS as usize];
    for line in &lines {
        if let Some(said) = line.strip_prefix("acked ") {
            let (thread, n) = said.split_once(' ').unwrap();
            acked[thread.parse::<usize>().unwrap()] = n.parse().unwrap();
        }
    }
    lines.iter().filter(|l| l.starts_with("slowest") || l.starts_with("healed")).for_each(|l| println!("{l}"));
    assert!(lines.iter().any(|l| l == "closed"), "{lines:#?}");
    assert_whole(common::placement(at));
    let reader = Volume::open_read_only(common::placement(at), &options()).unwrap();
    let view = reader.view();
    for (thread, n) in acked.into_iter().enumerate() {
        assert!(n > 0);
        assert_eq!(view.read(PageId(1 + thread as u64)).unwrap()[..], image(n), "thread {thread}");
    }
    let pages = (mib() << 20) / PAGE as u64;
    (1 + THREADS..=pages).for_each(|n| assert!(view.read(PageId(n)).unwrap()[..] == image(n), "page {n}"));
}

/// A disk below an AZ fills up, is mounted read-only, and comes back, each by itself.
fn a_disk_in_trouble(kind: &str, mib: u64) {
    let dir = common::dir();
    let Some(disk) = Mount::of(dir.path(), "disk", mib, kind) else { return };
    let azs = [dir.path().join("a"), disk.path.join("az"), dir.path().join("c")];
    azs.iter().for_each(|az| fs::create_dir(az).unwrap());
    let at = Placement::from(azs);
    let volume = Volume::create(at.clone(), &options().checkpoint_bytes(4 << 20)).unwrap();
    let mut n = 0;
    let mut commits = |count: u64| {
        for _ in 0..count {
            n += 1;
            let mut mtr = volume.begin();
            mtr.put(PageId::ROOT, image(n));
            mtr.commit().unwrap().wait().unwrap();
        }
        n
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !done() {
            assert!(Instant::now() < deadline, "{what}: {:#?}", volume.health());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let live = || volume.health().slots.iter().all(|s| s.away.is_none() && !s.full);
    commits(100);
    disk.fill();
    commits(2500);
    assert!(!live(), "{kind}: it is full");
    disk.make_room();
    until("with room it comes back", &|| live());
    assert!(volume.wait_repaired(Duration::from_secs(60)), "{:#?}", volume.health());
    commits(10);
    if disk.remount("ro") {
        commits(400);
        assert!(!live(), "{kind}: it is read-only");
        assert!(disk.remount("rw"));
        until("writable it comes back", &|| live());
    } else {
        println!("{kind}: not remounted, for files are open");
    }
    let last = commits(10);
    volume.scrub();
    assert!(volume.wait_repaired(Duration::from_secs(60)), "{:#?}", volume.health());
    assert!(volume.read(PageId::ROOT).unwrap()[..] == image(last));
    volume.close().unwrap();
    assert_whole(at);
}

#[test]
fn an_ext4_in_trouble() {
    a_disk_in_trouble("ext4", 256);
}

#[test]
fn an_xfs_in_trouble() {
    a_disk_in_trouble("xfs", 320);
}

#[test]
fn a_reader_that_meets_a_bad_copy_has_it_mended() {
    let dir = common::dir();
    let at = dir.path();
    common::make_azs(at);
    let volume = Volume::create(common::placement(at), &options()).unwrap();
    let mut mtr = volume.begin();
    let pages: Vec<PageId> = (0..256).map(|_| mtr.alloc().unwrap()).collect();
    for page in &pages {
        mtr.put(*page, image(page.0));
    }
    mtr.commit().unwrap().wait().unwrap();
    volume.close().unwrap();
    // All of the log is damaged on one slot.
    let path = common::slot(at, 4).join("seg-00000000");
    let segment = fs::OpenOptions::new().write(true).open(path).unwrap();
    (0..512).for_each(|i| segment.write_all_at(&[0xA5; 64], 4096 + i * 8192 + 100).unwrap());
    segment.sync_all().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tell, called) = (told.clone(), AtomicBool::new(false));
    let options = options().cache_bytes(0).on_event(move |event| {
        called.store(true, Ordering::Relaxed);
        tell.lock().unwrap().push(*event);
    });
    let volume = Volume::open(common::placement(at), &options).unwrap();
    for _ in 0..12 {
        pages.iter().for_each(|p| assert!(volume.read(*p).unwrap()[..] == image(p.0)));
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !told.lock().unwrap().iter().any(|e| matches!(e, Event::Mended { slot: Slot(4), .. })) {
        assert!(Instant::now() < deadline, "{:?}", told.lock().unwrap());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(told.lock().unwrap().iter().any(|e| matches!(e, Event::BadCopy { .. })));
    assert!(volume.health().repair.mends > 0 && volume.health().bad_copies > 0);
    volume.scrub();
    assert!(volume.wait_repaired(Duration::from_secs(20)));
    volume.close().unwrap();
    assert_whole(common::placement(at));
}

/// Whoever is told may use the volume: the thread that tells is none of those that it then waits for.
#[test]
fn who_is_told_may_commit_and_ask() {
    let dir = common::dir();
    common::make_azs(dir.path());
    let volume: Arc<std::sync::OnceLock<Volume>> = Arc::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (mine, tell) = (volume.clone(), told.clone());
    let options = options().stall_max(Duration::from_secs(4)).on_event(move |event| {
        let (Event::SlotLeft { slot, .. }, Some(volume)) = (event, mine.get()) else { return };
        let mut mtr = volume.begin();
        mtr.patch(PageId::ROOT, slot.0.into(), &[1]);
        let committed = mtr.commit().and_then(|ticket| ticket.wait());
        let health = volume.health();
        tell.lock().unwrap().push((*slot, committed.is_ok(), health.ended.is_some()));
        panic!("this is reported, and ends nothing");
    });
    let _ = volume.set(Volume::create(common::placement(dir.path()), &options).unwrap());
    // One AZ is enough for two words, beside four slots; two more are too much, and the commit is refused in time.
    let ends = |azs: usize, slots: usize| {
        common::remove_live(&common::azs(dir.path())[azs]);
        let begun = Instant::now();
        while told.lock().unwrap().len() < slots {
            assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", told.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    ends(0, 2);
    assert!(told.lock().unwrap().iter().all(|(_, committed, ended)| *committed && !ended), "{told:?}");
    ends(1, 3);
    let last = told.lock().unwrap()[2];
    assert!(!last.1, "{last:?}");
}
