//! Going back: snapshots, the window, backtracks, and their undoing, against a plain list of states.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Random;
use quorate::{HistoryError, Lsn, Options, PageId, Point, View, Volume, WriteError};
use std::collections::BTreeMap;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// The number that each page has.
type State = BTreeMap<PageId, u64>;

fn options() -> Options {
    Options::default().page_size(4096).checkpoint_bytes(MIB).cache_bytes(2 * MIB)
}

fn put(page: PageId, n: u64) -> Vec<u8> {
    let mut image = vec![(page.0 as u8).wrapping_mul(31) ^ n as u8; 4096];
    image[..8].copy_from_slice(&n.to_le_bytes());
    image
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

#[track_caller]
fn check(view: &View, state: &State, what: &str) {
    assert_eq!(view.pages().unwrap(), state.keys().copied().collect::<Vec<_>>(), "{what}");
    for (page, n) in state {
        assert_eq!(number(&view.read(*page).unwrap()), *n, "{what}: page {page}");
    }
}

/// A volume, and what it must be.
struct Played {
    volume: Volume,
    now: State,
    n: u64,
    random: Random,
    /// Every state that was acknowledged, by the address of its last commit.
    states: BTreeMap<Lsn, State>,
}

impl Played {
    fn new(at: &std::path::Path, options: &Options) -> Played {
        let volume = Volume::create(at, options).unwrap();
        let now = State::from([(PageId::ROOT, 0)]);
        let states = BTreeMap::from([(volume.view().lsn(), now.clone())]);
        Played { volume, now, n: 0, random: Random::seeded(), states }
    }

    fn commit(&mut self) {
        let mut mtr = self.volume.begin();
        let all: Vec<PageId> = self.now.keys().copied().collect();
        for _ in 0..1 + self.random.below(6) {
            self.n += 1;
            let some = all[self.random.below(all.len() as u64) as usize];
            match self.random.below(8) {
                0 if some != PageId::ROOT && all.len() > 20 => {
                    if self.now.remove(&some).is_some() {
                        mtr.free(some);
                    }
                }
                1 | 2 => {
                    let page = mtr.alloc().unwrap();
                    mtr.put(page, put(page, self.n));
                    self.now.insert(page, self.n);
                }
                _ if !self.now.contains_key(&some) => (),
                3 => {
                    mtr.put(some, put(some, self.n));
                    self.now.insert(some, self.n);
                }
                _ => {
                    mtr.patch(some, 0, &self.n.to_le_bytes());
                    self.now.insert(some, self.n);
                }
            }
        }
        let commit = mtr.commit().unwrap();
        commit.wait().unwrap();
        self.states.insert(commit.lsn(), self.now.clone());
    }

    fn commits(&mut self, n: u64) {
        (0..n).for_each(|_| self.commit());
    }

    fn some_state(&mut self, from: Lsn) -> (Lsn, State) {
        let all: Vec<&Lsn> = self.states.range(from..).map(|(lsn, _)| lsn).collect();
        let lsn = *all[self.random.below(all.len() as u64) as usize];
        (lsn, self.states[&lsn].clone())
    }

    fn backtrack(&mut self, to: impl Into<Point>, state: State) -> Lsn {
        let before = self.now.clone();
        let done = self.volume.backtrack(to).unwrap();
        self.now = state;
        self.states.insert(done.undo, before);
        check(&self.volume.view(), &self.now, &format!("after a backtrack to {}", done.lsn));
        done.undo
    }

    fn reopen(&mut self, at: &std::path::Path, options: &Options) {
        self.volume.clone().close().unwrap();
        self.volume = Volume::open(at, options).unwrap();
        check(&self.volume.view(), &self.now, "after an open");
    }
}

#[test]
fn a_snapshot_can_be_had_again_and_again() {
    let dir = common::dir();
    let mut p = Played::new(dir.path(), &options());
    p.commits(30);
    let taken = p.volume.snapshot("monday").unwrap();
    let monday = p.now.clone();
    assert!(matches!(p.volume.snapshot("monday"), Err(HistoryError::Exists(_))));
    assert!(matches!(p.volume.snapshot(""), Err(HistoryError::Name(_))));
    assert!(matches!(p.volume.view_at("tuesday"), Err(HistoryError::NoSuchSnapshot(_))));
    p.commits(400);
    check(&p.volume.view_at("monday").unwrap(), &monday, "monday");
    p.reopen(dir.path(), &options());
    assert_eq!(p.volume.snapshots().iter().map(|s| (&s.name[..], s.lsn)).collect::<Vec<_>>(), [("monday", taken.lsn)]);
    check(&p.volume.view_at("monday").unwrap(), &monday, "monday after an open");
    p.commits(100);
    let undo = p.backtrack("monday", monday.clone());
    let tuesday = p.states[&undo].clone();
    p.commits(50);
    p.reopen(dir.path(), &options());
    p.backtrack(undo, tuesday);
    p.commits(10);
    p.volume.forget("monday").unwrap();
    assert!(matches!(p.volume.forget("monday"), Err(HistoryError::NoSuchSnapshot(_))));
    assert!(p.volume.snapshots().is_empty());
    p.reopen(dir.path(), &options());
    assert!(p.volume.snapshots().is_empty());
}

#[test]
fn any_state_of_the_window_can_be_taken_up_and_left_again() {
    let dir = common::dir();
    let options = options().window(HOUR, 1 << 30);
    let mut p = Played::new(dir.path(), &options);
    let from = p.volume.view().lsn();
    for round in 0..30 {
        let n = p.random.below(120);
        p.commits(n);
        if round % 7 == 6 {
            p.reopen(dir.path(), &options);
        }
        if round % 3 == 0 {
            let (lsn, state) = p.some_state(from);
            check(&p.volume.view_at(lsn).unwrap(), &state, &format!("round {round}, the state at {lsn}"));
        }
        if round % 2 == 0 {
            let (lsn, state) = p.some_state(from);
            p.backtrack(lsn, state);
        }
        if round % 5 == 4 {
            p.volume.compact(Duration::from_secs(20));
        }
    }
}

#[test]
fn without_a_window_a_view_brings_back_what_nobody_has_given_back() {
    let dir = common::dir();
    let mut p = Played::new(dir.path(), &options());
    p.commits(50);
    let (view, state) = (p.volume.view(), p.now.clone());
    let mut open = p.volume.begin();
    let mine = open.alloc().unwrap();
    p.commits(50);
    p.backtrack(&view, state);
    open.patch(PageId::ROOT, 0, b"other");
    assert!(matches!(open.alloc(), Err(WriteError::Rewound)));
    assert!(matches!(open.commit(), Err(WriteError::Rewound)));
    // No id is given out twice.
    let mut next = p.volume.begin();
    assert_ne!(next.alloc().unwrap(), mine);
    drop(next);
    p.commits(20);
    let oldest = p.volume.health().history.oldest;
    assert!(matches!(p.volume.view_at(Lsn(oldest.0 - 8)), Err(HistoryError::NotKept { .. })));
    assert!(matches!(p.volume.view_at(Lsn(1 << 60)), Err(HistoryError::NotYet { .. })));
}

#[test]
fn a_clone_is_a_volume_of_its_own() {
    let (dir, other) = (common::dir(), common::dir());
    let options = options().window(HOUR, 1 << 30);
    let mut p = Played::new(dir.path(), &options);
    p.commits(200);
    let (lsn, state) = (p.volume.view().lsn(), p.now.clone());
    p.commits(200);
    let view = p.volume.view_at(lsn).unwrap();
    let clone = view.clone_to(other.path(), &Options::default()).unwrap();
    assert_eq!(clone.health().page_size, 4096);
    check(&clone.view(), &state, "the clone");
    // Neither goes on where the other does.
    let mut mtr = clone.begin();
    let new = mtr.alloc().unwrap();
    assert!(!state.contains_key(&new), "an id is given out twice");
    mtr.put(new, put(new, 1)).patch(PageId::ROOT, 0, &77u64.to_le_bytes());
    mtr.commit().unwrap().wait().unwrap();
    p.backtrack(lsn, state.clone());
    p.commits(50);
    p.volume.compact(Duration::from_secs(20));
    check(&p.volume.view(), &p.now, "the origin");
    assert!(matches!(clone.backtrack(&view), Err(HistoryError::OtherVolume)));
    p.volume.close().unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    clone.close().unwrap();
    let clone = Volume::open(other.path(), &Options::default()).unwrap();
    let mut want = state;
    want.extend([(new, 1), (PageId::ROOT, 77)]);
    check(&clone.view(), &want, "the clone alone");
    clone.close().unwrap();
}
