//! A clone: a new volume that begins with the pages of a state. Here it is copied; see [`share`](crate::volume::share) for one
//! that shares blocks.

use crate::history::error::HistoryError;
use crate::lsn::PageId;
use crate::segment::placement::Placement;
use crate::volume::Volume;
use crate::volume::mtr::{Change, Content, What};
use crate::volume::options::Options;
use crate::volume::view::View;

/// Content of one MTR.
const BATCH_BYTES: usize = 1 << 20;

impl View {
    /// Makes a new volume in empty directories with the pages that this view shows, under the same ids, and opens it. Whatever
    /// happens to one of the two never touches the other; snapshots, and what came before, stay behind.
    ///
    /// Where both lie on file systems that share blocks between files (`FICLONE`: xfs, btrfs), AZ by AZ, that takes moments and
    /// no space, whatever the size: the clone begins with the origin's segments. Else, or while fewer than four slots have all of
    /// the log, and from a [`Reader`](crate::Reader)'s view, it takes as long as reading all pages and writing them six times.
    ///
    /// What the options say of the page's size does not matter: it is the view's. One that shares also keeps the origin's size of
    /// a protection group.
    ///
    /// ```
    /// # use quorate::{Options, PageId, Volume};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let (at, other) = (dir.path().join("a"), dir.path().join("b"));
    /// # std::fs::create_dir(&at)?;
    /// # std::fs::create_dir(&other)?;
    /// let volume = Volume::create(&at, &Options::default())?;
    /// let mut mtr = volume.begin();
    /// mtr.patch(PageId::ROOT, 0, b"both");
    /// mtr.commit()?.wait()?;
    /// let clone = volume.view().clone_to(&other, &Options::default())?;
    /// let mut mtr = volume.begin();
    /// mtr.patch(PageId::ROOT, 0, b"mine");
    /// mtr.commit()?.wait()?;
    /// assert_eq!(&clone.read(PageId::ROOT)?[..4], b"both");
    /// # clone.close()?;
    /// # volume.close()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Volume::create`], [`View::read`] and [`Mtr::commit`](crate::Mtr::commit). What was made by then stays, and is a
    /// volume with some of the pages, or with another state: remove it.
    pub fn clone_to(&self, to: impl Into<Placement>, options: &Options) -> Result<Volume, HistoryError> {
        let options = Options { page_size: self.page_size(), ..options.clone() };
        let to = to.into();
        if let Some(origin) = self.writer()
            && let Some(clone) = origin.share(self, &to, &options)?
        {
            return Ok(clone);
        }
        self.copy_to(&to, &options)
    }

    fn copy_to(&self, to: &Placement, options: &Options) -> Result<Volume, HistoryError> {
        let clone = Volume::create(to.clone(), options)?;
        let shared = clone.handle.shared.clone();
        let mut batch = Batch::default();
        let mut failed = None;
        let each = self.each_page(|page| {
            if failed.is_none() {
                let bytes = self.read(page)?;
                if let Some(full) = batch.add(page, &bytes) {
                    failed = shared.append(&full).err();
                }
                shared.alloc.lock().is_used(page);
            }
            Ok(())
        });
        each?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if !batch.content.changes.is_empty() {
            shared.append(&batch.content)?;
        }
        clone.sync().wait()?;
        Ok(clone)
    }
}

#[derive(Default)]
struct Batch {
    content: Content,
    bytes: usize,
}

impl Batch {
    /// Takes a page in; hands out what is full.
    fn add(&mut self, page: PageId, bytes: &[u8]) -> Option<Content> {
        let zero = bytes.iter().all(|b| *b == 0);
        // The root is there already.
        let what = match zero {
            true => What::Zero,
            false => What::Put(bytes.to_vec().into()),
        };
        self.bytes += if zero { 64 } else { bytes.len() };
        self.content.changes.push(Change { page, what, fresh: page != PageId::ROOT });
        (self.bytes >= BATCH_BYTES).then(|| {
            self.bytes = 0;
            std::mem::take(&mut self.content)
        })
    }
}
