//! Kills: a child commits from several threads and says what was acknowledged; it is killed at random, on real files.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::{Child, Random};
use quorate::{Options, Page, PageId, ReadError, Unknown, Volume};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const THREADS: u64 = 4;
const PAGE: usize = 4096;
/// A page that all threads patch, each in its own bytes.
const SHARED: PageId = PageId(1);
const AT: &str = "QUORATE_CRASH_AT";
const IO_URING: &str = "QUORATE_CRASH_IO_URING";

fn options(io_uring: bool) -> Options {
    // Small checkpoints, so that kills hit them too.
    Options::default()
        .page_size(PAGE as u32)
        .io_uring(io_uring)
        .checkpoint_bytes(1 << 20)
        .cache_bytes(1 << 20)
        .idle_after(Duration::from_millis(20))
}

fn own(thread: u64, i: u64) -> PageId {
    PageId(2 + thread * 3 + i)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The volume that the children write: a page of all threads, and three pages a thread.
fn create(at: &Path, io_uring: bool) {
    common::make_azs(at);
    let volume = Volume::create(common::placement(at), &options(io_uring)).unwrap();
    let mut mtr = volume.begin();
    for i in 0..1 + 3 * THREADS {
        assert_eq!(mtr.alloc().unwrap(), PageId(1 + i));
    }
    mtr.commit().unwrap().wait().unwrap();
    volume.close().unwrap();
}

/// MTR `n` of a thread. After it: both own pages and the shared one say `n`; the third is whole images, every fifth
/// time; every seventh time a page is allocated, named in the first page, and the one before freed.
fn commit(volume: &Volume, thread: u64, n: u64, extra: &mut u64) -> quorate::Commit {
    let mut mtr = volume.begin();
    let now = n.to_le_bytes();
    mtr.patch(own(thread, 0), 0, &now);
    mtr.patch(own(thread, 1), (n % 500) as u32 * 8 + 8, &now).patch(own(thread, 1), 0, &now);
    mtr.patch(SHARED, thread as u32 * 8, &now);
    if n.is_multiple_of(5) {
        let mut image = vec![n as u8; PAGE];
        image[..8].copy_from_slice(&now);
        mtr.put(own(thread, 2), image);
    }
    if n.is_multiple_of(7) {
        let page = mtr.alloc().unwrap();
        mtr.put(page, vec![n as u8; PAGE]);
        mtr.patch(page, 0, &now);
        mtr.patch(own(thread, 0), 8, &page.0.to_le_bytes()).patch(own(thread, 0), 16, &now);
        if *extra != 0 {
            mtr.free(PageId(*extra));
        }
        *extra = page.0;
    }
    mtr.commit().unwrap()
}

/// What each thread's pages say, after checking that every MTR is whole.
fn state(read: impl Fn(PageId) -> Result<Page, ReadError>) -> Vec<u64> {
    let shared = read(SHARED).expect("the shared page");
    let of = |thread: u64| {
        let n = number(&shared, thread as usize * 8);
        let pages: Vec<Page> = (0..3).map(|i| read(own(thread, i)).expect("an own page")).collect();
        assert_eq!((number(&pages[0], 0), number(&pages[1], 0)), (n, n), "thread {thread}: half an MTR");
        assert_eq!(number(&pages[1], (n % 500) as usize * 8 + 8), n);
        let image = number(&pages[2], 0);
        assert_eq!(image, n - n % 5, "thread {thread}: the image of MTR {}", n - n % 5);
        assert!(pages[2][8..].iter().all(|b| *b == image as u8), "thread {thread}: a mixed image");
        let (page, written) = (number(&pages[0], 8), number(&pages[0], 16));
        assert_eq!(written, n - n % 7);
        if page != 0 {
            let extra = read(PageId(page)).expect("an allocated page");
            assert_eq!(number(&extra, 0), written);
            assert!(extra[8..].iter().all(|b| *b == written as u8));
        }
        n
    };
    (0..THREADS).map(of).collect()
}

#[test]
fn child_main() {
    let Ok(at) = std::env::var(AT) else { return };
    // The harness has begun a line.
    say(String::new());
    if std::env::var(IO_URING).unwrap() == "create" {
        say("begins".to_string());
        let volume = Volume::create(common::placement(Path::new(&at)), &options(true)).unwrap();
        say("created".to_string());
        common::patch(&volume, PageId::ROOT, 0, b"first");
        say("acked".to_string());
        return std::thread::sleep(Duration::from_secs(60));
    }
    let options = options(std::env::var(IO_URING).unwrap() == "1");
    let volume = Volume::open(common::placement(Path::new(&at)), &options).unwrap();
    let state = state(|p| volume.read(p));
    say(format!("state {} {}", state[0], state[1..].iter().map(u64::to_string).collect::<Vec<_>>().join(" ")));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (volume, begin) = (volume.clone(), state[thread as usize]);
            scope.spawn(move || {
                let mut extra = number(&volume.read(own(thread, 0)).unwrap(), 8);
                for n in begin + 1.. {
                    let ticket = commit(&volume, thread, n, &mut extra);
                    let unknown = ticket.unknown();
                    say(format!("sent {thread} {n} {} {}", unknown.lsn.0, unknown.epoch));
                    // Some tickets are dropped: a later one stands for them.
                    if n % 4 != 1 {
                        ticket.wait().unwrap();
                        say(format!("acked {thread} {n}"));
                    }
                    if n.is_multiple_of(97) {
                        std::thread::sleep(Duration::from_millis(30));
                    }
                }
            });
        }
    });
}

/// One write: lines of threads do not mix.
fn say(line: String) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// What is known of the volume from outside.
#[derive(Default)]
struct Known {
    acked: Vec<u64>,
    sent: Vec<u64>,
    /// Every commit that was sent: its thread and number, and the outcome once it was seen.
    commits: BTreeMap<(u64, u64), (u64, u64, Option<bool>)>,
    dropped: u64,
}

impl Known {
    fn hear(&mut self, lines: &[String]) {
        for line in lines {
            let mut words = line.split(' ');
            let kind = words.next().unwrap();
            // A line that the kill cut off is not one.
            let numbers: Vec<u64> = words.map_while(|w| w.parse().ok()).collect();
            match (kind, &numbers[..]) {
                ("sent", &[thread, n, lsn, epoch]) => {
                    self.sent[thread as usize] = n;
                    self.commits.insert((lsn, epoch), (thread, n, None));
                }
                ("acked", &[thread, n]) => {
                    assert!(self.acked[thread as usize] < n);
                    self.acked[thread as usize] = n;
                }
                ("state", state) if state.len() == THREADS as usize => self.begin(state),
                _ => (),
            }
        }
    }

    /// A writer begins with this state: nothing acknowledged is missing, and nothing is there that was never sent.
    fn begin(&mut self, state: &[u64]) {
        for (thread, n) in state.iter().enumerate() {
            let (acked, sent) = (self.acked[thread], self.sent[thread]);
            assert!(*n >= acked, "thread {thread}: {acked} was acknowledged, and {n} is there");
            // The last commit may have been appended and not said.
            assert!(*n <= sent + 1, "thread {thread}: {sent} was sent, and {n} is there");
            self.dropped += sent.saturating_sub(*n);
            (self.acked[thread], self.sent[thread]) = (*n, *n);
        }
    }

    /// An outcome once seen never changes, and says what the pages say.
    fn outcomes(&mut self, outcome: impl Fn(Unknown) -> Option<bool>) {
        for (&(lsn, epoch), (thread, n, seen)) in &mut self.commits {
            let now = outcome(Unknown { lsn: quorate::Lsn(lsn), epoch });
            if let (Some(before), Some(now)) = (*seen, now) {
                assert_eq!(before, now, "the outcome of thread {thread}'s {n} (LSN {lsn}, epoch {epoch}) changed");
            }
            *seen = seen.or(now);
        }
    }

    /// All outcomes of the last epoch's commits, as a state implies them: told by a writer's open.
    fn certain(&mut self, volume: &Volume, state: &[u64], epoch: u64) {
        for (&(lsn, e), &mut (thread, n, _)) in self.commits.iter_mut().filter(|((_, e), _)| *e == epoch) {
            let got = volume.outcome(Unknown { lsn: quorate::Lsn(lsn), epoch: e }).unwrap();
            assert_eq!(
                got,
                n <= state[thread as usize],
                "thread {thread}'s {n} at LSN {lsn}, {}",
                state[thread as usize]
            );
        }
    }
}

/// What happens to the AZ directories between and under the children.
#[derive(PartialEq)]
enum Azs {
    Stay,
    Move,
}

fn rounds() -> u64 {
    std::env::var("QUORATE_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(50)
}

fn kill_at_random(io_uring: bool, azs: Azs, rounds: u64) {
    let begun = Instant::now();
    let dir = common::dir();
    let at = dir.path();
    create(at, io_uring);
    let mut random = Random::seeded();
    let mut known = Known { acked: vec![0; 4], sent: vec![0; 4], ..Known::default() };
    let (mut away, mut moves, mut total) = (None::<usize>, 0, 0);
    let variables = [(AT, at.to_str().unwrap().to_string()), (IO_URING, u64::from(io_uring).to_string())];
    let rename = |az: usize, back: bool| {
        let (here, there) = (common::azs(at)[az].clone(), at.join(format!("away-{az}")));
        let (from, to) = if back { (there, here) } else { (here, there) };
        fs::rename(from, to).unwrap();
    };
    for round in 0..rounds {
        if azs == Azs::Move {
            match away {
                Some(az) if random.below(2) == 0 => {
                    rename(az, true);
                    away = None;
                }
                None if random.below(2) == 0 => {
                    let az = random.below(3) as usize;
                    rename(az, false);
                    (away, moves) = (Some(az), moves + 1);
                }
                _ => (),
            }
        }
        let child = Child::start("child_main", &variables);
        // Some die while they open, some before a checkpoint, some behind one.
        let mut said = Vec::new();
        if random.below(4) == 0 {
            std::thread::sleep(Duration::from_millis(random.below(40)));
        } else {
            let state = child.until("state", Duration::from_secs(20)).expect("the child opens the volume");
            said.push(state);
            std::thread::sleep(Duration::from_millis(2 + random.below(150)));
            if azs == Azs::Move && away.is_none() && random.below(3) == 0 {
                // Under its feet: its descriptors go on to work, its paths do not.
                let az = random.below(3) as usize;
                rename(az, false);
                (away, moves) = (Some(az), moves + 1);
                std::thread::sleep(Duration::from_millis(random.below(60)));
            }
        }
        said.append(&mut child.kill());
        total += said.iter().filter(|l| l.starts_with("acked")).count();
        known.hear(&said);

        let reader = Volume::open_read_only(common::placement(at), &options(io_uring)).unwrap();
        assert!(reader.settled() <= reader.visible());
        let (settled, visible) = (reader.view(), reader.view_visible());
        let settled = state(|p| settled.read(p));
        let visible = state(|p| visible.read(p));
        for thread in 0..THREADS as usize {
            assert!(known.acked[thread] <= visible[thread], "round {round}: {:?} {visible:?}", known.acked);
            assert!(settled[thread] <= visible[thread]);
        }
        known.outcomes(|u| reader.outcome(u));
        if random.below(2) == 0 {
            let epoch = reader.health().epoch;
            let volume = Volume::open(common::placement(at), &options(io_uring)).unwrap();
            let now = state(|p| volume.read(p));
            for thread in 0..THREADS as usize {
                // A killed process's last writes may land late: what was visible stays.
                assert!(now[thread] >= settled[thread]);
            }
            known.begin(&now);
            known.certain(&volume, &now, epoch);
            known.outcomes(|u| volume.outcome(u).ok());
            assert_eq!(state(|p| volume.view().read(p)), now, "a view of what was recovered");
            if random.below(2) == 0 {
                volume.close().unwrap();
            }
        }
    }
    let some = known.commits.values().filter(|(_, _, o)| o.is_some()).count();
    println!(
        "{rounds} kills, {moves} moves of an AZ, {total} acknowledged, {} sent in all, {some} outcomes known, {} never survived, {:?}",
        known.commits.len(),
        known.dropped,
        begun.elapsed()
    );
    assert!(rounds < 20 || total > 100, "the children did commit");
}

#[test]
fn nothing_acknowledged_is_missing_after_kills() {
    kill_at_random(true, Azs::Stay, rounds());
}

#[test]
fn nothing_acknowledged_is_missing_while_azs_come_and_go() {
    kill_at_random(true, Azs::Move, rounds());
}

#[test]
fn threads_in_place_of_io_uring_keep_the_same_promise() {
    kill_at_random(false, Azs::Move, rounds() / 2);
}

#[test]
fn a_creation_that_was_killed_is_a_volume_or_none() {
    let mut random = Random::seeded();
    let (mut whole, mut none) = (0, BTreeMap::<String, u32>::new());
    for _ in 0..rounds() {
        let dir = common::dir();
        common::make_azs(dir.path());
        let variables = [(AT, dir.path().to_str().unwrap().to_string()), (IO_URING, "create".to_string())];
        let child = Child::start("child_main", &variables);
        child.until("begins", Duration::from_secs(20)).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        let said = child.kill();
        let said = |what: &str| said.iter().any(|l| l == what);
        match Volume::open(common::placement(dir.path()), &options(true)) {
            Ok(volume) => {
                let root = volume.read(PageId::ROOT).expect("the root always exists");
                let first = root.starts_with(b"first");
                assert!(first || !said("acked"), "an acknowledged commit is there");
                assert!(first || root.iter().all(|b| *b == 0));
                common::patch(&volume, PageId::ROOT, 8, b"more");
                volume.close().unwrap();
                whole += 1;
            }
            Err(e) => {
                assert!(!said("created"), "{e}");
                let kind = format!("{e:?}").chars().take_while(|c| c.is_alphabetic()).collect();
                *none.entry(kind).or_default() += 1;
            }
        }
    }
    println!("{whole} volumes, no volume: {none:?}");
}

/// Makes a slot bad, one way or another. `old` is a copy of the volume as it was some kills ago.
fn damage(at: &Path, slot: u8, old: Option<&Path>, random: &mut Random) -> &'static str {
    let path = common::slot(at, slot);
    let files = |begins: &str| -> Vec<std::path::PathBuf> {
        let files = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path());
        files.filter(|f| f.file_name().unwrap().to_str().unwrap().starts_with(begins)).collect()
    };
    match random.below(8) {
        0 => {
            fs::remove_dir_all(&path).unwrap();
            fs::write(&path, "").unwrap();
            "unreachable"
        }
        1 => {
            fs::remove_dir_all(&path).unwrap();
            fs::create_dir(&path).unwrap();
            "blank"
        }
        2 => {
            let Some(old) = old else { return "none" };
            fs::remove_dir_all(&path).unwrap();
            common::copy(&common::slot(old, slot), &path);
            "stale"
        }
        3 => {
            files("seg-").iter().for_each(|f| fs::remove_file(f).unwrap());
            "no segments"
        }
        4 => {
            files("tail-").iter().for_each(|f| fs::remove_file(f).unwrap());
            "no tail files"
        }
        5 => {
            for file in files("epoch-") {
                fs::write(file, [9; 32 << 10]).unwrap();
            }
            "no superblock"
        }
        // Blocks here and there, over all that was written.
        kind => {
            use std::os::unix::fs::FileExt;
            for path in files("seg-").into_iter().chain(files("tail-")) {
                let file = fs::File::options().write(true).open(&path).unwrap();
                for (from, bytes) in common::data(&path).1 {
                    for block in (0..bytes.len() as u64).step_by(4096) {
                        if kind == 6 || random.below(3) == 0 {
                            file.write_all_at(&[block as u8; 512], from + block + 512 * random.below(8)).unwrap();
                        }
                    }
                }
            }
            "rotten"
        }
    }
}

#[test]
fn nothing_acknowledged_is_missing_with_any_three_slots_bad_after_a_kill() {
    let begun = Instant::now();
    let dir = common::dir();
    let (at, copy) = (dir.path().join("volume"), dir.path().join("copy"));
    fs::create_dir(&at).unwrap();
    create(&at, true);
    let mut random = Random::seeded();
    let mut known = Known { acked: vec![0; 4], sent: vec![0; 4], ..Known::default() };
    let variables = [(AT, at.to_str().unwrap().to_string()), (IO_URING, "1".to_string())];
    let (mut old, mut opened, mut read) = (None, 0, 0);
    for round in 0..rounds().div_ceil(5) {
        let child = Child::start("child_main", &variables);
        let first = child.until("state", Duration::from_secs(20)).expect("the child opens the volume");
        std::thread::sleep(Duration::from_millis(2 + random.below(100)));
        known.hear(&[first]);
        known.hear(&child.kill());
        for _ in 0..3 {
            let _ = fs::remove_dir_all(&copy);
            common::copy(&at, &copy);
            let mut slots: Vec<u8> = (0..6).collect();
            let bad: Vec<(u8, &str)> = (0..3)
                .map(|_| {
                    let slot = slots.swap_remove(random.below(slots.len() as u64) as usize);
                    (slot, damage(&copy, slot, old.as_deref(), &mut random))
                })
                .collect();
            let what = format!("round {round}, {bad:?}");
            let check = |now: &[u64]| {
                for thread in 0..THREADS as usize {
                    let (acked, sent) = (known.acked[thread], known.sent[thread]);
                    assert!(now[thread] >= acked && now[thread] <= sent + 1, "{what}: {acked} to {sent}, {now:?}");
                }
            };
            let reader = Volume::open_read_only(common::placement(&copy), &options(true));
            let reader = reader.unwrap_or_else(|e| panic!("{what}: read-only: {e}"));
            let (settled, visible) = (reader.view(), reader.view_visible());
            let visible = state(|p| visible.read(p));
            check(&visible);
            assert!(state(|p| settled.read(p)).iter().zip(&visible).all(|(s, v)| s <= v), "{what}");
            read += 1;
            let out = bad.iter().filter(|(_, b)| ["unreachable", "no superblock"].contains(b)).count();
            match Volume::open(common::placement(&copy), &options(true)) {
                Ok(volume) => {
                    let now = state(|p| volume.read(p));
                    assert_eq!(now, visible, "{what}: a writer finds what a reader saw");
                    let mut extra = number(&volume.read(own(0, 0)).unwrap(), 8);
                    commit(&volume, 0, now[0] + 1, &mut extra).wait().unwrap();
                    drop(volume);
                    let volume = Volume::open(common::placement(&copy), &options(true));
                    let volume = volume.unwrap_or_else(|e| panic!("{what}: again: {e}"));
                    assert_eq!(state(|p| volume.read(p))[0], now[0] + 1, "{what}");
                    opened += 1;
                }
                Err(e) => assert!(out == 3, "{what}: {e}"),
            }
        }
        if round % 4 == 0 {
            let aside = dir.path().join("old");
            let _ = fs::remove_dir_all(&aside);
            common::copy(&at, &aside);
            old = Some(aside);
        }
    }
    println!("{read} reads and {opened} opens with three bad slots, {:?}", begun.elapsed());
}
