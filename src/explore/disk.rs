//! One slot, as the exploration sees it: files by what they mean, not by their bytes.

use crate::core::recovery::Ruling;
use crate::core::vote::Join;
use crate::explore::rules::{Rule, Setting};
use crate::lsn::{Lsn, format};

/// A group, by its place in [`World::groups`](super::state::World).
pub type GroupId = u8;
/// Whoever opens the volume, by its place in [`World::openers`](super::state::World).
pub type OpenerId = u8;

/// What stands at a group's address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Held {
    #[default]
    Nothing,
    Garbage,
    /// Not whole, but its header and a record that ends an MTR verify: they say how far VDL was.
    Torn(GroupId),
    Whole(GroupId),
}

/// A group's address in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cell {
    pub at: Lsn,
    /// What a power cut leaves.
    pub stable: Held,
    /// A write that has landed and was not flushed: what reads see, and a power cut may take.
    pub cached: Option<GroupId>,
}

impl Cell {
    pub fn visible(&self) -> Held {
        self.cached.map_or(self.stable, Held::Whole)
    }
}

/// `epoch-<n>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Super {
    /// Whose decision it is.
    pub by: OpenerId,
    pub join: Join,
    pub clean: Option<Lsn>,
    /// Neither place verifies.
    pub rotten: bool,
}

/// `tail-<n>`, and which of its groups verify.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tail {
    pub by: OpenerId,
    pub groups: Vec<GroupId>,
    /// It landed after its opener was gone, and was not flushed: a power cut may take it.
    pub cached: bool,
}

/// A slot's files.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Disk {
    /// Bit n: `claim-<n>`.
    pub claims: u32,
    /// In order of epoch.
    pub supers: Vec<Super>,
    /// There is a segment, if only an empty one.
    pub segment: bool,
    /// In order of address.
    pub log: Vec<Cell>,
    pub tails: Vec<Tail>,
}

impl Disk {
    pub fn cell(&self, at: Lsn) -> Option<&Cell> {
        self.log.iter().find(|c| c.at == at)
    }

    fn cell_mut(&mut self, at: Lsn) -> &mut Cell {
        let i = self.log.partition_point(|c| c.at < at);
        if self.log.get(i).is_none_or(|c| c.at != at) {
            self.log.insert(i, Cell { at, stable: Held::Nothing, cached: None });
        }
        self.segment = true;
        &mut self.log[i]
    }

    /// The group is there, and stays.
    pub fn put_stable(&mut self, at: Lsn, what: Held) {
        let cell = self.cell_mut(at);
        (cell.stable, cell.cached) = (what, None);
    }

    /// The group is there until a power cut.
    pub fn put_cached(&mut self, at: Lsn, group: GroupId) {
        let cell = self.cell_mut(at);
        cell.cached = (cell.stable != Held::Whole(group)).then_some(group);
    }

    /// Flushes the segment of a protection group of one extent, the smallest that there is: others' bytes stay behind.
    pub fn flush(&mut self, segment_of: Lsn) {
        let pg = segment_of.floor(format::EXTENT);
        for cell in self.log.iter_mut().filter(|c| c.at.floor(format::EXTENT) == pg) {
            if let Some(group) = cell.cached.take() {
                cell.stable = Held::Whole(group);
            }
        }
    }

    /// `recover::flush_all`.
    pub fn flush_what_was_read(&mut self, ruling: &Ruling, setting: &Setting) {
        ruling.tail.iter().for_each(|(at, _)| self.flush(*at));
        if !setting.breaks(Rule::FlushTailFiles) {
            self.tails.iter_mut().for_each(|t| t.cached = false);
        }
    }

    /// Something is there that a power cut may take.
    pub fn has_cached(&self) -> bool {
        self.log.iter().any(|c| c.cached.is_some()) || self.tails.iter().any(|t| t.cached)
    }

    /// Writes a version of an epoch's superblock.
    pub fn put_super(&mut self, new: Super) {
        match self.supers.iter_mut().find(|s| s.by == new.by) {
            Some(old) => *old = new,
            None => self.supers.push(new),
        }
        self.supers.sort_by_key(|s| s.by);
    }

    /// Adds to a tail file, or makes it. An opener writes its own once, so all of it is in a cache, or none.
    pub fn put_tail(&mut self, by: OpenerId, groups: &[GroupId], cached: bool) {
        let i = self.tails.partition_point(|t| t.by < by);
        if self.tails.get(i).is_none_or(|t| t.by != by) {
            self.tails.insert(i, Tail { by, groups: Vec::new(), cached });
        }
        let all = &mut self.tails[i].groups;
        all.extend(groups.iter().filter(|g| !all.contains(g)).copied().collect::<Vec<_>>());
        all.sort_unstable();
    }

    /// The groups that tail files hold.
    pub fn in_tails(&self) -> impl Iterator<Item = GroupId> {
        self.tails.iter().flat_map(|t| t.groups.iter().copied())
    }

    /// `Files::is_blank`: nothing, or no more than an unfinished formatting.
    pub fn is_blank(&self) -> bool {
        self.supers.iter().all(|s| s.rotten) && self.tails.is_empty() && !self.segment
    }
}

/// A write of a process that is gone, or of a power cut's victim: it lands whenever it likes, or never.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Late {
    /// The groups of one epoch in an address range, in the segment.
    Groups {
        by: OpenerId,
        from: Lsn,
        to: Lsn,
    },
    Super(Super),
    Tail(Tail),
}

/// A slot, and what is still on its way there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SlotView {
    pub disk: Disk,
    /// An image of it, taken earlier.
    pub old: Option<Box<Disk>>,
    pub late: Vec<Late>,
    /// It was damaged, and nothing has repaired it: it counts as bad.
    pub hurt: bool,
}
