//! Commit tickets: block on one, give it a time, await it on any runtime, or drop it.

use crate::lsn::Lsn;
use crate::spans;
use crate::volume::error::{Unknown, WriteError};
use crate::volume::shared::Shared;
use crate::volume::tickets::{Ended, Status, Waiter};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A ticket for an appended MTR: it is acknowledged when four of six slots have it and no other writer has taken over.
///
/// Tickets resolve in LSN order. Dropping one changes nothing about the commit.
///
/// ```
/// # use std::time::Duration;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
/// # let volume = quorate::Volume::create(dir.path(), &quorate::Options::default())?;
/// let mut mtr = volume.begin();
/// mtr.patch(quorate::PageId::ROOT, 0, b"root");
/// let commit = mtr.commit()?;
/// assert!(commit.wait_for(Duration::from_secs(30))?, "durable in time");
/// # volume.close()?;
/// # Ok(()) }
/// ```
#[must_use = "a commit is acknowledged when its ticket resolves"]
pub struct Commit {
    shared: Arc<Shared>,
    end: Lsn,
    key: Option<(Lsn, u64)>,
    marks: spans::Marks,
}

impl Shared {
    pub fn ticket(self: Arc<Self>, end: Lsn) -> Commit {
        Commit { shared: self, end, key: None, marks: spans::Marks::of_append() }
    }
}

impl Commit {
    /// Behind the MTR's last record: everything below is durable once the ticket resolves.
    pub fn lsn(&self) -> Lsn {
        self.end
    }

    /// What to ask [`Volume::outcome`](crate::Volume::outcome) with after a crash. Store it before.
    pub fn unknown(&self) -> Unknown {
        Unknown { lsn: self.end, epoch: self.shared.number }
    }

    /// Waits until it is acknowledged.
    ///
    /// # Errors
    /// [`WriteError::Unknown`] if this handle will not learn of it: fewer than four slots for the set time, another
    /// writer took over, or the volume was closed first.
    pub fn wait(&self) -> Result<(), WriteError> {
        loop {
            if self.wait_for(Duration::from_secs(3600))? {
                return Ok(());
            }
        }
    }

    /// Waits so long at most. False: not acknowledged yet.
    ///
    /// # Errors
    /// As [`Commit::wait`].
    pub fn wait_for(&self, most: Duration) -> Result<bool, WriteError> {
        self.shared.wait_decided(self.end, most);
        self.marks.returned(self.end);
        self.decided().unwrap_or(Ok(false))
    }

    /// Acknowledged, or known to end without an acknowledgement; none while it is open.
    fn decided(&self) -> Option<Result<bool, WriteError>> {
        match self.shared.tickets.status(self.end) {
            Status::Durable => Some(Ok(true)),
            Status::Waiting => None,
            Status::Ended(ended) => Some(Err(self.lost(&ended))),
        }
    }

    fn lost(&self, ended: &Ended) -> WriteError {
        WriteError::Unknown { unknown: self.unknown(), why: ended.to_string() }
    }
}

impl Future for Commit {
    type Output = Result<(), WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(key) = self.key.take() {
            self.shared.tickets.forget(key);
        }
        if self.decided().is_none() {
            self.key = self.shared.tickets.register(self.end, Waiter::Task(context.waker().clone()));
            // As a thread that waits does, now and again.
            self.shared.pump_soon();
            self.shared.background.wake();
            if self.shared.drive() && self.decided().is_none() {
                // Nobody else lets the simulated world go on.
                context.waker().wake_by_ref();
            }
        }
        match self.decided() {
            None => Poll::Pending,
            Some(result) => Poll::Ready(result.map(|_| ())),
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.shared.tickets.forget(key);
        }
    }
}

impl std::fmt::Debug for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commit").field("lsn", &self.end).field("status", &self.shared.tickets.status(self.end)).finish()
    }
}
