//! After the faults: the world must come right within stated numbers of steps. In each a write may land, all jobs are done
//! and time passes.
//!
//! Every slot that is this volume's is written to, waiting commits end, tail files are merged, gaps are filled and what is
//! damaged is mended: six identical copies, but for slots in whose place somebody put another volume's or another slot's
//! disk. Then the volume closes clean and opens again.

use crate::core::history::Entry;
use crate::log::group;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::segment::name::FileName;
use crate::sim::dir::{SimDir, do_job};
use crate::sim::life::{Checked, PG, Sim};
use crate::sim::world::Weather;
use std::time::Duration;

/// Opens that may fail, because the one before left a claim.
const OPENS: usize = 20;
/// Until every slot that is fit is live, and nothing is on its way. Of 50 ms: the longest pause of a slot is 10 s.
const SETTLED_WITHIN: usize = 500;
/// Steps without anything on its way, after which it is settled.
const QUIET: usize = 16;
/// Until every commit is acknowledged. Of 1 ms.
const ACKNOWLEDGED_WITHIN: usize = 3000;
/// Superblock files of a slot, once it is settled: this epoch's, the decision before, and those of openers that gave up.
const EPOCHS_MAX: usize = 8;
/// Until a close has ended. Of 1 ms.
const CLOSED_WITHIN: usize = 5000;

impl Sim {
    /// In peace: everything that was appended becomes durable within bounded steps.
    pub fn until_acknowledged(&self, which: usize) -> Checked {
        for _ in 0..ACKNOWLEDGED_WITHIN {
            self.disks_step(false);
            self.settle_jobs();
            self.pass(Duration::from_millis(1));
            self.tend(which)?;
            let slot = self.running[which].borrow();
            let Some(running) = slot.as_ref() else { return Err("the writer ended".into()) };
            if running.acknowledged == running.mtrs.len() {
                return Ok(());
            }
        }
        Err("L2: a commit is not acknowledged though nothing is wrong any more".into())
    }

    /// The faults are over: what is in flight lands, a writer opens, commits, closes, and everything is there.
    pub fn converge(&self) -> Checked {
        {
            let mut w = self.world.lock();
            w.weather = [Weather::Fair; SLOTS];
            w.faults.end();
            w.atlas.forget_struck();
            w.spare();
            w.note(format_args!("the faults are over"));
        }
        self.peace.set(true);
        let promised = {
            let w = self.world.lock();
            w.atlas.is_promised_to_write(w.away())
        };
        if !promised || self.past_promise.get() {
            return self.honest_end();
        }
        self.kill_one(1);
        self.tend(1)?;
        if self.running[0].borrow().is_some() && self.one_in(2) {
            self.kill_one(0);
            self.tend(0)?;
        }
        for round in 0..2 {
            // One that was overtaken does not know it yet; the claim alone ends it, also of one that died in its opening.
            let newest = self.world.lock().highest_claim();
            let ended = self.running[0]
                .borrow()
                .as_ref()
                .is_some_and(|r| r.shared.tickets.is_over() || r.closing.is_some() || r.shared.number < newest);
            if ended {
                self.kill_one(0);
                self.tend(0)?;
            }
            for _ in 0..OPENS {
                if self.running[0].borrow().is_none() {
                    self.open(0, false)?;
                }
            }
            if self.running[0].borrow().is_none() {
                return Err("L2: no open succeeds though nothing is wrong any more".into());
            }
            while self.running[0].borrow().as_ref().is_some_and(|r| !r.held.is_empty()) {
                self.publish(0);
            }
            self.settle()?;
            self.check_files()?;
            self.check_copies()?;
            self.until_filled()?;
            self.until_healed()?;
            self.until_given_back()?;
            if self.temper.rewinds {
                self.check_past(0)?;
            }
            for _ in 0..5 {
                self.reserve(0)?;
                self.publish(0);
                self.settle_jobs();
                self.tend(0)?;
            }
            self.peace(round)?;
        }
        Ok(())
    }

    /// Everything that is on its way lands, and every slot that is fit is live again.
    fn settle(&self) -> Checked {
        let mut quiet = 0;
        for _ in 0..SETTLED_WITHIN {
            self.disks_step(false);
            self.settle_jobs();
            self.pass(Duration::from_millis(50));
            self.housekeep(0);
            self.tend(0)?;
            let settled = self.missing().is_empty() && self.world.lock().is_quiet();
            quiet = if settled { quiet + 1 } else { 0 };
            if quiet == QUIET {
                return Ok(());
            }
        }
        let missing = self.missing();
        if missing.is_empty() { Ok(()) } else { Err(format!("L2: slots {missing:?} are away though nothing is wrong")) }
    }

    /// Slots that ought to be live, and what else is to be done. What is damaged may be of no use before it is repaired.
    fn missing(&self) -> Vec<Slot> {
        let slot = self.running[0].borrow();
        let Some(running) = slot.as_ref() else { return Slot::ALL.to_vec() };
        let (live, hurt) = (running.shared.engine().writer.live(), self.world.lock().atlas.hurt());
        let tails = hurt.len() == 0 && running.shared.merge.lock().is_some();
        let owes = hurt.len() == 0 && running.shared.engine().owes_space();
        let away = |s: &Slot| !live.contains(*s) && !hurt.contains(*s) || tails || owes;
        Slot::ALL.into_iter().filter(away).collect()
    }

    /// Past the promise nothing must succeed; but what is shown is true.
    fn honest_end(&self) -> Checked {
        for which in [1, 0] {
            self.kill_one(which);
            self.tend(which)?;
        }
        for _ in 0..3 {
            self.open(0, false)?;
            if self.running[0].borrow().is_some() {
                break;
            }
        }
        for _ in 0..200 {
            self.disks_step(false);
            self.settle_jobs();
            self.pass(Duration::from_millis(50));
            self.housekeep(0);
            self.tend(0)?;
            self.reserve(0)?;
            self.publish(0);
            self.read(0)?;
        }
        Ok(())
    }

    /// What was given back is punched on every slot, whichever process gave it back, and whole protection groups are gone.
    fn until_given_back(&self) -> Checked {
        for _ in 0..SETTLED_WITHIN {
            let owes = self.running[0].borrow().as_ref().is_some_and(|r| r.shared.engine().owes_space());
            if !owes {
                return self.check_given_back();
            }
            self.disks_step(false);
            self.settle_jobs();
            self.pass(Duration::from_millis(50));
            self.housekeep(0);
            self.tend(0)?;
        }
        let owing = self.running[0].borrow().as_ref().map(|r| r.shared.engine().owing());
        Err(format!("L2: space that was given back is not punched though nothing is wrong any more: {owing:?}"))
    }

    fn check_given_back(&self) -> Checked {
        let slot = self.running[0].borrow();
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let runs = running.shared.engine().freeing.let_go().runs().to_vec();
        let w = self.world.lock();
        let strangers = w.strangers(running.shared.geometry.volume);
        for slot in SlotSet::ALL.minus(strangers).iter() {
            for (name, file) in &w.files[slot.index()] {
                let FileName::Segment(pg) = name else { continue };
                let begin = Lsn(*pg * PG);
                for run in runs.iter().filter(|r| r.from < begin + PG && begin < r.to) {
                    let (from, to) = (run.from.max(begin), run.to.min(begin + PG));
                    if (from, to) == (begin, begin + PG) {
                        return Err(format!("slot {slot} keeps {name}, of which nothing is left"));
                    }
                    if let Some(at) = file.first_written(from - begin, to - begin) {
                        return Err(format!("slot {slot} has something at {}, which was given back", begin + at));
                    }
                }
            }
        }
        Ok(())
    }

    /// What earlier epochs left is gone: at most the decision before this one, and no tail file once all is merged.
    fn check_files(&self) -> Checked {
        let slot = self.running[0].borrow();
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let w = self.world.lock();
        if w.atlas.hurt().len() > 0 {
            return Ok(());
        }
        let numbered = running.shared.number;
        for slot in Slot::ALL {
            for name in w.files[slot.index()].keys() {
                let needed = match name {
                    // An image may be from before this writer merged it: the next one does.
                    FileName::Tail(_) => w.atlas.restored.contains(slot),
                    FileName::Claim(n) | FileName::Epoch(n) => *n <= numbered,
                    _ => true,
                };
                if !needed {
                    return Err(format!("slot {slot} keeps {name} in epoch {numbered}"));
                }
            }
            let epochs = w.files[slot.index()].keys().filter(|n| matches!(n, FileName::Epoch(_))).count();
            if epochs > EPOCHS_MAX {
                return Err(format!("slot {slot} keeps {epochs} superblock files"));
            }
        }
        Ok(())
    }

    /// What a live slot's cursor covers verifies on it: nothing that lands late may ever touch it.
    fn check_copies(&self) -> Checked {
        let slot = self.running[0].borrow();
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let engine = running.shared.engine();
        let (seed, epoch) = (running.shared.geometry.seed(), running.shared.number);
        for slot in engine.writer.live().iter() {
            let whole = engine.writer.gaps(slot).iter().all(|g| g.to <= engine.writer.begin());
            let end = engine.writer.cursor(slot).unwrap_or(Lsn::NONE);
            let mut kept: Vec<Entry> = engine.freeing.kept.iter().filter(|e| e.epoch == epoch).copied().collect();
            // A slot that was away in this epoch, or is damaged, lacks what it lacks.
            if !whole || self.world.lock().atlas.hurt().contains(slot) {
                continue;
            }
            let dir = SimDir { world: self.world.clone(), process: running.process, slot };
            while let Some(at) = kept.first().map(|e| e.begin).filter(|at| *at < end) {
                let (name, offset) = FileName::segment_of(at, PG);
                // Sectors behind it may be bad: nobody has written there yet.
                let room = (format::FRAME - at.0 % format::FRAME).min(end - at) as usize;
                let mut verified = Ok(None);
                let look = |bytes: &[u8]| verified = group::verify(bytes, at, seed, |_| ()).map(Some);
                dir.look(name, offset, room, look).map_err(|e| format!("slot {slot}: {e}"))?;
                match verified {
                    Ok(None) => return Err(format!("slot {slot} was not read at {at}")),
                    Ok(Some(sum)) if sum.header.epoch == epoch => {
                        kept[0].begin = at + sum.header.len;
                        kept.retain(|e| e.begin < e.end);
                    }
                    Ok(Some(sum)) => return Err(format!("slot {slot} has epoch {} at {at}", sum.header.epoch)),
                    Err(b) => return Err(format!("slot {slot} counts to {end}, and its group at {at}: {}", b.fault)),
                }
            }
        }
        Ok(())
    }

    pub fn settle_jobs(&self) {
        let process = self.running[0].borrow().as_ref().map(|r| r.process);
        if let Some(process) = process {
            for _ in 0..20 {
                if !do_job(&self.world, process) {
                    break;
                }
            }
        }
    }

    /// Everything is acknowledged, then the volume is closed clean.
    fn peace(&self, round: usize) -> Checked {
        for turn in 0..ACKNOWLEDGED_WITHIN {
            self.disks_step(false);
            self.settle_jobs();
            self.pass(Duration::from_millis(1));
            self.tend(0)?;
            let done = self.running[0].borrow().as_ref().is_none_or(|r| r.acknowledged == r.mtrs.len());
            if done {
                break;
            }
            if turn + 1 == ACKNOWLEDGED_WITHIN {
                return Err("L2: a commit is not acknowledged though nothing is wrong any more".into());
            }
        }
        let before = self.world.lock().counts.clean_closes;
        self.begin_close();
        for _ in 0..CLOSED_WITHIN {
            self.disks_step(false);
            self.settle_jobs();
            self.pass(Duration::from_millis(1));
            self.tend(0)?;
            if self.running[0].borrow().is_none() {
                break;
            }
        }
        if self.world.lock().counts.clean_closes == before {
            return Err(format!("L2: no clean close though nothing is wrong any more (round {round})"));
        }
        Ok(())
    }
}
