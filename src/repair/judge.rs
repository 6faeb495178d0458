//! What six copies of a part say together: what is to be copied, from where to where. Pure.
//!
//! A copy that verifies wins over one that does not. Where two verify and differ nothing is touched: whichever was
//! written over might have been the right one.

use crate::bugs::{Bug, planted};
use crate::core::gaps::Gap;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use crate::repair::frame::{Copy, Found, Part, Piece};
use bytes::Bytes;

/// Two slots hold different groups at one address, and both verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Differs {
    pub at: Lsn,
    pub slots: (Slot, Slot),
}

/// What is to be done about a part.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What each slot gets.
    pub mends: [Vec<Piece>; SLOTS],
    pub differs: Vec<Differs>,
    /// On none of the slots that were read.
    pub nowhere: Vec<Gap>,
    /// Some slot lacks something that is there, and its bytes were not kept.
    pub unkept: bool,
}

impl Verdict {
    /// Slots that get something.
    pub fn mended(&self) -> SlotSet {
        Slot::ALL.into_iter().filter(|s| !self.mends[s.index()].is_empty()).collect()
    }

    /// Nothing is wrong that the bytes that were kept do not mend.
    pub fn suffices(&self) -> bool {
        self.is_complete() && !self.unkept
    }

    /// Every group of the part is on every slot that it is to be on, once the mends are written.
    pub fn is_complete(&self) -> bool {
        self.differs.is_empty() && self.nowhere.is_empty()
    }
}

/// Judges. A slot is to have the groups that begin below its limit; one that was not read has no say and gets nothing.
pub fn judge(part: &Part, copies: &[Option<Copy>; SLOTS], limits: &[Lsn; SLOTS]) -> Verdict {
    let mut verdict = Verdict::default();
    for entry in part.entries.iter() {
        let (mut at, to) = (part.from.max(entry.begin), part.to.min(entry.end));
        while at < to {
            let here: [Option<&Found>; SLOTS] = std::array::from_fn(|i| {
                let copy = copies[i].as_ref()?;
                copy.binary_search_by_key(&at, |f| f.at).ok().map(|n| &copy[n])
            });
            let mut good = Slot::ALL.into_iter().filter_map(|s| Some((s, here[s.index()]?)));
            let Some((first, group)) = good.next() else {
                let next = copies.iter().flatten().filter_map(|c| next_in(c, at)).min().unwrap_or(to).min(to);
                verdict.nowhere.push(Gap { from: at, to: next });
                at = next;
                continue;
            };
            let differs = |f: &Found| (f.len, f.hash) != (group.len, group.hash);
            let first_wins = planted(Bug::DiffersMended) || planted(Bug::WorseCopyAsSource);
            if let Some((other, _)) = good.find(|(_, f)| differs(f) && !first_wins) {
                verdict.differs.push(Differs { at, slots: (first, other) });
                at = at + group.len;
                continue;
            }
            let kept = here.iter().flatten().find_map(|f| Some((*f, f.bytes.as_ref()?)));
            for slot in Slot::ALL {
                let lacks = here[slot.index()].is_none_or(|f| f.in_tail || first_wins && differs(f));
                let lacks = lacks || planted(Bug::MendGood);
                if copies[slot.index()].is_some() && lacks && at < limits[slot.index()] {
                    match kept {
                        Some((found, bytes)) => add(&mut verdict.mends[slot.index()], found, bytes),
                        None => verdict.unkept = true,
                    }
                }
            }
            at = at + group.len;
        }
    }
    verdict
}

fn next_in(copy: &Copy, at: Lsn) -> Option<Lsn> {
    copy.get(copy.partition_point(|f| f.at <= at)).map(|f| f.at)
}

/// Adds a group; what follows on in the same bytes is one piece.
fn add(pieces: &mut Vec<Piece>, group: &Found, bytes: &Bytes) {
    if let Some(last) = pieces.last_mut()
        && last.bytes.as_ptr() == bytes.as_ptr()
        && last.range.end == group.range.start
        && last.at + last.range.len() as u64 == group.at
    {
        last.range.end = group.range.end;
        return;
    }
    pieces.push(Piece { at: group.at, bytes: bytes.clone(), range: group.range.clone() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::history::Entry;
    use std::sync::Arc;

    const BLOCK: u64 = 4096;
    const BEGIN: Lsn = Lsn(1 << 20);

    fn part(groups: u64) -> Part {
        let entry = Entry { epoch: 1, begin: BEGIN, end: BEGIN + groups * BLOCK };
        Part { from: BEGIN, to: BEGIN + (1 << 20), entries: Arc::new([entry]) }
    }

    /// A letter a group: `a` verifies, `b` verifies and is another, `t` is `a` in a tail file, `.` is nothing.
    fn copy(letters: &str) -> Option<Copy> {
        let bytes = Bytes::from(vec![0; 1 << 20]);
        let found = |(i, letter): (usize, char)| {
            let at = BEGIN + i as u64 * BLOCK;
            let range = i * BLOCK as usize..(i + 1) * BLOCK as usize;
            let (hash, in_tail) = match letter {
                'a' => (1, false),
                'b' => (2, false),
                't' => (1, true),
                _ => return None,
            };
            Some(Found { at, len: BLOCK, hash, bytes: Some(bytes.clone()), range, in_tail })
        };
        Some(letters.chars().enumerate().filter_map(found).collect())
    }

    fn told(copies: [Option<Copy>; SLOTS], limits: [Lsn; SLOTS]) -> (String, usize, Vec<(u64, u64)>) {
        let verdict = judge(&part(4), &copies, &limits);
        let number = |lsn: Lsn| (lsn - BEGIN) / BLOCK;
        let mut words = Vec::new();
        for slot in Slot::ALL {
            for piece in &verdict.mends[slot.index()] {
                words.push(format!("{slot}:{}+{}", number(piece.at), piece.range.len() as u64 / BLOCK));
            }
        }
        let nowhere = verdict.nowhere.iter().map(|g| (number(g.from), number(g.to))).collect();
        (words.join(" "), verdict.differs.len(), nowhere)
    }

    #[test]
    fn what_verifies_is_copied_to_where_it_does_not() {
        let all = [Lsn::MAX; SLOTS];
        for (copies, want) in [
            (["aaaa", "aaaa", "aaaa", "aaaa", "aaaa", "aaaa"], ("", 0, vec![])),
            (["aaaa", "a..a", "....", "aa.a", "aaaa", "aaaa"], ("1:1+2 2:0+4 3:2+1", 0, vec![])),
            // From whoever has it, whatever else that one lacks.
            (
                ["a...", ".a..", "..a.", "...a", "....", "aaaa"],
                ("0:1+3 1:0+1 1:2+2 2:0+2 2:3+1 3:0+3 4:0+1 4:1+1 4:2+1 4:3+1", 0, vec![]),
            ),
            // A tail file's copy is one, and goes where it belongs.
            (["t...", "a...", "....", "....", "....", "...."], ("0:0+1 2:0+1 3:0+1 4:0+1 5:0+1", 0, vec![(1, 4)])),
            // Both verify: nothing is touched.
            (["ba..", "aa..", "aa..", "aa..", "aa..", ".a.."], ("", 1, vec![(2, 4)])),
            // Nobody has it: what follows is looked at all the same.
            (["a..a", "a..a", "a..a", "a..a", "a..a", "a..."], ("5:3+1", 0, vec![(1, 3)])),
        ] {
            let (mends, differs, nowhere) = told(copies.map(copy), all);
            // Pieces of a group each may come from different slots.
            let count = |words: &str| -> u64 {
                words.split_whitespace().filter_map(|w| w.split_once('+')?.1.parse::<u64>().ok()).sum()
            };
            assert_eq!((count(&mends), differs, nowhere), (count(want.0), want.1, want.2), "{copies:?}: {mends}");
            if !want.0.contains("4:0+1 4:1+1") {
                assert_eq!(mends, want.0, "{copies:?}");
            }
        }
    }

    #[test]
    fn what_was_kept_mends_the_others_and_what_was_not_is_told() {
        let without = |letters: &str| {
            let copy = copy(letters)?.into_iter().map(|f| Found { bytes: None, ..f });
            Some(copy.collect::<Copy>())
        };
        let judged = |source: &str, target: &str| {
            let copies = [None, without(target), copy(source), None, None, None];
            judge(&part(4), &copies, &[Lsn::MAX; SLOTS])
        };
        let verdict = judged("aaaa", "a..a");
        assert!(verdict.suffices() && verdict.mends[1].len() == 1);
        assert_eq!(verdict.mends[1][0].range, 4096..12288);
        // The source lacks what the target has.
        let verdict = judged("aa.a", "aaaa");
        assert!(verdict.unkept && verdict.is_complete() && !verdict.suffices());
        assert!(!judged("aa.a", "aa.a").suffices());
    }

    #[test]
    fn a_slot_gets_nothing_above_its_limit_nor_one_that_was_not_read() {
        let mut copies = ["aaaa", "a...", "....", "aaaa", "aaaa", "aaaa"].map(copy);
        copies[2] = None;
        let mut limits = [Lsn::MAX; SLOTS];
        limits[1] = BEGIN + 2 * BLOCK;
        assert_eq!(told(copies, limits), ("1:1+1".into(), 0, vec![]));
    }
}
