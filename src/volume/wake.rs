//! How the background thread sleeps and is woken. Commits wake it only from a long sleep, and none of them is missed.

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
