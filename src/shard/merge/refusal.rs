//! The words of what cannot be merged.

use crate::error::{Error, SqlState};

/// A number that its type cannot hold.
const NUMERIC_VALUE_OUT_OF_RANGE: SqlState = SqlState(*b"22003");

/// Refused before anything is asked of the shards' rows.
pub(super) fn refuse(message: impl Into<String>, hint: &str) -> Error {
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, message).hint(hint)
}

const ONE_SHARD: &str = "Tie the statement to one shard by its sharding key, or do this part in the application.";

pub(super) fn type_not_comparable(what: &str, type_oid: u32) -> Error {
    refuse(format!("{what} values of type {} from several shards is not supported", type_name(type_oid)), ONE_SHARD)
        .because("merge_type")
}

pub(super) fn collation(what: &str) -> Error {
    refuse(
        format!("{what} texts from several shards is supported under collation \"C\" only"),
        "Write COLLATE \"C\" behind the expression if the order of bytes will do, and let client_encoding be the server's.",
    )
    .because("collation")
}

pub(super) fn nondeterministic(what: &str) -> Error {
    refuse(
        format!(
            "{what} texts from several shards is not supported when equal texts may differ in their bytes, or that is not known"
        ),
        "Write COLLATE \"C\" behind the expression, and let client_encoding be the server's.",
    )
    .because("collation")
}

pub(super) fn equal_but_unlike(what: &str, type_oid: u32) -> Error {
    refuse(
        format!(
            "{what} values of type {} from several shards is not supported: equal values may be written differently",
            type_name(type_oid)
        ),
        "Cast the expression to a type whose equal values look alike, such as bigint, text or numeric(12,2).",
    )
    .because("merge_type")
}

pub(super) fn text_setting(type_oid: u32, setting: &str) -> Error {
    refuse(
        format!("values of type {} from several shards cannot be compared under this {setting}", type_name(type_oid)),
        if setting == "DateStyle" { "SET DateStyle = 'ISO'." } else { "SET extra_float_digits = 1, or RESET it." },
    )
    .because("text_setting")
}

pub(super) fn aggregate(name: &str, argument: Option<u32>) -> Error {
    let of = argument.map_or_else(String::new, |oid| format!(" of type {}", type_name(oid)));
    refuse(
        format!("aggregate {name}{of} over several shards is not supported"),
        "Tie the statement to one shard by its sharding key, group by the sharding key, or use count, sum, avg, min or max.",
    )
    .because("aggregate")
}

pub(super) fn argument_type_needed(name: &str) -> Error {
    refuse(
        format!("aggregate {name} over several shards is not supported: the type of its argument is not known"),
        "Cast the argument, as in avg(x::numeric).",
    )
    .because("aggregate")
}

/// The specification is not one: a fault of ours.
pub(super) fn fault(what: &str) -> Error {
    Error::us(SqlState::INTERNAL_ERROR, format!("results of shards cannot be merged: {what}"))
}

/// A shard sent what it must not.
pub(super) fn server_fault(what: impl Into<String>) -> Error {
    Error::server(SqlState::INTERNAL_ERROR, what)
        .hint("The shards may differ in version, collation or settings: SHOW SHARDS on the console tells more.")
}

/// A shard's rows come in another order than they are merged by.
pub(super) fn disordered() -> Error {
    server_fault("the rows of a shard did not come in the order of ORDER BY").because(super::DISORDERED)
}

pub(super) fn out_of_range(type_name: &str) -> Error {
    Error::client(NUMERIC_VALUE_OUT_OF_RANGE, format!("{type_name} out of range"))
}

pub(super) fn numeric_overflow() -> Error {
    Error::client(NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format")
}

pub(super) fn float_overflow() -> Error {
    Error::client(NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
}

pub(super) fn too_many_digits(limit: usize) -> Error {
    Error::us(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("average or variance over several shards of numbers with more than {limit} digits is not supported"),
    )
    .hint(ONE_SHARD)
}

pub(super) fn memory(what: &str, limit: usize) -> Error {
    Error::us(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("{what} of several shards need more than {} MiB to be merged", limit >> 20),
    )
    .hint("Group by or select the sharding key, so that nothing has to be brought together, or select fewer rows.")
    .because("merge_memory")
}

/// A type's name where it is a well-known one.
fn type_name(oid: u32) -> String {
    let known = match oid {
        16 => "boolean",
        17 => "bytea",
        18 => "\"char\"",
        19 => "name",
        20 => "bigint",
        21 => "smallint",
        23 => "integer",
        25 => "text",
        26 => "oid",
        114 => "json",
        142 => "xml",
        600 => "point",
        700 => "real",
        701 => "double precision",
        790 => "money",
        869 => "inet",
        1042 => "character",
        1043 => "character varying",
        1082 => "date",
        1083 => "time",
        1114 => "timestamp",
        1184 => "timestamp with time zone",
        1186 => "interval",
        1266 => "time with time zone",
        1560 => "bit",
        1562 => "bit varying",
        1700 => "numeric",
        2950 => "uuid",
        3802 => "jsonb",
        _ => return format!("with OID {oid}"),
    };
    known.to_owned()
}
