//! The applications behind the roles, and the choice between them.

mod inventory;
mod orders;
mod payments;
mod simple;
mod storefront;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::Service as _;

use crate::args::Role;
use crate::exchange;
use crate::pb::inventory_server::InventoryServer;
use crate::pb::payments_server::PaymentsServer;
use crate::peers::Peers;
use crate::reply;
use crate::trace::Trace;

/// A request of an HTTP role, read whole.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) trace: Trace,
    pub(crate) body: bytes::Bytes,
}

/// One application.
#[derive(Debug)]
pub(crate) enum Application {
    Storefront(Box<storefront::Storefront>),
    Orders(Box<orders::Orders>),
    Product,
    Shipping,
    Notifications,
    Inventory(InventoryServer<inventory::Warehouse>),
    Payments(PaymentsServer<payments::Cashier>),
}

impl Application {
    pub(crate) fn new(role: Role, version: &str, peers: Peers) -> Self {
        match role {
            Role::Storefront => Self::Storefront(Box::new(storefront::Storefront::new(peers))),
            Role::Orders => Self::Orders(Box::new(orders::Orders::new(peers))),
            Role::Product => Self::Product,
            Role::Shipping => Self::Shipping,
            Role::Notifications => Self::Notifications,
            Role::Inventory => Self::Inventory(InventoryServer::new(inventory::Warehouse)),
            Role::Payments => Self::Payments(PaymentsServer::new(payments::Cashier::new(version))),
        }
    }

    /// Answers one request. Cancel safe: as far as the shop has no state, yes; what was already
    /// called stays called.
    pub(crate) async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        match self {
            Self::Inventory(server) => {
                let Ok(response) = server.clone().call(request).await;
                return response;
            }
            Self::Payments(server) => {
                let Ok(response) = server.clone().call(request).await;
                return response;
            }
            Self::Storefront(_)
            | Self::Orders(_)
            | Self::Product
            | Self::Shipping
            | Self::Notifications => {}
        }
        let call = match read(request).await {
            Ok(call) => call,
            Err(refusal) => return refusal,
        };
        match self {
            Self::Storefront(storefront) => storefront.call(call).await,
            Self::Orders(orders) => orders.call(call).await,
            Self::Product => simple::product(&call),
            Self::Shipping => simple::shipping(&call),
            Self::Notifications => simple::notifications(&call),
            Self::Inventory(_) | Self::Payments(_) => reply::not_found(),
        }
    }
}

async fn read(request: Request<Incoming>) -> Result<Call, Response<Body>> {
    let (head, body) = request.into_parts();
    Ok(Call {
        body: exchange::read(body).await?,
        trace: Trace::of(&head.headers),
        path: head.uri.path().to_owned(),
        method: head.method,
    })
}
