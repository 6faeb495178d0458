//! Long chains of deltas.
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use quorate::{Options, PageId, Volume};

#[test]
fn an_mtr_may_patch_one_page_many_times() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let volume = Volume::create(dir.path(), &Options::default()).unwrap();
    let mut mtr = volume.begin();
    for i in 0..1000u32 {
        mtr.patch(PageId::ROOT, 4 * i, &i.to_le_bytes());
    }
    mtr.commit().unwrap().wait().unwrap();
    volume.close().unwrap();
    // Nothing is cached: the page is made from its records.
    let volume = Volume::open(dir.path(), &Options::default()).unwrap();
    let mut mtr = volume.begin();
    mtr.patch(PageId::ROOT, 0, b"next");
    mtr.commit().unwrap().wait().unwrap();
    let page = volume.read(PageId::ROOT).unwrap();
    assert_eq!(&page[..4], b"next");
    assert!((1..1000u32).all(|i| page[4 * i as usize..][..4] == i.to_le_bytes()));
    volume.close().unwrap();
}
