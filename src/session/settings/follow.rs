//! The session's part in its settings: what statements and answers mean for them, and what the server is asked and told behind the
//! client's back.

use std::sync::Arc;

use super::server::set_all;
use super::{CHOICE, OWN_PREFIX, is_reported};
use crate::error::{Error, SqlState};
use crate::session::pipeline::{Hidden, Kind, Request};
use crate::session::prepared::Statement;
use crate::session::{ServerState, Session};
use crate::sql::facts::{ConfigArg, LocalSet, PinReason, QueryFacts, SessionEffect, StatementFacts, TransactionEffect};
use crate::sql::settings::{boolean, canonical, is_of_transaction, quote_literal, set_config, unknown};
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// Extensions with settings that are a superuser's to make.
const SUPERUSERS_EXTENSIONS: &[&str] = &[
    "auto_explain",
    "pg_stat_kcache",
    "pg_stat_statements",
    "pg_wait_sampling",
    "pgaudit",
    "plperl",
    "plpgsql",
    "pltcl",
    "sepgsql",
];

/// Whether it takes a superuser to give a setting a value.
fn is_superusers(name: &str) -> bool {
    let extension = || name.split_once('.').is_some_and(|(of, _)| SUPERUSERS_EXTENSIONS.binary_search(&of).is_ok());
    SUPERUSERS.binary_search(&name).is_ok() || extension()
}

/// Settings that are a superuser's to make: whoever made one under another role could not have it made again by the login's own user.
/// (Those whose context is "superuser"; sorted by name. A role may have been granted some of them.)
const SUPERUSERS: &[&str] = &[
    "allow_in_place_tablespaces",
    "allow_system_table_mods",
    "backtrace_functions",
    "commit_delay",
    "compute_query_id",
    "deadlock_timeout",
    "debug_discard_caches",
    "dynamic_library_path",
    "ignore_checksum_failure",
    "jit_dump_bitcode",
    "jit_expressions",
    "jit_tuple_deforming",
    "lc_messages",
    "lo_compat_privileges",
    "log_duration",
    "log_error_verbosity",
    "log_executor_stats",
    "log_lock_waits",
    "log_min_duration_sample",
    "log_min_duration_statement",
    "log_min_error_statement",
    "log_min_messages",
    "log_parameter_max_length",
    "log_parser_stats",
    "log_planner_stats",
    "log_replication_commands",
    "log_statement",
    "log_statement_sample_rate",
    "log_statement_stats",
    "log_temp_files",
    "log_transaction_sample_rate",
    "max_stack_depth",
    "session_replication_role",
    "temp_file_limit",
    "track_activities",
    "track_counts",
    "track_functions",
    "track_io_timing",
    "track_wal_io_timing",
    "update_process_title",
    "wal_compression",
    "wal_consistency_checking",
    "wal_init_zero",
    "wal_recycle",
    "zero_damaged_pages",
];

/// Statements that may commit by themselves what a pipeline did before them.
pub(in crate::session) fn commits_before(statement: &StatementFacts) -> bool {
    statement.changes_catalog
        || statement.transaction == TransactionEffect::FinishPrepared
        || matches!(statement.why, "VACUUM" | "ANALYZE" | "CLUSTER" | "REINDEX")
}

impl Session {
    /// What a Bind makes of a statement that sets by parameters: all its effects, if there is such a one among them.
    pub(in crate::session) fn bound_effects(
        &self,
        statement: &Statement,
        frame: &[u8],
        server: &ServerState,
    ) -> Option<Arc<[SessionEffect]>> {
        let effects = statement.facts.statements.iter().flat_map(|s| &s.effects);
        let locals = statement.facts.statements.iter().flat_map(|s| &s.locals);
        let by_params = |effect: &SessionEffect| matches!(effect, SessionEffect::SetByParams { .. });
        if !effects.clone().any(by_params) && locals.clone().next().is_none() {
            return None;
        }
        let types = statement.oids();
        let bind = message::bind(frame.get(5..).unwrap_or_default());
        let parameters = bind.and_then(|bind| bind.parameters());
        let value = |arg: &ConfigArg, of_type: u32| {
            let ConfigArg::Param(number) = arg else { return Some(arg.clone()) };
            let at = usize::from(number.checked_sub(1)?);
            // Of another type, the server makes a text of it in its own way.
            if !types.get(at).is_none_or(|oid| [0, of_type, UNKNOWN].contains(oid)) {
                return None;
            }
            let parameters = parameters.as_ref()?;
            let binary = match parameters.formats.as_slice() {
                [] => false,
                [format] => *format != 0,
                formats => formats.get(at) != Some(&0),
            };
            let Some(bytes) = parameters.values.get(at)? else { return Some(ConfigArg::Null) };
            match *bytes {
                [byte] if of_type == BOOL && binary => {
                    Some(ConfigArg::Literal(if *byte == 0 { "f" } else { "t" }.to_owned()))
                }
                _ if of_type == BOOL && binary => None,
                text if of_type == BOOL => {
                    boolean(std::str::from_utf8(text).ok()?).map(|word| ConfigArg::Literal(word.to_owned()))
                }
                text => std::str::from_utf8(text).ok().map(|text| ConfigArg::Literal(text.to_owned())),
            }
        };
        let bound = |effect: &SessionEffect| match effect {
            SessionEffect::SetByParams { name, value: to, local } => {
                let known_name = value(name, TEXT);
                match (&known_name, value(to, TEXT), value(local, BOOL)) {
                    (Some(name), Some(to), Some(local)) if self.reads_as_utf8(&to, server) => {
                        set_config(name, &to, &local)
                    }
                    (Some(name), ..) => vec![unknown(name)],
                    (None, ..) => vec![unknown(name)],
                }
            }
            effect => vec![effect.clone()],
        };
        let text = |arg: &Option<ConfigArg>| match value(arg.as_ref()?, TEXT) {
            Some(ConfigArg::Literal(text)) => Some(text),
            _ => None,
        };
        let local = |set: &LocalSet| SessionEffect::Local {
            name: text(&set.name).map(|name| canonical(&name)),
            value: text(&set.value),
        };
        Some(effects.flat_map(bound).chain(locals.map(local)).collect())
    }

    fn reads_as_utf8(&self, value: &ConfigArg, server: &ServerState) -> bool {
        match value {
            ConfigArg::Literal(text) => text.is_ascii() || self.speaks_utf8(server),
            ConfigArg::Null | ConfigArg::Param(_) => true,
        }
    }

    fn speaks_utf8(&self, server: &ServerState) -> bool {
        let encoding = self.settings.get("client_encoding").or_else(|| server.settings.reported("client_encoding"));
        encoding.is_some_and(|e| e.eq_ignore_ascii_case("utf8"))
    }

    /// A statement that sets has completed.
    pub(in crate::session) fn follow_setting(
        &mut self,
        effect: &SessionEffect,
        facts: &Arc<QueryFacts>,
        server: &mut ServerState,
    ) {
        let name = match effect {
            SessionEffect::Set { name, .. } | SessionEffect::SetUnknown { name } | SessionEffect::Reset { name } => {
                name.as_str()
            }
            SessionEffect::SetByParams { name, .. } => {
                // Executed by SQL, with values that are expressions there.
                return match unknown(name) {
                    SessionEffect::Pin(reason) => self.pin(reason, Some(facts)),
                    effect => self.follow_setting(&effect, facts, server),
                };
            }
            SessionEffect::ResetAll => {
                self.settings.assign_defaults();
                server.settings.may_lack_given(|name| !super::IDENTITY.contains(&name));
                return self.settings.is_changed_for_shards();
            }
            _ => return,
        };
        if is_superusers(name) && self.settings.is_someone_else() {
            self.pin(PinReason::Identity, Some(facts));
        }
        match effect {
            SessionEffect::Set { value, .. } if CHOICE.contains(&name) => {
                self.settings.assign(name, value);
                server.settings.set_other(name, value);
            }
            SessionEffect::Reset { .. } if CHOICE.contains(&name) => self.settings.assign_default(name),
            SessionEffect::Set { value, .. } if name.starts_with(OWN_PREFIX) => {
                self.settings.set(name, value);
                server.settings.set_other(name, value);
            }
            SessionEffect::Reset { .. } if name.starts_with(OWN_PREFIX) => {
                self.settings.reset(name);
                server.settings.reset_other(name);
            }
            SessionEffect::Reset { .. } => {
                self.settings.assign_default(name);
                // With the session's user its role goes.
                let with_it =
                    |given: &str| given == name || (name == super::IDENTITY[0] && given == super::IDENTITY[1]);
                server.settings.may_lack_given(with_it);
            }
            _ if is_reported(name) => self.settings.assign_reported(name),
            SessionEffect::Set { value, .. } if self.is_read_rightly(value, server) => {
                self.settings.assign(name, value)
            }
            _ if is_of_transaction(name) => {}
            _ => self.settings.doubt(name),
        }
        if super::decides(name) {
            self.settings.is_changed_for_shards();
        }
    }

    /// Whether the server has read a text's literal as we have.
    fn is_read_rightly(&self, value: &str, server: &ServerState) -> bool {
        let escapes = || {
            let standard = self.settings.get("standard_conforming_strings");
            standard.or_else(|| server.settings.reported("standard_conforming_strings")) != Some("on")
        };
        !(value.contains(['\\', '\'']) && escapes()) && (value.is_ascii() || self.speaks_utf8(server))
    }

    /// One that may have committed what came before it has failed.
    pub(in crate::session) fn failed_halfway(&mut self) {
        if self.status != TransactionStatus::Idle {
            return;
        }
        let commits = match self.pipeline.head().map(|head| &head.kind) {
            Some(Kind::Execute(Some(facts))) => facts.statements.first().is_some_and(commits_before),
            Some(Kind::Query { facts, done }) => facts.statements.get(*done).is_some_and(commits_before),
            _ => false,
        };
        if commits {
            self.settings.halfway();
        }
    }

    /// A statement has completed, with this tag; `alone`: by the extended protocol, outside of a block.
    pub(in crate::session) fn follow_transaction(&mut self, statement: &StatementFacts, tag: &[u8], alone: bool) {
        let name = statement.savepoint.as_deref().unwrap_or_default();
        match statement.transaction {
            TransactionEffect::Commit { .. } | TransactionEffect::PrepareTransaction => {
                // A failed block is rolled back, whatever was asked. Where there is none, PREPARE TRANSACTION commits, by the same tag.
                if tag.starts_with(b"ROLLBACK") && !alone { self.settings.rollback() } else { self.settings.commit() }
            }
            TransactionEffect::Rollback { .. } => self.settings.rollback(),
            TransactionEffect::Savepoint => {
                if !self.settings.savepoint(name) {
                    self.pin(PinReason::Setting, None);
                }
            }
            TransactionEffect::RollbackTo => self.settings.rollback_to(name),
            TransactionEffect::Release => self.settings.release(name),
            TransactionEffect::None | TransactionEffect::Begin { .. } | TransactionEffect::FinishPrepared => {}
        }
        if alone && commits_before(statement) {
            self.settings.halfway();
        }
        if alone && matches!(statement.why, "CALL" | "DO") {
            // It may have ended the transaction in which it began, either way.
            self.settings.doubt_changes();
        }
    }

    /// Asks for what only the server knows, and gives back what a RESET took that startup had given. Nothing may be under way.
    pub(in crate::session) fn send_hidden(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        if !(self.settings.has_hidden() || self.asks_pins)
            || !self.pipeline.is_empty()
            || self.unsynced
            || self.skipping
            || self.status == TransactionStatus::Failed
        {
            return;
        }
        let stays = !self.may_release();
        // All at once, for what the client sends next goes behind it.
        if self.status == TransactionStatus::Idle {
            if self.settings.has_doubts() {
                self.read_back(server, out);
            } else if let Some((reasons, sql)) = self.question_of_pins() {
                self.send_query(Hidden::Pins(reasons, self.sent), &sql, server, out);
            }
        }
        if stays && self.settings.lacks_anything() {
            self.give_back(server, out);
        }
    }

    /// Asks for settings whose values only the server knows.
    fn read_back(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        let names: Vec<String> = self.settings.doubts().cloned().collect();
        let mut sql = String::from("SELECT ");
        for (at, name) in names.iter().enumerate() {
            if at > 0 {
                sql.push(',');
            }
            // In an encoding that needs no thought.
            sql.push_str("pg_catalog.encode(pg_catalog.convert_to(pg_catalog.current_setting(");
            sql.push_str(&quote_literal(name));
            sql.push_str(",true),'UTF8'),'hex')");
        }
        self.send_query(Hidden::ReadBack(names), &sql, server, out);
    }

    /// Gives the server what a RESET took from it and startup had given.
    fn give_back(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        let missing = self.settings.missing();
        // A role is one of the session's user, and is set after that.
        let (role, others): (Vec<_>, Vec<_>) = missing.iter().partition(|(name, _)| *name == "role");
        let sets = others.into_iter().chain(role).map(|(name, value)| (name.as_str(), value.as_str()));
        let sql = set_all(sets, server.settings.reported("client_encoding"));
        self.send_query(Hidden::Restore(missing), &sql, server, out);
    }

    pub(in crate::session) fn send_query(
        &mut self,
        what: Hidden,
        sql: &str,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) {
        server.unnamed = None;
        self.pipeline.push(Request::swallow(Kind::Hidden(what)));
        encode::query(out, sql.as_bytes());
    }

    /// A message that answers a Query of ours, but for its ReadyForQuery and its error.
    pub(in crate::session) fn on_hidden(&mut self, tag: u8, body: &[u8]) {
        let Some(Request { kind: Kind::Hidden(what), .. }) = self.pipeline.head() else { return };
        match (what, tag) {
            (Hidden::ReadBack(names), b'D') => {
                let names = std::mem::take(names);
                let row = message::data_row(body).unwrap_or_default();
                for (at, name) in names.iter().enumerate() {
                    match row.get(at).map(|hex| hex.as_deref().map(from_hex)) {
                        Some(None) => self.settings.resolve(name, None),
                        Some(Some(Some(value))) => self.settings.resolve(name, Some(&value)),
                        None | Some(Some(None)) => self.stays_in_doubt(),
                    }
                }
            }
            // It has given no row.
            (Hidden::ReadBack(names), b'C') if !names.is_empty() => self.stays_in_doubt(),
            (Hidden::Restore(given), b'C') => {
                let given = std::mem::take(given);
                self.settings.restored(&given);
            }
            (Hidden::Pins(reasons, before), b'D') => {
                let (reasons, before) = (std::mem::take(reasons), *before);
                let row = message::data_row(body).unwrap_or_default();
                let gone = row.iter().zip(reasons).filter(|(there, _)| there.as_deref() == Some("f"));
                gone.for_each(|(_, reason)| self.unpin(reason, before));
            }
            _ => {}
        }
    }

    /// The error of a Query of ours. In a block it is told to whoever finds the block failed.
    pub(in crate::session) fn hidden_failed(&mut self, body: &[u8]) {
        if self.status != TransactionStatus::Idle {
            let error = message::server_error(body);
            let forgets = matches!(self.pipeline.head(), Some(Request { kind: Kind::Hidden(Hidden::Forget), .. }));
            let what = if forgets {
                "what others did to sequences could not be taken away"
            } else {
                "a setting of the session could not be applied"
            };
            let message = format!("{what}: {}", error.message);
            self.hidden_error = Some(Box::new(Error { message, ..error }));
        }
        let cancelled = message::error_field(body, b'C') == Some(&SqlState::QUERY_CANCELED.0);
        self.missed_cancel = cancelled && self.status == TransactionStatus::Idle;
        if let Some(Request { kind: Kind::Hidden(Hidden::ReadBack(_) | Hidden::Restore(_)), .. }) = self.pipeline.head()
        {
            // Outside of a block it has changed nothing.
            if self.status != TransactionStatus::Idle || !self.settings.sends_again(cancelled) {
                self.stays_in_doubt();
            }
        }
    }

    /// What the server has is not known, and is kept as long as the client is there.
    fn stays_in_doubt(&mut self) {
        self.settings.give_up();
        self.pin(PinReason::Setting, None);
    }
}

/// Types of parameters, by their numbers in pg_type.
const BOOL: u32 = 16;
const TEXT: u32 = 25;
const UNKNOWN: u32 = 705;

/// The text that a server has written by `encode(convert_to(.., 'UTF8'), 'hex')`.
#[must_use]
pub fn from_hex(hex: &str) -> Option<String> {
    let digits = hex.as_bytes().chunks(2);
    let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect::<Option<_>>()?;
    String::from_utf8(bytes).ok()
}
