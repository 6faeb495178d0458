//! What slots may lack, as far as an opener can know: what superblocks say of gaps, and what they can not say.
//!
//! Everything that a slot lacks must be named here, or its gap is forgotten; what is named and is there costs a read.

use crate::bugs::{Bug, planted};
use crate::core::gaps::{Gap, Gaps};
use crate::core::history::History;
use crate::core::vote::Join;
use crate::lsn::{Lsn, Slot, format};
use crate::segment::recover::Recovered;
use crate::segment::superblock::{ScrubMark, Superblock};

/// What the new epoch's superblocks say of gaps and checks.
pub struct Doubt {
    pub gaps: Vec<(Slot, Gap)>,
    pub unchecked: Gap,
    pub scrub: ScrubMark,
}

/// Of all slots, at an open that decided where the log ends.
pub fn of_all(recovered: &Recovered) -> Doubt {
    let survey = &recovered.survey;
    let decision = &recovered.choice.decision;
    let end = recovered.ruling.end;
    let newest = Slot::ALL.map(|s| survey.files(s).and_then(|f| f.newest()));
    let decided = || newest.iter().flatten().filter(|s| s.number == decision.number);
    let mut unchecked = decided().map(|s| s.unchecked).fold(Gap::NONE, Gap::hull);
    if !recovered.clean && !planted(Bug::UncheckedForgotten) {
        // What was in flight when the writer died has landed on some slots, or in part. One was found; the others are read
        // by and by. Further back a checkpoint's superblocks know.
        let from = recovered.manifest.redo.max(recovered.history.last().begin);
        unchecked = unchecked.hull(Gap { from, to: end });
    }
    let mut gaps = Vec::new();
    for slot in Slot::ALL {
        let told = decided().flat_map(|s| &s.gaps).filter(|(s, _)| *s == slot);
        let told = told.map(|(_, g)| Gap { from: g.from, to: g.to.min(end) });
        let mut lacks = Gaps::from(told.collect::<Vec<_>>());
        match (newest[slot.index()], survey.blank().contains(slot)) {
            (Some(own), _) => {
                let newest = (decision.number, recovered.manifest_lsn, decision.clean);
                let stale = (own.number, own.manifest, own.clean) != newest;
                of_slot(Some(own), slot, &recovered.history, end, stale).into_iter().for_each(|gap| lacks.add(gap));
            }
            (None, true) => lacks.add(Gap { from: recovered.history.entries()[0].begin, to: end }),
            // Whoever reads the others meanwhile does not read this one.
            (None, false) => lacks.add(unchecked),
        }
        gaps.extend(lacks.as_slice().iter().map(|gap| (slot, *gap)));
    }
    let scrub = decided().map(|s| s.scrub).max_by_key(|s| (s.begun_us, s.at)).unwrap_or_default();
    Doubt { gaps, unchecked, scrub }
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
