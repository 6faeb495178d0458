//! Space ahead of the log is zeroed where small commits gain by it, and nowhere else. An idle volume does nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Mount;
use quorate::{Options, PageId, Placement, Volume};
use std::time::{Duration, Instant};

/// Small commits, a few milliseconds apart: no log that grows fast.
const COMMITS: u32 = 60;
/// What is zeroed at once, on six slots.
const CHUNKS: u64 = 6 * (256 << 10);

/// Bytes that are written by some commits, a close, and another life; every page is what it was then.
fn written(at: &Placement, options: &Options) -> u64 {
    let volume = Volume::create(at.clone(), options).unwrap();
    for i in 0..COMMITS {
        common::patch(&volume, PageId::ROOT, i * 8, &i.to_le_bytes());
        std::thread::sleep(Duration::from_millis(3));
    }
    // A slot's worker may still be at it.
    std::thread::sleep(Duration::from_millis(300));
    let bytes = volume.health().slots.iter().map(|s| s.bytes_written).sum();
    volume.close().unwrap();
    let volume = Volume::open(at.clone(), options).unwrap();
    for i in 0..COMMITS {
        common::patch(&volume, PageId::ROOT, (COMMITS + i) * 8, &i.to_le_bytes());
    }
    let root = volume.read(PageId::ROOT).unwrap();
    for i in 0..2 * COMMITS {
        let at = i as usize * 8;
        assert_eq!(root[at..at + 4], (i % COMMITS).to_le_bytes());
    }
    volume.close().unwrap();
    let found = Volume::open_read_only(at.clone(), options).unwrap().verify();
    assert!(found.is_clean(), "{:?} {:?}", found.differences, found.unreadable);
    bytes
}

fn on(kind: &str, pays: bool) {
    let dir = common::dir();
    let Some(disk) = Mount::of(dir.path(), kind, 1 << 10, kind) else { return };
    let bytes = [true, false].map(|zero| {
        let at = disk.path.join(format!("{zero}"));
        std::fs::create_dir(&at).unwrap();
        written(&Placement::from(common::make_azs(&at)), &Options::default().zero_ahead(zero))
    });
    println!("{kind}: {} KiB with, {} KiB without", bytes[0] >> 10, bytes[1] >> 10);
    let more = bytes[0].saturating_sub(bytes[1]);
    assert_eq!(more > CHUNKS / 2, pays, "{kind}: {bytes:?}");
}

#[test]
fn space_is_zeroed_ahead_on_ext4() {
    on("ext4", true);
}

#[test]
fn space_is_zeroed_ahead_on_xfs() {
    on("xfs", true);
}

#[test]
fn nothing_is_zeroed_on_btrfs() {
    on("btrfs", false);
}

/// Times that a thread of this process went to sleep or was put off, by the thread's name: the kernel's workers for io_uring
/// (`iou-wrk`) among them, but not those of the test.
fn switches() -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let count = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
        let switches = read("status").lines().filter(|l| l.contains("ctxt_switches")).filter_map(count).sum();
        let name = read("comm").trim().to_string();
        if name.starts_with("quorate-") || name.starts_with("iou-") {
            all.push((name, switches));
        }
    }
    all.sort();
    all
}

/// Ten seconds without a commit: no thread of the volume wakes, and what is resident is small. In a process of its own.
#[test]
fn an_idle_volume_sleeps() {
    const ALONE: &str = "QUORATE_IDLE_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output =
            command.args(["an_idle_volume_sleeps", "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}");
        assert!(output.status.success() && said.contains("1 passed"), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let dir = common::dir();
    let at = Placement::from(common::make_azs(dir.path()));
    let volume = Volume::create(at, &Options::default().cache_bytes(0)).unwrap();
    for i in 0..COMMITS {
        common::patch(&volume, PageId::ROOT, i * 8, &i.to_le_bytes());
    }
    // The filler that speaks for the last commit, and the end of the ring's thread.
    std::thread::sleep(Duration::from_secs(3));
    let before = switches();
    std::thread::sleep(Duration::from_secs(10));
    let after = switches();
    assert!(!before.is_empty());
    assert_eq!(before, after, "a thread woke");
    let begun = Instant::now();
    common::patch(&volume, PageId::ROOT, 0, &[7; 4]);
    println!("a commit of an idle volume: {:?}", begun.elapsed());
    assert_eq!(volume.health().io, "io_uring");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.split_whitespace().next().unwrap().parse().unwrap();
    println!("{kib} KiB resident");
    assert!(kib < 16 << 10, "{kib} KiB resident");
    volume.close().unwrap();
}
