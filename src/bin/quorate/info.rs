//! `quorate info`: the state of a volume, as far as it can be told. It opens for reading alone; where even that fails,
//! it still tells what each slot's directory shows.

use crate::common::{At, Fail, Io, human};
use crate::past;
use crate::space;
use quorate::{Health, Holder, OpenError, Reader, RepairHealth, SlotHealth, Volume};
use serde_json::{Map, Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Tells it.
pub fn run(io: &Io, at: &At) -> Result<(), Fail> {
    match Volume::open_read_only(at.0.clone(), &io.options) {
        Ok(reader) => opened(io, &reader),
        Err(e) => {
            refused(io, at, &e)?;
            Err(e.into())
        }
    }
}

fn opened(io: &Io, reader: &Reader) -> Result<(), Fail> {
    let health = reader.health();
    if io.json {
        return io.say(facts(reader, &health), "");
    }
    let line = |name: &str, text: String| io.say(Value::Null, format_args!("{name:<14}{text}"));
    line("volume", health.volume.to_string())?;
    line("epoch", health.epoch.to_string())?;
    let holder = |h: Holder| format!("process {} has it open for writing (epoch {})", h.pid, h.epoch);
    line("writer", health.holder.map_or("none".into(), holder))?;
    line("settled", format!("{} (certain)", reader.settled()))?;
    line("VDL", format!("{} (visible)", health.vdl))?;
    line("VCL", health.vcl.to_string())?;
    line("manifest", format!("{} (redo begins at {})", health.manifest, health.redo))?;
    let sizes = [u64::from(health.page_size), u64::from(health.block_size), health.pg_size].map(human);
    line("sizes", format!("page {}, block {}, protection group {}", sizes[0], sizes[1], sizes[2]))?;
    space::chart(io, &health)?;
    if let Some(told) = past::told_by_info(&health.history) {
        line("past", told)?;
    }
    for (i, az) in health.azs.iter().enumerate() {
        let state = match (az.present, az.direct_io, az.volatile) {
            (false, ..) => "is not there: is its disk mounted?".to_string(),
            (_, direct, volatile) => format!(
                "{}, {} I/O{}",
                az.file_system,
                if direct { "direct" } else { "buffered" },
                if volatile { ", does not survive a restart" } else { "" }
            ),
        };
        line(&format!("AZ {i}"), format!("{}  {state}", az.path.display()))?;
    }
    for (a, b) in &health.shared_devices {
        line("shared device", format!("AZ {a} and AZ {b}: one failure domain"))?;
    }
    line("repair", told(health.whole(), &health.repair))?;
    line("durability", format!("{}: each log write by itself", health.durability))?;
    line("io_uring", uring().unwrap_or_else(|why| format!("not available: {why}; threads are used")))?;
    for slot in &health.slots {
        let gaps: Vec<String> = slot.gaps.iter().map(|g| format!("{}..{}", g.from, g.to)).collect();
        let gaps = if gaps.is_empty() { "none".into() } else { gaps.join(" ") };
        let scl = slot.scl.map_or("-".into(), |l| l.to_string());
        let space = human(allocated(&slot.path));
        let name = format!("slot {}", slot.slot);
        let link = link(&slot.path).map_or(String::new(), |to| format!("  in {to}"));
        line(&name, format!("{}  SCL {scl}  gaps {gaps}  {space} on disk{link}", state(slot)))?;
    }
    Ok(())
}

/// How far healing is, as the superblocks tell.
fn told(whole: usize, r: &RepairHealth) -> String {
    let mut all = Vec::new();
    if r.bytes_left > 0 {
        all.push(format!("{} left to be read, and copied where it lacks", human(r.bytes_left)));
    }
    if !r.unchecked.is_empty() {
        all.push(format!("LSN {}..{} unchecked since a writer died", r.unchecked.from, r.unchecked.to));
    }
    let mut text = match (whole, &all[..]) {
        (6, []) => "whole".to_string(),
        (_, []) => format!("{whole} of 6 slots are whole"),
        _ => all.join(", "),
    };
    if r.scrub_at.0 > 0 {
        text += &format!("; a scrub has come to LSN {}", r.scrub_at);
    }
    text
}

/// A slot in a few words.
pub fn state(slot: &SlotHealth) -> String {
    match (&slot.fault, &slot.away) {
        (Some(fault), _) => fault.clone(),
        (None, Some(away)) => format!("away ({away:?})"),
        (None, None) => "ok".into(),
    }
}

fn facts(reader: &Reader, health: &Health) -> Value {
    let slots = health.slots.iter().map(|s| {
        let gaps = s.gaps.iter().map(|g| json!([g.from.0, g.to.0])).collect::<Vec<_>>();
        json!({ "slot": s.slot.0, "path": s.path.display().to_string(), "ok": s.fault.is_none() && s.away.is_none(),
            "state": state(s), "scl": s.scl.map(|l| l.0), "gaps": gaps, "bytes_allocated": allocated(&s.path), "link": link(&s.path) })
    });
    let azs = health.azs.iter().map(|az| {
        json!({ "path": az.path.display().to_string(), "present": az.present, "file_system": az.file_system,
            "direct_io": az.direct_io, "volatile": az.volatile })
    });
    json!({
        "volume": health.volume.to_string(), "epoch": health.epoch,
        "writer": health.holder.map(|h| json!({ "pid": h.pid, "epoch": h.epoch })), "settled": reader.settled().0,
        "vdl": health.vdl.0, "vcl": health.vcl.0, "manifest": health.manifest.0, "redo": health.redo.0,
        "page_size": health.page_size, "block_size": health.block_size, "pg_size": health.pg_size,
        "repair": repair_facts(health), "slots": slots.collect::<Vec<_>>(), "azs": azs.collect::<Vec<_>>(), "shared_devices": health.shared_devices,
        "space": space::facts(health), "past": past::facts(&health.history), "durability": health.durability, "io_uring": uring_facts(),
    })
}

fn repair_facts(health: &Health) -> Value {
    let r = &health.repair;
    let unchecked = (!r.unchecked.is_empty()).then_some([r.unchecked.from.0, r.unchecked.to.0]);
    let whole = health.whole() == 6 && r.bytes_left == 0 && r.unchecked.is_empty();
    json!({ "whole": whole, "slots_whole": health.whole(), "bytes_left": r.bytes_left, "unchecked": unchecked,
        "scrub_at": r.scrub_at.0 })
}

fn uring_facts() -> Value {
    match uring() {
        Ok(_) => json!({ "available": true }),
        Err(why) => json!({ "available": false, "why": why }),
    }
}

/// Whether a writer on this machine would use io_uring, or why not.
pub fn uring() -> Result<String, String> {
    #[cfg(feature = "io-uring")]
    return match io_uring::IoUring::new(4) {
        Ok(ring) if ring.params().is_feature_ext_arg() => Ok("available".into()),
        Ok(_) => Err("the kernel is too old".into()),
        Err(e) => Err(format!("the kernel says {e}")),
    };
    #[cfg(not(feature = "io-uring"))]
    return Err("this program was built without the feature io-uring".into());
}

/// Where a slot is that was replaced.
fn link(slot: &Path) -> Option<String> {
    std::fs::read_link(slot).ok().map(|to| to.display().to_string())
}

/// Bytes that a slot's files take on its disk.
fn allocated(slot: &Path) -> u64 {
    let blocks = |e: std::io::Result<std::fs::DirEntry>| Some(e.ok()?.metadata().ok()?.blocks() * 512);
    std::fs::read_dir(slot).map_or(0, |entries| entries.filter_map(blocks).sum())
}

/// The volume cannot be read: what the slots say, one by one.
fn refused(io: &Io, at: &At, e: &OpenError) -> Result<(), Fail> {
    let faults = match e {
        OpenError::Quorum { slots, .. } | OpenError::Lost { slots, .. } => &slots.0[..],
        _ => &[],
    };
    let mut all = Vec::new();
    for (i, path) in at.slots().iter().enumerate() {
        let fault = faults.iter().find(|(s, _)| usize::from(s.0) == i).map(|(_, f)| f.to_string());
        let state = match fault {
            Some(fault) => fault,
            None if path.is_dir() => "it can be read".into(),
            None => "its directory is missing".into(),
        };
        if io.json {
            let mut slot = Map::new();
            slot.insert("slot".into(), json!(i));
            slot.insert("path".into(), json!(path.display().to_string()));
            slot.insert("state".into(), json!(state));
            slot.insert("bytes_allocated".into(), json!(allocated(path)));
            all.push(Value::Object(slot));
        } else {
            io.say(
                Value::Null,
                format_args!("slot {i:<9}{state}  {} on disk  {}", human(allocated(path)), path.display()),
            )?;
        }
    }
    if io.json {
        io.say(json!({ "error": e.to_string(), "slots": all, "io_uring": uring_facts() }), "")?;
    }
    Ok(())
}
