//! A checkpoint: the pages changed since the last one go into the table, then a manifest names its root.
//!
//! It runs in steps beside commits. Each step appends some nodes as an ordinary MTR; a node that no manifest names is
//! dead weight in the log, so a crash in the midst of it costs nothing else. The manifest counts once four superblocks
//! name it, which needs it to be below VDL.

use crate::bugs::{Bug, planted};
use crate::log::record::{Fields, Kind};
use crate::lsn::{Lsn, PageId};
use crate::page::manifest::Manifest;
use crate::page::overlay::{Layer, Version};
use crate::page::read::Map;
use crate::page::table::{self, Entry, FANOUT, Root};
use crate::reclaim::freed::{Freed, Run};
use crate::sync::Arc;
use crate::volume::append::NotAppended;
use crate::volume::error::{ReadError, WriteError};
use crate::volume::shared::Shared;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Leaves appended by one step: 64 KiB, so that a commit that comes behind them does not wait for more.
const LEAVES: usize = 4;

/// A checkpoint under way.
pub struct Checkpoint {
    /// Everything below is in it; a group begins here.
    redo: Lsn,
    frozen: Arc<Layer>,
    /// What is still to be put into leaves, in order of page.
    changes: Vec<(PageId, Version)>,
    /// How many of them are in leaves that were appended.
    done: usize,
    /// Extents that are given back: no page's chain comes there any more, and the table's nodes are written anew.
    victims: Vec<Run>,
    freed: Freed,
    /// Leaves that lie in a victim, in order, and how many of them were appended.
    moving: Vec<u64>,
    moved: usize,
    root: Root,
    /// Upper nodes that have new leaves.
    uppers: BTreeMap<u64, Vec<u64>>,
    pages: u64,
    next_page: u64,
    phase: Phase,
}

enum Phase {
    /// Which nodes lie in a victim? So many of the upper ones were asked.
    Victims(usize),
    Leaves,
    Uppers,
    Manifest,
    /// The manifest was appended: its address and end.
    Durable {
        at: Lsn,
        end: Lsn,
    },
    /// Four superblocks are to name it.
    Naming {
        at: Lsn,
    },
}

/// What a step has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is more to do at once.
    More,
    /// Something else must move first: VDL, space, a superblock.
    Wait,
    Done,
}

impl Checkpoint {
    /// Freezes the layer. None if there is nothing to write, or one is under way.
    pub fn begin(shared: &Shared) -> Option<Checkpoint> {
        // Redo begins at a group: only there a scan can begin.
        let (redo, frozen, map) = shared.freeze()?;
        let victims = shared.reclaim.lock().ready(redo);
        let mut freed = shared.freed();
        victims.iter().for_each(|run| freed.add(*run));
        freed.absorb(&shared.engine().history);
        // A reservation below may not be filled yet: its versions are in the layer, its records come.
        let changes = frozen.sorted(redo);
        Some(Checkpoint {
            redo,
            frozen,
            changes,
            done: 0,
            victims,
            freed,
            moving: Vec::new(),
            moved: 0,
            root: (*map.root).clone(),
            uppers: BTreeMap::new(),
            pages: shared.pages_at_checkpoint.load(Ordering::Relaxed),
            next_page: shared.alloc.lock().next(),
            phase: Phase::Victims(0),
        })
    }

    /// Does a bounded piece of it.
    pub fn step(&mut self, shared: &Shared) -> Result<Step, WriteError> {
        match self.phase {
            Phase::Victims(asked) => self.nodes_in_victims(shared, asked),
            Phase::Leaves if self.next_leaf(self.done, self.moved).is_none() => {
                self.phase = Phase::Uppers;
                Ok(Step::More)
            }
            Phase::Leaves => self.leaves(shared),
            Phase::Uppers => self.upper_nodes(shared),
            Phase::Manifest => self.manifest(shared),
            Phase::Durable { at, end } => {
                if shared.tickets.vdl() < end && !planted(Bug::ManifestAboveVdl) {
                    shared.pump();
                    return Ok(Step::Wait);
                }
                let mut engine = shared.engine();
                if engine.can_begin_round() {
                    engine.begin_round(Some((at, self.redo)), None);
                    self.phase = Phase::Naming { at };
                }
                Ok(Step::Wait)
            }
            Phase::Naming { at } => {
                let named = shared.engine().round();
                match named {
                    None => Ok(Step::Wait),
                    Some(true) => {
                        self.end(shared);
                        Ok(Step::Done)
                    }
                    // Fewer than four: try again when slots have come back.
                    Some(false) => {
                        let mut engine = shared.engine();
                        if engine.can_begin_round() {
                            engine.begin_round(Some((at, self.redo)), None);
                        }
                        Ok(Step::Wait)
                    }
                }
            }
        }
    }

    /// Asks some of the upper nodes for leaves that lie in a victim. The table decides: whatever it points to is live.
    fn nodes_in_victims(&mut self, shared: &Shared, asked: usize) -> Result<Step, WriteError> {
        let within = |lsn: Lsn| self.victims.iter().any(|r| r.from <= lsn && lsn < r.to);
        let to = (asked + LEAVES).min(self.root.top.len());
        if self.victims.is_empty() || asked == to || planted(Bug::NodesStay) {
            self.phase = Phase::Leaves;
            return Ok(Step::More);
        }
        for (upper, lsn) in self.root.top.iter().enumerate().take(to).skip(asked).filter(|(_, lsn)| !lsn.is_none()) {
            let first = upper as u64 * FANOUT;
            let mut leaves = table::numbers(&shared.reads.pages.node(PageId(first * FANOUT), *lsn)?);
            let in_victims = leaves.iter().enumerate().filter(|(_, leaf)| **leaf != 0 && within(Lsn(**leaf)));
            self.moving.extend(in_victims.map(|(i, _)| first + i as u64));
            if within(*lsn) {
                leaves.resize(FANOUT as usize, 0);
                self.uppers.insert(upper as u64, leaves);
            }
        }
        self.phase = Phase::Victims(to);
        Ok(Step::More)
    }

    /// The lowest leaf that is still to be written.
    fn next_leaf(&self, done: usize, moved: usize) -> Option<u64> {
        let changed = self.changes.get(done).map(|(page, _)| page.0 / FANOUT);
        [changed, self.moving.get(moved).copied()].into_iter().flatten().min()
    }

    /// Puts changes into the next leaves, and appends those.
    fn leaves(&mut self, shared: &Shared) -> Result<Step, WriteError> {
        let pages = &shared.reads.pages;
        let mut records = Vec::new();
        let mut made: Vec<(u64, Bytes)> = Vec::new();
        // Kept aside until the append has succeeded: a refusal leaves this checkpoint as it was.
        let (mut done, mut count, mut moved) = (self.done, self.pages, self.moved);
        while let Some(leaf) = self.next_leaf(done, moved)
            && made.len() < LEAVES
        {
            moved += usize::from(self.moving.get(moved) == Some(&leaf));
            let mut entries = self.old_leaf(shared, PageId(leaf * FANOUT))?;
            entries.resize(FANOUT as usize, 0);
            while let Some((page, version)) = self.changes.get(done).filter(|(p, _)| p.0 / FANOUT == leaf) {
                let entry = &mut entries[table::in_leaf(*page)];
                count = count + u64::from(!version.free) - u64::from(*entry != 0);
                *entry = if version.free { 0 } else { Entry::new(version.lsn, version.depth).raw() };
                done += 1;
            }
            let payload = table::payload(&entries);
            records.push((node_fields(0, leaf), payload.clone()));
            made.push((leaf, payload));
        }
        let Some(lsns) = append(shared, records)? else { return Ok(Step::Wait) };
        for ((leaf, payload), lsn) in made.into_iter().zip(&lsns.0) {
            pages.insert(*lsn, payload);
            let upper = leaf / FANOUT;
            if !self.uppers.contains_key(&upper) {
                let old = self.root.top.get(upper as usize).copied().filter(|l| !l.is_none());
                let mut numbers = match old {
                    Some(lsn) => table::numbers(&pages.node(PageId(leaf * FANOUT), lsn)?),
                    None => Vec::new(),
                };
                numbers.resize(FANOUT as usize, 0);
                self.uppers.insert(upper, numbers);
            }
            if let Some(numbers) = self.uppers.get_mut(&upper) {
                numbers[(leaf % FANOUT) as usize] = lsn.0;
            }
        }
        (self.done, self.pages, self.moved) = (done, count, moved);
        Ok(Step::More)
    }

    fn old_leaf(&self, shared: &Shared, page: PageId) -> Result<Vec<u64>, ReadError> {
        let pages = &shared.reads.pages;
        let Some(upper) = self.root.upper(page) else { return Ok(Vec::new()) };
        let leaf = Lsn(table::entry(&pages.node(page, upper)?, table::in_upper(page)));
        if leaf.is_none() { Ok(Vec::new()) } else { Ok(table::numbers(&pages.node(page, leaf)?)) }
    }

    fn upper_nodes(&mut self, shared: &Shared) -> Result<Step, WriteError> {
        let batch: Vec<(u64, Bytes)> = self.uppers.iter().take(LEAVES).map(|(i, n)| (*i, table::payload(n))).collect();
        if batch.is_empty() {
            self.phase = Phase::Manifest;
            return Ok(Step::More);
        }
        let records = batch.iter().map(|(i, payload)| (node_fields(1, *i), payload.clone())).collect();
        let Some(lsns) = append(shared, records)? else { return Ok(Step::Wait) };
        for ((i, payload), lsn) in batch.into_iter().zip(&lsns.0) {
            shared.reads.pages.insert(*lsn, payload);
            let at = i as usize;
            if self.root.top.len() <= at {
                self.root.top.resize(at + 1, Lsn::NONE);
            }
            self.root.top[at] = *lsn;
            self.uppers.remove(&i);
        }
        Ok(Step::More)
    }

    fn manifest(&mut self, shared: &Shared) -> Result<Step, WriteError> {
        let history = shared.engine().history.entries().to_vec();
        let manifest = Manifest {
            redo: self.redo,
            next_page: self.next_page,
            pages: self.pages,
            history,
            root: self.root.clone(),
            freed: self.freed.clone(),
        };
        let fields = Fields { kind: Kind::Manifest, ..Fields::filler() };
        let Some((lsns, end)) = append(shared, vec![(fields, manifest.encode())])? else { return Ok(Step::Wait) };
        self.phase = Phase::Durable { at: lsns[0], end };
        Ok(Step::More)
    }

    /// The new root takes the place of the old one and of the frozen layer.
    fn end(&self, shared: &Shared) {
        let append = shared.front.lock();
        let map = shared.reads.pages.map();
        debug_assert!(map.frozen.as_ref().is_some_and(|f| Arc::ptr_eq(f, &self.frozen)));
        let next = Map {
            current: map.current.clone(),
            frozen: None,
            root: Arc::new(self.root.clone()),
            generation: map.generation + 1,
        };
        shared.reads.pages.set_map(next);
        shared.redo_from.store(self.redo.0, Ordering::Relaxed);
        shared.pages_at_checkpoint.store(self.pages, Ordering::Relaxed);
        drop(append);
        // Four superblocks name the manifest: nobody who opens from now on reads what it gives back, and nobody here but
        // who holds the old map.
        if !self.victims.is_empty() {
            shared.give_back(&self.freed);
            shared.reclaim.lock().given_back(&self.victims, &self.freed, map.generation + 1);
            shared.background.wake();
        }
    }
}

fn node_fields(level: u8, number: u64) -> Fields {
    Fields { kind: Kind::Table, depth: level, page: number, ..Fields::filler() }
}

/// Appends records as an MTR of the table. None: the ring or the space must move first.
fn append(shared: &Shared, records: Vec<(Fields, Bytes)>) -> Result<Option<(Vec<Lsn>, Lsn)>, WriteError> {
    let count = records.len();
    match shared.prepare_table(records) {
        Ok(prepared) => {
            let lsns = (0..count).map(|i| prepared.lsn(i)).collect();
            // Not pumped: the nodes and the manifest of a small table share a group.
            Ok(Some((lsns, shared.finish(prepared))))
        }
        // The limit is not for the table.
        Err(NotAppended::RingFull | NotAppended::Again | NotAppended::Full) => {
            shared.pump();
            Ok(None)
        }
        Err(NotAppended::Space(end)) => {
            shared.engine().want_space(end, shared.clock.now());
            Ok(None)
        }
        Err(NotAppended::Wrong(e)) => Err(e),
    }
}
