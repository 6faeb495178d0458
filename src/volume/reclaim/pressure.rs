//! Who appends waits where space comes back slower than it goes.

use super::Reclaim;
use crate::lsn::Lsn;
use crate::reclaim::freed;
use crate::volume::shared::Shared;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

/// Beyond this share, and the reserve beside, whoever appends waits for it.
const BEHIND_PER_LIVE: (u64, u64) = (13, 10);
/// What was given back ahead of who appends, and what they may be ahead of it.
const CREDIT_MAX: i64 = 16 << 20;
const CREDIT_MIN: i64 = -(4 << 20);
/// Nothing bounds what may be appended.
pub(super) const ENDLESS: i64 = i64::MAX / 2;
/// Who appends gets so much of what is given back: with the rest it catches up.
pub(super) const GAINED: (u64, u64) = (7, 8);
/// An append waits so long for credit, at most.
pub const CREDIT_WAIT: Duration = Duration::from_millis(100);

/// Reclaiming that is behind slows down who appends: as much as it gives back, they may append. Before it is behind they may
/// append what is left until then, so that nobody runs away while it waits for a disk.
pub struct Pressure {
    behind: AtomicBool,
    credit: AtomicI64,
}

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure { behind: AtomicBool::new(false), credit: AtomicI64::new(ENDLESS) }
    }
}

impl Pressure {
    pub fn is_on(&self) -> bool {
        self.credit.load(Ordering::Relaxed) < 0
    }

    pub fn appended(&self, bytes: u64) {
        let less = |c: i64| Some((c - bytes as i64).max(CREDIT_MIN));
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub(super) fn gained(&self, bytes: u64) {
        if self.behind.load(Ordering::Relaxed) {
            let more = |c: i64| Some((c + bytes as i64).min(CREDIT_MAX));
            let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// So much may be appended until it is behind; 0 if it is.
    pub(super) fn set(&self, left: i64) {
        let was = self.behind.swap(left == 0, Ordering::Relaxed);
        if left > 0 {
            self.credit.store(left, Ordering::Relaxed);
        } else if !was {
            self.credit.fetch_min(0, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// So much may be appended until the log takes more than it should, while something is under way that makes it less.
    pub(super) fn left_until_behind(&self, r: &Reclaim) -> i64 {
        let under_way = r.lags || r.emptying.is_some() || r.queue.waiting().next().is_some();
        if r.told.kept == 0 || !under_way {
            return ENDLESS;
        }
        // What views hold is nobody's to wait for.
        let all = freed::bytes_in(&self.engine().freeing.kept, Lsn::NONE, self.front.tail());
        let (of, per) = BEHIND_PER_LIVE;
        // Nor what the past holds.
        let held = self.past.lock().held();
        (r.told.live / per * of + self.reserve(r) + held.window + held.pins).saturating_sub(all) as i64
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_appends_gets_what_is_left_and_then_what_comes_back() {
        let pressure = Pressure::default();
        pressure.appended(u64::MAX >> 3);
        assert!(!pressure.is_on(), "nothing is under way");
        pressure.set(1000);
        pressure.gained(1 << 20);
        pressure.appended(1000);
        assert!(!pressure.is_on());
        // Nobody has looked again: it holds all the same.
        pressure.appended(1);
        assert!(pressure.is_on(), "what comes back before it is behind is in what is left");
        pressure.set(0);
        pressure.gained(1);
        assert!(!pressure.is_on());
        pressure.appended(200);
        pressure.set(0);
        pressure.gained(199);
        assert!(pressure.is_on(), "another look changes nothing");
        // One that was far ahead does not pay for all of it.
        pressure.appended(1 << 40);
        pressure.gained(4 << 20);
        assert!(!pressure.is_on());
        pressure.set(ENDLESS);
        pressure.appended(1 << 40);
        assert!(!pressure.is_on());
    }
}
