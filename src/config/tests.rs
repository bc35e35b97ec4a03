//! What the config accepts and refuses: text in, faults out as "line:column: message / hint".

use crate::config::parse::{Parsed, parse};
use crate::config::schema::{self, schema};
use crate::config::section::Section;
use crate::config::spec::{Config, Connector, Connectors, SinkConnector, Slots, UnroutedRule};
use crate::config::value::{Address, FilePath, Lookups, Period, Secret, Settings, Size};
use crate::types::catalog::{SinkKind, UnknownFields};
use crate::types::fault::Fault;
use schemars::JsonSchema;
use serde::Deserialize;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A connector that stands for all of them. Some of its settings are only read, not looked at.
#[derive(Debug, Deserialize, JsonSchema)]
#[allow(dead_code)]
#[serde(deny_unknown_fields)]
struct Radio {
    topics: Vec<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    wait: Period,
    #[serde(default)]
    buffer: Size,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    ca: Option<FilePath>,
    #[serde(default)]
    at: Option<Address>,
    #[serde(default)]
    start: Start,
    #[serde(default)]
    properties: Settings,
}

#[derive(Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Start {
    #[default]
    Earliest,
    Latest,
}

fn check_radio(section: &Section) -> Vec<Fault> {
    match section.read::<Radio>() {
        Err(faults) => faults,
        Ok(radio) if radio.qos > 2 => vec![section.fault("qos", "\"qos\" must be 0, 1 or 2")],
        Ok(_) => Vec::new(),
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Lake {
    uri: Address,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct LakeTable {
    partition_by: Vec<String>,
}

const RADIO: Connector = Connector { kind: "radio", check: check_radio, schema: schema::of::<Radio> };
const LAKE: SinkConnector = SinkConnector {
    connector: Connector {
        kind: "delta",
        check: |s| s.read::<Lake>().err().unwrap_or_default(),
        schema: schema::of::<Lake>,
    },
    accepts: SinkKind::Append,
    check_table: |s| s.read::<LakeTable>().err().unwrap_or_default(),
    table_schema: schema::of::<LakeTable>,
};
const KV: SinkConnector = SinkConnector {
    connector: Connector { kind: "kv", check: |_| Vec::new(), schema: schema::of::<Lake> },
    accepts: SinkKind::Upsert,
    check_table: |_| Vec::new(),
    table_schema: schema::of::<LakeTable>,
};
const CONNECTORS: Connectors = Connectors { sources: &[RADIO], sinks: &[LAKE, KV] };

fn lookups() -> Lookups {
    Lookups {
        env: Arc::new(|name| match name {
            "QOS" => Some("1".into()),
            "HOST" => Some("broker \"one\"".into()),
            "EMPTY" => Some(String::new()),
            "PASSWORD" => Some("hunter2".into()),
            _ => None,
        }),
        read_file: Arc::new(|path| match path.to_str() {
            Some("conf/secret.txt") => Ok("from file\n".into()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "not found")),
        }),
    }
}

fn parsed(text: &str) -> Parsed {
    parse(Path::new("conf/pipeline.toml"), text, &lookups(), &CONNECTORS)
}

fn shown(faults: &[Fault]) -> Vec<String> {
    let place = |f: &Fault| if f.line == 0 { String::new() } else { format!("{}:{}: ", f.line, f.column) };
    let hint = |f: &Fault| f.hint.as_ref().map_or(String::new(), |h| format!(" / {h}"));
    faults.iter().map(|f| format!("{}{}{}", place(f), f.message, hint(f))).collect()
}

const GOOD: &str = "[pipeline]\nname = 'p'\nsql = ['*.sql']\ndata_dir = 'data'\n\
                    [source.a]\ntype = 'radio'\ntopics = ['t']\n[sink.lake]\ntype = 'delta'\n";

/// `text` alone gives these faults.
#[track_caller]
fn check_whole(text: &str, expected: &[&str]) {
    assert_eq!(shown(&parsed(text).faults), expected);
}

/// `lines` after a good file, whose lines count from 11.
#[track_caller]
fn check(lines: &str, expected: &[&str]) {
    check_whole(&format!("{GOOD}\n{lines}"), expected);
}

/// `lines` under a [source.b], whose lines count from 13.
#[track_caller]
fn check_source(lines: &str, expected: &[&str]) {
    check(&format!("[source.b]\ntype = 'radio'\n{lines}"), expected);
}

#[track_caller]
fn good(lines: &str) -> Config {
    let parsed = parsed(&format!("{GOOD}\n{lines}"));
    assert_eq!(shown(&parsed.faults), [""; 0]);
    parsed.config
}

#[track_caller]
fn radio(lines: &str) -> Radio {
    let topics = if lines.contains("topics") { "" } else { "topics = []\n" };
    good(&format!("[source.b]\ntype = 'radio'\n{topics}{lines}")).sources["b"].section.read().expect("no faults")
}

#[test]
fn a_file_that_is_no_toml_gives_syntax_faults_alone() {
    check_whole("[pipeline\nname = 1", &["1:10: unclosed table, expected `]`"]);
    check_whole(
        "[pipeline]\nname = p\nname = 'q'\n",
        &[
            "2:8: text without quotes / Write it in quotes: key = \"text\".",
            "3:1: duplicate key \"name\" / Each key and each [table] stands once.",
        ],
    );
}

#[test]
fn an_empty_file_is_told_what_a_pipeline_needs() {
    check_whole(
        "",
        &[
            "the table [pipeline] is missing / It needs \"name\", \"sql\" and \"data_dir\".",
            "there is no source / Add a [source.NAME] with \"type\": radio.",
            "there is no sink for the dead letters / Messages that are set aside go to a Delta table. Add [sink.lake] \
             with type = \"delta\".",
        ],
    );
}

#[test]
fn all_faults_of_all_tables_come_at_once() {
    check_whole(
        "[pipeline]\nnam = 'p'\nsql = 'x.sql'\nslots = 0\n[limts]\n[source.a]\ntype = 'radoi'\n[source.b]\ntype='radio'\n\
         topics = [1, 'a', true]\nqos = 'high'\nwaitt = 1\nwait = 10\n[sink.lake]\ntype = 'delta'\nurl = 'x'\n",
        &[
            "1:1: [pipeline] needs \"name\"",
            "1:1: [pipeline] needs \"data_dir\"",
            "2:1: unknown key \"nam\" in [pipeline] / Did you mean \"name\"?",
            "3:7: \"sql\" must be an array, found a string / Write it in brackets: [\"...\"].",
            "4:9: \"slots\" must be \"auto\" or a number from 1 to 1024",
            "5:2: unknown table \"limts\" / Did you mean [limits]?",
            "7:8: unknown source type \"radoi\" / Did you mean \"radio\"?",
            "10:11: \"topics[0]\" must be a string, found an integer",
            "10:19: \"topics[2]\" must be a string, found a boolean",
            "11:7: \"qos\" must be an integer from 0 to 255, found a string",
            "12:1: unknown key \"waitt\" in [source.b] / Did you mean \"wait\"?",
            "13:8: \"wait\" has no unit / A number and a unit: \"500ms\", \"10s\", \"5m\", \"1h 30m\".",
            "16:1: unknown key \"url\" in [sink.lake] / Did you mean \"uri\"?",
        ],
    );
}

#[test]
fn values_of_the_wrong_type_or_range() {
    let hint = "A number and a unit: \"64KiB\", \"512MiB\", \"2GiB\" (or KB, MB, GB), or a plain number of bytes.";
    check("[limits]\nmemory = '1 lot'", &[&format!("12:10: \"memory\" is not a size / {hint}")]);
    check("[limits]\nmemory = -1", &[&format!("12:10: \"memory\" is negative / {hint}")]);
    check(
        "[limits]\nmemory = '1MiB'",
        &["12:10: \"memory\" is too small: 1MiB / At least 16MiB; 512MiB is the default."],
    );
    let hint = "A number and a unit: \"500ms\", \"10s\", \"5m\", \"1h 30m\".";
    check("[checkpoint]\ninterval = 'soon'", &[&format!("12:12: \"interval\" is not a length of time / {hint}")]);
    check("[checkpoint]\ninterval = '1ms'", &["12:12: \"interval\" is too short / At least 10ms; 10s is the default."]);
    check(
        "[server]\nhttp = '8080'",
        &["12:8: \"http\" is not host:port / For example \"127.0.0.1:8080\", \"0.0.0.0:8080\", or \"off\"."],
    );
    check(
        "[server]\nhttp = 'localhost:1'\nflight = 'localhost:1'",
        &["13:10: \"http\" and \"flight\" both want localhost:1 / Give each its own port, or turn one \"off\"."],
    );
    check_source("topics = []\nqos = 300", &["14:7: \"qos\" must be an integer from 0 to 255, found 300"]);
    check_source(
        "topics = []\nqos = '1'",
        &["14:7: \"qos\" must be an integer from 0 to 255, found a string / Write it without quotes."],
    );
    check_source("topics = []\nqos = 3", &["14:7: \"qos\" must be 0, 1 or 2"]);
    check_source(
        "topics = []\nstart = 'erliest'",
        &["14:9: \"start\" must be one of \"earliest\", \"latest\" / Did you mean \"earliest\"?"],
    );
    check_source(
        "topics = []\nstart = 5",
        &["14:9: \"start\" must be one of \"earliest\", \"latest\", found an integer"],
    );
    check_source(
        "topics = []\nwait = 1979-05-27",
        &["14:8: \"wait\" must be a length of time such as \"10s\", found a date or time"],
    );
    check_source("", &["11:1: [source.b] needs \"topics\""]);
}

#[test]
fn names_and_types_of_connections() {
    check(
        "[sink.hot]\ntype = 'kv'",
        &[
            "11:7: a sink cannot be called \"hot\" / SQL reads hot.* as something else. Choose another name, such as \"lake\".",
        ],
    );
    check(
        "[source.Fleet-1]\ntype = 'radio'\ntopics = []",
        &[
            "11:9: \"Fleet-1\" cannot be the name of a source / SQL refers to it: lower-case letters, digits and \"_\", not \
         starting with a digit.",
        ],
    );
    check(
        "[sink.r]\ntype = 'redis'",
        &["12:8: the sink type \"redis\" is not in this build / This build has: delta, kv."],
    );
    check("[sink.r]\ntype = 'quux'", &["12:8: unknown sink type \"quux\" / This build has: delta, kv."]);
    check("[sink.r]\ntype = 1", &["12:8: \"type\" must be a string, found an integer / This build has: delta, kv."]);
    check("[source.r]\n", &["11:1: [source.r] needs \"type\" / This build has: radio."]);
    check("[sources.r]\ntype = 'radio'", &["11:2: unknown table \"sources\" / Did you mean [source]?"]);
    check_whole(
        "[pipeline]\nname = 'a b'\nsql = []\ndata_dir = ''\n[source]\ntype = 'radio'\n[sink]\nlake = 1\n",
        &[
            "there is no sink for the dead letters / Messages that are set aside go to a Delta table. Add [sink.lake] \
             with type = \"delta\".",
            "2:8: \"name\" is not a pipeline's name / Letters, digits, \"_\" and \"-\", at most 64: it is part of names in the \
             Delta log.",
            "3:7: \"sql\" is empty / Name the SQL files: sql = [\"../sql/*.sql\"].",
            "4:12: \"data_dir\" is empty",
            "6:1: \"type\" stands in [source], which holds named sources / Give the source a name: [source.NAME].",
            "8:1: \"lake\" stands in [sink], which holds named sinks / Give the sink a name: [sink.NAME].",
        ],
    );
}

#[test]
fn tables_of_a_sink() {
    check(
        "[sink.lake.table.points]\npartition = ['d']",
        &["12:1: unknown key \"partition\" in [sink.lake.table.points] / Did you mean \"partition_by\"?"],
    );
    check(
        "[sink.lake.table]\npoints = 1",
        &["12:1: \"points\" must be a table, found an integer / Write it as [sink.lake.table.points]."],
    );
    let config = good("[sink.lake.table.points]\npartition_by = ['d']");
    let table: LakeTable = config.sinks["lake"].tables["points"].read().expect("no faults");
    assert_eq!(table.partition_by, ["d"]);
}

#[test]
fn the_dead_letters_need_one_delta_sink() {
    assert_eq!(good("").dead_letter_sink, "lake");
    assert_eq!(good("[sink.lake2]\ntype='delta'\n[dead_letter]\nsink='lake2'").dead_letter_sink, "lake2");
    check(
        "[sink.lake2]\ntype='delta'",
        &["which sink holds the dead letters? There are lake, lake2 / Choose one: [dead_letter] sink = \"lake\"."],
    );
    check(
        "[dead_letter]\nsink='lak'",
        &["12:6: there is no sink \"lak\" for the dead letters / Did you mean \"lake\"?"],
    );
    check(
        "[sink.k]\ntype='kv'\n[dead_letter]\nsink='k'",
        &["14:6: the sink \"k\" cannot hold the dead letters / They are a Delta table: name a sink of type \"delta\"."],
    );
    check("[dead_letter]\nsnik='lake'", &["12:1: unknown key \"snik\" in [dead_letter] / Did you mean \"sink\"?"]);
}

#[test]
fn variables_are_expanded_in_values() {
    assert_eq!(radio("at = 's3://${HOST}/x'").at, Some(Address("s3://broker \"one\"/x".into())));
    assert_eq!(radio("qos = '${QOS}'").qos, 1, "a number may come out of the environment");
    assert_eq!(radio("buffer = '${NONE:-64}KiB'").buffer, Size(65_536));
    assert_eq!(radio("topics = ['${EMPTY:-a}', '$${HOST}', '${EMPTY}', '5$']").topics, ["a", "${HOST}", "", "5$"]);
    check_source(
        "topics = ['${NONE}', '${NONE:?ask the fleet team}', '${EMPTY:?}', '${1}', '${A', '${A:=b}']",
        &[
            "13:11: the environment variable \"NONE\" is not set / Set it, or give a default: ${NONE:-default}.",
            "13:22: the environment variable \"NONE\" is not set: ask the fleet team / Set \"NONE\" before the start.",
            "13:53: the environment variable \"EMPTY\" is not set / Set \"EMPTY\" before the start.",
            "13:67: \"1\" is not the name of an environment variable / Letters, digits and \"_\": ${NAME}, ${NAME:-default} \
         or ${NAME:?message}; \"$${\" is a plain \"${\".",
            "13:75: \"${\" is never closed / Close it with \"}\", or write \"$${\" for a plain \"${\".",
            "13:82: \"${A:=b}\" cannot be read / After the name: \":-default\" or \":?message\".",
        ],
    );
    check_source(
        "topics = []\nqos = '${HOST}'\nwait = 1",
        &[
            "14:7: \"qos\" must be an integer from 0 to 255, found a string",
            "15:8: \"wait\" has no unit / A number and a unit: \"500ms\", \"10s\", \"5m\", \"1h 30m\".",
        ],
    );
}

#[test]
fn paths_start_at_the_file() {
    let radio = radio("ca = '../tls/./ca.pem'\nat = 'lake'");
    assert_eq!(radio.ca, Some(FilePath("tls/ca.pem".into())));
    assert_eq!(radio.at, Some(Address("conf/lake".into())));
    let absolute = |text| Section::from_text("radio", "b", &format!("topics = []\nca = '{text}'")).expect("TOML");
    let radio: Radio = absolute("/etc/../ca.pem").read().expect("no faults");
    assert_eq!(radio.ca, Some(FilePath("/ca.pem".into())));
    let radio: Radio = absolute("../../up").read().expect("no faults");
    assert_eq!(radio.ca, Some(FilePath("../../up".into())));
    assert_eq!(good("").pipeline.sql[0].to_str(), Some("conf/*.sql"));
}

#[test]
fn a_secret_is_revealed_and_never_shown() {
    let of = |text: &str| radio(&format!("password = {text}")).password.expect("is given");
    assert_eq!(of("{ env = 'PASSWORD' }").reveal(&lookups()), Ok("hunter2".into()));
    assert_eq!(of("{ file = 'secret.txt' }").reveal(&lookups()), Ok("from file".into()));
    assert_eq!(of("'plain'").reveal(&lookups()), Ok("plain".into()));
    assert_eq!(of("{ env = 'NONE' }").reveal(&lookups()), Err("the environment variable \"NONE\" is not set".into()));
    assert_eq!(
        of("{ file = '/none' }").reveal(&lookups()),
        Err("the secret file \"/none\" cannot be read: not found".into())
    );
    assert_eq!(format!("{0:?} {0}", of("'plain'")), "*** ***");
    let hint = "Write { env = \"NAME\" } or { file = \"/run/secrets/name\" }.";
    check_source(
        "topics = []\npassword = { evn = 'X' }",
        &[&format!("14:12: \"password\" has a key that no secret has / {hint}")],
    );
    check_source(
        "topics = []\npassword = {}",
        &[&format!("14:12: \"password\" does not say where the secret is / {hint}")],
    );
    check_source(
        "topics = []\npassword = 5",
        &["14:12: \"password\" must be a secret, { env = \"NAME\" }, found an integer"],
    );
}

/// I12: not in Debug of anything that holds one, and not in a fault about the value it stands in.
#[test]
fn no_secret_in_debug_or_faults() {
    let parsed = parsed(&format!(
        "{GOOD}[source.b]\ntype = 'radio'\ntopics = []\npassword = 'hunter2'\nproperties = {{ 'sasl.password' = 'hunter2' }}\n\
         qos = '${{PASSWORD}}'\nwait = '${{PASSWORD}}'\nstart = '${{PASSWORD}}'\nbuffer = '${{PASSWORD}}'\n"
    ));
    let said = format!("{:?} {:?} {:?}", parsed.config, parsed.faults, parsed.warnings);
    assert_eq!(parsed.faults.len(), 4);
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn an_address_that_others_reach_wants_a_token_or_a_word() {
    let hint =
        "Set tokens = [{ env = \"PIPE_TOKEN\" }] under [server]; or open = true, if whoever reaches it may read.";
    let fault = |at: &str, key: &str| {
        format!("{at}: \"{key}\" is reached from other machines, and nobody is asked for a token / {hint}")
    };
    let both = [fault("12:8", "http"), fault("13:10", "flight")];
    check("[server]\nhttp = '0.0.0.0:1'\nflight = 'host:2'", &[&both[0], &both[1]]);
    check("[server]\nhttp = '[::]:1'\ntokens = []", &[&both[0]]);
    for fine in ["http = '[::1]:1'", "http = '127.0.0.2:1'", "http = '0.0.0.0:1'\nopen = true", "http = 'off'"] {
        let parsed = parsed(&format!("{GOOD}\n[server]\n{fine}"));
        assert_eq!((shown(&parsed.faults), shown(&parsed.warnings)), (vec![], vec![]), "{fine}");
    }
    let clear = "12:8: \"http\" is reached from other machines, and tokens cross the network in clear text / Set tls = \
                 { cert = \"server.pem\", key = \"server.key\" } under [server], or put a proxy with TLS before it.";
    let token = "tokens = [{ env = 'T' }]";
    for (lines, expected) in [
        (format!("http = '0.0.0.0:1'\n{token}"), &[clear][..]),
        ("http = '0.0.0.0:1'\ntoken = { env = 'T' }".to_string(), &[clear]),
        (format!("http = '0.0.0.0:1'\n{token}\ntls = {{ cert = 'c', key = 'k' }}"), &[]),
        (
            "tokens = [{ env = 'T' }, 'abc']".to_string(),
            &[
                "12:26: \"tokens\" is written into the file / Keep it outside: { env = \"NAME\" } or { file = \"/run/secrets/name\" }.",
            ],
        ),
    ] {
        let parsed = parsed(&format!("{GOOD}\n[server]\n{lines}"));
        assert_eq!(
            (shown(&parsed.faults), shown(&parsed.warnings)),
            (vec![], expected.iter().map(|s| s.to_string()).collect()),
            "{lines}"
        );
        assert!(!format!("{:?}", parsed.config).contains("abc"), "a token cannot be printed");
    }
}

#[test]
fn a_password_in_the_file_is_a_warning() {
    let text = "[source.b]\ntype = 'radio'\ntopics = []\npassword = 'x'\nat = 's3://me:pw@host/'\n\
                properties = { 'sasl.password' = 'y', 'ssl.ca' = 'z' }\n\
                [source.c]\ntype = 'radio'\ntopics = []\npassword = '${PASSWORD}'\nproperties = { 'p.token' = { env = 'X' } }";
    let parsed = parsed(&format!("{GOOD}{text}"));
    assert_eq!(shown(&parsed.faults), [""; 0]);
    let hint = "Keep it outside: { env = \"NAME\" } or { file = \"/run/secrets/name\" }.";
    assert_eq!(
        shown(&parsed.warnings),
        [
            format!("13:12: \"password\" is written into the file / {hint}"),
            "14:6: \"at\" holds a password in its address / Take it out of the address: it shows in logs of other programs. \
             Connectors have keys for it."
                .to_string(),
            format!("15:34: \"sasl.password\" is written into the file / {hint}"),
        ]
    );
}

#[test]
fn settings_take_text_numbers_and_secrets() {
    let settings = radio("properties = { a = 1, b = true, c = 'x', d = { env = 'PASSWORD' }, e = 1.5 }").properties;
    let revealed = settings.reveal(&lookups()).expect("all are there");
    let shown: Vec<String> = revealed.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(shown, ["a=1", "b=true", "c=x", "d=hunter2", "e=1.5"]);
    check_source(
        "topics = []\nproperties = { a = [1] }",
        &["14:20: \"properties.a\" must be text, a number or a boolean, found an array"],
    );
}

#[test]
fn what_every_source_has_is_read_beside_its_own() {
    let config =
        good("[source.b]\ntype = 'radio'\ntopics = []\nunknown_fields = 'capture'\nunrouted = 'drop'\nformat = 'json'");
    assert_eq!(config.sources["b"].common.unrouted, UnroutedRule::Drop);
    assert_eq!(config.catalog().sources["b"].unknown_fields, UnknownFields::Capture);
    check_source("topics = []\nformat = 'avro'", &["14:10: \"format\" must be \"json\""]);
    check_source(
        "topics = []\nunkown_fields = 'reject'",
        &["14:1: unknown key \"unkown_fields\" in [source.b] / Did you mean \"unknown_fields\"?"],
    );
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = good("");
    assert_eq!(config.pipeline.slots, Slots::Auto);
    assert_eq!(config.pipeline.shutdown_timeout, Period::seconds(20));
    assert_eq!(config.checkpoint.interval, Period::seconds(10));
    assert_eq!(config.limits.memory, Size::mib(512));
    assert_eq!(config.server.http.as_deref(), Some("127.0.0.1:8080"));
    assert_eq!(config.server.flight.as_deref(), Some("127.0.0.1:50051"));
    assert_eq!(good("[server]\nhttp = 'off'").server.http, None);
    assert_eq!(config.catalog().sinks["lake"], SinkKind::Append);
}

#[test]
fn sizes() {
    let check = |text, bytes: Option<u64>| assert_eq!(Size::parse(text).map(|s| s.0), bytes, "{text}");
    check("x", None);
    check("1 parsec", None);
    check("MiB", None);
    check("99999999TiB", None);
    check("1.5.5KiB", None);
    check("0", Some(0));
    check("512MiB", Some(512 << 20));
    check("64 kib", Some(65_536));
    check("1GB", Some(1_000_000_000));
    check("1.5KiB", Some(1_536));
}

#[test]
fn a_fault_stands_where_its_key_stands() {
    let section = Section::from_text("radio", "b", "topics = ['a', 'b']\n[properties]\nx = 1").expect("TOML");
    let at = |path: &[&str]| {
        let fault = section.fault_in(path, "m");
        (fault.line, fault.column)
    };
    assert_eq!(at(&["topics", "1"]), (1, 16));
    assert_eq!(at(&["properties", "x"]), (3, 5));
    assert_eq!(at(&["properties", "y"]), (2, 1), "the nearest that is there");
    assert_eq!(at(&["none"]), (1, 1));
}

/// The schema knows every key of every struct and allows no other.
#[test]
fn the_schema_describes_the_file() {
    let schema = schema(&CONNECTORS);
    let at = |pointer: &str| schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing in {schema:#}"));
    assert_eq!(at("/properties/pipeline/required").to_string(), r#"["name","sql","data_dir"]"#);
    assert!(at("/properties/checkpoint/properties/interval/description").as_str().is_some_and(|d| d.len() > 20));
    let radio = at("/properties/source/additionalProperties/oneOf/0");
    assert_eq!(radio.pointer("/properties/type/const").and_then(|v| v.as_str()), Some("radio"));
    assert_eq!(radio.pointer("/required").map(|v| v.to_string()), Some(r#"["type","topics"]"#.into()));
    for key in ["topics", "qos", "password", "format", "unknown_fields", "unrouted"] {
        assert!(radio.pointer(&format!("/properties/{key}")).is_some(), "{key} is missing in {radio:#}");
    }
    assert_eq!(at("/properties/pipeline/additionalProperties"), false);
    assert!(at("/properties/sink/additionalProperties/oneOf/0/properties/table").is_object());
}
