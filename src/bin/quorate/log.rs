//! `quorate log`: the records of a volume, a line each.

use crate::common::{At, Fail, Io};
use quorate::{LogRecord, Lsn};
use serde_json::{Value, json};
use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::ops::ControlFlow;

/// Prints records from `from` on.
pub fn run(io: &Io, at: &At, from: u64) -> Result<(), Fail> {
    let reader = io.read(at)?;
    let mut out = BufWriter::new(stdout().lock());
    let mut holes = 0u64;
    let mut failed = None;
    reader.log(Lsn(from), |record| {
        let line = match &record {
            Ok(r) if io.json => facts(r).to_string(),
            Ok(r) => text(r),
            Err(e) => {
                holes += 1;
                if io.json { json!({ "error": e.to_string() }).to_string() } else { format!("unreadable: {e}") }
            }
        };
        match writeln!(out, "{line}") {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
        }
    });
    match failed.or_else(|| out.flush().err()) {
        // Whoever reads has seen enough.
        Some(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
        Some(e) => return Err(Fail::new(format!("stdout: {e}"))),
        None => (),
    }
    if holes > 0 {
        return Err(Fail::new(format!("{holes} places have no good copy in reach; bring back a disk that is away")));
    }
    Ok(())
}

fn facts(r: &LogRecord) -> Value {
    json!({
        "lsn": r.lsn.0, "len": r.len, "epoch": r.epoch, "kind": r.kind.to_string(), "page": r.page.map(|p| p.0),
        "offset": r.offset, "payload": r.payload, "prev": r.prev.0, "base": r.base.0, "depth": r.depth,
        "cpl": r.cpl.map(|(us, vdl)| json!({ "wall_us": us, "vdl": vdl.0 })),
    })
}

fn text(r: &LogRecord) -> String {
    let mut line = format!("{:>14} len {:<6} epoch {} {:<8}", r.lsn.0, r.len, r.epoch, r.kind.to_string());
    if let Some(page) = r.page {
        line += &format!(" page {page} prev {} base {} depth {}", r.prev, r.base, r.depth);
        if r.payload > 0 {
            line += &format!(" bytes {}..{}", r.offset, r.offset as usize + r.payload);
        }
    }
    if let Some((us, vdl)) = r.cpl {
        line += &format!(" cpl {} vdl {vdl}", moment(us));
    }
    line
}

/// Microseconds since 1970 as a moment of UTC. Days to a civil date as in Hinnant's `civil_from_days`.
fn moment(us: u64) -> String {
    let (days, second) = ((us / 86_400_000_000) as i64, us / 1_000_000 % 86_400);
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let (d, m) = (day - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let y = year + era * 400 + i64::from(m <= 2);
    let (hour, minute, second, us) = (second / 3600, second / 60 % 60, second % 60, us % 1_000_000);
    format!("{y:04}-{m:02}-{d:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn moments_are_civil() {
        assert_eq!(moment(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(moment(951_782_400_000_001), "2000-02-29T00:00:00.000001Z");
        assert_eq!(moment(1_795_564_799_999_999), "2026-11-24T23:59:59.999999Z");
    }
}
