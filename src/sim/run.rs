//! One lifetime: clients, writers, openers and disks, a step at a time.

use crate::disk::{Fleet, SlotDir};
use crate::log::group;
use crate::lsn::{Lsn, PageId, SLOTS, Slot, SlotSet, format};
use crate::page::read::{LogReader, Map, Pages};
use crate::segment::name::FileName;
use crate::segment::recover::{self, Recovered};
use crate::segment::superblock::{Durability, Geometry};
use crate::sim::model::{Effect, Model, ModelMtr, State};
use crate::sim::world::{Counts, Disks, SimDir, SimDisk, Weather, World, do_job};
use crate::volume::close::Closing;
use crate::volume::error::{ReadError, WriteError};
use crate::volume::mtr::Mtr;
use crate::volume::open::{build, redo_layer};
use crate::volume::options::Options;
use crate::volume::reader;
use crate::volume::shared::{Clock, NotAppended, Prepared, Shared};
use crate::volume::view::{Reads, View};
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::time::Duration;

const PAGE: usize = 4096;
const PG: u64 = 64 << 20;

/// What a run met.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Of every event of the run.
    pub hash: u64,
    /// Steps taken.
    pub steps: u64,
    /// What happened, by name.
    pub counts: Vec<(&'static str, u64)>,
    /// Every event, if it was asked for.
    pub trace: Vec<String>,
}

/// A property that broke.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed: the same call with it breaks again.
    pub seed: u64,
    /// What broke.
    pub what: String,
    /// Every event, if it was asked for.
    pub trace: Vec<String>,
}

/// Runs the lifetime of a seed, with about so many steps.
///
/// # Errors
/// The property that broke.
pub fn run(seed: u64, steps: u64, trace: bool) -> Result<Report, Box<Failure>> {
    let sim = Sim::new(seed, trace);
    let result = sim.live(steps);
    let mut world = sim.world.lock();
    let trace = world.trace.take().unwrap_or_default();
    match result {
        Ok(steps) => Ok(Report { seed, hash: world.hash, steps, counts: counted(&world.counts), trace }),
        Err(what) => Err(Box::new(Failure { seed, what, trace })),
    }
}

fn counted(c: &Counts) -> Vec<(&'static str, u64)> {
    vec![
        ("opens", c.opens),
        ("forced opens", c.forced_opens),
        ("clean closes", c.clean_closes),
        ("kills", c.kills),
        ("power cuts", c.power_cuts),
        ("commits", c.commits),
        ("acknowledged", c.acknowledged),
        ("checkpoints", c.checkpoints),
        ("merges", c.merges),
        ("slots away", c.away),
        ("writes landed", c.landed),
        ("late writes", c.late),
        ("lost writes", c.lost),
        ("torn writes", c.torn),
        ("I/O errors", c.errors),
    ]
}

/// The simulator's clocks.
struct SimClock(World);

impl Clock for SimClock {
    fn now(&self) -> Duration {
        self.0.lock().now
    }

    fn wall_us(&self) -> u64 {
        1_700_000_000_000_000 + self.0.lock().now.as_micros() as u64
    }
}

/// A reserved MTR that is not published yet.
struct Held {
    prepared: Prepared,
    mtr: Mtr,
    index: usize,
}

/// A process that has the volume open for writing.
struct Running {
    process: usize,
    shared: Arc<Shared>,
    held: Vec<Held>,
    closing: Option<Closing>,
    views: Vec<(View, State)>,
    /// What it showed when it was opened.
    base: State,
    /// Its own MTRs, in order of address.
    mtrs: Vec<usize>,
    /// After everything that it reserved.
    newest: State,
    /// Of its MTRs, so many are acknowledged.
    acknowledged: usize,
}

impl Running {
    fn state_at(&self, model: &Model, lsn: Lsn) -> State {
        let mut state = self.base.clone();
        let below = self.mtrs.iter().map(|i| &model.mtrs[*i]).take_while(|m| m.end <= lsn);
        below.flat_map(|m| &m.effects).for_each(|e| e.apply(&mut state));
        state
    }
}

struct Sim {
    world: World,
    model: RefCell<Model>,
    /// At most two: the younger one, and the zombie that it left behind.
    running: [RefCell<Option<Running>>; 2],
    opening: Cell<bool>,
    peace: Cell<bool>,
    blanked: Cell<bool>,
    replaced: Cell<Option<Slot>>,
    failure: RefCell<Option<String>>,
}

/// The fleet of one opener: between its calls the rest of the world goes on.
struct SimFleet<'a> {
    sim: &'a Sim,
    process: usize,
    visible: SlotSet,
}

impl Fleet for SimFleet<'_> {
    fn each<T: Send + 'static>(
        &self,
        set: SlotSet,
        call: impl Fn(Slot, &dyn SlotDir) -> io::Result<T> + Send + Sync + 'static,
    ) -> [Option<io::Result<T>>; SLOTS] {
        let mut out: [Option<io::Result<T>>; SLOTS] = [const { None }; SLOTS];
        let mut order: Vec<Slot> = set.iter().collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.sim.below(i + 1));
        }
        for slot in order {
            self.sim.meanwhile();
            let dir = SimDir { world: self.sim.world.clone(), process: self.process, slot };
            let answer =
                if self.visible.contains(slot) { call(slot, &dir) } else { Err(io::ErrorKind::NotFound.into()) };
            out[slot.index()] = Some(answer);
        }
        out
    }

    fn dirs(&self) -> [Option<Arc<dyn SlotDir>>; SLOTS] {
        Slot::ALL.map(|slot| {
            let dir = SimDir { world: self.sim.world.clone(), process: self.process, slot };
            self.visible.contains(slot).then(|| Arc::new(dir) as Arc<dyn SlotDir>)
        })
    }
}

type Checked = Result<(), String>;

impl Sim {
    fn new(seed: u64, trace: bool) -> Sim {
        Sim {
            world: Arc::new(Mutex::new(Disks::new(seed, trace))),
            model: RefCell::new(Model::default()),
            running: [RefCell::new(None), RefCell::new(None)],
            opening: Cell::new(false),
            peace: Cell::new(false),
            blanked: Cell::new(false),
            replaced: Cell::new(None),
            failure: RefCell::new(None),
        }
    }

    fn below(&self, n: usize) -> usize {
        self.world.lock().random.below(n)
    }

    fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn options() -> Options {
        let mut options = Options::default().page_size(PAGE as u32).pg_size(PG).cache_bytes(64 * PAGE as u64);
        options.checkpoint_bytes = 256 << 10;
        options.merge_after = Duration::from_millis(300);
        options.stall_max = Duration::from_secs(5);
        options
    }

    fn live(&self, steps: u64) -> Result<u64, String> {
        self.create()?;
        for _ in 0..steps {
            self.step()?;
        }
        self.converge()?;
        Ok(steps)
    }

    /// A run begins with a volume that was created in peace.
    fn create(&self) -> Checked {
        let process = self.world.lock().start_process();
        let fleet = SimFleet { sim: self, process, visible: SlotSet::ALL };
        let high = self.world.lock().random.next();
        let low = self.world.lock().random.next();
        let id = uuid::Uuid::from_u128(u128::from(high) << 64 | u128::from(low));
        let geometry = Geometry { volume: id, log: id, page_size: PAGE as u32, block_size: 4096, pg_size: PG };
        let opened = recover::create(&fleet, geometry, Durability::Dsync).map_err(|e| format!("create: {e}"))?;
        self.stand_up(opened, process, 0)?;
        let mut slot = self.running[0].borrow_mut();
        let Some(running) = slot.as_mut() else { return Err("nothing runs after a creation".into()) };
        let mut content = crate::volume::mtr::Content::default();
        let what = crate::volume::mtr::What::Zero;
        content.changes.push(crate::volume::mtr::Change { page: PageId::ROOT, what, fresh: true });
        // Space comes with the first jobs.
        for _ in 0..100 {
            running.shared.pump();
            while do_job(&self.world, process) {}
        }
        running.shared.pump();
        let prepared = running.shared.prepare(&content).map_err(|e| format!("the root page: {e:?}"))?;
        let effects = vec![Effect::Put(PageId::ROOT, vec![0; PAGE])];
        let end = running.shared.finish(prepared);
        effects[0].apply(&mut running.newest);
        let mut model = self.model.borrow_mut();
        running.mtrs.push(model.mtrs.len());
        model.mtrs.push(ModelMtr { epoch: 1, end, effects, acknowledged: false, seen: None });
        drop((model, slot));
        self.until_acknowledged(0)
    }

    /// In peace: everything that was appended becomes durable within bounded steps.
    fn until_acknowledged(&self, which: usize) -> Checked {
        for _ in 0..5000 {
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

    fn pass(&self, time: Duration) {
        self.world.lock().now += time;
    }

    fn step(&self) -> Checked {
        let which = self.below(2);
        let young = self.running[0].borrow().is_some();
        match self.below(1000) {
            0..300 => self.disks_step(true),
            300..420 => self.job_step(),
            420..620 => self.reserve(which)?,
            620..760 => self.publish(which),
            760..830 => {
                let ms = [1, 5, 50, 400][self.below(4)];
                self.pass(Duration::from_millis(ms));
                self.housekeep(which);
            }
            830..890 => self.read(which)?,
            890..910 => self.take_view(which),
            910..930 => self.read_view(which)?,
            930..945 => self.change_weather(),
            945..952 if young => self.kill_one(which),
            952..956 => self.power_cut(),
            956..961 if young => self.begin_close(),
            961..971 => self.read_only()?,
            971..976 if young => self.take_over()?,
            976..978 => self.blank(),
            _ if !young => self.open(0, false)?,
            _ => self.disks_step(true),
        }
        self.tend(0)?;
        self.tend(1)?;
        match self.failure.borrow_mut().take() {
            Some(what) => Err(what),
            None => Ok(()),
        }
    }

    /// What goes on while an opener is between two calls.
    fn meanwhile(&self) {
        if !self.opening.get() {
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
    }

    fn keep_failure(&self, result: Checked) {
        if let Err(what) = result {
            self.failure.borrow_mut().get_or_insert(what);
        }
    }

    fn disks_step(&self, faults: bool) {
        self.world.lock().land_one(faults);
    }

    fn job_step(&self) {
        let which = self.below(2);
        let process = self.running[which].borrow().as_ref().map(|r| r.process);
        if let Some(process) = process {
            do_job(&self.world, process);
        }
    }

    /// Lets a writer take in what came back; a dead one is taken away; acknowledgements are checked.
    fn tend(&self, which: usize) -> Checked {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut() else { return Ok(()) };
        if !self.world.lock().is_alive(running.process) {
            bury(slot.take());
            return Ok(());
        }
        running.shared.pump();
        let vdl = running.shared.tickets.vdl();
        let mut model = self.model.borrow_mut();
        while let Some(&index) = running.mtrs.get(running.acknowledged)
            && model.mtrs[index].end <= vdl
        {
            if running.held.iter().any(|h| h.index == index) {
                return Err("VDL passed an MTR that is not published".into());
            }
            model.acknowledge(index)?;
            running.acknowledged += 1;
            self.world.lock().counts.acknowledged += 1;
        }
        let (used, most) = running.shared.memory();
        if used > most {
            return Err(format!("memory: {used} bytes, promised {most}"));
        }
        if let Some(closing) = &mut running.closing
            && let Some(result) = closing.step(&running.shared)
        {
            let mut w = self.world.lock();
            w.note(|| format!("p{} closes: {result:?}", running.process));
            w.counts.clean_closes += u64::from(result.is_ok());
            drop(w);
            running.shared.tickets.end(crate::volume::tickets::Ended::Closed);
            let process = running.process;
            bury(slot.take());
            self.world.lock().kill(process);
        }
        Ok(())
    }

    fn housekeep(&self, which: usize) {
        if let Some(running) = self.running[which].borrow().as_ref() {
            let before = running.shared.reads.pages.map().generation;
            let had_merge = running.shared.merge.lock().is_some();
            running.shared.housekeep();
            let mut w = self.world.lock();
            w.counts.merges += u64::from(had_merge && running.shared.merge.lock().is_none());
            w.counts.checkpoints += u64::from(running.shared.reads.pages.map().generation > before);
        }
    }

    /// A client makes an MTR and gets it its addresses; it is filled and published in a later step.
    fn reserve(&self, which: usize) -> Checked {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut() else { return Ok(()) };
        if running.held.len() >= 4 || running.closing.is_some() {
            return Ok(());
        }
        let mut mtr = Mtr::new(running.shared.clone());
        let mut effects = Vec::new();
        let mut state = running.newest.clone();
        for _ in 0..1 + self.below(4) {
            self.change(&mut mtr, &mut state, &mut effects);
        }
        // Now and then one that spans groups: a crash may leave half of it.
        if self.one_in(40) {
            for _ in 0..100 + self.below(300) {
                self.put_again(&mut mtr, &mut state, &mut effects);
            }
        }
        // An expectation holds if nothing that is reserved and not yet published touches the page.
        let mut conflict = false;
        if self.one_in(5) {
            let pages: Vec<PageId> = running.newest.keys().copied().collect();
            let picked = self.world.lock().random.pick(&pages);
            if let Some(page) = picked
                && let Ok(seen) = running.shared.read_newest(page)
            {
                let model = self.model.borrow();
                let published = running.shared.front.published();
                let unpublished = running.mtrs.iter().map(|i| &model.mtrs[*i]).filter(|m| m.end > published);
                conflict = unpublished.flat_map(|m| &m.effects).any(|e| e.page() == page);
                mtr.expect(&seen);
            }
        }
        let content = match mtr.content() {
            Ok(content) if content.changes.is_empty() => return Ok(()),
            Ok(content) => content.clone(),
            Err(e) => return Err(format!("a right MTR is refused: {e}")),
        };
        let mut prepared = running.shared.prepare(&content);
        // A client waits for space; here its slots' workers get their turn at once.
        if let Err(NotAppended::Space(end)) = prepared {
            let now = self.world.lock().now;
            running.shared.engine().want_space(end, now);
            for _ in 0..12 {
                do_job(&self.world, running.process);
            }
            running.shared.pump();
            prepared = running.shared.prepare(&content);
        }
        match prepared {
            Ok(_) if conflict => Err("an MTR is appended though an expected page has changed".into()),
            Ok(prepared) => {
                let end = prepared.end();
                let mut model = self.model.borrow_mut();
                let index = model.mtrs.len();
                self.world.lock().note(|| format!("p{} reserves MTR {index}, ends at {end}", running.process));
                let epoch = running.shared.number;
                model.mtrs.push(ModelMtr { epoch, end, effects, acknowledged: false, seen: None });
                running.mtrs.push(index);
                running.newest = state;
                running.held.push(Held { prepared, mtr, index });
                self.world.lock().counts.commits += 1;
                Ok(())
            }
            Err(NotAppended::RingFull | NotAppended::Again | NotAppended::Space(_)) => Ok(()),
            Err(NotAppended::Wrong(WriteError::ReadOnly(_) | WriteError::Closed | WriteError::MtrTooLarge { .. })) => {
                Ok(())
            }
            Err(NotAppended::Wrong(WriteError::Conflict(_))) if conflict => Ok(()),
            // Three slots may be out of reach for the moment.
            Err(NotAppended::Wrong(WriteError::Read(ReadError::Lost { .. }))) if self.bad_weather() > 2 => Ok(()),
            Err(NotAppended::Wrong(e)) => Err(format!("a right MTR is refused: {e}")),
        }
    }

    /// One random change of one page.
    fn change(&self, mtr: &mut Mtr, state: &mut State, effects: &mut Vec<Effect>) {
        let pages: Vec<PageId> = state.keys().copied().collect();
        let mut w = self.world.lock();
        let Some(page) = w.random.pick(&pages) else { return };
        let effect = match w.random.below(10) {
            0..5 => {
                let len = 1 + w.random.below(200);
                let at = w.random.below(PAGE - len);
                let bytes = w.random.bytes(len);
                mtr.patch(page, at as u32, &bytes);
                Effect::Patch(page, at, bytes)
            }
            5..7 => {
                let image = w.random.bytes(PAGE);
                mtr.put(page, image.clone());
                Effect::Put(page, image)
            }
            7 if pages.len() > 8 && page != PageId::ROOT => {
                mtr.free(page);
                Effect::Free(page)
            }
            _ if pages.len() < 24 => {
                let Ok(page) = mtr.alloc() else { return };
                let image = if w.random.one_in(3) { vec![0; PAGE] } else { w.random.bytes(PAGE) };
                if image.iter().any(|b| *b != 0) {
                    mtr.put(page, image.clone());
                }
                Effect::Put(page, image)
            }
            _ => return,
        };
        effect.apply(state);
        effects.push(effect);
    }

    /// The whole of some page, again.
    fn put_again(&self, mtr: &mut Mtr, state: &mut State, effects: &mut Vec<Effect>) {
        let pages: Vec<PageId> = state.keys().copied().collect();
        let mut w = self.world.lock();
        let Some(page) = w.random.pick(&pages) else { return };
        let image = vec![w.random.next() as u8; PAGE];
        mtr.put(page, image.clone());
        let effect = Effect::Put(page, image);
        effect.apply(state);
        effects.push(effect);
    }

    fn publish(&self, which: usize) {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| !r.held.is_empty()) else { return };
        let at = self.below(running.held.len());
        let Held { prepared, mut mtr, index } = running.held.swap_remove(at);
        let end = running.shared.finish(prepared);
        mtr.appended();
        running
            .shared
            .last_commit_us
            .store(running.shared.clock.now().as_micros() as u64, std::sync::atomic::Ordering::Relaxed);
        self.world.lock().note(|| format!("p{} publishes MTR {index}, ends at {end}", running.process));
        running.shared.pump();
    }

    /// Reads a page: the newest published version.
    fn read(&self, which: usize) -> Checked {
        let slot = self.running[which].borrow();
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let shared = &running.shared;
        let at = if shared.tickets.ended().is_some() { shared.tickets.vdl() } else { shared.front.published() };
        let state = running.state_at(&self.model.borrow(), at);
        let page = PageId(self.below(30) as u64);
        self.check_page(page, shared.read_newest(page), &state, "a read")
    }

    fn check_page(&self, page: PageId, got: Result<crate::Page, ReadError>, state: &State, who: &str) -> Checked {
        match (got, state.get(&page)) {
            (Ok(got), Some(want)) if got[..] == want[..] => Ok(()),
            (Ok(_), Some(_)) => Err(format!("{who} of page {page}: wrong bytes")),
            (Ok(_), None) => Err(format!("{who} of page {page}: it should not exist")),
            (Err(ReadError::NoSuchPage(_)), None) => Ok(()),
            (Err(ReadError::Closed), _) => Ok(()),
            (Err(ReadError::Lost { .. }), _) if self.bad_weather() > 3 => Ok(()),
            (Err(e), _) => Err(format!("{who} of page {page}: {e}")),
        }
    }

    fn take_view(&self, which: usize) {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| r.views.len() < 3 && r.closing.is_none()) else { return };
        let view = running.shared.view();
        let state = running.state_at(&self.model.borrow(), view.lsn());
        running.views.push((view, state));
    }

    fn read_view(&self, which: usize) -> Checked {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| !r.views.is_empty()) else { return Ok(()) };
        let at = self.below(running.views.len());
        for page in 0..30 {
            let (view, state) = &running.views[at];
            self.check_page(PageId(page), view.read(PageId(page)), state, "a view's read")?;
        }
        if self.one_in(2) {
            running.views.swap_remove(at);
        }
        Ok(())
    }

    fn bad_weather(&self) -> usize {
        let w = self.world.lock();
        w.weather.iter().filter(|w| !matches!(w, Weather::Fair | Weather::Hanging)).count()
    }

    /// At most two slots are out at once: what the volume promises to bear.
    fn change_weather(&self) {
        let slot = Slot(self.below(SLOTS) as u8);
        let mut w = self.world.lock();
        if w.weather[slot.index()] != Weather::Fair {
            w.weather[slot.index()] = Weather::Fair;
            w.note(|| format!("slot {slot} is fair"));
            return;
        }
        let bad = w.weather.iter().filter(|w| **w != Weather::Fair).count();
        if bad < 2 {
            let weather = [Weather::Gone, Weather::Failing, Weather::Hanging, Weather::Full][w.random.below(4)];
            w.weather[slot.index()] = weather;
            w.counts.away += 1;
            w.note(|| format!("slot {slot} is {weather:?}"));
        }
    }

    /// One slot, once in a life, is replaced by a blank disk.
    fn blank(&self) {
        if self.blanked.replace(true) {
            return;
        }
        let slot = Slot(self.below(SLOTS) as u8);
        self.replaced.set(Some(slot));
        self.world.lock().blank(slot);
    }

    fn kill_one(&self, which: usize) {
        let process = self.running[which].borrow().as_ref().map(|r| r.process);
        if let Some(process) = process {
            self.world.lock().kill(process);
        }
    }

    fn power_cut(&self) {
        self.world.lock().power_cut();
    }

    fn begin_close(&self) {
        let mut slot = self.running[0].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| r.closing.is_none()) else { return };
        for Held { prepared, mut mtr, .. } in running.held.drain(..) {
            running.shared.finish(prepared);
            mtr.appended();
        }
        running.views.clear();
        running.closing = Some(Closing::begin(&running.shared, Duration::from_secs(20)));
    }

    fn take_over(&self) -> Checked {
        // The writer lives on as a zombie; the zombie before it is gone.
        self.kill_one(1);
        self.tend(1)?;
        let young = self.running[0].borrow_mut().take();
        *self.running[1].borrow_mut() = young;
        self.open(0, true)
    }

    /// Opens for writing. The opener may die at any of its calls.
    fn open(&self, which: usize, forced: bool) -> Checked {
        let process = self.world.lock().start_process();
        {
            let mut w = self.world.lock();
            w.counts.opens += 1;
            w.counts.forced_opens += u64::from(forced);
            w.note(|| format!("p{process} OPENS{}", if forced { " by force" } else { "" }));
            if !self.peace.get() && w.random.one_in(4) {
                let calls = w.random.below(120) as u64;
                w.dies_in(process, calls);
            }
        }
        let fleet = SimFleet { sim: self, process, visible: SlotSet::ALL };
        self.opening.set(true);
        let opened = recover::open(&fleet, |_, _| Ok(()));
        self.opening.set(false);
        if let Some(what) = self.failure.borrow_mut().take() {
            return Err(what);
        }
        let alive = self.world.lock().is_alive(process);
        match opened {
            Ok(opened) if alive => self.stand_up(opened, process, which),
            Err(e) if alive => {
                let bad = self.bad_weather() + usize::from(self.blanked.get());
                self.world.lock().note(|| format!("p{process} cannot open: {e}"));
                self.world.lock().kill(process);
                if bad <= 3 { Err(format!("A1: an open within the promise is refused: {e}")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// An opened volume becomes a running writer, and what it shows is checked.
    fn stand_up(&self, opened: recover::Opened, process: usize, which: usize) -> Checked {
        let (geometry, number) = (opened.geometry, opened.number);
        let history = opened.history.clone();
        let previous = opened.recovered.choice.decision.number;
        self.world.lock().set_epoch(process, number);
        self.world.lock().note(|| format!("p{process} is open: {:?}", history.entries()));
        let base = self.model.borrow_mut().expose(&history)?;
        let fleet = SimFleet { sim: self, process, visible: SlotSet::ALL };
        let disk = Box::new(SimDisk { world: self.world.clone(), process, pg_size: geometry.pg_size });
        let clock: Arc<dyn Clock> = Arc::new(SimClock(self.world.clone()));
        let (mut parts, engine) = build(opened, fleet.dirs(), disk, clock, &Sim::options());
        let world = self.world.clone();
        parts.earlier_gone = Box::new(move || world.lock().is_alone(process));
        #[cfg(feature = "io-uring")]
        let shared = Arc::new(Shared::new(parts, engine, None));
        #[cfg(not(feature = "io-uring"))]
        let shared = Arc::new(Shared::new(parts, engine));
        shared.engine().tidy(previous);
        for page in 0..30 {
            if !base.is_empty() {
                let read = self.check_page(PageId(page), shared.read_newest(PageId(page)), &base, "an open's read");
                // The opener may die in the midst of it.
                if !self.world.lock().is_alive(process) {
                    return Ok(());
                }
                read?;
            }
        }
        let newest = base.clone();
        let (held, views, mtrs) = (Vec::new(), Vec::new(), Vec::new());
        let running = Running { process, shared, held, closing: None, views, base, mtrs, newest, acknowledged: 0 };
        *self.running[which].borrow_mut() = Some(running);
        Ok(())
    }

    /// Opens for reading, over three or more slots, beside whatever runs.
    fn read_only(&self) -> Checked {
        let process = self.world.lock().start_process();
        let mut visible = SlotSet::ALL;
        for _ in 0..self.below(3) {
            visible = visible.without(Slot(self.below(SLOTS) as u8));
        }
        let bad = Slot::ALL.iter().filter(|s| !visible.contains(**s) || self.is_bad(**s)).count()
            + usize::from(self.blanked.get());
        if bad > 3 {
            return Ok(());
        }
        let fleet = SimFleet { sim: self, process, visible };
        let recovered = match recover::recover(&fleet) {
            Ok(recovered) => recovered,
            Err(e) => return Err(format!("A1: a read-only open within the promise is refused: {e} (of {visible:?})")),
        };
        let result = self.check_reader(&fleet, recovered);
        self.world.lock().kill(process);
        self.world.lock().counts.kills -= 1;
        result
    }

    fn is_bad(&self, slot: Slot) -> bool {
        matches!(self.world.lock().weather[slot.index()], Weather::Gone | Weather::Failing)
    }

    fn check_reader(&self, fleet: &SimFleet<'_>, recovered: Recovered) -> Checked {
        let (settled, decided) = reader::settled(fleet, &recovered);
        let visible = recovered.ruling.end;
        let (history, choice) = (recovered.history.clone(), recovered.choice.decision.number);
        self.world.lock().note(|| format!("read-only: decision {choice}, settled {settled}, visible {visible}"));
        if settled > visible {
            return Err(format!("a read-only open is settled at {settled}, visible to {visible}"));
        }
        let mut model = self.model.borrow_mut();
        for i in 0..model.mtrs.len() {
            let (epoch, end) = (model.mtrs[i].epoch, model.mtrs[i].end);
            let outcome = reader::outcome(&history, settled, decided, crate::Unknown { lsn: end, epoch });
            if let Some(present) = outcome {
                model.settle(i, present, "a read-only open")?;
            }
            let shown = history.last().epoch != epoch && history.holds(epoch, Lsn(end.0 - 1))
                || history.last().epoch == epoch && end <= visible;
            if model.mtrs[i].acknowledged && !shown {
                return Err(format!("S1: a read-only open misses the acknowledged MTR that ends at {end}"));
            }
        }
        let root = Arc::new(recovered.manifest.root.clone());
        let layer = Arc::new(redo_layer(&recovered, settled));
        let map = Map { current: layer, frozen: None, root, generation: 0 };
        let log = LogReader::new(recovered.survey.geometry, fleet.dirs(), history.clone());
        let reads = Arc::new(Reads::new(Pages::new(log, None, 0, map)));
        // What it shows at a point: exactly the MTRs below.
        for at in [settled, visible] {
            let there = |m: &&ModelMtr| history.holds(m.epoch, Lsn(m.end.0 - 1)) && m.end <= at;
            let mut present: Vec<&ModelMtr> = model.mtrs.iter().filter(there).collect();
            present.sort_by_key(|m| m.end);
            let mut state = State::new();
            present.iter().flat_map(|m| &m.effects).for_each(|e| e.apply(&mut state));
            let view = reads.view_at(at);
            for page in 0..30 {
                self.check_page(PageId(page), view.read(PageId(page)), &state, "a read-only open's read")?;
            }
        }
        Ok(())
    }

    /// The faults are over: what is in flight lands, a writer opens, commits, closes, and everything is there.
    fn converge(&self) -> Checked {
        {
            let mut w = self.world.lock();
            w.weather = [Weather::Fair; SLOTS];
            w.spare();
            w.note(|| "the faults are over".into());
        }
        self.peace.set(true);
        self.kill_one(1);
        self.tend(1)?;
        if self.running[0].borrow().is_some() && self.one_in(2) {
            self.kill_one(0);
            self.tend(0)?;
        }
        for round in 0..2 {
            let ended = self.running[0]
                .borrow()
                .as_ref()
                .is_some_and(|r| r.shared.tickets.ended().is_some() || r.closing.is_some());
            if ended {
                self.kill_one(0);
                self.tend(0)?;
            }
            for attempt in 0..20 {
                if self.running[0].borrow().is_some() {
                    break;
                }
                if attempt == 19 {
                    return Err("L2: no open succeeds though nothing is wrong any more".into());
                }
                self.open(0, false)?;
            }
            while self.running[0].borrow().as_ref().is_some_and(|r| !r.held.is_empty()) {
                self.publish(0);
            }
            for _ in 0..500 {
                self.disks_step(false);
                self.settle_jobs();
                self.pass(Duration::from_millis(50));
                self.housekeep(0);
                self.tend(0)?;
            }
            let live = self.running[0].borrow().as_ref().map(|r| r.shared.engine().writer.live().len());
            if live != Some(SLOTS) {
                return Err(format!("L2: {live:?} slots are live though nothing is wrong any more"));
            }
            self.check_copies()?;
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

    /// What a live slot's cursor covers verifies on it: nothing that lands late may ever touch it.
    fn check_copies(&self) -> Checked {
        let slot = self.running[0].borrow();
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let engine = running.shared.engine();
        let (seed, epoch) = (running.shared.geometry.seed(), running.shared.number);
        for slot in engine.writer.live().iter() {
            let whole = engine.writer.gaps(slot).iter().all(|g| g.to <= engine.writer.begin());
            let (mut at, end) = (engine.writer.begin(), engine.writer.cursor(slot).unwrap_or(Lsn::NONE));
            // A slot that was away in this epoch, or replaced, lacks what it lacks.
            if !whole || self.replaced.get() == Some(slot) {
                continue;
            }
            let dir = SimDir { world: self.world.clone(), process: running.process, slot };
            while at < end {
                let (name, offset) = FileName::segment_of(at, PG);
                let room = (format::FRAME - at.0 % format::FRAME) as usize;
                let bytes = dir.read(name, offset, room).map_err(|e| format!("slot {slot}: {e}"))?;
                match group::verify(&bytes, at, seed, |_| ()) {
                    Ok(sum) if sum.header.epoch == epoch => at = at + sum.header.len,
                    Ok(sum) => return Err(format!("slot {slot} has epoch {} at {at}", sum.header.epoch)),
                    Err(b) => return Err(format!("slot {slot} counts to {end}, and its group at {at}: {}", b.fault)),
                }
            }
        }
        Ok(())
    }

    fn settle_jobs(&self) {
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
        for turn in 0..3000 {
            self.disks_step(false);
            self.settle_jobs();
            self.pass(Duration::from_millis(1));
            self.tend(0)?;
            let done = self.running[0].borrow().as_ref().is_none_or(|r| r.acknowledged == r.mtrs.len());
            if done {
                break;
            }
            if turn == 2999 {
                return Err("L2: a commit is not acknowledged though nothing is wrong any more".into());
            }
        }
        let before = self.world.lock().counts.clean_closes;
        self.begin_close();
        for _ in 0..5000 {
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

/// A process that is gone: its handles must not write any more, and its reservations are dropped unpublished.
fn bury(running: Option<Running>) {
    if let Some(running) = running {
        drop(running.views);
        running.shared.tickets.end(crate::volume::tickets::Ended::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_run() {
        let hash = |seed| run(seed, 300, false).map(|r| r.hash).map_err(|f| f.what);
        assert_eq!(hash(7), hash(7));
    }

    #[test]
    fn a_hundred_lives() {
        let steps = std::env::var("SIM_STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(500);
        let from = std::env::var("SIM_FROM").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
        let to = std::env::var("SIM_TO").ok().and_then(|s| s.parse().ok()).unwrap_or(100);
        for seed in from..to {
            if let Err(f) = run(seed, steps, false) {
                panic!("seed {seed}: {}", f.what);
            }
        }
    }
}
