//! Reading alone: beside a running writer, on a damaged volume, on three slots of six.

use crate::bugs::{Bug, planted};
use crate::core::gaps::Gaps;
use crate::core::history::{Entry, History, extents};
use crate::core::writer::Look;
use crate::core::{READ_QUORUM, WRITE_QUORUM, recovery};
use crate::disk::file::Meter;
use crate::disk::worker::Workers;
use crate::disk::{Fleet, SlotDir, job};
use crate::history::error::HistoryError;
use crate::history::find::Finder;
use crate::history::past::Past;
use crate::log::record;
use crate::lsn::{Lsn, PageId, SLOTS, Slot, SlotSet, format};
use crate::page::read::LogReader;
use crate::page::version::{Map, Pages};
use crate::reclaim::freed;
use crate::repair::plan::bytes_in;
use crate::segment::placement::{self, Azs, Placement};
use crate::segment::recover::{self, Recovered, State};
use crate::segment::superblock::Superblock;
use crate::segment::survey::Standing;
use crate::segment::verify::{self, LogRecord, Verification};
use crate::volume::error::{OpenError, ReadError, ReplaceError, Unknown};
use crate::volume::health::{DURABILITY, Health, RepairHealth, SlotHealth};
use crate::volume::history::HistoryHealth;
use crate::volume::open::device_bytes;
use crate::volume::open::{az_health, no_volume, redo_map, start};
use crate::volume::options::Options;
use crate::volume::reclaim::Space;
use crate::volume::view::{Reads, View};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A volume that is open for reading alone. It took no lock and wrote nothing.
///
/// Three slots cannot know everything: what lies below [`settled`](Reader::settled) is certain, what lies between it and
/// [`visible`](Reader::visible) may still be dropped by the next writer.
///
/// ```
/// use quorate::{Options, PageId, Volume};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
/// # Volume::create(dir.path(), &Options::default())?.close()?;
/// let reader = Volume::open_read_only(dir.path(), &Options::default())?;
/// assert_eq!(reader.view().read(PageId::ROOT)?[0], 0);
/// # Ok(()) }
/// ```
pub struct Reader {
    reads: Arc<Reads>,
    slots: Slots,
    recovered: Recovered,
    settled: Lsn,
    decision_settled: bool,
    /// See [`outcome`].
    told: usize,
    /// What the log below `settled` says of the past.
    past: Past,
    /// Where what is visible was rewound, and that is not settled: what is there then.
    later: Option<Arc<Map>>,
}

/// Where it reads.
enum Slots {
    Real {
        workers: Arc<Workers>,
        azs: Azs,
    },
    #[cfg_attr(not(feature = "sim"), allow(dead_code, reason = "only the simulator makes it"))]
    Simulated(InTurn),
}

/// Slots that are asked one after the other, by whoever calls.
struct InTurn([Option<Arc<dyn SlotDir>>; SLOTS]);

impl Fleet for InTurn {
    fn each<T: Send + 'static>(
        &self,
        set: SlotSet,
        call: impl Fn(Slot, &dyn SlotDir) -> io::Result<T> + Send + Sync + 'static,
    ) -> [Option<io::Result<T>>; SLOTS] {
        Slot::ALL.map(|slot| {
            let dir = self.0[slot.index()].as_deref();
            let missing = || Err(io::ErrorKind::NotFound.into());
            set.contains(slot).then(|| dir.map_or_else(missing, |dir| call(slot, dir)))
        })
    }

    fn dirs(&self) -> [Option<Arc<dyn SlotDir>>; SLOTS] {
        self.0.clone()
    }
}

/// Openings of others that a reader steps aside for.
const TRIES: usize = 8;

pub(crate) fn open(at: &Placement, options: &Options) -> Result<Reader, OpenError> {
    let azs = Azs::open(at, options.allow_volatile, options.allow_remote)?;
    let workers = start(&azs, options)?;
    let highest = || {
        let claims = workers.each(SlotSet::ALL, |_, dir| job::highest_claim(dir));
        claims.map(|c| c.and_then(Result::ok).filter(|c| *c > 0))
    };
    let mut before = highest();
    let mut tries = 0;
    let recovered = loop {
        let recovered = recover::recover(&*workers);
        let claims = highest();
        tries += 1;
        match recovered {
            Ok(recovered) => break recovered,
            // A writer opened the volume while its superblocks were read: they are read again.
            Err(_) if claims != before && tries < TRIES => before = claims,
            // Or it had claimed before, and has decided and written since.
            Err(OpenError::UnknownEpoch { .. }) if tries < TRIES => (),
            Err(e) => return Err(no_volume(e, &azs)),
        }
    };
    let certain = settled(&*workers, &recovered);
    workers.stand();
    let dirs = workers.dirs();
    Reader::new(recovered, certain, dirs, Slots::Real { workers, azs }, options)
}

/// Whether a commit has survived, by a history that a reader chose.
/// Manifests begin to forget epochs above `told`.
pub(crate) fn outcome(
    history: &History,
    settled: Lsn,
    decision_settled: bool,
    told: usize,
    lost: Unknown,
) -> Option<bool> {
    let included = history.includes(lost.epoch, lost.lsn);
    let entry = history.entries().iter().find(|e| e.epoch == lost.epoch);
    match entry {
        Some(e) if e.end != Lsn::MAX && decision_settled => Some(included),
        Some(_) => (lost.lsn <= settled && included).then_some(true),
        None if history.may_have_forgotten(lost.epoch, told) => None,
        None => (lost.epoch < history.last().epoch && decision_settled).then_some(false),
    }
}

/// PROTOCOL.md, "Read-only": what is certain, and whether the chosen decision is.
///
/// One thing is added to it: four copies (of a group, or of a decision) that were only *read* may all sit in devices'
/// caches, left there by late writes of a killed process, and go at a power cut. So a copy counts only once it was
/// flushed after the reading.
pub(crate) fn settled<F: Fleet>(fleet: &F, r: &Recovered) -> (Lsn, bool) {
    if r.clean {
        return (r.ruling.end, true);
    }
    let unflushed = planted(Bug::ReaderCountsUnflushed);
    let flushed = if unflushed { SlotSet::ALL } else { recover::flush_what_was_read(fleet, r) };
    let unclaimed = || planted(Bug::SettledUnderClaim) || is_unclaimed(fleet, r);
    recovery::settled(r.history.last(), &r.ruling, &r.seen, r.choice.holders, flushed, unclaimed)
}

/// A look after the reading finds no claim above the chosen decision.
fn is_unclaimed<F: Fleet>(fleet: &F, recovered: &Recovered) -> bool {
    let claims = fleet.each(recovered.survey.claimable(), |_, dir| job::highest_claim(dir));
    let claims = claims.map(|c| c.and_then(Result::ok).filter(|c| *c > 0));
    Look::judge(recovered.choice.decision.number, &claims) == Look::Clear
}

impl Reader {
    fn new(
        mut recovered: Recovered,
        (settled, decision_settled): (Lsn, bool),
        dirs: [Option<Arc<dyn SlotDir>>; SLOTS],
        slots: Slots,
        options: &Options,
    ) -> Result<Reader, OpenError> {
        // A reader copies nothing.
        recovered.groups.clear();
        // Views at `settled` as well as at `visible`.
        let map = redo_map(&recovered, settled, settled);
        let visible = recovered.ruling.end;
        let later = (recovered.at(settled).0.lsn != recovered.at(visible).0.lsn)
            .then(|| Arc::new(redo_map(&recovered, visible, visible)));
        let reader = LogReader::new(recovered.survey.geometry, dirs, recovered.history.clone());
        let absent = SlotSet::ALL.minus(recovered.survey.ours());
        absent.iter().for_each(|slot| reader.ask_last(slot, true));
        let past = recovered.at(settled).0.past();
        let reads = Arc::new(Reads::new(Pages::new(reader, None, options.cache_bytes, map)));
        let told = options.epochs_told;
        Ok(Reader { reads, slots, recovered, settled, decision_settled, told, past, later })
    }

    /// One on disks that are simulated, and what it found certain.
    #[cfg(feature = "sim")]
    pub(crate) fn simulated<F: Fleet>(fleet: &F, recovered: Recovered, options: &Options) -> Result<Reader, OpenError> {
        let certain = settled(fleet, &recovered);
        Reader::new(recovered, certain, fleet.dirs(), Slots::Simulated(InTurn(fleet.dirs())), options)
    }

    /// What it chose, for a check: the decision and its epoch, and whether that is certain.
    #[cfg(feature = "sim")]
    pub(crate) fn chosen(&self) -> (u64, u64, bool) {
        (self.recovered.choice.decision.number, self.recovered.history.last().epoch, self.decision_settled)
    }

    /// A view of what is certain.
    pub fn view(&self) -> View {
        self.reads.view_at(self.settled, Duration::ZERO)
    }

    /// A view of all that is there, also of what the next writer may drop.
    pub fn view_visible(&self) -> View {
        match &self.later {
            Some(map) => self.reads.view_of(map.clone(), self.visible(), Duration::ZERO),
            None => self.reads.view_at(self.visible(), Duration::ZERO),
        }
    }

    /// What is certain of the past.
    pub(crate) fn past(&self) -> &Past {
        &self.past
    }

    /// Looks among the states that are certain.
    pub(crate) fn look_back<R>(
        &self,
        look: impl FnOnce(&Finder<'_>) -> Result<R, HistoryError>,
    ) -> Result<R, HistoryError> {
        let (past, history) = (&self.past, &self.recovered.history);
        look(&Finder { reader: &self.reads.pages.reader, history, past, durable: self.settled })
    }

    /// A view of what was found there.
    pub(crate) fn view_of(&self, map: Map, at: Lsn) -> View {
        self.reads.view_of(Arc::new(map), at, Duration::ZERO)
    }

    /// The writers that the log knows: each one's epoch, and where it began.
    pub fn epochs(&self) -> Vec<(u64, Lsn)> {
        self.recovered.history.entries().iter().map(|e| (e.epoch, e.begin)).collect()
    }

    /// Everything below is certain.
    pub fn settled(&self) -> Lsn {
        self.settled
    }

    /// Everything below is there now.
    pub fn visible(&self) -> Lsn {
        self.recovered.ruling.end
    }

    /// Whether a commit has survived; none while that is not decided, and where nothing tells of its epoch any more.
    pub fn outcome(&self, lost: Unknown) -> Option<bool> {
        outcome(&self.recovered.history, self.settled, self.decision_settled, self.told, lost)
    }

    /// Reads every record of every copy, compares the copies byte for byte, and reads every page, all up to what is
    /// [`settled`](Reader::settled). It changes nothing, in bounded memory. What deviates is in the result.
    pub fn verify(&self) -> Verification {
        let mut found = match &self.slots {
            Slots::Real { workers, .. } => verify::verify(&**workers, &self.recovered, self.settled),
            Slots::Simulated(slots) => verify::verify(slots, &self.recovered, self.settled),
        };
        // What a writer has given back beside it is not missing.
        if !found.differences.is_empty() {
            let freed = self.reads.pages.reader.given_back();
            found.given_back(&freed);
        }
        let view = self.view();
        let all = view.each_page(|page| {
            match view.read(page) {
                Ok(_) => found.pages += 1,
                Err(ReadError::ReadPointGone(_)) => found.gone += 1,
                Err(e) => found.cannot_read(page, e),
            }
            Ok(())
        });
        // A node of the page table: the pages below and behind it are not known.
        if let Err(ReadError::ReadPointGone(_)) = all {
            found.gone += 1;
        } else if let Err(e) = all {
            let page = match &e {
                ReadError::Lost { page, .. } | ReadError::Corrupt { page, .. } => *page,
                _ => PageId::ROOT,
            };
            found.cannot_read(page, e);
        }
        found
    }

    /// Hands the records of the log to `each`, from the one that holds `from` to what is [`visible`](Reader::visible),
    /// until it breaks off. Where no slot has a good copy, `each` gets one error, and the log goes on behind.
    pub fn log(&self, from: Lsn, mut each: impl FnMut(Result<LogRecord, ReadError>) -> ControlFlow<()>) {
        let _ = match &self.slots {
            Slots::Real { workers, .. } => verify::log(&**workers, &self.recovered, from, self.visible(), &mut each),
            Slots::Simulated(slots) => verify::log(slots, &self.recovered, from, self.visible(), &mut each),
        };
    }

    /// As [`Volume::replace`](crate::Volume::replace), for a volume that another process has open for writing: it sees
    /// what has changed, and fills the new directory within seconds. The one call of a reader that changes anything.
    ///
    /// # Errors
    /// As there. Which slots the writer can use it cannot know: those count that could be read when this was opened.
    pub fn replace(
        &self,
        slot: Slot,
        directory: impl AsRef<std::path::Path>,
    ) -> Result<Option<std::path::PathBuf>, ReplaceError> {
        let survey = &self.recovered.survey;
        let Slots::Real { azs, .. } = &self.slots else { return Err(ReplaceError::Simulated) };
        let replacement = azs.replacement(slot, directory.as_ref(), survey.geometry.volume)?;
        let live = survey.ours().without(slot);
        if live.len() < WRITE_QUORUM {
            return Err(ReplaceError::TooFew { slot, live: live.iter().collect() });
        }
        replacement.carry_out()
    }

    fn space(&self) -> Space {
        // Nothing is sampled here: what the pages of the manifest take, if each is one image.
        let allocated = freed::bytes_in(&self.recovered.kept(), Lsn::NONE, self.recovered.ruling.end);
        let page = record::encoded_len(self.recovered.survey.geometry.page_size as usize, false);
        let State { manifest, lsn, .. } = self.recovered.newest();
        let live = match lsn.is_none() {
            true => allocated,
            // What was written since is too young to be told.
            false => {
                let young = self.recovered.ruling.end - manifest.redo.min(self.recovered.ruling.end);
                (manifest.pages * page + young).min(allocated)
            }
        };
        Space { allocated, live, dead: allocated - live, ..Space::default() }
    }

    /// What the slots say, as plain numbers.
    pub fn health(&self) -> Health {
        let r = &self.recovered;
        let geometry = &r.survey.geometry;
        let real = match &self.slots {
            Slots::Real { workers, azs } => Some((workers, azs)),
            Slots::Simulated(_) => None,
        };
        let newest =
            Slot::ALL.into_iter().filter_map(|s| r.survey.files(s)?.newest()).max_by_key(|s| (s.number, s.version));
        // A slot that has just come back tells of its own gaps before the others do.
        let gaps_of = |slot: Slot| {
            let own = r.survey.files(slot).and_then(|f| f.newest());
            let mut gaps = Gaps::default();
            let told = newest.iter().chain(&own).filter(|s| newest.is_some_and(|n| n.number == s.number));
            told.flat_map(|s| &s.gaps).filter(|(s, _)| *s == slot).for_each(|(_, gap)| gaps.add(*gap));
            gaps.as_slice().to_vec()
        };
        let slots = Slot::ALL.map(|slot| {
            let fault = match &r.survey.standings[slot.index()] {
                Standing::Ours(_) => None,
                Standing::Blank => Some("it is blank".to_string()),
                Standing::Fault(fault) => Some(fault.to_string()),
            };
            let lacks = r.ruling.tail.iter().find(|(b, _)| r.seen.get(b).is_none_or(|s| !s.whole.contains(slot)));
            let scl = lacks.map_or(r.ruling.vcl, |(begin, _)| *begin);
            let gaps = gaps_of(slot);
            let meter = real.map(|(workers, _)| &workers.dir(slot).meter);
            let count = |of: fn(&Meter) -> &AtomicU64| meter.map_or(0, |m| of(m).load(Ordering::Relaxed));
            SlotHealth {
                slot,
                path: real.map_or_else(|| format!("simulated/slot-{slot}").into(), |(_, azs)| azs.slot(slot)),
                away: None,
                scl: fault.is_none().then_some(scl),
                fault,
                gaps,
                full: false,
                write_calls: count(|m| &m.writes),
                bytes_written: count(|m| &m.bytes_written),
                bytes_read: count(|m| &m.bytes_read),
                punches_refused: count(|m| &m.punches_refused),
            }
        });
        Health {
            slots: slots.to_vec(),
            azs: real.map(|(_, azs)| az_health(azs)).unwrap_or_default(),
            shared_devices: real.map(|(_, azs)| azs.shared_devices()).unwrap_or_default(),
            // In an AZ of another volume a lock says nothing of this one, and one that hangs is not asked.
            holder: real.and_then(|(_, azs)| placement::holder(&azs.only(r.survey.ours())).0),
            volume: geometry.volume,
            epoch: r.choice.decision.number,
            vcl: r.ruling.vcl,
            vdl: r.ruling.end,
            tail: r.ruling.vcl,
            manifest: r.named.0,
            redo: r.named.1,
            page_size: geometry.page_size,
            block_size: geometry.block_size,
            pg_size: geometry.pg_size,
            io: if real.is_some() { "threads" } else { "simulated" },
            durability: DURABILITY,
            memory_bytes: self.reads.pages.cached_bytes(),
            memory_bytes_max: 0,
            space: self.space(),
            device_bytes: real.map_or(0, |(_, azs)| Slot::ALL.iter().map(|s| device_bytes(&azs.slot(*s))).sum()),
            log_bytes: extents(&r.kept(), r.ruling.vcl) * format::EXTENT,
            log_bytes_max: format::EXTENTS_MAX * format::EXTENT,
            space_waits: 0,
            checkpointing: false,
            history: HistoryHealth::of(&self.past),
            views: self.reads.views.lock().count(),
            bad_copies: self.reads.pages.reader.bad_copies.load(Ordering::Relaxed),
            repair: newest.map(|s| as_told(s, &slots, &r.kept())).unwrap_or_default(),
            recovery_bytes: r.bytes_read,
            ended: None,
        }
    }
}

/// How far healing is, as far as a superblock tells.
fn as_told(superblock: &Superblock, slots: &[SlotHealth], history: &[Entry]) -> RepairHealth {
    let of_slots =
        slots.iter().flat_map(|s| &s.gaps).fold(0, |sum: u64, gap| sum.saturating_add(bytes_in(history, *gap)));
    let of_all = bytes_in(history, superblock.unchecked).saturating_mul(SLOTS as u64);
    RepairHealth {
        bytes_left: of_slots.saturating_add(of_all),
        unchecked: superblock.unchecked,
        scrub_at: superblock.scrub.at,
        ..RepairHealth::default()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("settled", &self.settled)
            .field("visible", &self.visible())
            .finish_non_exhaustive()
    }
}

const _: () = assert!(READ_QUORUM + WRITE_QUORUM > crate::lsn::SLOTS);
