//! Tables keyed by every type that a key may have.

use crate::data::SEED;

/// A type of key, and the tables that have it: `a_NAME` and `b_NAME`.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// As CREATE TABLE says it.
    pub(crate) column: &'static str,
    /// As the configuration says it.
    pub(crate) configured: &'static str,
    pub(crate) family: Family,
    /// The keys that its tables have or may get.
    pub(crate) keys: &'static [&'static str],
}

/// Which keys may be written and sent alike; of an integer, how many bytes it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Integer(u32),
    Text,
    Uuid,
}

const SMALL: [&str; 24] = [
    "0", "1", "-1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "-42", "100", "255", "256", "1000",
    "9999", "-7", "32767", "-32768",
];
const MEDIUM: [&str; 20] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "-42",
    "32767",
    "32768",
    "65536",
    "70000",
    "123456789",
    "2147483647",
    "-2147483648",
    "-32769",
];
const LARGE: [&str; 22] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "-42",
    "32768",
    "2147483647",
    "2147483648",
    "-2147483649",
    "4294967295",
    "4294967296",
    "4294967297",
    "-4294967296",
    "1234567890123456789",
    "9223372036854775807",
    "-9223372036854775808",
];
/// Case, accents composed and not, braces, blanks, digits, what SQL and arrays must quote.
const TEXTS: [&str; 32] = [
    "",
    "a",
    "A",
    "ab",
    "aB",
    "AB",
    "ä",
    "Ä",
    "a\u{308}",
    "żółć",
    "😀",
    "{a}",
    "{a}.x",
    "{a}.y",
    "{}",
    "{}x",
    "}{",
    "x{b}c",
    "x y",
    "a ",
    " a",
    "1",
    "01",
    "1.0",
    "null",
    "it's",
    "back\\slash",
    "a%",
    "\"q\"",
    "x,y",
    "abcdefghijkl",
    "k",
];
const UUIDS: [&str; 16] = [
    "00000000-0000-0000-0000-000000000000",
    "00000000-0000-0000-0000-000000000001",
    "00000000-0000-0000-0000-000000000002",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "123e4567-e89b-12d3-a456-426614174000",
    "550e8400-e29b-41d4-a716-446655440000",
    "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "deadbeef-dead-beef-dead-beefdeadbeef",
    "0a0a0a0a-0000-4000-8000-000000000001",
    "0a0a0a0a-0000-4000-8000-000000000002",
    "0a0a0a0a-0000-4000-8000-000000000003",
    "0a0a0a0a-0000-4000-8000-000000000004",
    "0a0a0a0a-0000-4000-8000-000000000005",
    "0a0a0a0a-0000-4000-8000-000000000006",
];

pub(crate) static KINDS: [Kind; 7] = [
    Kind { name: "int2", column: "int2", configured: "type = \"smallint\"", family: Family::Integer(2), keys: &SMALL },
    Kind { name: "int4", column: "int4", configured: "type = \"integer\"", family: Family::Integer(4), keys: &MEDIUM },
    Kind { name: "int8", column: "int8", configured: "type = \"bigint\"", family: Family::Integer(8), keys: &LARGE },
    Kind { name: "text", column: "text", configured: "type = \"text\"", family: Family::Text, keys: &TEXTS },
    Kind {
        name: "varchar",
        column: "varchar(12)",
        configured: "type = \"varchar\"",
        family: Family::Text,
        keys: &TEXTS,
    },
    Kind { name: "tag", column: "text", configured: "type = \"text\", tag = true", family: Family::Text, keys: &TEXTS },
    Kind { name: "uuid", column: "uuid", configured: "type = \"uuid\"", family: Family::Uuid, keys: &UUIDS },
];

impl Kind {
    /// The slot of the column `k`, as PostgreSQL computes it.
    pub(crate) fn slot(&self) -> String {
        let hash = match (self.family, self.name) {
            (Family::Integer(_), _) => format!("hashint8extended(k, {SEED})"),
            (_, "tag") => format!("hashtextextended(coalesce(substring(k from '^[^{{]*\\{{([^}}]+)\\}}'), k), {SEED})"),
            (Family::Text, _) => format!("hashtextextended(k, {SEED})"),
            (Family::Uuid, _) => format!("uuid_hash_extended(k, {SEED})"),
        };
        format!("((({hash} & 16383) + 10467) & 16383)")
    }

    /// Its two tables; two of three keys are there, of those with a few rows each in the second table.
    pub(crate) fn tables(&self) -> String {
        let Self { name, column, .. } = self;
        format!(
            "CREATE TABLE a_{name} (k {column} PRIMARY KEY, g int4, c text COLLATE \"C\", n numeric(8, 2) CHECK (n < 1000));
             CREATE TABLE b_{name} (k {column} NOT NULL, id int4 NOT NULL, amount int8, note text COLLATE \"C\" DEFAULT 'none', PRIMARY KEY (k, id));"
        )
    }

    /// Fills them with the rows that are at home under this condition on SLOT.
    pub(crate) fn fill(&self, home: &str) -> String {
        let Self { name, column, .. } = self;
        let keys: Vec<String> =
            self.keys.iter().enumerate().map(|(i, key)| format!("({i}, {}::{column})", quoted(key))).collect();
        let (keys, home) = (keys.join(", "), home.replace("SLOT", &self.slot()));
        format!(
            "INSERT INTO a_{name} SELECT k, nullif(i % 6, 5), (ARRAY['a', 'A', 'ä', '', NULL])[1 + i % 5], i / 4.0
               FROM (VALUES {keys}) x (i, k) WHERE i % 3 <> 2 AND {home};
             INSERT INTO b_{name} SELECT k, id, i * 100 + id, 'note ' || (i + id) % 4
               FROM (VALUES {keys}) x (i, k), generate_series(1, 3) id WHERE i % 4 >= id AND {home};"
        )
    }

    /// Whether keys of both are the same where they are equal.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let of =
            |kind: &Self| (matches!(kind.family, Family::Integer(_)), kind.family == Family::Text, kind.name == "tag");
        of(self) == of(other)
    }
}

/// A string constant.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
