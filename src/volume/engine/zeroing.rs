//! Space ahead of the log is zeroed before the log comes there, where that pays: a block that was never written costs the
//! file system a change of its own metadata, in its journal, before the block counts as durable. On one disk (ext4) a
//! commit takes 210 us into written space and 340 us into space that is only allocated; on RAM disks 33 and 146.
//!
//! It is a second, different write to a block: PROTOCOL.md bounds it, and [`Writer`](crate::core::writer::Writer) holds the
//! bounds. It costs as many bytes again: a log that grows fast is bound by bytes, and gets none.

use super::Engine;
use crate::disk::job::Job;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use std::io;
use std::time::Duration;

/// A log that grows faster, in bytes a second, gets none.
const FAST: u64 = 48 << 20;

/// A slot that is zeroed for longer has had its turn.
const TURN: Duration = Duration::from_millis(10);

pub struct Zeroing {
    /// Bytes that are zeroed at once, half as many ahead of the log, so that its writes do not wait for it; more when the
    /// log has come as near as twice as many to where zeroed space ends. A life of a quarter pays nothing for it. 0: none.
    chunk: u64,
    /// Where it does not pay.
    refused: SlotSet,
    /// The tail when it was looked at last.
    seen: (Lsn, Duration),
    fast: bool,
    /// When each slot's last one began.
    begun: [Duration; SLOTS],
}

impl Zeroing {
    pub fn new(chunk: u64, begin: Lsn) -> Zeroing {
        Zeroing {
            chunk,
            refused: SlotSet::NONE,
            seen: (begin, Duration::ZERO),
            fast: false,
            begun: [Duration::ZERO; SLOTS],
        }
    }

    /// The log has come this far.
    fn grows(&mut self, tail: Lsn, now: Duration) {
        let (bytes, time) = (tail.0.saturating_sub(self.seen.0.0), now.saturating_sub(self.seen.1));
        if bytes >= self.chunk {
            self.fast = u128::from(bytes) * 1_000_000 > u128::from(FAST) * time.as_micros();
            self.seen = (tail, now);
        }
    }
}

impl Engine {
    /// Begins what is to be zeroed now.
    pub(super) fn zero_ahead(&mut self, now: Duration) {
        let tail = self.front.tail();
        self.zeroing.grows(tail, now);
        let chunk = self.zeroing.chunk;
        if chunk == 0
            || self.zeroing.fast
            || self.closing
            || self.tickets.is_over()
            || tail < self.writer.begin() + chunk / 4
        {
            return;
        }
        for slot in Slot::ALL {
            // One after the other: a commit needs four slots, and meets five. A slot that hangs is not waited for.
            let under_way = |s: &Slot| self.writer.is_zeroed(*s) && now < self.zeroing.begun[s.index()] + TURN;
            if Slot::ALL.iter().any(under_way) {
                return;
            }
            if self.zeroing.refused.contains(slot) || self.writer.zeroed_to(slot) >= tail + 2 * chunk {
                continue;
            }
            let from = self.writer.zeroed_to(slot).max(tail + chunk / 2).ceil(chunk);
            if let Some((from, to)) = self.writer.next_zeroing(slot, from, from + chunk) {
                self.zeroing.begun[slot.index()] = now;
                self.writer.zeroes(slot, from, to);
                self.give(slot, Job::Zero { from, to, pg_size: self.geometry.pg_size, epoch: self.number });
            }
        }
    }

    /// A slot was not zeroed. True if its disk has failed.
    pub(super) fn not_zeroed(&mut self, slot: Slot, e: &io::Error) -> bool {
        self.writer.zeroed(slot, false);
        match e.kind() {
            io::ErrorKind::Unsupported | io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                self.zeroing.refused.insert(slot);
                false
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grows_fast_is_not_zeroed_ahead_of() {
        let chunk = 256 << 10;
        let mut zeroing = Zeroing::new(chunk, Lsn(0));
        let mut tail = 0;
        // (bytes, in ms, fast then)
        for (bytes, ms, fast) in
            [(chunk, 10, false), (chunk, 1, true), (chunk / 2, 1000, true), (chunk / 2, 1000, false)]
        {
            tail += bytes;
            let now = zeroing.seen.1 + Duration::from_millis(ms);
            zeroing.grows(Lsn(tail), now);
            assert_eq!(zeroing.fast, fast, "{bytes} in {ms} ms");
        }
    }
}
