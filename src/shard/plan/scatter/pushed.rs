//! What the shards are sent where the statement cannot go as it stands, and how their answers are merged.
//!
//! Rows: the select list, and behind it each key of ORDER BY once more, hidden from the client; LIMIT and OFFSET as one LIMIT. Groups: the
//! keys that are shown, the parts of the aggregates, and the keys once more. What is hidden comes in binary, which no setting
//! changes.

use super::Scatter;
use crate::error::Error;
use crate::shard::merge::aggregate::{Aggregate, Combine, decompose, needs_argument_type};
use crate::shard::merge::{Collation, Column, Distinct, Format, Output, Shape, SortKey, Source, Spec};
use crate::sql::scatter::{self, Groups, What};

/// What the shards are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The statement.
    pub sql: String,
    /// Columns at the end that the client does not see.
    pub hidden: usize,
    /// The expression of each of the last columns of which the collation matters, where it is known: those that are hidden, and with
    /// DISTINCT all. Aligned to the end.
    collated: Vec<String>,
    shape: Made,
    /// What is left to do is a shard's: the rows are not for the client, and come in no order.
    pub finishes: bool,
    /// How many columns the client sees, where the rows that are brought together have others.
    shown: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Made {
    Rows,
    Groups { keys: Vec<usize>, aggregates: Vec<Aggregate>, output: Vec<Source>, sort: Vec<Source> },
}

/// What must be asked of one shard before a statement with groups can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// A statement whose columns have the types of the aggregates' arguments.
    pub arguments: Option<String>,
    /// Statements that must fail with 42703: names that must not be columns.
    pub not_columns: Vec<String>,
}

/// What is known of a column that shards send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its type.
    pub type_oid: u32,
    /// Its modifier.
    pub type_modifier: i32,
    /// How it is written.
    pub format: Format,
}

/// A question for the collation of some columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collated {
    /// The statement: a column for each of `places`, which says `b` (bytes are compared), `d` (deterministic) or else.
    pub sql: String,
    /// The places of the columns.
    pub places: Vec<usize>,
}

/// Types whose values have collations. `name` has one as well: C, unless COLLATE gives it another.
pub(super) fn is_text(type_oid: u32) -> bool {
    matches!(type_oid, 19 | 25 | 1042 | 1043)
}

impl Scatter {
    /// What is needed to know to write a statement with groups; none for rows.
    #[must_use]
    pub fn needs(&self) -> Option<Needs> {
        let groups = self.select.groups.as_ref()?;
        let source = &self.select.source;
        let typed: Vec<&str> = typed_arguments(groups).collect();
        let arguments = (!typed.is_empty()).then(|| {
            let list: Vec<String> = typed.iter().map(|argument| format!("({argument})")).collect();
            format!("SELECT {}{source}", list.join(", "))
        });
        let quoted = |name: &String| format!("SELECT \"{}\"{source}", name.replace('"', "\"\""));
        Some(Needs { arguments, not_columns: groups.not_columns.iter().map(quoted).collect() })
    }

    /// What the shards are sent for rows.
    #[must_use]
    pub fn rows(&self) -> Pushed {
        let select = &self.select;
        let mut list: Vec<String> = select.targets.iter().map(|target| target.sql.clone()).collect();
        let hidden = select.sort.len();
        let keys = select.sort.iter().enumerate();
        list.extend(keys.map(|(at, key)| format!("({}) AS pgweir_key_{at}", key.sql)));
        let distinct = match &select.distinct {
            scatter::Distinct::All => String::new(),
            scatter::Distinct::Rows => "DISTINCT ".to_owned(),
            scatter::Distinct::On(_, on) => format!("DISTINCT ON ({on}) "),
        };
        let limit = self.limit.and_then(|limit| limit.checked_add(self.offset));
        let limit = limit.filter(|rows| i64::try_from(*rows).is_ok()).map(|rows| format!(" LIMIT {rows}"));
        let star = select.targets.iter().any(|target| target.what == What::Star);
        let shown = select.targets.iter().map(|target| target.value.clone());
        let shown: Vec<String> =
            if star || select.distinct != scatter::Distinct::Rows { Vec::new() } else { shown.collect() };
        Pushed {
            sql: format!(
                "SELECT {distinct}{}{}{}{}",
                list.join(", "),
                select.tail,
                select.order_by,
                limit.unwrap_or_default()
            ),
            hidden,
            collated: shown.into_iter().chain(select.sort.iter().map(|key| key.sql.clone())).collect(),
            shape: Made::Rows,
            finishes: false,
            shown: None,
        }
    }

    /// What the shards are sent for groups; `arguments` are the types that [`Needs::arguments`] has brought.
    ///
    /// # Errors
    /// An aggregate cannot be made of parts.
    pub fn groups(&self, arguments: &[u32]) -> Result<Pushed, Error> {
        let Some(groups) = &self.select.groups else { return Ok(self.rows()) };
        let mut making = Making::default();
        let mut output = Vec::new();
        for target in &self.select.targets {
            output.push(match target.what {
                What::Aggregate(at) => Source::Aggregate(at),
                What::Key(at) => Source::Column(making.key(groups.keys.get(at).map_or("", String::as_str))),
                What::Star | What::Value => return Err(super::refusal::lost()),
            });
        }
        let aggregates = making.aggregates(groups, arguments)?;
        let first_key = making.list.len();
        for key in &groups.keys {
            making.key(key);
        }
        let sort = self.select.sort.iter().map(|key| match key.what {
            What::Aggregate(at) => Ok(Source::Aggregate(at)),
            What::Key(at) => Ok(Source::Column(first_key.saturating_add(at))),
            What::Star | What::Value => Err(super::refusal::lost()),
        });
        let sort = sort.collect::<Result<_, _>>()?;
        Ok(making.groups(&self.select.tail, aggregates, output, sort))
    }
}

/// The select list of a statement for parts of groups.
#[derive(Debug, Default)]
pub(super) struct Making {
    list: Vec<String>,
    collated: Vec<String>,
    keys: Vec<usize>,
}

impl Making {
    /// Adds a key; its place.
    pub(super) fn key(&mut self, key: &str) -> usize {
        let place = self.list.len();
        self.keys.push(place);
        self.list.push(format!("({key})"));
        self.collated.push(key.to_owned());
        place
    }

    /// Adds the parts of all aggregates.
    pub(super) fn aggregates(&mut self, groups: &Groups, arguments: &[u32]) -> Result<Vec<Aggregate>, Error> {
        let mut types = arguments.iter().copied();
        let mut aggregates = Vec::new();
        for aggregate in &groups.aggregates {
            let typed = needs_argument_type(&aggregate.name).then(|| types.next()).flatten();
            let made = decompose(&aggregate.name, typed)?;
            let repeats = made.parts.len() > 1 || made.parts.iter().any(|part| part.repeats_argument());
            if aggregate.draws && repeats {
                return Err(super::refusal::unfit("with an aggregate of values that are drawn for each row", None)
                    .because("draws"));
            }
            let mut parts = Vec::new();
            for part in &made.parts {
                parts.push(self.list.len());
                let distinct = if aggregate.distinct { "DISTINCT " } else { "" };
                let argument = format!("{distinct}{}", aggregate.argument.as_deref().unwrap_or("*"));
                self.list.push(format!("{}{}", part.sql(&argument), aggregate.filter));
                self.collated.push(aggregate.argument.clone().unwrap_or_default());
            }
            aggregates.push(Aggregate { combine: made.combine, parts });
        }
        Ok(aggregates)
    }

    /// The statement; `tail` is what stands behind the list.
    pub(super) fn groups(
        self,
        tail: &str,
        aggregates: Vec<Aggregate>,
        output: Vec<Source>,
        sort: Vec<Source>,
    ) -> Pushed {
        let named: Vec<String> =
            self.list.iter().enumerate().map(|(at, sql)| format!("{sql} AS pgweir_{at}")).collect();
        Pushed {
            sql: format!("SELECT {}{tail}", named.join(", ")),
            hidden: self.list.len(),
            collated: self.collated,
            shape: Made::Groups { keys: self.keys, aggregates, output, sort },
            finishes: false,
            shown: None,
        }
    }
}

fn typed_arguments(groups: &Groups) -> impl Iterator<Item = &str> {
    let typed = groups.aggregates.iter().filter(|aggregate| needs_argument_type(&aggregate.name));
    typed.map(|aggregate| aggregate.argument.as_deref().unwrap_or("NULL"))
}

impl Pushed {
    /// The same where one shard does what is left to do; `shown`: how many columns the client sees, where these are others.
    pub(super) fn finishing(self, shown: Option<usize>) -> Self {
        Self { finishes: true, shown, ..self }
    }

    /// How many of `columns` columns, or of what is made of them, the client sees.
    #[must_use]
    pub fn shown(&self, columns: usize) -> usize {
        self.shown.unwrap_or(match &self.shape {
            Made::Rows => columns.saturating_sub(self.hidden),
            Made::Groups { output, .. } => output.len(),
        })
    }

    /// The format to ask for of each of `columns` columns, as in Bind, where the client asks for `wanted`.
    #[must_use]
    pub fn formats(&self, wanted: &[i16], columns: usize) -> Vec<i16> {
        let of = |output: usize| match wanted {
            [] => 0,
            [format] => *format,
            formats => formats.get(output).copied().unwrap_or(0),
        };
        match &self.shape {
            _ if self.finishes => vec![1; columns],
            Made::Rows => {
                let shown = columns.saturating_sub(self.hidden);
                (0..shown).map(of).chain(std::iter::repeat_n(1, self.hidden)).collect()
            }
            Made::Groups { aggregates, output, .. } => {
                let mut formats = vec![1; columns];
                for (at, source) in output.iter().enumerate() {
                    let column = match source {
                        Source::Column(column) => Some(column),
                        Source::Aggregate(number) => aggregates
                            .get(*number)
                            .filter(|aggregate| matches!(aggregate.combine, Combine::Min | Combine::Max))
                            .and_then(|aggregate| aggregate.parts.first()),
                    };
                    if let Some(format) = column.and_then(|column| formats.get_mut(*column)) {
                        *format = of(at);
                    }
                }
                formats
            }
        }
    }

    /// The question for collations that decide, once the types of all columns are known. Under another client_encoding than the
    /// server's none is known, for bytes are not then what the server compares.
    #[must_use]
    pub fn collated(&self, columns: &[Seen], source: &str) -> Option<Collated> {
        let first = columns.len().saturating_sub(self.collated.len());
        let texts = columns.iter().enumerate().skip(first).filter(|(_, column)| is_text(column.type_oid));
        let (mut places, mut list) = (Vec::new(), Vec::new());
        for (place, _) in texts {
            let Some(expression) = self.collated.get(place.saturating_sub(first)).filter(|sql| !sql.is_empty()) else {
                continue;
            };
            places.push(place);
            list.push(format!(
                "(SELECT CASE WHEN pg_catalog.pg_client_encoding() OPERATOR(pg_catalog.<>) pg_catalog.getdatabaseencoding() THEN 'u' \
                   WHEN c.collprovider = 'c' AND c.collcollate IN ('C', 'POSIX') THEN 'b' \
                   WHEN c.collprovider = 'd' AND d.datcollate IN ('C', 'POSIX') \
                     AND coalesce(pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'datlocprovider', 'c') = 'c' THEN 'b' \
                   WHEN c.collisdeterministic THEN 'd' ELSE 'u' END \
                 FROM pg_catalog.pg_collation AS c, pg_catalog.pg_database AS d \
                 WHERE d.datname = pg_catalog.current_database() AND c.oid = pg_catalog.pg_collation_for( \
                   (SELECT ({expression}){source} LIMIT 0))::pg_catalog.regcollation)"
            ));
        }
        (!places.is_empty()).then(|| Collated { sql: format!("SELECT {}", list.join(", ")), places })
    }

    /// How the answers are merged. `columns` is what the shards send, `collations` what is known of their collations; `wanted` the
    /// formats that the client asks for.
    #[must_use]
    pub fn spec(
        &self,
        scatter: &Scatter,
        columns: &[Seen],
        collations: &[(usize, Collation)],
        wanted: &[i16],
    ) -> (Spec, Vec<Column>) {
        let collation = |place: usize, type_oid: u32| {
            let known = collations.iter().find(|(at, _)| *at == place).map(|(_, collation)| *collation);
            known.unwrap_or(if is_text(type_oid) { Collation::Unknown } else { Collation::Bytes })
        };
        let made = columns.iter().enumerate().map(|(place, column)| Column {
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            format: column.format,
            collation: collation(place, column.type_oid),
        });
        let made: Vec<Column> = made.collect();
        let sort = |at: usize, source: Source| {
            let key = scatter.select.sort.get(at);
            SortKey {
                source,
                descending: key.is_some_and(|key| key.descending),
                nulls_first: key.is_some_and(|key| key.nulls_first),
            }
        };
        let format_of = |output: usize| match wanted {
            _ if self.finishes => Format::Binary,
            [] => Format::Text,
            [format] => Format::from_code(*format).unwrap_or(Format::Text),
            formats => formats.get(output).copied().and_then(Format::from_code).unwrap_or(Format::Text),
        };
        let (shape, output, sort) = match &self.shape {
            Made::Rows if self.finishes => {
                let output = (0..columns.len()).map(|at| Output { source: Source::Column(at), format: Format::Binary });
                (Shape::Rows, output.collect(), Vec::new())
            }
            Made::Rows => {
                let shown = columns.len().saturating_sub(self.hidden);
                let output = made.iter().take(shown).enumerate();
                let output = output.map(|(at, column)| Output { source: Source::Column(at), format: column.format });
                let keys = (0..self.hidden).map(|at| sort(at, Source::Column(shown.saturating_add(at))));
                (Shape::Rows, output.collect(), keys.collect())
            }
            Made::Groups { keys, aggregates, output, sort: by } => {
                let output = output.iter().enumerate();
                let output = output.map(|(at, source)| Output { source: *source, format: format_of(at) });
                let keys_of_sort = by.iter().enumerate().map(|(at, source)| sort(at, *source));
                let shape = Shape::Groups { keys: keys.clone(), aggregates: aggregates.clone() };
                (shape, output.collect(), keys_of_sort.collect())
            }
        };
        let distinct = match scatter.select.distinct {
            scatter::Distinct::All => Distinct::All,
            // Of what is computed of groups nothing is known yet; of rows the keys of ORDER BY are among what is shown.
            scatter::Distinct::Rows if self.finishes && scatter.select.groups.is_some() => Distinct::All,
            scatter::Distinct::On(..) if self.finishes => Distinct::All,
            scatter::Distinct::Rows => Distinct::Rows,
            scatter::Distinct::On(keys, _) => Distinct::FirstBy(keys),
        };
        let (offset, limit) = if self.finishes { (0, None) } else { (scatter.offset, scatter.limit) };
        (Spec { shape, output, sort, distinct, offset, limit, memory_limit: Spec::MEMORY_LIMIT }, made)
    }
}
