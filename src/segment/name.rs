//! Names of the files in a slot's directory.

use crate::lsn::{Lsn, format};
use std::fmt;

/// A file of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FileName {
    /// The slot's copy of one protection group; offset = LSN mod PG size.
    Segment(u32),
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
                let pg = u32::from_str_radix(number, 16).ok()?;
                (format!("{pg:08x}") == number).then_some(FileName::Segment(pg))
            }
            "claim" => decimal().map(FileName::Claim),
            "epoch" => decimal().map(FileName::Epoch),
            "tail" => decimal().map(FileName::Tail),
            _ => None,
        }
    }

    /// The segment that holds `lsn`, and the offset in it.
    pub fn segment_of(lsn: Lsn, pg_size: u64) -> (FileName, u64) {
        ((FileName::Segment((lsn.0 / pg_size) as u32)), lsn.0 % pg_size)
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
            FileName::Claim(7),
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
            "claim-4611686018427387904",
        ] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
        assert_eq!(FileName::segment_of(Lsn(70 << 20), 64 << 20), (FileName::Segment(1), 6 << 20));
    }
}
