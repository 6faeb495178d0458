//! Openers: for writing, over whatever is there, dying at any call; and for reading. What they show is checked.

use crate::core::READ_QUORUM;
use crate::core::history::History;
use crate::core::vote::Join;
use crate::disk::{Fleet, SlotDir, job};
use crate::lsn::{Lsn, PageId, SLOTS, Slot, SlotSet, format};
use crate::page::read::LogReader;
use crate::page::version::Pages;
use crate::reclaim::freed::Freed;
use crate::segment::recover::{self, Opened, Recovered};
use crate::segment::superblock::{Durability, Geometry};
use crate::sim::dir::{SimDir, SimDisk, do_job};
use crate::sim::faults::Fault;
use crate::sim::life::{Attempt, BRINK, Checked, EPOCHS_TOLD, FAR, PAGE, PG, Running, Sim, SimClock};
use crate::sim::model::{Effect, ModelMtr, State};
use crate::sim::temper::Temper;
use crate::sim::world::newest_superblock;
use crate::volume::error::{OpenError, ReadError, SlotFaults};
use crate::volume::mtr::{Change, Content, What};
use crate::volume::open::{build, redo_map};
use crate::volume::reader;
use crate::volume::shared::{Clock, Shared};
use crate::volume::view::{Reads, View};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The fleet of one opener: between its calls the rest of the world goes on.
pub struct SimFleet<'a> {
    pub sim: &'a Sim,
    pub process: usize,
    pub visible: SlotSet,
}

impl Fleet for SimFleet<'_> {
    fn each<T: Send + 'static>(
        &self,
        set: SlotSet,
        call: impl Fn(Slot, &dyn SlotDir) -> io::Result<T> + Send + Sync + 'static,
    ) -> [Option<io::Result<T>>; SLOTS] {
        let mut out: [Option<io::Result<T>>; SLOTS] = [const { None }; SLOTS];
        let mut order: Vec<Slot> = set.iter().collect();
        for i in (1..order.len()).rev() {
            order.swap(i, self.sim.below(i + 1));
        }
        for slot in order {
            self.sim.meanwhile();
            let dir = SimDir { world: self.sim.world.clone(), process: self.process, slot };
            let answer =
                if self.visible.contains(slot) { call(slot, &dir) } else { Err(io::ErrorKind::NotFound.into()) };
            out[slot.index()] = Some(answer);
        }
        out
    }

    fn dirs(&self) -> [Option<Arc<dyn SlotDir>>; SLOTS] {
        Slot::ALL.map(|slot| {
            let dir = SimDir { world: self.sim.world.clone(), process: self.process, slot };
            self.visible.contains(slot).then(|| Arc::new(dir) as Arc<dyn SlotDir>)
        })
    }
}

/// A reader that stays open, and what it must show.
pub struct Beside {
    process: usize,
    /// Slots that it found when it opened.
    visible: SlotSet,
    reads: Arc<Reads>,
    view: View,
    state: State,
    /// What was given back when it opened.
    given_back: Freed,
}

/// The error of an opener that did not live to the end of it.
pub fn killed() -> OpenError {
    OpenError::Quorum { what: "the process was killed while it opened".into(), slots: SlotFaults(Vec::new()) }
}

impl Sim {
    /// A run begins with a volume that was created in peace.
    pub fn create(&self) -> Checked {
        self.make_foreign()?;
        let process = self.world.lock().start_process();
        let fleet = SimFleet { sim: self, process, visible: SlotSet::ALL };
        let created = recover::create(&fleet, self.geometry(), Durability::Dsync);
        let mut opened = created.map_err(|e| format!("create: {e}"))?;
        if let Some(begin) = self.begin() {
            self.begin_at(begin, &mut opened, process)?;
        }
        self.world.lock().set_epoch(process, &opened.history);
        self.world.lock().note(format_args!("p{process} is open: {:?}", opened.history.entries()));
        self.stand_up(opened, process, 0)?;
        let mut slot = self.running[0].borrow_mut();
        let Some(running) = slot.as_mut() else { return Err("nothing runs after a creation".into()) };
        let mut content = Content::default();
        content.changes.push(Change { page: PageId::ROOT, what: What::Zero, fresh: true });
        // Space comes with the first jobs.
        for _ in 0..100 {
            running.shared.pump();
            while do_job(&self.world, process) {}
        }
        running.shared.pump();
        let prepared = running.shared.prepare(&content).map_err(|e| format!("the root page: {e:?}"))?;
        let effects = vec![Effect::Put(PageId::ROOT, vec![0; PAGE].into())];
        let end = running.shared.finish(prepared);
        effects[0].apply(&mut running.newest);
        let mut model = self.model.borrow_mut();
        running.mtrs.push(model.mtrs.len());
        model.mtrs.push(ModelMtr { epoch: 1, end, effects, acknowledged: false, seen: None });
        drop((model, slot));
        self.until_acknowledged(0)
    }

    /// Where the log begins, if that is not at its second block.
    fn begin(&self) -> Option<Lsn> {
        let blocks = |n: usize| 4096 * (8 + self.below(n)) as u64;
        match self.temper {
            _ if self.begin.is_some() => self.begin,
            Temper { brink: true, .. } => Some(Lsn(BRINK.0 - blocks(32))),
            // Before the border, or behind it.
            Temper { far: true, .. } => {
                let border = FAR[self.below(FAR.len())];
                Some(Lsn(if self.one_in(4) { border + blocks(32) } else { border - blocks(64) }))
            }
            _ => None,
        }
    }

    /// As if the volume's first epoch began where few others do.
    fn begin_at(&self, begin: Lsn, opened: &mut Opened, process: usize) -> Checked {
        opened.history = History::first(begin);
        (opened.begin, opened.recovered.history) = (begin, opened.history.clone());
        for superblock in opened.superblocks.iter_mut().flatten() {
            superblock.history = History::first(begin);
            let dir = SimDir { world: self.world.clone(), process, slot: superblock.slot };
            job::write_super(&dir, superblock).map_err(|e| format!("create: {e}"))?;
        }
        Ok(())
    }

    fn geometry(&self) -> Geometry {
        let mut w = self.world.lock();
        let (high, low) = (w.random.next(), w.random.next());
        let id = uuid::Uuid::from_u128(u128::from(high) << 64 | u128::from(low));
        Geometry { volume: id, log: id, page_size: PAGE as u32, block_size: 4096, pg_size: PG }
    }

    /// Another volume, whose slots may turn up in ours' places.
    pub fn make_foreign(&self) -> Checked {
        let process = self.world.lock().start_process();
        let fleet = SimFleet { sim: self, process, visible: SlotSet::ALL };
        recover::create(&fleet, self.geometry(), Durability::Dsync).map_err(|e| format!("create another: {e}"))?;
        let mut w = self.world.lock();
        w.kill(process);
        *self.foreign.borrow_mut() = w.files.iter_mut().map(std::mem::take).collect();
        Ok(())
    }

    /// Opens for writing. The opener may die at any of its calls.
    pub fn open(&self, which: usize, forced: bool) -> Checked {
        match self.attempt(forced)? {
            Ok((opened, process)) => self.stand_up(opened, process, which),
            Err(_) => Ok(()),
        }
    }

    /// One attempt to open for writing. The outer error is a broken property.
    pub fn attempt(&self, forced: bool) -> Result<Attempt, String> {
        let process = self.world.lock().start_process();
        {
            let mut w = self.world.lock();
            w.counts.opens += 1;
            w.atlas.forget_struck();
            w.note(format_args!("p{process} OPENS{}", if forced { " by force" } else { "" }));
            if !self.peace.get() && w.random.one_in(4) && w.faults.happens(Fault::DiesOpening) {
                // Most calls of an open read; a death between two writes leaves more behind.
                let writing = w.random.one_in(2);
                let calls = w.random.below(if writing { 40 } else { 120 }) as u64;
                w.dies_in(process, calls, writing);
            }
        }
        let fleet = SimFleet { sim: self, process, visible: SlotSet::ALL };
        let openers = self.opening.get();
        if openers == 0 {
            self.raced.set(false);
        }
        self.opening.set(openers + 1);
        let opened = recover::open(&fleet, |_, _| Ok(()));
        self.opening.set(openers);
        if let Some(what) = self.failure.borrow_mut().take() {
            return Err(what);
        }
        let mut w = self.world.lock();
        match opened {
            _ if !w.is_alive(process) => Ok(Err(killed())),
            Ok(opened) => {
                w.set_epoch(process, &opened.history);
                w.note(format_args!("p{process} is open: {:?}", opened.history.entries()));
                Ok(Ok((opened, process)))
            }
            Err(e) => {
                w.counts.refused += 1;
                w.note(format_args!("p{process} cannot open: {e}"));
                w.kill(process);
                let promised = w.atlas.is_promised_to_write(w.away());
                if promised && !self.raced.get() {
                    Err(format!("A1: an open within the promise is refused: {e}"))
                } else {
                    Ok(Err(e))
                }
            }
        }
    }

    /// An opened volume becomes a running writer, and what it shows is checked.
    fn stand_up(&self, opened: Opened, process: usize, which: usize) -> Checked {
        let geometry = opened.geometry;
        let history = opened.history.clone();
        let previous = opened.recovered.choice.decision.number;
        check_work(&opened)?;
        let base = self.expose(&history, process)?;
        let fleet = SimFleet { sim: self, process, visible: SlotSet::ALL };
        let disk =
            Box::new(SimDisk { world: self.world.clone(), process, pg_size: geometry.pg_size, seed: geometry.seed() });
        let clock: Arc<dyn Clock> = Arc::new(SimClock(self.world.clone()));
        let (mut parts, engine) =
            build(opened, fleet.dirs(), disk, clock, &Sim::options(self.temper.reclaims, self.temper.runs));
        let world = self.world.clone();
        parts.earlier_gone = Box::new(move || world.lock().is_alone(process));
        let shared = Arc::new(Shared::new(parts, engine));
        shared.engine().tidy(previous);
        for page in 0..30 {
            let page = PageId(page);
            let read = self.check_page(page, shared.read_newest(page), base.get(&page), "an open's read");
            // The opener may die in the midst of it.
            if !self.world.lock().is_alive(process) {
                return Ok(());
            }
            read?;
        }
        let newest = base.clone();
        let (held, views, mtrs) = (Vec::new(), Vec::new(), Vec::new());
        let running = Running {
            process,
            shared,
            held,
            closing: None,
            views,
            base,
            mtrs,
            newest,
            acknowledged: 0,
            stalled: false,
            going: None,
            cloning: None,
        };
        if self.temper.rewinds {
            self.check_snapshots(&running)?;
        }
        *self.running[which].borrow_mut() = Some(running);
        Ok(())
    }

    /// Opens for reading, over three or more slots, beside whatever runs.
    pub fn read_only(&self) -> Checked {
        let mut visible = SlotSet::ALL;
        for _ in 0..self.below(3) {
            visible = visible.without(Slot(self.below(SLOTS) as u8));
        }
        let hidden: SlotSet = Slot::ALL.into_iter().filter(|s| !visible.contains(*s)).collect();
        {
            let mut w = self.world.lock();
            w.atlas.forget_struck();
            if !w.atlas.is_beyond() && !w.atlas.is_promised(hidden.union(w.away())) {
                return Ok(());
            }
            w.hidden = hidden;
            w.counts.readers += 1;
        }
        let process = self.world.lock().start_process();
        let fleet = SimFleet { sim: self, process, visible };
        let given_back = self.world.lock().given_back().clone();
        let recovered = recover::recover(&fleet);
        let promised = self.promised();
        if !promised {
            self.past_promise.set(true);
        }
        let result = match recovered {
            Ok(recovered) => self.check_reader(&fleet, recovered, given_back),
            Err(e) if promised => {
                Err(format!("A1: a read-only open within the promise is refused: {e} (of {visible:?})"))
            }
            Err(_) => Ok(()),
        };
        let kept = self.beside.borrow().as_ref().is_some_and(|b| b.process == process);
        let mut w = self.world.lock();
        w.hidden = SlotSet::NONE;
        if !kept {
            w.kill(process);
        }
        result
    }

    /// A reader that has been open for a while reads what it showed then, or is told that it is gone.
    pub fn read_beside(&self) -> Checked {
        let mut slot = self.beside.borrow_mut();
        let Some(beside) = slot.as_ref().filter(|b| self.world.lock().is_alive(b.process)) else {
            *slot = None;
            return Ok(());
        };
        let (excused, more) = {
            let w = self.world.lock();
            // It holds on to directories that others have replaced, and nobody mends what is in those.
            let replaced = Slot::ALL.into_iter().any(|s| w.holds_another(beside.process, s));
            // What it did not see when it opened it never looks at.
            let blind = beside.visible != SlotSet::ALL;
            (replaced || blind || w.atlas.is_struck(), *w.given_back() != beside.given_back)
        };
        beside.reads.pages.forget(Lsn::NONE);
        for page in 0..30 {
            let got = beside.view.read(PageId(page));
            match got {
                // It died in the midst of it.
                Err(_) if !self.world.lock().is_alive(beside.process) => break,
                Err(ReadError::ReadPointGone(_)) if more => self.world.lock().counts.gone += 1,
                Err(ReadError::Lost { .. }) if excused => (),
                got => {
                    let want = beside.state.get(&PageId(page));
                    self.check_page(PageId(page), got, want, "a read by who stayed open")?;
                }
            }
        }
        if self.one_in(8) {
            self.world.lock().kill(beside.process);
            *slot = None;
        }
        Ok(())
    }

    /// A new writer is open: every earlier outcome is known now. What it must show.
    fn expose(&self, history: &History, process: usize) -> Result<State, String> {
        if !self.promised() {
            self.past_promise.set(true);
        }
        self.check_losses(&self.model.borrow().complete(history), process)?;
        let mut model = self.model.borrow_mut();
        model.expose(history, self.past_promise.get())
    }

    /// Past the promise what was acknowledged may be lost, but not while a copy that the opener could read testifies of it,
    /// and not where fewer than three slots in reach can remember it: blank ones have no vote.
    fn check_losses(&self, history: &History, process: usize) -> Checked {
        let (model, w) = (self.model.borrow(), self.world.lock());
        let reach: Vec<Slot> = Slot::ALL.into_iter().filter(|s| !w.away().contains(*s)).collect();
        // One that was blank remembers from its join point on, if an earlier decision than this one brought it in.
        let joined = |s: Slot| match newest_superblock(&w.files[s.index()]).map(|s| s.join) {
            Some(Join::Founder) => Some(Lsn::NONE),
            Some(Join::At { at, by }) if by < history.last().epoch && history.contains_epoch(by) => Some(at),
            _ => None,
        };
        let since: Vec<Lsn> =
            reach.iter().filter_map(|s| if w.blank.contains(*s) { joined(*s) } else { Some(Lsn::NONE) }).collect();
        for m in model.mtrs.iter().filter(|m| m.acknowledged && m.seen != Some(false)) {
            if m.epoch >= history.last().epoch || history.holds(m.epoch, Lsn(m.end.0 - 1)) {
                continue;
            }
            let lost = format!("silent loss: the acknowledged MTR of epoch {} that ends at {} is gone", m.epoch, m.end);
            if let Some((slot, at)) = w.witness(process, m.epoch, m.end) {
                return Err(format!("{lost}, though slot {slot}'s group at {at} knows of it"));
            }
            let remember = since.iter().filter(|at| **at < m.end).count();
            if remember < READ_QUORUM {
                return Err(format!("{lost}, though only {remember} slots in reach can remember anything"));
            }
        }
        Ok(())
    }

    /// `given_back` was when it began to read.
    fn check_reader(&self, fleet: &SimFleet<'_>, recovered: Recovered, given_back: Freed) -> Checked {
        let (settled, decided) = reader::settled(fleet, &recovered);
        let visible = recovered.ruling.end;
        let choice = recovered.choice.decision.number;
        self.world.lock().note(format_args!("read-only: decision {choice}, settled {settled}, visible {visible}"));
        let newest = recovered.history.last().epoch;
        self.world.lock().judge_reader(fleet.process, choice, newest, settled, decided);
        if settled > visible {
            return Err(format!("a read-only open is settled at {settled}, visible to {visible}"));
        }
        let past = self.past_promise.get();
        let mut model = self.model.borrow_mut();
        let history = model.complete(&recovered.history);
        for i in 0..model.mtrs.len() {
            let (epoch, end) = (model.mtrs[i].epoch, model.mtrs[i].end);
            let unknown = crate::Unknown { lsn: end, epoch };
            let outcome = reader::outcome(&recovered.history, settled, decided, EPOCHS_TOLD, unknown);
            if let Some(present) = outcome {
                model.settle(i, present, "a read-only open", past)?;
            }
            let shown = history.last().epoch != epoch && history.holds(epoch, Lsn(end.0 - 1))
                || history.last().epoch == epoch && end <= visible;
            if model.mtrs[i].acknowledged && !shown && !past {
                return Err(format!("S1: a read-only open misses the acknowledged MTR that ends at {end}"));
            }
        }
        let map = redo_map(&recovered, settled, settled);
        let later = Arc::new(redo_map(&recovered, visible, visible));
        let log = LogReader::new(recovered.survey.geometry, fleet.dirs(), recovered.history.clone());
        let reads = Arc::new(Reads::new(Pages::new(log, None, 0, map)));
        // What it shows at a point: exactly the MTRs below.
        let there = |m: &ModelMtr, at| history.holds(m.epoch, Lsn(m.end.0 - 1)) && m.end <= at;
        let mut state = model.after(|m| there(m, settled));
        for at in [settled, visible] {
            let mut more: Vec<&ModelMtr> = model.mtrs.iter().filter(|m| m.end > settled && there(m, at)).collect();
            more.sort_by_key(|m| m.end);
            more.iter().flat_map(|m| &m.effects).for_each(|e| e.apply(&mut state));
            let view = match recovered.states.len() == 1 {
                true => reads.view_at(at, Duration::ZERO),
                false if at == settled => reads.view_at(at, Duration::ZERO),
                false => reads.view_of(later.clone(), at, Duration::ZERO),
            };
            let mut beside = self.beside.borrow_mut();
            if at == settled && beside.is_none() && !self.peace.get() && self.one_in(2) {
                let mut w = self.world.lock();
                w.reads_only(fleet.process);
                let (view, state, given_back) = (view.clone(), state.clone(), given_back.clone());
                let (process, visible) = (fleet.process, fleet.visible);
                *beside = Some(Beside { process, visible, reads: reads.clone(), view, state, given_back });
            }
            drop(beside);
            for page in 0..30 {
                let got = view.read(PageId(page));
                // What is not settled may have a single copy in reach, and the one read of that may fail.
                if at > settled && matches!(got, Err(ReadError::Lost { .. })) && self.world.lock().atlas.is_struck() {
                    continue;
                }
                if matches!(got, Err(ReadError::ReadPointGone(_))) && *self.world.lock().given_back() != given_back {
                    continue;
                }
                self.check_page(PageId(page), got, state.get(&PageId(page)), "a read-only open's read")?;
            }
        }
        Ok(())
    }
}

/// What a recovery reads is bounded by the log since the manifest's redo begin, and a LAL beyond it, on six slots, twice.
fn check_work(opened: &Opened) -> Checked {
    let (redo, read) = (opened.recovered.named.1, opened.recovered.bytes_read);
    let past = opened.history.since(redo);
    let closed = past.iter().filter(|e| e.end != Lsn::MAX);
    let log: u64 = closed.map(|e| e.end.0.saturating_sub(e.begin.max(redo).0) + 2 * format::FRAME).sum();
    let most = 2 * SLOTS as u64 * (log + format::LAL + 4 * format::FRAME);
    if read > most { Err(format!("a recovery read {read} bytes, and {most} are enough")) } else { Ok(()) }
}
