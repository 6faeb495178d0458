//! Faults: their kinds, how often each strikes, and which ones struck. Each has a number within its run, so that a run
//! can be repeated without some of them: that is how a failing seed is shortened.

use crate::sim::random::Random;
use crate::sim::temper;
use std::collections::BTreeSet;

/// What can go wrong in a simulated world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// A process is killed; what it has in flight lands late, or never.
    Kill,
    /// A process dies in the midst of opening.
    DiesOpening,
    /// Everything stops at once.
    PowerCut,
    /// A second writer takes over beside the first.
    TakeOver,
    /// A second opener opens between two calls of the first.
    Race,
    /// At a power cut: of a write in flight only the first sectors are there.
    TornPrefix,
    /// At a power cut: of a write in flight some sectors are there.
    TornSectors,
    /// At a power cut: nothing of a write in flight is there.
    MissingWrite,
    /// At a power cut: a sector that was in flight or not flushed is garbage.
    RuinedSector,
    /// A write of a dead process lands.
    LateWrite,
    /// A write of a dead process never lands.
    DroppedWrite,
    /// A late write lands after newer ones to the same file.
    Reordered,
    /// A write goes to another place of its file.
    Misdirected,
    /// A write is acknowledged and not there.
    LostWrite,
    /// Some bit of some file turns.
    BitRot,
    /// A block cannot be read until it is written again.
    UnreadableSector,
    /// A read fails, once.
    ReadError,
    /// A write fails; a part of it may be there.
    WriteError,
    /// A flush fails: what was written stays readable and is not durable, and a second flush does not help.
    FlushError,
    /// A slot has no space, for a while.
    NoSpace,
    /// A log write stays out, for a while.
    HungWrite,
    /// Every log write of a slot stays out, for a while.
    HungSlot,
    /// A slot takes long for every log write, for a while.
    SlowSlot,
    /// A slot is gone, for a while.
    Vanished,
    /// Every call to a slot fails, for a while.
    Failing,
    /// An old image of a slot is mounted in its place.
    Stale,
    /// Two slots are in each other's places.
    Swapped,
    /// A slot is replaced by a blank one.
    Blank,
    /// A slot is replaced by one of another volume.
    Foreign,
    /// A file is cut short.
    Truncated,
    /// The wall clock jumps back.
    ClockBack,
    /// Both clocks jump ahead.
    ClockAhead,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; Fault::COUNT] = [
        Fault::Kill,
        Fault::DiesOpening,
        Fault::PowerCut,
        Fault::TakeOver,
        Fault::Race,
        Fault::TornPrefix,
        Fault::TornSectors,
        Fault::MissingWrite,
        Fault::RuinedSector,
        Fault::LateWrite,
        Fault::DroppedWrite,
        Fault::Reordered,
        Fault::Misdirected,
        Fault::LostWrite,
        Fault::BitRot,
        Fault::UnreadableSector,
        Fault::ReadError,
        Fault::WriteError,
        Fault::FlushError,
        Fault::NoSpace,
        Fault::HungWrite,
        Fault::HungSlot,
        Fault::SlowSlot,
        Fault::Vanished,
        Fault::Failing,
        Fault::Stale,
        Fault::Swapped,
        Fault::Blank,
        Fault::Foreign,
        Fault::Truncated,
        Fault::ClockBack,
        Fault::ClockAhead,
    ];

    /// How many there are.
    pub const COUNT: usize = 32;

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kills",
            Fault::DiesOpening => "deaths in opens",
            Fault::PowerCut => "power cuts",
            Fault::TakeOver => "take-overs",
            Fault::Race => "racing opens",
            Fault::TornPrefix => "torn: prefix",
            Fault::TornSectors => "torn: sectors",
            Fault::MissingWrite => "torn: missing",
            Fault::RuinedSector => "ruined sectors",
            Fault::LateWrite => "late writes",
            Fault::DroppedWrite => "dropped writes",
            Fault::Reordered => "reordered writes",
            Fault::Misdirected => "misdirected writes",
            Fault::LostWrite => "lost writes",
            Fault::BitRot => "bit rot",
            Fault::UnreadableSector => "unreadable sectors",
            Fault::ReadError => "read errors",
            Fault::WriteError => "write errors",
            Fault::FlushError => "flush errors",
            Fault::NoSpace => "full slots",
            Fault::HungWrite => "hung writes",
            Fault::HungSlot => "hung slots",
            Fault::SlowSlot => "slow slots",
            Fault::Vanished => "vanished slots",
            Fault::Failing => "failing slots",
            Fault::Stale => "stale slots",
            Fault::Swapped => "swapped slots",
            Fault::Blank => "blank slots",
            Fault::Foreign => "foreign slots",
            Fault::Truncated => "truncated files",
            Fault::ClockBack => "clock back",
            Fault::ClockAhead => "clock ahead",
        }
    }
}

/// The faults of one run.
pub struct Faults {
    /// Apart from the world's: a fault that is left out takes no draw from what the world does next.
    random: Random,
    /// How much more often than usual each strikes.
    rates: [usize; Fault::COUNT],
    /// Of those that would have struck, these did not.
    removed: BTreeSet<u64>,
    next: u64,
    struck: [u64; Fault::COUNT],
    /// Nothing strikes.
    peace: bool,
}

impl Faults {
    pub fn new(seed: u64, removed: &[u64]) -> Faults {
        let mut random = Random::new(seed ^ 0xF417_F417_F417_F417);
        let rates = temper::rates(&mut random);
        let removed = removed.iter().copied().collect();
        Faults { random, rates, removed, next: 0, struck: [0; Fault::COUNT], peace: true }
    }

    /// Whether the fault strikes now, usually once in `n` times. `allowed` is the atlas's word.
    pub fn strikes(&mut self, fault: Fault, n: usize, allowed: bool) -> bool {
        self.would_strike(fault, n) && allowed && self.happens(fault)
    }

    /// ... if it is allowed, and then [`Faults::happens`].
    pub fn would_strike(&mut self, fault: Fault, n: usize) -> bool {
        // One draw, whatever comes of it.
        self.random.below(n) < self.rates[fault as usize]
    }

    /// The fault was chosen by the run itself: it happens, unless it is one that is left out.
    pub fn happens(&mut self, fault: Fault) -> bool {
        if self.peace {
            return false;
        }
        let number = self.next;
        self.next += 1;
        if self.removed.contains(&number) {
            return false;
        }
        self.count(fault);
        true
    }

    /// Counts what follows from another fault, and cannot be left out alone.
    pub fn count(&mut self, fault: Fault) {
        self.struck[fault as usize] += 1;
    }

    /// How often it struck.
    pub fn struck(&self, fault: Fault) -> u64 {
        self.struck[fault as usize]
    }

    /// Faults so far, those left out included: the numbers that can be left out are below.
    pub fn numbered(&self) -> u64 {
        self.next
    }

    /// From here on they strike; a world begins in peace.
    pub fn begin(&mut self) {
        self.peace = false;
    }

    /// Nothing strikes any more.
    pub fn end(&mut self) {
        self.peace = true;
    }

    /// For the details of a fault.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_place_and_name() {
        for (i, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault as usize, i);
        }
        let names: BTreeSet<&str> = Fault::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), Fault::COUNT);
    }

    #[test]
    fn one_that_is_left_out_leaves_the_draws_alone() {
        let run = |removed: &[u64]| {
            let mut faults = Faults::new(6, removed);
            faults.begin();
            (0..100).map(|_| faults.strikes(Fault::BitRot, 3, true)).collect::<Vec<bool>>()
        };
        let (all, without) = (run(&[]), run(&[2]));
        let third = all.iter().enumerate().filter(|(_, s)| **s).nth(2).map(|(i, _)| i).unwrap();
        let changed: Vec<usize> = (0..100).filter(|i| all[*i] != without[*i]).collect();
        assert_eq!(changed, [third]);
    }
}
