//! Errors as JSON: {"error": {"message", "hint"?, "line"?, "column"?}}.

use crate::query::error::{Kind, Place, QueryError};
use crate::types::error::Error;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, Value, json};

#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    message: String,
    hint: Option<String>,
    place: Option<Place>,
}

impl Problem {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Problem { status, message: message.into(), hint: None, place: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<QueryError> for Problem {
    fn from(e: QueryError) -> Self {
        let status = match e.kind {
            Kind::Wrong => StatusCode::BAD_REQUEST,
            Kind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            Kind::Cancelled => StatusCode::CONFLICT,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem { status, message: e.message, hint: e.hint, place: e.place }
    }
}

impl From<Error> for Problem {
    fn from(e: Error) -> Self {
        match e {
            Error::Config(faults) => {
                let messages: Vec<&str> = faults.iter().map(|f| f.message.as_str()).collect();
                let hint = faults.iter().find_map(|f| f.hint.clone());
                Problem { hint, ..Problem::bad_request(messages.join("; ")) }
            }
            Error::Unavailable(m) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, m),
            Error::Refused { what, hint } => Problem::new(StatusCode::CONFLICT, what).hint(hint),
            Error::Fenced(m) | Error::Failed(m) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, m),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut error = Map::new();
        error.insert("message".into(), Value::from(self.message));
        if let Some(place) = self.place {
            error.insert("line".into(), Value::from(place.line));
            error.insert("column".into(), Value::from(place.column));
        }
        if let Some(hint) = self.hint {
            error.insert("hint".into(), Value::from(hint));
        }
        (self.status, Json(json!({ "error": error }))).into_response()
    }
}
