//! What the page table's checkpoints cost: the table alone, under uniform small updates, with the checkpoint's own choice of
//! leaves and runs, and the log's real records, groups and blocks. Leaves are full and are not kept: their length is all that
//! counts, so that any number of them fits.
//!
//! The whole of 1 TiB and 64 TiB takes minutes without optimising: `cargo test --release --lib page::cost -- --ignored --nocapture`.

use crate::log::append::Front;
use crate::log::record;
use crate::lsn::{Lsn, PageId};
use crate::page::manifest::Manifest;
use crate::page::overlay::{Layer, Version};
use crate::page::pending::{self, Change, Pending};
use crate::page::table::{self, Entry, FANOUT, Root, TOP_MAX};
use std::collections::BTreeSet;

const BLOCK: u64 = 4096;
/// Bytes that an update changes.
const UPDATE: usize = 200;
/// MTRs that share a group, as with many threads that commit at once.
const TOGETHER: u64 = 64;

#[derive(Clone, Copy)]
struct Shape {
    pages: u64,
    /// Log between checkpoints.
    every: u64,
    /// Memory for what is pending; none: every leaf that changed is written.
    most: Option<u64>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Cost {
    updates: u64,
    log: u64,
    leaves: u64,
    runs: u64,
    /// All that checkpoints appended, blocks' ends included.
    checkpoints: u64,
    memory: u64,
}

impl Cost {
    fn share(&self) -> f64 {
        self.checkpoints as f64 / self.log as f64
    }
}

struct Table {
    shape: Shape,
    front: Front,
    layer: Layer,
    pending: Pending,
    random: u64,
    /// Full nodes, as they are written.
    node: usize,
    cost: Cost,
}

impl Table {
    fn new(shape: Shape) -> Table {
        let full = vec![u64::MAX; FANOUT as usize];
        let node = table::payload(&full).len();
        let front = Front::new(1, 1, BLOCK, Lsn(1 << 46));
        front.set_space(Lsn::MAX);
        Table { shape, front, layer: Layer::new(), pending: Pending::default(), random: 1, node, cost: Cost::default() }
    }

    /// Appends an MTR of records with payloads so long. Where the first lies, and how far the log has grown.
    fn append(&mut self, payloads: &[usize], seal: bool) -> (Lsn, u64) {
        let last = payloads.len() - 1;
        let lengths: Vec<u64> = payloads.iter().enumerate().map(|(i, p)| record::encoded_len(*p, i == last)).collect();
        let before = self.front.tail();
        let reserved = self.front.lock().reserve(&lengths).unwrap();
        let first = reserved.records[0].0;
        self.front.publish(reserved);
        if seal {
            self.front.seal();
        }
        while self.front.next_sealed().is_some() {}
        self.front.set_vdl(self.front.tail());
        (first, self.front.tail() - before)
    }

    fn update(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let page = PageId(self.random % self.shape.pages);
        self.cost.updates += 1;
        let (lsn, grown) = self.append(&[UPDATE], self.cost.updates.is_multiple_of(TOGETHER));
        self.cost.log += grown;
        self.layer.push(page, Version { lsn, base: Lsn::NONE, depth: 1, free: false }, Lsn::MAX, &[]);
    }

    /// Nodes go in MTRs of 64, as a checkpoint's do.
    fn nodes(&mut self, count: usize, len: usize) -> u64 {
        let mut left = count;
        let mut grown = 0;
        while left > 0 {
            let some = left.min(64);
            grown += self.append(&vec![len; some], false).1;
            left -= some;
        }
        grown
    }

    fn checkpoint(&mut self) {
        self.front.seal();
        let sorted = std::mem::replace(&mut self.layer, Layer::new()).sorted(Lsn::MAX);
        let changes: Vec<Change> = sorted.into_iter().map(|(page, v)| (page, Entry::new(v.lsn, v.depth))).collect();
        let (cheap, most) = self.shape.most.map_or((u64::MAX, 0), |most| (self.shape.every / 64, most));
        let choice = pending::choose(&self.pending, &changes, &[], cheap, most);
        let uppers: BTreeSet<u64> = choice.leaves.iter().map(|leaf| leaf / FANOUT).collect();
        let leaves = self.nodes(choice.leaves.len(), self.node) + self.nodes(uppers.len(), self.node);
        let runs: u64 = pending::parts(&choice.run).iter().map(|part| self.append(&[part.len()], false).1).sum();
        let top = self.shape.pages.div_ceil(FANOUT * FANOUT).min(TOP_MAX);
        let manifest =
            Manifest { root: Root { top: vec![Lsn(8); top as usize], ..Root::default() }, ..Manifest::default() };
        let rest = self.append(&[manifest.encode().len()], true).1;
        self.cost.leaves += leaves;
        self.cost.runs += runs;
        self.cost.checkpoints += leaves + runs + rest;
        self.pending = choice.pending;
        self.cost.memory = self.cost.memory.max(self.pending.bytes());
    }

    fn checkpoints(&mut self, count: u64) {
        for _ in 0..count {
            let until = self.cost.log + self.shape.every;
            while self.cost.log < until {
                self.update();
            }
            self.checkpoint();
        }
    }
}

/// The cost once it has become steady: so many checkpoints are not counted, and so many are.
fn steady(shape: Shape, before: u64, count: u64) -> Cost {
    let mut table = Table::new(shape);
    table.checkpoints(before);
    let memory = table.cost.memory;
    table.cost = Cost::default();
    table.checkpoints(count);
    let mut cost = table.cost;
    cost.memory = cost.memory.max(memory);
    let per = |bytes: u64| bytes as f64 / cost.updates as f64;
    println!(
        "{} pages, {} KiB between checkpoints, {:?} KiB pending: {:.1} B of log an update, {:.1} B of leaves, {:.1} B of runs: \
         {:.1} %; {} KiB of memory",
        shape.pages,
        shape.every >> 10,
        shape.most.map(|m| m >> 10),
        per(cost.log),
        per(cost.leaves),
        per(cost.runs),
        100.0 * cost.share(),
        cost.memory >> 10
    );
    cost
}

/// 1 TiB of pages of 16 KiB, on a scale of 1:128: as many updates to a leaf between checkpoints.
#[test]
fn at_1_tib_a_checkpoint_costs_less_than_15_per_cent_of_the_log() {
    let (tib, every, most) = (1 << 26, 64 << 20, 64 << 20);
    let shape = Shape { pages: tib / 128, every: every / 128, most: Some(most / 128) };
    let cost = steady(shape, 110, 50);
    assert!(cost.share() < 0.15, "{cost:?}");
    assert!(cost.memory <= most / 128, "{cost:?}");
    // What it is without runs: every leaf, every time.
    let all = steady(Shape { most: None, ..shape }, 1, 4);
    assert!(all.share() > 5.0, "{all:?}");
}

#[test]
#[ignore = "a minute, optimised"]
fn at_1_tib_and_64_tib_in_full() {
    let (tib, every, most) = (1 << 26, 64 << 20, 64 << 20);
    let one = steady(Shape { pages: tib, every, most: Some(most) }, 110, 50);
    assert!(one.share() < 0.15 && one.memory <= most, "{one:?}");
    let all = Shape { pages: 64 * tib, every, most: Some(most) };
    let far = steady(all, 4, 4);
    assert!(far.memory <= most, "{far:?}");
    steady(Shape { most: None, ..all }, 1, 1);
    steady(Shape { pages: tib, every, most: None }, 1, 2);
}
