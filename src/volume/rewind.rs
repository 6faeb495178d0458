//! Taking an older state up again, and what keeps states: snapshots and the window. DESIGN.md, "History".
//!
//! All of it is said by manifests alone. A snapshot is a checkpoint whose manifest pins it. A rewind is a checkpoint, too:
//! of the older state, made from its base's table and the log since. Its manifest is an ordinary MTR; whoever meets it in
//! the log forgets what came before. Meanwhile nobody else appends.

use crate::bugs::{Bug, planted};
use crate::history::error::HistoryError;
use crate::history::find::{Finder, Found, Moment, time_of};
use crate::history::past::{NAME_MAX, PINS_MAX, Past, Pin, Window};
use crate::lsn::Lsn;
use crate::sync::Arc;
use crate::volume::append::NotAppended;
use crate::volume::checkpoint::Checkpoint;
use crate::volume::error::{ReadError, WriteError};
use crate::volume::shared::Shared;
use crate::volume::view::View;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// While a checkpoint is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// How the volume's timeline goes on.
pub(crate) struct Rewinding {
    /// Nobody but the one who rewinds appends.
    on: AtomicBool,
    /// Rewinds since the volume was opened: an MTR that began before one is of another timeline.
    timeline: AtomicU64,
    /// One call at a time.
    alone: Mutex<()>,
    /// The lowest and the highest stamp since the newest checkpoint began; changed under the append lock.
    low: AtomicU64,
    high: AtomicU64,
    /// The volume's own clock when it was opened, microseconds.
    age_us: u64,
}

impl Rewinding {
    pub fn new((low, high): (u64, u64), age_us: u64) -> Rewinding {
        let (on, timeline) = (AtomicBool::new(false), AtomicU64::new(0));
        Rewinding { on, timeline, alone: Mutex::new(()), low: low.into(), high: high.into(), age_us }
    }

    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    pub fn timeline(&self) -> u64 {
        self.timeline.load(Ordering::SeqCst)
    }

    /// Whether an MTR of a timeline may be appended. Under the append lock.
    pub fn check(&self, timeline: u64) -> Result<(), NotAppended> {
        if self.timeline() != timeline {
            return Err(WriteError::Rewound.into());
        }
        if self.is_on() { Err(NotAppended::Rewinding) } else { Ok(()) }
    }

    /// ... or one of reclaiming's, which changes nothing.
    pub fn check_move(&self) -> Result<(), NotAppended> {
        if self.is_on() { Err(NotAppended::Rewinding) } else { Ok(()) }
    }

    /// An MTR got its stamp.
    pub fn stamped(&self, wall_us: u64) {
        self.low.fetch_min(wall_us, Ordering::Relaxed);
        self.high.fetch_max(wall_us, Ordering::Relaxed);
    }

    /// Under the append lock.
    pub fn take_stamps(&self) -> (u64, u64) {
        (self.low.swap(u64::MAX, Ordering::Relaxed), self.high.swap(0, Ordering::Relaxed))
    }

    /// The newest state is another one from now on. Under the append lock.
    pub fn rewound(&self) {
        self.timeline.fetch_add(1, Ordering::SeqCst);
        self.on.store(false, Ordering::SeqCst);
    }
}

/// What a checkpoint is to say of the past, beside what it always says.
pub(crate) enum Ask {
    Snapshot(String),
    Forget(String),
    Window(Window),
    /// The state is to be pinned: the volume is about to be rewound.
    Undo,
}

impl Ask {
    /// Pins have no address yet.
    pub fn apply(self, past: &mut Past, wall_us: u64, age_us: u64) -> Result<(), HistoryError> {
        let pin = |name| Pin { name, lsn: Lsn::NONE, wall_us, age_us, base: Lsn::NONE, redo: Lsn::NONE };
        match self {
            Ask::Snapshot(name) => {
                if past.snapshot(&name).is_some() {
                    return Err(HistoryError::Exists(name));
                }
                if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
                    return Err(HistoryError::Name(name));
                }
                if past.pins.len() >= PINS_MAX {
                    return Err(HistoryError::TooMany(past.pins.len()));
                }
                past.pins.push(pin(name));
            }
            Ask::Forget(name) => {
                if past.snapshot(&name).is_none() {
                    return Err(HistoryError::NoSuchSnapshot(name));
                }
                past.pins.retain(|p| p.name != name);
            }
            Ask::Window(window) => past.window = window,
            Ask::Undo if planted(Bug::UndoLost) => (),
            Ask::Undo => {
                // A snapshot gives way to nobody; an older undo does.
                if past.pins.len() >= PINS_MAX {
                    let first = past.pins.iter().position(Pin::is_undo);
                    past.pins.remove(first.ok_or(HistoryError::TooMany(PINS_MAX))?);
                }
                past.pins.push(pin(String::new()));
            }
        }
        Ok(())
    }
}

/// Lets others append again if the rewind does not come about.
struct Raised<'a>(&'a Shared);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.rewinding.on.store(false, Ordering::SeqCst);
        self.0.progress.moved();
    }
}

impl Shared {
    /// The volume's own clock, microseconds: it never goes back.
    pub fn age_us(&self) -> u64 {
        let since = self.clock.now().saturating_sub(self.opened_at);
        self.rewinding.age_us.saturating_add(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// Takes a checkpoint that says this, and waits until four superblocks name it.
    pub fn checkpoint_with(&self, ask: Ask, deadline: Duration) -> Result<(), HistoryError> {
        self.run_checkpoint(deadline, |shared| Checkpoint::begin_with(shared, ask))
    }

    /// Begins a checkpoint of one's own once none is under way, and waits for its end.
    fn run_checkpoint(
        &self,
        deadline: Duration,
        begin: impl FnOnce(&Shared) -> Result<Option<Checkpoint>, HistoryError>,
    ) -> Result<(), HistoryError> {
        let late = |what: &str| HistoryError::Late(what.into());
        let generation = loop {
            let turn = self.progress.turn();
            let mut running = self.checkpoint.lock();
            self.check_open()?;
            let map = self.reads.pages.map();
            if running.is_none() && map.frozen.is_none() {
                *running = begin(self)?;
                break map.generation;
            }
            drop(running);
            if self.clock.now() >= deadline {
                return Err(late("another checkpoint is under way"));
            }
            self.background.wake_now();
            self.wait_for_word(turn, LOOK);
        };
        loop {
            let turn = self.progress.turn();
            if self.reads.pages.map().generation > generation {
                return Ok(());
            }
            self.check_open()?;
            if self.clock.now() >= deadline {
                let mut running = self.checkpoint.lock();
                // A rewind of which no manifest was appended has not happened.
                if running.as_mut().is_some_and(|c| c.abandon()) {
                    *running = None;
                    return Err(late("there is no room, or too few slots"));
                }
                return Err(late("its superblocks are still to be written"));
            }
            self.background.wake_now();
            self.wait_for_word(turn, LOOK);
        }
    }

    /// Makes an older state the newest one. The state that is there now can be had again: the address of it is returned.
    pub fn rewind(&self, view: &View, lsn: Lsn, deadline: Duration) -> Result<Lsn, HistoryError> {
        let Some(_alone) = self.rewinding.alone.try_lock() else { return Err(HistoryError::Busy) };
        let raised = Raised(self);
        let tail = {
            let append = self.front.lock();
            self.check_open()?;
            self.rewinding.on.store(true, Ordering::SeqCst);
            append.tail()
        };
        // Drained: what is there now is durable, and nothing comes behind it.
        let appended = loop {
            let appended = self.appended();
            if self.front.published() >= tail && self.tickets.vdl() >= appended {
                break appended;
            }
            self.check_open()?;
            if self.clock.now() >= deadline {
                return Err(HistoryError::Late("commits before it are not acknowledged".into()));
            }
            self.wait_decided(appended, LOOK);
        };
        self.checkpoint_with(Ask::Undo, deadline)?;
        let undo = self.past.lock().pins.iter().rev().find(|p| p.is_undo()).map_or(appended, |p| p.lsn);
        self.run_checkpoint(deadline, |shared| {
            let map = view.layers().ok_or(ReadError::ReadPointGone(lsn))?;
            if shared.reclaim.lock().gave_back_since(map.generation) {
                return Err(HistoryError::GivenBack(lsn));
            }
            Ok(Some(Checkpoint::rewind(shared, &map, lsn)))
        })?;
        drop(raised);
        Ok(undo)
    }

    /// How long a call that takes a checkpoint waits.
    pub fn history_deadline(&self) -> Duration {
        self.clock.now() + self.options.stall_max
    }

    /// Looks among the states that are kept.
    fn look_back<R>(&self, look: impl FnOnce(&Finder<'_>, u64) -> Result<R, HistoryError>) -> Result<R, HistoryError> {
        if self.reads.closed.load(Ordering::SeqCst) {
            return Err(ReadError::Closed.into());
        }
        // What is given back from now on is held until it is over.
        let held = self.view();
        let (past, generation) = {
            let _append = self.front.lock();
            (self.past.lock().clone(), self.reads.pages.map().generation)
        };
        let history = self.reads.pages.reader.history();
        let durable = self.tickets.vdl();
        let found =
            look(&Finder { reader: &self.reads.pages.reader, history: &history, past: &past, durable }, generation);
        drop(held);
        found
    }

    /// Looks for a state that is kept.
    pub fn find(&self, find: impl FnOnce(&Finder<'_>) -> Result<Found, HistoryError>) -> Result<Found, HistoryError> {
        self.look_back(|finder, _| find(finder))
    }

    /// A view of a state that is kept.
    pub fn view_of(
        &self,
        find: impl FnOnce(&Finder<'_>) -> Result<Found, HistoryError>,
    ) -> Result<(View, Moment), HistoryError> {
        self.look_back(|finder, generation| {
            let found = find(finder)?;
            let map = Arc::new(finder.map(&found, generation)?);
            let view = self.reads.view_of(map, found.moment.lsn, self.clock.now());
            Ok((view, found.moment))
        })
    }
}

/// A state that was given a name.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// Everything below is in it.
    pub lsn: Lsn,
    /// When it was taken, by the wall clock.
    pub time: std::time::SystemTime,
    /// Bytes of the log that it holds, of one copy, and that would be given back without it, or without others that need
    /// them, too.
    pub held: u64,
}

impl Snapshot {
    pub(crate) fn of(past: &Past) -> Vec<Snapshot> {
        let snapshot =
            |p: &Pin| Snapshot { name: p.name.clone(), lsn: p.lsn, time: time_of(p.wall_us), held: past.held_by(p) };
        past.pins.iter().filter(|p| !p.is_undo()).map(snapshot).collect()
    }
}
