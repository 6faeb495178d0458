//! What the fuzz targets of `fuzz/` run: each takes bytes, and fails by panicking. And what `benches/` need of the inside.
//! No part of the API.
//!
//! The same functions run in `tests/corpus.rs` over the seeds, on a stable compiler. A panic of any thread must end the
//! process: libfuzzer's hook does that, and the test's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a target fails by panicking")]

pub mod alone;
mod api;
pub mod bench;
mod codec;
pub(crate) mod memory;
mod tails;

pub use api::api;
pub use codec::{record, superblock};
pub use tails::tails;

use crate::Options;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A directory in memory that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("quorate-fuzz-{}-{count}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const PAGE: usize = 4096;

fn options() -> Options {
    Options::default()
        .page_size(PAGE as u32)
        .pg_size(64 << 20)
        .checkpoint_bytes(1 << 20)
        .cache_bytes(1 << 20)
        .idle_after(Duration::from_millis(5))
        .stall_max(Duration::from_secs(5))
        .allow_volatile(true)
}

/// Writes the CRC-32 of `bytes`, less its own place at `at`, into them: what is behind a checksum is worth a look too.
fn mend(bytes: &mut [u8], at: usize, seed: u32) {
    if bytes.len() < at + 4 {
        return;
    }
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(&bytes[..at]);
    crc.update(&bytes[at + 4..]);
    bytes[at..at + 4].copy_from_slice(&crc.finalize().to_le_bytes());
}
