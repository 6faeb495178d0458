//! Appending: reserve, fill, publish. A reservation is a value; threads fill theirs side by side, publication is in order.
//!
//! Under the append lock an MTR gets its addresses; outside of it its records are encoded into the ring; then it is
//! published. Groups are closed here too: by a record that does not fit the frame any more, or by [`Front::seal`].

use crate::bugs::{Bug, planted};
use crate::log::group;
use crate::log::record::{self, Cpl, Fields};
use crate::log::ring::{self, Frame, Ring};
use crate::lsn::{Lsn, format};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::time::Duration;

/// The appending side of an open volume.
pub struct Front {
    seed: u32,
    epoch: u64,
    block: u64,
    pub ring: Ring,
    state: Mutex<Append>,
    /// Everything below is filled. Only ever raised under the lock, after the fills.
    published: AtomicU64,
    filled: Condvar,
}

/// What the append lock guards.
pub struct Append {
    /// The next byte to reserve.
    tail: Lsn,
    /// The open group's first byte, and behind its last record that ends an MTR.
    group: Option<(Lsn, Option<Lsn>)>,
    /// Reservations not yet published, oldest first.
    pending: VecDeque<Pending>,
    next_ticket: u64,
    /// Groups that are closed and not yet taken by the writer.
    sealed: VecDeque<Sealed>,
    /// Appends are accepted below: space that is allocated on four slots.
    space: Lsn,
    /// What makes no room ends below.
    limit: Lsn,
    /// Below is durable; the ring keeps what is above.
    vdl: Lsn,
    /// Nothing is reserved any more.
    shut: bool,
    waiting: usize,
}

struct Pending {
    ticket: u64,
    begin: Lsn,
    done: bool,
}

/// A closed group: it can be written once it is published.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sealed {
    pub begin: Lsn,
    pub end: Lsn,
    /// Behind the last record in it that ends an MTR.
    pub cpl: Option<Lsn>,
}

/// The addresses of one MTR. It must be published, whatever happens: everything behind it waits.
#[must_use]
pub struct Reservation {
    ticket: u64,
    /// Address and length of each record.
    pub records: Vec<(Lsn, u64)>,
    /// Behind the last record.
    pub end: Lsn,
    /// The VDL known, for the record that ends the MTR.
    pub vdl: Lsn,
    frames: Vec<Arc<Frame>>,
}

/// What an MTR leaves to others of the space ahead, and whether the limit of what the log may hold is for it.
#[derive(Clone, Copy, Debug)]
pub struct Leaves {
    pub bytes: u64,
    pub limited: bool,
}

/// Why nothing was reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The ring is full: wait until VDL has moved.
    Ring,
    /// The space ahead is not allocated on four slots yet, up to here: wait, or there is none.
    Space(Lsn),
    /// The log would hold more than it may.
    Full,
    /// Longer than an MTR may be, filler included.
    TooLarge,
    /// The volume closes: the log has its end.
    Shut,
}

/// Where records would come to lie: the arithmetic of groups, without touching anything.
#[derive(Clone, Copy)]
struct Cursor {
    tail: Lsn,
    open: Option<Lsn>,
}

/// One step of placing a record.
struct Placed {
    /// The group that had to be closed first, from its filler on: (where the filler begins, the group's end).
    closes: Option<(Lsn, Lsn)>,
    record: (Lsn, u64),
    /// The record ends its frame: the group is closed without a filler.
    fills: bool,
}

impl Cursor {
    fn place(&mut self, len: u64, block: u64) -> Placed {
        let mut closes = None;
        let mut at = self.tail + if self.open.is_none() { group::HEADER as u64 } else { 0 };
        let frame_end = |at: Lsn| at.floor(format::FRAME) + format::FRAME;
        if at + len > frame_end(at) {
            let end = frame_end(at);
            closes = Some((at, end));
            (self.open, self.tail) = (None, end);
            at = end + group::HEADER as u64;
        }
        if self.open.is_none() {
            self.open = Some(self.tail);
        }
        // A remainder too short for a filler belongs to the record before it.
        let rest = (at + len).ceil(block) - (at + len);
        let len = if rest < record::HEADER as u64 { len + rest } else { len };
        self.tail = at + len;
        let fills = self.tail == frame_end(at);
        if fills {
            self.open = None;
        }
        Placed { closes, record: (at, len), fills }
    }
}

impl Front {
    /// A front whose first group begins at `begin`, in `epoch`. No space is accepted before [`Front::set_space`].
    pub fn new(seed: u32, epoch: u64, block: u64, begin: Lsn) -> Front {
        assert!(begin.0.is_multiple_of(block));
        Front {
            seed,
            epoch,
            block,
            ring: Ring::new(),
            state: Mutex::new(Append {
                tail: begin,
                group: None,
                pending: VecDeque::new(),
                next_ticket: 0,
                sealed: VecDeque::new(),
                space: Lsn::NONE,
                limit: Lsn::MAX,
                vdl: begin,
                shut: false,
                waiting: 0,
            }),
            published: AtomicU64::new(begin.0),
            filled: Condvar::new(),
        }
    }

    /// The append lock. Whoever holds it decides what comes next in the log; it is held for no I/O.
    pub fn lock(&self) -> Locked<'_> {
        Locked { front: self, state: self.state.lock() }
    }

    /// Everything below is filled and may be read from the ring while it is there.
    pub fn published(&self) -> Lsn {
        Lsn(self.published.load(Ordering::Acquire))
    }

    /// Encodes one record of a reservation into the ring.
    pub fn fill(&self, of: &Reservation, index: usize, fields: &Fields, cpl: Option<Cpl>, payload: &[u8]) {
        let (lsn, len) = of.records[index];
        let base = lsn.floor(format::FRAME);
        let Some(frame) = of.frames.iter().find(|f| f.base() == base) else {
            unreachable!("a reservation holds the frames of its records")
        };
        // SAFETY: the range is this reservation's, which is not published: `publish` takes it by value.
        #[allow(unsafe_code)]
        unsafe {
            frame.fill(lsn, len as usize, |out| record::encode(out, self.seed, lsn, self.epoch, fields, cpl, payload));
        }
    }

    /// The MTR is filled. It becomes readable, and can be written, when all before it are filled too.
    pub fn publish(&self, reservation: Reservation) {
        let mut state = self.state.lock();
        if let Some(mine) = state.pending.iter_mut().find(|p| p.ticket == reservation.ticket) {
            mine.done = true;
        }
        while state.pending.front().is_some_and(|p| p.done) {
            state.pending.pop_front();
        }
        let mark = state.filled_to();
        self.published.store(mark.0, Ordering::Release);
        if state.waiting > 0 {
            self.filled.notify_all();
        }
    }

    /// Hands the record at `lsn` to `f` if it is published and still in the ring.
    pub fn with_record<R>(&self, lsn: Lsn, f: impl FnOnce(&record::Record<'_>) -> R) -> Option<R> {
        let published = self.published();
        if lsn >= published {
            return None;
        }
        let frame = self.ring.get(lsn)?;
        // Only the record's own bytes: an open group's header, which may lie behind it, is not written yet.
        let room = published.min(frame.base() + format::FRAME) - lsn;
        if room < record::HEADER as u64 {
            return None;
        }
        // SAFETY: both ranges are below the published mark, which was seen, and a record holds no group header; the
        // frame is held, so it is not reused.
        #[allow(unsafe_code)]
        unsafe {
            let len = frame.read(lsn, record::HEADER, record::claimed_len).filter(|len| *len <= room)?;
            frame.read(lsn, len as usize, |bytes| record::decode(bytes, lsn, self.seed).ok().map(|r| f(&r)))
        }
    }

    /// Waits until everything below `end` is published: other threads' fills are short, and nothing else is waited for.
    pub fn wait_published(&self, end: Lsn, most: Duration) -> bool {
        if self.published() >= end {
            return true;
        }
        let mut state = self.state.lock();
        state.waiting += 1;
        while self.published() < end {
            if self.filled.wait_for(&mut state, most).timed_out() {
                break;
            }
        }
        state.waiting -= 1;
        self.published() >= end
    }

    /// Closes the open group with a filler to the block's end, if it has a record. True if there was one to close.
    pub fn seal(&self) -> bool {
        self.lock().seal()
    }

    /// Takes the next closed group that is published whole.
    pub fn next_sealed(&self) -> Option<Sealed> {
        let mut state = self.state.lock();
        let mark = state.filled_to();
        state.sealed.pop_front_if(|s| s.end <= mark)
    }

    /// There is an open group with records in it.
    pub fn has_open_group(&self) -> bool {
        self.state.lock().group.is_some()
    }

    /// Appends are accepted below `space` from now on.
    pub fn set_space(&self, space: Lsn) {
        self.state.lock().space = space;
    }

    /// The log may hold no more than what lies below, but for what makes room, or closes.
    pub fn set_limit(&self, limit: Lsn) {
        self.state.lock().limit = limit;
    }

    /// VDL has moved: the ring may reuse what is below.
    pub fn set_vdl(&self, vdl: Lsn) {
        self.state.lock().vdl = vdl;
    }

    /// The next byte to be reserved.
    pub fn tail(&self) -> Lsn {
        self.state.lock().tail
    }

    /// Writes the filler and the header of a group whose frame is in the ring, and hands it on.
    fn close(&self, state: &mut Append, begin: Lsn, cpl: Option<Lsn>, from: Lsn, end: Lsn) {
        let Some(frame) = self.ring.get(begin) else { unreachable!("the newest frame is in the ring") };
        let filler = (end - from) as usize;
        // SAFETY: both ranges belong to the append lock's holder: no reservation covers headers and fillers, and the
        // group is published only behind this call (its end is above the published mark until then).
        #[allow(unsafe_code)]
        unsafe {
            if filler > 0 {
                let fields = Fields::filler();
                frame.fill(from, filler, |out| record::encode(out, self.seed, from, self.epoch, &fields, None, &[]));
            }
            frame.fill(begin, group::HEADER, |out| {
                group::encode_header(out, self.seed, begin, self.epoch, end - begin);
            });
        }
        state.group = None;
        state.sealed.push_back(Sealed { begin, end, cpl });
    }
}

impl Append {
    fn filled_to(&self) -> Lsn {
        let unfilled = self.pending.front().filter(|_| !planted(Bug::PublishOutOfOrder));
        unfilled.map_or(self.tail, |p| p.begin)
    }
}

/// The append lock, held.
pub struct Locked<'a> {
    front: &'a Front,
    state: MutexGuard<'a, Append>,
}

impl Locked<'_> {
    /// The next byte to be reserved: every record that is appended later lies at or above.
    pub fn tail(&self) -> Lsn {
        self.state.tail
    }

    /// Below is durable and was made known.
    /// Appends are accepted below.
    pub fn space(&self) -> Lsn {
        self.state.space
    }

    pub fn vdl(&self) -> Lsn {
        self.state.vdl
    }

    /// [`Front::seal`], under the lock that is held: the tail is at a block's beginning afterwards.
    pub fn seal(&mut self) -> bool {
        let (front, state) = (self.front, &mut *self.state);
        let Some((begin, cpl)) = state.group else { return false };
        let (from, end) = (state.tail, state.tail.ceil(front.block));
        front.close(state, begin, cpl, from, end);
        state.tail = end;
        front.published.store(state.filled_to().0, Ordering::Release);
        true
    }

    /// Nothing is reserved from here on: a clean mark is true only if nothing can follow it.
    pub fn shut(&mut self) {
        self.state.shut = true;
    }

    /// Gives an MTR its addresses: records of these lengths, the last of which ends it.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn reserve(&mut self, lengths: &[u64]) -> Result<Reservation, Refused> {
        self.reserve_below(lengths, Leaves { bytes: 0, limited: false })
    }

    /// ... and leaves some of the space ahead to others.
    pub fn reserve_below(&mut self, lengths: &[u64], leaves: Leaves) -> Result<Reservation, Refused> {
        let (front, block) = (self.front, self.front.block);
        let state = &mut *self.state;
        if state.shut {
            return Err(Refused::Shut);
        }
        // Dry, so that a refusal changes nothing.
        let mut cursor = Cursor { tail: state.tail, open: state.group.map(|g| g.0) };
        let mut frames: Vec<Arc<Frame>> = Vec::with_capacity(1);
        let mut bases: Vec<Lsn> = Vec::with_capacity(1);
        for &len in lengths {
            let placed = cursor.place(len, block);
            for lsn in
                placed.closes.iter().map(|c| c.0.floor(format::FRAME)).chain([placed.record.0.floor(format::FRAME)])
            {
                // A filler may lie in the frame before, which no record of this MTR touches: it must be in the ring too.
                if bases.last() != Some(&lsn) {
                    bases.push(lsn);
                }
            }
        }
        let end = cursor.tail;
        if end.ceil(block) - state.tail > format::MTR_MAX {
            return Err(Refused::TooLarge);
        }
        if leaves.limited && end > state.limit {
            return Err(Refused::Full);
        }
        let needed = end.ceil(block) + leaves.bytes;
        if needed > state.space {
            return Err(Refused::Space(needed));
        }
        if end.ceil(format::FRAME) > state.vdl.floor(format::FRAME) + ring::SPAN {
            return Err(Refused::Ring);
        }
        for base in bases {
            let frame = match front.ring.get(base) {
                Some(frame) => frame,
                None => front.ring.open(base).map_err(|_| Refused::Ring)?,
            };
            frames.push(frame);
        }
        // In earnest.
        let mut cursor = Cursor { tail: state.tail, open: state.group.map(|g| g.0) };
        let mut records = Vec::with_capacity(lengths.len());
        let begin = state.tail;
        for (i, &len) in lengths.iter().enumerate() {
            let placed = cursor.place(len, block);
            if let Some((from, end)) = placed.closes {
                let (group, cpl) = state.group.unwrap_or((from.floor(block), None));
                front.close(state, group, cpl, from, end);
            }
            let mut group = state.group.unwrap_or((placed.record.0.floor(block), None));
            let (lsn, len) = placed.record;
            if i + 1 == lengths.len() {
                group.1 = Some(lsn + len);
            }
            state.group = Some(group);
            if placed.fills {
                let end = lsn + len;
                front.close(state, group.0, group.1, end, end);
            }
            records.push((lsn, len));
        }
        state.tail = cursor.tail;
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.pending.push_back(Pending { ticket, begin, done: false });
        Ok(Reservation { ticket, records, end: cursor.tail, vdl: state.vdl, frames })
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use crate::log::record::Kind;
    use proptest::prelude::*;

    const BLOCK: u64 = 4096;

    fn fields() -> Fields {
        Fields { kind: Kind::Image, depth: 0, offset: 0, page: 1, ..Fields::filler() }
    }

    fn front() -> Front {
        let front = Front::new(3, 1, BLOCK, Lsn(BLOCK));
        front.set_space(Lsn::MAX);
        front
    }

    fn append(front: &Front, payloads: &[usize]) -> Result<Reservation, Refused> {
        let last = payloads.len() - 1;
        let lengths: Vec<u64> = payloads.iter().enumerate().map(|(i, &p)| record::encoded_len(p, i == last)).collect();
        let reservation = front.lock().reserve(&lengths)?;
        for (i, &p) in payloads.iter().enumerate() {
            front.fill(&reservation, i, &fields(), (i == last).then(Cpl::default), &vec![i as u8; p]);
        }
        Ok(reservation)
    }

    /// Every sealed group verifies, they tile the log, and the records in them are the ones that were appended.
    fn check(front: &Front, mut at: Lsn, lens: &mut VecDeque<usize>) -> Lsn {
        while let Some(s) = front.next_sealed() {
            assert_eq!(s.begin, at);
            let frame = front.ring.get(s.begin).expect("in the ring");
            let bytes = {
                #[allow(unsafe_code)]
                // SAFETY: the group was published.
                unsafe {
                    frame.read(s.begin, (s.end - s.begin) as usize, <[u8]>::to_vec)
                }
            };
            let sum = group::verify(&bytes, s.begin, 3, |r| {
                if r.fields.kind != Kind::Filler {
                    assert_eq!(Some(r.payload.len()), lens.pop_front());
                }
            })
            .expect("valid");
            assert_eq!((sum.header.len, sum.cpl_end), (s.end - s.begin, s.cpl));
            at = s.end;
        }
        at
    }

    proptest! {
        #[test]
        fn groups_tile_the_log_and_verify(mtrs in prop::collection::vec((prop::collection::vec(0usize..70_000, 1..6), any::<bool>()), 1..60)) {
            let front = front();
            let (mut at, mut lens) = (Lsn(BLOCK), VecDeque::new());
            for (payloads, seal) in mtrs {
                let r = append(&front, &payloads).expect("room");
                lens.extend(&payloads);
                front.publish(r);
                if seal { front.seal(); }
                at = check(&front, at, &mut lens);
                front.set_vdl(at);
            }
            front.seal();
            let at = check(&front, at, &mut lens);
            prop_assert_eq!(at, front.tail());
            prop_assert!(lens.is_empty());
        }
    }

    #[test]
    fn publication_is_in_order() {
        let front = front();
        let first = append(&front, &[100]).unwrap();
        let second = append(&front, &[100]).unwrap();
        let end = second.end;
        front.publish(second);
        assert_eq!(front.published(), Lsn(BLOCK));
        assert!(front.seal());
        assert_eq!(front.next_sealed(), None, "the first is not filled");
        front.publish(first);
        assert!(front.published() >= end);
        assert_eq!(front.next_sealed().map(|s| (s.begin, s.end, s.cpl)), Some((Lsn(BLOCK), Lsn(2 * BLOCK), Some(end))));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let front = front();
        assert_eq!(append(&front, &[60_000; 150]).err(), Some(Refused::TooLarge));
        let mut n = 0;
        let refused = loop {
            match append(&front, &[60_000; 16]) {
                Ok(r) => front.publish(r),
                Err(e) => break e,
            }
            n += 1;
        };
        assert_eq!((refused, front.tail() < Lsn(ring::SPAN)), (Refused::Ring, true));
        assert!(n >= 14);
        let tail = front.tail();
        assert_eq!(append(&front, &[60_000; 16]).err(), Some(Refused::Ring));
        assert_eq!(front.tail(), tail);
        front.set_vdl(tail);
        front.set_space(tail);
        assert_eq!(append(&front, &[1]).err(), Some(Refused::Space(tail.ceil(BLOCK))));
        front.set_space(Lsn::MAX);
        // A limit is not for those who make room.
        let lengths = [record::encoded_len(1, true)];
        let (user, maker) = (Leaves { bytes: 0, limited: true }, Leaves { bytes: 0, limited: false });
        front.set_limit(tail);
        assert_eq!(front.lock().reserve_below(&lengths, user).err(), Some(Refused::Full));
        assert_eq!(front.tail(), tail);
        front.set_limit(tail + group::HEADER as u64 + lengths[0]);
        let fits = front.lock().reserve_below(&lengths, user).unwrap();
        front.publish(fits);
        assert_eq!(front.lock().reserve_below(&lengths, user).err(), Some(Refused::Full));
        let last = front.lock().reserve_below(&lengths, maker).unwrap();
        front.publish(last);
        let tail = front.tail();
        front.lock().shut();
        assert_eq!(append(&front, &[1]).err(), Some(Refused::Shut));
        assert_eq!(front.tail(), tail);
    }

    #[test]
    fn who_waits_for_anothers_fill_is_woken() {
        let front = front();
        let (first, second) = (append(&front, &[100]).unwrap(), append(&front, &[100]).unwrap());
        let (end, begun) = (second.end, std::time::Instant::now());
        front.publish(second);
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(front.wait_published(end, std::time::Duration::from_secs(20))));
            std::thread::sleep(std::time::Duration::from_millis(100));
            front.publish(first);
        });
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "it waited for the clock");
    }
}
