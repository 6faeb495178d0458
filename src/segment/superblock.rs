//! The superblock: the file `epoch-<n>` of a slot. Two fixed places, each a version with a checksum of its own.
//!
//! A new version goes over the place that does not verify or is older, is synced, then goes over the other. So one torn
//! write, or one bad sector, never turns it back. Layout byte by byte: `format.md`.

use crate::core::gaps::{GAPS_MAX, Gap};
use crate::core::history::{Entry, History};
use crate::core::vote::Join;
use crate::lsn::{Lsn, SLOTS, Slot, format};
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of one place; the file has two.
pub const PLACE: usize = 16 << 10;
const MAGIC: [u8; 8] = *b"QUORSUPR";
/// A checkpoint is forced long before a superblock holds so many entries.
pub const ENTRIES_MAX: usize = 512;
const ALL_GAPS_MAX: usize = GAPS_MAX * SLOTS;

const JOIN_FOUNDER: u8 = 0;
const JOIN_UNSET: u8 = 1;
const JOIN_AT: u8 = 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuper {
    magic: [u8; 8],
    crc: U32,
    format: U32,
    /// Features that a reader must know to open the volume at all.
    incompatible: U64,
    /// Features that a reader may ignore.
    compatible: U64,
    version: U64,
    volume: [u8; 16],
    /// Seeds the records' checksums; a clone keeps its origin's.
    log: [u8; 16],
    number: U64,
    incarnation: U64,
    page_size: U32,
    block_size: U32,
    pg_size: U64,
    lal: U64,
    slot: u8,
    join: u8,
    clean: u8,
    durability: u8,
    entries: U32,
    gaps: U32,
    reserved0: U32,
    join_at: U64,
    join_by: U64,
    clean_end: U64,
    manifest: U64,
    redo: U64,
    resident_from: U64,
    unchecked_from: U64,
    unchecked_to: U64,
    scrub_at: U64,
    scrub_begun: U64,
    reserved: [u8; 48],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEntry {
    epoch: U64,
    begin: U64,
    end: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawGap {
    from: U64,
    to: U64,
    slot: u8,
    reserved: [u8; 7],
}

/// What is fixed when a volume is created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The volume's identity.
    pub volume: Uuid,
    /// The log's identity, from which checksums are seeded.
    pub log: Uuid,
    pub page_size: u32,
    pub block_size: u32,
    pub pg_size: u64,
}

impl Geometry {
    /// The seed of every record's checksum.
    pub fn seed(&self) -> u32 {
        crc32fast::hash(self.log.as_bytes())
    }

    pub fn block(&self) -> u64 {
        u64::from(self.block_size)
    }
}

/// How a log write is made durable; found by the probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Each write by itself (`RWF_DSYNC`).
    #[default]
    Dsync,
    /// Writes, then a flush of the file.
    Flush,
}

/// One version of an epoch's superblock on one slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    pub geometry: Geometry,
    pub slot: Slot,
    /// The epoch whose opener wrote it.
    pub number: u64,
    /// Counts the versions of this file.
    pub version: u64,
    /// Counts how often the slot was formatted.
    pub incarnation: u64,
    /// From the manifest's redo begin on.
    pub history: History,
    pub join: Join,
    /// Set when the writer closed with nothing outstanding: where its log ends.
    pub clean: Option<Lsn>,
    /// The newest manifest; 0 before the first.
    pub manifest: Lsn,
    /// Where redo begins with that manifest.
    pub redo: Lsn,
    pub durability: Durability,
    /// What each slot may lack: hints for repair.
    pub gaps: Vec<(Slot, Gap)>,
    /// What no slot has been read for since a writer died.
    pub unchecked: Gap,
    /// How far the scrub is.
    pub scrub: ScrubMark,
}

/// How far a scrub has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubMark {
    /// Everything below was compared in this round.
    pub at: Lsn,
    /// When the round was begun, by the wall clock, in microseconds since 1970; 0 before the first.
    pub begun_us: u64,
}

/// Why a place holds no superblock of this volume's format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperFault {
    /// Its checksum or structure is wrong.
    #[error("it does not verify")]
    Damaged,
    /// Another format version.
    #[error("it has format version {0}, and this library knows version {version}: open it with a newer one", version = format::VERSION)]
    Version(u32),
    /// Incompatible feature flags.
    #[error("it uses features {0:#x} that this library does not know: open it with a newer one")]
    Features(u64),
    /// Another LSN allocation limit: another format.
    #[error("it was made with another LSN allocation limit ({0})")]
    Lal(u64),
}

/// An epoch history that is too long for a superblock: a checkpoint must come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} epochs since the last checkpoint: a superblock holds {ENTRIES_MAX}")]
pub struct TooLong(pub usize);

/// What stands in a file's two places.
pub type Places = [Result<Superblock, SuperFault>; 2];

impl Superblock {
    /// The bytes of one place.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let entries = self.history.since(self.redo);
        if entries.len() > ENTRIES_MAX {
            return Err(TooLong(entries.len()));
        }
        let gaps = &self.gaps[..self.gaps.len().min(ALL_GAPS_MAX)];
        let g = &self.geometry;
        let (join, join_at, join_by) = match self.join {
            Join::Founder => (JOIN_FOUNDER, Lsn::NONE, 0),
            Join::Unset => (JOIN_UNSET, Lsn::NONE, 0),
            Join::At { at, by } => (JOIN_AT, at, by),
        };
        let raw = RawSuper {
            magic: MAGIC,
            format: U32::new(format::VERSION),
            version: U64::new(self.version),
            volume: g.volume.into_bytes(),
            log: g.log.into_bytes(),
            number: U64::new(self.number),
            incarnation: U64::new(self.incarnation),
            page_size: U32::new(g.page_size),
            block_size: U32::new(g.block_size),
            pg_size: U64::new(g.pg_size),
            lal: U64::new(format::LAL),
            slot: self.slot.0,
            join,
            clean: u8::from(self.clean.is_some()),
            durability: match self.durability {
                Durability::Dsync => 0,
                Durability::Flush => 1,
            },
            entries: U32::new(entries.len() as u32),
            gaps: U32::new(gaps.len() as u32),
            join_at: U64::new(join_at.0),
            join_by: U64::new(join_by),
            clean_end: U64::new(self.clean.unwrap_or(Lsn::NONE).0),
            manifest: U64::new(self.manifest.0),
            redo: U64::new(self.redo.0),
            unchecked_from: U64::new(self.unchecked.from.0),
            unchecked_to: U64::new(self.unchecked.to.0),
            scrub_at: U64::new(self.scrub.at.0),
            scrub_begun: U64::new(self.scrub.begun_us),
            ..RawSuper::new_zeroed()
        };
        let mut out = Vec::with_capacity(PLACE);
        out.extend_from_slice(raw.as_bytes());
        for e in entries {
            let raw = RawEntry { epoch: U64::new(e.epoch), begin: U64::new(e.begin.0), end: U64::new(e.end.0) };
            out.extend_from_slice(raw.as_bytes());
        }
        for (slot, gap) in gaps {
            let raw = RawGap { from: U64::new(gap.from.0), to: U64::new(gap.to.0), slot: slot.0, reserved: [0; 7] };
            out.extend_from_slice(raw.as_bytes());
        }
        out.resize(PLACE, 0);
        let crc = checksum(&out);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(U32::new(crc).as_bytes());
        Ok(out)
    }

    /// Reads one place.
    pub fn decode(place: &[u8]) -> Result<Superblock, SuperFault> {
        let place = place.get(..PLACE).ok_or(SuperFault::Damaged)?;
        let (raw, rest) = RawSuper::read_from_prefix(place).map_err(|_| SuperFault::Damaged)?;
        if raw.magic != MAGIC || raw.crc.get() != checksum(place) {
            return Err(SuperFault::Damaged);
        }
        // It verifies: what follows is another version's, not damage.
        if raw.format.get() != format::VERSION {
            return Err(SuperFault::Version(raw.format.get()));
        }
        if raw.incompatible.get() != 0 {
            return Err(SuperFault::Features(raw.incompatible.get()));
        }
        if raw.lal.get() != format::LAL {
            return Err(SuperFault::Lal(raw.lal.get()));
        }
        let (entries, gaps) = (raw.entries.get() as usize, raw.gaps.get() as usize);
        if entries > ENTRIES_MAX || gaps > ALL_GAPS_MAX || raw.slot as usize >= SLOTS {
            return Err(SuperFault::Damaged);
        }
        let (entries, rest) =
            <[RawEntry]>::ref_from_prefix_with_elems(rest, entries).map_err(|_| SuperFault::Damaged)?;
        let (gaps, _) = <[RawGap]>::ref_from_prefix_with_elems(rest, gaps).map_err(|_| SuperFault::Damaged)?;
        let entries =
            entries.iter().map(|e| Entry { epoch: e.epoch.get(), begin: Lsn(e.begin.get()), end: Lsn(e.end.get()) });
        let geometry = Geometry {
            volume: Uuid::from_bytes(raw.volume),
            log: Uuid::from_bytes(raw.log),
            page_size: raw.page_size.get(),
            block_size: raw.block_size.get(),
            pg_size: raw.pg_size.get(),
        };
        let numbers = [raw.number, raw.version, raw.incarnation, raw.join_at, raw.clean_end, raw.manifest, raw.redo];
        let marks = [raw.unchecked_from, raw.unchecked_to, raw.scrub_at, raw.scrub_begun];
        let gaps_are_sane =
            gaps.iter().all(|g| (g.slot as usize) < SLOTS && g.from.get() <= g.to.get() && in_range(g.to));
        if !geometry_is_sane(&geometry) || !gaps_are_sane || !numbers.into_iter().chain(marks).all(in_range) {
            return Err(SuperFault::Damaged);
        }
        let history = History::from_entries(entries.collect()).map_err(|_| SuperFault::Damaged)?;
        let clean = (raw.clean != 0).then_some(Lsn(raw.clean_end.get()));
        // Who writes it has the newest epoch, and that is what a clean mark ends: an opener goes on from there.
        let newest = history.entries().last();
        if newest.is_some_and(|e| e.epoch > raw.number.get() || clean.is_some_and(|end| end < e.begin)) {
            return Err(SuperFault::Damaged);
        }
        Ok(Superblock {
            geometry,
            slot: Slot(raw.slot),
            number: raw.number.get(),
            version: raw.version.get(),
            incarnation: raw.incarnation.get(),
            history,
            join: match raw.join {
                JOIN_FOUNDER => Join::Founder,
                JOIN_UNSET => Join::Unset,
                JOIN_AT => Join::At { at: Lsn(raw.join_at.get()), by: raw.join_by.get() },
                _ => return Err(SuperFault::Damaged),
            },
            clean,
            manifest: Lsn(raw.manifest.get()),
            redo: Lsn(raw.redo.get()),
            durability: if raw.durability == 1 { Durability::Flush } else { Durability::Dsync },
            gaps: gaps.iter().map(|g| (Slot(g.slot), Gap { from: Lsn(g.from.get()), to: Lsn(g.to.get()) })).collect(),
            unchecked: Gap { from: Lsn(raw.unchecked_from.get()), to: Lsn(raw.unchecked_to.get()) },
            scrub: ScrubMark { at: Lsn(raw.scrub_at.get()), begun_us: raw.scrub_begun.get() },
        })
    }

    /// The valid version of a file: the higher of its two places.
    pub fn newest(file: &[u8]) -> Result<Superblock, SuperFault> {
        Superblock::newest_of(Superblock::places(file))
    }

    /// [`Superblock::newest`] of what was read.
    pub fn newest_of(places: Places) -> Result<Superblock, SuperFault> {
        match places {
            [Ok(a), Ok(b)] => Ok(if a.version >= b.version { a } else { b }),
            [Ok(one), Err(_)] | [Err(_), Ok(one)] => Ok(one),
            // Another version's format says more than damage.
            [Err(SuperFault::Damaged), Err(fault)] | [Err(fault), Err(_)] => Err(fault),
        }
    }

    /// Both places. Mostly they are alike, and comparing is cheaper than verifying.
    pub fn places(file: &[u8]) -> Places {
        let first = Superblock::decode(file);
        let alike = file.len() >= 2 * PLACE && file[..PLACE] == file[PLACE..2 * PLACE];
        let second = if alike { first.clone() } else { Superblock::decode(file.get(PLACE..).unwrap_or_default()) };
        [first, second]
    }

    /// The place that the next version goes over first, the one that does not verify or is older; and the newest version,
    /// 0 if there is none.
    pub fn next_place(places: &Places) -> (usize, u64) {
        let [a, b] = places.each_ref().map(|place| place.as_ref().map(|s| s.version).ok());
        (if a <= b { 0 } else { PLACE }, a.max(b).unwrap_or(0))
    }
}

const CRC_AT: usize = 8;

fn checksum(place: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&place[..CRC_AT]);
    crc.update(&place[CRC_AT + 4..]);
    crc.finalize()
}

fn in_range(number: U64) -> bool {
    number.get() < format::NUMBER_LIMIT
}

fn geometry_is_sane(g: &Geometry) -> bool {
    let block = u64::from(g.block_size);
    g.page_size.is_power_of_two()
        && (format::PAGE_MIN..=format::PAGE_MAX).contains(&g.page_size)
        && block.is_power_of_two()
        && (format::BLOCK_MIN..=format::BLOCK_MAX).contains(&block)
        && g.pg_size > 0
        && g.pg_size.is_multiple_of(format::EXTENT)
        && g.pg_size <= format::PG_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn sample() -> Superblock {
        Superblock {
            geometry: Geometry {
                volume: Uuid::from_u128(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF),
                log: Uuid::from_u128(7),
                page_size: 16 << 10,
                block_size: 4096,
                pg_size: 10 << 30,
            },
            slot: Slot(3),
            number: 7,
            version: 2,
            incarnation: 1,
            history: History::first(Lsn(4096)).succeed(Lsn(5000), 7, Lsn(64 << 20)),
            join: Join::At { at: Lsn(4500), by: 7 },
            clean: Some(Lsn(1 << 30)),
            manifest: Lsn(4800),
            redo: Lsn(4700),
            durability: Durability::Flush,
            gaps: vec![(Slot(1), Gap { from: Lsn(4096), to: Lsn(8192) })],
            unchecked: Gap { from: Lsn(4096), to: Lsn(5000) },
            scrub: ScrubMark { at: Lsn(4096), begun_us: 1 << 50 },
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let s = sample();
        assert_eq!(size_of::<RawSuper>(), 256);
        assert_eq!(Superblock::decode(&s.encode().unwrap()), Ok(s));
    }

    #[test]
    fn every_byte_is_covered() {
        let good = sample().encode().unwrap();
        for at in (0..300).chain([PLACE - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Superblock::decode(&bad), Err(SuperFault::Damaged), "{at}");
        }
    }

    /// Bytes of a place with others at `at`, and the checksum made right again.
    fn with(mut bytes: Vec<u8>, at: usize, others: &[u8]) -> Vec<u8> {
        bytes[at..at + others.len()].copy_from_slice(others);
        let crc = checksum(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(U32::new(crc).as_bytes());
        bytes
    }

    #[test]
    fn another_format_is_named() {
        let change = |at: usize, byte: u8| Superblock::decode(&with(sample().encode().unwrap(), at, &[byte]));
        assert_eq!(change(12, 2), Err(SuperFault::Version(2)));
        assert_eq!(change(16, 4), Err(SuperFault::Features(4)));
        assert_eq!(change(104, 1), Err(SuperFault::Lal(format::LAL | 1)));
        assert_eq!(change(113, 3), Err(SuperFault::Damaged), "no join that this version knows");
    }

    #[test]
    fn what_verifies_and_no_volume_has_is_damage() {
        const LIMIT: u64 = format::NUMBER_LIMIT;
        let gap = |slot, from, to| vec![(Slot(slot), Gap { from: Lsn(from), to: Lsn(to) })];
        /// What is changed, and whether the result is still a superblock.
        type Row<'a> = (&'a dyn Fn(&mut Superblock), bool);
        let rows: [Row<'_>; 27] = [
            (&|s| s.number = LIMIT - 1, true),
            (&|s| s.number = LIMIT, false),
            (&|s| s.version = LIMIT, false),
            (&|s| s.incarnation = LIMIT, false),
            (&|s| s.join = Join::At { at: Lsn(LIMIT), by: 7 }, false),
            (&|s| s.clean = Some(Lsn(LIMIT)), false),
            (&|s| s.manifest = Lsn(LIMIT), false),
            (&|s| s.slot = Slot(6), false),
            (&|s| s.gaps = gap(5, 8, 8), true),
            (&|s| s.gaps = gap(6, 8, 16), false),
            (&|s| s.gaps = gap(1, 16, 8), false),
            (&|s| s.gaps = gap(1, 8, LIMIT - 1), true),
            (&|s| s.gaps = gap(1, 8, LIMIT), false),
            (&|s| s.geometry.page_size = 4096, true),
            (&|s| s.geometry.page_size = 65_536, true),
            (&|s| s.geometry.page_size = 12_288, false),
            (&|s| s.geometry.page_size = 2048, false),
            (&|s| s.geometry.page_size = 131_072, false),
            (&|s| s.geometry.block_size = 65_536, true),
            (&|s| s.geometry.block_size = 12_288, false),
            (&|s| s.geometry.block_size = 2048, false),
            (&|s| s.geometry.block_size = 131_072, false),
            (&|s| s.geometry.pg_size = format::EXTENT, true),
            (&|s| s.geometry.pg_size = 0, false),
            (&|s| s.geometry.pg_size = format::EXTENT + 4096, false),
            (&|s| s.geometry.pg_size = format::PG_MAX, true),
            (&|s| s.geometry.pg_size = format::PG_MAX + format::EXTENT, false),
        ];
        for (row, (change, is_one)) in rows.into_iter().enumerate() {
            let mut s = sample();
            change(&mut s);
            let read = Superblock::decode(&s.encode().unwrap());
            assert_eq!(s.geometry.block(), u64::from(s.geometry.block_size));
            assert_eq!(read, if is_one { Ok(s) } else { Err(SuperFault::Damaged) }, "row {row}");
        }
    }

    #[test]
    fn the_higher_version_wins_and_one_bad_place_does_not_turn_it_back() {
        let (mut old, new) = (sample(), Superblock { version: 3, ..sample() });
        old.clean = None;
        let (a, b) = (old.encode().unwrap(), new.encode().unwrap());
        let file = |x: &[u8], y: &[u8]| [x, y].concat();
        let next_place = |file: &[u8]| Superblock::next_place(&Superblock::places(file)).0;
        assert_eq!(Superblock::newest(&file(&a, &b)), Ok(new.clone()));
        assert_eq!(Superblock::newest(&file(&b, &a)), Ok(new.clone()));
        assert_eq!(Superblock::newest(&file(&[0; PLACE], &b)), Ok(new));
        assert_eq!(Superblock::newest(&file(&[0; PLACE], &[1; PLACE])), Err(SuperFault::Damaged));
        assert_eq!(Superblock::newest(&[]), Err(SuperFault::Damaged));
        assert_eq!(next_place(&file(&a, &b)), 0);
        assert_eq!(next_place(&file(&b, &a)), PLACE);
        assert_eq!(next_place(&file(&b, &[0; PLACE])), PLACE);
        assert_eq!(next_place(&[]), 0);
    }

    /// A history of so many epochs, of which all but the first are empty.
    fn long(epochs: usize) -> Superblock {
        let mut s = Superblock { gaps: vec![], ..sample() };
        while s.history.entries().len() < epochs {
            let last = s.history.last();
            s.history = s.history.succeed(last.begin, last.epoch + 1, last.begin);
            s.number = last.epoch + 1;
        }
        s
    }

    #[test]
    fn a_history_that_is_newer_than_its_writer_is_damage_and_so_is_an_end_before_its_begin() {
        let s = Superblock { clean: None, ..sample() };
        let last = s.history.last();
        for (number, clean, is_one) in [
            (last.epoch, None, true),
            (last.epoch - 1, None, false),
            (last.epoch, Some(last.begin), true),
            (last.epoch, Some(Lsn(last.begin.0 - 1)), false),
        ] {
            let s = Superblock { number, clean, ..s.clone() };
            let read = Superblock::decode(&s.encode().unwrap());
            assert_eq!(read, if is_one { Ok(s) } else { Err(SuperFault::Damaged) });
        }
    }

    #[test]
    fn a_history_that_is_too_long_is_refused() {
        let most = long(ENTRIES_MAX);
        let bytes = most.encode().unwrap();
        assert_eq!(Superblock::decode(&bytes), Ok(most.clone()));
        assert_eq!(long(ENTRIES_MAX + 1).encode(), Err(TooLong(ENTRIES_MAX + 1)));
        // One more, in bytes: the last is closed, and another follows it.
        let last = most.history.last();
        let end = U64::new(last.begin.0);
        let another = RawEntry { epoch: U64::new(last.epoch + 1), begin: end, end: U64::new(u64::MAX) };
        let behind = size_of::<RawSuper>() + ENTRIES_MAX * size_of::<RawEntry>();
        let bytes = with(with(bytes, behind - 8, end.as_bytes()), behind, another.as_bytes());
        let count = U32::new(ENTRIES_MAX as u32 + 1);
        assert_eq!(Superblock::decode(&with(bytes, 116, count.as_bytes())), Err(SuperFault::Damaged));
    }

    #[test]
    fn so_many_gaps_are_told_and_no_more() {
        let gap = (Slot(5), Gap { from: Lsn(4096), to: Lsn(8192) });
        let told = |gaps: usize| {
            let bytes = Superblock { gaps: vec![gap; gaps], ..sample() }.encode().unwrap();
            Superblock::decode(&bytes).map(|s| s.gaps.len())
        };
        // Sixteen a slot.
        assert_eq!((told(95), told(96), told(97)), (Ok(95), Ok(96), Ok(96)));
        // One more, in bytes: of slot 0, and empty.
        let bytes = Superblock { gaps: vec![gap; 96], ..sample() }.encode().unwrap();
        assert_eq!(Superblock::decode(&with(bytes, 120, &[97])), Err(SuperFault::Damaged));
    }
}
