//! The roles wired together without a mesh, on ports that the system picks: a checkout goes through
//! all of them, each can be broken and mended while it runs, and the counts are those of the
//! requests that were sent.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use outrigger_shop::pb::payments_client::PaymentsClient;
use outrigger_shop::pb::{ChargeReply, ChargeRequest};
use outrigger_shop::stats::Stats;
use outrigger_shop::{Addresses, App, Config, Fault, Mode, Role, Service};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(20);
const CHARGE: &str = "/outrigger.shop.v1.Payments/Charge";

type Http = Client<HttpConnector, Full<Bytes>>;

async fn start(role: Role, version: &str, peers: &[(Service, &App)]) -> App {
    let mut variables = HashMap::new();
    for (service, app) in peers {
        let name = service.name().to_uppercase().replace('-', "_");
        let at = app.local_addr();
        variables.insert(format!("{name}_SERVICE_HOST"), at.ip().to_string());
        variables.insert(format!("{name}_SERVICE_PORT"), at.port().to_string());
    }
    App::start(Config {
        role,
        version: version.to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        addresses: Addresses::new(|name| variables.get(name).cloned()).unwrap(),
    })
    .await
    .unwrap()
}

/// One of each, wired together.
struct Shop {
    inventory: App,
    payments: App,
    shipping: App,
    notifications: App,
    product: App,
    orders: App,
    storefront: App,
    http: Http,
}

impl Shop {
    async fn open() -> Self {
        let inventory = start(Role::Inventory, "v1", &[]).await;
        let payments = start(Role::Payments, "v2", &[]).await;
        let shipping = start(Role::Shipping, "v1", &[]).await;
        let notifications = start(Role::Notifications, "v3", &[]).await;
        let product = start(Role::Product, "v2", &[]).await;
        let behind_orders = [
            (Service::Inventory, &inventory),
            (Service::Payments, &payments),
            (Service::Shipping, &shipping),
            (Service::Notifications, &notifications),
        ];
        let orders = start(Role::Orders, "v1", &behind_orders).await;
        let behind_storefront = [
            (Service::OrderService, &orders),
            (Service::ProductService, &product),
        ];
        let storefront = start(Role::Storefront, "v1", &behind_storefront).await;
        Self {
            inventory,
            payments,
            shipping,
            notifications,
            product,
            orders,
            storefront,
            http: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn send(&self, app: &App, method: Method, path: &str, body: &str) -> Answer {
        send(&self.http, app, method, path, body).await
    }

    async fn checkout(&self, body: &str) -> Answer {
        self.send(&self.storefront, Method::POST, "/checkout", body)
            .await
    }
}

struct Answer {
    status: StatusCode,
    role: String,
    version: String,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn send(http: &Http, app: &App, method: Method, path: &str, body: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", app.local_addr()))
        .header("x-outrigger-attempt", "2")
        .body(Full::from(body.to_owned()))
        .unwrap();
    let exchange = async {
        let (head, body) = http.request(request).await.unwrap().into_parts();
        let header = |name: &str| head.headers[name].to_str().unwrap().to_owned();
        Answer {
            status: head.status,
            role: header("x-shop-role"),
            version: header("x-shop-version"),
            body: body.collect().await.unwrap().to_bytes(),
        }
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap()
}

async fn charge(at: SocketAddr) -> Result<tonic::Response<ChargeReply>, tonic::Status> {
    let mut client = PaymentsClient::connect(format!("http://{at}"))
        .await
        .unwrap();
    let request = ChargeRequest {
        order_id: "7".to_owned(),
        amount_cents: 1,
        card_token: "visa".to_owned(),
    };
    tokio::time::timeout(DEADLINE, client.charge(request))
        .await
        .unwrap()
}

fn only_path<'a>(stats: &'a Stats, path: &str) -> &'a outrigger_shop::stats::PathStats {
    assert_eq!(stats.paths.keys().collect::<Vec<_>>(), [path]);
    &stats.paths[path]
}

#[tokio::test]
async fn a_checkout_goes_through_every_application_once() {
    let shop = Shop::open().await;
    let cart = json!({"items": [{"sku": "rope", "quantity": 2}, {"sku": "mug", "quantity": 1}]});
    let answer = shop.checkout(&cart.to_string()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        (answer.role.as_str(), answer.version.as_str()),
        ("storefront", "v1")
    );
    let placed = answer.json();
    assert_eq!(placed["total_cents"], 2 * 2_450 + 1_200);
    assert_eq!(placed["notified"], true);
    let order = placed["order_id"].as_str().unwrap();
    assert_eq!(placed["charge_id"], format!("ch-{order}"));
    assert_eq!(
        placed["served_by"],
        json!({
            "order-service": "v1", "inventory": "v1", "payments": "v2",
            "shipping": "v1", "notifications": "v3",
        })
    );
    for (app, path, outcome) in [
        (&shop.storefront, "/checkout", "200"),
        (&shop.orders, "/orders", "201"),
        (
            &shop.inventory,
            "/outrigger.shop.v1.Inventory/Reserve",
            "200",
        ),
        (&shop.payments, CHARGE, "200"),
        (&shop.shipping, "/shipments", "201"),
        (&shop.notifications, "/notify", "202"),
    ] {
        let stats = app.stats();
        assert_eq!((stats.requests, stats.in_flight), (1, 0), "{path}");
        let of_path = only_path(&stats, path);
        assert_eq!(of_path.outcomes[outcome], 1, "{path}");
    }
    assert_eq!(shop.product.stats().requests, 0);
}

#[tokio::test]
async fn products_name_who_served_them() {
    let shop = Shop::open().await;
    let answer = shop
        .send(&shop.storefront, Method::GET, "/products", "")
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let value = answer.json();
    assert_eq!(value["served_by"], json!({"product-service": "v2"}));
    assert_eq!(
        value["products"].as_array().unwrap().len(),
        outrigger_shop::catalog::PRODUCTS.len()
    );
    let stats = shop.product.stats();
    assert_eq!(only_path(&stats, "/api/v1/products").requests, 1);
    // The header was on the customer's request; the storefront does not pass it on.
    assert_eq!(shop.storefront.stats().paths["/products"].attempts["2"], 1);
    assert!(stats.paths["/api/v1/products"].attempts.is_empty());
}

#[tokio::test]
async fn a_refusal_reaches_the_customer_as_such() {
    let shop = Shop::open().await;
    for (cart, status, word) in [
        ("{", StatusCode::BAD_REQUEST, "EOF"),
        (
            r#"{"items":[]}"#,
            StatusCode::BAD_REQUEST,
            "order-service: HTTP 400",
        ),
        (
            r#"{"items":[{"sku":"anchor","quantity":1}]}"#,
            StatusCode::NOT_FOUND,
            "order-service: HTTP 404",
        ),
        (
            r#"{"items":[{"sku":"mug","quantity":501}]}"#,
            StatusCode::CONFLICT,
            "1 to 500 can",
        ),
        (
            r#"{"items":[{"sku":"mug","quantity":1}],"card_token":"declined"}"#,
            StatusCode::CONFLICT,
            "the card is declined",
        ),
    ] {
        let answer = shop.checkout(cart).await;
        assert_eq!(answer.status, status, "{cart}");
        let value = answer.json();
        let error = value["error"].as_str().unwrap();
        assert!(error.contains(word), "{cart}: {error}");
    }
    // Only the declined card came as far as payments, and nothing was shipped.
    assert_eq!(shop.payments.stats().requests, 1);
    assert_eq!(shop.shipping.stats().requests, 0);
}

#[tokio::test]
async fn a_failing_application_fails_the_share_it_was_told_to() {
    let shop = Shop::open().await;
    let fault = r#"{"mode":"fail","status":503,"ratio":0.5}"#;
    let set = shop
        .send(&shop.payments, Method::POST, "/_control", fault)
        .await;
    assert_eq!(set.status, StatusCode::OK);
    assert_eq!(
        set.json(),
        json!({"mode": "fail", "status": 503, "delay_ms": 0, "ratio": 0.5})
    );
    assert_eq!(
        shop.send(&shop.payments, Method::GET, "/_control", "")
            .await
            .json(),
        set.json()
    );
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(shop.checkout("").await.status.as_u16());
    }
    assert_eq!(statuses, [200, 502, 200, 502]);
    let stats = shop.payments.stats();
    let outcomes = &only_path(&stats, CHARGE).outcomes;
    assert_eq!((outcomes["200"], outcomes["grpc-14"]), (2, 2));

    shop.send(
        &shop.payments,
        Method::POST,
        "/_control",
        r#"{"mode":"ok"}"#,
    )
    .await;
    assert_eq!(shop.checkout("").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_fault_that_makes_no_sense_changes_nothing() {
    let shop = Shop::open().await;
    let answer = shop
        .send(
            &shop.shipping,
            Method::POST,
            "/_control",
            r#"{"mode":"fail","status":42}"#,
        )
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(
        answer.json()["error"]
            .as_str()
            .unwrap()
            .contains("200..=599")
    );
    assert_eq!(shop.checkout("").await.status, StatusCode::OK);
    let wrong = shop
        .send(&shop.shipping, Method::PUT, "/_control", "")
        .await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_customer_who_cannot_be_notified_has_the_order_all_the_same() {
    let shop = Shop::open().await;
    shop.notifications.set_fault(Fault {
        status: 500,
        ..Fault::new(Mode::Fail)
    });
    let placed = shop.checkout("").await;
    assert_eq!(placed.status, StatusCode::OK);
    assert_eq!(placed.json()["notified"], false);
    assert_eq!(
        shop.notifications.stats().paths["/notify"].outcomes["500"],
        1
    );
}

#[tokio::test]
async fn what_hangs_is_answered_once_the_fault_is_gone() {
    let shop = Shop::open().await;
    shop.shipping.set_fault(Fault::new(Mode::Hang));
    let checkout = shop.checkout("");
    let mend = async {
        until(|| shop.shipping.stats().in_flight == 1).await;
        shop.shipping.set_fault(Fault::new(Mode::Ok));
    };
    let (answer, ()) = tokio::join!(checkout, mend);
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_caller_who_leaves_is_counted_as_abandoned() {
    let shop = Shop::open().await;
    shop.payments.set_fault(Fault::new(Mode::Hang));
    shop.shipping.set_fault(Fault::new(Mode::Hang));
    let shipment = send(
        &shop.http,
        &shop.shipping,
        Method::POST,
        "/shipments",
        r#"{"order_id":"7"}"#,
    );
    let hanging = async { tokio::join!(charge(shop.payments.local_addr()), shipment) };
    let seen =
        until(|| shop.payments.stats().in_flight == 1 && shop.shipping.stats().in_flight == 1);
    tokio::select! {
        _ = hanging => panic!("a hanging application has answered"),
        () = seen => {}
    }
    until(|| shop.payments.stats().in_flight == 0 && shop.shipping.stats().in_flight == 0).await;
    assert_eq!(shop.payments.stats().paths[CHARGE].outcomes["abandoned"], 1);
    assert_eq!(
        shop.shipping.stats().paths["/shipments"].outcomes["abandoned"],
        1
    );
}

#[tokio::test]
async fn a_slow_application_takes_its_time() {
    let payments = start(Role::Payments, "v1", &[]).await;
    payments.set_fault(Fault {
        delay_ms: 200,
        ..Fault::new(Mode::Slow)
    });
    let begun = std::time::Instant::now();
    let answer = charge(payments.local_addr()).await.unwrap().into_inner();
    assert_eq!(answer.version, "v1");
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn counts_are_read_and_reset_over_http() {
    let shop = Shop::open().await;
    shop.checkout("").await;
    shop.checkout("").await;
    let answer = shop.send(&shop.payments, Method::GET, "/_stats", "").await;
    let stats: Stats = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (stats.role.as_str(), stats.version.as_str(), stats.requests),
        ("payments", "v2", 2)
    );
    // Both charges on one connection, and this question on another.
    assert_eq!(stats.connections.accepted, 2);
    let reset = shop
        .send(&shop.payments, Method::DELETE, "/_stats", "")
        .await;
    assert_eq!(reset.json()["requests"], 0);
    shop.checkout("").await;
    assert_eq!(shop.payments.stats().requests, 1);
    assert_eq!(shop.payments.stats().connections.accepted, 0);
}

#[tokio::test]
async fn without_an_address_the_error_names_the_variables() {
    let orders = start(Role::Orders, "v1", &[]).await;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let order = r#"{"order_id":"7","items":[{"sku":"mug","quantity":1}],"card_token":"visa"}"#;
    let answer = send(&http, &orders, Method::POST, "/orders", order).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("INVENTORY_SERVICE_HOST"), "{error}");
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_refuses_what_comes() {
    let payments = start(Role::Payments, "v1", &[]).await;
    let at = payments.local_addr();
    payments.set_fault(Fault {
        delay_ms: 300,
        ..Fault::new(Mode::Slow)
    });
    let mut calls = tokio::task::JoinSet::new();
    calls.spawn(charge(at));
    until(|| payments.stats().in_flight == 1).await;
    payments.stop().await;
    let answer = calls.join_next().await.unwrap().unwrap();
    assert_eq!(answer.unwrap().into_inner().charge_id, "ch-7");
    assert!(tokio::net::TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_what_hangs() {
    let payments = start(Role::Payments, "v1", &[]).await;
    payments.set_fault(Fault::new(Mode::Hang));
    let mut calls = tokio::task::JoinSet::new();
    calls.spawn(charge(payments.local_addr()));
    until(|| payments.stats().in_flight == 1).await;
    let begun = std::time::Instant::now();
    payments.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4));
    let refused = calls.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
}

/// Waits until `done`, for at most the deadline.
async fn until(done: impl Fn() -> bool) {
    let waited = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.unwrap();
}
