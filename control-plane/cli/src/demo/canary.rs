//! Moves the weight between two subsets in the text of a VirtualService, as a hand with an editor
//! would: the lines with the weights change, comments and everything else stay.

use std::fmt::Write as _;

/// A VirtualService that is not of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum EditError {
    /// No destination with this subset has a weight after it.
    #[error("no weight follows subset {0}")]
    NoWeight(&'static str),
}

/// The subset that has most of the traffic to begin with.
pub(super) const STABLE: &str = "v1";
/// The subset on trial.
pub(super) const CANARY: &str = "v2";

/// The canary's weight out of 100.
///
/// # Errors
/// If the text has none.
pub(super) fn weight(text: &str) -> Result<u8, EditError> {
    lines(text)
        .find(|(subset, weight, _)| *subset == Some(CANARY) && weight.is_some())
        .and_then(|(_, weight, _)| weight)
        .ok_or(EditError::NoWeight(CANARY))
}

/// The text with the canary's weight set to `weight` (at most 100) and the rest for the other.
///
/// # Errors
/// If one of the two has no weight in it.
pub(super) fn set_weight(text: &str, weight: u8) -> Result<String, EditError> {
    let weight = weight.min(100);
    let (mut stable, mut canary) = (false, false);
    let mut edited = String::with_capacity(text.len() + 2);
    for (subset, old, line) in lines(text) {
        let new = match (subset, old) {
            (Some(STABLE), Some(_)) => {
                stable = true;
                100 - weight
            }
            (Some(CANARY), Some(_)) => {
                canary = true;
                weight
            }
            _ => {
                edited.push_str(line);
                continue;
            }
        };
        let indent = line.split("weight:").next().unwrap_or_default();
        let end = if line.ends_with('\n') { "\n" } else { "" };
        let _infallible = write!(edited, "{indent}weight: {new}{end}");
    }
    match (stable, canary) {
        (true, true) => Ok(edited),
        (false, _) => Err(EditError::NoWeight(STABLE)),
        (true, false) => Err(EditError::NoWeight(CANARY)),
    }
}

/// Each line with the subset it belongs to and the weight it sets, if it does.
fn lines(text: &str) -> impl Iterator<Item = (Option<&str>, Option<u8>, &str)> {
    let mut subset = None;
    text.split_inclusive('\n').map(move |line| {
        let content = line.trim().trim_start_matches("- ");
        if content.starts_with("destination:") || content == "---" {
            subset = None;
        } else if let Some(name) = content.strip_prefix("subset:") {
            subset = Some(name.trim());
        }
        let weight = content
            .strip_prefix("weight:")
            .and_then(|weight| weight.trim().parse().ok());
        (subset, weight, line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# weight: 7 in a comment stays
spec:
  http:
  - route:
    - destination:
        host: payments
        subset: v1
      weight: 90
    - destination:
        host: payments
        subset: v2
      weight: 10
  - match: []
    route:
    - destination:
        host: other
      weight: 100
---
subsets:
- name: v1
";

    #[test]
    fn weights_move_and_the_rest_stays() {
        assert_eq!(weight(TEXT), Ok(10));
        for new in [0, 50, 100] {
            let edited = set_weight(TEXT, new).unwrap();
            assert_eq!(weight(&edited), Ok(new));
            let restored = set_weight(&edited, 10).unwrap();
            assert_eq!(restored, TEXT);
            let changed: Vec<_> = TEXT
                .lines()
                .zip(edited.lines())
                .filter(|(before, after)| before != after)
                .map(|(_, after)| after.trim().to_owned())
                .collect();
            assert_eq!(
                changed,
                [format!("weight: {}", 100 - new), format!("weight: {new}")]
            );
        }
    }

    #[test]
    fn a_text_without_the_subsets_is_refused() {
        let without = TEXT.replace("subset: v1", "subset: v3");
        assert_eq!(set_weight(&without, 20), Err(EditError::NoWeight(STABLE)),);
        assert_eq!(weight("spec: {}\n"), Err(EditError::NoWeight(CANARY)));
    }
}
