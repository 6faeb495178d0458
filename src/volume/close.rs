//! Closing, in steps: drain, checkpoint, wait for stragglers, leave the clean mark.

use crate::bugs::{Bug, planted};
use crate::core::WRITE_QUORUM;
use crate::lsn::{Lsn, SLOTS};
use crate::volume::error::CloseError;
use crate::volume::shared::Shared;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a close waits for slots that are behind the quorum before it does without a clean mark.
const STRAGGLERS_MAX: Duration = Duration::from_secs(5);

/// How long a close waits for the superblocks of the slots behind the quorum: so that a volume that was closed clean is
/// whole on six when it is copied.
const MARKS_MAX: Duration = Duration::from_millis(100);

/// How long a close waits for room for its checkpoint where nothing moves.
const STARVED_MAX: Duration = Duration::from_secs(2);

/// A close under way.
pub(crate) struct Closing {
    deadline: Duration,
    phase: Phase,
    /// Since then there is no room for a checkpoint, and nothing moves.
    starved: Option<Duration>,
}

enum Phase {
    /// Everything appended becomes durable.
    Drain(Lsn),
    /// The layers go into the table.
    Checkpoint,
    /// Every live slot gets everything, up to the first time; then older superblocks are waited for, up to the second.
    Stragglers(Duration, Option<Duration>),
    /// Four superblocks get the clean mark, and all live slots' by that time.
    Marking(Duration),
}

impl Closing {
    /// From here on nobody appends but the close itself.
    pub fn begin(shared: &Shared, most: Duration) -> Closing {
        shared.reads.closed.store(true, Ordering::SeqCst);
        // Whoever had passed the check holds the append lock; behind it the last MTR is reserved.
        drop(shared.front.lock());
        Closing {
            deadline: shared.clock.now().saturating_add(most),
            phase: Phase::Drain(shared.front.tail()),
            starved: None,
        }
    }

    /// Goes as far as it can without waiting. None: something must move first.
    pub fn step(&mut self, shared: &Shared) -> Option<Result<(), CloseError>> {
        let now = shared.clock.now();
        let late = now >= self.deadline;
        shared.pump();
        if let Some(ended) = shared.tickets.ended() {
            let durable = shared.tickets.vdl() >= shared.appended();
            return Some(Err(if durable {
                CloseError::NotClean(ended.to_string())
            } else {
                CloseError::NotDurable(ended.to_string())
            }));
        }
        loop {
            match self.phase {
                Phase::Drain(tail) => {
                    let appended = shared.appended();
                    if shared.front.published() < tail || shared.tickets.vdl() < appended {
                        return late.then(|| Err(CloseError::NotDurable("not acknowledged in time".into())));
                    }
                    shared.engine().close();
                    self.phase = Phase::Checkpoint;
                }
                Phase::Checkpoint => {
                    let map = shared.reads.pages.map();
                    // A rewind that is not named yet would not be seen behind a clean mark: nothing is read there.
                    let under_way = shared.checkpoint.lock().is_some();
                    let under_way = under_way || shared.unnamed.load(Ordering::SeqCst) && !planted(Bug::RewindUnnamed);
                    let due = under_way || map.frozen.is_some() || map.current.pages() > 0 || shared.has_many_epochs();
                    if due {
                        // All was quiet before the step, and the step moved nothing: what it waited for is not on its way.
                        let (starved, before) = (shared.is_starved(), shared.appended());
                        shared.begin_checkpoint();
                        if shared.drive_checkpoint() || shared.tickets.is_over() {
                            // What the one before has given back makes room.
                            let comes = shared.gives_back(now);
                            let starved = starved && !comes && shared.is_starved() && shared.appended() == before;
                            // A slot that was full is tried again after a pause: what was given back last may have made room.
                            self.starved = starved.then(|| self.starved.unwrap_or(now));
                            let starved = self.starved.is_some_and(|since| now >= since.saturating_add(STARVED_MAX));
                            let why = match (late, starved) {
                                (_, true) => "there is no space for a checkpoint",
                                (true, _) => "the checkpoint did not end in time",
                                _ => return None,
                            };
                            return Some(Err(CloseError::NotClean(why.into())));
                        }
                        continue;
                    }
                    // The background's fillers too: a record behind the clean mark would lie where the next epoch begins.
                    if !planted(Bug::AppendAfterClean) {
                        shared.front.lock().shut();
                    }
                    self.phase = Phase::Stragglers(self.deadline.min(now + STRAGGLERS_MAX), None);
                }
                Phase::Stragglers(until, marks) => {
                    let mut engine = shared.engine();
                    if !engine.is_clean() {
                        return (now >= until)
                            .then(|| Err(CloseError::NotClean("a slot has writes outstanding".into())));
                    }
                    // A slot that still writes an older version would be left out of the round.
                    let by = marks.unwrap_or(self.deadline.min(now + MARKS_MAX));
                    if engine.writes_superblocks() && now < by {
                        self.phase = Phase::Stragglers(until, Some(by));
                        return None;
                    }
                    engine.begin_round(None, Some(shared.tickets.vdl()));
                    self.phase = Phase::Marking(by);
                }
                Phase::Marking(by) => {
                    let engine = shared.engine();
                    return match engine.round() {
                        Some(true) if engine.writes_superblocks() && now < by => None,
                        Some(true) => Some(Ok(())),
                        Some(false) => Some(Err(CloseError::NotClean("the clean mark is not on four slots".into()))),
                        None => late.then(|| Err(CloseError::NotClean("the clean mark took too long".into()))),
                    };
                }
            }
        }
    }
}

impl Shared {
    /// Nothing is on its way that could make room, and fewer than four slots have any.
    fn is_starved(&self) -> bool {
        let engine = self.engine();
        let room = SLOTS - engine.full().len();
        room < WRITE_QUORUM && !engine.is_busy() && !engine.has_jobs() && self.tickets.vdl() >= self.appended()
    }

    /// Closes, waiting so long at most.
    pub fn close(&self, most: Duration) -> Result<(), CloseError> {
        self.catch_up(most / 2);
        let mut closing = Closing::begin(self, most);
        loop {
            let turn = self.progress.turn();
            if let Some(result) = closing.step(self) {
                return result;
            }
            self.wait_for_word(turn, Duration::from_millis(2));
        }
    }
}
