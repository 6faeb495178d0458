//! One redo record: a fixed header, a consistency point where an MTR ends, a payload, zeros to a multiple of 8.
//!
//! A record verifies alone: one CRC-32 over all of it, seeded from the log's identity, and its own LSN in the header,
//! which exposes a misdirected or stale block. Layout byte by byte: `format.md`.

use crate::bugs::{Bug, planted};
use crate::lsn::{Lsn, PageId, format};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a record does. The numbers are the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The whole page; an empty payload is a page of zeros.
    Image = 1,
    /// Bytes of a page, from `offset` on.
    Delta = 2,
    /// The page is no more.
    Free = 3,
    /// Nothing: the rest of a block.
    Filler = 4,
    /// A node of the page table.
    Table = 5,
    /// What a checkpoint found.
    Manifest = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Image,
            2 => Kind::Delta,
            3 => Kind::Free,
            4 => Kind::Filler,
            5 => Kind::Table,
            6 => Kind::Manifest,
            _ => return None,
        })
    }
}

/// The record ends an MTR: a consistency point follows the header.
const FLAG_CPL: u8 = 1;
/// Reclaiming wrote the page anew: `base` holds the address of the record that it stands for.
const FLAG_MOVED: u8 = 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    crc: U32,
    /// Of the whole record: a multiple of 8.
    len: U32,
    lsn: U64,
    epoch: U64,
    kind: u8,
    flags: u8,
    depth: u8,
    /// Which identity of a clone's lineage seeds the checksum; 0 is the log's own.
    lineage: u8,
    offset: U32,
    page: U64,
    prev: U64,
    base: U64,
    payload_len: U32,
    reserved: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawCpl {
    wall_us: U64,
    vdl: U64,
}

/// Bytes of a header, and so of the shortest record.
pub const HEADER: usize = size_of::<RawHeader>();
const CPL: usize = size_of::<RawCpl>();

/// The end of an MTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cpl {
    /// The raw wall clock, microseconds since 1970. It may jump.
    pub wall_us: u64,
    /// The VDL known when the record was appended.
    pub vdl: Lsn,
}

/// What a record says of its page, beside the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields {
    pub kind: Kind,
    /// Deltas between this record and the image that it stands on; of a table node its level.
    pub depth: u8,
    /// Where in the page a delta begins.
    pub offset: u32,
    pub page: u64,
    /// The page's previous record; 0 where there is none.
    pub prev: Lsn,
    /// The image that a delta stands on; 0 where it is not known and the chain is followed by `prev`.
    pub base: Lsn,
    /// The page's newest record before reclaiming wrote the page anew, of which this is the last; 0 else. The page is the
    /// same version still. A record has this or `base`.
    pub was: Lsn,
}

impl Fields {
    pub fn filler() -> Fields {
        Fields { kind: Kind::Filler, depth: 0, offset: 0, page: 0, prev: Lsn::NONE, base: Lsn::NONE, was: Lsn::NONE }
    }
}

/// A record that verified, in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub lsn: Lsn,
    /// Of the whole record, padding included.
    pub len: u64,
    pub epoch: u64,
    pub fields: Fields,
    pub cpl: Option<Cpl>,
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// The first address behind the record.
    pub fn end(&self) -> Lsn {
        self.lsn + self.len
    }
}

/// Why bytes are not the record that they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordFault {
    #[error("it is cut short")]
    Short,
    #[error("its length is impossible")]
    Length,
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it belongs at LSN {0}")]
    Misplaced(Lsn),
    #[error("it has a kind or flag that this version does not know")]
    Unknown,
    #[error("it names an address or a page that no volume has")]
    Range,
    #[error("it is of another epoch")]
    Epoch,
    #[error("it is not a group's header")]
    NotAGroup,
}

/// Bytes that a record takes in the log, before what its group may add as padding.
pub fn encoded_len(payload: usize, cpl: bool) -> u64 {
    (HEADER + if cpl { CPL } else { 0 } + payload).next_multiple_of(8) as u64
}

/// Writes a record over the whole of `out`, whose length is the record's.
///
/// # Panics
/// If `out` is shorter than [`encoded_len`]: the caller reserved it.
pub fn encode(out: &mut [u8], seed: u32, lsn: Lsn, epoch: u64, fields: &Fields, cpl: Option<Cpl>, payload: &[u8]) {
    assert!(out.len() as u64 >= encoded_len(payload.len(), cpl.is_some()) && out.len().is_multiple_of(8));
    let mut raw = RawHeader {
        crc: U32::ZERO,
        len: U32::new(out.len() as u32),
        lsn: U64::new(lsn.0),
        epoch: U64::new(epoch),
        kind: fields.kind as u8,
        flags: if cpl.is_some() { FLAG_CPL } else { 0 } | if fields.was.is_none() { 0 } else { FLAG_MOVED },
        depth: fields.depth,
        lineage: 0,
        offset: U32::new(fields.offset),
        page: U64::new(fields.page),
        prev: U64::new(fields.prev.0),
        base: U64::new(if fields.was.is_none() { fields.base.0 } else { fields.was.0 }),
        payload_len: U32::new(payload.len() as u32),
        reserved: U32::ZERO,
    };
    let mut at = HEADER;
    if let Some(cpl) = cpl {
        let raw = RawCpl { wall_us: U64::new(cpl.wall_us), vdl: U64::new(cpl.vdl.0) };
        out[at..at + CPL].copy_from_slice(raw.as_bytes());
        at += CPL;
    }
    out[at..at + payload.len()].copy_from_slice(payload);
    out[at + payload.len()..].fill(0);
    out[..HEADER].copy_from_slice(raw.as_bytes());
    raw.crc = U32::new(checksum(seed, out));
    out[..4].copy_from_slice(raw.crc.as_bytes());
}

/// Over all but the checksum's own four bytes.
fn checksum(seed: u32, record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(&record[4..]);
    crc.finalize()
}

/// The length that a header claims, without any check but that it could be one. For reads that fetch a header first.
pub fn claimed_len(header: &[u8]) -> Option<u64> {
    let (raw, _) = RawHeader::read_from_prefix(header).ok()?;
    let len = u64::from(raw.len.get());
    (len >= HEADER as u64 && len.is_multiple_of(8)).then_some(len)
}

/// The address that a header claims, unchecked.
pub fn claimed_lsn(header: &[u8]) -> Option<Lsn> {
    let (raw, _) = RawHeader::read_from_prefix(header).ok()?;
    Some(Lsn(raw.lsn.get()))
}

/// The page that a header claims, of a record that does not verify: told only if address, epoch, kind and length are those
/// of a page's record there, in `room` bytes.
pub fn claimed_page(header: &[u8], at: Lsn, epoch: u64, room: usize) -> Option<PageId> {
    let (raw, _) = RawHeader::read_from_prefix(header).ok()?;
    let of_a_page = matches!(Kind::from_byte(raw.kind), Some(Kind::Image | Kind::Delta | Kind::Free));
    let fits = claimed_len(header).is_some_and(|len| len <= room as u64);
    let is_it = raw.lsn.get() == at.0 && raw.epoch.get() == epoch && of_a_page && fits;
    (is_it && raw.page.get() < PageId::LIMIT).then(|| PageId(raw.page.get()))
}

/// Reads and checks the record at the beginning of `bytes`, which stands at address `at`.
pub fn decode(bytes: &[u8], at: Lsn, seed: u32) -> Result<Record<'_>, RecordFault> {
    let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| RecordFault::Short)?;
    let len = raw.len.get() as usize;
    if len < HEADER || !len.is_multiple_of(8) {
        return Err(RecordFault::Length);
    }
    let record = bytes.get(..len).ok_or(RecordFault::Short)?;
    if checksum(seed, record) != raw.crc.get() && !planted(Bug::SkipRecordCrc) {
        return Err(RecordFault::Checksum);
    }
    if raw.lsn.get() != at.0 {
        return Err(RecordFault::Misplaced(Lsn(raw.lsn.get())));
    }
    let kind = Kind::from_byte(raw.kind).ok_or(RecordFault::Unknown)?;
    if raw.flags & !(FLAG_CPL | FLAG_MOVED) != 0 || raw.lineage != 0 || raw.reserved.get() != 0 {
        return Err(RecordFault::Unknown);
    }
    let mut body = &record[HEADER..];
    let cpl = if raw.flags & FLAG_CPL != 0 {
        let (raw, rest) = RawCpl::read_from_prefix(body).map_err(|_| RecordFault::Length)?;
        body = rest;
        Some(Cpl { wall_us: raw.wall_us.get(), vdl: Lsn(raw.vdl.get()) })
    } else {
        None
    };
    let numbers = [raw.lsn, raw.epoch, raw.prev, raw.base];
    let vdl = cpl.map_or(Lsn::NONE, |c| c.vdl);
    if numbers.iter().any(|n| n.get() >= format::NUMBER_LIMIT)
        || vdl.0 >= format::NUMBER_LIMIT
        || raw.page.get() >= PageId::LIMIT
    {
        return Err(RecordFault::Range);
    }
    let moved = raw.flags & FLAG_MOVED != 0;
    if moved && (raw.base.get() == 0 || !matches!(kind, Kind::Image | Kind::Delta)) {
        return Err(RecordFault::Unknown);
    }
    let (base, was) = if moved { (0, raw.base.get()) } else { (raw.base.get(), 0) };
    let payload = body.get(..raw.payload_len.get() as usize).ok_or(RecordFault::Length)?;
    Ok(Record {
        lsn: at,
        len: len as u64,
        epoch: raw.epoch.get(),
        fields: Fields {
            kind,
            depth: raw.depth,
            offset: raw.offset.get(),
            page: raw.page.get(),
            prev: Lsn(raw.prev.get()),
            base: Lsn(base),
            was: Lsn(was),
        },
        cpl,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Fields {
        Fields { kind: Kind::Delta, depth: 3, offset: 77, page: 5, prev: Lsn(4096), base: Lsn(1024), was: Lsn::NONE }
    }

    #[test]
    fn a_header_is_64_bytes() {
        assert_eq!((HEADER, CPL), (64, 16));
    }

    #[test]
    fn what_is_not_the_record_is_told_apart() {
        let mut bytes = vec![0; 96];
        encode(&mut bytes, 9, Lsn(8192), 2, &sample(), None, b"twelve bytes");
        assert_eq!(decode(&bytes, Lsn(8192), 9).unwrap().payload, b"twelve bytes");
        assert_eq!(decode(&bytes[..40], Lsn(8192), 9), Err(RecordFault::Short));
        assert_eq!(decode(&bytes[..80], Lsn(8192), 9), Err(RecordFault::Short));
        assert_eq!(decode(&bytes, Lsn(8192), 8), Err(RecordFault::Checksum), "another volume's");
        assert_eq!(decode(&bytes, Lsn(4096), 9), Err(RecordFault::Misplaced(Lsn(8192))));
        bytes[4] = 3;
        assert_eq!(decode(&bytes, Lsn(8192), 9), Err(RecordFault::Length));
        assert_eq!(decode(&[0; 128], Lsn(8192), 9), Err(RecordFault::Length));
    }

    /// A record of 96 bytes at 8192, with one byte of its header changed and its checksum made right again.
    fn changed(at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = vec![0; 96];
        encode(&mut bytes, 9, Lsn(8192), 2, &sample(), Some(Cpl { wall_us: 1, vdl: Lsn(4096) }), b"twelve bytes");
        bytes[at] = byte;
        let crc = checksum(9, &bytes);
        bytes[..4].copy_from_slice(U32::new(crc).as_bytes());
        bytes
    }

    #[test]
    fn what_verifies_and_is_of_no_volume_of_this_version_is_refused() {
        use RecordFault::{Length, Range, Unknown};
        for (name, at, byte, fault) in [
            ("epoch", 23, 0xC0, Range),
            ("kind 0", 24, 0, Unknown),
            ("kind 7", 24, 7, Unknown),
            ("another flag beside", 25, 5, Unknown),
            ("lineage", 27, 1, Unknown),
            ("page", 36, 4, Range),
            ("prev", 47, 0xC0, Range),
            ("base", 55, 0xC0, Range),
            ("payload of more than there is", 56, 17, Length),
            ("reserved", 60, 1, Unknown),
            ("VDL", 79, 0xC0, Range),
        ] {
            assert_eq!(decode(&changed(at, byte), Lsn(8192), 9), Err(fault), "{name}");
        }
        let moved = decode(&changed(25, 3), Lsn(8192), 9).unwrap().fields;
        assert_eq!((moved.base, moved.was), (Lsn::NONE, Lsn(1024)));
        let mut other = changed(25, 3);
        other[24] = Kind::Table as u8;
        let crc = checksum(9, &other);
        other[..4].copy_from_slice(U32::new(crc).as_bytes());
        assert_eq!(decode(&other, Lsn(8192), 9), Err(Unknown), "only a page moves");
        assert_eq!(decode(&changed(36, 3), Lsn(8192), 9).unwrap().fields.page, (3 << 32) + 5, "the highest pages");
        let far = Lsn(format::NUMBER_LIMIT);
        let mut bytes = vec![0; 64];
        encode(&mut bytes, 9, far, 2, &sample(), None, b"");
        assert_eq!(decode(&bytes, far, 9), Err(Range));
    }

    #[test]
    fn a_header_alone_claims_a_length_an_address_and_a_page() {
        let good = changed(0, 0);
        for (len, claimed) in [(0, None), (56, None), (64, Some(64)), (68, None), (96, Some(96)), (248, Some(248))] {
            assert_eq!(claimed_len(&changed(4, len)[..HEADER]), claimed, "{len}");
        }
        assert_eq!((claimed_lsn(&good), claimed_lsn(&good[1..HEADER])), (Some(Lsn(8192)), None));
        assert_eq!(claimed_len(&good[1..HEADER]), None);
        // A page is told though the record does not verify: where, which epoch, how much room there is.
        let mut bad = good.clone();
        bad[95] ^= 1;
        for (at, epoch, room, told) in [
            (8192, 2, 96, true),
            (8192, 2, 95, false),
            (8200, 2, 96, false),
            (8192, 3, 96, false),
            (8192, 2, 4096, true),
        ] {
            assert_eq!(claimed_page(&bad, Lsn(at), epoch, room), told.then_some(PageId(5)), "{at} {epoch} {room}");
        }
        // (byte of the header, its value; what is told)
        for (at, byte, told) in [
            (24, Kind::Image as u8, Some(5)),
            (24, Kind::Free as u8, Some(5)),
            (24, Kind::Filler as u8, None),
            (24, Kind::Table as u8, None),
            (24, 9, None),
            (4, 100, None),
            (36, 3, Some((3 << 32) + 5)),
            (36, 4, None),
        ] {
            assert_eq!(claimed_page(&changed(at, byte), Lsn(8192), 2, 96), told.map(PageId), "{at} {byte}");
        }
        let mut limit = changed(36, 4);
        limit[32] = 0;
        assert_eq!(claimed_page(&limit, Lsn(8192), 2, 96), None, "the first that no volume has");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payload in prop::collection::vec(any::<u8>(), 0..300), cpl in prop::option::of((any::<u64>(), 0..format::NUMBER_LIMIT)),
                                   lsn in 0..format::NUMBER_LIMIT, epoch in 0..format::NUMBER_LIMIT, pad in 0usize..8, seed in any::<u32>()) {
            let cpl = cpl.map(|(wall_us, vdl)| Cpl { wall_us, vdl: Lsn(vdl) });
            let len = encoded_len(payload.len(), cpl.is_some()) as usize + 8 * pad;
            let mut bytes = vec![0xAA; len];
            encode(&mut bytes, seed, Lsn(lsn), epoch, &sample(), cpl, &payload);
            let got = decode(&bytes, Lsn(lsn), seed).unwrap();
            prop_assert_eq!((got.cpl, got.payload, got.epoch, got.len, got.fields), (cpl, &payload[..], epoch, len as u64, sample()));
        }

        #[test]
        fn a_flipped_bit_is_seen(payload in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let len = encoded_len(payload.len(), true) as usize;
            let mut bytes = vec![0; len];
            encode(&mut bytes, 1, Lsn(4096), 1, &sample(), Some(Cpl::default()), &payload);
            bytes[at.index(len)] ^= 1 << bit;
            prop_assert!(decode(&bytes, Lsn(4096), 1).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, Lsn(0), 0);
        }
    }
}
