//! The past: which states can be had, how they are found, and what two of them differ in.

mod bytes;
pub(crate) mod diff;
pub(crate) mod error;
pub(crate) mod find;
pub(crate) mod past;
