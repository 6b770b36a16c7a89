//! Where in a session's life its state is made.

use super::kinds::{Kind, Step};

/// What stands around the statements that make the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    Autocommit,
    Committed,
    RolledBack,
    Released,
    RolledBackTo,
    Failed,
    FailedInSavepoint,
    /// The state is made before the savepoint, and again in it.
    Twice,
}

pub(crate) const FRAMES: [Frame; 8] = [
    Frame::Autocommit,
    Frame::Committed,
    Frame::RolledBack,
    Frame::Released,
    Frame::RolledBackTo,
    Frame::Failed,
    Frame::FailedInSavepoint,
    Frame::Twice,
];

impl Frame {
    /// `M` is what makes the state, `L` what looks at it.
    fn pattern(self) -> &'static [&'static str] {
        match self {
            Self::Autocommit => &["M", "L"],
            Self::Committed => &["BEGIN", "M", "L", "COMMIT", "L"],
            Self::RolledBack => &["BEGIN", "M", "L", "ROLLBACK", "L"],
            Self::Released => &["BEGIN", "SAVEPOINT s", "M", "RELEASE s", "L", "COMMIT", "L"],
            Self::RolledBackTo => &["BEGIN", "SAVEPOINT s", "M", "L", "ROLLBACK TO s", "L", "COMMIT", "L"],
            Self::Failed => &["BEGIN", "M", "SELECT 1 / 0", "L", "COMMIT", "L"],
            Self::FailedInSavepoint => &[
                "BEGIN",
                "SAVEPOINT s",
                "M",
                "SELECT 1 / 0",
                "ROLLBACK TO SAVEPOINT s",
                "L",
                "COMMIT AND CHAIN",
                "L",
                "COMMIT",
                "L",
            ],
            Self::Twice => &["BEGIN", "M", "SAVEPOINT s", "M", "ROLLBACK TO s", "L", "COMMIT", "L"],
        }
    }
}

/// All that a client does in a cell.
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
    /// How many of them are over when the state has been made, where leaving begins to matter.
    pub(crate) made: usize,
}

/// Of a kind in a frame; `run` is a number of its own.
pub(crate) fn script(kind: &Kind, frame: Frame, run: usize) -> Script {
    let step = |text: &&str| Step::of(text, run);
    let mut steps: Vec<Step> = kind.before.iter().map(step).collect();
    let mut made = 0;
    for part in frame.pattern() {
        match *part {
            "M" => {
                made = if made == 0 { steps.len() + 1 } else { made };
                steps.extend(kind.make.iter().map(step));
            }
            "L" => steps.extend(kind.look.iter().map(step)),
            sql => steps.push(Step::Sql(sql.to_owned())),
        }
    }
    steps.extend(kind.end.iter().map(step));
    if !kind.end.is_empty() {
        steps.extend(kind.look.iter().map(step));
    }
    Script { steps, made }
}
