//! What may happen next, and doing it.

use crate::core::WRITE_QUORUM;
use crate::core::writer::{Away, Look};
use crate::explore::disk::{Disk, Held, Late, Super};
use crate::explore::opening::Checked;
use crate::explore::rules::{Rule, Setting};
use crate::explore::state::{Opening, Phase, Proc, Running, State};
use crate::explore::writing::Piece;
use crate::lsn::{SLOTS, Slot, SlotSet};
use std::sync::Arc;

/// One step of one process, or of the world. A process is its place, a slot its number, a set of slots its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Move {
    Append(u8, Piece),
    /// Submitted and complete at once.
    Write(u8, Slot),
    Submit(u8, Slot),
    Complete(u8, Slot),
    Fail(u8, Slot, bool),
    Leave(u8, Slot),
    Look(u8, bool),
    LookApart(u8),
    Looked(u8),
    Rejoin(u8, Slot),
    RejoinApart(u8, Slot),
    Rejoined(u8, Slot),
    ForgetWrite(u8, Slot),
    Close(u8),
    Mark(u8, Slot),
    Merge(u8, Slot),
    Tidy(u8, Slot),
    Closed(u8),
    Open(SlotSet),
    Step(u8, Slot),
    StepFails(u8, Slot),
    Steps(u8, SlotSet),
    Read(u8),
    LastLook(u8, bool),
    ReadOnly(SlotSet),
    Kill(u8),
    PowerCut,
    Land(Slot, u8),
    Tear(Slot, u8, bool),
    Blank(Slot),
    Image(Slot),
    Stale(Slot),
    Rot(Slot, u8),
    RotSuper(Slot),
}

impl State {
    /// Does it. An error is a broken property.
    pub fn apply(&mut self, m: Move, setting: &Setting) -> Checked {
        match m {
            Move::Append(p, piece) => self.append(p.into(), piece),
            Move::Write(p, s) => {
                self.submit(p.into(), s);
                self.complete(p.into(), s);
            }
            Move::Submit(p, s) => self.submit(p.into(), s),
            Move::Complete(p, s) => self.complete(p.into(), s),
            Move::Fail(p, s, landed) => {
                self.used.fails += 1;
                self.fail(p.into(), s, landed);
            }
            Move::Leave(p, s) => {
                self.used.leaves += 1;
                if let Some(r) = self.running(p.into()) {
                    r.writer.leave(s, Away::Behind);
                }
            }
            Move::Look(p, wide) => return self.look(p.into(), wide, false, setting),
            Move::LookApart(p) => return self.look(p.into(), false, true, setting),
            Move::Looked(p) => {
                let quorum = self.running(p.into()).and_then(|r| r.looking);
                return quorum.map_or(Ok(()), |q| self.looked(p.into(), q, Look::Clear, setting));
            }
            Move::Rejoin(p, s) => {
                self.used.rejoins += 1;
                self.rejoin(p.into(), s, false, setting);
            }
            Move::RejoinApart(p, s) => {
                self.used.rejoins += 1;
                self.rejoin(p.into(), s, true, setting);
            }
            Move::Rejoined(p, s) => self.rejoined(p.into(), s),
            Move::ForgetWrite(p, s) => self.forget_write(p.into(), s),
            Move::Close(p) => {
                self.used.closes += 1;
                self.close(p.into());
            }
            Move::Mark(p, s) => self.mark(p.into(), s),
            Move::Merge(p, s) => {
                self.used.merges += 1;
                self.merge(p.into(), s);
            }
            Move::Tidy(p, s) => {
                self.used.tidies += 1;
                self.tidy(p.into(), s);
            }
            Move::Closed(p) => self.end_process(p.into(), setting),
            Move::Open(reach) => {
                self.used.opens += 1;
                let free = self.procs.iter().position(|p| *p == Proc::Gone).unwrap_or(0);
                return self.begin_open(free, reach, setting);
            }
            Move::Step(p, s) => return self.step(p.into(), s, false, setting),
            Move::StepFails(p, s) => {
                self.used.fails += 1;
                return self.step(p.into(), s, true, setting);
            }
            Move::Steps(p, set) => return self.steps(p.into(), set, setting),
            Move::Read(p) => return self.read(p.into(), setting),
            Move::LastLook(p, wide) => return self.last_look(p.into(), wide, setting),
            Move::ReadOnly(reach) => {
                self.used.reads += 1;
                return self.read_only(reach, setting);
            }
            Move::Kill(p) => {
                self.used.kills += 1;
                self.end_process(p.into(), setting);
            }
            Move::PowerCut => {
                self.used.cuts += 1;
                self.power_cut();
            }
            Move::Land(s, i) => self.land(s, i.into()),
            Move::Tear(s, i, tells) => self.tear(s, i.into(), tells),
            Move::Blank(s) => {
                self.used.blanks += 1;
                self.replace(s, Disk::default());
            }
            Move::Image(s) => {
                self.used.stales += 1;
                let disk = self.slot(s).disk.clone();
                self.slot_mut(s).old = Some(Box::new(disk));
            }
            Move::Stale(s) => {
                if let Some(old) = self.slot_mut(s).old.take() {
                    self.replace(s, *old);
                }
            }
            Move::Rot(s, i) => {
                self.used.rots += 1;
                self.rot(s, i.into());
            }
            Move::RotSuper(s) => {
                self.used.super_rots += 1;
                self.rot_super(s);
            }
        }
        Ok(())
    }

    /// Everything that may happen next. Of slots that are alike the first acts for all.
    pub fn moves(&self, setting: &Setting) -> Vec<Move> {
        let mut out = Vec::new();
        let stuck = |p: &Proc| matches!(p, Proc::Opening(o) if o.stuck);
        if let Some(p) = self.procs.iter().position(stuck) {
            if self.used.kills < setting.bounds.kills {
                out.push(Move::Kill(p as u8));
            }
            if self.used.cuts < setting.bounds.cuts {
                out.push(Move::PowerCut);
            }
            return out;
        }
        let classes = self.classes();
        let first: Vec<Slot> =
            Slot::ALL.into_iter().filter(|s| !classes[..s.index()].contains(&classes[s.index()])).collect();
        for (p, proc) in self.procs.iter().enumerate() {
            match proc {
                Proc::Gone => continue,
                Proc::Running(r) => self.writers_moves(p as u8, r, &first, setting, &mut out),
                Proc::Opening(o) => self.openers_moves(p as u8, o, &classes, setting, &mut out),
            }
            if self.used.kills < setting.bounds.kills {
                out.push(Move::Kill(p as u8));
            }
        }
        // Worth it only where something is in flight, or in a cache.
        let afoot = |s: &Slot| !self.slot(*s).late.is_empty() || self.slot(*s).disk.has_cached();
        let in_flight = self.alive() > 0 || Slot::ALL.iter().any(afoot);
        if self.used.cuts < setting.bounds.cuts && !self.cut && in_flight {
            out.push(Move::PowerCut);
        }
        first.iter().for_each(|s| self.slots_moves(*s, setting, &mut out));
        self.opens(&classes, setting, &mut out);
        out
    }

    fn writers_moves(&self, p: u8, r: &Arc<Running>, first: &[Slot], setting: &Setting, out: &mut Vec<Move>) {
        let (b, w) = (&setting.bounds, &r.writer);
        if let Some((todo, _)) = r.closing {
            out.extend(first.iter().filter(|s| todo.contains(**s)).map(|s| Move::Mark(p, *s)));
            if State::is_closed(r) {
                out.push(Move::Closed(p));
            }
            return;
        }
        match r.half {
            Some(_) => out.push(Move::Append(p, Piece::Last)),
            None if self.world.mtrs.len() < b.mtrs => {
                out.push(Move::Append(p, Piece::Whole));
                if b.halves {
                    out.push(Move::Append(p, Piece::First));
                }
            }
            None => (),
        }
        if r.looking.is_some() {
            out.push(Move::Looked(p));
        } else if w.wants_look().is_some() {
            let own = self.world.number(r.by);
            if self.judge(own, None, setting) == Look::Clear || setting.breaks(Rule::LookBeforeAck) {
                out.push(Move::Look(p, false));
                if b.split {
                    out.push(Move::LookApart(p));
                }
            }
            if matches!(self.judge(own, Some(SlotSet::ALL), setting), Look::Claimed(_)) {
                out.push(Move::Look(p, true));
            }
        }
        for &s in first {
            if w.next_write(s).is_some() {
                out.push(Move::Write(p, s));
                if b.flight {
                    out.push(Move::Submit(p, s));
                }
            }
            if w.busy(s).is_some() {
                out.push(Move::Complete(p, s));
                if self.used.fails < b.fails {
                    out.extend([Move::Fail(p, s, false), Move::Fail(p, s, true)]);
                }
                if w.away(s).is_some() && setting.breaks(Rule::RejoinWithNothingOutstanding) {
                    out.push(Move::ForgetWrite(p, s));
                }
            }
            if w.away(s).is_none() && self.used.leaves < b.leaves {
                out.push(Move::Leave(p, s));
            }
            if r.verified[s.index()].is_some() {
                out.push(Move::Rejoined(p, s));
            } else if self.used.rejoins < b.rejoins && w.rejoin_read(s).is_some() && self.may_rejoin(r, setting) {
                out.push(Move::Rejoin(p, s));
                if b.split {
                    out.push(Move::RejoinApart(p, s));
                }
            }
        }
        self.housekeeping(p, r, first, setting, out);
        if self.used.closes < b.closes && self.may_close(r, setting) {
            out.push(Move::Close(p));
        }
    }

    fn may_rejoin(&self, r: &Running, setting: &Setting) -> bool {
        setting.breaks(Rule::RejoinLooks) || self.judge(self.world.number(r.by), None, setting) == Look::Clear
    }

    /// What a writer does on live slots when nobody waits for it. Merging takes a look, and that all others are gone.
    fn housekeeping(&self, p: u8, r: &Arc<Running>, first: &[Slot], setting: &Setting, out: &mut Vec<Move>) {
        let b = &setting.bounds;
        let own = self.world.number(r.by);
        let alone = self.alive() == 1 && self.judge(own, None, setting) == Look::Clear;
        for &s in first.iter().filter(|s| r.writer.away(**s).is_none()) {
            let disk = &self.slot(s).disk;
            let drained = !self.slot(s).late.iter().any(|l| matches!(l, Late::Groups { .. }));
            let unmerged = !disk.tails.is_empty() || disk.log.iter().any(|c| c.at >= r.unused.0 && c.at < r.unused.1);
            let may_merge = alone && (drained || setting.breaks(Rule::MergeWhenDrained));
            if self.used.merges < b.merges && unmerged && may_merge {
                out.push(Move::Merge(p, s));
            }
            let old = |s: &Super| self.world.number(s.by) < r.previous;
            if self.used.tidies < b.tidies && disk.supers.iter().any(old) {
                out.push(Move::Tidy(p, s));
            }
        }
    }

    fn openers_moves(&self, p: u8, o: &Arc<Opening>, classes: &[u64; SLOTS], setting: &Setting, out: &mut Vec<Move>) {
        match o.phase {
            Phase::Read => out.push(Move::Read(p)),
            Phase::Look => {
                let own = self.world.number(o.by);
                if self.judge(own, None, setting) == Look::Clear || setting.breaks(Rule::LookBeforeOpening) {
                    out.push(Move::LastLook(p, false));
                }
                if matches!(self.judge(own, Some(o.reach), setting), Look::Claimed(_)) {
                    out.push(Move::LastLook(p, true));
                }
            }
            Phase::Claim | Phase::Tail | Phase::Decide => {
                let (b, u) = (&setting.bounds, &self.used);
                let watched = self.alive() > 1 || b.zombies && (u.opens < b.opens || u.reads < b.reads);
                if !watched && u.fails >= b.fails {
                    return self.openers_steps(p, o.todo, classes, setting, out);
                }
                let is_first = |s: &Slot| !classes[..s.index()].contains(&classes[s.index()]);
                for s in o.todo.iter().filter(is_first) {
                    out.push(Move::Step(p, s));
                    if self.used.fails < setting.bounds.fails {
                        out.push(Move::StepFails(p, s));
                    }
                }
            }
        }
    }

    /// With nobody to see the order: all at once, or, if it may end here, some.
    fn openers_steps(&self, p: u8, todo: SlotSet, classes: &[u64; SLOTS], setting: &Setting, out: &mut Vec<Move>) {
        out.push(Move::Steps(p, todo));
        if self.used.kills >= setting.bounds.kills && self.used.cuts >= setting.bounds.cuts {
            return;
        }
        let some = sets().filter(|s| s.and(todo) == *s && *s != SlotSet::NONE && *s != todo);
        out.extend(some.filter(|s| is_leading(*s, todo, classes)).map(|s| Move::Steps(p, s)));
    }

    /// What may befall a slot.
    fn slots_moves(&self, s: Slot, setting: &Setting, out: &mut Vec<Move>) {
        let (b, u, slot) = (&setting.bounds, &self.used, self.slot(s));
        for (i, late) in slot.late.iter().enumerate() {
            out.push(Move::Land(s, i as u8));
            if self.cut && matches!(late, Late::Groups { .. }) {
                out.push(Move::Tear(s, i as u8, false));
                if b.torn {
                    out.push(Move::Tear(s, i as u8, true));
                }
            }
        }
        if !self.may_be_hurt(s, setting) {
            return;
        }
        if u.blanks < b.blanks && slot.disk != Disk::default() {
            out.push(Move::Blank(s));
        }
        if u.stales < b.stales && slot.old.is_none() {
            out.push(Move::Image(s));
        }
        if slot.old.as_ref().is_some_and(|old| **old != slot.disk) {
            out.push(Move::Stale(s));
        }
        if u.rots < b.rots {
            let log = slot.disk.log.iter().map(|c| matches!(c.visible(), Held::Whole(_)));
            let all = log.chain(slot.disk.in_tails().map(|_| true)).enumerate();
            out.extend(all.filter(|(_, whole)| *whole).map(|(i, _)| Move::Rot(s, i as u8)));
        }
        if u.super_rots < b.super_rots && slot.disk.newest().is_some() {
            out.push(Move::RotSuper(s));
        }
    }

    /// Damage within the bounds; to whoever is opening, within the promise.
    fn may_be_hurt(&self, s: Slot, setting: &Setting) -> bool {
        let hurt = self.hurt();
        if hurt.contains(s) {
            return true;
        }
        let promised = |p: &Proc| match p {
            Proc::Opening(o) => {
                hurt.iter().chain([s]).filter(|s| o.reach.contains(*s)).count() + 6 - o.reach.len() <= 3
            }
            _ => true,
        };
        hurt.len() < setting.bounds.hurt && (setting.bounds.beyond || self.procs.iter().all(promised))
    }

    /// Opens over every set of slots that the promise covers, up to renaming.
    fn opens(&self, classes: &[u64; SLOTS], setting: &Setting, out: &mut Vec<Move>) {
        let (b, u) = (&setting.bounds, &self.used);
        let may_open = u.opens < b.opens && (self.alive() == 0 || self.alive() == 1 && b.zombies);
        let may_read = u.reads < b.reads && (self.alive() == 0 || b.zombies);
        if !may_open && !may_read {
            return;
        }
        for reach in sets().filter(|s| is_leading(*s, SlotSet::ALL, classes)) {
            let ours = self.ours(reach).len();
            let usable = ours + self.blank(reach).len();
            if may_open && usable >= WRITE_QUORUM && (b.beyond || self.promised(reach, WRITE_QUORUM)) {
                out.push(Move::Open(reach));
            }
            if may_read && reach.len() >= 3 && (b.beyond || self.promised(reach, 3)) {
                out.push(Move::ReadOnly(reach));
            }
        }
    }
}

fn sets() -> impl Iterator<Item = SlotSet> {
    (0u8..1 << SLOTS).map(|bits| Slot::ALL.into_iter().filter(|s| bits >> s.0 & 1 == 1).collect())
}

/// Of slots of `all` that are alike, the first ones are in the set: one set stands for all that are alike.
fn is_leading(set: SlotSet, all: SlotSet, classes: &[u64; SLOTS]) -> bool {
    let skips = |s: Slot, t: Slot| s < t && classes[s.index()] == classes[t.index()] && !set.contains(s);
    !set.iter().any(|t| all.iter().any(|s| skips(s, t)))
}
