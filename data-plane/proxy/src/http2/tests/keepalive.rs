//! A peer that is gone without a word is noticed in time (DEF-17).

use tokio::io::AsyncWriteExt;

use super::{
    wire::{PING, Wire, frame},
    *,
};

const ACK: u8 = 1;

#[test]
fn a_client_that_answers_no_ping_is_let_go_after_40_s() {
    local_paused(async {
        let (io, engine) = Engine::serve(Path::new(endpoint(([127, 0, 0, 1], 1).into(), |_| {})));
        let mut wire = Wire::new(io).await;
        let begun = Instant::now();
        // As long as it answers it stays, though it asks for nothing.
        for n in 1..=20 {
            let ping = loop {
                let (kind, flags, _, payload) = wire.frame().await.expect("still there");
                if (kind, flags) == (PING, 0) {
                    break payload;
                }
            };
            let late = begun.elapsed().saturating_sub(Duration::from_secs(30) * n);
            assert!(late < Duration::from_secs(1), "PING {n} is {late:?} late");
            let answer = frame(PING, ACK, 0, &ping);
            wire.io.write_all(&answer).await.unwrap();
        }
        let last = Instant::now();
        while wire.frame().await.is_some() {}
        engine.ended.notified().await;
        let waited = last.elapsed();
        let expected = Duration::from_secs(40)..Duration::from_secs(42);
        assert!(expected.contains(&waited), "{waited:?}");
    });
}

/// Towards another sidecar: 10 s and 3 s.
#[test]
fn a_sidecar_that_answers_no_ping_is_given_up_after_13_s() {
    local_paused(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (client, mut connection) = h2::client::handshake(near).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        let mut server = h2::server::handshake(far).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            connection.await.ok();
        });
        let lost = crate::http2::keepalive::lost(pings, Limits::DEFAULT.ping_up);
        tokio::pin!(lost);
        let minute = Duration::from_secs(60);
        {
            let answering = std::future::poll_fn(|cx| server.poll_accept(cx));
            tokio::select! {
                () = &mut lost => panic!("it answers"),
                _ = answering => panic!("nobody asks anything"),
                () = tokio::time::sleep(minute + Duration::from_millis(1)) => {}
            }
        }
        // From now on nobody drives the other side.
        let begun = Instant::now();
        lost.await;
        let waited = begun.elapsed();
        let expected = Duration::from_secs(12)..Duration::from_secs(14);
        assert!(expected.contains(&waited), "{waited:?}");
        drop((client, server));
    });
}
