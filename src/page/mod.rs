//! Pages: the table that finds a page's newest record, the cache, and how a version is read.

#[cfg(all(test, not(quorate_loom)))]
mod cost;
pub(crate) mod heads;
pub(crate) mod manifest;
pub(crate) mod overlay;
pub(crate) mod pending;
pub(crate) mod read;
pub(crate) mod stale;
pub(crate) mod table;
pub(crate) mod version;
