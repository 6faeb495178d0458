//! Where a volume lies: three directories, or one with three in it; the file systems below them; who holds the lock.

use crate::lsn::{SLOTS, Slot, SlotSet};
use crate::volume::error::OpenError;
use crate::volume::health::Holder;
use rustix::fs::{Mode, OFlags, StatxFlags};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Where a volume lies.
///
/// One path is a directory in which three are made: good for trying out, but one disk is one failure domain. Three
/// paths are three directories, best each on a disk of its own.
///
/// ```
/// use quorate::Placement;
/// let trial = Placement::from("/tmp/trial");
/// let real = Placement::from(["/disk-a/vol", "/disk-b/vol", "/disk-c/vol"]);
/// # let _ = (trial, real);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    paths: Vec<PathBuf>,
}

impl Placement {
    /// From any number of paths; opening refuses all numbers but one and three.
    pub fn new<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Placement {
        Placement { paths: paths.into_iter().map(Into::into).collect() }
    }

    /// The paths as they were given.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The volume lies in one directory.
    pub fn is_single(&self) -> bool {
        self.paths.len() == 1
    }
}

impl From<&str> for Placement {
    fn from(path: &str) -> Placement {
        Placement::new([path])
    }
}

impl From<String> for Placement {
    fn from(path: String) -> Placement {
        Placement::new([path])
    }
}

impl From<&Path> for Placement {
    fn from(path: &Path) -> Placement {
        Placement::new([path])
    }
}

impl From<PathBuf> for Placement {
    fn from(path: PathBuf) -> Placement {
        Placement::new([path])
    }
}

impl From<&PathBuf> for Placement {
    fn from(path: &PathBuf) -> Placement {
        Placement::new([path.clone()])
    }
}

impl<P: Into<PathBuf>> From<[P; 3]> for Placement {
    fn from(paths: [P; 3]) -> Placement {
        Placement::new(paths)
    }
}

/// The three AZs of a volume, checked.
#[derive(Clone, Debug)]
pub(crate) struct Azs {
    pub paths: [PathBuf; 3],
    pub probes: [Option<Probe>; 3],
    /// Slots whose AZ did not answer within its time: they are not waited for once more.
    pub silent: SlotSet,
    /// What the options allow, for a directory that is added later.
    pub allow_volatile: bool,
    pub allow_remote: bool,
}

/// What was found below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The device that the directory lies on.
    pub device: u64,
    pub file_system: &'static str,
    /// Alignment that direct I/O needs there; none where it is refused.
    pub direct: Option<u32>,
    pub volatile: bool,
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |source| match source.kind() {
        io::ErrorKind::NotFound => OpenError::Missing(path.to_path_buf()),
        io::ErrorKind::NotADirectory => OpenError::NotADirectory(path.to_path_buf()),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::OutOfSpace(path.to_path_buf()),
        _ => OpenError::Io { path: path.to_path_buf(), source },
    }
}

/// Checks the number and difference of the paths. For a single one, the three below it. Whole paths: the process may go
/// elsewhere, and a slot's directory is looked up again and again.
fn three(placement: &Placement) -> Result<[PathBuf; 3], OpenError> {
    let whole = |path: &PathBuf| std::path::absolute(path).map_err(io_at(path));
    let paths = placement.paths.iter().map(whole).collect::<Result<Vec<_>, _>>()?;
    match &paths[..] {
        [one] => Ok(["az-0", "az-1", "az-2"].map(|az| one.join(az))),
        [a, b, c] => {
            let real = |p: &PathBuf| fs::canonicalize(p).unwrap_or_else(|_| p.clone());
            for (x, y) in [(a, b), (a, c), (b, c)] {
                if real(x) == real(y) {
                    let path = x.display();
                    return Err(OpenError::Placement(format!(
                        "{path} is named twice: name three different directories"
                    )));
                }
            }
            Ok([a.clone(), b.clone(), c.clone()])
        }
        other => Err(OpenError::Placement(format!(
            "{} directories: name one for trying out, or three, best one a disk",
            other.len()
        ))),
    }
}

fn must_be_directory(path: &Path) -> Result<(), OpenError> {
    let meta = fs::metadata(path).map_err(io_at(path))?;
    if meta.is_dir() { Ok(()) } else { Err(OpenError::NotADirectory(path.to_path_buf())) }
}

fn must_be_empty(path: &Path) -> Result<(), OpenError> {
    must_be_directory(path)?;
    for entry in fs::read_dir(path).map_err(io_at(path))? {
        let entry = entry.map_err(io_at(path))?;
        // A fresh ext4 has it.
        if entry.file_name() != "lost+found" && !is_left_over(&entry) {
            return Err(OpenError::NotEmpty(path.to_path_buf()));
        }
    }
    Ok(())
}

/// What a creation made that came to no end before the first slot said anything: empty directories, and a lock that nobody
/// needs to hold, for who has it is refused by it.
fn is_left_over(entry: &fs::DirEntry) -> bool {
    let (name, kind) = (entry.file_name(), entry.file_type());
    let named = |with: &str| name.to_str().is_some_and(|name| name.starts_with(with));
    match kind {
        Ok(kind) if kind.is_file() => named("lock-"),
        Ok(kind) if kind.is_dir() && (named("az-") || named("slot-")) => fs::read_dir(entry.path())
            .is_ok_and(|mut all| all.all(|inner| inner.is_ok_and(|inner| is_left_over(&inner)))),
        _ => false,
    }
}

/// Makes it, unless an earlier creation did.
fn make_dir(path: &Path) -> Result<(), OpenError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => must_be_directory(path),
        other => other.map_err(io_at(path)),
    }
}

impl Azs {
    /// Checks the directories of a volume that is to be made, and makes the ones of its slots.
    pub fn create(placement: &Placement, allow_volatile: bool, allow_remote: bool) -> Result<Azs, OpenError> {
        let paths = three(placement)?;
        for path in &placement.paths {
            must_be_empty(path)?;
        }
        for path in &placement.paths {
            probe(path, allow_volatile, allow_remote)?;
        }
        for az in &paths {
            if placement.is_single() {
                make_dir(az)?;
            }
        }
        for slot in Slot::ALL {
            make_dir(&slot_path(&paths, slot))?;
        }
        for path in placement.paths.iter().chain(&paths) {
            crate::disk::file::sync_dir(path).map_err(io_at(path))?;
        }
        Azs::open(placement, allow_volatile, allow_remote)
    }

    /// Takes the slots' directories of a volume that was to be made away again.
    pub fn remove(&self, placement: &Placement) -> Result<(), (PathBuf, io::Error)> {
        for slot in Slot::ALL.map(|slot| self.slot(slot)) {
            fs::remove_dir_all(&slot).map_err(|e| (slot, e))?;
        }
        for az in self.paths.iter().filter(|_| placement.is_single()) {
            fs::remove_dir(az).map_err(|e| (az.clone(), e))?;
        }
        Ok(())
    }

    /// The directories of a volume that is there. An AZ that is missing stays out.
    pub fn open(placement: &Placement, allow_volatile: bool, allow_remote: bool) -> Result<Azs, OpenError> {
        let paths = three(placement)?;
        if placement.is_single() {
            must_be_directory(&placement.paths[0])?;
        }
        let mut probes = [const { None }; 3];
        let look = move |path: &Path| {
            must_be_directory(path)?;
            probe(path, allow_volatile, allow_remote)
        };
        let (answers, silent) = each_az(paths.each_ref().map(Some), look);
        for (found, answer) in probes.iter_mut().zip(answers) {
            match answer {
                Some(Ok(probe)) => *found = Some(probe),
                // Not mounted, dead, or hanging: the slots in it say so, and the others may be enough.
                None | Some(Err(OpenError::Missing(_) | OpenError::Io { .. })) => (),
                Some(Err(e)) => return Err(e),
            }
        }
        if probes.iter().all(Option::is_none) {
            return Err(if placement.is_single() {
                OpenError::NoVolume(placement.paths[0].clone())
            } else {
                OpenError::Missing(paths[0].clone())
            });
        }
        Ok(Azs { paths, probes, silent, allow_volatile, allow_remote })
    }

    /// The AZs that hold one of these slots; the others count as missing.
    pub fn only(&self, slots: SlotSet) -> Azs {
        let mut azs = self.clone();
        for (az, probe) in azs.probes.iter_mut().enumerate() {
            probe.take_if(|_| !slots.iter().any(|s| s.az() == az));
        }
        azs
    }

    pub fn slot(&self, slot: Slot) -> PathBuf {
        slot_path(&self.paths, slot)
    }

    fn present(&self) -> [Option<&PathBuf>; 3] {
        std::array::from_fn(|az| self.probes[az].as_ref().map(|_| &self.paths[az]))
    }

    pub fn slots(&self) -> [PathBuf; SLOTS] {
        Slot::ALL.map(|s| self.slot(s))
    }

    /// The block that every device below can write at once.
    pub fn block(&self) -> u32 {
        self.probes.iter().flatten().filter_map(|p| p.direct).max().unwrap_or(4096).clamp(4096, 64 << 10)
    }

    /// Some AZ refuses direct I/O.
    pub fn buffered(&self) -> bool {
        self.probes.iter().flatten().any(|p| p.direct.is_none())
    }

    /// Pairs of AZs on one device: a word, not a failure domain.
    pub fn shared_devices(&self) -> Vec<(usize, usize)> {
        let device = |az: usize| self.probes[az].as_ref().map(|p| p.device);
        [(0, 1), (0, 2), (1, 2)].into_iter().filter(|(a, b)| device(*a).is_some() && device(*a) == device(*b)).collect()
    }
}

/// Runs a call on the AZs' directories, side by side and bounded in time: a disk that hangs is one that does not answer.
/// The slots of those, too.
fn each_az<T: Send + 'static>(
    azs: [Option<&PathBuf>; 3],
    call: impl Fn(&Path) -> T + Send + Sync + 'static,
) -> ([Option<T>; 3], SlotSet) {
    let (send, answers) = crossbeam_channel::bounded(3);
    let call = std::sync::Arc::new(call);
    let mut silent = SlotSet::NONE;
    for (az, path) in azs.into_iter().enumerate() {
        let Some(path) = path.cloned() else { continue };
        silent = Slot::ALL.into_iter().filter(|s| s.az() == az).fold(silent, SlotSet::with);
        let (send, call) = (send.clone(), call.clone());
        let spawned = std::thread::Builder::new().name("quorate-az".into()).stack_size(256 << 10);
        // What nobody waits for any more (a lock, too) is dropped.
        let _ = spawned.spawn(move || send.send((az, call(&path))));
    }
    drop(send);
    let deadline = std::time::Instant::now() + crate::segment::survey::ANSWER_MAX;
    let mut out = [const { None }; 3];
    while let Ok((az, answer)) = answers.recv_deadline(deadline) {
        out[az] = Some(answer);
        silent = silent.iter().filter(|s| s.az() != az).collect();
    }
    (out, silent)
}

fn slot_path(azs: &[PathBuf; 3], slot: Slot) -> PathBuf {
    azs[slot.az()].join(format!("slot-{slot}"))
}

/// Magic numbers of `statfs`.
const FILE_SYSTEMS: [(u64, &str); 18] = [
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x00C3_6400, "ceph"),
    (0x0116_1970, "gfs2"),
    (0x7461_636F, "ocfs2"),
    (0x0BD0_0BD0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x5346_414F, "afs"),
    (0x794C_7630, "overlayfs"),
    (0x2FC1_2FC1, "zfs"),
];

/// What an open file or directory lies on.
pub(crate) fn file_system(at: impl AsFd) -> rustix::io::Result<&'static str> {
    let magic = rustix::fs::fstatfs(at)?.f_type as u64 & 0xFFFF_FFFF;
    Ok(FILE_SYSTEMS.iter().find(|(m, _)| *m == magic).map_or("other", |(_, name)| *name))
}

/// Other machines may write there, and nobody here is told.
pub(crate) fn is_remote(kind: &str) -> bool {
    const REMOTE: [&str; 11] = ["nfs", "fuse", "9p", "cifs", "smb2", "ceph", "gfs2", "ocfs2", "lustre", "gpfs", "afs"];
    REMOTE.contains(&kind)
}

pub(crate) fn probe(path: &Path, allow_volatile: bool, allow_remote: bool) -> Result<Probe, OpenError> {
    let sys = |e: rustix::io::Errno| OpenError::Io { path: path.to_path_buf(), source: e.into() };
    let dir =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(sys)?;
    let kind = file_system(&dir).map_err(sys)?;
    let refuse = |kind, why| Err(OpenError::FileSystem { path: path.to_path_buf(), kind, why });
    let volatile = matches!(kind, "tmpfs" | "ramfs");
    if volatile && !allow_volatile {
        return refuse(kind, "its contents do not survive a restart; allow it with `allow_volatile`");
    }
    if is_remote(kind) && !allow_remote {
        return refuse(
            kind,
            "write-through, exclusive creation and locks are not known to hold there; allow it with `allow_remote`",
        );
    }
    let stat = rustix::fs::statx(&dir, "", rustix::fs::AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(sys)?;
    let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    Ok(Probe { device, file_system: kind, direct: direct_alignment(path, volatile), volatile })
}

/// Alignment of direct I/O. Told by statx for files; 4096 where it is not told.
fn direct_alignment(path: &Path, volatile: bool) -> Option<u32> {
    if volatile {
        return None;
    }
    // A directory does not tell; a file that is there anyway does.
    let file = Slot::ALL
        .iter()
        .map(|s| path.join(format!("slot-{s}")))
        .find_map(|slot| fs::read_dir(slot).ok()?.flatten().map(|e| e.path()).find(|p| p.is_file()));
    let told = file.and_then(|f| {
        let stat = rustix::fs::statx(rustix::fs::CWD, &f, rustix::fs::AtFlags::empty(), StatxFlags::DIOALIGN).ok()?;
        (stat.stx_dio_offset_align > 0).then_some(stat.stx_dio_offset_align)
    });
    Some(told.unwrap_or(4096))
}

/// The writer's locks: `lock-<epoch>` in each AZ.
pub(crate) struct Locks {
    held: Vec<(PathBuf, File)>,
    pid: u32,
}

/// The holder of a lock in any of the AZs, and the slots of AZs that did not say.
pub(crate) fn holder(azs: &Azs) -> (Option<Holder>, SlotSet) {
    let (held, silent) = each_az(azs.present(), |az| holder_in(az, u64::MAX));
    (held.into_iter().flatten().flatten().max().map(|(epoch, pid)| Holder { pid, epoch }), silent)
}

/// Somebody holds a lock of an epoch below `epoch`, or an AZ does not say.
pub(crate) fn is_held_below(azs: &Azs, epoch: u64) -> bool {
    let (held, silent) = each_az(azs.present(), move |az| holder_in(az, epoch).is_some());
    silent != SlotSet::NONE || held.contains(&Some(true))
}

/// Epoch and process of the highest lock below `below` that is held.
fn holder_in(az: &Path, below: u64) -> Option<(u64, u32)> {
    let mut found = None;
    for (epoch, path) in lock_files(az).into_iter().filter(|(epoch, _)| *epoch < below) {
        let Ok(mut file) = File::open(&path) else { continue };
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            let pid = text.split_whitespace().next().and_then(|p| p.parse().ok()).unwrap_or(0);
            found = found.max(Some((epoch, pid)));
        }
    }
    found
}

fn lock_files(az: &Path) -> Vec<(u64, PathBuf)> {
    let name = |path: PathBuf| {
        let number = path.file_name()?.to_str()?.strip_prefix("lock-")?.parse().ok()?;
        Some((number, path))
    };
    fs::read_dir(az).map(|d| d.flatten().filter_map(|e| name(e.path())).collect()).unwrap_or_default()
}

impl Locks {
    /// Takes the locks of an epoch in every AZ that is there. Tells the slots of AZs that did not answer.
    pub fn take(azs: &Azs, epoch: u64) -> Result<(Locks, SlotSet), OpenError> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let text = format!("{} {epoch} {}\n", std::process::id(), boot.trim());
        let mut held = Vec::new();
        let (answers, silent) = each_az(azs.present(), move |az| take_in(az, epoch, &text));
        for answer in answers.into_iter().flatten() {
            held.extend(answer?);
        }
        Ok((Locks { held, pid: std::process::id() }, silent))
    }

    /// Removes the lock files of earlier epochs that nobody holds. Not waited for.
    pub fn tidy(&self, epoch: u64) {
        let azs: Vec<PathBuf> = self.held.iter().filter_map(|(p, _)| p.parent().map(Path::to_path_buf)).collect();
        aside(move || {
            for (number, path) in azs.iter().flat_map(|az| lock_files(az)) {
                let free = |path: &Path| File::open(path).is_ok_and(|f| f.try_lock().is_ok());
                if number < epoch && free(&path) {
                    let _ = fs::remove_file(path);
                }
            }
        });
    }

    /// Gives the locks up. A child between fork and exec holds a copy of the descriptors: closing is not enough.
    pub fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        if self.pid != std::process::id() {
            // A forked child shares the lock with the process that took it: given up here it would be given up there.
            return;
        }
        held.iter().for_each(|(_, file)| drop(file.unlock()));
        // The files are swept up beside: a disk that hangs must not hold up a close.
        let (send, done) = crossbeam_channel::bounded::<()>(1);
        aside(move || {
            held.iter().for_each(|(path, _)| drop(fs::remove_file(path)));
            drop(send);
        });
        let _ = done.recv_timeout(std::time::Duration::from_millis(500));
    }
}

/// Attempts to take a lock, a millisecond apart.
const LOCK_TRIES: usize = 20;

/// The lock in one AZ. None: it takes no lock (full, read-only) and has no say; the claim decides.
fn take_in(az: &Path, epoch: u64, text: &str) -> Result<Option<(PathBuf, File)>, OpenError> {
    let path = az.join(format!("lock-{epoch}"));
    let Ok(mut file) = File::options().create(true).truncate(false).read(true).write(true).open(&path) else {
        return Ok(None);
    };
    let mut tries = 0;
    let locked = loop {
        match file.try_lock() {
            // Whoever asks for the holder has it locked for a moment.
            Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => tries += 1,
            other => break other,
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    match locked {
        Ok(()) => {
            let _ = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
            Ok(Some((path, file)))
        }
        Err(TryLockError::WouldBlock) => Err(OpenError::Outbid { epoch }),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

/// On a thread of its own: a disk may hang.
fn aside(call: impl FnOnce() + Send + 'static) {
    let _ = std::thread::Builder::new().name("quorate-az".into()).stack_size(256 << 10).spawn(call);
}

impl Drop for Locks {
    fn drop(&mut self) {
        self.release();
    }
}
