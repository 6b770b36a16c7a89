//! A merge against what one server would do with all the rows, by a plain sort of them.

use std::collections::{BTreeMap, BTreeSet};

use super::aggregate::{Aggregate, decompose, needs_argument_type, result_type};
use super::*;
use crate::error::SqlState;
use proptest::collection::vec;
use proptest::prelude::*;

const INT4: Column = Column { type_oid: 23, type_modifier: -1, format: Format::Text, collation: Collation::Bytes };
const TEXT: Column = Column { type_oid: 25, ..INT4 };
const INT8: Column = Column { type_oid: 20, ..INT4 };
const RULES: TextRules = TextRules { iso_dates: true, exact_floats: true };

fn body(fields: &[Option<String>]) -> Vec<u8> {
    let mut body = row::begin(fields.len());
    fields.iter().for_each(|field| row::append(&mut body, field.as_deref().map(str::as_bytes)));
    body
}

fn read(body: &[u8]) -> Vec<Option<String>> {
    let mut fields = row::Fields::new();
    let count = usize::from(u16::from_be_bytes([body[0], body[1]]));
    row::fields(body, count, &mut fields).unwrap();
    (0..count).map(|at| row::field(body, &fields, at).map(|b| String::from_utf8(b.to_vec()).unwrap())).collect()
}

fn spec(columns: usize) -> Spec {
    let output = |at| Output { source: Source::Column(at), format: Format::Text };
    Spec {
        shape: Shape::Rows,
        output: (0..columns).map(output).collect(),
        sort: Vec::new(),
        distinct: Distinct::All,
        offset: 0,
        limit: None,
        memory_limit: Spec::MEMORY_LIMIT,
    }
}

fn by(column: usize, descending: bool, nulls_first: bool) -> SortKey {
    SortKey { source: Source::Column(column), descending, nulls_first }
}

type Fields = Vec<Option<String>>;

/// Merges whole shards, reading of each only what is wanted, in turns that `turns` chooses.
fn run(spec: &Spec, columns: &[Column], shards: &[Vec<Fields>], turns: &[usize]) -> Result<Vec<Fields>> {
    let mut merge = Merge::new(spec.clone(), columns.to_vec(), RULES, shards.len())?;
    let mut rest: Vec<_> = shards.iter().map(|rows| Some(rows.iter())).collect();
    let mut turns = turns.iter().cycle();
    let mut result = Vec::new();
    loop {
        while let Some(row) = merge.pop()? {
            result.push(read(&row));
        }
        assert_eq!(merge.rows(), result.len() as u64);
        if merge.is_done() {
            assert!((0..shards.len()).all(|shard| !merge.wants(shard)));
            return Ok(result);
        }
        let wanted: Vec<usize> = (0..shards.len()).filter(|shard| merge.wants(*shard)).collect();
        assert!(!wanted.is_empty(), "nothing comes and nothing is wanted");
        let shard = wanted[turns.next().unwrap() % wanted.len()];
        match rest[shard].as_mut().unwrap().next() {
            Some(row) => merge.push(shard, &body(row))?,
            None => merge.end(shard)?,
        }
    }
}

/// A shard that waits for room gets it by rows that are not shown as well, and that is told.
#[test]
fn rows_that_are_not_shown_are_taken() {
    let left_out = [Spec { distinct: Distinct::Rows, ..spec(1) }, Spec { offset: 1000, ..spec(1) }];
    for spec in left_out {
        let mut merge = Merge::new(spec, vec![TEXT], RULES, 2).unwrap();
        let row = body(&[Some("x".repeat(1000))]);
        merge.push(0, &row).unwrap();
        merge.pop().unwrap();
        while merge.wants(1) {
            merge.push(1, &row).unwrap();
        }
        let before = merge.taken();
        assert_eq!(merge.pop().unwrap(), None);
        assert!(merge.wants(1) && merge.taken() > before);
    }
}

fn number(field: &Option<String>) -> Option<i64> {
    field.as_ref().map(|text| text.parse().unwrap())
}

/// ORDER BY a number, written as a sort key that Rust has.
fn rank(field: &Option<String>, by: SortKey) -> (i8, i64) {
    match number(field) {
        None => (if by.nulls_first { -1 } else { 1 }, 0),
        Some(value) => (0, if by.descending { -value } else { value }),
    }
}

fn rows() -> impl Strategy<Value = Vec<Vec<Fields>>> {
    let field = |range: std::ops::Range<i64>| prop::option::weighted(0.8, range.prop_map(|n| n.to_string()));
    let row = (field(-3..4), field(-30..30)).prop_map(|(a, b)| vec![a, b]);
    vec(vec(row, 0..20), 1..6)
}

proptest! {
    #[test]
    fn sorted_rows_stay_sorted(
        shards in rows(), turns in vec(0_usize..7, 1..9), directions: [bool; 4],
        window in (0_u64..9, prop::option::of(0_u64..30), 0..3),
    ) {
        let (offset, limit, distinct) = window;
        let keys = [by(0, directions[0], directions[1]), by(1, directions[2], directions[3])];
        let sort_key = |row: &Fields| (rank(&row[0], keys[0]), rank(&row[1], keys[1]));
        let mut shards = shards;
        shards.iter_mut().for_each(|rows| rows.sort_by_key(sort_key));
        let mut expected: Vec<Fields> = shards.concat();
        expected.sort_by_key(sort_key);
        let distinct = match distinct {
            0 => Distinct::All,
            1 => { expected.dedup(); Distinct::Rows }
            _ => { expected.dedup_by(|a, b| a[0] == b[0]); Distinct::FirstBy(1) }
        };
        let limited = expected.into_iter().skip(offset as usize).take(limit.unwrap_or(u64::MAX) as usize);
        let spec = Spec { sort: keys.to_vec(), offset, limit, distinct, ..spec(2) };
        prop_assert_eq!(run(&spec, &[INT4, INT4], &shards, &turns).unwrap(), limited.collect::<Vec<_>>());
    }

    #[test]
    fn distinct_needs_no_order(shards in rows(), turns in vec(0_usize..7, 1..9), sorted: bool) {
        // With an order of fewer columns than the client sees, equal rows are not beside each other.
        let sort = if sorted { vec![by(0, false, false)] } else { Vec::new() };
        let mut shards = shards;
        shards.iter_mut().for_each(|rows| rows.sort_by_key(|row| rank(&row[0], by(0, false, false))));
        let result = run(&Spec { sort, distinct: Distinct::Rows, ..spec(2) }, &[INT4, INT4], &shards, &turns).unwrap();
        let expected: BTreeSet<Fields> = shards.concat().into_iter().collect();
        prop_assert_eq!(result.len(), expected.len());
        prop_assert_eq!(result.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn groups_are_brought_together(shards in rows(), turns in vec(0_usize..7, 1..9)) {
        // Shards send (key, count, sum, min, max); here each row is a part of a group of its own.
        let part = |row: &Fields| vec![
            row[0].clone(),
            Some(if row[1].is_some() { "1" } else { "0" }.to_owned()),
            row[1].clone(), row[1].clone(), row[1].clone(),
        ];
        let parts: Vec<Vec<Fields>> = shards.iter().map(|rows| rows.iter().map(part).collect()).collect();
        let aggregate = |name, column| Aggregate { combine: decompose(name, None).unwrap().combine, parts: vec![column] };
        let aggregates = vec![aggregate("count", 1), aggregate("sum", 2), aggregate("min", 3), aggregate("max", 4)];
        let output = |source| Output { source, format: Format::Text };
        let spec = Spec {
            shape: Shape::Groups { keys: vec![0], aggregates },
            output: [Source::Column(0)].into_iter().chain((0..4).map(Source::Aggregate)).map(output).collect(),
            sort: vec![SortKey { source: Source::Aggregate(1), descending: true, nulls_first: true }, by(0, false, false)],
            ..spec(0)
        };
        let mut expected: BTreeMap<Option<i64>, Vec<i64>> = BTreeMap::new();
        for row in shards.concat() {
            expected.entry(number(&row[0])).or_default().extend(number(&row[1]));
        }
        let mut expected: Vec<_> = expected.into_iter().map(|(key, values)| {
            let sum = (!values.is_empty()).then(|| values.iter().sum::<i64>());
            let all = [key, Some(values.len() as i64), sum, values.iter().min().copied(), values.iter().max().copied()];
            all.map(|value| value.map(|n| n.to_string())).to_vec()
        }).collect();
        expected.sort_by_key(|row| (rank(&row[2], by(0, true, true)), rank(&row[0], by(0, false, false))));
        let columns = [INT4, INT8, INT8, INT4, INT4];
        prop_assert_eq!(run(&spec, &columns, &parts, &turns).unwrap(), expected);
    }

    #[test]
    fn any_rows_of_a_server_are_merged_or_refused(
        bodies in vec((0_usize..3, vec(any::<u8>(), 0..30)), 0..20), type_oid in prop::sample::select(vec![16_u32, 23, 25, 701, 1114, 1700]),
    ) {
        let column = Column { type_oid, format: Format::Binary, ..INT4 };
        let sorted = Spec { sort: vec![by(0, false, false)], output: Vec::new(), ..spec(0) };
        let mut merge = Merge::new(sorted, vec![column], RULES, 3).unwrap();
        for (shard, bytes) in bodies {
            let wrapped = [&[0, 1][..], &(bytes.len() as i32).to_be_bytes(), &bytes].concat();
            if merge.push(shard, &bytes).and_then(|()| merge.push(shard, &wrapped)).is_err() {
                break;
            }
            drop(merge.pop());
        }
    }
}

#[test]
fn a_window_of_each_shard_is_read() {
    let sorted = Spec { sort: vec![by(0, false, false)], ..spec(2) };
    let mut merge = Merge::new(sorted, vec![INT4, TEXT], RULES, 2).unwrap();
    let row = |number: usize| body(&[Some(number.to_string()), Some("x".repeat(1000))]);
    let mut pushed = 0;
    while merge.wants(0) {
        merge.push(0, &row(pushed)).unwrap();
        pushed += 1;
    }
    assert!((50..=70).contains(&pushed), "{pushed}");
    assert!(merge.wants(1) && merge.pop().unwrap().is_none());
    merge.end(1).unwrap();
    assert!(merge.pop().unwrap().is_some() && merge.wants(0));
}

#[test]
fn what_is_not_in_order_is_not_merged() {
    let sorted = Spec { sort: vec![by(0, false, false)], ..spec(1) };
    let rows = [[Some("2".to_owned())].to_vec(), [Some("1".to_owned())].to_vec()];
    for shards in [vec![rows.to_vec()], vec![rows.to_vec(), vec![]]] {
        let error = run(&sorted, &[INT4], &shards, &[0]).unwrap_err();
        assert!(error.message.contains("order"), "{error}");
    }
    let mut merge = Merge::new(spec(1), vec![INT4], RULES, 1).unwrap();
    merge.end(0).unwrap();
    assert!(merge.push(0, &body(&[None])).is_err() && merge.push(7, &body(&[None])).is_err());
}

#[test]
fn memory_has_a_limit() {
    let many: Vec<Fields> = (0..1000).map(|n| vec![Some(n.to_string())]).collect();
    let distinct = Spec { distinct: Distinct::Rows, memory_limit: 10_000, ..spec(1) };
    let groups = Spec { shape: Shape::Groups { keys: vec![0], aggregates: vec![] }, memory_limit: 10_000, ..spec(1) };
    for spec in [distinct, groups] {
        let error = run(&spec, &[INT4], std::slice::from_ref(&many), &[0]).unwrap_err();
        assert_eq!(error.sqlstate, SqlState::PROGRAM_LIMIT_EXCEEDED);
        assert!(error.hint.is_some());
    }
    // In the order of what is distinct nothing has to be remembered.
    let sorted = Spec { sort: vec![by(0, false, false)], distinct: Distinct::Rows, memory_limit: 10_000, ..spec(1) };
    assert_eq!(run(&sorted, &[INT4], &[many], &[0]).unwrap().len(), 1000);
}

#[test]
fn what_postgresql_would_not_compare_so_is_refused() {
    let sort = |column: Column| {
        let rules = TextRules::default();
        Merge::new(Spec { sort: vec![by(0, false, false)], ..spec(1) }, vec![column], rules, 2).err()
    };
    let of = |type_oid| Column { type_oid, ..INT4 };
    for column in [
        Column { collation: Collation::Deterministic, ..TEXT },
        Column { collation: Collation::Unknown, ..TEXT },
        Column { collation: Collation::Deterministic, ..of(19) },
        Column { collation: Collation::Unknown, ..of(19) },
        of(114),
        of(3802),
        of(1186),
        of(1082),
        of(1184),
        of(701),
    ] {
        let error = sort(column).unwrap_or_else(|| panic!("{column:?} is sorted"));
        assert_eq!(error.sqlstate, SqlState::FEATURE_NOT_SUPPORTED);
        assert!(error.hint.is_some());
    }
    for column in [TEXT, of(19), of(1700), INT4] {
        assert!(sort(column).is_none(), "{column:?}");
    }
    let group = |column: Column| {
        let groups = Spec { shape: Shape::Groups { keys: vec![0], aggregates: vec![] }, ..spec(1) };
        Merge::new(groups, vec![column], RULES, 2).err()
    };
    let refused = [
        of(1700),
        of(701),
        of(114),
        Column { collation: Collation::Unknown, ..TEXT },
        of(1042),
        Column { collation: Collation::Unknown, ..of(19) },
    ];
    assert!(refused.into_iter().all(|column| group(column).is_some()));
    let fixed = Column { type_modifier: 786_438, ..of(1700) };
    assert!(
        [fixed, INT4, Column { collation: Collation::Deterministic, ..TEXT }].into_iter().all(|c| group(c).is_none())
    );
}

#[test]
fn aggregates_say_what_they_need() {
    let parts = |name, argument| -> Vec<String> {
        decompose(name, argument).unwrap().parts.iter().map(|part| part.sql("x")).collect()
    };
    assert_eq!(parts("every", None), ["pg_catalog.bool_and(x)"]);
    assert_eq!(parts("avg", Some(23)), ["pg_catalog.count(x)", "pg_catalog.sum(x)"]);
    assert_eq!(parts("avg", Some(700)), ["pg_catalog.count(x)", "pg_catalog.sum((x)::pg_catalog.float8)"]);
    assert_eq!(
        parts("avg", Some(701)).last().unwrap(),
        "pg_catalog.regr_sxx((x)::pg_catalog.float8, (x)::pg_catalog.float8)"
    );
    assert_eq!(parts("stddev", Some(701)).len(), 3);
    for (name, argument) in [("avg", Some(1186)), ("stddev", Some(25)), ("string_agg", Some(25)), ("mode", None)] {
        assert_eq!(decompose(name, argument).unwrap_err().sqlstate, SqlState::FEATURE_NOT_SUPPORTED, "{name}");
    }
    assert!(needs_argument_type("avg") && decompose("avg", None).is_err() && !needs_argument_type("sum"));
    let combine = |name| decompose(name, Some(20)).unwrap().combine;
    assert_eq!(result_type(combine("sum"), &[1700]).unwrap(), 1700);
    assert!(result_type(combine("sum"), &[790]).is_err() && result_type(combine("avg"), &[20]).is_err());
}

#[test]
fn a_sum_that_is_too_large_fails() {
    let one = |name: &str, value: i64| {
        let aggregates = vec![Aggregate { combine: decompose(name, None).unwrap().combine, parts: vec![0] }];
        let output = vec![Output { source: Source::Aggregate(0), format: Format::Binary }];
        let spec = Spec { shape: Shape::Groups { keys: vec![], aggregates }, output, ..spec(0) };
        let rows = vec![vec![vec![Some(value.to_string())]]; 2];
        let mut merge = Merge::new(spec, vec![INT8], RULES, 2).unwrap();
        let pushed =
            (0..2).try_for_each(|shard| merge.push(shard, &body(&rows[shard][0])).and_then(|()| merge.end(shard)));
        pushed.and_then(|()| merge.pop())
    };
    for name in ["sum", "count"] {
        assert_eq!(one(name, i64::MAX).unwrap_err().sqlstate.as_str(), "22003");
        let body = one(name, 21).unwrap().unwrap();
        assert_eq!(body, [&[0, 1, 0, 0, 0, 8][..], &42_i64.to_be_bytes()].concat());
    }
}

#[test]
fn an_aggregate_without_rows_has_a_row() {
    let aggregates = ["count", "sum"]
        .into_iter()
        .enumerate()
        .map(|(at, name)| Aggregate { combine: decompose(name, None).unwrap().combine, parts: vec![at] })
        .collect();
    let output = (0..2).map(|at| Output { source: Source::Aggregate(at), format: Format::Text }).collect();
    let spec = Spec { shape: Shape::Groups { keys: vec![], aggregates }, output, ..spec(0) };
    let empty = vec![vec![Some("0".to_owned()), None]];
    let rows = run(&spec, &[INT8, INT8], &[empty.clone(), empty], &[0]).unwrap();
    assert_eq!(rows, [[Some("0".to_owned()), None]]);
}
