//! The parts of a SELECT that several shards are to answer.
//!
//! Its rows are the shards' rows, or, where rows of several shards belong to one group, parts of groups. Which column or expression a
//! name or a number of ORDER BY and GROUP BY means is decided by PostgreSQL's rules (`findTargetlistEntrySQL92`), as far as the text
//! alone tells.

use pg_raw_parse::{ConstValue, Node, nodes, raw};

use super::Unfit;
use super::expression::{Clause, Found, check, params};
use super::finish::{self, Finish, Stands};
use super::from::From;
use super::write;

/// A SELECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// It can be sent as it stands, and the rows of all shards are the result: it has neither order nor limits nor groups that matter.
    pub plain: bool,
    /// The select list.
    pub targets: Vec<Target>,
    /// DISTINCT.
    pub distinct: Distinct,
    /// FROM, WHERE, GROUP BY and HAVING, beginning with a space.
    pub tail: String,
    /// FROM and WHERE alone.
    pub source: String,
    /// Those, and GROUP BY where the shards have whole groups, without numbers or names of the select list: what is asked of single values
    /// stands before this.
    pub values: String,
    /// Its groups, where rows of several shards may belong to one.
    pub groups: Option<Groups>,
    /// How the rest is computed of whole groups, where it can be.
    pub finish: Option<Finish>,
    /// ORDER BY.
    pub sort: Vec<Sort>,
    /// The whole clause, beginning with a space; empty without one.
    pub order_by: String,
    /// LIMIT.
    pub limit: Bound,
    /// OFFSET.
    pub offset: Bound,
    /// It is grouped, and each group lies on one shard.
    pub grouped_by_key: bool,
}

/// An entry of the select list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As it is written, with its name.
    pub sql: String,
    /// The expression alone; empty of `*`.
    pub value: String,
    /// What it shows.
    pub what: What,
}

/// What a value is, to those who bring the shards' rows together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// All columns of one or all tables.
    Star,
    /// A value of the row.
    Value,
    /// The key of the groups with this place in [`Groups::keys`].
    Key(usize),
    /// The aggregate with this place in [`Groups::aggregates`].
    Aggregate(usize),
}

/// Groups that are brought together from parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// The expressions they are grouped by; none: it is one group.
    pub keys: Vec<String>,
    /// The aggregates that are seen or sorted by.
    pub aggregates: Vec<Aggregate>,
    /// Names that must not be columns of the tables, for they are taken for names of the select list.
    pub not_columns: Vec<String>,
}

impl Groups {
    /// The place of an aggregate, which is added if it is not there yet.
    fn number(&mut self, aggregate: Aggregate) -> usize {
        let known = self.aggregates.iter().position(|known| *known == aggregate && !known.draws);
        known.unwrap_or_else(|| {
            self.aggregates.push(aggregate);
            self.aggregates.len() - 1
        })
    }
}

/// A call of one of PostgreSQL's own aggregates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// Its name.
    pub name: String,
    /// Its argument; none: `*`.
    pub argument: Option<String>,
    /// What FILTER says, ` FILTER (WHERE ...)`, or nothing.
    pub filter: String,
    /// The argument draws another value each time.
    pub draws: bool,
    /// Each value of the argument, which is a sharding key, counts once: no two shards have the same.
    pub distinct: bool,
}

/// DISTINCT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distinct {
    /// Without.
    All,
    /// DISTINCT.
    Rows,
    /// DISTINCT ON the first so many keys of ORDER BY; the clause as it is written.
    On(usize, String),
}

/// A key of ORDER BY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sort {
    /// The expression, whatever name or number stands for it.
    pub sql: String,
    /// What it is; [`What::Value`] of rows, key or aggregate of groups.
    pub what: What,
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST, said or meant.
    pub nulls_first: bool,
}

impl Sort {
    /// The expression with its direction, as ORDER BY has it.
    #[must_use]
    pub fn clause(&self) -> String {
        let direction = if self.descending { "DESC" } else { "ASC" };
        let nulls = if self.nulls_first { "FIRST" } else { "LAST" };
        format!("({}) {direction} NULLS {nulls}", self.sql)
    }
}

/// LIMIT or OFFSET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// None, or NULL.
    None,
    /// So many rows.
    Rows(u64),
    /// Fewer than none, which PostgreSQL refuses when the statement runs.
    Negative,
    /// What the parameter of this number says, and the most that its cast has room for.
    Param(u16, u64),
}

impl Bound {
    fn of(rows: i64) -> Self {
        u64::try_from(rows).map_or(Self::Negative, Self::Rows)
    }
}

/// An output expression, whatever shows it.
struct Output<'a> {
    node: &'a nodes::ResTarget,
    star: bool,
}

/// Sorts the parts.
///
/// # Errors
/// One of them cannot be done by each shard for itself, nor afterwards.
pub(super) fn read(select: &nodes::SelectStmt, from: &From) -> Result<Select, Unfit> {
    let mut found = Found::default();
    let outputs: Vec<Output<'_>> =
        select.target_list().iter().map(|node| Output { node, star: is_star(node.val()) }).collect();
    for output in &outputs {
        // `*` and `t.*` are the columns themselves, not a row.
        match output.node.val() {
            Node::ColumnRef(_) if output.star => {}
            Node::A_Indirection(all) if output.star && all.indirection().len() == 1 => {
                check(all.arg(), Clause::Output, from, &mut found)?;
            }
            node => check(node, Clause::Output, from, &mut found)?,
        }
    }
    let draws_output = found.draws;
    let mut conditions = Found::default();
    check(select.where_clause(), Clause::Condition, from, &mut conditions)?;
    for item in select.from_clause() {
        check_joins(item, from, &mut conditions)?;
    }
    for node in select.group_clause() {
        let mut group = Found::default();
        check(node, Clause::Output, from, &mut group)?;
        if group.draws {
            return Err(draws_groups());
        }
    }
    check(select.having_clause(), Clause::Output, from, &mut found)?;
    let mut sorted = Found::default();
    for sort in select.sort_clause() {
        check(sort.node(), Clause::Output, from, &mut sorted)?;
    }
    if !select.window_clause().is_empty() {
        return Err(
            Unfit::new("window", "with a WINDOW clause").hint("Write OVER (PARTITION BY the sharding key ...).")
        );
    }
    if select.limit_option == raw::LimitOption::LIMIT_OPTION_WITH_TIES {
        return Err(Unfit::new("with_ties", "with FETCH FIRST ... WITH TIES").hint("Use LIMIT."));
    }
    found.aggregates |= sorted.aggregates;
    found.windows |= sorted.windows;
    let grouped = !select.group_clause().is_empty();
    let has_having = !matches!(select.having_clause(), Node::None);
    let names = Names { outputs: &outputs, from };
    let keys: Vec<Resolved<'_>> =
        select.group_clause().iter().map(|node| names.group_key(node)).collect::<Result<_, _>>()?;
    // A name or a number may stand for a value that is drawn: the key that is sent would be a second one.
    for key in &keys {
        if draws(key.node, from)? {
            return Err(draws_groups());
        }
    }
    for sort in select.sort_clause() {
        if draws_output && (sorted.draws || draws(names.sort_key(sort.node())?, from)?) {
            return Err(Unfit::new("draws", "that shows and sorts by functions that draw another value each time"));
        }
    }
    let grouped_by_key = from.has_key(keys.iter().map(|key| key.node));
    let brings_together = (grouped || found.aggregates || has_having) && !grouped_by_key;
    let (limit, offset) = (bound(select.limit_count())?, bound(select.limit_offset())?);
    let distinct = names.distinct(select)?;
    let mut parts = Select {
        plain: !brings_together
            && select.sort_clause().is_empty()
            && distinct == Distinct::All
            && (limit, offset) == (Bound::None, Bound::None),
        targets: Vec::new(),
        distinct,
        tail: String::new(),
        source: String::new(),
        values: String::new(),
        groups: None,
        finish: None,
        sort: Vec::new(),
        order_by: String::new(),
        limit,
        offset,
        grouped_by_key: grouped && grouped_by_key,
    };
    if parts.plain {
        return Ok(parts);
    }
    if brings_together {
        if found.windows {
            return Err(Unfit::new("window", "with window functions over groups that lie on several shards"));
        }
        if select.group_distinct {
            return Err(Unfit::new("grouping_sets", "with GROUP BY DISTINCT"));
        }
        names.groups(select, &keys, found.draws, &mut parts)?;
    } else {
        for output in &outputs {
            let what = if output.star { What::Star } else { What::Value };
            let value = if output.star { String::new() } else { write::expression(output.node.val())? };
            parts.targets.push(Target { sql: write::target(output.node)?, value, what });
        }
        for sort in select.sort_clause() {
            let node = names.sort_key(sort.node())?;
            parts.sort.push(sort_of(sort, write::expression(node)?, What::Value)?);
        }
    }
    parts.source = write::tail(select, false, false)?;
    parts.tail = match &parts.groups {
        None => write::tail(select, true, true)?,
        Some(groups) if groups.keys.is_empty() => parts.source.clone(),
        // Names and numbers would mean other things beside another select list.
        Some(groups) => format!("{} GROUP BY ({})", parts.source, groups.keys.join("), (")),
    };
    parts.values = parts.source.clone();
    if parts.grouped_by_key {
        // A constant would be a number of the select list.
        let keys = keys.iter().filter(|key| !matches!(key.node, Node::A_Const(_)));
        let keys = keys.map(|key| write::expression(key.node)).collect::<Result<Vec<_>, _>>()?;
        parts.values.push_str(&format!(" GROUP BY ({})", keys.join("), (")));
    }
    parts.order_by = write::order_by(select)?;
    Ok(parts)
}

/// Whether an expression that was let through as one of the select list or of a clause draws another value each time.
fn draws(node: Node<'_>, from: &From) -> Result<bool, Unfit> {
    let mut found = Found::default();
    check(node, Clause::Output, from, &mut found)?;
    Ok(found.draws)
}

fn collated_within() -> Unfit {
    Unfit::new("collation", "with COLLATE within a key or an aggregate of groups that lie on several shards")
        .hint("Write COLLATE around the whole expression, or group by the sharding key.")
}

fn draws_groups() -> Unfit {
    Unfit::new("draws", "that groups by a function that draws another value each time")
}

fn check_joins(item: Node<'_>, from: &From, found: &mut Found) -> Result<(), Unfit> {
    let mut stack = vec![item];
    while let Some(node) = stack.pop() {
        if let Node::JoinExpr(join) = node {
            check(join.quals(), Clause::Condition, from, found)?;
            stack.push(join.larg());
            stack.push(join.rarg());
        }
    }
    Ok(())
}

fn sort_of(sort: &nodes::SortBy, sql: String, what: What) -> Result<Sort, Unfit> {
    if sort.sortby_dir == raw::SortByDir::SORTBY_USING {
        return Err(Unfit::new("order_by_using", "with ORDER BY ... USING").hint("Use ASC or DESC."));
    }
    let descending = sort.sortby_dir == raw::SortByDir::SORTBY_DESC;
    let nulls_first = match sort.sortby_nulls {
        raw::SortByNulls::SORTBY_NULLS_FIRST => true,
        raw::SortByNulls::SORTBY_NULLS_LAST => false,
        _ => descending,
    };
    Ok(Sort { sql, what, descending, nulls_first })
}

/// The parameters whose values are seen, grouped or sorted by.
pub(super) fn shown_params(select: &nodes::SelectStmt) -> Vec<u16> {
    let mut numbers = Vec::new();
    let outputs = select.target_list().iter().map(|output| output.val());
    let sorts = select.sort_clause().iter().map(|sort| sort.node());
    for node in outputs.chain(sorts).chain(select.group_clause()).chain([select.having_clause()]) {
        params(node, &mut numbers);
    }
    numbers
}

fn is_star(node: Node<'_>) -> bool {
    match node {
        Node::ColumnRef(column) => column.fields().iter().any(|field| matches!(field, Node::A_Star(_))),
        Node::A_Indirection(indirection) => {
            indirection.indirection().iter().any(|field| matches!(field, Node::A_Star(_)))
        }
        _ => false,
    }
}

/// LIMIT ALL is LIMIT NULL. A cast to an integer changes nothing of an integer that it has room for.
fn bound(node: Node<'_>) -> Result<Bound, Unfit> {
    let Node::TypeCast(cast) = node else { return plain_bound(node) };
    let most = integer_room(cast.type_name()).ok_or_else(not_a_number)?;
    match plain_bound(cast.arg())? {
        Bound::Rows(rows) if rows > most => Err(not_a_number()),
        // It may be out of the type's range as well.
        Bound::Negative => Err(not_a_number()),
        Bound::Param(number, _) => Ok(Bound::Param(number, most)),
        bound => Ok(bound),
    }
}

fn plain_bound(node: Node<'_>) -> Result<Bound, Unfit> {
    match node {
        Node::None => Ok(Bound::None),
        Node::A_Const(constant) => match constant.val() {
            None => Ok(Bound::None),
            Some(ConstValue::Integer(rows)) => Ok(Bound::of(rows.into())),
            Some(ConstValue::Float(digits)) => digits.parse().map(Bound::of).map_err(|_| not_a_number()),
            _ => Err(not_a_number()),
        },
        Node::ParamRef(param) => match u16::try_from(param.number) {
            Ok(number) if number > 0 => Ok(Bound::Param(number, i64::MAX.unsigned_abs())),
            _ => Err(not_a_number()),
        },
        _ => Err(not_a_number()),
    }
}

/// The largest number of an integer type.
fn integer_room(name: Option<&nodes::TypeName>) -> Option<u64> {
    match name.and_then(super::super::shape::cast_name)?.as_str() {
        "int2" => Some(i16::MAX.unsigned_abs().into()),
        "int4" => Some(i32::MAX.unsigned_abs().into()),
        "int8" => Some(i64::MAX.unsigned_abs()),
        _ => None,
    }
}

fn not_a_number() -> Unfit {
    Unfit::new("limit", "whose LIMIT or OFFSET is not a plain number or a parameter").hint("Write the number.")
}

/// What a name or a number stands for.
#[derive(Clone, Copy)]
struct Resolved<'a> {
    node: Node<'a>,
    /// It is an entry of the select list unless the tables have a column of that name.
    unless_column: Option<&'a str>,
}

/// Finds what the names and numbers of clauses stand for.
struct Names<'s, 'a> {
    outputs: &'s [Output<'a>],
    from: &'s From,
}

impl<'a> Names<'_, 'a> {
    fn by_number(&self, number: i32) -> Result<Node<'a>, Unfit> {
        let place = usize::try_from(number).ok().and_then(|n| n.checked_sub(1)).unwrap_or(usize::MAX);
        let before = self.outputs.get(..=place).unwrap_or_default();
        match before.last() {
            Some(output) if !before.iter().any(|output| output.star) => Ok(output.node.val()),
            Some(_) => {
                Err(Unfit::new("ordinal", "whose clauses count columns of a list with *").hint("Name the column."))
            }
            // The server says that there is no such column.
            None => Err(Unfit::new("ordinal", format!("with position {number}, which is not in the select list"))),
        }
    }

    /// The entry of the select list that is called `name`.
    fn by_name(&self, name: &str) -> Result<Option<Node<'a>>, Unfit> {
        let mut found: Option<Node<'a>> = None;
        for output in self.outputs.iter().filter(|output| !output.star) {
            let node = output.node.val();
            if output.node.name().unwrap_or_else(|| figure(node).1) != name {
                continue;
            }
            if found.is_some_and(|other| write::tree(other) != write::tree(node)) {
                return Err(Unfit::new("alias", format!("where \"{name}\" may mean several things"))
                    .hint("Give the columns names of their own with AS."));
            }
            found = Some(node);
        }
        Ok(found)
    }

    /// ORDER BY and DISTINCT ON: a bare name is first one of the select list's.
    fn sort_key(&self, node: Node<'a>) -> Result<Node<'a>, Unfit> {
        match node {
            Node::A_Const(constant) => match constant.val() {
                Some(ConstValue::Integer(number)) => self.by_number(number),
                _ => Err(Unfit::new("constant", "that sorts by a constant").hint("Leave the constant out.")),
            },
            node => match bare_name(node) {
                Some(name) => Ok(self.by_name(name)?.unwrap_or(node)),
                None => Ok(node),
            },
        }
    }

    /// GROUP BY: a bare name is first a column.
    fn group_key(&self, node: Node<'a>) -> Result<Resolved<'a>, Unfit> {
        let itself = Resolved { node, unless_column: None };
        match node {
            Node::A_Const(constant) => match constant.val() {
                Some(ConstValue::Integer(number)) => Ok(Resolved { node: self.by_number(number)?, ..itself }),
                _ => Err(Unfit::new("constant", "that groups by a constant").hint("Leave the constant out.")),
            },
            node => {
                let Some(name) = bare_name(node) else { return Ok(itself) };
                if self.from.is_of_key(node) {
                    return Ok(itself);
                }
                match self.by_name(name)? {
                    // Then it is that column either way.
                    Some(output) if last_name(output) == Some(name) => Ok(Resolved { node: output, ..itself }),
                    // What is cast is that column.
                    Some(output) if last_name(uncast(output)) == Some(name) => Ok(itself),
                    Some(output) => Ok(Resolved { node: output, unless_column: Some(name) }),
                    None => Ok(itself),
                }
            }
        }
    }

    fn distinct(&self, select: &'a nodes::SelectStmt) -> Result<Distinct, Unfit> {
        let clause = select.distinct_clause();
        if clause.is_empty() {
            return Ok(Distinct::All);
        }
        let on: Vec<Node<'a>> = clause.iter().filter(|node| !matches!(node, Node::None)).collect();
        if on.is_empty() {
            return Ok(Distinct::Rows);
        }
        let mut texts = Vec::new();
        let mut meant = std::collections::BTreeSet::new();
        for node in on {
            texts.push(write::expression(node)?);
            meant.insert(write::tree(self.sort_key(node)?));
        }
        let mut first = std::collections::BTreeSet::new();
        for sort in select.sort_clause().iter().take(meant.len()) {
            first.insert(write::tree(self.sort_key(sort.node())?));
        }
        if first != meant {
            return Err(Unfit::new("distinct_on", "with DISTINCT ON that is not sorted by the same expressions first")
                .hint("Begin ORDER BY with the expressions of DISTINCT ON, in any order."));
        }
        Ok(Distinct::On(meant.len(), texts.join(", ")))
    }

    /// Takes a grouped statement apart: every output is a key or an aggregate, or made of these.
    fn groups(
        &self,
        select: &'a nodes::SelectStmt,
        keys: &[Resolved<'a>],
        draws: bool,
        parts: &mut Select,
    ) -> Result<(), Unfit> {
        let mut groups = Groups { keys: Vec::new(), aggregates: Vec::new(), not_columns: Vec::new() };
        let mut trees = Vec::new();
        for key in keys {
            if matches!(key.node, Node::A_Const(_)) {
                return Err(Unfit::new("constant", "that groups by a constant").hint("Leave the constant out."));
            }
            groups.keys.push(write::expression(key.node)?);
            groups.not_columns.extend(key.unless_column.map(str::to_owned));
            trees.push(write::tree(key.node));
        }
        let bare = self.bare(select, keys, &trees, &mut groups, parts);
        let has_having = !matches!(select.having_clause(), Node::None);
        // Without need nothing is drawn a second time.
        if bare.is_err() || has_having || !draws {
            match (bare, self.finish(select, keys, &trees, &mut groups)) {
                (Ok(()), Ok(finish)) => parts.finish = Some(Finish { needed: has_having, ..finish }),
                (Err(_), Ok(finish)) => parts.finish = Some(finish),
                (Ok(()), Err(_)) if !has_having => {}
                (Err(unfit), Err(_)) if unfit.construct != "expression_of_groups" => return Err(unfit),
                (_, Err(unfit)) => return Err(unfit),
            }
        }
        parts.groups = Some(groups);
        Ok(())
    }

    /// Every output is a key or an aggregate itself.
    fn bare(
        &self,
        select: &'a nodes::SelectStmt,
        keys: &[Resolved<'a>],
        trees: &[String],
        groups: &mut Groups,
        parts: &mut Select,
    ) -> Result<(), Unfit> {
        for output in self.outputs {
            let what = self.of_group(output.node.val(), keys, trees, groups)?;
            parts.targets.push(Target { sql: write::target(output.node)?, value: String::new(), what });
        }
        for sort in select.sort_clause() {
            let node = self.sort_key(sort.node())?;
            let what = self.of_group(node, keys, trees, groups)?;
            parts.sort.push(sort_of(sort, String::new(), what)?);
        }
        Ok(())
    }

    /// Everything is made of keys and aggregates.
    fn finish(
        &self,
        select: &'a nodes::SelectStmt,
        keys: &[Resolved<'a>],
        trees: &[String],
        groups: &mut Groups,
    ) -> Result<Finish, Unfit> {
        let single = self.from.is_single();
        let mut over = |node: Node<'a>| {
            finish::over_groups(node, |part| {
                let text = write::tree(part);
                let same = |(key, tree): (&Resolved<'a>, &String)| {
                    *tree == text || (single && last_name(part).is_some_and(|name| last_name(key.node) == Some(name)))
                };
                if let Some((at, key)) =
                    keys.iter().enumerate().find(|(at, key)| trees.get(*at).is_some_and(|tree| same((*key, tree))))
                {
                    return match key.node {
                        Node::CollateClause(clause) if !finish::names_collation(clause.arg()) => {
                            Ok(Some(Stands::Collated(at, clause)))
                        }
                        node if finish::names_collation(node) => Err(collated_within()),
                        _ => Ok(Some(Stands::Column(at))),
                    };
                }
                match part {
                    Node::FuncCall(call) if finish::is_aggregate(call) => {
                        if finish::names_collation(part) {
                            return Err(collated_within());
                        }
                        Ok(Some(Stands::Column(keys.len() + groups.number(aggregate(call, self.from)?))))
                    }
                    _ => Ok(None),
                }
            })
        };
        let targets = self.outputs.iter().map(|output| over(output.node.val())).collect::<Result<_, _>>()?;
        let having = match select.having_clause() {
            Node::None => None,
            node => Some(over(node)?),
        };
        let mut sort = Vec::new();
        for by in select.sort_clause() {
            let node = self.sort_key(by.node())?;
            if matches!(node, Node::A_Const(_)) {
                return Err(Unfit::new("constant", "that sorts by a constant").hint("Leave the constant out."));
            }
            sort.push(sort_of(by, over(node)?, What::Value)?);
        }
        if groups.keys.is_empty() && groups.aggregates.is_empty() {
            // There is a group all the same, which must be seen.
            groups.aggregates.push(Aggregate {
                name: "count".to_owned(),
                argument: None,
                filter: String::new(),
                draws: false,
                distinct: false,
            });
        }
        Ok(Finish { needed: true, targets, having, sort })
    }

    /// What an expression is in a group.
    fn of_group(
        &self,
        node: Node<'a>,
        keys: &[Resolved<'a>],
        trees: &[String],
        groups: &mut Groups,
    ) -> Result<What, Unfit> {
        let text = write::tree(node);
        if let Some(at) = trees.iter().position(|tree| *tree == text) {
            return Ok(What::Key(at));
        }
        // `t.a` and `a` are one column where there is one table.
        if self.from.is_single()
            && let Some(name) = last_name(node)
            && let Some(at) = keys.iter().position(|key| last_name(key.node) == Some(name))
        {
            return Ok(What::Key(at));
        }
        let Node::FuncCall(call) = node else { return Err(finish::expression_of_groups()) };
        Ok(What::Aggregate(groups.number(aggregate(call, self.from)?)))
    }
}

/// An aggregate whose parts can be brought together.
fn aggregate(call: &nodes::FuncCall, from: &From) -> Result<Aggregate, Unfit> {
    let name = call.funcname().iter().filter_map(Node::as_str).next_back().unwrap_or_default().to_owned();
    if !super::names::is_aggregate(&name) {
        return Err(finish::expression_of_groups());
    }
    let refuse = |construct, what: &str| {
        Unfit::new(construct, format!("with {name}{what} over rows of several shards"))
            .hint("Group by the sharding key, or tie the statement to one shard by its sharding key.")
    };
    let of_key = name == "count" && call.args().len() == 1 && from.has_key(call.args().iter());
    if call.agg_distinct && !of_key {
        return Err(refuse("aggregate_distinct", "(DISTINCT ...)"));
    }
    if !call.agg_order().is_empty() || call.agg_within_group {
        return Err(refuse("aggregate_order", "(... ORDER BY ...)"));
    }
    if call.func_variadic {
        return Err(refuse("aggregate", "(VARIADIC ...)"));
    }
    let mut arguments = call.args().iter();
    let argument = match (arguments.next(), arguments.next()) {
        (None, None) if call.agg_star => None,
        (Some(argument), None) => Some(argument),
        _ => return Err(refuse("aggregate", "() of several arguments")),
    };
    let filter = match call.agg_filter() {
        Node::None => String::new(),
        node => format!(" FILTER (WHERE {})", write::expression(node)?),
    };
    let mut found = Found::default();
    let nowhere = From::default();
    for node in argument.iter().chain(&[call.agg_filter()]) {
        // It was looked through before, as part of the whole: only what is in it is asked.
        drop(check(*node, Clause::Condition, &nowhere, &mut found));
    }
    Ok(Aggregate {
        name,
        argument: argument.map(write::expression).transpose()?,
        filter,
        draws: found.draws,
        distinct: call.agg_distinct,
    })
}

/// The name of a reference that is nothing but a name.
fn bare_name(node: Node<'_>) -> Option<&str> {
    let Node::ColumnRef(column) = node else { return None };
    let mut fields = column.fields().iter();
    match (fields.next(), fields.next()) {
        (Some(field), None) => field.as_str(),
        _ => None,
    }
}

/// The last name of a column.
fn last_name(node: Node<'_>) -> Option<&str> {
    let Node::ColumnRef(column) = node else { return None };
    column.fields().iter().next_back().and_then(Node::as_str)
}

/// What stands below casts and COLLATE.
fn uncast(mut node: Node<'_>) -> Node<'_> {
    loop {
        node = match node {
            Node::TypeCast(cast) => cast.arg(),
            Node::CollateClause(collate) => collate.arg(),
            node => return node,
        }
    }
}

/// How sure PostgreSQL is of a name that it finds for a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    /// There is none.
    None,
    /// That of a type, or CASE: anything below it has a better one.
    Weak,
    /// That of a column, a field or a function.
    Good,
}

/// The name of what stands below, if that is a good one.
fn unless_good<'a>(below: Node<'a>, name: &'a str) -> (Strength, &'a str) {
    match figure(below) {
        (Strength::Good, name) => (Strength::Good, name),
        _ => (Strength::Weak, name),
    }
}

/// The name that PostgreSQL gives to a column without AS (`FigureColname`).
fn figure(node: Node<'_>) -> (Strength, &str) {
    let good = |name| (Strength::Good, name);
    let found = match node {
        Node::ColumnRef(_) => last_name(node).map(good),
        Node::A_Indirection(indirection) => {
            let fields = indirection.indirection().iter();
            Some(fields.filter_map(Node::as_str).next_back().map_or_else(|| figure(indirection.arg()), good))
        }
        Node::FuncCall(call) => call.funcname().iter().filter_map(Node::as_str).next_back().map(good),
        Node::CollateClause(collate) => Some(figure(collate.arg())),
        Node::TypeCast(cast) => {
            let names = cast.type_name().map(|name| name.names());
            let name = names.and_then(|names| names.iter().filter_map(|name| name.sval()).next_back());
            name.map(|name| unless_good(cast.arg(), name))
        }
        Node::CaseExpr(case) => Some(unless_good(case.defresult(), "case")),
        Node::A_Expr(expr) if expr.kind == raw::A_Expr_Kind::AEXPR_NULLIF => Some(good("nullif")),
        Node::A_ArrayExpr(_) => Some(good("array")),
        Node::RowExpr(_) => Some(good("row")),
        Node::CoalesceExpr(_) => Some(good("coalesce")),
        Node::MinMaxExpr(least) if least.op == raw::MinMaxOp::IS_LEAST => Some(good("least")),
        Node::MinMaxExpr(_) => Some(good("greatest")),
        // CURRENT_DATE and its kin, sub-queries and the like are in no select list that gets here.
        _ => None,
    };
    found.unwrap_or((Strength::None, "?column?"))
}
