//! One frame of one slot: which groups of it verify, and putting in those that do not.

use crate::bugs::{Bug, planted};
use crate::core::history::Entry;
use crate::disk::{SlotDir, job};
use crate::log::group;
use crate::lsn::{Lsn, format};
use crate::segment::name::FileName;
use crate::segment::superblock::Geometry;
use crate::segment::tail;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Which part of the log is meant: the groups of `entries` that begin in `[from, to)`, all in one frame.
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
    pub bytes: Arc<Vec<u8>>,
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
    pub bytes: Arc<Vec<u8>>,
    pub range: Range<usize>,
}

/// Reads a part on a slot. What cannot be read counts as not there.
pub fn read(dir: &dyn SlotDir, part: &Part, geometry: &Geometry) -> io::Result<Copy> {
    let base = part.from.floor(format::FRAME);
    let (name, offset) = FileName::segment_of(base, geometry.pg_size);
    // Where nothing can be read, writing will tell whether the device is well.
    let bytes = job::read_or_empty(dir, name, offset, format::FRAME as usize).unwrap_or_default();
    let bytes = Arc::new(bytes);
    let mut copy = Copy::new();
    let mut whole = true;
    for entry in part.entries.iter() {
        let (mut at, to) = (part.from.max(entry.begin), part.to.min(entry.end));
        while at < to {
            let here = (at - base) as usize;
            match found(&bytes, here, at, entry.epoch, geometry.seed()) {
                Some(found) => {
                    at = at + found.len;
                    copy.push(found);
                }
                None => {
                    whole = false;
                    at = at + geometry.block();
                }
            }
        }
    }
    if !whole {
        from_tails(dir, part, geometry, &mut copy)?;
    }
    Ok(copy)
}

/// The group at `range.start` of `bytes`, if it verifies as what stands at `at`.
fn found(bytes: &Arc<Vec<u8>>, here: usize, at: Lsn, epoch: u64, seed: u32) -> Option<Found> {
    let header = check(bytes.get(here..)?, at, seed)?;
    if header.epoch != epoch {
        return None;
    }
    let range = here..here + header.len as usize;
    let mut hasher = foldhash::fast::FixedState::with_seed(0).build_hasher();
    hasher.write(&bytes[range.clone()]);
    Some(Found { at, len: header.len, hash: hasher.finish(), bytes: bytes.clone(), range, in_tail: false })
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
fn from_tails(dir: &dyn SlotDir, part: &Part, geometry: &Geometry, copy: &mut Copy) -> io::Result<()> {
    for name in dir.list()?.into_iter().filter(|n| matches!(n, FileName::Tail(_))) {
        let file = job::read_whole(dir, name, tail::BYTES_MAX).unwrap_or_default();
        for (at, group) in tail::decode(&file, geometry.volume).unwrap_or_default() {
            let entry = part.entries.iter().find(|e| e.begin <= at && at < e.end);
            let known = copy.iter().any(|f| f.at == at);
            let Some(entry) = entry.filter(|_| part.from <= at && at < part.to && !known) else { continue };
            // A copy of the group alone: the file may be long.
            let found = found(&Arc::new(group.to_vec()), 0, at, entry.epoch, geometry.seed());
            copy.extend(found.map(|f| Found { in_tail: true, ..f }));
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
    let mut written = 0;
    for piece in pieces {
        let bytes = &piece.bytes[piece.range.clone()];
        let (name, offset) = FileName::segment_of(piece.at, geometry.pg_size);
        // What cannot be read is written anew: that is how a bad sector is mended.
        let there = job::read_or_empty(dir, name, offset, bytes.len()).unwrap_or_default();
        // Runs of groups that are not there; a block that verifies is not written again.
        let (mut pos, mut run) = (0, 0);
        while pos < bytes.len() {
            let at = piece.at + pos as u64;
            let own = if planted(Bug::MendMisdirected) { group::claimed_lsn(&bytes[pos..]).unwrap_or(at) } else { at };
            let group = group::decode_header(&bytes[pos..], own, geometry.seed());
            let Ok(group) = group else { return Err(io::Error::other("what was read as a group is none")) };
            let len = group.len as usize;
            let stands = group::verify(there.get(pos..).unwrap_or_default(), at, geometry.seed(), |_| ());
            let differs = || there.get(pos..pos + len) != bytes.get(pos..pos + len);
            let over = planted(Bug::DiffersMended) || planted(Bug::WorseCopyAsSource);
            let over = planted(Bug::MendGood) || over && differs();
            if stands.is_ok_and(|s| s.header.epoch == group.epoch) && !over {
                if run < pos {
                    put(dir, name, offset + run as u64, &bytes[run..pos])?;
                    written += (pos - run) as u64;
                }
                run = pos + len;
            }
            pos += len;
        }
        if run < bytes.len() {
            put(dir, name, offset + run as u64, &bytes[run..])?;
            written += (bytes.len() - run) as u64;
        }
    }
    Ok(written)
}

/// Takes the space first: on a disk that is nearly full the last of it is the log's.
fn put(dir: &dyn SlotDir, name: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
    dir.allocate(name, offset, bytes.len() as u64)?;
    dir.write_at(name, offset, bytes)
}
