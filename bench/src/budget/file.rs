//! The budget file: what is measured, and how many instructions each case may take.
//!
//! ```toml
//! rustc = "1.95.0 (59807616e 2026-04-14)"  # the compiler whose code was counted
//! workloads = ["pair", "bulk", "page"] # what is measured, on one CPU
//! sizes = [64]
//! orders = [0]
//!
//! [variants]                           # by workload: those that have a budget; all where none are named
//! bulk = ["bulk 16"]
//!
//! [headroom]                           # percent that --update adds, by workload
//! batch = 5
//!
//! [instructions]                       # most instructions of an operation, by case
//! "pair 64 B" = 59.01
//! "page order 0 (4 KiB)" = 128.01
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use toml_edit::{DocumentMut, Item, Table, TableLike, Value, value};

use crate::case::Case;

/// The compiler whose code was counted.
const RUSTC: &str = "rustc";

/// The table of budgets.
const INSTRUCTIONS: &str = "instructions";

/// A budget is written with so many parts of an instruction: what surrounds a loop costs less an operation, and may
/// change.
const PARTS: f64 = 100.0;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    rustc: Option<String>,
    workloads: Vec<String>,
    #[serde(default)]
    sizes: Vec<u64>,
    #[serde(default)]
    orders: Vec<u32>,
    #[serde(default)]
    variants: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    headroom: BTreeMap<String, f64>,
    #[serde(default)]
    instructions: BTreeMap<String, f64>,
}

/// A budget file, read.
#[derive(Clone, Debug)]
pub(crate) struct BudgetFile {
    path: PathBuf,
    content: Content,
    /// With comments and order as they are.
    document: DocumentMut,
}

impl BudgetFile {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is no budget.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let malformed = || format!("{} is no budget file", path.display());
        let content: Content = toml::from_str(text)
            .map_err(|problem| anyhow::anyhow!("{}", problem.to_string().trim_end().replace('\n', "\n  ")))
            .with_context(malformed)?;
        let document = text.parse().with_context(malformed)?;
        Ok(Self { path: path.to_owned(), content, document })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the guest is to measure.
    pub(crate) fn guest_words(&self) -> Vec<String> {
        fn list<T: ToString>(key: &str, values: &[T]) -> Option<String> {
            let values: Vec<String> = values.iter().map(T::to_string).collect();
            (!values.is_empty()).then(|| format!("{key}={}", values.join(",")))
        }
        let Content { workloads, sizes, orders, .. } = &self.content;
        let lists = [list("workloads", workloads), list("sizes", sizes), list("orders", orders)];
        lists.into_iter().flatten().chain(["allocators=quarry".into(), "cpus=1".into(), "seed=1".into()]).collect()
    }

    /// The compiler whose code was counted, as `rustc --version` says it, if the file knows.
    pub(crate) fn rustc(&self) -> Option<&str> {
        self.content.rustc.as_deref()
    }

    /// Whether the file wants a budget for that case, which was measured.
    pub(crate) fn wants(&self, case: &Case) -> bool {
        let variants = self.content.variants.get(&case.workload);
        variants.is_none_or(|variants| case.variant.as_ref().is_some_and(|variant| variants.contains(variant)))
    }

    /// Most instructions of an operation, by case.
    pub(crate) fn budgets(&self) -> &BTreeMap<String, f64> {
        &self.content.instructions
    }

    /// What is added for that workload, as a part of what was measured.
    pub(crate) fn headroom(&self, workload: &str) -> f64 {
        self.content.headroom.get(workload).copied().unwrap_or_default() / 100.0
    }

    /// Makes what was measured the budget, with headroom and a little rounded up; cases that were not measured go. The
    /// file's comments and order stay. `rustc` made the code that was measured; where that is not known, the file says so
    /// by naming none.
    pub(crate) fn update(&mut self, measured: &[(Case, f64)], rustc: Option<&str>) {
        self.content.rustc = rustc.map(str::to_owned);
        match rustc {
            Some(rustc) => put(self.document.as_table_mut(), RUSTC, rustc.into()),
            None => drop(self.document.remove(RUSTC)),
        }
        let budget = |(case, count): &(Case, f64)| {
            let count = count * (1.0 + self.headroom(&case.workload));
            (case.short(), (count * PARTS).ceil() / PARTS)
        };
        let budgets: Vec<(String, f64)> = measured.iter().map(budget).collect();
        self.content.instructions = budgets.iter().cloned().collect();
        let table = self.document.entry(INSTRUCTIONS).or_insert(Item::Table(Table::new()));
        let Some(table) = table.as_table_like_mut() else { return };
        let gone: Vec<String> = table.iter().map(|(case, _)| case.to_owned()).collect();
        for case in gone.iter().filter(|case| !self.content.instructions.contains_key(*case)) {
            table.remove(case);
        }
        for (case, count) in &budgets {
            put(table, case, (*count).into());
        }
    }

    /// Writes it where it was read.
    ///
    /// # Errors
    ///
    /// When that cannot be.
    pub(crate) fn write(&self) -> Result<()> {
        let text = self.document.to_string();
        fs::write(&self.path, text.trim_end().to_owned() + "\n")
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Sets a value; what surrounds an old one stays.
fn put(table: &mut dyn TableLike, key: &str, new: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        None => drop(table.insert(key, value(new))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# What the fast paths may cost.
rustc = "1.94.0 (old)" # counted
workloads = ["pair", "mix"] # the usual
sizes = [64, 1024]

[headroom]
mix = 10

# Measured with love.
[instructions]
"pair 64 B" = 59.01 # the fast path
# Goes.
"pair 8 B" = 59
mix = 130.5
"#;

    fn case(workload: &str, size: Option<u64>) -> Case {
        Case { workload: workload.into(), size, ..Case::default() }
    }

    fn file() -> BudgetFile {
        BudgetFile::parse(Path::new("budget.toml"), TEXT).expect("it is a budget")
    }

    #[test]
    fn a_file_says_what_to_measure_and_what_it_may_cost() {
        assert_eq!(
            file().guest_words(),
            ["workloads=pair,mix", "sizes=64,1024", "allocators=quarry", "cpus=1", "seed=1"]
        );
        let budgets: Vec<String> = file().budgets().iter().map(|(case, count)| format!("{case} {count}")).collect();
        assert_eq!(budgets, ["mix 130.5", "pair 64 B 59.01", "pair 8 B 59"]);
    }

    #[test]
    fn an_update_keeps_comments_and_order() {
        let mut file = file();
        let (pair, mix, new) = (case("pair", Some(64)), case("mix", None), case("pair", Some(1024)));
        file.update(&[(pair, 57.0031), (mix, 130.0), (new, 60.0)], Some("1.95.0 (new)"));
        assert_eq!(file.rustc(), Some("1.95.0 (new)"));
        insta::assert_snapshot!(file.document.to_string(), @r#"
        # What the fast paths may cost.
        rustc = "1.95.0 (new)" # counted
        workloads = ["pair", "mix"] # the usual
        sizes = [64, 1024]

        [headroom]
        mix = 10

        # Measured with love.
        [instructions]
        "pair 64 B" = 57.01 # the fast path
        mix = 143.0
        "pair 1 KiB" = 60.0
        "#);
        let again = BudgetFile::parse(Path::new("budget.toml"), &file.document.to_string()).expect("it is a budget");
        assert_eq!(again.content, file.content);
    }

    #[test]
    fn a_file_without_budgets_gets_them() {
        let mut file = BudgetFile::parse(Path::new("new.toml"), "workloads = ['pair']\n").expect("it is a budget");
        file.update(&[(case("pair", Some(64)), 59.0031)], Some("1.95.0 (new)"));
        insta::assert_snapshot!(file.document.to_string(), @r#"
        workloads = ['pair']
        rustc = "1.95.0 (new)"

        [instructions]
        "pair 64 B" = 59.01
        "#);
    }

    #[test]
    fn a_compiler_nobody_knows_is_not_claimed() {
        let mut file = file();
        file.update(&[(case("pair", Some(64)), 59.0031)], None);
        assert!(file.rustc().is_none() && !file.document.to_string().contains("rustc"), "{}", file.document);
    }

    #[test]
    fn of_some_workloads_named_variants_alone_have_budgets() {
        let text = "workloads = ['bulk', 'node']\n[variants]\nbulk = ['bulk 16']";
        let file = BudgetFile::parse(Path::new("budget.toml"), text).expect("it is a budget");
        let wants = |workload: &str, variant: Option<&str>| {
            file.wants(&Case { variant: variant.map(str::to_owned), ..case(workload, Some(64)) })
        };
        assert!(wants("bulk", Some("bulk 16")) && wants("node", Some("local")) && wants("pair", None));
        assert!(!wants("bulk", Some("bulk 1")) && !wants("bulk", None));
    }

    #[test]
    fn what_is_no_budget_is_told() {
        let refusal = |text: &str| {
            let problem = BudgetFile::parse(Path::new("budget.toml"), text).expect_err("it is none");
            format!("{problem:#}")
        };
        let refusals = [
            refusal("workloads = pair"),
            refusal("sizes = [64]"),
            refusal("workloads = ['pair']\nsize = [64]"),
            refusal("workloads = ['pair']\n[instructions]\n'pair 64 B' = 'few'"),
        ];
        insta::assert_snapshot!(refusals.join("\n"), @r#"
        budget.toml is no budget file: TOML parse error at line 1, column 13
            |
          1 | workloads = pair
            |             ^^^^
          string values must be quoted, expected literal string
        budget.toml is no budget file: TOML parse error at line 1, column 1
            |
          1 | sizes = [64]
            | ^
          missing field `workloads`
        budget.toml is no budget file: TOML parse error at line 2, column 1
            |
          2 | size = [64]
            | ^^^^
          unknown field `size`, expected one of `rustc`, `workloads`, `sizes`, `orders`, `variants`, `headroom`, `instructions`
        budget.toml is no budget file: TOML parse error at line 3, column 15
            |
          3 | 'pair 64 B' = 'few'
            |               ^^^^^
          invalid type: string "few", expected f64
        "#);
    }
}
