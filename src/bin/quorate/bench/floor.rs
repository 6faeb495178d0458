//! The floor: what these disks allow. Six files, one in each slot's AZ directory, written like a volume's segments and
//! with nothing else done: whole blocks, O_DIRECT, each write durable by `RWF_DSYNC`, through io_uring where the volume
//! uses it and by threads otherwise, into space that was allocated ahead and never written, one write a file at a time.
//! A file that is behind takes everything up to the tail with its next write. Acknowledged at 4. No bytes are encoded,
//! checksummed, copied or indexed. They are random, as no disk can make them smaller; and the ring's writes are done by the
//! kernel's workers, as the volume's: RAM disks would do them one after the other in the call that submits them.
#![allow(unsafe_code)]

use crate::bench::Random;
use crate::common::{At, Fail};
use crossbeam_channel::{Receiver, Sender, bounded};
use memmap2::MmapMut;
use quorate::{Health, Lsn};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one write at most, as the volume's.
const WRITE_MAX: u64 = 1 << 20;
/// Space ahead of a round. Behind it the files begin anew.
const ROOM: u64 = 64 << 20;
/// A write that takes longer ends the bench.
const PATIENCE: Duration = Duration::from_secs(30);
/// Files that must have it.
const QUORUM: usize = 4;

/// One of the six files.
struct File {
    fd: Arc<OwnedFd>,
    /// Durable up to here.
    cursor: u64,
    /// A write is on its way, up to here.
    busy: Option<u64>,
}

enum Io {
    #[cfg(feature = "io-uring")]
    Uring(Box<io_uring::IoUring>, MmapMut),
    Threads(Vec<Sender<(u64, u64)>>, Receiver<(usize, io::Result<()>)>),
}

/// The six files.
pub struct Floor {
    files: Vec<File>,
    io: Io,
    places: Vec<PathBuf>,
    block: u64,
    tail: u64,
}

impl Floor {
    /// Makes the files. They are removed when this is dropped.
    pub fn new(at: &At, block: u32, uring: bool) -> Result<Floor, Fail> {
        let io = Io::Threads(Vec::new(), crossbeam_channel::never());
        let mut floor = Floor { files: Vec::new(), io, places: Vec::new(), block: u64::from(block), tail: 0 };
        for (i, slot) in at.slots().iter().enumerate() {
            let Some(az) = slot.parent().filter(|az| az.is_dir()) else { continue };
            sweep(az);
            let place = az.join(format!("bench-{}-{i}", std::process::id()));
            let fail = |e: io::Error| {
                Fail::new(format!("{}: {e}; the bench needs some space beside the slots", place.display()))
            };
            std::fs::create_dir(&place).map_err(fail)?;
            floor.places.push(place.clone());
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
            let open = |flags| rustix::fs::open(place.join("floor"), flags, Mode::from(0o600));
            // tmpfs has no direct I/O on older kernels; the volume does without there, too.
            let fd = open(flags | OFlags::DIRECT).or_else(|_| open(flags)).map_err(|e| fail(e.into()))?;
            floor.files.push(File { fd: Arc::new(fd), cursor: 0, busy: None });
        }
        if floor.files.len() < QUORUM {
            return Err(Fail::new("fewer than four slots' directories are there; bring back a disk"));
        }
        floor.io = floor.start(uring)?;
        floor.make_room()?;
        Ok(floor)
    }

    fn start(&self, uring: bool) -> Result<Io, Fail> {
        let fail = |e: io::Error| Fail::new(format!("the bench's own I/O: {e}"));
        #[cfg(feature = "io-uring")]
        if uring {
            let ring = io_uring::IoUring::new(32).map_err(fail)?;
            return Ok(Io::Uring(Box::new(ring), random_bytes().map_err(fail)?));
        }
        let _ = uring;
        let (done, ended) = bounded(2 * self.files.len());
        let mut senders = Vec::new();
        for (i, file) in self.files.iter().enumerate() {
            let (send, tasks) = bounded::<(u64, u64)>(1);
            let (fd, done) = (file.fd.clone(), done.clone());
            let buffer = random_bytes().map_err(fail)?;
            let write = move || {
                for (from, to) in tasks {
                    if done.send((i, write_durably(&fd, &buffer[..(to - from) as usize], from))).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new().spawn(write).map_err(fail)?;
            senders.push(send);
        }
        Ok(Io::Threads(senders, ended))
    }

    /// Before each round, off the clock: everything written, and fresh space ahead.
    pub fn make_room(&mut self) -> Result<(), Fail> {
        while self.files.iter().any(|f| f.busy.is_some()) {
            self.wait()?;
        }
        self.tail = 0;
        for file in &mut self.files {
            file.cursor = 0;
            let made = rustix::fs::ftruncate(&file.fd, 0)
                .and_then(|()| rustix::fs::fallocate(&file.fd, FallocateFlags::empty(), 0, ROOM + WRITE_MAX));
            match made {
                Ok(()) | Err(Errno::OPNOTSUPP) => (),
                Err(e) => return Err(Fail::new(format!("space for the floor: {e}; free 400 MiB beside the volume"))),
            }
        }
        Ok(())
    }

    /// There is no more fresh space in this round.
    pub fn is_full(&self) -> bool {
        self.tail + WRITE_MAX > ROOM
    }

    /// A group of so many bytes, from block to block.
    pub fn append(&mut self, bytes: u64) -> u64 {
        self.tail += bytes.next_multiple_of(self.block);
        self.tail
    }

    /// Four files can take a write now.
    pub fn takes_a_group(&self) -> bool {
        self.files.iter().filter(|f| f.busy.is_none()).count() >= QUORUM
    }

    /// On four files up to here.
    pub fn durable(&self) -> u64 {
        let mut cursors: Vec<u64> = self.files.iter().map(|f| f.cursor).collect();
        cursors.sort_unstable_by(|a, b| b.cmp(a));
        cursors[QUORUM - 1]
    }

    /// Gives every idle file what it lacks.
    pub fn write(&mut self) -> Result<(), Fail> {
        #[cfg_attr(not(feature = "io-uring"), expect(unused_mut, reason = "only the ring pushes"))]
        let mut pushed = false;
        for i in 0..self.files.len() {
            let file = &mut self.files[i];
            if file.busy.is_some() || file.cursor == self.tail {
                continue;
            }
            let (from, to) = (file.cursor, self.tail.min(file.cursor + WRITE_MAX));
            file.busy = Some(to);
            match &mut self.io {
                #[cfg(feature = "io-uring")]
                Io::Uring(ring, buffer) => {
                    use std::os::fd::AsRawFd;
                    let fd = io_uring::types::Fd(file.fd.as_raw_fd());
                    let entry = io_uring::opcode::Write::new(fd, buffer.as_ptr(), (to - from) as u32)
                        .offset(from)
                        .rw_flags(ReadWriteFlags::DSYNC.bits() as i32)
                        .build()
                        .user_data(i as u64)
                        .flags(io_uring::squeue::Flags::ASYNC);
                    // SAFETY: buffer and descriptor outlive the write: `Drop` waits for what is busy, or leaks both.
                    let full = unsafe { ring.submission().push(&entry) }.is_err();
                    if full {
                        return Err(Fail::new("the bench's ring is full: please report this"));
                    }
                    pushed = true;
                }
                Io::Threads(tasks, _) => {
                    if tasks[i].send((from, to)).is_err() {
                        return Err(Fail::new("a thread of the bench ended: please report this"));
                    }
                }
            }
        }
        #[cfg(feature = "io-uring")]
        if pushed && let Io::Uring(ring, _) = &mut self.io {
            ring.submit().map_err(|e| Fail::new(format!("io_uring: {e}")))?;
        }
        let _ = pushed;
        Ok(())
    }

    /// Waits for as many writes as the tail's quorum lacks, one at least.
    pub fn wait(&mut self) -> Result<(), Fail> {
        let busy = self.files.iter().filter(|f| f.busy.is_some()).count();
        if busy == 0 {
            return Ok(());
        }
        let have = self.files.iter().filter(|f| f.cursor == self.tail).count();
        let want = QUORUM.saturating_sub(have).clamp(1, busy);
        // How far each came; nothing of it if its thread ended before the kernel's worker began.
        let mut ended: Vec<(usize, io::Result<bool>)> = Vec::with_capacity(busy);
        match &mut self.io {
            #[cfg(feature = "io-uring")]
            Io::Uring(ring, _) => {
                let time = io_uring::types::Timespec::from(PATIENCE);
                match ring.submitter().submit_with_args(want, &io_uring::types::SubmitArgs::new().timespec(&time)) {
                    Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                        return Err(Fail::new(format!("io_uring: {e}; no write ended within {PATIENCE:?}?")));
                    }
                    _ => (),
                }
                for c in ring.completion() {
                    let i = c.user_data() as usize;
                    let file = &self.files[i];
                    let len = file.busy.map_or(0, |to| to - file.cursor);
                    let result = match c.result() {
                        n if n >= 0 && n as u64 == len => Ok(true),
                        n if n >= 0 => Err(io::ErrorKind::WriteZero.into()),
                        e if -e == Errno::CANCELED.raw_os_error() || -e == Errno::INTR.raw_os_error() => Ok(false),
                        e => Err(io::Error::from_raw_os_error(-e)),
                    };
                    ended.push((i, result));
                }
            }
            Io::Threads(_, done) => {
                for _ in 0..want {
                    let Ok((i, result)) = done.recv_timeout(PATIENCE) else {
                        return Err(Fail::new(format!("no write of the floor ended within {PATIENCE:?}")));
                    };
                    ended.push((i, result.map(|()| true)));
                }
                ended.extend(done.try_iter().map(|(i, result)| (i, result.map(|()| true))));
            }
        }
        let mut failed = Ok(());
        for (i, result) in ended {
            let file = &mut self.files[i];
            let to = file.busy.take();
            match result {
                Ok(true) => file.cursor = to.unwrap_or(file.cursor),
                Ok(false) => (),
                Err(e) => failed = Err(Fail::new(format!("a floor write: {e}; the figures would be wrong"))),
            }
        }
        failed
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        while self.files.iter().any(|f| f.busy.is_some()) {
            if self.wait().is_err() {
                // The kernel may still read the buffer.
                let none = Io::Threads(Vec::new(), crossbeam_channel::never());
                std::mem::forget(std::mem::replace(&mut self.io, none));
                self.files.drain(..).for_each(std::mem::forget);
            }
        }
        for place in &self.places {
            let _ = std::fs::remove_dir_all(place);
        }
    }
}

/// What is written, over and over again.
fn random_bytes() -> io::Result<MmapMut> {
    let (mut bytes, mut random) = (MmapMut::map_anon(WRITE_MAX as usize)?, Random::new(5));
    bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()));
    Ok(bytes)
}

/// Removes what a bench that was killed has left in an AZ's directory.
fn sweep(az: &Path) {
    for path in std::fs::read_dir(az).into_iter().flatten().flatten().map(|e| e.path()) {
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("bench-"));
        let pid = name.and_then(|n| n.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

fn write_durably(fd: &OwnedFd, bytes: &[u8], offset: u64) -> io::Result<()> {
    match rustix::io::pwritev2(fd, &[io::IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(e) => Err(e.into()),
    }
}

/// Bare reads of a page, past the page cache: of the very bytes that the volume reads. Disks differ in what they hold
/// (zram takes a block of equal words for nothing and unpacks others), so a floor of other bytes, or of a smaller range,
/// would favour one side. A page's record lies across one block more than a page has, and that block alone is not read.
pub struct Reads {
    /// By slot, then by segment.
    files: Vec<Vec<OwnedFd>>,
    /// For each page, which segment, and where in it.
    places: Vec<(usize, u64)>,
    buffer: MmapMut,
}

impl Reads {
    /// Of these records, each of one page's image.
    pub fn new(at: &At, health: &Health, records: &[Lsn]) -> Result<Reads, Fail> {
        let fail = |e: io::Error| Fail::new(format!("the volume's segments: {e}"));
        let segments: BTreeSet<u64> = records.iter().map(|lsn| lsn.0 / health.pg_size).collect();
        let block = u64::from(health.block_size);
        let place = |lsn: &Lsn| {
            let segment = segments.range(..lsn.0 / health.pg_size).count();
            (segment, lsn.0 % health.pg_size / block * block)
        };
        let mut files = Vec::new();
        for slot in at.slots() {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let open = |segment: &u64| {
                let path = slot.join(format!("seg-{segment:08x}"));
                let open = |flags| rustix::fs::open(&path, flags, Mode::empty());
                let direct = flags | OFlags::DIRECT;
                open(direct | OFlags::NOATIME).or_else(|_| open(direct)).or_else(|_| open(flags))
            };
            // A slot that is away may lack some.
            files.extend(segments.iter().map(open).collect::<Result<Vec<_>, _>>().ok());
        }
        if files.is_empty() || records.is_empty() {
            return Err(Fail::new("no slot holds the pages to read: please report this"));
        }
        let buffer = MmapMut::map_anon(health.page_size as usize).map_err(fail)?;
        Ok(Reads { files, places: records.iter().map(place).collect(), buffer })
    }

    /// One of the pages, from one of the slots.
    pub fn read(&mut self, random: u64) -> Result<(), Fail> {
        let files = &self.files[(random >> 40) as usize % self.files.len()];
        let (segment, at) = self.places[(random >> 16) as usize % self.places.len()];
        match rustix::io::pread(&files[segment], &mut self.buffer[..], at) {
            Ok(n) if n == self.buffer.len() => Ok(()),
            Ok(n) => Err(Fail::new(format!("a bare read: {n} bytes"))),
            Err(e) => Err(Fail::new(format!("a bare read: {e}"))),
        }
    }
}
