//! The seams of the real code, as the stage has them: a fleet and directories behind a hook, a disk that lands nothing by
//! itself.

use crate::core::writer::Look;
use crate::disk::job::Job;
use crate::disk::{Disk, Done, Fleet, LogWrite, SlotDir};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use crate::segment::name::FileName;
use crate::sim::file::{BLOCK, File};
use crate::sim::scenario::{Act, Bytes, Call, Flight, Op, PG, Stage};
use crate::volume::shared::Clock;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct StageClock(pub Stage);

impl Clock for StageClock {
    fn now(&self) -> Duration {
        self.0.0.disks.lock().now
    }

    fn wall_us(&self) -> u64 {
        self.now().as_micros() as u64
    }
}

/// The fleet of one opener: its calls come slot by slot, and its hook is asked before each.
pub(super) struct StageFleet {
    pub stage: Stage,
    pub process: usize,
    pub visible: SlotSet,
}

impl Fleet for StageFleet {
    fn each<T: Send + 'static>(
        &self,
        set: SlotSet,
        call: impl Fn(Slot, &dyn SlotDir) -> io::Result<T> + Send + Sync + 'static,
    ) -> [Option<io::Result<T>>; SLOTS] {
        let mut out: [Option<io::Result<T>>; SLOTS] = [const { None }; SLOTS];
        for slot in set.iter() {
            let dir = self.stage.dir(self.process, slot);
            let reached = self.visible.contains(slot);
            out[slot.index()] = Some(if reached { call(slot, &dir) } else { Err(io::ErrorKind::NotFound.into()) });
        }
        out
    }

    fn dirs(&self) -> [Option<Arc<dyn SlotDir>>; SLOTS] {
        let dir = |s: Slot| Arc::new(self.stage.dir(self.process, s)) as Arc<dyn SlotDir>;
        Slot::ALL.map(|s| self.visible.contains(s).then(|| dir(s)))
    }
}

/// One slot's directory: the simulator's, behind the hook.
pub struct StageDir {
    pub stage: Stage,
    pub process: usize,
    pub slot: Slot,
}

impl StageDir {
    /// The slot's files, unless the process is dead or the slot fails.
    fn files<T>(&self, f: impl FnOnce(&mut BTreeMap<FileName, File>) -> io::Result<T>) -> io::Result<T> {
        let mut disks = self.stage.0.disks.lock();
        if !disks.alive[self.process] {
            return Err(io::Error::other("the process was killed"));
        }
        if disks.failing.contains(self.slot) {
            return Err(io::Error::from_raw_os_error(5));
        }
        f(&mut disks.files[self.slot.index()])
    }

    fn file<T>(&self, name: FileName, f: impl FnOnce(&mut File) -> T) -> io::Result<T> {
        self.files(|files| files.get_mut(&name).map(f).ok_or_else(|| io::ErrorKind::NotFound.into()))
    }

    /// Makes a call, or dies before or in it.
    fn ask(&self, op: Op, name: Option<FileName>) -> Act {
        let process = self.process;
        // A dead process calls nothing any more.
        let alive = self.stage.is_alive(process);
        let hook = self.stage.0.hooks.lock().remove(&process).filter(|_| alive);
        let Some(mut hook) = hook else { return Act::Go };
        let act = hook(Call { slot: self.slot, op, name });
        self.stage.0.hooks.lock().insert(process, hook);
        act
    }

    fn make<T>(&self, op: Op, name: Option<FileName>, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let process = self.process;
        match self.ask(op, name) {
            Act::Go => call(),
            Act::Die => {
                self.stage.kill(process);
                call()
            }
            Act::DieInIt => {
                let _ = call();
                self.stage.kill(process);
                Err(io::Error::other("the process was killed"))
            }
            Act::Fail => {
                name.map_or(Ok(false), |name| self.file(name, |file| file.fail_flush(std::iter::empty())))?;
                Err(io::Error::from_raw_os_error(5))
            }
        }
    }

    fn write(&self, name: FileName, offset: u64, bytes: &[u8], durable: bool) -> io::Result<()> {
        let (process, slot) = (self.process, self.slot);
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        match self.ask(Op::Write, Some(name)) {
            Act::Go | Act::Fail => (),
            Act::Die => self.stage.kill(process),
            Act::DieInIt => {
                let bytes = Bytes::Own(bytes.clone());
                let flight = Flight { process, slot, name, offset, bytes, tell: false, hung: false };
                self.stage.0.flights.lock().push(flight);
                self.stage.kill(process);
            }
        }
        self.files(|files| {
            files.entry(name).or_default().land(offset, &bytes, durable, |_| true);
            Ok(())
        })
    }
}

impl SlotDir for StageDir {
    fn list(&self) -> io::Result<Vec<FileName>> {
        self.make(Op::List, None, || self.files(|files| Ok(files.keys().copied().collect())))
    }

    fn create_new(&self, name: FileName) -> io::Result<()> {
        self.make(Op::Create, Some(name), || {
            self.files(|files| match files.contains_key(&name) {
                true => Err(io::ErrorKind::AlreadyExists.into()),
                false => {
                    files.insert(name, File::default());
                    Ok(())
                }
            })
        })
    }

    fn read(&self, name: FileName, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let unreadable = || io::Error::from_raw_os_error(5);
        self.make(Op::Read, Some(name), || self.file(name, |file| file.read(offset, most))?.ok_or_else(unreadable))
    }

    fn write_at(&self, name: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(name, offset, bytes, true)
    }

    fn write_many(&self, name: FileName, writes: &[(u64, &[u8])]) -> io::Result<()> {
        writes.iter().try_for_each(|(offset, bytes)| self.write(name, *offset, bytes, false))?;
        self.flush(name)
    }

    fn allocate(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        self.make(Op::Allocate, Some(name), || {
            self.files(|files| {
                files.entry(name).or_default().allocate(offset + len);
                Ok(())
            })
        })
    }

    fn flush(&self, name: FileName) -> io::Result<()> {
        self.make(Op::Flush, Some(name), || self.file(name, File::flush))
    }

    /// Waits for what dead processes have in flight to the file: it lands. A zombie's is not waited for.
    fn drain(&self, name: FileName) -> io::Result<()> {
        let (process, slot) = (self.process, self.slot);
        self.make(Op::Drain, Some(name), || {
            let of_others = |f: &&Flight| f.slot == slot && f.name == name && f.process != process;
            let flights: Vec<(usize, bool)> =
                self.stage.0.flights.lock().iter().filter(of_others).map(|f| (f.process, f.tell)).collect();
            if flights.iter().any(|(_, alive)| *alive) {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            self.stage.0.flights.lock().iter_mut().filter(|f| of_others(&&**f)).for_each(|f| f.hung = false);
            for (dead, _) in flights {
                self.stage.land_one(dead, slot);
            }
            Ok(())
        })
    }

    fn punch(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        self.make(Op::Punch, Some(name), || self.file(name, |file| file.punch(offset, len)))
    }

    fn read_anew(&self) {
        for file in self.stage.0.disks.lock().files[self.slot.index()].values_mut() {
            file.doomed().into_iter().for_each(|at| file.land(at, &[0xA5; BLOCK], true, |_| true));
        }
    }

    fn reopen(&self) {
        self.read_anew();
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.make(Op::Remove, Some(name), || {
            self.files(|files| {
                files.remove(&name);
                Ok(())
            })
        })
    }
}

/// The writer's disk: writes wait for the script.
pub(super) struct StageDisk {
    pub stage: Stage,
    pub process: usize,
    pub number: u64,
}

impl Disk for StageDisk {
    fn write(&mut self, write: LogWrite) {
        let LogWrite { slot, from, to, frame } = write;
        let (name, offset) = FileName::segment_of(from, PG);
        let bytes = Bytes::Frame { address: frame.pointer(from).addr(), len: (to - from) as usize, _held: frame };
        let flight = Flight { process: self.process, slot, name, offset, bytes, tell: true, hung: false };
        self.stage.0.flights.lock().push(flight);
    }

    fn job(&mut self, slot: Slot, job: Job) {
        self.stage.hands(self.process, |h| h.jobs.push((slot, job)));
    }

    fn look(&mut self, quorum: Lsn) -> Option<Look> {
        let look = self.stage.judge(self.process, self.number);
        self.stage.hands(self.process, |h| {
            if h.unsure {
                return Some(Look::Unsure);
            }
            if h.holds_looks {
                h.held.push(Done::Looked { quorum, look });
                return None;
            }
            Some(look)
        })
    }

    fn submit(&mut self) {}

    fn reap(&mut self, done: &mut Vec<Done>) {
        self.stage.hands(self.process, |h| done.append(&mut h.done));
    }
}
