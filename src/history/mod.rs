//! The past: what two states differ in.

pub(crate) mod diff;
