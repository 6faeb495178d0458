//! The checker, checked: with a rule broken it finds what the rule is for, and with none it finds nothing there.

use super::Bounds as Size;
use super::moves::Move::{self, *};
use super::rules::{Bounds, Rule, Setting};
use super::search::{End, Found, Limits, search};
use super::state::State;
use super::tell::tell;
use super::writing::Piece::Whole;
use crate::lsn::{Slot, SlotSet};

fn set(names: &str) -> SlotSet {
    names.bytes().map(|b| Slot(b - b'A')).collect()
}

/// A rule, the property that it is for, bounds in which it shows, and where the search begins.
type Hole = (Rule, &'static str, Bounds, Vec<Move>);

/// The way there is the search's. The numbers are those of the model's FINDINGS.md.
fn holes() -> Vec<Hole> {
    let b = Bounds { mtrs: 1, opens: 1, kills: 1, ..Bounds::default() };
    let cut = Bounds { flight: true, cuts: 1, ..b };
    let acked = || {
        let mut way = vec![Append(0, Whole)];
        way.extend(set("ABCD").iter().map(|s| Write(0, s)));
        way.push(Look(0, false));
        way
    };
    // 15: an opener pauses between its reading and its decision; another, which sees more, opens.
    let mut paused =
        vec![Append(0, Whole), Write(0, Slot(0)), Kill(0), Open(set("BCDE")), Steps(0, set("BCDE")), Read(0)];
    paused.extend([Open(set("ABCD")), Steps(1, set("ABCD")), Read(1)]);
    // 8: what an older writer had in flight lands on the next epoch's records.
    let overtaken =
        vec![Append(0, Whole), Submit(0, Slot(0)), Kill(0), Open(set("ABCD")), Steps(0, set("ABCD")), Read(0)];
    let mut marked = vec![Append(0, Whole), Submit(0, Slot(0)), Close(0)];
    marked.extend(set("ABCD").iter().map(|s| Mark(0, s)));
    marked.extend([Closed(0), Open(set("ABCD")), Steps(0, set("ABCD")), Read(0), Steps(0, set("ABCD"))]);
    // 14, and caches: two copies of four are a killed writer's, and nothing has made them durable.
    let mut cached = vec![Append(0, Whole), Write(0, Slot(0)), Write(0, Slot(1))];
    cached.extend([Submit(0, Slot(2)), Submit(0, Slot(3)), Kill(0), Land(Slot(2), 0), Land(Slot(3), 0)]);
    // The same with tail files: an opener died in the midst of writing them.
    let mut tails = vec![Append(0, Whole), Write(0, Slot(0)), Kill(0), Open(set("ABCD")), Steps(0, set("ABCD"))];
    tails.extend([Read(0), Kill(0)]);
    let half_written = vec![Append(0, Whole), Write(0, Slot(0)), Submit(0, Slot(1)), Kill(0)];
    let in_flight = vec![Append(0, Whole), Submit(0, Slot(0)), Kill(0)];
    let mut merging = half_written.clone();
    merging.extend([Open(set("ABCD")), Steps(0, set("ABCD")), Read(0), Steps(0, set("ABCD")), Steps(0, set("ABCD"))]);
    let mut blanks = acked();
    blanks.extend([Kill(0), Blank(Slot(0)), Blank(Slot(1))]);
    // 19: a zombie formats a replaced disk, and so wipes the claim that it held. Past the promise at the look.
    let mut wiped = vec![Append(0, Whole), Open(set("BCDE")), Steps(1, set("BCDE")), Read(1), Steps(1, set("BCDE"))];
    wiped.extend([LastLook(1, false), Kill(1), Blank(Slot(1))]);
    let wiping = Bounds { zombies: true, blanks: 1, hurt: 1, rejoins: 1, beyond: true, ..b };
    vec![
        (Rule::LookBeforeAck, "S1", Bounds { zombies: true, kills: 0, ..b }, vec![]),
        (Rule::ClaimBeforeReading, "S1", Bounds { zombies: true, kills: 0, ..b }, vec![]),
        (Rule::LookBeforeOpening, "S2", Bounds { zombies: true, opens: 2, ..b }, paused),
        (Rule::TailBeforeDecision, "A1", Bounds { opens: 2, kills: 2, ..b }, vec![]),
        (Rule::TailInFilesOfItsOwn, "A1", Bounds { reads: 1, ..cut }, half_written),
        (Rule::FlushWhatCounts, "A1", Bounds { reads: 1, ..cut }, in_flight),
        (Rule::FlushTailFiles, "A1", Bounds { opens: 2, kills: 2, reads: 1, ..cut }, tails),
        (Rule::EndAtCpl, "S3", Bounds { halves: true, ..b }, vec![]),
        (Rule::BeginBeyondReach, "S1", Bounds { mtrs: 2, flight: true, reads: 1, kills: 2, ..b }, overtaken),
        (Rule::RejoinAtVdl, "S1", Bounds { opens: 0, reads: 1, leaves: 1, rejoins: 1, ..b }, vec![]),
        (Rule::RejoinReadsBack, "S1", Bounds { leaves: 1, rejoins: 1, reads: 1, opens: 0, ..cut }, vec![]),
        (Rule::RejoinWithNothingOutstanding, "S1", Bounds { leaves: 1, rejoins: 1, reads: 1, opens: 0, ..cut }, vec![]),
        (Rule::RejoinLooks, "S6", wiping, wiped),
        (Rule::BlankHasNoVote, "S1", Bounds { blanks: 2, hurt: 2, beyond: true, opens: 2, kills: 2, ..b }, blanks),
        (Rule::ClaimsAreExclusive, "S1", Bounds { zombies: true, opens: 2, ..b }, vec![Kill(0)]),
        (Rule::CleanWithNothingOutstanding, "S1", Bounds { flight: true, closes: 1, mtrs: 2, reads: 1, ..b }, marked),
        (Rule::MergeWhenDrained, "A1", Bounds { reads: 1, merges: 1, ..cut }, merging),
        (Rule::SettledIsNotVisible, "S2", Bounds { reads: 1, ..b }, vec![]),
        (Rule::ReaderFlushes, "S2", Bounds { reads: 1, ..cut }, cached),
    ]
}

fn run(setting: &Setting, prefix: &[Move], states: usize) -> Found {
    let mut start = State::new();
    for m in prefix {
        start.apply(*m, setting).unwrap();
    }
    search(start, prefix, setting, Limits { states, level: usize::MAX, until: None })
}

#[test]
fn a_broken_rule_is_found() {
    let mut missed = Vec::new();
    for (rule, what, bounds, prefix) in holes() {
        let begun = std::time::Instant::now();
        let broken = Setting { bounds, broken: Some(rule) };
        let found = run(&broken, &prefix, 100_000);
        println!("{rule:?}: {} states, depth {}, {:?}, {:.1?}", found.states, found.depth, found.end, begun.elapsed());
        match &found.broken {
            Some((way, why)) => {
                tell(way, &broken).iter().for_each(|line| println!("    {line}"));
                println!("    => {why}");
                if !why.starts_with(what) {
                    missed.push(format!("{rule:?}: {why}"));
                }
            }
            None => missed.push(format!("{rule:?}: nothing found")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn with_every_rule_the_same_bounds_hold() {
    for (rule, _, bounds, prefix) in holes() {
        if matches!(rule, Rule::CleanWithNothingOutstanding) {
            continue; // It begins with what the rule forbids.
        }
        let found = run(&Setting { bounds, ..Setting::default() }, &prefix, 10_000);
        assert!(found.end != End::Broken, "{rule:?}: {:?}", found.broken);
    }
}

#[test]
fn a_disk_that_is_replaced_in_the_midst_of_an_open_hides_no_loss() {
    let bounds = Bounds { mtrs: 1, beyond: true, blanks: 2, hurt: 2, kills: 2, opens: 2, ..Bounds::default() };
    let mut way = vec![Append(0, Whole)];
    way.extend(set("ABCD").iter().map(|s| Write(0, s)));
    way.extend([Look(0, false), Kill(0), Open(set("ABCDEF")), Steps(0, SlotSet::ALL), Read(0), Blank(Slot(0))]);
    way.extend([Steps(0, SlotSet::ALL), Blank(Slot(1)), LastLook(0, false), Kill(0)]);
    way.extend([Open(set("ABEF")), Steps(0, set("ABEF")), Read(0)]);
    let setting = Setting { bounds, ..Setting::default() };
    let found = run(&setting, &way, 1_000);
    assert!(found.end == End::Exhausted, "{:?}", found.broken.map(|(way, why)| (tell(&way, &setting), why)));
}

#[test]
fn a_blank_disk_that_an_opener_has_claimed_is_formatted_again() {
    let bounds = Bounds { blanks: 1, super_rots: 1, hurt: 1, kills: 2, opens: 2, ..Bounds::default() };
    let setting = Setting { bounds, ..Setting::default() };
    let found = run(&setting, &[], 100_000);
    assert!(found.end == End::Exhausted, "{:?}", found.broken.map(|(way, why)| (tell(&way, &setting), why)));
}

#[test]
fn every_scenario_holds_as_far_as_a_test_goes() {
    for size in [Size::Small, Size::Full] {
        for scenario in super::scenarios::all(size) {
            let found = run(&Setting { bounds: scenario.bounds, ..Setting::default() }, &[], 3_000);
            assert!(found.end != End::Broken, "{}: {:?}", scenario.name, found.broken);
        }
    }
}
