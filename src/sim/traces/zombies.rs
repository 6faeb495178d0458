//! Writers and openers that were overtaken and do not know it.

use crate::disk::SlotDir;
use crate::lsn::{Lsn, format};
use crate::segment::name::FileName;
use crate::sim::scenario::{Act, Call, Checked, Op, Opening, Stage, ensure, slot};
use crate::sim::traces::votes::{decides_only_on, x_on_a};
use crate::volume::error::OpenError;

/// A successor is open; the old writer completes x on A, B, C, D.
/// Rule: a look before anything is acknowledged.
pub fn t15_never_looking() -> Checked {
    let stage = Stage::new();
    let zombie = stage.create()?;
    stage.open("ABCDEF")?;
    zombie.append(&[(1, 1)])?;
    zombie.land_on("ABCD")
}

/// An opener reads C, D, E, F without x; the old writer completes x on A, B, C, D, looks, and acknowledges; the opener
/// decides. Rule: claim first, then read.
pub fn t15_the_fence_after_the_reading() -> Checked {
    // Just before the claim, and just after the reading: once it is in the log, once it is not acknowledged.
    for at in [(Op::Create, FileName::Claim(2)), (Op::Write, FileName::Epoch(2))] {
        let stage = Stage::new();
        let zombie = stage.create()?;
        zombie.append(&[(1, 1)])?;
        let (inner, mut met) = (stage.clone(), false);
        let opening = stage.open_with("CDEF", move |call| {
            if call.is(at.0, at.1) && !std::mem::replace(&mut met, true) {
                inner.keep(zombie.land_on("ABCD"));
            }
            Act::Go
        })?;
        ensure(matches!(opening, Opening::Open(_)), "stage: the opener is not open")?;
    }
    Ok(())
}

/// The old writer looks only before it acknowledges: its VCL runs on, so does its limit, and it writes into the successor's
/// addresses, over z. Rule: VCL and VDL, for whatever use, move only after the look.
pub fn t15_looking_only_to_acknowledge() -> Checked {
    let stage = Stage::new();
    let zombie = stage.create_with(Lsn(format::EXTENT - format::LAL))?;
    let w = stage.open("ABCDEF")?;
    let z = w.append(&[(3, 3)])?;
    w.land_on("ABCD")?;
    ensure(w.acknowledged(z) && z.begin == Lsn(format::EXTENT), "stage: z is not where it should be")?;
    zombie.hold_looks();
    (0..5).try_for_each(|_| zombie.append(&[(1, 1); 450]).map(drop))?;
    zombie.land_on("ABCD")?;
    w.kill();
    stage.read_only("AEF").map(drop)
}

/// x: A; an opener over B, C, D, E pauses between reading and decision; another opens over A, D, E, F: x is there; the first
/// goes on: x is absent. Rule: decision on four, then a look, then open.
pub fn t15_no_look_after_the_decision() -> Checked {
    let (stage, _) = x_on_a()?;
    let (inner, mut paused) = (stage.clone(), false);
    let opening = stage.open_with("BCDE", move |call| {
        if call.is(Op::Write, FileName::Epoch(2)) && !std::mem::replace(&mut paused, true) {
            inner.keep(inner.open("ADEF").map(drop));
        }
        Act::Go
    })?;
    outbid(opening)
}

fn outbid(opening: Opening) -> Checked {
    match opening {
        Opening::Refused(OpenError::Outbid { .. }) => Ok(()),
        Opening::Refused(e) => Err(format!("stage: it is refused for another reason: {e}")),
        _ => Err("stage: an opener that was overtaken opens".into()),
    }
}

/// x: A; an opener over A, D, E, F is about to claim 2 when one over B, C, D, E claims it, decides on B alone that x is
/// absent, and dies. Rule: a claim is created exclusively; fewer than four created: start again.
pub fn t16_two_openers_one_number() -> Checked {
    let (stage, _) = x_on_a()?;
    let (inner, mut met) = (stage.clone(), false);
    let opening = stage.open_with("ADEF", move |call| {
        if call.is(Op::Create, FileName::Claim(2)) && !std::mem::replace(&mut met, true) {
            inner.keep(inner.open_dies("BCDE", decides_only_on("B", 2)));
        }
        Act::Go
    })?;
    let w = match opening {
        Opening::Open(both) => both,
        refused => {
            outbid(refused)?;
            stage.open("ADEF")?
        }
    };
    w.append(&[(3, 3)])?;
    w.land_on("ADEF")?;
    w.kill();
    stage.read_only("ABC").map(drop)
}

/// An opener dies with its decision in flight to B; its successor is open, z: A, B, C, D; the late superblock lands.
/// Rule: a file an epoch, which only its opener writes. (Nothing to take out: it is the file's name.)
pub fn t17_a_late_superblock() -> Checked {
    let (stage, _) = x_on_a()?;
    let in_flight = |c: Call| match c.is(Op::Write, FileName::Epoch(2)) && c.slot == slot("B") {
        true => Act::DieInIt,
        false => Act::Go,
    };
    stage.open_dies("ABCD", in_flight)?;
    let w = stage.open("ABCDEF")?;
    let z = w.append(&[(3, 3)])?;
    w.land_on("ABCD")?;
    ensure(w.acknowledged(z), "stage: z is not acknowledged")?;
    stage.land_all_late();
    ensure(stage.has("B", FileName::Epoch(2)), "stage: the superblock did not land")?;
    w.kill();
    stage.read_only("BEF")?;
    stage.open("BCEF").map(drop)
}

/// An opener has claimed 2 on A, B, C, D, has read, and pauses. A is replaced, and the old writer, whose looks read A, E, F
/// first, formats it; then it completes x on B, C, E, F. Rule: a slot is brought back only after a look.
pub fn t19_a_zombie_formats_a_replaced_disk() -> Checked {
    let stage = Stage::new();
    let zombie = stage.create()?;
    zombie.append(&[(1, 1)])?;
    zombie.fail("A")?;
    let (inner, mut paused) = (stage.clone(), false);
    let opening = stage.open_with("ABCD", move |call| {
        if call.is(Op::Write, FileName::Epoch(2)) && !std::mem::replace(&mut paused, true) {
            inner.blank("A");
            zombie.sees("AEF");
            inner.keep(zombie.tick(200));
            inner.keep(zombie.land_on("BCEF"));
        }
        Act::Go
    })?;
    match opening {
        Opening::Died => Err("stage: the opener died".into()),
        _ => Ok(()),
    }
}

/// Looks by the slots' workers. D has read its claims for the first one, and says so during the next; meanwhile D, E and F are claimed.
/// Rule: a look counts what was read after it began.
pub fn an_old_answer_is_none() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    w.looks_by_workers();
    w.idle("DEF");
    let first = w.append(&[(1, 2)])?;
    w.land_on("ABCDEF")?;
    w.jobs()?;
    ensure(w.shared.tickets.vdl() >= first.end, "stage: three answers are enough")?;
    let old = w.reads_claims("D")?;
    for name in ["D", "E", "F"] {
        stage.dir(0, slot(name)).create_new(FileName::Claim(2)).map_err(|e| format!("stage: {e}"))?;
    }
    w.idle("CDEF");
    let second = w.append(&[(1, 3)])?;
    w.land_on("ABCDEF")?;
    w.tick(500)?;
    ensure(w.shared.tickets.vdl() < second.end, "stage: two answers are not enough")?;
    w.says(old);
    ensure(w.shared.tickets.vdl() < second.end, "S1: acknowledged by what D had read before")?;
    w.idle("CEF");
    w.jobs()?;
    ensure(w.shared.tickets.vdl() < second.end && w.shared.tickets.is_over(), "stage: the claim is not seen")
}
