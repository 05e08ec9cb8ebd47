//! What is booted: the loader and an image, built by cargo from this workspace or given as files.

use std::env;
use std::io::{BufRead, BufReader, IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::interrupted;

/// Package of the loader.
const LOADER: &str = "quarry-loader";

/// Package of the init program of `quarry linux`.
const LINUX_INIT: &str = "quarry-linux-init";

/// What rustc is told for it: there is no other file in its world.
const STATIC: [&str; 2] = ["-C", "target-feature=+crt-static"];

/// An image of this workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// The benchmark suite.
    Bench,
    /// The tests that need a real boot.
    GuestTests,
    /// The benchmark suite, built to write down what its memory service is asked for.
    TracedBench,
    /// The tests, likewise.
    TracedGuestTests,
}

impl Image {
    const fn package(self) -> &'static str {
        match self {
            Self::Bench | Self::TracedBench => "quarry-bench-guest",
            Self::GuestTests | Self::TracedGuestTests => "quarry-guest-tests",
        }
    }

    const fn is_traced(self) -> bool {
        matches!(self, Self::TracedBench | Self::TracedGuestTests)
    }

    /// Where cargo puts it. What is traced has a folder of its own, or it would stand where the other is looked for.
    fn target_folder(self) -> PathBuf {
        if self.is_traced() { target_folder().join("traced") } else { target_folder() }
    }

    /// Builds it and returns where it is.
    fn build(self) -> Result<PathBuf> {
        if self.is_traced() {
            let folder = self.target_folder().display().to_string();
            build(self.package(), &["--features", "trace", "--target-dir", &folder], &[])
        } else {
            build(self.package(), &[], &[])
        }
    }
}

/// Where the loader and the image come from.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "What to boot")]
pub(crate) struct ImageOptions {
    /// Boot what was built last; build nothing.
    #[arg(long)]
    no_build: bool,
    /// Boot this loader instead of building one.
    #[arg(long, value_name = "FILE", requires = "image")]
    loader: Option<PathBuf>,
    /// Boot this image instead of building one.
    #[arg(long, value_name = "FILE", requires = "loader")]
    image: Option<PathBuf>,
}

/// Files to boot.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) loader: PathBuf,
    pub(crate) image: PathBuf,
}

impl ImageOptions {
    /// The files to boot, built if need be.
    ///
    /// # Errors
    ///
    /// When they are not there or cannot be built.
    pub(crate) fn provide(&self, image: Image) -> Result<Files> {
        let files = match (&self.loader, &self.image) {
            (Some(loader), Some(image)) => Files { loader: loader.clone(), image: image.clone() },
            _ if self.no_build => {
                let built = |folder: PathBuf, package| folder.join("release").join(package);
                Files { loader: built(target_folder(), LOADER), image: built(image.target_folder(), image.package()) }
            }
            // Apart, so that neither gets features the other asks of what they share.
            _ => Files { loader: build(LOADER, &[], &[])?, image: image.build()? },
        };
        for (what, file) in [("loader", &files.loader), ("image", &files.image)] {
            if !file.is_file() {
                bail!("there is no {what} {}", file.display());
            }
        }
        Ok(files)
    }

    /// The init program of `quarry linux`, built if need be.
    ///
    /// # Errors
    ///
    /// When it is not there or cannot be built.
    pub(crate) fn provide_linux_init(&self) -> Result<PathBuf> {
        let init = if self.no_build {
            target_folder().join("release").join(LINUX_INIT)
        } else {
            build(LINUX_INIT, &[], &STATIC)?
        };
        if !init.is_file() {
            bail!("there is no init program {}", init.display());
        }
        Ok(init)
    }

    /// What the fingerprint of a run says it is of: the source's revision where this builds what is booted. Whatever else
    /// is booted may have been built from any other.
    pub(crate) fn revision(&self) -> String {
        if self.no_build || self.names_files() { UNKNOWN.into() } else { revision() }
    }

    /// Whether things may be built.
    pub(crate) const fn may_build(&self) -> bool {
        !self.no_build
    }

    /// Whether files were named to boot.
    pub(crate) const fn names_files(&self) -> bool {
        self.loader.is_some() || self.image.is_some()
    }
}

/// The workspace this command was built from.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the workspace")
}

/// A revision nobody knows.
const UNKNOWN: &str = "unknown";

/// The source's revision.
pub(crate) fn revision() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .current_dir(workspace())
        .stderr(Stdio::null())
        .output();
    let revision = git.ok().filter(|git| git.status.success()).and_then(|git| String::from_utf8(git.stdout).ok());
    revision.map_or_else(|| UNKNOWN.into(), |revision| revision.trim().to_owned())
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// A message of cargo's, as far as it matters here.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact {
        target: Target,
        executable: Option<PathBuf>,
    },
    #[serde(other)]
    Other,
}

/// What cargo built an artifact from.
#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds a package's executable by cargo, with words for cargo and for rustc, and returns where it is.
fn build(package: &str, words: &[&str], rustc: &[&str]) -> Result<PathBuf> {
    let manifest = workspace().join("Cargo.toml");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // On a terminal cargo shows how far it is by itself.
    let quiet = (!stderr().is_terminal()).then(|| {
        eprintln!("building {package}");
        "--quiet"
    });
    let mut child = Command::new(&cargo)
        .args([
            if rustc.is_empty() { "build" } else { "rustc" },
            "--release",
            "--message-format=json-render-diagnostics",
            "-p",
            package,
        ])
        .args(quiet)
        .arg("--manifest-path")
        .arg(&manifest)
        .args(words)
        .args((!rustc.is_empty()).then_some("--"))
        .args(rustc)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {} to build {package}", cargo.display()))?;
    let mut executable = None;
    let messages = BufReader::new(child.stdout.take().expect("it was asked to be piped"));
    for message in messages.lines() {
        let message = message.context("cannot read what cargo says")?;
        if let Ok(Message::CompilerArtifact { target, executable: Some(file) }) = serde_json::from_str(&message)
            && target.name == package
        {
            executable = Some(file);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if interrupted() {
        bail!("interrupted");
    }
    if !status.success() {
        bail!("{package} cannot be built; what cargo says about it stands above");
    }
    executable.with_context(|| format!("cargo built {package} but no executable in it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_found() {
        assert!(workspace().join("Cargo.toml").is_file());
        assert!(workspace().join("loader").is_dir());
    }

    #[test]
    fn the_revision_is_that_of_what_is_built_and_of_nothing_else() {
        let built = ImageOptions::default();
        assert_eq!(built.revision(), revision());
        let named = ImageOptions { loader: Some("loader".into()), image: Some("image".into()), ..built.clone() };
        assert_eq!(named.revision(), UNKNOWN);
        assert_eq!(ImageOptions { no_build: true, ..built }.revision(), UNKNOWN);
    }

    #[test]
    fn cargos_messages_are_read_as_far_as_they_matter() {
        let artifact = r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":"/t/x"}"#;
        let Ok(Message::CompilerArtifact { target, executable }) = serde_json::from_str(artifact) else {
            panic!("it is an artifact")
        };
        assert_eq!((target.name.as_str(), executable.as_deref()), ("x", Some(Path::new("/t/x"))));
        assert!(matches!(serde_json::from_str(r#"{"reason":"build-finished","success":true}"#), Ok(Message::Other)));
    }
}
