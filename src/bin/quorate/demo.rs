//! `quorate demo`: the main job in a minute, on real input. It keeps a file, grows past its first protection group, loses
//! an AZ and one more copy, and reads the file back from what is left; then it heals, and ends with six good copies.

use crate::bench::Random;
use crate::common::{Fail, Io, at, close, human, warn};
use crate::compact;
use crate::info;
use crate::progress::Progress;
use crate::space;
use crate::store::{self, Source, Store};
use quorate::{Health, OpenError, Options, Placement, Volume};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What healing may take here.
const HEAL_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// A protection group here: the smallest.
const PG: u64 = 64 << 20;

/// A directory of the demo's own, removed when the demo ends, however it ends.
struct Place(PathBuf);

impl Place {
    fn make(under: &Path) -> Result<Place, Fail> {
        let path = under.join(format!("quorate-demo-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(at(&path))?;
        Ok(Place(path))
    }

    /// Three directories that stand for three disks.
    fn disks(&self) -> Result<[PathBuf; 3], Fail> {
        let disks = ["disk-a", "disk-b", "disk-c"].map(|d| self.0.join(d));
        for disk in &disks {
            std::fs::create_dir_all(disk).map_err(at(disk))?;
        }
        Ok(disks)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Shows it.
pub fn run(io: &Io, directory: Option<PathBuf>, file: Option<PathBuf>) -> Result<(), Fail> {
    let file = match file {
        Some(file) => file,
        None => std::env::current_exe().map_err(|e| Fail::new(format!("the program itself: {e}; name a file")))?,
    };
    let size = file.metadata().map_err(at(&file))?;
    if !size.is_file() {
        return Err(Fail::new(format!("{}: is no plain file; name another", file.display())));
    }
    let (place, volume, options) = create(io, directory)?;
    let disks = place.disks()?;
    step(io, &format!("A volume over three directories in {}: six copies, two in each.", place.0.display()))?;
    tell(io, &volume.health())?;

    let begun = Instant::now();
    let mut input = File::open(&file).map_err(at(&file))?;
    let kept = Store::new(&volume)?.put("demo", |buffer| {
        loop {
            match input.read(buffer) {
                Err(e) if e.kind() == ErrorKind::Interrupted => (),
                other => return other.map_err(at(&file)),
            }
        }
    })?;
    let took = begun.elapsed().as_secs_f64();
    let name = file.display();
    step(io, &format!("Kept {name}: {} in {took:.2} s, acknowledged on at least 4 of 6.", human(kept)))?;
    compare(io, &volume, &file, kept)?;
    grow(io, &volume)?;
    close(volume);

    std::fs::remove_dir_all(&disks[1]).map_err(at(&disks[1]))?;
    step(io, "Destroyed the directory of AZ 1, with slots 2 and 3 in it.")?;
    let segment = disks[2].join("slot-4").join("seg-00000000");
    std::fs::remove_file(&segment).map_err(at(&segment))?;
    step(io, "Destroyed the segment of slot 4, in AZ 2. Three copies are left.")?;

    let placement = Placement::from(disks.clone());
    let reader = Volume::open_read_only(placement.clone(), &options)?;
    step(io, "Opened for reading.")?;
    tell(io, &reader.health())?;
    compare(io, &reader.view(), &file, kept)?;
    let lost: BTreeSet<u8> = reader.verify().differences.iter().map(|d| d.slot.0).collect();
    io.say(
        json!({ "verify": lost }),
        format_args!("    verify finds the copies of slots {lost:?} lost, and no other"),
    )?;
    drop(reader);

    let volume = Volume::open(placement, &options)?;
    step(io, "Opened for writing: four slots can take new records.")?;
    tell(io, &volume.health())?;
    Store::new(&volume)?.put("after", {
        let mut text = &b"written with an AZ gone"[..];
        move |buffer| text.read(buffer).map_err(Fail::new)
    })?;
    step(io, "Kept one more file, acknowledged on 4 of 6.")?;
    compare(io, &volume, &file, kept)?;

    std::fs::create_dir(&disks[1]).map_err(at(&disks[1]))?;
    step(
        io,
        "Every byte came back from what was left. Put an empty directory in the place of AZ 1, and began a scrub.",
    )?;
    heal(io, &volume)?;
    tell(io, &volume.health())?;
    give_back(io, &volume)?;
    compare(io, &volume, &file, kept)?;
    go_back(io, &volume, &file, kept)?;
    close(volume);
    let reader = Volume::open_read_only(disks, &options)?;
    let found = reader.verify();
    let (records, bytes) = (found.records, found.bytes);
    if !found.is_clean() {
        let lost: BTreeSet<u8> = found.differences.iter().map(|d| d.slot.0).collect();
        return Err(Fail::new(format!("verify finds the copies of slots {lost:?} lost: please report this")));
    }
    let text = format!("    verify: {records} records, {} read in six copies: all whole and equal", human(bytes));
    io.say(json!({ "verify": [], "clean": true, "records": records, "bytes": bytes }), text)?;
    step(io, "Six healthy copies again.")
}

/// Keeps bytes until the log is past its first protection group.
fn grow(io: &Io, volume: &Volume) -> Result<(), Fail> {
    let begun = Instant::now();
    let (store, mut random) = (Store::new(volume)?, Random::new(5));
    // Half a group at least, however much was kept before: it is what comes back in the end.
    let mut left = (PG + PG / 4).saturating_sub(volume.health().tail.0).max(PG / 2) as usize;
    let more = store.put("more", |buffer| {
        let n = buffer.len().min(left);
        buffer[..n].chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()]));
        left -= n;
        Ok(n)
    })?;
    store.end()?;
    volume.sync().wait()?;
    let (health, took) = (volume.health(), begun.elapsed().as_secs_f64());
    let text = format!("Kept {} more in {took:.2} s: it has grown past its first protection group.", human(more));
    step(io, &text)?;
    if io.json { io.say(json!({ "space": space::facts(&health) }), "") } else { space::chart(io, &health) }?;
    if health.tail.0 <= PG || space::count(&health) < 2 {
        return Err(Fail::new("the volume has not grown: please report this"));
    }
    Ok(())
}

/// What was kept to make it grow goes again, and the space with it.
fn give_back(io: &Io, volume: &Volume) -> Result<(), Fail> {
    let (begun, before) = (Instant::now(), volume.health().device_bytes);
    let store = Store::new(volume)?;
    store.remove("more")?;
    store.end()?;
    compact::compact(io, volume, HEAL_MAX)?;
    let (health, took) = (volume.health(), begun.elapsed().as_secs_f64());
    step(io, &format!("Removed what it had grown by, and gave the space back in {took:.2} s."))?;
    if io.json { io.say(json!({ "space": space::facts(&health) }), "") } else { space::chart(io, &health) }?;
    if health.device_bytes >= before {
        return Err(Fail::new("no space came back: please report this"));
    }
    Ok(())
}

/// A mistake, the way back to before it, the way forth again, and back.
fn go_back(io: &Io, volume: &Volume, file: &Path, kept: u64) -> Result<(), Fail> {
    volume.snapshot("before the mistake")?;
    let store = Store::new(volume)?;
    store.remove("demo")?;
    store.end()?;
    let is_there = || Ok::<bool, Fail>(crate::store::find(&volume.view(), "demo")?.is_some());
    let wrong = |there: bool| match is_there()? == there {
        true => Ok(()),
        false => Err(Fail::new("the state is not the one that was gone back to: please report this")),
    };
    wrong(false)?;
    step(io, "Removed the file, by mistake.")?;
    let begun = Instant::now();
    let done = volume.backtrack("before the mistake")?;
    let took = begun.elapsed().as_secs_f64();
    step(
        io,
        &format!("Went back to the snapshot from before, at LSN {}, in {took:.2} s: the file is there.", done.lsn),
    )?;
    compare(io, volume, file, kept)?;
    let undone = volume.backtrack(done.undo)?;
    wrong(false)?;
    step(io, "Undid that: the file is gone again.")?;
    volume.backtrack(undone.undo)?;
    wrong(true)?;
    volume.forget("before the mistake")?;
    step(io, "And undid the undoing: it is there for good.")
}

/// Lets the running volume take the blank slots, fill them, and find by a scrub what else is missing.
fn heal(io: &Io, volume: &Volume) -> Result<(), Fail> {
    let begun = Instant::now();
    let mut progress = Progress::new(io, "repair");
    let mut scrubbed = false;
    while begun.elapsed() < HEAL_MAX {
        let health = volume.health();
        progress.show(&health.repair)?;
        let all_live = health.slots.iter().all(|s| s.away.is_none());
        if all_live && !std::mem::replace(&mut scrubbed, all_live) {
            volume.scrub();
        } else if all_live && !health.repair.busy {
            progress.end();
            let (took, bytes) = (begun.elapsed().as_secs_f64(), human(health.repair.mended_bytes));
            return step(io, &format!("Healed by itself: {bytes} copied from the good slots in {took:.2} s."));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    progress.end();
    Err(Fail::new("the volume has not healed within a minute: please report this"))
}

/// A new volume where the file system keeps the promises; the current directory first, unless one is named.
fn create(io: &Io, directory: Option<PathBuf>) -> Result<(Place, Volume, Options), Fail> {
    let options = io.options.clone().pg_size(PG);
    let named = directory.is_some();
    let mut places = directory.map_or_else(|| vec![PathBuf::from("."), std::env::temp_dir()], |d| vec![d]);
    if !named {
        places.push("/var/tmp".into());
    }
    let mut last = None;
    for under in &places {
        match Place::make(under).and_then(|place| Ok((place.disks()?, place))) {
            Err(fail) => last = Some(fail),
            Ok((disks, place)) => match Volume::create(disks, &options) {
                Ok(volume) => return Ok((place, volume, options)),
                Err(e @ OpenError::FileSystem { .. }) => last = Some(e.into()),
                Err(e) => return Err(e.into()),
            },
        }
    }
    let refused = last.unwrap_or_else(|| Fail::new("no directory to work in; name one"));
    if named {
        return Err(refused);
    }
    warn(format!("{}; the demo goes on in memory, name a directory on a disk for the real thing", refused.text));
    let options = options.allow_volatile(true);
    let place = Place::make(&std::env::temp_dir())?;
    let volume = Volume::create(place.disks()?, &options)?;
    Ok((place, volume, options))
}

fn step(io: &Io, text: &str) -> Result<(), Fail> {
    io.say(json!({ "step": text }), text)
}

fn tell(io: &Io, health: &Health) -> Result<(), Fail> {
    let slots: Vec<String> = health.slots.iter().map(info::state).collect();
    let ok = slots.iter().filter(|s| *s == "ok").count();
    let bad = slots.iter().enumerate().filter(|(_, s)| *s != "ok").map(|(i, s)| format!("; slot {i}: {s}"));
    let text = format!("    health: {ok} of 6 slots ok, VDL {}{}", health.vdl, bad.collect::<String>());
    io.say(json!({ "health": { "slots_ok": ok, "slots": slots, "vdl": health.vdl.0 } }), text)
}

/// Reads the kept file back and compares it with the original, byte for byte.
fn compare(io: &Io, source: &impl Source, file: &Path, kept: u64) -> Result<(), Fail> {
    let begun = Instant::now();
    let entry = store::find(source, "demo")?.ok_or_else(|| Fail::new("the kept file is gone: please report this"))?;
    let mut original = File::open(file).map_err(at(file))?;
    let mut same = 0;
    let mut want = Vec::new();
    store::read(source, entry, &mut |bytes| {
        want.resize(bytes.len(), 0);
        original.read_exact(&mut want).map_err(at(file))?;
        if want != bytes {
            return Err(Fail::new(format!("bytes from {same} on differ from {}: please report this", file.display())));
        }
        same += bytes.len() as u64;
        Ok(())
    })?;
    if same != kept {
        return Err(Fail::new(format!("{same} of {kept} bytes came back: please report this")));
    }
    let text = format!("    read back {} in {:.2} s: the same", human(same), begun.elapsed().as_secs_f64());
    io.say(json!({ "compared": same, "same": true }), text)
}
