//! The archive, and what is said of it.

use std::{fmt::Write as _, fs::File, path::Path};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use super::redact::redact;

/// Files on their way into a `.tar.gz`.
pub(super) struct Bundle {
    archive: tar::Builder<GzEncoder<File>>,
    folder: String,
    /// Seconds since 1970, of all files.
    time: u64,
    /// What could not be had.
    missing: String,
    files: usize,
}

impl Bundle {
    /// Begins an archive, whose files are in one folder.
    ///
    /// # Errors
    /// When the file cannot be made; one that is there is not overwritten.
    pub(super) fn create(path: &Path, folder: &str, time: u64) -> anyhow::Result<Self> {
        let file = File::create_new(path).with_context(|| format!("create {}", path.display()))?;
        let archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self { archive, folder: folder.to_owned(), time, missing: String::new(), files: 0 })
    }

    /// Adds a text, or takes note of why there is none.
    pub(super) fn add(&mut self, name: &str, text: anyhow::Result<String>) -> anyhow::Result<()> {
        match text {
            Ok(text) => self.write(name, &text),
            Err(error) => {
                writeln!(self.missing, "{name}: {error:#}")?;
                Ok(())
            }
        }
    }

    /// Adds objects without their secrets, or takes note of why there are none.
    pub(super) fn add_objects(&mut self, name: &str, objects: anyhow::Result<Value>) -> anyhow::Result<()> {
        let text = objects.map(|mut objects| {
            redact(&mut objects);
            format!("{objects:#}\n")
        });
        self.add(name, text)
    }

    fn write(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let path = format!("{}/{name}", self.folder);
        self.archive
            .append_data(&mut header, &path, text.as_bytes())
            .with_context(|| format!("write {path} into the bundle"))?;
        self.files += 1;
        Ok(())
    }

    /// Ends the archive.
    ///
    /// Returns the number of files in it, and what could not be had, a line each.
    pub(super) fn finish(mut self) -> anyhow::Result<(usize, String)> {
        if !self.missing.is_empty() {
            let missing = self.missing.clone();
            self.write("missing.txt", &missing)?;
        }
        let encoder = self.archive.into_inner().context("end the bundle")?;
        encoder.finish().and_then(|file| file.sync_all()).context("end the bundle")?;
        Ok((self.files, self.missing))
    }
}
