//! Recovery's copies, merging, and writes that land late.

use crate::core::vote::Join;
use crate::segment::name::FileName;
use crate::sim::scenario::{Act, Call, Checked, Op, Stage, Writer, ensure, slot};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// x: A, and in flight to B; killed.
fn x_on_a_and_in_flight_to_b() -> Checked<(Stage, Writer)> {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("A")?;
    w.kill();
    stage.lose(&w, "CDEF");
    Ok((stage, w))
}

/// An open over A, B, C, D copies x to B, C, D, and decides; a power cut ruins what was in flight to B; read-only over B,
/// E, F. Rule: copies go into a file of the opener's own.
pub fn t18_the_tail_in_place() -> Checked {
    let (stage, _) = x_on_a_and_in_flight_to_b()?;
    stage.open("ABCD")?;
    stage.power_cut();
    stage.read_only("BEF").map(drop)
}

/// A group holds x and the beginning of y; the next one holds y's end. The first: A, E; the second: A. An opener over B, C,
/// D, E ends behind x, and dies when the first group's copy is on B. Open over A, B, C, E: y is there; read-only over B, D,
/// F. Rule: only the epoch's writer seals; what is copied is the whole group, also behind the end.
pub fn t18_whole_groups_verbatim() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.room(4 << 20)?;
    w.append_open(&[(1, 1)])?;
    let mut y = vec![(3, 3)];
    y.extend([(2, 2); 300]);
    w.append(&y)?;
    w.land_on("A")?;
    w.land_unheard("E");
    w.kill();
    stage.lose(&w, "BCDEF");
    let copied = |c: Call| match c.is(Op::Write, FileName::Tail(2)) && c.slot == slot("C") {
        true => Act::Die,
        false => Act::Go,
    };
    stage.open_dies("BCDE", copied)?;
    ensure(stage.has("B", FileName::Tail(2)), "stage: B has no tail file")?;
    stage.open("ABCE")?.kill();
    stage.read_only("BDF").map(drop)
}

/// An open over A, B, C, D copies x into tail files, and merges B's; then the power cut, with the old writer's x still in
/// flight to B. Rule: the segment is drained before the merge.
pub fn t18_merge_under_a_late_write() -> Checked {
    let (stage, _) = x_on_a_and_in_flight_to_b()?;
    let w = stage.open("ABCD")?;
    ensure(stage.has("B", FileName::Tail(2)), "stage: B has no tail file")?;
    w.housekeep(400)?;
    ensure(!stage.has("B", FileName::Tail(2)), "stage: B's tail file was not merged")?;
    stage.power_cut();
    stage.read_only("BEF").map(drop)
}

/// The old writer lives, and has not yet sent x to B. A successor copies x, and would merge; the zombie sends x to B; power
/// cut. Rule: a merge waits until every earlier writer is gone; draining does not help.
pub fn t18_merge_beside_a_zombie() -> Checked {
    let stage = Stage::new();
    let zombie = stage.create()?;
    zombie.append(&[(1, 1)])?;
    zombie.land_on("A")?;
    zombie.append(&[(2, 2)])?;
    zombie.land_on("A")?;
    zombie.land_unheard("B");
    let w = stage.open("ABCD")?;
    w.housekeep(400)?;
    zombie.tend()?;
    ensure(zombie.in_flight("B").is_some(), "stage: the zombie sends nothing")?;
    stage.power_cut();
    stage.read_only("BEF").map(drop)
}

/// x is copied to B's tail file, and then B's own write of it lands; the merge.
/// Rule: a block that verifies is not written again.
pub fn t18_a_merge_writes_nothing_again() -> Checked {
    let (stage, old) = x_on_a_and_in_flight_to_b()?;
    let w = stage.open("ABCD")?;
    stage.land_late(&old, "B");
    let again = Arc::new(AtomicBool::new(false));
    let seen = again.clone();
    w.hook(move |c| {
        let writes = c.op == Op::Write && matches!(c.name, Some(FileName::Segment(_))) && c.slot == slot("B");
        seen.fetch_or(writes, Ordering::Relaxed);
        Act::Go
    });
    w.housekeep(400)?;
    ensure(!stage.has("B", FileName::Tail(2)), "stage: B's tail file was not merged")?;
    ensure(!again.load(Ordering::Relaxed), "W1: the merge writes over a group that verifies")?;
    stage.power_cut();
    stage.read_only("BEF").map(drop)
}

/// x: A; killed. An open copies it into tail files, and B's cannot be removed; F's disk is replaced.
/// Rule: who cannot merge is away, and the others become whole.
pub fn one_that_cannot_merge_holds_up_nobody() -> Checked {
    let stage = Stage::new();
    let old = stage.create()?;
    let x = old.append(&[(1, 1)])?;
    old.land_on("A")?;
    old.kill();
    stage.lose(&old, "BCDEF");
    let w = stage.open("ABCDEF")?;
    w.hook(|c| {
        let merged = c.op == Op::Remove && c.name == Some(FileName::Tail(2));
        if merged && c.slot == slot("B") { Act::Fail } else { Act::Go }
    });
    w.land_on("ABCDEF")?;
    stage.blank("F");
    w.lose_slot("F")?;
    w.heals(true);
    for _ in 0..40 {
        w.tick(100)?;
        w.housekeep(100)?;
        w.land_on("ACDEF")?;
    }
    ensure(stage.has("B", FileName::Tail(2)), "stage: B has merged")?;
    ensure(!w.is_live("B"), "L1: B cannot merge, and is live")?;
    ensure(stage.verifies("F", x.begin, 1), "L1: F is not filled, for B cannot merge")?;
    ensure(stage.join("F") == Some(Join::Founder), "L1: F is not whole, for B cannot merge")
}

/// F's worker has still to merge when another opener completes its tail, and dies before it decides.
/// Rule: a tail file is merged by those who came after its opener, and by nobody else.
pub fn a_successors_tail_is_left_alone() -> Checked {
    let stage = Stage::new();
    let old = stage.create()?;
    old.append(&[(1, 1)])?;
    old.land_on("ABCDEF")?;
    old.kill();
    let w = stage.open("ABCDEF")?;
    w.append(&[(2, 2)])?;
    w.append(&[(9, 9)])?;
    w.land_on("ABCDE")?;
    w.idle("F");
    (0..5).try_for_each(|_| w.housekeep(100))?;
    stage.open_dies("ABCDEF", |c| {
        if c.op == Op::Write && c.name == Some(FileName::Epoch(3)) { Act::Die } else { Act::Go }
    })?;
    ensure(stage.has("F", FileName::Tail(3)), "stage: the opener had nothing to complete on F")?;
    w.idle("");
    w.jobs()?;
    ensure(stage.has("F", FileName::Tail(3)), "W1: a writer merges what its successor counts on")
}
