//! A group: what one seal produces, from block boundary to block boundary. It is valid only whole.
//!
//! Its header stands at the first block's beginning; records and a filler tile the rest. No group crosses a multiple of
//! [`format::FRAME`], so a reader finds every group inside one aligned mebibyte.

use crate::bugs::{Bug, planted};
use crate::log::record::{self, Record, RecordFault};
use crate::lsn::{Lsn, format};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 4] = *b"QGRP";

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawGroup {
    crc: U32,
    magic: [u8; 4],
    lsn: U64,
    epoch: U64,
    /// Of the whole group: a multiple of the block.
    len: U32,
    reserved: U32,
}

/// Bytes of a group's header.
pub const HEADER: usize = size_of::<RawGroup>();

/// Writes the header of a group of `len` bytes at the beginning of `out`.
pub fn encode_header(out: &mut [u8], seed: u32, lsn: Lsn, epoch: u64, len: u64) {
    let mut raw = RawGroup {
        crc: U32::ZERO,
        magic: MAGIC,
        lsn: U64::new(lsn.0),
        epoch: U64::new(epoch),
        len: U32::new(len as u32),
        reserved: U32::ZERO,
    };
    raw.crc = U32::new(checksum(seed, raw.as_bytes()));
    out[..HEADER].copy_from_slice(raw.as_bytes());
}

fn checksum(seed: u32, header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(&header[4..HEADER]);
    crc.finalize()
}

/// A group's header that verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub lsn: Lsn,
    pub len: u64,
    pub epoch: u64,
}

/// Reads and checks the group header at the beginning of `bytes`, which stands at address `at`.
pub fn decode_header(bytes: &[u8], at: Lsn, seed: u32) -> Result<Header, RecordFault> {
    let (raw, _) = RawGroup::read_from_prefix(bytes).map_err(|_| RecordFault::Short)?;
    if raw.magic != MAGIC {
        return Err(RecordFault::NotAGroup);
    }
    if checksum(seed, &bytes[..HEADER]) != raw.crc.get() {
        return Err(RecordFault::Checksum);
    }
    if raw.lsn.get() != at.0 {
        return Err(RecordFault::Misplaced(Lsn(raw.lsn.get())));
    }
    let len = u64::from(raw.len.get());
    if len == 0 || !len.is_multiple_of(format::BLOCK_MIN) || at.0 % format::FRAME + len > format::FRAME {
        return Err(RecordFault::Length);
    }
    Ok(Header { lsn: at, len, epoch: raw.epoch.get() })
}

/// The address that bytes give themselves, unchecked: for a planted bug alone.
#[cfg(not(quorate_loom))]
pub fn claimed_lsn(bytes: &[u8]) -> Option<Lsn> {
    Some(Lsn(RawGroup::read_from_prefix(bytes).ok()?.0.lsn.get()))
}

/// What a valid group tells recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    pub header: Header,
    /// Behind the last record that ends an MTR.
    pub cpl_end: Option<Lsn>,
    /// The highest VDL that a record of it knows.
    pub vdl: Lsn,
}

/// A group that is not whole, and what its valid records still testify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    pub fault: RecordFault,
    /// Where the fault lies.
    pub at: Lsn,
    /// The group's epoch, if its header verified.
    pub epoch: Option<u64>,
    /// The highest VDL that a valid record of it knows.
    pub vdl: Lsn,
}

/// Checks the group at the beginning of `bytes`, header and every record, and hands each record to `each`.
pub fn verify<'a>(bytes: &'a [u8], at: Lsn, seed: u32, mut each: impl FnMut(Record<'a>)) -> Result<Summary, Broken> {
    let header = decode_header(bytes, at, seed).map_err(|fault| Broken { fault, at, epoch: None, vdl: Lsn::NONE })?;
    let mut sum = Summary { header, cpl_end: None, vdl: Lsn::NONE };
    let broken = |sum: &Summary, fault, at| Broken { fault, at, epoch: Some(header.epoch), vdl: sum.vdl };
    let Some(group) = bytes.get(..header.len as usize) else { return Err(broken(&sum, RecordFault::Short, at)) };
    let mut pos = HEADER;
    while pos < group.len() {
        let here = at + pos as u64;
        let record = match record::decode(&group[pos..], here, seed) {
            Ok(r) if r.epoch == header.epoch => r,
            Ok(_) => return Err(broken(&sum, RecordFault::Epoch, here)),
            Err(_) if planted(Bug::SkipGroupCheck) => return Ok(sum),
            Err(fault) => {
                testify_behind(group, pos, at, seed, &mut sum);
                return Err(broken(&sum, fault, here));
            }
        };
        if let Some(cpl) = record.cpl {
            sum.cpl_end = Some(record.end());
            sum.vdl = sum.vdl.max(cpl.vdl);
        }
        pos += record.len as usize;
        each(record);
    }
    Ok(sum)
}

/// A torn group's later records may still verify, and say how far VDL was.
fn testify_behind(group: &[u8], from: usize, at: Lsn, seed: u32, sum: &mut Summary) {
    let mut pos = from;
    while pos + record::HEADER <= group.len() {
        let here = at + pos as u64;
        // Its address must be in its place before a checksum is worth the time: garbage costs one look a position.
        let record = (record::claimed_lsn(&group[pos..]) == Some(here))
            .then(|| record::decode(&group[pos..], here, seed).ok())
            .flatten()
            .filter(|r| r.epoch == sum.header.epoch);
        if let Some(cpl) = record.and_then(|r| r.cpl) {
            sum.vdl = sum.vdl.max(cpl.vdl);
        }
        pos += record.map_or(8, |r| r.len as usize);
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use crate::log::record::{Cpl, Fields, Kind};

    const SEED: u32 = 7;

    fn group(at: Lsn) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        encode_header(&mut bytes, SEED, at, 3, 4096);
        let f = Fields { kind: Kind::Delta, page: 1, ..Fields::filler() };
        record::encode(&mut bytes[HEADER..HEADER + 72], SEED, at + HEADER as u64, 3, &f, None, b"hello");
        let cpl = Some(Cpl { wall_us: 1, vdl: Lsn(4096) });
        record::encode(&mut bytes[HEADER + 72..HEADER + 160], SEED, at + HEADER as u64 + 72, 3, &f, cpl, b"world");
        let from = HEADER + 160;
        record::encode(&mut bytes[from..], SEED, at + from as u64, 3, &Fields::filler(), None, &[]);
        bytes
    }

    #[test]
    fn a_group_is_valid_only_whole() {
        let at = Lsn(8192);
        let good = group(at);
        let mut records = 0;
        let sum = verify(&good, at, SEED, |_| records += 1).unwrap();
        assert_eq!((records, sum.cpl_end, sum.vdl), (3, Some(at + 192), Lsn(4096)));
        for byte in 0..4096 {
            let mut bad = good.clone();
            bad[byte] ^= 0x40;
            let broken = verify(&bad, at, SEED, |_| ()).unwrap_err();
            let hits_cpl = (HEADER + 72..HEADER + 160).contains(&byte);
            assert!(broken.epoch.is_none() || hits_cpl || broken.vdl == Lsn(4096), "its other records testify: {byte}");
        }
    }

    #[test]
    fn a_group_is_whole_blocks_and_never_leaves_its_frame() {
        let at = Lsn(format::FRAME - 8192);
        for (len, is_one) in [(0, false), (100, false), (4096, true), (8192, true), (12288, false)] {
            let mut bytes = vec![0; HEADER];
            encode_header(&mut bytes, SEED, at, 1, len);
            let want = if is_one { Ok(Header { lsn: at, len, epoch: 1 }) } else { Err(RecordFault::Length) };
            assert_eq!(decode_header(&bytes, at, SEED), want, "{len}");
        }
    }

    #[test]
    fn what_is_not_the_header_is_told_apart() {
        let at = Lsn(8192);
        let good = group(at);
        let fault = |bytes: &[u8], at| decode_header(bytes, at, SEED).unwrap_err();
        assert_eq!(fault(&good[..HEADER - 1], at), RecordFault::Short);
        assert_eq!(fault(&good[HEADER..], at), RecordFault::NotAGroup);
        assert_eq!(decode_header(&good, at, SEED + 1), Err(RecordFault::Checksum), "another volume's");
        assert_eq!(fault(&good, at + 4096), RecordFault::Misplaced(at));
        let cut = verify(&good[..4000], at, SEED, |_| ()).unwrap_err();
        assert_eq!((cut.fault, cut.at, cut.epoch), (RecordFault::Short, at, Some(3)));
    }

    #[test]
    fn a_record_of_another_epoch_breaks_the_group() {
        let at = Lsn(8192);
        let second = HEADER + 72;
        let mut bytes = group(at);
        let cpl = Some(Cpl { wall_us: 1, vdl: Lsn(6000) });
        record::encode(&mut bytes[second..second + 88], SEED, at + second as u64, 4, &Fields::filler(), cpl, b"");
        let broken = verify(&bytes, at, SEED, |_| ()).unwrap_err();
        let want = Broken { fault: RecordFault::Epoch, at: at + second as u64, epoch: Some(3), vdl: Lsn::NONE };
        assert_eq!(broken, want);
        // Nor does it testify of the group's epoch, where the first record is damaged.
        bytes[HEADER + 70] ^= 1;
        assert_eq!(verify(&bytes, at, SEED, |_| ()).unwrap_err().vdl, Lsn::NONE);
    }
}
