//! The face: create, open, read, commit, close.

pub(crate) mod alloc;
pub(crate) mod append;
pub(crate) mod background;
pub(crate) mod checkpoint;
pub(crate) mod clone;
pub(crate) mod close;
pub(crate) mod commit;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod event;
#[cfg(all(test, not(quorate_loom)))]
mod far;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod mtr;
pub(crate) mod open;
pub(crate) mod options;
pub(crate) mod page;
pub(crate) mod reader;
pub(crate) mod reclaim;
pub(crate) mod rewind;
pub(crate) mod share;
pub(crate) mod shared;
pub(crate) mod tickets;
pub(crate) mod view;
pub(crate) mod wake;

use crate::lsn::{PageId, Slot};
use crate::segment::placement::Placement;
use crate::volume::commit::Commit;
use crate::volume::error::{CloseError, OpenError, ReadError, ReplaceError, Unknown};
use crate::volume::health::Health;
use crate::volume::mtr::Mtr;
use crate::volume::open::Handle;
use crate::volume::options::Options;
use crate::volume::page::Page;
use crate::volume::view::View;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An open volume: one log in six copies, and the pages that it describes.
///
/// Clones share it. Dropping the last one closes it, for at most a second; [`close`](Volume::close) tells how it went.
///
/// ```
/// use quorate::{Options, PageId, Volume};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
/// # let at = dir.path();
/// let volume = Volume::create(at, &Options::default())?;
/// let mut mtr = volume.begin();
/// mtr.patch(PageId::ROOT, 0, b"six copies");
/// mtr.commit()?.wait()?;
/// volume.close()?;
///
/// let volume = Volume::open(at, &Options::default())?;
/// assert_eq!(&volume.read(PageId::ROOT)?[..10], b"six copies");
/// # volume.close()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Volume {
    handle: Arc<Handle>,
}

impl Volume {
    /// Makes a new volume in empty directories, and opens it.
    ///
    /// # Errors
    /// Options out of range, directories that are not there or not empty, a file system that is refused, a full disk.
    pub fn create(at: impl Into<Placement>, options: &Options) -> Result<Volume, OpenError> {
        Handle::create(&at.into(), options).map(Volume::from)
    }

    /// Opens a volume for writing, after a clean close or a crash alike. At least four slots must be reachable.
    ///
    /// # Errors
    /// [`OpenError::Locked`] while another process has it open, [`OpenError::Quorum`] with each slot's fault,
    /// [`OpenError::Lost`] when an acknowledged record has no good copy in reach.
    pub fn open(at: impl Into<Placement>, options: &Options) -> Result<Volume, OpenError> {
        Handle::open(&at.into(), options, false).map(Volume::from)
    }

    /// Opens for writing beside a process that has the volume open, running or stopped: it acknowledges nothing more.
    ///
    /// # Errors
    /// As [`Volume::open`], but for the lock.
    pub fn take_over(at: impl Into<Placement>, options: &Options) -> Result<Volume, OpenError> {
        Handle::open(&at.into(), options, true).map(Volume::from)
    }

    /// Opens for reading alone: no lock, no write, beside a writer or none. At least three slots must be reachable.
    ///
    /// # Errors
    /// As [`Volume::open`], but for the lock.
    pub fn open_read_only(at: impl Into<Placement>, options: &Options) -> Result<crate::Reader, OpenError> {
        reader::open(&at.into(), options)
    }

    /// Begins a mini-transaction.
    pub fn begin(&self) -> Mtr {
        Mtr::new(self.handle.shared.clone())
    }

    /// The newest version that was appended by this process. It may not be durable yet: before passing it on, wait for
    /// [`sync`](Volume::sync), or read a [`view`](Volume::view). A cached page is not copied.
    ///
    /// # Errors
    /// [`ReadError::NoSuchPage`], or [`ReadError::Lost`] with each slot's fault.
    pub fn read(&self, page: PageId) -> Result<Page, ReadError> {
        self.handle.shared.read_newest(page)
    }

    /// A durable, unchanging state: everything acknowledged by now.
    pub fn view(&self) -> View {
        self.handle.shared.view()
    }

    /// A ticket for everything that was appended so far.
    pub fn sync(&self) -> Commit {
        let end = self.handle.shared.appended();
        self.handle.shared.clone().ticket(end)
    }

    /// Whether a commit whose outcome was not known has survived. Certain for every earlier epoch; for this handle's own
    /// commits once they are acknowledged.
    ///
    /// # Errors
    /// [`ReadError::NotKnownYet`] while it is not decided; [`ReadError::Forgotten`] of one of long ago.
    pub fn outcome(&self, lost: Unknown) -> Result<bool, ReadError> {
        let shared = &self.handle.shared;
        if shared.reads.closed.load(Ordering::SeqCst) {
            return Err(ReadError::Closed);
        }
        if lost.epoch == shared.number {
            return if shared.tickets.vdl() >= lost.lsn { Ok(true) } else { Err(ReadError::NotKnownYet(lost.lsn)) };
        }
        if lost.epoch > shared.number {
            // Of who took over from this handle, which cannot know.
            return Err(ReadError::NotKnownYet(lost.lsn));
        }
        let history = shared.reads.pages.reader.history();
        if history.may_have_forgotten(lost.epoch, shared.options.epochs_told) {
            return Err(ReadError::Forgotten(lost.epoch));
        }
        Ok(history.includes(lost.epoch, lost.lsn))
    }

    /// Plain numbers: slots, gaps, devices, memory.
    pub fn health(&self) -> Health {
        self.handle.health()
    }

    /// Compares all six copies of everything now, and mends what is missing or damaged: see [`Health::repair`]. It goes
    /// on in the background, as it does by itself once in [`Options::scrub_period`].
    pub fn scrub(&self) {
        let shared = &self.handle.shared;
        shared.engine().scrub_now(shared.clock.wall_us());
        shared.pump();
        shared.background.wake_now();
    }

    /// Stops filling gaps and scrubbing, or lets it go on. Copies that readers find bad are mended all the same.
    pub fn pause_repair(&self, pause: bool) {
        self.handle.shared.engine().pause_healing(pause);
        self.handle.shared.background.wake_now();
    }

    /// Waits until nothing is left to be filled, checked or scrubbed, or so long. True if nothing is left: every slot
    /// that is reachable is whole. What has no good copy in reach is left alone: see
    /// [`RepairHealth::unmendable`](crate::RepairHealth::unmendable).
    pub fn wait_repaired(&self, most: std::time::Duration) -> bool {
        self.handle.shared.wait_healed(most)
    }

    /// Gives back all the space that can be had, or as much as this time is enough for: pages of extents that are mostly
    /// dead are written anew, and the extents are punched. True if nothing is left to be had. It goes on by itself when
    /// more than a fifth of the log is dead; nobody has to call this.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let volume = quorate::Volume::create(dir.path(), &quorate::Options::default())?;
    /// assert!(volume.compact(std::time::Duration::from_secs(60)));
    /// println!("{} bytes of log a copy", volume.health().space.allocated);
    /// # volume.close()?;
    /// # Ok(()) }
    /// ```
    pub fn compact(&self, most: std::time::Duration) -> bool {
        self.handle.shared.compact(most)
    }

    /// Puts another directory in a slot's place while the volume works: an empty one, or one that is made in a directory
    /// that is there. The slot's name in its AZ becomes a link to it, so every later open finds it. The slot leaves the
    /// quorum, comes back blank within a second, and is filled from its peers: see [`Health::repair`] and
    /// [`wait_repaired`](Volume::wait_repaired).
    ///
    /// Returns where the old directory is now, `slot-<s>.replaced-<n>`, if there was one. What it holds is nobody's any
    /// more: delete it once the slot is whole.
    ///
    /// Name a directory *below* a disk's mount point: a disk that is not mounted is then missing, and is not taken for a
    /// blank one. Where the directory of a whole AZ is gone, mount a disk at that path instead.
    ///
    /// ```
    /// use quorate::{Options, Slot, Volume};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let (at, new_disk) = (dir.path().join("volume"), dir.path().join("new"));
    /// # std::fs::create_dir(&at)?;
    /// let volume = Volume::create(at, &Options::default())?;
    /// let old = volume.replace(Slot(3), &new_disk)?;
    /// assert!(old.is_some_and(|old| old.ends_with("slot-3.replaced-0")));
    /// # volume.close()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ReplaceError::TooFew`] where fewer than four other slots are live; a directory that is no good; the system's.
    pub fn replace(
        &self,
        slot: Slot,
        directory: impl AsRef<std::path::Path>,
    ) -> Result<Option<std::path::PathBuf>, ReplaceError> {
        self.handle.replace(slot, directory.as_ref())
    }

    /// The directory of a slot.
    ///
    /// # Panics
    /// If there is no such slot: there are 0 to 5.
    pub fn slot_path(&self, slot: Slot) -> std::path::PathBuf {
        self.handle.slot_path(slot)
    }

    /// Makes everything durable, writes a checkpoint and the clean mark, and gives up the lock. Clones, MTRs and views
    /// that are still alive get `Closed`.
    ///
    /// # Errors
    /// [`CloseError::NotDurable`] if an appended commit's outcome is not known, [`CloseError::NotClean`] if the next
    /// open will have to recover; nothing that was acknowledged is lost in either case.
    pub fn close(self) -> Result<(), CloseError> {
        let most = self.handle.shared.options.stall_max;
        self.handle.close(most)
    }
}

impl From<Handle> for Volume {
    fn from(handle: Handle) -> Volume {
        let handle = Arc::new(handle);
        // Set once: views come to it by their reads.
        let _ = handle.shared.reads.writer.set(Arc::downgrade(&handle));
        Volume { handle }
    }
}
