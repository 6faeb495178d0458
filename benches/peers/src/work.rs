//! What is measured: the same work by each engine, each loop bounded by time.

use crate::group::Group;
use crate::peer::{Kind, PAGE, Peer, SMALL, SMALL_BYTES, SMALL_KEYS, Setup, Ticket};
use crate::pool::{Pool, Random};
use crate::{child, place};
use anyhow::{Context, Result, ensure};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One figure of a work.
pub struct Metric {
    pub work: &'static str,
    /// Which of the work's figures; empty where there is one.
    pub what: &'static str,
    pub unit: &'static str,
    pub more_is_better: bool,
}

const fn less(work: &'static str, what: &'static str, unit: &'static str) -> Metric {
    Metric { work, what, unit, more_is_better: false }
}

const fn more(work: &'static str, unit: &'static str) -> Metric {
    Metric { work, what: "", unit, more_is_better: true }
}

/// All of them, as they stand in tables.
pub const METRICS: &[Metric] = &[
    less("commit_1", "p50", "µs"),
    less("commit_1", "p99", "µs"),
    more("commit_16", "/s"),
    more("commit_16_grouped", "/s"),
    more("pipelined_64", "/s"),
    less("put_8_pages", "p50", "µs"),
    less("put_8_pages", "p99", "µs"),
    more("batch_load", "MB/s"),
    less("read_hot", "1 thread", "ns"),
    less("read_hot", "2 threads", "ns"),
    less("read_cold", "p50", "µs"),
    less("read_cold", "p99", "µs"),
    more("mixed_90_10", "/s"),
    less("reopen_after_kill", "", "ms"),
    less("scale", "1.3 MB, time", "ms"),
    less("scale", "13 MB, time", "ms"),
    less("scale", "131 MB, time", "ms"),
    less("scale", "1.3 MB, on disk", "MB"),
    less("scale", "13 MB, on disk", "MB"),
    less("scale", "131 MB, on disk", "MB"),
];

/// Bytes of cache, but for cold reads.
const CACHE: u64 = 64 << 20;
/// Pages of a batch of the load: one MiB.
const BATCH: u64 = 64;
/// Pages of `put_8_pages`, and of what `scale` and the killed child commit.
pub const PUT: u64 = 8;
const IN_FLIGHT: u64 = 64;
/// Hot pages: they fit any cache.
const HOT: u64 = 32;
/// Hot reads under one clock reading: a single one is shorter than that.
const HOT_BATCH: u64 = 64;
/// A load that takes longer is cut short, or left out.
const LOAD_MAX: Duration = Duration::from_secs(20);
/// Bytes that `scale` multiplies by 10, 100 and 1,000.
const BASE_PUTS: u64 = 1;
/// Bytes of log when the writer is killed.
pub const KILL_BYTES: u64 = 64 << 20;

/// How long and how much.
pub struct Plan {
    pub time: Duration,
    pub data: u64,
    pub dirs: Vec<PathBuf>,
    /// Empty: all works.
    pub only: Vec<String>,
}

impl Plan {
    fn wants(&self, works: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| works.contains(&only.as_str()))
    }
}

/// Times of single operations, and of all.
struct Took {
    ns: Vec<u64>,
    all: Duration,
}

impl Took {
    fn us(&mut self, part: f64) -> f64 {
        self.ns.sort_unstable();
        let at = (self.ns.len() as f64 * part) as usize;
        self.ns.get(at.min(self.ns.len().saturating_sub(1))).map_or(f64::NAN, |ns| *ns as f64 / 1e3)
    }

    fn rate(&self) -> f64 {
        self.ns.len() as f64 / self.all.as_secs_f64()
    }

    fn mean_ns(&self) -> f64 {
        self.ns.iter().sum::<u64>() as f64 / self.ns.len().max(1) as f64
    }
}

/// Some threads do one thing over and over again.
fn threads(count: u64, time: Duration, seed: u64, one: impl Fn(&mut Random) -> Result<()> + Sync) -> Result<Took> {
    let begun = Instant::now();
    let until = begun + time;
    let thread = |i: u64| {
        let mut random = Random::new(seed * 1000 + i);
        let mut ns = Vec::with_capacity(1 << 16);
        let mut now = Instant::now();
        while now < until {
            one(&mut random)?;
            let ended = Instant::now();
            ns.push((ended - now).as_nanos() as u64);
            now = ended;
        }
        Ok::<_, anyhow::Error>(ns)
    };
    let mut ns = Vec::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|i| scope.spawn(move || thread(i))).collect();
        for one in all {
            ns.extend(one.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(Took { ns, all: begun.elapsed() })
}

/// One engine in one round.
struct Bench<'a> {
    kind: &'a Kind,
    plan: &'a Plan,
    pool: &'a Pool,
    /// Pages that are loaded.
    pages: u64,
    seed: u64,
    tell: &'a mut dyn FnMut(&str, &str, f64),
}

/// Runs all works that are wanted, and tells work, figure and value.
pub fn round(kind: &Kind, plan: &Plan, pool: &Pool, seed: u64, tell: &mut dyn FnMut(&str, &str, f64)) -> Result<()> {
    let mut bench = Bench { kind, plan, pool, pages: 0, seed, tell };
    let place = place::Place::make(&plan.dirs, kind.name)?;
    let setup = Setup { dirs: place.dirs.clone(), cache: CACHE, keep_log: false, uring: true };
    let commits = ["commit_1", "commit_16", "commit_16_grouped", "pipelined_64", "put_8_pages", "mixed_90_10"];
    if plan.wants(&["batch_load", "read_hot", "read_cold"]) || plan.wants(&commits) {
        let mut peer = (kind.open)(&setup)?;
        bench.load(&*peer).context("load")?;
        if kind.reads && plan.wants(&["read_hot"]) {
            bench.read_hot(&*peer).context("read_hot")?;
        }
        if kind.reads && plan.wants(&["read_cold"]) {
            peer.close()?;
            bench.read_cold(&place, &setup).context("read_cold")?;
            peer = (kind.open)(&setup)?;
        }
        bench.commits(&*peer)?;
        peer.close()?;
    }
    if kind.reopens && plan.wants(&["reopen_after_kill"]) {
        place.empty()?;
        bench.reopen(&setup).context("reopen_after_kill")?;
    }
    if plan.wants(&["scale"]) {
        for (times, what) in [(10, "1.3 MB"), (100, "13 MB"), (1000, "131 MB")] {
            place.empty()?;
            bench.scale(&place, &setup, times, what).context("scale")?;
        }
    }
    Ok(())
}

impl Bench<'_> {
    fn tell(&mut self, work: &str, what: &str, value: f64) {
        if value.is_finite() {
            (self.tell)(work, what, value);
        }
    }

    /// Small values, so that commits overwrite what is there; and pages, which are measured.
    fn load(&mut self, peer: &dyn Peer) -> Result<()> {
        let keys: Vec<u64> = (SMALL..SMALL + SMALL_KEYS).collect();
        for keys in keys.chunks(1024) {
            let batch: Vec<_> = keys.iter().map(|k| (*k, self.pool.value(*k, SMALL_BYTES))).collect();
            peer.commit_batch(&batch)?;
        }
        let begun = Instant::now();
        while self.pages * (PAGE as u64) < self.plan.data && begun.elapsed() < LOAD_MAX {
            peer.commit_batch(&self.pool.pages(self.pages, BATCH))?;
            self.pages += BATCH;
        }
        let mb = (self.pages * PAGE as u64) as f64 / 1e6;
        self.tell("batch_load", "", mb / begun.elapsed().as_secs_f64());
        if self.kind.reads {
            for key in [0, self.pages / 2, self.pages - 1, SMALL, SMALL + SMALL_KEYS - 1] {
                let want = self.pool.value(key, if key < SMALL { PAGE } else { SMALL_BYTES });
                let mut same = false;
                peer.get(key, &mut |value| same = value == want)?;
                ensure!(same, "key {key} has another value than was written");
            }
        }
        Ok(())
    }

    fn read_hot(&mut self, peer: &dyn Peer) -> Result<()> {
        let batch = |random: &mut Random| {
            for _ in 0..HOT_BATCH {
                peer.get(random.below(HOT), &mut |value| _ = std::hint::black_box(value[PAGE - 1]))?;
            }
            Ok(())
        };
        threads(2, Duration::from_millis(100), self.seed, batch)?;
        for (count, what) in [(1, "1 thread"), (2, "2 threads")] {
            let took = threads(count, self.plan.time, self.seed, batch)?;
            self.tell("read_hot", what, took.mean_ns() / HOT_BATCH as f64);
        }
        Ok(())
    }

    /// Each page is read once at most: what the kernel's page cache has is what it read ahead, not what was read before.
    fn read_cold(&mut self, place: &place::Place, setup: &Setup) -> Result<()> {
        place.forget()?;
        let setup = Setup { cache: self.pages * PAGE as u64 / 16, ..setup.clone() };
        let peer = (self.kind.open)(&setup)?;
        let mut keys: Vec<u64> = (0..self.pages).collect();
        Random::new(self.seed).shuffle(&mut keys);
        let begun = Instant::now();
        let mut took = Took { ns: Vec::new(), all: Duration::ZERO };
        for key in keys {
            let one = Instant::now();
            peer.get(key, &mut |value| _ = std::hint::black_box(value[0] ^ value[PAGE - 1]))?;
            took.ns.push(one.elapsed().as_nanos() as u64);
            if begun.elapsed() > self.plan.time {
                break;
            }
        }
        self.tell("read_cold", "p50", took.us(0.5));
        self.tell("read_cold", "p99", took.us(0.99));
        peer.close()
    }

    fn commits(&mut self, peer: &dyn Peer) -> Result<()> {
        let (pool, time, seed, pages) = (self.pool, self.plan.time, self.seed, self.pages);
        let small = |random: &mut Random| {
            let key = SMALL + random.below(SMALL_KEYS);
            (key, pool.value(random.next(), SMALL_BYTES))
        };
        let commit = |random: &mut Random| {
            let (key, value) = small(random);
            peer.commit(key, value)
        };
        if self.plan.wants(&["commit_1"]) {
            let mut took = threads(1, time, seed, commit).context("commit_1")?;
            self.tell("commit_1", "p50", took.us(0.5));
            self.tell("commit_1", "p99", took.us(0.99));
        }
        if self.plan.wants(&["commit_16"]) {
            let took = threads(16, time, seed, commit).context("commit_16")?;
            self.tell("commit_16", "", took.rate());
        }
        let grouped = |count: u64| {
            let group = Group::new(peer);
            threads(count, time, seed, |random| {
                let (key, value) = small(random);
                group.commit(key, value)
            })
        };
        if self.plan.wants(&["commit_16_grouped"]) && !self.kind.groups {
            let took = grouped(16).context("commit_16_grouped")?;
            self.tell("commit_16_grouped", "", took.rate());
        }
        if self.plan.wants(&["pipelined_64"]) {
            let rate = match pipelined(peer, time, seed, small)? {
                Some(took) => took.rate(),
                // Whichever is better for who has no tickets: threads as they are, or the harness' groups of them.
                None => threads(IN_FLIGHT, time, seed, commit)?.rate().max(grouped(IN_FLIGHT)?.rate()),
            };
            self.tell("pipelined_64", "", rate);
        }
        if self.plan.wants(&["put_8_pages"]) {
            let put = |random: &mut Random| peer.commit_batch(&pool.pages(random.below(pages - PUT), PUT));
            let mut took = threads(1, time, seed, put).context("put_8_pages")?;
            self.tell("put_8_pages", "p50", took.us(0.5));
            self.tell("put_8_pages", "p99", took.us(0.99));
        }
        if self.plan.wants(&["mixed_90_10"]) && self.kind.reads {
            let took = threads(16, time, seed, |random| {
                if random.below(10) == 0 {
                    return commit(random);
                }
                peer.get(SMALL + random.below(SMALL_KEYS), &mut |value| _ = std::hint::black_box(value[0]))
            });
            self.tell("mixed_90_10", "", took.context("mixed_90_10")?.rate());
        }
        Ok(())
    }

    /// From the call of open to the end of the first read, after a writer with so much log was killed. What it wrote is in
    /// the kernel's page cache as far as it went through there: only the process died.
    fn reopen(&mut self, setup: &Setup) -> Result<()> {
        child::write_and_kill(self.kind, setup)?;
        let begun = Instant::now();
        let peer = (self.kind.open)(setup)?;
        let last = KILL_BYTES / PAGE as u64 - 1;
        let mut same = false;
        peer.get(last, &mut |value| same = value[..8] == self.pool.value(last, PAGE)[..8])?;
        self.tell("reopen_after_kill", "", begun.elapsed().as_secs_f64() * 1e3);
        ensure!(same, "the last acknowledged page is not what was written");
        peer.close()
    }

    /// A load of eight pages a commit, with the close: what was put off is done then.
    fn scale(&mut self, place: &place::Place, setup: &Setup, times: u64, what: &str) -> Result<()> {
        let peer = (self.kind.open)(setup)?;
        let begun = Instant::now();
        let mut whole = true;
        for put in 0..times * BASE_PUTS {
            peer.commit_batch(&self.pool.pages(put * PUT, PUT))?;
            if begun.elapsed() > LOAD_MAX {
                whole = false;
                break;
            }
        }
        peer.close()?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        if whole {
            let on_disk = place.bytes()? as f64 / 1e6;
            self.tell("scale", &format!("{what}, time"), took);
            self.tell("scale", &format!("{what}, on disk"), on_disk);
        }
        Ok(())
    }
}

/// One thread, 64 tickets in flight, waited for in order. None if the engine has no tickets.
fn pipelined<'a>(
    peer: &'a dyn Peer,
    time: Duration,
    seed: u64,
    small: impl Fn(&mut Random) -> (u64, &'a [u8]),
) -> Result<Option<Took>> {
    let (begun, mut random) = (Instant::now(), Random::new(seed));
    let mut tickets: VecDeque<(Instant, Ticket<'_>)> = VecDeque::new();
    let mut ns = Vec::new();
    let mut ended = false;
    while !ended || !tickets.is_empty() {
        if !ended {
            let (key, value) = small(&mut random);
            let Some(ticket) = peer.submit(key, value)? else { return Ok(None) };
            tickets.push_back((Instant::now(), ticket));
        }
        ended |= begun.elapsed() > time;
        if (ended || tickets.len() as u64 == IN_FLIGHT)
            && let Some((since, ticket)) = tickets.pop_front()
        {
            ticket()?;
            ns.push(since.elapsed().as_nanos() as u64);
        }
    }
    Ok(Some(Took { ns, all: begun.elapsed() }))
}
