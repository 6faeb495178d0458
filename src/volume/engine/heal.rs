//! Carrying out what `repair` plans: frames are read by the slots' workers, judged here, and mended after a look.

use crate::bugs::{Bug, planted};
use crate::core::gaps::Gap;
use crate::core::vote::Join;
use crate::disk::job::{Job, JobKind};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use crate::reclaim::freed::Freed;
use crate::repair::frame::Copy;
use crate::repair::judge::{self, Verdict};
use crate::repair::plan::{self, Plan, Situation, Unit, Why};
use crate::segment::superblock::ScrubMark;
use crate::volume::engine::Engine;
use crate::volume::event::Event;
use crate::volume::health::RepairHealth;
use std::collections::VecDeque;
use std::time::Duration;

/// A slot that does not answer within this time is done without, for this frame.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Superblocks tell of gaps that have changed at most so often.
const MARKS_EVERY: Duration = Duration::from_secs(1);
/// A slot that could not be read is not read again before.
const UNREADABLE_FOR: Duration = Duration::from_secs(2);
/// A slot without room for what it lacks is not filled before.
const NO_ROOM_FOR: Duration = Duration::from_secs(5);
/// Superblocks are told again after so much was filled.
const MARKS_BYTES: u64 = 1 << 30;

/// A part that is being read or mended.
struct Working {
    unit: Unit,
    /// Slots that have not answered yet.
    waiting: SlotSet,
    /// Slots that were asked.
    asked: SlotSet,
    /// Slots that did not do it.
    failed: SlotSet,
    copies: [Option<Copy>; SLOTS],
    verdict: Verdict,
    until: Duration,
}

/// What is under way.
pub struct Healing {
    pub plan: Plan,
    reading: Option<Working>,
    mending: Option<Working>,
    /// It waits for a look.
    looks: bool,
    /// Slots that could not be read, until then.
    unreadable_until: [Duration; SLOTS],
    /// Slots that have no room for what they lack, until then.
    no_room_until: [Duration; SLOTS],
    /// Gaps have changed since superblocks told of them.
    untold: bool,
    told_at: Duration,
    filled_since: u64,
    /// Their join points are being removed.
    pub ending: SlotSet,
    /// Earlier processes' tail files are merged on every slot, and nothing of theirs can land any more.
    pub drained: bool,
    /// Superblocks are still to be looked at by the scrub.
    marks: SlotSet,
    /// What was to be looked at when healing began, and how long it has taken.
    total: u64,
    since: Option<Duration>,
    /// There was nothing to begin when it was looked for last.
    stuck: bool,
    /// Slots that are away, and could not be brought back.
    pub tried: SlotSet,
}

impl Healing {
    pub fn new(share: u32, mark: ScrubMark) -> Healing {
        Healing {
            plan: Plan::new(share, mark),
            reading: None,
            mending: None,
            looks: false,
            unreadable_until: [Duration::ZERO; SLOTS],
            no_room_until: [Duration::ZERO; SLOTS],
            untold: false,
            told_at: Duration::ZERO,
            filled_since: 0,
            ending: SlotSet::NONE,
            drained: false,
            marks: SlotSet::NONE,
            total: 0,
            since: None,
            stuck: false,
            tried: SlotSet::NONE,
        }
    }

    /// What could not be made whole is tried again with it.
    pub fn slot_is_back(&mut self) {
        self.plan.unpark();
        self.untold = true;
    }

    /// What the slot lacks is tried again after a while.
    pub fn no_room(&mut self, slot: Slot, now: Duration) {
        self.no_room_until[slot.index()] = now + NO_ROOM_FOR;
    }

    fn is_at_work(&self) -> bool {
        self.reading.is_some() || self.mending.is_some()
    }
}

impl Engine {
    /// Goes on with healing as far as nothing has to be waited for. True if something moved.
    pub(super) fn heal(&mut self, now: Duration) -> bool {
        if self.tickets.ended().is_some() {
            return false;
        }
        self.healing.plan.saw_tail(self.front.tail(), now);
        let mut moved = self.give_up_waiting(now);
        if self.healing.mending.as_ref().is_some_and(|w| w.waiting.len() == 0 && !self.healing.looks) {
            self.mending_ended(now);
            moved = true;
        }
        if self.healing.mending.is_none() && self.healing.reading.as_ref().is_some_and(|w| w.waiting.len() == 0) {
            self.reading_ended(now);
            moved = true;
        }
        // A look that came to nothing is begun anew.
        if self.healing.looks && self.asking.is_none() && self.looking.is_none() {
            self.waiting.mend = true;
        }
        let alone = self.healing.plan.gives_way(now) && self.healing.mending.is_some();
        if self.healing.reading.is_none() && !self.closing && !alone {
            moved |= self.begin_unit(now);
        }
        self.end_joins();
        self.tell_superblocks(now);
        self.check_marks();
        moved
    }

    /// When healing has something to do next; none if nothing waits for time.
    pub(super) fn heal_at(&self) -> Option<Duration> {
        if self.tickets.ended().is_some() {
            return None;
        }
        let h = &self.healing;
        let waiting = [&h.reading, &h.mending].into_iter().flatten().map(|w| w.until).min();
        let rest = (!self.closing && self.wants_healing()).then(|| h.plan.due(self.now)).flatten();
        let tell = (h.untold && !self.closing).then_some(h.told_at + MARKS_EVERY);
        // Slots that could not be read are asked again.
        let shut = h.unreadable_until.iter().chain(&h.no_room_until);
        let unreadable = shut.filter(|at| **at > self.now).min().copied();
        let unreadable = unreadable.filter(|_| self.wants_healing());
        [waiting, rest, tell, unreadable].into_iter().flatten().min()
    }

    fn wants_healing(&self) -> bool {
        let gaps = self.writer.live().iter().any(|s| !self.writer.past_gaps(s).is_empty());
        let plan = &self.healing.plan;
        let unchecked = !self.unchecked.is_empty() && self.is_quiet();
        plan.has_wounds() || !plan.paused && (gaps || unchecked || plan.scrub_left().is_some())
    }

    fn begin_unit(&mut self, now: Duration) -> bool {
        let busy = |s: &Slot| {
            let jobs = &self.jobs[s.index()].0;
            jobs[JobKind::Copy as usize] || now < self.healing.unreadable_until[s.index()]
        };
        let able: SlotSet = self.writer.live().iter().filter(|s| !busy(s)).collect();
        // Every commit comes by here.
        if !self.wants_healing() {
            (self.healing.since, self.healing.stuck) = (None, able == self.writer.live());
            return false;
        }
        let mut nothing = Vec::new();
        // Nothing is checked while something of an earlier process can still land there.
        let unchecked = if self.is_quiet() { self.unchecked } else { Gap::NONE };
        let in_hand = self.healing.mending.as_ref().map(|w| &w.unit);
        let room = |s: &Slot| now >= self.healing.no_room_until[s.index()];
        let fillable = able.iter().filter(room).collect();
        let situation =
            Situation { history: &self.freeing.kept, writer: &self.writer, unchecked, able, fillable, in_hand, now };
        let rounds = self.healing.plan.rounds;
        let unit = self.healing.plan.next(&situation, &mut nothing);
        let moved = !nothing.is_empty() || unit.is_some();
        self.healing.stuck = !moved && able == self.writer.live();
        for (slot, gap) in nothing {
            self.filled(slot, gap);
        }
        if self.healing.plan.rounds > rounds {
            self.events.push(Event::Scrubbed);
            self.healing.untold = true;
        }
        let Some(unit) = unit else {
            self.healing.since = None;
            return moved;
        };
        if self.healing.since.is_none() {
            (self.healing.since, self.healing.total) = (Some(now), self.healing_left());
        }
        let read = unit.read;
        self.healing.reading = Some(Working {
            waiting: SlotSet::NONE,
            asked: SlotSet::NONE,
            failed: SlotSet::NONE,
            copies: [const { None }; SLOTS],
            verdict: Verdict::default(),
            until: now + ANSWER_MAX,
            unit,
        });
        self.read(read);
        true
    }

    /// Asks slots for what they have of the part.
    fn read(&mut self, slots: SlotSet) {
        let Some(working) = &mut self.healing.reading else { return };
        working.asked = working.asked.union(slots);
        working.waiting = slots;
        let unit = working.unit.clone();
        for slot in slots.iter() {
            let (keep, flush) = (unit.keep.contains(slot), unit.counts(slot) && !planted(Bug::CheckUnflushed));
            self.give(slot, Job::Copy { part: unit.part.clone(), geometry: self.geometry, keep, flush });
        }
    }

    /// A slot has answered.
    pub(super) fn copied(&mut self, slot: Slot, at: Lsn, copy: Option<Copy>) {
        if copy.is_none() {
            self.healing.unreadable_until[slot.index()] = self.now + UNREADABLE_FOR;
        }
        let Some(working) = &mut self.healing.reading else { return };
        if !working.waiting.contains(slot) || copy.is_some() && working.unit.part.from != at {
            return;
        }
        working.waiting = working.waiting.without(slot);
        match copy {
            Some(copy) => working.copies[slot.index()] = Some(copy),
            None => working.failed.insert(slot),
        }
    }

    /// All have answered: is it whole, is more to be asked, what is to be copied?
    fn reading_ended(&mut self, now: Duration) {
        let Some(mut working) = self.healing.reading.take() else { return };
        let verdict = judge::judge(&working.unit.part, &working.copies, &working.unit.limits);
        let idle = |s: &Slot| !self.jobs[s.index()].0[JobKind::Copy as usize];
        let others: SlotSet = self.writer.live().minus(working.asked).iter().filter(idle).collect();
        let lacks = !verdict.is_complete() || working.unit.why == Why::Fill && self.lacks_elsewhere(&working, &verdict);
        if working.unit.is_survey() && (lacks || !verdict.suffices()) {
            self.healing.plan.look_closely(&working.unit);
            return;
        }
        if lacks && others.len() > 0 {
            self.healing.reading = Some(working);
            self.read(others);
            return;
        }
        working.verdict = verdict;
        self.healing.looks = working.verdict.mended().len() > 0;
        self.healing.mending = Some(working);
        if !self.healing.looks {
            self.mending_ended(now);
        } else if planted(Bug::MendWithoutLook) {
            self.mend_now();
        }
    }

    /// A slot that was read as the source lacks something itself.
    fn lacks_elsewhere(&self, working: &Working, verdict: &Verdict) -> bool {
        verdict.mended().minus(working.unit.targets).len() > 0
    }

    /// The look was clear: slots that are still live get what they lack.
    pub(super) fn mend_now(&mut self) {
        if !std::mem::take(&mut self.healing.looks) {
            return;
        }
        let live = self.writer.live();
        let Some(mut working) = self.healing.mending.take() else { return };
        for slot in working.verdict.mended().iter() {
            let pieces = std::mem::take(&mut working.verdict.mends[slot.index()]);
            if !live.contains(slot) || self.jobs[slot.index()].0[JobKind::Mend as usize] {
                working.failed.insert(slot);
                continue;
            }
            working.waiting.insert(slot);
            self.give(slot, Job::Mend { pieces, geometry: self.geometry, epoch: self.number });
        }
        working.until = self.now + ANSWER_MAX;
        self.healing.mending = Some(working);
    }

    /// A slot has got what it lacked, or not.
    pub(super) fn mended(&mut self, slot: Slot, bytes: Option<u64>) {
        let Some(working) = &mut self.healing.mending else { return };
        if !working.waiting.contains(slot) {
            return;
        }
        working.waiting = working.waiting.without(slot);
        match bytes {
            Some(bytes) if bytes > 0 => self.events.push(Event::Mended { slot, lsn: working.unit.part.from, bytes }),
            Some(_) => (),
            None => working.failed.insert(slot),
        }
    }

    fn mending_ended(&mut self, now: Duration) {
        let Some(working) = self.healing.mending.take() else { return };
        let unit = &working.unit;
        for d in &working.verdict.differs {
            self.events.push(Event::Differs { lsn: d.at, slots: d.slots });
        }
        for gap in &working.verdict.nowhere {
            self.events.push(Event::NoCopy { lsn: gap.from, end: gap.to });
        }
        let complete = working.verdict.is_complete();
        if !complete {
            // One that did not answer may have it.
            let answered = |s: &Slot| working.copies[s.index()].is_some() || planted(Bug::ParkedBySilence);
            self.healing.plan.park(&unit.part, working.asked.iter().filter(answered).collect());
        }
        // Who was live all the time, was read, and has everything now.
        let live = self.writer.live();
        for slot in Slot::ALL {
            let failed = working.failed.contains(slot) && !planted(Bug::SilenceFills);
            let read = working.copies[slot.index()].is_some() && !failed && live.contains(slot);
            // Beyond its limit nothing was looked for. One that was away had none: what it has now may be bad up to its end.
            let limit = Some(unit.limits[slot.index()]).filter(|to| !to.is_none() || planted(Bug::AwayForgotten));
            let to = unit.stretch.to.min(limit.or(self.writer.cursor(slot)).unwrap_or(Lsn::MAX));
            // What a reader needs, and a scrub, is read from caches as well.
            let counts = unit.counts(slot) || planted(Bug::WoundFills) && unit.targets.contains(slot);
            if read && complete && counts {
                self.filled(slot, Gap { from: unit.stretch.from, to });
            } else if matches!(unit.why, Why::Check | Why::Scrub) && !(read && complete) {
                // What the others have is known, and it was not read with them.
                let asked = working.asked.contains(slot) || planted(Bug::ScrubForgets);
                if unit.why == Why::Check || working.failed.contains(slot) || !asked {
                    self.writer.suspect(slot, Gap { from: unit.part.from, to });
                }
            }
        }
        if unit.why == Why::Check {
            let from = unit.stretch.to.max(self.unchecked.from);
            self.unchecked = Gap { from, to: self.unchecked.to };
            if self.unchecked.is_empty() {
                self.unchecked = Gap::NONE;
                self.healing.untold = true;
            }
        }
        self.healing.plan.ended(unit, now);
    }

    /// The slot has left. What was read of it says nothing of what comes back in its place.
    pub(super) fn forget_copies(&mut self, slot: Slot) {
        if planted(Bug::CopiesKeptOnLeave) {
            return;
        }
        for working in [&mut self.healing.reading, &mut self.healing.mending].into_iter().flatten() {
            working.waiting = working.waiting.without(slot);
            working.failed.insert(slot);
            working.copies[slot.index()] = None;
        }
    }

    /// Slots that have left, or do not answer in time, are not waited for.
    fn give_up_waiting(&mut self, now: Duration) -> bool {
        let live = self.writer.live();
        let mut moved = false;
        for working in [&mut self.healing.reading, &mut self.healing.mending].into_iter().flatten() {
            let late = if now >= working.until { working.waiting } else { working.waiting.minus(live) };
            moved |= late.len() > 0;
            working.failed = working.failed.union(late);
            working.waiting = working.waiting.minus(late);
        }
        moved
    }

    /// No slot that is live can get late writes of earlier processes any more.
    pub fn is_quiet(&self) -> bool {
        self.healing.drained || self.writer.live().minus(self.merged).len() == 0 || planted(Bug::WholeUndrained)
    }

    /// The slot has everything of a stretch.
    fn filled(&mut self, slot: Slot, gap: Gap) {
        // A late write may meet a power cut, and take with it what was copied: it is read once more when none can come.
        if !self.is_quiet() && self.writer.past_gaps(slot).touches(gap.from, gap.to) {
            self.unchecked = self.unchecked.hull(gap);
        }
        let before = self.writer.past_gaps(slot).is_empty();
        self.writer.filled(slot, gap);
        if before || gap.is_empty() {
            return;
        }
        self.healing.filled_since += plan::bytes_in(&self.freeing.kept, gap);
        if self.writer.past_gaps(slot).is_empty() {
            self.healing.untold = true;
            if self.superblocks[slot.index()].join == Join::Founder {
                self.events.push(Event::SlotWhole { slot });
            }
        }
        if self.healing.filled_since >= MARKS_BYTES {
            self.healing.untold = true;
        }
    }

    /// Bytes of log that a slot lacks, or that have to be looked at on it.
    pub(super) fn lacking(&self, slot: Slot) -> u64 {
        self.writer.gaps(slot).iter().map(|g| plan::bytes_in(&self.freeing.kept, *g)).sum()
    }

    /// Slots without a gap give up their join points: from now on their silence counts. Only once nothing of an earlier
    /// process can spoil what was copied.
    fn end_joins(&mut self) {
        if !self.unchecked.is_empty() || self.closing || !self.is_quiet() {
            return;
        }
        for slot in self.writer.live().iter() {
            let joined = self.superblocks[slot.index()].join != Join::Founder;
            let whole = self.writer.past_gaps(slot).is_empty() || planted(Bug::WholeWithGaps);
            // While its superblock is being written a look would be of no use.
            let free = !self.jobs[slot.index()].0[JobKind::Super as usize];
            if joined && whole && free && self.asking.is_none() && self.looking.is_none() {
                self.waiting.whole.insert(slot);
            }
        }
    }

    /// The look was clear.
    pub(super) fn end_join(&mut self, slot: Slot) {
        let free = !self.jobs[slot.index()].0[JobKind::Super as usize];
        let whole = self.writer.past_gaps(slot).is_empty() || planted(Bug::WholeWithGaps);
        if free && self.writer.live().contains(slot) && whole {
            let superblock = Box::new(self.superblock(slot));
            self.healing.ending.insert(slot);
            self.give(slot, Job::Super { superblock, whole: true });
        }
    }

    pub(super) fn whole_done(&mut self, slot: Slot) {
        if self.healing.ending.contains(slot) {
            self.healing.ending = self.healing.ending.without(slot);
            self.superblocks[slot.index()].join = Join::Founder;
            self.events.push(Event::SlotWhole { slot });
        }
    }

    /// Superblocks tell of gaps that have changed.
    fn tell_superblocks(&mut self, now: Duration) {
        if !self.healing.untold || now < self.healing.told_at + MARKS_EVERY || self.closing {
            return;
        }
        if self.writes_superblocks() || self.round.is_some() && self.round().is_none() {
            self.healing.told_at = now;
            return;
        }
        (self.healing.untold, self.healing.told_at, self.healing.filled_since) = (false, now, 0);
        for slot in self.writer.live().iter() {
            let superblock = Box::new(self.superblock(slot));
            self.give(slot, Job::Super { superblock, whole: false });
        }
    }

    /// The scrub looks at superblocks and claims, too.
    fn check_marks(&mut self) {
        if self.closing {
            return;
        }
        for slot in self.healing.marks.and(self.writer.live()).iter() {
            let jobs = &self.jobs[slot.index()].0;
            if !jobs[JobKind::Super as usize] && !jobs[JobKind::Marks as usize] {
                self.healing.marks = self.healing.marks.without(slot);
                let superblock = Box::new(self.superblock(slot));
                self.give(slot, Job::Marks(superblock));
            }
        }
    }

    pub(super) fn marks_checked(&mut self, slot: Slot, wrong: bool) {
        if wrong {
            self.events.push(Event::SuperblockMended { slot });
        }
    }

    /// Whether tail files are merged, and nothing of an earlier process can land any more.
    pub fn is_drained(&mut self, drained: bool) {
        self.healing.drained = drained;
    }

    /// Slots that are read only when no other has a good copy: away, or with a gap.
    pub fn asked_last(&self) -> SlotSet {
        let last = |s: &Slot| self.writer.away(*s).is_some() || !self.writer.past_gaps(*s).is_empty();
        Slot::ALL.into_iter().filter(last).collect()
    }

    /// What was found and mended, and is still to be.
    pub fn repair_health(&self) -> RepairHealth {
        let (h, counts) = (&self.healing, &self.events.counts);
        let left = self.healing_left();
        let done = h.total.max(left) - left;
        let took = h.since.map_or(Duration::ZERO, |since| self.now.saturating_sub(since));
        let per_second = if took.is_zero() { 0 } else { (done as f64 / took.as_secs_f64()) as u64 };
        RepairHealth {
            busy: self.wants_healing() || h.is_at_work(),
            paused: h.plan.paused,
            bytes_left: left,
            bytes_done: done,
            bytes_per_second: per_second,
            left: (per_second > 0).then(|| Duration::from_secs(left / per_second)),
            unchecked: self.unchecked,
            mends: counts.mends,
            mended_bytes: counts.mended_bytes,
            superblocks_mended: counts.superblocks,
            differences: counts.differs,
            unmendable: h.plan.parked(),
            scrub_at: h.plan.mark.at,
            scrubs: h.plan.rounds,
            events_untold: counts.untold,
        }
    }

    /// What happened since it was asked for last.
    pub fn has_events(&self) -> bool {
        self.events.any()
    }

    pub fn take_events(&mut self) -> VecDeque<Event> {
        self.events.take()
    }

    /// A reader met a bad copy.
    pub fn wound(&mut self, lsn: Lsn) {
        self.healing.plan.wound(lsn);
        self.events.push(Event::BadCopy { lsn });
    }

    /// Everything is compared now.
    pub fn scrub_now(&mut self, wall_us: u64) {
        self.healing.plan.scrub_now(self.writer.vdl_group(), wall_us);
        self.healing.marks = SlotSet::ALL;
    }

    /// The scrub at its pace. Returns how long until it goes on.
    pub fn pace_scrub(&mut self, wall_us: u64, period: Duration) -> Option<Duration> {
        if self.closing || self.tickets.ended().is_some() || self.healing.plan.paused {
            return None;
        }
        let at = self.healing.plan.mark.at;
        let wait = self.healing.plan.pace(&self.freeing.kept, self.writer.vdl_group(), wall_us, period);
        if wait.is_zero() && at.is_none() {
            self.healing.marks = SlotSet::ALL;
        }
        Some(wait)
    }

    /// Healing stops until it is let go on; what readers find wrong is mended all the same.
    pub fn pause_healing(&mut self, paused: bool) {
        self.healing.plan.paused = paused;
    }

    /// A part of what was given back is being read or mended: it was begun before.
    pub(super) fn heals_in(&self, freed: &Freed) -> bool {
        let h = &self.healing;
        let at_work = [&h.reading, &h.mending].into_iter().flatten();
        at_work.map(|w| &w.unit.part).any(|part| freed.touches(part.from, part.to))
    }

    /// Slots that have such a job.
    fn at_work(&self, kind: JobKind) -> SlotSet {
        Slot::ALL.into_iter().filter(|s| self.jobs[s.index()].0[kind as usize]).collect()
    }

    /// Bytes that are still to be looked at, slot by slot.
    pub fn healing_left(&self) -> u64 {
        let gaps: u64 = self.writer.live().iter().map(|s| self.lacking(s)).sum();
        let live = self.writer.live().len() as u64;
        let scrub = self.healing.plan.scrub_left().unwrap_or(Gap::NONE);
        gaps + live * (plan::bytes_in(&self.freeing.kept, self.unchecked) + plan::bytes_in(&self.freeing.kept, scrub))
    }

    /// True once nothing is left to be healed, on all slots in reach; false if what is left has no good copy in reach. None
    /// while it is under way, or a slot has left and was not tried again yet.
    pub fn healed(&self) -> Option<bool> {
        let h = &self.healing;
        let live = self.writer.live();
        let untried = SlotSet::ALL.minus(live).minus(h.tried);
        let marks = h.marks.union(self.at_work(JobKind::Marks)).and(live).len() > 0 && !planted(Bug::MarksUnheard);
        if h.is_at_work() || h.plan.has_wounds() || h.plan.is_urgent() || h.untold || marks || untried.len() > 0 {
            return None;
        }
        let joined = |s: Slot| self.superblocks[s.index()].join != Join::Founder;
        let whole = |s: Slot| self.writer.past_gaps(s).is_empty();
        if self.unchecked.is_empty() && live.iter().all(|s| whole(s) && !joined(s)) {
            return Some(true);
        }
        let stuck = h.stuck && h.plan.parked() > 0 && !h.plan.paused && self.unchecked.is_empty();
        stuck.then_some(false)
    }

    /// What keeps it from being healed, in words.
    #[cfg(feature = "sim")]
    pub fn told(&self) -> String {
        let h = &self.healing;
        let gaps: Vec<_> = Slot::ALL.iter().map(|s| self.writer.gaps(*s)).collect();
        let joins: Vec<_> = self.superblocks.iter().map(|s| s.join).collect();
        let (live, drained, at_work) = (self.writer.live(), h.drained, h.is_at_work());
        let (wounds, urgent, untold, parked) = (h.plan.has_wounds(), h.plan.is_urgent(), h.untold, h.plan.parked());
        let (unchecked, to) = (self.unchecked, self.writer.vdl_group());
        let cursors: Vec<_> = Slot::ALL.iter().map(|s| self.writer.cursor(*s).map(|c| c.0)).collect();
        format!(
            "to {to}, cursors {cursors:?}, live {live:?}, gaps {gaps:?}, joins {joins:?}, unchecked {unchecked:?}, drained {drained}, at work {at_work}, \
             wounds {wounds}, scrub {urgent}, untold {untold}, parked {parked}"
        )
    }
}
