//! A stage: somebody's own code on a simulated volume, process after process, under the faults of a seed.

use crate::Volume;
use crate::disk::Fleet;
use crate::lsn::{SLOTS, SlotSet};
use crate::segment::recover::{self, Opened};
use crate::segment::superblock::{Durability, Geometry};
use crate::sim::dir::{SimDisk, do_job};
use crate::sim::faults::Fault;
use crate::sim::life::{Running, Sim, SimClock};
use crate::sim::model::State;
use crate::sim::openers::SimFleet;
use crate::sim::world::Weather;
use crate::sim::{Failure, Life, Report};
use crate::volume::error::{CloseError, ReadError, WriteError};
use crate::volume::open::{Handle, build};
use crate::volume::options::Options;
use crate::volume::shared::{Clock, Driver, Shared};
use crate::volume::tickets::Ended;
use parking_lot::Mutex;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Your own code on a simulated volume: [`play`](Stage::play) runs it as one process after another, under the faults of a
/// seed.
///
/// The [`Volume`] is the real one, with all of its calls, in one thread: whoever waits in it lets the simulated world go
/// on instead. Writes land, tear and get lost, disks rot and vanish, time passes, another process takes over, the process
/// is killed, the power goes.
///
/// ```
/// use quorate::sim::Stage;
/// use quorate::{PageId, WriteError};
///
/// // What the outside was told, and what it was not: (value, its commit).
/// let (mut told, mut untold) = (0, None);
/// let report = Stage::new(7).play(|volume| {
///     // A process begins: whatever happened to the one before, its promises hold.
///     let found = u64::from_le_bytes(volume.read(PageId::ROOT)?[..8].try_into()?);
///     if let Some((value, commit)) = untold.take() {
///         told = if volume.outcome(commit)? { value } else { told };
///     }
///     assert_eq!(found, told);
///     for value in found + 1..found + 20 {
///         let mut mtr = volume.begin();
///         mtr.patch(PageId::ROOT, 0, &value.to_le_bytes());
///         let commit = mtr.commit()?;
///         untold = Some((value, commit.unknown()));
///         commit.wait()?; // an error: the process is gone
///         (told, untold) = (value, None);
///     }
///     Ok(())
/// })?;
/// assert!(told > 0 && report.faults.iter().any(|(_, struck)| *struck > 0));
/// # Ok::<(), Box<quorate::sim::Failure>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Stage {
    life: Life,
    options: Options,
    given: Vec<u8>,
}

impl Stage {
    /// The stage of a seed, for about 2000 steps of the world.
    pub fn new(seed: u64) -> Stage {
        Stage { life: Life::new(seed).steps(2000), options: Sim::options(), given: Vec::new() }
    }

    /// After so many steps of the world the faults end. A commit that is waited for takes about 20.
    #[must_use]
    pub fn steps(mut self, steps: u64) -> Stage {
        self.life = self.life.steps(steps);
        self
    }

    /// How the volume is created and opened; otherwise its pages have 4 KiB, and it stalls after 5 s. Checkpoints come
    /// early in either case.
    #[must_use]
    pub fn options(mut self, options: Options) -> Stage {
        self.options = options;
        self
    }

    /// Keeps every event.
    #[must_use]
    pub fn trace(mut self, trace: bool) -> Stage {
        self.life = self.life.trace(trace);
        self
    }

    /// Leaves out these faults, by their numbers within the run: see [`Failure::faults`].
    #[must_use]
    pub fn without(mut self, faults: Vec<u64>) -> Stage {
        self.life = self.life.without(faults);
        self
    }

    /// The world's choices are these bytes, from the last to the first, then the seed's; in peace the seed's alone.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn given(mut self, bytes: &[u8]) -> Stage {
        self.given = bytes.to_vec();
        self
    }

    /// Calls `process` again and again, each time as a new process that has just opened the volume. It must return in
    /// some time by itself. The last one meets no faults: everything must go right.
    ///
    /// Once a process was killed or taken over from, each call of its volume gives an error: return it. Whatever else
    /// is returned, and a panic, says that a check of yours failed. What outlives processes, as the world outside does,
    /// is captured. Use the volume from this thread alone: else a seed does not repeat.
    ///
    /// # Errors
    /// What `process` found wrong, or what was wrong with the volume, with the seed.
    ///
    /// # Panics
    /// As `process` does; the seed is printed.
    pub fn play(&self, mut process: impl FnMut(Volume) -> Result<(), Box<dyn Error>>) -> Result<Report, Box<Failure>> {
        let hand = Arc::new(Stagehand(Mutex::new(Scene::new(self))));
        let played = catch_unwind(AssertUnwindSafe(|| hand.play(self, &mut process)));
        let mut scene = hand.0.lock();
        scene.clear();
        let seed = self.life.seed;
        match played {
            Ok(Ok(())) => Ok(scene.report(seed)),
            Ok(Err(what)) => Err(Box::new(scene.failure(seed, what))),
            Err(panic) => {
                eprintln!("quorate::sim: the play of seed {seed} panicked at step {}", scene.steps);
                resume_unwind(panic)
            }
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}, step {}: {}", self.seed, self.step, self.what)
    }
}

impl Error for Failure {}

/// Who lets the world go on when a process waits.
struct Stagehand(Mutex<Scene>);

impl Driver for Stagehand {
    fn step(&self) {
        // Locked: another thread's call does it, or a waker that it wakes.
        if let Some(mut scene) = self.0.try_lock() {
            scene.step();
        }
    }
}

/// The world of a play, and how far it has come.
struct Scene {
    sim: Sim,
    options: Options,
    steps: u64,
    processes: u64,
    /// What was found wrong with the volume while a process waited.
    broken: Option<String>,
}

/// Attempts to open, with steps of the world between them.
const OPENS: usize = 500;
const STEPS_BETWEEN: usize = 20;

impl Stagehand {
    fn play(
        self: &Arc<Self>,
        stage: &Stage,
        process: &mut dyn FnMut(Volume) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), String> {
        let mut volume = self.create(stage)?;
        loop {
            let result = process(volume.clone());
            let (over, verdict) = {
                let mut scene = self.0.lock();
                // It may have been killed in its last call.
                scene.tend();
                let verdict = scene.judge(result);
                (scene.sim.peace.get(), scene.broken.take().map_or(verdict, Err))
            };
            if let Err(what) = verdict {
                self.0.lock().clear();
                return Err(what);
            }
            match volume.close() {
                Err(e @ (CloseError::NotDurable(_) | CloseError::NotClean(_))) if over => {
                    return Err(format!("though nothing is wrong any more: {e}"));
                }
                _ => (),
            }
            let mut scene = self.0.lock();
            scene.clear();
            if let Some(what) = scene.broken.take() {
                return Err(what);
            }
            if over {
                return Ok(());
            }
            if scene.steps >= stage.life.steps {
                scene.end_faults();
            }
            drop(scene);
            volume = self.open()?;
        }
    }

    /// A play begins with a volume that was created in peace.
    fn create(self: &Arc<Self>, stage: &Stage) -> Result<Volume, String> {
        let handle = {
            let mut scene = self.0.lock();
            scene.options.check().map_err(|e| e.to_string())?;
            scene.sim.make_foreign()?;
            let geometry = scene.geometry();
            let process = scene.sim.world.lock().start_process();
            let fleet = SimFleet { sim: &scene.sim, process, visible: SlotSet::ALL };
            let opened = recover::create(&fleet, geometry, Durability::Dsync).map_err(|e| format!("create: {e}"))?;
            self.stand_up(&mut scene, opened, process)
        };
        handle.make_root().map_err(|e| format!("create: {e}"))?;
        let scene = self.0.lock();
        let mut w = scene.sim.world.lock();
        w.faults.begin();
        w.random.give(&stage.given);
        Ok(Volume::from(handle))
    }

    /// Opens for the next process: again and again, while faults keep it from that.
    fn open(self: &Arc<Self>) -> Result<Volume, String> {
        for _ in 0..OPENS {
            let mut scene = self.0.lock();
            if let Some((opened, process)) = scene.open()? {
                return Ok(Volume::from(self.stand_up(&mut scene, opened, process)));
            }
            (0..STEPS_BETWEEN).for_each(|_| scene.step());
        }
        Err(format!("L2: none of {OPENS} opens succeeds"))
    }

    fn stand_up(self: &Arc<Self>, scene: &mut Scene, opened: Opened, process: usize) -> Handle {
        let geometry = opened.geometry;
        let (previous, bytes_read) = (opened.recovered.choice.decision.number, opened.recovered.bytes_read);
        let world = scene.sim.world.clone();
        world.lock().set_epoch(process, &opened.history);
        world.lock().note(|| format!("p{process} is open: {:?}", opened.history.entries()));
        let dirs = SimFleet { sim: &scene.sim, process, visible: SlotSet::ALL }.dirs();
        let disk = SimDisk { world: world.clone(), process, pg_size: geometry.pg_size, seed: geometry.seed() };
        let clock: Arc<dyn Clock> = Arc::new(SimClock(world.clone()));
        let (mut parts, engine) = build(opened, dirs, Box::new(disk), clock, &scene.options);
        parts.earlier_gone = Box::new(move || world.lock().is_alone(process));
        parts.driver = Some(self.clone());
        #[cfg(feature = "io-uring")]
        let shared = Arc::new(Shared::new(parts, engine, None));
        #[cfg(not(feature = "io-uring"))]
        let shared = Arc::new(Shared::new(parts, engine));
        shared.engine().tidy(previous);
        shared.pump();
        scene.processes += 1;
        *scene.sim.running[0].borrow_mut() = Some(running(process, shared.clone()));
        Handle::simulated(shared, bytes_read)
    }
}

/// A process that has no model: its user knows what must be true.
fn running(process: usize, shared: Arc<Shared>) -> Running {
    Running {
        process,
        shared,
        held: Vec::new(),
        closing: None,
        views: Vec::new(),
        base: State::new(),
        mtrs: Vec::new(),
        newest: State::new(),
        acknowledged: 0,
        stalled: false,
    }
}

impl Scene {
    fn new(stage: &Stage) -> Scene {
        let sim = Sim::new(&stage.life);
        let mut options = stage.options.clone();
        options.checkpoint_bytes = options.checkpoint_bytes.min(256 << 10);
        options.merge_after = Duration::from_millis(300);
        Scene { sim, options, steps: 0, processes: 0, broken: None }
    }

    fn geometry(&self) -> Geometry {
        let mut w = self.sim.world.lock();
        let (high, low) = (w.random.next(), w.random.next());
        let id = uuid::Uuid::from_u128(u128::from(high) << 64 | u128::from(low));
        let Options { page_size, pg_size, .. } = self.options;
        Geometry { volume: id, log: id, page_size, block_size: 4096, pg_size }
    }

    /// The world goes on: something lands, is done, passes, or goes wrong.
    fn step(&mut self) {
        self.steps += 1;
        if std::thread::panicking() {
            return self.clear();
        }
        let (sim, peace) = (&self.sim, self.sim.peace.get());
        match sim.below(1000) {
            // Where nothing else can move, time does.
            0..500 if self.lands() || self.works() => (),
            500..750 if self.works() || self.lands() => (),
            0..750 => self.pass(10),
            // In peace it is not to outrun the work: a close has its time.
            750..800 => self.pass(if peace { 1 } else { [1, 5, 50, 400][sim.below(4)] }),
            800..812 => sim.change_weather(),
            812..816 => sim.mischief(),
            816 | 817 if !peace => (0..2).for_each(|which| sim.kill_one(which)),
            818 => sim.power_cut(),
            819 => self.take_over(),
            _ => _ = self.lands(),
        }
        self.tend();
    }

    /// A write lands. False if none can now.
    fn lands(&self) -> bool {
        self.sim.world.lock().land_one(true).is_some()
    }

    /// The slots' workers do a job. False if there is none.
    fn works(&self) -> bool {
        let of = |which: usize| self.sim.running[which].borrow().as_ref().map(|r| r.process);
        [0, 1].into_iter().filter_map(of).any(|process| do_job(&self.sim.world, process))
    }

    fn pass(&self, ms: u64) {
        self.sim.pass(Duration::from_millis(ms));
        self.housekeep();
    }

    fn housekeep(&self) {
        (0..2).for_each(|which| self.sim.housekeep(which));
    }

    /// Takes in what came back. A process that was killed learns of it: each call gives an error from then on.
    fn tend(&mut self) {
        for which in 0..2 {
            let dead = {
                let running = self.sim.running[which].borrow();
                let w = self.sim.world.lock();
                running.as_ref().filter(|r| !w.is_alive(r.process)).map(|r| r.shared.clone())
            };
            if let Some(shared) = dead {
                shared.reads.closed.store(true, Ordering::SeqCst);
                shared.tickets.end(Ended::Stalled("the process was killed".into()));
            }
            let found = self.sim.tend(which).err().or_else(|| self.sim.failure.borrow_mut().take());
            if let Some(what) = found {
                self.broken.get_or_insert(what);
                return self.clear();
            }
        }
    }

    /// Somebody else opens the volume beside the process, and is gone again: the process must notice.
    fn take_over(&mut self) {
        let young = self.sim.running[0].borrow().is_some();
        if !young || !self.sim.happens(Fault::TakeOver) {
            return;
        }
        let zombie = self.sim.running[0].borrow_mut().take();
        *self.sim.running[1].borrow_mut() = zombie;
        match self.open() {
            Ok(Some((_, process))) => self.sim.world.lock().kill(process),
            Ok(None) => (),
            Err(what) => _ = self.broken.get_or_insert(what),
        }
        // It may have died meanwhile.
        let zombie = self.sim.running[1].borrow_mut().take();
        *self.sim.running[0].borrow_mut() = zombie;
    }

    /// One attempt to open for writing. None: it died, or faults keep it from that.
    fn open(&mut self) -> Result<Option<(Opened, usize)>, String> {
        let sim = &self.sim;
        let process = {
            let mut w = sim.world.lock();
            let process = w.start_process();
            w.counts.opens += 1;
            w.atlas.forget_struck();
            w.note(|| format!("p{process} OPENS"));
            if w.random.one_in(4) && w.faults.happens(Fault::DiesOpening) {
                let calls = w.random.below(120) as u64;
                w.dies_in(process, calls, false);
            }
            process
        };
        let fleet = SimFleet { sim, process, visible: SlotSet::ALL };
        // No second opener races this one: it would be checked against a model that a play does not have.
        sim.opening.set(2);
        let opened = recover::open(&fleet, |_, _| Ok(()));
        sim.opening.set(0);
        if let Some(what) = sim.failure.borrow_mut().take() {
            return Err(what);
        }
        let mut w = sim.world.lock();
        if !w.is_alive(process) {
            return Ok(None);
        }
        match opened {
            Ok(opened) => Ok(Some((opened, process))),
            Err(e) => {
                w.counts.refused += 1;
                w.note(|| format!("p{process} cannot open: {e}"));
                w.kill(process);
                let promised = w.atlas.is_promised_to_write(w.away());
                if promised { Err(format!("A1: an open within the promise is refused: {e}")) } else { Ok(None) }
            }
        }
    }

    /// Whether what a process returned is an end that it could not help.
    fn judge(&self, result: Result<(), Box<dyn Error>>) -> Result<(), String> {
        let Err(e) = result else { return Ok(()) };
        let runs = |r: &Running| matches!(r.shared.tickets.ended(), None | Some(Ended::Closed));
        let gone = !self.sim.running[0].borrow().as_ref().is_some_and(runs);
        let helpless = match find(&*e) {
            Some(_) if gone => true,
            // What a process of a user's may meet while slots come and go.
            Some(Own::Write(WriteError::OutOfSpace { .. } | WriteError::ReadOnly(_)) | Own::Close) => {
                !self.sim.peace.get()
            }
            Some(Own::Read(ReadError::Lost { .. })) => !self.sim.promised(),
            _ => false,
        };
        if helpless { Ok(()) } else { Err(e.to_string()) }
    }

    /// The faults are over.
    fn end_faults(&mut self) {
        let mut w = self.sim.world.lock();
        w.weather = [Weather::Fair; SLOTS];
        w.faults.end();
        // Chance alone comes right in bounded time.
        w.random.give(&[]);
        w.atlas.forget_struck();
        w.spare();
        w.note(|| "the faults are over".into());
        self.sim.peace.set(true);
    }

    /// Every process ends here and now.
    fn clear(&mut self) {
        for running in &self.sim.running {
            if let Some(running) = running.borrow_mut().take() {
                self.sim.world.lock().kill(running.process);
                running.shared.reads.closed.store(true, Ordering::SeqCst);
                running.shared.tickets.end(Ended::Closed);
            }
        }
    }

    fn report(&self, seed: u64) -> Report {
        let mut w = self.sim.world.lock();
        // What the disks hold in the end goes into the hash, too.
        for slot in 0..SLOTS {
            let sums: Vec<String> = w.files[slot]
                .iter()
                .map(|(name, file)| format!("{name} {:?}", file.read(0, usize::MAX).map(|b| crc32fast::hash(&b))))
                .collect();
            sums.into_iter().for_each(|sum| w.note(|| format!("slot {slot}: {sum}")));
        }
        let c = &w.counts;
        let counts = vec![
            ("processes", self.processes),
            ("opens", c.opens),
            ("opens refused", c.refused),
            ("checkpoints", c.checkpoints),
            ("merges", c.merges),
            ("writes landed", c.landed),
        ];
        let faults = Fault::ALL.map(|f| (f, w.faults.struck(f))).to_vec();
        Report { seed, hash: w.hash, steps: self.steps, counts, faults, trace: w.trace.take().unwrap_or_default() }
    }

    fn failure(&self, seed: u64, what: String) -> Failure {
        let mut w = self.sim.world.lock();
        let faults = w.faults.numbered();
        Failure { seed, what, step: self.steps, faults, trace: w.trace.take().unwrap_or_default() }
    }
}

/// An error of this crate.
enum Own<'a> {
    Write(&'a WriteError),
    Read(&'a ReadError),
    Close,
}

/// The error of this crate that an error is, or comes from.
fn find<'a>(e: &'a (dyn Error + 'static)) -> Option<Own<'a>> {
    if let Some(e) = e.downcast_ref() {
        return Some(match e {
            WriteError::Read(e) => Own::Read(e),
            e => Own::Write(e),
        });
    }
    if let Some(e) = e.downcast_ref() {
        return Some(match e {
            ReadError::Mtr(e) => Own::Write(e),
            e => Own::Read(e),
        });
    }
    if e.is::<CloseError>() {
        return Some(Own::Close);
    }
    // An I/O error tells of its own error's source alone.
    let inner = e.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref());
    match inner {
        Some(inner) => find(inner),
        None => e.source().and_then(find),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PageId;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Counts up in page 0, and checks that no count that was acknowledged is ever missing. Returns the last one.
    fn count(stage: &Stage, awaits: bool) -> (Result<Report, Box<Failure>>, u64) {
        let (mut told, mut tried) = (0, 0);
        let result = stage.play(|volume| {
            let found = u64::from_le_bytes(volume.read(PageId::ROOT)?[..8].try_into()?);
            if found < told || found > tried {
                return Err(format!("{found} is not from {told} to {tried}").into());
            }
            // A process that begins has a durable state, and its newest one is the same.
            told = found;
            for next in found + 1..found + 30 {
                let mut mtr = volume.begin();
                mtr.patch(PageId::ROOT, 0, &next.to_le_bytes()).expect(&volume.read(PageId::ROOT)?);
                tried = next;
                let commit = mtr.commit()?;
                if awaits {
                    block_on(commit)?
                } else {
                    commit.wait()?
                }
                told = next;
            }
            Ok(())
        });
        (result, told)
    }

    /// An executor that polls again once it is woken, and would hang if it were not.
    fn block_on<F: Future>(future: F) -> F::Output {
        struct Woken(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let mut future = pin!(future);
        let woken = Arc::new(Woken(true.into()));
        loop {
            assert!(woken.0.swap(false, Ordering::SeqCst), "nobody would poll again");
            let waker = Waker::from(woken.clone());
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
        }
    }

    #[test]
    fn what_was_acknowledged_is_there_whatever_strikes() {
        let (mut faults, mut processes) = ([0; Fault::COUNT], 0);
        for seed in 0..60 {
            let (result, told) = count(&Stage::new(seed), seed % 2 == 0);
            let report = result.unwrap_or_else(|f| panic!("{f}"));
            assert!(told > 0);
            processes += report.counts[0].1;
            faults.iter_mut().zip(report.faults).for_each(|(all, (_, struck))| *all += struck);
        }
        assert!(processes > 300, "{processes} processes");
        let missing: Vec<Fault> = Fault::ALL.into_iter().filter(|f| faults[*f as usize] == 0).collect();
        assert!(missing.len() < 5, "never struck: {missing:?}");
    }

    #[test]
    fn the_same_seed_and_code_are_the_same_run() {
        let hash = |seed| count(&Stage::new(seed), false).0.map(|r| (r.hash, r.steps)).unwrap();
        assert_eq!(hash(3), hash(3));
        assert_ne!(hash(3), hash(4));
    }

    #[test]
    fn a_check_that_fails_names_its_seed() {
        let mut processes = 0;
        let failure = Stage::new(11).play(|_| {
            processes += 1;
            if processes == 3 { Err("the third one".into()) } else { Ok(()) }
        });
        let failure = failure.unwrap_err();
        assert_eq!((failure.seed, failure.what.as_str()), (11, "the third one"));
        assert!(failure.to_string().starts_with("seed 11, step "));
        // An error of the volume that no fault explains.
        let failure = Stage::new(12).play(|volume| Ok(_ = volume.read(PageId(99))?)).unwrap_err();
        assert!(failure.what.contains("page 99 does not exist"), "{failure}");
    }

    #[test]
    fn a_panic_goes_through() {
        let played = catch_unwind(|| Stage::new(1).play(|_| panic!("of the user's")));
        assert_eq!(played.unwrap_err().downcast_ref(), Some(&"of the user's"));
    }

    /// A process that was killed gets an error from each call, at once.
    #[test]
    fn after_a_kill_each_call_is_an_error() {
        let mut killed = 0;
        let result = Stage::new(5).play(|volume| {
            let view = volume.view();
            loop {
                let mut mtr = volume.begin();
                mtr.patch(PageId::ROOT, 0, b"again");
                let Err(e) = mtr.commit().and_then(|c| c.wait()) else {
                    killed += 1;
                    if killed > 200 {
                        return Ok(());
                    } else {
                        continue;
                    };
                };
                if e.to_string().contains("killed") {
                    let steps = || volume.begin().alloc().is_err() && volume.read(PageId::ROOT).is_err();
                    assert!(steps() && view.read(PageId::ROOT).is_err());
                    assert!(volume.clone().close().is_err());
                }
                return Err(e.into());
            }
        });
        result.unwrap_or_else(|f| panic!("{f}"));
    }
}
