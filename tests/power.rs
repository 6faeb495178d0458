//! Power cuts on real files: a copy of the disk beneath a mounted file system is what a cut would leave.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Mount;
use quorate::{Options, PageId, Volume};
use std::fs;

#[test]
fn what_was_acknowledged_outlives_a_power_cut() {
    for io_uring in [true, false] {
        let dir = common::dir();
        let Some(disk) = Mount::new(dir.path(), "disk", 128) else { return };
        common::make_azs(&disk.path);
        // Written over where it was zeroed before, a block needs nothing of the file system's journal.
        let options = Options::default().io_uring(io_uring).zero_ahead(false);
        Volume::create(common::placement(&disk.path), &options).unwrap().close().unwrap();
        let volume = Volume::open(common::placement(&disk.path), &options).unwrap();
        // Before any commit, whose own syncs would carry it: the decision.
        let decided = disk.cut("decided");
        for slot in 0..6 {
            let file = common::slot(&decided.path, slot).join("epoch-2");
            assert_eq!(fs::metadata(file).unwrap().len(), 32 << 10, "both places on slot {slot}");
        }
        for n in 1..=20u8 {
            common::patch(&volume, PageId::ROOT, 0, &[n]);
        }
        let cut = disk.cut("cut");
        let after = Volume::open(common::placement(&cut.path), &options).unwrap();
        assert_eq!(after.read(PageId::ROOT).unwrap()[0], 20, "io_uring {io_uring}");
        after.close().unwrap();
        volume.close().unwrap();
    }
}
