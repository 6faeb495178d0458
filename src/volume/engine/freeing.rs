//! Extents that a manifest gave back: the slots punch them, and remove protection groups of which nothing is left.
//!
//! Only after four superblocks name the manifest, and a look that came after: an opener that claims later reads them, and
//! one that claimed before would still need what an older manifest's table points to.

use crate::core::history::{Entry, History};
use crate::disk::job::{Job, JobKind};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use crate::reclaim::freed::{self, Freed, Run};
use crate::volume::engine::Engine;

pub struct Freeing {
    pub freed: Freed,
    /// The history without what was given back.
    pub kept: Vec<Entry>,
    /// What each slot has still to give back.
    owed: [Vec<Run>; SLOTS],
    /// It was not there, or failed: everything that was ever given back is looked at.
    all: SlotSet,
    /// In their workers' hands.
    in_hand: [Vec<Run>; SLOTS],
}

impl Freeing {
    pub fn new(freed: Freed, history: &History) -> Freeing {
        let kept = freed.kept(history);
        let none = || [const { Vec::new() }; SLOTS];
        Freeing { freed, kept, owed: none(), all: SlotSet::ALL, in_hand: none() }
    }
}

impl Engine {
    /// Four superblocks name a manifest that gives this back.
    pub fn give_back(&mut self, freed: Freed) {
        let before = std::mem::replace(&mut self.freeing.freed, freed);
        self.freeing.kept = self.freeing.freed.kept(&self.history);
        let new: Vec<Run> = self.freeing.freed.runs().iter().copied().filter(|r| !before.runs().contains(r)).collect();
        for slot in Slot::ALL {
            self.freeing.owed[slot.index()].extend(&new);
        }
        self.healing.plan.unpark();
        self.waiting.free = true;
    }

    /// The slot may have missed what was given back meanwhile.
    pub(super) fn owes_all(&mut self, slot: Slot) {
        self.freeing.all.insert(slot);
    }

    /// Slots that have lost their directories, or segments that were not given back.
    pub(super) fn lost(&mut self) -> SlotSet {
        let (kept, pg_size) = (&self.freeing.kept, self.geometry.pg_size);
        let holds = |pg: u32| {
            let begin = Lsn(u64::from(pg) * pg_size);
            freed::bytes_in(kept, begin, begin + pg_size) > 0
        };
        self.disk.lost(&holds)
    }

    /// Something is still to be given back by a slot that could do it.
    pub fn owes_space(&self) -> bool {
        self.writer
            .live()
            .iter()
            .any(|s| !self.freeing.owed[s.index()].is_empty() || self.jobs[s.index()].0[JobKind::Free as usize])
    }

    /// The look was clear: slots that are live give back what they owe.
    pub(super) fn free_now(&mut self) {
        for slot in self.writer.live().iter() {
            let i = slot.index();
            // What an earlier process has in flight, or a tail file holds, could come back.
            let quiet = self.healing.drained || self.merged.contains(slot);
            if self.freeing.owed[i].is_empty() || self.jobs[i].0[JobKind::Free as usize] || !quiet {
                continue;
            }
            let runs = if self.freeing.all.contains(slot) {
                self.freeing.freed.runs().to_vec()
            } else {
                std::mem::take(&mut self.freeing.owed[i])
            };
            self.freeing.all = self.freeing.all.without(slot);
            self.freeing.owed[i].clear();
            self.freeing.in_hand[i] = runs.clone();
            self.give(slot, Job::Free { runs, pg_size: self.geometry.pg_size });
        }
        self.disk.submit();
    }

    /// A slot has given back what it was asked for, or not.
    pub(super) fn space_freed(&mut self, slot: Slot, done: bool) {
        let runs = std::mem::take(&mut self.freeing.in_hand[slot.index()]);
        if !done {
            self.freeing.owed[slot.index()].extend(runs);
            self.owes_all(slot);
        }
        if !self.freeing.owed[slot.index()].is_empty() && done {
            self.waiting.free = true;
        }
        self.check_space();
    }
}
