//! What an open decides: where the log ends, and where the next epoch begins.

use crate::lsn::{Lsn, format};
use crate::segment::name::FileName;
use crate::sim::scenario::{Act, Checked, Made, Op, Opening, Stage, Writer, ensure};
use crate::volume::error::OpenError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// x: A; open over B, C, D, E: x absent; open over A, B, C, D: x is back.
/// Rule: an epoch has an end.
pub fn t03_a_history_of_begins_only() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("A")?;
    w.kill();
    stage.open("BCDE")?.kill();
    stage.open("ABCD").map(drop)
}

/// The first group of an MTR is on all slots, the second on none; killed; open.
/// Rule: the log ends behind a CPL, not at VCL.
pub fn t04_half_an_mtr() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1); 300])?;
    w.land_unheard("ABCDEF");
    w.tend()?;
    ensure(w.in_flight("A").is_some(), "stage: the MTR has no second group")?;
    w.kill();
    stage.lose(&w, "ABCDEF");
    stage.open("ABCDEF").map(drop)
}

/// x: A, B, C, D, acknowledged; y, which knows it: A; x rots on A; read-only over A, E, F.
/// Rule: no copy below the known VDL is `Lost`, never an end.
pub fn t05_a_missing_record_is_no_end() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = w.append(&[(1, 1)])?;
    w.land_on("ABCD")?;
    w.append(&[(2, 2)])?;
    w.land_on("A")?;
    w.kill();
    stage.rot_log("A", x.begin + 1000);
    match stage.try_read_only("AEF")? {
        Err(OpenError::Lost { lsn, .. }) if lsn >= x.begin && lsn < x.end => Ok(()),
        other => Err(format!("stage: it is not lost: {other:?}")),
    }
}

/// x torn on A and B, nowhere else; open over A, B, C, D.
/// Rule: above the known VDL garbage is a no, not a refusal.
pub fn t06_garbage_is_no_refusal() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.kill();
    stage.tear(&w, "A", 0..512);
    stage.tear(&w, "B", 0..512);
    stage.open("ABCD").map(drop)
}

/// x: A; an opener over A, B, C, D decides that it is there, and dies before it copies it; open over B, C, D, E.
/// Rule: the tail is on four slots before the decision.
pub fn t07_decision_before_the_tail() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("A")?;
    w.kill();
    stage.open_dies("ABCD", |call| if call.is(Op::Write, FileName::Tail(2)) { Act::Die } else { Act::Go })?;
    stage.open("BCDE").map(drop)
}

/// x: A. An opener over A, B, C, D dies at each of its calls in turn, before it or in it; then two opens follow.
/// Rule: an opener that fails a step undoes nothing, and a later one finds, adopts or overrules what it left.
pub fn an_opener_dies_at_each_of_its_calls() -> Checked {
    for death in [Act::Die, Act::DieInIt] {
        for at in 0.. {
            let stage = Stage::new();
            let w = stage.create()?;
            w.append(&[(1, 1)])?;
            w.land_on("A")?;
            w.kill();
            let made = Arc::new(AtomicU64::new(0));
            let count = made.clone();
            let hook = move |_| if count.fetch_add(1, Ordering::Relaxed) == at { death } else { Act::Go };
            let opening = stage.open_with("ABCD", hook)?;
            if !matches!(opening, Opening::Died) {
                ensure(made.load(Ordering::Relaxed) <= at, "stage: it survived its death")?;
                break;
            }
            let broken = |e: String| format!("{e} (the opener died at call {at}, {death:?})");
            stage.read_only("BEF").map_err(broken)?;
            stage.open("BCDE").map_err(broken)?.kill();
            stage.land_all_late();
            stage.open("ACEF").map_err(broken)?.kill();
            stage.read_only("BDF").map_err(broken)?;
        }
    }
    Ok(())
}

/// x: A. While an opener over A to E is at work, A fails for good, at each of its calls in turn; then an open without A.
/// Rule: what is copied is what was read for the decision. (Seeds 700000133091, 710000061698.)
pub fn a_slot_fails_at_each_of_an_openers_calls() -> Checked {
    for at in 0.. {
        let stage = Stage::new();
        let w = stage.create()?;
        w.append(&[(1, 1)])?;
        w.land_on("A")?;
        w.kill();
        let made = Arc::new(AtomicU64::new(0));
        let (inner, count) = (stage.clone(), made.clone());
        let hook = move |_| {
            if count.fetch_add(1, Ordering::Relaxed) == at {
                inner.failing("A");
            }
            Act::Go
        };
        let broken = |e: String| format!("{e} (A fails at call {at})");
        match stage.open_with("ABCDE", hook).map_err(broken)? {
            Opening::Open(w) => w.kill(),
            Opening::Refused(e) => return Err(broken(format!("A1: an open over B, C, D, E is refused: {e}"))),
            Opening::Died => return Err("stage: the opener died".into()),
        }
        if made.load(Ordering::Relaxed) <= at {
            break;
        }
        stage.read_only("BEF").map_err(broken)?;
        stage.open("BCDE").map_err(broken)?;
    }
    Ok(())
}

/// An epoch without a record that anybody sees: its writer's y is in flight to A. The next epoch's z: A, B, C, D; then y
/// lands; read-only over A, E, F. Rule: begin = reach of the last begin, too.
pub fn t08_empty_epochs() -> Checked {
    let stage = Stage::new();
    stage.create()?.kill();
    let w = stage.open("ABCDEF")?;
    w.append(&[(1, 1)])?;
    w.kill();
    stage.lose(&w, "BCDEF");
    acknowledged_below_a_late_write(&stage, "ABCDEF", &w)
}

/// The next writer opens over these slots, z: A, B, C, D, acknowledged, then what `old` has in flight to A lands; read-only
/// over A, E, F.
fn acknowledged_below_a_late_write(stage: &Stage, visible: &str, old: &Writer) -> Checked {
    let w = stage.open(visible)?;
    w.tick(200)?;
    ensure(w.is_live("A"), "stage: A did not rejoin")?;
    let z = w.append(&[(3, 3)])?;
    w.land_on("ABCD")?;
    ensure(w.acknowledged(z), "stage: z is not acknowledged")?;
    w.kill();
    stage.land_late(old, "A");
    stage.read_only("AEF").map(drop)
}

/// The writer's reach is 64 MiB to the byte, and its write of the last block below is in flight to A; open over B, C, D, E;
/// z of the new epoch: A, B, C, D; the late write lands. Rule: the next epoch begins beyond all that may be in flight.
pub fn t08_begin_inside_the_reach() -> Checked {
    let stage = Stage::new();
    let w = stage.create_with(Lsn(format::EXTENT - format::LAL))?;
    (0..5).try_for_each(|_| w.append(&[(1, 1); 450]).map(drop))?;
    run_ahead(&w, format::EXTENT)?;
    w.kill();
    stage.lose(&w, "BCDEF");
    acknowledged_below_a_late_write(&stage, "BCDE", &w)
}

/// What is sent to A lands up to the write that ends here; that one stays in flight.
fn run_ahead(w: &Writer, until: u64) -> Checked {
    for _ in 0..20 {
        match w.in_flight("A") {
            Some((_, end)) if end % format::EXTENT == until % format::EXTENT => return Ok(()),
            Some(_) => w.land_unheard("A"),
            None => break,
        }
        w.tend()?;
    }
    Err(format!("stage: A is not sent what ends at {until}"))
}

/// A long MTR streams: VCL moves, VDL does not. A's copy runs 8 MiB ahead of VCL, the others' do not; killed; open over B,
/// C, D, E. Rule: the next begin is measured from the union's VCL, as the writer's limit was.
pub fn t09_begin_measured_from_vdl() -> Checked {
    let stage = Stage::new();
    let w = stage.create_with(Lsn(55 << 20))?;
    let y: Made = w.append(&[(1, 1); 1900])?;
    w.append(&[(2, 2); 800])?;
    for _ in 0..2 {
        w.land_unheard("ABCD");
        w.tend()?;
    }
    ensure(!w.acknowledged(y), "stage: the long MTR ended")?;
    run_ahead(&w, format::EXTENT + (1 << 20))?;
    ensure(w.in_flight("A").is_some_and(|(at, _)| at == 0), "stage: A's write is not beyond the extent")?;
    w.kill();
    stage.lose(&w, "BCDEF");
    acknowledged_below_a_late_write(&stage, "BCDE", &w)
}

/// Lives so short that the background never has its turn: each adds an epoch, of which a superblock tells so many.
pub fn many_short_lives() -> Checked {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCDEF")?;
    w.close("ABCDEF")?;
    let mut most = 0;
    for _ in 0..600 {
        let w = stage.open("ABCDEF")?;
        most = most.max(w.shared.engine().history.entries().len());
        w.close("ABCDEF")?;
    }
    ensure(most < 300, &format!("L1: {most} epochs are told of, and all but the first are empty"))
}
