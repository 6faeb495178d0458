//! A way through the states, told move by move.

use crate::explore::moves::Move;
use crate::explore::rules::Setting;
use crate::explore::state::{Phase, Proc, State};
use crate::explore::writing::Piece;
use crate::lsn::{Slot, SlotSet};

/// The moves from the beginning on, a line each. Slots are A to F.
pub fn tell(moves: &[Move], setting: &Setting) -> Vec<String> {
    let mut state = State::new();
    moves
        .iter()
        .map(|m| {
            let line = state.line(*m);
            let _ = state.apply(*m, setting);
            line
        })
        .collect()
}

fn name(slot: Slot) -> char {
    char::from(b'A' + slot.0)
}

fn names(set: SlotSet) -> String {
    set.iter().map(name).collect()
}

impl State {
    fn epoch_of(&self, p: u8) -> u64 {
        match &self.procs[usize::from(p)] {
            Proc::Gone => 0,
            Proc::Opening(o) => self.world.number(o.by),
            Proc::Running(r) => self.world.number(r.by),
        }
    }

    fn line(&self, m: Move) -> String {
        let who = |p: u8| format!("epoch {}", self.epoch_of(p));
        let sight = |wide: bool| if wide { "at all claims" } else { "at slots without a higher claim" };
        match m {
            Move::Append(p, Piece::Whole) => format!("{} appends an MTR", who(p)),
            Move::Append(p, Piece::First) => format!("{} appends the first half of an MTR", who(p)),
            Move::Append(p, Piece::Last) => format!("{} appends the rest of it", who(p)),
            Move::Write(p, s) => format!("{} writes {}", who(p), name(s)),
            Move::Submit(p, s) => format!("{} submits a write to {}", who(p), name(s)),
            Move::Complete(p, s) => format!("{}'s write to {} completes", who(p), name(s)),
            Move::Fail(p, s, false) => format!("{}'s write to {} fails", who(p), name(s)),
            Move::Fail(p, s, true) => format!("{}'s write to {} lands, and gives an error", who(p), name(s)),
            Move::Leave(p, s) => format!("{} is away from {}", who(p), name(s)),
            Move::Look(p, wide) => format!("{} looks {}, and hears of it", who(p), sight(wide)),
            Move::LookApart(p) => format!("{} looks {}", who(p), sight(false)),
            Move::Looked(p) => format!("{} hears of its look", who(p)),
            Move::Rejoin(p, s) => format!("{} takes {} back", who(p), name(s)),
            Move::RejoinApart(p, s) => format!("{} reads {} back", who(p), name(s)),
            Move::Rejoined(p, s) => format!("{} takes {} back, as it was read", who(p), name(s)),
            Move::ForgetWrite(p, s) => format!("{} forgets its write to {}", who(p), name(s)),
            Move::Close(p) => format!("{} closes", who(p)),
            Move::Mark(p, s) => format!("{} marks {} clean", who(p), name(s)),
            Move::Merge(p, s) => format!("{} merges the tail file of {}", who(p), name(s)),
            Move::Tidy(p, s) => format!("{} removes what is old on {}", who(p), name(s)),
            Move::Closed(p) => format!("{} has closed", who(p)),
            Move::Open(reach) => format!("somebody opens with {}", names(reach)),
            Move::Step(p, s) => format!("{} {} {}", who(p), self.phase(p), name(s)),
            Move::StepFails(p, s) => format!("{} fails where it {} {}", who(p), self.phase(p), name(s)),
            Move::Steps(p, set) => format!("{} {} {}", who(p), self.phase(p), names(set)),
            Move::Read(p) => format!("{} reads, and rules", who(p)),
            Move::LastLook(p, wide) => format!("{} looks {}, and is open", who(p), sight(wide)),
            Move::ReadOnly(reach) => format!("a reader opens with {}", names(reach)),
            Move::Kill(p) => format!("{} is killed", who(p)),
            Move::PowerCut => "the power is cut".into(),
            Move::Land(s, i) => format!("a late write lands on {} ({:?})", name(s), self.slot(s).late[usize::from(i)]),
            Move::Tear(s, i, _) => {
                format!("a write to {} is garbage ({:?})", name(s), self.slot(s).late[usize::from(i)])
            }
            Move::Blank(s) => format!("{} is replaced by a blank disk", name(s)),
            Move::Image(s) => format!("an image is taken of {}", name(s)),
            Move::Stale(s) => format!("{} is its old image", name(s)),
            Move::Rot(s, _) => format!("a group rots on {}", name(s)),
            Move::RotSuper(s) => format!("the newest superblock of {} rots", name(s)),
        }
    }

    fn phase(&self, p: u8) -> &'static str {
        match &self.procs[usize::from(p)] {
            Proc::Opening(o) => match o.phase {
                Phase::Claim => "claims on",
                Phase::Tail => "completes the tail on",
                Phase::Decide => "decides on",
                Phase::Read | Phase::Look => "reads",
            },
            _ => "writes",
        }
    }
}
