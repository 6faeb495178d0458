//! What a read-only open may call settled.

use crate::segment::name::FileName;
use crate::sim::scenario::{Act, Checked, Op, Stage, ensure};
use crate::sim::traces::votes::{decides_only_on, x_on_a};

/// x: A; an opener over B, C, D, E decides that x is absent, reaches B alone, dies; read-only over B, E, F; open over A, C,
/// D, F: x is there. Rule: a decision is settled on four slots, or by a record of its epoch.
pub fn t14_a_minority_decision_is_not_settled() -> Checked {
    let (stage, _) = x_on_a()?;
    stage.open_dies("BCDE", decides_only_on("B", 2))?;
    stage.read_only("BEF")?;
    stage.open("ACDF").map(drop)
}

/// An opener has claimed, and read C, D, E, F without x. Then x is on A, B, C, D; read-only over those; the opener decides.
/// Rule: four copies are settled only if a look after them finds no higher claim.
pub fn t14_four_copies_under_a_claim() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    let (inner, mut paused) = (stage.clone(), false);
    stage.open_with("CDEF", move |call| {
        if call.is(Op::Write, FileName::Epoch(2)) && !std::mem::replace(&mut paused, true) {
            w.land_unheard("ABCD");
            inner.keep(inner.read_only("ABCD").map(drop));
        }
        Act::Go
    })?;
    Ok(())
}

/// x y: A, B; y alone, torn out of its write: C, D; read-only over A, B, C, D; open over C, D, E, F: x absent, so y too.
/// Rule: settled needs four copies of everything from the last settled point on.
pub fn t22_four_copies_after_a_gap() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = w.append_open(&[(1, 1)])?;
    w.shared.front.seal();
    let y = w.append(&[(2, 2)])?;
    w.land_on("AB")?;
    w.kill();
    for name in ["C", "D"] {
        stage.tear(&w, name, y.begin - x.begin..u64::MAX);
        ensure(stage.verifies(name, y.begin, 1), "stage: y was not torn out of its write")?;
    }
    stage.lose(&w, "EF");
    stage.read_only("ABCD")?;
    stage.open("CDEF").map(drop)
}

/// x in flight; killed; it lands in the caches of A, B, C, D; read-only over those: settled; power cut; open.
/// Rule: a copy is settled only once it was flushed after the reading.
pub fn t22_four_copies_in_caches() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = w.append(&[(1, 1)])?;
    w.kill();
    stage.land_late(&w, "ABCD");
    stage.lose(&w, "EF");
    let settled = stage.read_only("ABCD")?;
    ensure(settled == x.end, "stage: four flushed copies are not settled")?;
    stage.power_cut();
    stage.open("ABCDEF").map(drop)
}

/// The same with an opener in the reader's place: it counts four copies that nobody flushed, and copies nothing.
/// Rule: flush every slot whose copy counts, after it was read.
pub fn t22_an_open_flushes_what_it_counts() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.kill();
    stage.land_late(&w, "ABCD");
    stage.lose(&w, "EF");
    stage.open("ABCD")?;
    stage.power_cut();
    stage.open("ABCDEF").map(drop)
}

/// x: A, C, D; killed. An opener over A, B, C, D dies as it copies x to B, and the copy lands in B's cache. The next one
/// counts x four times, and copies nothing; power cut; read-only over B, E, F. (A reader settles nothing here: the opener
/// that died has left its claim.) Rule: flush what counts wherever it was found, in a tail file, too.
pub fn t22_tail_files_are_flushed_too() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ACD")?;
    w.kill();
    stage.lose(&w, "BEF");
    stage.open_dies("ABCD", |call| if call.is(Op::Write, FileName::Tail(2)) { Act::DieInIt } else { Act::Go })?;
    stage.land_all_late();
    ensure(stage.has("B", FileName::Tail(2)), "stage: B has no tail file")?;
    stage.open("ABCD")?;
    stage.power_cut();
    stage.read_only("BEF").map(drop)
}
