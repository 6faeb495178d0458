//! What a slot lacks: stretches of the log, in order, apart from each other, and few.
//!
//! A hint for repair and no vote: a stretch may be named that is there. What is missing must be named, though, for a slot
//! without a gap counts as whole.

use crate::lsn::Lsn;

/// A stretch of the log that a slot lacks, or that has still to be read on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gap {
    /// Where it begins.
    pub from: Lsn,
    /// Behind it.
    pub to: Lsn,
}

impl Gap {
    /// Nothing.
    pub(crate) const NONE: Gap = Gap { from: Lsn::NONE, to: Lsn::NONE };

    /// Nothing lies in it.
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }

    /// The smallest stretch that holds both.
    pub(crate) fn hull(self, other: Gap) -> Gap {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        Gap { from: self.from.min(other.from), to: self.to.max(other.to) }
    }
}

/// At most so many are kept: of more, the two that lie closest become one.
pub const GAPS_MAX: usize = 16;

/// The gaps of one slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    pub fn as_slice(&self) -> &[Gap] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a stretch.
    pub fn add(&mut self, mut gap: Gap) {
        if gap.is_empty() {
            return;
        }
        self.0.retain(|g| {
            let touches = g.from <= gap.to && gap.from <= g.to;
            if touches {
                gap = gap.hull(*g);
            }
            !touches
        });
        let at = self.0.partition_point(|g| g.from < gap.from);
        self.0.insert(at, gap);
        if self.0.len() > GAPS_MAX {
            let closest = (1..self.0.len()).min_by_key(|i| self.0[*i].from - self.0[*i - 1].to).unwrap_or(1);
            let hull = self.0[closest - 1].hull(self.0[closest]);
            self.0.splice(closest - 1..=closest, [hull]);
        }
    }

    /// Takes a stretch out: it is there.
    pub fn remove(&mut self, filled: Gap) {
        if filled.is_empty() {
            return;
        }
        let left = self.0.iter().flat_map(|g| {
            let before = Gap { from: g.from, to: g.to.min(filled.from) };
            let behind = Gap { from: g.from.max(filled.to), to: g.to };
            [before, behind]
        });
        self.0 = left.filter(|g| !g.is_empty()).collect();
        while self.0.len() > GAPS_MAX {
            let hull = self.0[0].hull(self.0[1]);
            self.0.splice(0..2, [hull]);
        }
    }

    /// Whether one of them has an address of the stretch.
    pub fn touches(&self, from: Lsn, to: Lsn) -> bool {
        self.0.iter().any(|g| g.from < to && from < g.to)
    }
}

impl From<Vec<Gap>> for Gaps {
    fn from(gaps: Vec<Gap>) -> Gaps {
        let mut all = Gaps::default();
        gaps.into_iter().for_each(|g| all.add(g));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gap(from: u64, to: u64) -> Gap {
        Gap { from: Lsn(from), to: Lsn(to) }
    }

    #[test]
    fn what_touches_becomes_one_and_what_is_filled_goes() {
        let mut gaps = Gaps::from(vec![gap(10, 20), gap(30, 40), gap(20, 25), gap(5, 5)]);
        assert_eq!(gaps.as_slice(), [gap(10, 25), gap(30, 40)]);
        gaps.remove(gap(12, 14));
        gaps.remove(gap(35, 90));
        assert_eq!(gaps.as_slice(), [gap(10, 12), gap(14, 25), gap(30, 35)]);
        assert_eq!((gaps.touches(Lsn(12), Lsn(14)), gaps.touches(Lsn(0), Lsn(11))), (false, true));
        assert!(!gaps.is_empty());
        gaps.remove(gap(0, 99));
        assert!(gaps.is_empty());
    }

    #[test]
    fn of_too_many_the_two_that_lie_closest_become_one() {
        let all: Vec<Gap> = (1..=GAPS_MAX as u64).map(|n| gap(100 * n, 100 * n + 10)).collect();
        let mut gaps = Gaps::from(all.clone());
        assert_eq!(gaps.as_slice(), all, "so many are told apart");
        gaps.add(gap(870, 880));
        let mut want = all.clone();
        want[8].from = Lsn(870);
        assert_eq!(gaps.as_slice(), want);
        // One whose midst is filled makes one more: the first two become one.
        gaps.remove(gap(1602, 1604));
        want.splice(0..2, [gap(100, 210)]);
        want.pop();
        want.extend([gap(1600, 1602), gap(1604, 1610)]);
        assert_eq!(gaps.as_slice(), want);
        gaps.remove(gap(1604, 1605));
        want[GAPS_MAX - 1].from = Lsn(1605);
        assert_eq!(gaps.as_slice(), want, "not one more: all stay");
    }

    proptest! {
        /// Against a plain set of addresses: nothing that is missing is forgotten, and few gaps are exact.
        #[test]
        fn nothing_missing_is_forgotten(steps in prop::collection::vec((any::<bool>(), 0u64..200, 0u64..12), 1..80)) {
            let mut gaps = Gaps::default();
            let mut plain = std::collections::BTreeSet::new();
            let mut exact = true;
            for (adds, from, len) in steps {
                let g = gap(from, from + len);
                let before = gaps.0.len();
                if adds {
                    gaps.add(g);
                    plain.extend(from..from + len);
                } else {
                    gaps.remove(g);
                    (from..from + len).for_each(|a| { plain.remove(&a); });
                }
                exact &= before < GAPS_MAX - 1;
                let holds = |a: u64| gaps.touches(Lsn(a), Lsn(a + 1));
                for a in 0..220 {
                    prop_assert!(holds(a) || !plain.contains(&a), "{a} is forgotten");
                    prop_assert!(!exact || holds(a) == plain.contains(&a), "{a}");
                }
                prop_assert!(gaps.0.len() <= GAPS_MAX);
                prop_assert!(gaps.0.windows(2).all(|w| w[0].to < w[1].from));
            }
        }
    }
}
