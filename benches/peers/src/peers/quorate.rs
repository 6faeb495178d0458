//! The volume: six copies, four of which a commit waits for. A page is a page; small values are patches of pages that
//! hold many of them.

use crate::peer::{PAGE, Peer, SMALL, SMALL_BYTES, SMALL_KEYS, Setup, Ticket};
use anyhow::{Result, ensure};
use parking_lot::Mutex;
use quorate::{Commit, Mtr, Options, PageId, Volume};

/// Small values in a page.
const A_PAGE: u64 = (PAGE / SMALL_BYTES) as u64;
/// Pages of small values: the first after the root.
const SMALL_PAGES: u64 = SMALL_KEYS.div_ceil(A_PAGE);

struct Quorate {
    volume: Volume,
    /// Keys of pages from here on have no page yet.
    next: Mutex<u64>,
}

pub fn open(setup: &Setup) -> Result<Box<dyn Peer>> {
    let mut options = Options::default().page_size(PAGE as u32).cache_bytes(setup.cache).io_uring(setup.uring);
    if setup.keep_log {
        options = options.checkpoint_bytes(512 << 20).overlay_bytes(512 << 20);
    }
    let dirs: Vec<_> = setup.dirs.iter().map(|d| d.join("volume")).collect();
    if dirs[0].exists() {
        let volume = Volume::open(quorate::Placement::new(dirs), &options)?;
        return Ok(Box::new(Quorate { volume, next: Mutex::new(u64::MAX) }));
    }
    for dir in &dirs {
        std::fs::create_dir(dir)?;
    }
    let volume = Volume::create(quorate::Placement::new(dirs), &options)?;
    let mut mtr = volume.begin();
    for page in 1..=SMALL_PAGES {
        ensure!(mtr.alloc()? == PageId(page), "a new volume's pages are not given out in order");
    }
    mtr.commit()?.wait()?;
    Ok(Box::new(Quorate { volume, next: Mutex::new(0) }))
}

/// The page of a key, and where in it.
fn place(key: u64) -> (PageId, usize) {
    match key.checked_sub(SMALL) {
        Some(small) => (PageId(1 + small / A_PAGE), (small % A_PAGE) as usize * SMALL_BYTES),
        None => (PageId(1 + SMALL_PAGES + key), 0),
    }
}

impl Quorate {
    fn append(&self, all: &[(u64, &[u8])]) -> Result<Commit> {
        let mut mtr = self.volume.begin();
        for (key, value) in all {
            let (page, at) = place(*key);
            if *key >= SMALL {
                mtr.patch(page, at as u32, value);
                continue;
            }
            self.make(&mut mtr, *key, page)?;
            mtr.put(page, value.to_vec());
        }
        Ok(mtr.commit()?)
    }

    /// Pages are made in the order of keys, by the load alone, so that no table is needed from key to page.
    fn make(&self, mtr: &mut Mtr, key: u64, page: PageId) -> Result<()> {
        let mut next = self.next.lock();
        if key >= *next {
            ensure!(mtr.alloc()? == page, "key {key} is written before those below it");
            *next = key + 1;
        }
        Ok(())
    }
}

impl Peer for Quorate {
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()> {
        Ok(self.append(all)?.wait()?)
    }

    fn submit(&self, key: u64, value: &[u8]) -> Result<Option<Ticket<'_>>> {
        let ticket = self.append(&[(key, value)])?;
        Ok(Some(Box::new(move || Ok(ticket.wait()?))))
    }

    fn get(&self, key: u64, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (page, at) = place(key);
        let page = self.volume.read(page)?;
        see(if key >= SMALL { &page[at..at + SMALL_BYTES] } else { &page[..] });
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.volume.close()?)
    }
}
