//! The whole world at one moment: six slots, two processes at most, and what the outside was told.

use crate::core::history::History;
use crate::core::recovery::{Ruling, Sightings};
use crate::core::vote::Join;
use crate::core::writer::Writer;
use crate::explore::disk::{Disk, GroupId, OpenerId, SlotView, Super};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

/// A group is one block.
pub const BLOCK: u64 = 4096;
/// Where in a group its last record ends, so that VDL is no block's boundary.
pub const CPL: u64 = 200;

/// Whoever has begun to open the volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Opener {
    /// The epoch that it claims.
    pub number: u64,
    /// What it decided.
    pub history: Option<History>,
    /// It has opened the volume: its user has seen what had survived.
    pub opened: bool,
}

/// A group that a writer sealed: whoever writes it writes these bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Group {
    pub by: OpenerId,
    pub begin: Lsn,
    pub end: Lsn,
    pub cpl: Option<Lsn>,
    /// The VDL that its record knows.
    pub vdl: Lsn,
}

/// What was seen of an MTR's outcome.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    Unseen,
    Present,
    Absent,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mtr {
    pub by: OpenerId,
    pub begin: Lsn,
    /// Behind its last record: what its commit was told.
    pub end: Lsn,
    pub acked: bool,
    pub seen: Outcome,
}

/// What belongs to no slot and to no process.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct World {
    pub openers: Vec<Opener>,
    pub groups: Vec<Group>,
    pub mtrs: Vec<Mtr>,
}

impl World {
    pub fn number(&self, by: OpenerId) -> u64 {
        self.openers[usize::from(by)].number
    }

    pub fn group(&self, id: GroupId) -> &Group {
        &self.groups[usize::from(id)]
    }

    /// The group's epoch.
    pub fn epoch(&self, id: GroupId) -> u64 {
        self.number(self.group(id).by)
    }

    /// The groups of one writer in an address range.
    pub fn groups_in(&self, by: OpenerId, from: Lsn, to: Lsn) -> impl Iterator<Item = GroupId> {
        let inside = move |g: &Group| g.by == by && g.begin >= from && g.begin < to;
        self.groups.iter().enumerate().filter(move |(_, g)| inside(g)).map(|(i, _)| i as GroupId)
    }
}

/// The steps of an open that ask the slots, in the order in which they are taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    Claim,
    Read,
    Tail,
    Decide,
    Look,
}

/// What an open has read and ruled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Findings {
    pub history: History,
    pub decision: OpenerId,
    pub holders: SlotSet,
    /// Each slot's own join point, where it answered as ours.
    pub joins: [Option<Join>; SLOTS],
    pub seen: Sightings,
    pub ruling: Ruling,
    pub clean: bool,
}

/// An open under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    pub by: OpenerId,
    /// Slots that this process can reach.
    pub reach: SlotSet,
    /// Slots that were blank when it began.
    pub blank: SlotSet,
    /// The newest superblock then: what a blank slot is formatted with.
    pub newest: Super,
    /// The highest claim then.
    pub highest: u64,
    pub phase: Phase,
    /// Slots that this phase has still to ask.
    pub todo: SlotSet,
    /// Slots on which it succeeded.
    pub done: SlotSet,
    /// Slots that took part so far.
    pub took: SlotSet,
    /// It will get no further: it ends in the midst of this phase.
    pub stuck: bool,
    /// Something came between: it may be refused.
    pub excused: bool,
    pub found: Option<Arc<Findings>>,
}

/// A writer that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    pub by: OpenerId,
    pub writer: Writer,
    /// Where an MTR of which not all is appended begins.
    pub half: Option<Lsn>,
    /// A look that found no claim, and has not been told to the writer yet: the quorum that it was for.
    pub looking: Option<Lsn>,
    /// How far a slot that is to rejoin was read back.
    pub verified: [Option<Lsn>; SLOTS],
    /// It closes: slots that still get the mark, and slots that have it.
    pub closing: Option<(SlotSet, SlotSet)>,
    /// The decision that it found: what is older may be tidied away.
    pub previous: u64,
    /// Addresses between the log's end as it was found and the epoch's begin.
    pub unused: (Lsn, Lsn),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proc {
    Gone,
    Opening(Arc<Opening>),
    Running(Arc<Running>),
}

/// How often each thing has happened, against the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Used {
    pub opens: u8,
    pub reads: u8,
    pub kills: u8,
    pub cuts: u8,
    pub leaves: u8,
    pub fails: u8,
    pub rejoins: u8,
    pub blanks: u8,
    pub stales: u8,
    pub rots: u8,
    pub super_rots: u8,
    pub closes: u8,
    pub merges: u8,
    pub tidies: u8,
}

#[derive(Clone, Debug)]
pub struct State {
    pub slots: [Arc<SlotView>; SLOTS],
    pub procs: [Proc; 2],
    pub world: Arc<World>,
    pub used: Used,
    /// The power was cut: what has not landed when somebody next opens never will.
    pub cut: bool,
}

impl State {
    /// A new volume, and the writer that made it.
    pub fn new() -> State {
        let begin = Lsn(BLOCK);
        let first = Super { by: 0, join: Join::Founder, clean: None, rotten: false };
        let disk = Disk { claims: 1 << 1, supers: vec![first], segment: true, ..Disk::default() };
        let slot = Arc::new(SlotView { disk, ..SlotView::default() });
        let opener = Opener { number: 1, history: Some(History::first(begin)), opened: true };
        State {
            slots: std::array::from_fn(|_| slot.clone()),
            procs: [Proc::Running(Arc::new(Running::new(0, begin, SlotSet::ALL))), Proc::Gone],
            world: Arc::new(World { openers: vec![opener], ..World::default() }),
            used: Used::default(),
            cut: false,
        }
    }

    pub fn slot(&self, slot: Slot) -> &SlotView {
        &self.slots[slot.index()]
    }

    pub fn slot_mut(&mut self, slot: Slot) -> &mut SlotView {
        Arc::make_mut(&mut self.slots[slot.index()])
    }

    pub fn world_mut(&mut self) -> &mut World {
        Arc::make_mut(&mut self.world)
    }

    pub fn opening(&mut self, p: usize) -> Option<&mut Opening> {
        match &mut self.procs[p] {
            Proc::Opening(o) => Some(Arc::make_mut(o)),
            _ => None,
        }
    }

    pub fn running(&mut self, p: usize) -> Option<&mut Running> {
        match &mut self.procs[p] {
            Proc::Running(r) => Some(Arc::make_mut(r)),
            _ => None,
        }
    }

    /// Processes that live.
    pub fn alive(&self) -> usize {
        self.procs.iter().filter(|p| **p != Proc::Gone).count()
    }

    pub fn hurt(&self) -> SlotSet {
        Slot::ALL.into_iter().filter(|s| self.slot(*s).hurt).collect()
    }

    /// A key of each slot, with what the processes know of it: slots with equal keys are interchangeable.
    pub fn classes(&self) -> [u64; SLOTS] {
        Slot::ALL.map(|slot| {
            let mut h = hasher();
            self.slot(slot).hash(&mut h);
            self.procs.iter().for_each(|p| p.hash_slot(slot, &mut h));
            h.finish()
        })
    }

    /// The same for all states that differ in the names of slots alone.
    pub fn key(&self) -> u64 {
        let mut classes = self.classes();
        classes.sort_unstable();
        let mut h = hasher();
        (classes, &*self.world, self.used, self.cut).hash(&mut h);
        self.procs.iter().for_each(|p| p.hash_rest(&mut h));
        h.finish()
    }
}

/// Seeded, so that a run repeats.
pub fn hasher() -> impl Hasher {
    foldhash::quality::FixedState::with_seed(6).build_hasher()
}

impl Running {
    pub fn new(by: OpenerId, begin: Lsn, took_part: SlotSet) -> Running {
        let mut writer = Writer::new(begin, took_part);
        // Space is the engine's business.
        Slot::ALL.iter().for_each(|s| writer.allocated(*s, Lsn(1 << 60)));
        Running {
            by,
            writer,
            half: None,
            looking: None,
            verified: [None; SLOTS],
            closing: None,
            previous: 0,
            unused: (begin, begin),
        }
    }
}

impl Proc {
    /// What a process knows of one slot.
    fn hash_slot(&self, slot: Slot, h: &mut impl Hasher) {
        match self {
            Proc::Gone => 0u8.hash(h),
            Proc::Opening(o) => {
                let sets = [o.reach, o.blank, o.todo, o.done, o.took].map(|s| s.contains(slot));
                sets.hash(h);
                if let Some(f) = &o.found {
                    (f.joins[slot.index()], f.holders.contains(slot)).hash(h);
                    f.seen.values().for_each(|s| s.whole.contains(slot).hash(h));
                }
            }
            Proc::Running(r) => {
                r.writer.hash_slot(slot, h);
                r.verified[slot.index()].hash(h);
                r.closing.map(|(todo, done)| (todo.contains(slot), done.contains(slot))).hash(h);
            }
        }
    }

    /// What it knows beside.
    fn hash_rest(&self, h: &mut impl Hasher) {
        match self {
            Proc::Gone => 0u8.hash(h),
            Proc::Opening(o) => {
                (1u8, o.by, o.newest, o.highest, o.phase, o.stuck, o.excused).hash(h);
                if let Some(f) = &o.found {
                    (&f.history, f.decision, &f.ruling, f.clean).hash(h);
                    f.seen.iter().for_each(|(at, s)| (at, s.end, s.cpl, s.vdl).hash(h));
                }
            }
            Proc::Running(r) => {
                (2u8, r.by, r.half, r.looking, r.closing.is_some(), r.previous, r.unused).hash(h);
                r.writer.hash_rest(h);
            }
        }
    }
}
