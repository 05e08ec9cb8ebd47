//! The kernel module, built with the headers of the kernel that is to run it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Missing;
use crate::images::workspace;

/// Where its source is.
const SOURCE: &str = "bench/linux/module";
const FILES: [&str; 8] =
    ["Kbuild", "main.c", "workloads.c", "bare.c", "empty.c", "stamped.c", "loops.h", "quarry_linux.h"];

/// What it is built to.
const MODULE: &str = "quarry_linux.ko";

/// For make: type information for tracers is nothing to us, and needs `pahole`.
const NO_BTF: &str = "CONFIG_DEBUG_INFO_BTF_MODULES=";

/// Last lines of make's output that are shown when it fails.
const LAST_LINES: usize = 12;

/// Builds the module in `folder`, or finds it there where nothing is to be built.
///
/// # Errors
///
/// [`Missing`] when make or a compiler is not here; others when it does not build.
pub(crate) fn provide(headers: &Path, folder: &Path, may_build: bool) -> Result<PathBuf> {
    let module = folder.join(MODULE);
    if may_build {
        copy_source(folder)?;
        make(headers, folder)?;
    }
    if !module.is_file() {
        bail!("there is no module {}", module.display());
    }
    Ok(module)
}

/// The source is built in a folder of its own, for make writes beside it. What has not changed keeps its time.
fn copy_source(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for file in FILES {
        let (from, to) = (workspace().join(SOURCE).join(file), folder.join(file));
        let text = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        if fs::read(&to).ok().as_ref() != Some(&text) {
            fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(())
}

fn make(headers: &Path, folder: &Path) -> Result<()> {
    let headers = fs::canonicalize(headers).with_context(|| format!("there are no headers {}", headers.display()))?;
    let makefile = makefile(&headers)?;
    let compiler = compiler(&headers, &is_there)?;
    let mut command = Command::new("make");
    command.arg("-C").arg(&headers).arg("-f").arg(makefile).arg(NO_BTF).args(compiler);
    command.arg(format!("M={}", fs::canonicalize(folder)?.display())).arg("modules").stdin(Stdio::null());
    let output = match command.output() {
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => return Err(Missing::Tool("make".into()).into()),
        output => output.context("cannot run make")?,
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            eprintln!("| {line}");
        }
        bail!("the module cannot be built with {}; what make says about it stands above", headers.display());
    }
    Ok(())
}

/// The Makefile of headers. Debian's includes one by the place where the package would install it; where that is not
/// so, it stands beside them.
fn makefile(headers: &Path) -> Result<PathBuf> {
    let own = headers.join("Makefile");
    let text = fs::read_to_string(&own);
    let text = text.with_context(|| format!("{} are no kernel headers: they have no Makefile", headers.display()))?;
    let included = text.lines().find_map(|line| line.strip_prefix("include /")).map(|path| Path::new("/").join(path));
    let Some(included) = included.filter(|path| !path.exists()) else { return Ok(own) };
    let names: Vec<_> = included.iter().rev().take(2).collect();
    let beside = headers.join("..").join(names[1]).join(names[0]);
    if !beside.is_file() {
        bail!("the Makefile of {} includes {}, which is not there", headers.display(), included.display());
    }
    Ok(beside)
}

/// Words for make, where the compiler that built the kernel is not here but another is.
fn compiler(headers: &Path, is_there: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
    let configuration = fs::read_to_string(headers.join("include/config/auto.conf")).unwrap_or_default();
    let built_by = configuration.lines().find_map(|line| line.strip_prefix("CONFIG_CC_VERSION_TEXT=\""));
    let built_by = built_by.unwrap_or("gcc");
    let (name, other, words) = if built_by.contains("clang") {
        ("clang", "clang", vec!["LLVM=1".to_owned()])
    } else {
        (built_by.split(' ').next().unwrap_or("gcc"), "gcc", Vec::new())
    };
    match (is_there(name), is_there(other)) {
        (true, _) => Ok(words),
        (false, true) => Ok(vec![format!("CC={other}")]),
        (false, false) => Err(Missing::Tool(name.to_owned()).into()),
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(configuration: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("there is room for files");
        fs::create_dir_all(folder.path().join("include/config")).expect("there is room for files");
        fs::write(folder.path().join("include/config/auto.conf"), configuration).expect("there is room for files");
        folder
    }

    fn words(built_by: &str, there: &[&str]) -> Result<Vec<String>> {
        let headers = headers(&format!("CONFIG_X=y\nCONFIG_CC_VERSION_TEXT=\"{built_by}\"\n"));
        compiler(headers.path(), &|program| there.contains(&program))
    }

    #[test]
    fn the_kernels_own_compiler_is_taken_and_else_the_usual_one() {
        let built_by = "gcc-12 (Debian 12.2.0-14) 12.2.0";
        assert_eq!(words(built_by, &["gcc-12", "gcc"]).expect("it is there"), [""; 0]);
        assert_eq!(words(built_by, &["gcc"]).expect("another is there"), ["CC=gcc"]);
        assert_eq!(words("Debian clang version 14.0.6", &["clang"]).expect("it is there"), ["LLVM=1"]);
    }

    #[test]
    fn without_a_compiler_there_is_one_missing() {
        let error = words("gcc-12 (Debian 12.2.0-14) 12.2.0", &["clang"]).expect_err("there is none");
        assert!(error.is::<Missing>());
        assert_eq!(
            error.to_string(),
            "there is no gcc-12 to build the kernel module with; install it (Debian, Ubuntu: sudo apt-get install build-essential)"
        );
    }

    #[test]
    fn a_makefile_that_is_not_installed_stands_beside_the_headers() {
        let folder = tempfile::tempdir().expect("there is room for files");
        let (flavour, common) = (folder.path().join("flavour"), folder.path().join("quarry-test-common"));
        fs::create_dir_all(&flavour).and_then(|()| fs::create_dir_all(&common)).expect("there is room for files");
        assert!(makefile(&flavour).is_err());
        let text = "include /usr/src/quarry-test-common/Makefile\n";
        fs::write(flavour.join("Makefile"), text).expect("there is room for files");
        assert!(makefile(&flavour).is_err());
        fs::write(common.join("Makefile"), "").expect("there is room for files");
        let found = makefile(&flavour).expect("it is there");
        assert_eq!(
            found.canonicalize().expect("it is there"),
            common.join("Makefile").canonicalize().expect("as is this")
        );
        fs::write(flavour.join("Makefile"), "all:\n").expect("there is room for files");
        assert_eq!(makefile(&flavour).expect("it is there"), flavour.join("Makefile"));
    }
}
