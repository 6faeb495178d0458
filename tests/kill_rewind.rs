//! Kills in the midst of backtracks, on real files: the state is the one before or the one gone back to, whole.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test says where")]

mod common;

use common::{Child, Random};
use quorate::{Lsn, Options, PageId, View, Volume};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const AT: &str = "QUORATE_REWIND_AT";
/// Pages that every commit writes: a state is one number, and shows if it is mixed.
const PAGES: u64 = 12;

fn options() -> Options {
    Options::default()
        .page_size(4096)
        .checkpoint_bytes(1 << 20)
        .cache_bytes(1 << 20)
        .window(Duration::from_secs(3600), 1 << 30)
}

/// The number of a state, after checking that all pages say the same.
fn number(view: &View) -> u64 {
    let of = |page| u64::from_le_bytes(view.read(PageId(page)).expect("a page")[..8].try_into().unwrap());
    let n = of(1);
    (2..=PAGES).for_each(|page| assert_eq!(of(page), n, "a mixed state"));
    n
}

fn say(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

#[test]
fn child_main() {
    let Ok(at) = std::env::var(AT) else { return };
    say("");
    let mut random = Random::seeded();
    let volume = Volume::open(Path::new(&at), &options()).unwrap();
    let (mut n, mut lsns) = (number(&volume.view()), vec![(volume.view().lsn(), number(&volume.view()))]);
    let mut next = std::env::var("QUORATE_REWIND_NEXT").unwrap().parse::<u64>().unwrap();
    loop {
        for _ in 0..random.below(30) {
            let mut mtr = volume.begin();
            for page in 1..=PAGES {
                mtr.patch(PageId(page), 0, &next.to_le_bytes());
            }
            say(&format!("sends {next}"));
            let commit = mtr.commit().unwrap();
            commit.wait().unwrap();
            say(&format!("state {next} {}", commit.lsn()));
            n = next;
            lsns.push((commit.lsn(), n));
            next += 1;
        }
        let names: Vec<String> = volume.snapshots().into_iter().map(|s| s.name).collect();
        match random.below(4) {
            0 if names.len() < 8 => {
                let name = format!("s{next}-{n}-{}", random.below(1 << 20));
                say(&format!("names {name}"));
                volume.snapshot(&name).unwrap();
                say(&format!("named {name} {n}"));
            }
            1 if !names.is_empty() => {
                let name = &names[random.below(names.len() as u64) as usize];
                say(&format!("forgets {name}"));
                volume.forget(name).unwrap();
                say(&format!("forgot {name}"));
            }
            _ => (),
        }
        let (lsn, old) = lsns[random.below(lsns.len() as u64) as usize];
        say(&format!("goes {old}"));
        let done = volume.backtrack(lsn).unwrap();
        assert_eq!(number(&volume.view()), old);
        say(&format!("went {old} {} {n}", done.undo));
        lsns.push((done.undo, n));
        n = old;
    }
}

#[test]
fn a_backtrack_happens_or_does_not() {
    let kills: u64 = std::env::var("QUORATE_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(50);
    let dir = common::dir();
    let mut random = Random::seeded();
    let volume = Volume::create(dir.path(), &options()).unwrap();
    let mut mtr = volume.begin();
    (1..=PAGES).for_each(|page| assert_eq!(mtr.alloc().unwrap(), PageId(page)));
    mtr.commit().unwrap().wait().unwrap();
    volume.close().unwrap();
    let (mut now, mut next, mut hit) = (0, 1, 0);
    // States that were acknowledged, and what was before rewinds.
    let mut known: BTreeMap<Lsn, u64> = BTreeMap::new();
    // Snapshots, and the numbers of their states.
    let mut named: BTreeMap<String, u64> = BTreeMap::new();
    for kill in 0..kills {
        let variables = [(AT, dir.path().to_str().unwrap().to_string()), ("QUORATE_REWIND_NEXT", next.to_string())];
        let child = Child::start("child_main", &variables);
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.starts_with("goes")) {
            lines.push(child.line(Duration::from_secs(60)).unwrap_or_else(|| panic!("kill {kill}: {lines:?}")));
        }
        // In the midst of the first backtrack, or a later one.
        std::thread::sleep(Duration::from_micros(random.below(40_000)));
        lines.extend(child.kill());
        let (mut under_way, mut naming) = (None, None);
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |i: usize| words[i].parse::<u64>().unwrap();
            match words[0] {
                "sends" => {
                    under_way = Some(number(1));
                    next = next.max(number(1) + 1);
                }
                "state" => {
                    (now, under_way) = (number(1), None);
                    known.insert(Lsn(number(2)), now);
                }
                "goes" => under_way = Some(number(1)),
                "went" => {
                    known.insert(Lsn(number(2)), number(3));
                    (now, under_way) = (number(1), None);
                }
                "names" | "forgets" => naming = Some(words[1]),
                "named" => {
                    named.insert(words[1].into(), number(2));
                    naming = None;
                }
                "forgot" => {
                    named.remove(words[1]);
                    naming = None;
                }
                _ => (),
            }
        }
        hit += u64::from(lines.iter().rfind(|l| !l.is_empty()).is_some_and(|l| l.starts_with("goes")));
        let volume = Volume::open(dir.path(), &options()).unwrap();
        let found = number(&volume.view());
        assert!(
            found == now || Some(found) == under_way,
            "kill {kill}: {found}; it was {now}, and {under_way:?} was under way"
        );
        now = found;
        let there: Vec<String> = volume.snapshots().into_iter().map(|s| s.name).collect();
        // One that was being named or forgotten is there or not, and stays so.
        if let Some(name) = naming {
            match there.iter().any(|n| n == name) {
                true => drop(named.insert(name.into(), name.split('-').nth(1).unwrap().parse().unwrap())),
                false => drop(named.remove(name)),
            }
        }
        let names: std::collections::BTreeSet<&String> = there.iter().collect();
        assert_eq!(names, named.keys().collect(), "kill {kill}");
        for (name, n) in &named {
            assert_eq!(number(&volume.view_at(&name[..]).expect("a snapshot")), *n, "kill {kill}: snapshot {name}");
        }
        // States of the past are what they were, and can be gone back to.
        let some: Vec<(Lsn, u64)> = known.iter().map(|(lsn, n)| (*lsn, *n)).collect();
        for _ in 0..3 {
            let (lsn, n) = some[random.below(some.len() as u64) as usize];
            assert_eq!(
                number(&volume.view_at(lsn).expect("a state of the window")),
                n,
                "kill {kill}: the state at {lsn}"
            );
        }
        let (lsn, n) = some[random.below(some.len() as u64) as usize];
        let done = volume.backtrack(lsn).expect("a backtrack");
        assert_eq!(number(&volume.view()), n);
        known.insert(done.undo, now);
        if kill % 2 == 0 {
            volume.backtrack(done.undo).expect("its undo");
            assert_eq!(number(&volume.view()), now);
        } else {
            now = n;
        }
        volume.close().unwrap();
    }
    println!("{hit} of {kills} kills met a backtrack");
    assert!(hit * 10 >= kills, "only {hit} of {kills} kills met a backtrack");
}
