//! What every engine is asked to do, and what it is opened with.

use anyhow::Result;
use std::path::PathBuf;

/// Keys from here on have values of [`SMALL_BYTES`], those below have pages.
pub const SMALL: u64 = 1 << 40;
/// Small keys that there are.
pub const SMALL_KEYS: u64 = 1 << 16;
/// Bytes of a small value.
pub const SMALL_BYTES: usize = 100;
/// Bytes of a page.
pub const PAGE: usize = 16 << 10;

/// How an engine is opened.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Directories of the engine's own, which are there: one, or three. Who keeps one copy lives in the first.
    pub dirs: Vec<PathBuf>,
    /// Bytes of its cache. Who has no cache of its own is left to the kernel's.
    pub cache: u64,
    /// Nothing is checkpointed or flushed by itself while the log is short of 512 MiB, where that can be set.
    pub keep_log: bool,
    /// Without: no io_uring, where that can be set, so that `strace` sees all writes.
    pub uring: bool,
}

/// Waits until a commit is durable.
pub type Ticket<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// An open engine. What returns `Ok` is on the disk.
pub trait Peer: Sync {
    /// Writes all of it, durable as one.
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()>;

    /// Writes one, durable.
    fn commit(&self, key: u64, value: &[u8]) -> Result<()> {
        self.commit_batch(&[(key, value)])
    }

    /// Writes one, durable once the ticket has waited. None if the engine has no such thing; then nothing is written.
    fn submit(&self, key: u64, value: &[u8]) -> Result<Option<Ticket<'_>>> {
        let _ = (key, value);
        Ok(None)
    }

    /// Shows the value, which must be there, without a copy of the adapter's own.
    fn get(&self, key: u64, see: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Ends as a program that is done with it does.
    fn close(self: Box<Self>) -> Result<()>;
}

/// What is known of an engine without opening it.
pub struct Kind {
    /// Its name, on the command line and in tables.
    pub name: &'static str,
    /// Opens it, or makes it where it is not there.
    pub open: fn(&Setup) -> Result<Box<dyn Peer>>,
    /// Commits of many threads share writes without the harness' help, by design. The harness' group commit is left out
    /// only for those for whom it would measure the same thing twice.
    pub groups: bool,
    /// What it reads comes from where its other values are. The floor has no keys.
    pub reads: bool,
    /// It finds its data again.
    pub reopens: bool,
}
