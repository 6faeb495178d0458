//! `quorate info`: the state of a volume, as far as it can be told.

use crate::common::{At, Fail, Io};

/// Tells it.
pub fn run(_io: &Io, _at: &At) -> Result<(), Fail> {
    Ok(())
}
