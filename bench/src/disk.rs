//! Disks for a guest: raw files, or sizes for empty ones that are gone afterwards.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use tempfile::NamedTempFile;

use crate::machine::Board;
use crate::qemu::Boot;
use crate::size::Size;

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// What disks to give a guest.
#[derive(Clone, Debug, Args)]
pub(crate) struct DiskOptions {
    /// A disk for the guest: a raw file, which the guest writes to, or a size for an empty disk that is gone afterwards
    /// (a file of such a name: `./64M`). May be repeated; the first is disk 0.
    #[arg(long, value_name = "FILE|SIZE", help_heading = "The machine")]
    disk: Vec<Source>,
}

/// Where a disk comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Empty(Size),
    File(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Size>() {
            Ok(size) if size.0 == 0 || !size.0.is_multiple_of(SECTOR) => {
                Err(format!("a disk has whole sectors of {SECTOR} bytes, at least one"))
            }
            Ok(size) => Ok(Self::Empty(size)),
            Err(_) => Ok(Self::File(text.into())),
        }
    }
}

impl DiskOptions {
    /// The same, with an empty disk of that size where none was asked for.
    pub(crate) fn or_empty(&self, size: Size) -> Self {
        let disk = if self.disk.is_empty() { vec![Source::Empty(size)] } else { self.disk.clone() };
        Self { disk }
    }

    /// Gives them to a guest about to boot. The files of empty disks are gone when the result is dropped.
    ///
    /// # Errors
    ///
    /// When the machine takes none, a file is not there, or an empty one cannot be made.
    pub(crate) fn attach(&self, boot: &mut Boot) -> Result<Vec<NamedTempFile>> {
        let mut files = Vec::new();
        if !self.disk.is_empty() && boot.machine.board == Board::Microvm {
            bail!("a microvm has no PCI, and so no disk; leave --disk out, or use --machine q35");
        }
        for source in &self.disk {
            match source {
                Source::File(file) if !file.is_file() => {
                    bail!(
                        "there is no disk {}; give a raw file, or a size such as 64M for an empty disk",
                        file.display()
                    )
                }
                Source::File(file) => boot.attach_disk(file),
                Source::Empty(size) => {
                    let file = empty(*size).context("cannot make a file for an empty disk")?;
                    boot.attach_disk(file.path());
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

/// A file without contents takes no room.
fn empty(size: Size) -> std::io::Result<NamedTempFile> {
    let file = tempfile::Builder::new().prefix("quarry-disk-").tempfile()?;
    file.as_file().set_len(size.0)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_file_unless_it_is_a_size() {
        assert_eq!("64M".parse(), Ok(Source::Empty(Size::mib(64))));
        assert_eq!("./64M".parse(), Ok(Source::File("./64M".into())));
        assert_eq!("it.img".parse(), Ok(Source::File("it.img".into())));
        for text in ["0", "100"] {
            let problem = text.parse::<Source>().expect_err("it has no whole sectors");
            assert_eq!(problem, "a disk has whole sectors of 512 bytes, at least one");
        }
    }

    #[test]
    fn an_empty_disk_is_as_large_as_asked_for_and_gone_afterwards() {
        let file = empty(Size::mib(1024)).expect("there is room for a file without contents");
        let path = file.path().to_owned();
        assert_eq!(path.metadata().expect("it is there").len(), 1 << 30);
        drop(file);
        assert!(!path.exists());
    }
}
