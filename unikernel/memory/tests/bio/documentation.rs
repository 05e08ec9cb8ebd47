//! docs/bio.md keeps its word: every test it names exists, every row names one, and no call and no flag is missing.

use std::fs;
use std::path::Path;

use bitflags::Flags;
use quarry_memory::bio::BiosetFlags;

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between backticks.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The file and the function of the test that a name means; `None` for other names.
fn test_of(name: &str) -> Option<(String, &str)> {
    let (file, test) = name.split_once(".rs::").filter(|(_, test)| *test != "test")?;
    let path = match file.strip_prefix("guest/") {
        Some(file) => format!("ci/guest-tests/src/{file}.rs"),
        None => format!("unikernel/memory/tests/{file}.rs"),
    };
    Some((path, test))
}

fn rows(page: &str) -> Vec<&str> {
    page.lines().filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn every_row_names_tests_that_exist() {
    let page = text("docs/bio.md");
    assert!(rows(&page).len() > 20);
    for row in rows(&page) {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().expect("a row has columns");
        let tests: Vec<_> = names(last).filter_map(test_of).collect();
        assert!(!tests.is_empty(), "a row without a test: {row}");
        for (path, test) in tests {
            assert!(text(&path).contains(&format!("fn {test}(")), "there is no test {test} in {path}");
        }
    }
}

#[test]
fn every_call_and_every_flag_is_on_the_page() {
    let page = text("docs/bio.md");
    let documented: Vec<_> =
        rows(&page).into_iter().filter_map(|row| row.split(" | ").next()).flat_map(names).collect();
    let sources = ["set", "handle", "submit"].map(|file| text(&format!("unikernel/memory/src/bio/{file}.rs")));
    let services = sources.iter().flat_map(|source| source.split("impl<M: Machine> Service<M> {").skip(1));
    let calls = services.flat_map(str::lines).filter_map(|line| {
        let (_, rest) = line.strip_prefix("    pub ")?.split_once("fn ")?;
        rest.split(['(', '<']).next()
    });
    let calls: Vec<_> = calls.collect();
    assert!(calls.len() >= 7, "{calls:?}");
    for call in calls {
        assert!(documented.contains(&call), "{call} is not in docs/bio.md");
    }
    for flag in BiosetFlags::FLAGS {
        let name = format!("BIOSET_{}", flag.name());
        assert!(documented.contains(&name.as_str()), "{name} is not in docs/bio.md");
    }
}
