//! A mini-transaction: changes of pages that are applied all or none.

use crate::lsn::{Lsn, PageId};
use crate::spans::{self, At};
use crate::volume::commit::Commit;
use crate::volume::error::{ReadError, WriteError};
use crate::volume::page::Page;
use crate::volume::shared::Shared;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One change, in the MTR's own memory.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub page: PageId,
    pub what: What,
    /// The first change of a page that the MTR allocated.
    pub fresh: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A page of zeros: allocated, never put.
    Zero,
    Put(Bytes),
    Patch {
        offset: u32,
        bytes: Bytes,
    },
    Free,
}

/// What an MTR wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub changes: Vec<Change>,
    pub expected: Vec<(PageId, Lsn)>,
    /// It is reclaiming's: pages are written anew as they are.
    pub moved: HashMap<PageId, Moved>,
    /// ... out of more than a frame: it leaves the room in which one can be emptied.
    pub wide: bool,
    /// How often the volume had been rewound when it began.
    pub timeline: u64,
}

/// A page that is written anew, and stays the same version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    /// Its newest record until now, or what that stood for.
    pub was: Lsn,
    /// The image that stays: the MTR's deltas are the whole chain over it. None: the MTR brings the image.
    pub base: Option<Lsn>,
}

/// How many deltas an MTR would add to a page's chain.
#[derive(Clone, Copy, Default)]
pub(crate) struct Depths {
    /// Over the version before it.
    pub below: usize,
    /// ... and the bytes of the largest.
    pub largest: usize,
    /// Over a whole page of its own, the most.
    pub own: usize,
    /// Its last version stands on a whole page of its own.
    pub stands_alone: bool,
    now: usize,
    freed: bool,
}

impl Content {
    /// Of each page that is patched, in order: what is read for them is read in the same order again. Not of pages that
    /// the MTR frees: nobody reads what was before.
    pub fn depths(&self) -> BTreeMap<PageId, Depths> {
        let mut all: BTreeMap<PageId, Depths> = BTreeMap::new();
        for change in &self.changes {
            let d = all.entry(change.page).or_default();
            match change.what {
                What::Zero | What::Put(_) => (d.stands_alone, d.now) = (true, 0),
                What::Patch { .. } if d.stands_alone => {
                    d.now += 1;
                    d.own = d.own.max(d.now);
                }
                What::Patch { ref bytes, .. } => (d.below, d.largest) = (d.below + 1, d.largest.max(bytes.len())),
                What::Free => d.freed = true,
            }
        }
        all.retain(|_, d| (d.below > 0 || d.own > 0) && !d.freed);
        all
    }

    /// It does nothing but free pages.
    pub fn only_frees(&self) -> bool {
        self.changes.iter().all(|c| matches!(c.what, What::Free))
    }

    /// Pages that it frees.
    pub fn freed(&self) -> HashSet<PageId> {
        self.changes.iter().filter(|c| matches!(c.what, What::Free)).map(|c| c.page).collect()
    }

    /// The page as the MTR leaves it, from the version before it.
    pub fn folded(&self, page: PageId, before: Bytes) -> Bytes {
        let mut now = BytesMut::from(before);
        for change in self.changes.iter().filter(|c| c.page == page) {
            match &change.what {
                What::Zero => now.fill(0),
                What::Put(image) => now.copy_from_slice(image),
                What::Patch { offset, bytes } => {
                    now[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
                }
                What::Free => (),
            }
        }
        now.freeze()
    }
}

/// A mini-transaction: redo records that are applied all or none.
///
/// Nothing is logged before [`commit`](Mtr::commit); dropping it is the abort, costs nothing and writes nothing.
/// The first wrong call is kept, and `commit` (and [`read`](Mtr::read)) returns it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
/// # let volume = quorate::Volume::create(dir.path(), &quorate::Options::default())?;
/// let mut mtr = volume.begin();
/// let page = mtr.alloc()?;
/// mtr.put(page, vec![1; 16 << 10]).patch(page, 100, b"hello");
/// mtr.commit()?.wait()?;
/// assert_eq!(&volume.read(page)?[100..105], b"hello");
/// # volume.close()?;
/// # Ok(()) }
/// ```
pub struct Mtr {
    shared: Arc<Shared>,
    content: Content,
    /// Ids that it was given, and whether their pages were changed since.
    allocated: BTreeMap<PageId, bool>,
    wrong: Option<WriteError>,
}

impl Mtr {
    pub(crate) fn new(shared: Arc<Shared>) -> Mtr {
        let content = Content { timeline: shared.rewinding.timeline(), ..Content::default() };
        Mtr { shared, content, allocated: BTreeMap::new(), wrong: None }
    }

    /// A page id that is nobody else's until this MTR ends. Never put, it becomes a page of zeros.
    ///
    /// # Errors
    /// [`WriteError::OutOfPages`] when all ids are in use, and what an earlier call did wrong.
    pub fn alloc(&mut self) -> Result<PageId, WriteError> {
        if let Some(wrong) = &self.wrong {
            return Err(again(wrong));
        }
        self.shared.check_open()?;
        self.check_timeline()?;
        let page = self.shared.alloc.lock().take()?;
        self.allocated.insert(page, false);
        Ok(page)
    }

    /// The page with this MTR's own changes, over the newest appended version, which may not be durable yet.
    ///
    /// # Errors
    /// [`ReadError::NoSuchPage`] for a page that does not exist, and what an earlier call did wrong.
    pub fn read(&self, page: PageId) -> Result<Page, ReadError> {
        if let Some(wrong) = &self.wrong {
            return Err(ReadError::Mtr(Box::new(again(wrong))));
        }
        if self.shared.reads.closed.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(ReadError::Closed);
        }
        self.check_timeline().map_err(|e| ReadError::Mtr(Box::new(e)))?;
        let own = self.content.changes.iter().filter(|c| c.page == page);
        let size = self.shared.geometry.page_size as usize;
        let zeros = || Page::new(page, Lsn::NONE, Bytes::from(vec![0; size]));
        let mut now: Option<Page> = None;
        let mut freed = false;
        for change in own {
            if freed {
                // `commit` will say so, too.
                return Err(ReadError::NoSuchPage(page));
            }
            let bytes = match &change.what {
                What::Zero => Bytes::from(vec![0; size]),
                What::Put(image) => image.clone(),
                What::Free => {
                    (freed, now) = (true, None);
                    continue;
                }
                What::Patch { offset, bytes } => {
                    let before = match now.take() {
                        Some(page) => page,
                        None if self.allocated.contains_key(&page) => zeros(),
                        None => self.shared.read_newest(page)?,
                    };
                    let mut image = BytesMut::from(&before[..]);
                    image[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
                    image.freeze()
                }
            };
            now = Some(Page::new(page, Lsn::NONE, bytes));
        }
        match now {
            _ if freed => Err(ReadError::NoSuchPage(page)),
            Some(page) => Ok(page),
            None if self.allocated.contains_key(&page) => Ok(zeros()),
            None => self.shared.read_newest(page),
        }
    }

    /// Replaces the whole page.
    pub fn put(&mut self, page: PageId, image: impl Into<Bytes>) -> &mut Mtr {
        let image = image.into();
        let page_size = self.shared.geometry.page_size;
        if image.len() != page_size as usize {
            let len = image.len();
            return self.is_wrong(WriteError::ImageLength { page, len, page_size });
        }
        self.change(page, What::Put(image))
    }

    /// Replaces bytes of the page, from `offset` on. It reads no page: the last writer wins, byte by byte.
    pub fn patch(&mut self, page: PageId, offset: u32, bytes: &[u8]) -> &mut Mtr {
        let (len, page_size) = (bytes.len(), self.shared.geometry.page_size);
        if offset as usize + len > page_size as usize {
            return self.is_wrong(WriteError::PatchRange { page, offset, len, page_size });
        }
        if self.needs_zeros(page) {
            self.change(page, What::Zero);
        }
        self.change(page, What::Patch { offset, bytes: Bytes::copy_from_slice(bytes) })
    }

    /// The page is no more; its id may be given out again. Page 0 cannot be freed.
    pub fn free(&mut self, page: PageId) -> &mut Mtr {
        if page == PageId::ROOT {
            return self.is_wrong(WriteError::RootPage);
        }
        if self.needs_zeros(page) {
            // Allocated here and never put: nobody will have seen it.
            self.allocated.remove(&page);
            self.shared.alloc.lock().give_back([page], self.content.timeline);
            return self;
        }
        self.change(page, What::Free)
    }

    /// Commits only if the page is still the version that was seen: how two writers avoid a lost update.
    pub fn expect(&mut self, seen: &Page) -> &mut Mtr {
        self.content.expected.push((seen.id(), seen.lsn()));
        self
    }

    /// The volume was not rewound since it began.
    fn check_timeline(&self) -> Result<(), WriteError> {
        if self.content.timeline == self.shared.rewinding.timeline() { Ok(()) } else { Err(WriteError::Rewound) }
    }

    fn needs_zeros(&self, page: PageId) -> bool {
        self.allocated.get(&page) == Some(&false)
    }

    fn change(&mut self, page: PageId, what: What) -> &mut Mtr {
        let fresh = self.needs_zeros(page);
        if self.wrong.is_none() {
            self.allocated.entry(page).and_modify(|changed| *changed = true);
            self.content.changes.push(Change { page, what, fresh });
        }
        self
    }

    fn is_wrong(&mut self, e: WriteError) -> &mut Mtr {
        self.wrong.get_or_insert(e);
        self
    }

    /// The finished content: pages that were allocated and never put become zeros.
    pub(crate) fn content(&mut self) -> Result<&Content, WriteError> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let untouched: Vec<PageId> = self.allocated.iter().filter(|(_, changed)| !**changed).map(|(p, _)| *p).collect();
        for page in untouched {
            self.change(page, What::Zero);
        }
        Ok(&self.content)
    }

    /// Appends the MTR. The ticket says when it is durable; without changes it stands for everything appended so far.
    ///
    /// # Errors
    /// The first wrong call; [`WriteError::Conflict`] when an expected page has changed; [`WriteError::OutOfSpace`]
    /// before anything is appended. After an error nothing of the MTR is in the log.
    pub fn commit(mut self) -> Result<Commit, WriteError> {
        spans::mark(At::Begun);
        self.shared.check_open()?;
        self.content()?;
        self.check_timeline()?;
        if self.content.changes.is_empty() && self.content.expected.is_empty() {
            return Ok(self.shared.clone().ticket(self.shared.appended()));
        }
        let end = if self.content.changes.is_empty() {
            self.shared.check_expected(&self.content)?;
            self.shared.appended()
        } else {
            self.shared.append(&self.content)?
        };
        self.appended();
        Ok(self.shared.clone().ticket(end))
    }

    /// The MTR is in the log: its allocated ids are pages now, and its freed pages' ids are free.
    pub(crate) fn appended(&mut self) {
        self.allocated.clear();
        if self.content.changes.iter().any(|c| matches!(c.what, What::Free)) {
            // Of each page the last change counts.
            let mut seen = HashSet::new();
            let last = self.content.changes.iter().rev().filter(|c| seen.insert(c.page));
            let freed: Vec<PageId> = last.filter(|c| matches!(c.what, What::Free)).map(|c| c.page).collect();
            self.shared.freed_pages.fetch_add(freed.len() as u64, Ordering::Relaxed);
            self.shared.nothing_moves.store(false, Ordering::Relaxed);
            self.shared.alloc.lock().give_back(freed, self.content.timeline);
        }
    }
}

impl Drop for Mtr {
    fn drop(&mut self) {
        // After a rewind they may be others' pages.
        if !self.allocated.is_empty() {
            let ids = std::mem::take(&mut self.allocated).into_keys();
            self.shared.alloc.lock().give_back(ids, self.content.timeline);
        }
    }
}

impl std::fmt::Debug for Mtr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mtr").field("changes", &self.content.changes.len()).finish_non_exhaustive()
    }
}

/// A kept error once more.
fn again(e: &WriteError) -> WriteError {
    match e {
        WriteError::ImageLength { page, len, page_size } => {
            WriteError::ImageLength { page: *page, len: *len, page_size: *page_size }
        }
        WriteError::PatchRange { page, offset, len, page_size } => {
            WriteError::PatchRange { page: *page, offset: *offset, len: *len, page_size: *page_size }
        }
        WriteError::RootPage => WriteError::RootPage,
        WriteError::Rewound => WriteError::Rewound,
        other => WriteError::ReadOnly(other.to_string()),
    }
}
