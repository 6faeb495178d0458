//! Frames of one slot: which groups in them verify, and putting in those that do not.

use crate::bugs::{Bug, planted};
use crate::core::history::Entry;
use crate::disk::{self, SlotDir, job};
use crate::log::group;
use crate::lsn::{Lsn, format};
use crate::segment::name::FileName;
use crate::segment::superblock::Geometry;
use crate::segment::tail;
use bytes::Bytes;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Which part of the log is meant: the groups of `entries` that begin in `[from, to)`, in one frame or some.
#[derive(Clone, Debug)]
pub struct Part {
    pub from: Lsn,
    pub to: Lsn,
    /// The entries of the history that have addresses in it.
    pub entries: Arc<[Entry]>,
}

/// A group that verifies at its address, in its entry's epoch.
#[derive(Clone, Debug)]
pub struct Found {
    pub at: Lsn,
    pub len: u64,
    /// Of its bytes: two copies that verify should be equal, and are not held to be so.
    pub hash: u64,
    /// None where only what is there was asked for.
    pub bytes: Option<Bytes>,
    pub range: Range<usize>,
    /// It stands in a tail file, and not where it belongs.
    pub in_tail: bool,
}

/// What a slot has of a part, in order of address.
pub type Copy = Vec<Found>;

/// Groups that follow each other, to be put where they belong.
#[derive(Clone, Debug)]
pub struct Piece {
    pub at: Lsn,
    pub bytes: Bytes,
    pub range: Range<usize>,
}

/// Reads a part on a slot, and keeps the bytes if it is to `keep` them. What cannot be read counts as not there. With
/// `flush` what is found is durable: it may be what a process left that was killed before it had flushed.
pub fn read(dir: &dyn SlotDir, part: &Part, geometry: &Geometry, keep: bool, flush: bool) -> io::Result<Copy> {
    read_by(dir, part, geometry, keep, flush, &|bytes, here, at, epoch| found(bytes, here, at, epoch, geometry.seed()))
}

/// How a group is found in a frame: see [`found`].
pub type Find<'a> = &'a dyn Fn(&[u8], usize, Lsn, u64) -> Option<Found>;

/// [`read`], where groups are found by others' means.
pub fn read_by(
    dir: &dyn SlotDir,
    part: &Part,
    geometry: &Geometry,
    keep: bool,
    flush: bool,
    find: Find<'_>,
) -> io::Result<Copy> {
    let mut copy = Copy::new();
    let (mut whole, mut names) = (true, Vec::new());
    let mut base = part.from.floor(format::FRAME);
    let mut ahead = if keep { read_ahead(dir, part, geometry) } else { Vec::new() }.into_iter();
    while base < part.to {
        let before = copy.len();
        let (name, _) = FileName::segment_of(base, geometry.pg_size);
        if keep {
            let bytes = ahead.next().unwrap_or_else(|| read_frame(dir, base, geometry));
            whole &= in_frame(&bytes, base, part, geometry, find, Some(&bytes), &mut copy);
        } else {
            let (_, offset) = FileName::segment_of(base, geometry.pg_size);
            let mut look = |bytes: &[u8]| whole &= in_frame(bytes, base, part, geometry, find, None, &mut copy);
            // What can be read of a bad frame is found the longer way.
            if dir.scan(name, offset, format::FRAME as usize, &mut look).is_err() {
                look(&read_frame(dir, base, geometry));
            }
        }
        if flush && copy.len() > before && names.last() != Some(&name) {
            names.push(name);
        }
        base = base + format::FRAME;
    }
    names.into_iter().try_for_each(|name| dir.flush(name))?;
    if !whole {
        from_tails(dir, part, geometry, keep, &mut copy)?;
    }
    Ok(copy)
}

/// The part's first frames, up to the end of their file; nothing if one of them cannot be read.
fn read_ahead(dir: &dyn SlotDir, part: &Part, geometry: &Geometry) -> Vec<Bytes> {
    let base = part.from.floor(format::FRAME);
    let (name, offset) = FileName::segment_of(base, geometry.pg_size);
    let frames = (part.to - base).div_ceil(format::FRAME).min((geometry.pg_size - offset) / format::FRAME);
    if frames > 1 { dir.read_frames(name, offset, frames as usize).unwrap_or_default() } else { Vec::new() }
}

fn read_frame(dir: &dyn SlotDir, base: Lsn, geometry: &Geometry) -> Bytes {
    let (name, offset) = FileName::segment_of(base, geometry.pg_size);
    let most = format::FRAME as usize;
    dir.read_owned(name, offset, most).unwrap_or_else(|_| {
        // Where nothing can be read, writing will tell whether the device is well.
        job::read_or_empty(dir, name, offset, most).map(disk::owned).unwrap_or_default()
    })
}

/// Finds the part's groups in the frame at `base`. False if some are not there.
fn in_frame(
    bytes: &[u8],
    base: Lsn,
    part: &Part,
    geometry: &Geometry,
    find: Find<'_>,
    keep: Option<&Bytes>,
    copy: &mut Copy,
) -> bool {
    let mut whole = true;
    for entry in part.entries.iter() {
        let from = part.from.max(entry.begin).max(base);
        let to = part.to.min(entry.end).min(base + format::FRAME);
        let mut at = from;
        while at < to {
            match find(bytes, (at - base) as usize, at, entry.epoch) {
                Some(found) => {
                    at = at + found.len;
                    copy.push(Found { bytes: keep.cloned(), ..found });
                }
                None => {
                    whole = false;
                    at = at + geometry.block();
                }
            }
        }
    }
    whole
}

/// The group at `here` of `bytes`, if it verifies as what stands at `at`.
pub fn found(bytes: &[u8], here: usize, at: Lsn, epoch: u64, seed: u32) -> Option<Found> {
    let header = check(bytes.get(here..)?, at, seed)?;
    if header.epoch != epoch {
        return None;
    }
    let range = here..here + header.len as usize;
    let mut hasher = foldhash::fast::FixedState::with_seed(0).build_hasher();
    hasher.write(&bytes[range.clone()]);
    Some(Found { at, len: header.len, hash: hasher.finish(), bytes: None, range, in_tail: false })
}

/// The header of a group that verifies.
fn check(bytes: &[u8], at: Lsn, seed: u32) -> Option<group::Header> {
    if planted(Bug::WorseCopyAsSource) || planted(Bug::FillUnverified) {
        return group::decode_header(bytes, at, seed).ok().filter(|h| h.len as usize <= bytes.len());
    }
    let own = if planted(Bug::MendMisdirected) { group::claimed_lsn(bytes)? } else { at };
    Some(group::verify(bytes, own, seed, |_| ()).ok()?.header)
}

/// Groups of the part that recovery put into tail files, and nobody into the segment yet.
fn from_tails(dir: &dyn SlotDir, part: &Part, geometry: &Geometry, keep: bool, copy: &mut Copy) -> io::Result<()> {
    for name in dir.list()?.into_iter().filter(|n| matches!(n, FileName::Tail(_))) {
        let file = job::read_whole(dir, name, tail::BYTES_MAX).unwrap_or_default();
        for (at, group) in tail::decode(&file, geometry.volume).unwrap_or_default() {
            let entry = part.entries.iter().find(|e| e.begin <= at && at < e.end);
            let known = copy.iter().any(|f| f.at == at);
            let Some(entry) = entry.filter(|_| part.from <= at && at < part.to && !known) else { continue };
            // A copy of the group alone: the file may be long.
            let found = found(group, 0, at, entry.epoch, geometry.seed());
            let bytes = || keep.then(|| Bytes::copy_from_slice(group));
            copy.extend(found.map(|f| Found { in_tail: true, bytes: bytes(), ..f }));
        }
    }
    copy.sort_by_key(|f| f.at);
    Ok(())
}

/// Puts pieces where they belong, durably, but not over what verifies there. Returns the bytes that were written.
///
/// Only in a directory that has the superblock of `epoch`: a blank one in its place is formatted by a rejoin first.
pub fn write(dir: &dyn SlotDir, pieces: &[Piece], geometry: &Geometry, epoch: u64) -> io::Result<u64> {
    if !dir.list()?.contains(&FileName::Epoch(epoch)) && !planted(Bug::MendBlank) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the slot has lost its superblock"));
    }
    let mut runs: Vec<(FileName, u64, &[u8])> = Vec::new();
    let mut found: Vec<FileName> = Vec::new();
    for piece in pieces {
        let bytes = &piece.bytes[piece.range.clone()];
        let (name, offset) = FileName::segment_of(piece.at, geometry.pg_size);
        let lacks = |there: &[u8]| lacking(there, bytes, piece.at, geometry.seed());
        let mut lacking = None;
        // What cannot be read is written anew: that is how a bad sector is mended.
        if dir.scan(name, offset, bytes.len(), &mut |there| lacking = Some(lacks(there))).is_err() {
            lacking = Some(lacks(&job::read_or_empty(dir, name, offset, bytes.len()).unwrap_or_default()));
        }
        let lacking = lacking.unwrap_or_default();
        if lacking.iter().map(Range::len).sum::<usize>() < bytes.len() && found.last() != Some(&name) {
            found.push(name);
        }
        for run in lacking {
            runs.push((name, offset + run.start as u64, &bytes[run]));
        }
    }
    // The space first: on a disk that is nearly full the last of it is the log's.
    for (name, offset, bytes) in &runs {
        dir.allocate(*name, *offset, bytes.len() as u64)?;
    }
    for file in runs.chunk_by(|a, b| a.0 == b.0) {
        let writes: Vec<(u64, &[u8])> = file.iter().map(|(_, offset, bytes)| (*offset, *bytes)).collect();
        dir.write_many(file[0].0, &writes)?;
    }
    // What came since the slot was read may be an earlier process's, and lie in the disk's cache alone. Where something was
    // written that is flushed with it.
    found.retain(|name| !planted(Bug::MendUnflushed) && runs.iter().all(|run| run.0 != *name));
    found.into_iter().try_for_each(|name| dir.flush(name))?;
    Ok(runs.iter().map(|(_, _, bytes)| bytes.len() as u64).sum())
}

/// Runs of groups of `bytes` that do not verify in what is `there`, at the same address: those that do are not written
/// again.
fn lacking(there: &[u8], bytes: &[u8], at: Lsn, seed: u32) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut pos = 0;
    // What was read as a group is one.
    let own = |pos: usize| match group::claimed_lsn(bytes.get(pos..).unwrap_or_default()) {
        Some(claimed) if planted(Bug::MendMisdirected) => claimed,
        _ => at + pos as u64,
    };
    while let Ok(group) = group::decode_header(bytes.get(pos..).unwrap_or_default(), own(pos), seed) {
        let end = pos + group.len as usize;
        let stands = group::verify(there.get(pos..).unwrap_or_default(), at + pos as u64, seed, |_| ());
        let over = (planted(Bug::DiffersMended) || planted(Bug::WorseCopyAsSource))
            && there.get(pos..end) != bytes.get(pos..end);
        let over = planted(Bug::MendGood) || over;
        if !stands.is_ok_and(|s| s.header.epoch == group.epoch) || over {
            match runs.last_mut().filter(|run| run.end == pos) {
                Some(run) => run.end = end,
                None => runs.push(pos..end),
            }
        }
        pos = end;
    }
    runs
}
