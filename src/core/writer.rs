//! The writer: cursors, VCL and VDL, slots that go away and come back. PROTOCOL.md, "Writer", "Away and rejoin".
//!
//! The quorum is an order statistic: VCL is the fourth highest cursor of live slots. It moves only after a look that was
//! begun once the quorum was seen and that found no higher claim.

use crate::bugs::{Bug, planted};
use crate::core::gaps::{Gap, Gaps};
use crate::core::{READ_QUORUM, WRITE_QUORUM};
use crate::log::append::Sealed;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use std::collections::VecDeque;

/// Why a slot does not count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Away {
    /// It was not reachable when the volume was opened.
    Absent,
    /// A write or sync failed.
    Error,
    /// The device is full.
    Full,
    /// It fell out of the ring: too slow, or hung.
    Behind,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct SlotState {
    away: Option<Away>,
    /// Durable without a gap since its last gap.
    cursor: Lsn,
    /// The range that is being written. It outlives the slot's being live.
    busy: Option<(Lsn, Lsn)>,
    /// Space on the slot is allocated up to here.
    allocated: Lsn,
    /// The range that is being zeroed. It outlives the slot's being live, too.
    zeroing: Option<(Lsn, Lsn)>,
    /// Space was zeroed up to here, where that was begun.
    zeroed: Lsn,
    /// Nothing at or above was ever submitted to the slot in this epoch.
    submitted: Lsn,
    gaps: Gaps,
    /// Where the present gap begins, while the slot is away.
    missing_from: Lsn,
}

/// What a look at the claims found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// At least three voters, and no claim above ours.
    Clear,
    /// Somebody has claimed a higher epoch.
    Claimed(u64),
    /// Fewer than three voters could be read: wait, and look again.
    Unsure,
}

impl Look {
    /// From the highest claim of each slot that could be read.
    pub fn judge(own: u64, claims: &[Option<u64>; SLOTS]) -> Look {
        match claims.iter().flatten().max() {
            Some(&highest) if highest > own => Look::Claimed(highest),
            _ if claims.iter().flatten().count() >= READ_QUORUM => Look::Clear,
            _ => Look::Unsure,
        }
    }
}

/// Where a rejoining slot has to be read before it counts again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RejoinRead {
    /// The group that holds VDL.
    pub from: Lsn,
    /// Nothing that this writer sent to the slot lies at or above; equal to `from` where there is nothing to read.
    pub to: Lsn,
    /// Nothing was sealed at or above.
    pub end: Lsn,
}

/// The state of one epoch's writer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Writer {
    begin: Lsn,
    vcl: Lsn,
    vdl: Lsn,
    sealed_end: Lsn,
    /// Sealed groups from VDL's on.
    sealed: VecDeque<Sealed>,
    slots: [SlotState; SLOTS],
    fenced: Option<u64>,
}

impl Writer {
    /// A writer whose epoch begins at `begin`, with the slots that took part in its opening.
    pub fn new(begin: Lsn, took_part: SlotSet) -> Writer {
        let slot = |s: Slot| SlotState {
            away: (!took_part.contains(s)).then_some(Away::Absent),
            cursor: begin,
            busy: None,
            allocated: begin,
            zeroing: None,
            zeroed: begin,
            submitted: begin,
            gaps: Gaps::default(),
            missing_from: begin,
        };
        Writer {
            begin,
            vcl: begin,
            vdl: begin,
            sealed_end: begin,
            sealed: VecDeque::new(),
            slots: Slot::ALL.map(slot),
            fenced: None,
        }
    }

    pub fn vcl(&self) -> Lsn {
        self.vcl
    }

    pub fn vdl(&self) -> Lsn {
        self.vdl
    }

    /// The higher epoch that a look found: nothing is acknowledged any more.
    pub fn fenced(&self) -> Option<u64> {
        self.fenced
    }

    pub fn live(&self) -> SlotSet {
        Slot::ALL.into_iter().filter(|s| self.slots[s.index()].away.is_none()).collect()
    }

    pub fn away(&self, slot: Slot) -> Option<Away> {
        self.slots[slot.index()].away
    }

    /// SCL: how far the slot's copy is durable since its last gap; none while it is away.
    pub fn cursor(&self, slot: Slot) -> Option<Lsn> {
        let s = &self.slots[slot.index()];
        s.away.is_none().then_some(s.cursor)
    }

    /// The range that is being written to the slot.
    pub fn busy(&self, slot: Slot) -> Option<(Lsn, Lsn)> {
        self.slots[slot.index()].busy
    }

    /// What the slot may lack, the present gap included.
    pub fn gaps(&self, slot: Slot) -> Vec<Gap> {
        let s = &self.slots[slot.index()];
        let mut gaps = s.gaps.clone();
        if s.away.is_some() {
            gaps.add(Gap { from: s.missing_from, to: self.sealed_end });
        }
        gaps.as_slice().to_vec()
    }

    /// ... and, of a live one, what it is yet to get below `redo`: further back than that nobody looks after a kill.
    pub fn gaps_below(&self, slot: Slot, redo: Lsn) -> Vec<Gap> {
        let mut gaps = self.slots[slot.index()].gaps.clone();
        match self.cursor(slot) {
            // Nothing, where it is past redo.
            Some(cursor) if !planted(Bug::LagForgotten) => gaps.add(Gap { from: cursor, to: redo }),
            Some(_) => (),
            None => return self.gaps(slot),
        }
        gaps.as_slice().to_vec()
    }

    /// What a slot may lack from before it was away, or came back last.
    pub fn past_gaps(&self, slot: Slot) -> &Gaps {
        &self.slots[slot.index()].gaps
    }

    /// The slot may lack this, too: by what an earlier epoch left, or by its own superblock.
    pub fn suspect(&mut self, slot: Slot, gap: Gap) {
        self.slots[slot.index()].gaps.add(gap);
    }

    /// Every group that begins in the stretch verifies on the slot, durably.
    pub fn filled(&mut self, slot: Slot, stretch: Gap) {
        self.slots[slot.index()].gaps.remove(stretch);
    }

    /// A group was sealed: it is the next one.
    pub fn seal(&mut self, group: Sealed) {
        assert!(group.begin == self.sealed_end && group.end > group.begin, "groups tile the log");
        self.sealed_end = group.end;
        self.sealed.push_back(group);
    }

    /// Behind the last group that was handed to the slots.
    pub fn sealed_end(&self) -> Lsn {
        self.sealed_end
    }

    /// Four slots have nothing left to write: what was appended since can be sealed now.
    pub fn wants_group(&self) -> bool {
        let idle = |s: &SlotState| s.away.is_none() && s.busy.is_none() && s.cursor == self.sealed_end;
        self.slots.iter().filter(|s| idle(s)).count() >= WRITE_QUORUM
    }

    /// The next write to a slot, whole groups of one frame. The caller submits it, and says so by [`Writer::submitted`].
    pub fn next_write(&self, slot: Slot) -> Option<(Lsn, Lsn)> {
        let s = &self.slots[slot.index()];
        if s.away.is_some() || s.busy.is_some() || self.fenced.is_some() {
            return None;
        }
        let mut limit = (self.vcl + format::LAL).min(s.allocated);
        if let Some((from, _)) = s.zeroing.filter(|_| !planted(Bug::WriteUnderZeroing)) {
            limit = limit.min(from);
        }
        let frame_end = s.cursor.floor(format::FRAME) + format::FRAME;
        let mut to = frame_end.min(self.sealed_end);
        if to > limit {
            // The last group that ends at or below the limit.
            let n = self.sealed.partition_point(|g| g.end <= limit);
            to = self.sealed.get(n.checked_sub(1)?)?.end;
        }
        (to > s.cursor).then_some((s.cursor, to))
    }

    /// The write is on its way.
    pub fn submitted(&mut self, slot: Slot, from: Lsn, to: Lsn) {
        let s = &mut self.slots[slot.index()];
        assert!(s.busy.is_none() && s.cursor == from, "one write a slot at a time, from its cursor");
        s.busy = Some((from, to));
        s.submitted = s.submitted.max(to);
    }

    /// The slot's write came back, durable or not. True if it was expected.
    pub fn wrote(&mut self, slot: Slot, failed: Option<Away>) {
        let Some((_, to)) = self.slots[slot.index()].busy.take() else { return };
        match failed {
            Some(why) => self.leave(slot, why),
            None if self.slots[slot.index()].away.is_none() => self.slots[slot.index()].cursor = to,
            None => (),
        }
    }

    /// The slot no longer counts; its cursor is forgotten.
    pub fn leave(&mut self, slot: Slot, why: Away) {
        let s = &mut self.slots[slot.index()];
        if s.away.is_none() {
            s.away = Some(why);
            s.missing_from = s.cursor;
        }
    }

    /// Space on the slot is allocated up to `to`.
    pub fn allocated(&mut self, slot: Slot, to: Lsn) {
        let s = &mut self.slots[slot.index()];
        s.allocated = s.allocated.max(to);
    }

    /// The slot's directory has lost its files, or is another one: space is taken anew.
    pub fn forget_space(&mut self, slot: Slot) {
        let s = &mut self.slots[slot.index()];
        (s.allocated, s.zeroed) = (s.cursor, s.cursor);
    }

    /// What can be zeroed of a range on a slot: space that it has, behind all that was sealed, and within what may be in
    /// flight when this writer dies. One range at a time. The caller begins it, and says so by [`Writer::zeroes`].
    pub fn next_zeroing(&self, slot: Slot, from: Lsn, to: Lsn) -> Option<(Lsn, Lsn)> {
        let s = &self.slots[slot.index()];
        if s.away.is_some() || s.zeroing.is_some() || self.fenced.is_some() || from < self.sealed_end {
            return None;
        }
        let most = if planted(Bug::ZeroBeyondReach) { to } else { self.vcl + format::LAL };
        (to <= s.allocated.min(most) && to > from).then_some((from, to))
    }

    /// The range is being zeroed: no block in it is written there before that is done.
    pub fn zeroes(&mut self, slot: Slot, from: Lsn, to: Lsn) {
        let s = &mut self.slots[slot.index()];
        assert!(s.zeroing.is_none() && from >= self.sealed_end, "one range a slot at a time, where nothing was sealed");
        s.zeroing = Some((from, to));
    }

    /// The slot's zeroing came back.
    pub fn zeroed(&mut self, slot: Slot, done: bool) {
        let s = &mut self.slots[slot.index()];
        if let Some((_, to)) = s.zeroing.take().filter(|_| done && s.away.is_none()) {
            s.zeroed = to;
        }
    }

    /// It is being zeroed.
    pub fn is_zeroed(&self, slot: Slot) -> bool {
        self.slots[slot.index()].zeroing.is_some()
    }

    pub fn zeroed_to(&self, slot: Slot) -> Lsn {
        self.slots[slot.index()].zeroed
    }

    pub fn allocated_to(&self, slot: Slot) -> Lsn {
        self.slots[slot.index()].allocated
    }

    /// Appends may be accepted up to here: space that four live slots have.
    pub fn space(&self) -> Lsn {
        self.fourth_highest(|s| s.allocated).unwrap_or(Lsn::NONE)
    }

    fn fourth_highest(&self, of: impl Fn(&SlotState) -> Lsn) -> Option<Lsn> {
        // It is asked at every turn of the engine: no memory is taken.
        let (mut all, mut live) = ([Lsn::NONE; SLOTS], 0);
        for slot in self.slots.iter().filter(|s| s.away.is_none()) {
            all[live] = of(slot);
            live += 1;
        }
        all[..live].sort_unstable_by(|a, b| b.cmp(a));
        all[..live].get(WRITE_QUORUM - 1 - usize::from(planted(Bug::AckOnThree))).copied()
    }

    /// A quorum beyond VCL: begin a look now, and hand its result and this position to [`Writer::looked`].
    pub fn wants_look(&self) -> Option<Lsn> {
        let quorum = self.fourth_highest(|s| s.cursor)?;
        (quorum > self.vcl && self.fenced.is_none()).then_some(quorum)
    }

    /// A look that was begun when `quorum` was on four slots has ended. True if VDL moved.
    pub fn looked(&mut self, quorum: Lsn, look: Look) -> bool {
        match look {
            Look::Claimed(epoch) => {
                self.fenced = Some(epoch);
                false
            }
            Look::Unsure => false,
            Look::Clear if self.fenced.is_some() => false,
            Look::Clear => {
                self.vcl = self.vcl.max(quorum);
                let n = self.sealed.partition_point(|g| g.end <= self.vcl);
                let vdl = self.sealed.iter().take(n).rev().find_map(|g| g.cpl);
                let before = self.vdl;
                self.vdl = self.vdl.max(vdl.unwrap_or(before));
                while self.sealed.front().is_some_and(|g| g.end <= self.vdl) {
                    self.sealed.pop_front();
                }
                self.vdl > before
            }
        }
    }

    /// The group that holds VDL, or the one behind.
    pub fn vdl_group(&self) -> Lsn {
        self.sealed.front().map_or(self.sealed_end, |g| g.begin)
    }

    /// May the slot begin to rejoin? Only with nothing outstanding to it.
    pub fn rejoin_read(&self, slot: Slot) -> Option<RejoinRead> {
        let s = &self.slots[slot.index()];
        let from = self.vdl_group();
        let drained = (s.busy.is_none() || planted(Bug::RejoinUnderWrite)) && s.zeroing.is_none();
        let read = RejoinRead { from, to: s.submitted.max(from), end: self.sealed_end };
        (s.away.is_some() && drained && self.fenced.is_none()).then_some(read)
    }

    /// The slot holds the newest claim and decision, and its groups up to `verified` were read back and flushed.
    /// False if VDL has moved past what was read: read again.
    pub fn rejoin(&mut self, slot: Slot, verified: Lsn) -> bool {
        let group = self.vdl_group();
        let sealed_end = self.sealed_end;
        let s = &mut self.slots[slot.index()];
        if planted(Bug::RejoinUnderWrite) {
            s.busy = None;
        }
        if s.away.is_none() || s.busy.is_some() || s.zeroing.is_some() {
            return false;
        }
        let cursor = if planted(Bug::RejoinAtTail) {
            sealed_end
        } else if planted(Bug::RejoinRewrites) {
            group
        } else if verified >= group && verified <= sealed_end {
            verified
        } else if s.submitted <= group {
            group
        } else {
            return false;
        };
        // What was read back is there. Beyond, not even what the slot had acknowledged: its disk may be another one now.
        if !planted(Bug::AbsenceForgotten) {
            let from = if planted(Bug::LossForgotten) { s.missing_from } else { s.missing_from.min(verified) };
            s.gaps.add(Gap { from, to: cursor.min(group) });
        }
        s.cursor = cursor;
        s.away = None;
        true
    }

    /// Everything that was sealed is on every live slot, and nothing is outstanding to any slot.
    pub fn is_clean(&self) -> bool {
        self.vcl == self.sealed_end
            && self.slots.iter().all(|s| {
                (s.busy.is_none() || planted(Bug::CleanUnderWrite))
                    && (s.zeroing.is_none() || planted(Bug::CleanUnderZeroing))
                    && (s.away.is_some() || s.cursor == self.sealed_end)
            })
    }

    /// Where the epoch began.
    pub fn begin(&self) -> Lsn {
        self.begin
    }
}

/// For the exploration, to which slots are alike: what is one slot's is hashed apart from the rest.
#[cfg(any(test, feature = "sim"))]
impl Writer {
    pub fn hash_slot(&self, slot: Slot, hasher: &mut impl std::hash::Hasher) {
        std::hash::Hash::hash(&self.slots[slot.index()], hasher);
    }

    pub fn hash_rest(&self, hasher: &mut impl std::hash::Hasher) {
        let Writer { begin, vcl, vdl, sealed_end, sealed, slots: _, fenced } = self;
        std::hash::Hash::hash(&(begin, vcl, vdl, sealed_end, sealed, fenced), hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u64 = 4096;

    fn writer() -> Writer {
        let mut w = Writer::new(Lsn(B), SlotSet::ALL);
        Slot::ALL.iter().for_each(|&s| w.allocated(s, Lsn(1 << 30)));
        w
    }

    fn group(w: &mut Writer, cpl: bool) -> Lsn {
        let begin = w.sealed_end();
        w.seal(Sealed { begin, end: begin + B, cpl: cpl.then_some(begin + 100) });
        begin + B
    }

    fn write(w: &mut Writer, slot: u8) -> bool {
        let Some((from, to)) = w.next_write(Slot(slot)) else { return false };
        w.submitted(Slot(slot), from, to);
        w.wrote(Slot(slot), None);
        true
    }

    fn look(w: &mut Writer) -> bool {
        w.wants_look().is_some_and(|q| w.looked(q, Look::Clear))
    }

    #[test]
    fn vcl_is_the_fourth_highest_cursor_and_vdl_the_highest_cpl_below() {
        let mut w = writer();
        let end = group(&mut w, true);
        for s in 0..3 {
            assert!(write(&mut w, s));
            assert!(!look(&mut w), "three of six are not enough");
        }
        write(&mut w, 3);
        assert!(look(&mut w));
        assert_eq!((w.vcl(), w.vdl()), (end, Lsn(B + 100)));
        group(&mut w, false);
        (0..6).for_each(|s| assert!(write(&mut w, s)));
        assert!(!look(&mut w), "half an MTR moves VCL only");
        assert_eq!((w.vcl(), w.vdl()), (end + B, Lsn(B + 100)));
    }

    #[test]
    fn nothing_moves_before_a_clear_look() {
        let mut w = writer();
        group(&mut w, true);
        (0..4).for_each(|s| assert!(write(&mut w, s)));
        let q = w.wants_look().unwrap();
        assert!(!w.looked(q, Look::Unsure));
        assert_eq!((w.vcl(), w.vdl()), (Lsn(B), Lsn(B)));
        assert!(!w.looked(q, Look::Claimed(7)));
        assert!(!w.looked(q, Look::Clear), "fenced for good");
        assert_eq!((w.vcl(), w.fenced(), w.next_write(Slot(5))), (Lsn(B), Some(7), None));
    }

    #[test]
    fn a_look_is_judged_by_three_voters() {
        let c = |claims: [u64; 6]| claims.map(|c| (c > 0).then_some(c));
        for (claims, want) in [
            ([2, 2, 2, 0, 0, 0], Look::Clear),
            ([2, 2, 0, 0, 0, 0], Look::Unsure),
            ([3, 0, 0, 0, 0, 0], Look::Claimed(3)),
            ([1, 1, 1, 2, 2, 3], Look::Claimed(3)),
            ([1, 1, 1, 0, 0, 0], Look::Clear),
        ] {
            assert_eq!(Look::judge(2, &c(claims)), want, "{claims:?}");
        }
    }

    #[test]
    fn any_two_slots_may_be_gone_and_three_may_not() {
        for a in 0..6u8 {
            for b in 0..a {
                for c in 0..b {
                    let mut w = writer();
                    w.leave(Slot(a), Away::Error);
                    w.leave(Slot(b), Away::Full);
                    group(&mut w, true);
                    (0..6).for_each(|s| {
                        write(&mut w, s);
                    });
                    assert!(look(&mut w));
                    w.leave(Slot(c), Away::Error);
                    group(&mut w, true);
                    (0..6).for_each(|s| {
                        write(&mut w, s);
                    });
                    assert!(!look(&mut w));
                }
            }
        }
    }

    #[test]
    fn the_sealed_end_is_written_at_most_a_lal_beyond_vcl() {
        let mut w = writer();
        let groups = format::LAL / B + 10;
        (0..groups).for_each(|_| {
            group(&mut w, false);
        });
        for s in 0..6 {
            while write(&mut w, s) {}
            assert!(w.cursor(Slot(s)).unwrap() <= Lsn(B) + format::LAL);
        }
        w.wants_look().map(|q| w.looked(q, Look::Clear));
        (0..6).for_each(|s| while write(&mut w, s) {});
        assert!(w.slots.iter().all(|s| s.cursor == w.sealed_end));
    }

    #[test]
    fn a_slot_rejoins_at_vdl_and_is_not_written_again_where_it_verifies() {
        let mut w = writer();
        let first = group(&mut w, true);
        (0..6).for_each(|s| assert!(write(&mut w, s)));
        look(&mut w);
        let second = group(&mut w, true);
        write(&mut w, 0);
        w.leave(Slot(0), Away::Error);
        assert_eq!(w.rejoin_read(Slot(0)), Some(RejoinRead { from: Lsn(B), to: second, end: second }));
        // The second group verified there: it is not written again.
        assert!(w.rejoin(Slot(0), second));
        assert_eq!((w.cursor(Slot(0)), w.gaps(Slot(0))), (Some(second), vec![]));
        // It did not: it is written again, from VDL's group.
        w.leave(Slot(0), Away::Error);
        assert!(w.rejoin(Slot(0), first));
        assert_eq!(w.next_write(Slot(0)), Some((first, second)));
    }

    #[test]
    fn what_a_slot_had_and_lost_while_it_was_away_is_a_gap() {
        let mut w = writer();
        let first = group(&mut w, true);
        (0..6).for_each(|s| assert!(write(&mut w, s)));
        look(&mut w);
        group(&mut w, true);
        assert!(write(&mut w, 0) && w.cursor(Slot(0)) > Some(first));
        w.leave(Slot(0), Away::Error);
        // A blank disk is read back: nothing verifies. Then VDL moves past what the slot had.
        let read = w.rejoin_read(Slot(0)).unwrap();
        assert!(read.from < first);
        group(&mut w, true);
        (1..6).for_each(|s| while write(&mut w, s) {});
        look(&mut w);
        assert!(w.rejoin(Slot(0), read.from));
        assert_eq!(w.gaps(Slot(0)), [Gap { from: read.from, to: w.vdl_group() }]);
    }

    #[test]
    fn what_a_slot_is_yet_to_get_below_redo_is_told() {
        let mut w = writer();
        let first = group(&mut w, true);
        let second = group(&mut w, true);
        (0..5).for_each(|s| while write(&mut w, s) {});
        w.suspect(Slot(5), Gap { from: Lsn(100), to: Lsn(200) });
        let told = Gap { from: Lsn(100), to: Lsn(200) };
        for (slot, redo, want) in [
            (0, second, vec![]),
            (0, first, vec![]),
            (5, Lsn(B), vec![told]),
            (5, first, vec![told, Gap { from: Lsn(B), to: first }]),
        ] {
            assert_eq!(w.gaps_below(Slot(slot), redo), want, "{slot} below {redo}");
        }
        w.leave(Slot(5), Away::Error);
        assert_eq!(
            w.gaps_below(Slot(5), first),
            [told, Gap { from: Lsn(B), to: second }],
            "it is away: whatever it misses"
        );
    }

    #[test]
    fn a_rejoin_that_was_overtaken_reads_again() {
        let mut w = writer();
        group(&mut w, true);
        (0..6).for_each(|s| assert!(write(&mut w, s)));
        look(&mut w);
        // Sent to slot 0, and it failed: some of the three groups may verify there.
        (0..3).for_each(|_| {
            group(&mut w, true);
        });
        let (from, to) = w.next_write(Slot(0)).unwrap();
        w.submitted(Slot(0), from, to);
        assert_eq!(w.rejoin_read(Slot(0)), None, "not away");
        w.leave(Slot(0), Away::Behind);
        assert_eq!(w.rejoin_read(Slot(0)), None, "a write is outstanding");
        w.wrote(Slot(0), Some(Away::Error));
        let read = w.rejoin_read(Slot(0)).unwrap();
        // Meanwhile two of them become durable elsewhere: VDL is past what was verified, below what was submitted.
        w.slots.iter_mut().skip(1).for_each(|s| s.cursor = from + 2 * B);
        assert!(look(&mut w));
        assert!(!w.rejoin(Slot(0), read.from));
        group(&mut w, true);
        (1..6).for_each(|s| {
            write(&mut w, s);
        });
        look(&mut w);
        assert!(w.rejoin(Slot(0), read.from), "all that was ever sent to it lies below VDL now");
        assert_eq!(
            w.gaps(Slot(0)),
            vec![Gap { from: read.from, to }],
            "the first was there once, and was not found again"
        );
    }

    #[test]
    fn a_late_completion_of_a_slot_that_left_moves_no_cursor() {
        let mut w = writer();
        group(&mut w, true);
        let (from, to) = w.next_write(Slot(2)).unwrap();
        w.submitted(Slot(2), from, to);
        w.leave(Slot(2), Away::Behind);
        w.wrote(Slot(2), None);
        assert_eq!((w.cursor(Slot(2)), w.away(Slot(2))), (None, Some(Away::Behind)));
        assert_eq!(w.slots[2].cursor, from, "though nothing reads it while the slot is away: equal states stay equal");
        assert!(!w.is_clean());
    }

    #[test]
    fn four_slots_must_be_idle_before_a_group_is_sealed() {
        let mut w = writer();
        group(&mut w, true);
        for s in 0..4 {
            assert!(!w.wants_group());
            write(&mut w, s);
        }
        assert!(w.wants_group());
    }

    #[test]
    fn a_write_ends_where_its_frame_or_the_space_does() {
        // (sealed blocks, allocated blocks, written before; the end of the next write), in blocks from the first.
        let frame = format::FRAME / B;
        for (sealed, space, cursor, to) in [
            (3, 1000, 1, Some(3)),
            (1, 1000, 1, None),
            (frame + 5, 1000, 2, Some(frame)),
            (frame + 5, 1000, frame, Some(frame + 5)),
            (2 * frame + 5, 1000, frame + 1, Some(2 * frame)),
            (9, 5, 1, Some(5)),
            (9, 1, 1, None),
            (frame + 5, frame - 1, 2, Some(frame - 1)),
        ] {
            let mut w = Writer::new(Lsn(B), SlotSet::ALL);
            assert_eq!((w.begin(), w.space()), (Lsn(B), Lsn(B)));
            w.allocated(Slot(0), Lsn(space * B));
            // Space is not given back.
            w.allocated(Slot(0), Lsn(B));
            assert_eq!(w.allocated_to(Slot(0)), Lsn(space * B));
            (1..sealed).for_each(|_| {
                group(&mut w, true);
            });
            w.slots[0].cursor = Lsn(cursor * B);
            assert_eq!(w.next_write(Slot(0)), to.map(|to| (Lsn(cursor * B), Lsn(to * B))), "{sealed} {space} {cursor}");
        }
    }

    #[test]
    fn a_slot_behind_vdl_is_written_up_to_its_space() {
        // What is below VDL is known by its ends no more: the slot's space must not have to end within it.
        let mut w = Writer::new(Lsn(B), SlotSet::ALL);
        (0..5).for_each(|s| w.allocated(Slot(s), Lsn(9 * B)));
        w.allocated(Slot(5), Lsn(2 * B));
        w.seal(Sealed { begin: Lsn(B), end: Lsn(2 * B), cpl: Some(Lsn(2 * B)) });
        (0..5).for_each(|s| assert!(write(&mut w, s)));
        assert!(look(&mut w));
        assert_eq!((w.sealed.len(), w.next_write(Slot(5))), (0, Some((Lsn(B), Lsn(2 * B)))));
    }

    #[test]
    fn appends_are_accepted_where_four_live_slots_have_space() {
        let mut w = Writer::new(Lsn(B), SlotSet::ALL);
        Slot::ALL.iter().for_each(|&s| w.allocated(s, Lsn(u64::from(s.0 + 2) * B)));
        assert_eq!(w.space(), Lsn(4 * B));
        w.leave(Slot(5), Away::Full);
        assert_eq!((w.space(), w.away(Slot(5)), w.live().len()), (Lsn(3 * B), Some(Away::Full), 5));
        w.leave(Slot(5), Away::Error);
        assert_eq!(w.away(Slot(5)), Some(Away::Full), "the first reason stays");
        w.leave(Slot(4), Away::Error);
        w.leave(Slot(0), Away::Error);
        assert_eq!((w.space(), w.live()), (Lsn::NONE, [1, 2, 3].map(Slot).into_iter().collect()));
    }

    #[test]
    fn a_caller_that_breaks_the_order_is_stopped() {
        let broken = |f: &dyn Fn(&mut Writer)| {
            let mut w = writer();
            group(&mut w, true);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&mut w))).is_err()
        };
        let seal = |w: &mut Writer, begin, end| w.seal(Sealed { begin: Lsn(begin), end: Lsn(end), cpl: None });
        assert!(!broken(&|w| seal(w, 2 * B, 3 * B)));
        assert!(broken(&|w| seal(w, 2 * B, 2 * B)), "an empty group");
        assert!(broken(&|w| seal(w, 3 * B, 4 * B)), "a hole in the log");
        assert!(!broken(&|w| w.submitted(Slot(0), Lsn(B), Lsn(2 * B))));
        assert!(broken(&|w| w.submitted(Slot(0), Lsn(2 * B), Lsn(3 * B))), "not at the cursor");
        assert!(broken(&|w| (0..2).for_each(|_| w.submitted(Slot(0), Lsn(B), Lsn(2 * B)))), "a write is out");
    }

    #[test]
    fn zeroing_stays_clear_of_the_log() {
        let mut w = writer();
        let (end, slot) = (group(&mut w, true), Slot(5));
        assert_eq!(w.next_zeroing(slot, Lsn(B), end + B), None, "what is sealed lies there");
        assert_eq!(w.next_zeroing(slot, end + B, end + format::LAL), None, "beyond the reach");
        assert_eq!(w.next_zeroing(slot, end + B, end + B), None, "nothing");
        let range = (end + B, end + 3 * B);
        assert_eq!(w.next_zeroing(slot, range.0, range.1), Some(range));
        w.zeroes(slot, range.0, range.1);
        assert_eq!(w.next_zeroing(slot, range.1, range.1 + B), None, "one at a time");
        // The log comes up to it, and no further.
        (0..4).for_each(|_| {
            group(&mut w, true);
        });
        assert_eq!(w.next_write(slot), Some((Lsn(B), range.0)));
        assert_eq!(w.next_write(Slot(0)), Some((Lsn(B), w.sealed_end())));
        assert!(write(&mut w, 5) && w.next_write(slot).is_none() && !w.is_clean());
        // It outlives the slot's being live, which does not rejoin under it.
        w.leave(slot, Away::Error);
        assert_eq!((w.rejoin_read(slot), w.rejoin(slot, Lsn(B)), w.zeroed_to(slot)), (None, false, Lsn(B)));
        w.zeroed(slot, true);
        assert!(w.rejoin_read(slot).is_some() && w.zeroed_to(slot) == Lsn(B), "it may be another disk by then");
        assert!(w.rejoin(slot, Lsn(B)));
        let range = (w.sealed_end(), w.sealed_end() + B);
        w.zeroes(slot, range.0, range.1);
        w.zeroed(slot, true);
        assert_eq!(w.zeroed_to(slot), range.1);
        w.forget_space(slot);
        assert_eq!(w.zeroed_to(slot), w.cursor(slot).unwrap());
    }

    #[test]
    fn a_log_is_clean_once_every_live_slot_has_all_and_nothing_is_out() {
        let mut w = writer();
        assert!(w.is_clean());
        group(&mut w, true);
        assert!(!w.is_clean());
        (0..5).for_each(|s| assert!(write(&mut w, s)));
        look(&mut w);
        assert!(!w.is_clean(), "one lacks it");
        let (from, to) = w.next_write(Slot(5)).unwrap();
        w.submitted(Slot(5), from, to);
        assert_eq!((w.busy(Slot(5)), w.busy(Slot(0)), w.next_write(Slot(5))), (Some((from, to)), None, None));
        w.leave(Slot(5), Away::Behind);
        assert!(!w.is_clean(), "it is away, and its write may still land");
        w.wrote(Slot(5), Some(Away::Error));
        assert!(w.is_clean());
        group(&mut w, false);
        (0..5).for_each(|s| assert!(write(&mut w, s)));
        assert!(!w.is_clean(), "VCL has not moved");
    }

    #[test]
    fn a_fenced_writer_neither_looks_nor_rejoins() {
        let mut w = writer();
        group(&mut w, true);
        w.leave(Slot(5), Away::Error);
        (0..4).for_each(|s| assert!(write(&mut w, s)));
        assert!(w.wants_look().is_some() && w.rejoin_read(Slot(5)).is_some());
        w.looked(Lsn(2 * B), Look::Claimed(9));
        assert_eq!((w.wants_look(), w.rejoin_read(Slot(5)), w.fenced()), (None, None, Some(9)));
    }

    #[test]
    fn a_look_moves_vcl_forward_alone_and_vdl_to_the_last_cpl() {
        let mut w = writer();
        let ends: Vec<Lsn> = [true, true, false].map(|cpl| group(&mut w, cpl)).into();
        (0..4).for_each(|s| assert!(write(&mut w, s)));
        assert_eq!(w.wants_look(), Some(ends[2]));
        // (the position at which a look began; whether VDL moves, VCL, VDL, groups kept)
        for (quorum, moved, vcl, vdl, kept) in [
            (ends[0], true, ends[0], Lsn(B + 100), 3),
            (ends[2], true, ends[2], Lsn(2 * B + 100), 2),
            (ends[1], false, ends[2], Lsn(2 * B + 100), 2),
        ] {
            assert_eq!(w.looked(quorum, Look::Clear), moved, "{quorum}");
            assert_eq!((w.vcl(), w.vdl(), w.sealed.len()), (vcl, vdl, kept), "{quorum}");
        }
        assert_eq!(w.wants_look(), None);
    }

    #[test]
    fn a_slot_rejoins_only_when_away_and_drained_within_what_is_sealed() {
        let mut w = writer();
        let end = group(&mut w, true);
        assert!(!w.rejoin(Slot(0), end), "not away");
        let (from, to) = w.next_write(Slot(0)).unwrap();
        w.submitted(Slot(0), from, to);
        w.leave(Slot(0), Away::Error);
        assert!(!w.rejoin(Slot(0), end), "a write is outstanding");
        w.wrote(Slot(0), Some(Away::Error));
        assert_eq!(w.rejoin_read(Slot(0)), Some(RejoinRead { from, to, end }));
        // Groups that this writer did not seal cannot verify.
        assert!(!w.rejoin(Slot(0), end + B));
        assert!(w.rejoin(Slot(0), from), "nothing verified: from VDL's group on");
        assert_eq!((w.cursor(Slot(0)), w.away(Slot(0))), (Some(from), None));
    }

    #[test]
    fn a_slot_that_is_away_lacks_what_was_sealed_since() {
        let mut w = writer();
        let end = group(&mut w, true);
        (0..5).for_each(|s| assert!(write(&mut w, s)));
        w.leave(Slot(0), Away::Error);
        w.leave(Slot(5), Away::Error);
        let gap = Gap { from: Lsn(B), to: end };
        assert_eq!((w.gaps(Slot(0)), w.gaps(Slot(1)), w.gaps(Slot(5))), (vec![], vec![], vec![gap]));
        // VDL goes on to the next group: what lies below it is not written there any more.
        group(&mut w, true);
        (1..5).for_each(|s| assert!(write(&mut w, s)));
        look(&mut w);
        assert!(w.rejoin(Slot(5), end));
        assert_eq!((w.gaps(Slot(5)), w.next_write(Slot(5))), (vec![gap], Some((end, end + B))));
    }
}
