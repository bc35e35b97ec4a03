//! All statements of a pipeline -> a `Plan`, or every fault in them.
//!
//! Read and check each statement alone; then, in the order in which they read each other, plan them; a statement that
//! reads a broken one is left out rather than blamed. Only when nothing is wrong are nodes assembled.

use crate::sql::allow::{self, Purpose, Reference};
use crate::sql::assemble::{Assembly, count_readers, meta_used, optimize};
use crate::sql::carry::{carry_message, hide_columns, name_columns};
use crate::sql::create_table::TableStatement;
use crate::sql::deliver;
use crate::sql::fingerprint;
use crate::sql::fold::{self, Folded};
use crate::sql::function::{session, unsteady};
use crate::sql::names::{self, Defined};
use crate::sql::plan::{Insert, InsertFrom, MaterializedView, NodeRole, Plan, SqlFile, StatelessView};
use crate::sql::query::{Planner, nullable, stream_schema, without_message};
use crate::sql::rebuild::Statements;
use crate::sql::relation::{Relation, RelationKind, Relations};
use crate::sql::settle::type_name;
use crate::sql::statement::{self, InsertStatement, Statement, ViewStatement, normal};
use crate::sql::text::{self, Piece};
use crate::types::catalog::{Catalog, SinkKind, UnknownFields};
use crate::types::fault::{Fault, closest};
use crate::types::lineage::MSG_COLUMN;
use crate::types::table::{Column, ColumnType, EXTRA_COLUMN, META_COLUMNS, Table};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::tokenizer::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

pub fn compile(files: &[SqlFile], catalog: &Catalog) -> Result<Plan, Vec<Fault>> {
    let session = session().map_err(|e| vec![ours(e)])?;
    let mut faults = Vec::new();
    let mut statements = Vec::new();
    let mut broken = Vec::new();
    for file in files {
        for piece in text::split(file, &mut faults) {
            match statement::read(&piece) {
                Ok(statement) => statements.push((piece, statement)),
                Err(found) => {
                    faults.extend(found);
                    broken.push(piece);
                }
            }
        }
    }
    let defined = names::define(&statements, &broken, &mut faults);
    let mut compiler = Compiler {
        session: &session,
        catalog,
        defined,
        relations: Relations::new(),
        tables: Vec::new(),
        streams: BTreeMap::new(),
        views: Vec::new(),
        unsteady: BTreeMap::new(),
        stateless_views: Vec::new(),
        inserts: Vec::new(),
        order: Vec::new(),
        faults,
    };
    compiler.tables(&statements);
    compiler.views(&statements);
    compiler.inserts(&statements);
    if compiler.faults.is_empty() {
        return compiler.assemble().map_err(|e| vec![ours(e)]);
    }
    Err(in_reading_order(files, compiler.faults))
}

/// Faults as a reader meets them: by file, line and column; the same one twice is one.
fn in_reading_order(files: &[SqlFile], mut faults: Vec<Fault>) -> Vec<Fault> {
    let place = |fault: &Fault| {
        let file = files.iter().position(|f| f.path == fault.file).unwrap_or(files.len());
        (file, fault.line, fault.column)
    };
    faults.sort_by_key(place);
    faults.dedup();
    faults
}

/// A failure after every check has passed is ours, and says so.
fn ours(error: DataFusionError) -> Fault {
    Fault {
        file: PathBuf::from("sql"),
        line: 0,
        column: 0,
        message: format!("the statements were accepted and cannot be planned: {}", error.strip_backtrace()),
        hint: Some("This is a fault of ours. Please report it with the SQL files.".into()),
    }
}

struct Compiler<'a> {
    session: &'a SessionState,
    catalog: &'a Catalog,
    defined: BTreeMap<String, Defined>,
    /// What has been planned so far, by name.
    relations: Relations,
    tables: Vec<Arc<Table>>,
    /// Stateless views, analysed, not yet inlined; `order` is that of their planning.
    streams: BTreeMap<String, LogicalPlan>,
    order: Vec<String>,
    /// Stateless views that answer differently when messages are read again, and the function because of which.
    unsteady: BTreeMap<String, String>,
    stateless_views: Vec<StatelessView>,
    views: Vec<(MaterializedView, LogicalPlan)>,
    inserts: Vec<(Insert, Option<LogicalPlan>)>,
    faults: Vec<Fault>,
}

/// A query that passed the grammar: what it reads, and which of these are materialized views.
struct Checked {
    reads: Vec<String>,
    materialized: Vec<String>,
}

impl Compiler<'_> {
    fn break_name(&mut self, name: &str) {
        self.defined.insert(name.to_string(), Defined::Broken);
    }

    fn tables(&mut self, statements: &[(Piece, Statement)]) {
        let mut unrouted: BTreeMap<String, String> = BTreeMap::new();
        for (piece, statement) in statements {
            let Statement::Table(declared) = statement else { continue };
            let name = normal(&declared.name);
            if self.relations.contains_key(&name) {
                continue; // defined twice: said already
            }
            let Some(table) = self.table(piece, declared, &name) else {
                self.break_name(&name);
                continue;
            };
            if table.route.is_none()
                && let Some(other) = unrouted.insert(table.source.to_string(), name.clone())
            {
                let message =
                    format!("tables \"{other}\" and \"{name}\" both take every message of source \"{}\"", table.source);
                let hint = "Give at least one of them a route: WITH (source = '..', route = (type = 'ignition')).";
                self.faults.push(piece.fault(declared.name.span, message, hint.to_string()));
            }
            let mut hidden: Vec<String> = META_COLUMNS.iter().map(ToString::to_string).collect();
            hidden.push(MSG_COLUMN.to_string());
            self.relations.insert(name, Relation { kind: RelationKind::Table, schema: table.leaf_schema(), hidden });
            self.tables.push(Arc::new(table));
        }
    }

    fn table(&mut self, piece: &Piece, declared: &TableStatement, name: &str) -> Option<Table> {
        let (source, span) = match &declared.source {
            Some((source, span)) => (source.clone(), *span),
            None => (name.to_string(), declared.name.span),
        };
        let Some(facts) = self.catalog.sources.get(&source) else {
            let sources = self.catalog.sources.keys().map(String::as_str);
            let hint = match closest(&source, sources) {
                Some(close) => format!(
                    "Did you mean \"{close}\"? A table takes its messages from the source of its own name, or from WITH (source = '..')."
                ),
                None => format!("Add [source.{source}] to the TOML, or name another one: WITH (source = '..')."),
            };
            self.faults.push(piece.fault(span, format!("source \"{source}\" does not exist"), hint));
            return None;
        };
        let mut columns = declared.columns.clone();
        if facts.unknown_fields == UnknownFields::Capture {
            columns.push(Column { name: EXTRA_COLUMN.into(), kind: ColumnType::Json, nullable: true });
        }
        Some(Table { name: name.into(), source: source.as_str().into(), route: declared.route.clone(), columns })
    }

    /// Grammar and names of one query. None: it has faults, or reads something that has.
    fn check(
        &mut self,
        piece: &Piece,
        purpose: Purpose,
        named: bool,
        query: &datafusion::sql::sqlparser::ast::Query,
    ) -> Option<Checked> {
        let (references, found) = allow::check(piece, self.session, purpose, named, query);
        let mut sound = found.is_empty();
        self.faults.extend(found);
        let mut checked = Checked { reads: Vec::new(), materialized: Vec::new() };
        for Reference { name, span } in references {
            match self.defined.get(&name) {
                None => {
                    let close = closest(&name, self.defined.keys().map(String::as_str));
                    let hint = match close {
                        Some(close) => format!("Did you mean \"{close}\"?"),
                        None => format!(
                            "Declare it: CREATE TABLE {name} (...) for messages of a source, or CREATE VIEW {name} AS ...."
                        ),
                    };
                    self.faults.push(piece.fault(span, format!("table or view \"{name}\" does not exist"), hint));
                    sound = false;
                }
                Some(Defined::Broken) => sound = false,
                Some(Defined::Materialized) => {
                    if purpose != Purpose::Insert {
                        let message =
                            format!("\"{name}\" is a materialized view, whose rows change after they were read");
                        let hint = "Continuous statements read it only as INSERT INTO a key-value sink. Read the view or table below it.";
                        self.faults.push(piece.fault(span, message, hint.to_string()));
                        sound = false;
                    }
                    checked.materialized.push(name.clone());
                }
                Some(Defined::Table | Defined::View) => {}
            }
            if !checked.reads.contains(&name) {
                checked.reads.push(name);
            }
        }
        sound.then_some(checked)
    }

    /// Views in the order in which they read each other.
    fn views(&mut self, statements: &[(Piece, Statement)]) {
        let mut waiting: Vec<(&Piece, &ViewStatement, Checked)> = Vec::new();
        let mut seen = BTreeSet::new();
        for (piece, statement) in statements {
            let Statement::View(view) = statement else { continue };
            let name = normal(&view.name);
            let first = seen.insert(name.clone()) && !self.relations.contains_key(&name);
            let purpose = if view.materialized { Purpose::Materialized } else { Purpose::View };
            match self.check(piece, purpose, !view.columns.is_empty(), &view.query) {
                Some(checked) if first => waiting.push((piece, view, checked)),
                Some(_) => {}
                None if first => self.break_name(&name),
                None => {}
            }
        }
        loop {
            let before = waiting.len();
            let mut later = Vec::new();
            for (piece, view, checked) in waiting {
                let state = |name: &String| (self.relations.contains_key(name), self.defined.get(name));
                if checked.reads.iter().any(|r| matches!(state(r), (_, Some(Defined::Broken)))) {
                    self.break_name(&normal(&view.name));
                } else if checked.reads.iter().all(|r| state(r).0) {
                    if let Err(found) = self.view(piece, view, &checked) {
                        self.faults.extend(found);
                        self.break_name(&normal(&view.name));
                    }
                } else {
                    later.push((piece, view, checked));
                }
            }
            waiting = later;
            if waiting.is_empty() {
                return;
            }
            if waiting.len() == before {
                break;
            }
        }
        for (piece, view, checked) in waiting {
            let name = normal(&view.name);
            let message = format!("view \"{name}\" reads itself, through \"{}\"", checked.reads.join("\", \""));
            self.faults.push(piece.fault(
                view.name.span,
                message,
                "A continuous statement cannot be recursive.".to_string(),
            ));
            self.break_name(&name);
        }
    }

    fn view(&mut self, piece: &Piece, view: &ViewStatement, checked: &Checked) -> Result<(), Vec<Fault>> {
        let name = normal(&view.name);
        let column_names: Vec<String> = view.columns.iter().map(normal).collect();
        let mut query = view.query.as_ref().clone();
        if !view.materialized {
            name_columns(&mut query.body, &view.columns);
        }
        carry_message(&mut query, &self.relations, view.materialized);
        let planner = Planner { session: self.session, relations: &self.relations, piece, reads: &checked.reads };
        let plan = planner.analyze(query).map_err(|f| vec![f])?;
        let unsteady = unsteady(&plan).map_err(|e| vec![planner.complain(&e)])?;
        let below = || checked.reads.iter().find_map(|r| self.unsteady.get(r).map(|function| (r, function)));
        if let (true, Some((read, function))) = (view.materialized, below()) {
            let message = format!("view \"{read}\" calls {function}() and cannot feed a materialized view");
            let hint = "The state of a materialized view must come out the same when messages are read again. Call it in the INSERT INTO an append-only sink.";
            return Err(vec![planner.fault_at(read, message, hint)]);
        }
        let unsteady = unsteady.or(below().map(|(_, function)| function.clone()));
        if view.materialized {
            let folded = fold::split(&planner, plan, &column_names)?;
            let print = self.fingerprint(&folded).map_err(|e| vec![planner.complain(&e)])?;
            let Folded { input, input_schema, fold, having, projection, output_schema, key } = folded;
            let relation =
                Relation { kind: RelationKind::Materialized, schema: output_schema.clone(), hidden: Vec::new() };
            let built = MaterializedView {
                name: name.as_str().into(),
                sql: piece.sql.clone(),
                place: piece.place.clone(),
                input: usize::MAX, // known once nodes are assembled
                input_schema,
                fold,
                output_schema,
                key,
                having,
                projection,
                fingerprint: print,
            };
            self.views.push((built, input));
            self.relations.insert(name, relation);
            return Ok(());
        }
        let plan = planner.settle_stream(plan, &column_names)?;
        let schema = stream_schema(&plan);
        if let Some(function) = unsteady {
            self.unsteady.insert(name.clone(), function);
        }
        self.stateless_views.push(StatelessView {
            name: name.as_str().into(),
            schema: without_message(&schema),
            sql: piece.sql.clone(),
            place: piece.place.clone(),
        });
        let relation = Relation { kind: RelationKind::View, schema, hidden: vec![MSG_COLUMN.to_string()] };
        self.relations.insert(name.clone(), relation);
        self.streams.insert(name.clone(), plan);
        self.order.push(name);
        Ok(())
    }

    fn fingerprint(&self, folded: &Folded) -> datafusion::common::Result<String> {
        let input = optimize(self.session, fingerprint::whole(&folded.input, &self.streams)?)?;
        fingerprint::of_view(&input, folded, &self.tables)
    }

    fn inserts(&mut self, statements: &[(Piece, Statement)]) {
        let mut targets: Vec<(Insert, Span, Piece)> = Vec::new();
        for (piece, statement) in statements {
            let Statement::Insert(insert) = statement else { continue };
            let sink = self.sink(piece, insert);
            let Some(checked) = self.check(piece, Purpose::Insert, !insert.columns.is_empty(), &insert.query) else {
                continue;
            };
            if !checked.reads.iter().all(|r| self.relations.contains_key(r)) {
                continue; // what it reads is broken, and that was said
            }
            let Some(sink) = sink else {
                self.faults.extend(self.faults_without_sink(piece, insert, &checked));
                continue;
            };
            match self.insert(piece, insert, sink, &checked) {
                Ok((built, plan)) => {
                    self.check_against(&targets, piece, insert, &built, sink);
                    targets.push((built.clone(), insert.table.span, piece.clone()));
                    self.inserts.push((built, plan));
                }
                Err(found) => self.faults.extend(found),
            }
        }
    }

    fn sink(&mut self, piece: &Piece, insert: &InsertStatement) -> Option<SinkKind> {
        let name = normal(&insert.sink);
        if let Some(kind) = self.catalog.sinks.get(&name) {
            return Some(*kind);
        }
        let sinks: Vec<&str> = self.catalog.sinks.keys().map(String::as_str).collect();
        let hint = match closest(&name, sinks.iter().copied()) {
            Some(close) => format!("Did you mean \"{close}\"?"),
            None if sinks.is_empty() => format!("Add [sink.{name}] to the TOML."),
            None => format!("The sinks of the TOML are {}; or add [sink.{name}].", sinks.join(", ")),
        };
        self.faults.push(piece.fault(insert.sink.span, format!("sink \"{name}\" does not exist"), hint));
        None
    }

    /// The query's own faults, where the sink is unknown already.
    fn faults_without_sink(&self, piece: &Piece, insert: &InsertStatement, checked: &Checked) -> Vec<Fault> {
        let planner = Planner { session: self.session, relations: &self.relations, piece, reads: &checked.reads };
        let mut query = insert.query.as_ref().clone();
        if checked.materialized.is_empty() {
            carry_message(&mut query, &self.relations, false);
        } else {
            hide_columns(&mut query, &self.relations);
        }
        planner.analyze(query).err().into_iter().collect()
    }

    fn insert(
        &self,
        piece: &Piece,
        insert: &InsertStatement,
        sink: SinkKind,
        checked: &Checked,
    ) -> Result<(Insert, Option<LogicalPlan>), Vec<Fault>> {
        let (sink_name, table) = (normal(&insert.sink), normal(&insert.table));
        let planner = Planner { session: self.session, relations: &self.relations, piece, reads: &checked.reads };
        let updating =
            match (checked.materialized.as_slice(), checked.reads.as_slice()) {
                ([], _) => None,
                ([view], [_]) => self.views.iter().position(|(v, _)| v.name.as_ref() == view),
                _ => {
                    return Err(vec![planner.fault(
                        "a materialized view and a stream do not go together",
                        "Write one INSERT INTO for each.",
                    )]);
                }
            };
        match (sink, updating) {
            (SinkKind::Append, Some(view)) => {
                let name = &self.views[view].0.name;
                let message =
                    format!("\"{name}\" changes rows after emitting them, and \"{sink_name}.{table}\" is append-only");
                let hint =
                    "Insert it into a key-value sink; or insert the rows below it; or read it over Flight SQL as hot."
                        .to_string()
                        + name
                        + ". Final rows of closed windows are not built yet.";
                return Err(vec![piece.fault(insert.sink.span, message, hint)]);
            }
            (SinkKind::Upsert, None) => {
                let message = format!("only materialized views feed a key-value sink, and \"{sink_name}\" is one");
                let hint = "Write CREATE MATERIALIZED VIEW name AS SELECT DISTINCT ON (key) ... ORDER BY key, t DESC, and insert from it: the sink can then be rebuilt.";
                return Err(vec![piece.fault(insert.sink.span, message, hint.to_string())]);
            }
            (SinkKind::Append, None) | (SinkKind::Upsert, Some(_)) => {}
        }
        if insert.columns.is_empty() && table.starts_with("__") {
            return Err(vec![piece.fault(insert.table.span, format!("the name \"{table}\" is taken"), None)]);
        }
        let column_names: Vec<String> = insert.columns.iter().map(normal).collect();
        let mut query = insert.query.as_ref().clone();
        let built = |schema: SchemaRef, from: InsertFrom, whole_of: Option<Arc<str>>| Insert {
            sink: sink_name.as_str().into(),
            table: table.as_str().into(),
            place: piece.place.clone(),
            sql: piece.sql.clone(),
            schema,
            from,
            whole_of,
        };
        if let Some(view) = updating {
            hide_columns(&mut query, &self.relations);
            let plan = planner.analyze(query).map_err(|f| vec![f])?;
            let changes = deliver::changes(&planner, &plan, &self.views[view].0, &column_names)?;
            let reading = changes.reading;
            let from =
                InsertFrom::View { view, filter: reading.filter, projection: reading.projection, key: changes.key };
            return Ok((built(reading.schema, from, None), None));
        }
        let whole = if column_names.is_empty() { deliver::whole_of(&insert.query) } else { None };
        name_columns(&mut query.body, &insert.columns);
        carry_message(&mut query, &self.relations, false);
        let plan = planner.analyze(query).map_err(|f| vec![f])?;
        let plan = planner.settle_stream(plan, &column_names)?;
        let schema = without_message(&stream_schema(&plan));
        let from = InsertFrom::Node(usize::MAX); // known once nodes are assembled
        Ok((built(schema, from, whole.map(|w| w.as_str().into())), Some(plan)))
    }

    /// Two statements may fill one append-only table if the columns they share have one type.
    fn check_against(
        &mut self,
        others: &[(Insert, Span, Piece)],
        piece: &Piece,
        insert: &InsertStatement,
        built: &Insert,
        sink: SinkKind,
    ) {
        for (other, _, at) in others.iter().filter(|(o, _, _)| o.sink == built.sink && o.table == built.table) {
            let first = format!("{}:{}:{}", at.place.file.display(), at.place.line, at.place.column);
            if sink == SinkKind::Upsert {
                let message = format!("two statements insert into \"{}.{}\"", built.sink, built.table);
                let hint =
                    format!("The first is at {first}. A table of a key-value sink follows one materialized view.");
                self.faults.push(piece.fault(insert.table.span, message, hint));
                continue;
            }
            for (column, ours, theirs) in conflicts(&built.schema, &other.schema) {
                let message = format!(
                    "column \"{column}\" of \"{}.{}\" is {ours} here and {theirs} there",
                    built.sink, built.table
                );
                let hint = format!("The other statement is at {first}. Write CAST({column} AS {theirs}) AS {column}.");
                self.faults.push(piece.fault(insert.table.span, message, hint));
            }
        }
    }

    /// Everything is sound: nodes in evaluation order, and their numbers where they are referred to.
    fn assemble(mut self) -> datafusion::common::Result<Plan> {
        deliver::align(&mut self.inserts)?;
        let statements = Statements {
            session: self.session,
            relations: &self.relations,
            tables: &self.tables,
            streams: &self.streams,
            inserts: &self.inserts,
        };
        let feeds = statements.feeds()?;
        let rebuilds = self.views.iter().map(|(view, input)| statements.rebuilds(view, input));
        let rebuilds = rebuilds.collect::<datafusion::common::Result<Vec<_>>>()?;
        let live: Vec<&LogicalPlan> =
            self.views.iter().map(|(_, p)| p).chain(self.inserts.iter().filter_map(|(_, p)| p.as_ref())).collect();
        let readers = count_readers(&self.streams, &live)?;
        let mut assembly = Assembly::new(self.session, &self.tables);
        for name in &self.order {
            // A view that nothing reads is planned for its schema and never evaluated.
            if let Some(readers) = readers.get(name) {
                assembly.add_view(name, &self.streams[name], *readers)?;
            }
        }
        let mut views = Vec::new();
        for (position, (mut view, input)) in self.views.into_iter().enumerate() {
            let schema = with_message(&view.input_schema);
            view.input = assembly.add_node(view.name.clone(), NodeRole::ViewInput(position), &input, Some(schema))?;
            views.push(Arc::new(view));
        }
        let mut inserts = Vec::new();
        for (position, (mut insert, plan)) in self.inserts.into_iter().enumerate() {
            if let Some(plan) = plan {
                let statement = format!("insert {}.{}", insert.sink, insert.table);
                let schema = with_message(&insert.schema);
                let node = assembly.add_node(statement.into(), NodeRole::Insert(position), &plan, Some(schema))?;
                insert.from = InsertFrom::Node(node);
            }
            inserts.push(Arc::new(insert));
        }
        let nodes = assembly.nodes;
        let meta_used = meta_used(&self.tables, &nodes)?;
        let (tables, stateless_views) = (self.tables, self.stateless_views);
        Ok(Plan { tables, nodes, views, inserts, stateless_views, meta_used, feeds, rebuilds })
    }
}

fn with_message(schema: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().map(|f| nullable(f, true)).collect();
    fields.push(Arc::new(arrow::datatypes::Field::new(MSG_COLUMN, DataType::UInt32, false)));
    Arc::new(Schema::new(fields))
}

/// Columns that both schemas have with different types, as SQL names the types.
fn conflicts(ours: &SchemaRef, theirs: &SchemaRef) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for field in ours.fields() {
        if let Ok(other) = theirs.field_with_name(field.name())
            && other.data_type() != field.data_type()
        {
            found.push((field.name().clone(), type_name(field.data_type()), type_name(other.data_type())));
        }
    }
    found
}
