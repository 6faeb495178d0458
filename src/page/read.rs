//! Records, read from the slots: which is asked first, and what becomes of an answer that is wrong.

use crate::core::history::History;
use crate::disk::SlotDir;
use crate::disk::job;
use crate::log::group;
use crate::log::record::{self, Fields, Kind};
use crate::lsn::{Lsn, PageId, SLOTS, Slot, SlotSet, format};
use crate::page::pending::{self, Pending};
use crate::page::table::{self, Root};
use crate::reclaim::freed::Freed;
use crate::segment::name::FileName;
use crate::segment::superblock::Geometry;
use crate::segment::{given_back, survey, tail};
use crate::volume::error::{ReadError, SlotFault, SlotFaults};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A record that was read and verified.
#[derive(Clone, Debug)]
pub struct Owned {
    pub len: u64,
    pub fields: Fields,
    pub payload: Bytes,
}

impl Owned {
    pub fn from(r: &record::Record<'_>) -> Owned {
        Owned { len: r.len, fields: r.fields, payload: Bytes::copy_from_slice(r.payload) }
    }
}

/// A record without its payload.
#[derive(Clone, Copy, Debug)]
pub struct Brief {
    pub lsn: Lsn,
    pub len: u64,
    pub fields: Fields,
    /// It ends an MTR: the wall clock then.
    pub stamp: Option<u64>,
}

impl Brief {
    /// The first address behind the record.
    pub fn end(&self) -> Lsn {
        self.lsn + self.len
    }

    fn of(r: &record::Record<'_>) -> Brief {
        Brief { lsn: r.lsn, len: r.len, fields: r.fields, stamp: r.cpl.map(|c| c.wall_us) }
    }
}

/// A part of one frame, as a slot has it: all of it verifies.
pub struct Part {
    from: Lsn,
    bytes: Arc<Vec<u8>>,
    pub records: Vec<Brief>,
    seed: u32,
}

impl Part {
    /// The record at `lsn`, if it is one of these.
    pub fn record(&self, lsn: Lsn) -> Option<Owned> {
        self.records.binary_search_by_key(&lsn, |r| r.lsn).ok()?;
        let bytes = self.bytes.get((lsn - self.from) as usize..)?;
        record::decode(bytes, lsn, self.seed).ok().map(|r| Owned::from(&r))
    }
}

/// Bytes that a node's record takes, about.
pub const NODE: usize = table::FANOUT as usize * 8 + 96;

/// Reads after which a slot that hung is asked in its turn again.
const HUNG_READS: u64 = 10_000;

/// A slot that takes so many times as long as the fastest one is slow...
const SLOW: u64 = 2;
/// ... and is tried in its turn once in so many reads, so that it is seen when it is slow no more: too seldom for the 99th
/// percentile.
const TRIED: u64 = 31;

/// Slots whose reads take much longer than those of the fastest one. Where that is not known of a slot it is none of them.
fn slow(paces: [u64; SLOTS]) -> SlotSet {
    let fastest = paces.iter().copied().filter(|pace| *pace > 0).min().unwrap_or(0);
    Slot::ALL.into_iter().filter(|s| paces[s.index()] > SLOW * fastest).collect()
}

/// What each slot's copy suffers from, when none is good.
pub type Faults = Vec<(Slot, SlotFault)>;

/// Reads records from the slots: any copy that verifies, lies at its address and belongs to the history will do.
pub struct LogReader {
    geometry: Geometry,
    seed: u32,
    dirs: [Option<Arc<dyn SlotDir>>; SLOTS],
    history: RwLock<History>,
    /// Slots that are asked last: away, or with a gap. One bit a slot.
    last: AtomicU8,
    turn: AtomicU64,
    /// A slot that let a read hang is asked last until so many reads were made.
    hung_until: [AtomicU64; SLOTS],
    /// Copies that failed their check and were answered from another.
    pub bad_copies: AtomicU64,
    wounds: Wounds,
}

/// Addresses at which a slot that should have a good copy has none, until somebody mends them.
#[derive(Default)]
struct Wounds {
    found: Mutex<Vec<Lsn>>,
    /// Whoever mends them is told.
    hook: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// More are met again.
const WOUNDS_MAX: usize = 256;

impl LogReader {
    pub fn new(geometry: Geometry, dirs: [Option<Arc<dyn SlotDir>>; SLOTS], history: History) -> LogReader {
        let (last, turn) = (AtomicU8::new(0), AtomicU64::new(0));
        let hung_until = Default::default();
        let seed = geometry.seed();
        LogReader {
            geometry,
            seed,
            dirs,
            history: RwLock::new(history),
            last,
            turn,
            hung_until,
            bad_copies: AtomicU64::new(0),
            wounds: Wounds::default(),
        }
    }

    pub fn dirs(&self) -> &[Option<Arc<dyn SlotDir>>; SLOTS] {
        &self.dirs
    }

    pub fn history(&self) -> History {
        self.history.read().clone()
    }

    /// These slots are asked only when no other has a good copy.
    pub fn ask_only_last(&self, slots: SlotSet) {
        let bits = slots.iter().fold(0, |bits, s| bits | 1 << s.0);
        self.last.store(bits, Ordering::Relaxed);
    }

    /// What to do when a bad copy is met; set once.
    pub fn on_wound(&self, hook: impl Fn() + Send + Sync + 'static) {
        let _ = self.wounds.hook.set(Box::new(hook));
    }

    /// Where bad copies were met since somebody asked.
    pub fn take_wounds(&self) -> Vec<Lsn> {
        match self.wounds.found.try_lock() {
            Some(mut found) => std::mem::take(&mut *found),
            None => Vec::new(),
        }
    }

    /// Another copy of the record has answered: those that should have done so are to be mended.
    fn answered_after(&self, lsn: Lsn, faults: &Faults) {
        self.bad_copies.fetch_add(faults.len() as u64, Ordering::Relaxed);
        let last = self.last.load(Ordering::Relaxed);
        let timed_out = |f: &SlotFault| matches!(f, SlotFault::Io(e) if e.kind() == io::ErrorKind::TimedOut);
        if faults.iter().any(|(s, f)| last >> s.0 & 1 == 0 && !timed_out(f)) {
            let mut found = self.wounds.found.lock();
            if found.len() < WOUNDS_MAX {
                found.push(lsn);
            }
            drop(found);
            if let Some(hook) = self.wounds.hook.get() {
                hook();
            }
        }
    }

    /// Asks this slot only when no other has a good copy.
    pub fn ask_last(&self, slot: Slot, last: bool) {
        if last {
            self.last.fetch_or(1 << slot.0, Ordering::Relaxed);
        } else {
            self.last.fetch_and(!(1 << slot.0), Ordering::Relaxed);
        }
    }

    /// The record at `lsn`, expected to take about `hint` bytes.
    pub fn record(&self, lsn: Lsn, hint: usize) -> Result<Owned, Faults> {
        let mut faults = Faults::new();
        for slot in self.order() {
            let Some(dir) = &self.dirs[slot.index()] else { continue };
            match self.copy(&**dir, lsn, hint) {
                Ok(record) => {
                    if !faults.is_empty() {
                        self.answered_after(lsn, &faults);
                    }
                    return Ok(record);
                }
                Err(fault) => {
                    if matches!(&fault, SlotFault::Io(e) if e.kind() == io::ErrorKind::TimedOut) {
                        let until = self.turn.load(Ordering::Relaxed) + HUNG_READS;
                        self.hung_until[slot.index()].store(until, Ordering::Relaxed);
                    }
                    faults.push((slot, fault));
                }
            }
        }
        // What recovery copied may live in tail files alone.
        for slot in Slot::ALL {
            if let Some(record) = self.dirs[slot.index()].as_ref().and_then(|d| self.in_tails(&**d, lsn).ok().flatten())
            {
                self.bad_copies.fetch_add(faults.len() as u64, Ordering::Relaxed);
                return Ok(record);
            }
        }
        // No file there may mean no disk there.
        for (slot, fault) in faults.iter_mut().filter(|(_, f)| matches!(f, SlotFault::NoCopy)) {
            if let Some(Err(e)) = self.dirs[slot.index()].as_ref().map(|d| d.list()) {
                *fault = survey::fault_of(e);
            }
        }
        faults.sort_by_key(|(slot, _)| *slot);
        Err(faults)
    }

    pub fn page_size(&self) -> u32 {
        self.geometry.page_size
    }

    /// The volume's identity.
    pub fn volume(&self) -> uuid::Uuid {
        self.geometry.volume
    }

    /// No slot has a good copy: whoever writes may have given it back meanwhile.
    pub fn lost(&self, page: PageId, lsn: Lsn, faults: Faults) -> ReadError {
        match self.given_back().holds(lsn) {
            true => ReadError::ReadPointGone(lsn),
            false => ReadError::Lost { page, lsn, slots: SlotFaults(faults) },
        }
    }

    /// What was given back until now, by whoever writes.
    pub fn given_back(&self) -> Freed {
        given_back::newest(&self.dirs, &self.geometry)
    }

    /// A part of one frame that belongs to one epoch, or to several one behind the other, from a slot on which all of it verifies.
    pub fn part(&self, from: Lsn, to: Lsn) -> Result<Part, Faults> {
        let mut faults = Faults::new();
        for slot in self.order() {
            let Some(dir) = &self.dirs[slot.index()] else { continue };
            match self.part_of(&**dir, from, to) {
                Ok(part) => return Ok(part),
                Err(fault) => faults.push((slot, fault)),
            }
        }
        Err(faults)
    }

    fn part_of(&self, dir: &dyn SlotDir, from: Lsn, to: Lsn) -> Result<Part, SlotFault> {
        let (name, offset) = FileName::segment_of(from, self.geometry.pg_size);
        // The last group may reach behind the epoch's end.
        let room = (format::FRAME - from.0 % format::FRAME) as usize;
        let bytes = dir.read_shared(name, offset, room).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => SlotFault::NoCopy,
            _ => SlotFault::Io(e),
        })?;
        let (mut at, mut pos, mut records) = (from, 0, Vec::new());
        while at < to {
            let brief = |r: record::Record<'_>| records.push(Brief::of(&r));
            let sum = group::verify(bytes.get(pos..).unwrap_or_default(), at, self.seed, brief)
                .map_err(|b| SlotFault::Damaged(b.fault.to_string()))?;
            at = at + sum.header.len;
            pos += sum.header.len as usize;
        }
        records.retain(|r| r.lsn < to);
        Ok(Part { from, bytes, records, seed: self.seed })
    }

    /// The records of a part of one frame, from any slot; or of its first group alone, where no slot has all of it. Told is
    /// how far it came.
    pub fn stretch(&self, from: Lsn, to: Lsn) -> Result<(Vec<Brief>, Lsn), Faults> {
        let faults = match self.part(from, to) {
            Ok(part) => return Ok((part.records, to)),
            Err(faults) => faults,
        };
        let group = |bytes: &[u8]| {
            let mut records = Vec::new();
            let sum = group::verify(bytes, from, self.seed, |r| records.push(Brief::of(&r))).ok()?;
            let holds = self.history.read().holds(sum.header.epoch, from);
            holds.then_some((records, (from + sum.header.len).min(to)))
        };
        let (name, offset) = FileName::segment_of(from, self.geometry.pg_size);
        let room = (format::FRAME - from.0 % format::FRAME) as usize;
        for dir in self.order().filter_map(|s| self.dirs[s.index()].as_ref()) {
            if let Some(found) = dir.read_shared(name, offset, room).ok().and_then(|bytes| group(&bytes)) {
                return Ok(found);
            }
        }
        for dir in self.dirs.iter().flatten() {
            for name in dir.list().unwrap_or_default().into_iter().filter(|n| matches!(n, FileName::Tail(_))) {
                let Ok(bytes) = job::read_whole(&**dir, name, tail::BYTES_MAX) else { continue };
                let groups = tail::decode(&bytes, self.geometry.volume).unwrap_or_default();
                if let Some(found) = groups.iter().filter(|(at, _)| *at == from).find_map(|(_, bytes)| group(bytes)) {
                    return Ok(found);
                }
            }
        }
        Err(faults)
    }

    /// What is pending, by the runs that a manifest names.
    pub fn pending(&self, root: &Root) -> Result<Pending, ReadError> {
        let mut uppers: HashMap<u64, Vec<u64>> = HashMap::new();
        let table = |lsn: Lsn, hint| {
            let page = PageId::ROOT;
            let lost = |faults| ReadError::Lost { page, lsn, slots: SlotFaults(faults) };
            let record = self.record(lsn, hint).map_err(lost)?;
            let what = "it is no record of the page table";
            (record.fields.kind == Kind::Table).then_some(record).ok_or(ReadError::Corrupt { page, lsn, what })
        };
        let mut leaf_at = |leaf: u64| {
            let (upper, first) = (leaf / table::FANOUT, PageId(leaf * table::FANOUT));
            if let std::collections::hash_map::Entry::Vacant(entry) = uppers.entry(upper) {
                let node = root.upper(first).map(|lsn| table(lsn, NODE)).transpose()?;
                entry.insert(node.map_or(Vec::new(), |node| table::numbers(&node.payload)));
            }
            Ok(Lsn(uppers.get(&upper).and_then(|u| u.get(table::in_upper(first))).copied().unwrap_or(0)))
        };
        let mut pending = Pending::default();
        for lsn in &root.runs {
            let record = table(*lsn, 64 << 10)?;
            let changes = pending::decode(&record.payload).filter(|_| record.fields.depth == table::RUN_LEVEL);
            let what = "it is no run of the page table";
            let changes = changes.ok_or(ReadError::Corrupt { page: PageId::ROOT, lsn: *lsn, what })?;
            pending.load(*lsn, &changes, &mut leaf_at)?;
        }
        Ok(pending)
    }

    /// The slots in the order in which they are asked: by turns, those that are slow behind the others, and those that hang or
    /// lack something last.
    fn order(&self) -> impl Iterator<Item = Slot> + use<> {
        let reads = self.turn.fetch_add(1, Ordering::Relaxed);
        let hangs = |s: Slot| self.hung_until[s.index()].load(Ordering::Relaxed) > reads;
        let pace = |s: Slot| self.dirs[s.index()].as_ref().map_or(0, |dir| dir.pace());
        let late = if reads.is_multiple_of(TRIED) { SlotSet::NONE } else { slow(Slot::ALL.map(pace)) };
        let last = self.last.load(Ordering::Relaxed);
        let rank = Slot::ALL.map(|s| if last >> s.0 & 1 == 1 || hangs(s) { 2 } else { u8::from(late.contains(s)) });
        let turn = (reads % SLOTS as u64) as u8;
        (0..3).flat_map(move |wanted| {
            (0..SLOTS as u8).map(move |i| Slot((i + turn) % SLOTS as u8)).filter(move |s| rank[s.index()] == wanted)
        })
    }

    /// One slot's copy from its segment.
    pub fn copy(&self, dir: &dyn SlotDir, lsn: Lsn, hint: usize) -> Result<Owned, SlotFault> {
        let (name, offset) = FileName::segment_of(lsn, self.geometry.pg_size);
        let room = (format::FRAME - lsn.0 % format::FRAME) as usize;
        if room < record::HEADER {
            // No record begins there: whoever names it is wrong.
            return Err(SlotFault::NoCopy);
        }
        let mut len = hint.clamp(record::HEADER, room);
        let mut guessed = true;
        loop {
            let (mut claimed, mut found) = (0, Err(SlotFault::NoCopy));
            let read = dir.read_with(name, offset, len, &mut |bytes| {
                claimed = record::claimed_len(bytes).map_or(0, |l| l as usize);
                if !bytes.is_empty() && (claimed <= len || claimed > room) {
                    found = self.check(bytes, lsn);
                }
            });
            match read {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(SlotFault::NoCopy),
                // The guess may have reached into what cannot be read behind it: its header says how long it is.
                Err(e) if guessed && len > record::HEADER && e.kind() != io::ErrorKind::TimedOut => {
                    (len, guessed) = (record::HEADER, false);
                }
                Err(e) => return Err(SlotFault::Io(e)),
                // It is longer than was thought: once more, whole.
                Ok(()) if claimed > len && claimed <= room => (len, guessed) = (claimed, false),
                Ok(()) => return found,
            }
        }
    }

    fn check(&self, bytes: &[u8], lsn: Lsn) -> Result<Owned, SlotFault> {
        let record = record::decode(bytes, lsn, self.seed).map_err(|f| match f {
            record::RecordFault::Length if bytes.iter().take(record::HEADER).all(|&b| b == 0) => SlotFault::NoCopy,
            fault => SlotFault::Damaged(fault.to_string()),
        })?;
        if !self.history.read().holds(record.epoch, lsn) {
            return Err(SlotFault::Damaged(format!("epoch {} does not hold it", record.epoch)));
        }
        Ok(Owned::from(&record))
    }

    fn in_tails(&self, dir: &dyn SlotDir, lsn: Lsn) -> io::Result<Option<Owned>> {
        for name in dir.list()? {
            if !matches!(name, FileName::Tail(_)) {
                continue;
            }
            let bytes = job::read_whole(dir, name, tail::BYTES_MAX)?;
            for (begin, bytes) in tail::decode(&bytes, self.geometry.volume).unwrap_or_default() {
                if begin <= lsn
                    && lsn < begin + bytes.len() as u64
                    && group::verify(bytes, begin, self.seed, |_| ()).is_ok()
                {
                    return Ok(self.check(&bytes[(lsn - begin) as usize..], lsn).ok());
                }
            }
        }
        Ok(None)
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_slow_beside_the_fastest_one() {
        for (paces, want) in [
            ([0; SLOTS], SlotSet::NONE),
            ([60, 61, 70, 110, 0, 120], SlotSet::NONE),
            ([60, 600, 70, 121, 0, 0], [1, 3].map(Slot).into_iter().collect()),
            ([0, 0, 0, 0, 0, 600], SlotSet::NONE),
        ] {
            assert_eq!(slow(paces), want, "{paces:?}");
        }
    }
}
