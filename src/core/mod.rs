//! The pure core: one owner, no clock, thread, randomness or file. Events in, decisions out.

pub(crate) mod gaps;
pub(crate) mod history;
pub(crate) mod recovery;
pub(crate) mod vote;
pub(crate) mod writer;

/// Copies that must be durable before a commit is acknowledged.
pub(crate) const WRITE_QUORUM: usize = 4;
/// Voters that must be read: any three of six meet any four.
pub(crate) const READ_QUORUM: usize = 3;
