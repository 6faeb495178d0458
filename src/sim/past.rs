//! The past: snapshots, states of the window, and backtracks. The model knows every state; whatever is kept must be that.

use crate::history::error::HistoryError;
use crate::history::past::Window;
use crate::lsn::{Lsn, PageId};
use crate::sim::life::{Checked, Running, Sim};
use crate::sim::model::{Effect, Model, ModelMtr, State};
use crate::volume::checkpoint::Checkpoint;
use crate::volume::error::ReadError;
use crate::volume::history::{Point, found};
use crate::volume::rewind::{Ask, Rewind};
use crate::volume::view::View;
use std::sync::Arc;
use std::time::Duration;

/// A rewind under way, the state that it will show, and when it is given up.
pub struct Going {
    rewind: Rewind,
    state: Arc<State>,
    until: Duration,
    /// Behind the manifest of the one before.
    before: Option<Lsn>,
    given_up: bool,
}

/// A snapshot that somebody asked for.
#[derive(Clone, Debug)]
pub struct Named {
    pub name: String,
    /// It was there, and its address is this.
    pub there: Option<Lsn>,
    /// Somebody asked for it to be forgotten.
    pub forgets: bool,
    /// ... and it is.
    pub forgotten: bool,
}

/// Snapshots of a life.
const NAMED_MAX: usize = 6;
const GIVE_UP: Duration = Duration::from_secs(20);
/// Steps in which a rewind or a clone may end undisturbed.
const SEEN_THROUGH: usize = 200;

impl Sim {
    /// Something that concerns the past.
    pub fn past_step(&self, which: usize) -> Checked {
        match self.below(10) {
            0 => self.set_window(which),
            1 => self.take_snapshot(which),
            2 => self.forget_snapshot(which),
            3 | 4 => self.begin_rewind(which)?,
            5 => self.begin_clone(which)?,
            _ => self.look_back(which)?,
        }
        // A writer seldom lives long enough for one: half of them are left alone by all but the disks.
        if self.one_in(2) { self.see_through(which) } else { Ok(()) }
    }

    /// What has begun comes to its end, if the disks let it.
    fn see_through(&self, which: usize) -> Checked {
        for _ in 0..SEEN_THROUGH {
            let under_way = |r: &Running| r.going.is_some() || r.cloning.is_some();
            if !self.running[which].borrow().as_ref().is_some_and(under_way) {
                break;
            }
            match self.below(8) {
                0 => self.reserve(which)?,
                1 => self.publish(which),
                2 => self.pass(Duration::from_millis(5)),
                3..5 => self.housekeep(which),
                _ => self.job_step(),
            }
            self.disks_step(true);
            self.tend(which)?;
        }
        Ok(())
    }

    pub fn begin_checkpoint_with(&self, running: &Running, ask: Ask) -> bool {
        let shared = &running.shared;
        let mut under_way = shared.checkpoint.lock();
        if under_way.is_some() || shared.reads.pages.map().frozen.is_some() || running.closing.is_some() {
            return false;
        }
        match Checkpoint::begin_with(shared, ask) {
            Ok(checkpoint) => *under_way = checkpoint,
            Err(_) => return false,
        }
        under_way.is_some()
    }

    fn set_window(&self, which: usize) {
        let slot = self.running[which].borrow();
        let Some(running) = slot.as_ref() else { return };
        let time_us = [0, 2_000_000, u64::MAX, u64::MAX][self.below(4)];
        let bytes = if self.one_in(3) { 4 << 20 } else { u64::MAX };
        self.begin_checkpoint_with(running, Ask::Window(Window { time_us, bytes }));
    }

    fn take_snapshot(&self, which: usize) {
        let slot = self.running[which].borrow();
        let Some(running) = slot.as_ref() else { return };
        let mut model = self.model.borrow_mut();
        if model.named.iter().filter(|n| !n.forgets).count() >= NAMED_MAX {
            return;
        }
        let name = format!("s{}", model.named.len());
        if self.begin_checkpoint_with(running, Ask::Snapshot(name.clone())) {
            model.named.push(Named { name, there: None, forgets: false, forgotten: false });
        }
    }

    fn forget_snapshot(&self, which: usize) {
        let slot = self.running[which].borrow();
        let Some(running) = slot.as_ref() else { return };
        let names: Vec<String> =
            running.shared.past.lock().pins.iter().filter(|p| !p.is_undo()).map(|p| p.name.clone()).collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.below(names.len())].clone();
        if self.begin_checkpoint_with(running, Ask::Forget(name.clone())) {
            let mut model = self.model.borrow_mut();
            model.named.iter_mut().filter(|n| n.name == name).for_each(|n| n.forgets = true);
        }
    }

    /// What a writer knows of snapshots. Those that were there stay, until somebody forgets them: the manifest that says so is
    /// acknowledged, or was found by an open.
    pub fn check_snapshots(&self, running: &Running) -> Checked {
        let past = running.shared.past.lock().clone();
        let excused = self.past_promise.get() || self.world.lock().is_overtaken(running.process);
        for named in &mut self.model.borrow_mut().named {
            let pin = past.snapshot(&named.name);
            match (pin, named.there) {
                (Some(pin), None) => named.there = Some(pin.lsn),
                (Some(pin), Some(lsn)) if pin.lsn != lsn && !excused => {
                    return Err(format!("snapshot {} was at {lsn}, and is at {}", named.name, pin.lsn));
                }
                (Some(_), Some(_)) if named.forgotten && !excused => {
                    return Err(format!("snapshot {} was forgotten, and is back", named.name));
                }
                (None, Some(lsn)) if !named.forgets && !excused => {
                    return Err(format!("S1: snapshot {} at {lsn} is gone", named.name));
                }
                (None, Some(_)) if !excused => named.forgotten = true,
                _ => (),
            }
        }
        Ok(())
    }

    /// What the volume was at the end of an MTR, as a writer must show it.
    fn state_of(&self, running: &Running, model: &Model, at: Lsn) -> State {
        if at >= running.shared.front_begin() {
            return running.state_at(model, at);
        }
        let own = running.shared.number;
        let mut below: Vec<&ModelMtr> =
            model.mtrs.iter().filter(|m| m.seen == Some(true) && m.epoch < own && m.end <= at).collect();
        below.sort_by_key(|m| m.end);
        let mut state = State::new();
        below.iter().flat_map(|m| &m.effects).for_each(|e| e.apply(&mut state));
        state
    }

    /// A state that ought to be known: the end of some MTR that is durable, or a snapshot, or what was before a rewind.
    fn some_point(&self, running: &Running) -> Option<(Point, Lsn)> {
        let past = running.shared.past.lock().clone();
        if !past.pins.is_empty() && self.one_in(3) {
            let pin = past.pins[self.below(past.pins.len())].clone();
            let point = if pin.is_undo() { Point::Lsn(pin.lsn) } else { Point::Snapshot(pin.name) };
            return Some((point, pin.lsn));
        }
        let own = running.shared.number;
        let oldest = past.bases.first().map_or(Lsn::NONE, |b| b.redo);
        let vdl = running.shared.rewinding.cap(running.shared.tickets.vdl());
        let model = self.model.borrow();
        let known = |m: &&ModelMtr| m.epoch < own && m.seen == Some(true) || m.epoch == own && m.end <= vdl;
        let ends: Vec<Lsn> = model.mtrs.iter().filter(known).map(|m| m.end).filter(|end| *end >= oldest).collect();
        let end = self.world.lock().random.pick(&ends)?;
        Some((Point::Lsn(end), end))
    }

    /// A view of a state of the past, checked.
    fn past_view(&self, running: &Running, point: &Point, at: Lsn) -> Result<Option<(View, State)>, String> {
        let shared = &running.shared;
        let view = shared.view_of(|finder| found(finder, point));
        let dead = !self.world.lock().is_alive(running.process);
        let overtaken = self.world.lock().is_overtaken(running.process);
        let view = match view {
            _ if dead => return Ok(None),
            Ok((view, _)) => view,
            Err(HistoryError::Read(ReadError::ReadPointGone(_))) if overtaken => return Ok(None),
            Err(HistoryError::Read(ReadError::Lost { .. })) if !self.promised() => return Ok(None),
            Err(HistoryError::Read(ReadError::Closed)) => return Ok(None),
            Err(e) => return Err(format!("the state at {at} is not to be had: {e}")),
        };
        let state = self.state_of(running, &self.model.borrow(), at);
        for page in 0..30 {
            let page = PageId(page);
            self.check_page_of(
                running.process,
                page,
                view.read(page),
                state.get(&page),
                &format!("a state's ({at}) read"),
            )?;
        }
        self.world.lock().counts.states += 1;
        Ok(Some((view, state)))
    }

    fn look_back(&self, which: usize) -> Checked {
        let slot = self.running[which].borrow();
        let Some(running) = slot.as_ref().filter(|r| r.closing.is_none()) else { return Ok(()) };
        self.forget(running);
        let Some((point, at)) = self.some_point(running) else { return Ok(()) };
        self.past_view(running, &point, at)?;
        Ok(())
    }

    /// Every snapshot and every state before a rewind, and some states of the window.
    pub fn check_past(&self, which: usize) -> Checked {
        let slot = self.running[which].borrow();
        let Some(running) = slot.as_ref().filter(|r| r.closing.is_none() && r.going.is_none()) else { return Ok(()) };
        self.check_snapshots(running)?;
        let past = running.shared.past.lock().clone();
        for pin in &past.pins {
            let point = if pin.is_undo() { Point::Lsn(pin.lsn) } else { Point::Snapshot(pin.name.clone()) };
            self.past_view(running, &point, pin.lsn)?;
        }
        for _ in 0..4 {
            let Some((point, at)) = self.some_point(running) else { break };
            self.past_view(running, &point, at)?;
        }
        Ok(())
    }

    /// A state of the past, or what a view shows.
    pub fn some_state(&self, running: &Running) -> Result<Option<(View, State)>, String> {
        if self.one_in(4) && !running.views.is_empty() {
            let at = self.below(running.views.len());
            return Ok(Some(running.views[at].clone()));
        }
        let Some((point, at)) = self.some_point(running) else { return Ok(None) };
        self.past_view(running, &point, at)
    }

    /// Goes back.
    fn begin_rewind(&self, which: usize) -> Checked {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| r.closing.is_none() && r.going.is_none()) else { return Ok(()) };
        let Some((view, state)) = self.some_state(running)? else { return Ok(()) };
        self.rewind(running, view, state);
        Ok(())
    }

    pub fn rewind(&self, running: &mut Running, view: View, state: State) {
        let (lsn, shared, before) = (view.lsn(), &running.shared, running.shared.rewinding.end());
        let Ok(rewind) = Rewind::begin(shared, view, lsn) else { return };
        self.world.lock().note(format_args!("p{} rewinds to {lsn}", running.process));
        let until = shared.clock.now() + GIVE_UP;
        running.going = Some(Going { rewind, state: Arc::new(state), until, before, given_up: false });
    }

    /// Its manifest may be in the log by now: whoever opens the volume next may find it.
    pub fn note_rewind(&self, running: &mut Running) {
        let end = running.shared.rewinding.end();
        let Some(going) = running.going.as_mut().filter(|g| end > g.before) else { return };
        going.before = end;
        let Some(end) = end else { return };
        let mut model = self.model.borrow_mut();
        let index = model.mtrs.len();
        self.world.lock().note(format_args!("p{} has MTR {index}, a rewind, ends at {end}", running.process));
        let effects = vec![Effect::Rewind(going.state.clone())];
        let epoch = running.shared.number;
        model.mtrs.push(ModelMtr { epoch, end, effects, acknowledged: false, seen: None });
        running.mtrs.push(index);
        running.newest = (*going.state).clone();
    }

    /// Goes on with a rewind, as far as it comes.
    pub fn go_on_rewinding(&self, running: &mut Running) -> Checked {
        self.note_rewind(running);
        let Some(mut going) = running.going.take() else { return Ok(()) };
        let shared = running.shared.clone();
        if going.given_up {
            // It is in the log, and happens once that is durable.
            if shared.rewinding.is_on() && !shared.tickets.is_over() {
                running.going = Some(going);
            }
            return Ok(());
        }
        let late = shared.clock.now() >= going.until;
        let step = going.rewind.step(&shared);
        let more = match step {
            Ok(Some(undo)) => {
                let kept = shared.past.lock().pins.iter().any(|p| p.is_undo() && p.lsn == undo);
                if !kept {
                    return Err(format!("a rewind ended, and the state at {undo} is not kept"));
                }
                self.world.lock().counts.rewinds += 1;
                false
            }
            Ok(None) if late => !going.rewind.give_up(&shared),
            Ok(None) => true,
            Err(_) => !going.rewind.give_up(&shared),
        };
        going.given_up = more && (late || step.is_err());
        running.going = Some(going);
        self.note_rewind(running);
        if !more {
            running.going = None;
        }
        Ok(())
    }
}
