//! What is handed to a thread that sleeps over something else: it is rung for, unless it is going to look anyway.

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

pub struct Desk<T> {
    queue: Mutex<Vec<T>>,
    /// Its owner will look, or has been rung for.
    rung: AtomicBool,
}

impl<T> Desk<T> {
    pub fn new() -> Desk<T> {
        Desk { queue: Mutex::new(Vec::new()), rung: AtomicBool::new(false) }
    }

    /// Puts something down. Whoever does so asks afterwards whether to ring.
    pub fn hand_over(&self, what: T) {
        self.queue.lock().push(what);
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }

    /// The owner is to be rung for; who asks next need not. The owner says so itself before it does what may hand it more.
    pub fn is_to_ring(&self) -> bool {
        !self.rung.swap(true, Ordering::SeqCst)
    }

    /// Takes all that lies there. What comes from now on is rung for.
    pub fn take(&self) -> Vec<T> {
        self.rung.swap(false, Ordering::SeqCst);
        std::mem::take(&mut *self.queue.lock())
    }
}
