//! The units of the volume: addresses, pages, slots.

use std::fmt;
use std::ops::{Add, Sub};

/// A log sequence number: the byte address at which a record was first written. Never reused, never goes back.
///
/// Positions such as VCL and VDL are LSNs too: everything *below* them is meant. 0 is "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No address: the first block of the address space is never written.
    pub const NONE: Lsn = Lsn(0);
    /// Above every address.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The multiple of `unit` at or below.
    pub(crate) fn floor(self, unit: u64) -> Lsn {
        Lsn(self.0 - self.0 % unit)
    }

    /// The multiple of `unit` at or above.
    pub(crate) fn ceil(self, unit: u64) -> Lsn {
        // Of the highest address: itself.
        Lsn(self.0.checked_next_multiple_of(unit).unwrap_or(u64::MAX))
    }

    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;
    fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }
}

impl Sub<Lsn> for Lsn {
    type Output = u64;
    fn sub(self, earlier: Lsn) -> u64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a page: given out by [`Mtr::alloc`](crate::Mtr::alloc), below 2^34. Page 0 always exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageId(pub u64);

impl PageId {
    /// The page that always exists: the user's root.
    pub const ROOT: PageId = PageId(0);
    /// One more than the highest page id that a volume can have.
    pub const LIMIT: u64 = 1 << 34;
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One of the six copies of the log. AZ `k` holds slots `2k` and `2k + 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u8);

impl Slot {
    /// All six, in order.
    pub const ALL: [Slot; SLOTS] = [Slot(0), Slot(1), Slot(2), Slot(3), Slot(4), Slot(5)];

    /// The AZ that the slot lies in, 0 to 2.
    pub fn az(self) -> usize {
        usize::from(self.0 / 2)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Copies of every byte.
pub(crate) const SLOTS: usize = 6;

/// A set of slots.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(crate) struct SlotSet(u8);

impl SlotSet {
    pub const NONE: SlotSet = SlotSet(0);
    pub const ALL: SlotSet = SlotSet(0b11_1111);

    pub fn with(self, slot: Slot) -> SlotSet {
        SlotSet(self.0 | 1 << slot.0)
    }

    pub fn without(self, slot: Slot) -> SlotSet {
        SlotSet(self.0 & !(1 << slot.0))
    }

    pub fn insert(&mut self, slot: Slot) {
        *self = self.with(slot);
    }

    pub fn contains(self, slot: Slot) -> bool {
        self.0 >> slot.0 & 1 == 1
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn union(self, other: SlotSet) -> SlotSet {
        SlotSet(self.0 | other.0)
    }

    pub fn and(self, other: SlotSet) -> SlotSet {
        SlotSet(self.0 & other.0)
    }

    /// Those that are not in the other.
    pub fn minus(self, other: SlotSet) -> SlotSet {
        SlotSet(self.0 & !other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Slot> {
        Slot::ALL.into_iter().filter(move |s| self.contains(*s))
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> SlotSet {
        slots.into_iter().fold(SlotSet::NONE, SlotSet::with)
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|s| s.0)).finish()
    }
}

/// Constants of format version 1. A superblock with another value is another format.
pub(crate) mod format {
    /// Version of every on-disk structure.
    pub const VERSION: u32 = 1;
    /// How far the sealed end may run ahead of VCL (DESIGN: LSN allocation limit).
    pub const LAL: u64 = 8 << 20;
    /// A frame of the ring. No group crosses a multiple of it, so no record does either. Tiny in loom's models, which check
    /// every 8 bytes of it.
    pub const FRAME: u64 = if cfg!(quorate_loom) { 512 } else { 1 << 20 };
    /// The unit of reclaiming, and the distance at which epochs begin.
    pub const EXTENT: u64 = 64 << 20;
    /// Longest MTR in the log, filler included: the ring less the LAL.
    pub const MTR_MAX: u64 = 8 << 20;
    pub const BLOCK_MIN: u64 = if cfg!(quorate_loom) { 256 } else { 4 << 10 };
    pub const BLOCK_MAX: u64 = 64 << 10;
    pub const PAGE_MIN: u32 = 4 << 10;
    pub const PAGE_MAX: u32 = 64 << 10;
    pub const PG_DEFAULT: u64 = 10 << 30;
    /// A segment is a file of so many bytes at most: every file system that we know has room for it.
    pub const PG_MAX: u64 = 1 << 40;
    /// Extents that may hold something, of one copy: 64 TiB.
    pub const EXTENTS_MAX: u64 = 1 << 20;
    /// No address, epoch or version comes so far: one at or above, in bytes that verify, is damage. What is added to one
    /// (a gap's length, a reach) is far less than what is left above.
    pub const NUMBER_LIMIT: u64 = 3 << 62;
    /// Users' MTRs end below: what is left above is for checkpoints, and for many opens, each of which begins in another
    /// extent.
    pub const LOG_END: u64 = NUMBER_LIMIT - (1 << 50);
}
