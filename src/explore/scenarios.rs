//! What is searched: which faults meet which.

use crate::explore::Bounds as Size;
use crate::explore::rules::Bounds;

pub struct Scenario {
    pub name: &'static str,
    pub bounds: Bounds,
    /// Where a small search stops.
    pub states: usize,
}

pub fn all(size: Size) -> Vec<Scenario> {
    let full = size == Size::Full;
    // A number in a small search, and in a full one.
    let n = |small: u8, big: u8| if full { big } else { small };
    let b = Bounds { mtrs: n(1, 3).into(), opens: n(2, 3), reads: 1, kills: n(2, 4), ..Bounds::default() };
    let s = |name: &'static str, bounds: Bounds| Scenario { name, bounds, states: 200_000 };
    vec![
        s("plain", Bounds { mtrs: n(2, 4).into(), opens: n(2, 4), halves: true, ..b }),
        s("opens that die", Bounds { opens: n(3, 4), kills: n(3, 5), fails: n(0, 1), ..b }),
        s("late writes", Bounds { flight: true, opens: n(1, 3), ..b }),
        s("power cuts", Bounds { flight: true, kills: n(1, 2), cuts: n(1, 2), opens: n(1, 3), torn: full, ..b }),
        s("away and back", Bounds { leaves: n(1, 2), rejoins: n(1, 3), opens: n(1, 2), kills: 1, mtrs: 2, ..b }),
        s(
            "hung writes",
            Bounds { flight: true, leaves: 1, rejoins: 1, opens: 1, kills: 1, cuts: n(0, 1), fails: n(0, 1), ..b },
        ),
        s(
            "blank disks",
            Bounds { blanks: n(1, 2), hurt: n(1, 2).into(), rejoins: n(1, 2), opens: n(1, 3), kills: n(1, 3), ..b },
        ),
        s("stale disks", Bounds { stales: 1, hurt: 1, rejoins: 1, opens: n(1, 2), kills: n(1, 2), ..b }),
        s("rot", Bounds { rots: n(1, 2), super_rots: 1, hurt: n(1, 2).into(), opens: n(1, 2), kills: n(1, 2), ..b }),
        s(
            "zombies",
            Bounds { zombies: true, split: true, opens: 1, kills: n(0, 1), reads: n(0, 1), mtrs: n(1, 2).into(), ..b },
        ),
        s(
            "zombies with late writes",
            Bounds { zombies: true, flight: true, opens: n(1, 2), kills: n(0, 1), cuts: n(0, 1), mtrs: 2, ..b },
        ),
        s(
            "zombies and blank disks",
            Bounds { zombies: true, blanks: n(1, 2), hurt: n(1, 2).into(), rejoins: 1, opens: 1, kills: n(0, 1), ..b },
        ),
        s("openers that race", Bounds { zombies: true, opens: n(2, 3), kills: n(1, 2), reads: n(0, 1), mtrs: 1, ..b }),
        s(
            "merging and tidying",
            Bounds {
                flight: true,
                cuts: 1,
                merges: n(1, 2),
                tidies: n(1, 2),
                opens: n(1, 2),
                kills: n(1, 2),
                super_rots: n(0, 1),
                hurt: n(0, 1).into(),
                ..b
            },
        ),
        s("clean ends", Bounds { closes: n(1, 2), opens: 2, kills: 1, flight: full, leaves: 1, zombies: full, ..b }),
        s(
            "past the promise",
            Bounds {
                mtrs: n(1, 2).into(),
                blanks: 2,
                hurt: 2,
                beyond: true,
                opens: 2,
                reads: n(0, 1),
                kills: 2,
                rejoins: n(0, 1),
                ..b
            },
        ),
    ]
}
