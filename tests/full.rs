//! Disks that are full, that hang, that die: small ones on loop devices.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Mount;
use quorate::{Away, CloseError, OpenError, Options, PageId, Placement, Volume, WriteError};
use std::time::{Duration, Instant};

const PAGE: usize = 16 << 10;

fn options() -> Options {
    Options::default().page_size(PAGE as u32).checkpoint_bytes(4 << 20)
}

/// Three disks of so many MiB, with an empty directory on each.
struct Disks {
    mounts: Vec<Mount>,
    _dir: tempfile::TempDir,
}

impl Disks {
    fn new(mib: [u64; 3]) -> Option<Disks> {
        let dir = common::dir();
        let mut mounts = Vec::new();
        for (i, mib) in mib.into_iter().enumerate() {
            mounts.push(Mount::new(dir.path(), &format!("disk-{i}"), mib)?);
        }
        mounts.iter().for_each(|m| std::fs::create_dir(m.path.join("az")).unwrap());
        Some(Disks { mounts, _dir: dir })
    }

    fn at(&self) -> Placement {
        Placement::new(self.mounts.iter().map(|m| m.path.join("az")))
    }
}

/// A page of so many bytes `n`, in an MTR of its own.
fn put(volume: &Volume, page: PageId, n: u64) -> Result<quorate::Commit, WriteError> {
    let mut mtr = volume.begin();
    let mut image = vec![n as u8; PAGE];
    image[..8].copy_from_slice(&n.to_le_bytes());
    mtr.put(page, image);
    mtr.commit()
}

fn number(volume: &Volume, page: PageId) -> u64 {
    let page = volume.read(page).unwrap();
    let n = u64::from_le_bytes(page[..8].try_into().unwrap());
    assert!(page[8..].iter().all(|b| *b == n as u8));
    n
}

#[test]
fn one_full_az_stalls_nobody() {
    for io_uring in [true, false] {
        let Some(disks) = Disks::new([320, 24, 320]) else { return };
        let volume = Volume::create(disks.at(), &options().io_uring(io_uring)).unwrap();
        disks.mounts[1].fill();
        let (mut slowest, begun) = (Duration::ZERO, Instant::now());
        for n in 1..=2000 {
            let t = Instant::now();
            put(&volume, PageId::ROOT, n).unwrap().wait().unwrap();
            slowest = slowest.max(t.elapsed());
        }
        let health = volume.health();
        println!("2000 commits in {:?}, slowest {slowest:?}", begun.elapsed());
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        for s in &health.slots {
            let full = s.slot.az() == 1;
            assert_eq!(s.full, full, "{s:?}");
            // It tries to come back now and then: away, or with a gap below where it did.
            assert!(full || s.away.is_none(), "{s:?}");
            assert_eq!(full, !s.gaps.is_empty(), "{s:?}");
        }
        // It comes back by itself.
        disks.mounts[1].make_room();
        let deadline = Instant::now() + Duration::from_secs(15);
        while volume.health().slots.iter().any(|s| s.away.is_some()) {
            assert!(Instant::now() < deadline, "{:#?}", volume.health().slots);
            std::thread::sleep(Duration::from_millis(50));
        }
        put(&volume, PageId::ROOT, 5000).unwrap().wait().unwrap();
        volume.close().unwrap();
        let volume = Volume::open(disks.at(), &options()).unwrap();
        assert_eq!(number(&volume, PageId::ROOT), 5000);
        // Full again: it is no reason to close late or not clean.
        disks.mounts[1].fill();
        for n in 5001..5400 {
            put(&volume, PageId::ROOT, n).unwrap().wait().unwrap();
        }
        let t = Instant::now();
        volume.close().unwrap();
        assert!(t.elapsed() < Duration::from_secs(2), "{:?}", t.elapsed());
        let volume = Volume::open(disks.at(), &options()).unwrap();
        assert_eq!(number(&volume, PageId::ROOT), 5399);
        assert_eq!(volume.health().recovery_bytes, 0, "the close was clean");
    }
}

#[test]
fn all_full_is_told_before_anything_is_accepted() {
    for io_uring in [true, false] {
        let Some(disks) = Disks::new([32; 3]) else { return };
        let options = options().io_uring(io_uring).stall_max(Duration::from_secs(10));
        let free = |m: &Mount| rustix::fs::statvfs(&m.path).map(|s| s.f_bavail * s.f_bsize).unwrap();
        let room = disks.mounts.iter().map(free).min().unwrap() / 2;
        let volume = Volume::create(disks.at(), &options).unwrap();
        let mut tickets = Vec::new();
        let begun = Instant::now();
        let mut n = 0_u64;
        let e = loop {
            // Pages that live: nothing of them can be given back.
            let mut mtr = volume.begin();
            let page = mtr.alloc().unwrap();
            let mut image = vec![n as u8; PAGE];
            image[..8].copy_from_slice(&n.to_le_bytes());
            mtr.put(page, image);
            match mtr.commit() {
                Ok(ticket) => tickets.push((page, ticket)),
                Err(e) => break e,
            }
            n += 1;
            assert!(begun.elapsed() < Duration::from_secs(60), "it is never full");
        };
        assert!(matches!(e, WriteError::OutOfSpace { .. }), "{e:?}");
        // Two slots share a disk: what one gets of the last step that fails stays with it.
        let log = volume.health().tail.0;
        println!("{n} pages of {PAGE}, {} KiB of log, in {:?}; {} KiB a slot", log >> 10, begun.elapsed(), room >> 10);
        // And what is left to the table, to frees and to reclaiming.
        assert!(log + (4 << 20) > room, "{log} bytes of log where {room} could be");
        // What was accepted is acknowledged; reads work; it goes on refusing, at once.
        tickets.iter().for_each(|(_, t)| t.wait().unwrap());
        tickets.iter().zip(0..).for_each(|((page, _), n)| assert_eq!(number(&volume, *page), n));
        for _ in 0..3 {
            let t = Instant::now();
            assert!(matches!(put(&volume, PageId::ROOT, 0), Err(WriteError::OutOfSpace { .. })));
            assert!(t.elapsed() < Duration::from_secs(3), "{:?}", t.elapsed());
        }
        let t = Instant::now();
        let closed = volume.close();
        println!("close: {closed:?} in {:?}", t.elapsed());
        assert!(t.elapsed() < Duration::from_secs(2), "{:?}", t.elapsed());
        closed.unwrap();
        let reader = Volume::open_read_only(disks.at(), &options).unwrap();
        let page = reader.view().read(tickets[0].0).unwrap();
        assert_eq!(u64::from_le_bytes(page[..8].try_into().unwrap()), 0);
        drop(reader);
    }
}

#[test]
fn a_volume_that_is_full_closes_clean_and_opens_again() {
    let Some(disks) = Disks::new([32; 3]) else { return };
    let volume = Volume::create(disks.at(), &options()).unwrap();
    let mut pages = Vec::new();
    assert!(fill_up(&volume, &mut pages) > 0);
    volume.close().unwrap();
    let volume = Volume::open(disks.at(), &options()).unwrap();
    pages.iter().for_each(|page| assert!(volume.read(*page).unwrap().iter().all(|b| *b == page.0 as u8)));
    volume.close().unwrap();
}

#[test]
fn a_hung_az_stalls_nobody() {
    for io_uring in [true, false] {
        let Some(mut disks) = Disks::new([512; 3]) else { return };
        let options = options().io_uring(io_uring);
        let volume = Volume::create(disks.at(), &options).unwrap();
        put(&volume, PageId::ROOT, 1).unwrap().wait().unwrap();
        if !disks.mounts[1].freeze() {
            return;
        }
        let (mut slowest, begun) = (Duration::ZERO, Instant::now());
        let before = volume.health().memory_bytes;
        // More than the ring holds: the slots fall out of it.
        for n in 2..=2500 {
            let t = Instant::now();
            put(&volume, PageId::ROOT, n).unwrap().wait().unwrap();
            slowest = slowest.max(t.elapsed());
        }
        let health = volume.health();
        println!(
            "2500 commits beside a hung AZ in {:?}, slowest {slowest:?}, memory {before} to {}",
            begun.elapsed(),
            health.memory_bytes
        );
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        assert!(health.memory_bytes <= health.memory_bytes_max);
        assert!(health.slots.iter().filter(|s| s.slot.az() == 1).all(|s| s.away.is_some()), "{:#?}", health.slots);
        assert_eq!(number(&volume, PageId::ROOT), 2500);
        disks.mounts[1].thaw();
        let deadline = Instant::now() + Duration::from_secs(15);
        while volume.health().slots.iter().any(|s| s.away.is_some()) {
            assert!(Instant::now() < deadline, "they come back by themselves: {:#?}", volume.health().slots);
            put(&volume, PageId::ROOT, 2501).unwrap().wait().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        volume.close().unwrap();
        let volume = Volume::open(disks.at(), &options).unwrap();
        assert_eq!(number(&volume, PageId::ROOT), 2501);
        volume.close().unwrap();
    }
}

#[test]
fn closing_and_opening_beside_a_hung_az() {
    let Some(mut disks) = Disks::new([64, 64, 64]) else { return };
    let volume = Volume::create(disks.at(), &options()).unwrap();
    put(&volume, PageId::ROOT, 1).unwrap().wait().unwrap();
    if !disks.mounts[2].freeze() {
        return;
    }
    put(&volume, PageId::ROOT, 2).unwrap().wait().unwrap();
    let at = disks.at();
    let (send, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let t = Instant::now();
        let closed = volume.close();
        send.send(format!("close: {closed:?} in {:?}", t.elapsed())).unwrap();
        let t = Instant::now();
        let volume = Volume::open(at.clone(), &options()).unwrap();
        send.send(format!("open in {:?}", t.elapsed())).unwrap();
        assert_eq!(number(&volume, PageId::ROOT), 2);
        put(&volume, PageId::ROOT, 3).unwrap().wait().unwrap();
        send.send("commit".to_string()).unwrap();
        let t = Instant::now();
        drop(volume);
        send.send(format!("drop in {:?}", t.elapsed())).unwrap();
    });
    let mut step = |what: &str, most: u64| match done.recv_timeout(Duration::from_secs(most)) {
        Ok(said) => println!("{said}"),
        Err(_) => {
            disks.mounts[2].thaw();
            panic!("{what} waits for a hung disk");
        }
    };
    step("close", 15);
    // One time limit of 5 s in all, whatever is asked of the disk that hangs.
    step("open", 8);
    step("a commit", 5);
    step("drop", 5);
    disks.mounts[2].thaw();
    let volume = Volume::open(disks.at(), &options()).unwrap();
    assert_eq!(number(&volume, PageId::ROOT), 3);
    volume.close().unwrap();
}

/// The kernel lets no thread end that submitted a write to io_uring, as long as that write hangs.
#[test]
fn threads_that_committed_end_beside_a_hung_az() {
    for io_uring in [true, false] {
        let Some(mut disks) = Disks::new([64, 64, 64]) else { return };
        let volume = Volume::create(disks.at(), &options().io_uring(io_uring)).unwrap();
        put(&volume, PageId::ROOT, 1).unwrap().wait().unwrap();
        if !disks.mounts[1].freeze() {
            return;
        }
        let (send, ended) = std::sync::mpsc::channel();
        let volume = std::sync::Arc::new(volume);
        for n in 2..6 {
            let (volume, send) = (volume.clone(), send.clone());
            // One that waits until the other one has ended.
            std::thread::spawn(move || {
                let commits = std::thread::spawn(move || put(&volume, PageId::ROOT, n).unwrap().wait().unwrap());
                commits.join().unwrap();
                send.send(()).unwrap();
            });
        }
        let ends = (2..6).filter(|_| ended.recv_timeout(Duration::from_secs(10)).is_ok()).count();
        disks.mounts[1].thaw();
        assert_eq!(ends, 4, "io_uring {io_uring}: a thread waits for the disk that hangs");
        std::sync::Arc::into_inner(volume).map(Volume::close);
    }
}

#[test]
fn two_hung_azs_end_in_unknown_and_nothing_above_vdl_is_seen() {
    for io_uring in [true, false] {
        let Some(mut disks) = Disks::new([64, 64, 64]) else { return };
        let options = options().io_uring(io_uring).stall_max(Duration::from_secs(2));
        let volume = Volume::create(disks.at(), &options).unwrap();
        put(&volume, PageId::ROOT, 1).unwrap().wait().unwrap();
        let view = volume.view();
        if !(disks.mounts[0].freeze() && disks.mounts[1].freeze()) {
            return;
        }
        let ticket = put(&volume, PageId::ROOT, 2).unwrap();
        let t = Instant::now();
        assert!(!ticket.wait_for(Duration::from_millis(300)).unwrap(), "not acknowledged on two");
        assert!(t.elapsed() < Duration::from_secs(1), "wait_for keeps its time: {:?}", t.elapsed());
        let unknown = match ticket.wait_for(Duration::from_secs(30)) {
            Err(WriteError::Unknown { unknown, .. }) => unknown,
            other => panic!("{other:?}"),
        };
        println!("stalled for {:?}", t.elapsed());
        assert!(t.elapsed() < Duration::from_secs(10), "{:?}", t.elapsed());
        // The handle is read-only, at VDL.
        assert_eq!(number(&volume, PageId::ROOT), 1);
        let page = view.read(PageId::ROOT).unwrap();
        assert_eq!(page[0], 1);
        assert!(matches!(put(&volume, PageId::ROOT, 3), Err(WriteError::ReadOnly(_))));
        let t = Instant::now();
        disks.mounts[0].thaw();
        disks.mounts[1].thaw();
        let closed = volume.close();
        assert!(matches!(closed, Err(CloseError::NotDurable(_))), "{closed:?}");
        assert!(t.elapsed() < Duration::from_secs(10));
        let volume = Volume::open(disks.at(), &options).unwrap();
        let survived = volume.outcome(unknown).unwrap();
        assert_eq!(number(&volume, PageId::ROOT), if survived { 2 } else { 1 });
        volume.close().unwrap();
        let volume = Volume::open(disks.at(), &options).unwrap();
        assert_eq!(volume.outcome(unknown).unwrap(), survived, "an outcome never changes");
    }
}

#[test]
fn a_dead_az_stalls_nobody_and_is_no_reason_to_refuse_an_open() {
    let Some(disks) = Disks::new([64, 64, 64]) else { return };
    let volume = Volume::create(disks.at(), &options()).unwrap();
    put(&volume, PageId::ROOT, 1).unwrap().wait().unwrap();
    if !common::run("xfs_io", &["-F", "-x", "-c", "shutdown", disks.mounts[0].path.to_str().unwrap()]) {
        common::skip("no xfs_io that can shut a file system down");
        return;
    }
    for n in 2..=200 {
        put(&volume, PageId::ROOT, n).unwrap().wait().unwrap();
    }
    let health = volume.health();
    assert!(
        health.slots.iter().filter(|s| s.slot.az() == 0).all(|s| s.away == Some(Away::Error)),
        "{:#?}",
        health.slots
    );
    println!("close: {:?}", volume.close());
    let volume = match Volume::open(disks.at(), &options()) {
        Ok(volume) => volume,
        Err(e @ OpenError::Io { .. }) => panic!("four slots are there: {e}"),
        Err(e) => panic!("{e:?}"),
    };
    assert_eq!(number(&volume, PageId::ROOT), 200);
    put(&volume, PageId::ROOT, 201).unwrap().wait().unwrap();
    volume.close().unwrap();
    let reader = Volume::open_read_only(disks.at(), &options()).unwrap();
    assert_eq!(reader.view().read(PageId::ROOT).unwrap()[0], 201);
}

/// A quota is met as a full disk is (`EDQUOT`): on one AZ nobody waits for it, and on all it is told before anything is accepted.
/// Once it is lifted all goes on.
#[test]
fn a_quota_that_is_reached_is_a_full_disk() {
    let dir = common::dir();
    let Some(disk) = Mount::of(dir.path(), "btrfs", 2 << 10, "btrfs") else { return };
    let text = |path: &std::path::Path| path.to_str().unwrap().to_string();
    let azs = ["a", "b", "c"].map(|az| disk.path.join(az));
    assert!(common::run("btrfs", &["quota", "enable", &text(&disk.path)]));
    azs.iter().for_each(|az| assert!(common::run("btrfs", &["subvolume", "create", &text(az)])));
    let limit = |az: usize, most: &str| {
        assert!(common::run("btrfs", &["qgroup", "limit", most, &text(&azs[az])]));
    };
    let options = options().pg_size(64 << 20).stall_max(Duration::from_secs(5));
    let volume = Volume::create(azs.clone(), &options).unwrap();
    limit(1, "40M");
    let mut n = 0_u64;
    let mut puts = |volume: &Volume, most: u64| {
        for _ in 0..most {
            let mut mtr = volume.begin();
            let page = mtr.alloc().unwrap();
            mtr.put(page, vec![page.0 as u8; PAGE]);
            match mtr.commit() {
                Ok(ticket) => ticket.wait().unwrap(),
                Err(e) => return (n, Some(e)),
            }
            n = page.0;
        }
        (n, None)
    };
    // 32 MiB a slot, where both slots of the AZ have 40.
    let (_, refused) = puts(&volume, 2048);
    assert!(refused.is_none(), "{refused:?}");
    let health = volume.health();
    let full: Vec<bool> = health.slots.iter().map(|s| s.full).collect();
    assert_eq!(full, [false, false, true, true, false, false], "{:#?}", health.slots);
    limit(1, "none");
    assert!(volume.wait_repaired(Duration::from_secs(60)), "{:#?}", volume.health());
    // Now all three.
    (0..3).for_each(|az| limit(az, "160M"));
    let (last, refused) = puts(&volume, 20_000);
    assert!(matches!(refused, Some(WriteError::OutOfSpace { .. })), "{refused:?} at {last}");
    let check = |volume: &Volume, last: u64| {
        (1..=last).for_each(|n| assert!(volume.read(PageId(n)).unwrap().iter().all(|b| *b == n as u8), "page {n}"));
    };
    check(&volume, last);
    (0..3).for_each(|az| limit(az, "none"));
    let begun = Instant::now();
    // It is seen when somebody asks again.
    let last = loop {
        match puts(&volume, 500) {
            (last, None) => break last,
            (_, Some(e)) => assert!(begun.elapsed() < Duration::from_secs(30), "{e:?}"),
        }
    };
    check(&volume, last);
    volume.close().unwrap();
    let volume = Volume::open(azs.clone(), &options).unwrap();
    check(&volume, last);
    volume.close().unwrap();
}

/// Pages, and images of them that last.
fn fill_up(volume: &Volume, pages: &mut Vec<PageId>) -> u64 {
    for n in 0.. {
        let mut mtr = volume.begin();
        let page = mtr.alloc().unwrap();
        mtr.put(page, vec![page.0 as u8; PAGE]);
        match mtr.commit() {
            Ok(ticket) => ticket.wait().unwrap(),
            Err(WriteError::OutOfSpace { .. }) => return n,
            Err(e) => panic!("{e:?}"),
        };
        pages.push(page);
    }
    0
}

#[test]
fn a_full_volume_frees_pages_gives_space_back_and_takes_more() {
    frees_and_takes_more([240; 3]);
}

/// The slots of one disk miss what the others took last. After the next open it is not known at once whether more of it is to
/// come, and nothing is given back before: whoever has no room waits for that.
#[test]
fn a_full_volume_with_gaps_takes_more_as_well() {
    frees_and_takes_more([240, 200, 240]);
}

fn frees_and_takes_more(mib: [u64; 3]) {
    let Some(disks) = Disks::new(mib) else { return };
    let options = options().pg_size(64 << 20).stall_max(Duration::from_secs(20));
    let volume = Volume::create(disks.at(), &options).unwrap();
    let mut pages = Vec::new();
    let begun = Instant::now();
    let first = fill_up(&volume, &mut pages);
    println!("{first} pages in {:?}: {:?}", begun.elapsed(), volume.health().space);
    let check = |volume: &Volume, pages: &[PageId]| {
        pages.iter().for_each(|page| assert!(volume.read(*page).unwrap().iter().all(|b| *b == page.0 as u8)));
    };
    // It is full of what lives. Every second page goes, and makes room for others; and once more after a close.
    let mut volume = volume;
    for round in 0..2 {
        let (keep, free): (Vec<PageId>, Vec<PageId>) = pages.iter().copied().partition(|page| page.0 % 2 == round);
        for free in free.chunks(256) {
            let mut mtr = volume.begin();
            free.iter().for_each(|page| {
                mtr.free(*page);
            });
            mtr.commit().unwrap().wait().unwrap();
        }
        pages = keep;
        check(&volume, &pages);
        let begun = Instant::now();
        let more = fill_up(&volume, &mut pages);
        println!("round {round}: {more} more in {:?}: {:?}", begun.elapsed(), volume.health().space);
        assert!(more > first / 4, "{more} of {first}");
        check(&volume, &pages);
        volume.close().unwrap();
        volume = Volume::open(disks.at(), &options).unwrap();
        assert_eq!(volume.health().recovery_bytes, 0, "the close was clean");
        check(&volume, &pages);
    }
}

/// A run of good groups is longer than what a slot asks of a disk that is nearly full; but what is to be mended has its space.
#[test]
fn what_rots_on_a_full_disk_is_mended() {
    let Some(disks) = Disks::new([320; 3]) else { return };
    let volume = Volume::create(disks.at(), &options()).unwrap();
    for n in 0..64 {
        let mut mtr = volume.begin();
        for _ in 0..16 {
            let page = mtr.alloc().unwrap();
            mtr.put(page, vec![n; PAGE]);
        }
        mtr.commit().unwrap().wait().unwrap();
    }
    volume.close().unwrap();
    let segment = disks.mounts[1].path.join("az/slot-2/seg-00000000");
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 4 << 20], 4 << 20).unwrap();
    file.sync_all().unwrap();
    disks.mounts[1].fill();
    let volume = Volume::open(disks.at(), &options()).unwrap();
    volume.scrub();
    assert!(volume.wait_repaired(Duration::from_secs(30)), "{:#?}", volume.health());
    let mended = volume.health().repair.mended_bytes;
    assert!(mended >= 4 << 20, "{mended}");
    volume.close().unwrap();
    let found = Volume::open_read_only(disks.at(), &options()).unwrap().verify();
    assert!(found.is_clean(), "{:?} {:?}", found.differences, found.unreadable);
}

/// ext2 takes no space ahead: it is the log write itself that fails.
#[test]
fn a_log_write_that_fails_is_no_copy() {
    for io_uring in [true, false] {
        let dir = common::dir();
        let Some(disk) = Mount::of(dir.path(), "disk", 64, "ext2") else { return };
        let azs = [dir.path().join("a"), disk.path.join("b"), dir.path().join("c")];
        azs.iter().for_each(|az| std::fs::create_dir(az).unwrap());
        let volume = Volume::create(Placement::new(&azs), &options().io_uring(io_uring)).unwrap();
        put(&volume, PageId::ROOT, 1).unwrap().wait().unwrap();
        disk.fill();
        for n in 2..=100 {
            put(&volume, PageId::ROOT, n).unwrap().wait().unwrap();
        }
        let begun = Instant::now();
        let lacks = |s: &quorate::SlotHealth| s.away.is_some() || !s.gaps.is_empty();
        while !volume.health().slots[2..4].iter().all(lacks) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:#?}", volume.health().slots);
            std::thread::sleep(Duration::from_millis(10));
        }
        disk.make_room();
        assert!(volume.wait_repaired(Duration::from_secs(30)), "{:#?}", volume.health());
        volume.close().unwrap();
        let found = Volume::open_read_only(Placement::new(&azs), &options()).unwrap().verify();
        assert!(found.is_clean(), "{:?} {:?}", found.differences, found.unreadable);
    }
}
