//! Log writes through io_uring: O_DIRECT from the ring's frames, durable by `RWF_DSYNC`.
//!
//! Submitting and reaping happen under the engine's lock, from whichever thread holds it; waiting happens outside of it.
//! Every write is marked asynchronous: a kernel worker of its own does it. Without the mark a write may be done in the
//! call that submits it (RAM disks), six after each other; or it waits in the kernel for ever: seen on Linux 6.18, where
//! two writes to a frozen file system hung in workers, and the writes to four healthy disks behind them got none.
//! A thread of the ring's own submits: the kernel's workers belong to whoever submitted, and a user's thread that did so
//! could not end before the last write of theirs, on a disk that hangs never (`io_wq_put_and_exit`).
#![allow(unsafe_code)]

use crate::disk::file::FileDir;
use crate::disk::{Done, LogWrite};
use crate::lsn::{SLOTS, Slot};
use crate::segment::name::FileName;
use io_uring::squeue::Flags;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode};
use memmap2::MmapMut;
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

const RWF_DSYNC: i32 = 2;
const ENTRIES: u32 = 32;
/// The completion that only wakes a waiter.
const NUDGE: u64 = u64::MAX;

struct InFlight {
    write: LogWrite,
    fd: Arc<OwnedFd>,
    offset: u64,
    /// Bytes that earlier, short writes have done.
    done: usize,
}

/// The ring, and what the kernel reads from.
pub struct Uring {
    ring: Arc<IoUring>,
    submitter: Submitter,
    pg_size: u64,
    in_flight: [Option<InFlight>; SLOTS],
    failed: Vec<Done>,
}

/// Waits for completions, and wakes who waits. Shared by threads.
#[derive(Clone)]
pub struct Waiter {
    ring: Arc<IoUring>,
    submitter: Submitter,
}

/// The thread that submits what others have queued. It sleeps until it is told.
#[derive(Clone)]
struct Submitter {
    order: Arc<Order>,
    thread: Thread,
}

#[derive(Default)]
struct Order {
    submit: AtomicBool,
    end: AtomicBool,
}

/// What the kernel refused to take is offered again so soon.
const AGAIN: Duration = Duration::from_millis(1);

impl Submitter {
    fn start(ring: Arc<IoUring>) -> io::Result<Submitter> {
        let order = Arc::<Order>::default();
        let mine = order.clone();
        let builder = std::thread::Builder::new().name("quorate-submit".into()).stack_size(128 << 10);
        // Never joined: the kernel holds it as long as one of its writes hangs.
        let handle = builder.spawn(move || {
            loop {
                // Before what is asked of it is done: what is queued meanwhile is asked for again.
                if mine.submit.swap(false, Ordering::SeqCst) {
                    if ring.submit().is_err() {
                        mine.submit.store(true, Ordering::SeqCst);
                        std::thread::park_timeout(AGAIN);
                    }
                } else if mine.end.load(Ordering::SeqCst) {
                    return;
                } else {
                    std::thread::park();
                }
            }
        })?;
        Ok(Submitter { order, thread: handle.thread().clone() })
    }

    fn submit(&self) {
        if !self.order.submit.swap(true, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    fn end(&self) {
        self.order.end.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Uring {
    /// An error if the kernel has no io_uring or denies it.
    pub fn new(pg_size: u64) -> io::Result<Uring> {
        let ring = IoUring::builder().dontfork().build(ENTRIES)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ring = Arc::new(ring);
        let submitter = Submitter::start(ring.clone())?;
        Ok(Uring { ring, submitter, pg_size, in_flight: [const { None }; SLOTS], failed: Vec::new() })
    }

    pub fn waiter(&self) -> Waiter {
        Waiter { ring: self.ring.clone(), submitter: self.submitter.clone() }
    }

    /// Queues a write.
    pub fn write(&mut self, dir: &FileDir, write: LogWrite) {
        let (name, offset) = FileName::segment_of(write.from, self.pg_size);
        let slot = write.slot;
        match dir.open(name, false) {
            Ok(fd) => {
                let i = slot.index();
                assert!(self.in_flight[i].is_none(), "one write a slot at a time");
                self.in_flight[i] = Some(InFlight { write, fd, offset, done: 0 });
                self.push(i);
            }
            Err(e) => self.failed.push(Done::Wrote { slot, result: Err(e) }),
        }
    }

    fn push(&mut self, slot: usize) {
        let Some(f) = &self.in_flight[slot] else { return };
        let len = (f.write.to - f.write.from) as usize - f.done;
        let from = f.write.frame.pointer(f.write.from + f.done as u64);
        let entry = opcode::Write::new(Fd(f.fd.as_raw_fd()), from, len as u32)
            .offset(f.offset + f.done as u64)
            .rw_flags(RWF_DSYNC)
            .build()
            .user_data(slot as u64)
            .flags(Flags::ASYNC);
        // SAFETY: the engine's lock makes this the only user of the submission queue. The frame (a published, sealed
        // range that nobody writes) and the descriptor live in `in_flight` until the completion is reaped.
        let pushed = unsafe { self.ring.submission_shared().push(&entry) };
        assert!(pushed.is_ok(), "six writes and a nudge fit the queue");
    }

    pub fn submit(&mut self) {
        // SAFETY: the engine's lock makes this the only user of the submission queue.
        if unsafe { self.ring.submission_shared().is_empty() } {
            return;
        }
        self.submitter.submit();
    }

    /// Collects what has ended; a short or cancelled write goes on.
    pub fn reap(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.failed);
        let mut again = [false; SLOTS];
        {
            // SAFETY: the engine's lock makes this the only user of the completion queue.
            let completions = unsafe { self.ring.completion_shared() };
            for c in completions {
                if c.user_data() == NUDGE {
                    continue;
                }
                let i = c.user_data() as usize;
                let Some(f) = &mut self.in_flight[i] else { continue };
                let len = (f.write.to - f.write.from) as usize;
                let result = match c.result() {
                    0 => Err(io::ErrorKind::WriteZero.into()),
                    n if n > 0 => {
                        f.done += n as usize;
                        Ok(())
                    }
                    e if -e == ECANCELED || -e == EINTR || -e == EAGAIN => Ok(()),
                    e => Err(io::Error::from_raw_os_error(-e)),
                };
                if result.is_ok() && f.done < len {
                    again[i] = true;
                    continue;
                }
                self.in_flight[i] = None;
                done.push(Done::Wrote { slot: Slot(i as u8), result });
            }
        }
        for slot in (0..SLOTS).filter(|i| again[*i]) {
            self.push(slot);
        }
        self.submit();
    }
}

const ECANCELED: i32 = rustix::io::Errno::CANCELED.raw_os_error();
const EINTR: i32 = rustix::io::Errno::INTR.raw_os_error();
const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();

impl Drop for Uring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        for _ in 0..20 {
            self.reap(&mut done);
            if self.in_flight.iter().all(Option::is_none) {
                self.submitter.end();
                return;
            }
            self.waiter().wait(1, Duration::from_millis(50));
        }
        self.submitter.end();
        // A write hangs: the kernel may still read its frame, so frame, descriptor and ring are left to the process.
        std::mem::forget(self.ring.clone());
        self.in_flight.iter_mut().for_each(|f| std::mem::forget(f.take()));
    }
}

impl Waiter {
    /// Waits until so many completions have come since the last reaping, for so long at most.
    pub fn wait(&self, completions: usize, most: Duration) {
        let time = Timespec::from(most);
        let args = SubmitArgs::new().timespec(&time);
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // It returns early by time, signal or nudge: whoever waits looks again.
        // SAFETY: nothing is submitted, and the flags say what the argument is; it lives until the call returns.
        let _ = unsafe { self.ring.submitter().enter(0, completions as u32, flags.bits(), Some(&args)) };
    }

    /// Wakes who waits. The caller holds the engine's lock.
    pub fn nudge(&self) {
        let entry = opcode::Nop::new().build().user_data(NUDGE);
        // SAFETY: the engine's lock makes this the only user of the submission queue; a nop refers to no memory.
        if unsafe { self.ring.submission_shared().push(&entry) }.is_ok() {
            self.submitter.submit();
        }
    }
}

/// Rings for page reads that no read uses now; all slots take from here. The one that was used last goes first: its
/// buffer is in the processor's caches, and the kernel remembers a thread's last ring.
pub struct IdleRings(Mutex<Vec<ReadRing>>);

/// A slot's page reads: each has a ring of its own.
pub struct ReadRings {
    idle: Arc<IdleRings>,
    /// Reads that stayed out, with all that the kernel may still write to; and how many.
    stuck: Mutex<Vec<ReadRing>>,
    stuck_count: AtomicUsize,
}

struct ReadRing {
    ring: IoUring,
    buffer: MmapMut,
    /// The kernel holds the buffer's pages for good, and need not take them for each read: a sixth of a read from RAM.
    registered: bool,
    /// Of a read that stays out.
    fd: Option<Arc<OwnedFd>>,
}

/// Reads of one slot that may stay out; beyond, the slot is taken for hanging without asking.
const STUCK_MAX: usize = 8;
/// Rings of a volume that are kept for the next readers.
const IDLE_MAX: usize = 32;

impl IdleRings {
    /// None if the kernel has no io_uring or denies it.
    pub fn new() -> Option<IdleRings> {
        let first = ReadRing::new(64 << 10).ok()?;
        Some(IdleRings(Mutex::new(vec![first])))
    }
}

impl ReadRings {
    pub fn new(idle: Arc<IdleRings>) -> ReadRings {
        ReadRings { idle, stuck: Mutex::default(), stuck_count: AtomicUsize::new(0) }
    }

    /// See [`Reads::read`](crate::disk::bounded::Reads::read).
    pub fn read(
        &self,
        fd: &Arc<OwnedFd>,
        offset: u64,
        len: usize,
        most: Duration,
        f: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        if self.hangs() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let taken = self.idle.0.lock().pop();
        let mut ring = match taken {
            Some(ring) if ring.buffer.len() >= len => ring,
            _ => ReadRing::new(len.next_power_of_two().max(64 << 10))?,
        };
        match ring.read(fd, offset, len, most) {
            Some(result) => {
                let result = result.map(|got| f(&ring.buffer[..got]));
                // After an error the queue may hold an entry that was never submitted: the ring goes.
                let mut idle = self.idle.0.lock();
                if result.is_ok() && idle.len() < IDLE_MAX {
                    idle.push(ring);
                }
                result
            }
            None => {
                ring.fd = Some(fd.clone());
                let mut stuck = self.stuck.lock();
                stuck.push(ring);
                self.stuck_count.store(stuck.len(), Ordering::Relaxed);
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// As many reads are stuck as may be. Lets go of those that came back.
    fn hangs(&self) -> bool {
        if self.stuck_count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut stuck = self.stuck.lock();
        stuck.retain_mut(|r| !r.has_ended());
        self.stuck_count.store(stuck.len(), Ordering::Relaxed);
        stuck.len() >= STUCK_MAX
    }
}

impl Drop for ReadRings {
    fn drop(&mut self) {
        // What the kernel may still write to is left to the process.
        self.stuck.get_mut().drain(..).filter_map(|mut r| (!r.has_ended()).then_some(r)).for_each(std::mem::forget);
    }
}

impl ReadRing {
    fn new(len: usize) -> io::Result<ReadRing> {
        let ring = IoUring::builder().dontfork().build(2)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut buffer = MmapMut::map_anon(len)?;
        let whole = [io::IoSliceMut::new(&mut buffer)];
        // It may be refused (`RLIMIT_MEMLOCK`): then reads name the buffer as any other memory.
        // SAFETY: an `IoSliceMut` is an iovec. The mapping lives as long as its ring, and the kernel writes to it only in a
        // read, while `ReadRing::read` has it or the ring counts as stuck.
        let registered = unsafe {
            let iovecs = std::slice::from_raw_parts(whole.as_ptr().cast(), whole.len());
            ring.submitter().register_buffers(iovecs)
        }
        .is_ok();
        Ok(ReadRing { ring, buffer, registered, fd: None })
    }

    /// The read's result; none if it stays out.
    fn read(&mut self, fd: &Arc<OwnedFd>, offset: u64, len: usize, most: Duration) -> Option<io::Result<usize>> {
        let (file, to) = (Fd(fd.as_raw_fd()), self.buffer.as_mut_ptr());
        let entry = if self.registered {
            opcode::ReadFixed::new(file, to, len as u32, 0).offset(offset).build()
        } else {
            opcode::Read::new(file, to, len as u32).offset(offset).build()
        };
        // SAFETY: the buffer is at least `len` long, and lives with its ring until the completion was seen: a ring whose
        // read stays out is kept, with the descriptor, and at the end forgotten.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return Some(Err(io::ErrorKind::ResourceBusy.into()));
        }
        let begun = std::time::Instant::now();
        // At first without waiting: a read from RAM has ended by then, and to wait for what is there takes longer than a
        // second call, which only slower disks need.
        let mut failed = self.ring.submit().err();
        loop {
            if let Some(c) = self.ring.completion().next() {
                return Some(match c.result() {
                    e if e < 0 => Err(io::Error::from_raw_os_error(-e)),
                    n => Ok(n as usize),
                });
            }
            let left = most.saturating_sub(begun.elapsed());
            let failed_for_good = failed.filter(|e| !matches!(e.raw_os_error(), Some(EINTR) | Some(ETIME)));
            if failed_for_good.is_some() || left.is_zero() {
                // Not even submitted, the entry is still ours. Otherwise it stays out.
                let ours = !self.ring.submission().is_empty();
                return ours.then(|| Err(failed_for_good.unwrap_or_else(|| io::ErrorKind::TimedOut.into())));
            }
            let time = Timespec::from(left);
            failed = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)).err();
        }
    }

    fn has_ended(&mut self) -> bool {
        self.ring.completion().next().is_some()
    }
}

const ETIME: i32 = rustix::io::Errno::TIME.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Instant;

    /// A pipe without a writer's bytes is a disk that hangs.
    #[test]
    fn a_read_that_hangs_is_given_up_and_other_slots_go_on() {
        let Some(idle) = IdleRings::new().map(Arc::new) else {
            println!("skipped: no io_uring");
            return;
        };
        let (hung, healthy) = (ReadRings::new(idle.clone()), ReadRings::new(idle));
        let (from, mut to) = io::pipe().unwrap();
        let hangs = Arc::new(OwnedFd::from(from));
        let file =
            Arc::new(OwnedFd::from(std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap()));
        let most = Duration::from_millis(20);
        let mut got = Vec::new();
        let begun = Instant::now();
        for _ in 0..3 * STUCK_MAX {
            let e = hung.read(&hangs, 0, 4096, most, &mut |_| panic!("nothing was read")).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::TimedOut);
            healthy.read(&file, 0, 9, most, &mut |bytes| got = bytes.to_vec()).unwrap();
            assert_eq!(got, b"[package]");
        }
        assert_eq!(hung.stuck.lock().len(), STUCK_MAX, "more are not asked");
        assert!(begun.elapsed() >= most * STUCK_MAX as u32);
        to.write_all(&[7; 4096]).unwrap();
        drop(to);
        // What was stuck ends, and the slot is asked again: the pipe has an end now.
        while hung.read(&hangs, 0, 4096, most, &mut |bytes| got = bytes.to_vec()).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        assert_eq!((got.len(), hung.stuck.lock().len()), (0, 0));
    }

    #[test]
    fn a_buffer_that_may_not_be_registered_reads_as_well() {
        let Ok(mut ring) = ReadRing::new(64 << 10) else { return };
        let file =
            Arc::new(OwnedFd::from(std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap()));
        for registered in [ring.registered, false] {
            ring.registered = registered;
            ring.buffer[..9].fill(0);
            assert_eq!(ring.read(&file, 0, 9, Duration::from_secs(1)).unwrap().unwrap(), 9);
            assert_eq!(&ring.buffer[..9], b"[package]");
        }
    }
}
