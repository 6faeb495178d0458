//! What the verbs share: where a volume lies, sizes as text, errors and facts on their way out.

use quorate::{CloseError, OpenError, Options, Placement, ReadError, Reader, Volume, WriteError};
use serde_json::Value;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Writes a line, where verbs print many. Who reads them may have had enough: then it ends as SIGPIPE would end it.
#[cfg(feature = "sim")]
pub fn line(text: std::fmt::Arguments<'_>) {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => (),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(141),
        Err(e) => {
            eprintln!("stdout: {e}");
            std::process::exit(1);
        }
    }
}

/// `println!` for what may be piped into `head`.
#[cfg(feature = "sim")]
macro_rules! out {
    ($($text:tt)*) => {
        crate::common::line(format_args!($($text)*))
    };
}
#[cfg(feature = "sim")]
pub(crate) use out;

/// Why a verb ended without success, in one line.
#[derive(Debug)]
pub struct Fail {
    /// The exit status.
    pub status: u8,
    /// The line; empty where the facts have said it.
    pub text: String,
}

impl Fail {
    /// Bad usage.
    pub fn usage(text: impl Display) -> Fail {
        Fail { status: 2, text: text.to_string() }
    }

    /// Anything else.
    pub fn new(text: impl Display) -> Fail {
        Fail { status: 1, text: text.to_string() }
    }
}

impl From<OpenError> for Fail {
    fn from(e: OpenError) -> Fail {
        Fail::new(e)
    }
}

impl From<ReadError> for Fail {
    fn from(e: ReadError) -> Fail {
        Fail::new(e)
    }
}

impl From<WriteError> for Fail {
    fn from(e: WriteError) -> Fail {
        Fail::new(e)
    }
}

/// An error of the operating system at a path.
pub fn at(path: &Path) -> impl Fn(io::Error) -> Fail + '_ {
    move |e| {
        let hint = match e.kind() {
            io::ErrorKind::NotFound => "; check the path",
            io::ErrorKind::StorageFull => "; free some space",
            io::ErrorKind::PermissionDenied => "; check its permissions",
            _ => "",
        };
        Fail::new(format!("{}: {e}{hint}", path.display()))
    }
}

/// A word in colour where stderr is a terminal, and one line.
pub fn complain(word: &str, color: anstyle::AnsiColor, text: &str) {
    let style = anstyle::Style::new().fg_color(Some(color.into())).bold();
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(anstream::stderr(), "{style}{word}{style:#}: {line}");
}

/// A warning on stderr.
pub fn warn(text: impl Display) {
    complain("warning", anstyle::AnsiColor::Yellow, &text.to_string());
}

/// A volume's directories as they were named.
#[derive(Clone, Debug)]
pub struct At(pub Placement);

impl FromStr for At {
    type Err = String;
    fn from_str(text: &str) -> Result<At, String> {
        let paths: Vec<&str> = text.split(',').collect();
        if paths.iter().any(|p| p.is_empty()) || !matches!(paths.len(), 1 | 3) {
            let n = paths.len();
            return Err(format!("{n} directories: name one, or three with commas between, best one a disk"));
        }
        Ok(At(Placement::new(paths)))
    }
}

impl At {
    /// The directories of the six slots.
    pub fn slots(&self) -> [PathBuf; 6] {
        let paths = self.0.paths();
        std::array::from_fn(|slot| {
            let az = match paths {
                [one] => one.join(format!("az-{}", slot / 2)),
                more => more.get(slot / 2).cloned().unwrap_or_default(),
            };
            az.join(format!("slot-{slot}"))
        })
    }
}

/// How the verbs open volumes and print.
pub struct Io {
    /// Facts go out as JSON.
    pub json: bool,
    /// Directories that do not survive a restart are allowed.
    pub volatile: bool,
    /// How volumes are opened.
    pub options: Options,
}

impl Io {
    /// By the global options.
    pub fn new(json: bool, threads: bool, volatile: bool) -> Io {
        Io { json, volatile, options: Options::default().io_uring(!threads).allow_volatile(volatile) }
    }

    /// One line on stdout, out at once: the JSON or the text.
    pub fn say(&self, json: Value, text: impl Display) -> Result<(), Fail> {
        let mut out = io::stdout().lock();
        let written = if self.json { writeln!(out, "{json}") } else { writeln!(out, "{text}") };
        written.and_then(|()| out.flush()).map_err(|e| Fail::new(format!("stdout: {e}; what was done is done")))
    }

    /// Opens for writing.
    pub fn open(&self, at: &At) -> Result<Volume, Fail> {
        Ok(Volume::open(at.0.clone(), &self.options)?)
    }

    /// Opens for reading alone.
    pub fn read(&self, at: &At) -> Result<Reader, Fail> {
        Ok(Volume::open_read_only(at.0.clone(), &self.options)?)
    }
}

/// What was acknowledged is safe whatever a close says: it is a warning.
pub fn close(volume: Volume) {
    match volume.close() {
        Ok(()) | Err(CloseError::Closed) => (),
        Err(e) => warn(e),
    }
}

/// A number of bytes with a binary unit. `16K` means 16,000 to some and 16,384 to others: it is refused.
pub fn size(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text}: write a whole number and one of B, KiB, MiB, GiB, such as 16KiB");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(unit, "B" | "KiB" | "MiB" | "GiB")
    {
        return Err(refuse());
    }
    bytesize::ByteSize::from_str(text).map(|b| b.as_u64()).map_err(|_| refuse())
}

/// A page size.
pub fn page_size(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    if !bytes.is_power_of_two() || !(4 << 10..=64 << 10).contains(&bytes) {
        return Err(format!("{text}: a page is a power of two from 4KiB to 64KiB"));
    }
    Ok(bytes as u32)
}

/// A protection group's size.
pub fn pg_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if !bytes.is_multiple_of(64 << 20) || !(64 << 20..=1 << 40).contains(&bytes) {
        return Err(format!("{text}: a protection group is a multiple of 64MiB, from 64MiB to 1024GiB"));
    }
    Ok(bytes)
}

/// The longest name of a file, in bytes: one directory page of the smallest size holds several.
const NAME_MAX: usize = 255;

/// A name that a file can be kept under.
pub fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_MAX {
        return Err(format!("a name has 1 to {NAME_MAX} bytes, and this one has {}: choose another", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?}: a name has no control characters: choose another"));
    }
    Ok(text.to_string())
}

/// Bytes for people.
pub fn human(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_strictly() {
        assert_eq!((size("16KiB"), size("4096B"), size("2GiB")), (Ok(16 << 10), Ok(4096), Ok(2 << 30)));
        for bad in ["16K", "16k", "16KB", "16", "KiB", "1.5KiB", "-1KiB", "16 KiB", "16kib", "99999999999GiBs", ""] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(page_size("12KiB").is_err() && page_size("128KiB").is_err() && page_size("64KiB").is_ok());
        assert!(pg_size("65MiB").is_err() && pg_size("0MiB").is_err() && pg_size("1088GiB").is_err());
        assert_eq!([pg_size("64MiB"), pg_size("192MiB"), pg_size("1024GiB")], [64 << 20, 192 << 20, 1 << 40].map(Ok));
    }

    #[test]
    fn names_are_checked() {
        assert!(name("grüße.txt").is_ok() && name("a b").is_ok());
        assert!(name("").is_err() && name("a\nb").is_err() && name("a\0").is_err() && name(&"x".repeat(256)).is_err());
    }
}
