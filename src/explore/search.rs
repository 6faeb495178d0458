//! Breadth first, so that the first broken property is the shortest way to it.

use crate::explore::moves::Move;
use crate::explore::rules::Setting;
use crate::explore::state::State;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

/// Where a search ends at the latest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub states: usize,
    /// States of a level that are gone on from: what costs memory. Of more, some are left out.
    pub level: usize,
    pub until: Option<Instant>,
}

/// Why it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Every state within the bounds was seen.
    Exhausted,
    States,
    /// Some were left out, for want of memory.
    Trimmed,
    Time,
    Broken,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    pub states: usize,
    pub moves: u64,
    pub depth: usize,
    /// Every state up to so many moves was seen.
    pub whole: usize,
    pub end: End,
    /// The shortest way to what broke, and what broke.
    pub broken: Option<(Vec<Move>, String)>,
}

/// Keys are hashes already.
#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// How each state was first met: from which, and by what.
type Seen = HashMap<u64, (u64, Option<Move>), BuildHasherDefault<Plain>>;

/// Searches from `start` on, which `prefix` has led to.
pub fn search(start: State, prefix: &[Move], setting: &Setting, limits: Limits) -> Found {
    let mut seen = Seen::default();
    let root = start.key();
    seen.insert(root, (root, None));
    let mut level = vec![(root, start)];
    let mut found = Found { states: 1, moves: 0, depth: prefix.len(), whole: 0, end: End::Exhausted, broken: None };
    let mut trimmed = None;
    while !level.is_empty() {
        let mut next = Level::default();
        for (n, (at, state)) in level.drain(..).enumerate() {
            for m in state.moves(setting) {
                found.moves += 1;
                let mut to = state.clone();
                if let Err(what) = to.apply(m, setting) {
                    found.broken = Some((way(&seen, prefix, at, m), what));
                    (found.end, found.states, found.depth) = (End::Broken, seen.len(), found.depth + 1);
                    return found;
                }
                let key = to.key();
                if let Entry::Vacant(e) = seen.entry(key) {
                    e.insert((at, Some(m)));
                    next.add(key, to, limits.level);
                }
            }
            let late = n % 256 == 0 && limits.until.is_some_and(|t| Instant::now() >= t);
            if seen.len() > limits.states || late {
                found.end = if late { End::Time } else { End::States };
                (found.states, found.whole) = (seen.len(), trimmed.unwrap_or(found.depth));
                return found;
            }
        }
        if next.mask > 0 {
            trimmed = trimmed.or(Some(found.depth + 1));
        }
        found.depth += usize::from(!next.states.is_empty());
        level = next.states;
    }
    (found.states, found.whole) = (seen.len(), trimmed.unwrap_or(found.depth));
    found.end = if trimmed.is_some() { End::Trimmed } else { End::Exhausted };
    found
}

/// The states of the next level, or, if they are too many, a sample of them: half, a quarter ...
#[derive(Default)]
struct Level {
    states: Vec<(u64, State)>,
    mask: u64,
}

impl Level {
    fn add(&mut self, key: u64, state: State, most: usize) {
        // The key is a hash, and these bits of it are nobody else's.
        let kept = |key: u64, mask: u64| key >> 24 & mask == 0;
        if kept(key, self.mask) {
            self.states.push((key, state));
        }
        while self.states.len() > most {
            self.mask = self.mask << 1 | 1;
            let mask = self.mask;
            self.states.retain(|(key, _)| kept(*key, mask));
        }
    }
}

fn way(seen: &Seen, prefix: &[Move], mut at: u64, last: Move) -> Vec<Move> {
    let mut back = vec![last];
    while let Some((up, Some(m))) = seen.get(&at) {
        back.push(*m);
        at = *up;
    }
    prefix.iter().copied().chain(back.into_iter().rev()).collect()
}
