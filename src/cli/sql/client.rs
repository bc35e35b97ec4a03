//! The connection to a pipeline, and what went wrong in words.

use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::FlightInfo;
use arrow_flight::IpcMessage;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::CommandGetTables;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Trouble {
    pub exit_code: u8,
    message: String,
}

impl Trouble {
    /// The call or the statement is wrong.
    pub fn call(message: impl Into<String>) -> Self {
        Trouble { exit_code: 2, message: message.into() }
    }

    pub fn run(message: impl Into<String>) -> Self {
        Trouble { exit_code: 1, message: message.into() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<FlightError> for Trouble {
    fn from(e: FlightError) -> Self {
        match e {
            FlightError::Tonic(status) => match status.code() {
                Code::InvalidArgument => Trouble::call(status.message()),
                Code::Unauthenticated => {
                    Trouble::call("the pipeline wants a token\n  hint: give it with --token or in PIPE_TOKEN.")
                }
                Code::Unavailable => {
                    Trouble::run(format!("the connection to the pipeline is gone: {}", status.message()))
                }
                _ if status.message().starts_with("protocol error") => Trouble::run(format!(
                    "what answers there does not speak Flight SQL: {}\n  hint: the address is the one under flight in \
                     [server], not http.",
                    status.message()
                )),
                _ => Trouble::run(status.message()),
            },
            other => Trouble::run(other.to_string()),
        }
    }
}

pub struct Client {
    flight: FlightSqlServiceClient<Channel>,
}

/// A table as `\d` shows it.
pub struct Table {
    pub name: String,
    pub kind: String,
    pub columns: SchemaRef,
}

impl Client {
    pub async fn connect(url: &str, token: Option<&str>, ca: Option<&Path>) -> Result<Client, Trouble> {
        let (address, tls) = match url.split_once("://") {
            Some(("grpc" | "grpc+tcp" | "http", rest)) => (format!("http://{rest}"), None),
            Some(("grpc+tls" | "grpcs" | "https", rest)) => (format!("https://{rest}"), Some(trust(url, ca)?)),
            _ => {
                return Err(Trouble::call(format!(
                    "\"{url}\" is not an address of a pipeline\n  hint: write grpc://host:port, such as \
                     grpc://127.0.0.1:50051, or grpc+tls://host:port."
                )));
            }
        };
        let mut endpoint = Endpoint::from_shared(address)
            .map_err(|e| Trouble::call(format!("\"{url}\" is not an address: {e}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let is_tls = tls.is_some();
        if let Some(tls) = tls {
            let unfit = |e| Trouble::call(format!("the certificate of --ca is of no use: {e}"));
            endpoint = endpoint.tls_config(tls).map_err(unfit)?;
        }
        let channel = endpoint.connect().await.map_err(|e| match causes(&e) {
            why if is_tls && !why.contains("refused") => Trouble::run(format!(
                "no trusted connection to {url}: {why}\n  hint: --ca names the authority that signed the pipeline's \
                 certificate, and the host in the address is one that the certificate names."
            )),
            _ => Trouble::run(format!(
                "there is no pipeline at {url}\n  hint: start one with pipe demo or pipe serve --config FILE; \
                 its address is flight under [server]."
            )),
        })?;
        let mut flight = FlightSqlServiceClient::new(channel);
        if let Some(token) = token {
            flight.set_token(token.to_string());
        }
        Ok(Client { flight })
    }

    /// The schema and the rows of a statement. Dropping the rows cancels it.
    pub async fn query(&mut self, sql: &str) -> Result<(SchemaRef, FlightRecordBatchStream), Trouble> {
        let info = self.flight.execute(sql.to_string(), None).await?;
        self.fetch(info).await
    }

    async fn fetch(&mut self, info: FlightInfo) -> Result<(SchemaRef, FlightRecordBatchStream), Trouble> {
        let ticket = info.endpoint.first().and_then(|e| e.ticket.clone());
        let ticket = ticket.ok_or_else(|| Trouble::run("the pipeline announced a result without a ticket"))?;
        let schema = info.try_decode_schema().map_err(|e| Trouble::run(e.to_string()))?;
        Ok((Arc::new(schema), self.flight.do_get(ticket).await?))
    }

    /// `name`: "schema.table" or "table"; None: all of them.
    pub async fn tables(&mut self, name: Option<&str>) -> Result<Vec<Table>, Trouble> {
        let (schema, table) = match name.map(|n| n.rsplit_once('.').map_or((None, n), |(s, t)| (Some(s), t))) {
            Some((schema, table)) => (schema.map(str::to_string), Some(table.to_string())),
            None => (None, None),
        };
        let command = CommandGetTables {
            catalog: None,
            db_schema_filter_pattern: schema,
            table_name_filter_pattern: table,
            table_types: Vec::new(),
            include_schema: true,
        };
        let info = self.flight.get_tables(command).await?;
        let (_, rows) = self.fetch(info).await?;
        let batches: Vec<_> = rows.try_collect().await?;
        let mut tables = Vec::new();
        for batch in &batches {
            use arrow::array::AsArray;
            let text = |column: usize| batch.column(column).as_string::<i32>();
            let schemas = batch.column(4).as_binary::<i32>();
            for row in 0..batch.num_rows() {
                let bytes = IpcMessage(bytes::Bytes::copy_from_slice(schemas.value(row)));
                let columns = Schema::try_from(bytes).map_err(|e| Trouble::run(e.to_string()))?;
                tables.push(Table {
                    name: format!("{}.{}", text(1).value(row), text(2).value(row)),
                    kind: text(3).value(row).to_lowercase(),
                    columns: Arc::new(columns),
                });
            }
        }
        Ok(tables)
    }
}

fn trust(url: &str, ca: Option<&Path>) -> Result<ClientTlsConfig, Trouble> {
    let Some(path) = ca else {
        return Err(Trouble::call(format!(
            "\"{url}\" speaks TLS, and nobody is trusted yet\n  hint: name the authority with --ca or in PIPE_CA; \
             --ca /etc/ssl/certs/ca-certificates.crt trusts whom this machine trusts."
        )));
    };
    let pem = std::fs::read(path).map_err(|e| Trouble::call(format!("cannot read {}: {e}", path.display())))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// The error and what caused it: the outermost alone says only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pipeline_that_is_not_there_says_what_to_start() {
        // A port that was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("has an address");
        let trouble = Client::connect(&format!("grpc://{free}"), None, None).await.err().expect("nobody listens");
        assert_eq!(trouble.exit_code, 1);
        assert!(trouble.to_string().contains("pipe demo"), "{trouble}");
    }

    #[tokio::test]
    async fn the_http_servers_address_is_taken_for_what_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        let answer = || async { (axum::http::StatusCode::NOT_FOUND, "{\"error\":{}}") };
        let server = tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        let mut client = Client::connect(&format!("grpc://{address}"), None, None).await.expect("somebody listens");
        let trouble = client.query("SELECT 1").await.err().expect("no pipeline");
        assert_eq!(trouble.exit_code, 1);
        assert!(trouble.to_string().contains("not http"), "{trouble}");
        server.abort();
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_the_callers_fault() {
        for url in ["localhost:50051", "postgres://localhost", "grpc://", "grpc+tls://localhost:1"] {
            let trouble = Client::connect(url, None, None).await.err().expect("is refused");
            assert_eq!(trouble.exit_code, 2, "{url}: {trouble}");
        }
    }
}
