//! Files of a slot: their names, superblocks, where an address lies.

pub(crate) mod doubt;
pub(crate) mod given_back;
pub(crate) mod lost;
pub(crate) mod name;
pub(crate) mod placement;
pub(crate) mod recover;
pub(crate) mod replace;
pub(crate) mod scan;
pub(crate) mod share;
pub(crate) mod superblock;
pub(crate) mod survey;
pub(crate) mod tail;
pub(crate) mod verify;
pub(crate) mod walk;
