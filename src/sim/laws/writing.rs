//! The laws of a writer: one write a slot, from its cursor; nothing real before a look; each block once, with one content.

use super::BLOCK;
use crate::core::WRITE_QUORUM;
use crate::disk::job::{Job, JobKind};
use crate::log::group;
use crate::log::record::{Kind, Record};
use crate::lsn::{Lsn, Slot, SlotSet, format};
use crate::repair::frame::Piece;
use crate::segment::name::FileName;
use crate::segment::tail;
use crate::sim::file::mark;
use crate::sim::world::{Bytes, Disks, Flying};
use std::collections::btree_map::Entry;
use std::time::Duration;

/// Of a jump of the clock a process may count so much as time in which it was there.
const JUMP_COUNTS: Duration = Duration::from_secs(3);
/// A frame is compared on a slot so often at most, within this time.
const COMPARED_MAX: u32 = 40;
const COMPARED_WITHIN: Duration = Duration::from_secs(1);
/// A look's answer may be on its way for so long.
const UNHEARD: Duration = Duration::from_secs(1);

impl Disks {
    /// The writer sends a stretch of the log to a slot.
    pub(in crate::sim) fn judge_log_write(&mut self, p: usize, slot: Slot, from: Lsn, bytes: &[u8]) {
        let Some(g) = self.laws.geometry else { return };
        let to = from + bytes.len() as u64;
        if self.flying.iter().any(|f| f.process == p && f.slot == slot && f.tell) {
            self.laws.breaks(p, || format!("has two writes out to slot {slot}, at {from}"));
        }
        if to.0 > from.floor(format::FRAME).0 + format::FRAME {
            self.laws.breaks(p, || format!("writes more than a frame, at {from}"));
        }
        let again = self.verifies_at(slot, from, g.pg_size, g.seed(), bytes);
        // Its successor may have mended what the zombie has still to send.
        let overtaken = self.laws.acts.iter().any(|a| a.epoch > self.laws.acts[p].epoch);
        if again && !overtaken && !self.atlas.hurt().contains(slot) {
            self.laws.breaks(p, || format!("writes slot {slot} again at {from}, where it verifies"));
        }
        let under = self.zeroed(p, slot).find(|range| range.start < to && from < range.end).map(|range| range.start);
        if let Some(at) = under {
            self.laws.breaks(p, || format!("writes slot {slot} at {from}, which is being zeroed from {at} on"));
        }
        let acts = &mut self.laws.acts[p];
        let (clear, epoch, run) = (acts.clear, acts.epoch, acts.runs[slot.index()]);
        acts.sent = acts.sent.max(to);
        if let Some(end) = acts.clean
            && to > end.ceil(g.block())
        {
            self.laws.breaks(p, || format!("writes up to {to}, behind its clean mark at {end}"));
        }
        if to > clear + format::LAL {
            self.laws.breaks(p, || format!("writes up to {to}, more than a LAL beyond {clear}"));
        }
        if from != run.1 {
            // After a gap the cursor is VDL's group, or behind what was read back.
            if from > clear {
                self.laws.breaks(p, || format!("writes slot {slot} at {from}, which has {run:?} only; VCL is {clear}"));
            }
            self.laws.acts[p].runs[slot.index()] = (from, from);
        }
        self.judge_blocks(p, epoch, from, bytes, clear, g.seed());
    }

    /// What a worker of the process is to zero on a slot.
    fn zeroed(&self, p: usize, slot: Slot) -> impl Iterator<Item = std::ops::Range<Lsn>> {
        self.processes[p].jobs.iter().filter(move |(s, _)| *s == slot).filter_map(|(_, job)| match job {
            Job::Zero { from, to, .. } => Some(*from..*to),
            _ => None,
        })
    }

    /// Zeros lie behind everything that was written, where the next epoch will not begin.
    pub(in crate::sim) fn judge_zeroing(&mut self, p: usize, slot: Slot, name: FileName, offset: u64, len: usize) {
        let (Some(g), FileName::Segment(pg)) = (self.laws.geometry, name) else { return };
        self.counts.zeroed += 1;
        let from = Lsn(pg * g.pg_size + offset);
        let to = from + len as u64;
        let clear = self.laws.acts[p].clear;
        if to > (clear + format::LAL).ceil(format::EXTENT) {
            self.laws.breaks(p, || format!("zeroes slot {slot} up to {to}, beyond the reach of {clear}"));
        }
        let flies = |f: &&Flying| f.process == p && f.slot == slot && f.name == name && f.tell;
        let hits = |f: &Flying| f.offset < offset + len as u64 && offset < f.offset + f.bytes.with(<[u8]>::len) as u64;
        if self.flying.iter().filter(flies).any(hits) {
            self.laws.breaks(p, || format!("zeroes slot {slot} at {from} under a write"));
        }
        let file = self.files_of(p, slot).0.and_then(|files| files.get(&name));
        let whole = |at: &u64| {
            let block = file.and_then(|f| f.block(offset + at)).unwrap_or_default();
            group::decode_header(block, from + *at, g.seed()).is_ok()
        };
        let mut blocks = (0..len as u64).step_by(BLOCK);
        if let Some(at) = blocks.find(whole).map(|at| from + at) {
            self.laws.breaks(p, || format!("zeroes slot {slot} at {at}, where a group begins"));
        }
    }

    /// A block has one content for ever, and what it says of VDL is true.
    fn judge_blocks(&mut self, p: usize, epoch: u64, from: Lsn, bytes: &[u8], clear: Lsn, seed: u32) {
        let judged = &self.laws.judged;
        if (judged.0, judged.1) == (epoch, from) && judged.2 == bytes {
            return;
        }
        let mut fresh = None;
        for (i, block) in bytes.chunks(BLOCK).enumerate() {
            let at = from + (i * BLOCK) as u64;
            let mark = mark(block);
            match self.laws.blocks.entry((epoch, at)) {
                Entry::Vacant(v) => {
                    v.insert(mark);
                    fresh = fresh.or(Some(i * BLOCK));
                }
                Entry::Occupied(o) if *o.get() == mark => (),
                Entry::Occupied(_) => {
                    self.laws.breaks(p, || format!("writes other bytes into the block of epoch {epoch} at {at}"));
                }
            }
        }
        let mut pos = fresh.unwrap_or(bytes.len());
        while pos < bytes.len() {
            let at = from + pos as u64;
            let mut manifest = None;
            let mut take = |r: Record<'_>| {
                if r.fields.kind == Kind::Manifest {
                    manifest = Some((r.lsn, r.payload.to_vec()));
                }
            };
            let verified = group::verify(&bytes[pos..], at, seed, &mut take);
            if let Some((lsn, payload)) = manifest {
                self.manifest_sent(p, lsn, &payload);
            }
            match verified {
                Ok(sum) if sum.header.epoch == epoch && sum.vdl <= clear => pos += sum.header.len as usize,
                Ok(sum) => {
                    let (theirs, vdl) = (sum.header.epoch, sum.vdl);
                    return self.laws.breaks(p, || {
                        format!("of epoch {epoch} writes at {at} one of epoch {theirs}, VDL {vdl}; looks were clear to {clear}")
                    });
                }
                Err(broken) => {
                    return self.laws.breaks(p, || format!("writes at {at} what does not verify: {}", broken.fault));
                }
            }
        }
        let judged = &mut self.laws.judged;
        (judged.0, judged.1) = (epoch, from);
        judged.2.clear();
        judged.2.extend_from_slice(bytes);
    }

    /// The slot holds, at this address, the whole group with which the bytes begin.
    fn verifies_at(&self, slot: Slot, at: Lsn, pg_size: u64, seed: u32, bytes: &[u8]) -> bool {
        let (name, offset) = FileName::segment_of(at, pg_size);
        let Some(file) = self.files[slot.index()].get(&name) else { return false };
        let same =
            |from: usize| file.block(offset + from as u64).is_some_and(|b| bytes.get(from..from + BLOCK) == Some(b));
        same(0) && group::decode_header(bytes, at, seed).is_ok_and(|h| (0..h.len as usize).step_by(BLOCK).all(same))
    }

    /// What lands is what was sent: its memory was not used again.
    pub(in crate::sim) fn judge_landing(&mut self, p: usize, from: Lsn, bytes: &[u8]) {
        let epoch = self.laws.acts[p].epoch;
        let sent = self.laws.blocks.get(&(epoch, from)).copied();
        if sent.is_some_and(|sent| Some(sent) != bytes.get(..BLOCK).map(mark)) {
            self.laws.breaks(p, || format!("has other bytes in the frame at {from} than it sent"));
        }
    }

    /// The process will be told that its write is durable.
    pub(in crate::sim) fn told(&mut self, p: usize, slot: Slot, bytes: &Bytes) {
        if let Bytes::Frame { from, len, .. } = bytes {
            let run = &mut self.laws.acts[p].runs[slot.index()];
            if *from == run.1 {
                run.1 = *from + *len as u64;
            }
        }
    }

    /// The process will be told that its write failed.
    pub(in crate::sim) fn told_of_failure(&mut self, p: usize, slot: Slot) {
        self.laws.acts[p].unvouched.insert(slot);
    }

    /// The slot was read back, and verifies up to here; or it was not.
    pub(in crate::sim) fn read_back(&mut self, p: usize, slot: Slot, verified: Option<(Lsn, Lsn)>) {
        let acts = &mut self.laws.acts[p];
        acts.unvouched.insert(slot);
        if let Some(run) = verified {
            acts.runs[slot.index()] = run;
        }
    }

    /// A look begins. Beyond what was vouched for, four slots have what it is for.
    pub(in crate::sim) fn look_begins(&mut self, p: usize, quorum: Lsn) {
        self.laws.acts[p].asks_to_punch = self.laws.given_back.clone();
        let acts = &self.laws.acts[p];
        let on = acts.runs.iter().filter(|r| r.1 >= quorum).count();
        if quorum > acts.clear && on < WRITE_QUORUM {
            self.laws.breaks(p, || format!("takes {quorum} for a quorum, and {on} slots have it"));
        }
    }

    /// The look found no higher claim.
    pub(in crate::sim) fn look_is_clear(&mut self, p: usize, quorum: Lsn) {
        let awake = self.awake();
        let acts = &mut self.laws.acts[p];
        if quorum > acts.clear {
            // Of moves that follow on each other the process may have heard of none.
            let before = if awake < acts.moved[0] + UNHEARD { acts.moved[1] } else { acts.moved[0] };
            (acts.clear, acts.moved) = (quorum, [awake, before]);
        }
        acts.unvouched = SlotSet::NONE;
        acts.unlooked.clear();
        acts.may_punch = std::mem::take(&mut acts.asks_to_punch);
    }

    /// A worker of the process begins or ends mending.
    pub(in crate::sim) fn mends(&mut self, p: usize, mends: bool) {
        self.laws.acts[p].mends = mends;
    }

    /// How far the process may acknowledge.
    pub fn vouched(&self, p: usize) -> Lsn {
        self.laws.acts[p].clear
    }

    /// The process was there for so long at most since its VCL moved. It may not have heard yet of the last look.
    pub fn stood_still(&self, p: usize) -> Duration {
        let (awake, [last, before]) = (self.awake(), self.laws.acts[p].moved);
        let moved = if awake < last + UNHEARD { before } else { last };
        awake.saturating_sub(moved) + JUMP_COUNTS * self.laws.jumps
    }

    /// A job goes to a slot's worker.
    pub(in crate::sim) fn judge_job(&mut self, p: usize, slot: Slot, job: &Job) {
        let kind = job.kind();
        if self.processes[p].jobs.iter().any(|(s, j)| *s == slot && j.kind() == kind) {
            self.laws.breaks(p, || format!("has two jobs out to slot {slot}: {kind:?}"));
        }
        if kind == JobKind::Rejoin && self.laws.acts[p].unvouched.contains(slot) {
            self.laws.breaks(p, || format!("brings slot {slot} back without a look"));
        }
        match job {
            Job::Copy { part, .. } => self.judge_compare(p, slot, part.from.floor(format::FRAME)),
            Job::Mend { pieces, .. } => self.judge_mend(p, slot, pieces),
            Job::Free { runs, .. } => self.judge_free(p, slot, runs),
            _ => (),
        }
        if kind == JobKind::Rejoin && self.zeroed(p, slot).next().is_some() {
            self.laws.breaks(p, || format!("brings slot {slot} back while it is being zeroed"));
        }
        if let Job::Super { superblock, .. } = job
            && let Some(end) = superblock.clean
        {
            if let Some(out) = Slot::ALL.into_iter().find(|s| self.zeroed(p, *s).next().is_some()) {
                self.laws.breaks(p, || format!("marks its log clean though slot {out} is being zeroed"));
            }
            if let Some(f) = self.flying.iter().find(|f| f.process == p && f.tell) {
                let out = f.slot;
                self.laws.breaks(p, || format!("marks its log clean though slot {out} has a write out"));
            }
            self.laws.acts[p].clean = Some(end);
        }
    }

    /// A frame is to be compared: what nobody has is not asked for again and again.
    fn judge_compare(&mut self, p: usize, slot: Slot, frame: Lsn) {
        let awake = self.awake();
        let acts = &mut self.laws.acts[p];
        acts.unlooked.insert(frame);
        let (times, begun) = acts.compared.entry((slot, frame)).or_insert((0, awake));
        if awake >= *begun + COMPARED_WITHIN {
            (*times, *begun) = (0, awake);
        }
        *times += 1;
        let times = *times;
        if times > COMPARED_MAX {
            self.laws.breaks(p, || format!("compares the frame at {frame} on slot {slot} {times} times in a second"));
        }
    }

    /// What is mended was found lacking before a look that was clear.
    fn judge_mend(&mut self, p: usize, slot: Slot, pieces: &[Piece]) {
        let unlooked = |piece: &&Piece| self.laws.acts[p].unlooked.contains(&piece.at.floor(format::FRAME));
        if let Some(at) = pieces.iter().find(unlooked).map(|piece| piece.at) {
            self.laws.breaks(p, || format!("mends slot {slot} at {at} without a look"));
        }
    }

    /// Somebody puts bytes into a segment who is no writer of the log: a merge, or repair.
    pub(in crate::sim) fn judge_merge(
        &mut self,
        p: usize,
        slot: Slot,
        name: FileName,
        pg: u64,
        offset: u64,
        bytes: &[u8],
    ) {
        let Some(g) = self.laws.geometry else { return };
        let at = Lsn(pg * g.pg_size + offset);
        if self.laws.acts[p].epoch == 0 {
            self.laws.breaks(p, || format!("is not open, and writes slot {slot} at {at}"));
        }
        // Repair may run under late writes.
        if !self.laws.acts[p].mends {
            self.judge_alone(p, slot, name);
        }
        let known = FileName::Epoch(self.laws.acts[p].number);
        if self.laws.acts[p].mends && !self.files[slot.index()].contains_key(&known) {
            self.laws.breaks(p, || format!("mends slot {slot} at {at}, which has no superblock of its epoch"));
        }
        self.judge_copy(p, at, bytes, g.seed());
        // A read error that passes may have kept it from being seen; a merge has the tail file until what it wrote is durable.
        if !self.atlas.is_struck() && self.verifies_at(slot, at, g.pg_size, g.seed(), bytes) {
            self.laws.breaks(p, || format!("merges into slot {slot} at {at}, where it verifies"));
        }
    }

    /// What is copied begins within its epoch, as the process itself has decided.
    fn judge_within(&mut self, p: usize, epoch: u64, at: Lsn) {
        let Some(history) = &self.laws.acts[p].history else { return };
        let earlier = history.entries().first().is_some_and(|first| at < first.begin);
        if !earlier && !history.holds(epoch, at) {
            self.laws.breaks(p, || format!("copies a group of epoch {epoch} to {at}, where that epoch is not"));
        }
    }

    /// Earlier processes are gone, and what they had in flight to the file.
    pub(in crate::sim) fn judge_alone(&mut self, p: usize, slot: Slot, name: FileName) {
        if let Some(q) = (0..p).find(|q| self.is_alive(*q) && self.laws.acts[*q].number > 0) {
            self.laws.breaks(p, || format!("merges into slot {slot} beside p{q}"));
        }
        // Directories that were swapped take what is on its way with them.
        let held = self.held(p, slot);
        // One that was sent before anything was in the file may have been sent to none: it will not find this one.
        let finds = |f: &Flying| f.behind > 0 && !self.is_orphan(f);
        let theirs = |f: &&Flying| f.process < p && f.generation == held && f.name == name && finds(f);
        if let Some(f) = self.flying.iter().find(theirs) {
            let (q, offset) = (f.process, f.offset);
            self.laws.breaks(p, || format!("merges into slot {slot}, and p{q} has a write to {name} at {offset} out"));
        }
    }

    /// The groups of a tail file are as their writer sealed them.
    pub(in crate::sim) fn judge_tail(&mut self, p: usize, bytes: &[u8]) {
        let Some(g) = self.laws.geometry else { return };
        for (at, group) in tail::decode(bytes, g.volume).unwrap_or_default() {
            self.judge_copy(p, at, group, g.seed());
        }
    }

    fn judge_copy(&mut self, p: usize, at: Lsn, groups: &[u8], seed: u32) {
        let mut pos = 0;
        while pos < groups.len() {
            let at = at + pos as u64;
            let Ok(header) = group::decode_header(&groups[pos..], at, seed) else {
                return self.laws.breaks(p, || format!("copies what is no group, to {at}"));
            };
            let (epoch, end) = (header.epoch, groups.len().min(pos + header.len as usize));
            self.judge_within(p, epoch, at);
            for (i, block) in groups[pos..end].chunks(BLOCK).enumerate() {
                let at = at + (i * BLOCK) as u64;
                if self.laws.blocks.get(&(epoch, at)) != Some(&mark(block)) {
                    return self
                        .laws
                        .breaks(p, || format!("copies a block of epoch {epoch} to {at} that was not written so"));
                }
            }
            pos = end;
        }
    }

    /// A claim or a superblock goes: a newer superblock must stay beside it. A protection group goes: nobody needs it.
    pub(in crate::sim) fn judge_removal(&mut self, p: usize, slot: Slot, name: FileName) {
        if let (FileName::Segment(pg), Some(g)) = (name, self.laws.geometry)
            && let Some(begin) = FileName::begin_of(pg, g.pg_size)
        {
            self.judge_gone(p, slot, begin, begin + g.pg_size);
        }
        if let FileName::Epoch(n) | FileName::Claim(n) = name
            && self.files[slot.index()].contains_key(&name)
            && !self.files[slot.index()].keys().any(|k| matches!(k, FileName::Epoch(m) if *m > n))
        {
            self.laws.breaks(p, || format!("removes {name} from slot {slot}, which has nothing newer"));
        }
    }
}
