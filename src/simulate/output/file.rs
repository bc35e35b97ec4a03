//! Messages as lines of a file, or of standard output.

use crate::simulate::sent::{Sent, Stream};
use crate::types::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

pub struct FileOutput {
    /// `None`: standard output.
    path: Option<PathBuf>,
    writers: BTreeMap<Stream, BufWriter<Box<dyn Write + Send>>>,
}

impl FileOutput {
    /// Files are created when their first message comes, and emptied if they exist.
    pub fn create(path: PathBuf) -> Self {
        FileOutput { path: Some(path), writers: BTreeMap::new() }
    }

    pub fn stdout() -> Self {
        FileOutput { path: None, writers: BTreeMap::new() }
    }

    pub fn send(&mut self, sent: &Sent) -> Result<()> {
        // Without `{stream}` in the path both streams share one writer.
        let is_split = self.path.as_ref().is_some_and(|path| path.to_string_lossy().contains(PLACEHOLDER));
        let stream = if is_split { sent.stream } else { Stream::Kinematic };
        if !self.writers.contains_key(&stream) {
            let writer = self.open(stream)?;
            self.writers.insert(stream, writer);
        }
        let writer = self.writers.get_mut(&stream).expect("opened above");
        writer.write_all(&sent.payload).and_then(|()| writer.write_all(b"\n")).map_err(|e| self.failed(e))
    }

    pub fn finish(mut self) -> Result<()> {
        let flushed: std::io::Result<()> = self.writers.values_mut().try_for_each(|writer| writer.flush());
        flushed.map_err(|e| self.failed(e))
    }

    fn open(&self, stream: Stream) -> Result<BufWriter<Box<dyn Write + Send>>> {
        let Some(path) = &self.path else {
            return Ok(BufWriter::new(Box::new(std::io::stdout())));
        };
        let path = PathBuf::from(path.to_string_lossy().replace(PLACEHOLDER, stream.name()));
        Ok(BufWriter::new(Box::new(File::create(path).map_err(|e| self.failed(e))?)))
    }

    fn failed(&self, e: std::io::Error) -> Error {
        match &self.path {
            Some(path) => Error::Failed(format!("cannot write \"{}\": {e}", path.display())),
            None => Error::Failed(format!("cannot write to standard output: {e}")),
        }
    }
}

const PLACEHOLDER: &str = "{stream}";
