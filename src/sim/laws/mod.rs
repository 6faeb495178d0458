//! What PROTOCOL.md promises of every single write and look, checked as it happens. The world sees all that processes do,
//! so a rule that was broken shows at once, and not only in the rare life in which somebody comes to harm by it.
//!
//! A law knows what was sent, what landed and what was listed, and nothing of the code above the disks. What the world
//! itself has done to a slot (it is hurt) is no process's fault.

mod opening;
mod space;
mod writing;

use crate::core::WRITE_QUORUM;
use crate::core::history::History;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use crate::reclaim::freed::Freed;
use crate::segment::name::FileName;
use crate::segment::superblock::Geometry;
use crate::segment::tail;
use crate::sim::file::{Mark, mark};
use crate::sim::world::Disks;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The grain of what is written.
const BLOCK: usize = 4096;

/// Whether a slot can remember what was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Vote {
    Full,
    /// It was blank, or another volume's, and no decision has brought it in.
    None,
    /// It was blank, and this process has brought it in: for others, from the next open on, it has a vote.
    From(usize),
}

/// What one process has done.
struct Acts {
    /// The epoch that it claimed, and where it did.
    number: u64,
    claimed: SlotSet,
    /// Listed since it had claimed four.
    read: SlotSet,
    /// The highest decision that it found on each slot then.
    found: [u64; SLOTS],
    /// Which places of its own superblock it has written, as bits.
    places: [u8; SLOTS],
    /// Listed since its decision was on four.
    looked: SlotSet,
    /// Listed since it flushed something.
    asked: SlotSet,
    /// Slots that failed one of its calls.
    failed: SlotSet,
    /// The highest claim that it has seen before its own.
    known: u64,
    /// Nobody else lived, and nothing was on its way, when it began.
    calm: bool,

    /// The epoch that it writes, once it is open.
    epoch: u64,
    begin: Lsn,
    /// The unbroken stretch of log that each slot has acknowledged to it.
    runs: [(Lsn, Lsn); SLOTS],
    /// A worker of it is mending a slot.
    mends: bool,
    /// Frames that were compared since the last clear look.
    unlooked: BTreeSet<Lsn>,
    /// How often a frame was compared on a slot within a second, and when that second began.
    compared: BTreeMap<(Slot, Lsn), (u32, Duration)>,
    /// What it decided on.
    history: Option<History>,
    /// All epochs, once it was open.
    opened: Option<History>,
    /// What was given back when its present look began, and when the last clear one did.
    asks_to_punch: Freed,
    may_punch: Freed,
    /// A look that was begun when this much was on four slots was clear.
    clear: Lsn,
    /// When that moved last, and the time before, in time awake.
    moved: [Duration; 2],
    sent: Lsn,
    clean: Option<Lsn>,
    /// A decision found that mark, and closed the epoch there.
    ended_clean: bool,
    /// Slots that failed, or were read back in vain, since the last clear look.
    unvouched: SlotSet,
}

impl Acts {
    fn has_decided(&self) -> SlotSet {
        Slot::ALL.into_iter().filter(|s| self.places[s.index()] == 3).collect()
    }
}

/// The record of what was done.
pub struct Laws {
    broken: Option<String>,
    /// Beyond the promise a number came twice: what is said of an epoch has no meaning any more.
    muddled: bool,
    acts: Vec<Acts>,
    /// The mark of every block that an epoch's writer sent.
    blocks: BTreeMap<(u64, Lsn), Mark>,
    /// The bytes that were judged last, their epoch, and where they begin: the same goes to six slots.
    judged: (u64, Lsn, Vec<u8>),
    votes: [Vote; SLOTS],
    /// And when its image was taken.
    imaged: [Vote; SLOTS],
    /// What each manifest that was sent gives back, and the slots that have named it.
    manifests: BTreeMap<Lsn, Freed>,
    named: BTreeMap<Lsn, SlotSet>,
    /// By manifests that four slots have named.
    given_back: Freed,
    pub(super) geometry: Option<Geometry>,
    /// Time that passed in jumps, while every process was stopped, and their number.
    pub asleep: Duration,
    pub jumps: u32,
}

impl Laws {
    pub fn new() -> Laws {
        Laws {
            broken: None,
            muddled: false,
            acts: Vec::new(),
            blocks: BTreeMap::new(),
            judged: (0, Lsn::NONE, Vec::new()),
            votes: [Vote::Full; SLOTS],
            imaged: [Vote::Full; SLOTS],
            manifests: BTreeMap::new(),
            named: BTreeMap::new(),
            given_back: Freed::default(),
            geometry: None,
            asleep: Duration::ZERO,
            jumps: 0,
        }
    }

    /// What a clone's world knows of its origin's: what was sent, and given back.
    pub fn of_clone(&self, geometry: Geometry) -> Laws {
        Laws {
            muddled: self.muddled,
            blocks: self.blocks.clone(),
            manifests: self.manifests.clone(),
            named: self.named.clone(),
            given_back: self.given_back.clone(),
            geometry: Some(geometry),
            ..Laws::new()
        }
    }

    /// The first law that was broken, once.
    pub fn verdict(&mut self) -> Option<String> {
        self.broken.take()
    }

    /// A process begins.
    pub fn begins(&mut self, calm: bool) {
        self.acts.push(Acts {
            number: 0,
            claimed: SlotSet::NONE,
            read: SlotSet::NONE,
            found: [0; SLOTS],
            places: [0; SLOTS],
            looked: SlotSet::NONE,
            asked: SlotSet::NONE,
            failed: SlotSet::NONE,
            known: 0,
            calm,
            epoch: 0,
            begin: Lsn::NONE,
            runs: [(Lsn::NONE, Lsn::NONE); SLOTS],
            mends: false,
            unlooked: BTreeSet::new(),
            compared: BTreeMap::new(),
            history: None,
            opened: None,
            asks_to_punch: Freed::default(),
            may_punch: Freed::default(),
            clear: Lsn::NONE,
            moved: [Duration::ZERO; 2],
            sent: Lsn::NONE,
            clean: None,
            ended_clean: false,
            unvouched: SlotSet::ALL,
        });
    }

    /// A call of the process to the slot failed.
    pub fn failed(&mut self, process: usize, slot: Slot) {
        self.acts[process].failed.insert(slot);
    }

    /// The slot remembers nothing any more.
    pub fn silence(&mut self, slot: Slot) {
        self.votes[slot.index()] = Vote::None;
    }

    pub fn images(&mut self, slot: Slot) {
        self.imaged[slot.index()] = self.votes[slot.index()];
    }

    /// The image is in the slot's place: it remembers what it remembers.
    pub fn restore(&mut self, slot: Slot) {
        self.votes[slot.index()] = self.imaged[slot.index()];
    }

    /// What a directory can remember goes with it.
    pub fn swap(&mut self, slot: Slot, other: Slot) {
        self.votes.swap(slot.index(), other.index());
    }

    fn breaks(&mut self, process: usize, what: impl FnOnce() -> String) {
        if self.broken.is_none() && !self.muddled {
            self.broken = Some(format!("law: p{process} {}", what()));
        }
    }

    /// The process that writes, or wrote, an epoch.
    fn writer(&self, epoch: u64) -> Option<usize> {
        self.acts.iter().position(|a| a.epoch == epoch)
    }

    /// What was sent of an epoch between two addresses.
    fn sent(&self, epoch: u64, from: Lsn, to: Lsn) -> Vec<(Lsn, Mark)> {
        if from >= to {
            return Vec::new();
        }
        self.blocks.range((epoch, from)..(epoch, to)).map(|((_, at), mark)| (*at, *mark)).collect()
    }
}

/// A tail file of a slot.
struct Tail<'a> {
    slot: Slot,
    bytes: Cow<'a, [u8]>,
}

impl Disks {
    /// The first block that an epoch's writer sent between two addresses and fewer than four slots have, those in `with`
    /// counted in; and how many.
    fn short_of_copies(&self, epoch: u64, from: Lsn, to: Lsn, with: SlotSet) -> Option<(Lsn, usize)> {
        let g = self.laws.geometry?;
        let sent = self.laws.sent(epoch, from, to).into_iter();
        let in_place = sent.map(|(at, known)| (at, known, self.in_place(at, known, g.pg_size, with)));
        let short: Vec<(Lsn, Mark, SlotSet)> = in_place.filter(|(.., on)| on.len() < WRITE_QUORUM).collect();
        if short.is_empty() {
            return None;
        }
        let tails = self.tails();
        let groups: Vec<(Slot, Lsn, &[u8])> = tails
            .iter()
            .flat_map(|t| {
                tail::decode(&t.bytes, g.volume).unwrap_or_default().into_iter().map(|(at, b)| (t.slot, at, b))
            })
            .collect();
        short.into_iter().find_map(|(at, known, on)| {
            let has = |(_, begin, group): &&(Slot, Lsn, &[u8])| {
                let block = (at.0.checked_sub(begin.0)).and_then(|from| group.get(from as usize..)?.get(..BLOCK));
                block.is_some_and(|block| mark(block) == known)
            };
            let on = on.union(groups.iter().filter(has).map(|(slot, ..)| *slot).collect());
            (on.len() < WRITE_QUORUM).then_some((at, on.len()))
        })
    }

    /// These slots, and others that have the block where it belongs, durable, until there are enough; from those that are
    /// hurt no more is asked than that they have it.
    fn in_place(&self, at: Lsn, mark: Mark, pg_size: u64, with: SlotSet) -> SlotSet {
        let (name, offset) = FileName::segment_of(at, pg_size);
        let has = |slot: Slot| {
            let hurt = self.atlas.hurt().contains(slot);
            let file = self.files[slot.index()].get(&name);
            file.is_some_and(|f| (hurt || f.is_durable(offset)) && f.has(offset, mark))
        };
        let more = |on: SlotSet, slot| if on.len() < WRITE_QUORUM && has(slot) { on.with(slot) } else { on };
        SlotSet::ALL.minus(with).iter().fold(with, more)
    }

    /// The tail files of all slots that are durable.
    fn tails(&self) -> Vec<Tail<'_>> {
        let of_slot = |slot: Slot| {
            let hurt = self.atlas.hurt().contains(slot);
            let tails = self.files[slot.index()].iter().filter(|(n, _)| matches!(n, FileName::Tail(_)));
            tails
                .filter(move |(_, f)| hurt || f.is_flushed())
                .filter_map(move |(_, f)| Some(Tail { slot, bytes: f.peek(0, tail::BYTES_MAX)? }))
        };
        Slot::ALL.into_iter().flat_map(of_slot).collect()
    }

    /// A durable write of whole blocks, beside the log writes.
    pub(in crate::sim) fn judge_write(
        &mut self,
        process: usize,
        slot: Slot,
        name: FileName,
        offset: u64,
        bytes: &[u8],
    ) {
        match name {
            FileName::Segment(pg) => self.judge_merge(process, slot, name, pg, offset, bytes),
            FileName::Tail(_) => self.judge_tail(process, bytes),
            _ => (),
        }
    }

    /// Time in which processes ran.
    fn awake(&self) -> Duration {
        self.now.saturating_sub(self.laws.asleep)
    }
}
