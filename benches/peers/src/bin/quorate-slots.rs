//! What two ill slots cost: commits while one slot's file system hangs and another one's device takes 50 ms for a write, and
//! cold reads while one slot's device is slow. `slots.sh` makes the disks.
#![allow(missing_docs, reason = "a program")]

use anyhow::{Context, Result, ensure};
use clap::Parser;
use quorate::{Options, PageId, Placement, Slot, Volume};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Cli {
    /// One directory, or three with commas between.
    #[arg(long, value_delimiter = ',', required = true)]
    at: Vec<PathBuf>,
    /// A mount of its own: slot 1 is put there, and hangs.
    #[arg(long)]
    hang: PathBuf,
    /// Another one: slot 3 is put there, and is slow.
    #[arg(long)]
    slow: PathBuf,
    /// Its device, as `major:minor`.
    #[arg(long)]
    device: String,
    /// A group of blkio (cgroup 1), in which this process is.
    #[arg(long)]
    group: PathBuf,
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// Writes and reads a second that the slow device does.
const SLOW_WRITES: u64 = 20;
const SLOW_READS: u64 = 200;
/// Pages of the volume.
const PAGES: usize = 4096;
const PAGE: usize = 16 << 10;

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// p50 and p99, in microseconds.
fn quantiles(mut all: Vec<Duration>) -> [f64; 2] {
    all.sort_unstable();
    [0.5, 0.99].map(|q| all.get((all.len() as f64 * q) as usize).map_or(f64::NAN, |d| d.as_secs_f64() * 1e6))
}

fn frozen(at: &Path, freeze: bool) -> Result<()> {
    let how = if freeze { "-f" } else { "-u" };
    let status = std::process::Command::new("fsfreeze").arg(how).arg(at).status()?;
    ensure!(status.success(), "fsfreeze {how} {}", at.display());
    Ok(())
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Threads commit for so long; then `heal` is called, and only then they end: the kernel holds a thread that ends while a
/// write hangs that it submitted.
fn commits(
    volume: &Volume,
    pages: &[PageId],
    threads: u64,
    time: Duration,
    heal: impl FnOnce() -> Result<()>,
) -> Result<[f64; 2]> {
    let until = Instant::now() + time;
    let one = |i: u64| {
        let (mut random, mut took) = (Random(i * 7919 + 1), Vec::new());
        while Instant::now() < until {
            let begun = Instant::now();
            let mut mtr = volume.begin();
            let at = (random.next() % (PAGE as u64 - 100)) as u32;
            mtr.patch(pages[(random.next() % pages.len() as u64) as usize], at, &[i as u8; 100]);
            ensure!(mtr.commit()?.wait_for(Duration::from_secs(20))?, "a commit takes more than 20 s");
            took.push(begun.elapsed());
        }
        Ok(took)
    };
    let (send, receive) = std::sync::mpsc::channel();
    let all = std::thread::scope(|scope| {
        for i in 0..threads {
            let send = send.clone();
            scope.spawn(move || send.send(one(i)));
        }
        drop(send);
        let mut all = Vec::new();
        let mut failed = None;
        for _ in 0..threads {
            match receive.recv_timeout(time + Duration::from_secs(30)) {
                Ok(Ok(took)) => all.extend(took),
                Ok(Err(e)) => failed = Some(e),
                Err(e) => failed = Some(e.into()),
            }
        }
        heal()?;
        failed.map_or(Ok(all), Err)
    })?;
    Ok(quantiles(all))
}

/// ... while one slot hangs, and one is slow.
fn ill(cli: &Cli, volume: &Volume, pages: &[PageId], threads: u64, time: Duration) -> Result<[f64; 2]> {
    limit(cli, "write", SLOW_WRITES)?;
    frozen(&cli.hang, true)?;
    let measured = commits(volume, pages, threads, time, || {
        frozen(&cli.hang, false)?;
        limit(cli, "write", 0)
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    while volume.health().slots.iter().any(|s| s.away.is_some()) {
        ensure!(Instant::now() < deadline, "the slots are not back within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(volume.wait_repaired(Duration::from_secs(60)), "the volume is not whole within a minute");
    measured
}

/// Each page once at most, with as small a cache as there is.
fn reads(at: &Placement, pages: &[PageId], time: Duration, seed: u64) -> Result<[f64; 2]> {
    let reader = Volume::open_read_only(at.clone(), &Options::default().cache_bytes(0))?;
    let view = reader.view();
    let (mut random, mut took, until) = (Random(seed * 31 + 7), Vec::new(), Instant::now() + time);
    while Instant::now() < until {
        let page = pages[(random.next() % pages.len() as u64) as usize];
        let begun = Instant::now();
        std::hint::black_box(view.read(page)?);
        took.push(begun.elapsed());
    }
    Ok(quantiles(took))
}

/// So many reads or writes a second on the slow device; 0: as many as it does.
fn limit(cli: &Cli, what: &str, a_second: u64) -> Result<()> {
    let to = cli.group.join(format!("blkio.throttle.{what}_iops_device"));
    std::fs::write(&to, format!("{} {a_second}\n", cli.device)).with_context(|| to.display().to_string())
}

fn tell(name: &str, healthy: Vec<[f64; 2]>, ill: Vec<[f64; 2]>) {
    let of = |all: &[[f64; 2]], q: usize| median(all.iter().map(|r| r[q]).collect());
    let ratio = |q: usize| median(healthy.iter().zip(&ill).map(|(h, i)| i[q] / h[q]).collect());
    let (h, i) = ([of(&healthy, 0), of(&healthy, 1)], [of(&ill, 0), of(&ill, 1)]);
    println!("| {name} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} |", h[0], h[1], i[0], i[1], ratio(0), ratio(1));
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let time = Duration::from_secs_f64(cli.seconds);
    let options = Options::default();
    let dirs: Vec<PathBuf> = cli.at.iter().map(|d| d.join(format!("slots-{}", std::process::id()))).collect();
    for dir in &dirs {
        std::fs::create_dir(dir).with_context(|| dir.display().to_string())?;
    }
    let at = Placement::new(dirs.clone());
    let volume = Volume::create(at.clone(), &options)?;
    let (mut pages, mut random) = (Vec::new(), Random(3));
    while pages.len() < PAGES {
        let mut mtr = volume.begin();
        for _ in 0..32 {
            let page = mtr.alloc()?;
            mtr.put(page, (0..PAGE / 8).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>());
            pages.push(page);
        }
        mtr.commit()?.wait()?;
    }
    for (slot, mount) in [(1, &cli.hang), (3, &cli.slow)] {
        let place = mount.join("slot");
        std::fs::create_dir(&place).with_context(|| place.display().to_string())?;
        volume.replace(Slot(slot), &place)?;
    }
    ensure!(volume.wait_repaired(Duration::from_secs(60)), "the volume is not whole within a minute");
    println!("| | healthy p50, µs | p99 | ill p50, µs | p99 | p50 x | p99 x |\n|---|---:|---:|---:|---:|---:|---:|");
    let mut all: [(Vec<[f64; 2]>, Vec<[f64; 2]>); 3] = Default::default();
    for round in 0..=cli.rounds {
        for (i, threads) in [1, 16].into_iter().enumerate() {
            let (healthy, ill) =
                (commits(&volume, &pages, threads, time, || Ok(()))?, ill(&cli, &volume, &pages, threads, time)?);
            // The first one warms up.
            if round > 0 {
                all[i].0.push(healthy);
                all[i].1.push(ill);
            }
        }
    }
    let [one, sixteen, mut cold] = all;
    tell("commit, 1 thread: one slot hangs, one does 20 writes a second", one.0, one.1);
    tell("commit, 16 threads", sixteen.0, sixteen.1);
    volume.close()?;
    {
        // Whole pages again: a page with changes is read record by record.
        let volume = Volume::open(at.clone(), &options)?;
        for chunk in pages.chunks(32) {
            let mut mtr = volume.begin();
            for page in chunk {
                mtr.put(*page, (0..PAGE / 8).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>());
            }
            mtr.commit()?.wait()?;
        }
        volume.close()?;
        for round in 0..cli.rounds {
            limit(&cli, "read", 0)?;
            cold.0.push(reads(&at, &pages, time, round as u64)?);
            limit(&cli, "read", SLOW_READS)?;
            cold.1.push(reads(&at, &pages, time, round as u64)?);
        }
        limit(&cli, "read", 0)?;
        tell("cold read: one slot's device does 200 reads a second", cold.0, cold.1);
    }
    for dir in &dirs {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
}
