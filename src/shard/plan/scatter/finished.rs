//! What one shard is asked at last, where what is left to do of rows that were brought together is PostgreSQL's to compute: HAVING,
//! expressions over groups, and an order that is not known here.
//!
//! The rows go back as parameters, an array for each column, so that nothing of the session is touched. What a column's texts compare by
//! goes with it: a column of a sub-query has its collation as one of a table has.

use super::pushed::{Collated, Making, Pushed, is_text};
use super::{Scatter, refusal};
use crate::error::Error;
use crate::shard::merge::Source;
use crate::sql::scatter::{Distinct, Finish, Sort, column};

/// What is asked at last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// The statement. The client's parameters are its first, if it has any; then comes an array for each column.
    pub sql: String,
    /// The types of the arrays.
    pub arrays: Vec<u32>,
}

/// The arrays of PostgreSQL's own types: those that a value can be sent back by. Sorted by the element's type.
const ARRAYS: [(u32, u32); 30] = [
    (16, 1000),
    (17, 1001),
    (18, 1002),
    (19, 1003),
    (20, 1016),
    (21, 1005),
    (23, 1007),
    (25, 1009),
    (26, 1028),
    (114, 199),
    (600, 1017),
    (650, 651),
    (700, 1021),
    (701, 1022),
    (774, 775),
    (790, 791),
    (829, 1040),
    (869, 1041),
    (1042, 1014),
    (1043, 1015),
    (1082, 1182),
    (1083, 1183),
    (1114, 1115),
    (1184, 1185),
    (1186, 1187),
    (1266, 1270),
    (1560, 1561),
    (1562, 1563),
    (1700, 1231),
    (2950, 2951),
];

fn array_of(type_oid: u32) -> Option<u32> {
    if type_oid == 3802 {
        return Some(3807);
    }
    ARRAYS.binary_search_by_key(&type_oid, |(element, _)| *element).ok().and_then(|at| ARRAYS.get(at)).map(|(_, a)| *a)
}

impl Scatter {
    /// Whether a shard must compute what is left to do of groups.
    #[must_use]
    pub fn must_finish(&self) -> bool {
        self.select.finish.as_ref().is_some_and(|finish| finish.needed)
    }

    /// What the shards are sent where one of them finishes; none where nobody can. `arguments` as for [`Scatter::groups`].
    ///
    /// # Errors
    /// An aggregate cannot be made of parts.
    pub fn finished(&self, arguments: &[u32]) -> Result<Option<Pushed>, Error> {
        let Some(groups) = &self.select.groups else {
            return Ok((!self.select.sort.is_empty()).then(|| self.rows().finishing(None)));
        };
        let Some(finish) = &self.select.finish else { return Ok(None) };
        let mut making = Making::default();
        let aggregates = making.aggregates(groups, arguments)?;
        let keys: Vec<Source> = groups.keys.iter().map(|key| Source::Column(making.key(key))).collect();
        let output = keys.into_iter().chain((0..aggregates.len()).map(Source::Aggregate)).collect();
        let pushed = making.groups(&self.select.tail, aggregates, output, Vec::new());
        Ok(Some(pushed.finishing(Some(finish.targets.len()))))
    }
}

impl Pushed {
    /// The question for the names of the collations of the columns that are sent back, of these types.
    #[must_use]
    pub fn named(&self, scatter: &Scatter, types: &[u32]) -> Option<Collated> {
        let select = &scatter.select;
        let expressions: Vec<Option<&str>> = match &select.groups {
            Some(groups) => {
                let keys = groups.keys.iter().map(|key| Some(key.as_str()));
                keys.chain(groups.aggregates.iter().map(|aggregate| aggregate.argument.as_deref())).collect()
            }
            None => {
                let shown = types.len().saturating_sub(self.hidden);
                (0..shown).map(|_| None).chain(select.sort.iter().map(|key| Some(key.sql.as_str()))).collect()
            }
        };
        let (mut places, mut list) = (Vec::new(), Vec::new());
        for (place, (type_oid, expression)) in types.iter().zip(expressions).enumerate() {
            if let Some(expression) = expression.filter(|_| is_text(*type_oid)) {
                places.push(place);
                list.push(format!("pg_catalog.pg_collation_for((SELECT ({expression}){} LIMIT 0))", select.values));
            }
        }
        (!places.is_empty()).then(|| Collated { sql: format!("SELECT {}", list.join(", ")), places })
    }

    /// The last statement, over columns of these types; `collations` are the answers to [`Pushed::named`], `params` says how many
    /// parameters of the client's come first.
    ///
    /// # Errors
    /// A type has no array that is known, or a text has no collation.
    pub fn last(
        &self,
        scatter: &Scatter,
        types: &[u32],
        collations: &[(usize, Option<String>)],
        params: usize,
    ) -> Result<Last, Error> {
        let array = |type_oid: &u32| array_of(*type_oid).ok_or_else(|| refusal::not_sent_back(*type_oid));
        let arrays = types.iter().map(array).collect::<Result<Vec<u32>, _>>()?;
        let (mut list, mut names, mut unnested) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..types.len() {
            let name = column(at);
            list.push(match collations.iter().find(|(place, _)| *place == at) {
                None => format!("u.{name}"),
                Some((_, Some(collation))) => format!("u.{name} COLLATE {collation} AS {name}"),
                Some((_, None)) => return Err(refusal::no_collation()),
            });
            unnested.push(format!("pg_catalog.unnest(${})", params.saturating_add(at).saturating_add(1)));
            names.push(name);
        }
        let from = format!(
            " FROM (SELECT {} FROM ROWS FROM ({}) AS u ({})) AS pgweir_rows",
            list.join(", "),
            unnested.join(", "),
            names.join(", ")
        );
        let select = match &scatter.select.finish {
            Some(finish) => of_groups(finish, &scatter.select.distinct, &from),
            None => self.of_rows(scatter, types.len(), &from),
        };
        let limit = scatter.limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
        let offset = if scatter.offset > 0 { format!(" OFFSET {}", scatter.offset) } else { String::new() };
        Ok(Last { sql: format!("{select}{limit}{offset}"), arrays })
    }

    fn of_rows(&self, scatter: &Scatter, columns: usize, from: &str) -> String {
        let shown = columns.saturating_sub(self.hidden);
        let list: Vec<String> = (0..shown).map(column).collect();
        let keys = scatter.select.sort.iter().enumerate();
        let keys: Vec<Sort> =
            keys.map(|(at, key)| Sort { sql: column(shown.saturating_add(at)), ..key.clone() }).collect();
        format!("SELECT {}{}{from}{}", on(&scatter.select.distinct, &keys), list.join(", "), order_by(&keys))
    }
}

fn of_groups(finish: &Finish, distinct: &Distinct, from: &str) -> String {
    let distinct = match distinct {
        Distinct::Rows => "DISTINCT ".to_owned(),
        distinct => on(distinct, &finish.sort),
    };
    let targets = finish.targets.iter().enumerate().map(|(at, target)| format!("({target}) AS pgweir_out_{at}"));
    let having = finish.having.as_ref().map(|having| format!(" WHERE ({having})")).unwrap_or_default();
    let targets: Vec<String> = targets.collect();
    format!("SELECT {distinct}{}{from}{having}{}", targets.join(", "), order_by(&finish.sort))
}

/// DISTINCT ON. Equal rows of shards are left out before.
fn on(distinct: &Distinct, keys: &[Sort]) -> String {
    let Distinct::On(count, _) = distinct else { return String::new() };
    let keys: Vec<String> = keys.iter().take(*count).map(|key| format!("({})", key.sql)).collect();
    format!("DISTINCT ON ({}) ", keys.join(", "))
}

fn order_by(keys: &[Sort]) -> String {
    if keys.is_empty() {
        return String::new();
    }
    format!(" ORDER BY {}", keys.iter().map(Sort::clause).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_found_by_their_elements() {
        assert!(ARRAYS.is_sorted());
        assert_eq!((array_of(20), array_of(3802), array_of(16385)), (Some(1016), Some(3807), None));
    }
}
