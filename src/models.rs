//! loom's models of what the tests cannot show: every interleaving of two or three threads, up to three preemptions.
//!
//!     RUSTFLAGS="--cfg quorate_loom" LOOM_MAX_PREEMPTIONS=3 cargo test --release --lib models
//!
//! The ring's memory is checked byte by byte (8 at a time), so a read that is not ordered behind its write fails a model
//! even where it would see the right bytes; a thread that nobody wakes is a deadlock, which loom reports: under loom no
//! wait has a timeout that could hide it.

use crate::disk::desk::Desk;
use crate::log::append::{Front, Reservation, Sealed};
use crate::log::group;
use crate::log::record::{self, Cpl, Fields, Kind};
use crate::log::ring::Frame;
use crate::lsn::{Lsn, PageId, format};
use crate::page::heads::Heads;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::volume::tickets::{Ended, Parked, Status, Tickets, Waiter};
use crate::volume::wake::{Background, Progress};
use loom::thread;
use std::time::Duration;

const BLOCK: u64 = format::BLOCK_MIN;
const SEED: u32 = 3;
const BEGIN: Lsn = Lsn(BLOCK);
/// Ignored under loom: its waits have no end.
const EVER: Duration = Duration::from_secs(1);

fn front() -> Arc<Front> {
    let front = Front::new(SEED, 1, BLOCK, BEGIN);
    front.set_space(Lsn::MAX);
    Arc::new(front)
}

fn reserve(front: &Front, payload: usize) -> Reservation {
    front.lock().reserve(&[record::encoded_len(payload, true)]).expect("room")
}

/// The payload of the record at `lsn`: told by its address, so that a reader knows what to expect.
fn payload(lsn: Lsn, len: usize) -> Vec<u8> {
    (0..len).map(|i| lsn.0 as u8 ^ i as u8).collect()
}

fn fill(front: &Front, of: &Reservation, len: usize) {
    let fields = Fields { kind: Kind::Image, page: 1, ..Fields::filler() };
    front.fill(of, 0, &fields, Some(Cpl::default()), &payload(of.records[0].0, len));
}

fn append(front: &Front, len: usize) -> Lsn {
    let reservation = reserve(front, len);
    fill(front, &reservation, len);
    let lsn = reservation.records[0].0;
    front.publish(reservation);
    lsn
}

/// Every record of a sealed group verifies, as the kernel would write it. Returns how many are no filler.
fn check(frame: &Frame, s: Sealed) -> usize {
    let len = (s.end - s.begin) as usize;
    // SAFETY: `next_sealed` gave it out, which it does for what is published alone. loom checks.
    #[allow(unsafe_code)]
    let bytes = unsafe { frame.read(s.begin, len, <[u8]>::to_vec) };
    let mut records = 0;
    let sum = group::verify(&bytes, s.begin, SEED, |r| {
        if r.fields.kind != Kind::Filler {
            assert_eq!(r.payload, payload(r.lsn, r.payload.len()));
            records += 1;
        }
    });
    let sum = sum.expect("a group that was taken is whole");
    assert_eq!((sum.header.len, sum.cpl_end), (s.end - s.begin, s.cpl));
    records
}

/// Takes what can be taken now, and checks it. `at` is where the next group must begin.
fn take(front: &Front, at: &mut Lsn) -> usize {
    let mut records = 0;
    while let Some(s) = front.next_sealed() {
        assert_eq!(s.begin, *at, "groups tile the log");
        records += check(&front.ring.get(s.begin).expect("in the ring"), s);
        *at = s.end;
    }
    records
}

/// Two threads append while a third seals and writes: each group that it takes is whole.
#[test]
fn a_group_that_is_taken_is_whole() {
    loom::model(|| {
        let front = front();
        let appenders = [0, 1].map(|_| {
            let front = front.clone();
            thread::spawn(move || append(&front, 8))
        });
        let (mut at, mut records) = (BEGIN, 0);
        front.seal();
        records += take(&front, &mut at);
        for appender in appenders {
            appender.join().unwrap();
        }
        front.seal();
        records += take(&front, &mut at);
        assert_eq!((records, at, front.published()), (2, front.tail(), front.tail()));
    });
}

/// The second of two reservations is published first, by another thread: nothing of it shows before the first.
#[test]
fn publication_is_in_order() {
    loom::model(|| {
        let front = front();
        let (first, second) = (reserve(&front, 8), reserve(&front, 8));
        let (begin, end) = (first.records[0].0, second.end);
        let later = {
            let front = front.clone();
            thread::spawn(move || {
                fill(&front, &second, 8);
                front.publish(second);
                // Whatever the other thread has done: what is seen as published can be read.
                if front.published() > begin {
                    assert!(front.with_record(begin, |r| r.payload == payload(begin, 8)).unwrap());
                }
            })
        };
        front.seal();
        let mut at = BEGIN;
        assert_eq!(take(&front, &mut at), 0, "the first is not filled");
        fill(&front, &first, 8);
        front.publish(first);
        later.join().unwrap();
        assert_eq!(take(&front, &mut at), 2);
        assert!(front.published() >= end);
    });
}

/// A reader of the newest records beside an appender and a sealer: what is published is read whole, or not at all.
#[test]
fn a_published_record_is_read_whole() {
    loom::model(|| {
        let front = front();
        let appender = {
            let front = front.clone();
            thread::spawn(move || {
                append(&front, 8);
                append(&front, 8);
            })
        };
        let sealer = {
            let front = front.clone();
            thread::spawn(move || front.seal())
        };
        let first = BEGIN + group::HEADER as u64;
        let len = record::encoded_len(8, true);
        // The second lies behind the first, or in a group of its own.
        for lsn in [first, first + len, BEGIN + BLOCK + group::HEADER as u64] {
            let seen = front.published();
            match front.with_record(lsn, |r| (r.fields.kind, r.payload == payload(lsn, r.payload.len()))) {
                Some(read) => assert!(read == (Kind::Image, true) || read.0 == Kind::Filler),
                None => assert!(lsn != first || seen <= first, "published, so it is there"),
            }
        }
        appender.join().unwrap();
        sealer.join().unwrap();
        assert!(front.with_record(first, |r| r.payload == payload(first, 8)).unwrap());
    });
}

/// Who waits for other threads' fills is woken by the last of them.
#[test]
fn who_waits_for_publication_is_woken() {
    loom::model(|| {
        let front = front();
        let fillers = [reserve(&front, 8), reserve(&front, 8)].map(|r| {
            let front = front.clone();
            thread::spawn(move || {
                fill(&front, &r, 8);
                front.publish(r);
            })
        });
        let end = front.tail();
        assert!(front.wait_published(end, EVER));
        for filler in fillers {
            filler.join().unwrap();
        }
    });
}

/// A hung write holds its frame: later reservations go elsewhere, and what it would still write stays as it was. When it
/// has ended, its frame comes back.
#[test]
fn a_held_frame_is_not_written() {
    loom::model(|| {
        let front = front();
        append(&front, 8);
        front.seal();
        let group = front.next_sealed().unwrap();
        let frame = front.ring.get(group.begin).unwrap();
        let hung = thread::spawn(move || {
            assert_eq!(check(&frame, group), 1, "still what was sealed");
            assert_eq!(frame.base(), group.begin.floor(format::FRAME));
        });
        // Durable elsewhere: the log goes on, twice around the ring.
        for _ in 0..4 {
            front.set_vdl(front.tail());
            let lsn = append(&front, 200);
            assert!(front.with_record(lsn, |r| r.payload == payload(lsn, 200)).unwrap());
            front.seal();
            while front.next_sealed().is_some() {}
        }
        assert!(front.ring.bytes() <= 3 * format::FRAME);
        hung.join().unwrap();
    });
}

/// A task that counts how often it is woken. std's counter: it is looked at after the threads have ended.
#[derive(Default)]
struct Count(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Count {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn waiter(self: &std::sync::Arc<Self>) -> Waiter {
        Waiter::Task(std::task::Waker::from(self.clone()))
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A thread's wait for `end`, as `Shared::wait_decided` does it where others drive the engine.
fn wait(tickets: &Tickets, end: Lsn) -> Status {
    let parked = Arc::new(Parked::new());
    loop {
        match tickets.status(end) {
            Status::Waiting => (),
            decided => return decided,
        }
        let Some(key) = tickets.register(end, Waiter::Thread(parked.clone())) else { continue };
        parked.park(EVER);
        tickets.forget(key);
    }
}

/// VDL moves in two steps while two threads wait for one each: both wake, and a task is woken once.
#[test]
fn no_wake_up_is_lost_when_vdl_moves() {
    loom::model(|| {
        let tickets = Arc::new(Tickets::new(Lsn(8)));
        let count = std::sync::Arc::new(Count::default());
        let task = tickets.register(Lsn(24), count.waiter());
        let waits = [Lsn(16), Lsn(24)].map(|end| {
            let tickets = tickets.clone();
            thread::spawn(move || assert_eq!(wait(&tickets, end), Status::Durable))
        });
        tickets.advance(Lsn(16));
        assert_eq!((count.get(), task.is_some()), (0, true), "not its turn yet");
        tickets.advance(Lsn(24));
        for wait in waits {
            wait.join().unwrap();
        }
        tickets.end(Ended::Closed);
        assert_eq!((count.get(), tickets.any()), (1, false));
    });
}

/// The volume ends while a thread waits and another moves VDL: who waits learns of one or the other, and no status is
/// ever taken back.
#[test]
fn no_wake_up_is_lost_when_the_volume_ends() {
    loom::model(|| {
        let tickets = Arc::new(Tickets::new(Lsn(8)));
        let count = std::sync::Arc::new(Count::default());
        tickets.register(Lsn(16), count.waiter());
        let waits = {
            let tickets = tickets.clone();
            thread::spawn(move || {
                let status = wait(&tickets, Lsn(16));
                assert!(matches!(status, Status::Durable | Status::Ended(Ended::Fenced(2))));
                if status == Status::Durable {
                    assert_eq!(tickets.status(Lsn(16)), Status::Durable);
                }
                assert_eq!(wait(&tickets, Lsn(24)), Status::Ended(Ended::Fenced(2)));
            })
        };
        let ends = {
            let tickets = tickets.clone();
            thread::spawn(move || tickets.end(Ended::Fenced(2)))
        };
        tickets.advance(Lsn(16));
        waits.join().unwrap();
        ends.join().unwrap();
        assert_eq!((count.get(), tickets.any()), (1, false));
    });
}

/// What was durable before the volume ended is never told to have ended.
#[test]
fn what_is_durable_stays_durable() {
    loom::model(|| {
        let tickets = Arc::new(Tickets::new(Lsn(8)));
        let waits = {
            let tickets = tickets.clone();
            thread::spawn(move || assert_eq!(wait(&tickets, Lsn(16)), Status::Durable))
        };
        tickets.advance(Lsn(16));
        tickets.end(Ended::Closed);
        waits.join().unwrap();
    });
}

/// A task registers while VDL moves: it is told at once that it is decided, or it is woken, once.
#[test]
fn a_task_is_woken_once_or_told_at_once() {
    loom::model(|| {
        let tickets = Arc::new(Tickets::new(Lsn(8)));
        let mover = {
            let tickets = tickets.clone();
            thread::spawn(move || tickets.advance(Lsn(16)))
        };
        let count = std::sync::Arc::new(Count::default());
        let key = tickets.register(Lsn(16), count.waiter());
        if key.is_none() {
            assert_eq!(tickets.status(Lsn(16)), Status::Durable);
        }
        mover.join().unwrap();
        assert_eq!(count.get(), usize::from(key.is_some()));
    });
}

/// What is handed to the ring's thread is submitted, by whichever turn of it: here the eventfd is a thread's parking.
#[test]
fn what_is_handed_over_is_taken() {
    loom::model(|| {
        let (desk, bell) = (Arc::new(Desk::new(())), Arc::new(Parked::new()));
        desk.come();
        let hand_over = |what: u64| {
            let (desk, bell) = (desk.clone(), bell.clone());
            move || {
                desk.hand_over(what);
                if desk.is_to_ring() {
                    bell.unpark();
                }
            }
        };
        let other = thread::spawn(hand_over(1));
        let mut taken = 0;
        // The first turn hands itself more, as the engine does that the ring's thread runs, and does not ring.
        let more = hand_over(2);
        desk.is_to_ring();
        more();
        loop {
            taken += desk.take().into_iter().sum::<u64>();
            if taken == 3 {
                break;
            }
            bell.park(EVER);
        }
        other.join().unwrap();
    });
}

/// The ring's thread leaves while something is handed over: it stays for it, or another one is started. Here its waiting
/// is over at once, each time, and whoever rings is the other one.
#[test]
fn what_comes_while_the_owner_leaves_is_taken() {
    loom::model(|| {
        let desk = Arc::new(Desk::new(7));
        let taken = Arc::new(AtomicU64::new(0));
        fn own(desk: &Desk<u64, u32>, taken: &AtomicU64, mut owns: Option<u32>) {
            while let Some(ring) = owns {
                taken.fetch_add(desk.take().into_iter().sum::<u64>(), Ordering::SeqCst);
                owns = desk.leave(ring);
            }
        }
        let first = desk.come();
        let other = {
            let (desk, taken) = (desk.clone(), taken.clone());
            thread::spawn(move || {
                for what in [1, 2] {
                    desk.hand_over(what);
                    if desk.is_to_ring() && desk.has_no_owner() {
                        own(&desk, &taken, desk.come());
                    }
                }
            })
        };
        own(&desk, &taken, first);
        other.join().unwrap();
        assert_eq!(taken.load(Ordering::SeqCst), 3);
    });
}

/// Work that begins while the background thread makes its turn, or goes to sleep, is done all the same.
#[test]
fn the_background_misses_nothing() {
    loom::model(|| {
        let background = Arc::new(Background::new());
        let (given, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (background, given, done) = (background.clone(), given.clone(), done.clone());
            thread::spawn(move || {
                loop {
                    let begun = background.begun();
                    done.store(given.load(Ordering::Acquire), Ordering::Release);
                    // As when nothing is due.
                    if done.load(Ordering::Relaxed) == 2 || !background.sleep(None, begun) {
                        return;
                    }
                }
            })
        };
        for _ in 0..2 {
            given.fetch_add(1, Ordering::AcqRel);
            background.wake();
        }
        // Nobody stops it: it ends once it has seen both.
        thread.join().unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 2);
    });
}

/// What moves between a look at it and the wait for it is not missed, and neither is the second of two moves.
#[test]
fn no_move_is_missed() {
    loom::model(|| {
        let (progress, moves) = (Arc::new(Progress::new()), Arc::new(AtomicU64::new(0)));
        let mover = {
            let (progress, moves) = (progress.clone(), moves.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    moves.fetch_add(1, Ordering::AcqRel);
                    progress.moved();
                }
            })
        };
        loop {
            let turn = progress.turn();
            if moves.load(Ordering::Acquire) == 2 {
                break;
            }
            progress.wait(turn, EVER);
        }
        mover.join().unwrap();
    });
}

/// Two threads keep entries in one place, and a third one looks: it sees one of them whole, or none.
#[test]
fn an_entry_that_is_kept_is_seen_whole() {
    loom::model(|| {
        let heads = Arc::new(Heads::default());
        let entries = [(PageId(7), 8), (PageId(9), 16)];
        let keepers = entries.map(|(page, entry)| {
            let heads = heads.clone();
            thread::spawn(move || heads.keep(page, entry))
        });
        for (page, entry) in entries {
            let seen = heads.get(page);
            assert!(seen.is_none_or(|e| e == entry), "{seen:?} of {page}");
        }
        keepers.into_iter().for_each(|keeper| keeper.join().unwrap());
        let kept = entries.into_iter().filter(|(page, entry)| heads.get(*page) == Some(*entry)).count();
        assert_eq!(kept, 1, "whoever is first keeps it");
    });
}
