//! The values of `$1`, `$2`, ...: what a query expects, and putting them in.

use crate::query::error::{QueryError, Result};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use std::sync::Arc;

/// Parameters of a query. A higher number is a mistake in the statement, not a wish.
const PARAMETERS_MAX: usize = 1_024;

/// In the order of their numbers; None: the query does not tell the type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters(pub Vec<Option<DataType>>);

impl Parameters {
    pub fn of(plan: &LogicalPlan) -> Result<Parameters> {
        let mut types = Vec::new();
        for (name, field) in plan.get_parameter_fields()? {
            let number = name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
            let Some(number) = number.filter(|n| (1..=PARAMETERS_MAX).contains(n)) else {
                return Err(QueryError::wrong(format!("parameter \"{name}\" is out of range"))
                    .hint(format!("parameters are $1 to ${PARAMETERS_MAX}.")));
            };
            if types.len() < number {
                types.resize(number, None);
            }
            types[number - 1] = field.map(|f| f.data_type().clone());
        }
        Ok(Parameters(types))
    }

    /// Fields "$1", "$2", ... in the order of their numbers, not of their names; an unknown type is `Null`, as ADBC has it.
    pub fn schema(&self) -> SchemaRef {
        let field = |(i, kind): (usize, &Option<DataType>)| {
            Field::new(format!("${}", i + 1), kind.clone().unwrap_or(DataType::Null), true)
        };
        Arc::new(Schema::new(self.0.iter().enumerate().map(field).collect::<Vec<_>>()))
    }

    /// The values, each cast to the type the query expects of it.
    pub fn accept(&self, values: &[ScalarValue]) -> Result<Vec<ScalarValue>> {
        if values.len() != self.0.len() {
            let (expected, given) = (count(self.0.len()), count(values.len()));
            return Err(QueryError::wrong(format!("the query has {expected}, {given} given")));
        }
        let cast = |(i, (kind, value)): (usize, (&Option<DataType>, &ScalarValue))| match kind {
            Some(kind) if value.data_type() != *kind => value.cast_to(kind).map_err(|_| {
                QueryError::wrong(format!("value {value} of parameter ${} is not a {kind}", i + 1))
                    .hint("say what it is: CAST($1 AS ...).")
            }),
            _ => Ok(value.clone()),
        };
        self.0.iter().zip(values).enumerate().map(cast).collect()
    }

    /// Nulls of the expected types: enough to describe what a query gives.
    pub fn nulls(&self) -> Result<Vec<ScalarValue>> {
        let null = |kind: &Option<DataType>| ScalarValue::try_new_null(kind.as_ref().unwrap_or(&DataType::Null));
        Ok(self.0.iter().map(null).collect::<Result<_, _>>()?)
    }
}

pub fn bind(plan: LogicalPlan, values: Vec<ScalarValue>) -> Result<LogicalPlan> {
    if values.is_empty() {
        return Ok(plan);
    }
    Ok(plan.with_param_values(ParamValues::from(values))?)
}

fn count(n: usize) -> String {
    match n {
        0 => "no parameters".into(),
        1 => "1 parameter".into(),
        n => format!("{n} parameters"),
    }
}
