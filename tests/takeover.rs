//! Two writers: the second is refused and told of the holder, or takes over, and then the first acknowledges nothing more.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Child;
use quorate::{CloseError, Lsn, OpenError, Options, PageId, ReadError, Unknown, Volume, WriteError};
use std::path::Path;
use std::time::{Duration, Instant};

const AT: &str = "QUORATE_TAKEOVER_AT";
const IO_URING: &str = "QUORATE_TAKEOVER_IO_URING";
const SOON: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options::default().page_size(4096)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Both halves of the root page and of page 1 say the same after every MTR.
fn state(read: impl Fn(PageId) -> Result<quorate::Page, ReadError>) -> u64 {
    let (a, b) = (read(PageId(0)).unwrap(), read(PageId(1)).unwrap());
    assert_eq!(number(&a, 0), number(&b, 4088), "half an MTR");
    number(&a, 0)
}

fn step(volume: &Volume, n: u64) -> Result<quorate::Commit, WriteError> {
    let mut mtr = volume.begin();
    mtr.patch(PageId(0), 0, &n.to_le_bytes()).patch(PageId(1), 4088, &n.to_le_bytes());
    mtr.commit()
}

fn create(at: &Path) -> Volume {
    let volume = Volume::create(at, &options()).unwrap();
    let mut mtr = volume.begin();
    assert_eq!(mtr.alloc().unwrap(), PageId(1));
    mtr.commit().unwrap().wait().unwrap();
    volume
}

fn say(line: String) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// Commits until it is not let any more, and says how that ended.
#[test]
fn child_main() {
    let Ok(at) = std::env::var(AT) else { return };
    say(String::new());
    let io_uring = std::env::var(IO_URING).unwrap() == "1";
    let volume = Volume::open(Path::new(&at), &options().io_uring(io_uring)).unwrap();
    say(format!("open {} {}", std::process::id(), volume.health().epoch));
    let begin = state(|p| volume.read(p));
    let view = volume.view();
    let mut acked = begin;
    let end = (begin + 1..).find_map(|n| match step(&volume, n) {
        Err(e) => Some(e),
        Ok(ticket) => {
            say(format!("sent {n} {} {}", ticket.lsn().0, ticket.unknown().epoch));
            match ticket.wait() {
                Ok(()) => {
                    acked = n;
                    say(format!("acked {n}"));
                    None
                }
                Err(e) => Some(e),
            }
        }
    });
    say(format!("ended {:?}", end.unwrap()));
    // Whatever is tried now fails, and reads stay at what was acknowledged.
    assert!(matches!(step(&volume, acked + 100), Err(WriteError::ReadOnly(_))));
    assert_eq!(state(|p| volume.read(p)), acked, "newest at VDL");
    assert_eq!(state(|p| volume.view().read(p)), acked, "a view at VDL");
    assert_eq!(state(|p| view.read(p)), begin, "the old view");
    assert!(volume.health().ended.unwrap().contains("taken over"));
    say(format!("closed {:?}", volume.close().unwrap_err()));
}

fn child(at: &Path, io_uring: bool) -> (Child, u32, u64) {
    let io_uring = u64::from(io_uring).to_string();
    let child = Child::start("child_main", &[(AT, at.to_str().unwrap().into()), (IO_URING, io_uring)]);
    let line = child.until("open", SOON).expect("the child opens");
    let mut words = line.split(' ').skip(1).map(|w| w.parse::<u64>().unwrap());
    let (pid, epoch) = (words.next().unwrap() as u32, words.next().unwrap());
    child.until("acked", SOON).expect("it commits");
    (child, pid, epoch)
}

/// Numbers behind a word, in order.
fn numbers(lines: &[String], word: &str) -> Vec<u64> {
    let number = |l: &String| l.strip_prefix(word)?.split(' ').nth(1)?.parse().ok();
    lines.iter().filter_map(number).collect()
}

#[test]
fn a_second_open_is_told_who_holds_the_volume() {
    let dir = common::dir();
    create(dir.path()).close().unwrap();
    let (child, pid, epoch) = child(dir.path(), true);
    for _ in 0..3 {
        let begun = Instant::now();
        match Volume::open(dir.path(), &options()) {
            Err(OpenError::Locked { pid: p, epoch: e }) => assert_eq!((p, e), (pid, epoch)),
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "it waits for nobody");
    }
    // A refused open does not disturb the holder.
    assert!(child.until("acked", SOON).is_some());
    let said = child.kill();
    assert!(!said.iter().any(|l| l.starts_with("ended")), "{said:?}");
    // The lock died with it.
    Volume::open(dir.path(), &options()).unwrap().close().unwrap();
}

#[test]
fn a_second_open_in_the_same_process_is_refused_too() {
    let dir = common::dir();
    let volume = create(dir.path());
    let epoch = volume.health().epoch;
    for _ in 0..2 {
        match Volume::open(dir.path(), &options()) {
            Err(OpenError::Locked { pid, epoch: e }) => assert_eq!((pid, e), (std::process::id(), epoch)),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(Volume::create(dir.path(), &options()), Err(OpenError::NotEmpty(_))));
    step(&volume, 5).unwrap().wait().unwrap();
    volume.close().unwrap();
    let volume = Volume::open(dir.path(), &options()).unwrap();
    assert_eq!(state(|p| volume.read(p)), 5);
    drop(volume);
    // A handle that was dropped has given up its lock.
    Volume::open(dir.path(), &options()).unwrap().close().unwrap();
}

/// Takes over from a child that was stopped, or runs on; then lets it go on, and looks at what it says.
fn take_over(io_uring: bool, stopped: bool) {
    let dir = common::dir();
    create(dir.path()).close().unwrap();
    let (child, _, epoch) = child(dir.path(), io_uring);
    std::thread::sleep(Duration::from_millis(50));
    if stopped {
        child.signal("STOP");
    }
    let begun = Instant::now();
    let volume = Volume::take_over(dir.path(), &options()).unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "an open waits for nobody: {took:?}");
    assert!(volume.health().epoch > epoch);
    let found = state(|p| volume.read(p));
    // Ours, from here on: numbers that the child will not reach.
    for n in 0..50 {
        step(&volume, (1 << 40) + n).unwrap().wait().unwrap();
    }
    if stopped {
        child.signal("CONT");
    }
    let said = child.join(SOON);
    let (sent, acked) = (numbers(&said, "sent"), numbers(&said, "acked"));
    let ended = said.iter().find(|l| l.starts_with("ended")).expect("it ended");
    assert!(ended.contains("Unknown") || ended.contains("ReadOnly"), "{ended}");
    let last_acked = acked.last().copied().unwrap_or(0);
    assert!(last_acked <= found, "{last_acked} was acknowledged, and {found} was found");
    println!("took over in {took:?}: {found} found, {last_acked} acknowledged, {ended}");
    // Everything that it sent is decided, and as the pages say.
    for line in said.iter().filter(|l| l.starts_with("sent")) {
        let words: Vec<u64> = line.split(' ').skip(1).map(|w| w.parse().unwrap()).collect();
        let unknown = Unknown { lsn: Lsn(words[1]), epoch: words[2] };
        assert_eq!(volume.outcome(unknown).unwrap(), words[0] <= found, "{line}");
    }
    assert!(sent.last() >= acked.last());
    assert_eq!(state(|p| volume.read(p)), (1 << 40) + 49, "the child changed nothing of ours");
    volume.close().unwrap();
    let volume = Volume::open(dir.path(), &options()).unwrap();
    assert_eq!(state(|p| volume.read(p)), (1 << 40) + 49);
    volume.close().unwrap();
}

#[test]
fn a_stopped_writer_acknowledges_nothing_when_it_goes_on() {
    take_over(true, true);
    take_over(false, true);
}

#[test]
fn a_running_writer_acknowledges_nothing_more() {
    take_over(true, false);
    take_over(false, false);
}

#[test]
fn taking_over_from_one_another_in_one_process() {
    let dir = common::dir();
    let mut volumes = vec![create(dir.path())];
    step(&volumes[0], 1).unwrap().wait().unwrap();
    for turn in 2..8 {
        let before = volumes.last().unwrap();
        // Some of it in flight.
        let tickets: Vec<_> = (0..20).map(|_| step(before, turn - 1).unwrap()).collect();
        let volume = Volume::take_over(dir.path(), &options()).unwrap();
        for ticket in &tickets {
            match ticket.wait() {
                Ok(()) => assert!(volume.outcome(ticket.unknown()).unwrap(), "acknowledged is there"),
                Err(WriteError::Unknown { unknown, .. }) => {
                    assert_eq!(unknown, ticket.unknown());
                    // Decided, this way or that.
                    volume.outcome(unknown).unwrap();
                }
                Err(e) => panic!("{e:?}"),
            }
        }
        assert_eq!(state(|p| volume.read(p)), turn - 1);
        let ours = step(&volume, turn).unwrap();
        ours.wait().unwrap();
        // Who was fenced learns it from its next commit at the latest, and knows nothing of later epochs.
        match step(before, 99) {
            Ok(ticket) => assert!(matches!(ticket.wait(), Err(WriteError::Unknown { .. }))),
            Err(e) => assert!(matches!(e, WriteError::ReadOnly(_)), "{e:?}"),
        }
        assert!(matches!(before.outcome(ours.unknown()), Err(ReadError::NotKnownYet(_))), "of a later epoch");
        volumes.push(volume);
    }
    let last = volumes.pop().unwrap();
    for fenced in volumes {
        assert!(matches!(fenced.close(), Err(CloseError::NotDurable(_) | CloseError::NotClean(_))));
    }
    step(&last, 50).unwrap().wait().unwrap();
    last.close().unwrap();
    let volume = Volume::open(dir.path(), &options()).unwrap();
    assert_eq!(state(|p| volume.read(p)), 50);
}

#[test]
fn many_openers_at_once_leave_one_writer() {
    let dir = common::dir();
    create(dir.path()).close().unwrap();
    for round in 1..=5u64 {
        let opened: Vec<_> = std::thread::scope(|scope| {
            let open = |force: bool| {
                let at = dir.path();
                let open = if force { Volume::take_over(at, &options()) } else { Volume::open(at, &options()) };
                match open {
                    Ok(volume) => {
                        let committed = step(&volume, round).and_then(|t| t.wait());
                        Some((volume, committed))
                    }
                    Err(OpenError::Locked { .. } | OpenError::Outbid { .. } | OpenError::Quorum { .. }) => None,
                    Err(e) => panic!("{e:?}"),
                }
            };
            let threads: Vec<_> = (0..4).map(|i| scope.spawn(move || open(i % 2 == 0))).collect();
            threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        // Each may have been the writer for a while; who acknowledged is in the log.
        let acked = opened.iter().filter(|(_, c)| c.is_ok()).count();
        let alive = opened.iter().filter(|(v, _)| v.health().ended.is_none()).count();
        drop(opened);
        let volume = Volume::take_over(dir.path(), &options()).unwrap();
        let now = state(|p| volume.read(p));
        assert!(now == round || acked == 0, "round {round}: {acked} acknowledged, {alive} alive, {now}");
        volume.close().unwrap();
    }
}

#[test]
fn a_reader_beside_a_running_writer_sees_whole_states() {
    let dir = common::dir();
    create(dir.path()).close().unwrap();
    let (child, ..) = child(dir.path(), true);
    let begun = Instant::now();
    let (mut last, mut last_settled, mut reads) = (0, Lsn(0), 0);
    let mut acked = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        acked = numbers(&child.pending(), "acked").last().copied().unwrap_or(acked);
        let reader = Volume::open_read_only(dir.path(), &options()).unwrap();
        assert!(reader.settled() <= reader.visible());
        let (settled, visible) = (state(|p| reader.view().read(p)), state(|p| reader.view_visible().read(p)));
        assert!(settled <= visible);
        assert!(visible >= acked, "{acked} was acknowledged before, and {visible} is seen");
        assert!(settled >= last && reader.settled() >= last_settled, "what is settled stays");
        (last, last_settled) = (settled, reader.settled());
        reads += 1;
    }
    println!("{reads} opens for reading alone, up to {last}");
    assert!(last > 0);
    drop(child);
}

#[test]
fn a_reader_beside_openings_sees_whole_states() {
    let dir = common::dir();
    create(dir.path()).close().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut last, mut reads) = (0, 0);
                    while !done.load(std::sync::atomic::Ordering::SeqCst) {
                        let reader = Volume::open_read_only(dir.path(), &options()).unwrap();
                        let (settled, visible) =
                            (state(|p| reader.view().read(p)), state(|p| reader.view_visible().read(p)));
                        assert!(last <= settled && settled <= visible, "{last} {settled} {visible}");
                        (last, reads) = (settled, reads + 1);
                    }
                    reads
                })
            })
            .collect();
        let begun = Instant::now();
        let (mut n, mut opens) = (0, 0);
        while begun.elapsed() < Duration::from_secs(3) {
            let volume = Volume::open(dir.path(), &options()).unwrap();
            for _ in 0..opens % 30 {
                n += 1;
                step(&volume, n).unwrap().wait().unwrap();
            }
            opens += 1;
            if opens % 3 == 0 {
                volume.close().unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        let reads: Vec<i32> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        println!("{opens} opens for writing, {reads:?} for reading");
    });
}
