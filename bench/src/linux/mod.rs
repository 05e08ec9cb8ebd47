//! `quarry linux`: a Linux kernel in the same VM as Quarry's guests, its allocators under the same loops, the same
//! records.
//!
//! ```text
//! packages   Debian's kernels, fetched by apt
//! module     our kernel module (bench/linux/module), built for that kernel
//! cpio       the archive the kernel unpacks, with the module and the init program (bench/linux/init)
//! ```
//!
//! What is needed and not here makes the command end with [`SKIPPED`] and a sentence ([`Missing`]): scripts can tell
//! that from figures that could not be had.

mod cpio;
mod module;
mod packages;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cli::{HostOptions, MachineOptions, SuiteOptions};
use crate::guest::{Guest, check_words, results};
use crate::images::target_folder;
use crate::pin;
use crate::process::{check_qemu, default_log};
use crate::qemu::Boot;
use crate::watch::Files;
use cpio::Archive;
use packages::Kernel;

/// Exit status when something needed is not here: what test drivers take for "skipped".
pub(crate) const SKIPPED: u8 = 77;

/// Kernels and modules are kept here, in the folder of what is built.
const CACHE: &str = "linux";

/// The kernel's own command line; docs/linux.md has the reasons.
const KERNEL_WORDS: [&str; 10] = [
    "console=ttyS0",
    "panic=-1",
    "oops=panic",
    "no_timer_check",
    "nowatchdog",
    "init_on_alloc=0",
    "mitigations=off",
    "preempt=voluntary",
    "cgroup_disable=memory",
    "numa_balancing=disable",
];

/// Numbers of the device /dev/console.
const CONSOLE: (u32, u32) = (5, 1);

// Shared with Quarry's own commands, and refused here.
#[derive(Debug, clap::Args)]
#[command(mut_args(|argument| {
    let is_quarrys = ["loader", "image", "allocator"].contains(&argument.get_id().as_str());
    argument.hide(is_quarrys)
}))]
pub(crate) struct LinuxCommand {
    /// Boot this kernel (vmlinuz or bzImage) instead of one of Debian's.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its headers, or the tree it was built in [default: /lib/modules/RELEASE/build of vmlinuz-RELEASE].
    #[arg(long, value_name = "FOLDER", requires = "kernel")]
    headers: Option<PathBuf>,
    /// Which of Debian's kernels, as in linux-image-FLAVOUR. apt fetches it once, and installs nothing.
    #[arg(long, value_name = "FLAVOUR", default_value = "cloud-amd64", conflicts_with = "kernel")]
    flavour: String,
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    suite: SuiteOptions,
    /// Also write the records to a file, as JSON Lines.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show every figure, one row of results a line.
    #[arg(long)]
    pub(crate) details: bool,
    #[command(flatten)]
    pub(crate) host: HostOptions,
}

/// Something needed is not here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// A program of Debian's.
    #[error("there is no {0} to fetch a kernel with; name one by --kernel and --headers")]
    Apt(String),
    /// A package.
    #[error("apt knows no package {0}; run `sudo apt-get update`, or name a kernel by --kernel and --headers")]
    Package(String),
    /// A way to the packages.
    #[error("apt cannot fetch the kernel ({0}); run `sudo apt-get update`, or name a kernel by --kernel and --headers")]
    Download(String),
    /// A program that builds modules.
    #[error(
        "there is no {0} to build the kernel module with; install it (Debian, Ubuntu: sudo apt-get install build-essential)"
    )]
    Tool(String),
}

impl LinuxCommand {
    /// Makes ready: kernel, module, init program and the archive of both.
    ///
    /// # Errors
    ///
    /// [`Missing`] and others.
    pub(crate) fn prepare(&self) -> Result<Guest<'_>> {
        if self.host.images.names_files() {
            bail!("--loader and --image are Quarry's; name a kernel by --kernel and --headers");
        }
        if self.suite.names_allocators() {
            bail!("--allocator chooses among Quarry's; Linux is measured with the one it was built with");
        }
        let machine = self.machine.machine()?;
        let accelerator = self.machine.accelerator(&machine)?;
        let guest_words = self.words(accelerator.name());
        check_words(&guest_words)?;
        check_qemu(&self.host.qemu)?;
        if self.host.pin {
            pin::check(machine.cpus() as usize)?;
        }
        let cache = target_folder().join(CACHE);
        let kernel = self.kernel(&cache)?;
        let initramfs = self.initramfs(&kernel, &cache)?;
        let boot = Boot {
            qemu: self.host.qemu.clone(),
            machine,
            accelerator,
            loader: kernel.image,
            image: initramfs,
            guest_words,
            pin: self.host.pin,
            more: self.host.qemu_arg.clone(),
        };
        let log = self.host.log.clone().unwrap_or_else(|| default_log(&results(), "linux"));
        let output = self.output.clone();
        Ok(Guest { boot, files: Files { log, output, append: false }, host: &self.host })
    }

    /// The kernel's own words, then those for the init program: what stands behind `--` the kernel passes on.
    fn words(&self, accelerator: &str) -> Vec<String> {
        let of_kernel = KERNEL_WORDS.map(str::to_owned).into_iter().chain(self.host.append.iter().cloned());
        let counted = self.machine.icount.then(|| "icount=1".to_owned());
        let of_host = [format!("accel={accelerator}"), format!("git={}", self.host.images.revision())];
        of_kernel.chain(["--".to_owned()]).chain(self.suite.guest_words()).chain(counted).chain(of_host).collect()
    }

    fn kernel(&self, cache: &Path) -> Result<Kernel> {
        let Some(image) = &self.kernel else { return packages::provide(&self.flavour, cache) };
        if !image.is_file() {
            bail!("there is no kernel {}", image.display());
        }
        let installed = packages::release(image).map(|release| Path::new("/lib/modules").join(release).join("build"));
        let headers = self.headers.clone().or_else(|| installed.filter(|folder| folder.is_dir()));
        let headers = headers
            .with_context(|| format!("the headers of {} are not installed; name them by --headers", image.display()))?;
        if !headers.is_dir() {
            bail!("there is no folder of headers {}", headers.display());
        }
        Ok(Kernel { image: image.clone(), headers })
    }

    /// The archive the kernel unpacks, made anew: it is small.
    fn initramfs(&self, kernel: &Kernel, cache: &Path) -> Result<PathBuf> {
        let images = &self.host.images;
        let name = kernel.image.file_name().context("the kernel is no file")?.to_string_lossy();
        let module = module::provide(&kernel.headers, &cache.join(format!("module-{name}")), images.may_build())?;
        let init = images.provide_linux_init()?;
        let read = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        let mut archive = Archive::default();
        for folder in ["dev", "proc", "sys"] {
            archive.folder(folder);
        }
        archive.device("dev/console", CONSOLE.0, CONSOLE.1);
        archive.file("init", &read(&init)?);
        archive.file("quarry_linux.ko", &read(&module)?);
        let file = cache.join(format!("initramfs-{name}.cpio"));
        fs::write(&file, archive.finish()).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        linux: LinuxCommand,
    }

    fn linux(words: &str) -> LinuxCommand {
        let words = ["linux"].into_iter().chain(words.split_whitespace());
        Line::try_parse_from(words).expect("the line is right").linux
    }

    fn refusal(words: &str) -> String {
        linux(words).prepare().err().expect("it cannot be").to_string()
    }

    #[test]
    fn the_kernels_words_come_before_those_of_init() {
        let words = linux("--icount --workload pair --size 64 --append slab_nomerge").words("tcg").join(" ");
        let (of_kernel, of_init) = words.split_once(" -- ").expect("they are apart");
        assert!(of_kernel.starts_with("console=ttyS0 ") && of_kernel.ends_with(" slab_nomerge"), "{of_kernel}");
        assert!(of_init.starts_with("workloads=pair sizes=64 seed=1 icount=1 accel=tcg git="), "{of_init}");
    }

    #[test]
    fn what_is_quarrys_own_is_refused() {
        let error = refusal("--loader a --image b");
        assert_eq!(error, "--loader and --image are Quarry's; name a kernel by --kernel and --headers");
        let error = refusal("--allocator talc");
        assert_eq!(error, "--allocator chooses among Quarry's; Linux is measured with the one it was built with");
    }

    #[test]
    fn a_kernel_needs_its_headers() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let kernel = folder.path().join("bzImage");
        let command = linux(&format!("--kernel {}", kernel.display()));
        let error = |command: &LinuxCommand| command.kernel(folder.path()).expect_err("it cannot be").to_string();
        assert_eq!(error(&command), format!("there is no kernel {}", kernel.display()));
        fs::write(&kernel, "").expect("there is room for files");
        let expected = format!("the headers of {} are not installed; name them by --headers", kernel.display());
        assert_eq!(error(&command), expected);
        let command = linux(&format!("--kernel {} --headers {}", kernel.display(), folder.path().display()));
        let found = command.kernel(folder.path()).expect("both are there");
        assert_eq!(found, Kernel { image: kernel, headers: folder.path().to_owned() });
    }
}
