//! What all handles of one open volume share, and how an MTR is appended.

use crate::bugs::{Bug, planted};
use crate::log::append::{Front, Locked, Refused, Reservation};
use crate::log::record::{self, Cpl, Fields, Kind};
use crate::lsn::{Lsn, PageId, format};
use crate::page::overlay::{Layer, Version};
use crate::page::read::{Head, Map, head_of};
use crate::segment::superblock::Geometry;
use crate::sync::Arc;
use crate::volume::alloc::Alloc;
use crate::volume::checkpoint::Checkpoint;
use crate::volume::engine::{Engine, Pumped};
use crate::volume::error::{ReadError, WriteError};
use crate::volume::mtr::{Content, What};
use crate::volume::options::Options;
use crate::volume::page::Page;
use crate::volume::tickets::{Ended, Tickets};
use crate::volume::view::Reads;
use crate::volume::wake::Background;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Deltas above an image, after which an image is appended instead, if the page is cached.
const DEPTH_TARGET: u8 = 8;
/// ... whether it is cached or not: the page is read first.
const DEPTH_MAX: u8 = 32;

/// Time, as the volume sees it.
pub(crate) trait Clock: Send + Sync {
    /// Since some moment of the process; never goes back.
    fn now(&self) -> Duration;
    /// The raw wall clock, microseconds since 1970.
    fn wall_us(&self) -> u64;
}

/// The operating system's clocks.
pub(crate) struct RealClock(std::time::Instant);

impl RealClock {
    pub fn new() -> RealClock {
        RealClock(std::time::Instant::now())
    }
}

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall_us(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
    }
}

/// An open volume.
pub(crate) struct Shared {
    pub geometry: Geometry,
    pub number: u64,
    pub options: Options,
    pub front: Arc<Front>,
    pub reads: Arc<Reads>,
    pub tickets: Arc<Tickets>,
    engine: Mutex<Engine>,
    pub alloc: Mutex<Alloc>,
    pub checkpoint: Mutex<Option<Checkpoint>>,
    pub clock: Arc<dyn Clock>,
    pub opened_at: Duration,
    /// What is to be merged and given back once every earlier process is gone.
    pub merge: Mutex<Option<(Lsn, Lsn)>>,
    pub earlier_gone: Box<dyn Fn() -> bool + Send + Sync>,
    /// Waits for io_uring's completions; none where other threads bring them.
    #[cfg(feature = "io-uring")]
    pub waiter: Option<crate::disk::uring::Waiter>,
    /// A thread waits for completions outside of the lock.
    pub leading: AtomicBool,
    /// Four slots had nothing to write when the engine ran last: an append can be sent off at once.
    idle: AtomicBool,
    /// Somebody has something for the engine and did not wait for its lock.
    wanted: AtomicBool,
    /// Where redo begins with the newest manifest.
    pub redo_from: AtomicU64,
    /// Pages that existed as of the newest manifest.
    pub pages_at_checkpoint: AtomicU64,
    pub progress: Progress,
    cut_done: AtomicBool,
    pub checkpoint_errors: AtomicU64,
    /// The last commit's time, for the filler after idleness.
    pub last_commit_us: AtomicU64,
    /// Behind the last MTR that was published: what `sync` waits for.
    pub appended: AtomicU64,
    /// A filler speaks for everything below.
    pub spoken_for: AtomicU64,
    pub background: Background,
}

/// Word that something moved: space, a job, a checkpoint.
#[derive(Default)]
pub(crate) struct Progress {
    turn: Mutex<u64>,
    bell: Condvar,
    waiting: AtomicU64,
}

impl Progress {
    pub fn turn(&self) -> u64 {
        *self.turn.lock()
    }

    /// Waits for word since `turn`, or so long.
    pub fn wait(&self, turn: u64, most: Duration) {
        let mut now = self.turn.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if *now == turn {
            self.bell.wait_for(&mut now, most);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn moved(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            *self.turn.lock() += 1;
            self.bell.notify_all();
        }
    }
}

/// A record that is about to be appended.
struct Planned {
    fields: Fields,
    payload: Bytes,
}

/// An MTR with addresses: to be filled and published.
#[must_use]
pub(crate) struct Prepared {
    reservation: Reservation,
    planned: Vec<Planned>,
    cpl: Cpl,
    /// Cached pages that only deltas changed: the version before, and the records that made the new one.
    patched: Vec<Patched>,
}

struct Patched {
    page: u64,
    before: Lsn,
    records: Vec<usize>,
}

impl Prepared {
    /// Behind the MTR's last record.
    #[cfg(feature = "sim")]
    pub fn end(&self) -> Lsn {
        self.reservation.end
    }

    /// Address of record `i`.
    pub fn lsn(&self, i: usize) -> Lsn {
        self.reservation.records[i].0
    }
}

/// The engine's lock, held.
pub(crate) struct Held<'a> {
    shared: &'a Shared,
    engine: Option<parking_lot::MutexGuard<'a, Engine>>,
}

impl std::ops::Deref for Held<'_> {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        match &self.engine {
            Some(engine) => engine,
            None => unreachable!("it is given up by the drop alone"),
        }
    }
}

impl std::ops::DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Engine {
        match &mut self.engine {
            Some(engine) => engine,
            None => unreachable!("it is given up by the drop alone"),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.engine = None;
        if self.shared.wanted.swap(false, Ordering::SeqCst) {
            self.shared.pump();
        }
    }
}

/// Why an MTR was not appended.
#[derive(Debug)]
pub(crate) enum NotAppended {
    /// The ring is full: VDL must move first.
    RingFull,
    /// Space must be allocated first, up to there.
    Space(Lsn),
    /// The table or a page moved on meanwhile: plan again.
    Again,
    Wrong(WriteError),
}

impl From<WriteError> for NotAppended {
    fn from(e: WriteError) -> NotAppended {
        NotAppended::Wrong(e)
    }
}

impl From<ReadError> for NotAppended {
    fn from(e: ReadError) -> NotAppended {
        NotAppended::Wrong(e.into())
    }
}

/// What [`Shared::new`] is made of, beside the engine.
pub(crate) struct Parts {
    pub geometry: Geometry,
    pub number: u64,
    pub options: Options,
    pub front: Arc<Front>,
    pub reads: Arc<Reads>,
    pub tickets: Arc<Tickets>,
    pub next_page: u64,
    pub pages: u64,
    pub redo: Lsn,
    pub clock: Arc<dyn Clock>,
    /// The addresses between the log's end and the new epoch's begin, if there is anything to merge.
    pub merge: Option<(Lsn, Lsn)>,
    /// No process of an earlier epoch can have anything in flight but what a drain waits for.
    pub earlier_gone: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Shared {
    pub fn new(
        parts: Parts,
        engine: Engine,
        #[cfg(feature = "io-uring")] waiter: Option<crate::disk::uring::Waiter>,
    ) -> Shared {
        let begin = engine.writer.begin();
        Shared {
            geometry: parts.geometry,
            number: parts.number,
            options: parts.options,
            front: parts.front,
            reads: parts.reads,
            tickets: parts.tickets,
            engine: Mutex::new(engine),
            alloc: Mutex::new(Alloc::new(parts.next_page)),
            checkpoint: Mutex::new(None),
            opened_at: parts.clock.now(),
            clock: parts.clock,
            merge: Mutex::new(parts.merge),
            earlier_gone: parts.earlier_gone,
            #[cfg(feature = "io-uring")]
            waiter,
            leading: AtomicBool::new(false),
            idle: AtomicBool::new(true),
            wanted: AtomicBool::new(false),
            redo_from: AtomicU64::new(parts.redo.0),
            pages_at_checkpoint: AtomicU64::new(parts.pages),
            progress: Progress::default(),
            cut_done: AtomicBool::new(false),
            checkpoint_errors: AtomicU64::new(0),
            last_commit_us: AtomicU64::new(0),
            appended: AtomicU64::new(begin.0),
            spoken_for: AtomicU64::new(begin.0),
            background: Background::new(),
        }
    }

    /// The volume takes writes.
    pub fn check_open(&self) -> Result<(), WriteError> {
        if self.reads.closed.load(Ordering::SeqCst) {
            return Err(WriteError::Closed);
        }
        match self.tickets.ended() {
            None => Ok(()),
            Some(Ended::Closed) => Err(WriteError::Closed),
            Some(ended) => Err(WriteError::ReadOnly(ended.to_string())),
        }
    }

    /// The page's newest published version. It may not be durable yet; after the volume turned read-only, it is VDL's.
    pub fn read_newest(&self, page: PageId) -> Result<Page, ReadError> {
        if self.reads.closed.load(Ordering::SeqCst) {
            return Err(ReadError::Closed);
        }
        let at = if self.tickets.ended().is_some() { self.tickets.vdl() } else { self.front.published() };
        self.reads.read(page, at)
    }

    /// Behind the last MTR that was published.
    pub fn appended(&self) -> Lsn {
        Lsn(self.appended.load(Ordering::SeqCst))
    }

    /// The expected versions are still the newest.
    pub fn check_expected(&self, content: &Content) -> Result<(), WriteError> {
        for (page, seen) in &content.expected {
            match self.read_newest(*page) {
                Ok(now) if now.lsn() == *seen => (),
                Ok(_) | Err(ReadError::NoSuchPage(_)) => return Err(WriteError::Conflict(*page)),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// The engine, locked. Whoever had something for it meanwhile and did not wait is served when it is given up.
    pub fn engine(&self) -> Held<'_> {
        Held { shared: self, engine: Some(self.engine.lock()) }
    }

    /// Runs the engine once.
    pub fn pump(&self) -> Pumped {
        self.pump_as(false)
    }

    pub fn pump_as(&self, leader: bool) -> Pumped {
        loop {
            let pumped = self.run_engine(&mut self.engine.lock(), leader);
            // Somebody had something for the engine while it was locked, and did not wait.
            if !self.wanted.swap(false, Ordering::SeqCst) {
                self.after_pump();
                return pumped;
            }
        }
    }

    /// Runs the engine, now or by whoever has its lock. A committing thread that waited for the lock would find its
    /// commit acknowledged and the next ones of others not yet begun: nothing would share a group.
    fn pump_soon(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        while self.wanted.load(Ordering::SeqCst) {
            let Some(mut engine) = self.engine.try_lock() else { return };
            self.wanted.store(false, Ordering::SeqCst);
            self.run_engine(&mut engine, false);
        }
        self.after_pump();
    }

    fn run_engine(&self, engine: &mut Engine, leader: bool) -> Pumped {
        let pumped = engine.pump(self.clock.now());
        self.idle.store(pumped.idle, Ordering::SeqCst);
        #[cfg(not(feature = "io-uring"))]
        let _ = leader;
        // A leader that waits outside of the lock does not see what was reaped here.
        #[cfg(feature = "io-uring")]
        if pumped.decided
            && !leader
            && self.leading.load(Ordering::SeqCst)
            && let Some(waiter) = &self.waiter
        {
            waiter.nudge();
        }
        pumped
    }

    /// Tells who waits that something may have moved; after the end, hides what a later recovery may drop.
    pub fn after_pump(&self) {
        if self.tickets.ended().is_some() && !self.cut_done.swap(true, Ordering::SeqCst) {
            self.cut();
        }
        self.progress.moved();
    }

    /// The volume turned read-only: nobody may see what a later recovery may drop.
    fn cut(&self) {
        let _append = self.front.lock();
        let map = self.reads.pages.map();
        let vdl = self.tickets.vdl();
        map.current.cut(vdl);
        if let Some(frozen) = &map.frozen {
            frozen.cut(vdl);
        }
    }

    /// The newest version of a page under the append lock: layers first, then what the table said before.
    fn newest(map: &Map, page: PageId, in_table: Option<Head>) -> Option<Head> {
        let layers = [Some(&map.current), map.frozen.as_ref()];
        match layers.into_iter().flatten().find_map(|l| l.newest(page)) {
            Some(version) => head_of(version),
            None => in_table,
        }
    }

    /// Plans an MTR, checks it, and gives it its addresses.
    pub fn prepare(&self, content: &Content) -> Result<Prepared, NotAppended> {
        let map = self.reads.pages.map();
        let mut heads: HashMap<PageId, Option<Head>> = HashMap::new();
        let touched = content.changes.iter().map(|c| c.page).chain(content.expected.iter().map(|e| e.0));
        for page in touched {
            if let std::collections::hash_map::Entry::Vacant(entry) = heads.entry(page) {
                entry.insert(self.reads.pages.head(&map, page, Lsn::MAX)?);
            }
        }
        let images = self.images_for_deep(content, &heads)?;

        let mut append = self.front.lock();
        self.check_open()?;
        let map_now = self.reads.pages.map();
        if map_now.generation != map.generation {
            return Err(NotAppended::Again);
        }
        for (page, head) in &mut heads {
            *head = Self::newest(&map_now, *page, *head);
        }
        for (page, seen) in &content.expected {
            if heads.get(page).copied().flatten().map(|h| h.lsn) != Some(*seen) {
                return Err(WriteError::Conflict(*page).into());
            }
        }
        let mut planned = Vec::with_capacity(content.changes.len());
        // Depth of each page's newest record within the MTR; none once it is freed.
        let mut made: HashMap<PageId, Option<u8>> = HashMap::new();
        for change in &content.changes {
            let before = heads.get(&change.page).copied().flatten();
            let depth = match made.get(&change.page) {
                Some(depth) => *depth,
                None if change.fresh => Some(0),
                None => before.map(|h| h.depth),
            };
            let Some(depth) = depth else { return Err(WriteError::NoSuchPage(change.page).into()) };
            let (kind, offset, payload) = match &change.what {
                What::Zero => (Kind::Image, 0, Bytes::new()),
                What::Put(image) => (Kind::Image, 0, image.clone()),
                What::Free => (Kind::Free, 0, Bytes::new()),
                What::Patch { offset, bytes } => {
                    let image = images.get(&change.page).filter(|(lsn, _)| before.is_some_and(|h| h.lsn == *lsn));
                    match image {
                        Some((_, image)) if !made.contains_key(&change.page) => {
                            let mut page = image.to_vec();
                            page[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
                            (Kind::Image, 0, Bytes::from(page))
                        }
                        _ if depth >= DEPTH_MAX && !made.contains_key(&change.page) => return Err(NotAppended::Again),
                        _ => (Kind::Delta, *offset, bytes.clone()),
                    }
                }
            };
            let depth = match kind {
                Kind::Image => Some(0),
                Kind::Delta => Some(depth.saturating_add(1)),
                _ => None,
            };
            made.insert(change.page, depth);
            let fields = Fields { kind, offset, page: change.page.0, ..Fields::filler() };
            planned.push(Planned { fields, payload });
        }
        self.place(&mut append, planned, &heads, &map_now)
    }

    /// Reads the pages whose chain would grow too long, where that is cheap or must be.
    fn images_for_deep(
        &self,
        content: &Content,
        heads: &HashMap<PageId, Option<Head>>,
    ) -> Result<HashMap<PageId, (Lsn, Bytes)>, NotAppended> {
        let mut images = HashMap::new();
        for change in content.changes.iter().filter(|c| matches!(c.what, What::Patch { .. })) {
            let Some(Some(head)) = heads.get(&change.page) else { continue };
            // The table tells depths up to 7 only: from there on the chain's length is not known.
            let unknown = head.base.is_none() && head.depth >= crate::page::table::DEPTH_TOLD;
            let must = head.depth >= DEPTH_MAX - 1 || unknown;
            if must && head.lsn >= self.front.published() {
                // Another thread's reservation, not filled yet: neither the ring nor any slot has it.
                return Err(NotAppended::Again);
            }
            let image = match self.reads.pages.cached(head.lsn) {
                Some(image) if must || head.depth >= DEPTH_TARGET => image,
                None if must => self.reads.pages.version(change.page, head.lsn)?,
                _ => continue,
            };
            images.insert(change.page, (head.lsn, image));
        }
        Ok(images)
    }

    /// Reserves, links each record to its page's previous one, and makes the new versions known.
    fn place(
        &self,
        append: &mut Locked<'_>,
        mut planned: Vec<Planned>,
        heads: &HashMap<PageId, Option<Head>>,
        map: &Map,
    ) -> Result<Prepared, NotAppended> {
        assert!(!planned.is_empty(), "an MTR without records has no end");
        let last = planned.len() - 1;
        let lengths: Vec<u64> =
            planned.iter().enumerate().map(|(i, p)| record::encoded_len(p.payload.len(), i == last)).collect();
        let reservation = append.reserve(&lengths).map_err(|refused| match refused {
            Refused::Ring => NotAppended::RingFull,
            Refused::Space(end) => NotAppended::Space(end),
            Refused::TooLarge => WriteError::MtrTooLarge { most: format::MTR_MAX }.into(),
            Refused::Shut => WriteError::Closed.into(),
        })?;
        let mut newest: HashMap<u64, Option<Head>> = HashMap::new();
        let mut patched: Vec<Patched> = Vec::new();
        for (i, p) in planned.iter_mut().enumerate() {
            let fields = &mut p.fields;
            if !matches!(fields.kind, Kind::Image | Kind::Delta | Kind::Free) {
                continue;
            }
            let (page, lsn) = (fields.page, reservation.records[i].0);
            let before = newest.get(&page).copied().unwrap_or_else(|| heads.get(&PageId(page)).copied().flatten());
            fields.prev = before.map_or(Lsn::NONE, |h| h.lsn);
            let mine = patched.iter().position(|p| p.page == page);
            let head = match (fields.kind, before) {
                (Kind::Delta, Some(h)) => {
                    fields.base = if h.depth == 0 { h.lsn } else { h.base };
                    fields.depth = h.depth.saturating_add(1);
                    match mine {
                        Some(mine) => patched[mine].records.push(i),
                        None if self.reads.pages.cached(h.lsn).is_some() => {
                            patched.push(Patched { page, before: h.lsn, records: vec![i] });
                        }
                        None => (),
                    }
                    Some(Head { lsn, base: fields.base, depth: fields.depth })
                }
                (kind, _) => {
                    if let Some(mine) = mine {
                        patched.swap_remove(mine);
                    }
                    (kind == Kind::Image).then_some(Head { lsn, base: lsn, depth: 0 })
                }
            };
            newest.insert(page, head);
        }
        let pins = self.reads.views.lock().pins();
        for (page, head) in newest {
            let last = planned.iter().rposition(|p| p.fields.page == page).unwrap_or(0);
            let freed = Head { lsn: reservation.records[last].0, base: Lsn::NONE, depth: 0 };
            let h = head.unwrap_or(freed);
            let version = Version { lsn: h.lsn, base: h.base, depth: h.depth, free: head.is_none() };
            map.current.push(PageId(page), version, append.vdl(), &pins);
        }
        let cpl = Cpl { wall_us: self.clock.wall_us(), vdl: reservation.vdl };
        Ok(Prepared { reservation, planned, cpl, patched })
    }

    /// Gives addresses to records of the table, a manifest or a filler: an MTR of their own.
    pub fn prepare_table(&self, records: Vec<(Fields, Bytes)>) -> Result<Prepared, NotAppended> {
        let mut append = self.front.lock();
        if let Some(ended) = self.tickets.ended() {
            return Err(WriteError::ReadOnly(ended.to_string()).into());
        }
        let planned = records.into_iter().map(|(fields, payload)| Planned { fields, payload }).collect();
        let map = self.reads.pages.map();
        self.place(&mut append, planned, &HashMap::new(), &map)
    }

    /// Encodes and publishes. Returns the MTR's end.
    pub fn finish(&self, prepared: Prepared) -> Lsn {
        let Prepared { reservation, planned, cpl, patched } = prepared;
        let (end, last) = (reservation.end, planned.len() - 1);
        for (i, p) in planned.iter().enumerate() {
            self.front.fill(&reservation, i, &p.fields, (i == last).then_some(cpl), &p.payload);
        }
        let after = |p: &Patched| p.records.last().map_or(Lsn::NONE, |i| reservation.records[*i].0);
        let patched: Vec<(Patched, Lsn)> = patched
            .into_iter()
            .map(|p| {
                let lsn = after(&p);
                (p, lsn)
            })
            .collect();
        self.front.publish(reservation);
        self.appended.fetch_max(end.0, Ordering::SeqCst);
        // A cached page stays cached: its new version is made now, from the old one.
        for (p, after) in patched {
            let Some(image) = self.reads.pages.cached(p.before) else { continue };
            let mut page = image.to_vec();
            for i in p.records {
                let at = planned[i].fields.offset as usize;
                page[at..at + planned[i].payload.len()].copy_from_slice(&planned[i].payload);
            }
            self.reads.pages.insert(after, page.into());
        }
        end
    }

    /// Appends with waiting: for the ring, for space, for other threads' fills. Returns the MTR's end.
    pub fn append(&self, content: &Content) -> Result<Lsn, WriteError> {
        self.append_with(|| self.prepare(content))
    }

    pub fn append_with(&self, mut prepare: impl FnMut() -> Result<Prepared, NotAppended>) -> Result<Lsn, WriteError> {
        let deadline = self.clock.now() + self.options.stall_max;
        loop {
            let turn = self.progress.turn();
            if self.overlay_is_full() {
                // The checkpoint under way must end first: memory is bounded.
                self.background.wake_now();
                self.progress.wait(turn, Duration::from_millis(20));
                self.check_open()?;
                if self.clock.now() < deadline {
                    continue;
                }
            }
            let needed = match prepare() {
                Ok(prepared) => {
                    let end = self.finish(prepared);
                    self.front.wait_published(end, self.options.stall_max);
                    self.last_commit_us.store(self.clock.now().as_micros() as u64, Ordering::Relaxed);
                    // While a group is on its way the next one fills, and whoever reaps that, or waits for this, sends it
                    // off: else a fast disk would get a write for each small commit.
                    if self.idle.load(Ordering::SeqCst) || !self.someone_reaps() {
                        self.pump_soon();
                    }
                    self.background.wake();
                    return Ok(end);
                }
                Err(NotAppended::Wrong(e)) => return Err(e),
                Err(NotAppended::Again) => {
                    self.front.wait_published(self.front.tail(), Duration::from_millis(1));
                    self.check_open()?;
                    continue;
                }
                Err(NotAppended::RingFull) => 0,
                Err(NotAppended::Space(end)) => {
                    if !self.engine().want_space(end, self.clock.now()) {
                        return Err(WriteError::OutOfSpace { needed: end.0.saturating_sub(self.front.tail().0) });
                    }
                    // Others may have appended past it meanwhile.
                    end.0.saturating_sub(self.front.tail().0).max(1)
                }
            };
            self.check_open()?;
            if self.clock.now() >= deadline {
                if needed > 0 {
                    return Err(WriteError::OutOfSpace { needed });
                }
                let why = format!("nothing could be appended for {:?}", self.options.stall_max);
                return Err(WriteError::ReadOnly(why));
            }
            self.background.wake();
            if needed == 0 {
                self.wait_decided(self.tickets.vdl() + 1, Duration::from_millis(100));
            } else {
                self.progress.wait(turn, Duration::from_millis(100));
            }
        }
    }

    /// Waits until VDL reaches `end`, the volume ends, or so long. Drives the engine where nobody else does.
    pub fn wait_decided(&self, end: Lsn, most: Duration) {
        let deadline = self.clock.now() + most;
        let parked = Arc::new(crate::volume::tickets::Parked::new());
        loop {
            let now = self.clock.now();
            if self.tickets.vdl() >= end || self.tickets.ended().is_some() || now >= deadline {
                return;
            }
            if self.lead(end, deadline) {
                continue;
            }
            let Some(key) = self.tickets.register(end, crate::volume::tickets::Waiter::Thread(parked.clone())) else {
                return;
            };
            // The leader may have left between the attempt and the registration.
            if self.can_lead() {
                self.tickets.forget(key);
                continue;
            }
            // The leader may sleep over what came just before it did: what can go on goes on now.
            self.pump_soon();
            if self.tickets.vdl() < end {
                parked.park(deadline - now);
            }
            self.tickets.forget(key);
        }
    }

    /// Completions are waited for by leaders, not brought by threads of their own.
    fn someone_reaps(&self) -> bool {
        #[cfg(feature = "io-uring")]
        return self.waiter.is_some();
        #[cfg(not(feature = "io-uring"))]
        false
    }

    #[cfg(feature = "io-uring")]
    fn can_lead(&self) -> bool {
        self.waiter.is_some() && !self.leading.load(Ordering::SeqCst)
    }

    #[cfg(not(feature = "io-uring"))]
    fn can_lead(&self) -> bool {
        false
    }

    /// Waits for completions in place of a thread of our own, until `end` is decided. False: somebody else does.
    #[cfg(feature = "io-uring")]
    pub fn lead(&self, end: Lsn, deadline: Duration) -> bool {
        let Some(waiter) = &self.waiter else { return false };
        if self.leading.swap(true, Ordering::SeqCst) {
            return false;
        }
        loop {
            let pumped = self.pump_as(true);
            let now = self.clock.now();
            if self.tickets.vdl() >= end || self.tickets.ended().is_some() || now >= deadline {
                break;
            }
            if pumped.busy == 0 {
                // Nothing is on its way: space, a look or a slot's worker is waited for, and they tell.
                let turn = self.progress.turn();
                self.background.wake();
                self.progress.wait(turn, (deadline - now).min(Duration::from_millis(5)));
                continue;
            }
            waiter.wait(pumped.needed, (deadline - now).min(Duration::from_millis(100)));
        }
        self.leading.store(false, Ordering::SeqCst);
        self.tickets.wake_a_thread();
        self.background.wake();
        true
    }

    #[cfg(not(feature = "io-uring"))]
    pub fn lead(&self, _end: Lsn, _deadline: Duration) -> bool {
        false
    }

    /// Memory that the volume takes and may take, in bytes: ring, cache, overlay.
    pub fn memory(&self) -> (u64, u64) {
        let map = self.reads.pages.map();
        let layers = map.current.bytes() + map.frozen.as_ref().map_or(0, |l| l.bytes());
        let used = self.front.ring.bytes() + self.reads.pages.cached_bytes() + layers;
        let ring = (crate::log::ring::FRAMES as u64 + 12) * format::FRAME;
        let cache = self.options.cache_bytes.max(64 * u64::from(self.geometry.page_size));
        (used, ring + cache + 3 * self.options.overlay_bytes)
    }

    /// Two layers are full: nothing is appended before the older one is in the table.
    fn overlay_is_full(&self) -> bool {
        let map = self.reads.pages.map();
        map.frozen.is_some() && map.current.bytes() > self.options.overlay_bytes
    }

    /// A new, empty layer takes the place of the current one, which a checkpoint will write out. Redo will begin where
    /// the log's tail is now.
    pub fn freeze(&self) -> Option<(Lsn, Arc<Layer>, Map)> {
        let mut append = self.front.lock();
        let map = self.reads.pages.map();
        if map.frozen.is_some() {
            return None;
        }
        // Redo begins at a group: a scan finds no other beginning.
        if !planted(Bug::RedoNotAtGroup) {
            append.seal();
        }
        let frozen = map.current.clone();
        let next = Map { current: Arc::new(Layer::new()), frozen: Some(frozen.clone()), ..(*map).clone() };
        self.reads.pages.set_map(next.clone());
        Some((append.tail(), frozen, next))
    }
}
