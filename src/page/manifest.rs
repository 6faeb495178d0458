//! The manifest: what a checkpoint writes. Recovery starts from the newest. Layout byte by byte: `format.md`.

use crate::core::history::{Entry, History};
use crate::history::past::{Base, NO_STAMPS, Past};
use crate::lsn::{Lsn, format};
use crate::page::pending::RUNS_MAX;
use crate::page::table::{Root, TOP_MAX};
use crate::reclaim::freed::{Freed, Run};
use bytes::Bytes;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawManifest {
    redo: U64,
    next_page: U64,
    pages: U64,
    entries: U32,
    top: U32,
    freed: U32,
    wall_us: U64,
    age_us: U64,
    rewound: U64,
    runs: U32,
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
struct RawRun {
    from: U64,
    to: U64,
}

/// Of more epochs a manifest tells no longer, where they have nothing left: see [`Freed::told`].
pub const ENTRIES_TOLD: usize = 4 << 10;

/// Epochs that a manifest holds: a record of one frame bounds it.
pub const ENTRIES_MAX: usize = 24 << 10;

/// The table as of `redo`, and what recovery needs beside it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// Records at or above are not in the table yet.
    pub redo: Lsn,
    /// Page ids at or above were never given out.
    pub next_page: u64,
    /// Pages that exist.
    pub pages: u64,
    /// The epochs, the open one last: all, or as [`Freed::told`] says.
    pub history: Vec<Entry>,
    pub root: Root,
    /// What was given back: nothing of it is read again.
    pub freed: Freed,
    /// When the checkpoint began: the wall clock, and the volume's own.
    pub wall_us: u64,
    pub age_us: u64,
    /// The state to which it rewinds the volume; 0 of an ordinary checkpoint.
    pub rewound: Lsn,
    /// Without this checkpoint itself; a pin that it is the base of does not tell its address.
    pub past: Past,
}

impl Manifest {
    /// Before the first checkpoint of a volume whose log begins there.
    pub fn first(begin: Lsn) -> Manifest {
        Manifest { redo: begin, ..Manifest::default() }
    }

    pub fn encode(&self) -> Bytes {
        let raw = RawManifest {
            redo: U64::new(self.redo.0),
            next_page: U64::new(self.next_page),
            pages: U64::new(self.pages),
            entries: U32::new(self.history.len() as u32),
            top: U32::new(self.root.top.len() as u32),
            freed: U32::new(self.freed.runs().len() as u32),
            wall_us: U64::new(self.wall_us),
            age_us: U64::new(self.age_us),
            rewound: U64::new(self.rewound.0),
            runs: U32::new(self.root.runs.len() as u32),
        };
        let mut out = raw.as_bytes().to_vec();
        for e in &self.history {
            let raw = RawEntry { epoch: U64::new(e.epoch), begin: U64::new(e.begin.0), end: U64::new(e.end.0) };
            out.extend_from_slice(raw.as_bytes());
        }
        for run in self.freed.runs() {
            let raw = RawRun { from: U64::new(run.from.0), to: U64::new(run.to.0) };
            out.extend_from_slice(raw.as_bytes());
        }
        self.past.encode(&mut out);
        for lsn in self.root.top.iter().chain(&self.root.runs) {
            out.extend_from_slice(U64::new(lsn.0).as_bytes());
        }
        out.into()
    }

    /// None if the bytes are no manifest; they verified as a record, so that is another version's or a defect.
    pub fn decode(payload: &[u8]) -> Option<Manifest> {
        let (raw, rest) = RawManifest::read_from_prefix(payload).ok()?;
        let (entries, top, runs) = (raw.entries.get() as usize, raw.top.get() as usize, raw.runs.get() as usize);
        let numbers = [raw.redo, raw.next_page, raw.pages, raw.rewound];
        let many = entries > ENTRIES_MAX || top as u64 > TOP_MAX || runs > RUNS_MAX;
        if many || numbers.iter().any(|n| n.get() >= format::NUMBER_LIMIT) {
            return None;
        }
        let (entries, rest) = <[RawEntry]>::ref_from_prefix_with_elems(rest, entries).ok()?;
        let (freed, rest) = <[RawRun]>::ref_from_prefix_with_elems(rest, raw.freed.get() as usize).ok()?;
        let run = |r: &RawRun| Run { from: Lsn(r.from.get()), to: Lsn(r.to.get()) };
        let freed = Freed::from_runs(freed.iter().map(run).collect())?;
        let (past, rest) = Past::decode(rest)?;
        let (top, rest) = <[U64]>::ref_from_prefix_with_elems(rest, top).ok()?;
        let runs = <[U64]>::ref_from_bytes(rest).ok().filter(|r| r.len() == runs)?;
        let lsns = |raw: &[U64]| raw.iter().map(|l| Lsn(l.get())).collect();
        let entry = |e: &RawEntry| Entry { epoch: e.epoch.get(), begin: Lsn(e.begin.get()), end: Lsn(e.end.get()) };
        let history: Vec<Entry> = entries.iter().map(entry).collect();
        if !History::are_ordered(&history) {
            return None;
        }
        Some(Manifest {
            redo: Lsn(raw.redo.get()),
            next_page: raw.next_page.get(),
            pages: raw.pages.get(),
            history,
            // What is pending is read from the runs.
            root: Root { top: lsns(top), runs: lsns(runs), ..Root::default() },
            freed,
            wall_us: raw.wall_us.get(),
            age_us: raw.age_us.get(),
            rewound: Lsn(raw.rewound.get()),
            past,
        })
    }

    /// The past, this checkpoint included, whose manifest lies there.
    pub fn past_at(&self, lsn: Lsn) -> Past {
        let (low, high) = NO_STAMPS;
        let (redo, rewound) = (self.redo, self.rewound);
        let own = Base { lsn, redo, rewound, wall_us: self.wall_us, age_us: self.age_us, low, high };
        let mut past = self.past.clone();
        past.bases.push(own);
        past.pins.iter_mut().filter(|p| p.redo == redo).for_each(|p| p.base = lsn);
        past
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let m = Manifest {
            redo: Lsn(8192),
            next_page: 12,
            pages: 9,
            history: vec![
                Entry { epoch: 1, begin: Lsn(4096), end: Lsn(5000) },
                Entry { epoch: 2, begin: Lsn(8192), end: Lsn::MAX },
            ],
            root: Root { top: vec![Lsn(4096), Lsn::NONE, Lsn(7000)], runs: vec![Lsn(8000)], ..Root::default() },
            freed: Freed::from_runs(vec![Run { from: Lsn(0), to: Lsn(format::EXTENT) }]).unwrap(),
            wall_us: 1_764_000_000_123_456,
            age_us: 77,
            rewound: Lsn(4096),
            past: Manifest::first(Lsn(4096)).past_at(Lsn::NONE),
        };
        let bytes = m.encode();
        assert_eq!(Manifest::decode(&bytes), Some(m));
        assert_eq!(Manifest::decode(&bytes[..bytes.len() - 8]), None);
        assert_eq!(Manifest::decode(&[bytes.to_vec(), vec![0; 8]].concat()), None);
        assert_eq!(Manifest::decode(&[]), None);
        assert_eq!(Manifest::decode(&[0xFF; 100]), None);
    }

    #[test]
    fn what_no_volume_has_is_no_manifest() {
        let entry = |i: usize| Entry { epoch: i as u64 + 1, begin: Lsn(4096), end: Lsn(4096) };
        let most = format::NUMBER_LIMIT - 1;
        let (epochs, top) = (ENTRIES_MAX, TOP_MAX as usize);
        let runs = RUNS_MAX;
        for (redo, next_page, pages, entries, top, runs, is_one) in [
            (most, most, most, epochs, top, runs, true),
            (most + 1, 1, 1, 1, 1, 1, false),
            (1, most + 1, 1, 1, 1, 1, false),
            (1, 1, most + 1, 1, 1, 1, false),
            (1, 1, 1, epochs + 1, 1, 1, false),
            (1, 1, 1, 1, top + 1, 1, false),
            (1, 1, 1, 1, 1, runs + 1, false),
        ] {
            let root = Root { top: vec![Lsn(4096); top], runs: vec![Lsn(8192); runs], ..Root::default() };
            let history = (0..entries).map(entry).collect();
            let m = Manifest { redo: Lsn(redo), next_page, pages, history, root, ..Manifest::default() };
            assert_eq!(Manifest::decode(&m.encode()).is_some(), is_one, "{redo} {next_page} {pages} {entries} {top}");
        }
        let (one, next) = (entry(0), Entry { begin: Lsn(4000), ..entry(1) });
        for history in
            [vec![one, next], vec![one, one], vec![Entry { end: Lsn(1), ..one }], vec![Entry { epoch: 0, ..one }]]
        {
            let m = Manifest { redo: Lsn(1), history, ..Manifest::default() };
            assert_eq!(Manifest::decode(&m.encode()), None, "{:?}", m.history);
        }
    }
}
