//! In which pages do two states differ? The tables tell, and no page is read: nodes that both have at the same address are
//! the same, and what lies below them is skipped.

use crate::lsn::{Lsn, PageId};
use crate::page::table::{self, FANOUT};
use crate::page::version::{Head, Map, Pages};
use crate::volume::error::ReadError;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A state: what lies below an address, by these layers.
pub struct State<'a> {
    pub pages: &'a Pages,
    pub map: &'a Map,
    pub at: Lsn,
}

impl State<'_> {
    /// Pages of which the layers over the leaves have something to tell.
    fn told(&self) -> impl Iterator<Item = PageId> + '_ {
        let layers = self.map.frozen.iter().chain([&self.map.current]);
        layers.flat_map(|l| l.sorted(self.at)).map(|(page, _)| page)
    }

    fn head(&self, page: PageId) -> Result<Option<Head>, ReadError> {
        self.pages.head(self.map, page, || self.at)
    }

    /// What stands in a node; nothing where there is none.
    fn node(&self, first: PageId, at: Lsn) -> Result<Bytes, ReadError> {
        if at.is_none() { Ok(Bytes::new()) } else { self.pages.node(first, at) }
    }
}

/// The pages whose newest records are not the same, in order.
pub fn pages(a: &State<'_>, b: &State<'_>) -> Result<Vec<PageId>, ReadError> {
    let mut suspects: BTreeSet<PageId> = a.told().chain(b.told()).collect();
    let (one, other) = (&a.map.root, &b.map.root);
    if !Arc::ptr_eq(one, other) {
        let pending = |page: &PageId| one.pending.get(*page) != other.pending.get(*page);
        suspects.extend(one.pending.all().chain(other.pending.all()).map(|(page, _)| page).filter(pending));
        in_leaves(a, b, &mut suspects)?;
    }
    let mut differ = Vec::new();
    for page in suspects {
        let (one, other) = (a.head(page)?, b.head(page)?);
        if one.map(|h| h.lsn) != other.map(|h| h.lsn) {
            differ.push(page);
        }
    }
    Ok(differ)
}

/// Pages whose entries in the leaves differ.
fn in_leaves(a: &State<'_>, b: &State<'_>, suspects: &mut BTreeSet<PageId>) -> Result<(), ReadError> {
    for i in 0..a.map.root.top.len().max(b.map.root.top.len()) as u64 {
        let first = PageId(i * FANOUT * FANOUT);
        let upper = |s: &State<'_>| s.map.root.upper(first).unwrap_or(Lsn::NONE);
        if upper(a) == upper(b) {
            continue;
        }
        let (one, other) = (a.node(first, upper(a))?, b.node(first, upper(b))?);
        for j in 0..FANOUT {
            let first = PageId(first.0 + j * FANOUT);
            let (old, new) = (table::entry(&one, j as usize), table::entry(&other, j as usize));
            if old == new {
                continue;
            }
            let (old, new) = (a.node(first, Lsn(old))?, b.node(first, Lsn(new))?);
            let differs = |k: &u64| table::entry(&old, *k as usize) != table::entry(&new, *k as usize);
            suspects.extend((0..FANOUT).filter(differs).map(|k| PageId(first.0 + k)));
        }
    }
    Ok(())
}
