//! Table entries that were looked up lately, by page. A page that many threads read is found without writing to anything
//! that they share: no lock, no count of references. Entries are as they stand in a leaf.
//!
//! A small table of sequence locks (Boehm, *Can Seqlocks Get Along With Programming Language Memory Models?*, MSPC 2012).
//! Entries of one root never change, so an entry that was seen whole is right for as long as the root is.

use crate::lsn::PageId;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// Entries that are kept: 24 bytes each.
const SLOTS: usize = if cfg!(quorate_loom) { 1 } else { 2048 };

/// No page has this id.
const NO_PAGE: u64 = u64::MAX;

struct Slot {
    /// Odd while somebody writes the two below.
    turn: AtomicU64,
    page: AtomicU64,
    entry: AtomicU64,
}

/// Of one root of the table.
pub struct Heads(Box<[Slot]>);

impl Default for Heads {
    fn default() -> Heads {
        let slot = |_| Slot { turn: AtomicU64::new(0), page: AtomicU64::new(NO_PAGE), entry: AtomicU64::new(0) };
        Heads((0..SLOTS).map(slot).collect())
    }
}

impl Heads {
    fn slot(&self, page: PageId) -> &Slot {
        &self.0[page.0 as usize % SLOTS]
    }

    /// The page's entry, if it is kept; 0 if the table has none.
    pub fn get(&self, page: PageId) -> Option<u64> {
        let slot = self.slot(page);
        let turn = slot.turn.load(Ordering::Acquire);
        let (of, entry) = (slot.page.load(Ordering::Relaxed), slot.entry.load(Ordering::Relaxed));
        // What was loaded belongs together if nobody has begun to write since.
        fence(Ordering::Acquire);
        let whole = turn.is_multiple_of(2) && slot.turn.load(Ordering::Relaxed) == turn;
        (whole && of == page.0).then_some(entry)
    }

    /// Keeps a page's entry in place of another one. Whoever finds somebody at it leaves it to them.
    pub fn keep(&self, page: PageId, entry: u64) {
        let slot = self.slot(page);
        let turn = slot.turn.load(Ordering::Relaxed);
        let odd = turn.wrapping_add(1);
        if !turn.is_multiple_of(2)
            || slot.turn.compare_exchange(turn, odd, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // Nobody sees what follows without seeing that it is being written.
        fence(Ordering::Release);
        slot.page.store(page.0, Ordering::Relaxed);
        slot.entry.store(entry, Ordering::Relaxed);
        slot.turn.store(odd.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_kept_until_another_takes_its_place() {
        let (heads, a, b) = (Heads::default(), PageId(7), PageId(7 + SLOTS as u64));
        let (one, two) = (9, 17);
        assert_eq!(heads.get(a), None);
        heads.keep(a, one);
        assert_eq!((heads.get(a), heads.get(b)), (Some(one), None));
        heads.keep(b, two);
        assert_eq!((heads.get(a), heads.get(b)), (None, Some(two)));
        heads.keep(PageId::ROOT, 0);
        assert_eq!(heads.get(PageId::ROOT), Some(0), "that there is none is worth knowing, too");
    }
}
