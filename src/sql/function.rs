//! The functions SQL may call: DataFusion's and the JSON ones in one session, and a `now()` that is bound per batch.
//!
//! DataFusion folds its own `now()` into a literal when a plan is made. Ours reads a `BatchClock`: plans are compiled
//! with one that stands still, and every slot puts its own in its place (`rebind_clock`).

use crate::types::table::timestamp_type;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Aggregates whose partial states merge and whose result does not depend on the order of rows.
pub const MERGEABLE: [&str; 35] = [
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar",
    "covar_pop",
    "covar_samp",
    "max",
    "mean",
    "min",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "var",
    "var_pop",
    "var_population",
    "var_samp",
    "var_sample",
];

/// Aggregates that are mergeable once an ORDER BY inside says which row comes first.
pub const MERGEABLE_ORDERED: [&str; 4] = ["array_agg", "first_value", "last_value", "string_agg"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateKind {
    Mergeable,
    /// Only with ORDER BY inside.
    Ordered,
    /// Known, and not allowed in a materialized view; the text says what to write instead.
    Refused(&'static str),
}

pub fn aggregate_kind(name: &str) -> AggregateKind {
    if MERGEABLE.contains(&name) {
        return AggregateKind::Mergeable;
    }
    if MERGEABLE_ORDERED.contains(&name) {
        return AggregateKind::Ordered;
    }
    AggregateKind::Refused(match name {
        "median" => "Its state is every value of the key. Use approx_median(x), whose state is small.",
        "percentile_cont" | "quantile_cont" => {
            "Its state is every value of the key. Use approx_percentile_cont(x, 0.95)."
        }
        "any_value" => "Which value it takes depends on the order of rows. Use min(x), or last_value(x ORDER BY t).",
        "nth_value" => "Use first_value(x ORDER BY t), last_value(x ORDER BY t) or array_agg(x ORDER BY t).",
        "grouping" => "Grouping sets are not part of continuous statements.",
        _ => {
            "Its state cannot be merged. The mergeable ones are count, sum, avg, min, max, bool_and, bool_or, bit_and, bit_or, bit_xor, stddev, var, covar, corr, regr_*, first_value, last_value, approx_distinct, approx_median and approx_percentile_cont."
        }
    })
}

/// One partition, no view types, UTC, NULLs last: what every plan of the write path is made under. The pool is
/// unbounded, because a finite one changes which aggregate stream is chosen; the slot's own budget is the bound.
pub fn session() -> Result<SessionState> {
    let config = SessionConfig::new()
        .with_target_partitions(1)
        .with_round_robin_repartition(false)
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
        .set_bool("datafusion.sql_parser.collect_spans", true)
        .set_str("datafusion.sql_parser.default_null_ordering", "nulls_last")
        .set_str("datafusion.execution.time_zone", "UTC");
    // No physical rules: a single-partition tree of filters, projections and unnests needs none, and the one that
    // wraps leaves for tokio's cooperative scheduling would stall a slot that runs outside a runtime.
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_physical_optimizer_rules(Vec::new())
        .build();
    datafusion_functions_json::register_all(&mut state)?;
    let clock = BatchClock::default();
    for function in [Clock::Now, Clock::CurrentDate] {
        state.register_udf(Arc::new(ScalarUDF::from(ClockFunction::new(function, clock.clone()))))?;
    }
    // A time of day has no type in the tables we write, and it would be folded like DataFusion's now().
    state.deregister_udf("current_time")?;
    Ok(state)
}

/// True for functions that answer differently on replay.
pub fn is_volatile(function: &ScalarUDF) -> bool {
    function.signature().volatility == Volatility::Volatile
}

pub fn is_clock(function: &ScalarUDF) -> bool {
    (function.inner().as_ref() as &dyn std::any::Any).is::<ClockFunction>()
}

/// The name of a function in the plan that answers differently when the same messages are read again, if there is one.
pub fn unsteady(plan: &LogicalPlan) -> Result<Option<String>> {
    let mut found = None;
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            found = found.take().or(unsteady_expr(expr)?);
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(found)
}

pub fn unsteady_expr(expr: &Expr) -> Result<Option<String>> {
    let mut found = None;
    expr.apply(|e| {
        if let Expr::ScalarFunction(call) = e
            && (is_clock(&call.func) || is_volatile(&call.func))
        {
            found = Some(call.func.name().to_string());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// The instant that `now()` says, microseconds UTC; set before every execution.
#[derive(Clone, Debug, Default)]
pub struct BatchClock(Arc<AtomicI64>);

impl BatchClock {
    pub fn set(&self, now_us: i64) {
        // Relaxed: set and read by the one thread that runs the slot.
        self.0.store(now_us, Ordering::Relaxed);
    }
}

impl PartialEq for BatchClock {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for BatchClock {}

impl Hash for BatchClock {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// Puts `clock` in the place of every clock in the plan.
pub fn rebind_clock(plan: LogicalPlan, clock: &BatchClock) -> Result<LogicalPlan> {
    let rebound = plan.transform_up(|node| {
        node.map_expressions(|expr| {
            expr.transform_up(|expr| {
                let Expr::ScalarFunction(mut call) = expr else { return Ok(Transformed::no(expr)) };
                let inner = call.func.inner().as_ref() as &dyn std::any::Any;
                let Some(function) = inner.downcast_ref::<ClockFunction>() else {
                    return Ok(Transformed::no(Expr::ScalarFunction(call)));
                };
                call.func = Arc::new(ScalarUDF::from(ClockFunction::new(function.function, clock.clone())));
                Ok(Transformed::yes(Expr::ScalarFunction(call)))
            })
        })
    })?;
    Ok(rebound.data)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Clock {
    Now,
    CurrentDate,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ClockFunction {
    function: Clock,
    clock: BatchClock,
    signature: Signature,
    aliases: Vec<String>,
}

impl ClockFunction {
    fn new(function: Clock, clock: BatchClock) -> Self {
        let alias = match function {
            Clock::Now => "current_timestamp",
            Clock::CurrentDate => "today",
        };
        // Volatile, so that no rule of DataFusion evaluates it when the plan is made.
        let signature = Signature::nullary(Volatility::Volatile);
        ClockFunction { function, clock, signature, aliases: vec![alias.to_string()] }
    }
}

impl ScalarUDFImpl for ClockFunction {
    fn name(&self) -> &str {
        match self.function {
            Clock::Now => "now",
            Clock::CurrentDate => "current_date",
        }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.function {
            Clock::Now => timestamp_type(),
            Clock::CurrentDate => DataType::Date32,
        })
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        const DAY_US: i64 = 86_400_000_000;
        let now_us = self.clock.0.load(Ordering::Relaxed);
        Ok(ColumnarValue::Scalar(match self.function {
            Clock::Now => ScalarValue::TimestampMicrosecond(Some(now_us), Some("UTC".into())),
            Clock::CurrentDate => ScalarValue::Date32(Some(now_us.div_euclid(DAY_US) as i32)),
        }))
    }
}
