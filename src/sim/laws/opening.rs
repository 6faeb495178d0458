//! The laws of an open: claim, read, complete the tail, decide, look. And of a reader: what it takes for settled is so.

use super::Vote;
use crate::core::history::{self, History};
use crate::core::vote::Join;
use crate::core::{READ_QUORUM, WRITE_QUORUM};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::segment::name::FileName;
use crate::segment::superblock::{PLACE, Superblock};
use crate::sim::file::Mark;
use crate::sim::world::{Disks, Weather, newest_superblock};

impl Disks {
    /// The process has listed a slot.
    pub(in crate::sim) fn listed(&mut self, p: usize, slot: Slot, names: &[FileName]) {
        let hurt = self.atlas.hurt().contains(slot);
        let acts = &mut self.laws.acts[p];
        acts.asked.insert(slot);
        if acts.claimed.len() == 0 && !hurt {
            let highest = names.iter().filter_map(|n| match n {
                FileName::Claim(n) | FileName::Epoch(n) => Some(*n),
                _ => None,
            });
            acts.known = acts.known.max(highest.max().unwrap_or(0));
        }
        let decided = acts.has_decided().len();
        // Lists it again, when it looks for tail files: what has landed meanwhile is no part of its choice.
        if acts.claimed.len() >= WRITE_QUORUM && decided == 0 && !acts.read.contains(slot) {
            acts.read.insert(slot);
            let decisions = names.iter().filter_map(|n| if let FileName::Epoch(n) = n { Some(*n) } else { None });
            acts.found[slot.index()] = decisions.max().unwrap_or(0);
        }
        if decided >= WRITE_QUORUM {
            acts.looked.insert(slot);
        }
    }

    /// The process has made a file that was not there.
    pub(in crate::sim) fn created(&mut self, p: usize, slot: Slot, name: FileName) {
        let FileName::Claim(n) = name else { return };
        let acts = &mut self.laws.acts[p];
        // A lower one is carried to a slot that lost it.
        if n > acts.number && acts.epoch == 0 {
            (acts.number, acts.claimed) = (n, SlotSet::NONE);
        }
        if n == acts.number {
            acts.claimed.insert(slot);
        }
    }

    pub(in crate::sim) fn flushed(&mut self, p: usize) {
        self.laws.acts[p].asked = SlotSet::NONE;
    }

    pub(in crate::sim) fn judge_superblock(&mut self, p: usize, slot: Slot, n: u64, place: usize, s: &Superblock) {
        if n == 1 && s.join == Join::Founder && self.laws.acts[p].epoch == 0 {
            self.laws.geometry = Some(s.geometry);
        }
        // What nobody will find again makes no vote, and breaks none.
        let found = !self.holds_another(p, slot);
        if found {
            self.judge_formatting(p, slot, n);
            self.manifest_named(slot, s);
        }
        if found && s.join != Join::Unset && self.laws.votes[slot.index()] == Vote::None {
            self.laws.votes[slot.index()] = Vote::From(p);
        }
        // A join point of a decision that was passed over is none: this decision gives the slot another.
        if let Join::At { by, .. } = s.join
            && by > s.history.entries()[0].epoch
            && !s.history.contains_epoch(by)
        {
            self.laws.breaks(p, || format!("lets slot {slot} join by decision {by}, which is not in its history"));
        }
        let acts = &self.laws.acts[p];
        if acts.epoch == n {
            self.judge_version(p, n, s);
            if found {
                self.judge_whole(p, slot, s);
            }
        } else if acts.epoch == 0 && s.join != Join::Unset && n > 1 && acts.places == [0; SLOTS] {
            self.judge_decision(p, n, &s.history);
        }
        if n == self.laws.acts[p].number {
            self.laws.acts[p].history.get_or_insert_with(|| s.history.clone());
        }
        // A blank slot that is formatted gets an earlier decision, which is not this process's own.
        if n == self.laws.acts[p].number && (n == 1 || s.join != Join::Unset) {
            self.laws.acts[p].places[slot.index()] |= 1 << place.min(1);
        }
    }

    /// A slot with a superblock is a voter: the newest claim must be there first.
    fn judge_formatting(&mut self, p: usize, slot: Slot, n: u64) {
        let files = &self.files[slot.index()];
        let numbers = files.keys().filter_map(|k| match k {
            FileName::Claim(n) => Some((*n, false)),
            FileName::Epoch(n) => Some((*n, true)),
            _ => None,
        });
        let (mut highest, mut formatted) = (n, false);
        for (number, decision) in numbers {
            highest = highest.max(number);
            formatted |= decision;
        }
        let known = self.laws.acts[p].known;
        if !formatted && highest < known {
            self.laws.breaks(p, || format!("formats slot {slot}, where nothing tells of claim {known}"));
        }
    }

    /// A running writer's superblock names nothing that is not real yet.
    fn judge_version(&mut self, p: usize, n: u64, s: &Superblock) {
        let acts = &self.laws.acts[p];
        let (clear, begin) = (acts.clear, acts.begin);
        if s.manifest >= begin && s.manifest >= clear {
            let manifest = s.manifest;
            self.laws.breaks(p, || format!("names the manifest at {manifest}, and VCL is {clear}"));
        }
        if let Join::At { at, by } = s.join
            && by == n
            && at > clear
        {
            self.laws.breaks(p, || format!("lets a slot join at {at}, and VCL is {clear}"));
        }
    }

    /// A slot that gives up its join point has everything of the epochs that are closed: from now on its silence counts.
    fn judge_whole(&mut self, p: usize, slot: Slot, s: &Superblock) {
        let files = &self.files[slot.index()];
        let joined = s.join == Join::Founder && newest_superblock(files).is_some_and(|old| old.join != Join::Founder);
        let Some(g) = self.laws.geometry.filter(|_| joined) else { return };
        // Damage since then is nobody's fault, and is found by a scrub.
        if self.atlas.hidden().contains(slot) {
            return;
        }
        let closed = s.history.entries().iter().filter(|e| e.end < Lsn::MAX);
        let lacks = |(at, mark): &(Lsn, Mark)| {
            let (name, offset) = FileName::segment_of(*at, g.pg_size);
            !self.laws.given_back.holds(*at) && !files.get(&name).is_some_and(|f| f.has(offset, *mark))
        };
        if let Some((at, _)) = closed.flat_map(|e| self.laws.sent(e.epoch, e.begin, e.end)).find(lacks) {
            self.laws.breaks(p, || format!("lets the silence of slot {slot} count, which lacks the block at {at}"));
        }
    }

    /// The first place of a decision: what must have come before, and what it says.
    fn judge_decision(&mut self, p: usize, n: u64, history: &History) {
        let acts = &self.laws.acts[p];
        let (claimed, read) = (if acts.number == n { acts.claimed.len() } else { 0 }, acts.read.len());
        if claimed < WRITE_QUORUM {
            self.laws.breaks(p, || format!("decides on {n}, which it has claimed on {claimed} slots"));
        } else if read < READ_QUORUM {
            self.laws.breaks(p, || format!("decides on {n}, and has read {read} slots since it claimed it"));
        }
        let entries = history.entries();
        let (Some(begin), Some(last)) = (entries.last().map(|e| e.begin), entries.iter().rev().nth(1).copied()) else {
            return;
        };
        if let Some(q) = self.laws.writer(last.epoch) {
            let acts = &mut self.laws.acts[q];
            acts.ended_clean |= acts.clean == Some(last.end);
        }
        let promised = !self.atlas.is_beyond() && self.atlas.is_promised(self.away());
        for q in 0..self.laws.acts.len() {
            let acts = &self.laws.acts[q];
            if q == p || acts.epoch == 0 || acts.epoch >= n || !(promised || history.contains_epoch(acts.epoch)) {
                continue;
            }
            // Of one further back its successor's decision was judged, and this one begins no lower.
            if acts.epoch != last.epoch && history.contains_epoch(acts.epoch) {
                continue;
            }
            let (epoch, sent) = (acts.epoch, acts.sent);
            let clean = acts.ended_clean;
            let least = if clean { sent } else { sent.max(history::reach(acts.clear)) };
            if begin < least && promised {
                self.laws.breaks(p, || {
                    format!(
                        "begins epoch {n} at {begin}, and epoch {epoch} has written to {sent} and may write to {least}"
                    )
                });
            }
        }
        self.judge_completion(p, last.epoch, last.begin, last.end);
    }

    /// What the decision closes is on four slots, durable.
    fn judge_completion(&mut self, p: usize, epoch: u64, begin: Lsn, end: Lsn) {
        let Some(q) = self.laws.writer(epoch).filter(|_| end > begin) else { return };
        let last = Lsn(end.0 - 1).floor(super::BLOCK as u64);
        let from = self.laws.acts[q].clear.min(last).max(begin);
        if let Some((at, on)) = self.short_of_copies(epoch, from, end, self.atlas.hurt()) {
            self.laws.breaks(p, || format!("closes epoch {epoch} at {end}, and {on} slots have its block at {at}"));
        }
    }

    /// The process takes its volume for open.
    pub(in crate::sim) fn judge_open(&mut self, p: usize, history: &History) {
        let (number, begin) = (history.last().epoch, history.last().begin);
        if self.laws.acts.iter().any(|a| a.epoch == number) {
            self.laws.breaks(p, || format!("opens epoch {number}, which another has opened"));
            self.laws.muddled = true;
        }
        let awake = self.awake();
        let acts = &mut self.laws.acts[p];
        (acts.epoch, acts.begin, acts.clear, acts.moved) = (number, begin, begin, [awake; 2]);
        acts.opened = Some(history.clone());
        acts.runs = [(begin, begin); SLOTS];
        let (decided, looked) = (acts.has_decided().len(), acts.looked.len());
        if decided < WRITE_QUORUM {
            self.laws.breaks(p, || format!("opens epoch {number}, and wrote its decision twice on {decided} slots"));
        } else if looked < READ_QUORUM {
            self.laws.breaks(p, || format!("opens epoch {number}, and looked at {looked} slots after its decision"));
        }
        if number == 1 {
            return;
        }
        let gone = |s: &Slot| matches!(self.weather[s.index()], Weather::Gone | Weather::Failing);
        let reach: Vec<Slot> = Slot::ALL.into_iter().filter(|s| !gone(s)).collect();
        let strays = |s: &Slot| newest_superblock(&self.files[s.index()]).is_some_and(|own| own.slot != *s);
        let votes = |s: &&Slot| {
            !matches!(self.laws.votes[s.index()], Vote::None)
                && self.laws.votes[s.index()] != Vote::From(p)
                && !strays(s)
        };
        let voters = reach.iter().filter(votes).count();
        if voters < READ_QUORUM {
            self.laws.breaks(p, || format!("opens epoch {number} by the word of {voters} slots that can remember"));
        }
        let previous = history.entries().iter().rev().nth(1).map_or(0, |e| e.epoch);
        let sound = |s: &&Slot| !self.atlas.hurt().contains(**s) && !self.laws.acts[p].failed.contains(**s);
        for slot in reach.iter().filter(sound).copied().collect::<Vec<_>>() {
            self.judge_choice(p, slot, previous, number);
        }
        for slot in reach {
            self.judge_forgotten(p, slot, previous, begin);
        }
    }

    /// On a slot whose newest decision is damaged the log tells of that epoch: nobody begins where it did, or an extent
    /// before.
    fn judge_forgotten(&mut self, p: usize, slot: Slot, previous: u64, begin: Lsn) {
        let acts = &self.laws.acts[p];
        let read = acts.calm && acts.read.contains(slot) && !acts.failed.contains(slot);
        let Some(g) = self.laws.geometry.filter(|_| read) else { return };
        let own = newest_superblock(&self.files[slot.index()]);
        if own.is_none_or(|s| s.geometry.volume != g.volume || s.slot != slot) {
            return;
        }
        for q in 0..p {
            let (epoch, at) = (self.laws.acts[q].epoch, self.laws.acts[q].begin);
            let Some(mark) = self.laws.blocks.get(&(epoch, at)).copied() else { continue };
            let (name, offset) = FileName::segment_of(at, g.pg_size);
            if epoch > previous
                && (at == begin || at == begin + format::EXTENT)
                && self.files[slot.index()].get(&name).is_some_and(|f| f.has(offset, mark))
            {
                self.laws.breaks(p, || {
                    format!("begins at {begin} by decision {previous}, and slot {slot} has epoch {epoch} at {at}")
                });
            }
        }
    }

    /// Nothing that the slot tells is newer than what was chosen: neither a decision nor a group.
    fn judge_choice(&mut self, p: usize, slot: Slot, previous: u64, number: u64) {
        let found = self.laws.acts[p].found[slot.index()];
        if found > previous && found < number {
            let file = self.files[slot.index()].get(&FileName::Epoch(found));
            let bytes = file.and_then(|f| f.read(0, 2 * PLACE)).unwrap_or_default();
            if Superblock::newest(&bytes).is_ok_and(|s| s.number == found) {
                self.laws.breaks(p, || format!("chose decision {previous}, though slot {slot} has {found}"));
            }
        }
        if !self.laws.acts[p].calm {
            return;
        }
        let Some(g) = self.laws.geometry else { return };
        for q in 0..p {
            let (epoch, begin) = (self.laws.acts[q].epoch, self.laws.acts[q].begin);
            let mark = self.laws.blocks.get(&(epoch, begin)).copied();
            let (name, offset) = FileName::segment_of(begin, g.pg_size);
            if epoch > previous
                && let Some(mark) = mark
                && self.files[slot.index()].get(&name).is_some_and(|f| f.has(offset, mark))
            {
                self.laws.breaks(p, || {
                    format!("chose decision {previous}, though slot {slot} has a group of epoch {epoch}")
                });
            }
        }
    }

    /// A reader takes the decision, and all up to `settled`, for certain.
    pub fn judge_reader(&mut self, p: usize, decision: u64, epoch: u64, settled: Lsn, decided: bool) {
        let writer = self.laws.writer(epoch);
        let on = |d: u64| self.files.iter().filter(|f| f.contains_key(&FileName::Epoch(d))).count();
        let written = self.laws.acts.iter().filter(|a| a.number == decision).map(|a| a.has_decided().len()).max();
        let opened = self.laws.writer(decision).is_some();
        if decided && !opened && on(decision).max(written.unwrap_or(0)) < WRITE_QUORUM {
            self.laws.breaks(p, || format!("takes decision {decision} for certain, which is not on four slots"));
        }
        let Some(q) = writer.filter(|q| settled > self.laws.acts[*q].clear) else { return };
        let clear = self.laws.acts[q].clear;
        if self.laws.acts[p].asked.len() < READ_QUORUM {
            self.laws.breaks(p, || format!("takes {settled} for certain, and did not look for a claim"));
        }
        if let Some((at, on)) = self.short_of_copies(epoch, clear, settled, SlotSet::NONE) {
            self.laws.breaks(p, || format!("takes {settled} for certain, and {on} slots have the block at {at}"));
        }
    }
}
