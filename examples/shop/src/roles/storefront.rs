//! What customers talk to.
//!
//! | path | answer |
//! | --- | --- |
//! | `GET /` | a page |
//! | `GET /products` | what product-service has, and the version that said so |
//! | `POST /checkout` | places an order: `{"items":[{"sku","quantity"}],"card_token"}`, or an empty body for one mug |

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::body::Body;

use super::Call;
use super::orders::{Item, NewOrder, Placed};
use crate::peers::{Answer, CallError, Peers, Service};
use crate::reply;
use crate::trace::Trace;

const PAGE: &str = include_str!("storefront.html");

/// What a customer buys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cart {
    items: Vec<Item>,
    #[serde(default = "card_default")]
    card_token: String,
}

fn card_default() -> String {
    "visa".to_owned()
}

impl Cart {
    fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        if body.is_empty() {
            let mug = Item {
                sku: "mug".to_owned(),
                quantity: 1,
            };
            return Ok(Self {
                items: vec![mug],
                card_token: card_default(),
            });
        }
        serde_json::from_slice(body)
    }
}

#[derive(Debug)]
pub(crate) struct Storefront {
    peers: Peers,
    /// Sets this process's order ids apart from those of others and of the one before.
    started_ms: u128,
    orders: AtomicU64,
}

impl Storefront {
    pub(crate) fn new(peers: Peers) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            peers,
            started_ms: started.unwrap_or_default().as_millis(),
            orders: AtomicU64::new(0),
        }
    }

    pub(crate) async fn call(&self, call: Call) -> Response<Body> {
        match (&call.method, call.path.as_str()) {
            (&Method::GET, "/") => reply::bytes(
                StatusCode::OK,
                "text/html; charset=utf-8",
                Bytes::from_static(PAGE.as_bytes()),
            ),
            (&Method::GET, "/products") => answered(self.products(&call.trace).await),
            (&Method::POST, "/checkout") => match Cart::read(&call.body) {
                Ok(cart) => answered(self.checkout(cart, &call.trace).await),
                Err(error) => reply::error(StatusCode::BAD_REQUEST, &error.to_string()),
            },
            _ => reply::not_found(),
        }
    }

    async fn products(&self, trace: &Trace) -> Result<Value, CallError> {
        let answer = self
            .peers
            .get(Service::ProductService, "/api/v1/products", trace)
            .await?;
        let mut value: Value = parse(Service::ProductService, &answer)?;
        value["served_by"] = json!({ Service::ProductService.name(): answer.version });
        Ok(value)
    }

    async fn checkout(&self, cart: Cart, trace: &Trace) -> Result<Value, CallError> {
        let number = self.orders.fetch_add(1, Ordering::Relaxed);
        let order = NewOrder {
            order_id: format!("{:x}-{number}", self.started_ms),
            items: cart.items,
            card_token: cart.card_token,
        };
        let answer = self
            .peers
            .post(Service::OrderService, "/orders", trace, &order)
            .await?;
        let mut placed: Placed = parse(Service::OrderService, &answer)?;
        let name = Service::OrderService.name().to_owned();
        placed.served_by.insert(name, answer.version);
        Ok(json!(placed))
    }
}

fn answered(result: Result<Value, CallError>) -> Response<Body> {
    match result {
        Ok(value) => reply::json(StatusCode::OK, &value),
        Err(failure) => reply::call_failed(&failure),
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    service: Service,
    answer: &Answer<Bytes>,
) -> Result<T, CallError> {
    serde_json::from_slice(&answer.body).map_err(|error| CallError::Broken {
        service: service.name(),
        reason: format!("its answer does not parse: {error}"),
    })
}
