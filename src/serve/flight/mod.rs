//! Arrow Flight SQL: any client that speaks it can query the pipeline.
//!
//! `service` holds the Flight SQL commands. The wrapper here checks the token of every call and adds what the Arrow
//! crate's own dispatch leaves out: GetSchema, PollFlightInfo, ListFlights, and SQL text or a table's path in place of a
//! command (`FlightDescriptor.for_command(b"SELECT 1")`).

pub mod handle; // what tickets carry
pub mod info; // one row per SqlInfo code
pub mod keys; // primary keys
pub mod service; // statements, prepared statements, metadata
pub mod session; // session options
pub mod types; // the types of columns

use crate::query::run::Queries;
use crate::serve::access::{Access, REFUSED_TEXT};
use crate::serve::flight::handle::{Handle, status};
use crate::serve::flight::service::{Sql, announce};
use crate::serve::tls::Identity;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::sql::{Any, TicketStatementQuery};
use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo, SchemaResult, Ticket,
};
use futures::{StreamExt, stream};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Largest message taken in: bound parameters and statements are small.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How often a silent connection is asked whether its client is still there, so that a dead one ends its queries.
const KEEPALIVE: Duration = Duration::from_secs(20);

pub async fn serve(
    listener: TcpListener,
    tls: Option<Identity>,
    queries: Queries,
    access: Arc<Access>,
    stop: CancellationToken,
) {
    let sql = match Sql::new(queries, access) {
        Ok(sql) => sql,
        Err(e) => return tracing::error!(error = %e, "the Flight server could not be built"),
    };
    let service = FlightServiceServer::new(Flight(sql))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        // Messages out are sliced to about 2 MiB; only a single larger row exceeds that, and it is for the client to say no.
        .max_encoding_message_size(usize::MAX);
    let server = match tls {
        None => Ok(Server::builder()),
        Some(tls) => Server::builder().tls_config(tls.flight()),
    };
    let server = match server {
        Ok(server) => server,
        Err(e) => return tracing::error!(error = %e, "the Flight server cannot speak TLS"),
    };
    let served = server
        .http2_adaptive_window(Some(true))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop.cancelled_owned())
        .await;
    if let Err(e) = served {
        tracing::error!(error = %e, "the Flight server stopped");
    }
}

struct Flight(Sql);

impl Flight {
    fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let header = metadata.get("authorization").and_then(|v| v.to_str().ok());
        self.0.access().check(header).map_err(|_| Status::unauthenticated(REFUSED_TEXT))
    }

    async fn info(&self, request: Request<FlightDescriptor>) -> Result<FlightInfo, Status> {
        match text_of(request.get_ref())? {
            Some(sql) => self.0.info_of_statement(&sql, request.into_inner()).await,
            None => Ok(self.0.get_flight_info(request).await?.into_inner()),
        }
    }
}

/// SQL that stands where a command is expected; None: it is a command.
fn text_of(descriptor: &FlightDescriptor) -> Result<Option<String>, Status> {
    if descriptor.r#type() == DescriptorType::Path {
        let quoted = |part: &String| format!("\"{}\"", part.replace('"', "\"\""));
        let path: Vec<String> = descriptor.path.iter().map(quoted).collect();
        if path.is_empty() {
            return Err(Status::invalid_argument("the path is empty: name a table, such as hot, vehicle_latest"));
        }
        return Ok(Some(format!("SELECT * FROM {}", path.join("."))));
    }
    raw_sql(&descriptor.cmd)
}

fn raw_sql(bytes: &[u8]) -> Result<Option<String>, Status> {
    if Any::decode(bytes).is_ok_and(|any| any.type_url.starts_with("type.googleapis.com/")) {
        return Ok(None);
    }
    match std::str::from_utf8(bytes) {
        Ok(sql) => Ok(Some(sql.to_string())),
        Err(_) => Err(Status::invalid_argument("neither a Flight SQL command nor SQL text")),
    }
}

#[tonic::async_trait]
impl FlightService for Flight {
    type HandshakeStream = <Sql as FlightService>::HandshakeStream;
    type ListFlightsStream = <Sql as FlightService>::ListFlightsStream;
    type DoGetStream = <Sql as FlightService>::DoGetStream;
    type DoPutStream = <Sql as FlightService>::DoPutStream;
    type DoActionStream = <Sql as FlightService>::DoActionStream;
    type ListActionsStream = <Sql as FlightService>::ListActionsStream;
    type DoExchangeStream = <Sql as FlightService>::DoExchangeStream;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.0.handshake(request).await
    }

    /// Every table, with a path by which it can be asked for.
    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        self.check(request.metadata())?;
        let infos: Vec<Result<FlightInfo, Status>> = self
            .0
            .queries()
            .tables()
            .into_iter()
            .map(|table| {
                let descriptor = FlightDescriptor::new_path(vec![table.schema, table.name]);
                let sql = text_of(&descriptor)?.unwrap_or_default();
                let ticket = TicketStatementQuery { statement_handle: Handle::new(sql).bytes() };
                announce(&table.columns, ticket, Some(descriptor))
            })
            .collect();
        Ok(Response::new(stream::iter(infos).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        self.check(request.metadata())?;
        Ok(Response::new(self.info(request).await?))
    }

    /// Queries start when they are fetched, so what is announced is complete at once.
    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        self.check(request.metadata())?;
        let info = self.info(request).await?;
        let poll =
            PollInfo::new().with_info(info).try_with_progress(1.0).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(poll))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        self.check(request.metadata())?;
        Ok(Response::new(SchemaResult { schema: self.info(request).await?.schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.check(request.metadata())?;
        match raw_sql(&request.get_ref().ticket)? {
            Some(sql) => self.0.rows(Handle::new(sql)).await,
            None => self.0.do_get(request).await,
        }
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        self.check(request.metadata())?;
        self.0.do_put(request).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.check(request.metadata())?;
        self.0.do_action(request).await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        self.check(request.metadata())?;
        self.0.list_actions(request).await
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(status(crate::query::error::QueryError::wrong("exchanging data is not known here")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};

    #[test]
    fn a_command_is_told_from_sql_text() {
        let command = CommandStatementQuery { query: "SELECT 1".into(), transaction_id: None };
        assert_eq!(raw_sql(&command.as_any().encode_to_vec()).expect("is a command"), None);
        assert_eq!(raw_sql(b"SELECT 1").expect("is text").as_deref(), Some("SELECT 1"));
        assert!(raw_sql(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn a_path_names_a_table_whatever_is_in_it() {
        let path = FlightDescriptor::new_path(vec!["hot".into(), "a\"b".into()]);
        assert_eq!(text_of(&path).expect("is a path").as_deref(), Some("SELECT * FROM \"hot\".\"a\"\"b\""));
        assert!(text_of(&FlightDescriptor::new_path(Vec::new())).is_err());
    }
}
