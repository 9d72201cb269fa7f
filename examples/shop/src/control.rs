//! What an application has been told to do wrong: the faults that the mesh is to answer.
//!
//! Set with `POST /_control`, in force from the next request on. A fault hits a share of the
//! requests (`ratio`), evenly spaced and not by chance, so that tests can count: with 0.25 it is
//! every fourth, beginning with the fourth. Health, control and counts are never hit.

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What an affected request meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Nothing: the application works.
    #[default]
    Ok,
    /// An error at once (or after `delay_ms`).
    Fail,
    /// No answer, until another fault is set or the application stops.
    Hang,
    /// The usual answer, after `delay_ms`.
    Slow,
}

/// A fault, as `POST /_control` takes it and `GET /_control` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Request")]
pub struct Fault {
    /// What happens.
    pub mode: Mode,
    /// The HTTP status of `fail`, 200 to 599; default 503. A gRPC call gets the gRPC status that
    /// stands for it.
    pub status: u16,
    /// Milliseconds before the answer of `fail` (default 0) and `slow` (default 500); at most an
    /// hour.
    pub delay_ms: u64,
    /// The share of requests that meet it, 0 to 1; default 1.
    pub ratio: f64,
}

impl Fault {
    /// `mode` with the defaults of everything else.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        let delay_ms = match mode {
            Mode::Slow => 500,
            Mode::Ok | Mode::Fail | Mode::Hang => 0,
        };
        Self {
            mode,
            status: 503,
            delay_ms,
            ratio: 1.0,
        }
    }
}

/// The JSON of a fault before its rules are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    mode: Mode,
    status: Option<u16>,
    delay_ms: Option<u64>,
    ratio: Option<f64>,
}

/// Why a fault is refused.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum FaultError {
    /// No such final HTTP status.
    #[error("status {0} is not within 200..=599")]
    Status(u16),
    /// Longer than an hour.
    #[error("delay_ms {0} is more than an hour")]
    Delay(u64),
    /// Not a share.
    #[error("ratio {0} is not within 0..=1")]
    Ratio(f64),
}

impl TryFrom<Request> for Fault {
    type Error = FaultError;

    fn try_from(raw: Request) -> Result<Self, FaultError> {
        let usual = Self::new(raw.mode);
        let fault = Self {
            mode: raw.mode,
            status: raw.status.unwrap_or(usual.status),
            delay_ms: raw.delay_ms.unwrap_or(usual.delay_ms),
            ratio: raw.ratio.unwrap_or(usual.ratio),
        };
        if !(200..=599).contains(&fault.status) {
            return Err(FaultError::Status(fault.status));
        }
        if fault.delay_ms > 3_600_000 {
            return Err(FaultError::Delay(fault.delay_ms));
        }
        if !(0.0..=1.0).contains(&fault.ratio) {
            return Err(FaultError::Ratio(fault.ratio));
        }
        Ok(fault)
    }
}

/// What one request has to go through.
#[derive(Debug)]
pub(crate) enum Verdict {
    Pass,
    Fail { status: u16, after: Duration },
    Slow { after: Duration },
    Hang(Hung),
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct Hung(watch::Receiver<Fault>);

impl Hung {
    /// Returns when another fault has been set. Cancel safe: yes, it only waits.
    pub(crate) async fn until_changed(mut self) {
        // An error says that the application is gone, and nobody waits for this answer.
        self.0.changed().await.ok();
    }
}

/// The fault in force. Owner: the application; set by its control path, read by each request.
#[derive(Debug)]
pub(crate) struct Control {
    fault: watch::Sender<Fault>,
    /// The part of the next affected request that has come together so far.
    share: Mutex<f64>,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self {
            fault: watch::Sender::new(Fault::new(Mode::Ok)),
            share: Mutex::new(0.0),
        }
    }

    pub(crate) fn fault(&self) -> Fault {
        self.fault.borrow().clone()
    }

    /// Puts `fault` in force, counts its ratio from here, and releases what hangs.
    pub(crate) fn set(&self, fault: Fault) {
        if let Ok(mut share) = self.share.lock() {
            *share = 0.0;
        }
        self.fault.send_replace(fault);
    }

    /// Decides for the next request.
    pub(crate) fn next(&self) -> Verdict {
        let fault = self.fault();
        if fault.mode == Mode::Ok || !self.hit(fault.ratio) {
            return Verdict::Pass;
        }
        let after = Duration::from_millis(fault.delay_ms);
        match fault.mode {
            Mode::Ok => Verdict::Pass,
            Mode::Fail => Verdict::Fail {
                status: fault.status,
                after,
            },
            Mode::Slow => Verdict::Slow { after },
            Mode::Hang => Verdict::Hang(Hung(self.fault.subscribe())),
        }
    }

    fn hit(&self, ratio: f64) -> bool {
        let Ok(mut share) = self.share.lock() else {
            return false;
        };
        *share += ratio;
        // Ten times a tenth is a little less than one in floating point.
        let hit = *share >= 1.0 - 1e-9;
        if hit {
            *share -= 1.0;
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Fault, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_filled_in() {
        let slow = parse(r#"{"mode":"slow"}"#).unwrap();
        assert_eq!(slow, Fault::new(Mode::Slow));
        assert_eq!(slow.delay_ms, 500);
        let fail = parse(r#"{"mode":"fail","status":500,"ratio":0.5}"#).unwrap();
        assert_eq!((fail.status, fail.delay_ms), (500, 0));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (json, word) in [
            (r#"{"mode":"fail","status":199}"#, "status"),
            (r#"{"mode":"slow","delay_ms":3600001}"#, "delay_ms"),
            (r#"{"mode":"fail","ratio":1.1}"#, "ratio"),
            (r#"{"mode":"fail","ratio":-0.1}"#, "ratio"),
            (r#"{"mode":"off"}"#, "off"),
            (r#"{"mode":"ok","delay":1}"#, "delay"),
            (r"{}", "mode"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn a_ratio_hits_evenly_and_exactly() {
        for (ratio, requests, hits) in [
            (0.0, 100, 0),
            (0.1, 1000, 100),
            (0.25, 100, 25),
            (1.0, 7, 7),
        ] {
            let control = Control::new();
            control.set(Fault {
                ratio,
                ..Fault::new(Mode::Fail)
            });
            let hit = (0..requests)
                .filter(|_| matches!(control.next(), Verdict::Fail { status: 503, .. }))
                .count();
            assert_eq!(hit, hits, "ratio {ratio}");
        }
    }
}
