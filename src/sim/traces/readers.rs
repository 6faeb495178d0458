//! What a read-only open may call settled.

use crate::segment::name::FileName;
use crate::sim::scenario::{Act, Call, Checked, Op, Stage, ensure, slot};
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

/// x: A; an opener over A, B, C, D copies it to B and C, and dies while it does to D: that lands late, in D's cache. The
/// next opener counts four; power cut; read-only over D, E, F. Rule: as before, and a tail file is a copy, too.
pub fn t22_a_tail_file_is_flushed() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("A")?;
    w.kill();
    stage.lose(&w, "BCDEF");
    let on_d = |call: Call| call.is(Op::Write, FileName::Tail(2)) && call.slot == slot("D");
    stage.open_dies("ABCD", move |call| if on_d(call) { Act::DieInIt } else { Act::Go })?;
    stage.land_all_late();
    ensure(stage.has("D", FileName::Tail(2)), "stage: D did not get its copy")?;
    stage.open("ABCD")?;
    stage.power_cut();
    stage.read_only("DEF").map(drop)
}

/// x, short, and y: A; y's first block cannot be read there; killed; read-only over A, B, C.
/// Rule: of a record that is there, nothing behind it is needed. (Seeds 700000036216, 710000062098.)
pub fn a_neighbour_that_cannot_be_read() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = w.append_zeros(1)?;
    let y = w.append(&[(2, 2)])?;
    ensure(y.begin == x.begin + 4096, "stage: x is not short")?;
    w.land_on("A")?;
    w.kill();
    stage.spoil_log("A", y.begin);
    stage.read_only("ABC").map(drop)
}
