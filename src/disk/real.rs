//! The writer's disk on real files: log writes through io_uring by a thread of the ring's own, or by a second thread a
//! slot; jobs by the workers.

use crate::core::writer::Look;
use crate::disk::file::{self, FileDir};
use crate::disk::job::Job;
use crate::disk::watch::Watch;
use crate::disk::worker::Workers;
use crate::disk::{Disk, Done, LogWrite};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use crate::segment::name::FileName;
use crossbeam_channel::{Sender, bounded};
use std::io;
use std::sync::Arc;

/// How log writes are done.
pub enum Writes {
    /// By a thread a slot: `pwrite` with `RWF_DSYNC`.
    Threads([Sender<LogWrite>; SLOTS]),
    #[cfg(feature = "io-uring")]
    Uring(Box<crate::disk::uring::Uring>),
}

impl Writes {
    /// Starts a writing thread for each slot.
    pub fn threads(workers: &Workers, pg_size: u64) -> io::Result<Writes> {
        let mut senders = Vec::with_capacity(SLOTS);
        for slot in Slot::ALL {
            let (send, queue) = bounded::<LogWrite>(1);
            let (dir, completions) = (workers.dir(slot).clone(), workers.completions.clone());
            std::thread::Builder::new().name(format!("quorate-w{slot}")).stack_size(256 << 10).spawn(move || {
                for write in queue {
                    let result = blocking(&dir, &write, pg_size);
                    drop(write);
                    completions.push(Done::Wrote { slot, result });
                }
            })?;
            senders.push(send);
        }
        match senders.try_into() {
            Ok(senders) => Ok(Writes::Threads(senders)),
            Err(_) => unreachable!("one for each slot"),
        }
    }
}

fn blocking(dir: &FileDir, write: &LogWrite, pg_size: u64) -> io::Result<()> {
    let (name, offset) = FileName::segment_of(write.from, pg_size);
    let len = (write.to - write.from) as usize;
    dir.meter.wrote(1, len as u64);
    let fd = dir.open(name, false)?;
    // SAFETY: the range was sealed and published before the writer handed it out, and the frame is held by the write.
    #[allow(unsafe_code)]
    unsafe {
        write.frame.read(write.from, len, |bytes| file::write_durably(&fd, bytes, offset))
    }
}

/// The disk of an open volume.
pub struct RealDisk {
    pub workers: Arc<Workers>,
    writes: Writes,
    watch: Option<Watch>,
    /// Writes to files that could not be opened.
    failed: Vec<Done>,
}

impl RealDisk {
    pub fn new(workers: Arc<Workers>, writes: Writes, watch: Option<Watch>) -> RealDisk {
        RealDisk { workers, writes, watch, failed: Vec::new() }
    }
}

impl Disk for RealDisk {
    fn write(&mut self, write: LogWrite) {
        match &mut self.writes {
            Writes::Threads(senders) => {
                let slot = write.slot;
                if senders[slot.index()].try_send(write).is_err() {
                    unreachable!("one write a slot at a time, and its thread lives as long as this");
                }
            }
            #[cfg(feature = "io-uring")]
            Writes::Uring(uring) => {
                let dir = self.workers.dir(write.slot);
                dir.meter.wrote(1, write.to - write.from);
                let slot = write.slot;
                if let Err(e) = uring.write(dir, write) {
                    self.failed.push(Done::Wrote { slot, result: Err(e) });
                }
            }
        }
    }

    fn job(&mut self, slot: Slot, job: Job) {
        self.workers.job(slot, job);
    }

    fn look(&mut self, _quorum: Lsn) -> Option<Look> {
        Some(self.watch.as_mut().map_or(Look::Unsure, Watch::look))
    }

    fn notice(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.notice();
        }
    }

    fn lost(&mut self, needs: &dyn Fn(u64) -> bool) -> SlotSet {
        self.watch.as_mut().map_or(SlotSet::NONE, |watch| watch.take_lost(needs))
    }

    fn found(&mut self, slot: Slot) {
        let directory = self.workers.dir(slot).path().to_path_buf();
        if let Some(watch) = &mut self.watch {
            watch.add(slot, &directory);
        }
    }

    fn submit(&mut self) {
        #[cfg(feature = "io-uring")]
        if let Writes::Uring(uring) = &mut self.writes {
            uring.submit();
        }
    }

    fn needs(&mut self, completions: usize, vcl: Lsn) {
        #[cfg(feature = "io-uring")]
        if let Writes::Uring(uring) = &mut self.writes {
            uring.needs(completions, vcl);
        }
        #[cfg(not(feature = "io-uring"))]
        let _ = (completions, vcl);
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        self.workers.completions.take(done);
        done.append(&mut self.failed);
    }
}
