//! A slot's directory on a real file system: O_DIRECT, `RWF_DSYNC`, fallocate.

use crate::disk::bounded::Reads;
use crate::disk::{SPACE_LEAST, SlotDir};
use crate::lsn::format;
use crate::segment::name::FileName;
use crate::segment::placement;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes moved by one call at most.
const CHUNK: usize = 1 << 20;
/// A huge page's bytes; where they are others, a map of so many is one in small pages.
const HUGE: usize = 2 << 20;
/// How long another slot's punching is waited for.
const PUNCH_TURN: Duration = Duration::from_millis(20);
/// The longest rest after one: a disk that takes long is not to be behind for ever.
const PUNCH_REST: Duration = Duration::from_millis(20);
/// There was nothing to punch, or little.
const PUNCH_SHORT: Duration = Duration::from_micros(100);
/// Open files kept for a slot; the oldest goes first.
const FILES_MAX: usize = 64;

/// What was done to one slot, call by call.
#[derive(Debug, Default)]
pub struct Meter {
    /// Calls that write, sync, allocate, punch, create or remove, io_uring's included.
    pub writes: AtomicU64,
    pub bytes_written: AtomicU64,
    pub bytes_read: AtomicU64,
    /// Holes that the file system has refused.
    pub punches_refused: AtomicU64,
}

impl Meter {
    /// So many write-class calls, with so many bytes.
    pub fn wrote(&self, calls: u64, bytes: u64) {
        self.writes.fetch_add(calls, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A slot on files.
pub struct FileDir {
    path: PathBuf,
    block: usize,
    /// O_DIRECT is refused here (tmpfs with `allow_volatile`).
    buffered: bool,
    /// The directory itself: what was begun in it ends in it, also when another one takes its place.
    held: Mutex<Option<Arc<OwnedFd>>>,
    files: Mutex<Files>,
    pub meter: Meter,
    reads: Reads,
    /// Nanoseconds that a page read takes, smoothed over eight.
    pace: AtomicU64,
    /// Slots punch by turns: an append needs four of them.
    pub punching: Arc<Mutex<()>>,
}

#[derive(Default)]
struct Files {
    open: HashMap<FileName, (Arc<OwnedFd>, u64), foldhash::fast::FixedState>,
    clock: u64,
    /// How often something was taken out because it may not be what it was.
    cleared: u64,
}

impl Files {
    fn get(&mut self, name: FileName) -> Option<Arc<OwnedFd>> {
        self.clock += 1;
        let (fd, used) = self.open.get_mut(&name)?;
        *used = self.clock;
        Some(fd.clone())
    }

    fn clear(&mut self) {
        self.open.clear();
        self.cleared += 1;
    }

    fn forget(&mut self, name: FileName) {
        self.open.remove(&name);
        self.cleared += 1;
    }
}

impl FileDir {
    /// Of a directory that exists, or will be made by the first write.
    pub fn new(path: PathBuf, block: usize, buffered: bool, reads: Reads) -> FileDir {
        FileDir {
            path,
            block,
            buffered,
            held: Mutex::default(),
            pace: AtomicU64::new(0),
            files: Mutex::default(),
            meter: Meter::default(),
            reads,
            punching: Arc::default(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, opened for reading and writing past the page cache. The descriptor stays open while it is held.
    pub fn open(&self, name: FileName, create: bool) -> io::Result<Arc<OwnedFd>> {
        let cleared = {
            let mut files = self.files.lock();
            if let Some(fd) = files.get(name) {
                return Ok(fd);
            }
            files.cleared
        };
        // A disk may hang: the lock is not held meanwhile, and who has the file open goes on.
        let fd = Arc::new(self.open_new(name, create)?);
        let mut files = self.files.lock();
        if files.cleared != cleared {
            // It may be another file by now, or none: whoever asks next opens it.
            return Ok(fd);
        }
        if let Some(fd) = files.get(name) {
            return Ok(fd);
        }
        let clock = files.clock;
        if files.open.len() >= FILES_MAX
            && let Some(oldest) = files.open.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| *name)
        {
            files.open.remove(&oldest);
        }
        files.open.insert(name, (fd.clone(), clock));
        Ok(fd)
    }

    /// The slot's directory, as it was when it was first asked for since [`SlotDir::reopen`].
    fn directory(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(dir) = &*self.held.lock() {
            return Ok(dir.clone());
        }
        // A disk may hang: the lock is not held meanwhile.
        let dir = Arc::new(self.open_directory()?);
        Ok(self.held.lock().get_or_insert(dir).clone())
    }

    fn open_directory(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.path, flags, Mode::empty())?)
    }

    /// The slot's directory is made where its AZ is there: a blank disk in place of a lost one. Never through a link.
    fn directory_or_new(&self) -> io::Result<Arc<OwnedFd>> {
        match self.directory() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.meter.wrote(2, 0);
                std::fs::create_dir(&self.path)?;
                self.path.parent().map_or(Ok(()), sync_dir)?;
                self.directory()
            }
            other => other,
        }
    }

    /// An AZ without this slot may be formatted only if nothing else is there than what this AZ may hold: not a disk that
    /// was mounted in another's place. Names behind a dot are a replacement's.
    fn az_is_blank(&self) -> io::Result<()> {
        let Some(az) = self.path.parent() else { return Err(io::ErrorKind::NotFound.into()) };
        if self.path.is_symlink() {
            // The disk that it points to is not mounted: it is missing, and must not be taken for a blank one.
            return Err(io::ErrorKind::NotFound.into());
        }
        let slot = |path: &Path| {
            let name = path.file_name()?.to_str()?.strip_prefix("slot-")?;
            name.split('.').next()?.parse::<u8>().ok()
        };
        for entry in std::fs::read_dir(az)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if path == self.path.with_extension("new") {
                let what = format!("{}: replacing the slot was cut short; do it again", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            let same_az = slot(&path).is_some_and(|s| Some(s / 2) == slot(&self.path).map(|s| s / 2));
            if !same_az && name != "lost+found" && !name.starts_with("lock-") {
                let what = format!("{} is there and the slot is not: is it the right disk?", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        }
        Ok(())
    }

    fn lies_well(&self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(self.block) && bytes.len().is_multiple_of(self.block)
    }

    fn write_chunks(&self, fd: &OwnedFd, offset: u64, bytes: &[u8], flags: ReadWriteFlags) -> io::Result<()> {
        for (i, chunk) in bytes.chunks(CHUNK).enumerate() {
            let at = offset + (i * CHUNK) as u64;
            let len = chunk.len().next_multiple_of(self.block);
            self.meter.wrote(1, len as u64);
            // Bytes that lie as the device wants them need no copy.
            if self.lies_well(chunk) {
                write_whole(fd, chunk, at, flags)?;
                continue;
            }
            with_buffer(len, |bounce| {
                bounce[..chunk.len()].copy_from_slice(chunk);
                bounce[chunk.len()..].fill(0);
                write_whole(fd, bounce, at, flags)
            })?;
        }
        Ok(())
    }

    fn open_new(&self, name: FileName, create: bool) -> io::Result<OwnedFd> {
        let dir = if create { self.directory_or_new()? } else { self.directory()? };
        let path = name.to_string();
        let flags = OFlags::RDWR | OFlags::CLOEXEC | if self.buffered { OFlags::empty() } else { OFlags::DIRECT };
        // A read need not change the inode, which the next write would have to take to the disk. Owners may say so.
        let open = |flags| match rustix::fs::openat(&dir, &path, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(&dir, &path, flags, Mode::empty()),
            other => other,
        };
        let fd = match open(flags) {
            Err(Errno::NOENT) if create => {
                self.meter.wrote(2, 0);
                let fd = rustix::fs::openat(&dir, &path, flags | OFlags::CREATE, Mode::from(0o600))?;
                rustix::fs::fsync(&dir)?;
                fd
            }
            // A directory on read-only media can still be read.
            Err(Errno::ROFS | Errno::ACCESS) if !create => {
                let flags = (flags - OFlags::RDWR) | OFlags::RDONLY;
                open(flags)?
            }
            other => other?,
        };
        if self.buffered {
            // What an earlier flush failed on is clean in the page cache, and not on the disk.
            rustix::fs::fadvise(&fd, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(fd)
    }
}

/// Nothing was written there: all would be read as zeros. A file system that does not know says that there is something.
fn is_hole(fd: &OwnedFd, offset: u64, len: usize) -> bool {
    match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + len as u64,
        Err(e) => e == Errno::NXIO,
    }
}

/// Makes a directory's entries durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Memory in as few pieces as there can be: a device takes only so many at once, and a frame in pages of 4 KiB has more.
fn in_huge_pages(len: usize) -> io::Result<memmap2::MmapMut> {
    let map = memmap2::MmapMut::map_anon(len.next_multiple_of(HUGE))?;
    // Where there are none it is memory all the same.
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// A page-aligned buffer that goes back to its thread.
pub fn with_buffer<R>(len: usize, f: impl FnOnce(&mut [u8]) -> io::Result<R>) -> io::Result<R> {
    thread_local!(static BUFFER: std::cell::RefCell<Option<memmap2::MmapMut>> = const { std::cell::RefCell::new(None) });
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.as_ref().is_none_or(|b| b.len() < len) {
            let whole = len.next_power_of_two();
            *buffer = Some(if whole < CHUNK { memmap2::MmapMut::map_anon(whole)? } else { in_huge_pages(whole)? });
        }
        match buffer {
            Some(map) => f(&mut map[..len]),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    })
}

impl SlotDir for FileDir {
    fn list(&self) -> io::Result<Vec<FileName>> {
        let dir = match self.open_directory() {
            // The AZ is there and its slot is not: blank. Without the AZ the disk is not mounted.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.az_is_blank().map(|()| Vec::new()),
            other => other?,
        };
        let held = self.directory()?;
        let which = |dir: &OwnedFd| rustix::fs::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino));
        if which(&held)? != which(&dir)? {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another directory is in the slot's place"));
        }
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(8192);
        let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            names.extend(entry?.file_name().to_str().ok().and_then(FileName::parse));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_new(&self, name: FileName) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let dir = self.directory_or_new()?;
        self.meter.wrote(2, 0);
        rustix::fs::openat(&dir, name.to_string(), flags, Mode::from(0o600))?;
        Ok(rustix::fs::fsync(&dir)?)
    }

    fn read(&self, name: FileName, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let fd = self.open(name, false)?;
        let mut bytes = Vec::new();
        while bytes.len() < most {
            let at = offset + bytes.len() as u64;
            let head = (at % self.block as u64) as usize;
            let want = (most - bytes.len()).min(CHUNK);
            let got = with_buffer((head + want).next_multiple_of(self.block), |bounce| {
                let got = rustix::io::pread(&fd, &mut *bounce, at - head as u64)?.saturating_sub(head).min(want);
                bytes.extend_from_slice(&bounce[head..head + got]);
                Ok(got)
            })?;
            self.meter.bytes_read.fetch_add(got as u64, Ordering::Relaxed);
            if got < want {
                break;
            }
        }
        Ok(bytes)
    }

    fn read_with(&self, name: FileName, offset: u64, len: usize, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let fd = self.open(name, false)?;
        let head = (offset % self.block as u64) as usize;
        let whole = (head + len).next_multiple_of(self.block);
        let begun = Instant::now();
        self.reads.read(&fd, offset - head as u64, whole, &mut |bytes| {
            // Before it is looked at: that takes as long on every disk.
            let took = begun.elapsed().as_nanos() as u64;
            let pace = self.pace.load(Ordering::Relaxed);
            self.pace.store(if pace == 0 { took } else { pace - pace / 8 + took / 8 }, Ordering::Relaxed);
            let bytes = bytes.get(head..).unwrap_or_default();
            let bytes = &bytes[..bytes.len().min(len)];
            self.meter.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            f(bytes);
        })
    }

    fn pace(&self) -> u64 {
        self.pace.load(Ordering::Relaxed)
    }

    fn scan(&self, name: FileName, offset: u64, most: usize, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let fd = self.open(name, false)?;
        if is_hole(&fd, offset, most) {
            f(&[]);
            return Ok(());
        }
        let head = (offset % self.block as u64) as usize;
        with_buffer((head + most).next_multiple_of(self.block), |buffer| {
            let got = rustix::io::pread(&fd, &mut *buffer, offset - head as u64)?.saturating_sub(head).min(most);
            self.meter.bytes_read.fetch_add(got as u64, Ordering::Relaxed);
            f(&buffer[head..head + got]);
            Ok(())
        })
    }

    fn read_owned(&self, name: FileName, offset: u64, most: usize) -> io::Result<Bytes> {
        let fd = self.open(name, false)?;
        if !offset.is_multiple_of(self.block as u64) || !most.is_multiple_of(self.block) {
            return self.read(name, offset, most).map(Bytes::from);
        }
        let mut map = memmap2::MmapOptions::new().len(most).populate().map_anon()?;
        let got = rustix::io::pread(&fd, &mut map[..], offset)?;
        self.meter.bytes_read.fetch_add(got as u64, Ordering::Relaxed);
        Ok(Bytes::from_owner(map).slice(..got))
    }

    fn read_frames(&self, name: FileName, offset: u64, count: usize) -> io::Result<Vec<Bytes>> {
        let fd = self.open(name, false)?;
        let frame = format::FRAME as usize;
        let mut map = in_huge_pages(count * frame)?;
        let got = rustix::io::pread(&fd, &mut map[..count * frame], offset)?;
        self.meter.bytes_read.fetch_add(got as u64, Ordering::Relaxed);
        let read = Bytes::from_owner(map);
        let each = |i: usize| match got >= (i + 1) * frame {
            true => Ok(read.slice(i * frame..(i + 1) * frame)),
            // Behind the file's end, or at a bad sector.
            false => self.read_owned(name, offset + (i * frame) as u64, frame),
        };
        (0..count).map(each).collect()
    }

    fn write_many(&self, name: FileName, writes: &[(u64, &[u8])]) -> io::Result<()> {
        let fd = self.open(name, true)?;
        // What lies side by side, as the device wants it, goes in one call: a thread that waits for each piece of it waits
        // for the processor each time, too.
        let lies_well = |bytes: &[u8]| self.lies_well(bytes);
        let follows =
            |a: &(u64, &[u8]), b: &(u64, &[u8])| a.0 + a.1.len() as u64 == b.0 && lies_well(a.1) && lies_well(b.1);
        for run in writes.chunk_by(follows) {
            let [(offset, bytes)] = run else {
                let mut slices: Vec<io::IoSlice<'_>> = run.iter().map(|(_, bytes)| io::IoSlice::new(bytes)).collect();
                let len: usize = run.iter().map(|(_, bytes)| bytes.len()).sum();
                self.meter.wrote(1, len as u64);
                write_slices(&fd, &mut slices, run[0].0, ReadWriteFlags::empty())?;
                continue;
            };
            self.write_chunks(&fd, *offset, bytes, ReadWriteFlags::empty())?;
        }
        self.meter.wrote(1, 0);
        Ok(rustix::fs::fdatasync(&fd)?)
    }

    fn write_at(&self, name: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let fd = self.open(name, true)?;
        self.write_chunks(&fd, offset, bytes, ReadWriteFlags::DSYNC)
    }

    fn allocate(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        let fd = self.open(name, true)?;
        // What a disk can not give whole it gives in part, and keeps it in the file: the slot beside would go without. Small
        // pieces long before the end, so that neither gets far ahead.
        let disk = rustix::fs::fstatvfs(&fd)?;
        if len > SPACE_LEAST && len > disk.f_bavail.saturating_mul(disk.f_frsize) / 8 {
            // What is there takes no more: it can be mended on a full disk, too. Nobody reads or writes at the descriptor's
            // own place.
            let hole = rustix::fs::seek(&fd, SeekFrom::Hole(offset)).unwrap_or(offset);
            return if hole >= offset + len { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) };
        }
        self.meter.wrote(1, 0);
        match rustix::fs::fallocate(&fd, FallocateFlags::empty(), offset, len) {
            // A file system without it: writes take their space, and the promise is weaker.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn zero(&self, name: FileName, offset: u64, len: usize) -> io::Result<()> {
        let fd = self.open(name, false)?;
        // Where a block is never written in place, or costs no metadata the first time, it would be twice the work.
        if !matches!(placement::file_system(&fd)?, "ext4" | "xfs") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Memory that is never written takes one page, however long it is.
        self.write_chunks(&fd, offset, &memmap2::MmapMut::map_anon(len)?, ReadWriteFlags::DSYNC)
    }

    fn flush(&self, name: FileName) -> io::Result<()> {
        self.meter.wrote(1, 0);
        Ok(rustix::fs::fdatasync(self.open(name, false)?)?)
    }

    fn drain(&self, name: FileName) -> io::Result<()> {
        let fd = self.open(name, false)?;
        // Cutting a file back waits for direct I/O in flight, on ext4 and xfs: so it is made longer first.
        self.meter.wrote(2, 0);
        let len = rustix::fs::fstat(&fd)?.st_size as u64;
        rustix::fs::ftruncate(&fd, len + self.block as u64)?;
        Ok(rustix::fs::ftruncate(&fd, len)?)
    }

    fn punch(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let fd = self.open(name, false)?;
        self.meter.wrote(1, 0);
        // A disk that hangs holds it for ever: the others go on without.
        let turn = self.punching.try_lock_for(PUNCH_TURN);
        let begun = Instant::now();
        let punched = rustix::fs::fallocate(&fd, flags, offset, len);
        drop(turn);
        match punched {
            // What was to be given back stays until all of the file goes.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.meter.punches_refused.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            other => other?,
        }
        // Who writes the log gets the file as long as this had it: a lock that is taken again at once is not handed on.
        let took = begun.elapsed();
        if took > PUNCH_SHORT {
            std::thread::sleep(took.min(PUNCH_REST));
        }
        Ok(())
    }

    fn read_anew(&self) {
        self.files.lock().clear();
    }

    fn reopen(&self) {
        *self.held.lock() = None;
        self.read_anew();
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.meter.wrote(1, 0);
        self.files.lock().forget(name);
        let dir = match self.directory() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match rustix::fs::unlinkat(&dir, name.to_string(), rustix::fs::AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Writes all of it with `RWF_DSYNC`: durable when it returns.
pub fn write_durably(fd: impl AsFd, bytes: &[u8], offset: u64) -> io::Result<()> {
    write_whole(fd, bytes, offset, ReadWriteFlags::DSYNC)
}

fn write_whole(fd: impl AsFd, bytes: &[u8], offset: u64, flags: ReadWriteFlags) -> io::Result<()> {
    write_slices(fd, &mut [io::IoSlice::new(bytes)], offset, flags)
}

fn write_slices(
    fd: impl AsFd,
    mut slices: &mut [io::IoSlice<'_>],
    mut offset: u64,
    flags: ReadWriteFlags,
) -> io::Result<()> {
    while slices.iter().any(|s| !s.is_empty()) {
        match rustix::io::pwritev2(&fd, slices, offset, flags) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                io::IoSlice::advance_slices(&mut slices, n);
                offset += n as u64;
            }
            Err(Errno::INTR) => (),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::bounded;

    fn dir() -> (tempfile::TempDir, FileDir) {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let dir = FileDir::new(temp.path().to_path_buf(), 4096, false, Reads::new(&bounded::Shared::new(true)));
        (temp, dir)
    }

    #[test]
    fn bytes_come_back_at_any_offset() {
        let (_temp, dir) = dir();
        let bytes: Vec<u8> = (0..3 << 20).map(|i| (i / 7) as u8).collect();
        dir.write_at(FileName::Segment(1), 4096, &bytes).unwrap();
        for (at, len) in [(4096, 10), (5000, 1 << 20), (4096, bytes.len()), (100_000, 2 << 20)] {
            assert!(dir.read(FileName::Segment(1), at as u64, len).unwrap() == bytes[at - 4096..at - 4096 + len]);
        }
        assert_eq!(dir.read(FileName::Segment(1), 4096 + bytes.len() as u64 - 30, 100).unwrap().len(), 30);
        assert_eq!(dir.list().unwrap(), vec![FileName::Segment(1)]);
    }

    #[test]
    fn many_writes_land_and_come_back_and_a_hole_is_nothing() {
        let (_temp, dir) = dir();
        let name = FileName::Segment(3);
        dir.allocate(name, 0, 8 << 20).unwrap();
        let owned: Bytes = {
            let bytes: Vec<u8> = (0..1 << 20).map(|i| (i / 5) as u8).collect();
            dir.write_at(name, 2 << 20, &bytes).unwrap();
            dir.read_owned(name, 2 << 20, 1 << 20).unwrap()
        };
        // As they lie, with a head that lies askew, and longer than a call.
        let askew = [&owned[8..4104], &owned[..], &owned[..]].concat();
        let (half, rest) = owned.split_at(1 << 19);
        dir.write_many(name, &[(3 << 20, half), ((3 << 20) + (1 << 19), rest), (4 << 20, &owned)]).unwrap();
        assert!(dir.read(name, 3 << 20, 2 << 20).unwrap() == [&owned[..], &owned[..]].concat());
        dir.punch(name, 3 << 20, 2 << 20).unwrap();
        dir.write_many(name, &[(0, &owned), (5 << 20, &askew[..(2 << 20) - 4096])]).unwrap();
        assert!(dir.read(name, 0, 1 << 20).unwrap() == owned);
        assert!(dir.read(name, 5 << 20, (2 << 20) - 4096).unwrap() == askew[..(2 << 20) - 4096]);
        let scanned = |at: u64, len: usize| {
            let mut all = Vec::new();
            dir.scan(name, at, len, &mut |bytes| all = bytes.to_vec()).unwrap();
            all
        };
        assert!(scanned(2 << 20, 1 << 20) == owned && scanned((2 << 20) + 10, 100) == owned[10..110]);
        assert!(scanned(3 << 20, 1 << 20).iter().all(|b| *b == 0));
        assert_eq!((scanned(1 << 20, (1 << 20) + 4096).len(), scanned(9 << 20, 4096).len()), ((1 << 20) + 4096, 0));
        assert_eq!(dir.read_owned(name, (8 << 20) - 4096, 8192).unwrap().len(), 4096);
        // Frames at once, the file's end among them.
        dir.write_at(name, 8 << 20, &owned[..4096]).unwrap();
        let frames = dir.read_frames(name, 5 << 20, 5).unwrap();
        assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), [1 << 20, 1 << 20, 1 << 20, 4096, 0]);
        assert!(frames[0] == askew[..1 << 20] && frames[3] == owned[..4096]);
        assert!(dir.read_frames(FileName::Segment(4), 0, 2).is_err());
    }

    #[test]
    fn without_direct_io_what_is_opened_anew_is_read_from_the_disk() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let dir = FileDir::new(temp.path().to_path_buf(), 4096, true, Reads::new(&bounded::Shared::new(true)));
        let name = FileName::Segment(0);
        dir.write_at(name, 0, &[7; 64 << 10]).unwrap();
        // A read that may not wait finds what the page cache has, and nothing else.
        let is_cached = || {
            let (fd, mut block) = (dir.open(name, false).unwrap(), [0; 4096]);
            let slices = &mut [io::IoSliceMut::new(&mut block)];
            match rustix::io::preadv2(&fd, slices, 0, ReadWriteFlags::NOWAIT) {
                Err(Errno::AGAIN) => false,
                read => read.unwrap() == 4096,
            }
        };
        assert!(is_cached(), "what was just written is in the page cache");
        dir.read_anew();
        assert!(!is_cached(), "it was opened anew");
        assert_eq!(dir.read(name, 0, 4096).unwrap(), [7; 4096]);
    }

    #[test]
    fn descriptors_are_few_however_many_files_there_are() {
        const PGS: u64 = 6554;
        let (temp, dir) = dir();
        let open = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| std::fs::read_link(fd.unwrap().path()));
            links.flatten().filter(|to| to.starts_with(temp.path())).count()
        };
        let mut most = 0;
        for pg in 0..PGS {
            std::fs::write(temp.path().join(FileName::Segment(pg).to_string()), (pg + 1).to_le_bytes()).unwrap();
        }
        // The one that is held stays open while others come and go, and each is opened again when it is asked for.
        let held = dir.open(FileName::Segment(0), false).unwrap();
        for i in 0..2 * PGS {
            let pg = i * 4099 % PGS;
            assert_eq!(dir.read(FileName::Segment(pg), 0, 8).unwrap(), (pg + 1).to_le_bytes());
            if i % 64 == 0 {
                most = most.max(open());
            }
        }
        // ... and the directory itself.
        assert!(most > FILES_MAX / 2 && most <= FILES_MAX + 2, "{most} descriptors");
        assert_eq!(rustix::fs::fstat(&held).unwrap().st_size, 8);
    }

    #[test]
    fn a_claim_is_exclusive() {
        let (_temp, dir) = dir();
        dir.create_new(FileName::Claim(4)).unwrap();
        assert_eq!(dir.create_new(FileName::Claim(4)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(dir.read(FileName::Claim(5), 0, 10).unwrap_err().kind(), io::ErrorKind::NotFound);
        dir.remove(FileName::Claim(4)).unwrap();
        dir.remove(FileName::Claim(4)).unwrap();
    }

    #[test]
    fn more_than_a_part_of_what_is_free_is_refused_and_takes_nothing() {
        let (temp, dir) = dir();
        let e = dir.allocate(FileName::Segment(0), 0, 1 << 60).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::StorageFull);
        assert_eq!(temp.path().join("seg-00000000").metadata().unwrap().len(), 0);
        dir.allocate(FileName::Segment(0), 0, SPACE_LEAST).unwrap();
    }

    #[test]
    fn allocated_space_reads_as_zeros() {
        let (_temp, dir) = dir();
        dir.allocate(FileName::Segment(0), 1 << 20, 1 << 20).unwrap();
        assert_eq!(dir.read(FileName::Segment(0), (2 << 20) - 4096, 8192).unwrap(), [0; 4096]);
        dir.flush(FileName::Segment(0)).unwrap();
    }
}
