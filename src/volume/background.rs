//! The background thread of an open volume: stragglers, checkpoints, the filler after idleness, slots that come back.
//! With nothing due it sleeps until it is woken.

use crate::bugs::{Bug, planted};
use crate::core::WRITE_QUORUM;
use crate::log::record::Fields;
use crate::lsn::Lsn;
use crate::volume::append::NotAppended;
use crate::volume::checkpoint::{Checkpoint, Step};
use crate::volume::error::WriteError;
use crate::volume::options::NEVER;
use crate::volume::shared::{AGAIN, Shared};
use crate::volume::tickets::Ended;
use crate::volume::wake::SOON;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// While a checkpoint waits.
const CHECKPOINT: Duration = Duration::from_millis(2);

/// Who waits for room waits for tail files to be merged: after the first time it is tried again so soon.
const MERGE_ASKED: Duration = Duration::from_secs(1);

/// Commits were made within this time: a checkpoint gives way.
const ACTIVE: Duration = Duration::from_millis(100);
/// ... and what it appends beside them is durable before more follows, but for so much.
const BESIDE: u64 = 32 << 10;

/// A panic here is a defect, and nobody is to wait for what is done no more.
struct Ends<'a>(&'a Shared);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "a defect: its background thread panicked; open it again, and report what was printed";
            self.0.tickets.end(Ended::Stalled(why.into()));
            self.0.after_pump();
        }
    }
}

/// Runs until the volume stops it.
pub(crate) fn run(shared: &Arc<Shared>) {
    let _ends = Ends(shared);
    loop {
        let begun = shared.background.begun();
        let most = shared.housekeep();
        if !shared.background.sleep(most, begun) {
            return;
        }
    }
}

impl Shared {
    /// Does what is due. Returns how long nothing else will be; none if nothing waits for time.
    pub fn housekeep(&self) -> Option<Duration> {
        let now = self.clock.now();
        let (next_tick, busy) = {
            let mut engine = self.engine();
            self.hand_over_wounds(&mut engine);
            engine.tick(now);
            self.reads.pages.reader.ask_only_last(engine.asked_last());
            (engine.next_tick(), engine.is_busy())
        };
        self.after_pump();
        let told = self.tell();
        let views = self.bound_views(now);
        if self.checkpoint_is_due() {
            self.begin_checkpoint();
        }
        let checkpoint = self.drive_checkpoint();
        if self.tickets.is_over() {
            return None;
        }
        let merge = self.merge_tails(now);
        let reclaim = self.reclaim(now);
        let scrub = self.engine().pace_scrub(self.clock.wall_us(), self.options.scrub_period);
        let mut due = vec![merge, next_tick.map(|t| t.saturating_sub(now)), scrub];
        // Commits that nobody waits for may be left to this thread: while there are commits it looks about.
        due.push(self.speak_for_the_last(now).map(|d| d.min(SOON)));
        due.push(reclaim);
        due.push(views);
        due.push(checkpoint.then_some(CHECKPOINT));
        due.push((busy || !told).then_some(SOON));
        // A task that waits runs no engine.
        due.push(self.tickets.any().then_some(AGAIN));
        due.into_iter().flatten().min().map(|d| d.max(Duration::from_millis(1)))
    }

    /// Begins a checkpoint, unless one is under way.
    pub fn begin_checkpoint(&self) {
        let mut running = self.checkpoint.lock();
        if running.is_none() {
            *running = Checkpoint::begin(self);
        }
    }

    /// Takes a checkpoint as far as it goes. True while one is under way.
    pub fn drive_checkpoint(&self) -> bool {
        let mut running = self.checkpoint.lock();
        let Some(checkpoint) = running.as_mut() else { return false };
        // Bounded: the rest comes with the next turn.
        for _ in 0..512 {
            match checkpoint.step(self) {
                // Commits that come now are to wait for no more than this.
                Ok(Step::More) if self.gives_way() && self.front.tail() > self.tickets.vdl() + BESIDE => {
                    self.pump_soon();
                    return true;
                }
                Ok(Step::More) => (),
                Ok(Step::Wait) => return true,
                Ok(Step::Done) => {
                    *running = None;
                    drop(running);
                    self.progress.moved();
                    return false;
                }
                // The volume ended: there is nothing to finish.
                Err(WriteError::ReadOnly(_) | WriteError::Closed) => return false,
                // A node of the old table has no good copy: the frozen layer stays, and the next turn tries again.
                Err(_) => {
                    self.checkpoint_errors.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
            }
        }
        true
    }

    /// Commits are being made, and the checkpoint under way is not late: the next one is not due yet.
    fn gives_way(&self) -> bool {
        let last = Duration::from_micros(self.last_commit_us.load(Ordering::Relaxed));
        let active = !last.is_zero() && self.clock.now() < last + ACTIVE;
        let log = self.front.published().0.saturating_sub(self.redo_from.load(Ordering::Relaxed));
        let late = log > 2 * self.options.checkpoint_bytes || self.overlay_is_full();
        active && !late && !self.rewinding.is_on() && !self.reads.closed.load(Ordering::SeqCst)
    }

    fn checkpoint_is_due(&self) -> bool {
        if self.tickets.is_over() || self.reads.closed.load(Ordering::SeqCst) {
            return false;
        }
        let map = self.reads.pages.map();
        let log = self.front.published().0.saturating_sub(self.redo_from.load(Ordering::Relaxed));
        let pages = map.current.pages() > 0;
        pages && (log > self.options.checkpoint_bytes || map.current.bytes() > self.options.overlay_bytes / 2)
            || self.has_many_epochs()
    }

    /// More epochs have begun since redo than a superblock should tell of: a checkpoint's manifest does.
    pub fn has_many_epochs(&self) -> bool {
        let entries = self.engine().history.since(Lsn(self.redo_from.load(Ordering::Relaxed))).len();
        entries > crate::segment::superblock::ENTRIES_MAX / 2
    }

    /// Merges what recovery left, once every earlier process is gone. Returns how long until that is tried.
    fn merge_tails(&self, now: Duration) -> Option<Duration> {
        let asked = self.options.reclaim && self.is_asked_for_space();
        let mut merge = self.merge.lock();
        let unused = (*merge)?;
        let from = self.opened_at + self.options.merge_after;
        // Also who has no room waits so long: what a killed process has in flight may land until then.
        if now < from {
            return Some(from - now);
        }
        let gone = (self.earlier_gone)() || planted(Bug::MergeBesideZombie);
        if gone && self.engine().merge(unused, now) {
            *merge = None;
            return None;
        }
        Some(if asked { MERGE_ASKED.min(self.options.merge_after) } else { self.options.merge_after })
    }

    /// After idleness a filler follows, so that the last commit, too, has a later record that speaks for it. Returns
    /// how long until then.
    fn speak_for_the_last(&self, now: Duration) -> Option<Duration> {
        let (vdl, appended) = (self.tickets.vdl(), self.appended());
        if self.spoken_for.load(Ordering::Relaxed) >= appended.0 {
            return None;
        }
        let last = Duration::from_micros(self.last_commit_us.load(Ordering::Relaxed));
        let idle_at = last.saturating_add(self.options.idle_after);
        if now < idle_at {
            return Some(idle_at - now);
        }
        let live = self.engine().writer.live().len();
        if vdl < appended || live < WRITE_QUORUM {
            return Some(self.options.idle_after);
        }
        match self.append_filler() {
            Ok(_) => None,
            Err(_) => Some(self.options.idle_after),
        }
    }

    /// A filler that ends an MTR of its own.
    pub fn append_filler(&self) -> Result<Lsn, WriteError> {
        let filler = || self.prepare_table(vec![(Fields::filler(), Bytes::new())]);
        match filler() {
            Ok(prepared) => {
                let end = self.finish(prepared);
                self.spoken_for.store(end.0, Ordering::Relaxed);
                self.pump();
                Ok(end)
            }
            Err(NotAppended::Wrong(e)) => Err(e),
            Err(_) => Err(WriteError::ReadOnly("no room for a filler now".into())),
        }
    }

    /// Revokes views that are too old, and the oldest ones while they hold more memory than the overlay may take, or keep
    /// more from being given back than they may. Returns how long until one is too old.
    fn bound_views(&self, now: Duration) -> Option<Duration> {
        if !self.views_are_timed.load(Ordering::SeqCst) {
            return None;
        }
        // Whoever takes one from now on is not too old before this is over.
        let in_time = Some(self.options.view_time).filter(|time| *time < NEVER);
        let views = self.reads.views.lock().oldest();
        if views.is_empty() {
            return in_time;
        }
        let (old, views): (Vec<_>, Vec<_>) =
            views.into_iter().partition(|view| now.saturating_sub(view.since()) >= self.options.view_time);
        old.iter().for_each(|view| self.reads.revoke(view));
        // One at a time: what it held goes before the next is asked.
        if self.reclaim.lock().held_by_views() > self.options.view_bytes
            && let Some(oldest) = views.first()
        {
            self.reads.revoke(oldest);
        }
        let map = self.reads.pages.map();
        let mut seen: Vec<*const crate::page::overlay::Layer> = vec![Arc::as_ptr(&map.current)];
        seen.extend(map.frozen.as_ref().map(Arc::as_ptr));
        let mut held = 0;
        // Newest first: what is left when the limit is passed is the oldest.
        for view in views.iter().rev() {
            let Some(layers) = view.map() else { continue };
            for layer in layers.frozen.iter().chain([&layers.current]) {
                if !seen.contains(&Arc::as_ptr(layer)) {
                    seen.push(Arc::as_ptr(layer));
                    held += layer.bytes();
                }
            }
            if held > self.options.overlay_bytes {
                self.reads.revoke(view);
            }
        }
        // Versions that only views keep make the current layer grow without new pages.
        if map.current.bytes() > 2 * self.options.overlay_bytes
            && let Some(oldest) = views.first()
        {
            self.reads.revoke(oldest);
        }
        let oldest = views.iter().map(|view| view.since()).min();
        in_time.map(|time| oldest.map_or(time, |oldest| (oldest + time).saturating_sub(now)))
    }
}
