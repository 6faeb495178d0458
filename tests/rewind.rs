//! Going back: snapshots, the window, backtracks, and their undoing, against a plain list of states.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::{Mount, Random, is_shared};
use quorate::{HistoryError, Lsn, Options, PageId, Point, View, Volume, WriteError};
use std::collections::BTreeMap;
use std::path::Path;
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
    let dir = common::dir();
    clone_of_its_own(dir.path(), false);
}

#[test]
fn a_clone_on_xfs_shares_what_it_began_with() {
    let dir = common::dir();
    let Some(disk) = Mount::of(dir.path(), "xfs", 3 << 10, "xfs") else { return };
    clone_of_its_own(&disk.path, true);
}

#[test]
fn a_clone_on_btrfs_shares_what_it_began_with() {
    let dir = common::dir();
    let Some(disk) = Mount::of(dir.path(), "btrfs", 3 << 10, "btrfs") else { return };
    clone_of_its_own(&disk.path, true);
}

/// What its successor has given back by then it cannot know, and would share as a hole.
#[test]
fn a_writer_that_was_overtaken_shares_nothing() {
    let dir = common::dir();
    let Some(disk) = Mount::of(dir.path(), "xfs", 3 << 10, "xfs") else { return };
    let [from, shared, copied] = ["origin", "shared", "copied"].map(|name| disk.path.join(name));
    [&from, &shared, &copied].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let mut p = Played::new(&from, &options().pg_size(64 << 20));
    p.commits(100);
    let all_shared = |at: &Path| {
        let clone = p.volume.view().clone_to(at, &Options::default()).unwrap();
        check(&clone.view(), &p.now, "the clone");
        let all: Vec<bool> = clone.health().slots.iter().map(|s| is_shared(&s.path.join("seg-00000000"))).collect();
        clone.close().unwrap();
        all
    };
    assert_eq!(all_shared(&shared), [true; 6]);
    let successor = Volume::take_over(&*from, &options()).unwrap();
    assert_eq!(all_shared(&copied), [false; 6]);
    successor.close().unwrap();
}

/// The origin has given back what the view alone still holds: a clone that began with the origin's log would punch it.
#[test]
fn what_a_view_alone_holds_is_copied() {
    let dir = common::dir();
    let Some(disk) = Mount::of(dir.path(), "xfs", 3 << 10, "xfs") else { return };
    let [from, other] = ["origin", "clone"].map(|name| disk.path.join(name));
    [&from, &other].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let mut p = Played::new(&from, &options().pg_size(64 << 20));
    p.commits(200);
    let (view, state) = (p.volume.view(), p.now.clone());
    for round in 0.. {
        assert!(round < 40, "nothing is given back: {:?}", p.volume.health().space);
        p.commits(200);
        // Not to its end: the view holds it.
        p.volume.compact(Duration::from_secs(2));
        if p.volume.health().space.given_back > 0 {
            break;
        }
    }
    let clone = view.clone_to(&*other, &Options::default()).unwrap();
    check(&clone.view(), &state, "the clone");
    clone.compact(Duration::from_secs(5));
    clone.close().unwrap();
    let clone = Volume::open(&*other, &Options::default()).unwrap();
    check(&clone.view(), &state, "the clone, opened again");
    assert!(!is_shared(&clone.health().slots[0].path.join("seg-00000000")));
    clone.close().unwrap();
    check(&view, &state, "the view");
}

/// Of a state of the window; then either goes on, gives back, is repaired, rewound, and removed.
fn clone_of_its_own(at: &Path, shares: bool) {
    let [from, other] = ["origin", "clone"].map(|name| at.join(name));
    [&from, &other].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let options = options().window(HOUR, 1 << 30).pg_size(64 << 20);
    let mut p = Played::new(&from, &options);
    p.commits(200);
    let (lsn, state) = (p.volume.view().lsn(), p.now.clone());
    p.volume.snapshot("origin's").unwrap();
    p.commits(200);
    let view = p.volume.view_at(lsn).unwrap();
    let clone = view.clone_to(&*other, &Options::default()).unwrap();
    let health = clone.health();
    assert_eq!((health.page_size, health.history.window), (4096, None));
    assert_ne!(health.volume, p.volume.health().volume);
    for slot in &health.slots {
        assert_eq!(is_shared(&slot.path.join("seg-00000000")), shares, "{slot:?}");
    }
    check(&clone.view(), &state, "the clone");
    assert!(clone.snapshots().is_empty(), "its origin's stay behind");
    assert!(!p.volume.snapshots().is_empty());
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
    let mut want = state;
    want.extend([(new, 1), (PageId::ROOT, 77)]);
    clone.snapshot("mine").unwrap();
    clone.compact(Duration::from_secs(20));
    check(&clone.view(), &want, "the clone, with a snapshot of its own");
    clone.close().unwrap();
    // A slot of the clone is lost, and made from the clone's others.
    let slot = other.join("az-1/slot-3");
    std::fs::remove_dir_all(&slot).unwrap();
    std::fs::create_dir(&slot).unwrap();
    let clone = Volume::open(&*other, &Options::default()).unwrap();
    assert!(clone.wait_repaired(Duration::from_secs(60)));
    check(&clone.view(), &want, "the clone, repaired");
    check(&p.volume.view(), &p.now, "the origin beside it");
    let now = p.now.clone();
    p.volume.close().unwrap();
    let verified = |at: &Path| Volume::open_read_only(at, &Options::default()).unwrap().verify();
    let found = verified(&from);
    assert!(found.is_clean(), "{:?} {:?}", found.differences, found.unreadable);
    let origin = Volume::open(&*from, &options).unwrap();
    check(&origin.view(), &now, "the origin, opened again");
    origin.close().unwrap();
    std::fs::remove_dir_all(&from).unwrap();
    clone.close().unwrap();
    let found = verified(&other);
    assert!(found.is_clean(), "{:?} {:?}", found.differences, found.unreadable);
    let clone = Volume::open(&*other, &Options::default()).unwrap();
    check(&clone.view(), &want, "the clone alone");
    clone.backtrack("mine").unwrap();
    check(&clone.view(), &want, "the clone, gone back");
    clone.close().unwrap();
}

/// Writers that are overtaken begin again; what comes back to the disks meanwhile is nothing that is gone back to.
#[test]
fn writers_beside_backtracks_begin_again() {
    const WRITERS: u64 = 3;
    let dir = common::dir();
    let volume = Volume::create(dir.path(), &options()).unwrap();
    let mut mtr = volume.begin();
    let pages: Vec<PageId> = (0..WRITERS * 40).map(|_| mtr.alloc().unwrap()).collect();
    mtr.commit().unwrap().wait().unwrap();
    volume.snapshot("empty").unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::SeqCst);
    let overtaken: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = pages
            .chunks(40)
            .map(|mine| {
                let volume = volume.clone();
                scope.spawn(move || {
                    let (mut n, mut overtaken) = (0u64, 0);
                    while !stopped() {
                        let mut mtr = volume.begin();
                        n += 1;
                        for page in mine.iter().skip(n as usize % 7).step_by(7) {
                            mtr.put(*page, put(*page, n));
                        }
                        match mtr.commit() {
                            Ok(commit) => commit.wait().unwrap(),
                            Err(WriteError::Rewound) => overtaken += 1,
                            Err(e) => panic!("{e}"),
                        }
                    }
                    overtaken
                })
            })
            .collect();
        for n in 1..=25u64 {
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, &n.to_le_bytes());
            mtr.commit().unwrap().wait().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let done = volume.backtrack("empty").unwrap();
            assert_eq!(number(&volume.view().read(PageId::ROOT).unwrap()), 0, "backtrack {n}");
            let undone = volume.view_at(done.undo).unwrap();
            assert_eq!(number(&undone.read(PageId::ROOT).unwrap()), n, "the state before backtrack {n}");
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        writers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert!(overtaken > 0, "no writer was overtaken");
    volume.close().unwrap();
}

/// How long a backtrack takes over the same distance on a small volume and on one a hundred times as large:
/// `QUORATE_LARGE_MIB=8192 cargo test --release --test rewind -- --ignored --nocapture`. Nothing is judged by a clock.
#[test]
#[ignore = "measures, and takes 48 GiB of disk with QUORATE_LARGE_MIB=8192"]
fn a_backtrack_takes_no_longer_on_a_large_volume() {
    let large = std::env::var("QUORATE_LARGE_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(800);
    let median = |mib: u64| {
        let dir = common::dir();
        let volume = Volume::create(dir.path(), &Options::default()).unwrap();
        let (mut pages, mut random) = (Vec::new(), Random::seeded());
        let image = |n: u64| vec![n as u8 | 1; 16 << 10];
        while (pages.len() as u64) < mib * 64 {
            let mut mtr = volume.begin();
            for _ in 0..64 {
                let page = mtr.alloc().unwrap();
                mtr.put(page, image(page.0));
                pages.push(page);
            }
            drop(mtr.commit().unwrap());
        }
        volume.sync().wait().unwrap();
        volume.snapshot("filled").unwrap();
        let one = |_| {
            for n in 0..512 {
                let mut mtr = volume.begin();
                mtr.put(pages[random.below(pages.len() as u64) as usize], image(n));
                drop(mtr.commit().unwrap());
            }
            volume.sync().wait().unwrap();
            let begun = std::time::Instant::now();
            volume.backtrack("filled").unwrap();
            begun.elapsed()
        };
        let mut all: Vec<Duration> = (0..9).map(one).collect();
        all.sort();
        volume.close().unwrap();
        println!("{mib} MiB: {:?}, of {all:?}", all[4]);
        all[4]
    };
    let (small, large) = (median(80), median(large));
    println!("{:.2} times as long", large.as_secs_f64() / small.as_secs_f64());
}

/// Its page lives again: the id is nobody's to be given.
#[test]
fn what_was_freed_and_is_back_is_not_given_out() {
    let dir = common::dir();
    let volume = Volume::create(dir.path(), &Options::default()).unwrap();
    let mut mtr = volume.begin();
    let page = mtr.alloc().unwrap();
    mtr.patch(page, 0, b"here");
    mtr.commit().unwrap().wait().unwrap();
    volume.snapshot("with").unwrap();
    let mut mtr = volume.begin();
    mtr.free(page);
    mtr.commit().unwrap().wait().unwrap();
    volume.backtrack("with").unwrap();
    assert_ne!(volume.begin().alloc().unwrap(), page);
    assert_eq!(volume.read(page).unwrap()[..4], *b"here");
}
