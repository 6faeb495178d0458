//! What a process sees of the simulated disks: a slot's directory, and the writer's disk.

use crate::core::writer::Look;
use crate::disk::job::{self, Job, JobKind, Output};
use crate::disk::{Disk, Done, LogWrite, SlotDir};
use crate::lsn::{Lsn, Slot, SlotSet};
use crate::repair::frame::{self, Found};
use crate::segment::name::FileName;
use crate::segment::superblock::{Geometry, PLACE, Places, Superblock};
use crate::segment::tail::{self, Seeds, Stretches};
use crate::sim::faults::Fault;
use crate::sim::file::{BLOCK, File};
use crate::sim::known::Wanted;
use crate::sim::world::{Bytes, Disks, World};
use parking_lot::MutexGuard;
use std::borrow::Cow;
use std::io;
use std::sync::Arc;

/// Calls that fail, one in so many.
const CALLS: usize = 400;

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// One slot's directory, as one process sees it.
pub struct SimDir {
    pub world: World,
    pub process: usize,
    pub slot: Slot,
}

impl SimDir {
    /// The world, for a call that reads. An error if the process is dead, or dies by it.
    fn reads(&self) -> io::Result<MutexGuard<'_, Disks>> {
        let mut w = self.world.lock();
        w.call(self.process, false)?;
        if w.call_fails(Fault::ReadError, 4 * CALLS, self.slot) {
            w.laws.failed(self.process, self.slot);
            return Err(eio());
        }
        Ok(w)
    }

    /// The world, for a call that writes.
    fn writes(&self) -> io::Result<MutexGuard<'_, Disks>> {
        let mut w = self.world.lock();
        w.call(self.process, true)?;
        if w.call_fails(Fault::WriteError, CALLS, self.slot) {
            w.laws.failed(self.process, self.slot);
            return Err(eio());
        }
        Ok(w)
    }

    /// Hands what was written of a range of a frame to `f`, without a copy.
    pub fn look(&self, name: FileName, offset: u64, most: usize, f: impl FnOnce(&[u8])) -> io::Result<()> {
        let mut w = self.reads()?;
        let file = w.reach(self.process, self.slot, false)?.get(&name).ok_or(io::ErrorKind::NotFound)?;
        file.peek_written(offset, most).map(f).ok_or_else(eio)
    }

    /// A write, durable by itself or by a flush: it may die in the midst of it, and then land late.
    fn write(&self, name: FileName, offset: u64, bytes: &[u8], durable: bool, zeroes: bool) -> io::Result<()> {
        let alive_before = self.world.lock().is_alive(self.process);
        let mut w = match self.writes() {
            Ok(w) => w,
            Err(e) => {
                let mut w = self.world.lock();
                if alive_before && !w.is_alive(self.process) && w.random.one_in(2) {
                    w.fly(self.process, self.slot, name, offset, Bytes::Own(bytes.to_vec()), false);
                }
                return Err(e);
            }
        };
        let (p, slot) = (self.process, self.slot);
        w.note(format_args!("p{p} slot {slot} writes {name} at {offset}"));
        w.reach(p, slot, true)?;
        let superblock = if let FileName::Epoch(_) = name {
            let file = w.reach(p, slot, true)?.get(&name);
            let known = file.and_then(|file| file.superblock_in(bytes));
            known.or_else(|| Superblock::decode(bytes).ok().map(Arc::new))
        } else {
            None
        };
        // What nobody will find is judged as far as the process relies on it.
        if let (FileName::Epoch(n), Some(superblock)) = (name, &superblock) {
            w.judge_superblock(p, slot, n, offset as usize / PLACE, superblock);
        } else if zeroes {
            w.judge_zeroing(p, slot, name, offset, bytes.len());
        } else if !w.holds_another(p, slot) {
            w.judge_write(p, slot, name, offset, bytes);
        }
        // It may be the slot's only superblock that is lost, or written over.
        let allowed = w.atlas.may_spoil(slot, w.away());
        let lost = allowed && w.hurts(Fault::LostWrite, 3000, slot);
        let astray = !lost && allowed && w.hurts(Fault::Misdirected, 3000, slot);
        if lost || astray {
            w.atlas.spoils(slot);
        }
        let file = w.reach(p, slot, true)?.entry(name).or_default();
        if lost {
            return Ok(());
        }
        let mut offset = offset;
        if astray {
            let file = file.clone();
            offset = file.somewhere(w.faults.random());
        }
        let file = w.reach(p, slot, true)?.entry(name).or_default();
        if astray {
            file.goes_astray(offset, bytes.len());
        }
        file.land(offset, bytes, durable, |_| true);
        if let Some(superblock) = superblock {
            file.holds(offset, superblock);
        }
        Ok(())
    }
}

impl SlotDir for SimDir {
    fn list(&self) -> io::Result<Vec<FileName>> {
        let mut w = self.reads()?;
        w.reach(self.process, self.slot, false)?;
        if w.holds_another(self.process, self.slot) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another directory is in the slot's place"));
        }
        let names: Vec<FileName> = w.reach(self.process, self.slot, false)?.keys().copied().collect();
        w.listed(self.process, self.slot, &names);
        Ok(names)
    }

    fn create_new(&self, name: FileName) -> io::Result<()> {
        let alive_before = self.world.lock().is_alive(self.process);
        let called = self.writes().map(|_| ());
        let mut w = self.world.lock();
        // Killed in the call: the file may be there or not.
        let died = alive_before && !w.is_alive(self.process);
        if called.is_err() && !(died && w.random.one_in(2)) {
            return called;
        }
        let (p, slot) = (self.process, self.slot);
        let files = w.reach(self.process, self.slot, true)?;
        if files.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        files.insert(name, File::default());
        w.note(format_args!("p{p} slot {slot} creates {name}"));
        if called.is_ok() {
            w.created(p, slot, name);
        }
        called
    }

    fn read(&self, name: FileName, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let mut w = self.reads()?;
        let file = w.reach(self.process, self.slot, false)?.get(&name).ok_or(io::ErrorKind::NotFound)?;
        file.read(offset, most).ok_or_else(eio)
    }

    fn read_with(&self, name: FileName, offset: u64, len: usize, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut w = self.reads()?;
        let file = w.reach(self.process, self.slot, false)?.get(&name).ok_or(io::ErrorKind::NotFound)?;
        if file.read_with(offset, len, f) { Ok(()) } else { Err(eio()) }
    }

    fn read_shared(&self, name: FileName, offset: u64, most: usize) -> io::Result<Arc<Vec<u8>>> {
        let mut w = self.reads()?;
        let file = w.reach(self.process, self.slot, false)?.get_mut(&name).ok_or(io::ErrorKind::NotFound)?;
        let read = if let FileName::Segment(_) = name { File::read_written } else { File::read_shared };
        read(file, offset, most).ok_or_else(eio)
    }

    fn places(&self, name: FileName, bytes: &Arc<Vec<u8>>) -> Option<Places> {
        self.world.lock().files_of(self.process, self.slot).0?.get(&name)?.places(bytes)
    }

    fn groups(&self, name: FileName, bytes: &Arc<Vec<u8>>, of: Seeds) -> Stretches {
        let find = || tail::whole(bytes, of);
        let mut w = self.world.lock();
        let file = w.files_of(self.process, self.slot).0.and_then(|files| files.get(&name));
        file.and_then(|file| file.groups(bytes, of, &find)).unwrap_or_else(find)
    }

    fn write_at(&self, name: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut whole = Cow::Borrowed(bytes);
        if !bytes.len().is_multiple_of(BLOCK) {
            whole.to_mut().resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        self.write(name, offset, &whole, true, false)
    }

    fn write_many(&self, name: FileName, writes: &[(u64, &[u8])]) -> io::Result<()> {
        for (offset, bytes) in writes {
            self.write(name, *offset, bytes, false, false)?;
        }
        self.flush(name)
    }

    fn allocate(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        let mut w = self.writes()?;
        let grows = w.allocating_grows;
        let file = w.reach(self.process, self.slot, true)?.entry(name).or_default();
        if grows {
            file.allocate(offset + len);
        }
        Ok(())
    }

    fn zero(&self, name: FileName, offset: u64, len: usize) -> io::Result<()> {
        self.write(name, offset, &vec![0; len], true, true)
    }

    fn flush(&self, name: FileName) -> io::Result<()> {
        let mut w = self.writes()?;
        if !w.reach(self.process, self.slot, false)?.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let allowed = w.atlas.may_strike(self.slot, w.away());
        let fails = allowed && w.hurts(Fault::FlushError, CALLS, self.slot);
        let others: Vec<usize> = if fails { w.alive().filter(|p| *p != self.process).collect() } else { Vec::new() };
        let process = self.process;
        let Some(file) = w.reach(process, self.slot, false)?.get_mut(&name) else { return Ok(()) };
        if fails {
            file.fail_flush(others.into_iter());
            w.atlas.strikes(self.slot);
            return Err(eio());
        }
        let told = file.is_owed(process, allowed);
        file.flush();
        if told {
            w.atlas.strikes(self.slot);
            return Err(eio());
        }
        w.flushed(self.process);
        Ok(())
    }

    fn drain(&self, name: FileName) -> io::Result<()> {
        let mut w = self.writes()?;
        let (p, slot) = (self.process, self.slot);
        if w.flying.iter().any(|f| f.slot == slot && f.name == name && f.process != p && f.tell) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        w.drain(p, slot, name);
        w.note(format_args!("p{p} slot {slot} drains {name}"));
        Ok(())
    }

    fn punch(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        let mut w = self.writes()?;
        w.reach(self.process, self.slot, true)?.get_mut(&name).ok_or(io::ErrorKind::NotFound)?.punch(offset, len);
        w.counts.punched += 1;
        let (p, slot) = (self.process, self.slot);
        w.note(format_args!("p{p} slot {slot} punches {name} at {offset}, {len}"));
        if !w.holds_another(p, slot) {
            w.judge_punch(p, slot, name, offset, len);
        }
        Ok(())
    }

    fn read_anew(&self) {
        self.world.lock().read_anew(self.slot);
    }

    fn reopen(&self) {
        self.world.lock().let_go(self.process, self.slot);
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        let mut w = self.writes()?;
        w.reach(self.process, self.slot, true)?;
        if !w.holds_another(self.process, self.slot) {
            w.judge_removal(self.process, self.slot, name);
        }
        let file = w.reach(self.process, self.slot, true)?.remove(&name);
        if let (FileName::Segment(_), Some(file)) = (name, file) {
            w.counts.groups_removed += 1;
            let directory = w.held(self.process, self.slot);
            w.removed.push((directory, name, file));
        }
        Ok(())
    }
}

/// The writer's disk, as one process sees it.
pub struct SimDisk {
    pub world: World,
    pub process: usize,
    pub pg_size: u64,
    /// Of the log's checksums.
    pub seed: u32,
}

impl Disk for SimDisk {
    fn write(&mut self, write: LogWrite) {
        let (name, offset) = FileName::segment_of(write.from, self.pg_size);
        let len = (write.to - write.from) as usize;
        let bytes = Bytes::Frame { frame: write.frame, from: write.from, len };
        let mut w = self.world.lock();
        if w.atlas.is_beyond() {
            bytes.with(|b| w.remember(self.process, write.from, b, self.seed, self.pg_size));
        }
        bytes.with(|b| w.judge_log_write(self.process, write.slot, write.from, b));
        w.fly(self.process, write.slot, name, offset, bytes, true);
    }

    fn job(&mut self, slot: Slot, job: Job) {
        let mut w = self.world.lock();
        w.judge_job(self.process, slot, &job);
        w.processes[self.process].jobs.push((slot, job));
    }

    /// A replaced directory is noticed sooner or later.
    fn lost(&mut self, _needs: &dyn Fn(u64) -> bool) -> SlotSet {
        let mut w = self.world.lock();
        let now = w.generations;
        let process = &w.processes[self.process];
        let lost: SlotSet = Slot::ALL.into_iter().filter(|s| process.knows[s.index()] != now[s.index()]).collect();
        if lost.len() > 0 && w.random.one_in(3) {
            w.processes[self.process].knows = now;
            return lost;
        }
        SlotSet::NONE
    }

    fn look(&mut self, quorum: Lsn) -> Option<Look> {
        let mut w = self.world.lock();
        w.look_begins(self.process, quorum);
        if w.random.one_in(2) {
            let look = w.judge(self.process);
            if look == Look::Clear {
                w.look_is_clear(self.process, quorum);
            }
            // Unsure would ask through jobs: here the answer simply comes later.
            if look != Look::Unsure {
                return Some(look);
            }
        }
        w.processes[self.process].looks.push(quorum);
        None
    }

    fn submit(&mut self) {}

    fn reap(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.world.lock().processes[self.process].done);
    }
}

/// Does one job of a process. True if there was one.
pub fn do_job(world: &World, process: usize) -> bool {
    let mut w = world.lock();
    if w.random.one_in(3) && w.answer_look(process) {
        return true;
    }
    let Some((slot, job)) = w.next_job(process) else { return w.answer_look(process) };
    let kind = job.kind();
    w.note(format_args!("p{process} slot {slot} does {kind:?}"));
    drop(w);
    let dir = SimDir { world: world.clone(), process, slot };
    let read = if let Job::Rejoin { read, .. } = &job { Some(read.from) } else { None };
    world.lock().mends(process, kind == JobKind::Mend);
    let output = match &job {
        Job::Copy { geometry, .. } => {
            let g = *geometry;
            let find = |bytes: &[u8], here, at, epoch| find(&dir, &g, bytes, here, (at, epoch, g.seed()));
            job::run_by(&dir, job, Some(&find))
        }
        _ => job::run(&dir, job),
    };
    world.lock().mends(process, false);
    if let Err(e) = &output {
        world.lock().note(format_args!("p{process} slot {slot} {kind:?}: {e}"));
    }
    if let Some(from) = read {
        let verified = if let Ok(Output::Returned(r)) = &output { Some((from, r.verified)) } else { None };
        world.lock().read_back(process, slot, verified);
    }
    world.lock().job_done(process, Done::Job { slot, kind, output });
    true
}

/// A group in what was just read of the slot's segment.
fn find(dir: &SimDir, g: &Geometry, bytes: &[u8], here: usize, wanted: Wanted) -> Option<Found> {
    let (at, epoch, seed) = wanted;
    let (name, offset) = FileName::segment_of(at, g.pg_size);
    let mut w = dir.world.lock();
    let (files, known) = w.files_of(dir.process, dir.slot);
    let Some(file) = files.and_then(|files| files.get(&name)) else {
        return frame::found(bytes, here, at, epoch, seed);
    };
    if let Some(found) = known.get(wanted, file, offset).filter(|f| f.range.end <= bytes.len()) {
        return Some(found);
    }
    let found = frame::found(bytes, here, at, epoch, seed)?;
    known.put(wanted, file, offset, found.len, found.clone());
    Some(found)
}
