//! How long boots take, and how large images are.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use quarry_record::Record;

use super::sources::Startup;
use super::targets::Source;
use crate::cli::BootCommand;
use crate::guest::Guest;
use crate::images::{Image, target_folder, workspace};
use crate::session::Session;
use crate::watch::Observer;

/// Boots of each machine.
const BOOTS: usize = 5;

/// What removes symbols, of binutils or of LLVM.
const STRIPPERS: [&str; 2] = ["strip", "llvm-strip"];

/// Package of the images that are weighed.
const EXAMPLES: &str = "quarry-examples";

/// Measures the boots and the images of a source.
///
/// # Errors
///
/// When a machine does not boot, or an image cannot be built or stripped.
pub(super) fn measure(source: &Source) -> Result<Startup> {
    let mut startup = Startup::default();
    for (name, options) in &source.boots {
        let wrong = || format!("the machine `{name}` of the source `{}` is wrong: {options}", source.name);
        let words = shlex::split(options).with_context(wrong)?;
        let mut boot = Options::try_parse_from(["boot".to_owned()].into_iter().chain(words)).with_context(wrong)?.boot;
        boot.machine = boot.machine.in_folder(workspace());
        let times = (0..BOOTS).map(|_| time(&boot)).collect::<Result<_>>()?;
        startup.boots.insert(name.clone(), times);
    }
    for name in &source.images {
        startup.images.insert(name.clone(), stripped_bytes(name)?);
    }
    Ok(startup)
}

/// A machine, as the command line of `boot` says it.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    boot: BootCommand,
}

/// Waits for the first record, which `main` writes.
#[derive(Default)]
struct FirstRecord(Option<Instant>);

impl Observer for FirstRecord {
    fn record(&mut self, _record: &Record, _session: &Session) {
        self.0.get_or_insert_with(Instant::now);
    }
}

/// Milliseconds from QEMU's start to `main`.
fn time(boot: &BootCommand) -> Result<f64> {
    let guest = Guest::prepare(Image::Bench, "boot", &boot.machine, &boot.host, ["mode=boot".to_owned()])?;
    let mut first = FirstRecord::default();
    let start = Instant::now();
    guest.watch(Duration::ZERO, &mut first).verdict.map_err(|failure| guest.explain(failure))?;
    let first = first.0.context("the guest ended well and wrote no record")?;
    Ok((first - start).as_secs_f64() * 1000.0)
}

/// Builds an example, and weighs it without its symbols.
fn stripped_bytes(example: &str) -> Result<u64> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = ["build", "--quiet", "--locked", "--release", "-p", EXAMPLES];
    let built = Command::new(cargo).args(words).current_dir(workspace()).status();
    if !built.context("cannot run cargo to build the examples")?.success() {
        bail!("{EXAMPLES} cannot be built; what cargo says about it stands above");
    }
    let built = target_folder().join("release").join(example);
    let stripped = built.with_extension("stripped");
    strip(&built, &stripped)?;
    let bytes = fs::metadata(&stripped).with_context(|| format!("cannot weigh {}", stripped.display()))?.len();
    fs::remove_file(&stripped).with_context(|| format!("cannot remove {}", stripped.display()))?;
    Ok(bytes)
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    for program in STRIPPERS {
        match Command::new(program).arg("-o").arg(to).arg(from).status() {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => bail!("{program} cannot strip {} ({status})", from.display()),
            // The next one may be there.
            Err(_) => {}
        }
    }
    bail!(
        "there is no {}; install binutils (Debian, Ubuntu: sudo apt-get install binutils) or llvm",
        STRIPPERS.join(" or ")
    )
}
