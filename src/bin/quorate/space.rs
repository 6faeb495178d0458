//! How a volume has grown, as a small bar chart: a bar for each protection group, as full as its files are.

use crate::common::{Fail, Io, human};
use crate::compact;
use quorate::Health;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

/// Characters of a bar.
const WIDTH: usize = 32;
/// Groups that have a bar of their own; older ones share one.
const BARS: usize = 8;

/// A protection group, and what a slot's file of it takes; the slot's that takes most.
type Group = (u64, u64);

fn groups(health: &Health) -> Vec<Group> {
    let mut all: BTreeMap<u64, u64> = BTreeMap::new();
    for slot in &health.slots {
        let files = std::fs::read_dir(&slot.path).into_iter().flatten().flatten();
        for file in files {
            let name = file.file_name();
            let number = name.to_str().and_then(|name| u64::from_str_radix(name.strip_prefix("seg-")?, 16).ok());
            if let (Some(number), Ok(meta)) = (number, file.metadata()) {
                let bytes = all.entry(number).or_default();
                *bytes = (*bytes).max(meta.blocks() * 512);
            }
        }
    }
    all.into_iter().collect()
}

/// As much of a bar as `part` is of `whole`; something, where it is not nothing.
fn bar(part: u64, whole: u64) -> String {
    let share = u128::from(part) * WIDTH as u128 / u128::from(whole.max(1));
    let full = (share as usize).clamp(usize::from(part > 0), WIDTH);
    format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full))
}

/// A bar of several parts: `#` the first, `+` the second, `.` the rest.
fn mix(parts: &[u64; 2], whole: u64) -> String {
    let first = bar(parts[0], whole).matches('#').count();
    let second = bar(parts[1], whole).matches('#').count().min(WIDTH - first);
    format!("{}{}{}", "#".repeat(first), "+".repeat(second), ".".repeat(WIDTH - first - second))
}

/// A line a bar.
fn bars(groups: &[Group], pg_size: u64) -> Vec<(String, String)> {
    let (old, new) = groups.split_at(groups.len().saturating_sub(BARS));
    let line = |name: String, bytes: u64, whole: u64| {
        (name, format!("{}  {} of {}", bar(bytes, whole), human(bytes), human(whole)))
    };
    let mut lines = Vec::new();
    if let (Some(first), Some(last)) = (old.first(), old.last()) {
        let (bytes, whole) = (old.iter().map(|g| g.1).sum(), old.len() as u64 * pg_size);
        lines.push(line(format!("PG {} to {}", first.0, last.0), bytes, whole));
    }
    lines.extend(new.iter().map(|(pg, bytes)| line(format!("PG {pg}"), *bytes, pg_size)));
    lines
}

/// How far it has grown, in one line.
fn told(health: &Health) -> String {
    format!("{} of log, in extents of 64 MiB; at most {}", human(health.log_bytes), human(health.log_bytes_max))
}

/// The chart.
pub fn chart(io: &Io, health: &Health) -> Result<(), Fail> {
    let line = |name: &str, text: &str| io.say(Value::Null, format_args!("{name:<14}{text}"));
    line("space", &told(health))?;
    let s = &health.space;
    let (all, pinned) = (s.allocated, human(s.pinned));
    let parts = format!("live {}, dead {}, pinned {pinned}", human(s.live), human(s.dead));
    line("of one copy", &format!("{}  {parts}", mix(&[s.live, s.pinned], all)))?;
    bars(&groups(health), health.pg_size).iter().try_for_each(|(name, text)| line(name, text))
}

/// The same as facts.
pub fn facts(health: &Health) -> Value {
    let pgs: Vec<Value> = groups(health).iter().map(|(pg, bytes)| json!({ "pg": pg, "bytes": bytes })).collect();
    json!({ "log_bytes": health.log_bytes, "log_bytes_max": health.log_bytes_max, "pgs": pgs,
        "device_bytes": health.device_bytes, "copy": compact::facts(&health.space) })
}

/// How many groups it has.
pub fn count(health: &Health) -> usize {
    groups(health).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_full_as_groups() {
        let full = |part, whole| bar(part, whole).matches('#').count();
        assert_eq!(
            [full(0, 64), full(1, 64), full(32, 64), full(63, 64), full(64, 64), full(99, 64)],
            [0, 1, 16, 31, 32, 32]
        );
        assert_eq!((full(u64::MAX, u64::MAX), full(1, 0), bar(9, 7).len()), (WIDTH, WIDTH, WIDTH));
        assert_eq!(mix(&[32, 16], 64), format!("{}{}{}", "#".repeat(16), "+".repeat(8), ".".repeat(8)));
        assert_eq!((mix(&[64, 64], 64), mix(&[0, 0], 0)), ("#".repeat(WIDTH), ".".repeat(WIDTH)));
        let few = bars(&[(0, 64 << 20), (1, 32 << 20)], 64 << 20);
        assert_eq!((few[0].0.as_str(), few[1].0.as_str(), few.len()), ("PG 0", "PG 1", 2));
        assert!(few[1].1.ends_with("  32.0 MiB of 64.0 MiB") && few[1].1.starts_with(&"#".repeat(16)), "{few:?}");
        let many: Vec<Group> = (3..30).map(|pg| (pg, 64 << 20)).collect();
        let lines = bars(&many, 64 << 20);
        assert_eq!((lines.len(), lines[0].0.as_str(), lines[8].0.as_str()), (9, "PG 3 to 21", "PG 29"));
    }
}
