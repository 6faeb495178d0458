//! Lives whose log begins where numbers get long, and the last addresses that there are.

use crate::lsn::{Lsn, format};
use crate::sim::life::{FAR, PG, Sim};
use crate::sim::{Life, Mode};
use crate::volume::append::NotAppended;
use crate::volume::error::WriteError;
use crate::volume::mtr::Mtr;

const BLOCK: u64 = 4096;

#[test]
fn lives_hold_at_every_border() {
    for (i, border) in FAR.into_iter().enumerate() {
        // Long before it and across, just before it, on it, and so that the first epoch ends before it.
        for (j, begin) in [border - 40 * BLOCK, border - BLOCK, border, border + BLOCK, border - format::LAL - BLOCK]
            .into_iter()
            .enumerate()
        {
            let seed = 40 + (i * 8 + j) as u64;
            for mode in [Mode::Atlas, Mode::Beyond] {
                let life = Life::new(seed).begin_at(begin).steps(250).mode(mode);
                if let Err(f) = life.run() {
                    panic!("seed {seed}, a log that begins at {begin}: {}", f.what);
                }
            }
        }
    }
}

/// What a life is, it is anywhere: the same events, but for addresses.
#[test]
fn a_life_far_away_is_lived_as_one_near_by() {
    let near = Life::new(9).begin_at(PG - 32 * BLOCK).steps(300).run().unwrap();
    for border in [1 << 46, 1 << 63] {
        let far = Life::new(9).begin_at(border - 32 * BLOCK).steps(300).run().unwrap();
        assert_eq!(far.counts, near.counts, "{border}");
        assert_ne!(far.hash, near.hash);
    }
}

fn commit(sim: &Sim) -> Result<(), WriteError> {
    let running = sim.running[0].borrow();
    let shared = &running.as_ref().expect("a writer").shared;
    let mut mtr = Mtr::new(shared.clone());
    mtr.patch(crate::PageId::ROOT, 0, b"more");
    let prepared = match shared.prepare(mtr.content()?) {
        Ok(prepared) => prepared,
        Err(NotAppended::Wrong(e)) => return Err(e),
        Err(NotAppended::Full) => return Err(shared.volume_full(shared.front.tail())),
        Err(e) => panic!("{e:?}"),
    };
    shared.finish(prepared);
    Ok(())
}

#[test]
fn users_get_no_address_at_the_very_end_and_an_open_that_has_none_left_says_so() {
    for (begin, full) in [(format::LOG_END - 64 * BLOCK, false), (format::LOG_END, true), (format::LOG_END + PG, true)]
    {
        let sim = Sim::new(&Life::new(3).begin_at(begin));
        if full {
            assert!(sim.create().is_err_and(|e| e.contains("Full")), "{begin}");
            continue;
        }
        sim.create().unwrap();
        // The small space that is left is used up.
        let mut n = 0;
        let refused = loop {
            match commit(&sim) {
                Ok(()) => n += 1,
                Err(e) => break e,
            }
            assert!(n < 10_000);
        };
        assert!(n > 300 && matches!(refused, WriteError::VolumeFull { .. }), "{n} {refused:?}");
        let tail = sim.running[0].borrow().as_ref().unwrap().shared.front.tail();
        assert!(tail <= Lsn(format::LOG_END), "{tail}");
    }
    // Far above what users get an epoch can begin, until there is nothing left for its checkpoints.
    let last = format::NUMBER_LIMIT - (1 << 40);
    for (begin, opens) in [(last - 4 * PG, true), (last - PG, false)] {
        let sim = Sim::new(&Life::new(3).begin_at(begin));
        assert!(sim.create().is_err_and(|e| e.contains("Full")), "no root page: users get nothing here");
        sim.kill_one(0);
        match sim.attempt(false) {
            Ok(Ok((opened, _))) => assert!(opens && opened.begin > Lsn(begin), "{}", opened.begin),
            Ok(Err(e)) => panic!("{e}"),
            // Elsewhere that would be against the promise, and the world says so.
            Err(what) => assert!(!opens && what.contains("its last address"), "{what}"),
        }
    }
}
