//! Pages: the table that finds a page's newest record, the cache, and how a version is read.

pub(crate) mod manifest;
pub(crate) mod overlay;
pub(crate) mod read;
pub(crate) mod table;
