//! Clones: one slot's segments are shared after the other, while the world goes on. What comes of it is a world of its own, which
//! knows what its origin was, and lives for a while under faults of its own.

use crate::core::WRITE_QUORUM;
use crate::core::history::History;
use crate::disk::{SlotDir, job};
use crate::history::past::Window;
use crate::lsn::{Lsn, PageId, SLOTS, Slot, SlotSet, format};
use crate::segment::name::FileName;
use crate::sim::dir::SimDir;
use crate::sim::laws::Laws;
use crate::sim::life::{Checked, PG, Running, Sim};
use crate::sim::model::{Model, ModelMtr, State};
use crate::sim::world::{Disks, Files, Weather};
use crate::sim::{Life, Mode};
use crate::volume::rewind::Ask;
use crate::volume::share::Beginning;
use crate::volume::tickets::Status;
use crate::volume::view::View;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Steps of a clone's life.
const STEPS: u64 = 60;
/// Until it shows the state that it is to begin with. Of 1 ms.
const BEGUN_WITHIN: usize = 5000;

/// A clone that is being made.
pub struct Cloning {
    beginning: Beginning,
    view: View,
    state: State,
    /// What the origin's log holds then, and what was sent of it.
    mtrs: Vec<ModelMtr>,
    opened: Vec<History>,
    laws: Laws,
    /// The clone's slots so far, and those that are to come.
    files: [Files; SLOTS],
    left: Vec<Slot>,
    /// A later word of the origin's: once it is acknowledged nobody else was the writer.
    still: Option<Lsn>,
}

impl Sim {
    /// Begins to clone a state of the past, or what a view shows.
    pub fn begin_clone(&self, which: usize) -> Checked {
        if self.is_clone || self.past_promise.get() || self.world.lock().atlas.is_beyond() {
            return Ok(());
        }
        let mut slot = self.running[which].borrow_mut();
        let idle = |r: &&mut Running| r.closing.is_none() && r.going.is_none() && r.cloning.is_none();
        let Some(running) = slot.as_mut().filter(idle) else { return Ok(()) };
        let Some((view, state)) = self.some_state(running)? else { return Ok(()) };
        let (shared, id) = (&running.shared, self.world.lock().random.next());
        let beginning = shared.beginning_now(uuid::Uuid::from_u64_pair(id, 1));
        let Some(first) = beginning.superblocks.first() else { return Ok(()) };
        let is_in = view.layers().is_some_and(|map| shared.is_in(&map, view.lsn()));
        if beginning.superblocks.len() < WRITE_QUORUM || !is_in {
            return Ok(());
        }
        let (own, end) = (shared.number, beginning.end);
        let there = |m: &&ModelMtr| m.epoch < own && m.seen == Some(true) || m.epoch == own && m.end <= end;
        let (mtrs, opened) = {
            let model = self.model.borrow();
            (model.mtrs.iter().filter(there).cloned().collect(), model.opened.clone())
        };
        let laws = self.world.lock().laws.of_clone(first.geometry);
        self.world.lock().note(format_args!("p{} is cloned at {end}, as it was at {}", running.process, view.lsn()));
        let left = beginning.superblocks.iter().map(|s| s.slot).collect();
        let files = Default::default();
        let cloning = Cloning { beginning, view, state, mtrs, opened, laws, files, left, still: None };
        running.cloning = Some(Box::new(cloning));
        Ok(())
    }

    /// Goes on with a clone.
    pub fn go_on_cloning(&self, running: &mut Running) -> Checked {
        if running.cloning.is_none() || !self.one_in(3) {
            return Ok(());
        }
        let Some(mut cloning) = running.cloning.take() else { return Ok(()) };
        let shared = running.shared.clone();
        if running.closing.is_some() || shared.tickets.is_over() {
            return Ok(());
        }
        if let Some(slot) = cloning.left.pop() {
            if self.share(slot, shared.number, &mut cloning) {
                running.cloning = Some(cloning);
            }
            return Ok(());
        }
        let Some(still) = cloning.still else {
            cloning.still = shared.append_filler().ok();
            running.cloning = cloning.still.map(|_| cloning);
            return Ok(());
        };
        match shared.tickets.status(still) {
            Status::Waiting => running.cloning = Some(cloning),
            Status::Durable if cloning.beginning.is_held() && cloning.view.layers().is_some() => {
                self.lives(*cloning)?
            }
            _ => (),
        }
        Ok(())
    }

    /// What `segment::share` does with a slot. False: it cannot.
    fn share(&self, slot: Slot, epoch: u64, cloning: &mut Cloning) -> bool {
        let w = self.world.lock();
        let files = &w.files[slot.index()];
        if matches!(w.weather[slot.index()], Weather::Gone | Weather::Failing)
            || !files.contains_key(&FileName::Epoch(epoch))
        {
            return false;
        }
        let end = cloning.beginning.end.ceil(format::FRAME);
        for (name, file) in files {
            let FileName::Segment(pg) = *name else { continue };
            let Some(begin) = FileName::begin_of(pg, PG).filter(|begin| *begin < end) else { continue };
            let mut copy = file.clone();
            copy.cut(end - begin);
            copy.flush();
            cloning.files[slot.index()].insert(*name, copy);
        }
        true
    }

    /// The clone is a world of its own from here on.
    fn lives(&self, cloning: Cloning) -> Checked {
        let (seed, now, wall_us, hurt) = {
            let mut w = self.world.lock();
            (w.random.next(), w.now, w.wall_us, w.atlas.hurt())
        };
        let mut clone = Sim::new(&Life::new(seed).mode(Mode::Atlas));
        clone.is_clone = true;
        // What the origin gave back is still to be punched.
        clone.temper.reclaims |= self.temper.reclaims;
        clone.make_foreign()?;
        let there: SlotSet = cloning.beginning.superblocks.iter().map(|s| s.slot).collect();
        let blank = SlotSet::ALL.minus(there);
        let files = named(seed, &cloning).map_err(|e| format!("a clone is named: {e}"))?;
        {
            let mut w = clone.world.lock();
            (w.now, w.wall_us, w.laws, w.files) = (now, wall_us, cloning.laws, files);
            // Of the one that made another volume.
            w.laws.begins(true);
            // What was damaged of the origin is damaged of the clone.
            hurt.iter().for_each(|slot| w.atlas.hurts(slot));
            for slot in blank.iter() {
                w.blank.insert(slot);
                w.laws.silence(slot);
                w.atlas.replaces(slot, false);
            }
            let away = w.away();
            if !w.atlas.is_promised_to_write(away) {
                return Ok(());
            }
        }
        let mut model = Model::default();
        (model.mtrs, model.opened) = (cloning.mtrs, cloning.opened);
        *clone.model.borrow_mut() = model;
        let begun = clone.begin_with(&cloning.view, cloning.state);
        if !begun.map_err(|what| format!("a clone (seed {seed}): {what}"))? {
            return Ok(());
        }
        clone.world.lock().faults.begin();
        let life = (0..STEPS).try_for_each(|_| clone.step()).and_then(|()| clone.converge());
        life.map_err(|what| format!("a clone that lived (seed {seed}): {what}"))?;
        let hash = clone.world.lock().hash;
        let mut w = self.world.lock();
        w.counts.clones += 1;
        w.note(format_args!("a clone lived: {hash:x}"));
        Ok(())
    }

    /// The clone is opened, shows the state that it was cloned from, and forgets all others. False: it has given back by then what
    /// only that state needs, and is copied instead.
    fn begin_with(&self, view: &View, state: State) -> Result<bool, String> {
        let map = view.layers().ok_or("the view is gone")?;
        self.open(0, false)?;
        {
            let mut slot = self.running[0].borrow_mut();
            let running = slot.as_mut().ok_or("it does not open")?;
            let own = running.shared.as_own(&map, view.lsn());
            self.rewind(running, own, state.clone());
        }
        self.begun("it is not rewound", |running| running.going.is_none())?;
        let given_back = |r: &Running| {
            let r = &r.shared;
            r.rewinding.end().is_none() && r.reclaim.lock().given_back_bytes > 0
        };
        if self.running[0].borrow().as_ref().is_some_and(given_back) {
            return Ok(false);
        }
        let alone = |r: &Running| self.begin_checkpoint_with(r, Ask::Alone(Window::default()));
        self.begun("no checkpoint can begin", alone)?;
        let over = |r: &Running| r.shared.checkpoint.lock().is_none();
        self.begun("its checkpoint does not end", over)?;
        let slot = self.running[0].borrow();
        let running = slot.as_ref().ok_or("it ended")?;
        if !running.shared.past.lock().pins.is_empty() {
            return Err("it keeps its origin's states".into());
        }
        for page in (0..30).map(PageId) {
            self.check_page(page, running.shared.read_newest(page), state.get(&page), "a clone's read")?;
        }
        Ok(true)
    }

    fn begun(&self, what: &str, done: impl Fn(&Running) -> bool) -> Checked {
        for _ in 0..BEGUN_WITHIN {
            if self.running[0].borrow().as_ref().is_some_and(&done) {
                return Ok(());
            }
            self.disks_step(false);
            self.settle_jobs();
            self.pass(Duration::from_millis(1));
            self.housekeep(0);
            self.tend(0)?;
        }
        Err(what.into())
    }
}

/// The clone's slots with claims and superblocks, as `volume::share` writes them.
fn named(seed: u64, cloning: &Cloning) -> std::io::Result<Vec<Files>> {
    let world = Arc::new(Mutex::new(Disks::new(seed, false, Mode::Atlas, &[])));
    world.lock().files = cloning.files.to_vec();
    let process = world.lock().start_process();
    for superblock in &cloning.beginning.superblocks {
        let dir = SimDir { world: world.clone(), process, slot: superblock.slot };
        dir.create_new(FileName::Claim(superblock.number))?;
        job::write_super(&dir, superblock)?;
    }
    let files = std::mem::take(&mut world.lock().files);
    Ok(files)
}
