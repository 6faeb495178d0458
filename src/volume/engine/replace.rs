//! A slot whose directory is replaced: it leaves the quorum first, and comes back as what the new one is.

use crate::core::WRITE_QUORUM;
use crate::core::writer::Away;
use crate::disk::job::JobKind;
use crate::lsn::{Slot, SlotSet};
use crate::volume::engine::{Engine, PAUSE_FIRST};
use std::time::Duration;

impl Engine {
    /// The slot no longer counts, and does not come back until it is let go. The other slots that are live, if they are
    /// too few without it; then nothing has happened.
    pub fn hold(&mut self, slot: Slot, now: Duration) -> Result<(), SlotSet> {
        let others = self.writer.live().without(slot);
        if others.len() < WRITE_QUORUM {
            return Err(others);
        }
        self.now = now;
        self.held.insert(slot);
        self.leave(slot, Away::Absent);
        self.is_another(slot, now);
        Ok(())
    }

    /// Its directory has been replaced, or not: it is tried at once.
    pub fn let_go(&mut self, slot: Slot, now: Duration) {
        self.held = self.held.without(slot);
        self.pause[slot.index()] = PAUSE_FIRST;
        self.is_another(slot, now);
    }

    /// The directory in the slot's place may be another one from now on.
    pub(super) fn is_another(&mut self, slot: Slot, now: Duration) {
        self.retry_at[slot.index()] = now;
        if *self.jobs[slot.index()].of(JobKind::Rejoin) {
            self.outdated.insert(slot);
        }
    }
}
