//! `quorate bench checkpoint`: what a checkpoint does to commits that are made meanwhile, in one run on one volume.
//!
//! It makes a volume of its own with many pages, patches them uniformly, so that every checkpoint writes as much of the
//! table as it ever does, and sorts commits by whether a checkpoint was under way when they began or ended.

use crate::bench::heal::Places;
use crate::bench::{Random, Side, group, patch};
use crate::common::{At, Fail, Io, close};
use quorate::{PageId, Volume};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at whether a checkpoint is under way.
const POLL: Duration = Duration::from_millis(2);
/// Pages that one MTR allocates.
const BATCH: u64 = 256;

/// How it is run.
pub struct Plan {
    pub pages: u64,
    /// MiB of log between checkpoints.
    pub every: u64,
    pub rounds: u32,
    pub seconds: u64,
}

/// What so many threads met in all rounds: without a checkpoint, and during one.
struct Figures {
    sides: [Side; 2],
    checkpoints: u64,
}

impl Figures {
    fn new() -> Result<Figures, Fail> {
        Ok(Figures { sides: [Side::new()?, Side::new()?], checkpoints: 0 })
    }

    /// The 99th percentile during a checkpoint, to that without.
    fn ratio(&self) -> f64 {
        self.sides[1].us(0.99) / self.sides[0].us(0.99).max(1e-9)
    }

    fn facts(&self) -> Value {
        let [without, during] = &self.sides;
        json!({
            "p50_us": without.us(0.5), "p50_during_us": during.us(0.5),
            "p99_us": without.us(0.99), "p99_during_us": during.us(0.99), "p99_x": self.ratio(),
            "commits": without.done, "commits_during": during.done, "checkpoints": self.checkpoints,
        })
    }

    fn text(&self, name: &str) -> String {
        let [without, during] = &self.sides;
        format!(
            "{name:<12}{:>11.0}{:>11.0}{:>11.0}{:>11.0}{:>8.2}{:>12}{:>12}{:>12}",
            without.us(0.5),
            during.us(0.5),
            without.us(0.99),
            during.us(0.99),
            self.ratio(),
            without.done,
            during.done,
            self.checkpoints
        )
    }
}

/// Runs it below the given directories.
pub fn run(io: &Io, under: &At, plan: &Plan) -> Result<(), Fail> {
    let (_places, at) = Places::make(under)?;
    let options = io.options.clone().checkpoint_bytes(plan.every << 20);
    let volume = Volume::create(at.0, &options)?;
    let measured = measure(&volume, plan);
    close(volume);
    let all = measured?;
    if io.json {
        let facts: Map<String, Value> = all.iter().map(|(name, f)| ((*name).to_string(), f.facts())).collect();
        return io.say(Value::Object(facts), "");
    }
    let head = ["p50 us", "during", "p99 us", "during", "x", "commits", "during", "checkpoints"];
    let [a, b, c, d, e, f, g, h] = head;
    let head = format!("{:<12}{a:>11}{b:>11}{c:>11}{d:>11}{e:>8}{f:>12}{g:>12}{h:>12}", "");
    io.say(Value::Null, head)?;
    all.iter().try_for_each(|(name, figures)| io.say(Value::Null, figures.text(name)))
}

fn measure(volume: &Volume, plan: &Plan) -> Result<[(&'static str, Figures); 2], Fail> {
    let mut pages = Vec::with_capacity(plan.pages as usize);
    while (pages.len() as u64) < plan.pages {
        let mut mtr = volume.begin();
        for _ in 0..BATCH.min(plan.pages - pages.len() as u64) {
            pages.push(mtr.alloc()?);
        }
        drop(mtr.commit()?);
    }
    volume.sync().wait()?;
    let mut all = [("commit_1", Figures::new()?), ("commit_16", Figures::new()?)];
    // The first round only warms up.
    for round in 0..=plan.rounds {
        for ((_, figures), threads) in all.iter_mut().zip([1, 16]) {
            let time = if round == 0 { Duration::from_secs(1) } else { Duration::from_secs(plan.seconds) };
            let (sides, checkpoints) = one_round(volume, &pages, threads, time)?;
            if round == 0 {
                continue;
            }
            figures.sides.iter_mut().zip(&sides).for_each(|(all, side)| all.add(side));
            figures.checkpoints += checkpoints;
        }
    }
    // Of fewer there is no 99th percentile to speak of.
    if all.iter().flat_map(|(_, f)| &f.sides).any(|side| side.done < 1000) {
        let what = "too few commits with, or without, a checkpoint: take another --every-mib, or more --seconds";
        return Err(Fail::new(what));
    }
    Ok(all)
}

/// Commits by so many threads; those without a checkpoint, those during one, and how many there were.
fn one_round(volume: &Volume, pages: &[PageId], threads: u64, time: Duration) -> Result<([Side; 2], u64), Fail> {
    let health = volume.health();
    let (page_size, seed) = (health.page_size as usize, health.tail.0);
    let (under_way, over, checkpoints) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let during = parking_lot::Mutex::new(Side::new()?);
    let mut without = Side::new()?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let now = volume.health().checkpointing;
                if now && !under_way.swap(now, Ordering::Relaxed) {
                    checkpoints.fetch_add(1, Ordering::Relaxed);
                }
                under_way.store(now, Ordering::Relaxed);
                std::thread::sleep(POLL);
            }
        });
        let until = Instant::now() + time;
        let done = group::some_threads(threads, &mut without, |i, side| {
            let (mut random, mut mine) = (Random::new(seed ^ (i + 1)), Side::new()?);
            while Instant::now() < until {
                let (begun, before) = (Instant::now(), under_way.load(Ordering::Relaxed));
                patch(volume, pages, page_size, &mut random)?.wait()?;
                let met = before || under_way.load(Ordering::Relaxed);
                if met { mine.one(begun) } else { side.one(begun) }
            }
            during.lock().add(&mine);
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        done
    })?;
    Ok(([without, during.into_inner()], checkpoints.into_inner()))
}
