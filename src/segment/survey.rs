//! What each slot says of itself: its superblocks, claims and tail files, and whether it is the slot that it should be.

use crate::core::READ_QUORUM;
use crate::core::vote::{Decision, Voice};
use crate::disk::job;
use crate::disk::{Fleet, SlotDir};
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};
use crate::segment::name::FileName;
use crate::segment::superblock::{Geometry, SuperFault, Superblock};
use crate::volume::error::{SlotFault, SlotFaults};
use std::io;
use std::time::Duration;
use uuid::Uuid;

/// A slot does not answer within this time: it counts as unreachable.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The files of one slot, read.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Every epoch file whose superblock verifies.
    pub superblocks: Vec<Superblock>,
    /// The highest claim, epoch files that do not verify included.
    pub claim: u64,
    pub tails: Vec<u64>,
    pub segments: Vec<u64>,
    /// Why an epoch file was passed over.
    pub fault: Option<SuperFault>,
}

impl Files {
    pub fn newest(&self) -> Option<&Superblock> {
        self.superblocks.iter().max_by_key(|s| (s.number, s.version))
    }

    fn is_blank(&self) -> bool {
        // An epoch file of a newer format is no unfinished formatting.
        let unfinished = self.fault.is_none_or(|f| f == SuperFault::Damaged);
        self.superblocks.is_empty() && unfinished && self.tails.is_empty() && self.segments.is_empty()
    }
}

/// Reads one slot's files.
pub fn read_files(dir: &dyn SlotDir) -> io::Result<Files> {
    let mut files = Files::default();
    for name in dir.list()? {
        match name {
            FileName::Claim(n) => files.claim = files.claim.max(n),
            FileName::Tail(n) => files.tails.push(n),
            FileName::Segment(pg) => files.segments.push(pg),
            FileName::Reserve => (),
            FileName::Epoch(n) => {
                files.claim = files.claim.max(n);
                match Superblock::newest_of(job::read_super(dir, name)?) {
                    // A superblock under another's name is not what its opener wrote.
                    Ok(s) if s.number == n => files.superblocks.push(s),
                    Ok(_) => files.fault = Some(SuperFault::Damaged),
                    Err(fault) => files.fault = Some(fault),
                }
            }
        }
    }
    Ok(files)
}

/// One slot's standing at an open.
#[derive(Debug)]
pub enum Standing {
    /// It is this volume's slot.
    Ours(Files),
    /// Nothing is there, or no more than an unfinished formatting: it can be formatted.
    Blank,
    /// It cannot take part.
    Fault(SlotFault),
}

/// All six, judged together.
#[derive(Debug)]
pub struct Survey {
    pub geometry: Geometry,
    pub standings: [Standing; SLOTS],
    /// The highest claim on each slot; 0 where there is none.
    claims: [u64; SLOTS],
}

/// Why there is no volume to survey.
#[derive(Debug)]
pub enum NoSurvey {
    /// Every reachable slot is blank.
    NoVolume,
    /// No identity is shared by enough slots.
    Undecided(SlotFaults),
}

impl Survey {
    /// Reads all slots. The volume's identity is what most of them say.
    pub fn take(fleet: &impl Fleet, set: SlotSet) -> Result<Survey, NoSurvey> {
        let answers = fleet.each(set, |_, dir| read_files(dir));
        let claim =
            |answer: &Option<io::Result<Files>>| answer.as_ref().and_then(|a| a.as_ref().ok()).map_or(0, |f| f.claim);
        let claims = answers.each_ref().map(claim);
        let mut standings = answers.map(|answer| match answer {
            None => Standing::Fault(SlotFault::Missing),
            Some(Err(e)) => Standing::Fault(fault_of(e)),
            Some(Ok(files)) if files.is_blank() => Standing::Blank,
            Some(Ok(files)) if files.superblocks.is_empty() => Standing::Fault(
                files
                    .fault
                    .filter(|f| *f != SuperFault::Damaged)
                    .map_or(SlotFault::NoSuperblock, SlotFault::Superblock),
            ),
            Some(Ok(files)) => Standing::Ours(files),
        });
        let geometry = |s: &Standing| match s {
            Standing::Ours(files) => files.newest().map(|s| s.geometry),
            _ => None,
        };
        let all: Vec<Geometry> = standings.iter().filter_map(geometry).collect();
        let count = |id: Uuid| all.iter().filter(|g| g.volume == id).count();
        let Some(ours) = all.iter().copied().max_by_key(|g| (count(g.volume), g.volume)) else {
            if standings.iter().any(|s| matches!(s, Standing::Fault(f) if !matches!(f, SlotFault::Missing))) {
                return Err(NoSurvey::Undecided(faults(&standings)));
            }
            return Err(NoSurvey::NoVolume);
        };
        // Two volumes with as many slots: whoever mixed them up knows which is meant.
        let tied = all.iter().any(|g| g.volume != ours.volume && count(g.volume) == count(ours.volume));
        if tied && count(ours.volume) >= READ_QUORUM {
            for standing in &mut standings {
                if let Standing::Ours(files) = &*standing
                    && let Some(newest) = files.newest()
                {
                    *standing = Standing::Fault(SlotFault::Foreign(newest.geometry.volume));
                }
            }
            return Err(NoSurvey::Undecided(faults(&standings)));
        }
        for slot in Slot::ALL {
            let standing = &mut standings[slot.index()];
            let Standing::Ours(files) = &*standing else { continue };
            let Some(newest) = files.newest() else { continue };
            if newest.geometry.volume != ours.volume {
                *standing = Standing::Fault(SlotFault::Foreign(newest.geometry.volume));
            } else if newest.slot != slot {
                *standing = Standing::Fault(SlotFault::Swapped(newest.slot));
            }
        }
        Ok(Survey { geometry: ours, standings, claims })
    }

    pub fn files(&self, slot: Slot) -> Option<&Files> {
        match &self.standings[slot.index()] {
            Standing::Ours(files) => Some(files),
            _ => None,
        }
    }

    /// Slots that answered as ours.
    pub fn ours(&self) -> SlotSet {
        Slot::ALL.into_iter().filter(|s| self.files(*s).is_some()).collect()
    }

    /// Some slot has tail files that are not merged yet.
    pub fn has_tails(&self) -> bool {
        self.ours().iter().filter_map(|s| self.files(s)).any(|f| !f.tails.is_empty())
    }

    pub fn blank(&self) -> SlotSet {
        Slot::ALL.into_iter().filter(|s| matches!(self.standings[s.index()], Standing::Blank)).collect()
    }

    /// The faults of the slots that do not take part.
    pub fn faults(&self) -> SlotFaults {
        faults(&self.standings)
    }

    /// The superblocks as votes.
    pub fn voices(&self) -> [Option<Voice>; SLOTS] {
        Slot::ALL.map(|slot| {
            let files = self.files(slot)?;
            let newest = files.newest();
            Some(Voice {
                claim: files.claim,
                decision: newest.map(|s| Decision { number: s.number, history: s.history.clone(), clean: s.clean }),
                join: newest.map_or(crate::core::vote::Join::Unset, |s| s.join),
            })
        })
    }

    /// Slots whose claims count: all but another volume's, whose numbers are its own. One that cannot take part, for it
    /// is in another's place or has no good superblock, may still hold a claim that was made when it could.
    pub fn claimable(&self) -> SlotSet {
        let foreign = |s: &Slot| matches!(self.standings[s.index()], Standing::Fault(SlotFault::Foreign(_)));
        Slot::ALL.into_iter().filter(|s| !foreign(s)).collect()
    }

    /// The highest claim or decision anywhere: of the slots that a look will read.
    pub fn claim(&self) -> u64 {
        self.claimable().iter().map(|s| self.claims[s.index()]).max().unwrap_or(0)
    }

    /// Every manifest that a superblock names, with its redo begin and the epoch that named it.
    pub fn manifests(&self) -> Vec<(Lsn, Lsn, u64)> {
        let all = Slot::ALL.into_iter().filter_map(|s| self.files(s)).flat_map(|f| &f.superblocks);
        let mut named: Vec<_> = all.filter(|s| !s.manifest.is_none()).map(|s| (s.manifest, s.redo, s.number)).collect();
        named.sort_unstable();
        named.dedup();
        named
    }
}

fn faults(standings: &[Standing; SLOTS]) -> SlotFaults {
    let fault = |(slot, standing): (Slot, &Standing)| match standing {
        Standing::Ours(_) => None,
        Standing::Blank => Some((slot, SlotFault::Blank)),
        Standing::Fault(f) => Some((slot, copy(f))),
    };
    SlotFaults(Slot::ALL.into_iter().zip(standings).filter_map(fault).collect())
}

/// A fault again, for another error's list.
pub fn copy(fault: &SlotFault) -> SlotFault {
    match fault {
        SlotFault::Missing => SlotFault::Missing,
        SlotFault::TimedOut(t) => SlotFault::TimedOut(*t),
        SlotFault::Io(e) => SlotFault::Io(
            e.raw_os_error().map_or_else(|| io::Error::new(e.kind(), e.to_string()), io::Error::from_raw_os_error),
        ),
        SlotFault::Blank => SlotFault::Blank,
        SlotFault::Foreign(id) => SlotFault::Foreign(*id),
        SlotFault::Swapped(s) => SlotFault::Swapped(*s),
        SlotFault::NoSuperblock => SlotFault::NoSuperblock,
        SlotFault::Superblock(f) => SlotFault::Superblock(*f),
        SlotFault::Claimed => SlotFault::Claimed,
        SlotFault::NoCopy => SlotFault::NoCopy,
        SlotFault::Damaged(what) => SlotFault::Damaged(what.clone()),
    }
}

/// An error of a slot's call as a fault of the slot.
pub fn fault_of(e: io::Error) -> SlotFault {
    match e.kind() {
        io::ErrorKind::NotFound => SlotFault::Missing,
        io::ErrorKind::TimedOut => SlotFault::TimedOut(ANSWER_MAX),
        io::ErrorKind::AlreadyExists => SlotFault::Claimed,
        _ => SlotFault::Io(e),
    }
}
