//! What goes wrong by the run's own choice: processes that end, slots that come and go, damage, clocks.

use crate::lsn::{SLOTS, Slot};
use crate::segment::name::FileName;
use crate::sim::faults::Fault;
use crate::sim::file::File;
use crate::sim::life::{Checked, Held, Sim};
use crate::sim::world::{Files, Weather, newest_superblock};
use crate::volume::close::Closing;
use std::time::Duration;

impl Sim {
    /// What is asked of the volume now is within the promise.
    pub fn promised(&self) -> bool {
        let w = self.world.lock();
        w.atlas.is_promised(w.away())
    }

    /// A slot's weather changes, within the atlas.
    pub fn change_weather(&self) {
        let slot = Slot(self.below(SLOTS) as u8);
        let mut w = self.world.lock();
        if w.weather[slot.index()] != Weather::Fair {
            w.weather[slot.index()] = Weather::Fair;
            w.note(format_args!("slot {slot} is fair"));
            return;
        }
        let kinds = [
            (Weather::Gone, Fault::Vanished),
            (Weather::Failing, Fault::Failing),
            (Weather::Hanging, Fault::HungSlot),
            (Weather::Slow, Fault::SlowSlot),
            (Weather::Full, Fault::NoSpace),
        ];
        let (weather, fault) = kinds[w.random.below(kinds.len())];
        let others = w.weather.iter().filter(|w| **w != Weather::Fair).count();
        let leaves = !matches!(weather, Weather::Hanging | Weather::Slow);
        let allowed = if leaves { w.atlas.may_leave(slot, w.away()) } else { others < 2 || w.atlas.is_beyond() };
        if allowed && w.faults.happens(fault) {
            w.weather[slot.index()] = weather;
            w.note(format_args!("slot {slot} is {weather:?}"));
        }
    }

    /// Damage to a slot, or a clock that jumps.
    pub fn mischief(&self) {
        if self.temper.forgetful && self.one_in(2) {
            return self.forget_decision();
        }
        let slot = Slot(self.below(SLOTS) as u8);
        let kind = match self.temper.favourite {
            Some(favourite) if self.one_in(2) => favourite,
            _ => self.below(14),
        };
        let mut w = self.world.lock();
        let fault = match kind {
            0..2 => Fault::BitRot,
            2..4 => Fault::UnreadableSector,
            4 => Fault::Truncated,
            5 => Fault::Blank,
            6 => Fault::Foreign,
            7 => Fault::Swapped,
            8 => Fault::Stale,
            // An image of the slot, to be mounted back some day.
            9..12 => {
                w.images[slot.index()] = Some(w.files[slot.index()].clone());
                w.laws.images(slot);
                w.atlas.images(slot);
                return;
            }
            12 => return self.clock_jumps(&mut w, Fault::ClockBack),
            _ => return self.clock_jumps(&mut w, Fault::ClockAhead),
        };
        let names: Vec<FileName> = w.files[slot.index()].keys().copied().collect();
        let Some(name) = w.random.pick(&names) else { return };
        // Without a superblock that verifies nobody knows whose the slot's files are.
        let spoils = match fault {
            Fault::Foreign | Fault::Swapped => true,
            Fault::Blank => false,
            // It may be of another slot, or of another volume: taken when directories were in the wrong places.
            Fault::Stale => w.images[slot.index()].as_ref().and_then(newest_superblock).is_some_and(|s| s.slot != slot),
            _ => !matches!(name, FileName::Segment(_)),
        };
        let away = w.away();
        // Three or four of another volume are that volume. They may have come by a swap, or be an image's.
        let strange = self.foreign.borrow().first().and_then(newest_superblock).map(|s| s.geometry.volume);
        let comes = match fault {
            Fault::Foreign => true,
            Fault::Stale => {
                w.images[slot.index()].as_ref().and_then(newest_superblock).map(|s| s.geometry.volume) == strange
            }
            _ => false,
        };
        let strangers = comes && strange.is_some_and(|volume| w.slots_of(volume).with(slot).len() > 2);
        let allowed = !strangers && if spoils { w.atlas.may_spoil(slot, away) } else { w.atlas.may_hurt(slot, away) };
        if !allowed || !w.faults.happens(fault) {
            return;
        }
        let i = slot.index();
        w.note(format_args!("slot {slot}: {} ({name})", fault.name()));
        let w = &mut *w;
        let done = match fault {
            Fault::BitRot => w.files[i].get_mut(&name).is_some_and(|f| f.rot(&mut w.random)),
            Fault::UnreadableSector => w.files[i].get_mut(&name).is_some_and(|f| f.spoil(&mut w.random)),
            Fault::Truncated => w.files[i].get_mut(&name).is_some_and(|f| f.truncate(&mut w.random)),
            Fault::Blank => {
                w.replace(slot, Files::new());
                w.blank.insert(slot);
                w.laws.silence(slot);
                true
            }
            Fault::Foreign => match self.foreign.borrow_mut().get(i).cloned() {
                Some(files) => {
                    w.replace(slot, files);
                    w.laws.silence(slot);
                    true
                }
                None => false,
            },
            Fault::Swapped => {
                let other = Slot(((i + 1 + w.random.below(SLOTS - 1)) % SLOTS) as u8);
                let both = w.atlas.may_spoil_both(slot, other, away);
                if both {
                    w.swap(slot, other);
                    // What was done to a directory goes with it.
                    w.damages.swap(i, other.index());
                    w.damages[other.index()] += 1;
                    w.atlas.spoils(other);
                    w.note(format_args!("with slot {other}"));
                }
                both
            }
            _ => match w.images[i].take() {
                Some(files) => {
                    w.replace(slot, files);
                    w.laws.restore(slot);
                    true
                }
                None => false,
            },
        };
        w.damages[i] += u32::from(done);
        match (done, spoils) {
            (true, true) => w.atlas.spoils(slot),
            (true, false) if matches!(fault, Fault::Blank | Fault::Stale) => {
                w.atlas.replaces(slot, fault == Fault::Stale);
            }
            (true, false) => w.atlas.hurts(slot),
            _ => (),
        }
    }

    /// The newest decision is cut off on every slot: its writer's records alone tell of it.
    fn forget_decision(&self) {
        let w = &mut *self.world.lock();
        let Some(newest) = w.files.iter().filter_map(newest_superblock).map(|s| s.number).max() else { return };
        if !w.atlas.is_beyond() || newest == 1 || !w.faults.happens(Fault::Truncated) {
            return;
        }
        w.note(format_args!("decision {newest} is forgotten"));
        for slot in Slot::ALL {
            if let Some(file) = w.files[slot.index()].get_mut(&FileName::Epoch(newest)) {
                *file = File::default();
                w.damages[slot.index()] += 1;
                w.atlas.spoils(slot);
            }
        }
    }

    fn clock_jumps(&self, w: &mut crate::sim::world::Disks, fault: Fault) {
        if !w.faults.happens(fault) {
            return;
        }
        let s = w.random.below(7200) as u64;
        if fault == Fault::ClockBack {
            w.wall_us -= s * 1_000_000;
        } else {
            w.wall_us += s * 1_000_000;
            // As if the process had been stopped meanwhile.
            w.now += Duration::from_secs(s % 40);
            w.laws.asleep += Duration::from_secs(s % 40);
            w.laws.jumps += 1;
        }
        w.note(format_args!("{} {s} s", fault.name()));
    }

    pub fn kill_one(&self, which: usize) {
        let process = self.running[which].borrow().as_ref().map(|r| r.process);
        if let Some(process) = process
            && (self.peace.get() || self.happens(Fault::Kill))
        {
            self.world.lock().kill(process);
        }
    }

    pub fn power_cut(&self) {
        if self.happens(Fault::PowerCut) {
            self.world.lock().power_cut();
        }
    }

    pub fn begin_close(&self) {
        let mut slot = self.running[0].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| r.closing.is_none()) else { return };
        for Held { prepared, mut mtr, .. } in running.held.drain(..) {
            running.shared.finish(prepared);
            mtr.appended();
        }
        running.views.clear();
        running.closing = Some(Closing::begin(&running.shared, Duration::from_secs(20)));
    }

    pub fn take_over(&self) -> Checked {
        if !self.happens(Fault::TakeOver) {
            return Ok(());
        }
        // The writer lives on as a zombie; the zombie before it is gone.
        let zombie = self.running[1].borrow().as_ref().map(|r| r.process);
        if let Some(zombie) = zombie {
            self.world.lock().kill(zombie);
        }
        self.tend(1)?;
        let young = self.running[0].borrow_mut().take();
        *self.running[1].borrow_mut() = young;
        self.open(0, true)
    }
}
