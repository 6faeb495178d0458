//! Which part of the log is looked at next, and when. Pure: time and events come in, a unit of work goes out.
//!
//! First what a reader found wrong, then what no slot was read for since a writer died, then gaps, then the scrub. One
//! frame at a time; while commits are made, healing rests between frames so that it takes its share of the time alone.

use crate::core::gaps::Gap;
use crate::core::history::Entry;
use crate::core::writer::Writer;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::repair::frame::Part;
use crate::segment::superblock::ScrubMark;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What readers found wrong, frames that wait. More are found again by the next reader, or by the scrub.
pub const WOUNDS_MAX: usize = 1024;
/// Frames that cannot be made whole, remembered so as not to be tried for ever.
const PARKED_MAX: usize = 4096;
/// Commits were made within this time: healing gives way.
const ACTIVE: Duration = Duration::from_millis(100);
/// The longest rest between two frames.
const REST_MAX: Duration = Duration::from_secs(1);
/// A scrub reads so much in one go, then waits until its pace wants it again.
const BURST: u64 = format::EXTENT;

/// Why a part is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// A reader met a bad copy there.
    Wound,
    /// A writer died, and what it had in flight may have landed in part.
    Check,
    /// Some slot has a gap there.
    Fill,
    /// The scrub has come there.
    Scrub,
}

/// A part to be looked at.
#[derive(Clone, Debug)]
pub struct Unit {
    pub why: Why,
    /// What is done when it is: it begins at or before the part.
    pub stretch: Gap,
    pub part: Part,
    /// Slots that are to have it.
    pub targets: SlotSet,
    /// Slots that are read at first.
    pub read: SlotSet,
    /// A slot is to have what lies below, as of now.
    pub limits: [Lsn; SLOTS],
    pub begun: Duration,
}

/// What there is to choose from.
pub struct Situation<'a> {
    /// The history without what was given back.
    pub history: &'a [Entry],
    pub writer: &'a Writer,
    pub unchecked: Gap,
    /// Live slots that have nothing of ours in hand.
    pub able: SlotSet,
    /// Those that have room for what they lack.
    pub fillable: SlotSet,
    /// What is being mended: it is not to be begun again.
    pub in_hand: Option<(Why, Gap)>,
    pub now: Duration,
}

impl Situation<'_> {
    /// From where on there is work of a kind that begins at `from`.
    fn behind(&self, why: Why, from: Lsn) -> Lsn {
        match self.in_hand {
            Some((in_hand, gap)) if in_hand == why && gap.from <= from && from < gap.to => gap.to,
            _ => from,
        }
    }
}

/// A scrub that is under way.
#[derive(Clone, Copy, Debug)]
struct Round {
    to: Lsn,
    /// At once, not by the pace.
    urgent: bool,
    /// It goes on up to here, then waits.
    burst: Lsn,
}

#[derive(Debug)]
pub struct Plan {
    wounds: VecDeque<Lsn>,
    parked: BTreeMap<Lsn, SlotSet>,
    round: Option<Round>,
    pub mark: ScrubMark,
    pub paused: bool,
    /// Per cent of the time that healing takes while commits are made.
    share: u32,
    ready_at: Duration,
    active_at: Option<Duration>,
    tail: Lsn,
    /// Rounds of the scrub that came to their end in this process.
    pub rounds: u64,
}

impl Plan {
    pub fn new(share: u32, mark: ScrubMark) -> Plan {
        Plan {
            wounds: VecDeque::new(),
            parked: BTreeMap::new(),
            round: None,
            mark,
            paused: false,
            share: share.clamp(1, 100),
            ready_at: Duration::ZERO,
            active_at: None,
            tail: Lsn::NONE,
            rounds: 0,
        }
    }

    /// A reader met a bad copy at `lsn`.
    pub fn wound(&mut self, lsn: Lsn) {
        let base = lsn.floor(format::FRAME);
        if self.wounds.len() < WOUNDS_MAX && !self.wounds.contains(&base) {
            self.wounds.push_back(base);
        }
    }

    /// The log's tail is here now: if it has moved, commits are being made.
    pub fn saw_tail(&mut self, tail: Lsn, now: Duration) {
        if tail > self.tail {
            if !self.tail.is_none() {
                self.active_at = Some(now);
            }
            self.tail = tail;
        }
    }

    /// A slot is back, or somebody wants to know: what could not be made whole is tried again.
    pub fn unpark(&mut self) {
        self.parked.clear();
    }

    /// The part could not be made whole from these slots.
    pub fn park(&mut self, part: &Part, read: SlotSet) {
        if self.parked.len() < PARKED_MAX {
            self.parked.insert(part.from.floor(format::FRAME), read);
        }
    }

    /// Frames that could not be made whole.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// A unit has ended.
    pub fn ended(&mut self, unit: &Unit, now: Duration) {
        let took = now.saturating_sub(unit.begun);
        let active = self.active_at.is_some_and(|at| now < at + ACTIVE);
        self.ready_at = if active { now + (took * (100 - self.share) / self.share).min(REST_MAX) } else { now };
        if unit.why == Why::Scrub {
            self.mark.at = self.mark.at.max(unit.stretch.to);
        }
    }

    /// Commits are being made.
    pub fn gives_way(&self, now: Duration) -> bool {
        self.active_at.is_some_and(|at| now < at + ACTIVE)
    }

    /// The whole log is to be compared now.
    pub fn scrub_now(&mut self, to: Lsn, wall_us: u64) {
        self.unpark();
        self.mark = ScrubMark { at: Lsn::NONE, begun_us: wall_us.max(1) };
        self.round = Some(Round { to, urgent: true, burst: to });
    }

    /// The scrub that somebody asked for has not come to its end.
    pub fn is_urgent(&self) -> bool {
        self.round.is_some_and(|r| r.urgent)
    }

    /// Begins the scrub's next burst if its pace wants one: the log up to `to` in each `period`. Returns how long until it is to be
    /// asked again.
    pub fn pace(&mut self, history: &[Entry], to: Lsn, wall_us: u64, period: Duration) -> Duration {
        if self.round.is_some_and(|r| r.urgent || self.mark.at < r.burst) {
            return REST_MAX;
        }
        let total = bytes_in(history, Gap { from: Lsn::NONE, to });
        if self.mark.begun_us == 0 || self.mark.begun_us > wall_us {
            // The first one, or the clock went back: the pace is counted from now.
            self.mark.begun_us = wall_us.max(1);
        }
        let passed = Duration::from_micros(wall_us.saturating_sub(self.mark.begun_us));
        let done = bytes_in(history, Gap { from: Lsn::NONE, to: self.mark.at.min(to) });
        // The moment at which the next burst has to be read.
        let next = (done + BURST).min(total.max(1));
        let due = period.mul_f64(next as f64 / total.max(1) as f64);
        if passed < due {
            return due - passed;
        }
        let burst = address_of(history, next).ceil(format::FRAME).min(to);
        self.round = Some(Round { to, urgent: false, burst });
        Duration::ZERO
    }

    /// When the next unit may begin; none if nothing waits for time.
    pub fn due(&self, now: Duration) -> Option<Duration> {
        (self.ready_at > now).then_some(self.ready_at)
    }

    /// What is to be looked at now. Stretches in which there is nothing to look at are told to `nothing`, by slot.
    pub fn next(&mut self, s: &Situation<'_>, nothing: &mut Vec<(Slot, Gap)>) -> Option<Unit> {
        if s.now < self.ready_at || s.able.len() == 0 {
            return None;
        }
        let to = s.writer.vdl_group();
        let limits = Slot::ALL.map(|slot| s.writer.cursor(slot).unwrap_or(Lsn::NONE).min(to));
        let unit = |why, stretch: Gap, part, targets, read| {
            Some(Unit { why, stretch, part, targets, read, limits, begun: s.now })
        };
        while let Some(base) = self.wounds.pop_front() {
            let Some(part) = part_at(s.history, base, (base + format::FRAME).min(to)) else { continue };
            return unit(Why::Wound, Gap { from: part.from, to: part.to }, part, s.able, s.able);
        }
        if self.paused {
            return None;
        }
        if !s.unchecked.is_empty() {
            let from = s.behind(Why::Check, s.unchecked.from);
            let stretch = |to| Gap { from, to };
            return match part_at(s.history, from, s.unchecked.to.min(to)) {
                Some(part) => unit(Why::Check, stretch(part.to), part, s.able, s.able),
                None => {
                    let empty = Part { from: s.unchecked.to, to: s.unchecked.to, entries: [].into() };
                    unit(Why::Check, stretch(s.unchecked.to), empty, SlotSet::NONE, SlotSet::NONE)
                }
            };
        }
        self.fill(s, to, nothing)
            .and_then(|(stretch, part, targets, read)| unit(Why::Fill, stretch, part, targets, read))
            .or_else(|| {
                let (stretch, part) = self.scrub(s, to)?;
                unit(Why::Scrub, stretch, part, s.able, s.able)
            })
    }

    /// The lowest frame that some slot lacks; slots that lack it, too, get it at once.
    fn fill(
        &self,
        s: &Situation<'_>,
        to: Lsn,
        nothing: &mut Vec<(Slot, Gap)>,
    ) -> Option<(Gap, Part, SlotSet, SlotSet)> {
        let mut lowest: Option<(Gap, Part)> = None;
        for slot in s.fillable.iter() {
            'gaps: for gap in s.writer.past_gaps(slot).as_slice() {
                let mut from = s.behind(Why::Fill, gap.from);
                let part = loop {
                    let Some(part) = part_at(s.history, from, gap.to.min(to)) else {
                        if from == gap.from && gap.to <= to {
                            nothing.push((slot, *gap));
                        }
                        continue 'gaps;
                    };
                    // Those that were read for it had nothing: it is tried again when another is there.
                    let parked = self.parked.get(&part.from.floor(format::FRAME));
                    if parked.is_some_and(|read| s.able.minus(*read).len() == 0) {
                        from = part.to;
                        continue;
                    }
                    break part;
                };
                let stretch = Gap { from, to: part.to };
                if lowest.as_ref().is_none_or(|(_, low)| part.from < low.from) {
                    lowest = Some((stretch, part));
                }
                break;
            }
        }
        let (stretch, part) = lowest?;
        let lacks = |s: &Slot, w: &Writer| w.past_gaps(*s).touches(part.from, part.to);
        let targets: SlotSet = s.fillable.iter().filter(|slot| lacks(slot, s.writer)).collect();
        // One that is whole is read for all, in turn, so that no slot bears it alone.
        let sources: Vec<Slot> = s.able.iter().filter(|slot| s.writer.past_gaps(*slot).is_empty()).collect();
        let turn = (part.from.0 / format::FRAME) as usize;
        let read = match sources.get(turn % sources.len().max(1)) {
            Some(source) => targets.with(*source),
            None => s.able,
        };
        Some((stretch, part, targets, read))
    }

    fn scrub(&mut self, s: &Situation<'_>, to: Lsn) -> Option<(Gap, Part)> {
        let round = self.round?;
        let end = round.burst.min(to);
        let from = s.behind(Why::Scrub, self.mark.at);
        match part_at(s.history, from, end) {
            Some(part) => Some((Gap { from, to: part.to }, part)),
            None if from > self.mark.at => None,
            None => {
                self.mark.at = self.mark.at.max(end);
                if end >= round.to {
                    self.rounds += 1;
                    // The next one begins at the log's beginning.
                    self.mark = ScrubMark::default();
                    self.round = None;
                }
                None
            }
        }
    }

    /// A scrub is under way: what it is still to read, as addresses.
    pub fn scrub_left(&self) -> Option<Gap> {
        self.round.map(|r| Gap { from: self.mark.at, to: r.to })
    }

    /// Nothing is found wrong that was not looked at yet.
    pub fn has_wounds(&self) -> bool {
        !self.wounds.is_empty()
    }
}

/// The first addresses of the log in `[from, to)`, up to the end of their frame.
fn part_at(entries: &[Entry], from: Lsn, to: Lsn) -> Option<Part> {
    let first = entries.partition_point(|e| e.end <= from);
    let entry = entries.get(first..)?.iter().find(|e| e.begin < e.end)?;
    if from.max(entry.begin) >= to {
        return None;
    }
    // A group begins where a frame or an entry does.
    let from = from.floor(format::FRAME).max(entry.begin);
    let to = to.min(from.floor(format::FRAME) + format::FRAME);
    let overlap = |e: &&Entry| e.begin < to && from < e.end;
    (from < to).then(|| Part {
        from,
        to,
        entries: entries[first..].iter().take_while(|e| e.begin < to).filter(overlap).copied().collect(),
    })
}

/// Bytes of the log in a stretch.
pub fn bytes_in(entries: &[Entry], gap: Gap) -> u64 {
    let in_entry = |e: &Entry| e.end.min(gap.to).0.saturating_sub(e.begin.max(gap.from).0);
    entries.iter().map(in_entry).sum()
}

/// The address below which there are so many bytes of the log.
fn address_of(entries: &[Entry], bytes: u64) -> Lsn {
    let mut left = bytes;
    for e in entries {
        let len = e.end.0 - e.begin.0;
        if left <= len {
            return e.begin + left;
        }
        left -= len;
    }
    Lsn(format::NUMBER_LIMIT)
}
