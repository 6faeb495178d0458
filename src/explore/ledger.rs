//! What was promised to the outside, and whether it is kept.
//!
//! S1: no acknowledged MTR is lost or changed. S2: an outcome once seen never flips. S3: an MTR is whole. S4: no gap. S6: a
//! zombie acknowledges nothing. A1: an open within the promise is never refused.

use crate::core::history::History;
use crate::core::recovery;
use crate::core::writer::Look;
use crate::explore::disk::OpenerId;
use crate::explore::opening::Checked;
use crate::explore::rules::{Rule, Setting};
use crate::explore::state::{Findings, Mtr, Outcome, State};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use crate::page::manifest::ENTRIES_TOLD;
use crate::volume::error::Unknown;
use crate::volume::reader;

impl State {
    /// Is the MTR in the log? `open_end` is where the open entry ends for a reader; a writer's own is empty.
    fn present(
        &self,
        history: &History,
        open_end: Option<Lsn>,
        m: &Mtr,
        reach: SlotSet,
        setting: &Setting,
    ) -> Result<bool, String> {
        let epoch = self.world.number(m.by);
        let name = format!("the MTR at {} of epoch {epoch}", m.begin);
        let Some(entry) = history.entries().iter().find(|e| e.epoch == epoch) else { return Ok(false) };
        let end = if entry.end == Lsn::MAX { open_end } else { Some(entry.end) };
        let Some(end) = end else { return Err(format!("S1: {name} shares its epoch with another writer")) };
        if m.begin >= end {
            return Ok(false);
        }
        if m.end > end {
            return Err(format!("S3: {name} is cut by the epoch's end {end}"));
        }
        for id in self.world.groups_in(m.by, m.begin, m.end) {
            let at = self.world.group(id).begin;
            let found: Vec<_> =
                reach.iter().filter_map(|s| self.slot(s).disk.group_at(&self.world, at, epoch)).collect();
            if found.iter().any(|g| *g != id) {
                return Err(format!("S1: {name} was replaced"));
            }
            if found.is_empty() && !setting.bounds.beyond {
                return Err(format!("S4: {name} is in the log, and no slot in reach has a copy"));
            }
        }
        Ok(true)
    }

    fn settle(&mut self, i: usize, present: bool) -> Checked {
        let m = &mut self.world_mut().mtrs[i];
        if m.acked && !present {
            return Err(format!("S1: the acknowledged MTR at {} is gone", m.begin));
        }
        let now = if present { Outcome::Present } else { Outcome::Absent };
        if m.seen != Outcome::Unseen && m.seen != now {
            return Err(format!("S2: the MTR at {} was seen as {:?}, and is {now:?}", m.begin, m.seen));
        }
        m.seen = now;
        Ok(())
    }

    /// The volume is open for writing: every earlier outcome is seen.
    pub fn opened(&mut self, by: OpenerId, reach: SlotSet, setting: &Setting) -> Checked {
        let world = self.world.clone();
        let Some(history) = &world.openers[usize::from(by)].history else { return Ok(()) };
        for (i, m) in world.mtrs.iter().enumerate() {
            let present = self.present(history, None, m, reach, setting)?;
            self.settle(i, present)?;
        }
        self.world_mut().openers[usize::from(by)].opened = true;
        Ok(())
    }

    /// A read-only open: steps 2 and 3 without a claim, then `reader::settled` and `reader::outcome` of every MTR.
    pub fn read_only(&mut self, reach: SlotSet, setting: &Setting) -> Checked {
        self.power_back();
        let alone = self.alive() == 0 && !setting.bounds.beyond;
        let found = match self.recover(reach, setting) {
            Ok(found) => found,
            Err(why) if alone => return Err(format!("A1: reading is refused within the promise: {why}")),
            Err(_) => return Ok(()),
        };
        let (settled, decided) = self.settled(&found, reach, setting);
        let ruling = &found.ruling;
        for (i, m) in self.world.clone().mtrs.iter().enumerate() {
            let present = self.present(&found.history, Some(ruling.end), m, reach, setting)?;
            if m.acked && !present {
                return Err(format!("S1: a reader misses the acknowledged MTR at {}", m.begin));
            }
            let lost = Unknown { lsn: m.end, epoch: self.world.number(m.by) };
            if let Some(outcome) = reader::outcome(&found.history, settled, decided, ENTRIES_TOLD, lost) {
                self.settle(i, outcome)?;
            }
        }
        Ok(())
    }

    /// `reader::settled`: what was read is flushed, and claims are looked at.
    pub fn settled(&mut self, found: &Findings, reach: SlotSet, setting: &Setting) -> (Lsn, bool) {
        let ours = self.ours(reach);
        if !setting.breaks(Rule::ReaderFlushes) {
            for slot in ours.iter() {
                let disk = &mut self.slot_mut(slot).disk;
                disk.flush_what_was_read(&found.ruling, setting);
            }
        }
        let unclaimed = || {
            let mut claims = [None; SLOTS];
            for slot in reach.iter() {
                claims[slot.index()] = Some(self.slot(slot).disk.highest_claim(&self.world)).filter(|c| *c > 0);
            }
            Look::judge(self.world.number(found.decision), &claims) == Look::Clear
        };
        let (ruling, open) = (&found.ruling, found.history.last());
        if found.clean || setting.breaks(Rule::SettledIsNotVisible) {
            return (ruling.end, true);
        }
        recovery::settled(open, ruling, &found.seen, found.holders, ours, unclaimed)
    }

    /// Within the promise for these reachable slots: enough of them, and at most three bad ones.
    pub fn promised(&self, reach: SlotSet, need: usize) -> bool {
        let bad = Slot::ALL.into_iter().filter(|s| !reach.contains(*s) || self.slot(*s).hurt).count();
        reach.len() >= need && bad <= 3
    }
}
