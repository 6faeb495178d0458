//! The only door to locks, atomics and shared memory cells for what loom checks: the ring, publishing, tickets.
//!
//! A normal build gets parking_lot and std; `--cfg quorate_loom` gets loom's models of them under the same names.

#[cfg(not(quorate_loom))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(quorate_loom))]
pub(crate) use std::sync::{Arc, atomic};

#[cfg(quorate_loom)]
pub(crate) use self::looms::{Condvar, Mutex, MutexGuard};
#[cfg(quorate_loom)]
pub(crate) use loom::sync::{Arc, atomic};

/// loom's locks with parking_lot's signatures.
#[cfg(quorate_loom)]
mod looms {
    #![allow(clippy::unwrap_used, reason = "loom's locks never poison: a panic ends the model")]
    use std::time::Duration;

    pub(crate) use loom::sync::MutexGuard;

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    #[derive(Debug)]
    pub(crate) struct Condvar(loom::sync::Condvar);

    pub(crate) struct WaitTimeoutResult;

    impl WaitTimeoutResult {
        pub(crate) fn timed_out(&self) -> bool {
            false
        }
    }

    impl Condvar {
        pub(crate) fn new() -> Condvar {
            Condvar(loom::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            // loom's condvar takes the guard by value, parking_lot's by reference.
            // SAFETY: the guard is read out, given to wait, and what wait returns is written back before anyone looks.
            #[allow(unsafe_code)]
            unsafe {
                let taken = std::ptr::read(guard);
                let back = self.0.wait(taken).unwrap();
                std::ptr::write(guard, back);
            }
        }

        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> WaitTimeoutResult {
            self.wait(guard);
            WaitTimeoutResult
        }

        pub(crate) fn notify_one(&self) -> bool {
            self.0.notify_one();
            true
        }

        pub(crate) fn notify_all(&self) -> usize {
            self.0.notify_all();
            1
        }
    }
}
