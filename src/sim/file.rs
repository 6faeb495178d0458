//! A simulated file: what is readable, and what of it a power cut may turn back or ruin.

use crate::sim::random::Random;
use std::collections::{BTreeMap, BTreeSet};

pub const BLOCK: usize = 4096;
pub const SECTOR: usize = 512;

type Block = Box<[u8; BLOCK]>;

/// Blocks that were written; others read as zeros.
#[derive(Clone, Default)]
pub struct File {
    blocks: BTreeMap<u64, Block>,
    /// Blocks that a power cut may turn back or ruin, with what is durable below.
    cached: BTreeMap<u64, Option<Block>>,
    /// Their flush failed: no later flush makes them durable, only another write does.
    doomed: BTreeSet<u64>,
    /// They cannot be read until they are written again.
    unreadable: BTreeSet<u64>,
    len: u64,
    /// Counts writes: a late one may land behind newer ones.
    pub writes: u64,
}

impl File {
    /// What is there of a range; none if some of it cannot be read.
    pub fn read(&self, offset: u64, most: usize) -> Option<Vec<u8>> {
        let n = (self.len.saturating_sub(offset)).min(most as u64) as usize;
        let mut bytes = Vec::with_capacity(n);
        let (first, last) = (offset / BLOCK as u64, (offset + n as u64).div_ceil(BLOCK as u64));
        if self.unreadable.range(first..last).next().is_some() {
            return None;
        }
        for (index, block) in self.blocks.range(first..last) {
            let at = index * BLOCK as u64;
            let (from, to) = (at.max(offset), (at + BLOCK as u64).min(offset + n as u64));
            if from < to {
                bytes.resize((from - offset) as usize, 0);
                bytes.extend_from_slice(&block[(from - at) as usize..(to - at) as usize]);
            }
        }
        bytes.resize(n, 0);
        Some(bytes)
    }

    /// Lets the sectors of a block-aligned write land for which `keep` says so. Volatile: a power cut may ruin them.
    pub fn land(&mut self, offset: u64, bytes: &[u8], durable: bool, mut keep: impl FnMut(usize) -> bool) {
        assert!(offset.is_multiple_of(BLOCK as u64), "writes are whole blocks");
        self.writes += 1;
        for (i, chunk) in bytes.chunks(BLOCK).enumerate() {
            let index = offset / BLOCK as u64 + i as u64;
            let kept: Vec<bool> = (0..chunk.len().div_ceil(SECTOR)).map(|s| keep(i * BLOCK / SECTOR + s)).collect();
            if !kept.contains(&true) {
                continue;
            }
            if durable {
                self.cached.remove(&index);
                self.doomed.remove(&index);
            } else if !self.cached.contains_key(&index) {
                self.cached.insert(index, self.blocks.get(&index).cloned());
            }
            self.unreadable.remove(&index);
            let block = self.blocks.entry(index).or_insert_with(|| Box::new([0; BLOCK]));
            for (s, sector) in chunk.chunks(SECTOR).enumerate().filter(|(s, _)| kept[*s]) {
                block[s * SECTOR..s * SECTOR + sector.len()].copy_from_slice(sector);
            }
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    /// Everything that was written is durable, but for what an earlier flush failed on.
    pub fn flush(&mut self) {
        let doomed = &self.doomed;
        self.cached.retain(|index, _| doomed.contains(index));
    }

    /// The flush failed, and the cache forgot what it had to write. False if there was nothing.
    pub fn fail_flush(&mut self) -> bool {
        self.doomed.extend(self.cached.keys());
        !self.cached.is_empty()
    }

    /// The power goes: what was not flushed is old, new or garbage, sector by sector. Returns how many are garbage.
    pub fn power_cut(&mut self, random: &mut Random) -> u64 {
        let mut ruined = 0;
        for (index, old) in std::mem::take(&mut self.cached) {
            let old = old.unwrap_or_else(|| Box::new([0; BLOCK]));
            let Some(block) = self.blocks.get_mut(&index) else { continue };
            for s in 0..BLOCK / SECTOR {
                let range = s * SECTOR..(s + 1) * SECTOR;
                match random.below(3) {
                    0 => block[range.clone()].copy_from_slice(&old[range]),
                    1 => (),
                    _ => {
                        block[range].copy_from_slice(&random.bytes(SECTOR));
                        ruined += 1;
                    }
                }
            }
        }
        self.doomed.clear();
        ruined
    }

    /// One block that was written and can be read.
    pub fn block(&self, offset: u64) -> Option<&[u8]> {
        let index = offset / BLOCK as u64;
        self.blocks.get(&index).filter(|_| !self.unreadable.contains(&index)).map(|b| &b[..])
    }

    /// No power cut turns the block back.
    pub fn is_durable(&self, offset: u64) -> bool {
        !self.cached.contains_key(&(offset / BLOCK as u64))
    }

    /// No power cut changes anything.
    pub fn is_flushed(&self) -> bool {
        self.cached.is_empty()
    }

    /// Offsets of what a power cut may turn back or ruin.
    #[cfg(test)]
    pub fn unflushed(&self) -> Vec<u64> {
        self.cached.keys().map(|index| index * BLOCK as u64).collect()
    }

    pub fn allocate(&mut self, to: u64) {
        self.len = self.len.max(to);
    }

    pub fn punch(&mut self, offset: u64, len: u64) {
        let range = offset / BLOCK as u64..(offset + len) / BLOCK as u64;
        self.blocks.retain(|index, _| !range.contains(index));
        self.cached.retain(|index, _| !range.contains(index));
        self.doomed.retain(|index| !range.contains(index));
    }

    /// Turns a bit of a block that was written. False if there is none.
    pub fn rot(&mut self, random: &mut Random) -> bool {
        let indices: Vec<u64> = self.blocks.keys().copied().collect();
        let Some(block) = random.pick(&indices).and_then(|i| self.blocks.get_mut(&i)) else { return false };
        block[random.below(BLOCK)] ^= 1 << random.below(8);
        true
    }

    /// A block that was written cannot be read any more. False if there is none.
    pub fn spoil(&mut self, random: &mut Random) -> bool {
        let indices: Vec<u64> = self.blocks.keys().copied().collect();
        random.pick(&indices).is_some_and(|i| self.unreadable.insert(i))
    }

    /// The block at `offset` cannot be read any more.
    #[cfg(test)]
    pub fn spoil_at(&mut self, offset: u64) {
        self.unreadable.insert(offset / BLOCK as u64);
    }

    /// Cuts the file somewhere. False if it is empty.
    pub fn truncate(&mut self, random: &mut Random) -> bool {
        if self.len == 0 {
            return false;
        }
        let blocks = self.blocks.keys().next_back().map_or(0, |last| last + 1).max(1);
        let keep = random.below(blocks as usize) as u64;
        self.len = keep * BLOCK as u64;
        self.blocks.retain(|i, _| *i < keep);
        self.cached.retain(|i, _| *i < keep);
        self.doomed.retain(|i| *i < keep);
        self.unreadable.retain(|i| *i < keep);
        true
    }

    /// A block-aligned place in the file, for a write that goes astray.
    pub fn somewhere(&self, random: &mut Random) -> u64 {
        random.below((self.len / BLOCK as u64).max(1) as usize) as u64 * BLOCK as u64
    }
}
