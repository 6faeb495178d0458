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
    /// One at a time.
    taken: AtomicBool,
    /// Behind all that was appended before it was on.
    from: AtomicU64,
    /// Behind the manifest that rewinds, once that is in the log: from then on it cannot be given up.
    end: AtomicU64,
    /// The lowest and the highest stamp since the newest checkpoint began; changed under the append lock.
    low: AtomicU64,
    high: AtomicU64,
    /// The volume's own clock when it was opened, microseconds.
    age_us: u64,
}

impl Rewinding {
    pub fn new((low, high): (u64, u64), age_us: u64) -> Rewinding {
        let (on, taken) = (AtomicBool::new(false), AtomicBool::new(false));
        let (timeline, from, end) = Default::default();
        Rewinding { on, taken, timeline, from, end, low: low.into(), high: high.into(), age_us }
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

    /// What is newest for this process lies below, where a rewind is under way. Under the append lock.
    pub fn cap(&self, at: Lsn) -> Lsn {
        if self.is_on() { at.min(Lsn(self.from.load(Ordering::SeqCst))) } else { at }
    }

    /// The manifest that rewinds is in the log.
    pub fn appended(&self, end: Lsn) {
        self.end.store(end.0, Ordering::SeqCst);
    }

    /// Behind the manifest of the last rewind that is in the log, if there was one.
    pub fn end(&self) -> Option<Lsn> {
        Some(Lsn(self.end.load(Ordering::SeqCst))).filter(|end| !end.is_none())
    }

    /// The newest state is another one from now on. Under the append lock.
    pub fn rewound(&self) {
        self.timeline.fetch_add(1, Ordering::SeqCst);
        self.on.store(false, Ordering::SeqCst);
        self.taken.store(false, Ordering::SeqCst);
    }
}

/// What a checkpoint is to say of the past, beside what it always says.
pub(crate) enum Ask {
    Snapshot(String),
    Forget(String),
    Window(Window),
    /// The state is to be pinned: the volume is about to be rewound.
    Undo,
    /// Of a clone: states of its origin are not kept.
    Alone(Window),
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
            Ask::Alone(window) => past.alone(window),
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

/// A rewind under way.
pub(crate) struct Rewind {
    view: View,
    lsn: Lsn,
    phase: Phase,
    /// The manifest that rewinds was in the log before.
    before: Option<Lsn>,
}

enum Phase {
    /// What was appended becomes durable.
    Drain,
    /// The state that is there now is pinned: by the checkpoint that follows a map of this generation.
    Undo(Option<u64>),
    /// The older state's checkpoint.
    Rewind(Lsn, Option<u64>),
}

impl Rewind {
    /// From here on nobody else appends, until it has ended or is given up.
    pub fn begin(shared: &Shared, view: View, lsn: Lsn) -> Result<Rewind, HistoryError> {
        let (rewinding, append) = (&shared.rewinding, shared.front.lock());
        shared.check_open()?;
        if rewinding.taken.swap(true, Ordering::SeqCst) {
            return Err(HistoryError::Busy);
        }
        rewinding.from.store(append.tail().0, Ordering::SeqCst);
        rewinding.on.store(true, Ordering::SeqCst);
        drop(append);
        Ok(Rewind { view, lsn, phase: Phase::Drain, before: rewinding.end() })
    }

    /// Goes as far as it can without waiting. None: something must move first. What ends well is the address of the state
    /// that was there before.
    pub fn step(&mut self, shared: &Shared) -> Result<Option<Lsn>, HistoryError> {
        shared.check_open()?;
        loop {
            let generation = shared.reads.pages.map().generation;
            match &mut self.phase {
                Phase::Drain => {
                    let from = Lsn(shared.rewinding.from.load(Ordering::SeqCst));
                    if shared.front.published() < from || shared.tickets.vdl() < shared.appended() {
                        return Ok(None);
                    }
                    self.phase = Phase::Undo(None);
                }
                Phase::Undo(None) => match shared.begin_alone(|| Checkpoint::begin_with(shared, Ask::Undo))? {
                    None => return Ok(None),
                    before => self.phase = Phase::Undo(before),
                },
                Phase::Undo(Some(before)) if generation == *before => return Ok(None),
                Phase::Undo(_) => {
                    let pins = &shared.past.lock().pins;
                    let undo = pins.iter().rev().find(|p| p.is_undo()).map(|p| p.lsn);
                    let lost = "the state that is there now is not kept: please report this";
                    self.phase = Phase::Rewind(undo.ok_or_else(|| HistoryError::Late(lost.into()))?, None);
                }
                Phase::Rewind(undo, None) => {
                    let (undo, map) = (*undo, self.view.layers().ok_or(ReadError::ReadPointGone(self.lsn))?);
                    // While no other checkpoint ends, and gives something back.
                    let begin = || {
                        // Of a state that is kept nothing was, whatever else has come back meanwhile.
                        let kept = shared.past.lock().keeps(map.redo, self.lsn);
                        if !kept && shared.reclaim.lock().gave_back_since(map.generation) {
                            return Err(HistoryError::GivenBack(self.lsn));
                        }
                        Ok(Some(Checkpoint::rewind(shared, &map, self.lsn)))
                    };
                    match shared.begin_alone(begin)? {
                        None => return Ok(None),
                        before => self.phase = Phase::Rewind(undo, before),
                    }
                }
                Phase::Rewind(_, Some(before)) if generation == *before => return Ok(None),
                Phase::Rewind(undo, _) => return Ok(Some(*undo)),
            }
        }
    }

    /// Gives it up, if nothing of it can happen any more: others append again. False: it is in the log, and happens once
    /// that is durable.
    pub fn give_up(&self, shared: &Shared) -> bool {
        let mut running = shared.checkpoint.lock();
        if shared.rewinding.end() > self.before {
            return false;
        }
        // Only its own: the one before may be in the log, and is still to be named.
        let began = matches!(self.phase, Phase::Rewind(_, Some(_))) || planted(Bug::GiveUpForgets);
        if began && running.as_ref().is_some_and(Checkpoint::rewinds) {
            *running = None;
        }
        shared.rewinding.on.store(false, Ordering::SeqCst);
        shared.rewinding.taken.store(false, Ordering::SeqCst);
        drop(running);
        shared.progress.moved();
        true
    }
}

impl Shared {
    /// The volume's own clock, microseconds: it never goes back.
    pub fn age_us(&self) -> u64 {
        let since = self.clock.now().saturating_sub(self.opened_at);
        self.rewinding.age_us.saturating_add(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// Begins a checkpoint of one's own, and tells the map's generation until it ends. None: another one is under way.
    fn begin_alone(
        &self,
        begin: impl FnOnce() -> Result<Option<Checkpoint>, HistoryError>,
    ) -> Result<Option<u64>, HistoryError> {
        let mut running = self.checkpoint.lock();
        // Under the lock: no other one ends meanwhile.
        let map = self.reads.pages.map();
        if running.is_some() || map.frozen.is_some() {
            return Ok(None);
        }
        *running = begin()?;
        Ok(running.as_ref().map(|_| map.generation))
    }

    /// Takes a checkpoint that says this, and waits for its end. Its manifest is acknowledged by then, as a commit is: whoever
    /// opens the volume next finds it in the log.
    pub fn checkpoint_with(&self, ask: Ask, deadline: Duration) -> Result<(), HistoryError> {
        let (mut ask, mut before) = (Some(ask), None);
        self.wait_for_checkpoints(deadline, || {
            if before.is_none() {
                before = self.begin_alone(|| Checkpoint::begin_with(self, ask.take()))?;
            }
            Ok(before.filter(|before| self.reads.pages.map().generation > *before).map(|_| ()))
        })
    }

    /// Looks until there is something, while the background goes on.
    fn wait_for_checkpoints<R>(
        &self,
        deadline: Duration,
        mut look: impl FnMut() -> Result<Option<R>, HistoryError>,
    ) -> Result<R, HistoryError> {
        loop {
            let turn = self.progress.turn();
            self.check_open()?;
            if let Some(found) = look()? {
                return Ok(found);
            }
            if self.clock.now() >= deadline {
                return Err(HistoryError::Late("a checkpoint is waited for: are there four slots with room?".into()));
            }
            self.background.wake_now();
            if self.tickets.vdl() < self.appended() {
                self.wait_decided(self.appended(), LOOK);
            } else {
                self.wait_for_word(turn, LOOK);
            }
        }
    }

    /// Makes an older state the newest one. The state that is there now can be had again: the address of it is returned.
    pub fn rewind(&self, view: View, lsn: Lsn, deadline: Duration) -> Result<Lsn, HistoryError> {
        let mut rewind = Rewind::begin(self, view, lsn)?;
        self.wait_for_checkpoints(deadline, || rewind.step(self)).map_err(|e| match rewind.give_up(self) {
            false => HistoryError::Late("it is in the log, and happens once four slots have it".into()),
            true => e,
        })
    }

    /// How long a call that takes a checkpoint waits.
    pub fn history_deadline(&self) -> Duration {
        self.clock.now().saturating_add(self.options.stall_max)
    }

    /// Looks among the states that are kept.
    fn look_back<R>(&self, look: impl FnOnce(&Finder<'_>, u64) -> Result<R, HistoryError>) -> Result<R, HistoryError> {
        if self.reads.closed.load(Ordering::SeqCst) {
            return Err(ReadError::Closed.into());
        }
        // What is given back from now on is held until it is over.
        let held = self.view();
        let (past, generation, durable) = {
            let append = self.front.lock();
            // Of one timeline, all three.
            let durable = self.rewinding.cap(append.vdl());
            (self.past.lock().clone(), self.reads.pages.map().generation, durable)
        };
        let history = self.reads.pages.reader.history();
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
