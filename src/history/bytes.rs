//! What a manifest says of the past, as bytes: numbers first, then bases, pins, emptied extents and the pins' names, padded to 8.

use crate::history::past::{BASES_MAX, Base, EMPTIED_MAX, Emptied, NAME_MAX, PINS_MAX, Past, Pin, Window};
use crate::lsn::{Lsn, format};
use crate::reclaim::freed::Run;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPast {
    window_us: U64,
    window_bytes: U64,
    bases: U32,
    pins: U32,
    emptied: U32,
    /// 1: the byte limit has cut the window short.
    cut_short: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBase {
    lsn: U64,
    redo: U64,
    rewound: U64,
    wall_us: U64,
    age_us: U64,
    low: U64,
    high: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPin {
    lsn: U64,
    base: U64,
    redo: U64,
    wall_us: U64,
    age_us: U64,
    name: U32,
    reserved: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawEmptied {
    from: U64,
    to: U64,
    since: U64,
}

impl Past {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let raw = RawPast {
            window_us: U64::new(self.window.time_us),
            window_bytes: U64::new(self.window.bytes),
            bases: U32::new(self.bases.len() as u32),
            pins: U32::new(self.pins.len() as u32),
            emptied: U32::new(self.emptied.len() as u32),
            cut_short: U32::new(self.cut_short.into()),
        };
        out.extend_from_slice(raw.as_bytes());
        for b in &self.bases {
            let numbers = [b.lsn.0, b.redo.0, b.rewound.0, b.wall_us, b.age_us, b.low, b.high];
            let [lsn, redo, rewound, wall_us, age_us, low, high] = numbers.map(U64::new);
            out.extend_from_slice(RawBase { lsn, redo, rewound, wall_us, age_us, low, high }.as_bytes());
        }
        for p in &self.pins {
            let [lsn, base, redo, wall_us, age_us] = [p.lsn.0, p.base.0, p.redo.0, p.wall_us, p.age_us].map(U64::new);
            let name = U32::new(p.name.len() as u32);
            out.extend_from_slice(RawPin { lsn, base, redo, wall_us, age_us, name, reserved: U32::ZERO }.as_bytes());
        }
        for e in &self.emptied {
            let [from, to, since] = [e.run.from.0, e.run.to.0, e.since.0].map(U64::new);
            out.extend_from_slice(RawEmptied { from, to, since }.as_bytes());
        }
        for p in &self.pins {
            out.extend_from_slice(p.name.as_bytes());
        }
        out.resize(out.len().next_multiple_of(8), 0);
    }

    /// What it was encoded from, and what follows; none if it is none.
    pub fn decode(bytes: &[u8]) -> Option<(Past, &[u8])> {
        let (raw, rest) = RawPast::read_from_prefix(bytes).ok()?;
        let (bases, pins, emptied) = (raw.bases.get() as usize, raw.pins.get() as usize, raw.emptied.get() as usize);
        if bases > BASES_MAX || pins > PINS_MAX || emptied > EMPTIED_MAX || raw.cut_short.get() > 1 {
            return None;
        }
        let (bases, rest) = <[RawBase]>::ref_from_prefix_with_elems(rest, bases).ok()?;
        let (pins, rest) = <[RawPin]>::ref_from_prefix_with_elems(rest, pins).ok()?;
        let (emptied, rest) = <[RawEmptied]>::ref_from_prefix_with_elems(rest, emptied).ok()?;
        let lsn = |n: U64| Some(Lsn(n.get())).filter(|l| l.0 < format::NUMBER_LIMIT);
        let base = |b: &RawBase| {
            Some(Base {
                lsn: lsn(b.lsn)?,
                redo: lsn(b.redo)?,
                rewound: lsn(b.rewound)?,
                wall_us: b.wall_us.get(),
                age_us: b.age_us.get(),
                low: b.low.get(),
                high: b.high.get(),
            })
        };
        let bases: Vec<Base> = bases.iter().map(base).collect::<Option<_>>()?;
        if bases.windows(2).any(|w| w[0].redo >= w[1].redo) {
            return None;
        }
        let mut names = rest;
        let mut all = Vec::with_capacity(pins.len());
        let mut taken = 0;
        for p in pins {
            let len = p.name.get() as usize;
            if len > NAME_MAX || p.reserved.get() != 0 {
                return None;
            }
            let (name, behind) = names.split_at_checked(len)?;
            (names, taken) = (behind, taken + len);
            all.push(Pin {
                name: String::from_utf8(name.to_vec()).ok()?,
                lsn: lsn(p.lsn)?,
                wall_us: p.wall_us.get(),
                age_us: p.age_us.get(),
                base: lsn(p.base)?,
                redo: lsn(p.redo)?,
            });
        }
        let padding = taken.next_multiple_of(8) - taken;
        let (zeros, rest) = names.split_at_checked(padding)?;
        let whole = |l: Lsn| l.0.is_multiple_of(format::FRAME);
        let entry = |e: &RawEmptied| {
            let run = Run { from: lsn(e.from)?, to: lsn(e.to)? };
            (run.from < run.to && whole(run.from) && whole(run.to)).then_some(Emptied { run, since: lsn(e.since)? })
        };
        let emptied: Vec<Emptied> = emptied.iter().map(entry).collect::<Option<_>>()?;
        let window = Window { time_us: raw.window_us.get(), bytes: raw.window_bytes.get() };
        let cut_short = raw.cut_short.get() == 1;
        zeros.iter().all(|z| *z == 0).then_some((Past { window, cut_short, bases, pins: all, emptied }, rest))
    }
}
