//! `quorate import`: files into a volume.

use crate::common::{At, Fail, Io, at, close, human, name as check_name};
use crate::store::Store;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate::Volume;
use serde_json::json;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Imports each file with an acknowledgement of its own.
pub fn run(io: &Io, to: &At, files: &[PathBuf], name: Option<String>) -> Result<(), Fail> {
    if name.is_some() && files.len() != 1 {
        return Err(Fail::usage("--name goes with one file: import the others without it"));
    }
    // What is wrong with a name or a file is said before the first one is stored.
    let mut inputs = Vec::new();
    for file in files {
        let name = match &name {
            Some(name) => name.clone(),
            None => name_of(file)?,
        };
        inputs.push((open(file)?, file, name));
    }
    let volume = io.open(to)?;
    let result = all(io, &volume, inputs);
    close(volume);
    result
}

fn name_of(file: &Path) -> Result<String, Fail> {
    let last = file.file_name().and_then(|n| n.to_str());
    let name = last.ok_or_else(|| Fail::usage(format!("{}: it has no name to keep: add --name", file.display())))?;
    check_name(name).map_err(|e| Fail::usage(format!("{}: {e}, with --name", file.display())))
}

fn open(file: &Path) -> Result<File, Fail> {
    let input = File::open(file).map_err(at(file))?;
    if input.metadata().map_err(at(file))?.is_dir() {
        return Err(Fail::new(format!("{}: is a directory; name the files in it", file.display())));
    }
    Ok(input)
}

fn all(io: &Io, volume: &Volume, inputs: Vec<(File, &PathBuf, String)>) -> Result<(), Fail> {
    let store = Store::new(volume)?;
    for (mut input, path, name) in inputs {
        let bar = bar(input.metadata().map_or(0, |m| m.len()), &name);
        let size = store.put(&name, |buffer| {
            loop {
                match input.read(buffer) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => (),
                    other => {
                        let n = other.map_err(at(path))?;
                        bar.inc(n as u64);
                        return Ok(n);
                    }
                }
            }
        })?;
        bar.finish_and_clear();
        io.say(json!({ "stored": name, "bytes": size }), format_args!("stored {name} {size}"))?;
        store.end()?;
    }
    Ok(())
}

/// On stderr, and only if that is a terminal.
fn bar(len: u64, name: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(format!("{name} ({})", human(len)));
    bar
}
