//! The applications that call nobody: product, shipping and notifications.

use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tonic::body::Body;

use super::Call;
use crate::{catalog, reply};

/// `GET /api/v1/products` and `GET /api/v1/products/<sku>`.
pub(crate) fn product(call: &Call) -> Response<Body> {
    if call.method != Method::GET {
        return reply::not_found();
    }
    if call.path == "/api/v1/products" {
        return reply::json(StatusCode::OK, &json!({ "products": catalog::PRODUCTS }));
    }
    match call.path.strip_prefix("/api/v1/products/") {
        Some(sku) => match catalog::find(sku) {
            Some(product) => reply::json(StatusCode::OK, product),
            None => reply::error(StatusCode::NOT_FOUND, "no such product"),
        },
        None => reply::not_found(),
    }
}

/// What shipping and notifications are told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) order_id: String,
}

/// `POST /shipments`: 201 with the parcel.
pub(crate) fn shipping(call: &Call) -> Response<Body> {
    about_order(call, "/shipments", |id| {
        let parcel = json!({ "parcel_id": format!("pc-{id}"), "days": 2 });
        reply::json(StatusCode::CREATED, &parcel)
    })
}

/// `POST /notify`: 202.
pub(crate) fn notifications(call: &Call) -> Response<Body> {
    about_order(call, "/notify", |id| {
        reply::json(StatusCode::ACCEPTED, &json!({ "queued": id }))
    })
}

fn about_order(call: &Call, path: &str, answer: impl Fn(&str) -> Response<Body>) -> Response<Body> {
    if call.method != Method::POST || call.path != path {
        return reply::not_found();
    }
    match serde_json::from_slice::<Order>(&call.body) {
        Ok(order) => answer(&order.order_id),
        Err(error) => reply::error(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}
