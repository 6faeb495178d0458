//! Which part of the log is looked at next, and when. Pure: time and events come in, a unit of work goes out.
//!
//! First what a reader found wrong, then what no slot was read for since a writer died, then gaps, then the scrub.
//! While commits are made it goes frame by frame, and rests between so that it takes its share of the time alone.
//! Else some frames make a unit. What need not be copied is only surveyed, and its bytes are not kept: where a survey finds
//! something wrong, those frames are read again one by one, with all bytes.

use crate::bugs::{Bug, planted};
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
/// Frames of a unit while no commits are made.
pub const WIDE: u64 = 8;
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
    /// Slots whose bytes are kept: all, or it is a survey.
    pub keep: SlotSet,
    /// A slot is to have what lies below, as of now.
    pub limits: [Lsn; SLOTS],
    pub begun: Duration,
    /// Scrubs that were asked for by then.
    asked: u64,
}

impl Unit {
    /// Not all that is read is kept.
    pub fn is_survey(&self) -> bool {
        self.keep != SlotSet::ALL
    }

    /// What is found on the slot is counted from now on.
    pub fn counts(&self, slot: Slot) -> bool {
        matches!(self.why, Why::Check | Why::Fill) && self.targets.contains(slot)
    }
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
    pub in_hand: Option<&'a Unit>,
    pub now: Duration,
}

impl Situation<'_> {
    /// From where on there is work of a kind that begins at `from`.
    fn behind(&self, why: Why, from: Lsn) -> Lsn {
        match self.in_hand {
            Some(u) if u.why == why && u.stretch.from <= from && from < u.stretch.to => u.stretch.to,
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
    /// A survey found something wrong there.
    closely: Gap,
    round: Option<Round>,
    pub mark: ScrubMark,
    pub paused: bool,
    /// Per cent of the time that healing takes while commits are made.
    share: u32,
    ready_at: Duration,
    active_at: Option<Duration>,
    tail: Lsn,
    /// Scrubs that somebody asked for.
    asked: u64,
    /// Rounds of the scrub that came to their end in this process.
    pub rounds: u64,
}

impl Plan {
    pub fn new(share: u32, mark: ScrubMark) -> Plan {
        Plan {
            wounds: VecDeque::new(),
            parked: BTreeMap::new(),
            closely: Gap::NONE,
            round: None,
            mark,
            paused: false,
            share: share.clamp(1, 100),
            ready_at: Duration::ZERO,
            active_at: None,
            tail: Lsn::NONE,
            asked: 0,
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
        if self.parked.len() < PARKED_MAX && !planted(Bug::HealForever) {
            self.parked.insert(part.from.floor(format::FRAME), read);
        }
    }

    /// A survey found something wrong: its frames are to be read one by one, with all bytes.
    pub fn look_closely(&mut self, unit: &Unit) {
        self.closely = Gap { from: unit.stretch.from.min(unit.part.from), to: unit.part.to };
    }

    /// Frames that are read at once from `from` on, and whether a survey is enough.
    fn width(&self, from: Lsn, now: Duration) -> (u64, bool) {
        let closely = self.closely.from <= from && from < self.closely.to;
        let wide = !closely && self.parked.is_empty() && !self.gives_way(now);
        (if wide { WIDE } else { 1 }, !closely)
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
        // What was read before a scrub was asked for is read again for it.
        if unit.why == Why::Scrub && (unit.asked == self.asked || planted(Bug::ScrubbedBefore)) {
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
        self.asked += 1;
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
        let limits = if planted(Bug::FillAboveCursor) { [to; SLOTS] } else { limits };
        let asked = self.asked;
        let unit = |why, stretch: Gap, part, targets, read, keep| {
            Some(Unit { why, stretch, part, targets, read, keep, limits, begun: s.now, asked })
        };
        let kept = |survey: bool| if survey { SlotSet::NONE } else { SlotSet::ALL };
        while let Some(base) = self.wounds.pop_front() {
            let Some(part) = part_at(s.history, base, (base + format::FRAME).min(to), 1) else { continue };
            return unit(Why::Wound, Gap { from: part.from, to: part.to }, part, s.able, s.able, SlotSet::ALL);
        }
        if self.paused {
            return None;
        }
        if !s.unchecked.is_empty() {
            let from = s.behind(Why::Check, s.unchecked.from);
            let stretch = |to| Gap { from, to };
            let (frames, survey) = self.width(from, s.now);
            return match part_at(s.history, from, s.unchecked.to.min(to), frames) {
                Some(part) => unit(Why::Check, stretch(part.to), part, s.able, s.able, kept(survey)),
                None => {
                    let empty = Part { from: s.unchecked.to, to: s.unchecked.to, entries: [].into() };
                    unit(Why::Check, stretch(s.unchecked.to), empty, SlotSet::NONE, SlotSet::NONE, SlotSet::ALL)
                }
            };
        }
        self.fill(s, to, nothing)
            .and_then(|(stretch, part, targets, read, keep)| unit(Why::Fill, stretch, part, targets, read, keep))
            .or_else(|| {
                let (stretch, part, survey) = self.scrub(s, to)?;
                unit(Why::Scrub, stretch, part, s.able, s.able, kept(survey))
            })
    }

    /// The lowest frame that some slot lacks; slots that lack it, too, get it at once.
    fn fill(
        &self,
        s: &Situation<'_>,
        to: Lsn,
        nothing: &mut Vec<(Slot, Gap)>,
    ) -> Option<(Gap, Part, SlotSet, SlotSet, SlotSet)> {
        // One that is whole is read for all, in turn, so that no slot bears it alone.
        let sources: Vec<Slot> = s.able.iter().filter(|slot| s.writer.past_gaps(*slot).is_empty()).collect();
        let mut lowest: Option<(Gap, Part, bool)> = None;
        for slot in s.fillable.iter() {
            'gaps: for gap in s.writer.past_gaps(slot).as_slice() {
                let mut from = s.behind(Why::Fill, gap.from);
                let (part, survey) = loop {
                    // Without a source all are asked, and their bytes are many.
                    let (wide, survey) = self.width(from, s.now);
                    let frames = if sources.is_empty() { 1 } else { wide };
                    let Some(part) = part_at(s.history, from, gap.to.min(to), frames) else {
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
                    break (part, survey);
                };
                let stretch = Gap { from, to: part.to };
                if lowest.as_ref().is_none_or(|(_, low, _)| part.from < low.from) {
                    lowest = Some((stretch, part, survey));
                }
                break;
            }
        }
        let (stretch, part, survey) = lowest?;
        let lacks = |s: &Slot, w: &Writer| w.past_gaps(*s).touches(part.from, part.to);
        let targets: SlotSet = s.fillable.iter().filter(|slot| lacks(slot, s.writer)).collect();
        let turn = (part.from.0 / (WIDE * format::FRAME)) as usize;
        let (read, keep) = match sources.get(turn % sources.len().max(1)) {
            Some(source) => (targets.with(*source), SlotSet::NONE.with(*source)),
            None => (s.able, SlotSet::ALL),
        };
        Some((stretch, part, targets, read, if survey { keep } else { SlotSet::ALL }))
    }

    fn scrub(&mut self, s: &Situation<'_>, to: Lsn) -> Option<(Gap, Part, bool)> {
        // What an earlier scrub is mending is not read again meanwhile.
        let round = self.round.filter(|_| !s.in_hand.is_some_and(|u| u.why == Why::Scrub && u.asked != self.asked))?;
        let end = round.burst.min(to);
        let from = s.behind(Why::Scrub, self.mark.at);
        let (frames, survey) = self.width(from, s.now);
        match part_at(s.history, from, end, frames) {
            Some(part) => Some((Gap { from, to: part.to }, part, survey)),
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

/// The first addresses of the log in `[from, to)`, up to the end of their frame, or of so many.
fn part_at(entries: &[Entry], from: Lsn, to: Lsn, frames: u64) -> Option<Part> {
    let stretched = planted(Bug::MendAnnulled).then(|| up_to_the_next(entries));
    let entries = stretched.as_deref().unwrap_or(entries);
    let first = entries.partition_point(|e| e.end <= from);
    let entry = entries.get(first..)?.iter().find(|e| e.begin < e.end)?;
    if from.max(entry.begin) >= to {
        return None;
    }
    // A group begins where a frame or an entry does.
    let from = from.floor(format::FRAME).max(entry.begin);
    let to = to.min(from.floor(format::FRAME) + frames * format::FRAME);
    let within = entries[first..].iter().take_while(|e| e.begin < to).filter(|e| from < e.end);
    Some(Part { from, to, entries: within.copied().collect() })
}

/// What [`Bug::MendAnnulled`] takes for the entries.
fn up_to_the_next(entries: &[Entry]) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    for i in 1..entries.len() {
        entries[i - 1].end = entries[i].begin;
    }
    entries
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::history::History;
    use crate::core::writer::Away;

    const MIB: u64 = format::FRAME;
    const BEGIN: Lsn = Lsn(4096);
    /// Of the first epoch.
    const END: Lsn = Lsn(5 * MIB + 100);
    /// Of the second.
    const OPEN: Lsn = Lsn(format::EXTENT);

    fn gap(from: u64, to: u64) -> Gap {
        Gap { from: Lsn(from), to: Lsn(to) }
    }

    struct Scene {
        plan: Plan,
        history: History,
        writer: Writer,
        unchecked: Gap,
        able: SlotSet,
        in_hand: Option<Unit>,
        now: Duration,
        nothing: Vec<(Slot, Gap)>,
        /// Commits are made: it goes frame by frame.
        busy: bool,
    }

    fn scene() -> Scene {
        let entry = |epoch, begin, end| Entry { epoch, begin, end };
        Scene {
            plan: Plan::new(25, ScrubMark::default()),
            history: History::from_entries(vec![entry(1, BEGIN, END), entry(2, OPEN, Lsn::MAX)]).unwrap(),
            writer: Writer::new(OPEN, SlotSet::ALL),
            unchecked: Gap::NONE,
            able: SlotSet::ALL,
            in_hand: None,
            now: Duration::from_secs(100),
            nothing: Vec::new(),
            busy: true,
        }
    }

    impl Scene {
        fn next(&mut self) -> Option<Unit> {
            let (unchecked, able, in_hand, now) = (self.unchecked, self.able, self.in_hand.as_ref(), self.now);
            let (history, writer) = (self.history.entries(), &self.writer);
            if self.busy {
                self.plan.active_at = Some(now);
            }
            let s = Situation { history, writer, unchecked, able, fillable: able, in_hand, now };
            self.plan.next(&s, &mut self.nothing)
        }

        /// Why, and which part.
        fn told(&mut self) -> Option<(Why, Gap)> {
            self.next().map(|u| (u.why, Gap { from: u.part.from, to: u.part.to }))
        }
    }

    fn set(slots: &[u8]) -> SlotSet {
        slots.iter().map(|s| Slot(*s)).collect()
    }

    #[test]
    fn parts_lie_within_frames_and_touch_an_entry() {
        let history = scene().history;
        for (from, to, want) in [
            (0, MIB, Some((BEGIN.0, MIB))),
            (0, u64::MAX, Some((BEGIN.0, MIB))),
            (MIB + 7, 2 * MIB, Some((MIB, 2 * MIB))),
            // It begins where a group can, and ends where it is asked to.
            (3 * MIB + 7, 3 * MIB + 9, Some((3 * MIB, 3 * MIB + 9))),
            (5 * MIB, u64::MAX, Some((5 * MIB, 6 * MIB))),
            // Between the epochs there is nothing.
            (END.0, OPEN.0, None),
            (6 * MIB, u64::MAX, Some((OPEN.0, OPEN.0 + MIB))),
            (OPEN.0 + 1, OPEN.0 + 1, None),
        ] {
            let part = part_at(history.entries(), Lsn(from), Lsn(to), 1);
            assert_eq!(part.as_ref().map(|p| (p.from.0, p.to.0)), want, "{from} to {to}");
            assert!(part.is_none_or(|p| p.entries.len() == 1));
        }
    }

    #[test]
    fn a_part_has_all_entries_that_lie_in_it() {
        let entry = |epoch, begin, end| Entry { epoch, begin: Lsn(begin), end: Lsn(end) };
        let entries = vec![
            entry(1, 4096, 9000),
            // Epochs without a record; the second as no writer leaves one.
            entry(2, 20_000, 20_000),
            entry(3, 40_000, 40_000),
            entry(4, 40_000, 2 * MIB),
            entry(5, 2 * MIB, 2 * MIB + 5),
            entry(6, 3 * MIB, u64::MAX),
        ];
        let history = History::from_entries(entries).unwrap();
        let told = |from, to, frames| {
            let part = part_at(history.entries(), Lsn(from), Lsn(to), frames)?;
            Some((part.from.0, part.to.0, part.entries.iter().map(|e| e.epoch).collect::<Vec<_>>()))
        };
        for (from, to, frames, want) in [
            (0, u64::MAX, 1, Some((4096, MIB, vec![1, 2, 3, 4]))),
            (9000, u64::MAX, 1, Some((40_000, MIB, vec![4]))),
            (9000, 40_000, 1, None),
            (MIB, 2 * MIB, 2, Some((MIB, 2 * MIB, vec![4]))),
            (MIB, u64::MAX, 2, Some((MIB, 3 * MIB, vec![4, 5]))),
            (MIB, u64::MAX, 3, Some((MIB, 4 * MIB, vec![4, 5, 6]))),
        ] {
            assert_eq!(told(from, to, frames), want, "{from} to {to}");
        }
    }

    #[test]
    fn bytes_of_the_log_are_counted_within_epochs() {
        let history = scene().history;
        let first = END - BEGIN;
        for (from, to, bytes) in [
            (0, MIB, MIB - BEGIN.0),
            (MIB, 2 * MIB, MIB),
            (0, OPEN.0, first),
            (END.0, OPEN.0, 0),
            (2 * MIB, OPEN.0 + 7, END.0 - 2 * MIB + 7),
        ] {
            assert_eq!(bytes_in(history.entries(), gap(from, to)), bytes, "{from} to {to}");
        }
        for (bytes, at) in [(0, BEGIN), (7, BEGIN + 7), (first, END), (first + 1, OPEN + 1), (first + MIB, OPEN + MIB)]
        {
            assert_eq!(address_of(history.entries(), bytes), at, "{bytes}");
        }
    }

    #[test]
    fn first_wounds_then_the_unchecked_then_gaps_then_the_scrub() {
        let mut s = scene();
        s.plan.scrub_now(OPEN, 1);
        s.writer.suspect(Slot(3), gap(2 * MIB, 3 * MIB));
        s.unchecked = gap(MIB, 2 * MIB);
        s.plan.wound(Lsn(4 * MIB + 5));
        assert!(s.plan.has_wounds());
        assert_eq!(s.told(), Some((Why::Wound, gap(4 * MIB, 5 * MIB))));
        assert!(!s.plan.has_wounds());
        assert_eq!(s.told(), Some((Why::Check, gap(MIB, 2 * MIB))));
        s.unchecked = Gap::NONE;
        assert_eq!(s.told(), Some((Why::Fill, gap(2 * MIB, 3 * MIB))));
        s.writer.filled(Slot(3), gap(2 * MIB, 3 * MIB));
        assert_eq!(s.told(), Some((Why::Scrub, gap(BEGIN.0, MIB))));
        // What a reader needs is mended all the same; nobody is asked where nobody is able.
        s.plan.paused = true;
        assert_eq!(s.told(), None);
        s.plan.wound(Lsn(5));
        s.able = SlotSet::NONE;
        assert_eq!(s.told(), None);
        s.able = SlotSet::ALL;
        assert_eq!(s.told(), Some((Why::Wound, gap(BEGIN.0, MIB))));
    }

    #[test]
    fn wounds_are_frames_each_once_and_bounded() {
        let mut s = scene();
        for _ in 0..2 {
            (0..WOUNDS_MAX as u64 + 5).for_each(|n| s.plan.wound(Lsn(n * MIB + n)));
        }
        assert_eq!(s.plan.wounds.len(), WOUNDS_MAX);
        // Those without an address of the log are passed over.
        let mended: Vec<_> = std::iter::from_fn(|| s.told()).collect();
        assert_eq!(mended.len(), 6, "{mended:?}");
        assert!(!s.plan.has_wounds());
    }

    #[test]
    fn the_lowest_gap_is_filled_on_all_that_lack_it_from_one_that_is_whole() {
        let mut s = scene();
        s.writer.suspect(Slot(1), gap(2 * MIB, 4 * MIB));
        s.writer.suspect(Slot(4), gap(MIB + 1, 3 * MIB));
        let unit = s.next().unwrap();
        assert_eq!((unit.part.from, unit.targets, unit.stretch), (Lsn(MIB), set(&[4]), gap(MIB + 1, 2 * MIB)));
        // Sources take turns, 0, 2, 3, 5, every eighth frame.
        assert_eq!(unit.read, set(&[4, 0]));
        s.in_hand = Some(unit);
        let unit = s.next().unwrap();
        assert_eq!((unit.part.from, unit.targets, unit.read), (Lsn(2 * MIB), set(&[1, 4]), set(&[0, 1, 4])));
        // Where none is whole all are read.
        (s.in_hand, s.able) = (None, set(&[1, 4]));
        assert_eq!(s.next().map(|u| u.read), Some(set(&[1, 4])));
        s.able = set(&[0, 2, 3, 5]);
        assert!(s.next().is_none(), "who lacks it is not able");
    }

    #[test]
    fn what_is_in_hand_is_passed_over_and_what_lies_below_it_is_not() {
        let mut s = scene();
        s.writer.suspect(Slot(1), gap(2 * MIB, 3 * MIB));
        let unit = s.next().unwrap();
        assert!(unit.counts(Slot(1)) && !unit.counts(Slot(0)), "it is filled on one");
        s.in_hand = Some(unit);
        assert!(s.next().is_none());
        s.writer.suspect(Slot(4), gap(MIB, 2 * MIB));
        assert_eq!(s.told(), Some((Why::Fill, gap(MIB, 2 * MIB))));
        // What is in hand for a gap is looked at all the same for something else.
        s.unchecked = gap(2 * MIB, 3 * MIB);
        assert_eq!(s.told(), Some((Why::Check, gap(2 * MIB, 3 * MIB))));
        // Two that lack one frame: the first one's stretch, which is all that it lacks there.
        let mut s = scene();
        s.writer.suspect(Slot(1), gap(2 * MIB + 9, 3 * MIB));
        s.writer.suspect(Slot(4), gap(2 * MIB + 5, 3 * MIB));
        let unit = s.next().unwrap();
        assert_eq!((unit.stretch, unit.targets), (gap(2 * MIB + 9, 3 * MIB), set(&[1, 4])));
        // The rest of a gap has no log, and its first part is in hand: nothing is known of it as a whole.
        let mut s = scene();
        s.writer.suspect(Slot(1), Gap { from: Lsn(5 * MIB), to: OPEN });
        s.in_hand = s.next();
        assert!(s.next().is_none() && s.nothing.is_empty());
    }

    #[test]
    fn sources_take_turns() {
        let mut s = scene();
        s.writer = Writer::new(OPEN + 20 * MIB, SlotSet::ALL);
        s.writer.suspect(Slot(5), Gap { from: OPEN + 8 * MIB, to: OPEN + 9 * MIB });
        // The ninth stretch of eight frames, five sources.
        assert_eq!(s.next().map(|u| (u.read, u.keep)), Some((set(&[4, 5]), set(&[4]))));
    }

    #[test]
    fn idle_it_surveys_some_frames_and_reads_closely_where_something_is_wrong() {
        let mut s = scene();
        let told = |s: &mut Scene, from, to| {
            s.unchecked = gap(from, to);
            s.next().map(|u| (u.part.to.0 / MIB, u.is_survey()))
        };
        assert_eq!(told(&mut s, MIB, 4 * MIB), Some((2, true)), "commits are made");
        s.busy = false;
        s.now += ACTIVE;
        assert_eq!(told(&mut s, MIB, 4 * MIB), Some((4, true)));
        assert_eq!(told(&mut s, 0, OPEN.0), Some((WIDE, true)));
        s.unchecked = gap(MIB, 3 * MIB);
        let unit = s.next().unwrap();
        assert_eq!((unit.keep, unit.read, unit.counts(Slot(0))), (SlotSet::NONE, SlotSet::ALL, true));
        s.plan.look_closely(&unit);
        assert_eq!(told(&mut s, MIB, 3 * MIB), Some((2, false)));
        assert_eq!(told(&mut s, 2 * MIB, 3 * MIB), Some((3, false)));
        assert_eq!(told(&mut s, 3 * MIB, 5 * MIB), Some((5, true)), "behind it");
        assert_eq!(told(&mut s, 0, 3 * MIB), Some((3, true)), "before it");
        // Where something cannot be made whole a survey would pass over too much.
        s.plan.park(&unit.part, SlotSet::ALL);
        assert_eq!(told(&mut s, 3 * MIB, 5 * MIB), Some((4, true)));
        s.unchecked = Gap::NONE;
        s.plan.scrub_now(OPEN, 1);
        let unit = s.next().unwrap();
        assert!(unit.is_survey() && !unit.counts(Slot(0)), "what a scrub reads was counted before");
    }

    #[test]
    fn a_gap_without_a_log_is_none() {
        let mut s = scene();
        s.writer.suspect(Slot(2), Gap { from: END, to: OPEN });
        assert!(s.next().is_none());
        assert_eq!(s.nothing, [(Slot(2), Gap { from: END, to: OPEN })]);
        // Above what is durable nothing is known yet.
        let mut s = scene();
        s.writer.suspect(Slot(2), Gap { from: END, to: OPEN + MIB });
        assert!(s.next().is_none() && s.nothing.is_empty());
    }

    #[test]
    fn what_nobody_has_is_left_until_another_slot_is_there() {
        let mut s = scene();
        s.able = set(&[0, 1, 2]);
        s.writer.suspect(Slot(1), gap(MIB, 3 * MIB));
        let unit = s.next().unwrap();
        s.plan.park(&unit.part, s.able);
        assert_eq!(s.told(), Some((Why::Fill, gap(2 * MIB, 3 * MIB))), "what follows is filled all the same");
        s.writer.filled(Slot(1), gap(2 * MIB, 3 * MIB));
        assert_eq!((s.told(), s.plan.parked()), (None, 1));
        s.able = set(&[0, 1]);
        assert_eq!(s.told(), None, "fewer are of no use");
        s.able = set(&[0, 1, 5]);
        assert_eq!(s.told(), Some((Why::Fill, gap(MIB, 2 * MIB))));
        s.able = set(&[0, 1, 2]);
        s.plan.unpark();
        assert_eq!(s.told(), Some((Why::Fill, gap(MIB, 2 * MIB))));
        for n in 0..PARKED_MAX as u64 + 5 {
            s.plan.park(&Part { from: Lsn(n * MIB), to: Lsn((n + 1) * MIB), entries: [].into() }, s.able);
        }
        assert_eq!(s.plan.parked(), PARKED_MAX);
    }

    #[test]
    fn a_slot_is_to_have_what_lies_below_its_cursor() {
        let mut s = scene();
        s.writer.leave(Slot(3), Away::Error);
        s.plan.wound(Lsn(5));
        let want = Slot::ALL.map(|slot| if slot == Slot(3) { Lsn::NONE } else { OPEN });
        assert_eq!(s.next().map(|u| u.limits), Some(want));
    }

    #[test]
    fn while_commits_are_made_it_takes_its_share_of_the_time() {
        let mut s = scene();
        let ms = Duration::from_millis;
        s.plan.saw_tail(OPEN, s.now);
        assert!(!s.plan.gives_way(s.now), "the first sight of the tail is no commit");
        s.plan.saw_tail(OPEN + 1, s.now);
        s.plan.scrub_now(OPEN, 1);
        let unit = s.next().unwrap();
        s.now += ms(20);
        s.plan.ended(&unit, s.now);
        // A quarter: 20 ms of work, 60 of rest.
        assert_eq!((s.plan.due(s.now), s.told()), (Some(s.now + ms(60)), None));
        s.now += ms(60);
        assert_eq!(s.told(), Some((Why::Scrub, gap(MIB, 2 * MIB))));
        // Idle again: no rest.
        let unit = s.next().unwrap();
        s.now += ms(500);
        s.plan.ended(&unit, s.now);
        assert_eq!(s.plan.due(s.now), None);
        // However long a frame took, the rest is bounded.
        s.plan.saw_tail(OPEN + 2, s.now);
        s.plan.ended(&Unit { begun: Duration::ZERO, ..unit }, s.now);
        assert_eq!(s.plan.due(s.now), Some(s.now + REST_MAX));
    }

    #[test]
    fn commits_are_being_made_for_a_while_after_the_tail_moved() {
        let mut s = scene();
        s.plan.scrub_now(OPEN, 1);
        let unit = s.next().unwrap();
        s.plan.saw_tail(OPEN, s.now);
        let moved = s.now + ACTIVE;
        s.plan.saw_tail(OPEN + 1, moved);
        // It stands still, or another one's is told late.
        s.plan.saw_tail(OPEN + 1, moved + ACTIVE / 2);
        s.plan.saw_tail(OPEN, moved + ACTIVE / 2);
        for (now, gives_way) in
            [(moved, true), (moved + ACTIVE - Duration::from_nanos(1), true), (moved + ACTIVE, false)]
        {
            assert_eq!(s.plan.gives_way(now), gives_way, "{now:?}");
            s.plan.ended(&unit, now);
            assert_eq!(s.plan.due(now).is_some(), gives_way, "{now:?}");
        }
    }

    #[test]
    fn a_scrub_reads_each_frame_once_and_ends() {
        let mut s = scene();
        s.plan.scrub_now(OPEN, 7);
        let mut read = Vec::new();
        while let Some(unit) = s.next() {
            read.push(unit.part.from.0 / MIB);
            assert_eq!((unit.targets, unit.read), (SlotSet::ALL, SlotSet::ALL));
            // While one is mended the next is read.
            s.in_hand = Some(unit.clone());
            if let Some(next) = s.next() {
                assert_eq!(next.part.from, unit.part.to);
            }
            s.in_hand = None;
            s.plan.ended(&unit, s.now);
        }
        assert_eq!(read, [0, 1, 2, 3, 4, 5]);
        assert_eq!((s.plan.rounds, s.plan.is_urgent(), s.plan.mark), (1, false, ScrubMark::default()));
        assert_eq!(s.plan.scrub_left(), None);
    }

    #[test]
    fn a_scrub_ends_when_what_is_in_hand_has_ended() {
        let mut s = scene();
        s.writer.suspect(Slot(1), gap(2 * MIB, 3 * MIB));
        s.in_hand = s.next();
        s.plan.scrub_now(Lsn(MIB), 7);
        assert!(s.plan.is_urgent());
        // What is being filled was begun before the scrub, and is no part of it.
        let unit = s.next().unwrap();
        assert_eq!((unit.why, unit.stretch), (Why::Scrub, gap(0, MIB)));
        assert_eq!(s.plan.scrub_left(), Some(gap(0, MIB)));
        s.writer.filled(Slot(1), gap(2 * MIB, 3 * MIB));
        s.in_hand = Some(unit.clone());
        assert!(s.next().is_none());
        assert_eq!((s.plan.rounds, s.plan.is_urgent()), (0, true), "it is being mended");
        s.in_hand = None;
        // Something else that ends is no progress of it.
        s.plan.ended(&Unit { why: Why::Check, ..unit.clone() }, s.now);
        assert_eq!(s.plan.scrub_left(), Some(gap(0, MIB)));
        s.plan.ended(&unit, s.now);
        assert_eq!(s.plan.scrub_left(), Some(gap(MIB, MIB)));
        assert!(s.next().is_none());
        assert_eq!((s.plan.rounds, s.plan.is_urgent()), (1, false));
    }

    #[test]
    fn what_was_read_before_a_scrub_was_asked_for_is_read_again() {
        let mut s = scene();
        s.plan.scrub_now(OPEN, 7);
        let unit = s.next().unwrap();
        s.plan.scrub_now(OPEN, 8);
        s.in_hand = Some(unit.clone());
        assert!(s.next().is_none(), "it is still being mended");
        s.in_hand = None;
        s.plan.ended(&unit, s.now);
        assert_eq!(s.next().map(|u| u.part.from), Some(unit.part.from));
    }

    #[test]
    fn the_scrub_keeps_its_pace() {
        let mut s = scene();
        let (hour, us) = (Duration::from_secs(3600), 3_600_000_000);
        // The log is shorter than a burst: it is read once, at the end of the period.
        assert_eq!(s.plan.pace(s.history.entries(), OPEN, us, hour), hour);
        assert_eq!(s.told(), None);
        assert_eq!(s.plan.pace(s.history.entries(), OPEN, 2 * us - 1, hour), Duration::from_micros(1));
        assert_eq!(s.plan.pace(s.history.entries(), OPEN, 2 * us, hour), Duration::ZERO);
        assert_eq!(s.told(), Some((Why::Scrub, gap(BEGIN.0, MIB))));
        // A clock that went back begins anew.
        let mut s = scene();
        s.plan.mark.begun_us = 5 * us;
        assert_eq!(s.plan.pace(s.history.entries(), OPEN, us, hour), hour);
        assert_eq!(s.plan.pace(s.history.entries(), OPEN, 2 * us, hour), Duration::ZERO);
    }

    #[test]
    fn a_long_log_is_scrubbed_in_bursts() {
        let mut s = scene();
        let (hour, us) = (Duration::from_secs(3600), 3_600_000_000);
        // Four bursts: one in each quarter.
        let to = OPEN + (4 * BURST - (END - BEGIN));
        s.writer = Writer::new(to, SlotSet::ALL);
        assert_eq!(s.plan.pace(s.history.entries(), to, us, hour), hour / 4);
        assert_eq!(s.plan.pace(s.history.entries(), to, us + us / 4, hour), Duration::ZERO);
        let burst = address_of(s.history.entries(), BURST).ceil(MIB);
        assert_eq!(s.plan.round.map(|r| (r.to, r.burst, r.urgent)), Some((to, burst, false)));
        // Until it is read there is no other, however late it is.
        s.plan.mark.at = Lsn(burst.0 - MIB);
        assert_eq!(s.plan.pace(s.history.entries(), to, 9 * us, hour), REST_MAX);
        assert_eq!(s.told(), Some((Why::Scrub, Gap { from: Lsn(burst.0 - MIB), to: burst })));
        s.plan.mark.at = burst;
        assert_eq!((s.told(), s.plan.rounds), (None, 0));
        // The next one is due by what was read, up to a frame's end.
        let due = s.plan.pace(s.history.entries(), to, us + us / 4, hour);
        assert!(due > hour / 4 && due < hour / 4 + hour / 200, "{due:?}");
        // One that is asked for knows no pace.
        s.plan.scrub_now(to, 2 * us);
        s.plan.mark.at = to;
        assert_eq!(s.plan.pace(s.history.entries(), to, 9 * us, hour), REST_MAX);
    }
}
