//! How many cases property tests run.

use proptest::test_runner::Config;

/// Runs that many cases, unless the environment's `PROPTEST_CASES` wants another number.
pub(crate) fn cases(usual: u32) -> Config {
    let default = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { usual };
    Config { cases, ..default }
}
