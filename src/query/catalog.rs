//! The names a query may use, and the tables behind them.
//!
//! Catalog `pipe`: schema `hot` (materialized views), one schema per table sink under the sink's name, `system`, and
//! DataFusion's `information_schema`. A bare name is looked for in this order:
//! 1. a materialized view in `hot`,
//! 2. a stream (a table or stateless view of the pipeline's SQL): the one lake table that received `SELECT *` of it, so
//!    that the same text gives the same answer as a batch; none or two is an error that says so,
//! 3. a lake table, if only one sink has a table of that name.
//! A stream hides a lake table of its name that holds only part of it: `lake.points` still names that one.

use crate::query::World;
use crate::query::cut::{Cut, Pinned};
use crate::query::error::{QueryError, did_you_mean};
use crate::query::running::Running;
use crate::query::{boundary, hot, lake, system};
use crate::sql::plan::MaterializedView;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, MemTable, SchemaProvider, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::Result;
use std::fmt;
use std::sync::Arc;

pub const CATALOG: &str = "pipe";
pub const HOT: &str = "hot";
pub const SYSTEM: &str = "system";
const INFORMATION_SCHEMA: &str = "information_schema";

/// The schema that bare names resolve in. Listed nowhere, and no sink can have this name.
pub const BARE: &str = "(bare)";

/// What one query can see.
pub struct Shown {
    pub world: Arc<dyn World>,
    pub cut: Cut,
    pub running: Arc<Running>,
}

/// A table as those who list tables see it.
#[derive(Clone, Debug)]
pub struct TableFacts {
    pub schema: String,
    pub name: String,
    pub kind: TableKind,
    pub columns: SchemaRef,
    /// Names of the key columns, in key order; empty when there is no key.
    pub key: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Base,
    System,
}

enum Found<'a> {
    Hot(usize, &'a Arc<MaterializedView>),
    Lake(&'a Pinned),
    Stream(&'a Pinned, SchemaRef),
    System(String),
}

impl Shown {
    pub fn facts(&self) -> Vec<TableFacts> {
        let plan = self.world.plan();
        let mut facts = Vec::new();
        for view in &plan.views {
            let columns = boundary::schema(&view.output_schema);
            let key = view.key.iter().map(|i| columns.field(*i).name().clone()).collect();
            let (schema, name) = (HOT.to_string(), view.name.to_string());
            facts.push(TableFacts { schema, name, kind: TableKind::Base, columns, key });
        }
        for pinned in &self.cut.lake {
            facts.push(TableFacts {
                schema: pinned.sink.to_string(),
                name: pinned.table.clone(),
                kind: TableKind::Base,
                columns: boundary::schema(&lake::schema(pinned)),
                key: Vec::new(),
            });
        }
        for name in system::names(&*self.world) {
            let Some(rows) = system::rows(&*self.world, &self.running, name) else { continue };
            let (schema, name, columns) = (SYSTEM.to_string(), name.to_string(), rows.schema());
            facts.push(TableFacts { schema, name, kind: TableKind::System, columns, key: Vec::new() });
        }
        facts
    }

    pub fn schema_names(&self) -> Vec<String> {
        let mut names = vec![HOT.to_string()];
        for pinned in &self.cut.lake {
            if !names.iter().any(|n| *n == *pinned.sink) {
                names.push(pinned.sink.to_string());
            }
        }
        names.push(SYSTEM.to_string());
        names
    }

    /// Says what is wrong with a table's name, if anything is; DataFusion would only say that it is not there.
    pub fn check(&self, name: &TableReference) -> Result<(), QueryError> {
        if name.catalog().is_some_and(|c| c != CATALOG) {
            return Err(QueryError::wrong(format!("catalog \"{}\" does not exist", name.catalog().unwrap_or("")))
                .hint("the only catalog is \"pipe\"."));
        }
        if name.schema() == Some(INFORMATION_SCHEMA) {
            return Ok(());
        }
        self.find(name.schema(), name.table()).map(|_| ())
    }

    fn find(&self, schema: Option<&str>, name: &str) -> Result<Found<'_>, QueryError> {
        match schema {
            None | Some(BARE) => self.find_bare(name),
            Some(HOT) => self.hot(name).ok_or_else(|| self.missing(HOT, name)),
            Some(SYSTEM) => match system::rows(&*self.world, &self.running, name) {
                Some(_) => Ok(Found::System(name.to_string())),
                None => Err(self.missing(SYSTEM, name)),
            },
            Some(sink) => {
                let found = self.cut.lake.iter().find(|p| *p.sink == *sink && p.table == name);
                found.map(Found::Lake).ok_or_else(|| self.missing(sink, name))
            }
        }
    }

    fn hot(&self, name: &str) -> Option<Found<'_>> {
        let views = &self.world.plan().views;
        views.iter().enumerate().find(|(_, v)| *v.name == *name).map(|(i, v)| Found::Hot(i, v))
    }

    fn find_bare(&self, name: &str) -> Result<Found<'_>, QueryError> {
        if let Some(found) = self.hot(name) {
            return Ok(found);
        }
        if let Some(columns) = self.stream(name) {
            return self.find_stream(name, columns);
        }
        let lake: Vec<&Pinned> = self.cut.lake.iter().filter(|p| p.table == name).collect();
        match lake.as_slice() {
            [one] => Ok(Found::Lake(one)),
            [] => {
                let facts = self.facts();
                let full: Vec<String> = facts.iter().map(|f| format!("{}.{}", f.schema, f.name)).collect();
                let same = full.iter().find(|f| f.rsplit('.').next() == Some(name)).cloned();
                let hint = same.map(|f| format!("there is \"{f}\".")).or_else(|| {
                    let bare = facts.iter().map(|f| f.name.as_str()).chain(self.streams());
                    did_you_mean(name, bare)
                });
                Err(with_hint(QueryError::wrong(format!("table \"{name}\" does not exist")), hint))
            }
            many => {
                let names: Vec<&str> = many.iter().map(|p| p.key.as_str()).collect();
                Err(QueryError::wrong(format!("table \"{name}\" is in several sinks"))
                    .hint(format!("write one of {}.", names.join(", "))))
            }
        }
    }

    fn streams(&self) -> impl Iterator<Item = &str> {
        let plan = self.world.plan();
        let tables = plan.tables.iter().map(|t| &*t.name);
        tables.chain(plan.stateless_views.iter().map(|v| &*v.name))
    }

    /// The columns of `SELECT *` of a stream.
    fn stream(&self, name: &str) -> Option<SchemaRef> {
        let plan = self.world.plan();
        let table = plan.tables.iter().find(|t| *t.name == *name).map(|t| t.data_schema());
        table.or_else(|| plan.stateless_views.iter().find(|v| *v.name == *name).map(|v| v.schema.clone()))
    }

    fn find_stream(&self, name: &str, columns: SchemaRef) -> Result<Found<'_>, QueryError> {
        let inserts = self.world.plan().inserts.iter().filter(|i| i.whole_of.as_deref() == Some(name));
        let keys: Vec<String> = inserts.map(|i| format!("{}.{}", i.sink, i.table)).collect();
        let whole: Vec<&Pinned> = self.cut.lake.iter().filter(|p| keys.contains(&p.key)).collect();
        match whole.as_slice() {
            [one] => Ok(Found::Stream(one, columns)),
            [] => Err(QueryError::wrong(format!("stream \"{name}\" is not kept: no table receives SELECT * of it"))
                .hint(format!("INSERT INTO a table SELECT * FROM {name}, or read a table that has a part of it."))),
            many => {
                let names: Vec<&str> = many.iter().map(|p| p.key.as_str()).collect();
                Err(QueryError::wrong(format!("stream \"{name}\" is kept in {} tables", names.len()))
                    .hint(format!("write one of {}.", names.join(", "))))
            }
        }
    }

    fn missing(&self, schema: &str, name: &str) -> QueryError {
        let schemas = self.schema_names();
        if !schemas.iter().any(|s| s == schema) {
            let e = QueryError::wrong(format!("schema \"{schema}\" does not exist"));
            let known = Some(format!("there is {}.", schemas.join(", ")));
            return with_hint(e, did_you_mean(schema, schemas.iter().map(String::as_str)).or(known));
        }
        let facts = self.facts();
        let names: Vec<&str> = facts.iter().filter(|f| f.schema == schema).map(|f| f.name.as_str()).collect();
        let known = (!names.is_empty()).then(|| format!("there is {}.", names.join(", ")));
        let e = QueryError::wrong(format!("table \"{schema}.{name}\" does not exist"));
        with_hint(e, did_you_mean(name, names.iter().copied()).or(known))
    }

    fn table(&self, schema: &str, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        // What is wrong with a name was said by `check`; what is left are names of table functions.
        let Ok(found) = self.find(Some(schema), name) else { return Ok(None) };
        Ok(Some(match found {
            Found::Hot(index, view) => hot::table(view, index, &self.cut)?,
            Found::Lake(pinned) => lake::table(pinned, &self.cut)?,
            Found::Stream(pinned, columns) => lake::stream_table(pinned, &self.cut, &columns)?,
            Found::System(name) => {
                let Some(rows) = system::rows(&*self.world, &self.running, &name) else { return Ok(None) };
                Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?)
            }
        }))
    }
}

fn with_hint(e: QueryError, hint: Option<String>) -> QueryError {
    match hint {
        Some(hint) => e.hint(hint),
        None => e,
    }
}

/// Catalog `pipe` over what one query can see.
#[derive(Debug)]
pub struct Catalog(pub Arc<Shown>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        self.0.schema_names()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let known = name == BARE || self.0.schema_names().iter().any(|s| s == name);
        known.then(|| Arc::new(Tables { shown: self.0.clone(), schema: name.to_string() }) as Arc<dyn SchemaProvider>)
    }
}

#[derive(Debug)]
struct Tables {
    shown: Arc<Shown>,
    schema: String,
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.shown.facts().into_iter().filter(|f| f.schema == self.schema).map(|f| f.name).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        self.shown.table(&self.schema, name)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.shown.find(Some(&self.schema), name).is_ok()
    }
}
