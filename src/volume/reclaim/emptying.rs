//! An extent is emptied: what is live in it is written anew.

use super::pressure::GAINED;
use super::sampling::{in_parallel, is_of_page};
use super::{LEAST_DEAD_NARROW, NARROW_FOR, Reclaim, Step};
use crate::bugs::{Bug, planted};
use crate::core::history::Entry;
use crate::log::record::{self, Fields, Kind};
use crate::lsn::{Lsn, PageId, format};
use crate::page::read::{Owned, Part};
use crate::page::stale::Replaced;
use crate::page::version::{Cached, Head};
use crate::reclaim::freed::{self, Run};
use crate::reclaim::moves::{self, Chain, Link, Move};
use crate::volume::append::{NotAppended, Prepared, TABLE_ROOM};
use crate::volume::error::{ReadError, WriteError};
use crate::volume::mtr::{Change, Content, Moved, What};
use crate::volume::shared::Shared;
use std::collections::{HashMap, HashSet};

/// Content of one MTR.
const BATCH_BYTES: usize = 512 << 10;
/// ... where there may be little room, and where commits would wait behind it: of six copies.
const BATCH_NARROW: usize = 128 << 10;
/// Pages looked at in one step, for each thread that does: many, so that no thread waits long for the slowest.
const PAGES_A_READER: usize = 16;
/// ... of no more bytes.
const PLANNED_BYTES: usize = 2 << 20;
/// Pages of an extent that are remembered as done.
const SEEN_MAX: usize = 128 << 10;

/// An extent that is gone through.
pub(super) struct Emptying {
    pub(super) run: Run,
    /// What is dead of it, by the census, in 1/256.
    dead: u64,
    /// Parts of frames that are still to be read, the next one last.
    parts: Vec<(Lsn, Lsn)>,
    /// The one at hand, and its pages that are still to be looked at.
    part: Option<Part>,
    pages: Vec<PageId>,
    seen: HashSet<PageId>,
    /// What is to be written anew, and was not put into an MTR yet.
    planned: Vec<(PageId, Planned)>,
    batch: Batch,
    /// All that lives in it fits.
    fits: bool,
}

impl Emptying {
    pub(super) fn new(run: Run, dead: u64, kept: &[Entry], block: u64) -> Emptying {
        Emptying {
            run,
            dead,
            parts: parts(kept, run, block),
            part: None,
            pages: Vec::new(),
            seen: HashSet::new(),
            planned: Vec::new(),
            batch: Batch::default(),
            fits: run.to - run.from > format::FRAME,
        }
    }

    /// What is planned takes about so much of the log, and at most so much more: a block or two of each MTR are not full.
    fn needs(&self, block: u64) -> (u64, u64) {
        let of = |p: &Planned| p.bytes as u64 + p.changes.len() as u64 * (record::HEADER as u64 + 32);
        let bytes = self.planned.iter().map(|(_, planned)| of(planned)).sum::<u64>();
        let blocks = (bytes / BATCH_NARROW as u64 + 1) * block;
        (bytes + blocks, blocks)
    }

    /// Pages are about to be written anew.
    #[cfg(all(test, feature = "sim"))]
    pub(super) fn writes(&self) -> bool {
        !self.planned.is_empty() || !self.batch.content.changes.is_empty()
    }
}

#[derive(Default)]
struct Batch {
    content: Content,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, page: PageId, planned: Planned) {
        let Planned { head, was, base, changes, bytes } = planned;
        self.bytes += bytes;
        self.content.changes.extend(changes.into_iter().map(|what| Change { page, what, fresh: false }));
        if !planted(Bug::MoveOverwrites) {
            self.content.expected.push((page, head.lsn));
        }
        self.content.moved.insert(page, Moved { was, base });
    }
}

/// What is to be done about a page.
enum Plan {
    Nothing,
    /// It cannot be told now.
    NotNow,
    Move(Planned),
}

struct Planned {
    head: Head,
    was: Lsn,
    /// The image that stays.
    base: Option<Lsn>,
    changes: Vec<What>,
    bytes: usize,
}

enum Fits {
    Yes,
    /// Space is being allocated.
    Later,
    No,
    /// More lives in it than was thought.
    Worthless,
}

impl Shared {
    /// Goes on with emptying an extent.
    pub(super) fn go_on(&self, r: &mut Reclaim, mut e: Emptying) -> Result<Step, WriteError> {
        let narrow = e.run.to - e.run.from <= format::FRAME;
        let most = if narrow || r.beside { BATCH_NARROW } else { BATCH_BYTES };
        // Half a frame gives nothing back: none of it is moved before all of it is known to fit.
        let gathers = narrow && !(e.pages.is_empty() && e.parts.is_empty());
        if !gathers && !e.fits {
            match self.fits(r, &e) {
                Fits::Yes => e.fits = true,
                Fits::Later => {
                    r.emptying = Some(e);
                    return Ok(Step::Wait);
                }
                Fits::No => return Ok(self.no_room(r, e)),
                Fits::Worthless => return Ok(Step::More),
            }
        }
        while !gathers
            && e.batch.bytes < most
            && let Some((page, planned)) = e.planned.pop()
        {
            e.batch.add(page, planned);
        }
        let full = e.batch.bytes >= most;
        if full || e.pages.is_empty() && !e.batch.content.changes.is_empty() {
            let tail = self.front.tail();
            e.batch.content.wide = !narrow;
            let step = match self.prepare(&e.batch.content) {
                Ok(prepared) => {
                    self.finish_moved(prepared, &e.batch.content);
                    e.batch = Batch::default();
                    r.moved_bytes += self.front.tail().0.saturating_sub(tail.0);
                    Step::More
                }
                // A page has changed meanwhile: it is looked at again, and the others go without it.
                Err(NotAppended::Wrong(WriteError::Conflict(page) | WriteError::NoSuchPage(page))) => {
                    let content = &mut e.batch.content;
                    content.changes.retain(|c| c.page != page);
                    content.expected.retain(|(p, _)| *p != page);
                    content.moved.remove(&page);
                    e.pages.insert(0, page);
                    if content.changes.is_empty() {
                        e.batch = Batch::default();
                    }
                    Step::More
                }
                Err(NotAppended::Again | NotAppended::Rewinding | NotAppended::Full) => Step::Wait,
                Err(NotAppended::RingFull) => {
                    self.pump();
                    Step::Wait
                }
                Err(NotAppended::Space(end)) => {
                    if !self.engine().want_space(end, self.clock.now()) {
                        return Ok(self.no_room(r, e));
                    }
                    Step::Wait
                }
                Err(NotAppended::Wrong(other)) => return Err(other),
            };
            r.emptying = Some(e);
            return Ok(step);
        }
        if !e.pages.is_empty() {
            // Somebody waits for what comes back first.
            let bytes = if r.asked || narrow { most } else { PLANNED_BYTES };
            let few = PAGES_A_READER * self.options.reclaim_readers;
            let now = (bytes / self.geometry.page_size as usize).clamp(1, few).min(e.pages.len());
            let pages = e.pages.split_off(e.pages.len() - now);
            let plan = |page: &PageId| self.plan_move(*page, e.run, e.part.as_ref());
            let plans = in_parallel(self.options.reclaim_readers, &pages, plan);
            for (page, plan) in pages.into_iter().zip(plans) {
                match plan {
                    Ok(Plan::Nothing) => (),
                    Ok(Plan::Move(planned)) => e.planned.push((page, planned)),
                    // Somebody's reservation is not filled yet.
                    Ok(Plan::NotNow) => e.pages.push(page),
                    Err(error) => {
                        r.unreadable.insert(e.run.from);
                        return Err(error.into());
                    }
                }
            }
            r.emptying = Some(e);
            return Ok(Step::More);
        }
        let Some((from, to)) = e.parts.pop() else {
            r.queue.emptied(e.run, self.front.tail());
            if planted(Bug::PunchEarly) {
                self.engine().owe(&[e.run]);
            }
            return Ok(Step::More);
        };
        let part = match self.reads.pages.reader.part(from, to) {
            Ok(part) => part,
            Err(_) => {
                // Healing may bring it back; until then nothing says what is live there.
                r.unreadable.insert(e.run.from);
                return Ok(Step::More);
            }
        };
        // On a volume without room it is space that is waited for.
        let share = if r.asked { (1, 1) } else { GAINED };
        self.pressure.gained((to - from) * e.dead / 256 / share.1 * share.0);
        for record in part.records.iter().filter(|r| is_of_page(r)) {
            let page = PageId(record.fields.page);
            if e.seen.len() >= SEEN_MAX {
                e.seen.clear();
            }
            if e.seen.insert(page) && !self.has_left(page, e.run) {
                e.pages.push(page);
            }
        }
        e.part = Some(part);
        r.emptying = Some(e);
        Ok(Step::More)
    }

    /// Whether what lives in a frame can be moved, all of it, and gives more back than it takes.
    fn fits(&self, r: &mut Reclaim, e: &Emptying) -> Fits {
        let (needs, more) = e.needs(self.geometry.block());
        let now = self.clock.now();
        if now < r.narrow_until || self.engine().is_short() {
            let kept = freed::bytes_in(&self.engine().freeing.kept, e.run.from, e.run.to);
            if needs > kept - kept / LEAST_DEAD_NARROW {
                r.census.record(e.run.from, kept, needs.min(kept), self.space_progress());
                return Fits::Worthless;
            }
        }
        let (tail, space) = {
            let front = self.front.lock();
            (front.tail(), front.space())
        };
        let end = tail + needs + more + TABLE_ROOM;
        match end <= space {
            true => Fits::Yes,
            false if self.engine().want_space(end, now) => Fits::Later,
            false => Fits::No,
        }
    }

    /// There is no room for what is to be moved.
    fn no_room(&self, r: &mut Reclaim, e: Emptying) -> Step {
        // What is on its way back comes first.
        if r.queue.waiting().next().is_some() || r.queue.held() > 0 || self.engine().owes_new() {
            r.emptying = Some(e);
            return Step::Checkpoint;
        }
        // What was moved of it stays moved. A frame needs less; and if it was one, others may be deader.
        if e.run.to - e.run.from <= format::FRAME {
            r.unreadable.insert(e.run.from);
        }
        r.narrow_until = self.clock.now() + NARROW_FOR;
        Step::More
    }

    /// What has to be written anew of a page.
    fn plan_move(&self, page: PageId, extent: Run, part: Option<&Part>) -> Result<Plan, ReadError> {
        let Some(found) = self.chain(page, extent, part)? else { return Ok(Plan::Nothing) };
        if found.head.lsn >= self.front.published() {
            return Ok(Plan::NotNow);
        }
        let (head, was, page_size) = (found.head, found.was, self.geometry.page_size as usize);
        match moves::plan(found.chain, extent, page_size) {
            Move::Nothing => Ok(Plan::Nothing),
            Move::Image => {
                // Of a page that is one image the bytes are at hand.
                let image = part.and_then(|part| part.record(head.lsn)).filter(|r| is_image_of(r, page));
                let what = match image {
                    Some(image) if image.payload.is_empty() => What::Zero,
                    Some(image) if image.payload.len() == page_size => What::Put(image.payload),
                    _ => {
                        let bytes = self.reads.pages.version(page, head.lsn)?;
                        if bytes.iter().all(|b| *b == 0) { What::Zero } else { What::Put(bytes) }
                    }
                };
                Ok(Plan::Move(Planned { head, was, base: None, changes: vec![what], bytes: page_size }))
            }
            Move::Deltas { base, deltas } => {
                let bytes = deltas.iter().map(|d| d.bytes.len() + 64).sum();
                let patch = |d: moves::Link| What::Patch { offset: d.offset, bytes: d.bytes };
                let changes = deltas.into_iter().map(patch).collect();
                Ok(Plan::Move(Planned { head, was, base: Some(base), changes, bytes }))
            }
        }
    }

    /// It is known without reading that nothing of the page lies in the extent: of most pages, where most of it is dead.
    fn has_left(&self, page: PageId, extent: Run) -> bool {
        let pages = &self.reads.pages;
        let head = pages.newest(page, || Lsn::MAX);
        head.is_ok_and(|head| head.is_none_or(|head| clears(pages.informed(head), extent)))
    }

    /// The page's chain, as far as it matters for an extent; none if the page is no more. Records that are in `part` are not
    /// read again, and where nothing of the page can lie in the extent nothing is read.
    pub(super) fn chain(&self, page: PageId, extent: Run, part: Option<&Part>) -> Result<Option<Found>, ReadError> {
        let pages = &self.reads.pages;
        let Some(head) = pages.newest(page, || Lsn::MAX)?.map(|head| pages.informed(head)) else { return Ok(None) };
        let mut found = Found { head, was: head.lsn, chain: Chain { deltas: Vec::new(), image: head.lsn } };
        if head.lsn >= self.front.published() {
            return Ok(Some(found));
        }
        if clears(head, extent) {
            found.chain.image = if head.depth == 0 { head.lsn } else { head.base };
            return Ok(Some(found));
        }
        let within = |lsn: Lsn| extent.from <= lsn && lsn < extent.to;
        // Where the image lies there the deltas do not matter.
        if let Some(cached) = pages.cached(head.lsn).filter(|cached| within(cached.base)) {
            found.chain.image = cached.base;
            found.was = if cached.was.is_none() { head.lsn } else { cached.was };
            return Ok(Some(found));
        }
        let (mut at, mut base, mut any) = (head.lsn, head.base, false);
        loop {
            // An image's address is all that is needed, but for what it stands for.
            let record = match part.and_then(|part| part.record(at)) {
                Some(record) => record,
                None => pages.record(page, at, record::HEADER)?,
            };
            let fields = record.fields;
            if fields.page != page.0 || !matches!(fields.kind, Kind::Image | Kind::Delta) {
                return Err(ReadError::Corrupt { page, lsn: at, what: "its chain leads to another record" });
            }
            if at == head.lsn && !fields.was.is_none() {
                found.was = fields.was;
            }
            if fields.kind == Kind::Image {
                found.chain.image = at;
                return Ok(Some(found));
            }
            any |= within(at);
            found.chain.deltas.push(Link { lsn: at, offset: fields.offset, bytes: record.payload });
            if fields.depth == 1 {
                found.chain.image = fields.prev;
                return Ok(Some(found));
            }
            if !fields.base.is_none() {
                base = fields.base;
            }
            // Nothing of it lies so low, nor where its image is; or nothing of it lies there, and all else lies lower.
            let over = !base.is_none() && base >= extent.to;
            let under = !any && fields.prev < extent.from && !base.is_none() && base < extent.from;
            // Where the image lies there the deltas do not matter.
            let image = !base.is_none() && within(base);
            if over || under || image {
                found.chain.image = base;
                return Ok(Some(found));
            }
            if fields.prev.is_none() || fields.prev >= at {
                return Err(ReadError::Corrupt { page, lsn: at, what: "its chain has no image" });
            }
            at = fields.prev;
        }
    }

    /// Publishes pages that were moved. A cached version stays cached.
    fn finish_moved(&self, prepared: Prepared, content: &Content) {
        let mut last: HashMap<PageId, usize> = HashMap::new();
        last.extend(content.changes.iter().enumerate().map(|(i, c)| (c.page, i)));
        let of = |(page, i)| (page, (prepared.lsn(i), prepared.fields(i)));
        let new: HashMap<PageId, (Lsn, Fields)> = last.into_iter().map(of).collect();
        self.finish(prepared);
        for (page, head) in &content.expected {
            let was = content.moved.get(page).map_or(Lsn::NONE, |m| m.was);
            if let (Some(Cached { bytes, .. }), Some((lsn, now))) = (self.reads.pages.cached(*head), new.get(page)) {
                let base = if now.kind == Kind::Image { *lsn } else { now.base };
                self.reads.pages.keep(*lsn, Cached { bytes, was, base, depth: now.depth });
                self.reads.pages.stale.add([Replaced { old: *head, new: *lsn }]);
            }
        }
    }
}

/// Nothing of the page lies in the extent, as far as its head tells.
fn clears(head: Head, extent: Run) -> bool {
    let outside = |lsn: Lsn| lsn < extent.from || extent.to <= lsn;
    head.depth == 0 && outside(head.lsn) || !head.base.is_none() && head.base >= extent.to
}

pub(super) struct Found {
    head: Head,
    /// What a record that stands for it has to name.
    was: Lsn,
    pub(super) chain: Chain,
}

fn is_image_of(r: &Owned, page: PageId) -> bool {
    r.fields.kind == Kind::Image && r.fields.page == page.0
}

/// Parts of frames of an extent, each of one epoch or of several that follow each other without a gap.
pub(super) fn parts(kept: &[Entry], run: Run, block: u64) -> Vec<(Lsn, Lsn)> {
    let mut parts: Vec<(Lsn, Lsn)> = Vec::new();
    let first = kept.partition_point(|e| e.end <= run.from);
    for entry in kept[first..].iter().take_while(|e| e.begin < run.to) {
        let (mut from, to) = (entry.begin.max(run.from), entry.end.min(run.to));
        while from < to {
            let next = (from.floor(format::FRAME) + format::FRAME).min(to);
            // After a clean end the next epoch begins in the next block: many short ones are read at once.
            let goes_on = |(_, end): &&mut (Lsn, Lsn)| end.ceil(block) == from && from.0 % format::FRAME != 0;
            match parts.last_mut().filter(goes_on) {
                Some((_, end)) => *end = next,
                None => parts.push((from, next)),
            }
            from = next;
        }
    }
    parts
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;

    #[test]
    fn short_lives_that_follow_each_other_are_one_part() {
        const F: u64 = format::FRAME;
        let kept = [(4096, 5000), (8192, F - 8192), (F - 4096, F + 10), (F + 4096, F + 5000), (F + 12288, 3 * F)];
        let entry = |(epoch, (begin, end))| Entry { epoch, begin: Lsn(begin), end: Lsn(end) };
        let kept: Vec<Entry> = (1..).zip(kept).map(entry).collect();
        let of = |from, to| {
            let run = Run { from: Lsn(from), to: Lsn(to) };
            parts(&kept, run, 4096).into_iter().map(|(from, to)| (from.0, to.0)).collect::<Vec<_>>()
        };
        // A gap between epochs, and the end of a frame, end a part.
        let (first, second) = ([(4096, F - 8192), (F - 4096, F)], [(F, F + 5000), (F + 12288, 2 * F)]);
        assert_eq!(of(0, F), first);
        assert_eq!(of(F, 2 * F), second);
        assert_eq!(of(0, 2 * F), [first, second].concat());
    }
}
