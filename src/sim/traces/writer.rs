//! The writer's own house: checksums, ring, publishing, checkpoints, closing.

use crate::segment::name::FileName;
use crate::sim::scenario::{Checked, STALL_MAX, Stage, Writer, ensure};
use crate::volume::close::Closing;
use crate::volume::error::CloseError;
use std::time::Duration;

/// x on all slots, acknowledged; a byte of its image goes bad on A, B, C; open.
/// Rule: a record counts only if its checksum is right.
pub fn rot_in_a_record() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    w.kill();
    ["A", "B", "C"].iter().for_each(|name| stage.rot_log(name, x.begin + 1000));
    stage.open("ABCDEF").map(drop)
}

/// x and y in one group: A, B, C, D, acknowledged; y rots on A; open over A, B, E, F.
/// Rule: a group counts only whole.
pub fn rot_in_a_group() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append_open(&[(1, 1)])?;
    let y = w.append(&[(2, 2)])?;
    w.land_on("ABCD")?;
    ensure(w.acknowledged(y), "stage: y is not acknowledged")?;
    w.kill();
    stage.lose(&w, "EF");
    stage.rot_log("A", y.begin + 1000);
    stage.open("ABEF").map(drop)
}

/// F's write of x hangs while the ring turns over once; then it lands.
/// Rule: a frame is not reused under a write.
pub fn a_hung_write_keeps_its_frame() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = w.append(&[(1, 1)])?;
    w.hang("F");
    for i in 0..20 {
        w.append(&[(2, i); 240])?;
        w.land_on("ABCD")?;
    }
    w.unhang("F");
    w.land_unheard("F");
    ensure(stage.verifies("F", x.begin, 1), "W1: other bytes land where x belongs")?;
    w.tend()
}

/// x has its addresses, and is not filled; y behind it is, and is published.
/// Rule: published is a prefix.
pub fn publishing_in_order() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let (unfilled, _) = w.reserve(&[(1, 1)])?;
    w.append(&[(2, 2)])?;
    w.land_on("ABCDEF")?;
    w.kill();
    drop(unfilled);
    stage.open("ABCDEF").map(drop)
}

/// Steps a close until it ends or waits for the script.
fn step(w: &Writer, closing: &mut Closing) -> Option<Result<(), CloseError>> {
    (0..10).find_map(|_| closing.step(&w.shared))
}

/// F is away, and a write to it is still out; the volume closes.
/// Rule: no clean mark while any slot, live or away, has a write outstanding.
pub fn no_clean_mark_under_a_write() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.hang("F");
    w.lose_slot("F")?;
    let mut closing = Closing::begin(&w.shared, Duration::from_secs(1));
    for _ in 0..20 {
        w.land_on("ABCDE")?;
        w.jobs()?;
        match step(&w, &mut closing) {
            None => (),
            Some(Ok(())) => return Err("W2: a clean mark though a write is outstanding".into()),
            Some(Err(e)) => return Err(format!("stage: the close fails early: {e}")),
        }
    }
    w.tick(10_000)?;
    match step(&w, &mut closing) {
        Some(Err(CloseError::NotClean(_))) => (),
        other => return Err(format!("stage: the close ends otherwise: {other:?}")),
    }
    w.kill();
    stage.open("ABCDEF").map(drop)
}

/// The clean mark is being written; an idle filler follows it, and is in flight to A when the process ends; z of the next
/// epoch: A, B, C, D; the filler lands; read-only over A, E, F. Rule: the log is shut before the clean mark.
pub fn nothing_behind_the_clean_mark() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.idle("");
    let mut closing = Closing::begin(&w.shared, Duration::from_secs(1));
    for _ in 0..20 {
        w.land_on("ABCDEF")?;
        w.jobs()?;
        if step(&w, &mut closing).is_some() {
            return Err("stage: the close ended early".into());
        }
        if w.shared.engine().is_clean() && w.shared.reads.pages.map().frozen.is_none() {
            break;
        }
    }
    w.idle("ABCDEF");
    ensure(step(&w, &mut closing).is_none(), "stage: the close does not wait for its mark")?;
    let _ = w.shared.append_filler();
    w.idle("");
    w.jobs()?;
    ensure(matches!(step(&w, &mut closing), Some(Ok(()))), "stage: the close is not clean")?;
    w.kill();
    stage.lose(&w, "BCDEF");
    let next = stage.open("ABCDEF")?;
    let z = next.append(&[(3, 3)])?;
    next.land_on("ABCD")?;
    ensure(next.acknowledged(z), "stage: z is not acknowledged")?;
    next.kill();
    stage.land_late(&w, "A");
    stage.read_only("AEF").map(drop)
}

/// A checkpoint's manifest is appended, and on no slot; killed; open.
/// Rule: superblocks name a manifest only when it is below VDL.
pub fn a_manifest_above_vdl() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    w.checkpoint("")?;
    w.kill();
    stage.lose(&w, "ABCDEF");
    stage.open("ABCDEF").map(drop)
}

/// A view, and the page changes twice after it; and a fenced writer's page that is changed and not durable.
/// Rule: a version stays while a view, or VDL, may ask for it.
pub fn versions_stay_while_they_are_needed() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    let view = w.view();
    w.append(&[(1, 2)])?;
    w.land_on("ABCDEF")?;
    w.append(&[(1, 3)])?;
    w.check_view(&view)?;
    w.check_view(&w.view())?;
    stage.open("ABCDEF")?;
    w.land_on("ABCDEF")?;
    w.shared.after_pump();
    w.check_view(&w.view())
}

/// A checkpoint begins while a group is open; it ends; killed; open.
/// Rule: redo begins at a group, for only there a scan can begin.
pub fn redo_begins_at_a_group() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append_open(&[(1, 1)])?;
    w.checkpoint("ABCDEF")?;
    ensure(!w.shared.engine().manifest().0.is_none(), "stage: there is no checkpoint")?;
    w.append(&[(2, 2)])?;
    w.land_on("ABCDEF")?;
    w.kill();
    stage.open("ABCDEF").map(drop)
}

/// x is in flight while the process is stopped for longer than a stall may last; then it goes on, and x lands.
/// Rule: a stall counts as far as the process was there to see it. (The simulator's seed 3776.)
pub fn a_stopped_process_is_no_stall() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = w.append(&[(1, 1)])?;
    w.tick(1)?;
    let most = STALL_MAX.as_millis() as u64;
    w.tick(2 * most)?;
    w.land_on("ABCD")?;
    ensure(w.acknowledged(x), "L2: x is not acknowledged, though the process was only stopped")?;
    let y = w.append(&[(2, 2)])?;
    for _ in 0..20 {
        w.tick(most / 16)?;
    }
    w.land_on("ABCD")?;
    ensure(!w.acknowledged(y), "stage: what stood still for longer is no stall")
}

/// While a writer of epoch 2 works, an image of F from the time of epoch 1 is mounted in its place, and tidied.
/// Rule: a slot is tidied only beside a superblock of its own that is not older. (Seeds 40000360, 47125.)
pub fn an_old_image_keeps_its_superblock() -> Checked {
    let stage = Stage::new();
    let first = stage.create()?;
    first.append(&[(1, 1)])?;
    first.land_on("ABCDEF")?;
    first.kill();
    let image = stage.image("F");
    let w = stage.open("ABCDEF")?;
    w.append(&[(2, 2)])?;
    w.land_on("ABCDEF")?;
    stage.mount("F", image);
    w.shared.engine().tidy(2);
    w.jobs()?;
    ensure(stage.has("F", FileName::Epoch(1)), "A1: nothing tells any more whose the files of F are")
}

/// Two threads fill what they reserved, the later one first.
/// Rule: what counts as appended never goes back.
pub fn sync_waits_for_the_highest() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let (x, _) = w.reserve(&[(1, 1)])?;
    let (y, made) = w.reserve(&[(2, 2)])?;
    w.shared.finish(y);
    w.shared.finish(x);
    ensure(w.shared.appended() == made.end, "S1: sync stands for less than was appended")
}

/// A record is reserved, and its group sealed: it will lie behind the clean mark, where the next epoch begins.
/// Rule: nothing is clean before it is filled.
pub fn no_clean_mark_before_what_is_reserved() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    let (x, _) = w.reserve(&[(2, 2)])?;
    w.shared.front.seal();
    w.shared.pump();
    ensure(!w.shared.engine().is_clean(), "W2: clean, and a record is still to come")?;
    w.shared.finish(x);
    w.shared.pump();
    w.land_on("ABCDEF")?;
    ensure(w.shared.engine().is_clean(), "stage: it does not become clean")
}
