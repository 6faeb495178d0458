//! The simulator: core, front and recovery in one thread under a seed, over disks that tear, lose and delay writes, with
//! kills, power cuts and take-overs, checked against a model.
//!
//! A run is one world's life. The same seed is the same run, to the byte, on every machine; [`Report::hash`] tells.

mod model;
mod random;
mod run;
#[cfg(test)]
mod scenario;
#[cfg(test)]
mod traces;
mod world;

pub use run::{Failure, Report, run};
