//! A writer at work: the core's [`Writer`](crate::core::writer::Writer), driven as `volume::engine` does, a completion at a time.

use crate::core::WRITE_QUORUM;
use crate::core::history::History;
use crate::core::vote::Join;
use crate::core::writer::{Away, Look};
use crate::disk::job;
use crate::explore::disk::{Cell, Disk, GroupId, Held, Late, Super};
use crate::explore::opening::Checked;
use crate::explore::rules::{Rule, Setting};
use crate::explore::state::{BLOCK, CPL, Group, Mtr, Outcome, Proc, Running, State, World};
use crate::log::append::Sealed;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};

/// What is appended as a group of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Piece {
    /// An MTR.
    Whole,
    /// An MTR's first group, and its last.
    First,
    Last,
}

impl State {
    pub fn append(&mut self, p: usize, piece: Piece) {
        let Some(r) = self.running(p) else { return };
        let (by, begin, vdl) = (r.by, r.writer.sealed_end(), r.writer.vdl());
        let (end, cpl) = (begin + BLOCK, (piece != Piece::First).then_some(begin + CPL));
        r.writer.seal(Sealed { begin, end, cpl });
        let first = r.half.take().unwrap_or(begin);
        if piece == Piece::First {
            r.half = Some(begin);
        }
        let number = self.world.number(by);
        let world = self.world_mut();
        world.groups.push(Group { by, begin, end, cpl, vdl });
        if let Some(end) = cpl {
            // Whatever is appended after another has opened is not in the log.
            let late = world.openers.iter().any(|o| o.opened && o.number > number);
            let seen = if late { Outcome::Absent } else { Outcome::Unseen };
            world.mtrs.push(Mtr { by, begin: first, end, acked: false, seen });
        }
    }

    pub fn submit(&mut self, p: usize, slot: Slot) {
        let Some(r) = self.running(p) else { return };
        if let Some((from, to)) = r.writer.next_write(slot) {
            r.writer.submitted(slot, from, to);
        }
    }

    /// The write is durable, and its completion is heard of.
    pub fn complete(&mut self, p: usize, slot: Slot) {
        let world = self.world.clone();
        let Some(r) = self.running(p) else { return };
        let Some((from, to)) = r.writer.busy(slot) else { return };
        let by = r.by;
        r.writer.wrote(slot, None);
        let disk = &mut self.slot_mut(slot).disk;
        world.groups_in(by, from, to).for_each(|g| disk.put_stable(world.group(g).begin, Held::Whole(g)));
    }

    /// The write gives an error: it may have landed, and nothing has made it durable.
    pub fn fail(&mut self, p: usize, slot: Slot, landed: bool) {
        let world = self.world.clone();
        let Some(r) = self.running(p) else { return };
        let Some((from, to)) = r.writer.busy(slot) else { return };
        let by = r.by;
        r.writer.wrote(slot, Some(Away::Error));
        if landed {
            let disk = &mut self.slot_mut(slot).disk;
            world.groups_in(by, from, to).for_each(|g| disk.put_cached(world.group(g).begin, g));
        }
    }

    /// A look at the claims: of all slots in a set, or, at its worst, where only slots without a higher claim answer. A damaged slot may
    /// have lost one, but three that are not damaged are among any that are read within the promise.
    pub fn judge(&self, own: u64, wide: Option<SlotSet>, setting: &Setting) -> Look {
        let mut claims = [None; SLOTS];
        let mut healthy = 0;
        for slot in Slot::ALL {
            let claim = self.slot(slot).disk.highest_claim(&self.world);
            if claim > 0 && wide.map_or(claim <= own, |set| set.contains(slot)) {
                claims[slot.index()] = Some(claim);
                healthy += usize::from(!self.slot(slot).hurt || setting.bounds.beyond);
            }
        }
        if wide.is_none() && healthy < crate::core::READ_QUORUM { Look::Unsure } else { Look::judge(own, &claims) }
    }

    /// A look, begun now; and heard of now, unless the two are apart.
    pub fn look(&mut self, p: usize, wide: bool, apart: bool, setting: &Setting) -> Checked {
        let Proc::Running(r) = &self.procs[p] else { return Ok(()) };
        let Some(quorum) = r.writer.wants_look() else { return Ok(()) };
        let blind = setting.breaks(Rule::LookBeforeAck);
        let look = if blind {
            Look::Clear
        } else {
            self.judge(self.world.number(r.by), wide.then_some(SlotSet::ALL), setting)
        };
        if apart && look == Look::Clear {
            if let Some(r) = self.running(p) {
                r.looking = Some(quorum);
            }
            return Ok(());
        }
        self.looked(p, quorum, look, setting)
    }

    /// The look's end: VDL moves, and commits are acknowledged.
    pub fn looked(&mut self, p: usize, quorum: Lsn, look: Look, setting: &Setting) -> Checked {
        let Some(r) = self.running(p) else { return Ok(()) };
        r.looking = None;
        r.writer.looked(quorum, look);
        let (by, vdl, fenced) = (r.by, r.writer.vdl(), r.writer.fenced());
        if fenced.is_some() {
            // Nothing is submitted any more: it is as good as gone.
            self.end_process(p, setting);
            return Ok(());
        }
        for m in self.world_mut().mtrs.iter_mut().filter(|m| m.by == by && m.end <= vdl && !m.acked) {
            m.acked = true;
            if m.seen == Outcome::Absent {
                return Err(format!("S6: a zombie acknowledges the MTR at {}, which was seen absent", m.begin));
            }
        }
        Ok(())
    }

    /// `job::rejoin` on a slot's worker. The writer hears of it now, unless the two are apart.
    pub fn rejoin(&mut self, p: usize, slot: Slot, apart: bool, setting: &Setting) {
        let world = self.world.clone();
        let Proc::Running(r) = &self.procs[p] else { return };
        let (by, read, tail) = (r.by, r.writer.rejoin_read(slot), r.writer.sealed_end());
        let (number, vdl) = (world.number(by), r.writer.vdl());
        let Some(read) = read else { return };
        let Some(history) = &world.openers[usize::from(by)].history else { return };
        let disk = &mut self.slot_mut(slot).disk;
        let join = match disk.newest().copied() {
            Some(own) if !own.join.needs_one(history) => own.join,
            None if !may_be_taken(disk, history, &world, read.to) => return,
            _ => Join::At { at: vdl, by: number },
        };
        disk.claims |= 1 << number;
        disk.put_super(Super { by, join, clean: None, rotten: false });
        let mut at = read.from;
        while at < read.to
            && let Some(Held::Whole(g)) = disk.cell(at).map(|c| c.visible())
            && world.epoch(g) == number
            && !setting.breaks(Rule::RejoinReadsBack)
        {
            at = world.group(g).end;
        }
        if at > read.from {
            disk.flush(read.from);
        }
        if setting.breaks(Rule::RejoinAtVdl) {
            at = tail;
        }
        if let Some(r) = self.running(p) {
            r.verified[slot.index()] = Some(at);
        }
        if !apart {
            self.rejoined(p, slot);
        }
    }

    pub fn rejoined(&mut self, p: usize, slot: Slot) {
        let Some(r) = self.running(p) else { return };
        let Some(at) = r.verified[slot.index()].take() else { return };
        if r.writer.rejoin(slot, at) {
            self.slot_mut(slot).disk.segment = true;
        }
    }

    /// A write that hangs is given up, as if it could not land any more: what `RejoinWithNothingOutstanding` forbids.
    pub fn forget_write(&mut self, p: usize, slot: Slot) {
        let Some(r) = self.running(p) else { return };
        let (by, busy) = (r.by, r.writer.busy(slot));
        r.writer.wrote(slot, Some(Away::Behind));
        if let Some((from, to)) = busy {
            self.slot_mut(slot).late.push(Late::Groups { by, from, to });
        }
    }

    /// `job::merge`: tail files go into the segment where it does not verify, and unused addresses are given back.
    pub fn merge(&mut self, p: usize, slot: Slot) {
        let world = self.world.clone();
        let Proc::Running(r) = &self.procs[p] else { return };
        let (by, unused) = (r.by, r.unused);
        let Some(history) = &world.openers[usize::from(by)].history else { return };
        let disk = &mut self.slot_mut(slot).disk;
        for g in disk.in_tails().collect::<Vec<_>>() {
            let at = world.group(g).begin;
            let holds = |g: GroupId| history.holds(world.epoch(g), at);
            let there = |c: &Cell| matches!(c.visible(), Held::Whole(g) if holds(g));
            if holds(g) && !disk.cell(at).is_some_and(there) {
                disk.put_stable(at, Held::Whole(g));
            }
            if holds(g) {
                disk.flush(at);
            }
        }
        disk.tails.clear();
        disk.log.retain(|c| c.at < unused.0 || c.at >= unused.1);
    }

    /// `job::tidy`: claims and superblocks from before the decision that was found.
    pub fn tidy(&mut self, p: usize, slot: Slot) {
        let world = self.world.clone();
        let Proc::Running(r) = &self.procs[p] else { return };
        let below = r.previous;
        let disk = &mut self.slot_mut(slot).disk;
        disk.claims &= !((1 << below) - 1);
        disk.supers.retain(|s| world.number(s.by) >= below);
    }

    pub fn may_close(&self, r: &Running, setting: &Setting) -> bool {
        let acked = self.world.mtrs.iter().filter(|m| m.by == r.by).all(|m| m.acked);
        let done = r.half.is_none() && acked && r.writer.is_clean();
        r.looking.is_none() && r.closing.is_none() && (done || setting.breaks(Rule::CleanWithNothingOutstanding))
    }

    pub fn close(&mut self, p: usize) {
        if let Some(r) = self.running(p) {
            r.closing = Some((r.writer.live(), SlotSet::NONE));
        }
    }

    /// `job::next_version` with the clean mark.
    pub fn mark(&mut self, p: usize, slot: Slot) {
        let Some(r) = self.running(p) else { return };
        let (by, clean) = (r.by, Some(r.writer.vdl()));
        let Some((todo, mut done)) = r.closing else { return };
        let supers = &self.slot(slot).disk.supers;
        let own = supers.iter().find(|s| s.by == by && !s.rotten).copied();
        if let Some(own) = own {
            self.slot_mut(slot).disk.put_super(Super { clean, ..own });
            done.insert(slot);
        }
        if let Some(r) = self.running(p) {
            r.closing = Some((todo.without(slot), done));
        }
    }

    /// What a writer that ends here has on its way.
    pub fn running_in_flight(&self, r: &Running) -> Vec<(Slot, Late)> {
        let groups = |slot: Slot| {
            let (from, to) = r.writer.busy(slot)?;
            Some((slot, Late::Groups { by: r.by, from, to }))
        };
        let mark = |slot: Slot| {
            let own = self.slot(slot).disk.supers.iter().find(|s| s.by == r.by && !s.rotten)?;
            Some((slot, Late::Super(Super { clean: Some(r.writer.vdl()), ..*own })))
        };
        let marks = r.closing.map_or(SlotSet::NONE, |(todo, _)| todo);
        Slot::ALL.into_iter().filter_map(groups).chain(marks.iter().filter_map(mark)).collect()
    }

    /// The mark is on four slots: the close has ended.
    pub fn is_closed(r: &Running) -> bool {
        r.closing.is_some_and(|(_, done)| done.len() >= WRITE_QUORUM)
    }
}

/// `job::may_be_taken`: a slot without a superblock holds the log of this volume, or nobody's.
fn may_be_taken(disk: &Disk, history: &History, world: &World, end: Lsn) -> bool {
    let held = |at: Lsn| disk.cell(at).map_or(Held::Nothing, |c| c.visible());
    let ours = |(at, epoch)| matches!(held(at), Held::Whole(g) | Held::Torn(g) if world.epoch(g) == epoch);
    let probes = || job::frames_back(history, end).take(job::PROBES);
    let empty = disk.tails.is_empty() && probes().all(|(at, _)| held(at) == Held::Nothing);
    let begins = |c: &Cell| c.at.0 % format::EXTENT <= BLOCK && c.visible() != Held::Nothing;
    probes().any(ours) || (empty && !disk.log.iter().any(begins))
}
