//! A stage: somebody's own code on a simulated volume, process after process, under the faults of a seed.

mod hand;
mod others;
mod scene;
#[cfg(test)]
mod tests;

use crate::Volume;
use crate::sim::life::Sim;
use crate::sim::{Failure, Life, Report};
use crate::volume::options::Options;
use hand::Stagehand;
use parking_lot::Mutex;
use scene::Scene;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

pub use others::Others;

/// What a process returns.
type Done = Result<(), Box<dyn Error>>;

/// Your own code on a simulated volume: [`play`](Stage::play) runs it as one process after another, under the faults of a
/// seed.
///
/// The [`Volume`] is the real one, with all of its calls, in one thread: whoever waits in it lets the simulated world go
/// on instead. Writes land, tear and get lost, disks rot and vanish, time passes, another process takes over, the process
/// is killed, the power goes.
///
/// ```
/// use quorate::sim::Stage;
/// use quorate::{PageId, WriteError};
///
/// // What the outside was told, and what it was not: (value, its commit).
/// let (mut told, mut untold) = (0, None);
/// let report = Stage::new(7).play(|volume| {
///     // A process begins: whatever happened to the one before, its promises hold.
///     let found = u64::from_le_bytes(volume.read(PageId::ROOT)?[..8].try_into()?);
///     if let Some((value, commit)) = untold.take() {
///         told = if volume.outcome(commit)? { value } else { told };
///     }
///     assert_eq!(found, told);
///     for value in found + 1..found + 20 {
///         let mut mtr = volume.begin();
///         mtr.patch(PageId::ROOT, 0, &value.to_le_bytes());
///         let commit = mtr.commit()?;
///         untold = Some((value, commit.unknown()));
///         commit.wait()?; // an error: the process is gone
///         (told, untold) = (value, None);
///     }
///     Ok(())
/// })?;
/// assert!(told > 0 && report.faults.iter().any(|(_, struck)| *struck > 0));
/// # Ok::<(), Box<quorate::sim::Failure>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Stage {
    life: Life,
    options: Options,
    given: Vec<u8>,
}

impl Stage {
    /// The stage of a seed, for about 2000 steps of the world.
    pub fn new(seed: u64) -> Stage {
        Stage { life: Life::new(seed).steps(2000), options: Sim::options(true, true), given: Vec::new() }
    }

    /// After so many steps of the world the faults end. A commit that is waited for takes about 20.
    #[must_use]
    pub fn steps(mut self, steps: u64) -> Stage {
        self.life = self.life.steps(steps);
        self
    }

    /// How the volume is created and opened; otherwise its pages have 4 KiB, and it stalls after 5 s. Checkpoints come
    /// early in either case.
    #[must_use]
    pub fn options(mut self, options: Options) -> Stage {
        self.options = options;
        self
    }

    /// Keeps every event.
    #[must_use]
    pub fn trace(mut self, trace: bool) -> Stage {
        self.life = self.life.trace(trace);
        self
    }

    /// Leaves out these faults, by their numbers within the run: see [`Failure::faults`].
    #[must_use]
    pub fn without(mut self, faults: Vec<u64>) -> Stage {
        self.life = self.life.without(faults);
        self
    }

    /// The world's choices are these bytes, from the last to the first, then the seed's; in peace the seed's alone.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn given(mut self, bytes: &[u8]) -> Stage {
        self.given = bytes.to_vec();
        self
    }

    /// Calls `process` again and again, each time as a new process that has just opened the volume. It must return in
    /// some time by itself. The last one meets no faults: everything must go right.
    ///
    /// Once a process was killed or taken over from, each call of its volume gives an error: return it. Whatever else
    /// is returned, and a panic, says that a check of yours failed. What outlives processes, as the world outside does,
    /// is captured. Use the volume from this thread alone: else a seed does not repeat.
    ///
    /// # Errors
    /// What `process` found wrong, or what was wrong with the volume, with the seed.
    ///
    /// # Panics
    /// As `process` does; the seed is printed.
    pub fn play(&self, mut process: impl FnMut(Volume) -> Result<(), Box<dyn Error>>) -> Result<Report, Box<Failure>> {
        self.play_beside(|volume, _| process(volume))
    }

    /// As [`play`](Stage::play), for code that also opens the volume beside itself: readers, and writers that take over.
    ///
    /// ```
    /// use quorate::PageId;
    /// use quorate::sim::Stage;
    ///
    /// let count = |page: quorate::Page| u64::from_le_bytes(page[..8].try_into().unwrap());
    /// Stage::new(3).play_beside(|first, others| {
    ///     let put = |volume: &quorate::Volume, value: u64| {
    ///         let mut mtr = volume.begin();
    ///         mtr.patch(PageId::ROOT, 0, &value.to_le_bytes());
    ///         mtr.commit()
    ///     };
    ///     let now = count(first.read(PageId::ROOT)?) + 1;
    ///     let commit = put(&first, now)?;
    ///     let lost = commit.unknown();
    ///     // A reader, while that is on its way: what it calls certain stays.
    ///     let seen = others.open_read_only()?.outcome(lost);
    ///     // A second writer takes over, and the first does not know yet.
    ///     let second = others.take_over()?;
    ///     let survived = second.outcome(lost)?;
    ///     assert!(seen.is_none_or(|seen| seen == survived));
    ///     assert_eq!(count(second.read(PageId::ROOT)?), if survived { now } else { now - 1 });
    ///     assert!(survived || commit.wait().is_err());
    ///     assert!(put(&first, 0).and_then(|late| late.wait()).is_err(), "a zombie acknowledges nothing");
    ///     put(&second, now)?.wait()?;
    ///     Ok(())
    /// })?;
    /// # Ok::<(), Box<quorate::sim::Failure>>(())
    /// ```
    ///
    /// # Errors
    /// As [`play`](Stage::play). Of all volumes that a process has opened, the youngest is closed at its end.
    ///
    /// # Panics
    /// As `process` does; the seed is printed.
    pub fn play_beside(
        &self,
        mut process: impl FnMut(Volume, &Others) -> Result<(), Box<dyn Error>>,
    ) -> Result<Report, Box<Failure>> {
        let hand = Arc::new(Stagehand(Mutex::new(Scene::new(self))));
        let played = catch_unwind(AssertUnwindSafe(|| hand.play(self, &mut process)));
        let mut scene = hand.0.lock();
        scene.clear();
        let seed = self.life.seed;
        match played {
            Ok(Ok(())) => Ok(scene.report(seed)),
            Ok(Err(what)) => Err(Box::new(scene.failure(seed, what))),
            Err(panic) => {
                eprintln!("quorate::sim: the play of seed {seed} panicked at step {}", scene.steps);
                resume_unwind(panic)
            }
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}, step {}: {}", self.seed, self.step, self.what)
    }
}

impl Error for Failure {}
