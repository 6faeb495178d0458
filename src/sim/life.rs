//! One lifetime: what exists in it, and what may happen next, a step at a time.

use crate::log::ring;
use crate::lsn::{Lsn, PageId, format};
use crate::segment::recover::Opened;
use crate::sim::clones::Cloning;
use crate::sim::dir::do_job;
use crate::sim::faults::Fault;
use crate::sim::model::{Image, Model, State};
use crate::sim::openers::Beside;
use crate::sim::past::Going;
use crate::sim::temper::{Step, Temper};
use crate::sim::world::{Counts, Disks, Files, World};
use crate::sim::{Failure, Life, Report};
use crate::volume::append::Prepared;
use crate::volume::close::Closing;
use crate::volume::error::OpenError;
use crate::volume::mtr::Mtr;
use crate::volume::options::Options;
use crate::volume::shared::{Clock, Shared};
use crate::volume::tickets::Ended;
use crate::volume::view::View;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub const PAGE: usize = 4096;
pub const PG: u64 = 64 << 20;
/// From here on a writer may write into the second extent.
pub const BRINK: Lsn = Lsn(format::EXTENT - format::LAL);
/// Borders of protection groups, all of them: 64 TiB, where a segment's number gets a ninth digit, where a sum or a signed
/// number would no longer hold an address, and near the last address that users get.
pub const FAR: [u64; 6] = [PG, 1 << 46, (1 << 32) * PG, 1 << 62, 1 << 63, format::LOG_END - 4096 * PG];

/// A property that broke, in words.
pub type Checked = Result<(), String>;

pub fn live(life: &Life) -> Result<Report, Box<Failure>> {
    ring::kept::begin();
    let sim = Sim::new(life);
    let result = sim.live(life.steps);
    let mut world = sim.world.lock();
    let trace = world.trace.take().unwrap_or_default();
    match result {
        Ok(steps) => Ok(Report {
            seed: life.seed,
            hash: world.hash,
            steps,
            counts: counted(&world.counts),
            faults: Fault::ALL.map(|f| (f, world.faults.struck(f))).to_vec(),
            trace,
        }),
        Err(what) => {
            let (step, faults) = (sim.step.get(), world.faults.numbered());
            Err(Box::new(Failure { seed: life.seed, what, step, faults, trace }))
        }
    }
}

fn counted(c: &Counts) -> Vec<(&'static str, u64)> {
    vec![
        ("opens", c.opens),
        ("opens refused", c.refused),
        ("read-only opens", c.readers),
        ("clean closes", c.clean_closes),
        ("commits", c.commits),
        ("acknowledged", c.acknowledged),
        ("checkpoints", c.checkpoints),
        ("merges", c.merges),
        ("found whole", c.healed),
        ("reads", c.reads),
        ("reads refused", c.lost_reads),
        ("writes landed", c.landed),
        ("zeroed ahead", c.zeroed),
        ("punches", c.punched),
        ("of the own epoch", c.punched_own),
        ("groups removed", c.groups_removed),
        ("unpunched", c.unpunched),
        ("read points gone", c.gone),
        ("states looked at", c.states),
        ("rewinds", c.rewinds),
        ("clones", c.clones),
    ]
}

/// The simulator's clocks.
pub struct SimClock(pub World);

impl Clock for SimClock {
    fn now(&self) -> Duration {
        self.0.lock().now
    }

    fn wall_us(&self) -> u64 {
        let w = self.0.lock();
        w.wall_us + w.now.as_micros() as u64
    }
}

/// A reserved MTR that is not published yet.
pub struct Held {
    pub prepared: Prepared,
    pub mtr: Mtr,
    pub index: usize,
}

/// A process that has the volume open for writing.
pub struct Running {
    pub process: usize,
    pub shared: Arc<Shared>,
    pub held: Vec<Held>,
    pub closing: Option<Closing>,
    pub views: Vec<(View, State)>,
    /// What it showed when it was opened.
    pub base: State,
    /// Its own MTRs, in order of address.
    pub mtrs: Vec<usize>,
    /// After everything that it reserved.
    pub newest: State,
    /// Of its MTRs, so many are acknowledged.
    pub acknowledged: usize,
    /// It has given up, and that was judged.
    pub stalled: bool,
    /// It goes back.
    pub going: Option<Going>,
    /// It is being cloned.
    pub cloning: Option<Box<Cloning>>,
}

impl Running {
    pub fn state_at(&self, model: &Model, lsn: Lsn) -> State {
        let mut state = self.base.clone();
        let below = self.mtrs.iter().map(|i| &model.mtrs[*i]).take_while(|m| m.end <= lsn);
        below.flat_map(|m| &m.effects).for_each(|e| e.apply(&mut state));
        state
    }

    /// One page of that state.
    pub fn page_at(&self, model: &Model, page: PageId, lsn: Lsn) -> Option<Image> {
        let below = self.mtrs.iter().map(|i| &model.mtrs[*i]).take_while(|m| m.end <= lsn);
        let effects = below.flat_map(|m| &m.effects).filter(|e| e.touches(page));
        let mut state: State =
            self.base.get_key_value(&page).map(|(page, image)| (*page, image.clone())).into_iter().collect();
        effects.for_each(|e| e.apply(&mut state));
        state.remove(&page)
    }
}

/// What was opened and by whom, or why not.
pub type Attempt = Result<(Opened, usize), OpenError>;

/// A second opener, between two calls of the first.
#[derive(Default)]
pub enum Rival {
    /// It becomes a writer with a model, as every other.
    #[default]
    OfLife,
    /// None yet: the world may let one come.
    Nobody,
    /// Somebody wants one.
    Called,
    Came(Box<Attempt>),
}

pub struct Sim {
    pub world: World,
    pub model: RefCell<Model>,
    /// The younger one, and the zombie that it left behind; in a play, also a zombie's zombie.
    pub running: [RefCell<Option<Running>>; 3],
    pub temper: Temper,
    /// Where the log begins, if somebody says so.
    pub begin: Option<Lsn>,
    /// Openers that are under way: one, or two that race.
    pub opening: Cell<u8>,
    /// Another opener came between: either may be outbid.
    pub raced: Cell<bool>,
    /// In a play, who came between, and how it went: it has no model, and its user is told of it.
    pub rival: RefCell<Rival>,
    pub peace: Cell<bool>,
    /// An open or a reader met more bad slots than the promise allows: outcomes may flip from then on.
    pub past_promise: Cell<bool>,
    pub failure: RefCell<Option<String>>,
    /// The process that was asked to scrub, how much had been damaged then, and where VDL's group was.
    pub scrubbed: Cell<Option<((usize, u64), Lsn)>>,
    /// A reader that stays open while the world goes on.
    pub beside: RefCell<Option<Beside>>,
    /// It began with another volume's segments.
    pub is_clone: bool,
    /// Slots of another volume.
    pub foreign: RefCell<Vec<Files>>,
    step: Cell<u64>,
}

/// Lives are short: of more epochs manifests begin to forget.
pub const EPOCHS_TOLD: usize = 4;

impl Sim {
    pub fn new(life: &Life) -> Sim {
        let mut disks = Disks::new(life.seed, life.trace, life.mode, &life.removed);
        let mut temper = Temper::new(&mut disks.random);
        // Of these every second one gives space back, too: what the past needs is to stay.
        temper.rewinds = life.seed % 5 == 3;
        temper.reclaims |= life.seed % 10 == 3;
        Sim {
            world: Arc::new(Mutex::new(disks)),
            model: RefCell::new(Model::default()),
            running: [const { RefCell::new(None) }; 3],
            temper,
            begin: life.begin.map(Lsn),
            opening: Cell::new(0),
            raced: Cell::new(false),
            rival: RefCell::default(),
            peace: Cell::new(false),
            past_promise: Cell::new(false),
            failure: RefCell::new(None),
            scrubbed: Cell::new(None),
            beside: RefCell::default(),
            is_clone: false,
            foreign: RefCell::default(),
            step: Cell::new(0),
        }
    }

    pub fn below(&self, n: usize) -> usize {
        self.world.lock().random.below(n)
    }

    pub fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// The fault that the run has chosen happens, unless it is to be left out.
    pub fn happens(&self, fault: Fault) -> bool {
        self.world.lock().faults.happens(fault)
    }

    pub fn options(reclaims: bool, runs: bool) -> Options {
        let mut options = Options::default().page_size(PAGE as u32).pg_size(PG).cache_bytes(64 * PAGE as u64);
        options.checkpoint_bytes = 256 << 10;
        options.merge_after = Duration::from_millis(300);
        // Lives are short: a frame is to them what an extent is to others.
        (options.reclaim, options.reclaim_unit, options.reclaim_readers) = (reclaims, format::FRAME, 1);
        options.epochs_told = EPOCHS_TOLD;
        // All leaves that changed, or runs alone: a leaf of so few pages is worth nothing.
        options.view_time = Duration::MAX;
        options.zero_chunk = 16 << 10;
        options.leaves_share = if runs { 64 } else { 4 };
        options
    }

    fn live(&self, steps: u64) -> Result<u64, String> {
        self.create()?;
        self.world.lock().faults.begin();
        for n in 0..steps {
            self.step.set(n);
            self.step()?;
        }
        self.converge()?;
        Ok(steps)
    }

    pub fn pass(&self, time: Duration) {
        self.world.lock().now += time;
    }

    pub fn step(&self) -> Checked {
        let which = self.below(2);
        let young = self.running[0].borrow().is_some();
        if self.temper.rewinds && self.one_in(10) {
            self.past_step(which)?;
        }
        let step = self.temper.next(&mut self.world.lock().random);
        match step {
            Step::Job => self.job_step(),
            Step::Reserve => self.reserve(which)?,
            Step::Publish => self.publish(which),
            Step::Time => {
                let ms = [1, 5, 50, 400][self.below(4)];
                self.pass(Duration::from_millis(ms));
                self.housekeep(which);
            }
            Step::Read => self.read(which)?,
            Step::TakeView => self.take_view(which),
            Step::ReadView if self.one_in(4) => self.read_beside()?,
            Step::ReadView => self.read_view(which)?,
            Step::Weather => self.change_weather(),
            Step::Kill if young => self.kill_one(which),
            Step::PowerCut => self.power_cut(),
            Step::Close if young => self.begin_close(),
            Step::ReadOnly if self.one_in(2) => self.read_beside()?,
            Step::ReadOnly => self.read_only()?,
            Step::TakeOver if young => self.take_over()?,
            Step::Mischief => self.mischief(),
            Step::Scrub if self.temper.lulls => self.lull()?,
            Step::Scrub => self.scrub()?,
            // What a dead process left is seen by a reader before the next writer tidies it up.
            Step::Open if !young && self.one_in(6) => self.read_only()?,
            Step::Open | Step::Kill | Step::Close | Step::TakeOver if !young => self.open(0, false)?,
            _ => self.disks_step(true),
        }
        self.tend(0)?;
        self.tend(1)?;
        match self.failure.borrow_mut().take() {
            Some(what) => Err(what),
            None => Ok(()),
        }
    }

    /// What goes on while an opener is between two calls: one writer goes on, and another opener may come in between.
    pub fn meanwhile(&self) {
        let openers = self.opening.get();
        if openers == 0 {
            return;
        }
        for _ in 0..self.below(4) {
            match self.below(10) {
                0..4 => self.disks_step(true),
                4..6 => self.job_step(),
                6 => self.publish(1),
                7 => self.keep_failure(self.reserve(1)),
                8 => self.housekeep(1),
                _ => self.pass(Duration::from_millis(1)),
            }
            self.keep_failure(self.tend(1));
        }
        if openers == 1 && self.rival_comes() {
            self.raced.set(true);
            let played = !matches!(*self.rival.borrow(), Rival::OfLife);
            if !played {
                return self.keep_failure(self.open(1, true));
            }
            match self.attempt(true) {
                Ok(opened) => *self.rival.borrow_mut() = Rival::Came(Box::new(opened)),
                Err(what) => self.keep_failure(Err(what)),
            }
        }
    }

    fn rival_comes(&self) -> bool {
        let free = match &*self.rival.borrow() {
            Rival::OfLife => self.running[1].borrow().is_none(),
            Rival::Nobody => true,
            Rival::Called => return self.one_in(30),
            Rival::Came(_) => false,
        };
        free && self.temper.races && !self.peace.get() && self.one_in(60) && self.happens(Fault::Race)
    }

    pub fn keep_failure(&self, result: Checked) {
        if let Err(what) = result {
            self.failure.borrow_mut().get_or_insert(what);
        }
    }

    pub fn disks_step(&self, faults: bool) {
        self.world.lock().land_one(faults);
    }

    pub fn job_step(&self) {
        let which = self.below(2);
        let process = self.running[which].borrow().as_ref().map(|r| r.process);
        if let Some(process) = process {
            do_job(&self.world, process);
        }
    }

    /// Lets a writer take in what came back; a dead one is taken away; acknowledgements are checked.
    pub fn tend(&self, which: usize) -> Checked {
        let verdict = self.world.lock().laws.verdict();
        if let Some(what) = verdict {
            return Err(what);
        }
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut() else { return Ok(()) };
        self.note_rewind(running);
        if !self.world.lock().is_alive(running.process) {
            bury(slot.take());
            return Ok(());
        }
        running.shared.pump();
        self.go_on_rewinding(running)?;
        self.go_on_cloning(running)?;
        if !self.world.lock().is_alive(running.process) {
            return Ok(());
        }
        if self.temper.rewinds {
            self.check_snapshots(running)?;
        }
        let vdl = running.shared.tickets.vdl();
        let mut model = self.model.borrow_mut();
        while let Some(&index) = running.mtrs.get(running.acknowledged)
            && model.mtrs[index].end <= vdl
        {
            if running.held.iter().any(|h| h.index == index) {
                return Err("VDL passed an MTR that is not published".into());
            }
            let (end, vouched) = (model.mtrs[index].end, self.world.lock().vouched(running.process));
            if end > vouched {
                return Err(format!("acknowledged up to {end}, and a look was clear for what ends at {vouched}"));
            }
            let told = model.acknowledge(index);
            if !self.past_promise.get() {
                told?;
            }
            running.acknowledged += 1;
            self.world.lock().counts.acknowledged += 1;
        }
        if let Some(Ended::Stalled(why)) = running.shared.tickets.ended()
            && !std::mem::replace(&mut running.stalled, true)
        {
            let (still, most) = (self.world.lock().stood_still(running.process), running.shared.options.stall_max);
            if still < most {
                return Err(format!("a stall of {most:?}, and the process was there for {still:?}: {why}"));
            }
        }
        let (used, most) = running.shared.memory();
        if used > most {
            return Err(format!("memory: {used} bytes, promised {most}"));
        }
        if let Some(closing) = &mut running.closing
            && let Some(result) = closing.step(&running.shared)
        {
            let mut w = self.world.lock();
            w.note(format_args!("p{} closes: {result:?}", running.process));
            w.counts.clean_closes += u64::from(result.is_ok());
            drop(w);
            running.shared.tickets.end(Ended::Closed);
            let process = running.process;
            bury(slot.take());
            self.world.lock().kill(process);
        }
        Ok(())
    }

    pub fn housekeep(&self, which: usize) {
        if let Some(running) = self.running[which].borrow_mut().as_mut() {
            let before = running.shared.reads.pages.map().generation;
            let had_merge = running.shared.merge.lock().is_some();
            let asked = self.temper.reclaims && self.one_in(3);
            if asked {
                running.shared.ask_for_space();
            }
            running.shared.housekeep();
            self.note_rewind(running);
            let mut w = self.world.lock();
            w.counts.merges += u64::from(had_merge && running.shared.merge.lock().is_none());
            w.counts.checkpoints += u64::from(running.shared.reads.pages.map().generation > before);
        }
    }
}

/// A process that is gone: its handles must not write any more, and its reservations are dropped unpublished.
pub fn bury(running: Option<Running>) {
    if let Some(running) = running {
        drop(running.views);
        running.shared.reads.closed.store(true, Ordering::SeqCst);
        running.shared.tickets.end(Ended::Closed);
    }
}

#[cfg(test)]
mod tests {
    use crate::sim::{Life, Mode};

    fn variable(name: &str, or: u64) -> u64 {
        std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(or)
    }

    #[test]
    fn the_same_seed_is_the_same_run() {
        let hash = |seed| Life::new(seed).steps(300).run().map(|r| r.hash).map_err(|f| f.what);
        assert_eq!(hash(7), hash(7));
    }

    #[test]
    fn a_hundred_lives() {
        for seed in variable("SIM_FROM", 0)..variable("SIM_TO", 100) {
            if let Err(f) = Life::new(seed).steps(variable("SIM_STEPS", 500)).run() {
                panic!("seed {seed}: {}", f.what);
            }
        }
    }

    #[test]
    fn beyond_the_atlas_it_is_honest() {
        for seed in variable("SIM_FROM", 0)..variable("SIM_TO", 50) {
            if let Err(f) = Life::new(seed).mode(Mode::Beyond).run() {
                panic!("seed {seed}: {}", f.what);
            }
        }
    }
}
