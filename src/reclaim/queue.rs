//! Extents that were emptied, on their way to the slots: first a manifest has to give them back, then whoever reads by an
//! older one has to be gone.

use crate::lsn::Lsn;
use crate::reclaim::freed::Run;

/// No page's chain comes there any more, from an address on.
struct Emptied {
    run: Run,
    since: Lsn,
}

/// Given back by the manifest of a map: who holds an older one may read it.
struct Held {
    run: Run,
    generation: u64,
}

#[derive(Default)]
pub struct Queue {
    emptied: Vec<Emptied>,
    held: Vec<Held>,
}

impl Queue {
    /// No page's newest record that lies at or above `since` leads there.
    pub fn emptied(&mut self, run: Run, since: Lsn) {
        self.emptied.push(Emptied { run, since });
    }

    /// Extents that wait for a manifest.
    pub fn waiting(&self) -> impl Iterator<Item = Run> + '_ {
        self.emptied.iter().map(|e| e.run)
    }

    /// What a checkpoint whose redo begins at `redo` can give back: its table has what was written anew.
    pub fn ready(&self, redo: Lsn) -> Vec<Run> {
        self.emptied.iter().filter(|e| e.since <= redo).map(|e| e.run).collect()
    }

    /// A manifest that is named tells that these are emptied.
    pub fn is_emptied(&mut self, runs: &[Run]) {
        self.emptied.retain(|e| !runs.contains(&e.run));
    }

    /// What was emptied may be needed again.
    pub fn rewound(&mut self) {
        self.emptied.clear();
    }

    /// Something was given back by the manifest of a newer map than that of this generation.
    pub fn held_since(&self, generation: u64) -> bool {
        self.held.iter().any(|h| h.generation > generation)
    }

    /// The manifest that gives these back is named: by the map of this generation, and by those that follow.
    pub fn given_back(&mut self, runs: &[Run], generation: u64) {
        self.held.extend(runs.iter().map(|run| Held { run: *run, generation }));
    }

    /// Bytes that views hold.
    pub fn held(&self) -> u64 {
        self.held.iter().map(|h| h.run.to - h.run.from).sum()
    }

    /// What nobody can read any more, where the oldest map that somebody holds is of this generation.
    pub fn let_go(&mut self, oldest: Option<u64>) -> Vec<Run> {
        let free = |h: &Held| oldest.is_none_or(|oldest| h.generation <= oldest);
        let runs = self.held.iter().filter(|h| free(h)).map(|h| h.run).collect();
        self.held.retain(|h| !free(h));
        runs
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use crate::core::history::Entry;
    use crate::lsn::{PageId, format};
    use crate::reclaim::census;
    use crate::reclaim::freed::Freed;
    use crate::reclaim::moves::{self, Chain, Link, Move};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    /// Records of an extent, about.
    const UNIT: u64 = format::FRAME;
    /// What a record takes in this log, whatever it holds.
    const RECORD: u64 = UNIT / 8;
    /// Of a page: its bytes are as many.
    const PAGE: usize = 4096;

    #[derive(Clone, Debug)]
    enum Record {
        Image(u8),
        /// Adds to the page's one number, over the record before.
        Delta(u8, Lsn),
    }

    /// Where each page's newest record is, over an older table; the page's number is what is read.
    type Table = BTreeMap<PageId, Lsn>;

    /// Who reads: the state it must show, the map that it holds.
    struct Pin {
        want: BTreeMap<PageId, u8>,
        table: Rc<Table>,
        generation: u64,
    }

    /// A volume of which only the log's addresses, the table and what is given back are there.
    #[derive(Default)]
    struct Toy {
        log: BTreeMap<Lsn, Record>,
        tail: u64,
        now: BTreeMap<PageId, u8>,
        table: Rc<Table>,
        generation: u64,
        redo: Lsn,
        pins: Vec<Pin>,
        queue: Queue,
        freed: Freed,
        punched: usize,
    }

    impl Toy {
        fn append(&mut self, record: Record) -> Lsn {
            let lsn = Lsn(RECORD + self.tail * RECORD);
            self.tail += 1;
            self.log.insert(lsn, record);
            lsn
        }

        fn end(&self) -> Lsn {
            Lsn(RECORD + self.tail * RECORD)
        }

        fn set(&mut self, page: PageId, lsn: Option<Lsn>) {
            let table = Rc::make_mut(&mut self.table);
            match lsn {
                Some(lsn) => table.insert(page, lsn),
                None => table.remove(&page),
            };
        }

        /// The chain of a page, as reclaiming sees it.
        fn chain(&self, head: Lsn) -> Result<Chain, String> {
            let mut chain = Chain { deltas: Vec::new(), image: head };
            loop {
                match self.log.get(&chain.image).ok_or(format!("the record at {} is gone", chain.image))? {
                    Record::Image(_) => return Ok(chain),
                    Record::Delta(n, prev) => {
                        let bytes = vec![*n].into();
                        chain.deltas.push(Link { lsn: chain.image, offset: 0, bytes });
                        chain.image = *prev;
                    }
                }
            }
        }

        fn read(&self, head: Lsn) -> Result<u8, String> {
            let chain = self.chain(head)?;
            let Record::Image(n) = self.log[&chain.image] else { return Err("no image".into()) };
            Ok(chain.deltas.iter().fold(n, |n, d| n.wrapping_add(d.bytes[0])))
        }

        fn check(&self, want: &BTreeMap<PageId, u8>, table: &Table) -> Result<(), String> {
            assert_eq!(want.keys().collect::<Vec<_>>(), table.keys().collect::<Vec<_>>());
            want.iter().try_for_each(|(page, n)| match self.read(table[page]) {
                Ok(got) if got == *n => Ok(()),
                other => Err(format!("page {page}: {other:?} for {n}")),
            })
        }

        fn check_all(&self) -> Result<(), String> {
            self.check(&self.now, &self.table)?;
            self.pins.iter().try_for_each(|pin| self.check(&pin.want, &pin.table))
        }

        /// Empties an extent by writing anew what the newest table needs of it.
        fn empty(&mut self, which: usize) -> Result<(), String> {
            let kept = self.freed.kept(&crate::core::history::History::first(Lsn(RECORD)));
            let kept: Vec<Entry> = kept.into_iter().map(|e| Entry { end: e.end.min(self.end()), ..e }).collect();
            let waiting: Vec<Run> = self.queue.waiting().collect();
            let stocks = census::stocks(&kept, self.redo, UNIT);
            let stocks: Vec<Run> = stocks.into_iter().map(|s| s.run).filter(|r| !waiting.contains(r)).collect();
            let Some(run) = stocks.get(which % stocks.len().max(1)).copied() else { return Ok(()) };
            for (page, head) in (*self.table).clone() {
                let moved = match moves::plan(self.chain(head)?, run, PAGE) {
                    Move::Nothing => continue,
                    Move::Image => self.append(Record::Image(self.now[&page])),
                    Move::Deltas { base, deltas } => {
                        deltas.iter().fold(base, |prev, d| self.append(Record::Delta(d.bytes[0], prev)))
                    }
                };
                self.set(page, Some(moved));
            }
            self.queue.emptied(run, self.end());
            Ok(())
        }

        /// A manifest is named.
        fn checkpoint(&mut self) {
            self.redo = self.end();
            self.generation += 1;
            let runs = self.queue.ready(self.redo);
            runs.iter().for_each(|run| self.freed.add(*run));
            self.queue.is_emptied(&runs);
            self.queue.given_back(&runs, self.generation);
        }

        fn punch(&mut self) {
            for run in self.queue.let_go(self.pins.iter().map(|pin| pin.generation).min()) {
                self.punched += 1;
                self.log.retain(|lsn, _| !(run.from <= *lsn && *lsn < run.to));
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u64, u8),
        Patch(u64, u8),
        Free(u64),
        Checkpoint,
        Empty(usize),
        Pin,
        Unpin(usize),
        Punch,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0u64..12, any::<u8>()).prop_map(|(page, n)| Step::Put(page, n)),
            6 => (0u64..12, any::<u8>()).prop_map(|(page, n)| Step::Patch(page, n)),
            1 => (0u64..12).prop_map(Step::Free),
            2 => Just(Step::Checkpoint),
            2 => (0usize..8).prop_map(Step::Empty),
            1 => Just(Step::Pin),
            1 => (0usize..4).prop_map(Step::Unpin),
            2 => Just(Step::Punch),
        ];
        prop::collection::vec(step, 0..300)
    }

    fn play(steps: Vec<Step>) -> Result<usize, String> {
        let mut toy = Toy::default();
        for step in steps {
            match step {
                Step::Put(page, n) => {
                    let lsn = toy.append(Record::Image(n));
                    toy.set(PageId(page), Some(lsn));
                    toy.now.insert(PageId(page), n);
                }
                Step::Patch(page, n) => {
                    let Some(prev) = toy.table.get(&PageId(page)).copied() else { continue };
                    let lsn = toy.append(Record::Delta(n, prev));
                    toy.set(PageId(page), Some(lsn));
                    toy.now.entry(PageId(page)).and_modify(|v| *v = v.wrapping_add(n));
                }
                Step::Free(page) => {
                    toy.set(PageId(page), None);
                    toy.now.remove(&PageId(page));
                }
                Step::Checkpoint => toy.checkpoint(),
                Step::Empty(which) => toy.empty(which)?,
                Step::Pin => {
                    let (want, table, generation) = (toy.now.clone(), toy.table.clone(), toy.generation);
                    toy.pins.push(Pin { want, table, generation });
                }
                Step::Unpin(which) if which < toy.pins.len() => drop(toy.pins.swap_remove(which)),
                Step::Unpin(_) => (),
                Step::Punch => {
                    toy.punch();
                    toy.check_all()?;
                }
            }
        }
        Ok(toy.punched)
    }

    proptest! {
        /// After every punch every page is read as it is now, and as it was at every pin.
        #[test]
        fn every_page_at_every_pin_reads_right(steps in steps()) {
            prop_assert_eq!(play(steps).map(|_| ()), Ok(()));
        }
    }

    /// The property above is not empty.
    #[test]
    fn extents_are_punched() {
        let mut steps: Vec<Step> = (0..40).map(|i| Step::Put(i % 3, i as u8)).collect();
        steps.extend([Step::Put(5, 1), Step::Checkpoint, Step::Pin, Step::Empty(0), Step::Empty(0)]);
        let mut held = steps.clone();
        held.extend([Step::Checkpoint, Step::Punch]);
        assert_eq!(play(held), Ok(0), "a pin holds them");
        steps.extend([Step::Punch, Step::Unpin(0), Step::Punch, Step::Checkpoint, Step::Punch]);
        assert_eq!(play(steps), Ok(2));
    }
}
