//! Reclaiming, carried out in steps beside commits: extents are sampled, the one that is worth most is emptied by writing
//! its pages anew as ordinary MTRs, and the next checkpoint gives it back.
//!
//! A step never waits. A crash anywhere costs nothing but what was written anew: pages are what they were, and an extent
//! is given back by a manifest alone.

use crate::bugs::{Bug, planted};
use crate::core::history::Entry;
use crate::log::record::{self, Kind};
use crate::lsn::{Lsn, PageId, format};
use crate::page::read::{Brief, Head, Owned, Part};
use crate::reclaim::census::{self, Census, Stock, Sum};
use crate::reclaim::freed::{self, Freed, Run};
use crate::reclaim::moves::{self, Chain, Link, Move};
use crate::reclaim::queue::Queue;
use crate::volume::append::{NotAppended, Prepared};
use crate::volume::error::{ReadError, WriteError};
use crate::volume::mtr::{Change, Content, Moved, What};
use crate::volume::shared::Shared;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

/// Extents are emptied while more is kept than this share of what is live, and one extent beside.
const KEPT_PER_LIVE: (u64, u64) = (6, 5);
/// Beyond this share, and the reserve beside, whoever appends waits for it.
const BEHIND_PER_LIVE: (u64, u64) = (13, 10);
/// One part in so many of an extent must be dead for it to be worth emptying; fewer where somebody asked for all of it.
const LEAST_DEAD: u64 = 8;
const LEAST_DEAD_ASKED: u64 = 32;
/// ... and more where frames are emptied: what comes back of one must be more than the checkpoint takes that gives it back.
const LEAST_DEAD_NARROW: u64 = 6;
/// Records of a frame that are asked for, at most.
const PICKS: usize = 24;
/// Content of one MTR.
const BATCH_BYTES: usize = 512 << 10;
/// ... where there may be little room.
const BATCH_NARROW: usize = 128 << 10;
/// Pages looked at in one step, for each thread that does: many, so that no thread waits long for the slowest.
const PAGES_A_READER: usize = 16;
/// ... of no more bytes.
const PLANNED_BYTES: usize = 2 << 20;
/// While commits are made it rests so many times as long as a step took.
const REST: u32 = 3;
/// What could not be read, or moved on, is tried again then.
const AGAIN: Duration = Duration::from_secs(1);
/// Extents that are emptied wait for a checkpoint: at most so many, by an eighth of what is live; smaller parts of a small
/// volume four.
const EMPTIED_MAX: u64 = 8;
const EMPTIED_SMALL: u64 = 4;
/// What the chain of a page takes beside an image, about.
const CHAIN: u64 = 512;
/// Steps of one turn, and the time after which a turn ends.
const STEPS: usize = 16;
const TURN: Duration = Duration::from_millis(5);
/// So much of an extent may be appended before it is looked again whether something is to be done: 1/16.
const IDLE: u64 = 16;
/// So much must have happened since nothing was left to be had for it to be worth asking again.
const WORTH_ASKING: u64 = 256 << 10;
/// What was given back ahead of who appends, and what they may be ahead of it.
const CREDIT_MAX: i64 = 16 << 20;
const CREDIT_MIN: i64 = -(4 << 20);
/// Nothing bounds what may be appended.
const ENDLESS: i64 = i64::MAX / 2;
/// Who appends gets so much of what is given back: with the rest it catches up.
const GAINED: (u64, u64) = (7, 8);
/// An append waits so long for credit, at most.
pub const CREDIT_WAIT: Duration = Duration::from_millis(100);
/// A volume without room is emptied frame by frame for so long.
const NARROW_FOR: Duration = Duration::from_secs(10);
/// Slots that have something to give back are asked to again after so long, if they could not.
const OWED: Duration = Duration::from_millis(50);
/// Images that died, and are not counted yet.
const DIED_MAX: usize = 16 << 10;
/// Pages of an extent that are remembered as done.
const SEEN_MAX: usize = 128 << 10;

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
    /// There was no room to write pages anew: it goes on frame by frame until then, so that little is needed.
    narrow_until: Duration,
    /// Something else has to happen before anything comes back.
    stuck: bool,
    rests_until: Duration,
    /// Nothing was to be done at this progress.
    idle_at: Option<u64>,
    /// ... or could be had by whoever asked.
    nothing_at: Option<u64>,
    /// What is emptied at once: see [`census::unit`].
    unit: u64,
    /// Draws the frames that are sampled.
    turn: u64,
    appended: Lsn,
    told: Sum,
    /// Log written to empty extents, and bytes given back, since the volume was opened.
    pub moved_bytes: u64,
    pub given_back_bytes: u64,
}

/// Reclaiming that is behind slows down who appends: as much as it gives back, they may append. Before it is behind they may
/// append what is left until then, so that nobody runs away while it waits for a disk.
pub struct Pressure {
    behind: AtomicBool,
    credit: AtomicI64,
}

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure { behind: AtomicBool::new(false), credit: AtomicI64::new(ENDLESS) }
    }
}

impl Pressure {
    pub fn is_on(&self) -> bool {
        self.credit.load(Ordering::Relaxed) < 0
    }

    pub fn appended(&self, bytes: u64) {
        let less = |c: i64| Some((c - bytes as i64).max(CREDIT_MIN));
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn gained(&self, bytes: u64) {
        if self.behind.load(Ordering::Relaxed) {
            let more = |c: i64| Some((c + bytes as i64).min(CREDIT_MAX));
            let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// So much may be appended until it is behind; 0 if it is.
    fn set(&self, left: i64) {
        let was = self.behind.swap(left == 0, Ordering::Relaxed);
        if left > 0 {
            self.credit.store(left, Ordering::Relaxed);
        } else if !was {
            self.credit.fetch_min(0, Ordering::Relaxed);
        }
    }
}

/// Images of pages that were freed or written anew, where they are known: between two samples an extent's census goes on by
/// these. Nothing depends on them; of more than a bound some are forgotten.
#[derive(Default)]
pub struct Died(Mutex<Vec<Lsn>>);

impl Died {
    /// An MTR was appended over these versions; patches of some pages were made images.
    pub fn tell(&self, content: &Content, mut before: HashMap<PageId, Option<Head>>, image: impl Fn(PageId) -> bool) {
        let whole = |c: &&Change| !c.fresh && (!matches!(c.what, What::Patch { .. }) || image(c.page));
        let whole = content.changes.iter().filter(whole);
        let heads = whole.filter_map(|c| before.remove(&c.page).flatten());
        let mut died = self.0.lock();
        for head in heads.take(DIED_MAX - died.len()) {
            died.extend(if head.depth == 0 { Some(head.lsn) } else { Some(head.base).filter(|base| !base.is_none()) });
        }
    }

    fn take(&self) -> Vec<Lsn> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// An extent that is gone through.
struct Emptying {
    run: Run,
    /// What is dead of it, by the census, in 1/256.
    dead: u64,
    /// Parts of frames that are still to be read, the next one last.
    parts: Vec<(Lsn, Lsn)>,
    /// The one at hand, and its pages that are still to be looked at.
    part: Option<Part>,
    pages: Vec<PageId>,
    seen: HashSet<PageId>,
    /// What is to be written anew, and was not put into an MTR yet.
    planned: Vec<(PageId, Planned)>,
    batch: Batch,
}

#[derive(Default)]
struct Batch {
    content: Content,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, page: PageId, planned: Planned) {
        let Planned { head, was, base, changes, bytes } = planned;
        self.bytes += bytes;
        self.content.changes.extend(changes.into_iter().map(|what| Change { page, what, fresh: false }));
        if !planted(Bug::MoveOverwrites) {
            self.content.expected.push((page, head.lsn));
        }
        self.content.moved.insert(page, Moved { was, base });
    }
}

/// What is to be done about a page.
enum Plan {
    Nothing,
    /// It cannot be told now.
    NotNow,
    Move(Planned),
}

struct Planned {
    head: Head,
    was: Lsn,
    /// The image that stays.
    base: Option<Lsn>,
    changes: Vec<What>,
    bytes: usize,
}

/// Most of it is waiting for a disk: several threads wait at a time. Each takes the next one that nobody has taken, so that
/// one that waits for long holds up no others.
fn in_parallel<T: Sync, R: Send>(readers: usize, items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if readers < 2 || items.len() < 2 {
        return items.iter().map(f).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return done };
            done.push((i, f(item)));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let name = || std::thread::Builder::new().name("quorate-reclaim".into());
        // Where no thread is to be had the others do it, this one among them.
        let start = |_| name().spawn_scoped(scope, work).ok();
        let threads: Vec<_> = (1..readers.min(items.len())).filter_map(start).collect();
        let mut all = work();
        for thread in threads {
            all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_unstable_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, found)| found).collect()
}

/// What a step came to.
enum Step {
    /// There is more to do.
    More,
    /// Something else must move first.
    Wait,
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
        (self.asked, self.least) = (true, least);
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
    /// Emptied, and waiting for a checkpoint or for open views.
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
        let allocated = freed::bytes_in(&kept, Lsn::NONE, self.front.tail()) + views;
        let dead = r.told.kept.saturating_sub(r.told.live).min(allocated.saturating_sub(held));
        let live = allocated.saturating_sub(dead + held);
        let (moved, given_back, reserve) = (r.moved_bytes, r.given_back_bytes, self.reserve(&r));
        Space { allocated, live, dead, pinned: held, moved, given_back, reserve }
    }

    /// Gives back all that can be had, or as much as this time is enough for. True if nothing is left to be had.
    pub fn compact(&self, most: Duration) -> bool {
        let deadline = self.clock.now() + most;
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
        if !reclaim.asked && reclaim.nothing_at.is_none_or(|at| progress >= at + WORTH_ASKING) {
            reclaim.ask(LEAST_DEAD);
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
        Ok(r.emptying.as_ref().is_some_and(|e| !e.batch.content.changes.is_empty()))
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
        let mut step = self.reclaim_step(&mut reclaim);
        for _ in 1..STEPS {
            if !matches!(step, Ok(Step::More)) || self.clock.now() > now + TURN {
                break;
            }
            step = self.reclaim_step(&mut reclaim);
        }
        if behind {
            self.progress.moved();
        }
        reclaim.stuck = matches!(step, Ok(Step::Later) | Err(_));
        if reclaim.stuck {
            self.pressure.set(ENDLESS);
        }
        let took = self.clock.now().saturating_sub(now);
        let rest = match step {
            Ok(Step::More) if busy => took * REST,
            Ok(Step::More) => Duration::ZERO,
            Ok(Step::Idle) => return owed,
            Ok(Step::Wait | Step::Checkpoint) => Duration::from_millis(5).max(took * REST),
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

    /// So much may be appended until the log takes more than it should, while something is under way that makes it less.
    fn left_until_behind(&self, r: &Reclaim) -> i64 {
        if r.told.kept == 0 || r.emptying.is_none() && r.queue.waiting().next().is_none() {
            return ENDLESS;
        }
        // What views hold is nobody's to wait for.
        let all = freed::bytes_in(&self.engine().freeing.kept, Lsn::NONE, self.front.tail());
        let (of, per) = BEHIND_PER_LIVE;
        (r.told.live / per * of + self.reserve(r)).saturating_sub(all) as i64
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
        let page_size = u64::from(self.geometry.page_size);
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
        // What an earlier process has in flight may still land, and tail files are no segments. Once it is gone that is a
        // moment's work for the slots; until then nobody knows how long it takes.
        if !quiet {
            return Ok(if (self.earlier_gone)() { Step::Wait } else { Step::Later });
        }
        let waits = |s: &Stock| r.queue.waiting().any(|run| run.from < s.run.to && s.run.from < run.to);
        let mut stocks = census::stocks(&kept, redo, unit);
        let all = stocks.iter().map(|s| s.bytes).sum::<u64>();
        stocks.retain(|s| !waits(s));
        let due = r.census.due(&stocks, progress);
        if let Some(stock) = due {
            r.turn = r.turn.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            let (of, live) = self.sample(&kept, stock, r.turn >> 20).unwrap_or((1, 1));
            r.census.record(stock.run.from, of, live, progress);
            // Only with all samples at hand the worst is known, and how far it is behind.
            if r.census.due(&stocks, progress).is_some() {
                return Ok(Step::More);
            }
        }
        let sum = r.census.sum(&stocks);
        // What is not sampled counts as live.
        let rest = freed::bytes_in(&kept, Lsn::NONE, redo.floor(unit)).saturating_sub(all);
        // As many images as there were pages at redo, and their deltas, are all that can be live below. How many of the
        // changes that are pending made a page is not known, but how many ids there are.
        let pages = self.pages_at_checkpoint.load(Ordering::Relaxed) + self.reads.pages.map().root.pending.changes();
        let pages = pages.min(self.alloc.lock().next()) * (page_size + CHAIN);
        r.told = Sum { kept: sum.kept + rest, live: (sum.live + rest).min(pages) };
        // A limit counts extents: parts of one would not come below it.
        if !narrow && self.options.extents_max() == format::EXTENTS_MAX {
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
        let wanted = sum.kept > sum.live / share.1 * share.0 + slack;
        // Without room little is moved before it is given back.
        let most = if narrow { 1 } else { Self::emptied_max(unit, r.told.live) };
        let full = r.queue.waiting().count() as u64 >= most;
        let freed = self.freed();
        let may = |s: &Stock| !r.unreadable.contains(&s.run.from) && !freed.is_full_for(s.run);
        match r.census.victim(&stocks, least, may).filter(|_| wanted && !full) {
            Some(stock) if planted(Bug::SampleTrusted) && r.census.dead_share(&stock) == 256 => {
                r.queue.emptied(stock.run, self.front.tail());
                Ok(Step::More)
            }
            Some(stock) => {
                r.emptying = Some(Emptying {
                    run: stock.run,
                    dead: r.census.dead_share(&stock),
                    parts: parts(&kept, stock.run),
                    part: None,
                    pages: Vec::new(),
                    seen: HashSet::new(),
                    planned: Vec::new(),
                    batch: Batch::default(),
                });
                Ok(Step::More)
            }
            None if r.queue.waiting().next().is_none() => {
                let asked = std::mem::replace(&mut r.asked, false);
                (r.idle_at, r.nothing_at) = (Some(progress), if asked { Some(progress) } else { r.nothing_at });
                Ok(Step::Idle)
            }
            None => Ok(Step::Checkpoint),
        }
    }

    /// A frame of the extent: how many bytes were looked at, and how many are live.
    fn sample(&self, kept: &[Entry], stock: Stock, draw: u64) -> Option<(u64, u64)> {
        let parts = parts(kept, stock.run);
        let (from, to) = *parts.get((draw % parts.len().max(1) as u64) as usize)?;
        let part = self.reads.pages.reader.part(from, to).ok()?;
        let records = &part.records;
        // Nodes that are live are few, and a page's frees are not.
        let all = records.iter().map(|r| r.len).sum::<u64>().max(1);
        let of_pages: Vec<&Brief> = records.iter().filter(|r| is_of_page(r)).collect();
        let (mut of, mut live) = (0, 0);
        let each = of_pages.len().div_ceil(PICKS).max(1);
        let picked: Vec<&Brief> = of_pages.iter().skip((draw >> 8) as usize % each).step_by(each).copied().collect();
        let find = |r: &&Brief| self.chain(PageId(r.fields.page), stock.run, Some(&part)).ok().flatten();
        for (r, found) in picked.iter().zip(in_parallel(self.options.reclaim_readers, &picked, find)) {
            of += r.len;
            let holds = |c: Chain| c.image == r.lsn || c.deltas.iter().any(|d| d.lsn == r.lsn);
            live += if found.is_some_and(|f| holds(f.chain)) { r.len } else { 0 };
        }
        let pages = of_pages.iter().map(|r| r.len).sum::<u64>();
        Some((all, (u128::from(pages) * u128::from(live) / u128::from(of.max(1))) as u64))
    }

    /// Goes on with emptying an extent.
    fn go_on(&self, r: &mut Reclaim, mut e: Emptying) -> Result<Step, WriteError> {
        let most = if e.run.to - e.run.from > format::FRAME { BATCH_BYTES } else { BATCH_NARROW };
        while e.batch.bytes < most
            && let Some((page, planned)) = e.planned.pop()
        {
            e.batch.add(page, planned);
        }
        let full = e.batch.bytes >= most;
        if full || e.pages.is_empty() && !e.batch.content.changes.is_empty() {
            let tail = self.front.tail();
            let step = match self.prepare(&e.batch.content) {
                Ok(prepared) => {
                    self.finish_moved(prepared, &e.batch.content);
                    e.batch = Batch::default();
                    r.moved_bytes += self.front.tail().0.saturating_sub(tail.0);
                    Step::More
                }
                // A page has changed meanwhile: it is looked at again, and the others go without it.
                Err(NotAppended::Wrong(WriteError::Conflict(page) | WriteError::NoSuchPage(page))) => {
                    let content = &mut e.batch.content;
                    content.changes.retain(|c| c.page != page);
                    content.expected.retain(|(p, _)| *p != page);
                    content.moved.remove(&page);
                    e.pages.insert(0, page);
                    if content.changes.is_empty() {
                        e.batch = Batch::default();
                    }
                    Step::More
                }
                Err(NotAppended::Again | NotAppended::Full) => Step::Wait,
                Err(NotAppended::RingFull) => {
                    self.pump();
                    Step::Wait
                }
                Err(NotAppended::Space(end)) => {
                    let now = self.clock.now();
                    if !self.engine().want_space(end, now) {
                        // What is on its way back comes first.
                        if r.queue.waiting().next().is_some() || r.queue.held() > 0 || self.engine().owes_new() {
                            r.emptying = Some(e);
                            return Ok(Step::Checkpoint);
                        }
                        // What was moved of it stays moved. A frame needs less; and if it was one, others may be deader.
                        if e.run.to - e.run.from <= format::FRAME {
                            r.unreadable.insert(e.run.from);
                        }
                        r.narrow_until = now + NARROW_FOR;
                        return Ok(Step::More);
                    }
                    Step::Wait
                }
                Err(NotAppended::Wrong(other)) => return Err(other),
            };
            r.emptying = Some(e);
            return Ok(step);
        }
        if !e.pages.is_empty() {
            // Somebody waits for what comes back first.
            let bytes = if r.asked || most < BATCH_BYTES { most } else { PLANNED_BYTES };
            let few = PAGES_A_READER * self.options.reclaim_readers;
            let now = (bytes / self.geometry.page_size as usize).clamp(1, few).min(e.pages.len());
            let pages = e.pages.split_off(e.pages.len() - now);
            let plan = |page: &PageId| self.plan_move(*page, e.run, e.part.as_ref());
            let plans = in_parallel(self.options.reclaim_readers, &pages, plan);
            for (page, plan) in pages.into_iter().zip(plans) {
                match plan {
                    Ok(Plan::Nothing) => (),
                    Ok(Plan::Move(planned)) => e.planned.push((page, planned)),
                    // Somebody's reservation is not filled yet.
                    Ok(Plan::NotNow) => e.pages.push(page),
                    Err(error) => {
                        r.unreadable.insert(e.run.from);
                        return Err(error.into());
                    }
                }
            }
            r.emptying = Some(e);
            return Ok(Step::More);
        }
        let Some((from, to)) = e.parts.pop() else {
            r.queue.emptied(e.run, self.front.tail());
            if planted(Bug::PunchEarly) {
                self.engine().owe(&[e.run]);
            }
            return Ok(Step::More);
        };
        let part = match self.reads.pages.reader.part(from, to) {
            Ok(part) => part,
            Err(_) => {
                // Healing may bring it back; until then nothing says what is live there.
                r.unreadable.insert(e.run.from);
                return Ok(Step::More);
            }
        };
        // On a volume without room it is space that is waited for.
        let share = if r.asked { (1, 1) } else { GAINED };
        self.pressure.gained((to - from) * e.dead / 256 / share.1 * share.0);
        for record in part.records.iter().filter(|r| is_of_page(r)) {
            let page = PageId(record.fields.page);
            if e.seen.len() >= SEEN_MAX {
                e.seen.clear();
            }
            if e.seen.insert(page) {
                e.pages.push(page);
            }
        }
        e.part = Some(part);
        r.emptying = Some(e);
        Ok(Step::More)
    }

    /// What has to be written anew of a page.
    fn plan_move(&self, page: PageId, extent: Run, part: Option<&Part>) -> Result<Plan, ReadError> {
        let Some(found) = self.chain(page, extent, part)? else { return Ok(Plan::Nothing) };
        if found.head.lsn >= self.front.published() {
            return Ok(Plan::NotNow);
        }
        let (head, was, page_size) = (found.head, found.was, self.geometry.page_size as usize);
        match moves::plan(found.chain, extent, page_size) {
            Move::Nothing => Ok(Plan::Nothing),
            Move::Image => {
                // Of a page that is one image the bytes are at hand.
                let image = part.and_then(|part| part.record(head.lsn)).filter(|r| is_image_of(r, page));
                let what = match image {
                    Some(image) if image.payload.is_empty() => What::Zero,
                    Some(image) if image.payload.len() == page_size => What::Put(image.payload),
                    _ => {
                        let bytes = self.reads.pages.version(page, head.lsn)?;
                        if bytes.iter().all(|b| *b == 0) { What::Zero } else { What::Put(bytes) }
                    }
                };
                Ok(Plan::Move(Planned { head, was, base: None, changes: vec![what], bytes: page_size }))
            }
            Move::Deltas { base, deltas } => {
                let bytes = deltas.iter().map(|d| d.bytes.len() + 64).sum();
                let patch = |d: moves::Link| What::Patch { offset: d.offset, bytes: d.bytes };
                let changes = deltas.into_iter().map(patch).collect();
                Ok(Plan::Move(Planned { head, was, base: Some(base), changes, bytes }))
            }
        }
    }

    /// The page's chain, as far as it matters for an extent; none if the page is no more. Records that are in `part` are not
    /// read again, and where nothing of the page can lie in the extent nothing is read.
    fn chain(&self, page: PageId, extent: Run, part: Option<&Part>) -> Result<Option<Found>, ReadError> {
        let pages = &self.reads.pages;
        let Some(head) = pages.newest(page, Lsn::MAX)? else { return Ok(None) };
        let mut found = Found { head, was: head.lsn, chain: Chain { deltas: Vec::new(), image: head.lsn } };
        if head.lsn >= self.front.published() {
            return Ok(Some(found));
        }
        let within = |lsn: Lsn| extent.from <= lsn && lsn < extent.to;
        if head.depth == 0 && !within(head.lsn) {
            return Ok(Some(found));
        }
        if !head.base.is_none() && head.base >= extent.to {
            found.chain.image = head.base;
            return Ok(Some(found));
        }
        let (mut at, mut base, mut any) = (head.lsn, head.base, false);
        loop {
            // An image's address is all that is needed, but for what it stands for.
            let record = match part.and_then(|part| part.record(at)) {
                Some(record) => record,
                None => pages.record(page, at, record::HEADER)?,
            };
            let fields = record.fields;
            if fields.page != page.0 || !matches!(fields.kind, Kind::Image | Kind::Delta) {
                return Err(ReadError::Corrupt { page, lsn: at, what: "its chain leads to another record" });
            }
            if at == head.lsn && !fields.was.is_none() {
                found.was = fields.was;
            }
            if fields.kind == Kind::Image {
                found.chain.image = at;
                return Ok(Some(found));
            }
            any |= within(at);
            found.chain.deltas.push(Link { lsn: at, offset: fields.offset, bytes: record.payload });
            if fields.depth == 1 {
                found.chain.image = fields.prev;
                return Ok(Some(found));
            }
            if !fields.base.is_none() {
                base = fields.base;
            }
            // Nothing of it lies so low, nor where its image is; or nothing of it lies there, and all else lies lower.
            let over = !base.is_none() && base >= extent.to;
            let under = !any && fields.prev < extent.from && !base.is_none() && base < extent.from;
            // Where the image lies there the deltas do not matter.
            let image = !base.is_none() && within(base);
            if over || under || image {
                found.chain.image = base;
                return Ok(Some(found));
            }
            if fields.prev.is_none() || fields.prev >= at {
                return Err(ReadError::Corrupt { page, lsn: at, what: "its chain has no image" });
            }
            at = fields.prev;
        }
    }

    /// Publishes pages that were moved. A cached version stays cached.
    fn finish_moved(&self, prepared: Prepared, content: &Content) {
        let mut last: HashMap<PageId, usize> = HashMap::new();
        last.extend(content.changes.iter().enumerate().map(|(i, c)| (c.page, i)));
        let new: HashMap<PageId, Lsn> = last.into_iter().map(|(page, i)| (page, prepared.lsn(i))).collect();
        self.finish(prepared);
        for (page, head) in &content.expected {
            let was = content.moved.get(page).map_or(Lsn::NONE, |m| m.was);
            if let (Some(bytes), Some(lsn)) = (self.reads.pages.cached(*head), new.get(page)) {
                self.reads.pages.insert_for(*lsn, bytes, was);
            }
        }
    }
}

struct Found {
    head: Head,
    /// What a record that stands for it has to name.
    was: Lsn,
    chain: Chain,
}

fn is_image_of(r: &Owned, page: PageId) -> bool {
    r.fields.kind == Kind::Image && r.fields.page == page.0
}

fn is_of_page(r: &Brief) -> bool {
    matches!(r.fields.kind, Kind::Image | Kind::Delta)
}

/// Parts of frames of an extent that belong to one epoch each.
fn parts(kept: &[Entry], run: Run) -> Vec<(Lsn, Lsn)> {
    let mut parts = Vec::new();
    let first = kept.partition_point(|e| e.end <= run.from);
    for entry in kept[first..].iter().take_while(|e| e.begin < run.to) {
        let (mut from, to) = (entry.begin.max(run.from), entry.end.min(run.to));
        while from < to {
            let next = (from.floor(format::FRAME) + format::FRAME).min(to);
            parts.push((from, next));
            from = next;
        }
    }
    parts
}
