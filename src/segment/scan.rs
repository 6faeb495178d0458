//! Scanning the log's end: the union of what the reachable slots hold, in segments and tail files.

use crate::bugs::{Bug, planted};
use crate::core::history::{Entry, History, reach};
use crate::core::recovery::{self, Lost, Ruling, Seen, Sightings};
use crate::disk::{self, Fleet, SlotDir, job};
use crate::history::past::NO_STAMPS;
use crate::log::group;
use crate::log::record::{Fields, Kind, RecordFault};
use crate::lsn::{Lsn, PageId, SLOTS, Slot, SlotSet, format};
use crate::segment::name::FileName;
use crate::segment::superblock::Geometry;
use crate::segment::survey::{self, Survey};
use crate::segment::{lost, tail};
use crate::volume::error::{OpenError, SlotFault, SlotFaults};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

/// A change of a page, met on the way: what redo puts into the overlay. Or a manifest.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub lsn: Lsn,
    pub end: Lsn,
    pub page: PageId,
    pub kind: Kind,
    /// Of a manifest: the state to which it rewinds the volume, or none.
    pub base: Lsn,
    pub depth: u8,
}

/// The bytes of a frame on one slot; shorter at the file's end.
type FrameBytes = Arc<Vec<u8>>;
/// What was read of a slot's frames: base address, and bytes or the error.
type Kept = Vec<(Lsn, Result<FrameBytes, Arc<SlotFault>>)>;

/// Whole groups by their addresses.
pub type Groups = BTreeMap<Lsn, Bytes>;

/// Frames kept per slot while scanning.
const FRAMES_KEPT: usize = 2;

/// Reads groups of one volume from a set of slots.
pub struct Scanner<'a, F> {
    fleet: &'a F,
    geometry: Geometry,
    seed: u32,
    slots: SlotSet,
    /// The other slots, and why they are not asked.
    absent: Vec<(Slot, SlotFault)>,
    frames: HashMap<Slot, Kept>,
    tails: [Groups; SLOTS],
    /// Where a group was found last: asked first for the next.
    favourite: Slot,
    /// Bytes that were read from all slots.
    pub bytes_read: u64,
    /// The lowest and the highest stamp of the MTRs that were met.
    pub stamps: (u64, u64),
}

impl<'a, F: Fleet> Scanner<'a, F> {
    /// A scanner over the slots that take part; reads their tail files first.
    pub fn new(fleet: &'a F, survey: &Survey) -> Scanner<'a, F> {
        let (geometry, slots, absent) = (survey.geometry, survey.ours(), survey.faults().0);
        let (volume, seed) = (geometry.volume, geometry.seed());
        let answers = fleet.each(slots, move |_, dir| read_tails(dir, volume, seed));
        let tails = answers.map(|a| a.and_then(Result::ok).unwrap_or_default());
        let favourite = slots.iter().next().unwrap_or(Slot(0));
        Scanner {
            fleet,
            geometry,
            seed,
            slots,
            absent,
            frames: HashMap::new(),
            tails,
            favourite,
            bytes_read: 0,
            stamps: NO_STAMPS,
        }
    }

    /// The frame that holds `at` on one slot.
    fn frame(&mut self, slot: Slot, at: Lsn) -> Result<FrameBytes, Arc<SlotFault>> {
        let base = at.floor(format::FRAME);
        let kept = self.frames.entry(slot).or_default();
        if let Some((_, frame)) = kept.iter().find(|(b, _)| *b == base) {
            return frame.clone();
        }
        let (name, offset) = FileName::segment_of(base, self.geometry.pg_size);
        let mut answer = self.fleet.each(SlotSet::NONE.with(slot), move |_, dir| {
            job::read_or_empty(dir, name, offset, format::FRAME as usize)
        });
        let frame = match answer[slot.index()].take() {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(e)) => Err(Arc::new(survey::fault_of(e))),
            None => Err(Arc::new(SlotFault::Missing)),
        };
        self.bytes_read += frame.as_ref().map_or(0, |f| f.len() as u64);
        let kept = self.frames.entry(slot).or_default();
        if kept.len() == FRAMES_KEPT {
            drop(kept.remove(0));
        }
        kept.push((base, frame.clone()));
        frame
    }

    /// The group of `epoch` at `at` on one slot, from a tail file or its segment, and the changes in it.
    fn on_slot(&mut self, slot: Slot, at: Lsn, epoch: u64) -> Result<Found, group::Broken> {
        let seed = self.seed;
        if let Some(bytes) = self.tails[slot.index()].get(&at)
            && let Ok(found) = check(bytes, at, seed, epoch)
        {
            return Ok(found);
        }
        let frame = self.frame(slot, at).unwrap_or_default();
        check(frame.get((at.0 % format::FRAME) as usize..).unwrap_or_default(), at, seed, epoch)
    }

    /// The group at `at` on any slot. Favourite first.
    fn on_any(&mut self, at: Lsn, epoch: u64, changes: &mut Vec<Change>) -> Option<(Slot, group::Summary)> {
        let first = self.favourite;
        for slot in [first].into_iter().chain(self.slots.without(first).iter()) {
            if !self.slots.contains(slot) {
                continue;
            }
            if let Ok(Found { sum, changes: mut found, stamps }) = self.on_slot(slot, at, epoch) {
                self.favourite = slot;
                self.stamps = (self.stamps.0.min(stamps.0), self.stamps.1.max(stamps.1));
                changes.append(&mut found);
                return Some((slot, sum));
            }
        }
        None
    }

    /// The bytes of the group of `epoch` at `at` on one slot.
    fn bytes(&mut self, slot: Slot, at: Lsn, epoch: u64) -> Option<Bytes> {
        let seed = self.seed;
        if let Some(bytes) = self.tails[slot.index()].get(&at)
            && check(bytes, at, seed, epoch).is_ok()
        {
            return Some(bytes.clone());
        }
        let frame = self.frame(slot, at).ok()?;
        let bytes = frame.get((at.0 % format::FRAME) as usize..)?;
        let found = check(bytes, at, seed, epoch).ok()?;
        bytes.get(..found.sum.header.len as usize).map(Bytes::copy_from_slice)
    }

    /// The group that another slot has is on this one, too. Most copies are alike, and comparing is cheaper than verifying.
    fn has(&mut self, slot: Slot, at: Lsn, epoch: u64, group: &[u8]) -> bool {
        let seed = self.seed;
        let is_whole = |bytes: &[u8]| bytes.get(..group.len()) == Some(group) || check(bytes, at, seed, epoch).is_ok();
        if self.tails[slot.index()].get(&at).is_some_and(|bytes| is_whole(bytes)) {
            return true;
        }
        let frame = self.frame(slot, at).unwrap_or_default();
        is_whole(frame.get((at.0 % format::FRAME) as usize..).unwrap_or_default())
    }

    /// A closed entry from `from` on: every address has a copy, or it is lost.
    pub fn closed(&mut self, entry: Entry, from: Lsn, changes: &mut Vec<Change>) -> Result<(), OpenError> {
        let mut at = from.max(entry.begin);
        while at < entry.end {
            match self.on_any(at, entry.epoch, changes) {
                Some((_, sum)) => at = at + sum.header.len,
                None if planted(Bug::MissingEndsLog) || planted(Bug::ForgetEpochEnd) => break,
                None => return Err(self.lost(Lost { at, known: entry.end }, entry.epoch)),
            }
        }
        changes.retain(|c| c.epoch_ends_at(entry));
        Ok(())
    }

    /// The open entry: what was seen, what it means, and the groups of its tail.
    pub fn open(
        &mut self,
        history: &History,
        from: Lsn,
        testified: Lsn,
        changes: &mut Vec<Change>,
    ) -> Result<(Sightings, Ruling, Groups), OpenError> {
        let open = history.last();
        let mut seen = Sightings::new();
        let end = self.run(from.max(open.begin), open.epoch, &mut seen, changes);
        // Beyond the union's end no writer has anything further than a LAL; a later record may testify of a lost one.
        self.look_beyond(history, end, &mut seen)?;
        let mut first = recovery::rule(open, from, &seen, testified);
        if let Err(lost) = first {
            // Frames are read one after another, and a writer may have gone on meanwhile: what a later record speaks for
            // is lost only if it is not there after that record was read.
            self.frames.clear();
            self.run(lost.at, open.epoch, &mut seen, changes);
            first = recovery::rule(open, from, &seen, testified);
        }
        let first = first.map_err(|l| self.lost(l, open.epoch))?;
        // Each is kept, for what is decided to be there will be copied. What cannot be read for that, of slots that may have
        // failed since, is in reach no more: the log is what the others hold.
        let mut groups = Groups::new();
        for &(begin, _) in &first.tail {
            let mut whole = SlotSet::NONE;
            for slot in self.slots.iter() {
                let there = match groups.get(&begin) {
                    Some(group) => self.has(slot, begin, open.epoch, group),
                    None => self.bytes(slot, begin, open.epoch).map(|bytes| groups.insert(begin, bytes)).is_some(),
                };
                if there {
                    whole.insert(slot);
                }
            }
            if let Some(s) = seen.get_mut(&begin) {
                s.whole = whole;
            }
        }
        let ruling = recovery::rule(open, from, &seen, testified).map_err(|l| self.lost(l, open.epoch))?;
        changes.retain(|c| c.lsn < open.begin || c.end <= ruling.end);
        Ok((seen, ruling, groups))
    }

    /// The unbroken run of groups from `at` on. Returns its end.
    fn run(&mut self, mut at: Lsn, epoch: u64, seen: &mut Sightings, changes: &mut Vec<Change>) -> Lsn {
        while let Some((slot, sum)) = self.on_any(at, epoch, changes) {
            let whole = SlotSet::NONE.with(slot);
            seen.insert(at, Seen { end: at + sum.header.len, whole, cpl: sum.cpl_end, vdl: sum.vdl });
            at = at + sum.header.len;
        }
        at
    }

    fn look_beyond(&mut self, history: &History, end: Lsn, seen: &mut Sightings) -> Result<(), OpenError> {
        let open = history.last();
        let block = self.geometry.block();
        for slot in self.slots.iter() {
            let mut at = end;
            while at < end + format::LAL {
                let Ok(frame) = self.frame(slot, at) else {
                    at = at.floor(format::FRAME) + format::FRAME;
                    continue;
                };
                let in_frame = (at.0 % format::FRAME) as usize;
                let Some(bytes) = frame.get(in_frame..).filter(|b| !b.is_empty()) else {
                    at = at.floor(format::FRAME) + format::FRAME;
                    continue;
                };
                let mut step = block;
                match group::verify(bytes, at, self.seed, |_| ()) {
                    Ok(sum) if sum.header.epoch > open.epoch && !planted(Bug::NewerEpochIgnored) => {
                        return Err(OpenError::UnknownEpoch { slot, epoch: sum.header.epoch, lsn: at });
                    }
                    Ok(sum) if sum.header.epoch == open.epoch => {
                        let s = seen.entry(at).or_default();
                        s.vdl = s.vdl.max(sum.vdl);
                        if at > end {
                            (s.end, s.cpl) = (at + sum.header.len, sum.cpl_end);
                            s.whole.insert(slot);
                        }
                        step = sum.header.len;
                    }
                    Err(broken) if broken.epoch == Some(open.epoch) => {
                        let s = seen.entry(at).or_default();
                        s.vdl = s.vdl.max(broken.vdl);
                    }
                    _ => (),
                }
                at = at + step;
            }
        }
        self.no_successor(open.epoch, [reach(end), reach(end) + format::EXTENT])
    }

    /// No slot has the first group of a newer epoch at one of these addresses: its decision may be lost, and its log is not.
    pub fn no_successor<const N: usize>(&self, epoch: u64, begins: [Lsn; N]) -> Result<(), OpenError> {
        let (g, seed) = (self.geometry, self.seed);
        let answers = self.fleet.each(self.slots, move |_, dir| {
            Ok(begins.into_iter().find_map(|at| {
                let (name, offset) = FileName::segment_of(at, g.pg_size);
                let bytes = job::read_or_empty(dir, name, offset, g.block() as usize).ok()?;
                let header = group::decode_header(&bytes, at, seed).ok().filter(|h| h.epoch > epoch)?;
                Some((header.epoch, at))
            }))
        });
        let found = Slot::ALL.into_iter().zip(answers).find_map(|(slot, answer)| Some((slot, answer?.ok()??)));
        match found {
            Some((slot, (epoch, lsn))) if !planted(Bug::NewerEpochIgnored) => {
                Err(OpenError::UnknownEpoch { slot, epoch, lsn })
            }
            _ => Ok(()),
        }
    }

    /// Names the record, its page, and what is wrong with each slot's copy.
    fn lost(&mut self, lost: Lost, epoch: u64) -> OpenError {
        let mut faults = self.absent.iter().map(|(slot, fault)| (*slot, survey::copy(fault))).collect::<Vec<_>>();
        let mut frames = Vec::new();
        for slot in self.slots.iter() {
            match self.frame(slot, lost.at) {
                Ok(frame) => frames.push((slot, frame)),
                Err(fault) => faults.push((slot, survey::copy(&fault))),
            }
        }
        let from = (lost.at.0 % format::FRAME) as usize;
        let copies: Vec<(Slot, &[u8])> =
            frames.iter().map(|(slot, frame)| (*slot, frame.get(from..).unwrap_or_default())).collect();
        let named = lost::name(&copies, lost.at, epoch, self.seed, self.geometry.block());
        faults.extend(named.faults);
        faults.sort_by_key(|(slot, _)| *slot);
        OpenError::Lost { lsn: named.lsn, page: named.page, known: lost.known, slots: SlotFaults(faults) }
    }
}

impl Change {
    /// It lies in another entry, or ends inside this one.
    fn epoch_ends_at(&self, entry: Entry) -> bool {
        self.lsn < entry.begin || self.end <= entry.end
    }
}

/// A group that is whole.
struct Found {
    sum: group::Summary,
    changes: Vec<Change>,
    /// The lowest and the highest of its MTRs.
    stamps: (u64, u64),
}

/// The group at the beginning of `bytes`, if it is whole and of `epoch`.
fn check(bytes: &[u8], at: Lsn, seed: u32, epoch: u64) -> Result<Found, group::Broken> {
    let (mut changes, mut stamps) = (Vec::new(), NO_STAMPS);
    let sum = group::verify(bytes, at, seed, |r| {
        changes.extend(change(&r));
        stamps = r.cpl.map_or(stamps, |c| (stamps.0.min(c.wall_us), stamps.1.max(c.wall_us)));
    })?;
    if sum.header.epoch != epoch {
        let epoch = Some(sum.header.epoch);
        return Err(group::Broken { fault: RecordFault::Epoch, at, epoch, vdl: Lsn::NONE });
    }
    Ok(Found { sum, changes, stamps })
}

/// A manifest that takes up an older state.
pub fn is_rewind(fields: &Fields) -> bool {
    fields.kind == Kind::Manifest && !fields.prev.is_none()
}

fn change(r: &crate::log::record::Record<'_>) -> Option<Change> {
    let is_manifest = r.fields.kind == Kind::Manifest;
    let is_change = matches!(r.fields.kind, Kind::Image | Kind::Delta | Kind::Free) || is_manifest;
    is_change.then_some(Change {
        lsn: r.lsn,
        end: r.end(),
        page: PageId(r.fields.page),
        kind: r.fields.kind,
        base: if is_manifest { r.fields.prev } else { r.fields.base },
        depth: r.fields.depth,
    })
}

/// The groups of a slot's tail files that verify.
fn read_tails(dir: &dyn SlotDir, volume: uuid::Uuid, seed: u32) -> io::Result<Groups> {
    let mut groups = Groups::new();
    for name in dir.list()? {
        if !matches!(name, FileName::Tail(_)) {
            continue;
        }
        let bytes = job::read_whole(dir, name, tail::BYTES_MAX)?;
        let found = dir.groups(name, &bytes, (volume, seed));
        let bytes = disk::owned(bytes);
        groups.extend(found.iter().map(|(at, range)| (*at, bytes.slice(range.clone()))));
    }
    Ok(groups)
}
