//! Page reads that are bounded in time: a disk that hangs costs a reader one pause, not for ever.
//!
//! Through io_uring a reader waits for its own completion, so long at most; a read that stays out keeps its ring and
//! buffer until it comes back. Without io_uring two threads a slot do the reading, and the reader waits for them.

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A read that takes longer is given up, and another copy is asked.
pub const READ_MAX: Duration = Duration::from_secs(1);

type Request = (Arc<OwnedFd>, u64, usize, Sender<io::Result<Vec<u8>>>);

/// Readers of one slot's files.
pub enum Reads {
    /// Threads, started by the first read.
    Threads(Mutex<Option<Sender<Request>>>),
    #[cfg(feature = "io-uring")]
    Uring(crate::disk::uring::ReadRings),
}

/// What the slots of a volume share for their reads.
pub struct Shared {
    #[cfg(feature = "io-uring")]
    rings: Option<Arc<crate::disk::uring::IdleRings>>,
}

impl Shared {
    /// With io_uring if it is there and wanted.
    pub fn new(io_uring: bool) -> Shared {
        #[cfg(not(feature = "io-uring"))]
        let _ = io_uring;
        Shared {
            #[cfg(feature = "io-uring")]
            rings: io_uring.then(crate::disk::uring::IdleRings::new).flatten().map(Arc::new),
        }
    }
}

impl Reads {
    /// Of one slot.
    pub fn new(shared: &Shared) -> Reads {
        #[cfg(feature = "io-uring")]
        if let Some(rings) = &shared.rings {
            return Reads::Uring(crate::disk::uring::ReadRings::new(rings.clone()));
        }
        let _ = shared;
        Reads::Threads(Mutex::new(None))
    }

    /// Reads at most `len` bytes (aligned, like `offset`), and hands what came to `f`.
    pub fn read(&self, fd: &Arc<OwnedFd>, offset: u64, len: usize, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        match self {
            Reads::Threads(threads) => by_thread(threads, fd, offset, len, f),
            #[cfg(feature = "io-uring")]
            Reads::Uring(rings) => rings.read(fd, offset, len, READ_MAX, f),
        }
    }
}

fn by_thread(
    threads: &Mutex<Option<Sender<Request>>>,
    fd: &Arc<OwnedFd>,
    offset: u64,
    len: usize,
    f: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let requests = {
        let mut threads = threads.lock();
        match &*threads {
            Some(requests) => requests.clone(),
            None => threads.insert(start()?).clone(),
        }
    };
    let (answer, answered) = bounded(1);
    let hangs = || io::Error::from(io::ErrorKind::TimedOut);
    requests.send_timeout((fd.clone(), offset, len, answer), READ_MAX).map_err(|_| hangs())?;
    f(&answered.recv_timeout(READ_MAX).map_err(|_| hangs())??);
    Ok(())
}

fn start() -> io::Result<Sender<Request>> {
    let (send, queue) = bounded::<Request>(16);
    for _ in 0..2 {
        let queue = queue.clone();
        std::thread::Builder::new().name("quorate-read".into()).stack_size(256 << 10).spawn(move || {
            for (fd, offset, len, answer) in queue {
                let bytes = crate::disk::file::with_buffer(len, |buffer| {
                    let got = rustix::io::pread(&fd, &mut *buffer, offset)?;
                    Ok(buffer[..got].to_vec())
                });
                // The reader may have given up.
                let _ = answer.send(bytes);
            }
        })?;
    }
    Ok(send)
}
