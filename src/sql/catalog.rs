//! What the server's catalog says of names that the grammar cannot explain: functions that are not built in, and relations
//! that may be views.
//!
//! Answers are kept for [`KEPT`] and forgotten when a statement that may have changed them passes; a change made elsewhere is
//! noticed that much later. What does not exist is asked again after a second.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::facts::{Access, FunctionRef, QueryFacts, StatementFacts, TableRef};
use super::functions;
use super::shadows::{ShadowQuestion, Shadows};
use super::touch::Dml;

/// How long an answer counts.
pub const KEPT: Duration = Duration::from_secs(60);
/// How long it counts that something does not exist.
const KEPT_MISSING: Duration = Duration::from_secs(1);
/// More names than this are a client that makes them up: all are forgotten.
const MAX_NAMES: usize = 20_000;

/// How long an old answer counts when nobody answers.
const RENEWED: Duration = Duration::from_secs(10);
/// The answers about one search_path weigh as much as those about so many names.
const NAMES_PER_PATH: usize = 100;

/// A name and what it is looked up under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The session's search_path, where it is not the server's default and the name has no schema.
    pub search_path: Option<String>,
    /// The schema, when the statement says it.
    pub schema: Option<String>,
    /// The name.
    pub name: String,
}

impl Name {
    pub(super) fn new(search_path: Option<&str>, schema: Option<&str>, name: &str) -> Self {
        let search_path = if schema.is_none() { search_path } else { None };
        Self { search_path: search_path.map(str::to_owned), schema: schema.map(str::to_owned), name: name.to_owned() }
    }
}

/// What the catalog says of all functions of one name together: which one a call means depends on types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// There is one.
    pub exists: bool,
    /// One of them is VOLATILE: it may write.
    pub volatile: bool,
    /// One of them may read tables that the statement does not name: it is neither IMMUTABLE nor written in C.
    pub reads_unseen: bool,
}

/// What the catalog says of a relation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Relation {
    /// Schema and name of it, and of all that it reaches: what a view reads, what a table inherits from or is inherited by, whose an index
    /// or a sequence is.
    /// Empty if it does not exist.
    pub reaches: Vec<(String, String)>,
    /// A function that a view calls and that may read tables unseen.
    pub reads_unseen: Option<String>,
    /// It is a view, which may be materialized, or an index of one.
    pub is_view: bool,
    /// Those of [`Self::reaches`] that are tables, and no others' children, or views of no relation.
    pub tables: Vec<(String, String)>,
    /// It is no relation but a composite type, which has columns as one.
    pub is_type: bool,
}

/// What to ask the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Questions {
    /// Functions.
    pub functions: Vec<Name>,
    /// Relations.
    pub relations: Vec<Name>,
    /// What bears innocent names.
    pub shadows: Option<ShadowQuestion>,
}

impl Questions {
    /// Adds those of another that are not here yet.
    pub fn add(&mut self, other: Self) {
        for name in other.functions {
            if !self.functions.contains(&name) {
                self.functions.push(name);
            }
        }
        for name in other.relations {
            if !self.relations.contains(&name) {
                self.relations.push(name);
            }
        }
        // All are of one session, so it is the same question.
        self.shadows = self.shadows.take().or(other.shadows);
    }

    /// Whether there is nothing to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.relations.is_empty() && self.shadows.is_none()
    }
}

/// The answers, in the order of the questions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Functions.
    pub functions: Vec<Function>,
    /// Relations.
    pub relations: Vec<Relation>,
    /// What bears innocent names.
    pub shadows: Option<Shadows>,
}

/// The answers so far.
#[derive(Debug, Default)]
pub struct Catalog {
    functions: HashMap<Name, (Function, Instant)>,
    relations: HashMap<Name, (Relation, Instant)>,
    /// By search_path.
    shadows: HashMap<Option<String>, (Shadows, Instant)>,
    /// The state of the server's catalog that the answers are of; whoever changes it counts.
    epoch: u64,
}

impl Catalog {
    /// Forgets everything if the server's catalog has changed: if `epoch` is not the one of before.
    pub fn follow(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.functions.clear();
        self.relations.clear();
        self.shadows.clear();
    }

    /// Those of the questions that have no answer at `now`.
    #[must_use]
    pub fn unanswered(&self, mut questions: Questions, now: Instant) -> Questions {
        questions.functions.retain(|name| self.functions.get(name).is_none_or(|(_, until)| *until <= now));
        questions.relations.retain(|name| self.relations.get(name).is_none_or(|(_, until)| *until <= now));
        let known = |q: &ShadowQuestion| self.shadows.get(&q.search_path).is_some_and(|(_, until)| *until > now);
        questions.shadows = questions.shadows.filter(|question| !known(question));
        questions
    }

    /// Takes in answers at `now`.
    pub fn learn(&mut self, questions: Questions, answers: Answers, now: Instant) {
        let paths = self.shadows.len().saturating_mul(NAMES_PER_PATH);
        if self.functions.len().max(self.relations.len()).max(paths) > MAX_NAMES {
            self.forget();
        }
        for (name, function) in questions.functions.into_iter().zip(answers.functions) {
            let until = now + if function.exists { KEPT } else { KEPT_MISSING };
            self.functions.insert(name, (function, until));
        }
        for (name, relation) in questions.relations.into_iter().zip(answers.relations) {
            let until = now + if relation.reaches.is_empty() { KEPT_MISSING } else { KEPT };
            self.relations.insert(name, (relation, until));
        }
        if let (Some(question), Some(shadows)) = (questions.shadows, answers.shadows) {
            self.shadows.insert(question.search_path, (shadows, now + KEPT));
        }
    }

    /// Lets an old answer about shadows count once more, as nobody can be asked; whether there is one.
    pub fn renew_shadows(&mut self, question: &ShadowQuestion, now: Instant) -> bool {
        match self.shadows.get_mut(&question.search_path) {
            Some((_, until)) => {
                *until = (*until).max(now + RENEWED);
                true
            }
            None => false,
        }
    }
}

/// The catalog as a session sees it now.
#[derive(Debug, Clone, Copy)]
pub struct CatalogView<'a> {
    /// The answers.
    pub catalog: &'a Catalog,
    /// The session's search_path, where it is not the server's default.
    pub search_path: Option<&'a str>,
    /// Now.
    pub now: Instant,
}

impl<'a> CatalogView<'a> {
    /// What is known of a function.
    #[must_use]
    pub fn function(&self, function: &FunctionRef) -> Option<Function> {
        let name = Name::new(self.search_path, function.schema.as_deref(), &function.name);
        self.catalog.functions.get(&name).filter(|(_, until)| *until > self.now).map(|(f, _)| *f)
    }

    /// What is known of a relation.
    #[must_use]
    pub fn relation(&self, table: &TableRef) -> Option<&'a Relation> {
        let name = Name::new(self.search_path, table.schema.as_deref(), &table.name);
        self.catalog.relations.get(&name).filter(|(_, until)| *until > self.now).map(|(r, _)| r)
    }

    /// What bears innocent names, if that is known.
    #[must_use]
    pub fn shadows(&self) -> Option<&'a Shadows> {
        // Nearly all sessions have no search_path of their own, and this is asked of every statement: no key is copied for them.
        let found = match self.search_path {
            None => self.catalog.shadows.get(&None),
            Some(path) => self.catalog.shadows.get(&Some(path.to_owned())),
        };
        found.filter(|(_, until)| *until > self.now).map(|(shadows, _)| shadows)
    }

    /// The access of a statement, now that its functions may be known. One that may write, or of which nothing is known, is a
    /// write. (One that does not exist is an error on any server; it is a write so that the primary says it.)
    #[must_use]
    pub fn access(&self, statement: &StatementFacts) -> Access {
        let reads = |f: &FunctionRef| !f.runs_text && self.function(f).is_some_and(|f| f.exists && !f.volatile);
        if statement.functions.iter().all(reads) { statement.own_access } else { statement.access }
    }

    /// The strongest access of a text's statements, as [`QueryFacts::access`], now that its functions may be known.
    #[must_use]
    pub fn text_access(&self, facts: &QueryFacts) -> Access {
        if facts.unparsed.is_some() {
            return Access::Write;
        }
        facts.statements.iter().map(|s| self.access(s)).max().unwrap_or(Access::Neutral)
    }

    /// The functions that stand in the way of reading on a replica.
    #[must_use]
    pub fn ask_functions(&self, facts: &QueryFacts) -> Questions {
        let mut questions = Questions::default();
        let undecided = facts.statements.iter().filter(|s| s.own_access < s.access);
        for function in undecided.flat_map(|s| &s.functions) {
            self.ask_function(function, &mut questions);
        }
        questions
    }

    /// The functions of [`Self::ask_functions`] and the relations that it writes for which `matters` is true.
    #[must_use]
    pub fn ask_targets(&self, facts: &QueryFacts, matters: impl Fn(&TableRef) -> bool) -> Questions {
        let mut questions = self.ask_functions(facts);
        let targets = facts.statements.iter().flat_map(|statement| &statement.touch.targets);
        for (_, table) in targets.filter(|(what, table)| *what != Dml::Delete && matters(table)) {
            self.ask_relation(table, &mut questions);
        }
        questions
    }

    /// All functions and the relations for which `matters` is true, as far as they are not known.
    #[must_use]
    pub fn ask_all(&self, facts: &QueryFacts, matters: impl Fn(&TableRef) -> bool) -> Questions {
        let mut questions = Questions::default();
        for statement in &facts.statements {
            for function in &statement.functions {
                self.ask_function(function, &mut questions);
            }
            for table in statement.shape.tables().iter().chain(&statement.touch.made_of) {
                if matters(table) {
                    self.ask_relation(table, &mut questions);
                }
            }
        }
        questions
    }

    fn ask_relation(&self, table: &TableRef, questions: &mut Questions) {
        if !is_unexplained(table) || self.relation(table).is_some() {
            return;
        }
        let name = Name::new(self.search_path, table.schema.as_deref(), &table.name);
        if !questions.relations.contains(&name) {
            questions.relations.push(name);
        }
    }

    fn ask_function(&self, function: &FunctionRef, questions: &mut Questions) {
        if function.runs_text || self.function(function).is_some() {
            return;
        }
        let name = Name::new(self.search_path, function.schema.as_deref(), &function.name);
        if !questions.functions.contains(&name) {
            questions.functions.push(name);
        }
    }
}

/// PostgreSQL's own functions that read tables by a text they get: a query, or a name.
pub fn tables_by_text() -> impl Iterator<Item = &'static str> {
    functions::RUNS_TEXT.iter().chain(functions::READS_BY_NAME).copied()
}

/// Whether a relation may be somebody's view. PostgreSQL's own read only the catalog.
#[must_use]
pub fn is_unexplained(table: &TableRef) -> bool {
    !table.schema.as_deref().is_some_and(|s| s == "pg_catalog" || s == "information_schema")
}

#[cfg(test)]
mod tests {
    use super::super::parse::facts;
    use super::*;
    use crate::clock;

    const READS: Function = Function { exists: true, volatile: false, reads_unseen: true };
    const WRITES: Function = Function { exists: true, volatile: true, reads_unseen: true };

    fn name(name: &str) -> Name {
        Name::new(None, None, name)
    }

    #[test]
    fn a_function_is_a_write_until_it_is_known_not_to() {
        let now = clock::now();
        let mut catalog = Catalog::default();
        let text = facts(b"SELECT f(1), g(2), f(3)");
        let view = CatalogView { catalog: &catalog, search_path: None, now };
        let questions = view.ask_functions(&text);
        assert_eq!(questions, Questions { functions: vec![name("f"), name("g")], ..Questions::default() });
        assert_eq!(view.access(&text.statements[0]), Access::Write);
        for (g, access) in
            [(READS, Access::Read), (WRITES, Access::Write), (Function { exists: false, ..READS }, Access::Write)]
        {
            catalog.learn(questions.clone(), Answers { functions: vec![READS, g], ..Answers::default() }, now);
            let view = CatalogView { catalog: &catalog, search_path: None, now };
            assert_eq!(view.access(&text.statements[0]), access);
            assert!(view.ask_functions(&text).is_empty());
        }
        // A statement that writes anyway asks nothing, and stays what it is.
        let view = CatalogView { catalog: &catalog, search_path: None, now };
        let insert = facts(b"INSERT INTO t VALUES (f(1), h(1))");
        assert!(view.ask_functions(&insert).is_empty());
        assert_eq!(view.access(&insert.statements[0]), Access::Write);
        let dblink = facts(b"SELECT dblink('', '')");
        assert!(view.ask_functions(&dblink).is_empty());
        assert_eq!(view.access(&dblink.statements[0]), Access::Write);
    }

    #[test]
    fn answers_age_and_are_forgotten() {
        let now = clock::now();
        let mut catalog = Catalog::default();
        let questions = Questions {
            functions: vec![name("f"), name("gone")],
            relations: vec![name("v"), name("gone")],
            shadows: None,
        };
        let missing = Function { exists: false, volatile: false, reads_unseen: false };
        let view = Relation { reaches: vec![("public".into(), "v".into())], ..Relation::default() };
        let answers =
            Answers { functions: vec![READS, missing], relations: vec![view, Relation::default()], shadows: None };
        catalog.learn(questions, answers, now);
        let text = facts(b"SELECT f(1), gone() FROM v, gone");
        let asks = |catalog: &Catalog, after: f64| {
            let now = now + Duration::from_secs_f64(after);
            let q = CatalogView { catalog, search_path: None, now }.ask_all(&text, |_| true);
            (q.functions.len(), q.relations.len())
        };
        assert_eq!(asks(&catalog, 0.5), (0, 0));
        assert_eq!(asks(&catalog, 2.0), (1, 1));
        assert_eq!(asks(&catalog, 61.0), (2, 2));
        catalog.follow(0);
        assert_eq!(asks(&catalog, 0.5), (0, 0));
        catalog.follow(1);
        assert_eq!(asks(&catalog, 0.5), (2, 2));
    }

    #[test]
    fn names_are_those_of_a_search_path() {
        let now = clock::now();
        let mut catalog = Catalog::default();
        let text = facts(b"SELECT * FROM v, s.v, pg_catalog.pg_class");
        let ask = |catalog: &Catalog, search_path| CatalogView { catalog, search_path, now }.ask_all(&text, |_| true);
        let questions = ask(&catalog, Some("a"));
        let qualified = Name { schema: Some("s".into()), ..name("v") };
        let unqualified = Name { search_path: Some("a".into()), ..name("v") };
        assert_eq!(questions.relations, [unqualified, qualified]);
        let known = Relation { reaches: vec![("a".into(), "v".into())], ..Relation::default() };
        catalog.learn(questions, Answers { relations: vec![known.clone(), known], ..Answers::default() }, now);
        assert!(ask(&catalog, Some("a")).is_empty());
        assert_eq!(ask(&catalog, None).relations, [name("v")]);
    }

    #[test]
    fn an_old_answer_about_shadows_does_when_nobody_answers() {
        let now = clock::now();
        let mut catalog = Catalog::default();
        let question = |path: Option<&str>| ShadowQuestion { search_path: path.map(str::to_owned), listed: vec![] };
        let known = |catalog: &Catalog, search_path, after: u64| {
            let view = CatalogView { catalog, search_path, now: now + Duration::from_secs(after) };
            view.shadows().is_some()
        };
        assert!(!catalog.renew_shadows(&question(None), now));
        let asked = || Questions { shadows: Some(question(None)), ..Questions::default() };
        catalog.learn(asked(), Answers { shadows: Some(Shadows::default()), ..Answers::default() }, now);
        assert!(known(&catalog, None, 59) && !known(&catalog, None, 61) && !known(&catalog, Some("a"), 0));
        assert_eq!(catalog.unanswered(asked(), now), Questions::default());
        let later = now + Duration::from_secs(61);
        assert_eq!(catalog.unanswered(asked(), later), asked());
        // Nobody answered.
        assert!(catalog.renew_shadows(&question(None), later));
        catalog.learn(asked(), Answers::default(), later);
        assert!(known(&catalog, None, 70) && !known(&catalog, None, 72));
        // What is known to have changed is not renewed.
        catalog.follow(1);
        assert!(!catalog.renew_shadows(&question(None), later));
        for path in 0..3 * MAX_NAMES / NAMES_PER_PATH {
            let asked = Questions { shadows: Some(question(Some(&path.to_string()))), ..Questions::default() };
            catalog.learn(asked, Answers { shadows: Some(Shadows::default()), ..Answers::default() }, now);
        }
        assert!(catalog.shadows.len() <= MAX_NAMES / NAMES_PER_PATH + 1);
    }

    #[test]
    fn names_made_up_do_not_pile_up() {
        let now = clock::now();
        let mut catalog = Catalog::default();
        for i in 0..3 * MAX_NAMES {
            let questions = Questions { functions: vec![name(&i.to_string())], ..Questions::default() };
            catalog.learn(questions, Answers { functions: vec![READS], ..Answers::default() }, now);
        }
        assert!(catalog.functions.len() <= MAX_NAMES + 1);
    }
}
