//! The statements that are writes whatever they say: DDL, maintenance, LISTEN and the like. What remains to be read off
//! them is the tables they name and the state they make.

mod plain;

use pg_raw_parse::{Node, nodes, raw};

use super::facts::{PinReason, TableRef};
use super::touch::About;
use super::walk::{Seen, table_ref, walk};

/// What a utility statement is.
#[expect(clippy::struct_excessive_bools, reason = "each is another fact")]
pub(super) struct Utility {
    pub(super) what: &'static str,
    pub(super) tables: Vec<TableRef>,
    pub(super) pin: Option<PinReason>,
    /// It has nothing to do with tables at all, unlike DDL whose tables the grammar does not show.
    pub(super) tableless: bool,
    /// It makes something in which no code is but PostgreSQL's own, or that nobody else sees.
    pub(super) is_plain: bool,
    /// It makes a relation that nobody else sees, with code in it.
    pub(super) own_code: bool,
    /// It makes a table that goes with its transaction.
    pub(super) fleeting: bool,
    /// It empties tables that it does not name.
    pub(super) cascades: bool,
    /// What its tables are to it; none where it is no matter which shards have them.
    pub(super) about: Option<About>,
    /// What the first of its tables is made of.
    pub(super) made_of: Vec<TableRef>,
    /// What the first of its tables is called afterwards.
    pub(super) becomes: Option<Box<TableRef>>,
}

impl Utility {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            tables: Vec::new(),
            pin: None,
            tableless: false,
            is_plain: false,
            own_code: false,
            fleeting: false,
            cascades: false,
            about: None,
            made_of: Vec::new(),
            becomes: None,
        }
    }

    fn tableless(what: &'static str, pin: Option<PinReason>) -> Self {
        Self { pin, tableless: true, ..Self::new(what) }
    }

    fn on<'a>(what: &'static str, vars: impl IntoIterator<Item = &'a nodes::RangeVar>) -> Self {
        let mut this = Self { about: Some(About::Tables), ..Self::new(what) };
        for var in vars {
            this.add(var);
        }
        this
    }

    /// Of things by their names, as lists of parts: `skip` of the last are no part of the relation's.
    fn named<'a>(mut self, objects: impl Iterator<Item = Node<'a>>, skip: usize) -> Self {
        for object in objects {
            let Node::NodeList(parts) = object else { continue };
            let mut parts: Vec<_> = parts.iter().filter_map(Node::as_str).map(str::to_owned).collect();
            parts.truncate(parts.len().saturating_sub(skip));
            if let Some(name) = parts.pop() {
                let schema = parts.pop();
                if is_temp_schema(schema.as_deref()) {
                    self.pin = Some(PinReason::TempObject);
                }
                self.tables.push(TableRef { schema, name, alias: None });
            }
        }
        self
    }

    /// The same, of relations of which the catalog must tell what they are.
    fn about(self, about: About) -> Self {
        Self { about: Some(about), ..self }
    }

    fn add(&mut self, var: &nodes::RangeVar) {
        if is_temp_schema(var.schemaname()) {
            self.pin = Some(PinReason::TempObject);
        }
        self.tables.push(table_ref(var));
    }

    /// Makes an object of the (perhaps qualified) name.
    fn naming<'a>(mut self, name: impl Iterator<Item = &'a str>) -> Self {
        let mut parts: Vec<_> = name.collect();
        parts.pop();
        if is_temp_schema(parts.last().copied()) {
            self.pin = Some(PinReason::TempObject);
        }
        self
    }

    /// OWNED BY among the options of a sequence: the table, before its column.
    fn owned_by<'a>(mut self, options: impl Iterator<Item = Node<'a>>) -> Self {
        for option in options {
            let Node::DefElem(option) = option else { continue };
            if option.defname() != Some("owned_by") {
                continue;
            }
            let Node::NodeList(parts) = option.arg() else { continue };
            let mut parts: Vec<_> = parts.iter().filter_map(Node::as_str).map(str::to_owned).collect();
            parts.pop();
            if let Some(name) = parts.pop() {
                self.tables.push(TableRef { schema: parts.pop(), name, alias: None });
            }
        }
        self
    }

    fn pinned_if(mut self, temp: bool) -> Self {
        if temp {
            self.pin = Some(PinReason::TempObject);
        }
        self
    }
}

/// Whether a schema is that of the session's temporary objects: `pg_temp` or `pg_temp_3`.
pub(super) fn is_temp_schema(schema: Option<&str>) -> bool {
    schema.is_some_and(|s| s == "pg_temp" || s.starts_with("pg_temp_"))
}

/// Whether a new table lives in the session and outlives the transaction.
pub(super) fn makes_temp(var: Option<&nodes::RangeVar>, on_commit: raw::OnCommitAction::Type) -> bool {
    on_commit != raw::OnCommitAction::ONCOMMIT_DROP && var.is_some_and(is_temp)
}

/// Whether what is made is temporary and goes with its transaction.
pub(super) fn is_fleeting(var: Option<&nodes::RangeVar>, on_commit: raw::OnCommitAction::Type) -> bool {
    on_commit == raw::OnCommitAction::ONCOMMIT_DROP && var.is_some_and(is_temp)
}

fn is_temp(var: &nodes::RangeVar) -> bool {
    u8::try_from(var.relpersistence) == Ok(b't') || is_temp_schema(var.schemaname())
}

/// What a statement without facts of its own is.
pub(super) fn describe(node: Node<'_>) -> Utility {
    match node {
        Node::CreateStmt(stmt) => create_table(stmt),
        Node::ViewStmt(stmt) => {
            let temp = stmt.view().is_some_and(is_temp);
            let mut seen = Seen::default();
            walk(stmt.query(), &mut seen);
            let made_of = seen.tables.into_iter().map(|found| found.table).collect();
            let found = Utility::on("CREATE VIEW", stmt.view()).pinned_if(temp).about(About::Made);
            Utility { own_code: temp, made_of, ..found }
        }
        Node::CreateSeqStmt(stmt) => {
            let found = Utility::on("CREATE SEQUENCE", stmt.sequence()).owned_by(stmt.options().iter());
            found.pinned_if(stmt.sequence().is_some_and(is_temp)).about(About::New)
        }
        Node::AlterSeqStmt(stmt) => {
            let found = Utility::on("ALTER SEQUENCE", stmt.sequence()).owned_by(stmt.options().iter());
            found.about(About::Relations)
        }
        Node::AlterTableStmt(stmt) => alter_table(stmt),
        // The attributes of a composite type stand as if they were a table's.
        Node::RenameStmt(stmt) => {
            let of_type = stmt.rename_type == raw::ObjectType::OBJECT_ATTRIBUTE;
            let found = Utility::on("ALTER ... RENAME", stmt.relation().filter(|_| !of_type));
            let becomes =
                stmt.relation().map(table_ref).zip(stmt.newname()).filter(|_| names_relation(stmt.rename_type));
            let becomes = becomes.map(|(was, name)| Box::new(TableRef { name: name.to_owned(), ..was }));
            Utility { becomes, ..found.about(about(stmt.rename_type)) }
        }
        Node::AlterObjectSchemaStmt(stmt) => {
            let found = Utility::on("ALTER ... SET SCHEMA", stmt.relation());
            let becomes = stmt.relation().map(table_ref).zip(stmt.newschema());
            let becomes = becomes.map(|(was, schema)| Box::new(TableRef { schema: Some(schema.to_owned()), ..was }));
            Utility { becomes, ..found.about(about(stmt.object_type)) }
        }
        Node::AlterObjectDependsStmt(stmt) => Utility::on("DDL", stmt.relation()).about(about(stmt.object_type)),
        Node::AlterPolicyStmt(stmt) => Utility::on("DDL", stmt.table()),
        Node::IndexStmt(stmt) => {
            Utility { is_plain: plain::index(stmt), ..Utility::on("CREATE INDEX", stmt.relation()) }
        }
        Node::CreateTrigStmt(stmt) => Utility::on("CREATE TRIGGER", stmt.relation()),
        Node::CreatePolicyStmt(stmt) => Utility::on("CREATE POLICY", stmt.table()),
        Node::RuleStmt(stmt) => Utility::on("CREATE RULE", stmt.relation()),
        Node::DropStmt(stmt) => drop(stmt),
        Node::TruncateStmt(stmt) => Utility {
            cascades: stmt.behavior == raw::DropBehavior::DROP_CASCADE,
            ..Utility::on("TRUNCATE", range_vars(stmt.relations().iter()))
        },
        Node::LockStmt(stmt) => Utility { about: None, ..Utility::on("LOCK", range_vars(stmt.relations().iter())) },
        Node::VacuumStmt(stmt) => {
            let what = if stmt.is_vacuumcmd { "VACUUM" } else { "ANALYZE" };
            Utility::on(what, stmt.rels().iter().filter_map(|r| r.relation()))
        }
        Node::ClusterStmt(stmt) => Utility::on("CLUSTER", stmt.relation()),
        Node::ReindexStmt(stmt) => {
            let index = stmt.kind == raw::ReindexObjectType::REINDEX_OBJECT_INDEX;
            let found = Utility::on("REINDEX", stmt.relation());
            if index { found.about(About::Relations) } else { found }
        }
        Node::RefreshMatViewStmt(stmt) => {
            Utility::on("REFRESH MATERIALIZED VIEW", stmt.relation()).about(About::Relations)
        }
        Node::GrantStmt(stmt) => grant(stmt),
        Node::ListenStmt(_) => Utility::tableless("LISTEN", Some(PinReason::Listen)),
        Node::UnlistenStmt(_) => Utility::tableless("UNLISTEN", None),
        Node::NotifyStmt(_) => Utility::tableless("NOTIFY", None),
        Node::LoadStmt(_) => Utility::tableless("LOAD", Some(PinReason::Load)),
        Node::CheckPointStmt(_) => Utility::new("CHECKPOINT"),
        Node::DoStmt(_) => Utility::new("DO"),
        Node::CreateFunctionStmt(stmt) => {
            Utility::new("CREATE FUNCTION").naming(stmt.funcname().iter().filter_map(Node::as_str))
        }
        Node::DefineStmt(stmt) => Utility::new("CREATE").naming(strings(stmt.defnames().iter())),
        Node::CreateStatsStmt(stmt) => {
            Utility::on("CREATE STATISTICS", stmt.relations().iter()).naming(strings(stmt.defnames().iter()))
        }
        Node::CreateConversionStmt(stmt) => {
            Utility::new("CREATE CONVERSION").naming(stmt.conversion_name().iter().filter_map(Node::as_str))
        }
        Node::CreateOpClassStmt(stmt) => {
            Utility::new("CREATE OPERATOR CLASS").naming(strings(stmt.opclassname().iter()))
        }
        Node::CreateOpFamilyStmt(stmt) => {
            Utility::new("CREATE OPERATOR FAMILY").naming(strings(stmt.opfamilyname().iter()))
        }
        Node::CompositeTypeStmt(stmt) => Utility::new("CREATE TYPE").pinned_if(stmt.typevar().is_some_and(is_temp)),
        Node::CreateEnumStmt(stmt) => Utility::new("CREATE TYPE").naming(strings(stmt.type_name().iter())),
        Node::CreateRangeStmt(stmt) => Utility::new("CREATE TYPE").naming(strings(stmt.type_name().iter())),
        Node::CreateDomainStmt(stmt) => Utility::new("CREATE DOMAIN").naming(strings(stmt.domainname().iter())),
        Node::CreateSchemaStmt(_) => Utility::new("CREATE SCHEMA"),
        Node::CreateExtensionStmt(_) => Utility::new("CREATE EXTENSION"),
        Node::AlterSystemStmt(_) => Utility::new("ALTER SYSTEM"),
        Node::CreateRoleStmt(_) => Utility::new("CREATE ROLE"),
        Node::AlterRoleStmt(_) => Utility::new("ALTER ROLE"),
        Node::AlterRoleSetStmt(_) => Utility::new("ALTER ROLE ... SET"),
        Node::AlterDatabaseSetStmt(_) => Utility::new("ALTER DATABASE ... SET"),
        Node::DropRoleStmt(_) => Utility::new("DROP ROLE"),
        Node::CreatedbStmt(_) => Utility::new("CREATE DATABASE"),
        Node::DropdbStmt(_) => Utility::new("DROP DATABASE"),
        Node::CommentStmt(stmt) => remark("COMMENT", stmt.objtype, stmt.object()),
        Node::SecLabelStmt(stmt) => remark("DDL", stmt.objtype, stmt.object()),
        Node::CreateSubscriptionStmt(_) => Utility::new("CREATE SUBSCRIPTION"),
        Node::AlterSubscriptionStmt(_) => Utility::new("ALTER SUBSCRIPTION"),
        Node::DropSubscriptionStmt(_) => Utility::new("DROP SUBSCRIPTION"),
        Node::CreateTableSpaceStmt(_) => Utility::new("CREATE TABLESPACE"),
        Node::DropTableSpaceStmt(_) => Utility::new("DROP TABLESPACE"),
        _ => Utility::new("DDL"),
    }
}

/// Whether RENAME of this kind gives a relation itself another name.
pub(super) fn names_relation(kind: raw::ObjectType::Type) -> bool {
    use raw::ObjectType as Type;
    matches!(
        kind,
        Type::OBJECT_TABLE
            | Type::OBJECT_FOREIGN_TABLE
            | Type::OBJECT_INDEX
            | Type::OBJECT_VIEW
            | Type::OBJECT_MATVIEW
            | Type::OBJECT_SEQUENCE
    )
}

/// What a relation of this kind is to a statement that changes it.
fn about(kind: raw::ObjectType::Type) -> About {
    use raw::ObjectType as Type;
    match kind {
        Type::OBJECT_INDEX | Type::OBJECT_VIEW | Type::OBJECT_MATVIEW | Type::OBJECT_SEQUENCE => About::Relations,
        _ => About::Tables,
    }
}

/// What is said of an object: of a relation, of a column, or of something else on a table.
fn remark(what: &'static str, kind: raw::ObjectType::Type, object: Node<'_>) -> Utility {
    use raw::ObjectType as Type;
    let found = Utility::new(what);
    let skip = match kind {
        Type::OBJECT_TABLE
        | Type::OBJECT_FOREIGN_TABLE
        | Type::OBJECT_INDEX
        | Type::OBJECT_VIEW
        | Type::OBJECT_MATVIEW
        | Type::OBJECT_SEQUENCE => 0,
        Type::OBJECT_COLUMN
        | Type::OBJECT_TABCONSTRAINT
        | Type::OBJECT_TRIGGER
        | Type::OBJECT_POLICY
        | Type::OBJECT_RULE => 1,
        _ => return found,
    };
    // Columns are those of views and of composite types as well, which are no relations.
    let about = if kind == Type::OBJECT_COLUMN { About::Relations } else { about(kind) };
    // It makes no state of a session, whatever it names.
    Utility { pin: None, ..found.named(std::iter::once(object), skip).about(about) }
}

/// The expressions that a statement computes when it runs, unlike those that it stores: what fills or checks the rows that are there, and
/// the bounds of partitions. (Those of indexes and generated columns are IMMUTABLE.)
pub(super) fn computed(node: Node<'_>) -> Vec<Node<'_>> {
    let mut found = Vec::new();
    collect_computed(node, &mut found);
    found
}

fn collect_computed<'a>(node: Node<'a>, found: &mut Vec<Node<'a>>) {
    match node {
        Node::CreateStmt(stmt) => stmt.partbound().into_iter().for_each(|bound| collect_bound(bound, found)),
        Node::CreateSchemaStmt(stmt) => stmt.schema_elts().iter().for_each(|element| {
            if matches!(element, Node::CreateStmt(_)) {
                collect_computed(element, found);
            }
        }),
        Node::AlterTableStmt(stmt) => {
            for command in stmt.cmds() {
                let Node::AlterTableCmd(command) = command else { continue };
                match command.def() {
                    // The expression of USING stands where else a default does.
                    Node::ColumnDef(column) => {
                        found.push(column.raw_default());
                        found.extend(column.constraints().iter().filter_map(expression));
                    }
                    Node::PartitionCmd(partition) => {
                        partition.bound().into_iter().for_each(|bound| collect_bound(bound, found));
                    }
                    other => found.extend(expression(other)),
                }
            }
        }
        Node::AlterDomainStmt(stmt) => found.extend(expression(stmt.def())),
        _ => {}
    }
}

/// The expression of a constraint.
fn expression(node: Node<'_>) -> Option<Node<'_>> {
    match node {
        Node::Constraint(constraint) => Some(constraint.raw_expr()),
        _ => None,
    }
}

fn collect_bound<'a>(bound: &'a nodes::PartitionBoundSpec, found: &mut Vec<Node<'a>>) {
    for list in [bound.listdatums(), bound.lowerdatums(), bound.upperdatums()] {
        found.extend(list.iter());
    }
}

fn strings<'a>(names: impl Iterator<Item = &'a nodes::String>) -> impl Iterator<Item = &'a str> {
    names.filter_map(|n| n.sval())
}

fn range_vars<'a>(list: impl Iterator<Item = Node<'a>>) -> impl Iterator<Item = &'a nodes::RangeVar> {
    list.filter_map(|node| match node {
        Node::RangeVar(var) => Some(var),
        _ => None,
    })
}

fn create_table(stmt: &nodes::CreateStmt) -> Utility {
    let mut found = Utility::on("CREATE TABLE", stmt.relation());
    // ON COMMIT DROP: on() may have pinned for the schema pg_temp.
    found.pin = makes_temp(stmt.relation(), stmt.oncommit).then_some(PinReason::TempObject);
    let (temp, plain) = (stmt.relation().is_some_and(is_temp), plain::table(stmt));
    (found.is_plain, found.own_code) = (temp || plain, temp && !plain);
    found.fleeting = is_fleeting(stmt.relation(), stmt.oncommit);
    let parents = stmt.inh_relations();
    found.about = Some(if parents.is_empty() { About::New } else { About::Made });
    found.made_of = range_vars(parents.iter()).map(table_ref).collect();
    for var in range_vars(parents.iter()) {
        found.add(var);
    }
    for element in stmt.table_elts() {
        match element {
            Node::Constraint(constraint) => constraint.pktable().into_iter().for_each(|var| found.add(var)),
            Node::TableLikeClause(like) => like.relation().into_iter().for_each(|var| found.add(var)),
            Node::ColumnDef(column) => {
                for constraint in column.constraints() {
                    if let Node::Constraint(constraint) = constraint {
                        constraint.pktable().into_iter().for_each(|var| found.add(var));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// ALTER TABLE, with the tables that its commands name: those of foreign keys, partitions and parents.
fn alter_table(stmt: &nodes::AlterTableStmt) -> Utility {
    use raw::ObjectType as Type;
    let what = match stmt.objtype {
        Type::OBJECT_INDEX => "ALTER INDEX",
        Type::OBJECT_VIEW => "ALTER VIEW",
        Type::OBJECT_MATVIEW => "ALTER MATERIALIZED VIEW",
        Type::OBJECT_SEQUENCE => "ALTER SEQUENCE",
        // A composite one, whose attributes stand as if they were a table's.
        Type::OBJECT_TYPE => return Utility::new("ALTER TYPE"),
        _ => "ALTER TABLE",
    };
    let mut found = Utility::on(what, stmt.relation()).about(about(stmt.objtype));
    found.is_plain = plain::alter(stmt);
    let (pin, mut refers) = (found.pin, true);
    for command in stmt.cmds() {
        let Node::AlterTableCmd(command) = command else { continue };
        match command.def() {
            Node::RangeVar(var) => {
                refers = false;
                found.add(var);
            }
            Node::PartitionCmd(partition) => {
                refers = false;
                partition.name().into_iter().for_each(|var| found.add(var));
            }
            Node::Constraint(constraint) => constraint.pktable().into_iter().for_each(|var| found.add(var)),
            Node::ColumnDef(column) => {
                for constraint in column.constraints() {
                    if let Node::Constraint(constraint) = constraint {
                        constraint.pktable().into_iter().for_each(|var| found.add(var));
                    }
                }
            }
            _ => {}
        }
    }
    found.pin = pin;
    if refers && found.about == Some(About::Tables) && found.tables.len() > 1 {
        found.about = Some(About::Refers);
    }
    found
}

/// DROP: the objects are names in parts, of tables and the like only when its type says so.
fn drop(stmt: &nodes::DropStmt) -> Utility {
    use raw::ObjectType as Type;
    let what = match stmt.remove_type {
        Type::OBJECT_TABLE => "DROP TABLE",
        Type::OBJECT_VIEW => "DROP VIEW",
        Type::OBJECT_MATVIEW => "DROP MATERIALIZED VIEW",
        Type::OBJECT_FOREIGN_TABLE => "DROP FOREIGN TABLE",
        Type::OBJECT_SEQUENCE => "DROP SEQUENCE",
        Type::OBJECT_INDEX => "DROP INDEX",
        // Of a table, whose name stands before theirs.
        Type::OBJECT_TRIGGER | Type::OBJECT_POLICY | Type::OBJECT_RULE => {
            return drop_of("DROP", stmt, 1);
        }
        _ => return Utility::new("DROP"),
    };
    drop_of(what, stmt, 0)
}

fn drop_of(what: &'static str, stmt: &nodes::DropStmt, skip: usize) -> Utility {
    // What is dropped keeps no server.
    Utility { pin: None, ..Utility::new(what).named(stmt.objects().iter(), skip).about(about(stmt.remove_type)) }
}

fn grant(stmt: &nodes::GrantStmt) -> Utility {
    let what = if stmt.is_grant { "GRANT" } else { "REVOKE" };
    // For other kinds of objects the list holds other kinds of names.
    let on_relations = matches!(stmt.objtype, raw::ObjectType::OBJECT_TABLE | raw::ObjectType::OBJECT_SEQUENCE)
        && stmt.targtype == raw::GrantTargetType::ACL_TARGET_OBJECT;
    if on_relations { Utility::on(what, stmt.objects()).about(about(stmt.objtype)) } else { Utility::new(what) }
}
