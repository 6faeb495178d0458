//! What clients do: MTRs that are made, reserved, held, published; reads; views. And what they must see.

use crate::disk;
use crate::lsn::PageId;
use crate::sim::dir::do_job;
use crate::sim::life::{BRINK, Checked, Held, PAGE, Running, Sim};
use crate::sim::model::{Effect, Image, ModelMtr, State};
use crate::volume::append::NotAppended;
use crate::volume::error::{ReadError, WriteError};
use crate::volume::mtr::Mtr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

/// Pages all of whose bytes are alike, by that byte.
static PLAIN: LazyLock<Vec<Image>> = LazyLock::new(|| (0..=u8::MAX).map(|b| Arc::new(vec![b; PAGE])).collect());

impl Sim {
    /// A client makes an MTR and gets it its addresses; it is filled and published in a later step.
    pub fn reserve(&self, which: usize) -> Checked {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut() else { return Ok(()) };
        if running.held.len() >= 4 || running.closing.is_some() {
            return Ok(());
        }
        let mut mtr = Mtr::new(running.shared.clone());
        let mut effects = Vec::new();
        let mut state = running.newest.clone();
        for _ in 0..1 + self.below(4) {
            self.change(&mut mtr, &mut state, &mut effects);
        }
        // Now and then one that spans groups: a crash may leave half of it.
        let near = self.temper.brink && running.shared.front.tail() < BRINK;
        let heavy = self.temper.heavy || near;
        let large = heavy && self.one_in(if near { 2 } else { 4 }) || self.temper.large && self.one_in(40);
        let again = self.temper.reclaims && self.one_in(if self.temper.calm { 2 } else { 4 });
        if large || again {
            // Several writes long, so that one lies across with its end still to come.
            let (least, more) = match (near, large) {
                (true, _) => (300, 600),
                (_, true) => (100, 300),
                _ => (50, 100),
            };
            let (pages, before): (Vec<PageId>, usize) = (state.keys().copied().collect(), effects.len());
            for _ in 0..least + self.below(more) {
                self.put_again(&pages, &mut mtr, &mut effects);
            }
            effects[before..].iter().for_each(|e| e.apply(&mut state));
        }
        // An expectation holds if nothing that is reserved and not yet published touches the page.
        let mut conflict = false;
        if self.one_in(5) {
            let pages: Vec<PageId> = running.newest.keys().copied().collect();
            let picked = self.world.lock().random.pick(&pages);
            if let Some(page) = picked
                && let Ok(seen) = running.shared.read_newest(page)
            {
                let model = self.model.borrow();
                let published = running.shared.front.published();
                let unpublished = running.mtrs.iter().map(|i| &model.mtrs[*i]).filter(|m| m.end > published);
                conflict = unpublished.flat_map(|m| &m.effects).any(|e| e.touches(page));
                mtr.expect(&seen);
            }
        }
        let content = match mtr.content() {
            Ok(content) if content.changes.is_empty() => return Ok(()),
            Ok(content) => content,
            Err(e) => return Err(format!("a right MTR is refused: {e}")),
        };
        let mut prepared = running.shared.prepare(content);
        // A client waits for space; here its slots' workers get their turn at once.
        if let Err(NotAppended::Space(end)) = prepared {
            let now = self.world.lock().now;
            running.shared.engine().want_space(end, now);
            for _ in 0..12 {
                do_job(&self.world, running.process);
            }
            running.shared.pump();
            prepared = running.shared.prepare(content);
        }
        match prepared {
            Ok(_) if conflict => Err("an MTR is appended though an expected page has changed".into()),
            Ok(prepared) => {
                let end = prepared.end();
                let mut model = self.model.borrow_mut();
                let index = model.mtrs.len();
                self.world.lock().note(format_args!("p{} reserves MTR {index}, ends at {end}", running.process));
                let epoch = running.shared.number;
                model.mtrs.push(ModelMtr { epoch, end, effects, acknowledged: false, seen: None });
                running.mtrs.push(index);
                running.newest = state;
                running.held.push(Held { prepared, mtr, index });
                self.world.lock().counts.commits += 1;
                Ok(())
            }
            Err(
                NotAppended::RingFull
                | NotAppended::Rewinding
                | NotAppended::Again
                | NotAppended::Space(_)
                | NotAppended::Full,
            ) => Ok(()),
            Err(NotAppended::Wrong(WriteError::ReadOnly(_) | WriteError::Closed | WriteError::MtrTooLarge { .. })) => {
                Ok(())
            }
            Err(NotAppended::Wrong(WriteError::Conflict(_))) if conflict => Ok(()),
            Err(NotAppended::Wrong(WriteError::Read(ReadError::Lost { .. }))) if !self.promised() => Ok(()),
            // Its successor has given back what it stands on.
            Err(NotAppended::Wrong(WriteError::Read(ReadError::ReadPointGone(_))))
                if self.world.lock().is_overtaken(running.process) =>
            {
                Ok(())
            }
            Err(NotAppended::Wrong(_)) if !self.world.lock().is_alive(running.process) => Ok(()),
            Err(NotAppended::Wrong(e)) => Err(format!("a right MTR is refused: {e}")),
        }
    }

    /// One random change of one page.
    fn change(&self, mtr: &mut Mtr, state: &mut State, effects: &mut Vec<Effect>) {
        let pages: Vec<PageId> = state.keys().copied().collect();
        let mut w = self.world.lock();
        let Some(page) = w.random.pick(&pages) else { return };
        let effect = match w.random.below(10) {
            0..5 => {
                let len = 1 + w.random.below(200);
                let at = w.random.below(PAGE - len);
                let bytes = w.random.bytes(len);
                mtr.patch(page, at as u32, &bytes);
                Effect::Patch(page, at, bytes)
            }
            5..7 => {
                let image = w.random.bytes(PAGE);
                mtr.put(page, image.clone());
                Effect::Put(page, image.into())
            }
            7 if pages.len() > 8 && page != PageId::ROOT => {
                mtr.free(page);
                Effect::Free(page)
            }
            _ if pages.len() < 24 => {
                let Ok(page) = mtr.alloc() else { return };
                let image = if w.random.one_in(3) { vec![0; PAGE] } else { w.random.bytes(PAGE) };
                if image.iter().any(|b| *b != 0) {
                    mtr.put(page, image.clone());
                }
                Effect::Put(page, image.into())
            }
            _ => return,
        };
        effect.apply(state);
        effects.push(effect);
    }

    /// The whole of some page, again.
    fn put_again(&self, pages: &[PageId], mtr: &mut Mtr, effects: &mut Vec<Effect>) {
        let mut w = self.world.lock();
        let Some(page) = w.random.pick(pages) else { return };
        let image = &PLAIN[usize::from(w.random.next() as u8)];
        mtr.put(page, disk::owned(image.clone()));
        effects.push(Effect::Put(page, image.clone()));
    }

    pub fn publish(&self, which: usize) {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| !r.held.is_empty()) else { return };
        let at = self.below(running.held.len());
        let Held { prepared, mut mtr, index } = running.held.swap_remove(at);
        let end = running.shared.finish(prepared);
        mtr.appended();
        let now = running.shared.clock.now().as_micros() as u64;
        running.shared.last_commit_us.store(now, Ordering::Relaxed);
        self.world.lock().note(format_args!("p{} publishes MTR {index}, ends at {end}", running.process));
        running.shared.pump();
    }

    /// Reads a page: the newest published version.
    pub fn read(&self, which: usize) -> Checked {
        let slot = self.running[which].borrow();
        let Some(running) = slot.as_ref() else { return Ok(()) };
        let shared = &running.shared;
        let at = if shared.tickets.is_over() { shared.tickets.vdl() } else { shared.front.published() };
        let at = shared.rewinding.cap(at);
        let page = PageId(self.below(30) as u64);
        self.forget(running);
        let want = running.page_at(&self.model.borrow(), page, at);
        let got = shared.read_newest(page);
        self.check_page_of(running.process, page, got, want.as_ref(), "a read")
    }

    /// What a writer shows. Once it is overtaken its successor may have given back what it stands on.
    pub fn check_page_of(
        &self,
        process: usize,
        page: PageId,
        got: Result<crate::Page, ReadError>,
        want: Option<&Image>,
        who: &str,
    ) -> Checked {
        match got {
            // It died in the midst of it.
            Err(_) if !self.world.lock().is_alive(process) => Ok(()),
            Err(ReadError::ReadPointGone(_)) if self.world.lock().is_overtaken(process) => {
                self.world.lock().counts.gone += 1;
                Ok(())
            }
            got => self.check_page(page, got, want, who),
        }
    }

    /// The page is as it must be; where there is nothing to `want`, it is not there.
    pub fn check_page(
        &self,
        page: PageId,
        got: Result<crate::Page, ReadError>,
        want: Option<&Image>,
        who: &str,
    ) -> Checked {
        {
            let mut w = self.world.lock();
            w.counts.reads += 1;
            w.counts.lost_reads += u64::from(matches!(got, Err(ReadError::Lost { .. })));
        }
        match (got, want) {
            (Ok(got), Some(want)) if got[..] == want[..] => Ok(()),
            (Ok(_), Some(_)) => Err(format!("{who} of page {page}: wrong bytes")),
            (Ok(_), None) => Err(format!("{who} of page {page}: it should not exist")),
            (Err(ReadError::NoSuchPage(_)), None) => Ok(()),
            (Err(ReadError::Closed), _) => Ok(()),
            (Err(ReadError::Lost { .. }), _) if !self.promised() => Ok(()),
            (Err(e), _) => Err(format!("{who} of page {page}: {e}")),
        }
    }

    /// Where space is given back, what is durable is read from the slots now and then: memory would have all of it.
    pub fn forget(&self, running: &Running) {
        if self.temper.reclaims && self.one_in(3) {
            running.shared.reads.pages.forget(running.shared.tickets.vdl());
        }
    }

    pub fn take_view(&self, which: usize) {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| r.views.len() < 3 && r.closing.is_none()) else { return };
        let view = running.shared.view();
        let state = running.state_at(&self.model.borrow(), view.lsn());
        running.views.push((view, state));
    }

    pub fn read_view(&self, which: usize) -> Checked {
        let mut slot = self.running[which].borrow_mut();
        let Some(running) = slot.as_mut().filter(|r| !r.views.is_empty()) else { return Ok(()) };
        let at = self.below(running.views.len());
        self.forget(running);
        for page in 0..30 {
            let (view, state) = &running.views[at];
            let page = PageId(page);
            let got = view.read(page);
            self.check_page_of(running.process, page, got, state.get(&page), "a view's read")?;
        }
        if self.one_in(2) {
            running.views.swap_remove(at);
        }
        Ok(())
    }
}
