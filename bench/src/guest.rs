//! [`Guest`]: a boot about to happen, from the options of a command; it is watched to its end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::accelerator::Accelerator;
use crate::cli::{HostOptions, MachineOptions};
use crate::failure::Failure;
use crate::images::{Image, workspace};
use crate::pin;
use crate::process::{check_qemu, default_log};
use crate::qemu::Boot;
use crate::watch::{Ended, Files, Observer, watch};

/// Where results are kept when nobody says otherwise.
pub(crate) fn results() -> PathBuf {
    workspace().join("results")
}

/// What every guest is told: with what it runs, what was built (as far as known), and what the user appends, which wins.
pub(crate) fn words_of_host(accelerator: Accelerator, host: &HostOptions) -> impl Iterator<Item = String> {
    let words = [format!("accel={}", accelerator.name()), format!("git={}", host.images.revision())];
    words.into_iter().chain(host.append.iter().cloned())
}

/// # Errors
///
/// When the guest would not read them as they are.
pub(crate) fn check_words(guest_words: &[String]) -> Result<()> {
    if let Some(word) = guest_words.iter().find(|word| word.contains(char::is_whitespace)) {
        bail!("`{word}` has a space in it, which the guest's command line cannot have");
    }
    Ok(())
}

/// A boot about to happen.
pub(crate) struct Guest<'o> {
    pub(crate) boot: Boot,
    pub(crate) files: Files,
    pub(crate) host: &'o HostOptions,
}

impl<'o> Guest<'o> {
    /// Makes ready.
    pub(crate) fn prepare(
        image: Image,
        name: &str,
        machine: &MachineOptions,
        host: &'o HostOptions,
        words: impl IntoIterator<Item = String>,
    ) -> Result<Self> {
        let description = machine.machine()?;
        let accelerator = machine.accelerator(&description)?;
        check_qemu(&host.qemu)?;
        let files = host.images.provide(image)?;
        let mut guest_words: Vec<String> = words.into_iter().collect();
        guest_words.extend(machine.icount.then(|| "icount=1".to_owned()));
        // Where instructions are counted nothing depends on the host's patience.
        let measures = matches!(image, Image::Bench) && !machine.icount && guest_words.contains(&"mode=run".to_owned());
        guest_words.extend(measures.then(|| format!("alive={}", host.sign_of_life())));
        guest_words.extend(words_of_host(accelerator, host));
        check_words(&guest_words)?;
        if host.pin {
            pin::check(description.cpus() as usize)?;
        }
        let boot = Boot {
            qemu: host.qemu.clone(),
            machine: description,
            accelerator,
            loader: files.loader,
            image: files.image,
            guest_words,
            pin: host.pin,
            more: host.qemu_arg.clone(),
        };
        let log = host.log.clone().unwrap_or_else(|| default_log(&results(), name));
        Ok(Self { boot, files: Files { log, output: None, append: false }, host })
    }

    /// The same, and prints QEMU's command line on standard output.
    pub(crate) fn announce(
        image: Image,
        name: &str,
        machine: &MachineOptions,
        host: &'o HostOptions,
        words: impl IntoIterator<Item = String>,
    ) -> Result<Self> {
        let guest = Self::prepare(image, name, machine, host, words)?;
        println!("{}", guest.boot.line());
        Ok(guest)
    }

    /// Boots and stays until the end. Where that is a bad one, the last the guest said is shown.
    pub(crate) fn watch(&self, quiet: Duration, observer: &mut dyn Observer) -> Ended {
        let ended = watch(&self.boot, self.host.deadlines(quiet), &self.files, observer);
        if let Err(failure) = &ended.verdict
            && failure.wants_last_lines()
        {
            for line in ended.session.last_lines() {
                eprintln!("| {line}");
            }
        }
        ended
    }

    /// A failure with the place of the log.
    pub(crate) fn explain(&self, failure: Failure) -> anyhow::Error {
        match failure {
            Failure::Interrupted | Failure::NoQemu { .. } | Failure::Log { .. } | Failure::Output { .. } => {
                failure.into()
            }
            failure => anyhow!("{failure} (serial log: {})", self.files.log.display()),
        }
    }
}
