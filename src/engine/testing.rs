//! A whole pipeline in a folder, for tests: files of messages in, a Delta table out, no servers.

use crate::engine::assemble::{Assembled, assemble};
use crate::engine::load::load_and_compile;
use crate::engine::running::Running;
use crate::engine::start::{StartOptions, start};
use std::collections::BTreeSet;
use std::path::Path;

/// The source `t` reads the folder's `.jsonl` files, the sink `lake` is its folder of that name, the SQL is in its `.sql`
/// files. Two slots. `data_dir`: processes on several machines, as far as they can tell, have one each. `more`: what else the
/// config says.
pub async fn assembled(folder: &Path, data_dir: &str, once: bool, more: &str) -> Assembled {
    let config = format!(
        r#"
        [pipeline]
        name = "t"
        sql = ["*.sql"]
        data_dir = "{data_dir}"
        slots = 2
        [server]
        http = "off"
        flight = "off"
        [source.t]
        type = "file"
        path = "*.jsonl"
        [sink.lake]
        type = "delta"
        uri = "lake"
        {more}
        "#
    );
    let path = folder.join(format!("{data_dir}.toml"));
    std::fs::write(&path, config).expect("the folder can be written");
    let (loaded, plan) = load_and_compile(&path).await.unwrap_or_else(|e| panic!("{e}"));
    assemble(loaded, plan, once, &BTreeSet::new()).unwrap_or_else(|e| panic!("{e}"))
}

/// `pipe serve`, or with `once` `pipe serve --once`, of such a pipeline.
pub async fn started(folder: &Path, data_dir: &str, once: bool, more: &str) -> Running {
    let options = StartOptions { once, ..StartOptions::default() };
    start(assembled(folder, data_dir, once, more).await, options).await.unwrap_or_else(|e| panic!("{e}"))
}
