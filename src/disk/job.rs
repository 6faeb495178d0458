//! Blocking work for one slot beside the log writes: superblocks, claims, space, reading back.

use crate::bugs::{Bug, planted};
use crate::core::gaps::Gap;
use crate::core::history::History;
use crate::core::vote::Join;
use crate::core::writer::RejoinRead;
use crate::disk::SlotDir;
use crate::log::group;
use crate::lsn::{Lsn, format};
use crate::reclaim::freed::Run;
use crate::repair::frame::{self, Copy, Part, Piece};
use crate::segment::doubt;
use crate::segment::name::FileName;
use crate::segment::superblock::{self, Geometry, Places, SuperFault, Superblock};
use crate::segment::tail;
use crate::volume::error::SlotFault;
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// What a slot's worker is asked to do.
pub enum Job {
    /// Take space for the addresses, creating segments as needed.
    Allocate { from: Lsn, to: Lsn, pg_size: u64, epoch: u64 },
    /// Write zeros over space that was taken, durably.
    Zero { from: Lsn, to: Lsn, pg_size: u64, epoch: u64 },
    /// Write the next version of this epoch's superblock; of a slot that is `whole` without its join point.
    Super { superblock: Box<Superblock>, whole: bool },
    /// The highest claim on the slot of this volume.
    Claims(Uuid),
    /// Bring the slot up to the newest claim and decision, and read back what was sent to it.
    /// `stale`: it may hold an older state than it did.
    Rejoin { read: RejoinRead, superblock: Box<Superblock>, stale: bool },
    /// Put the groups of tail files into the segments, and give back the space that recovery left unused. Earlier writes
    /// are waited for there, and wherever the slot may lack something.
    Merge { geometry: Geometry, history: History, unused: (Lsn, Lsn), doubted: Vec<Gap> },
    /// Take the space that is given back when the disk is full.
    Reserve,
    /// Remove claims, epochs below this number: they were decided past.
    Tidy { below: u64 },
    /// Which groups of a part verify; with their bytes if it is to `keep` them, durable with `flush`.
    Copy { part: Part, geometry: Geometry, keep: bool, flush: bool },
    /// Put groups in that do not verify there.
    Mend { pieces: Vec<Piece>, geometry: Geometry, epoch: u64 },
    /// Give these extents' space back, and remove protection groups of which nothing is left.
    Free { runs: Vec<Run>, all: Vec<Run>, geometry: Geometry, epoch: u64 },
    /// Is this epoch's superblock good in both places, and the claim there? Writes them anew if not.
    Marks(Box<Superblock>),
}

/// A job's kind: at most one of each is outstanding to a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobKind {
    Allocate,
    Zero,
    Super,
    Claims,
    Rejoin,
    Merge,
    Reserve,
    Tidy,
    Copy,
    Mend,
    Marks,
    Free,
}

impl JobKind {
    pub const COUNT: usize = 12;
}

impl Job {
    pub fn kind(&self) -> JobKind {
        match self {
            Job::Allocate { .. } => JobKind::Allocate,
            Job::Zero { .. } => JobKind::Zero,
            Job::Super { .. } => JobKind::Super,
            Job::Claims(_) => JobKind::Claims,
            Job::Rejoin { .. } => JobKind::Rejoin,
            Job::Merge { .. } => JobKind::Merge,
            Job::Reserve => JobKind::Reserve,
            Job::Tidy { .. } => JobKind::Tidy,
            Job::Copy { .. } => JobKind::Copy,
            Job::Mend { .. } => JobKind::Mend,
            Job::Marks(_) => JobKind::Marks,
            Job::Free { .. } => JobKind::Free,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Output {
    Allocated(Lsn),
    Zeroed,
    Super,
    Claims(u64),
    Returned(Box<Returned>),
    Merged,
    Reserved,
    Tidied,
    /// What was found of the part that begins there.
    Copied(Lsn, Copy),
    /// So many bytes were written.
    Mended(u64),
    /// Whether anything had to be written.
    Marks(bool),
    Freed,
}

/// A slot that can come back.
#[derive(Debug)]
pub struct Returned {
    /// Groups verify, and are flushed, up to here.
    pub verified: Lsn,
    pub join: Join,
    /// By its own superblock, beyond what it missed while it was away.
    pub lacks: Vec<Gap>,
    /// The segment that is written next is not there: what was allocated in it is gone with it.
    pub no_space: bool,
}

/// A protection group's file is made when space is taken so far below it.
const AHEAD: u64 = 16 << 20;
/// What a block of the log that cannot be read counts as: bytes that nobody writes. Zeros may be what stood there.
const UNREADABLE: [u8; format::BLOCK_MIN as usize] = {
    let (text, mut block, mut i) = (b"this block cannot be read\n", [0; format::BLOCK_MIN as usize], 0);
    while i < block.len() {
        block[i] = text[i % text.len()];
        i += 1;
    }
    block
};
const ZEROS: [u8; format::BLOCK_MIN as usize] = [0; format::BLOCK_MIN as usize];
/// Bytes of the file that is removed when a full disk keeps a volume from opening.
const RESERVE: u64 = 256 << 10;
/// Blocks that are read, at most, to find out whose files without a superblock are.
pub const PROBES: usize = 256;

/// So many segments at most are looked through for anything that is not ours; a young slot has few.
const EMPTY_MAX: usize = 4;

/// Does a job. After an error what is read next is what the disk has.
pub fn run(dir: &dyn SlotDir, job: Job) -> io::Result<Output> {
    run_by(dir, job, None)
}

/// ... where groups are found in a frame by others' means.
pub fn run_by(dir: &dyn SlotDir, job: Job, find: Option<frame::Find<'_>>) -> io::Result<Output> {
    let output = carry_out(dir, job, find);
    if output.is_err() && !planted(Bug::CacheTrusted) {
        dir.read_anew();
    }
    output
}

fn carry_out(dir: &dyn SlotDir, job: Job, find: Option<frame::Find<'_>>) -> io::Result<Output> {
    match job {
        Job::Allocate { from, to, pg_size, epoch } => {
            // A blank directory in the slot's place is formatted by a rejoin before it gets a segment.
            let names = dir.list()?;
            if !names.contains(&FileName::Epoch(epoch)) {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the slot has lost its superblock"));
            }
            // An open gave it up for the room that it needed: it comes back before the log takes more, for the next open.
            if !names.contains(&FileName::Reserve) {
                dir.allocate(FileName::Reserve, 0, RESERVE)?;
            }
            let mut at = from;
            while at < to {
                let (name, offset) = FileName::segment_of(at, pg_size);
                let len = (to - at).min(pg_size - offset);
                dir.allocate(name, offset, len)?;
                at = at + len;
            }
            // The next group's file is made long before its first space is taken: a directory takes longer to write.
            let next = FileName::segment_of(to + AHEAD, pg_size).0;
            if next > FileName::segment_of(Lsn(to.0 - 1), pg_size).0 && !names.contains(&next) {
                match dir.create_new(next) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (),
                    made => made?,
                }
            }
            Ok(Output::Allocated(to))
        }
        Job::Zero { from, to, pg_size, epoch } => {
            let (name, offset) = FileName::segment_of(from, pg_size);
            let names = dir.list()?;
            // Whatever is in the slot's place now has no space that this epoch took.
            if !names.contains(&FileName::Epoch(epoch)) || !names.contains(&name) {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the slot has lost its segment or superblock"));
            }
            // Who took over may have put there what this writer did not write on the slot: it has claimed the slot before.
            let taken = |n: &FileName| matches!(n, FileName::Claim(claim) if *claim > epoch);
            if names.iter().any(taken) && !planted(Bug::ZeroUnderClaim) {
                return Err(io::ErrorKind::Unsupported.into());
            }
            dir.zero(name, offset, (to - from) as usize)?;
            Ok(Output::Zeroed)
        }
        Job::Super { superblock, whole } => next_version(dir, *superblock, whole).map(|()| Output::Super),
        Job::Claims(volume) => claim_of(dir, volume).map(Output::Claims),
        Job::Rejoin { read, superblock, stale } => {
            rejoin(dir, read, *superblock, stale).map(|returned| Output::Returned(Box::new(returned)))
        }
        Job::Merge { geometry, history, unused, doubted } => {
            merge(dir, &geometry, &history, unused, &doubted).map(|()| Output::Merged)
        }
        Job::Reserve => {
            if !dir.list()?.contains(&FileName::Reserve) {
                dir.allocate(FileName::Reserve, 0, RESERVE)?;
            }
            Ok(Output::Reserved)
        }
        Job::Tidy { below } => tidy(dir, below).map(|()| Output::Tidied),
        Job::Copy { part, geometry, keep, flush } => {
            let copy = match find {
                Some(find) => frame::read_by(dir, &part, &geometry, keep, flush, find)?,
                None => frame::read(dir, &part, &geometry, keep, flush)?,
            };
            Ok(Output::Copied(part.from, copy))
        }
        Job::Mend { pieces, geometry, epoch } => frame::write(dir, &pieces, &geometry, epoch).map(Output::Mended),
        Job::Marks(superblock) => marks(dir, *superblock).map(Output::Marks),
        Job::Free { runs, all, geometry, epoch } => free(dir, &runs, &all, &geometry, epoch).map(|()| Output::Freed),
    }
}

/// What stands in the two places of a superblock's file.
pub fn read_super(dir: &dyn SlotDir, name: FileName) -> io::Result<Places> {
    let bytes = read_whole(dir, name, 2 * superblock::PLACE)?;
    Ok(dir.places(name, &bytes).unwrap_or_else(|| Superblock::places(&bytes)))
}

/// Writes a superblock's next version into both places, one after the other.
pub fn write_super(dir: &dyn SlotDir, superblock: &Superblock) -> io::Result<()> {
    let name = FileName::Epoch(superblock.number);
    let (first, newest) = Superblock::next_place(&read_super(dir, name)?);
    let version = newest.max(superblock.version) + 1;
    let bytes = Superblock { version, ..superblock.clone() }.encode().map_err(io::Error::other)?;
    for at in [first, superblock::PLACE - first] {
        if planted(Bug::SuperblockOnce) && at != first {
            break;
        }
        dir.write_at(name, at as u64, &bytes)?;
    }
    Ok(())
}

/// Does a call that opening needs, once more without the reserve if the disk is full.
pub fn with_reserve<T>(dir: &dyn SlotDir, call: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match call() {
        Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            dir.remove(FileName::Reserve)?;
            call()
        }
        other => other,
    }
}

/// Writes the next version of an epoch's superblock. What is the slot's own (join point, incarnation) stays, but for the
/// join point of a slot that is whole.
fn next_version(dir: &dyn SlotDir, superblock: Superblock, whole: bool) -> io::Result<()> {
    let old = read_super(dir, FileName::Epoch(superblock.number))?;
    // A blank directory in the slot's place must not become a founder: a rejoin formats it.
    let own = Superblock::newest_of(old)
        .map_err(|_| io::Error::new(io::ErrorKind::NotFound, "the slot has lost its superblock"))?;
    let join = if whole { Join::Founder } else { own.join };
    write_super(dir, &Superblock { join, incarnation: own.incarnation, ..superblock })
}

/// Mends a live slot's superblock and claim. True if something was wrong with them.
fn marks(dir: &dyn SlotDir, superblock: Superblock) -> io::Result<bool> {
    let names = dir.list()?;
    let (epoch, claim) = (FileName::Epoch(superblock.number), FileName::Claim(superblock.number));
    if !names.contains(&epoch) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the slot has lost its superblock"));
    }
    let places = read_super(dir, epoch).unwrap_or_else(|_| Superblock::places(&[]));
    let own = places.iter().flatten().max_by_key(|s| s.version);
    if own.is_some_and(|own| own.slot != superblock.slot || own.geometry.volume != superblock.geometry.volume) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "another volume's or slot's files"));
    }
    let mut wrong = false;
    if !names.contains(&claim) {
        dir.create_new(claim)?;
        wrong = true;
    }
    // Where the bad sector is of no matter now, the next one may not be.
    let is_bad = || dir.read_shared(epoch, 0, 2 * superblock::PLACE).is_err();
    if places.iter().any(Result::is_err) || is_bad() {
        let own = own.map(|own| (own.join, own.incarnation)).unwrap_or((superblock.join, superblock.incarnation));
        write_super(dir, &Superblock { join: own.0, incarnation: own.1, ..superblock })?;
        wrong = true;
    }
    Ok(wrong)
}

/// A file's bytes, at most `most`; empty if it is not there. Blocks that cannot be read count as zeros: they may lie behind
/// what a superblock or a tail file holds, and checksums tell if they do not.
pub fn read_whole(dir: &dyn SlotDir, name: FileName, most: usize) -> io::Result<Arc<Vec<u8>>> {
    or_empty(read_filled(dir, name, 0, most, &ZEROS))
}

/// Of a file that may be missing.
pub fn read_or_empty(dir: &dyn SlotDir, name: FileName, offset: u64, most: usize) -> io::Result<Arc<Vec<u8>>> {
    or_empty(read_around(dir, name, offset, most))
}

fn or_empty(read: io::Result<Arc<Vec<u8>>>) -> io::Result<Arc<Vec<u8>>> {
    match read {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Arc::default()),
        other => other,
    }
}

/// Reads at most so many bytes: one unreadable sector must not hide the rest, and what lies across it does not verify. An
/// error where there is no such file, or nothing can be read.
pub fn read_around(dir: &dyn SlotDir, name: FileName, offset: u64, most: usize) -> io::Result<Arc<Vec<u8>>> {
    read_filled(dir, name, offset, most, if planted(Bug::UnreadableIsZero) { &ZEROS } else { &UNREADABLE })
}

/// ... where a block that cannot be read is filled with these bytes.
fn read_filled(
    dir: &dyn SlotDir,
    name: FileName,
    offset: u64,
    most: usize,
    fill: &[u8; format::BLOCK_MIN as usize],
) -> io::Result<Arc<Vec<u8>>> {
    let failed = match dir.read_shared(name, offset, most) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::TimedOut) => return Err(e),
        Err(e) => e,
        read => return read,
    };
    let block = format::BLOCK_MIN as usize;
    let (mut bytes, mut answers, mut behind) = (Vec::new(), false, 0);
    let fill_up = |bytes: &mut Vec<u8>, to: usize| {
        while bytes.len() < to {
            bytes.extend_from_slice(&fill[..block.min(to - bytes.len())]);
        }
    };
    for at in (0..most).step_by(block) {
        let read = || dir.read(name, offset + at as u64, block.min(most - at));
        // An error that passes must not hide what is there: it would be written again.
        match read().or_else(|_| read()) {
            Ok(read) => {
                answers = true;
                if read.is_empty() {
                    break;
                }
                fill_up(&mut bytes, at);
                bytes.extend_from_slice(&read);
            }
            // A device that is gone, and not a bad sector.
            Err(_) if !answers && at >= format::FRAME as usize => break,
            Err(_) => behind = at + block.min(most - at),
        }
    }
    if !answers {
        return Err(failed);
    }
    fill_up(&mut bytes, behind);
    Ok(Arc::new(bytes))
}

/// The highest epoch that was claimed or decided on the slot; 0 on a blank one.
pub fn highest_claim(dir: &dyn SlotDir) -> io::Result<u64> {
    let number = |name: FileName| match name {
        FileName::Claim(n) | FileName::Epoch(n) => n,
        _ => 0,
    };
    Ok(dir.list()?.into_iter().map(number).max().unwrap_or(0))
}

/// ... of a volume; 0 on another volume's disk, whose numbers are its own.
fn claim_of(dir: &dyn SlotDir, volume: Uuid) -> io::Result<u64> {
    let highest = |names: Vec<FileName>| names.into_iter().filter(|n| matches!(n, FileName::Epoch(_))).max();
    if let Some(epoch) = highest(dir.list()?)
        && let Ok(newest) = Superblock::newest_of(read_super(dir, epoch)?)
        && newest.geometry.volume != volume
    {
        return Ok(0);
    }
    highest_claim(dir)
}

/// The slot gets the newest claim and decision where it lacks them, then its groups are read back.
fn rejoin(dir: &dyn SlotDir, read: RejoinRead, mut superblock: Superblock, stale: bool) -> io::Result<Returned> {
    let geometry = superblock.geometry;
    let number = superblock.number;
    dir.reopen();
    let names = dir.list()?;
    let refused = |fault: SlotFault| Err(io::Error::new(io::ErrorKind::InvalidData, fault.to_string()));
    let mut own: Option<Superblock> = None;
    for name in names.iter().filter(|n| matches!(n, FileName::Epoch(_))) {
        match Superblock::newest_of(read_super(dir, *name)?) {
            Ok(found) if found.geometry.volume != geometry.volume => {
                return refused(SlotFault::Foreign(found.geometry.volume));
            }
            Ok(found) if found.slot != superblock.slot => return refused(SlotFault::Swapped(found.slot)),
            Ok(found) => own = own.filter(|o| o.number > found.number).or(Some(found)),
            Err(SuperFault::Damaged) => (),
            Err(other) => return refused(SlotFault::Superblock(other)),
        }
    }
    // As at an open: only what is blank is formatted, and what does not verify may be anybody's, unless its log is ours.
    if own.is_none() && !may_be_taken(dir, &names, &superblock, read.to) {
        return refused(SlotFault::NoSuperblock);
    }
    let lacks = doubt::of_slot(own.as_ref(), superblock.slot, &superblock.history, read.from, stale);
    match own {
        Some(found) => {
            superblock.incarnation = found.incarnation;
            // Whatever join point the slot has of its own stays: only a blank one gets the superblock's.
            if !found.join.needs_one(&superblock.history) {
                superblock.join = found.join;
            }
        }
        None => superblock.incarnation += 1,
    }
    // What is above it may still have to be written, and nothing tells of it where the clean mark is out already.
    let above = Gap { from: read.from, to: read.end };
    let told = lacks.iter().copied().chain([above]).filter(|gap| !gap.is_empty());
    let told = told.filter(|gap| *gap != above || !planted(Bug::RejoinUntold));
    superblock.gaps.extend(told.map(|gap| (superblock.slot, gap)));
    if !names.contains(&FileName::Claim(number)) {
        dir.create_new(FileName::Claim(number))?;
    }
    write_super(dir, &superblock)?;
    let verified = verify_groups(dir, read, &geometry, number)?;
    let no_space = !names.contains(&FileName::segment_of(verified, geometry.pg_size).0);
    Ok(Returned { verified, join: superblock.join, lacks, no_space })
}

/// A slot whose superblocks are all damaged, or that has none, is this volume's if the header of a group stands where it
/// belongs: checksums are seeded from the volume's identity. Or it is nobody's: where a log has frames, ours or another
/// volume's, there is nothing.
fn may_be_taken(dir: &dyn SlotDir, names: &[FileName], superblock: &Superblock, end: Lsn) -> bool {
    let g = &superblock.geometry;
    let block = |at: Lsn| {
        let (name, offset) = FileName::segment_of(at, g.pg_size);
        read_or_empty(dir, name, offset, g.block() as usize).ok()
    };
    let tails = || names.iter().filter(|n| matches!(n, FileName::Tail(_)));
    // An opener that died before it came to the superblock has left one.
    let is_ours = |name: &FileName| {
        let head = read_or_empty(dir, *name, 0, tail::BYTES_MAX).unwrap_or_default();
        tail::decode(&head, g.volume).is_some()
    };
    if tails().any(is_ours) && !planted(Bug::TailIsNobodys) {
        return true;
    }
    let mut empty = tails().next().is_none();
    for (at, epoch) in frames_back(&superblock.history, end).take(PROBES) {
        let bytes = block(at);
        if group::decode_header(bytes.as_deref().map_or(&[], Vec::as_slice), at, g.seed())
            .is_ok_and(|h| h.epoch == epoch)
        {
            return true;
        }
        empty &= is_zero(bytes);
    }
    let begin = |name: &FileName| match name {
        FileName::Segment(pg) => FileName::begin_of(*pg, g.pg_size),
        _ => None,
    };
    // What is left of a log that was reclaimed begins at any frame.
    let frames = |at: Lsn| (0..g.pg_size).step_by(format::FRAME as usize).map(move |frame| at + frame);
    let begins = || names.iter().filter_map(begin);
    let mut places = begins().flat_map(|at| frames(at).chain([at + g.block()]));
    empty && begins().count() <= EMPTY_MAX && places.all(|at| is_zero(block(at)))
}

/// Read, and nothing but zeros, or behind the file's end.
fn is_zero(bytes: Option<Arc<Vec<u8>>>) -> bool {
    bytes.is_some_and(|bytes| bytes.iter().all(|b| *b == 0))
}

/// Where groups begin for certain: each entry's begin, and each frame's within it; from `end` back.
pub fn frames_back(history: &History, end: Lsn) -> impl Iterator<Item = (Lsn, u64)> {
    history.entries().iter().rev().flat_map(move |e| {
        let (first, behind) = (e.begin.0 / format::FRAME, e.end.min(end).0.div_ceil(format::FRAME));
        (first..behind).rev().map(|frame| (Lsn(frame * format::FRAME).max(e.begin), e.epoch))
    })
}

/// How far the groups from `read.from` on verify on the slot, flushed.
fn verify_groups(dir: &dyn SlotDir, read: RejoinRead, g: &Geometry, epoch: u64) -> io::Result<Lsn> {
    let mut at = read.from;
    while at < read.to {
        let (name, offset) = FileName::segment_of(at, g.pg_size);
        let room = (format::FRAME - at.0 % format::FRAME) as usize;
        // What cannot be read is written anew.
        let bytes = read_or_empty(dir, name, offset, room).unwrap_or_default();
        let mut pos = 0;
        while let Ok(sum) = group::verify(&bytes[pos..], at, g.seed(), |_| ())
            && sum.header.epoch == epoch
        {
            at = at + sum.header.len;
            pos += sum.header.len as usize;
        }
        if pos < room {
            break;
        }
    }
    if at > read.from {
        // Each file of them: what verifies may be in a cache.
        for pg in read.from.0 / g.pg_size..at.0.div_ceil(g.pg_size) {
            dir.flush(FileName::Segment(pg))?;
        }
    }
    Ok(at)
}

/// Merges the slot's tail files. Every earlier process is gone; what it had in flight is waited for.
fn merge(dir: &dyn SlotDir, g: &Geometry, history: &History, unused: (Lsn, Lsn), doubted: &[Gap]) -> io::Result<()> {
    let names = dir.list()?;
    let mut drained = Vec::new();
    let mut drain = |name: FileName| -> io::Result<()> {
        if names.contains(&name) && !drained.contains(&name) {
            if !planted(Bug::MergeUndrained) {
                dir.drain(name)?;
            }
            drained.push(name);
        }
        Ok(())
    };
    // Not those of an opener that came after: it may count on them, and what they hold is this writer's own to write.
    let number = if planted(Bug::MergeSuccessors) { u64::MAX } else { history.last().epoch };
    for tail in names.iter().copied().filter(|name| matches!(name, FileName::Tail(n) if *n <= number)) {
        // One that cannot be read is a lost copy: repair brings its groups.
        let file = read_whole(dir, tail, tail::BYTES_MAX).unwrap_or_default();
        for (at, bytes) in tail::decode(&file, g.volume).unwrap_or_default() {
            let whole = |bytes: &[u8]| {
                group::verify(bytes, at, g.seed(), |_| ()).is_ok_and(|s| history.holds(s.header.epoch, at))
            };
            // What was annulled since is left behind.
            if !whole(bytes) {
                continue;
            }
            let (segment, offset) = FileName::segment_of(at, g.pg_size);
            drain(segment)?;
            // A block that verifies is not written again.
            let there = read_or_empty(dir, segment, offset, bytes.len()).unwrap_or_default();
            if !whole(&there) || planted(Bug::MergeRewrites) {
                with_reserve(dir, || dir.write_at(segment, offset, bytes))?;
            }
            dir.flush(segment)?;
        }
        dir.remove(tail)?;
    }
    let in_doubt = |name: &FileName| match name {
        FileName::Segment(pg) => {
            let begin = FileName::begin_of(*pg, g.pg_size);
            begin.is_some_and(|at| doubted.iter().any(|gap| gap.from < at + g.pg_size && at < gap.to))
        }
        _ => false,
    };
    names.iter().copied().filter(in_doubt).try_for_each(&mut drain)?;
    let (mut at, to) = unused;
    while at < to {
        let (segment, offset) = FileName::segment_of(at, g.pg_size);
        let len = (to - at).min(g.pg_size - offset);
        if names.contains(&segment) {
            drain(segment)?;
            punch(dir, segment, offset, offset + len, PUNCH)?;
        }
        at = at + len;
    }
    Ok(())
}

/// Bytes that are punched at once: meanwhile nobody writes to the file, and log writes wait. A whole extent takes 20 to 30 ms on
/// ext4.
const PUNCH: u64 = 2 << 20;
/// ... and a part in so many of what there is to punch, if that is more: most of what a call takes is waiting for the file. A
/// slot that is behind is to catch up.
const PUNCH_PART: u64 = 32;

fn punch(dir: &dyn SlotDir, name: FileName, from: u64, to: u64, piece: u64) -> io::Result<()> {
    (from..to).step_by(piece as usize).try_for_each(|at| dir.punch(name, at, piece.min(to - at)))
}

/// Gives space back, in files that are there. A file of which nothing is left goes: `all` was given back by now.
fn free(dir: &dyn SlotDir, runs: &[Run], all: &[Run], g: &Geometry, epoch: u64) -> io::Result<()> {
    let names = dir.list()?;
    // Another volume's or slot's directory may be in its place by now: what it holds is not ours to give.
    let own = Superblock::newest_of(read_super(dir, FileName::Epoch(epoch))?);
    if !own.is_ok_and(|own| own.geometry.volume == g.volume) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the slot has lost its superblock"));
    }
    let owed = runs.iter().map(|r| r.to - r.from).sum::<u64>();
    let piece = (owed / PUNCH_PART).clamp(PUNCH, format::EXTENT).next_multiple_of(PUNCH);
    for name in names {
        let FileName::Segment(pg) = name else { continue };
        let Some(begin) = FileName::begin_of(pg, g.pg_size) else { continue };
        let end = begin + g.pg_size;
        let mut within = runs.iter().filter(|r| r.from < end && begin < r.to).peekable();
        let goes = within.peek().is_some() && all.iter().any(|r| r.from <= begin && end <= r.to);
        for run in within {
            let (from, to) = (run.from.max(begin), run.to.min(end));
            // Also where the whole file goes: a reader may have it open, and would keep its space.
            punch(dir, name, from - begin, to - begin, piece)?;
        }
        if goes {
            dir.remove(name)?;
        }
    }
    Ok(())
}

/// Removes claims and epochs that a newer decision made needless; tail files stay until they are merged.
///
/// Only beside a superblock that is not older, and verifies: the directory may be an old image of the slot by now, and
/// nothing but its superblock tells whose files they are.
fn tidy(dir: &dyn SlotDir, below: u64) -> io::Result<()> {
    let names = dir.list()?;
    let newest = names.iter().filter_map(|n| matches!(n, FileName::Epoch(e) if *e >= below).then_some(*n)).max();
    let verifies = |name| read_super(dir, name).map(|places| Superblock::newest_of(places).is_ok());
    if !newest.map_or(Ok(false), verifies)? && !planted(Bug::TidyBlindly) {
        return Ok(());
    }
    for name in names {
        if let FileName::Claim(n) | FileName::Epoch(n) = name
            && n < below
        {
            dir.remove(name)?;
        }
    }
    Ok(())
}

/// The join point of a slot that is formatted by a running writer: VDL, by the writer's own decision.
pub fn join_now(vdl: Lsn, epoch: u64) -> Join {
    Join::At { at: vdl, by: epoch }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use crate::disk::bounded::{self, Reads};
    use crate::disk::file::FileDir;

    #[test]
    fn a_file_is_read_whole_and_takes_the_memory_that_it_needs() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let reads = Reads::new(&bounded::Shared::new(false));
        let dir = FileDir::new(temp.path().to_path_buf(), 4096, false, reads);
        let name = FileName::Tail(3);
        assert!(read_whole(&dir, name, tail::BYTES_MAX).unwrap().is_empty());
        for len in [4096, 64 << 10, 68 << 10, 1 << 20, 3 << 20] {
            let bytes: Vec<u8> = (0..len).map(|i| (i / 9) as u8).collect();
            dir.write_at(name, 0, &bytes).unwrap();
            let got = read_whole(&dir, name, tail::BYTES_MAX).unwrap();
            assert!(*got == bytes, "{len}");
            assert!(got.capacity() <= 2 * len + (64 << 10), "{len} bytes in {}", got.capacity());
            assert!(read_whole(&dir, name, len - 100).unwrap()[..] == bytes[..len - 100], "{len}: bounded");
        }
    }
}
