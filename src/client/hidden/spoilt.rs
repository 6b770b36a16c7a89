//! Servers that no reset cleans: on which code of a language may have run that keeps variables in the server's process (`language_state`).
//!
//! Which code that is the census tells. Where it does not, for code has changed since or was made by the transaction itself, it may have been
//! such code if the last census has found a language for it. Where there has been none at all, servers are reset.

use super::{Judged, Known};
use crate::client::task::Client;
use crate::config::LanguageState;
use crate::id::ShardIndex;
use crate::pool::Verdict;
use crate::sql::hidden::Traces;

impl Client {
    /// Whether nothing cleans a server on which code has run that leaves this.
    pub(super) fn is_spoilt_by(&self, traces: Traces) -> bool {
        traces.keeps_globals() && self.database.config.pinning.language_state == LanguageState::Close
    }

    /// In what state a server is given back that has run code which nobody knows, beside what was known last.
    pub(super) fn verdict_in_doubt(&self, lately: Option<&Known>) -> Verdict {
        let languages = lately.is_some_and(|known| known.census.has_languages());
        if languages && self.is_spoilt_by(Traces::GLOBALS) { Verdict::Spoilt } else { Verdict::Dirty }
    }

    /// The server of these statements is in that state.
    pub(super) fn doubt(&self, judged: &mut Judged, lately: Option<&Known>) {
        judged.dirty = true;
        judged.spoilt |= self.verdict_in_doubt(lately) == Verdict::Spoilt;
    }

    /// In what state a server is given back whose statement may have run other code than was read.
    pub(in crate::client) fn verdict_of_other_code(&self, shard: ShardIndex) -> Verdict {
        let of_shard = self.database.hidden.shards.get(usize::from(shard.0));
        self.verdict_in_doubt(of_shard.and_then(|shard| shard.known.load_full()).as_deref())
    }
}
