//! A volume on real files: what a user does first.
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use quorate::{Options, PageId, Volume};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn patch(volume: &Volume, text: &[u8]) {
    let mut mtr = volume.begin();
    mtr.patch(PageId::ROOT, 0, text);
    mtr.commit().unwrap().wait().unwrap();
}

#[test]
fn what_was_committed_is_there_after_a_close_and_after_a_drop() {
    for io_uring in [true, false] {
        let dir = dir();
        let options = Options::default().io_uring(io_uring);
        let volume = Volume::create(dir.path(), &options).unwrap();
        patch(&volume, b"one");
        assert_eq!(&volume.read(PageId::ROOT).unwrap()[..4], b"one\0");
        volume.close().unwrap();
        for round in 0..4 {
            let t = Instant::now();
            let volume = Volume::open(dir.path(), &options).unwrap();
            println!("open {:?}", t.elapsed());
            let text = format!("round {round}");
            patch(&volume, text.as_bytes());
            assert!(volume.read(PageId::ROOT).unwrap().starts_with(text.as_bytes()));
            let t = Instant::now();
            if round % 2 == 0 {
                volume.close().unwrap();
            }
            println!("close {:?}", t.elapsed());
        }
        let volume = Volume::open(dir.path(), &options).unwrap();
        assert!(volume.read(PageId::ROOT).unwrap().starts_with(b"round 3"));
        println!("{:#?}", volume.health());
    }
}

#[test]
fn many_pages_survive_checkpoints() {
    let dir = dir();
    let options = Options::default().checkpoint_bytes(1 << 20).cache_bytes(1 << 20);
    let volume = Volume::create(dir.path(), &options).unwrap();
    let mut pages = Vec::new();
    for i in 0..3000u32 {
        let mut mtr = volume.begin();
        let page = mtr.alloc().unwrap();
        mtr.put(page, vec![i as u8; 16 << 10]).patch(page, 8, &i.to_le_bytes());
        drop(mtr.commit().unwrap());
        pages.push(page);
    }
    volume.sync().wait().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    for (i, page) in pages.iter().enumerate() {
        let got = volume.read(*page).unwrap();
        assert_eq!((&got[8..12], got[0]), (&(i as u32).to_le_bytes()[..], i as u8));
    }
    assert!(volume.health().manifest.0 > 0);
    volume.close().unwrap();
    let volume = Volume::open(dir.path(), &options).unwrap();
    for (i, page) in pages.iter().enumerate() {
        assert_eq!(&volume.read(*page).unwrap()[8..12], &(i as u32).to_le_bytes());
    }
    assert_eq!(volume.view().pages().unwrap().len(), 3001);
}

#[test]
fn a_cached_page_is_not_copied() {
    let dir = dir();
    let volume = Volume::create(dir.path(), &Options::default()).unwrap();
    patch(&volume, b"one");
    let (first, second) = (volume.read(PageId::ROOT).unwrap(), volume.read(PageId::ROOT).unwrap());
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!(volume.view().read(PageId::ROOT).unwrap().as_ptr(), first.as_ptr());
    // What somebody holds stays as it was.
    patch(&volume, b"two");
    assert_eq!((&first[..3], &volume.read(PageId::ROOT).unwrap()[..3]), (&b"one"[..], &b"two"[..]));
}

/// Both versions in the slot's newest superblock file have the clean mark.
fn is_marked(slot: &std::path::Path) -> bool {
    let number = |name: String| name.strip_prefix("epoch-")?.parse::<u64>().ok();
    let names = std::fs::read_dir(slot).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let newest = names.filter_map(number).max().unwrap();
    let file = std::fs::read(slot.join(format!("epoch-{newest}"))).unwrap();
    file.len() == 32 << 10 && file.chunks(16 << 10).all(|place| place[114] == 1)
}

#[test]
fn a_volume_that_was_closed_is_whole_on_six_when_it_is_copied() {
    let dir = dir();
    let options = Options::default();
    let volume = Volume::create(dir.path(), &options).unwrap();
    volume.close().unwrap();
    for round in 0..40 {
        let volume = Volume::open(dir.path(), &options).unwrap();
        let slots: Vec<_> = (0..6).map(|s| volume.slot_path(quorate::Slot(s))).collect();
        patch(&volume, b"one");
        let t = Instant::now();
        volume.close().unwrap();
        assert!(t.elapsed() < Duration::from_secs(2), "{:?}", t.elapsed());
        if t.elapsed() > Duration::from_millis(100) {
            // A busy disk is waited for so long at most.
            continue;
        }
        let without: Vec<usize> = (0..6).filter(|s| !is_marked(&slots[*s])).collect();
        assert!(without.is_empty(), "round {round}: slots {without:?} have no clean mark");
    }
}

/// A ticket that was taken before the epoch's first record stands for what was durable then: both faces say yes.
#[test]
fn a_ticket_for_nothing_new_has_survived() {
    let dir = dir();
    Volume::create(dir.path(), &Options::default()).unwrap().close().unwrap();
    let volume = Volume::open(dir.path(), &Options::default()).unwrap();
    let empty = volume.sync().unknown();
    patch(&volume, b"one");
    let one = volume.sync().unknown();
    volume.close().unwrap();
    for _ in 0..2 {
        let reader = Volume::open_read_only(dir.path(), &Options::default()).unwrap();
        assert_eq!([reader.outcome(empty), reader.outcome(one)], [Some(true); 2]);
        let volume = Volume::open(dir.path(), &Options::default()).unwrap();
        assert!(volume.outcome(empty).unwrap() && volume.outcome(one).unwrap());
    }
}

/// More readers than processors: each is put off now and then between two steps of a read, for several commits' time.
#[test]
fn what_is_read_of_a_hot_page_never_grows_older() {
    let dir = dir();
    let volume = Volume::create(dir.path(), &Options::default()).unwrap();
    patch(&volume, &0u64.to_le_bytes());
    let (done, volume) = (AtomicBool::new(false), &volume);
    let reads = std::thread::scope(|scope| {
        let read = || {
            let (mut newest, mut reads) = (0, 0u64);
            while !done.load(Ordering::Relaxed) {
                let page = volume.read(PageId::ROOT).unwrap();
                let n = u64::from_le_bytes(page[..8].try_into().unwrap());
                assert!(n >= newest, "{n} after {newest}");
                (newest, reads) = (n, reads + 1);
            }
            reads
        };
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(read)).collect();
        let begun = Instant::now();
        let mut n = 0u64;
        while begun.elapsed() < Duration::from_secs(3) && !readers.iter().any(|r| r.is_finished()) {
            n += 1;
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, &n.to_le_bytes()[..]);
            let ticket = mtr.commit().unwrap();
            if n.is_multiple_of(8) {
                ticket.wait().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|r| r.join().unwrap()).sum::<u64>()
    });
    assert!(reads > 1000, "{reads}");
}
