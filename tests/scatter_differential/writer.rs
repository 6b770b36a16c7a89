//! The ways in which SQL says a key: plain and odd literals, casts, parameters, lists and arrays.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::compare::{Param, Value};
use crate::keys::{Family, KINDS, Kind, quoted};

/// A statement in the making: its parameters are counted as they are written.
pub(crate) struct Writer<'a> {
    pub(crate) rng: &'a mut SmallRng,
    pub(crate) params: Vec<Param>,
    kind: &'static Kind,
    /// Another kind whose keys may be compared with those of this one.
    like: &'static Kind,
    /// The only key that it writes.
    only: Option<String>,
}

/// One key of one kind, which several statements are about.
#[derive(Clone, Copy)]
pub(crate) struct About {
    kind: &'static Kind,
    key: &'static str,
}

impl About {
    pub(crate) fn choose(rng: &mut SmallRng) -> Self {
        let kind = KINDS.choose(rng).unwrap();
        Self { kind, key: kind.keys.choose(rng).unwrap() }
    }
}

impl<'a> Writer<'a> {
    pub(crate) fn new(rng: &'a mut SmallRng) -> Self {
        let kind = KINDS.choose(rng).unwrap();
        let like: Vec<&Kind> = KINDS.iter().filter(|other| other.is_like(kind)).collect();
        let like = like.choose(rng).copied().unwrap_or(kind);
        Self { rng, params: Vec::new(), kind, like, only: None }
    }

    /// Writes of this key alone, if there is one.
    pub(crate) fn about(rng: &'a mut SmallRng, about: Option<&About>) -> Self {
        let writer = Self::new(rng);
        match about {
            Some(About { kind, key }) => Self { kind, like: kind, only: Some((*key).to_owned()), ..writer },
            None => writer,
        }
    }

    pub(crate) fn pick(&mut self, from: &[&str]) -> String {
        (*from.choose(self.rng).unwrap()).to_owned()
    }

    /// Writes what stands behind `@`: see [`Self::word`].
    pub(crate) fn fill(&mut self, template: &str) -> String {
        let mut parts = template.split('@');
        let mut sql = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(part.len());
            let (word, mut rest) = part.split_at(end);
            let mut argument = "";
            if let Some(inner) = rest.strip_prefix('(') {
                (argument, rest) = inner.split_once(')').unwrap();
            }
            sql += &self.word(word, argument);
            sql += rest;
        }
        sql
    }

    fn word(&mut self, word: &str, argument: &str) -> String {
        match word {
            "a" => format!("a_{}", self.kind.name),
            "b" => format!("b_{}", self.kind.name),
            "likea" => format!("a_{}", self.like.name),
            "likeb" => format!("b_{}", self.like.name),
            "type" => self.kind.column.to_owned(),
            "val" => self.value(),
            "typed" => self.typed(),
            "key" => self.key_condition(argument),
            "cond" => {
                let condition = self.pick(&[
                    "true",
                    "true",
                    "COLg = 2",
                    "COLg IS NULL",
                    "COLc = 'a'",
                    "COLn > 1.5",
                    "COLg < 3 OR COLc IS NULL",
                    "false",
                    "NOT COLg > 1",
                ]);
                format!("({})", condition.replace("COL", argument))
            }
            "bcond" => {
                let condition = self.pick(&[
                    "true",
                    "true",
                    "COLid > 1",
                    "COLamount < 900",
                    "COLnote = 'note 1'",
                    "COLid IN (1, 3)",
                ]);
                format!("({})", condition.replace("COL", argument))
            }
            "int" => self.pick(&["0", "1", "2", "3", "4", "5", "NULL", "7", "-1"]),
            "id" => self.rng.random_range(1..9).to_string(),
            "num" => self.pick(&["0", "1.5", "2", "2.255", "-3", "NULL", "10.00", "999.99", "1000"]),
            "txt" => self.pick(&["'a'", "'A'", "'ä'", "''", "NULL", "'new'", "'it''s'", "'{x}'", "E'tab\\t'"]),
            "ret" => {
                self.pick(&["", "", " RETURNING k", " RETURNING *", " RETURNING k, g + 1 AS next, c", " RETURNING c"])
            }
            "bret" => self.pick(&["", "", " RETURNING k, id", " RETURNING *", " RETURNING id * 2 AS double, note"]),
            "limit" => self.pick(&["", "", " LIMIT 3", " LIMIT 5 OFFSET 2", " OFFSET 4"]),
            "dir" => self.pick(&["", " DESC", " ASC NULLS FIRST", " DESC NULLS LAST"]),
            "code" => self.rng.random_range(0..9).to_string(),
            _ => panic!("@{word} means nothing"),
        }
    }

    /// A key: mostly one of those that may be there.
    pub(crate) fn key(&mut self) -> String {
        if let Some(only) = &self.only {
            return only.clone();
        }
        if self.rng.random_bool(0.95) {
            return (*self.kind.keys.choose(self.rng).unwrap()).to_owned();
        }
        match self.kind.family {
            Family::Integer(_) => self.pick(&["20", "-300", "40000", "3000000000", "99999999999999999999"]),
            Family::Text => self.pick(&["nobody", "abcdefghijkl ", "abcdefghijklm", "Ä ", "[a]"]),
            Family::Uuid => self.pick(&["0a0a0a0a-0000-4000-8000-0000000000ff", "0a0a0a0a"]),
        }
    }

    /// A key as SQL says it.
    pub(crate) fn value(&mut self) -> String {
        if self.rng.random_bool(0.35) {
            return self.parameter();
        }
        let key = self.key();
        if self.rng.random_bool(0.02) {
            return self.pick(&["NULL", "DEFAULT", "1 + 1", "(SELECT 1)", "'x' || 'y'", "true"]);
        }
        let odd = self.rng.random_bool(0.35);
        match self.kind.family {
            Family::Integer(_) if odd => self
                .pick(&[
                    "'K'",
                    "K::int8",
                    "K::int4",
                    "K::int2",
                    "'K'::int8",
                    "'K'::int2",
                    "int8 'K'",
                    "CAST(K AS bigint)",
                    "(K)",
                    "+ K",
                    "K.0",
                    "Ke0",
                    "' K '",
                    "K::numeric",
                    "K::text::int8",
                    "K::float8",
                    "'K'::text",
                    "'0K'",
                    "(K)::int8",
                    "- (- (K))",
                    "'K'::oid",
                    "bigint 'K'",
                    "K::pg_catalog.int8",
                    "'K.0'",
                    "K::int8::int4",
                ])
                .replace('K', &key),
            Family::Integer(_) => key,
            Family::Text if odd => {
                let form = self.pick(&[
                    "K::text",
                    "K::varchar",
                    "K::varchar(2)",
                    "K::bpchar",
                    "K::char(5)",
                    "K::char",
                    "K::name",
                    "text K",
                    "varchar K",
                    "CAST(K AS character varying)",
                    "K || ''",
                    "K COLLATE \"C\"",
                    "lower(K)",
                    "K::text::varchar",
                    "(K)",
                    "QKQ",
                    "EK",
                    "K::varchar(40)",
                    "CAST(K AS varchar(12))",
                    "K::\"char\"",
                    "K::pg_catalog.text",
                    "K::character varying(1)",
                    "UK",
                ]);
                match form.as_str() {
                    "QKQ" => format!("$q${key}$q$"),
                    "EK" => format!("E'{}'", key.replace('\\', "\\\\").replace('\'', "\\'").replace('a', "\\x61")),
                    "UK" => format!("U&'{}'", key.replace('\\', "\\\\").replace('\'', "''").replace('a', "\\0061")),
                    form => form.replace('K', &quoted(&key)),
                }
            }
            Family::Uuid if odd => match self.rng.random_range(0..6) {
                0 => quoted(&key.to_uppercase()),
                1 => format!("'{{{key}}}'"),
                2 => quoted(&key.replace('-', "")),
                3 => format!("'{key}'::uuid"),
                4 => format!("uuid '{key}'"),
                _ => format!("'{key}'::text::uuid"),
            },
            Family::Text | Family::Uuid => quoted(&key),
        }
    }

    /// A key of the column's type wherever it stands.
    fn typed(&mut self) -> String {
        let column = match self.kind.family {
            Family::Text => "text",
            _ => self.kind.column,
        };
        if self.rng.random_bool(0.3) {
            format!("{}::{column}", self.plain_parameter())
        } else {
            format!("{}::{column}", quoted(&self.key()))
        }
    }

    /// A parameter that has the type of what it stands beside.
    fn plain_parameter(&mut self) -> String {
        let kind = self.kind;
        self.add(0, kind.column, false)
    }

    fn parameter(&mut self) -> String {
        let known = self.params.len();
        if known > 0 && self.rng.random_bool(0.1) {
            // One of before, which may have got another type there.
            return format!("${}", self.rng.random_range(1..=known));
        }
        // What Parse declares, the cast behind it, and the type in which the value is sent.
        let (oid, cast, sent): (u32, &str, &str) = match self.kind.family {
            Family::Integer(_) => *[
                (0, "", ""),
                (0, "", ""),
                (20, "", "int8"),
                (23, "", "int4"),
                (21, "", "int2"),
                (0, "::int8", "int8"),
                (0, "::int4", "int4"),
                (23, "::int8", "int4"),
                (20, "::int2", "int8"),
                (25, "::int8", "text"),
                (0, "::text::int8", "text"),
                (705, "", ""),
                (1700, "", "numeric"),
            ]
            .choose(self.rng)
            .unwrap(),
            Family::Text => *[
                (0, "", "text"),
                (0, "", "text"),
                (25, "", "text"),
                (1043, "", "text"),
                (1042, "", "text"),
                (705, "", "text"),
                (0, "::text", "text"),
                (0, "::varchar", "text"),
                (0, "::varchar(2)", "text"),
                (0, "::bpchar", "text"),
                (19, "", "text"),
                (25, "::varchar(3)", "text"),
            ]
            .choose(self.rng)
            .unwrap(),
            Family::Uuid => *[
                (0, "", "uuid"),
                (2950, "", "uuid"),
                (0, "::uuid", "uuid"),
                (0, "::text::uuid", "text"),
                (25, "::uuid", "text"),
                (705, "", "uuid"),
            ]
            .choose(self.rng)
            .unwrap(),
        };
        let sent = if sent.is_empty() { self.kind.column } else { sent };
        let place = self.add(oid, sent, false);
        format!("{place}{cast}")
    }

    /// Counts a parameter of the type `sent`, with two values.
    fn add(&mut self, oid: u32, sent: &'static str, array: bool) -> String {
        let values = [self.sendable(sent, array), self.sendable(sent, array)];
        self.params.push(Param { oid, values });
        format!("${}", self.params.len())
    }

    /// Counts a parameter of the type `sent` with this value.
    pub(crate) fn bind(&mut self, oid: u32, sent: &str, value: &str) -> String {
        let value = binary(sent, value).map(|binary| Value { text: value.to_owned(), binary });
        self.params.push(Param { oid, values: [value.clone(), value] });
        format!("${}", self.params.len())
    }

    fn sendable(&mut self, sent: &str, array: bool) -> Option<Value> {
        if self.rng.random_bool(0.03) {
            return None;
        }
        if !array {
            // Not every key is a value of every type.
            return (0..20).find_map(|_| {
                let key = self.key();
                binary(sent, &key).map(|binary| Value { text: key, binary })
            });
        }
        let count = self.rng.random_range(0..5);
        let mut keys: Vec<Option<String>> = (0..count).map(|_| Some(self.key())).collect();
        keys.retain(|key| key.as_ref().is_some_and(|key| binary(sent, key).is_some()));
        if self.rng.random_bool(0.1) {
            keys.push(None);
        }
        let mut body = Vec::new();
        let element: u32 = match sent {
            "int2" => 21,
            "int4" => 23,
            "int8" => 20,
            "uuid" => 2950,
            "varchar(12)" => 1043,
            _ => 25,
        };
        let count = i32::try_from(keys.len()).unwrap();
        let has_null = i32::from(keys.iter().any(Option::is_none));
        for number in [i32::from(count > 0), has_null, element.cast_signed()] {
            body.extend(number.to_be_bytes());
        }
        if count > 0 {
            body.extend(count.to_be_bytes());
            body.extend(1_i32.to_be_bytes());
        }
        for key in &keys {
            match key.as_ref().and_then(|key| binary(sent, key)) {
                None => body.extend((-1_i32).to_be_bytes()),
                Some(bytes) => {
                    body.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                    body.extend(bytes);
                }
            }
        }
        Some(Value { text: braces(&keys), binary: body })
    }

    /// A condition on the key in this column: one that ties it, or looks as if it did.
    pub(crate) fn key_condition(&mut self, column: &str) -> String {
        let value = |this: &mut Self| this.value();
        match self.rng.random_range(0..32) {
            0..=6 => format!("{column} = {}", value(self)),
            7 => format!("{} = {column}", value(self)),
            8..=10 => {
                let count = self.rng.random_range(1..5);
                let values: Vec<String> = (0..count).map(|_| self.value()).collect();
                format!("{column} IN ({})", values.join(", "))
            }
            11 => {
                let count = self.rng.random_range(1..4);
                let values: Vec<String> = (0..count).map(|_| self.value()).collect();
                format!("{column} = ANY (ARRAY[{}])", values.join(", "))
            }
            12 => {
                let keys: Vec<Option<String>> = (0..self.rng.random_range(0..4)).map(|_| Some(self.key())).collect();
                let array = quoted(&braces(&keys));
                let cast = match self.kind.family {
                    Family::Integer(_) => self.pick(&["", "", "::int8[]", "::int4[]", "::int2[]"]),
                    Family::Text => self.pick(&["", "", "::text[]", "::varchar[]", "::varchar(2)[]", "::bpchar[]"]),
                    Family::Uuid => self.pick(&["", "", "::uuid[]"]),
                };
                format!("{column} = ANY ({array}{cast})")
            }
            13 | 14 => {
                let sent = self.kind.column;
                let array = match self.kind.family {
                    Family::Text => "text[]",
                    Family::Uuid => "uuid[]",
                    Family::Integer(2) => "int2[]",
                    Family::Integer(4) => "int4[]",
                    Family::Integer(_) => "int8[]",
                };
                let declared = self.rng.random_bool(0.5);
                let sent = if declared && self.kind.family == Family::Text { "text" } else { sent };
                let place = self.add(0, sent, true);
                if declared {
                    format!("{column} = ANY ({place}::{array})")
                } else {
                    format!("{column} = ANY ({place})")
                }
            }
            15 => format!("({column} = {} OR {column} = {})", value(self), value(self)),
            16 => format!("{column} = {} AND {column} = {}", value(self), value(self)),
            17 => format!("{column} IS NOT DISTINCT FROM {}", value(self)),
            18 => format!("{column} <> {}", value(self)),
            19 => format!("{column} >= {}", value(self)),
            20 => format!("({column}, 1) = ({}, 1)", value(self)),
            21 => format!("NOT ({column} IN ({}, {}))", value(self), value(self)),
            22 => format!("{column} BETWEEN {} AND {}", value(self), value(self)),
            23 => format!("{column} IN (SELECT {})", value(self)),
            24 => format!("{column} = {} AND {column} IN ({}, {})", value(self), value(self), value(self)),
            _ => {
                let shape = self.pick(&[
                    "(COL) = V",
                    "V IN (COL)",
                    "COL = SOME (ARRAY[V, W])",
                    "COL = ALL (ARRAY[V])",
                    "COL IN (VALUES (V), (W))",
                    "COL::text = V",
                    "COL COLLATE \"C\" = V",
                    "COL OPERATOR(pg_catalog.=) V",
                    "NOT COL <> V",
                    "(COL = V) IS TRUE",
                    "(COL = V) IS NOT FALSE",
                    "(COL = V) = true",
                    "COL = V AND NULL IS NULL",
                    "CASE WHEN COL = V THEN true END",
                    "coalesce(COL = V, false)",
                    "COL LIKE V",
                    "(COL IN (V, W)) IS NOT TRUE",
                    "COL = V OR COL = V",
                    "COL = nullif(V, W)",
                    "COL = coalesce(V, W)",
                    "COL = greatest(V, W)",
                    "COL IN (V) OR false",
                    "true AND COL = V",
                    "COL = V AND NOT COL = W",
                    "COL = COL",
                    "COL IS NULL",
                    "(COL = V) = (COL = W)",
                    "COL <= V AND COL >= V",
                    "lower(COL::text) = V",
                    "COL = any (ARRAY[[V, W], [W, V]])",
                    "(COL, COL) = (V, W)",
                    "(COL, 2) IN ((V, 2), (W, 3))",
                    "COL IN (V, NULL)",
                    "COL = V AND COL IS NOT NULL",
                    "ARRAY[COL] = ARRAY[V]",
                ]);
                let (v, w) = (self.value(), self.value());
                shape
                    .replace("COL", "\u{1}")
                    .replace("\u{1}LATE", "COLLATE")
                    .replace('V', "\u{2}")
                    .replace('W', "\u{3}")
                    .replace("\u{2}ALUES", "VALUES")
                    .replace("\u{3}HEN", "WHEN")
                    .replace('\u{1}', column)
                    .replace('\u{2}', &v)
                    .replace('\u{3}', &w)
            }
        }
    }
}

/// An array as text.
fn braces(keys: &[Option<String>]) -> String {
    let elements = keys.iter().map(|key| match key {
        None => "NULL".to_owned(),
        Some(key) if !key.is_empty() && key.chars().all(|c| c.is_ascii_digit() || c == '-') => key.clone(),
        Some(key) => format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")),
    });
    format!("{{{}}}", elements.collect::<Vec<_>>().join(","))
}

/// The value as a parameter of this type is sent in binary, if it is one of that type.
fn binary(sent: &str, key: &str) -> Option<Vec<u8>> {
    match sent {
        "int2" => Some(key.parse::<i16>().ok()?.to_be_bytes().to_vec()),
        "int4" => Some(key.parse::<i32>().ok()?.to_be_bytes().to_vec()),
        "int8" => Some(key.parse::<i64>().ok()?.to_be_bytes().to_vec()),
        "numeric" => {
            // One digit to the base of 10000 is enough.
            let value = key.parse::<i16>().ok().filter(|value| value.unsigned_abs() < 10_000)?;
            let sign: u16 = if value < 0 { 0x4000 } else { 0 };
            let digits: &[u16] = if value == 0 { &[] } else { &[value.unsigned_abs()] };
            let head = [u16::from(value != 0), 0, sign, 0];
            Some(head.iter().chain(digits).flat_map(|number| number.to_be_bytes()).collect())
        }
        "uuid" => {
            let digits = key.replace('-', "");
            let bytes = (0..16).map(|i| u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok());
            bytes.collect()
        }
        _ => Some(key.as_bytes().to_vec()),
    }
}
