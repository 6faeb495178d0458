//! A volume on real files: what a user does first.
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use quorate::{Options, PageId, Volume};
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
