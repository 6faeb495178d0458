//! The page table: a radix tree of LSNs, whose nodes are records of the log. An entry is the LSN of the page's newest
//! record as of the last checkpoint; an empty entry is a free page id.
//!
//! Two levels of nodes with 2,048 entries each, and the roots of the upper level in the manifest. An entry's low three
//! bits (LSNs are multiples of 8) hold the record's depth, 7 meaning 7 or more.

use crate::lsn::{Lsn, PageId};
use crate::page::pending::Pending;
use bytes::Bytes;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

/// Entries of a node.
pub const FANOUT: u64 = 2048;
/// Entries of the top: all page ids.
pub const TOP_MAX: u64 = PageId::LIMIT / FANOUT / FANOUT;
/// The deepest chain that an entry can tell.
pub const DEPTH_TOLD: u8 = 7;

/// The newest record of a page, as the table tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry(u64);

impl Entry {
    pub fn new(lsn: Lsn, depth: u8) -> Entry {
        debug_assert!(lsn.0.is_multiple_of(8));
        Entry(lsn.0 | u64::from(depth.min(DEPTH_TOLD)))
    }

    /// As it stands in a leaf.
    pub fn raw(self) -> u64 {
        self.0
    }

    pub fn from_raw(raw: u64) -> Entry {
        Entry(raw)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn lsn(self) -> Lsn {
        Lsn(self.0 & !7)
    }

    /// At least this many deltas; exact below [`DEPTH_TOLD`].
    pub fn depth(self) -> u8 {
        (self.0 & 7) as u8
    }
}

/// Level of the records of runs: they are no nodes of the tree.
pub const RUN_LEVEL: u8 = 2;

/// Where the nodes are, upper nodes by `page / FANOUT^2`; and what runs say beyond the leaves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Root {
    pub top: Vec<Lsn>,
    /// The records of runs, in the order in which they were written.
    pub runs: Vec<Lsn>,
    /// What is in them, and in no leaf.
    pub pending: Pending,
}

impl Root {
    /// The upper node over a page; none if it has no pages.
    pub fn upper(&self, page: PageId) -> Option<Lsn> {
        self.top.get((page.0 / FANOUT / FANOUT) as usize).copied().filter(|l| !l.is_none())
    }
}

/// Where in its upper node the leaf of a page stands.
pub fn in_upper(page: PageId) -> usize {
    (page.0 / FANOUT % FANOUT) as usize
}

/// Where in its leaf a page stands.
pub fn in_leaf(page: PageId) -> usize {
    (page.0 % FANOUT) as usize
}

/// One entry of a node's payload; trailing empty entries are not stored.
pub fn entry(node: &[u8], index: usize) -> u64 {
    <[U64]>::ref_from_bytes(node).ok().and_then(|n| n.get(index)).map_or(0, |e| e.get())
}

/// A node's payload as numbers.
pub fn numbers(node: &[u8]) -> Vec<u64> {
    <[U64]>::ref_from_bytes(node).map(|n| n.iter().map(|e| e.get()).collect()).unwrap_or_default()
}

/// Numbers as a node's payload, trailing zeros left out.
pub fn payload(numbers: &[u64]) -> Bytes {
    let len = numbers.iter().rposition(|&n| n != 0).map_or(0, |i| i + 1);
    let raw: Vec<U64> = numbers[..len].iter().map(|&n| U64::new(n)).collect();
    Bytes::copy_from_slice(raw.as_bytes())
}

/// A node's payload is one: whole numbers, no more than fit.
pub fn is_node(payload: &[u8]) -> bool {
    payload.len().is_multiple_of(8) && payload.len() as u64 <= FANOUT * 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_entry_tells_address_and_depth() {
        let e = Entry::new(Lsn(4096 + 8), 3);
        assert_eq!((e.lsn(), e.depth(), e.is_empty()), (Lsn(4104), 3, false));
        assert_eq!(Entry::new(Lsn(8), 200).depth(), DEPTH_TOLD);
        assert!(Entry::default().is_empty());
    }

    #[test]
    fn two_levels_under_the_top_hold_every_page() {
        assert_eq!(TOP_MAX * FANOUT * FANOUT, PageId::LIMIT);
        let last = PageId(PageId::LIMIT - 1);
        let root = Root { top: vec![Lsn(8); TOP_MAX as usize], ..Root::default() };
        assert_eq!((root.upper(last), root.upper(PageId(PageId::LIMIT))), (Some(Lsn(8)), None));
        assert_eq!((in_upper(last), in_leaf(last)), (FANOUT as usize - 1, FANOUT as usize - 1));
    }

    #[test]
    fn a_node_leaves_out_what_is_empty_behind() {
        let mut n = vec![0; FANOUT as usize];
        n[3] = 77;
        let p = payload(&n);
        assert_eq!((p.len(), entry(&p, 3), entry(&p, 2), entry(&p, 4), entry(&p, 2047)), (32, 77, 0, 0, 0));
        assert_eq!(numbers(&p), vec![0, 0, 0, 77]);
        assert_eq!(payload(&[0; 5]).len(), 0);
        assert!(is_node(&p) && !is_node(&p[1..]) && is_node(&[]));
        n[FANOUT as usize - 1] = 78;
        let full = payload(&n);
        assert!(full.len() == 8 * n.len() && is_node(&full) && !is_node(&[&full[..], &[0; 8]].concat()));
    }

    /// Nodes by address, as a log would hold them, changed the way a checkpoint does it: a node is never rewritten.
    #[derive(Default)]
    struct Tree {
        nodes: BTreeMap<Lsn, Bytes>,
        root: Root,
    }

    impl Tree {
        fn node(&self, lsn: Option<Lsn>) -> Vec<u64> {
            let mut numbers = lsn.filter(|l| !l.is_none()).map_or(Vec::new(), |l| numbers(&self.nodes[&l]));
            numbers.resize(FANOUT as usize, 0);
            numbers
        }

        fn append(&mut self, numbers: &[u64]) -> Lsn {
            let lsn = Lsn(8 + 8 * self.nodes.len() as u64);
            self.nodes.insert(lsn, payload(numbers));
            lsn
        }

        fn set(&mut self, page: PageId, entry: Entry) {
            let mut upper = self.node(self.root.upper(page));
            let mut leaf = self.node(Some(Lsn(upper[in_upper(page)])));
            leaf[in_leaf(page)] = entry.raw();
            upper[in_upper(page)] = self.append(&leaf).0;
            let at = (page.0 / FANOUT / FANOUT) as usize;
            self.root.top.resize(self.root.top.len().max(at + 1), Lsn::NONE);
            self.root.top[at] = self.append(&upper);
        }

        fn get(&self, root: &Root, page: PageId) -> Entry {
            let leaf = root.upper(page).map_or(0, |upper| entry(&self.nodes[&upper], in_upper(page)));
            Entry::from_raw(if leaf == 0 { 0 } else { entry(&self.nodes[&Lsn(leaf)], in_leaf(page)) })
        }
    }

    proptest! {
        /// Pages near each other, and at the ends of nodes and of the id space; an old root still tells the old state.
        #[test]
        fn the_tree_is_a_map(steps in prop::collection::vec((0usize..7, 0u64..4, 0u64..1000, 0u8..12), 1..60)) {
            let bases = [0, FANOUT - 2, 5 * FANOUT, FANOUT * FANOUT - 2, 9 * FANOUT * FANOUT, PageId::LIMIT - 4, 77];
            let (mut tree, mut map) = (Tree::default(), BTreeMap::new());
            let mut old = None;
            for (i, (base, offset, lsn, depth)) in steps.iter().enumerate() {
                let page = PageId(bases[*base] + offset);
                let new = if *lsn == 0 { Entry::default() } else { Entry::new(Lsn(lsn * 8), *depth) };
                tree.set(page, new);
                map.insert(page, new);
                if i == 20 {
                    old = Some((tree.root.clone(), map.clone()));
                }
            }
            let now = (tree.root.clone(), map);
            for (root, map) in old.iter().chain([&now]) {
                for page in bases.iter().flat_map(|b| (0..4).map(move |o| PageId(b + o))) {
                    prop_assert_eq!(tree.get(root, page), map.get(&page).copied().unwrap_or_default());
                }
            }
            prop_assert!(tree.root.top.len() as u64 <= TOP_MAX);
        }
    }
}
