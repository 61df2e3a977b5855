//! The archive, and what is said of it.

use std::{fmt::Write as _, io::Write};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use super::redact::redact;

/// Files on their way into a `.tar.gz`.
pub(super) struct Bundle<'w> {
    archive: tar::Builder<GzEncoder<Box<dyn Write + 'w>>>,
    folder: String,
    /// Seconds since 1970, of all files.
    time: u64,
    /// What could not be had.
    missing: String,
    files: usize,
}

impl<'w> Bundle<'w> {
    /// Begins an archive, whose files are in one folder.
    pub(super) fn new(to: impl Write + 'w, folder: &str, time: u64) -> Self {
        let archive =
            tar::Builder::new(GzEncoder::new(Box::new(to) as Box<dyn Write + 'w>, Compression::default()));
        Self { archive, folder: folder.to_owned(), time, missing: String::new(), files: 0 }
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
        encoder.finish().and_then(|mut to| to.flush()).context("end the bundle")?;
        Ok((self.files, self.missing))
    }
}
