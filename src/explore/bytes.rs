//! The restated glue against the real one: states are made into files, byte by byte, and `segment::recover` opens them.
//!
//! What it finds must be what the exploration's open finds, and what it leaves on every slot what the exploration's leaves.

use super::disk::{Disk, GroupId, Held};
use super::moves::Move;
use super::rules::{Bounds, Setting};
use super::state::{BLOCK, CPL, Phase, Proc, State, World};
use crate::core::gaps::Gap;
use crate::core::history::History;
use crate::core::vote::Join;
use crate::disk::job::{self, Job, Output};
use crate::disk::{Fleet, SlotDir};
use crate::fuzzing::memory::{Contents, Memory, Slots};
use crate::log::group;
use crate::log::record::{self, Cpl, Fields};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::segment::name::FileName;
use crate::segment::recover;
use crate::segment::superblock::{Durability, Geometry, PLACE, ScrubMark, Superblock};
use crate::segment::{survey, tail};
use crate::volume::reader;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use uuid::Uuid;

const GEOMETRY: Geometry = Geometry {
    volume: Uuid::from_u128(1),
    log: Uuid::from_u128(2),
    page_size: 4096,
    block_size: BLOCK as u32,
    pg_size: format::EXTENT,
};

/// Six slots in memory, of which some are in reach.
struct Reach(Slots, SlotSet);

impl Fleet for Reach {
    fn each<T: Send + 'static>(
        &self,
        set: SlotSet,
        call: impl Fn(Slot, &dyn SlotDir) -> io::Result<T> + Send + Sync + 'static,
    ) -> [Option<io::Result<T>>; SLOTS] {
        let missing = || Err(io::ErrorKind::NotFound.into());
        Slot::ALL.map(|slot| {
            let dir = &self.0.0[slot.index()];
            set.contains(slot).then(|| if self.1.contains(slot) { call(slot, &**dir) } else { missing() })
        })
    }

    fn dirs(&self) -> [Option<Arc<dyn SlotDir>>; SLOTS] {
        self.0.dirs()
    }
}

/// A group's block: a record, one that ends an MTR where the group has a CPL, and filler.
fn block(world: &World, id: GroupId) -> Vec<u8> {
    let (g, epoch, seed) = (world.group(id), world.epoch(id), GEOMETRY.seed());
    let mut bytes = vec![0; BLOCK as usize];
    group::encode_header(&mut bytes, seed, g.begin, epoch, BLOCK);
    let mut put = |from: usize, to: usize, cpl: Option<Cpl>| {
        record::encode(&mut bytes[from..to], seed, g.begin + from as u64, epoch, &Fields::filler(), cpl, &[]);
    };
    put(group::HEADER, 112, None);
    put(112, CPL as usize, g.cpl.map(|_| Cpl { wall_us: 0, vdl: g.vdl }));
    put(CPL as usize, BLOCK as usize, None);
    bytes
}

fn superblocks(world: &World, disk: &Disk, slot: Slot) -> Vec<(u64, Option<Superblock>)> {
    let whole = |s: &super::disk::Super| {
        let number = world.number(s.by);
        let history = world.openers[usize::from(s.by)].history.clone()?;
        (!s.rotten).then(|| superblock(slot, number, history, s.join, s.clean))
    };
    disk.supers.iter().map(|s| (world.number(s.by), whole(s))).collect()
}

fn superblock(slot: Slot, number: u64, history: History, join: Join, clean: Option<Lsn>) -> Superblock {
    Superblock {
        geometry: GEOMETRY,
        slot,
        number,
        version: 1,
        incarnation: 1,
        history,
        join,
        clean,
        manifest: Lsn::NONE,
        redo: Lsn::NONE,
        durability: Durability::Dsync,
        gaps: Vec::new(),
        unchecked: Gap::NONE,
        scrub: ScrubMark::default(),
    }
}

/// A slot's files.
fn files(world: &World, disk: &Disk, slot: Slot) -> BTreeMap<FileName, Contents> {
    let mut files = BTreeMap::new();
    let file = |bytes: Vec<u8>| Contents { len: bytes.len() as u64, bytes };
    for n in (0..32).filter(|n| disk.claims >> n & 1 == 1) {
        files.insert(FileName::Claim(n), Contents::default());
    }
    for (number, superblock) in superblocks(world, disk, slot) {
        let place = superblock.map_or(vec![0; PLACE], |s| s.encode().unwrap());
        files.insert(FileName::Epoch(number), file([&place[..], &place[..]].concat()));
    }
    for t in &disk.tails {
        let groups: Vec<_> = t.groups.iter().map(|g| (world.group(*g).begin, block(world, *g))).collect();
        files.insert(FileName::Tail(world.number(t.by)), file(tail::encode(GEOMETRY.volume, &groups)));
    }
    if disk.segment {
        files.insert(FileName::Segment(0), file(vec![0; BLOCK as usize]));
    }
    for cell in &disk.log {
        let bytes = match cell.visible() {
            Held::Nothing => continue,
            Held::Garbage => vec![0xA5; BLOCK as usize],
            Held::Whole(g) => block(world, g),
            Held::Torn(g) => {
                let mut bytes = block(world, g);
                bytes[group::HEADER + 8] ^= 1;
                bytes
            }
        };
        let (name, offset) = FileName::segment_of(cell.at, GEOMETRY.pg_size);
        let all: &mut Contents = files.entry(name).or_default();
        let end = offset as usize + bytes.len();
        all.bytes.resize(all.bytes.len().max(end), 0);
        all.bytes[offset as usize..end].copy_from_slice(&bytes);
        all.len = all.len.max(end as u64);
    }
    files
}

fn fleet(state: &State, reach: SlotSet) -> Reach {
    let slots = Slots::default();
    for slot in Slot::ALL {
        *slots.0[slot.index()].0.lock() = files(&state.world, &state.slot(slot).disk, slot);
    }
    Reach(slots, reach)
}

/// What a real open left on a slot, and what the exploration's did, as far as either tells.
fn told(dir: &dyn SlotDir) -> (Vec<FileName>, Vec<String>) {
    let mut names: Vec<FileName> = dir.list().unwrap();
    names.retain(|n| !matches!(n, FileName::Segment(_)));
    let found = survey::read_files(dir).unwrap();
    let mut says: Vec<String> =
        found.superblocks.iter().map(|s| format!("{} {:?} {:?} {:?}", s.number, s.history, s.join, s.clean)).collect();
    for name in names.iter().filter(|n| matches!(n, FileName::Tail(_))) {
        let bytes = job::read_whole(dir, *name, tail::BYTES_MAX).unwrap();
        says.extend(tail::decode(&bytes, GEOMETRY.volume).unwrap().iter().map(|(at, b)| format!("{at} {}", b.len())));
    }
    (names, says)
}

/// Reads the state both ways.
fn compare_reading(state: &State, reach: SlotSet, setting: &Setting) {
    let real = recover::recover(&fleet(state, reach));
    let (real, ours) = match (real, state.recover(reach, setting)) {
        (Ok(real), Ok(ours)) => (real, ours),
        (Err(_), Err(_)) => return,
        (real, ours) => panic!("{reach:?}: {:?}, {:?}: {state:#?}", real.map(|r| r.ruling), ours.map(|o| o.ruling)),
    };
    assert_eq!((&real.history, &real.ruling, real.clean), (&ours.history, &ours.ruling, ours.clean), "{state:#?}");
    assert_eq!(real.choice.holders, ours.holders, "{state:#?}");
    for (at, _) in &real.ruling.tail {
        assert_eq!(real.seen.get(at), ours.seen.get(at), "{state:#?}");
    }
    let settled = state.clone().settled(&ours, reach, setting);
    assert_eq!(reader::settled(&fleet(state, reach), &real), settled, "{state:#?}");
}

/// Does what a slot's worker is asked to both ways, where the move is such a thing. Whether it was.
fn compare_job(state: &State, m: Move, setting: &Setting) -> bool {
    let (Move::Rejoin(p, slot) | Move::Merge(p, slot) | Move::Tidy(p, slot)) = m else { return false };
    let Proc::Running(r) = &state.procs[usize::from(p)] else { return false };
    let number = state.world.number(r.by);
    let history = state.world.openers[usize::from(r.by)].history.clone().unwrap();
    let mut ours = state.clone();
    let job = match m {
        Move::Rejoin(..) => {
            ours.rejoin(p.into(), slot, true, setting);
            let own = superblock(slot, number, history, job::join_now(r.writer.vdl(), number), None);
            Job::Rejoin { read: r.writer.rejoin_read(slot).unwrap(), superblock: Box::new(own), stale: false }
        }
        Move::Merge(..) => {
            ours.merge(p.into(), slot);
            Job::Merge { geometry: GEOMETRY, history, unused: r.unused, doubted: Vec::new() }
        }
        _ => {
            ours.tidy(p.into(), slot);
            Job::Tidy { below: r.previous }
        }
    };
    let world = fleet(state, SlotSet::ALL);
    let dir = &*world.0.0[slot.index()];
    let verified = match job::run(dir, job) {
        Ok(Output::Returned(r)) => Some(r.verified),
        _ => None,
    };
    if let Proc::Running(r) = &ours.procs[usize::from(p)] {
        assert_eq!(verified, r.verified[slot.index()], "{state:#?}");
    }
    let after = fleet(&ours, SlotSet::ALL);
    let theirs = &*after.0.0[slot.index()];
    assert_eq!(told(dir), told(theirs), "{m:?}: {state:#?}");
    let log = |dir: &Memory| {
        let mut all = dir.0.lock().clone();
        all.retain(|name, file| matches!(name, FileName::Segment(_)) && file.bytes.iter().any(|b| *b != 0));
        let trim = |bytes: &[u8]| bytes[..=bytes.iter().rposition(|b| *b != 0).unwrap()].to_vec();
        all.into_iter().map(|(name, file)| (name, trim(&file.bytes))).collect::<Vec<_>>()
    };
    assert!(log(dir) == log(theirs), "{m:?}: {state:#?}");
    true
}

/// Opens the state both ways. Whether they opened.
fn compare_opening(state: &State, reach: SlotSet, setting: &Setting) -> bool {
    let world = fleet(state, reach);
    let real = recover::open(&world, |_, _| Ok(()));
    let mut ours = state.clone();
    ours.apply(Move::Open(reach), setting).unwrap();
    while let Proc::Opening(o) = &ours.procs[0] {
        let m = match o.phase {
            Phase::Read => Move::Read(0),
            Phase::Look => Move::LastLook(0, true),
            _ => Move::Steps(0, o.todo),
        };
        // A loss past the promise: the real open shows it too.
        if let Err(what) = ours.apply(m, setting) {
            assert!(setting.bounds.beyond && real.is_ok(), "{what}: {state:#?}");
            return true;
        }
    }
    match (&real, &ours.procs[0]) {
        (Ok(real), Proc::Running(r)) => {
            assert_eq!((real.begin, real.took_part), (r.writer.begin(), r.writer.live()), "{state:#?}");
            assert_eq!(real.number, ours.world.number(r.by));
        }
        (Err(_), Proc::Gone) => (),
        (real, _) => panic!("{reach:?}: {:?}: {state:#?}", real.as_ref().map(|r| r.number)),
    }
    let opened = fleet(&ours, reach);
    for slot in Slot::ALL {
        let (real, ours) = (told(&*world.0.0[slot.index()]), told(&*opened.0.0[slot.index()]));
        assert_eq!(real, ours, "{slot}, {reach:?}: {state:#?}");
    }
    real.is_ok()
}

/// A1, found by the search: the real open took the claim on such a disk for a rival's.
#[test]
fn a_blank_disk_that_a_dead_opener_had_claimed_takes_part() {
    let four = Slot::ALL.into_iter().take(4).collect::<SlotSet>();
    let bounds = Bounds { blanks: 1, hurt: 1, kills: 2, opens: 2, ..Bounds::default() };
    let setting = Setting { bounds, ..Setting::default() };
    let mut state = State::new();
    for m in [Move::Kill(0), Move::Open(four), Move::Blank(Slot(0)), Move::Steps(0, four), Move::Kill(0)] {
        state.apply(m, &setting).unwrap();
    }
    assert!(compare_opening(&state, four, &setting));
}

fn goes_on(m: Move) -> bool {
    use Move::*;
    matches!(
        m,
        Append(..)
            | Rejoin(..)
            | Merge(..)
            | Tidy(..)
            | Write(..)
            | Submit(..)
            | Complete(..)
            | Look(..)
            | Step(..)
            | Steps(..)
            | Read(_)
            | LastLook(..)
    )
}

#[test]
fn the_restated_glue_is_the_real_one() {
    let bounds = Bounds {
        mtrs: 4,
        halves: true,
        opens: 4,
        kills: 5,
        cuts: 2,
        torn: true,
        flight: true,
        leaves: 4,
        fails: 2,
        rejoins: 4,
        blanks: 2,
        stales: 1,
        rots: 2,
        super_rots: 1,
        closes: 1,
        merges: 2,
        tidies: 2,
        hurt: 3,
        ..Bounds::default()
    };
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |n: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 33) as usize % n
    };
    let (mut read, mut opened, mut refused, mut jobs) = (0, 0, 0, 0);
    for n in 0..160 {
        let setting = Setting { bounds: Bounds { beyond: n % 2 == 1, ..bounds }, ..Setting::default() };
        let mut state = State::new();
        for _ in 0..60 {
            let all = state.moves(&setting);
            if all.is_empty() {
                break;
            }
            // A kind first, then one of it: else the many opens drown the rest. What goes on is likelier than what fails.
            let kinds: Vec<_> = all.iter().fold(Vec::new(), |mut kinds, m| {
                let kind = std::mem::discriminant(m);
                if !kinds.contains(&kind) {
                    kinds.resize(kinds.len() + if goes_on(*m) { 20 } else { 1 }, kind);
                }
                kinds
            });
            let kind = kinds[below(kinds.len())];
            let of: Vec<&Move> = all.iter().filter(|m| std::mem::discriminant(*m) == kind).collect();
            let m = *of[below(of.len())];
            jobs += usize::from(compare_job(&state, m, &setting));
            if let Err(what) = state.apply(m, &setting) {
                assert!(setting.bounds.beyond, "{what}");
                break;
            }
            let reach: SlotSet = Slot::ALL.into_iter().filter(|_| below(5) > 0).collect();
            if state.alive() > 0 || below(3) > 0 || reach.len() < 3 {
                continue;
            }
            let mut back = state.clone();
            back.power_back();
            // Any set of slots, also past the promise.
            let beyond = Setting { bounds: Bounds { beyond: true, ..bounds }, ..Setting::default() };
            compare_reading(&back, reach, &beyond);
            read += 1;
            let usable = back.ours(reach).len() + back.blank(reach).len();
            if usable >= 4 && compare_opening(&back, reach, &beyond) {
                opened += 1;
            } else {
                refused += 1;
            }
        }
    }
    println!("{read} states were read both ways, {opened} opened, {refused} not; {jobs} jobs");
    assert!(opened > 50 && jobs > 50);
}
