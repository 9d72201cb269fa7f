//! The gRPC connection to the control plane: TLS from the first byte, and the check that the
//! other end is the control plane (DESIGN §6).

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use outrigger_model::SpiffeId;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{bootstrap::ControlPlaneAddress, tls::identity_of};

/// TCP and TLS together (DEF-11, DEF-16 for outside).
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// One address of several.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// A dead control plane is noticed after both (DEF-17).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the control plane is and who it must be.
#[derive(Debug, Clone)]
pub(super) struct ControlPlane {
    /// Its address, resolved anew for each connection.
    pub(super) address: ControlPlaneAddress,
    /// The identity it must prove.
    pub(super) identity: SpiffeId,
}

/// Connects. The channel does not connect again by itself unseen: its owner sees the stream end
/// and calls this again, with its own backoff.
///
/// # Errors
/// When the control plane is not reachable, or not who it should be.
pub(super) async fn connect(
    to: &ControlPlane,
    tls: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let ControlPlane { address, identity } = to.clone();
    // The scheme says plain because the connector below owns TLS.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint
        .connect_with_connector(service_fn(move |_: Uri| {
            let (tls, identity) = (Arc::clone(&tls), identity.clone());
            let address = address.clone();
            async move { secure(&address, tls, &identity).await.map(TokioIo::new) }
        }))
        .await
}

/// The first address of the host that accepts: a host name of several replicas leads to one that
/// lives. All within [`CONNECT_MAX`].
async fn dial(to: &ControlPlaneAddress) -> io::Result<TcpStream> {
    let mut last = None;
    for address in lookup_host((to.host(), to.port())).await? {
        match timeout(DIAL_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Some(error),
            Err(late) => last = Some(late.into()),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other(format!("{} has no address", to.host()))))
}

async fn secure(
    address: &ControlPlaneAddress,
    tls: Arc<ClientConfig>,
    expected: &SpiffeId,
) -> io::Result<TlsStream<TcpStream>> {
    let connecting = async {
        let stream = dial(address).await?;
        stream.set_nodelay(true)?;
        // Who it is stands in its SPIFFE identity, not in a host name.
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        TlsConnector::from(tls).connect(name, stream).await
    };
    let stream = timeout(CONNECT_MAX, connecting).await??;
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    let proven = leaf
        .map(identity_of)
        .transpose()
        .map_err(io::Error::other)?;
    match proven {
        Some(proven) if proven == *expected => Ok(stream),
        Some(proven) => Err(io::Error::other(format!(
            "{address} is {proven}, but the control plane is {expected}: check the address"
        ))),
        None => Err(io::Error::other(format!("{address} showed no certificate"))),
    }
}
