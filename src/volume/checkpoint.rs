//! A checkpoint: the pages changed since the last one go into the table, then a manifest names its root. Leaves in which
//! little has changed are not written: their changes go into a run, see [`pending`].
//!
//! It runs in steps beside commits. Each step appends some nodes as an ordinary MTR; a node that no manifest names is
//! dead weight in the log, so a crash in the midst of it costs nothing else. The manifest counts once four superblocks
//! name it, which needs it to be below VDL.

use crate::bugs::{Bug, planted};
use crate::history::error::HistoryError;
use crate::history::past::{Base, Past};
use crate::log::record::{Fields, Kind};
use crate::lsn::{Lsn, PageId};
use crate::page::manifest::Manifest;
use crate::page::overlay::{Layer, Version};
use crate::page::pending::{self, Change, Choice, Pending, RUNS_MAX};
use crate::page::table::{self, Entry, FANOUT, RUN_LEVEL, Root};
use crate::page::version::Map;
use crate::reclaim::freed::{Freed, Run};
use crate::sync::Arc;
use crate::volume::append::NotAppended;
use crate::volume::error::{ReadError, WriteError};
use crate::volume::rewind::Ask;
use crate::volume::shared::{Frozen, Shared};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Leaves appended by one step: 64 KiB, so that a commit that comes behind them does not wait for more.
const LEAVES: usize = 4;

/// A checkpoint under way.
pub struct Checkpoint {
    /// Everything below is in it; a group begins here.
    redo: Lsn,
    /// None of a rewind.
    frozen: Option<Arc<Layer>>,
    /// What has changed, in order of page.
    changes: Vec<Change>,
    /// What is done with it.
    choice: Choice,
    /// So many of the leaves, and of the run's records, were appended.
    done: usize,
    /// Extents that are emptied: no page's chain comes there any more, and what of the table lies there is written anew.
    victims: Vec<Run>,
    /// What is given back: of these, and of earlier ones, what the past does not need.
    gives_back: Vec<Run>,
    freed: Freed,
    /// The past, with this checkpoint, as its manifest will say it.
    past: Past,
    wall_us: u64,
    age_us: u64,
    /// The state that it takes up again; 0 of an ordinary one.
    rewound: Lsn,
    /// ... and it is the newest.
    taken_up: bool,
    /// Leaves that lie in a victim, in order.
    moving: Vec<u64>,
    /// The table as it was, with what was pending in it; nodes and runs that are appended are in it at once.
    root: Root,
    /// The run's records.
    parts: Vec<Vec<u8>>,
    /// The run takes the place of all older ones.
    anew: bool,
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
    /// Behind the leaves: a run says more than the leaves below it, and nothing of those above.
    Run,
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
        match Checkpoint::begin_with(shared, None) {
            Ok(checkpoint) => checkpoint,
            Err(_) => unreachable!("nothing was asked for"),
        }
    }

    /// ... which says something of the past.
    pub fn begin_with(shared: &Shared, ask: impl Into<Option<Ask>>) -> Result<Option<Checkpoint>, HistoryError> {
        let (wall_us, age_us) = (shared.clock.wall_us(), shared.age_us());
        let mut past = shared.past.lock().clone();
        // Refused before anything is changed; where redo begins is put in below.
        let mut undo = false;
        if let Some(ask) = ask.into() {
            undo = matches!(ask, Ask::Undo);
            ask.apply(&mut past, wall_us, age_us)?;
        }
        // Redo begins at a group: only there a scan can begin.
        let Some(Frozen { redo, layer: frozen, map, stamps }) = shared.freeze() else { return Ok(None) };
        past.pins.iter_mut().filter(|p| p.redo.is_none()).for_each(|p| (p.lsn, p.redo) = (redo, redo));
        // The state to which the volume goes back may need what is emptied, and lie at the window's very end.
        let victims = if undo { Vec::new() } else { shared.reclaim.lock().ready(redo) };
        let base = Base { redo, wall_us, age_us, ..Base::default() };
        past.checkpoint(base, stamps, &victims);
        let mut freed = shared.freed();
        let gives_back = if undo { Vec::new() } else { past.let_go(&mut freed) };
        freed.absorb(&shared.engine().history);
        // A reservation below may not be filled yet: its versions are in the layer, its records come.
        let changes = sorted(&[&frozen], redo);
        Ok(Some(Checkpoint {
            redo,
            frozen: Some(frozen),
            changes,
            choice: Choice::default(),
            done: 0,
            victims,
            gives_back,
            freed,
            past,
            wall_us,
            age_us,
            rewound: Lsn::NONE,
            taken_up: false,
            moving: Vec::new(),
            root: (*map.root).clone(),
            parts: Vec::new(),
            anew: false,
            uppers: BTreeMap::new(),
            pages: map.pages,
            next_page: shared.alloc.lock().next(),
            phase: Phase::Victims(0),
        }))
    }

    /// A checkpoint of an older state, which is the newest one once it is durable. Nobody appends meanwhile, and what was
    /// there before is in the table.
    pub fn rewind(shared: &Shared, state: &Map, at: Lsn) -> Checkpoint {
        let (wall_us, age_us) = (shared.clock.wall_us(), shared.age_us());
        let mut append = shared.front.lock();
        append.seal();
        let (redo, stamps) = (append.tail(), shared.rewinding.take_stamps());
        drop(append);
        let mut past = shared.past.lock().clone();
        past.made_from(state.redo);
        past.checkpoint(Base { redo, rewound: at, wall_us, age_us, ..Base::default() }, stamps, &[]);
        let layers: Vec<&Arc<Layer>> = state.frozen.iter().chain([&state.current]).collect();
        Checkpoint {
            redo,
            frozen: None,
            changes: sorted(&layers, at),
            choice: Choice::default(),
            done: 0,
            victims: Vec::new(),
            // What nobody needs any more the next one gives back.
            gives_back: Vec::new(),
            freed: shared.freed(),
            past,
            wall_us,
            age_us,
            rewound: at,
            taken_up: false,
            moving: Vec::new(),
            root: (*state.root).clone(),
            parts: Vec::new(),
            anew: false,
            uppers: BTreeMap::new(),
            pages: state.pages,
            next_page: shared.alloc.lock().next(),
            phase: Phase::Victims(0),
        }
    }

    /// It takes an older state up again.
    pub fn rewinds(&self) -> bool {
        !self.rewound.is_none()
    }

    /// Does a bounded piece of it.
    pub fn step(&mut self, shared: &Shared) -> Result<Step, WriteError> {
        match self.phase {
            Phase::Victims(asked) => self.nodes_in_victims(shared, asked),
            Phase::Leaves if self.done == self.choice.leaves.len() => {
                self.phase = Phase::Uppers;
                Ok(Step::More)
            }
            Phase::Leaves => self.leaves(shared),
            Phase::Uppers => self.upper_nodes(shared),
            Phase::Run => self.run(shared),
            Phase::Manifest => self.manifest(shared),
            Phase::Durable { at, end } => {
                if shared.tickets.vdl() < end && !planted(Bug::ManifestAboveVdl) {
                    shared.pump();
                    return Ok(Step::Wait);
                }
                // From now on every opener goes on from there.
                if self.rewinds() && !self.taken_up {
                    self.take_up(shared);
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
            self.choose(shared);
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

    /// Which leaves are written, and what goes into a run.
    fn choose(&mut self, shared: &Shared) {
        let (options, root) = (&shared.options, &self.root);
        let (cheap, most) = (options.checkpoint_bytes / options.leaves_share, options.overlay_bytes);
        let mut choice = pending::choose(&root.pending, &self.changes, &self.moving, cheap, most);
        let mut parts = pending::parts(&choice.run);
        // A record of a run that lies in a victim is written anew with all others: which leaf it still matters to is not told.
        let within = |lsn: &Lsn| self.victims.iter().any(|r| r.from <= *lsn && *lsn < r.to);
        let in_victims = root.runs.iter().any(within) && !planted(Bug::NodesStay);
        let anew = in_victims || root.runs.len() + parts.len() > RUNS_MAX / 2;
        if anew {
            choice.run = choice.pending.all().collect();
            parts = pending::parts(&choice.run);
        }
        (self.choice, self.parts, self.anew) = (choice, parts, anew);
    }

    /// Puts changes into the next leaves, and appends those.
    fn leaves(&mut self, shared: &Shared) -> Result<Step, WriteError> {
        let pages = &shared.reads.pages;
        let mut records = Vec::new();
        let mut made: Vec<(u64, Bytes)> = Vec::new();
        // Kept aside until the append has succeeded: a refusal leaves this checkpoint as it was.
        let (mut done, mut count) = (self.done, self.pages);
        while let Some(leaf) = self.choice.leaves.get(done).copied()
            && made.len() < LEAVES
        {
            let first = PageId(leaf * FANOUT);
            let mut entries = self.old_leaf(shared, first)?;
            entries.resize(FANOUT as usize, 0);
            let from = self.changes.partition_point(|(page, _)| *page < first);
            let new = self.changes[from..].iter().take_while(|(page, _)| page.0 / FANOUT == leaf);
            let new = new.map(|(page, entry)| (table::in_leaf(*page), *entry));
            // A leaf that is written has all that was pending in it, too.
            for (i, entry) in self.root.pending.in_leaf(leaf).chain(new) {
                count = count + u64::from(!entry.is_empty()) - u64::from(entries[i] != 0);
                entries[i] = entry.raw();
            }
            done += 1;
            let payload = table::payload(&entries);
            records.push((node_fields(0, leaf), payload.clone()));
            made.push((leaf, payload));
        }
        let Some(lsns) = append(shared, records)? else { return Ok(Step::Wait) };
        for ((leaf, payload), lsn) in made.into_iter().zip(&lsns.0) {
            pages.keep_node(*lsn, payload);
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
        (self.done, self.pages) = (done, count);
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
            (self.phase, self.done) = (Phase::Run, 0);
            return Ok(Step::More);
        }
        let records = batch.iter().map(|(i, payload)| (node_fields(1, *i), payload.clone())).collect();
        let Some(lsns) = append(shared, records)? else { return Ok(Step::Wait) };
        for ((i, payload), lsn) in batch.into_iter().zip(&lsns.0) {
            shared.reads.pages.keep_node(*lsn, payload);
            let at = i as usize;
            if self.root.top.len() <= at {
                self.root.top.resize(at + 1, Lsn::NONE);
            }
            self.root.top[at] = *lsn;
            self.uppers.remove(&i);
        }
        Ok(Step::More)
    }

    fn run(&mut self, shared: &Shared) -> Result<Step, WriteError> {
        let Some(part) = self.parts.get(self.done) else {
            if std::mem::take(&mut self.anew) {
                self.root.runs.drain(..self.root.runs.len() - self.parts.len());
            }
            // Where nothing is pending no run has anything to tell.
            self.root.pending = std::mem::take(&mut self.choice.pending);
            if self.root.pending == Pending::default() {
                self.root.runs.clear();
            }
            self.phase = Phase::Manifest;
            return Ok(Step::More);
        };
        let records = vec![(node_fields(RUN_LEVEL, self.done as u64), Bytes::from(part.clone()))];
        let Some((lsns, _)) = append(shared, records)? else { return Ok(Step::Wait) };
        self.root.runs.extend(lsns);
        self.done += 1;
        Ok(Step::More)
    }

    fn manifest(&mut self, shared: &Shared) -> Result<Step, WriteError> {
        let history = shared.engine().history.clone();
        // By manifests that are named: what this one gives back counts once four superblocks name it, too.
        let history = shared.freed().told(&history, self.redo, shared.options.epochs_told);
        let mut past = self.past.clone();
        past.bases.pop();
        let manifest = Manifest {
            redo: self.redo,
            next_page: self.next_page,
            pages: self.pages,
            history,
            root: self.root.clone(),
            freed: self.freed.clone(),
            wall_us: self.wall_us,
            age_us: self.age_us,
            rewound: self.rewound,
            past,
        };
        let fields = Fields { kind: Kind::Manifest, prev: self.rewound, ..Fields::filler() };
        let Some((lsns, end)) = append(shared, vec![(fields, manifest.encode())])? else { return Ok(Step::Wait) };
        self.past = manifest.past_at(lsns[0]);
        if self.rewinds() {
            shared.rewinding.appended(end);
        }
        self.phase = Phase::Durable { at: lsns[0], end };
        Ok(Step::More)
    }

    /// What is kept of the past when its manifest gives something back.
    pub fn gives_back(&self) -> Option<&Past> {
        (!self.gives_back.is_empty()).then_some(&self.past)
    }

    /// The new root takes the place of the old one and of the frozen layer.
    fn end(&self, shared: &Shared) {
        let append = shared.front.lock();
        let map = shared.reads.pages.map();
        if !self.rewinds() {
            debug_assert!(matches!((&map.frozen, &self.frozen), (Some(a), Some(b)) if Arc::ptr_eq(a, b)));
            self.replace(shared, &map, map.current.clone());
        }
        shared.redo_from.store(self.redo.0, Ordering::Relaxed);
        shared.unnamed.store(false, Ordering::SeqCst);
        shared.pages_at_checkpoint.store(self.pages, Ordering::Relaxed);
        drop(append);
        // Four superblocks name the manifest: nobody who opens from now on reads what it gives back, and nobody here but
        // who holds the old map.
        shared.reclaim.lock().is_emptied(&self.victims);
        if !self.gives_back.is_empty() {
            shared.give_back(&self.freed);
            shared.reclaim.lock().given_back(&self.gives_back, &self.freed, map.generation + 1);
            shared.background.wake();
        }
    }

    /// A map with this root takes the place of the newest one. Under the append lock.
    fn replace(&self, shared: &Shared, map: &Map, current: Arc<Layer>) {
        // Who sees the new map sees its past, too.
        *shared.past.lock() = self.past.clone();
        shared.reads.pages.set_map(Map {
            current,
            frozen: None,
            root: Arc::new(self.root.clone()),
            redo: self.redo,
            pages: self.pages,
            generation: map.generation + 1,
            heads: Arc::default(),
        });
    }

    /// The older state is the newest one from now on.
    fn take_up(&mut self, shared: &Shared) {
        // What is being emptied, or is known to be dead, is so in another state.
        let mut reclaim = shared.reclaim.lock();
        let append = shared.front.lock();
        let map = shared.reads.pages.map();
        debug_assert!(map.frozen.is_none() && map.current.pages() == 0);
        self.replace(shared, &map, Arc::new(Layer::new()));
        reclaim.rewound();
        shared.alloc.lock().rewound();
        shared.rewinding.rewound();
        self.taken_up = true;
        drop((append, reclaim));
        shared.progress.moved();
    }
}

/// What a state's layers leave of each page, in order. The newest layer comes last.
fn sorted(layers: &[&Arc<Layer>], at: Lsn) -> Vec<Change> {
    let entry = |v: Version| if v.free { Entry::default() } else { Entry::new(v.lsn, v.depth) };
    let of = |layer: &&Arc<Layer>| -> Vec<Change> {
        layer.sorted(at).into_iter().map(|(page, v)| (page, entry(v))).collect()
    };
    if let [layer] = layers {
        return of(layer);
    }
    layers.iter().flat_map(of).collect::<BTreeMap<PageId, Entry>>().into_iter().collect()
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
        Err(NotAppended::RingFull | NotAppended::Again | NotAppended::Rewinding | NotAppended::Full) => {
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
