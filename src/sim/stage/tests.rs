//! The stage, played.

use super::*;
use crate::sim::faults::Fault;
use crate::{PageId, Unknown};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

/// Counts up in page 0, and checks that no count that was acknowledged is ever missing. Returns the last one.
fn count(stage: &Stage, awaits: bool) -> (Result<Report, Box<Failure>>, u64) {
    let (mut told, mut tried) = (0, 0);
    let result = stage.play(|volume| {
        let found = u64::from_le_bytes(volume.read(PageId::ROOT)?[..8].try_into()?);
        if found < told || found > tried {
            return Err(format!("{found} is not from {told} to {tried}").into());
        }
        // A process that begins has a durable state, and its newest one is the same.
        told = found;
        for next in found + 1..found + 30 {
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, &next.to_le_bytes()).expect(&volume.read(PageId::ROOT)?);
            tried = next;
            let commit = mtr.commit()?;
            if awaits {
                block_on(commit)?
            } else {
                commit.wait()?
            }
            told = next;
        }
        Ok(())
    });
    (result, told)
}

/// An executor that polls again once it is woken, and would hang if it were not.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Woken(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let mut future = pin!(future);
    let woken = Arc::new(Woken(true.into()));
    loop {
        assert!(woken.0.swap(false, Ordering::SeqCst), "nobody would poll again");
        let waker = Waker::from(woken.clone());
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
    }
}

#[test]
fn what_was_acknowledged_is_there_whatever_strikes() {
    let (mut faults, mut processes) = ([0; Fault::COUNT], 0);
    for seed in 0..60 {
        let (result, told) = count(&Stage::new(seed), seed % 2 == 0);
        let report = result.unwrap_or_else(|f| panic!("{f}"));
        assert!(told > 0);
        processes += report.counts[0].1;
        faults.iter_mut().zip(report.faults).for_each(|(all, (_, struck))| *all += struck);
    }
    assert!(processes > 300, "{processes} processes");
    let missing: Vec<Fault> = Fault::ALL.into_iter().filter(|f| faults[*f as usize] == 0).collect();
    assert!(missing.len() < 5, "never struck: {missing:?}");
}

#[test]
fn the_same_seed_and_code_are_the_same_run() {
    let hash = |seed| count(&Stage::new(seed), false).0.map(|r| (r.hash, r.steps)).unwrap();
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}

#[test]
fn a_check_that_fails_names_its_seed() {
    let mut processes = 0;
    let failure = Stage::new(11).play(|_| {
        processes += 1;
        if processes == 3 { Err("the third one".into()) } else { Ok(()) }
    });
    let failure = failure.unwrap_err();
    assert_eq!((failure.seed, failure.what.as_str()), (11, "the third one"));
    assert!(failure.to_string().starts_with("seed 11, step "));
    // An error of the volume that no fault explains.
    let failure = Stage::new(12).play(|volume| Ok(_ = volume.read(PageId(99))?)).unwrap_err();
    assert!(failure.what.contains("page 99 does not exist"), "{failure}");
}

#[test]
fn a_panic_goes_through() {
    let played = catch_unwind(|| Stage::new(1).play(|_| panic!("of the user's")));
    assert_eq!(played.unwrap_err().downcast_ref(), Some(&"of the user's"));
}

/// A process that was killed gets an error from each call, at once.
#[test]
fn after_a_kill_each_call_is_an_error() {
    let mut killed = 0;
    let result = Stage::new(5).play(|volume| {
        let view = volume.view();
        loop {
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, b"again");
            let Err(e) = mtr.commit().and_then(|c| c.wait()) else {
                killed += 1;
                if killed > 200 {
                    return Ok(());
                } else {
                    continue;
                };
            };
            if e.to_string().contains("killed") {
                let steps = || volume.begin().alloc().is_err() && volume.read(PageId::ROOT).is_err();
                assert!(steps() && view.read(PageId::ROOT).is_err());
                assert!(volume.clone().close().is_err());
            }
            return Err(e.into());
        }
    });
    result.unwrap_or_else(|f| panic!("{f}"));
}

type Done<T> = Result<T, Box<dyn Error>>;

/// Puts a count into page 0, and does not wait.
fn put(volume: &Volume, value: u64) -> Result<crate::Commit, crate::WriteError> {
    let mut mtr = volume.begin();
    mtr.patch(PageId::ROOT, 0, &value.to_le_bytes());
    mtr.commit()
}

fn value(page: &[u8]) -> Done<u64> {
    Ok(u64::from_le_bytes(page[..8].try_into()?))
}

/// What a reader calls certain is what the next writer finds, and what it shows is what was acknowledged at least.
#[test]
fn readers_beside_a_writer_tell_the_truth() {
    let (mut readers, mut answers) = (0, [0; 3]);
    for seed in 0..40 {
        let (mut told, mut asked) = (0, Vec::<(Unknown, bool)>::new());
        let played = Stage::new(seed).play_beside(|volume, others| {
            for (commit, survived) in asked.drain(..) {
                assert_eq!(volume.outcome(commit)?, survived);
            }
            told = value(&volume.read(PageId::ROOT)?)?;
            for next in told + 1..told + 12 {
                let commit = put(&volume, next)?;
                let unknown = commit.unknown();
                if next % 3 == 0 {
                    commit.wait()?;
                    told = next;
                }
                let Ok(reader) = others.open_read_only() else { continue };
                readers += 1;
                let (view, all) = (reader.view(), reader.view_visible());
                assert!(reader.settled() <= reader.visible() && reader.health().io == "simulated");
                let outcome = reader.outcome(unknown);
                answers[outcome.map_or(2, usize::from)] += 1;
                if let Some(survived) = outcome {
                    asked.push((unknown, survived));
                    assert!(survived || told != next);
                }
                let visible = value(&all.read(PageId::ROOT)?)?;
                assert!(told <= visible && visible <= next, "{visible} is not from {told} to {next}");
                if outcome == Some(true) {
                    assert_eq!(value(&view.read(PageId::ROOT)?)?, next);
                }
            }
            Ok(())
        });
        played.unwrap_or_else(|f| panic!("{f}"));
    }
    assert!(readers > 500 && answers[1] > 20 && answers[2] > 20, "{readers} readers, {answers:?}");
}

/// Two that open at once, then one more: one of them has the volume, and none of the others acknowledges anything.
#[test]
fn openers_that_race_leave_one_writer() {
    let (mut both, mut one, mut none) = (0, 0, 0);
    for seed in 0..60 {
        let mut tried = 0;
        let played = Stage::new(seed).play_beside(|first, others| {
            let begun = value(&first.read(PageId::ROOT)?)?;
            assert!(begun <= tried);
            tried = begun + 1;
            let early = put(&first, tried)?;
            let lost = early.unknown();
            let mut opened: Vec<Volume> = others.race().into_iter().flatten().collect();
            *[&mut none, &mut one, &mut both][opened.len()] += 1;
            opened.sort_by_key(|v| v.health().epoch);
            let Some(youngest) = opened.pop() else { return Ok(()) };
            let survived = youngest.outcome(lost)?;
            assert_eq!(value(&youngest.read(PageId::ROOT)?)?, begun + u64::from(survived));
            for zombie in opened.iter().chain([&first]) {
                tried += 1;
                let late = put(zombie, tried).and_then(|commit| commit.wait());
                assert!(late.is_err(), "a zombie acknowledges");
            }
            assert!(survived || early.wait().is_err());
            tried += 1;
            put(&youngest, tried)?.wait()?;
            let last = others.take_over()?;
            assert_eq!(value(&last.read(PageId::ROOT)?)?, tried);
            Ok(())
        });
        played.unwrap_or_else(|f| panic!("{f}"));
    }
    assert!(both > 20 && one > 20 && none > 0, "{both} times both, {one} times one, {none} times none");
}
