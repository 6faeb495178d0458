//! Opening, as PROTOCOL.md says it: claim, read, decide, complete the tail, write the decision, look.
//!
//! Straight-line code over a [`Fleet`]: on real disks the calls of a step run side by side on the slots' workers, in the
//! simulator each call is a point at which the world may go on, or end.

use crate::bugs::{Bug, planted};
use crate::core::gaps::Gap;
use crate::core::history::{Entry, History, reach};
use crate::core::recovery::{self, Ruling, Sightings};
use crate::core::vote::{self, Choice, Join};
use crate::core::writer::Look;
use crate::core::{READ_QUORUM, WRITE_QUORUM};
use crate::disk::{Fleet, SlotDir, job};
use crate::history::past::NO_STAMPS;
use crate::history::past::Past;
use crate::log::record::Kind;
use crate::lsn::{Lsn, PageId, SLOTS, Slot, SlotSet, format};
use crate::page::manifest::{self, Manifest};
use crate::page::read::{Faults, LogReader, Owned};
use crate::reclaim::freed::Freed;
use crate::segment::doubt;
use crate::segment::name::FileName;
use crate::segment::scan::{Change, Groups, Scanner};
use crate::segment::superblock::{Durability, Geometry, ScrubMark, Superblock};
use crate::segment::survey::{self, NoSurvey, Standing, Survey};
use crate::segment::tail;
use crate::volume::error::{OpenError, ReadError, SlotFault, SlotFaults};
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// What a volume's slots say together: the log, and what it holds.
pub struct Recovered {
    pub survey: Survey,
    pub choice: Choice,
    /// All epochs; the open one as it was found.
    pub history: History,
    /// The manifest that superblocks name, 0 before the first checkpoint, and where redo begins with it.
    pub named: (Lsn, Lsn),
    /// What it gives back. What a newer one does may still be needed: by who opens next, and reads the named one again.
    pub freed: Freed,
    /// The named manifest and those above it in the log, in order: each took the place of the one before, whether
    /// superblocks name it or not. They may do so at any time, and for some openers only.
    pub states: Vec<State>,
    /// Page changes from the named manifest's redo begin to the log's end.
    pub changes: Vec<Change>,
    pub ruling: Ruling,
    pub seen: Sightings,
    /// The groups of the tail, as they were read: an opener copies them.
    pub groups: Groups,
    /// The log was closed clean: nothing was scanned.
    pub clean: bool,
    /// Bytes of log that were read.
    pub bytes_read: u64,
    /// The lowest and the highest stamp since the newest state's redo begin, or lower and higher.
    pub stamps: (u64, u64),
}

/// What the volume is made from between one manifest and the next.
pub struct State {
    pub manifest: Manifest,
    /// Its record; 0 before the first checkpoint.
    pub lsn: Lsn,
    /// It holds from the record's end on.
    since: Lsn,
    /// Changes that its table lacks begin there.
    redo: Lsn,
}

impl Recovered {
    /// The volume's own clock, when the wall clock is there: it goes on from the newest checkpoint's, and never back.
    pub fn age_us(&self, wall_us: u64) -> u64 {
        let past = self.newest().past();
        let newest = past.bases.last().filter(|b| !b.lsn.is_none());
        newest.map_or(0, |b| b.age_us.saturating_add(wall_us.saturating_sub(b.wall_us)))
    }

    /// What the log's end is made from.
    pub fn newest(&self) -> &State {
        self.at(Lsn::MAX).0
    }

    /// What a state of the log since the named manifest is made from: a table, and the changes since.
    pub fn at(&self, at: Lsn) -> (&State, &[Change]) {
        let behind = self.states.partition_point(|s| s.since <= at).max(1);
        let state = &self.states[behind - 1];
        let until = self.states.get(behind).map_or(Lsn::MAX, |next| next.since);
        let index = |lsn| self.changes.partition_point(|c| c.lsn < lsn);
        (state, &self.changes[index(state.redo)..index(until)])
    }

    /// The history without what was given back.
    pub fn kept(&self) -> Vec<Entry> {
        self.freed.kept(&self.history)
    }
}

impl State {
    /// What is known of the past with it.
    pub fn past(&self) -> Past {
        self.manifest.past_at(self.lsn)
    }
}

/// A volume that is open for writing.
pub struct Opened {
    pub geometry: Geometry,
    pub number: u64,
    pub history: History,
    /// Where the new epoch begins.
    pub begin: Lsn,
    /// Slots whose cursors begin there.
    pub took_part: SlotSet,
    /// What each slot holds as its superblock: the running writer writes new versions of them.
    pub superblocks: Vec<Option<Superblock>>,
    pub recovered: Recovered,
}

/// Checkpoints of a running writer that a reading steps aside for.
const TRIES: usize = 8;

/// No epoch begins at or above: what is left of the addresses holds whatever its checkpoints write.
const LAST_BEGIN: u64 = format::NUMBER_LIMIT - (1 << 40);

/// Reads and decides: steps 2 and 3. Changes nothing.
pub fn recover<F: Fleet>(fleet: &F) -> Result<Recovered, OpenError> {
    let newest = |survey: &Survey| survey.manifests().last().map(|(lsn, ..)| *lsn);
    let mut found = survey(fleet)?;
    for _ in 1..TRIES {
        let before = newest(&found);
        let error = match recover_from(fleet, found) {
            Err(error) => error,
            recovered => return recovered,
        };
        // A writer may have gone on beside it, and given back what its newer manifest does not need.
        match survey(fleet) {
            Ok(again) if newest(&again) > before => found = again,
            _ => return Err(error),
        }
    }
    recover_from(fleet, found)
}

fn recover_from<F: Fleet>(fleet: &F, survey: Survey) -> Result<Recovered, OpenError> {
    let voices = survey.voices();
    let unread = |e: vote::NoChoice| quorum(format!("the volume cannot be read: {e}"), &survey);
    let mut choice = vote::choose(&voices).map_err(unread)?;
    // A slot that did not answer is not waited for again.
    let answered = |(dir, s): (Option<Arc<dyn SlotDir>>, &Standing)| {
        dir.filter(|_| !matches!(s, Standing::Fault(SlotFault::TimedOut(_))))
    };
    let mut dirs = fleet.dirs().into_iter().zip(&survey.standings).map(answered);
    let dirs = std::array::from_fn(|_| dirs.next().flatten());
    let reader = LogReader::new(survey.geometry, dirs, choice.decision.history.clone());
    let mut history = choice.decision.history.clone();
    // The newest manifest that is in the chosen history, whoever named it.
    let named = survey.manifests();
    let used = named.iter().rev().find(|(lsn, _, m)| history.contains_epoch(*m) && history.at(*lsn).is_some());
    let begin = choice.decision.history.entries()[0].begin;
    let (mut manifest, mut manifest_lsn, mut testified) = (Manifest::first(begin), Lsn::NONE, Lsn::NONE);
    if let Some(&(lsn, ..)) = used {
        let record = reader.record(lsn, 4096).map_err(|mut faults| {
            // What the survey found says more than what reading came to.
            let found = survey.faults().0;
            faults.retain(|(slot, _)| !found.iter().any(|(s, _)| s == slot));
            faults.extend(found);
            faults.sort_by_key(|(slot, _)| *slot);
            lost(lsn, faults)
        })?;
        manifest = decoded(lsn, &record)?;
        manifest_lsn = lsn;
        testified = lsn + record.len;
        history.extend_back(&manifest.history);
        // Runs may lie in epochs that the superblocks no longer tell of.
        let reader = LogReader::new(survey.geometry, reader.dirs().clone(), history.clone());
        manifest.root.pending = reader.pending(&manifest.root)?;
    }
    choice.under(&voices, &history).map_err(unread)?;
    testified = testified.max(choice.join);
    let named = (manifest_lsn, if manifest_lsn.is_none() { Lsn::NONE } else { manifest.redo });
    let redo = manifest.redo.max(history.entries()[0].begin);
    let mut changes = Vec::new();
    if let Some(end) = choice.decision.clean {
        let ruling =
            Ruling { known: end, vcl: end, end, tail: Vec::new(), next_begin: end.ceil(survey.geometry.block()) };
        // Who opened it since began there, or where one begins who did not see that it was closed.
        let begins = [ruling.next_begin, reach(end), reach(end) + format::EXTENT];
        Scanner::new(fleet, &survey).no_successor(choice.decision.history.last().epoch, begins)?;
        let seen = Sightings::new();
        return Ok(Recovered {
            survey,
            choice,
            history,
            named,
            freed: manifest.freed.clone(),
            states: vec![State { manifest, lsn: manifest_lsn, since: Lsn::NONE, redo }],
            changes,
            ruling,
            seen,
            groups: Groups::new(),
            clean: true,
            bytes_read: 0,
            // Nothing was asked: a search looks itself.
            stamps: (0, u64::MAX),
        });
    }
    let mut scanner = Scanner::new(fleet, &survey);
    for entry in history.since(redo) {
        if entry.end != Lsn::MAX {
            scanner.closed(*entry, redo, &mut changes)?;
        }
    }
    let (seen, ruling, groups) = scanner.open(&history, redo, testified, &mut changes)?;
    changes.retain(|c| c.lsn >= redo);
    let (bytes_read, stamps) = (scanner.bytes_read, scanner.stamps);
    let above = |c: &&Change| c.kind == Kind::Manifest && c.lsn > manifest_lsn;
    let manifests: Vec<Change> = changes.iter().filter(above).copied().collect();
    changes.retain(|c| c.kind != Kind::Manifest);
    let reader = LogReader::new(survey.geometry, reader.dirs().clone(), history.clone());
    let freed = manifest.freed.clone();
    let mut states = vec![State { manifest, lsn: manifest_lsn, since: Lsn::NONE, redo }];
    for Change { lsn, end, base, .. } in manifests {
        let rewinds = !base.is_none();
        if planted(if rewinds { Bug::RewindNotReplayed } else { Bug::ManifestUnnamed }) {
            continue;
        }
        let record = reader.record(lsn, 4096).map_err(|f| lost(lsn, f))?;
        let mut manifest = decoded(lsn, &record)?;
        manifest.root.pending = reader.pending(&manifest.root)?;
        // Nothing from before a rewind is part of the state that it took up again.
        let redo = if rewinds { lsn } else { manifest.redo };
        states.push(State { manifest, lsn, since: end, redo });
    }
    Ok(Recovered {
        survey,
        choice,
        history,
        named,
        freed,
        states,
        changes,
        ruling,
        seen,
        groups,
        clean: false,
        bytes_read,
        stamps,
    })
}

fn decoded(lsn: Lsn, record: &Owned) -> Result<Manifest, ReadError> {
    let manifest = (record.fields.kind == Kind::Manifest).then(|| Manifest::decode(&record.payload)).flatten();
    manifest.ok_or(ReadError::Corrupt { page: PageId::ROOT, lsn, what: "it is no manifest" })
}

fn lost(lsn: Lsn, faults: Faults) -> ReadError {
    ReadError::Lost { page: PageId::ROOT, lsn, slots: SlotFaults(faults) }
}

fn survey<F: Fleet>(fleet: &F) -> Result<Survey, OpenError> {
    Survey::take(fleet, SlotSet::ALL).map_err(|e| match e {
        // Whoever knows the directories names them.
        NoSurvey::NoVolume => OpenError::NoVolume(std::path::PathBuf::new()),
        NoSurvey::Undecided(slots) => OpenError::Quorum { what: "no slot can be read".into(), slots },
    })
}

fn quorum(what: String, survey: &Survey) -> OpenError {
    OpenError::Quorum { what, slots: survey.faults() }
}

/// Opens for writing, after a kill and by force alike. `lock` is called with the epoch before it is claimed, and with the
/// slots that are this volume's or blank.
pub fn open<F: Fleet>(
    fleet: &F,
    lock: impl FnOnce(u64, SlotSet) -> Result<(), OpenError>,
) -> Result<Opened, OpenError> {
    let before = survey(fleet)?;
    let reachable: SlotSet = before.ours().iter().chain(before.blank().iter()).collect();
    if reachable.len() < WRITE_QUORUM {
        let what = format!("only {} slots can be written, and {WRITE_QUORUM} are needed", reachable.len());
        return Err(quorum(what, &before));
    }
    let first =
        vote::choose(&before.voices()).map_err(|e| quorum(format!("the volume cannot be opened: {e}"), &before))?;
    let number = first.claim.max(before.claim()) + 1;
    if number >= format::NUMBER_LIMIT {
        let what =
            format!("epoch {} is claimed, and there is none above: a file claim-{0} is not the volume's", number - 1);
        return Err(quorum(what, &before));
    }
    lock(number, reachable)?;
    let early = if planted(Bug::ClaimAfterReading) { Some(recover(fleet)?) } else { None };
    let claimed = claim(fleet, &before, reachable, number)?;

    let recovered = early.map_or_else(|| recover(fleet), Ok).map_err(|e| match e {
        // A rival's, who decided after the superblocks were read.
        OpenError::UnknownEpoch { epoch, .. } if epoch > number => OpenError::Outbid { epoch },
        other => other,
    })?;
    if recovered.survey.claim() > number {
        return Err(OpenError::Outbid { epoch: recovered.survey.claim() });
    }
    let (ruling, geometry) = (&recovered.ruling, recovered.survey.geometry);
    if ruling.next_begin.0 >= LAST_BEGIN {
        return Err(OpenError::OutOfAddresses(ruling.vcl));
    }
    // One more, and no manifest could tell of them: then nobody could read the volume any more.
    let epochs = recovered.history.entries().len();
    if epochs >= manifest::ENTRIES_MAX {
        let what = format!(
            "{epochs} epochs have begun, and a manifest tells of no more: what is there can be read, and copied to a new volume"
        );
        return Err(quorum(what, &recovered.survey));
    }
    let took_part: SlotSet = claimed.iter().filter(|s| recovered.survey.files(*s).is_some()).collect();
    if !planted(Bug::DecisionBeforeTail) {
        complete_tail(fleet, &recovered, took_part, number)?;
    }

    let history = recovered.history.succeed(ruling.end, number, ruling.next_begin);
    let superblocks = decisions(&recovered, &history, took_part, number);
    let write = superblocks.clone();
    let answers = fleet.each(took_part, move |slot, dir| match &write[slot.index()] {
        Some(superblock) => job::with_reserve(dir, || job::write_super(dir, superblock)),
        None => Ok(()),
    });
    let took_part = succeeded(&answers);
    if took_part.len() < WRITE_QUORUM {
        return Err(failed("the decision could not be written to four slots", answers, Some(&recovered.survey)));
    }
    if planted(Bug::DecisionBeforeTail) {
        complete_tail(fleet, &recovered, took_part, number)?;
    }
    if !planted(Bug::NoLookAfterDecision) {
        look(fleet, number, recovered.survey.claimable())?;
    }
    let begin = ruling.next_begin;
    Ok(Opened { geometry, number, history, begin, took_part, superblocks, recovered })
}

/// Step 1: blank slots are formatted, then the number is claimed on at least four.
fn claim<F: Fleet>(fleet: &F, before: &Survey, reachable: SlotSet, number: u64) -> Result<SlotSet, OpenError> {
    let newest =
        Slot::ALL.into_iter().filter_map(|s| before.files(s)?.newest()).max_by_key(|s| (s.number, s.version)).cloned();
    let Some(newest) = newest else { return Err(quorum("no superblock can be read".into(), before)) };
    if planted(Bug::NoClaim) {
        return Ok(reachable);
    }
    let blank = before.blank();
    let highest = before.claim();
    let answers = fleet.each(reachable, move |slot, dir| {
        job::with_reserve(dir, || {
            if blank.contains(slot) {
                // An unfinished formatting may have left it there.
                let carry = || match dir.create_new(FileName::Claim(highest)) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    other => other,
                };
                let carries = highest > newest.number && !planted(Bug::FormatWithoutClaim);
                // The claim first: with its superblock the slot is a voter, and a look may read it.
                if carries && !planted(Bug::SuperblockBeforeClaim) {
                    carry()?;
                }
                let blank =
                    Superblock { slot, join: Join::Unset, version: 0, incarnation: 1, clean: None, ..newest.clone() };
                job::write_super(dir, &blank)?;
                if carries && planted(Bug::SuperblockBeforeClaim) {
                    carry()?;
                }
            }
            match dir.create_new(FileName::Claim(number)) {
                Err(_) if planted(Bug::ClaimNotExclusive) => Ok(()),
                claimed => claimed,
            }
        })
    });
    let claimed = succeeded(&answers);
    if claimed.len() >= WRITE_QUORUM {
        return Ok(claimed);
    }
    let taken = |a: &Option<io::Result<()>>| matches!(a, Some(Err(e)) if e.kind() == io::ErrorKind::AlreadyExists);
    if answers.iter().any(taken) {
        return Err(OpenError::Outbid { epoch: number });
    }
    Err(failed("the epoch could not be claimed on four slots", answers, Some(before)))
}

/// Step 4: every group of the tail on at least four slots, whole, and flushed after it was read.
fn complete_tail<F: Fleet>(fleet: &F, recovered: &Recovered, took_part: SlotSet, number: u64) -> Result<(), OpenError> {
    let (ruling, seen) = (&recovered.ruling, &recovered.seen);
    if ruling.tail.is_empty() {
        return Ok(());
    }
    let geometry = recovered.survey.geometry;
    let epoch = recovered.history.last().epoch;
    let mut files: Vec<Option<Vec<u8>>> = vec![None; SLOTS];
    for slot in took_part.iter() {
        let lacking = recovery::lacking(ruling, seen, slot);
        let mut groups = Vec::with_capacity(lacking.len());
        for (begin, _) in lacking {
            // As it was read when it was decided to be there: a slot may fail meanwhile, or its copy go bad.
            let Some(bytes) = recovered.groups.get(&begin).cloned() else {
                return Err(quorum(format!("the group at LSN {begin} was not read"), &recovered.survey));
            };
            let reseal =
                |bytes: Bytes| crate::bugs::reseal(bytes.into(), begin, ruling.end, geometry.seed(), epoch).into();
            groups.push((begin, if planted(Bug::Reseal) { reseal(bytes) } else { bytes }));
        }
        if !groups.is_empty() {
            files[slot.index()] = Some(tail::encode(geometry.volume, &groups));
        }
    }
    let tail = tail_segments(ruling, &geometry);
    let files = Arc::new(files);
    let answers = fleet.each(took_part, move |slot, dir| {
        if let Some(bytes) = &files[slot.index()] {
            if planted(Bug::TailInPlace) {
                return crate::bugs::in_place(dir, bytes, &geometry);
            }
            job::with_reserve(dir, || dir.write_at(FileName::Tail(number), 0, bytes))?;
        }
        if planted(Bug::OpenerCountsUnflushed) { Ok(()) } else { flush_all(dir, &tail) }
    });
    let flushed = succeeded(&answers);
    // Flushed slots have every group now: what they lacked is in their tail file.
    if flushed.len() < WRITE_QUORUM {
        return Err(failed("the log's tail could not be completed on four slots", answers, Some(&recovered.survey)));
    }
    Ok(())
}

/// The segments that the tail lies in.
fn tail_segments(ruling: &Ruling, geometry: &Geometry) -> Vec<FileName> {
    let mut segments: Vec<FileName> =
        ruling.tail.iter().map(|(at, _)| FileName::segment_of(*at, geometry.pg_size).0).collect();
    segments.dedup();
    segments
}

/// What was read may still sit in the device's cache: its writer died between write and flush. Tail files as well: a dead
/// opener's counts as a copy.
fn flush_all(dir: &dyn SlotDir, segments: &[FileName]) -> io::Result<()> {
    let names = dir.list()?;
    let tails = names.into_iter().filter(|name| matches!(name, FileName::Tail(_)) && !planted(Bug::TailFileUnflushed));
    for name in segments.iter().copied().chain(tails) {
        match dir.flush(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                // What it holds in memory is not what it has: whoever checks it later must see that.
                if !planted(Bug::OpenerTrustsCache) {
                    dir.read_anew();
                }
                return Err(e);
            }
            _ => (),
        }
    }
    Ok(())
}

/// The slots whose copies of the tail and of the decision are durable: flushed, after they were read.
pub fn flush_what_was_read<F: Fleet>(fleet: &F, recovered: &Recovered) -> SlotSet {
    let mut segments = tail_segments(&recovered.ruling, &recovered.survey.geometry);
    segments.push(FileName::Epoch(recovered.choice.decision.number));
    succeeded(&fleet.each(recovered.survey.ours(), move |_, dir| flush_all(dir, &segments)))
}

/// Step 5: each slot's superblock with the new history.
fn decisions(recovered: &Recovered, history: &History, took_part: SlotSet, number: u64) -> Vec<Option<Superblock>> {
    let open = recovered.history.last();
    let at = recovered.ruling.known.max(open.begin);
    let doubt = doubt::of_all(recovered);
    let superblock = |slot: Slot| {
        let newest = recovered.survey.files(slot)?.newest()?;
        let join = if newest.join.needs_one(&recovered.history) { Join::At { at, by: number } } else { newest.join };
        Some(Superblock {
            geometry: recovered.survey.geometry,
            slot,
            number,
            version: 0,
            incarnation: newest.incarnation,
            history: history.clone(),
            join,
            clean: None,
            manifest: recovered.named.0,
            redo: recovered.named.1,
            durability: newest.durability,
            gaps: doubt.gaps.clone(),
            unchecked: doubt.unchecked,
            scrub: doubt.scrub,
        })
    };
    Slot::ALL.map(|s| took_part.contains(s).then(|| superblock(s)).flatten()).to_vec()
}

/// Step 6.
fn look<F: Fleet>(fleet: &F, number: u64, slots: SlotSet) -> Result<(), OpenError> {
    let answers = fleet.each(slots, |_, dir| job::highest_claim(dir));
    // A blank slot is no voter: it says 0.
    let mut claims = [None; SLOTS];
    for (claim, answer) in claims.iter_mut().zip(&answers) {
        *claim = answer.as_ref().and_then(|a| a.as_ref().ok().copied()).filter(|c| *c > 0);
    }
    match Look::judge(number, &claims) {
        Look::Clear => Ok(()),
        Look::Claimed(epoch) => Err(OpenError::Outbid { epoch }),
        Look::Unsure => Err(failed(&format!("fewer than {READ_QUORUM} slots answered the last look"), answers, None)),
    }
}

fn succeeded<T>(answers: &[Option<io::Result<T>>; SLOTS]) -> SlotSet {
    Slot::ALL.into_iter().filter(|s| matches!(answers[s.index()], Some(Ok(_)))).collect()
}

/// Too few slots did it: each that failed, and each that was not asked with what the survey found.
fn failed<T>(what: &str, answers: [Option<io::Result<T>>; SLOTS], survey: Option<&Survey>) -> OpenError {
    let mut faults = survey.map(|s| s.faults().0).unwrap_or_default();
    for (slot, answer) in Slot::ALL.into_iter().zip(answers) {
        if let Some(Err(e)) = answer {
            faults.retain(|(s, _)| *s != slot);
            faults.push((slot, survey::fault_of(e)));
        }
    }
    faults.sort_by_key(|(slot, _)| *slot);
    OpenError::Quorum { what: what.into(), slots: SlotFaults(faults) }
}

/// Makes a new volume on six blank slots: epoch 1, which begins at the second block.
pub fn create<F: Fleet>(fleet: &F, geometry: Geometry, durability: Durability) -> Result<Opened, OpenError> {
    let begin = Lsn(geometry.block());
    let history = History::first(begin);
    let superblock = move |slot: Slot, history: &History| Superblock {
        geometry,
        slot,
        number: 1,
        version: 0,
        incarnation: 1,
        history: history.clone(),
        join: Join::Founder,
        clean: None,
        manifest: Lsn::NONE,
        redo: Lsn::NONE,
        durability,
        gaps: Vec::new(),
        unchecked: Gap::NONE,
        scrub: ScrubMark::default(),
    };
    let first = history.clone();
    let answers = fleet.each(SlotSet::ALL, move |slot, dir: &dyn SlotDir| {
        if !dir.list()?.is_empty() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        dir.create_new(FileName::Claim(1))?;
        job::write_super(dir, &superblock(slot, &first))
    });
    if succeeded(&answers) != SlotSet::ALL {
        return Err(failed("a new volume needs all six slots", answers, None));
    }
    // A creation that finds a higher claim beside it gives up.
    look(fleet, 1, SlotSet::ALL)?;
    let superblocks: Vec<Option<Superblock>> = Slot::ALL.iter().map(|s| Some(superblock(*s, &history))).collect();
    let survey = survey(fleet)?;
    let choice = vote::choose(&survey.voices()).map_err(|e| quorum(e.to_string(), &survey))?;
    let ruling = Ruling { known: begin, vcl: begin, end: begin, tail: Vec::new(), next_begin: begin };
    let recovered = Recovered {
        survey,
        choice,
        history: history.clone(),
        named: (Lsn::NONE, Lsn::NONE),
        freed: Freed::default(),
        states: vec![State { manifest: Manifest::first(begin), lsn: Lsn::NONE, since: Lsn::NONE, redo: begin }],
        changes: Vec::new(),
        ruling,
        seen: Sightings::new(),
        groups: Groups::new(),
        clean: true,
        bytes_read: 0,
        stamps: NO_STAMPS,
    };
    Ok(Opened { geometry, number: 1, history, begin, took_part: SlotSet::ALL, superblocks, recovered })
}
