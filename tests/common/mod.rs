//! What the tests on real files share: directories, children that can be killed, copies of directories, small disks.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod churn;
pub mod fixture;

use quorate::{PageId, Placement, Volume};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Commits one patch, durably.
pub fn patch(volume: &Volume, page: PageId, offset: u32, bytes: &[u8]) {
    let mut mtr = volume.begin();
    mtr.patch(page, offset, bytes);
    mtr.commit().unwrap().wait().unwrap();
}

/// A directory goes while a volume makes files there: what came between is taken, too.
pub fn remove_live(dir: &Path) {
    for _ in 0..1000 {
        match fs::remove_dir_all(dir) {
            Err(e) if matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) && dir.exists() => (),
            done => return done.unwrap(),
        }
    }
    panic!("{} comes back again and again", dir.display());
}

/// A xorshift: the tests' own randomness, told by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn seeded() -> Random {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
        println!("seed {seed}");
        Random(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Three AZ directories below `at`.
pub fn azs(at: &Path) -> [PathBuf; 3] {
    ["a", "b", "c"].map(|az| at.join(az))
}

/// Makes them.
pub fn make_azs(at: &Path) -> [PathBuf; 3] {
    let azs = azs(at);
    azs.iter().for_each(|az| fs::create_dir(az).unwrap());
    azs
}

pub fn placement(at: &Path) -> Placement {
    Placement::from(azs(at))
}

/// The directory of a slot of such a volume.
pub fn slot(at: &Path, slot: u8) -> PathBuf {
    azs(at)[usize::from(slot / 2)].join(format!("slot-{slot}"))
}

/// A file's data, run by run, and its length: segments are sparse.
pub fn data(path: &Path) -> (u64, Vec<(u64, Vec<u8>)>) {
    use rustix::fs::{SeekFrom, seek};
    let file = fs::File::open(path).unwrap();
    let (len, mut at, mut runs) = (file.metadata().unwrap().len(), 0, Vec::new());
    while let Ok(from) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(from)).unwrap();
        let mut bytes = vec![0; (at - from) as usize];
        file.read_exact_at(&mut bytes, from).unwrap();
        runs.push((from, bytes));
    }
    (len, runs)
}

/// Every file below, with its bytes: length and data as one.
pub fn bytes_below(at: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let Ok(entries) = fs::read_dir(at) else { return all };
    for entry in entries.map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            all.extend(bytes_below(&path));
        } else {
            let (len, runs) = data(&path);
            let mut all_of_it = len.to_le_bytes().to_vec();
            for (at, bytes) in runs {
                all_of_it.extend_from_slice(&at.to_le_bytes());
                all_of_it.extend_from_slice(&bytes);
            }
            all.insert(path, all_of_it);
        }
    }
    all
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            let (len, runs) = data(&entry.path());
            let file = fs::File::create(to).unwrap();
            file.set_len(len).unwrap();
            runs.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        }
    }
}

/// This test binary again, running one test as the child; its lines as they come.
pub struct Child {
    pub process: std::process::Child,
    lines: Receiver<String>,
}

impl Child {
    /// `test` must return at once when the variable is absent.
    pub fn start(test: &str, variables: &[(&str, String)]) -> Child {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .envs(variables.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Child { process, lines }
    }

    /// The next line, if one comes in time.
    pub fn line(&self, most: Duration) -> Option<String> {
        self.lines.recv_timeout(most).ok()
    }

    /// Reads on to a line that begins so. None: the child ended, or time is up.
    pub fn until(&self, begins: &str, most: Duration) -> Option<String> {
        let deadline = Instant::now() + most;
        loop {
            let line = self.line(deadline.saturating_duration_since(Instant::now()))?;
            if line.starts_with(begins) {
                return Some(line);
            }
        }
    }

    /// What came so far.
    pub fn pending(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// SIGKILL, and all that it had said.
    pub fn kill(mut self) -> Vec<String> {
        let _ = self.process.kill();
        self.process.wait().unwrap();
        self.lines.iter().collect()
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Waits for its end by itself.
    pub fn join(mut self, most: Duration) -> Vec<String> {
        let deadline = Instant::now() + most;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().unwrap() {
                let lines: Vec<String> = self.lines.iter().collect();
                assert!(status.success(), "the child failed: {lines:#?}");
                return lines;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the child did not end in {most:?}: {:#?}", self.kill());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A small file system on a loop device. Unmounted, and thawed before, when dropped.
pub struct Mount {
    pub path: PathBuf,
    frozen: bool,
}

impl Mount {
    /// None, with the reason printed, where that cannot be done.
    pub fn new(at: &Path, name: &str, mib: u64) -> Option<Mount> {
        Mount::of(at, name, mib, "ext4")
    }

    /// `ext4`, `ext2`, `xfs` or `btrfs`; the smallest xfs has 300 MiB.
    pub fn of(at: &Path, name: &str, mib: u64, kind: &str) -> Option<Mount> {
        let (image, path) = (at.join(format!("{name}.img")), at.join(name));
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        fs::create_dir(&path).unwrap();
        let image = image.to_str().unwrap();
        let made = match kind {
            "ext4" | "ext2" => run(&format!("mkfs.{kind}"), &["-q", "-m", "0", image]),
            kind => run(&format!("mkfs.{kind}"), &["-q", image]),
        };
        let ready = made && run("mount", &["-o", "loop", image, path.to_str().unwrap()]);
        if !ready {
            skip(&format!("no {kind} on a loop device can be mounted here (not root, no losetup, or no mkfs.{kind})"));
            return None;
        }
        Some(Mount { path, frozen: false })
    }

    /// What a power cut would leave of it now, mounted beside.
    pub fn cut(&self, name: &str) -> Mount {
        let (copy, path) = (self.path.with_extension(format!("{name}.img")), self.path.with_extension(name));
        fs::copy(self.path.with_extension("img"), &copy).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(run("mount", &["-o", "loop", copy.to_str().unwrap(), path.to_str().unwrap()]));
        Mount { path, frozen: false }
    }

    /// In memory: it knows neither holes nor space that is taken ahead. Nothing bounds it.
    pub fn ramfs(at: &Path, name: &str) -> Option<Mount> {
        let path = at.join(name);
        fs::create_dir(&path).unwrap();
        if !run("mount", &["-t", "ramfs", "ramfs", path.to_str().unwrap()]) {
            skip("no ramfs can be mounted here (not root)");
            return None;
        }
        Some(Mount { path, frozen: false })
    }

    /// Writes hang from now on; reads do not. False, with the reason printed, where that cannot be done.
    pub fn freeze(&mut self) -> bool {
        self.frozen = run("fsfreeze", &["-f", self.path.to_str().unwrap()]);
        if !self.frozen {
            skip("no fsfreeze");
        }
        self.frozen
    }

    pub fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            assert!(run("fsfreeze", &["-u", self.path.to_str().unwrap()]));
        }
    }

    /// Mounted anew, `ro` or `rw`. False where that is not possible now: a file is open for writing.
    pub fn remount(&self, how: &str) -> bool {
        run("mount", &["-o", &format!("remount,{how}"), self.path.to_str().unwrap()])
    }

    /// Takes all of the space that is left.
    pub fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.path.join("filler")).unwrap();
        for size in [1 << 20, 64 << 10, 4 << 10] {
            while file.write_all(&vec![7; size]).and_then(|()| file.sync_data()).is_ok() {}
        }
    }

    pub fn make_room(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
        assert!(run("sync", &["-f", self.path.to_str().unwrap()]));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.thaw();
        // Lazily: a volume that could not be closed may still hold files.
        let path = self.path.to_str().unwrap();
        let _ = run("umount", &[path]) || run("umount", &["-l", path]);
    }
}

/// A test is not done here, and says why. With `QUORATE_MUST` in the environment, as `.ci/run` has it, it fails.
pub fn skip(why: &str) {
    println!("skipped: {why}");
    assert!(std::env::var_os("QUORATE_MUST").is_none(), "it must not be skipped: {why}");
}

pub fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// The file has blocks that another one has as well.
pub fn is_shared(file: &Path) -> bool {
    let out = Command::new("filefrag").arg("-v").arg(file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).contains("shared")
}
