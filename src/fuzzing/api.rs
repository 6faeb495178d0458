//! A script of API calls against a map of pages.

use super::{PAGE, Scratch, options};
use crate::{Lsn, Mtr, Page, PageId, ReadError, View, Volume, WriteError};
use arbitrary::Unstructured;
use std::collections::BTreeMap;

const STEPS_MAX: usize = 60;
const PAGES_MAX: usize = 40;
const VIEWS_MAX: usize = 4;

type Pages = BTreeMap<PageId, Vec<u8>>;

/// What the volume must hold.
struct Model {
    /// After each commit: the log's end then, and all pages.
    states: Vec<(Lsn, Pages)>,
    views: Vec<(View, Pages)>,
    /// Pages that were read, perhaps long ago.
    seen: Vec<Page>,
}

impl Model {
    fn now(&self) -> &Pages {
        &self.states.last().unwrap().1
    }

    /// What a view shows: everything that ends at or below.
    fn at(&self, lsn: Lsn) -> &Pages {
        &self.states.iter().rev().find(|(end, _)| *end <= lsn).unwrap().1
    }
}

/// A page that exists, mostly.
fn page(u: &mut Unstructured<'_>, pages: &Pages) -> arbitrary::Result<PageId> {
    let any = u.arbitrary::<u8>()?;
    let nth = usize::from(any) % pages.len();
    Ok(if any == 255 { PageId(1 << 30) } else { *pages.keys().nth(nth).unwrap() })
}

fn same(got: Result<Page, ReadError>, want: Option<&Vec<u8>>) -> Option<Page> {
    match (got, want) {
        (Ok(page), Some(want)) => {
            assert!(page[..] == want[..], "page {} has other bytes", page.id());
            Some(page)
        }
        (Err(ReadError::NoSuchPage(_)), None) => None,
        (got, want) => panic!("{got:?} where the model has a page: {}", want.is_some()),
    }
}

/// One MTR: its calls, then a commit or an abort.
fn mtr(u: &mut Unstructured<'_>, volume: &Volume, model: &mut Model) -> arbitrary::Result<()> {
    let mut mtr = volume.begin();
    let mut after = model.now().clone();
    let mut allocated: Vec<PageId> = Vec::new();
    // What commit must say, if not yes.
    let (mut missing, mut wrong, mut conflict) = (false, false, false);
    for _ in 0..u.int_in_range(1..=6)? {
        let page = page(u, &after)?;
        match u.int_in_range(0..=7)? {
            0 if after.len() < PAGES_MAX && !wrong => {
                let page = mtr.alloc().unwrap();
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
                conflict |= volume.read(seen.id()).map(|p| p.lsn()).ok() != Some(seen.lsn());
            }
            5 if !wrong && !missing => drop(same(mtr.read(page), after.get(&page))),
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
    finish(mtr, u.ratio(1, 2)?, (missing, wrong, conflict), after, model);
    Ok(())
}

fn put(after: &mut Pages, page: PageId, image: Vec<u8>, missing: &mut bool, wrong: bool) {
    match after.get_mut(&page) {
        Some(old) => *old = image,
        None => *missing |= !wrong,
    }
}

fn finish(mtr: Mtr, wait: bool, (missing, wrong, conflict): (bool, bool, bool), after: Pages, model: &mut Model) {
    match mtr.commit() {
        Ok(commit) => {
            assert!(!missing && !wrong && !conflict, "{:?} was committed", (missing, wrong, conflict));
            if wait {
                commit.wait().unwrap();
            }
            model.states.push((commit.lsn(), after));
        }
        Err(WriteError::Conflict(_)) => assert!(conflict && !wrong),
        Err(WriteError::NoSuchPage(_)) => assert!(missing && !wrong),
        Err(WriteError::ImageLength { .. } | WriteError::PatchRange { .. } | WriteError::RootPage) => assert!(wrong),
        Err(e) => panic!("{e}"),
    }
}

/// Every page, newest and in each view.
fn check(volume: &Volume, model: &mut Model) {
    for (id, image) in model.now().clone() {
        let page = same(volume.read(id), Some(&image));
        if model.seen.len() < 64 {
            model.seen.extend(page);
        }
    }
    for (view, pages) in &model.views {
        check_view(view, pages);
    }
}

fn check_view(view: &View, pages: &Pages) {
    assert_eq!(view.pages().unwrap(), pages.keys().copied().collect::<Vec<_>>());
    for (id, image) in pages {
        same(view.read(*id), Some(image));
    }
    same(view.read(PageId(1 << 31)), None);
}

fn script(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let scratch = Scratch::new();
    let options = options().io_uring(u.arbitrary()?);
    let mut volume = Volume::create(&scratch.0, &options).unwrap();
    let root = BTreeMap::from([(PageId::ROOT, vec![0; PAGE])]);
    let mut model = Model { states: vec![(Lsn::NONE, root)], views: Vec::new(), seen: Vec::new() };
    for _ in 0..STEPS_MAX {
        if u.is_empty() {
            break;
        }
        match u.int_in_range(0..=15)? {
            0 => check(&volume, &mut model),
            1 => {
                volume.sync().wait().unwrap();
                let view = volume.view();
                check_view(&view, model.now());
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
            step @ 5..=7 => {
                let before = volume;
                let ended = |lsn| matches!(lsn, Err(ReadError::Closed | ReadError::NoSuchPage(_)));
                match step {
                    5 => before.close().unwrap(),
                    // Dropping it closes it too, in so short a time that it may not be clean, nor all durable.
                    6 => {
                        before.sync().wait().unwrap();
                        drop(before);
                    }
                    _ => {
                        before.sync().wait().unwrap();
                        let next = Volume::take_over(&scratch.0, &options).unwrap();
                        // The one that was taken over from acknowledges nothing more.
                        let mut late = before.begin();
                        late.patch(PageId::ROOT, 0, b"late");
                        assert!(late.commit().and_then(|c| c.wait()).is_err());
                        drop(before);
                        next.close().unwrap();
                    }
                }
                assert!(model.views.iter().all(|(v, _)| ended(v.read(PageId::ROOT))), "a view outlives its volume");
                // LSNs of pages stay as they are; a reader sees what the next writer will.
                model.views.clear();
                let reader = Volume::open_read_only(&scratch.0, &options).unwrap();
                check_view(&reader.view_visible(), model.now());
                volume = Volume::open(&scratch.0, &options).unwrap();
                check(&volume, &mut model);
            }
            _ => mtr(u, &volume, &mut model)?,
        }
    }
    check(&volume, &mut model);
    volume.close().unwrap();
    let reader = Volume::open_read_only(&scratch.0, &options).unwrap();
    check_view(&reader.view(), model.now());
    Ok(())
}

/// A script of calls; each answer is the model's.
pub fn api(data: &[u8]) {
    // A script that ends in the middle of a call is a script all the same.
    let _ = script(&mut Unstructured::new(data));
}
