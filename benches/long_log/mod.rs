//! A log to be scanned and copied, in memory.

use quorate::fuzzing::alone::Alone;
use quorate::{Options, PageId, Volume};

const PAGE: usize = 16 << 10;

pub fn options() -> Options {
    Options::default().pg_size(64 << 20).allow_volatile(true)
}

pub fn fill_one(volume: &Volume) -> PageId {
    let mut mtr = volume.begin();
    let page = mtr.alloc().unwrap();
    mtr.put(page, vec![1; PAGE]);
    mtr.commit().unwrap().wait().unwrap();
    page
}

/// 16 MiB of log above the last checkpoint.
pub fn long_log() -> Alone {
    let alone = Alone::new(options());
    let (volume, _background) = alone.open();
    volume.close().unwrap();
    let (volume, _background) = alone.open();
    for _ in 0..1000 {
        fill_one(&volume);
    }
    // Not closed clean: as a killed process leaves it.
    std::mem::forget(volume);
    alone
}
