//! The seam to the disks: blocking calls on one slot's directory, and the writer's log writes and jobs.
//!
//! `file` and `worker` (with `uring` where there is one) do it on real files; the simulator has its own.

pub(crate) mod bounded;
#[cfg(feature = "io-uring")]
pub(crate) mod desk;
pub(crate) mod file;
pub(crate) mod job;
pub(crate) mod real;
#[cfg(feature = "io-uring")]
pub(crate) mod uring;
pub(crate) mod watch;
pub(crate) mod worker;

use crate::core::writer::Look;
use crate::log::ring::Frame;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet, format};
use crate::segment::name::FileName;
use crate::segment::superblock::Places;
use crate::segment::tail::{self, Seeds, Stretches};
use crate::sync::Arc;
use std::io;

/// The least space that is asked for at once; more is refused where it would leave less than as much to others.
pub(crate) const SPACE_LEAST: u64 = 256 << 10;

/// Shared bytes, as they are.
pub(crate) fn owned(bytes: std::sync::Arc<Vec<u8>>) -> bytes::Bytes {
    struct Whole(std::sync::Arc<Vec<u8>>);
    impl AsRef<[u8]> for Whole {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    bytes::Bytes::from_owner(Whole(bytes))
}

/// One slot's directory. Every call may block as long as the device likes; none is retried here.
pub(crate) trait SlotDir: Send + Sync {
    /// The slot's files; names that are none of ours are left out.
    fn list(&self) -> io::Result<Vec<FileName>>;
    /// Creates an empty file that must not exist, durably. An error if it exists.
    fn create_new(&self, name: FileName) -> io::Result<()>;
    /// Reads at most `most` bytes; fewer only at the end of the file. Takes memory for what is there alone.
    fn read(&self, name: FileName, offset: u64, most: usize) -> io::Result<Vec<u8>>;
    /// Reads at most `len` bytes and hands them to `f`, where they need no copy.
    fn read_with(&self, name: FileName, offset: u64, len: usize, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        f(&self.read(name, offset, len)?);
        Ok(())
    }
    /// Nanoseconds that a page read takes here lately; 0 where that is not known.
    fn pace(&self) -> u64 {
        0
    }
    /// Reads as [`SlotDir::read`] does; a directory in memory hands out what it has.
    fn read_shared(&self, name: FileName, offset: u64, most: usize) -> io::Result<std::sync::Arc<Vec<u8>>> {
        self.read(name, offset, most).map(std::sync::Arc::new)
    }
    /// Reads at most `most` bytes and hands them to `f`, as [`SlotDir::read`] does, however long it takes. Where all would
    /// be zeros it may hand out nothing.
    fn scan(&self, name: FileName, offset: u64, most: usize, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        f(&self.read_shared(name, offset, most)?);
        Ok(())
    }
    /// Reads as [`SlotDir::read`] does, into memory that may be written from without a copy.
    fn read_owned(&self, name: FileName, offset: u64, most: usize) -> io::Result<bytes::Bytes> {
        self.read_shared(name, offset, most).map(owned)
    }
    /// What a directory in memory knows of the superblocks in bytes that it has just handed out.
    fn places(&self, _: FileName, _bytes: &std::sync::Arc<Vec<u8>>) -> Option<Places> {
        None
    }
    /// The groups that verify in a tail file's bytes, which were just handed out; a directory in memory knows them from before.
    fn groups(&self, _: FileName, bytes: &std::sync::Arc<Vec<u8>>, of: Seeds) -> Stretches {
        tail::whole(bytes, of)
    }
    /// Reads frames that follow each other, in one call where it can: beside writes, calls that wait for each other wait long.
    fn read_frames(&self, name: FileName, offset: u64, count: usize) -> io::Result<Vec<bytes::Bytes>> {
        let frame = |i| self.read_owned(name, offset + i as u64 * format::FRAME, format::FRAME as usize);
        (0..count).map(frame).collect()
    }
    /// Writes durably; creates the file if it is missing, durably too. Offset and length are multiples of the block.
    fn write_at(&self, name: FileName, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes several ranges. All are durable when it returns, and none need be before.
    fn write_many(&self, name: FileName, writes: &[(u64, &[u8])]) -> io::Result<()> {
        writes.iter().try_for_each(|(offset, bytes)| self.write_at(name, *offset, bytes))
    }
    /// Takes space for a range, which reads as zeros where it was not written; creates the file if it is missing.
    fn allocate(&self, name: FileName, offset: u64, len: u64) -> io::Result<()>;
    /// Writes zeros, durably, over space that was allocated. [`io::ErrorKind::Unsupported`] where later writes gain nothing.
    fn zero(&self, name: FileName, offset: u64, len: usize) -> io::Result<()> {
        self.write_at(name, offset, &vec![0; len])
    }
    /// Makes durable what any process has written to the file so far.
    fn flush(&self, name: FileName) -> io::Result<()>;
    /// Waits until no write that was submitted by a process that is gone can still land in the file.
    fn drain(&self, name: FileName) -> io::Result<()>;
    /// Gives a range's space back; it reads as zeros. No error where the file system cannot.
    fn punch(&self, name: FileName, offset: u64, len: u64) -> io::Result<()>;
    /// Opens files anew before they are read: after a failed flush a page cache may have what the disk has not.
    fn read_anew(&self) {}
    /// ... and the directory, too: it may be another one now.
    fn reopen(&self) {}
    /// Removes a file; no error if it is not there.
    fn remove(&self, name: FileName) -> io::Result<()>;
}

/// Runs one call on several slots side by side, each bounded in time: a slot that hangs is one that did not answer.
pub(crate) trait Fleet {
    /// What each slot of `set` answered; `None` for the others, and an error of kind `TimedOut` for one that hangs.
    fn each<T: Send + 'static>(
        &self,
        set: SlotSet,
        call: impl Fn(Slot, &dyn SlotDir) -> io::Result<T> + Send + Sync + 'static,
    ) -> [Option<io::Result<T>>; SLOTS];

    /// The directories themselves, for reading records.
    fn dirs(&self) -> [Option<Arc<dyn SlotDir>>; SLOTS];
}

/// A write of whole groups to one slot's segment.
pub(crate) struct LogWrite {
    pub slot: Slot,
    pub from: Lsn,
    pub to: Lsn,
    /// Held until the write has ended.
    pub frame: Arc<Frame>,
}

/// What came back.
pub(crate) enum Done {
    /// The log write of a slot ended; after success its bytes are durable.
    Wrote { slot: Slot, result: io::Result<()> },
    /// A job of a slot ended.
    Job { slot: Slot, kind: job::JobKind, output: io::Result<job::Output> },
    /// A look that could not be answered at once.
    Looked { quorum: Lsn, look: Look },
}

/// What the writer's engine does I/O through. Nothing in it blocks.
pub(crate) trait Disk: Send {
    /// Takes a write; it is on its way at the latest after [`Disk::submit`].
    fn write(&mut self, write: LogWrite);
    /// Hands a job to the slot's worker.
    fn job(&mut self, slot: Slot, job: job::Job);
    /// Reads what happened to the directories, also while nothing is to be looked for.
    fn notice(&mut self) {}
    /// Slots whose directories, or segments that they `need`, were found gone or replaced since they were asked for last.
    fn lost(&mut self, _needs: &dyn Fn(u64) -> bool) -> SlotSet {
        SlotSet::NONE
    }
    /// The slot is back: its directory is watched again.
    fn found(&mut self, _slot: Slot) {}
    /// Looks at the claims now, or returns none and answers by [`Done::Looked`].
    fn look(&mut self, quorum: Lsn) -> Option<Look>;
    /// Sends off what was taken.
    fn submit(&mut self);
    /// VCL moves when so many more writes to beyond it have ended: fewer need not be brought one by one.
    fn needs(&mut self, _completions: usize, _vcl: Lsn) {}
    /// Collects what has ended.
    fn reap(&mut self, done: &mut Vec<Done>);
}
