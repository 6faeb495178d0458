//! An embedded storage volume in six verified copies.
#![cfg_attr(
    quorate_loom,
    allow(dead_code, rustdoc::broken_intra_doc_links, reason = "only what is modelled is compiled")
)]
// The build with all features tells what is dead.
#![cfg_attr(
    not(all(feature = "io-uring", feature = "sim")),
    allow(dead_code, reason = "what only a feature that is off needs")
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where"))]

#[cfg(not(quorate_bugs))]
mod bugs;
#[cfg(quorate_bugs)]
#[doc(hidden)]
pub mod bugs;
#[cfg(not(quorate_loom))]
mod core;
#[cfg(not(quorate_loom))]
mod disk;
#[cfg(all(any(test, feature = "sim"), not(quorate_loom)))]
pub mod explore;
#[cfg(all(feature = "fuzzing", not(quorate_loom)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(not(quorate_loom))]
mod history;
mod log;
mod lsn;
#[cfg(not(quorate_loom))]
mod page;
#[cfg(not(quorate_loom))]
mod reclaim;
#[cfg(not(quorate_loom))]
mod repair;
#[cfg(not(quorate_loom))]
mod segment;
#[cfg(all(feature = "sim", not(quorate_loom)))]
pub mod sim;
#[cfg(all(feature = "spans", not(quorate_loom)))]
#[doc(hidden)]
pub mod spans;
#[cfg(all(not(feature = "spans"), not(quorate_loom)))]
mod spans;
mod sync;
#[cfg(not(quorate_loom))]
mod volume;

/// What loom models of the disks.
#[cfg(quorate_loom)]
mod disk {
    pub(crate) mod desk;
}

/// What loom models of the pages.
#[cfg(quorate_loom)]
mod page {
    pub(crate) mod heads;
}

/// What loom models of the volume.
#[cfg(quorate_loom)]
mod volume {
    pub(crate) mod tickets;
    pub(crate) mod wake;
}

#[cfg(all(test, quorate_loom))]
mod models;
#[cfg(all(test, not(quorate_loom)))]
mod vectors;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(doc)]
#[doc = include_str!("architecture.md")]
pub mod architecture {}
#[cfg(doc)]
#[doc = include_str!("format.md")]
pub mod format {}
#[cfg(doc)]
#[doc = include_str!("performance.md")]
pub mod performance {}
#[cfg(doc)]
#[doc = include_str!("testing.md")]
pub mod testing {}

pub use lsn::{Lsn, PageId, Slot};

#[cfg(not(quorate_loom))]
pub use crate::{
    core::gaps::Gap,
    core::writer::Away,
    history::error::HistoryError,
    history::find::{Clock, Moment},
    segment::placement::Placement,
    segment::superblock::SuperFault,
    segment::verify::{Difference, DifferenceKind, LogKind, LogRecord, Verification},
    volume::Volume,
    volume::commit::Commit,
    volume::error::{CloseError, OpenError, ReadError, ReplaceError, SlotFault, SlotFaults, Unknown, WriteError},
    volume::event::Event,
    volume::health::{AzHealth, Health, Holder, RepairHealth, SlotHealth},
    volume::history::{Backtrack, HistoryHealth, PastCheckpoint, Point},
    volume::mtr::Mtr,
    volume::options::Options,
    volume::page::Page,
    volume::reader::Reader,
    volume::reclaim::Space,
    volume::rewind::Snapshot,
    volume::view::View,
};
