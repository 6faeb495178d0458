//! The ring: the newest 16 MiB of the log in memory, as a table of reference-counted frames.
//!
//! A frame that a hung write (or a reader) still holds is replaced by a spare, never reused under it: so a slow slot can
//! neither stop the volume nor receive newer bytes at older offsets. Spares are bounded by what can be outstanding.
#![allow(unsafe_code)]

use crate::bugs::{Bug, planted};
use crate::lsn::{Lsn, format};
use crate::sync::{Arc, Mutex};
use std::ops::Range;

/// Frames in the table: twice the LAL.
pub const FRAMES: usize = if cfg!(quorate_loom) { 2 } else { 16 };
/// Frames beyond the table's that may be held by outstanding writes: one write a slot and process, and readers.
const SPARES: usize = if cfg!(quorate_loom) { 1 } else { 12 };
/// Bytes of log that the table covers.
pub const SPAN: u64 = FRAMES as u64 * format::FRAME;

/// One mebibyte of the log. Ranges are written once, by whoever reserved them, and read after they were published.
pub struct Frame {
    base: Lsn,
    memory: memory::Memory,
}

impl Frame {
    /// The address of the frame's first byte.
    pub fn base(&self) -> Lsn {
        self.base
    }

    fn range(&self, from: Lsn, len: usize) -> Range<usize> {
        let at = (from - self.base) as usize;
        assert!(at + len <= format::FRAME as usize, "a range of one frame");
        at..at + len
    }

    /// Fills a range.
    ///
    /// # Safety
    /// The caller holds the only reservation of the range, and it is not yet published.
    pub unsafe fn fill<R>(&self, from: Lsn, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
        // SAFETY: the caller's promise is the memory's.
        unsafe { self.memory.write(self.range(from, len), f) }
    }

    /// Reads a range.
    ///
    /// # Safety
    /// The range was published, and the publication was seen (through the append lock or the published mark).
    pub unsafe fn read<R>(&self, from: Lsn, len: usize, f: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: the caller's promise is the memory's.
        unsafe { self.memory.read(self.range(from, len), f) }
    }

    /// Where the kernel may read the range from, as long as the frame is held.
    #[cfg(not(quorate_loom))]
    pub fn pointer(&self, from: Lsn) -> *const u8 {
        let at = self.range(from, 0).start;
        self.memory.pointer(at)
    }
}

/// Every frame is held by writes or readers: too many are outstanding.
#[derive(Debug, PartialEq, Eq)]
pub struct NoFrame;

pub struct Ring {
    table: Mutex<Table>,
}

struct Table {
    frames: Vec<Option<Arc<Frame>>>,
    /// Replaced while somebody held them; reused when nobody does.
    held: Vec<Arc<Frame>>,
    made: usize,
}

impl Ring {
    pub fn new() -> Ring {
        Ring { table: Mutex::new(Table { frames: vec![None; FRAMES], held: Vec::new(), made: 0 }) }
    }

    /// Makes the frame at `base` the newest of its place. What was there must not be needed from memory any more.
    pub fn open(&self, base: Lsn) -> Result<Arc<Frame>, NoFrame> {
        assert!(base.0.is_multiple_of(format::FRAME));
        let mut table = self.table.lock();
        let place = Self::place(base);
        if let Some(old) = table.frames[place].take() {
            table.held.push(old);
        }
        let frame = match table.reuse(base) {
            Some(frame) => frame,
            None if table.made < FRAMES + SPARES => {
                let memory = memory::Memory::new().map_err(|_| NoFrame)?;
                table.made += 1;
                Arc::new(Frame { base, memory })
            }
            None => return Err(NoFrame),
        };
        table.frames[place] = Some(frame.clone());
        Ok(frame)
    }

    /// The frame that holds `lsn`, if it is still in the table.
    pub fn get(&self, lsn: Lsn) -> Option<Arc<Frame>> {
        let base = lsn.floor(format::FRAME);
        let table = self.table.lock();
        table.frames[Self::place(base)].as_ref().filter(|f| f.base == base).cloned()
    }

    /// Bytes of memory taken so far.
    pub fn bytes(&self) -> u64 {
        self.table.lock().made as u64 * format::FRAME
    }

    fn place(base: Lsn) -> usize {
        (base.0 / format::FRAME) as usize % FRAMES
    }
}

impl Table {
    /// A frame that nobody holds any more.
    fn reuse(&mut self, base: Lsn) -> Option<Arc<Frame>> {
        if planted(Bug::ReuseHungFrame) && !self.held.is_empty() {
            let frame = self.held.swap_remove(0);
            // SAFETY: none, it is the bug: whoever holds the frame sees it change. Never reached but with `--cfg quorate_bugs`.
            unsafe { (*Arc::as_ptr(&frame).cast_mut()).base = base };
            return Some(frame);
        }
        // `get_mut` is the proof that nobody else holds it; it also orders their last reads before our first write.
        let free = (0..self.held.len()).find(|&i| Arc::get_mut(&mut self.held[i]).is_some())?;
        let mut frame = self.held.swap_remove(free);
        Arc::get_mut(&mut frame)?.base = base;
        Some(frame)
    }
}

#[cfg(not(quorate_loom))]
mod memory {
    use super::*;
    use memmap2::MmapRaw;
    use std::mem::ManuallyDrop;

    /// An anonymous map: page-aligned, so fit for O_DIRECT, and not moved.
    pub struct Memory(ManuallyDrop<MmapRaw>);

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: it is dropped once, and nobody comes after it.
            kept::take(unsafe { ManuallyDrop::take(&mut self.0) });
        }
    }

    // SAFETY: all access goes through `read` and `write`, whose callers promise that no range is written while it is
    // read or written elsewhere.
    unsafe impl Sync for Memory {}

    impl Memory {
        pub fn new() -> std::io::Result<Memory> {
            let map = match kept::give() {
                Some(map) => map,
                None => memmap2::MmapMut::map_anon(format::FRAME as usize)?.into(),
            };
            Ok(Memory(ManuallyDrop::new(map)))
        }

        pub fn pointer(&self, at: usize) -> *const u8 {
            self.0.as_ptr().wrapping_add(at)
        }

        pub unsafe fn write<R>(&self, range: Range<usize>, f: impl FnOnce(&mut [u8]) -> R) -> R {
            // SAFETY: the range lies in the map (checked by Frame), and is the caller's alone.
            f(unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().add(range.start), range.len()) })
        }

        pub unsafe fn read<R>(&self, range: Range<usize>, f: impl FnOnce(&[u8]) -> R) -> R {
            // SAFETY: the range lies in the map (checked by Frame), and nobody writes it.
            f(unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(range.start), range.len()) })
        }
    }
}

/// What simulated processes leave to the next one: memory that is given back costs a fault a page when it is needed again.
#[cfg(all(feature = "sim", not(quorate_loom)))]
pub mod kept {
    use memmap2::MmapRaw;
    use std::cell::RefCell;

    /// So many maps are kept.
    const MOST: usize = 32;

    thread_local! {
        static KEPT: RefCell<Option<Vec<MmapRaw>>> = const { RefCell::new(None) };
    }

    /// From now on this thread keeps maps; others do not.
    pub fn begin() {
        KEPT.with(|kept| _ = kept.borrow_mut().get_or_insert_default());
    }

    pub(super) fn take(map: MmapRaw) {
        // None is kept by a thread that ends.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().as_mut().filter(|kept| kept.len() < MOST).map(|k| k.push(map)));
    }

    pub(super) fn give() -> Option<MmapRaw> {
        KEPT.try_with(|kept| kept.borrow_mut().as_mut()?.pop()).ok()?
    }
}

#[cfg(not(any(feature = "sim", quorate_loom)))]
mod kept {
    pub fn take<T>(_: T) {}

    pub fn give() -> Option<memmap2::MmapRaw> {
        None
    }
}

/// loom's memory: one checked cell for every 8 bytes, the grain of the log's layout. Group headers, records and fillers of
/// one block are written at different times by design; two uses of the same bytes that are not ordered fail the model.
#[cfg(quorate_loom)]
mod memory {
    use super::*;
    use loom::cell::UnsafeCell;

    const CELL: usize = 8;

    pub struct Memory(Vec<UnsafeCell<[u8; CELL]>>);

    // SAFETY: loom's cells check every access.
    unsafe impl Sync for Memory {}
    // SAFETY: as above.
    unsafe impl Send for Memory {}

    impl Memory {
        pub fn new() -> std::io::Result<Memory> {
            Ok(Memory((0..format::FRAME as usize / CELL).map(|_| UnsafeCell::new([0; CELL])).collect()))
        }

        pub unsafe fn write<R>(&self, range: Range<usize>, f: impl FnOnce(&mut [u8]) -> R) -> R {
            let mut bytes = vec![0; range.len()];
            let result = f(&mut bytes);
            for (cell, part) in self.cells(range).iter().zip(bytes.chunks_exact(CELL)) {
                // SAFETY: loom checks that nobody else uses the cell now.
                cell.with_mut(|c| unsafe { (*c).copy_from_slice(part) });
            }
            result
        }

        pub unsafe fn read<R>(&self, range: Range<usize>, f: impl FnOnce(&[u8]) -> R) -> R {
            let mut bytes = Vec::with_capacity(range.len());
            for cell in self.cells(range) {
                // SAFETY: loom checks that nobody writes the cell now.
                cell.with(|c| bytes.extend_from_slice(unsafe { &*c }));
            }
            f(&bytes)
        }

        fn cells(&self, range: Range<usize>) -> &[UnsafeCell<[u8; CELL]>] {
            assert!(range.start.is_multiple_of(CELL) && range.end.is_multiple_of(CELL), "the log's grain");
            &self.0[range.start / CELL..range.end / CELL]
        }
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_held_frame_is_never_reused() {
        let ring = Ring::new();
        let held = ring.open(Lsn(0)).unwrap();
        for turn in 1..200u64 {
            let frame = ring.open(Lsn(turn * format::FRAME)).unwrap();
            assert!(!Arc::ptr_eq(&frame, &held));
        }
        assert_eq!(held.base(), Lsn(0));
        assert!(ring.get(Lsn(5)).is_none());
        assert!(ring.bytes() <= (FRAMES as u64 + 1) * format::FRAME);
    }

    #[test]
    fn spares_are_bounded() {
        let ring = Ring::new();
        let mut held = Vec::new();
        let mut refused = |i: &u64| match ring.open(Lsn(i * format::FRAME)) {
            Ok(frame) => {
                held.push(frame);
                false
            }
            Err(NoFrame) => true,
        };
        let out = (0..100u64).find(&mut refused);
        assert_eq!(out, Some((FRAMES + SPARES) as u64));
        held.clear();
        assert!(ring.open(Lsn(100 * format::FRAME)).is_ok());
    }
}
