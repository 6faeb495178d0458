//! A simulated file: what is readable, and what of it a power cut may turn back or ruin.

use crate::lsn::format;
use crate::segment::superblock::{PLACE, Places, SuperFault, Superblock};
use crate::segment::tail::{Seeds, Stretches};
use crate::sim::random::Random;
use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

pub const BLOCK: usize = 4096;
pub const SECTOR: usize = 512;

type Block = Box<[u8; BLOCK]>;

/// Bytes that lie together and are handed out together: what a recovery reads at once.
const FRAME: usize = format::FRAME as usize;
const BLOCKS: usize = FRAME / BLOCK;

/// A frame of a file. Recoveries read the same bytes again and again: a copy for each was most of a life's time, so that
/// readers share them, and whoever writes under a reader takes a copy.
#[derive(Clone, Default)]
struct Frame {
    /// Up to its end as far as anybody was there; zeros where nothing was written.
    bytes: Arc<Vec<u8>>,
    written: [u64; BLOCKS / 64],
    /// Where the furthest write ended, whatever of it landed: behind it is space that was taken, and nothing else.
    reach: usize,
    /// Of each block its [`Mark`], where that is known: 0 where it is not.
    marks: OnceCell<Box<[Cell<Mark>; BLOCKS]>>,
}

/// A hash of a block's bytes: blocks that have the same are taken for alike.
pub type Mark = u64;

pub fn mark(block: &[u8]) -> Mark {
    // What is in the log has checksums of the same kind: another sum beside it.
    let sum = block.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).fold(0, u64::wrapping_add);
    (u64::from(crc32fast::hash(block)) << 32 | (sum ^ sum >> 32) & 0xFFFF_FFFF).max(1)
}

/// Of a block of zeros.
static ZERO: LazyLock<Mark> = LazyLock::new(|| mark(&[0; BLOCK]));

/// Room for a frame: for what most files are, or for all of one.
const ROOMS: [usize; 2] = [64 << 10, FRAME];

thread_local! {
    /// Room for frames, from file to file and from life to life: room that is given back to the system costs a fault a
    /// page when it is needed again.
    static ROOM: RefCell<[Vec<Vec<u8>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// So much room of a kind is kept.
const ROOM_MAX: usize = 256;

/// Room for so many bytes.
fn room(len: usize) -> Vec<u8> {
    let kind = usize::from(len > ROOMS[0]);
    let kept = ROOM.try_with(|room| room.borrow_mut()[kind].pop());
    kept.ok().flatten().unwrap_or_else(|| Vec::with_capacity(ROOMS[kind]))
}

/// Keeps room that nobody reads from any more.
fn keep(bytes: &mut Arc<Vec<u8>>) {
    if let Some(kind) = ROOMS.iter().position(|room| *room == bytes.capacity())
        && let Some(bytes) = Arc::get_mut(bytes)
    {
        let mut bytes = std::mem::take(bytes);
        bytes.clear();
        // No room is kept by a thread that ends.
        let _ = ROOM.try_with(|room| {
            let room = &mut room.borrow_mut()[kind];
            if room.len() < ROOM_MAX {
                room.push(bytes);
            }
        });
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        keep(&mut self.bytes);
    }
}

impl Frame {
    /// The bytes, for writing, with room for so many: a copy, if somebody reads them.
    fn bytes_mut(&mut self, len: usize) -> &mut Vec<u8> {
        let shared = Arc::get_mut(&mut self.bytes).is_none();
        if shared || len > self.bytes.capacity() {
            let len = len.max(self.bytes.len());
            let mut bytes = room(len);
            bytes.extend_from_slice(&self.bytes);
            keep(&mut std::mem::replace(&mut self.bytes, Arc::new(bytes)));
        }
        Arc::make_mut(&mut self.bytes)
    }

    fn has(&self, block: usize) -> bool {
        self.written[block / 64] >> (block % 64) & 1 == 1
    }

    /// The blocks that were written.
    fn blocks(&self) -> impl Iterator<Item = usize> + '_ {
        (0..BLOCKS).filter(|b| self.has(*b))
    }

    /// These blocks have other bytes now.
    fn changes(&mut self, blocks: Range<usize>) {
        if let Some(marks) = self.marks.get_mut() {
            marks[blocks].fill(Cell::new(0));
        }
    }

    /// The block's mark.
    fn mark(&self, block: usize) -> Mark {
        let known = &self.marks.get_or_init(|| Box::new([const { Cell::new(0) }; BLOCKS]))[block];
        if known.get() == 0 {
            let behind = self.bytes.get(block * BLOCK..).unwrap_or_default();
            known.set(match behind.get(..BLOCK) {
                Some(bytes) => mark(bytes),
                None if behind.is_empty() => *ZERO,
                None => mark(&[behind, &[0; BLOCK][behind.len()..]].concat()),
            });
        }
        known.get()
    }

    /// A block's bytes, for writing.
    fn block(&mut self, block: usize) -> &mut [u8] {
        self.written[block / 64] |= 1 << (block % 64);
        self.changes(block..block + 1);
        let (from, to) = (block * BLOCK, (block + 1) * BLOCK);
        let bytes = self.bytes_mut(to);
        if bytes.len() < to {
            fill(bytes, to);
        }
        &mut bytes[from..to]
    }

    /// Takes whole blocks, the first of which is `block`.
    fn put(&mut self, block: usize, chunk: &[u8]) {
        let (from, to) = (block * BLOCK, block * BLOCK + chunk.len());
        (block..to / BLOCK).for_each(|b| self.written[b / 64] |= 1 << (b % 64));
        // Whoever asked for marks will ask again, and now the bytes are at hand.
        if let Some(marks) = self.marks.get() {
            marks[block..].iter().zip(chunk.chunks(BLOCK)).for_each(|(known, chunk)| known.set(mark(chunk)));
        }
        let bytes = self.bytes_mut(to);
        if bytes.len() < from {
            fill(bytes, from);
        }
        let (over, behind) = chunk.split_at(chunk.len().min(bytes.len() - from));
        // Most of a superblock is zeros, before and after: they stay clean in the caches.
        for (old, new) in bytes[from..].chunks_mut(BLOCK).zip(over.chunks(BLOCK)) {
            if old[..new.len()] != *new {
                old[..new.len()].copy_from_slice(new);
            }
        }
        bytes.extend_from_slice(behind);
    }

    /// The block was not written: it reads as zeros.
    fn forget(&mut self, block: usize) {
        if self.has(block) {
            self.block(block).fill(0);
            self.written[block / 64] &= !(1 << (block % 64));
        }
    }
}

/// A frame of zeros, where a file has space and nothing else.
/// Zeros up to a length, a block at a time: a test that is not optimized would go byte by byte.
fn fill(bytes: &mut Vec<u8>, to: usize) {
    while bytes.len() < to {
        bytes.extend_from_slice(&[0; BLOCK][..BLOCK.min(to - bytes.len())]);
    }
}

static ZEROS: LazyLock<Arc<Vec<u8>>> = LazyLock::new(|| Arc::new(vec![0; FRAME]));

/// Blocks that were written; others read as zeros.
#[derive(Clone, Default)]
pub struct File {
    frames: BTreeMap<u64, Frame>,
    /// Blocks that a power cut may turn back or ruin, with what is durable below.
    cached: BTreeMap<u64, Option<Block>>,
    /// Whole frames that were punched: a power cut may bring them back.
    punched: BTreeMap<u64, Frame>,
    /// Their flush failed: no later flush makes them durable, only another write does.
    doomed: BTreeSet<u64>,
    /// Processes that had the file open then: each is told once, by its next flush.
    owed: Vec<usize>,
    /// They cannot be read until they are written again.
    unreadable: BTreeSet<u64>,
    /// Writes that were for another place have landed in them.
    astray: BTreeSet<u64>,
    len: u64,
    /// Counts writes: a late one may land behind newer ones.
    pub writes: u64,
    /// What its two places are as superblocks, as long as nothing changes them.
    superblocks: [OnceCell<Result<Arc<Superblock>, SuperFault>>; 2],
    /// All of it, of a file of several frames, since it was read so: tail files are read again and again.
    whole: Option<Arc<Vec<u8>>>,
    /// Of a tail file, what verified when it was looked for, as long as nothing changes it.
    groups: OnceCell<(Seeds, Stretches)>,
}

impl File {
    /// How much is there of a range; none if some of it cannot be read.
    fn readable(&self, offset: u64, most: usize) -> Option<usize> {
        let n = (self.len.saturating_sub(offset)).min(most as u64) as usize;
        let (first, last) = (offset / BLOCK as u64, (offset + n as u64).div_ceil(BLOCK as u64));
        self.unreadable.range(first..last).next().is_none().then_some(n)
    }

    /// What is there of a range; none if some of it cannot be read.
    pub fn read(&self, offset: u64, most: usize) -> Option<Vec<u8>> {
        let n = self.readable(offset, most)?;
        let mut bytes = Vec::with_capacity(n);
        while bytes.len() < n {
            let (index, from) = place(offset + bytes.len() as u64);
            let len = (FRAME - from).min(n - bytes.len());
            let frame = self.frames.get(&index).map_or(&[][..], |f| &f.bytes);
            let there = frame.get(from..).unwrap_or_default();
            let end = bytes.len() + len;
            bytes.extend_from_slice(&there[..len.min(there.len())]);
            fill(&mut bytes, end);
        }
        Some(bytes)
    }

    /// Hands what is there of a range to `f`, without a copy where it lies together. False if some cannot be read.
    pub fn read_with(&self, offset: u64, most: usize, f: &mut dyn FnMut(&[u8])) -> bool {
        let Some(n) = self.readable(offset, most) else { return false };
        let (index, from) = place(offset);
        match self.frames.get(&index).and_then(|frame| frame.bytes.get(from..from + n)) {
            Some(bytes) => f(bytes),
            None => f(&self.read(offset, most).unwrap_or_default()),
        }
        true
    }

    /// What is there of a range, without a copy where it lies together; none if some of it cannot be read.
    pub fn peek(&self, offset: u64, most: usize) -> Option<Cow<'_, [u8]>> {
        let n = self.readable(offset, most)?;
        let (index, from) = place(offset);
        let frame = || self.frames.get(&index).and_then(|frame| frame.bytes.get(from..from + n));
        let whole = || self.whole.as_ref().and_then(|whole| whole.get(offset as usize..offset as usize + n));
        match frame().or_else(whole) {
            Some(bytes) => Some(Cow::Borrowed(bytes)),
            None => self.read(offset, n).map(Cow::Owned),
        }
    }

    /// [`File::read_shared`], but for what no write has ever reached: of a log, there is nothing.
    pub fn read_written(&mut self, offset: u64, most: usize) -> Option<Arc<Vec<u8>>> {
        let n = self.readable(offset, most)?;
        let (index, from) = place(offset);
        let reach = self.frames.get(&index).map_or(0, |frame| frame.reach.saturating_sub(from));
        if most == FRAME && from == 0 { self.read_shared(offset, n.min(reach)) } else { self.read_shared(offset, most) }
    }

    /// The superblocks in the file's two places. Blocks that cannot be read are zeros: they may lie behind what a superblock
    /// holds.
    pub fn superblocks(&self) -> impl Iterator<Item = &Superblock> {
        (0..2).filter_map(|place| self.superblock(place).as_deref().ok())
    }

    fn superblock(&self, place: usize) -> &Result<Arc<Superblock>, SuperFault> {
        self.superblocks[place].get_or_init(|| {
            let at = (place * PLACE) as u64;
            let whole = self.peek(at, PLACE).unwrap_or_else(|| Cow::Owned(self.read_around(at, PLACE)));
            Superblock::decode(&whole).map(Arc::new)
        })
    }

    /// The superblock in these bytes, if they are what stands in one of the places.
    pub fn superblock_in(&self, bytes: &[u8]) -> Option<Arc<Superblock>> {
        let is_it = |place: &usize| self.peek((place * PLACE) as u64, PLACE).is_some_and(|there| *there == *bytes);
        let known = |place: &usize| self.superblocks[*place].get().is_some_and(Result::is_ok);
        let place = (0..2).filter(known).find(is_it)?;
        self.superblock(place).as_ref().ok().cloned()
    }

    /// The superblocks in these bytes, if they are the file's, all of them.
    pub fn places(&self, bytes: &Arc<Vec<u8>>) -> Option<Places> {
        let is_it = self.frames.get(&0).is_some_and(|frame| Arc::ptr_eq(&frame.bytes, bytes));
        is_it.then(|| [0, 1].map(|place| self.superblock(place).as_deref().cloned().map_err(|fault| *fault)))
    }

    /// The block there has this mark, was written, and can be read.
    pub fn has(&self, offset: u64, mark: Mark) -> bool {
        let (index, from) = place(offset);
        let frame = self.frames.get(&index).filter(|frame| frame.has(from / BLOCK));
        frame.is_some_and(|f| f.mark(from / BLOCK) == mark) && !self.unreadable.contains(&(offset / BLOCK as u64))
    }

    /// Marks of the blocks of a range, which lies in a frame; none if some cannot be read, or is beyond the end.
    pub fn marks(&self, offset: u64, len: usize) -> Option<impl Iterator<Item = Mark>> {
        let (index, from) = place(offset);
        let frame = self.frames.get(&index).filter(|_| from + len <= FRAME)?;
        let is_there = self.readable(offset, len)? == len;
        is_there.then(|| (from / BLOCK..(from + len).div_ceil(BLOCK)).map(|block| frame.mark(block)))
    }

    /// A superblock was put there, all of it.
    pub fn holds(&mut self, offset: u64, superblock: Arc<Superblock>) {
        if let Some(known) =
            self.superblocks.get_mut(offset as usize / PLACE).filter(|_| offset.is_multiple_of(PLACE as u64))
        {
            *known = OnceCell::from(Ok(superblock));
        }
    }

    /// What was found in these bytes, if they are the file's, all of them; if nobody has looked yet, what `find` finds.
    pub fn groups(&self, bytes: &Arc<Vec<u8>>, of: Seeds, find: &dyn Fn() -> Stretches) -> Option<Stretches> {
        let frame = self.frames.get(&0).map(|frame| &frame.bytes);
        if !frame.into_iter().chain(&self.whole).any(|own| Arc::ptr_eq(own, bytes)) {
            return None;
        }
        let (seeds, found) = self.groups.get_or_init(|| (of, find()));
        (*seeds == of).then(|| found.clone())
    }

    /// What was written of a range of a frame, without a copy: behind it are zeros. None if some cannot be read.
    pub fn peek_written(&self, offset: u64, most: usize) -> Option<&[u8]> {
        let n = self.readable(offset, most)?;
        let (index, from) = place(offset);
        let bytes = self.frames.get(&index).and_then(|frame| frame.bytes.get(from..)).unwrap_or_default();
        Some(&bytes[..n.min(bytes.len())])
    }

    fn read_around(&self, offset: u64, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for at in (0..most).step_by(BLOCK) {
            match self.read(offset + at as u64, BLOCK) {
                Some(block) if block.is_empty() => break,
                Some(block) => bytes.extend(block),
                None => fill(&mut bytes, at + BLOCK),
            }
        }
        bytes
    }

    /// Something in the range reads otherwise from now on.
    fn changes(&mut self, range: Range<u64>) {
        self.whole = None;
        self.groups.take();
        for (place, known) in self.superblocks.iter_mut().enumerate() {
            let at = (place * PLACE) as u64;
            if range.start < at + PLACE as u64 && at < range.end {
                known.take();
            }
        }
    }

    /// What is there of a range, shared if it is a frame or all there is of one; none if some of it cannot be read.
    pub fn read_shared(&mut self, offset: u64, most: usize) -> Option<Arc<Vec<u8>>> {
        let n = self.readable(offset, most)?;
        if n > FRAME && n as u64 == self.len {
            let whole = self.whole.take().or_else(|| self.read(0, n).map(Arc::new));
            self.whole.clone_from(&whole);
            return whole;
        }
        if n > FRAME || !offset.is_multiple_of(FRAME as u64) {
            return self.read(offset, most).map(Arc::new);
        }
        let Some(frame) = self.frames.get_mut(&(offset / FRAME as u64)) else {
            return Some(if n == FRAME { ZEROS.clone() } else { Arc::new(vec![0; n]) });
        };
        if frame.bytes.len() < n {
            fill(frame.bytes_mut(n), n);
        }
        if frame.bytes.len() > n {
            return self.read(offset, most).map(Arc::new);
        }
        Some(frame.bytes.clone())
    }

    fn frame(&mut self, index: u64) -> (&mut Frame, usize) {
        (self.frames.entry(index / BLOCKS as u64).or_default(), (index % BLOCKS as u64) as usize)
    }

    fn copy_of(&self, index: u64) -> Option<Block> {
        let (frame, block) = (self.frames.get(&(index / BLOCKS as u64))?, (index % BLOCKS as u64) as usize);
        let bytes = frame.has(block).then(|| frame.bytes.get(block * BLOCK..(block + 1) * BLOCK)).flatten()?;
        bytes.try_into().ok().map(Box::new)
    }

    /// The blocks that were written, in order.
    fn written(&self) -> Vec<u64> {
        self.frames.iter().flat_map(|(i, f)| f.blocks().map(move |b| i * BLOCKS as u64 + b as u64)).collect()
    }

    /// Lets the sectors of a block-aligned write land for which `keep` says so. Volatile: a power cut may ruin them.
    pub fn land(&mut self, offset: u64, bytes: &[u8], durable: bool, mut keep: impl FnMut(usize) -> bool) {
        assert!(offset.is_multiple_of(BLOCK as u64), "writes are whole blocks");
        self.writes += 1;
        let end = offset + bytes.len() as u64;
        self.changes(offset..end.max(self.len));
        // Whole blocks that follow each other are put together.
        let mut run = 0..0;
        for (i, chunk) in bytes.chunks(BLOCK).enumerate() {
            let index = offset / BLOCK as u64 + i as u64;
            let kept: [bool; BLOCK / SECTOR] =
                std::array::from_fn(|s| s * SECTOR < chunk.len() && keep(i * BLOCK / SECTOR + s));
            if !kept.contains(&true) {
                continue;
            }
            if durable {
                self.cached.remove(&index);
                self.doomed.remove(&index);
            } else if !self.cached.contains_key(&index) {
                self.cached.insert(index, self.copy_of(index));
            }
            self.unreadable.remove(&index);
            if kept == [true; BLOCK / SECTOR] && chunk.len() == BLOCK {
                if run.end != i * BLOCK {
                    self.put(offset + run.start as u64, &bytes[run]);
                    run = i * BLOCK..i * BLOCK;
                }
                run.end += BLOCK;
                continue;
            }
            let (frame, block) = self.frame(index);
            let block = frame.block(block);
            for (s, sector) in chunk.chunks(SECTOR).enumerate().filter(|(s, _)| kept[*s]) {
                block[s * SECTOR..s * SECTOR + sector.len()].copy_from_slice(sector);
            }
        }
        self.put(offset + run.start as u64, &bytes[run]);
        for index in offset / FRAME as u64..end.div_ceil(FRAME as u64) {
            let frame = self.frames.entry(index).or_default();
            frame.reach = frame.reach.max((end - index * FRAME as u64).min(FRAME as u64) as usize);
        }
        self.len = self.len.max(end);
    }

    /// Takes whole blocks.
    fn put(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (index, from) = place(offset);
            let (here, rest) = bytes.split_at(bytes.len().min(FRAME - from));
            self.frames.entry(index).or_default().put(from / BLOCK, here);
            (offset, bytes) = (offset + here.len() as u64, rest);
        }
    }

    /// Everything that was written is durable, but for what an earlier flush failed on.
    pub fn flush(&mut self) {
        let doomed = &self.doomed;
        self.punched.clear();
        self.cached.retain(|index, _| doomed.contains(index));
    }

    /// The flush failed, and the cache forgot what it had to write. False if there was nothing.
    pub fn fail_flush(&mut self, others: impl Iterator<Item = usize>) -> bool {
        self.doomed.extend(self.cached.keys());
        self.owed.extend(others);
        !self.cached.is_empty()
    }

    /// An earlier flush failed, of which the process was not told. If it must not be told now, nothing was lost after all.
    pub fn is_owed(&mut self, process: usize, tell: bool) -> bool {
        let owed = self.owed.iter().position(|p| *p == process).map(|at| self.owed.swap_remove(at)).is_some();
        if owed && !tell {
            self.doomed.clear();
        }
        owed && tell
    }

    /// The power goes: what was not flushed is old, new or garbage, sector by sector. Returns how many are garbage, and how many
    /// holes are none any more.
    pub fn power_cut(&mut self, random: &mut Random) -> (u64, u64) {
        self.doomed.clear();
        let mut back = 0;
        for (index, frame) in std::mem::take(&mut self.punched) {
            if random.one_in(2) && !self.frames.contains_key(&index) {
                self.changes(index * FRAME as u64..(index + 1) * FRAME as u64);
                self.frames.insert(index, frame);
                back += 1;
            }
        }
        let cached = std::mem::take(&mut self.cached);
        (self.ruin(cached, random), back)
    }

    /// Somebody reads past the page cache: what could not be flushed is what the disk has of it.
    pub fn read_anew(&mut self, random: &mut Random) {
        let doomed = std::mem::take(&mut self.doomed);
        let lost = doomed.into_iter().filter_map(|index| Some((index, self.cached.remove(&index)?)));
        let lost = lost.collect();
        self.ruin(lost, random);
    }

    /// Of each sector the old, the new or garbage. Returns how many are garbage.
    fn ruin(&mut self, lost: BTreeMap<u64, Option<Block>>, random: &mut Random) -> u64 {
        let mut ruined = 0;
        for (index, old) in lost {
            self.changes(0..u64::MAX);
            let (frame, block) = self.frame(index);
            if !frame.has(block) {
                continue;
            }
            let block = frame.block(block);
            for s in 0..BLOCK / SECTOR {
                let range = s * SECTOR..(s + 1) * SECTOR;
                match (random.below(3), &old) {
                    (0, Some(old)) => block[range.clone()].copy_from_slice(&old[range]),
                    (0, None) => block[range].fill(0),
                    (1, _) => (),
                    _ => {
                        random.fill(&mut block[range]);
                        ruined += 1;
                    }
                }
            }
        }
        ruined
    }

    /// One block that was written and can be read.
    pub fn block(&self, offset: u64) -> Option<&[u8]> {
        let index = offset / BLOCK as u64;
        let frame = self.frames.get(&(index / BLOCKS as u64)).filter(|_| !self.unreadable.contains(&index))?;
        let block = (index % BLOCKS as u64) as usize;
        frame.has(block).then(|| frame.bytes.get(block * BLOCK..(block + 1) * BLOCK)).flatten()
    }

    /// No power cut turns the block back.
    pub fn is_durable(&self, offset: u64) -> bool {
        !self.cached.contains_key(&(offset / BLOCK as u64))
    }

    /// No power cut changes anything.
    pub fn is_flushed(&self) -> bool {
        self.cached.is_empty()
    }

    /// Offsets of what a power cut may turn back or ruin.
    #[cfg(test)]
    pub fn unflushed(&self) -> Vec<u64> {
        self.cached.keys().map(|index| index * BLOCK as u64).collect()
    }

    /// Offsets of what no flush makes durable any more.
    #[cfg(test)]
    pub fn doomed(&self) -> Vec<u64> {
        self.doomed.iter().map(|index| index * BLOCK as u64).collect()
    }

    pub fn allocate(&mut self, to: u64) {
        self.changes(self.len..to);
        self.len = self.len.max(to);
    }

    /// What lies above goes.
    pub fn cut(&mut self, len: u64) {
        if self.len > len {
            self.punch(len, self.len.next_multiple_of(BLOCK as u64) - len);
            self.punched.clear();
            self.unreadable.retain(|index| *index < len / BLOCK as u64);
            self.len = len;
        }
    }

    pub fn punch(&mut self, offset: u64, len: u64) {
        let range = offset / BLOCK as u64..(offset + len) / BLOCK as u64;
        self.changes(offset..offset + len);
        let frames = range.start / BLOCKS as u64..range.end.div_ceil(BLOCKS as u64);
        let whole = range.start.div_ceil(BLOCKS as u64)..range.end / BLOCKS as u64;
        self.punched.extend(self.frames.extract_if(frames.clone(), |index, _| whole.contains(index)));
        for (index, frame) in self.frames.range_mut(frames) {
            let first = index * BLOCKS as u64;
            (0..BLOCKS).filter(|b| range.contains(&(first + *b as u64))).for_each(|b| frame.forget(b));
        }
        self.cached.retain(|index, _| !range.contains(index));
        self.doomed.retain(|index| !range.contains(index));
    }

    /// The first block in a range that was written.
    pub fn first_written(&self, from: u64, to: u64) -> Option<u64> {
        let (from, to) = (from / BLOCK as u64, to / BLOCK as u64);
        let frames = self.frames.range(from / BLOCKS as u64..to.div_ceil(BLOCKS as u64));
        let mut blocks = frames.flat_map(|(i, f)| f.blocks().map(move |b| i * BLOCKS as u64 + b as u64));
        blocks.find(|b| (from..to).contains(b) && !self.astray.contains(b)).map(|b| b * BLOCK as u64)
    }

    /// A write lands there that was for another place.
    pub fn goes_astray(&mut self, offset: u64, len: usize) {
        self.astray.extend(offset / BLOCK as u64..(offset + len as u64).div_ceil(BLOCK as u64));
    }

    fn forget(&mut self, index: u64) {
        if let Some(frame) = self.frames.get_mut(&(index / BLOCKS as u64)) {
            frame.forget((index % BLOCKS as u64) as usize);
        }
    }

    /// Turns a bit of a block that was written. False if there is none.
    pub fn rot(&mut self, random: &mut Random) -> bool {
        let Some(index) = random.pick(&self.written()) else { return false };
        self.changes(0..u64::MAX);
        let (frame, block) = self.frame(index);
        frame.block(block)[random.below(BLOCK)] ^= 1 << random.below(8);
        true
    }

    /// A block that was written cannot be read any more. False if there is none.
    pub fn spoil(&mut self, random: &mut Random) -> bool {
        self.changes(0..u64::MAX);
        random.pick(&self.written()).is_some_and(|i| self.unreadable.insert(i))
    }

    /// The block at `offset` cannot be read any more.
    #[cfg(test)]
    pub fn spoil_at(&mut self, offset: u64) {
        self.changes(0..u64::MAX);
        self.unreadable.insert(offset / BLOCK as u64);
    }

    /// Cuts the file somewhere. False if it is empty.
    pub fn truncate(&mut self, random: &mut Random) -> bool {
        if self.len == 0 {
            return false;
        }
        let written = self.written();
        let blocks = written.last().map_or(0, |last| last + 1).max(1);
        let keep = random.below(blocks as usize) as u64;
        self.changes(0..u64::MAX);
        self.len = keep * BLOCK as u64;
        written.into_iter().filter(|i| *i >= keep).for_each(|i| self.forget(i));
        for (index, frame) in &mut self.frames {
            let stays = self.len.saturating_sub(index * FRAME as u64) as usize;
            if frame.bytes.len() > stays {
                frame.changes(stays / BLOCK..BLOCKS);
                frame.bytes_mut(stays).truncate(stays);
            }
        }
        self.cached.retain(|i, _| *i < keep);
        self.doomed.retain(|i| *i < keep);
        self.unreadable.retain(|i| *i < keep);
        true
    }

    /// A block-aligned place in the file, for a write that goes astray.
    pub fn somewhere(&self, random: &mut Random) -> u64 {
        random.below((self.len / BLOCK as u64).max(1) as usize) as u64 * BLOCK as u64
    }
}

/// A byte's frame, and where it lies in it.
fn place(offset: u64) -> (u64, usize) {
    (offset / FRAME as u64, (offset % FRAME as u64) as usize)
}
