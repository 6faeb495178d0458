//! Reclaiming, carried out in steps beside commits: extents are sampled, the one that is worth most is emptied by writing
//! its pages anew as ordinary MTRs, and the next checkpoint gives it back.
//!
//! A step never waits. A crash anywhere costs nothing but what was written anew: pages are what they were, and an extent
//! is given back by a manifest alone.

mod emptying;
mod pressure;
mod sampling;

pub use pressure::{CREDIT_WAIT, Pressure};
pub use sampling::Died;

use crate::bugs::{Bug, planted};
use crate::core::history::Entry;
use crate::history::past;
use crate::lsn::{Lsn, format};
use crate::reclaim::census::{self, Census, Stock, Sum};
use crate::reclaim::freed::{self, Freed, Run};
use crate::reclaim::queue::Queue;
use crate::volume::error::WriteError;
use crate::volume::shared::Shared;
use emptying::Emptying;
use pressure::ENDLESS;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Extents are emptied while more is kept than this share of what is live, and one extent beside.
const KEPT_PER_LIVE: (u64, u64) = (6, 5);
/// One part in so many of an extent must be dead for it to be worth emptying; fewer where somebody asked for all of it.
const LEAST_DEAD: u64 = 8;
const LEAST_DEAD_ASKED: u64 = 32;
/// ... and more where frames are emptied: what comes back of one must be more than the checkpoint takes that gives it back.
const LEAST_DEAD_NARROW: u64 = 6;
/// While commits are made it rests so many times as long as a step took.
const REST: u32 = 3;
/// ... and appends no more when so much is not durable yet.
const BESIDE: u64 = 128 << 10;
/// What could not be read, or moved on, is tried again then.
const AGAIN: Duration = Duration::from_secs(1);
/// Extents that are emptied wait for a checkpoint: at most so many, by an eighth of what is live; smaller parts of a small
/// volume four.
const EMPTIED_MAX: u64 = 8;
const EMPTIED_SMALL: u64 = 4;
/// What the chain of a page takes beside an image, about.
const CHAIN: u64 = 512;
/// So many samples are taken before the worst extent of those that are known is emptied.
const LOOKS: usize = 16;
/// Steps of one turn, and the time after which a turn ends.
const STEPS: usize = 16;
const TURN: Duration = Duration::from_millis(5);
/// So much of an extent may be appended before it is looked again whether something is to be done: 1/16.
const IDLE: u64 = 16;
/// So much must have happened since nothing was left to be had for it to be worth asking again.
const WORTH_ASKING: u64 = 256 << 10;
/// Who has no room waits for a checkpoint for so many turns: what is above redo, or the past holds no more, comes back by none
/// else.
const CHECKPOINT_TURNS: u32 = 200;
/// ... if so much lies above redo.
const WORTH_A_CHECKPOINT: u64 = format::EXTENT;
/// A volume without room is emptied frame by frame for so long.
const NARROW_FOR: Duration = Duration::from_secs(10);
/// A close gives back space for so long first, where far too much is kept; and once it has waited for what a killed process
/// may have in flight, for so long, until all is checked, too.
const CATCH_UP: Duration = Duration::from_secs(1);
const CATCH_UP_CHECKED: Duration = Duration::from_secs(5);
/// Slots that have something to give back are asked to again after so long, if they could not.
const OWED: Duration = Duration::from_millis(50);
/// What is under way.
#[derive(Default)]
pub struct Reclaim {
    census: Census,
    emptying: Option<Emptying>,
    queue: Queue,
    /// Parts of these could not be read: they stay.
    unreadable: BTreeSet<Lsn>,
    /// Somebody asked for all that can be had.
    asked: bool,
    /// ... where one part in so many is dead.
    least: u64,
    /// ... and below this address, for which redo is to move up: for so many turns more.
    below: Lsn,
    turns_left: u32,
    /// What had been given back when that was last asked for.
    paid_at: Option<u64>,
    /// There was no room to write pages anew: it goes on frame by frame until then, so that little is needed.
    narrow_until: Duration,
    /// Something else has to happen before anything comes back.
    stuck: bool,
    /// The progress then.
    stuck_at: u64,
    rests_until: Duration,
    /// Commits are made, and do not wait for it: what it appends is not to hold them up for long.
    beside: bool,
    /// Nothing was to be done at this progress.
    idle_at: Option<u64>,
    /// ... or could be had by whoever asked.
    nothing_at: Option<u64>,
    /// What is emptied at once: see [`census::unit`].
    unit: u64,
    /// Draws the frames that are sampled.
    turn: u64,
    /// Samples since an extent was last looked for.
    looked: usize,
    /// Samples come slower than the log grows, which is too long.
    lags: bool,
    appended: Lsn,
    told: Sum,
    /// Log written to empty extents, and bytes given back, since the volume was opened.
    pub moved_bytes: u64,
    pub given_back_bytes: u64,
}

/// What a step came to.
enum Step {
    /// There is more to do.
    More,
    /// Something else must move first.
    Wait,
    /// What an earlier process may have in flight is to land first, and somebody waits for space.
    Unquiet,
    /// What it waits for may take long.
    Later,
    /// A checkpoint gives back what is emptied.
    Checkpoint,
    /// Nothing is to be done.
    Idle,
}

impl Reclaim {
    /// Extents of which one part in `least` is dead are to be emptied, however little is dead in all.
    fn ask(&mut self, least: u64) {
        (self.asked, self.least, self.below) = (true, least, Lsn::NONE);
        (self.stuck, self.rests_until) = (false, Duration::ZERO);
        self.unreadable.clear();
    }

    /// Bytes that were given back but for the views that hold them.
    pub fn held_by_views(&self) -> u64 {
        self.queue.held()
    }

    /// Extents that a checkpoint whose redo begins at `redo` can give back.
    pub fn ready(&self, redo: Lsn) -> Vec<Run> {
        self.queue.ready(redo)
    }

    /// A manifest that is named tells that these are emptied.
    pub fn is_emptied(&mut self, runs: &[Run]) {
        self.queue.is_emptied(runs);
    }

    /// What a map of that generation leads to was given back since.
    pub fn gave_back_since(&self, generation: u64) -> bool {
        self.queue.held_since(generation)
    }

    /// The newest state is an older one: what is live is to be found out anew.
    pub fn rewound(&mut self) {
        self.emptying = None;
        self.queue.rewound();
        (self.census, self.lags) = (Census::default(), false);
        self.unreadable.clear();
        (self.idle_at, self.nothing_at) = (None, None);
    }

    /// The manifest that gives these back is named: by the map of this generation, and by those that follow.
    pub fn given_back(&mut self, runs: &[Run], freed: &Freed, generation: u64) {
        self.given_back_bytes += runs.iter().map(|r| r.to - r.from).sum::<u64>();
        self.queue.given_back(runs, generation);
        self.census.forget(freed);
    }
}

/// What the log takes, as far as samples tell; bytes of one copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Space {
    /// Of the log that was written and not given back.
    pub allocated: u64,
    /// What the newest state needs, and what is too young to be given back: a bound from above.
    pub live: u64,
    /// What could be given back, now or once more of it is dead.
    pub dead: u64,
    /// Emptied, and waiting for a checkpoint or for open views, or needed by the window or by snapshots.
    pub pinned: u64,
    /// Written anew to empty extents since the volume was opened.
    pub moved: u64,
    /// Given back since the volume was opened.
    pub given_back: u64,
    /// What `allocated` may be beside 1.35 times `live` and what is pinned, in the long run: the newest extent, one that is
    /// being emptied, those that wait for a checkpoint, and what is appended until there is one.
    pub reserve: u64,
}

impl Shared {
    pub fn space(&self) -> Space {
        let kept = self.engine().freeing.kept.clone();
        let r = self.reclaim.lock();
        let views = r.queue.held();
        let held = r.queue.waiting().map(|run| freed::bytes_in(&kept, run.from, run.to)).sum::<u64>() + views;
        let past = self.past.lock().held();
        let held = held + past.window + past.pins;
        let allocated = freed::bytes_in(&kept, Lsn::NONE, self.front.tail()) + views;
        let dead = r.told.kept.saturating_sub(r.told.live).min(allocated.saturating_sub(held));
        let live = allocated.saturating_sub(dead + held);
        let (moved, given_back, reserve) = (r.moved_bytes, r.given_back_bytes, self.reserve(&r));
        Space { allocated, live, dead, pinned: held, moved, given_back, reserve }
    }

    /// Gives back all that can be had, or as much as this time is enough for. True if nothing is left to be had.
    pub fn compact(&self, most: Duration) -> bool {
        let deadline = self.clock.now().saturating_add(most);
        // Only what lies below redo's begin can be given back.
        let from = self.appended().0;
        while self.redo_from.load(Ordering::Relaxed) < from {
            let turn = self.progress.turn();
            self.begin_checkpoint();
            self.background.wake();
            if self.clock.now() >= deadline || self.tickets.is_over() {
                return false;
            }
            self.wait_for_word(turn, Duration::from_millis(5));
        }
        self.reclaim.lock().census = Census::default();
        self.ask_for_space();
        loop {
            let turn = self.progress.turn();
            self.background.wake_now();
            // What is emptied and given back by a manifest goes to the slots, but for what views hold.
            self.let_go(&mut self.reclaim.lock(), self.clock.now());
            let done = !self.reclaim.lock().asked && !self.engine().owes_space();
            if done || self.clock.now() >= deadline || self.tickets.is_over() {
                return done;
            }
            self.wait_for_word(turn, Duration::from_millis(5));
        }
    }

    /// Somebody has no room: as [`Shared::ask_for_space`], unless that came to nothing and little has died since.
    pub fn ask_for_room(&self) {
        let progress = self.space_progress();
        let mut reclaim = self.reclaim.lock();
        if reclaim.stuck && progress > reclaim.stuck_at {
            // Pages were freed since: it need not rest until it tries again.
            (reclaim.stuck, reclaim.rests_until) = (false, Duration::ZERO);
        }
        if !reclaim.asked && reclaim.nothing_at.is_none_or(|at| progress >= at + WORTH_ASKING) {
            reclaim.ask(LEAST_DEAD);
            let above = self.appended().0.saturating_sub(self.redo_from.load(Ordering::Relaxed));
            let held = u64::from(!self.past.lock().emptied.is_empty());
            // It takes of the room that is left to a close: a second one only when something has come back.
            let once = reclaim.paid_at.is_none_or(|at| at < reclaim.given_back_bytes);
            if once && (above > WORTH_A_CHECKPOINT || held > 0) {
                reclaim.paid_at = Some(reclaim.given_back_bytes);
                (reclaim.below, reclaim.turns_left) = (self.appended() + held, CHECKPOINT_TURNS);
            }
        }
    }

    /// What may have made something dead, in bytes.
    fn space_progress(&self) -> u64 {
        self.front.tail().0 + self.freed_pages.load(Ordering::Relaxed) * u64::from(self.geometry.page_size)
    }

    /// All that can be had is given back from now on, until nothing is left to be had.
    pub fn ask_for_space(&self) {
        self.reclaim.lock().ask(LEAST_DEAD_ASKED);
    }

    /// Somebody waits for space that is to come back.
    pub fn is_asked_for_space(&self) -> bool {
        self.reclaim.lock().asked
    }

    /// Space that was asked for may still come back.
    pub fn makes_room(&self) -> bool {
        let owed = self.engine().owes_space();
        let r = self.reclaim.lock();
        self.options.reclaim && (owed || !r.stuck && (r.asked || r.emptying.is_some()))
    }

    /// One step of it. True if pages are about to be written anew.
    #[cfg(all(test, feature = "sim"))]
    pub fn step_of_reclaim(&self) -> Result<bool, WriteError> {
        let mut r = self.reclaim.lock();
        self.reclaim_step(&mut r)?;
        Ok(r.emptying.as_ref().is_some_and(Emptying::writes))
    }

    /// Goes on with reclaiming. Returns how long until there is more to do; none if there is nothing.
    pub fn reclaim(&self, now: Duration) -> Option<Duration> {
        if !self.options.reclaim || self.tickets.is_over() || self.reads.closed.load(Ordering::SeqCst) {
            return None;
        }
        let mut reclaim = self.reclaim.lock();
        let owed = self.let_go(&mut reclaim, now);
        if now < reclaim.rests_until {
            return owed.into_iter().chain([reclaim.rests_until - now]).min();
        }
        let busy = std::mem::replace(&mut reclaim.appended, self.appended()) < self.appended();
        let left = self.left_until_behind(&reclaim);
        self.pressure.set(left);
        let behind = left == 0;
        let busy = busy && !behind;
        reclaim.beside = busy;
        let mut step = self.reclaim_step(&mut reclaim);
        for _ in 1..STEPS {
            let full = busy && self.front.tail() > self.tickets.vdl() + BESIDE;
            if full || !matches!(step, Ok(Step::More)) || self.clock.now() > now + TURN {
                break;
            }
            step = self.reclaim_step(&mut reclaim);
        }
        if behind {
            self.progress.moved();
        }
        reclaim.stuck = matches!(step, Ok(Step::Later) | Err(_));
        if reclaim.stuck {
            reclaim.stuck_at = self.space_progress();
            self.pressure.set(ENDLESS);
        }
        let took = self.clock.now().saturating_sub(now);
        let rest = match step {
            Ok(Step::More) if busy => took * REST,
            Ok(Step::More) => Duration::ZERO,
            Ok(Step::Idle) => return owed,
            Ok(Step::Wait | Step::Checkpoint) => Duration::from_millis(5).max(took * REST),
            Ok(Step::Unquiet) => OWED,
            Ok(Step::Later) | Err(_) => AGAIN,
        };
        reclaim.rests_until = self.clock.now() + rest;
        drop(reclaim);
        if matches!(step, Ok(Step::Checkpoint)) {
            self.begin_checkpoint();
        }
        let rest = rest.max(Duration::from_millis(1));
        Some(owed.map_or(rest, |owed| owed.min(rest)))
    }

    /// What no view can read any more is given to the slots. Returns how long until it is to be asked again.
    fn let_go(&self, r: &mut Reclaim, now: Duration) -> Option<Duration> {
        let asks = r.queue.held() > 0 && !planted(Bug::PunchUnderView);
        let runs = r.queue.let_go(if asks { self.oldest_map() } else { None });
        let mut engine = self.engine();
        engine.owe(&runs);
        if !engine.owes_space() {
            return (r.queue.held() > 0).then_some(AGAIN);
        }
        // A short life pays nothing for what an earlier process may have left.
        let from = self.opened_at + self.options.merge_after;
        if now < from && !engine.owes_new() && !r.asked {
            return Some(from - now);
        }
        engine.wants_to_free(now);
        Some(OWED)
    }

    /// ... and at once. True if slots are about to give something back.
    pub fn gives_back(&self, now: Duration) -> bool {
        self.let_go(&mut self.reclaim.lock(), now);
        self.engine().can_free(now)
    }

    /// The oldest map that a view holds.
    fn oldest_map(&self) -> Option<u64> {
        let views = self.reads.views.lock().oldest();
        views.iter().filter_map(|view| view.map()).map(|map| map.generation).min()
    }

    /// What is emptied at once.
    fn unit(&self, r: &Reclaim) -> u64 {
        if r.unit > 0 { r.unit } else { self.options.reclaim_unit }
    }

    /// Extents that are emptied, and wait.
    fn emptied_max(unit: u64, live: u64) -> u64 {
        if unit < format::EXTENT { EMPTIED_SMALL } else { (live / unit / 8).clamp(2, EMPTIED_MAX) }
    }

    /// See [`Space::reserve`].
    fn reserve(&self, r: &Reclaim) -> u64 {
        let unit = self.unit(r);
        (Self::emptied_max(unit, r.told.live) + 2) * unit + self.options.checkpoint_bytes
    }

    /// Bytes that can be live below redo.
    fn pages_bound(&self) -> u64 {
        let pages = self.pages_at_checkpoint.load(Ordering::Relaxed) + self.reads.pages.map().root.pending.changes();
        pages.min(self.alloc.lock().next()) * (u64::from(self.geometry.page_size) + CHAIN)
    }

    /// Each life leaves a piece of the log, however little is in it: of many epochs, too, little is to be left.
    fn has_many_pieces(&self, kept: &[Entry]) -> bool {
        kept.len() > self.options.epochs_told
    }

    /// So many times more is kept than should be.
    fn keeps_too_much(&self, times: u64) -> bool {
        let (kept, redo) = {
            let engine = self.engine();
            (engine.freeing.kept.clone(), engine.manifest().1)
        };
        // What the past holds is nobody's to wait for.
        let held = self.past.lock().held();
        let should = 2 * self.pages_bound() + self.reserve(&self.reclaim.lock()) + held.window + held.pins;
        let pieces = self.options.epochs_told as u64;
        freed::bytes_in(&kept, Lsn::NONE, redo) > should.saturating_mul(times) || kept.len() as u64 > times * pieces
    }

    /// What comes back before a close, where far too much is kept: lives that end before the background has found anything
    /// would leave more and more. What a killed process may have in flight is waited for only where it is twice too much: lives
    /// so short would never give anything back.
    pub fn catch_up(&self, most: Duration) {
        let begun = self.clock.now();
        let quiet = self.engine().is_quiet();
        if !self.options.reclaim || !self.keeps_too_much(if quiet { 1 } else { 2 }) || !quiet && !(self.earlier_gone)()
        {
            return;
        }
        let (mut from, mut look) = (begun, Duration::from_millis(2));
        if !quiet {
            (from, look) =
                (begun.max(self.opened_at.saturating_add(self.options.merge_after)), Duration::from_millis(20));
            self.ask_for_space();
        }
        let deadline =
            from.saturating_add(if quiet { CATCH_UP } else { CATCH_UP_CHECKED }).min(begun.saturating_add(most));
        let comes = |r: &Reclaim| r.asked || !r.stuck && r.idle_at.is_none();
        let doubts = || !quiet && self.engine().healed().is_none();
        while self.keeps_too_much(1) && comes(&self.reclaim.lock()) || self.engine().owes_new() || doubts() {
            let turn = self.progress.turn();
            if self.clock.now() >= deadline || self.tickets.is_over() {
                return;
            }
            self.background.wake_now();
            self.wait_for_word(turn, look);
        }
    }

    fn reclaim_step(&self, r: &mut Reclaim) -> Result<Step, WriteError> {
        for image in self.died.take() {
            // An extent, or a frame of one that is full.
            let (extent, frame) = (image.floor(self.unit(r)), image.floor(format::FRAME));
            r.census.died(extent, u64::from(self.geometry.page_size));
            if frame != extent {
                r.census.died(frame, u64::from(self.geometry.page_size));
            }
        }
        if let Some(emptying) = r.emptying.take() {
            return self.go_on(r, emptying);
        }
        let progress = self.space_progress();
        let narrow = self.clock.now() < r.narrow_until || self.engine().is_short();
        let unit = if narrow { format::FRAME } else { self.unit(r) };
        let idle = r.idle_at.is_some_and(|at| progress < at + unit / IDLE);
        if idle && !r.asked && r.queue.waiting().next().is_none() {
            return Ok(Step::Idle);
        }
        r.idle_at = None;
        let (kept, redo, quiet) = {
            let engine = self.engine();
            (engine.freeing.kept.clone(), engine.manifest().1, engine.is_quiet())
        };
        // What an earlier process has in flight may still land, and tail files are no segments. Once it is gone that takes
        // seconds; until then nobody knows how long.
        if !quiet {
            return Ok(if r.asked && (self.earlier_gone)() { Step::Unquiet } else { Step::Later });
        }
        let waits = |s: &Stock| r.queue.waiting().any(|run| run.from < s.run.to && s.run.from < run.to);
        let mut stocks = census::stocks(&kept, redo, unit);
        let all = stocks.iter().map(|s| s.bytes).sum::<u64>();
        stocks.retain(|s| !waits(s));
        // What the past holds is emptied already.
        let past_is_full = {
            let past = self.past.lock();
            stocks.retain(|s| !past.holds(s.run));
            past.emptied.len() + r.queue.waiting().count() >= past::EMPTIED_MAX
        };
        // What is not sampled counts as live.
        let rest = freed::bytes_in(&kept, Lsn::NONE, redo.floor(unit)).saturating_sub(all);
        // As many images as there were pages at redo, and their deltas, are all that can be live below. How many of the
        // changes that are pending made a page is not known, but how many ids there are.
        let pages = self.pages_bound();
        let count = |census: &Census| {
            let sum = census.sum(&stocks);
            (sum, Sum { kept: sum.kept + rest, live: (sum.live + rest).min(pages) })
        };
        let live = count(&r.census).1.live;
        if let Some(stock) = r.census.due(&stocks, live, progress) {
            r.turn = r.turn.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            let (of, live) = self.sample(&kept, stock, r.turn >> 20).unwrap_or((1, 1));
            r.census.record(stock.run.from, of, live, progress);
            r.looked += 1;
        }
        let more = r.census.due(&stocks, live, progress).is_some();
        let (sum, told) = count(&r.census);
        // More is kept than twice what can be live, and the samples do not say where: the log grows faster than they are taken.
        r.lags = more && told.kept > 2 * pages + unit;
        // With all samples at hand the worst is known, and how far it is behind. But who waits for all of them where they lag
        // waits for ever.
        if more && r.looked < if r.lags { 1 } else { LOOKS } {
            return Ok(Step::More);
        }
        (r.looked, r.told) = (0, told);
        // A limit counts extents: parts of one would not come below it. What is live must be known: a new census knows nothing.
        if !narrow && !more && self.options.extents_max() == format::EXTENTS_MAX {
            let better = census::unit(unit, r.told.live, self.options.reclaim_unit);
            if better != unit {
                (r.unit, r.census) = (better, Census::default());
                return Ok(Step::More);
            }
        }
        let (share, slack, least) = match r.asked {
            true if narrow => ((1, 1), 0, LEAST_DEAD_NARROW),
            true => ((1, 1), 0, r.least),
            false => (KEPT_PER_LIVE, unit, LEAST_DEAD),
        };
        let wanted = r.lags || self.has_many_pieces(&kept) || sum.kept > sum.live / share.1 * share.0 + slack;
        // Without room little is moved before it is given back.
        let most = if narrow { 1 } else { Self::emptied_max(unit, r.told.live) };
        let full = r.queue.waiting().count() as u64 >= most || past_is_full;
        let freed = self.freed();
        let may = |s: &Stock| !r.unreadable.contains(&s.run.from) && !freed.is_full_for(s.run);
        match r.census.victim(&stocks, least, may).filter(|_| wanted && !full) {
            Some(stock) if planted(Bug::SampleTrusted) && r.census.dead_share(&stock) == 256 => {
                r.queue.emptied(stock.run, self.front.tail());
                Ok(Step::More)
            }
            Some(stock) => {
                r.emptying = Some(Emptying::new(stock.run, r.census.dead_share(&stock), &kept, self.geometry.block()));
                Ok(Step::More)
            }
            None if more && !full => Ok(Step::More),
            None if r.asked && redo < r.below && r.turns_left > 0 => {
                r.turns_left -= 1;
                Ok(Step::Checkpoint)
            }
            None if r.queue.waiting().next().is_none() => {
                let asked = std::mem::replace(&mut r.asked, false);
                (r.idle_at, r.nothing_at) = (Some(progress), if asked { Some(progress) } else { r.nothing_at });
                Ok(Step::Idle)
            }
            None => Ok(Step::Checkpoint),
        }
    }
}
