//! States of the past: what keeps them, what brings them back, and what a crash leaves of that. An extent is a frame here.

use crate::history::find::time_of;
use crate::sim::scenario::{Checked, Stage, Writer, ensure};
use crate::sim::traces::space::{TURNS, dead_frames, first_frame, named_next, old_page_in_a_dead_frame, reclaim};
use crate::volume::history::Point;
use crate::volume::rewind::Rewind;

/// Page 1 is x, then y, with a snapshot between.
fn x_then_y(stage: &Stage) -> Checked<Writer> {
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    w.snapshot("x")?;
    w.append(&[(1, 2)])?;
    w.land_on("ABCDEF")?;
    Ok(w)
}

/// What only a snapshot needs is emptied, and the rest of its frame is dead.
pub fn a_snapshot_pins_its_table() -> Checked {
    let stage = Stage::reclaiming();
    let w = x_then_y(&stage)?;
    dead_frames(&w, 3)?;
    reclaim(&w, "ABCDEF", || false)?;
    w.forget_cached();
    w.check_state(&Point::from("x"))?;
    w.check_newest()?;
    w.kill();
    stage.open("ABCDEF")?.check_state(&Point::from("x"))
}

/// x's frame was emptied when y was the newest; then x is the newest again, and nothing else keeps the frame.
pub fn dead_is_no_matter_of_lsns() -> Checked {
    let stage = Stage::reclaiming();
    let w = x_then_y(&stage)?;
    dead_frames(&w, 3)?;
    reclaim(&w, "ABCDEF", || false)?;
    w.rewind(&Point::from("x"))?;
    w.forget("x")?;
    w.checkpoint("ABCDEF")?;
    // Reclaiming may move it; nothing may come before that.
    for _ in 0..20 {
        w.housekeep(20)?;
        w.land_on("ABCDEF")?;
        w.forget_cached();
        w.check_newest()?;
    }
    w.kill();
    stage.open("ABCDEF")?;
    Ok(())
}

/// The writer dies before any superblock names the manifest that goes back to x.
pub fn a_rewind_is_replayed() -> Checked {
    let stage = Stage::new();
    let w = x_then_y(&stage)?;
    w.room(1 << 20)?;
    w.rewind_unnamed(&Point::from("x"))?;
    w.append(&[(3, 7)])?;
    w.land_on("ABCDEF")?;
    w.kill();
    stage.open("ABCDEF")?;
    Ok(())
}

/// ... and who opens then closes again at once.
pub fn a_close_names_a_rewind() -> Checked {
    let stage = Stage::new();
    let w = x_then_y(&stage)?;
    w.room(1 << 20)?;
    w.rewind_unnamed(&Point::from("x"))?;
    w.kill();
    stage.open("ABCDEF")?.close("ABCDEF")?;
    stage.open("ABCDEF")?;
    Ok(())
}

/// It is in the log, and not named yet, when the next one begins and is given up; then the volume closes clean.
pub fn a_rewind_outlives_the_next_ones_end() -> Checked {
    let stage = Stage::new();
    let w = x_then_y(&stage)?;
    w.room(1 << 20)?;
    w.rewind_unasked(&Point::from("x"))?;
    ensure(w.shared.checkpoint.lock().is_some(), "stage: it is named")?;
    let view = w.shared.view();
    let lsn = view.lsn();
    let next = Rewind::begin(&w.shared, view, lsn).map_err(|e| format!("stage: {e}"))?;
    ensure(next.give_up(&w.shared), "stage: it is not given up")?;
    w.idle("");
    w.close("ABCDEF")?;
    stage.open("ABCDEF")?;
    Ok(())
}

/// The writer dies before any superblock names the manifest that has snapshot y. Who opens sees it; the next one may have been
/// told of it by a superblock, which names it only then.
pub fn what_the_log_says_of_the_past_holds() -> Checked {
    let stage = Stage::new();
    let w = x_then_y(&stage)?;
    w.room(1 << 20)?;
    w.snapshot_unnamed("y")?;
    w.kill();
    let next = stage.open("ABCDEF")?;
    next.check_state(&Point::from("y"))?;
    next.check_state(&Point::from("x"))?;
    next.checkpoint("ABCDEF")?;
    next.kill();
    stage.open("ABCDEF")?.check_state(&Point::from("y"))
}

/// A manifest that gives a frame back is in the log, and its writer dies before a superblock names it. Who opens goes on from
/// it, and punches nothing: a next one may read the older manifest again.
pub fn nothing_goes_before_it_is_named() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    named_next(&w)?;
    w.kill();
    let next = stage.open("ABCDEF")?;
    let gone = || !first_frame(&stage, "A");
    let (manifest, before) = (|| next.shared.engine().manifest(), next.shared.engine().manifest());
    for _ in 0..TURNS {
        ensure(!gone() || manifest() > before, "S6: punched before a superblock names its manifest")?;
        next.housekeep(1100)?;
        next.land_on("ABCDEF")?;
    }
    next.snapshot("y")?;
    reclaim(&next, "ABCDEF", gone)?;
    ensure(gone(), "G1: it is not punched when a manifest is named")?;
    next.check_state(&Point::from("y"))?;
    next.kill();
    stage.open("ABCDEF")?.check_state(&Point::from("y"))
}

/// A clone begins, and before its segments are shared its origin gives back what the clone's manifest leads to.
pub fn a_clone_shares_no_hole() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    w.checkpoint("ABCDEF")?;
    let beginning = w.shared.beginning(uuid::Uuid::nil()).ok_or("stage: no slot has everything")?;
    ensure(beginning.superblocks.len() == 6, "stage: some slots lack something")?;
    reclaim(&w, "ABCDEF", || false)?;
    w.kill();
    stage.begins_as(&beginning.superblocks)?;
    drop(beginning);
    stage.open("ABCDEF")?;
    Ok(())
}

/// The moment at which y was there for a while.
pub fn a_moment_is_the_last_stamp() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    w.tick(50)?;
    let y = w.append(&[(1, 2)])?;
    w.land_on("ABCDEF")?;
    w.tick(50)?;
    let then = time_of(w.shared.clock.wall_us());
    w.tick(50)?;
    w.append(&[(1, 3)])?;
    w.land_on("ABCDEF")?;
    let found = w.shared.find(|finder| finder.at_time(then)).map_err(|e| format!("S1: {e}"))?;
    ensure(found.moment.lsn == y.end, &format!("S1: {} in place of {}", found.moment.lsn, y.end))
}

/// y is the past once the volume has gone back to x, and x's frames and y's die.
pub fn a_rewind_can_be_undone() -> Checked {
    let stage = Stage::reclaiming();
    let w = x_then_y(&stage)?;
    let undo = w.rewind(&Point::from("x"))?;
    w.append(&[(1, 3)])?;
    w.land_on("ABCDEF")?;
    dead_frames(&w, 3)?;
    reclaim(&w, "ABCDEF", || false)?;
    w.forget_cached();
    w.check_state(&Point::Lsn(undo))?;
    w.rewind(&Point::Lsn(undo))?;
    w.check_newest()?;
    w.kill();
    stage.open("ABCDEF")?;
    Ok(())
}
