//! Space that is zeroed ahead of the log: a second, different write to a block.

use crate::lsn::{Lsn, format};
use crate::sim::scenario::{Checked, Made, Stage, Writer, ensure, slot};
use crate::volume::close::Closing;
use crate::volume::error::CloseError;
use std::time::Duration;

/// A writer, and from where on F is to be zeroed: its worker does not come to it.
fn zeroing(stage: &Stage) -> Checked<(Writer, Lsn)> {
    let w = stage.create()?;
    w.room(1 << 20)?;
    // A log that grows slowly.
    w.tick(1000)?;
    w.idle("F");
    w.append(&[(1, 1), (2, 1)])?;
    w.land_on("ABCDEF")?;
    w.jobs()?;
    let from = w.zeroes("F").ok_or("stage: F is not to be zeroed")?.0;
    Ok((w, from))
}

/// Groups of a page each, until one lies at or behind that address.
fn append_beyond(w: &Writer, from: Lsn, lands: &str) -> Checked<Made> {
    for n in 0..64 {
        let made = w.append(&[(3, n)])?;
        w.land_on(lands)?;
        if made.begin >= from {
            return Ok(made);
        }
    }
    Err("stage: the log does not come there".into())
}

/// F is being zeroed; x comes to lie there: C, D, E, and F; the zeros land on F. C and D are lost, x rots on E.
/// Rule: a block is written on a slot only when its zeroing there is done.
pub fn a_block_is_not_written_under_its_zeroing() -> Checked {
    let stage = Stage::zeroing();
    let (w, from) = zeroing(&stage)?;
    w.hang("AB");
    let x = append_beyond(&w, from, "CDEF")?;
    w.idle("");
    w.jobs()?;
    w.land_on("CDEF")?;
    ensure(w.acknowledged(x), "stage: x is not acknowledged")?;
    w.kill();
    stage.lose(&w, "AB");
    stage.rot_log("E", x.begin + 1000);
    stage.open("ABEF").map(drop)
}

/// F is being zeroed, and leaves; the volume closes without it. Rule: no clean mark while a slot is being zeroed: the next epoch begins there.
pub fn no_clean_mark_under_zeroing() -> Checked {
    let stage = Stage::zeroing();
    let (w, _) = zeroing(&stage)?;
    w.append(&[(1, 2)])?;
    w.fail("F")?;
    let mut closing = Closing::begin(&w.shared, Duration::from_secs(1));
    for n in 0.. {
        w.land_on("ABCDEF")?;
        w.tick(if n < 20 { 0 } else { 1000 })?;
        match closing.step(&w.shared) {
            None if n < 40 => (),
            Some(Err(CloseError::NotClean(why))) if why.contains("outstanding") => break,
            Some(Err(e)) => return Err(format!("stage: the close ends otherwise: {e}")),
            Some(Ok(())) => return Err("W2: a clean mark though F is being zeroed".into()),
            None => return Err("stage: the close comes to no end".into()),
        }
    }
    w.kill();
    stage.open("ABCDEF").map(drop)
}

/// VCL stands still, and the log comes as far as it may. Rule: nothing is zeroed beyond the reach of VCL.
pub fn nothing_is_zeroed_beyond_the_reach() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let mut engine = w.shared.engine();
    let reach = engine.writer.vcl() + format::LAL;
    engine.writer.allocated(slot("F"), reach + format::LAL);
    let below = Lsn(reach.0 - 8192);
    ensure(engine.writer.next_zeroing(slot("F"), below, reach).is_some(), "stage: nothing is zeroed below the reach")?;
    ensure(engine.writer.next_zeroing(slot("F"), below, reach + 4096).is_none(), "W1: zeros go beyond the reach")
}

/// F is being zeroed, and w is stopped; x: A, B, C, D, acknowledged; a successor takes over, and puts x on F; w goes on.
/// Rule: nothing is zeroed on a slot that a successor has claimed.
pub fn nothing_is_zeroed_under_a_claim() -> Checked {
    let stage = Stage::zeroing();
    let (w, from) = zeroing(&stage)?;
    let x = append_beyond(&w, from, "ABCDE")?;
    ensure(w.acknowledged(x), "stage: x is not acknowledged")?;
    let n = stage.open("ABCDEF")?;
    n.scrub();
    for _ in 0..50 {
        n.housekeep(100)?;
        n.land_on("ABCDEF")?;
    }
    ensure(stage.verifies("F", x.begin, n.number - 1), "stage: F is not healed")?;
    w.idle("");
    w.jobs()?;
    ensure(stage.verifies("F", x.begin, n.number - 1), "R1: x is gone from F")
}
