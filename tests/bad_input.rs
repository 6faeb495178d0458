//! Bad input: each has a typed error, and loses nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::Mount;
use quorate::{CloseError, OpenError, Options, PageId, Placement, ReadError, SlotFault, Volume, WriteError};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

fn options() -> Options {
    Options::default().page_size(PAGE as u32)
}

/// A volume with a root and page 1 that say what they are.
fn volume(at: impl Into<Placement>) -> Volume {
    let volume = Volume::create(at, &options()).unwrap();
    let mut mtr = volume.begin();
    let page = mtr.alloc().unwrap();
    assert_eq!(page, PageId(1));
    mtr.put(page, vec![1; PAGE]).patch(PageId::ROOT, 0, b"root");
    mtr.commit().unwrap().wait().unwrap();
    volume
}

/// Nothing was lost and nothing came in, also after a close and an open.
fn intact(volume: Volume, at: impl Into<Placement>) {
    let holds = |volume: &Volume| {
        assert_eq!(&volume.read(PageId::ROOT).unwrap()[..6], b"root\0\0");
        assert_eq!(volume.read(PageId(1)).unwrap()[..], [1; PAGE]);
        assert_eq!(volume.view().pages().unwrap(), [PageId(0), PageId(1)]);
    };
    holds(&volume);
    volume.close().unwrap();
    let volume = Volume::open(at, &options()).unwrap();
    holds(&volume);
    volume.close().unwrap();
}

/// Directories below, and what is in them.
fn all_below(at: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
        all.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            all.append(&mut all_below(&entry.path()));
        }
    }
    all.sort();
    all
}

#[test]
fn page_and_group_sizes() {
    let dir = common::dir();
    for size in [0, 1, 512, 2048, 4095, 4097, 5000, 12 << 10, 128 << 10, 1 << 31, u32::MAX] {
        let e = Volume::create(dir.path(), &Options::default().page_size(size)).unwrap_err();
        assert!(matches!(e, OpenError::Options(_)) && e.to_string().contains(&size.to_string()), "{e}");
    }
    for size in [0, 1, 4096, (64 << 20) - 1, (64 << 20) + 4096, u64::MAX] {
        let e = Volume::create(dir.path(), &Options::default().pg_size(size)).unwrap_err();
        assert!(matches!(e, OpenError::Options(_)), "{e}");
    }
    assert!(all_below(dir.path()).is_empty(), "nothing was made");
    for size in [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10] {
        let dir = common::dir();
        let volume = Volume::create(dir.path(), &Options::default().page_size(size)).unwrap();
        assert_eq!(volume.read(PageId::ROOT).unwrap().len(), size as usize);
        volume.close().unwrap();
    }
}

#[test]
fn images_and_patches_that_do_not_fit() {
    let dir = common::dir();
    let volume = volume(dir.path());
    for len in [0, 1, PAGE - 1, PAGE + 1, 2 * PAGE] {
        let mut mtr = volume.begin();
        mtr.patch(PageId::ROOT, 0, b"lost").put(PageId(1), vec![9; len]).patch(PageId(1), 0, b"more");
        assert!(matches!(mtr.read(PageId(1)), Err(ReadError::Mtr(_))));
        match mtr.commit() {
            Err(WriteError::ImageLength { page, len: told, page_size }) => {
                assert_eq!((page, told, page_size as usize), (PageId(1), len, PAGE));
            }
            other => panic!("{len}: {other:?}"),
        }
    }
    for (offset, len) in [(0, PAGE + 1), (4095, 2), (4096, 1), (4097, 0), (u32::MAX, 1), (u32::MAX, PAGE)] {
        let mut mtr = volume.begin();
        mtr.patch(PageId::ROOT, 0, b"lost").patch(PageId(1), offset, &vec![9; len]);
        match mtr.commit() {
            Err(WriteError::PatchRange { page, offset: o, len: l, .. }) => {
                assert_eq!((page, o, l), (PageId(1), offset, len));
            }
            other => panic!("{offset} {len}: {other:?}"),
        }
    }
    // The edges fit.
    let mut mtr = volume.begin();
    mtr.patch(PageId(1), 4095, &[1]).patch(PageId(1), 4096, &[]).patch(PageId(1), 0, &[1; PAGE]).patch(
        PageId(1),
        7,
        &[],
    );
    mtr.commit().unwrap().wait().unwrap();
    intact(volume, dir.path());
}

#[test]
fn the_first_wrong_call_stays() {
    let dir = common::dir();
    let volume = volume(dir.path());
    let mut mtr = volume.begin();
    mtr.put(PageId(1), vec![2; 5]).patch(PageId(1), 9999, b"x").free(PageId::ROOT);
    // Telling it once does not forgive it.
    assert!(matches!(mtr.alloc(), Err(WriteError::ImageLength { .. })));
    assert!(matches!(mtr.alloc(), Err(WriteError::ImageLength { .. })));
    mtr.patch(PageId(1), 0, b"must not be written");
    assert!(matches!(mtr.commit(), Err(WriteError::ImageLength { .. })));
    intact(volume, dir.path());
}

#[test]
fn pages_that_do_not_exist() {
    let dir = common::dir();
    let volume = volume(dir.path());
    for id in [2, 3, 1000, 2048 * 2048, PageId::LIMIT - 1, PageId::LIMIT, PageId::LIMIT + 1, u64::MAX] {
        let page = PageId(id);
        assert!(matches!(volume.read(page), Err(ReadError::NoSuchPage(p)) if p == page), "{id}");
        assert!(matches!(volume.view().read(page), Err(ReadError::NoSuchPage(p)) if p == page));
        assert!(matches!(volume.begin().read(page), Err(ReadError::NoSuchPage(p)) if p == page));
        for what in 0..3 {
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, b"lost");
            match what {
                0 => mtr.put(page, vec![3; PAGE]),
                1 => mtr.patch(page, 0, b"x"),
                _ => mtr.free(page),
            };
            assert!(matches!(mtr.commit(), Err(WriteError::NoSuchPage(p)) if p == page), "{id} {what}");
        }
    }
    // Allocated by an MTR that was dropped; freed; freed twice; changed after it was freed in the same MTR.
    let dropped = volume.begin().alloc().unwrap();
    let mut mtr = volume.begin();
    mtr.put(dropped, vec![3; PAGE]);
    assert!(matches!(mtr.commit(), Err(WriteError::NoSuchPage(_))));
    let mut mtr = volume.begin();
    let page = mtr.alloc().unwrap();
    mtr.commit().unwrap().wait().unwrap();
    let mut mtr = volume.begin();
    mtr.free(page).free(page);
    assert!(matches!(mtr.commit(), Err(WriteError::NoSuchPage(_))));
    let mut mtr = volume.begin();
    mtr.free(page).patch(page, 0, b"x");
    assert!(mtr.read(page).is_err(), "an MTR that cannot be committed reads nothing of it");
    assert!(matches!(mtr.commit(), Err(WriteError::NoSuchPage(_))));
    let mut mtr = volume.begin();
    mtr.free(page);
    assert!(matches!(mtr.read(page), Err(ReadError::NoSuchPage(_))));
    mtr.commit().unwrap().wait().unwrap();
    assert!(matches!(volume.read(page), Err(ReadError::NoSuchPage(_))));
    let mut mtr = volume.begin();
    mtr.patch(page, 0, b"x");
    assert!(matches!(mtr.commit(), Err(WriteError::NoSuchPage(_))));
    intact(volume, dir.path());
}

#[test]
fn the_root_cannot_be_freed() {
    let dir = common::dir();
    let volume = volume(dir.path());
    let mut mtr = volume.begin();
    mtr.patch(PageId(1), 0, b"lost").free(PageId::ROOT);
    assert!(matches!(mtr.commit(), Err(WriteError::RootPage)));
    intact(volume, dir.path());
}

#[test]
fn an_mtr_that_is_too_large() {
    let dir = common::dir();
    let volume = volume(dir.path());
    let fill = |pages: usize| {
        let mut mtr = volume.begin();
        mtr.patch(PageId::ROOT, 0, b"lost");
        for _ in 0..pages {
            let page = mtr.alloc().unwrap();
            mtr.put(page, vec![5; PAGE]);
        }
        mtr
    };
    for pages in [2100, 4000, 20_000] {
        match fill(pages).commit() {
            Err(WriteError::MtrTooLarge { most }) => assert_eq!(most, 8 << 20),
            other => panic!("{pages}: {other:?}"),
        }
    }
    assert_eq!(&volume.read(PageId::ROOT).unwrap()[..4], b"root");
    // Just below the limit it goes, again and again, and nothing of the ids was lost.
    for _ in 0..5 {
        let mut mtr = fill(1900);
        mtr.patch(PageId::ROOT, 0, b"root");
        mtr.commit().unwrap().wait().unwrap();
        let pages = volume.view().pages().unwrap();
        assert_eq!(pages.len(), 1902);
        let mut mtr = volume.begin();
        pages[2..].iter().for_each(|p| {
            mtr.free(*p);
        });
        mtr.commit().unwrap().wait().unwrap();
    }
    intact(volume, dir.path());
}

#[test]
fn placements_that_are_none() {
    let dir = common::dir();
    let [a, b, c] = common::make_azs(dir.path());
    let d = dir.path().join("d");
    fs::create_dir(&d).unwrap();
    let none: [&PathBuf; 0] = [];
    let wrong = |paths: Vec<&PathBuf>| {
        for e in [
            Volume::create(Placement::new(paths.clone()), &options()).err(),
            Volume::open(Placement::new(paths.clone()), &options()).err(),
            Volume::take_over(Placement::new(paths.clone()), &options()).err(),
            Volume::open_read_only(Placement::new(paths.clone()), &options()).err(),
        ] {
            assert!(matches!(e, Some(OpenError::Placement(_))), "{paths:?}: {e:?}");
        }
    };
    let twice = |wrong: &dyn Fn(Vec<&PathBuf>)| {
        wrong(none.to_vec());
        wrong(vec![&a, &b]);
        wrong(vec![&a, &b, &c, &d]);
        wrong(vec![&a, &b, &a]);
        let link = dir.path().join("link");
        let _ = symlink(&a, &link);
        for same in [dir.path().join("a/"), dir.path().join("b/../a"), dir.path().join("./a"), link] {
            wrong(vec![&a, &same, &c]);
            wrong(vec![&same, &b, &a]);
        }
    };
    twice(&wrong);
    assert!([&a, &b, &c, &d].iter().all(|az| fs::read_dir(az).unwrap().next().is_none()), "nothing was made");
    let volume = volume(common::placement(dir.path()));
    twice(&wrong);
    intact(volume, common::placement(dir.path()));
    // A directory inside of another is one failure domain at best, but three different ones.
    let before = all_below(dir.path());
    assert!(matches!(Volume::create([&a, &d, &c].map(PathBuf::from), &options()), Err(OpenError::NotEmpty(_))));
    assert_eq!(all_below(dir.path()), before);
}

#[test]
fn directories_that_are_missing_files_or_not_empty() {
    let dir = common::dir();
    let [a, b, c] = common::make_azs(dir.path());
    let at = |third: &PathBuf| Placement::from([a.clone(), b.clone(), third.clone()]);
    let (missing, file, full) = (dir.path().join("missing"), dir.path().join("file"), dir.path().join("full"));
    fs::write(&file, "mine").unwrap();
    fs::create_dir(&full).unwrap();
    fs::write(full.join("mine"), "mine").unwrap();
    for turn in 0..3 {
        let place = |odd: &PathBuf| {
            let mut three = [a.clone(), b.clone(), c.clone()];
            three[turn] = odd.clone();
            Placement::from(three)
        };
        let create = |odd: &PathBuf| Volume::create(place(odd), &options()).unwrap_err();
        assert!(matches!(create(&missing), OpenError::Missing(p) if p == missing));
        assert!(matches!(create(&file), OpenError::NotADirectory(p) if p == file));
        assert!(matches!(create(&full), OpenError::NotEmpty(p) if p == full));
    }
    let single = |at: &PathBuf| Volume::create(at, &options()).unwrap_err();
    assert!(matches!(single(&missing), OpenError::Missing(p) if p == missing));
    assert!(matches!(single(&file), OpenError::NotADirectory(p) if p == file));
    assert!(matches!(single(&full), OpenError::NotEmpty(p) if p == full));
    assert!([&a, &b, &c].iter().all(|az| fs::read_dir(az).unwrap().next().is_none()), "nothing was made");
    assert_eq!((fs::read(&file).unwrap(), fs::read(full.join("mine")).unwrap()), (b"mine".to_vec(), b"mine".to_vec()));

    // Opening what is not there.
    let none = |at: Placement| {
        for e in [Volume::open(at.clone(), &options()).err(), Volume::open_read_only(at.clone(), &options()).err()] {
            assert!(matches!(e, Some(OpenError::NoVolume(_) | OpenError::Missing(_))), "{e:?}");
        }
    };
    none(Placement::from([a.clone(), b.clone(), c.clone()]));
    none(Placement::from(&full));
    none(Placement::from(&missing));
    none(Placement::from(["m1", "m2", "m3"].map(|m| dir.path().join(m))));
    assert!(matches!(Volume::open(&file, &options()), Err(OpenError::NotADirectory(_))));
    assert!([&a, &b, &c].iter().all(|az| fs::read_dir(az).unwrap().next().is_none()), "nothing was made");

    // One that is there is found in any of these, and created over in none.
    let volume = volume(at(&c));
    assert!(matches!(Volume::create(at(&c), &options()), Err(OpenError::NotEmpty(_))));
    volume.close().unwrap();
    assert!(matches!(Volume::create(at(&c), &options()), Err(OpenError::NotEmpty(_))));
    // A file in the place of one AZ of three: the other two are enough to read and to write.
    fs::rename(&c, dir.path().join("aside")).unwrap();
    fs::write(&c, "mine").unwrap();
    let volume = Volume::open(at(&c), &options());
    match volume {
        Ok(volume) => volume.close().unwrap(),
        Err(e) => assert!(matches!(e, OpenError::NotADirectory(_)), "{e:?}"),
    }
    assert_eq!(fs::read(&c).unwrap(), b"mine");
    fs::remove_file(&c).unwrap();
    fs::rename(dir.path().join("aside"), &c).unwrap();
    intact(Volume::open(at(&c), &options()).unwrap(), at(&c));
}

/// A read-only bind mount over a directory, as long as it lives.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn new(at: &Path) -> Option<ReadOnly> {
        let path = at.to_str().unwrap();
        if !common::run("mount", &["--bind", path, path]) {
            common::skip("no bind mount here (not root?)");
            return None;
        }
        let mounted = ReadOnly(at.to_path_buf());
        assert!(common::run("mount", &["-o", "remount,ro,bind", path]));
        Some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        common::run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[test]
fn read_only_directories() {
    let dir = common::dir();
    let azs = common::make_azs(dir.path());
    let at = || common::placement(dir.path());
    {
        let Some(_ro) = ReadOnly::new(&azs[1]) else { return };
        let e = Volume::create(at(), &options()).unwrap_err();
        assert!(matches!(&e, OpenError::Io { path, .. } if path.starts_with(&azs[1])), "{e:?}");
    }
    // What a failed creation left is in the way of nothing once it is removed.
    for az in &azs {
        fs::remove_dir_all(az).unwrap();
        fs::create_dir(az).unwrap();
    }
    volume(at()).close().unwrap();
    // The clean mark is on four slots when a close returns; on the others it may follow.
    std::thread::sleep(Duration::from_millis(100));
    // One AZ read-only: it is away for a writer, and read all the same.
    {
        let _ro = ReadOnly::new(&azs[1]).unwrap();
        let before = common::bytes_below(&azs[1]);
        let volume = Volume::open(at(), &options()).unwrap();
        assert_eq!(volume.read(PageId(1)).unwrap()[..], [1; PAGE]);
        common::patch(&volume, PageId::ROOT, 0, b"root");
        volume.close().unwrap();
        assert!(common::bytes_below(&azs[1]) == before);
    }
    // All of it: no writer, with each slot's fault, and readers.
    {
        let _ro = [0, 1, 2].map(|az| ReadOnly::new(&azs[az]).unwrap());
        match Volume::open(at(), &options()).unwrap_err() {
            OpenError::Quorum { slots, .. } => {
                assert_eq!(slots.0.len(), 6);
                assert!(slots.0.iter().all(|(_, f)| matches!(f, SlotFault::Io(_))), "{slots}");
            }
            e => panic!("{e:?}"),
        }
        let reader = Volume::open_read_only(at(), &options()).unwrap();
        assert_eq!(reader.view().read(PageId(1)).unwrap()[..], [1; PAGE]);
    }
    intact(Volume::open(at(), &options()).unwrap(), at());
}

#[test]
fn a_file_system_that_is_refused() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        common::skip("no /dev/shm");
        return;
    };
    match Volume::create(dir.path(), &options()).unwrap_err() {
        OpenError::FileSystem { path, kind, .. } => assert_eq!((path.as_path(), kind), (dir.path(), "tmpfs")),
        e => panic!("{e:?}"),
    }
    assert!(all_below(dir.path()).is_empty(), "nothing was made");
    let allowed = options().allow_volatile(true);
    for io_uring in [true, false] {
        let at = dir.path().join(format!("{io_uring}"));
        fs::create_dir(&at).unwrap();
        let allowed = allowed.clone().io_uring(io_uring);
        let volume = Volume::create(&at, &allowed).unwrap();
        common::patch(&volume, PageId::ROOT, 0, b"in memory");
        assert!(volume.health().azs.iter().all(|az| az.volatile && az.file_system == "tmpfs"));
        volume.close().unwrap();
        assert!(matches!(Volume::open(&at, &options()), Err(OpenError::FileSystem { .. })));
        assert!(matches!(Volume::open_read_only(&at, &options()), Err(OpenError::FileSystem { .. })));
        let volume = Volume::open(&at, &allowed).unwrap();
        assert_eq!(&volume.read(PageId::ROOT).unwrap()[..9], b"in memory");
        drop(volume);
        let volume = Volume::open(&at, &allowed).unwrap();
        assert_eq!(&volume.read(PageId::ROOT).unwrap()[..9], b"in memory");
    }
}

#[test]
fn a_full_disk_at_create() {
    let dir = common::dir();
    let Some(small) = Mount::new(dir.path(), "small", 4) else { return };
    small.fill();
    let at = small.path.join("volume");
    match fs::create_dir(&at) {
        Ok(()) => {
            let e = Volume::create(&at, &options()).unwrap_err();
            let full = match &e {
                OpenError::OutOfSpace(path) => path.starts_with(&small.path),
                OpenError::Quorum { slots, .. } => slots
                    .0
                    .iter()
                    .any(|(_, f)| matches!(f, SlotFault::Io(e) if e.kind() == std::io::ErrorKind::StorageFull)),
                _ => false,
            };
            assert!(full, "{e:?}");
        }
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::StorageFull),
    }
    // Room for the directories and superblocks, and not for the log.
    small.make_room();
    let _ = fs::remove_dir_all(&at);
    fs::create_dir(&at).unwrap();
    let e = Volume::create(&at, &options()).unwrap_err();
    assert!(matches!(e, OpenError::OutOfSpace(_)), "{e:?}");
    assert!(!e.to_string().is_empty());
}

#[test]
fn expected_pages_that_moved_on() {
    let dir = common::dir();
    let volume = volume(dir.path());
    let seen = volume.read(PageId(1)).unwrap();
    let mut mtr = volume.begin();
    mtr.expect(&seen).patch(PageId(1), 0, &[1]);
    mtr.commit().unwrap().wait().unwrap();
    for _ in 0..2 {
        let mut mtr = volume.begin();
        mtr.expect(&seen).patch(PageId(1), 0, b"lost").patch(PageId::ROOT, 0, b"lost");
        assert!(matches!(mtr.commit(), Err(WriteError::Conflict(PageId(1)))));
        // Without changes of its own, too.
        let mut mtr = volume.begin();
        mtr.expect(&seen);
        assert!(matches!(mtr.commit(), Err(WriteError::Conflict(PageId(1)))));
    }
    // Freed, and the id given out again.
    let mut mtr = volume.begin();
    let page = mtr.alloc().unwrap();
    mtr.commit().unwrap().wait().unwrap();
    let seen = volume.read(page).unwrap();
    let mut mtr = volume.begin();
    mtr.free(page);
    mtr.commit().unwrap().wait().unwrap();
    for _ in 0..2 {
        let mut mtr = volume.begin();
        mtr.expect(&seen).patch(PageId::ROOT, 0, b"lost");
        assert!(matches!(mtr.commit(), Err(WriteError::Conflict(p)) if p == page));
        let mut mtr = volume.begin();
        if mtr.alloc().unwrap() == page {
            mtr.commit().unwrap().wait().unwrap();
        }
    }
    let mut mtr = volume.begin();
    mtr.free(page);
    mtr.commit().unwrap().wait().unwrap();
    // Counters that many threads raise: no update is lost.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    loop {
                        let seen = volume.read(PageId::ROOT).unwrap();
                        let n = u32::from_le_bytes(seen[100..104].try_into().unwrap());
                        let mut mtr = volume.begin();
                        mtr.expect(&seen).patch(PageId::ROOT, 100, &(n + 1).to_le_bytes());
                        match mtr.commit() {
                            Ok(_) => break,
                            Err(WriteError::Conflict(_)) => (),
                            Err(e) => panic!("{e:?}"),
                        }
                    }
                }
            });
        }
    });
    volume.sync().wait().unwrap();
    assert_eq!(volume.read(PageId::ROOT).unwrap()[100..104], 200u32.to_le_bytes());
    intact(volume, dir.path());
}

#[test]
fn closed_handles() {
    let dir = common::dir();
    let volume = volume(dir.path());
    let (clone, view, mut mtr) = (volume.clone(), volume.view(), volume.begin());
    mtr.patch(PageId::ROOT, 0, b"lost");
    let mut late = volume.begin();
    let (page, ticket, unknown) = (volume.read(PageId(1)).unwrap(), volume.sync(), volume.sync().unknown());
    volume.close().unwrap();
    assert!(matches!(clone.read(PageId(1)), Err(ReadError::Closed)));
    assert!(matches!(clone.view().read(PageId(1)), Err(ReadError::Closed)));
    assert!(matches!(clone.view().pages(), Err(ReadError::Closed)));
    assert!(matches!(view.read(PageId(1)), Err(ReadError::Closed)));
    assert!(matches!(mtr.read(PageId(1)), Err(ReadError::Closed)));
    assert!(matches!(mtr.commit(), Err(WriteError::Closed)));
    assert!(matches!(late.alloc(), Err(WriteError::Closed)));
    assert!(matches!(late.commit(), Err(WriteError::Closed)));
    assert!(matches!(clone.begin().commit(), Err(WriteError::Closed)));
    assert!(matches!(clone.outcome(unknown), Err(ReadError::Closed)));
    assert!(clone.health().ended.is_some());
    // What was acknowledged stays so, and bytes in hand stay.
    ticket.wait().unwrap();
    clone.sync().wait().unwrap();
    assert_eq!(page[..], [1; PAGE]);
    // The clones do not hold the lock.
    intact(Volume::open(dir.path(), &options()).unwrap(), dir.path());
    assert!(matches!(clone.close(), Err(CloseError::Closed)));
}

#[test]
fn commits_after_another_took_over() {
    let dir = common::dir();
    let first = volume(dir.path());
    let mut open_mtr = first.begin();
    open_mtr.patch(PageId::ROOT, 0, b"lost");
    let second = Volume::take_over(dir.path(), &options()).unwrap();
    match open_mtr.commit().map(|t| t.wait()) {
        Ok(Err(WriteError::Unknown { .. })) | Err(WriteError::ReadOnly(_)) => (),
        other => panic!("{other:?}"),
    }
    let begun = Instant::now();
    let mut mtr = first.begin();
    mtr.patch(PageId::ROOT, 0, b"lost");
    assert!(matches!(mtr.commit(), Err(WriteError::ReadOnly(_))));
    assert!(matches!(first.close(), Err(CloseError::NotDurable(_) | CloseError::NotClean(_))));
    assert!(begun.elapsed() < Duration::from_secs(5));
    intact(second, dir.path());
}

/// "As long as you like" is no error, and no overflow in whoever computes when that is.
#[test]
fn the_longest_times_are_times() {
    let dir = common::dir();
    let most = Duration::MAX;
    let options = Options::default()
        .stall_max(most)
        .idle_after(most)
        .scrub_period(most)
        .view_max(most, u64::MAX)
        .window(most, u64::MAX)
        .checkpoint_bytes(u64::MAX)
        .repair_share(u32::MAX);
    let (done, is_done) = std::sync::mpsc::channel();
    let path = dir.path().to_path_buf();
    std::thread::spawn(move || {
        for _ in 0..2 {
            let volume = Volume::create(&path, &options).or_else(|_| Volume::open(&path, &options)).unwrap();
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 0, b"here");
            assert!(mtr.commit().unwrap().wait_for(most).unwrap());
            let view = volume.view();
            assert!(volume.wait_repaired(most) && volume.compact(most));
            volume.snapshot("one").unwrap();
            volume.forget("one").unwrap();
            volume.set_window(most, u64::MAX).unwrap();
            volume.scrub();
            assert!(volume.wait_repaired(most));
            assert_eq!(view.read(PageId::ROOT).unwrap()[..4], *b"here");
            assert_eq!(volume.health().ended, None);
            volume.close().unwrap();
        }
        done.send(()).unwrap();
    });
    assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(()));
}

/// The process goes elsewhere, where there is a volume under the same path. In a process of its own.
#[test]
fn a_path_stays_what_it_was() {
    const ALONE: &str = "QUORATE_PATH_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output =
            command.args(["a_path_stays_what_it_was", "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let dir = common::dir();
    for at in ["one", "two"] {
        let place = dir.path().join(at);
        fs::create_dir_all(place.join("volume")).unwrap();
        std::env::set_current_dir(&place).unwrap();
        Volume::create(Path::new("volume"), &options()).unwrap().close().unwrap();
    }
    std::env::set_current_dir(dir.path().join("one")).unwrap();
    let volume = Volume::open(Path::new("volume"), &options()).unwrap();
    std::env::set_current_dir(dir.path().join("two")).unwrap();
    for n in 0..200u32 {
        let mut mtr = volume.begin();
        mtr.patch(PageId::ROOT, 0, &n.to_le_bytes());
        mtr.put(PageId(1), vec![1; PAGE]);
        drop(mtr.commit());
    }
    volume.sync().wait().unwrap();
    volume.scrub();
    assert!(volume.wait_repaired(Duration::from_secs(30)));
    let health = volume.health();
    assert!(health.slots.iter().all(|s| s.away.is_none() && s.path.is_absolute()), "{health:?}");
    volume.close().unwrap();
    let two = Volume::open(dir.path().join("two/volume"), &options()).unwrap();
    assert_eq!(two.read(PageId::ROOT).unwrap()[..4], [0; 4]);
}

/// A view is its own handle's and its own volume's.
#[test]
fn a_view_of_another_is_refused() {
    let dirs = [common::dir(), common::dir()];
    let [one, other] = [&dirs[0], &dirs[1]].map(|dir| volume(dir.path()));
    let (view, foreign) = (one.view(), other.view());
    for e in [one.find(&foreign).unwrap_err(), one.backtrack(&foreign).unwrap_err()] {
        assert!(matches!(e, quorate::HistoryError::OtherVolume), "{e:?}");
    }
    // What a reader looks at is not kept for it.
    one.sync().wait().unwrap();
    let reader = Volume::open_read_only(dirs[0].path(), &options()).unwrap();
    let seen = reader.view();
    let mut mtr = one.begin();
    mtr.patch(PageId::ROOT, 0, b"later");
    mtr.commit().unwrap().wait().unwrap();
    assert!(one.compact(Duration::from_secs(30)));
    let e = one.backtrack(&seen).unwrap_err();
    assert!(matches!(e, quorate::HistoryError::GivenBack(_)), "{e:?}");
    one.backtrack(&view).unwrap();
    assert_eq!(one.health().ended, None);
}

/// A creation that was killed, or met a directory that it may not write to, is begun anew.
#[test]
fn what_a_creation_left_is_no_volume_and_no_hindrance() {
    let dir = common::dir();
    let left = ["az-0/slot-0", "az-0/slot-1", "az-1"];
    left.iter().for_each(|path| fs::create_dir_all(dir.path().join(path)).unwrap());
    fs::write(dir.path().join("az-0/lock-1"), b"1").unwrap();
    Volume::create(dir.path(), &options()).unwrap().close().unwrap();
    // What says something is not made anew.
    let three = common::dir();
    let azs = ["a", "b", "c"].map(|az| three.path().join(az));
    azs.iter().for_each(|az| fs::create_dir_all(az.join("slot-0")).unwrap());
    fs::write(azs[1].join("slot-0/claim-1"), b"").unwrap();
    let e = Volume::create(azs.clone(), &options()).unwrap_err();
    assert!(matches!(e, OpenError::NotEmpty(ref path) if *path == azs[1]), "{e}");
    fs::remove_file(azs[1].join("slot-0/claim-1")).unwrap();
    Volume::create(azs, &options()).unwrap().close().unwrap();
}
