//! The process's own log (not the access log): events of `tracing` to standard error, at a level
//! that can be changed while it runs.

use std::{fmt, str::FromStr};

use tracing_subscriber::{
    Registry, filter::Targets, fmt as format, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Readable lines.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged: a level (`info`) or a list of `target=level`, as [`Targets`] reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level(String);

/// A level that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// Not a level.
    #[error(
        "log level {text:?} is not valid: write off, error, warn, info, debug, trace, or a list such as info,outrigger_proxy=debug"
    )]
    Invalid {
        /// As given.
        text: String,
    },
    /// There is no log to change: it was set up twice, or is gone.
    #[error("the log of this process is not set up")]
    NoLog,
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        let word = |part: &str| {
            let level = part.split_once('=').map_or(part, |(_, level)| level);
            !level.is_empty() && level.parse::<tracing::level_filters::LevelFilter>().is_ok()
        };
        let valid =
            text.len() <= 256 && text.split(',').all(word) && text.parse::<Targets>().is_ok();
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(LevelError::Invalid {
                text: text.chars().take(64).collect(),
            })
        }
    }
}

impl Level {
    fn filter(&self) -> Result<Targets, LevelError> {
        self.0.parse().map_err(|_| LevelError::Invalid {
            text: self.0.clone(),
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads and changes the level.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<Targets, Registry>);

/// Sets up the log of this process, once, at its start.
///
/// # Errors
/// When the process has a log already.
pub fn init(level: &Level, format: Format) -> Result<LogControl, LevelError> {
    let (filter, handle) = reload::Layer::new(level.filter()?);
    let log = tracing_subscriber::registry().with(filter);
    let set = match format {
        Format::Text => log
            .with(
                format::layer()
                    .with_writer(std::io::stderr)
                    .with_target(false),
            )
            .try_init(),
        Format::Json => log
            .with(
                format::layer()
                    .with_writer(std::io::stderr)
                    .json()
                    .flatten_event(true),
            )
            .try_init(),
    };
    set.map_err(|_| LevelError::NoLog)?;
    Ok(LogControl(handle))
}

impl LogControl {
    /// The level in force.
    ///
    /// # Errors
    /// When the log is gone.
    pub fn level(&self) -> Result<String, LevelError> {
        self.0
            .with_current(ToString::to_string)
            .map_err(|_| LevelError::NoLog)
    }

    /// Changes the level, from the next event on.
    ///
    /// # Errors
    /// When the log is gone.
    pub fn set(&self, level: &Level) -> Result<(), LevelError> {
        let filter = level.filter()?;
        self.0.reload(filter).map_err(|_| LevelError::NoLog)
    }
}

/// A log that no process writes to, and what keeps it alive.
#[cfg(test)]
pub(crate) fn unattached(level: &str) -> (LogControl, reload::Layer<Targets, Registry>) {
    let (layer, handle) = reload::Layer::new(level.parse().unwrap());
    (LogControl(handle), layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_levels_are_levels() {
        for good in ["info", "off", "DEBUG", "info,outrigger_proxy=debug,h2=off"] {
            assert!(good.parse::<Level>().is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,", "a=b", "info;debug", "[{x=\"y\"}]"] {
            assert!(bad.parse::<Level>().is_err(), "{bad}");
        }
    }
}
