//! `quorate bench scale`: how the cost of a commit grows with threads, with the size of what it changes, and with the volume.
//!
//! Each row is a volume of its own, so that none pays for what another one wrote; what is told are medians of its rounds.

use crate::bench::heal::Places;
use crate::bench::{PATCH, Random, Side, cpu, group};
use crate::common::{At, Fail, Io, close};
use quorate::{PageId, Volume};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Pages of a volume, but where its size is what is asked for.
const PAGES: u64 = 4096;
/// Bytes of a page, by default.
const PAGE: u64 = 16 << 10;
/// Pages that one MTR makes.
const BATCH: u64 = 32;
const ROUNDS: usize = 5;
const THREADS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Bytes that a commit changes: of a page, and then whole pages.
const SIZES: [usize; 6] = [16, 100, 1024, 4096, 16 << 10, 128 << 10];
/// MiB of pages.
const VOLUMES: [u64; 4] = [16, 64, 256, 1024];

/// One row: what was measured in each round.
struct Row {
    what: String,
    rounds: Vec<Side>,
}

impl Row {
    fn median(&self, of: impl Fn(&Side) -> f64) -> f64 {
        let mut all: Vec<f64> = self.rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    }

    fn tell(&self, io: &Io) -> Result<(), Fail> {
        let [p50, p99] = [0.5, 0.99].map(|q| self.median(|s| s.us(q)));
        let (rate, cpu) = (self.median(Side::per_s), self.median(Side::cpu_us));
        let facts = json!({ "what": self.what, "p50_us": p50, "p99_us": p99, "per_s": rate, "cpu_us": cpu });
        io.say(facts, format_args!("{:<24}{p50:>11.1}{p99:>11.1}{rate:>12.0}{cpu:>11.1}", self.what))
    }
}

/// A volume with so many pages, all of them written.
fn made(io: &Io, at: &At, pages: u64) -> Result<(Volume, Vec<PageId>), Fail> {
    let volume = Volume::create(at.0.clone(), &io.options)?;
    let size = volume.health().page_size as usize;
    let (mut ids, mut random) = (Vec::with_capacity(pages as usize), Random::new(5));
    while (ids.len() as u64) < pages {
        let mut mtr = volume.begin();
        for _ in 0..BATCH.min(pages - ids.len() as u64) {
            let page = mtr.alloc()?;
            mtr.put(page, (0..size / 8).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>());
            ids.push(page);
        }
        drop(mtr.commit()?);
    }
    volume.sync().wait()?;
    Ok((volume, ids))
}

/// So many threads commit changes of so many bytes for this time.
fn commits(volume: &Volume, pages: &[PageId], threads: u64, bytes: usize, time: Duration) -> Result<Side, Fail> {
    let health = volume.health();
    let (page_size, seed) = (health.page_size as usize, health.tail.0);
    let (mut all, begun, computed) = (Side::new()?, Instant::now(), cpu());
    let until = begun + time;
    group::some_threads(threads, &mut all, |i, side| {
        let mut random = Random::new(seed ^ (i + 1));
        let image = bytes::Bytes::from(vec![i as u8; page_size]);
        while Instant::now() < until {
            let begun = Instant::now();
            let mut mtr = volume.begin();
            if bytes < page_size {
                let at = random.next() as usize % (page_size - bytes);
                mtr.patch(pages[(random.next() >> 16) as usize % pages.len()], at as u32, &image[..bytes]);
            } else {
                let first = (random.next() >> 16) as usize % (pages.len() - bytes / page_size);
                for page in &pages[first..first + bytes / page_size] {
                    mtr.put(*page, image.clone());
                }
            }
            mtr.commit()?.wait()?;
            side.one(begun);
        }
        Ok(())
    })?;
    (all.took, all.cpu) = (begun.elapsed(), cpu() - computed);
    Ok(all)
}

/// Runs it below the given directories, each measurement for `seconds`.
pub fn run(io: &Io, under: &At, seconds: u64) -> Result<(), Fail> {
    let time = Duration::from_secs(seconds) / ROUNDS as u32;
    if !io.json {
        let (a, b, c, d) = ("p50 us", "p99 us", "per s", "cpu us");
        io.say(Value::Null, format_args!("{:<24}{a:>11}{b:>11}{c:>12}{d:>11}", ""))?;
    }
    let threads = THREADS.map(|n| (format!("{n} threads, {PATCH} bytes"), PAGES, n, PATCH));
    let sizes = SIZES.map(|bytes| (format!("1 thread, {bytes} bytes"), PAGES, 1, bytes));
    let volumes = VOLUMES.map(|mib| (format!("1 thread, {mib} MiB of pages"), (mib << 20) / PAGE, 1, PATCH));
    for (what, pages, threads, bytes) in threads.into_iter().chain(sizes).chain(volumes) {
        let mut row = Row { what, rounds: Vec::new() };
        let (_places, at) = Places::make(under)?;
        let (volume, pages) = made(io, &at, pages)?;
        // The first one warms up.
        for round in 0..=ROUNDS {
            let side = commits(&volume, &pages, threads, bytes, time)?;
            if round > 0 {
                row.rounds.push(side);
            }
        }
        close(volume);
        row.tell(io)?;
    }
    Ok(())
}
