//! Opening for writing, restated from `segment::recover::open`, a step on a slot at a time.

use crate::core::WRITE_QUORUM;
use crate::core::recovery;
use crate::core::vote::{self, Join};
use crate::core::writer::Look;
use crate::explore::disk::{GroupId, Held, Late, OpenerId, Super, Tail};
use crate::explore::rules::{Rule, Setting};
use crate::explore::state::{BLOCK, Findings, Opener, Opening, Phase, Proc, Running, State};
use crate::lsn::{Lsn, Slot, SlotSet};
use std::sync::Arc;

/// What breaks a property, in words.
pub type Checked = Result<(), String>;

impl State {
    /// The survey, and the number that is to be claimed.
    pub fn begin_open(&mut self, p: usize, reach: SlotSet, setting: &Setting) -> Checked {
        self.power_back();
        let rival = self.alive() > 0;
        let (blank, ours) = (self.blank(reach), self.ours(reach));
        let usable: SlotSet = ours.iter().chain(blank.iter()).collect();
        let newest = ours.iter().filter_map(|s| self.slot(s).disk.newest()).max_by_key(|s| s.by).copied();
        let choice = vote::choose(&self.voices(reach));
        let (Ok(choice), Some(newest)) = (choice, newest) else {
            return self.judge_refusal(setting, rival, "the superblocks give no choice");
        };
        let highest = self.claim(reach);
        let number = choice.claim.max(highest) + 1;
        let world = self.world_mut();
        world.openers.push(Opener { number, history: None, opened: false });
        let by = (world.openers.len() - 1) as OpenerId;
        let phase = if setting.breaks(Rule::ClaimBeforeReading) { Phase::Read } else { Phase::Claim };
        let (todo, done, took) = (usable, SlotSet::NONE, SlotSet::NONE);
        let opening = Opening {
            by,
            reach,
            blank,
            newest,
            highest,
            phase,
            todo,
            done,
            took,
            stuck: false,
            excused: rival,
            found: None,
        };
        self.procs[p] = Proc::Opening(Arc::new(opening));
        self.excuse(p);
        Ok(())
    }

    /// Whoever else is opening may now be refused.
    pub fn excuse(&mut self, but: usize) {
        for p in (0..self.procs.len()).filter(|p| *p != but) {
            if let Some(o) = self.opening(p) {
                o.excused = true;
            }
        }
    }

    /// An open was refused: within the promise only a rival, or a fault on the way, excuses that.
    fn judge_refusal(&self, setting: &Setting, excused: bool, why: &str) -> Checked {
        if excused || setting.bounds.beyond { Ok(()) } else { Err(format!("A1: refused within the promise: {why}")) }
    }

    fn refuse(&mut self, p: usize, setting: &Setting, why: &str) -> Checked {
        let excused = self.opening(p).is_some_and(|o| o.excused);
        self.end_process(p, setting);
        self.judge_refusal(setting, excused, why)
    }

    /// A phase's step on one slot; `fails` for one that gives an error instead.
    pub fn step(&mut self, p: usize, slot: Slot, fails: bool, setting: &Setting) -> Checked {
        let Proc::Opening(o) = &self.procs[p] else { return Ok(()) };
        let o = o.clone();
        let done = match (o.phase, &o.found) {
            _ if fails => false,
            (Phase::Claim, _) => self.claim_on(&o, slot, setting),
            (Phase::Tail, Some(found)) => match self.copies_for(&o, found, slot) {
                Some(groups) => self.tail_on(&o, found, slot, &groups, setting),
                None => return self.refuse(p, setting, "a group was read and could not be read again"),
            },
            (Phase::Decide, Some(found)) => {
                let new = self.decision_for(&o, found, slot);
                new.is_some_and(|new| self.write_super(slot, new))
            }
            _ => false,
        };
        let Some(o) = self.opening(p) else { return Ok(()) };
        o.todo = o.todo.without(slot);
        o.excused |= fails;
        if done {
            o.done.insert(slot);
        }
        if o.todo.len() > 0 {
            return Ok(());
        }
        if o.done.len() < WRITE_QUORUM {
            return self.refuse(p, setting, "a step was done on fewer than four slots");
        }
        if o.phase != Phase::Tail {
            o.took = o.done;
        }
        self.next_phase(p, setting)
    }

    /// A phase's step on several slots, with nobody beside to see the order. If some are left, the process ends there.
    pub fn steps(&mut self, p: usize, set: SlotSet, setting: &Setting) -> Checked {
        for slot in set.iter() {
            self.step(p, slot, false, setting)?;
        }
        if let Some(o) = self.opening(p) {
            o.stuck = o.todo.len() > 0 && set.and(o.todo) == SlotSet::NONE && o.done == set;
        }
        Ok(())
    }

    fn write_super(&mut self, slot: Slot, new: Super) -> bool {
        self.slot_mut(slot).disk.put_super(new);
        true
    }

    fn next_phase(&mut self, p: usize, setting: &Setting) -> Checked {
        let Some(o) = self.opening(p) else { return Ok(()) };
        let (late, early) = (setting.breaks(Rule::ClaimBeforeReading), setting.breaks(Rule::TailBeforeDecision));
        let next = match o.phase {
            Phase::Claim if !late => Phase::Read,
            Phase::Read if late && o.took == SlotSet::NONE => Phase::Claim,
            Phase::Claim | Phase::Read if early => Phase::Decide,
            Phase::Claim | Phase::Read => Phase::Tail,
            Phase::Tail if early => Phase::Look,
            Phase::Tail => Phase::Decide,
            Phase::Decide if early => Phase::Tail,
            Phase::Decide | Phase::Look => Phase::Look,
        };
        (o.phase, o.done) = (next, SlotSet::NONE);
        if next != Phase::Claim {
            o.todo = o.took;
        }
        // With nothing to copy, nothing is flushed either.
        if next == Phase::Tail && o.found.as_ref().is_none_or(|f| f.ruling.tail.is_empty()) {
            return self.next_phase(p, setting);
        }
        Ok(())
    }

    /// `recover::claim` on one slot: a blank one is formatted first.
    fn claim_on(&mut self, o: &Opening, slot: Slot, setting: &Setting) -> bool {
        let (number, newest) = (self.world.number(o.by), self.world.number(o.newest.by));
        let disk = &mut self.slot_mut(slot).disk;
        if o.blank.contains(slot) {
            let join = if setting.breaks(Rule::BlankHasNoVote) { Join::Founder } else { Join::Unset };
            disk.put_super(Super { join, clean: None, rotten: false, ..o.newest });
            if o.highest > newest {
                disk.claims |= 1 << o.highest;
            }
        }
        let taken = disk.claims >> number & 1 == 1;
        disk.claims |= 1 << number;
        !taken || setting.breaks(Rule::ClaimsAreExclusive)
    }

    /// Steps 2 and 3, at one moment.
    pub fn read(&mut self, p: usize, setting: &Setting) -> Checked {
        let Proc::Opening(o) = &self.procs[p] else { return Ok(()) };
        let (reach, number) = (o.reach, self.world.number(o.by));
        let found = match self.recover(reach, setting) {
            Ok(found) => found,
            Err(why) => return self.refuse(p, setting, &why),
        };
        if self.claim(reach) > number {
            return self.refuse(p, setting, "outbid");
        }
        let (last, ruling) = (found.history.last(), &found.ruling);
        if last.epoch >= number {
            return Err(format!("S1: two writers in epoch {number}"));
        }
        let history = found.history.succeed(ruling.end, number, ruling.next_begin);
        let ours = self.ours(reach);
        let Some(o) = self.opening(p) else { return Ok(()) };
        o.took = o.took.and(ours);
        o.found = Some(Arc::new(found));
        let by = o.by;
        self.world_mut().openers[usize::from(by)].history = Some(history);
        self.next_phase(p, setting)
    }

    /// What a slot lacks of the tail, read again. None: it cannot be.
    fn copies_for(&self, o: &Opening, found: &Findings, slot: Slot) -> Option<Vec<GroupId>> {
        let epoch = found.history.last().epoch;
        let read = |at: Lsn| {
            let whole = found.seen.get(&at)?.whole.and(o.reach);
            whole.iter().find_map(|s| self.slot(s).disk.group_at(&self.world, at, epoch))
        };
        recovery::lacking(&found.ruling, &found.seen, slot).into_iter().map(|(at, _)| read(at)).collect()
    }

    /// `recover::complete_tail` on one slot.
    fn tail_on(&mut self, o: &Opening, found: &Findings, slot: Slot, groups: &[GroupId], setting: &Setting) -> bool {
        let world = self.world.clone();
        let disk = &mut self.slot_mut(slot).disk;
        if setting.breaks(Rule::TailInFilesOfItsOwn) {
            groups.iter().for_each(|g| disk.put_stable(world.group(*g).begin, Held::Whole(*g)));
        } else if !groups.is_empty() {
            disk.put_tail(o.by, groups, false);
        }
        if !setting.breaks(Rule::FlushWhatCounts) {
            disk.flush_what_was_read(&found.ruling, setting);
        }
        true
    }

    /// `recover::decisions` for one slot.
    fn decision_for(&self, o: &Opening, found: &Findings, slot: Slot) -> Option<Super> {
        let at = found.ruling.known.max(found.history.last().begin);
        let own = found.joins[slot.index()]?;
        let by = self.world.number(o.by);
        let join = if own.needs_one(&found.history) { Join::At { at, by } } else { own };
        Some(Super { by: o.by, join, clean: None, rotten: false })
    }

    /// Step 6; then the volume is open, and its user sees what survived.
    pub fn last_look(&mut self, p: usize, wide: bool, setting: &Setting) -> Checked {
        let Proc::Opening(o) = &self.procs[p] else { return Ok(()) };
        let (by, took, found) = (o.by, o.took, o.found.clone());
        let (number, reach) = (self.world.number(by), o.reach);
        match self.judge(number, wide.then_some(reach), setting) {
            _ if setting.breaks(Rule::LookBeforeOpening) => (),
            Look::Clear => (),
            _ => return self.refuse(p, setting, "outbid"),
        }
        let Some(found) = found else { return Ok(()) };
        let ruling = &found.ruling;
        let mut running = Running::new(by, ruling.next_begin, took);
        running.previous = self.world.number(found.decision);
        running.unused.0 = ruling.vcl.max(ruling.end).ceil(BLOCK).min(ruling.next_begin);
        self.procs[p] = Proc::Running(Arc::new(running));
        for slot in took.iter() {
            self.slot_mut(slot).disk.segment = true;
        }
        self.opened(by, reach, setting)
    }

    /// What an open that ends here has on its way.
    pub fn opening_in_flight(&self, o: &Opening) -> Vec<(Slot, Late)> {
        let Some(found) = &o.found else { return Vec::new() };
        let late = |slot: Slot| match o.phase {
            Phase::Tail => {
                let groups = self.copies_for(o, found, slot).filter(|g| !g.is_empty())?;
                Some((slot, Late::Tail(Tail { by: o.by, groups, cached: false })))
            }
            Phase::Decide => Some((slot, Late::Super(self.decision_for(o, found, slot)?))),
            _ => None,
        };
        o.todo.iter().filter_map(late).collect()
    }
}
