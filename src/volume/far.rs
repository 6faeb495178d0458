//! A volume that has come to 64 TiB, on real files that are sparse: how it opens, what that reads and takes, and where it
//! is full.

use crate::disk::bounded::{self, Reads};
use crate::disk::file::FileDir;
use crate::disk::job;
use crate::lsn::{Lsn, PageId, Slot, format};
use crate::segment::name::FileName;
use crate::segment::superblock::Superblock;
use crate::{Options, Volume, WriteError};
use std::path::Path;
use std::time::Duration;

/// Of 10 GiB, in 64 TiB.
const PGS: u64 = 6554;
const MIB: u64 = 1 << 20;
/// Extents that are left.
const LEFT: u64 = 3;

fn slot(at: &Path, slot: Slot) -> std::path::PathBuf {
    at.join(format!("az-{}", slot.az())).join(format!("slot-{slot}"))
}

fn directory(path: std::path::PathBuf) -> FileDir {
    FileDir::new(path, 4096, false, Reads::new(&bounded::Shared::new(true)))
}

/// As if the log of a volume that was closed clean had gone on to `end`, and all its groups had their files.
fn goes_on_to(at: &Path, end: Lsn) {
    for s in Slot::ALL {
        let dir = directory(slot(at, s));
        let mut newest = Superblock::newest_of(job::read_super(&dir, FileName::Epoch(1)).unwrap()).unwrap();
        assert!(newest.clean.is_some());
        newest.clean = Some(end);
        job::write_super(&dir, &newest).unwrap();
        let last = FileName::segment_of(end, format::PG_DEFAULT).0;
        for pg in (0..).map(FileName::Segment).take_while(|name| *name <= last) {
            let path = slot(at, s).join(pg.to_string());
            let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
            file.set_len(format::PG_DEFAULT).unwrap();
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn put(volume: &Volume, page: PageId, byte: u8, times: usize) -> Result<(), WriteError> {
    let mut mtr = volume.begin();
    for _ in 0..times {
        mtr.put(page, vec![byte; 16 << 10]);
    }
    mtr.commit()?.wait().map(drop)
}

/// In a process of its own: descriptors and memory are counted.
#[test]
fn a_volume_of_6554_groups_opens_with_a_few_blocks_and_is_full_at_64_tib() {
    const ALONE: &str = "QUORATE_FAR_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return alone();
    }
    let name = "volume::far::a_volume_of_6554_groups_opens_with_a_few_blocks_and_is_full_at_64_tib";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args([name, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success() && said.contains("1 passed"), "{}", String::from_utf8_lossy(&output.stderr));
}

fn alone() {
    let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let at = temp.path();
    let volume = Volume::create(at, &Options::default()).unwrap();
    put(&volume, PageId::ROOT, 7, 1).unwrap();
    volume.close().unwrap();
    let whole = format::EXTENTS_MAX * format::EXTENT;
    let end = Lsn(whole - LEFT * format::EXTENT - 5000);
    goes_on_to(at, end);
    let files = std::fs::read_dir(slot(at, Slot(4))).unwrap();
    let segments = files.filter(|f| f.as_ref().unwrap().file_name().to_str().unwrap().starts_with("seg-")).count();
    assert_eq!(segments as u64, PGS);

    // (what, how it was left) One after a clean close, one after a kill.
    let bounded = |volume: &Volume, before: (u64, usize), what: &str, bytes: u64| {
        let health = volume.health();
        let most = health.slots.iter().map(|s| s.bytes_read).max().unwrap();
        let (memory, fds) = (resident().saturating_sub(before.0), descriptors().saturating_sub(before.1));
        println!(
            "{what}: {} blocks read of a slot at most, {} KiB more memory, {fds} more descriptors",
            most / 4096,
            memory >> 10
        );
        assert!(most <= bytes, "{what}: {most} bytes were read of a slot");
        assert!(memory < 32 * MIB && memory < health.memory_bytes_max, "{what}: {memory} bytes of memory");
        assert!(fds < 200, "{what}: {fds} descriptors");
        assert_eq!(volume.read(PageId::ROOT).unwrap()[16_383], 7);
    };
    // Where it is full, a commit waits for so long for something to be given back.
    let options = Options::default().stall_max(Duration::from_secs(3));
    let before = (resident(), descriptors());
    let volume = Volume::open(at, &options).unwrap();
    bounded(&volume, before, "after a clean close", 64 << 12);
    let health = volume.health();
    assert_eq!((health.tail, health.log_bytes), (end.ceil(4096), whole - LEFT * format::EXTENT));
    let mut mtr = volume.begin();
    let page = mtr.alloc().unwrap();
    mtr.commit().unwrap().wait().unwrap();
    put(&volume, page, 1, 1).unwrap();
    // Its checkpoint lies there, too.
    volume.close().unwrap();
    let volume = Volume::open(at, &options).unwrap();
    put(&volume, page, 2, 1).unwrap();
    let next = {
        // As a kill leaves it: nobody closes the first one.
        let before = (resident(), descriptors());
        let next = Volume::take_over(at, &options).unwrap();
        bounded(&next, before, "after a kill", 16 * MIB);
        next
    };
    drop(volume);
    assert_eq!(next.read(page).unwrap()[0], 2);

    // 64 TiB, and not an extent more.
    let mut n = 0u32;
    let refused = loop {
        match put(&next, page, n as u8, 16) {
            Ok(()) => n += 1,
            Err(e) => break e,
        }
        assert!(n < 2000, "it is never full");
    };
    assert!(
        matches!(refused, WriteError::VolumeFull { holds, most } if (holds, most) == (whole, whole)),
        "{refused:?}"
    );
    println!("{n} MTRs of 256 KiB later: {refused}");
    assert!(next.health().tail <= Lsn(whole + format::EXTENT) && n > 300, "{}", next.health().tail);
    assert_eq!(next.read(page).unwrap()[0], (n - 1) as u8);
    let mut mtr = next.begin();
    mtr.free(page);
    mtr.commit().unwrap().wait().unwrap();
    next.close().expect("clean");
    let volume = Volume::open(at, &options).unwrap();
    assert!(matches!(put(&volume, PageId::ROOT, 1, 16), Err(WriteError::VolumeFull { .. })));
    assert_eq!(volume.read(PageId::ROOT).unwrap()[0], 7);
    assert!(volume.health().slots.iter().all(|s| s.away.is_none()));
    volume.close().expect("clean");
}
