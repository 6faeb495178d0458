//! Groups that were looked at once. Six slots have the same bytes, and they are read again and again: what was found in
//! blocks need not be found anew in others that are alike.

use crate::lsn::Lsn;
use crate::sim::file::{BLOCK, File, Mark};
use std::collections::BTreeMap;

/// Which group is looked for: its address, its epoch, the seed of its checksums.
pub type Wanted = (Lsn, u64, u32);

/// What was found of groups, by the marks of their blocks.
pub struct Known<T> {
    groups: BTreeMap<Wanted, Vec<(Vec<Mark>, T)>>,
}

impl<T> Default for Known<T> {
    fn default() -> Known<T> {
        Known { groups: BTreeMap::new() }
    }
}

impl<T: Clone> Known<T> {
    /// What was found of a group that is, block by block, as what stands at `offset` of the file.
    pub fn get(&self, wanted: Wanted, file: &File, offset: u64) -> Option<T> {
        let alike = |(marks, _): &&(Vec<Mark>, T)| {
            file.marks(offset, marks.len() * BLOCK).is_some_and(|there| there.eq(marks.iter().copied()))
        };
        self.groups.get(&wanted)?.iter().find(alike).map(|(_, found)| found.clone())
    }

    /// Keeps what was found of the group of `len` bytes there.
    pub fn put(&mut self, wanted: Wanted, file: &File, offset: u64, len: u64, found: T) {
        if let Some(marks) = file.marks(offset, len as usize) {
            self.groups.entry(wanted).or_default().push((marks.collect(), found));
        }
    }
}
