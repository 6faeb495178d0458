//! Bounds of a search, and rules that a test may switch off.

/// What may happen, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    pub mtrs: usize,
    /// MTRs of two groups too, appended one by one.
    pub halves: bool,
    /// Opens for writing, and read-only ones.
    pub opens: u8,
    pub reads: u8,
    pub kills: u8,
    /// Power cuts: all processes end, and what was in flight or in a cache is old, new or garbage, write by write.
    pub cuts: u8,
    /// A write that was torn by one may still tell how far VDL was.
    pub torn: bool,
    /// Writes are submitted and come back as two steps, and what a killed process had in flight may land late.
    pub flight: bool,
    /// A writer's slots that go away without an error of a write: too slow, or hung, or gone.
    pub leaves: u8,
    /// Writes, or steps of an open, that fail on a slot.
    pub fails: u8,
    pub rejoins: u8,
    pub blanks: u8,
    pub stales: u8,
    pub rots: u8,
    pub super_rots: u8,
    pub closes: u8,
    /// Slots whose tail files are merged, and slots whose old superblocks are removed.
    pub merges: u8,
    pub tidies: u8,
    /// Slots that are damaged at once.
    pub hurt: usize,
    /// Opens beside a writer that lives.
    pub zombies: bool,
    /// A look, and a rejoin's reading, are one step, and the writer's hearing of it another.
    pub split: bool,
    /// Faults may pass the promise: then a refusal is right, and silence is not.
    pub beyond: bool,
}

/// A rule that is broken on purpose: the search must find what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests break rules"))]
pub enum Rule {
    /// VDL moves and commits are acknowledged without a look.
    LookBeforeAck,
    /// An opener claims after it has read.
    ClaimBeforeReading,
    /// It opens without a last look.
    LookBeforeOpening,
    /// It decides before the tail is on four slots.
    TailBeforeDecision,
    /// It copies the tail into segments, where older writes are on their way.
    TailInFilesOfItsOwn,
    /// It counts copies that may sit in a cache.
    FlushWhatCounts,
    /// ... and among them those in tail files of openers that died.
    FlushTailFiles,
    /// An epoch ends behind the highest MTR, not behind the last group.
    EndAtCpl,
    /// The next epoch begins beyond what may be in flight.
    BeginBeyondReach,
    /// A slot that was away comes back at VDL, not at the tail.
    RejoinAtVdl,
    /// It is read back before it is written again.
    RejoinReadsBack,
    /// It stays away while a write to it is outstanding.
    RejoinWithNothingOutstanding,
    /// It is taken back only after a look.
    RejoinLooks,
    /// A blank slot has no vote.
    BlankHasNoVote,
    /// A number is claimed once on a slot.
    ClaimsAreExclusive,
    /// No clean mark with a write outstanding.
    CleanWithNothingOutstanding,
    /// Tail files are merged once nothing of an older writer's is on its way.
    MergeWhenDrained,
    /// A reader tells what is settled from what is visible.
    SettledIsNotVisible,
    /// ... and flushes what it counts.
    ReaderFlushes,
}

/// What is searched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    pub bounds: Bounds,
    pub broken: Option<Rule>,
}

impl Setting {
    pub fn breaks(&self, rule: Rule) -> bool {
        self.broken == Some(rule)
    }
}
