//! `quorate ls`, `export` and `rm`: what is kept, and its way out.

use crate::common::{At, Fail, Io, at, close};
use crate::past;
use crate::store::{self, Entry, Store};
use quorate::{Reader, View};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What is certain, now or at another point; with `visible` all that is there.
fn view(reader: &Reader, visible: bool, at: Option<&str>) -> Result<View, Fail> {
    if visible { Ok(reader.view_visible()) } else { past::view(reader, at) }
}

/// Name and size, a line each.
pub fn ls(io: &Io, from: &At, visible: bool, at: Option<&str>) -> Result<(), Fail> {
    let reader = io.read(from)?;
    for (name, entry) in store::list(&view(&reader, visible, at)?)? {
        io.say(json!({ "name": name, "bytes": entry.size }), format_args!("{:>15}  {name}", entry.size))?;
    }
    Ok(())
}

/// Writes a kept file out. The target appears under its name only when it is whole.
pub fn export(io: &Io, from: &At, name: &str, file: &Path, visible: bool, at: Option<&str>) -> Result<(), Fail> {
    let reader = io.read(from)?;
    let view = view(&reader, visible, at)?;
    let Some(entry) = store::find(&view, name)? else {
        let hint = if !visible && at.is_none() && store::find(&reader.view_visible(), name)?.is_some() {
            "it is there, but the next writer may still drop it; read it with --visible, or bring back a disk"
        } else {
            "`quorate ls` lists what is there"
        };
        return Err(Fail::new(format!("{name}: no such file in the volume; {hint}")));
    };
    to_file(&view, entry, file)?;
    // What it says would be part of the file.
    if is_output(file) {
        return Ok(());
    }
    let facts = json!({ "exported": name, "bytes": entry.size });
    io.say(facts, format_args!("exported {name} {}", entry.size))
}

/// Into a file beside the target, which then takes its name. What is no plain file (a pipe) is written as it is.
pub fn to_file(view: &View, entry: Entry, file: &Path) -> Result<(), Fail> {
    // Through a link, too (`/dev/stdout`): a name that is more than a file's is not taken from whatever has it.
    let plain = |meta: std::fs::Metadata| meta.is_file();
    if std::fs::symlink_metadata(file).is_ok_and(|meta| !plain(meta)) {
        if file.is_dir() {
            return Err(Fail::new(format!("{}: is a directory; name a file in it", file.display())));
        }
        return copy(view, entry, &mut File::options().write(true).truncate(true).open(file).map_err(at(file))?, file);
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let mut out = File::create(&partial).map_err(at(&partial))?;
    let done = copy(view, entry, &mut out, file)
        .and_then(|()| out.sync_all().map_err(at(file)))
        .and_then(|()| std::fs::rename(&partial, file).map_err(at(file)));
    done.inspect_err(|_| {
        let _ = std::fs::remove_file(&partial);
    })
}

/// What is said goes there, too.
fn is_output(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let output = of(Path::new("/proc/self/fd/1"));
    output.is_some() && of(file) == output
}

fn copy(view: &View, entry: Entry, out: &mut File, path: &Path) -> Result<(), Fail> {
    let mut written = 0;
    store::read(view, entry, &mut |bytes| {
        out.write_all(bytes).map_err(at(path))?;
        written += bytes.len() as u64;
        Ok(())
    })?;
    if written == entry.size {
        return Ok(());
    }
    Err(Fail::new(format!("{written} bytes were read and {} were stored; run `quorate verify`", entry.size)))
}

/// Removes a kept file.
pub fn rm(io: &Io, from: &At, name: &str) -> Result<(), Fail> {
    let volume = io.open(from)?;
    let result = Store::new(&volume).and_then(|store| {
        if !store.remove(name)? {
            return Err(Fail::new(format!("{name}: no such file in the volume; `quorate ls` lists what is there")));
        }
        io.say(json!({ "removed": name }), format_args!("removed {name}"))?;
        store.end()
    });
    close(volume);
    result
}
