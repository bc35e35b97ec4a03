//! Object stores by address: local disk with real fsync, s3://, gs://, az://; and the create-if-absent probe.
//!
//! Everything exactly-once rests on one operation: create an object only if its name is free, atomically. `open` never
//! turns it off, `probe_create_if_absent` proves it on the store at hand, `put_create` is how the house calls it.

use crate::types::error::{Error, Result};
use crate::types::fault::closest;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutOptions};
use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::str::FromStr;
use std::sync::Arc;
use url::Url;

pub mod local;
#[cfg(test)]
pub mod testing; // a store that fails where a test says
#[cfg(test)]
mod tests;

/// A store and the prefix under which we work.
#[derive(Clone)]
pub struct Location {
    /// Rooted at the bucket, or at "/" on local disk.
    pub store: Arc<dyn ObjectStore>,
    pub prefix: Path,
    /// Scheme and bucket of `store`, e.g. `s3://bucket/` or `file:///`: what names it to readers of whole URLs.
    pub root: Url,
    /// What errors print; never holds a secret (I12).
    pub display: String,
}

/// What became of a create. `AlreadyExists` may be our own write whose answer was lost, and on some stores a conflict in
/// flight where nothing landed: read the object to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    Created,
    AlreadyExists,
}

impl Location {
    /// A store in memory: for tests and simulation.
    pub fn in_memory() -> Self {
        Location {
            store: Arc::new(object_store::memory::InMemory::new()),
            prefix: Path::default(),
            root: Url::parse("memory:///").expect("a constant"),
            display: "memory".into(),
        }
    }

    /// The same store, one folder further down. `folder` may hold slashes.
    pub fn under(&self, folder: &str) -> Self {
        let mut prefix = self.prefix.clone();
        for part in folder.split('/').filter(|p| !p.is_empty()) {
            prefix = prefix.join(part);
        }
        Location { prefix, display: format!("{}/{folder}", self.display.trim_end_matches('/')), ..self.clone() }
    }

    /// The address of the prefix, always ending in a slash.
    pub fn url(&self) -> Url {
        let mut url = self.root.clone();
        url.path_segments_mut()
            .expect("a root URL has a path")
            .pop_if_empty()
            .extend(self.prefix.parts().map(|p| p.as_ref().to_owned()))
            .push("");
        url
    }

    /// Full path of a key below the prefix.
    pub fn path(&self, key: &str) -> Path {
        key.split('/').filter(|p| !p.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Creates the object unless its name is taken. An error says nothing about whether it landed.
    pub async fn put_create(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(key), bytes.into(), options).await {
            Ok(_) => Ok(PutOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(PutOutcome::AlreadyExists),
            Err(e) => Err(self.error(&format!("create \"{key}\""), e)),
        }
    }

    /// Writes the object, replacing what was there.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.store
            .put(&self.path(key), bytes.into())
            .await
            .map(|_| ())
            .map_err(|e| self.error(&format!("write \"{key}\""), e))
    }

    /// `None`: there is no such object.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let got = async { self.store.get(&self.path(key)).await?.bytes().await }.await;
        match got {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(&format!("read \"{key}\""), e)),
        }
    }

    pub async fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.size(key).await?.is_some())
    }

    /// Bytes of the object. `None`: there is no such object.
    pub async fn size(&self, key: &str) -> Result<Option<u64>> {
        match self.store.head(&self.path(key)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error(&format!("look for \"{key}\""), e)),
        }
    }

    /// Everything below `folder` ("" for all), in name order.
    pub async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>> {
        let mut found: Vec<ObjectMeta> = self
            .store
            .list(Some(&self.path(folder)))
            .try_collect()
            .await
            .map_err(|e| self.error(&format!("list \"{folder}\""), e))?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// Gone afterwards, whether or not it was there.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error(&format!("delete \"{key}\""), e)),
        }
    }

    /// Says whose move it is after `e`.
    pub fn error(&self, doing: &str, e: object_store::Error) -> Error {
        explain(&self.display, doing, e)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the store: its Debug prints its client's configuration (I12).
        write!(f, "Location({})", self.display)
    }
}

/// Opens a local directory (created when absent) or an object-store URL. `options` are object_store's own keys; for s3,
/// gs and az the environment (AWS_*, GOOGLE_*, AZURE_*) gives what they leave out. Nothing is read or written yet.
pub fn open(address: &str, options: &BTreeMap<String, String>) -> Result<Location> {
    match Url::parse(address) {
        // One letter is a drive, not a scheme.
        Ok(url) if url.scheme().len() > 1 && url.scheme() != "file" => open_url(address, url, options),
        Ok(url) if url.scheme() == "file" => match url.to_file_path() {
            Ok(path) => open_local(&path, options),
            Err(()) => Err(Error::refused(
                format!("\"{address}\" is not a path on this machine"),
                "Write file:///absolute/path, or just the path.",
            )),
        },
        _ => open_local(std::path::Path::new(address), options),
    }
}

/// As `open`, for those who only look: a local directory must be there already, and none is made.
pub fn open_existing(address: &str, options: &BTreeMap<String, String>) -> Result<Location> {
    let local = address.strip_prefix("file://").unwrap_or(address);
    if !local.contains("://") && !std::path::Path::new(local).is_dir() {
        return Err(Error::refused(
            format!("there is no directory \"{local}\""),
            "Check the path in the config; before the first start there is nothing to look at.",
        ));
    }
    open(address, options)
}

fn open_local(path: &std::path::Path, options: &BTreeMap<String, String>) -> Result<Location> {
    if let Some(key) = options.keys().next() {
        return Err(Error::refused(
            format!("option \"{key}\" has no meaning for the local directory \"{}\"", path.display()),
            "Remove the options, or give an object-store address.",
        ));
    }
    let absolute = std::fs::create_dir_all(path).and_then(|()| std::fs::canonicalize(path)).map_err(|e| {
        let what = format!("cannot open directory \"{}\": {}", path.display(), plain(&e));
        match e.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Error::refused(what, "Give the user that runs pipe the right to write there, or choose another place.")
            }
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                Error::refused(what, "There is a file of that name; choose another place.")
            }
            _ => Error::Failed(what),
        }
    })?;
    let prefix = Path::from_absolute_path(&absolute).map_err(|e| {
        Error::refused(
            format!("directory \"{}\" cannot be addressed: {e}", absolute.display()),
            "Use a path of plain UTF-8 characters.",
        )
    })?;
    Ok(Location {
        store: Arc::new(local::DurableLocal::new()),
        prefix,
        root: Url::parse("file:///").expect("a constant"),
        display: absolute.display().to_string(),
    })
}

fn open_url(address: &str, url: Url, options: &BTreeMap<String, String>) -> Result<Location> {
    let hint = "Write a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.";
    // Before anything is printed: an address with a password or a signed query in it is a secret.
    if url.password().is_some() || url.query().is_some() {
        return Err(Error::refused(
            format!("the {} address holds a password or a query", url.scheme()),
            "Give credentials as options of the sink, as { env = \"NAME\" } or { file = \"PATH\" }.",
        ));
    }
    let (scheme, prefix) =
        ObjectStoreScheme::parse(&url).map_err(|_| Error::refused(format!("cannot open \"{address}\""), hint))?;
    let builder_failed = |e: object_store::Error| explain(address, "open", e);
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(address);
            for (key, value) in options {
                let key: AmazonS3ConfigKey = config_key(key, &S3_OPTIONS)?;
                if key == AmazonS3ConfigKey::ConditionalPut && value != "etag" {
                    return Err(Error::refused(
                        "option \"aws_conditional_put\" must stay \"etag\"",
                        "Exactly-once needs a store that creates objects only if absent.",
                    ));
                }
                builder = builder.with_config(key, value);
            }
            Arc::new(builder.build().map_err(builder_failed)?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(address);
            for (key, value) in options {
                builder = builder.with_config(config_key::<GoogleConfigKey>(key, &GS_OPTIONS)?, value);
            }
            Arc::new(builder.build().map_err(builder_failed)?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(address);
            for (key, value) in options {
                builder = builder.with_config(config_key::<AzureConfigKey>(key, &AZ_OPTIONS)?, value);
            }
            Arc::new(builder.build().map_err(builder_failed)?)
        }
        _ => return Err(Error::refused(format!("\"{}\" is not a kind of store we write to", url.scheme()), hint)),
    };
    let mut root = url.clone();
    // What the path holds beyond the prefix (a bucket in an https address) belongs to the root.
    let above = url.path().trim_matches('/');
    let above = above.strip_suffix(prefix.as_ref()).unwrap_or("").trim_end_matches('/');
    root.set_path(&format!("/{above}"));
    Ok(Location { store, prefix, root, display: address.trim_end_matches('/').to_owned() })
}

/// The options people need, for "did you mean"; object_store knows more.
const S3_OPTIONS: [&str; 8] = [
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_endpoint",
    "aws_allow_http",
    "aws_virtual_hosted_style_request",
    "aws_skip_signature",
];
const GS_OPTIONS: [&str; 3] =
    ["google_service_account", "google_service_account_key", "google_application_credentials"];
const AZ_OPTIONS: [&str; 6] = [
    "azure_storage_account_name",
    "azure_storage_account_key",
    "azure_storage_sas_key",
    "azure_storage_client_id",
    "azure_storage_client_secret",
    "azure_storage_tenant_id",
];

fn config_key<K: FromStr>(key: &str, known: &[&str]) -> Result<K> {
    key.to_lowercase().parse().map_err(|_| {
        let hint = match closest(key, known.iter().copied()) {
            Some(meant) => format!("Did you mean \"{meant}\"?"),
            None => format!("Among others there are: {}.", known.join(", ")),
        };
        Error::refused(format!("unknown store option \"{key}\""), hint)
    })
}

/// What is wrong with an option of this name at this address, and a hint. Pure: for configs that are only read.
pub fn option_fault(address: &str, key: &str) -> Option<(String, String)> {
    let parsed = match address.split_once("://").map(|(scheme, _)| scheme) {
        None | Some("file") => {
            return Some((
                format!("option \"{key}\" has no meaning for a local directory"),
                "Remove it, or give an object-store address.".to_owned(),
            ));
        }
        Some("gs") => config_key::<GoogleConfigKey>(key, &GS_OPTIONS).err(),
        Some("az" | "azure" | "adl" | "abfs" | "abfss") => config_key::<AzureConfigKey>(key, &AZ_OPTIONS).err(),
        Some(_) => config_key::<AmazonS3ConfigKey>(key, &S3_OPTIONS).err(),
    };
    match parsed {
        Some(Error::Refused { what, hint }) => Some((what, hint)),
        _ => None,
    }
}

/// Creates one name twice. A store that lets the second through would let two processes write the same record, so it is
/// refused (old MinIO and Ceph ignore the condition and overwrite).
pub async fn probe_create_if_absent(location: &Location) -> Result<()> {
    let key = format!("_pipe-probe-{}", uuid::Uuid::new_v4());
    let first = location.put_create(&key, Bytes::from_static(b"first")).await;
    let second = match &first {
        Ok(_) => location.put_create(&key, Bytes::from_static(b"second")).await,
        Err(_) => Ok(PutOutcome::AlreadyExists),
    };
    let kept = match &second {
        Ok(PutOutcome::AlreadyExists) => location.get(&key).await,
        _ => Ok(None),
    };
    if let Err(e) = location.delete(&key).await {
        tracing::warn!(location = %location.display, key, error = %e, "could not remove the probe object");
    }
    // `AlreadyExists` on a fresh name is our own first attempt, answered twice after a lost connection.
    first?;
    if second? == PutOutcome::Created || kept?.as_deref() != Some(b"first") {
        return Err(Error::refused(
            format!(
                "\"{}\" does not honour create-if-absent: a second create of one name was let through",
                location.display
            ),
            "Exactly-once needs it. Use AWS S3, GCS, Azure, a local disk, or an S3 server that honours If-None-Match.",
        ));
    }
    Ok(())
}

fn explain(display: &str, doing: &str, e: object_store::Error) -> Error {
    use object_store::Error as E;
    let what = format!("{display}: could not {doing}: {}", without_queries(&chain(&e)));
    match &e {
        E::Unauthenticated { .. } | E::PermissionDenied { .. } => {
            Error::refused(what, "Check the credentials and what they are allowed to do there.")
        }
        E::UnknownConfigurationKey { .. } => Error::refused(what, "Check the options of the store."),
        E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => Error::Failed(what),
        E::NotFound { .. } | E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => {
            Error::Failed(what)
        }
        _ => match io_kind(&e) {
            Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                Error::refused(what, "Give the user that runs pipe the right to write there.")
            }
            _ => Error::Unavailable(what),
        },
    }
}

fn io_kind(e: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = e.source();
    }
    None
}

/// The error and its causes on one line, each said once.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text.replace('\n', " ")
}

/// Signed URLs carry their signature in the query (I12).
fn without_queries(text: &str) -> String {
    text.split(' ')
        .map(|word| match word.split_once('?') {
            Some((before, _)) if before.contains("://") => before,
            _ => word,
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// `io::Error` without the "(os error 13)".
fn plain(e: &std::io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}
