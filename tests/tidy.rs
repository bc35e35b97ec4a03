//! Holds what docs/architecture.md says about the house: floors, purity, first lines, sizes. Needs nothing but std.
//!
//! Every message says which file, which rule, and what to do.

use std::fs;
use std::path::{Path, PathBuf};

/// Which module may use which, ground floor first. A module may always use itself.
const FLOORS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("config", &["types"]),
    ("codec", &["types"]),
    ("sql", &["types"]),
    ("state", &["types", "sql"]),
    ("checkpoint", &["types"]),
    ("env", &["types"]),
    ("journal", &["types", "env"]),
    ("sources", &["types", "config", "env", "journal"]),
    ("sinks", &["types", "config", "codec", "env"]),
    (
        "engine",
        &["types", "config", "codec", "sql", "state", "checkpoint", "env", "journal", "sources", "sinks", "query"],
    ),
    ("query", &["types", "sql", "state", "env", "sinks"]),
    // Beyond DESIGN's row: what is shown of a running engine speaks in the plan's, the slots' and the tables' own types
    // (docs/decisions/0001-what-serve-may-name.md).
    ("serve", &["types", "config", "engine", "query", "sql", "state", "env", "sinks"]),
    ("simulate", &["types", "config", "env"]),
    (
        "cli",
        &[
            "types",
            "config",
            "sql",
            "checkpoint",
            "env",
            "journal",
            "sources",
            "sinks",
            "engine",
            "query",
            "serve",
            "simulate",
        ],
    ),
];

/// No clock, no async, no file system, no log, no chance: what they do is decided by their arguments.
const PURE: &[&str] = &["types", "config", "codec", "checkpoint"];

const IMPURE_WORDS: &[&str] = &[
    "std::fs",
    "fs::read",
    "fs::write",
    "File::open",
    "Instant::now",
    "SystemTime",
    "Utc::now",
    "std::env::",
    "std::thread",
    "tokio::",
    "async fn",
    "async move",
    "tracing::",
    "println!",
    "rand::",
    "metrics::",
];

/// Past this a file is to be split by responsibility.
const FILE_LINES_MAX: usize = 600;

/// A first line shorter than this says nothing.
const FIRST_LINE_CHARS_MIN: usize = 20;

/// Names that say nothing about what is inside.
const NAMES_REFUSED: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "misc", "impl", "v2"];

/// What is left undone belongs into an issue, not into the code.
const UNDONE_WORDS: &[&str] = &["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX", "dbg!("];

/// What the folder of a connector holds.
const CONNECTOR_FILES: &[&str] = &["mod.rs", "config.rs", "example.toml"];

#[test]
fn modules_use_only_the_floors_below_them() {
    let mut broken = Vec::new();
    for file in sources("src") {
        let Some(module) = module_of(&file.path) else { continue };
        let Some((_, allowed)) = FLOORS.iter().find(|(name, _)| *name == module) else {
            broken.push(format!("{}: module \"{module}\" has no row in FLOORS; add it here and in docs", file.shown()));
            continue;
        };
        for (line, text) in file.code_without_tests() {
            for used in crate_paths(text) {
                if used != module && !allowed.contains(&used) && FLOORS.iter().any(|(name, _)| *name == used) {
                    broken.push(format!(
                        "{}:{line}: \"{module}\" uses \"{used}\"; it may use {allowed:?}. Move the code to the floor it \
                         belongs to, or hand the thing in as an argument.",
                        file.shown()
                    ));
                }
            }
        }
    }
    none(broken);
}

#[test]
fn pure_modules_stay_pure() {
    let mut broken = Vec::new();
    for file in sources("src") {
        let Some(module) = module_of(&file.path).filter(|m| PURE.contains(m)) else { continue };
        for (line, text) in file.code_without_tests() {
            for word in IMPURE_WORDS.iter().filter(|word| text.contains(**word)) {
                broken.push(format!(
                    "{}:{line}: \"{word}\" in the pure module \"{module}\". Take what it gives as an argument; the \
                     caller on floor 2 or above does the I/O.",
                    file.shown()
                ));
            }
        }
    }
    none(broken);
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let mut broken = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|dir| sources(dir)) {
        let first = file.text.lines().next().unwrap_or_default();
        let says = first.strip_prefix("//! ").unwrap_or_default();
        if says.chars().count() < FIRST_LINE_CHARS_MIN {
            broken.push(format!(
                "{}:1: the first line does not say what the file is for. Begin with \"//! \" and one sentence.",
                file.shown()
            ));
        }
    }
    none(broken);
}

#[test]
fn files_are_short_enough_to_read() {
    let mut broken = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|dir| sources(dir)) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!(
                "{}: {lines} lines, more than {FILE_LINES_MAX}. Split it by responsibility; tests go to tests.rs.",
                file.shown()
            ));
        }
    }
    none(broken);
}

#[test]
fn names_say_something() {
    let mut broken = Vec::new();
    for file in sources("src") {
        for part in file.path.components() {
            let part = part.as_os_str().to_string_lossy();
            let name = part.strip_suffix(".rs").unwrap_or(&part);
            if NAMES_REFUSED.contains(&name) {
                broken.push(format!("{}: \"{name}\" says nothing; name it by what it is about", file.shown()));
            }
        }
    }
    none(broken);
}

#[test]
fn nothing_is_left_undone() {
    let mut broken = Vec::new();
    for file in sources("src") {
        for (line, text) in file.lines() {
            for word in UNDONE_WORDS.iter().filter(|word| text.contains(**word)) {
                broken.push(format!("{}:{line}: \"{word}\": do it, or open an issue and take it out", file.shown()));
            }
        }
    }
    none(broken);
}

#[test]
fn no_test_is_switched_off() {
    let switched_off = concat!("#[ign", "ore");
    let mut broken = Vec::new();
    for file in ["src", "tests"].iter().flat_map(|dir| sources(dir)) {
        for (line, text) in file.lines() {
            if text.trim_start().starts_with(switched_off) {
                broken.push(format!(
                    "{}:{line}: a test that does not run. Assert today's behaviour and say that it is wrong, or remove it.",
                    file.shown()
                ));
            }
        }
    }
    none(broken);
}

#[test]
fn connector_folders_are_complete() {
    let mut broken = Vec::new();
    for parent in ["src/sources", "src/sinks"] {
        for folder in entries(&root().join(parent)).into_iter().filter(|path| path.is_dir()) {
            for name in CONNECTOR_FILES {
                if !folder.join(name).is_file() {
                    broken.push(format!("{}: {name} is missing", shown(&folder)));
                }
            }
        }
    }
    none(broken);
}

/// The table above and lib.rs tell of the same modules.
#[test]
fn every_module_has_a_floor() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs is there");
    let declared: Vec<&str> =
        lib.lines().filter_map(|l| l.trim().strip_prefix("pub mod ")).filter_map(|l| l.split(';').next()).collect();
    let floors: Vec<&str> = FLOORS.iter().map(|(name, _)| *name).collect();
    for name in &declared {
        assert!(floors.contains(name), "src/lib.rs declares \"{name}\", which has no row in FLOORS");
    }
    for name in &floors {
        assert!(declared.contains(name), "FLOORS has a row for \"{name}\", which src/lib.rs does not declare");
    }
}

/// The rules themselves, on text made up for it.
#[test]
fn crate_paths_are_found_in_uses_and_expressions() {
    let found = |line| crate_paths(line).collect::<Vec<_>>();
    assert_eq!(found("use crate::types::fault::Fault;"), ["types"]);
    assert_eq!(found("use crate::{sinks, sources::Kind};"), ["sinks", "sources"]);
    assert_eq!(found("let x = crate::env::clock::now(crate::sql::Y);"), ["env", "sql"]);
    assert_eq!(found("// use crate::types;"), [""; 0]);
    assert_eq!(found("pub(crate) fn f() {}"), [""; 0]);
}

struct Source {
    path: PathBuf,
    text: String,
    /// Declared under `#[cfg(test)]`, itself or a module above it.
    for_tests: bool,
}

impl Source {
    fn shown(&self) -> String {
        shown(&self.path)
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(i, text)| (i + 1, text))
    }

    /// Lines without comments and without what only tests see: tests may use more.
    fn code_without_tests(&self) -> Vec<(usize, &str)> {
        if self.for_tests {
            return Vec::new();
        }
        let mut code = Vec::new();
        let mut lines = self.lines().peekable();
        while let Some((line, text)) = lines.next() {
            if text.trim() == "#[cfg(test)]" {
                match lines.peek() {
                    Some((_, next)) if next.contains("mod ") && next.trim_end().ends_with('{') => break,
                    Some(_) => {
                        // One item that only tests see: a line, or up to its closing brace at the same depth.
                        let mut depth = 0i32;
                        for (_, item) in lines.by_ref() {
                            depth += item.matches('{').count() as i32 - item.matches('}').count() as i32;
                            let ends = item.trim_end().ends_with(';') || item.contains('}');
                            if depth <= 0 && ends {
                                break;
                            }
                        }
                        continue;
                    }
                    None => break,
                }
            }
            if !text.trim_start().starts_with("//") {
                code.push((line, text));
            }
        }
        code
    }
}

/// The modules a line names through `crate::`.
fn crate_paths(line: &str) -> impl Iterator<Item = &str> {
    let line = line.split("//").next().unwrap_or_default();
    line.match_indices("crate::").flat_map(|(at, found)| {
        let rest = &line[at + found.len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split(',').map(first_word).collect(),
            None => vec![first_word(rest)],
        };
        names
    })
}

fn first_word(text: &str) -> &str {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// `src/sql/plan.rs` and `src/sql.rs` belong to `sql`; lib.rs and main.rs to no module.
fn module_of(path: &Path) -> Option<&str> {
    let below = path.strip_prefix(root().join("src")).ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    match first {
        "lib.rs" | "main.rs" => None,
        name => FLOORS.iter().map(|(n, _)| *n).find(|n| *n == name.trim_end_matches(".rs")).or(Some("?")),
    }
}

fn sources(dir: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        for path in entries(&dir) {
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", shown(&path)));
                found.push(Source { path, text, for_tests: false });
            }
        }
    }
    let test_modules: Vec<PathBuf> = found.iter().flat_map(test_modules).collect();
    for file in &mut found {
        file.for_tests = test_modules.iter().any(|module| file.path.with_extension("").starts_with(module));
    }
    found
}

/// The modules that a file declares as `#[cfg(test)] mod x;`, as paths without ".rs" or "/mod.rs".
fn test_modules(file: &Source) -> Vec<PathBuf> {
    let name = file.path.file_stem().unwrap_or_default();
    let folder = match name.to_str() {
        Some("mod" | "lib" | "main") => file.path.parent().unwrap_or(Path::new("")).to_path_buf(),
        _ => file.path.with_extension(""),
    };
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    declared
        .filter_map(|pair| pair[1].trim_start_matches("pub ").strip_prefix("mod "))
        .filter_map(|rest| rest.split_once(';'))
        .map(|(module, _)| folder.join(module))
        .collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    // benches/ may not be there.
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
    paths.sort();
    paths
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[track_caller]
fn none(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}
