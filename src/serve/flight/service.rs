//! The Flight SQL commands: statements, prepared statements, metadata.
//!
//! Every command is answered in two steps: `GetFlightInfo` announces a schema and a ticket, `DoGet` streams the rows of
//! the ticket. For metadata the ticket is the command itself, for queries a `Handle` that carries the query.

use crate::query::catalog::{CATALOG, TableKind};
use crate::query::error::QueryError;
use crate::query::run::Queries;
use crate::serve::access::{Access, token_in};
use crate::serve::flight::handle::{Handle, status};
use crate::serve::flight::{info, keys, session, types};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::IpcWriteOptions;
use arrow::record_batch::RecordBatch;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::{SqlInfoData, XdbcTypeInfoData};
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, CommandGetCatalogs,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementQuery, CommandStatementUpdate,
    DoPutPreparedStatementResult, ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor,
    FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage, RenewFlightEndpointRequest,
    SchemaAsIpc, Ticket,
};
use futures::{Stream, TryStreamExt, stream};
use prost::Message;
use std::pin::Pin;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";
const RENEW_ENDPOINT: &str = "RenewFlightEndpoint";

pub struct Sql {
    queries: Queries,
    access: Arc<Access>,
    sql_info: SqlInfoData,
    types: XdbcTypeInfoData,
}

type DoGet = Response<<Sql as FlightService>::DoGetStream>;

impl Sql {
    pub fn new(queries: Queries, access: Arc<Access>) -> Result<Self, FlightError> {
        let sql_info = info::data(&queries.session())?;
        Ok(Sql { queries, access, sql_info, types: types::data()? })
    }

    pub fn queries(&self) -> &Queries {
        &self.queries
    }

    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Announces a statement, under the descriptor that asked for it.
    pub async fn info_of_statement(&self, sql: &str, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        let described = self.queries.describe_bound(sql, Vec::new()).await.map_err(status)?;
        let ticket = TicketStatementQuery { statement_handle: Handle::new(sql).bytes() };
        announce(&described.schema, ticket, Some(descriptor))
    }

    pub async fn rows(&self, handle: Handle) -> Result<DoGet, Status> {
        let rows = self.queries.run(&handle.sql, handle.values()?, Some(handle.tag)).await.map_err(status)?;
        let (id, schema) = (rows.id, rows.schema.clone());
        let batches = rows.map_err(|e| FlightError::Tonic(Box::new(status(e))));
        let mut response = send(schema, batches);
        let id = id.to_string().parse().expect("digits are ASCII");
        response.metadata_mut().insert("x-pipe-query-id", id);
        Ok(response)
    }

    fn tables(&self, command: CommandGetTables) -> Result<RecordBatch, Status> {
        let mut builder = command.into_builder();
        for table in self.queries.tables() {
            let kind = kind_name(table.kind);
            builder.append(CATALOG, &table.schema, &table.name, kind, &table.columns).map_err(Status::from)?;
        }
        builder.build().map_err(Status::from)
    }

    fn schemas(&self, command: CommandGetDbSchemas) -> Result<RecordBatch, Status> {
        let mut builder = command.into_builder();
        for schema in self.queries.schemas() {
            builder.append(CATALOG, schema);
        }
        builder.build().map_err(Status::from)
    }

    fn catalogs(&self, command: CommandGetCatalogs) -> Result<RecordBatch, Status> {
        let mut builder = command.into_builder();
        builder.append(CATALOG);
        builder.build().map_err(Status::from)
    }

    fn table_types(&self, command: CommandGetTableTypes) -> Result<RecordBatch, Status> {
        let mut builder = command.into_builder();
        for kind in [TableKind::Base, TableKind::System] {
            builder.append(kind_name(kind));
        }
        builder.build().map_err(Status::from)
    }

    fn primary_keys(&self, command: CommandGetPrimaryKeys) -> Result<RecordBatch, Status> {
        keys::primary(&command, &self.queries.tables()).map_err(|e| Status::internal(e.to_string()))
    }
}

/// Grafana lists tables of exactly this type.
fn kind_name(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Base => "BASE TABLE",
        TableKind::System => "SYSTEM TABLE",
    }
}

/// One endpoint without a location: the client fetches from where it asked.
pub fn announce(
    schema: &Schema,
    ticket: impl ProstMessageExt,
    descriptor: Option<FlightDescriptor>,
) -> Result<FlightInfo, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket.as_any().encode_to_vec()));
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|e| Status::internal(e.to_string()))?
        .with_endpoint(endpoint)
        .with_ordered(true);
    Ok(match descriptor {
        Some(descriptor) => info.with_descriptor(descriptor),
        None => info,
    })
}

fn announced(
    schema: SchemaRef,
    command: impl ProstMessageExt,
    request: Request<FlightDescriptor>,
) -> Result<Response<FlightInfo>, Status> {
    Ok(Response::new(announce(&schema, command, Some(request.into_inner()))?))
}

/// Streams batches; the schema goes first even when there are none. The encoder slices what is too large for a message.
fn send(schema: SchemaRef, batches: impl Stream<Item = Result<RecordBatch, FlightError>> + Send + 'static) -> DoGet {
    let data = FlightDataEncoderBuilder::new().with_schema(schema).build(batches).map_err(Status::from);
    Response::new(Box::pin(data))
}

fn send_one(batch: RecordBatch) -> Result<DoGet, Status> {
    Ok(send(batch.schema(), stream::iter([Ok(batch)])))
}

fn schema_bytes(schema: &Schema) -> Result<bytes::Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|e: arrow::error::ArrowError| Status::internal(e.to_string()))?;
    Ok(bytes)
}

fn read_only() -> Status {
    status(
        QueryError::wrong("this server only answers queries").hint("what is written is decided by the pipeline's SQL."),
    )
}

#[tonic::async_trait]
impl FlightSqlService for Sql {
    type FlightService = Sql;

    /// Basic or bearer in the header, or the user and password of the older handshake in the payload. Everyone is let
    /// in when no tokens are configured, whatever they show, because some clients insist on showing something.
    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>, Status> {
        let header = request.metadata().get("authorization").and_then(|v| v.to_str().ok()).and_then(token_in);
        let token = match header {
            Some(token) => Some(token),
            None => match request.into_inner().message().await? {
                Some(message) => arrow_flight::BasicAuth::decode(message.payload).ok().map(|basic| basic.password),
                None => None,
            },
        };
        let token = token.filter(|t| !t.is_empty()).unwrap_or_else(|| "anonymous".into());
        self.access.check_token(&token).map_err(|_| Status::unauthenticated(crate::serve::access::REFUSED_TEXT))?;
        let answer = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let mut response: Response<Pin<Box<dyn Stream<Item = _> + Send>>> =
            Response::new(Box::pin(stream::iter([Ok(answer)])));
        let header =
            format!("Bearer {token}").parse().map_err(|_| Status::unauthenticated("the token is not ASCII"))?;
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        Ok(Response::new(self.info_of_statement(&query.query, request.into_inner()).await?))
    }

    async fn do_get_statement(&self, ticket: TicketStatementQuery, _: Request<Ticket>) -> Result<DoGet, Status> {
        self.rows(Handle::read(&ticket.statement_handle)?).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let described = self.queries.describe(&query.query).await.map_err(status)?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: Handle::new(query.query).bytes(),
            dataset_schema: schema_bytes(&described.schema)?,
            parameter_schema: schema_bytes(&described.parameters.schema())?,
        })
    }

    /// Binds values: the handle in the answer carries them, the old one stays as it was.
    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let handle = Handle::read(&query.prepared_statement_handle)?;
        let data = request.into_inner().map_err(FlightError::from);
        let batches: Vec<RecordBatch> = FlightRecordBatchStream::new_from_flight_data(data).try_collect().await?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle.bind(&batches)?.bytes()) })
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let handle = Handle::read(&query.prepared_statement_handle)?;
        let values = handle.values()?;
        // Clients ask for the schema of a query before they bind its parameters (`adbc_execute_schema`).
        let described = match values.is_empty() {
            true => self.queries.describe(&handle.sql).await,
            false => self.queries.describe_bound(&handle.sql, values).await,
        };
        announced(described.map_err(status)?.schema, query, request)
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        _: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        self.rows(Handle::read(&query.prepared_statement_handle)?).await
    }

    async fn do_action_close_prepared_statement(
        &self,
        _: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        Ok(())
    }

    async fn do_put_statement_update(
        &self,
        _: CommandStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only())
    }

    async fn do_put_prepared_statement_update(
        &self,
        _: CommandPreparedStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only())
    }

    async fn get_flight_info_catalogs(
        &self,
        command: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(command.into_builder().schema(), command, request)
    }

    async fn do_get_catalogs(&self, command: CommandGetCatalogs, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(self.catalogs(command)?)
    }

    async fn get_flight_info_schemas(
        &self,
        command: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(command.clone().into_builder().schema(), command, request)
    }

    async fn do_get_schemas(&self, command: CommandGetDbSchemas, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(self.schemas(command)?)
    }

    async fn get_flight_info_tables(
        &self,
        command: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(command.clone().into_builder().schema(), command, request)
    }

    async fn do_get_tables(&self, command: CommandGetTables, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(self.tables(command)?)
    }

    async fn get_flight_info_table_types(
        &self,
        command: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(command.into_builder().schema(), command, request)
    }

    async fn do_get_table_types(&self, command: CommandGetTableTypes, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(self.table_types(command)?)
    }

    async fn get_flight_info_sql_info(
        &self,
        command: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(self.sql_info.schema(), command, request)
    }

    async fn do_get_sql_info(&self, command: CommandGetSqlInfo, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(command.into_builder(&self.sql_info).build()?)
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        command: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(self.types.schema(), command, request)
    }

    async fn do_get_xdbc_type_info(
        &self,
        command: CommandGetXdbcTypeInfo,
        _: Request<Ticket>,
    ) -> Result<DoGet, Status> {
        send_one(command.into_builder(&self.types).build()?)
    }

    async fn get_flight_info_primary_keys(
        &self,
        command: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(keys::primary_schema(), command, request)
    }

    async fn do_get_primary_keys(&self, command: CommandGetPrimaryKeys, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(self.primary_keys(command)?)
    }

    async fn get_flight_info_exported_keys(
        &self,
        command: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(keys::foreign_schema(), command, request)
    }

    async fn do_get_exported_keys(&self, _: CommandGetExportedKeys, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(RecordBatch::new_empty(keys::foreign_schema()))
    }

    async fn get_flight_info_imported_keys(
        &self,
        command: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(keys::foreign_schema(), command, request)
    }

    async fn do_get_imported_keys(&self, _: CommandGetImportedKeys, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(RecordBatch::new_empty(keys::foreign_schema()))
    }

    async fn get_flight_info_cross_reference(
        &self,
        command: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        announced(keys::foreign_schema(), command, request)
    }

    async fn do_get_cross_reference(&self, _: CommandGetCrossReference, _: Request<Ticket>) -> Result<DoGet, Status> {
        send_one(RecordBatch::new_empty(keys::foreign_schema()))
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info = FlightInfo::decode(query.info).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(ActionCancelQueryResult { result: self.cancel(&info)? as i32 })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let Action { r#type: kind, body } = request.into_inner();
        let undecodable = |e: prost::DecodeError| Status::invalid_argument(e.to_string());
        let answer = match kind.as_str() {
            CANCEL_FLIGHT_INFO => {
                let asked = CancelFlightInfoRequest::decode(body).map_err(undecodable)?;
                let info = asked.info.ok_or_else(|| Status::invalid_argument("there is no info to cancel"))?;
                CancelFlightInfoResult::new(self.cancel(&info)?).encode_to_vec()
            }
            // A ticket carries its query and never expires.
            RENEW_ENDPOINT => {
                let asked = RenewFlightEndpointRequest::decode(body).map_err(undecodable)?;
                asked.endpoint.ok_or_else(|| Status::invalid_argument("there is no endpoint to renew"))?.encode_to_vec()
            }
            _ => session::answer(&kind, &body)?
                .ok_or_else(|| Status::unimplemented(format!("action \"{kind}\" is not known here")))?,
        };
        Ok(Response::new(Box::pin(stream::iter([Ok(arrow_flight::Result::new(answer))]))))
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        let action =
            |kind: &str, description: &str| Ok(ActionType { r#type: kind.into(), description: description.into() });
        Some(vec![
            action(CANCEL_FLIGHT_INFO, "Cancels the queries of a FlightInfo"),
            action(RENEW_ENDPOINT, "Gives the endpoint back; tickets do not expire"),
            action(session::SET, "Says which options can be set"),
            action(session::GET, "Says which options hold"),
            action(session::CLOSE, "Ends a session; there is nothing to end"),
        ])
    }

    /// The list is complete from the start; see `info`.
    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}

impl Sql {
    /// Cancels what runs under the tickets of an announced query.
    fn cancel(&self, info: &FlightInfo) -> Result<CancelStatus, Status> {
        let mut found = 0;
        for ticket in info.endpoint.iter().filter_map(|e| e.ticket.as_ref()) {
            let any =
                arrow_flight::sql::Any::decode(&*ticket.ticket).map_err(|e| Status::invalid_argument(e.to_string()))?;
            let unreadable = |e: arrow::error::ArrowError| Status::invalid_argument(e.to_string());
            let handle = match any.unpack::<TicketStatementQuery>().map_err(unreadable)? {
                Some(ticket) => ticket.statement_handle,
                None => match any.unpack::<CommandPreparedStatementQuery>().map_err(unreadable)? {
                    Some(command) => command.prepared_statement_handle,
                    None => return Ok(CancelStatus::NotCancellable),
                },
            };
            found += self.queries.running().cancel_tag(Handle::read(&handle)?.tag);
        }
        match found {
            0 => Err(Status::not_found("the query does not run (any more)")),
            _ => Ok(CancelStatus::Cancelled),
        }
    }
}
