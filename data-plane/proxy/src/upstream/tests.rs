//! What a pool tells of itself: waiting requests and handshakes.

use std::{io, pin::pin, time::Duration};

use futures_util::poll;
use outrigger_model::ConnectionLimits;
use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

use super::*;
use crate::{
    exchange::AttemptFailureKind,
    snapshot::policy_of_nothing,
    telemetry::{Identity, IstioMetrics, SeriesKey, Telemetry},
};

fn telemetry() -> Telemetry {
    let own = Identity {
        workload: "shop/orders".parse().unwrap(),
        spiffe: "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap(),
    };
    Telemetry::new(own, IstioMetrics::Hidden, io::sink()).unwrap()
}

fn pool(telemetry: &Telemetry) -> Rc<Pool> {
    let limits = ConnectionLimits {
        connections_max: 1,
        pending_max: 1,
        pending_timeout: Duration::from_secs(20),
        ..policy_of_nothing().limits
    };
    let permits = Permits::new(limits.connections_max);
    let pool = Pool::new(limits, permits);
    pool.report_to(telemetry, &telemetry.series(&SeriesKey::UnknownService));
    pool
}

/// The first sample of this name whose line holds `with`.
fn sample(telemetry: &Telemetry, name: &str, with: &str) -> Option<f64> {
    let page = telemetry.page();
    let line = page
        .lines()
        .find(|line| line.starts_with(name) && line.contains(with))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// DEF-17: who is gone without a word is noticed within a minute on either side.
#[tokio::test]
async fn sockets_ask_whether_their_peer_is_there() {
    let telemetry = telemetry();
    let pool = pool(&telemetry);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Endpoint::new(address, Peer::Plain, &pool, TlsReader::default());
    let opened = endpoint.checkout(Deadline(None)).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    crate::io::prepare(&accepted);
    for socket in [opened.connection.io.socket().unwrap(), &accepted] {
        let socket = socket2::SockRef::from(socket);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        let [time, interval] = [30, 10].map(Duration::from_secs);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), time);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    }
}

#[tokio::test]
async fn waiting_requests_show_while_they_wait() {
    let telemetry = telemetry();
    let pool = pool(&telemetry);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Endpoint::new(address, Peer::Plain, &pool, TlsReader::default());
    let held = endpoint.checkout(Deadline(None)).await.unwrap();
    let shown = || sample(&telemetry, "outrigger_pool_pending_requests", "");
    assert_eq!(shown(), None, "nobody ever waited");
    {
        let mut waiting = pin!(endpoint.checkout(Deadline(None)));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(shown(), Some(1.0));
        let refused = endpoint.checkout(Deadline(None)).await.unwrap_err();
        assert_eq!(refused.kind, AttemptFailureKind::PendingFull);
        assert_eq!(shown(), Some(1.0), "who is refused does not wait");
    }
    assert_eq!(shown(), Some(0.0), "who went away does not wait");
    drop(held);
}

#[tokio::test]
async fn handshakes_are_told_by_how_they_ended() {
    let telemetry = telemetry();
    let pool = pool(&telemetry);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = Peer::Meshed("spiffe://cluster.local/ns/shop/sa/a".parse().unwrap());
    let tls = TlsReader::default();
    let endpoint = Endpoint::new(address, peer, &pool, Arc::clone(&tls));
    let count = |result: &str| {
        let labels = format!("direction=\"outbound\",result=\"{result}\"");
        sample(&telemetry, "outrigger_tls_handshakes_total", &labels).unwrap()
    };
    let failure = endpoint.checkout(Deadline(None)).await.unwrap_err();
    assert_eq!(failure.kind, AttemptFailureKind::NoCertificate);
    assert_eq!(count("no-certificate"), 1.0);

    let (context, _) = crate::admin::test_certificate((2999, 1, 1));
    tls.store(Some(Arc::new(context)));
    let hang_up = async {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Read first: a close with unread bytes would be a reset.
            let _read = stream.read(&mut [0; 4_096]).await;
        }
    };
    let (failure, ()) = timeout(Duration::from_secs(20), async {
        tokio::join!(endpoint.checkout(Deadline(None)), hang_up)
    })
    .await
    .unwrap();
    assert_eq!(failure.unwrap_err().kind, AttemptFailureKind::Handshake);
    assert_eq!(count("closed"), 1.0);
    assert_eq!(count("completed"), 0.0);
}

/// A server that keeps idle connections for five seconds: from the fourth on it is not asked on
/// one of them, because a request might meet its closing.
#[tokio::test]
async fn an_idle_connection_is_left_a_second_before_its_server_would() {
    let telemetry = telemetry();
    let pool = pool(&telemetry);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = Endpoint::new(address, Peer::Plain, &pool, TlsReader::default());
    tokio::time::pause();
    let mut connection = endpoint.checkout(Deadline(None)).await.unwrap().connection;
    connection.leave_after(Some(Duration::from_secs(5)));
    endpoint.give_back(connection);
    tokio::time::advance(Duration::from_millis(3_999)).await;
    pool.sweep(Instant::now(), Lifetime::Unlimited);
    let checkout = endpoint.checkout(Deadline(None)).await.unwrap();
    assert!(checkout.reused, "the time begins with the last answer");
    endpoint.give_back(checkout.connection);
    tokio::time::advance(Duration::from_millis(4_000)).await;
    let checkout = endpoint.checkout(Deadline(None)).await.unwrap();
    assert!(!checkout.reused);
    let mut connection = checkout.connection;
    connection.leave_after(Some(Duration::from_secs(5)));
    endpoint.give_back(connection);
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(pool.connections(), 1);
    pool.sweep(Instant::now(), Lifetime::Unlimited);
    assert_eq!(pool.connections(), 0, "the sweep closes it too");
}
