//! Page ids: given out once, back when their MTR ends without them, and again after a free.
//!
//! The table is the allocator (an empty entry is a free id); here is only what makes finding one cheap.

use crate::lsn::PageId;
use crate::volume::error::WriteError;

/// Freed ids that are kept for reuse; more are found again by a scan of the table.
const FREE_MAX: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Alloc {
    /// Ids at or above were never given out.
    next: u64,
    free: Vec<PageId>,
    /// Counts rewinds: ids that come back from an older timeline may be pages of this one.
    timeline: u64,
}

impl Alloc {
    pub fn new(next: u64) -> Alloc {
        Alloc { next: next.max(1), ..Alloc::default() }
    }

    /// An id that is nobody else's until it is given back or freed.
    pub fn take(&mut self) -> Result<PageId, WriteError> {
        if let Some(id) = self.free.pop() {
            return Ok(id);
        }
        if self.next >= PageId::LIMIT {
            return Err(WriteError::OutOfPages);
        }
        self.next += 1;
        Ok(PageId(self.next - 1))
    }

    /// The ids are free: their MTR of that timeline did not use them, or it freed their pages.
    pub fn give_back(&mut self, ids: impl IntoIterator<Item = PageId>, timeline: u64) {
        for id in ids {
            if self.free.len() < FREE_MAX && timeline == self.timeline {
                self.free.push(id);
            }
        }
    }

    /// A page came with its id.
    pub fn is_used(&mut self, id: PageId) {
        self.next = self.next.max(id.0 + 1);
    }

    /// The volume was rewound: what was free may be a page again. No id that was given out since is given out again.
    pub fn rewound(&mut self) {
        self.free.clear();
        self.timeline += 1;
    }

    /// One more than the highest id that was ever given out.
    pub fn next(&self) -> u64 {
        self.next
    }
}
