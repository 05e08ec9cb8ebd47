//! Debian's kernel packages, fetched by apt into a folder and unpacked there: nothing is installed.
//!
//! Of a flavour (`cloud-amd64`, `amd64`; Ubuntu's `virtual` or `generic`) apt knows which packages have the kernel and
//! its headers today. What was unpacked once is used until its folder is removed, so that figures of different days are
//! of the same kernel and no network is needed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Missing;

/// A kernel and what modules for it are built with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// A file that QEMU boots.
    pub(crate) image: PathBuf,
    /// The folder of its headers, with their Makefile.
    pub(crate) headers: PathBuf,
}

/// The kernel of a flavour: in `cache`, or fetched to there.
///
/// # Errors
///
/// [`Missing`] when apt is not here, knows no such packages or cannot fetch them; others when files cannot be written.
pub(crate) fn provide(flavour: &str, cache: &Path) -> Result<Kernel> {
    let folder = cache.join(flavour);
    if !folder.is_dir() {
        let packages = resolve(flavour, &dependencies)?;
        let part = cache.join(format!("{flavour}.part"));
        fetch(&packages, &part)?;
        fs::rename(&part, &folder).with_context(|| format!("cannot rename {}", part.display()))?;
    }
    find(&folder).with_context(|| format!("{} is not whole; remove it", folder.display()))
}

/// The packages with the kernel and the headers of a flavour. `dependencies` knows what a package depends on.
fn resolve(flavour: &str, dependencies: &dyn Fn(&str) -> Result<Vec<String>>) -> Result<Vec<String>> {
    let first = |what: &str| -> Result<String> {
        let meta = format!("linux-{what}-{flavour}");
        let start = format!("linux-{what}-");
        let found = dependencies(&meta)?.into_iter().find(|package| package.starts_with(&start));
        // A package that names a version depends on no other of its kind.
        Ok(found.unwrap_or(meta))
    };
    let mut packages = vec![first("image")?, first("headers")?];
    let mut at = 1;
    while at < packages.len() {
        for package in dependencies(&packages[at])? {
            let is_wanted = ["linux-headers-", "linux-kbuild-"].iter().any(|start| package.starts_with(start));
            if is_wanted && !packages.contains(&package) {
                packages.push(package);
            }
        }
        at += 1;
    }
    Ok(packages)
}

/// What a package depends on, by apt.
fn dependencies(package: &str) -> Result<Vec<String>> {
    let output = run(Command::new("apt-cache").args(["depends", package]))?;
    if !output.status.success() {
        return Err(Missing::Package(package.to_owned()).into());
    }
    Ok(parse_dependencies(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_dependencies(text: &str) -> Vec<String> {
    let package = |line: &str| line.trim().trim_start_matches('|').strip_prefix("Depends: ").map(str::to_owned);
    text.lines().filter_map(package).filter(|package| !package.starts_with('<')).collect()
}

fn fetch(packages: &[String], folder: &Path) -> Result<()> {
    let cannot = || format!("cannot make {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let downloads = folder.join("packages");
    fs::create_dir_all(&downloads).with_context(cannot)?;
    eprintln!("fetching {}", packages.join(", "));
    // apt's own user could not write into the folder; nobody but root has that user.
    let fetched = run(Command::new("apt-get")
        .args(["-o", "APT::Sandbox::User=root", "-q", "download"])
        .args(packages)
        .current_dir(&downloads))?;
    if !fetched.status.success() {
        return Err(Missing::Download(last_line(&fetched.stderr)).into());
    }
    for package in fs::read_dir(&downloads).with_context(cannot)? {
        let package = package.with_context(cannot)?.path();
        let unpacked = run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(folder))?;
        if !unpacked.status.success() {
            bail!("cannot unpack {}: {}", package.display(), last_line(&unpacked.stderr));
        }
    }
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
}

/// Runs a program of Debian's to its end.
fn run(command: &mut Command) -> Result<std::process::Output> {
    match command.stdin(Stdio::null()).output() {
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {
            Err(Missing::Apt(command.get_program().to_string_lossy().into_owned()).into())
        }
        output => output.with_context(|| format!("cannot run {}", command.get_program().display())),
    }
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why").trim().to_owned()
}

/// The kernel in a folder of unpacked packages.
fn find(folder: &Path) -> Result<Kernel> {
    let named = |folder: PathBuf, wanted: &dyn Fn(&str) -> bool| -> Result<PathBuf> {
        let entries = fs::read_dir(&folder).with_context(|| format!("there is no {}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        let found = paths.into_iter().find(|path| path.file_name().and_then(OsStr::to_str).is_some_and(wanted));
        found.with_context(|| format!("{} lacks it", folder.display()))
    };
    let image = named(folder.join("boot"), &|name| name.starts_with("vmlinuz-"))?;
    let release = release(&image).context("the kernel has no release in its name")?.to_owned();
    let headers = named(folder.join("usr/src"), &|name| name.strip_prefix("linux-headers-") == Some(&release))?;
    Ok(Kernel { image, headers })
}

/// The release in the name of a kernel's file: `vmlinuz-RELEASE`.
pub(crate) fn release(image: &Path) -> Option<&str> {
    let name = image.file_name()?.to_str()?;
    name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("bzImage-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const META_IMAGE: &str = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
    const HEADERS: &str = "linux-headers-6.1.0-56-cloud-amd64\n  Depends: linux-headers-6.1.0-56-common\n |Depends: \
                           linux-kbuild-6.1\n  Depends: <linux-virtual>\n  Depends: linux-compiler-gcc-12-x86\n";

    fn bookworm(package: &str) -> Result<Vec<String>> {
        let text = match package {
            "linux-image-cloud-amd64" => META_IMAGE,
            "linux-headers-cloud-amd64" => "  Depends: linux-headers-6.1.0-56-cloud-amd64\n",
            "linux-headers-6.1.0-56-cloud-amd64" => HEADERS,
            "linux-image-6.1.0-50-cloud-amd64" => "  Depends: kmod\n  Depends: initramfs-tools\n",
            "linux-headers-6.1.0-50-cloud-amd64" => "  Depends: linux-headers-6.1.0-50-common\n",
            "linux-headers-6.1.0-56-common" | "linux-headers-6.1.0-50-common" | "linux-kbuild-6.1" => "",
            other => return Err(Missing::Package(other.to_owned()).into()),
        };
        Ok(parse_dependencies(text))
    }

    #[test]
    fn a_flavour_is_its_kernel_and_all_its_headers_need() {
        let expected = [
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-headers-6.1.0-56-cloud-amd64",
            "linux-headers-6.1.0-56-common",
            "linux-kbuild-6.1",
        ];
        assert_eq!(resolve("cloud-amd64", &bookworm).expect("apt knows all"), expected);
    }

    #[test]
    fn a_flavour_may_name_a_version() {
        // Those of one version depend on no image but on headers: the image is itself what is wanted.
        let packages = resolve("6.1.0-50-cloud-amd64", &bookworm).expect("apt knows all");
        assert_eq!(packages[0], "linux-image-6.1.0-50-cloud-amd64");
        assert!(packages.contains(&"linux-headers-6.1.0-50-common".to_owned()), "{packages:?}");
    }

    #[test]
    fn a_flavour_nobody_knows_is_missing() {
        let error = resolve("riscv", &bookworm).expect_err("there is none");
        assert!(error.is::<Missing>());
        assert_eq!(
            error.to_string(),
            "apt knows no package linux-image-riscv; run `sudo apt-get update`, or name a kernel by --kernel and --headers"
        );
    }

    #[test]
    fn a_kernel_is_found_beside_the_headers_of_its_release() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let at = |path: &str| folder.path().join(path);
        for sub in ["boot", "usr/src/linux-headers-6.1.0-56-common", "usr/src/linux-headers-6.1.0-56-cloud-amd64"] {
            fs::create_dir_all(at(sub)).expect("there is room for files");
        }
        assert!(find(folder.path()).is_err());
        fs::write(at("boot/System.map-6.1.0-56-cloud-amd64"), "").expect("there is room for files");
        fs::write(at("boot/vmlinuz-6.1.0-56-cloud-amd64"), "").expect("there is room for files");
        let kernel = find(folder.path()).expect("all is there");
        assert_eq!(kernel.image, at("boot/vmlinuz-6.1.0-56-cloud-amd64"));
        assert_eq!(kernel.headers, at("usr/src/linux-headers-6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn releases_are_read_from_names_of_files() {
        assert_eq!(release(Path::new("/boot/vmlinuz-6.12.1")), Some("6.12.1"));
        assert_eq!(release(Path::new("arch/x86/boot/bzImage")), None);
    }
}
