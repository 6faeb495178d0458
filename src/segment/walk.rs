//! Walking over the log frame by frame, on all slots side by side: for verifying, and for reading it aloud.
//!
//! Memory is bounded by a frame a slot, whatever the volume's size. A slot's copy of a group is its segment's, else any
//! tail file's.

use crate::disk::{Fleet, job};
use crate::log::group;
use crate::log::record::RecordFault;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::segment::name::FileName;
use crate::segment::superblock::Geometry;
use crate::segment::tail;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// A frame of one slot's segment: none where there is no such file, shorter where it ends.
type FrameBytes = Result<Option<Arc<Vec<u8>>>, String>;

/// Where a group stands in a tail file.
#[derive(Clone, Copy)]
struct InTail {
    name: FileName,
    offset: u64,
    len: u64,
}

/// Groups in a slot's tail files, by address and epoch.
type Tails = BTreeMap<(Lsn, u64), InTail>;

/// How a slot's copy of a group is bad.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bad {
    /// There is something, and it is not the group; otherwise there is nothing.
    pub damaged: bool,
    /// Where the fault lies.
    pub at: Lsn,
    pub what: String,
    /// The group's length, if its header verifies all the same.
    pub len: Option<u64>,
}

impl Bad {
    fn missing(at: Lsn, what: impl Into<String>) -> Bad {
        Bad { damaged: false, at, what: what.into(), len: None }
    }
}

/// A whole copy of a group, and the file that it came from.
pub struct Whole<'a> {
    pub bytes: Cow<'a, [u8]>,
    pub name: FileName,
}

/// Reads groups of all slots, frame by frame.
pub struct Walk<'a, F> {
    fleet: &'a F,
    geometry: Geometry,
    seed: u32,
    frames: [Option<(Lsn, FrameBytes)>; SLOTS],
    tails: [Tails; SLOTS],
}

impl<'a, F: Fleet> Walk<'a, F> {
    /// Over `slots`; finds the groups of their tail files first.
    pub fn new(fleet: &'a F, geometry: Geometry, slots: SlotSet) -> Walk<'a, F> {
        let (volume, seed) = (geometry.volume, geometry.seed());
        let answers = fleet.each(slots, move |_, dir| {
            let mut tails = Tails::new();
            for name in dir.list()?.into_iter().filter(|n| matches!(n, FileName::Tail(_))) {
                let bytes = job::read_whole(dir, name, tail::BYTES_MAX)?;
                for (at, group) in tail::decode(&bytes, volume).unwrap_or_default() {
                    let Ok(sum) = group::verify(group, at, seed, |_| ()) else { continue };
                    let offset = group.as_ptr().addr() - bytes.as_ptr().addr();
                    let place = InTail { name, offset: offset as u64, len: sum.header.len };
                    tails.insert((at, sum.header.epoch), place);
                }
            }
            Ok(tails)
        });
        let tails = answers.map(|a| a.and_then(Result::ok).unwrap_or_default());
        Walk { fleet, geometry, seed, frames: [const { None }; SLOTS], tails }
    }

    /// Reads the frame that holds `at` on `slots`, side by side, where it is not the one at hand. Returns bytes read.
    pub fn load(&mut self, slots: SlotSet, at: Lsn) -> u64 {
        let base = at.floor(format::FRAME);
        let lacks = |s: &Slot| self.frames[s.index()].as_ref().is_none_or(|(b, _)| *b != base);
        let wanted: SlotSet = slots.iter().filter(lacks).collect();
        let (name, offset) = FileName::segment_of(base, self.geometry.pg_size);
        let mut answers =
            self.fleet.each(wanted, move |_, dir| match job::read_around(dir, name, offset, format::FRAME as usize) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                read => read.map(Some),
            });
        let mut read = 0;
        for slot in wanted.iter() {
            let frame = match answers[slot.index()].take() {
                Some(Ok(bytes)) => Ok(bytes),
                Some(Err(e)) => Err(e.to_string()),
                None => Err("it is not reachable".to_string()),
            };
            read += frame.as_ref().ok().and_then(Option::as_ref).map_or(0, |b| b.len() as u64);
            self.frames[slot.index()] = Some((base, frame));
        }
        read
    }

    /// Forgets a slot's frame, to read it again.
    pub fn forget(&mut self, slot: Slot) {
        self.frames[slot.index()] = None;
    }

    /// The slot's whole copy of the group of `epoch` at `at`, whose frame is loaded.
    pub fn copy(&self, slot: Slot, at: Lsn, epoch: u64) -> Result<Whole<'_>, Bad> {
        let in_segment = self.in_segment(slot, at, epoch);
        if in_segment.is_err()
            && let Some(whole) = self.in_tail(slot, at, epoch)
        {
            return Ok(whole);
        }
        in_segment
    }

    fn in_segment(&self, slot: Slot, at: Lsn, epoch: u64) -> Result<Whole<'_>, Bad> {
        let (name, _) = FileName::segment_of(at, self.geometry.pg_size);
        let frame = match &self.frames[slot.index()] {
            Some((base, frame)) if *base == at.floor(format::FRAME) => frame,
            _ => return Err(Bad::missing(at, "it was not read")),
        };
        let frame = frame.as_ref().map_err(|e| Bad::missing(at, e.as_str()))?;
        let Some(frame) = frame else { return Err(Bad::missing(at, "there is no such file")) };
        let bytes = frame.get((at.0 % format::FRAME) as usize..).filter(|b| !b.is_empty());
        let Some(bytes) = bytes else { return Err(Bad::missing(at, "the file ends before it")) };
        match group::verify(bytes, at, self.seed, |_| ()) {
            Ok(sum) if sum.header.epoch == epoch => {
                Ok(Whole { bytes: Cow::Borrowed(&bytes[..sum.header.len as usize]), name })
            }
            Ok(sum) => {
                let what = format!("it is of epoch {}, and not of {epoch}", sum.header.epoch);
                Err(Bad { damaged: true, at, what, len: None })
            }
            Err(b) if b.fault == RecordFault::NotAGroup && bytes.iter().take(group::HEADER).all(|b| *b == 0) => {
                Err(Bad::missing(at, "it was never written there"))
            }
            Err(b) => {
                let header = group::decode_header(bytes, at, self.seed).ok().filter(|h| h.epoch == epoch);
                let len = header.map(|h| h.len);
                if len.is_some_and(|len| len > bytes.len() as u64) {
                    return Err(Bad { len, ..Bad::missing(at + bytes.len() as u64, "the file ends in it") });
                }
                Err(Bad { damaged: true, at: b.at, what: b.fault.to_string(), len })
            }
        }
    }

    fn in_tail(&self, slot: Slot, at: Lsn, epoch: u64) -> Option<Whole<'_>> {
        let place = *self.tails[slot.index()].get(&(at, epoch))?;
        let mut answers = self
            .fleet
            .each(SlotSet::NONE.with(slot), move |_, dir| dir.read(place.name, place.offset, place.len as usize));
        let bytes = answers[slot.index()].take()?.ok()?;
        let whole = group::verify(&bytes, at, self.seed, |_| ()).is_ok_and(|s| s.header.epoch == epoch);
        whole.then_some(Whole { bytes: Cow::Owned(bytes), name: place.name })
    }
}
