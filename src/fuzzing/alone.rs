//! A volume in memory and in one thread: the same calls take the same instructions, every time. For `benches/instructions.rs`.

use super::memory::Slots;
use crate::core::writer::Look;
use crate::disk::{Disk, Done, Fleet, LogWrite, SlotDir, job};
use crate::lsn::{Lsn, Slot};
use crate::segment::name::FileName;
use crate::segment::recover;
use crate::segment::superblock::{Durability, Geometry};
use crate::volume::open::{Handle, build};
use crate::volume::shared::{Clock, Driver, Shared};
use crate::{Options, Volume};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// What its workers have still to do, and what came back.
#[derive(Default)]
struct Hands {
    jobs: Vec<(Slot, job::Job)>,
    done: Vec<Done>,
}

/// Its disks: whatever is written is durable at once.
#[derive(Clone)]
struct Disks {
    slots: Arc<Slots>,
    pg_size: u64,
    hands: Arc<Mutex<Hands>>,
}

impl Disk for Disks {
    fn write(&mut self, LogWrite { slot, from, to, frame }: LogWrite) {
        let (name, offset) = FileName::segment_of(from, self.pg_size);
        let write = |bytes: &[u8]| self.slots.0[slot.index()].write_at(name, offset, bytes);
        // SAFETY: the engine sees the range published before it asks for the write.
        #[allow(unsafe_code)]
        let result = unsafe { frame.read(from, (to - from) as usize, write) };
        self.hands.lock().done.push(Done::Wrote { slot, result });
    }

    fn job(&mut self, slot: Slot, job: job::Job) {
        self.hands.lock().jobs.push((slot, job));
    }

    fn look(&mut self, _: Lsn) -> Option<Look> {
        // Nobody else can open it.
        Some(Look::Clear)
    }

    fn submit(&mut self) {}

    fn reap(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.hands.lock().done);
    }
}

/// Time passes by the steps of whoever waits.
struct Steps(AtomicU64);

impl Clock for Steps {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn wall_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed) * 1000
    }
}

/// Its workers, and its background.
struct Hand {
    disks: Disks,
    steps: Arc<Steps>,
    shared: OnceLock<Weak<Shared>>,
}

impl Driver for Hand {
    fn step(&self) {
        let Some(shared) = self.shared.get().and_then(Weak::upgrade) else { return };
        self.steps.0.fetch_add(1, Ordering::Relaxed);
        loop {
            shared.pump();
            let jobs = std::mem::take(&mut self.disks.hands.lock().jobs);
            if jobs.is_empty() {
                break;
            }
            for (slot, job) in jobs {
                let kind = job.kind();
                let output = job::run(&*self.disks.slots.0[slot.index()], job);
                self.disks.hands.lock().done.push(Done::Job { slot, kind, output });
            }
        }
    }
}

/// Six slots in memory, with a volume on them that is opened again and again.
pub struct Alone {
    slots: Arc<Slots>,
    options: Options,
}

impl Alone {
    /// A new volume, closed.
    pub fn new(options: Options) -> Alone {
        let alone = Alone { slots: Arc::default(), options };
        let id = uuid::Uuid::from_u128(7);
        let Options { page_size, pg_size, .. } = alone.options;
        let geometry = Geometry { volume: id, log: id, page_size, block_size: 4096, pg_size };
        let opened = recover::create(&*alone.slots, geometry, Durability::Dsync).unwrap();
        let (handle, _) = alone.stand_up(opened);
        handle.make_root().unwrap();
        Volume::from(handle).close().unwrap();
        alone
    }

    /// Opens it.
    pub fn open(&self) -> (Volume, Background) {
        let (handle, background) = self.stand_up(recover::open(&*self.slots, |_, _| Ok(())).unwrap());
        (Volume::from(handle), background)
    }

    /// Reads and decides as an opener does, and tells how much log it read.
    pub fn scan(&self) -> u64 {
        recover::recover(&*self.slots).unwrap().bytes_read
    }

    /// A blank disk takes a slot's place.
    pub fn blank(&self, slot: usize) {
        self.slots.0[slot].0.lock().clear();
    }

    fn stand_up(&self, opened: recover::Opened) -> (Handle, Background) {
        let previous = opened.recovered.choice.decision.number;
        let disks = Disks { slots: self.slots.clone(), pg_size: opened.geometry.pg_size, hands: Arc::default() };
        // Not the beginning of time: what is due in an hour was done an hour ago.
        let steps = Arc::new(Steps(AtomicU64::new(1 << 32)));
        let hand = Arc::new(Hand { disks: disks.clone(), steps: steps.clone(), shared: OnceLock::new() });
        let (mut parts, engine) = build(opened, self.slots.dirs(), Box::new(disks), steps, &self.options);
        // The one before was closed, or is forgotten.
        parts.earlier_gone = Box::new(|| true);
        parts.driver = Some(hand.clone());
        let shared = Arc::new(Shared::new(parts, engine));
        let _ = hand.shared.set(Arc::downgrade(&shared));
        shared.engine().tidy(previous);
        shared.pump();
        (Handle::simulated(shared.clone(), 0), Background(shared, hand))
    }
}

/// What a volume does of its own accord.
pub struct Background(Arc<Shared>, Arc<Hand>);

impl Background {
    /// Until every slot has all that it should have; so many steps at most. Tells whether it came to that.
    pub fn heal(&self, most: usize) -> bool {
        (0..most).any(|_| {
            self.1.step();
            self.0.housekeep();
            self.0.engine().healed() == Some(true)
        })
    }
}
