//! Decoders alone: any bytes, bytes behind a right checksum, and what was encoded.

use super::mend;
use crate::core::history::History;
use crate::log::group;
use crate::log::record::{self, Cpl, Fields, Kind};
use crate::lsn::{Lsn, PageId, format};
use crate::page::manifest::Manifest;
use crate::page::table;
use crate::segment::superblock::{PLACE, Superblock};
use crate::segment::tail;
use arbitrary::Unstructured;

const SEED: u32 = 7;

/// Records and groups, and the payloads that have a form of their own.
pub fn record(data: &[u8]) {
    let at = record::claimed_lsn(data).filter(|l| l.0 < format::NUMBER_LIMIT).unwrap_or_default();
    let _ = record::decode(data, at, SEED);
    let mut mended = data.to_vec();
    let len = record::claimed_len(data).map_or(data.len(), |l| data.len().min(l as usize));
    mend(&mut mended[..len], 0, SEED);
    if let Ok(r) = record::decode(&mended, at, SEED) {
        let mut again = vec![0xEE; r.len as usize];
        record::encode(&mut again, SEED, r.lsn, r.epoch, &r.fields, r.cpl, r.payload);
        assert_eq!(record::decode(&again, at, SEED), Ok(r));
        if r.fields.kind == Kind::Manifest
            && let Some(manifest) = Manifest::decode(r.payload)
        {
            assert_eq!(Manifest::decode(&manifest.encode()), Some(manifest));
        }
    }
    groups(data);
    if let Some(manifest) = Manifest::decode(data) {
        assert_eq!(Manifest::decode(&manifest.encode()), Some(manifest));
    }
    if table::is_node(data) {
        assert!(table::numbers(data).len() as u64 <= table::FANOUT);
        let _ = table::entry(data, data.len());
    }
    let _ = tail::decode(data, uuid::Uuid::nil());
    let _ = written(Unstructured::new(data));
}

/// A group at the address that its bytes claim, its header and its first records mended.
fn groups(data: &[u8]) {
    let mut bytes = data.to_vec();
    let Some(at) =
        bytes.get(8..16).and_then(|b| b.try_into().ok()).map(|b| Lsn(u64::from_le_bytes(b) % format::NUMBER_LIMIT))
    else {
        return;
    };
    let _ = group::verify(&bytes, at, SEED, |_| ());
    bytes[4..8].copy_from_slice(b"QGRP");
    if bytes.len() >= group::HEADER {
        mend(&mut bytes[..group::HEADER], 0, SEED);
    }
    let mut from = group::HEADER.min(bytes.len());
    while let Some(len) = record::claimed_len(&bytes[from..]).map(|l| l as usize).filter(|l| *l <= bytes.len() - from) {
        mend(&mut bytes[from..from + len], 0, SEED);
        from += len;
    }
    let mut end = at + group::HEADER as u64;
    if let Ok(sum) = group::verify(&bytes, at, SEED, |r| {
        assert_eq!(r.lsn, end, "records tile the group");
        end = r.end();
    }) {
        assert_eq!(end, at + sum.header.len);
        assert!(sum.cpl_end.is_none_or(|c| c <= end));
    }
}

/// What was encoded is decoded, and with one bit changed it is not.
fn written(mut u: Unstructured<'_>) -> arbitrary::Result<()> {
    let lsn = |u: &mut Unstructured<'_>| u.arbitrary::<u64>().map(|n| Lsn(n % format::NUMBER_LIMIT));
    let kinds = [Kind::Image, Kind::Delta, Kind::Free, Kind::Filler, Kind::Table, Kind::Manifest];
    let mut fields = Fields {
        kind: *u.choose(&kinds)?,
        depth: u.arbitrary()?,
        offset: u.arbitrary()?,
        page: u.arbitrary::<u64>()? % PageId::LIMIT,
        prev: lsn(&mut u)?,
        base: lsn(&mut u)?,
        was: Lsn::NONE,
    };
    // A page that was moved has the one in place of the other.
    if matches!(fields.kind, Kind::Image | Kind::Delta) && fields.base.0 % 2 == 1 {
        (fields.base, fields.was) = (Lsn::NONE, fields.base);
    }
    let (at, epoch) = (lsn(&mut u)?, lsn(&mut u)?.0);
    let cpl = if u.arbitrary()? { Some(Cpl { wall_us: u.arbitrary()?, vdl: lsn(&mut u)? }) } else { None };
    let (padding, flip) = (u.int_in_range(0..=7)?, u.arbitrary::<u32>()? as usize);
    let payload = u.take_rest();
    let len = record::encoded_len(payload.len(), cpl.is_some()) as usize + 8 * padding;
    let mut bytes = vec![0xEE; len];
    record::encode(&mut bytes, SEED, at, epoch, &fields, cpl, payload);
    let read = record::decode(&bytes, at, SEED).expect("what was written is read");
    assert_eq!((read.fields, read.cpl, read.payload, read.epoch), (fields, cpl, payload, epoch));
    bytes[flip / 8 % len] ^= 1 << (flip % 8);
    assert!(record::decode(&bytes, at, SEED).is_err(), "a flipped bit is seen");
    Ok(())
}

/// A superblock file: as it is, and with each place's magic, format and checksum put right.
pub fn superblock(data: &[u8]) {
    check(data);
    let mut file = data.to_vec();
    file.resize(2 * PLACE, 0);
    for at in [0, PLACE] {
        let place = &mut file[at..at + PLACE];
        place[..8].copy_from_slice(b"QUORSUPR");
        mend(place, 8, 0);
    }
    check(&file);
    for at in [0, PLACE] {
        let place = &mut file[at..at + PLACE];
        place[12..16].copy_from_slice(&format::VERSION.to_le_bytes());
        place[16..24].fill(0);
        place[104..112].copy_from_slice(&format::LAL.to_le_bytes());
        mend(place, 8, 0);
    }
    check(&file);
}

fn check(file: &[u8]) {
    assert!([0, PLACE].contains(&Superblock::next_place(&Superblock::places(file)).0));
    let Ok(mut newest) = Superblock::newest(file) else { return };
    let bytes = newest.encode().expect("no longer than what was read");
    assert_eq!(bytes.len(), PLACE);
    // What redo does not need is left out.
    newest.history = History::from_entries(newest.history.since(newest.redo).to_vec()).expect("a history still");
    assert_eq!(Superblock::decode(&bytes), Ok(newest));
}
