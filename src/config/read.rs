//! Reads a struct out of a table of the config: serde over `dom`, finding every fault and giving each its place.
//!
//! serde stops at the first error. So a value that was refused is replaced by `Value::Faulty`, which reads as anything, and the
//! table is read again, until it reads or until nothing new is found. Unknown keys are found beside that, by comparing keys
//! with the fields the struct asks for.

use crate::config::dom::{At, Entry, Node, Source, Table, Value};
use crate::config::value::{ADDRESS, FILE_PATH, resolve};
use crate::types::fault::{Fault, closest};
use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use std::cell::RefCell;
use std::fmt;

/// Rounds of reading one table; each finds one fault more. Beyond: the rest is found after the first have been mended.
const ROUNDS_MAX: usize = 32;

/// What reading gave. With faults, `value` holds stand-ins where the faults are: good for finding more faults, no more.
pub struct Reading<T> {
    pub value: Option<T>,
    pub faults: Vec<Fault>,
}

/// Reads `table`, whose header stands at `at` and reads `[heading]` (empty: the top of the file). `also_known`: keys that
/// the table may have and that were taken out of it before; for hints only.
pub fn read<T: DeserializeOwned>(
    table: &Table,
    at: At,
    heading: &str,
    also_known: &[&str],
    source: &Source,
) -> Reading<T> {
    let mut root = Node { at, value: Value::Table(table.clone()) };
    let mut faults = Vec::new();
    let mut removed = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let context = Context { source, heading, also_known, unknown: RefCell::default() };
        let result = T::deserialize(Reader { node: &root, context: &context, top: true });
        for fault in context.unknown.into_inner() {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        match result {
            Ok(value) => return Reading { value: Some(value), faults },
            // A stand-in that this type cannot be read from: try without the key.
            Err(refusal) if refusal.follows => {
                if !refusal.remove(&mut root) {
                    break;
                }
                removed.push(refusal.path());
            }
            Err(refusal) if removed.contains(&refusal.missing_path()) => break,
            Err(refusal) => {
                faults.push(refusal.fault(source, heading, at));
                if !refusal.mend(&mut root) {
                    break;
                }
            }
        }
    }
    Reading { value: None, faults }
}

struct Context<'a> {
    source: &'a Source,
    heading: &'a str,
    also_known: &'a [&'a str],
    unknown: RefCell<Vec<Fault>>,
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

/// serde's error, with the way to the value it is about.
#[derive(Debug)]
pub struct Refusal {
    message: String,
    hint: Option<String>,
    missing: Option<&'static str>,
    at: Option<At>,
    /// From the value up to the table.
    trail: Vec<Step>,
    /// The value was a stand-in: this follows from a fault that was told already.
    follows: bool,
}

impl Refusal {
    fn new(message: String) -> Self {
        Refusal { message, hint: None, missing: None, at: None, trail: Vec::new(), follows: false }
    }

    /// Gives an error that has no place yet the place of this node.
    fn placed(mut self, node: &Node) -> Refusal {
        if self.at.is_none() {
            self.at = Some(node.at);
            self.follows |= matches!(node.value, Value::Faulty);
        }
        self
    }

    /// On its way up: the error is about what stands in `node`, one step below.
    fn below(self, node: &Node, step: Step) -> Refusal {
        let mut refusal = self.placed(node);
        refusal.trail.push(step);
        refusal
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for step in self.trail.iter().rev() {
            match step {
                Step::Key(key) if path.is_empty() => path.push_str(key),
                Step::Key(key) => path.push_str(&format!(".{key}")),
                Step::Index(i) => path.push_str(&format!("[{i}]")),
            }
        }
        path
    }

    fn fault(&self, source: &Source, heading: &str, header: At) -> Fault {
        let path = self.path();
        let message = match (self.missing, path.is_empty()) {
            (Some(field), true) => format!("[{heading}] needs \"{field}\""),
            (Some(field), false) => format!("\"{path}\" needs \"{field}\""),
            (None, true) => format!("[{heading}] {}", self.message),
            (None, false) => format!("\"{path}\" {}", self.message),
        };
        Fault { hint: self.hint.clone(), ..source.fault(self.at.unwrap_or(header), message) }
    }

    fn missing_path(&self) -> String {
        match (self.missing, self.path()) {
            (Some(field), path) if path.is_empty() => field.to_string(),
            (Some(field), path) => format!("{path}.{field}"),
            // No key is called this, so nothing equals it.
            (None, _) => String::new(),
        }
    }

    /// Takes the key out, so that the type's default is read. False: it is no key of a table.
    fn remove(&self, root: &mut Node) -> bool {
        let Some((Step::Key(key), parents)) = self.trail.split_first() else { return false };
        match descend(root, parents) {
            Some(Node { value: Value::Table(table), .. }) => table.take(key).is_some(),
            _ => false,
        }
    }

    /// Puts a stand-in where the fault is. False: there is no such place.
    fn mend(&self, root: &mut Node) -> bool {
        let Some(node) = descend(root, &self.trail) else { return false };
        match (self.missing, &mut node.value) {
            (Some(field), Value::Table(table)) => {
                let node = Node { at: node.at, value: Value::Faulty };
                table.entries.push(Entry { key: field.to_string(), key_at: node.at, node });
                true
            }
            (None, value) if !self.trail.is_empty() => {
                *value = Value::Faulty;
                true
            }
            _ => false,
        }
    }
}

/// The node at the end of a trail.
fn descend<'n>(root: &'n mut Node, trail: &[Step]) -> Option<&'n mut Node> {
    let mut node = root;
    for step in trail.iter().rev() {
        node = match (&mut node.value, step) {
            (Value::Table(table), Step::Key(key)) => &mut table.get_mut(key)?.node,
            (Value::Array(items), Step::Index(i)) => items.get_mut(*i)?,
            _ => return None,
        };
    }
    Some(node)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = text.to_string();
        match text.split_once('\n') {
            Some((message, hint)) => Refusal { hint: Some(hint.into()), ..Refusal::new(message.into()) },
            None => Refusal::new(text),
        }
    }

    fn invalid_type(found: de::Unexpected, expected: &dyn de::Expected) -> Self {
        Refusal::new(format!("must be {}, found {}", wanted(expected), kind(&found)))
    }

    fn invalid_value(found: de::Unexpected, expected: &dyn de::Expected) -> Self {
        match found {
            de::Unexpected::Signed(_) | de::Unexpected::Unsigned(_) => {
                Refusal::new(format!("must be {}, found {}", wanted(expected), number(&found)))
            }
            _ => Refusal::new(format!("must be {}", wanted(expected))),
        }
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Refusal::new(format!("must have {}, found {length}", wanted(expected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let quoted: Vec<String> = expected.iter().map(|v| format!("\"{v}\"")).collect();
        let message = match quoted.len() {
            1 => format!("must be {}", quoted[0]),
            _ => format!("must be one of {}", quoted.join(", ")),
        };
        let hint = closest(variant, expected.iter().copied()).map(|v| format!("Did you mean \"{v}\"?"));
        Refusal { hint, ..Refusal::new(message) }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = closest(field, expected.iter().copied()).map(|f| format!("Did you mean \"{f}\"?"));
        Refusal { hint, ..Refusal::new(format!("has no key \"{field}\"")) }
    }

    fn missing_field(field: &'static str) -> Self {
        Refusal { missing: Some(field), ..Refusal::new(String::new()) }
    }

    fn duplicate_field(field: &'static str) -> Self {
        Refusal::new(format!("has \"{field}\" twice"))
    }
}

/// serde's names of what it wants, in the words of the config.
fn wanted(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u8" => format!("an integer from 0 to {}", u8::MAX),
        "u16" => format!("an integer from 0 to {}", u16::MAX),
        "u32" => format!("an integer from 0 to {}", u32::MAX),
        "u64" | "usize" => "an integer of at least 0".into(),
        "i8" => format!("an integer from {} to {}", i8::MIN, i8::MAX),
        "i16" => format!("an integer from {} to {}", i16::MIN, i16::MAX),
        "i32" | "i64" | "isize" => "an integer".into(),
        "f32" | "f64" => "a number".into(),
        "a sequence" => "an array".into(),
        "a map" => "a table".into(),
        t if t.starts_with("a nonzero ") => "an integer other than 0".into(),
        t if t.starts_with("struct ") => "a table".into(),
        t if t.starts_with("enum ") => "a string".into(),
        _ => text,
    }
}

fn kind(found: &de::Unexpected) -> &'static str {
    match found {
        de::Unexpected::Bool(_) => "a boolean",
        de::Unexpected::Signed(_) | de::Unexpected::Unsigned(_) => "an integer",
        de::Unexpected::Float(_) => "a float",
        de::Unexpected::Str(_) | de::Unexpected::Char(_) => "a string",
        de::Unexpected::Seq => "an array",
        de::Unexpected::Map | de::Unexpected::StructVariant => "a table",
        de::Unexpected::Other("a date or time") => "a date or time",
        _ => "something else",
    }
}

fn number(found: &de::Unexpected) -> String {
    match found {
        de::Unexpected::Signed(i) => i.to_string(),
        de::Unexpected::Unsigned(i) => i.to_string(),
        other => kind(other).to_string(),
    }
}

/// serde's deserializer over one node.
struct Reader<'a> {
    node: &'a Node,
    context: &'a Context<'a>,
    /// The table itself, not a value inside it: unknown keys here may also be keys that were taken out before.
    top: bool,
}

impl<'a> Reader<'a> {
    fn placed<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        result.map_err(|refusal| refusal.placed(self.node))
    }

    /// A value that came out of `${...}` may stand for a number or a boolean.
    fn expanded(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text { text, expanded: true } => Some(text.trim()),
            _ => None,
        }
    }

    fn unquoted_hint(&self, mut refusal: Refusal) -> Refusal {
        if let Value::Text { text, expanded: false } = &self.node.value
            && refusal.hint.is_none()
            && (text.parse::<f64>().is_ok() || text.parse::<bool>().is_ok())
        {
            refusal.hint = Some("Write it without quotes.".into());
        }
        refusal
    }

    fn integer<'de, V: Visitor<'de>>(&self, i: i128, visitor: V) -> Result<V::Value, Refusal> {
        match (i64::try_from(i), u64::try_from(i)) {
            (Ok(i), _) => visitor.visit_i64(i),
            (_, Ok(i)) => visitor.visit_u64(i),
            _ => visitor.visit_i128(i),
        }
    }

    fn scalar<'de, V: Visitor<'de>>(self, wanted: Scalar, visitor: V) -> Result<V::Value, Refusal> {
        let result = match (self.expanded(), wanted) {
            (Some(text), Scalar::Integer) => match text.parse::<i128>() {
                Ok(i) => self.integer(i, visitor),
                Err(_) => visitor.visit_str(text),
            },
            (Some(text), Scalar::Float) => match text.parse::<f64>() {
                Ok(x) => visitor.visit_f64(x),
                Err(_) => visitor.visit_str(text),
            },
            (Some(text), Scalar::Boolean) => match text.parse::<bool>() {
                Ok(b) => visitor.visit_bool(b),
                Err(_) => visitor.visit_str(text),
            },
            (None, wanted) => match (&self.node.value, wanted) {
                (Value::Faulty, Scalar::Integer) => visitor.visit_i64(0),
                (Value::Faulty, Scalar::Float) => visitor.visit_f64(0.0),
                (Value::Faulty, Scalar::Boolean) => visitor.visit_bool(false),
                _ => self.any(visitor),
            },
        };
        self.placed(result).map_err(|refusal| self.unquoted_hint(refusal))
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let result = match &self.node.value {
            Value::Faulty => visitor.visit_str("?"),
            _ => self.any(visitor),
        };
        self.placed(result)
    }

    fn any<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.value {
            Value::Text { text, .. } => visitor.visit_str(text),
            Value::Integer(i) => self.integer(*i, visitor),
            Value::Float(x) => visitor.visit_f64(*x),
            Value::Boolean(b) => visitor.visit_bool(*b),
            Value::Datetime => Err(de::Error::invalid_type(de::Unexpected::Other("a date or time"), &visitor)),
            Value::Array(items) => visitor.visit_seq(Items { items, next: 0, context: self.context }),
            Value::Table(table) => visitor.visit_map(Entries::new(table, None, self.context)),
            Value::Faulty => visitor.visit_unit(),
        }
    }

    /// Faults for keys that are none of `fields`.
    fn find_unknown(&self, table: &Table, fields: &[&'static str]) {
        for entry in &table.entries {
            if fields.contains(&entry.key.as_str()) {
                continue;
            }
            let known: Vec<&str> = if self.top {
                fields.iter().chain(self.context.also_known).copied().collect()
            } else {
                fields.to_vec()
            };
            let message = match (self.top, self.context.heading) {
                (true, "") => format!("unknown table or key \"{}\"", entry.key),
                (true, heading) => format!("unknown key \"{}\" in [{heading}]", entry.key),
                (false, _) => format!("unknown key \"{}\"", entry.key),
            };
            let hint = Some(match closest(&entry.key, known.iter().copied()) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None if known.is_empty() => "No keys are known here.".to_string(),
                None => format!("Known here: {}.", known.join(", ")),
            });
            let fault = self.context.source.fault(entry.key_at, message);
            self.context.unknown.borrow_mut().push(Fault { hint, ..fault });
        }
    }
}

#[derive(Clone, Copy)]
enum Scalar {
    Integer,
    Float,
    Boolean,
}

macro_rules! scalars {
    ($($method:ident $scalar:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            self.scalar(Scalar::$scalar, visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Refusal;

    scalars! {
        deserialize_bool Boolean;
        deserialize_i8 Integer;
        deserialize_i16 Integer;
        deserialize_i32 Integer;
        deserialize_i64 Integer;
        deserialize_i128 Integer;
        deserialize_u8 Integer;
        deserialize_u16 Integer;
        deserialize_u32 Integer;
        deserialize_u64 Integer;
        deserialize_u128 Integer;
        deserialize_f32 Float;
        deserialize_f64 Float;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let result = self.any(visitor);
        self.placed(result)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.value {
            Value::Faulty => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        let Value::Text { text, .. } = &self.node.value else {
            return visitor.visit_newtype_struct(self);
        };
        let resolved = match name {
            FILE_PATH if !text.is_empty() => resolve(&self.context.source.base, text),
            ADDRESS if !text.is_empty() && !text.contains("://") => resolve(&self.context.source.base, text),
            _ => return visitor.visit_newtype_struct(self),
        };
        // A config file's path is UTF-8 on every system we run on; elsewhere the shown form would fail to open, loudly.
        let resolved: StringDeserializer<Refusal> = resolved.to_string_lossy().into_owned().into_deserializer();
        let result = visitor.visit_newtype_struct(resolved);
        self.placed(result)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let result = match &self.node.value {
            Value::Faulty => visitor.visit_seq(Items { items: &[], next: 0, context: self.context }),
            Value::Text { .. } => self.any(visitor).map_err(|mut refusal: Refusal| {
                refusal.hint = refusal.hint.or(Some("Write it in brackets: [\"...\"].".into()));
                refusal
            }),
            _ => self.any(visitor),
        };
        self.placed(result)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let result = match &self.node.value {
            Value::Faulty => visitor.visit_map(Entries::new(&Table::default(), None, self.context)),
            _ => self.any(visitor),
        };
        self.placed(result)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let result = match &self.node.value {
            Value::Faulty => visitor.visit_map(Entries::new(&Table::default(), Some(fields), self.context)),
            Value::Table(table) => {
                self.find_unknown(table, fields);
                visitor.visit_map(Entries::new(table, Some(fields), self.context))
            }
            _ => self.any(visitor),
        };
        self.placed(result)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let result = match &self.node.value {
            Value::Text { text, .. } => {
                let variant: StrDeserializer<'_, Refusal> = text.as_str().into_deserializer();
                visitor.visit_enum(variant)
            }
            Value::Faulty => Err(de::Error::custom("is faulty")),
            other => {
                let names: Vec<String> = variants.iter().map(|v| format!("\"{v}\"")).collect();
                Err(de::Error::custom(format!("must be one of {}, found {}", names.join(", "), other.kind())))
            }
        };
        self.placed(result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
    context: &'a Context<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        let result = seed.deserialize(Reader { node, context: self.context, top: false });
        result.map(Some).map_err(|refusal| refusal.below(node, Step::Index(index)))
    }
}

/// The entries of a table; with `fields`, those alone.
struct Entries<'a> {
    entries: Vec<&'a Entry>,
    next: usize,
    context: &'a Context<'a>,
}

impl<'a> Entries<'a> {
    fn new(table: &'a Table, fields: Option<&[&str]>, context: &'a Context<'a>) -> Self {
        let wanted = |entry: &&Entry| fields.is_none_or(|fields| fields.contains(&entry.key.as_str()));
        Entries { entries: table.entries.iter().filter(wanted).collect(), next: 0, context }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Refusal;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refusal> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let key: StrDeserializer<'_, Refusal> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        let entry = self.entries[self.next];
        self.next += 1;
        let result = seed.deserialize(Reader { node: &entry.node, context: self.context, top: false });
        result.map_err(|refusal| refusal.below(&entry.node, Step::Key(entry.key.clone())))
    }
}
