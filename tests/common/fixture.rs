//! One volume at three moments of its life, to be damaged.

use quorate::{OpenError, Options, PageId, ReadError, Volume};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const PAGE: u32 = 4096;
pub const PAGES: u64 = 24;

pub fn options() -> Options {
    Options::default().page_size(PAGE).idle_after(Duration::from_millis(10))
}

/// What the pages hold.
pub type Expected = BTreeMap<PageId, Vec<u8>>;

/// One volume, at three moments: closed long ago, closed clean, and as a kill leaves it; and another volume.
pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub expected: Expected,
}

impl Fixture {
    pub fn new() -> Fixture {
        let dir = super::dir();
        let (live, old) = (dir.path().join("live"), dir.path().join("old"));
        let other = dir.path().join("other");
        for at in [&live, &other] {
            fs::create_dir(at).unwrap();
            super::make_azs(at);
        }
        Volume::create(super::placement(&other), &options()).unwrap().close().unwrap();

        let mut expected = Expected::new();
        let volume = Volume::create(super::placement(&live), &options()).unwrap();
        let mut mtr = volume.begin();
        for i in 1..=PAGES {
            let page = mtr.alloc().unwrap();
            let image = vec![i as u8; PAGE as usize];
            mtr.put(page, image.clone());
            expected.insert(page, image);
        }
        mtr.commit().unwrap().wait().unwrap();
        volume.close().unwrap();
        super::copy(&live, &old);

        // Log since: some in an epoch that is closed, some in the open one.
        let mut change = |volume: &Volume, turn: u8| {
            for i in (1..=PAGES).step_by(1 + usize::from(turn)) {
                let page = PageId(i);
                super::patch(volume, page, u32::from(turn) * 100, &[turn; 50]);
                expected.get_mut(&page).unwrap()[usize::from(turn) * 100..][..50].fill(turn);
            }
        };
        let volume = Volume::open(super::placement(&live), &options()).unwrap();
        change(&volume, 1);
        // As a kill leaves it, and recovered from.
        drop(volume);
        let volume = Volume::open(super::placement(&live), &options()).unwrap();
        change(&volume, 2);
        // The filler after idleness speaks for the last commit.
        std::thread::sleep(Duration::from_millis(150));
        super::copy(&live, &dir.path().join("killed"));
        volume.close().unwrap();
        super::copy(&live, &dir.path().join("closed"));
        Fixture { dir, expected }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A fresh copy of one of the moments.
    pub fn fresh(&self, of: &str) -> PathBuf {
        // Each thread has its own, so that cases wait for the disk side by side.
        let at = self.at(&format!("volume-{:?}", std::thread::current().id()));
        let _ = fs::remove_dir_all(&at);
        super::copy(&self.at(of), &at);
        at
    }

    pub fn check(&self, read: impl Fn(PageId) -> Result<quorate::Page, ReadError>, what: &str) {
        for (page, want) in &self.expected {
            let got = read(*page).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(got[..] == want[..], "{what}: page {page} has other bytes");
        }
    }
}

pub fn read_only(at: &Path) -> Result<quorate::Reader, OpenError> {
    Volume::open_read_only(super::placement(at), &options())
}

pub fn open(at: &Path) -> Result<Volume, OpenError> {
    Volume::open(super::placement(at), &options())
}

pub fn slot(at: &Path, s: u8) -> PathBuf {
    super::slot(at, s)
}

pub fn empty(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
    fs::create_dir(dir).unwrap();
}

pub fn replace(dir: &Path, by: &Path) {
    fs::remove_dir_all(dir).unwrap();
    super::copy(by, dir);
}

/// A slot made unreachable: what is there is no directory.
pub fn unreachable(at: &Path, s: u8) {
    fs::remove_dir_all(slot(at, s)).unwrap();
    fs::write(slot(at, s), "").unwrap();
}
