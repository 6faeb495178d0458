//! `quorate bench heal`: how fast healing is, beside what a plain program reaches on the same disks, in the same run.
//!
//! It makes a volume of its own, wipes AZ 0 of it again and again, and removes everything. Rounds of both sides take turns.
//!
//! Floor of a rebuild: one copy's segments read in order and written to two new files in AZ 0, space allocated first, by
//! one thread, O_DIRECT, 1 MiB a call, `fdatasync` at the end. Floor of a scrub: the six slots' segments read in order, one
//! after the other, by one thread, O_DIRECT, 1 MiB a call. Nothing is checked, compared or copied in memory. Each floor is
//! measured twice: with a buffer in a huge page, as healing's are, and with one in ordinary pages, as `dd` and most programs
//! have it. A disk may take a call from ordinary pages in pieces: then that floor is the lower one.
//!
//! Healing begins when both slots are back and the disk has discarded what was removed: neither side pays for that.
//!
//! The volume is filled by a process of its own, so that the memory that healing takes is seen.

use crate::bench::child;
use crate::bench::{Random, Side, group, patch};
use crate::common::{At, Fail, Io, at, close};
use memmap2::MmapMut;
use quorate::{PageId, Placement, Volume};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of one call of a floor.
const CHUNK: usize = 1 << 20;
/// A huge page: the chunk lies in one, where there are any.
const HUGE: usize = 2 << 20;
/// Between two looks at the volume.
const POLL: Duration = Duration::from_millis(5);
/// A device that has discarded nothing for so long has nothing more to discard.
const CALM: Duration = Duration::from_millis(500);
/// What takes longer is not waited for.
const MOST: Duration = Duration::from_secs(1800);
/// Nothing of the process that filled the volume is waited for any more.
const QUIET: Duration = Duration::from_secs(12);

/// Directories of the bench's own, removed when it ends, however it ends.
pub struct Places(Vec<PathBuf>);

impl Places {
    /// One in each of these.
    pub fn make(under: &At) -> Result<(Places, At), Fail> {
        let mut places = Places(Vec::new());
        for path in under.0.paths() {
            let place = path.join(format!("quorate-bench-{}", std::process::id()));
            std::fs::create_dir(&place).map_err(at(&place))?;
            places.0.push(place);
        }
        let paths = places.0.clone();
        Ok((places, At(Placement::new(paths))))
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for place in &self.0 {
            let _ = std::fs::remove_dir_all(place);
        }
    }
}

/// What one round has measured; bytes a second, microseconds.
#[derive(Default)]
struct Figures {
    floor_copy: Vec<f64>,
    plain_copy: Vec<f64>,
    rebuild: Vec<f64>,
    until_whole: Vec<f64>,
    floor_read: Vec<f64>,
    plain_read: Vec<f64>,
    scrub: Vec<f64>,
    p99_alone: Vec<f64>,
    p99_beside: Vec<f64>,
    per_s_alone: Vec<f64>,
    per_s_beside: Vec<f64>,
    /// Bytes a second of log, by slot, that were rebuilt beside commits.
    rebuild_beside: Vec<f64>,
    memory: u64,
}

/// The middle one.
pub fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    let at = |n: usize| all.get(n).copied().unwrap_or(f64::NAN);
    (at(all.len() / 2) + at(all.len().saturating_sub(1) / 2)) / 2.0
}

/// The median of the rounds' own ratios.
pub fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())
}

impl Figures {
    fn say(&self, io: &Io, bytes: u64) -> Result<(), Fail> {
        let (rebuild, scrub) = (ratio(&self.rebuild, &self.floor_copy), ratio(&self.scrub, &self.floor_read));
        let plain = [ratio(&self.rebuild, &self.plain_copy), ratio(&self.scrub, &self.plain_read)];
        let p99 = ratio(&self.p99_beside, &self.p99_alone);
        if io.json {
            let facts = json!({
                "log_bytes": bytes, "rounds": self.rebuild.len(),
                "rebuild_per_s": median(&self.rebuild), "floor_copy_per_s": median(&self.floor_copy),
                "rebuild_x": rebuild, "plain_copy_per_s": median(&self.plain_copy), "rebuild_plain_x": plain[0],
                "whole_after_s": median(&self.until_whole),
                "scrub_per_s": median(&self.scrub), "floor_read_per_s": median(&self.floor_read), "scrub_x": scrub,
                "plain_read_per_s": median(&self.plain_read), "scrub_plain_x": plain[1],
                "commit_p99_us": median(&self.p99_alone), "commit_p99_beside_us": median(&self.p99_beside),
                "commit_p99_x": p99, "commits_per_s": median(&self.per_s_alone),
                "commits_beside_per_s": median(&self.per_s_beside),
                "rebuild_beside_per_s": median(&self.rebuild_beside), "memory_bytes": self.memory,
            });
            return io.say(facts, "");
        }
        let mib = |all: &[f64]| median(all) / f64::from(1 << 20);
        let line = |text: String| io.say(Value::Null, text);
        line(format!("{:<21}{:>14}{:>14}{:>9}{:>14}{:>9}", "", "healing", "floor", "x", "small pages", "x"))?;
        let [copied, read] = plain;
        let (a, b, c) = (mib(&self.rebuild), mib(&self.floor_copy), mib(&self.plain_copy));
        line(format!(
            "{:<21}{a:>10.0} MiB{b:>10.0} MiB{rebuild:>9.2}{c:>10.0} MiB{copied:>9.2}",
            "rebuild two, per s"
        ))?;
        let (a, b, c) = (mib(&self.scrub), mib(&self.floor_read), mib(&self.plain_read));
        line(format!("{:<21}{a:>10.0} MiB{b:>10.0} MiB{scrub:>9.2}{c:>10.0} MiB{read:>9.2}", "scrub six, per s"))?;
        let (a, b) = (median(&self.p99_beside), median(&self.p99_alone));
        line(format!("{:<21}{a:>11.0} us{b:>11.0} us{p99:>9.2}", "commit_16 p99"))?;
        let (a, b) = (median(&self.per_s_beside), median(&self.per_s_alone));
        line(format!("{:<21}{a:>14.0}{b:>14.0}{:>9.2}", "commit_16 per s", a / b))?;
        line(format!("{:<21}{:>10.0} MiB", "rebuild beside, per s", mib(&self.rebuild_beside)))?;
        line(format!("{:<21}{:>12.1} s", "whole after", median(&self.until_whole)))?;
        line(format!("{:<21}{:>10.1} MiB", "memory", self.memory as f64 / f64::from(1 << 20)))
    }
}

/// Samples the process's resident memory until it is told to stop.
struct Memory {
    stop: AtomicBool,
    most: AtomicU64,
}

/// Discards that a device has done; none where nothing tells.
fn discards(device: u64) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    stat.split_whitespace().nth(11)?.parse().ok()
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

impl Memory {
    fn watch(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.most.fetch_max(resident(), Ordering::Relaxed);
            std::thread::sleep(POLL / 2);
        }
    }
}

struct Bench<'a> {
    volume: &'a Volume,
    at: &'a At,
    places: &'a Places,
    huge: MmapMut,
    plain: MmapMut,
    page_size: usize,
    pages: Vec<PageId>,
    time: Duration,
    figures: Figures,
}

/// Runs it on a volume of so many MiB, below the given directories.
pub fn run(io: &Io, under: &At, mib: u64, rounds: u32, seconds: u64) -> Result<(), Fail> {
    let (places, at) = Places::make(under)?;
    close(Volume::create(at.0.clone(), &io.options)?);
    child::fill(io, &at, mib)?;
    let volume = io.open(&at)?;
    let page_size = volume.health().page_size as usize;
    let buffer = |len, advice| {
        let map = MmapMut::map_anon(len).map_err(|e| Fail::new(format!("memory: {e}")))?;
        // A kernel without huge pages knows neither: it is memory all the same.
        let _ = map.advise(advice);
        Ok::<_, Fail>(map)
    };
    let pages = ((mib << 20) / page_size as u64).min(4096);
    let mut bench = Bench {
        volume: &volume,
        at: &at,
        places: &places,
        huge: buffer(HUGE, memmap2::Advice::HugePage)?,
        plain: buffer(CHUNK, memmap2::Advice::NoHugePage)?,
        page_size,
        pages: (1..pages).map(PageId).collect(),
        time: Duration::from_secs(seconds),
        figures: Figures::default(),
    };
    let measured = bench.measure(rounds);
    let (figures, tail) = (std::mem::take(&mut bench.figures), volume.health().tail.0);
    close(volume);
    measured?;
    figures.say(io, tail)
}

impl Bench<'_> {
    fn measure(&mut self, rounds: u32) -> Result<(), Fail> {
        std::thread::sleep(QUIET);
        self.whole()?;
        self.huge.fill(1);
        self.plain.fill(1);
        let before = resident();
        let memory = Memory { stop: AtomicBool::new(false), most: AtomicU64::new(before) };
        std::thread::scope(|scope| {
            scope.spawn(|| memory.watch());
            let done = (0..rounds).try_for_each(|_| self.idle());
            memory.stop.store(true, Ordering::Relaxed);
            done
        })?;
        self.figures.memory = memory.most.into_inner() - before;
        (0..rounds).try_for_each(|_| self.busy())
    }

    /// Nothing is left to be healed.
    fn whole(&self) -> Result<(), Fail> {
        let begun = Instant::now();
        while !self.volume.wait_repaired(Duration::from_secs(1)) {
            if begun.elapsed() > MOST {
                return Err(Fail::new("the volume does not get whole: please report this"));
            }
        }
        Ok(())
    }

    /// AZ 0 lacks something.
    fn lacks(&self) -> bool {
        self.volume.health().slots.iter().take(2).any(|s| s.away.is_some() || !s.gaps.is_empty())
    }

    fn until(&self, what: &str, is: impl Fn() -> bool) -> Result<(), Fail> {
        let begun = Instant::now();
        while !is() {
            if begun.elapsed() > MOST {
                return Err(Fail::new(format!("{what} takes too long: please report this")));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// AZ 0's slots are gone, and blank ones are taken for them. Healing is paused: both are rebuilt from its going on.
    fn wipe(&self) -> Result<(), Fail> {
        self.volume.pause_repair(true);
        for slot in &self.at.slots()[..2] {
            std::fs::remove_dir_all(slot).map_err(at(slot))?;
        }
        let back = || self.volume.health().slots[..2].iter().all(|s| s.away.is_none() && !s.gaps.is_empty());
        self.until("the blank AZ's return", back)?;
        self.freed()
    }

    /// What was removed is given back to the disk now (discards wait for a sync), and not while something is measured.
    fn freed(&self) -> Result<(), Fail> {
        for place in &self.places.0 {
            let synced = std::fs::File::open(place).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
            synced.map_err(at(place))?;
            // ext4 discards in the background.
            let device = std::fs::metadata(place).map_err(at(place))?.dev();
            let (begun, mut since, mut seen) = (Instant::now(), Instant::now(), discards(device));
            while seen.is_some() && since.elapsed() < CALM && begun.elapsed() < MOST {
                std::thread::sleep(POLL);
                let now = discards(device);
                if now != seen {
                    (since, seen) = (Instant::now(), now);
                }
            }
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<(), Fail> {
        let bytes = self.volume.health().tail.0 as f64;
        let [plain, huge] = [self.floor_copy(false)?, self.floor_copy(true)?];
        self.figures.plain_copy.push(bytes / plain.as_secs_f64());
        self.figures.floor_copy.push(bytes / huge.as_secs_f64());
        self.wipe()?;
        self.volume.pause_repair(false);
        let begun = Instant::now();
        self.until("the rebuild", || !self.lacks())?;
        self.figures.rebuild.push(bytes / begun.elapsed().as_secs_f64());
        self.whole()?;
        self.figures.until_whole.push(begun.elapsed().as_secs_f64());
        let [plain, huge] = [self.floor_read(false)?, self.floor_read(true)?];
        self.figures.plain_read.push(6.0 * bytes / plain.as_secs_f64());
        self.figures.floor_read.push(6.0 * bytes / huge.as_secs_f64());
        let scrubs = self.volume.health().repair.scrubs;
        let begun = Instant::now();
        self.volume.scrub();
        self.until("the scrub", || self.volume.health().repair.scrubs > scrubs)?;
        self.figures.scrub.push(6.0 * bytes / begun.elapsed().as_secs_f64());
        self.whole()
    }

    /// Commits alone, then while AZ 0 is rebuilt.
    fn busy(&mut self) -> Result<(), Fail> {
        let alone = self.load()?;
        self.figures.p99_alone.push(alone.us(0.99));
        self.figures.per_s_alone.push(alone.per_s());
        self.wipe()?;
        // It begins with the commits, and not before.
        let left = self.volume.health().repair.bytes_left;
        self.volume.pause_repair(false);
        let begun = Instant::now();
        let beside = self.load()?;
        let done = left.saturating_sub(self.volume.health().repair.bytes_left);
        if !self.lacks() {
            return Err(Fail::new("the rebuild was over before the commits: take more --gib, or fewer --seconds"));
        }
        self.figures.rebuild_beside.push(done as f64 / 2.0 / begun.elapsed().as_secs_f64());
        self.figures.p99_beside.push(beside.us(0.99));
        self.figures.per_s_beside.push(beside.per_s());
        self.whole()
    }

    /// Sixteen threads, each one commit after the other.
    fn load(&self) -> Result<Side, Fail> {
        let mut side = Side::new()?;
        let begun = Instant::now();
        let until = begun + self.time;
        group::threads(&mut side, |i, side| {
            let mut random = Random::new(i + 1);
            while Instant::now() < until {
                let begun = Instant::now();
                patch(self.volume, &self.pages, self.page_size, &mut random)?.wait()?;
                side.one(begun);
            }
            Ok(())
        })?;
        side.took = begun.elapsed();
        Ok(side)
    }

    /// A slot's segments, and how much of each is log.
    fn segments(&self, slot: usize) -> Result<Vec<(OwnedFd, u64)>, Fail> {
        let health = self.volume.health();
        let mut segments = Vec::new();
        for (i, begin) in (0..health.tail.0).step_by(health.pg_size as usize).enumerate() {
            let path = self.at.slots()[slot].join(format!("seg-{i:08x}"));
            segments.push((direct(&path, OFlags::RDONLY)?, (health.tail.0 - begin).min(health.pg_size)));
        }
        Ok(segments)
    }

    fn floor_copy(&mut self, huge: bool) -> Result<Duration, Fail> {
        self.freed()?;
        let segments = self.segments(2)?;
        let az = self.places.0[0].join(if self.places.0.len() == 1 { "az-0" } else { "." });
        let paths = ["floor-0", "floor-1"].map(|name| az.join(format!("lock-{name}")));
        let copies = paths.each_ref().map(|path| direct(path, OFlags::RDWR | OFlags::CREATE));
        let [first, second] = copies;
        let copies = [first?, second?];
        let buffer = if huge { &mut self.huge[..CHUNK] } else { &mut self.plain[..] };
        let begun = Instant::now();
        let mut to = 0;
        let fail = |e: rustix::io::Errno| Fail::new(format!("the floor's copy: {e}"));
        for (segment, len) in &segments {
            for copy in &copies {
                match rustix::fs::fallocate(copy, FallocateFlags::empty(), to, *len) {
                    Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => (),
                    Err(e) => return Err(fail(e)),
                }
            }
            for from in (0..*len).step_by(CHUNK) {
                let n = rustix::io::pread(segment, &mut *buffer, from).map_err(fail)?;
                // Space that was allocated ahead of the log may end within the last chunk.
                for copy in &copies {
                    if rustix::io::pwrite(copy, &buffer[..n], to).map_err(fail)? != n {
                        return Err(Fail::new("the floor's copy: a short write"));
                    }
                }
                to += n as u64;
            }
        }
        for copy in &copies {
            rustix::fs::fdatasync(copy).map_err(fail)?;
        }
        let took = begun.elapsed();
        for path in &paths {
            std::fs::remove_file(path).map_err(at(path))?;
        }
        Ok(took)
    }

    fn floor_read(&mut self, huge: bool) -> Result<Duration, Fail> {
        let slots = (0..6).map(|slot| self.segments(slot)).collect::<Result<Vec<_>, Fail>>()?;
        let buffer = if huge { &mut self.huge[..CHUNK] } else { &mut self.plain[..] };
        let begun = Instant::now();
        for (segment, len) in slots.iter().flatten() {
            for from in (0..*len).step_by(CHUNK) {
                let read = rustix::io::pread(segment, &mut *buffer, from);
                read.map_err(|e| Fail::new(format!("the floor's reads: {e}")))?;
            }
        }
        Ok(begun.elapsed())
    }
}

/// Opens past the page cache, where there is a way.
fn direct(path: &Path, flags: OFlags) -> Result<OwnedFd, Fail> {
    let open = |flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from(0o600));
    let opened = open(flags | OFlags::DIRECT).or_else(|_| open(flags));
    opened.map_err(|e| Fail::new(format!("{}: {e}", path.display())))
}
