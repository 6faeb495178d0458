//! Superblocks, claims and votes.

use crate::segment::name::FileName;
use crate::segment::superblock;
use crate::sim::scenario::{Act, Call, Checked, Op, Opening, Stage, Writer, ensure, slot};
use crate::volume::error::OpenError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Dies when it writes this decision to another slot than the one named.
pub fn decides_only_on(name: &'static str, number: u64) -> impl FnMut(Call) -> Act + Send + 'static {
    move |call| match call.is(Op::Write, FileName::Epoch(number)) && call.slot != slot(name) {
        true => Act::Die,
        false => Act::Go,
    }
}

/// x: A alone, and the writer is dead.
pub fn x_on_a() -> Checked<(Stage, Writer)> {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("A")?;
    w.kill();
    stage.lose(&w, "BCDEF");
    Ok((stage, w))
}

/// x: A, B, C, D, acknowledged, and the writer is dead.
fn x_on_abcd() -> Checked<Stage> {
    let stage = Stage::new();
    let w = stage.create()?;
    let x = w.append(&[(1, 1)])?;
    w.land_on("ABCD")?;
    ensure(w.acknowledged(x), "stage: x is not acknowledged")?;
    w.kill();
    stage.lose(&w, "EF");
    Ok(stage)
}

/// x: A; an opener over B, C, D, E decides that it is absent, reaches B alone, dies; one over A, D, E, F decides that it is
/// there, and acknowledges z; read-only over A, B, C. Rule: a number is claimed on four slots before anything is read.
pub fn t10_one_number_two_deciders() -> Checked {
    let (stage, _) = x_on_a()?;
    stage.open_dies("BCDE", decides_only_on("B", 2))?;
    let w = stage.open("ADEF")?;
    w.append(&[(3, 3)])?;
    w.land_on("ADEF")?;
    w.kill();
    stage.read_only("ABC").map(drop)
}

/// Decision 2 and an acknowledged z of its epoch: A, B, C, D; read-only over A, E, F.
/// Rule: the highest decision wins, on however few slots.
pub fn t11_most_wins() -> Checked {
    second_epoch()?.read_only("AEF").map(drop)
}

fn second_epoch() -> Checked<Stage> {
    let stage = Stage::new();
    stage.create()?.kill();
    let w = stage.open("ABCD")?;
    let z = w.append(&[(3, 3)])?;
    w.land_on("ABCD")?;
    ensure(w.acknowledged(z), "stage: z is not acknowledged")?;
    w.kill();
    Ok(stage)
}

/// The same, and A's decision 2 rots in both places: two old superblocks, and a record of an epoch that none knows.
/// Rule: a valid record of a higher epoch than any superblock knows is an error.
pub fn t11_a_newer_record_refuses() -> Checked {
    let stage = second_epoch()?;
    stage.rot("A", FileName::Epoch(2), 100);
    stage.rot("A", FileName::Epoch(2), superblock::PLACE as u64 + 100);
    match stage.try_read_only("AEF")? {
        Err(OpenError::UnknownEpoch { epoch: 2, .. }) => Ok(()),
        other => Err(format!("stage: it is not refused for its epoch: {other:?}")),
    }
}

/// Closed clean; the next writer's z is acknowledged, and then its decision is lost on all slots.
/// Rule: a clean end, too, is looked behind for a higher epoch.
pub fn t11_a_newer_record_behind_a_clean_end_refuses() -> Checked {
    let stage = Stage::new();
    stage.create()?.close("ABCDEF")?;
    let w = stage.open("ABCDEF")?;
    let z = w.append(&[(3, 3)])?;
    w.land_on("ABCDEF")?;
    ensure(w.acknowledged(z), "stage: z is not acknowledged")?;
    w.kill();
    for name in ["A", "B", "C", "D", "E", "F"] {
        stage.rot(name, FileName::Epoch(2), 100);
        stage.rot(name, FileName::Epoch(2), superblock::PLACE as u64 + 100);
    }
    match stage.try_read_only("ABCDEF")? {
        Err(OpenError::UnknownEpoch { epoch: 2, .. }) => Ok(()),
        other => Err(format!("stage: it is not refused for its epoch: {other:?}")),
    }
}

/// x: A; open over B, C, D, E: x absent; one sector of that decision goes bad on B and on C; open over A, B, C, F.
/// Rule: each superblock version is written twice.
pub fn t11_a_superblock_in_one_place() -> Checked {
    let (stage, _) = x_on_a()?;
    stage.open("BCDE")?.kill();
    stage.rot("B", FileName::Epoch(2), 100);
    stage.rot("C", FileName::Epoch(2), 100);
    stage.open("ABCF").map(drop)
}

/// x: A, B, C, D, acknowledged; A and B replaced; read-only over A, B, E, F.
/// Rule: a blank slot has no vote.
pub fn t12_blank_disks_vote() -> Checked {
    let stage = x_on_abcd()?;
    stage.blank("AB");
    refused(&stage, "ABEF")
}

/// The same, and an opener over A, B, C, E, F formats them and dies; then one over A, B, E, F comes.
/// Rule: a formatted slot has no vote until a decision brings it in.
pub fn t12_formatted_disks_vote() -> Checked {
    let stage = x_on_abcd()?;
    stage.blank("AB");
    let dies_at_c = |c: Call| if c.op == Op::Create && c.slot == slot("C") { Act::Die } else { Act::Go };
    stage.open_dies("ABCEF", dies_at_c)?;
    ensure(stage.has("B", FileName::Epoch(1)), "stage: B was not formatted")?;
    refused(&stage, "ABEF")?;
    match stage.open_with("ABEF", |_| Act::Go)? {
        Opening::Refused(OpenError::Quorum { .. }) => (),
        _ => return Err("S1: two voters were enough to open".into()),
    }
    // With a third voter it is all there.
    stage.open("ABCEF").map(drop)
}

fn refused(stage: &Stage, visible: &str) -> Checked {
    match stage.try_read_only(visible)? {
        Err(OpenError::Quorum { .. }) => Ok(()),
        other => Err(format!("stage: it is not refused: {other:?}")),
    }
}

/// Decisions 2 and 3 reach B alone. A, replaced, is formatted by the opener of 4, whose decision reaches A alone: it joined
/// at 3's begin. Opens over C, D, E, F, then over A, C, D, E. Rule: a join point counts only with its decision.
pub fn t13_a_passed_over_join_point() -> Checked {
    let stage = Stage::new();
    stage.create()?.kill();
    stage.open_dies("BCDE", decides_only_on("B", 2))?;
    stage.open_dies("BCDE", decides_only_on("B", 3))?;
    stage.blank("A");
    stage.open_dies("ABCD", decides_only_on("A", 4))?;
    ensure(stage.has("A", FileName::Epoch(4)), "stage: A did not join")?;
    stage.open("CDEF")?.kill();
    stage.open("ACDE").map(drop)
}

/// An opener has claimed 2 on A, B, C, D, has read, and pauses. A is replaced, and another opener formats it and dies
/// before its own claim. The old writer, whose look reads A, E, F, completes x on B, C, E, F; the first opener decides.
/// Rule: formatting carries the highest claim.
pub fn t19_a_formatted_slot_carries_the_claim() -> Checked {
    let dies = |c: Call| if c.is(Op::Create, FileName::Claim(3)) { Act::Die } else { Act::Go };
    ensure(formatted_by_another(dies)?, "stage: the second opener lives")
}

/// The same, and it dies at each of its calls in turn, before it or in it.
/// Rule: the claim comes before the superblock, with which the slot is a voter.
pub fn t19_an_opener_dies_while_it_formats() -> Checked {
    for death in [Act::Die, Act::DieInIt] {
        for at in 0.. {
            let mut calls = 0;
            let dies = move |_| {
                calls += 1;
                if calls > at { death } else { Act::Go }
            };
            let died = formatted_by_another(dies);
            if !died.map_err(|e| format!("{e} (the second opener died at call {at}, {death:?})"))? {
                break;
            }
        }
    }
    Ok(())
}

/// Returns whether the second opener died.
fn formatted_by_another(hook: impl FnMut(Call) -> Act + Send + 'static) -> Checked<bool> {
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    let died = Arc::new(AtomicBool::new(false));
    let (inner, mut hook, second) = (stage.clone(), Some(hook), died.clone());
    stage.open_with("ABCD", move |call| {
        if call.is(Op::Write, FileName::Epoch(2))
            && let Some(hook) = hook.take()
        {
            inner.blank("A");
            match inner.open_with("ABEF", hook) {
                Ok(opening) => second.store(matches!(opening, Opening::Died), Ordering::Relaxed),
                Err(e) => inner.keep(Err(e)),
            }
            w.sees("AEF");
            inner.keep(w.land_on("BCEF"));
        }
        Act::Go
    })?;
    Ok(died.load(Ordering::Relaxed))
}

/// x: A, B, C, D, acknowledged; A and B replaced, and D away: x is found on C.
/// Rule: what is formatted denies nothing.
pub fn t21_two_disks_replaced_at_once() -> Checked {
    let stage = x_on_abcd()?;
    stage.blank("AB");
    let w = stage.open("ABCEF")?;
    let z = w.append(&[(3, 3)])?;
    w.land_on("ABEF")?;
    ensure(w.acknowledged(z), "stage: z is not acknowledged")?;
    w.kill();
    stage.open("ABDEF").map(drop)
}

/// Two openers die when they have claimed 2 and 3 on A alone; then A and B are in each other's places; open over all.
/// Rule: an opener claims beyond whatever its look will read. (Seed 710000019704.)
pub fn claims_in_another_slots_place() -> Checked {
    let stage = Stage::new();
    stage.create()?.kill();
    for number in [2, 3] {
        let dies_at_b = |c: Call| if c.op == Op::Create && c.slot == slot("B") { Act::Die } else { Act::Go };
        stage.open_dies("ABCD", dies_at_b)?;
        ensure(stage.has("A", FileName::Claim(number)), "stage: A was not claimed")?;
    }
    let (a, b) = (stage.image("A"), stage.image("B"));
    stage.mount("A", b);
    stage.mount("B", a);
    stage.open("ABCDEF").map(drop)
}

/// A slot of another volume, whose epochs are higher, in F's place: nobody has to be told that it is the wrong one.
/// Rule: another volume's claims are no claims.
pub fn another_volumes_claims() -> Checked {
    let other = Stage::of_volume(0x52);
    other.create()?.kill();
    (0..8).try_for_each(|_| other.open("ABCDEF").map(|w| w.kill()))?;
    let stage = Stage::new();
    let w = stage.create()?;
    w.append(&[(1, 1)])?;
    w.land_on("ABCD")?;
    w.kill();
    stage.mount("F", other.image("F"));
    stage.open("ABCDEF").map(drop)
}
