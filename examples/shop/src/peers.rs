//! Calls to the other applications, at the addresses in the environment.
//!
//! HTTP/1.1 calls share one client with kept-alive connections; each gRPC service has one HTTP/2
//! connection, opened at the first call and reopened when it breaks. No call is retried here: that
//! is the mesh's work. Each has a deadline well above any in `mesh/`, so that the mesh's count.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use crate::reply;
use crate::trace::Trace;

const TIMEOUT_CONNECT: Duration = Duration::from_secs(5);
const TIMEOUT_CALL: Duration = Duration::from_secs(30);
/// The largest answer read; the shop's are below 1 KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Idle connections kept to each address: more than the demo's concurrency.
const IDLE_MAX: usize = 64;

/// A Kubernetes Service of the shop that other applications call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Role `orders`.
    OrderService,
    /// Role `product`.
    ProductService,
    /// Role `inventory`, gRPC.
    Inventory,
    /// Role `payments`, gRPC.
    Payments,
    /// Role `shipping`.
    Shipping,
    /// Role `notifications`.
    Notifications,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::OrderService,
        Self::ProductService,
        Self::Inventory,
        Self::Payments,
        Self::Shipping,
        Self::Notifications,
    ];

    /// The Service's name in Kubernetes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OrderService => "order-service",
            Self::ProductService => "product-service",
            Self::Inventory => "inventory",
            Self::Payments => "payments",
            Self::Shipping => "shipping",
            Self::Notifications => "notifications",
        }
    }

    /// The environment variable that Kubernetes sets for it: `what` is `HOST` or `PORT`.
    fn variable(self, what: &str) -> String {
        let name = self.name().to_ascii_uppercase().replace('-', "_");
        format!("{name}_SERVICE_{what}")
    }
}

/// A `*_SERVICE_HOST` or `*_SERVICE_PORT` with a value that cannot be called.
#[derive(Debug, thiserror::Error)]
#[error("{variable}={value:?} is no {wanted}")]
pub struct AddressError {
    variable: String,
    value: String,
    wanted: &'static str,
}

/// Where the other services are.
#[derive(Clone, Debug, Default)]
pub struct Addresses(BTreeMap<Service, Uri>);

impl Addresses {
    /// Looks up `<SERVICE>_SERVICE_HOST` and `<SERVICE>_SERVICE_PORT` of each service. One that
    /// lacks either is left out: calling it is an error that names the variables.
    ///
    /// # Errors
    /// On a port that is not within 1..=65535, or a host that cannot stand in a URI.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Result<Self, AddressError> {
        let mut found = BTreeMap::new();
        for service in Service::ALL {
            let (host_name, port_name) = (service.variable("HOST"), service.variable("PORT"));
            let (Some(host), Some(port)) = (variable(&host_name), variable(&port_name)) else {
                continue;
            };
            if port.parse::<u16>().unwrap_or(0) == 0 {
                return Err(AddressError {
                    variable: port_name,
                    value: port,
                    wanted: "port",
                });
            }
            let authority = if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            };
            let uri = Uri::builder()
                .scheme("http")
                .authority(authority)
                .path_and_query("/")
                .build()
                .map_err(|_| AddressError {
                    variable: host_name,
                    value: host,
                    wanted: "host",
                })?;
            found.insert(service, uri);
        }
        Ok(Self(found))
    }

    fn get(&self, service: Service) -> Result<&Uri, CallError> {
        self.0
            .get(&service)
            .ok_or_else(|| CallError::no_address(service))
    }
}

/// Why a call failed, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The environment does not say where the service is.
    #[error("no address: set {host} and {port}")]
    NoAddress {
        /// The variable of the host.
        host: String,
        /// The variable of the port.
        port: String,
    },
    /// No connection, or it broke before the answer was whole.
    #[error("{service}: {reason}")]
    Broken {
        /// Who was called.
        service: &'static str,
        /// What happened, with its causes.
        reason: String,
    },
    /// No answer in time.
    #[error("{service}: no answer in {TIMEOUT_CALL:?}")]
    Late {
        /// Who was called.
        service: &'static str,
    },
    /// An answer that is not success, over HTTP.
    #[error("{service}: HTTP {status}{}", reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default())]
    Status {
        /// Who was called.
        service: &'static str,
        /// The answer's status.
        status: StatusCode,
        /// Why the mesh answered instead of the service (`x-outrigger-reason`), or what the
        /// service said.
        reason: Option<String>,
    },
    /// An answer that is not success, over gRPC.
    #[error("{service}: gRPC {:?}: {message}", code)]
    Grpc {
        /// Who was called.
        service: &'static str,
        /// The answer's status.
        code: tonic::Code,
        /// The answer's message.
        message: String,
    },
}

impl CallError {
    pub(crate) fn no_address(service: Service) -> Self {
        Self::NoAddress {
            host: service.variable("HOST"),
            port: service.variable("PORT"),
        }
    }

    /// The status to answer one's own caller with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoAddress { .. } | Self::Broken { .. } => StatusCode::BAD_GATEWAY,
            Self::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Status { status, .. } => match *status {
                StatusCode::GATEWAY_TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
                refused if refused.is_client_error() => refused,
                _ => StatusCode::BAD_GATEWAY,
            },
            Self::Grpc { code, .. } => match code {
                tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
                tonic::Code::NotFound => StatusCode::NOT_FOUND,
                tonic::Code::FailedPrecondition => StatusCode::CONFLICT,
                tonic::Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::BAD_GATEWAY,
            },
        }
    }
}

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// `x-shop-version` of who answered.
    pub(crate) version: String,
    pub(crate) body: T,
}

/// The clients of one application.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    http: Client<HttpConnector, Full<Bytes>>,
    addresses: Addresses,
}

impl Peers {
    pub(crate) fn new(addresses: Addresses) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT_CONNECT));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        Self { http, addresses }
    }

    /// The channel to a gRPC service; it connects at the first call.
    pub(crate) fn channel(&self, service: Service) -> Result<Channel, CallError> {
        let uri = self.addresses.get(service)?.clone();
        Ok(Endpoint::from(uri)
            .connect_timeout(TIMEOUT_CONNECT)
            .timeout(TIMEOUT_CALL)
            .connect_lazy())
    }

    pub(crate) async fn get(
        &self,
        service: Service,
        path: &str,
        trace: &Trace,
    ) -> Result<Answer<Bytes>, CallError> {
        self.call(service, Method::GET, path, trace, Bytes::new())
            .await
    }

    pub(crate) async fn post<T: Serialize + Sync>(
        &self,
        service: Service,
        path: &str,
        trace: &Trace,
        value: &T,
    ) -> Result<Answer<Bytes>, CallError> {
        let body = serde_json::to_vec(value).map_err(|error| broken(service, &error))?;
        self.call(service, Method::POST, path, trace, body.into())
            .await
    }

    /// Cancel safe: yes, a dropped call closes or returns its connection.
    async fn call(
        &self,
        service: Service,
        method: Method,
        path: &str,
        trace: &Trace,
        body: Bytes,
    ) -> Result<Answer<Bytes>, CallError> {
        let mut uri = self.addresses.get(service)?.clone().into_parts();
        uri.path_and_query = Some(path.parse().map_err(|error| broken(service, &error))?);
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| broken(service, &error))?;
        if method == Method::POST {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        *request.method_mut() = method;
        trace.put(request.headers_mut());

        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| broken(service, &error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| broken(service, error.as_ref()))?;
            if !head.status.is_success() {
                return Err(CallError::Status {
                    service: service.name(),
                    status: head.status,
                    reason: text(&head.headers, "x-outrigger-reason")
                        .or_else(|| reply::reason(&body.to_bytes())),
                });
            }
            Ok(Answer {
                version: text(&head.headers, "x-shop-version").unwrap_or_default(),
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(TIMEOUT_CALL, exchange)
            .await
            .unwrap_or(Err(CallError::Late {
                service: service.name(),
            }))
    }
}

/// A gRPC request that carries the trace.
pub(crate) fn grpc_request<T>(message: T, trace: &Trace) -> tonic::Request<T> {
    let mut headers = HeaderMap::new();
    trace.put(&mut headers);
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}

/// Unwraps the answer of a gRPC call to `service`.
pub(crate) fn grpc_answer<T>(
    service: Service,
    result: Result<tonic::Response<T>, tonic::Status>,
) -> Result<Answer<T>, CallError> {
    match result {
        Ok(response) => {
            let version = response
                .metadata()
                .get("x-shop-version")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            Ok(Answer {
                version,
                body: response.into_inner(),
            })
        }
        Err(status) => Err(CallError::Grpc {
            service: service.name(),
            code: status.code(),
            message: status.message().to_owned(),
        }),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn broken(service: Service, error: &(dyn std::error::Error + 'static)) -> CallError {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    CallError::Broken {
        service: service.name(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(pairs: &[(&str, &str)]) -> Result<Addresses, AddressError> {
        Addresses::new(|name| {
            let (_, value) = pairs.iter().find(|(key, _)| *key == name)?;
            Some((*value).to_owned())
        })
    }

    #[test]
    fn services_are_found_as_kubernetes_names_them() {
        let found = addresses(&[
            ("ORDER_SERVICE_SERVICE_HOST", "127.1.0.1"),
            ("ORDER_SERVICE_SERVICE_PORT", "20001"),
            ("SHIPPING_SERVICE_HOST", "::1"),
            ("SHIPPING_SERVICE_PORT", "80"),
            ("PAYMENTS_SERVICE_HOST", "127.1.0.1"),
        ])
        .unwrap();
        let orders = found.get(Service::OrderService).unwrap();
        assert_eq!(orders.to_string(), "http://127.1.0.1:20001/");
        let shipping = found.get(Service::Shipping).unwrap();
        assert_eq!(shipping.to_string(), "http://[::1]:80/");
        let missing = found.get(Service::Payments).unwrap_err().to_string();
        assert!(missing.contains("PAYMENTS_SERVICE_PORT"), "{missing}");
    }

    #[test]
    fn an_address_that_cannot_be_called_is_refused_by_name() {
        for (host, port, name) in [
            ("127.0.0.1", "0", "SHIPPING_SERVICE_PORT"),
            ("127.0.0.1", "tcp://10.0.0.1:80", "SHIPPING_SERVICE_PORT"),
            ("a b", "80", "SHIPPING_SERVICE_HOST"),
        ] {
            let error = addresses(&[
                ("SHIPPING_SERVICE_HOST", host),
                ("SHIPPING_SERVICE_PORT", port),
            ])
            .unwrap_err()
            .to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
