//! Appending an MTR: planned against the pages' newest versions, given its addresses, encoded, published.

use crate::bugs::{Bug, planted};
use crate::log::append::{Leaves, Locked, Refused, Reservation};
use crate::log::record::{self, Cpl, Fields, Kind};
use crate::lsn::{Lsn, PageId, format};
use crate::page::overlay::Version;
use crate::page::stale::Replaced;
use crate::page::version::{Cached, Head, Map, head_of};
use crate::spans::{self, At};
use crate::volume::error::{ReadError, WriteError};
use crate::volume::mtr::{Content, What};
use crate::volume::reclaim::CREDIT_WAIT;
use crate::volume::shared::Shared;
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Space that everybody leaves to the table, so that a full volume of moderate size can still write its last checkpoint.
pub(crate) const TABLE_ROOM: u64 = 256 << 10;
/// What MTRs that do nothing but free pages leave to reclaiming beside, as long as that makes room: pages of a whole frame.
const MOVE_ROOM: u64 = format::FRAME + (128 << 10);
/// What users leave to MTRs that free pages.
const FREE_ROOM: u64 = 512 << 10;
/// What users leave of the space ahead, all in all, where the log ends there: a young volume has nothing to move.
pub(crate) fn left(tail: Lsn) -> u64 {
    TABLE_ROOM + (tail.0 / 4).min(MOVE_ROOM + FREE_ROOM)
}
/// Deltas above an image, after which an image is appended instead, if the page is cached.
const DEPTH_TARGET: u8 = 8;
/// ... of small ones: so many take no more than a quarter of an image.
const DEPTH_SMALL: u8 = 16;

/// See [`DEPTH_TARGET`]; of a page to which deltas of so many bytes come.
fn depth_target(page_size: u64, delta: usize) -> u8 {
    let all = u64::from(DEPTH_SMALL) * record::encoded_len(delta, true);
    if all <= page_size / 4 { DEPTH_SMALL } else { DEPTH_TARGET }
}

/// ... whether it is cached or not: the page is read first. No chain is longer.
const DEPTH_MAX: u8 = 32;
const _: () = assert!(crate::page::version::CHAIN_MAX >= DEPTH_MAX as usize);

/// Bytes of images that an MTR of patches may get because they are cached: small patches of many pages must fit an MTR.
const FOLDED_MAX: u64 = format::MTR_MAX / 4;

/// A record that is about to be appended.
struct Planned {
    fields: Fields,
    payload: Bytes,
}

/// An MTR with addresses: to be filled and published.
#[must_use]
pub(crate) struct Prepared {
    reservation: Reservation,
    planned: Vec<Planned>,
    cpl: Cpl,
    /// Pages that were there: the version before, and the records that made the new one.
    changed: Vec<Changed>,
}

/// A page as an MTR leaves it.
struct Folded {
    /// The version that the changes were applied to; none where the MTR brings a whole page itself.
    over: Option<Lsn>,
    image: Bytes,
}

impl Folded {
    fn is_over(&self, before: Option<Head>) -> bool {
        self.over.is_none_or(|lsn| before.is_some_and(|h| h.lsn == lsn))
    }
}

struct Changed {
    before: Lsn,
    records: Vec<usize>,
}

impl Prepared {
    /// Behind the MTR's last record.
    #[cfg(feature = "sim")]
    pub fn end(&self) -> Lsn {
        self.reservation.end
    }

    /// The MTR's first record.
    pub fn begin(&self) -> Lsn {
        self.reservation.records.first().map_or(self.reservation.end, |r| r.0)
    }

    /// Address of record `i`.
    pub fn lsn(&self, i: usize) -> Lsn {
        self.reservation.records[i].0
    }

    /// Of record `i`.
    pub fn fields(&self, i: usize) -> Fields {
        self.planned[i].fields
    }
}

/// Why an MTR was not appended.
#[derive(Debug)]
pub(crate) enum NotAppended {
    /// The ring is full: VDL must move first.
    RingFull,
    /// Space must be allocated first, up to there.
    Space(Lsn),
    /// The log holds what it may.
    Full,
    /// The table or a page moved on meanwhile: plan again.
    Again,
    /// The volume is being rewound.
    Rewinding,
    Wrong(WriteError),
}

impl From<WriteError> for NotAppended {
    fn from(e: WriteError) -> NotAppended {
        NotAppended::Wrong(e)
    }
}

impl From<ReadError> for NotAppended {
    fn from(e: ReadError) -> NotAppended {
        NotAppended::Wrong(e.into())
    }
}

impl Shared {
    /// The expected versions are still the newest.
    pub fn check_expected(&self, content: &Content) -> Result<(), WriteError> {
        for (page, seen) in &content.expected {
            match self.read_newest(*page) {
                Ok(now) if now.lsn() == *seen => (),
                Ok(_) | Err(ReadError::NoSuchPage(_)) => return Err(WriteError::Conflict(*page)),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// The newest records of expected pages: those that were seen, or that reclaiming wrote over them.
    fn expected_heads(
        &self,
        content: &Content,
        heads: &HashMap<PageId, Option<Head>>,
    ) -> Result<Vec<(PageId, Lsn)>, NotAppended> {
        let mut good = Vec::with_capacity(content.expected.len());
        for (page, seen) in &content.expected {
            let conflict = WriteError::Conflict(*page);
            let Some(head) = heads.get(page).copied().flatten() else { return Err(conflict.into()) };
            if head.lsn != *seen {
                // Of a record that is not filled yet nothing can be said.
                if head.lsn >= self.front.published() {
                    return Err(NotAppended::Again);
                }
                if self.reads.pages.known_as(*page, head.lsn)? != *seen {
                    return Err(conflict.into());
                }
            }
            good.push((*page, head.lsn));
        }
        Ok(good)
    }

    /// The newest version of a page under the append lock: layers first, then what the table said before.
    fn newest(map: &Map, page: PageId, in_table: Option<Head>) -> Option<Head> {
        let layers = [Some(&map.current), map.frozen.as_ref()];
        match layers.into_iter().flatten().find_map(|l| l.newest(page)) {
            Some(version) => head_of(version),
            None => in_table,
        }
    }

    /// Plans an MTR, checks it, and gives it its addresses.
    pub fn prepare(&self, content: &Content) -> Result<Prepared, NotAppended> {
        let map = self.reads.pages.map();
        match self.prepare_by(&map, content) {
            // What an older table points to may have been given back meanwhile.
            Err(NotAppended::Wrong(WriteError::Read(_))) if self.reads.pages.map().generation != map.generation => {
                Err(NotAppended::Again)
            }
            other => other,
        }
    }

    fn prepare_by(&self, map: &Map, content: &Content) -> Result<Prepared, NotAppended> {
        let mut heads: HashMap<PageId, Option<Head>> = HashMap::new();
        let touched = content.changes.iter().map(|c| c.page).chain(content.expected.iter().map(|e| e.0));
        for page in touched {
            if let std::collections::hash_map::Entry::Vacant(entry) = heads.entry(page) {
                let head = self.reads.pages.head(map, page, || Lsn::MAX)?;
                entry.insert(head.map(|head| self.reads.pages.informed(head)));
            }
        }
        let (images, freed) = (self.images_for_deep(content, &heads)?, content.freed());
        // A volume that has ended says so, whatever it shows.
        self.check_open()?;
        let expected = self.expected_heads(content, &heads)?;

        spans::mark(At::Planned);
        let mut append = self.front.lock();
        spans::mark(At::Locked);
        self.check_open()?;
        match content.moved.is_empty() {
            true => self.rewinding.check(content.timeline)?,
            false => self.rewinding.check_move()?,
        }
        let map_now = self.reads.pages.map();
        if map_now.generation != map.generation {
            return Err(NotAppended::Again);
        }
        for (page, head) in &mut heads {
            *head = Self::newest(&map_now, *page, *head);
        }
        // What came in between is a conflict, or was moved: that is seen when it is looked at again.
        if expected.iter().any(|(page, good)| heads.get(page).copied().flatten().map(|h| h.lsn) != Some(*good)) {
            return Err(NotAppended::Again);
        }
        for (page, moved) in &content.moved {
            if let (Some(base), Some(head)) = (moved.base, heads.get_mut(page)) {
                *head = Some(Head::image(base));
            }
        }
        let mut planned = Vec::with_capacity(content.changes.len());
        // Depth of each page's newest record within the MTR; none once it is freed.
        let mut made: HashMap<PageId, Option<u8>> = HashMap::new();
        for change in &content.changes {
            let before = heads.get(&change.page).copied().flatten();
            let depth = match made.get(&change.page) {
                Some(depth) => *depth,
                None if change.fresh => Some(0),
                None => before.map(|h| h.depth),
            };
            let Some(depth) = depth else { return Err(WriteError::NoSuchPage(change.page).into()) };
            if let Some(folded) = images.get(&change.page).filter(|f| f.is_over(before)) {
                if made.insert(change.page, Some(0)).is_none() {
                    let fields = Fields { kind: Kind::Image, page: change.page.0, ..Fields::filler() };
                    planned.push(Planned { fields, payload: folded.image.clone() });
                }
                continue;
            }
            let (kind, offset, payload) = match &change.what {
                What::Zero => (Kind::Image, 0, Bytes::new()),
                What::Put(image) => (Kind::Image, 0, image.clone()),
                What::Free => (Kind::Free, 0, Bytes::new()),
                What::Patch { .. } if depth >= DEPTH_MAX && !freed.contains(&change.page) => {
                    return Err(NotAppended::Again);
                }
                What::Patch { offset, bytes } => (Kind::Delta, *offset, bytes.clone()),
            };
            let depth = match kind {
                Kind::Image => Some(0),
                Kind::Delta => Some(depth.saturating_add(1)),
                _ => None,
            };
            made.insert(change.page, depth);
            let fields = Fields { kind, offset, page: change.page.0, ..Fields::filler() };
            planned.push(Planned { fields, payload });
        }
        for (page, moved) in &content.moved {
            if let Some(last) = planned.iter_mut().rfind(|p| p.fields.page == page.0) {
                last.fields.was = moved.was;
            }
        }
        // A full volume still frees pages, gives space back and closes: each leaves something to those behind it.
        let makes_room = !content.moved.is_empty() || content.only_frees();
        let tail = append.tail();
        let nothing_moves = self.nothing_moves.load(Ordering::Relaxed);
        let bytes = match makes_room {
            false => left(tail),
            // Where nothing can be moved any more, what is left to that is for frees.
            true if !content.wide && (!content.moved.is_empty() || nothing_moves) => TABLE_ROOM,
            true => TABLE_ROOM + (left(tail) - TABLE_ROOM).min(MOVE_ROOM),
        };
        let placed = self.place(&mut append, planned, &heads, &map_now, Leaves { bytes, limited: !makes_room })?;
        drop(append);
        if content.moved.is_empty() {
            self.died.tell(content, heads, |page| images.contains_key(&page));
        }
        Ok(placed)
    }

    /// Folds an MTR's changes of a page into one image where its chain would grow too long, and where the page is cached.
    fn images_for_deep(
        &self,
        content: &Content,
        heads: &HashMap<PageId, Option<Head>>,
    ) -> Result<HashMap<PageId, Folded>, NotAppended> {
        let mut images = HashMap::new();
        if !content.moved.is_empty() {
            return Ok(images);
        }
        let mut spare = FOLDED_MAX;
        for (page, depths) in content.depths() {
            let head = heads.get(&page).copied().flatten();
            let below = head.filter(|_| depths.below > 0);
            let unknown = below.is_some_and(|h| h.deeper);
            let over_head = below.map_or(0, |h| usize::from(h.depth)) + depths.below;
            let must = unknown || over_head.max(depths.own) >= usize::from(DEPTH_MAX);
            let size = u64::from(self.geometry.page_size);
            let wanted = below.is_some_and(|h| h.depth >= depth_target(size, depths.largest));
            if !must && (!wanted || spare < size) {
                continue;
            }
            let (over, image) = if depths.stands_alone {
                (None, BytesMut::zeroed(self.geometry.page_size as usize).freeze())
            } else {
                let Some(head) = head else { continue };
                if must && head.lsn >= self.front.published() {
                    // Another thread's reservation, not filled yet: neither the ring nor any slot has it.
                    return Err(NotAppended::Again);
                }
                let image = match self.reads.pages.cached(head.lsn) {
                    Some(cached) => cached.bytes,
                    None if must => self.reads.pages.version(page, head.lsn)?,
                    None => continue,
                };
                (Some(head.lsn), image)
            };
            spare = spare.saturating_sub(size);
            images.insert(page, Folded { over, image: content.folded(page, image) });
        }
        Ok(images)
    }

    /// Reserves, leaving some space to others, links each record to its page's previous one, and makes the new
    /// versions known.
    fn place(
        &self,
        append: &mut Locked<'_>,
        mut planned: Vec<Planned>,
        heads: &HashMap<PageId, Option<Head>>,
        map: &Map,
        leaves: Leaves,
    ) -> Result<Prepared, NotAppended> {
        assert!(!planned.is_empty(), "an MTR without records has no end");
        let last = planned.len() - 1;
        let lengths: Vec<u64> =
            planned.iter().enumerate().map(|(i, p)| record::encoded_len(p.payload.len(), i == last)).collect();
        let reservation = append.reserve_below(&lengths, leaves).map_err(|refused| match refused {
            Refused::Ring => NotAppended::RingFull,
            Refused::Space(end) => NotAppended::Space(end),
            Refused::Full => NotAppended::Full,
            Refused::TooLarge => WriteError::MtrTooLarge { most: format::MTR_MAX }.into(),
            Refused::Shut => WriteError::Closed.into(),
        })?;
        // Of each page its newest record, what it leaves, and where it is among those that changed.
        let mut newest: HashMap<u64, (Lsn, Option<Head>, Option<usize>)> = HashMap::new();
        let mut changed: Vec<Changed> = Vec::new();
        for (i, p) in planned.iter_mut().enumerate() {
            let fields = &mut p.fields;
            if !matches!(fields.kind, Kind::Image | Kind::Delta | Kind::Free) {
                continue;
            }
            let (page, lsn) = (fields.page, reservation.records[i].0);
            let (before, mut at) = match newest.get(&page) {
                Some((_, head, at)) => (*head, *at),
                None => (heads.get(&PageId(page)).copied().flatten(), None),
            };
            fields.prev = before.map_or(Lsn::NONE, |h| h.lsn);
            match at {
                Some(mine) => changed[mine].records.push(i),
                None if !fields.prev.is_none() => {
                    at = Some(changed.len());
                    changed.push(Changed { before: fields.prev, records: vec![i] });
                }
                None => (),
            }
            let head = match (fields.kind, before) {
                (Kind::Delta, Some(h)) => {
                    fields.base = if h.depth == 0 { h.lsn } else { h.base };
                    fields.depth = h.depth.saturating_add(1);
                    Some(Head { lsn, base: fields.base, depth: fields.depth, deeper: false })
                }
                (kind, _) => (kind == Kind::Image).then_some(Head::image(lsn)),
            };
            newest.insert(page, (lsn, head, at));
        }
        let pins = self.reads.views.lock().pins();
        for (page, (lsn, head, _)) in newest {
            let moved = || planned.iter().rfind(|p| p.fields.page == page).is_some_and(|p| !p.fields.was.is_none());
            if planted(Bug::MoveUntold) && moved() {
                continue;
            }
            let freed = Head { base: Lsn::NONE, ..Head::image(lsn) };
            let h = head.unwrap_or(freed);
            let version = Version { lsn: h.lsn, base: h.base, depth: h.depth, free: head.is_none() };
            map.current.push(PageId(page), version, append.vdl(), &pins);
        }
        let cpl = Cpl { wall_us: self.clock.wall_us(), vdl: reservation.vdl };
        self.rewinding.stamped(cpl.wall_us);
        Ok(Prepared { reservation, planned, cpl, changed })
    }

    /// Gives addresses to records of the table, a manifest or a filler: an MTR of their own.
    pub fn prepare_table(&self, records: Vec<(Fields, Bytes)>) -> Result<Prepared, NotAppended> {
        let mut append = self.front.lock();
        if let Some(ended) = self.tickets.ended() {
            return Err(WriteError::ReadOnly(ended.to_string()).into());
        }
        let planned = records.into_iter().map(|(fields, payload)| Planned { fields, payload }).collect();
        let map = self.reads.pages.map();
        let leaves = Leaves { bytes: 0, limited: false };
        self.place(&mut append, planned, &HashMap::new(), &map, leaves)
    }

    /// Encodes and publishes. Returns the MTR's end.
    pub fn finish(&self, prepared: Prepared) -> Lsn {
        let Prepared { reservation, planned, cpl, changed } = prepared;
        let (end, last) = (reservation.end, planned.len() - 1);
        spans::mark(At::Placed);
        for (i, p) in planned.iter().enumerate() {
            self.front.fill(&reservation, i, &p.fields, (i == last).then_some(cpl), &p.payload);
        }
        let at: Vec<Lsn> = changed.iter().filter_map(|c| Some(reservation.records[*c.records.last()?].0)).collect();
        // Before it can be read: whoever has read it and waits for what is appended waits for it.
        self.appended.fetch_max(end.0, Ordering::SeqCst);
        self.front.publish(reservation);
        spans::mark(At::Encoded);
        self.cache_changed(&changed, &at, &planned);
        end
    }

    /// A cached page stays cached: its new version is made now, from the old one, which nobody reads once the new one is
    /// durable.
    fn cache_changed(&self, changed: &[Changed], at: &[Lsn], planned: &[Planned]) {
        let pages = &self.reads.pages;
        let mut replaced = Vec::with_capacity(changed.len());
        for (Changed { before, records, .. }, new) in changed.iter().zip(at) {
            let Some(old) = pages.cached(*before) else { continue };
            replaced.push(Replaced { old: *before, new: *new });
            let changes: Vec<&Planned> = records.iter().map(|i| &planned[*i]).collect();
            let Some(last) = changes.last().map(|c| c.fields).filter(|f| f.kind != Kind::Free) else { continue };
            // From the last image on, or else over the version before.
            let image = changes.iter().rposition(|c| c.fields.kind != Kind::Delta);
            let mut page = match image.map(|i| changes[i]) {
                Some(image) if image.payload.is_empty() => vec![0; self.geometry.page_size as usize],
                Some(image) => image.payload.to_vec(),
                None => old.bytes.to_vec(),
            };
            for delta in &changes[image.map_or(0, |i| i + 1)..] {
                let at = delta.fields.offset as usize;
                page[at..at + delta.payload.len()].copy_from_slice(&delta.payload);
            }
            let base = if last.kind == Kind::Image { *new } else { last.base };
            pages.keep(*new, Cached { bytes: page.into(), was: last.was, base, depth: last.depth });
        }
        pages.drop_stale(self.tickets.vdl(), replaced.len() + 1, |r| self.reads.views.lock().any_between(r.old, r.new));
        pages.stale.add(replaced);
    }

    /// Appends with waiting: for the ring, for space, for other threads' fills. Returns the MTR's end.
    pub fn append(&self, content: &Content) -> Result<Lsn, WriteError> {
        self.append_with(|| self.prepare(content))
    }

    pub fn append_with(&self, mut prepare: impl FnMut() -> Result<Prepared, NotAppended>) -> Result<Lsn, WriteError> {
        let begun = self.clock.now();
        let deadline = begun.saturating_add(self.options.stall_max);
        let (mut asked, mut full) = (false, false);
        let mut waited = false;
        loop {
            let turn = self.progress.turn();
            if self.pressure.is_on() && self.clock.now() < begun + CREDIT_WAIT {
                // The log would grow faster than space comes back.
                self.background.wake();
                self.wait_for_word(turn, Duration::from_millis(10));
                self.check_open()?;
                continue;
            }
            if self.overlay_is_full() {
                // The checkpoint under way must end first: memory is bounded.
                self.background.wake_now();
                self.wait_for_word(turn, Duration::from_millis(20));
                self.check_open()?;
                if self.clock.now() < deadline {
                    continue;
                }
            }
            let needed = match prepare() {
                Ok(prepared) => {
                    let begin = prepared.begin();
                    let end = self.finish(prepared);
                    self.pressure.appended(end - begin);
                    self.front.wait_published(end, self.options.stall_max);
                    self.last_commit_us.store(self.clock.now().as_micros() as u64, Ordering::Relaxed);
                    // While a group is on its way the next one fills, and whoever brings that, or waits for this, sends it
                    // off: else a fast disk would get a write for each small commit.
                    if self.idle.load(Ordering::SeqCst) || self.is_driven() {
                        self.pump_soon();
                    }
                    self.background.wake();
                    self.drive();
                    return Ok(end);
                }
                Err(NotAppended::Wrong(e)) => return Err(e),
                Err(NotAppended::Again) => {
                    self.front.wait_published(self.front.tail(), Duration::from_millis(1));
                    self.check_open()?;
                    continue;
                }
                Err(NotAppended::Rewinding) => {
                    self.background.wake();
                    self.wait_for_word(turn, Duration::from_millis(20));
                    self.check_open()?;
                    if self.clock.now() < deadline {
                        continue;
                    }
                    let why = format!("it is being rewound for more than {:?}", self.options.stall_max);
                    return Err(WriteError::ReadOnly(why));
                }
                Err(NotAppended::RingFull) => 0,
                Err(NotAppended::Full) => {
                    if !std::mem::replace(&mut asked, true) {
                        self.ask_for_room();
                    }
                    if !self.makes_room() {
                        return Err(self.volume_full(self.front.tail()));
                    }
                    full = true;
                    1
                }
                Err(NotAppended::Space(end)) => {
                    if !std::mem::replace(&mut waited, true) {
                        self.space_waits.fetch_add(1, Ordering::Relaxed);
                    }
                    if !self.engine().want_space(end, self.clock.now()) {
                        if !std::mem::replace(&mut asked, true) {
                            self.ask_for_room();
                        }
                        if !self.makes_room() && self.nothing_moves.swap(true, Ordering::Relaxed) {
                            return Err(WriteError::OutOfSpace { needed: end.0.saturating_sub(self.front.tail().0) });
                        }
                    }
                    // Others may have appended past it meanwhile.
                    end.0.saturating_sub(self.front.tail().0).max(1)
                }
            };
            self.check_open()?;
            if self.clock.now() >= deadline {
                if full {
                    return Err(self.volume_full(self.front.tail()));
                }
                if needed > 0 {
                    return Err(WriteError::OutOfSpace { needed });
                }
                let why = format!("nothing could be appended for {:?}", self.options.stall_max);
                return Err(WriteError::ReadOnly(why));
            }
            self.background.wake();
            if needed == 0 {
                self.wait_decided(self.tickets.vdl() + 1, Duration::from_millis(100));
            } else {
                self.wait_for_word(turn, Duration::from_millis(100));
            }
        }
    }
}
