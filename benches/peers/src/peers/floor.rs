//! The floor: what these disks allow. Six files, two in each directory, written like a volume's segments and with nothing
//! else done: whole blocks, O_DIRECT, each write durable by `RWF_DSYNC`, through io_uring, into space that was allocated
//! ahead and never written, one write a file at a time. A file that is behind takes everything up to the tail with its
//! next write. Durable on four. It is `quorate bench`'s floor; only here space is made on the clock, as the peers do.
#![allow(unsafe_code)]

use crate::peer::{Peer, Setup, Ticket};
use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, opcode, types};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::LazyLock;

const FILES: usize = 6;
/// Files that must have it.
const QUORUM: usize = 4;
const BLOCK: u64 = 4096;
/// Bytes of one write at most, as the volume's.
const WRITE_MAX: u64 = 1 << 20;
/// Space is made ahead in steps of this.
const ROOM: u64 = 64 << 20;
const DSYNC: i32 = 2;

struct File {
    fd: OwnedFd,
    /// Durable up to here.
    cursor: u64,
    /// A write is on its way, up to here.
    busy: Option<u64>,
}

/// What is handed in and what is done, in bytes of payload.
#[derive(Default)]
struct State {
    handed_in: u64,
    durable: u64,
    leading: bool,
    failed: bool,
}

struct Writer {
    files: Vec<File>,
    ring: IoUring,
    /// What is written, over and over again. Aligned by its size.
    buffer: &'static [u8],
    /// Allocated up to here.
    room: u64,
    tail: u64,
    sealed: u64,
    /// Where each group ends in the files, and how many bytes were handed in up to it.
    groups: std::collections::VecDeque<(u64, u64)>,
}

struct Floor {
    state: Mutex<State>,
    bell: Condvar,
    writer: Mutex<Writer>,
}

#[repr(align(4096))]
struct Aligned([u8; WRITE_MAX as usize]);
/// Random, for a RAM disk makes others smaller.
static BYTES: LazyLock<Box<Aligned>> = LazyLock::new(|| {
    let (mut bytes, mut x) = (Box::new(Aligned([0; WRITE_MAX as usize])), 0x9E37_79B9_7F4A_7C15u64);
    for byte in &mut bytes.0 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *byte = x as u8;
    }
    bytes
});

pub fn open(setup: &Setup) -> Result<Box<dyn Peer>> {
    let mut files = Vec::new();
    for i in 0..FILES {
        let path = setup.dirs[i * setup.dirs.len() / FILES].join(format!("floor-{i}"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::DIRECT;
        let fd = rustix::fs::open(&path, flags, Mode::from(0o600)).context("the floor's file")?;
        files.push(File { fd, cursor: 0, busy: None });
    }
    let mut writer = Writer {
        files,
        ring: IoUring::new(32)?,
        buffer: &BYTES.0,
        room: 0,
        tail: 0,
        sealed: 0,
        groups: Default::default(),
    };
    writer.make_room()?;
    Ok(Box::new(Floor { state: Mutex::default(), bell: Condvar::new(), writer: Mutex::new(writer) }))
}

impl Writer {
    fn make_room(&mut self) -> Result<()> {
        for file in &self.files {
            fallocate(&file.fd, FallocateFlags::empty(), self.room, ROOM).context("space for the floor")?;
        }
        self.room += ROOM;
        Ok(())
    }

    /// Four files can take a write now.
    fn takes_a_group(&self) -> bool {
        self.files.iter().filter(|f| f.busy.is_none()).count() >= QUORUM
    }

    /// Seals what was handed in as a group, from block to block.
    fn seal(&mut self, handed_in: u64) -> Result<()> {
        if handed_in > self.sealed {
            self.tail += (handed_in - self.sealed).next_multiple_of(BLOCK);
            self.sealed = handed_in;
            self.groups.push_back((self.tail, handed_in));
            while self.tail > self.room {
                self.make_room()?;
            }
        }
        Ok(())
    }

    /// Gives every idle file what it lacks.
    fn write(&mut self) -> Result<()> {
        for (i, file) in self.files.iter_mut().enumerate() {
            if file.busy.is_some() || file.cursor == self.tail {
                continue;
            }
            let to = self.tail.min(file.cursor + WRITE_MAX);
            let fd = types::Fd(file.fd.as_raw_fd());
            let entry = opcode::Write::new(fd, self.buffer.as_ptr(), (to - file.cursor) as u32)
                .offset(file.cursor)
                .rw_flags(DSYNC)
                .build()
                .user_data(i as u64)
                // By the kernel's workers, as the volume's: RAM disks would do one after the other in the call that submits.
                .flags(io_uring::squeue::Flags::ASYNC);
            // SAFETY: the buffer is static, and `Drop` waits for writes before files are closed.
            unsafe { self.ring.submission().push(&entry) }.context("the ring is full")?;
            file.busy = Some(to);
        }
        Ok(())
    }

    /// Submits, and waits for as many writes as the tail's quorum lacks, one at least.
    fn wait(&mut self) -> Result<()> {
        let busy = self.files.iter().filter(|f| f.busy.is_some()).count();
        if busy == 0 {
            return Ok(());
        }
        let have = self.files.iter().filter(|f| f.cursor == self.tail).count();
        let want = QUORUM.saturating_sub(have).clamp(1, busy);
        let time = types::Timespec::from(std::time::Duration::from_secs(30));
        match self.ring.submitter().submit_with_args(want, &types::SubmitArgs::new().timespec(&time)) {
            Err(e) if e.kind() != std::io::ErrorKind::Interrupted => return Err(e.into()),
            _ => (),
        }
        for done in self.ring.completion() {
            let file = &mut self.files[done.user_data() as usize];
            let to = file.busy.take().context("a write that nobody made")?;
            // Its thread ended before the kernel's worker began: it is written with the next ones.
            if done.result() == -rustix::io::Errno::CANCELED.raw_os_error() {
                continue;
            }
            ensure!(done.result() as u64 == to - file.cursor, "a floor write ended with {}", done.result());
            file.cursor = to;
        }
        Ok(())
    }

    /// Bytes handed in that four files have, if there are more than before.
    fn durable(&mut self) -> Option<u64> {
        let mut cursors: Vec<u64> = self.files.iter().map(|f| f.cursor).collect();
        cursors.sort_unstable_by(|a, b| b.cmp(a));
        let mut durable = None;
        while let Some((_, bytes)) = self.groups.pop_front_if(|(end, _)| *end <= cursors[QUORUM - 1]) {
            durable = Some(bytes);
        }
        durable
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for _ in 0..32 {
            if self.files.iter().all(|f| f.busy.is_none()) || self.wait().is_err() {
                return;
            }
        }
    }
}

impl Floor {
    fn hand_in(&self, bytes: usize) -> u64 {
        let mut state = self.state.lock();
        state.handed_in += bytes as u64;
        state.handed_in
    }

    /// Whoever finds nobody at it writes for all.
    fn wait(&self, mine: u64) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            if state.failed {
                bail!("another thread's write failed");
            }
            if state.durable >= mine {
                return Ok(());
            }
            if state.leading {
                self.bell.wait(&mut state);
                continue;
            }
            state.leading = true;
            drop(state);
            let led = self.lead(mine);
            state = self.state.lock();
            state.leading = false;
            state.failed |= led.is_err();
            self.bell.notify_all();
            led?;
        }
    }

    fn lead(&self, mine: u64) -> Result<()> {
        let mut w = self.writer.lock();
        loop {
            if w.takes_a_group() {
                let handed_in = self.state.lock().handed_in;
                w.seal(handed_in)?;
            }
            w.write()?;
            w.wait()?;
            if let Some(durable) = w.durable() {
                self.state.lock().durable = durable;
                self.bell.notify_all();
                if durable >= mine {
                    return Ok(());
                }
            }
        }
    }
}

impl Peer for Floor {
    fn commit_batch(&self, all: &[(u64, &[u8])]) -> Result<()> {
        self.wait(self.hand_in(all.iter().map(|(_, value)| value.len()).sum()))
    }

    fn submit(&self, _: u64, value: &[u8]) -> Result<Option<Ticket<'_>>> {
        let mine = self.hand_in(value.len());
        Ok(Some(Box::new(move || self.wait(mine))))
    }

    fn get(&self, _: u64, _: &mut dyn FnMut(&[u8])) -> Result<()> {
        bail!("the floor has no keys")
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
