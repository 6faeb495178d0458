//! Which addresses of the log were given back. A manifest tells; whoever reads the log leaves them out.

use crate::core::history::{Entry, History};
use crate::lsn::{Lsn, format};

/// Whole frames, `[from, to)`: of a volume's own making whole extents, and what lies between epochs beside them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    pub from: Lsn,
    pub to: Lsn,
}

/// So many runs at most: a manifest holds them. What would begin another waits until it touches one.
pub const RUNS_MAX: usize = 8 << 10;

/// What was given back, in runs that do not touch, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Freed(Vec<Run>);

impl Freed {
    /// None if these are not whole frames, in order and apart.
    pub fn from_runs(runs: Vec<Run>) -> Option<Freed> {
        let whole = |l: Lsn| l.0.is_multiple_of(format::FRAME) && l.0 < format::NUMBER_LIMIT;
        let sane = runs.iter().all(|r| r.from < r.to && whole(r.from) && whole(r.to));
        let apart = runs.windows(2).all(|w| w[0].to < w[1].from);
        (sane && apart && runs.len() <= RUNS_MAX).then_some(Freed(runs))
    }

    pub fn runs(&self) -> &[Run] {
        &self.0
    }

    pub fn holds(&self, lsn: Lsn) -> bool {
        let behind = self.0.partition_point(|r| r.from <= lsn);
        self.0[..behind].last().is_some_and(|r| lsn < r.to)
    }

    /// Something of it lies in `[from, to)`.
    pub fn touches(&self, from: Lsn, to: Lsn) -> bool {
        let behind = self.0.partition_point(|r| r.from < to);
        self.0[..behind].last().is_some_and(|r| from < r.to)
    }

    /// What is left of `[from, to)` when the runs that hold its ends are cut off; none if nothing is.
    pub fn trimmed(&self, from: Lsn, to: Lsn) -> Option<(Lsn, Lsn)> {
        let run = |lsn: Lsn| self.0.iter().find(|r| r.from <= lsn && lsn < r.to);
        let from = run(from).map_or(from, |r| r.to);
        let to = to.0.checked_sub(1).and_then(|last| run(Lsn(last))).map_or(to, |r| r.from);
        (from < to).then_some((from, to))
    }

    /// What it does not hold of a run.
    pub fn lacks(&self, run: Run) -> Vec<Run> {
        let mut lacks = Vec::new();
        let mut from = run.from;
        let first = self.0.partition_point(|r| r.to <= from);
        for r in self.0[first..].iter().take_while(|r| r.from < run.to) {
            if from < r.from {
                lacks.push(Run { from, to: r.from });
            }
            from = r.to;
        }
        if from < run.to {
            lacks.push(Run { from, to: run.to });
        }
        lacks
    }

    /// It would take another run, and there is no room for one.
    pub fn is_full_for(&self, run: Run) -> bool {
        let touches = |r: &Run| r.from <= run.to && run.from <= r.to;
        self.0.len() >= RUNS_MAX && !self.0.iter().any(touches)
    }

    pub fn add(&mut self, run: Run) {
        let first = self.0.partition_point(|r| r.to < run.from);
        let behind = self.0.partition_point(|r| r.from <= run.to);
        let mut all = run;
        for r in &self.0[first..behind] {
            all = Run { from: all.from.min(r.from), to: all.to.max(r.to) };
        }
        self.0.splice(first..behind, [all]);
    }

    /// Takes in what lies beside a run and belongs to no epoch: there never was anything, and two runs become one.
    pub fn absorb(&mut self, history: &History) {
        // Of an epoch without a record nothing lies between, either.
        let entries: Vec<&Entry> = history.entries().iter().filter(|e| e.begin < e.end).collect();
        let wider = self.0.iter().map(|r| {
            let before = entries.partition_point(|e| e.begin < r.from);
            let from = before.checked_sub(1).map_or(Lsn::NONE, |i| entries[i].end.min(r.from).ceil(format::FRAME));
            let behind = entries.partition_point(|e| e.end <= r.to);
            let to = entries.get(behind).map_or(r.to, |e| e.begin.max(r.to).floor(format::FRAME));
            Run { from: from.min(r.from), to: to.max(r.to) }
        });
        let wider: Vec<Run> = wider.collect();
        wider.into_iter().for_each(|run| self.add(run));
    }

    /// The epochs that a manifest tells of. Where they are more than `most`, the oldest go of which nothing is left below
    /// `redo`: until they are no more, and never one of the newest half of `most`. See [`History::may_have_forgotten`].
    pub fn told(&self, history: &History, redo: Lsn, most: usize) -> Vec<Entry> {
        let entries = history.entries();
        let old = entries.len().saturating_sub(most / 2);
        let mut more = entries.len().saturating_sub(most);
        let mut is_told = |i: usize, e: &Entry| {
            let goes = more > 0 && i < old && e.end <= redo && self.trimmed(e.begin, e.end).is_none();
            more -= usize::from(goes);
            !goes
        };
        entries.iter().enumerate().filter(|(i, e)| is_told(*i, e)).map(|(_, e)| *e).collect()
    }

    /// The history's entries without what was given back; an epoch may be in several pieces, or in none.
    pub fn kept(&self, history: &History) -> Vec<Entry> {
        let mut kept = Vec::new();
        for entry in history.entries() {
            let mut from = entry.begin;
            let first = self.0.partition_point(|r| r.to <= from);
            for run in self.0[first..].iter().take_while(|r| r.from < entry.end) {
                if from < run.from {
                    kept.push(Entry { begin: from, end: run.from, ..*entry });
                }
                from = run.to.min(entry.end);
            }
            if from < entry.end {
                kept.push(Entry { begin: from, ..*entry });
            }
        }
        kept
    }
}

/// Bytes of the log in `[from, to)` of some entries.
pub fn bytes_in(entries: &[Entry], from: Lsn, to: Lsn) -> u64 {
    let first = entries.partition_point(|e| e.end <= from);
    let within = entries[first..].iter().take_while(|e| e.begin < to);
    within.map(|e| e.end.min(to).0.saturating_sub(e.begin.max(from).0)).sum()
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const E: u64 = format::EXTENT;

    fn run(from: u64, to: u64) -> Run {
        Run { from: Lsn(from * E), to: Lsn(to * E) }
    }

    fn history(entries: &[(u64, u64)]) -> History {
        let entry =
            |(i, (begin, end)): (usize, &(u64, u64))| Entry { epoch: i as u64 + 1, begin: Lsn(*begin), end: Lsn(*end) };
        History::from_entries(entries.iter().enumerate().map(entry).collect()).unwrap()
    }

    #[test]
    fn runs_that_touch_become_one() {
        let mut f = Freed::default();
        for r in [run(4, 5), run(8, 9), run(1, 2), run(5, 6), run(2, 4)] {
            f.add(r);
        }
        assert_eq!(f.runs(), [run(1, 6), run(8, 9)]);
        f.add(run(0, 20));
        assert_eq!(f.runs(), [run(0, 20)]);
        assert_eq!(Freed::from_runs(f.runs().to_vec()), Some(f));
    }

    #[test]
    fn what_is_lacked_of_a_run() {
        let mut f = Freed::default();
        assert_eq!(f.lacks(run(2, 5)), [run(2, 5)]);
        [run(1, 3), run(5, 6), run(8, 9)].into_iter().for_each(|r| f.add(r));
        assert_eq!(f.lacks(run(0, 10)), [run(0, 1), run(3, 5), run(6, 8), run(9, 10)]);
        assert_eq!(f.lacks(run(2, 4)), [run(3, 4)]);
        assert_eq!(f.lacks(run(4, 5)), [run(4, 5)]);
        assert_eq!(f.lacks(run(1, 3)), []);
    }

    #[test]
    fn of_many_epochs_the_oldest_are_told_of_no_more_that_have_nothing_left() {
        let open = u64::MAX;
        // The second is empty, the third given back, the fifth as far as redo.
        let h = history(&[(0, 1), (1, 1), (2, 3), (3, 4), (4, 5), (5, 5), (6, 7), (7, open / E)].map(|(a, b)| {
            (a * E + 4096 * u64::from(a == 0), if b == open / E { open } else { b * E + 4096 * u64::from(b == 0) })
        }));
        let mut f = Freed::default();
        [run(2, 3), run(4, 5), run(6, 7)].into_iter().for_each(|r| f.add(r));
        for (most, redo, told) in [
            (8, 7, vec![1, 2, 3, 4, 5, 6, 7, 8]),
            (7, 7, vec![1, 3, 4, 5, 6, 7, 8]),
            (6, 7, vec![1, 4, 5, 6, 7, 8]),
            // Of the newest half none goes; of what lies above redo neither.
            (4, 7, vec![1, 4, 7, 8]),
            (4, 4, vec![1, 4, 5, 6, 7, 8]),
            (2, 7, vec![1, 4, 8]),
        ] {
            let epochs: Vec<u64> = f.told(&h, Lsn(redo * E), most).iter().map(|e| e.epoch).collect();
            assert_eq!(epochs, told, "{most} {redo}");
        }
    }

    #[test]
    fn what_is_no_list_of_runs() {
        for (runs, why) in [
            (vec![run(2, 2)], "empty"),
            (vec![run(2, 3), run(3, 4)], "they touch"),
            (vec![run(4, 5), run(1, 2)], "out of order"),
            (vec![Run { from: Lsn(0), to: Lsn(4096) }], "no whole frame"),
            (vec![Run { from: Lsn(0), to: Lsn(format::NUMBER_LIMIT) }], "past all numbers"),
            ((0..=RUNS_MAX as u64).map(|i| run(2 * i, 2 * i + 1)).collect(), "too many"),
        ] {
            assert_eq!(Freed::from_runs(runs), None, "{why}");
        }
    }

    #[test]
    fn nothing_lies_between_epochs() {
        // Extents 0 and 2 have epochs, 1 and 3 to 6 none; the open one begins at 7.
        let h = history(&[(4096, 9000), (2 * E, 3 * E - 10), (5 * E, 5 * E), (7 * E, u64::MAX)]);
        let mut f = Freed::default();
        f.add(run(2, 3));
        f.absorb(&h);
        assert_eq!(f.runs(), [Run { from: Lsn(format::FRAME), to: Lsn(7 * E) }]);
        f.add(run(0, 1));
        f.absorb(&h);
        assert_eq!(f.runs(), [run(0, 7)]);
    }

    #[test]
    fn a_full_list_takes_what_touches() {
        let mut f = Freed::default();
        (0..RUNS_MAX as u64).for_each(|i| f.add(run(3 * i, 3 * i + 1)));
        assert!(f.is_full_for(run(3 * RUNS_MAX as u64 + 5, 3 * RUNS_MAX as u64 + 6)));
        assert!(!f.is_full_for(run(1, 2)));
    }

    proptest! {
        /// Against a set of extents: what is kept is what an epoch has and nobody gave back.
        #[test]
        fn kept_is_the_rest(
            lens in prop::collection::vec((1u64..4, 0u64..2, 1u64..E / 4096), 1..6),
            freed in prop::collection::btree_set(0u64..20, 0..12),
            absorbs in any::<bool>(),
        ) {
            let mut at = 0;
            let mut entries = Vec::new();
            for (extents, gap, short) in &lens {
                entries.push((at * E + 4096, (at + extents) * E - short * 4096 % E));
                at += extents + gap;
            }
            entries.push((at * E, u64::MAX));
            entries.retain(|(b, e)| b <= e);
            let h = history(&entries);
            let mut f = Freed::default();
            freed.iter().for_each(|e| f.add(run(*e, e + 1)));
            if absorbs {
                f.absorb(&h);
            }
            let kept = f.kept(&h);
            for block in (0..22 * E).step_by(1 << 20) {
                for lsn in [block, block + 8192].map(Lsn) {
                    let entry = h.at(lsn);
                    let given_back = freed.contains(&(lsn.0 / E));
                    let want = entry.filter(|_| !given_back).map(|e| e.epoch);
                    let got = kept.iter().find(|e| e.begin <= lsn && lsn < e.end).map(|e| e.epoch);
                    prop_assert_eq!(got, want, "{}", lsn);
                    prop_assert!(!given_back || f.holds(lsn));
                    prop_assert!(entry.is_none() || given_back || !f.holds(lsn));
                }
            }
            prop_assert!(kept.windows(2).all(|w| w[0].end <= w[1].begin));
        }
    }
}
