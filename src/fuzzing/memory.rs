//! Six slots in memory: opening one is a matter of microseconds.

use crate::disk::{Fleet, SlotDir};
use crate::lsn::{SLOTS, Slot, SlotSet};
use crate::segment::name::FileName;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// A file's bytes up to its last one that is not zero, and its length.
#[derive(Clone, Default)]
pub struct Contents {
    pub bytes: Vec<u8>,
    pub len: u64,
}

/// The six.
#[derive(Default)]
pub struct Slots(pub [Arc<Memory>; SLOTS]);

/// A slot's directory.
#[derive(Default)]
pub struct Memory(pub Mutex<BTreeMap<FileName, Contents>>);

impl SlotDir for Memory {
    fn list(&self) -> io::Result<Vec<FileName>> {
        Ok(self.0.lock().keys().copied().collect())
    }

    fn create_new(&self, name: FileName) -> io::Result<()> {
        match self.0.lock().entry(name) {
            std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(Contents::default())),
            std::collections::btree_map::Entry::Occupied(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        Ok(())
    }

    fn read(&self, name: FileName, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let files = self.0.lock();
        let file = files.get(&name).ok_or(io::ErrorKind::NotFound)?;
        let n = file.len.saturating_sub(offset).min(most as u64) as usize;
        let there = file.bytes.get(offset as usize..).unwrap_or_default();
        let mut bytes = there[..there.len().min(n)].to_vec();
        bytes.resize(n, 0);
        Ok(bytes)
    }

    fn write_at(&self, name: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.0.lock();
        let file = files.entry(name).or_default();
        let end = offset as usize + bytes.len();
        file.bytes.resize(file.bytes.len().max(end), 0);
        file.bytes[offset as usize..end].copy_from_slice(bytes);
        file.len = file.len.max(end as u64);
        Ok(())
    }

    fn allocate(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        let mut files = self.0.lock();
        let file = files.entry(name).or_default();
        file.len = file.len.max(offset + len);
        Ok(())
    }

    fn flush(&self, name: FileName) -> io::Result<()> {
        self.0.lock().get(&name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn drain(&self, _: FileName) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, name: FileName, offset: u64, len: u64) -> io::Result<()> {
        if let Some(file) = self.0.lock().get_mut(&name) {
            let from = file.bytes.len().min(offset as usize);
            let to = file.bytes.len().min((offset + len) as usize);
            file.bytes[from..to].fill(0);
        }
        Ok(())
    }

    fn remove(&self, name: FileName) -> io::Result<()> {
        self.0.lock().remove(&name);
        Ok(())
    }
}

impl Fleet for Slots {
    fn each<T: Send + 'static>(
        &self,
        set: SlotSet,
        call: impl Fn(Slot, &dyn SlotDir) -> io::Result<T> + Send + Sync + 'static,
    ) -> [Option<io::Result<T>>; SLOTS] {
        Slot::ALL.map(|slot| set.contains(slot).then(|| call(slot, &*self.0[slot.index()])))
    }

    fn dirs(&self) -> [Option<Arc<dyn SlotDir>>; SLOTS] {
        Slot::ALL.map(|slot| Some(self.0[slot.index()].clone() as Arc<dyn SlotDir>))
    }
}
