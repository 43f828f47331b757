use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::pattern::mix;

/// What happens on one connection. Both ends make it of the connection's seed and id, which are the first bytes the client
/// sends.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) shape: Shape,
    /// Bytes from the client, if it gets to say them all.
    pub(super) up: u64,
    /// Bytes from the origin after its greeting, likewise.
    pub(super) down: u64,
}

/// The ways in which a connection can go and end. All of them are unambiguous in plain TCP: nobody closes with bytes unread
/// unless it is to be seen as a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Shape {
    /// Both talk at once, and each finishes when it has said all.
    BothFinish,
    /// The client finishes; only then the origin talks and finishes.
    ClientFinishesFirst,
    /// The origin finishes; only then the client talks and finishes.
    OriginFinishesFirst,
    /// The client resets as soon as it is connected, perhaps while it still waits for an agent.
    ClientGivesUp,
    /// The client resets when it has said and heard so much. The origin may have finished by then, or never does.
    ClientResets { said: u64, heard: u64, origin_finishes: bool },
    /// The same the other way.
    OriginResets { said: u64, heard: u64, client_finishes: bool },
    /// The client finishes, hears some of the answer and resets: what it had said is whole.
    ClientLeavesTheAnswer { heard: u64 },
    /// The origin hears some of the request, answers, finishes, and resets what still comes: the answer is whole.
    OriginAnswersEarly { heard: u64 },
}

impl Shape {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::BothFinish => "both finish",
            Self::ClientFinishesFirst => "client finishes first",
            Self::OriginFinishesFirst => "origin finishes first",
            Self::ClientGivesUp => "client gives up at once",
            Self::ClientResets { .. } => "client resets",
            Self::OriginResets { .. } => "origin resets",
            Self::ClientLeavesTheAnswer { .. } => "client leaves the answer",
            Self::OriginAnswersEarly { .. } => "origin answers early",
        }
    }
}

/// One end's part of a plan.
#[derive(Debug, Clone)]
pub(super) struct Script {
    /// So many bytes are said.
    pub(super) say: u64,
    /// And then the end.
    pub(super) finish: bool,
    /// Not before the other end has finished.
    pub(super) after_the_end: bool,
    pub(super) hear: Hear,
    pub(super) then: Then,
    /// The other end may stop listening before all is said.
    pub(super) may_be_cut: bool,
    pub(super) expect: Expect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hear {
    ToTheEnd,
    Bytes(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Close,
    Reset,
    /// When the other host has acknowledged all, so that the reset destroys nothing.
    ResetOnceHeard,
}

/// What must come of hearing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// Exactly so many bytes and a clean end.
    Whole(u64),
    /// At most so many bytes, then a reset.
    Reset(u64),
    /// So many bytes; what comes after them is not looked at.
    Bytes(u64),
}

impl Plan {
    pub(super) fn new(seed: u64, id: u64, largest: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(mix(mix(seed) ^ id));
        let (up, down) = (size(&mut rng, largest), size(&mut rng, largest));
        let shape = match rng.random_range(0..100) {
            0..22 => Shape::BothFinish,
            22..27 => Shape::ClientGivesUp,
            27..40 => Shape::ClientFinishesFirst,
            40..52 => Shape::OriginFinishesFirst,
            52..66 => Shape::ClientResets {
                said: part(&mut rng, up),
                heard: part(&mut rng, down),
                origin_finishes: rng.random(),
            },
            66..80 => Shape::OriginResets {
                said: part(&mut rng, down),
                heard: part(&mut rng, up),
                client_finishes: rng.random(),
            },
            80..88 => Shape::ClientLeavesTheAnswer { heard: rng.random_range(1..=down.max(1)) },
            _ => Shape::OriginAnswersEarly { heard: part(&mut rng, up) },
        };
        // There must be an answer to leave.
        let down = if matches!(shape, Shape::ClientLeavesTheAnswer { .. }) { down.max(1) } else { down };
        Self { shape, up, down }
    }

    pub(super) fn client(&self) -> Script {
        let down = self.down;
        let whole = Script::whole(self.up, down);
        match self.shape {
            Shape::BothFinish | Shape::ClientFinishesFirst => whole,
            Shape::OriginFinishesFirst => Script { after_the_end: true, ..whole },
            Shape::ClientGivesUp => Script::resets(0, 0),
            Shape::ClientResets { said, heard, .. } => Script::resets(said, heard),
            Shape::OriginResets { client_finishes, .. } => {
                Script { finish: client_finishes, may_be_cut: true, expect: Expect::Reset(down), ..whole }
            }
            Shape::ClientLeavesTheAnswer { heard } => {
                Script { hear: Hear::Bytes(heard), then: Then::Reset, expect: Expect::Bytes(heard), ..whole }
            }
            Shape::OriginAnswersEarly { .. } => Script { may_be_cut: true, ..whole },
        }
    }

    pub(super) fn origin(&self) -> Script {
        let up = self.up;
        let whole = Script::whole(self.down, up);
        match self.shape {
            Shape::BothFinish | Shape::OriginFinishesFirst => whole,
            Shape::ClientFinishesFirst => Script { after_the_end: true, ..whole },
            Shape::OriginResets { said, heard, .. } => Script::resets(said, heard),
            Shape::ClientGivesUp => Script { finish: false, may_be_cut: true, expect: Expect::Reset(0), ..whole },
            Shape::ClientResets { origin_finishes, .. } => {
                Script { finish: origin_finishes, may_be_cut: true, expect: Expect::Reset(up), ..whole }
            }
            Shape::ClientLeavesTheAnswer { .. } => Script { after_the_end: true, may_be_cut: true, ..whole },
            Shape::OriginAnswersEarly { heard } => {
                Script { hear: Hear::Bytes(heard), then: Then::ResetOnceHeard, expect: Expect::Bytes(heard), ..whole }
            }
        }
    }
}

impl Script {
    fn whole(say: u64, hear: u64) -> Self {
        Self {
            say,
            finish: true,
            after_the_end: false,
            hear: Hear::ToTheEnd,
            then: Then::Close,
            may_be_cut: false,
            expect: Expect::Whole(hear),
        }
    }

    fn resets(say: u64, hear: u64) -> Self {
        let expect = Expect::Bytes(hear);
        Self { finish: false, hear: Hear::Bytes(hear), then: Then::Reset, expect, ..Self::whole(say, hear) }
    }
}

/// Mostly small, sometimes as large as may be, sometimes nothing at all.
fn size(rng: &mut StdRng, largest: u64) -> u64 {
    let most = match rng.random_range(0..100) {
        0..15 => 0,
        15..45 => 2_000,
        45..75 => 20_000,
        75..95 => 300_000,
        _ => largest,
    };
    rng.random_range(0..=most.min(largest))
}

/// Some of it, nothing, or all.
fn part(rng: &mut StdRng, whole: u64) -> u64 {
    match rng.random_range(0..10) {
        0 => 0,
        1 | 2 => whole,
        _ => rng.random_range(0..=whole),
    }
}
