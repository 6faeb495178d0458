//! How much of each extent is live, by samples: a frame of it is read, and each record's page is asked for. Nothing is kept
//! up to date by writers, and nothing has to be right: samples rank victims, and whoever empties one asks again.
//!
//! What is live in a sealed extent only dies, so that a sample that has grown old says too much, never too little; the
//! sum of all is a bound from above.

use crate::core::history::Entry;
use crate::lsn::Lsn;
use crate::reclaim::freed::{Freed, Run};
use std::collections::BTreeMap;

/// What is kept in one extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stock {
    pub run: Run,
    /// Bytes of the log in it.
    pub bytes: u64,
}

/// Extents of `unit` bytes that hold something, and lie below an address as a whole: the lowest, as many as are sampled.
pub fn stocks(kept: &[Entry], below: Lsn, unit: u64) -> Vec<Stock> {
    let mut all: Vec<Stock> = Vec::new();
    let end = below.floor(unit);
    for entry in kept.iter().take_while(|e| e.begin < end) {
        let mut from = entry.begin;
        let to = entry.end.min(end);
        while from < to {
            if all.len() >= SAMPLES_MAX && all.last().is_some_and(|s| s.run.to <= from) {
                return all;
            }
            let begin = from.floor(unit);
            let run = Run { from: begin, to: begin + unit };
            let next = run.to.min(to);
            match all.last_mut().filter(|s| s.run == run) {
                Some(stock) => stock.bytes += next - from,
                None => all.push(Stock { run, bytes: next - from }),
            }
            from = next;
        }
    }
    all
}

/// What is emptied at once, where so much is live: of a small volume an eighth, at least 8 MiB, so that it takes little
/// beside; of others `most`, an extent. It is kept until another is four times as good.
pub fn unit(now: u64, live: u64, most: u64) -> u64 {
    let wanted = (live / 8).max(1).next_power_of_two().clamp(UNIT_LEAST.min(most), most);
    if now >= wanted * 4 || wanted >= now * 4 { wanted } else { now }
}

const UNIT_LEAST: u64 = 8 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sample {
    /// Of so many bytes so many were live.
    of: u64,
    live: u64,
    /// As of that progress.
    at: u64,
    /// Bytes that are known to have died since.
    died: u64,
}

/// So many extents are sampled; those beyond count as live until the log's begin has moved up.
const SAMPLES_MAX: usize = 64 << 10;
/// What samples say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// By their extents' beginnings.
    samples: BTreeMap<Lsn, Sample>,
}

/// A sum over all extents.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    pub kept: u64,
    pub live: u64,
}

impl Census {
    pub fn record(&mut self, extent: Lsn, of: u64, live: u64, at: u64) {
        self.samples.insert(extent, Sample { of, live, at, died: 0 });
    }

    /// A record of so many bytes, in the extent that begins there, is known to be dead.
    pub fn died(&mut self, extent: Lsn, bytes: u64) {
        if let Some(sample) = self.samples.get_mut(&extent) {
            sample.died += bytes;
        }
    }

    pub fn forget(&mut self, freed: &Freed) {
        self.samples.retain(|extent, _| !freed.holds(*extent));
    }

    /// The extent that should be sampled next, if one should, where so much is live in all. `progress` counts what may have
    /// made something dead: bytes appended, and pages freed.
    ///
    /// One that was never sampled is due, as old as it is: were it always the first, a log that grows faster than samples
    /// are taken would be sampled at its end alone, where nothing is dead yet.
    pub fn due(&self, stocks: &[Stock], live: u64, progress: u64) -> Option<Stock> {
        let at = |s: &Stock| self.samples.get(&s.run.from).map(|sample| sample.at);
        // Between two samples of an extent all that is live may have died once. As much as is kept would be too rare: that
        // grows as fast as the log, as long as nothing is given back.
        let spacing = |s: &Stock| live.max(s.run.to - s.run.from);
        let due = |s: &&Stock| at(s).is_none_or(|at| progress.saturating_sub(at) >= spacing(s));
        stocks.iter().filter(due).min_by_key(|s| at(s).unwrap_or(s.run.from.0)).copied()
    }

    fn live_of(&self, stock: &Stock) -> u64 {
        match self.samples.get(&stock.run.from) {
            Some(s) if s.of > 0 => {
                let then = (u128::from(stock.bytes) * u128::from(s.live) / u128::from(s.of)) as u64;
                then.saturating_sub(s.died)
            }
            _ => stock.bytes,
        }
    }

    /// What is dead of it, in 1/256.
    pub fn dead_share(&self, stock: &Stock) -> u64 {
        stock.bytes.saturating_sub(self.live_of(stock)) * 256 / stock.bytes.max(1)
    }

    pub fn sum(&self, stocks: &[Stock]) -> Sum {
        let of = |sum: Sum, s: &Stock| Sum { kept: sum.kept + s.bytes, live: sum.live + self.live_of(s).min(s.bytes) };
        stocks.iter().fold(Sum::default(), of)
    }

    /// The extent that gives most for what it costs: dead bytes against the live ones that move and those that are read.
    /// Only where at least one part in `least` is dead.
    pub fn victim(&self, stocks: &[Stock], least: u64, mut may: impl FnMut(&Stock) -> bool) -> Option<Stock> {
        let dead = |s: &Stock| s.bytes.saturating_sub(self.live_of(s));
        let worth = |s: &&Stock| {
            let cost = (s.bytes - dead(s).min(s.bytes)) + s.bytes / 8 + 1;
            u128::from(dead(s)) * 1024 / u128::from(cost)
        };
        let sampled = |s: &&Stock| self.samples.contains_key(&s.run.from);
        let enough = |s: &&Stock| dead(s) * least >= s.bytes && dead(s) > 0;
        stocks.iter().filter(sampled).filter(enough).filter(|s| may(s)).max_by_key(worth).copied()
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use crate::lsn::format;
    use std::collections::BTreeSet;

    const E: u64 = format::EXTENT;

    fn stock(extent: u64, bytes: u64) -> Stock {
        Stock { run: Run { from: Lsn(extent * E), to: Lsn((extent + 1) * E) }, bytes }
    }

    fn entry(begin: u64, end: u64) -> Entry {
        Entry { epoch: 1, begin: Lsn(begin), end: Lsn(end) }
    }

    #[test]
    fn stocks_are_whole_extents_below() {
        let kept = [entry(4096, 10_000), entry(20_000, E + 100), entry(5 * E, u64::MAX)];
        let want = |list: &[(u64, u64)]| list.iter().map(|(e, b)| stock(*e, *b)).collect::<Vec<_>>();
        let first = 10_000 - 4096 + E - 20_000;
        assert_eq!(stocks(&kept, Lsn(E - 1), E), want(&[]));
        assert_eq!(stocks(&kept, Lsn(E), E), want(&[(0, first)]));
        assert_eq!(stocks(&kept, Lsn(5 * E + 7), E), want(&[(0, first), (1, 100)]));
        // 64 TiB: as many as are sampled, whole.
        let many = stocks(&[entry(4096, u64::MAX)], Lsn(1 << 46), E);
        assert_eq!((many.len(), many.last()), (SAMPLES_MAX, Some(&stock(SAMPLES_MAX as u64 - 1, E))));
        assert_eq!(stocks(&kept, Lsn(7 * E), E), want(&[(0, first), (1, 100), (5, E), (6, E)]));
    }

    #[test]
    fn what_was_never_sampled_is_due_and_the_oldest_is_first() {
        let stocks: Vec<Stock> = (0..16).map(|extent| stock(extent, E)).collect();
        let mut census = Census::default();
        for i in 0..16 {
            let due = census.due(&stocks, 16 * E, 1000 * E).unwrap();
            census.record(due.run.from, 100, 50, (1000 - i) * E);
        }
        // Spacing is sixteen extents here: the last one was sampled almost so long ago.
        assert_eq!(census.due(&stocks, 16 * E, 1000 * E), None);
        assert!(census.due(&stocks, 16 * E, 1001 * E).is_some());
        (0..16).for_each(|e| census.record(Lsn(e * E), 100, 50, 1000 * E));
        assert_eq!(census.due(&stocks, 16 * E, 1015 * E), None);
        assert!(census.due(&stocks, 16 * E, 1016 * E).is_some());
        // Where little of it is live it is asked as often as that may have died, however much is kept.
        assert_eq!(census.due(&stocks, 4 * E, 1003 * E), None);
        assert!(census.due(&stocks, 4 * E, 1004 * E).is_some());
        assert_eq!(census.sum(&stocks), Sum { kept: 16 * E, live: 8 * E });
        // An extent for each sample is appended: those that are old have their turn all the same.
        let mut all: Vec<Stock> = stocks;
        let mut asked = BTreeSet::new();
        for tail in 1000..1040 {
            all.push(stock(tail, E));
            let due = census.due(&all, 4 * E, tail * E).unwrap();
            census.record(due.run.from, 100, 50, tail * E);
            asked.insert(due.run.from.0 / E);
        }
        assert!((0..16).all(|e| asked.contains(&e)), "{asked:?}");
    }

    #[test]
    fn the_victim_gives_most_for_its_cost() {
        let stocks = [(1, E), (2, E), (3, E / 64), (4, E), (5, E)].map(|(extent, bytes)| stock(extent, bytes));
        let mut census = Census::default();
        census.record(Lsn(E), 100, 80, 0);
        census.record(Lsn(2 * E), 100, 40, 0);
        census.record(Lsn(3 * E), 100, 0, 0);
        census.record(Lsn(4 * E), 100, 100, 0);
        let victim =
            |least, not: u64| census.victim(&stocks, least, |s| s.run.from.0 != not * E).map(|s| s.run.from.0 / E);
        assert_eq!(victim(10, 0), Some(3), "empty: nothing moves");
        assert_eq!(victim(10, 3), Some(2));
        assert_eq!(census.victim(&stocks[..1], 4, |_| true), None, "a fifth is not enough");
        assert_eq!(census.victim(&stocks[3..], 10, |_| true), None, "all live, and never sampled");
    }

    #[test]
    fn small_volumes_are_emptied_in_small_parts() {
        const MIB: u64 = 1 << 20;
        for (now, live, unit_then) in
            [(64, 0, 8), (64, 70, 16), (64, 200, 64), (8, 200, 32), (32, 30, 8), (8, 1 << 20, 64)]
        {
            assert_eq!(unit(now * MIB, live * MIB, E), unit_then * MIB, "{now} {live}");
        }
        assert_eq!(unit(format::FRAME, 1 << 40, format::FRAME), format::FRAME);
    }

    #[test]
    fn what_is_told_to_be_dead_is_no_sample() {
        let (all, mut census) = ([stock(1, E), stock(2, E)], Census::default());
        census.record(Lsn(E), 100, 100, 0);
        census.died(Lsn(E), E / 4);
        census.died(Lsn(2 * E), E / 4);
        assert_eq!(census.dead_share(&all[0]), 64);
        assert_eq!(census.dead_share(&all[1]), 0, "never sampled: it may count what was dead before");
        census.died(Lsn(E), E);
        assert_eq!((census.dead_share(&all[0]), census.sum(&all).live), (256, E));
        census.record(Lsn(E), 100, 100, 1);
        assert_eq!(census.dead_share(&all[0]), 0, "a new sample knows");
    }

    #[test]
    fn what_is_given_back_is_forgotten() {
        let mut census = Census::default();
        (0..4).for_each(|e| census.record(Lsn(e * E), 10, 5, 0));
        let mut freed = Freed::default();
        freed.add(stock(2, 1).run);
        census.forget(&freed);
        assert_eq!(census.samples.keys().map(|l| l.0 / E).collect::<Vec<_>>(), [0, 1, 3]);
    }
}
