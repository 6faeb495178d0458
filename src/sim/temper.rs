//! A life's temper: what happens often in it, and what not at all. Lives that differ meet more than lives that are all
//! alike do (Groce et al., "Swarm Testing", ISSTA 2012).

use crate::sim::faults::Fault;
use crate::sim::random::Random;

/// What may happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Disks,
    Job,
    Reserve,
    Publish,
    Time,
    Read,
    TakeView,
    ReadView,
    Weather,
    Kill,
    PowerCut,
    Close,
    ReadOnly,
    TakeOver,
    Mischief,
    Scrub,
    Open,
}

/// Of a thousand.
const USUAL: [(Step, usize); 17] = [
    (Step::Disks, 300),
    (Step::Job, 120),
    (Step::Reserve, 200),
    (Step::Publish, 140),
    (Step::Time, 70),
    (Step::Read, 60),
    (Step::TakeView, 20),
    (Step::ReadView, 20),
    (Step::Weather, 15),
    (Step::Kill, 7),
    (Step::PowerCut, 4),
    (Step::Close, 5),
    (Step::ReadOnly, 10),
    (Step::TakeOver, 5),
    (Step::Mischief, 7),
    (Step::Scrub, 6),
    (Step::Open, 17),
];

pub struct Temper {
    steps: [(Step, usize); 17],
    total: usize,
    /// Openers race each other.
    pub races: bool,
    /// The damage that this life has a liking for.
    pub favourite: Option<usize>,
    /// Now and then an MTR spans groups; a life without has more of everything else.
    pub large: bool,
    /// A scrub is given the time to come to its end.
    pub lulls: bool,
    /// Space is given back, and every fourth MTR writes many pages again, so that frame after frame dies.
    pub reclaims: bool,
    /// Checkpoints write runs, not leaves.
    pub runs: bool,
    /// Every second one does, and writers live for a while: what they wrote themselves is given back.
    pub calm: bool,
    /// Every fourth MTR does, and the log runs through the ring again and again.
    pub heavy: bool,
    /// The log begins just below the place from which on a writer reaches into the next extent, and long MTRs lie across.
    pub brink: bool,
    /// The log begins far away: where numbers get long.
    pub far: bool,
    /// Snapshots are taken, and the volume goes back to them and to other states.
    pub rewinds: bool,
    /// Beyond the atlas: the newest decision is forgotten, by all slots at once.
    pub forgetful: bool,
}

impl Temper {
    /// One life in two is as usual.
    pub fn new(random: &mut Random) -> Temper {
        let mut steps = USUAL;
        let odd = random.one_in(2);
        if odd {
            for (step, weight) in &mut steps {
                let often = match step {
                    Step::Disks | Step::Job | Step::Reserve | Step::Publish => [1, 1, 1, 2],
                    Step::Open => [1, 1, 2, 4],
                    _ => [0, 1, 1, 6],
                };
                *weight *= often[random.below(4)];
            }
        }
        let reclaims = random.one_in(12);
        let calm = reclaims && random.one_in(2);
        if calm {
            // A writer that lives for a while: what it wrote itself dies, and is given back.
            for (step, weight) in &mut steps {
                match step {
                    Step::Reserve | Step::Publish => *weight *= 2,
                    Step::Time => *weight *= 3,
                    Step::Kill | Step::PowerCut | Step::TakeOver | Step::Close => *weight = weight.div_ceil(4),
                    _ => (),
                }
            }
        }
        let total = steps.iter().map(|s| s.1).sum();
        let favourite = (odd && random.one_in(2)).then(|| random.below(9));
        let (races, large, lulls) = (random.one_in(2), !odd || random.one_in(2), random.one_in(6));
        let rare = random.below(1000);
        let runs = random.one_in(2);
        let (heavy, brink, forgetful) = (rare == 0, (1..=8).contains(&rare), (9..=28).contains(&rare));
        let far = (29..=58).contains(&rare);
        Temper {
            steps,
            total,
            races,
            favourite,
            large,
            lulls,
            reclaims,
            runs,
            calm,
            heavy,
            brink,
            far,
            rewinds: false,
            forgetful,
        }
    }

    pub fn next(&self, random: &mut Random) -> Step {
        let mut left = random.below(self.total);
        for (step, weight) in self.steps {
            if left < weight {
                return step;
            }
            left -= weight;
        }
        Step::Disks
    }
}

/// How much more often each fault strikes in a life; 0 is never.
pub fn rates(random: &mut Random) -> [usize; Fault::COUNT] {
    let odd = random.one_in(2);
    std::array::from_fn(|_| if odd { [0, 1, 1, 8][random.below(4)] } else { 1 })
}
