//! scratch
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use outrigger_model::{ConnectionLimits, Lifetime, Peer, RequestsPerConnection};
use outrigger_proxy::{
    exchange::*,
    http2::{Limits, server},
    io::Io,
    reason::*,
    upstream::*,
};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    task::{JoinSet, LocalSet},
};

struct Path(Rc<Endpoint>);
impl Handler for Path {
    async fn handle<E: Exchange>(&self, exchange: &mut E) {
        match exchange
            .attempt(&self.0, &RequestEdit::default(), Deadline::NONE)
            .await
        {
            Ok(_) => {
                exchange.deliver(&ResponseEdit::default()).await;
            }
            Err(f) => {
                exchange
                    .refuse(&Refusal::new(Reason::UpstreamReset).detail(f.detail))
                    .await;
            }
        }
    }
}
fn main() {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&rt, async {
        let up = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = up.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            let mut inner = JoinSet::new();
            loop {
                let (s, _) = up.accept().await.unwrap();
                s.set_nodelay(true).unwrap();
                inner.spawn_local(async move {
                    let mut c = h2::server::Builder::new()
                        .max_concurrent_streams(1000)
                        .handshake::<_, Bytes>(s)
                        .await
                        .unwrap();
                    let mut streams = JoinSet::new();
                    while let Some(Ok((req, mut respond))) = c.accept().await {
                        streams.spawn_local(async move {
                            let head = req.method() == http::Method::HEAD;
                            let mut body = req.into_body();
                            while let Some(Ok(b)) = body.data().await {
                                body.flow_control().release_capacity(b.len()).unwrap();
                            }
                            if let Ok(mut s) = respond.send_response(http::Response::new(()), head)
                            {
                                if head {
                                    return;
                                }
                                s.send_data(Bytes::from_static(b"hello, world"), true).ok();
                            }
                        });
                        while streams.try_join_next().is_some() {}
                    }
                });
            }
        });
        let limits = ConnectionLimits {
            connections_max: 100,
            pending_max: 1024,
            pending_timeout: Duration::from_secs(1),
            requests_max: 1024,
            requests_per_connection: RequestsPerConnection::Unlimited,
            retries_max: 3,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Lifetime::Unlimited,
            connection_age: Lifetime::Unlimited,
        };
        let pool = Pool::new(limits, Permits::new(100));
        let address = std::env::args()
            .nth(2)
            .map_or(address, |a| a.parse().unwrap());
        let ep = Endpoint::new(
            address,
            Peer::Plain,
            &pool,
            Arc::new(ArcSwapOption::empty()),
        );
        let handler = Rc::new(Path(ep));
        let l = TcpListener::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:0".into()))
            .await
            .unwrap();
        println!("{}", l.local_addr().unwrap());
        let ctx = server::Context {
            limits: Rc::new(Limits::DEFAULT),
            drain: Default::default(),
        };
        let mut conns = JoinSet::new();
        loop {
            let (s, _) = l.accept().await.unwrap();
            s.set_nodelay(true).unwrap();
            let (ctx, handler) = (ctx.clone(), handler.clone());
            conns.spawn_local(async move { server::serve(Io::Plain(s), &ctx, &handler).await });
            while conns.try_join_next().is_some() {}
        }
    });
}
