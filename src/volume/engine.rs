//! The writer's engine: what appends published becomes writes, completions become VCL and VDL. It never blocks.
//!
//! Decisions are the core's ([`Writer`]); here they meet the ring, the disk and the tickets. Whoever has something for
//! it calls [`Engine::pump`] under its lock: a committing thread, a slot's worker, the background, or the simulator.

pub mod freeing;
mod heal;
mod replace;
mod zeroing;

use crate::bugs::{Bug, planted};
use crate::core::WRITE_QUORUM;
use crate::core::gaps::Gap;
use crate::core::history::History;
use crate::core::vote::Join;
use crate::core::writer::{Away, Look, Writer};
use crate::disk::job::{self, Job, JobKind, Output, Returned};
use crate::disk::{Disk, Done, LogWrite, SPACE_LEAST};
use crate::log::append::Front;
use crate::log::ring;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::reclaim::freed::Freed;
use crate::segment::share;
use crate::segment::superblock::{Geometry, Superblock};
use crate::spans;
use crate::sync::Arc;
use crate::volume::append::left;
use crate::volume::engine::freeing::Freeing;
use crate::volume::engine::heal::Healing;
use crate::volume::engine::zeroing::Zeroing;
use crate::volume::event::{Event, Events};
use crate::volume::options::Options;
use crate::volume::tickets::{Ended, Tickets};
use std::io;
use std::time::Duration;

/// The first stretch of space taken ahead of the tail, and the most.
const SPACE_FIRST: u64 = SPACE_LEAST;
const SPACE_MOST: u64 = format::EXTENT;
/// Pauses between attempts to bring a slot back.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// For a slot whose directory is gone: a blank disk in its place is seen within seconds.
const ABSENT_MOST: Duration = Duration::from_secs(2);
/// A slot that has been well for so many pauses begins with the first one again.
const STEADY: u32 = 10;
/// Looks at a stall until it is one.
const STALL_LOOKS: u32 = 16;

/// VCL does not move.
struct Stall {
    at: Lsn,
    /// For so long, as far as the process was there to see: one that was stopped meanwhile has missed nothing yet.
    seen: Duration,
    last: Duration,
}

/// A superblock version that is being written to the slots.
struct Round {
    waiting: SlotSet,
    written: SlotSet,
}

/// What is outstanding to a slot's worker, one of a kind at most.
#[derive(Clone, Copy, Default)]
struct Outstanding([bool; JobKind::COUNT]);

impl Outstanding {
    fn of(&mut self, kind: JobKind) -> &mut bool {
        &mut self.0[kind as usize]
    }
}

/// What, like VDL, is acted on only after a look that was begun later.
#[derive(Default)]
struct Deeds {
    /// Slots that are to come back: a zombie must not format what its successor has claimed, and then take it for a voter.
    returning: SlotSet,
    /// Tail files are to be merged, and these addresses to be given back.
    merge: Option<(Lsn, Lsn)>,
    /// What a slot lacks is to be put there.
    mend: bool,
    /// Slots whose join points are to go.
    whole: SlotSet,
    /// What a manifest gave back is to be punched.
    free: bool,
}

impl Deeds {
    fn any(&self) -> bool {
        self.returning.len() > 0 || self.merge.is_some() || self.mend || self.whole.len() > 0 || self.free
    }
}

/// A look that asks the slots' workers.
struct Asking {
    quorum: Lsn,
    claims: [Option<u64>; SLOTS],
    /// Whose answers are to this look: another's may be older than the quorum.
    asked: SlotSet,
}

pub struct Engine {
    pub writer: Writer,
    front: Arc<Front>,
    tickets: Arc<Tickets>,
    disk: Box<dyn Disk>,
    geometry: Geometry,
    number: u64,
    pub history: History,
    /// What each slot's next superblock says, but for what the writer knows.
    superblocks: Vec<Superblock>,
    /// What each slot's disk said last when it did not do what it was asked for; nothing once it is back.
    faults: [Option<String>; SLOTS],
    jobs: [Outstanding; SLOTS],
    round: Option<Round>,
    asking: Option<Asking>,
    looking: Option<Lsn>,
    /// No look before: the last one met fewer than three voters.
    look_at: Duration,
    /// Waits for a look that is still to be begun.
    waiting: Deeds,
    /// The look that is under way answers for it.
    vouched: Deeds,
    /// Space is taken up to here on every slot.
    target: Lsn,
    zeroing: Zeroing,
    step: u64,
    stretched: Duration,
    full: SlotSet,
    /// What a slot is asked for at once: less and less where its disk fills up, so that the last of it is used, too.
    ask: [u64; SLOTS],
    /// Claims and superblocks of epochs below are of no use any more.
    needless: u64,
    /// Slots on which removing that failed: it is tried again after their next superblock.
    untidy: SlotSet,
    /// Slots whose tail files are merged.
    merged: SlotSet,
    healing: Healing,
    pub freeing: Freeing,
    /// No slot was read for it since a writer died.
    unchecked: Gap,
    /// Their directories are being replaced: they do not come back meanwhile.
    held: SlotSet,
    /// What their worker is just bringing back is not their directory any more.
    outdated: SlotSet,
    /// A slot that was lost, or failed, may come back with an older state.
    doubted: SlotSet,
    retry_at: [Duration; SLOTS],
    pause: [Duration; SLOTS],
    /// When the slot came back last.
    back_at: [Option<Duration>; SLOTS],
    events: Events,
    /// As of the last pump.
    now: Duration,
    done: Vec<Done>,
    /// VCL stands still while something waits for it.
    stall: Option<Stall>,
    stall_max: Duration,
    closing: bool,
}

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "built once, by the two ways of opening")]
    pub fn new(
        writer: Writer,
        front: Arc<Front>,
        tickets: Arc<Tickets>,
        disk: Box<dyn Disk>,
        superblocks: Vec<Superblock>,
        history: History,
        freed: Freed,
        number: u64,
        options: &Options,
    ) -> Engine {
        let freeing = Freeing::new(freed, &history);
        let geometry = superblocks[0].geometry;
        let (unchecked, scrub) = (superblocks[0].unchecked, superblocks[0].scrub);
        let (stall_max, share) = (options.stall_max, options.repair_share);
        let begin = writer.begin();
        Engine {
            writer,
            front,
            tickets,
            disk,
            geometry,
            number,
            history,
            superblocks,
            faults: Default::default(),
            jobs: Default::default(),
            round: None,
            asking: None,
            looking: None,
            look_at: Duration::ZERO,
            waiting: Deeds::default(),
            vouched: Deeds::default(),
            target: begin,
            zeroing: Zeroing::new(options.zero_chunk, begin),
            step: SPACE_FIRST,
            stretched: Duration::ZERO,
            full: SlotSet::NONE,
            ask: [SPACE_MOST; SLOTS],
            needless: 0,
            untidy: SlotSet::NONE,
            merged: SlotSet::NONE,
            healing: Healing::new(share, scrub),
            freeing,
            unchecked,
            held: SlotSet::NONE,
            outdated: SlotSet::NONE,
            doubted: SlotSet::NONE,
            retry_at: [Duration::ZERO; SLOTS],
            pause: [PAUSE_FIRST; SLOTS],
            back_at: [None; SLOTS],
            events: Events::default(),
            now: Duration::ZERO,
            done: Vec::new(),
            stall: None,
            stall_max,
            closing: false,
        }
    }

    /// Takes in what came back, and sends off what can go. Never blocks. True if a group that is sealed now would go at
    /// once: four slots have nothing left to write.
    pub fn pump(&mut self, now: Duration) -> bool {
        self.now = now;
        loop {
            let mut moved = self.take_in(now);
            moved |= self.look(now);
            for slot in self.lost().iter() {
                self.leave(slot, Away::Absent);
                self.is_another(slot, now);
            }
            moved |= self.send_off(now);
            moved |= self.heal(now);
            self.disk.submit();
            if !moved {
                break;
            }
        }
        self.space(now);
        self.zero_ahead(now);
        self.disk.submit();
        let at_end = |s: &Slot| self.writer.cursor(*s).is_some_and(|c| c > self.writer.vcl());
        let ahead = Slot::ALL.iter().filter(|s| at_end(s)).count();
        let idle = self.writer.wants_group();
        let needed = if idle { 1 } else { WRITE_QUORUM.saturating_sub(ahead).max(1) };
        self.disk.needs(needed, self.writer.vcl());
        idle
    }

    fn take_in(&mut self, now: Duration) -> bool {
        let mut done = std::mem::take(&mut self.done);
        self.disk.reap(&mut done);
        let any = !done.is_empty();
        if any {
            spans::reaped();
        }
        for d in done.drain(..) {
            match d {
                Done::Wrote { slot, result } => {
                    let failed = result.as_ref().err().map(why);
                    if let Err(e) = result {
                        self.faults[slot.index()] = Some(e.to_string());
                    }
                    let was_live = self.writer.away(slot).is_none();
                    self.writer.wrote(slot, failed);
                    if let Some(why) = failed {
                        if was_live {
                            self.left(slot, why);
                        }
                        self.later(slot, now);
                    }
                }
                Done::Job { slot, kind, output } => self.job_done(slot, kind, output, now),
                Done::Looked { quorum, look } => {
                    self.looking = None;
                    self.looked(quorum, look);
                }
            }
        }
        self.done = done;
        any
    }

    fn job_done(&mut self, slot: Slot, kind: JobKind, output: io::Result<Output>, now: Duration) {
        *self.jobs[slot.index()].of(kind) = false;
        match output {
            Ok(Output::Allocated(to)) => {
                self.full = self.full.without(slot);
                let ask = &mut self.ask[slot.index()];
                *ask = (*ask * 2).min(SPACE_MOST);
                self.writer.allocated(slot, to);
                self.check_space();
            }
            Ok(Output::Zeroed) => self.writer.zeroed(slot, true),
            Ok(Output::Super) => {
                self.superblock_done(slot, true);
                self.whole_done(slot);
            }
            Ok(Output::Claims(claim)) => self.claim_read(slot, claim),
            Ok(Output::Returned(_)) if self.outdated.contains(slot) => {
                self.outdated = self.outdated.without(slot);
                self.retry_at[slot.index()] = now;
            }
            Ok(Output::Returned(returned)) => {
                if self.writer.rejoin(slot, returned.verified) {
                    self.came_back(slot, *returned, now);
                } else {
                    self.retry_at[slot.index()] = now;
                }
            }
            Ok(Output::Copied(at, copy)) => self.copied(slot, at, Some(copy)),
            Ok(Output::Mended(bytes)) => self.mended(slot, Some(bytes)),
            Ok(Output::Marks(wrong)) => self.marks_checked(slot, wrong),
            Ok(Output::Merged) => self.merged.insert(slot),
            Ok(Output::Freed) => self.space_freed(slot, true),
            Ok(Output::Reserved | Output::Tidied) => (),
            Err(e) => self.job_failed(slot, kind, &e, now),
        }
    }

    fn job_failed(&mut self, slot: Slot, kind: JobKind, e: &io::Error, now: Duration) {
        let ask = &mut self.ask[slot.index()];
        match kind {
            JobKind::Allocate if why(e) == Away::Full && *ask > SPACE_FIRST => {
                // At once again, with half as much; and no slot goes further ahead than all can.
                *ask = (*ask / 2).max(SPACE_FIRST);
                self.step = self.step.min(*ask);
                self.target = self.target.min((self.front.tail() + self.step).ceil(SPACE_FIRST));
                return;
            }
            JobKind::Allocate if why(e) == Away::Full => self.full = self.full.with(slot),
            JobKind::Copy => {
                self.copied(slot, Lsn::NONE, None);
                return;
            }
            JobKind::Mend => {
                self.mended(slot, None);
                // It may have room for the log, and none for what it lacks.
                if why(e) == Away::Full {
                    self.healing.no_room(slot, now);
                    return;
                }
                self.leave(slot, why(e));
            }
            JobKind::Zero if !self.not_zeroed(slot, e) => return,
            JobKind::Zero | JobKind::Allocate | JobKind::Super | JobKind::Marks => self.leave(slot, why(e)),
            JobKind::Claims => self.claims_failed(slot),
            JobKind::Rejoin => self.healing.tried.insert(slot),
            JobKind::Free => {
                self.space_freed(slot, false);
                return;
            }
            JobKind::Tidy => self.untidy.insert(slot),
            // Others wait for it to be merged, but not for one that is away.
            JobKind::Merge if why(e) != Away::Full => self.leave(slot, why(e)),
            JobKind::Merge | JobKind::Reserve => (),
        }
        self.faults[slot.index()] = Some(e.to_string());
        if kind == JobKind::Rejoin {
            self.outdated = self.outdated.without(slot);
        }
        if kind == JobKind::Super {
            self.superblock_done(slot, false);
            self.healing.ending = self.healing.ending.without(slot);
        }
        self.later(slot, now);
    }

    /// The slot is tried again after a pause that grows.
    fn later(&mut self, slot: Slot, now: Duration) {
        let absent = self.writer.away(slot) == Some(Away::Absent);
        let pause = &mut self.pause[slot.index()];
        self.retry_at[slot.index()] = now + *pause;
        // A blank disk in a lost one's place is seen within seconds.
        *pause = (*pause * 2).min(if absent { ABSENT_MOST } else { PAUSE_MOST });
    }

    /// The slot no longer counts.
    fn leave(&mut self, slot: Slot, why: Away) {
        // What was written to a directory that is another one now is nobody's: it may have been one then.
        let swapped = why == Away::Absent && !planted(Bug::SwappedNames);
        if let Some(round) = self.round.as_mut().filter(|_| swapped) {
            (round.waiting, round.written) = (round.waiting.without(slot), round.written.without(slot));
        }
        if self.writer.away(slot).is_none() {
            self.writer.leave(slot, why);
            self.left(slot, why);
        } else if why == Away::Absent {
            self.doubted.insert(slot);
        }
    }

    /// The slot has left. What was to be read on all slots is to be read on it, too, once it is back.
    fn left(&mut self, slot: Slot, why: Away) {
        if matches!(why, Away::Absent | Away::Error) {
            self.doubted.insert(slot);
        }
        self.forget_copies(slot);
        self.writer.suspect(slot, self.unchecked);
        self.healing.tried = self.healing.tried.without(slot);
        // One that fails again and again is left out for longer and longer.
        let was_back = self.back_at[slot.index()].take();
        let pause = &mut self.pause[slot.index()];
        if was_back.is_some_and(|at| self.now > at + *pause * STEADY) {
            *pause = PAUSE_FIRST;
        }
        self.events.push(Event::SlotLeft { slot, why });
        self.check_space();
    }

    fn came_back(&mut self, slot: Slot, returned: Returned, now: Duration) {
        self.disk.found(slot);
        self.faults[slot.index()] = None;
        returned.lacks.into_iter().for_each(|gap| self.writer.suspect(slot, gap));
        self.superblocks[slot.index()].join = returned.join;
        if returned.no_space && !planted(Bug::GroupForgotten) {
            self.writer.forget_space(slot);
        }
        self.doubted = self.doubted.without(slot);
        self.owes_all(slot);
        self.back_at[slot.index()] = Some(now);
        self.healing.slot_is_back();
        self.events.push(Event::SlotReturned { slot, lacks: self.lacking(slot) });
        self.give(slot, Job::Tidy { below: self.needless });
        self.check_space();
    }

    fn superblock_done(&mut self, slot: Slot, written: bool) {
        if let Some(round) = self.round.as_mut().filter(|r| r.waiting.contains(slot)) {
            round.waiting = round.waiting.without(slot);
            if written {
                round.written.insert(slot);
            }
        }
        if written && self.untidy.contains(slot) && !planted(Bug::TidyOnce) {
            self.untidy = self.untidy.without(slot);
            self.give(slot, Job::Tidy { below: self.needless });
        }
    }

    /// A quorum beyond VCL is worth a look, and so is a slot that comes back; VCL and VDL move only after it.
    fn look(&mut self, now: Duration) -> bool {
        if planted(Bug::VdlBeforeLook) {
            let quorum = self.writer.wants_look().unwrap_or(self.writer.vcl());
            self.writer.looked(quorum, Look::Clear);
            self.front.set_vdl(self.writer.vdl());
        }
        if now < self.look_at || self.looking.is_some() || self.asking.is_some() {
            return false;
        }
        let unacknowledged = planted(Bug::VdlBeforeLook) && self.tickets.vdl() < self.writer.vdl();
        let wanted = unacknowledged || self.waiting.any();
        let Some(quorum) = self.writer.wants_look().or(wanted.then(|| self.writer.vcl())) else { return false };
        self.vouched = std::mem::take(&mut self.waiting);
        if planted(Bug::AckBeforeLook) {
            self.looked(quorum, Look::Clear);
            return true;
        }
        match self.disk.look(quorum) {
            Some(Look::Unsure) => {
                self.look_at = now + PAUSE_FIRST;
                self.ask(quorum);
                false
            }
            Some(look) => {
                self.looked(quorum, look);
                true
            }
            None => {
                self.looking = Some(quorum);
                false
            }
        }
    }

    /// Reads the claims through the slots' workers: a slot that hangs does not answer, and is not waited for.
    fn ask(&mut self, quorum: Lsn) {
        let asked = Slot::ALL.into_iter().filter(|s| !self.jobs[s.index()].0[JobKind::Claims as usize]).collect();
        self.asking = Some(Asking { quorum, claims: [None; SLOTS], asked });
        for slot in Slot::ALL {
            self.give(slot, Job::Claims(self.geometry.volume));
        }
    }

    /// Hands a job to a slot's worker, unless one of its kind is outstanding there.
    fn give(&mut self, slot: Slot, job: Job) {
        if !std::mem::replace(self.jobs[slot.index()].of(job.kind()), true) {
            self.disk.job(slot, job);
        }
    }

    fn claim_read(&mut self, slot: Slot, claim: u64) {
        let number = self.number;
        let Some(asking) = &mut self.asking else { return };
        if !asking.asked.contains(slot) && !planted(Bug::OldAnswerCounts) {
            // It was asked for an earlier look.
            asking.asked.insert(slot);
            self.give(slot, Job::Claims(self.geometry.volume));
            return;
        }
        asking.claims[slot.index()] = (claim > 0).then_some(claim);
        let (quorum, look) = (asking.quorum, Look::judge(number, &asking.claims));
        if look == Look::Unsure {
            self.claims_failed(slot);
        } else {
            self.asking = None;
            self.looked(quorum, look);
        }
    }

    /// When nobody is left to answer, the look is begun again by the next pump.
    fn claims_failed(&mut self, _slot: Slot) {
        let outstanding = self.jobs.iter_mut().any(|j| *j.of(JobKind::Claims));
        if !outstanding {
            self.asking = None;
        }
    }

    fn looked(&mut self, quorum: Lsn, look: Look) {
        if look == Look::Clear {
            let vouched = std::mem::take(&mut self.vouched);
            vouched.returning.iter().for_each(|slot| self.bring_back(slot));
            if let Some(unused) = vouched.merge {
                self.merge_now(unused);
            }
            if vouched.mend {
                self.mend_now();
            }
            vouched.whole.iter().for_each(|slot| self.end_join(slot));
            if vouched.free {
                self.free_now();
            }
        }
        let moved = self.writer.looked(quorum, look);
        if let Some(epoch) = self.writer.fenced() {
            self.tickets.end(Ended::Fenced(epoch));
        } else if (moved || planted(Bug::VdlBeforeLook) && look == Look::Clear) && !self.tickets.is_over() {
            let vdl = self.writer.vdl();
            self.front.set_vdl(vdl);
            spans::decided(vdl);
            self.tickets.advance(vdl);
        }
    }

    fn send_off(&mut self, now: Duration) -> bool {
        let mut moved = false;
        if self.tickets.is_over() {
            return false;
        }
        while let Some(group) = self.front.next_sealed() {
            self.writer.seal(group);
            moved = true;
        }
        if self.writer.wants_group() && self.front.seal() {
            while let Some(group) = self.front.next_sealed() {
                self.writer.seal(group);
            }
            moved = true;
        }
        for slot in Slot::ALL {
            let Some((from, to)) = self.writer.next_write(slot) else {
                self.give_up(slot, now);
                continue;
            };
            match self.front.ring.get(from) {
                Some(frame) => {
                    self.writer.submitted(slot, from, to);
                    spans::sent(to);
                    self.disk.write(LogWrite { slot, from, to, frame });
                }
                // It fell out of the ring: from here on it has a gap.
                None => {
                    self.leave(slot, Away::Behind);
                    self.retry_at[slot.index()] = now;
                }
            }
        }
        moved
    }

    /// A slot that takes no write, because one hangs or its disk is full, leaves when the ring has lost what it lacks; a
    /// full one also when the volume closes, so that it closes clean without it.
    fn give_up(&mut self, slot: Slot, now: Duration) {
        let Some(cursor) = self.writer.cursor(slot).filter(|c| *c < self.writer.vcl()) else { return };
        let full = self.full.contains(slot);
        let behind = cursor + ring::SPAN / 2 < self.writer.vcl() && self.front.ring.get(cursor).is_none();
        if behind || full && self.closing && self.writer.busy(slot).is_none() {
            self.leave(slot, if full { Away::Full } else { Away::Behind });
            self.later(slot, now);
        }
    }

    /// Keeps space allocated ahead of the tail, in steps that grow with the write rate.
    fn space(&mut self, now: Duration) {
        if self.tickets.is_over() {
            return;
        }
        // Users leave some of it to others.
        let tail = self.front.tail() + left(self.front.tail());
        if !self.closing && tail + self.step / 2 >= self.target {
            if self.target > self.writer.begin() && now < self.stretched + Duration::from_secs(1) {
                self.step = (self.step * 2).min(SPACE_MOST);
            }
            self.stretched = now;
            self.target = (tail + self.step).ceil(SPACE_FIRST);
        }
        for slot in self.writer.live().iter() {
            let from = self.writer.allocated_to(slot);
            let waits = self.full.contains(slot) && now < self.retry_at[slot.index()];
            if from < self.target && !waits {
                let to = self.target.min(from + self.ask[slot.index()]);
                self.give(slot, Job::Allocate { from, to, pg_size: self.geometry.pg_size, epoch: self.number });
            }
        }
    }

    /// An append needs space up to `end`. False: fewer than four slots can take it.
    pub fn want_space(&mut self, end: Lsn, now: Duration) -> bool {
        if end > self.target {
            // It went too slowly: what comes next is not to wait as well. But where a disk fills up its slots share the rest.
            if self.ask == [SPACE_MOST; SLOTS] {
                self.step = (self.step * 2).min(SPACE_MOST);
            }
            self.stretched = now;
            self.target = (end + self.step / 2).ceil(SPACE_FIRST);
        }
        self.space(now);
        self.disk.submit();
        let able = |s: &Slot| !self.full.contains(*s) || self.writer.allocated_to(*s) >= end;
        self.writer.live().iter().filter(able).count() >= WRITE_QUORUM || self.writer.live().len() < WRITE_QUORUM
    }

    /// Fewer than four slots can take more than they have.
    pub fn is_short(&self) -> bool {
        self.writer.live().minus(self.full).len() < WRITE_QUORUM
    }

    fn check_space(&mut self) {
        self.front.set_space(self.writer.space());
    }

    /// Time has passed: slots that are away are tried again, and a stall that lasts too long ends.
    pub fn tick(&mut self, now: Duration) {
        self.disk.notice();
        for slot in Slot::ALL {
            let jobs = &mut self.jobs[slot.index()];
            let given_up = self.closing && self.full.contains(slot);
            let free = !*jobs.of(JobKind::Rejoin) && !*jobs.of(JobKind::Super) && !given_up;
            let due = now >= self.retry_at[slot.index()] && !self.tickets.is_over();
            let free = free && !self.held.contains(slot);
            if free && due && self.writer.rejoin_read(slot).is_some() {
                self.later(slot, now);
                if planted(Bug::RejoinWithoutLook) {
                    self.bring_back(slot);
                } else {
                    self.waiting.returning.insert(slot);
                }
            }
        }
        self.pump(now);
        self.watch_stall(now);
    }

    /// Slots that hang are live as long as the ring holds what they lack: what counts is that VCL stands still.
    fn watch_stall(&mut self, now: Duration) {
        let (vcl, step) = (self.writer.vcl(), self.stall_max / STALL_LOOKS);
        if vcl >= self.front.tail() {
            self.stall = None;
            return;
        }
        let Some(stall) = self.stall.as_mut().filter(|s| s.at == vcl) else {
            self.stall = Some(Stall { at: vcl, seen: Duration::ZERO, last: now });
            return;
        };
        let passed = now.saturating_sub(stall.last);
        stall.seen += if planted(Bug::StallByTheClock) { passed } else { passed.min(step) };
        stall.last = now;
        if stall.seen >= self.stall_max {
            let able = self.writer.live().iter().filter(|s| self.writer.busy(*s).is_none()).count();
            let why = format!("only {able} of six slots could be written for {:?}", self.stall_max);
            self.tickets.end(Ended::Stalled(why));
            self.pump(now);
        }
    }

    /// A slot that is away gets the newest decision, and its groups are read back.
    fn bring_back(&mut self, slot: Slot) {
        let held = self.held.contains(slot);
        if let Some(read) = self.writer.rejoin_read(slot).filter(|_| !self.tickets.is_over() && !held) {
            let mut superblock = self.superblock(slot);
            superblock.join = job::join_now(self.writer.vdl(), self.number);
            let stale = self.doubted.contains(slot);
            self.give(slot, Job::Rejoin { read, superblock: Box::new(superblock), stale });
        }
    }

    /// When [`Engine::tick`] has something to do next; none if nothing waits for time.
    pub fn next_tick(&self) -> Option<Duration> {
        let returns = |s: &Slot| self.writer.rejoin_read(*s).is_some() || self.full.contains(*s);
        let away = |s: &Slot| returns(s) && !self.held.contains(*s);
        let retries = Slot::ALL.iter().filter(|s| away(s)).map(|s| self.retry_at[s.index()]);
        let stall = self.stall.as_ref().map(|s| s.last + self.stall_max / STALL_LOOKS);
        let wants_look = self.writer.wants_look().is_some() || self.waiting.any();
        let look = (wants_look && self.asking.is_none()).then_some(self.look_at);
        retries.chain(stall).chain(look).chain(self.heal_at()).min()
    }

    fn superblock(&self, slot: Slot) -> Superblock {
        let redo = self.superblocks[slot.index()].redo;
        let lacks = |s: Slot| self.writer.gaps_below(s, redo).into_iter().map(move |g| (s, g));
        let gaps = Slot::ALL.into_iter().flat_map(lacks);
        let gaps = gaps.filter(|_| !planted(Bug::GapForgotten)).collect();
        let (unchecked, scrub) = (self.unchecked, self.healing.plan.mark);
        Superblock { gaps, unchecked, scrub, history: self.history.clone(), ..self.superblocks[slot.index()].clone() }
    }

    /// Where a clone may begin: what of that is durable, and superblocks of the slots that have all of it.
    pub fn beginning(&self, volume: uuid::Uuid, vdl: Lsn) -> (Lsn, Vec<Superblock>) {
        let has_all = |slot: &Slot| {
            let founder = self.superblocks[slot.index()].join == Join::Founder;
            let written = self.writer.cursor(*slot).is_some_and(|cursor| cursor >= vdl);
            let merged = self.healing.drained || self.merged.contains(*slot);
            founder && written && merged && self.writer.past_gaps(*slot).is_empty() && self.unchecked.is_empty()
        };
        let with_all = Slot::ALL.into_iter().filter(has_all);
        (vdl, with_all.map(|slot| share::superblock(&self.superblock(slot), volume, vdl)).collect())
    }

    /// Four live slots have no older version in hand: a round can come to a good end.
    pub fn can_begin_round(&self) -> bool {
        let idle = |s: &Slot| !self.jobs[s.index()].0[JobKind::Super as usize];
        self.writer.live().iter().filter(idle).count() >= WRITE_QUORUM
    }

    /// Begins to write a new superblock version to every live slot: a checkpoint's manifest, or the clean mark.
    pub fn begin_round(&mut self, manifest: Option<(Lsn, Lsn)>, clean: Option<Lsn>) {
        for superblock in &mut self.superblocks {
            if let Some((manifest, redo)) = manifest {
                (superblock.manifest, superblock.redo) = (manifest, redo);
            }
            superblock.clean = clean;
        }
        // A slot whose worker still has an older version in hand does not count in this round.
        let idle = |s: &Slot| !*self.jobs[s.index()].clone().of(JobKind::Super);
        let waiting: SlotSet = self.writer.live().iter().filter(idle).collect();
        self.round = Some(Round { waiting, written: SlotSet::NONE });
        for slot in waiting.iter() {
            let superblock = Box::new(self.superblock(slot));
            self.give(slot, Job::Super { superblock, whole: false });
        }
        self.disk.submit();
    }

    /// The round's result: true once four slots have it, false if they cannot any more, none while it is open.
    pub fn round(&self) -> Option<bool> {
        let round = self.round.as_ref()?;
        if round.written.len() >= WRITE_QUORUM {
            Some(true)
        } else {
            (round.written.len() + round.waiting.len() < WRITE_QUORUM).then_some(false)
        }
    }

    /// A superblock is on its way to a live slot.
    pub fn writes_superblocks(&self) -> bool {
        self.writer.live().iter().any(|s| self.jobs[s.index()].0[JobKind::Super as usize])
    }

    /// Nothing is outstanding to any slot, and every live slot has everything: also of what is reserved and not filled yet.
    pub fn is_clean(&self) -> bool {
        self.writer.is_clean() && !self.front.has_open_group() && self.front.tail() == self.writer.sealed_end()
    }

    /// No more space is taken ahead.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Removes what a newer decision made needless; from slots that are away once they are back.
    pub fn tidy(&mut self, below: u64) {
        self.needless = below;
        for slot in self.writer.live().iter() {
            self.give(slot, Job::Tidy { below });
            self.give(slot, Job::Reserve);
        }
        self.disk.submit();
    }

    /// A slot's worker has something in hand that could make room.
    pub fn has_jobs(&self) -> bool {
        let mut jobs = self.jobs;
        jobs.iter_mut().for_each(|j| (*j.of(JobKind::Copy), *j.of(JobKind::Mend)) = (false, false));
        jobs.iter().any(|jobs| jobs.0.contains(&true))
    }

    /// A log write is on its way.
    pub fn is_busy(&self) -> bool {
        Slot::ALL.iter().any(|s| self.writer.busy(*s).is_some())
    }

    /// Why a slot is away, in its disk's words.
    pub fn fault(&self, slot: Slot) -> Option<String> {
        self.writer.away(slot).and_then(|_| self.faults[slot.index()].clone())
    }

    pub fn full(&self) -> SlotSet {
        self.full
    }

    /// Every earlier process is gone: after a look, live slots' tail files are merged, and `unused` addresses given back.
    /// True once that was done on all six.
    pub fn merge(&mut self, unused: (Lsn, Lsn), now: Duration) -> bool {
        if self.merged != SlotSet::ALL {
            self.waiting.merge = Some(unused);
            self.pump(now);
        }
        self.healing.drained = self.merged == SlotSet::ALL;
        self.healing.drained
    }

    fn merge_now(&mut self, unused: (Lsn, Lsn)) {
        for slot in self.writer.live().iter().filter(|s| !self.merged.contains(*s)).collect::<Vec<_>>() {
            let (geometry, history) = (self.geometry, self.history.clone());
            let alone = planted(Bug::DrainTailAlone);
            let doubted = self.writer.gaps(slot).iter().copied().chain([self.unchecked]).filter(|_| !alone).collect();
            self.give(slot, Job::Merge { geometry, history, unused, doubted });
        }
    }

    /// Where the newest manifest lies, and where redo begins with it.
    pub fn manifest(&self) -> (Lsn, Lsn) {
        (self.superblocks[0].manifest, self.superblocks[0].redo)
    }
}

/// An error of the device as a reason to be away.
fn why(e: &io::Error) -> Away {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Away::Full,
        _ => Away::Error,
    }
}
