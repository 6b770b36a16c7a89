//! The number of a message, or none, in one word: every client has several of them.

/// How many messages were sent before one; or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(u64);

impl Number {
    /// None. No client sends that many messages.
    pub(super) const NONE: Self = Self(u64::MAX);

    /// That one.
    pub(super) const fn of(number: u64) -> Self {
        Self(number)
    }

    /// It, if there is one.
    pub(super) fn get(self) -> Option<u64> {
        (self != Self::NONE).then_some(self.0)
    }

    /// The same, and none is left.
    pub(super) fn take(&mut self) -> Option<u64> {
        std::mem::replace(self, Self::NONE).get()
    }
}
