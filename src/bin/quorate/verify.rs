//! `quorate verify`: are the six copies whole and equal, and can every page be read? It changes nothing.

use crate::common::{At, Fail, Io, human};
use serde_json::{Value, json};

/// Names each difference; success only if there is none.
pub fn run(io: &Io, at: &At) -> Result<(), Fail> {
    let found = io.read(at)?.verify();
    let paths = at.slots();
    let count = (found.differences.len() + found.unreadable.len()) as u64 + found.more;
    if io.json {
        let difference = |d: &quorate::Difference| {
            json!({ "slot": d.slot.0, "file": d.file, "lsn": d.lsn.0, "end": d.end.0, "kind": d.kind.to_string(),
                "page": d.page.map(|p| p.0), "what": d.what })
        };
        let unreadable = found.unreadable.iter().map(|(p, e)| json!({ "page": p.0, "what": e.to_string() }));
        let facts = json!({
            "clean": found.is_clean(), "settled": found.settled.0, "groups": found.groups, "records": found.records,
            "bytes": found.bytes, "pages": found.pages, "more": found.more,
            "differences": found.differences.iter().map(difference).collect::<Vec<_>>(),
            "unreadable": unreadable.collect::<Vec<_>>(),
        });
        io.say(facts, "")?;
    } else {
        for d in &found.differences {
            let slot = usize::from(d.slot.0);
            let file = paths[slot].join(&d.file);
            let place = if d.lsn.0 == 0 { String::new() } else { format!(" LSN {}..{}", d.lsn, d.end) };
            let page = d.page.map_or(String::new(), |p| format!(" page {p}"));
            let file = file.display();
            io.say(Value::Null, format_args!("slot {slot} {file}{place}{page}: {}: {}", d.kind, d.what))?;
        }
        for (page, e) in &found.unreadable {
            io.say(Value::Null, format_args!("page {page} cannot be read: {e}"))?;
        }
        let (groups, records, pages) = (found.groups, found.records, found.pages);
        let bytes = human(found.bytes);
        let text =
            format!("{records} records in {groups} groups, {pages} pages, {bytes} read, up to LSN {}", found.settled);
        io.say(Value::Null, text)?;
    }
    if found.is_clean() {
        return Ok(());
    }
    let rest = if found.more > 0 { format!(" ({} of them not listed)", found.more) } else { String::new() };
    let next = "nothing was changed: see to the disks of these slots while other copies are good";
    Err(Fail::new(format!("{count} differences{rest}; {next}")))
}
