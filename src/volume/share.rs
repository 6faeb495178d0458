//! A clone that shares its origin's log: segments by reflink, and superblocks of its own as if an opener had cut the log where
//! the clone begins. Then the clone is rewound to the view's state, by its own log.

use crate::bugs::{Bug, planted};
use crate::core::WRITE_QUORUM;
use crate::disk::{Fleet, job};
use crate::history::error::HistoryError;
use crate::history::past::Window;
use crate::lsn::{Lsn, SLOTS, Slot};
use crate::page::version::Map;
use crate::segment::name::FileName;
use crate::segment::placement::{Azs, Placement};
use crate::segment::share;
use crate::segment::superblock::Superblock;
use crate::volume::Volume;
use crate::volume::checkpoint::Checkpoint;
use crate::volume::error::OpenError;
use crate::volume::open::{Handle, new_id, start};
use crate::volume::options::Options;
use crate::volume::rewind::Ask;
use crate::volume::shared::Shared;
use crate::volume::tickets::Status;
use crate::volume::view::View;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long slots that are behind are waited for: those that have not everything by then are repaired in the clone.
const BEHIND_MAX: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);
/// Nobody waits longer for the answer to whether this is still the volume's writer: then it is copied.
const STILL_MAX: Duration = Duration::from_secs(5);

/// Where a clone begins.
pub(crate) struct Beginning {
    /// What is durable then: its log ends here.
    pub end: Lsn,
    /// Of the slots that have all of it.
    pub superblocks: Vec<Superblock>,
    /// While this is held nothing is given back that the manifest leads to.
    held: Option<View>,
}

impl Beginning {
    /// Nothing of that was given back so far.
    pub fn is_held(&self) -> bool {
        planted(Bug::CloneSharesHole) || self.held.as_ref().is_some_and(|view| view.layers().is_some())
    }
}

impl Shared {
    /// A clone's first superblocks. None: fewer than four slots have everything, or nobody knows yet whether they have.
    pub fn beginning(&self, volume: Uuid) -> Option<Beginning> {
        let until = self.clock.now() + BEHIND_MAX;
        loop {
            let beginning = self.beginning_now(volume);
            let (slots, late) = (beginning.superblocks.len(), self.clock.now() >= until);
            if slots == SLOTS || late {
                return Some(beginning).filter(|_| slots >= WRITE_QUORUM);
            }
            self.wait_for_word(self.progress.turn(), LOOK);
        }
    }

    /// ... of as many slots as have everything by now.
    pub fn beginning_now(&self, volume: Uuid) -> Beginning {
        // Before the manifest is looked up: what a later one gives back is held from here on.
        let held = Some(self.view()).filter(|_| !planted(Bug::CloneSharesHole));
        let (end, superblocks) = self.engine().beginning(volume, self.tickets.vdl());
        Beginning { end, superblocks, held }
    }

    /// What the state is made from is in the clone's log: a manifest that the clone begins with may have given back what the view
    /// alone still holds here, also one that not all superblocks name yet. What the past keeps it did not.
    pub fn is_in(&self, map: &Map, at: Lsn) -> bool {
        let running = self.checkpoint.lock();
        let kept = self.past.lock().keeps(map.redo, at);
        match running.as_ref().and_then(Checkpoint::gives_back) {
            Some(past) => kept && past.keeps(map.redo, at),
            None => kept || !self.reclaim.lock().gave_back_since(map.generation),
        }
    }

    /// Whether all that was shared was there all the time. Nothing is given back that the view holds, unless it was revoked;
    /// and nobody else can have taken over: what is appended now is acknowledged only after a look says so. An overtaken
    /// writer's view holds nothing back from its successor.
    fn was_there(&self, beginning: &Beginning) -> bool {
        let still = |end| {
            self.wait_decided(end, STILL_MAX);
            matches!(self.tickets.status(end), Status::Durable)
        };
        self.append_filler().is_ok_and(still) && beginning.is_held()
    }

    /// A state of the origin as one of this clone.
    pub fn as_own(&self, map: &Map, at: Lsn) -> View {
        let map = Arc::new(Map { generation: self.reads.pages.map().generation, ..map.clone() });
        self.reads.view_of(map, at, self.clock.now())
    }

    /// Makes a state of the origin this clone's newest, and its only one: `map` is what the origin made it from.
    pub fn begin_as(&self, map: &Map, at: Lsn, window: Window) -> Result<(), HistoryError> {
        self.rewind(self.as_own(map, at), at, self.history_deadline())?;
        self.checkpoint_with(Ask::Alone(window), self.history_deadline())
    }
}

impl Handle {
    /// Makes a clone that shares what it can. None, and nothing is left of it: it must be copied.
    pub fn share(&self, view: &View, to: &Placement, options: &Options) -> Result<Option<Volume>, HistoryError> {
        let Some(origin) = self.azs() else { return Ok(None) };
        options.check()?;
        let volume = new_id()?;
        let Some(beginning) = self.shared.beginning(volume) else { return Ok(None) };
        if !view.layers().is_some_and(|map| self.shared.is_in(&map, view.lsn())) {
            return Ok(None);
        }
        let azs = Azs::create(to, options.allow_volatile, options.allow_remote)?;
        let pg_size = self.shared.geometry.pg_size;
        let mut shared = true;
        for slot in beginning.superblocks.iter().map(|s| s.slot) {
            let into = azs.slot(slot);
            let done = share::segments(&origin.slot(slot), self.shared.number, &into, pg_size, beginning.end);
            shared = done.map_err(|source| OpenError::Io { path: into, source })?;
            if !shared {
                break;
            }
        }
        let map = view.layers().filter(|_| shared && self.shared.was_there(&beginning));
        let Some(map) = map else {
            azs.remove(to).map_err(|(path, source)| OpenError::Io { path, source })?;
            return Ok(None);
        };
        name(&azs, options, &beginning.superblocks)?;
        drop(beginning);
        let clone = Volume::open(to.clone(), options)?;
        match clone.handle.shared.begin_as(&map, view.lsn(), options.window.unwrap_or_default()) {
            // Not revoked meanwhile: its layers had what they had.
            Ok(()) if view.layers().is_some() => Ok(Some(clone)),
            // It has given back what only that state needs: it takes ten seconds until it may.
            Ok(()) | Err(HistoryError::GivenBack(_)) => {
                drop(clone);
                azs.remove(to).map_err(|(path, source)| OpenError::Io { path, source })?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Claims and superblocks: from here on it is a volume.
fn name(azs: &Azs, options: &Options, superblocks: &[Superblock]) -> Result<(), OpenError> {
    let workers = start(azs, options)?;
    let mut all = [const { None }; SLOTS];
    superblocks.iter().for_each(|s| all[s.slot.index()] = Some(s.clone()));
    let slots = superblocks.iter().map(|s| s.slot).collect();
    let answers = workers.each(slots, move |slot, dir| -> io::Result<()> {
        let Some(superblock) = &all[slot.index()] else { return Ok(()) };
        dir.create_new(FileName::Claim(superblock.number))?;
        job::write_super(dir, superblock)
    });
    for (slot, answer) in Slot::ALL.into_iter().zip(answers) {
        if let Some(Err(source)) = answer {
            return Err(OpenError::Io { path: azs.slot(slot), source });
        }
    }
    Ok(())
}
