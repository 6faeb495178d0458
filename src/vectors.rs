//! The format, pinned: every structure on disk against the hex files of `tests/vectors`, both ways.
//!
//! The files were worked out from the layout, field by field, and are never rewritten by a tool: where a test here fails,
//! the format has changed.

use crate::core::gaps::Gap;
use crate::core::history::{Entry, History};
use crate::core::vote::Join;
use crate::history::past::{Base, Emptied, Past, Pin, Window};
use crate::log::group;
use crate::log::record::{self, Cpl, Fields, Kind};
use crate::lsn::{Lsn, PageId, Slot};
use crate::page::manifest::Manifest;
use crate::page::pending;
use crate::page::table::{self, Root};
use crate::reclaim::freed::{Freed, Run};
use crate::segment::name::FileName;
use crate::segment::superblock::{Durability, Geometry, PLACE, ScrubMark, Superblock};
use crate::segment::tail;
use std::collections::BTreeMap;
use uuid::Uuid;

const SEED: u32 = 0x0BAD_CAFE;
const RECORD_AT: Lsn = Lsn(0x4000_1020);
const GROUP_AT: Lsn = Lsn(0x4000_1000);

/// The sections of a file: `[name]`, then bytes in hex, `xx*n` for n times the same; `#` begins a comment.
fn sections(file: &str) -> BTreeMap<&str, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut name = "";
    for line in file.lines() {
        let line = line.split('#').next().unwrap().trim();
        if let Some(section) = line.strip_prefix('[') {
            name = section.strip_suffix(']').unwrap();
            assert!(all.insert(name, Vec::new()).is_none(), "{name} is there twice");
            continue;
        }
        for token in line.split_whitespace() {
            let (byte, times) = token.split_once('*').unwrap_or((token, "1"));
            let byte = u8::from_str_radix(byte, 16).unwrap();
            all.get_mut(name).unwrap().extend(std::iter::repeat_n(byte, times.parse().unwrap()));
        }
    }
    all
}

#[track_caller]
fn same(name: &str, got: &[u8], want: &[u8]) {
    let differs = got.iter().zip(want).position(|(a, b)| a != b);
    assert_eq!((got.len(), differs), (want.len(), None), "{name}: length, and the first byte that differs");
}

/// One record: it encodes to the bytes, and the bytes decode to it.
fn check_record(name: &str, want: &[u8], at: Lsn, fields: &Fields, cpl: Option<Cpl>, payload: &[u8]) {
    let mut got = vec![0xEE; want.len()];
    record::encode(&mut got, SEED, at, 7, fields, cpl, payload);
    same(name, &got, want);
    let read = record::decode(want, at, SEED).unwrap();
    assert_eq!((read.fields, read.cpl, read.payload, read.epoch), (*fields, cpl, payload, 7), "{name}");
    assert_eq!((read.lsn, read.len), (at, want.len() as u64), "{name}");
}

#[test]
fn records() {
    let mut file = sections(include_str!("../tests/vectors/records.hex"));
    let image: Vec<u8> = (1..22).collect();
    let leaf = table::payload(&[0x1020, 0, 0x2023, 0x3007]);
    let upper = table::payload(&[0, 0x4000_0020]);
    let manifest = manifest().encode();
    let none = Fields::filler();
    let delta = Fields { kind: Kind::Delta, prev: Lsn(0x4000_0020), base: Lsn(0x2FF8), depth: 3, ..none };
    let rows: [(&str, Fields, &[u8]); 9] = [
        ("image", Fields { kind: Kind::Image, page: 5, prev: Lsn(0x3000), ..none }, &image),
        ("image of zeros", Fields { kind: Kind::Image, page: 6, ..none }, &[]),
        ("delta", Fields { page: 0x3_FFFF_FFFF, offset: 77, ..delta }, b"hello, world"),
        ("free", Fields { kind: Kind::Free, page: 9, prev: Lsn(0x5008), ..none }, &[]),
        ("filler", none, &[]),
        ("table leaf", Fields { kind: Kind::Table, page: 2, ..none }, &leaf),
        ("table upper node", Fields { kind: Kind::Table, page: 1, depth: 1, ..none }, &upper),
        ("manifest", Fields { kind: Kind::Manifest, ..none }, &manifest),
        (
            "moved",
            Fields { page: 8, offset: 12, depth: 2, prev: Lsn(0x1020), base: Lsn::NONE, was: Lsn(0x3008), ..delta },
            b"moved",
        ),
    ];
    let cpl = Some(Cpl { wall_us: 1_764_000_000_123_456, vdl: Lsn(0x4000_0F00) });
    for (name, fields, payload) in rows {
        check_record(name, &file.remove(name).unwrap(), RECORD_AT, &fields, None, payload);
        let ending = format!("{name} cpl");
        check_record(&ending, &file.remove(&ending[..]).unwrap(), RECORD_AT, &fields, cpl, payload);
    }
    let at = Lsn(0x1020);
    let padded = Fields { kind: Kind::Delta, page: 1, prev: at, base: at, depth: 1, ..none };
    check_record("padded", &file.remove("padded").unwrap(), RECORD_AT, &padded, None, b"12345678");
    assert!(file.is_empty(), "nothing checks {:?}", file.keys());
}

#[test]
fn groups() {
    let file = sections(include_str!("../tests/vectors/group.hex"));
    let mut header = vec![0xEE; group::HEADER];
    group::encode_header(&mut header, SEED, GROUP_AT, 7, 4096);
    same("header", &header, &file["header"]);
    let decoded = group::Header { lsn: GROUP_AT, len: 4096, epoch: 7 };
    assert_eq!(group::decode_header(&file["header"], GROUP_AT, SEED), Ok(decoded));

    let mut kinds = Vec::new();
    let sum = group::verify(&file["group"], GROUP_AT, SEED, |r| kinds.push((r.lsn, r.fields.kind))).unwrap();
    let second = RECORD_AT + 64;
    assert_eq!(kinds, [(RECORD_AT, Kind::Image), (second, Kind::Delta), (second + 88, Kind::Filler)]);
    assert_eq!(sum, group::Summary { header: decoded, cpl_end: Some(second + 88), vdl: Lsn(0x4000_0F00) });

    let at = GROUP_AT + 4096;
    let mut lens = Vec::new();
    let sum = group::verify(&file["group without filler"], at, SEED, |r| lens.push((r.len, r.payload.len()))).unwrap();
    assert_eq!((lens, sum.cpl_end, sum.vdl), (vec![(4064, 3944)], Some(at + 4096), Lsn(0x4000_1078)));
}

/// What the front makes of the same records is what the vector has.
#[test]
fn a_group_as_it_is_appended() {
    let file = sections(include_str!("../tests/vectors/group.hex"));
    let front = crate::log::append::Front::new(SEED, 7, 4096, GROUP_AT);
    front.set_space(Lsn::MAX);
    let reservation = front.lock().reserve(&[record::encoded_len(0, false), record::encoded_len(5, true)]).unwrap();
    let image = Fields { kind: Kind::Image, page: 5, ..Fields::filler() };
    let delta = Fields { kind: Kind::Delta, depth: 1, offset: 3, prev: RECORD_AT, base: RECORD_AT, ..image };
    front.fill(&reservation, 0, &image, None, &[]);
    let cpl = Cpl { wall_us: 1_764_000_000_000_001, vdl: Lsn(0x4000_0F00) };
    front.fill(&reservation, 1, &delta, Some(cpl), b"hello");
    front.publish(reservation);
    assert!(front.seal());
    let sealed = front.next_sealed().unwrap();
    let frame = front.ring.get(sealed.begin).unwrap();
    // SAFETY: the group was published.
    #[allow(unsafe_code)]
    let bytes = unsafe { frame.read(sealed.begin, 4096, <[u8]>::to_vec) };
    same("group", &bytes, &file["group"]);
}

fn manifest() -> Manifest {
    Manifest {
        freed: Freed::default(),
        redo: Lsn(0x4000_0F00),
        next_page: 12,
        pages: 9,
        history: vec![
            Entry { epoch: 1, begin: Lsn(4096), end: Lsn(5000) },
            Entry { epoch: 7, begin: Lsn(64 << 20), end: Lsn::MAX },
        ],
        root: Root { top: vec![Lsn(0x400_0020), Lsn::NONE, Lsn(0x400_0120)], ..Root::default() },
        wall_us: 1_764_000_000_123_456,
        age_us: 0x1234_5678,
        rewound: Lsn::NONE,
        past: Past::default(),
    }
}

#[test]
fn manifests() {
    let file = sections(include_str!("../tests/vectors/manifest.hex"));
    same("manifest", &manifest().encode(), &file["manifest"]);
    assert_eq!(Manifest::decode(&file["manifest"]), Some(manifest()));
    let runs = [(0, 64 << 20), (128 << 20, 129 << 20)].map(|(from, to)| Run { from: Lsn(from), to: Lsn(to) });
    let gives_back = Manifest { freed: Freed::from_runs(runs.to_vec()).unwrap(), ..manifest() };
    same("manifest that gives back", &gives_back.encode(), &file["manifest that gives back"]);
    assert_eq!(Manifest::decode(&file["manifest that gives back"]), Some(gives_back));
    let base = Base {
        lsn: Lsn(0x1800),
        redo: Lsn(0x1400),
        rewound: Lsn::NONE,
        wall_us: 1_763_999_000_000_000,
        age_us: 0x100_0000,
        low: 1_763_999_000_000_001,
        high: 1_763_999_000_000_009,
    };
    let pin = |name: &str, lsn, base, redo, wall_us, age_us| Pin {
        name: name.into(),
        lsn: Lsn(lsn),
        wall_us,
        age_us,
        base: Lsn(base),
        redo: Lsn(redo),
    };
    let (redo, wall_us, age_us) = (manifest().redo.0, manifest().wall_us, manifest().age_us);
    let run = Run { from: Lsn(64 << 20), to: Lsn(128 << 20) };
    let past = Past {
        window: Window { time_us: 86_400_000_000, bytes: 10 << 30 },
        cut_short: true,
        bases: vec![base],
        pins: vec![
            pin("monday", 0x1900, 0x1800, 0x1400, 1_763_999_000_000_004, 0x100_0007),
            pin("", redo, 0, redo, wall_us, age_us),
        ],
        emptied: vec![Emptied { run, since: Lsn(0x1400) }],
    };
    let rewinds = Manifest { rewound: Lsn(0x2000), past, ..manifest() };
    same("manifest of a rewind", &rewinds.encode(), &file["manifest of a rewind"]);
    assert_eq!(Manifest::decode(&file["manifest of a rewind"]), Some(rewinds.clone()));
    let past = rewinds.past_at(Lsn(0x4000_1000));
    assert_eq!((past.bases[1].lsn, past.bases[1].rewound), (Lsn(0x4000_1000), Lsn(0x2000)));
    assert_eq!(past.pins.iter().map(|p| p.base.0).collect::<Vec<_>>(), [0x1800, 0x4000_1000]);
}

#[test]
fn table_nodes() {
    let file = sections(include_str!("../tests/vectors/node.hex"));
    let entries = [(0x1020, 0), (0, 0), (0x2020, 3), (0x3000, 9)].map(|(lsn, depth)| match lsn {
        0 => 0,
        _ => table::Entry::new(Lsn(lsn), depth).raw(),
    });
    for (name, numbers) in [("leaf", &entries[..]), ("upper node", &[0, 0x4000_0020, 0]), ("empty", &[0, 0])] {
        same(name, &table::payload(numbers), &file[name]);
        assert!(table::is_node(&file[name]));
        for (i, want) in numbers.iter().enumerate() {
            assert_eq!(table::entry(&file[name], i), *want, "{name} {i}");
        }
    }
    let third = table::Entry::from_raw(table::entry(&file["leaf"], 3));
    assert_eq!((third.lsn(), third.depth()), (Lsn(0x3000), table::DEPTH_TOLD));
}

#[test]
fn runs() {
    let file = sections(include_str!("../tests/vectors/run.hex"));
    let run = [(0, 0x1020, 0), (5, 0, 0), (3000, 0x2020, 3), ((1 << 34) - 1, 0x3000, 9)];
    let changes = run.map(|(page, lsn, depth)| match lsn {
        0 => (PageId(page), table::Entry::default()),
        _ => (PageId(page), table::Entry::new(Lsn(lsn), depth)),
    });
    same("run", &pending::encode(&changes), &file["run"]);
    assert_eq!(pending::decode(&file["run"]), Some(changes.to_vec()));
    // A manifest that names two.
    let with_runs =
        Manifest { root: Root { runs: vec![Lsn(0x4000_0040), Lsn(0x4000_0400)], ..manifest().root }, ..manifest() };
    same("manifest", &with_runs.encode(), &file["manifest"]);
    assert_eq!(Manifest::decode(&file["manifest"]), Some(with_runs));
}

fn superblock(version: u64, join: Join) -> Superblock {
    Superblock {
        geometry: Geometry {
            volume: Uuid::from_u128(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF),
            log: Uuid::from_u128(0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF),
            page_size: 16 << 10,
            block_size: 4096,
            pg_size: 10 << 30,
        },
        slot: Slot(3),
        number: 7,
        version,
        incarnation: 2,
        history: History::first(Lsn(4096)).succeed(Lsn(5000), 7, Lsn(64 << 20)),
        join,
        clean: None,
        manifest: Lsn(0x1100),
        redo: Lsn(0x1050),
        durability: Durability::Dsync,
        unchecked: Gap { from: Lsn(0x1000), to: Lsn(0x1388) },
        scrub: ScrubMark { at: Lsn(0x2000), begun_us: 0x0006_1234_5678_9ABC },
        gaps: vec![
            (Slot(1), Gap { from: Lsn(4096), to: Lsn(8192) }),
            (Slot(5), Gap { from: Lsn(0x5000), to: Lsn(0x9000) }),
        ],
    }
}

fn joined(version: u64) -> Superblock {
    superblock(version, Join::At { at: Lsn(0x1194), by: 7 })
}

fn closed(version: u64) -> Superblock {
    Superblock { clean: Some(Lsn(1 << 30)), durability: Durability::Flush, ..joined(version) }
}

#[test]
fn superblocks() {
    let file = sections(include_str!("../tests/vectors/superblock.hex"));
    let first = Superblock {
        slot: Slot(0),
        history: History::from_entries(vec![Entry { epoch: 7, begin: Lsn(64 << 20), end: Lsn::MAX }]).unwrap(),
        gaps: Vec::new(),
        unchecked: Gap::NONE,
        scrub: ScrubMark::default(),
        manifest: Lsn::NONE,
        redo: Lsn::NONE,
        ..superblock(1, Join::Founder)
    };
    for (name, value) in [("founder", first), ("unset", superblock(2, Join::Unset)), ("joined, clean", closed(3))] {
        same(name, &value.encode().unwrap(), &file[name]);
        assert_eq!(Superblock::decode(&file[name]), Ok(value), "{name}");
    }
}

#[test]
fn epoch_files() {
    let file = sections(include_str!("../tests/vectors/epoch.hex"));
    let bytes = [joined(4).encode().unwrap(), closed(3).encode().unwrap()].concat();
    same("epoch-7", &bytes, &file["epoch-7"]);
    assert_eq!(Superblock::newest(&file["epoch-7"]), Ok(joined(4)));
    assert_eq!(Superblock::next_place(&Superblock::places(&file["epoch-7"])).0, PLACE);
}

#[test]
fn tail_files() {
    let header = &sections(include_str!("../tests/vectors/tail.hex"))["header"];
    let groups = sections(include_str!("../tests/vectors/group.hex"));
    let volume = superblock(1, Join::Founder).geometry.volume;
    let (a, b) = (&groups["group"], &groups["group without filler"]);
    let want = [&header[..], a, b].concat();
    same("tail", &tail::encode(volume, &[(GROUP_AT, a.clone()), (GROUP_AT + 4096, b.clone())]), &want);
    assert_eq!(tail::decode(&want, volume), Some(vec![(GROUP_AT, &a[..]), (GROUP_AT + 4096, &b[..])]));
}

#[test]
fn names() {
    let mut file = sections(include_str!("../tests/vectors/names.hex"));
    assert!(file.remove("contents of claim-7").unwrap().is_empty());
    let names =
        [FileName::Segment(0xABC), FileName::Claim(7), FileName::Epoch(7), FileName::Tail(30), FileName::Reserve];
    for name in names {
        let bytes = file.remove(&name.to_string()[..]).unwrap();
        assert_eq!(
            (name.to_string().as_bytes(), FileName::parse(str::from_utf8(&bytes).unwrap())),
            (&bytes[..], Some(name))
        );
    }
    assert!(file.is_empty());
}

/// A volume's seed is the CRC-32 of its log's identity: the 16 bytes in the order in which the superblock has them.
#[test]
fn the_seed() {
    assert_eq!(superblock(1, Join::Founder).geometry.seed(), 0x8407_759B);
}
