//! Which compiler made the code that is counted: another one makes other code of the same source.

use std::env;
use std::path::Path;
use std::process::Command;

/// The compiler cargo uses here, as `rustc --version` tells it without its name; `None` where it cannot be asked.
pub(crate) fn version() -> Option<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.trim();
    Some(version.strip_prefix("rustc ").unwrap_or(version).to_owned())
}

/// What to know and do where a budget file's counts are not of the compiler here. `None` where they are.
pub(super) fn difference(counted: Option<&str>, here: &str, file: &Path) -> Option<String> {
    let file = file.display();
    let Some(counted) = counted else {
        return Some(format!(
            "{file} does not say which rustc its counts are of; this is {here}: `quarry budget --update` notes it"
        ));
    };
    let release = counted.split_whitespace().next().unwrap_or(counted);
    (counted != here).then(|| {
        format!(
            "{file} has the counts of rustc {counted}, and this is {here}, which may make more or fewer instructions of the \
             same source: to judge a change, build with the former (`rustup override set {release}`); to move on to this \
             one, run `quarry budget --update` on a source whose counts were kept with the former"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_here_has_a_version() {
        let version = version().expect("whoever runs this has just compiled it");
        assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{version}");
    }

    #[test]
    fn another_compiler_is_told_with_what_to_do() {
        let difference = |counted| difference(counted, "1.95.0 (59807616e 2026-04-14)", Path::new("ci/budget.toml"));
        assert_eq!(difference(Some("1.95.0 (59807616e 2026-04-14)")), None);
        let told = [difference(Some("1.94.1 (a b)")), difference(None)].map(Option::unwrap_or_default);
        insta::assert_snapshot!(told.join("\n"), @"
        ci/budget.toml has the counts of rustc 1.94.1 (a b), and this is 1.95.0 (59807616e 2026-04-14), which may make more or fewer instructions of the same source: to judge a change, build with the former (`rustup override set 1.94.1`); to move on to this one, run `quarry budget --update` on a source whose counts were kept with the former
        ci/budget.toml does not say which rustc its counts are of; this is 1.95.0 (59807616e 2026-04-14): `quarry budget --update` notes it
        ");
    }
}
