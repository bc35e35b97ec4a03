//! What a ticket or a prepared statement's handle says: the query itself. Nothing is kept for it on this side, so it
//! outlives a restart and costs nothing when it is never fetched.

use crate::query::error::QueryError;
use arrow::array::ArrayRef;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::common::ScalarValue;
use prost::Message;
use tonic::Status;

#[derive(Clone, PartialEq, Message)]
pub struct Handle {
    #[prost(string, tag = "1")]
    pub sql: String,
    /// An Arrow stream of one row: the parameters in their order. Empty: none were bound.
    #[prost(bytes = "bytes", tag = "2")]
    pub parameters: Bytes,
    /// Under which queries of this handle are cancelled.
    #[prost(fixed64, tag = "3")]
    pub tag: u64,
}

impl Handle {
    pub fn new(sql: impl Into<String>) -> Self {
        Handle { sql: sql.into(), parameters: Bytes::new(), tag: rand::random() }
    }

    pub fn bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    pub fn read(bytes: &[u8]) -> Result<Handle, Status> {
        Handle::decode(bytes).map_err(|_| Status::invalid_argument("this handle is not one of this server"))
    }

    /// With these parameters: one row, or none for a statement without parameters.
    pub fn bind(mut self, batches: &[RecordBatch]) -> Result<Handle, Status> {
        let Some(schema) = batches.first().map(|b| b.schema()) else { return Ok(self) };
        let rows = concat_batches(&schema, batches).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if rows.num_columns() == 0 {
            return Ok(self);
        }
        if rows.num_rows() != 1 {
            let text = format!("{} rows of parameters were bound to one query", rows.num_rows());
            return Err(status(QueryError::wrong(text).hint("bind one row and run the query once for each.")));
        }
        let written = || {
            let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
            writer.write(&rows)?;
            writer.into_inner()
        };
        self.parameters = written().map_err(|e| Status::internal(e.to_string()))?.into();
        Ok(self)
    }

    pub fn values(&self) -> Result<Vec<ScalarValue>, Status> {
        if self.parameters.is_empty() {
            return Ok(Vec::new());
        }
        let wrong = |e: &dyn std::fmt::Display| Status::invalid_argument(format!("the parameters cannot be read: {e}"));
        let mut reader = StreamReader::try_new(&*self.parameters, None).map_err(|e| wrong(&e))?;
        let row = reader.next().ok_or_else(|| wrong(&"there are none"))?.map_err(|e| wrong(&e))?;
        let value = |column: &ArrayRef| ScalarValue::try_from_array(column, 0).map_err(|e| wrong(&e.strip_backtrace()));
        row.columns().iter().map(value).collect()
    }
}

/// A query's error as gRPC has it: the text is ours, the code says whose move it is.
pub fn status(e: QueryError) -> Status {
    use crate::query::error::Kind;
    let text = e.to_string();
    match e.kind {
        Kind::Wrong => Status::invalid_argument(text),
        Kind::Exhausted => Status::resource_exhausted(text),
        Kind::Cancelled => Status::cancelled(text),
        Kind::Unavailable => Status::unavailable(text),
        Kind::Failed => Status::internal(text),
    }
}
