//! The stage for directed scenarios: openers and writers of the real code over disks of its own, moved by a script
//! alone. Nothing here is random. A write lands when the script says so; an opener is stopped at the call that it names.
//!
//! What must be true is the model's (S1 an acknowledged MTR is lost or changed, S2 an outcome flips, S3 half an MTR, S6 a
//! zombie acknowledges, A1 an open within the promise is refused): a scenario only plays, and returns what broke.

mod disk;
mod writer;

pub use writer::Writer;

use crate::core::history::History;
use crate::core::vote::Join;
use crate::core::writer::Look;
use crate::disk::job::{self, Job};
use crate::disk::{Done, Fleet, SlotDir};
use crate::log::group;
use crate::log::ring::Frame;
use crate::lsn::{Lsn, PageId, SLOTS, Slot, SlotSet, format};
use crate::page::read::LogReader;
use crate::page::version::Pages;
use crate::segment::name::FileName;
use crate::segment::recover::{self, Opened, Recovered};
use crate::segment::superblock::{self, Durability, Geometry, Superblock};
use crate::sim::file::{BLOCK, File};
use crate::sim::life::EPOCHS_TOLD;
use crate::sim::model::{Model, ModelMtr, State};
use crate::sim::scenario::disk::{StageClock, StageDir, StageDisk, StageFleet};
use crate::sim::world::newest_superblock;
use crate::volume::error::{OpenError, ReadError};
use crate::volume::open::{build, redo_map};
use crate::volume::options::Options;
use crate::volume::reader;
use crate::volume::shared::{Clock, Shared};
use crate::volume::view::Reads;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub const PAGE: usize = 4096;
pub const PG: u64 = 64 << 20;
/// Pages that no scenario has: they must not exist.
const PAGES: u64 = 10;

/// What broke, if anything did. "stage:" where the script itself does not fit the code any more.
pub type Checked<T = ()> = Result<T, String>;

/// How long a stall may last: longer than a script lets time jump.
pub const STALL_MAX: Duration = Duration::from_secs(1 << 20);

/// Slots by their names in FINDINGS.md: `"ABF"`.
pub fn slots(names: &str) -> SlotSet {
    names.bytes().map(|b| Slot(b - b'A')).collect()
}

/// One slot by its name.
pub fn slot(name: &str) -> Slot {
    Slot(name.as_bytes()[0] - b'A')
}

pub fn ensure(holds: bool, otherwise: &str) -> Checked {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    List,
    Create,
    Read,
    Write,
    Allocate,
    Flush,
    Drain,
    Punch,
    Remove,
}

/// A call that a process is about to make.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub slot: Slot,
    pub op: Op,
    pub name: Option<FileName>,
}

impl Call {
    pub fn is(&self, op: Op, name: FileName) -> bool {
        self.op == op && self.name == Some(name)
    }
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Go,
    /// The process dies before it.
    Die,
    /// The process dies in it: a write stays in flight, and anything else is done.
    DieInIt,
    /// A flush fails: what was written is in memory, and no later flush makes it durable.
    Fail,
}

pub type Hook = Box<dyn FnMut(Call) -> Act + Send>;

/// A write that has not landed.
struct Flight {
    process: usize,
    slot: Slot,
    name: FileName,
    offset: u64,
    bytes: Bytes,
    /// Its process will be told.
    tell: bool,
    /// It does not land before somebody waits for it.
    hung: bool,
}

enum Bytes {
    /// Read when it lands, from where a device would read: a frame that was reused under it would show.
    Frame {
        _held: Arc<Frame>,
        address: usize,
        len: usize,
    },
    Own(Vec<u8>),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Own(bytes) => bytes,
            // SAFETY: the range was published before it was handed out, and the frame, whose memory it is, is held.
            #[allow(unsafe_code)]
            Bytes::Frame { address, len, .. } => unsafe { std::slice::from_raw_parts(*address as *const u8, *len) },
        }
    }
}

/// What a process has to do, and how.
struct Hands {
    done: Vec<Done>,
    jobs: Vec<(Slot, Job)>,
    /// Slots whose claims its looks read.
    sees: SlotSet,
    holds_looks: bool,
    /// Its looks are answered by the slots' workers.
    unsure: bool,
    /// Their answers.
    held: Vec<Done>,
    /// Slots whose worker does nothing.
    idle: SlotSet,
}

/// Nothing random happens to them.
#[derive(Default)]
struct Disks {
    files: [BTreeMap<FileName, File>; SLOTS],
    /// By process.
    alive: Vec<bool>,
    /// Slots on which every call fails.
    failing: SlotSet,
    now: Duration,
}

struct Inner {
    disks: Mutex<Disks>,
    model: Mutex<Model>,
    hooks: Mutex<HashMap<usize, Hook>>,
    flights: Mutex<Vec<Flight>>,
    hands: Mutex<HashMap<usize, Hands>>,
    failure: Mutex<Option<String>>,
    geometry: Geometry,
    reclaims: bool,
    zero_chunk: u64,
}

/// Disks, what is in flight to them, and the model.
#[derive(Clone)]
pub struct Stage(Arc<Inner>);

/// What an attempt to open came to.
pub enum Opening {
    Open(Writer),
    Refused(OpenError),
    Died,
}

/// An MTR that was appended.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub index: usize,
    /// Its group's first byte, where it was the group's first MTR.
    pub begin: Lsn,
    pub end: Lsn,
}

impl Stage {
    pub fn new() -> Stage {
        Stage::of_volume(0x51)
    }

    /// One whose writers give space back, frame by frame.
    pub fn reclaiming() -> Stage {
        Stage::with(0x51, true, 0)
    }

    /// One whose writers zero space ahead of the log, four blocks at a time.
    pub fn zeroing() -> Stage {
        Stage::with(0x51, false, 16 << 10)
    }

    pub fn of_volume(id: u128) -> Stage {
        Stage::with(id, false, 0)
    }

    fn with(id: u128, reclaims: bool, zero_chunk: u64) -> Stage {
        let id = uuid::Uuid::from_u128(id);
        let geometry = Geometry { volume: id, log: id, page_size: PAGE as u32, block_size: 4096, pg_size: PG };
        Stage(Arc::new(Inner {
            disks: Mutex::default(),
            model: Mutex::default(),
            hooks: Mutex::default(),
            flights: Mutex::default(),
            hands: Mutex::default(),
            failure: Mutex::new(None),
            geometry,
            reclaims,
            zero_chunk,
        }))
    }

    /// A new volume, with its root page on all six slots.
    pub fn create(&self) -> Checked<Writer> {
        self.create_at(Lsn(4096))
    }

    /// ... whose VCL stands at `vcl` then: near an extent's end, distances between epochs are short.
    pub fn create_with(&self, vcl: Lsn) -> Checked<Writer> {
        let writer = self.create_at(Lsn(vcl.0 - 2 * 4096))?;
        ensure(writer.shared.engine().writer.vcl() == vcl, "stage: the root page takes more room")?;
        Ok(writer)
    }

    /// ... whose log begins there.
    pub fn create_at(&self, begin: Lsn) -> Checked<Writer> {
        let process = self.start();
        let fleet = StageFleet { stage: self.clone(), process, visible: SlotSet::ALL };
        let created = recover::create(&fleet, self.0.geometry, Durability::Dsync);
        let mut opened = created.map_err(|e| format!("stage: create: {e}"))?;
        opened.history = History::first(begin);
        (opened.begin, opened.recovered.history) = (begin, opened.history.clone());
        for superblock in opened.superblocks.iter_mut().flatten() {
            superblock.history = History::first(begin);
            let dir = self.dir(process, superblock.slot);
            job::write_super(&dir, superblock).map_err(|e| format!("stage: create: {e}"))?;
        }
        let writer = self.stand_up(opened, process)?;
        let root = writer.append(&[(0, 0)])?;
        writer.land(SlotSet::ALL)?;
        ensure(writer.acknowledged(root), "stage: the root page is not acknowledged")?;
        Ok(writer)
    }

    fn start(&self) -> usize {
        let process = {
            let mut disks = self.0.disks.lock();
            disks.alive.push(true);
            disks.alive.len() - 1
        };
        let hands = Hands {
            done: Vec::new(),
            jobs: Vec::new(),
            sees: SlotSet::ALL,
            holds_looks: false,
            unsure: false,
            held: Vec::new(),
            idle: SlotSet::NONE,
        };
        self.0.hands.lock().insert(process, hands);
        process
    }

    pub fn dir(&self, process: usize, slot: Slot) -> StageDir {
        StageDir { stage: self.clone(), process, slot }
    }

    /// Opens for writing over the slots that this opener reaches. Refused or dead is what broke.
    pub fn open(&self, visible: &str) -> Checked<Writer> {
        match self.open_with(visible, |_| Act::Go)? {
            Opening::Open(writer) => Ok(writer),
            Opening::Refused(e) => Err(format!("A1: an open over {visible} is refused: {e}")),
            Opening::Died => Err("stage: the opener died".into()),
        }
    }

    /// ... while `hook` is asked before each of its calls.
    pub fn open_with(&self, visible: &str, hook: impl FnMut(Call) -> Act + Send + 'static) -> Checked<Opening> {
        let process = self.start();
        self.0.hooks.lock().insert(process, Box::new(hook));
        let fleet = StageFleet { stage: self.clone(), process, visible: slots(visible) };
        let opened = recover::open(&fleet, |_, _| Ok(()));
        self.0.hooks.lock().remove(&process);
        self.kept()?;
        match opened {
            _ if !self.is_alive(process) => Ok(Opening::Died),
            Ok(opened) => self.stand_up(opened, process).map(Opening::Open),
            Err(e) => {
                self.kill(process);
                Ok(Opening::Refused(e))
            }
        }
    }

    /// An open that dies at the call for which `hook` says so.
    pub fn open_dies(&self, visible: &str, hook: impl FnMut(Call) -> Act + Send + 'static) -> Checked {
        match self.open_with(visible, hook)? {
            Opening::Died => Ok(()),
            Opening::Open(_) => Err("stage: the opener did not die".into()),
            Opening::Refused(e) => Err(format!("stage: the opener was refused before it died: {e}")),
        }
    }

    /// Keeps what broke inside a hook, for the open that the hook belongs to.
    pub fn keep(&self, result: Checked) {
        if let Err(what) = result {
            self.0.failure.lock().get_or_insert(what);
        }
    }

    /// What broke inside a hook.
    pub fn kept(&self) -> Checked {
        self.0.failure.lock().take().map_or(Ok(()), Err)
    }

    fn stand_up(&self, opened: Opened, process: usize) -> Checked<Writer> {
        let (number, history) = (opened.number, opened.history.clone());
        let previous = opened.recovered.choice.decision.number;
        let base = self.0.model.lock().expose(&history, false)?;
        let fleet = StageFleet { stage: self.clone(), process, visible: SlotSet::ALL };
        let disk = Box::new(StageDisk { stage: self.clone(), process, number });
        let clock: Arc<dyn Clock> = Arc::new(StageClock(self.clone()));
        let mut options = Options::default().page_size(PAGE as u32).pg_size(PG).cache_bytes(64 * PAGE as u64);
        options.epochs_told = EPOCHS_TOLD;
        (options.merge_after, options.stall_max) = (Duration::from_millis(300), STALL_MAX);
        (options.reclaim, options.reclaim_unit, options.reclaim_readers) = (self.0.reclaims, format::FRAME, 1);
        options.zero_chunk = self.0.zero_chunk;
        let (mut parts, engine) = build(opened, fleet.dirs(), disk, clock, &options);
        // Weak: the writer is the stage's, and not the other way round.
        let stage = Arc::downgrade(&self.0);
        let alone = move |alive: &[bool]| alive.iter().enumerate().all(|(p, alive)| p == process || !alive);
        parts.earlier_gone = Box::new(move || stage.upgrade().is_some_and(|s| alone(&s.disks.lock().alive)));
        let shared = Arc::new(Shared::new(parts, engine));
        shared.engine().tidy(previous);
        // A trace has what it has: more copies than it says would hide what it shows. `Writer::heal` lets it go on.
        shared.engine().pause_healing(true);
        let mine = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer { stage: self.clone(), process, number, shared, mine };
        writer.jobs()?;
        self.check_pages(&base, "an open", |page| writer.shared.read_newest(page))?;
        Ok(writer)
    }

    fn check_pages(
        &self,
        state: &State,
        who: &str,
        read: impl Fn(PageId) -> Result<crate::Page, ReadError>,
    ) -> Checked {
        let all: BTreeSet<PageId> = state.keys().copied().chain((0..PAGES).map(PageId)).collect();
        for page in all {
            match (read(page), state.get(&page)) {
                (Ok(got), Some(want)) if got[..] == want[..] => (),
                (Err(ReadError::NoSuchPage(_)), None) => (),
                (Ok(_), Some(_)) => return Err(format!("S1: {who} reads wrong bytes of page {page}")),
                (Ok(_), None) => return Err(format!("S3: {who} reads page {page}, which should not exist")),
                (Err(e), _) => return Err(format!("S1: {who} reads page {page}: {e}")),
            }
        }
        Ok(())
    }

    /// Opens for reading over the slots that are named. Returns what is settled; refused is what broke.
    pub fn read_only(&self, visible: &str) -> Checked<Lsn> {
        self.try_read_only(visible)?.map_err(|e| format!("A1: a read-only open over {visible} is refused: {e}"))
    }

    /// ... or it is refused.
    pub fn try_read_only(&self, visible: &str) -> Checked<Result<Lsn, OpenError>> {
        self.read_only_with(visible, |_| Act::Go)
    }

    pub fn read_only_with(
        &self,
        visible: &str,
        hook: impl FnMut(Call) -> Act + Send + 'static,
    ) -> Checked<Result<Lsn, OpenError>> {
        let process = self.start();
        self.0.hooks.lock().insert(process, Box::new(hook));
        let fleet = StageFleet { stage: self.clone(), process, visible: slots(visible) };
        let told = match recover::recover(&fleet) {
            Ok(recovered) => self.check_reader(&fleet, &recovered).map(Ok),
            Err(e) => Ok(Err(e)),
        };
        self.0.hooks.lock().remove(&process);
        self.kill(process);
        self.kept()?;
        told
    }

    fn check_reader(&self, fleet: &StageFleet, recovered: &Recovered) -> Checked<Lsn> {
        let (settled, decided) = reader::settled(fleet, recovered);
        let visible = recovered.ruling.end;
        let history = &self.0.model.lock().complete(&recovered.history);
        ensure(settled <= visible, "S2: settled beyond what is visible")?;
        let mut states = [settled, visible].map(|at| (at, State::new()));
        {
            let mut model = self.0.model.lock();
            for i in 0..model.mtrs.len() {
                let (epoch, end) = (model.mtrs[i].epoch, model.mtrs[i].end);
                let lost = crate::Unknown { lsn: end, epoch };
                if let Some(present) = reader::outcome(&recovered.history, settled, decided, EPOCHS_TOLD, lost) {
                    model.settle(i, present, "a read-only open", false)?;
                }
                let shown = history.holds(epoch, Lsn(end.0 - 1)) && end <= visible;
                if model.mtrs[i].acknowledged && !shown {
                    return Err(format!("S1: a read-only open misses the acknowledged MTR that ends at {end}"));
                }
            }
            let mut all: Vec<&ModelMtr> =
                model.mtrs.iter().filter(|m| history.holds(m.epoch, Lsn(m.end.0 - 1))).collect();
            all.sort_by_key(|m| m.end);
            for (at, state) in &mut states {
                all.iter().filter(|m| m.end <= *at).flat_map(|m| &m.effects).for_each(|e| e.apply(state));
            }
        }
        let map = redo_map(recovered, settled, settled);
        let log = LogReader::new(recovered.survey.geometry, fleet.dirs(), recovered.history.clone());
        let reads = Arc::new(Reads::new(Pages::new(log, None, 0, map)));
        for (at, state) in states {
            let view = reads.view_at(at, Duration::ZERO);
            self.check_pages(&state, "a read-only open", |page| view.read(page))?;
        }
        Ok(settled)
    }

    fn kill(&self, process: usize) {
        self.0.disks.lock().alive[process] = false;
        self.0.flights.lock().iter_mut().filter(|f| f.process == process).for_each(|f| f.tell = false);
        if let Some(hands) = self.0.hands.lock().get_mut(&process) {
            (hands.done, hands.jobs) = (Vec::new(), Vec::new());
        }
    }

    /// Lets the oldest write in flight from a process to a slot land. False if there is none.
    fn land_one(&self, process: usize, slot: Slot) -> bool {
        let Some(f) = self.take_flight(process, slot) else { return false };
        let mut disks = self.0.disks.lock();
        // What a dead process had in flight is not flushed by anybody.
        disks.files[slot.index()].entry(f.name).or_default().land(f.offset, f.bytes.get(), f.tell, |_| true);
        drop(disks);
        self.tell(&f, Ok(()));
        true
    }

    fn take_flight(&self, process: usize, slot: Slot) -> Option<Flight> {
        let mut flights = self.0.flights.lock();
        let at = flights.iter().position(|f| f.process == process && f.slot == slot && !f.hung)?;
        Some(flights.remove(at))
    }

    fn tell(&self, f: &Flight, result: io::Result<()>) {
        if f.tell {
            self.hands(f.process, |h| h.done.push(Done::Wrote { slot: f.slot, result }));
        }
    }

    fn hands<R>(&self, process: usize, f: impl FnOnce(&mut Hands) -> R) -> R {
        f(self.0.hands.lock().get_mut(&process).expect("the process was started"))
    }

    /// What a killed writer has in flight to the slots lands: late, and only into their caches.
    pub fn land_late(&self, writer: &Writer, set: &str) {
        self.land_late_of(writer.process, set);
    }

    fn land_late_of(&self, process: usize, set: &str) {
        slots(set).iter().for_each(|slot| while self.land_one(process, slot) {});
    }

    /// ... superblock writes of a dead opener among them.
    pub fn land_all_late(&self) {
        let processes: BTreeSet<usize> = self.0.flights.lock().iter().filter(|f| !f.tell).map(|f| f.process).collect();
        processes.into_iter().for_each(|p| self.land_late_of(p, "ABCDEF"));
    }

    /// ... or never will.
    pub fn lose(&self, writer: &Writer, set: &str) {
        slots(set).iter().for_each(|slot| while self.take_flight(writer.process, slot).is_some() {});
    }

    /// ... or only these bytes of it.
    pub fn tear(&self, writer: &Writer, name: &str, range: std::ops::Range<u64>) {
        while let Some(f) = self.take_flight(writer.process, slot(name)) {
            let mut disks = self.0.disks.lock();
            let file = disks.files[f.slot.index()].entry(f.name).or_default();
            file.land(f.offset, f.bytes.get(), true, |sector| range.contains(&(sector as u64 * 512)));
        }
    }

    /// Every process ends at once; every sector that is in flight or not flushed is garbage.
    pub fn power_cut(&self) {
        let processes: Vec<usize> = self.0.hands.lock().keys().copied().collect();
        processes.into_iter().for_each(|p| self.kill(p));
        let flights = std::mem::take(&mut *self.0.flights.lock());
        let mut disks = self.0.disks.lock();
        for f in flights {
            let garbage = vec![0xA5; f.bytes.get().len()];
            disks.files[f.slot.index()].entry(f.name).or_default().land(f.offset, &garbage, true, |_| true);
        }
        for file in disks.files.iter_mut().flat_map(|s| s.values_mut()) {
            file.unflushed().into_iter().for_each(|at| file.land(at, &[0xA5; BLOCK], true, |_| true));
        }
    }

    /// A byte of a file goes bad.
    pub fn rot(&self, name: &str, file: FileName, at: u64) {
        let mut disks = self.0.disks.lock();
        let file = disks.files[slot(name).index()].get_mut(&file).expect("stage: the file is there");
        let from = at / BLOCK as u64 * BLOCK as u64;
        let mut block = file.read(from, BLOCK).expect("stage: it can be read");
        block[(at - from) as usize] ^= 0x40;
        file.land(from, &block, true, |_| true);
    }

    /// ... of a slot's copy of the log.
    pub fn rot_log(&self, name: &str, at: Lsn) {
        let (segment, offset) = FileName::segment_of(at, PG);
        self.rot(name, segment, offset);
    }

    /// What belongs to `from` was written to `to`, too.
    pub fn misdirect_log(&self, name: &str, from: Lsn, to: Lsn, len: u64) {
        let bytes = self.log(name, from, len);
        let (segment, offset) = FileName::segment_of(to, PG);
        let mut disks = self.0.disks.lock();
        disks.files[slot(name).index()].entry(segment).or_default().land(offset, &bytes, true, |_| true);
    }

    /// Bytes of the log land in a slot's disk's cache.
    pub fn land_unflushed(&self, name: &str, at: Lsn, bytes: &[u8]) {
        let (segment, offset) = FileName::segment_of(at, PG);
        let mut disks = self.0.disks.lock();
        disks.files[slot(name).index()].entry(segment).or_default().land(offset, bytes, false, |_| true);
    }

    /// What a slot has of the log.
    pub fn log(&self, name: &str, from: Lsn, len: u64) -> Vec<u8> {
        let (segment, offset) = FileName::segment_of(from, PG);
        let disks = self.0.disks.lock();
        let file = disks.files[slot(name).index()].get(&segment);
        file.and_then(|f| f.read(offset, len as usize)).unwrap_or_default()
    }

    /// One of the places of a slot's superblock is good.
    pub fn place_verifies(&self, name: &str, epoch: u64, place: usize) -> bool {
        let disks = self.0.disks.lock();
        let file = disks.files[slot(name).index()].get(&FileName::Epoch(epoch));
        let bytes = file.and_then(|f| f.read((place * superblock::PLACE) as u64, superblock::PLACE));
        bytes.is_some_and(|bytes| Superblock::decode(&bytes).is_ok())
    }

    /// Where a slot's silence begins to count, as its superblock says.
    pub fn join(&self, name: &str) -> Option<Join> {
        newest_superblock(&self.0.disks.lock().files[slot(name).index()]).map(|s| s.join)
    }

    /// The block of a slot's log that holds `at` cannot be read any more.
    pub fn spoil_log(&self, name: &str, at: Lsn) {
        let (segment, offset) = FileName::segment_of(at, PG);
        let mut disks = self.0.disks.lock();
        disks.files[slot(name).index()].get_mut(&segment).expect("stage: the file is there").spoil_at(offset);
    }

    /// Every call to these slots fails from now on.
    pub fn failing(&self, set: &str) {
        self.0.disks.lock().failing = slots(set);
    }

    /// A blank disk in place of what was there.
    pub fn blank(&self, set: &str) {
        slots(set).iter().for_each(|s| self.0.disks.lock().files[s.index()].clear());
    }

    /// The slot as it is, to be mounted again later.
    pub fn image(&self, name: &str) -> BTreeMap<FileName, File> {
        self.0.disks.lock().files[slot(name).index()].clone()
    }

    pub fn mount(&self, name: &str, image: BTreeMap<FileName, File>) {
        self.0.disks.lock().files[slot(name).index()] = image;
    }

    /// The slots hold a clone, in place of its origin, with which it shares segments.
    pub fn begins_as(&self, superblocks: &[Superblock]) -> Checked {
        let process = self.start();
        let make = |s: &Superblock| -> io::Result<()> {
            self.0.disks.lock().files[s.slot.index()].retain(|name, _| matches!(name, FileName::Segment(_)));
            let dir = self.dir(process, s.slot);
            dir.create_new(FileName::Claim(s.number))?;
            job::write_super(&dir, s)
        };
        superblocks.iter().try_for_each(make).map_err(|e| format!("stage: a clone: {e}"))?;
        self.kill(process);
        Ok(())
    }

    fn is_alive(&self, process: usize) -> bool {
        self.0.disks.lock().alive[process]
    }

    pub fn has(&self, name: &str, file: FileName) -> bool {
        self.0.disks.lock().files[slot(name).index()].contains_key(&file)
    }

    /// The group at `at` verifies in the slot's segment, and is of this epoch.
    pub fn verifies(&self, name: &str, at: Lsn, epoch: u64) -> bool {
        let (segment, offset) = FileName::segment_of(at, PG);
        let disks = self.0.disks.lock();
        let copy = disks.files[slot(name).index()].get(&segment).and_then(|f| f.read(offset, 1 << 20));
        let sum = group::verify(&copy.unwrap_or_default(), at, self.0.geometry.seed(), |_| ());
        sum.is_ok_and(|s| s.header.epoch == epoch)
    }

    fn judge(&self, process: usize, number: u64) -> Look {
        let sees = self.hands(process, |h| h.sees);
        let disks = self.0.disks.lock();
        let mut claims = [None; SLOTS];
        for slot in sees.iter().filter(|s| !disks.failing.contains(*s)) {
            claims[slot.index()] = disks.files[slot.index()]
                .keys()
                .filter_map(|name| match name {
                    FileName::Claim(n) | FileName::Epoch(n) => Some(*n),
                    _ => None,
                })
                .max();
        }
        Look::judge(number, &claims)
    }
}
