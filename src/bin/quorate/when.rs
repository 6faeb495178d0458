//! A point of the past as a user writes it: an LSN, a moment, or a snapshot's name.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ZonedDateTime};
use quorate::{Lsn, Point};
use std::time::{Duration, SystemTime};

/// What is taken.
const ACCEPTED: &str = "write an LSN, a snapshot's name, or a moment: 2026-11-26T16:00:00Z, `2026-11-26 16:00`, `16:00`, `yesterday 16:00`, `2h30m ago`";

/// What a text names, and in words what it was taken for: a number is an LSN, RFC 3339 is a moment, and a snapshot's name
/// comes before any other way to write one.
pub fn point(text: &str, is_snapshot: impl Fn(&str) -> bool) -> Result<(Point, String), String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let lsn = text.parse().map_err(|_| format!("{text}: no LSN is so high; {ACCEPTED}"))?;
        return Ok((Point::Lsn(Lsn(lsn)), format!("LSN {lsn}")));
    }
    if is_snapshot(text) && text.parse::<Timestamp>().is_err() {
        return Ok((Point::from(text), format!("the snapshot {text:?}")));
    }
    let now = ZonedDateTime::now();
    let at = moment(text, &now).ok_or_else(|| format!("{text:?} is no snapshot and no moment; {ACCEPTED}"))?;
    let early = |_| format!("{text:?} lies before 1970; {ACCEPTED}");
    let micros = u64::try_from(at.timestamp().as_microsecond()).map_err(early)?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
    Ok((Point::Time(time), format!("the moment {}", at.timestamp())))
}

/// The name of a snapshot that is to be made: none that [`point`] takes for something else.
pub fn name(text: &str) -> Result<String, String> {
    let name = crate::common::name(text)?;
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is taken for an LSN wherever a point is named: choose a name that is no number"));
    }
    if name.parse::<Timestamp>().is_ok() {
        return Err(format!("{text:?} is taken for that moment wherever a point is named: choose another name"));
    }
    Ok(name)
}

/// A moment, as seen from another one.
fn moment(text: &str, now: &ZonedDateTime) -> Option<ZonedDateTime> {
    let zone = now.time_zone().clone();
    // With an offset, then by the local clock: a civil time would drop an offset.
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.to_zoned_datetime(zone));
    }
    if let Some(ago) = text.strip_suffix("ago").map(str::trim) {
        let span: Span = ago.parse().ok().filter(|_| ago.starts_with(|c: char| c.is_ascii_digit()))?;
        return now.checked_sub(span).ok();
    }
    let (day, time) = text.split_once(' ').unwrap_or(("today", text));
    let date: Option<Date> = match day {
        "today" => Some(now.date()),
        "yesterday" => now.yesterday().ok().map(|d| d.date()),
        _ => None,
    };
    if let (Some(date), Some(time)) = (date, clock(time)) {
        return local(date.to_datetime(time), zone);
    }
    // A zone that is named would be dropped.
    let is_date = text.contains('-') && !text.ends_with('Z') && !text.contains('[');
    local(text.parse::<DateTime>().ok().filter(|_| is_date)?, zone)
}

fn local(at: DateTime, zone: TimeZone) -> Option<ZonedDateTime> {
    at.to_zoned_datetime(zone).ok()
}

/// `16:00`, or with seconds.
fn clock(text: &str) -> Option<Time> {
    // What else would be taken, and a date dropped.
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
    text.parse().ok().filter(|_| text.contains(':') && plain)
}

/// A time as RFC 3339.
pub fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "unknown".into(), |at| at.to_string())
}

/// A duration, `2h30m` or `7d`; `off` is none.
pub fn window(text: &str) -> Result<Duration, String> {
    if text == "off" {
        return Ok(Duration::ZERO);
    }
    let refuse = || format!("{text}: write a time such as 90s, 2h30m or 7d, or `off`");
    let span: Span = text.parse().map_err(|_| refuse())?;
    // A day is 24 hours here.
    let far = Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
    let seconds = far.checked_add(span).map_err(|_| refuse())?.timestamp().as_duration();
    Duration::try_from(seconds).ok().filter(|d| !d.is_zero()).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> ZonedDateTime {
        let at: Timestamp = "2026-11-26T21:30:00Z".parse().expect("a moment");
        at.to_zoned_datetime(TimeZone::fixed(jiff::tz::offset(1)))
    }

    #[test]
    fn a_snapshot_has_no_name_that_is_taken_for_something_else() {
        for good in ["one", "2026", "12a", "16:00", "v1.2"] {
            let made = name(good);
            assert_eq!(made.is_ok(), good != "2026", "{good}");
            if made.is_ok() {
                assert!(
                    matches!(point(good, |n| n == good), Ok((Point::Snapshot(named), _)) if named == good),
                    "{good}"
                );
            }
        }
        assert!(name("2026-11-26T16:00:00Z").is_err() && name("").is_err());
    }

    #[test]
    fn moments_are_read() {
        for (text, want) in [
            ("2026-11-26T16:00:00Z", "2026-11-26T16:00:00Z"),
            ("2026-11-26T16:00:00+01:00", "2026-11-26T15:00:00Z"),
            ("2026-11-26T16:00:00", "2026-11-26T15:00:00Z"),
            ("2026-11-20T16:00:00", "2026-11-20T15:00:00Z"),
            ("2026-11-20 16:00", "2026-11-20T15:00:00Z"),
            ("2026-11-20", "2026-11-19T23:00:00Z"),
            ("2h30m ago", "2026-11-26T19:00:00Z"),
            ("90 s ago", "2026-11-26T21:28:30Z"),
            ("1d ago", "2026-11-25T21:30:00Z"),
            ("yesterday 16:00", "2026-11-25T15:00:00Z"),
            ("today 16:00:30", "2026-11-26T15:00:30Z"),
            ("16:00", "2026-11-26T15:00:00Z"),
        ] {
            assert_eq!(moment(text, &now()).map(|at| at.timestamp().to_string()).as_deref(), Some(want), "{text}");
        }
        for text in [
            "",
            "a",
            "12",
            "ago",
            "-2h ago",
            "yesterday",
            "tomorrow 16:00",
            "25:00",
            "2026-13-01T00:00:00Z",
            "2026-11-26T16:00:00[America/New_York]",
            "x ago",
        ] {
            assert!(moment(text, &now()).is_none(), "{text}");
        }
    }

    #[test]
    fn numbers_and_strict_times_come_before_names() {
        let names = ["16:00", "7", "2026-11-26T16:00:00Z"];
        let taken = |text: &str| point(text, |name| names.contains(&name)).map(|p| p.1);
        assert_eq!(taken("16:00"), Ok("the snapshot \"16:00\"".into()));
        assert_eq!(taken("7"), Ok("LSN 7".into()));
        assert_eq!(taken("2026-11-26T16:00:00Z"), Ok("the moment 2026-11-26T16:00:00Z".into()));
        assert!(taken("1969-01-01T00:00:00Z").is_err_and(|e| e.contains("before 1970")));
        assert_eq!(taken("4096"), Ok("LSN 4096".into()));
        assert!(taken("monday").is_err_and(|e| e.contains("no snapshot")));
        assert!(taken("99999999999999999999").is_err());
    }

    #[test]
    fn windows_are_read() {
        let seconds = |text| window(text).map(|d| d.as_secs());
        assert_eq!(
            [seconds("90s"), seconds("2h30m"), seconds("7d"), seconds("off")].map(Result::ok),
            [Some(90), Some(9000), Some(604_800), Some(0)]
        );
        for text in ["", "0s", "-1h", "week", "12"] {
            assert!(window(text).is_err(), "{text}");
        }
    }
}
