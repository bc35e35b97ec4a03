//! A table at one version, for readers: nothing is loaded until it is scanned.
//!
//! Commits never touch what is kept here, so a table nobody reads costs nothing. The list of files of the newest version
//! read is kept and moved forward; it is loaded anew now and then, because delta-rs keeps a batch per commit it has seen.

use super::log::Log;
use crate::types::error::Result;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use deltalake::delta_datafusion::{DeltaScanConfig, DeltaScanNext};
use deltalake::kernel::EagerSnapshot;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake::table::state::DeltaTableState;
use deltalake::{DeltaTable, DeltaTableError};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::prefix::PrefixStore;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Steps forward before the file list is loaded anew: a step costs more the more of them there were.
const STEPS_MAX: u32 = 100;

pub(super) struct Reader {
    pub log_store: LogStoreRef,
    /// One loads, the others wait for it: they want the same version.
    newest: Mutex<Option<Loaded>>,
}

#[derive(Clone)]
struct Loaded {
    state: DeltaTableState,
    steps: u32,
}

impl Reader {
    pub fn new(log: &Log) -> Result<Self> {
        let (store, url) = (log.table.store.clone(), log.table.url());
        let table_store = Arc::new(PrefixStore::new(store.clone(), log.table.prefix.clone()));
        let log_store = default_logstore(table_store, store, &url, &StorageConfig::default());
        Ok(Reader { log_store, newest: Mutex::new(None) })
    }

    /// The files of `version`.
    pub async fn at(&self, version: u64) -> Result<EagerSnapshot, DeltaTableError> {
        let mut newest = self.newest.lock().await;
        let loaded = match newest.as_ref() {
            Some(known) if known.state.version() == version => return Ok(known.state.snapshot().clone()),
            Some(known) if known.state.version() < version && known.steps < STEPS_MAX => {
                let mut next = known.clone();
                next.state.update(&self.log_store, Some(version)).await?;
                next.steps += 1;
                next
            }
            _ => Loaded { state: DeltaTableState::try_new(&self.log_store, Some(version)).await?, steps: 0 },
        };
        let snapshot = loaded.state.snapshot().clone();
        if newest.as_ref().is_none_or(|known| known.state.version() < version) {
            *newest = Some(loaded);
        }
        Ok(snapshot)
    }

    /// Forgets the file list; the next reader loads it from the newest checkpoint.
    pub async fn renew(&self) {
        *self.newest.lock().await = None;
    }

    #[cfg(test)]
    pub async fn steps(&self) -> Option<u32> {
        self.newest.lock().await.as_ref().map(|loaded| loaded.steps)
    }
}

/// What DataFusion reads: the table at `version`, whatever is committed meanwhile.
pub(super) struct PinnedTable {
    /// A function, so that the compiler proves once, and not for each caller, that delta-rs' state may be shared.
    load: Box<dyn Fn() -> BoxFuture<'static, LoadedTable> + Send + Sync>,
    log_store: LogStoreRef,
    version: u64,
    schema: SchemaRef,
}

type LoadedTable = datafusion::common::Result<Arc<dyn TableProvider>>;

impl PinnedTable {
    pub fn new(reader: Arc<Reader>, version: u64, schema: SchemaRef) -> Self {
        let log_store = reader.log_store.clone();
        let load = move || load(reader.clone(), version).boxed();
        PinnedTable { load: Box::new(load), log_store, version, schema }
    }
}

async fn load(reader: Arc<Reader>, version: u64) -> LoadedTable {
    let snapshot = reader.at(version).await.map_err(|e| DataFusionError::External(Box::new(e)))?;
    Ok(Arc::new(DeltaScanNext::new(snapshot, scan_config())?))
}

impl std::fmt::Debug for PinnedTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinnedTable({} at version {})", self.log_store.root_url(), self.version)
    }
}

/// Plain types: no dictionaries around partition values, no view types (they must not reach the wire).
fn scan_config() -> DeltaScanConfig {
    let mut config = DeltaScanConfig::new().with_wrap_partition_values(false);
    config.schema_force_view_types = false;
    config
}

#[async_trait]
impl TableProvider for PinnedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// Used to skip files and row groups; DataFusion filters the rows again.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let table = (self.load)().await?;
        // The plan reads whole URLs through the session's registry, so our store must be in it.
        DeltaTable::new(self.log_store.clone())
            .update_datafusion_session(session)
            .map_err(|e| DataFusionError::External(Box::new(e)))?;
        table.scan(session, projection, filters, limit).await
    }
}
