//! Views: durable, unchanging states. Each is a pin in memory; it is revoked when it is too old, the oldest when pins hold too
//! much.

use crate::history::diff::{self, State};
use crate::lsn::{Lsn, PageId};
use crate::page::table;
use crate::page::version::{Map, Pages};
use crate::volume::error::ReadError;
use crate::volume::open::Handle;
use crate::volume::page::Page;
use crate::volume::shared::Shared;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// A durable, unchanging state of the whole volume: everything acknowledged when it was taken, nothing later.
///
/// It copies nothing. One that is too old, or holds too much memory or space
/// ([`Options::view_max`](crate::Options::view_max)), is revoked: its reads then give [`ReadError::ReadPointGone`], never
/// wrong bytes.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
/// # let volume = quorate::Volume::create(dir.path(), &quorate::Options::default())?;
/// let before = volume.view();
/// let mut mtr = volume.begin();
/// mtr.patch(quorate::PageId::ROOT, 0, b"changed");
/// mtr.commit()?.wait()?;
/// assert_eq!(before.read(quorate::PageId::ROOT)?[0], 0);
/// assert_eq!(volume.view().read(quorate::PageId::ROOT)?[0], b'c');
/// # volume.close()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct View(Arc<Pinned>);

pub(crate) struct Pinned {
    reads: Arc<Reads>,
    lsn: Lsn,
    /// When it was taken, by the volume's clock.
    since: Duration,
    /// Taken away when the view is revoked.
    map: Mutex<Option<Arc<Map>>>,
}

/// The reading side of an open volume, with or without a writer.
pub(crate) struct Reads {
    pub pages: Pages,
    pub views: Mutex<Views>,
    pub closed: AtomicBool,
    /// The open volume whose reads they are, if it is one.
    pub writer: OnceLock<Weak<Handle>>,
}

/// A read that fails is tried again so often.
const READ_AGAIN: usize = 2;

/// To who reads at `at`.
fn gone(e: ReadError, at: Lsn) -> ReadError {
    if let ReadError::ReadPointGone(_) = e { ReadError::ReadPointGone(at) } else { e }
}

impl Reads {
    pub fn new(pages: Pages) -> Reads {
        Reads { pages, views: Mutex::default(), closed: AtomicBool::new(false), writer: OnceLock::new() }
    }

    /// The page's newest version below `at`.
    pub fn read(&self, page: PageId, at: impl Fn() -> Lsn) -> Result<Page, ReadError> {
        let read = || {
            let head = self.pages.newest(page, &at)?.ok_or(ReadError::NoSuchPage(page))?;
            let (bytes, lsn) = self.pages.known_version(page, head.lsn)?;
            Ok(Page::new(page, lsn, bytes))
        };
        for _ in 0..READ_AGAIN {
            match read() {
                // What an older table points to may just have been given back: the newer one knows better.
                Err(ReadError::Lost { .. } | ReadError::Corrupt { .. } | ReadError::ReadPointGone(_)) => (),
                other => return other,
            }
        }
        read().map_err(|e| gone(e, at()))
    }

    /// A view at a given point, taken now by a clock.
    pub fn view_at(self: &Arc<Self>, lsn: Lsn, since: Duration) -> View {
        self.view_of(self.pages.map(), lsn, since)
    }

    /// ... by these layers.
    pub fn view_of(self: &Arc<Self>, map: Arc<Map>, lsn: Lsn, since: Duration) -> View {
        let pinned = Arc::new(Pinned { reads: self.clone(), lsn, since, map: Mutex::new(Some(map)) });
        self.views.lock().add(&pinned);
        View(pinned)
    }

    /// Takes a view's layers away.
    pub fn revoke(&self, pinned: &Pinned) {
        if pinned.map.lock().take().is_some() {
            self.views.lock().remove(pinned.lsn);
        }
    }
}

/// The open views of a volume.
#[derive(Default)]
pub(crate) struct Views {
    open: BTreeMap<Lsn, usize>,
    all: Vec<Weak<Pinned>>,
}

impl Views {
    /// The read points of open views, in order.
    pub fn pins(&self) -> Vec<Lsn> {
        self.open.keys().copied().collect()
    }

    /// One reads above the first and not above the second.
    pub fn any_between(&self, old: Lsn, new: Lsn) -> bool {
        old < new && self.open.range((Bound::Excluded(old), Bound::Included(new))).next().is_some()
    }

    fn add(&mut self, pinned: &Arc<Pinned>) {
        *self.open.entry(pinned.lsn).or_default() += 1;
        self.all.retain(|w| w.strong_count() > 0);
        self.all.push(Arc::downgrade(pinned));
    }

    fn remove(&mut self, lsn: Lsn) {
        if let Some(count) = self.open.get_mut(&lsn) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&lsn);
            }
        }
    }

    pub fn count(&self) -> usize {
        self.open.values().sum()
    }

    /// The views that are not revoked, oldest first.
    pub fn oldest(&self) -> Vec<Arc<Pinned>> {
        let mut all: Vec<Arc<Pinned>> =
            self.all.iter().filter_map(Weak::upgrade).filter(|p| p.map.lock().is_some()).collect();
        all.sort_by_key(|p| p.lsn);
        all
    }
}

impl Pinned {
    /// The layers that the view holds on to.
    pub fn map(&self) -> Option<Arc<Map>> {
        self.map.lock().clone()
    }

    /// When it was taken.
    pub fn since(&self) -> Duration {
        self.since
    }
}

impl Shared {
    /// A view at VDL.
    pub fn view(&self) -> View {
        let now = self.clock.now();
        // Under the append lock: no version is pruned between reading VDL and leaving the pin.
        let append = self.front.lock();
        let view = self.reads.view_at(self.rewinding.cap(append.vdl()), now);
        drop(append);
        // The first one: from now on the background thread looks after them.
        if !self.views_are_timed.swap(true, Ordering::SeqCst) {
            self.background.wake_now();
        }
        view
    }
}

impl View {
    /// The page as it was.
    ///
    /// # Errors
    /// [`ReadError::NoSuchPage`] if it did not exist, [`ReadError::ReadPointGone`] if the view was revoked, or if another
    /// process writes the volume and has given back what is needed here.
    pub fn read(&self, page: PageId) -> Result<Page, ReadError> {
        let map = self.map()?;
        let pages = &self.0.reads.pages;
        let read = || {
            let head = pages.head(&map, page, || self.0.lsn)?;
            self.still()?;
            let head = head.ok_or(ReadError::NoSuchPage(page))?;
            let (bytes, lsn) = pages.known_version(page, head.lsn)?;
            Ok(Page::new(page, lsn, bytes))
        };
        read().map_err(|e| gone(e, self.0.lsn))
    }

    /// Everything below was durable; nothing at or above is seen.
    pub fn lsn(&self) -> Lsn {
        self.0.lsn
    }

    /// The ids of all pages that existed, in order. One node of the page table is read at a time.
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn pages(&self) -> Result<Vec<PageId>, ReadError> {
        let mut all = Vec::new();
        let each = self.each_page(|page| {
            all.push(page);
            Ok(())
        });
        each.map_err(|e| gone(e, self.0.lsn))?;
        Ok(all)
    }

    /// The ids of the pages that are not the same in both views, in order: changed, new, or gone. Nodes of the page table are
    /// read where they differ, and no page. A page that was written anew between the two to give space back is told, too.
    ///
    /// ```
    /// # use quorate::{Options, PageId, Volume};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let volume = Volume::create(dir.path(), &Options::default())?;
    /// let before = volume.view();
    /// let mut mtr = volume.begin();
    /// let new = mtr.alloc()?;
    /// mtr.commit()?.wait()?;
    /// let after = volume.view();
    /// assert_eq!(before.diff(&after)?, [new]);
    /// assert_eq!(after.diff(&after)?, []);
    /// # volume.close()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`View::read`], of either view; [`ReadError::OtherVolume`] if the views are of two volumes.
    pub fn diff(&self, other: &View) -> Result<Vec<PageId>, ReadError> {
        let (a, b) = (self.map()?, other.map()?);
        if self.0.reads.pages.reader.volume() != other.0.reads.pages.reader.volume() {
            return Err(ReadError::OtherVolume);
        }
        let (one, two) = (&self.0, &other.0);
        let one = State { pages: &one.reads.pages, map: &a, at: one.lsn };
        let two = State { pages: &two.reads.pages, map: &b, at: two.lsn };
        let differ = diff::pages(&one, &two).map_err(|e| gone(e, self.0.lsn.min(other.0.lsn)))?;
        self.still()?;
        other.still()?;
        Ok(differ)
    }

    /// Hands the ids of all pages that existed to `each`, in order. Memory is bounded by the layers' own.
    pub(crate) fn each_page(&self, mut each: impl FnMut(PageId) -> Result<(), ReadError>) -> Result<(), ReadError> {
        let map = self.map()?;
        let pages = &self.0.reads.pages;
        // Whether a page that changed since the table was written is freed: the newest layer has the last word.
        let layers = map.frozen.iter().chain([&map.current]);
        let changed: BTreeMap<PageId, bool> =
            layers.flat_map(|l| l.sorted(self.0.lsn)).map(|(page, version)| (page, version.free)).collect();
        self.still()?;
        let mut changed = changed.into_iter().peekable();
        let pending = &map.root.pending;
        let uppers = (map.root.top.len() as u64).max(pending.leaves_end().div_ceil(table::FANOUT));
        for i in 0..uppers {
            let first = i * table::FANOUT * table::FANOUT;
            // Leaves that are there, and those that are only pending.
            let upper = map.root.upper(PageId(first));
            let leaves = upper.map(|upper| pages.node(PageId(first), upper)).transpose()?;
            let mut leaves = leaves.map_or(Vec::new(), |node| table::numbers(&node));
            leaves.resize(table::FANOUT as usize, 0);
            let new: BTreeSet<u64> = pending.leaves(i * table::FANOUT, (i + 1) * table::FANOUT).collect();
            for (j, leaf) in leaves.into_iter().enumerate() {
                let number = i * table::FANOUT + j as u64;
                if leaf == 0 && !new.contains(&number) {
                    continue;
                }
                let first = first + j as u64 * table::FANOUT;
                while let Some((page, freed)) = changed.next_if(|(p, _)| p.0 < first) {
                    if !freed {
                        each(page)?;
                    }
                }
                let leaf = if leaf == 0 { Bytes::new() } else { pages.node(PageId(first), Lsn(leaf))? };
                let later: BTreeMap<usize, table::Entry> = pending.in_leaf(number).collect();
                let is_free = |k: usize| later.get(&k).map_or_else(|| table::entry(&leaf, k) == 0, |e| e.is_empty());
                for k in 0..table::FANOUT {
                    let page = PageId(first + k);
                    let freed = changed.next_if(|(p, _)| *p == page).map(|(_, freed)| freed);
                    if !freed.unwrap_or_else(|| is_free(k as usize)) {
                        each(page)?;
                    }
                }
            }
        }
        changed.filter(|(_, freed)| !freed).try_for_each(|(page, _)| each(page))
    }

    /// The layers, unless it was revoked.
    pub(crate) fn layers(&self) -> Option<Arc<Map>> {
        self.0.map()
    }

    /// The open volume of which it is a view.
    pub(crate) fn writer(&self) -> Option<Arc<Handle>> {
        self.0.reads.writer.get().and_then(Weak::upgrade)
    }

    pub(crate) fn page_size(&self) -> u32 {
        self.0.reads.pages.reader.page_size()
    }

    pub(crate) fn is_of(&self, volume: uuid::Uuid) -> bool {
        self.0.reads.pages.reader.volume() == volume
    }

    /// It was taken of this handle, and pins what it reads.
    pub(crate) fn is_by(&self, reads: &Arc<Reads>) -> bool {
        Arc::ptr_eq(&self.0.reads, reads)
    }

    /// It was not revoked until now: what was found in its layers was there, and no newer version had taken its place.
    fn still(&self) -> Result<(), ReadError> {
        if self.0.map.lock().is_some() { Ok(()) } else { Err(ReadError::ReadPointGone(self.0.lsn)) }
    }

    fn map(&self) -> Result<Arc<Map>, ReadError> {
        if self.0.reads.closed.load(Ordering::SeqCst) {
            return Err(ReadError::Closed);
        }
        self.0.map().ok_or(ReadError::ReadPointGone(self.0.lsn))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.map.lock().take().is_some() {
            self.reads.views.lock().remove(self.lsn);
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("lsn", &self.0.lsn).finish()
    }
}
