//! Naming what is lost: the record that no slot has, the page it is of, and how each slot's copy is bad.

use crate::log::group;
use crate::log::record::{self, Kind, Record, RecordFault};
use crate::lsn::{Lsn, PageId, Slot, format};
use crate::volume::error::SlotFault;

/// What is lost of a group that is whole on no slot.
pub struct Named {
    /// The record, or the group where its records cannot be told.
    pub lsn: Lsn,
    /// As the copies say: none where nothing of it is left, they do not agree, or it is no page's.
    pub page: Option<PageId>,
    pub faults: Vec<(Slot, SlotFault)>,
}

/// Names what is lost of the group of `epoch` at `at`. A copy is what the slot has from there to the frame's end, at most.
pub fn name(copies: &[(Slot, &[u8])], at: Lsn, epoch: u64, seed: u32, block: u64) -> Named {
    let header = |bytes: &[u8]| group::decode_header(bytes, at, seed).ok().filter(|h| h.epoch == epoch);
    let len = copies.iter().find_map(|(_, bytes)| header(bytes)).map(|h| h.len);
    let (lsn, page) = match len {
        Some(len) => record_in(copies, at, epoch, seed, len),
        // The group counts on no slot: it is told by its first record, as far as that is.
        None => {
            let first = at + group::HEADER as u64;
            let page = copies
                .iter()
                .find_map(|(_, bytes)| good(bytes, at, first, epoch, seed))
                .map_or_else(|| claimed_page(copies, at, first, epoch), |r| page_of(&r));
            (page.map_or(at, |_| first), page)
        }
    };
    let len = len.unwrap_or(block) as usize;
    let fault = |&(slot, bytes): &(Slot, &[u8])| Some((slot, fault(bytes, at, lsn, epoch, seed, len)?));
    Named { lsn, page, faults: copies.iter().filter_map(fault).collect() }
}

/// The first record of a group of `len` bytes that no slot has; where each is somewhere, the first that a copy lacks.
fn record_in(copies: &[(Slot, &[u8])], at: Lsn, epoch: u64, seed: u32, len: u64) -> (Lsn, Option<PageId>) {
    let mut here = at + group::HEADER as u64;
    let mut partly = None;
    while here < at + len {
        let mut found = copies.iter().filter_map(|(_, bytes)| good(bytes, at, here, epoch, seed));
        let Some(record) = found.next() else { return (here, claimed_page(copies, at, here, epoch)) };
        if partly.is_none() && found.count() + 1 < copies.len() {
            partly = Some((here, page_of(&record)));
        }
        here = record.end();
    }
    partly.unwrap_or((at, None))
}

/// A slot's record at `lsn`, if it verifies. Records verify alone, also in a group that is not whole.
fn good<'a>(bytes: &'a [u8], at: Lsn, lsn: Lsn, epoch: u64, seed: u32) -> Option<Record<'a>> {
    record::decode(bytes.get((lsn - at) as usize..)?, lsn, seed).ok().filter(|r| r.epoch == epoch)
}

fn page_of(r: &Record<'_>) -> Option<PageId> {
    matches!(r.fields.kind, Kind::Image | Kind::Delta | Kind::Free).then_some(PageId(r.fields.page))
}

/// The page that most copies' headers name at `lsn`, none of which verifies. A header counts that has its own address
/// and epoch right.
fn claimed_page(copies: &[(Slot, &[u8])], at: Lsn, lsn: Lsn, epoch: u64) -> Option<PageId> {
    let room = (format::FRAME - lsn.0 % format::FRAME) as usize;
    let claim = |(_, bytes): &(Slot, &[u8])| record::claimed_page(bytes.get((lsn - at) as usize..)?, lsn, epoch, room);
    let claims: Vec<PageId> = copies.iter().filter_map(claim).collect();
    let votes = |page: PageId| claims.iter().filter(|p| **p == page).count();
    let page = claims.iter().copied().max_by_key(|p| votes(*p))?;
    (2 * votes(page) > claims.len()).then_some(page)
}

/// How a slot's copy is bad, as to the record at `lsn`; none if the whole group is good. Zeros are no copy: the space
/// was taken, and never written.
fn fault(bytes: &[u8], at: Lsn, lsn: Lsn, epoch: u64, seed: u32, len: usize) -> Option<SlotFault> {
    let zeros = |from: usize, len: usize| bytes.iter().skip(from).take(len).all(|b| *b == 0);
    if zeros(0, len) {
        return Some(SlotFault::NoCopy);
    }
    let what = match group::verify(bytes, at, seed, |_| ()) {
        Ok(sum) if sum.header.epoch == epoch => return None,
        Ok(group::Summary { header: group::Header { epoch: found, .. }, .. })
        | Err(group::Broken { epoch: Some(found), .. })
            if found != epoch =>
        {
            format!("it is of epoch {found}, and not of {epoch}")
        }
        Ok(_) => return None,
        Err(b) if b.fault == RecordFault::NotAGroup => "something else is in its place".into(),
        Err(b) if b.fault == RecordFault::Short => "the file ends in it".into(),
        Err(b) if b.at == at => format!("its group's header: {}", b.fault),
        Err(b) if b.at == lsn && zeros((lsn - at) as usize, record::HEADER) => return Some(SlotFault::NoCopy),
        Err(b) if b.at == lsn => b.fault.to_string(),
        Err(b) => format!("the record at LSN {}: {}", b.at, b.fault),
    };
    Some(SlotFault::Damaged(what))
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use crate::log::record::{Cpl, Fields};

    const SEED: u32 = 7;
    const EPOCH: u64 = 3;
    const AT: Lsn = Lsn(8192);
    const FIRST: Lsn = Lsn(8192 + 32);
    const SECOND: Lsn = Lsn(8192 + 32 + 72);

    fn group(at: Lsn, epoch: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        group::encode_header(&mut bytes, SEED, at, epoch, 4096);
        let f = |page| Fields { kind: Kind::Delta, page, ..Fields::filler() };
        record::encode(&mut bytes[32..104], SEED, at + 32, epoch, &f(5), None, b"hello");
        record::encode(&mut bytes[104..192], SEED, at + 104, epoch, &f(6), Some(Cpl::default()), b"world");
        record::encode(&mut bytes[192..], SEED, at + 192, epoch, &Fields::filler(), None, &[]);
        bytes
    }

    fn flipped(byte: usize) -> Vec<u8> {
        let mut bytes = group(AT, EPOCH);
        bytes[byte] ^= 0x40;
        bytes
    }

    /// Record, page, and a letter a slot.
    type Told<S> = (Lsn, Option<u64>, S);

    /// What is named for these copies, on slots from 0 on: N none, D damaged, - good.
    fn told(copies: &[Vec<u8>]) -> Told<String> {
        let copies: Vec<(Slot, &[u8])> = copies.iter().enumerate().map(|(i, b)| (Slot(i as u8), &b[..])).collect();
        let named = name(&copies, AT, EPOCH, SEED, 4096);
        let letter = |(slot, _): &(Slot, &[u8])| match named.faults.iter().find(|(s, _)| s == slot) {
            None => '-',
            Some((_, SlotFault::NoCopy)) => 'N',
            Some((_, SlotFault::Damaged(_))) => 'D',
            Some((_, other)) => panic!("{other}"),
        };
        (named.lsn, named.page.map(|p| p.0), copies.iter().map(letter).collect())
    }

    #[test]
    fn the_record_its_page_and_each_fault_are_named() {
        let garbage = || vec![0x5A; 4096];
        let record_gone = |from: usize, to: usize, by: u8| {
            let mut bytes = group(AT, EPOCH);
            bytes[from..to].fill(by);
            bytes
        };
        let mut page_rotten = flipped(104 + 32);
        page_rotten[104 + 33] ^= 1;
        type Case<'a> = (&'a str, &'a [Vec<u8>], Told<&'a str>);
        let cases: &[Case<'_>] = &[
            ("rot in a payload", &[flipped(170), flipped(171)], (SECOND, Some(6), "DD")),
            ("rot in a link", &[flipped(104 + 40), flipped(104 + 40)], (SECOND, Some(6), "DD")),
            ("rot in one page id", &[flipped(104 + 32), flipped(170), flipped(171)], (SECOND, Some(6), "DDD")),
            ("rot in all page ids, differently", &[flipped(104 + 32), page_rotten], (SECOND, None, "DD")),
            ("rot in the address", &[flipped(104 + 8), flipped(104 + 8)], (SECOND, None, "DD")),
            ("rot in the filler", &[flipped(3000), flipped(3000)], (AT + 192, None, "DD")),
            ("rot in different records", &[flipped(60), flipped(170)], (FIRST, Some(5), "DD")),
            ("rot in the header", &[flipped(0), flipped(0)], (FIRST, Some(5), "DD")),
            ("zeros in place of a record", &[record_gone(104, 192, 0), record_gone(104, 192, 0)], (SECOND, None, "NN")),
            (
                "garbage in place of a record",
                &[record_gone(104, 192, 9), record_gone(104, 192, 9)],
                (SECOND, None, "DD"),
            ),
            ("torn behind a record", &[record_gone(104, 4096, 0), flipped(170)], (SECOND, Some(6), "ND")),
            ("garbage", &[garbage(), garbage()], (AT, None, "DD")),
            ("zeros", &[vec![0; 4096], vec![0; 4096]], (AT, None, "NN")),
            ("past the file's end", &[vec![], vec![]], (AT, None, "NN")),
            ("the file ends in it", &[group(AT, EPOCH)[..100].to_vec(), vec![]], (FIRST, Some(5), "DN")),
            ("a group of another address", &[group(Lsn(4096), EPOCH), group(Lsn(4096), EPOCH)], (AT, None, "DD")),
            ("a group of another epoch", &[group(AT, 2), group(AT, 4)], (AT, None, "DD")),
            ("a mixture", &[garbage(), vec![0; 4096], flipped(170), vec![]], (SECOND, Some(6), "DNDN")),
            ("one is good after all", &[garbage(), group(AT, EPOCH)], (FIRST, Some(5), "D-")),
        ];
        for (what, copies, (lsn, page, faults)) in cases {
            assert_eq!(told(copies), (*lsn, *page, faults.to_string()), "{what}");
        }
    }

    #[test]
    fn any_bytes_are_told() {
        for byte in 0..4096 {
            let (lsn, _, faults) = told(&[flipped(byte), flipped(byte)]);
            assert!(lsn >= AT && lsn < AT + 4096 && faults == "DD", "{byte}: {lsn} {faults}");
        }
    }
}
