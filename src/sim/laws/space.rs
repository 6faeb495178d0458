//! The laws of giving space back: what is punched was given back by a manifest that four superblocks named, and by whoever
//! looked after that; and nothing is put there again.

use crate::core::WRITE_QUORUM;
use crate::lsn::{Lsn, Slot};
use crate::page::manifest::Manifest;
use crate::reclaim::freed::{Freed, Run, bytes_in};
use crate::segment::name::FileName;
use crate::segment::superblock::Superblock;
use crate::sim::world::Disks;

impl Disks {
    /// A manifest was sent: who opens next must be able to read it.
    pub(super) fn manifest_sent(&mut self, p: usize, at: Lsn, payload: &[u8]) {
        match Manifest::decode(payload) {
            Some(manifest) => drop(self.laws.manifests.insert(at, manifest.freed)),
            None => self.laws.breaks(p, || format!("writes a manifest at {at} that is none")),
        }
    }

    /// A slot has a superblock that names a manifest.
    pub(super) fn manifest_named(&mut self, slot: Slot, s: &Superblock) {
        let Some(freed) = self.laws.manifests.get(&s.manifest).filter(|f| !f.runs().is_empty()) else { return };
        let named = self.laws.named.entry(s.manifest).or_default();
        let before = named.len();
        named.insert(slot);
        if before < WRITE_QUORUM && named.len() >= WRITE_QUORUM {
            freed.runs().iter().for_each(|run| self.laws.given_back.add(*run));
        }
    }

    /// Punching begins: a look that was begun after these were given back was clear.
    pub(super) fn judge_free(&mut self, p: usize, slot: Slot, runs: &[Run]) {
        let acts = &self.laws.acts[p];
        let Some(history) = acts.opened.clone() else { return };
        let kept = acts.may_punch.kept(&history);
        if let Some(run) = runs.iter().find(|r| bytes_in(&kept, r.from, r.to) > 0) {
            let (from, to) = (run.from, run.to);
            self.laws.breaks(p, || format!("gives back {from} to {to} on slot {slot} without a look"));
        }
    }

    /// A range of a file is punched.
    pub(in crate::sim) fn judge_punch(&mut self, p: usize, slot: Slot, name: FileName, offset: u64, len: u64) {
        let (FileName::Segment(pg), Some(g)) = (name, self.laws.geometry) else { return };
        let Some(from) = FileName::begin_of(pg, g.pg_size).map(|begin| begin + offset) else { return };
        self.judge_gone(p, slot, from, from + len);
        let Some(history) = &self.laws.acts[p].opened else { return };
        self.counts.punched_own += u64::from(from + len > history.last().begin);
        // What no epoch holds is given back by a merge, which waits for what is in flight.
        if bytes_in(history.entries(), from, from + len) == 0 && !self.laws.given_back.touches(from, from + len) {
            self.judge_alone(p, slot, name);
        }
    }

    /// Nobody needs what lies there any more.
    pub(super) fn judge_gone(&mut self, p: usize, slot: Slot, from: Lsn, to: Lsn) {
        let Some(history) = self.laws.acts[p].opened.clone() else {
            return self.laws.breaks(p, || format!("is not open, and punches slot {slot} from {from}"));
        };
        if bytes_in(&self.laws.given_back.kept(&history), from, to) > 0 {
            self.laws.breaks(p, || format!("punches slot {slot} from {from} to {to}, which was not given back"));
        }
    }

    /// Another has opened a later epoch.
    pub fn is_overtaken(&self, p: usize) -> bool {
        self.laws.acts.iter().any(|a| a.epoch > self.laws.acts[p].epoch)
    }

    /// What was given back until now.
    pub fn given_back(&self) -> &Freed {
        &self.laws.given_back
    }
}
