//! docs/kmalloc.md, docs/contig.md and docs/vm.md keep their word: every test they name exists, every row names one, and
//! no call and no flag is missing.

use std::fs;
use std::path::{Path, PathBuf};

use bitflags::Flags;
use quarry_memory::{Gfp, MallocFlags, SlabFlags};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page() -> String {
    text("docs/kmalloc.md")
}

/// What stands between backticks.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The pages of tables, and how many tests and rows each has at least.
const PAGES: [(&str, usize, usize); 3] =
    [("docs/kmalloc.md", 100, 60), ("docs/contig.md", 40, 25), ("docs/vm.md", 30, 25)];

/// The test that a name of the page means; `None` for other names.
fn test_of(name: &str) -> Option<(String, &str)> {
    let (file, test) = name.split_once(".rs::")?;
    let path = match file.strip_prefix("guest/") {
        Some(file) => format!("ci/guest-tests/src/{file}.rs"),
        None => format!("unikernel/memory/tests/{file}.rs"),
    };
    Some((path, test))
}

#[test]
fn every_test_that_a_page_names_exists() {
    for (path, least, _) in PAGES {
        let page = text(path);
        // The first is the example of how tests are named.
        let tests: Vec<_> = names(&page).filter_map(test_of).filter(|(_, test)| *test != "test").collect();
        assert!(tests.len() > least, "{} tests are named in {path}", tests.len());
        for (path, test) in tests {
            let source = text(&path);
            assert!(source.contains(&format!("fn {test}(")), "there is no test {test} in {path}");
            if path.starts_with("ci/") {
                assert!(source.contains(&format!("    {test},\n")), "{test} is not in the list of {path}");
            }
        }
    }
}

#[test]
fn every_row_of_a_page_names_a_test() {
    for (path, _, least) in PAGES {
        let page = text(path);
        let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| ---");
        let heads: Vec<_> = page.lines().filter(|line| line.ends_with("| shown by |")).collect();
        let rows: Vec<_> = page.lines().filter(is_row).filter(|line| !heads.contains(line)).collect();
        assert!(rows.len() > least, "{} rows in {path}", rows.len());
        for row in rows {
            let last = row.trim_end_matches(" |").rsplit(" | ").next().expect("a row has columns");
            assert!(names(last).any(|name| test_of(name).is_some()), "a row without a test: {row}");
        }
    }
}

/// Names of the page's first columns.
fn documented() -> Vec<String> {
    let page = page();
    let first = |row: &str| row.split(" | ").next().map(str::to_string);
    let columns: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).filter_map(first).collect();
    columns.iter().flat_map(|column| names(column)).map(str::to_string).collect()
}

#[test]
fn every_call_of_the_family_is_on_the_page() {
    let documented = documented();
    for source in ["kmalloc", "kmem_cache", "bulk"] {
        let source = text(&format!("unikernel/memory/src/{source}.rs"));
        let calls = source.lines().filter_map(|line| {
            let (_, rest) = line.strip_prefix("    pub ")?.split_once("fn ")?;
            rest.split(['(', '<']).next()
        });
        // Accessors of handles and sheaves are not calls of the family.
        for call in calls.filter(|call| !["name", "size"].contains(call)) {
            assert!(documented.iter().any(|name| name == call), "{call} is not in docs/kmalloc.md");
        }
    }
}

#[test]
fn every_flag_is_on_the_page_under_linuxs_names() {
    let documented = documented();
    let has = |name: &str| documented.iter().any(|documented| documented == name);
    for flag in Gfp::FLAGS {
        let name = flag.name();
        assert!(has(&format!("__GFP_{name}")) || has(&format!("GFP_{name}")), "{name} is not in docs/kmalloc.md");
    }
    for old in ["GFP_THISNODE", "GFP_TEMPORARY", "GFP_DMA", "GFP_DMA32", "__GFP_WAIT", "__GFP_REPEAT"] {
        assert!(has(old), "{old} is not in docs/kmalloc.md");
    }
    for flag in SlabFlags::FLAGS {
        let name = format!("SLAB_{}", flag.name());
        assert!(has(&name), "{name} is not in docs/kmalloc.md");
    }
}

#[test]
fn every_call_every_argument_and_every_flag_of_contiguous_memory_is_on_its_page() {
    let page = text("docs/contig.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let first: Vec<_> = rows.filter_map(|row| row.split(" | ").next()).map(str::to_string).collect();
    let documented: Vec<_> = first.iter().flat_map(|column| names(column)).collect();
    let source = text("unikernel/memory/src/contig.rs");
    let calls = source.lines().filter_map(|line| {
        let (_, rest) = line.strip_prefix("    pub ")?.split_once("fn ")?;
        rest.split(['(', '<']).next()
    });
    // Accessors of blocks are not calls of the family.
    let calls: Vec<_> =
        calls.filter(|call| !["new", "as_ptr", "physical", "size", "into_raw"].contains(call)).collect();
    assert!(calls.len() >= 5, "{calls:?}");
    let flags = MallocFlags::FLAGS.iter().map(|flag| format!("M_{}", flag.name())).filter(|name| name != "M_");
    let arguments = ["size", "type", "low", "high", "alignment", "boundary", "nodes"].map(str::to_string);
    for name in calls.into_iter().map(str::to_string).chain(flags).chain(arguments) {
        assert!(documented.contains(&name.as_str()), "{name} is not in docs/contig.md");
    }
}

#[test]
fn every_call_and_every_flag_of_objects_is_on_their_page() {
    let page = text("docs/vm.md");
    let first = |row: &str| row.split(" | ").next().map(str::to_string);
    let columns: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).filter_map(first).collect();
    let documented: Vec<_> = columns.iter().flat_map(|column| names(column)).collect();
    let flags = text("unikernel/memory/src/vm/alloc.rs");
    let flags: Vec<_> = flags.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect();
    assert_eq!(flags.len(), 9);
    let calls = [
        "vm_object",
        "vm_page_alloc",
        "vm_pages",
        "VmObject::lock",
        "VmObject::fault",
        "LockedObject::page",
        "LockedObject::wait",
        "VmPage::free",
        "VmPage::cache",
        "VmPage::wire",
        "VmPage::unwire",
        "VmPage::busy",
        "VmPage::unbusy",
        "VmPage::activate",
        "VmPage::deactivate",
    ];
    for name in flags.into_iter().chain(calls) {
        assert!(documented.contains(&name), "{name} is not in docs/vm.md");
    }
}
