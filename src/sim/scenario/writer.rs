//! A writer on the stage: its writes, jobs and looks go on only when the script says so.

use crate::disk::Done;
use crate::disk::job;
use crate::lsn::{Lsn, PageId, SlotSet};
use crate::sim::model::{Effect, ModelMtr, State};
use crate::sim::scenario::{Act, Call, Checked, Flight, Made, PAGE, Stage, ensure, slot, slots};
use crate::volume::append::{NotAppended, Prepared};
use crate::volume::checkpoint::Checkpoint;
use crate::volume::close::Closing;
use crate::volume::history::{Point, found};
use crate::volume::mtr::{Change, Content, What};
use crate::volume::rewind::{Ask, Rewind};
use crate::volume::shared::Shared;
use crate::volume::tickets::Ended;
use crate::volume::view::View;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Jobs that its workers have to do at a time, and turns of healing. Of 100 ms.
const JOBS_MAX: usize = 5000;
const HEALED_WITHIN: usize = 200;

/// A process that has the volume open for writing. It goes on for as long as it is not killed: a zombie is one.
#[derive(Clone)]
pub struct Writer {
    pub(super) stage: Stage,
    pub process: usize,
    pub number: u64,
    pub shared: Arc<Shared>,
    /// Its MTRs, by their place in the model.
    pub(super) mine: Arc<Mutex<Vec<usize>>>,
}

impl Writer {
    /// Appends an MTR that puts these pages, each filled with one byte, as a group of its own, and sends it off.
    pub fn append(&self, pages: &[(u64, u8)]) -> Checked<Made> {
        let made = self.append_open(pages)?;
        self.shared.front.seal();
        self.shared.pump();
        Ok(made)
    }

    /// ... into the open group, and sends nothing off.
    pub fn append_open(&self, pages: &[(u64, u8)]) -> Checked<Made> {
        let (prepared, made) = self.reserve(pages)?;
        self.shared.finish(prepared);
        Ok(made)
    }

    /// Appends an MTR that puts a page of zeros, which takes less than a block, as a group of its own, and sends it off.
    pub fn append_zeros(&self, page: u64) -> Checked<Made> {
        let mut content = Content::default();
        content.changes.push(Change { page: PageId(page), what: What::Zero, fresh: true });
        let (prepared, made) = self.reserve_content(&content, vec![Effect::Put(PageId(page), vec![0; PAGE].into())])?;
        self.shared.finish(prepared);
        self.shared.front.seal();
        self.shared.pump();
        Ok(made)
    }

    /// Gets addresses for an MTR, and does not fill it.
    pub fn reserve(&self, pages: &[(u64, u8)]) -> Checked<(Prepared, Made)> {
        let mut content = Content::default();
        let image = |byte: u8| vec![byte; PAGE];
        for (page, byte) in pages {
            content.changes.push(Change { page: PageId(*page), what: What::Put(image(*byte).into()), fresh: true });
        }
        self.reserve_content(&content, pages.iter().map(|(p, b)| Effect::Put(PageId(*p), image(*b).into())).collect())
    }

    fn reserve_content(&self, content: &Content, effects: Vec<Effect>) -> Checked<(Prepared, Made)> {
        let content = &Content { timeline: self.shared.rewinding.timeline(), ..content.clone() };
        for _ in 0..50 {
            let begin = self.shared.front.tail();
            match self.shared.prepare(content) {
                Ok(prepared) => {
                    let (epoch, end) = (self.number, prepared.end());
                    let mut model = self.stage.0.model.lock();
                    let index = model.mtrs.len();
                    model.mtrs.push(ModelMtr { epoch, end, effects, acknowledged: false, seen: None });
                    self.mine.lock().push(index);
                    return Ok((prepared, Made { index, begin, end }));
                }
                Err(NotAppended::Space(end)) => self.room(end - begin)?,
                Err(e) => return Err(format!("stage: not appended: {e:?}")),
            }
        }
        Err("stage: no space".into())
    }

    /// Space for so much more, ahead of time: to wait for it sends off what is appended.
    pub fn room(&self, bytes: u64) -> Checked {
        let end = self.shared.front.tail() + bytes;
        let now = self.shared.clock.now();
        self.shared.engine().want_space(end, now);
        self.jobs()
    }

    pub fn acknowledged(&self, made: Made) -> bool {
        self.stage.0.model.lock().mtrs[made.index].acknowledged
    }

    /// Everything that is and will be in flight to these slots lands.
    pub fn land(&self, set: SlotSet) -> Checked {
        while set.iter().any(|slot| self.stage.land_one(self.process, slot)) {
            self.shared.pump();
        }
        self.tend()
    }

    pub fn land_on(&self, set: &str) -> Checked {
        self.land(slots(set))
    }

    /// What is in flight to these slots now lands, and nothing that is sent after it. The writer does not hear of it yet.
    pub fn land_unheard(&self, set: &str) {
        for slot in slots(set).iter() {
            self.stage.land_one(self.process, slot);
        }
    }

    /// The write in flight to each of these slots fails: nothing of it lands.
    pub fn fail(&self, set: &str) -> Checked {
        self.fail_with(set, 5)
    }

    /// ... because the disk is full.
    pub fn fill_up(&self, set: &str) -> Checked {
        self.fail_with(set, 28)
    }

    fn fail_with(&self, set: &str, errno: i32) -> Checked {
        for slot in slots(set).iter() {
            let Some(f) = self.stage.take_flight(self.process, slot) else {
                return Err(format!("stage: nothing is in flight to slot {slot}"));
            };
            self.stage.tell(&f, Err(io::Error::from_raw_os_error(errno)));
        }
        self.shared.pump();
        self.tend()
    }

    /// What is in flight to these slots hangs.
    pub fn hang(&self, set: &str) {
        let mine = |f: &&mut Flight| f.process == self.process && slots(set).contains(f.slot);
        self.stage.0.flights.lock().iter_mut().filter(mine).for_each(|f| f.hung = true);
    }

    /// ... and ends after all.
    pub fn unhang(&self, set: &str) {
        let mine = |f: &&mut Flight| f.process == self.process && slots(set).contains(f.slot);
        self.stage.0.flights.lock().iter_mut().filter(mine).for_each(|f| f.hung = false);
    }

    /// Offset and end of what is in flight to a slot.
    pub fn in_flight(&self, name: &str) -> Option<(u64, u64)> {
        let flights = self.stage.0.flights.lock();
        let f = flights.iter().find(|f| f.process == self.process && f.slot == slot(name))?;
        Some((f.offset, f.offset + f.bytes.get().len() as u64))
    }

    /// The slot's superblock cannot be written: it leaves, whatever is in flight to it.
    pub fn lose_slot(&self, name: &str) -> Checked {
        self.stage.0.disks.lock().failing = slots(name);
        self.shared.engine().begin_round(None, None);
        self.jobs()?;
        self.stage.0.disks.lock().failing = SlotSet::NONE;
        ensure(!self.is_live(name), "stage: the slot is still live")
    }

    /// What the slot's worker is to zero.
    pub fn zeroes(&self, name: &str) -> Option<(Lsn, Lsn)> {
        self.stage.hands(self.process, |h| {
            h.jobs.iter().filter(|(s, _)| *s == slot(name)).find_map(|(_, job)| match job {
                job::Job::Zero { from, to, .. } => Some((*from, *to)),
                _ => None,
            })
        })
    }

    /// The slots' workers do what they were given, until nothing is left.
    pub fn jobs(&self) -> Checked {
        self.shared.pump();
        for n in 0.. {
            ensure(n < JOBS_MAX, "L1: its workers come to no end")?;
            let next = self.stage.hands(self.process, |h| {
                let at = h.jobs.iter().position(|(slot, _)| !h.idle.contains(*slot))?;
                Some(h.jobs.remove(at))
            });
            let Some((slot, job)) = next else { break };
            let kind = job.kind();
            let output = job::run(&self.stage.dir(self.process, slot), job);
            self.stage.hands(self.process, |h| h.done.push(Done::Job { slot, kind, output }));
            self.shared.pump();
        }
        self.tend()
    }

    /// The workers of these slots do nothing from now on.
    pub fn idle(&self, set: &str) {
        self.stage.hands(self.process, |h| h.idle = slots(set));
    }

    /// A hook over the calls of its workers.
    pub fn hook(&self, hook: impl FnMut(Call) -> Act + Send + 'static) {
        self.stage.0.hooks.lock().insert(self.process, Box::new(hook));
    }

    /// Its looks read the claims of these slots alone.
    pub fn sees(&self, set: &str) {
        self.stage.hands(self.process, |h| h.sees = slots(set));
    }

    /// Its looks are answered by the slots' workers from now on.
    pub fn looks_by_workers(&self) {
        self.stage.hands(self.process, |h| h.unsure = true);
    }

    /// The slot's worker reads the claims that it was asked for, and says so later.
    pub fn reads_claims(&self, name: &str) -> Checked<Done> {
        let next = self.stage.hands(self.process, |h| {
            let asked =
                |(s, job): &(crate::lsn::Slot, job::Job)| *s == slot(name) && job.kind() == job::JobKind::Claims;
            h.jobs.iter().position(asked).map(|at| h.jobs.remove(at))
        });
        let (slot, job) = next.ok_or("stage: it was not asked for claims")?;
        let kind = job.kind();
        let output = job::run(&self.stage.dir(self.process, slot), job);
        Ok(Done::Job { slot, kind, output })
    }

    /// ... now.
    pub fn says(&self, done: Done) {
        self.stage.hands(self.process, |h| h.done.push(done));
        self.shared.pump();
    }

    /// Its looks are not answered any more.
    pub fn hold_looks(&self) {
        self.stage.hands(self.process, |h| h.holds_looks = true);
    }

    /// ... until now: they say what they saw when they began. How many that are.
    pub fn answer_looks(&self) -> usize {
        self.stage.hands(self.process, |h| {
            h.holds_looks = false;
            let held = h.held.len();
            h.done.append(&mut h.held);
            held
        })
    }

    /// Time passes, and the engine and its workers do what is due.
    pub fn tick(&self, ms: u64) -> Checked {
        self.stage.0.disks.lock().now += Duration::from_millis(ms);
        let now = self.shared.clock.now();
        self.shared.engine().tick(now);
        self.jobs()
    }

    /// ... the background, too: a merge, a filler.
    pub fn housekeep(&self, ms: u64) -> Checked {
        self.stage.0.disks.lock().now += Duration::from_millis(ms);
        self.shared.housekeep();
        self.jobs()
    }

    /// It heals from now on, or does not.
    pub fn heals(&self, heals: bool) {
        self.shared.engine().pause_healing(!heals);
    }

    /// Everything is to be compared.
    pub fn scrub(&self) {
        self.heals(true);
        let wall = self.shared.clock.wall_us();
        self.shared.engine().scrub_now(wall);
    }

    /// It heals until it has come to its end, and then rests. False: what is left has no good copy.
    pub fn heal(&self) -> Checked<bool> {
        self.heals(true);
        for _ in 0..HEALED_WITHIN {
            self.housekeep(100)?;
            self.land_on("ABCDEF")?;
            let healed = self.shared.engine().healed();
            if let Some(whole) = healed {
                self.heals(false);
                return Ok(whole);
            }
        }
        Err(format!("L1: healing comes to no end: {}", self.shared.engine().told()))
    }

    /// It knows of something that the slot may lack.
    pub fn doubts(&self, name: &str) -> bool {
        let engine = self.shared.engine();
        !engine.writer.gaps(slot(name)).is_empty() || !engine.repair_health().unchecked.is_empty()
    }

    /// Takes a checkpoint as far as it goes while writes land on these slots.
    pub fn checkpoint(&self, lands: &str) -> Checked {
        self.shared.begin_checkpoint();
        for _ in 0..20 {
            self.shared.drive_checkpoint();
            self.jobs()?;
            self.land_on(lands)?;
        }
        Ok(())
    }

    /// Closes clean while writes land on these slots.
    pub fn close(&self, lands: &str) -> Checked {
        let mut closing = Closing::begin(&self.shared, Duration::from_secs(1));
        for _ in 0..20 {
            if let Some(ended) = closing.step(&self.shared) {
                self.kill();
                return ended.map_err(|e| format!("stage: the close is not clean: {e}"));
            }
            self.jobs()?;
            self.land_on(lands)?;
        }
        Err("stage: the close comes to no end".into())
    }

    /// The writer takes in what came back. What it acknowledges is noted.
    pub fn tend(&self) -> Checked {
        if !self.stage.is_alive(self.process) {
            return Ok(());
        }
        self.shared.pump();
        let vdl = self.shared.tickets.vdl();
        let mut model = self.stage.0.model.lock();
        for index in self.mine.lock().iter() {
            if model.mtrs[*index].end <= vdl && !model.mtrs[*index].acknowledged {
                model.acknowledge(*index)?;
            }
        }
        Ok(())
    }

    /// What is durable is read from the slots from now on, whatever of it is in memory.
    pub fn forget_cached(&self) {
        self.shared.reads.pages.forget(self.shared.tickets.vdl());
    }

    /// Every page is what its newest acknowledged MTR has made of it.
    pub fn check_newest(&self) -> Checked {
        let view = self.view();
        self.check_view(&view)
    }

    /// Appends an MTR that changes one byte of a page.
    pub fn patch(&self, page: u64, at: u32, byte: u8) -> Checked<Made> {
        let mut content = Content::default();
        let what = What::Patch { offset: at, bytes: vec![byte].into() };
        content.changes.push(Change { page: PageId(page), what, fresh: false });
        let (prepared, made) =
            self.reserve_content(&content, vec![Effect::Patch(PageId(page), at as usize, vec![byte])])?;
        self.shared.finish(prepared);
        self.shared.front.seal();
        self.shared.pump();
        Ok(made)
    }

    /// The process ends. What it has in flight stays there.
    pub fn kill(&self) {
        self.stage.kill(self.process);
        self.shared.tickets.end(Ended::Closed);
    }

    pub fn is_live(&self, name: &str) -> bool {
        self.shared.engine().writer.live().contains(slot(name))
    }

    fn asks(&self, ask: Ask) -> Checked {
        let begun = Checkpoint::begin_with(&self.shared, ask).map_err(|e| format!("stage: {e}"))?;
        ensure(begun.is_some(), "stage: a checkpoint is under way")?;
        *self.shared.checkpoint.lock() = begun;
        self.checkpoint("ABCDEF")?;
        ensure(self.shared.checkpoint.lock().is_none(), "L1: a checkpoint comes to no end")
    }

    /// Gives the newest state a name.
    pub fn snapshot(&self, name: &str) -> Checked {
        self.asks(Ask::Snapshot(name.into()))
    }

    /// ... and no superblock names it.
    pub fn snapshot_unnamed(&self, name: &str) -> Checked {
        self.idle("ABCDEF");
        let asked = self.asks(Ask::Snapshot(name.into()));
        ensure(asked.is_err(), "stage: a checkpoint was named")
    }

    pub fn forget(&self, name: &str) -> Checked {
        self.asks(Ask::Forget(name.into()))
    }

    /// What its MTRs had made below an address.
    fn state_at(&self, at: Lsn) -> State {
        let (model, mine) = (self.stage.0.model.lock(), self.mine.lock());
        let mut state = State::new();
        let below = mine.iter().map(|i| &model.mtrs[*i]).filter(|m| m.end <= at);
        below.flat_map(|m| &m.effects).for_each(|e| e.apply(&mut state));
        state
    }

    /// A state of the past can be had, and is what it was: for who has made all of it.
    pub fn check_state(&self, point: &Point) -> Checked {
        let found = self.shared.view_of(|finder| found(finder, point));
        let (view, moment) = found.map_err(|e| format!("S1: {e}"))?;
        let all = self.stage.0.model.lock().mtrs.len();
        if self.mine.lock().len() < all {
            // Another writer's: it is enough that it can be read.
            return view
                .pages()
                .and_then(|all| all.into_iter().try_for_each(|p| view.read(p).map(drop)))
                .map_err(|e| format!("S1: {e}"));
        }
        self.check_view(&(view, self.state_at(moment.lsn)))
    }

    /// Goes back to a state. What was there before lies at the address.
    pub fn rewind(&self, to: &Point) -> Checked<Lsn> {
        self.rewind_while(to, || ())
    }

    /// ... and no superblock names it.
    pub fn rewind_unnamed(&self, to: &Point) -> Checked<Lsn> {
        self.rewind_while(to, || {
            if self.shared.checkpoint.lock().as_ref().is_some_and(Checkpoint::rewinds) {
                self.idle("ABCDEF");
            }
        })
    }

    /// ... or is asked to: all have another one in hand.
    pub fn rewind_unasked(&self, to: &Point) -> Checked<Lsn> {
        let mut busy = false;
        self.rewind_while(to, || {
            let rewinds = self.shared.checkpoint.lock().as_ref().is_some_and(Checkpoint::rewinds);
            if rewinds && !std::mem::replace(&mut busy, true) {
                self.idle("ABCDEF");
                self.shared.engine().begin_round(None, None);
            }
        })
    }

    fn rewind_while(&self, to: &Point, mut each: impl FnMut()) -> Checked<Lsn> {
        let found = self.shared.view_of(|finder| found(finder, to));
        let (view, moment) = found.map_err(|e| format!("S1: {e}"))?;
        let state = Arc::new(self.state_at(moment.lsn));
        let mut rewind = Rewind::begin(&self.shared, view, moment.lsn).map_err(|e| format!("stage: {e}"))?;
        for _ in 0..100 {
            if let Some(undo) = rewind.step(&self.shared).map_err(|e| format!("stage: {e}"))? {
                return Ok(undo);
            }
            each();
            let before = self.shared.rewinding.end();
            self.shared.drive_checkpoint();
            let end = self.shared.rewinding.end();
            if let Some(end) = end.filter(|_| end > before) {
                let mut model = self.stage.0.model.lock();
                self.mine.lock().push(model.mtrs.len());
                let effects = vec![Effect::Rewind(state.clone())];
                model.mtrs.push(ModelMtr { epoch: self.number, end, effects, acknowledged: false, seen: None });
            }
            self.jobs()?;
            self.land_on("ABCDEF")?;
        }
        Err("L1: a rewind comes to no end".into())
    }

    /// A view, and what it must show for as long as it is open.
    pub fn view(&self) -> (View, State) {
        let view = self.shared.view();
        let model = self.stage.0.model.lock();
        let mut state = State::new();
        let mine = self.mine.lock();
        let below = mine.iter().map(|i| &model.mtrs[*i]).filter(|m| m.end <= view.lsn());
        below.flat_map(|m| &m.effects).for_each(|e| e.apply(&mut state));
        (view, state)
    }

    pub fn check_view(&self, (view, state): &(View, State)) -> Checked {
        self.stage.check_pages(state, "a view", |page| view.read(page))
    }
}
