//! What slots may lack, as far as an opener can know: what superblocks say of gaps, and what they can not say.
//!
//! Everything that a slot lacks must be named here, or its gap is forgotten; what is named and is there costs a read.

use crate::bugs::{Bug, planted};
use crate::core::gaps::{Gap, Gaps};
use crate::core::history::History;
use crate::core::vote::Join;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::segment::recover::Recovered;
use crate::segment::superblock::{ScrubMark, Superblock};

/// What the new epoch's superblocks say of gaps and checks.
pub struct Doubt {
    pub gaps: Vec<(Slot, Gap)>,
    pub unchecked: Gap,
    pub scrub: ScrubMark,
}

/// What an opener knows once it has decided where the log ends.
struct Known<'a> {
    newest: [Option<&'a Superblock>; SLOTS],
    blank: SlotSet,
    /// The decision that it chose, and its clean mark.
    number: u64,
    mark: Option<Lsn>,
    /// The log was closed clean.
    clean: bool,
    manifest: Lsn,
    redo: Lsn,
    history: &'a History,
    end: Lsn,
}

/// Of all slots, at an open that decided where the log ends.
pub fn of_all(recovered: &Recovered) -> Doubt {
    let survey = &recovered.survey;
    let newest = Slot::ALL.map(|s| survey.files(s).and_then(|f| f.newest()));
    Known {
        newest,
        blank: survey.blank(),
        number: recovered.choice.decision.number,
        mark: recovered.choice.decision.clean,
        clean: recovered.clean,
        manifest: recovered.named.0,
        redo: recovered.named.1,
        history: &recovered.history,
        end: recovered.ruling.end,
    }
    .doubt()
}

impl Known<'_> {
    fn doubt(&self) -> Doubt {
        let decided = || self.newest.iter().flatten().filter(|s| s.number == self.number);
        let mut unchecked = decided().map(|s| s.unchecked).fold(Gap::NONE, Gap::hull);
        if !self.clean && !planted(Bug::UncheckedForgotten) {
            // What was in flight when the writer died has landed on some slots, or in part. One was found; the others are
            // read by and by. Further back a checkpoint's superblocks know.
            let from = self.redo.max(self.history.last().begin);
            unchecked = unchecked.hull(Gap { from, to: self.end });
        }
        let mut gaps = Vec::new();
        for slot in Slot::ALL {
            let told = decided().flat_map(|s| &s.gaps).filter(|(s, _)| *s == slot);
            let told = told.map(|(_, g)| Gap { from: g.from, to: g.to.min(self.end) });
            let mut lacks = Gaps::from(told.collect::<Vec<_>>());
            match (self.newest[slot.index()], self.blank.contains(slot)) {
                (Some(own), _) => {
                    let stale = (own.number, own.manifest, own.clean) != (self.number, self.manifest, self.mark);
                    let own = of_slot(Some(own), slot, self.history, self.end, stale);
                    own.into_iter().for_each(|gap| lacks.add(gap));
                }
                (None, true) => lacks.add(Gap { from: self.history.entries()[0].begin, to: self.end }),
                // Whoever reads the others meanwhile does not read this one.
                (None, false) => lacks.add(unchecked),
            }
            gaps.extend(lacks.as_slice().iter().map(|gap| (slot, *gap)));
        }
        let scrub = decided().map(|s| s.scrub).max_by_key(|s| (s.begun_us, s.at)).unwrap_or_default();
        Doubt { gaps, unchecked, scrub }
    }
}

/// What a slot may lack below `to` by its own superblock. A `stale` one was written before others that it should have
/// got, or may have been put back.
pub fn of_slot(own: Option<&Superblock>, slot: Slot, history: &History, to: Lsn, stale: bool) -> Vec<Gap> {
    let everything = Gap { from: history.entries()[0].begin, to };
    let Some(own) = own else { return vec![everything] };
    // A gap was open when it was written down; what is above was read back, or is still to be written.
    let told = own.gaps.iter().filter(|(s, _)| *s == slot).map(|(_, g)| Gap { from: g.from, to: g.to.min(to) });
    let told: Vec<Gap> = told.collect();
    let joins = match own.join {
        Join::Founder => false,
        // Its gaps are filled before its join point goes: without one, nobody has said what it has.
        Join::At { .. } => told.is_empty() || own.join.needs_one(history),
        Join::Unset => true,
    };
    if joins {
        return vec![everything];
    }
    let mut lacks = Gaps::from(told);
    if stale && !planted(Bug::OldImageTrusted) || own.number < history.last().epoch {
        // It held what was durable when its checkpoint began, but for what was on its way to it then.
        let from = own.redo.0.saturating_sub(format::EXTENT);
        lacks.add(Gap { from: Lsn(from).max(everything.from), to });
    }
    lacks.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::history::Entry;
    use crate::segment::superblock::{Durability, Geometry};

    const BEGIN: Lsn = Lsn(4096);
    const END: Lsn = Lsn(5 * format::EXTENT);
    const REDO: Lsn = Lsn(3 * format::EXTENT);
    const EVERYTHING: Gap = Gap { from: BEGIN, to: END };

    fn gap(from: u64, to: u64) -> Gap {
        Gap { from: Lsn(from), to: Lsn(to) }
    }

    /// Epoch 1, nothing of epoch 2, and epoch 3, whose writer is the last one.
    fn history() -> History {
        let entry = |epoch, begin, end| Entry { epoch, begin, end };
        let two = Lsn(2 * format::EXTENT);
        History::from_entries(vec![entry(1, BEGIN, Lsn(9000)), entry(3, two, Lsn::MAX)]).unwrap()
    }

    /// As the last writer wrote it.
    fn superblock(slot: u8) -> Superblock {
        let id = uuid::Uuid::from_u128(1);
        Superblock {
            geometry: Geometry { volume: id, log: id, page_size: 4096, block_size: 4096, pg_size: 64 << 20 },
            slot: Slot(slot),
            number: 3,
            version: 1,
            incarnation: 0,
            history: history(),
            join: Join::Founder,
            clean: None,
            manifest: Lsn(7777),
            redo: REDO,
            durability: Durability::Dsync,
            gaps: Vec::new(),
            unchecked: Gap::NONE,
            scrub: ScrubMark::default(),
        }
    }

    #[test]
    fn what_a_slot_lacks_by_its_own_superblock() {
        let told = vec![(Slot(0), gap(1, 2)), (Slot(5), gap(50, 60)), (Slot(5), Gap { from: REDO, to: END + 9 })];
        let told_of_5 = vec![gap(50, 60), Gap { from: REDO, to: END }];
        let recent = Gap { from: Lsn(REDO.0 - format::EXTENT), to: END };
        let joined = |by| Join::At { at: Lsn(8000), by };
        let own = superblock(5);
        for (name, own, stale, want) in [
            ("it has none", None, false, vec![EVERYTHING]),
            ("it has all", Some(own.clone()), false, vec![]),
            ("it says so, also of others", Some(Superblock { gaps: told.clone(), ..own.clone() }), false, told_of_5),
            ("it may be an old image", Some(own.clone()), true, vec![recent]),
            (
                "an old one from the beginning",
                Some(Superblock { redo: Lsn(8000), ..own.clone() }),
                true,
                vec![EVERYTHING],
            ),
            ("it missed an epoch", Some(Superblock { number: 2, ..own.clone() }), false, vec![recent]),
            ("it was formatted", Some(Superblock { join: Join::Unset, ..own.clone() }), false, vec![EVERYTHING]),
            (
                "it joined, and nobody has said what it has",
                Some(Superblock { join: joined(3), ..own.clone() }),
                false,
                vec![EVERYTHING],
            ),
            (
                "it joined, and is being filled",
                Some(Superblock { join: joined(3), gaps: vec![(Slot(5), gap(50, 60))], ..own.clone() }),
                false,
                vec![gap(50, 60)],
            ),
            (
                "it joined by a decision that was passed over",
                Some(Superblock { join: joined(2), gaps: vec![(Slot(5), gap(50, 60))], ..own }),
                false,
                vec![EVERYTHING],
            ),
        ] {
            assert_eq!(of_slot(own.as_ref(), Slot(5), &history(), END, stale), want, "{name}");
        }
    }

    /// All slots are as the last writer left them, but for what a case changes.
    fn doubt(clean: bool, change: impl FnOnce(&mut [Option<Superblock>; SLOTS], &mut SlotSet)) -> Doubt {
        let mut supers = Slot::ALL.map(|s| Some(superblock(s.0)));
        let mut blank = SlotSet::NONE;
        change(&mut supers, &mut blank);
        let newest = [0, 1, 2, 3, 4, 5].map(|i| supers[i].as_ref());
        let (history, manifest) = (history(), Lsn(7777));
        Known { newest, blank, number: 3, mark: None, clean, manifest, redo: REDO, history: &history, end: END }.doubt()
    }

    #[test]
    fn what_slots_lack_by_all_superblocks() {
        let tail = Gap { from: REDO, to: END };
        let recent = Gap { from: Lsn(REDO.0 - format::EXTENT), to: END };
        // Of one slot all superblocks tell, and the others have none.
        let of_5 = |gap: Gap| vec![(Slot(5), gap)];
        let d = doubt(true, |_, _| ());
        assert_eq!((d.gaps, d.unchecked), (vec![], Gap::NONE), "closed clean");
        let d = doubt(false, |_, _| ());
        assert_eq!((d.gaps, d.unchecked), (vec![], tail), "killed: what is above redo was in nobody's sight");
        let d = doubt(false, |s, _| s[2].as_mut().unwrap().unchecked = gap(4096, 9000));
        assert_eq!((d.gaps, d.unchecked), (vec![], EVERYTHING), "one more kill before it was checked");
        let d = doubt(false, |s, _| s[5] = None);
        assert_eq!((d.gaps, d.unchecked), (of_5(tail), tail), "out of reach: it is not read with the others");
        let d = doubt(true, |s, _| s[5] = None);
        assert_eq!(d.gaps, vec![], "out of reach, and closed clean");
        let d = doubt(true, |s, blank| {
            s[5] = None;
            blank.insert(Slot(5));
        });
        assert_eq!(d.gaps, of_5(EVERYTHING), "blank");
        let d = doubt(true, |s, _| s[5].as_mut().unwrap().manifest = Lsn(6666));
        assert_eq!(d.gaps, of_5(recent), "it missed a checkpoint");
        let d = doubt(true, |s, _| s[5].as_mut().unwrap().clean = Some(END));
        assert_eq!(d.gaps, of_5(recent), "its clean mark is another one");
        let d = doubt(true, |s, _| {
            s[5] = None;
            s[0].as_mut().unwrap().gaps = vec![(Slot(5), gap(50, 60)), (Slot(5), Gap { from: REDO, to: END + 9 })];
        });
        assert_eq!(d.gaps, [(Slot(5), gap(50, 60)), (Slot(5), tail)], "one slot tells of another's, up to the end");
        let d = doubt(true, |s, _| {
            let own = s[0].as_mut().unwrap();
            (own.number, own.gaps, own.unchecked) = (2, vec![(Slot(5), gap(50, 60))], gap(50, 60));
        });
        assert_eq!((d.gaps, d.unchecked), (vec![(Slot(0), recent)], Gap::NONE), "an older decision's word is none");
    }

    #[test]
    fn the_scrub_goes_on_where_the_newest_round_is() {
        let mark = |at, begun_us| ScrubMark { at: Lsn(at), begun_us };
        let d = doubt(true, |s, _| {
            for (i, m) in [mark(900, 5), mark(100, 8), mark(200, 8)].into_iter().enumerate() {
                s[i].as_mut().unwrap().scrub = m;
            }
        });
        assert_eq!(d.scrub, mark(200, 8));
    }
}
