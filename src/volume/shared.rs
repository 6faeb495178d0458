//! What all handles of one open volume share, and who drives the engine.

use crate::bugs::{Bug, planted};
use crate::core::history::{Entry, extents, room};
use crate::history::past::Past;
use crate::log::append::Front;
use crate::lsn::{Lsn, PageId, format};
use crate::page::overlay::Layer;
use crate::page::version::Map;
use crate::reclaim::freed::Freed;
use crate::segment::superblock::Geometry;
use crate::sync::Arc;
use crate::volume::alloc::Alloc;
use crate::volume::checkpoint::Checkpoint;
use crate::volume::engine::Engine;
use crate::volume::error::{ReadError, WriteError};
use crate::volume::options::Options;
use crate::volume::page::Page;
use crate::volume::reclaim::{Died, Pressure, Reclaim};
use crate::volume::rewind::Rewinding;
use crate::volume::tickets::{Ended, Tickets};
use crate::volume::view::Reads;
use crate::volume::wake::{Background, Progress};
use parking_lot::{Mutex, RwLock};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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

/// What stands in for threads in a simulated volume: whoever would wait for them lets the world go on instead.
#[cfg(feature = "sim")]
pub(crate) trait Driver: Send + Sync {
    /// The world goes on by a step.
    fn step(&self);
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
    pub reclaim: Mutex<Reclaim>,
    pub pressure: Pressure,
    pub died: Died,
    /// Pages freed since the volume was opened.
    pub freed_pages: AtomicU64,
    pub clock: Arc<dyn Clock>,
    pub opened_at: Duration,
    /// What is to be merged and given back once every earlier process is gone.
    pub merge: Mutex<Option<(Lsn, Lsn)>>,
    pub earlier_gone: Box<dyn Fn() -> bool + Send + Sync>,
    /// Four slots had nothing to write when the engine ran last: an append can be sent off at once.
    pub idle: AtomicBool,
    /// Nothing comes back by moving pages: what is left to that is for frees.
    pub nothing_moves: AtomicBool,
    /// The history without what was given back.
    kept: RwLock<Vec<Entry>>,
    /// Somebody has something for the engine and did not wait for its lock.
    wanted: AtomicBool,
    /// Where redo begins with the newest manifest.
    pub redo_from: AtomicU64,
    /// Pages that existed as of the newest manifest.
    pub pages_at_checkpoint: AtomicU64,
    /// States that can be had.
    pub past: Mutex<Past>,
    pub rewinding: Rewinding,
    /// The open went on from a rewind that no superblock names: without a checkpoint it is seen in the log alone.
    pub unnamed: AtomicBool,
    /// Views were taken: the background thread wakes when one may have been kept for too long.
    pub views_are_timed: AtomicBool,
    pub progress: Progress,
    cut_done: AtomicBool,
    /// The user is to be told something; held by the one thread that does.
    untold: AtomicBool,
    telling: Mutex<()>,
    pub checkpoint_errors: AtomicU64,
    /// Commits that waited for space ahead of the tail.
    pub space_waits: AtomicU64,
    /// The last commit's time, for the filler after idleness.
    pub last_commit_us: AtomicU64,
    /// Behind the last MTR that was published: what `sync` waits for.
    pub appended: AtomicU64,
    /// A filler speaks for everything below.
    pub spoken_for: AtomicU64,
    pub background: Background,
    /// None on real disks, where threads bring what is waited for.
    #[cfg(feature = "sim")]
    driver: Option<Arc<dyn Driver>>,
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

/// What a checkpoint writes out.
pub(crate) struct Frozen {
    /// Where redo will begin.
    pub redo: Lsn,
    pub layer: Arc<Layer>,
    /// With a new, empty layer.
    pub map: Map,
    /// Of the MTRs since the checkpoint before.
    pub stamps: (u64, u64),
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
    /// Where redo begins with the manifest that superblocks name.
    pub redo: Lsn,
    pub past: Past,
    /// The newest state's manifest is not the one that superblocks name.
    pub unnamed: bool,
    /// Of the MTRs since the newest checkpoint.
    pub stamps: (u64, u64),
    /// The volume's own clock.
    pub age_us: u64,
    pub clock: Arc<dyn Clock>,
    /// The addresses between the log's end and the new epoch's begin, if there is anything to merge.
    pub merge: Option<(Lsn, Lsn)>,
    /// No process of an earlier epoch can have anything in flight but what a drain waits for.
    pub earlier_gone: Box<dyn Fn() -> bool + Send + Sync>,
    #[cfg(feature = "sim")]
    pub driver: Option<Arc<dyn Driver>>,
}

/// Who waits runs the engine again after so long: what waits for time, as a look that failed, is not told of by anybody.
pub(crate) const AGAIN: Duration = Duration::from_millis(100);

impl Shared {
    pub fn new(parts: Parts, engine: Engine) -> Shared {
        let (begin, kept) = (engine.writer.begin(), engine.freeing.kept.clone());
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
            reclaim: Mutex::default(),
            pressure: Pressure::default(),
            died: Died::default(),
            freed_pages: AtomicU64::new(0),
            opened_at: parts.clock.now(),
            clock: parts.clock,
            merge: Mutex::new(parts.merge),
            earlier_gone: parts.earlier_gone,
            idle: AtomicBool::new(true),
            nothing_moves: AtomicBool::new(false),
            kept: RwLock::new(kept),
            wanted: AtomicBool::new(false),
            redo_from: AtomicU64::new(parts.redo.0),
            pages_at_checkpoint: AtomicU64::new(parts.pages),
            past: Mutex::new(parts.past),
            unnamed: AtomicBool::new(parts.unnamed),
            rewinding: Rewinding::new(parts.stamps, parts.age_us),
            views_are_timed: AtomicBool::new(false),
            progress: Progress::new(),
            cut_done: AtomicBool::new(false),
            untold: AtomicBool::new(false),
            telling: Mutex::default(),
            checkpoint_errors: AtomicU64::new(0),
            space_waits: AtomicU64::new(0),
            last_commit_us: AtomicU64::new(0),
            appended: AtomicU64::new(begin.0),
            spoken_for: AtomicU64::new(begin.0),
            background: Background::new(),
            #[cfg(feature = "sim")]
            driver: parts.driver,
        }
    }

    /// Lets a simulated world go on by a step. False on real disks, where threads do.
    #[cfg(feature = "sim")]
    pub fn drive(&self) -> bool {
        self.driver.as_ref().map(|driver| driver.step()).is_some()
    }

    #[cfg(not(feature = "sim"))]
    pub fn drive(&self) -> bool {
        false
    }

    /// The volume is a simulated one: nobody else lets its world go on.
    pub fn is_driven(&self) -> bool {
        #[cfg(feature = "sim")]
        return self.driver.is_some();
        #[cfg(not(feature = "sim"))]
        false
    }

    /// Waits for word since `turn`, or so long; in a simulated volume not so long: callers look again.
    pub fn wait_for_word(&self, turn: u64, most: Duration) {
        if !self.drive() {
            self.progress.wait(turn, most);
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
        self.reads.read(page, || if self.tickets.is_over() { self.tickets.vdl() } else { self.front.published() })
    }

    /// Where this process's epoch begins.
    #[cfg(feature = "sim")]
    pub fn front_begin(&self) -> Lsn {
        self.engine().writer.begin()
    }

    /// Behind the last MTR that was published.
    pub fn appended(&self) -> Lsn {
        Lsn(self.appended.load(Ordering::SeqCst))
    }

    /// What was given back, by the newest manifest.
    pub fn freed(&self) -> Freed {
        self.engine().freeing.freed.clone()
    }

    /// The engine, locked. Whoever had something for it meanwhile and did not wait is served when it is given up.
    pub fn engine(&self) -> Held<'_> {
        Held { shared: self, engine: Some(self.engine.lock()) }
    }

    /// Runs the engine once.
    pub fn pump(&self) {
        loop {
            self.run_engine(&mut self.engine.lock());
            // Somebody had something for the engine while it was locked, and did not wait.
            if !self.wanted.swap(false, Ordering::SeqCst) {
                return self.after_pump();
            }
        }
    }

    /// Runs the engine, now or by whoever has its lock. A committing thread that waited for the lock would find its
    /// commit acknowledged and the next ones of others not yet begun: nothing would share a group.
    pub fn pump_soon(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        while self.wanted.load(Ordering::SeqCst) {
            let Some(mut engine) = self.engine.try_lock() else { return };
            self.wanted.store(false, Ordering::SeqCst);
            self.run_engine(&mut engine);
        }
        self.after_pump();
    }

    fn run_engine(&self, engine: &mut Engine) {
        self.hand_over_wounds(engine);
        let idle = engine.pump(self.clock.now());
        self.reads.pages.reader.ask_only_last(engine.asked_last());
        self.idle.store(idle, Ordering::SeqCst);
        if engine.has_events() {
            self.untold.store(true, Ordering::SeqCst);
        }
    }

    /// Bad copies that readers met.
    pub fn hand_over_wounds(&self, engine: &mut Engine) {
        self.reads.pages.reader.take_wounds().into_iter().for_each(|lsn| engine.wound(lsn));
    }

    /// Tells the user what was found and mended. Under no lock: whatever is called may call back, and may wait for a commit:
    /// the background calls it, never whoever brings what the disks have done. False if another thread is at it.
    pub fn tell(&self) -> bool {
        let Some(_one) = self.telling.try_lock() else { return false };
        loop {
            let events = self.engine().take_events();
            if events.is_empty() {
                return true;
            }
            for event in events {
                event.trace();
                if let Some(on_event) = &self.options.on_event {
                    // A panic of its own has been reported; it is not to end the volume's thread.
                    let _ = std::panic::catch_unwind(AssertUnwindSafe(|| (on_event.0)(&event)));
                }
            }
        }
    }

    /// Waits until there is nothing left to be healed, or so long.
    pub fn wait_healed(&self, most: Duration) -> bool {
        let deadline = self.clock.now().saturating_add(most);
        loop {
            let turn = self.progress.turn();
            let healed = self.engine().healed();
            // Whoever asks has been told what was found.
            if let Some(whole) = healed.filter(|_| self.tell()) {
                return whole;
            }
            let now = self.clock.now();
            if now >= deadline || self.tickets.ended().is_some() {
                return false;
            }
            self.background.wake();
            self.wait_for_word(turn, (deadline - now).min(Duration::from_millis(20)));
        }
    }

    /// Tells who waits that something may have moved; after the end, hides what a later recovery may drop.
    pub fn after_pump(&self) {
        if self.untold.swap(false, Ordering::SeqCst) {
            self.background.wake_now();
        }
        if self.tickets.is_over() && !self.cut_done.swap(true, Ordering::SeqCst) {
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

    /// Waits until VDL reaches `end`, the volume ends, or so long.
    pub fn wait_decided(&self, end: Lsn, most: Duration) {
        let deadline = self.clock.now().saturating_add(most);
        let parked = Arc::new(crate::volume::tickets::Parked::new());
        let mut ticked = self.clock.now();
        loop {
            let now = self.clock.now();
            if self.tickets.vdl() >= end || self.tickets.is_over() || now >= deadline {
                return;
            }
            if now >= ticked + AGAIN {
                // The background may be with the user, who waits here: slots come back, and stalls end, all the same.
                ticked = now;
                if let Some(mut engine) = self.engine.try_lock() {
                    engine.tick(now);
                }
            }
            if self.drive() {
                continue;
            }
            let Some(key) = self.tickets.register(end, crate::volume::tickets::Waiter::Thread(parked.clone())) else {
                return;
            };
            // The engine may have gone idle just before the append was published: what can go on goes on now.
            self.pump_soon();
            if self.tickets.vdl() < end {
                parked.park((deadline - now).min(AGAIN));
            }
            self.tickets.forget(key);
        }
    }

    /// Memory that the volume takes and may take, in bytes: ring, cache, overlay.
    pub fn memory(&self) -> (u64, u64) {
        let map = self.reads.pages.map();
        let layers = map.current.bytes() + map.frozen.as_ref().map_or(0, |l| l.bytes());
        let layers = layers + map.root.pending.bytes();
        let used = self.front.ring.bytes() + self.reads.pages.cached_bytes() + layers;
        let ring = (crate::log::ring::FRAMES as u64 + 12) * format::FRAME;
        let cache = self.options.cache_bytes.max(64 * u64::from(self.geometry.page_size));
        // Two layers, what views hold, and what is pending in the table.
        (used, ring + cache + 4 * self.options.overlay_bytes)
    }

    /// Bytes of the extents in which something of the log lies, and the most that may be.
    pub fn log_bytes(&self, tail: Lsn) -> (u64, u64) {
        let held = extents(&self.kept.read(), tail);
        (held * format::EXTENT, self.options.extents_max() * format::EXTENT)
    }

    /// A manifest gives this back.
    pub fn give_back(&self, freed: &Freed) {
        let mut engine = self.engine();
        engine.give_back(freed.clone());
        let kept = engine.freeing.kept.clone();
        drop(engine);
        self.front.set_limit(room(&kept, self.options.extents_max()));
        *self.kept.write() = kept;
        self.nothing_moves.store(false, Ordering::Relaxed);
    }

    /// Why an MTR that makes no room is refused.
    pub fn volume_full(&self, tail: Lsn) -> WriteError {
        let (holds, most) = self.log_bytes(tail);
        WriteError::VolumeFull { holds, most }
    }

    /// Two layers are full: nothing is appended before the older one is in the table.
    pub fn overlay_is_full(&self) -> bool {
        let map = self.reads.pages.map();
        map.frozen.is_some() && map.current.bytes() > self.options.overlay_bytes
    }

    /// A new, empty layer takes the place of the current one, which a checkpoint will write out. Redo will begin where
    /// the log's tail is now.
    pub fn freeze(&self) -> Option<Frozen> {
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
        Some(Frozen { redo: append.tail(), layer: frozen, map: next, stamps: self.rewinding.take_stamps() })
    }
}
