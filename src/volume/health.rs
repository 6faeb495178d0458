//! Plain numbers about an open volume.

use crate::core::gaps::Gap;
use crate::core::writer::Away;
use crate::lsn::{Lsn, Slot};
use crate::volume::history::HistoryHealth;
use crate::volume::reclaim::Space;
use std::path::PathBuf;

/// The state of one slot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SlotHealth {
    /// Which.
    pub slot: Slot,
    /// Its directory.
    pub path: PathBuf,
    /// Why it does not count; none while it does.
    pub away: Option<Away>,
    /// What is wrong with it, as an open found it; of a volume that is open for writing, what a slot that is away said last.
    pub fault: Option<String>,
    /// SCL: how far its copy is durable since its last gap. None while it is away.
    pub scl: Option<Lsn>,
    /// What it is known to lack.
    pub gaps: Vec<Gap>,
    /// Its device is full.
    pub full: bool,
    /// Calls that write, sync, allocate, punch, create or remove since the volume was opened.
    pub write_calls: u64,
    /// Bytes written since the volume was opened.
    pub bytes_written: u64,
    /// Bytes read since the volume was opened, recovery's included.
    pub bytes_read: u64,
    /// Holes that its file system has refused to punch since the volume was opened. Where it does, space comes back once a
    /// whole protection group is dead, and its file goes.
    pub punches_refused: u64,
}

/// What was found below one AZ.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AzHealth {
    /// Its directory.
    pub path: PathBuf,
    /// It is there.
    pub present: bool,
    /// The file system's name.
    pub file_system: &'static str,
    /// Direct I/O is used.
    pub direct_io: bool,
    /// Its contents do not survive a restart.
    pub volatile: bool,
}

/// The one way that there is: io_uring and threads alike write with `RWF_DSYNC`.
pub(crate) const DURABILITY: &str = "dsync";

/// The process that has a volume open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its id; 0 where its lock does not tell.
    pub pid: u32,
    /// Its epoch.
    pub epoch: u64,
}

/// How far healing is: gaps that are filled, the scrub, what was mended since the volume was opened.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RepairHealth {
    /// Something is to be filled, checked or scrubbed now.
    pub busy: bool,
    /// It was paused: see [`Volume::pause_repair`](crate::Volume::pause_repair).
    pub paused: bool,
    /// Bytes of log that are still to be looked at, slot by slot, and copied where they lack.
    pub bytes_left: u64,
    /// Bytes that were, since this began.
    pub bytes_done: u64,
    /// As measured since this began.
    pub bytes_per_second: u64,
    /// How long the rest will take at that rate; none where it is not known.
    pub left: Option<std::time::Duration>,
    /// No slot was read for it since a writer died: it is looked at on all slots.
    pub unchecked: Gap,
    /// Writes that put something in that was missing or damaged.
    pub mends: u64,
    /// Bytes of them.
    pub mended_bytes: u64,
    /// Superblocks that were damaged and are written anew.
    pub superblocks_mended: u64,
    /// Groups of which two copies verify and differ: nothing is touched there.
    pub differences: u64,
    /// Mebibytes of log in which something has no good copy in reach.
    pub unmendable: usize,
    /// The scrub has read everything below.
    pub scrub_at: Lsn,
    /// Scrubs that came to their end since the volume was opened.
    pub scrubs: u64,
    /// Events that nobody was told of, because too many came at once.
    pub events_untold: u64,
}

/// The state of an open volume, as plain numbers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// The six slots.
    pub slots: Vec<SlotHealth>,
    /// The three AZs.
    pub azs: Vec<AzHealth>,
    /// Pairs of AZs that share a device: an AZ is then a word, not a failure domain.
    pub shared_devices: Vec<(usize, usize)>,
    /// Who has the volume open for writing, by the locks in its AZs: this process, or the one that a reader reads beside.
    pub holder: Option<Holder>,
    /// The volume's identity.
    pub volume: uuid::Uuid,
    /// This handle's epoch.
    pub epoch: u64,
    /// Durable on at least four of six.
    pub vcl: Lsn,
    /// The highest consistency point that is not above VCL.
    pub vdl: Lsn,
    /// The next byte of the log.
    pub tail: Lsn,
    /// Where the newest manifest lies; 0 before the first checkpoint.
    pub manifest: Lsn,
    /// Where recovery would begin.
    pub redo: Lsn,
    /// Bytes of a page.
    pub page_size: u32,
    /// Bytes of a block of the log.
    pub block_size: u32,
    /// Bytes of a protection group.
    pub pg_size: u64,
    /// How log writes are done: `io_uring` or `threads`.
    pub io: &'static str,
    /// How a log write is made durable: `dsync`, each by itself.
    pub durability: &'static str,
    /// Bytes of memory taken by ring, cache and overlay now.
    pub memory_bytes: u64,
    /// The most that they may take.
    pub memory_bytes_max: u64,
    /// What the log takes on each slot.
    pub space: Space,
    /// Bytes that all six slots take on their devices.
    pub device_bytes: u64,
    /// Bytes of the log's extents, of one copy: 64 MiB for each in which something lies.
    pub log_bytes: u64,
    /// The most that they may be: see [`Options::max_bytes`](crate::Options::max_bytes).
    pub log_bytes_max: u64,
    /// Commits that waited for space ahead of the log's tail to be taken, since the volume was opened.
    pub space_waits: u64,
    /// A checkpoint is under way.
    pub checkpointing: bool,
    /// Which states of the past can be had, and what they hold.
    pub history: HistoryHealth,
    /// Open views.
    pub views: usize,
    /// Copies that failed their check and were answered from another.
    pub bad_copies: u64,
    /// Healing.
    pub repair: RepairHealth,
    /// Bytes of log that the open read.
    pub recovery_bytes: u64,
    /// Why the handle takes no more writes; none while it does.
    pub ended: Option<String>,
}

impl Health {
    /// Slots that count: live and without a known gap.
    pub fn whole(&self) -> usize {
        self.slots.iter().filter(|s| s.away.is_none() && s.fault.is_none() && s.gaps.is_empty()).count()
    }
}
