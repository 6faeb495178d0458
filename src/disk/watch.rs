//! The look, cheaply: inotify tells of a claim before the call that created it returns, so one read that finds nothing
//! is a look at every watched slot.
//!
//! The AZs' directories are watched, too: a slot's directory may be put in another's place there, and where it is a link,
//! nothing but the AZ tells.
//!
//! A claim needs four slots; whoever watches three of six sees it. With fewer than three watched, or after an overflow,
//! the answer is "unsure", and the claims are read through the directories.

use crate::core::READ_QUORUM;
use crate::core::writer::Look;
use crate::lsn::{SLOTS, Slot, SlotSet};
use crate::segment::name::FileName;
use crate::segment::placement;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Watches the slots' directories for claims above an epoch.
pub struct Watch {
    fd: Arc<OwnedFd>,
    /// The watch of each slot that is still on its directory.
    slots: [Option<i32>; SLOTS],
    /// The watch of the directory that each slot's directory lies in.
    azs: [Option<i32>; SLOTS],
    epoch: u64,
    overflowed: bool,
    /// A claim that was read between two looks.
    claimed: Option<u64>,
    /// Directories that went away since somebody asked.
    lost: SlotSet,
    /// Segments that went away since.
    removed: Vec<(Slot, u64)>,
}

/// More removed segments than these are not told apart: their slots are lost.
const REMOVED_MAX: usize = 4096;

impl Watch {
    /// Begins to watch. It must exist before the opener's last look, so that nothing falls between the two.
    pub fn begin(epoch: u64, directory: impl Fn(Slot) -> std::path::PathBuf) -> Option<Watch> {
        let fd = Arc::new(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?);
        let (slots, azs) = ([None; SLOTS], [None; SLOTS]);
        let mut watch =
            Watch { fd, slots, azs, epoch, overflowed: false, claimed: None, lost: SlotSet::NONE, removed: Vec::new() };
        for slot in Slot::ALL {
            watch.add(slot, &directory(slot));
        }
        Some(watch)
    }

    /// Watches a slot's directory, again if it was lost.
    pub fn add(&mut self, slot: Slot, directory: &Path) {
        let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        let gone = gone | WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        // The AZ first: what changes there between the two is told.
        let az = directory.parent().and_then(|az| inotify::add_watch(&self.fd, az, gone).ok());
        self.azs[slot.index()] = az;
        let new = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let slot_watch = inotify::add_watch(&self.fd, directory, gone | new).ok();
        // What another machine claims there nobody is told: claims are read then.
        let kind =
            rustix::fs::open(directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).and_then(placement::file_system);
        self.slots[slot.index()] = slot_watch.filter(|_| kind.is_ok_and(|kind| !placement::is_remote(kind)));
    }

    /// Events are read now, and what they say is told by the next look.
    pub fn notice(&mut self) {
        if let Look::Claimed(n) = self.look() {
            self.claimed = Some(n);
        }
    }

    /// The slots that were lost since the last call: their directories, or segments that they need.
    pub fn take_lost(&mut self, needs: &dyn Fn(u64) -> bool) -> SlotSet {
        let removed = self.removed.drain(..).filter(|(_, pg)| needs(*pg));
        removed.map(|(slot, _)| slot).chain(std::mem::take(&mut self.lost).iter()).collect()
    }

    /// Looks.
    pub fn look(&mut self) -> Look {
        if let Some(claimed) = self.claimed {
            return Look::Claimed(claimed);
        }
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
            let file = event.file_name().and_then(|n| n.to_str().ok());
            let name = file.and_then(FileName::parse);
            let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
            let moved = ReadFlags::DELETE | ReadFlags::MOVED_FROM;
            // Its AZ is gone, or another directory was put in the slot's place there.
            for other in Slot::ALL.into_iter().filter(|s| self.azs[s.index()] == Some(event.wd())).collect::<Vec<_>>() {
                let is_named = || file.and_then(|f| f.strip_prefix("slot-")) == Some(other.to_string().as_str());
                if flags.intersects(gone) {
                    self.azs[other.index()] = None;
                }
                if flags.intersects(gone) || flags.intersects(moved) && is_named() {
                    self.slots[other.index()] = None;
                    self.lost.insert(other);
                }
            }
            if let Some(slot) = slot.filter(|_| flags.intersects(gone)) {
                self.slots[slot.index()] = None;
                self.lost.insert(slot);
            }
            // What the slot may not be able to do without was removed.
            if let Some(slot) = slot.filter(|_| flags.intersects(moved)) {
                match name {
                    Some(FileName::Segment(pg)) if self.removed.len() < REMOVED_MAX => self.removed.push((slot, pg)),
                    Some(FileName::Segment(_)) => self.lost.insert(slot),
                    Some(FileName::Epoch(n)) if n == self.epoch => self.lost.insert(slot),
                    _ => (),
                }
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

/// After an event: many may come at once.
const REST: Duration = Duration::from_millis(100);

/// Calls `bell` whenever something was seen, from a thread of its own: a volume that has nothing to do reads no events.
/// Until what is returned is dropped.
pub fn listen(watch: &Watch, bell: impl Fn() + Send + 'static) -> io::Result<io::PipeWriter> {
    let events = watch.fd.clone();
    let (stopped, stop) = io::pipe()?;
    let listening = move || {
        loop {
            let mut both = [PollFd::new(&stopped, PollFlags::IN), PollFd::new(&*events, PollFlags::IN)];
            match rustix::event::poll(&mut both, None) {
                Err(Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) if !both[0].revents().is_empty() => return,
                Ok(_) => bell(),
            }
            std::thread::sleep(REST);
        }
    };
    std::thread::Builder::new().name("quorate-watch".into()).stack_size(256 << 10).spawn(listening)?;
    Ok(stop)
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
    fn another_directory_in_a_slots_place_is_seen_also_behind_a_link() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let dir = |s: Slot| temp.path().join(format!("az-{}", s.az())).join(format!("slot-{s}"));
        Slot::ALL.iter().for_each(|&s| fs::create_dir_all(dir(s)).unwrap());
        let target = temp.path().join("target");
        fs::create_dir(&target).unwrap();
        fs::remove_dir(dir(Slot(1))).unwrap();
        std::os::unix::fs::symlink(&target, dir(Slot(1))).unwrap();
        let mut watch = Watch::begin(5, dir).unwrap();
        for s in [Slot(0), Slot(1)] {
            fs::rename(dir(s), dir(s).with_extension("replaced-0")).unwrap();
            watch.notice();
            assert_eq!(watch.take_lost(&|_| true), SlotSet::NONE.with(s));
        }
        File::create(dir(Slot(4)).join("claim-9")).unwrap();
        watch.notice();
        assert_eq!((watch.look(), watch.look()), (Look::Claimed(9), Look::Claimed(9)));
        let mut watch = Watch::begin(9, dir).unwrap();
        fs::rename(temp.path().join("az-2"), temp.path().join("away")).unwrap();
        assert_eq!(watch.look(), Look::Unsure, "slots 2 and 3 are left");
        assert_eq!(watch.take_lost(&|_| true), SlotSet::NONE.with(Slot(4)).with(Slot(5)));
        fs::remove_dir_all(temp.path().join("away")).unwrap();
        watch.look();
        assert_eq!(watch.take_lost(&|_| true), SlotSet::NONE);
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
