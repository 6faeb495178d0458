//! The simulated disks: six slots, what is still in flight to them from processes that may be dead, and what goes wrong.
//!
//! A write lands when the world lets it: whole or torn, in any order between slots, long after its process was killed.
//! A power cut ruins every sector that is in flight or not flushed, on all slots: old, new, or garbage.

use crate::core::history::History;
use crate::core::writer::Look;
use crate::disk::Done;
use crate::disk::job::Job;
use crate::log::group;
use crate::log::ring::Frame;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::repair::frame::Found;
use crate::segment::name::FileName;
use crate::segment::superblock::Superblock;
use crate::segment::tail;
use crate::sim::atlas::{Atlas, Mode};
use crate::sim::faults::{Fault, Faults};
use crate::sim::file::{File, SECTOR};
use crate::sim::healing::Whole;
use crate::sim::known::Known;
use crate::sim::laws::Laws;
use crate::sim::random::Random;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

pub type Files = BTreeMap<FileName, File>;

/// A write that has not landed.
pub(super) struct Flying {
    pub id: u64,
    pub process: usize,
    pub slot: Slot,
    /// Which directory the file was opened in: a slot's may be replaced.
    pub generation: u64,
    pub name: FileName,
    pub offset: u64,
    pub bytes: Bytes,
    /// Its process will be told; a dead one's are late.
    pub tell: bool,
    /// It does not land before this moment.
    pub hung_until: Duration,
    /// Writes to the file before it.
    pub behind: u64,
}

pub(super) enum Bytes {
    /// From the ring: read when it lands, so that a frame that was reused under it would show.
    Frame {
        frame: Arc<Frame>,
        from: Lsn,
        len: usize,
    },
    Own(Vec<u8>),
}

impl Bytes {
    pub fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
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
    /// Log writes take long.
    Slow,
    /// No more space.
    Full,
}

/// What happened, for the report.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    pub landed: u64,
    pub opens: u64,
    pub refused: u64,
    pub readers: u64,
    pub clean_closes: u64,
    pub commits: u64,
    pub acknowledged: u64,
    pub checkpoints: u64,
    pub merges: u64,
    pub healed: u64,
    pub reads: u64,
    pub lost_reads: u64,
    /// Calls that punched something, and files of protection groups that were removed.
    pub punched: u64,
    /// Stretches that were zeroed ahead of the log.
    pub zeroed: u64,
    pub punched_own: u64,
    pub groups_removed: u64,
    /// Holes that a power cut undid, and groups that it brought back.
    pub unpunched: u64,
    /// Reads of those who came too late.
    pub gone: u64,
    /// States of the past that were compared, and rewinds that came to their end.
    pub states: u64,
    pub rewinds: u64,
    /// Clones that lived.
    pub clones: u64,
}

/// A group as its writer sent it.
struct Group {
    len: usize,
    crc: u32,
    vdl: Lsn,
    pg_size: u64,
}

/// One process, as the disks see it.
pub(super) struct Process {
    alive: bool,
    /// It writes nothing, and nobody waits for it.
    reads_only: bool,
    /// It dies at the call after so many; of those that write, if it says so.
    dies_in: Option<u64>,
    dies_writing: bool,
    pub done: Vec<Done>,
    pub jobs: Vec<(Slot, Job)>,
    pub looks: Vec<Lsn>,
    epoch: u64,
    /// Landings before it began.
    landings: usize,
    /// The directories that it knows.
    pub knows: [u64; SLOTS],
    /// The directories that it holds open.
    holds: [Option<u64>; SLOTS],
}

/// All disks and what is in flight to them.
pub struct Disks {
    pub(super) files: Vec<Files>,
    /// Which directory is in each slot's place.
    pub(super) generations: [u64; SLOTS],
    /// Those that are in no slot's place any more, and held open by a process.
    orphans: BTreeMap<u64, Files>,
    /// Protection groups that were removed from a directory: a power cut may bring them back.
    pub(super) removed: Vec<(u64, FileName, File)>,
    pub weather: [Weather; SLOTS],
    /// Replaced by blank ones in this life.
    pub blank: SlotSet,
    /// How often each slot was damaged in this life.
    pub damages: [u32; SLOTS],
    /// Out of a reader's sight, while it opens and reads.
    pub hidden: SlotSet,
    pub atlas: Atlas,
    pub faults: Faults,
    /// Allocated space reads as zeros, as on our disks; in most lives it is no part of the file, as elsewhere. (Reading
    /// zeros was most of a life's time.)
    pub(super) allocating_grows: bool,
    /// Old states of slots, to be mounted in their places some day.
    pub images: [Option<Files>; SLOTS],
    /// Every group that was written, by epoch and address; kept beyond the atlas, where losses are told from lies.
    groups: BTreeMap<(u64, Lsn), Group>,
    /// Where log writes landed, in order; kept beyond the atlas, as well: who read before did not see them.
    landings: Vec<(Slot, FileName, std::ops::Range<u64>)>,
    /// What PROTOCOL.md says of all that processes do.
    pub laws: Laws,
    /// Groups that workers have found, and those that were found whole in checks.
    found: Known<Found>,
    pub(super) whole: Known<Whole>,
    pub(super) wholes: usize,
    pub(super) flying: Vec<Flying>,
    next_id: u64,
    pub(super) processes: Vec<Process>,
    pub random: Random,
    pub counts: Counts,
    pub now: Duration,
    /// The wall clock less the time since the run began.
    pub wall_us: u64,
    /// Every event goes into it: the same seed gives the same hash on every machine.
    pub hash: u64,
    pub trace: Option<Vec<String>>,
}

pub type World = Arc<Mutex<Disks>>;

/// What a slot's files say of it.
pub fn newest_superblock(files: &Files) -> Option<&Superblock> {
    let numbered =
        files.iter().filter_map(|(name, f)| if let FileName::Epoch(n) = name { Some((*n, f)) } else { None });
    let newest = numbered.filter_map(|(n, f)| f.superblocks().max_by_key(|s| s.version).filter(|s| s.number == n));
    newest.max_by_key(|s| (s.number, s.version))
}

/// Events go into the hash as they are formatted: a text for each, which nobody reads, would take memory.
struct Hashed<'a>(&'a mut u64);

impl fmt::Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let hash = text.bytes().fold(*self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        *self.0 = hash;
        Ok(())
    }
}

fn killed() -> io::Error {
    // Without a text: a dead process asks on, and each text would take memory.
    io::ErrorKind::Other.into()
}

impl Disks {
    /// A world whose faults are bounded as `mode` says; those numbered in `removed` do not strike.
    pub fn new(seed: u64, trace: bool, mode: Mode, removed: &[u64]) -> Disks {
        let mut random = Random::new(seed);
        let hurt_max = random.below(4);
        let allocating_grows = random.one_in(4);
        Disks {
            files: (0..SLOTS).map(|_| BTreeMap::new()).collect(),
            generations: std::array::from_fn(|i| i as u64),
            orphans: BTreeMap::new(),
            removed: Vec::new(),
            weather: [Weather::Fair; SLOTS],
            blank: SlotSet::NONE,
            damages: [0; SLOTS],
            hidden: SlotSet::NONE,
            atlas: Atlas::new(mode, hurt_max),
            faults: Faults::new(seed, removed),
            allocating_grows,
            images: Default::default(),
            groups: BTreeMap::new(),
            landings: Vec::new(),
            laws: Laws::new(),
            found: Known::default(),
            whole: Known::default(),
            wholes: 0,
            flying: Vec::new(),
            next_id: 0,
            processes: Vec::new(),
            random,
            counts: Counts::default(),
            now: Duration::ZERO,
            wall_us: 1_700_000_000_000_000,
            hash: 0xCBF2_9CE4_8422_2325,
            trace: trace.then(Vec::new),
        }
    }

    /// Notes an event: it goes into the run's hash, and into the trace if there is one.
    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        if Hashed(&mut self.hash).write_fmt(event).is_err() {
            unreachable!("every text can be hashed");
        }
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} {event}", now.as_secs_f64() * 1e3));
        }
    }

    /// Slots in whose place there is another volume's, or another slot's.
    pub fn strangers(&self, volume: uuid::Uuid) -> SlotSet {
        let begins_in_garbage = |(name, file): (&FileName, &File)| {
            let (FileName::Segment(pg), Some(g)) = (*name, self.laws.geometry) else { return false };
            let frames = (0..g.pg_size).step_by(format::FRAME as usize);
            frames.chain([g.block()]).any(|at| {
                let Some(begin) = FileName::begin_of(pg, g.pg_size).map(|begin| begin + at) else { return false };
                file.block(at)
                    .is_some_and(|b| b.iter().any(|b| *b > 0) && group::decode_header(b, begin, g.seed()).is_err())
            })
        };
        let is_torn_tail = |(name, file): (&FileName, &File)| {
            matches!(name, FileName::Tail(_))
                && file.read(0, tail::BYTES_MAX).is_none_or(|bytes| tail::decode(&bytes, volume).is_none())
        };
        let is_other = |slot: &Slot| {
            let supers = self.files[slot.index()].iter().filter(|(name, _)| matches!(name, FileName::Epoch(_)));
            let mut told = supers.flat_map(|(_, f)| f.superblocks()).peekable();
            match told.peek() {
                Some(_) => told.any(|s| s.slot != *slot || s.geometry.volume != volume),
                // Nobody can tell any more, if its log is damaged, too: by a fault, or by a power cut.
                None => {
                    self.damages[slot.index()] > 1
                        || self.files[slot.index()].iter().any(|file| begins_in_garbage(file) || is_torn_tail(file))
                }
            }
        };
        Slot::ALL.into_iter().filter(is_other).collect()
    }

    /// A process that was to die lives on, and no write hangs for long.
    pub fn spare(&mut self) {
        let soon = self.now + Duration::from_millis(200);
        self.flying.iter_mut().for_each(|f| f.hung_until = f.hung_until.min(soon));
        self.processes.iter_mut().for_each(|p| p.dies_in = None);
    }

    pub fn start_process(&mut self) -> usize {
        let calm = self.flying.is_empty() && self.processes.iter().all(|p| !p.alive || p.reads_only);
        self.laws.begins(calm);
        Slot::ALL.into_iter().for_each(|slot| self.read_anew(slot));
        let jobs = Vec::new();
        self.processes.push(Process {
            alive: true,
            reads_only: false,
            dies_in: None,
            dies_writing: false,
            done: Vec::new(),
            jobs,
            looks: Vec::new(),
            epoch: 0,
            landings: self.landings.len(),
            knows: self.generations,
            holds: [None; SLOTS],
        });
        self.processes.len() - 1
    }

    /// A slot's files are opened anew, past the page cache.
    pub fn read_anew(&mut self, slot: Slot) {
        let Disks { files, random, .. } = self;
        files[slot.index()].values_mut().for_each(|file| file.read_anew(random));
    }

    /// The process opens for reading alone.
    pub fn reads_only(&mut self, process: usize) {
        self.processes[process].reads_only = true;
    }

    /// The process has opened the volume.
    pub fn set_epoch(&mut self, process: usize, history: &History) {
        self.processes[process].epoch = history.last().epoch;
        self.atlas.restored = SlotSet::NONE;
        self.judge_open(process, history);
    }

    pub fn alive(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.processes.len()).filter(|p| self.processes[*p].alive)
    }

    pub fn is_alive(&self, process: usize) -> bool {
        self.processes[process].alive
    }

    /// The process dies at one of its next calls, or of those that write.
    pub fn dies_in(&mut self, process: usize, calls: u64, writing: bool) {
        let p = &mut self.processes[process];
        (p.dies_in, p.dies_writing) = (Some(calls), writing);
    }

    pub fn kill(&mut self, process: usize) {
        if std::mem::replace(&mut self.processes[process].alive, false) {
            self.note(format_args!("p{process} KILLED"));
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

    /// Out of reach, or without space.
    pub fn away(&self) -> SlotSet {
        let away = |s: &Slot| matches!(self.weather[s.index()], Weather::Gone | Weather::Failing | Weather::Full);
        Slot::ALL.into_iter().filter(away).collect::<SlotSet>().union(self.hidden)
    }

    /// A fault that damages the slot strikes now, once in `n` times, if the atlas lets it.
    pub fn hurts(&mut self, fault: Fault, n: usize, slot: Slot) -> bool {
        let would = self.faults.would_strike(fault, n);
        let struck = would && self.atlas.may_hurt(slot, self.away()) && self.faults.happens(fault);
        if struck {
            self.atlas.hurts(slot);
            self.damages[slot.index()] += 1;
        }
        struck
    }

    /// A call to the slot fails now, once in `n` times, if the atlas lets it.
    pub(super) fn call_fails(&mut self, fault: Fault, n: usize, slot: Slot) -> bool {
        let would = self.faults.would_strike(fault, n);
        let struck = would && self.atlas.may_strike(slot, self.away()) && self.faults.happens(fault);
        if struck {
            self.atlas.strikes(slot);
            self.note(format_args!("slot {slot}: {}", fault.name()));
        }
        struck
    }

    /// Everything stops at once. What was in flight or not flushed is ruined, on all slots.
    pub fn power_cut(&mut self) {
        self.note(format_args!("POWER CUT"));
        for p in 0..self.processes.len() {
            if self.processes[p].alive {
                self.kill(p);
            }
        }
        for f in std::mem::take(&mut self.flying) {
            let Some(home) = self.home(&f) else { continue };
            if matches!(self.weather[home.index()], Weather::Gone | Weather::Failing) {
                continue;
            }
            let sectors = f.bytes.with(<[u8]>::len).div_ceil(SECTOR);
            let (style, cut) = (self.random.below(4), self.random.below(sectors + 1));
            let torn = [Fault::MissingWrite, Fault::TornPrefix, Fault::TornSectors];
            if let Some(fault) = torn.get(style) {
                self.faults.count(*fault);
            }
            let random = &mut self.random;
            let keep: Vec<bool> = (0..sectors)
                .map(|i| match style {
                    0 => false,
                    1 => i < cut,
                    2 => random.one_in(2),
                    _ => true,
                })
                .collect();
            let file = self.files[home.index()].entry(f.name).or_default();
            f.bytes.with(|bytes| file.land(f.offset, bytes, false, |i| keep[i]));
        }
        let random = &mut self.random;
        let (mut ruined, mut unpunched) = (0, 0);
        for (garbage, back) in self.files.iter_mut().flat_map(|s| s.values_mut()).map(|f| f.power_cut(random)) {
            (ruined, unpunched) = (ruined + garbage, unpunched + back);
        }
        // A protection group that was removed is there again.
        for (directory, name, file) in std::mem::take(&mut self.removed) {
            if let Some(place) = self.place_of(directory)
                && self.random.one_in(2)
                && !self.files[place].contains_key(&name)
            {
                self.files[place].insert(name, file);
                unpunched += 1;
            }
        }
        self.counts.unpunched += unpunched;
        (0..ruined).for_each(|_| self.faults.count(Fault::RuinedSector));
    }

    /// A call of a process: an error if it is dead, or dies by it.
    pub(super) fn call(&mut self, process: usize, writes: bool) -> io::Result<()> {
        let p = &mut self.processes[process];
        if let Some(left) = p.dies_in.as_mut().filter(|_| writes || !p.dies_writing) {
            if *left == 0 {
                p.dies_in = None;
                self.kill(process);
            } else {
                *left -= 1;
            }
        }
        if self.processes[process].alive { Ok(()) } else { Err(killed()) }
    }

    /// The files of a slot, in the directory that the process holds open.
    pub(super) fn reach(&mut self, process: usize, slot: Slot, writes: bool) -> io::Result<&mut Files> {
        match self.weather[slot.index()] {
            Weather::Gone => Err(io::ErrorKind::NotFound.into()),
            Weather::Failing => Err(io::Error::from_raw_os_error(5)),
            Weather::Full if writes => Err(io::ErrorKind::StorageFull.into()),
            _ => {
                let held = self.held(process, slot);
                match self.place_of(held) {
                    Some(place) => Ok(&mut self.files[place]),
                    None => Ok(self.orphans.entry(held).or_default()),
                }
            }
        }
    }

    /// The directory that the process holds open: the one that is there when it looks for the first time.
    pub(super) fn held(&mut self, process: usize, slot: Slot) -> u64 {
        *self.processes[process].holds[slot.index()].get_or_insert(self.generations[slot.index()])
    }

    /// What is in the directory that the process holds open, if it holds one, and what workers have found.
    pub(super) fn files_of(&mut self, process: usize, slot: Slot) -> (Option<&Files>, &mut Known<Found>) {
        let held = self.processes[process].holds[slot.index()];
        let place = held.and_then(|held| self.place_of(held));
        let files = match (place, held) {
            (Some(place), _) => Some(&self.files[place]),
            (None, Some(held)) => self.orphans.get(&held),
            (None, None) => None,
        };
        (files, &mut self.found)
    }

    /// The process lets go of the slot's directory, and finds the one that is there when it needs one.
    pub(super) fn let_go(&mut self, process: usize, slot: Slot) {
        self.processes[process].holds[slot.index()] = None;
        self.read_anew(slot);
    }

    /// What the process holds open is not what is in the slot's place.
    pub(super) fn holds_another(&self, process: usize, slot: Slot) -> bool {
        self.processes[process].holds[slot.index()].is_some_and(|held| held != self.generations[slot.index()])
    }

    /// In which slot's place a directory is.
    fn place_of(&self, directory: u64) -> Option<usize> {
        self.generations.iter().position(|g| *g == directory)
    }

    /// Another directory in the slot's place. What is open is in the old one, which nobody will find again.
    pub fn replace(&mut self, slot: Slot, files: Files) {
        let old = std::mem::replace(&mut self.files[slot.index()], files);
        let new = SLOTS as u64 + self.next_id;
        self.next_id += 1;
        let directory = std::mem::replace(&mut self.generations[slot.index()], new);
        self.orphans.insert(directory, old);
    }

    /// Each slot's directory is in the other's place.
    pub fn swap(&mut self, slot: Slot, other: Slot) {
        self.files.swap(slot.index(), other.index());
        self.generations.swap(slot.index(), other.index());
        self.laws.swap(slot, other);
    }

    /// Slots that are of this volume, as their files say.
    pub fn slots_of(&self, volume: Uuid) -> SlotSet {
        let of = |s: &Slot| newest_superblock(&self.files[s.index()]).is_some_and(|s| s.geometry.volume == volume);
        Slot::ALL.into_iter().filter(of).collect()
    }

    /// In whose place a write in flight will land; none where nobody will find it again.
    fn home(&self, f: &Flying) -> Option<Slot> {
        let place = self.place_of(f.generation)?;
        let known = self.files[place].contains_key(&f.name) || !matches!(f.bytes, Bytes::Frame { .. });
        known.then_some(Slot(place as u8))
    }

    pub(super) fn is_orphan(&self, f: &Flying) -> bool {
        self.home(f).is_none()
    }

    /// Takes a write on its way.
    pub(super) fn fly(&mut self, process: usize, slot: Slot, name: FileName, offset: u64, bytes: Bytes, tell: bool) {
        let id = self.next_id;
        self.next_id += 1;
        let mut hung_until = Duration::ZERO;
        if tell {
            let slow = self.weather[slot.index()] == Weather::Slow;
            let hangs = self.faults.strikes(Fault::HungWrite, 100, true);
            let ms = if hangs {
                // Most hang for a moment; some for so long that their slot is taken for gone, and comes back.
                [200, 200, 200, 4000][self.faults.random().below(4)]
            } else if slow {
                20 + self.random.below(80) as u64
            } else {
                0
            };
            hung_until = if ms > 0 { self.now + Duration::from_millis(ms) } else { Duration::ZERO };
        }
        let generation = self.held(process, slot);
        let files = self.place_of(generation).map(|place| &self.files[place]);
        let behind = files.and_then(|files| files.get(&name)).map_or(0, |f| f.writes);
        self.flying.push(Flying { id, process, slot, generation, name, offset, bytes, tell, hung_until, behind });
    }

    /// What the world may do next with writes in flight: their ids.
    fn ready(&self) -> Vec<u64> {
        let hangs = |f: &&Flying| self.weather[f.slot.index()] == Weather::Hanging && f.tell || f.hung_until > self.now;
        self.flying.iter().filter(|f| !hangs(f)).map(|f| f.id).collect()
    }

    /// A log write, or a part of it, is there now.
    fn landed(&mut self, f: &Flying, home: Slot) {
        if self.atlas.is_beyond() {
            let len = f.bytes.with(<[u8]>::len) as u64;
            self.landings.push((home, f.name, f.offset..f.offset + len));
        }
    }

    /// Lets one write in flight land, or go wrong. None if there is none. Returns whose it was.
    pub fn land_one(&mut self, faults: bool) -> Option<usize> {
        let ids = self.ready();
        let id = self.random.pick(&ids)?;
        let at = self.flying.iter().position(|f| f.id == id)?;
        let f = self.flying.swap_remove(at);
        let (slot, process) = (f.slot, f.process);
        let weather = self.weather[slot.index()];
        let out = matches!(weather, Weather::Gone | Weather::Failing | Weather::Full);
        if out || faults && self.faults.strikes(Fault::WriteError, 200, true) {
            self.fail(f);
            return Some(process);
        }
        let told = |w: &mut Disks, f: &Flying| {
            if f.tell {
                w.told(process, slot, &f.bytes);
                w.processes[process].done.push(Done::Wrote { slot, result: Ok(()) });
            }
        };
        let Some(home) = self.home(&f) else {
            self.note(format_args!("p{process} write of slot {slot} goes to a file that is gone"));
            told(self, &f);
            return Some(process);
        };
        if !f.tell {
            self.land_late(&f, home);
            return Some(process);
        }
        if faults && self.hurts(Fault::LostWrite, 1500, slot) {
            self.note(format_args!("p{process} write of slot {slot} {} at {} is LOST", f.name, f.offset));
            told(self, &f);
            return Some(process);
        }
        let astray = faults && self.hurts(Fault::Misdirected, 1500, slot);
        let file = self.files[home.index()].entry(f.name).or_default();
        let offset = if astray { file.somewhere(self.faults.random()) } else { f.offset };
        if astray {
            file.goes_astray(offset, f.bytes.with(<[u8]>::len));
        }
        f.bytes.with(|bytes| file.land(offset, bytes, true, |_| true));
        self.landed(&f, home);
        if let Bytes::Frame { from, .. } = &f.bytes {
            f.bytes.with(|bytes| self.judge_landing(process, *from, bytes));
        }
        self.counts.landed += 1;
        told(self, &f);
        let (len, astray) = (f.bytes.with(<[u8]>::len), if astray { " ASTRAY" } else { "" });
        self.note(format_args!("p{process} write of slot {slot} {} at {offset} lands {len}{astray}", f.name));
        Some(process)
    }

    /// A write fails: nothing, a part or all of it is there, in the cache or on the disk.
    fn fail(&mut self, f: Flying) {
        let (slot, process, weather) = (f.slot, f.process, self.weather[f.slot.index()]);
        let errno = if weather == Weather::Full { 28 } else { 5 };
        if weather != Weather::Gone
            && let Some(home) = self.home(&f)
            && self.random.one_in(2)
        {
            let sectors = f.bytes.with(<[u8]>::len).div_ceil(SECTOR);
            let cut = self.random.below(sectors + 1);
            let file = self.files[home.index()].entry(f.name).or_default();
            f.bytes.with(|bytes| file.land(f.offset, bytes, false, |i| i < cut));
            self.landed(&f, home);
        }
        self.note(format_args!("p{process} write of slot {slot} at {} fails", f.offset));
        if f.tell {
            let result = Err(io::Error::from_raw_os_error(errno));
            self.told_of_failure(process, slot);
            self.processes[process].done.push(Done::Wrote { slot, result });
        }
    }

    /// A write of a dead process: it is not flushed, and whoever reads it now may see it go at a power cut.
    fn land_late(&mut self, f: &Flying, home: Slot) {
        if self.random.one_in(3) {
            self.faults.count(Fault::DroppedWrite);
            return;
        }
        // Late zeros over what repair has put there meanwhile spoil a copy, as rot would.
        let is_segment = matches!(f.name, FileName::Segment(_));
        if is_segment && f.bytes.with(|bytes| bytes.iter().all(|b| *b == 0)) {
            let file = self.files[home.index()].entry(f.name).or_default();
            let len = f.bytes.with(<[u8]>::len) as u64;
            let there = |at: u64| file.block(f.offset + at).is_some_and(|b| b.iter().any(|b| *b != 0));
            if (0..len).step_by(format::BLOCK_MIN as usize).any(there) {
                if !self.atlas.may_spoil(home, self.away()) {
                    self.faults.count(Fault::DroppedWrite);
                    return;
                }
                self.atlas.spoils(home);
            }
        }
        let file = self.files[home.index()].entry(f.name).or_default();
        if file.writes > f.behind {
            self.faults.count(Fault::Reordered);
        }
        f.bytes.with(|bytes| file.land(f.offset, bytes, false, |_| true));
        self.landed(f, home);
        self.faults.count(Fault::LateWrite);
        self.note(format_args!("p{} write of slot {} {} at {} lands LATE", f.process, f.slot, f.name, f.offset));
    }

    /// What dead processes have in flight to a file lands, or never will.
    pub(super) fn drain(&mut self, process: usize, slot: Slot, name: FileName) {
        let held = self.held(process, slot);
        let (out, stay): (Vec<Flying>, Vec<Flying>) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|f| f.generation == held && f.name == name && !f.tell);
        self.flying = stay;
        for f in out {
            match self.home(&f) {
                Some(home) => self.land_late(&f, home),
                None => self.faults.count(Fault::DroppedWrite),
            }
        }
    }

    /// A slot in reach, and in its own place, whose segment has, as it was written, a group of the epoch that knows VDL at
    /// or above `end`. It had it when this process began: what lands under an opener may come behind its reading.
    pub fn witness(&self, process: usize, epoch: u64, end: Lsn) -> Option<(Slot, Lsn)> {
        let knows = self.groups.iter().filter(|((e, _), g)| *e == epoch && g.vdl >= end);
        let young = &self.landings[self.processes[process].landings..];
        for ((_, at), group) in knows {
            for slot in Slot::ALL.into_iter().filter(|s| !self.away().union(self.atlas.unfit()).contains(*s)) {
                let (name, offset) = FileName::segment_of(*at, group.pg_size);
                if young.iter().any(|(s, n, range)| (*s, *n) == (slot, name) && range.contains(&offset)) {
                    continue;
                }
                let file = self.files[slot.index()].get(&name);
                let bytes = file.and_then(|f| f.read(offset, group.len)).unwrap_or_default();
                if crc32fast::hash(&bytes) == group.crc {
                    return Some((slot, *at));
                }
            }
        }
        None
    }

    /// Remembers the groups of a log write.
    pub(super) fn remember(&mut self, epoch_of: usize, from: Lsn, bytes: &[u8], seed: u32, pg_size: u64) {
        let (epoch, mut at) = (self.processes[epoch_of].epoch, 0);
        while let Ok(sum) = group::verify(bytes.get(at..).unwrap_or_default(), from + at as u64, seed, |_| ()) {
            let len = sum.header.len as usize;
            let crc = crc32fast::hash(&bytes[at..at + len]);
            self.groups.insert((epoch, from + at as u64), Group { len, crc, vdl: sum.vdl, pg_size });
            at += len;
        }
    }

    /// Nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.flying.is_empty() && self.processes.iter().all(|p| p.jobs.is_empty() && p.looks.is_empty())
    }

    /// No other process is alive that could write.
    pub fn is_alone(&self, process: usize) -> bool {
        self.processes.iter().enumerate().all(|(p, s)| p == process || !s.alive || s.reads_only)
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

    fn claim(&self, slot: Slot) -> Option<u64> {
        let claim = |name: &FileName| match name {
            FileName::Claim(n) | FileName::Epoch(n) => Some(*n),
            _ => None,
        };
        self.files[slot.index()].keys().filter_map(claim).max()
    }

    /// The highest claim on any slot.
    pub fn highest_claim(&self) -> u64 {
        Slot::ALL.into_iter().filter_map(|slot| self.claim(slot)).max().unwrap_or(0)
    }

    /// Answers a look that was deferred, with what the claims say now.
    pub fn answer_look(&mut self, process: usize) -> bool {
        let Some(quorum) = self.processes[process].looks.pop() else { return false };
        let look = self.judge(process);
        if look == Look::Clear {
            self.look_is_clear(process, quorum);
        }
        self.job_done(process, Done::Looked { quorum, look });
        true
    }

    pub(super) fn judge(&mut self, process: usize) -> Look {
        let epoch = self.processes[process].epoch;
        // At worst only three slots are read, but none that is damaged as long as there are three others.
        let mut claims = [None; SLOTS];
        let mut order = Slot::ALL;
        for i in (1..SLOTS).rev() {
            order.swap(i, self.random.below(i + 1));
        }
        let mut read = 0;
        order.sort_by_key(|s| self.atlas.hurt().contains(*s));
        for slot in order {
            if read == 3 || matches!(self.weather[slot.index()], Weather::Gone | Weather::Failing) {
                continue;
            }
            claims[slot.index()] = self.claim(slot);
            read += usize::from(claims[slot.index()].is_some());
        }
        Look::judge(epoch, &claims)
    }
}
