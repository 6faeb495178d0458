//! Directories that an engine has for itself, and what lies in them.

use anyhow::{Context, Result};
use rustix::fs::Advice;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One in each of the given directories. They are removed when this is dropped.
pub struct Place {
    pub dirs: Vec<PathBuf>,
}

impl Place {
    /// Makes them, empty.
    pub fn make(under: &[PathBuf], name: &str) -> Result<Place> {
        let place = Place { dirs: under.iter().map(|d| d.join(format!("peers-{name}"))).collect() };
        place.empty()?;
        Ok(place)
    }

    /// Begins anew.
    pub fn empty(&self) -> Result<()> {
        for dir in &self.dirs {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir(dir).with_context(|| dir.display().to_string())?;
        }
        Ok(())
    }

    /// Bytes that the files take of the disk.
    pub fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        self.each(&mut |path| {
            bytes += fs::symlink_metadata(path)?.blocks() * 512;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Takes the files out of the kernel's page cache: these alone, as others work on this machine.
    pub fn forget(&self) -> Result<()> {
        self.each(&mut |path| {
            let file = fs::File::open(path)?;
            file.sync_all()?;
            Ok(rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?)
        })
    }

    fn each(&self, f: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        self.dirs.iter().try_for_each(|dir| walk(dir, f))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn walk(dir: &Path, f: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => walk(&entry.path(), f)?,
            kind if kind.is_file() => f(&entry.path())?,
            _ => (),
        }
    }
    Ok(())
}
