//! Hand-built shapes: the parser that makes them has its own tests.

use proptest::prelude::*;

mod columns;
mod ddl;
mod doubts;
mod levels;
mod several;

use super::*;
use crate::error::SqlState;
use crate::sql::facts::{ColumnRef, Hints, KeyValue, LiteralKind, Mentions};
use crate::sql::touch::Touch;

/// orders and customers by bigint, codes by text, devices by uuid, countries everywhere, the rest on s0. The slots of the
/// keys used below: 1 is 4024 (s0), 2 is 8570 (s1), 42 is 6754 (s0), -1 is 12197 (s1), 'abc' is 2725, 'abcd' is 6481,
/// 'abcdefgh' is 15253 (s1).
fn map() -> ShardMap {
    let sharded = |key: &str, key_type| Table::sharded(key, key_type);
    let int8 = KeyType::Integer { width: 8 };
    let tables = [
        ("public", "orders", sharded("customer_id", int8)),
        ("public", "customers", sharded("id", int8)),
        ("public", "codes", sharded("code", KeyType::Text)),
        ("public", "carts", sharded("code", KeyType::Tagged)),
        ("public", "lines", sharded("code", KeyType::Tagged)),
        ("public", "devices", sharded("id", KeyType::Uuid)),
        ("public", "countries", Table::Reference),
        ("audit", "log", sharded("id", KeyType::Integer { width: 4 })),
    ];
    ShardMap::new(
        vec!["s0".into(), "s1".into()],
        vec![vec![(0, 8191)], vec![(8192, 16383)]],
        tables.into_iter().map(|(schema, name, table)| ((schema.into(), name.into()), table)).collect(),
        ShardIndex(0),
    )
    .unwrap()
}

static TRUST: Distrust = Distrust {
    keys: None,
    beyond_ascii: false,
    tables: std::collections::BTreeMap::new(),
    writes: std::collections::BTreeMap::new(),
    updates: std::collections::BTreeMap::new(),
    deletes: std::collections::BTreeMap::new(),
    loose: std::collections::BTreeSet::new(),
    loose_keys: std::collections::BTreeSet::new(),
    scatter: None,
    scatter_of: std::collections::BTreeMap::new(),
    two_phase: None,
    columns: std::collections::BTreeMap::new(),
};

fn context(map: &ShardMap) -> PlanContext<'_> {
    PlanContext {
        map,
        text: None,
        among: None,
        bound: None,
        sharding_key: None,
        shard: None,
        utf8: true,
        default_search_path: true,
        own_search_path: false,
        distrust: &TRUST,
        changed_role: false,
        catalog: None,
        own: Own::None,
    }
}

fn table(name: &str) -> TableRef {
    let (schema, name) = name.split_once('.').map_or((None, name), |(s, n)| (Some(s.to_owned()), n));
    let (name, alias) = name.split_once(' ').map_or((name, None), |(n, a)| (n, Some(a.to_owned())));
    TableRef { schema, name: name.to_owned(), alias }
}

/// "orders o, countries" as tables.
fn tables(names: &str) -> Vec<TableRef> {
    names.split(", ").filter(|n| !n.is_empty()).map(table).collect()
}

fn column(name: &str) -> ColumnRef {
    let mut qualifier: Vec<String> = name.split('.').map(str::to_owned).collect();
    let column = qualifier.pop().unwrap();
    ColumnRef { qualifier, column }
}

fn int(value: i64) -> KeyValue {
    KeyValue::Literal { kind: LiteralKind::Integer, text: value.to_string(), cast: None }
}

fn string(value: &str) -> KeyValue {
    KeyValue::Literal { kind: LiteralKind::String, text: value.to_owned(), cast: None }
}

fn param(number: u16) -> KeyValue {
    KeyValue::Param { number, cast: None }
}

fn statement(access: Access, shape: ShardShape) -> StatementFacts {
    StatementFacts {
        access,
        own_access: access,
        plainly_reads: false,
        functions: Vec::new(),
        mentions: Mentions::default(),
        why: "",
        transaction: TransactionEffect::None,
        savepoint: None,
        effects: Vec::new(),
        name_use: None,
        prepared: None,
        changes_catalog: false,
        changes_code: false,
        own_code: false,
        block: None,
        local_search_path: false,
        locals: Vec::new(),
        temp_in_path: false,
        calls_set_config: false,
        takes_lock: false,
        ends_state: false,
        plan: crate::sql::facts::Plan::None,
        pids: false,
        listens: false,
        repeated: Vec::new(),
        shape,
        touch: Touch::default(),
    }
}

fn filtered(verb: Verb, names: &str, equalities: &[(&str, KeyValue)]) -> StatementFacts {
    let access = if verb == Verb::Select { Access::Read } else { Access::Write };
    let equalities = equalities.iter().map(|(c, v)| (column(c), v.clone())).collect();
    let (tables, top, assigned) = (tables(names), tables(names), Vec::new());
    statement(access, ShardShape::Filtered { verb, tables, top, equalities, assigned, nested: None })
}

fn select(names: &str, equalities: &[(&str, KeyValue)]) -> StatementFacts {
    filtered(Verb::Select, names, equalities)
}

/// The same with tables below the top level.
fn nesting(mut facts: StatementFacts, more: &str) -> StatementFacts {
    if let ShardShape::Filtered { tables: all, nested, .. } = &mut facts.shape {
        all.extend(tables(more));
        *nested = Some("a sub-query");
    }
    facts
}

fn assigning(mut facts: StatementFacts, column: &str) -> StatementFacts {
    if let ShardShape::Filtered { assigned, .. } | ShardShape::Insert { assigned, .. } = &mut facts.shape {
        assigned.push(column.to_owned());
    }
    facts
}

fn writing(mut facts: StatementFacts) -> StatementFacts {
    facts.access = Access::Write;
    facts
}

fn insert(names: &str, columns: &str, rows: &[&[KeyValue]]) -> StatementFacts {
    let columns = (!columns.is_empty()).then(|| columns.split(", ").map(str::to_owned).collect());
    let rows = rows.iter().map(|row| row.to_vec()).collect();
    statement(Access::Write, ShardShape::Insert { tables: tables(names), columns, rows, assigned: Vec::new() })
}

fn other(what: &'static str, names: &str) -> StatementFacts {
    statement(Access::Write, ShardShape::Other { tables: tables(names), what })
}

fn no_tables(access: Access) -> StatementFacts {
    statement(access, ShardShape::NoTables)
}

fn query(statements: Vec<StatementFacts>) -> QueryFacts {
    QueryFacts { statements, ..QueryFacts::default() }
}

/// A plan as one word: the shard's name, "any", "$n" or the SQLSTATE.
fn word(plan: &ShardPlan) -> String {
    match plan {
        ShardPlan::Single { shard, .. } => format!("s{shard}"),
        ShardPlan::AnyShard { .. } => "any".to_owned(),
        ShardPlan::NeedsParameter { number } => format!("${number}"),
        ShardPlan::Scatter(scatter) => scatter.shards.iter().map(|s| format!("s{s}")).collect::<Vec<_>>().join("+"),
        ShardPlan::Fan(fan) => fan.shards.iter().map(|s| format!("s{s}")).collect::<Vec<_>>().join("&"),
        ShardPlan::Reject(error) => {
            assert!(error.sqlstate != SqlState::INTERNAL_ERROR, "{error}");
            assert!(error.sqlstate != SqlState::FEATURE_NOT_SUPPORTED || error.hint.is_some(), "no hint: {error}");
            error.sqlstate.to_string()
        }
    }
}

fn message(plan: ShardPlan) -> String {
    match plan {
        ShardPlan::Reject(error) => error.message,
        other => panic!("not refused: {other:?}"),
    }
}

/// Plans each and compares with what is wanted; all mistakes are shown at once.
fn check(cx: &PlanContext<'_>, cases: Vec<(&str, StatementFacts, &str)>) {
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(what, facts, wanted)| {
            let plan = plan_statement(&facts, cx);
            (word(&plan) != wanted).then(|| format!("{what}: wanted {wanted}, got {plan:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const NO: &str = "0A000";

#[test]
fn one_shard_takes_everything() {
    let single = ShardMap::single();
    let cx = context(&single);
    check(
        &cx,
        vec![
            ("no key", select("orders", &[]), "s0"),
            ("ddl", other("CREATE TABLE", "orders"), "s0"),
            ("neutral", no_tables(Access::Neutral), "s0"),
        ],
    );
    let unparsed = QueryFacts { unparsed: Some(("syntax error".into(), Some(1))), ..QueryFacts::default() };
    let plan = plan_query(&unparsed, &cx);
    assert_eq!(plan, ShardPlan::Single { shard: ShardIndex(0), why: Why::Unsharded });
}

#[test]
fn a_key_at_the_top_level_proves_the_shard() {
    let map = map();
    check(
        &context(&map),
        vec![
            ("unqualified", select("orders", &[("customer_id", int(1))]), "s0"),
            ("other shard", select("orders", &[("customer_id", int(2))]), "s1"),
            ("string for an integer key", select("orders", &[("customer_id", string("2"))]), "s1"),
            ("by name", select("orders", &[("orders.customer_id", int(2))]), "s1"),
            ("by schema and name", select("orders", &[("public.orders.customer_id", int(2))]), "s1"),
            ("by catalog", select("public.orders", &[("app.public.orders.customer_id", int(2))]), "s1"),
            ("by alias", select("orders o", &[("o.customer_id", int(2))]), "s1"),
            ("name hidden by the alias", select("orders o", &[("orders.customer_id", int(2))]), NO),
            ("schema hidden by the alias", select("orders o", &[("public.orders.customer_id", int(2))]), NO),
            ("another schema", select("orders", &[("other.orders.customer_id", int(2))]), NO),
            ("another column", select("orders", &[("id", int(2))]), NO),
            ("folded otherwise", select("orders", &[("Customer_id", int(2))]), NO),
            ("listed schema", select("audit.log", &[("id", int(2))]), "s1"),
            ("same name elsewhere is not listed", select("log", &[("id", int(2))]), "s0"),
            ("update", filtered(Verb::Update, "orders", &[("customer_id", int(2))]), "s1"),
            ("delete", filtered(Verb::Delete, "orders", &[("customer_id", int(1))]), "s0"),
            ("for update", writing(select("orders", &[("customer_id", int(2))])), "s1"),
            (
                "update of another column",
                { assigning(filtered(Verb::Update, "orders", &[("customer_id", int(2))]), "total") },
                "s1",
            ),
            ("text key", select("codes", &[("code", string("abcdefgh"))]), "s1"),
            ("uuid key", select("devices", &[("id", string("{00000000-0000-0000-0000-000000000000}"))]), "s1"),
            (
                "extra expression",
                { select("orders", &[("customer_id", int(2)), ("customer_id", KeyValue::Expression)]) },
                "s1",
            ),
            ("extra NULL", select("orders", &[("customer_id", KeyValue::Null), ("customer_id", int(2))]), "s1"),
            ("twice the same", select("orders", &[("customer_id", int(2)), ("customer_id", string("2"))]), "s1"),
            ("two values", select("orders", &[("customer_id", int(2)), ("customer_id", int(1))]), NO),
            ("two values of one shard", select("orders", &[("customer_id", int(1)), ("customer_id", int(42))]), NO),
        ],
    );
    let plan = plan_statement(&select("orders", &[("customer_id", int(2))]), &context(&map));
    assert_eq!(plan, ShardPlan::Single { shard: ShardIndex(1), why: Why::Key(Slot(8570)) });
}

/// What peers get wrong. Of most of these the shape says only that there is no equality at the top level:
/// `count(*) FILTER (WHERE key=1)`, `CASE WHEN key=1`, `ORDER BY (key=1)`, `SET f=(key=5)`, `key+1=5`, OR and NOT.
#[test]
fn what_is_no_proof_is_refused() {
    let map = map();
    let key = |value| [("customer_id", value)];
    check(
        &context(&map),
        vec![
            ("count(*) FILTER, CASE, ORDER BY", select("orders", &[]), NO),
            ("UPDATE t SET f=(key=5)", assigning(filtered(Verb::Update, "orders", &[]), "f"), NO),
            ("DELETE of all", filtered(Verb::Delete, "orders", &[]), NO),
            ("key=1+4", select("orders", &key(KeyValue::Expression)), NO),
            ("key=NULL", select("orders", &key(KeyValue::Null)), NO),
            (
                "key=4.0",
                {
                    let float = KeyValue::Literal { kind: LiteralKind::Float, text: "4.0".into(), cast: None };
                    select("orders", &key(float))
                },
                NO,
            ),
            (
                "key='4'::numeric",
                {
                    let cast =
                        KeyValue::Literal { kind: LiteralKind::String, text: "4".into(), cast: Some("numeric".into()) };
                    select("orders", &key(cast))
                },
                NO,
            ),
            ("text key = 123", select("codes", &[("code", int(123))]), NO),
            ("not a number", select("orders", &key(string("abc"))), "22P02"),
            (
                "SELECT EXISTS(SELECT 1 FROM t)",
                {
                    let mut facts = nesting(select("", &[]), "orders");
                    facts.access = Access::Read;
                    facts
                },
                NO,
            ),
            ("UNION", nesting(select("orders", &key(int(1))), "orders"), NO),
            ("CTE", nesting(select("orders", &key(int(1))), ""), NO),
            (
                "nested but not said so",
                {
                    let mut facts = select("", &[]);
                    if let ShardShape::Filtered { tables: all, .. } = &mut facts.shape {
                        *all = tables("orders");
                    }
                    facts
                },
                NO,
            ),
            ("non-key join", select("orders o, customers c", &[("o.customer_id", int(1))]), NO),
            ("self-join", select("orders a, orders b", &[("a.customer_id", int(1)), ("b.customer_id", int(1))]), NO),
            ("sharded and unlisted", select("orders o, notes n", &[("o.customer_id", int(1))]), NO),
            ("MERGE", other("MERGE", "orders, notes"), NO),
            ("INSERT ... SELECT", other("INSERT ... SELECT", "orders"), NO),
            ("COPY", other("COPY", "orders"), NO),
            ("cursor", other("DECLARE CURSOR", "orders"), NO),
            ("TRUNCATE", other("TRUNCATE", "notes, countries"), NO),
        ],
    );
}

#[test]
fn reference_tables_are_read_anywhere_and_join_freely() {
    let map = map();
    check(
        &context(&map),
        vec![
            ("read", select("countries", &[]), "any"),
            ("read in a sub-query", nesting(select("countries", &[]), "countries"), "any"),
            ("join", select("orders o, countries c", &[("o.customer_id", int(2))]), "s1"),
            ("join the other way round", select("countries c, orders", &[("orders.customer_id", int(2))]), "s1"),
            ("join with a key unqualified", select("orders o, countries c", &[("customer_id", int(2))]), NO),
            ("equality on the reference table", select("orders o, countries c", &[("c.customer_id", int(2))]), NO),
            ("with an unlisted table", select("notes, countries", &[]), "s0"),
            ("FOR UPDATE", writing(select("countries", &[])), NO),
            ("update", filtered(Verb::Update, "countries", &[]), NO),
            ("delete", filtered(Verb::Delete, "countries", &[]), NO),
            ("update from an unlisted one", filtered(Verb::Update, "countries, notes", &[]), NO),
            (
                "update from a sharded one",
                filtered(Verb::Update, "countries, orders", &[("orders.customer_id", int(1))]),
                NO,
            ),
            (
                "sharded updated from it",
                filtered(Verb::Update, "orders, countries", &[("orders.customer_id", int(2))]),
                "s1",
            ),
            ("unlisted updated from it", filtered(Verb::Update, "notes, countries", &[]), "s0"),
            ("written by a WITH", writing(nesting(select("notes", &[]), "countries")), NO),
            ("insert", insert("countries", "id", &[&[int(1)]]), NO),
            ("DDL", other("ALTER TABLE", "countries"), NO),
        ],
    );
    let plan = plan_statement(&select("orders o, countries", &[("customer_id", int(2))]), &context(&map));
    assert!(message(plan).contains("not qualified"));
}

#[test]
fn what_is_not_listed_lives_on_the_default_shard() {
    let mut map = map();
    map.default_shard = ShardIndex(1);
    let mut listen = no_tables(Access::Neutral);
    listen.effects.push(SessionEffect::Pin(PinReason::Listen));
    let mut set = no_tables(Access::Write);
    set.effects.push(SessionEffect::Set { name: "work_mem".into(), value: "1MB".into() });
    check(
        &context(&map),
        vec![
            ("select", select("notes", &[]), "s1"),
            ("nested", nesting(select("notes", &[]), "more"), "s1"),
            ("update", filtered(Verb::Update, "notes", &[]), "s1"),
            ("insert", insert("notes", "", &[&[int(1)]]), "s1"),
            ("insert with a sub-query", insert("notes, more", "", &[&[KeyValue::Expression]]), "s1"),
            ("DDL", other("CREATE TABLE", "notes"), "s1"),
            ("DDL without tables", other("CREATE ROLE", ""), NO),
            ("SELECT 1", no_tables(Access::Read), "any"),
            ("SELECT nextval('s')", no_tables(Access::Write), "s1"),
            ("LISTEN", listen, "s1"),
            ("SET", set, "any"),
            ("SHOW", no_tables(Access::Neutral), "any"),
        ],
    );
}

#[test]
fn transaction_control_goes_where_the_transaction_is() {
    let map = map();
    let of = |transaction| StatementFacts { transaction, ..no_tables(Access::Write) };
    for shard in [None, Some("s1"), Some("nowhere")] {
        let cx = PlanContext { shard, ..context(&map) };
        for effect in [
            TransactionEffect::Begin { read_only: false },
            TransactionEffect::Commit { chain: false },
            TransactionEffect::Rollback { chain: true },
            TransactionEffect::Savepoint,
            TransactionEffect::RollbackTo,
            TransactionEffect::Release,
            TransactionEffect::PrepareTransaction,
        ] {
            assert_eq!(word(&plan_statement(&of(effect), &cx)), "any", "{effect:?}");
        }
    }
    let finish = of(TransactionEffect::FinishPrepared);
    assert_eq!(word(&plan_statement(&finish, &context(&map))), NO);
    assert_eq!(word(&plan_statement(&finish, &PlanContext { shard: Some("s1"), ..context(&map) })), "s1");
}

#[test]
fn inserts_say_their_key_in_every_row() {
    let map = map();
    let default = KeyValue::Default;
    check(
        &context(&map),
        vec![
            ("one row", insert("orders", "id, customer_id", &[&[int(1), int(2)]]), "s1"),
            ("other columns are no matter", insert("orders", "customer_id, x", &[&[int(1), default.clone()]]), "s0"),
            ("alias", insert("orders o", "customer_id", &[&[int(2)]]), "s1"),
            ("no column list", insert("orders", "", &[&[int(1), int(2)]]), NO),
            ("key not in the list", insert("orders", "id", &[&[int(1)]]), NO),
            ("DEFAULT", insert("orders", "customer_id", &[&[default]]), NO),
            ("NULL", insert("orders", "customer_id", &[&[KeyValue::Null]]), NO),
            ("expression", insert("orders", "customer_id", &[&[KeyValue::Expression]]), NO),
            ("no rows", insert("orders", "customer_id", &[]), NO),
            ("short row", insert("orders", "id, customer_id", &[&[int(1)]]), NO),
            ("rows of one shard", insert("orders", "customer_id", &[&[int(2)], &[int(-1)], &[string("2")]]), "s1"),
            ("rows of two shards", insert("orders", "customer_id", &[&[int(1)], &[int(42)], &[int(2)]]), NO),
            ("one row without", insert("orders", "customer_id", &[&[int(1)], &[KeyValue::Null]]), NO),
            (
                "ON CONFLICT of another column",
                { assigning(insert("orders", "customer_id", &[&[int(2)]]), "total") },
                "s1",
            ),
            ("ON CONFLICT of the key", assigning(insert("orders", "customer_id", &[&[int(2)]]), "customer_id"), NO),
            ("a reference table beside", insert("orders, countries", "customer_id", &[&[int(2)]]), NO),
            ("a sharded table beside", insert("orders, customers", "customer_id", &[&[int(2)]]), NO),
            ("unlisted with a sharded one beside", insert("notes, orders", "", &[&[KeyValue::Expression]]), NO),
            ("varchar key '123'", insert("codes", "code", &[&[string("abcd")]]), "s0"),
            ("integer into a text key", insert("codes", "code", &[&[int(123)]]), NO),
            ("varchar(n) cuts spaces", insert("codes", "code", &[&[string("abc ")]]), NO),
            ("wrong uuid", insert("devices", "id", &[&[string("x")]]), "22P02"),
        ],
    );
    let plan = plan_statement(&insert("orders", "customer_id", &[&[int(1)], &[int(42)]]), &context(&map));
    assert_eq!(plan, ShardPlan::Single { shard: ShardIndex(0), why: Why::Rows(2) });
}

#[test]
fn the_key_is_never_assigned() {
    let map = map();
    let update = assigning(filtered(Verb::Update, "orders", &[("customer_id", int(2))]), "customer_id");
    let upsert = assigning(insert("orders", "customer_id", &[&[int(2)]]), "customer_id");
    for (shard, sharding_key) in [(None, None), (Some("s1"), None), (None, Some("2"))] {
        let cx = PlanContext { shard, sharding_key, ..context(&map) };
        check(&cx, vec![("update", update.clone(), NO), ("upsert", upsert.clone(), NO)]);
    }
    // The column of that name in another table is no key.
    let free = assigning(filtered(Verb::Update, "notes", &[]), "customer_id");
    check(&context(&map), vec![("unlisted", free, "s0")]);
}

#[test]
fn a_chosen_shard_is_held_against_the_keys() {
    let map = map();
    let key = |value| [("customer_id", value)];
    check(
        &PlanContext { shard: Some("s1"), ..context(&map) },
        vec![
            ("agrees", select("orders", &key(int(2))), "s1"),
            ("contradicts", select("orders", &key(int(1))), NO),
            ("a join contradicts", select("orders o, customers c", &[("c.id", int(1))]), NO),
            ("a join agrees", select("orders o, customers c", &[("c.id", int(2))]), "s1"),
            ("no key", select("orders", &[]), "s1"),
            ("no constant", select("orders", &key(KeyValue::Expression)), "s1"),
            ("nested", nesting(select("orders", &[]), "customers"), "s1"),
            ("with unlisted", select("orders, notes", &[]), "s1"),
            ("update", filtered(Verb::Update, "orders", &[]), "s1"),
            ("nested write", nesting(filtered(Verb::Delete, "orders", &[]), "orders"), NO),
            ("parameter to come", select("orders", &key(param(1))), "$1"),
            ("insert agrees", insert("orders", "customer_id", &[&[int(2)]]), "s1"),
            ("insert contradicts", insert("orders", "customer_id", &[&[int(2)], &[int(1)]]), NO),
            ("insert without key", insert("orders", "id", &[&[int(2)]]), NO),
            ("insert without list", insert("orders", "", &[&[int(2)]]), NO),
            ("insert beside a reference", insert("orders, countries", "customer_id", &[&[int(2)]]), "s1"),
            ("insert beside a sharded one", insert("orders, customers", "customer_id", &[&[int(2)]]), NO),
            ("insert into a reference", insert("countries", "id", &[&[int(2)]]), "s1"),
            ("insert into an unlisted", insert("notes", "id", &[&[int(2)]]), "s1"),
            ("update of a reference", filtered(Verb::Update, "countries", &[]), "s1"),
            ("read of a reference", select("countries", &[]), "s1"),
            ("read of an unlisted", select("notes", &[]), "s1"),
            ("DDL", other("CREATE TABLE", "orders"), "s1"),
            ("DDL on several", other("TRUNCATE", "orders, codes"), "s1"),
            ("INSERT ... SELECT", other("INSERT ... SELECT", "orders"), NO),
            ("COPY FROM", other("COPY", "orders"), NO),
            ("COPY TO", StatementFacts { access: Access::Read, why: "COPY TO", ..other("COPY", "orders") }, "s1"),
            ("COPY FROM into a reference", other("COPY", "countries"), "s1"),
            ("SELECT 1", no_tables(Access::Read), "s1"),
            ("nextval", no_tables(Access::Write), "s1"),
            ("SET", no_tables(Access::Neutral), "any"),
        ],
    );
    check(
        &PlanContext { shard: Some("nowhere"), ..context(&map) },
        vec![
            ("unknown shard", select("orders", &key(int(2))), "22023"),
            ("SET still works", no_tables(Access::Neutral), "any"),
        ],
    );
    check(&PlanContext { shard: Some(""), ..context(&map) }, vec![("empty", select("orders", &[]), NO)]);
}

#[test]
fn a_chosen_key_is_held_against_the_keys() {
    let map = map();
    let key = |value| [("customer_id", value)];
    check(
        &PlanContext { sharding_key: Some("2"), ..context(&map) },
        vec![
            ("agrees", select("orders", &key(int(2))), "s1"),
            ("another key of the same shard", select("orders", &key(int(-1))), NO),
            ("no key", select("orders", &[]), "s1"),
            ("insert agrees", insert("orders", "customer_id", &[&[int(2)]]), "s1"),
            ("insert contradicts", insert("orders", "customer_id", &[&[int(1)]]), NO),
            // '2' as text is another key.
            ("text key", select("codes", &[("code", string("2"))]), &format!("s{}", map.owner(Key::Text(b"2").slot()))),
            ("no type to read it by", no_tables(Access::Read), NO),
            ("keys of two types", select("orders, codes", &[]), NO),
            ("SET", no_tables(Access::Neutral), "any"),
        ],
    );
    check(
        &PlanContext { sharding_key: Some("abc"), ..context(&map) },
        vec![("no number", select("orders", &[]), "22P02"), ("a text", select("codes", &[]), "s0")],
    );
    check(
        &PlanContext { sharding_key: Some("{abcd"), ..context(&map) },
        vec![("text and tag", select("codes, carts", &[]), NO)],
    );
    check(
        &PlanContext { sharding_key: Some("x{abcdefgh}"), ..context(&map) },
        vec![
            ("by its tag", select("carts", &[]), "s1"),
            ("agrees with a key of the same tag", select("carts", &[("code", string("{abcdefgh}y"))]), "s1"),
            ("contradicts another", select("carts", &[("code", string("abc"))]), NO),
        ],
    );
    let both = PlanContext { sharding_key: Some("2"), shard: Some("s0"), ..context(&map) };
    check(&both, vec![("both, contradicting", select("orders", &[]), NO)]);
    let both = PlanContext { sharding_key: Some("2"), shard: Some("s1"), ..context(&map) };
    check(&both, vec![("both, agreeing", select("orders", &[]), "s1")]);
    // Where all keys are of one family, it needs no table.
    let mut alike = map.clone();
    alike
        .tables
        .retain(|_, table| table.key().is_none_or(|key| matches!(key.columns()[0].key_type, KeyType::Integer { .. })));
    let cx = PlanContext { sharding_key: Some("2"), ..context(&alike) };
    let plan = plan_statement(&no_tables(Access::Read), &cx);
    assert_eq!(plan, ShardPlan::Single { shard: ShardIndex(1), why: Why::KeySetting(Slot(8570)) });
    // A text beyond ASCII means other bytes in another encoding.
    let cx = PlanContext { sharding_key: Some("żółć"), utf8: false, ..context(&map) };
    check(&cx, vec![("encoding", select("codes", &[]), NO)]);
}

#[test]
fn a_changed_search_path_makes_names_doubtful() {
    let map = map();
    check(
        &PlanContext { default_search_path: false, ..context(&map) },
        vec![
            ("doubtful", select("orders", &[("customer_id", int(2))]), NO),
            ("doubtful from another schema", select("log", &[]), NO),
            ("insert", insert("orders", "customer_id", &[&[int(2)]]), NO),
            ("DDL", other("DROP TABLE", "countries"), NO),
            ("qualified", select("public.orders", &[("customer_id", int(2))]), "s1"),
            ("of another schema", select("mine.orders", &[]), "s0"),
            ("not listed anywhere", select("notes", &[]), "s0"),
        ],
    );
}

#[test]
fn parameters_decide_when_they_are_bound() {
    let map = map();
    let by_param = select("orders", &[("customer_id", param(1))]);
    let inserted = insert("orders", "id, customer_id", &[&[int(1), param(1)]]);
    let mixed = select("orders", &[("customer_id", param(1)), ("customer_id", int(2))]);
    check(
        &context(&map),
        vec![
            ("select", by_param.clone(), "$1"),
            ("insert", inserted.clone(), "$1"),
            ("contradiction to come", mixed.clone(), "$1"),
        ],
    );
    let two = 2_i64.to_be_bytes();
    let one: &[Option<&[u8]>] = &[Some(b"1")];
    let cx =
        |values, formats, types| PlanContext { bound: Some(BoundParams { values, formats, types }), ..context(&map) };
    let text: &[Option<&[u8]>] = &[Some(b"2")];
    check(&cx(text, &[], &[]), vec![("text", by_param.clone(), "s1"), ("insert", inserted.clone(), "s1")]);
    let binary: &[Option<&[u8]>] = &[Some(&two)];
    check(&cx(binary, &[1], &[20]), vec![("binary", by_param.clone(), "s1"), ("mixed", mixed.clone(), "s1")]);
    check(&cx(one, &[], &[]), vec![("one", by_param.clone(), "s0"), ("contradiction", mixed, NO)]);
    check(&cx(&[None], &[], &[]), vec![("NULL", by_param.clone(), "s0"), ("NULL inserted", inserted, NO)]);
    check(&cx(&[], &[], &[]), vec![("missing", by_param.clone(), "08P01")]);
    check(&cx(one, &[1], &[]), vec![("wrong length", by_param, "22P03")]);
}

#[test]
fn all_statements_of_a_text_agree() {
    let map = map();
    let cx = context(&map);
    let key = |value| select("orders", &[("customer_id", int(value))]);
    let begin =
        StatementFacts { transaction: TransactionEffect::Begin { read_only: false }, ..no_tables(Access::Neutral) };
    let set = |name: &str, value: &str| StatementFacts {
        effects: vec![SessionEffect::Set { name: name.into(), value: value.into() }],
        ..no_tables(Access::Neutral)
    };
    let reset = StatementFacts {
        effects: vec![SessionEffect::Reset { name: "pgweir.shard".into() }],
        ..no_tables(Access::Neutral)
    };
    let local = StatementFacts { effects: vec![SessionEffect::Pin(PinReason::Setting)], ..no_tables(Access::Neutral) };
    for (statements, wanted) in [
        (vec![], "any"),
        (vec![begin.clone()], "any"),
        (vec![begin.clone(), key(2), begin], "s1"),
        (vec![key(1), key(42)], "s0"),
        (vec![key(1), key(2)], NO),
        (vec![key(2), select("countries", &[]), no_tables(Access::Read)], "s1"),
        (vec![key(2), select("notes", &[])], NO),
        (vec![key(2), no_tables(Access::Write)], NO),
        (vec![key(1), select("notes", &[])], "s0"),
        (vec![key(1), select("orders", &[])], NO),
        (vec![select("orders", &[("customer_id", param(1))]), key(2)], "$1"),
        // A setting of the text holds from there on, not the session's.
        (vec![set("pgweir.shard", "s1"), select("orders", &[])], "s1"),
        (vec![set("pgweir.shard", "s1"), key(1)], NO),
        (vec![set("pgweir.shard", "s1"), reset, key(1)], "s0"),
        (vec![set("pgweir.sharding_key", "2"), select("orders", &[])], "s1"),
        (vec![set("work_mem", "1MB"), key(2)], "s1"),
        (vec![set("search_path", "mine"), key(2)], NO),
        (vec![local, key(2)], NO),
    ] {
        let plan = plan_query(&query(statements.clone()), &cx);
        assert_eq!(word(&plan), wanted, "{statements:?}");
    }
    let chosen = PlanContext { shard: Some("s0"), ..cx };
    let moved = query(vec![set("pgweir.shard", "s1"), select("orders", &[])]);
    assert_eq!(word(&plan_query(&moved, &chosen)), "s1");
}

#[test]
fn hints_take_the_place_of_settings() {
    let map = map();
    let with = |hints| QueryFacts { hints, ..query(vec![select("orders", &[])]) };
    let shard = with(Hints { shard: Some("s1".into()), ..Hints::default() });
    let key = with(Hints { sharding_key: Some("2".into()), ..Hints::default() });
    let broken = with(Hints { error: Some("unknown word \"shrad\"".into()), ..Hints::default() });
    let cx = PlanContext { shard: Some("s0"), ..context(&map) };
    assert_eq!(word(&plan_query(&shard, &cx)), "s1");
    assert_eq!(word(&plan_query(&key, &context(&map))), "s1");
    assert_eq!(word(&plan_query(&key, &cx)), NO);
    assert_eq!(word(&plan_query(&broken, &cx)), "22023");
    assert_eq!(word(&plan_query(&broken, &context(&ShardMap::single()))), "22023");
}

#[test]
fn a_text_that_is_not_sql_is_refused_as_postgresql_would() {
    let map = map();
    let message = "syntax error at or near \"SELEC\"".to_owned();
    let facts = QueryFacts { unparsed: Some((message.clone(), Some(1))), ..QueryFacts::default() };
    let ShardPlan::Reject(error) = plan_query(&facts, &context(&map)) else { panic!("taken") };
    assert_eq!((error.sqlstate, error.message), (SqlState::SYNTAX_ERROR, message));
    assert_eq!(error.detail.as_deref(), Some("The error is at character 1 of the query."));
}

#[test]
fn plans_of_a_pipeline_combine() {
    let single = |shard| ShardPlan::single(ShardIndex(shard), Why::ShardSetting);
    let any = || ShardPlan::AnyShard { why: "" };
    let needs = || ShardPlan::NeedsParameter { number: 3 };
    let no = || ShardPlan::Reject(refusal::contradictory());
    for (a, b, wanted) in [
        (single(0), single(0), "s0"),
        (single(0), single(1), NO),
        (single(1), any(), "s1"),
        (any(), any(), "any"),
        (needs(), single(1), "$3"),
        (needs(), any(), "$3"),
        (no(), single(1), NO),
        (no(), needs(), NO),
        (no(), any(), NO),
    ] {
        assert_eq!(word(&combine(a.clone(), b.clone())), wanted, "{a:?} {b:?}");
        assert_eq!(word(&combine(b.clone(), a.clone())), wanted, "{b:?} {a:?}");
    }
}

#[test]
fn refusals_name_what_they_are_about() {
    let map = map();
    let cx = context(&map);
    for (facts, words) in [
        (select("orders", &[]), ["customer_id", "orders"]),
        (insert("orders", "", &[&[int(1)]]), ["column list", "customer_id"]),
        (insert("orders", "customer_id", &[&[int(1)], &[int(2)]]), ["s0", "s1"]),
        (other("TRUNCATE", "orders"), ["TRUNCATE", "orders"]),
        (select("orders, notes", &[]), ["orders", "notes"]),
        (insert("countries", "", &[&[int(1)]]), ["reference", "countries"]),
    ] {
        let said = message(plan_statement(&facts, &cx));
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

proptest! {
    /// Every row is inserted where its key's slot lives, and is found there, however the key is said.
    #[test]
    fn rows_are_found_where_they_are_inserted(value: i64) {
        let map = map();
        let owner = map.owner(Key::Integer(value).slot());
        let text = value.to_string();
        let (texts, binaries) = ([Some(text.as_bytes())], value.to_be_bytes());
        let binaries = [Some(binaries.as_slice())];
        let literal = context(&map);
        let text_param = PlanContext { bound: Some(BoundParams { values: &texts, formats: &[], types: &[] }), ..literal };
        let binary = BoundParams { values: &binaries, formats: &[1], types: &[20] };
        let binary_param = PlanContext { bound: Some(binary), ..literal };
        for (cx, key) in [(literal, int(value)), (literal, string(&text)), (text_param, param(1)), (binary_param, param(1))] {
            for facts in [
                insert("orders", "customer_id", &[std::slice::from_ref(&key)]),
                select("orders", &[("customer_id", key.clone())]),
                filtered(Verb::Update, "customers c", &[("c.id", key.clone())]),
                filtered(Verb::Delete, "orders, countries", &[("orders.customer_id", key.clone())]),
            ] {
                let plan = plan_statement(&facts, &cx);
                let ShardPlan::Single { shard, why: Why::Key(slot) } = plan else { panic!("{plan:?}") };
                prop_assert_eq!((shard, slot), (owner, Key::Integer(value).slot()));
            }
        }
    }

    #[test]
    fn text_rows_are_found_where_they_are_inserted(value in "[a-zżółć0-9 ]{0,30}") {
        let map = map();
        let cx = context(&map);
        let slot = Key::Text(value.as_bytes()).slot();
        let select = plan_statement(&select("codes", &[("code", string(&value))]), &cx);
        prop_assert_eq!(&select, &ShardPlan::single(map.owner(slot), Why::Key(slot)));
        let insert = plan_statement(&insert("codes", "code", &[&[string(&value)]]), &cx);
        if value.ends_with(' ') { prop_assert_eq!(word(&insert), NO); } else { prop_assert_eq!(insert, select); }
    }

    /// Whatever stands around a tag, it decides.
    #[test]
    fn rows_of_one_tag_are_on_one_shard(tag in "[a-zż{ ]{1,8}", before in "[a-z}ó]{0,8}", after in "[a-z{}ł]{0,8}") {
        let map = map();
        let cx = context(&map);
        let value = format!("{before}{{{tag}}}{after}");
        let slot = Key::Text(tag.as_bytes()).slot();
        let wanted = ShardPlan::single(map.owner(slot), Why::Key(slot));
        for cast in [None, Some("text".to_owned())] {
            let key = KeyValue::Literal { kind: LiteralKind::String, text: value.clone(), cast };
            prop_assert_eq!(&plan_statement(&select("carts", &[("code", key)]), &cx), &wanted);
        }
        let values = [Some(value.as_bytes())];
        for (formats, types) in [(&[][..], &[][..]), (&[1][..], &[25][..])] {
            let cx = PlanContext { bound: Some(BoundParams { values: &values, formats, types }), ..cx };
            prop_assert_eq!(&plan_statement(&insert("carts", "code", &[&[param(1)]]), &cx), &wanted);
        }
    }

    /// Under any settings: an INSERT into a sharded table goes to its keys' shard or nowhere.
    #[test]
    fn no_insert_is_ever_misplaced(
        keys in proptest::collection::vec(-50_i64..50, 1..4),
        shard in proptest::option::of(0_usize..2),
        sharding_key in proptest::option::of(-50_i64..50),
    ) {
        let map = map();
        let sharding_key = sharding_key.map(|key| key.to_string());
        let cx = PlanContext {
            shard: shard.map(|shard| map.names[shard].as_str()),
            sharding_key: sharding_key.as_deref(),
            ..context(&map)
        };
        let rows: Vec<[KeyValue; 1]> = keys.iter().map(|key| [int(*key)]).collect();
        let rows: Vec<&[KeyValue]> = rows.iter().map(<[KeyValue; 1]>::as_slice).collect();
        let plan = plan_query(&query(vec![insert("orders", "customer_id", &rows)]), &cx);
        if let ShardPlan::Single { shard, .. } = plan {
            for key in keys {
                prop_assert_eq!(map.owner(Key::Integer(key).slot()), shard);
            }
        } else {
            prop_assert_eq!(word(&plan), NO);
        }
    }
}

/// What the catalog says decides over functions and over relations that are not listed, unless a shard is chosen.
#[test]
fn what_the_text_does_not_show() {
    use crate::sql::catalog::{Answers, Catalog, CatalogView, Function, Questions, Relation};
    use crate::sql::parse::facts;
    use crate::sql::shadows::{ShadowQuestion, Shadows};

    let map = map();
    let now = crate::clock::now();
    let mut catalog = Catalog::default();
    let texts =
        "SELECT pure(); SELECT seen(); SELECT gone(); SELECT * FROM plain, view, ref_view, code_view, app_log, missing";
    let questions =
        CatalogView { catalog: &catalog, search_path: None, now }.ask_all(&facts(texts.as_bytes()), |_| true);
    let function = |exists, reads_unseen| Function { exists, volatile: false, reads_unseen };
    let reach = |names: &[(&str, &str)], code: Option<&str>| Relation {
        reaches: names.iter().map(|(s, n)| ((*s).to_owned(), (*n).to_owned())).collect(),
        reads_unseen: code.map(str::to_owned),
        ..Relation::default()
    };
    let answers = Answers {
        functions: vec![function(true, false), function(true, true), function(false, false)],
        relations: vec![
            reach(&[("public", "plain")], None),
            reach(&[("public", "view"), ("public", "plain"), ("public", "orders")], None),
            reach(&[("public", "ref_view"), ("public", "countries")], None),
            reach(&[("public", "code_view")], Some("total()")),
            reach(&[("audit", "log")], None),
            reach(&[], None),
        ],
        shadows: Some(Shadows::default()),
    };
    let questions = Questions { shadows: Some(ShadowQuestion::default()), ..questions };
    catalog.learn(questions, answers, now);
    let cx = PlanContext { catalog: Some(CatalogView { catalog: &catalog, search_path: None, now }), ..context(&map) };
    let plan = |text: &str, cx: &PlanContext<'_>| match plan_query(&facts(text.as_bytes()), cx) {
        ShardPlan::Reject(error) => error.message,
        plan => word(&plan),
    };
    for (text, expected) in [
        ("SELECT pure()", "any"),
        ("SELECT * FROM orders WHERE customer_id = 2 AND pure() = 1", "s1"),
        ("SELECT gone()", "s0"),
        ("SELECT * FROM plain", "s0"),
        ("SELECT * FROM missing", "s0"),
        ("SELECT * FROM ref_view", "s0"),
        ("SELECT * FROM pg_catalog.pg_class", "s0"),
    ] {
        assert_eq!(plan(text, &cx), expected, "{text}");
    }
    for (text, expected) in [
        ("SELECT seen()", "function seen() on a sharded"),
        ("SELECT * FROM orders WHERE customer_id = 2 AND seen() = 1", "function seen() on a sharded"),
        ("SELECT query_to_xml('select 1', true, true, '')", "function query_to_xml() on a sharded"),
        ("SELECT table_to_xml('orders', true, true, '')", "function table_to_xml() on a sharded"),
        ("SELECT count(*) FROM view", "\"view\" is made of table \"public.orders\""),
        ("SELECT count(*) FROM plain, view", "\"view\" is made of table \"public.orders\""),
        ("DROP VIEW view", "DROP VIEW of \"view\", which every shard has"),
        ("UPDATE ref_view SET a = 1", "\"ref_view\" is made of table \"public.countries\""),
        ("SELECT * FROM code_view", "view \"code_view\" on a sharded"),
        ("SELECT * FROM app_log", "\"log\" is table \"audit.log\" by the search_path"),
        ("SELECT * FROM never_asked", "\"never_asked\" was not looked up"),
        ("SELECT never_asked()", "\"never_asked\" was not looked up"),
    ] {
        let message = plan(text, &cx);
        assert!(message.starts_with(expected), "{text}: {message}");
        let chosen = PlanContext { shard: Some("s1"), ..cx };
        assert_eq!(plan(text, &chosen), "s1", "{text}");
    }
}

/// What `$1` is, where Parse does not say it, hangs on all its uses.
#[test]
fn a_parameter_that_is_used_twice() {
    use crate::sql::parse::facts;

    let map = map();
    let plan = |sql: &str, value: &[u8], format: i16, oid: u32| {
        let (values, formats, types) = ([Some(value)], [format], [oid]);
        let bound = Some(BoundParams { values: &values, formats: &formats, types: &types });
        match plan_query(&facts(sql.as_bytes()), &PlanContext { bound, ..context(&map) }) {
            ShardPlan::Reject(error) => error.message,
            plan => word(&plan),
        }
    };
    let undecided = "cannot tell the shard: the type of $1";
    let two = 2_i64.to_be_bytes();
    for sql in [
        "SELECT 1 FROM orders WHERE customer_id = $1 AND a = $1",
        "SELECT $1 FROM orders WHERE customer_id = $1",
        "SELECT $1::text FROM orders WHERE customer_id = $1::int8",
        "SELECT $1::numeric FROM orders WHERE customer_id = $1",
        "UPDATE orders SET a = $1 WHERE customer_id = $1",
        "INSERT INTO orders (a, customer_id) VALUES ($1, $1)",
        "SELECT 1 FROM orders WHERE customer_id = $1::int8 AND a = $1",
    ] {
        assert!(plan(sql, &two, 1, 0).starts_with(undecided), "{sql}");
        assert_eq!(plan(sql, &two, 1, 20), "s1", "{sql}, declared");
        let text = plan(sql, b"2", 0, 0);
        // Small and in text it is the same number in any type, unless it is cast.
        if sql.contains("= $1::") {
            assert!(text.starts_with(undecided), "{sql}")
        } else {
            assert_eq!(text, "s1", "{sql}")
        }
        for doubtful in ["16777217", "-2", " 2", "+2", "2.0", "9007199254740993"] {
            assert!(plan(sql, doubtful.as_bytes(), 0, 0).starts_with(undecided), "{sql} {doubtful}");
        }
    }
    for sql in [
        "SELECT 1 FROM orders WHERE customer_id = $1 AND customer_id = $1",
        "SELECT $1::int4 FROM orders WHERE customer_id = $1::int8 AND $1::int8 > 0",
        "INSERT INTO orders (customer_id) VALUES ($1), ($1)",
    ] {
        assert_eq!(plan(sql, &two, 1, 0), "s1", "{sql}");
        assert_eq!(plan(sql, b"-1", 0, 0), "s1", "{sql}");
    }
    assert!(plan("SELECT 1 FROM codes WHERE code = $1 AND a = $1", b"2", 0, 0).starts_with(undecided));
    assert_eq!(plan("SELECT 1 FROM codes WHERE code = $1::text AND a = $1::varchar", b"abcdefgh", 0, 0), "s1");
}

#[test]
fn what_the_checks_found_is_not_believed() {
    let map = map();
    let keys = Distrust { keys: Some("shard \"s1\": odd".into()), ..TRUST.clone() };
    let orders = Distrust { tables: [(("public".into(), "orders".into()), "odd".into())].into(), ..TRUST.clone() };
    let by_key = select("orders", &[("customer_id", int(2))]);
    let by_other = select("customers", &[("id", int(2))]);
    let row = insert("orders", "customer_id", &[&[int(2)]]);
    for (distrust, statement, expected) in [
        (&TRUST, &by_key, "s1"),
        (&keys, &by_key, NO),
        (&keys, &by_other, NO),
        (&keys, &row, NO),
        (&orders, &by_key, NO),
        (&orders, &row, NO),
        (&orders, &by_other, "s1"),
    ] {
        let cx = PlanContext { distrust, ..context(&map) };
        assert_eq!(word(&plan_statement(statement, &cx)), expected, "{distrust:?} {statement:?}");
    }
    let cx = PlanContext { distrust: &keys, ..context(&map) };
    assert_eq!(word(&plan_statement(&by_key, &PlanContext { shard: Some("s1"), ..cx })), "s1");
    assert_eq!(word(&plan_statement(&by_key, &PlanContext { sharding_key: Some("2"), ..cx })), NO);
    assert_eq!(word(&plan_statement(&row, &PlanContext { shard: Some("s1"), ..cx })), NO);
}

#[test]
fn names_that_mean_something_else() {
    use crate::sql::catalog::{Answers, Catalog, Questions};
    use crate::sql::parse::facts;
    use crate::sql::shadows::{ShadowQuestion, Shadows};

    let map = map();
    let now = crate::clock::now();
    let mut catalog = Catalog::default();
    let pair = |name: &str, schema: &str| [(name.to_owned(), schema.to_owned())].into();
    let shadows = Shadows {
        functions: ["lower".to_owned()].into(),
        elsewhere: pair("orders", "ann"),
        by_role: pair("customers", "bob"),
        ..Shadows::default()
    };
    let questions = Questions { shadows: Some(ShadowQuestion::default()), ..Questions::default() };
    catalog.learn(questions, Answers { shadows: Some(shadows), ..Answers::default() }, now);
    let view = CatalogView { catalog: &catalog, search_path: None, now };
    let plan = |sql: &str, changed_role| {
        let cx = PlanContext { catalog: Some(view), changed_role, ..context(&map) };
        word(&plan_query(&facts(sql.as_bytes()), &cx))
    };
    for (sql, expected) in [
        ("SELECT 1 FROM orders WHERE customer_id = 2", NO),
        ("SELECT 1 FROM public.orders WHERE customer_id = 2", "s1"),
        ("INSERT INTO orders (customer_id) VALUES (2)", NO),
        ("SELECT 1 FROM customers WHERE id = 2", "s1"),
        ("SELECT lower('X') FROM customers WHERE id = 2", NO),
        ("SELECT pg_catalog.lower('X') FROM customers WHERE id = 2", "s1"),
        ("SELECT upper('X') FROM customers WHERE id = 2", "s1"),
        ("SET ROLE bob; SELECT 1 FROM customers WHERE id = 2", NO),
        ("/* pgweir: shard=s0 */ SELECT lower('X') FROM orders", "s0"),
    ] {
        assert_eq!(plan(sql, false), expected, "{sql}");
    }
    assert_eq!(plan("SELECT 1 FROM customers WHERE id = 2", true), NO);
    let unasked = CatalogView { search_path: Some("x"), ..view };
    let cx = PlanContext { catalog: Some(unasked), ..context(&map) };
    let ShardPlan::Reject(error) = plan_query(&facts(b"SELECT 1 FROM customers WHERE id = 2"), &cx) else {
        panic!("planned without a look-up")
    };
    assert!(error.message.contains("was not looked up"), "{error}");
}

#[test]
fn reads_of_several_shards() {
    use crate::sql::parse::facts;
    let map = map();
    for (sql, expected) in [
        ("SELECT * FROM orders", "s0+s1"),
        ("SELECT * FROM orders o JOIN customers c ON o.customer_id = c.id", "s0+s1"),
        ("SELECT * FROM orders LEFT JOIN countries c ON c.code = orders.country", "s0+s1"),
        ("SELECT * FROM orders WHERE customer_id IN (1, 2)", "s0+s1"),
        ("SELECT * FROM orders WHERE customer_id IN (1, 2, $1)", "s0+s1"),
        ("SELECT * FROM orders WHERE customer_id = 1 + 4", "s0+s1"),
        ("SELECT * FROM orders WHERE customer_id = 1 OR note = 'x'", "s0+s1"),
        ("SELECT customer_id, sum(amount) FROM orders GROUP BY customer_id", "s0+s1"),
        // All keys on one shard: whatever the statement does with its rows.
        ("SELECT count(*) FROM orders WHERE customer_id IN (1, 42)", "s0"),
        ("SELECT note FROM orders WHERE customer_id = ANY (ARRAY[2, -1]) ORDER BY note LIMIT 1", "s1"),
        ("SELECT count(*) FROM orders o JOIN customers c ON o.customer_id = c.id WHERE c.id = 2", "s1"),
        ("SELECT * FROM orders WHERE customer_id = 1 AND customer_id = 2", "s0"),
        ("SELECT * FROM orders WHERE customer_id IN (2, NULL)", "s1"),
        // Rows are compared column by column.
        ("SELECT * FROM orders WHERE (customer_id, note) = (2, 'x')", "s1"),
        ("SELECT * FROM orders WHERE ROW('x', 2) = ROW(note, customer_id)", "s1"),
        ("SELECT * FROM orders WHERE (customer_id, note) IN ((1, 'a'), (42, 'b'))", "s0"),
        ("SELECT * FROM orders WHERE (customer_id, note) IN ((2, 'a'))", "s1"),
        ("SELECT * FROM orders WHERE (customer_id, note) IN ((1, 'a'), (2, 'b'))", "s0+s1"),
        ("SELECT * FROM orders WHERE (customer_id, note) <> (2, 'x')", "s0+s1"),
        ("SELECT * FROM orders WHERE (customer_id, note) <= (2, 'x')", "s0+s1"),
        ("SELECT * FROM orders WHERE (note, 2) = (customer_id, 2)", "s0+s1"),
        ("SELECT * FROM orders WHERE (customer_id, 1) IN ((note, 1), (2, 1))", "s0+s1"),
        ("SELECT * FROM orders WHERE ROW(orders.*) = ROW(2, 'x')", "0A000"),
        ("SELECT * FROM orders o JOIN customers c ON (c.id, 1) = (o.customer_id, o.note)", "s0+s1"),
        ("SELECT * FROM orders o JOIN customers c ON (c.id, 1) IN ((o.customer_id, o.note))", "s0+s1"),
        ("SELECT * FROM orders o JOIN customers c ON (c.id, 1) IN ((o.customer_id, 1), (2, 2))", "0A000"),
        ("SELECT * FROM orders WHERE customer_id BETWEEN 2 AND 2", "s1"),
        ("SELECT * FROM orders WHERE customer_id BETWEEN 1 AND 2", "s0+s1"),
        ("SELECT * FROM orders WHERE customer_id NOT BETWEEN 2 AND 2", "s0+s1"),
        ("SELECT * FROM orders WHERE customer_id BETWEEN SYMMETRIC 2 AND 2", "s0+s1"),
        ("SELECT * FROM orders WHERE customer_id BETWEEN note AND note", "s0+s1"),
        // NATURAL: the keys are among the columns that both have, if they have one name.
        ("SELECT * FROM orders NATURAL JOIN public.orders o", "s0+s1"),
        ("SELECT * FROM customers NATURAL LEFT JOIN audit.log l WHERE customers.id = 2", "s1"),
        ("SELECT * FROM customers c NATURAL JOIN audit.log l WHERE l.id IN (2, -1)", "s1"),
        ("SELECT * FROM customers NATURAL FULL JOIN audit.log", "s0+s1"),
        ("SELECT * FROM orders NATURAL JOIN countries", "s0+s1"),
        ("SELECT * FROM orders o JOIN customers c ON o.customer_id = c.id NATURAL JOIN countries", "s0+s1"),
        ("SELECT * FROM countries NATURAL LEFT JOIN orders", "0A000"),
        ("SELECT * FROM orders NATURAL JOIN customers", "0A000"),
        ("SELECT * FROM customers NATURAL JOIN devices", "0A000"),
        ("SELECT * FROM customers NATURAL JOIN countries NATURAL JOIN audit.log", "0A000"),
        // The column of the left side may be that of the reference table.
        ("SELECT * FROM countries NATURAL JOIN customers JOIN audit.log l USING (id)", "0A000"),
        // A key that cannot be read stays what it is.
        ("SELECT * FROM orders WHERE customer_id = 'x'", "22P02"),
        ("SELECT * FROM orders WHERE customer_id = NULL", "s0+s1"),
        ("SELECT * FROM orders, customers", "0A000"),
        ("SELECT * FROM orders o JOIN codes c ON o.customer_id = c.code", "0A000"),
        ("SELECT * FROM orders WHERE customer_id IN (1, 42) AND EXISTS (SELECT FROM customers)", "0A000"),
        ("SELECT (SELECT count(*) FROM customers) FROM orders WHERE customer_id IN (1, 42)", "0A000"),
        ("SELECT * FROM orders JOIN log ON true", "0A000"),
        ("SELECT now() FROM orders", "0A000"),
        ("SELECT mine(1) FROM orders", "0A000"),
        ("DELETE FROM orders", "0A000"),
        ("SELECT * FROM orders FOR UPDATE", "0A000"),
        ("SELECT * FROM orders; SELECT 1", "0A000"),
    ] {
        let cx = PlanContext { text: Some(sql), ..context(&map) };
        assert_eq!(word(&plan_query(&facts(sql.as_bytes()), &cx)), expected, "{sql}");
    }
}
