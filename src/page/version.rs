//! Versions of pages: where the newest ones are, those that are cached, and how one is put together of its chain.

use crate::log::append::Front;
use crate::log::record::{self, Kind};
use crate::lsn::{Lsn, PageId};
use crate::page::heads::Heads;
use crate::page::overlay::{Layer, Version};
use crate::page::read::{LogReader, NODE, Owned};
use crate::page::stale::{Replaced, Stale};
use crate::page::table::{self, Entry, Root};
use crate::volume::error::ReadError;
use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The newest record of a page, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub lsn: Lsn,
    /// The image below it; none where it is not known.
    pub base: Lsn,
    /// Deltas above the image.
    pub depth: u8,
    /// ... at least: the table tells no more than [`table::DEPTH_TOLD`].
    pub deeper: bool,
}

impl Head {
    /// A page's image.
    pub fn image(lsn: Lsn) -> Head {
        Head { lsn, base: lsn, depth: 0, deeper: false }
    }
}

/// Where versions are found: the layers over the table.
#[derive(Clone)]
pub struct Map {
    pub current: Arc<Layer>,
    /// What a running checkpoint writes out.
    pub frozen: Option<Arc<Layer>>,
    pub root: Arc<Root>,
    /// The root's checkpoint: the table holds what lies below.
    pub redo: Lsn,
    /// Pages in the table, but for what is pending.
    pub pages: u64,
    /// Counts checkpoints: a head found in an older table may be overtaken.
    pub generation: u64,
    /// What was looked up in the root.
    pub heads: Arc<Heads>,
}

#[derive(Clone)]
struct ByLength;

/// A page's version or a node, by the address of its record.
#[derive(Clone)]
pub struct Cached {
    pub bytes: Bytes,
    /// The record for which this one stands, if reclaiming wrote it; 0 else.
    pub was: Lsn,
    /// The image below it, if that is known.
    pub base: Lsn,
    /// Deltas above the image.
    pub depth: u8,
}

impl Weighter<Lsn, Cached> for ByLength {
    fn weight(&self, _: &Lsn, cached: &Cached) -> u64 {
        cached.bytes.len() as u64 + 72
    }
}

type PageCache = Cache<Lsn, Cached, ByLength, foldhash::fast::FixedState>;

/// The reading side of an open volume.
pub struct Pages {
    pub reader: LogReader,
    front: Option<Arc<Front>>,
    /// Records below are read from the slots though the ring may have them, and heads looked up anew: simulated volumes would
    /// see little of their disks.
    from_slots: AtomicU64,
    cache: PageCache,
    pub stale: Stale,
    map: ArcSwap<Map>,
}

/// A reader gives up here. Writers keep chains to 32.
pub(crate) const CHAIN_MAX: usize = 64;

impl Pages {
    pub fn new(reader: LogReader, front: Option<Arc<Front>>, cache_bytes: u64, map: Map) -> Pages {
        let page = u64::from(reader.page_size());
        let cache_bytes = cache_bytes.max(64 * (page + 64));
        let options = OptionsBuilder::new()
            .shards(if cache_bytes >= 64 << 20 { 8 } else { 1 })
            .estimated_items_capacity((cache_bytes / page) as usize)
            .weight_capacity(cache_bytes)
            .build();
        let cache = match options {
            Ok(options) => Cache::with_options(
                options,
                ByLength,
                foldhash::fast::FixedState::with_seed(0),
                DefaultLifecycle::default(),
            ),
            Err(_) => unreachable!("both sizes are given"),
        };
        Pages {
            reader,
            front,
            from_slots: AtomicU64::new(0),
            cache,
            stale: Stale::default(),
            map: ArcSwap::from_pointee(map),
        }
    }

    pub fn map(&self) -> Arc<Map> {
        self.map.load_full()
    }

    /// Whatever is in memory of what lies below is read anew.
    #[cfg(any(test, feature = "sim"))]
    pub fn forget(&self, below: Lsn) {
        self.cache.clear();
        self.from_slots.store(below.0.max(1), Ordering::Relaxed);
    }

    pub fn set_map(&self, map: Map) {
        self.map.store(Arc::new(map));
    }

    pub fn cached_bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// Keeps a version of a page.
    pub fn keep(&self, lsn: Lsn, cached: Cached) {
        self.cache.insert(lsn, cached);
    }

    /// Keeps a node of the table.
    pub fn keep_node(&self, lsn: Lsn, bytes: Bytes) {
        self.keep(lsn, Cached { bytes, was: Lsn::NONE, base: Lsn::NONE, depth: 0 });
    }

    pub fn cached(&self, lsn: Lsn) -> Option<Cached> {
        self.cache.get(&lsn)
    }

    /// The head with what the cache knows of its chain, and the table does not tell.
    pub fn informed(&self, head: Head) -> Head {
        match self.cache.get(&head.lsn).filter(|_| head.deeper || head.base.is_none()) {
            Some(Cached { base, depth, .. }) => Head { base, depth, deeper: false, ..head },
            None => head,
        }
    }

    /// Drops cached versions whose successors are durable, at most so many, but for those that a view may read.
    pub fn drop_stale(&self, vdl: Lsn, most: usize, needed: impl Fn(&Replaced) -> bool) {
        for replaced in self.stale.take(vdl, most).iter().filter(|r| !needed(r)) {
            self.cache.remove(&replaced.old);
        }
    }

    /// The version that the record at `head` is, by which users know it: its own address, or that of the record for which
    /// it stands.
    pub fn known_as(&self, page: PageId, head: Lsn) -> Result<Lsn, ReadError> {
        let was = match self.cache.get(&head) {
            Some(cached) => cached.was,
            None => self.record(page, head, record::HEADER)?.fields.was,
        };
        Ok(if was.is_none() { head } else { was })
    }

    /// [`Pages::head`] in the newest map.
    pub fn newest(&self, page: PageId, at: impl Fn() -> Lsn) -> Result<Option<Head>, ReadError> {
        self.head(&self.map.load(), page, at)
    }

    /// The page's newest record below `at`; none if the page does not exist there. What `at` says may grow, if no pin holds it: see
    /// [`Layer::below`].
    pub fn head(&self, map: &Map, page: PageId, at: impl Fn() -> Lsn) -> Result<Option<Head>, ReadError> {
        let layers = [Some(&map.current), map.frozen.as_ref()];
        if let Some(v) = layers.into_iter().flatten().find_map(|l| l.below(page, &at)) {
            return Ok(head_of(v));
        }
        let kept = map.heads.get(page).filter(|_| self.from_slots.load(Ordering::Relaxed) == 0);
        let entry = match kept {
            Some(raw) => Entry::from_raw(raw),
            None => {
                let entry = self.in_table(&map.root, page)?;
                map.heads.keep(page, entry.raw());
                entry
            }
        };
        let deeper = entry.depth() >= table::DEPTH_TOLD;
        let head = Head { lsn: entry.lsn(), base: Lsn::NONE, depth: entry.depth(), deeper };
        Ok((!entry.is_empty()).then_some(head))
    }

    /// The page's entry in the table.
    fn in_table(&self, root: &Root, page: PageId) -> Result<Entry, ReadError> {
        if let Some(entry) = root.pending.get(page) {
            return Ok(entry);
        }
        let Some(upper) = root.upper(page) else { return Ok(Entry::default()) };
        let upper = self.node(page, upper)?;
        let leaf = Lsn(table::entry(&upper, table::in_upper(page)));
        if leaf.is_none() {
            return Ok(Entry::default());
        }
        let leaf = self.node(page, leaf)?;
        Ok(Entry::from_raw(table::entry(&leaf, table::in_leaf(page))))
    }

    /// A node of the table, through the cache.
    pub fn node(&self, page: PageId, lsn: Lsn) -> Result<Bytes, ReadError> {
        if let Some(node) = self.cached(lsn) {
            return Ok(node.bytes);
        }
        let record = self.record(page, lsn, NODE)?;
        if record.fields.kind != Kind::Table || !table::is_node(&record.payload) {
            return Err(ReadError::Corrupt { page, lsn, what: "it is no node of the page table" });
        }
        self.keep_node(lsn, record.payload.clone());
        Ok(record.payload)
    }

    /// One record, from the ring if it is still there. [`ReadError::ReadPointGone`] if a newer manifest gave it back.
    pub fn record(&self, page: PageId, lsn: Lsn, hint: usize) -> Result<Owned, ReadError> {
        let ring = self.front.as_ref().filter(|_| lsn.0 >= self.from_slots.load(Ordering::Relaxed));
        if let Some(record) = ring.and_then(|f| f.with_record(lsn, Owned::from)) {
            return Ok(record);
        }
        self.reader.record(lsn, hint).map_err(|faults| self.reader.lost(page, lsn, faults))
    }

    /// The page as its record at `head` left it.
    pub fn version(&self, page: PageId, head: Lsn) -> Result<Bytes, ReadError> {
        self.known_version(page, head).map(|(bytes, _)| bytes)
    }

    /// ... and as what version users know it.
    pub fn known_version(&self, page: PageId, head: Lsn) -> Result<(Bytes, Lsn), ReadError> {
        let known = |was: Lsn| if was.is_none() { head } else { was };
        if let Some(cached) = self.cache.get(&head) {
            return Ok((cached.bytes, known(cached.was)));
        }
        let (mut was, mut depth) = (Lsn::NONE, 0);
        let page_size = self.reader.page_size() as usize;
        let corrupt = |lsn, what| ReadError::Corrupt { page, lsn, what };
        let mut deltas: Vec<Owned> = Vec::new();
        let mut at = head;
        let (image, base) = loop {
            if at != head
                && let Some(Cached { bytes, base, .. }) = self.cached(at)
            {
                break (bytes, base);
            }
            let record = self.record(page, at, page_size + 96)?;
            if at == head {
                (was, depth) = (record.fields.was, record.fields.depth);
            }
            if record.fields.page != page.0 {
                return Err(corrupt(at, "it is of another page"));
            }
            match record.fields.kind {
                Kind::Image if record.payload.is_empty() => break (vec![0; page_size].into(), at),
                Kind::Image if record.payload.len() == page_size => break (record.payload, at),
                Kind::Image => return Err(corrupt(at, "its image has another length than a page")),
                Kind::Delta => {
                    let next = record.fields.prev;
                    if record.fields.offset as usize + record.payload.len() > page_size {
                        return Err(corrupt(at, "it changes bytes past the page's end"));
                    }
                    if next.is_none() || next >= at || deltas.len() == CHAIN_MAX {
                        return Err(corrupt(at, "its chain has no image"));
                    }
                    deltas.push(record);
                    at = next;
                }
                _ => return Err(corrupt(at, "it is no change of a page")),
            }
        };
        if image.len() != page_size {
            return Err(corrupt(at, "its image has another length than a page"));
        }
        let bytes = if deltas.is_empty() {
            image
        } else {
            let mut page = BytesMut::from(&image[..]);
            for delta in deltas.iter().rev() {
                let at = delta.fields.offset as usize;
                page[at..at + delta.payload.len()].copy_from_slice(&delta.payload);
            }
            page.freeze()
        };
        self.keep(head, Cached { bytes: bytes.clone(), was, base, depth });
        Ok((bytes, known(was)))
    }
}

/// A version as a head; none if it frees the page.
pub fn head_of(v: Version) -> Option<Head> {
    (!v.free).then_some(Head { lsn: v.lsn, base: v.base, depth: v.depth, deeper: false })
}
