//! Scripted wire peers around one served connection: a client that writes and expects bytes, a
//! server that does the same, and a handler with few habits between them. No step waits longer
//! than [`PATIENCE`].

use super::super::serve;
use crate::exchange::{
    AttemptFailure, AttemptFailureKind, Deadline, Delivery, DeliveryEnd, Exchange, Handler,
    RequestEdit, ResponseEdit,
};
use crate::h1::Served;
use crate::io::Io;
use crate::reason::{Reason, Refusal};
use crate::upstream::{Endpoint, Permits, Pool};
use bytes::Bytes;
use outrigger_model::{ConnectionLimits, Lifetime, Peer, RequestsPerConnection};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Longest any step of a script may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Limits nobody meets in a test that is not about them.
pub(super) fn limits() -> ConnectionLimits {
    ConnectionLimits {
        connections_max: 100,
        pending_max: 100,
        pending_timeout: PATIENCE,
        requests_max: 100,
        requests_per_connection: RequestsPerConnection::Unlimited,
        retries_max: 10,
        connect_timeout: PATIENCE,
        idle_timeout: Lifetime::Unlimited,
        connection_age: Lifetime::Unlimited,
    }
}

/// One end of a scripted conversation.
pub(super) struct Script<S>(pub(super) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Script<S> {
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sending = self.0.write_all(bytes.as_ref());
        timeout(PATIENCE, sending)
            .await
            .expect("sent in time")
            .unwrap();
    }

    /// One byte a write.
    pub(super) async fn trickle(&mut self, bytes: &str) {
        for byte in bytes.as_bytes() {
            self.send([*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// The next bytes are exactly these.
    #[track_caller]
    pub(super) fn expect(&mut self, text: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let mut got = Vec::new();
            while got.len() < text.len() {
                let mut piece = vec![0; text.len() - got.len()];
                let read = timeout(PATIENCE, self.0.read(&mut piece)).await;
                let shown = String::from_utf8_lossy(&got).into_owned();
                let read = match read {
                    Ok(read) => read.unwrap_or(0),
                    Err(_) => panic!("{caller}: waited for {text:?}, have {shown:?}"),
                };
                assert!(read > 0, "{caller}: wanted {text:?}, ended after {shown:?}");
                got.extend_from_slice(&piece[..read]);
            }
            assert_eq!(String::from_utf8_lossy(&got), text, "{caller}");
        }
    }

    /// A head, to its empty line.
    pub(super) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.0.read_u8()).await;
            head.push(byte.expect("a head in time").unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// The peer closes without another byte.
    pub(super) async fn expect_end(&mut self) {
        assert_eq!(self.rest().await, "");
    }

    /// Everything up to the end; a reset counts as an end.
    pub(super) async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let reading = timeout(PATIENCE, self.0.read_to_end(&mut all)).await;
        drop(reading.expect("ended in time"));
        String::from_utf8(all).unwrap()
    }

    /// Everything up to the end, however long it takes: for tests on a paused clock.
    pub(super) async fn patient_rest(&mut self) -> String {
        let mut all = Vec::new();
        self.0.read_to_end(&mut all).await.unwrap();
        String::from_utf8(all).unwrap()
    }

    pub(super) async fn close_write(&mut self) {
        self.0.shutdown().await.unwrap();
    }
}

/// What the handler does with a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// One try.
    Once,
    /// Tries again as long as it can be replayed, up to three times, also on 503.
    Retry,
    /// One try of at most 50 ms.
    Hurried,
    /// No try: refuses.
    Refuse,
}

/// A handler that sends everything to one endpoint and writes down what became of it.
pub(super) struct Path {
    pub(super) endpoint: Rc<Endpoint>,
    habit: Habit,
    pub(super) edit: RequestEdit,
    pub(super) seen: RefCell<Vec<String>>,
}

impl Handler for Path {
    async fn handle<E: Exchange>(&self, exchange: &mut E) {
        if self.habit == Habit::Refuse {
            let refusal = Refusal::new(Reason::NoRoute).detail("none matches");
            let delivery = exchange.refuse(&refusal).await;
            self.note(&delivery);
            return;
        }
        for tried in 1.. {
            let limit = (self.habit == Habit::Hurried).then_some(Duration::from_millis(50));
            let deadline = Deadline::NONE.or_after(Instant::now(), limit);
            let again = self.habit == Habit::Retry && tried < 3;
            match exchange.attempt(&self.endpoint, &self.edit, deadline).await {
                Ok(head) if head.status == 503 && again && exchange.can_replay() => {
                    self.seen.borrow_mut().push("retry 503".to_owned());
                    exchange.discard().await;
                }
                Ok(_) => {
                    let delivery = exchange
                        .deliver(&ResponseEdit::default(), Deadline::NONE)
                        .await;
                    return self.note(&delivery);
                }
                Err(failure) if again && exchange.can_replay() => {
                    self.seen
                        .borrow_mut()
                        .push(format!("retry {:?}", failure.kind));
                }
                Err(failure) => {
                    self.seen.borrow_mut().push(format!("{:?}", failure.kind));
                    let delivery = match failure.kind {
                        AttemptFailureKind::ClientGone => exchange.abandon(),
                        _ => exchange.refuse(&answer_to(&failure)).await,
                    };
                    return self.note(&delivery);
                }
            }
        }
    }
}

fn answer_to(failure: &AttemptFailure) -> Refusal {
    let reason = match failure.kind {
        AttemptFailureKind::Downstream(reason) => reason,
        AttemptFailureKind::ClientGone => Reason::ClientGone,
        AttemptFailureKind::Protocol => Reason::UpstreamProtocol,
        AttemptFailureKind::Timeout => Reason::RequestTimeout,
        AttemptFailureKind::Connect
        | AttemptFailureKind::Handshake
        | AttemptFailureKind::NoCertificate
        | AttemptFailureKind::PendingFull
        | AttemptFailureKind::PendingTimeout
        | AttemptFailureKind::RefusedStream
        | AttemptFailureKind::Reset => Reason::UpstreamReset,
    };
    Refusal::new(reason)
}

impl Path {
    fn note(&self, delivery: &Delivery) {
        let Delivery {
            request_bytes,
            response_bytes,
            end,
            ..
        } = delivery;
        let end = match end {
            DeliveryEnd::Complete => "complete",
            DeliveryEnd::DownstreamClosed => "client gone",
            DeliveryEnd::UpstreamReset => "upstream reset",
            DeliveryEnd::Idle => "idle",
            DeliveryEnd::DeadlinePassed => "late",
            DeliveryEnd::HeldMost => "held-most",
        };
        self.seen
            .borrow_mut()
            .push(format!("{end} {request_bytes}/{response_bytes}"));
    }
}

/// A listener that plays the server, and the engine before it.
pub(super) struct Rig {
    listener: TcpListener,
    pub(super) path: Path,
    pub(super) drain: CancellationToken,
}

impl Rig {
    pub(super) async fn new(habit: Habit) -> Rig {
        Rig::with_limits(habit, limits()).await
    }

    pub(super) async fn with_limits(habit: Habit, limits: ConnectionLimits) -> Rig {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = Pool::new(limits, Permits::new(100));
        let endpoint = Endpoint::new(address, Peer::Plain, &pool, Arc::default());
        let edit = RequestEdit::default();
        let path = Path {
            endpoint,
            habit,
            edit,
            seen: RefCell::default(),
        };
        Rig {
            listener,
            path,
            drain: CancellationToken::new(),
        }
    }

    pub(super) fn set(mut self, name: &'static str, value: &'static str) -> Rig {
        self.path
            .edit
            .set
            .push((name, Bytes::from_static(value.as_bytes())));
        self
    }

    pub(super) async fn accept(&self) -> Script<TcpStream> {
        let accepted = timeout(PATIENCE, self.listener.accept()).await;
        Script(accepted.expect("a connection in time").unwrap().0)
    }

    /// The client sends `bytes`; the connection they cause.
    pub(super) async fn accept_after<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        client: &mut Script<S>,
        bytes: &str,
    ) -> Script<TcpStream> {
        client.send(bytes).await;
        self.accept().await
    }

    /// As [`Self::accept_after`], where `bytes` reach the server as they are.
    pub(super) async fn carried<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        client: &mut Script<S>,
        bytes: &str,
    ) -> Script<TcpStream> {
        let mut server = self.accept_after(client, bytes).await;
        server.expect(bytes).await;
        server
    }

    /// Whether a connection is waiting to be accepted.
    pub(super) async fn no_connection(&self) -> bool {
        timeout(Duration::from_millis(50), self.listener.accept())
            .await
            .is_err()
    }

    /// Serves a client in memory while `script` plays both ends; then the client leaves.
    pub(super) async fn run(
        &self,
        script: impl AsyncFnOnce(Script<DuplexStream>, &Rig),
    ) -> (Served, Vec<String>) {
        let (client, server) = tokio::io::duplex(1 << 20);
        self.join(Script(client), Io::Memory(server), script).await
    }

    /// As [`Self::run`], over a socket, where resets and half-closes are real.
    pub(super) async fn run_tcp(
        &self,
        script: impl AsyncFnOnce(Script<TcpStream>, &Rig),
    ) -> (Served, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        self.join(Script(client), Io::Plain(server), script).await
    }

    async fn join<S>(
        &self,
        client: Script<S>,
        io: Io,
        script: impl AsyncFnOnce(Script<S>, &Rig),
    ) -> (Served, Vec<String>) {
        let serving = serve(io, &self.drain, &self.path);
        let both = async { tokio::join!(serving, script(client, self)) };
        let (served, ()) = timeout(3 * PATIENCE, both).await.expect("ended in time");
        (served, self.path.seen.take())
    }
}
