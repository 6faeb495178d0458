//! Random writes over and over, and what should be read then.

use super::Random;
use quorate::{Options, PageId, Placement, Volume};

pub const PAGE: usize = 16 << 10;
pub const PG: u64 = 64 << 20;

pub fn options() -> Options {
    Options::default().pg_size(PG).allow_volatile(true).checkpoint_bytes(8 << 20).cache_bytes(8 << 20)
}

/// A page's bytes at its `n`th version.
pub fn image(page: PageId, n: u64) -> Vec<u8> {
    (page.0 * 1_000_003 + n).to_le_bytes().repeat(PAGE / 8)
}

/// Writes of random pages, whole or in part; what should be read is kept beside.
pub struct Churn {
    pub volume: Volume,
    pub pages: Vec<(PageId, Vec<u8>)>,
    pub random: Random,
    pub turn: u64,
    pub written: u64,
}

impl Churn {
    pub fn new(at: Placement, options: &Options, pages: usize) -> Churn {
        let volume = Volume::create(at, options).unwrap();
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
    pub fn write(&mut self, bytes: u64) {
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

    /// So many commits, each a small patch.
    #[allow(dead_code, reason = "not every test patches alone")]
    pub fn patch(&mut self, commits: usize) {
        for _ in 0..commits {
            self.turn += 1;
            let i = self.random.below(self.pages.len() as u64) as usize;
            let (page, now) = &mut self.pages[i];
            let at = self.random.below(PAGE as u64 - 200) as usize;
            let bytes = self.turn.to_le_bytes().repeat(25);
            now[at..at + 200].copy_from_slice(&bytes);
            let mut mtr = self.volume.begin();
            mtr.patch(*page, at as u32, &bytes);
            drop(mtr.commit().unwrap());
        }
        self.volume.sync().wait().unwrap();
    }

    /// Frees all but the first pages.
    pub fn keep(&mut self, first: usize) {
        let gone: Vec<PageId> = self.pages.drain(first..).map(|(page, _)| page).collect();
        for pages in gone.chunks(256) {
            let mut mtr = self.volume.begin();
            pages.iter().for_each(|page| {
                mtr.free(*page);
            });
            drop(mtr.commit().unwrap());
        }
        self.volume.sync().wait().unwrap();
    }

    pub fn check(&self, volume: &Volume) {
        for (page, want) in &self.pages {
            assert!(volume.read(*page).unwrap()[..] == want[..], "{page:?}");
        }
    }
}
