//! How the background thread sleeps and is woken, and how others learn that something moved. Commits wake the thread only
//! from a long sleep, and nothing is missed.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};
use std::time::Duration;

/// So long may what begins wait for a background thread that sleeps by the clock; how soon it looks again after a turn in
/// which something began.
pub(crate) const SOON: Duration = Duration::from_millis(20);

pub(crate) struct Background {
    state: Mutex<Wanted>,
    bell: Condvar,
    /// Counts what began: what began during a turn may have been missed by it.
    begun: AtomicU64,
    /// Asleep until it is woken, or for long: what begins now would wait for it.
    deep: AtomicBool,
}

struct Wanted {
    work: bool,
    stop: bool,
}

impl Background {
    pub fn new() -> Background {
        let state = Mutex::new(Wanted { work: false, stop: false });
        Background { state, bell: Condvar::new(), begun: AtomicU64::new(0), deep: AtomicBool::new(false) }
    }

    /// There is something to do from now on: it must not sleep for long. Next to free while it sleeps by the clock.
    pub fn wake(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        if self.deep.load(Ordering::SeqCst) {
            self.wake_now();
        }
    }

    /// There is something to do now.
    pub fn wake_now(&self) {
        self.state.lock().work = true;
        self.bell.notify_one();
    }

    pub fn stop(&self) {
        let mut state = self.state.lock();
        (state.stop, state.work) = (true, true);
        self.bell.notify_one();
    }

    /// To be asked for before a turn, and handed to [`Background::sleep`] behind it.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Sleeps until woken, or so long; not for long if something began during the turn. False: stop.
    pub fn sleep(&self, most: Option<Duration>, begun: u64) -> bool {
        let mut state = self.state.lock();
        self.deep.store(most.is_none_or(|m| m > SOON), Ordering::SeqCst);
        // A change of the counter, as in `wake`, so that one of the two comes first: either it is seen here that something
        // began, or there that this sleeps.
        let missed = self.begun.fetch_add(0, Ordering::SeqCst) != begun;
        let most = if missed { Some(most.map_or(SOON, |m| m.min(SOON))) } else { most };
        if !state.work {
            match most {
                // loom knows no time: a short sleep is over at once.
                Some(most) if cfg!(quorate_loom) && most <= SOON => (),
                Some(most) => {
                    self.bell.wait_for(&mut state, most);
                }
                None => self.bell.wait(&mut state),
            }
        }
        self.deep.store(false, Ordering::SeqCst);
        state.work = false;
        !state.stop
    }
}

/// Word that something moved: space, a job, a checkpoint. Next to free while nobody waits.
pub(crate) struct Progress {
    /// Counts what moved, waited for or not: whoever is about to wait sees what moved before.
    turn: AtomicU64,
    waiting: AtomicU64,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { turn: AtomicU64::new(0), waiting: AtomicU64::new(0), lock: Mutex::new(()), bell: Condvar::new() }
    }

    /// To be asked for before it is seen that there is something to wait for.
    pub fn turn(&self) -> u64 {
        self.turn.load(Ordering::SeqCst)
    }

    /// Waits for word since `turn`, or so long.
    pub fn wait(&self, turn: u64, most: Duration) {
        let mut guard = self.lock.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // A change of the counter, so that one of the two comes first: either the move is seen here, or there that this
        // waits.
        if self.turn.fetch_add(0, Ordering::SeqCst) == turn {
            self.bell.wait_for(&mut guard, most);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn moved(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // Behind the lock the one who waits is asleep.
            drop(self.lock.lock());
            self.bell.notify_all();
        }
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_move_before_the_waiting_is_not_missed() {
        let progress = Progress::new();
        let turn = progress.turn();
        progress.moved();
        let begun = std::time::Instant::now();
        progress.wait(turn, Duration::from_secs(10));
        assert!(begun.elapsed() < Duration::from_secs(5));
        progress.wait(progress.turn(), Duration::from_millis(1));
    }
}
