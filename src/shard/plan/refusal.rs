//! The words of the refusals: what cannot be done, why, and what to do instead.

use super::{ShardMap, Slot};
use crate::error::{Error, SqlState};
use crate::shard::key::KeyError;
use crate::shard::table_key::TableKey;

/// Most refusals: pgweir cannot do it.
fn refuse(message: String, hint: &str) -> Error {
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, message).hint(hint)
}

const GIVE_KEY: &str = "Add a condition key = constant or key = $n that is ANDed at the top level of WHERE, \
    or choose one shard with SET pgweir.shard = 'name'.";
const PER_SHARD: &str = "Run it on each shard in turn after SET pgweir.shard = 'name'.";

pub(super) fn bad_hint(error: &str) -> Error {
    Error::client(SqlState::INVALID_PARAMETER_VALUE, format!("pgweir hint cannot be read: {error}"))
        .hint("Hints look like /* pgweir: primary */, /* pgweir: sharding_key=42 */ or /* pgweir: shard=s0 */.")
}

pub(super) fn unparsed(message: &str, position: Option<u32>) -> Error {
    let error = Error::client(SqlState::SYNTAX_ERROR, message);
    match position {
        Some(position) => error.detail(format!("The error is at character {position} of the query.")),
        None => error,
    }
}

pub(super) fn disagree(what: &str) -> Error {
    refuse(
        format!("{what} belong to different shards"),
        "Send them one by one, each outside of a transaction of the other.",
    )
    .because("shards_disagree")
}

pub(super) fn no_such_shard(name: &str, map: &ShardMap) -> Error {
    Error::client(SqlState::INVALID_PARAMETER_VALUE, format!("shard \"{name}\" does not exist"))
        .hint(format!("The shards are {}. RESET pgweir.shard chooses none.", map.names.join(", ")))
        .because("no_such_shard")
}

pub(super) fn untyped_key_setting() -> Error {
    refuse(
        "pgweir.sharding_key has no type here: the statement names no sharded table, and the keys of the database's differ in their types, in the number of their columns, or in being hashed by a tag".to_owned(),
        "RESET pgweir.sharding_key for this statement, or use pgweir.shard.",
    )
    .because("key_setting")
}

pub(super) fn key_types_differ() -> Error {
    refuse(
        "the sharded tables of the statement have keys of different types or of different numbers of columns, or only some of them are hashed by a tag"
            .to_owned(),
        "Send one statement for each table.",
    )
    .because("key_types")
}

/// The statement names so many keys that they are not held against the chosen shard.
pub(super) fn very_many_keys() -> Error {
    refuse(
        "the statement names too many sharding keys to hold them all against the chosen shard".to_owned(),
        "Name fewer at a time.",
    )
    .because("key_setting")
}

/// `pgweir.sharding_key` is no row of as many values as the key has columns.
pub(super) fn no_row_setting(key: &TableKey) -> Error {
    refuse(
        format!(
            "pgweir.sharding_key must be a row of {} values, for the sharding key has the columns \"{}\"",
            key.width(),
            key.quoted()
        ),
        "Write it as PostgreSQL writes a row, texts without quotes or in double ones, and no NULL: SET pgweir.sharding_key = '(1,abc)', in a comment sharding_key=(1,abc).",
    )
    .because("key_setting")
}

pub(super) fn bad_key_setting(error: KeyError) -> Error {
    match error {
        KeyError::Invalid(error) => error.detail("This is the value of pgweir.sharding_key."),
        KeyError::NotConstant(what) => refuse(format!("pgweir.sharding_key is {what}"), "Set client_encoding to UTF8."),
        KeyError::Null | KeyError::Default | KeyError::Unbound(_) | KeyError::Undecided(_) => {
            Error::us(SqlState::INTERNAL_ERROR, "pgweir.sharding_key cannot be read")
        }
    }
}

pub(super) fn contradicts_shard(chosen: &str, derived: &str) -> Error {
    refuse(
        format!("shard \"{chosen}\" is chosen, but the sharding key belongs to shard \"{derived}\""),
        "RESET pgweir.shard, or drop the hint, and the key alone decides.",
    )
    .because("contradiction")
}

pub(super) fn contradicts_key(chosen: Slot, derived: Slot) -> Error {
    refuse(
        format!("pgweir.sharding_key is in slot {chosen}, but the statement's own sharding key is in slot {derived}"),
        "RESET pgweir.sharding_key, or drop the hint, and the statement's own key decides.",
    )
    .because("contradiction")
}

pub(super) fn contradicts_column(column: &str) -> Error {
    refuse(
        format!("pgweir.sharding_key has another value of \"{column}\" than the statement asks for"),
        "RESET pgweir.sharding_key, or drop the hint, and the statement's own key decides.",
    )
    .because("contradiction")
}

pub(super) fn finish_prepared() -> Error {
    refuse(
        "cannot tell which shard holds the prepared transaction".to_owned(),
        "Choose the shard with SET pgweir.shard = 'name'.",
    )
    .because("prepared_transaction")
}

pub(super) fn hides_listed(table: &str) -> Error {
    refuse(
        format!("a temporary table \"{table}\" would stand before the listed table of that name, on one shard and until its transaction ends"),
        "Give it another name, or leave out ON COMMIT DROP: then the session keeps its server, and that shard, while the table is there.",
    )
    .because("temporary_name")
}

pub(super) fn search_path(table: &str) -> Error {
    refuse(
        format!("search_path was changed, so \"{table}\" may or may not be the sharded table of that name"),
        "Write the table's schema, or RESET search_path.",
    )
    .because("search_path")
}

/// Of which one shard would have a part of the rows.
fn cursor(table: &str) -> Error {
    refuse(
        format!("a cursor by SQL over several shards is not supported: DECLARE CURSOR on table \"{table}\" opens one on a single shard"),
        "Have the driver ask for the rows in parts (a fetch size: Execute with a limit of rows), which works over several shards in a transaction, or tie the query to one shard by its sharding key.",
    )
    .because("cursor")
}

pub(super) fn other(what: &str, table: &str) -> Error {
    if what == "DECLARE CURSOR" {
        return cursor(table);
    }
    refuse(format!("{what} on table \"{table}\" of a sharded database is not supported yet"), PER_SHARD)
        .because("not_on_sharded")
}

pub(super) fn locks_several() -> Error {
    refuse(
        "FOR UPDATE and the like on rows of several shards is not supported: no key says on which shard they are to be locked".to_owned(),
        GIVE_KEY,
    )
    .because("locking")
}

pub(super) fn copies_merged() -> Error {
    refuse(
        "COPY of a query whose rows several shards have to bring together (an order, a limit, DISTINCT, groups or aggregates) is not supported".to_owned(),
        "Send the query without COPY, leave ORDER BY to whoever reads the rows, or tie it to one shard by its sharding key.",
    )
    .because("copy_merged")
}

pub(super) fn copies_writes() -> Error {
    refuse(
        "COPY of what a statement returns that writes on several shards is not supported".to_owned(),
        "Send the statement with RETURNING, without COPY, or tie it to one shard by its sharding key.",
    )
    .because("copy_writes")
}

pub(super) fn analyzes_writes() -> Error {
    refuse(
        "EXPLAIN ANALYZE of a write on several shards is not supported: it would write".to_owned(),
        "Leave ANALYZE out, or tie the statement to one shard by its sharding key.",
    )
    .because("explain_analyze")
}

pub(super) fn rows_unproven(what: &str, table: &str) -> Error {
    let hint = match what {
        "MERGE" => {
            "Name the key of its rows: USING (VALUES ...) or a query with key = constant, and ON the sharding key; or use INSERT ... ON CONFLICT, UPDATE and DELETE."
        }
        "PREPARE" => "Prepare it by the protocol, as drivers do: there its parameters tell the shard.",
        _ => "Give each row its key: by INSERT ... VALUES, by COPY, or from a query with key = constant.",
    };
    refuse(
        format!("{what} on sharded table \"{table}\" is not supported where nothing tells the shard of its rows"),
        hint,
    )
    .because("not_on_sharded")
}

pub(super) fn on_every_shard(what: &str, name: &str) -> Error {
    refuse(format!("{what} of \"{name}\", which every shard has, is not done on one shard alone"), PER_SHARD)
        .because("ddl")
}

pub(super) fn perhaps_on_every_shard(what: &str, name: &str) -> Error {
    refuse(format!("{what} of \"{name}\", which the default shard does not have, may concern other shards"), PER_SHARD)
        .because("ddl")
}

pub(super) fn apart(what: &str, on_all: &str, on_default: &str) -> Error {
    refuse(
        format!(
            "{what} on \"{on_all}\", which every shard has, together with \"{on_default}\", which lives on the default shard only"
        ),
        "Send one statement for each, or list the tables of both in the configuration.",
    )
    .because("ddl_apart")
}

pub(super) fn apart_perhaps(what: &str, one: &str, other: &str) -> Error {
    refuse(
        format!("{what} on \"{one}\" together with \"{other}\": one of them is not on the default shard, but may be on others"),
        "Send one statement for each.",
    )
    .because("ddl_apart")
}

pub(super) fn moves(what: &str, name: &str) -> Error {
    refuse(
        format!(
            "{what} of \"{name}\", which is there already, but is not on the same shards as what it is to be made of"
        ),
        "Drop it first, and COMMIT that before it is made again.",
    )
    .because("ddl_apart")
}

/// Of RENAME TO and SET SCHEMA.
pub(super) fn becomes_listed(what: &str, was: &str, is: &str) -> Error {
    refuse(
        format!(
            "{what} would give \"{was}\" the name of \"{is}\", which the configuration lists: its rows are not where those of \"{is}\" are to be"
        ),
        "Choose another name; or make the table anew by CREATE TABLE, which is done where it is listed to be, and INSERT or COPY the rows into it.",
    )
    .because("ddl_apart")
}

/// A view or a partition that is listed, of tables that are listed in another way.
pub(super) fn listed_otherwise(what: &str, name: &str) -> Error {
    refuse(
        format!("{what} of \"{name}\", whose rows would not be spread as the configuration lists them, but as what it is made of"),
        "Choose another name, or list it as what it is made of.",
    )
    .because("ddl_apart")
}

pub(super) fn made_here(name: &str) -> Error {
    refuse(
        format!("cannot tell which shards have \"{name}\": this transaction has changed the catalog of several"),
        "COMMIT before it is used, or send it outside of a transaction.",
    )
    .because("ddl")
}

pub(super) fn leaves(what: &str, name: &str) -> Error {
    refuse(
        format!(
            "{what} would leave \"{name}\" on every shard with nothing to tell that it is there: it is not listed, and belongs to no table that is"
        ),
        "Run it on each shard in turn after SET pgweir.shard = 'name', and list the table in the configuration if it is used from then on. To be rid of a partition needs no DETACH: DROP TABLE drops it on all shards.",
    )
    .because("ddl")
}

/// A view of a reference table and of PostgreSQL's own tables.
pub(super) fn beside_catalog(what: &str, table: &str) -> Error {
    refuse(
        format!("{what} of \"{table}\", which all shards have, and of the system catalog, which is another one on each"),
        "Make it without the catalog; or on each shard in turn after SET pgweir.shard = 'name', and read it in the same way.",
    )
    .because("ddl")
}

pub(super) fn counts_apart(table: &str) -> Error {
    refuse(
        format!("a sequence of table \"{table}\" would count on each shard by itself, and give the same numbers on several"),
        "Make it without OWNED BY, on the default shard, and give its numbers in the INSERT; or make it on each shard after SET pgweir.shard = 'name', with another START and the number of shards as INCREMENT.",
    )
    .because("sequence")
}

pub(super) fn code(what: &str) -> Error {
    refuse(format!("{what} on a sharded database is not supported: its code may touch sharded tables"), PER_SHARD)
        .because("code")
}

pub(super) fn function_unseen(name: &str) -> Error {
    refuse(
        format!(
            "function {name} on a sharded database is not supported without a shard: it may read or write tables that the statement does not name"
        ),
        "Choose the shard by /* pgweir: sharding_key=VALUE */ or SET pgweir.shard = 'name', or declare the function IMMUTABLE if it reads no table.",
    )
    .because("function")
}

pub(super) fn shadowing_function(name: &str) -> Error {
    refuse(
        format!(
            "function {name}() on a sharded database is not supported without a shard: somebody has made one of this name that may read any table"
        ),
        "Write pg_catalog. before the name if PostgreSQL's own is meant, choose the shard by SET pgweir.shard = 'name', or declare the function IMMUTABLE if it reads no table.",
    )
    .because("function")
}

pub(super) fn operator_unseen(name: &str) -> Error {
    refuse(
        format!(
            "operator {name} on a sharded database is not supported without a shard: somebody has made one whose function may read any table"
        ),
        "Write OPERATOR(pg_catalog.=) for PostgreSQL's own, choose the shard with SET pgweir.shard = 'name', or declare the operator's function IMMUTABLE if it reads no table.",
    )
    .because("operator")
}

pub(super) fn own_equality() -> Error {
    refuse(
        "somebody has made an operator = for a type of sharding keys, so that equal keys may be on different shards"
            .to_owned(),
        "Drop the operator, or move it to a schema that is not in search_path.",
    )
    .because("operator")
}

pub(super) fn type_unseen(name: &str) -> Error {
    refuse(
        format!("the search_path finds somebody's type \"{name}\" before PostgreSQL's own, so that a key cast to it cannot be read"),
        "Put pg_catalog first in search_path, or leave it out.",
    )
    .because("type")
}

pub(super) fn listed_elsewhere(name: &str, schema: &str) -> Error {
    refuse(
        format!("\"{name}\" may be table \"{schema}.{name}\" by the search_path, and not the listed \"public.{name}\""),
        "Write the table's schema.",
    )
    .because("search_path")
}

pub(super) fn view_function_unseen(view: &str, function: &str) -> Error {
    refuse(
        format!(
            "view \"{view}\" on a sharded database is not supported without a shard: it calls function {function}, which may read any table"
        ),
        "Choose the shard by /* pgweir: sharding_key=VALUE */ or SET pgweir.shard = 'name', or declare the function IMMUTABLE if it reads no table.",
    )
    .because("view")
}

pub(super) fn reaches_listed(name: &str, schema: &str, table: &str) -> Error {
    refuse(
        format!("\"{name}\" is made of table \"{schema}.{table}\", which is spread over the shards"),
        "Query that table itself with its sharding key, or choose one shard with SET pgweir.shard = 'name'.",
    )
    .because("view")
}

pub(super) fn is_listed(name: &str, schema: &str) -> Error {
    refuse(
        format!("\"{name}\" is table \"{schema}.{name}\" by the search_path, which is listed under that schema"),
        "Write the table's schema.",
    )
    .because("search_path")
}

pub(super) fn not_looked_up(name: &str) -> Error {
    Error::us(SqlState::INTERNAL_ERROR, format!("\"{name}\" was not looked up in the catalog"))
}

pub(super) fn local_search_path() -> Error {
    refuse(
        "search_path cannot be changed by SET LOCAL or set_config() on a sharded database".to_owned(),
        "SET search_path before the transaction, or write the schema before each name.",
    )
    .because("search_path")
}

pub(super) fn everywhere(what: &str) -> Error {
    refuse(
        format!("{what} on a sharded database is not supported yet: it may have to be done on every shard"),
        PER_SHARD,
    )
    .because("ddl")
}

pub(super) fn rows_unchecked(what: &str, table: &str) -> Error {
    refuse(
        format!("{what} into sharded table \"{table}\" is not supported: its rows could land on the wrong shard"),
        "Use INSERT ... VALUES with the sharding key in every row.",
    )
    .because("rows_unchecked")
}

pub(super) fn reference_write(table: &str) -> Error {
    refuse(format!("a write to reference table \"{table}\" on all shards is not supported yet"), PER_SHARD)
        .because("reference_write")
}

pub(super) fn mixed(sharded: &str, unlisted: &str) -> Error {
    refuse(
        format!(
            "table \"{unlisted}\" lives on the default shard only and cannot be joined with sharded table \"{sharded}\""
        ),
        "Send one statement for each table, or make it a reference table in the configuration.",
    )
    .because("unlisted_join")
}

pub(super) fn several(table: &str) -> Error {
    refuse(
        format!("a statement on more than one sharded table, or twice on \"{table}\", is not supported yet"),
        "Send one statement for each, or choose one shard with SET pgweir.shard = 'name' to see its rows only.",
    )
    .because("several_tables")
}

pub(super) fn nested(table: &str, nested: &str) -> Error {
    refuse(
        format!("cannot tell the shard of table \"{table}\" in a statement with {nested}"),
        "Ask for the sharded table at the top level, with its key in WHERE, or choose one shard with SET pgweir.shard = 'name'.",
    )
    .because("sub_query")
}

pub(super) fn nested_write(nested: &str) -> Error {
    refuse(
        format!("a write to sharded tables with {nested} is not supported: its keys cannot be checked"),
        "Split it into plain statements.",
    )
    .because("sub_query_write")
}

pub(super) fn keys_distrusted(why: &str) -> Error {
    refuse(
        format!("statements by sharding key are refused, for the shards are not as they must be: {why}"),
        "SHOW SHARDS on the console tells more; until it is mended, choose the shard with SET pgweir.shard = 'name'.",
    )
    .because("distrust")
}

pub(super) fn table_distrusted(table: &str, why: &str) -> Error {
    refuse(
        format!("the sharding key of table \"{table}\" cannot be trusted to say the shard: {why}"),
        "SHOW SHARDS on the console tells more; until it is mended, choose the shard with SET pgweir.shard = 'name'.",
    )
    .because("distrust")
}

pub(super) fn lost() -> Error {
    Error::us(SqlState::INTERNAL_ERROR, "the statement's sharded table was lost")
}

pub(super) fn no_key(table: &str, key: &str) -> Error {
    refuse(format!("cannot tell the shard: no condition ties \"{key}\" of table \"{table}\" to one constant"), GIVE_KEY)
        .because("no_key")
}

pub(super) fn ambiguous(table: &str, key: &str) -> Error {
    refuse(
        format!("column \"{key}\" is not qualified, so it may not be the sharding key of table \"{table}\""),
        "Qualify the column with the table's name or alias.",
    )
    .because("no_key")
}

pub(super) fn contradictory() -> Error {
    refuse(
        "the statement compares its sharding key with two different values".to_owned(),
        "No row can match both: ask for one.",
    )
    .because("contradiction")
}

pub(super) fn key_assigned(table: &str, key: &str) -> Error {
    refuse(
        format!(
            "the sharding key \"{key}\" of table \"{table}\" cannot be changed: the row may belong to another shard then"
        ),
        "Delete the row and insert it with the new key.",
    )
    .because("key_update")
}

pub(super) fn no_column_list(table: &str, key: &str) -> Error {
    refuse(
        format!(
            "INSERT into sharded table \"{table}\" without a column list: the columns are not the same on all shards, or not known yet, so that \
             nothing tells which value is \"{key}\""
        ),
        "Write the column list.",
    )
    .because("columns")
}

pub(super) fn key_by_default(table: &str, key: &str) -> Error {
    refuse(
        format!(
            "INSERT into sharded table \"{table}\" leaves its sharding key \"{key}\" to the column's default, which only the server knows"
        ),
        "Give the key as a constant or a parameter in every row.",
    )
    .because("no_key")
}

pub(super) fn no_key_given(table: &str, key: &str) -> Error {
    refuse(
        format!("INSERT into sharded table \"{table}\" does not give its sharding key \"{key}\""),
        "Give the key as a constant or a parameter in every row.",
    )
    .because("no_key")
}

pub(super) fn trailing_space(table: &str, key: &str) -> Error {
    refuse(
        format!("the sharding key \"{key}\" of table \"{table}\" ends in a space, which varchar(n) may cut"),
        "Cut the spaces before the insert.",
    )
    .because("bad_key")
}

pub(super) fn bad_key(table: &str, key: &str, error: KeyError) -> Error {
    let refused = |what: &str| {
        refuse(
            format!("cannot tell the shard: the sharding key \"{key}\" of table \"{table}\" is {what}"),
            "Give the key as a constant of its type or as a parameter.",
        )
    };
    match error {
        KeyError::Invalid(error) => error,
        KeyError::Null => refused("NULL"),
        KeyError::Default => refused("DEFAULT, which only the server knows"),
        KeyError::NotConstant(what) => refused(what),
        KeyError::Unbound(number) => refused(&format!("${number}, which is not bound")),
        KeyError::Undecided(number) => refuse(
            format!(
                "cannot tell the shard: the type of ${number}, the sharding key \"{key}\" of table \"{table}\", depends on which of \
                 its uses the server comes to first"
            ),
            "Declare the parameter's type in Parse, or cast it to the key's type wherever it stands, as in $1::bigint.",
        ),
    }
}

pub(super) fn rows_disagree(table: &str, one: &str, other: &str) -> Error {
    refuse(
        format!("the rows of an INSERT into \"{table}\" belong to different shards, \"{one}\" and \"{other}\""),
        "Send one INSERT for each row or shard.",
    )
    .because("shards_disagree")
}

pub(super) fn rows_differ(table: &str) -> Error {
    refuse(
        format!("the rows of an INSERT or MERGE into \"{table}\" belong to different shards, or may: within other queries every value that a column gets counts with every one of another"),
        "Send one statement for each row or shard, or a plain INSERT, which is looked at row by row.",
    )
    .because("shards_disagree")
}

pub(super) fn shards_differ(one: &str, other: &str) -> Error {
    refuse(
        format!(
            "the queries of the statement are about different shards, \"{one}\" and \"{other}\", by their sharding keys"
        ),
        "Send one statement for each shard, and bring the answers together in the application.",
    )
    .because("shards_disagree")
}

pub(super) fn insert_reads_sharded(table: &str) -> Error {
    refuse(
        format!("INSERT into \"{table}\" with another sharded table in the statement is not supported yet"),
        "Read the values first and insert them as constants.",
    )
    .because("insert_reads")
}

pub(super) fn insert_reads_others(table: &str) -> Error {
    refuse(
        format!(
            "INSERT into \"{table}\" with another table in the statement is not supported yet on a sharded database"
        ),
        "Read the values first and insert them as constants.",
    )
    .because("insert_reads")
}

const SCATTER: &str = "Tie it to one shard by a condition key = constant or key = $n that is ANDed at the top level of WHERE, \
    or choose one shard with SET pgweir.shard = 'name'.";

/// `why` completes the sentence.
pub(super) fn unfit(why: &str, hint: Option<&'static str>) -> Error {
    refuse(format!("a statement {why} cannot be answered by several shards"), hint.unwrap_or(SCATTER))
}

pub(super) fn cascades() -> Error {
    refuse(
        "TRUNCATE ... CASCADE on a sharded database is not supported: it may empty sharded tables on one shard only"
            .to_owned(),
        PER_SHARD,
    )
    .because("cascade")
}

pub(super) fn one_place(function: &str) -> Error {
    refuse(
        format!(
            "{function}() beside a sharding key is not supported: its effect would be on the key's shard, and not where others look for it"
        ),
        "Call it in a statement of its own, or choose the shard with SET pgweir.shard = 'name'.",
    )
    .because("one_place")
}

pub(super) fn size_of_part(table: &str) -> Error {
    refuse(
        format!("the size of table \"{table}\" is that of its parts on all shards together, which no shard can tell"),
        "Ask each shard in turn after SET pgweir.shard = 'name'.",
    )
    .because("size")
}

pub(super) fn conflict_not_by_key(table: &str, key: &str) -> Error {
    refuse(
        format!(
            "ON CONFLICT without the sharding key \"{key}\" of table \"{table}\" is not supported: the row it is to find may be on another shard"
        ),
        "Name the columns of a unique index with the sharding key among them.",
    )
    .because("on_conflict")
}

pub(super) fn reference_lock(table: &str) -> Error {
    refuse(
        format!(
            "a lock on rows of reference table \"{table}\" is not supported: it would hold on one of its copies only"
        ),
        "Write FOR UPDATE OF with the other tables.",
    )
    .because("reference_lock")
}

pub(super) fn own_type() -> Error {
    refuse(
        "a parameter of a type that is not PostgreSQL's own cannot be sent to another shard than the default one: the type has another number there".to_owned(),
        "Declare its type as text or leave it out, and write a cast: $1::mood.",
    )
    .because("parameter_type")
}

pub(super) fn write_distrusted(table: &str, why: &str) -> Error {
    refuse(
        format!("writes of table \"{table}\" may reach rows that are not on its shard: {why}"),
        "SHOW SHARDS on the console tells more; until it is mended, choose the shard with SET pgweir.shard = 'name'.",
    )
    .because("distrust")
}

pub(super) fn reference_distrusted(table: &str, why: &str) -> Error {
    refuse(
        format!("reference table \"{table}\" cannot be trusted to be the same on all shards: {why}"),
        "SHOW SHARDS on the console tells more; until it is mended, choose the shard with SET pgweir.shard = 'name'.",
    )
    .because("distrust")
}

const FINISH: &str =
    "Select the keys and aggregates themselves and compute in the application, or group by the sharding key.";

/// A value cannot go back to a shard.
pub(super) fn not_sent_back(type_oid: u32) -> Error {
    let why = format!("values of the type with OID {type_oid} would have to be sent to one of them");
    refuse(format!("several shards cannot answer: for HAVING, expressions over groups or the order, {why}"), FINISH)
        .because("merge_type")
}

/// A text is compared by nothing that is known.
pub(super) fn no_collation() -> Error {
    refuse("several shards cannot answer: the collation of a text that decides is not known".to_owned(), FINISH)
        .because("collation")
}

pub(super) fn shadowed_aggregate(name: &str) -> Error {
    refuse(
        format!(
            "several shards cannot answer: \"{name}\" may mean an aggregate, a window function or a set that is not PostgreSQL's own"
        ),
        "Write pg_catalog before the function if PostgreSQL's own is meant, or a column without the table's name.",
    )
    .because("function")
}

pub(super) fn scatter_distrusted(why: &str) -> Error {
    refuse(
        format!("several shards cannot answer, as they may not answer alike: {why}"),
        "SHOW SHARDS on the console tells more; until it is mended, tie the statement to one shard by its sharding key or SET pgweir.shard = 'name'.",
    )
    .because("distrust")
}

pub(super) fn rekeys(table: &str, key: &str) -> Error {
    refuse(
        format!("it may give rows of table \"{table}\" another sharding key \"{key}\" than they lie by, and nobody would find them"),
        "Make a new table with the key as it is to be, and copy the rows into it through pgweir. What changes no row, as a name that the configuration is to have as well, can be run on each shard in turn after SET pgweir.shard = 'name'.",
    )
    .because("key_altered")
}

pub(super) fn writes_differ(why: &str) -> Error {
    refuse(
        format!("several shards cannot be written by one statement, as they may not do alike: {why}"),
        "SHOW SHARDS on the console tells more; until it is mended, tie the statement to one shard by its sharding key, or write each in turn after SET pgweir.shard = 'name'.",
    )
    .because("distrust")
}

pub(super) fn scatter_shares(what: &str) -> Error {
    refuse(
        format!("{what} cannot go together when one of them reads several shards"),
        "Send the statement that reads several shards by itself, with a Sync of its own.",
    )
    .because("pipeline")
}

pub(super) fn fan_shares(what: &str) -> Error {
    refuse(
        format!("{what} cannot go together when one of them writes on several shards"),
        "Send the statement that writes on several shards by itself, with a Sync of its own.",
    )
    .because("pipeline")
}

/// As PostgreSQL says it.
pub(super) fn negative_bound(what: &str) -> Error {
    let sqlstate =
        if what == "LIMIT" { SqlState::INVALID_ROW_COUNT_IN_LIMIT } else { SqlState::INVALID_ROW_COUNT_IN_OFFSET };
    Error::client(sqlstate, format!("{what} must not be negative"))
}

pub(super) fn bad_bound(what: &str) -> Error {
    refuse(
        format!("the parameter of {what} cannot be read"),
        "Give a number that is not negative, as text or as a binary int2, int4 or int8.",
    )
    .because("limit")
}
