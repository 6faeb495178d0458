//! The epoch history: which addresses belong to which writer. PROTOCOL.md, "Numbers".

use crate::bugs::{Bug, planted};
use crate::lsn::{Lsn, format};
use std::sync::Arc;

/// One writer's part of the log: `[begin, end)`; the last entry is open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    pub epoch: u64,
    pub begin: Lsn,
    /// `Lsn::MAX` while it is open.
    pub end: Lsn,
}

/// Entries in order of address. Never empty, and only the last is open. Copies share them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct History(Arc<[Entry]>);

/// Why a list of entries is not a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("its epoch history is out of order")]
pub struct NotAHistory;

impl History {
    /// A new volume's: one open entry.
    pub fn first(begin: Lsn) -> History {
        History([Entry { epoch: 1, begin, end: Lsn::MAX }].into())
    }

    /// Checks that entries are what a writer could have left.
    pub fn from_entries(entries: Vec<Entry>) -> Result<History, NotAHistory> {
        let limit = format::NUMBER_LIMIT;
        // So only the last can be open: where one is, another that follows would begin at the limit or beyond.
        let ordered = entries.windows(2).all(|w| w[0].epoch < w[1].epoch && w[0].end <= w[1].begin);
        let numbers = |e: &Entry| e.epoch > 0 && e.epoch < limit && !e.begin.is_none() && e.begin.0 < limit;
        let sane = entries.iter().all(|e| e.begin <= e.end && numbers(e));
        match entries.last() {
            Some(last) if ordered && sane && last.end == Lsn::MAX => Ok(History(entries.into())),
            _ => Err(NotAHistory),
        }
    }

    /// Epochs in order, that do not overlap, as a manifest has them.
    pub fn are_ordered(entries: &[Entry]) -> bool {
        let apart = entries.windows(2).all(|w| w[0].epoch < w[1].epoch && w[0].end <= w[1].begin);
        apart && entries.iter().all(|e| e.epoch > 0 && !e.begin.is_none() && e.begin <= e.end)
    }

    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The open entry.
    pub fn last(&self) -> Entry {
        match self.0.last() {
            Some(last) => *last,
            None => unreachable!("a history is never empty"),
        }
    }

    pub fn contains_epoch(&self, epoch: u64) -> bool {
        self.0.iter().any(|e| e.epoch == epoch)
    }

    /// It may have been an epoch of this log that manifests tell of no more, where they begin to forget above `most`.
    pub fn may_have_forgotten(&self, epoch: u64, most: usize) -> bool {
        let newest = self.0.len().checked_sub((most / 2).max(1)).filter(|_| self.0.len() >= most);
        newest.is_some_and(|i| epoch < self.0[i].epoch) && !self.contains_epoch(epoch)
    }

    /// The entry whose addresses hold `lsn`.
    pub fn at(&self, lsn: Lsn) -> Option<Entry> {
        let i = self.0.partition_point(|e| e.begin <= lsn);
        self.0[..i].last().filter(|e| lsn < e.end).copied()
    }

    /// A record of `epoch` at `lsn` belongs to the log.
    pub fn holds(&self, epoch: u64, lsn: Lsn) -> bool {
        self.at(lsn).is_some_and(|e| e.epoch == epoch)
    }

    /// What `epoch` had appended up to `end`, where an MTR ended or the epoch began, belongs to the log.
    pub fn includes(&self, epoch: u64, end: Lsn) -> bool {
        self.0.iter().any(|e| e.epoch == epoch && e.begin <= end && end <= e.end)
    }

    /// Closes the open entry at `end` and opens `epoch` at `begin`.
    pub fn succeed(&self, end: Lsn, epoch: u64, begin: Lsn) -> History {
        let mut entries = self.0.to_vec();
        if let Some(last) = entries.last_mut() {
            assert!(last.begin <= end && end <= begin && last.epoch < epoch, "an epoch follows the one before");
            last.end = if planted(Bug::ForgetEpochEnd) { begin } else { end };
        }
        entries.push(Entry { epoch, begin, end: Lsn::MAX });
        History(entries.into())
    }

    /// The entries that hold or follow `from`: what a superblock keeps.
    pub fn since(&self, from: Lsn) -> &[Entry] {
        let first = self.0.partition_point(|e| e.end <= from).min(self.0.len() - 1);
        &self.0[first..]
    }

    /// Puts older entries (a manifest's) before the ones that a superblock keeps.
    pub fn extend_back(&mut self, older: &[Entry]) {
        let first = self.0[0];
        let keep = older.iter().take_while(|e| e.epoch < first.epoch);
        self.0 = keep.chain(&*self.0).copied().collect();
    }
}

/// Extents in which something of the log lies below `to`. `kept` are stretches of it, in order and apart from each other.
pub fn extents(kept: &[Entry], to: Lsn) -> u64 {
    let (mut count, mut next) = (0, 0);
    for e in kept {
        let end = e.end.min(to);
        if e.begin < end {
            let (first, behind) = ((e.begin.0 / format::EXTENT).max(next), end.0.div_ceil(format::EXTENT));
            count += behind.saturating_sub(first);
            next = behind;
        }
    }
    count
}

/// How far the log may grow until something lies in so many extents. The last stretch is open.
pub fn room(kept: &[Entry], most: u64) -> Lsn {
    let Some((open, closed)) = kept.split_last() else { return Lsn::NONE };
    // What lies in the extent in which the open one begins is counted with it.
    let base = open.begin.floor(format::EXTENT);
    let left = most.saturating_sub(extents(closed, base));
    Lsn(base.0.saturating_add(left.saturating_mul(format::EXTENT)).min(format::LOG_END))
}

/// `reach(v)`: nothing that a writer whose VCL is `v` ever has in flight lies at or above. New epochs begin there.
pub fn reach(vcl: Lsn) -> Lsn {
    (vcl + format::LAL).ceil(format::EXTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h() -> History {
        History::first(Lsn(4096)).succeed(Lsn(5000), 3, Lsn(8192)).succeed(Lsn(9000), 7, Lsn(12288))
    }

    #[test]
    fn a_record_belongs_to_the_entry_that_holds_it() {
        let h = h();
        for (epoch, lsn, holds) in [
            (1, 4096, true),
            (1, 4999, true),
            (1, 5000, false),
            (3, 8191, false),
            (3, 8192, true),
            (1, 8192, false),
            (7, 9000, false),
            (7, 1 << 40, true),
            (9, 1 << 40, false),
        ] {
            assert_eq!(h.holds(epoch, Lsn(lsn)), holds, "{epoch} {lsn}");
        }
        // An MTR's end, or where the epoch began.
        for (epoch, end, includes) in [
            (1, 4095, false),
            (1, 4096, true),
            (1, 5000, true),
            (1, 5001, false),
            (3, 8192, true),
            (3, 5000, false),
            (5, 8192, false),
            (7, 1 << 40, true),
        ] {
            assert_eq!(h.includes(epoch, Lsn(end)), includes, "{epoch} {end}");
        }
    }

    #[test]
    fn a_superblocks_history_is_completed_from_the_manifest() {
        let h = h();
        assert_eq!(h.since(Lsn(4096)).len(), 3);
        assert_eq!(h.since(Lsn(5000)).len(), 2);
        assert_eq!(h.since(Lsn(4999)).len(), 3);
        assert_eq!(h.since(Lsn(1 << 40)).len(), 1);
        assert_eq!(h.since(Lsn::MAX), [h.last()]);
        let mut short = History::from_entries(h.since(Lsn(12288)).to_vec()).unwrap();
        short.extend_back(h.entries());
        assert_eq!(short, h);
    }

    #[test]
    fn what_was_forgotten_is_older_than_the_newest_half() {
        // Of epochs 1, 3 and 7.
        let h = h();
        for (epoch, most, may) in
            [(2, 3, true), (5, 3, true), (8, 3, false), (3, 3, false), (2, 4, false), (2, 2, true), (1, 2, false)]
        {
            assert_eq!(h.may_have_forgotten(epoch, most), may, "{epoch} {most}");
        }
    }

    #[test]
    fn what_is_out_of_order_is_no_history() {
        let e = |epoch, begin, end| Entry { epoch, begin: Lsn(begin), end: Lsn(end) };
        let open = u64::MAX;
        for bad in [
            vec![],
            vec![e(1, 8, 16)],
            vec![e(2, 8, 16), e(1, 16, open)],
            vec![e(1, 8, 24), e(2, 16, open)],
            vec![e(1, 8, open), e(2, 16, open)],
            vec![e(1, 0, open)],
            vec![e(0, 8, open)],
            vec![e(2, 8, 16), e(2, 16, open)],
            vec![e(1, 16, 8), e(2, 16, open)],
            vec![e(1, 8, open - 1)],
            vec![e(format::NUMBER_LIMIT, 8, open)],
            vec![e(1, format::NUMBER_LIMIT, open)],
            vec![e(1, 8, format::NUMBER_LIMIT), e(2, format::NUMBER_LIMIT, open)],
            vec![e(1, 8, 16), e(2, 16, open), e(3, 24, 32)],
        ] {
            assert!(History::from_entries(bad.clone()).is_err(), "{bad:?}");
        }
        // An epoch without a record, and the highest numbers.
        let most = format::NUMBER_LIMIT - 1;
        for good in [vec![e(1, 8, 8), e(2, 8, open)], vec![e(1, 8, most), e(most, most, open)]] {
            assert_eq!(History::from_entries(good.clone()).unwrap().entries(), good);
        }
    }

    #[test]
    fn an_epoch_follows_the_one_before() {
        let h = h();
        assert_eq!(h.entries().len(), 3);
        assert!(h.contains_epoch(3) && !h.contains_epoch(5));
        // (end, epoch, begin) of what would follow epoch 7, which began at 12288.
        for (end, epoch, begin, follows) in [
            (12288, 8, 12288, true),
            (12300, 8, 16384, true),
            (12287, 8, 16384, false),
            (12300, 8, 12299, false),
            (12300, 7, 16384, false),
        ] {
            let next = std::panic::catch_unwind(|| h.succeed(Lsn(end), epoch, Lsn(begin)));
            assert_eq!(next.is_ok(), follows, "{end} {epoch} {begin}");
        }
    }

    #[test]
    fn extents_are_counted_once_and_bound_the_log() {
        const X: u64 = format::EXTENT;
        let e = |begin, end| Entry { epoch: 1, begin: Lsn(begin), end: Lsn(end) };
        let open = u64::MAX;
        // (stretches, the log's end, extents of it, and how far two more let it grow)
        for (kept, tail, count) in [
            (vec![e(4096, open)], 4096, 0),
            (vec![e(4096, open)], 4097, 1),
            (vec![e(4096, open)], X, 1),
            (vec![e(4096, open)], X + 1, 2),
            // A clean close: the next begins in the same extent.
            (vec![e(4096, 9000), e(12288, open)], 12289, 1),
            (vec![e(4096, X + 9000), e(X + 12288, open)], X + 12289, 2),
            // A kill, and epochs without a record.
            (vec![e(4096, 9000), e(X, open)], X + 1, 2),
            (vec![e(4096, 9000), e(X, X), e(2 * X, 2 * X), e(3 * X, open)], 3 * X + 1, 2),
            (vec![e(X, 2 * X), e(2 * X, open)], 2 * X + 1, 2),
            // Far away, and with what was given back between.
            (vec![e(1 << 63, (1 << 63) + 5 * X), e((1 << 63) + 9 * X, open)], (1 << 63) + 9 * X + 1, 6),
        ] {
            assert_eq!(extents(&kept, Lsn(tail)), count, "{kept:?} {tail}");
            let room = room(&kept, count + 2);
            assert!(room > Lsn(tail) && room.0.is_multiple_of(X));
            assert_eq!(extents(&kept, room), count + 2, "{kept:?} {tail}");
            assert_eq!(extents(&kept, room + 1), count + 3, "{kept:?} {tail}");
        }
        // Full, and more than full: not even the begun extent can be counted on where another lies before it.
        let kept = [e(4096, 3 * X), e(4 * X, open)];
        assert_eq!([4, 3, 2, 0].map(|most| room(&kept, most)), [5 * X, 4 * X, 4 * X, 4 * X].map(Lsn));
        // 64 TiB, in one stretch from the beginning, and at the end of all addresses.
        assert_eq!(room(&[e(4096, open)], format::EXTENTS_MAX), Lsn(1 << 46));
        let last = format::LOG_END - X;
        assert_eq!(room(&[e(last, open)], format::EXTENTS_MAX), Lsn(format::LOG_END));
        assert_eq!(extents(&[e(4096, open)], Lsn(1 << 46)), format::EXTENTS_MAX);
    }

    #[test]
    fn reach_is_the_next_extent_beyond_the_lal() {
        assert_eq!(reach(Lsn(4096)), Lsn(format::EXTENT));
        assert_eq!(reach(Lsn(format::EXTENT - format::LAL)), Lsn(format::EXTENT));
        assert_eq!(reach(Lsn(format::EXTENT - format::LAL + 1)), Lsn(2 * format::EXTENT));
        for far in [1 << 46, 1 << 62, 1 << 63, format::LOG_END] {
            assert_eq!(reach(Lsn(far - 1)), Lsn(far + format::EXTENT));
            assert_eq!(reach(Lsn(far - format::LAL)), Lsn(far));
        }
    }
}
