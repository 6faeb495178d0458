//! The harness' group commit, for engines that have none of their own: whoever finds nobody at it makes one durable batch
//! of everything that threads have queued. The others sleep and are woken, as they must in any program.

use crate::peer::Peer;
use anyhow::{Result, bail};
use parking_lot::{Condvar, Mutex};

/// What threads share.
pub struct Group<'a> {
    peer: &'a dyn Peer,
    state: Mutex<State<'a>>,
    bell: Condvar,
}

#[derive(Default)]
struct State<'a> {
    queue: Vec<(u64, &'a [u8])>,
    queued: u64,
    durable: u64,
    leading: bool,
    failed: bool,
}

impl<'a> Group<'a> {
    /// Over an engine.
    pub fn new(peer: &'a dyn Peer) -> Group<'a> {
        Group { peer, state: Mutex::default(), bell: Condvar::new() }
    }

    /// Writes one, durable.
    pub fn commit(&self, key: u64, value: &'a [u8]) -> Result<()> {
        let mut state = self.state.lock();
        state.queue.push((key, value));
        state.queued += 1;
        let mine = state.queued;
        loop {
            if state.failed {
                bail!("another thread's commit failed");
            }
            if state.durable >= mine {
                return Ok(());
            }
            if state.leading {
                self.bell.wait(&mut state);
                continue;
            }
            state.leading = true;
            let (batch, upto) = (std::mem::take(&mut state.queue), state.queued);
            drop(state);
            let written = self.peer.commit_batch(&batch);
            state = self.state.lock();
            state.leading = false;
            state.failed |= written.is_err();
            if written.is_ok() {
                state.durable = upto;
            }
            self.bell.notify_all();
            written?;
        }
    }
}
