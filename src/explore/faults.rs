//! What may befall processes and slots.

use crate::core::writer::Away;
use crate::explore::disk::{Disk, Held, Late, Super, Tail};
use crate::explore::rules::Setting;
use crate::explore::state::{Proc, State};
use crate::lsn::Slot;

impl State {
    /// A process ends. What it had in flight may land later, where the bounds say so.
    pub fn end_process(&mut self, p: usize, setting: &Setting) {
        self.kill(p, setting.bounds.flight);
        // Processes have no names: the one that lives is the first.
        if self.procs[0] == Proc::Gone {
            self.procs.swap(0, 1);
        }
    }

    fn kill(&mut self, p: usize, flight: bool) {
        let late = match std::mem::replace(&mut self.procs[p], Proc::Gone) {
            Proc::Gone => Vec::new(),
            Proc::Opening(o) => self.opening_in_flight(&o),
            Proc::Running(r) => self.running_in_flight(&r),
        };
        for (slot, late) in late.into_iter().filter(|_| flight) {
            self.slot_mut(slot).late.push(late);
        }
    }

    /// All processes end, and everything that was in flight or in a cache is settled write by write: by moves of its
    /// own, or, if nothing is said of it, as if it had not been written.
    pub fn power_cut(&mut self) {
        (0..self.procs.len()).for_each(|p| self.kill(p, true));
        self.cut = true;
        let world = self.world.clone();
        for slot in Slot::ALL {
            if self.slot(slot).late.is_empty() && !self.slot(slot).disk.has_cached() {
                continue;
            }
            let slot = self.slot_mut(slot);
            let mut late = Vec::new();
            let mut add = |l: Late| {
                if !late.contains(&l) {
                    late.push(l);
                }
            };
            let lost = slot.disk.tails.extract_if(.., |t| t.cached).map(|t| Late::Tail(Tail { cached: false, ..t }));
            let lost: Vec<Late> = lost.collect();
            for whole in std::mem::take(&mut slot.late).into_iter().chain(lost) {
                match whole {
                    // A write of several groups may arrive in part.
                    Late::Groups { by, from, to } => {
                        for g in world.groups_in(by, from, to) {
                            let g = world.group(g);
                            add(Late::Groups { by, from: g.begin, to: g.end });
                        }
                    }
                    Late::Tail(Tail { by, groups, cached }) => {
                        groups.iter().for_each(|g| add(Late::Tail(Tail { by, groups: vec![*g], cached })));
                    }
                    Late::Super(_) => add(whole),
                }
            }
            for cell in &mut slot.disk.log {
                if let Some(g) = cell.cached.take() {
                    let g = world.group(g);
                    add(Late::Groups { by: g.by, from: g.begin, to: g.end });
                }
            }
            slot.disk.log.retain(|c| c.stable != Held::Nothing);
            slot.late = late;
        }
    }

    /// The machine is on again: what has not landed never will.
    pub fn power_back(&mut self) {
        if !std::mem::take(&mut self.cut) {
            return;
        }
        for slot in Slot::ALL.into_iter().filter(|s| !self.slot(*s).late.is_empty()).collect::<Vec<_>>() {
            self.slot_mut(slot).late.clear();
        }
    }

    /// A late write lands: into a cache, or, after a power cut, as what the disk had kept.
    pub fn land(&mut self, slot: Slot, i: usize) {
        let (world, cut) = (self.world.clone(), self.cut);
        let slot = self.slot_mut(slot);
        match slot.late.remove(i) {
            Late::Groups { by, from, to } => {
                for g in world.groups_in(by, from, to) {
                    let at = world.group(g).begin;
                    if cut { slot.disk.put_stable(at, Held::Whole(g)) } else { slot.disk.put_cached(at, g) }
                }
            }
            Late::Super(new) => slot.disk.put_super(new),
            Late::Tail(Tail { by, groups, .. }) => slot.disk.put_tail(by, &groups, !cut),
        }
    }

    /// A write that a power cut met is garbage, even where the bytes were there before.
    pub fn tear(&mut self, slot: Slot, i: usize, tells: bool) {
        let world = self.world.clone();
        let slot = self.slot_mut(slot);
        if let Late::Groups { by, from, to } = slot.late.remove(i) {
            for g in world.groups_in(by, from, to) {
                let held = if tells { Held::Torn(g) } else { Held::Garbage };
                slot.disk.put_stable(world.group(g).begin, held);
            }
        }
    }

    /// The slot is another disk from here on: whoever writes to it notices.
    pub fn replace(&mut self, slot: Slot, disk: Disk) {
        let s = self.slot_mut(slot);
        s.disk = disk;
        s.late.clear();
        s.hurt = true;
        for p in 0..self.procs.len() {
            if let Some(r) = self.running(p) {
                r.writer.wrote(slot, Some(Away::Error));
                r.writer.leave(slot, Away::Absent);
                r.verified[slot.index()] = None;
                r.closing = r.closing.map(|(todo, done)| (todo.without(slot), done));
            }
            if let Some(o) = self.opening(p) {
                o.excused = true;
            }
        }
    }

    /// A group's bytes go bad: in the segment, or in a tail file.
    pub fn rot(&mut self, slot: Slot, i: usize) {
        let s = self.slot_mut(slot);
        s.hurt = true;
        match i.checked_sub(s.disk.log.len()) {
            None => (s.disk.log[i].stable, s.disk.log[i].cached) = (Held::Garbage, None),
            Some(mut i) => {
                for tail in &mut s.disk.tails {
                    if i < tail.groups.len() {
                        tail.groups.remove(i);
                        break;
                    }
                    i -= tail.groups.len();
                }
            }
        }
        (0..self.procs.len()).for_each(|p| self.excuse_one(p));
    }

    /// The newest superblock that verifies goes bad.
    pub fn rot_super(&mut self, slot: Slot) {
        let s = self.slot_mut(slot);
        s.hurt = true;
        if let Some(newest) = s.disk.supers.iter_mut().rfind(|s: &&mut Super| !s.rotten) {
            newest.rotten = true;
        }
        (0..self.procs.len()).for_each(|p| self.excuse_one(p));
    }

    fn excuse_one(&mut self, p: usize) {
        if let Some(o) = self.opening(p) {
            o.excused = true;
        }
    }
}
