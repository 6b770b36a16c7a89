//! What calling a function means: whether it runs on a standby, and what it leaves in the session.
//!
//! Functions are told apart by name alone. A name that PostgreSQL itself does not ship may belong to anything, so it is a
//! write until the catalog has been asked; so is a name in any schema but `pg_catalog`. Not seen from here: what a
//! user-defined operator, cast or type calls, `row.function` in attribute notation, and a user's function that bears a
//! built-in name; but for casts and types, `shadows` sees to them where it matters.
//! See <https://www.postgresql.org/docs/current/xfunc-volatility.html> and
//! <https://www.postgresql.org/docs/current/hot-standby.html#HOT-STANDBY-USERS>.

use super::builtins::BUILTINS;
use super::facts::{Access, PinReason};

/// What a call of one function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// Whether it runs on a standby.
    pub(super) access: Access,
    /// For [`Access::Write`]: the words for `StatementFacts::why`.
    pub(super) why: &'static str,
    /// The session state that it makes.
    pub(super) pin: Option<PinReason>,
    /// What is not known of it.
    pub(super) unknown: Unknown,
}

/// What is not known of a function from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// Nothing: it is PostgreSQL's own.
    Nothing,
    /// What it does; the catalog can tell whether it may write.
    Code,
    /// The tables it touches: it runs SQL given as text, or reads tables by their name.
    Tables,
}

const READ: Call = Call { access: Access::Read, why: "SELECT", pin: None, unknown: Unknown::Nothing };

/// A call of the function `schema.name`.
///
/// `set_config` is a plain read here: what it leaves behind depends on its arguments.
pub(super) fn call(schema: Option<&str>, name: &str) -> Call {
    // An extension lives in whatever schema it was given.
    if let Some(rest) = name.strip_prefix("dblink") {
        let pin = rest.starts_with("_connect").then_some(PinReason::Handle);
        return Call { access: Access::Write, why: "calls dblink", pin, unknown: Unknown::Tables };
    }
    if schema.is_some_and(|s| s != "pg_catalog") {
        return unknown();
    }
    if let Ok(at) = WRITES.binary_search_by(|(n, ..)| (*n).cmp(name)) {
        let (_, why, pin) = WRITES[at];
        let unknown = if RUNS_TEXT.contains(&name) { Unknown::Tables } else { Unknown::Nothing };
        return Call { access: Access::Write, why, pin, unknown };
    }
    if LOCAL.binary_search(&name).is_ok() || name.starts_with("pg_stat_get_") {
        return Call { access: Access::Local, why: "asks for what is the server's own", ..READ };
    }
    if READS_BY_NAME.contains(&name) {
        return Call { unknown: Unknown::Tables, ..READ };
    }
    if BUILTINS.binary_search(&name).is_ok() || LATER_READS.binary_search(&name).is_ok() {
        return READ;
    }
    unknown()
}

fn unknown() -> Call {
    Call { access: Access::Write, why: "calls a function that is not built in", pin: None, unknown: Unknown::Code }
}

/// Built-in functions whose answer is the server's own, and another one's would be wrong; sorted by name. Those of
/// `pg_stat_get_` belong to them. Left out are `inet_server_addr()` and `inet_server_port()`, which are asked in order to learn
/// where a statement ran, and what speaks of the session alone.
static LOCAL: &[&str] = &[
    "pg_backend_pid",
    "pg_blocking_pids",
    "pg_conf_load_time",
    "pg_control_checkpoint",
    "pg_control_init",
    "pg_control_recovery",
    "pg_control_system",
    "pg_current_logfile",
    "pg_get_backend_memory_contexts",
    "pg_get_replication_slots",
    "pg_get_shmem_allocations",
    "pg_get_wal_replay_pause_state",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_is_in_recovery",
    "pg_is_wal_replay_paused",
    "pg_last_committed_xact",
    "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    "pg_lock_status",
    "pg_ls_archive_statusdir",
    "pg_ls_dir",
    "pg_ls_logdir",
    "pg_ls_logicalmapdir",
    "pg_ls_logicalsnapdir",
    "pg_ls_replslotdir",
    "pg_ls_tmpdir",
    "pg_ls_waldir",
    "pg_notification_queue_usage",
    "pg_postmaster_start_time",
    "pg_prepared_xact",
    "pg_read_binary_file",
    "pg_read_file",
    "pg_read_file_old",
    "pg_safe_snapshot_blocking_pids",
    "pg_sequence_last_value",
    "pg_show_all_file_settings",
    "pg_show_all_settings",
    "pg_show_replication_origin_status",
    "pg_stat_file",
    "pg_stat_have_stats",
];

/// Relations of PostgreSQL's own that show what is the server's own, beside those that begin with `pg_stat_` and `pg_statio_`;
/// sorted by name. See <https://www.postgresql.org/docs/current/views.html>.
static LOCAL_RELATIONS: &[&str] = &[
    "pg_aios",
    "pg_backend_memory_contexts",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_sequences",
    "pg_settings",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
];

/// Whether a relation shows what is the server's own. `pg_stat_statements` and its like live in whatever schema they were given.
pub(super) fn is_local_relation(schema: Option<&str>, name: &str) -> bool {
    name.starts_with("pg_stat_")
        || name.starts_with("pg_statio_")
        || (schema.is_none_or(|s| s == "pg_catalog") && LOCAL_RELATIONS.binary_search(&name).is_ok())
}

/// Those of [`WRITES`] that run SQL which they get as text.
pub(super) static RUNS_TEXT: &[&str] =
    &["query_to_xml", "query_to_xml_and_xmlschema", "query_to_xmlschema", "ts_rewrite", "ts_stat"];

/// Built-in functions that read tables which they get by name.
/// See <https://www.postgresql.org/docs/current/functions-xml.html#FUNCTIONS-XML-MAPPING>.
pub(super) static READS_BY_NAME: &[&str] = &[
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
];

/// One line of [`WRITES`].
macro_rules! write_fn {
    ($name:literal) => {
        ($name, concat!("calls ", $name, "()"), None)
    };
    ($name:literal, $pin:ident) => {
        ($name, concat!("calls ", $name, "()"), Some(PinReason::$pin))
    };
}

/// Built-in functions that write, that a standby refuses, that mean one certain server, or that run SQL given as text;
/// sorted by name. Unlocking does not pin: it only means something in a session that is pinned by the lock. Large-object descriptors
/// and exported snapshots end with the transaction.
static WRITES: &[(&str, &str, Option<PinReason>)] = &[
    write_fn!("binary_upgrade_create_empty_extension"),
    write_fn!("binary_upgrade_set_missing_value"),
    write_fn!("binary_upgrade_set_next_array_pg_type_oid"),
    write_fn!("binary_upgrade_set_next_heap_pg_class_oid"),
    write_fn!("binary_upgrade_set_next_heap_relfilenode"),
    write_fn!("binary_upgrade_set_next_index_pg_class_oid"),
    write_fn!("binary_upgrade_set_next_index_relfilenode"),
    write_fn!("binary_upgrade_set_next_multirange_array_pg_type_oid"),
    write_fn!("binary_upgrade_set_next_multirange_pg_type_oid"),
    write_fn!("binary_upgrade_set_next_pg_authid_oid"),
    write_fn!("binary_upgrade_set_next_pg_enum_oid"),
    write_fn!("binary_upgrade_set_next_pg_tablespace_oid"),
    write_fn!("binary_upgrade_set_next_pg_type_oid"),
    write_fn!("binary_upgrade_set_next_toast_pg_class_oid"),
    write_fn!("binary_upgrade_set_next_toast_relfilenode"),
    write_fn!("binary_upgrade_set_record_init_privs"),
    write_fn!("brin_desummarize_range"),
    write_fn!("brin_summarize_new_values"),
    write_fn!("brin_summarize_range"),
    write_fn!("currval", SequenceState),
    write_fn!("gin_clean_pending_list"),
    write_fn!("lastval", SequenceState),
    write_fn!("lo_close"),
    write_fn!("lo_creat"),
    write_fn!("lo_create"),
    write_fn!("lo_export"),
    write_fn!("lo_from_bytea"),
    write_fn!("lo_get"),
    write_fn!("lo_import"),
    write_fn!("lo_lseek"),
    write_fn!("lo_lseek64"),
    write_fn!("lo_open"),
    write_fn!("lo_put"),
    write_fn!("lo_tell"),
    write_fn!("lo_tell64"),
    write_fn!("lo_truncate"),
    write_fn!("lo_truncate64"),
    write_fn!("lo_unlink"),
    write_fn!("loread"),
    write_fn!("lowrite"),
    write_fn!("nextval"),
    write_fn!("pg_advisory_lock", AdvisoryLock),
    write_fn!("pg_advisory_lock_shared", AdvisoryLock),
    write_fn!("pg_advisory_unlock"),
    write_fn!("pg_advisory_unlock_all"),
    write_fn!("pg_advisory_unlock_shared"),
    write_fn!("pg_advisory_xact_lock"),
    write_fn!("pg_advisory_xact_lock_shared"),
    write_fn!("pg_backup_start", Handle),
    write_fn!("pg_backup_stop"),
    write_fn!("pg_cancel_backend"),
    write_fn!("pg_copy_logical_replication_slot", Handle),
    write_fn!("pg_copy_physical_replication_slot", Handle),
    write_fn!("pg_create_logical_replication_slot", Handle),
    write_fn!("pg_create_physical_replication_slot", Handle),
    write_fn!("pg_create_restore_point"),
    write_fn!("pg_current_wal_flush_lsn"),
    write_fn!("pg_current_wal_insert_lsn"),
    write_fn!("pg_current_wal_lsn"),
    write_fn!("pg_current_xact_id"),
    write_fn!("pg_drop_replication_slot"),
    write_fn!("pg_export_snapshot"),
    write_fn!("pg_extension_config_dump"),
    write_fn!("pg_import_system_collations"),
    write_fn!("pg_isolation_test_session_is_blocked"),
    write_fn!("pg_log_backend_memory_contexts"),
    write_fn!("pg_logical_emit_message"),
    write_fn!("pg_logical_slot_get_binary_changes"),
    write_fn!("pg_logical_slot_get_changes"),
    write_fn!("pg_logical_slot_peek_binary_changes"),
    write_fn!("pg_logical_slot_peek_changes"),
    write_fn!("pg_nextoid"),
    write_fn!("pg_notify"),
    write_fn!("pg_promote"),
    write_fn!("pg_reload_conf"),
    write_fn!("pg_replication_origin_advance"),
    write_fn!("pg_replication_origin_create"),
    write_fn!("pg_replication_origin_drop"),
    write_fn!("pg_replication_origin_oid"),
    write_fn!("pg_replication_origin_progress"),
    write_fn!("pg_replication_origin_session_is_setup"),
    write_fn!("pg_replication_origin_session_progress"),
    write_fn!("pg_replication_origin_session_reset"),
    write_fn!("pg_replication_origin_session_setup", Handle),
    write_fn!("pg_replication_origin_xact_reset"),
    write_fn!("pg_replication_origin_xact_setup"),
    write_fn!("pg_replication_slot_advance"),
    write_fn!("pg_rotate_logfile"),
    write_fn!("pg_rotate_logfile_old"),
    write_fn!("pg_start_backup", Handle),
    write_fn!("pg_stat_reset"),
    write_fn!("pg_stat_reset_replication_slot"),
    write_fn!("pg_stat_reset_shared"),
    write_fn!("pg_stat_reset_single_function_counters"),
    write_fn!("pg_stat_reset_single_table_counters"),
    write_fn!("pg_stat_reset_slru"),
    write_fn!("pg_stat_reset_subscription_stats"),
    write_fn!("pg_stop_backup"),
    write_fn!("pg_stop_making_pinned_objects"),
    write_fn!("pg_switch_wal"),
    write_fn!("pg_terminate_backend"),
    write_fn!("pg_try_advisory_lock", AdvisoryLock),
    write_fn!("pg_try_advisory_lock_shared", AdvisoryLock),
    write_fn!("pg_try_advisory_xact_lock"),
    write_fn!("pg_try_advisory_xact_lock_shared"),
    write_fn!("pg_wal_replay_pause"),
    write_fn!("pg_wal_replay_resume"),
    write_fn!("pg_walfile_name"),
    write_fn!("pg_walfile_name_offset"),
    write_fn!("query_to_xml"),
    write_fn!("query_to_xml_and_xmlschema"),
    write_fn!("query_to_xmlschema"),
    write_fn!("setseed", Seed),
    write_fn!("setval"),
    write_fn!("ts_rewrite"),
    write_fn!("ts_stat"),
    write_fn!("txid_current"),
];

/// The functions that leave something in the session, or ask for it.
pub(super) fn pinning() -> impl Iterator<Item = &'static str> {
    WRITES.iter().filter(|(.., pin)| pin.is_some()).map(|(name, ..)| *name)
}

/// Read functions that came after PostgreSQL 15, sorted by name. Writing ones need no list: what is not known is a write.
pub(super) static LATER_READS: &[&str] = &[
    "any_value",
    "array_reverse",
    "array_sample",
    "array_shuffle",
    "array_sort",
    "casefold",
    "crc32",
    "crc32c",
    "date_add",
    "date_subtract",
    "erf",
    "erfc",
    "gamma",
    "has_largeobject_privilege",
    "icu_unicode_version",
    "json_agg_strict",
    "json_array",
    "json_arrayagg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "json_scalar",
    "json_serialize",
    "jsonb_agg_strict",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "lgamma",
    "pg_basetype",
    "pg_get_acl",
    "pg_input_error_info",
    "pg_input_is_valid",
    "random_normal",
    "system_user",
    "to_bin",
    "to_oct",
    "unicode_assigned",
    "unicode_version",
    "uuid_extract_timestamp",
    "uuid_extract_version",
    "uuidv4",
    "uuidv7",
    "xmltext",
];

#[cfg(test)]
mod tests {
    use super::super::builtins::VOLATILE;
    use super::*;
    use std::collections::BTreeSet;

    /// Volatile, and yet right on a standby: they only look, wait, or draw a value; triggers and handlers cannot be called.
    /// `set_config` is judged by its arguments, and the `cursor_to_xml` pair speaks of a cursor of the transaction it is in.
    #[rustfmt::skip]
    static VOLATILE_READS: &[&str] = &[
        "RI_FKey_cascade_del", "RI_FKey_cascade_upd", "RI_FKey_check_ins", "RI_FKey_check_upd", "RI_FKey_noaction_del",
        "RI_FKey_noaction_upd", "RI_FKey_restrict_del", "RI_FKey_restrict_upd", "RI_FKey_setdefault_del",
        "RI_FKey_setdefault_upd", "RI_FKey_setnull_del", "RI_FKey_setnull_upd", "amvalidate", "bernoulli", "brinhandler",
        "bthandler", "clock_timestamp", "current_query", "currtid2", "cursor_to_xml", "cursor_to_xmlschema",
        "dsnowball_init", "dsnowball_lexize", "gen_random_uuid", "ginhandler", "gisthandler", "hashhandler",
        "heap_tableam_handler", "pg_blocking_pids", "pg_collation_actual_version", "pg_control_checkpoint",
        "pg_control_init", "pg_control_recovery", "pg_control_system", "pg_current_logfile",
        "pg_database_collation_actual_version", "pg_database_size", "pg_get_backend_memory_contexts",
        "pg_get_multixact_members", "pg_get_shmem_allocations", "pg_get_wal_replay_pause_state",
        "pg_get_wal_resource_managers", "pg_hba_file_rules", "pg_ident_file_mappings", "pg_indexes_size",
        "pg_is_in_recovery", "pg_is_wal_replay_paused", "pg_jit_available", "pg_last_committed_xact",
        "pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn", "pg_last_xact_replay_timestamp", "pg_lock_status",
        "pg_ls_archive_statusdir", "pg_ls_dir", "pg_ls_logdir", "pg_ls_logicalmapdir", "pg_ls_logicalsnapdir",
        "pg_ls_replslotdir", "pg_ls_tmpdir", "pg_ls_waldir", "pg_notification_queue_usage", "pg_partition_ancestors",
        "pg_partition_tree", "pg_prepared_xact", "pg_read_binary_file", "pg_read_file", "pg_read_file_old",
        "pg_relation_size", "pg_safe_snapshot_blocking_pids", "pg_sequence_last_value", "pg_show_all_file_settings",
        "pg_show_replication_origin_status", "pg_sleep", "pg_sleep_for", "pg_sleep_until", "pg_stat_clear_snapshot",
        "pg_stat_file", "pg_stat_force_next_flush", "pg_stat_get_recovery_prefetch", "pg_stat_get_xact_blocks_fetched",
        "pg_stat_get_xact_blocks_hit", "pg_stat_get_xact_function_calls", "pg_stat_get_xact_function_self_time",
        "pg_stat_get_xact_function_total_time", "pg_stat_get_xact_numscans", "pg_stat_get_xact_tuples_deleted",
        "pg_stat_get_xact_tuples_fetched", "pg_stat_get_xact_tuples_hot_updated", "pg_stat_get_xact_tuples_inserted",
        "pg_stat_get_xact_tuples_returned", "pg_stat_get_xact_tuples_updated", "pg_stat_have_stats", "pg_table_size",
        "pg_tablespace_size", "pg_total_relation_size", "pg_xact_commit_timestamp", "pg_xact_commit_timestamp_origin",
        "pg_xact_status", "plpgsql_call_handler", "plpgsql_inline_handler", "plpgsql_validator", "random", "set_config",
        "spghandler", "suppress_redundant_updates_trigger", "system", "timeofday", "tsvector_update_trigger",
        "tsvector_update_trigger_column", "txid_status", "unique_key_recheck",
    ];

    #[test]
    fn the_lists_are_sorted() {
        assert!(BUILTINS.is_sorted());
        assert!(VOLATILE.is_sorted());
        assert!(LATER_READS.is_sorted());
        assert!(LOCAL.is_sorted() && LOCAL_RELATIONS.is_sorted());
        assert!(LOCAL.iter().all(|name| BUILTINS.contains(name)));
        assert!(WRITES.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn every_volatile_builtin_was_reviewed() {
        let writes: BTreeSet<_> = WRITES.iter().map(|w| w.0).collect();
        let reads: BTreeSet<_> = VOLATILE_READS.iter().copied().collect();
        let both: Vec<_> = writes.intersection(&reads).collect();
        assert!(both.is_empty(), "both a read and a write: {both:?}");
        let missed: Vec<_> = VOLATILE.iter().filter(|v| !writes.contains(*v) && !reads.contains(*v)).collect();
        assert!(missed.is_empty(), "not reviewed: {missed:?}");
    }

    #[test]
    fn a_schema_makes_a_builtin_foreign() {
        assert_eq!(call(None, "lower").access, Access::Read);
        assert_eq!(call(Some("pg_catalog"), "lower").access, Access::Read);
        assert_eq!(call(Some("app"), "lower").access, Access::Write);
        assert_eq!(call(None, "Lower").access, Access::Write);
        assert_eq!(call(Some("app"), "dblink_connect_u").pin, Some(PinReason::Handle));
        assert_eq!(call(None, "pg_try_advisory_lock").pin, Some(PinReason::AdvisoryLock));
    }
}
