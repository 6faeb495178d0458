//! The fault atlas: which slots may suffer now, so that what is asked of six copies stays what they promise.
//!
//! The promise (PROTOCOL.md): writing with four slots reachable, reading with three, and in both at most three bad ones;
//! bad is unreachable, or damaged and not yet repaired. Within it every deviation is a bug. Power cuts and kills are no
//! such faults: they may strike all slots at once.

use crate::lsn::{SLOTS, Slot, SlotSet};

/// What is asked of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Mode {
    /// Faults stay within the promise: everything must go right.
    #[default]
    Atlas,
    /// They do not: what is answered must be true, or an error.
    Beyond,
}

/// Slots out of reach, or without space: what a writer may lack.
const AWAY_MAX: usize = 2;
/// Out of reach or damaged.
const BAD_MAX: usize = 3;

/// Where the faults are.
pub struct Atlas {
    mode: Mode,
    /// Damaged: no repair makes them whole again in this round.
    hurt: SlotSet,
    /// Of those, the ones that may take no writes either: of another volume or slot, or with superblocks that are damaged.
    unfit: SlotSet,
    /// Of those, the ones whose damage nobody can know of who does not compare everything.
    hidden: SlotSet,
    /// Their images were taken in that state.
    imaged: SlotSet,
    /// Images were put in their places since the volume was opened last.
    pub restored: SlotSet,
    /// So many may be damaged in this run.
    hurt_max: usize,
    /// Met by an error that passes, during the present open.
    struck: SlotSet,
    /// Counts what damaged any slot.
    blows: u64,
}

impl Atlas {
    pub fn new(mode: Mode, hurt_max: usize) -> Atlas {
        let none = SlotSet::NONE;
        Atlas {
            mode,
            hurt: none,
            unfit: none,
            hidden: none,
            imaged: none,
            restored: none,
            hurt_max,
            struck: none,
            blows: 0,
        }
    }

    pub fn is_beyond(&self) -> bool {
        self.mode == Mode::Beyond
    }

    /// Slots that may be refused as a whole.
    pub fn unfit(&self) -> SlotSet {
        self.unfit
    }

    pub fn hurt(&self) -> SlotSet {
        self.hurt
    }

    /// The slot may be damaged, while these are out of reach.
    pub fn may_hurt(&self, slot: Slot, away: SlotSet) -> bool {
        let hurt = self.hurt.with(slot);
        self.is_beyond()
            || hurt.len() <= self.hurt_max.min(BAD_MAX) && away.union(hurt).union(self.struck).len() <= BAD_MAX
    }

    /// The slot may become one that takes no writes.
    pub fn may_spoil(&self, slot: Slot, away: SlotSet) -> bool {
        self.may_hurt(slot, away) && self.may_leave(slot, away)
    }

    /// Both may become such.
    pub fn may_spoil_both(&self, a: Slot, b: Slot, away: SlotSet) -> bool {
        let first = Atlas { hurt: self.hurt.with(a), unfit: self.unfit.with(a), ..*self };
        self.may_spoil(a, away) && first.may_spoil(b, away)
    }

    pub fn spoils(&mut self, slot: Slot) {
        self.hurts(slot);
        self.unfit = self.unfit.with(slot);
    }

    pub fn blows(&self) -> u64 {
        self.blows
    }

    /// Every slot was found whole, but for these.
    pub fn heals(&mut self, but: SlotSet) {
        self.hurt = self.hurt.and(but);
        self.unfit = self.unfit.and(but);
        self.hidden = self.hidden.and(but);
    }

    pub fn hurts(&mut self, slot: Slot) {
        self.blows += 1;
        self.hurt = self.hurt.with(slot);
        self.hidden = self.hidden.with(slot);
    }

    /// A blank directory, or an image, is in the slot's place: it lacks much, and whoever opens can know that it does.
    pub fn replaces(&mut self, slot: Slot, image: bool) {
        self.hurts(slot);
        self.restored = if image { self.restored.with(slot) } else { self.restored.without(slot) };
        if !(image && self.imaged.contains(slot)) {
            self.hidden = self.hidden.without(slot);
        }
    }

    /// An image of the slot is taken.
    pub fn images(&mut self, slot: Slot) {
        let hidden = self.hidden.contains(slot);
        self.imaged = if hidden { self.imaged.with(slot) } else { self.imaged.without(slot) };
    }

    pub fn hidden(&self) -> SlotSet {
        self.hidden
    }

    /// The slot may go out of reach, beside these.
    pub fn may_leave(&self, slot: Slot, away: SlotSet) -> bool {
        let away = away.with(slot).union(self.struck).union(self.unfit);
        let most = if self.is_beyond() { SLOTS - 1 } else { AWAY_MAX };
        away.len() <= most && (self.is_beyond() || away.union(self.hurt).len() <= BAD_MAX)
    }

    /// A call to the slot may fail, once.
    pub fn may_strike(&self, slot: Slot, away: SlotSet) -> bool {
        self.struck.contains(slot) || self.may_leave(slot, away)
    }

    pub fn strikes(&mut self, slot: Slot) {
        self.struck = self.struck.with(slot);
    }

    pub fn is_struck(&self) -> bool {
        self.struck.len() > 0
    }

    /// A new open: errors that passed are forgotten.
    pub fn forget_struck(&mut self) {
        self.struck = SlotSet::NONE;
    }

    /// Bad slots, with those that are out of reach.
    pub fn bad(&self, away: SlotSet) -> SlotSet {
        away.union(self.hurt).union(self.struck)
    }

    /// An open for writing is within the promise.
    pub fn is_promised_to_write(&self, away: SlotSet) -> bool {
        away.union(self.struck).union(self.unfit).len() <= AWAY_MAX && self.is_promised(away)
    }

    /// Reading is within the promise: it must be done.
    pub fn is_promised(&self, away: SlotSet) -> bool {
        self.bad(away).len() <= BAD_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(slots: &[u8]) -> SlotSet {
        slots.iter().map(|s| Slot(*s)).collect()
    }

    #[test]
    fn what_may_suffer() {
        let mut atlas = Atlas::new(Mode::Atlas, 2);
        assert!(atlas.may_leave(Slot(0), set(&[1])));
        assert!(!atlas.may_leave(Slot(0), set(&[1, 2])), "four must be reachable");
        assert!(atlas.may_hurt(Slot(0), set(&[1, 2])));
        atlas.hurts(Slot(0));
        atlas.hurts(Slot(3));
        assert!(!atlas.may_hurt(Slot(4), set(&[])), "two are enough in this run");
        assert!(atlas.may_hurt(Slot(3), set(&[])), "one that is damaged already");
        assert!(atlas.may_leave(Slot(1), set(&[])));
        assert!(!atlas.may_leave(Slot(1), set(&[2])), "four would be bad");
        assert!(atlas.may_leave(Slot(0), set(&[2])), "a damaged one may be away, too");
        atlas.strikes(Slot(5));
        assert!(!atlas.may_strike(Slot(1), set(&[])));
        assert!(atlas.may_strike(Slot(5), set(&[])));
        assert!(atlas.is_promised(set(&[])) && !atlas.is_promised(set(&[1])));
        assert!(atlas.is_promised_to_write(set(&[0])) && !atlas.is_promised_to_write(set(&[0, 3])));
        atlas.forget_struck();
        assert!(atlas.may_leave(Slot(1), set(&[])));
        let beyond = Atlas::new(Mode::Beyond, 0);
        assert!(beyond.may_hurt(Slot(1), set(&[2, 3, 4, 5])) && beyond.may_leave(Slot(1), set(&[2, 3, 4, 5])));
    }
}
