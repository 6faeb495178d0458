//! The log: what a record and a group look like, and how they come to be.

pub(crate) mod append;
pub(crate) mod group;
pub(crate) mod record;
pub(crate) mod ring;
