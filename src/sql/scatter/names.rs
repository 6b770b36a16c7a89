//! What PostgreSQL's own functions are to a statement that several shards answer.
//!
//! The lists are of PostgreSQL 15: `SELECT DISTINCT proname FROM pg_proc` of `pg_catalog` with `prokind = 'a'`, `prokind = 'w'`,
//! `proretset`, and `provolatile = 's'`. From the last those are left out whose answer is the same on every shard (they depend on
//! settings of the session, which all its servers have). What is on no list is IMMUTABLE there in all its forms, or refused.

use crate::sql::builtins::{BUILTINS, VOLATILE};

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its value depends on its arguments alone.
    Plain,
    /// It draws another value for each row.
    Draws,
    /// It tells the time, which is not the same on all shards.
    Clock,
    /// An aggregate; some of these can be window functions as well.
    Aggregate,
    /// A window function, and nothing else.
    Window,
    /// It gives several rows.
    Set,
    /// It may answer otherwise on another shard, or is not known.
    Unknown,
}

/// What the function is that is called by `name`, in `schema` if the statement says one.
pub(super) fn kind(schema: Option<&str>, name: &str) -> Kind {
    if schema.is_some_and(|schema| schema != "pg_catalog") {
        return Kind::Unknown;
    }
    let is_in = |list: &[&str]| list.binary_search(&name).is_ok();
    if is_in(AGGREGATES) {
        Kind::Aggregate
    } else if is_in(WINDOWS) {
        Kind::Window
    } else if is_in(SETS) {
        Kind::Set
    } else if matches!(name, "now" | "statement_timestamp" | "transaction_timestamp") {
        Kind::Clock
    } else if matches!(name, "clock_timestamp" | "gen_random_uuid" | "pg_sleep" | "random") {
        Kind::Draws
    } else if !is_in(BUILTINS) || is_in(VOLATILE) || is_in(STABLE) || speaks_of_server(name) {
        Kind::Unknown
    } else {
        Kind::Plain
    }
}

/// Names of families that speak of a server or of its catalog.
fn speaks_of_server(name: &str) -> bool {
    ["pg_", "has_", "to_reg", "txid_", "lo_", "binary_upgrade_"].iter().any(|family| name.starts_with(family))
        // Of an enum they hash the number of its value.
        || ["hashenum", "hash_record", "hash_array", "hash_range", "hash_multirange"].contains(&hash_family(name))
}

/// The name of a hash function without what marks its form with a seed.
fn hash_family(name: &str) -> &str {
    name.strip_suffix("extended").unwrap_or(name).trim_end_matches('_')
}

/// Whether `row.name` may call an aggregate: PostgreSQL takes `t.count` for `count(t)` where t has no such column.
pub(super) fn is_aggregate(name: &str) -> bool {
    AGGREGATES.binary_search(&name).is_ok()
}

#[rustfmt::skip]
static AGGREGATES: &[&str] = &[
    "any_value", "array_agg", "avg", "bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "corr", "count", "covar_pop",
    "covar_samp", "cume_dist", "dense_rank", "every", "json_agg", "json_object_agg", "jsonb_agg", "jsonb_object_agg",
    "max", "min", "mode", "percent_rank", "percentile_cont", "percentile_disc", "range_agg", "range_intersect_agg",
    "rank", "regr_avgx", "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy",
    "regr_syy", "stddev", "stddev_pop", "stddev_samp", "string_agg", "sum", "var_pop", "var_samp", "variance", "xmlagg",
];

#[rustfmt::skip]
static WINDOWS: &[&str] = &[
    "cume_dist", "dense_rank", "first_value", "lag", "last_value", "lead", "nth_value", "ntile", "percent_rank", "rank",
    "row_number",
];

#[rustfmt::skip]
static SETS: &[&str] = &[
    "aclexplode", "generate_series", "generate_subscripts", "json_array_elements", "json_array_elements_text",
    "json_each", "json_each_text", "json_object_keys", "json_populate_recordset", "json_to_recordset",
    "jsonb_array_elements", "jsonb_array_elements_text", "jsonb_each", "jsonb_each_text", "jsonb_object_keys",
    "jsonb_path_query", "jsonb_path_query_tz", "jsonb_populate_recordset", "jsonb_to_recordset", "regexp_matches",
    "regexp_split_to_table", "string_to_table", "ts_debug", "ts_parse", "ts_stat", "ts_token_type", "txid_snapshot_xip",
    "unnest",
];

#[rustfmt::skip]
static STABLE: &[&str] = &[
    "aclitemin", "aclitemout", "anyarray_out", "anyarray_recv", "anyarray_send", "anycompatiblearray_out",
    "anycompatiblearray_recv", "anycompatiblearray_send", "anycompatiblemultirange_in", "anycompatiblemultirange_out",
    "anycompatiblerange_in", "anycompatiblerange_out", "anyenum_out", "anymultirange_in", "anymultirange_out",
    "anyrange_in", "anyrange_out", "areajoinsel", "areasel", "array_in", "array_out", "array_recv", "array_send",
    "array_typanalyze", "arraycontjoinsel", "arraycontsel", "bpcharrecv", "bpcharsend", "brin_bloom_summary_recv",
    "brin_bloom_summary_send", "brin_minmax_multi_summary_recv", "brin_minmax_multi_summary_send", "cash_in",
    "cash_out", "col_description", "contjoinsel", "contsel", "cstring_recv", "cstring_send", "current_database",
    "current_schema", "current_schemas", "current_setting", "current_user", "database_to_xml",
    "database_to_xml_and_xmlschema", "database_to_xmlschema", "date_cmp_timestamptz", "date_eq_timestamptz",
    "date_ge_timestamptz", "date_gt_timestamptz", "date_in", "date_le_timestamptz", "date_lt_timestamptz",
    "date_ne_timestamptz", "date_out", "domain_in", "domain_recv", "enum_in", "enum_out", "enum_recv", "enum_send",
    "eqjoinsel", "eqsel", "fmgr_c_validator", "fmgr_internal_validator", "fmgr_sql_validator", "format_type",
    "get_current_ts_config", "getdatabaseencoding", "getpgusername", "iclikejoinsel", "iclikesel", "icnlikejoinsel",
    "icnlikesel", "icregexeqjoinsel", "icregexeqsel", "icregexnejoinsel", "icregexnesel", "in_range",
    "inet_client_addr", "inet_client_port", "inet_server_addr", "inet_server_port", "interval_in", "interval_out",
    "json_agg_transfn", "json_object_agg_transfn", "json_populate_record", "json_to_record", "json_to_tsvector",
    "jsonb_agg_finalfn", "jsonb_agg_transfn", "jsonb_object_agg_finalfn", "jsonb_object_agg_transfn",
    "jsonb_path_exists_tz", "jsonb_path_match_tz", "jsonb_path_query_array_tz", "jsonb_path_query_first_tz",
    "jsonb_populate_record", "jsonb_to_record", "jsonb_to_tsvector", "likejoinsel", "likesel", "matchingjoinsel",
    "matchingsel", "multirange_in", "multirange_out", "multirange_recv", "multirange_send", "multirange_typanalyze",
    "multirangesel", "mxid_age", "namerecv", "namesend", "neqjoinsel", "neqsel", "networkjoinsel", "networksel",
    "nlikejoinsel", "nlikesel", "obj_description", "oidvectortypes", "phraseto_tsquery", "plainto_tsquery",
    "positionjoinsel", "positionsel", "prefixjoinsel", "prefixsel", "range_in", "range_out", "range_recv", "range_send",
    "range_typanalyze", "rangesel", "record_in", "record_out", "record_recv", "record_send", "regclass", "regclassin",
    "regclassout", "regcollationin", "regcollationout", "regconfigin", "regconfigout", "regdictionaryin",
    "regdictionaryout", "regexeqjoinsel", "regexeqsel", "regexnejoinsel", "regexnesel", "regnamespacein",
    "regnamespaceout", "regoperatorin", "regoperatorout", "regoperin", "regoperout", "regprocedurein",
    "regprocedureout", "regprocin", "regprocout", "regrolein", "regroleout", "regtypein", "regtypeout",
    "row_security_active", "scalargejoinsel", "scalargesel", "scalargtjoinsel", "scalargtsel", "scalarlejoinsel",
    "scalarlesel", "scalarltjoinsel", "scalarltsel", "schema_to_xml", "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema", "session_user", "shobj_description", "table_to_xml", "table_to_xml_and_xmlschema",
    "table_to_xmlschema", "textrecv", "textsend", "time_in", "timestamp_cmp_timestamptz", "timestamp_eq_timestamptz",
    "timestamp_ge_timestamptz", "timestamp_gt_timestamptz", "timestamp_in", "timestamp_le_timestamptz",
    "timestamp_lt_timestamptz", "timestamp_ne_timestamptz", "timestamp_out", "timestamptz_cmp_date",
    "timestamptz_cmp_timestamp", "timestamptz_eq_date", "timestamptz_eq_timestamp", "timestamptz_ge_date",
    "timestamptz_ge_timestamp", "timestamptz_gt_date", "timestamptz_gt_timestamp", "timestamptz_in",
    "timestamptz_le_date", "timestamptz_le_timestamp", "timestamptz_lt_date", "timestamptz_lt_timestamp",
    "timestamptz_ne_date", "timestamptz_ne_timestamp", "timestamptz_out", "timetz_in", "to_tsquery", "to_tsvector",
    "ts_headline", "ts_match_tq", "ts_match_tt", "ts_typanalyze", "tsmatchjoinsel", "tsmatchsel", "varcharrecv",
    "varcharsend", "version", "websearch_to_tsquery", "xml", "xml_in", "xml_recv", "xml_send",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted_and_known() {
        for list in [AGGREGATES, WINDOWS, SETS, STABLE] {
            assert!(list.is_sorted());
            let strange: Vec<_> = list.iter().filter(|name| BUILTINS.binary_search(name).is_err()).collect();
            assert!(strange.iter().all(|name| **name == "any_value"), "{strange:?}");
        }
    }

    #[test]
    fn functions_are_told_apart() {
        for (schema, name, expected) in [
            (None, "lower", Kind::Plain),
            (Some("pg_catalog"), "lower", Kind::Plain),
            (Some("app"), "lower", Kind::Unknown),
            (None, "to_char", Kind::Plain),
            (None, "count", Kind::Aggregate),
            (None, "rank", Kind::Aggregate),
            (None, "row_number", Kind::Window),
            (None, "generate_series", Kind::Set),
            (None, "now", Kind::Clock),
            (None, "random", Kind::Draws),
            (None, "nextval", Kind::Unknown),
            (None, "pg_backend_pid", Kind::Unknown),
            (None, "has_table_privilege", Kind::Unknown),
            (None, "version", Kind::Unknown),
            (None, "to_tsvector", Kind::Unknown),
            (None, "median", Kind::Unknown),
            (None, "hashtext", Kind::Plain),
            (None, "hashenum", Kind::Unknown),
            (None, "hashenumextended", Kind::Unknown),
            (None, "hash_record", Kind::Unknown),
            (None, "hash_record_extended", Kind::Unknown),
            (None, "hash_array", Kind::Unknown),
            (None, "hash_array_extended", Kind::Unknown),
            (None, "hash_range_extended", Kind::Unknown),
        ] {
            assert_eq!(kind(schema, name), expected, "{name}");
        }
    }
}
