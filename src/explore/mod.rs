//! Bounded exhaustive exploration: the real decision code, through every interleaving within bounds.
//!
//! A breadth-first search over hashed states. Six slots, alike up to their names; two processes at most, each a writer or
//! the step of an open; and a ledger of what the outside was told. Every state is met by the shortest way to it, so a
//! broken property is told as the shortest trace, move by move.
//!
//! **Driven, not copied**: `core::writer::Writer` and `Look::judge`; `vote::choose`, `Choice::under`, `Join`;
//! `recovery::rule`, `lacking` and `settled`; `History` and `history::reach`; `reader::outcome`.
//!
//! **Restated**, because it is I/O: `segment::survey`, `segment::scan` and `segment::recover` (`survey`, `opening`), the
//! engine's driving of the writer (`writing`, `moves`), and of `disk::job` the rejoin, the merge, the tidying and the clean
//! mark. With feature `fuzzing` a test makes states of random walks into files and compares all of this with the real
//! functions: what is read, ruled and settled, and every file that an open or a job leaves.
//!
//! **Checked** in every step: S1 to S4, S6 and A1, as the module `ledger` says them. A slot that was damaged counts as bad
//! for good: nothing repairs it yet. That the search would find what it looks for is a test: nineteen rules are broken in
//! turn, and each shows.
//!
//! **Left out**: clocks, space, checkpoints and manifests, the overlay, groups of more than a block (so the LAL never
//! binds), more than one write of a process to a slot (as in the writer), reads that are not at one moment, a claim that
//! lands late, one sector of a superblock's two places. With nobody beside, a step of an open goes to all slots at once, or
//! to some and then it ends: the order is nobody's to see.

#[cfg(all(test, feature = "fuzzing"))]
mod bytes;
mod disk;
mod faults;
mod ledger;
mod moves;
mod opening;
mod rules;
mod scenarios;
mod search;
mod state;
mod survey;
mod tell;
#[cfg(test)]
mod tests;
mod writing;

use rules::Setting;
use search::{End, Limits};
use state::State;
use std::time::{Duration, Instant};

/// How far is searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bounds {
    /// Seconds: for every change.
    Small,
    /// As far as memory and time allow.
    Full,
}

/// What became of one scenario.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// Its bounds.
    pub bounds: String,
    /// States that differ in more than the names of slots.
    pub states: usize,
    /// Moves that were tried.
    pub moves: u64,
    /// Moves to the last level that was begun.
    pub depth: usize,
    /// Moves up to which every state was seen.
    pub whole: usize,
    /// Every state within the bounds was seen; else what ended the search.
    pub exhausted: bool,
    /// Why it ended.
    pub end: &'static str,
    /// How long it took.
    pub took: Duration,
    /// The shortest way to a broken property, and the property.
    pub broken: Option<(Vec<String>, String)>,
}

/// What 4 GiB hold: states that were met, and states of a level that are gone on from.
const STATES_MAX: usize = 28_000_000;
const LEVEL_MAX: usize = 1_000_000;

/// Searches every scenario of these bounds, and tells of each as it ends. Given a time, small bounds too are searched as
/// far as memory allows; else to a fixed number of states, the same on every machine.
pub fn explore(bounds: Bounds, only: Option<&str>, most: Option<Duration>, mut tell: impl FnMut(&Report)) {
    let all = scenarios::all(bounds);
    let all: Vec<_> = all.into_iter().filter(|s| only.is_none_or(|o| s.name.contains(o))).collect();
    let end = most.map(|m| Instant::now() + m);
    for (n, scenario) in all.iter().enumerate() {
        let begun = Instant::now();
        // What earlier ones left of their share is later ones'.
        let until = end.map(|e| begun + e.saturating_duration_since(begun) / (all.len() - n) as u32);
        let setting = Setting { bounds: scenario.bounds, ..Setting::default() };
        let deep = bounds == Bounds::Full || most.is_some();
        let (states, level) = (if deep { STATES_MAX } else { scenario.states }, LEVEL_MAX);
        let found = search::search(State::new(), &[], &setting, Limits { states, level, until });
        tell(&Report {
            scenario: scenario.name,
            bounds: format!("{:?}", scenario.bounds),
            states: found.states,
            moves: found.moves,
            depth: found.depth,
            whole: found.whole,
            exhausted: found.end == End::Exhausted,
            end: match found.end {
                End::Exhausted => "exhausted",
                End::States => "stopped at the limit of states",
                End::Trimmed => "some were left out for want of memory",
                End::Time => "stopped at the limit of time",
                End::Broken => "BROKEN",
            },
            took: begun.elapsed(),
            broken: found.broken.map(|(way, what)| (tell::tell(&way, &setting), what)),
        });
    }
}
