//! Log writes through io_uring: O_DIRECT from the ring's frames, durable by `RWF_DSYNC`.
//!
//! One thread has the ring. Whoever holds the engine's lock hands writes over and rings; the thread submits them, waits for as
//! many completions as move VCL, brings them, and runs the engine. A thread of its own, because the kernel's workers
//! belong to whoever submits: a user's thread that did so could not end while a write of its hangs (`io_wq_put_and_exit`).
//! Every write is marked asynchronous: a kernel worker of its own does it. Without the mark a write may be done in the
//! call that submits it (RAM disks), six after each other; or it waits in the kernel for ever: seen on Linux 6.18, where
//! two writes to a frozen file system hung in workers, and the writes to four healthy disks behind them got none.
#![allow(unsafe_code)]

use crate::disk::desk::Desk;
use crate::disk::file::FileDir;
use crate::disk::worker::Completions;
use crate::disk::{Done, LogWrite};
use crate::lsn::{Lsn, SLOTS, Slot};
use crate::segment::name::FileName;
use io_uring::squeue::Flags;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use memmap2::MmapMut;
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

const RWF_DSYNC: i32 = 2;
const ENTRIES: u32 = 32;
/// The completion that says that something was handed over.
const BELL: u64 = u64::MAX;
/// Several writes are waited for at a time for so long.
const LOOK: Duration = Duration::from_millis(100);
/// ... or for so long, where some are among them that it need not wait for.
const SOON: Duration = Duration::from_millis(1);

struct InFlight {
    write: LogWrite,
    fd: Arc<OwnedFd>,
    offset: u64,
    /// Bytes that earlier, short writes have done.
    done: usize,
    begun: Instant,
}

/// Log writes by a thread that has the ring: it submits what is handed to it, and brings what has ended.
pub struct Uring {
    shared: Arc<Shared>,
    pg_size: u64,
}

/// What others share with the ring's thread.
struct Shared {
    desk: Desk<InFlight, Ring>,
    /// An eventfd, of which the ring reads.
    bell: OwnedFd,
    /// So many completions of writes to beyond VCL are worth waking up for.
    needed: AtomicUsize,
    vcl: AtomicU64,
    end: AtomicBool,
    completions: Arc<Completions>,
}

impl Shared {
    fn ring(self: &Arc<Shared>) {
        if !self.desk.is_to_ring() {
            return;
        }
        if self.desk.has_no_owner() {
            // Who has written and waits asks again, ten times a second, and stalls are bounded.
            if self.start().is_err() {
                self.desk.was_not_rung();
            }
            return;
        }
        self.wake();
    }

    fn wake(&self) {
        // It cannot fail: the count never comes near its end.
        let _ = rustix::io::write(&self.bell, 1u64.as_bytes());
    }

    /// Nothing of the ring is left in the kernel, of which no write is in flight: the bell's read ends.
    fn quiet(&self, ring: &mut Ring) -> io::Result<()> {
        self.wake();
        while ring.listens {
            match ring.ring.submit_and_wait(1) {
                Err(e) if e.raw_os_error() != Some(EINTR) => return Err(e),
                _ => (),
            }
            let done = ring.reap();
            debug_assert!(done.is_empty(), "nothing is in flight");
        }
        Ok(())
    }

    /// The ring's thread goes. It gets the ring back where something comes.
    fn leave(&self, mut ring: Ring) -> Option<Ring> {
        match self.quiet(&mut ring) {
            Ok(()) => self.desk.leave(ring),
            Err(_) => Some(ring),
        }
    }

    fn start(self: &Arc<Shared>) -> io::Result<()> {
        let shared = self.clone();
        let run = move || {
            if let Some(ring) = shared.desk.come() {
                Run { ring, shared }.run();
            }
        };
        // Never joined: the kernel holds it as long as one of its writes hangs.
        std::thread::Builder::new().name("quorate-io".into()).stack_size(512 << 10).spawn(run)?;
        Ok(())
    }
}

impl Uring {
    /// An error if the kernel has no io_uring or denies it.
    pub fn new(pg_size: u64, completions: Arc<Completions>) -> io::Result<Uring> {
        let ring = IoUring::builder().dontfork().build(ENTRIES)?;
        if !ring.params().is_feature_ext_arg() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let (needed, vcl, end) = (AtomicUsize::new(1), AtomicU64::new(0), AtomicBool::new(false));
        let ring = Ring { ring, in_flight: [const { None }; SLOTS], word: Box::new([0; 8]), listens: false };
        let shared = Arc::new(Shared { desk: Desk::new(ring), bell, needed, vcl, end, completions });
        shared.start()?;
        Ok(Uring { shared, pg_size })
    }

    /// See [`Disk::needs`](crate::disk::Disk::needs).
    pub fn needs(&mut self, completions: usize, vcl: Lsn) {
        self.shared.needed.store(completions, Ordering::Relaxed);
        self.shared.vcl.store(vcl.0, Ordering::Relaxed);
    }

    /// Queues a write.
    pub fn write(&mut self, dir: &FileDir, write: LogWrite) -> io::Result<()> {
        let (name, offset) = FileName::segment_of(write.from, self.pg_size);
        let fd = dir.open(name, false)?;
        self.shared.desk.hand_over(InFlight { write, fd, offset, done: 0, begun: Instant::now() });
        Ok(())
    }

    pub fn submit(&mut self) {
        if !self.shared.desk.is_empty() {
            self.shared.ring();
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        self.shared.ring();
    }
}

/// The ring, with all that the kernel reads from and writes to.
struct Ring {
    ring: IoUring,
    in_flight: [Option<InFlight>; SLOTS],
    /// What is read of the bell.
    word: Box<[u8; 8]>,
    listens: bool,
}

/// The ring's thread.
struct Run {
    ring: Ring,
    shared: Arc<Shared>,
}

/// A write that hangs is waited for so long at the end.
const END: Duration = Duration::from_secs(1);
/// Without a write for so long the thread ends: the kernel keeps a worker for it, which looks every five seconds whether it
/// is still needed, and ends with the thread alone.
const IDLE: Duration = Duration::from_secs(1);

impl Run {
    fn run(mut self) {
        let mut ends: Option<Instant> = None;
        loop {
            for write in self.shared.desk.take() {
                let i = write.write.slot.index();
                assert!(self.ring.in_flight[i].is_none(), "one write a slot at a time");
                self.ring.in_flight[i] = Some(write);
                self.ring.push(i);
            }
            let busy = self.ring.in_flight.iter().flatten().count();
            let ending = self.shared.end.load(Ordering::SeqCst);
            if ending {
                let ends = *ends.get_or_insert_with(|| Instant::now() + END);
                if busy == 0 || Instant::now() > ends {
                    break;
                }
            } else {
                self.ring.listen(&self.shared.bell);
            }
            let late = self.late();
            let needed = (self.shared.needed.load(Ordering::Relaxed) + late).clamp(1, busy.max(1));
            let idle = busy == 0;
            let time = Timespec::from(match late {
                _ if idle => IDLE,
                0 => LOOK,
                _ => SOON,
            });
            // One completion more ends the wait by itself; so does a ring, where it waits for one.
            let timed = idle || ending || needed > 1;
            let args = if timed { SubmitArgs::new().timespec(&time) } else { SubmitArgs::new() };
            // What was not taken stays queued, and goes with the next.
            match self.ring.ring.submitter().submit_with_args(needed, &args) {
                Err(e) if !matches!(e.raw_os_error(), Some(EINTR) | Some(ETIME)) => std::thread::sleep(SOON),
                _ => (),
            }
            let done = self.ring.reap();
            if !done.is_empty() {
                // What comes of it is taken next, without ringing.
                self.shared.desk.is_to_ring();
                self.shared.completions.bring(done);
            } else if idle && self.ring.listens {
                // Nobody rang.
                let Run { ring, shared } = self;
                match shared.leave(ring) {
                    Some(ring) => self = Run { ring, shared },
                    None => return,
                }
            }
        }
        // Where a write hangs, or the bell is read, what the kernel may still use is left to the process.
        let hangs = self.ring.in_flight.iter().any(Option::is_some);
        if hangs || self.shared.quiet(&mut self.ring).is_err() {
            std::mem::forget(self.ring);
        }
    }

    /// Writes of what four other slots have already, that will end before those of what comes behind: they are worth no
    /// waking up of their own. None that has been out for longer, and none where nothing else is waited for.
    fn late(&self) -> usize {
        if self.shared.needed.load(Ordering::Relaxed) < 2 {
            return 0;
        }
        let vcl = Lsn(self.shared.vcl.load(Ordering::Relaxed));
        let writes = self.ring.in_flight.iter().flatten();
        writes.filter(|f| f.write.to <= vcl && f.begun.elapsed() < SOON).count()
    }
}

impl Ring {
    /// Reads of the bell, if it does not yet.
    fn listen(&mut self, bell: &OwnedFd) {
        if std::mem::replace(&mut self.listens, true) {
            return;
        }
        let entry = opcode::Read::new(Fd(bell.as_raw_fd()), self.word.as_mut_ptr(), 8).build();
        // SAFETY: the word lives in a box of its own until this thread ends, and then for good.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(BELL)) };
        assert!(pushed.is_ok(), "six writes and a bell fit the queue");
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
        // SAFETY: the frame (a published, sealed range that nobody writes) and the descriptor live in `in_flight` until the
        // completion is reaped.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "six writes and a bell fit the queue");
    }

    /// Collects what has ended; a short or cancelled write goes on.
    fn reap(&mut self) -> Vec<Done> {
        let (mut done, mut again) = (Vec::new(), [false; SLOTS]);
        for c in self.ring.completion() {
            if c.user_data() == BELL {
                self.listens = false;
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
        (0..SLOTS).filter(|i| again[*i]).for_each(|slot| self.push(slot));
        done
    }
}

const ECANCELED: i32 = rustix::io::Errno::CANCELED.raw_os_error();
const EINTR: i32 = rustix::io::Errno::INTR.raw_os_error();
const EAGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();

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
