//! What opens the volume beside a process: readers, and other writers.

use super::hand::Stagehand;
use super::scene::Scene;
use crate::lsn::SlotSet;
use crate::segment::recover;
use crate::sim::life::{Attempt, Rival};
use crate::sim::openers::{SimFleet, killed};
use crate::volume::error::OpenError;
use crate::{Reader, Volume};
use parking_lot::MutexGuard;
use std::sync::Arc;

/// Other processes, beside the one that a [`Stage`](super::Stage) plays: they open the same simulated volume. What they
/// open ends with the process at the latest.
///
/// An error tells of faults, or of another opener. Where neither was there, the play has failed already.
pub struct Others(pub(super) Arc<Stagehand>);

impl Others {
    /// As [`Volume::open_read_only`], while writers go on.
    ///
    /// # Errors
    /// As there.
    pub fn open_read_only(&self) -> Result<Reader, OpenError> {
        self.0.0.lock().read_only()
    }

    /// As [`Volume::take_over`]. All writers before it live on as zombies, two of them at most: one before these is
    /// killed. After an error they may have been outbid all the same.
    ///
    /// # Errors
    /// As there. The opener may be killed, and a third one may come between its calls.
    pub fn take_over(&self) -> Result<Volume, OpenError> {
        let mut scene = self.0.0.lock();
        scene.make_room();
        let opened = scene.open();
        self.exposed(&mut scene, opened)
    }

    /// Two processes take over at once: the second does all of it between two calls of the first, or else right after it.
    /// Where both succeed the one of the higher epoch has it (see [`Health::epoch`](crate::Health::epoch)), and the other
    /// is a zombie as well.
    pub fn race(&self) -> [Result<Volume, OpenError>; 2] {
        let mut scene = self.0.0.lock();
        scene.make_room();
        scene.sim.rival.replace(Rival::Called);
        let first = scene.sim.attempt(true);
        let second = match scene.sim.rival.replace(Rival::Nobody) {
            Rival::Came(second) => Ok(*second),
            _ => {
                let first = self.exposed(&mut scene, first);
                scene.make_room();
                let second = scene.open();
                return [first, self.exposed(&mut scene, second)];
            }
        };
        // The younger one stands up last.
        let number = |o: &Result<Attempt, String>| match o {
            Ok(Ok((opened, _))) => opened.number,
            _ => 0,
        };
        if number(&first) > number(&second) {
            let second = self.exposed(&mut scene, second);
            scene.make_room();
            [self.exposed(&mut scene, first), second]
        } else {
            let first = self.exposed(&mut scene, first);
            scene.make_room();
            [first, self.exposed(&mut scene, second)]
        }
    }

    /// A writer that has opened becomes the youngest one.
    fn exposed(&self, scene: &mut MutexGuard<'_, Scene>, opened: Result<Attempt, String>) -> Result<Volume, OpenError> {
        let why = match opened {
            Ok(Ok((opened, process))) => {
                let volume = Volume::from(self.0.stand_up(scene, opened, process));
                scene.opened.push(volume.clone());
                scene.overtakers += 1;
                return Ok(volume);
            }
            Ok(Err(e)) => e,
            Err(what) => {
                scene.broken.get_or_insert(what);
                killed()
            }
        };
        scene.nobody_came();
        Err(why)
    }
}

impl std::fmt::Debug for Others {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Others").finish_non_exhaustive()
    }
}

impl Scene {
    fn read_only(&mut self) -> Result<Reader, OpenError> {
        let sim = &self.sim;
        let process = {
            let mut w = sim.world.lock();
            w.atlas.forget_struck();
            w.counts.readers += 1;
            let process = w.start_process();
            w.reads_only(process);
            process
        };
        self.readers.push(process);
        let fleet = SimFleet { sim, process, visible: SlotSet::ALL };
        // The world goes on between its calls, and nobody else opens.
        sim.opening.set(2);
        let opened = recover::recover(&fleet).and_then(|recovered| Reader::simulated(&fleet, recovered, &self.options));
        sim.opening.set(0);
        let mut found = sim.failure.borrow_mut().take();
        match &opened {
            Ok(reader) => {
                let (decision, epoch, certain) = reader.chosen();
                let (settled, visible) = (reader.settled(), reader.visible());
                let mut w = sim.world.lock();
                w.note(format_args!("p{process} reads: decision {decision}, settled {settled}, visible {visible}"));
                w.judge_reader(process, decision, epoch, settled, certain);
            }
            Err(e) => {
                if sim.promised() {
                    found.get_or_insert(format!("A1: a read-only open within the promise is refused: {e}"));
                }
            }
        }
        if let Some(what) = found {
            self.broken.get_or_insert(what);
        }
        opened
    }
}
