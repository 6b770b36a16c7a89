//! Which shards DDL is for, by what the catalog says of the names in it.

use super::*;
use crate::shard::map::{CrossShardWrites, Writes};
use crate::sql::catalog::{Answers, Catalog, Relation};
use crate::sql::parse::facts;
use crate::sql::shadows::{ShadowQuestion, Shadows};

/// What the default shard has, as it answers: a name and what it reaches.
const HAS: [(&str, &[&str]); 13] = [
    ("orders_i", &["orders_i", "orders"]),
    ("orders_seq", &["orders_seq", "orders"]),
    ("orders_view", &["orders_view", "orders", "countries"]),
    ("again", &["again", "orders_view", "orders"]),
    ("countries_view", &["countries_view", "countries"]),
    ("countries_i", &["countries_i", "countries"]),
    ("orders_1", &["orders_1", "orders"]),
    ("plain", &["plain"]),
    ("plain_i", &["plain_i", "plain"]),
    ("plain_view", &["plain_view", "plain"]),
    ("mixed_view", &["mixed_view", "plain", "countries"]),
    ("counter", &["counter"]),
    ("pg_class", &["pg_class"]),
];

/// Where a text goes: `all`, `each` (outside of transactions), `s0`, or the construct for which it is refused.
fn route(sql: &str, own: Own) -> String {
    let mut map = map();
    map.writes = Writes { cross: CrossShardWrites::TwoPhase, unkeyed: false };
    let now = crate::clock::now();
    let mut catalog = Catalog::default();
    let text = facts(sql.as_bytes());
    assert!(text.unparsed.is_none(), "{sql}");
    let empty = CatalogView { catalog: &catalog, search_path: None, now };
    let mut questions = empty.ask_all(&text, |table| map.table(table.schema.as_deref(), &table.name).is_none());
    questions.shadows = Some(ShadowQuestion::default());
    let answer = |name: &str| {
        let reaches = HAS.iter().find(|(has, _)| *has == name).map_or(&[][..], |(_, reaches)| reaches);
        let named = |name: &str| {
            let schema = if name.starts_with("pg_") { "pg_catalog" } else { "public" };
            (schema.to_owned(), name.to_owned())
        };
        Relation {
            reaches: reaches.iter().map(|name| named(name)).collect(),
            is_view: name.ends_with("view") || name == "again",
            tables: ["orders", "countries", "plain"]
                .into_iter()
                .filter(|name| reaches.contains(name))
                .map(named)
                .collect(),
            ..Relation::default()
        }
    };
    let relations = questions.relations.iter().map(|name| answer(&name.name)).collect();
    let answers = Answers { functions: Vec::new(), relations, shadows: Some(Shadows::default()) };
    catalog.learn(questions, answers, now);
    let view = CatalogView { catalog: &catalog, search_path: None, now };
    let cx = PlanContext { catalog: Some(view), text: Some(sql), own, ..context(&map) };
    match plan_query(&text, &cx) {
        ShardPlan::Fan(fan) if fan.shards.len() == 2 => match fan.parts {
            write::Parts::Each { .. } => "each".to_owned(),
            _ => "all".to_owned(),
        },
        ShardPlan::Reject(error) => {
            assert!(error.hint.is_some(), "{sql}: {error}");
            error.reason.unwrap_or("?").to_owned()
        }
        plan => word(&plan),
    }
}

#[test]
fn names_go_where_the_catalog_says_that_they_belong() {
    for (sql, expected) in [
        ("DROP INDEX orders_i", "all"),
        ("DROP INDEX CONCURRENTLY public.orders_i", "each"),
        ("DROP INDEX IF EXISTS orders_i, countries_i", "all"),
        ("DROP INDEX plain_i", "s0"),
        ("DROP INDEX plain_i, orders_i", "ddl_apart"),
        ("DROP INDEX gone", "all"),
        ("DROP INDEX gone, plain_i", "ddl_apart"),
        ("DROP INDEX gone, orders_i", "ddl_apart"),
        ("ALTER INDEX orders_i RENAME TO other", "all"),
        ("ALTER INDEX plain_i SET (fillfactor = 50)", "s0"),
        ("REINDEX INDEX orders_i", "each"),
        ("REINDEX TABLE orders", "each"),
        ("REINDEX INDEX CONCURRENTLY orders_i", "each"),
        ("REINDEX TABLE plain", "s0"),
        ("ALTER TABLE plain RENAME TO orders", "ddl_apart"),
        ("ALTER TABLE other.plain SET SCHEMA public", "s0"),
        ("ALTER TABLE other.orders SET SCHEMA public", "ddl_apart"),
        ("ALTER VIEW plain_view RENAME TO countries", "ddl_apart"),
        ("ALTER INDEX orders_i RENAME TO orders", "ddl_apart"),
        ("ALTER TABLE orders RENAME TO countries", "ddl_apart"),
        ("ALTER TABLE plain RENAME COLUMN orders TO countries", "s0"),
        ("CREATE VIEW countries AS SELECT * FROM orders", "ddl_apart"),
        ("CREATE VIEW orders AS SELECT * FROM countries", "ddl_apart"),
        ("REINDEX SCHEMA public", "each"),
        ("CLUSTER orders USING orders_i", "each"),
        ("CLUSTER", "each"),
        ("VACUUM orders, countries", "each"),
        ("VACUUM again, plain", "ddl_apart"),
        ("ALTER SEQUENCE orders_seq RESTART", "all"),
        ("ALTER SEQUENCE counter RESTART", "s0"),
        ("ALTER SEQUENCE counter OWNED BY orders.v", "ddl_apart"),
        ("ALTER SEQUENCE counter OWNED BY NONE", "s0"),
        ("ALTER SEQUENCE orders_seq OWNED BY orders.v", "all"),
        ("ALTER SEQUENCE orders_seq OWNED BY NONE", "ddl"),
        ("DROP SEQUENCE orders_seq", "all"),
        ("CREATE SEQUENCE s", "s0"),
        ("CREATE SEQUENCE s OWNED BY plain.v", "s0"),
        ("CREATE SEQUENCE s OWNED BY orders.v", "sequence"),
        ("CREATE VIEW v AS SELECT * FROM orders", "all"),
        ("CREATE VIEW v AS SELECT * FROM countries", "all"),
        ("CREATE VIEW v AS SELECT * FROM plain", "s0"),
        ("CREATE VIEW v AS SELECT 1", "s0"),
        ("CREATE VIEW v AS SELECT * FROM again JOIN countries ON true", "all"),
        ("CREATE VIEW v AS SELECT * FROM plain_view, countries_view", "s0"),
        ("CREATE VIEW v AS SELECT * FROM plain WHERE a IN (SELECT v FROM orders)", "ddl_apart"),
        ("CREATE VIEW v AS WITH plain AS (SELECT 1) SELECT * FROM plain, orders", "all"),
        ("CREATE VIEW v AS SELECT * FROM orders, pg_class, information_schema.tables", "all"),
        ("CREATE VIEW v AS SELECT * FROM countries, pg_catalog.pg_class", "ddl"),
        ("ALTER TABLE orders ADD c text REFERENCES countries, ADD seen timestamptz DEFAULT now()", "all"),
        ("ALTER SCHEMA public RENAME TO b", "ddl"),
        ("ALTER SCHEMA nobodys RENAME TO b", "all"),
        ("CREATE SCHEMA b", "all"),
        ("CREATE SCHEMA b CREATE TABLE c (a int)", "ddl"),
        ("CREATE VIEW v AS SELECT * FROM pg_class", "s0"),
        ("CREATE OR REPLACE VIEW plain_view AS SELECT * FROM orders", "ddl_apart"),
        ("CREATE OR REPLACE VIEW orders_view AS SELECT * FROM plain", "ddl_apart"),
        ("CREATE OR REPLACE VIEW orders_view AS SELECT 1 FROM orders", "all"),
        ("CREATE MATERIALIZED VIEW m AS SELECT * FROM orders", "all"),
        ("CREATE MATERIALIZED VIEW m AS SELECT * FROM plain", "s0"),
        ("REFRESH MATERIALIZED VIEW again", "all"),
        ("DROP VIEW again, countries_view", "all"),
        ("DROP VIEW mixed_view", "s0"),
        ("CREATE VIEW v AS SELECT * FROM mixed_view", "s0"),
        ("CREATE VIEW v AS SELECT * FROM mixed_view, orders", "ddl_apart"),
        ("DROP VIEW plain_view", "s0"),
        ("ALTER VIEW again SET SCHEMA x", "all"),
        ("CREATE TABLE orders_2 PARTITION OF orders DEFAULT", "all"),
        ("CREATE TABLE mine PARTITION OF plain (FOREIGN KEY (x) REFERENCES orders) DEFAULT", "ddl_apart"),
        ("CREATE TABLE mine PARTITION OF plain (FOREIGN KEY (x) REFERENCES countries) DEFAULT", "s0"),
        ("CREATE TABLE orders_2 PARTITION OF orders (FOREIGN KEY (x) REFERENCES plain) DEFAULT", "ddl_apart"),
        ("CREATE TABLE mine () INHERITS (plain)", "s0"),
        ("CREATE TABLE mine () INHERITS (plain, orders)", "ddl_apart"),
        ("CREATE TABLE mine (c int REFERENCES countries, p int REFERENCES plain)", "s0"),
        ("CREATE TABLE mine (c int REFERENCES orders)", "ddl_apart"),
        ("CREATE TABLE orders (c int REFERENCES countries)", "all"),
        ("CREATE TABLE orders (c int REFERENCES plain)", "ddl_apart"),
        ("ALTER TABLE orders_1 ADD a int", "all"),
        ("DROP TABLE orders_1", "all"),
        ("ALTER TABLE orders_1 RENAME TO other", "all"),
        ("ALTER TABLE orders DETACH PARTITION orders_1", "ddl"),
        ("ALTER TABLE orders DETACH PARTITION orders_1 CONCURRENTLY", "ddl"),
        ("ALTER TABLE orders DETACH PARTITION customers", "all"),
        ("ALTER TABLE orders DETACH PARTITION customers CONCURRENTLY", "each"),
        ("ALTER TABLE orders_1 NO INHERIT orders", "ddl"),
        ("ALTER TABLE orders RENAME TO other", "ddl"),
        ("ALTER TABLE orders RENAME v TO other", "all"),
        ("ALTER TABLE countries SET SCHEMA other", "ddl"),
        ("ALTER TABLE plain RENAME TO other", "s0"),
        ("ALTER TABLE plain ADD FOREIGN KEY (a) REFERENCES countries", "s0"),
        ("ALTER TABLE plain ADD b int REFERENCES countries, ADD c int REFERENCES plain", "s0"),
        ("ALTER TABLE plain ADD FOREIGN KEY (a) REFERENCES orders", "ddl_apart"),
        ("ALTER TABLE countries ADD FOREIGN KEY (a) REFERENCES plain", "ddl_apart"),
        ("ALTER TABLE plain INHERIT countries", "ddl_apart"),
        ("CREATE FOREIGN TABLE far (a int) SERVER s", "ddl"),
        ("IMPORT FOREIGN SCHEMA a FROM SERVER s INTO public", "ddl"),
        ("DROP FOREIGN TABLE far", "s0"),
        ("DROP TABLE IF EXISTS gone", "s0"),
        ("TRUNCATE orders, plain", "ddl_apart"),
        ("CREATE TRIGGER g AFTER INSERT ON orders EXECUTE FUNCTION f()", "all"),
        ("DROP TRIGGER g ON orders", "all"),
        ("DROP TRIGGER g ON plain", "s0"),
        ("DROP POLICY p ON public.orders", "all"),
        ("DROP RULE p ON plain", "s0"),
        ("ALTER POLICY p ON plain USING (true)", "s0"),
        ("COMMENT ON TABLE plain IS 'x'", "s0"),
        ("COMMENT ON COLUMN public.orders.v IS 'x'", "all"),
        ("COMMENT ON COLUMN plain.v IS 'x'", "s0"),
        ("COMMENT ON COLUMN pair.a IS 'x'", "all"),
        ("COMMENT ON INDEX orders_i IS 'x'", "all"),
        ("COMMENT ON CONSTRAINT c ON plain IS 'x'", "s0"),
        ("COMMENT ON FUNCTION f(int) IS 'x'", "all"),
        ("GRANT SELECT ON orders, again TO x", "all"),
        ("GRANT SELECT ON orders, plain TO x", "ddl_apart"),
        ("GRANT USAGE ON SEQUENCE counter TO x", "s0"),
        ("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM x", "all"),
        ("CREATE STATISTICS s ON a, b FROM plain", "s0"),
        ("CREATE STATISTICS s ON a, b FROM orders", "all"),
        ("ALTER TYPE plain ADD ATTRIBUTE a int", "all"),
        ("ALTER TYPE plain RENAME ATTRIBUTE a TO b", "all"),
        ("CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p", "ddl"),
        ("DROP TABLESPACE x", "ddl"),
    ] {
        assert_eq!(route(sql, Own::None), expected, "{sql}");
    }
}

#[test]
fn what_a_transaction_has_made_nobody_is_asked_about() {
    for (sql, on_one, on_several) in [
        ("DROP INDEX gone", "s0", "ddl"),
        ("DROP INDEX plain_i", "s0", "ddl"),
        ("DROP INDEX orders_i", "all", "all"),
        ("DROP TABLE gone", "s0", "ddl"),
        ("GRANT SELECT ON gone TO x", "s0", "ddl"),
        ("CREATE INDEX ON gone (a)", "s0", "ddl"),
        ("ALTER TABLE plain ADD a int", "s0", "ddl"),
        ("ALTER TABLE orders ADD a int", "all", "all"),
        ("CREATE VIEW v AS SELECT * FROM gone", "s0", "ddl"),
        ("CREATE VIEW v AS SELECT * FROM plain", "s0", "ddl"),
        ("CREATE OR REPLACE VIEW v AS SELECT 1", "s0", "ddl"),
        ("CREATE VIEW v AS SELECT * FROM orders", "all", "all"),
        ("CREATE TABLE mine (c int REFERENCES gone)", "s0", "ddl"),
        ("CREATE TABLE mine (c int REFERENCES countries)", "s0", "s0"),
        ("CREATE TABLE orders_2 PARTITION OF orders DEFAULT", "all", "all"),
    ] {
        assert_eq!(route(sql, Own::OnOne), on_one, "{sql}");
        assert_eq!(route(sql, Own::OnSeveral), on_several, "{sql}");
    }
}
