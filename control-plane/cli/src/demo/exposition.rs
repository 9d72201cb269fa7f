//! Reads a page in Prometheus' text format (version 0.0.4), as sidecars serve it at `/metrics`.
//!
//! Only what a reader of counters needs: sample lines with name, labels and value. Comments, types
//! and timestamps are passed over. Values stay text, so that a count is read as the integer it is.

use std::borrow::Cow;

/// One sample line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample<'a> {
    /// Name of the sample; of a histogram with `_bucket`, `_sum` or `_count` at its end.
    pub(super) name: &'a str,
    labels: Vec<(&'a str, Cow<'a, str>)>,
    /// The value as it is written.
    pub(super) value: &'a str,
}

impl Sample<'_> {
    /// The value of a label; empty where there is none, which Prometheus takes for the same.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels
            .iter()
            .find(|(known, _)| *known == name)
            .map_or("", |(_, value)| value)
    }

    /// The value as a count; zero if it is none (sidecars write counts as plain integers).
    pub(super) fn count(&self) -> u64 {
        self.value.parse().unwrap_or_default()
    }
}

/// A line that is no sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the metrics page: {reason}")]
pub(super) struct ParseError {
    line: usize,
    reason: &'static str,
}

/// All samples of a page, in its order.
///
/// # Errors
/// On the first line that is neither blank, a comment nor a sample.
pub(super) fn parse(page: &str) -> Result<Vec<Sample<'_>>, ParseError> {
    let mut samples = Vec::new();
    for (index, line) in page.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let sample = sample(line).map_err(|reason| ParseError {
            line: index + 1,
            reason,
        })?;
        samples.push(sample);
    }
    Ok(samples)
}

fn sample(line: &str) -> Result<Sample<'_>, &'static str> {
    let end = line
        .find(|c: char| c == '{' || c.is_ascii_whitespace())
        .ok_or("a sample without a value")?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return Err("a sample without a name");
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    let value = rest
        .split_ascii_whitespace()
        .next()
        .ok_or("a sample without a value")?;
    if value.parse::<f64>().is_err() {
        return Err("a value that is no number");
    }
    Ok(Sample {
        name,
        labels,
        value,
    })
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// Reads `name="value",…}` and returns what follows.
fn labels(mut rest: &str) -> Result<(Labels<'_>, &str), &'static str> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        let (value, after) = quoted(after)?;
        labels.push((name.trim(), value));
        rest = after;
    }
}

/// Reads up to the closing quote; `\\`, `\"` and `\n` stand for what they stand for.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let end = text
        .find(['"', '\\'])
        .ok_or("a label value without an end")?;
    let (plain, rest) = text.split_at(end);
    if let Some(after) = rest.strip_prefix('"') {
        return Ok((Cow::Borrowed(plain), after));
    }
    let mut value = plain.to_owned();
    let mut chars = rest.chars();
    loop {
        match chars.next().ok_or("a label value without an end")? {
            '"' => return Ok((Cow::Owned(value), chars.as_str())),
            '\\' => match chars.next().ok_or("a label value without an end")? {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_and_comments_passed_over() {
        let page = "# HELP up Whether.\n# TYPE up gauge\nup 1\n\n\
                    requests_total{service=\"payments\",subset=\"v1\"} 42 1700000000\n\
                    odd{text=\"a \\\"b\\\" \\\\ c\\nd\",other=\"x\"} 1.5e3\n\
                    seconds_bucket{le=\"+Inf\"} 7\n";
        let samples = parse(page).unwrap();
        let read: Vec<_> = samples.iter().map(|s| (s.name, s.value)).collect();
        assert_eq!(
            read,
            [
                ("up", "1"),
                ("requests_total", "42"),
                ("odd", "1.5e3"),
                ("seconds_bucket", "7")
            ]
        );
        assert_eq!(samples[1].label("subset"), "v1");
        assert_eq!(samples[1].label("absent"), "");
        assert_eq!(samples[1].count(), 42);
        assert_eq!(samples[2].label("text"), "a \"b\" \\ c\nd");
        assert_eq!(samples[2].label("other"), "x");
        assert_eq!(samples[3].label("le"), "+Inf");
    }

    #[test]
    fn what_is_no_sample_is_an_error_with_its_line() {
        for (line, reason) in [
            ("alone", "a sample without a value"),
            ("{a=\"b\"} 1", "a sample without a name"),
            ("name{a=\"b} 1", "a label value without an end"),
            ("name{a=\"b\\", "a label value without an end"),
            ("name{a} 1", "a label without a value"),
            ("name{a=\"b\"}", "a sample without a value"),
            ("name many", "a value that is no number"),
        ] {
            let error = parse(&format!("up 1\n{line}\n")).unwrap_err();
            assert_eq!(error, ParseError { line: 2, reason }, "{line}");
        }
    }
}
