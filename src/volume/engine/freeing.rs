//! Extents that a manifest gave back: the slots punch them, and remove protection groups of which nothing is left.
//!
//! Only after four superblocks name the manifest, and a look that came after: an opener that claims later reads them, and
//! one that claimed before would still need what an older manifest's table points to. What was given back once is nobody's
//! for ever: its addresses are never used again, so that a slot may punch late, twice, or in a later process.

use crate::bugs::{Bug, planted};
use crate::core::history::{Entry, History};
use crate::disk::job::{Job, JobKind};
use crate::lsn::{SLOTS, Slot, SlotSet};
use crate::reclaim::freed::{self, Freed, Run};
use crate::segment::name::FileName;
use crate::volume::engine::Engine;
use std::time::Duration;

pub struct Freeing {
    pub freed: Freed,
    /// The history without what was given back.
    pub kept: Vec<Entry>,
    /// What of it no view can read any more.
    let_go: Freed,
    /// What each slot has still to give back of what this process's manifests gave.
    owed: [Vec<Run>; SLOTS],
    /// They may have missed something: an earlier process may have died over it, or they were not there. Everything that
    /// was ever given back is looked at.
    all: SlotSet,
    /// In their workers' hands.
    in_hand: [Vec<Run>; SLOTS],
    /// A slot that failed is not asked again before.
    again_at: [Duration; SLOTS],
}

/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);

impl Freeing {
    pub fn new(freed: Freed, history: &History) -> Freeing {
        let kept = freed.kept(history);
        let none = || [const { Vec::new() }; SLOTS];
        let again_at = [Duration::ZERO; SLOTS];
        let let_go = freed.clone();
        Freeing { freed, kept, let_go, owed: none(), all: SlotSet::ALL, in_hand: none(), again_at }
    }

    /// What no view can read any more.
    #[cfg(feature = "sim")]
    pub fn let_go(&self) -> &Freed {
        &self.let_go
    }

    fn owes(&self, slot: Slot) -> bool {
        let all = self.all.contains(slot) && !self.let_go.runs().is_empty() && !planted(Bug::OldDebtsForgotten);
        all || !self.owed[slot.index()].is_empty()
    }
}

impl Engine {
    /// Four superblocks name a manifest that gives this back: nothing of it is looked at, compared or copied any more.
    pub fn give_back(&mut self, freed: Freed) {
        self.freeing.freed = freed;
        self.freeing.kept = self.freeing.freed.kept(&self.history);
        self.healing.plan.unpark();
    }

    /// Nobody reads these any more: the slots are to give them back, with what lies between epochs beside them.
    pub fn owe(&mut self, runs: &[Run]) {
        if runs.is_empty() {
            return;
        }
        let before = self.freeing.let_go.clone();
        runs.iter().for_each(|run| self.freeing.let_go.add(*run));
        self.freeing.let_go.absorb(&self.history);
        // A look that is under way began before some of it was named.
        if self.vouched.free && !planted(Bug::FreedByOldLook) {
            (self.vouched.free, self.waiting.free) = (false, true);
        }
        // What was owed before is not owed again: it may be most of all addresses.
        let new: Vec<Run> = self.freeing.let_go.runs().iter().flat_map(|run| before.lacks(*run)).collect();
        for slot in Slot::ALL {
            self.freeing.owed[slot.index()].extend(&new);
        }
    }

    /// The slot may have missed what was given back meanwhile.
    pub fn owes_all(&mut self, slot: Slot) {
        self.freeing.all.insert(slot);
    }

    /// Slots that have lost their directories, or segments that were not given back.
    pub(super) fn lost(&mut self) -> SlotSet {
        let (kept, pg_size) = (&self.freeing.kept, self.geometry.pg_size);
        let holds = |pg: u64| {
            let begin = FileName::begin_of(pg, pg_size);
            begin.is_some_and(|begin| freed::bytes_in(kept, begin, begin + pg_size) > 0)
        };
        self.disk.lost(&holds)
    }

    /// Something is still to be given back by a slot that is there.
    pub fn owes_space(&self) -> bool {
        let working = |s: Slot| self.jobs[s.index()].0[JobKind::Free as usize];
        self.writer.live().iter().any(|s| self.freeing.owes(s) || working(s))
    }

    /// ... that this process's manifests gave back.
    pub fn owes_new(&self) -> bool {
        self.writer.live().iter().any(|s| !self.freeing.owed[s.index()].is_empty())
    }

    /// Some slot can give back what it owes, now.
    pub fn can_free(&self, now: Duration) -> bool {
        Slot::ALL.into_iter().any(|slot| self.may_free(slot, now))
    }

    /// A look, then slots that can give back what they owe.
    pub fn wants_to_free(&mut self, now: Duration) {
        if self.can_free(now) {
            if planted(Bug::PunchWithoutLook) {
                self.free_now();
                return;
            }
            self.waiting.free = true;
            self.pump(now);
        }
    }

    /// What keeps slots from giving back, in words.
    #[cfg(feature = "sim")]
    pub fn owing(&self) -> String {
        let of = |s: Slot| {
            let (cursor, merged) = (self.writer.cursor(s), self.merged.contains(s));
            format!("{s}: owes {}, cursor {cursor:?}, merged {merged}", self.freeing.owes(s))
        };
        let all: Vec<String> = Slot::ALL.into_iter().filter(|s| self.freeing.owes(*s)).map(of).collect();
        let (drained, last) = (self.healing.drained, self.freeing.let_go.runs().last());
        format!("{all:?}, drained {drained}, last {last:?}, waits for a look {}", self.waiting.free)
    }

    fn may_free(&self, slot: Slot, now: Duration) -> bool {
        // What is still to be written to it would come back.
        let last = self.freeing.let_go.runs().last();
        let written = |cursor| last.is_none_or(|run| run.to <= cursor) || planted(Bug::PunchAhead);
        let live = self.writer.cursor(slot).is_some_and(written);
        // What an earlier process has in flight, or a tail file holds, could come back.
        let quiet = self.healing.drained || self.merged.contains(slot);
        let idle = !self.jobs[slot.index()].0[JobKind::Free as usize] && now >= self.freeing.again_at[slot.index()];
        live && quiet && idle && self.freeing.owes(slot)
    }

    /// The look was clear: slots that are live give back what they owe.
    pub(super) fn free_now(&mut self) {
        // What is being compared would be found missing, and filled again.
        if self.heals_in(&self.freeing.freed) {
            return;
        }
        for slot in Slot::ALL {
            if !self.may_free(slot, self.now) {
                continue;
            }
            let mut runs = std::mem::take(&mut self.freeing.owed[slot.index()]);
            if self.freeing.all.contains(slot) {
                runs = self.freeing.let_go.runs().to_vec();
            }
            self.freeing.all = self.freeing.all.without(slot);
            self.freeing.in_hand[slot.index()].clone_from(&runs);
            let all = self.freeing.let_go.runs().to_vec();
            self.give(slot, Job::Free { runs, all, geometry: self.geometry, epoch: self.number });
        }
        self.disk.submit();
    }

    /// A slot has given back what it was asked for, or not.
    pub(super) fn space_freed(&mut self, slot: Slot, done: bool) {
        let runs = std::mem::take(&mut self.freeing.in_hand[slot.index()]);
        if !done {
            self.freeing.owed[slot.index()].extend(runs);
            self.freeing.again_at[slot.index()] = self.now + AGAIN;
        } else if self.full.contains(slot) && self.writer.away(slot).is_none() {
            // There may be room again: it is asked at once.
            self.full = self.full.without(slot);
        }
        self.check_space();
    }
}
