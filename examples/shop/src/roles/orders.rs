//! Takes an order and works it off: reserve, charge, ship, notify, one after the other.
//!
//! `POST /orders` with [`NewOrder`] answers 201 with [`Placed`]. The first of reserve, charge and
//! ship to fail ends the order with that failure; a customer who cannot be notified still has it.

use std::collections::BTreeMap;

use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tonic::body::Body;
use tonic::transport::Channel;

use super::Call;
use super::simple::Order;
use crate::pb::inventory_client::InventoryClient;
use crate::pb::payments_client::PaymentsClient;
use crate::pb::{ChargeRequest, Line, ReserveRequest};
use crate::peers::{CallError, Peers, Service, grpc_answer, grpc_request};
use crate::trace::Trace;
use crate::{catalog, reply};

/// One line of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) quantity: u32,
}

/// An order to place. Its id comes from the storefront: each attempt of one order has the same.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewOrder {
    pub(crate) order_id: String,
    pub(crate) items: Vec<Item>,
    pub(crate) card_token: String,
}

/// An order that was placed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) order_id: String,
    pub(crate) charge_id: String,
    pub(crate) total_cents: u64,
    pub(crate) notified: bool,
    /// The version that answered, by service.
    pub(crate) served_by: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Orders {
    peers: Peers,
    /// One connection a service, shared by all orders; `None` without its address.
    inventory: Option<InventoryClient<Channel>>,
    payments: Option<PaymentsClient<Channel>>,
}

impl Orders {
    pub(crate) fn new(peers: Peers) -> Self {
        let channel = |service| peers.channel(service).ok();
        Self {
            inventory: channel(Service::Inventory).map(InventoryClient::new),
            payments: channel(Service::Payments).map(PaymentsClient::new),
            peers,
        }
    }

    pub(crate) async fn call(&self, call: Call) -> Response<Body> {
        if call.method != Method::POST || call.path != "/orders" {
            return reply::not_found();
        }
        let order = match serde_json::from_slice::<NewOrder>(&call.body) {
            Ok(order) => order,
            Err(error) => return reply::error(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let Some(total_cents) = total(&order.items) else {
            return reply::error(StatusCode::NOT_FOUND, "an item has no such product");
        };
        match self.place(order, total_cents, &call.trace).await {
            Ok(placed) => reply::json(StatusCode::CREATED, &placed),
            Err(failure) => reply::call_failed(&failure),
        }
    }

    async fn place(
        &self,
        order: NewOrder,
        total_cents: u64,
        trace: &Trace,
    ) -> Result<Placed, CallError> {
        let mut served_by = BTreeMap::new();
        let mut note = |service: Service, version: String| {
            served_by.insert(service.name().to_owned(), version);
        };
        let about = Order {
            order_id: order.order_id.clone(),
        };

        note(Service::Inventory, self.reserve(&order, trace).await?);
        let (charge_id, version) = self.charge(&order, total_cents, trace).await?;
        note(Service::Payments, version);
        let shipped = self
            .peers
            .post(Service::Shipping, "/shipments", trace, &about)
            .await?;
        note(Service::Shipping, shipped.version);
        let notified = self
            .peers
            .post(Service::Notifications, "/notify", trace, &about)
            .await;
        let notified = match notified {
            Ok(answer) => {
                note(Service::Notifications, answer.version);
                true
            }
            Err(_) => false,
        };
        Ok(Placed {
            order_id: order.order_id,
            charge_id,
            total_cents,
            notified,
            served_by,
        })
    }

    /// The version that answered.
    async fn reserve(&self, order: &NewOrder, trace: &Trace) -> Result<String, CallError> {
        let lines = order.items.iter().map(|item| Line {
            sku: item.sku.clone(),
            quantity: item.quantity,
        });
        let request = ReserveRequest {
            order_id: order.order_id.clone(),
            lines: lines.collect(),
        };
        let Some(client) = &self.inventory else {
            return Err(CallError::no_address(Service::Inventory));
        };
        let result = client.clone().reserve(grpc_request(request, trace)).await;
        Ok(grpc_answer(Service::Inventory, result)?.version)
    }

    /// The charge, and the version that answered.
    async fn charge(
        &self,
        order: &NewOrder,
        amount_cents: u64,
        trace: &Trace,
    ) -> Result<(String, String), CallError> {
        let request = ChargeRequest {
            order_id: order.order_id.clone(),
            amount_cents,
            card_token: order.card_token.clone(),
        };
        let Some(client) = &self.payments else {
            return Err(CallError::no_address(Service::Payments));
        };
        let result = client.clone().charge(grpc_request(request, trace)).await;
        let answer = grpc_answer(Service::Payments, result)?;
        Ok((answer.body.charge_id, answer.version))
    }
}

/// What the items cost; `None` if one of them is not for sale.
fn total(items: &[Item]) -> Option<u64> {
    items.iter().try_fold(0_u64, |sum, item| {
        let product = catalog::find(&item.sku)?;
        sum.checked_add(product.price_cents.checked_mul(item.quantity.into())?)
    })
}
