//! Healing: the volume is asked to scrub, and when it says that it is whole, it must be.

use crate::log::group;
use crate::lsn::{Lsn, Slot, SlotSet, format};
use crate::segment::name::FileName;
use crate::sim::known::Wanted;
use crate::sim::life::{Checked, PG, Sim};
use crate::sim::world::Disks;
use std::time::Duration;

/// Until every slot is whole, with a scrub. Of 50 ms at least.
const HEALED_WITHIN: usize = 3000;

/// Of 50 ms at least: an earlier process is given 10 s.
const LULL: usize = 60;

impl Sim {
    /// A scrub begins; if one has ended since anything was damaged, there are six identical copies, and whatever was
    /// damaged counts as well again.
    pub fn scrub(&self) -> Checked {
        let slot = self.running[0].borrow();
        let Some(running) = slot.as_ref().filter(|r| r.closing.is_none()) else { return Ok(()) };
        let now = (running.process, self.world.lock().atlas.blows());
        if let Some((before, to)) = self.scrubbed.get()
            && before == now
        {
            drop(slot);
            return if self.is_healed() { self.check_six(to) } else { Ok(()) };
        }
        let wall = running.shared.clock.wall_us();
        let mut engine = running.shared.engine();
        engine.scrub_now(wall);
        self.scrubbed.set(Some((now, engine.writer.vdl_group())));
        Ok(())
    }

    /// Nothing happens for a while: time enough to heal.
    pub fn lull(&self) -> Checked {
        self.scrubbed.set(None);
        self.scrub()?;
        for _ in 0..LULL {
            self.disks_step(true);
            self.settle_jobs();
            self.pass(self.until_something());
            self.housekeep(0);
            self.tend(0)?;
            if self.running[0].borrow().is_none() {
                return Ok(());
            }
            if self.is_healed() {
                return self.scrub();
            }
        }
        Ok(())
    }

    /// In peace: what the volume knows of is filled. Then nothing is missing on any slot, but for damage that only a scrub
    /// can find.
    pub fn until_filled(&self) -> Checked {
        self.scrubbed.set(None);
        for _ in 0..HEALED_WITHIN {
            self.disks_step(false);
            self.settle_jobs();
            self.pass(self.until_something());
            self.housekeep(0);
            self.tend(0)?;
            if self.is_healed() {
                let hidden = self.world.lock().atlas.hidden();
                return self.check_copies_of(hidden, Lsn::MAX).map(|_| ());
            }
        }
        Err(format!("L1: not filled though nothing is wrong any more: {:?}", self.told()))
    }

    /// In peace: a scrub comes to its end, and there are six identical copies.
    pub fn until_healed(&self) -> Checked {
        self.scrubbed.set(None);
        self.scrub()?;
        for _ in 0..HEALED_WITHIN {
            self.disks_step(false);
            self.settle_jobs();
            self.pass(self.until_something());
            self.housekeep(0);
            self.tend(0)?;
            if self.is_healed() {
                let to = self.scrubbed.get().map_or(Lsn::NONE, |(_, to)| to);
                return self.check_six(to);
            }
        }
        Err(format!("L1: not healed though nothing is wrong any more: {:?}", self.told()))
    }

    fn told(&self) -> Option<String> {
        self.running[0].borrow().as_ref().map(|r| r.shared.engine().told())
    }

    /// Where nothing is on its way, time is all that is waited for.
    fn until_something(&self) -> Duration {
        Duration::from_millis(if self.world.lock().is_quiet() { 1000 } else { 50 })
    }

    /// By the volume's own word.
    fn is_healed(&self) -> bool {
        let slot = self.running[0].borrow();
        let Some(running) = slot.as_ref() else { return false };
        let (healed, live) = {
            let engine = running.shared.engine();
            (engine.healed() == Some(true), engine.writer.live())
        };
        healed && SlotSet::ALL.minus(live).minus(self.world.lock().strangers(running.shared.geometry.volume)).len() == 0
    }

    /// Every group of the log that the scrub has seen is on all six slots, but those of others. What came later may have been
    /// damaged since.
    fn check_six(&self, scrubbed: Lsn) -> Checked {
        if !self.check_copies_of(SlotSet::NONE, scrubbed)? {
            return Ok(());
        }
        let volume = self.running[0].borrow().as_ref().map(|r| r.shared.geometry.volume);
        let mut w = self.world.lock();
        if let Some(strangers) = volume.map(|v| w.strangers(v)) {
            w.atlas.heals(strangers);
            w.counts.healed += 1;
        }
        Ok(())
    }

    /// Every group below `scrubbed` is on all slots, alike, but for these. False: something is missing above.
    fn check_copies_of(&self, but: SlotSet, scrubbed: Lsn) -> Result<bool, String> {
        let slot = self.running[0].borrow();
        let Some(running) = slot.as_ref() else { return Ok(false) };
        let geometry = running.shared.geometry;
        let (history, to, cursors) = {
            let engine = running.shared.engine();
            let cursors = Slot::ALL.map(|s| engine.writer.cursor(s).unwrap_or(Lsn::NONE));
            (engine.freeing.kept.clone(), engine.writer.vdl_group(), cursors)
        };
        let sent = cursors.into_iter().max().unwrap_or(to).max(to);
        let mut w = self.world.lock();
        let strangers = w.strangers(geometry.volume);
        let ours: Vec<Slot> = SlotSet::ALL.minus(strangers).minus(but).iter().collect();
        let mut later = false;
        for entry in &history {
            // What lies above was not scrubbed, and may be damaged, too.
            let (mut at, end) = (entry.begin, entry.end.min(sent));
            while at < end {
                let mut first = None;
                for slot in &ours {
                    let group = match group_at(&mut w, *slot, (at, entry.epoch, geometry.seed())) {
                        Ok(group) => group,
                        // Or it has still to be written there.
                        Err(_) if at >= scrubbed.min(to) || at >= cursors[slot.index()] => {
                            later = true;
                            continue;
                        }
                        Err(what) => return Err(format!("L1: slot {slot} is called whole, and at {at}: {what}")),
                    };
                    if *first.get_or_insert(group) != group {
                        return Err(format!("L1: slot {slot} has other bytes at {at}"));
                    }
                }
                at = at + first.map_or(format::BLOCK_MIN, |group| group.len);
            }
        }
        Ok(!later)
    }
}

/// A group that verifies; those that are alike have the same number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    number: usize,
    len: u64,
}

/// The group that stands on a slot, as the disks have it.
fn group_at(w: &mut Disks, slot: Slot, wanted: Wanted) -> Result<Whole, String> {
    let (at, epoch, seed) = wanted;
    let (name, offset) = FileName::segment_of(at, PG);
    let file = w.files[slot.index()].get(&name).ok_or("there is no such file")?;
    if let Some(whole) = w.whole.get(wanted, file, offset) {
        return Ok(whole);
    }
    let head = file.peek(offset, format::BLOCK_MIN as usize).ok_or("a bad sector")?;
    let len = group::decode_header(&head, at, seed).map_err(|e| e.to_string())?.len;
    let bytes = file.peek(offset, len as usize).ok_or("a bad sector")?;
    match group::verify(&bytes, at, seed, |_| ()) {
        Ok(sum) if sum.header.epoch == epoch => (),
        Ok(sum) => return Err(format!("a group of epoch {}", sum.header.epoch)),
        Err(broken) => return Err(broken.fault.to_string()),
    }
    w.wholes += 1;
    let whole = Whole { number: w.wholes, len };
    w.whole.put(wanted, file, offset, len, whole);
    Ok(whole)
}
