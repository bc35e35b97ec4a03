//! What the journal asks of the disk while it runs, as a seam for disks that fail on command.

use std::fs::File;
use std::io::{Result, Write};
use std::path::Path;

/// Three calls; everything else happens before the first message is taken.
pub trait Disk: Send + Sync {
    /// A new file, open for appending. It must not exist yet.
    fn create(&self, path: &Path) -> Result<File>;
    /// All of `bytes` at the end of the file. After an error any part of them may be there.
    fn append(&self, file: &mut File, bytes: &[u8]) -> Result<()>;
    /// What was appended survives a power loss when this returns. An error is final: the kernel may have dropped the
    /// pages, and a second call would succeed over the loss.
    fn sync(&self, file: &File) -> Result<()>;
}

pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> Result<File> {
        File::options().append(true).create_new(true).open(path)
    }

    fn append(&self, file: &mut File, bytes: &[u8]) -> Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> Result<()> {
        file.sync_data()
    }
}

/// Names in `dir` survive a power loss when this returns.
pub fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir)?.sync_all()
}
