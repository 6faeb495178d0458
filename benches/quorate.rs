//! What single steps cost, in memory: `cargo bench --features fuzzing`. For whole volumes on disks see `quorate bench`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

mod long_log;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use long_log::long_log;
use quorate::fuzzing::bench::{self, Appender};
use quorate::{Options, PageId, Volume};
use std::hint::black_box;
use std::path::Path;

const PAGE: usize = 16 << 10;

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for (name, len) in [("100 B", 100), ("16 KiB", PAGE)] {
        let (payload, mut out) = (vec![7; len], vec![0; bench::encoded_len(len)]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |b| b.iter(|| bench::encode(black_box(&mut out), black_box(&payload))));
    }
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for (name, len) in [("100 B", 100), ("16 KiB", PAGE)] {
        let (payload, appender) = (vec![7; len], Appender::new());
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |b| b.iter(|| appender.append(black_box(&payload))));
    }
}

/// A volume in memory with so many pages, opened again: its pages are in the table, not in the overlay.
fn volume(pages: usize) -> (tempfile::TempDir, Volume, Vec<PageId>) {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let options = Options::default().allow_volatile(true);
    let volume = Volume::create(dir.path(), &options).unwrap();
    let mut ids = Vec::with_capacity(pages);
    for _ in 0..pages {
        let mut mtr = volume.begin();
        let page = mtr.alloc().unwrap();
        mtr.put(page, vec![1; PAGE]);
        drop(mtr.commit().unwrap());
        ids.push(page);
    }
    volume.sync().wait().unwrap();
    volume.close().unwrap();
    let volume = Volume::open(dir.path(), &options).unwrap();
    (dir, volume, ids)
}

fn commit(c: &mut Criterion) {
    let (_dir, volume, _) = volume(0);
    c.bench_function("commit/100 B", |b| {
        b.iter(|| {
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, black_box(&[7; 100]));
            mtr.commit().unwrap().wait().unwrap();
        });
    });
}

fn read(c: &mut Criterion) {
    let (_dir, volume, ids) = volume(1000);
    ids.iter().for_each(|p| drop(volume.read(*p).unwrap()));
    let mut next = ids.iter().cycle();
    c.bench_function("read/cached, in the table", |b| b.iter(|| volume.read(*next.next().unwrap()).unwrap()));
    for page in &ids {
        let mut mtr = volume.begin();
        mtr.patch(*page, 0, b"changed");
        drop(mtr.commit().unwrap());
    }
    volume.sync().wait().unwrap();
    c.bench_function("read/cached, in the overlay", |b| b.iter(|| volume.read(*next.next().unwrap()).unwrap()));
    // A page that does not exist: two nodes of the table and no page.
    c.bench_function("table/lookup", |b| {
        b.iter(|| black_box(volume.read(PageId(1500)).is_err()));
    });
}

/// 16 MiB of log, read by an open that follows a kill, and copied to a blank slot.
fn recover_and_repair(c: &mut Criterion) {
    let alone = long_log();
    let mut group = c.benchmark_group("16 MiB of log");
    group.throughput(Throughput::Bytes(16 << 20)).sample_size(10);
    group.bench_function("scan", |b| b.iter(|| black_box(alone.scan())));
    group.bench_function("copy", |b| {
        let opened = || {
            let alone = long_log();
            alone.blank(5);
            let (volume, background) = alone.open();
            (alone, volume, background)
        };
        b.iter_batched_ref(
            opened,
            |(_, _, background)| assert!(background.heal(100_000), "it does not heal"),
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, encode, append, commit, read, recover_and_repair);
criterion_main!(benches);
