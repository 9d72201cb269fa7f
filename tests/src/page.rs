//! Reading a page of metrics (Prometheus' text form).

/// The sum of a metric's series whose line holds each of `labels`, as in `result="ok"`. Values that
/// are no whole numbers do not count.
#[must_use]
pub fn sum(page: &str, name: &str, labels: &[&str]) -> u64 {
    let series = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn series_of_this_name_with_these_labels() {
        let page = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\"} 4\nab{x=\"1\"} 8\na 16\n";
        assert_eq!(sum(page, "a", &[]), 23);
        assert_eq!(sum(page, "a", &["x=\"1\""]), 7);
        assert_eq!(sum(page, "a", &["x=\"1\"", "y=\"2\""]), 3);
        assert_eq!(sum(page, "b", &[]), 0);
    }
}
