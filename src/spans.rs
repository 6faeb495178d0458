//! Where a commit's time goes: the moments between its steps. With the feature `spans` they are kept, and `quorate bench`
//! tells them; without it nothing here does anything.

/// What a commit's time is spent on, in order.
#[cfg(feature = "spans")]
pub const STEPS: [&str; 8] = ["plan", "lock", "place", "encode", "queue", "device", "look", "wake"];

/// Where a commit is in the call that appends it.
#[derive(Clone, Copy)]
pub(crate) enum At {
    Begun,
    Planned,
    Locked,
    Placed,
    Encoded,
}

#[cfg(feature = "spans")]
pub use on::take;
#[cfg(feature = "spans")]
pub(crate) use on::*;

#[cfg(feature = "spans")]
mod on {
    use super::{At, STEPS};
    use crate::lsn::Lsn;
    use parking_lot::Mutex;
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    /// Moments of the engine that are kept: the oldest go.
    const KEPT: usize = 1024;
    const OF_APPEND: usize = At::Encoded as usize + 1;

    thread_local! {
        static MARKS: Cell<[Option<Instant>; OF_APPEND]> = const { Cell::new([None; OF_APPEND]) };
    }

    static ENGINE: Mutex<Engine> = Mutex::new(Engine { sent: VecDeque::new(), reaped: None, decided: VecDeque::new() });
    static SPANS: Mutex<Vec<[Duration; STEPS.len()]>> = Mutex::new(Vec::new());

    struct Engine {
        /// Up to where a slot's write goes, and when it was handed to the disk.
        sent: VecDeque<(Lsn, Instant)>,
        /// When completions were taken in last.
        reaped: Option<Instant>,
        /// VDL, when the completions behind it were taken in, and when it moved.
        decided: VecDeque<(Lsn, Instant, Instant)>,
    }

    fn keep<T>(all: &mut VecDeque<T>, one: T) {
        if all.len() == KEPT {
            all.pop_front();
        }
        all.push_back(one);
    }

    /// The appending thread has come so far.
    pub fn mark(at: At) {
        let mut marks = MARKS.get();
        marks[at as usize] = Some(Instant::now());
        MARKS.set(marks);
    }

    /// A ticket's moments.
    pub struct Marks([Option<Instant>; OF_APPEND]);

    impl Marks {
        /// Of what this thread has just appended.
        pub fn of_append() -> Marks {
            Marks(MARKS.replace([None; OF_APPEND]))
        }

        /// The ticket's wait is over.
        pub fn returned(&self, end: Lsn) {
            let now = Instant::now();
            let engine = ENGINE.lock();
            let sent = engine.sent.iter().find(|s| s.0 >= end).map(|s| s.1);
            let decided = engine.decided.iter().find(|d| d.0 >= end).map(|d| (d.1, d.2));
            drop(engine);
            let [Some(begun), Some(planned), Some(locked), Some(placed), Some(encoded)] = self.0 else { return };
            let (Some(sent), Some((reaped, decided))) = (sent, decided) else { return };
            let moments = [begun, planned, locked, placed, encoded, sent, reaped, decided, now];
            let mut spans = [Duration::ZERO; STEPS.len()];
            for (span, two) in spans.iter_mut().zip(moments.windows(2)) {
                *span = two[1].saturating_duration_since(two[0]);
            }
            SPANS.lock().push(spans);
        }
    }

    /// A write up to there is handed to the disk.
    pub fn sent(to: Lsn) {
        let mut engine = ENGINE.lock();
        if engine.sent.back().is_none_or(|last| last.0 < to) {
            keep(&mut engine.sent, (to, Instant::now()));
        }
    }

    /// Writes have ended.
    pub fn reaped() {
        ENGINE.lock().reaped = Some(Instant::now());
    }

    /// VDL has moved.
    pub fn decided(vdl: Lsn) {
        let mut engine = ENGINE.lock();
        let now = Instant::now();
        let reaped = engine.reaped.unwrap_or(now);
        keep(&mut engine.decided, (vdl, reaped, now));
    }

    /// What was kept since the last time: of each commit, how long each of [`STEPS`] took.
    pub fn take() -> Vec<[Duration; STEPS.len()]> {
        std::mem::take(&mut SPANS.lock())
    }
}

#[cfg(not(feature = "spans"))]
mod off {
    use super::At;
    use crate::lsn::Lsn;

    pub fn mark(_: At) {}

    pub struct Marks;

    impl Marks {
        pub fn of_append() -> Marks {
            Marks
        }

        pub fn returned(&self, _: Lsn) {}
    }

    pub fn sent(_: Lsn) {}

    pub fn reaped() {}

    pub fn decided(_: Lsn) {}
}

#[cfg(not(feature = "spans"))]
pub(crate) use off::*;
