//! Threads that commit together, and the floor's group commit.
//!
//! The floor of `commit_16`: each of sixteen threads hands in a payload of 100 bytes, waits until four files have it, and
//! goes on. Whoever finds nobody at it writes for all: when four files can take a write, everything handed in since goes
//! into one group. The others sleep and are woken, as they must in any program.

use crate::bench::floor::Floor;
use crate::bench::{PATCH, Side};
use crate::common::Fail;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Instant;

/// Threads that commit at once.
const THREADS: u64 = 16;

/// Runs sixteen threads, each with its own figures.
pub fn threads(side: &mut Side, run: impl Fn(u64, &mut Side) -> Result<(), Fail> + Sync) -> Result<(), Fail> {
    some_threads(THREADS, side, run)
}

/// Runs threads, and adds up what they measured.
pub fn some_threads(
    count: u64,
    side: &mut Side,
    run: impl Fn(u64, &mut Side) -> Result<(), Fail> + Sync,
) -> Result<(), Fail> {
    std::thread::scope(|scope| {
        let run = &run;
        let one = |i| {
            scope.spawn(move || {
                let mut side = Side::new()?;
                run(i, &mut side).map(|()| side)
            })
        };
        let all: Vec<_> = (0..count).map(one).collect();
        for thread in all {
            let mine = thread.join().map_err(|_| Fail::new("a thread of the bench panicked: please report this"))?;
            side.add(&mine?);
        }
        Ok(())
    })
}

#[derive(Default)]
struct State {
    handed_in: u64,
    durable: u64,
    leading: bool,
    failed: bool,
}

struct Writer<'a> {
    floor: &'a mut Floor,
    sealed: u64,
    /// Where each group ends, and how many payloads there are up to it.
    groups: VecDeque<(u64, u64)>,
}

struct Group<'a> {
    state: Mutex<State>,
    bell: Condvar,
    writer: Mutex<Writer<'a>>,
}

impl Group<'_> {
    /// Hands in a payload and waits until it is on four files.
    fn commit(&self) -> Result<(), Fail> {
        let mut state = self.state.lock();
        state.handed_in += 1;
        let mine = state.handed_in;
        loop {
            if state.failed {
                return Err(Fail::new("another thread of the bench failed"));
            }
            if state.durable >= mine {
                return Ok(());
            }
            if state.leading {
                self.bell.wait(&mut state);
                continue;
            }
            state.leading = true;
            drop(state);
            let led = self.lead(mine);
            state = self.state.lock();
            state.leading = false;
            state.failed |= led.is_err();
            self.bell.notify_all();
            led?;
        }
    }

    /// Writes for all until `mine` is durable.
    fn lead(&self, mine: u64) -> Result<(), Fail> {
        let mut writer = self.writer.lock();
        let w = &mut *writer;
        loop {
            if w.floor.takes_a_group() {
                let handed_in = self.state.lock().handed_in;
                if handed_in > w.sealed {
                    let end = w.floor.append((handed_in - w.sealed) * PATCH as u64);
                    w.groups.push_back((end, handed_in));
                    w.sealed = handed_in;
                }
            }
            w.floor.write()?;
            w.floor.wait()?;
            let (durable, mut payloads) = (w.floor.durable(), None);
            while let Some((_, count)) = w.groups.pop_front_if(|(end, _)| *end <= durable) {
                payloads = Some(count);
            }
            if let Some(count) = payloads {
                self.state.lock().durable = count;
                self.bell.notify_all();
                if count >= mine {
                    return Ok(());
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.writer.try_lock().is_some_and(|w| w.floor.is_full())
    }
}

/// The floor of `commit_16`.
pub fn floor(floor: &mut Floor, until: Instant, side: &mut Side) -> Result<(), Fail> {
    let writer = Mutex::new(Writer { floor, sealed: 0, groups: VecDeque::new() });
    let group = Group { state: Mutex::default(), bell: Condvar::new(), writer };
    threads(side, |_, side| {
        while Instant::now() < until && !group.is_full() {
            let begun = Instant::now();
            group.commit()?;
            side.one(begun);
        }
        Ok(())
    })
}
