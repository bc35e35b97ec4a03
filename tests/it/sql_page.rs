//! Runs docs/sql.md: every example through the real config, compiler, engine and queries, as a user would.
//!
//! An example is a fenced block `sql`, then messages in blocks `json` (`json NAME` for the source NAME), then a block
//! `text`: lines that begin with `> ` are queries (or a curl of the key-value API), what follows each is the answer.
//! `sql shared` stands before all later examples of its section, `sql refused` must not compile and its `text` is what
//! is said, a block `toml` in front of an example replaces the generated `[source.NAME]`. After a change run the test
//! with UPDATE_EXPECT=1, and read the difference.

use crate::sql_words::{Words, has};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches_with_schema;
use futures::TryStreamExt;
use pipe::engine::start::{StartOptions, start};
use pipe::engine::{assemble, load};
use pipe::env::clock::Clock;
use pipe::query::run::{Queries, QuerySettings};
use pipe::serve::Facade;
use pipe::serve::live::LiveWorld;
use pipe::sql::surface::{Kind, surface};
use pipe::types::error::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Examples that run at a time: each waits for disks more than it computes.
const AT_A_TIME: usize = 4;

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/sql.md")
}

/// A fenced block: what stands after the fence, its text, and where both are.
struct Block {
    info: Vec<String>,
    text: String,
    at: Range<usize>,
    line: usize,
    section: usize,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let (mut at, mut section) = (0, 0);
    for (number, line) in page.split_inclusive('\n').enumerate() {
        match (&mut open, line.trim_end().strip_prefix("```")) {
            (None, Some(info)) => {
                let info = info.split_whitespace().map(str::to_string).collect();
                let start = at + line.len();
                open = Some(Block { info, text: String::new(), at: start..start, line: number + 1, section });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.at.end = at + line.len();
            }
            (None, None) => section += usize::from(line.starts_with("## ")),
        }
        at += line.len();
    }
    assert!(open.is_none(), "the last fence of the page is not closed");
    blocks
}

#[derive(Clone, Default)]
struct Example {
    line: usize,
    section: usize,
    refused: bool,
    shared: String,
    sql: String,
    toml: String,
    messages: Vec<(Option<String>, String)>,
    /// The block `text`: its index among the blocks.
    answers: Option<usize>,
    expected: String,
}

fn examples(blocks: &[Block]) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut shared, mut toml) = (BTreeMap::<usize, String>::new(), String::new());
    for (index, block) in blocks.iter().enumerate() {
        let info: Vec<&str> = block.info.iter().map(String::as_str).collect();
        let own = |e: &&mut Example| e.section == block.section && e.answers.is_none();
        match info.as_slice() {
            ["sql", "shared"] => shared.entry(block.section).or_default().push_str(&block.text),
            ["sql"] | ["sql", "refused"] => examples.push(Example {
                line: block.line,
                section: block.section,
                refused: info.len() == 2,
                shared: shared.get(&block.section).cloned().unwrap_or_default(),
                sql: block.text.clone(),
                toml: std::mem::take(&mut toml),
                ..Example::default()
            }),
            ["toml"] => toml = block.text.clone(),
            ["json", source @ ..] => {
                let example = examples.last_mut().filter(own);
                let example = example.unwrap_or_else(|| panic!("docs/sql.md:{}: messages of no example", block.line));
                example.messages.push((source.first().map(|s| s.to_string()), block.text.clone()));
            }
            ["text"] => {
                let example = examples.last_mut().filter(own);
                let example = example.unwrap_or_else(|| panic!("docs/sql.md:{}: answers of no example", block.line));
                (example.answers, example.expected) = (Some(index), block.text.clone());
            }
            other => panic!("docs/sql.md:{}: a block {other:?} means nothing here", block.line),
        }
    }
    examples
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_page_does_what_it_says() {
    let mut text = fs::read_to_string(page()).expect("the page is there");
    let blocks = blocks(&text);
    let examples = examples(&blocks);
    assert!(examples.len() > 30, "only {} examples were found", examples.len());
    let mut waiting = examples.clone().into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut found: BTreeMap<usize, String> = BTreeMap::new();
    loop {
        while running.len() < AT_A_TIME
            && let Some((index, example)) = waiting.next()
        {
            running.spawn(async move { (index, answer(&example).await) });
        }
        let Some(ended) = running.join_next().await else { break };
        let (index, answer) = ended.expect("an example says what went wrong by itself");
        found.insert(index, answer);
    }
    let mut differences = String::new();
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    // From the end, so that the places before stay what they are.
    for (index, found) in found.into_iter().rev() {
        let example = &examples[index];
        if found == example.expected {
            continue;
        }
        match example.answers {
            Some(block) if update => text.replace_range(blocks[block].at.clone(), &found),
            _ => {
                let Example { line, expected, .. } = example;
                write!(differences, "docs/sql.md:{line}: expected\n{expected}found\n{found}\n").expect("a string");
            }
        }
    }
    if update {
        fs::write(page(), text).expect("the page can be written");
    }
    assert!(differences.is_empty(), "\n{differences}UPDATE_EXPECT=1 takes over what was found");
}

/// What the block `text` of the example should hold.
async fn answer(example: &Example) -> String {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| fs::write(at(name), text).expect("the folder can be written");
    write("a_shared.sql", &example.shared);
    write("example.sql", &example.sql);
    let sources = Words::of(&format!("{};{}", example.shared, example.sql)).sources();
    let mut toml = format!("{}\n", example.toml);
    for source in &sources {
        write(&format!("{source}.jsonl"), "");
        if !example.toml.contains(&format!("[source.{source}]")) {
            toml.push_str(&format!("[source.{source}]\ntype = 'file'\npath = '{source}.jsonl'\n"));
        }
    }
    toml.push_str("[pipeline]\nname = 'page'\nsql = ['*.sql']\ndata_dir = 'data'\nslots = 1\n[sink.kv]\ntype = 'kv'\n");
    toml.push_str("[sink.lake]\ntype = 'delta'\nuri = 'lake'\n");
    write("pipeline.toml", &toml);
    for (source, lines) in &example.messages {
        let source = source.as_ref().or(sources.first()).expect("a table has a source");
        write(&format!("{source}.jsonl"), lines);
    }
    let compiled = load::load_and_compile(&at("pipeline.toml")).await;
    let (loaded, plan) = match compiled {
        Ok(compiled) if !example.refused => compiled,
        Ok(_) => return "this is not refused\n".into(),
        Err(Error::Config(faults)) => {
            let place = format!("{}/", folder.path().display());
            return faults.iter().map(|f| format!("{f}\n").replace(&place, "")).collect();
        }
        Err(other) => return format!("{other}\n"),
    };
    let assembled = assemble::assemble(loaded, plan, true, &BTreeSet::new()).expect("a file source can be read once");
    let mut running =
        start(assembled, StartOptions { once: true, ..StartOptions::default() }).await.expect("the pipeline starts");
    if let Err(e) = running.wait().await {
        return format!("{e}\n");
    }
    let world = Arc::new(LiveWorld::new(running.live.clone(), Clock::System));
    let settings = QuerySettings {
        memory_bytes: 64 * 1024 * 1024,
        partitions: 1,
        runtime: tokio::runtime::Handle::current(),
        clock: Clock::System,
    };
    let queries = Queries::new(world.clone(), settings).expect("queries can be asked");
    let mut answers = String::new();
    for asked in example.expected.lines().filter_map(|line| line.strip_prefix("> ")) {
        let answer = match asked.split_once("/api/v1/kv/") {
            Some((_, value)) => kv(&*world, value),
            None => ask(&queries, asked).await,
        };
        writeln!(answers, "> {asked}\n{}", answer.unwrap_or_else(|e| e)).expect("a string");
    }
    answers
}

/// `SINK/TABLE?key=A&key=B`, as the HTTP API has it.
fn kv(world: &LiveWorld, value: &str) -> Result<String, String> {
    let (table, keys) = value.trim_matches(['\'', '"']).split_once('?').ok_or("no key")?;
    let (sink, table) = table.split_once('/').ok_or("no table")?;
    let keys: Vec<String> = keys.split('&').filter_map(|k| k.strip_prefix("key=")).map(str::to_string).collect();
    let found = world.kv(sink, table, &keys).map_err(|e| e.to_string())?;
    Ok(found.map_or("404".to_string(), |value| value.to_string()))
}

async fn ask(queries: &Queries, sql: &str) -> Result<String, String> {
    let schema = queries.describe(sql).await.map_err(|e| e.to_string())?.schema;
    let rows = queries.run(sql, Vec::new(), None).await.map_err(|e| e.to_string())?;
    let rows: Vec<RecordBatch> = rows.try_collect().await.map_err(|e| e.to_string())?;
    Ok(pretty_format_batches_with_schema(schema, &rows).map_err(|e| e.to_string())?.to_string())
}

/// A capability without an example is one that nobody finds.
#[test]
fn every_construct_has_an_example() {
    let text = fs::read_to_string(page()).expect("the page is there");
    let examples = examples(&blocks(&text));
    let all = |refused: bool| -> Vec<Words> {
        let chosen = examples.iter().filter(|e| e.refused == refused);
        chosen.flat_map(|e| [Words::of(&e.shared), Words::of(&e.sql)]).collect()
    };
    let (good, refused) = (all(false), all(true));
    let tables: Vec<Words> = good.iter().flat_map(|words| words.statements("create table")).collect();
    let mut missing = Vec::new();
    for (kind, word) in surface() {
        let shown = match kind {
            Kind::Type => has(&tables, &word),
            Kind::TableOption => has(&tables, &format!("{word} =")),
            Kind::EpochUnit => has(&tables, &format!("= {word}")),
            Kind::Aggregate | Kind::JsonFunction => has(&good, &format!("{word} (")),
            Kind::RefusedViewOption => has(&refused, &format!("{word} =")),
            Kind::Statement | Kind::Clause | Kind::Expression | Kind::Operator | Kind::MetaColumn => has(&good, &word),
        };
        if !shown {
            missing.push(format!("{kind:?} {word}"));
        }
    }
    assert!(missing.is_empty(), "docs/sql.md has no example of:\n  {}", missing.join("\n  "));
}
