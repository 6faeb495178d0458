//! Files as pages, through the library's public face alone.
//!
//! Page 0 is the root: a table of directory chains, which a name's hash chooses from. A directory page holds entries:
//! name, length, and two pages of the file, `top` and `newest`. A file's data pages hang below a tree of index pages
//! whose top is `top`; all index pages of a file, whatever their level, are also chained from `newest` back to the
//! first. The tree is for reading in order; the chain is for freeing, from any state of an import.
//!
//! An import writes its pages in MTRs of bounded size, and each keeps the root's `pending` at the newest index page.
//! One last MTR puts the entry in place, moves a replaced file's chain to the root's `garbage`, and clears `pending`. So
//! a file is there whole or not at all. Whatever a crash leaves, in either chain, is freed by the next verb that writes:
//! one index page and its data pages an MTR, the root moving along in the same MTR.

use crate::common::Fail;
use bytes::{Bytes, BytesMut};
use quorate::{Commit, Mtr, Page, PageId, ReadError, View, Volume};
use std::collections::BTreeMap;

const ROOT_MAGIC: &[u8; 8] = b"QFROOT01";
const DIRECTORY_MAGIC: &[u8; 8] = b"QFDIR-01";
const INDEX_MAGIC: &[u8; 8] = b"QFINDX01";
/// In the root: the chain of an import under way, the chain of a file that is gone, then the directory chains.
const PENDING_AT: usize = 8;
const GARBAGE_AT: usize = 16;
const CHAINS_AT: usize = 64;
/// In a directory page: the next of its chain, bytes in use, entries.
const NEXT_AT: usize = 8;
const USED_AT: usize = 16;
const ENTRIES_AT: usize = 24;
/// In an index page: the index page before it, its level (0 above the data), ids. No child is page 0: a zero ends them.
const BEFORE_AT: usize = 8;
const LEVEL_AT: usize = 16;
const IDS_AT: usize = 24;
/// In an entry, before its name.
const ENTRY: usize = 2 + 3 * 8;
/// Data in one MTR.
const BATCH: usize = 1 << 20;
/// An import waits for its oldest MTRs when so many are not acknowledged yet.
const IN_FLIGHT: usize = 4;
/// No tree of page ids is higher.
const LEVELS_MAX: u32 = 6;

/// Where pages are read: a view, or the volume itself.
pub trait Source {
    /// The page.
    fn page(&self, id: PageId) -> Result<Page, ReadError>;
}

impl Source for View {
    fn page(&self, id: PageId) -> Result<Page, ReadError> {
        self.read(id)
    }
}

impl Source for Volume {
    fn page(&self, id: PageId) -> Result<Page, ReadError> {
        self.read(id)
    }
}

/// A file that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// Its length in bytes.
    pub size: u64,
    top: u64,
    newest: u64,
}

fn number(page: &[u8], at: usize) -> u64 {
    page.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn strange(page: PageId, what: &str) -> Fail {
    Fail::new(format!("page {page} is no {what} of `quorate import`: was the volume written by another program?"))
}

fn checked(source: &impl Source, id: u64, magic: &[u8; 8], what: &str) -> Result<Page, Fail> {
    let page = source.page(PageId(id))?;
    if page.starts_with(magic) { Ok(page) } else { Err(strange(PageId(id), what)) }
}

/// The root; none in a volume that has no files yet.
fn root(source: &impl Source) -> Result<Option<Page>, Fail> {
    let page = source.page(PageId::ROOT)?;
    if page.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    if page.starts_with(ROOT_MAGIC) { Ok(Some(page)) } else { Err(strange(PageId::ROOT, "root")) }
}

/// Where in the root the chain of a name begins. The hash is part of the format.
fn chain_of(name: &str, page_size: usize) -> usize {
    let chains = ((page_size - CHAINS_AT) / 8) as u64;
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    CHAINS_AT + (hash % chains) as usize * 8
}

/// The entries of a directory page.
fn entries(page: &Page) -> Result<Vec<(String, Entry)>, Fail> {
    let damaged = || strange(page.id(), "directory");
    let used = number(page, USED_AT) as usize;
    let mut rest = page.get(ENTRIES_AT..used).ok_or_else(damaged)?;
    let mut all = Vec::new();
    while let [low, high, behind @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        let name = behind.get(24..24 + len).and_then(|n| std::str::from_utf8(n).ok()).ok_or_else(damaged)?;
        let entry = Entry { size: number(behind, 0), top: number(behind, 8), newest: number(behind, 16) };
        all.push((name.to_string(), entry));
        rest = &behind[24 + len..];
    }
    Ok(all)
}

fn directory_page(page_size: usize, next: u64, entries: &[(String, Entry)]) -> Bytes {
    let mut page = BytesMut::zeroed(page_size);
    let mut at = ENTRIES_AT;
    for (name, entry) in entries {
        page[at..at + 2].copy_from_slice(&(name.len() as u16).to_le_bytes());
        for (i, n) in [entry.size, entry.top, entry.newest].into_iter().enumerate() {
            page[at + 2 + 8 * i..at + 10 + 8 * i].copy_from_slice(&n.to_le_bytes());
        }
        page[at + ENTRY..at + ENTRY + name.len()].copy_from_slice(name.as_bytes());
        at += ENTRY + name.len();
    }
    page[..8].copy_from_slice(DIRECTORY_MAGIC);
    page[NEXT_AT..NEXT_AT + 8].copy_from_slice(&next.to_le_bytes());
    page[USED_AT..USED_AT + 8].copy_from_slice(&(at as u64).to_le_bytes());
    page.freeze()
}

fn bytes_of(entries: &[(String, Entry)]) -> usize {
    ENTRIES_AT + entries.iter().map(|(name, _)| ENTRY + name.len()).sum::<usize>()
}

/// Walks one chain of directory pages; `each` says whether to stop.
fn walk(
    source: &impl Source,
    first: u64,
    mut each: impl FnMut(&Page, Vec<(String, Entry)>) -> Result<bool, Fail>,
) -> Result<(), Fail> {
    let mut at = first;
    while at != 0 {
        let page = checked(source, at, DIRECTORY_MAGIC, "directory")?;
        at = number(&page, NEXT_AT);
        if each(&page, entries(&page)?)? {
            break;
        }
    }
    Ok(())
}

/// All files, by name.
pub fn list(source: &impl Source) -> Result<BTreeMap<String, Entry>, Fail> {
    let mut all = BTreeMap::new();
    if let Some(root) = root(source)? {
        for at in (CHAINS_AT..root.len() - 7).step_by(8) {
            walk(source, number(&root, at), |_, entries| {
                all.extend(entries);
                Ok(false)
            })?;
        }
    }
    Ok(all)
}

/// The file of that name.
pub fn find(source: &impl Source, name: &str) -> Result<Option<Entry>, Fail> {
    let Some(root) = root(source)? else { return Ok(None) };
    let mut found = None;
    walk(source, number(&root, chain_of(name, root.len())), |_, entries| {
        found = entries.into_iter().find(|(n, _)| n == name).map(|(_, e)| e);
        Ok(found.is_some())
    })?;
    Ok(found)
}

/// Hands a file's bytes to `each`, in order.
pub fn read(source: &impl Source, entry: Entry, each: &mut impl FnMut(&[u8]) -> Result<(), Fail>) -> Result<(), Fail> {
    let mut left = entry.size;
    if left > 0 {
        let top = checked(source, entry.top, INDEX_MAGIC, "index")?;
        read_below(source, &top, &mut left, each)?;
    }
    if left == 0 { Ok(()) } else { Err(strange(PageId(entry.top), "whole index")) }
}

/// The data pages of a file, in order.
pub fn pages(source: &impl Source, entry: Entry) -> Result<Vec<PageId>, Fail> {
    let mut all = Vec::new();
    let mut at = entry.newest;
    while at != 0 {
        let index = checked(source, at, INDEX_MAGIC, "index")?;
        if level(&index) == 0 {
            let mut ids: Vec<PageId> = ids(&index).map(PageId).collect();
            ids.append(&mut all);
            all = ids;
        }
        at = number(&index, BEFORE_AT);
    }
    Ok(all)
}

fn level(index: &[u8]) -> u32 {
    number(index, LEVEL_AT) as u32
}

fn ids(index: &[u8]) -> impl Iterator<Item = u64> + '_ {
    (IDS_AT..index.len() - 7).step_by(8).map(|at| number(index, at)).take_while(|id| *id != 0)
}

fn read_below(
    source: &impl Source,
    index: &Page,
    left: &mut u64,
    each: &mut impl FnMut(&[u8]) -> Result<(), Fail>,
) -> Result<(), Fail> {
    if level(index) > LEVELS_MAX {
        return Err(strange(index.id(), "index"));
    }
    for id in ids(index) {
        if level(index) == 0 {
            let data = source.page(PageId(id))?;
            let len = (data.len() as u64).min(*left) as usize;
            each(&data[..len])?;
            *left -= len as u64;
        } else {
            let child = checked(source, id, INDEX_MAGIC, "index")?;
            if level(&child) >= level(index) {
                return Err(strange(child.id(), "index"));
            }
            read_below(source, &child, left, each)?;
        }
    }
    Ok(())
}

/// The files of a volume that is open for writing.
pub struct Store<'a> {
    volume: &'a Volume,
    page_size: usize,
}

/// A node of the index that is being filled.
struct Node {
    page: PageId,
    count: usize,
    /// Ids of this MTR, not yet in the page.
    fresh: Vec<u8>,
}

/// Where an entry goes: a directory page, what is in it, and the page before it in its chain.
struct Place {
    page: Page,
    entries: Vec<(String, Entry)>,
    before: Option<PageId>,
}

/// An import under way.
struct Importing {
    /// From the data's level up.
    nodes: Vec<Node>,
    newest: u64,
    in_flight: Vec<Commit>,
}

impl<'a> Store<'a> {
    /// Makes the root where there is none, and frees what an earlier process left.
    pub fn new(volume: &'a Volume) -> Result<Store<'a>, Fail> {
        let page_size = volume.health().page_size as usize;
        let store = Store { volume, page_size };
        if root(volume)?.is_none() {
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, ROOT_MAGIC);
            mtr.commit()?.wait()?;
        }
        store.clean()?;
        Ok(store)
    }

    fn root(&self) -> Result<Page, Fail> {
        root(self.volume)?.ok_or_else(|| strange(PageId::ROOT, "root"))
    }

    /// Frees what hangs on the root's two chains.
    fn clean(&self) -> Result<(), Fail> {
        for at in [PENDING_AT, GARBAGE_AT] {
            let mut newest = number(&self.root()?, at);
            while newest != 0 {
                let index = checked(self.volume, newest, INDEX_MAGIC, "index")?;
                let mut mtr = self.volume.begin();
                if level(&index) == 0 {
                    for id in ids(&index) {
                        mtr.free(PageId(id));
                    }
                }
                mtr.free(index.id());
                newest = number(&index, BEFORE_AT);
                mtr.patch(PageId::ROOT, at as u32, &newest.to_le_bytes());
                drop(mtr.commit()?);
            }
        }
        Ok(self.volume.sync().wait()?)
    }

    /// Keeps what `read` yields under `name`. When this returns, it is acknowledged; the freeing of what it replaced is
    /// left to [`Store::end`].
    pub fn put(&self, name: &str, read: impl FnMut(&mut [u8]) -> Result<usize, Fail>) -> Result<u64, Fail> {
        self.put_pages(name, read).inspect_err(|_| {
            // What cannot be freed now is freed by the next verb that writes.
            let _ = self.clean();
        })
    }

    fn put_pages(&self, name: &str, mut read: impl FnMut(&mut [u8]) -> Result<usize, Fail>) -> Result<u64, Fail> {
        let mut importing = Importing { nodes: Vec::new(), newest: 0, in_flight: Vec::new() };
        let mut size = 0;
        let pages = (BATCH / self.page_size).max(1);
        loop {
            let mut batch = BytesMut::zeroed(pages * self.page_size);
            let len = fill(&mut batch, &mut read)?;
            size += len as u64;
            let mut mtr = self.volume.begin();
            let batch = batch.freeze();
            for at in (0..len).step_by(self.page_size) {
                let page = mtr.alloc()?;
                // The page's own copy: a slice would hold the whole batch for as long as it is cached.
                mtr.put(page, Bytes::copy_from_slice(&batch[at..at + self.page_size]));
                self.add(&mut importing, &mut mtr, 0, page)?;
            }
            let ended = len < batch.len();
            let top = if ended { self.finish(&mut importing, &mut mtr)? } else { 0 };
            for node in importing.nodes.iter_mut().filter(|n| !n.fresh.is_empty()) {
                let at = IDS_AT + 8 * node.count - node.fresh.len();
                mtr.patch(node.page, at as u32, &node.fresh);
                node.fresh.clear();
            }
            if ended {
                // The last pages, and the entry that makes the file exist.
                self.link(&mut mtr, name, Some(Entry { size, top, newest: importing.newest }))?;
                mtr.commit()?.wait()?;
                return Ok(size);
            }
            mtr.patch(PageId::ROOT, PENDING_AT as u32, &importing.newest.to_le_bytes());
            importing.in_flight.push(mtr.commit()?);
            if importing.in_flight.len() > IN_FLIGHT {
                importing.in_flight.remove(0).wait()?;
            }
        }
    }

    /// Adds a page to the index at a level; a full node makes place for a new one and is itself added above.
    fn add(&self, importing: &mut Importing, mtr: &mut Mtr, level: usize, child: PageId) -> Result<(), Fail> {
        let room = (self.page_size - IDS_AT) / 8;
        let full = importing.nodes.get(level).is_some_and(|n| n.count == room);
        if full || importing.nodes.len() == level {
            if full {
                let old = &importing.nodes[level];
                if !old.fresh.is_empty() {
                    mtr.patch(old.page, (IDS_AT + 8 * old.count - old.fresh.len()) as u32, &old.fresh);
                }
                let page = old.page;
                self.add(importing, mtr, level + 1, page)?;
            }
            let page = mtr.alloc()?;
            let mut image = BytesMut::zeroed(self.page_size);
            image[..8].copy_from_slice(INDEX_MAGIC);
            image[BEFORE_AT..BEFORE_AT + 8].copy_from_slice(&importing.newest.to_le_bytes());
            image[LEVEL_AT..LEVEL_AT + 8].copy_from_slice(&(level as u64).to_le_bytes());
            mtr.put(page, image.freeze());
            importing.newest = page.0;
            let node = Node { page, count: 0, fresh: Vec::new() };
            if full {
                importing.nodes[level] = node;
            } else {
                importing.nodes.push(node);
            }
        }
        let node = &mut importing.nodes[level];
        node.fresh.extend_from_slice(&child.0.to_le_bytes());
        node.count += 1;
        Ok(())
    }

    /// The last node of each level goes into the level above. Returns the top.
    fn finish(&self, importing: &mut Importing, mtr: &mut Mtr) -> Result<u64, Fail> {
        let mut level = 0;
        while level + 1 < importing.nodes.len() {
            let page = importing.nodes[level].page;
            self.add(importing, mtr, level + 1, page)?;
            level += 1;
        }
        Ok(importing.nodes.last().map_or(0, |n| n.page.0))
    }

    /// Puts an entry in place of the one of that name, or takes that away. False if there was none to take.
    fn link(&self, mtr: &mut Mtr, name: &str, entry: Option<Entry>) -> Result<bool, Fail> {
        let root = self.root()?;
        let chain = chain_of(name, self.page_size);
        let first = number(&root, chain);
        // The page that has the name, or else the first with room for it; and the page before.
        let mut place: Option<Place> = None;
        let mut old = None;
        let mut before = None;
        walk(self.volume, first, |page, entries| {
            old = entries.iter().find(|(n, _)| n == name).map(|(_, e)| *e);
            let room = bytes_of(&entries) + ENTRY + name.len() <= self.page_size;
            if old.is_some() || room && place.is_none() {
                place = Some(Place { page: page.clone(), entries, before });
            }
            before = Some(page.id());
            Ok(old.is_some())
        })?;
        match (place, entry) {
            (_, None) if old.is_none() => return Ok(false),
            (Some(Place { page, mut entries, before }), entry) => {
                entries.retain(|(n, _)| n != name);
                entries.extend(entry.map(|e| (name.to_string(), e)));
                let next = number(&page, NEXT_AT);
                if entries.is_empty() {
                    let (at, field) = before.map_or((PageId::ROOT, chain), |b| (b, NEXT_AT));
                    mtr.patch(at, field as u32, &next.to_le_bytes()).free(page.id());
                } else {
                    mtr.put(page.id(), directory_page(self.page_size, next, &entries));
                }
            }
            (None, Some(entry)) => {
                let page = mtr.alloc()?;
                mtr.put(page, directory_page(self.page_size, first, &[(name.to_string(), entry)]));
                mtr.patch(PageId::ROOT, chain as u32, &page.0.to_le_bytes());
            }
            (None, None) => return Ok(false),
        }
        let garbage = old.map_or(0, |e| e.newest);
        mtr.patch(PageId::ROOT, PENDING_AT as u32, &[0; 8]);
        mtr.patch(PageId::ROOT, GARBAGE_AT as u32, &garbage.to_le_bytes());
        Ok(true)
    }

    /// Takes a file away. False if there is none.
    pub fn remove(&self, name: &str) -> Result<bool, Fail> {
        let mut mtr = self.volume.begin();
        let removed = self.link(&mut mtr, name, None)?;
        if removed {
            mtr.commit()?.wait()?;
        }
        Ok(removed)
    }

    /// Frees the pages of what was replaced or removed.
    pub fn end(&self) -> Result<(), Fail> {
        self.clean()
    }
}

/// Reads until the buffer is full or there is no more.
fn fill(buffer: &mut [u8], read: &mut impl FnMut(&mut [u8]) -> Result<usize, Fail>) -> Result<usize, Fail> {
    let mut len = 0;
    while len < buffer.len() {
        match read(&mut buffer[len..])? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}
