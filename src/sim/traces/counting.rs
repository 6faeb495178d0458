//! Counting copies: what is acknowledged, and how a slot comes back.

use crate::sim::scenario::{Checked, Stage, ensure};

/// x: A, B, C; killed; read-only over D, E, F.
/// Rule: four copies before an acknowledgement.
pub fn t00_three_copies_are_not_enough() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABC")?;
    w.kill();
    stage.read_only("DEF").map(drop)
}

/// x: A, B, C; D away; D rejoins at the tail, VCL passes x; killed; read-only over D, E, F.
/// Rule: a slot rejoins at VDL.
pub fn t01_rejoin_at_the_tail() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.fail("D")?;
    w.land_on("ABC")?;
    w.tick(200)?;
    ensure(w.is_live("D"), "stage: D did not rejoin")?;
    w.kill();
    stage.read_only("DEF").map(drop)
}

/// A's write of x hangs; A away, back, x written again; killed; an open counts A's x; the power cut ruins it.
/// Rule: no rejoin under an outstanding write.
pub fn t02_rejoin_under_a_hung_write() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.hang("A");
    w.lose_slot("A")?;
    w.tick(200)?;
    w.land_on("A")?;
    w.kill();
    stage.lose(&w, "BCDEF");
    stage.open("ABCD")?;
    stage.power_cut();
    stage.read_only("AEF").map(drop)
}

/// x: A, durable; A away, back at VDL, below x, and written again; killed; an open counts A's x; the power cut ruins it.
/// Rule: the cursor moves up over what verifies.
pub fn t02_rejoin_writes_nothing_again() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("A")?;
    w.lose_slot("A")?;
    w.tick(200)?;
    ensure(w.is_live("A"), "stage: A did not rejoin")?;
    w.kill();
    stage.lose(&w, "BCDEF");
    stage.open("ABCD")?;
    stage.power_cut();
    stage.read_only("AEF").map(drop)
}
