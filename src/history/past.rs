//! Which states of the past can be had, and what of the log they need. Decided without I/O; every manifest carries it
//! (`history::bytes`).
//!
//! A state is what lies below an address. It is made from a *base*, a checkpoint whose redo begins at or below it, and the
//! log from there up to the state. Liveness is decided by bases, not by addresses: an extent that was emptied is absent from
//! the tables of all checkpoints since, and whatever base is older may still lead there. After a rewind, an old extent may
//! be the newest state's again. DESIGN.md, "History".

use crate::bugs::{Bug, planted};
use crate::core::history::Entry;
use crate::lsn::{Lsn, format};
use crate::reclaim::freed::{Freed, Run};
use std::time::Duration;

/// Checkpoints that are kept as bases. Beyond it the older half is thinned: states are as many, and take longer to find.
pub const BASES_MAX: usize = 1024;
/// Snapshots, and states before rewinds.
pub const PINS_MAX: usize = 256;
/// Bytes of a snapshot's name.
pub const NAME_MAX: usize = 255;
/// Emptied stretches that the past holds. Beyond it nothing is emptied.
pub const EMPTIED_MAX: usize = 2048;
/// A rewind can be undone for so long, whatever the window.
pub const UNDO_TIME: Duration = Duration::from_secs(24 * 3600);
/// ... and so many of them.
const UNDO_MAX: usize = 16;

/// A checkpoint from which states are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Base {
    /// Its manifest; 0 for the empty volume before the first one.
    pub lsn: Lsn,
    /// The table holds what lies below.
    pub redo: Lsn,
    /// The state to which it rewound the volume; 0 for an ordinary checkpoint.
    pub rewound: Lsn,
    /// When it began: the wall clock, microseconds since 1970.
    pub wall_us: u64,
    /// ... and the volume's own clock, which never goes back.
    pub age_us: u64,
    /// The lowest and the highest stamp of the commits between its redo and the next one's.
    pub low: u64,
    pub high: u64,
}

/// Stamps of no commit.
pub const NO_STAMPS: (u64, u64) = (u64::MAX, 0);

/// A state that is kept until it is forgotten: a snapshot, or what was there before a rewind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// Empty for a state before a rewind.
    pub name: String,
    pub lsn: Lsn,
    pub wall_us: u64,
    pub age_us: u64,
    /// The manifest of its base, and where redo begins with that.
    pub base: Lsn,
    pub redo: Lsn,
}

/// An extent in which nothing lies that a checkpoint needs whose redo begins at or above `since`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emptied {
    pub run: Run,
    pub since: Lsn,
}

/// How far back states are kept. Off: no time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Window {
    pub time_us: u64,
    pub bytes: u64,
}

/// What a manifest says of the past.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Past {
    pub window: Window,
    /// The byte limit has cut the window short of its time.
    pub cut_short: bool,
    /// The volume's own clock when the newest base began.
    pub bases: Vec<Base>,
    pub pins: Vec<Pin>,
    pub emptied: Vec<Emptied>,
}

/// What of the log the past holds; bytes of one copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Needed by states of the window, and by no pin.
    pub window: u64,
    /// Needed by pins.
    pub pins: u64,
}

fn needs(redo: Lsn, up_to: Lsn, e: &Emptied) -> bool {
    redo < e.since && e.run.from < up_to
}

impl Pin {
    pub fn is_undo(&self) -> bool {
        self.name.is_empty()
    }

    /// What it needs, lies below: its base's manifest is the last of that base's table.
    fn up_to(&self) -> Lsn {
        self.lsn.max(self.base + 1)
    }

    fn holds(&self, e: &Emptied) -> bool {
        needs(self.redo, self.up_to(), e)
    }
}

impl Past {
    /// The base of a state, if states there are kept, and where its states end.
    pub fn base(&self, at: Lsn) -> Option<Base> {
        let behind = self.bases.partition_point(|b| b.redo <= at);
        self.bases[..behind].last().copied()
    }

    /// The base that a pin has.
    pub fn base_of(&self, pin: &Pin) -> Base {
        let (low, high) = (0, u64::MAX);
        let own = Base { lsn: pin.base, redo: pin.redo, low, high, ..Base::default() };
        self.bases.iter().find(|b| b.redo == pin.redo).copied().unwrap_or(own)
    }

    /// A state is kept that is made from the base whose redo begins there.
    pub fn keeps(&self, redo: Lsn, at: Lsn) -> bool {
        let by_pin = |p: &Pin| p.redo == redo && at <= p.lsn;
        self.bases.iter().any(|b| b.redo == redo) || self.pins.iter().any(by_pin)
    }

    pub fn snapshot(&self, name: &str) -> Option<&Pin> {
        self.pins.iter().find(|p| p.name == name && !p.is_undo())
    }

    /// Where the states of a base end: at the next one's redo, or nowhere yet.
    pub fn end_of(&self, base: &Base) -> Lsn {
        let behind = self.bases.partition_point(|b| b.redo <= base.redo);
        self.bases.get(behind).map_or(Lsn::MAX, |next| if next.rewound.is_none() { next.redo } else { next.lsn })
    }

    fn window_holds(&self, e: &Emptied) -> bool {
        self.bases.iter().any(|b| needs(b.redo, self.end_of(b).max(b.lsn + 1), e))
    }

    fn pins_hold(&self, e: &Emptied) -> bool {
        !planted(Bug::SnapshotUnpinned) && self.pins.iter().any(|p| p.holds(e))
    }

    /// A checkpoint has become the newest. `stamps` are those of the commits since the one before; of an ordinary checkpoint
    /// `emptied` is absent from its table.
    pub fn checkpoint(&mut self, base: Base, stamps: (u64, u64), emptied: &[Run]) {
        if let Some(last) = self.bases.last_mut() {
            (last.low, last.high) = (last.low.min(stamps.0), last.high.max(stamps.1));
        }
        let (low, high) = NO_STAMPS;
        self.emptied.extend(emptied.iter().map(|run| Emptied { run: *run, since: base.redo }));
        self.bases.push(Base { low, high, ..base });
        self.thin();
        self.trim(base.age_us);
    }

    /// The newest state is made from an older base, whose redo begins there: what was emptied since may be needed, and is an
    /// ordinary part of the log.
    pub fn made_from(&mut self, redo: Lsn) {
        if !planted(Bug::DeadByLsn) {
            self.emptied.retain(|e| e.since <= redo);
        }
    }

    /// The newest base's manifest gives more back than what is named does: nothing that is kept needs it, and a manifest that
    /// is named too has still to say so. `kept` is the history without what is given back for certain.
    pub fn takes_back(&mut self, freed: &Freed, kept: &[Entry]) {
        let since = self.newest();
        // Addresses of no epoch hold nothing: they are not counted as held.
        let mut unnamed = Freed::default();
        for entry in kept {
            let (begin, end) = (entry.begin.floor(format::FRAME), entry.end.ceil(format::FRAME));
            let within = freed.runs().iter().map(|r| Run { from: r.from.max(begin), to: r.to.min(end) });
            within.filter(|r| r.from < r.to).for_each(|run| unnamed.add(run));
        }
        self.emptied.extend(unnamed.runs().iter().map(|run| Emptied { run: *run, since }));
        // What is too much for a manifest is an ordinary part of the log, and found dead again.
        self.emptied.truncate(EMPTIED_MAX);
    }

    /// Nothing before the newest base is kept any more.
    pub fn alone(&mut self, window: Window) {
        self.bases.drain(..self.bases.len().saturating_sub(1));
        self.pins.clear();
        self.window = window;
    }

    /// Forgets what is too old, or holds more than it may.
    fn trim(&mut self, now_us: u64) {
        let old = |p: &Pin| now_us.saturating_sub(p.age_us) >= UNDO_TIME.as_micros() as u64;
        let newest = self.newest();
        let lost = |p: &Pin| planted(Bug::UndoLost) && p.redo < newest;
        self.pins.retain(|p| !p.is_undo() || !old(p) && !lost(p));
        let undos = self.pins.iter().filter(|p| p.is_undo()).count();
        for _ in UNDO_MAX..undos {
            if let Some(first) = self.pins.iter().position(Pin::is_undo) {
                self.pins.remove(first);
            }
        }
        let from = now_us.saturating_sub(self.window.time_us);
        while self.bases.len() > 1 && (self.bases[1].age_us <= from || self.window.time_us == 0) {
            self.bases.remove(0);
        }
        self.cut_short = false;
        while self.bases.len() > 1 && self.held().window > self.window.bytes {
            self.bases.remove(0);
            self.cut_short = true;
        }
    }

    /// Of too many bases every other one of the older half goes: its states are made from the one before.
    fn thin(&mut self) {
        if self.bases.len() <= BASES_MAX {
            return;
        }
        let half = self.bases.len() / 2;
        let mut kept: Vec<Base> = Vec::with_capacity(self.bases.len());
        for (i, base) in self.bases.drain(..).enumerate() {
            match kept.last_mut() {
                // Where a rewind begins states go on from another one.
                Some(before) if i < half && i % 2 == 1 && base.rewound.is_none() => {
                    (before.low, before.high) = (before.low.min(base.low), before.high.max(base.high));
                }
                _ => kept.push(base),
            }
        }
        self.bases = kept;
        // Nothing but rewinds: the oldest states go.
        if self.bases.len() > BASES_MAX {
            self.bases.drain(..half);
        }
    }

    /// What nobody needs any more is given back, as far as there is room to tell so in `freed`. It is no part of the past from
    /// now on; the rest is, and waits.
    pub fn let_go(&mut self, freed: &mut Freed) -> Vec<Run> {
        let mut gone = Vec::new();
        for e in std::mem::take(&mut self.emptied) {
            if self.window_holds(&e) || self.pins_hold(&e) || freed.is_full_for(e.run) {
                self.emptied.push(e);
            } else {
                freed.add(e.run);
                gone.push(e.run);
            }
        }
        gone
    }

    /// What was emptied, and is still kept.
    pub fn holds(&self, run: Run) -> bool {
        self.emptied.iter().any(|e| e.run.from < run.to && run.from < e.run.to)
    }

    pub fn held(&self) -> Held {
        let mut held = Held::default();
        for e in &self.emptied {
            let bytes = e.run.to - e.run.from;
            if self.pins_hold(e) {
                held.pins += bytes;
            } else if self.window_holds(e) {
                held.window += bytes;
            }
        }
        held
    }

    /// What one pin needs of it.
    pub fn held_by(&self, pin: &Pin) -> u64 {
        self.emptied.iter().filter(|e| pin.holds(e)).map(|e| e.run.to - e.run.from).sum()
    }

    /// The newest base in which a commit may have been stamped at or before a moment, and older ones; newest first.
    pub fn bases_at(&self, wall_us: u64) -> impl Iterator<Item = Base> + '_ {
        self.bases.iter().rev().filter(move |b| b.low <= wall_us || b.redo == self.newest()).copied()
    }

    fn newest(&self) -> Lsn {
        self.bases.last().map_or(Lsn::NONE, |b| b.redo)
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use crate::lsn::format;
    use crate::page::manifest::Manifest;
    use crate::reclaim::freed;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const UNIT: u64 = format::FRAME;
    const RECORD: u64 = UNIT / 8;

    #[derive(Clone, Copy, Debug)]
    enum Record {
        Image(u64, u8),
        /// Adds to the page's number, over the record before.
        Delta(u64, u8, Lsn),
        Free(u64),
        /// A node, or a manifest.
        Other,
    }

    type Table = BTreeMap<u64, Lsn>;
    type State = BTreeMap<u64, u8>;

    /// A checkpoint as it was written.
    #[derive(Clone, Default)]
    struct Written {
        table: Table,
        nodes: Vec<Lsn>,
    }

    /// A volume of which only the log's addresses, the tables and the past are there.
    #[derive(Default)]
    struct Toy {
        log: BTreeMap<Lsn, Record>,
        gone: Vec<Run>,
        tail: u64,
        table: Table,
        now: State,
        /// By where redo begins.
        written: BTreeMap<Lsn, Written>,
        newest: Lsn,
        /// By the end of its last MTR.
        states: BTreeMap<Lsn, State>,
        emptied: Vec<Run>,
        past: Past,
        age_us: u64,
        freed: usize,
        found: usize,
    }

    impl Toy {
        fn new(window: Window) -> Toy {
            let begin = Lsn(RECORD);
            let mut toy = Toy { past: Manifest::first(begin).past_at(Lsn::NONE), newest: begin, ..Toy::default() };
            toy.past.window = window;
            toy.written.insert(begin, Written::default());
            // The root page.
            toy.commit(Record::Image(0, 0));
            toy
        }

        fn end(&self) -> Lsn {
            Lsn(RECORD + self.tail * RECORD)
        }

        fn append(&mut self, record: Record) -> Lsn {
            let lsn = self.end();
            self.tail += 1;
            self.log.insert(lsn, record);
            lsn
        }

        /// An MTR of one record.
        fn commit(&mut self, record: Record) {
            let lsn = self.append(record);
            Toy::apply(&mut self.table, lsn, record);
            match record {
                Record::Image(page, n) => drop(self.now.insert(page, n)),
                Record::Delta(page, n, _) => drop(self.now.entry(page).and_modify(|v| *v = v.wrapping_add(n))),
                Record::Free(page) => drop(self.now.remove(&page)),
                Record::Other => (),
            }
            self.states.insert(self.end(), self.now.clone());
        }

        fn apply(table: &mut Table, lsn: Lsn, record: Record) {
            match record {
                Record::Image(page, _) | Record::Delta(page, ..) => drop(table.insert(page, lsn)),
                Record::Free(page) => drop(table.remove(&page)),
                Record::Other => (),
            }
        }

        fn record(&self, lsn: Lsn) -> Result<Record, String> {
            match self.gone.iter().find(|run| run.from <= lsn && lsn < run.to) {
                Some(run) => Err(format!("the record at {lsn} went with {run:?}")),
                None => self.log.get(&lsn).copied().ok_or(format!("there was no record at {lsn}")),
            }
        }

        fn read(&self, head: Lsn) -> Result<u8, String> {
            match self.record(head)? {
                Record::Image(_, n) => Ok(n),
                Record::Delta(_, n, prev) => Ok(self.read(prev)?.wrapping_add(n)),
                other => Err(format!("{other:?} is in a chain")),
            }
        }

        fn chain(&self, head: Lsn) -> Vec<Lsn> {
            match self.log.get(&head) {
                Some(Record::Delta(_, _, prev)) => [vec![head], self.chain(*prev)].concat(),
                _ => vec![head],
            }
        }

        /// The table of a state, from its base.
        fn table_at(&self, base: &Base, at: Lsn) -> Result<Table, String> {
            let written = self.written.get(&base.redo).ok_or(format!("no checkpoint began at {}", base.redo))?;
            for node in &written.nodes {
                self.record(*node)?;
            }
            let mut table = written.table.clone();
            let mut lsn = base.redo;
            while lsn < at {
                Toy::apply(&mut table, lsn, self.record(lsn)?);
                lsn = lsn + RECORD;
            }
            Ok(table)
        }

        fn check_state(&self, base: &Base, at: Lsn, state: &State) -> Result<(), String> {
            let table = self.table_at(base, at)?;
            let read = table.iter().map(|(page, head)| Ok((*page, self.read(*head)?)));
            let read: State = read.collect::<Result<_, String>>()?;
            if read == *state { Ok(()) } else { Err(format!("the state at {at}: {read:?} in place of {state:?}")) }
        }

        fn check_all(&mut self) -> Result<(), String> {
            for (at, state) in &self.states {
                let Some(base) = self.past.base(*at) else { continue };
                self.check_state(&base, *at, state).map_err(|e| format!("{at} from {}: {e}", base.redo))?;
                self.found += 1;
            }
            for pin in &self.past.pins {
                let (base, state) = (self.past.base_of(pin), &self.states[&pin.lsn]);
                self.check_state(&base, pin.lsn, state).map_err(|e| format!("pin {:?}: {e}", pin.name))?;
            }
            for (page, head) in &self.table {
                self.read(*head).map_err(|e| format!("page {page} now: {e}"))?;
            }
            Ok(())
        }

        /// A checkpoint of a state, which it may rewind to.
        fn checkpoint(&mut self, pin: Option<String>, rewind: Option<(Lsn, Base)>) -> Result<(), String> {
            let gives_back = self.checkpoint_unnamed(pin, rewind)?;
            self.newest = self.past.bases.last().unwrap().redo;
            self.freed += gives_back.len();
            self.gone.extend(gives_back);
            Ok(())
        }

        /// The process dies before its manifest is named: the next one goes on from it all the same, and gives back nothing
        /// before it has named one.
        fn die(&mut self, pin: Option<String>) -> Result<(), String> {
            let gives_back = self.checkpoint_unnamed(pin, None)?;
            self.newest = self.past.bases.last().unwrap().redo;
            let mut freed = Freed::default();
            gives_back.into_iter().for_each(|run| freed.add(run));
            // Epochs begin and end anywhere.
            let between = Lsn(self.end().0 / 2 + 24);
            let kept = [(1, Lsn(24), between), (2, between + 8, Lsn::MAX)];
            self.past.takes_back(&freed, &kept.map(|(epoch, begin, end)| Entry { epoch, begin, end }));
            self.emptied.clear();
            Ok(())
        }

        /// Returns what may go once superblocks name its manifest.
        fn checkpoint_unnamed(&mut self, pin: Option<String>, rewind: Option<(Lsn, Base)>) -> Result<Vec<Run>, String> {
            let (redo, age_us) = (self.end(), self.age_us);
            let from = rewind.map_or(self.newest, |(_, base)| base.redo);
            let table = match rewind {
                Some((at, base)) => self.table_at(&base, at)?,
                None => self.table.clone(),
            };
            let undoes = pin.as_ref().is_some_and(String::is_empty);
            let victims = if undoes || rewind.is_some() { Vec::new() } else { std::mem::take(&mut self.emptied) };
            let within = |lsn: Lsn| victims.iter().any(|run| run.from <= lsn && lsn < run.to);
            let mut nodes: Vec<Lsn> = self.written[&from].nodes.clone();
            let moved = nodes.iter().filter(|n| within(**n)).count();
            nodes.retain(|n| !within(*n));
            (0..=moved).for_each(|_| nodes.push(self.append(Record::Other)));
            if let Some(name) = pin {
                let pin = Pin { name, lsn: redo, wall_us: 0, age_us, base: Lsn::NONE, redo };
                self.past.pins.push(pin);
                self.states.insert(redo, self.now.clone());
            }
            if let Some((at, base)) = rewind {
                self.past.made_from(base.redo);
                self.now = self.states[&at].clone();
                self.emptied.clear();
            }
            let rewound = rewind.map_or(Lsn::NONE, |(at, _)| at);
            self.past.checkpoint(Base { redo, age_us, rewound, ..Base::default() }, NO_STAMPS, &victims);
            let gives_back =
                if undoes || rewind.is_some() { Vec::new() } else { self.past.let_go(&mut Freed::default()) };
            // As it goes through a manifest.
            let base = self.past.bases.pop().unwrap();
            let lsn = self.append(Record::Other);
            nodes.push(lsn);
            let manifest =
                Manifest { redo, age_us, rewound: base.rewound, past: self.past.clone(), ..Manifest::default() };
            self.past = Manifest::decode(&manifest.encode()).unwrap().past_at(lsn);
            self.written.insert(redo, Written { table: table.clone(), nodes });
            self.table = table;
            if rewind.is_some() {
                self.states.insert(self.end(), self.now.clone());
            }
            Ok(gives_back)
        }

        /// Writes anew what the newest table needs of an extent below the newest redo.
        fn empty(&mut self, which: usize) {
            let below = self.newest.floor(UNIT).0 / UNIT;
            let run = |i: u64| Run { from: Lsn(i * UNIT), to: Lsn((i + 1) * UNIT) };
            let free = |r: &Run| !self.gone.contains(r) && !self.emptied.contains(r) && !self.past.holds(*r);
            let all: Vec<Run> = (0..below).map(run).filter(free).collect();
            let Some(run) = all.get(which % all.len().max(1)).copied() else { return };
            for (page, head) in self.table.clone() {
                if self.chain(head).iter().any(|lsn| run.from <= *lsn && *lsn < run.to) {
                    self.commit(Record::Image(page, self.now[&page]));
                }
            }
            self.emptied.push(run);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u64, u8),
        Patch(u64, u8),
        Free(u64),
        Checkpoint,
        Empty(usize),
        Snapshot,
        Forget(usize),
        Rewind(usize),
        /// To the state before an earlier rewind.
        Undo(usize),
        Age(u64),
        /// A checkpoint is cut short by a crash, and it may have a snapshot.
        Die(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0u64..10, any::<u8>()).prop_map(|(page, n)| Step::Put(page, n)),
            8 => (0u64..10, any::<u8>()).prop_map(|(page, n)| Step::Patch(page, n)),
            1 => (0u64..10).prop_map(Step::Free),
            3 => Just(Step::Checkpoint),
            3 => (0usize..8).prop_map(Step::Empty),
            1 => Just(Step::Snapshot),
            1 => (0usize..4).prop_map(Step::Forget),
            1 => (0usize..64).prop_map(Step::Rewind),
            1 => (0usize..4).prop_map(Step::Undo),
            2 => (0u64..40).prop_map(Step::Age),
            1 => any::<bool>().prop_map(Step::Die),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// How many extents went, and how many states of the past were read.
    fn play(window: Window, steps: Vec<Step>) -> Result<(usize, usize), String> {
        let mut toy = Toy::new(window);
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(page, n) => toy.commit(Record::Image(page, n)),
                Step::Patch(page, n) => {
                    if let Some(prev) = toy.table.get(&page).copied() {
                        toy.commit(Record::Delta(page, n, prev));
                    }
                }
                Step::Free(page) => toy.commit(Record::Free(page)),
                Step::Checkpoint => toy.checkpoint(None, None)?,
                Step::Empty(which) => toy.empty(which),
                Step::Snapshot => toy.checkpoint(Some(format!("s{i}")), None)?,
                Step::Forget(which) => {
                    let named: Vec<String> =
                        toy.past.pins.iter().filter(|p| !p.is_undo()).map(|p| p.name.clone()).collect();
                    if let Some(name) = named.get(which) {
                        toy.past.pins.retain(|p| p.name != *name);
                    }
                }
                Step::Rewind(which) => {
                    let kept: Vec<Lsn> = toy.states.keys().copied().filter(|at| toy.past.base(*at).is_some()).collect();
                    let Some(at) = kept.get(which % kept.len().max(1)).copied() else { continue };
                    // Found before the window moves on: it goes back there all the same.
                    let Some(base) = toy.past.base(at) else { continue };
                    toy.checkpoint(Some(String::new()), None)?;
                    toy.checkpoint(None, Some((at, base)))?;
                }
                Step::Undo(which) => {
                    let undo: Vec<Pin> = toy.past.pins.iter().filter(|p| p.is_undo()).cloned().collect();
                    if let Some(pin) = undo.get(which) {
                        toy.checkpoint(Some(String::new()), None)?;
                        toy.checkpoint(None, Some((pin.lsn, toy.past.base_of(pin))))?;
                    }
                }
                Step::Age(by) => toy.age_us += by,
                Step::Die(names) => toy.die(names.then(|| format!("s{i}")))?,
            }
            toy.check_all()?;
        }
        Ok((toy.freed, toy.found))
    }

    proptest! {
                /// After every step each state of the window, of a snapshot and before a rewind reads as it was.
        #[test]
        fn every_state_that_is_kept_reads_right(time_us in 0u64..200, units in 0u64..40, steps in steps()) {
            let window = Window { time_us, bytes: units * UNIT };
            prop_assert_eq!(play(window, steps).map(|_| ()), Ok(()));
        }
    }

    fn churn(n: usize) -> Vec<Step> {
        let one = |i: usize| match i % 12 {
            9 => Step::Checkpoint,
            10 => Step::Empty(0),
            11 => Step::Age(10),
            _ => Step::Put(i as u64 % 5, i as u8),
        };
        (0..n).map(one).collect()
    }

    /// The property above is not empty: states are kept, and what nobody needs goes.
    #[test]
    fn a_window_holds_and_lets_go() {
        let none = play(Window::default(), churn(400)).unwrap();
        let short = play(Window { time_us: 100, bytes: u64::MAX }, churn(400)).unwrap();
        let small = play(Window { time_us: 100_000, bytes: 4 * UNIT }, churn(400)).unwrap();
        let all = play(Window { time_us: 100_000, bytes: u64::MAX }, churn(400)).unwrap();
        assert!(none.0 > short.0 && short.0 > 0 && small.0 > 0, "{none:?} {short:?} {small:?}");
        assert_eq!(all.0, 0, "all of it is held");
        assert!(none.1 < short.1 && short.1 < all.1, "{none:?} {short:?} {all:?}");
    }

    fn base(redo: u64, rewound: u64) -> Base {
        Base { lsn: Lsn(redo + 8), redo: Lsn(redo), rewound: Lsn(rewound), age_us: redo, ..Base::default() }
    }

    /// A snapshot that held them is forgotten: a manifest has no room for all of them.
    #[test]
    fn more_than_a_manifest_tells_is_given_back_later() {
        let run = |i: u64| Run { from: Lsn(i * 2 * UNIT), to: Lsn((i * 2 + 1) * UNIT) };
        let mut freed = Freed::from_runs((0..freed::RUNS_MAX as u64 - 3).map(run).collect()).unwrap();
        let mut past = Past::default();
        // One of them fills what lies between two.
        let between = Run { from: Lsn(UNIT), to: Lsn(2 * UNIT) };
        let many = (0..9).map(|i| run(freed::RUNS_MAX as u64 + i)).chain([between]);
        past.emptied = many.map(|run| Emptied { run, since: Lsn(1) }).collect();
        past.emptied.sort_unstable_by_key(|e| e.run.from);
        let gone = past.let_go(&mut freed);
        assert_eq!(gone.len(), 5);
        assert_eq!((freed.runs().len(), past.emptied.len()), (freed::RUNS_MAX, 5));
        assert!(Freed::from_runs(freed.runs().to_vec()).is_some(), "an open refuses the manifest");
        assert!(past.emptied.iter().all(|e| !gone.contains(&e.run)));
    }

    #[test]
    fn too_many_bases_are_thinned_and_rewinds_stay() {
        let mut past = Past { window: Window { time_us: u64::MAX, bytes: u64::MAX }, ..Past::default() };
        for i in 0..10 * BASES_MAX as u64 {
            past.checkpoint(base(8 + i * 64, if i % 100 == 50 { 8 } else { 0 }), (i, i), &[]);
            assert!(past.bases.len() <= BASES_MAX);
        }
        assert_eq!(past.bases[0].redo, Lsn(8), "the oldest state is still there");
        assert_eq!(
            past.bases.iter().filter(|b| !b.rewound.is_none()).count(),
            (50..10 * BASES_MAX).step_by(100).count()
        );
        assert_eq!(past.bases[0].low, 1);
        assert!(past.bases.windows(2).all(|w| w[0].high < w[1].low || w[1].high == 0), "intervals are told whole");
    }

    #[test]
    fn states_before_rewinds_go_by_time_and_number() {
        let mut past = Past::default();
        let undo = |age_us| Pin { name: String::new(), lsn: Lsn(8), wall_us: 0, age_us, base: Lsn(16), redo: Lsn(8) };
        past.pins.push(Pin { name: "kept".into(), ..undo(0) });
        past.pins.extend((0..UNDO_MAX as u64 + 4).map(|i| undo(i * 1_000_000)));
        let day = UNDO_TIME.as_micros() as u64;
        past.checkpoint(Base { age_us: 1, ..base(64, 0) }, NO_STAMPS, &[]);
        assert_eq!(past.pins.len(), 1 + UNDO_MAX);
        past.checkpoint(Base { age_us: day + 10_000_000, ..base(128, 0) }, NO_STAMPS, &[]);
        assert_eq!(past.pins.iter().filter(|p| p.age_us <= 10_000_000 && p.is_undo()).count(), 0);
        past.checkpoint(Base { age_us: 3 * day, ..base(192, 0) }, NO_STAMPS, &[]);
        assert_eq!(past.pins.iter().map(|p| &p.name[..]).collect::<Vec<_>>(), ["kept"]);
    }

    #[test]
    fn a_moment_is_looked_for_where_it_may_be() {
        let mut past = Past { window: Window { time_us: u64::MAX, bytes: u64::MAX }, ..Past::default() };
        // The clock goes back in the third.
        let stamps = [NO_STAMPS, (10, 20), (21, 30), (15, 22), (23, 40)];
        stamps.iter().enumerate().for_each(|(i, s)| past.checkpoint(base(8 + i as u64 * 64, 0), *s, &[]));
        let at = |t| past.bases_at(t).map(|b| b.redo.0 / 64).collect::<Vec<_>>();
        for (t, want) in
            [(5, vec![4]), (10, vec![4, 0]), (15, vec![4, 2, 0]), (22, vec![4, 2, 1, 0]), (40, vec![4, 3, 2, 1, 0])]
        {
            assert_eq!(at(t), want, "{t}");
        }
    }
}
