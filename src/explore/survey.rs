//! What an open reads, restated: `segment::survey`, `segment::scan` and `segment::recover::recover`, over [`Disk`]s.
//!
//! What is decided from it is the core's: `vote::choose`, `Choice::under`, `recovery::rule`, `history::reach`.

use crate::core::history::{Entry, History, reach};
use crate::core::recovery::{self, Ruling, Seen, Sightings};
use crate::core::vote::{self, Decision, Voice, Voices};
use crate::explore::disk::{Disk, GroupId, Held, OpenerId, Super};
use crate::explore::rules::{Rule, Setting};
use crate::explore::state::{BLOCK, Findings, State, World};
use crate::lsn::{Lsn, Slot, SlotSet, format};

impl Disk {
    /// `Files::newest`.
    pub fn newest(&self) -> Option<&Super> {
        self.supers.iter().rfind(|s| !s.rotten)
    }

    /// `job::highest_claim`; 0 on a blank slot.
    pub fn highest_claim(&self, world: &World) -> u64 {
        let claim = u64::from(31 - self.claims.leading_zeros().min(31));
        self.supers.iter().map(|s| world.number(s.by)).max().unwrap_or(0).max(claim)
    }

    /// The group of `epoch` at `at`, whole, from a tail file or the segment.
    pub fn group_at(&self, world: &World, at: Lsn, epoch: u64) -> Option<GroupId> {
        let is = |g: &GroupId| world.group(*g).begin == at && world.epoch(*g) == epoch;
        self.in_tails().find(is).or_else(|| match self.cell(at)?.visible() {
            Held::Whole(g) => Some(g).filter(is),
            _ => None,
        })
    }
}

impl State {
    /// Slots that answer as this volume's.
    pub fn ours(&self, reach: SlotSet) -> SlotSet {
        reach.iter().filter(|s| self.slot(*s).disk.newest().is_some()).collect()
    }

    pub fn blank(&self, reach: SlotSet) -> SlotSet {
        reach.iter().filter(|s| self.slot(*s).disk.is_blank()).collect()
    }

    /// `Survey::voices`.
    pub fn voices(&self, set: SlotSet) -> Voices {
        let ours = self.ours(set);
        Slot::ALL.map(|slot| {
            let disk = &self.slot(slot).disk;
            let newest = disk.newest().filter(|_| ours.contains(slot))?;
            let opener = &self.world.openers[usize::from(newest.by)];
            let decision =
                |history: &History| Decision { number: opener.number, history: history.clone(), clean: newest.clean };
            Some(Voice {
                claim: disk.highest_claim(&self.world),
                decision: opener.history.as_ref().map(decision),
                join: newest.join,
            })
        })
    }

    /// `Survey::claim`: a slot with a fault says nothing.
    pub fn claim(&self, set: SlotSet) -> u64 {
        let told = self.ours(set).iter().chain(self.blank(set).iter());
        told.map(|s| self.slot(s).disk.highest_claim(&self.world)).max().unwrap_or(0)
    }

    /// `recover::recover`, without a manifest: redo begins where the log does.
    pub fn recover(&self, set: SlotSet, setting: &Setting) -> Result<Findings, String> {
        let voices = self.voices(set);
        let mut choice = vote::choose(&voices).map_err(|e| e.to_string())?;
        let history = choice.decision.history.clone();
        choice.under(&voices, &history).map_err(|e| e.to_string())?;
        let decided = |o: &_| matches!(o, crate::explore::state::Opener { number, history: Some(_), .. } if *number == choice.decision.number);
        let decision = self.world.openers.iter().position(decided).unwrap_or(0) as OpenerId;
        let joins = Slot::ALL.map(|s| voices[s.index()].as_ref().map(|v| v.join));
        let (holders, clean) = (choice.holders, choice.decision.clean.is_some());
        let (seen, ruling) = match choice.decision.clean {
            Some(end) => {
                let next_begin = end.ceil(BLOCK);
                (Sightings::new(), Ruling { known: end, vcl: end, end, tail: Vec::new(), next_begin })
            }
            None => self.scan(self.ours(set), &history, choice.join, setting)?,
        };
        Ok(Findings { history, decision, holders, joins, seen, ruling, clean })
    }

    /// `Scanner::closed` and `Scanner::open`.
    fn scan(
        &self,
        set: SlotSet,
        history: &History,
        testified: Lsn,
        setting: &Setting,
    ) -> Result<(Sightings, Ruling), String> {
        let find = |at: Lsn, epoch: u64| set.iter().find_map(|s| self.slot(s).disk.group_at(&self.world, at, epoch));
        let open = history.last();
        for entry in history.entries().iter().filter(|e| e.epoch != open.epoch) {
            let mut at = entry.begin;
            while at < entry.end {
                let Some(group) = find(at, entry.epoch) else {
                    return Err(format!("no copy of LSN {at}, inside the closed epoch {}", entry.epoch));
                };
                at = self.world.group(group).end;
            }
        }
        let mut seen = Sightings::new();
        let mut at = open.begin;
        while let Some(id) = find(at, open.epoch) {
            let whole = |s: &Slot| self.slot(*s).disk.group_at(&self.world, at, open.epoch).is_some();
            let g = self.world.group(id);
            let vdl = if g.cpl.is_some() { g.vdl } else { Lsn::NONE };
            seen.insert(at, Seen { end: g.end, whole: set.iter().filter(whole).collect(), cpl: g.cpl, vdl });
            at = g.end;
        }
        self.look_beyond(set, open, at, &mut seen)?;
        let mut ruling = recovery::rule(open, open.begin, &seen, testified).map_err(|e| e.to_string())?;
        if setting.breaks(Rule::EndAtCpl) {
            ruling.end = ruling.vcl;
        }
        if setting.breaks(Rule::BeginBeyondReach) {
            ruling.next_begin = ruling.vcl;
        }
        Ok((seen, ruling))
    }

    /// `Scanner::look_beyond`: segments alone.
    fn look_beyond(&self, set: SlotSet, open: Entry, end: Lsn, seen: &mut Sightings) -> Result<(), String> {
        for slot in set.iter() {
            for cell in self.slot(slot).disk.log.iter() {
                let (Held::Whole(id) | Held::Torn(id)) = cell.visible() else { continue };
                let (g, epoch) = (self.world.group(id), self.world.epoch(id));
                let near = cell.at >= end && cell.at < end + format::LAL;
                let successor = cell.at == reach(end) || cell.at == reach(end) + format::EXTENT;
                if epoch > open.epoch && (near || successor) {
                    return Err(format!("a record of epoch {epoch}, which no superblock knows"));
                }
                if epoch != open.epoch || !near {
                    continue;
                }
                let s = seen.entry(cell.at).or_default();
                s.vdl = s.vdl.max(if g.cpl.is_some() { g.vdl } else { Lsn::NONE });
                if cell.at > end && matches!(cell.visible(), Held::Whole(_)) {
                    (s.end, s.cpl) = (g.end, g.cpl);
                    s.whole.insert(slot);
                }
            }
        }
        Ok(())
    }
}
