//! Verifying a volume: every record of every copy, the copies compared byte for byte, and the superblocks. It changes
//! nothing.
//!
//! Groups inside the epochs' entries are compared, up to what is settled; bytes between entries are nobody's. A copy is
//! `damaged` where something else stands in its place, `missing` where nothing does, and `differs` where it verifies
//! and yet is not what most others hold.

use crate::core::history::Entry;
use crate::disk::{Fleet, SlotDir, job};
use crate::log::record::Kind;
use crate::log::{group, record};
use crate::lsn::{Lsn, PageId, Slot, SlotSet};
use crate::page::read::Faults;
use crate::reclaim::freed::Freed;
use crate::segment::name::FileName;
use crate::segment::recover::Recovered;
use crate::segment::superblock::{self, Superblock};
use crate::segment::survey::Standing;
use crate::segment::walk::{Bad, Walk};
use crate::volume::error::{ReadError, SlotFault, SlotFaults};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

/// Differences that are listed; more are counted.
const LISTED: usize = 4096;
/// A slot that a running writer has not reached yet is read again after this time.
const AGAIN: Duration = Duration::from_millis(100);

/// How a slot's copy deviates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// Something else stands in its place, or it does not verify.
    Damaged,
    /// It verifies, and is not what most other slots hold.
    Differs,
    /// There is nothing.
    Missing,
}

impl fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DifferenceKind::Damaged => "damaged",
            DifferenceKind::Differs => "differs",
            DifferenceKind::Missing => "missing",
        })
    }
}

/// One deviation of one slot's copy; what follows on without a break is one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Difference {
    /// The slot.
    pub slot: Slot,
    /// The file, by its name in the slot's directory; empty if the slot as a whole is meant.
    pub file: String,
    /// The first address that is concerned; 0 for a superblock, a claim or a whole slot.
    pub lsn: Lsn,
    /// Behind the last address that is concerned.
    pub end: Lsn,
    /// How it deviates.
    pub kind: DifferenceKind,
    /// The page of the record there, where another copy tells it.
    pub page: Option<PageId>,
    /// What is wrong, in words.
    pub what: String,
}

/// What verifying a volume came to.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Verification {
    /// The log was verified up to here.
    pub settled: Lsn,
    /// Groups of the log.
    pub groups: u64,
    /// Records in them, fillers and nodes of the page table included.
    pub records: u64,
    /// Bytes of log that were read, of all copies together.
    pub bytes: u64,
    /// Pages that were read.
    pub pages: u64,
    /// Pages, or nodes of their table, that a writer has written anew meanwhile, and given back where they were: what is
    /// there now was not read.
    pub gone: u64,
    /// What deviates, in order of address.
    pub differences: Vec<Difference>,
    /// Pages that cannot be read, and why.
    pub unreadable: Vec<(PageId, ReadError)>,
    /// Deviations and unreadable pages beyond those listed.
    pub more: u64,
}

impl Verification {
    /// All six copies are whole and equal, and every page can be read.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty() && self.unreadable.is_empty() && self.more == 0
    }

    fn add(&mut self, d: Difference) {
        // The slot's last one goes on where it ended: there are six slots, so it is among the last few.
        let last = self.differences.iter_mut().rev().take(12).find(|l| l.slot == d.slot);
        if let Some(last) = last.filter(|l| (l.kind, l.end, &l.file) == (d.kind, d.lsn, &d.file) && !d.lsn.is_none()) {
            last.end = d.end;
        } else if self.differences.len() < LISTED {
            self.differences.push(d);
        } else {
            self.more += 1;
        }
    }

    /// A writer has given this back meanwhile.
    pub(crate) fn given_back(&mut self, freed: &Freed) {
        self.differences.retain_mut(|d| {
            let left = freed.trimmed(d.lsn, d.end);
            if let Some((from, to)) = left {
                (d.lsn, d.end) = (from, to);
            }
            d.lsn.is_none() || left.is_some()
        });
    }

    /// A page that cannot be read.
    pub(crate) fn cannot_read(&mut self, page: PageId, e: ReadError) {
        if self.unreadable.len() < LISTED {
            self.unreadable.push((page, e));
        } else {
            self.more += 1;
        }
    }
}

/// Verifies superblocks and log.
pub fn verify<F: Fleet>(fleet: &F, recovered: &Recovered, settled: Lsn) -> Verification {
    let mut found = Verification { settled, ..Verification::default() };
    for slot in Slot::ALL {
        let what = match &recovered.survey.standings[slot.index()] {
            Standing::Ours(_) => continue,
            Standing::Blank => "it is blank".to_string(),
            Standing::Fault(fault) => fault.to_string(),
        };
        found.add(Difference { what, ..whole_file(slot, String::new(), DifferenceKind::Missing) });
    }
    let slots = recovered.survey.ours();
    superblocks(fleet, slots, recovered.choice.decision.number, &mut found);
    let mut walk = Walk::new(fleet, recovered.survey.geometry, slots);
    let mut comparing = Comparing {
        walk: &mut walk,
        slots,
        seed: recovered.survey.geometry.seed(),
        block: recovered.survey.geometry.block(),
        pg_size: recovered.survey.geometry.pg_size,
        patient: true,
    };
    for entry in &recovered.kept() {
        let mut at = entry.begin;
        while at < entry.end.min(settled) {
            at = comparing.step(*entry, at, &mut found);
        }
    }
    found
}

fn whole_file(slot: Slot, file: String, kind: DifferenceKind) -> Difference {
    Difference { slot, file, lsn: Lsn::NONE, end: Lsn::NONE, kind, page: None, what: String::new() }
}

/// The newest decision and its claim on each slot: both places of the superblock.
fn superblocks<F: Fleet>(fleet: &F, slots: SlotSet, number: u64, found: &mut Verification) {
    let check = move |_: Slot, dir: &dyn SlotDir| {
        let wrong = on_slot(dir, number)?;
        // A running writer may have been in the midst of it.
        if wrong.is_empty() {
            Ok(wrong)
        } else {
            std::thread::sleep(AGAIN);
            on_slot(dir, number)
        }
    };
    let answers = fleet.each(slots, check);
    for slot in slots.iter() {
        let wrong = match &answers[slot.index()] {
            Some(Ok(wrong)) => wrong.clone(),
            Some(Err(e)) => vec![(FileName::Epoch(number), DifferenceKind::Missing, e.to_string())],
            None => Vec::new(),
        };
        for (name, kind, what) in wrong {
            found.add(Difference { what, ..whole_file(slot, name.to_string(), kind) });
        }
    }
}

/// What is wrong with a slot's decision and claim.
fn on_slot(dir: &dyn SlotDir, number: u64) -> io::Result<Vec<(FileName, DifferenceKind, String)>> {
    let mut wrong = Vec::new();
    let names = dir.list()?;
    let (epoch, claim) = (FileName::Epoch(number), FileName::Claim(number));
    // A newer epoch was opened meanwhile, and is tidying up behind itself.
    if names.iter().any(|n| matches!(n, FileName::Claim(n) | FileName::Epoch(n) if *n > number)) {
        return Ok(wrong);
    }
    if !names.contains(&claim) {
        wrong.push((claim, DifferenceKind::Missing, "the slot has no claim of the newest epoch".into()));
    }
    if !names.contains(&epoch) {
        wrong.push((epoch, DifferenceKind::Missing, "the slot has no superblock of the newest epoch".into()));
        return Ok(wrong);
    }
    let bytes = job::read_around(dir, epoch, 0, 2 * superblock::PLACE)?;
    for (place, at) in [(1, 0), (2, superblock::PLACE)] {
        if let Err(fault) = Superblock::decode(bytes.get(at..).unwrap_or_default()) {
            wrong.push((epoch, DifferenceKind::Damaged, format!("place {place} of two: {fault}")));
        }
    }
    Ok(wrong)
}

/// Compares group by group.
struct Comparing<'w, 'a, F> {
    walk: &'w mut Walk<'a, F>,
    slots: SlotSet,
    seed: u32,
    block: u64,
    pg_size: u64,
    /// Waits once for slots that a running writer has not reached.
    patient: bool,
}

impl<F: Fleet> Comparing<'_, '_, F> {
    /// The group at `at` on all slots. Returns where the next one begins.
    fn step(&mut self, entry: Entry, at: Lsn, found: &mut Verification) -> Lsn {
        found.bytes += self.walk.load(self.slots, at);
        let bad: SlotSet = self.slots.iter().filter(|s| self.walk.copy(*s, at, entry.epoch).is_err()).collect();
        if bad.len() > 0 {
            // The last groups may be on their way to a slot, and a read may have met a write.
            if self.patient && entry.end == Lsn::MAX {
                self.patient = false;
                std::thread::sleep(AGAIN);
            }
            bad.iter().for_each(|s| self.walk.forget(s));
            found.bytes += self.walk.load(bad, at);
        }
        let copies: Vec<_> = self.slots.iter().map(|s| (s, self.walk.copy(s, at, entry.epoch))).collect();
        let whole: Vec<&[u8]> = copies.iter().filter_map(|(_, c)| c.as_ref().ok()).map(|w| &*w.bytes).collect();
        // What most of them hold.
        let best = whole.iter().max_by_key(|a| whole.iter().filter(|b| *b == *a).count()).copied();
        let len = match best {
            Some(best) => best.len() as u64,
            None => copies.iter().find_map(|(_, c)| c.as_ref().err()?.len).unwrap_or(self.block),
        };
        let end = at + len;
        if let Some(best) = best {
            found.groups += 1;
            let _ = group::verify(best, at, self.seed, |_| found.records += 1);
        }
        for (slot, copy) in &copies {
            let (kind, name, from, what) = match copy {
                Ok(whole) if Some(&*whole.bytes) == best => continue,
                Ok(whole) => {
                    let same = whole.bytes.iter().zip(best.unwrap_or_default()).take_while(|(a, b)| a == b).count();
                    let what = "it verifies, but other slots hold other bytes".to_string();
                    (DifferenceKind::Differs, whole.name, at + same as u64, what)
                }
                Err(Bad { damaged, at: from, what, .. }) => {
                    let kind = if *damaged { DifferenceKind::Damaged } else { DifferenceKind::Missing };
                    (kind, FileName::segment_of(at, self.pg_size).0, (*from).min(end), what.clone())
                }
            };
            let (mut lsn, mut page) = (from, None);
            if kind != DifferenceKind::Missing
                && let Some(record) = best.and_then(|b| record_at(b, at, self.seed, from))
            {
                (lsn, page) = record;
            }
            // Nothing at all there: the whole group is missing.
            found.add(Difference { slot: *slot, file: name.to_string(), lsn, end, kind, page, what });
        }
        end
    }
}

/// The record of a whole group that holds `lsn`: its address, and its page.
fn record_at(group: &[u8], at: Lsn, seed: u32, lsn: Lsn) -> Option<(Lsn, Option<PageId>)> {
    let mut found = None;
    let each = |r: record::Record<'_>| {
        if r.lsn <= lsn && lsn < r.end() {
            let is_page = matches!(r.fields.kind, Kind::Image | Kind::Delta | Kind::Free);
            found = Some((r.lsn, is_page.then_some(PageId(r.fields.page))));
        }
    };
    group::verify(group, at, seed, each).ok()?;
    found
}

/// What a record of the log does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LogKind {
    /// The whole page.
    Image,
    /// Bytes of a page.
    Delta,
    /// The page is no more.
    Free,
    /// Nothing: the rest of a block.
    Filler,
    /// A node of the page table.
    Table,
    /// What a checkpoint wrote.
    Manifest,
}

impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogKind::Image => "image",
            LogKind::Delta => "delta",
            LogKind::Free => "free",
            LogKind::Filler => "filler",
            LogKind::Table => "table",
            LogKind::Manifest => "manifest",
        })
    }
}

/// One record of the log, as plain numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LogRecord {
    /// Where it stands.
    pub lsn: Lsn,
    /// Its bytes in the log, padding included.
    pub len: u64,
    /// The writer's epoch.
    pub epoch: u64,
    /// What it does.
    pub kind: LogKind,
    /// Its page; none for what concerns no page.
    pub page: Option<PageId>,
    /// Of a delta: where in the page it begins.
    pub offset: u32,
    /// Bytes of its payload.
    pub payload: usize,
    /// The page's record before it; 0 where there is none.
    pub prev: Lsn,
    /// The image that it stands on; 0 where it is not known.
    pub base: Lsn,
    /// Deltas between it and that image; of a table node its level.
    pub depth: u8,
    /// It ends an MTR: the raw wall clock (µs since 1970) and the VDL known then.
    pub cpl: Option<(u64, Lsn)>,
}

impl LogRecord {
    fn of(r: &record::Record<'_>) -> LogRecord {
        let kind = match r.fields.kind {
            Kind::Image => LogKind::Image,
            Kind::Delta => LogKind::Delta,
            Kind::Free => LogKind::Free,
            Kind::Filler => LogKind::Filler,
            Kind::Table => LogKind::Table,
            Kind::Manifest => LogKind::Manifest,
        };
        let is_page = matches!(kind, LogKind::Image | LogKind::Delta | LogKind::Free);
        LogRecord {
            lsn: r.lsn,
            len: r.len,
            epoch: r.epoch,
            kind,
            page: is_page.then_some(PageId(r.fields.page)),
            offset: r.fields.offset,
            payload: r.payload.len(),
            prev: r.fields.prev,
            base: r.fields.base,
            depth: r.fields.depth,
            cpl: r.cpl.map(|c| (c.wall_us, c.vdl)),
        }
    }
}

/// Hands the records from `from` to `to` to `each`, in order. Where no slot has a good copy it gets one error, and the
/// log goes on behind.
pub fn log<F: Fleet>(
    fleet: &F,
    recovered: &Recovered,
    from: Lsn,
    to: Lsn,
    each: &mut impl FnMut(Result<LogRecord, ReadError>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let geometry = recovered.survey.geometry;
    let slots = recovered.survey.ours();
    let mut walk = Walk::new(fleet, geometry, slots);
    for entry in &recovered.kept() {
        // No group crosses a frame, so one begins where a frame does.
        let mut at = entry.begin.max(from.floor(crate::lsn::format::FRAME));
        let end = entry.end.min(to);
        let mut in_hole = false;
        while at < end {
            let mut faults: Faults = Vec::new();
            let mut behind = at + geometry.block();
            for slot in slots.iter() {
                walk.load(SlotSet::NONE.with(slot), at);
                let fault = match walk.copy(slot, at, entry.epoch) {
                    Ok(whole) => {
                        let mut flow = ControlFlow::Continue(());
                        let mut said = |r: record::Record<'_>| {
                            if flow.is_continue() && r.end() > from && r.lsn < end {
                                flow = each(Ok(LogRecord::of(&r)));
                            }
                        };
                        let _ = group::verify(&whole.bytes, at, geometry.seed(), &mut said);
                        flow?;
                        behind = at + whole.bytes.len() as u64;
                        faults.clear();
                        in_hole = false;
                        break;
                    }
                    Err(bad) if bad.damaged => SlotFault::Damaged(bad.what),
                    Err(_) => SlotFault::NoCopy,
                };
                faults.push((slot, fault));
            }
            if !faults.is_empty() && !in_hole {
                in_hole = true;
                each(Err(ReadError::Lost { page: PageId::ROOT, lsn: at, slots: SlotFaults(faults) }))?;
            }
            at = behind;
        }
    }
    ControlFlow::Continue(())
}
