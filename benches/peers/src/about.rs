//! On what it was measured: hardware, kernel, file systems, versions.

use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The facts of this run.
pub fn about(dirs: &[PathBuf], names: &[&str]) -> Value {
    json!({
        "date": command("date", &["-u", "+%FT%TZ"]),
        "cpu": cpu(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "memory": read("/proc/meminfo").lines().next().unwrap_or_default().replace("MemTotal:", "").trim(),
        "load_average_at_start": load(),
        "directories": dirs.iter().map(|d| json!({ "path": d, "on": file_system(d) })).collect::<Vec<_>>(),
        "commit": command("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
        "versions": versions(names),
    })
}

/// Of the last minute: others may be at work.
pub fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_string()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|s| s.trim().to_string()).unwrap_or_default()
}

fn command(name: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(name).args(args).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default()
}

fn cpu() -> String {
    let text = read("/proc/cpuinfo");
    let line = text.lines().find(|l| l.starts_with("model name"));
    line.and_then(|l| l.split_once(": ")).map(|(_, m)| m.to_string()).unwrap_or_default()
}

/// Device, type and options of the mount that a directory is in.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let mounts = read("/proc/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?, words.next()?, words.next()?))
    });
    let within = mounts.filter(|(_, at, _, _)| dir.starts_with(at));
    let best = within.max_by_key(|(_, at, _, _)| at.len());
    best.map(|(device, _, kind, options)| format!("{device} {kind} {options}")).unwrap_or_default()
}

/// As they are locked.
fn versions(names: &[&str]) -> Value {
    let crates = [("lmdb", "heed"), ("sqlite", "rusqlite")];
    let lock = include_str!("../Cargo.lock");
    let version = |name: &str| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        rest.split('"').next()
    };
    let mut all = Map::new();
    for name in names.iter().filter(|n| **n != "floor") {
        let of = crates.iter().find(|(peer, _)| peer == name).map_or(*name, |(_, of)| of);
        all.insert((*name).to_string(), json!(format!("{of} {}", version(of).unwrap_or("?"))));
    }
    Value::Object(all)
}
