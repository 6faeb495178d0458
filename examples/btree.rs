//! An ordered map, a B+ tree over 4 KiB pages, through the public API alone. And how it is tested: as one process after
//! another, killed, cut from power, on disks that rot and vanish, checked after every crash.
//!
//!     cargo run --release --features sim --example btree -- --seeds 0..200

use quorate::sim::{Failure, Report, Stage};
use quorate::{Commit, Mtr, Page, PageId, ReadError, Unknown, View, Volume, WriteError};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ops::Range;

const PAGE: usize = 4096;
/// A node other than the root is never emptier.
const LEAST: usize = PAGE / 4;
/// So that a node that is too full can always be split into two that are full enough.
const KEY_MAX: usize = 255;
const VALUE_MAX: usize = 500;

/// One page of the tree: level 0 holds keys and values, each level above keys and page ids. A key of an upper node is the
/// lowest that may be below its child; the leftmost is empty.
struct Node {
    level: u8,
    entries: Entries,
}

impl Node {
    fn decode(page: &Page) -> Node {
        let mut rest = &page[3..];
        let mut entry = || {
            let (key, value) = (usize::from(rest[0]), usize::from(u16::from_le_bytes([rest[1], rest[2]])));
            let whole = (rest[3..3 + key].to_vec(), rest[3 + key..3 + key + value].to_vec());
            rest = &rest[3 + key + value..];
            whole
        };
        let count = u16::from_le_bytes([page[1], page[2]]);
        Node { level: page[0], entries: (0..count).map(|_| entry()).collect() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut page = vec![self.level];
        page.extend((self.entries.len() as u16).to_le_bytes());
        for (key, value) in &self.entries {
            page.push(key.len() as u8);
            page.extend((value.len() as u16).to_le_bytes());
            page.extend(key.iter().chain(value));
        }
        page.resize(PAGE, 0);
        page
    }

    /// Bytes of its page that it takes; more than a page has while it waits to be split.
    fn size(&self) -> usize {
        3 + self.entries.iter().map(|(key, value)| 3 + key.len() + value.len()).sum::<usize>()
    }

    /// Where an upper node's child for the key is.
    fn position(&self, key: &[u8]) -> usize {
        self.entries.partition_point(|(k, _)| k.as_slice() <= key).saturating_sub(1)
    }

    fn child(&self, at: usize) -> PageId {
        page_id(&self.entries[at].1)
    }

    /// Sets or removes a leaf's entry. False if nothing changed.
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        let found = self.entries.binary_search_by(|(k, _)| k.as_slice().cmp(key));
        match (found, value) {
            (Ok(at), Some(value)) => self.entries[at].1 = value.to_vec(),
            (Err(at), Some(value)) => self.entries.insert(at, (key.to_vec(), value.to_vec())),
            (Ok(at), None) => _ = self.entries.remove(at),
            (Err(_), None) => return false,
        }
        true
    }

    /// Keeps the lower half of the bytes, and returns the upper.
    fn split(&mut self) -> Node {
        let (half, mut below, mut at) = (self.size() / 2, 0, 0);
        while below < half {
            below += 3 + self.entries[at].0.len() + self.entries[at].1.len();
            at += 1;
        }
        Node { level: self.level, entries: self.entries.split_off(at) }
    }
}

fn page_id(bytes: &[u8]) -> PageId {
    PageId(bytes.iter().take(8).rev().fold(0, |id, byte| id << 8 | u64::from(*byte)))
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The map. Page 0 says where the tree's root is; each change is one mini-transaction.
struct Map(Volume);

impl Map {
    /// The map of a volume; in a new one it makes an empty tree.
    fn open(volume: Volume) -> Result<Map, WriteError> {
        let first = volume.read(PageId::ROOT)?;
        if page_id(&first) == PageId::ROOT {
            let mut mtr = volume.begin();
            let root = mtr.alloc()?;
            mtr.expect(&first).patch(PageId::ROOT, 0, &root.0.to_le_bytes());
            mtr.put(root, Node { level: 0, entries: Vec::new() }.encode());
            mtr.commit()?.wait()?;
        }
        Ok(Map(volume))
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<Commit, WriteError> {
        assert!(!key.is_empty() && key.len() <= KEY_MAX && value.len() <= VALUE_MAX);
        self.change(key, Some(value))
    }

    fn remove(&self, key: &[u8]) -> Result<Commit, WriteError> {
        self.change(key, None)
    }

    /// Everything that is durable now, and stays as it is.
    fn snapshot(&self) -> Snapshot {
        Snapshot(self.0.view())
    }

    /// One change of the map. Another writer in the midst of it gives `Conflict`: every page that this one stands on is
    /// expected to be as it was read.
    fn change(&self, key: &[u8], value: Option<&[u8]>) -> Result<Commit, WriteError> {
        let mut mtr = self.0.begin();
        let first = self.read(&mut mtr, PageId::ROOT)?;
        let old = page_id(&first);
        let Some(node) = self.below(&mut mtr, old, key, value)? else { return mtr.commit() };
        let mut root = old;
        if node.size() > PAGE {
            // The tree grows: a new root above the old one, which is split.
            root = mtr.alloc()?;
            let mut above = Node { level: node.level + 1, entries: vec![(Vec::new(), old.0.to_le_bytes().into())] };
            self.settle(&mut mtr, &mut above, 0, node)?;
            mtr.put(root, above.encode());
        } else if node.level > 0 && node.entries.len() == 1 {
            // It shrinks: the only child is the root.
            root = node.child(0);
            mtr.free(old);
        } else {
            mtr.put(root, node.encode());
        }
        if root != old {
            mtr.patch(PageId::ROOT, 0, &root.0.to_le_bytes());
        }
        mtr.commit()
    }

    /// Changes what is below a page. Returns its node if that changed: not written yet, perhaps too full or too empty.
    fn below(&self, mtr: &mut Mtr, page: PageId, key: &[u8], value: Option<&[u8]>) -> Result<Option<Node>, WriteError> {
        let mut node = Node::decode(&self.read(mtr, page)?);
        if node.level == 0 {
            return Ok(node.set(key, value).then_some(node));
        }
        let at = node.position(key);
        let Some(child) = self.below(mtr, node.child(at), key, value)? else { return Ok(None) };
        Ok(self.settle(mtr, &mut node, at, child)?.then_some(node))
    }

    /// Writes a changed child: split if it is too full, joined with a neighbour if it is too empty. True if that changed
    /// the node above it.
    fn settle(&self, mtr: &mut Mtr, node: &mut Node, at: usize, mut child: Node) -> Result<bool, WriteError> {
        let (mut left, mut right) = (at, None);
        if child.size() < LEAST && node.entries.len() > 1 {
            left = at.max(1) - 1;
            let other = if at == left { left + 1 } else { left };
            let other = Node::decode(&self.read(mtr, node.child(other))?);
            let (lower, upper) = if at == left { (child, other) } else { (other, child) };
            child = lower;
            child.entries.extend(upper.entries);
            right = Some(node.child(left + 1));
            node.entries.remove(left + 1);
        }
        let joined = right.is_some();
        if child.size() > PAGE {
            let upper = child.split();
            let page = right.map_or_else(|| mtr.alloc(), Ok)?;
            node.entries.insert(left + 1, (upper.entries[0].0.clone(), page.0.to_le_bytes().into()));
            mtr.put(page, upper.encode());
            mtr.put(node.child(left), child.encode());
            return Ok(true);
        }
        if let Some(page) = right {
            mtr.free(page);
        }
        mtr.put(node.child(left), child.encode());
        Ok(joined)
    }

    fn read(&self, mtr: &mut Mtr, page: PageId) -> Result<Page, WriteError> {
        let page = self.0.read(page)?;
        mtr.expect(&page);
        Ok(page)
    }
}

/// What a check has come by.
struct Reached {
    all: Entries,
    pages: BTreeSet<PageId>,
}

/// The map at one moment. It needs no lock, whatever is written meanwhile.
struct Snapshot(View);

impl Snapshot {
    fn root(&self) -> Result<PageId, ReadError> {
        Ok(page_id(&self.0.read(PageId::ROOT)?))
    }

    fn node(&self, page: PageId) -> Result<Node, ReadError> {
        Ok(Node::decode(&self.0.read(page)?))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let mut node = self.node(self.root()?)?;
        while node.level > 0 {
            node = self.node(node.child(node.position(key)))?;
        }
        Ok(node.entries.into_iter().find(|(k, _)| k == key).map(|(_, value)| value))
    }

    /// The entries from the first key up to, and without, the second.
    fn range(&self, keys: Range<&[u8]>) -> Result<Entries, ReadError> {
        let mut found = Vec::new();
        self.collect(self.root()?, &keys, &mut found)?;
        Ok(found)
    }

    fn collect(&self, page: PageId, keys: &Range<&[u8]>, found: &mut Entries) -> Result<(), ReadError> {
        let node = self.node(page)?;
        if node.level == 0 {
            found.extend(node.entries.into_iter().filter(|(key, _)| keys.contains(&key.as_slice())));
            return Ok(());
        }
        let end = node.entries.partition_point(|(key, _)| key.as_slice() < keys.end);
        (node.position(keys.start)..end).try_for_each(|at| self.collect(node.child(at), keys, found))
    }

    /// Checks the tree itself: order, fill, depth, and that the volume has its pages, each once, and no others. Returns all
    /// entries, and the number of levels.
    fn check(&self) -> Result<(Entries, u8), Box<dyn Error>> {
        let root = self.root()?;
        let top = self.node(root)?.level;
        let mut reached = Reached { all: Vec::new(), pages: BTreeSet::from([PageId::ROOT]) };
        self.walk(root, top, true, &mut reached)?;
        let Reached { all, pages } = reached;
        ensure(all.is_sorted_by(|a, b| a.0 < b.0), "the keys are in order")?;
        ensure(self.0.pages()?.into_iter().eq(pages), "the volume's pages are the tree's")?;
        Ok((all, top + 1))
    }

    fn walk(&self, page: PageId, level: u8, is_root: bool, reached: &mut Reached) -> Result<(), Box<dyn Error>> {
        ensure(reached.pages.insert(page), "a page is reached once")?;
        let node = self.node(page)?;
        ensure(node.level == level, "all leaves are at one depth")?;
        ensure(is_root || node.size() >= LEAST, "a node is full enough")?;
        if level == 0 {
            reached.all.extend(node.entries);
            return Ok(());
        }
        ensure(!is_root || node.entries.len() > 1, "a root above others has two children")?;
        for (at, (least, _)) in node.entries.iter().enumerate() {
            let before = reached.all.len();
            self.walk(node.child(at), level - 1, false, reached)?;
            let most = node.entries.get(at + 1).map(|(key, _)| key);
            let inside = |(key, _): &(Vec<u8>, Vec<u8>)| key >= least && most.is_none_or(|most| key < most);
            ensure(reached.all[before..].iter().all(inside), "a child's keys are between its bounds")?;
        }
        Ok(())
    }
}

fn ensure(holds: bool, what: &str) -> Result<(), Box<dyn Error>> {
    if holds { Ok(()) } else { Err(format!("broken: {what}").into()) }
}

// From here on: how it is tested.

/// splitmix64: the play of a seed is always the same.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % n as u64) as usize
    }

    fn key(&mut self) -> Vec<u8> {
        let n = self.below(500);
        format!("{n:03}{}", "k".repeat(n * 31 % (KEY_MAX - 2))).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        vec![self.below(256) as u8; self.below(VALUE_MAX + 1)]
    }
}

/// What the world outside knows of the map: what must be there, and the changes whose commits have no answer yet.
#[derive(Default)]
struct Outside {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    untold: Vec<(Unknown, Vec<u8>, Option<Vec<u8>>)>,
    // For the summary.
    told: u64,
    /// So many commits without an answer have vanished, so many survived.
    answers: [u64; 2],
    levels: u8,
}

impl Outside {
    fn apply(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        match value {
            Some(value) => _ = self.map.insert(key, value),
            None => _ = self.map.remove(&key),
        }
    }

    /// One process: it checks what the ones before it have left, then changes this and that, until it is killed or done.
    fn process(&mut self, volume: Volume, random: &mut Random) -> Result<(), Box<dyn Error>> {
        // The volume knows what became of commits whose answer was lost.
        while let Some((commit, ..)) = self.untold.first() {
            let survived = volume.outcome(*commit)?;
            let (_, key, value) = self.untold.remove(0);
            if survived {
                self.apply(key, value);
            }
            self.answers[usize::from(survived)] += 1;
        }
        let map = Map::open(volume)?;
        let (all, levels) = map.snapshot().check()?;
        ensure(all.into_iter().eq(self.map.clone()), "the map is what the outside knows")?;
        self.levels = self.levels.max(levels);
        // Some processes rather fill the map, others rather empty it.
        let removes = [1, 3, 8][random.below(3)];
        for _ in 0..150 {
            let (key, value) = (random.key(), (random.below(10) >= removes).then(|| random.value()));
            let commit = match &value {
                Some(value) => map.insert(&key, value)?,
                None => map.remove(&key)?,
            };
            self.untold.push((commit.unknown(), key, value));
            if random.below(6) > 0 {
                continue;
            }
            // Commits are acknowledged in order: with this one all before it.
            commit.wait()?;
            for (_, key, value) in std::mem::take(&mut self.untold) {
                self.apply(key, value);
                self.told += 1;
            }
            let (now, mut keys) = (map.snapshot(), [random.key(), random.key()]);
            ensure(now.get(&keys[0])? == self.map.get(&keys[0]).cloned(), "a key has its value")?;
            keys.sort();
            let want = self.map.range(keys[0].clone()..keys[1].clone()).map(|(k, v)| (k.clone(), v.clone()));
            ensure(now.range(&keys[0]..&keys[1])?.into_iter().eq(want), "a range is complete")?;
        }
        Ok(())
    }
}

fn play(seed: u64) -> Result<(Report, Outside), Box<Failure>> {
    let (mut outside, mut random) = (Outside::default(), Random(seed));
    let report = Stage::new(seed).play(|volume| outside.process(volume, &mut random))?;
    Ok((report, outside))
}

fn main() -> Result<(), Box<dyn Error>> {
    let seeds = std::env::args().skip_while(|a| a != "--seeds").nth(1).unwrap_or("0..100".into());
    let (from, to) = seeds.split_once("..").ok_or("write --seeds A..B")?;
    let seeds: Range<u64> = from.parse()?..to.parse()?;
    let (begun, mut sum, mut processes, mut struck, mut hash) = (std::time::Instant::now(), [0; 3], 0, 0, 0u64);
    let (mut levels, count) = (0, seeds.end.saturating_sub(seeds.start));
    for seed in seeds {
        let (report, outside) = play(seed).map_err(|failure| failure.to_string())?;
        sum = [sum[0] + outside.told, sum[1] + outside.answers[1], sum[2] + outside.answers[0]];
        levels = levels.max(outside.levels);
        processes += report.counts.iter().find(|(name, _)| *name == "processes").map_or(0, |(_, n)| *n);
        struck += report.faults.iter().map(|(_, n)| n).sum::<u64>();
        hash = hash.rotate_left(1) ^ report.hash;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{count} seeds in {seconds:.1} s, {:.0} a second, hash {hash:016x}", count as f64 / seconds);
    println!("{processes} processes, {struck} faults; trees of up to {levels} levels");
    println!("{} commits acknowledged; without an answer: {} survived, {} vanished", sum[0], sum[1], sum[2]);
    Ok(())
}

#[test]
fn the_map_outlives_every_crash() {
    for seed in 0..30 {
        play(seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
}
