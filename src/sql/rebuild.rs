//! Which tables of append-only sinks hold exactly the rows that a materialized view folds, so that its state can be
//! computed anew from them, and what every such table receives.
//!
//! A table serves a view if its one statement puts every row of some relation below the view into it, once and unchanged
//! (columns are picked, renamed and added; no row is left out, doubled or made), with all columns that the view reads of
//! that relation. Whether the table holds all rows since the chain began is for the start to find out (engine::recover):
//! the prints of `feeds`, kept in the records, say since when each column has been filled as it is now.

use crate::sql::assemble::optimize;
use crate::sql::fingerprint::{of_rows, whole};
use crate::sql::plan::{Feed, Fold, Insert, MaterializedView, OriginColumns, OriginSource, Rebuild, Rebuilds};
use crate::sql::query::nullable;
use crate::sql::relation::{Relations, scanned};
use crate::types::lineage::MSG_COLUMN;
use crate::types::table::Table;
use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Statements as they were analysed: views stand as scans in the plans of their readers.
pub struct Statements<'a> {
    pub session: &'a SessionState,
    pub relations: &'a Relations,
    pub tables: &'a [Arc<Table>],
    pub streams: &'a BTreeMap<String, LogicalPlan>,
    /// A plan for those that fill append-only tables.
    pub inserts: &'a [(Insert, Option<LogicalPlan>)],
}

impl Statements<'_> {
    /// Tables that several statements fill are not among them: which row is whose cannot be told.
    pub fn feeds(&self) -> Result<Vec<Feed>> {
        let mut feeds = Vec::new();
        for (number, (insert, plan)) in self.inserts.iter().enumerate() {
            let Some(plan) = plan.as_ref().filter(|_| self.fills_alone(number)) else { continue };
            let whole = whole(plan, self.streams)?;
            let mut columns = BTreeMap::new();
            for (position, field) in insert.schema.fields().iter().enumerate() {
                let column = Expr::Column(whole.schema().columns()[position].clone());
                let alone = LogicalPlanBuilder::from(whole.clone()).project([column])?.build()?;
                columns.insert(field.name().clone(), of_rows(&optimize(self.session, alone)?, self.tables)?);
            }
            feeds.push(Feed { sink: insert.sink.clone(), table: insert.table.clone(), columns });
        }
        Ok(feeds)
    }

    /// `input`: the rows that the view folds.
    pub fn rebuilds(&self, view: &MaterializedView, input: &LogicalPlan) -> Result<Rebuilds> {
        let mut found = Rebuilds::default();
        let mut below: Vec<String> = Vec::new();
        let mut plan = input.clone();
        loop {
            let names = scanned(&plan)?;
            below.extend(names.iter().filter(|n| !below.contains(n)).cloned().collect::<Vec<_>>());
            if let [relation] = names.as_slice() {
                let needs = Needs::of(self, view, relation, &plan)?;
                for (number, (insert, filling)) in self.inserts.iter().enumerate() {
                    let Some(filling) = filling else { continue };
                    if scanned(filling)? != *names {
                        continue;
                    }
                    match self.way(number, filling, &needs)? {
                        Ok(way) => found.ways.push(way),
                        Err(why) => found.unfit.push(format!("{}.{} {why}", insert.sink, insert.table)),
                    }
                }
            }
            if !names.iter().any(|name| self.streams.contains_key(name)) {
                break;
            }
            plan = self.one_level_down(plan)?;
        }
        if found.ways.is_empty() && found.unfit.is_empty() {
            let names = below.join("\" or \"");
            found.unfit.push(format!("no INSERT puts the rows of \"{names}\" alone into a lake table"));
        }
        Ok(found)
    }

    /// Err: what keeps the table of this statement from serving.
    fn way(&self, number: usize, filling: &LogicalPlan, needs: &Needs) -> Result<Result<Rebuild, String>> {
        if !self.fills_alone(number) {
            return Ok(Err("is filled by several statements".to_string()));
        }
        if !is_plain(filling)? {
            let why = format!("does not receive the rows of \"{}\" one by one as they are", needs.relation);
            return Ok(Err(why));
        }
        let insert = &self.inserts[number].0;
        let mut held: BTreeMap<String, Arc<str>> = BTreeMap::new();
        for (position, field) in insert.schema.fields().iter().enumerate() {
            if let Some(column) = traced(filling, position) {
                held.entry(column).or_insert_with(|| field.name().as_str().into());
            }
        }
        let lacking: Vec<&str> = needs.columns.iter().filter(|c| !held.contains_key(*c)).map(String::as_str).collect();
        if !lacking.is_empty() {
            return Ok(Err(format!("lacks what is read of \"{}\": {}", needs.relation, lacking.join(", "))));
        }
        let origin = match needs.breaks_ties {
            false => None,
            true => match self.origin(insert, filling, needs)? {
                Ok(origin) => Some(origin),
                Err(why) => return Ok(Err(why)),
            },
        };
        let relation = &self.relations[&needs.relation];
        let fields: Vec<FieldRef> = relation.schema.fields().iter().map(|f| nullable(f, true)).collect();
        let columns = needs.columns.iter().map(|name| Ok((relation.schema.index_of(name)?, held[name].clone())));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Ok(Rebuild {
            sink: insert.sink.clone(),
            table: insert.table.clone(),
            schema: insert.schema.clone(),
            relation: needs.relation.as_str().into(),
            leaf_schema: Arc::new(Schema::new(fields)),
            columns,
            logical: needs.plan.clone(),
            origin,
        }))
    }

    /// What tells rows with equal ORDER BY columns apart: where their messages came from.
    fn origin(&self, insert: &Insert, filling: &LogicalPlan, needs: &Needs) -> Result<Result<OriginColumns, String>> {
        if !self.is_one_row_per_message(&needs.relation)? {
            let why = "holds several rows of one message and not their order, by which DISTINCT ON tells equal ones apart; \
                       a table with whole messages would serve (INSERT ... SELECT *, _topic, _partition, _position FROM \
                       the CREATE TABLE)";
            return Ok(Err(why.to_string()));
        }
        let whole = whole(filling, self.streams)?;
        let mut held: BTreeMap<String, Arc<str>> = BTreeMap::new();
        for (position, field) in insert.schema.fields().iter().enumerate() {
            if let Some(column) = traced(&whole, position) {
                held.entry(column).or_insert_with(|| field.name().as_str().into());
            }
        }
        let names = scanned(&whole)?;
        let source = match names.as_slice() {
            [one] => self.tables.iter().find(|t| *t.name == **one).map(|t| OriginSource::Always(t.source.clone())),
            _ => held.get("_source").cloned().map(OriginSource::Column),
        };
        let column = |name: &str| held.get(name).cloned();
        Ok(match (source, column("_topic"), column("_partition"), column("_position")) {
            (Some(source), Some(topic), Some(partition), Some(position)) => {
                Ok(OriginColumns { source, topic, partition, position })
            }
            _ => {
                let mut wanted = vec!["_topic", "_partition", "_position"];
                if names.len() > 1 {
                    wanted.insert(0, "_source");
                }
                wanted.retain(|name| !held.contains_key(*name));
                let wanted = wanted.join(", ");
                Err(format!("lacks {wanted}, by which DISTINCT ON tells rows of equal order apart"))
            }
        })
    }

    fn fills_alone(&self, number: usize) -> bool {
        let of = |insert: &Insert| (insert.sink.clone(), insert.table.clone());
        let table = of(&self.inserts[number].0);
        self.inserts.iter().filter(|(other, _)| of(other) == table).count() == 1
    }

    fn is_one_row_per_message(&self, relation: &str) -> Result<bool> {
        let Some(view) = self.streams.get(relation) else { return Ok(true) };
        let mut one = true;
        whole(view, self.streams)?.apply(|node| {
            one &= !matches!(node, LogicalPlan::Unnest(_) | LogicalPlan::Union(_));
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(one)
    }

    /// The views it scans, with their own plans in their place; what those scan stays.
    fn one_level_down(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let replaced = plan.transform_up(|node| {
            let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
            let Some(view) = self.streams.get(scan.table_name.table()) else { return Ok(Transformed::no(node)) };
            let alias = scan.table_name.clone();
            Ok(Transformed::yes(LogicalPlanBuilder::from(view.clone()).alias(alias)?.build()?))
        })?;
        Ok(replaced.data)
    }
}

/// What a view wants of one relation below it.
struct Needs {
    relation: String,
    /// The view's rows over that relation alone, optimised.
    plan: LogicalPlan,
    /// In the order of the relation.
    columns: Vec<String>,
    /// DISTINCT ON: the order of messages counts where ORDER BY does not decide.
    breaks_ties: bool,
}

impl Needs {
    fn of(statements: &Statements, view: &MaterializedView, relation: &str, plan: &LogicalPlan) -> Result<Needs> {
        let plan = optimize(statements.session, plan.clone())?;
        let mut read: BTreeSet<String> = BTreeSet::new();
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                read.extend(scan.projected_schema.fields().iter().map(|f| f.name().clone()));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let all = statements.relations[relation].schema.fields().iter().map(|f| f.name().clone());
        let columns = all.filter(|name| name != MSG_COLUMN && read.contains(name)).collect();
        let breaks_ties = matches!(view.fold, Fold::DistinctOn { .. });
        Ok(Needs { relation: relation.to_string(), plan, columns, breaks_ties })
    }
}

/// Nothing but the picking, naming and adding of columns over one scan: every row comes out once.
fn is_plain(plan: &LogicalPlan) -> Result<bool> {
    let mut plain = true;
    plan.apply(|node| {
        plain &= matches!(node, LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::TableScan(_));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(plain)
}

/// The column of a scan that an output is, value by value. None: it is computed.
fn traced(plan: &LogicalPlan, output: usize) -> Option<String> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan.projected_schema.field(output).name().clone()),
        LogicalPlan::SubqueryAlias(alias) => traced(&alias.input, output),
        LogicalPlan::Filter(filter) => traced(&filter.input, output),
        LogicalPlan::Projection(projection) => {
            let Expr::Column(column) = projection.expr[output].clone().unalias() else { return None };
            traced(&projection.input, projection.input.schema().maybe_index_of_column(&column)?)
        }
        LogicalPlan::Unnest(unnest) => {
            let input = *unnest.dependency_indices.get(output)?;
            let is_taken_apart = unnest.list_type_columns.iter().any(|(column, _)| *column == input)
                || unnest.struct_type_columns.contains(&input);
            if is_taken_apart { None } else { traced(&unnest.input, input) }
        }
        LogicalPlan::Union(union) => {
            let mut names = union.inputs.iter().map(|input| traced(input, output));
            let first = names.next()??;
            names.all(|name| name.as_ref() == Some(&first)).then_some(first)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
