//! Names of the files in a slot's directory.

use crate::lsn::{Lsn, format};
use std::fmt;

/// There are fewer protection groups, however small they are.
const PGS_MAX: u64 = format::NUMBER_LIMIT / format::EXTENT;

/// A file of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FileName {
    /// The slot's copy of one protection group; offset = LSN mod PG size.
    Segment(u64),
    /// An opener has claimed this epoch. Its name is all that it holds.
    Claim(u64),
    /// The superblock of an epoch.
    Epoch(u64),
    /// Groups that the opener of an epoch copied; read beside the segment.
    Tail(u64),
    /// Space that is given back when the disk is full.
    Reserve,
}

impl FileName {
    /// The name's meaning, or none if it is no file of a slot.
    pub fn parse(name: &str) -> Option<FileName> {
        if name == "reserve" {
            return Some(FileName::Reserve);
        }
        let (kind, number) = name.split_once('-')?;
        // Only the form that is written: no sign, no leading zero, no number that no opener reaches.
        let decimal = || number.parse::<u64>().ok().filter(|n| n.to_string() == number && *n < format::NUMBER_LIMIT);
        match kind {
            "seg" => {
                let pg = u64::from_str_radix(number, 16).ok()?;
                (format!("{pg:08x}") == number && pg < PGS_MAX).then_some(FileName::Segment(pg))
            }
            "claim" => decimal().map(FileName::Claim),
            "epoch" => decimal().map(FileName::Epoch),
            "tail" => decimal().map(FileName::Tail),
            _ => None,
        }
    }

    /// The segment that holds `lsn`, and the offset in it.
    pub fn segment_of(lsn: Lsn, pg_size: u64) -> (FileName, u64) {
        ((FileName::Segment(lsn.0 / pg_size)), lsn.0 % pg_size)
    }

    /// Where the addresses of a protection group begin; none if no volume with groups of this size comes so far.
    pub fn begin_of(pg: u64, pg_size: u64) -> Option<Lsn> {
        pg.checked_mul(pg_size).filter(|at| *at < format::NUMBER_LIMIT).map(Lsn)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Segment(pg) => write!(f, "seg-{pg:08x}"),
            FileName::Claim(n) => write!(f, "claim-{n}"),
            FileName::Epoch(n) => write!(f, "epoch-{n}"),
            FileName::Tail(n) => write!(f, "tail-{n}"),
            FileName::Reserve => f.write_str("reserve"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            FileName::Segment(0),
            FileName::Segment(0xABC),
            FileName::Segment(0xFFFF_FFFF),
            FileName::Segment(0x1_0000_0000),
            FileName::Segment(PGS_MAX - 1),
            FileName::Claim(7),
            FileName::Claim(format::NUMBER_LIMIT - 1),
            FileName::Epoch(1),
            FileName::Tail(30),
            FileName::Reserve,
        ] {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        for other in [
            "",
            "seg-1",
            "claim-07",
            "claim-+7",
            "claim-",
            "epoch",
            "lost+found",
            "seg-0000000A",
            "tail-x",
            "claim-13835058055282163712",
            "seg-3000000000",
            "seg-000000001",
            "seg-ffffffffffffffff",
        ] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
        assert_eq!(FileName::segment_of(Lsn(70 << 20), 64 << 20), (FileName::Segment(1), 6 << 20));
    }

    #[test]
    fn every_address_has_a_place_of_its_own() {
        let (small, usual, odd, most) = (64 << 20, format::PG_DEFAULT, 192 << 20, format::PG_MAX);
        let far = [0, 1 << 46, 1 << 58, 1 << 62, 1 << 63, format::NUMBER_LIMIT - 1];
        for pg_size in [small, usual, odd, most] {
            let borders = far.iter().map(|at| at / pg_size * pg_size);
            for border in borders {
                for at in [border.saturating_sub(1), border, border + 1, border + pg_size - 1, border + pg_size] {
                    let (name, offset) = FileName::segment_of(Lsn(at), pg_size);
                    let FileName::Segment(pg) = name else { panic!("{name}") };
                    assert!(offset < pg_size && i64::try_from(offset + format::FRAME).is_ok(), "{at}");
                    if at < format::NUMBER_LIMIT {
                        let begin = FileName::begin_of(pg, pg_size).unwrap();
                        assert_eq!((begin + offset, FileName::parse(&name.to_string())), (Lsn(at), Some(name)));
                    }
                }
                let of = |at| FileName::segment_of(Lsn(at), pg_size).0;
                assert!(border == 0 || of(border) > of(border - 1), "{border}: another file begins there");
            }
        }
        // A stray file: no address of ours.
        assert_eq!(FileName::begin_of(0xFFFF_FFFF, usual), None);
        assert_eq!(FileName::begin_of(PGS_MAX - 1, usual), None);
        assert_eq!(FileName::begin_of(PGS_MAX, small), None);
        assert!(FileName::begin_of(PGS_MAX - 1, small).is_some());
        // 64 TiB are 6,554 groups.
        assert_eq!(FileName::segment_of(Lsn((1 << 46) - 1), usual).0, FileName::Segment(6553));
    }
}
