//! The look, cheaply: inotify tells of a claim before the call that created it returns, so one read that finds nothing
//! is a look at every watched slot.
//!
//! A claim needs four slots; whoever watches three of six sees it. With fewer than three watched, or after an overflow,
//! the answer is "unsure", and the claims are read through the directories.

use crate::core::READ_QUORUM;
use crate::core::writer::Look;
use crate::lsn::{SLOTS, Slot, SlotSet};
use crate::segment::name::FileName;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Watches the slots' directories for claims above an epoch.
pub struct Watch {
    fd: OwnedFd,
    /// The watch of each slot that is still on its directory.
    slots: [Option<i32>; SLOTS],
    epoch: u64,
    overflowed: bool,
    /// Directories that went away, or lost a segment, since somebody asked.
    lost: SlotSet,
}

impl Watch {
    /// Begins to watch. It must exist before the opener's last look, so that nothing falls between the two.
    pub fn begin(epoch: u64, directory: impl Fn(Slot) -> std::path::PathBuf) -> Option<Watch> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        let mut watch = Watch { fd, slots: [None; SLOTS], epoch, overflowed: false, lost: SlotSet::NONE };
        for slot in Slot::ALL {
            watch.add(slot, &directory(slot));
        }
        Some(watch)
    }

    /// Watches a slot's directory, again if it was lost.
    pub fn add(&mut self, slot: Slot, directory: &Path) {
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        let flags = flags | WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        self.slots[slot.index()] = inotify::add_watch(&self.fd, directory, flags | WatchFlags::ONLYDIR).ok();
    }

    /// The slots that were lost since the last call.
    pub fn take_lost(&mut self) -> SlotSet {
        std::mem::take(&mut self.lost)
    }

    /// Looks.
    pub fn look(&mut self) -> Look {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    self.overflowed = true;
                    break;
                }
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.overflowed = true;
            }
            let slot = Slot::ALL.into_iter().find(|s| self.slots[s.index()] == Some(event.wd()));
            let name = event.file_name().and_then(|n| n.to_str().ok()).and_then(FileName::parse);
            let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
            if let Some(slot) = slot.filter(|_| flags.intersects(gone)) {
                self.slots[slot.index()] = None;
                self.lost.insert(slot);
            }
            // Somebody else removed what the slot cannot do without.
            let needed = match name {
                Some(FileName::Segment(_)) => true,
                Some(FileName::Epoch(n)) => n == self.epoch,
                _ => false,
            };
            if let Some(slot) = slot.filter(|_| needed && flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM)) {
                self.lost.insert(slot);
            }
            if let Some(FileName::Claim(n) | FileName::Epoch(n)) = name
                && n > self.epoch
            {
                return Look::Claimed(n);
            }
        }
        if self.overflowed || self.slots.iter().flatten().count() < READ_QUORUM { Look::Unsure } else { Look::Clear }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn a_claim_is_seen_by_the_first_look_after_it() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let dir = |s: Slot| temp.path().join(format!("slot-{s}"));
        Slot::ALL.iter().for_each(|&s| fs::create_dir(dir(s)).unwrap());
        let mut watch = Watch::begin(5, dir).unwrap();
        assert_eq!(watch.look(), Look::Clear);
        File::create(dir(Slot(0)).join("claim-5")).unwrap();
        File::create(dir(Slot(1)).join("seg-00000000")).unwrap();
        assert_eq!(watch.look(), Look::Clear);
        for n in 6..600 {
            File::create(dir(Slot((n % 6) as u8)).join(format!("claim-{n}"))).unwrap();
            assert_eq!(watch.look(), Look::Claimed(n));
        }
    }

    #[test]
    fn with_fewer_than_three_watched_it_is_unsure() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let dir = |s: Slot| temp.path().join(format!("slot-{s}"));
        Slot::ALL.iter().for_each(|&s| fs::create_dir(dir(s)).unwrap());
        let mut watch = Watch::begin(5, dir).unwrap();
        for s in 0..3 {
            fs::remove_dir(dir(Slot(s))).unwrap();
            assert_eq!(watch.look(), Look::Clear);
        }
        fs::rename(dir(Slot(3)), temp.path().join("elsewhere")).unwrap();
        assert_eq!(watch.look(), Look::Unsure);
    }
}
