//! What of a page has to be written anew so that an extent holds nothing of it.
//!
//! A page is its newest record's chain: deltas down to an image. If the image lies in the extent the page is written as a
//! new image, which costs what the old one takes; if only deltas do, the chain's deltas are written anew over the image
//! where it is. Either way the old chain is dead as a whole, wherever its records are, and nothing points into the extent:
//! no read takes another hop. (DESIGN.md's way, records copied verbatim and found through an index, keeps their addresses
//! and needs an index of its own, as large as the table, which would have to be checkpointed as well.)

use crate::bugs::{Bug, planted};
use crate::lsn::Lsn;
use crate::reclaim::freed::Run;
use bytes::Bytes;

/// A delta of a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub lsn: Lsn,
    pub offset: u32,
    pub bytes: Bytes,
}

/// A page's chain, as far as it matters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Newest first.
    pub deltas: Vec<Link>,
    pub image: Lsn,
}

/// What is to be appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Move {
    /// Nothing of the page lies there.
    Nothing,
    /// The page as it is, as an image.
    Image,
    /// These, oldest first, over the image at `base`.
    Deltas { base: Lsn, deltas: Vec<Link> },
}

/// What a record takes beside its payload, about.
const RECORD: usize = 80;

pub fn plan(chain: Chain, extent: Run, page_size: usize) -> Move {
    let within = |lsn: Lsn| extent.from <= lsn && lsn < extent.to;
    let mut all = chain.deltas.iter().map(|d| d.lsn).chain([chain.image]);
    if planted(Bug::StraddlingStays) && all.any(|lsn| !within(lsn)) {
        return Move::Nothing;
    }
    if within(chain.image) {
        return Move::Image;
    }
    if !chain.deltas.iter().any(|d| within(d.lsn)) {
        return Move::Nothing;
    }
    let bytes: usize = chain.deltas.iter().map(|d| d.bytes.len() + RECORD).sum();
    if bytes >= page_size {
        return Move::Image;
    }
    let Chain { mut deltas, image } = chain;
    deltas.reverse();
    Move::Deltas { base: image, deltas }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(deltas: &[(u64, usize)], image: u64) -> Chain {
        let link = |(lsn, len): &(u64, usize)| Link { lsn: Lsn(*lsn), offset: 0, bytes: vec![0; *len].into() };
        Chain { deltas: deltas.iter().map(link).collect(), image: Lsn(image) }
    }

    #[test]
    fn what_moves() {
        let extent = Run { from: Lsn(1000), to: Lsn(2000) };
        let of = |deltas: &[(u64, usize)], image| match plan(chain(deltas, image), extent, 4096) {
            Move::Nothing => "nothing".to_string(),
            Move::Image => "image".to_string(),
            Move::Deltas { base, deltas } => {
                format!("{:?} over {base}", deltas.iter().map(|d| d.lsn.0).collect::<Vec<_>>())
            }
        };
        for (deltas, image, want) in [
            (&[][..], 999, "nothing"),
            (&[], 1000, "image"),
            (&[], 1999, "image"),
            (&[], 2000, "nothing"),
            (&[(3000, 8), (2000, 8)], 500, "nothing"),
            (&[(3000, 8), (1999, 8)], 500, "[1999, 3000] over 500"),
            (&[(1500, 8)], 500, "[1500] over 500"),
            (&[(3000, 8), (2500, 8)], 1500, "image"),
            (&[(1500, 8), (1400, 5000)], 500, "image"),
        ] {
            assert_eq!(of(deltas, image), want, "{deltas:?} over {image}");
        }
    }
}
