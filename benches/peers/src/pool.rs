//! Values that no engine and no disk can make smaller, and what chooses among them.

use crate::peer::PAGE;

const BYTES: usize = 1 << 20;

/// Random bytes; every value is a piece of them, so that making one takes no time.
pub struct Pool(Vec<u8>);

impl Pool {
    /// The same ones in every process.
    pub fn new() -> Pool {
        let mut random = Random::new(1);
        Pool((0..(BYTES + PAGE) / 8).flat_map(|_| random.next().to_le_bytes()).collect())
    }

    /// The value that belongs to a seed.
    pub fn value(&self, seed: u64, bytes: usize) -> &[u8] {
        let at = Random::new(seed).below(BYTES as u64) as usize;
        &self.0[at..at + bytes]
    }

    /// Some pages one after the other, with their keys.
    pub fn pages(&self, first: u64, count: u64) -> Vec<(u64, &[u8])> {
        (first..first + count).map(|key| (key, self.value(key, PAGE))).collect()
    }
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end.max(1)
    }

    /// Any order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
