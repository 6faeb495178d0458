//! `quorate explore`: every interleaving within bounds, through the real decision code.

use crate::common::{Fail, Io, out};
use quorate::explore::{self, Bounds, Report};
use std::time::Duration;

/// What is searched.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Size {
    /// Less than a minute: what every change runs
    Small,
    /// As far as memory and time allow
    Full,
}

pub fn run(io: &Io, size: Size, only: Option<&str>, most: Option<Duration>) -> Result<(), Fail> {
    let bounds = match size {
        Size::Small => Bounds::Small,
        Size::Full => Bounds::Full,
    };
    let mut broken = Vec::new();
    let (mut states, mut scenarios) = (0, 0);
    explore::explore(bounds, only, most, |report| {
        tell(io, report);
        states += report.states;
        scenarios += 1;
        broken.extend(report.broken.as_ref().map(|(_, what)| format!("{}: {what}", report.scenario)));
    });
    match broken.first() {
        Some(first) => Err(Fail::new(format!("{first} ({} scenarios broke); the way to it is above", broken.len()))),
        None if scenarios == 0 => {
            Err(Fail::new("no scenario has such a name; `quorate explore` tells them all".to_string()))
        }
        None => {
            if !io.json {
                out!("{scenarios} scenarios, {states} states: nothing broke");
            }
            Ok(())
        }
    }
}

fn tell(io: &Io, r: &Report) {
    let way = r.broken.as_ref().map(|(way, _)| way.as_slice()).unwrap_or_default();
    if io.json {
        let facts = serde_json::json!({
            "scenario": r.scenario, "bounds": r.bounds, "states": r.states, "moves": r.moves, "depth": r.depth, "whole": r.whole,
            "exhausted": r.exhausted, "end": r.end, "seconds": r.took.as_secs_f64(),
            "broken": r.broken.as_ref().map(|(_, what)| what), "way": way,
        });
        out!("{facts}");
        return;
    }
    let (states, depth, whole, seconds) = (r.states, r.depth, r.whole, r.took.as_secs_f64());
    out!("{:<24} {states:>9} states, depth {depth:>2} ({whole:>2} whole), {seconds:>6.1} s, {}", r.scenario, r.end);
    if let Some((way, what)) = &r.broken {
        way.iter().enumerate().for_each(|(n, line)| out!("  {:>3}  {line}", n + 1));
        out!("  => {what}");
    }
}
