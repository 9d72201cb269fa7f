//! The demo without a screen: a line for each event and for each second, on stdout.

use std::io::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::board::View;
use super::screen::{ms, percent};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes one line: as JSON, or as text if there is any.
///
/// # Errors
/// If stdout is closed.
pub(super) fn write(form: Form, value: &impl Serialize, text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match form {
        Form::Json => {
            serde_json::to_writer(&mut out, value)?;
            writeln!(out)
        }
        Form::Text if text.is_empty() => Ok(()),
        Form::Text => writeln!(out, "{text}"),
    }
}

/// One second's figures for people.
pub(super) fn text(elapsed: Duration, view: &View) -> String {
    let flow = &view.load.flow;
    let mut line = format!(
        "{:>4} s  {:.0}/s  ok {}  p50 {} ms  p99 {} ms",
        elapsed.as_secs(),
        flow.rate,
        flow.success.map_or_else(|| "-".to_owned(), percent),
        ms(flow.p50_ms),
        ms(flow.p99_ms),
    );
    for split in &view.splits {
        line.push_str(&format!("  {}", split.service));
        for (subset, share, _) in &split.subsets {
            line.push_str(&format!(" {subset} {:.0} %", share * 100.0));
        }
    }
    let mtls = view.mtls.map_or_else(|| "-".to_owned(), percent);
    line.push_str(&format!(
        "  mTLS {mtls}  retries {}  ejections {}",
        view.retries, view.ejections
    ));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::board::{Flow, LoadRow, SplitRow};

    #[test]
    fn a_second_is_one_line() {
        let view = View {
            load: LoadRow {
                flow: Flow {
                    rate: 99.8,
                    success: Some(1.0),
                    p50_ms: Some(2.5),
                    p99_ms: None,
                },
                ..LoadRow::default()
            },
            splits: vec![SplitRow {
                service: "payments".to_owned(),
                subsets: vec![("v1".to_owned(), 0.9, None), ("v2".to_owned(), 0.1, None)],
            }],
            mtls: Some(1.0),
            retries: 3,
            ..View::default()
        };
        assert_eq!(
            text(Duration::from_millis(7_900), &view),
            "   7 s  100/s  ok 100 %  p50 2.50 ms  p99 - ms  payments v1 90 % v2 10 %  mTLS 100 %  \
             retries 3  ejections 0"
        );
    }
}
