//! The dialogue: statements over several lines, history, and commands that begin with a backslash.

use crate::cli::sql::client::{Client, Trouble};
use crate::cli::sql::output::{Printed, Style, print};
use crate::cli::sql::split;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const HELP: &str = "\
A statement ends with a semicolon and may span lines.
  \\d             lists tables          \\d NAME       columns of a table
  \\watch N       repeats the last statement every N seconds, until Ctrl-C
  \\timing        shows how long statements take, or stops it
  \\format NAME   table, csv, json, ndjson
  \\q             leaves";

struct Shell {
    client: Client,
    style: Style,
    timing: bool,
    last: Option<String>,
}

/// What a line asks for.
#[derive(Debug, PartialEq)]
enum Command {
    Tables,
    Columns(String),
    Watch(Duration),
    Timing,
    Format(Style),
    Help,
    Quit,
}

pub async fn run(client: Client, style: Style) -> ExitCode {
    let mut editor = match DefaultEditor::new() {
        Ok(editor) => editor,
        Err(e) => {
            eprintln!("cannot read from this terminal: {e}");
            return ExitCode::from(1);
        }
    };
    let history = history_file();
    if let Some(file) = &history {
        // There is none the first time.
        if let Err(e) = editor.load_history(file) {
            tracing::debug!(error = %e, "no history");
        }
    }
    println!("pipe sql: statements end with ; and \\? lists commands");
    let mut shell = Shell { client, style, timing: false, last: None };
    let mut pending = String::new();
    loop {
        let prompt = if pending.is_empty() { "pipe> " } else { "   -> " };
        // Reading a line blocks, so the editor goes to a thread for it and comes back with the line.
        let read = tokio::task::spawn_blocking(move || {
            let line = editor.readline(prompt);
            (editor, line)
        });
        let line;
        (editor, line) = match read.await {
            Ok(read) => read,
            Err(e) => {
                eprintln!("cannot read from this terminal: {e}");
                return ExitCode::from(1);
            }
        };
        match line {
            Ok(line) => {
                if pending.is_empty() && line.trim().is_empty() {
                    continue;
                }
                if pending.is_empty() && line.trim_start().starts_with('\\') {
                    remember(&mut editor, line.trim());
                    match command(&line) {
                        Ok(Command::Quit) => break,
                        Ok(command) => shell.obey(command).await,
                        Err(message) => eprintln!("{message}"),
                    }
                    continue;
                }
                pending.push_str(&line);
                pending.push('\n');
                if split::is_complete(&pending) {
                    let text = std::mem::take(&mut pending);
                    remember(&mut editor, text.trim());
                    for statement in split::statements(&text) {
                        shell.ask(statement).await;
                    }
                }
            }
            // Ctrl-C forgets the statement that is being typed.
            Err(ReadlineError::Interrupted) => pending.clear(),
            Err(ReadlineError::Eof) => break,
            Err(e) => {
                eprintln!("cannot read from this terminal: {e}");
                return ExitCode::from(1);
            }
        }
    }
    if let Some(Err(e)) = history.map(|file| editor.save_history(&file)) {
        eprintln!("the history was not saved: {e}");
    }
    ExitCode::SUCCESS
}

fn remember(editor: &mut DefaultEditor, line: &str) {
    if let Err(e) = editor.add_history_entry(line) {
        tracing::debug!(error = %e, "a line was not remembered");
    }
}

fn history_file() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pipe_history"))
}

fn command(line: &str) -> Result<Command, String> {
    let mut words = line.split_whitespace();
    let (verb, argument) = (words.next().unwrap_or(""), words.next().map(|w| w.trim_end_matches(';')));
    match (verb.trim_end_matches(';'), argument) {
        ("\\q" | "\\quit", _) => Ok(Command::Quit),
        ("\\?" | "\\h" | "\\help", _) => Ok(Command::Help),
        ("\\d" | "\\dt", None) => Ok(Command::Tables),
        ("\\d" | "\\dt", Some(name)) => Ok(Command::Columns(name.to_string())),
        ("\\timing", _) => Ok(Command::Timing),
        ("\\watch", seconds) => match seconds.unwrap_or("2").parse::<f64>() {
            Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Command::Watch(Duration::from_secs_f64(seconds))),
            _ => Err("\\watch wants a number of seconds, from 0.1 on".into()),
        },
        ("\\format", name) => match name.and_then(|n| <Style as clap::ValueEnum>::from_str(n, true).ok()) {
            Some(style) => Ok(Command::Format(style)),
            None => Err("\\format wants one of table, csv, json, ndjson".into()),
        },
        (other, _) => Err(format!("{other} is not a command; \\? lists them")),
    }
}

impl Shell {
    /// Ctrl-C while a statement runs leaves the statement, not the dialogue: its rows are dropped, which cancels it.
    async fn ask(&mut self, statement: String) {
        let start = Instant::now();
        let mut out = std::io::stdout();
        let asked = print(&mut self.client, &statement, self.style, &mut out);
        let outcome = tokio::select! {
            outcome = asked => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
        };
        match outcome {
            Some(Ok(Printed::All | Printed::ReaderLeft)) => {}
            Some(Err(trouble)) => eprintln!("{trouble}"),
            None => eprintln!("cancelled"),
        }
        if self.timing {
            println!("time: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        }
        self.last = Some(statement);
    }

    async fn obey(&mut self, command: Command) {
        let outcome = match command {
            Command::Tables => self.list().await,
            Command::Columns(name) => self.columns(&name).await,
            Command::Watch(interval) => self.watch(interval).await,
            Command::Timing => {
                self.timing = !self.timing;
                println!("timing is {}", if self.timing { "on" } else { "off" });
                Ok(())
            }
            Command::Format(style) => {
                self.style = style;
                Ok(())
            }
            Command::Help => {
                println!("{HELP}");
                Ok(())
            }
            Command::Quit => Ok(()),
        };
        if let Err(trouble) = outcome {
            eprintln!("{trouble}");
        }
    }

    async fn list(&mut self) -> Result<(), Trouble> {
        let tables = self.client.tables(None).await?;
        let width = tables.iter().map(|t| t.name.chars().count()).max().unwrap_or(0);
        for table in &tables {
            println!("{:width$}  {} ({} columns)", table.name, table.kind, table.columns.fields().len());
        }
        Ok(())
    }

    async fn columns(&mut self, name: &str) -> Result<(), Trouble> {
        let tables = self.client.tables(Some(name)).await?;
        if tables.is_empty() {
            return Err(Trouble::call(format!("table \"{name}\" does not exist; \\d lists what there is")));
        }
        for table in &tables {
            println!("{} ({})", table.name, table.kind);
            let width = table.columns.fields().iter().map(|f| f.name().chars().count()).max().unwrap_or(0);
            for field in table.columns.fields() {
                println!("  {:width$}  {}", field.name(), field.data_type());
            }
        }
        Ok(())
    }

    async fn watch(&mut self, interval: Duration) -> Result<(), Trouble> {
        let Some(statement) = self.last.clone() else {
            return Err(Trouble::call("there is no statement to repeat yet"));
        };
        loop {
            let round = async {
                print(&mut self.client, &statement, self.style, &mut std::io::stdout()).await?;
                println!();
                tokio::time::sleep(interval).await;
                Ok::<(), Trouble>(())
            };
            tokio::select! {
                outcome = round => outcome?,
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood_or_explained() {
        assert_eq!(command("\\d"), Ok(Command::Tables));
        assert_eq!(command("\\d hot.v;"), Ok(Command::Columns("hot.v".into())));
        assert_eq!(command("  \\watch 0.5"), Ok(Command::Watch(Duration::from_millis(500))));
        assert_eq!(command("\\format NDJSON"), Ok(Command::Format(Style::Ndjson)));
        assert_eq!(command("\\q;"), Ok(Command::Quit));
        for wrong in ["\\watch soon", "\\watch 0", "\\format xml", "\\x"] {
            assert!(command(wrong).is_err(), "{wrong}");
        }
    }
}
