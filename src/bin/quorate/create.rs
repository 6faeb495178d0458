//! `quorate create`: a new volume in empty directories.

use crate::common::{At, Fail, Io, close, human, warn};
use quorate::Volume;
use serde_json::json;
use std::time::Duration;

/// Makes it, and warns where an AZ is only a word.
pub fn run(io: &Io, at: &At, page_size: u32, pg_size: u64, (time, bytes): (Duration, u64)) -> Result<(), Fail> {
    let options = io.options.clone().page_size(page_size).pg_size(pg_size);
    let options = if time.is_zero() { options } else { options.window(time, bytes) };
    let volume = Volume::create(at.0.clone(), &options)?;
    let health = volume.health();
    close(volume);
    if at.0.is_single() {
        warn("one directory lies on one disk, and one disk is one failure domain: name three directories, one a disk");
    } else if let Some((a, b)) = health.shared_devices.first() {
        warn(format!("AZ {a} and AZ {b} lie on one device, which is one failure domain: put them on different disks"));
    }
    let facts = json!({ "created": health.volume.to_string(), "page_size": page_size, "pg_size": pg_size });
    io.say(facts, format_args!("created volume {} with pages of {}", health.volume, human(u64::from(page_size))))
}
