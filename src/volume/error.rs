//! What can go wrong, by call. Each error names the thing, the place, and what to do next.

use crate::lsn::{Lsn, PageId, Slot};
use crate::segment::superblock::SuperFault;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a slot does not count at an open, or how its copy of a record is bad.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotFault {
    /// Its directory is not there.
    #[error("its directory is missing: is the disk mounted?")]
    Missing,
    /// It did not answer in time.
    #[error("it did not answer within {0:?}: the disk hangs")]
    TimedOut(Duration),
    /// The operating system refused.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// Nothing is there: it is formatted and joins at the next open for writing.
    #[error("it is blank")]
    Blank,
    /// It holds files of another volume; it is left alone.
    #[error("it belongs to another volume ({0}): it is left alone; put the right disk in its place")]
    Foreign(uuid::Uuid),
    /// It holds the files of another slot of this volume.
    #[error("it holds the files of slot {0}: swap the directories back")]
    Swapped(Slot),
    /// It has files but no superblock that verifies.
    #[error("it has files but no superblock that verifies; move them away to have it rebuilt from its peers")]
    NoSuperblock,
    /// Its superblock is another version's.
    #[error("its superblock: {0}")]
    Superblock(SuperFault),
    /// Another opener has claimed the number on it.
    #[error("another process has claimed the epoch on it")]
    Claimed,
    /// Its copy of a record is not there: no file, or nothing but zeros in its place.
    #[error("it has no copy of it")]
    NoCopy,
    /// Its copy of a record does not verify: rotten, torn, or something else in its place.
    #[error("its copy is damaged: {0}")]
    Damaged(String),
}

/// The faults of the slots that have one, for an error's text.
#[derive(Debug)]
pub struct SlotFaults(pub Vec<(Slot, SlotFault)>);

impl std::fmt::Display for SlotFaults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (slot, fault)) in self.0.iter().enumerate() {
            write!(f, "{}slot {slot}: {fault}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

/// Why a volume was not created or opened. Nothing was changed that a later open would not find its way through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option is out of its range.
    #[error("{0}")]
    Options(String),
    /// The placement is not one directory or three different ones.
    #[error("{0}")]
    Placement(String),
    /// A directory is not there.
    #[error("{path}: no such directory; create it, or mount its disk", path = .0.display())]
    Missing(PathBuf),
    /// It is a file.
    #[error("{path}: is not a directory; name a directory", path = .0.display())]
    NotADirectory(PathBuf),
    /// Creating refuses what is not empty.
    #[error("{path}: is not empty; a volume is created in an empty directory, or open the one that is there", path = .0.display())]
    NotEmpty(PathBuf),
    /// A directory holds no volume.
    #[error("{path}: holds no volume; create one first, or check the path", path = .0.display())]
    NoVolume(PathBuf),
    /// A file system that cannot keep the promises.
    #[error("{path}: {kind} is refused: {why}", path = path.display())]
    FileSystem {
        /// The directory.
        path: PathBuf,
        /// The file system's name.
        kind: &'static str,
        /// Which promise it cannot keep, and what allows it all the same.
        why: &'static str,
    },
    /// Another process has the volume open for writing.
    #[error("process {pid} has the volume open for writing (epoch {epoch}); close it there, or take over")]
    Locked {
        /// The holder.
        pid: u32,
        /// Its epoch.
        epoch: u64,
    },
    /// Another opener was faster; try again.
    #[error("another process opened the volume at the same time (epoch {epoch}); open again")]
    Outbid {
        /// The higher epoch.
        epoch: u64,
    },
    /// Too few slots are reachable.
    #[error("{what}: {slots}")]
    Quorum {
        /// What could not be done.
        what: String,
        /// Each slot that did not count, and why.
        slots: SlotFaults,
    },
    /// A record that was acknowledged has no good copy in reach: damage, not an end of the log.
    #[error(
        "{}the record at LSN {lsn} has no good copy in reach, and the log is known to go on to {known}: {slots}; bring back a disk that is away",
        .page.map_or(String::new(), |p| format!("page {p}: "))
    )]
    Lost {
        /// Where it should be; its group, where nothing is left that tells the record.
        lsn: Lsn,
        /// The page that it changes, as most of the damaged copies' headers say. None where they say nothing, or not the
        /// same, or where the record is no page's.
        page: Option<PageId>,
        /// VDL was at least here.
        known: Lsn,
        /// What is wrong with each slot's copy.
        slots: SlotFaults,
    },
    /// A slot holds records of an epoch that no superblock in reach knows.
    #[error(
        "slot {slot} holds records of epoch {epoch} at LSN {lsn}, and no superblock in reach knows that epoch; bring back a disk that is away"
    )]
    UnknownEpoch {
        /// The slot.
        slot: Slot,
        /// The unknown epoch.
        epoch: u64,
        /// Where its group begins.
        lsn: Lsn,
    },
    /// The log has come to the last addresses that there are: nothing can be written any more.
    #[error("the log has come to its last address ({0}): open the volume for reading, and copy its pages to a new one")]
    OutOfAddresses(Lsn),
    /// The newest manifest, or a table node, cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The device is full.
    #[error("{path}: no space left; free some, a volume begins with about 1 MiB a slot", path = .0.display())]
    OutOfSpace(PathBuf),
    /// The operating system refused something outside of the slots.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a page was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The page was never allocated, or was freed.
    #[error("page {0} does not exist: allocate it first")]
    NoSuchPage(PageId),
    /// No slot has a good copy.
    #[error("page {page}: no good copy of the record at LSN {lsn} in reach: {slots}; bring back a disk that is away")]
    Lost {
        /// The page that was read.
        page: PageId,
        /// The record.
        lsn: Lsn,
        /// What is wrong with each slot's copy.
        slots: SlotFaults,
    },
    /// A record is not what its page's chain says: a defect, please report it.
    #[error("page {page}: the record at LSN {lsn} verifies but is not the page's: {what}")]
    Corrupt {
        /// The page that was read.
        page: PageId,
        /// The record.
        lsn: Lsn,
        /// What does not fit.
        what: &'static str,
    },
    /// The view was revoked because it held too much, or whoever writes now has given back what it needs.
    #[error(
        "the state at LSN {0} is gone: the view held more than is allowed, or another process that writes has given back what it needs; take a new one"
    )]
    ReadPointGone(Lsn),
    /// Two views were to be compared, and each is of a volume of its own.
    #[error("the views are of two volumes: compare states of one")]
    OtherVolume,
    /// What was asked about lies above what this handle can tell for certain.
    #[error("the outcome at LSN {0} is not known yet: ask again after the volume was opened for writing")]
    NotKnownYet(Lsn),
    /// Nothing tells any more of the epoch that was asked about: it is not among the newest 2,048, and what it wrote was
    /// rewritten or freed since.
    #[error("nothing tells of epoch {0} any more: it is not among the newest 2,048; ask after the next open")]
    Forgotten(u64),
    /// An earlier call of the MTR was wrong.
    #[error(transparent)]
    Mtr(Box<WriteError>),
    /// The volume was closed.
    #[error("the volume is closed")]
    Closed,
}

/// A commit whose outcome is not known: it may or may not have survived. Store it, and ask
/// [`Volume::outcome`](crate::Volume::outcome) after reopening.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Unknown {
    /// Behind the MTR's last record.
    pub lsn: Lsn,
    /// The writer's epoch.
    pub epoch: u64,
}

/// Why an MTR was not appended, or a commit not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A page image has another length than the volume's pages.
    #[error("page {page}: the image has {len} bytes, and a page has {page_size}")]
    ImageLength {
        /// The page.
        page: PageId,
        /// The image's length.
        len: usize,
        /// The volume's page size.
        page_size: u32,
    },
    /// A patch goes past the page's end.
    #[error("page {page}: a patch of {len} bytes at {offset} goes past the end of the page ({page_size} bytes)")]
    PatchRange {
        /// The page.
        page: PageId,
        /// Where the patch begins.
        offset: u32,
        /// Its length.
        len: usize,
        /// The volume's page size.
        page_size: u32,
    },
    /// The page was never allocated, or was freed.
    #[error("page {0} does not exist: allocate it first")]
    NoSuchPage(PageId),
    /// Page 0 cannot be freed.
    #[error("page 0 always exists and cannot be freed")]
    RootPage,
    /// All page ids are in use.
    #[error("all page ids are in use: free pages first")]
    OutOfPages,
    /// Longer than an MTR may be in the log.
    #[error("the MTR is longer than {most} bytes of log: split it")]
    MtrTooLarge {
        /// The limit.
        most: u64,
    },
    /// A page that was `expect`ed has changed: read it again and retry.
    #[error("page {0} has changed since it was read: read it again, and retry")]
    Conflict(PageId),
    /// Fewer than four slots have space.
    #[error("no space: fewer than four slots can take {needed} more bytes; free space on their disks")]
    OutOfSpace {
        /// What the MTR needed.
        needed: u64,
    },
    /// The log holds what it may: see [`Options::max_bytes`](crate::Options::max_bytes). Nothing was accepted; reading,
    /// freeing pages and closing go on.
    #[error(
        "the volume is full: its log holds {holds} bytes, and may hold {most}; free pages, or open it with a higher `max_bytes`"
    )]
    VolumeFull {
        /// Of one copy, in extents of 64 MiB.
        holds: u64,
        /// The most.
        most: u64,
    },
    /// The volume was rewound since the MTR began: read again, and begin another.
    #[error("the volume was rewound since the MTR began: read again, and begin another")]
    Rewound,
    /// The commit was appended, and whether it survives is not known. Reopen, and ask `outcome`.
    #[error("the outcome of the commit at LSN {} (epoch {}) is not known: {why}; reopen, and ask `outcome`", .unknown.lsn, .unknown.epoch)]
    Unknown {
        /// What to ask `outcome` with.
        unknown: Unknown,
        /// What happened.
        why: String,
    },
    /// The handle takes no more writes: fewer than four slots, or another process has taken over.
    #[error("the volume takes no more writes: {0}; reopen it")]
    ReadOnly(String),
    /// A page that the MTR needs could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The volume was closed.
    #[error("the volume is closed")]
    Closed,
}

/// Why a slot did not get another directory. Nothing was changed, but for [`Io`](ReplaceError::Io) at most: then the slot
/// is as it was, or missing until it is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// Slots are 0 to 5.
    #[error("there is no slot {0}: name one of 0 to 5")]
    NoSuchSlot(Slot),
    /// The AZ's directory is gone: there is no place for a link.
    #[error("slot {slot}: {az} is not there; mount a disk at that path instead, and both its slots are filled again", az = az.display())]
    NoAz {
        /// The slot.
        slot: Slot,
        /// Its AZ's directory.
        az: PathBuf,
    },
    /// The AZ's directory holds another volume's slots.
    #[error("{az}: holds slots of another volume ({volume}); put the right disk in its place", az = az.display())]
    Foreign {
        /// The AZ's directory.
        az: PathBuf,
        /// Whose it is.
        volume: uuid::Uuid,
    },
    /// Neither the directory nor the one above it is there.
    #[error("{path}: no such directory, and none to make it in; check the path, or mount its disk", path = .0.display())]
    Missing(PathBuf),
    /// It is a file.
    #[error("{path}: is not a directory; name a directory", path = .0.display())]
    NotADirectory(PathBuf),
    /// Only an empty directory can become a slot.
    #[error("{path}: is not empty; name an empty directory, or one that is still to be made", path = .0.display())]
    NotEmpty(PathBuf),
    /// It is the slot's directory already.
    #[error("{path}: is the directory of slot {slot} already; name another one", path = path.display())]
    Same {
        /// The slot.
        slot: Slot,
        /// The directory.
        path: PathBuf,
    },
    /// It lies in a directory of the volume itself.
    #[error("{path}: lies in {own}, which is the volume's own; name a directory elsewhere, best on another disk", path = path.display(), own = own.display())]
    Inside {
        /// The directory.
        path: PathBuf,
        /// The volume's directory.
        own: PathBuf,
    },
    /// A file system that cannot keep the promises.
    #[error("{path}: {kind} is refused: {why}", path = path.display())]
    FileSystem {
        /// The directory.
        path: PathBuf,
        /// The file system's name.
        kind: &'static str,
        /// Which promise it cannot keep, and what allows it all the same.
        why: &'static str,
    },
    /// Its device wants larger blocks than the volume writes.
    #[error("{path}: direct I/O needs blocks of {needs} bytes there, and the volume writes {block}; name another disk", path = path.display())]
    Alignment {
        /// The directory.
        path: PathBuf,
        /// What its device needs.
        needs: u32,
        /// What the volume writes.
        block: u32,
    },
    /// Four other slots must be live, or nothing could be committed meanwhile.
    #[error("slot {slot} is not replaced: of the others only {} can be written, and four are needed; bring one of them back first", .live.len())]
    TooFew {
        /// The slot.
        slot: Slot,
        /// The other slots that are live.
        live: Vec<Slot>,
    },
    /// It is being replaced by another call.
    #[error("slot {0} is being replaced already; wait for that, and look at its directory")]
    Busy(Slot),
    /// The volume takes no more writes.
    #[error("the volume takes no more writes: {0}; reopen it")]
    ReadOnly(String),
    /// The volume was closed.
    #[error("the volume is closed")]
    Closed,
    /// A simulated volume has no directories.
    #[error("the volume is simulated: its slots have no directories; empty the slot's disk in the simulation instead")]
    Simulated,
    /// The operating system refused.
    #[error("{path}: {source}; see to it, and try again", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a close was not clean. What was acknowledged is safe all the same: the next open recovers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// A commit's outcome is not known.
    #[error("not everything that was appended is known to be durable: {0}; what was acknowledged is safe")]
    NotDurable(String),
    /// No clean mark could be left: the next open scans the log's end.
    #[error("closed without a clean mark ({0}); the next open recovers, nothing is lost")]
    NotClean(String),
    /// It was closed already.
    #[error("the volume is closed")]
    Closed,
}
