//! What a volume finds and mends, told as it happens.

use crate::core::writer::Away;
use crate::lsn::{Lsn, Slot};
use std::collections::VecDeque;
use std::fmt;

/// Something that a volume found or mended. See [`Options::on_event`](crate::Options::on_event).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A slot no longer counts.
    SlotLeft {
        /// Which.
        slot: Slot,
        /// Why.
        why: Away,
    },
    /// A slot is written again; what it lacks is filled from its peers.
    SlotReturned {
        /// Which.
        slot: Slot,
        /// Bytes of log that are read on it, and copied where it lacks them.
        lacks: u64,
    },
    /// A slot lacks nothing any more.
    SlotWhole {
        /// Which.
        slot: Slot,
    },
    /// A reader met a bad copy; another one answered.
    BadCopy {
        /// The record's address.
        lsn: Lsn,
    },
    /// A slot got from its peers what it lacked, or what was damaged.
    Mended {
        /// Which.
        slot: Slot,
        /// In the mebibyte of the log that holds this address.
        lsn: Lsn,
        /// Bytes that were written.
        bytes: u64,
    },
    /// A superblock or claim was damaged, and is written anew.
    SuperblockMended {
        /// On which slot.
        slot: Slot,
    },
    /// Two copies verify and differ. Nothing is touched: look at both slots' files.
    Differs {
        /// The group's address.
        lsn: Lsn,
        /// Two slots that hold different bytes there.
        slots: (Slot, Slot),
    },
    /// No slot in reach has a good copy.
    NoCopy {
        /// The first address.
        lsn: Lsn,
        /// Behind the last.
        end: Lsn,
    },
    /// A scrub has come to its end.
    Scrubbed,
}

impl Event {
    /// As an event of `tracing`, with the feature of that name.
    pub(crate) fn trace(&self) {
        #[cfg(feature = "tracing")]
        match self {
            Event::Differs { .. } | Event::NoCopy { .. } => tracing::error!(target: "quorate", "{self}"),
            Event::SlotLeft { .. } | Event::BadCopy { .. } => tracing::warn!(target: "quorate", "{self}"),
            _ => tracing::info!(target: "quorate", "{self}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::SlotLeft { slot, why } => write!(f, "slot {slot} does not count any more: {why:?}"),
            Event::SlotReturned { slot, lacks } => write!(f, "slot {slot} is back, and {lacks} bytes are looked at"),
            Event::SlotWhole { slot } => write!(f, "slot {slot} is whole"),
            Event::BadCopy { lsn } => write!(f, "a copy of LSN {lsn} is bad, and another one answered"),
            Event::Mended { slot, lsn, bytes } => write!(f, "slot {slot} got {bytes} bytes near LSN {lsn}"),
            Event::SuperblockMended { slot } => write!(f, "slot {slot} got a new superblock in place of a damaged one"),
            Event::Differs { lsn, slots: (a, b) } => {
                write!(f, "slots {a} and {b} hold different groups at LSN {lsn}, and both verify: nothing is touched")
            }
            Event::NoCopy { lsn, end } => write!(f, "no good copy of LSN {lsn} to {end} in reach"),
            Event::Scrubbed => f.write_str("the scrub has come to its end"),
        }
    }
}

/// Told later, outside of all locks; what is too much is counted alone.
const WAITING_MAX: usize = 1024;

/// Counts of what was found and mended since the volume was opened.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct EventCounts {
    pub mends: u64,
    pub mended_bytes: u64,
    pub superblocks: u64,
    pub differs: u64,
    pub untold: u64,
}

/// Events that wait to be told.
#[derive(Debug, Default)]
pub(crate) struct Events {
    waiting: VecDeque<Event>,
    pub counts: EventCounts,
}

impl Events {
    pub fn push(&mut self, event: Event) {
        match event {
            Event::Mended { bytes, .. } => {
                self.counts.mends += 1;
                self.counts.mended_bytes += bytes;
            }
            Event::SuperblockMended { .. } => self.counts.superblocks += 1,
            Event::Differs { .. } => self.counts.differs += 1,
            _ => (),
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(event);
        } else {
            self.counts.untold += 1;
        }
    }

    pub fn any(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn take(&mut self) -> VecDeque<Event> {
        std::mem::take(&mut self.waiting)
    }
}
