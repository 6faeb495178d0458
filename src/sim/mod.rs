//! The simulator: core, front and recovery in one thread under a seed, over disks that tear, lose, delay and misdirect
//! writes, rot, hang and come back in other places, with kills, power cuts and take-overs, checked against a model.
//!
//! A run is one world's life. The same seed is the same run, to the byte, on every machine; [`Report::hash`] tells.
//!
//! [`Life`] tests the volume itself. [`Stage`] runs your own code on a simulated [`Volume`](crate::Volume), process after
//! process, under the same faults, and beside readers and other writers ([`Others`]); `examples/btree.rs` shows it.
//!
//! ```
//! use quorate::sim::{Life, Mode};
//!
//! let report = Life::new(7).steps(200).run().expect("nothing breaks");
//! assert_eq!(report.hash, Life::new(7).steps(200).run().expect("nor again").hash);
//! // Beyond what six copies can bear: errors are allowed, untruth is not.
//! Life::new(7).steps(200).mode(Mode::Beyond).run().expect("honest");
//! ```

mod atlas;
mod clients;
mod clones;
mod dir;
#[cfg(test)]
mod far;
mod faults;
mod file;
mod healing;
mod known;
mod laws;
mod life;
mod mischief;
mod model;
mod openers;
mod past;
mod peace;
#[cfg(test)]
mod pinned;
mod random;
#[cfg(test)]
mod scenario;
mod shrink;
mod stage;
mod temper;
#[cfg(test)]
mod traces;
mod world;

pub use atlas::Mode;
pub use faults::Fault;
pub use stage::{Others, Stage};

/// One life to be lived: its seed, its length, and what may go wrong in it.
#[derive(Clone, Debug)]
pub struct Life {
    seed: u64,
    steps: u64,
    mode: Mode,
    trace: bool,
    removed: Vec<u64>,
    begin: Option<u64>,
}

impl Life {
    /// The life of a seed, 500 steps long.
    pub fn new(seed: u64) -> Life {
        Life { seed, steps: 500, mode: Mode::Atlas, trace: false, removed: Vec::new(), begin: None }
    }

    /// About so many operations, then the faults end and everything must come right.
    #[must_use]
    pub fn steps(mut self, steps: u64) -> Life {
        self.steps = steps;
        self
    }

    /// Within what six copies can bear, or beyond.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Life {
        self.mode = mode;
        self
    }

    /// The log begins at this address, a multiple of 4 KiB: as if all of it below had been written and given back. The disks
    /// are sparse, so that 64 TiB are as near as any.
    #[must_use]
    pub fn begin_at(mut self, address: u64) -> Life {
        self.begin = Some(address);
        self
    }

    /// Keeps every event.
    #[must_use]
    pub fn trace(mut self, trace: bool) -> Life {
        self.trace = trace;
        self
    }

    /// Leaves out these faults, by their numbers within the run: see [`Failure::faults`].
    #[must_use]
    pub fn without(mut self, faults: Vec<u64>) -> Life {
        self.removed = faults;
        self
    }

    /// Its length in operations.
    pub fn length(&self) -> u64 {
        self.steps
    }

    /// The faults that are left out.
    pub fn left_out(&self) -> &[u64] {
        &self.removed
    }

    /// Lives it.
    ///
    /// # Errors
    /// The property that broke.
    pub fn run(&self) -> Result<Report, Box<Failure>> {
        life::live(self)
    }

    /// Leaves out fault after fault while something still breaks, for so many runs at most. The shorter life, and how
    /// it fails; none if nothing breaks.
    pub fn shrink(&self, runs: usize) -> Option<(Life, Box<Failure>)> {
        shrink::shrink(self, runs)
    }
}

/// What a run met.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Of every event of the run.
    pub hash: u64,
    /// Steps taken.
    pub steps: u64,
    /// What happened, by name.
    pub counts: Vec<(&'static str, u64)>,
    /// How often each fault struck.
    pub faults: Vec<(Fault, u64)>,
    /// Every event, if it was asked for.
    pub trace: Vec<String>,
}

/// A property that broke.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed: the same life breaks again.
    pub seed: u64,
    /// What broke.
    pub what: String,
    /// The step at which it broke.
    pub step: u64,
    /// Faults have numbers below this one.
    pub faults: u64,
    /// Every event, if it was asked for.
    pub trace: Vec<String>,
}
