//! `tail-<n>`: the groups that the opener of epoch n copied onto a slot, in a file of its own. It counts as a copy.
//!
//! A header block with a checksum names the groups; they follow back to back, each as it stands in the log. The file is
//! written once, whole, before the decision that counts it.

use crate::log::group;
use crate::lsn::{Lsn, format};
use std::ops::Range;
use std::sync::Arc;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"QUORTAIL";

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTail {
    magic: [u8; 8],
    crc: U32,
    count: U32,
    volume: [u8; 16],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawGroup {
    lsn: U64,
    len: U64,
}

/// A volume, and the seed of its log's checksums.
pub type Seeds = (uuid::Uuid, u32);
/// Groups, and where they stand in a tail file's bytes.
pub type Stretches = Arc<[(Lsn, Range<usize>)]>;

/// No tail file is longer: what a writer can have out beyond VDL, and a group before.
pub const BYTES_MAX: usize = (2 * format::LAL + 2 * format::FRAME) as usize;

/// The bytes of a tail file.
pub fn encode(volume: uuid::Uuid, groups: &[(Lsn, impl AsRef<[u8]>)]) -> Vec<u8> {
    let head = size_of::<RawTail>() + groups.len() * size_of::<RawGroup>();
    let head = head.next_multiple_of(format::BLOCK_MAX as usize);
    let raw =
        RawTail { magic: MAGIC, crc: U32::ZERO, count: U32::new(groups.len() as u32), volume: volume.into_bytes() };
    let bytes: usize = groups.iter().map(|(_, bytes)| bytes.as_ref().len()).sum();
    let mut out = Vec::with_capacity(head + bytes);
    out.extend_from_slice(raw.as_bytes());
    for (lsn, bytes) in groups {
        let raw = RawGroup { lsn: U64::new(lsn.0), len: U64::new(bytes.as_ref().len() as u64) };
        out.extend_from_slice(raw.as_bytes());
    }
    out.resize(head, 0);
    let crc = checksum(&out);
    out[8..12].copy_from_slice(U32::new(crc).as_bytes());
    groups.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes.as_ref()));
    out
}

/// The groups of a tail file, unverified: each still has to verify at its address. None if the header does not.
pub fn decode(bytes: &[u8], volume: uuid::Uuid) -> Option<Vec<(Lsn, &[u8])>> {
    let (raw, _) = RawTail::read_from_prefix(bytes).ok()?;
    let count = raw.count.get() as usize;
    let head = size_of::<RawTail>().checked_add(count.checked_mul(size_of::<RawGroup>())?)?;
    let head = head.checked_next_multiple_of(format::BLOCK_MAX as usize)?;
    if raw.magic != MAGIC || raw.volume != volume.into_bytes() || raw.crc.get() != checksum(bytes.get(..head)?) {
        return None;
    }
    let (table, _) = <[RawGroup]>::ref_from_prefix_with_elems(&bytes[size_of::<RawTail>()..], count).ok()?;
    let mut at = head;
    let mut groups = Vec::with_capacity(count);
    for g in table {
        let Some(group) = bytes.get(at..at.checked_add(g.len.get() as usize)?) else { break };
        if g.lsn.get() < format::NUMBER_LIMIT {
            groups.push((Lsn(g.lsn.get()), group));
        }
        at += group.len();
    }
    Some(groups)
}

/// The groups of a tail file that verify.
pub fn whole(bytes: &[u8], (volume, seed): Seeds) -> Stretches {
    let is_whole =
        |at, group: &[u8]| group::verify(group, at, seed, |_| ()).is_ok_and(|s| s.header.len == group.len() as u64);
    let stretch = |(at, group): (Lsn, &[u8])| {
        let from = group.as_ptr().addr() - bytes.as_ptr().addr();
        is_whole(at, group).then_some((at, from..from + group.len()))
    };
    decode(bytes, volume).unwrap_or_default().into_iter().filter_map(stretch).collect()
}

fn checksum(head: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..8]);
    crc.update(&head[12..]);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_back_and_garbage_does_not() {
        let id = uuid::Uuid::from_u128(5);
        let groups = vec![(Lsn(4096), vec![1; 4096]), (Lsn(8192), vec![2; 8192])];
        let file = encode(id, &groups);
        let got = decode(&file, id).unwrap();
        assert_eq!(got, groups.iter().map(|(l, b)| (*l, &b[..])).collect::<Vec<_>>());
        assert_eq!(decode(&file, uuid::Uuid::from_u128(6)), None);
        assert_eq!(decode(&file[..file.len() - 1], id).unwrap().len(), 1);
        assert_eq!(decode(&file[..100], id), None);
        let mut bad = file.clone();
        bad[40] ^= 1;
        assert_eq!(decode(&bad, id), None);
    }
}
