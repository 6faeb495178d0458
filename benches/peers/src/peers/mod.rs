//! The engines, one in a file each.

mod fjall;
mod floor;
mod lmdb;
mod quorate;
#[cfg(feature = "raft-engine")]
mod raft_engine;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;

use crate::peer::Kind;
use anyhow::{Context, Result};

/// All that are compiled in, as they stand in tables.
pub const ALL: &[Kind] = &[
    Kind { name: "quorate", open: quorate::open, groups: true, reads: true, reopens: true },
    Kind { name: "floor", open: floor::open, groups: true, reads: false, reopens: false },
    #[cfg(feature = "rocksdb")]
    Kind { name: "rocksdb", open: rocksdb::open, groups: false, reads: true, reopens: true },
    Kind { name: "fjall", open: fjall::open, groups: false, reads: true, reopens: true },
    Kind { name: "lmdb", open: lmdb::open, groups: false, reads: true, reopens: true },
    Kind { name: "redb", open: redb::open, groups: false, reads: true, reopens: true },
    Kind { name: "sqlite", open: sqlite::open, groups: false, reads: true, reopens: true },
    #[cfg(feature = "raft-engine")]
    Kind { name: "raft-engine", open: raft_engine::open, groups: false, reads: false, reopens: true },
];

/// The one of that name.
pub fn find(name: &str) -> Result<&'static Kind> {
    let names = || ALL.iter().map(|k| k.name).collect::<Vec<_>>().join(", ");
    ALL.iter().find(|k| k.name == name).with_context(|| format!("no peer {name:?}; there are {}", names()))
}
