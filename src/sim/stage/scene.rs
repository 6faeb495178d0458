//! The world of a play: its steps, who lives in it, and what is an end that a process could not help.

use super::Stage;
use crate::Volume;
use crate::lsn::SLOTS;
use crate::segment::superblock::Geometry;
use crate::sim::dir::do_job;
use crate::sim::faults::Fault;
use crate::sim::life::{Attempt, Rival, Running, Sim};
use crate::sim::world::Weather;
use crate::sim::{Failure, Report};
use crate::volume::error::{CloseError, OpenError, ReadError, WriteError};
use crate::volume::options::Options;
use crate::volume::tickets::Ended;
use std::error::Error;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The world of a play, and how far it has come.
pub struct Scene {
    pub sim: Sim,
    pub options: Options,
    pub steps: u64,
    pub processes: u64,
    /// Writers that took over beside a process, at its wish.
    pub overtakers: u64,
    /// What the present process has opened beside its own volume, the youngest last.
    pub opened: Vec<Volume>,
    /// Its readers' processes.
    pub readers: Vec<usize>,
    /// What was found wrong with the volume while a process waited.
    pub broken: Option<String>,
}

impl Scene {
    pub fn new(stage: &Stage) -> Scene {
        let sim = Sim::new(&stage.life);
        let mut options = stage.options.clone();
        options.checkpoint_bytes = options.checkpoint_bytes.min(256 << 10);
        options.merge_after = Duration::from_millis(300);
        *sim.rival.borrow_mut() = Rival::Nobody;
        let (opened, readers) = (Vec::new(), Vec::new());
        Scene { sim, options, steps: 0, processes: 0, overtakers: 0, opened, readers, broken: None }
    }

    pub fn geometry(&self) -> Geometry {
        let mut w = self.sim.world.lock();
        let (high, low) = (w.random.next(), w.random.next());
        let id = uuid::Uuid::from_u128(u128::from(high) << 64 | u128::from(low));
        let Options { page_size, pg_size, .. } = self.options;
        Geometry { volume: id, log: id, page_size, block_size: 4096, pg_size }
    }

    /// The world goes on: something lands, is done, passes, or goes wrong.
    pub fn step(&mut self) {
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
            816 | 817 if !peace => (0..sim.running.len()).for_each(|which| sim.kill_one(which)),
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
        (0..self.sim.running.len()).filter_map(of).any(|process| do_job(&self.sim.world, process))
    }

    fn pass(&self, ms: u64) {
        self.sim.pass(Duration::from_millis(ms));
        self.housekeep();
    }

    fn housekeep(&self) {
        (0..self.sim.running.len()).for_each(|which| self.sim.housekeep(which));
    }

    /// Takes in what came back. A process that was killed learns of it: each call gives an error from then on.
    pub fn tend(&mut self) {
        for which in 0..self.sim.running.len() {
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
        self.make_room();
        match self.open() {
            Ok(Ok((_, process))) => self.sim.world.lock().kill(process),
            Ok(Err(_)) => (),
            Err(what) => _ = self.broken.get_or_insert(what),
        }
        self.nobody_came();
    }

    /// The youngest writer makes room for a younger one; the oldest of three is gone.
    pub fn make_room(&self) {
        let running = &self.sim.running;
        if let Some(oldest) = running[2].borrow().as_ref() {
            self.sim.world.lock().kill(oldest.process);
        }
        self.sim.tend(2).unwrap_or_else(|what| self.sim.keep_failure(Err(what)));
        running[2].swap(&running[1]);
        running[1].swap(&running[0]);
    }

    /// It is the youngest again. It may have died meanwhile.
    pub fn nobody_came(&self) {
        let running = &self.sim.running;
        running[0].swap(&running[1]);
        running[1].swap(&running[2]);
    }

    /// One attempt to open for writing, beside which another may come: that one is gone again.
    pub fn open(&mut self) -> Result<Attempt, String> {
        let opened = self.sim.attempt(true);
        if let Rival::Came(rival) = self.sim.rival.replace(Rival::Nobody)
            && let Ok((_, process)) = *rival
        {
            self.sim.world.lock().kill(process);
        }
        opened
    }

    /// Whether what a process returned is an end that it could not help.
    pub fn judge(&self, result: Result<(), Box<dyn Error>>) -> Result<(), String> {
        let Err(e) = result else { return Ok(()) };
        let runs = |r: &Running| matches!(r.shared.tickets.ended(), None | Some(Ended::Closed));
        let gone = !self.sim.running[0].borrow().as_ref().is_some_and(runs);
        let overtaken = self.sim.running[1].borrow().is_some();
        let helpless = match find(&*e) {
            Some(_) if gone => true,
            // The stage has judged that open itself.
            Some(Own::Open) => true,
            // A zombie's.
            Some(Own::Write(WriteError::ReadOnly(_) | WriteError::Closed) | Own::Close) if overtaken => true,
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
    pub fn end_faults(&mut self) {
        let mut w = self.sim.world.lock();
        w.weather = [Weather::Fair; SLOTS];
        w.faults.end();
        // Chance alone comes right in bounded time.
        w.random.give(&[]);
        w.atlas.forget_struck();
        w.spare();
        w.note(format_args!("the faults are over"));
        self.sim.peace.set(true);
    }

    /// Every process ends here and now.
    pub fn clear(&mut self) {
        for running in &self.sim.running {
            if let Some(running) = running.borrow_mut().take() {
                self.sim.world.lock().kill(running.process);
                running.shared.reads.closed.store(true, Ordering::SeqCst);
                running.shared.tickets.end(Ended::Closed);
            }
        }
        self.readers.drain(..).for_each(|reader| self.sim.world.lock().kill(reader));
    }

    pub fn report(&self, seed: u64) -> Report {
        let mut w = self.sim.world.lock();
        // What the disks hold in the end goes into the hash, too.
        for slot in 0..SLOTS {
            let sums: Vec<String> = w.files[slot]
                .iter()
                .map(|(name, file)| format!("{name} {:?}", file.read(0, usize::MAX).map(|b| crc32fast::hash(&b))))
                .collect();
            sums.into_iter().for_each(|sum| w.note(format_args!("slot {slot}: {sum}")));
        }
        let c = &w.counts;
        let counts = vec![
            ("processes", self.processes),
            ("opens", c.opens),
            ("opens refused", c.refused),
            ("read-only opens", c.readers),
            ("take-overs", self.overtakers),
            ("checkpoints", c.checkpoints),
            ("merges", c.merges),
            ("writes landed", c.landed),
        ];
        let faults = Fault::ALL.map(|f| (f, w.faults.struck(f))).to_vec();
        Report { seed, hash: w.hash, steps: self.steps, counts, faults, trace: w.trace.take().unwrap_or_default() }
    }

    pub fn failure(&self, seed: u64, what: String) -> Failure {
        let mut w = self.sim.world.lock();
        let faults = w.faults.numbered();
        Failure { seed, what, step: self.steps, faults, trace: w.trace.take().unwrap_or_default() }
    }
}

/// An error of this crate.
enum Own<'a> {
    Write(&'a WriteError),
    Read(&'a ReadError),
    Open,
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
    if e.is::<OpenError>() {
        return Some(Own::Open);
    }
    // An I/O error tells of its own error's source alone.
    let inner = e.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref());
    match inner {
        Some(inner) => find(inner),
        None => e.source().and_then(find),
    }
}
