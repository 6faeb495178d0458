//! Planted bugs: each takes one rule out, to check that the checks see it. Compiled in by `--cfg quorate_bugs` alone,
//! chosen at run time. Of every bug its variant says what is taken out, and which directed test sees it
//! (`sim::traces`). All of them, each with its test:
//!
//! ```text
//! RUSTFLAGS="--cfg quorate_bugs" CARGO_TARGET_DIR=target/bugs cargo test --release --lib --features sim planted
//! ```
#![doc = include_str!("bugs.md")]

#[cfg(not(quorate_loom))]
use crate::lsn::Lsn;
#[cfg(not(quorate_loom))]
use crate::{disk::SlotDir, log::record, segment::name::FileName, segment::superblock::Geometry, segment::tail};
#[cfg(not(quorate_loom))]
use std::io;

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident,)*) => {
        /// A rule that is taken out.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            #[cfg(any(test, quorate_bugs))]
            pub const ALL: &[Bug] = &[$(Bug::$bug,)*];
        }
    };
}

bugs! {
    /// Three copies are enough for an acknowledgement. `t00_three_copies_are_not_enough`.
    AckOnThree,
    /// A slot rejoins at the sealed end, above VDL. `t01_rejoin_at_the_tail`.
    RejoinAtTail,
    /// A slot rejoins though a write to it is outstanding. `t02_rejoin_under_a_hung_write`.
    RejoinUnderWrite,
    /// A block is written on a slot though it is being zeroed there. `a_block_is_not_written_under_its_zeroing`.
    WriteUnderZeroing,
    /// A writer zeroes a slot that its successor has claimed. `nothing_is_zeroed_under_a_claim`.
    ZeroUnderClaim,
    /// The clean mark comes though a slot is being zeroed. `no_clean_mark_under_zeroing`.
    CleanUnderZeroing,
    /// Space is zeroed beyond what the next epoch leaves free. `nothing_is_zeroed_beyond_the_reach`.
    ZeroBeyondReach,
    /// A rejoining slot is written again where it verifies. `t02_rejoin_writes_nothing_again`.
    RejoinRewrites,
    /// An epoch's end is forgotten: it holds all addresses up to the next begin. `t03_a_history_of_begins_only`.
    ForgetEpochEnd,
    /// The log ends at VCL, not behind the last CPL. `t04_half_an_mtr`.
    HalfMtr,
    /// A record that is missing below the known VDL ends the log. `t05_a_missing_record_is_no_end`.
    MissingEndsLog,
    /// Garbage above the known VDL refuses the open. `t06_garbage_is_no_refusal`.
    StrictGarbage,
    /// The decision comes before the tail. `t07_decision_before_the_tail`.
    DecisionBeforeTail,
    /// After an epoch without a record the next begins where it began. `t08_empty_epochs`.
    EmptyEpochsShareBegin,
    /// The next epoch begins one block inside the old writer's reach. `t08_begin_inside_the_reach`.
    BeginShort,
    /// The next begin is measured from the end, not from the union's VCL. `t09_begin_measured_from_vdl`.
    BeginFromVdl,
    /// Nothing is claimed: the decision takes the number. `t10_one_number_two_deciders`.
    NoClaim,
    /// The claim comes after the reading. `t15_the_fence_after_the_reading`.
    ClaimAfterReading,
    /// The decision on most slots wins. `t11_most_wins`.
    MostWins,
    /// A record of an epoch that no superblock knows is passed over. `t11_a_newer_record_refuses`.
    NewerEpochIgnored,
    /// A superblock version is written once. `t11_a_superblock_in_one_place`.
    SuperblockOnce,
    /// Three voters are not asked for: blank slots do. `t12_blank_disks_vote`.
    BlankVotes,
    /// A slot that was formatted and never brought in has a vote. `t12_formatted_disks_vote`.
    FormattedVotes,
    /// A join point counts though its decision was passed over. `t13_a_passed_over_join_point`.
    PassedOverJoin,
    /// A minority's decision is taken for settled. `t14_a_minority_decision_is_not_settled`.
    SettledByMinority,
    /// Four copies are settled without a look for a claim. `t14_four_copies_under_a_claim`.
    SettledUnderClaim,
    /// Four copies behind a gap are settled. `t22_four_copies_after_a_gap`.
    SettledAcrossGap,
    /// Copies that were read and not flushed are settled. `t22_four_copies_in_caches`.
    ReaderCountsUnflushed,
    /// The opener's tail copies are not flushed after they were read. `t22_an_open_flushes_what_it_counts`.
    OpenerCountsUnflushed,
    /// What an opener reads in a dead opener's tail file is counted unflushed. `t22_a_tail_file_is_flushed`.
    TailFileUnflushed,
    /// The writer never looks. `t15_never_looking`.
    AckBeforeLook,
    /// VCL and VDL move before the look, which gates the acknowledgement alone. `t15_looking_only_to_acknowledge`.
    VdlBeforeLook,
    /// No look after the own decision. `t15_no_look_after_the_decision`.
    NoLookAfterDecision,
    /// A claim that exists is as good as a new one. `t16_two_openers_one_number`.
    ClaimNotExclusive,
    /// Recovery copies into the segments. `t18_the_tail_in_place`.
    TailInPlace,
    /// Recovery copies the records up to the end, and closes the group behind them. `t18_whole_groups_verbatim`.
    Reseal,
    /// A merge does not wait for what is in flight. `t18_merge_under_a_late_write`.
    MergeUndrained,
    /// A merge does not wait until earlier writers are gone. `t18_merge_beside_a_zombie`.
    MergeBesideZombie,
    /// A merge writes over what verifies. `t18_a_merge_writes_nothing_again`.
    MergeRewrites,
    /// A slot is brought back without a look before. `t19_a_zombie_formats_a_replaced_disk`.
    RejoinWithoutLook,
    /// A slot in whose place a blank one came gets no claim. `t19_a_formatted_slot_carries_the_claim`.
    FormatWithoutClaim,
    /// A blank slot gets its superblock first, then the highest claim. `t19_an_opener_dies_while_it_formats`.
    SuperblockBeforeClaim,
    /// Records are not checked by their CRC. `rot_in_a_record`.
    SkipRecordCrc,
    /// A group counts by its header alone. `rot_in_a_group`.
    SkipGroupCheck,
    /// A frame is reused under a hung write. `a_hung_write_keeps_its_frame`.
    ReuseHungFrame,
    /// What is behind an unfilled reservation is published. `publishing_in_order`.
    PublishOutOfOrder,
    /// The clean mark comes though a write is outstanding. `no_clean_mark_under_a_write`.
    CleanUnderWrite,
    /// Something may be appended behind the clean mark. `nothing_behind_the_clean_mark`.
    AppendAfterClean,
    /// Superblocks name a manifest above VDL. `a_manifest_above_vdl`.
    ManifestAboveVdl,
    /// Page versions that VDL or a view needs are dropped. `versions_stay_while_they_are_needed`.
    PruneEarly,
    /// Redo begins in the midst of a group. `redo_begins_at_a_group`.
    RedoNotAtGroup,
    /// A process that was stopped counts the time as a stall. `a_stopped_process_is_no_stall`.
    StallByTheClock,
    /// A slot is tidied whatever it holds. `an_old_image_keeps_its_superblock`.
    TidyBlindly,
    /// Healing takes the first copy for right, whether it verifies or not. `a_worse_copy_is_no_source`.
    WorseCopyAsSource,
    /// Healing copies what has a header, and checks no record. `what_is_copied_verifies`.
    FillUnverified,
    /// Healing does not ask for the address that a group says of itself. `a_misdirected_write_is_no_copy`.
    MendMisdirected,
    /// Healing takes an epoch for all addresses up to the next begin. `what_was_annulled_stays_away`.
    MendAnnulled,
    /// Healing writes over what verifies. `what_verifies_is_not_mended`.
    MendGood,
    /// Of two that verify and differ, the other is written over. `what_differs_stays`.
    DiffersMended,
    /// Mends without a look before. `a_zombie_mends_nothing`.
    MendWithoutLook,
    /// Healing goes beyond a slot's cursor. `nothing_is_mended_above_the_cursor`.
    FillAboveCursor,
    /// Healing goes on in a directory that has lost its superblock. `a_blank_directory_is_not_mended`.
    MendBlank,
    /// Superblocks do not tell of gaps. `a_gap_outlives_a_crash`.
    GapForgotten,
    /// What a slot missed while it was away is no gap. `what_was_missed_is_a_gap`.
    AbsenceForgotten,
    /// After a kill nothing is unchecked. `after_a_kill_the_tail_is_checked`.
    UncheckedForgotten,
    /// A slot that was lost comes back with what its superblock says. `an_old_image_is_filled`.
    OldImageTrusted,
    /// What was filled counts though late writes can still land on it. `what_a_late_write_spoils_is_filled_again`.
    WholeUndrained,
    /// What late writes left in a device's cache is not flushed before it counts as checked. `what_landed_late_is_flushed`.
    CheckUnflushed,
    /// What is read for a reader, flushed or not, counts as filled. `what_a_reader_needed_is_no_fill`.
    WoundFills,
    /// What a mend finds where it was to write counts unflushed. `what_a_mend_finds_there_is_flushed`.
    MendUnflushed,
    /// Late writes are waited for at the log's end alone. `what_is_late_in_another_segment_is_waited_for`.
    DrainTailAlone,
    /// After a clean end no late write is waited for. `what_is_late_over_a_clean_end_is_waited_for`.
    QuietAfterClean,
    /// What was read of a slot counts though it has left. `what_was_read_of_a_slot_goes_with_it`.
    CopiesKeptOnLeave,
    /// What a slot had acknowledged counts as there though it was not found again. `what_a_slot_had_and_lost_is_a_gap`.
    LossForgotten,
    /// What a slow slot is yet to get below redo is nowhere written down. `what_a_slow_slot_lacks_outlives_a_crash`.
    LagForgotten,
    /// What was read before a scrub was asked for counts in it. `what_rots_behind_a_scrub_is_found_by_the_next`.
    ScrubbedBefore,
    /// A slot that was busy when a scrub came by is not read for it any more. `who_was_not_asked_is_asked_later`.
    ScrubForgets,
    /// A slot that was away when a scrub or a check came by is not read for it any more. `who_was_away_is_asked_later`.
    AwayForgotten,
    /// A slot that did not answer in time counts as one that has nothing. `silence_parks_nothing`.
    ParkedBySilence,
    /// A slot that does not answer counts as mended. `silence_fills_nothing`.
    SilenceFills,
    /// A writer merges the tail files of an opener that came after it, too. `a_successors_tail_is_left_alone`.
    MergeSuccessors,
    /// After an error a slot is read from the page cache. `what_a_failed_flush_left_is_read_anew`.
    CacheTrusted,
    /// An opener whose flush failed on a slot goes on with what the page cache has.
    /// `what_an_openers_flush_left_is_read_anew`.
    OpenerTrustsCache,
    /// All is healed though the scrub has not looked at the superblocks. `superblocks_belong_to_a_scrub`.
    MarksUnheard,
    /// A returning slot's superblock does not tell what is still to be written there.
    /// `what_a_blank_disk_lacks_at_a_close_is_a_gap`.
    RejoinUntold,
    /// A block that cannot be read counts as zeros. `what_cannot_be_read_is_not_zeros`.
    UnreadableIsZero,
    /// A tail file says nothing of whose slot it is. `a_dead_openers_tail_is_its_own`.
    TailIsNobodys,
    /// What could not be removed once stays. `what_was_not_removed_is_removed_later`.
    TidyOnce,
    /// A slot gives up its join point though it has gaps. `a_join_point_stays_as_long_as_a_gap`.
    WholeWithGaps,
    /// What has no good copy is tried again and again. `what_nobody_has_comes_to_an_end`.
    HealForever,
    /// A slot that lost the file of the newest protection group counts as having its space.
    /// `a_group_that_one_slot_lost_is_made_anew`.
    GroupForgotten,
    /// The table of a snapshot is no reason to keep an extent. `a_snapshot_pins_its_table`.
    SnapshotUnpinned,
    /// What was emptied once stays emptied, though an older state is the newest again. `dead_is_no_matter_of_lsns`.
    DeadByLsn,
    /// An open goes on across a rewind as if it had not been. `a_rewind_is_replayed`.
    RewindNotReplayed,
    /// A close leaves its mark though no superblock names the rewind that the open had met. `a_close_names_a_rewind`.
    RewindUnnamed,
    /// An open goes on from the named manifest, though a newer one is in the log. `what_the_log_says_of_the_past_holds`.
    ManifestUnnamed,
    /// What becomes owed while a look is under way is given back by that look. `what_is_named_during_a_look_waits`.
    FreedByOldLook,
    /// A slot whose directory is found to be another one counts among those that name a manifest, as what was written went to the one
    /// before. `a_slot_that_is_another_one_names_nothing`.
    SwappedNames,
    /// What a slot answers to an earlier look counts in the one that is under way. `an_old_answer_is_none`.
    OldAnswerCounts,
    /// An open gives back what a manifest says that no superblock names. `nothing_goes_before_it_is_named`.
    FreedUnnamed,
    /// A rewind that is given up takes with it the one before, which is in the log and not named yet.
    /// `a_rewind_outlives_the_next_ones_end`.
    GiveUpForgets,
    /// Nothing is held while a clone's segments are shared. `a_clone_shares_no_hole`.
    CloneSharesHole,
    /// A moment is the first MTR stamped at or before it. `a_moment_is_the_last_stamp`.
    FirstStamp,
    /// Nothing keeps the state before a rewind. `a_rewind_can_be_undone`.
    UndoLost,
    /// Extents are given back as soon as they are emptied. `nothing_is_punched_before_its_manifest`.
    PunchEarly,
    /// ... without a look. `a_zombie_punches_nothing`.
    PunchWithoutLook,
    /// ... while a view may read them. `what_a_view_reads_stays`.
    PunchUnderView,
    /// ... on slots that are still to be written to there. `who_lags_behind_punches_later`.
    PunchAhead,
    /// A page of which a part lies in another extent stays where it is. `what_lies_across_extents_moves_as_well`.
    StraddlingStays,
    /// The table is not told of pages that were moved. `the_table_knows_where_pages_went`.
    MoveUntold,
    /// Nodes of the table stay where they are. `nodes_of_the_table_move_as_well`.
    NodesStay,
    /// What an earlier process gave back and did not punch is forgotten. `what_one_slot_kept_is_punched_later`.
    OldDebtsForgotten,
    /// An extent of which a sample found nothing live is given back as it is. `a_sample_decides_nothing`.
    SampleTrusted,
    /// A page that changes while it is moved is taken as it was. `who_writes_meanwhile_wins`.
    MoveOverwrites,
}

/// Whether the bug is switched on: never, in this build.
#[cfg(not(quorate_bugs))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(quorate_bugs)]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        /// One a thread: tests beside each other do not disturb each other, and a simulated life has one thread.
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether the bug is switched on in this thread.
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Runs `f` with the bug switched on in this thread.
    pub fn with<R>(bug: Bug, f: impl FnOnce() -> R) -> R {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                PLANTED.set(None);
            }
        }
        PLANTED.set(Some(bug));
        let _off = Off;
        f()
    }
}

#[cfg(quorate_bugs)]
pub use switch::{planted, with};

/// What [`Bug::Reseal`] makes of a group: a filler takes the place of what lies behind `end`.
#[cfg(not(quorate_loom))]
pub(crate) fn reseal(mut group: Vec<u8>, at: Lsn, end: Lsn, seed: u32, epoch: u64) -> Vec<u8> {
    let from = end.max(at).0.saturating_sub(at.0) as usize;
    if from + record::HEADER <= group.len() && end > at {
        record::encode(&mut group[from..], seed, end, epoch, &record::Fields::filler(), None, &[]);
    }
    group
}

/// What [`Bug::TailInPlace`] does with a tail file.
#[cfg(not(quorate_loom))]
pub(crate) fn in_place(dir: &dyn SlotDir, file: &[u8], g: &Geometry) -> io::Result<()> {
    for (at, group) in tail::decode(file, g.volume).unwrap_or_default() {
        let (segment, offset) = FileName::segment_of(at, g.pg_size);
        dir.write_at(segment, offset, group)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Bug;

    /// A bug that is planted is told of, once.
    #[test]
    fn the_table_names_every_bug() {
        let table = include_str!("bugs.md");
        let named: Vec<&str> = table.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
        let all: Vec<String> = Bug::ALL.iter().map(|b| format!("{b:?}")).collect();
        assert_eq!(named, all);
    }
}
