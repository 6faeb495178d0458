//! What is handed to a thread that sleeps over something else: it is rung for, unless it is going to look anyway. Where
//! nothing comes for long the thread ends, and leaves what it works with here: whoever rings next starts another one.

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

pub struct Desk<T, O> {
    queue: Mutex<Vec<T>>,
    /// Its owner will look, or has been rung for.
    rung: AtomicBool,
    /// What an owner needs, while there is none.
    left: Mutex<Option<O>>,
}

impl<T, O> Desk<T, O> {
    /// One that has no owner.
    pub fn new(left: O) -> Desk<T, O> {
        Desk { queue: Mutex::new(Vec::new()), rung: AtomicBool::new(false), left: Mutex::new(Some(left)) }
    }

    /// Puts something down. Whoever does so asks afterwards whether to ring.
    pub fn hand_over(&self, what: T) {
        self.queue.lock().push(what);
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }

    /// The owner is to be rung for, or another one to be started; who asks next need not. The owner says so itself before it
    /// does what may hand it more.
    pub fn is_to_ring(&self) -> bool {
        !self.rung.swap(true, Ordering::SeqCst)
    }

    /// It could be done by nobody: who asks next is to try.
    pub fn was_not_rung(&self) {
        self.rung.swap(false, Ordering::SeqCst);
    }

    /// Takes all that lies there. What comes from now on is rung for.
    pub fn take(&self) -> Vec<T> {
        self.rung.swap(false, Ordering::SeqCst);
        std::mem::take(&mut *self.queue.lock())
    }

    /// Whoever rings is to start an owner.
    pub fn has_no_owner(&self) -> bool {
        self.left.lock().is_some()
    }

    /// The owner goes. It gets back what it leaves if it has been rung for since it took.
    pub fn leave(&self, what: O) -> Option<O> {
        let mut left = self.left.lock();
        if self.rung.load(Ordering::SeqCst) {
            return Some(what);
        }
        *left = Some(what);
        None
    }

    /// The one that was started has it from now on; none if another one came before.
    pub fn come(&self) -> Option<O> {
        self.left.lock().take()
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_is_rung_for_while_it_goes_stays() {
        let desk = Desk::new("ring");
        let Some(ring) = desk.come() else { panic!("nobody has it") };
        assert!(desk.take().is_empty());
        desk.hand_over(1);
        assert!(desk.is_to_ring() && !desk.has_no_owner() && !desk.is_to_ring());
        assert_eq!(desk.leave(ring), Some("ring"));
        assert_eq!((desk.take(), desk.leave(ring)), (vec![1], None));
        desk.hand_over(2);
        assert!(desk.is_to_ring() && desk.has_no_owner());
        desk.was_not_rung();
        assert!(desk.is_to_ring());
        assert_eq!((desk.come(), desk.come(), desk.take()), (Some("ring"), None, vec![2]));
    }
}
