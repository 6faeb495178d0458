//! What must be true, independent of the code: a list of MTRs, a map of pages, and what the outside was told.

use crate::core::history::{Entry, History};
use crate::lsn::{Lsn, PageId};
use crate::sim::past::Named;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All pages and their bytes. States are copied all the time, and share the pages that are alike.
pub type State = BTreeMap<PageId, Image>;

/// The bytes of a page.
pub type Image = Arc<Vec<u8>>;

/// One change, as the model understands it.
#[derive(Clone, Debug)]
pub enum Effect {
    Put(PageId, Image),
    Patch(PageId, usize, Vec<u8>),
    Free(PageId),
    /// All pages are what they once were.
    Rewind(Arc<State>),
}

impl Effect {
    pub fn touches(&self, page: PageId) -> bool {
        match self {
            Effect::Put(p, _) | Effect::Patch(p, ..) | Effect::Free(p) => *p == page,
            Effect::Rewind(_) => true,
        }
    }

    pub fn apply(&self, state: &mut State) {
        match self {
            Effect::Put(page, image) => {
                state.insert(*page, image.clone());
            }
            Effect::Patch(page, at, bytes) => {
                if let Some(image) = state.get_mut(page) {
                    Arc::make_mut(image)[*at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
            Effect::Free(page) => {
                state.remove(page);
            }
            Effect::Rewind(old) => state.clone_from(old),
        }
    }
}

/// An MTR that was reserved by some writer.
#[derive(Clone, Debug)]
pub struct ModelMtr {
    pub epoch: u64,
    pub end: Lsn,
    pub effects: Vec<Effect>,
    pub acknowledged: bool,
    /// Whether it survived, once somebody was told.
    pub seen: Option<bool>,
}

/// The truth.
#[derive(Default)]
pub struct Model {
    pub mtrs: Vec<ModelMtr>,
    /// The history of the newest open that was exposed.
    pub newest: Option<History>,
    /// Of every open that was exposed, with all epochs that there were.
    pub opened: Vec<History>,
    /// Snapshots that were asked for.
    pub named: Vec<Named>,
    /// What was shown last.
    shown: Shown,
}

/// What MTRs make, one after the other. Whoever asks next mostly asks for the same ones and a few more: most pages need
/// not be made anew.
#[derive(Default)]
struct Shown {
    mtrs: Vec<usize>,
    state: State,
}

impl Model {
    /// What these MTRs make, in order of their ends.
    pub fn after(&mut self, which: impl Fn(&ModelMtr) -> bool) -> State {
        let mut mtrs: Vec<usize> = (0..self.mtrs.len()).filter(|i| which(&self.mtrs[*i])).collect();
        mtrs.sort_by_key(|i| self.mtrs[*i].end);
        if !mtrs.starts_with(&self.shown.mtrs) {
            self.shown = Shown::default();
        }
        let more = mtrs[self.shown.mtrs.len()..].iter();
        more.flat_map(|i| &self.mtrs[*i].effects).for_each(|e| e.apply(&mut self.shown.state));
        self.shown.mtrs = mtrs;
        self.shown.state.clone()
    }

    /// The MTR's outcome becomes known: it may never flip, and what was acknowledged is there.
    /// `past` the promise it may.
    pub fn settle(&mut self, index: usize, present: bool, by: &str, past: bool) -> Result<(), String> {
        let m = &mut self.mtrs[index];
        if past {
            m.seen = Some(present);
            return Ok(());
        }
        let name = format!("the MTR of epoch {} that ends at {}", m.epoch, m.end);
        if m.acknowledged && !present {
            return Err(format!("S1: {name} was acknowledged, and {by} says it is gone"));
        }
        if m.seen.is_some_and(|seen| seen != present) {
            return Err(format!("S2: {name} was seen {}, and {by} sees it {present}", !present));
        }
        m.seen = Some(present);
        Ok(())
    }

    /// A writer acknowledges an MTR.
    pub fn acknowledge(&mut self, index: usize) -> Result<(), String> {
        let m = &mut self.mtrs[index];
        m.acknowledged = true;
        let outlived =
            self.newest.as_ref().is_some_and(|h| h.last().epoch > m.epoch && !h.holds(m.epoch, Lsn(m.end.0 - 1)));
        if m.seen == Some(false) || outlived {
            return Err(format!("S6: a zombie of epoch {} acknowledges the MTR that ends at {}", m.epoch, m.end));
        }
        Ok(())
    }

    /// A history with the epochs, too, of which manifests tell no more: those of the newest open that it follows.
    pub fn complete(&self, history: &History) -> History {
        let follows = |h: &&History| history.last().epoch >= h.last().epoch && history.contains_epoch(h.last().epoch);
        let Some(before) = self.opened.iter().rev().find(follows) else { return history.clone() };
        let lacks = before.entries().iter().filter(|e| !history.contains_epoch(e.epoch));
        let mut all: Vec<Entry> = lacks.chain(history.entries()).copied().collect();
        all.sort_by_key(|e| e.epoch);
        History::from_entries(all).unwrap_or_else(|_| history.clone())
    }

    /// A new writer is open: every earlier outcome is known now. Returns the state that it must show.
    pub fn expose(&mut self, history: &History, past: bool) -> Result<State, String> {
        // An opener that was overtaken at the last moment knows nothing of its successor's.
        let history = &self.complete(history);
        self.opened.push(history.clone());
        let own = history.last().epoch;
        for i in 0..self.mtrs.len() {
            let m = &self.mtrs[i];
            if m.epoch < own {
                let present = history.holds(m.epoch, Lsn(m.end.0 - 1));
                self.settle(i, present, "an open", past)?;
            }
        }
        if self.newest.as_ref().is_none_or(|h| h.last().epoch < own) {
            self.newest = Some(history.clone());
        }
        Ok(self.after(|m| m.seen == Some(true) && m.epoch < own))
    }
}
