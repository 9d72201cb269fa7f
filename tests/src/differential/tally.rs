//! Counts of what held, and a line for each thing that did not.

use std::fmt;

/// Failures told in full; beyond these only their number counts.
const TOLD_MAX: usize = 400;

/// The result of the whole run. Shown, it ends with `N passed, M failed`.
#[derive(Debug, Default)]
pub struct Tally {
    passed: usize,
    failures: Vec<String>,
}

impl Tally {
    /// Takes in one check: `Err` says what was wrong.
    pub fn note(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(why) => self.failures.push(format!("FAIL {name}: {why}")),
        }
    }

    /// How many checks failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failures.len()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in self.failures.iter().take(TOLD_MAX) {
            writeln!(f, "{failure}")?;
        }
        if self.failures.len() > TOLD_MAX {
            writeln!(f, "... and {} more", self.failures.len() - TOLD_MAX)?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failures.len())
    }
}
