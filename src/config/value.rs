//! Values with a meaning of their own: sizes, periods, paths, addresses, secrets. Each reads its text and says what it wants.
//!
//! A complaint is a sentence that goes on after the key's name ("is not a size"); what follows a newline is its hint. It
//! never repeats the value, which may have come out of the environment (I12).

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The way out of this pure module: environment variables and secret files, handed in by the caller.
#[derive(Clone)]
pub struct Lookups {
    pub env: Arc<dyn Fn(&str) -> Option<String> + Send + Sync>,
    pub read_file: Arc<dyn Fn(&Path) -> io::Result<String> + Send + Sync>,
}

impl Lookups {
    /// No variables, no files: for tests and for text that needs neither.
    pub fn none() -> Self {
        Lookups {
            env: Arc::new(|_| None),
            read_file: Arc::new(|_| Err(io::Error::new(io::ErrorKind::NotFound, "no files here"))),
        }
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookups")
    }
}

/// Bytes: `"512MiB"`, `"64 KiB"`, `"1GB"`, or a plain number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_HINT: &str =
    "A number and a unit: \"64KiB\", \"512MiB\", \"2GiB\" (or KB, MB, GB), or a plain number of bytes.";

impl Size {
    pub const fn mib(n: u64) -> Self {
        Size(n * 1024 * 1024)
    }

    pub fn parse(text: &str) -> Option<Size> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "tib" | "t" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return None,
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Size);
        }
        let bytes = number.parse::<f64>().ok()? * factor as f64;
        (bytes.is_finite() && bytes < u64::MAX as f64).then_some(Size(bytes as u64))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a size such as \"512MiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).ok_or_else(|| E::custom(format!("is not a size\n{SIZE_HINT}")))
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom(format!("is negative\n{SIZE_HINT}")))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor && self.0 % factor == 0 {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A length of time: `"10s"`, `"500ms"`, `"1h 30m"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

const PERIOD_HINT: &str = "A number and a unit: \"500ms\", \"10s\", \"5m\", \"1h 30m\".";

impl Period {
    pub const fn seconds(n: u64) -> Self {
        Period(Duration::from_secs(n))
    }

    pub const fn millis(n: u64) -> Self {
        Period(Duration::from_millis(n))
    }
}

impl Deref for Period {
    type Target = Duration;
    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PeriodVisitor;
        impl Visitor<'_> for PeriodVisitor {
            type Value = Period;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a length of time such as \"10s\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                humantime::parse_duration(text.trim())
                    .map(Period)
                    .map_err(|_| E::custom(format!("is not a length of time\n{PERIOD_HINT}")))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Period, E> {
                Err(E::custom(format!("has no unit\n{PERIOD_HINT}")))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Period, E> {
                Err(E::custom(format!("has no unit\n{PERIOD_HINT}")))
            }
        }
        deserializer.deserialize_any(PeriodVisitor)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A file or directory, or a pattern of such; relative to the config file, and already joined to its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath(pub PathBuf);

/// Under this name `read` recognises a path and joins it to the directory of the config file.
pub(super) const FILE_PATH: &str = "$pipe::FilePath";

impl Deref for FilePath {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_newtype_struct(FILE_PATH, TextVisitor("a path"))
            .map(|text| FilePath(PathBuf::from(text)))
    }
}

/// A local path (relative to the config file, already joined) or an object-store URL such as `s3://bucket/prefix`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub String);

/// As `FILE_PATH`, but text with "://" in it is left as it is.
pub(super) const ADDRESS: &str = "$pipe::Address";

impl Address {
    pub fn is_url(&self) -> bool {
        self.0.contains("://")
    }
}

impl Deref for Address {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(ADDRESS, TextVisitor("a path or URL")).map(Address)
    }
}

/// Joins a path to the config file's directory and takes `.` and `..` out of it, so that errors show short names.
/// Lexical: a `..` after a symbolic link means the link's parent, as in a shell's `cd`.
pub(super) fn resolve(base: &Path, text: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for component in base.join(text).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}

struct TextVisitor(&'static str);

impl<'de> Visitor<'de> for TextVisitor {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        if text.is_empty() { Err(E::custom("is empty")) } else { Ok(text.to_string()) }
    }
}

/// A password or key: `{ env = "NAME" }`, `{ file = "/run/secrets/x" }`, or the text itself (with a warning).
///
/// It holds how to get the secret, not the secret, until `reveal`. It cannot be printed or serialised (I12).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(How);

#[derive(Clone, PartialEq, Eq)]
enum How {
    Env(String),
    File(PathBuf),
    Text(String),
}

const SECRET_HINT: &str = "Write { env = \"NAME\" } or { file = \"/run/secrets/name\" }.";

impl Secret {
    pub fn literal(text: impl Into<String>) -> Self {
        Secret(How::Text(text.into()))
    }

    /// The secret itself; the error says which variable or file is missing.
    pub fn reveal(&self, lookups: &Lookups) -> Result<String, String> {
        match &self.0 {
            How::Text(text) => Ok(text.clone()),
            How::Env(name) => {
                (lookups.env)(name).ok_or_else(|| format!("the environment variable \"{name}\" is not set"))
            }
            How::File(path) => match (lookups.read_file)(path) {
                Ok(text) => {
                    Ok(text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).into())
                }
                Err(e) => Err(format!("the secret file \"{}\" cannot be read: {e}", path.display())),
            },
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `numbers`: take numbers and booleans as their text (for settings such as `"linger.ms" = 5`).
struct SecretVisitor {
    numbers: bool,
}

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if self.numbers { "text, a number or a boolean" } else { "a secret, { env = \"NAME\" }" })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::literal(text))
    }

    fn visit_bool<E: de::Error>(self, b: bool) -> Result<Secret, E> {
        self.number(b.to_string(), de::Unexpected::Bool(b))
    }

    fn visit_i64<E: de::Error>(self, i: i64) -> Result<Secret, E> {
        self.number(i.to_string(), de::Unexpected::Signed(i))
    }

    fn visit_f64<E: de::Error>(self, x: f64) -> Result<Secret, E> {
        self.number(x.to_string(), de::Unexpected::Float(x))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        let mut how = None;
        while let Some(key) = map.next_key::<String>()? {
            let next = match key.as_str() {
                "env" => How::Env(map.next_value()?),
                "file" => How::File(map.next_value::<FilePath>()?.0),
                _ => return Err(de::Error::custom(format!("has a key that no secret has\n{SECRET_HINT}"))),
            };
            if how.replace(next).is_some() {
                return Err(de::Error::custom(format!("says twice where the secret is\n{SECRET_HINT}")));
            }
        }
        how.map(Secret).ok_or_else(|| de::Error::custom(format!("does not say where the secret is\n{SECRET_HINT}")))
    }
}

impl SecretVisitor {
    fn number<E: de::Error>(self, text: String, found: de::Unexpected) -> Result<Secret, E> {
        if self.numbers { Ok(Secret::literal(text)) } else { Err(E::invalid_type(found, &self)) }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor { numbers: false })
    }
}

/// Settings of a library behind a connector, by the library's own names: librdkafka properties, object-store options. Any of them
/// may be a secret, so all of them are kept like one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(pub BTreeMap<String, Secret>);

impl Settings {
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn reveal(&self, lookups: &Lookups) -> Result<BTreeMap<String, String>, String> {
        self.0
            .iter()
            .map(|(key, value)| match value.reveal(lookups) {
                Ok(text) => Ok((key.clone(), text)),
                Err(why) => Err(format!("\"{key}\": {why}")),
            })
            .collect()
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Setting(Secret);
        impl<'de> Deserialize<'de> for Setting {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(SecretVisitor { numbers: true }).map(Setting)
            }
        }
        let settings = BTreeMap::<String, Setting>::deserialize(deserializer)?;
        Ok(Settings(settings.into_iter().map(|(key, Setting(value))| (key, value)).collect()))
    }
}

/// Does a key of this name hold a secret? For the warning about passwords written into the file.
pub(super) fn names_a_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "account_key", "credential"].iter().any(|word| key.contains(word))
}

macro_rules! described {
    ($($name:ident => $schema:tt;)*) => {$(
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

// The type is written as the editor sees it: a number may always come out of "${NAME}" too.
described! {
    Size => { "type": ["string", "integer"], "examples": ["64KiB", "512MiB", "2GiB"] };
    Period => { "type": "string", "examples": ["500ms", "10s", "5m"] };
    FilePath => { "type": "string" };
    Address => { "type": "string" };
    Secret => { "anyOf": [
        { "type": "object", "properties": { "env": { "type": "string" } }, "required": ["env"], "additionalProperties": false },
        { "type": "object", "properties": { "file": { "type": "string" } }, "required": ["file"], "additionalProperties": false },
        { "type": "string" }
    ] };
    Settings => { "type": "object", "additionalProperties": { "type": ["string", "integer", "number", "boolean", "object"] } };
}
