//! A life's hash is the same on every run, build and machine: debug and release builds, with planted bugs in reach or not,
//! are all held against one constant.

use crate::sim::{Life, Mode};

/// Of [`LIVES`] together. It changes whenever a life's events do; then take the new one from the failing test, once it is
/// the same in a debug and in a release build.
const PINNED: u64 = 0xBAAD_62D1_B13C_21FD;

/// Short ones, within the promise and beyond.
const LIVES: [(u64, Mode); 4] = [(1, Mode::Atlas), (7, Mode::Atlas), (12, Mode::Atlas), (5, Mode::Beyond)];

#[test]
fn a_life_is_the_same_in_every_build() {
    let hash = LIVES.iter().fold(0_u64, |all, (seed, mode)| {
        let report = Life::new(*seed).steps(150).mode(*mode).run().expect("nothing breaks");
        all.rotate_left(1) ^ report.hash
    });
    assert_eq!(hash, PINNED, "a run's events have changed, or depend on the build: {hash:#018X} now");
}
