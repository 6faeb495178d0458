//! How a volume is created and opened.

use crate::history::past::Window;
use crate::lsn::format;
use crate::page::manifest;
use crate::volume::error::OpenError;
use crate::volume::event::Event;
use std::sync::Arc;
use std::time::Duration;

/// How a volume is created and opened. What is fixed at creation is ignored when opening.
///
/// ```
/// use quorate::Options;
/// let options = Options::default().page_size(8 << 10).cache_bytes(16 << 20);
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) page_size: u32,
    pub(crate) pg_size: u64,
    pub(crate) max_bytes: u64,
    pub(crate) reclaim: bool,
    /// What is emptied and given back at once: an extent, but for simulated volumes, whose lives are short.
    pub(crate) reclaim_unit: u64,
    /// See [`manifest::ENTRIES_TOLD`]; few in simulated volumes.
    pub(crate) epochs_told: usize,
    /// Threads that read what is asked of pages then; one in simulated volumes.
    pub(crate) reclaim_readers: usize,
    /// A checkpoint writes all leaves where that takes no more than this part of `checkpoint_bytes`.
    pub(crate) leaves_share: u64,
    pub(crate) cache_bytes: u64,
    pub(crate) stall_max: Duration,
    pub(crate) idle_after: Duration,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) overlay_bytes: u64,
    pub(crate) view_time: Duration,
    pub(crate) view_bytes: u64,
    /// None: as the volume has it.
    pub(crate) window: Option<Window>,
    pub(crate) allow_volatile: bool,
    pub(crate) allow_remote: bool,
    pub(crate) io_uring: bool,
    /// Bytes that are zeroed ahead of the log at once; 0: nothing is.
    pub(crate) zero_chunk: u64,
    pub(crate) merge_after: Duration,
    pub(crate) repair_share: u32,
    pub(crate) scrub_period: Duration,
    pub(crate) on_event: Option<OnEvent>,
}

/// A callback for events.
#[derive(Clone)]
pub(crate) struct OnEvent(pub(crate) Arc<dyn Fn(&Event) + Send + Sync>);

impl std::fmt::Debug for OnEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a callback")
    }
}

/// After so long nothing of a killed process is left that has not reached the kernel's file layer, where a drain waits
/// for it. Measured: 3.5 s. Until then, and while its lock is held, nothing is merged.
const MERGE_AFTER: Duration = Duration::from_secs(10);

/// As much as a log can hold: more of anything is none.
const MOST_BYTES: u64 = format::EXTENTS_MAX * format::EXTENT;

/// A time that is not waited for.
pub(crate) const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Bytes that are zeroed ahead of the log at once.
const ZERO_CHUNK: u64 = 256 << 10;

impl Default for Options {
    fn default() -> Options {
        Options {
            page_size: 16 << 10,
            pg_size: format::PG_DEFAULT,
            max_bytes: format::EXTENTS_MAX * format::EXTENT,
            reclaim: true,
            reclaim_unit: format::EXTENT,
            epochs_told: manifest::ENTRIES_TOLD,
            reclaim_readers: 8,
            leaves_share: 64,
            cache_bytes: 64 << 20,
            stall_max: Duration::from_secs(30),
            idle_after: Duration::from_millis(200),
            checkpoint_bytes: 64 << 20,
            overlay_bytes: 64 << 20,
            view_time: Duration::from_secs(24 * 3600),
            view_bytes: format::PG_DEFAULT,
            window: None,
            allow_volatile: false,
            allow_remote: false,
            io_uring: true,
            zero_chunk: ZERO_CHUNK,
            merge_after: MERGE_AFTER,
            repair_share: 12,
            scrub_period: Duration::from_secs(7 * 24 * 3600),
            on_event: None,
        }
    }
}

impl Options {
    /// Bytes of a page: a power of two from 4 KiB to 64 KiB, 16 KiB by default. Fixed at creation.
    pub fn page_size(mut self, bytes: u32) -> Options {
        self.page_size = bytes;
        self
    }

    /// Bytes of a protection group, the unit in which files are made: a multiple of 64 MiB up to 1 TiB, 10 GiB by default.
    /// A small one is for small devices and for tests. Fixed at creation.
    pub fn pg_size(mut self, bytes: u64) -> Options {
        self.pg_size = bytes;
        self
    }

    /// What the log may hold, of one copy: 64 TiB by default, and never more; at least 128 MiB. The disks hold six times
    /// as much in all. It is counted in extents of 64 MiB, begun ones as whole. Beyond it a commit gets
    /// [`WriteError::VolumeFull`](crate::WriteError::VolumeFull) before anything of it is accepted, but for one that
    /// only frees pages. Reading, closing and opening go on: what a checkpoint writes is not held back, and may take the
    /// log past the limit.
    ///
    /// It is no property of the volume: whoever opens it next may set another.
    ///
    /// ```
    /// use quorate::{Options, PageId, Volume, WriteError};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let at = dir.path();
    /// let small = Options::default().max_bytes(128 << 20);
    /// let volume = Volume::create(at, &small)?;
    /// assert_eq!((volume.health().log_bytes, volume.health().log_bytes_max), (64 << 20, 128 << 20));
    /// # volume.close()?;
    /// # Ok(()) }
    /// ```
    pub fn max_bytes(mut self, bytes: u64) -> Options {
        self.max_bytes = bytes;
        self
    }

    /// Memory for cached page versions and table nodes: 64 MiB by default, never less than 64 pages.
    pub fn cache_bytes(mut self, bytes: u64) -> Options {
        self.cache_bytes = bytes.min(MOST_BYTES);
        self
    }

    /// How long commits wait with fewer than four slots before they end in
    /// [`WriteError::Unknown`](crate::WriteError::Unknown): 30 s by default, at least one, which a healthy disk may take.
    pub fn stall_max(mut self, time: Duration) -> Options {
        self.stall_max = time.max(Duration::from_secs(1));
        self
    }

    /// After so long without a commit a filler is written that speaks for the last one: 200 ms by default.
    pub fn idle_after(mut self, time: Duration) -> Options {
        self.idle_after = time;
        self
    }

    /// Log between checkpoints: 64 MiB by default. An open after a crash reads about so much.
    pub fn checkpoint_bytes(mut self, bytes: u64) -> Options {
        self.checkpoint_bytes = bytes.clamp(format::FRAME, MOST_BYTES);
        self
    }

    /// How long a [`View`](crate::View) may be kept, and how many bytes of the log open views may keep from being given back:
    /// 24 hours and 10 GiB by default. Beyond either the oldest view is revoked: its reads give
    /// [`ReadError::ReadPointGone`](crate::ReadError::ReadPointGone).
    ///
    /// ```
    /// # use quorate::{Options, PageId, ReadError, Volume};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// let volume = Volume::create(dir.path(), &Options::default().view_max(Duration::from_millis(50), 1 << 30))?;
    /// let view = volume.view();
    /// assert!(view.read(PageId::ROOT).is_ok());
    /// std::thread::sleep(Duration::from_secs(1));
    /// assert!(matches!(view.read(PageId::ROOT), Err(ReadError::ReadPointGone(_))));
    /// assert!(volume.view().read(PageId::ROOT).is_ok());
    /// # volume.close()?;
    /// # Ok(()) }
    /// ```
    pub fn view_max(mut self, time: Duration, bytes: u64) -> Options {
        (self.view_time, self.view_bytes) = (time, bytes);
        self
    }

    /// States of the past are kept for so long, and while they hold no more than so many bytes of the log, of one copy: the
    /// bytes win, and [`HistoryHealth::cut_short`](crate::HistoryHealth::cut_short) tells.
    /// [`Volume::backtrack`](crate::Volume::backtrack) goes back to any of them. Off at first; the volume remembers it, and no time turns it off.
    ///
    /// ```
    /// # use quorate::{Options, PageId, Volume};
    /// # use std::time::{Duration, SystemTime};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// let day = Duration::from_secs(24 * 3600);
    /// let volume = Volume::create(dir.path(), &Options::default().window(day, 10 << 30))?;
    /// let before = SystemTime::now();
    /// let mut mtr = volume.begin();
    /// mtr.patch(PageId::ROOT, 0, b"a mistake");
    /// mtr.commit()?.wait()?;
    /// volume.backtrack(before)?;
    /// assert_eq!(volume.read(PageId::ROOT)?[0], 0);
    /// # volume.close()?;
    /// # Ok(()) }
    /// ```
    pub fn window(mut self, time: Duration, bytes: u64) -> Options {
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.window = Some(Window { time_us, bytes });
        self
    }

    /// Memory for what changed since the last checkpoint, for what open views hold, and for changes that the page table has
    /// not sorted in yet: 64 MiB by default, for each of the three. Beyond it a checkpoint begins early, the oldest views are
    /// revoked, and checkpoints write more.
    pub fn overlay_bytes(mut self, bytes: u64) -> Options {
        self.overlay_bytes = bytes.clamp(1 << 20, MOST_BYTES);
        self
    }

    /// Allows directories whose contents do not survive a restart (tmpfs): for tests and caches.
    pub fn allow_volatile(mut self, allow: bool) -> Options {
        self.allow_volatile = allow;
        self
    }

    /// Allows file systems on other machines and in user space (NFS, FUSE, 9p), on your own word that they keep
    /// write-through, exclusive creation and locks.
    pub fn allow_remote(mut self, allow: bool) -> Options {
        self.allow_remote = allow;
        self
    }

    /// Whether space ahead of the log is zeroed before the log comes there, on ext4 and xfs; true by default. Small commits
    /// take half the time, or less; what they write is written twice. A log that grows by more than 48 MiB a second gets none.
    pub fn zero_ahead(mut self, zero: bool) -> Options {
        self.zero_chunk = if zero { ZERO_CHUNK } else { 0 };
        self
    }

    /// Whether io_uring is used where there is one; true by default. Without it threads do the same work.
    pub fn io_uring(mut self, allow: bool) -> Options {
        self.io_uring = allow;
        self
    }

    /// Per cent of the time that repair and scrub take while commits are made: 12 by default, 1 to 100. Without commits
    /// they go as fast as the disks.
    pub fn repair_share(mut self, per_cent: u32) -> Options {
        self.repair_share = per_cent.clamp(1, 100);
        self
    }

    /// All six copies of everything are compared once in this time: a week by default.
    pub fn scrub_period(mut self, time: Duration) -> Options {
        self.scrub_period = time.clamp(Duration::from_secs(1), NEVER);
        self
    }

    /// Is called with everything that the volume finds and mends, one after the other, outside of all locks: by the background
    /// thread, by one that waits in [`Volume::wait_repaired`](crate::Volume::wait_repaired), or closes. It may read, commit and ask for
    /// [`Volume::health`](crate::Volume::health). It must not block for long, for checkpoints and repair wait meanwhile, nor close the volume.
    pub fn on_event(mut self, f: impl Fn(&Event) + Send + Sync + 'static) -> Options {
        self.on_event = Some(OnEvent(Arc::new(f)));
        self
    }

    /// Extents that the log may hold.
    pub(crate) fn extents_max(&self) -> u64 {
        (self.max_bytes / format::EXTENT).min(format::EXTENTS_MAX)
    }

    /// Checks what holds at every open.
    pub(crate) fn check_limit(&self) -> Result<(), OpenError> {
        let most = self.max_bytes;
        if most < 2 * format::EXTENT {
            return Err(OpenError::Options(format!("at most {most} bytes of log: it must be 128 MiB or more")));
        }
        Ok(())
    }

    /// Checks what creation fixes.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let page = self.page_size;
        if !page.is_power_of_two() || !(format::PAGE_MIN..=format::PAGE_MAX).contains(&page) {
            return Err(OpenError::Options(format!(
                "a page of {page} bytes: it must be a power of two from 4096 to 65536"
            )));
        }
        let size = self.pg_size;
        if !size.is_multiple_of(format::EXTENT) || !(format::EXTENT..=format::PG_MAX).contains(&size) {
            return Err(OpenError::Options(format!(
                "a protection group of {size} bytes: it must be a multiple of 64 MiB, from 64 MiB to 1 TiB"
            )));
        }
        self.check_limit()
    }
}
