//! Finding a state: which MTR is the last one below an address, or up to a moment, and what had changed since its base.
//!
//! The log between two checkpoints is read, never the data.

use crate::bugs::{Bug, planted};
use crate::core::history::History;
use crate::history::error::HistoryError;
use crate::history::past::{Base, Past};
use crate::log::record::Kind;
use crate::lsn::{Lsn, PageId, format};
use crate::page::manifest::Manifest;
use crate::page::overlay::{Layer, Version};
use crate::page::read::{Brief, LogReader};
use crate::page::version::Map;
use crate::segment::scan::is_rewind;
use crate::volume::error::ReadError;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the wall clock did around a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Clock {
    /// Later commits had later stamps.
    #[default]
    Steady,
    /// It was put back: a commit was stamped earlier than one before it.
    WentBack {
        /// By so much.
        by: Duration,
        /// The commit behind whose record it was first seen.
        at: Lsn,
    },
}

/// A state that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Moment {
    /// Everything below is in it: an MTR ends there.
    pub lsn: Lsn,
    /// The stamp of that MTR; of a state in which nothing was committed since its checkpoint, that of the checkpoint.
    pub time: SystemTime,
    /// What the clock did between the checkpoint before it and the one after.
    pub clock: Clock,
}

pub(crate) fn time_of(wall_us: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_micros(wall_us)).unwrap_or(UNIX_EPOCH)
}

pub(crate) fn micros_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// Looks for states of a volume.
pub struct Finder<'a> {
    pub reader: &'a LogReader,
    pub history: &'a History,
    pub past: &'a Past,
    /// Nothing above is looked at: it is not durable.
    pub durable: Lsn,
}

/// A state, and the checkpoint that it is made from.
pub struct Found {
    pub moment: Moment,
    pub base: Base,
}

impl Finder<'_> {
    fn not_kept(&self, what: String) -> HistoryError {
        HistoryError::NotKept { what, oldest: self.past.bases.first().map_or(Lsn::NONE, |b| b.redo) }
    }

    /// The newest state at or below an address.
    pub fn at(&self, at: Lsn) -> Result<Found, HistoryError> {
        if at > self.durable {
            return Err(HistoryError::NotYet { at, durable: self.durable });
        }
        let base = self.past.base(at).ok_or_else(|| self.not_kept(format!("LSN {at}")))?;
        self.below(base, at)
    }

    /// The newest state at or below an address, above a base's redo begin.
    pub fn below(&self, base: Base, at: Lsn) -> Result<Found, HistoryError> {
        let mut clock = ClockWatch::default();
        let (mut lsn, mut wall_us) = (base.redo, base.wall_us);
        self.each_commit(base.redo, at.min(self.past.end_of(&base)), |end, stamp| {
            clock.sees(end, stamp);
            (lsn, wall_us) = (end, stamp);
        })?;
        Ok(Found { moment: Moment { lsn, time: time_of(wall_us), clock: clock.told }, base })
    }

    /// The state at the last MTR whose stamp is not above a moment.
    pub fn at_time(&self, time: SystemTime) -> Result<Found, HistoryError> {
        let wanted = micros_of(time);
        for base in self.past.bases_at(wanted) {
            let mut clock = ClockWatch::default();
            let mut last = None;
            self.each_commit(base.redo, self.past.end_of(&base).min(self.durable), |end, stamp| {
                clock.sees(end, stamp);
                if stamp <= wanted && !(planted(Bug::FirstStamp) && last.is_some()) {
                    last = Some((end, stamp));
                }
            })?;
            if let Some((lsn, wall_us)) = last {
                let before = self.past.bases.iter().take_while(|b| b.redo < base.redo);
                let high = before.filter(|b| b.high < u64::MAX && b.high > wall_us).max_by_key(|b| b.high);
                if let (Clock::Steady, Some(b)) = (clock.told, high) {
                    clock.told = Clock::WentBack { by: Duration::from_micros(b.high - wall_us), at: base.redo };
                }
                return Ok(Found { moment: Moment { lsn, time: time_of(wall_us), clock: clock.told }, base });
            }
        }
        Err(self.not_kept(format!("a state of {wanted} µs since 1970")))
    }

    /// The state's layers: its base's table, and what had changed since.
    pub fn map(&self, found: &Found, generation: u64) -> Result<Map, HistoryError> {
        let Found { base, moment } = found;
        let manifest = self.manifest(base)?;
        let layer = Layer::new();
        let mut open: Vec<Brief> = Vec::new();
        self.walk(base.redo, moment.lsn, |r| {
            match r.fields.kind {
                Kind::Image | Kind::Delta | Kind::Free => open.push(*r),
                Kind::Filler | Kind::Table | Kind::Manifest => (),
            }
            if r.stamp.is_some() {
                open.drain(..).for_each(|r| push(&layer, &r));
            }
        })?;
        let (root, redo, pages) = (Arc::new(manifest.root), manifest.redo, manifest.pages);
        Ok(Map { current: Arc::new(layer), frozen: None, root, redo, pages, generation, heads: Arc::default() })
    }

    fn manifest(&self, base: &Base) -> Result<Manifest, ReadError> {
        if base.lsn.is_none() {
            return Ok(Manifest::first(base.redo));
        }
        let (page, lsn) = (PageId::ROOT, base.lsn);
        let record = self.reader.record(lsn, 4096);
        let record = record.map_err(|faults| self.reader.lost(page, lsn, faults))?;
        let manifest = (record.fields.kind == Kind::Manifest).then(|| Manifest::decode(&record.payload)).flatten();
        let mut manifest = manifest.ok_or(ReadError::Corrupt { page, lsn, what: "it is no manifest" })?;
        manifest.root.pending = self.reader.pending(&manifest.root)?;
        Ok(manifest)
    }

    /// Ends and stamps of the MTRs that begin at `from` or above and end at `to` or below. A rewind is not one: a base
    /// begins there.
    fn each_commit(&self, from: Lsn, to: Lsn, mut each: impl FnMut(Lsn, u64)) -> Result<(), ReadError> {
        self.walk(from, to, |r| {
            if let Some(stamp) = r.stamp
                && r.end() <= to
                && !is_rewind(&r.fields)
            {
                each(r.end(), stamp);
            }
        })
    }

    /// The records in `[from, to)`. A group begins at `from`.
    fn walk(&self, from: Lsn, to: Lsn, mut each: impl FnMut(&Brief)) -> Result<(), ReadError> {
        for entry in self.history.since(from) {
            let (mut at, end) = (from.max(entry.begin), to.min(entry.end));
            while at < end {
                let next = (at.floor(format::FRAME) + format::FRAME).min(end);
                let found = self.reader.stretch(at, next);
                let (records, read_to) = found.map_err(|faults| self.reader.lost(PageId::ROOT, at, faults))?;
                records.iter().filter(|r| r.end() <= end).for_each(&mut each);
                at = read_to;
            }
        }
        Ok(())
    }
}

fn push(layer: &Layer, r: &Brief) {
    let fields = &r.fields;
    let base = if fields.kind == Kind::Image { r.lsn } else { fields.base };
    let version = Version { lsn: r.lsn, base, depth: fields.depth, free: fields.kind == Kind::Free };
    layer.push(PageId(fields.page), version, Lsn::MAX, &[]);
}

/// Sees stamps in the order of the log.
#[derive(Default)]
struct ClockWatch {
    highest: u64,
    told: Clock,
}

impl ClockWatch {
    fn sees(&mut self, at: Lsn, stamp: u64) {
        let by = Duration::from_micros(self.highest.saturating_sub(stamp));
        self.highest = self.highest.max(stamp);
        match self.told {
            Clock::WentBack { by: before, .. } if before >= by => (),
            _ if by.is_zero() => (),
            _ => self.told = Clock::WentBack { by, at },
        }
    }
}
