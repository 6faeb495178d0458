//! `quorate info`: the state of a volume, as far as it can be told.

use crate::common::{Fail, Io};
use std::path::PathBuf;

/// Shows it.
pub fn run(_io: &Io, _directory: Option<PathBuf>, _file: Option<PathBuf>) -> Result<(), Fail> {
    Ok(())
}
