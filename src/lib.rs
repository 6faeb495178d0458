//! An embedded storage volume in six verified copies.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where"))]

mod core;
mod disk;
mod log;
mod lsn;
mod page;
mod segment;
mod sync;
mod volume;

pub use crate::core::writer::{Away, Gap};
pub use lsn::{Lsn, PageId, Slot};
pub use segment::placement::Placement;
pub use segment::superblock::SuperFault;
pub use segment::verify::{Difference, DifferenceKind, LogKind, LogRecord, Verification};
pub use volume::Volume;
pub use volume::commit::Commit;
pub use volume::error::{CloseError, OpenError, ReadError, SlotFault, SlotFaults, Unknown, WriteError};
pub use volume::health::{AzHealth, Health, SlotHealth};
pub use volume::mtr::Mtr;
pub use volume::options::Options;
pub use volume::page::Page;
pub use volume::reader::Reader;
pub use volume::view::View;
