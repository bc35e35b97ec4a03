//! Every store creates a name once, says who must act when it cannot, and shows no secret.

use super::*;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, PutMultipartOptions, PutPayload, PutResult,
};

fn local(dir: &std::path::Path) -> Location {
    open(dir.to_str().unwrap(), &BTreeMap::new()).unwrap()
}

fn refusal(result: Result<Location>) -> String {
    match result {
        Err(e @ Error::Refused { .. }) => e.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn addresses_that_cannot_be_opened_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let none = BTreeMap::new();
    assert!(refusal(open(file.to_str().unwrap(), &none)).contains("There is a file of that name"));
    assert!(refusal(open("ftp://host/lake", &none)).contains("s3://bucket/prefix"));
    let secret = refusal(open("s3://key:hunter2@bucket/lake", &none));
    assert!(secret.contains("holds a password") && !secret.contains("hunter2"), "{secret}");
    let options = BTreeMap::from([("aws_regio".to_owned(), "hunter2".to_owned())]);
    let unknown = refusal(open("s3://bucket/lake", &options));
    assert!(
        unknown.contains("\"aws_regio\"") && unknown.contains("aws_region") && !unknown.contains("hunter2"),
        "{unknown}"
    );
    let options = BTreeMap::from([("aws_conditional_put".to_owned(), "disabled".to_owned())]);
    assert!(refusal(open("s3://bucket/lake", &options)).contains("must stay"));
    let options = BTreeMap::from([("aws_region".to_owned(), "x".to_owned())]);
    assert!(refusal(open(dir.path().to_str().unwrap(), &options)).contains("no meaning"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_without_the_right_to_write_is_refused_with_a_hint() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
    // The superuser may write anywhere; there is nothing to refuse then.
    if std::fs::write(closed.join("probe"), "").is_ok() {
        println!("skipped: running as a user who may write anywhere");
        return;
    }
    let inside = refusal(open(closed.join("lake").to_str().unwrap(), &BTreeMap::new()));
    assert!(inside.contains("permission denied") && inside.contains("the right to write"), "{inside}");
    let location = local(&closed);
    let probe = probe_create_if_absent(&location).await.unwrap_err().to_string();
    assert!(probe.contains("Check") || probe.contains("right to write"), "{probe}");
}

#[test]
fn options_are_known_by_name() {
    for (address, known) in [("s3://b/p", &S3_OPTIONS[..]), ("gs://b/p", &GS_OPTIONS), ("az://c/p", &AZ_OPTIONS)] {
        for key in known {
            assert_eq!(option_fault(address, key), None, "{address}");
        }
        assert!(option_fault(address, "colour").is_some_and(|(_, hint)| hint.contains(known[0])), "{address}");
    }
    let (what, hint) = option_fault("s3://b/p", "aws_regoin").unwrap();
    assert_eq!((what.as_str(), hint.as_str()), ("unknown store option \"aws_regoin\"", "Did you mean \"aws_region\"?"));
    assert!(option_fault("/data/lake", "aws_region").is_some_and(|(what, _)| what.contains("local directory")));
}

/// What every store must do, whichever it is.
async fn conformance(location: Location) {
    probe_create_if_absent(&location).await.unwrap();
    assert!(location.list("").await.unwrap().is_empty(), "the probe leaves nothing behind");

    assert_eq!(location.put_create("a/b/record", "one".into()).await.unwrap(), PutOutcome::Created);
    assert_eq!(location.put_create("a/b/record", "two".into()).await.unwrap(), PutOutcome::AlreadyExists);
    assert_eq!(location.get("a/b/record").await.unwrap().as_deref(), Some(&b"one"[..]));
    location.put("a/b/record", "three".into()).await.unwrap();
    assert_eq!(location.get("a/b/record").await.unwrap().as_deref(), Some(&b"three"[..]));
    assert_eq!(location.get("a/nothing").await.unwrap(), None);

    let mut upload = location.store.put_multipart_opts(&location.path("a/c"), Default::default()).await.unwrap();
    let part = vec![7u8; 5 * 1024 * 1024];
    upload.put_part(part.clone().into()).await.unwrap();
    upload.put_part(b"end".to_vec().into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(location.get("a/c").await.unwrap().map(|b| b.len()), Some(part.len() + 3));
    let mut given_up = location.store.put_multipart_opts(&location.path("a/d"), Default::default()).await.unwrap();
    given_up.put_part(part.into()).await.unwrap();
    given_up.abort().await.unwrap();

    let names = |found: Vec<ObjectMeta>| -> Vec<String> {
        let below = |m: ObjectMeta| m.location.prefix_match(&location.prefix).unwrap().collect::<Path>().to_string();
        found.into_iter().map(below).collect()
    };
    assert_eq!(names(location.list("").await.unwrap()), ["a/b/record", "a/c"]);
    assert_eq!(names(location.under("a").list("b").await.unwrap()), ["a/b/record"]);
    location.delete("a/c").await.unwrap();
    location.delete("a/c").await.unwrap();
    assert_eq!(names(location.list("a").await.unwrap()), ["a/b/record"]);
}

#[tokio::test]
async fn memory_conforms() {
    conformance(Location::in_memory()).await;
}

#[tokio::test]
async fn local_disk_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance(local(&dir.path().join("not/there yet"))).await;
}

/// 20 names, 50 writers each: one wins, its bytes stay, and no staged file is left.
#[tokio::test(flavor = "multi_thread")]
async fn racing_creates_on_local_disk_have_one_winner() {
    let dir = tempfile::tempdir().unwrap();
    let location = local(dir.path());
    let mut racing = tokio::task::JoinSet::new();
    for name in 0..20 {
        for writer in 0..50 {
            let location = location.clone();
            racing.spawn(async move {
                let key = format!("race/{name}");
                let outcome = location.put_create(&key, format!("{writer}").into()).await.unwrap();
                (key, writer, outcome)
            });
        }
    }
    let mut winners: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    while let Some(done) = racing.join_next().await {
        let (key, writer, outcome) = done.unwrap();
        if outcome == PutOutcome::Created {
            winners.entry(key).or_default().push(writer);
        }
    }
    assert_eq!(winners.len(), 20);
    for (key, won) in winners {
        let [winner] = won[..] else { panic!("{key} was created by {won:?}") };
        assert_eq!(location.get(&key).await.unwrap().unwrap(), format!("{winner}"));
    }
    assert_eq!(std::fs::read_dir(dir.path().join("race")).unwrap().count(), 20);
}

/// Ignores the condition, as old MinIO and Ceph do.
#[derive(Debug)]
struct Overwrites(InMemory);

impl fmt::Display for Overwrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("overwrites")
    }
}

#[async_trait]
impl ObjectStore for Overwrites {
    async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> object_store::Result<PutResult> {
        self.0.put_opts(location, payload, PutOptions::default()).await
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(location, options).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let location = Location { store: Arc::new(Overwrites(InMemory::new())), ..Location::in_memory() };
    let error = probe_create_if_absent(&location).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("create-if-absent"), "{error}");
}

#[test]
fn addresses_name_their_place() {
    let check = |address: &str, options: &[(&str, &str)], url: &str, prefix: &str| {
        let options = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let location = open(address, &options).unwrap();
        assert_eq!((location.url().as_str(), location.prefix.as_ref()), (url, prefix));
    };
    check("s3://bucket/lake/fleet/", &[("aws_region", "x")], "s3://bucket/lake/fleet/", "lake/fleet");
    check("s3://bucket", &[("aws_region", "x")], "s3://bucket/", "");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let inner = path.join("a b");
    check(
        inner.to_str().unwrap(),
        &[],
        &format!("file://{}/a%20b/", path.display()),
        &format!("{}/a b", path.display().to_string().trim_start_matches('/')),
    );
}

#[test]
fn queries_of_signed_addresses_are_cut_off() {
    assert_eq!(
        without_queries("error at https://host/path?sig=hunter2 after 3 s (why?)"),
        "error at https://host/path after 3 s (why?)"
    );
}
