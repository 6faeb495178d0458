//! What an open decides about the open entry of the history. PROTOCOL.md, "Open for writing", steps 3 and 4.

use crate::bugs::{Bug, planted};
use crate::core::WRITE_QUORUM;
use crate::core::history::{self, Entry};
use crate::lsn::{Lsn, Slot, SlotSet, format};
use std::collections::BTreeMap;

/// A group address that some slot had something valid at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Behind the group; none where it is whole on no slot.
    pub end: Lsn,
    /// Slots on which the whole group verifies, in the segment or in a tail file.
    pub whole: SlotSet,
    /// Behind the last record in it that ends an MTR.
    pub cpl: Option<Lsn>,
    /// The highest VDL that any valid record of it knows, on any slot.
    pub vdl: Lsn,
}

/// All that was seen of the open entry, by address.
pub type Sightings = BTreeMap<Lsn, Seen>;

/// What the union of the reachable slots says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ruling {
    /// VDL is known to have been here.
    pub known: Lsn,
    /// VCL of the union: every group below is on some slot.
    pub vcl: Lsn,
    /// The open entry ends here: behind the highest CPL below VCL.
    pub end: Lsn,
    /// The groups of [max(known, begin), end), whole, which must be on four slots before the decision.
    pub tail: Vec<(Lsn, Lsn)>,
    /// Where the next epoch begins.
    pub next_begin: Lsn,
}

/// No reachable slot has a copy, and VDL was beyond: the log does not end here, it is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no good copy of LSN {at} in reach, though VDL was {known}")]
pub struct Lost {
    pub at: Lsn,
    pub known: Lsn,
}

/// Decides. `from` is where the scan began: the entry's begin, or where the manifest lets redo begin.
/// `testified` is the highest of the join points that count and the manifest's end.
pub fn rule(open: Entry, from: Lsn, seen: &Sightings, testified: Lsn) -> Result<Ruling, Lost> {
    let from = from.max(open.begin);
    let known = seen.values().map(|s| s.vdl).max().unwrap_or(Lsn::NONE).max(testified);
    let (mut vcl, mut end) = (from, from);
    while let Some(group) = seen.get(&vcl).filter(|s| s.whole.len() > 0) {
        end = if planted(Bug::HalfMtr) { group.end } else { group.cpl.unwrap_or(end) };
        vcl = group.end;
    }
    let garbage = seen.get(&vcl).is_some_and(|s| s.whole.len() == 0);
    if planted(Bug::StrictGarbage) && garbage {
        return Err(Lost { at: vcl, known });
    }
    if known > end && !planted(Bug::MissingEndsLog) {
        return Err(Lost { at: vcl, known });
    }
    let low = known.max(open.begin);
    let tail = seen.range(from..end).filter(|(_, s)| s.end > low).map(|(begin, s)| (*begin, s.end)).collect();
    let next_begin = match () {
        () if planted(Bug::BeginShort) => Lsn(history::reach(vcl).0 - format::BLOCK_MIN),
        () if planted(Bug::BeginFromVdl) => history::reach(end),
        () if planted(Bug::EmptyEpochsShareBegin) && vcl == open.begin => open.begin,
        () => history::reach(vcl.max(open.begin)),
    };
    Ok(Ruling { known, vcl, end, tail, next_begin })
}

/// What one slot still needs of the tail: the groups that are not whole there.
pub fn lacking(ruling: &Ruling, seen: &Sightings, slot: Slot) -> Vec<(Lsn, Lsn)> {
    let missing = |begin: &Lsn| seen.get(begin).is_none_or(|s| !s.whole.contains(slot));
    ruling.tail.iter().filter(|(begin, _)| missing(begin)).copied().collect()
}

/// How far what a reader found is certain, and whether the chosen decision is. PROTOCOL.md, "Read-only".
///
/// `holders` have the decision; of `flushed`, what was read is durable. `unclaimed` looks, after all of that was read.
pub fn settled(
    open: Entry,
    ruling: &Ruling,
    seen: &Sightings,
    holders: SlotSet,
    flushed: SlotSet,
    unclaimed: impl FnOnce() -> bool,
) -> (Lsn, bool) {
    let used = ruling.vcl > open.begin;
    let decision = holders.and(flushed).len() >= WRITE_QUORUM || used || planted(Bug::SettledByMinority);
    let mut settled = ruling.known;
    if decision {
        settled = settled.max(open.begin.min(ruling.end));
        let on_four = |begin: &Lsn| seen.get(begin).filter(|s| s.whole.and(flushed).len() >= WRITE_QUORUM);
        // The unbroken run of groups that are whole on four slots each.
        let run = ruling.tail.iter().map_while(|(begin, _)| on_four(begin)).filter_map(|group| group.cpl);
        let any = ruling.tail.iter().filter_map(|(begin, _)| on_four(begin)?.cpl);
        if let Some(end) = if planted(Bug::SettledAcrossGap) { any.max() } else { run.max() }
            && unclaimed()
        {
            settled = settled.max(end);
        }
    }
    (settled.min(ruling.end), decision)
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: u64 = 4096;

    fn open() -> Entry {
        Entry { epoch: 1, begin: Lsn(B), end: Lsn::MAX }
    }

    /// Groups of one block; (number, slots that have it whole, ends an MTR, VDL known as a block number).
    fn seen(groups: &[(u64, &[u8], bool, u64)]) -> Sightings {
        groups
            .iter()
            .map(|&(n, whole, cpl, vdl)| {
                let begin = Lsn(n * B);
                let whole: SlotSet = whole.iter().map(|&s| Slot(s)).collect();
                let end = if whole.len() > 0 { begin + B } else { Lsn::NONE };
                (begin, Seen { end, whole, cpl: cpl.then_some(begin + 200), vdl: Lsn(vdl) })
            })
            .collect()
    }

    #[test]
    fn the_log_ends_where_no_slot_has_a_copy_and_nothing_testifies() {
        let s = seen(&[(1, &[0, 1, 2, 3], true, 0), (2, &[4], true, B + 200), (4, &[0], true, B + 200)]);
        let r = rule(open(), Lsn(B), &s, Lsn::NONE).unwrap();
        assert_eq!((r.vcl, r.end, r.known), (Lsn(3 * B), Lsn(2 * B + 200), Lsn(B + 200)));
        assert_eq!(r.tail, vec![(Lsn(B), Lsn(2 * B)), (Lsn(2 * B), Lsn(3 * B))]);
        assert_eq!(lacking(&r, &s, Slot(4)), vec![(Lsn(B), Lsn(2 * B))]);
    }

    #[test]
    fn an_empty_epoch_ends_where_it_begins() {
        let r = rule(open(), Lsn(B), &Sightings::new(), Lsn::NONE).unwrap();
        assert_eq!((r.vcl, r.end, r.tail.len()), (Lsn(B), Lsn(B), 0));
    }

    #[test]
    fn half_an_mtr_is_not_in_the_log() {
        // Trace 4.
        let s = seen(&[(1, &[0, 1, 2, 3], true, 0), (2, &[0, 1, 2, 3], false, 0)]);
        let r = rule(open(), Lsn(B), &s, Lsn::NONE).unwrap();
        assert_eq!((r.vcl, r.end), (Lsn(3 * B), Lsn(B + 200)));
    }

    #[test]
    fn a_missing_record_below_the_known_vdl_is_lost_not_an_end() {
        // Trace 5: a later record, whole or in a torn group, or a join point, says that VDL was beyond.
        let later = seen(&[(1, &[0], true, 0), (3, &[5], true, 2 * B + 200)]);
        let torn = seen(&[(1, &[0], true, 0), (3, &[], false, 2 * B + 200)]);
        let lost = Err(Lost { at: Lsn(2 * B), known: Lsn(2 * B + 200) });
        assert_eq!(rule(open(), Lsn(B), &later, Lsn::NONE), lost);
        assert_eq!(rule(open(), Lsn(B), &torn, Lsn::NONE), lost);
        let joined = seen(&[(1, &[0], true, 0)]);
        assert_eq!(rule(open(), Lsn(B), &joined, Lsn(2 * B + 200)), lost);
    }

    #[test]
    fn garbage_above_the_known_vdl_is_a_no() {
        // Trace 6.
        let s = seen(&[(1, &[0, 1, 2, 3], true, 0), (2, &[], false, B + 200)]);
        let r = rule(open(), Lsn(B), &s, Lsn::NONE).unwrap();
        assert_eq!((r.vcl, r.end), (Lsn(2 * B), Lsn(B + 200)));
    }

    #[test]
    fn the_next_epoch_begins_beyond_the_unions_vcl_and_the_last_begin() {
        // Traces 8 and 9.
        let far = Entry { epoch: 4, begin: Lsn(10 * history::reach(Lsn(B)).0), end: Lsn::MAX };
        let r = rule(far, far.begin, &Sightings::new(), Lsn::NONE).unwrap();
        assert_eq!(r.next_begin, history::reach(far.begin));
        let s = seen(&[(1, &[3], false, 0)]);
        let r = rule(open(), Lsn(B), &s, Lsn::NONE).unwrap();
        assert_eq!((r.end, r.next_begin), (Lsn(B), history::reach(Lsn(2 * B))));
        // Where the reach of the end and that of VCL differ: half an MTR is all there is.
        let last = (format::EXTENT - format::LAL) / B;
        let s = seen(&[(last, &[3], false, 0)]);
        let r = rule(open(), Lsn(last * B), &s, Lsn::NONE).unwrap();
        assert_eq!((r.end, r.next_begin), (Lsn(last * B), Lsn(2 * format::EXTENT)));
    }

    #[test]
    fn what_vdl_is_known_to_cover_needs_no_copying() {
        let all: &[u8] = &[0, 1, 2, 3];
        let s = seen(&[(1, all, true, 0), (2, all, true, 2 * B), (3, all, true, 3 * B)]);
        assert_eq!(rule(open(), Lsn(B), &s, Lsn::NONE).unwrap().tail, vec![(Lsn(3 * B), Lsn(4 * B))]);
    }

    #[test]
    fn only_what_lies_beyond_the_known_vdl_and_below_the_end_is_copied() {
        // Half an MTR behind the end, and a scan that begins in the midst.
        let s = seen(&[(1, &[0], true, 0), (2, &[1], true, B + 200), (3, &[2], true, 0), (4, &[3], false, 0)]);
        let (two, three) = ((Lsn(2 * B), Lsn(3 * B)), (Lsn(3 * B), Lsn(4 * B)));
        for (from, testified, tail) in [
            (B, 0, vec![(Lsn(B), Lsn(2 * B)), two, three]),
            (B, 2 * B, vec![two, three]),
            (2 * B, 0, vec![two, three]),
            (0, 3 * B + 200, vec![three]),
        ] {
            let r = rule(open(), Lsn(from), &s, Lsn(testified)).unwrap();
            assert_eq!((r.tail, r.end, r.vcl), (tail, Lsn(3 * B + 200), Lsn(5 * B)), "{from} {testified}");
        }
        // An end where a group ends: the next one holds half an MTR.
        let mut whole = s.clone();
        whole.entry(Lsn(3 * B)).and_modify(|group| group.cpl = Some(Lsn(4 * B)));
        assert_eq!(rule(open(), Lsn(B), &whole, Lsn(2 * B)).unwrap().tail, vec![two, three]);
        // VDL may be known to be the very end, and no further.
        assert!(rule(open(), Lsn(B), &s, Lsn(3 * B + 201)).is_err());
    }

    #[test]
    fn settled_is_what_four_flushed_copies_of_the_union_say() {
        let four: &[u8] = &[0, 1, 2, 3];
        let three: &[u8] = &[0, 1, 2];
        let set = |slots: &[u8]| -> SlotSet { slots.iter().map(|&s| Slot(s)).collect() };
        let (one, two) = (B + 200, 2 * B + 200);
        // (copies of two groups, VDL known as the second says it, holders, flushed, nobody claims; settled, decision)
        for (first, second, vdl, holders, flushed, clear, end, decision) in [
            (four, four, 0, four, four, true, two, true),
            (four, three, 0, four, four, true, one, true),
            // A gap in the run.
            (three, four, 0, four, four, true, B, true),
            // Four copies, of which one was not flushed.
            (four, four, 0, four, three, true, B, true),
            // Somebody may be at work.
            (four, four, 0, four, four, false, B, true),
            (four, four, one, four, four, false, one, true),
            // A record of the epoch says that its decision was made.
            (four, four, 0, three, four, true, two, true),
        ] {
            let s = seen(&[(1, first, true, 0), (2, second, true, vdl)]);
            let r = rule(open(), Lsn(B), &s, Lsn::NONE).unwrap();
            let got = settled(open(), &r, &s, set(holders), set(flushed), || clear);
            assert_eq!(got, (Lsn(end), decision), "{first:?} {second:?} {vdl} {holders:?} {flushed:?} {clear}");
        }
        // An epoch without a record: its decision must be on four slots itself.
        let r = rule(open(), Lsn(B), &Sightings::new(), Lsn::NONE).unwrap();
        for (holders, flushed, want) in
            [(four, four, (Lsn(B), true)), (three, four, (Lsn::NONE, false)), (four, three, (Lsn::NONE, false))]
        {
            assert_eq!(settled(open(), &r, &Sightings::new(), set(holders), set(flushed), || true), want);
        }
    }
}
