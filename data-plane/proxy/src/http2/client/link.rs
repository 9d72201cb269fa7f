//! One connection to an upstream, as those who send on it see it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use tokio::{sync::Notify, time::Instant};

use crate::{
    telemetry::{Closed, OpenConnection},
    upstream::Permit,
};

/// An open connection. Its driver runs in a task of the slot.
pub(super) struct Link {
    /// `None`: takes no more streams. With the last handle gone, h2 closes the connection after
    /// its last stream.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    /// For the stream leased last of all, when `sender` was taken away for good.
    last: RefCell<Option<SendRequest<Bytes>>>,
    /// Counts against the target's `connections_max`.
    permit: RefCell<Option<Permit>>,
    /// Who is told what it does.
    counted: Option<Rc<OpenConnection>>,
    in_flight: Cell<u32>,
    served: Cell<u32>,
    idle_since: Cell<Instant>,
    /// When it was connected.
    pub(super) opened: Instant,
    /// From when it takes no more streams: a certificate is at its end.
    pub(super) expires: Option<Instant>,
    /// No streams, and there will be none.
    pub(super) drained: Notify,
}

impl Link {
    pub(super) fn new(
        sender: SendRequest<Bytes>,
        permit: Permit,
        expires: Option<Instant>,
        counted: Option<Rc<OpenConnection>>,
    ) -> Self {
        if let Some(counted) = &counted {
            counted.idle();
        }
        Self {
            counted,
            sender: RefCell::new(Some(sender)),
            last: RefCell::new(None),
            permit: RefCell::new(Some(permit)),
            in_flight: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            opened: Instant::now(),
            expires,
            drained: Notify::new(),
        }
    }

    /// Whether the peer takes another stream; `max` is our own bound.
    pub(super) fn has_room(&self, max: u32) -> bool {
        let sender = self.sender.borrow();
        let allowed = sender.as_ref().map(SendRequest::current_max_send_streams);
        let allowed = allowed.map_or(0, |streams| u32::try_from(streams).unwrap_or(u32::MAX));
        self.in_flight.get() < allowed.min(max)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.borrow().is_none()
    }

    /// Streams leased so far.
    pub(super) fn served(&self) -> u32 {
        self.served.get()
    }

    pub(super) fn lease(&self) {
        if let Some(counted) = &self.counted {
            counted.active();
        }
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        self.served.set(self.served.get().saturating_add(1));
    }

    pub(super) fn free(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
        if self.in_flight.get() == 0
            && let Some(counted) = &self.counted
        {
            counted.idle();
        }
        if self.is_closed() && self.in_flight.get() == 0 {
            *self.last.borrow_mut() = None;
            self.drained.notify_one();
        }
    }

    /// How long it has had no streams.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let idle = self.in_flight.get() == 0 && !self.is_closed();
        idle.then(|| now.duration_since(self.idle_since.get()))
    }

    /// The streams leased so far may be opened, no others, for this reason.
    pub(super) fn carries_last(&self, cause: Closed) {
        if let Some(counted) = &self.counted {
            counted.ends(cause);
        }
        self.take_sender();
    }

    fn take_sender(&self) {
        *self.last.borrow_mut() = self.sender.borrow_mut().take();
    }

    /// Takes no more streams, for this reason.
    pub(super) fn leave(&self, cause: Closed) {
        self.carries_last(cause);
        self.close();
    }

    /// Takes no more streams.
    pub(super) fn close(&self) {
        self.take_sender();
        if self.in_flight.get() == 0 {
            *self.last.borrow_mut() = None;
            self.drained.notify_one();
        }
    }

    pub(super) fn take_permit(&self) -> Option<Permit> {
        self.permit.borrow_mut().take()
    }

    /// Opens a leased stream. Ready at once unless the peer lowered its limit meanwhile.
    pub(super) async fn send_request(
        &self,
        request: Request<()>,
        ended: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let sender = self.sender.borrow().clone();
        let Some(sender) = sender.or_else(|| self.last.borrow().clone()) else {
            return Err(h2::Error::from(h2::Reason::REFUSED_STREAM));
        };
        sender.ready().await?.send_request(request, ended)
    }
}
