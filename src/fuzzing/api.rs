//! A script of API calls on a simulated volume against a map of pages, process after process. The input's bytes are the
//! script from the first on; from the last on they are what the simulated world does, its faults included.

mod beside;

use super::PAGE;
use crate::sim::{Failure, Others, Report, Stage};
use crate::{Lsn, Mtr, Page, PageId, ReadError, Unknown, View, Volume, WriteError};
use arbitrary::Unstructured;
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

/// Steps of the world before the faults end, for each byte, and in all.
const STEPS_PER_BYTE: u64 = 2;
const STEPS_MAX: u64 = 1500;
const PAGES_MAX: usize = 40;
const VIEWS_MAX: usize = 4;

type Pages = BTreeMap<PageId, Vec<u8>>;
type Done<T> = Result<T, Box<dyn Error>>;

/// What the volume must hold.
struct Model {
    /// After each commit: what to ask `outcome` with, and all pages. The first is durable.
    states: Vec<(Unknown, Pages)>,
    /// Of them, so many were acknowledged.
    told: usize,
    views: Vec<(View, Pages)>,
    /// Pages that were read, perhaps long ago.
    seen: Vec<Page>,
    /// What readers have said of commits' outcomes.
    foretold: Vec<(Unknown, bool)>,
}

impl Model {
    fn now(&self) -> &Pages {
        &self.states.last().unwrap().1
    }

    /// What a view shows: everything that ends at or below.
    fn at(&self, lsn: Lsn) -> &Pages {
        &self.states.iter().rev().find(|(commit, _)| commit.lsn <= lsn).unwrap().1
    }

    /// A process begins: what was acknowledged is there, and of the rest all up to some commit.
    fn settle(&mut self, volume: &Volume) -> Done<()> {
        for (commit, survives) in self.foretold.drain(..) {
            assert_eq!(volume.outcome(commit)?, survives, "a reader said otherwise of {commit:?}");
        }
        let mut survived = 1;
        for (at, (commit, _)) in self.states.iter().enumerate().skip(1) {
            if volume.outcome(*commit)? {
                assert_eq!(survived, at, "{commit:?} outlives one before it");
                survived = at + 1;
            }
        }
        assert!(survived >= self.told, "an acknowledged commit is gone");
        self.states = vec![self.states.swap_remove(survived - 1)];
        self.told = 1;
        Ok(())
    }
}

/// A page that exists, mostly.
fn page(u: &mut Unstructured<'_>, pages: &Pages) -> arbitrary::Result<PageId> {
    let any = u.arbitrary::<u8>()?;
    let nth = usize::from(any) % pages.len();
    Ok(if any == 255 { PageId(1 << 30) } else { *pages.keys().nth(nth).unwrap() })
}

/// The answer is not the model's. A volume that has ended shows what is durable, and that is an end of the process.
fn deviates(volume: &Volume, what: &str) -> Box<dyn Error> {
    match volume.health().ended {
        Some(ended) => WriteError::ReadOnly(ended).into(),
        None => panic!("{what}"),
    }
}

fn same(volume: &Volume, got: Result<Page, ReadError>, want: Option<&Vec<u8>>) -> Done<Option<Page>> {
    match (got, want) {
        (Ok(page), Some(want)) if page[..] == want[..] => Ok(Some(page)),
        (Ok(page), Some(_)) => Err(deviates(volume, &format!("page {} has other bytes", page.id()))),
        (Ok(page), None) => Err(deviates(volume, &format!("page {} exists", page.id()))),
        (Err(ReadError::NoSuchPage(_)), None) => Ok(None),
        (Err(e), _) => Err(e.into()),
    }
}

/// One MTR: its calls, then a commit or an abort.
fn mtr(u: &mut Unstructured<'_>, volume: &Volume, model: &mut Model) -> Done<()> {
    let mut mtr = volume.begin();
    let mut after = model.now().clone();
    let mut allocated: Vec<PageId> = Vec::new();
    // What commit must say, if not yes.
    let (mut missing, mut wrong, mut conflict) = (false, false, false);
    for _ in 0..u.int_in_range(1..=6)? {
        let page = page(u, &after)?;
        match u.int_in_range(0..=7)? {
            0 if after.len() < PAGES_MAX && !wrong => {
                let page = mtr.alloc()?;
                assert!(!model.now().contains_key(&page) && !allocated.contains(&page), "{page} is taken");
                allocated.push(page);
                after.insert(page, vec![0; PAGE]);
            }
            1 => {
                let image = vec![u.arbitrary::<u8>()?; PAGE];
                mtr.put(page, image.clone());
                put(&mut after, page, image, &mut missing, wrong);
            }
            2 if page != PageId::ROOT && !allocated.contains(&page) => {
                mtr.free(page);
                missing |= !wrong && after.remove(&page).is_none();
            }
            2 if page == PageId::ROOT => {
                mtr.free(page);
                wrong = true;
            }
            3 => {
                let at = u.int_in_range(0..=PAGE as u32)?;
                let len = u.int_in_range(0..=20)?.min(u.len());
                let bytes = u.bytes(len)?;
                mtr.patch(page, at, bytes);
                if at as usize + bytes.len() > PAGE {
                    wrong = true;
                } else {
                    let mut image = after.get(&page).cloned().unwrap_or_default();
                    if !image.is_empty() {
                        image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
                    }
                    put(&mut after, page, image, &mut missing, wrong);
                }
            }
            4 if !model.seen.is_empty() => {
                let seen = u.choose(&model.seen)?;
                mtr.expect(seen);
                conflict |= match volume.read(seen.id()) {
                    Ok(now) => now.lsn() != seen.lsn(),
                    Err(ReadError::NoSuchPage(_)) => true,
                    Err(e) => return Err(e.into()),
                };
            }
            5 if !wrong && !missing => _ = same(volume, mtr.read(page), after.get(&page))?,
            6 => {
                mtr.put(page, vec![0; PAGE - 1]);
                wrong = true;
            }
            _ => (),
        }
    }
    if u.ratio(1, 8)? {
        drop(mtr);
        return Ok(());
    }
    finish(mtr, u.int_in_range(0..=3)?, (missing, wrong, conflict), after, model)
}

fn put(after: &mut Pages, page: PageId, image: Vec<u8>, missing: &mut bool, wrong: bool) {
    match after.get_mut(&page) {
        Some(old) => *old = image,
        None => *missing |= !wrong,
    }
}

fn finish(
    mtr: Mtr,
    waits: u8,
    (missing, wrong, conflict): (bool, bool, bool),
    after: Pages,
    model: &mut Model,
) -> Done<()> {
    match mtr.commit() {
        Ok(commit) => {
            assert!(!missing && !wrong && !conflict, "{:?} was committed", (missing, wrong, conflict));
            model.states.push((commit.unknown(), after));
            let told = match waits {
                0 => true,
                1 => commit.wait_for(Duration::from_millis(20))?,
                _ => return Ok(()),
            };
            if waits == 0 {
                commit.wait()?;
            }
            if told {
                model.told = model.states.len();
            }
            Ok(())
        }
        Err(WriteError::Conflict(_)) if conflict && !wrong => Ok(()),
        Err(WriteError::NoSuchPage(_)) if missing && !wrong => Ok(()),
        Err(WriteError::ImageLength { .. } | WriteError::PatchRange { .. } | WriteError::RootPage) if wrong => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Every page, newest and in each view.
fn check(volume: &Volume, model: &mut Model) -> Done<()> {
    for (id, image) in model.now().clone() {
        let page = same(volume, volume.read(id), Some(&image))?;
        if model.seen.len() < 64 {
            model.seen.extend(page);
        }
    }
    model.views.iter().try_for_each(|(view, pages)| check_view(view, pages))
}

/// A view never deviates, whatever has become of its volume.
fn check_view(view: &View, pages: &Pages) -> Done<()> {
    assert_eq!(view.pages()?, pages.keys().copied().collect::<Vec<_>>());
    for (id, image) in pages {
        assert!(view.read(*id)?[..] == image[..], "page {id} has other bytes in a view");
    }
    match view.read(PageId(1 << 31)) {
        Err(ReadError::NoSuchPage(_)) => Ok(()),
        Err(e) => Err(e.into()),
        Ok(_) => panic!("a page that nobody made"),
    }
}

/// One process: it checks what it finds, and goes on with the script.
fn process(u: &mut Unstructured<'_>, mut volume: Volume, others: &Others, model: &mut Model) -> Done<()> {
    model.views.clear();
    model.settle(&volume)?;
    check(&volume, model)?;
    check_view(&volume.view(), model.now())?;
    while !u.is_empty() {
        match u.int_in_range(0..=15)? {
            0 => check(&volume, model)?,
            1 => {
                volume.sync().wait()?;
                model.told = model.states.len();
                check_view(&volume.view(), model.now())?;
            }
            2 | 3 => {
                let view = volume.view();
                let pages = model.at(view.lsn()).clone();
                if model.views.len() == VIEWS_MAX {
                    model.views.remove(0);
                }
                model.views.push((view, pages));
            }
            4 => drop(std::mem::take(&mut model.views)),
            5 => {
                volume.close()?;
                model.told = model.states.len();
                let ended = |view: &View| matches!(view.read(PageId::ROOT), Err(ReadError::Closed));
                assert!(model.views.iter().all(|(view, _)| ended(view)), "a view outlives its volume");
                return Ok(());
            }
            6 => return Ok(()),
            14 => beside::take_over(u, &mut volume, others, model)?,
            15 => beside::read_only(others, model)?,
            _ => mtr(u, &volume, model)?,
        }
    }
    Ok(())
}

/// A script of calls; each answer is the model's.
pub fn api(data: &[u8]) {
    if let Err(failure) = play(data) {
        panic!("{failure}");
    }
}

fn play(data: &[u8]) -> Result<Report, Box<Failure>> {
    let mut script = Unstructured::new(data);
    let root = BTreeMap::from([(PageId::ROOT, vec![0; PAGE])]);
    let first = (Unknown { lsn: Lsn::NONE, epoch: 1 }, root);
    let mut model = Model { states: vec![first], told: 1, views: Vec::new(), seen: Vec::new(), foretold: Vec::new() };
    let steps = (STEPS_PER_BYTE * data.len() as u64).min(STEPS_MAX);
    let stage = Stage::new(data.first().copied().unwrap_or(0).into()).given(data).steps(steps);
    stage.play_beside(|volume, others| match process(&mut script, volume, others, &mut model) {
        // A script that ends in the middle of a call is a script all the same.
        Err(e) if e.is::<arbitrary::Error>() => Ok(()),
        result => result,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An MTR that puts page 0; the last byte is how it is waited for.
    const WAITS: &[u8] = &[7, 0, 0, 1, 9, 3, 0];
    const DOES_NOT: &[u8] = &[7, 0, 0, 1, 8, 3, 2];
    const READER: &[u8] = &[15];
    const TAKES_OVER: &[u8] = &[14, 1];
    const RACE: &[u8] = &[14, 0];

    fn count(parts: &[&[u8]], name: &str) -> u64 {
        // The world's choices: by a byte with all kinds of remainders, and never one of a thousand.
        let data = [parts.concat().repeat(20), (0..600).map(|n| (n * 37 % 251) as u8).collect()].concat();
        let report = play(&data).unwrap_or_else(|failure| panic!("{failure}"));
        report.counts.iter().find(|(n, _)| *n == name).unwrap().1
    }

    #[test]
    fn scripts_reach_readers_zombies_and_rivals() {
        assert!(count(&[WAITS, DOES_NOT, READER], "read-only opens") > 5);
        assert!(count(&[DOES_NOT, TAKES_OVER, WAITS, READER], "take-overs") > 2);
        assert!(count(&[DOES_NOT, RACE, WAITS, READER], "take-overs") > 3);
    }
}
