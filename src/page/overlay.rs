//! The overlay: the pages changed since the last checkpoint, each with the versions that somebody may still ask for.

use crate::bugs::{Bug, planted};
use crate::lsn::{Lsn, PageId};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// One version of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// Its record.
    pub lsn: Lsn,
    /// The image that the record stands on; none where it is not known.
    pub base: Lsn,
    /// Deltas above the image.
    pub depth: u8,
    /// The record frees the page.
    pub free: bool,
}

const SHARDS: usize = 64;

type Map = HashMap<PageId, Versions, foldhash::fast::FixedState>;

/// A page's versions, oldest first. Nearly always one or two.
type Versions = Vec<Version>;

/// Bytes that one entry takes, about: for the number that `health` tells.
pub const ENTRY_BYTES: usize = 80;

/// A part of the pages; in cache lines of its own, for readers' locks are writes.
#[repr(align(64))]
struct Shard {
    map: RwLock<Map>,
    /// There is something in it. Most layers are small beside what is read: a shard that has nothing is not locked.
    any: AtomicBool,
}

/// One layer: filled by appends until a checkpoint freezes it, then read only.
pub struct Layer {
    shards: Vec<Shard>,
    pages: AtomicUsize,
    versions: AtomicUsize,
}

impl Layer {
    pub fn new() -> Layer {
        let map = || RwLock::new(Map::with_hasher(foldhash::fast::FixedState::with_seed(0)));
        let shard = || Shard { map: map(), any: AtomicBool::new(false) };
        Layer {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            pages: AtomicUsize::new(0),
            versions: AtomicUsize::new(0),
        }
    }

    fn shard(&self, page: PageId) -> &Shard {
        // Multiplied, so that a stride of pages spreads too.
        &self.shards[(page.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize % SHARDS]
    }

    /// The newest version, whether it is published or not.
    pub fn newest(&self, page: PageId) -> Option<Version> {
        self.find(page, |v| v.last().copied())
    }

    /// The newest version whose record lies below `at`, which is asked for while no version comes or goes: of a read point from
    /// before, that no pin holds, the version may be gone for a newer one.
    pub fn below(&self, page: PageId, at: impl FnOnce() -> Lsn) -> Option<Version> {
        self.find(page, |v| {
            let at = at();
            v.iter().rev().find(|v| v.lsn < at).copied()
        })
    }

    fn find(&self, page: PageId, which: impl FnOnce(&Versions) -> Option<Version>) -> Option<Version> {
        let shard = self.shard(page);
        // Whoever knows of a version has seen the publishing, or holds the append lock, behind its push.
        if !shard.any.load(Ordering::Acquire) {
            return None;
        }
        shard.map.read().get(&page).and_then(which)
    }

    /// Adds the newest version, and drops those that nobody can ask for: not the newest below VDL, nor below any pin.
    /// `pins` are the read points of open views, in order.
    pub fn push(&self, page: PageId, version: Version, vdl: Lsn, pins: &[Lsn]) {
        let shard = self.shard(page);
        if !shard.any.load(Ordering::Relaxed) {
            shard.any.store(true, Ordering::Release);
        }
        let mut map = shard.map.write();
        let versions = map.entry(page).or_insert_with(|| {
            self.pages.fetch_add(1, Ordering::Relaxed);
            Versions::with_capacity(1)
        });
        debug_assert!(versions.last().is_none_or(|v| v.lsn < version.lsn));
        let before = versions.len();
        versions.push(version);
        let (vdl, pins) = if planted(Bug::PruneEarly) { (Lsn::MAX, [].as_slice()) } else { (vdl, pins) };
        if versions.len() > 2 || before > 0 && versions[1].lsn < vdl {
            prune(versions, vdl, pins);
        }
        self.versions.fetch_add(versions.len().wrapping_sub(before), Ordering::Relaxed);
    }

    /// Forgets everything at or above `at`: the volume has turned read-only at VDL.
    pub fn cut(&self, at: Lsn) {
        for shard in &self.shards {
            shard.map.write().retain(|_, versions| {
                versions.retain(|v| v.lsn < at);
                !versions.is_empty()
            });
        }
    }

    /// The newest version of each page below `at`, in order of page.
    pub fn sorted(&self, at: Lsn) -> Vec<(PageId, Version)> {
        let mut all = Vec::with_capacity(self.pages());
        for shard in &self.shards {
            let shard = shard.map.read();
            all.extend(shard.iter().filter_map(|(p, v)| Some((*p, *v.iter().rev().find(|v| v.lsn < at)?))));
        }
        all.sort_unstable_by_key(|(page, _)| *page);
        all
    }

    /// Pages in the layer.
    pub fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> u64 {
        (self.pages() * ENTRY_BYTES + self.versions.load(Ordering::Relaxed) * size_of::<Version>()) as u64
    }
}

/// Drops a version if a newer one is below VDL and no pin lies between the two.
fn prune(versions: &mut Versions, vdl: Lsn, pins: &[Lsn]) {
    let mut keep = 0;
    for i in 0..versions.len() {
        let next = versions.get(i + 1).map(|n| n.lsn);
        let needed = match next {
            None => true,
            Some(next) if next >= vdl => true,
            Some(next) => {
                let pin = pins.partition_point(|p| *p <= versions[i].lsn);
                pins.get(pin).is_some_and(|p| *p <= next)
            }
        };
        if needed {
            versions[keep] = versions[i];
            keep += 1;
        }
    }
    versions.truncate(keep);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn v(lsn: u64) -> Version {
        Version { lsn: Lsn(lsn), base: Lsn::NONE, depth: 0, free: false }
    }

    #[test]
    fn a_version_stays_while_somebody_may_ask_for_it() {
        let layer = Layer::new();
        let p = PageId(1);
        layer.push(p, v(10), Lsn(5), &[]);
        layer.push(p, v(20), Lsn(15), &[]);
        layer.push(p, v(30), Lsn(25), &[Lsn(18)]);
        assert_eq!(layer.below(p, || Lsn(18)), Some(v(10)));
        layer.push(p, v(40), Lsn(35), &[]);
        assert_eq!(
            (layer.below(p, || Lsn(18)), layer.below(p, || Lsn(35)), layer.newest(p)),
            (None, Some(v(30)), Some(v(40)))
        );
        layer.cut(Lsn(35));
        assert_eq!(layer.newest(p), Some(v(30)));
    }

    proptest! {
        /// Against a map of all versions: every read that may still be asked for has the same answer.
        #[test]
        fn reads_at_vdl_at_pins_and_at_the_tail_agree_with_a_map(steps in prop::collection::vec((0u64..4, 0u64..3, any::<bool>()), 1..80)) {
            let layer = Layer::new();
            let mut model: BTreeMap<(u64, u64), ()> = BTreeMap::new();
            let (mut lsn, mut vdl, mut pins) = (8, 0u64, Vec::<Lsn>::new());
            for (page, lag, pin) in steps {
                lsn += 8;
                layer.push(PageId(page), v(lsn), Lsn(vdl), &pins);
                model.insert((page, lsn), ());
                vdl = vdl.max((lsn + 8).saturating_sub(lag * 16));
                if pin { pins.push(Lsn(vdl)); pins.sort_unstable(); pins.dedup(); }
                for page in 0..4 {
                    for at in pins.iter().copied().chain([Lsn(vdl), Lsn::MAX]) {
                        let want = model.range((page, 0)..(page, at.0)).next_back().map(|((_, l), ())| Lsn(*l));
                        prop_assert_eq!(layer.below(PageId(page), || at).map(|v| v.lsn), want);
                    }
                }
            }
        }
    }
}
