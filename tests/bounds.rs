//! What must stay small: calls of a close and an open, disk and memory of an empty volume, recovery, idleness. And the log
//! across protection groups, many threads, and tickets on executors.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Child;
use quorate::{Options, PageId, ReadError, Slot, Volume, WriteError};
use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

const AT: &str = "QUORATE_BOUNDS_AT";
const WHAT: &str = "QUORATE_BOUNDS_WHAT";
const MIB: u64 = 1 << 20;

fn options() -> Options {
    Options::default()
}

fn say(line: String) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// Resident memory of this process.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn child_main() {
    let Ok(at) = std::env::var(AT) else { return };
    say(String::new());
    let at = Path::new(&at);
    match std::env::var(WHAT).unwrap().as_str() {
        "empty" => {
            let before = resident();
            let volume = Volume::create(at, &options()).unwrap();
            say(format!("created {before} {}", resident()));
            volume.close().unwrap();
            let volume = Volume::open(at, &options()).unwrap();
            assert_eq!(volume.read(PageId::ROOT).unwrap()[0], 0);
            say(format!("opened {before} {}", resident()));
            volume.close().unwrap();
            say(format!("closed {before} {}", resident()));
        }
        "commits" => {
            let volume = Volume::open(at, &options().checkpoint_bytes(4 * MIB)).unwrap();
            say("open".to_string());
            for n in 0u64.. {
                common::patch(&volume, PageId::ROOT, 8, &n.to_le_bytes());
            }
        }
        "heals" => {
            let before = resident();
            let most = AtomicU64::new(before);
            let done = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        most.fetch_max(resident(), Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                let volume = Volume::open(at, &options()).unwrap();
                assert!(volume.wait_repaired(Duration::from_secs(120)), "{:#?}", volume.health());
                volume.scrub();
                assert!(volume.wait_repaired(Duration::from_secs(120)), "{:#?}", volume.health());
                let repair = volume.health().repair;
                say(format!("healed {} {}", repair.mended_bytes, repair.scrubs));
                volume.close().unwrap();
                done.store(true, Ordering::Relaxed);
            });
            say(format!("took {}", most.into_inner() - before));
        }
        what => panic!("{what}"),
    }
}

fn child(at: &Path, what: &str) -> Child {
    Child::start("child_main", &[(AT, at.to_str().unwrap().into()), (WHAT, what.into())])
}

fn calls(volume: &Volume) -> Vec<u64> {
    volume.health().slots.iter().map(|s| s.write_calls).collect()
}

/// The calls of a close, counted by a clone.
fn close(volume: Volume) -> Vec<u64> {
    let counts = volume.clone();
    volume.close().unwrap();
    calls(&counts)
}

#[test]
fn an_open_a_commit_and_a_close_are_few_calls() {
    for io_uring in [true, false] {
        let dir = common::dir();
        let options = options().io_uring(io_uring);
        let created = close(Volume::create(dir.path(), &options).unwrap());
        let life = |turn: u8, idle: Duration| {
            let volume = Volume::open(dir.path(), &options).unwrap();
            common::patch(&volume, PageId::ROOT, 0, &[turn]);
            std::thread::sleep(idle);
            close(volume)
        };
        // A machine that is held up adds calls: the least of three is the design.
        let few = |what: &str, turn: u8, idle: Duration| {
            let tries: Vec<u64> = (0..3).map(|_| life(turn, idle).into_iter().max().unwrap()).collect();
            let least = *tries.iter().min().unwrap();
            assert!(least < 20, "{what}: {tries:?} write-class calls of a slot");
            least
        };
        let most = (0..6).map(|turn| few("open, a commit, close", turn, Duration::ZERO)).max().unwrap();
        // Also with the filler after idleness in between.
        let idle = few("with a filler", 9, Duration::from_millis(400));
        println!("create and close {created:?}; open, commit, close: at most {most}; with a filler {idle:?}");
    }
}

#[test]
fn an_empty_volume_is_small() {
    let dir = common::dir();
    let said = child(dir.path(), "empty").join(Duration::from_secs(30));
    for line in &said {
        let Some((what, numbers)) = line.split_once(' ') else { continue };
        if !["created", "opened", "closed"].contains(&what) {
            continue;
        }
        let (before, after) = numbers.split_once(' ').unwrap();
        let (before, after): (u64, u64) = (before.parse().unwrap(), after.parse().unwrap());
        println!("{what}: {} KiB resident, {} KiB before", after >> 10, before >> 10);
        assert!(after < 16 * MIB, "{what}: {after} bytes of memory");
    }
    let on_disk = |at: &Path| -> u64 {
        let below: u64 = common::bytes_below(at).keys().map(|f| fs::metadata(f).unwrap().blocks() * 512).sum();
        below + 10 * 4096
    };
    let used = on_disk(dir.path());
    println!("{} KiB on disk", used >> 10);
    assert!(used < 8 * MIB, "{used} bytes of disk");
    // Opening again and again takes no more: an epoch begins in an extent of its own.
    for _ in 0..8 {
        Volume::open(dir.path(), &options()).unwrap().close().unwrap();
    }
    let clean = on_disk(dir.path());
    println!("{} KiB after 8 clean turns", clean >> 10);
    assert!(clean < 8 * MIB, "{clean} bytes of disk");
}

/// From before the open on, with all that an open volume takes.
#[test]
fn healing_and_scrubbing_take_less_than_32_mib() {
    let dir = common::dir();
    let volume = Volume::create(dir.path(), &options()).unwrap();
    let page = vec![7; volume.health().page_size as usize];
    for _ in 0..96 {
        let mut mtr = volume.begin();
        for _ in 0..64 {
            let id = mtr.alloc().unwrap();
            mtr.put(id, page.clone());
        }
        mtr.commit().unwrap().wait().unwrap();
    }
    volume.close().unwrap();
    for slot in ["slot-0", "slot-1"] {
        fs::remove_dir_all(dir.path().join("az-0").join(slot)).unwrap();
    }
    // One more lacks a part, so that frames are read with all their bytes, too.
    let segment = dir.path().join("az-2/slot-4/seg-00000000");
    let cut = fs::OpenOptions::new().write(true).open(segment).unwrap();
    cut.set_len(48 * MIB).unwrap();
    let lines = child(dir.path(), "heals").join(Duration::from_secs(240));
    let number = |what: &str| -> u64 {
        let line = lines.iter().find_map(|l| l.strip_prefix(what)).expect("the child says so");
        line.split(' ').next().unwrap().parse().unwrap()
    };
    println!("{} bytes were mended, in {} bytes of memory", number("healed "), number("took "));
    assert!(number("healed ") > 2 * 96 * MIB + 40 * MIB);
    assert!(number("took ") < 32 * MIB, "{} bytes of memory", number("took "));
}

#[test]
fn opening_without_end_needs_no_commit() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let options = options().allow_volatile(true).page_size(4096).stall_max(Duration::from_secs(5));
    Volume::create(dir.path(), &options).unwrap().close().unwrap();
    let begun = Instant::now();
    for turn in 0..360 {
        let volume = Volume::open(dir.path(), &options).unwrap_or_else(|e| panic!("open {turn}: {e}"));
        assert_eq!(volume.read(PageId::ROOT).unwrap()[0], 0);
        if turn % 2 == 0 {
            volume.close().unwrap();
        } else {
            // As after a kill: the next one takes over what is left.
            let next = Volume::take_over(dir.path(), &options).unwrap_or_else(|e| panic!("take over {turn}: {e}"));
            drop(volume);
            drop(next);
        }
    }
    println!("540 opens in {:?}", begun.elapsed());
}

#[test]
fn recovery_reads_what_lies_past_the_newest_manifest() {
    let mut read = Vec::new();
    for pages in [20u64, 2000] {
        let dir = common::dir();
        let volume = Volume::create(dir.path(), &options().checkpoint_bytes(4 * MIB)).unwrap();
        for _ in 0..pages / 20 {
            let mut mtr = volume.begin();
            for _ in 0..20 {
                let page = mtr.alloc().unwrap();
                mtr.put(page, vec![7; 16 << 10]);
            }
            drop(mtr.commit().unwrap());
        }
        volume.close().unwrap();
        let child = child(dir.path(), "commits");
        child.until("open", Duration::from_secs(20)).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        drop(child.kill());
        let reader = Volume::open_read_only(dir.path(), &options()).unwrap();
        let health = reader.health();
        let past = health.tail.0 - health.redo.0;
        let begun = Instant::now();
        let volume = Volume::open(dir.path(), &options()).unwrap();
        let recovery = volume.health().recovery_bytes;
        println!("{pages} pages: {recovery} bytes read for {past} of log, open in {:?}", begun.elapsed());
        assert_eq!(volume.view().pages().unwrap().len() as u64, pages + 1);
        read.push((recovery, past));
        volume.close().unwrap();
    }
    // Whole frames on each of six slots, and the stretch in which a later record could testify.
    let bound = |past: u64| 6 * (past + 12 * MIB) + 16 * MIB;
    for (recovery, past) in read {
        assert!(recovery > 0 && recovery <= bound(past), "{recovery} bytes for {past}");
        assert!(past < 16 * MIB, "a manifest was taken every 4 MiB: {past}");
    }
}

#[test]
fn an_idle_volume_wakes_nobody() {
    let dir = common::dir();
    // Clean, io_uring and threads; and with slots away for good.
    for (io_uring, missing) in [(true, false), (false, false)] {
        let at = dir.path().join(format!("{io_uring}{missing}"));
        fs::create_dir(&at).unwrap();
        let volume = Volume::create(&at, &options().io_uring(io_uring)).unwrap();
        common::patch(&volume, PageId::ROOT, 0, b"idle");
        std::thread::sleep(Duration::from_millis(800));
        let before = wakings();
        std::thread::sleep(Duration::from_secs(3));
        let after = wakings();
        let woken: Vec<_> = after
            .iter()
            .filter(|(name, id, n)| name.starts_with("quorate") && before.iter().any(|(_, i, b)| i == id && b < n))
            .collect();
        assert!(woken.is_empty(), "io_uring {io_uring}: {woken:?}, before {before:?}");
        volume.close().unwrap();
    }
}

/// Name, id and voluntary context switches of this process's threads.
fn wakings() -> Vec<(String, u64, u64)> {
    let thread = |entry: fs::DirEntry| {
        let path = entry.path();
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim().to_string());
        Some((
            line("Name:")?,
            entry.file_name().to_str()?.parse().ok()?,
            line("voluntary_ctxt_switches:")?.parse().ok()?,
        ))
    };
    fs::read_dir("/proc/self/task").unwrap().filter_map(|e| thread(e.unwrap())).collect()
}

#[test]
fn the_log_crosses_protection_groups() {
    let dir = common::dir();
    let options = options().page_size(64 << 10).pg_size(64 * MIB).cache_bytes(MIB).checkpoint_bytes(16 * MIB);
    let mut volume = Volume::create(dir.path(), &options).unwrap();
    let mut expected = std::collections::BTreeMap::new();
    let mut n = 0u32;
    // An open begins in the next extent: the log goes through several groups.
    for turn in 0..4 {
        for _ in 0..100 {
            let mut mtr = volume.begin();
            for _ in 0..8 {
                let page = if n % 3 == 2 { PageId(u64::from(n % 100)) } else { mtr.alloc().unwrap() };
                let exists = expected.contains_key(&page) || n % 3 != 2;
                if exists {
                    mtr.put(page, vec![n as u8; 64 << 10]).patch(page, 1000, &n.to_le_bytes());
                    expected.insert(page, n);
                }
                n += 1;
            }
            drop(mtr.commit().unwrap());
        }
        volume.sync().wait().unwrap();
        match turn % 3 {
            0 => volume.close().unwrap(),
            1 => drop(volume),
            _ => {
                volume = Volume::take_over(dir.path(), &options).unwrap();
                continue;
            }
        }
        volume = Volume::open(dir.path(), &options).unwrap();
    }
    for (page, n) in &expected {
        let got = volume.read(*page).unwrap();
        assert_eq!((got[0], &got[1000..1004], got[65_535]), (*n as u8, &n.to_le_bytes()[..], *n as u8), "{page}");
    }
    let segments = fs::read_dir(volume.slot_path(Slot(3))).unwrap();
    let segments = segments.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with("seg-")).count();
    println!("{} pages, {segments} segments a slot, tail at {}", expected.len(), volume.health().tail);
    assert!(segments >= 3 && volume.health().tail.0 > 192 * MIB);
    volume.close().unwrap();
    let reader = Volume::open_read_only(dir.path(), &options).unwrap();
    for (page, n) in expected.iter().step_by(7) {
        assert_eq!(&reader.view().read(*page).unwrap()[1000..1004], &n.to_le_bytes());
    }
}

#[test]
fn several_threads_commit_at_once() {
    const THREADS: u64 = 8;
    const EACH: u64 = 150;
    let dir = common::dir();
    let volume = Volume::create(dir.path(), &options()).unwrap();
    let last = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (volume, last) = (volume.clone(), &last);
            scope.spawn(move || {
                let mut before = quorate::Lsn(0);
                for n in 1..=EACH {
                    let mut mtr = volume.begin();
                    let page = mtr.alloc().unwrap();
                    mtr.patch(page, 0, &thread.to_le_bytes()).patch(page, 8, &n.to_le_bytes());
                    mtr.patch(PageId::ROOT, thread as u32 * 8, &n.to_le_bytes());
                    let ticket = mtr.commit().unwrap();
                    assert!(ticket.lsn() > before);
                    before = ticket.lsn();
                    ticket.wait().unwrap();
                    // In LSN order: what was acknowledged is below every view that is taken later.
                    assert!(volume.view().lsn() >= before);
                    last.fetch_max(before.0, Ordering::SeqCst);
                    let root = volume.view().read(PageId::ROOT).unwrap();
                    let mine = &root[thread as usize * 8..][..8];
                    assert_eq!(mine, n.to_le_bytes(), "one reads what one has written");
                }
            });
        }
    });
    let health = volume.health();
    assert!(health.vdl.0 >= last.load(Ordering::SeqCst));
    volume.close().unwrap();
    let volume = Volume::open(dir.path(), &options()).unwrap();
    let pages = volume.view().pages().unwrap();
    assert_eq!(pages.len() as u64, 1 + THREADS * EACH, "no id was given out twice");
    let root = volume.read(PageId::ROOT).unwrap();
    assert!((0..THREADS).all(|t| root[t as usize * 8..][..8] == EACH.to_le_bytes()));
}

/// An executor of one task: the thread parks until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An executor of many tasks on few threads: a queue of those that were woken.
struct Task {
    future: Mutex<Option<Boxed>>,
    queue: Sender<Arc<Task>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let queue = self.queue.clone();
        // Nobody polls any more once the queue is gone.
        let _ = queue.send(self);
    }
}

fn run_all(threads: usize, futures: Vec<Boxed>) {
    let (queue, woken) = channel();
    let woken = Mutex::new(woken);
    let left = AtomicUsize::new(futures.len());
    for future in futures {
        queue.send(Arc::new(Task { future: Mutex::new(Some(future)), queue: queue.clone() })).unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while left.load(Ordering::SeqCst) > 0 {
                    let next = woken.lock().unwrap().recv_timeout(Duration::from_millis(20));
                    let Ok(task) = next else { continue };
                    let mut future = task.future.lock().unwrap();
                    let Some(mut running) = future.take() else { continue };
                    match running.as_mut().poll(&mut Context::from_waker(&Waker::from(task.clone()))) {
                        Poll::Pending => *future = Some(running),
                        Poll::Ready(()) => drop(left.fetch_sub(1, Ordering::SeqCst)),
                    }
                }
            });
        }
    });
}

/// One poll, and no more: what a `select` does to the branch that lost.
struct Once<F>(F);

impl<F: Future + Unpin> Future for Once<F> {
    type Output = Option<F::Output>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.0).poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Poll::Ready(None),
        }
    }
}

#[test]
fn tickets_on_two_executors() {
    for io_uring in [true, false] {
        let dir = common::dir();
        let volume = Volume::create(dir.path(), &options().io_uring(io_uring)).unwrap();
        let commit = |n: u64| {
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, (n % 2000) as u32 * 8, &n.to_le_bytes());
            mtr.commit().unwrap()
        };
        let begun = Instant::now();
        for n in 0..100 {
            block_on(commit(n)).unwrap();
        }
        let one = begun.elapsed();
        // Many at once, awaited in any order, from a few threads, some after they were polled once and left.
        let begun = Instant::now();
        let done = Arc::new(AtomicUsize::new(0));
        let futures = (100..900).map(|n| {
            let (ticket, done, volume) = (commit(n), done.clone(), volume.clone());
            let future: Boxed = Box::pin(async move {
                let mut ticket = ticket;
                if n % 3 == 0 {
                    let _ = Once(&mut ticket).await;
                }
                if n % 5 == 0 {
                    drop(ticket);
                    volume.sync().await.unwrap();
                } else {
                    ticket.await.unwrap();
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
            future
        });
        let futures: Vec<Boxed> = futures.rev().collect();
        run_all(3, futures);
        assert_eq!(done.load(Ordering::SeqCst), 800);
        println!("io_uring {io_uring}: 100 one by one in {one:?}, 800 tasks in {:?}", begun.elapsed());
        // A ticket that is polled by one executor and ended by another; and one that is polled after it was ready.
        let mut ticket = commit(1);
        let _ = block_on(Once(&mut ticket));
        let moved: Boxed = Box::pin(async move { ticket.await.unwrap() });
        run_all(1, vec![moved]);
        let ticket = commit(2);
        ticket.wait().unwrap();
        block_on(ticket).unwrap();
        // Closing ends what is open: none hangs.
        let tickets: Vec<_> = (0..50).map(commit).collect();
        let clone = volume.clone();
        let closer = std::thread::spawn(move || clone.close());
        for ticket in tickets {
            match block_on(ticket) {
                Ok(()) | Err(WriteError::Unknown { .. }) => (),
                Err(e) => panic!("{e:?}"),
            }
        }
        closer.join().unwrap().unwrap();
    }
}

#[test]
fn views_stay_as_they_were_while_the_volume_goes_on() {
    let dir = common::dir();
    let options = options().page_size(4096).checkpoint_bytes(MIB).cache_bytes(MIB);
    let volume = Volume::create(dir.path(), &options).unwrap();
    let mut mtr = volume.begin();
    let pages: Vec<PageId> = (0..40).map(|_| mtr.alloc().unwrap()).collect();
    mtr.commit().unwrap().wait().unwrap();
    let mut views = Vec::new();
    for n in 0u32..400 {
        let mut mtr = volume.begin();
        for page in pages.iter().skip(n as usize % 7).step_by(7) {
            mtr.patch(*page, (n % 1000) * 4, &n.to_le_bytes()).patch(*page, 4092, &n.to_le_bytes());
        }
        mtr.commit().unwrap().wait().unwrap();
        if n % 20 == 0 {
            let view = volume.view();
            let state: Vec<quorate::Page> = pages.iter().map(|p| view.read(*p).unwrap()).collect();
            views.push((view, state));
        }
    }
    // Checkpoints went by: none of the views moved.
    assert!(volume.health().manifest.0 > 0);
    for (view, state) in &views {
        for (page, before) in pages.iter().zip(state) {
            let now = view.read(*page).unwrap_or_else(|e| panic!("view {}: {e}", view.lsn()));
            assert!(now[..] == before[..] && now.lsn() == before.lsn(), "view {}: page {page}", view.lsn());
        }
        assert_eq!(view.pages().unwrap().len(), 41);
    }
    volume.close().unwrap();
}

/// What an MTR costs grows with its pages, not with their square: nobody else commits while it is placed.
#[test]
fn an_mtr_of_many_pages_is_placed_soon() {
    const MANY: usize = 60_000;
    let dir = common::dir();
    let volume = Volume::create(dir.path(), &Options::default().page_size(4096)).unwrap();
    let begun = Instant::now();
    let mut mtr = volume.begin();
    // Never put: each becomes a page of zeros.
    let pages: Vec<PageId> = (0..MANY).map(|_| mtr.alloc().unwrap()).collect();
    mtr.commit().unwrap().wait().unwrap();
    let mut mtr = volume.begin();
    for page in &pages {
        mtr.patch(*page, 0, &[1]);
    }
    mtr.commit().unwrap().wait().unwrap();
    let mut mtr = volume.begin();
    for page in &pages {
        mtr.free(*page);
    }
    mtr.commit().unwrap().wait().unwrap();
    println!("{MANY} pages thrice: {:?}", begun.elapsed());
    assert!(matches!(volume.read(pages[MANY / 2]), Err(ReadError::NoSuchPage(_))));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    volume.close().unwrap();
}
