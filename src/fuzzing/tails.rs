//! Opening what six damaged slots hold: segments, superblocks and tail files with arbitrary bytes over them.

use super::memory::{Contents, Slots};
use super::{PAGE, Scratch, mend, options};
use crate::disk::Fleet;
use crate::log::{group, record};
use crate::page::read::LogReader;
use crate::page::version::Pages;
use crate::segment::name::FileName;
use crate::segment::recover::{self, Recovered};
use crate::segment::superblock::{PLACE, Superblock};
use crate::volume::open::redo_map;
use crate::volume::reader;
use crate::volume::view::Reads;
use crate::{Lsn, PageId, Slot, Unknown, View, Volume};
use arbitrary::Unstructured;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
/// Edits of one input.
const EDITS_MAX: usize = 12;
/// Opening a small volume is a matter of milliseconds: this long is a hang.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// A volume's files, as a crash leaves them.
#[derive(Clone)]
struct Image(Vec<BTreeMap<String, Contents>>);

fn slot_path(root: &Path, slot: Slot) -> std::path::PathBuf {
    root.join(format!("az-{}", slot.az())).join(format!("slot-{slot}"))
}

impl Image {
    fn read(root: &Path) -> Image {
        let slot = |slot| {
            let files = fs::read_dir(slot_path(root, slot)).unwrap().map(|entry| {
                let entry = entry.unwrap();
                let mut bytes = fs::read(entry.path()).unwrap();
                let len = bytes.len() as u64;
                bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1));
                bytes.shrink_to_fit();
                (entry.file_name().into_string().unwrap(), Contents { bytes, len })
            });
            files.collect()
        };
        Image(Slot::ALL.map(slot).to_vec())
    }

    fn in_memory(&self) -> Slots {
        let slots = Slots::default();
        for (files, slot) in self.0.iter().zip(&slots.0) {
            let named = files.iter().filter_map(|(name, contents)| Some((FileName::parse(name)?, contents.clone())));
            slot.0.lock().extend(named);
        }
        slots
    }

    fn write(&self, root: &Path) {
        for slot in Slot::ALL {
            let path = slot_path(root, slot);
            fs::create_dir_all(&path).unwrap();
            for (name, contents) in &self.0[slot.index()] {
                fs::write(path.join(name), &contents.bytes).unwrap();
                fs::File::options().write(true).open(path.join(name)).unwrap().set_len(contents.len).unwrap();
            }
        }
    }
}

fn commit(volume: &Volume, text: &[u8]) {
    let mut mtr = volume.begin();
    let page = mtr.alloc().unwrap();
    mtr.put(page, vec![text[0]; PAGE]).patch(page, 100, text).patch(PageId::ROOT, 0, text);
    if text == b"six" {
        mtr.free(PageId(2));
    }
    mtr.commit().unwrap().wait().unwrap();
}

/// A crash of the first epoch; one of the second, which had to write tail files; and a clean close.
fn images() -> &'static [Image; 3] {
    static IMAGES: OnceLock<[Image; 3]> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let (first, second) = (Scratch::new(), Scratch::new());
        // No filler comes in between.
        let options = options().idle_after(Duration::from_secs(3600));
        let volume = Volume::create(&first.0, &options).unwrap();
        for text in [b"one", b"two", b"six"] {
            commit(&volume, text);
        }
        let behind = |v: &Volume| v.health().slots.iter().any(|s| s.scl.is_none_or(|l| l < v.health().vcl));
        while behind(&volume) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let crash = Image::read(&first.0);
        drop(volume);
        // The last group is on two slots: the next opener has to complete it.
        let mut torn = crash.clone();
        for files in &mut torn.0[..4] {
            let segment = files.get_mut("seg-00000000").unwrap();
            segment.bytes.truncate((segment.bytes.len() - 1) / BLOCK * BLOCK);
        }
        torn.write(&second.0);
        let volume = Volume::open(&second.0, &options).unwrap();
        for text in [b"new", b"old"] {
            commit(&volume, text);
        }
        let again = Image::read(&second.0);
        assert!(again.0[0].contains_key("tail-2"), "the second epoch has tail files");
        volume.close().unwrap();
        [crash, again, Image::read(&second.0)]
    })
}

/// Puts right what a checksum covers, as far as the file's own lengths go.
fn mend_file(name: &str, bytes: &mut Vec<u8>, seed: u32) {
    match FileName::parse(name) {
        Some(FileName::Epoch(_)) => {
            bytes.resize(2 * PLACE, 0);
            bytes.chunks_exact_mut(PLACE).for_each(|place| mend(place, 8, 0));
        }
        Some(FileName::Tail(_)) => {
            let head = bytes.len().min(64 << 10);
            mend(&mut bytes[..head], 8, 0);
        }
        _ => {
            let whole = bytes.len().next_multiple_of(BLOCK);
            bytes.resize(whole, 0);
            for at in (0..whole).step_by(BLOCK) {
                if bytes[at + 4..at + 8] != *b"QGRP" {
                    continue;
                }
                mend(&mut bytes[at..at + group::HEADER], 0, seed);
                let mut from = at + group::HEADER;
                while let Some(len) = record::claimed_len(&bytes[from..]).map(|l| l as usize)
                    && len <= whole - from
                {
                    mend(&mut bytes[from..from + len], 0, seed);
                    from += len;
                }
            }
        }
    }
}

/// One edit. True if it may make bytes verify that nobody wrote.
fn edit(image: &mut Image, u: &mut Unstructured<'_>, seed: u32) -> arbitrary::Result<bool> {
    let slot = u.int_in_range(0..=5)?;
    let action: u8 = u.int_in_range(0..=8)?;
    if action == 8 {
        // A claim, epoch or tail file of any number.
        let name = format!("{}-{}", u.choose(&["claim", "epoch", "tail"])?, u.arbitrary::<u64>()?);
        let of = *u.choose(&["epoch-1", "epoch-2", "tail-2", "claim-1"])?;
        let contents = image.0[slot].get(of).cloned().unwrap_or(Contents { bytes: Vec::new(), len: 0 });
        image.0[slot].insert(name, contents);
        return Ok(true);
    }
    let names: Vec<String> = image.0[slot].keys().cloned().collect();
    if names.is_empty() {
        return Ok(false);
    }
    let name = u.choose(&names)?.clone();
    let other = u.int_in_range(0..=5)?;
    let from_other = image.0[other].get(&name).cloned();
    let Some(contents) = image.0[slot].get_mut(&name) else { return Ok(false) };
    let bytes = &mut contents.bytes;
    let place = |u: &mut Unstructured<'_>, len: usize| u.int_in_range(0..=len + 2 * BLOCK);
    match action {
        0 | 1 => {
            // Arbitrary bytes, anywhere; or at a field of a block's first record, behind a right checksum.
            let at = match action {
                0 => place(u, bytes.len())?,
                _ => place(u, bytes.len())? / BLOCK * BLOCK + u.int_in_range(0..=128)?,
            };
            let len = u.int_in_range(1..=64)?;
            let new = u.bytes(len.min(u.len()))?;
            if bytes.len() < at + new.len() {
                bytes.resize(at + new.len(), 0);
            }
            bytes[at..at + new.len()].copy_from_slice(new);
            if action == 1 {
                mend_file(&name, bytes, seed);
            }
        }
        2 => {
            let at = place(u, bytes.len())?;
            bytes.truncate(at / 512 * 512);
        }
        3 => {
            let at = place(u, bytes.len())?;
            bytes.truncate(at);
            contents.len = at as u64;
        }
        4 => {
            image.0[slot].remove(&name);
            return Ok(false);
        }
        5 => image.0[slot].clear(),
        6 => {
            // A block from another copy, or from another place: stale or misdirected.
            let (from, to) = (place(u, bytes.len())? / BLOCK * BLOCK, place(u, bytes.len())? / BLOCK * BLOCK);
            if let Some(block) = from_other.and_then(|o| o.bytes.get(from..from + BLOCK).map(<[u8]>::to_vec)) {
                bytes.resize(bytes.len().max(to + BLOCK), 0);
                bytes[to..to + BLOCK].copy_from_slice(&block);
            }
        }
        _ => {
            if let Some(o) = from_other {
                *contents = o;
            }
        }
    }
    if let Some(contents) = image.0[slot].get_mut(&name) {
        contents.len = contents.len.max(contents.bytes.len() as u64);
    }
    Ok(action == 1)
}

fn look(view: &View) {
    match view.pages() {
        Ok(pages) => {
            for page in pages.into_iter().take(64) {
                let _ = view.read(page).map_err(|e| e.to_string());
            }
        }
        Err(e) => drop(e.to_string()),
    }
}

/// Damages the six slots of a small volume, and opens what is left: for reading, for writing, and once more.
pub fn tails(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(which) = u.int_in_range(0..=255) else { return };
    let mut image = images()[which % 3].clone();
    let newest = ["epoch-2", "epoch-1"].iter().find_map(|name| image.0[0].get(*name)).unwrap();
    let seed = Superblock::newest(&newest.bytes).unwrap().geometry.seed();
    let mut forged = false;
    for _ in 0..EDITS_MAX {
        match edit(&mut image, &mut u, seed) {
            Ok(forges) if !u.is_empty() => forged |= forges,
            _ => break,
        }
    }
    let begun = Instant::now();
    if which < 252 {
        in_memory(&image, forged);
    } else {
        // Now and then with all that is around it: slow.
        on_files(&image);
    }
    assert!(begun.elapsed() < OPEN_MAX, "it took {:?}", begun.elapsed());
}

fn look_at(slots: &Slots, r: &Recovered) {
    let (settled, _) = reader::settled(slots, r);
    assert!(settled <= r.ruling.end);
    let map = redo_map(r, settled, settled);
    let log = LogReader::new(r.survey.geometry, slots.dirs(), r.history.clone());
    let reads = Arc::new(Reads::new(Pages::new(log, None, 1 << 20, map)));
    look(&reads.view_at(settled, Duration::ZERO));
    look(&reads.view_at(r.ruling.end, Duration::ZERO));
}

fn in_memory(image: &Image, forged: bool) {
    let slots = image.in_memory();
    let before = recover::recover(&slots);
    match &before {
        Ok(r) => look_at(&slots, r),
        Err(e) => drop(e.to_string()),
    }
    match recover::open(&slots, |_, _| Ok(())) {
        Ok(opened) => {
            assert!(opened.took_part.len() >= crate::core::WRITE_QUORUM);
            look_at(&slots, &opened.recovered);
            let again = recover::recover(&slots);
            // Bytes that nobody wrote verify behind a mended checksum: then slots may say anything, also to each other.
            if !forged {
                let lsns = |r: &Recovered| r.changes.iter().map(|c| c.lsn).collect::<Vec<_>>();
                let again = again.expect("what was opened can be opened");
                assert_eq!((lsns(&opened.recovered), opened.number), (lsns(&again), again.choice.decision.number));
                assert!(before.is_ok_and(|r| lsns(&r) == lsns(&again)), "an open for reading sees what a writer keeps");
            }
        }
        Err(e) => drop(e.to_string()),
    }
}

fn on_files(image: &Image) {
    let scratch = Scratch::new();
    image.write(&scratch.0);
    match Volume::open_read_only(&scratch.0, &options()) {
        Ok(reader) => {
            look(&reader.view());
            let _ = (reader.health(), reader.outcome(Unknown { lsn: reader.settled(), epoch: 1 }));
        }
        Err(e) => drop(e.to_string()),
    }
    match Volume::open(&scratch.0, &options()) {
        Ok(volume) => {
            look(&volume.view());
            let _ = volume.outcome(Unknown { lsn: Lsn(8192), epoch: 1 });
            let mut mtr = volume.begin();
            mtr.patch(PageId::ROOT, 8, b"after");
            if let Ok(commit) = mtr.commit() {
                let _ = commit.wait().map_err(|e| e.to_string());
                let _ = volume.read(PageId::ROOT);
            }
            let _ = volume.health();
            let _ = volume.close();
            let _ = Volume::open(&scratch.0, &options()).map(|v| drop(v.close()));
        }
        Err(e) => drop(e.to_string()),
    }
}
