//! `quorate bench`: what a volume does, and beside it what its disks allow, measured in the same run.
//!
//! Each measurement alternates short rounds of the volume and of its floor, so that both meet the same weather. The
//! bench works on a file of its own in the volume, which it removes. The log that it writes stays.

mod checkpoint;
mod child;
mod churn;
mod floor;
mod group;
mod heal;
mod scale;
mod svg;

pub use checkpoint::{Plan, run as checkpoint};
pub use child::run as child;
pub use churn::{Plan as Churn, minutes, run as churn};
pub use heal::run as heal;
pub use scale::run as scale;

use crate::common::{At, Fail, Io, close};
use crate::store::{self, Store};
use floor::{Floor, Reads};
use hdrhistogram::Histogram;
use quorate::{Lsn, PageId, Volume};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The file that the bench works on.
const NAME: &str = "quorate bench (temporary)";
/// Pages of it.
const PAGES: usize = 4096;
/// Bytes of a small commit.
const PATCH: usize = 100;
const ROUND: Duration = Duration::from_millis(100);
/// Tickets in flight of one thread.
const IN_FLIGHT: usize = 64;
/// Hot pages: they fit any cache.
const HOT: usize = 32;
/// Hot reads under one clock reading: a single one is shorter than that.
const HOT_BATCH: u32 = 64;

/// What was measured on one side.
#[derive(Clone)]
pub struct Side {
    /// Nanoseconds.
    times: Histogram<u64>,
    done: u64,
    took: Duration,
    /// Of `took`, spent on what is not measured.
    off: Duration,
    /// What the process computed meanwhile, the kernel's workers for it and the volume's background among it.
    cpu: Duration,
}

/// What this process has computed so far.
fn cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

impl Side {
    fn new() -> Result<Side, Fail> {
        let times = Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(Fail::new)?;
        Ok(Side { times, done: 0, took: Duration::ZERO, off: Duration::ZERO, cpu: Duration::ZERO })
    }

    /// One operation.
    fn one(&mut self, since: Instant) {
        self.many(since, 1);
    }

    /// Operations that share a clock reading.
    fn many(&mut self, since: Instant, count: u32) {
        self.times.saturating_record((since.elapsed() / count).as_nanos() as u64);
        self.done += u64::from(count);
    }

    fn add(&mut self, other: &Side) {
        self.done += other.done;
        // Both have the same bounds.
        let _ = self.times.add(&other.times);
    }

    fn us(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Of one operation.
    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.done.max(1) as f64
    }

    fn per_s(&self) -> f64 {
        (self.done as f64 / (self.took - self.off.min(self.took)).as_secs_f64().max(1e-9)).round()
    }
}

/// One line of the result.
struct Measured {
    volume: Side,
    floor: Option<Side>,
    bytes_written: Option<u64>,
    #[cfg(feature = "spans")]
    spans: Vec<[Duration; quorate::spans::STEPS.len()]>,
}

/// Where the commits' time went, step by step: median, mean and 99th percentile, microseconds.
#[cfg(feature = "spans")]
fn steps(spans: &[[Duration; quorate::spans::STEPS.len()]]) -> Vec<(&'static str, [f64; 3])> {
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let of = |step: usize| {
        let mut all: Vec<f64> = spans.iter().map(|s| us(s[step])).collect();
        all.sort_by(f64::total_cmp);
        let at = |part: f64| all.get((all.len() as f64 * part) as usize).copied().unwrap_or_default();
        [at(0.5), all.iter().sum::<f64>() / all.len().max(1) as f64, at(0.99)]
    };
    quorate::spans::STEPS.into_iter().enumerate().map(|(i, name)| (name, of(i))).collect()
}

impl Measured {
    /// Of what writes nothing that is counted.
    fn without_writes(volume: Side, floor: Option<Side>) -> Measured {
        Measured {
            volume,
            floor,
            bytes_written: None,
            #[cfg(feature = "spans")]
            spans: Vec::new(),
        }
    }

    fn facts(&self) -> Value {
        let floor = self.floor.as_ref();
        json!({
            "p50_us": self.volume.us(0.5), "p99_us": self.volume.us(0.99), "per_s": self.volume.per_s(),
            "floor_p50_us": floor.map(|f| f.us(0.5)), "floor_per_s": floor.map(Side::per_s),
            "cpu_us": self.volume.cpu_us(), "floor_cpu_us": floor.map(Side::cpu_us),
            "bytes_written": self.bytes_written, "operations": self.volume.done, "spans_us": self.spans(),
        })
    }

    fn text(&self, name: &str) -> String {
        let v = &self.volume;
        let mut line = format!("{name:<21}{:>11.2}{:>11.2}{:>12.0}", v.us(0.5), v.us(0.99), v.per_s());
        match &self.floor {
            None => line += &format!("{:>11}{:>12}{:>9}{:>9}{:>11.2}{:>9}", "-", "-", "-", "-", v.cpu_us(), "-"),
            Some(f) => {
                let (p50, rate, cpu) = (v.us(0.5) / f.us(0.5), v.per_s() / f.per_s(), v.cpu_us() / f.cpu_us());
                line += &format!("{:>11.2}{:>12.0}{p50:>9.2}{rate:>9.2}", f.us(0.5), f.per_s());
                line += &format!("{:>11.2}{cpu:>9.2}", v.cpu_us());
            }
        }
        line += &self.bytes_written.map_or(format!("{:>15}", "-"), |b| format!("{b:>15}"));
        for (step, of) in self.spans().as_object().into_iter().flatten() {
            line += &format!("\n    {step:<8} {of}");
        }
        line
    }

    /// Where the commits' time went, step by step; nothing without the feature `spans`.
    fn spans(&self) -> Value {
        #[cfg(feature = "spans")]
        if !self.spans.is_empty() {
            let round = |us: f64| (us * 10.0).round() / 10.0;
            let fact = |[p50, mean, p99]: [f64; 3]| json!({"p50": round(p50), "mean": round(mean), "p99": round(p99)});
            return steps(&self.spans).into_iter().map(|(name, of)| (name.to_string(), fact(of))).collect();
        }
        Value::Null
    }
}

/// Alternates rounds of both for about `time`; the first one of each only warms up.
fn interleave(
    time: Duration,
    mut volume: impl FnMut(Instant, &mut Side) -> Result<(), Fail>,
    mut floor: impl FnMut(Instant, &mut Side) -> Result<(), Fail>,
) -> Result<(Side, Side), Fail> {
    let mut sides = (Side::new()?, Side::new()?);
    let rounds = (time.as_millis() / (2 * ROUND.as_millis())).max(1);
    for round in 0..=rounds {
        let one = |run: &mut dyn FnMut(Instant, &mut Side) -> Result<(), Fail>, side: &mut Side| {
            let (begun, computed) = (Instant::now(), cpu());
            if round == 0 {
                return run(begun + ROUND / 2, &mut Side::new()?);
            }
            run(begun + ROUND, side)?;
            side.took += begun.elapsed();
            side.cpu += cpu() - computed;
            Ok(())
        };
        one(&mut volume, &mut sides.0)?;
        one(&mut floor, &mut sides.1)?;
    }
    Ok(sides)
}

/// Xorshift: which page, which offset.
pub struct Random(u64);

impl Random {
    /// A stream of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A volume with pages to work on.
struct Bench<'a> {
    volume: &'a Volume,
    pages: &'a [PageId],
    page_size: usize,
    random: Random,
}

impl Bench<'_> {
    /// Patches 100 bytes somewhere.
    fn patch(&self, random: &mut Random) -> Result<quorate::Commit, Fail> {
        patch(self.volume, self.pages, self.page_size, random)
    }

    fn bytes_written(&self) -> u64 {
        self.volume.health().slots.iter().map(|s| s.bytes_written).sum()
    }

    /// Both sides, and what the volume's side wrote.
    fn writing(
        &mut self,
        time: Duration,
        floor: &mut Floor,
        mut volume: impl FnMut(&mut Self, Instant, &mut Side) -> Result<(), Fail>,
        mut bare: impl FnMut(&mut Floor, Instant, &mut Side) -> Result<(), Fail>,
    ) -> Result<Measured, Fail> {
        let before = self.bytes_written();
        let bare = |until: Instant, side: &mut Side| {
            let (begun, computed) = (Instant::now(), cpu());
            floor.make_room()?;
            let off = begun.elapsed();
            side.off += off;
            side.cpu = side.cpu.saturating_sub(cpu() - computed);
            bare(floor, until + off, side)
        };
        #[cfg(feature = "spans")]
        quorate::spans::take();
        let (v, f) = interleave(time, |until, side| volume(self, until, side), bare)?;
        Ok(Measured {
            volume: v,
            floor: Some(f),
            bytes_written: Some(self.bytes_written() - before),
            #[cfg(feature = "spans")]
            spans: quorate::spans::take(),
        })
    }

    /// One commit after the other. Floor: one group after the other.
    fn commit_1(&mut self, time: Duration, floor: &mut Floor) -> Result<Measured, Fail> {
        let volume = |b: &mut Self, until: Instant, side: &mut Side| {
            let mut random = Random::new(b.random.next());
            while Instant::now() < until {
                let begun = Instant::now();
                b.patch(&mut random)?.wait()?;
                side.one(begun);
            }
            Ok(())
        };
        self.writing(time, floor, volume, |floor, until, side| one_by_one(floor, PATCH as u64, until, side))
    }

    /// Sixteen threads, each one commit after the other. Floor: sixteen threads, each one payload of 100 bytes after the
    /// other, through a group commit: see [`group`].
    fn commit_16(&mut self, time: Duration, floor: &mut Floor) -> Result<Measured, Fail> {
        let volume = |b: &mut Self, until: Instant, side: &mut Side| {
            let seed = b.random.next();
            let b = &*b;
            group::threads(side, |i, side| {
                let mut random = Random::new(seed ^ i);
                while Instant::now() < until {
                    let begun = Instant::now();
                    b.patch(&mut random)?.wait()?;
                    side.one(begun);
                }
                Ok(())
            })
        };
        self.writing(time, floor, volume, group::floor)
    }

    /// One thread, 64 tickets in flight. Floor: 64 payloads in flight, a group whenever four files can take one.
    fn pipelined(&mut self, time: Duration, floor: &mut Floor) -> Result<Measured, Fail> {
        let volume = |b: &mut Self, until: Instant, side: &mut Side| {
            let mut random = Random::new(b.random.next());
            let mut tickets = VecDeque::new();
            while Instant::now() < until {
                let begun = Instant::now();
                tickets.push_back((begun, b.patch(&mut random)?));
                if tickets.len() == IN_FLIGHT
                    && let Some((begun, ticket)) = tickets.pop_front()
                {
                    ticket.wait()?;
                    side.one(begun);
                }
            }
            for (begun, ticket) in tickets {
                ticket.wait()?;
                side.one(begun);
            }
            Ok(())
        };
        self.writing(time, floor, volume, pipelined)
    }

    /// Eight whole pages a commit. Floor: the same bytes.
    fn put_8(&mut self, time: Duration, floor: &mut Floor) -> Result<Measured, Fail> {
        let image = bytes::Bytes::from(vec![0xA5; self.page_size]);
        let len = 8 * self.page_size as u64;
        let volume = |b: &mut Self, until: Instant, side: &mut Side| {
            while Instant::now() < until {
                let begun = Instant::now();
                let first = b.random.next() as usize % (b.pages.len() - 8);
                let mut mtr = b.volume.begin();
                for page in &b.pages[first..first + 8] {
                    mtr.put(*page, image.clone());
                }
                mtr.commit()?.wait()?;
                side.one(begun);
            }
            Ok(())
        };
        self.writing(time, floor, volume, |floor, until, side| one_by_one(floor, len, until, side))
    }
}

/// A patch of 100 bytes somewhere in the pages.
pub fn patch(
    volume: &Volume,
    pages: &[PageId],
    page_size: usize,
    random: &mut Random,
) -> Result<quorate::Commit, Fail> {
    let r = random.next();
    let page = pages[(r >> 16) as usize % pages.len()];
    let mut mtr = volume.begin();
    mtr.patch(page, (random.next() as usize % (page_size - PATCH)) as u32, &[r as u8; PATCH]);
    Ok(mtr.commit()?)
}

fn one_by_one(floor: &mut Floor, len: u64, until: Instant, side: &mut Side) -> Result<(), Fail> {
    while Instant::now() < until && !floor.is_full() {
        let begun = Instant::now();
        let end = floor.append(len);
        while floor.durable() < end {
            floor.write()?;
            floor.wait()?;
        }
        side.one(begun);
    }
    Ok(())
}

fn pipelined(floor: &mut Floor, until: Instant, side: &mut Side) -> Result<(), Fail> {
    let mut open: Vec<Instant> = Vec::new();
    let mut groups: VecDeque<(u64, Vec<Instant>)> = VecDeque::new();
    let mut in_flight = 0;
    loop {
        let ended = Instant::now() >= until || floor.is_full();
        while in_flight < IN_FLIGHT && !ended {
            open.push(Instant::now());
            in_flight += 1;
        }
        if in_flight == 0 {
            return Ok(());
        }
        if !open.is_empty() && floor.takes_a_group() {
            let end = floor.append((open.len() * PATCH) as u64);
            groups.push_back((end, std::mem::take(&mut open)));
        }
        floor.write()?;
        floor.wait()?;
        let durable = floor.durable();
        while let Some((_, group)) = groups.pop_front_if(|(end, _)| *end <= durable) {
            in_flight -= group.len();
            group.into_iter().for_each(|begun| side.one(begun));
        }
    }
}

/// Reads of cached pages by some threads. Floor: as many threads, each a bare read of a page after the other.
fn read_hot(b: &mut Bench<'_>, at: &At, records: &[Lsn], time: Duration, threads: u64) -> Result<Measured, Fail> {
    let (volume, pages, health) = (b.volume, &b.pages[..HOT], b.volume.health());
    for page in pages {
        volume.read(*page)?;
    }
    let hot = |until: Instant, side: &mut Side| {
        group::some_threads(threads, side, |i, side| {
            let mut n = i as usize;
            while Instant::now() < until {
                let begun = Instant::now();
                for _ in 0..HOT_BATCH {
                    n += 1;
                    std::hint::black_box(volume.read(pages[n % HOT])?);
                }
                side.many(begun, HOT_BATCH);
            }
            Ok(())
        })
    };
    let bare = |until: Instant, side: &mut Side| {
        group::some_threads(threads, side, |i, side| bare_reads(&mut Reads::new(at, &health, records)?, i, until, side))
    };
    let (volume, floor) = interleave(time, hot, bare)?;
    Ok(Measured::without_writes(volume, Some(floor)))
}

/// Reads of pages that are in no cache: the handle's is as small as it gets, and the pages are 64 times that. Each page
/// stands in one record, as it was put. Floor: a bare read of a page. Both read the same pages of the same files, all of
/// them at random.
fn read_cold(io: &Io, b: &mut Bench<'_>, at: &At, records: &[Lsn], time: Duration) -> Result<Measured, Fail> {
    let options = io.options.clone().cache_bytes(0);
    let reader = Volume::open_read_only(at.0.clone(), &options)?;
    let view = reader.view();
    let mut random = Random::new(7);
    let cold = |until: Instant, side: &mut Side| {
        while Instant::now() < until {
            let page = b.pages[(random.next() >> 16) as usize % b.pages.len()];
            let begun = Instant::now();
            std::hint::black_box(view.read(page)?);
            side.one(begun);
        }
        Ok(())
    };
    let mut reads = Reads::new(at, &b.volume.health(), records)?;
    let (volume, floor) = interleave(time, cold, |until, side| bare_reads(&mut reads, 5, until, side))?;
    Ok(Measured::without_writes(volume, Some(floor)))
}

fn bare_reads(reads: &mut Reads, seed: u64, until: Instant, side: &mut Side) -> Result<(), Fail> {
    let mut random = Random::new(seed + 11);
    while Instant::now() < until {
        let r = random.next();
        let begun = Instant::now();
        reads.read(r)?;
        side.one(begun);
    }
    Ok(())
}

/// All that can be measured.
pub const ALL: [&str; 8] = [
    "read_cold",
    "read_hot_1",
    "read_hot_2",
    "commit_1",
    "commit_16",
    "commit_pipelined_64",
    "put_8_pages",
    "reopen_after_kill",
];

/// Measures everything, or `only` that, in about `seconds`.
pub fn run(io: &Io, at: &At, seconds: u64, only: &[String]) -> Result<(), Fail> {
    let wanted: Vec<&str> = ALL.into_iter().filter(|name| only.is_empty() || only.iter().any(|o| o == name)).collect();
    if !io.json {
        let (a, b, c, d, e) = ("p50 us", "p99 us", "per s", "floor p50", "floor per s");
        let (f, g, h, i, j) = ("p50 x", "rate x", "cpu us", "cpu x", "bytes written");
        let head = format!("{:<21}{a:>11}{b:>11}{c:>12}{d:>11}{e:>12}{f:>9}{g:>9}{h:>11}{i:>9}{j:>15}", "");
        io.say(Value::Null, head)?;
    }
    let mut all = Map::new();
    let mut tell = |name: &str, m: Measured| {
        if !io.json {
            io.say(Value::Null, m.text(name))?;
        }
        all.insert(name.to_string(), m.facts());
        Ok::<(), Fail>(())
    };
    let time = Duration::from_secs(seconds) / wanted.len().max(1) as u32;
    let volume = io.open(at)?;
    let result = measure(io, at, &volume, time, &wanted, &mut tell);
    close(volume);
    let pages = result?;
    if wanted.contains(&"reopen_after_kill") {
        tell("reopen_after_kill", child::reopen(io, at, &pages, time)?)?;
    }
    let volume = io.open(at)?;
    let cleaned = Store::new(&volume).and_then(|store| {
        store.remove(NAME)?;
        store.end()
    });
    close(volume);
    cleaned?;
    if io.json { io.say(Value::Object(all), "") } else { Ok(()) }
}

fn measure(
    io: &Io,
    at: &At,
    volume: &Volume,
    time: Duration,
    wanted: &[&str],
    tell: &mut impl FnMut(&str, Measured) -> Result<(), Fail>,
) -> Result<Vec<PageId>, Fail> {
    let health = volume.health();
    let page_size = health.page_size as usize;
    let store = Store::new(volume)?;
    let mut left = PAGES * page_size;
    let mut random = Random::new(3);
    store.put(NAME, |buffer| {
        let n = buffer.len().min(left);
        // No disk can make them smaller: reading them takes what reading takes.
        buffer[..n].chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()]));
        left -= n;
        Ok(n)
    })?;
    store.end()?;
    let entry = store::find(volume, NAME)?.unwrap_or_default();
    let pages = store::pages(volume, entry)?;
    let mut floor = Floor::new(at, health.block_size, health.io == "io_uring")?;
    let mut bench = Bench { volume, pages: &pages, page_size, random: Random::new(1) };
    volume.sync().wait()?;
    let records = pages.iter().map(|page| Ok(volume.read(*page)?.lsn())).collect::<Result<Vec<_>, Fail>>()?;
    // Reads first: afterwards pages have deltas.
    for name in ["read_cold", "read_hot_1", "read_hot_2"] {
        if wanted.contains(&name) {
            let measured = match name {
                "read_cold" => read_cold(io, &mut bench, at, &records, time)?,
                "read_hot_1" => read_hot(&mut bench, at, &records, time, 1)?,
                _ => read_hot(&mut bench, at, &records, time, 2)?,
            };
            tell(name, measured)?;
        }
    }
    for name in ["commit_1", "commit_16", "commit_pipelined_64", "put_8_pages"] {
        if wanted.contains(&name) {
            let measured = match name {
                "commit_1" => bench.commit_1(time, &mut floor)?,
                "commit_16" => bench.commit_16(time, &mut floor)?,
                "commit_pipelined_64" => bench.pipelined(time, &mut floor)?,
                _ => bench.put_8(time, &mut floor)?,
            };
            tell(name, measured)?;
        }
    }
    drop(floor);
    Ok(pages)
}
