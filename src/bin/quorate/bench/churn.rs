//! `quorate bench churn`: does a volume that is written over and over stay as it is? Its space, what it writes for each byte
//! that users write, and the time that a read of a cold page takes, over time.
//!
//! It makes a volume of its own, of which a set size lives, writes random pages as fast as they are taken, reads others
//! beside, and judges: see [`Judged`]. Then every page is compared with what it should hold, before a close and after it, and
//! the six copies are verified.

use crate::bench::heal::{Places, median};
use crate::bench::svg::{self, Line, Plot};
use crate::bench::{Random, Side};
use crate::common::{At, Fail, Io, at, close, human};
use parking_lot::Mutex;
use quorate::{Commit, Health, Options, PageId, Volume};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a patch.
const PATCH: usize = 200;
/// One write in so many is a whole image; the others are patches.
const IMAGES: u64 = 3;
/// Pages of an MTR.
const BATCH: usize = 16;
/// MTRs that are not durable yet.
const IN_FLIGHT: usize = 8;
/// Between two samples; less where it is over soon, so that there are some.
const SAMPLE: Duration = Duration::from_secs(1);
const SAMPLES: u32 = 40;
/// Reads are so far apart: they are to be met by writes, not to take their place.
const READ_EVERY: Duration = Duration::from_millis(2);
/// What takes longer is not waited for.
const MOST: Duration = Duration::from_secs(600);
/// Of what lives so much may be kept, in the long run: three quarters of it live.
const BOUND_PER_LIVE: f64 = 1.35;
/// Beside what is allocated each slot has so much space ahead, at most: 64 MiB, and what users leave to others.
const AHEAD: u64 = 66 << 20;
/// A volume that is sampled beside its work may be seen above its bound by so much.
const SLACK: f64 = 1.1;
/// The last quarter may be so many times the second one.
const DRIFT: f64 = 1.3;
/// Fewer samples tell nothing about quarters.
const SAMPLES_LEAST: usize = 8;

/// How it is run.
pub struct Plan {
    /// MiB that live.
    pub live: u64,
    /// So many times as much is written, by users.
    pub times: u64,
    pub minutes: f64,
    /// MiB of log between checkpoints.
    pub every: u64,
    pub svg: Option<PathBuf>,
}

/// So many minutes, from the command line.
pub fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|e| format!("{text}: {e}"))?;
    if (0.01..=100_000.0).contains(&minutes) { Ok(minutes) } else { Err(format!("{text}: 0.01 to 100000 minutes")) }
}

/// What was seen at once; bytes, but for the times.
struct Sample {
    seconds: f64,
    allocated: u64,
    /// As the volume estimates it.
    live_told: u64,
    pinned: u64,
    reserve: u64,
    device: u64,
    tail: u64,
    user: u64,
    /// Since the sample before: log that was appended for each byte that users wrote, and what all slots wrote for each of
    /// six copies of such a byte.
    log_per_user: f64,
    device_per_user: f64,
    user_per_s: f64,
    read_p50: f64,
    read_p99: f64,
}

impl Sample {
    fn bound(&self, live: u64) -> f64 {
        live as f64 * BOUND_PER_LIVE + (self.pinned + self.reserve) as f64
    }

    /// What the six slots' devices may hold: what was given back and is to be punched is no more than the reserve.
    fn device_bound(&self) -> f64 {
        6.0 * (self.allocated + AHEAD + self.reserve) as f64
    }

    fn facts(&self, live: u64) -> Value {
        json!({
            "seconds": self.seconds, "allocated": self.allocated, "live": live, "live_told": self.live_told,
            "pinned": self.pinned, "reserve": self.reserve, "bound": self.bound(live) as u64,
            "device": self.device, "device_bound": self.device_bound() as u64, "tail": self.tail, "user": self.user, "user_per_s": self.user_per_s as u64,
            "log_per_user": self.log_per_user, "device_per_user": self.device_per_user,
            "read_p50_us": self.read_p50, "read_p99_us": self.read_p99,
        })
    }
}

/// What the samples come to. Flat is what stays within its bound in the second half, and is no more in the last quarter than
/// in the second.
#[derive(Debug, PartialEq)]
struct Judged {
    /// The highest share of its bound that `allocated` had in the second half.
    of_bound: f64,
    /// The share of theirs that the devices had, the higher median of the last two quarters: a disk that is busy punches late.
    device_of_bound: f64,
    /// The last quarter's median by the second one's.
    allocated_x: f64,
    log_per_user_x: f64,
}

impl Judged {
    fn by(samples: &[Sample], live: u64) -> Judged {
        let half = &samples[samples.len() / 2..];
        let share = |s: &Sample| s.allocated as f64 / s.bound(live);
        let of_devices = |s: &Sample| s.device as f64 / s.device_bound();
        let drift = |of: &dyn Fn(&Sample) -> f64| quarter(samples, 3, of) / quarter(samples, 1, of);
        Judged {
            of_bound: half.iter().map(share).fold(0.0, f64::max),
            device_of_bound: [2, 3].map(|n| quarter(samples, n, &of_devices)).into_iter().fold(0.0, f64::max),
            allocated_x: drift(&|s| s.allocated as f64),
            log_per_user_x: drift(&|s| s.log_per_user),
        }
    }

    /// What is not flat. A figure that is no number is not.
    fn broken(&self) -> Vec<String> {
        let all = [
            ("allocated by its bound, in the second half", self.of_bound, SLACK),
            ("devices by six times what is allocated, ahead and in reserve", self.device_of_bound, SLACK),
            ("allocated, the last quarter by the second", self.allocated_x, DRIFT),
            ("log per user byte, the last quarter by the second", self.log_per_user_x, DRIFT),
        ];
        let over = |(_, x, most): &(&str, f64, f64)| !matches!(x.partial_cmp(most), Some(o) if o.is_le());
        all.into_iter().filter(over).map(|(what, x, most)| format!("{what}: {x:.2}, more than {most}")).collect()
    }
}

/// The median of a quarter of the samples, counted from 0.
fn quarter(samples: &[Sample], n: usize, of: &dyn Fn(&Sample) -> f64) -> f64 {
    let (from, to) = (samples.len() * n / 4, samples.len() * (n + 1) / 4);
    median(&samples[from..to].iter().map(of).collect::<Vec<_>>())
}

/// A page's bytes at its `n`th write.
fn image(page: PageId, n: u64, size: usize) -> Vec<u8> {
    (page.0.wrapping_mul(1_000_003).wrapping_add(n)).to_le_bytes().repeat(size / 8)
}

/// Pages and what they should hold.
struct Pages {
    all: Vec<(PageId, Vec<u8>)>,
    size: usize,
    random: Random,
    turn: u64,
}

impl Pages {
    fn make(volume: &Volume, bytes: u64) -> Result<Pages, Fail> {
        let size = volume.health().page_size as usize;
        let (mut all, count) = (Vec::new(), (bytes / size as u64) as usize);
        while all.len() < count {
            let mut mtr = volume.begin();
            for _ in 0..BATCH.min(count - all.len()) {
                let page = mtr.alloc()?;
                all.push((page, image(page, 0, size)));
                mtr.put(page, image(page, 0, size));
            }
            drop(mtr.commit()?);
        }
        volume.sync().wait()?;
        Ok(Pages { all, size, random: Random::new(1), turn: 0 })
    }

    /// Writes some pages. Returns how many bytes they were asked to hold anew.
    fn write(&mut self, volume: &Volume) -> Result<(Commit, u64), Fail> {
        let (mut mtr, mut bytes) = (volume.begin(), 0);
        for _ in 0..BATCH {
            self.turn += 1;
            let (r, at) = (self.random.next() >> 16, self.random.next() as usize % (self.size - PATCH));
            let count = self.all.len() as u64;
            let (page, now) = &mut self.all[(r / IMAGES % count) as usize];
            if r % IMAGES == 0 {
                *now = image(*page, self.turn, self.size);
                mtr.put(*page, now.clone());
                bytes += self.size;
            } else {
                let patch = self.turn.to_le_bytes().repeat(PATCH / 8);
                now[at..at + PATCH].copy_from_slice(&patch);
                mtr.patch(*page, at as u32, &patch);
                bytes += PATCH;
            }
        }
        Ok((mtr.commit()?, bytes as u64))
    }

    fn check(&self, volume: &Volume, when: &str) -> Result<(), Fail> {
        for (page, want) in &self.all {
            if volume.read(*page)?[..] != want[..] {
                return Err(Fail::new(format!("page {} is not what was written, {when}: please report this", page.0)));
            }
        }
        Ok(())
    }
}

/// Runs it below the given directories.
pub fn run(io: &Io, under: &At, plan: &Plan) -> Result<(), Fail> {
    let (_places, at) = Places::make(under)?;
    // Cold pages are to be read: the cache is as small as it gets.
    let options = io.options.clone().pg_size(64 << 20).cache_bytes(0).checkpoint_bytes(plan.every << 20);
    let live = plan.live << 20;
    let volume = Volume::create(at.0.clone(), &options)?;
    let churned = churn(io, &volume, plan);
    let (pages, samples) = match churned {
        Ok(churned) => churned,
        Err(e) => {
            close(volume);
            return Err(e);
        }
    };
    if let Some(path) = &plan.svg {
        draw(path, &samples, live)?;
    }
    let checked = check(&at, &options, volume, &pages);
    if samples.len() < SAMPLES_LEAST {
        checked?;
        return Err(Fail::new("it is over too soon to be judged: take more --times, or more --minutes"));
    }
    let judged = Judged::by(&samples, live);
    tell(io, &samples, &judged, live)?;
    checked?;
    match judged.broken() {
        broken if broken.is_empty() => Ok(()),
        broken => Err(Fail::new(format!("it does not stay flat: {}", broken.join("; ")))),
    }
}

/// Fills the volume, and writes.
fn churn(io: &Io, volume: &Volume, plan: &Plan) -> Result<(Pages, Vec<Sample>), Fail> {
    let live = plan.live << 20;
    let mut pages = Pages::make(volume, live)?;
    let ids: Vec<PageId> = pages.all.iter().map(|(page, _)| *page).collect();
    let (over, user) = (AtomicBool::new(false), AtomicU64::new(0));
    let empty = Side::new()?;
    let reads = Mutex::new(empty.clone());
    let begun = Instant::now();
    let most = Duration::from_secs_f64(plan.minutes * 60.0);
    let (until, every) = (begun + most, SAMPLE.min(most / SAMPLES));
    let samples = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(volume, &ids, &reads, &over));
        let writer = scope.spawn(|| write(volume, &mut pages, &user, live * plan.times, until, &over));
        let mut seen = Seen { begun, at: begun, tail: 0, user: 0, device: 0 };
        seen.look(&volume.health(), 0);
        let mut samples = Vec::new();
        let mut said = Ok(());
        while said.is_ok() && !writer.is_finished() && !reader.is_finished() {
            // Short naps, so that it ends with the writer.
            std::thread::sleep(Duration::from_millis(20));
            if seen.at.elapsed() >= every {
                let side = std::mem::replace(&mut *reads.lock(), empty.clone());
                let sample = seen.sample(&volume.health(), user.load(Ordering::Relaxed), &side);
                if io.json {
                    said = io.say(sample.facts(live), "");
                }
                samples.push(sample);
            }
        }
        over.store(true, Ordering::Relaxed);
        for thread in [reader, writer] {
            thread.join().map_err(|_| Fail::new("a thread of the bench panicked: please report this"))??;
        }
        said.map(|()| samples)
    })?;
    Ok((pages, samples))
}

fn write(
    volume: &Volume,
    pages: &mut Pages,
    user: &AtomicU64,
    most: u64,
    until: Instant,
    over: &AtomicBool,
) -> Result<(), Fail> {
    let mut tickets: VecDeque<Commit> = VecDeque::new();
    while user.load(Ordering::Relaxed) < most && Instant::now() < until && !over.load(Ordering::Relaxed) {
        let (ticket, bytes) = pages.write(volume)?;
        tickets.push_back(ticket);
        if tickets.len() >= IN_FLIGHT
            && let Some(ticket) = tickets.pop_front()
        {
            ticket.wait()?;
        }
        user.fetch_add(bytes, Ordering::Relaxed);
    }
    Ok(tickets.into_iter().try_for_each(|ticket| ticket.wait())?)
}

fn read(volume: &Volume, ids: &[PageId], reads: &Mutex<Side>, over: &AtomicBool) -> Result<(), Fail> {
    let mut random = Random::new(2);
    while !over.load(Ordering::Relaxed) {
        let page = ids[(random.next() >> 16) as usize % ids.len()];
        let begun = Instant::now();
        std::hint::black_box(volume.read(page)?);
        reads.lock().one(begun);
        std::thread::sleep(READ_EVERY);
    }
    Ok(())
}

/// What was counted at the last look.
struct Seen {
    begun: Instant,
    at: Instant,
    tail: u64,
    user: u64,
    device: u64,
}

impl Seen {
    /// Seconds, bytes of log, of users and of all slots since the last look.
    fn look(&mut self, health: &Health, user: u64) -> [f64; 4] {
        let (now, tail) = (Instant::now(), health.tail.0);
        let device = health.slots.iter().map(|s| s.bytes_written).sum();
        let since = [tail - self.tail, user - self.user, device - self.device].map(|bytes| bytes as f64);
        let seconds = now.duration_since(self.at).as_secs_f64();
        (self.at, self.tail, self.user, self.device) = (now, tail, user, device);
        [seconds, since[0], since[1], since[2]]
    }

    fn sample(&mut self, health: &Health, user: u64, reads: &Side) -> Sample {
        let [seconds, log, by_user, device] = self.look(health, user);
        let space = &health.space;
        Sample {
            seconds: self.at.duration_since(self.begun).as_secs_f64(),
            allocated: space.allocated,
            live_told: space.live,
            pinned: space.pinned,
            reserve: space.reserve,
            device: health.device_bytes,
            tail: self.tail,
            user,
            log_per_user: log / by_user,
            device_per_user: device / 6.0 / by_user,
            user_per_s: by_user / seconds,
            read_p50: reads.us(0.5),
            read_p99: reads.us(0.99),
        }
    }
}

/// Every page, now and after a close; then the six copies.
fn check(at: &At, options: &Options, volume: Volume, pages: &Pages) -> Result<(), Fail> {
    let checked = pages.check(&volume, "before the close");
    close(volume);
    checked?;
    let volume = Volume::open(at.0.clone(), options)?;
    let checked = pages.check(&volume, "after the close").and_then(|()| {
        let whole = volume.wait_repaired(MOST);
        if whole { Ok(()) } else { Err(Fail::new("the copies are not whole after ten minutes")) }
    });
    close(volume);
    checked?;
    let found = Volume::open_read_only(at.0.clone(), options)?.verify();
    if !found.is_clean() {
        let (differ, unreadable) = (found.differences.len(), found.unreadable.len());
        return Err(Fail::new(format!("verify is not clean: {differ} differences, {unreadable} unreadable")));
    }
    Ok(())
}

fn tell(io: &Io, samples: &[Sample], judged: &Judged, live: u64) -> Result<(), Fail> {
    let last = samples.last();
    let (seconds, user) = last.map_or((0.0, 0), |s| (s.seconds, s.user));
    if io.json {
        let facts = json!({
            "flat": judged.broken().is_empty(), "seconds": seconds, "user": user, "live": live,
            "allocated_by_bound": judged.of_bound, "device_by_bound": judged.device_of_bound, "allocated_x": judged.allocated_x,
            "log_per_user_x": judged.log_per_user_x,
        });
        return io.say(facts, "");
    }
    let [a, b, c, d, e, f, g, h] = ["allocated", "bound", "device", "MB/s", "log x", "slots x", "read p50", "p99 us"];
    io.say(Value::Null, format!("{:<10}{a:>12}{b:>12}{c:>12}{d:>8}{e:>8}{f:>9}{g:>10}{h:>9}", "quarter"))?;
    for n in 0..4 {
        let of = |of: &dyn Fn(&Sample) -> f64| quarter(samples, n, of);
        let bytes = |f: &dyn Fn(&Sample) -> f64| human(of(f) as u64);
        let line = format!(
            "{:<10}{:>12}{:>12}{:>12}{:>8.1}{:>8.2}{:>9.2}{:>10.0}{:>9.0}",
            n + 1,
            bytes(&|s| s.allocated as f64),
            bytes(&|s| s.bound(live)),
            bytes(&|s| s.device as f64),
            of(&|s| s.user_per_s / 1e6),
            of(&|s| s.log_per_user),
            of(&|s| s.device_per_user),
            of(&|s| s.read_p50),
            of(&|s| s.read_p99),
        );
        io.say(Value::Null, line)?;
    }
    let (written, lives) = (human(user), human(live));
    let Judged { of_bound, device_of_bound, allocated_x, log_per_user_x } = judged;
    let summary = format!(
        "{written} written over {lives} in {seconds:.0} s; at most {of_bound:.2} of the bound in the second half, devices \
         {device_of_bound:.2} of theirs; last quarter by the second: allocated {allocated_x:.2}, log per user byte \
         {log_per_user_x:.2}"
    );
    io.say(Value::Null, summary)
}

fn draw(path: &Path, samples: &[Sample], live: u64) -> Result<(), Fail> {
    let line =
        |name, dashed, of: &dyn Fn(&Sample) -> f64| Line { name, values: samples.iter().map(of).collect(), dashed };
    let mb = |bytes: f64| bytes / 1e6;
    let plots = [
        Plot {
            title: "log kept on each slot, MB",
            lines: vec![
                line("allocated", false, &|s| mb(s.allocated as f64)),
                line("1.35 live + pinned + reserve", true, &|s| mb(s.bound(live))),
                line("live", true, &|_| mb(live as f64)),
                line("live, as estimated", false, &|s| mb(s.live_told as f64)),
                line("devices, a slot", false, &|s| mb(s.device as f64 / 6.0)),
            ],
        },
        Plot {
            title: "bytes written for each byte that users write",
            lines: vec![
                line("log", false, &|s| s.log_per_user),
                line("devices, a slot", false, &|s| s.device_per_user),
            ],
        },
        Plot {
            title: "reads of cold pages beside the writes, ms",
            lines: vec![line("p50", false, &|s| s.read_p50 / 1000.0), line("p99", false, &|s| s.read_p99 / 1000.0)],
        },
    ];
    let times: Vec<f64> = samples.iter().map(|s| s.seconds).collect();
    let title = format!("quorate bench churn, {} live", human(live));
    std::fs::write(path, svg::render(&title, &times, &plots)).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: impl Fn(usize) -> (u64, f64)) -> Vec<Sample> {
        let one = |i| {
            let (allocated, log_per_user) = of(i);
            Sample {
                seconds: i as f64,
                allocated,
                live_told: 100,
                pinned: 10,
                reserve: 55,
                device: 0,
                tail: 0,
                user: 0,
                log_per_user,
                device_per_user: 0.0,
                user_per_s: 0.0,
                read_p50: 0.0,
                read_p99: 0.0,
            }
        };
        (0..40).map(one).collect()
    }

    fn broken(of: impl Fn(usize) -> (u64, f64)) -> usize {
        Judged::by(&samples(of), 100).broken().len()
    }

    #[test]
    fn what_does_not_stay_flat_is_told() {
        // The bound is 200.
        assert_eq!(broken(|_| (200, 1.5)), 0);
        assert_eq!(broken(|i| (if i < 20 { 500 } else { 215 }, 1.5)), 0, "the first half is not judged by the bound");
        assert_eq!(broken(|i| (if i == 30 { 230 } else { 200 }, 1.5)), 1, "once is too often");
        assert_eq!(broken(|i| (100 + 3 * i as u64, 1.5)), 1, "it grows, below its bound");
        assert_eq!(broken(|i| (200, 1.0 + i as f64 / 20.0)), 1);
        assert_eq!(broken(|_| (200, f64::NAN)), 1, "nothing was written");
    }

    #[test]
    fn what_devices_hold_too_much_is_told() {
        let with = |device: u64, from: usize| {
            let mut samples = samples(|_| (200, 1.5));
            samples[from..from + 6].iter_mut().for_each(|s| s.device = device);
            Judged::by(&samples, 100).broken()
        };
        let bound = 6 * (200 + AHEAD + 55);
        assert_eq!(with(bound, 30), Vec::<String>::new());
        assert_eq!(with(bound * 3, 10), Vec::<String>::new(), "the first half is not judged");
        assert_eq!(with(bound * 6 / 5, 27), Vec::<String>::new(), "for a while it may be late");
        assert_eq!(with(bound * 6 / 5, 30).len(), 1);
    }
}
