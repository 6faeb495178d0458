//! Waiting for VDL: threads park, tasks leave a waker, and each is woken once, in LSN order.

use crate::lsn::Lsn;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use std::collections::BTreeMap;
use std::task::Waker;

/// Why no more commits are acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Fewer than four slots for too long, or a defect.
    Stalled(String),
    /// Another process has a higher epoch.
    Fenced(u64),
    /// Closed, or the last handle was dropped.
    Closed,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Stalled(why) => f.write_str(why),
            Ended::Fenced(epoch) => write!(f, "another process has taken over (epoch {epoch})"),
            Ended::Closed => f.write_str("the volume was closed"),
        }
    }
}

/// Who waits.
pub enum Waiter {
    Thread(Arc<Parked>),
    Task(Waker),
}

impl Waiter {
    fn wake(self) {
        match self {
            Waiter::Thread(parked) => parked.unpark(),
            // An executor's code: its panic is not to end the thread that brings what the disks have done.
            Waiter::Task(waker) => {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
            }
        }
    }
}

/// A thread's place to sleep: woken at most once a turn, never lost.
pub struct Parked {
    woken: Mutex<bool>,
    bell: crate::sync::Condvar,
}

impl Parked {
    pub fn new() -> Parked {
        Parked { woken: Mutex::new(false), bell: crate::sync::Condvar::new() }
    }

    pub fn unpark(&self) {
        *self.woken.lock() = true;
        self.bell.notify_one();
    }

    /// Sleeps until it is woken, or so long at most.
    pub fn park(&self, most: std::time::Duration) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.bell.wait_for(&mut woken, most);
        }
        *woken = false;
    }
}

/// The tickets of one open volume.
pub struct Tickets {
    vdl: AtomicU64,
    /// There is a reason in the state: looked at all the time, so without its lock.
    over: AtomicBool,
    state: Mutex<State>,
}

struct State {
    waiters: BTreeMap<(Lsn, u64), Waiter>,
    next: u64,
    ended: Option<Ended>,
}

/// What a ticket's position has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    Durable,
    Waiting,
    /// It will not be acknowledged any more by this handle.
    Ended(Ended),
}

impl Tickets {
    pub fn new(vdl: Lsn) -> Tickets {
        let state = State { waiters: BTreeMap::new(), next: 0, ended: None };
        Tickets { vdl: AtomicU64::new(vdl.0), over: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// VDL as it was made known.
    pub fn vdl(&self) -> Lsn {
        Lsn(self.vdl.load(Ordering::Acquire))
    }

    /// Why nothing more is acknowledged, if so.
    pub fn ended(&self) -> Option<Ended> {
        if self.is_over() { self.state.lock().ended.clone() } else { None }
    }

    /// Nothing more is acknowledged.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Where a ticket at `end` stands.
    pub fn status(&self, end: Lsn) -> Status {
        if self.vdl() >= end {
            return Status::Durable;
        }
        let state = self.state.lock();
        // Again under the lock: VDL may have passed it just before the end.
        match &state.ended {
            _ if self.vdl() >= end => Status::Durable,
            Some(ended) => Status::Ended(ended.clone()),
            None => Status::Waiting,
        }
    }

    /// Leaves word to be woken when `end` is decided. The key takes it back. None: it is decided already.
    pub fn register(&self, end: Lsn, waiter: Waiter) -> Option<(Lsn, u64)> {
        let mut state = self.state.lock();
        if self.vdl() >= end || state.ended.is_some() {
            return None;
        }
        let key = (end, state.next);
        state.next += 1;
        state.waiters.insert(key, waiter);
        Some(key)
    }

    pub fn forget(&self, key: (Lsn, u64)) {
        self.state.lock().waiters.remove(&key);
    }

    /// VDL has moved: everyone up to it is woken, in order.
    pub fn advance(&self, vdl: Lsn) {
        let mut woken = Vec::new();
        {
            let mut state = self.state.lock();
            self.vdl.store(vdl.0, Ordering::Release);
            while let Some(entry) = state.waiters.first_entry() {
                if entry.key().0 > vdl {
                    break;
                }
                woken.push(entry.remove());
            }
        }
        woken.into_iter().for_each(Waiter::wake);
    }

    /// Nothing more will be acknowledged: everyone is woken.
    pub fn end(&self, why: Ended) {
        let woken = {
            let mut state = self.state.lock();
            state.ended.get_or_insert(why);
            self.over.store(true, Ordering::SeqCst);
            std::mem::take(&mut state.waiters)
        };
        woken.into_values().for_each(Waiter::wake);
    }

    /// Somebody waits.
    pub fn any(&self) -> bool {
        !self.state.lock().waiters.is_empty()
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::time::Duration;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn each_waiter_is_woken_once_and_only_when_its_lsn_is_durable() {
        let tickets = Tickets::new(Lsn(100));
        let count = std::sync::Arc::new(Count(AtomicUsize::new(0)));
        let waker = || Waiter::Task(Waker::from(count.clone()));
        assert!(tickets.register(Lsn(100), waker()).is_none());
        assert!(tickets.register(Lsn(200), waker()).is_some());
        let gone = tickets.register(Lsn(200), waker()).unwrap();
        assert!(tickets.register(Lsn(300), waker()).is_some());
        tickets.forget(gone);
        tickets.advance(Lsn(250));
        assert_eq!((count.0.load(Ordering::SeqCst), tickets.status(Lsn(200))), (1, Status::Durable));
        assert_eq!(tickets.status(Lsn(300)), Status::Waiting);
        tickets.end(Ended::Fenced(4));
        tickets.end(Ended::Closed);
        assert_eq!((count.0.load(Ordering::SeqCst), tickets.status(Lsn(300))), (2, Status::Ended(Ended::Fenced(4))));
        assert_eq!(tickets.status(Lsn(250)), Status::Durable);
        assert!(!tickets.any());
    }

    #[test]
    fn a_wake_up_before_the_sleep_is_not_lost() {
        let parked = Parked::new();
        parked.unpark();
        parked.park(Duration::from_secs(60));
    }
}
