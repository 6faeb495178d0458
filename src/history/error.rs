//! Why a state of the past was not to be had.

use crate::lsn::Lsn;
use crate::volume::error::{OpenError, ReadError, WriteError};

/// Why a state of the past could not be named, found, or taken up again. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// States there are not kept, or not any more.
    #[error(
        "{what} is not kept: states are kept from LSN {oldest} on, and those that snapshots name; set a longer window"
    )]
    NotKept {
        /// What was asked for.
        what: String,
        /// The oldest state of the window.
        oldest: Lsn,
    },
    /// Nothing is durable there yet.
    #[error("LSN {at} lies above what is durable ({durable}): wait for the commit first")]
    NotYet {
        /// What was asked for.
        at: Lsn,
        /// Everything below is durable.
        durable: Lsn,
    },
    /// No snapshot has that name.
    #[error("there is no snapshot {0:?}: list them first")]
    NoSuchSnapshot(String),
    /// A snapshot has that name.
    #[error("there is a snapshot {0:?} already: forget it first, or name another")]
    Exists(String),
    /// Names have 1 to 255 bytes, without control characters.
    #[error("{0:?} is no name for a snapshot: it must have 1 to 255 bytes and no control characters")]
    Name(String),
    /// A volume has so many snapshots at most.
    #[error("there are {0} snapshots: forget one first")]
    TooMany(usize),
    /// What only the view has kept was given back meanwhile.
    #[error("what the view at LSN {0} needs was given back: take a snapshot, or set a window, to come back to a state")]
    GivenBack(Lsn),
    /// A view of another volume.
    #[error("the view is of another volume")]
    OtherVolume,
    /// Another call is about to rewind the volume.
    #[error("the volume is being rewound by another call: wait for it")]
    Busy,
    /// It did not end in time. It may still happen: see [`Health::epoch`](crate::Health::epoch) and the history.
    #[error("it did not end in time: {0}")]
    Late(String),
    /// What is needed could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is needed could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A clone's volume could not be made.
    #[error("the clone: {0}")]
    Create(#[from] OpenError),
}
