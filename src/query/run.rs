//! The way in: describe a query, run it, list what there is.
//!
//! Every query gets a DataFusion session of its own over one cut; functions, configuration and the memory pool are
//! shared. Planning and running happen on the runtime that the settings name, never on the caller's.

use crate::env::clock::Clock;
use crate::query::World;
use crate::query::catalog::{BARE, CATALOG, Catalog, Shown, TableFacts};
use crate::query::cut::Cut;
use crate::query::error::{Kind, QueryError, Result};
use crate::query::parameter::{Parameters, bind};
use crate::query::rows::{Owned, Rows};
use crate::query::running::{Outcome, QUERIES_MAX, Running};
use crate::query::{boundary, statement};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{CatalogProviderList, MemoryCatalogProviderList};
use datafusion::common::ScalarValue;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Rows per batch of a result: what DataFusion works in.
const BATCH_ROWS: usize = 8_192;

#[derive(Clone)]
pub struct QuerySettings {
    /// The queries' share of the memory budget, over all of them.
    pub memory_bytes: u64,
    /// Threads' worth of work one query may be split into.
    pub partitions: usize,
    /// Where queries are planned and run: not the runtime of ingestion, not that of the servers.
    pub runtime: Handle,
    pub clock: Clock,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Queries {
    world: Arc<dyn World>,
    /// Functions, rules and configuration, without a catalog; a copy for each query. A function, because the compiler
    /// would otherwise prove anew for each async function of the Flight service that all of it may be shared: minutes.
    session: Arc<dyn Fn() -> SessionState + Send + Sync>,
    runtime: Handle,
    running: Arc<Running>,
}

/// What a query expects and gives.
#[derive(Clone, Debug)]
pub struct Described {
    pub schema: SchemaRef,
    pub parameters: Parameters,
}

struct Planned {
    session: SessionState,
    plan: LogicalPlan,
    described: Described,
}

impl Queries {
    pub fn new(world: Arc<dyn World>, settings: QuerySettings) -> Result<Self> {
        let mut config = SessionConfig::new()
            .with_target_partitions(settings.partitions.max(1))
            .with_batch_size(BATCH_ROWS)
            .with_information_schema(true)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(CATALOG, BARE);
        let options = config.options_mut();
        options.execution.time_zone = Some("UTC".into());
        // Views of strings are multiplied on the wire and unknown to many clients; see `boundary`.
        options.execution.parquet.schema_force_view_types = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        options.sql_parser.collect_spans = true;
        // As in materialized views: DISTINCT ON ... ORDER BY t DESC must not let a NULL win.
        options.sql_parser.default_null_ordering = "nulls_last".into();

        let pool = FairSpillPool::new(usize::try_from(settings.memory_bytes).unwrap_or(usize::MAX));
        let environment = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc()?;
        let mut base =
            SessionStateBuilder::new_with_default_features().with_config(config).with_runtime_env(environment).build();
        datafusion_functions_json::register_all(&mut base)?;
        let running = Arc::new(Running::new(settings.clock));
        let session = Arc::new(move || base.clone());
        Ok(Queries { world, session, runtime: settings.runtime, running })
    }

    /// The result's columns and the parameters, without running anything.
    pub async fn describe(&self, sql: &str) -> Result<Described> {
        Ok(self.planned(sql, None).await?.described)
    }

    /// The result's columns with these values put in: exactly the schema `run` streams.
    pub async fn describe_bound(&self, sql: &str, values: Vec<ScalarValue>) -> Result<Described> {
        Ok(self.planned(sql, Some(values)).await?.described)
    }

    /// Errors of the statement come at once; what goes wrong while it runs comes in the stream.
    /// `tag`: under which a client may cancel it later.
    pub async fn run(&self, sql: &str, values: Vec<ScalarValue>, tag: Option<u64>) -> Result<Rows> {
        let Some(mut entry) = self.running.enter(sql, tag) else {
            return Err(QueryError::new(Kind::Exhausted, format!("{QUERIES_MAX} queries are running already"))
                .hint("wait, or close the results that nobody reads: SELECT * FROM system.queries."));
        };
        let planned = match self.planned(sql, Some(values)).await {
            Ok(planned) => planned,
            Err(e) => {
                entry.ended(Outcome::Failed);
                return Err(e);
            }
        };
        let schema = planned.described.schema;
        let (session, plan) = (planned.session, planned.plan);
        let open = async move {
            let physical = session.create_physical_plan(&plan).await?;
            Ok(execute_stream(physical, session.task_ctx())?)
        };
        Ok(Rows::start(&self.runtime, entry, schema, open))
    }

    pub fn tables(&self) -> Vec<TableFacts> {
        self.shown().facts()
    }

    pub fn schemas(&self) -> Vec<String> {
        self.shown().schema_names()
    }

    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Where work on results belongs that is too long for a server's thread.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// For those who describe what SQL is understood.
    pub fn session(&self) -> SessionState {
        (self.session)()
    }

    fn shown(&self) -> Shown {
        Shown { world: self.world.clone(), cut: Cut::load(&*self.world), running: self.running.clone() }
    }

    /// Boxed here, so that what a plan is made of is no part of the callers' futures.
    fn planned(&self, sql: &str, values: Option<Vec<ScalarValue>>) -> BoxFuture<'static, Result<Planned>> {
        let mut task = Owned(self.runtime.spawn(self.clone().plan(sql.to_string(), values)));
        let planned = async move {
            let ended = (&mut task.0).await;
            ended.map_err(|_| QueryError::failed("the query stopped while it was planned; the log says why"))?
        };
        planned.boxed()
    }

    async fn plan(self, sql: String, values: Option<Vec<ScalarValue>>) -> Result<Planned> {
        let statement = statement::parse(&sql)?;
        let shown = Arc::new(self.shown());
        let mut session = self.session();
        session.mark_start_execution();
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(CATALOG.into(), Arc::new(Catalog(shown.clone())));
        session.register_catalog_list(Arc::new(catalogs));

        for table in session.resolve_table_references(&statement.parsed)? {
            if table.schema().is_none() && session.table_functions().contains_key(table.table()) {
                continue;
            }
            shown.check(&table).map_err(|e| e.at(statement.place_of_table(&table)))?;
        }
        let plan = session.statement_to_plan(statement.parsed).await?;
        let queries_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        queries_only.verify_plan(&plan)?;

        let parameters = Parameters::of(&plan)?;
        let described = match &values {
            Some(values) => parameters.accept(values)?,
            None => parameters.nulls()?,
        };
        let plan = bind(plan, described)?;
        // The analyzer settles the types (a UNION of INT and DOUBLE); what it says is what will be streamed.
        let analyzed = session.analyzer().execute_and_check(plan.clone(), session.config_options(), |_, _| {})?;
        let schema = boundary::schema(analyzed.schema().as_arrow());
        Ok(Planned { session, plan, described: Described { schema, parameters } })
    }
}
