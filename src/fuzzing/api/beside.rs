//! Readers and second writers beside the script's own volume. Why an open fails the stage has judged.

use super::{Done, Model, Pages, check, check_view};
use crate::sim::Others;
use crate::{PageId, ReadError, View, Volume};
use arbitrary::Unstructured;

/// A reader shows what was acknowledged at least, and what it calls certain stays.
pub fn read_only(others: &Others, model: &mut Model) -> Done<()> {
    let Ok(reader) = others.open_read_only() else { return Ok(()) };
    assert!(reader.settled() <= reader.visible());
    let mut certain = None;
    // The first state is no commit of this process, and may be the empty volume.
    for (at, (commit, pages)) in model.states.iter().enumerate().skip(1) {
        match reader.outcome(*commit) {
            Some(true) => certain = Some(pages),
            Some(false) => assert!(at >= model.told, "a reader takes an acknowledged commit for lost"),
            None => (),
        }
        model.foretold.extend(reader.outcome(*commit).map(|survives| (*commit, survives)));
    }
    if let Some(pages) = certain {
        check_view(&reader.view(), pages)?;
    }
    match content(&reader.view_visible()) {
        Ok(all) => {
            let shown = model.states[model.told - 1..].iter().any(|(_, pages)| *pages == all);
            assert!(shown, "what a reader shows was never there");
        }
        // Of what is not certain there may be one copy in reach.
        Err(ReadError::Lost { .. }) if reader.settled() < reader.visible() => (),
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

fn content(view: &View) -> Result<Pages, ReadError> {
    view.pages()?.into_iter().map(|id| Ok((id, view.read(id)?.to_vec()))).collect()
}

/// One opener takes over, or two at once. The script goes on with the youngest, and the others acknowledge nothing.
pub fn take_over(u: &mut Unstructured<'_>, volume: &mut Volume, others: &Others, model: &mut Model) -> Done<()> {
    let races = u.ratio(1, 2)?;
    let mut opened: Vec<Volume> =
        if races { others.race().into_iter().flatten().collect() } else { others.take_over().into_iter().collect() };
    opened.sort_by_key(|v| v.health().epoch);
    // Without one the script goes on with what it has, which may have been outbid.
    let Some(youngest) = opened.pop() else { return Ok(()) };
    model.views.clear();
    model.settle(&youngest)?;
    check(&youngest, model)?;
    for zombie in opened.iter().chain([&*volume]) {
        let mut mtr = zombie.begin();
        mtr.patch(PageId::ROOT, 0, b"too late");
        let Ok(late) = mtr.commit() else { continue };
        assert!(late.wait().is_err(), "a zombie acknowledges");
        assert!(!youngest.outcome(late.unknown())?, "a zombie's commit is there");
    }
    *volume = youngest;
    check(volume, model)
}
