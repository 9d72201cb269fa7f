//! Waiting until a sidecar is ready and an application takes connections.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// For one look.
const LOOK: Duration = Duration::from_secs(2);

/// Until the sidecar's admin address says that it is ready. Cancel safe: yes, it only looks.
pub(super) async fn sidecar(admin: SocketAddr) {
    while !says_yes(admin, "/ready").await {
        sleep(PAUSE).await;
    }
}

/// Until the sidecar answers at all: from then on it takes SIGHUP. Cancel safe: yes, it only looks.
pub(super) async fn live(admin: SocketAddr) {
    while !says_yes(admin, "/live").await {
        sleep(PAUSE).await;
    }
}

/// Until every address takes a connection. Cancel safe: yes, it only looks.
pub(super) async fn application(addresses: &[SocketAddr]) {
    for address in addresses {
        while !matches!(timeout(LOOK, TcpStream::connect(address)).await, Ok(Ok(_))) {
            sleep(PAUSE).await;
        }
    }
}

async fn says_yes(admin: SocketAddr, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut head = [0_u8; 12];
        stream.read_exact(&mut head).await?;
        std::io::Result::Ok(head)
    };
    matches!(timeout(LOOK, ask).await, Ok(Ok(head)) if head.ends_with(b" 200"))
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, task::JoinSet};

    use super::*;

    #[tokio::test]
    async fn ready_is_200_after_whatever_came_before() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            for answer in [
                "HTTP/1.1 503 No\r\n\r\n",
                "nonsense",
                "HTTP/1.1 200 OK\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0_u8; 11];
                stream.read_exact(&mut asked).await.unwrap();
                assert_eq!(&asked, b"GET /ready ");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let patience = Duration::from_secs(20);
        timeout(patience, sidecar(address)).await.unwrap();
        timeout(patience, server.join_all()).await.unwrap();
    }
}
