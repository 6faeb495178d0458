//! Directed scenarios: each numbered counterexample of the model that still is a hole for write-once blocks, played on the
//! real code, and what random runs found. Random walks were shown not to meet some of them.
//!
//! Each names the bugs ([`crate::bugs`]) that take its rule out, and what then breaks: with `--cfg quorate_bugs` the last
//! test here plays it with each of them. Slots are A to F; "x: A" reads "x is on A alone".
//!
//! Trace 20 is in [`past`] (`a_rewind_is_replayed`, `a_close_names_a_rewind`). What is left of 17 is in the names of files,
//! and has no switch.

mod counting;
mod healing;
mod late;
mod past;
mod readers;
mod recovery;
mod space;
mod votes;
mod writer;
mod zeroing;
mod zombies;

#[cfg(quorate_bugs)]
use crate::bugs::{Bug, with};
#[cfg(quorate_bugs)]
use crate::sim::scenario::Checked;

macro_rules! traces {
    ($($room:ident::$name:ident [$($bug:ident $breaks:literal),*])*) => {
        $(#[test]
        fn $name() {
            $room::$name().unwrap();
        })*

        /// Scenario, bug, and how what it breaks begins.
        #[cfg(quorate_bugs)]
        const PLANTED: &[(&str, fn() -> Checked, Bug, &str)] =
            &[$($((stringify!($name), $room::$name, Bug::$bug, $breaks),)*)*];
    };
}

traces! {
    counting::t00_three_copies_are_not_enough [AckOnThree "S1"]
    counting::t01_rejoin_at_the_tail [RejoinAtTail "S1"]
    counting::t02_rejoin_under_a_hung_write [RejoinUnderWrite "A1"]
    counting::t02_rejoin_writes_nothing_again [RejoinRewrites "A1"]
    recovery::t03_a_history_of_begins_only [ForgetEpochEnd "S1"]
    recovery::t04_half_an_mtr [HalfMtr "S3"]
    recovery::t05_a_missing_record_is_no_end [MissingEndsLog "S1"]
    recovery::t06_garbage_is_no_refusal [StrictGarbage "A1"]
    recovery::t07_decision_before_the_tail [DecisionBeforeTail "A1"]
    recovery::t08_empty_epochs [EmptyEpochsShareBegin "S1"]
    recovery::t08_begin_inside_the_reach [BeginShort "S1"]
    recovery::t09_begin_measured_from_vdl [BeginFromVdl "S1"]
    recovery::many_short_lives []
    recovery::an_opener_dies_at_each_of_its_calls []
    recovery::a_slot_fails_at_each_of_an_openers_calls []
    votes::t10_one_number_two_deciders [NoClaim "S2"]
    votes::t11_most_wins [MostWins "A1"]
    votes::t11_a_newer_record_refuses [NewerEpochIgnored "S1"]
    votes::t11_a_newer_record_behind_a_clean_end_refuses []
    votes::t11_a_superblock_in_one_place [SuperblockOnce "S2"]
    votes::t12_blank_disks_vote [BlankVotes "S1"]
    votes::t12_formatted_disks_vote [FormattedVotes "S1"]
    votes::t13_a_passed_over_join_point [PassedOverJoin "A1"]
    votes::t19_a_formatted_slot_carries_the_claim [FormatWithoutClaim "S1"]
    votes::t19_an_opener_dies_while_it_formats [SuperblockBeforeClaim "S1"]
    votes::t21_two_disks_replaced_at_once []
    votes::claims_in_another_slots_place []
    votes::another_volumes_claims []
    readers::t14_a_minority_decision_is_not_settled [SettledByMinority "S2"]
    readers::t14_four_copies_under_a_claim [SettledUnderClaim "S2"]
    readers::t22_four_copies_after_a_gap [SettledAcrossGap "S2"]
    readers::t22_four_copies_in_caches [ReaderCountsUnflushed "S2"]
    readers::t22_an_open_flushes_what_it_counts [OpenerCountsUnflushed "A1"]
    readers::t22_a_tail_file_is_flushed [TailFileUnflushed "A1"]
    readers::a_neighbour_that_cannot_be_read []
    zombies::t15_never_looking [AckBeforeLook "S6"]
    zombies::t15_the_fence_after_the_reading [ClaimAfterReading "S1"]
    zombies::t15_looking_only_to_acknowledge [VdlBeforeLook "S1"]
    zombies::t15_no_look_after_the_decision [NoLookAfterDecision "S2"]
    zombies::t16_two_openers_one_number [ClaimNotExclusive "S2"]
    zombies::t17_a_late_superblock []
    zombies::an_old_answer_is_none [OldAnswerCounts "S1"]
    zombies::t19_a_zombie_formats_a_replaced_disk [RejoinWithoutLook "S1"]
    late::t18_the_tail_in_place [TailInPlace "A1"]
    late::t18_whole_groups_verbatim [Reseal "S1"]
    late::t18_merge_under_a_late_write [MergeUndrained "A1"]
    late::t18_merge_beside_a_zombie [MergeBesideZombie "A1"]
    late::t18_a_merge_writes_nothing_again [MergeRewrites "W1"]
    late::one_that_cannot_merge_holds_up_nobody []
    late::a_successors_tail_is_left_alone [MergeSuccessors "W1"]
    writer::rot_in_a_record [SkipRecordCrc "S1"]
    writer::rot_in_a_group [SkipGroupCheck "S1"]
    writer::a_hung_write_keeps_its_frame [ReuseHungFrame "W1"]
    writer::publishing_in_order [PublishOutOfOrder "S1"]
    writer::no_clean_mark_under_a_write [CleanUnderWrite "W2"]
    writer::nothing_behind_the_clean_mark [AppendAfterClean "S1"]
    writer::a_stopped_process_is_no_stall [StallByTheClock "L2"]
    writer::an_old_image_keeps_its_superblock [TidyBlindly "A1"]
    writer::a_manifest_above_vdl [ManifestAboveVdl "A1"]
    writer::versions_stay_while_they_are_needed [PruneEarly "S1"]
    writer::redo_begins_at_a_group [RedoNotAtGroup "A1"]
    healing::a_worse_copy_is_no_source [WorseCopyAsSource "R1"]
    healing::what_is_copied_verifies [FillUnverified "R1"]
    healing::a_misdirected_write_is_no_copy [MendMisdirected "R1"]
    healing::what_was_annulled_stays_away [MendAnnulled "R2"]
    healing::what_verifies_is_not_mended [MendGood "W1"]
    healing::what_differs_stays [DiffersMended "R2"]
    healing::a_zombie_mends_nothing [MendWithoutLook "S6"]
    healing::nothing_is_mended_above_the_cursor [FillAboveCursor "W1"]
    healing::a_blank_directory_is_not_mended [MendBlank "L2"]
    healing::a_gap_outlives_a_crash [GapForgotten "R1"]
    healing::what_was_missed_is_a_gap [AbsenceForgotten "R1"]
    healing::after_a_kill_the_tail_is_checked [UncheckedForgotten "R1"]
    healing::an_old_image_is_filled [OldImageTrusted "R1"]
    healing::what_a_late_write_spoils_is_filled_again [WholeUndrained "R1"]
    healing::what_landed_late_is_flushed [CheckUnflushed "R1"]
    healing::what_a_reader_needed_is_no_fill [WoundFills "R1"]
    healing::what_a_mend_finds_there_is_flushed [MendUnflushed "R1"]
    healing::what_is_late_in_another_segment_is_waited_for [DrainTailAlone "R1"]
    healing::what_is_late_over_a_clean_end_is_waited_for [QuietAfterClean "R1"]
    healing::what_was_read_of_a_slot_goes_with_it [CopiesKeptOnLeave "R1"]
    healing::what_a_slot_had_and_lost_is_a_gap [LossForgotten "R1"]
    healing::what_a_slow_slot_lacks_outlives_a_crash [LagForgotten "R1"]
    healing::what_rots_behind_a_scrub_is_found_by_the_next [ScrubbedBefore "R1"]
    healing::who_was_not_asked_is_asked_later [ScrubForgets "R1"]
    healing::who_was_away_is_asked_later [AwayForgotten "R1"]
    healing::silence_parks_nothing [ParkedBySilence "R1"]
    healing::silence_fills_nothing [SilenceFills "R1"]
    healing::what_a_failed_flush_left_is_read_anew [CacheTrusted "R1"]
    healing::what_an_openers_flush_left_is_read_anew [OpenerTrustsCache "R1"]
    healing::superblocks_belong_to_a_scrub [MarksUnheard "R1"]
    writer::sync_waits_for_the_highest []
    writer::no_clean_mark_before_what_is_reserved []
    healing::what_a_blank_disk_lacks_at_a_close_is_a_gap [RejoinUntold "R1"]
    healing::what_cannot_be_read_is_not_zeros [UnreadableIsZero "R1"]
    healing::a_dead_openers_tail_is_its_own [TailIsNobodys "L2"]
    healing::what_was_not_removed_is_removed_later [TidyOnce "L2"]
    healing::a_join_point_stays_as_long_as_a_gap [WholeWithGaps "R1"]
    healing::what_nobody_has_comes_to_an_end [HealForever "L1"]
    space::a_group_that_one_slot_lost_is_made_anew [GroupForgotten "G2"]
    space::a_dead_frame_is_punched []
    space::nothing_is_punched_before_its_manifest [PunchEarly "S1"]
    space::a_zombie_punches_nothing [PunchWithoutLook "S6"]
    space::what_a_view_reads_stays [PunchUnderView "S1"]
    space::who_lags_behind_punches_later [PunchAhead "G1"]
    space::what_lies_across_extents_moves_as_well [StraddlingStays "S1"]
    space::the_table_knows_where_pages_went [MoveUntold "S1"]
    space::nodes_of_the_table_move_as_well [NodesStay "S1"]
    space::what_one_slot_kept_is_punched_later [OldDebtsForgotten "G1"]
    space::a_log_that_outruns_its_samples_is_reclaimed []
    space::a_sample_decides_nothing [SampleTrusted "S1"]
    space::who_writes_meanwhile_wins [MoveOverwrites "S1"]
    past::a_snapshot_pins_its_table [SnapshotUnpinned "S1"]
    past::dead_is_no_matter_of_lsns [DeadByLsn "S1"]
    past::a_rewind_is_replayed [RewindNotReplayed "S1"]
    past::a_close_names_a_rewind [RewindUnnamed "S1"]
    past::what_the_log_says_of_the_past_holds [ManifestUnnamed "S1"]
    past::nothing_goes_before_it_is_named [FreedUnnamed "S6"]
    space::what_is_named_during_a_look_waits [FreedByOldLook "S6"]
    space::a_slot_that_is_another_one_names_nothing [SwappedNames "S6"]
    past::a_rewind_outlives_the_next_ones_end [GiveUpForgets "S1"]
    past::a_clone_shares_no_hole [CloneSharesHole "S1"]
    past::a_moment_is_the_last_stamp [FirstStamp "S1"]
    past::a_rewind_can_be_undone [UndoLost "S1"]
    zeroing::a_block_is_not_written_under_its_zeroing [WriteUnderZeroing "S1"]
    zeroing::no_clean_mark_under_zeroing [CleanUnderZeroing "W2"]
    zeroing::nothing_is_zeroed_beyond_the_reach [ZeroBeyondReach "W1"]
    zeroing::nothing_is_zeroed_under_a_claim [ZeroUnderClaim "R1"]
}

/// Every planted bug is seen by the scenario that is there for it, and breaks what it should.
#[cfg(quorate_bugs)]
#[test]
fn planted_bugs_are_seen() {
    let mut missed = Vec::new();
    for (name, play, bug, breaks) in PLANTED {
        let played = with(*bug, || std::panic::catch_unwind(play));
        let what = played.unwrap_or_else(|_| Err("it panics".into()));
        println!("{bug:?}: {name}: {what:?}");
        if !what.as_ref().is_err_and(|e| e.starts_with(breaks)) {
            missed.push(format!("{bug:?} ({name}): {what:?}"));
        }
    }
    for bug in Bug::ALL.iter().filter(|b| !PLANTED.iter().any(|p| p.2 == **b)) {
        missed.push(format!("{bug:?} has no scenario"));
    }
    assert!(missed.is_empty(), "not seen:\n{}", missed.join("\n"));
}
