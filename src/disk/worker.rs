//! Threads that do blocking calls, one a slot: a slot that hangs holds up its own thread and nobody else.

use crate::disk::bounded::{self, Reads};
use crate::disk::file::FileDir;
use crate::disk::job::{self, Job};
use crate::disk::{Done, Fleet, SlotDir};
use crate::lsn::{SLOTS, Slot, SlotSet};
use crate::segment::survey::ANSWER_MAX;
use crossbeam_channel::{Sender, bounded as channel};
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Calls that may wait for a slot's thread. More means that it hangs.
const QUEUE: usize = 16;

type Task = Box<dyn FnOnce(&Arc<FileDir>) + Send>;

/// What the slots' threads finished, and whom to tell.
#[derive(Default)]
pub struct Completions {
    done: Mutex<Vec<Done>>,
    /// Takes them in: set once the volume stands.
    pub hook: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Completions {
    pub fn push(&self, done: Done) {
        self.done.lock().push(done);
        if let Some(hook) = self.hook.get() {
            hook();
        }
    }

    /// Several at once.
    pub fn bring(&self, mut done: Vec<Done>) {
        self.done.lock().append(&mut done);
        if let Some(hook) = self.hook.get() {
            hook();
        }
    }

    pub fn take(&self, into: &mut Vec<Done>) {
        into.append(&mut self.done.lock());
    }
}

/// The threads of the six slots.
pub struct Workers {
    slots: Vec<Worker>,
    pub completions: Arc<Completions>,
    /// The volume stands: it was opened.
    stands: AtomicBool,
}

struct Worker {
    dir: Arc<FileDir>,
    tasks: Sender<Task>,
    /// A call was not answered in time, and none has been since: nobody waits for it again.
    hangs: Arc<AtomicBool>,
    /// It has once not answered in time: for the rest of the open it is out, so that one limit is paid in all.
    silent: AtomicBool,
}

impl Workers {
    /// Starts a thread for each directory. They end when this is dropped, and are never joined: one may hang.
    pub fn start(directories: [PathBuf; SLOTS], block: usize, buffered: bool, io_uring: bool) -> io::Result<Workers> {
        let mut slots = Vec::with_capacity(SLOTS);
        let reads = bounded::Shared::new(io_uring);
        let punching = Arc::<Mutex<()>>::default();
        for (i, path) in directories.into_iter().enumerate() {
            let mut dir = FileDir::new(path, block, buffered, Reads::new(&reads));
            dir.punching = punching.clone();
            let dir = Arc::new(dir);
            let (tasks, queue) = channel::<Task>(QUEUE);
            let hangs = Arc::new(AtomicBool::new(false));
            let (mine, answers) = (dir.clone(), hangs.clone());
            std::thread::Builder::new().name(format!("quorate-{i}")).stack_size(256 << 10).spawn(move || {
                for task in queue {
                    task(&mine);
                    answers.store(false, Ordering::SeqCst);
                }
            })?;
            slots.push(Worker { dir, tasks, hangs, silent: AtomicBool::new(false) });
        }
        Ok(Workers { slots, completions: Arc::new(Completions::default()), stands: AtomicBool::new(false) })
    }

    /// These slots have not answered in time, and are not asked any more by this open.
    pub fn silent(&self, slots: SlotSet) {
        slots.iter().for_each(|slot| self.slots[slot.index()].silent.store(true, Ordering::SeqCst));
    }

    /// The open is done: who answers again counts again.
    pub fn stand(&self) {
        self.stands.store(true, Ordering::SeqCst);
    }

    pub fn dir(&self, slot: Slot) -> &Arc<FileDir> {
        &self.slots[slot.index()].dir
    }

    /// Hands a job to the slot's thread; its end is found in the completions.
    pub fn job(&self, slot: Slot, job: Job) {
        let completions = self.completions.clone();
        let kind = job.kind();
        let task: Task = Box::new(move |dir| {
            let output = job::run(&**dir, job);
            completions.push(Done::Job { slot, kind, output });
        });
        if self.slots[slot.index()].tasks.try_send(task).is_err() {
            // Not through `push`: the caller is taking completions in already.
            let output = Err(io::ErrorKind::TimedOut.into());
            self.completions.done.lock().push(Done::Job { slot, kind, output });
        }
    }
}

impl Fleet for Workers {
    fn each<T: Send + 'static>(
        &self,
        set: SlotSet,
        call: impl Fn(Slot, &dyn SlotDir) -> io::Result<T> + Send + Sync + 'static,
    ) -> [Option<io::Result<T>>; SLOTS] {
        let call = Arc::new(call);
        let (send, answers) = channel::<(Slot, io::Result<T>)>(SLOTS);
        let mut out: [Option<io::Result<T>>; SLOTS] = [const { None }; SLOTS];
        let mut waiting = 0;
        for slot in set.iter() {
            let (call, send) = (call.clone(), send.clone());
            let task: Task = Box::new(move |dir| {
                // The asker may have stopped waiting.
                let _ = send.send((slot, call(slot, &**dir)));
            });
            let worker = &self.slots[slot.index()];
            let silent = worker.silent.load(Ordering::SeqCst) && !self.stands.load(Ordering::SeqCst);
            if !silent && !worker.hangs.load(Ordering::SeqCst) && worker.tasks.try_send(task).is_ok() {
                waiting += 1;
            }
            out[slot.index()] = Some(Err(io::ErrorKind::TimedOut.into()));
        }
        let deadline = Instant::now() + ANSWER_MAX;
        while waiting > 0
            && let Ok((slot, answer)) = answers.recv_deadline(deadline)
        {
            out[slot.index()] = Some(answer);
            waiting -= 1;
        }
        if waiting > 0 {
            let timed_out =
                |a: &Option<io::Result<T>>| matches!(a, Some(Err(e)) if e.kind() == io::ErrorKind::TimedOut);
            for (worker, _) in self.slots.iter().zip(&out).filter(|(_, a)| timed_out(a)) {
                worker.hangs.store(true, Ordering::SeqCst);
                worker.silent.store(true, Ordering::SeqCst);
            }
        }
        out
    }

    fn dirs(&self) -> [Option<Arc<dyn SlotDir>>; SLOTS] {
        Slot::ALL.map(|s| Some(self.dir(s).clone() as Arc<dyn SlotDir>))
    }
}

#[cfg(all(test, not(quorate_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_was_silent_once_is_out_for_the_rest_of_the_open() {
        let temp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let directories = Slot::ALL.map(|s| temp.path().join(format!("slot-{s}")));
        let workers = Workers::start(directories, 4096, false, false).unwrap();
        let answered = |workers: &Workers| -> SlotSet {
            let begun = Instant::now();
            let answers = workers.each(SlotSet::ALL, |_, _| Ok(()));
            assert!(begun.elapsed() < ANSWER_MAX / 2, "nobody is waited for");
            Slot::ALL.into_iter().filter(|s| matches!(answers[s.index()], Some(Ok(())))).collect()
        };
        // Slow by a little more than the limit: it answers again, and is not asked again.
        let slow = ANSWER_MAX + Duration::from_millis(300);
        let answers = workers.each(SlotSet::ALL, move |slot, _| {
            if slot == Slot(4) {
                std::thread::sleep(slow);
            }
            Ok(())
        });
        assert!(matches!(&answers[4], Some(Err(e)) if e.kind() == io::ErrorKind::TimedOut));
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(answered(&workers), SlotSet::ALL.without(Slot(4)));
        workers.silent(SlotSet::NONE.with(Slot(1)));
        assert_eq!(answered(&workers), SlotSet::ALL.without(Slot(4)).without(Slot(1)));
        workers.stand();
        assert_eq!(answered(&workers), SlotSet::ALL);
    }
}
