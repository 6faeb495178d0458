//! Samples of extents, and what is known to have died since.

use super::emptying::parts;
use crate::core::history::Entry;
use crate::log::record::Kind;
use crate::lsn::{Lsn, PageId};
use crate::page::read::Brief;
use crate::page::version::Head;
use crate::reclaim::census::Stock;
use crate::reclaim::moves::Chain;
use crate::volume::mtr::{Change, Content, What};
use crate::volume::shared::Shared;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Records of a frame that are asked for, at most.
const PICKS: usize = 24;
/// Images that died, and are not counted yet.
const DIED_MAX: usize = 16 << 10;

/// Images of pages that were freed or written anew, where they are known: between two samples an extent's census goes on by
/// these. Nothing depends on them; of more than a bound some are forgotten.
#[derive(Default)]
pub struct Died(Mutex<Vec<Lsn>>);

impl Died {
    /// An MTR was appended over these versions; patches of some pages were made images.
    pub fn tell(&self, content: &Content, mut before: HashMap<PageId, Option<Head>>, image: impl Fn(PageId) -> bool) {
        let whole = |c: &&Change| !c.fresh && (!matches!(c.what, What::Patch { .. }) || image(c.page));
        let whole = content.changes.iter().filter(whole);
        let heads = whole.filter_map(|c| before.remove(&c.page).flatten());
        let mut died = self.0.lock();
        for head in heads.take(DIED_MAX - died.len()) {
            died.extend(if head.depth == 0 { Some(head.lsn) } else { Some(head.base).filter(|base| !base.is_none()) });
        }
    }

    pub(super) fn take(&self) -> Vec<Lsn> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Most of it is waiting for a disk: several threads wait at a time. Each takes the next one that nobody has taken, so that
/// one that waits for long holds up no others.
pub(super) fn in_parallel<T: Sync, R: Send>(readers: usize, items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if readers < 2 || items.len() < 2 {
        return items.iter().map(f).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return done };
            done.push((i, f(item)));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let name = || std::thread::Builder::new().name("quorate-reclaim".into());
        // Where no thread is to be had the others do it, this one among them.
        let start = |_| name().spawn_scoped(scope, work).ok();
        let threads: Vec<_> = (1..readers.min(items.len())).filter_map(start).collect();
        let mut all = work();
        for thread in threads {
            all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, found)| found).collect()
}

impl Shared {
    /// A frame of the extent: how many bytes were looked at, and how many are live.
    pub(super) fn sample(&self, kept: &[Entry], stock: Stock, draw: u64) -> Option<(u64, u64)> {
        let parts = parts(kept, stock.run, self.geometry.block());
        let (from, to) = *parts.get((draw % parts.len().max(1) as u64) as usize)?;
        let part = self.reads.pages.reader.part(from, to).ok()?;
        let records = &part.records;
        // Nodes that are live are few, and a page's frees are not.
        let all = records.iter().map(|r| r.len).sum::<u64>().max(1);
        let of_pages: Vec<&Brief> = records.iter().filter(|r| is_of_page(r)).collect();
        let (mut of, mut live) = (0, 0);
        let each = of_pages.len().div_ceil(PICKS).max(1);
        let picked: Vec<&Brief> = of_pages.iter().skip((draw >> 8) as usize % each).step_by(each).copied().collect();
        let find = |r: &&Brief| self.chain(PageId(r.fields.page), stock.run, Some(&part)).ok().flatten();
        for (r, found) in picked.iter().zip(in_parallel(self.options.reclaim_readers, &picked, find)) {
            of += r.len;
            let holds = |c: Chain| c.image == r.lsn || c.deltas.iter().any(|d| d.lsn == r.lsn);
            live += if found.is_some_and(|f| holds(f.chain)) { r.len } else { 0 };
        }
        let pages = of_pages.iter().map(|r| r.len).sum::<u64>();
        Some((all, (u128::from(pages) * u128::from(live) / u128::from(of.max(1))) as u64))
    }
}

pub(super) fn is_of_page(r: &Brief) -> bool {
    matches!(r.fields.kind, Kind::Image | Kind::Delta)
}
