//! Pending changes: what the table says of pages beyond its leaves. A checkpoint that would write many leaves for few changes
//! in each writes a *run* of the changes instead, and a leaf only once enough is pending in it.
//!
//! Pure: which leaves are written is decided here, and by their numbers alone.

use crate::lsn::{Lsn, PageId};
use crate::page::table::{Entry, FANOUT};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a leaf that is full.
const LEAF: u64 = FANOUT * 8;
/// A leaf is written when it takes no more of the log than so many bytes for each change that it takes up.
const PER_CHANGE: u64 = 32;
/// Bytes of memory of a leaf's changes, beside the changes themselves.
const LEAF_OVERHEAD: u64 = 80;
/// Changes' bits that tell the address, above the lowest one of the leaf. The rest tell the page.
const BITS: u32 = 53;
const FREED: u64 = (1 << BITS) - 1;
/// Changes of one record of a run: 64 KiB or so, so that a commit that comes behind it does not wait for more.
const RUN_PART: usize = 8 << 10;
/// Records of runs that there may be: when there would be more, all that is pending is written as one run anew.
pub const RUNS_MAX: usize = 4096;

/// The changes of one leaf in memory: first the number to which the others are relative, then a change each, in order of
/// page.
type Packed = Arc<[u64]>;

/// Changes by leaf. Cheap to clone: leaves that do not change are shared.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Pending {
    leaves: BTreeMap<u64, Packed>,
    changes: u64,
}

/// A page's entry, as a change leaves it; empty where it was freed.
pub type Change = (PageId, Entry);

fn unpack(packed: &Packed, word: u64) -> (usize, Entry) {
    let offset = word & FREED;
    let entry = if offset == FREED { Entry::default() } else { Entry::from_raw(packed[0] + offset) };
    ((word >> BITS) as usize, entry)
}

/// None if the addresses lie too far apart.
fn pack(changes: &BTreeMap<usize, Entry>) -> Option<Packed> {
    let base = changes.values().filter(|e| !e.is_empty()).map(|e| e.raw()).min().unwrap_or(0);
    let word = |(index, entry): (&usize, &Entry)| {
        let offset = if entry.is_empty() { FREED } else { entry.raw() - base };
        (entry.is_empty() || offset < FREED).then_some((*index as u64) << BITS | offset)
    };
    std::iter::once(Some(base)).chain(changes.iter().map(word)).collect()
}

impl Pending {
    /// The leaves from `from` on, below `to`, in which something is pending.
    pub fn leaves(&self, from: u64, to: u64) -> impl Iterator<Item = u64> + '_ {
        self.leaves.range(from..to).map(|(leaf, _)| *leaf)
    }

    /// Behind the last of them.
    pub fn leaves_end(&self) -> u64 {
        self.leaves.last_key_value().map_or(0, |(leaf, _)| leaf + 1)
    }

    /// What is pending of a page.
    pub fn get(&self, page: PageId) -> Option<Entry> {
        let packed = self.leaves.get(&(page.0 / FANOUT))?;
        let (index, words) = ((page.0 % FANOUT) as usize, &packed[1..]);
        let at = words.binary_search_by_key(&index, |word| (word >> BITS) as usize).ok()?;
        Some(unpack(packed, words[at]).1)
    }

    /// What is pending in a leaf, by the page's place in it.
    pub fn in_leaf(&self, leaf: u64) -> impl Iterator<Item = (usize, Entry)> + '_ {
        let packed = self.leaves.get(&leaf);
        packed.into_iter().flat_map(|p| p[1..].iter().map(move |word| unpack(p, *word)))
    }

    /// All of it, in order of page.
    pub fn all(&self) -> impl Iterator<Item = Change> + '_ {
        let of_leaf = |(leaf, p): (&u64, _)| (*leaf, p);
        self.leaves.iter().map(of_leaf).flat_map(|(leaf, packed): (u64, &Packed)| {
            packed[1..].iter().map(move |word| {
                let (index, entry) = unpack(packed, *word);
                (PageId(leaf * FANOUT + index as u64), entry)
            })
        })
    }

    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        memory(self.leaves.len() as u64, self.changes)
    }

    /// Takes newer changes in, those of one leaf. False: they have to go into the leaf.
    fn add(&mut self, leaf: u64, changes: &[Change]) -> bool {
        let mut all: BTreeMap<usize, Entry> = self.in_leaf(leaf).collect();
        let before = all.len();
        all.extend(changes.iter().map(|(page, entry)| ((page.0 % FANOUT) as usize, *entry)));
        let Some(packed) = pack(&all) else { return false };
        self.changes += (all.len() - before) as u64;
        self.leaves.insert(leaf, packed);
        true
    }

    /// Takes in a record of a run, in the order in which they were written. Of a leaf that was written since (`leaf_at`
    /// tells where it is now) it has nothing to tell.
    pub fn load<E>(
        &mut self,
        at: Lsn,
        changes: &[Change],
        leaf_at: &mut impl FnMut(u64) -> Result<Lsn, E>,
    ) -> Result<(), E> {
        for of_leaf in changes.chunk_by(|a, b| a.0.0 / FANOUT == b.0.0 / FANOUT) {
            let leaf = of_leaf[0].0.0 / FANOUT;
            if leaf_at(leaf)? < at {
                let added = self.add(leaf, of_leaf);
                debug_assert!(added, "a checkpoint has held it in memory");
            }
        }
        Ok(())
    }

    /// The leaf was written with all of it.
    fn remove(&mut self, leaf: u64) {
        if let Some(packed) = self.leaves.remove(&leaf) {
            self.changes -= packed.len() as u64 - 1;
        }
    }
}

fn memory(leaves: u64, changes: u64) -> u64 {
    leaves * LEAF_OVERHEAD + changes * 8
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} changes in {} leaves", self.changes, self.leaves.len())
    }
}

/// What a checkpoint does.
#[derive(Default)]
pub struct Choice {
    /// Leaves that are written, in order, with all that is pending in them.
    pub leaves: Vec<u64>,
    /// What is pending afterwards.
    pub pending: Pending,
    /// What goes into a run.
    pub run: Vec<Change>,
}

/// Chooses, for these changes in order of page: all leaves if that costs `cheap` bytes or fewer; else those in which
/// enough is pending, and the fullest ones until the rest takes no more than `most` bytes of memory. Leaves that are
/// `moving` are written in any case.
pub fn choose(pending: &Pending, changes: &[Change], moving: &[u64], cheap: u64, most: u64) -> Choice {
    let mut leaves: BTreeMap<u64, (&[Change], u64)> = BTreeMap::new();
    for of_leaf in changes.chunk_by(|a, b| a.0.0 / FANOUT == b.0.0 / FANOUT) {
        leaves.insert(of_leaf[0].0.0 / FANOUT, (of_leaf, of_leaf.len() as u64));
    }
    for (leaf, packed) in &pending.leaves {
        leaves.entry(*leaf).or_insert((&[], 0)).1 += packed.len() as u64 - 1;
    }
    for leaf in moving {
        leaves.entry(*leaf).or_insert((&[], 0));
    }
    let (mut count, mut left) = (leaves.len() as u64, leaves.values().map(|l| l.1).sum::<u64>());
    let mut written: Vec<u64> = Vec::new();
    if count * LEAF <= cheap {
        written.extend(leaves.keys());
    } else {
        let mut fullest: Vec<(u64, u64)> = leaves.iter().map(|(leaf, l)| (l.1, *leaf)).collect();
        fullest.sort_unstable_by(|a, b| b.cmp(a));
        // What moves anyway makes room first.
        let (moved, stay): (Vec<_>, Vec<_>) =
            fullest.into_iter().partition(|(_, leaf)| moving.binary_search(leaf).is_ok());
        let moves = moved.len();
        for (i, (n, leaf)) in moved.into_iter().chain(stay).enumerate() {
            if i >= moves && n * PER_CHANGE < LEAF && memory(count, left) <= most {
                break;
            }
            (count, left) = (count - 1, left - n);
            written.push(leaf);
        }
        written.sort_unstable();
    }
    let (mut next, mut run) = (pending.clone(), Vec::new());
    for leaf in &written {
        next.remove(*leaf);
        leaves.remove(leaf);
    }
    for (leaf, (new, _)) in leaves {
        if new.is_empty() {
            continue;
        }
        if next.add(leaf, new) {
            run.extend_from_slice(new);
        } else {
            next.remove(leaf);
            let at = written.partition_point(|l| *l < leaf);
            written.insert(at, leaf);
        }
    }
    Choice { leaves: written, pending: next, run }
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(first & 0x7F);
        n |= part.checked_shl(shift).filter(|p| p >> shift == part)?;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

/// The payload of a run's record: how many changes, the lowest number among their entries, then for each how far its page
/// lies from the one before, and how far its entry lies above the lowest, plus one; 0 where the page was freed.
pub fn encode(changes: &[Change]) -> Vec<u8> {
    let base = changes.iter().filter(|c| !c.1.is_empty()).map(|c| c.1.raw()).min().unwrap_or(0);
    let (mut out, mut before) = (Vec::with_capacity(changes.len() * 7), 0);
    put(&mut out, changes.len() as u64);
    put(&mut out, base);
    for (page, entry) in changes {
        put(&mut out, page.0 - before);
        put(&mut out, if entry.is_empty() { 0 } else { entry.raw() - base + 1 });
        before = page.0;
    }
    out
}

/// None if the bytes are no run's.
pub fn decode(mut bytes: &[u8]) -> Option<Vec<Change>> {
    let (count, base) = (take(&mut bytes)?, take(&mut bytes)?);
    let (mut changes, mut page) = (Vec::new(), 0u64);
    for i in 0..count {
        let step = take(&mut bytes)?;
        page = page.checked_add(step).filter(|p| *p < PageId::LIMIT && (i == 0 || step > 0))?;
        let entry = match take(&mut bytes)? {
            0 => Entry::default(),
            offset => Entry::from_raw(base.checked_add(offset - 1).filter(|raw| *raw != 0)?),
        };
        changes.push((PageId(page), entry));
    }
    bytes.is_empty().then_some(changes)
}

/// The records of a run.
pub fn parts(run: &[Change]) -> Vec<Vec<u8>> {
    // A change takes 7 bytes or so, and never more than 15.
    run.chunks(RUN_PART).map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(n: u64) -> Entry {
        if n == 0 { Entry::default() } else { Entry::new(Lsn(n * 8), (n % 5) as u8) }
    }

    #[test]
    fn few_leaves_are_written_whole_and_of_many_those_that_are_full() {
        let page = |leaf: u64, i: u64| PageId(leaf * FANOUT + i);
        let changes: Vec<Change> =
            (0..4).flat_map(|l| (0..=l * 300).map(move |i| (page(l, i), entry(i + 1)))).collect();
        let all = choose(&Pending::default(), &changes, &[], 4 * LEAF, 0);
        assert_eq!((all.leaves, all.run.len(), all.pending.changes() == 0), (vec![0, 1, 2, 3], 0, true));
        // 512 changes are worth a leaf.
        let some = choose(&Pending::default(), &changes, &[], 4 * LEAF - 1, 1 << 20);
        assert_eq!((&some.leaves[..], some.run.len()), (&[2, 3][..], 1 + 301));
        assert_eq!((some.pending.changes(), some.pending.bytes()), (302, 302 * 8 + 2 * LEAF_OVERHEAD));
        // With what is pending a leaf gets full, one by one where memory is short.
        let more: Vec<Change> = (400..612).map(|i| (page(1, i), entry(i))).collect();
        let full = choose(&some.pending, &more, &[], 0, 1 << 20);
        assert_eq!((&full.leaves[..], full.run.len(), full.pending.changes()), (&[1][..], 0, 1));
        let short = choose(&some.pending, &more[..9], &[], 0, LEAF_OVERHEAD + 8);
        assert_eq!((&short.leaves[..], short.pending.changes()), (&[1][..], 1));
        assert!(choose(&some.pending, &more[..9], &[], 0, 0).pending.changes() == 0);
    }

    #[test]
    fn what_lies_too_far_apart_goes_into_the_leaf() {
        let changes = [(PageId(5), Entry::new(Lsn(8), 0)), (PageId(6), Entry::new(Lsn(1 << 63), 3))];
        let near = choose(&Pending::default(), &changes[1..], &[], 0, 1 << 20);
        assert_eq!((near.pending.get(PageId(6)), near.leaves.len()), (Some(changes[1].1), 0));
        let far = choose(&near.pending, &changes[..1], &[], 0, 1 << 20);
        assert_eq!((far.leaves, far.run.len(), far.pending.changes() == 0), (vec![0], 0, true));
        assert_eq!(decode(&encode(&changes)), Some(changes.to_vec()));
    }

    #[test]
    fn only_a_run_is_read_as_one() {
        let run = [(PageId(0), entry(3)), (PageId(9), entry(0)), (PageId(PageId::LIMIT - 1), entry(7))];
        let bytes = encode(&run);
        assert_eq!(decode(&bytes), Some(run.to_vec()));
        assert_eq!(decode(&encode(&[])), Some(vec![]));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
        // Too high a page, the same page twice, a number that is too long.
        for bad in [encode(&[(PageId(PageId::LIMIT), entry(1))]), vec![2, 8, 1, 1, 0, 1], vec![0xFF; 20]] {
            assert_eq!(decode(&bad), None, "{bad:?}");
        }
    }

    proptest! {
        /// Checkpoint after checkpoint, with loads from what was written between: leaves and what is pending tell a map.
        #[test]
        fn leaves_and_runs_together_are_a_map(
            steps in prop::collection::vec((prop::collection::vec((0u64..5, 0u64..12, 0u64..9), 1..40), 0u64..3, 0u64..400, prop::collection::btree_set(0u64..6, 0..3), any::<bool>()), 1..12)
        ) {
            let mut model: BTreeMap<PageId, Entry> = BTreeMap::new();
            let mut leaves: BTreeMap<u64, (Lsn, BTreeMap<usize, Entry>)> = BTreeMap::new();
            let (mut runs, mut pending, mut at) = (Vec::new(), Pending::default(), 8);
            for (changes, cheap, most, moving, reload) in steps {
                let moving: Vec<u64> = moving.into_iter().collect();
                let changes: BTreeMap<PageId, Entry> =
                    changes.into_iter().map(|(leaf, i, n)| (PageId(leaf * FANOUT + i * 180), n)).map(|(page, n)| {
                        at += 8;
                        (page, if n == 0 { Entry::default() } else { Entry::new(Lsn(at), n as u8) })
                    }).collect();
                model.extend(&changes);
                let changes: Vec<Change> = changes.into_iter().collect();
                let choice = choose(&pending, &changes, &moving, cheap * LEAF, most);
                prop_assert!(choice.pending.bytes() <= most.max(LEAF_OVERHEAD * 5 * u64::from(cheap > 0)) || choice.pending.changes() == 0);
                prop_assert!(moving.iter().all(|leaf| choice.leaves.binary_search(leaf).is_ok()));
                for leaf in &choice.leaves {
                    at += 8;
                    let (lsn, entries) = leaves.entry(*leaf).or_default();
                    *lsn = Lsn(at);
                    entries.extend(pending.in_leaf(*leaf));
                    let new = changes.iter().filter(|c| c.0.0 / FANOUT == *leaf);
                    entries.extend(new.map(|(page, e)| ((page.0 % FANOUT) as usize, *e)));
                }
                for part in parts(&choice.run) {
                    at += 8;
                    runs.push((Lsn(at), decode(&part).unwrap()));
                }
                pending = choice.pending;
                if reload {
                    let mut leaf_at = |leaf| Ok::<_, ()>(leaves.get(&leaf).map_or(Lsn::NONE, |l| l.0));
                    let mut loaded = Pending::default();
                    for (at, changes) in &runs {
                        loaded.load(*at, changes, &mut leaf_at).unwrap();
                    }
                    prop_assert!(loaded.all().eq(pending.all()));
                    prop_assert_eq!((loaded.changes(), loaded.bytes()), (pending.changes(), pending.bytes()));
                    pending = loaded;
                }
                for (page, want) in &model {
                    let in_leaf = || leaves.get(&(page.0 / FANOUT)).and_then(|l| l.1.get(&((page.0 % FANOUT) as usize)));
                    let got = pending.get(*page).or_else(|| in_leaf().copied()).unwrap_or_default();
                    prop_assert_eq!(got, *want, "{}", page);
                }
            }
        }
    }
}
