//! The fuzz targets over their seeds and a bounded number of mutations of them, on a stable compiler.
//!
//!     cargo test --release --features fuzzing --test corpus
//!
//! `QUORATE_CORPUS_SECONDS` is the time of each target, 2 by default. What fails is left in `target/tmp/corpus-*`: to run
//! it again, put it into `fuzz/corpus/<target>/`.
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

/// One allocation is no longer, whatever the bytes say. A tail file is read whole: 18 MiB.
const ALLOCATION_MAX: usize = 64 << 20;
/// No input takes longer.
const INPUT_MAX: Duration = Duration::from_secs(60);
const LEN_MAX: usize = 33 << 10;

struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

// SAFETY: every call is the system allocator's.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        check(new);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.realloc(at, layout, new) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.dealloc(at, layout) }
    }
}

fn check(size: usize) {
    if size > ALLOCATION_MAX {
        fail("an allocation is too long");
    }
}

/// What each target is running now, and since when.
static RUNNING: Mutex<BTreeMap<&str, (Instant, Vec<u8>)>> = Mutex::new(BTreeMap::new());

/// Leaves the inputs for a second look, and ends the process: a panic may be another thread's than the test's.
fn fail(why: &str) -> ! {
    if let Ok(running) = RUNNING.try_lock() {
        for (target, (_, input)) in &*running {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("corpus-{target}"));
            let _ = std::fs::write(&path, input);
            eprintln!("{why}: {target} was running {}", path.display());
        }
    }
    std::process::abort()
}

/// splitmix64: the same mutations in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.extend((0..self.below(200)).map(|_| self.next() as u8)),
                2 => {
                    let other = &seeds[self.below(seeds.len())];
                    bytes.splice(at.., other[self.below(other.len() + 1)..].iter().copied());
                }
                3 => {
                    let value = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)];
                    let end = bytes.len().min(at + 1 + self.below(8));
                    bytes[at..end].fill(value);
                }
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => bytes.push(self.next() as u8),
            }
        }
        bytes.truncate(LEN_MAX);
        bytes
    }
}

fn run(target: &'static str, function: fn(&[u8])) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            fail("a thread panicked");
        }));
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                if RUNNING.lock().unwrap().values().any(|(since, _)| since.elapsed() > INPUT_MAX) {
                    fail("an input takes too long");
                }
            }
        });
    });
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    // The package has no corpus: mutations of nothing, then.
    let entries = std::fs::read_dir(corpus).map(|d| d.map(|e| e.unwrap().path()).collect::<Vec<PathBuf>>());
    let mut paths = entries.unwrap_or_default();
    paths.sort();
    let mut seeds: Vec<Vec<u8>> = paths.iter().map(|p| std::fs::read(p).unwrap()).collect();
    let one = |input: Vec<u8>| {
        RUNNING.lock().unwrap().insert(target, (Instant::now(), input.clone()));
        function(&input);
        RUNNING.lock().unwrap().remove(target);
    };
    seeds.iter().for_each(|s| one(s.clone()));
    seeds.push(Vec::new());
    let seconds = std::env::var("QUORATE_CORPUS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = Random(1);
    let mut count = 0;
    while Instant::now() < end {
        one(random.mutate(&seeds));
        count += 1;
    }
    println!("{target}: {} seeds, {count} mutations", seeds.len() - 1);
}

#[test]
fn record() {
    run("record", quorate::fuzzing::record);
}

#[test]
fn superblock() {
    run("superblock", quorate::fuzzing::superblock);
}

#[test]
fn tails() {
    run("tails", quorate::fuzzing::tails);
}

#[test]
fn api() {
    run("api", quorate::fuzzing::api);
}
