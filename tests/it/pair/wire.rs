//! Peers that speak bytes: what hyper would not send, and what is no HTTP.

use std::{future::Future, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::mesh::{Mesh, listener};

/// A server that runs `talk` for each connection.
pub(super) async fn server<T, F>(mesh: &Mesh, talk: T) -> SocketAddr
where
    T: Fn(TcpStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let (listener, address) = listener().await;
    let tasks = mesh.tasks.clone();
    mesh.tasks.spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tasks.spawn_local(talk(stream));
        }
    });
    address
}

/// Reads until `end` has come; panics when the stream ends before.
pub(super) async fn until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => read.push(byte[0]),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&read)),
        }
    }
    String::from_utf8(read).unwrap()
}

/// Sends `bytes`.
pub(super) async fn say(stream: &mut TcpStream, bytes: &str) {
    stream.write_all(bytes.as_bytes()).await.unwrap();
}

/// Everything until the peer's end; an abrupt end counts as one.
pub(super) async fn rest(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let _abrupt = stream.read_to_end(&mut read).await;
    String::from_utf8_lossy(&read).into_owned()
}
