//! What a clone's slot begins with: a superblock, and segments of another volume's slot by reflink. Both files share their
//! blocks, and whoever writes gets blocks of its own.

use crate::core::gaps::Gap;
use crate::core::history::reach;
use crate::core::vote::Join;
use crate::disk::file::sync_dir;
use crate::lsn::{Lsn, format};
use crate::segment::name::FileName;
use crate::segment::superblock::{Geometry, ScrubMark, Superblock};
use rustix::fs::ioctl_ficlone;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;
use uuid::Uuid;

/// A slot of the clone, as if an opener had decided to cut its origin's log at `end`.
pub fn superblock(origin: &Superblock, volume: Uuid, end: Lsn) -> Superblock {
    let number = origin.number + 1;
    Superblock {
        geometry: Geometry { volume, ..origin.geometry },
        number,
        version: 0,
        incarnation: 1,
        history: origin.history.succeed(end, number, reach(end)),
        join: Join::Founder,
        clean: None,
        gaps: Vec::new(),
        unchecked: Gap::NONE,
        scrub: ScrubMark::default(),
        ..origin.clone()
    }
}

/// Makes the segments of a slot again in a new one, up to the frame in which `end` lies, durably. False: the file systems
/// cannot, or they are two, or the directory has no superblock of `epoch`: another one is in the slot's place.
pub fn segments(from: &Path, epoch: u64, to: &Path, pg_size: u64, end: Lsn) -> io::Result<bool> {
    if !from.join(FileName::Epoch(epoch).to_string()).try_exists()? {
        return Ok(false);
    }
    let end = end.ceil(format::FRAME);
    for entry in std::fs::read_dir(from)? {
        let name = entry?.file_name();
        let Some(FileName::Segment(pg)) = name.to_str().and_then(FileName::parse) else { continue };
        // A protection group that begins above holds nothing of the log yet.
        let Some(begin) = FileName::begin_of(pg, pg_size).filter(|begin| *begin < end) else { continue };
        let source = match File::open(from.join(&name)) {
            // It was given back meanwhile: nobody needs it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let target = File::create_new(to.join(&name))?;
        match ioctl_ficlone(&target, &source) {
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => return Ok(false),
            other => other?,
        }
        // The other volume goes on above.
        if target.metadata()?.len() > end - begin {
            target.set_len(end - begin)?;
        }
        target.sync_all()?;
    }
    sync_dir(to)?;
    Ok(true)
}
