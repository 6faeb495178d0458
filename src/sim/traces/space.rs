//! Giving space back: what may be punched, when, and what has to move before. An extent is a frame here.

use crate::lsn::{Lsn, Slot, format};
use crate::reclaim::freed::Run;
use crate::segment::name::FileName;
use crate::sim::scenario::{Act, Checked, Op, Stage, Writer, ensure, slot};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Turns of the background in which reclaiming comes to its end.
pub const TURNS: usize = 60;

/// Page 1, then so many frames of page 2, all acknowledged: page 1 alone lives in the first.
pub fn old_page_in_a_dead_frame() -> Checked<(Stage, Writer)> {
    let stage = Stage::reclaiming();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    dead_frames(&w, 3)?;
    Ok((stage, w))
}

/// Fills so many frames with versions of page 2, of which the last one lives.
pub fn dead_frames(w: &Writer, frames: u64) -> Checked {
    dead_frames_on(w, frames, "ABCDEF")
}

/// ... while writes land on these slots.
fn dead_frames_on(w: &Writer, frames: u64, lands: &str) -> Checked {
    let end = w.shared.front.tail() + frames * format::FRAME;
    let mut byte = 0;
    while w.shared.front.tail() < end {
        byte = byte % 200 + 1;
        w.append(&[(2, byte); 40])?;
        w.land_on(lands)?;
    }
    Ok(())
}

/// Everything that can be had is given back, while writes land on these slots. Stops where `enough` says so.
pub fn reclaim(w: &Writer, lands: &str, mut enough: impl FnMut() -> bool) -> Checked {
    w.checkpoint(lands)?;
    w.shared.ask_for_space();
    for _ in 0..TURNS {
        w.housekeep(1100)?;
        w.land_on(lands)?;
        if enough() {
            return Ok(());
        }
    }
    Ok(())
}

/// The slot's segment has something in the first frame.
pub fn first_frame(stage: &Stage, name: &str) -> bool {
    stage.verifies(name, Lsn(4096), 1)
}

/// Tells whether these slots' workers punch from now on.
fn punches(w: &Writer) -> impl Fn() -> bool {
    let punched = Arc::new(AtomicBool::new(false));
    let seen = punched.clone();
    w.hook(move |c| {
        seen.fetch_or(c.op == Op::Punch, Ordering::Relaxed);
        Act::Go
    });
    move || punched.load(Ordering::Relaxed)
}

/// x moves out of a frame in which all else is dead, the frame is punched on all slots, and x is read: now, and by an
/// opener.
pub fn a_dead_frame_is_punched() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    reclaim(&w, "ABCDEF", || false)?;
    for name in ["A", "B", "C", "D", "E", "F"] {
        ensure(!first_frame(&stage, name), &format!("G1: {name} keeps what is dead"))?;
    }
    w.check_newest()?;
    w.kill();
    stage.open("ABCDEF")?;
    Ok(())
}

/// Nothing of what is written anew lands: until it does, and a manifest is named that knows of it, the frame stays.
pub fn nothing_is_punched_before_its_manifest() -> Checked {
    let stage = Stage::reclaiming();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    dead_frames(&w, 1)?;
    w.checkpoint("ABCDEF")?;
    w.shared.ask_for_space();
    for _ in 0..TURNS {
        w.housekeep(1100)?;
    }
    stage.lose(&w, "ABCDEF");
    w.kill();
    stage.open("ABCDEF")?;
    Ok(())
}

/// Another opens as soon as the manifest is named, before the writer has looked.
pub fn a_zombie_punches_nothing() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    w.checkpoint("ABCDEF")?;
    w.shared.ask_for_space();
    let punched = punches(&w);
    let manifest = || w.shared.engine().manifest().0;
    let before = manifest();
    let named = || manifest() > before && w.shared.engine().round() == Some(true);
    for _ in 0..TURNS {
        w.housekeep(20)?;
        if named() {
            break;
        }
        w.land_on("ABCDEF")?;
    }
    ensure(named() && !punched(), "stage: the manifest is not named, or more than that")?;
    stage.open("ABCDEF")?;
    for _ in 0..TURNS {
        w.housekeep(1100)?;
    }
    ensure(!punched(), "S6: a zombie punches")?;
    ensure(w.shared.tickets.is_over(), "stage: the zombie does not know of its successor")
}

/// A look is under way, for what slots owe, when superblocks name the next manifest: it may have missed who opened in between.
pub fn what_is_named_during_a_look_waits() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    reclaim(&w, "ABCDEF", || !first_frame(&stage, "A"))?;
    dead_frames(&w, 3)?;
    let run = named_next(&w)?;
    let there = || (run.from.0..run.to.0).step_by(4096).any(|at| stage.verifies("A", Lsn(at), 1));
    ensure(there(), "stage: nothing is there")?;
    Slot::ALL.into_iter().for_each(|slot| w.shared.engine().owes_all(slot));
    w.hold_looks();
    w.housekeep(1100)?;
    w.idle("");
    for _ in 0..3 {
        w.housekeep(20)?;
    }
    ensure(w.shared.engine().owes_new(), "stage: the manifest is not named")?;
    ensure(w.answer_looks() == 1, "stage: no look is under way")?;
    for _ in 0..3 {
        w.hold_looks();
        w.tick(0)?;
    }
    ensure(there(), "S6: a look from before it was named lets it go")?;
    w.answer_looks();
    reclaim(&w, "ABCDEF", || !there())?;
    ensure(!there(), "G1: it is not punched by the next look")
}

/// Four superblocks name a manifest, of which one was written to a directory that has another one in its place meanwhile; and so
/// with one that is still in a worker's hand then.
/// Rule: a slot that is found to be another one is none of the four.
pub fn a_slot_that_is_another_one_names_nothing() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    let round = || w.shared.engine().round();
    for (first, then) in [("CEF", "EF"), ("CDEF", "EF")] {
        w.idle(first);
        w.shared.engine().begin_round(None, None);
        w.jobs()?;
        ensure(round().is_none(), "stage: four have it, or cannot")?;
        let now = w.shared.clock.now();
        ensure(w.shared.engine().hold(slot("D"), now).is_ok(), "stage: D is needed")?;
        w.idle(then);
        w.jobs()?;
        ensure(round().is_none(), "S6: three slots that are there name a manifest")?;
        w.idle("");
        w.jobs()?;
        ensure(round() == Some(true), "stage: the round comes to no end")?;
        w.shared.engine().let_go(slot("D"), now);
        w.tick(200)?;
        w.land_on("ABCDEF")?;
        ensure(w.is_live("D"), "stage: D is not back")?;
    }
    Ok(())
}

/// What the next manifest gives back first, which is in the log and not named yet.
pub fn named_next(w: &Writer) -> Checked<Run> {
    w.checkpoint("ABCDEF")?;
    w.shared.ask_for_space();
    let emptied = || w.shared.reclaim.lock().ready(Lsn::MAX).first().copied();
    for _ in 0..TURNS {
        if emptied().is_some() {
            break;
        }
        w.housekeep(20)?;
        w.land_on("ABCDEF")?;
    }
    let run = emptied().ok_or("stage: nothing is emptied, or more than that")?;
    w.idle("ABCDEF");
    for _ in 0..TURNS {
        w.housekeep(20)?;
        w.land_on("ABCDEF")?;
    }
    ensure(w.shared.checkpoint.lock().is_some(), "stage: a checkpoint was named")?;
    Ok(run)
}

/// A view is open over the frame.
pub fn what_a_view_reads_stays() -> Checked {
    let (_stage, w) = old_page_in_a_dead_frame()?;
    let view = w.view();
    dead_frames(&w, 2)?;
    let punched = punches(&w);
    reclaim(&w, "ABCDEF", || false)?;
    w.forget_cached();
    w.check_view(&view)?;
    ensure(!punched(), "G2: punched under a view")?;
    drop(view);
    reclaim(&w, "ABCDEF", &punched)?;
    ensure(punched(), "G1: it is not punched when the view is gone")
}

/// F's writes hang, and what it lacks is in the ring. The others punch; then F's writes land.
pub fn who_lags_behind_punches_later() -> Checked {
    let stage = Stage::reclaiming();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    dead_frames_on(&w, 3, "ABCDE")?;
    reclaim(&w, "ABCDE", || false)?;
    let empty = |name: &str| stage.log(name, Lsn(4096), format::FRAME - 4096).iter().all(|b| *b == 0);
    ensure(empty("A") && w.is_live("F"), "stage: nothing is punched, or F is away")?;
    for _ in 0..TURNS {
        w.housekeep(1100)?;
        w.land_on("ABCDEF")?;
    }
    ensure(empty("F"), "G1: F keeps what landed late")?;
    w.check_newest()
}

/// A delta of x lies in another frame than its image does.
pub fn what_lies_across_extents_moves_as_well() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    w.patch(1, 7, 9)?;
    w.land_on("ABCDEF")?;
    dead_frames(&w, 2)?;
    reclaim(&w, "ABCDEF", || false)?;
    ensure(!first_frame(&stage, "A"), "stage: nothing is punched")?;
    w.forget_cached();
    w.check_newest()
}

/// ... of which the table must know.
pub fn the_table_knows_where_pages_went() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    reclaim(&w, "ABCDEF", || false)?;
    ensure(!first_frame(&stage, "A"), "stage: nothing is punched")?;
    w.forget_cached();
    w.check_newest()
}

/// The table's nodes lie in a frame that is given back.
pub fn nodes_of_the_table_move_as_well() -> Checked {
    let stage = Stage::reclaiming();
    let w = stage.create()?;
    // Pages of a leaf that no later checkpoint writes.
    let pages: Vec<(u64, u8)> = (5000..5240).map(|page| (page, page as u8)).collect();
    for pages in pages.chunks(40) {
        w.append(pages)?;
        w.land_on("ABCDEF")?;
    }
    // Their frame lives to its end, where pages of another leaf lie, and does not move; the leaf lies in the next one.
    let others: Vec<(u64, u8)> = (90_000..90_020).map(|page| (page, page as u8)).collect();
    w.append(&others)?;
    w.land_on("ABCDEF")?;
    ensure(w.shared.front.tail() > Lsn(format::FRAME), "stage: the frame is not full")?;
    dead_frames(&w, 1)?;
    w.checkpoint("ABCDEF")?;
    dead_frames(&w, 3)?;
    let punched = punches(&w);
    reclaim(&w, "ABCDEF", || false)?;
    ensure(punched(), "stage: nothing is punched")?;
    w.forget_cached();
    w.check_newest()?;
    w.kill();
    stage.open("ABCDEF")?;
    Ok(())
}

/// F is away while the others punch a frame and remove a protection group. The writer dies; the next one sees F again.
pub fn what_one_slot_kept_is_punched_later() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    w.kill();
    // A later epoch begins in another group, of which nothing is left in the first once x has moved.
    let w = stage.open("ABCDEF")?;
    w.append(&[(2, 3)])?;
    w.land_on("ABCDEF")?;
    w.housekeep(1000)?;
    w.idle("F");
    reclaim(&w, "ABCDEF", || false)?;
    ensure(!stage.has("A", FileName::Segment(0)), "stage: the group is still there")?;
    ensure(stage.has("F", FileName::Segment(0)), "stage: F has removed it")?;
    w.kill();
    let w = stage.open("ABCDEF")?;
    for _ in 0..TURNS {
        w.housekeep(1100)?;
        w.land_on("ABCDEF")?;
    }
    ensure(!stage.has("F", FileName::Segment(0)), "G1: F keeps a group of which nothing is left")
}

/// Five slots have the protection group that is written; F has lost it, with its disk.
/// Rule: F gets the file and its space before it is written to.
pub fn a_group_that_one_slot_lost_is_made_anew() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    stage.blank("F");
    w.lose_slot("F")?;
    let (allocated, early) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (has, writes) = (allocated.clone(), early.clone());
    w.hook(move |c| {
        if c.slot == slot("F") && matches!(c.name, Some(FileName::Segment(_))) {
            has.fetch_or(c.op == Op::Allocate, Ordering::Relaxed);
            writes.fetch_or(c.op == Op::Write && !has.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Act::Go
    });
    w.tick(200)?;
    ensure(w.is_live("F"), "stage: F is not back")?;
    w.append(&[(1, 2)])?;
    w.jobs()?;
    ensure(w.in_flight("F").is_none() || allocated.load(Ordering::Relaxed), "G2: F is written where it has no space")?;
    w.land_on("ABCDEF")?;
    w.housekeep(1000)?;
    ensure(allocated.load(Ordering::Relaxed), "G2: F never gets the space")?;
    ensure(!early.load(Ordering::Relaxed), "G2: F is mended where it has no space")
}

/// A sample of a frame finds nothing that lives, and there is something.
pub fn a_sample_decides_nothing() -> Checked {
    let (stage, w) = old_page_in_a_dead_frame()?;
    reclaim(&w, "ABCDEF", || false)?;
    ensure(!first_frame(&stage, "A"), "stage: nothing is punched")?;
    w.forget_cached();
    w.check_newest()
}

/// x is written between the moment at which reclaiming has read it and that at which it appends it anew.
pub fn who_writes_meanwhile_wins() -> Checked {
    let (_stage, w) = old_page_in_a_dead_frame()?;
    w.checkpoint("ABCDEF")?;
    w.shared.ask_for_space();
    let mut moves = false;
    for turn in 1..TURNS {
        moves = w.shared.step_of_reclaim().is_ok_and(|moves| moves);
        if moves {
            break;
        }
        // Frames in which nothing lives come first, and wait for a checkpoint.
        if turn % 8 == 0 {
            w.checkpoint("ABCDEF")?;
        }
    }
    ensure(moves, "stage: nothing is moved")?;
    w.append(&[(1, 99)])?;
    w.land_on("ABCDEF")?;
    reclaim(&w, "ABCDEF", || false)?;
    w.forget_cached();
    w.check_newest()
}

/// A frame is appended for each sample that is taken.
/// Rule: what is emptied is chosen by the samples that there are.
pub fn a_log_that_outruns_its_samples_is_reclaimed() -> Checked {
    let (_stage, w) = old_page_in_a_dead_frame()?;
    for turn in 1..TURNS {
        dead_frames(&w, 1)?;
        if turn % 8 == 0 {
            w.checkpoint("ABCDEF")?;
        }
        w.shared.step_of_reclaim().map_err(|e| format!("stage: {e}"))?;
        if w.shared.space().pinned > 0 {
            return Ok(());
        }
    }
    Err(format!("space: nothing is emptied of {:?}", w.shared.space()))
}
