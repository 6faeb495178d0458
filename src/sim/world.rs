//! The simulated disks: six slots, whose files hold what is durable, what sits in a device's cache, and what is still in
//! flight from processes that may be dead.
//!
//! A write lands when the world lets it: whole or torn, in any order between slots, long after its process was killed.
//! A power cut ruins every sector that is in flight or not flushed, on all slots: old, new, or garbage.

use crate::core::writer::Look;
use crate::disk::job::{self, Job};
use crate::disk::{Disk, Done, LogWrite, SlotDir};
use crate::log::ring::Frame;
use crate::lsn::{Lsn, SLOTS, Slot};
use crate::segment::name::FileName;
use crate::sim::random::Random;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;

type Block = Box<[u8; BLOCK]>;

/// A file: blocks that were written; others read as zeros.
#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) blocks: BTreeMap<u64, Block>,
    /// Blocks that a power cut may turn back or ruin, with what is durable below.
    pub(super) cached: BTreeMap<u64, Option<Block>>,
    len: u64,
}

impl File {
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = (self.len.saturating_sub(offset)).min(buf.len() as u64) as usize;
        buf[..n].fill(0);
        let (first, last) = (offset / BLOCK as u64, (offset + n as u64).div_ceil(BLOCK as u64));
        for (index, block) in self.blocks.range(first..last) {
            let at = index * BLOCK as u64;
            let (from, to) = (at.max(offset), (at + BLOCK as u64).min(offset + n as u64));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&block[(from - at) as usize..(to - at) as usize]);
            }
        }
        n
    }

    /// Lets the sectors of a block-aligned write land for which `keep` says so. Volatile: a power cut may ruin them.
    pub(super) fn land(&mut self, offset: u64, bytes: &[u8], durable: bool, mut keep: impl FnMut(usize) -> bool) {
        assert!(offset.is_multiple_of(BLOCK as u64), "writes are whole blocks");
        for (i, chunk) in bytes.chunks(BLOCK).enumerate() {
            let index = offset / BLOCK as u64 + i as u64;
            let old = self.blocks.get(&index).cloned();
            let mut new = old.clone().unwrap_or_else(|| Box::new([0; BLOCK]));
            let mut any = false;
            for (s, sector) in chunk.chunks(SECTOR).enumerate() {
                if keep(i * BLOCK / SECTOR + s) {
                    new[s * SECTOR..s * SECTOR + sector.len()].copy_from_slice(sector);
                    any = true;
                }
            }
            if !any {
                continue;
            }
            if durable {
                self.cached.remove(&index);
            } else {
                self.cached.entry(index).or_insert(old);
            }
            self.blocks.insert(index, new);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    /// The power goes: what was not flushed is old, new or garbage, sector by sector.
    fn power_cut(&mut self, random: &mut Random) {
        for (index, old) in std::mem::take(&mut self.cached) {
            let old = old.unwrap_or_else(|| Box::new([0; BLOCK]));
            if let Some(block) = self.blocks.get_mut(&index) {
                for s in 0..BLOCK / SECTOR {
                    let range = s * SECTOR..(s + 1) * SECTOR;
                    match random.below(3) {
                        0 => block[range.clone()].copy_from_slice(&old[range]),
                        1 => (),
                        _ => block[range].copy_from_slice(&random.bytes(SECTOR)),
                    }
                }
            }
        }
    }
}

/// A write that has not landed.
struct Flying {
    id: u64,
    process: usize,
    slot: Slot,
    name: FileName,
    offset: u64,
    bytes: Bytes,
    /// Its process will be told; a dead one's are late.
    tell: bool,
    /// It does not land before this moment.
    hung_until: Duration,
}

enum Bytes {
    /// From the ring: read when it lands, so that a frame that was reused under it would show.
    Frame {
        frame: Arc<Frame>,
        from: Lsn,
        len: usize,
    },
    Own(Vec<u8>),
}

impl Bytes {
    fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Bytes::Own(bytes) => f(bytes),
            // SAFETY: the range was sealed and published before the writer handed it out, and the frame is held.
            #[allow(unsafe_code)]
            Bytes::Frame { frame, from, len } => unsafe { frame.read(*from, *len, f) },
        }
    }
}

/// A slot's health, as the fault plan has it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Weather {
    #[default]
    Fair,
    /// Its directory is gone.
    Gone,
    /// Every call fails.
    Failing,
    /// Log writes stay out.
    Hanging,
    /// No more space.
    Full,
}

/// What happened, for the report.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    pub landed: u64,
    pub late: u64,
    pub torn: u64,
    pub lost: u64,
    pub errors: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub opens: u64,
    pub forced_opens: u64,
    pub clean_closes: u64,
    pub commits: u64,
    pub acknowledged: u64,
    pub checkpoints: u64,
    pub merges: u64,
    pub away: u64,
}

/// One process, as the disks see it.
struct Process {
    alive: bool,
    /// It dies at the call after so many.
    dies_in: Option<u64>,
    done: Vec<Done>,
    jobs: Vec<(Slot, Job)>,
    looks: Vec<Lsn>,
    epoch: u64,
}

/// All disks and what is in flight to them.
pub struct Disks {
    pub(super) files: Vec<BTreeMap<FileName, File>>,
    pub weather: [Weather; SLOTS],
    flying: Vec<Flying>,
    next_id: u64,
    processes: Vec<Process>,
    pub random: Random,
    pub counts: Counts,
    pub now: Duration,
    /// Every event goes into it: the same seed gives the same hash on every machine.
    pub hash: u64,
    pub trace: Option<Vec<String>>,
}

pub type World = Arc<Mutex<Disks>>;

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

impl Disks {
    pub fn new(seed: u64, trace: bool) -> Disks {
        Disks {
            files: (0..SLOTS).map(|_| BTreeMap::new()).collect(),
            weather: [Weather::Fair; SLOTS],
            flying: Vec::new(),
            next_id: 0,
            processes: Vec::new(),
            random: Random::new(seed),
            counts: Counts::default(),
            now: Duration::ZERO,
            hash: 0xCBF2_9CE4_8422_2325,
            trace: trace.then(Vec::new),
        }
    }

    /// Notes an event: it goes into the run's hash, and into the trace if there is one.
    pub fn note(&mut self, event: impl FnOnce() -> String) {
        let text = event();
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} {text}", now.as_secs_f64() * 1e3));
        }
    }

    /// A process that was to die lives on.
    pub fn spare(&mut self) {
        self.processes.iter_mut().for_each(|p| p.dies_in = None);
    }

    pub fn start_process(&mut self) -> usize {
        let jobs = Vec::new();
        self.processes.push(Process {
            alive: true,
            dies_in: None,
            done: Vec::new(),
            jobs,
            looks: Vec::new(),
            epoch: 0,
        });
        self.processes.len() - 1
    }

    pub fn set_epoch(&mut self, process: usize, epoch: u64) {
        self.processes[process].epoch = epoch;
    }

    pub fn is_alive(&self, process: usize) -> bool {
        self.processes[process].alive
    }

    /// The process dies at one of its next calls.
    pub fn dies_in(&mut self, process: usize, calls: u64) {
        self.processes[process].dies_in = Some(calls);
    }

    pub fn kill(&mut self, process: usize) {
        if std::mem::replace(&mut self.processes[process].alive, false) {
            self.counts.kills += 1;
            self.note(|| format!("p{process} KILLED"));
            let p = &mut self.processes[process];
            (p.done, p.jobs, p.looks) = (Vec::new(), Vec::new(), Vec::new());
            // What it has in flight lands late, some of it long after.
            for f in self.flying.iter_mut().filter(|f| f.process == process) {
                f.tell = false;
                if self.random.one_in(2) {
                    f.hung_until = self.now + Duration::from_millis(self.random.below(1500) as u64);
                }
            }
        }
    }

    /// Everything stops at once. What was in flight or not flushed is ruined, on all slots.
    pub fn power_cut(&mut self) {
        self.counts.power_cuts += 1;
        self.note(|| "POWER CUT".into());
        for p in 0..self.processes.len() {
            if self.processes[p].alive {
                self.kill(p);
            }
        }
        for f in std::mem::take(&mut self.flying) {
            if matches!(self.weather[f.slot.index()], Weather::Gone | Weather::Failing) || self.is_orphan(&f) {
                continue;
            }
            let mut keep: Vec<bool> = Vec::new();
            let sectors = f.bytes.with(<[u8]>::len).div_ceil(SECTOR);
            let style = self.random.below(4);
            let cut = self.random.below(sectors + 1);
            for i in 0..sectors {
                keep.push(match style {
                    0 => false,
                    1 => i < cut,
                    2 => self.random.one_in(2),
                    _ => true,
                });
            }
            let file = self.files[f.slot.index()].entry(f.name).or_default();
            f.bytes.with(|bytes| file.land(f.offset, bytes, false, |i| keep[i]));
            self.counts.torn += 1;
        }
        let random = &mut self.random;
        self.files.iter_mut().flat_map(|s| s.values_mut()).for_each(|f| f.power_cut(random));
    }

    /// A call of a process: an error if it is dead, or dies by it.
    fn call(&mut self, process: usize) -> io::Result<()> {
        let p = &mut self.processes[process];
        if let Some(left) = &mut p.dies_in {
            if *left == 0 {
                p.dies_in = None;
                self.kill(process);
            } else {
                *left -= 1;
            }
        }
        if self.processes[process].alive { Ok(()) } else { Err(killed()) }
    }

    fn reach(&mut self, slot: Slot, writes: bool) -> io::Result<&mut BTreeMap<FileName, File>> {
        match self.weather[slot.index()] {
            Weather::Gone => Err(io::ErrorKind::NotFound.into()),
            Weather::Failing => {
                self.counts.errors += 1;
                Err(io::Error::from_raw_os_error(5))
            }
            Weather::Full if writes => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(&mut self.files[slot.index()]),
        }
    }

    /// Blocks of a slot in order: a blank disk in place of what was there.
    pub fn blank(&mut self, slot: Slot) {
        self.note(|| format!("slot {slot} is replaced by a blank one"));
        self.files[slot.index()].clear();
    }

    /// The directory was replaced: the open file is one that nobody will find again.
    fn is_orphan(&self, f: &Flying) -> bool {
        matches!(f.bytes, Bytes::Frame { .. }) && !self.files[f.slot.index()].contains_key(&f.name)
    }

    /// What the world may do next with writes in flight: their ids.
    fn ready(&self) -> Vec<u64> {
        let hangs = |f: &&Flying| self.weather[f.slot.index()] == Weather::Hanging && f.tell || f.hung_until > self.now;
        self.flying.iter().filter(|f| !hangs(f)).map(|f| f.id).collect()
    }

    /// Lets one write in flight land, or go wrong. False if there is none. Returns whose it was.
    pub fn land_one(&mut self, faults: bool) -> Option<usize> {
        let ids = self.ready();
        let id = self.random.pick(&ids)?;
        let at = self.flying.iter().position(|f| f.id == id)?;
        let f = self.flying.swap_remove(at);
        let (slot, process) = (f.slot, f.process);
        let weather = self.weather[slot.index()];
        let len = f.bytes.with(<[u8]>::len);
        if matches!(weather, Weather::Gone | Weather::Failing | Weather::Full) || faults && self.random.one_in(200) {
            // It failed: nothing, a part or all of it is there, in the cache or on the disk.
            let kind = if weather == Weather::Full {
                io::Error::from_raw_os_error(28)
            } else {
                io::Error::from_raw_os_error(5)
            };
            self.counts.errors += 1;
            if !matches!(weather, Weather::Gone) && !self.is_orphan(&f) && self.random.one_in(2) {
                let cut = self.random.below(len / SECTOR + 1);
                let file = self.files[slot.index()].entry(f.name).or_default();
                f.bytes.with(|bytes| file.land(f.offset, bytes, false, |i| i < cut));
                self.counts.torn += 1;
            }
            self.note(|| format!("p{process} write of slot {slot} at {} fails", f.offset));
            if f.tell {
                self.processes[process].done.push(Done::Wrote { slot, result: Err(kind) });
            }
            return Some(process);
        }
        if self.is_orphan(&f) {
            self.note(|| format!("p{process} write of slot {slot} goes to a file that is gone"));
            if f.tell {
                self.processes[process].done.push(Done::Wrote { slot, result: Ok(()) });
            }
            return Some(process);
        }
        let file = self.files[slot.index()].entry(f.name).or_default();
        if f.tell {
            f.bytes.with(|bytes| file.land(f.offset, bytes, true, |_| true));
            self.counts.landed += 1;
            self.processes[process].done.push(Done::Wrote { slot, result: Ok(()) });
        } else if self.random.one_in(3) {
            self.counts.lost += 1;
        } else {
            // Late: it was not flushed, and whoever reads it now may see it go at a power cut.
            f.bytes.with(|bytes| file.land(f.offset, bytes, false, |_| true));
            self.counts.late += 1;
        }
        let tell = f.tell;
        self.note(|| {
            format!(
                "p{process} write of slot {slot} {} at {} lands {len} {}",
                f.name,
                f.offset,
                if tell { "" } else { "LATE" }
            )
        });
        Some(process)
    }

    /// What dead processes have in flight to a file lands, or never will.
    fn drain(&mut self, slot: Slot, name: FileName) {
        let (out, stay) =
            std::mem::take(&mut self.flying).into_iter().partition(|f| f.slot == slot && f.name == name && !f.tell);
        self.flying = stay;
        let out: Vec<Flying> = out;
        for f in out {
            if self.random.one_in(2) || self.is_orphan(&f) {
                self.counts.lost += 1;
                continue;
            }
            let file = self.files[slot.index()].entry(name).or_default();
            f.bytes.with(|bytes| file.land(f.offset, bytes, false, |_| true));
            self.counts.late += 1;
        }
    }

    /// No other process is alive.
    pub fn is_alone(&self, process: usize) -> bool {
        self.processes.iter().enumerate().all(|(p, s)| p == process || !s.alive)
    }

    /// A process has jobs or looks that wait for their turn.
    pub fn next_job(&mut self, process: usize) -> Option<(Slot, Job)> {
        let n = self.processes[process].jobs.len();
        let at = (n > 0).then(|| self.random.below(n))?;
        // One slot's jobs are done in order.
        let slot = self.processes[process].jobs[at].0;
        let first = self.processes[process].jobs.iter().position(|j| j.0 == slot)?;
        Some(self.processes[process].jobs.remove(first))
    }

    pub fn job_done(&mut self, process: usize, done: Done) {
        if self.processes[process].alive {
            self.processes[process].done.push(done);
        }
    }

    /// Answers a look that was deferred, with what the claims say now.
    pub fn answer_look(&mut self, process: usize) -> bool {
        let Some(quorum) = self.processes[process].looks.pop() else { return false };
        let look = self.judge(process);
        self.job_done(process, Done::Looked { quorum, look });
        true
    }

    fn judge(&mut self, process: usize) -> Look {
        let epoch = self.processes[process].epoch;
        // At worst only three slots are read.
        let mut claims = [None; SLOTS];
        let mut order = Slot::ALL;
        for i in (1..SLOTS).rev() {
            order.swap(i, self.random.below(i + 1));
        }
        let mut read = 0;
        for slot in order {
            if read == 3 || matches!(self.weather[slot.index()], Weather::Gone | Weather::Failing) {
                continue;
            }
            let highest = self.files[slot.index()].keys().filter_map(|n| match n {
                FileName::Claim(n) | FileName::Epoch(n) => Some(*n),
                _ => None,
            });
            claims[slot.index()] = highest.max();
            read += usize::from(claims[slot.index()].is_some());
        }
        Look::judge(epoch, &claims)
    }
}

/// One slot's directory, as one process sees it.
pub struct SimDir {
    pub world: World,
    pub process: usize,
    pub slot: Slot,
}

impl SimDir {
    /// A durable write: it may die in the midst of it, and then land late.
    fn write(&self, name: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut w = self.world.lock();
        let alive_before = w.is_alive(self.process);
        let called = w.call(self.process);
        if called.is_err() {
            if alive_before && w.random.one_in(2) {
                let id = w.next_id;
                w.next_id += 1;
                let bytes = Bytes::Own(bytes.to_vec());
                let (process, slot, hung_until) = (self.process, self.slot, Duration::ZERO);
                w.flying.push(Flying { id, process, slot, name, offset, bytes, tell: false, hung_until });
            }
            return called;
        }
        let (p, slot) = (self.process, self.slot);
        w.note(|| format!("p{p} slot {slot} writes {name} at {offset}"));
        w.reach(self.slot, true)?.entry(name).or_default().land(offset, bytes, true, |_| true);
        Ok(())
    }
}

impl SlotDir for SimDir {
    fn list(&self) -> io::Result<Vec<FileName>> {
        let mut w = self.world.lock();
        w.call(self.process)?;
        Ok(w.reach(self.slot, false)?.keys().copied().collect())
    }

    fn create_new(&self, name: FileName) -> io::Result<()> {
        let mut w = self.world.lock();
        let alive_before = w.is_alive(self.process);
        let called = w.call(self.process);
        // Killed in the call: the file may be there or not.
        if called.is_err() && !(alive_before && w.random.one_in(2)) {
            return called;
        }
        let (p, slot) = (self.process, self.slot);
        let files = w.reach(self.slot, true)?;
        if files.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        files.insert(name, File::default());
        w.note(|| format!("p{p} slot {slot} creates {name}"));
        called
    }

    fn read_at(&self, name: FileName, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut w = self.world.lock();
        w.call(self.process)?;
        let files = w.reach(self.slot, false)?;
        files.get(&name).map(|f| f.read(offset, buf)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write_at(&self, name: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        self.write(name, offset, &bytes)
    }

    fn allocate(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        let mut w = self.world.lock();
        w.call(self.process)?;
        let file = w.reach(self.slot, true)?.entry(name).or_default();
        file.len = file.len.max(offset + len);
        Ok(())
    }

    fn flush(&self, name: FileName) -> io::Result<()> {
        let mut w = self.world.lock();
        w.call(self.process)?;
        let file = w.reach(self.slot, false)?.get_mut(&name).ok_or(io::ErrorKind::NotFound)?;
        file.cached.clear();
        Ok(())
    }

    fn drain(&self, name: FileName) -> io::Result<()> {
        let mut w = self.world.lock();
        w.call(self.process)?;
        let (p, slot) = (self.process, self.slot);
        if w.flying.iter().any(|f| f.slot == slot && f.name == name && f.process != p && f.tell) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        w.drain(slot, name);
        w.note(|| format!("p{p} slot {slot} drains {name}"));
        Ok(())
    }

    fn punch(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        let mut w = self.world.lock();
        w.call(self.process)?;
        let file = w.reach(self.slot, true)?.get_mut(&name).ok_or(io::ErrorKind::NotFound)?;
        let range = offset / BLOCK as u64..(offset + len) / BLOCK as u64;
        file.blocks.retain(|index, _| !range.contains(index));
        file.cached.retain(|index, _| !range.contains(index));
        Ok(())
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        let mut w = self.world.lock();
        w.call(self.process)?;
        w.reach(self.slot, true)?.remove(&name);
        Ok(())
    }
}

/// The writer's disk, as one process sees it.
pub struct SimDisk {
    pub world: World,
    pub process: usize,
    pub pg_size: u64,
}

impl Disk for SimDisk {
    fn write(&mut self, write: LogWrite) {
        let mut w = self.world.lock();
        let (name, offset) = FileName::segment_of(write.from, self.pg_size);
        let len = (write.to - write.from) as usize;
        let id = w.next_id;
        w.next_id += 1;
        let (process, slot) = (self.process, write.slot);
        let bytes = Bytes::Frame { frame: write.frame, from: write.from, len };
        let hung_until = if w.random.one_in(100) { w.now + Duration::from_millis(200) } else { Duration::ZERO };
        w.flying.push(Flying { id, process, slot, name, offset, bytes, tell: true, hung_until });
    }

    fn job(&mut self, slot: Slot, job: Job) {
        self.world.lock().processes[self.process].jobs.push((slot, job));
    }

    fn look(&mut self, quorum: Lsn) -> Option<Look> {
        let mut w = self.world.lock();
        if w.random.one_in(2) {
            let look = w.judge(self.process);
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
    w.note(|| format!("p{process} slot {slot} does {kind:?}"));
    drop(w);
    let dir = SimDir { world: world.clone(), process, slot };
    let output = job::run(&dir, job);
    world.lock().job_done(process, Done::Job { slot, kind, output });
    true
}
