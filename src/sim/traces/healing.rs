//! Healing: what is copied, from where and to where, what counts as whole, and that it comes to an end.

use crate::core::vote::Join;
use crate::disk::job;
use crate::lsn::{Lsn, format};
use crate::repair::plan::WIDE;
use crate::segment::name::FileName;
use crate::sim::scenario::{Act, Call, Checked, Made, Op, Opening, PG, Stage, Writer, ensure, slot};
use crate::volume::close::Closing;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// x, and something behind it: VDL's own group is the writer's, and none of healing's.
fn append_x(w: &Writer) -> Checked<Made> {
    let x = w.append(&[(1, 1)])?;
    w.append(&[(9, 9)])?;
    Ok(x)
}

/// x: A to F, acknowledged.
fn x_on_all() -> Checked<(Stage, Writer, Made)> {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = append_x(&w)?;
    w.land_on("ABCDEF")?;
    ensure(w.acknowledged(x), "stage: x is not acknowledged")?;
    Ok((stage, w, x))
}

/// It heals, and says that it is whole; then x must be on these slots, of epoch 1.
fn whole(stage: &Stage, w: &Writer, set: &str, x: Made) -> Checked {
    ensure(w.heal()?, "R1: it says that there is no good copy of x")?;
    for name in set.chars().map(String::from) {
        ensure(stage.verifies(&name, x.begin, 1), &format!("R1: {name} counts as whole, and x does not verify there"))?;
    }
    Ok(())
}

/// A blank disk in place of F, which the writer takes in.
fn replace_f(stage: &Stage, w: &Writer) -> Checked {
    stage.blank("F");
    w.lose_slot("F")?;
    w.tick(200)?;
    ensure(w.is_live("F"), "stage: F is not taken in")
}

/// Tells whether the writer's workers write into the segments of these slots from now on.
fn mends(w: &Writer, set: &'static str) -> impl Fn() -> bool {
    let mended = Arc::new(AtomicBool::new(false));
    let seen = mended.clone();
    w.hook(move |c| {
        let mends = c.op == Op::Write && matches!(c.name, Some(FileName::Segment(_)));
        seen.fetch_or(mends && set.chars().any(|s| slot(&s.to_string()) == c.slot), Ordering::Relaxed);
        Act::Go
    });
    move || mended.load(Ordering::Relaxed)
}

/// Does something just before the writer mends a slot, once.
fn as_it_mends(w: &Writer, name: &'static str, act: impl FnOnce() + Send + 'static) {
    let mut act = Some(act);
    w.hook(move |c| {
        let mends = c.op == Op::Write && matches!(c.name, Some(FileName::Segment(_))) && c.slot == slot(name);
        if let Some(act) = act.take_if(|_| mends) {
            act();
        }
        Act::Go
    });
}

/// A's copy of x rots; a scrub. Rule: what does not verify is no source.
pub fn a_worse_copy_is_no_source() -> Checked {
    let (stage, w, x) = x_on_all()?;
    stage.rot_log("A", x.begin + 1000);
    w.scrub();
    whole(&stage, &w, "ABCDEF", x)
}

/// A's copy of x rots, F is replaced, and A, which is without a gap, is read for it.
/// Rule: what is copied is verified, whatever is known of the slot.
pub fn what_is_copied_verifies() -> Checked {
    let (stage, w, x) = x_on_all()?;
    stage.rot_log("A", x.begin + 1000);
    replace_f(&stage, &w)?;
    whole(&stage, &w, "F", x)
}

/// On A there is y where x belongs; F is replaced, and A is read for it.
/// Rule: a group is one only at its own address.
pub fn a_misdirected_write_is_no_copy() -> Checked {
    let (stage, w, x) = x_on_all()?;
    let y = append_x(&w)?;
    w.land_on("ABCDEF")?;
    stage.misdirect_log("A", y.begin, x.begin, y.end.ceil(4096) - y.begin);
    replace_f(&stage, &w)?;
    whole(&stage, &w, "AF", x)
}

/// y is on A alone, and the next open, over the others, ends the epoch before it; A comes back; a scrub, before the space
/// is given back. Rule: only what lies within an entry is compared and copied.
pub fn what_was_annulled_stays_away() -> Checked {
    let (stage, old, _) = x_on_all()?;
    let y = old.append(&[(2, 2)])?;
    old.land_unheard("A");
    old.kill();
    stage.lose(&old, "BCDEF");
    let w = stage.open("BCDEF")?;
    w.tick(200)?;
    ensure(w.is_live("A") && stage.verifies("A", y.begin, 1), "stage: A is not back with y")?;
    w.scrub();
    for _ in 0..20 {
        w.tick(10)?;
    }
    ensure(w.shared.engine().repair_health().scrubs == 1, "stage: the scrub has not ended")?;
    ensure(!stage.verifies("B", y.begin, 1), "R2: what was annulled is copied")
}

/// x is whole on all six; a scrub. Rule: what verifies is not written again.
pub fn what_verifies_is_not_mended() -> Checked {
    let (stage, w, x) = x_on_all()?;
    let mended = mends(&w, "ABCDEF");
    w.scrub();
    whole(&stage, &w, "ABCDEF", x)?;
    ensure(!mended(), "W1: healing writes over a group that verifies")
}

/// F has another x, of the same address and epoch, which verifies as well; a scrub.
/// Rule: of two that verify and differ neither is touched, and both are told of.
pub fn what_differs_stays() -> Checked {
    let (other, w) = {
        let stage = Stage::new();
        let w = stage.create()?;
        w.append(&[(1, 2)])?;
        w.append(&[(9, 9)])?;
        w.land_on("ABCDEF")?;
        (stage, w)
    };
    w.kill();
    let (stage, w, x) = x_on_all()?;
    stage.mount("F", other.image("F"));
    let logs = || ["A", "F"].map(|name| stage.log(name, x.begin, x.end - x.begin));
    let before = logs();
    ensure(before[0] != before[1] && stage.verifies("F", x.begin, 1), "stage: F has no other x")?;
    w.scrub();
    w.heal()?;
    ensure(logs() == before, "R2: one of two that differ is written over")?;
    let told = w.shared.engine().repair_health().differences;
    ensure(told == 1, "R2: nobody is told that two differ")
}

/// A successor is open; A's copy of x rots, and the old writer scrubs. Rule: a look before anything is mended.
pub fn a_zombie_mends_nothing() -> Checked {
    let (stage, zombie, x) = x_on_all()?;
    stage.open("ABCDEF")?;
    stage.rot_log("A", x.begin + 1000);
    let mended = mends(&zombie, "ABCDEF");
    zombie.scrub();
    for _ in 0..20 {
        zombie.tick(100)?;
    }
    ensure(!mended(), "S6: a zombie mends")?;
    ensure(zombie.shared.tickets.is_over(), "stage: the zombie does not know of its successor")
}

/// F's write of x hangs, the others have it; a scrub. Rule: what the writer has still to write is no gap.
pub fn nothing_is_mended_above_the_cursor() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = append_x(&w)?;
    w.hang("F");
    w.land_on("ABCDE")?;
    ensure(w.acknowledged(x), "stage: x is not acknowledged")?;
    let mended = mends(&w, "F");
    w.scrub();
    ensure(w.heal()?, "stage: it is not whole")?;
    ensure(!mended(), "W1: healing writes where the writer's own write is on its way")?;
    w.unhang("F");
    w.land_on("F")?;
    whole(&stage, &w, "F", x)
}

/// x rots on E and F; while E is mended a blank disk comes in F's place.
/// Rule: a directory that lost its superblock gets nothing before it is formatted: by its segment it would not be blank.
pub fn a_blank_directory_is_not_mended() -> Checked {
    let (stage, w, x) = x_on_all()?;
    ["E", "F"].iter().for_each(|name| stage.rot_log(name, x.begin + 1000));
    let (inner, mut blank) = (stage.clone(), false);
    w.hook(move |c| {
        if c.op != Op::Write || !matches!(c.name, Some(FileName::Segment(_))) {
            return Act::Go;
        }
        if c.slot == slot("E") && !blank {
            inner.blank("F");
            blank = true;
        } else if c.slot == slot("F") && blank && !inner.has("F", FileName::Epoch(1)) {
            inner.keep(Err("L2: a blank directory is mended".into()));
        }
        Act::Go
    });
    w.scrub();
    w.tick(10)?;
    w.heal()?;
    stage.kept()?;
    w.lose_slot("F")?;
    w.heal()?;
    ensure(w.is_live("F"), "L2: F is not taken back")?;
    whole(&stage, &w, "EF", x)
}

/// x: A to D, acknowledged. The disks of E and F were full, and they are back.
fn x_missed_by_e_and_f() -> Checked<(Stage, Writer, Made)> {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = append_x(&w)?;
    w.fill_up("EF")?;
    w.land_on("ABCD")?;
    w.tick(200)?;
    w.land_on("EF")?;
    let missed = ["E", "F"].iter().all(|name| w.is_live(name) && !stage.verifies(name, x.begin, 1));
    ensure(w.acknowledged(x) && missed, "stage: E and F have x, or are not back")?;
    Ok((stage, w, x))
}

/// E and F missed x, and are back; a checkpoint, and redo begins behind x; killed; open.
/// Rule: superblocks tell what slots lack.
pub fn a_gap_outlives_a_crash() -> Checked {
    let (stage, w, x) = x_missed_by_e_and_f()?;
    // Nobody reads x any more: a reader would find it missing. And redo begins in another frame.
    (0..2).try_for_each(|_| w.append(&[(1, 2); 200]).map(drop))?;
    w.land_on("ABCDEF")?;
    w.checkpoint("ABCDEF")?;
    ensure(w.shared.engine().manifest().1 > x.begin, "stage: redo begins before x")?;
    w.kill();
    whole(&stage, &stage.open("ABCDEF")?, "EF", x)
}

/// x: A to E, and in flight to F, which is slow; a checkpoint, and redo begins behind x; killed; open.
/// Rule: superblocks tell what slots are yet to get.
pub fn what_a_slow_slot_lacks_outlives_a_crash() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = append_x(&w)?;
    (0..2).try_for_each(|_| w.append(&[(1, 2); 200]).map(drop))?;
    w.land_on("ABCDE")?;
    w.checkpoint("ABCDE")?;
    ensure(w.shared.engine().manifest().1 > x.begin && w.is_live("F"), "stage: redo begins before x, or F is away")?;
    w.kill();
    stage.lose(&w, "F");
    whole(&stage, &stage.open("ABCDEF")?, "F", x)
}

/// E and F are full while x is written, and come back. Rule: what was written meanwhile is a gap.
pub fn what_was_missed_is_a_gap() -> Checked {
    let (stage, w, x) = x_missed_by_e_and_f()?;
    whole(&stage, &w, "EF", x)
}

/// x: A, B, C, D, acknowledged; killed, and E and F never get it; open.
/// Rule: after a kill nobody knows what has landed where, and all slots are read.
pub fn after_a_kill_the_tail_is_checked() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = append_x(&w)?;
    w.land_on("ABCD")?;
    ensure(w.acknowledged(x), "stage: x is not acknowledged")?;
    w.kill();
    stage.lose(&w, "EF");
    whole(&stage, &stage.open("ABCDEF")?, "EF", x)
}

/// An image of F from before x comes in its place. Rule: a slot that was lost is not taken for what it was.
pub fn an_old_image_is_filled() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let image = stage.image("F");
    let x = append_x(&w)?;
    w.land_on("ABCDEF")?;
    stage.mount("F", image);
    w.lose_slot("F")?;
    whole(&stage, &w, "F", x)
}

/// x: A to E, and in flight to F when its writer is killed; the next one heals F; then the power cut.
/// Rule: nothing counts as filled for good while something of an earlier process can land on it.
pub fn what_a_late_write_spoils_is_filled_again() -> Checked {
    let stage = Stage::new();
    let old = stage.create()?;
    let x = append_x(&old)?;
    old.land_on("ABCDE")?;
    old.kill();
    let w = stage.open("ABCDEF")?;
    w.heals(true);
    // Without the background: nothing is merged, and nothing drained.
    for _ in 0..30 {
        w.tick(100)?;
    }
    stage.power_cut();
    ensure(!stage.verifies("F", x.begin, 1), "stage: the late write has spoilt nothing")?;
    whole(&stage, &stage.open("ABCDEF")?, "F", x)
}

/// x: A to E, and in flight to F when its writer is killed; the next one, which F joins later, waits until x has landed, and
/// checks; then the power cut. Rule: what was waited for is flushed before it counts as checked.
pub fn what_landed_late_is_flushed() -> Checked {
    let (stage, x, w) = x_landed_late_on_f()?;
    whole(&stage, &w, "F", x)?;
    stage.power_cut();
    whole(&stage, &stage.open("ABCDEF")?, "F", x)
}

fn x_landed_late_on_f() -> Checked<(Stage, Made, Writer)> {
    // What F was not sent yet lies in the next segment: mending it flushes that one alone.
    let (stage, x) = x_in_flight_to_f(Lsn(PG - (16 << 10)), 0)?;
    let w = stage.open("ABCDE")?;
    w.tick(200)?;
    ensure(w.is_live("F") && !stage.has("F", FileName::Tail(2)), "stage: F is not back, or gets its tail copied")?;
    (0..20).try_for_each(|_| w.housekeep(100))?;
    ensure(stage.verifies("F", x.begin, 1), "stage: x was not waited for")?;
    Ok((stage, x, w))
}

/// x: A to E, and in flight to F, whose writer goes on in the next segment, where it is killed; the next one heals F; then
/// the power cut. Rule: wherever something may be missing, late writes are waited for before it counts as filled.
pub fn what_is_late_in_another_segment_is_waited_for() -> Checked {
    let (stage, x) = x_in_flight_to_f(Lsn(PG - (1 << 20)), 4)?;
    let w = stage.open("ABCDEF")?;
    ensure(x.begin < Lsn(PG) && w.shared.engine().history.entries()[0].end > Lsn(PG), "stage: it is one segment")?;
    whole(&stage, &w, "F", x)?;
    stage.power_cut();
    whole(&stage, &stage.open("ABCDEF")?, "F", x)
}

/// x: A to E, and in flight to F when its writer is killed; the next one, without F, closes clean before it has waited for
/// anything; the one after that heals F; then the power cut.
/// Rule: a clean end says nothing of what earlier writers have in flight.
pub fn what_is_late_over_a_clean_end_is_waited_for() -> Checked {
    let (stage, x) = x_in_flight_to_f(Lsn(4096), 4)?;
    let w = stage.open("ABCDE")?;
    w.close("ABCDE")?;
    let w = stage.open("ABCDEF")?;
    whole(&stage, &w, "F", x)?;
    stage.power_cut();
    whole(&stage, &stage.open("ABCDEF")?, "F", x)
}

/// x: A to E; on F it fails, and F comes back; the writer closes clean. Of what had failed x lands late on F, in the disk's
/// cache alone, where it is read for a reader that had met a bad copy beside it; then the power cut.
/// Rule: what was not flushed fills no gap.
pub fn what_a_reader_needed_is_no_fill() -> Checked {
    let (stage, x, w) = x_failed_on_f()?;
    stage.land_unflushed("F", x.begin, &stage.log("A", x.begin, x.end.ceil(4096) - x.begin));
    (0..20).try_for_each(|_| w.housekeep(100))?;
    ensure(stage.verifies("F", x.begin, 1) && w.doubts("F"), "stage: x has not landed, or F lacks nothing")?;
    w.shared.engine().wound(x.begin);
    (0..20).try_for_each(|_| w.housekeep(100))?;
    whole(&stage, &w, "F", x)?;
    stage.power_cut();
    whole(&stage, &stage.open("ABCDEF")?, "F", x)
}

/// x: A to E; on F it fails, and F comes back; the writer closes clean. Of what had failed x lands late on F, when the next
/// writer has read F for healing: what mends F finds it there, in the disk's cache alone; then the power cut.
/// Rule: what a mend finds there is durable before it counts.
pub fn what_a_mend_finds_there_is_flushed() -> Checked {
    let (stage, x, w) = x_failed_on_f()?;
    w.idle("F");
    w.heals(true);
    (0..10).try_for_each(|_| w.housekeep(100))?;
    let lands = stage.clone();
    w.hook(move |c: Call| {
        if c.op == Op::Drain && c.slot == slot("F") {
            lands.land_unflushed("F", x.begin, &lands.log("A", x.begin, x.end.ceil(4096) - x.begin));
        }
        Act::Go
    });
    w.idle("");
    whole(&stage, &w, "F", x)?;
    stage.power_cut();
    whole(&stage, &stage.open("ABCDEF")?, "F", x)
}

/// x: A to E; on F it fails, and F comes back; its writer closes clean, and the next one is open.
fn x_failed_on_f() -> Checked<(Stage, Made, Writer)> {
    let stage = Stage::new();
    let old = stage.create()?;
    let x = append_x(&old)?;
    old.fail("F")?;
    old.land_on("ABCDE")?;
    old.tick(200)?;
    ensure(old.is_live("F") && !stage.verifies("F", x.begin, 1), "stage: F is not back, or x is on it")?;
    old.close("ABCDEF")?;
    let w = stage.open("ABCDEF")?;
    Ok((stage, x, w))
}

/// x: A to E, acknowledged, and in flight to F. Its writer, whose log began at `begin`, goes on for so many half MiB, and is
/// killed.
fn x_in_flight_to_f(begin: Lsn, more: usize) -> Checked<(Stage, Made)> {
    let stage = Stage::new();
    let old = stage.create_at(begin)?;
    let x = append_x(&old)?;
    old.land_on("ABCDE")?;
    ensure(old.acknowledged(x), "stage: x is not acknowledged")?;
    for _ in 0..more {
        old.append(&[(2, 2); 200])?;
        old.land_on("ABCDE")?;
    }
    old.kill();
    Ok((stage, x))
}

/// x: all, killed, and it rots on E; while it is mended there, for all is checked, a blank disk comes in F's place, and is
/// taken in. Rule: what was read of a slot says nothing of what comes back in its place.
pub fn what_was_read_of_a_slot_goes_with_it() -> Checked {
    let stage = Stage::new();
    let old = stage.create()?;
    let x = append_x(&old)?;
    old.land_on("ABCDEF")?;
    old.kill();
    let w = stage.open("ABCDEF")?;
    w.heals(false);
    (0..20).try_for_each(|_| w.housekeep(100))?;
    stage.rot_log("E", x.begin + 1000);
    let (inner, writer) = (stage.clone(), w.clone());
    as_it_mends(&w, "E", move || inner.keep(replace_f(&inner, &writer)));
    w.heals(true);
    (0..20).try_for_each(|_| w.tick(10))?;
    stage.kept()?;
    ensure(stage.verifies("E", x.begin, 1), "stage: E was not mended")?;
    whole(&stage, &w, "EF", x)
}

/// x: acknowledged to F alone, whose disk is replaced; while the blank one is read back, x and more comes to A to E.
/// Rule: what a slot had before it left, and is not found again, is a gap.
pub fn what_a_slot_had_and_lost_is_a_gap() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = append_x(&w)?;
    w.land_on("F")?;
    ensure(!w.acknowledged(x), "stage: x is acknowledged on one")?;
    stage.blank("F");
    w.lose_slot("F")?;
    let (inner, writer) = (stage.clone(), w.clone());
    let mut act = Some(move || {
        inner.keep(writer.append(&[(2, 2)]).map(drop));
        inner.keep(writer.land_on("ABCDE"));
    });
    w.hook(move |c| {
        if let Some(act) = act.take_if(|_| c.slot == slot("F") && c.op == Op::Write) {
            act();
        }
        Act::Go
    });
    w.tick(200)?;
    stage.kept()?;
    ensure(w.acknowledged(x) && w.is_live("F"), "stage: x is not acknowledged, or F is not back")?;
    whole(&stage, &w, "F", x)
}

/// x rots on E, and on F when a scrub has read it and mends E; somebody asks for a scrub.
/// Rule: what was read before it was asked for counts in none.
pub fn what_rots_behind_a_scrub_is_found_by_the_next() -> Checked {
    let (stage, w, x) = x_on_all()?;
    stage.rot_log("E", x.begin + 1000);
    let (inner, writer) = (stage.clone(), w.clone());
    as_it_mends(&w, "E", move || {
        inner.rot_log("F", x.begin + 1000);
        writer.scrub();
    });
    w.scrub();
    w.tick(10)?;
    whole(&stage, &w, "EF", x)
}

/// x rots on F, which does not answer while a scrub reads what lies before, nor is asked for x.
/// Rule: a scrub comes back to who was not read.
pub fn who_was_not_asked_is_asked_later() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    for _ in 0..11 {
        w.append(&[(2, 2); 200])?;
        w.land_on("ABCDEF")?;
    }
    let x = append_x(&w)?;
    w.land_on("ABCDEF")?;
    ensure(x.begin > Lsn(WIDE * format::FRAME), "stage: one unit of the scrub has it all")?;
    stage.rot_log("F", x.begin + 1000);
    w.idle("F");
    w.scrub();
    (0..3).try_for_each(|_| w.tick(11_000))?;
    ensure(w.is_live("F"), "stage: F has left")?;
    w.idle("");
    whole(&stage, &w, "F", x)
}

/// x rots on F, whose disk is full while a scrub reads x; it comes back. Rule: a scrub comes back to who was away.
pub fn who_was_away_is_asked_later() -> Checked {
    let (stage, w, x) = x_on_all()?;
    // What it misses lies in another frame: that one is read when it is back.
    (0..2).try_for_each(|_| w.append(&[(2, 2); 200]).map(drop))?;
    w.land_on("ABCDEF")?;
    stage.rot_log("F", x.begin + 1000);
    w.append(&[(9, 9)])?;
    w.land_on("ABCDE")?;
    w.fill_up("F")?;
    w.scrub();
    (0..3).try_for_each(|_| w.tick(1))?;
    let passed = w.shared.engine().repair_health().scrubs == 1;
    ensure(!w.is_live("F") && passed, "stage: F is back, or the scrub has not passed x")?;
    whole(&stage, &w, "F", x)
}

/// E and F lack x, and a reader met that; nobody answers when all are read for it, and then all do.
/// Rule: a slot that did not answer may have it.
pub fn silence_parks_nothing() -> Checked {
    let (stage, w, x) = x_missed_by_e_and_f()?;
    w.idle("ABCDEF");
    w.shared.engine().wound(x.begin);
    w.heals(true);
    w.tick(10)?;
    w.tick(11_000)?;
    w.idle("");
    whole(&stage, &w, "EF", x)
}

/// E and F lack x; E is mended, and F does not answer. Rule: who did not say that it has it is not filled.
pub fn silence_fills_nothing() -> Checked {
    let (stage, w, x) = x_missed_by_e_and_f()?;
    let inner = w.clone();
    as_it_mends(&w, "E", move || inner.idle("F"));
    w.heals(true);
    w.tick(10)?;
    ensure(stage.verifies("E", x.begin, 1), "stage: E is not mended")?;
    w.tick(11_000)?;
    ensure(!stage.verifies("F", x.begin, 1), "stage: F is mended")?;
    ensure(w.doubts("F"), "R1: F counts as whole, and x does not verify there")?;
    w.idle("");
    whole(&stage, &w, "EF", x)
}

/// x: A to E, and late on F when it is checked; its flush fails; F is checked again, and filled; then the power cut.
/// Rule: after an error only what is read past the page cache counts.
pub fn what_a_failed_flush_left_is_read_anew() -> Checked {
    let (stage, x, w) = x_landed_late_on_f()?;
    let (hook, failed) = fails_a_flush("F");
    w.hook(hook);
    whole(&stage, &w, "F", x)?;
    ensure(failed.load(Ordering::Relaxed), "stage: no flush has failed")?;
    stage.power_cut();
    ensure(stage.verifies("F", x.begin, 1), "R1: F counts as whole, and the power cut takes x")
}

/// x: A to E, and late on F, which is not flushed; the next opener flushes, and that fails on F; it heals; then the power cut.
/// Rule: the same for what an opener flushes.
pub fn what_an_openers_flush_left_is_read_anew() -> Checked {
    let (stage, x) = x_in_flight_to_f(Lsn(4096), 4)?;
    stage.land_all_late();
    let (hook, failed) = fails_a_flush("F");
    let Opening::Open(w) = stage.open_with("ABCDEF", hook)? else {
        return Err("A1: an open is refused, and one slot fails".into());
    };
    ensure(failed.load(Ordering::Relaxed), "stage: no flush has failed")?;
    whole(&stage, &w, "F", x)?;
    stage.power_cut();
    whole(&stage, &stage.open("ABCDEF")?, "F", x)
}

/// One flush of a slot's segment fails; and whether it has.
fn fails_a_flush(name: &'static str) -> (impl FnMut(Call) -> Act + Send, Arc<AtomicBool>) {
    let failed = Arc::new(AtomicBool::new(false));
    let fails = failed.clone();
    let hook = move |c: Call| {
        let flushes = c.op == Op::Flush && matches!(c.name, Some(FileName::Segment(_))) && c.slot == slot(name);
        if flushes && !fails.swap(true, Ordering::Relaxed) { Act::Fail } else { Act::Go }
    };
    (hook, failed)
}

/// A log in which there is nothing to compare yet; one of the two places of F's superblock is damaged; a scrub.
/// Rule: it has not ended before superblocks were looked at.
pub fn superblocks_belong_to_a_scrub() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.land_on("ABCDEF")?;
    let good = || (0..2).all(|place| stage.place_verifies("F", 1, place));
    ensure(good(), "stage: there is no superblock")?;
    stage.rot("F", FileName::Epoch(1), 100);
    ensure(!good(), "stage: the superblock verifies")?;
    w.idle("F");
    w.scrub();
    w.tick(2000)?;
    w.tick(2000)?;
    ensure(w.shared.engine().healed() != Some(true), "R1: the scrub has ended, and F has one superblock left")?;
    w.idle("");
    ensure(w.heal()? && good(), "R1: F has one superblock left")
}

/// F is replaced, and not filled yet. Rule: its silence counts only once it has everything.
pub fn a_join_point_stays_as_long_as_a_gap() -> Checked {
    let (stage, w, x) = x_on_all()?;
    replace_f(&stage, &w)?;
    for _ in 0..20 {
        w.tick(100)?;
    }
    ensure(!stage.verifies("F", x.begin, 1), "stage: F is filled")?;
    ensure(stage.join("F") != Some(Join::Founder), "R1: the silence of F counts, and it lacks x")?;
    whole(&stage, &w, "F", x)?;
    ensure(stage.join("F") == Some(Join::Founder), "L1: F is whole, and its join point stays")
}

/// x rots on A to E, and F is replaced. Rule: what has no good copy is told of and left, until another slot is there.
pub fn what_nobody_has_comes_to_an_end() -> Checked {
    let (stage, w, x) = x_on_all()?;
    ["A", "B", "C", "D", "E"].iter().for_each(|name| stage.rot_log(name, x.begin + 1000));
    replace_f(&stage, &w)?;
    ensure(!w.heal()?, "R1: it says that it is whole, and there is no good copy of x")?;
    let left = w.shared.engine().repair_health().unmendable;
    ensure(left == 1, "R1: nobody is told that there is no good copy of x")
}

/// x is on all; the volume closes, and F's disk is replaced as the clean mark is to be written there; F is formatted; the close
/// ends clean; open; F heals. Rule: what a slot that comes back may not have got yet is told with its join point.
pub fn what_a_blank_disk_lacks_at_a_close_is_a_gap() -> Checked {
    let (stage, w, x) = x_on_all()?;
    let mut closing = Closing::begin(&w.shared, Duration::from_secs(1));
    for _ in 0..20 {
        w.land_on("ABCDEF")?;
        w.jobs()?;
        ensure(closing.step(&w.shared).is_none(), "stage: the close ended early")?;
        if w.shared.engine().is_clean() && w.shared.reads.pages.map().frozen.is_none() {
            break;
        }
    }
    w.idle("F");
    for _ in 0..10 {
        ensure(closing.step(&w.shared).is_none(), "stage: the close does not wait for its mark")?;
    }
    w.jobs()?;
    stage.blank("F");
    w.idle("");
    w.jobs()?;
    w.tick(200)?;
    ensure(w.is_live("F") && stage.has("F", FileName::Epoch(1)), "stage: F is not taken in")?;
    let ended = (0..10).find_map(|_| closing.step(&w.shared));
    ensure(matches!(ended, Some(Ok(()))), "stage: the close is not clean")?;
    let last = w.shared.engine().writer.vdl_group();
    w.kill();
    stage.lose(&w, "ABCDEF");
    let next = stage.open("ABCDEF")?;
    next.housekeep(12_000)?;
    whole(&stage, &next, "F", x)?;
    ensure(stage.verifies("F", last, 1), "R1: F counts as whole, and the last group does not verify there")
}

/// x is on all; a block of it cannot be read any more on F.
/// Rule: what cannot be read verifies nowhere, whatever stood there; it may have been zeros.
pub fn what_cannot_be_read_is_not_zeros() -> Checked {
    let (stage, w, x) = x_on_all()?;
    let (name, offset) = FileName::segment_of(x.begin, PG);
    stage.spoil_log("F", x.begin);
    let dir = stage.dir(w.process, slot("F"));
    let read = job::read_around(&dir, name, 0, format::FRAME as usize).map_err(|e| format!("stage: {e}"))?;
    let block = &read[offset as usize..][..format::BLOCK_MIN as usize];
    ensure(block.iter().any(|b| *b != 0), "R1: a block that cannot be read counts as zeros")?;
    w.scrub();
    whole(&stage, &w, "F", x)
}

/// x: A to D. An opener writes it into tail files on E and F, and dies; of F a power cut leaves the tail file and the claims;
/// open. Rule: a tail file of the volume tells that a slot is its own.
pub fn a_dead_openers_tail_is_its_own() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = append_x(&w)?;
    w.land_on("ABCD")?;
    w.kill();
    stage.lose(&w, "EF");
    stage.open_dies("ABCDEF", |c| match (c.op, c.name) {
        (Op::Write, Some(FileName::Epoch(_))) => Act::Die,
        _ => Act::Go,
    })?;
    let mut left = stage.image("F");
    left.retain(|name, _| matches!(name, FileName::Tail(_) | FileName::Claim(_)));
    ensure(left.contains_key(&FileName::Tail(2)), "stage: the opener left no tail file")?;
    stage.mount("F", left);
    let next = stage.open("ABCDEF")?;
    next.housekeep(12_000)?;
    whole(&stage, &next, "ABCDE", x)?;
    ensure(next.is_live("F"), "L2: F is not taken back")?;
    whole(&stage, &next, "F", x)
}

/// What an earlier epoch left cannot be removed from F, once.
/// Rule: it is removed later; each epoch would leave more.
pub fn what_was_not_removed_is_removed_later() -> Checked {
    let (stage, w, _) = x_on_all()?;
    w.kill();
    let next = stage.open("ABCDEF")?;
    let mut fails = true;
    next.hook(move |c| match c.op {
        Op::Remove if c.slot == slot("F") && std::mem::take(&mut fails) => Act::Fail,
        _ => Act::Go,
    });
    next.shared.engine().tidy(2);
    next.jobs()?;
    ensure(stage.has("F", FileName::Epoch(1)), "stage: it was removed")?;
    next.tick(1000)?;
    next.heal()?;
    next.checkpoint("ABCDEF")?;
    next.tick(1000)?;
    ensure(!stage.has("F", FileName::Epoch(1)), "L2: F keeps what is of no use")
}
