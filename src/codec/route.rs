//! Which table takes a message: a skim of the fields that routes name, before anything is decoded.

use crate::codec::failure::{Failure, Outcome, found};
use crate::codec::number;
use crate::codec::skip::{enter, skip};
use crate::types::table::{Route, RouteSubject, RouteValue, Table};
use jiter::{Jiter, Peek};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

pub struct Router {
    /// Tables with conditions, in declaration order.
    routed: Vec<Conditions>,
    /// The table without conditions.
    rest: Option<usize>,
    /// Every field some route reads, once; `found` is parallel to it.
    paths: Vec<Vec<Arc<str>>>,
    tree: Vec<Node>,
    /// Where each path's value stands in the message at hand.
    found: Vec<Option<Range<usize>>>,
}

struct Conditions {
    table: usize,
    topics: Vec<Vec<RouteValue>>,
    /// Path (index into `paths`) and the values it may have.
    fields: Vec<(usize, Vec<RouteValue>)>,
}

/// Paths that share their beginning share nodes.
struct Node {
    name: Arc<str>,
    path: Option<usize>,
    below: Vec<Node>,
}

impl Router {
    pub fn new(tables: &[Arc<Table>]) -> Self {
        let mut router =
            Router { routed: Vec::new(), rest: None, paths: Vec::new(), tree: Vec::new(), found: Vec::new() };
        for (table, declared) in tables.iter().enumerate() {
            match &declared.route {
                Some(route) if !route.conditions.is_empty() => router.add(table, route),
                _ => router.rest = router.rest.or(Some(table)),
            }
        }
        router.found = vec![None; router.paths.len()];
        router
    }

    fn add(&mut self, table: usize, route: &Route) {
        let mut conditions = Conditions { table, topics: Vec::new(), fields: Vec::new() };
        for condition in &route.conditions {
            match &condition.subject {
                RouteSubject::Topic => conditions.topics.push(condition.values.clone()),
                RouteSubject::Field(path) => {
                    let index = self.paths.iter().position(|p| p == path).unwrap_or_else(|| {
                        self.paths.push(path.clone());
                        plant(&mut self.tree, path, self.paths.len() - 1);
                        self.paths.len() - 1
                    });
                    conditions.fields.push((index, condition.values.clone()));
                }
            }
        }
        self.routed.push(conditions);
    }

    /// Fields that routes read: every table of the source knows them.
    pub fn paths(&self) -> &[Vec<Arc<str>>] {
        &self.paths
    }

    /// The first table whose conditions all hold, else the one that takes the rest. `NoRoute` says what was there.
    pub fn choose(&mut self, payload: &[u8], topic: Option<&str>) -> Outcome<usize> {
        let mut skimmed = false;
        for place in 0..self.routed.len() {
            if !self.routed[place].topics.iter().all(|values| topic_is_among(topic, values)) {
                continue;
            }
            if !skimmed && !self.routed[place].fields.is_empty() {
                self.skim(payload)?;
                skimmed = true;
            }
            let conditions = &self.routed[place];
            let holds = |(path, values): &(usize, Vec<RouteValue>)| match &self.found[*path] {
                Some(range) => values.iter().any(|v| equals(&payload[range.clone()], v)),
                None => false,
            };
            if conditions.fields.iter().all(holds) {
                return Ok(conditions.table);
            }
        }
        match self.rest {
            Some(table) => Ok(table),
            None => Err(self.no_route(payload, topic, skimmed)),
        }
    }

    fn skim(&mut self, payload: &[u8]) -> Outcome {
        self.found.fill(None);
        let mut j = Jiter::new(payload);
        // A message that is no object has no fields; decoding it says what it is instead.
        if j.peek()? == Peek::Object {
            let mut missing = self.paths.len();
            skim(&mut j, &self.tree, 0, &mut missing, &mut self.found)?;
        }
        Ok(())
    }

    #[cold]
    fn no_route(&self, payload: &[u8], topic: Option<&str>, skimmed: bool) -> Box<Failure> {
        let mut text = String::from("no table of the source takes it");
        let mut say = |name: &str, value: &str| {
            write!(text, ", {name} is {value}").expect("writing to a string cannot fail");
        };
        if self.routed.iter().any(|c| !c.topics.is_empty()) {
            say("_topic", topic.unwrap_or("absent"));
        }
        if skimmed {
            for (path, range) in self.paths.iter().zip(&self.found) {
                let value = range.as_ref().map_or("absent".to_owned(), |r| found(&payload[r.clone()]));
                say(&path.join("."), &value);
            }
        }
        Failure::no_route(text)
    }
}

fn plant(nodes: &mut Vec<Node>, path: &[Arc<str>], index: usize) {
    let Some((head, tail)) = path.split_first() else { return };
    let place = nodes.iter().position(|n| n.name == *head).unwrap_or_else(|| {
        nodes.push(Node { name: head.clone(), path: None, below: Vec::new() });
        nodes.len() - 1
    });
    if tail.is_empty() {
        nodes[place].path = Some(index);
    } else {
        plant(&mut nodes[place].below, tail, index);
    }
}

/// Notes where the values of the paths stand, and stops when none is `missing`. Says whether it stopped: then `j` is in
/// the middle. A field given twice is found by decoding, which knows these fields too.
fn skim(
    j: &mut Jiter,
    nodes: &[Node],
    depth: u8,
    missing: &mut usize,
    found: &mut [Option<Range<usize>>],
) -> Outcome<bool> {
    let inside = enter(depth)?;
    let mut key = j.known_object()?;
    while let Some(name) = key {
        let node = nodes.iter().find(|n| n.name.as_ref() == name);
        let peek = j.peek()?;
        let from = j.current_index();
        match node {
            Some(node) if peek == Peek::Object && !node.below.is_empty() => {
                if skim(j, &node.below, inside, missing, found)? {
                    return Ok(true);
                }
            }
            Some(Node { path: Some(path), .. }) => {
                skip(j, peek, inside)?;
                if found[*path].is_none() {
                    found[*path] = Some(from..j.current_index());
                    *missing -= 1;
                    if *missing == 0 {
                        return Ok(true);
                    }
                }
            }
            _ => skip(j, peek, inside)?,
        }
        key = j.next_key()?;
    }
    Ok(false)
}

fn topic_is_among(topic: Option<&str>, values: &[RouteValue]) -> bool {
    values.iter().any(|v| matches!((v, topic), (RouteValue::Text(text), Some(topic)) if text.as_ref() == topic))
}

/// Whether a raw JSON value is exactly the one in the route: text is not a number, and 5.0 is 5.
fn equals(raw: &[u8], value: &RouteValue) -> bool {
    match (value, raw.first()) {
        (RouteValue::Text(text), Some(b'"')) => {
            let inside = &raw[1..raw.len() - 1];
            if inside.contains(&b'\\') { unescaped_is(raw, text) } else { inside == text.as_bytes() }
        }
        (RouteValue::Int(n), Some(b'-' | b'0'..=b'9')) => number::integer(raw, 0) == Ok(i128::from(*n)),
        (RouteValue::Bool(b), Some(_)) => raw == if *b { b"true".as_slice() } else { b"false".as_slice() },
        _ => false,
    }
}

#[cold]
fn unescaped_is(raw: &[u8], text: &str) -> bool {
    Jiter::new(raw).next_str().is_ok_and(|s| s == text)
}
