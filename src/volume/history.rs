//! The face of the past: snapshots, states at any moment of the window, and going back to one.

use crate::history::error::HistoryError;
use crate::history::find::{Clock, Finder, Found, Moment, time_of};
use crate::history::past::{Past, Window};
use crate::lsn::Lsn;
use crate::volume::Volume;
use crate::volume::reader::Reader;
use crate::volume::rewind::{Ask, Snapshot};
use crate::volume::view::View;
use std::time::{Duration, SystemTime};

/// A state of the past, by whatever names it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Point {
    /// What lies below an address: the last MTR that ends at or below it.
    Lsn(Lsn),
    /// The last MTR whose stamp is not above a moment of the wall clock.
    Time(SystemTime),
    /// A snapshot's state.
    Snapshot(String),
    /// What a view shows.
    View(View),
}

impl From<Lsn> for Point {
    fn from(lsn: Lsn) -> Point {
        Point::Lsn(lsn)
    }
}

impl From<SystemTime> for Point {
    fn from(time: SystemTime) -> Point {
        Point::Time(time)
    }
}

impl From<&str> for Point {
    fn from(name: &str) -> Point {
        Point::Snapshot(name.into())
    }
}

impl From<&View> for Point {
    fn from(view: &View) -> Point {
        Point::View(view.clone())
    }
}

/// What a backtrack did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Backtrack {
    /// The state that is the newest one again: everything below that address.
    pub lsn: Lsn,
    /// The stamp of its last commit.
    pub time: SystemTime,
    /// What the clock did around it.
    pub clock: Clock,
    /// A backtrack to that address undoes it, for 24 hours, and as long as the window reaches.
    pub undo: Lsn,
}

/// Which states of the past there are, and what they hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct HistoryHealth {
    /// States are kept for so long; none where the window is off.
    pub window: Option<Duration>,
    /// ... and while they hold no more than so many bytes of the log, of one copy.
    pub window_bytes: u64,
    /// The oldest state of the window.
    pub oldest: Lsn,
    /// The window is shorter than its time, for it would hold more than its bytes.
    pub cut_short: bool,
    /// Bytes of the log that the window holds, of one copy, and that nothing else needs.
    pub held_by_window: u64,
    /// ... that snapshots hold, and states before a backtrack.
    pub held_by_snapshots: u64,
    /// In the order in which they were taken.
    pub snapshots: Vec<Snapshot>,
}

impl HistoryHealth {
    pub(crate) fn of(past: &Past) -> HistoryHealth {
        let held = past.held();
        HistoryHealth {
            window: (past.window.time_us > 0).then(|| Duration::from_micros(past.window.time_us)),
            window_bytes: past.window.bytes,
            oldest: past.bases.first().map_or(Lsn::NONE, |b| b.redo),
            cut_short: past.cut_short,
            held_by_window: held.window,
            held_by_snapshots: held.pins,
            snapshots: Snapshot::of(past),
        }
    }
}

/// One event of a volume's past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PastCheckpoint {
    /// Its manifest's address; 0 for the empty volume before the first one.
    pub lsn: Lsn,
    /// States from there on are made from it.
    pub from: Lsn,
    /// When it began, by the wall clock.
    pub time: SystemTime,
    /// The state to which it rewound the volume, if it did.
    pub rewound: Option<Lsn>,
}

impl PastCheckpoint {
    pub(crate) fn of(past: &Past) -> Vec<PastCheckpoint> {
        let all = past.bases.iter().map(|b| PastCheckpoint {
            lsn: b.lsn,
            from: b.redo,
            time: time_of(b.wall_us),
            rewound: (!b.rewound.is_none()).then_some(b.rewound),
        });
        all.collect()
    }
}

/// The state that a point names.
pub(crate) fn found(finder: &Finder<'_>, point: &Point) -> Result<Found, HistoryError> {
    match point {
        Point::Lsn(lsn) => match finder.past.pins.iter().find(|p| p.lsn == *lsn) {
            Some(pin) => finder.below(finder.past.base_of(pin), *lsn),
            None => finder.at(*lsn),
        },
        Point::Time(time) => finder.at_time(*time),
        Point::Snapshot(name) => {
            let pin = finder.past.snapshot(name).ok_or_else(|| HistoryError::NoSuchSnapshot(name.clone()))?;
            finder.below(finder.past.base_of(pin), pin.lsn)
        }
        Point::View(view) if !view.is_of(finder.reader.volume()) => Err(HistoryError::OtherVolume),
        Point::View(view) => finder.at(view.lsn()),
    }
}

impl Volume {
    /// Gives the newest durable state a name: it is kept, across restarts, until it is [forgotten](Volume::forget). It takes
    /// a checkpoint: what has changed since the last one is written to the page table, whatever the volume's size.
    ///
    /// ```
    /// # use quorate::{Options, PageId, Volume};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let volume = Volume::create(dir.path(), &Options::default())?;
    /// volume.snapshot("before")?;
    /// let mut mtr = volume.begin();
    /// mtr.patch(PageId::ROOT, 0, b"changed");
    /// mtr.commit()?.wait()?;
    /// assert_eq!(volume.view_at("before")?.read(PageId::ROOT)?[0], 0);
    /// let done = volume.backtrack("before")?;
    /// assert_eq!(volume.read(PageId::ROOT)?[0], 0);
    /// volume.backtrack(done.undo)?;
    /// assert_eq!(volume.read(PageId::ROOT)?[0], b'c');
    /// volume.forget("before")?;
    /// # volume.close()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`HistoryError::Exists`], [`HistoryError::Name`], [`HistoryError::TooMany`], or that the checkpoint did not end.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot, HistoryError> {
        let shared = &self.handle.shared;
        // What was acknowledged, or appended, is in it.
        shared.checkpoint_with(Ask::Snapshot(name.into()), shared.history_deadline())?;
        let mut all = self.snapshots();
        let mine = all.iter().position(|s| s.name == name);
        mine.map(|i| all.swap_remove(i)).ok_or_else(|| HistoryError::NoSuchSnapshot(name.into()))
    }

    /// The snapshots, in the order in which they were taken.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        Snapshot::of(&self.handle.shared.past.lock())
    }

    /// A snapshot is needed no more: what only it held is given back by and by.
    ///
    /// # Errors
    /// [`HistoryError::NoSuchSnapshot`], or that the checkpoint did not end.
    pub fn forget(&self, name: &str) -> Result<(), HistoryError> {
        let shared = &self.handle.shared;
        shared.checkpoint_with(Ask::Forget(name.into()), shared.history_deadline())
    }

    /// Sets how far back states are kept: see [`Options::window`](crate::Options::window). No time turns it off.
    ///
    /// # Errors
    /// That the checkpoint did not end.
    pub fn set_window(&self, time: Duration, bytes: u64) -> Result<(), HistoryError> {
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let shared = &self.handle.shared;
        shared.checkpoint_with(Ask::Window(Window { time_us, bytes }), shared.history_deadline())
    }

    /// Finds a state, and changes nothing: what [`Volume::backtrack`] would go back to.
    ///
    /// # Errors
    /// [`HistoryError::NotKept`] and the other reasons why there is none.
    pub fn find(&self, point: impl Into<Point>) -> Result<Moment, HistoryError> {
        let point = point.into();
        Ok(self.handle.shared.find(|finder| found(finder, &point))?.moment)
    }

    /// A view of a state of the past. It takes the log between two checkpoints to be read.
    ///
    /// # Errors
    /// As [`Volume::find`].
    pub fn view_at(&self, point: impl Into<Point>) -> Result<View, HistoryError> {
        Ok(self.state(&point.into())?.0)
    }

    fn state(&self, point: &Point) -> Result<(View, Moment), HistoryError> {
        self.handle.shared.view_of(|finder| found(finder, point))
    }

    /// Goes back to a state of the past: it is the newest one again, at once and for all, however large the volume is. What
    /// came after it is not lost: a backtrack to [`Backtrack::undo`] brings it back.
    ///
    /// Commits that were begun before end in [`WriteError::Rewound`](crate::WriteError::Rewound), and commits that come
    /// meanwhile wait. Views and snapshots stay what they are. Page ids that were given out are not given out again.
    ///
    /// # Errors
    /// As [`Volume::find`]; [`HistoryError::GivenBack`] for a view that nothing but the view has kept;
    /// [`HistoryError::Late`] where too few slots take what it writes. Then nothing has changed.
    pub fn backtrack(&self, to: impl Into<Point>) -> Result<Backtrack, HistoryError> {
        let (point, shared) = (to.into(), &self.handle.shared);
        let deadline = shared.history_deadline();
        // A view is a state by itself; where that is kept it is no matter what the view has lost.
        let by_view = |view: &View| {
            if !view.is_of(shared.geometry.volume) {
                return Err(HistoryError::OtherVolume);
            }
            // One of another handle, or of a reader, has kept nothing from being given back here.
            if !view.is_by(&shared.reads) {
                return Err(HistoryError::GivenBack(view.lsn()));
            }
            let moment = shared.find(|finder| finder.at(view.lsn())).map(|f| f.moment);
            let (time, clock) = moment.map_or((SystemTime::UNIX_EPOCH, Clock::Steady), |m| (m.time, m.clock));
            Ok((view.clone(), Moment { lsn: view.lsn(), time, clock }))
        };
        let (view, moment) = match (&point, self.state(&point)) {
            (Point::View(view), Err(_)) => by_view(view)?,
            (Point::View(view), Ok(_)) if !view.is_of(shared.geometry.volume) => return Err(HistoryError::OtherVolume),
            (_, found) => found?,
        };
        let undo = shared.rewind(view, moment.lsn, deadline)?;
        Ok(Backtrack { lsn: moment.lsn, time: moment.time, clock: moment.clock, undo })
    }

    /// The checkpoints from which states of the past are made, oldest first.
    pub fn history(&self) -> Vec<PastCheckpoint> {
        PastCheckpoint::of(&self.handle.shared.past.lock())
    }
}

impl Reader {
    /// The snapshots, in the order in which they were taken.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        Snapshot::of(self.past())
    }

    /// As [`Volume::history`].
    pub fn history(&self) -> Vec<PastCheckpoint> {
        PastCheckpoint::of(self.past())
    }

    /// As [`Volume::find`], among what is certain.
    ///
    /// # Errors
    /// As there.
    pub fn find(&self, point: impl Into<Point>) -> Result<Moment, HistoryError> {
        let point = point.into();
        self.look_back(|finder| Ok(found(finder, &point)?.moment))
    }

    /// As [`Volume::view_at`], among what is certain. A writer beside it may give back what the view needs: its reads then
    /// give [`ReadError::ReadPointGone`](crate::ReadError::ReadPointGone).
    ///
    /// # Errors
    /// As there.
    pub fn view_at(&self, point: impl Into<Point>) -> Result<View, HistoryError> {
        let point = point.into();
        self.look_back(|finder| {
            let found = found(finder, &point)?;
            Ok(self.view_of(finder.map(&found, 0)?, found.moment.lsn))
        })
    }
}
