//! Votes and decisions: what the superblocks of the reachable slots say together. PROTOCOL.md, "Files of a slot".

use crate::bugs::{Bug, planted};
use crate::core::READ_QUORUM;
use crate::core::history::History;
use crate::lsn::{Lsn, SLOTS, Slot, SlotSet};

/// From where on a slot's silence about a record is a no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Join {
    /// It was there from the beginning.
    Founder,
    /// Formatted, and no decision has brought it in yet: its silence says nothing.
    Unset,
    /// It joined at `at` by decision `by`, and denies nothing below.
    At { at: Lsn, by: u64 },
}

impl Join {
    /// Where the slot's vote on records begins, under the chosen history. None: it has no vote.
    pub fn votes_from(self, history: &History) -> Option<Lsn> {
        match self {
            Join::Founder => Some(Lsn::NONE),
            Join::Unset => planted(Bug::FormattedVotes).then_some(Lsn::NONE),
            // A join point that came with a passed-over decision is none.
            Join::At { at, by } => (history.contains_epoch(by) || planted(Bug::PassedOverJoin)).then_some(at),
        }
    }

    /// The slot needs a join point from the decision that is being made.
    pub fn needs_one(self, history: &History) -> bool {
        self.votes_from(history).is_none()
    }
}

/// What one slot's superblocks say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voice {
    /// The highest claim on the slot, its decisions included.
    pub claim: u64,
    /// Its highest decision that verifies.
    pub decision: Option<Decision>,
    pub join: Join,
}

/// A decision: the history that the opener of epoch `number` chose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub number: u64,
    pub history: History,
    /// The clean mark: the writer closed with nothing outstanding, and its log ends there.
    pub clean: Option<Lsn>,
}

/// The slots that were read: `None` for one that is unreachable, blank, foreign or in another's place.
pub type Voices = [Option<Voice>; SLOTS];

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoChoice {
    #[error("only {0} slots have a vote, and {READ_QUORUM} are needed")]
    Voters(usize),
}

/// What the reachable slots' superblocks add up to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The decision with the highest number, on however few slots: it cannot be wrong, only missing.
    pub decision: Decision,
    /// Slots that hold it.
    pub holders: SlotSet,
    /// The highest claim anywhere.
    pub claim: u64,
    /// Slots with a vote on records.
    pub voters: SlotSet,
    /// The highest join point whose decision is in the history: VDL was there.
    pub join: Lsn,
}

/// Chooses the decision. Highest wins; nothing is counted.
///
/// Superblocks keep the end of the history only. A join point whose decision is older than that may or may not be in it:
/// it counts as a vote here, and [`Choice::under`] says for certain, once the manifest has told the rest.
pub fn choose(voices: &Voices) -> Result<Choice, NoChoice> {
    let known = voices.iter().flatten();
    let decided = known.clone().filter_map(|v| v.decision.as_ref());
    let held = |d: &Decision| match planted(Bug::MostWins) {
        true => known.clone().filter(|v| v.decision.as_ref().is_some_and(|o| o.number == d.number)).count(),
        false => 0,
    };
    let Some(best) = decided.max_by_key(|d| (held(d), d.number, d.clean)).cloned() else {
        return Err(NoChoice::Voters(0));
    };
    let of = |f: &dyn Fn(&Voice) -> bool| -> SlotSet {
        Slot::ALL.into_iter().filter(|s| voices[s.index()].as_ref().is_some_and(f)).collect()
    };
    let first = best.history.entries()[0].epoch;
    let may_vote = |j: Join| !j.needs_one(&best.history) || matches!(j, Join::At { by, .. } if by < first);
    let voters = of(&|v| v.decision.is_some() && may_vote(v.join));
    if voters.len() < READ_QUORUM && !planted(Bug::BlankVotes) {
        return Err(NoChoice::Voters(voters.len()));
    }
    Ok(Choice {
        holders: of(&|v| v.decision.as_ref().is_some_and(|d| d.number == best.number)),
        claim: known.clone().map(|v| v.claim).max().unwrap_or(0).max(best.number),
        voters,
        join: known.filter_map(|v| v.join.votes_from(&best.history)).max().unwrap_or(Lsn::NONE),
        decision: best,
    })
}

impl Choice {
    /// Counts votes and join points under the whole history.
    pub fn under(&mut self, voices: &Voices, history: &History) -> Result<(), NoChoice> {
        let votes_from = |s: &Slot| {
            let voice = voices[s.index()].as_ref().filter(|v| v.decision.is_some())?;
            voice.join.votes_from(history)
        };
        self.voters = Slot::ALL.into_iter().filter(|s| votes_from(s).is_some()).collect();
        self.join = Slot::ALL.iter().filter_map(votes_from).max().unwrap_or(Lsn::NONE);
        let few = self.voters.len() < READ_QUORUM && !planted(Bug::BlankVotes);
        if few { Err(NoChoice::Voters(self.voters.len())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> History {
        History::first(Lsn(4096))
    }

    fn voice(number: u64, history: &History, claim: u64, join: Join) -> Option<Voice> {
        Some(Voice { claim, decision: Some(Decision { number, history: history.clone(), clean: None }), join })
    }

    fn six(v: impl Fn(u8) -> Option<Voice>) -> Voices {
        std::array::from_fn(|s| v(s as u8))
    }

    #[test]
    fn the_highest_decision_wins_on_however_few_slots() {
        let two = first().succeed(Lsn(5000), 2, Lsn(8192));
        let voices =
            six(|s| if s == 3 { voice(2, &two, 2, Join::Founder) } else { voice(1, &first(), 1, Join::Founder) });
        let choice = choose(&voices).unwrap();
        assert_eq!((choice.decision.number, choice.holders.len(), choice.claim), (2, 1, 2));
    }

    #[test]
    fn a_higher_claim_is_seen_without_its_decision() {
        let voices = six(|s| voice(1, &first(), if s == 5 { 9 } else { 1 }, Join::Founder));
        assert_eq!(choose(&voices).unwrap().claim, 9);
    }

    #[test]
    fn three_voters_are_needed() {
        for present in 0..=6u8 {
            let got = choose(&six(|s| if s < present { voice(1, &first(), 1, Join::Founder) } else { None }));
            assert_eq!(got.is_ok(), present >= 3, "{present}");
        }
    }

    #[test]
    fn a_formatted_slot_has_no_vote_until_a_decision_brings_it_in() {
        let two = first().succeed(Lsn(5000), 2, Lsn(8192));
        // (join, has a vote, counts as VDL known)
        for (join, votes, known) in [
            (Join::Founder, true, Lsn::NONE),
            (Join::Unset, false, Lsn::NONE),
            (Join::At { at: Lsn(4500), by: 2 }, true, Lsn(4500)),
            (Join::At { at: Lsn(4500), by: 1 }, true, Lsn(4500)),
            // Trace 13: its decision was passed over.
            (Join::At { at: Lsn(4500), by: 3 }, false, Lsn::NONE),
        ] {
            let voices = six(|s| voice(2, &two, 2, if s == 0 { join } else { Join::Founder }));
            let choice = choose(&voices).unwrap();
            assert_eq!((choice.voters.contains(Slot(0)), choice.join), (votes, known), "{join:?}");
        }
    }

    #[test]
    fn a_join_point_older_than_the_superblocks_is_judged_by_the_whole_history() {
        // Decision 2 is in the history, and 3 was passed over; the superblocks keep 5 alone.
        let whole = first().succeed(Lsn(5000), 2, Lsn(8192)).succeed(Lsn(9000), 5, Lsn(12288));
        let kept = History::from_entries(whole.since(Lsn(12288)).to_vec()).unwrap();
        let voices = six(|s| match s {
            0 | 1 => voice(5, &kept, 5, Join::Founder),
            2 => voice(5, &kept, 5, Join::At { at: Lsn(4500), by: 2 }),
            3 => voice(3, &kept, 5, Join::At { at: Lsn(8000), by: 3 }),
            _ => None,
        });
        let mut choice = choose(&voices).unwrap();
        choice.under(&voices, &whole).unwrap();
        assert_eq!((choice.voters.contains(Slot(2)), choice.voters.contains(Slot(3))), (true, false));
        assert_eq!((choice.voters.len(), choice.join), (3, Lsn(4500)));
    }

    #[test]
    fn formatted_slots_do_not_make_three_voters() {
        let voices = six(|s| match s {
            0 | 1 => voice(1, &first(), 1, Join::Founder),
            2 | 3 => voice(1, &first(), 1, Join::Unset),
            _ => None,
        });
        assert_eq!(choose(&voices), Err(NoChoice::Voters(2)));
    }

    #[test]
    fn a_clean_mark_is_true_on_however_few_slots() {
        let voices = six(|s| {
            let mut v = voice(1, &first(), 1, Join::Founder)?;
            if let (1, Some(d)) = (s, v.decision.as_mut()) {
                d.clean = Some(Lsn(8192));
            }
            Some(v)
        });
        assert_eq!(choose(&voices).unwrap().decision.clean, Some(Lsn(8192)));
    }

    #[test]
    fn the_whole_history_may_leave_too_few_voters() {
        // Two founders, and slots whose join points are older than the superblocks: by a decision in the history, or not.
        let whole = first().succeed(Lsn(5000), 2, Lsn(8192)).succeed(Lsn(9000), 5, Lsn(12288));
        let kept = History::from_entries(whole.since(Lsn(12288)).to_vec()).unwrap();
        for (by, at_first, at_last) in [(2, Ok(3), Ok(3)), (3, Ok(3), Err(2)), (5, Ok(3), Ok(3)), (6, Err(2), Err(2))] {
            let voices = six(|s| match s {
                0 | 1 => voice(5, &kept, 5, Join::Founder),
                2 => voice(5, &kept, 5, Join::At { at: Lsn(4500), by }),
                // Blank, but claimed: it has no decision, so no vote.
                3 => Some(Voice { claim: 5, decision: None, join: Join::Founder }),
                _ => None,
            });
            let choice = choose(&voices);
            let count = |c: &Result<Choice, NoChoice>| match c {
                Ok(c) => Ok(c.voters.len()),
                Err(NoChoice::Voters(n)) => Err(*n),
            };
            assert_eq!(count(&choice), at_first, "{by}");
            let whole_counts = choice.and_then(|mut c| c.under(&voices, &whole).map(|()| c));
            assert_eq!(count(&whole_counts), at_last, "{by}");
        }
    }
}
