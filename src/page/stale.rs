//! Cached versions that newer ones took the place of. Each would be kept as if somebody read it: a page that is patched
//! often would fill the cache with what it was.

use crate::lsn::Lsn;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// An older version and the one that took its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    pub old: Lsn,
    pub new: Lsn,
}

/// More are left to the cache, which drops what is not read.
const MOST: usize = 4096;

/// Those whose successors are not durable yet: a view that is taken now reads the old ones.
#[derive(Default)]
pub struct Stale(Mutex<VecDeque<Replaced>>);

impl Stale {
    pub fn add(&self, replaced: impl IntoIterator<Item = Replaced>) {
        let mut all = self.0.lock();
        all.extend(replaced);
        let more = all.len().saturating_sub(MOST);
        all.drain(..more);
    }

    /// Those whose successors are durable, at most so many.
    pub fn take(&self, vdl: Lsn, most: usize) -> Vec<Replaced> {
        let mut all = self.0.lock();
        let ripe = all.iter().take(most).take_while(|r| r.new < vdl).count();
        all.drain(..ripe).collect()
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;

    fn replaced(new: u64) -> Replaced {
        Replaced { old: Lsn(new - 8), new: Lsn(new) }
    }

    #[test]
    fn an_old_version_is_kept_until_the_new_one_is_durable() {
        let stale = Stale::default();
        stale.add([16, 24, 32].map(replaced));
        assert_eq!(stale.take(Lsn(16), 9), []);
        assert_eq!(stale.take(Lsn(32), 1), [replaced(16)]);
        assert_eq!(stale.take(Lsn(32), 9), [replaced(24)]);
        assert_eq!(stale.take(Lsn(33), 9), [replaced(32)]);
    }

    #[test]
    fn no_more_are_remembered_than_may_be() {
        let stale = Stale::default();
        stale.add((1..2 * MOST as u64).map(|i| replaced(8 * i)));
        assert_eq!(stale.take(Lsn::MAX, usize::MAX).len(), MOST);
    }
}
