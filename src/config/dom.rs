//! TOML as a tree in which every key and value knows its line and column.
//!
//! `toml` parses; this tree is ours because serde's own way over a TOML document stops at the first fault, and because a
//! value must remember whether `${...}` was expanded in it.

use crate::config::interpolate::{self, Interpolated};
use crate::config::value::Lookups;
use crate::types::fault::{Fault, line_column};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// A place in the config file; 1-based.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    pub line: u32,
    pub column: u32,
}

/// No `Debug` here and below: the text may be a secret (I12).
#[derive(Clone)]
pub struct Node {
    pub at: At,
    pub value: Value,
}

#[derive(Clone)]
pub enum Value {
    /// `expanded`: a `${...}` was expanded in it, so it may stand for a value of another type.
    Text {
        text: String,
        expanded: bool,
    },
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
    /// Stands in for a value that was already complained about: it reads as whatever is asked for, so that the next
    /// fault of the same table is found too. What is read from it is never used.
    Faulty,
}

#[derive(Clone, Default)]
pub struct Table {
    /// In the order of the file.
    pub entries: Vec<Entry>,
}

#[derive(Clone)]
pub struct Entry {
    pub key: String,
    pub key_at: At,
    pub node: Node,
}

impl Value {
    /// For messages: "expected an integer, found a string".
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text { .. } => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Boolean(_) => "a boolean",
            Value::Datetime => "a date or time",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
            Value::Faulty => "nothing",
        }
    }

    fn is_faulty(&self) -> bool {
        match self {
            Value::Faulty => true,
            Value::Array(items) => items.iter().any(|item| item.value.is_faulty()),
            Value::Table(table) => table.is_faulty(),
            _ => false,
        }
    }
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.key == key)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.key == key)
    }

    /// Is there a stand-in anywhere in it?
    pub fn is_faulty(&self) -> bool {
        self.entries.iter().any(|entry| entry.node.value.is_faulty())
    }

    pub fn take(&mut self, key: &str) -> Option<Entry> {
        let index = self.entries.iter().position(|e| e.key == key)?;
        Some(self.entries.remove(index))
    }
}

/// What every part of the reading needs: the file's name for faults, the way out for `${...}` and secrets.
#[derive(Clone, Debug)]
pub struct Source {
    pub file: Arc<Path>,
    /// The directory of the file: relative paths start here.
    pub base: PathBuf,
    pub lookups: Lookups,
}

impl Source {
    pub fn new(file: &Path, lookups: &Lookups) -> Self {
        let base = file.parent().map(Path::to_path_buf).unwrap_or_default();
        Source { file: file.into(), base, lookups: lookups.clone() }
    }

    pub fn fault(&self, at: At, message: impl Into<String>) -> Fault {
        Fault { file: self.file.to_path_buf(), line: at.line, column: at.column, message: message.into(), hint: None }
    }
}

/// The whole file. Syntax faults come alone: a tree recovered from them would only give faults that follow from them.
pub fn parse(text: &str, source: &Source) -> Result<(Table, Vec<Fault>), Vec<Fault>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut faults: Vec<Fault> = errors.iter().map(|e| syntax_fault(text, source, e)).collect();
        faults.sort_by_key(|fault| (fault.line, fault.column));
        return Err(faults);
    }
    let mut walk = Walk { text, source, faults: Vec::new() };
    let table = walk.table(root.get_ref());
    Ok((table, walk.faults))
}

fn syntax_fault(text: &str, source: &Source, error: &toml::de::Error) -> Fault {
    let span = error.span().unwrap_or(0..0);
    let (line, column) = line_column(text, span.start);
    let at = At { line, column };
    match error.message() {
        "duplicate key" => {
            let key = text.get(span).unwrap_or_default();
            source.fault(at, format!("duplicate key \"{key}\"")).with_hint("Each key and each [table] stands once.")
        }
        m if m.contains("must be quoted") => {
            source.fault(at, "text without quotes").with_hint("Write it in quotes: key = \"text\".")
        }
        m => source.fault(at, m),
    }
}

struct Walk<'a> {
    text: &'a str,
    source: &'a Source,
    faults: Vec<Fault>,
}

impl Walk<'_> {
    fn at(&self, offset: usize) -> At {
        let (line, column) = line_column(self.text, offset);
        At { line, column }
    }

    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let node = Node { at: self.at(value.span().start), value: self.value(value.get_ref(), value.span().start) };
            entries.push(Entry { key: key.get_ref().to_string(), key_at: self.at(key.span().start), node });
        }
        Table { entries }
    }

    fn value(&mut self, value: &DeValue<'_>, offset: usize) -> Value {
        match value {
            DeValue::String(text) => self.text(text, offset),
            DeValue::Integer(i) => match i128::from_str_radix(i.as_str(), i.radix()) {
                Ok(i) => Value::Integer(i),
                Err(_) => self.faulty(offset, format!("the integer {i} is too large")),
            },
            DeValue::Float(f) => match f.as_str().parse() {
                Ok(f) => Value::Float(f),
                Err(_) => self.faulty(offset, format!("the number {f} cannot be read")),
            },
            DeValue::Boolean(b) => Value::Boolean(*b),
            DeValue::Datetime(_) => Value::Datetime,
            DeValue::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| {
                        let start = item.span().start;
                        Node { at: self.at(start), value: self.value(item.get_ref(), start) }
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }

    fn text(&mut self, text: &str, offset: usize) -> Value {
        match interpolate::expand(text, &*self.source.lookups.env) {
            Ok(Interpolated { text, expanded }) => Value::Text { text, expanded },
            Err(faults) => {
                for (message, hint) in faults {
                    let fault = self.source.fault(self.at(offset), message);
                    self.faults.push(Fault { hint, ..fault });
                }
                Value::Faulty
            }
        }
    }

    fn faulty(&mut self, offset: usize, message: String) -> Value {
        let fault = self.source.fault(self.at(offset), message);
        self.faults.push(fault);
        Value::Faulty
    }
}
