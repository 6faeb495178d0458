//! `quorate bench churn` in small: what it tells adds up, and its plots can be read.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use serde_json::Value;
use std::process::{Command, Stdio};

#[test]
fn what_it_tells_adds_up() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (at, svg) = (dir.path().join("at"), dir.path().join("churn.svg"));
    std::fs::create_dir(&at).unwrap();
    let (at_text, svg_text) = (at.to_str().unwrap(), svg.to_str().unwrap());
    let args =
        ["bench", "churn", at_text, "--live-mib", "8", "--minutes", "0.1", "--times", "1000", "--every-mib", "1"];
    let out = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(args)
        .args(["--json", "--svg", svg_text])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = String::from_utf8(out.stderr).unwrap();
    let result = lines.pop().unwrap();
    // Whether it is flat after so few seconds is the machine's; that it is an error if not is the command's.
    let flat = result["flat"].as_bool().unwrap();
    assert_eq!((out.status.code(), said.contains("does not stay flat")), (Some(i32::from(!flat)), !flat), "{said}");
    // A sample each 150 ms for six seconds; a machine that is busy takes fewer.
    assert!((8..=40).contains(&lines.len()), "{}", lines.len());
    let of = |line: &Value, key: &str| line[key].as_f64().unwrap_or(f64::NAN);
    let mut before = 0.0;
    for line in &lines {
        assert!(of(line, "seconds") > before && of(line, "allocated") > 0.0, "{line}");
        assert!(of(line, "device") > 6.0 * of(line, "live"), "six copies: {line}");
        let bound = 1.35 * of(line, "live") + of(line, "pinned") + of(line, "reserve");
        assert!((of(line, "bound") - bound).abs() < 2.0 && of(line, "live") == f64::from(8 << 20), "{line}");
        assert!(of(line, "read_p50_us") <= of(line, "read_p99_us"), "{line}");
        before = of(line, "seconds");
    }
    // Log over user bytes, from the first sample to the last, and what each line says of its own time.
    let (first, last) = (&lines[0], lines.last().unwrap());
    let since = |key: &str| of(last, key) - of(first, key);
    assert!(since("user") > 0.0 && since("tail") >= since("user"), "headers at least come with it: {first} {last}");
    assert!(of(last, "user") <= of(&result, "user") + 1.0);
    let (mut log, mut user) = (0.0, of(first, "user"));
    for line in &lines[1..] {
        log += (of(line, "user") - user) * of(line, "log_per_user");
        user = of(line, "user");
    }
    assert!((log / since("tail") - 1.0).abs() < 0.01, "{log} {}", since("tail"));
    let half = &lines[lines.len() / 2..];
    let worst = half.iter().map(|l| of(l, "allocated") / of(l, "bound")).fold(0.0, f64::max);
    assert!((worst - of(&result, "allocated_by_bound")).abs() < 1e-3, "{worst} {result}");

    let svg = std::fs::read_to_string(&svg).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    // Each line has as many points as there are samples, all within the picture; two of each are the legend's.
    let points: Vec<Vec<(f64, f64)>> = svg
        .split("points=\"")
        .skip(1)
        .map(|rest| {
            let list = rest.split('"').next().unwrap();
            let point = |p: &str| p.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap();
            list.split_whitespace().map(point).collect()
        })
        .collect();
    assert_eq!(points.len(), 2 * 9);
    assert!(points.iter().step_by(2).all(|line| line.len() == lines.len()), "{svg}");
    assert!(points.iter().flatten().all(|(x, y)| (0.0..=900.0).contains(x) && (0.0..=810.0).contains(y)), "{svg}");
    assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0, "it leaves nothing");
}
