//! Numbers with their nouns.

/// `1 result`, `2 results`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "CPU")), ["0 CPUs", "1 CPU", "2 CPUs"]);
    }
}
