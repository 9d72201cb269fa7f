//! A fake API server for tests: objects with versions, lists in pages or as a stream, watches that
//! can be closed, frozen or told that they are too old, and outages.
//!
//! Longer than most, because lists, watches and outages of one server share its versions.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;

type Answer = Response<BoxBody<Bytes, Infallible>>;
type Hook = Box<dyn Fn(&Value) -> (u16, Value) + Send>;

/// How the server fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    None,
    /// Connections are refused.
    Cut,
    /// Nothing answers.
    Hang,
    /// Every call gets this status.
    Code(u16),
}

struct Watcher {
    collection: String,
    name: Option<String>,
    bytes: mpsc::Sender<Bytes>,
}

/// The server's state.
pub(crate) struct World {
    version: u64,
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    history: Vec<(u64, String, &'static str, Value)>,
    compacted: u64,
    watchers: Vec<Watcher>,
    frozen: Vec<Watcher>,
    pub(crate) streams_lists: bool,
    pub(crate) page: usize,
    pub(crate) outage: Outage,
    /// Plurals that each version of a group serves, by path of the version.
    pub(crate) served: BTreeMap<String, BTreeSet<String>>,
    /// Answers POSTs to a path.
    pub(crate) hooks: BTreeMap<String, Hook>,
    /// Paths and queries of all calls.
    pub(crate) calls: Vec<String>,
}

/// A handle to a fake server.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(World {
            version: 100,
            objects: BTreeMap::new(),
            history: Vec::new(),
            compacted: 0,
            watchers: Vec::new(),
            frozen: Vec::new(),
            streams_lists: true,
            page: 500,
            outage: Outage::None,
            served: BTreeMap::new(),
            hooks: BTreeMap::new(),
            calls: Vec::new(),
        })))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(crate) fn api(&self) -> Api {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| -> BoxFuture<'static, _> {
            let fake = fake.clone();
            Box::pin(async move { fake.answer(request).await })
        });
        Api::new(Client::new(service, "default"))
    }

    async fn answer(&self, request: Request<Body>) -> io::Result<Answer> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = head.uri.path().to_owned();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let outage = {
            let mut world = self.world();
            world.calls.push(format!("{} {path}?{query}", head.method));
            world.outage
        };
        match outage {
            Outage::None => Ok(self.world().answer(&head.method, &path, &query, body)),
            Outage::Cut => Err(io::ErrorKind::ConnectionRefused.into()),
            Outage::Hang => std::future::pending().await,
            Outage::Code(code) => Ok(refuse(code, "an outage")),
        }
    }
}

impl World {
    /// Puts an object into a collection such as `/api/v1/pods`.
    pub(crate) fn put(&mut self, collection: &str, object: Value) {
        self.store(collection, object);
    }

    fn store(&mut self, collection: &str, mut object: Value) -> Value {
        self.version += 1;
        let key = key_of(&object);
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let objects = self.objects.entry(collection.to_owned()).or_default();
        let kind = match objects.insert(key, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.tell(collection, kind, object.clone());
        object
    }

    /// Deletes an object, if it is there.
    pub(crate) fn delete(&mut self, collection: &str, key: &str) {
        let objects = self.objects.entry(collection.to_owned()).or_default();
        if let Some(mut object) = objects.remove(key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.tell(collection, "DELETED", object);
        }
    }

    /// Every object of a collection.
    pub(crate) fn all(&self, collection: &str) -> Vec<Value> {
        let objects = self.objects.get(collection);
        objects
            .into_iter()
            .flat_map(|all| all.values().cloned())
            .collect()
    }

    fn tell(&mut self, collection: &str, kind: &'static str, object: Value) {
        let line = line(kind, &object);
        self.watchers.retain(|watcher| {
            watcher.collection != collection
                || !watcher.wants(&object)
                || watcher.bytes.try_send(line.clone()).is_ok()
        });
        self.history
            .push((self.version, collection.to_owned(), kind, object));
    }

    /// Sends the last events of a collection to its watchers again.
    pub(crate) fn repeat(&self, collection: &str, events: usize) {
        let of = self.history.iter().filter(|(_, of, ..)| of == collection);
        let of: Vec<_> = of.collect();
        for (_, _, kind, object) in of.iter().skip(of.len().saturating_sub(events)) {
            for watcher in self
                .watchers
                .iter()
                .filter(|one| one.collection == collection)
            {
                watcher.bytes.try_send(line(kind, object)).ok();
            }
        }
    }

    /// Sends a bookmark to every watcher.
    pub(crate) fn bookmark(&self) {
        let bookmark = json!({"metadata": {"resourceVersion": self.version.to_string()}});
        for watcher in &self.watchers {
            watcher.bytes.try_send(line("BOOKMARK", &bookmark)).ok();
        }
    }

    /// Closes every watch in order.
    pub(crate) fn close(&mut self) {
        self.watchers.clear();
        self.frozen.clear();
    }

    /// Every open watch stays open, and nothing comes any more.
    pub(crate) fn freeze(&mut self) {
        self.frozen.append(&mut self.watchers);
    }

    /// Forgets the past: whoever asks for it is told that it is gone.
    pub(crate) fn compact(&mut self) {
        self.version += 1;
        self.compacted = self.version;
        self.history.clear();
        let gone = json!({"kind": "Status", "code": 410, "reason": "Expired"});
        for watcher in self.watchers.drain(..) {
            watcher.bytes.try_send(line("ERROR", &gone)).ok();
        }
    }

    /// Calls whose path and query contain all of these.
    pub(crate) fn count(&self, parts: &[&str]) -> usize {
        let calls = self.calls.iter();
        calls
            .filter(|call| parts.iter().all(|part| call.contains(part)))
            .count()
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> Answer {
        let query: BTreeMap<&str, &str> = query
            .split('&')
            .filter_map(|part| part.split_once('='))
            .collect();
        if let Some(names) = self.served.get(path) {
            let names = names.iter().map(|name| json!({"name": name}));
            return ok(&json!({"resources": names.collect::<Vec<_>>()}));
        }
        if let Some(hook) = self.hooks.get(path) {
            let (code, answer) = hook(&body);
            return if code < 300 {
                ok(&answer)
            } else {
                refuse(code, "refused")
            };
        }
        let place = Place::of(path);
        let name = query
            .get("fieldSelector")
            .and_then(|it| it.strip_prefix("metadata.name%3D"));
        match (method.as_str(), &place.name) {
            ("GET", None) if query.contains_key("watch") => self.watch(&place, name, &query),
            ("GET", None) => self.list(&place, &query),
            (_, name) => {
                let key = format!(
                    "{}/{}",
                    place.namespace,
                    name.as_deref().unwrap_or_default()
                );
                self.one(method.as_str(), &place, &key, body)
            }
        }
    }

    fn one(&mut self, method: &str, place: &Place, key: &str, mut body: Value) -> Answer {
        let present = self
            .objects
            .get(&place.collection)
            .and_then(|all| all.get(key))
            .cloned();
        match (method, present) {
            ("GET", Some(object)) => ok(&object),
            ("GET" | "PUT" | "PATCH", None) => refuse(404, "not found"),
            ("POST", _) => {
                if !place.namespace.is_empty() {
                    body["metadata"]["namespace"] = place.namespace.clone().into();
                }
                let key = key_of(&body);
                if self
                    .objects
                    .get(&place.collection)
                    .is_some_and(|all| all.contains_key(&key))
                {
                    return refuse(409, "already exists");
                }
                ok(&self.store(&place.collection, body))
            }
            ("PUT", Some(object)) => {
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                if version(&body) != version(&object) {
                    return refuse(409, "the object has been modified");
                }
                ok(&self.store(&place.collection, body))
            }
            ("PATCH", Some(mut object)) => {
                match body.as_array() {
                    Some(operations) => {
                        if !operate(&mut object, operations) {
                            return refuse(422, "a test failed");
                        }
                    }
                    None => object["data"] = body["data"].clone(),
                }
                ok(&self.store(&place.collection, object))
            }
            _ => refuse(405, "method not allowed"),
        }
    }

    fn list(&self, place: &Place, query: &BTreeMap<&str, &str>) -> Answer {
        let from: usize = query
            .get("continue")
            .map_or(0, |from| from.parse().unwrap());
        let all = self.all(&place.collection);
        let items: Vec<_> = all.iter().skip(from).take(self.page).collect();
        let next = from + items.len();
        let next = if next < all.len() {
            next.to_string()
        } else {
            String::new()
        };
        let version = self.version.to_string();
        ok(&json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items}))
    }

    fn watch(&mut self, place: &Place, name: Option<&str>, query: &BTreeMap<&str, &str>) -> Answer {
        let (bytes, lines) = mpsc::channel(4_096);
        let watcher = Watcher {
            collection: place.collection.clone(),
            name: name.map(str::to_owned),
            bytes,
        };
        if query.contains_key("sendInitialEvents") {
            if !self.streams_lists {
                return refuse(422, "sendInitialEvents is forbidden");
            }
            let wanted = |object: &Value| watcher.wants(object);
            for object in self
                .all(&place.collection)
                .iter()
                .filter(|object| wanted(object))
            {
                watcher.bytes.try_send(line("ADDED", object)).unwrap();
            }
            let end = json!({"metadata": {"resourceVersion": self.version.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"}}});
            watcher.bytes.try_send(line("BOOKMARK", &end)).unwrap();
        } else {
            let from: u64 = query["resourceVersion"].parse().unwrap();
            if from < self.compacted {
                return refuse(410, "too old resource version");
            }
            for (version, collection, kind, object) in &self.history {
                if *version > from && *collection == place.collection && watcher.wants(object) {
                    watcher.bytes.try_send(line(kind, object)).unwrap();
                }
            }
        }
        self.watchers.push(watcher);
        let frames = ReceiverStream::new(lines).map(|bytes| Ok(Frame::data(bytes)));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    }
}

impl Watcher {
    fn wants(&self, object: &Value) -> bool {
        let name = object["metadata"]["name"].as_str();
        self.name.is_none() || self.name.as_deref() == name
    }
}

/// What a path means.
struct Place {
    collection: String,
    namespace: String,
    name: Option<String>,
}

impl Place {
    fn of(path: &str) -> Self {
        if let Some((prefix, rest)) = path.split_once("/namespaces/") {
            let parts: Vec<&str> = rest.split('/').collect();
            return Self {
                collection: format!("{prefix}/{}", parts[1]),
                namespace: parts[0].to_owned(),
                name: parts.get(2).map(|name| (*name).to_owned()),
            };
        }
        // `/api/v1/PLURAL/NAME`, `/apis/GROUP/VERSION/PLURAL/NAME`.
        let slashes = if path.starts_with("/apis/") { 5 } else { 4 };
        let (collection, name) = match path.rsplit_once('/') {
            Some((collection, name)) if path.matches('/').count() == slashes => {
                (collection, Some(name.to_owned()))
            }
            _ => (path, None),
        };
        Self {
            collection: collection.to_owned(),
            namespace: String::new(),
            name,
        }
    }
}

/// `test` and `add` of RFC 6902, to fields. Says whether every test holds.
fn operate(object: &mut Value, operations: &[Value]) -> bool {
    operations.iter().all(|operation| {
        let path = operation["path"].as_str().unwrap();
        let value = &operation["value"];
        if operation["op"] == "test" {
            return object.pointer(path) == Some(value);
        }
        let (parent, field) = path.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
        true
    })
}

fn key_of(object: &Value) -> String {
    let text = |key: &str| {
        object["metadata"][key]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    format!("{}/{}", text("namespace"), text("name"))
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn ok(value: &Value) -> Answer {
    answer(200, value)
}

fn refuse(code: u16, message: &str) -> Answer {
    answer(
        code,
        &json!({"kind": "Status", "code": code, "message": message}),
    )
}

fn answer(code: u16, value: &Value) -> Answer {
    let bytes = Bytes::from(value.to_string());
    let frames = stream::iter([Ok::<_, Infallible>(Frame::data(bytes))]);
    let body = BodyExt::boxed(StreamBody::new(frames));
    Response::builder().status(code).body(body).unwrap()
}
