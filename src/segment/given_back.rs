//! Was an address given back? Whoever finds no copy of a record asks: a view that a reader holds, or a writer that was
//! overtaken, stands on an older table than the newest manifest's, and what that one left out may be gone.

use crate::disk::SlotDir;
use crate::log::record::{self, Kind};
use crate::lsn::{Lsn, SLOTS, format};
use crate::page::manifest::Manifest;
use crate::reclaim::freed::Freed;
use crate::segment::name::FileName;
use crate::segment::superblock::Geometry;
use crate::segment::survey;
use std::sync::Arc;

/// Manifests that are looked for, newest first.
const TRIES: usize = 3;

type Dirs = [Option<Arc<dyn SlotDir>>; SLOTS];

/// By the newest manifest that a slot in reach names.
pub fn newest(dirs: &Dirs, geometry: &Geometry) -> Freed {
    let there = || dirs.iter().flatten();
    let supers = there().filter_map(|dir| survey::read_files(&**dir).ok()).flat_map(|files| files.superblocks);
    let ours = supers.filter(|s| s.geometry.volume == geometry.volume && !s.manifest.is_none());
    let mut named: Vec<Lsn> = ours.map(|s| s.manifest).collect();
    named.sort_unstable_by(|a, b| b.cmp(a));
    named.dedup();
    let read = |at: Lsn| there().find_map(|dir| manifest(&**dir, at, geometry));
    named.into_iter().take(TRIES).find_map(read).map(|m| m.freed).unwrap_or_default()
}

/// What stands there on a slot, whatever its epoch: it may be one that the asker does not know.
fn manifest(dir: &dyn SlotDir, at: Lsn, geometry: &Geometry) -> Option<Manifest> {
    let (name, offset) = FileName::segment_of(at, geometry.pg_size);
    let room = (format::FRAME - at.0 % format::FRAME) as usize;
    let mut found = None;
    let mut decode = |bytes: &[u8]| {
        let record = record::decode(bytes, at, geometry.seed()).ok().filter(|r| r.fields.kind == Kind::Manifest);
        found = record.and_then(|r| Manifest::decode(r.payload));
    };
    dir.read_with(name, offset, room, &mut decode).ok()?;
    found
}
