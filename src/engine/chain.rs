//! Records and state segments in the checkpoint location: reads and writes, no decisions.

use crate::checkpoint::place::{RECORDS, left_over_path, record_epoch, record_path};
use crate::checkpoint::record::{Record, SegmentRef, Unreadable};
use crate::config::spec::Config;
use crate::engine::load;
use crate::env::offload::Offload;
use crate::env::store::{self, Location, PutOutcome};
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use arrow::buffer::Buffer;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::writer::FileWriter;
use arrow::ipc::{Block, root_as_footer};
use arrow::record_batch::RecordBatch;
use futures::future::try_join_all;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Segments looked for at once; one after the other would cost a round trip each.
const LOOKS_IN_FLIGHT_MAX: usize = 16;

const MISSING: &str = "is missing";
const ANOTHER: &str = "is not the one the record names (length or checksum differ)";

/// At the end of an Arrow IPC file: the footer's length and a magic word.
const TRAILER_BYTES: usize = 10;

#[derive(Clone)]
pub struct Chain {
    pub location: Location,
}

impl Chain {
    /// Where the config keeps its records. A local directory is created when absent.
    pub fn open(config: &Config) -> Result<Chain> {
        let location = match &config.checkpoint.location {
            Some(address) => {
                let options = config.checkpoint.options.reveal(&load::lookups()).map_err(Error::Failed)?;
                store::open(&address.0, &options)?
            }
            None => store::open(&Self::in_data_dir(config).to_string_lossy(), &BTreeMap::new())?,
        };
        Ok(Chain { location })
    }

    /// The same for those who only read. None: a local directory that is not there; it is not created.
    pub fn find(config: &Config) -> Result<Option<Chain>> {
        let directory = match &config.checkpoint.location {
            Some(address) if address.is_url() => return Chain::open(config).map(Some),
            Some(address) => PathBuf::from(&address.0),
            None => Self::in_data_dir(config),
        };
        if directory.is_dir() { Chain::open(config).map(Some) } else { Ok(None) }
    }

    fn in_data_dir(config: &Config) -> PathBuf {
        config.pipeline.data_dir.0.join("checkpoint")
    }

    fn context(&self, error: Error) -> Error {
        error.context("checkpoint location")
    }

    /// Paths of everything below `folder`, relative to the location, in name order.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let listed = self.location.list(folder).await.map_err(|e| self.context(e))?;
        let relative = |o: &object_store::ObjectMeta| {
            let parts = o.location.prefix_match(&self.location.prefix)?;
            let parts: Vec<String> = parts.map(|p| p.as_ref().to_string()).collect();
            // Of the characters in our names the store's paths escape this one alone.
            Some(parts.join("/").replace("%7E", "~"))
        };
        let outside =
            || Error::Failed(format!("checkpoint location: the listing of \"{folder}\" names what is not in it"));
        listed.iter().map(|o| relative(o).ok_or_else(outside)).collect()
    }

    /// Epochs of all records there are, ascending.
    pub async fn epochs(&self) -> Result<Vec<Epoch>> {
        let mut epochs: Vec<Epoch> = self.list(RECORDS).await?.iter().filter_map(|path| record_epoch(path)).collect();
        epochs.sort();
        Ok(epochs)
    }

    pub async fn exists(&self, epoch: Epoch) -> Result<bool> {
        self.location.exists(&record_path(epoch)).await.map_err(|e| self.context(e))
    }

    /// For clean-up alone, and for a record that turned out to stand in the place of one cleaned up.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.location.delete(path).await.map_err(|e| self.context(e))
    }

    /// Takes a record that is not part of the chain out of it; its bytes stay, for people.
    pub async fn set_aside(&self, epoch: Epoch) -> Result<()> {
        let path = record_path(epoch);
        let Some(bytes) = self.location.get(&path).await.map_err(|e| self.context(e))? else { return Ok(()) };
        let aside = left_over_path(epoch, crc32fast::hash(&bytes));
        tracing::warn!(record = epoch.0, kept_as = %aside, "a record under a name that was cleaned up is set aside");
        self.location.put(&aside, bytes).await.map_err(|e| self.context(e))?;
        self.delete(&path).await
    }

    /// The record as it is stored; what is unreadable about it is for `checkpoint::decide` to judge.
    pub async fn read(&self, epoch: Epoch) -> Result<Option<Result<Record, Unreadable>>> {
        let bytes = self.location.get(&record_path(epoch)).await.map_err(|e| self.context(e))?;
        Ok(bytes.map(|bytes| Record::decode(&bytes, epoch, None)))
    }

    /// DECIDE: create-if-absent, the only linearisation point. An error means "unknown": read the record back.
    pub async fn create(&self, record: &Record) -> Result<PutOutcome> {
        let created = self.location.put_create(&record_path(record.epoch), record.encode().into()).await;
        created.map_err(|e| self.context(e))
    }

    /// PREPARE: one state segment as an Arrow IPC file; durable when this returns.
    pub async fn put_segment(
        &self,
        slot: u32,
        epoch: Epoch,
        base: bool,
        path: String,
        rows: &RecordBatch,
    ) -> Result<SegmentRef> {
        let bytes = encode(rows)?;
        let segment = SegmentRef {
            slot,
            epoch,
            base,
            path,
            rows: rows.num_rows() as u64,
            bytes: bytes.len() as u64,
            crc32: crc32fast::hash(&bytes),
        };
        self.location.put(&segment.path, bytes.into()).await.map_err(|e| self.context(e))?;
        Ok(segment)
    }

    /// The rows of a segment; their columns share the memory of the whole file.
    pub async fn get_segment(&self, segment: &SegmentRef, offload: Offload) -> Result<Vec<RecordBatch>> {
        let found = self.location.get(&segment.path).await.map_err(|e| self.context(e))?;
        let bytes = found.ok_or_else(|| self.damaged(segment, MISSING))?;
        let named = segment.clone();
        let decoded =
            offload.run(move || if is_the_one(&named, &bytes) { decode(bytes.into()).map(Some) } else { Ok(None) });
        decoded.await?.ok_or_else(|| self.damaged(segment, ANOTHER))
    }

    /// Whether a start would find these segments; what is in them it reads later.
    pub async fn check_segments(&self, segments: &[SegmentRef]) -> Result<()> {
        for some in segments.chunks(LOOKS_IN_FLIGHT_MAX) {
            let mut looks = Vec::new();
            for segment in some {
                looks.push(self.location.size(&segment.path));
            }
            let sizes = try_join_all(looks).await.map_err(|e| self.context(e))?;
            for (segment, size) in some.iter().zip(sizes) {
                match size {
                    Some(bytes) if bytes == segment.bytes => {}
                    Some(_) => return Err(self.damaged(segment, ANOTHER)),
                    None => return Err(self.damaged(segment, MISSING)),
                }
            }
        }
        Ok(())
    }

    fn damaged(&self, segment: &SegmentRef, what: &str) -> Error {
        Error::refused(
            format!("checkpoint location {}: state segment \"{}\" {what}", self.location.display, segment.path),
            "Restore the object from a backup; or move the view's SQL to a new name, so that it starts empty and is complete from then on.",
        )
    }

    /// What would keep a start from restoring this segment.
    pub async fn segment_flaw(&self, segment: &SegmentRef) -> Result<Option<&'static str>> {
        let found = self.location.get(&segment.path).await.map_err(|e| self.context(e))?;
        Ok(match found {
            None => Some(MISSING),
            Some(bytes) if !is_the_one(segment, &bytes) => Some(ANOTHER),
            Some(_) => None,
        })
    }
}

fn is_the_one(segment: &SegmentRef, bytes: &[u8]) -> bool {
    bytes.len() as u64 == segment.bytes && crc32fast::hash(bytes) == segment.crc32
}

fn encode(rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = FileWriter::try_new(Vec::new(), rows.schema_ref())?;
    writer.write(rows)?;
    writer.finish()?;
    Ok(writer.into_inner()?)
}

/// Columns point into the file, nothing is copied.
fn decode(file: Buffer) -> Result<Vec<RecordBatch>> {
    let broken = |what: &str| Error::Failed(format!("a state segment {what}, though its checksum is right"));
    let trailer = file.len().checked_sub(TRAILER_BYTES).ok_or_else(|| broken("ends too early"))?;
    let trailer_bytes = file[trailer..].try_into().expect("so many bytes are left");
    let footer = trailer.checked_sub(read_footer_length(trailer_bytes)?).ok_or_else(|| broken("ends too early"))?;
    let footer = root_as_footer(&file[footer..trailer]).map_err(|e| broken(&format!("has a broken footer: {e}")))?;
    let schema = fb_to_schema(footer.schema().ok_or_else(|| broken("has no schema"))?);
    let mut decoder = FileDecoder::new(schema.into(), footer.version());
    let blocks = footer.recordBatches().ok_or_else(|| broken("lists no batches"))?;
    let mut batches = Vec::with_capacity(blocks.len());
    let within = |block: &Block| {
        file.slice_with_length(block.offset() as usize, block.metaDataLength() as usize + block.bodyLength() as usize)
    };
    for block in footer.dictionaries().iter().flatten() {
        decoder.read_dictionary(block, &within(block))?;
    }
    for block in blocks {
        batches.extend(decoder.read_record_batch(block, &within(block))?);
    }
    Ok(batches)
}

#[cfg(test)]
mod tests;
