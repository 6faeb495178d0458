//! The stagehand: sets up one process after the other, and lets the world go on while they wait.

use super::{Done, Others, Scene, Stage};
use crate::Volume;
use crate::disk::Fleet;
use crate::lsn::SlotSet;
use crate::segment::recover::{self, Opened};
use crate::segment::superblock::Durability;
use crate::sim::dir::SimDisk;
use crate::sim::life::{Running, SimClock};
use crate::sim::model::State;
use crate::sim::openers::SimFleet;
use crate::volume::error::CloseError;
use crate::volume::open::{Handle, build};
use crate::volume::shared::{Clock, Driver, Shared};
use parking_lot::Mutex;
use std::sync::Arc;

/// Attempts to open, with steps of the world between them.
const OPENS: usize = 500;
const STEPS_BETWEEN: usize = 20;

/// Who lets the world go on when a process waits.
pub struct Stagehand(pub Mutex<Scene>);

impl Driver for Stagehand {
    fn step(&self) {
        // Locked: another thread's call does it, or a waker that it wakes.
        if let Some(mut scene) = self.0.try_lock() {
            scene.step();
        }
    }
}

impl Stagehand {
    pub fn play(
        self: &Arc<Self>,
        stage: &Stage,
        process: &mut dyn FnMut(Volume, &Others) -> Done,
    ) -> Result<(), String> {
        let mut volume = self.create(stage)?;
        let others = Others(self.clone());
        loop {
            let result = process(volume.clone(), &others);
            // Not under the scene's lock: whoever drops a volume waits for its close.
            let mut opened = std::mem::take(&mut self.0.lock().opened);
            let (over, verdict) = {
                let mut scene = self.0.lock();
                // It may have been killed in its last call.
                scene.tend();
                let verdict = scene.judge(result);
                (scene.sim.peace.get(), scene.broken.take().map_or(verdict, Err))
            };
            if let Err(what) = verdict {
                self.0.lock().clear();
                return Err(what);
            }
            // The youngest is closed.
            if let Some(youngest) = opened.last_mut() {
                std::mem::swap(&mut volume, youngest);
            }
            drop(opened);
            match volume.close() {
                Err(e @ (CloseError::NotDurable(_) | CloseError::NotClean(_))) if over => {
                    return Err(format!("though nothing is wrong any more: {e}"));
                }
                _ => (),
            }
            let mut scene = self.0.lock();
            scene.clear();
            if let Some(what) = scene.broken.take() {
                return Err(what);
            }
            if over {
                return Ok(());
            }
            if scene.steps >= stage.life.steps {
                scene.end_faults();
            }
            drop(scene);
            volume = self.open()?;
        }
    }

    /// A play begins with a volume that was created in peace.
    fn create(self: &Arc<Self>, stage: &Stage) -> Result<Volume, String> {
        let handle = {
            let mut scene = self.0.lock();
            scene.options.check().map_err(|e| e.to_string())?;
            scene.sim.make_foreign()?;
            let geometry = scene.geometry();
            let process = scene.sim.world.lock().start_process();
            let fleet = SimFleet { sim: &scene.sim, process, visible: SlotSet::ALL };
            let opened = recover::create(&fleet, geometry, Durability::Dsync).map_err(|e| format!("create: {e}"))?;
            scene.sim.world.lock().set_epoch(process, &opened.history);
            self.stand_up(&mut scene, opened, process)
        };
        handle.make_root().map_err(|e| format!("create: {e}"))?;
        let scene = self.0.lock();
        let mut w = scene.sim.world.lock();
        w.faults.begin();
        w.random.give(&stage.given);
        Ok(Volume::from(handle))
    }

    /// Opens for the next process: again and again, while faults keep it from that.
    fn open(self: &Arc<Self>) -> Result<Volume, String> {
        for _ in 0..OPENS {
            let mut scene = self.0.lock();
            if let Ok((opened, process)) = scene.open()? {
                return Ok(Volume::from(self.stand_up(&mut scene, opened, process)));
            }
            (0..STEPS_BETWEEN).for_each(|_| scene.step());
        }
        Err(format!("L2: none of {OPENS} opens succeeds"))
    }

    pub fn stand_up(self: &Arc<Self>, scene: &mut Scene, opened: Opened, process: usize) -> Handle {
        let geometry = opened.geometry;
        let (previous, bytes_read) = (opened.recovered.choice.decision.number, opened.recovered.bytes_read);
        let world = scene.sim.world.clone();
        let dirs = SimFleet { sim: &scene.sim, process, visible: SlotSet::ALL }.dirs();
        let disk = SimDisk { world: world.clone(), process, pg_size: geometry.pg_size, seed: geometry.seed() };
        let clock: Arc<dyn Clock> = Arc::new(SimClock(world.clone()));
        let (mut parts, engine) = build(opened, dirs, Box::new(disk), clock, &scene.options);
        parts.earlier_gone = Box::new(move || world.lock().is_alone(process));
        parts.driver = Some(self.clone());
        let shared = Arc::new(Shared::new(parts, engine));
        shared.engine().tidy(previous);
        shared.pump();
        scene.processes += 1;
        *scene.sim.running[0].borrow_mut() = Some(running(process, shared.clone()));
        Handle::simulated(shared, bytes_read)
    }
}

/// A process that has no model: its user knows what must be true.
fn running(process: usize, shared: Arc<Shared>) -> Running {
    Running {
        process,
        shared,
        held: Vec::new(),
        closing: None,
        views: Vec::new(),
        base: State::new(),
        mtrs: Vec::new(),
        newest: State::new(),
        acknowledged: 0,
        going: None,
        cloning: None,
        stalled: false,
    }
}
