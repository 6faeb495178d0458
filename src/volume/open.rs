//! One open volume on real disks: how it is put together, and how it is closed.

use crate::bugs::{Bug, planted};
use crate::core::gaps::Gap;
use crate::core::history::room;
use crate::core::writer::{Look, Writer};
use crate::disk::file::Meter;
use crate::disk::real::{RealDisk, Writes};
use crate::disk::watch::{self, Watch};
use crate::disk::worker::Workers;
use crate::disk::{Disk, Fleet, job};
use crate::log::append::Front;
use crate::log::record::Kind;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::page::overlay::{Layer, Version};
use crate::page::read::LogReader;
use crate::page::version::{Map, Pages};
use crate::segment::placement::{self, Azs, Locks, Placement};
use crate::segment::recover::{self, Opened, Recovered, State};
use crate::segment::superblock::{Durability, Geometry, Superblock};
use crate::volume::background;
use crate::volume::engine::Engine;
use crate::volume::error::{CloseError, OpenError, ReplaceError, WriteError};
use crate::volume::health::{AzHealth, DURABILITY, Health, Holder, SlotHealth};
use crate::volume::history::HistoryHealth;
use crate::volume::options::Options;
use crate::volume::rewind::Ask;
use crate::volume::shared::{Clock, Parts, RealClock, Shared};
use crate::volume::tickets::{Ended, Tickets};
use crate::volume::view::Reads;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// What a dropped handle may take to close.
const DROP_MAX: Duration = Duration::from_secs(1);

/// The owner of an open volume: what handles share, and what only closing needs.
pub(crate) struct Handle {
    pub shared: Arc<Shared>,
    /// None where the disks are simulated.
    real: Option<Real>,
    closing: AtomicBool,
    /// The process that opened it. A child that was forked has its memory, but none of its threads, and no say.
    pid: u32,
    io: &'static str,
    recovery_bytes: u64,
}

/// What only an open volume on real disks has.
struct Real {
    azs: Azs,
    workers: Arc<Workers>,
    locks: Mutex<Locks>,
    replacing: Mutex<()>,
    /// What happens to the directories is told while this is there.
    listener: Mutex<Option<std::io::PipeWriter>>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let volume = &self.shared.geometry.volume;
        f.debug_struct("Handle").field("volume", volume).field("epoch", &self.shared.number).finish_non_exhaustive()
    }
}

impl Handle {
    pub fn create(at: &Placement, options: &Options) -> Result<Handle, OpenError> {
        options.check()?;
        let azs = Azs::create(at, options.allow_volatile, options.allow_remote)?;
        let workers = start(&azs, options)?;
        let volume = new_id()?;
        let geometry = Geometry {
            volume,
            log: volume,
            page_size: options.page_size,
            block_size: azs.block(),
            pg_size: options.pg_size,
        };
        let (locks, _) = Locks::take(&azs, 1)?;
        let opened = recover::create(&*workers, geometry, Durability::Dsync)?;
        let handle = Handle::assemble(opened, azs, workers, locks, options)?;
        handle.make_root()?;
        handle.set_window(options)?;
        Ok(handle)
    }

    pub fn open(at: &Placement, options: &Options, force: bool) -> Result<Handle, OpenError> {
        options.check_limit()?;
        let azs = Azs::open(at, options.allow_volatile, options.allow_remote)?;
        let workers = start(&azs, options)?;
        let mut locks = None;
        let opened = recover::open(&*workers, |number, slots| {
            // In an AZ of another volume a lock is not ours to see or to take.
            let mut azs = azs.only(slots);
            if !force {
                let (holder, silent) = placement::holder(&azs);
                if let Some(holder) = holder {
                    return Err(OpenError::Locked { pid: holder.pid, epoch: holder.epoch });
                }
                workers.silent(silent);
                azs = azs.only(slots.minus(silent));
            }
            let (taken, silent) = Locks::take(&azs, number)?;
            workers.silent(silent);
            locks = Some(taken);
            Ok(())
        });
        let opened = opened.map_err(|e| no_volume(e, &azs))?;
        let Some(locks) = locks else { unreachable!("an open that succeeds has called for its lock") };
        let handle = Handle::assemble(opened, azs, workers, locks, options)?;
        let young = handle.shared.engine().manifest().0.is_none();
        // A creation that was killed may have come as far as a volume, and not to its root.
        if young && matches!(handle.shared.read_newest(crate::PageId::ROOT), Err(crate::ReadError::NoSuchPage(_))) {
            handle.make_root()?;
        }
        handle.set_window(options)?;
        Ok(handle)
    }

    /// The window that the options name, if the volume has another.
    fn set_window(&self, options: &Options) -> Result<(), OpenError> {
        let wanted = options.window.filter(|w| *w != self.shared.past.lock().window);
        let Some(window) = wanted else { return Ok(()) };
        let set = self.shared.checkpoint_with(Ask::Window(window), self.shared.history_deadline());
        set.map_err(|e| OpenError::Quorum {
            what: format!("the window could not be set: {e}"),
            slots: crate::SlotFaults(Vec::new()),
        })
    }

    /// A volume on disks that are simulated.
    #[cfg(feature = "sim")]
    pub fn simulated(shared: Arc<Shared>, recovery_bytes: u64) -> Handle {
        Handle {
            shared,
            real: None,
            closing: AtomicBool::new(false),
            pid: std::process::id(),
            io: "simulated",
            recovery_bytes,
        }
    }

    /// Its directories; none on disks that are simulated.
    pub fn azs(&self) -> Option<&Azs> {
        self.real.as_ref().map(|real| &real.azs)
    }

    /// A slot's directory.
    pub fn slot_path(&self, slot: Slot) -> std::path::PathBuf {
        match &self.real {
            Some(real) => real.azs.slot(slot),
            None => format!("simulated/slot-{slot}").into(),
        }
    }

    /// See [`Volume::replace`](crate::Volume::replace).
    pub fn replace(&self, slot: Slot, directory: &std::path::Path) -> Result<Option<std::path::PathBuf>, ReplaceError> {
        let shared = &self.shared;
        shared.check_open().map_err(|e| match e {
            WriteError::ReadOnly(why) => ReplaceError::ReadOnly(why),
            _ => ReplaceError::Closed,
        })?;
        let Some(real) = &self.real else { return Err(ReplaceError::Simulated) };
        // Two calls at once would be in each other's way.
        let Some(_alone) = real.replacing.try_lock() else { return Err(ReplaceError::Busy(slot)) };
        let replacement = real.azs.replacement(slot, directory, shared.geometry.volume)?;
        let held = shared.engine().hold(slot, shared.clock.now());
        held.map_err(|live| ReplaceError::TooFew { slot, live: live.iter().collect() })?;
        // Not under the engine's lock: the volume goes on meanwhile.
        let old = replacement.carry_out();
        shared.engine().let_go(slot, shared.clock.now());
        shared.pump();
        shared.background.wake_now();
        old
    }

    /// Page 0 exists from the first moment on.
    pub fn make_root(&self) -> Result<(), OpenError> {
        let mut content = crate::volume::mtr::Content::default();
        content.changes.push(crate::volume::mtr::Change {
            page: crate::PageId::ROOT,
            what: crate::volume::mtr::What::Zero,
            fresh: true,
        });
        let failed = |what: String| OpenError::Quorum { what, slots: crate::SlotFaults(Vec::new()) };
        let end = match self.shared.append(&content) {
            Err(crate::WriteError::OutOfSpace { .. }) => {
                let first = self.real.as_ref().map(|real| real.azs.paths[0].clone());
                return Err(OpenError::OutOfSpace(first.unwrap_or_default()));
            }
            other => other.map_err(|e| failed(format!("the root page could not be written: {e}")))?,
        };
        let root = self.shared.clone().ticket(end);
        root.wait().map_err(|e| failed(format!("the root page could not be written: {e}")))?;
        Ok(())
    }

    fn assemble(
        opened: Opened,
        azs: Azs,
        workers: Arc<Workers>,
        locks: Locks,
        options: &Options,
    ) -> Result<Handle, OpenError> {
        // From here on the watch sees every claim; one more look sees those before.
        let watch = Watch::begin(opened.number, |slot| azs.slot(slot));
        let claims = workers.each(opened.recovered.survey.claimable(), |_, dir| job::highest_claim(dir));
        let claims = claims.map(|c| c.and_then(Result::ok).filter(|c| *c > 0));
        if let Look::Claimed(epoch) = Look::judge(opened.number, &claims) {
            return Err(OpenError::Outbid { epoch });
        }
        let previous = opened.recovered.choice.decision.number;
        let recovery_bytes = opened.recovered.bytes_read;
        let (writes, io) = writes(&workers, options, opened.geometry.pg_size)?;
        let weak = Arc::new(std::sync::OnceLock::<std::sync::Weak<Shared>>::new());
        let (bell, events) = (weak.clone(), watch.as_ref());
        let ring = move || {
            if let Some(shared) = bell.get().and_then(std::sync::Weak::upgrade) {
                shared.background.wake_now();
            }
        };
        let listener = events.map(|watch| watch::listen(watch, ring)).transpose();
        let listener = listener.map_err(|source| OpenError::Io { path: "a thread".into(), source })?;
        let disk = Box::new(RealDisk::new(workers.clone(), writes, watch));
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        let (mut parts, engine) = build(opened, workers.dirs(), disk, clock, options);
        let number = parts.number;
        let lock_of = azs.clone();
        parts.earlier_gone = Box::new(move || !placement::is_held_below(&lock_of, number));
        let shared = Arc::new(Shared::new(parts, engine));
        let _ = weak.set(Arc::downgrade(&shared));
        let weak = Arc::downgrade(&shared);
        let hook = move || {
            if let Some(shared) = weak.upgrade() {
                shared.pump();
            }
        };
        // Set once: these workers are this volume's.
        let _ = workers.completions.hook.set(Box::new(hook));
        workers.stand();
        shared.engine().tidy(previous);
        locks.tidy(number);
        shared.pump();
        let weak = Arc::downgrade(&shared);
        shared.reads.pages.reader.on_wound(move || {
            if let Some(shared) = weak.upgrade() {
                shared.background.wake_now();
            }
        });
        let mine = shared.clone();
        let spawned = std::thread::Builder::new().name("quorate-bg".into()).stack_size(512 << 10);
        spawned
            .spawn(move || background::run(&mine))
            .map_err(|source| OpenError::Io { path: "a thread".into(), source })?;
        let (locks, listener) = (Mutex::new(locks), Mutex::new(listener));
        let real = Some(Real { azs, workers, locks, replacing: Mutex::new(()), listener });
        Ok(Handle { shared, real, closing: AtomicBool::new(false), pid: std::process::id(), io, recovery_bytes })
    }

    /// See [`Volume::close`](crate::Volume::close).
    pub fn close(&self, most: Duration) -> Result<(), CloseError> {
        if self.closing.swap(true, Ordering::SeqCst) || self.pid != std::process::id() {
            return Err(CloseError::Closed);
        }
        let result = self.shared.close(most);
        self.shared.background.stop();
        self.shared.tickets.end(Ended::Closed);
        self.shared.after_pump();
        self.shared.tell();
        if let Some(real) = &self.real {
            real.locks.lock().release();
            real.listener.lock().take();
        }
        result
    }

    pub fn health(&self) -> Health {
        let shared = &self.shared;
        let tail = shared.front.tail();
        let (log_bytes, log_bytes_max) = shared.log_bytes(tail);
        // Whoever drives one holds it for as long as a step takes.
        let checkpointing = shared.checkpoint.try_lock().is_none_or(|running| running.is_some());
        let space = shared.space();
        let engine = shared.engine();
        let slots = Slot::ALL.map(|slot| {
            let meter = self.real.as_ref().map(|real| &real.workers.dir(slot).meter);
            let count = |of: fn(&Meter) -> &AtomicU64| meter.map_or(0, |m| of(m).load(Ordering::Relaxed));
            SlotHealth {
                slot,
                path: self.slot_path(slot),
                away: engine.writer.away(slot),
                fault: engine.fault(slot),
                scl: engine.writer.cursor(slot),
                gaps: engine.writer.gaps(slot),
                full: engine.full().contains(slot),
                write_calls: count(|m| &m.writes),
                bytes_written: count(|m| &m.bytes_written),
                bytes_read: count(|m| &m.bytes_read),
                punches_refused: count(|m| &m.punches_refused),
            }
        });
        let (manifest, redo) = engine.manifest();
        let (memory_bytes, memory_bytes_max) = shared.memory();
        let mut health = Health {
            slots: slots.to_vec(),
            azs: self.real.as_ref().map(|real| az_health(&real.azs)).unwrap_or_default(),
            shared_devices: self.real.as_ref().map(|real| real.azs.shared_devices()).unwrap_or_default(),
            holder: (!shared.tickets.is_over()).then(|| Holder { pid: std::process::id(), epoch: shared.number }),
            volume: shared.geometry.volume,
            epoch: shared.number,
            vcl: engine.writer.vcl(),
            vdl: engine.writer.vdl(),
            tail,
            manifest,
            redo,
            page_size: shared.geometry.page_size,
            block_size: shared.geometry.block_size,
            pg_size: shared.geometry.pg_size,
            io: self.io,
            durability: DURABILITY,
            memory_bytes,
            memory_bytes_max,
            log_bytes,
            log_bytes_max,
            space_waits: shared.space_waits.load(Ordering::Relaxed),
            checkpointing,
            space,
            device_bytes: 0,
            history: HistoryHealth::of(&shared.past.lock()),
            views: shared.reads.views.lock().count(),
            bad_copies: shared.reads.pages.reader.bad_copies.load(Ordering::Relaxed),
            repair: engine.repair_health(),
            recovery_bytes: self.recovery_bytes,
            ended: shared.tickets.ended().map(|e| e.to_string()),
        };
        // A disk may hang: no lock is held meanwhile.
        drop(engine);
        health.device_bytes = Slot::ALL.iter().map(|s| device_bytes(&self.slot_path(*s))).sum();
        health
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A second at most, and without a word: who wants to know calls `close`.
        let _ = self.close(DROP_MAX);
    }
}

/// What was found below each AZ.
pub(crate) fn az_health(azs: &Azs) -> Vec<AzHealth> {
    let health = |(path, probe): (&std::path::PathBuf, &Option<placement::Probe>)| AzHealth {
        path: path.clone(),
        present: probe.is_some(),
        file_system: probe.as_ref().map_or("", |p| p.file_system),
        direct_io: probe.as_ref().is_some_and(|p| p.direct.is_some()),
        volatile: probe.as_ref().is_some_and(|p| p.volatile),
    };
    azs.paths.iter().zip(&azs.probes).map(health).collect()
}

/// What a slot's files take; nothing of a directory that cannot be read.
pub(crate) fn device_bytes(slot: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(slot).into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).map(|m| m.blocks() * 512).sum()
}

/// Names the directory in which no volume was found.
pub(crate) fn no_volume(e: OpenError, azs: &Azs) -> OpenError {
    match e {
        OpenError::NoVolume(_) => OpenError::NoVolume(
            azs.paths[0].parent().filter(|_| azs.paths[0].ends_with("az-0")).unwrap_or(&azs.paths[0]).to_path_buf(),
        ),
        other => other,
    }
}

/// A new volume's identity.
pub(crate) fn new_id() -> Result<Uuid, OpenError> {
    let mut random = [0; 10];
    getrandom::fill(&mut random)
        .map_err(|e| OpenError::Io { path: "/dev/urandom".into(), source: std::io::Error::other(e.to_string()) })?;
    let millis = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    Ok(uuid::Builder::from_unix_timestamp_millis(millis as u64, &random).into_uuid())
}

pub(crate) fn start(azs: &Azs, options: &Options) -> Result<Arc<Workers>, OpenError> {
    let workers = Workers::start(azs.slots(), azs.block() as usize, azs.buffered(), options.io_uring)
        .map_err(|source| OpenError::Io { path: "a thread".into(), source })?;
    workers.silent(azs.silent);
    Ok(Arc::new(workers))
}

fn writes(workers: &Workers, options: &Options, pg_size: u64) -> Result<(Writes, &'static str), OpenError> {
    #[cfg(feature = "io-uring")]
    if options.io_uring
        && let Ok(uring) = crate::disk::uring::Uring::new(pg_size, workers.completions.clone())
    {
        return Ok((Writes::Uring(Box::new(uring)), "io_uring"));
    }
    let _ = options;
    match Writes::threads(workers, pg_size) {
        Ok(writes) => Ok((writes, "threads")),
        Err(source) => Err(OpenError::Io { path: "a thread".into(), source }),
    }
}

/// What redo leaves of a state: its manifest's table, and the changes since in a layer. Versions are kept that a read at
/// `from` or above may ask for.
pub(crate) fn redo_map(recovered: &Recovered, at: Lsn, from: Lsn) -> Map {
    let (state, changes) = recovered.at(at);
    let manifest = &state.manifest;
    let layer = Layer::new();
    for c in changes {
        let base = if c.kind == Kind::Image { c.lsn } else { c.base };
        let version = Version { lsn: c.lsn, base, depth: c.depth, free: c.kind == Kind::Free };
        layer.push(c.page, version, from, &[]);
    }
    let root = Arc::new(manifest.root.clone());
    let (redo, pages) = (manifest.redo, manifest.pages);
    Map { current: Arc::new(layer), frozen: None, root, redo, pages, generation: 0, heads: Arc::default() }
}

/// Puts an opened volume's parts together: the same on real disks and in the simulator.
pub(crate) fn build(
    opened: Opened,
    dirs: [Option<Arc<dyn crate::disk::SlotDir>>; SLOTS],
    disk: Box<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &Options,
) -> (Parts, Engine) {
    let Opened { geometry, number, history, begin, took_part, superblocks, recovered } = opened;
    let front = Arc::new(Front::new(geometry.seed(), number, geometry.block(), begin));
    let map = redo_map(&recovered, Lsn::MAX, Lsn::MAX);
    // Ids that were given out before a rewind are not given out again: the rewind may be undone.
    let used = recovered.changes.iter().map(|c| c.page.0 + 1).max().unwrap_or(0);
    let reader = LogReader::new(geometry, dirs, history.clone());
    let gaps: Vec<(Slot, Gap)> = superblocks.iter().flatten().next().map(|s| s.gaps.clone()).unwrap_or_default();
    let mut writer = Writer::new(begin, took_part);
    for slot in Slot::ALL {
        gaps.iter().filter(|(s, _)| *s == slot).for_each(|(_, gap)| writer.suspect(slot, *gap));
    }
    let pages = Pages::new(reader, Some(front.clone()), options.cache_bytes, map);
    let tickets = Arc::new(Tickets::new(begin));
    // A slot that took no part gets its own superblock when it rejoins.
    let Some(any) = superblocks.iter().flatten().next().cloned() else { unreachable!("four slots took part") };
    let all: Vec<Superblock> = Slot::ALL
        .into_iter()
        .map(|slot| superblocks[slot.index()].clone().unwrap_or_else(|| Superblock { slot, ..any.clone() }))
        .collect();
    // Tail files may lie on a slot that was not seen, too. And where something may be missing, nobody has said yet that what
    // earlier writers had in flight is no more.
    let doubts = (!any.gaps.is_empty() || !any.unchecked.is_empty()) && !planted(Bug::QuietAfterClean);
    let (tails, all_seen) = (recovered.survey.has_tails(), recovered.survey.ours() == SlotSet::ALL);
    // Before the first epoch there was nobody.
    let merges = number > 1 && (!recovered.clean || tails || !all_seen || doubts);
    let State { manifest, .. } = recovered.newest();
    let mut past = recovered.newest().past();
    let freed = if planted(Bug::FreedUnnamed) { manifest.freed.clone() } else { recovered.freed.clone() };
    let kept = freed.kept(&history);
    past.takes_back(&manifest.freed, &kept);
    front.set_limit(room(&kept, options.extents_max()));
    let mut engine = Engine::new(writer, front.clone(), tickets.clone(), disk, all, history, freed, number, options);
    let parts = Parts {
        geometry,
        number,
        options: options.clone(),
        front,
        reads: Arc::new(Reads::new(pages)),
        tickets,
        next_page: manifest.next_page.max(used),
        pages: manifest.pages,
        redo: recovered.named.1.max(Lsn(format::BLOCK_MIN)),
        past,
        unnamed: recovered.newest().lsn != recovered.named.0,
        stamps: recovered.stamps,
        age_us: recovered.age_us(clock.wall_us()),
        merge: merges.then(|| {
            let from = recovered.ruling.vcl.max(recovered.ruling.end).ceil(geometry.block());
            (from.min(begin), begin)
        }),
        clock,
        earlier_gone: Box::new(|| false),
        #[cfg(feature = "sim")]
        driver: None,
    };
    engine.is_drained(parts.merge.is_none());
    (parts, engine)
}
