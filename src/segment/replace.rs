//! A slot's directory in another place: its name in the AZ becomes a link to it, and no other record is needed.
//!
//! Step by step, so that a crash between two leaves the old slot, or a slot that is not there and says what to do:
//! the link is made as `slot-<s>.new`, what was in the slot's place becomes `slot-<s>.replaced-<n>` and stays for the user
//! to delete, the link gets the slot's name, the AZ's directory is synced.

use crate::disk::file::sync_dir;
use crate::lsn::Slot;
use crate::segment::name::FileName;
use crate::segment::placement::{Azs, probe};
use crate::segment::superblock::{self, Superblock};
use crate::volume::error::{OpenError, ReplaceError};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use uuid::Uuid;

fn io_at(path: &Path) -> impl Fn(io::Error) -> ReplaceError + '_ {
    move |source| ReplaceError::Io { path: path.to_path_buf(), source }
}

/// A replacement that is checked, and can be carried out.
#[derive(Debug)]
pub(crate) struct Replacement {
    /// The slot's place.
    place: PathBuf,
    /// The new directory, absolute and without links.
    target: PathBuf,
}

impl Azs {
    /// Checks all that can be checked, and changes nothing.
    pub fn replacement(&self, slot: Slot, directory: &Path, volume: Uuid) -> Result<Replacement, ReplaceError> {
        if !Slot::ALL.contains(&slot) {
            return Err(ReplaceError::NoSuchSlot(slot));
        }
        let (place, az) = (self.slot(slot), &self.paths[slot.az()]);
        if !az.is_dir() {
            return Err(ReplaceError::NoAz { slot, az: az.clone() });
        }
        let real = |path: &Path| fs::canonicalize(path).ok();
        let target = absolute(directory)?;
        if real(&place).is_some_and(|old| old == target) {
            return Err(ReplaceError::Same { slot, path: target });
        }
        let own = self.paths.iter().cloned().chain(self.slots());
        for own in own.filter_map(|path| real(&path)) {
            if target.starts_with(&own) {
                return Err(ReplaceError::Inside { path: target, own });
            }
        }
        // Another volume's disk in the AZ's place is no disk of ours to change.
        let slots = Slot::ALL.into_iter().filter(|s| s.az() == slot.az());
        if let Some(other) = slots.filter_map(|s| volume_in(&self.slot(s))).find(|id| *id != volume) {
            return Err(ReplaceError::Foreign { az: az.clone(), volume: other });
        }
        if target.is_dir() {
            must_be_empty(&target)?;
        } else if target.exists() {
            return Err(ReplaceError::NotADirectory(target));
        }
        let above = target.parent().unwrap_or(&target);
        self.check_disk(if target.is_dir() { &target } else { above })?;
        Ok(Replacement { place, target })
    }

    /// What an AZ's file system must keep, the slot's must; and the volume's calls must fit it.
    fn check_disk(&self, directory: &Path) -> Result<(), ReplaceError> {
        let found = probe(directory, self.allow_volatile, self.allow_remote).map_err(|e| match e {
            OpenError::FileSystem { path, kind, why } => ReplaceError::FileSystem { path, kind, why },
            OpenError::Io { path, source } => ReplaceError::Io { path, source },
            other => ReplaceError::Io { path: directory.to_path_buf(), source: io::Error::other(other.to_string()) },
        })?;
        if found.direct.is_none() && !self.buffered() {
            let (kind, why) = (found.file_system, "the volume writes past the page cache, and that is refused there");
            return Err(ReplaceError::FileSystem { path: directory.to_path_buf(), kind, why });
        }
        let (needs, block) = (alignment(directory).map_err(io_at(directory))?, self.block());
        if needs > block {
            return Err(ReplaceError::Alignment { path: directory.to_path_buf(), needs, block });
        }
        Ok(())
    }
}

impl Replacement {
    /// Makes the new directory if it is not there, and puts it in the slot's place. Returns where the old one is now, if
    /// there was one.
    pub fn carry_out(&self) -> Result<Option<PathBuf>, ReplaceError> {
        if !self.target.is_dir() {
            fs::create_dir(&self.target).map_err(io_at(&self.target))?;
            let above = self.target.parent().unwrap_or(&self.target);
            sync_dir(above).map_err(io_at(above))?;
        }
        let (place, fresh) = (&self.place, self.place.with_extension("new"));
        if fresh.is_symlink() {
            // Of one that was cut short.
            fs::remove_file(&fresh).map_err(io_at(&fresh))?;
        }
        std::os::unix::fs::symlink(&self.target, &fresh).map_err(io_at(&fresh))?;
        let old = self.move_aside();
        let put = old.and_then(|old| move_to(&fresh, place).map(|()| old).map_err(io_at(place)));
        if put.is_err() && place.symlink_metadata().is_ok() {
            // The old one stands, and a later try need not clear up.
            let _ = fs::remove_file(&fresh);
        }
        let az = place.parent().unwrap_or(place);
        sync_dir(az).map_err(io_at(az))?;
        put
    }

    fn move_aside(&self) -> Result<Option<PathBuf>, ReplaceError> {
        let name = |n: u32| self.place.with_extension(format!("replaced-{n}"));
        for old in (0..).map(name) {
            match move_to(&self.place, &old) {
                Ok(()) => return Ok(Some(old)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => (),
                Err(e) => return Err(io_at(&self.place)(e)),
            }
        }
        Ok(None)
    }
}

/// Renames, never over something that is there.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot: nobody else makes such names.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        other => Ok(other?),
    }
}

/// The path without links and dots; its last component may be still to be made.
fn absolute(directory: &Path) -> Result<PathBuf, ReplaceError> {
    match fs::canonicalize(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => (),
        other => return other.map_err(io_at(directory)),
    }
    let missing = || ReplaceError::Missing(directory.to_path_buf());
    // A link to nowhere: its disk is not mounted.
    let Some(name) = directory.file_name().filter(|_| !directory.is_symlink()) else { return Err(missing()) };
    let above = directory.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(fs::canonicalize(above).map_err(|_| missing())?.join(name))
}

fn must_be_empty(path: &Path) -> Result<(), ReplaceError> {
    for entry in fs::read_dir(path).map_err(io_at(path))? {
        // A fresh ext4 has it.
        if entry.map_err(io_at(path))?.file_name() != "lost+found" {
            return Err(ReplaceError::NotEmpty(path.to_path_buf()));
        }
    }
    Ok(())
}

/// The alignment that direct I/O needs, as a file without a name tells; 4096 where it is not told.
fn alignment(directory: &Path) -> io::Result<u32> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = match rustix::fs::open(directory, flags, Mode::from(0o600)) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => return Ok(4096),
        other => other?,
    };
    let stat = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    Ok(stat.map_or(0, |s| s.stx_dio_offset_align).max(4096))
}

/// Whose files a slot's directory holds, by any superblock that verifies.
fn volume_in(slot: &Path) -> Option<Uuid> {
    let epochs = fs::read_dir(slot).ok()?.flatten().filter(|e| {
        let name = e.file_name();
        matches!(name.to_str().and_then(FileName::parse), Some(FileName::Epoch(_)))
    });
    epochs.into_iter().find_map(|e| {
        let mut bytes = Vec::new();
        fs::File::open(e.path()).ok()?.take(2 * superblock::PLACE as u64).read_to_end(&mut bytes).ok()?;
        Superblock::newest(&bytes).ok().map(|s| s.geometry.volume)
    })
}
