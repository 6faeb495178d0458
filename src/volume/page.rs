//! A page version as it is handed out.

use crate::lsn::{Lsn, PageId};
use bytes::Bytes;
use std::ops::Deref;

/// One version of a page. Cloning it copies nothing; it stays as it is whatever is written later.
#[derive(Clone, PartialEq, Eq)]
pub struct Page {
    id: PageId,
    lsn: Lsn,
    bytes: Bytes,
}

impl Page {
    pub(crate) fn new(id: PageId, lsn: Lsn, bytes: Bytes) -> Page {
        Page { id, lsn, bytes }
    }

    /// Which page.
    pub fn id(&self) -> PageId {
        self.id
    }

    /// The record that made this version; 0 for one that an MTR sees of its own changes.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The contents, shared.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl Deref for Page {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page")
            .field("id", &self.id.0)
            .field("lsn", &self.lsn.0)
            .field("len", &self.bytes.len())
            .finish()
    }
}
