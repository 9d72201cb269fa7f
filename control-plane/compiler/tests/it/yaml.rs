//! YAML to the compiler's documents, with positions.

use std::{fmt, sync::Arc};

use outrigger_compiler::{
    Change, Compiler, Membership, Node, Object, Options, Position, Provenance, Source,
    document::{Entry, Value},
    read,
};
use outrigger_model::{AccessLog, Hostname, MeshSettings, Namespace, Tracing, TrustDomain};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value of YAML.
struct Raw(Value);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw(Value::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw(Value::Integer(i64::try_from(value).unwrap())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw(Value::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Raw>>()? {
            items.push(node(item));
        }
        Ok(Raw(Value::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let position = position(&key);
            entries.push(Entry {
                position,
                key: key.value,
                value: node(map.next_value::<Spanned<Raw>>()?),
            });
        }
        Ok(Raw(Value::Map(entries)))
    }
}

fn position<T>(spanned: &Spanned<T>) -> Position {
    Position {
        line: u32::try_from(spanned.referenced.line()).unwrap(),
        column: u32::try_from(spanned.referenced.column()).unwrap(),
    }
}

fn node(spanned: Spanned<Raw>) -> Node {
    Node::new(position(&spanned), spanned.value.0)
}

/// The documents of a YAML text.
pub(crate) fn nodes(text: &str) -> Vec<Node> {
    serde_saphyr::from_multiple::<Spanned<Raw>>(text)
        .unwrap()
        .into_iter()
        .map(node)
        .collect()
}

/// The objects of a YAML text; panics where it holds something else.
pub(crate) fn objects(text: &str) -> Vec<Arc<Object>> {
    let mut objects = Vec::new();
    for (document, node) in nodes(text).iter().enumerate() {
        let provenance = Provenance::File(Source {
            file: "case.yaml".into(),
            document: u32::try_from(document).unwrap(),
            position: node.position,
        });
        let reading = read(node, &provenance);
        assert_eq!(reading.diagnostics, [], "{text}");
        assert_eq!(reading.not_used, [], "{text}");
        objects.extend(reading.objects.into_iter().map(Arc::new));
    }
    objects
}

pub(crate) fn options() -> Options {
    Options {
        settings: MeshSettings {
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            cluster_domain: Hostname::parse("cluster.local").unwrap(),
            access_log: AccessLog::Failures,
            tracing: Tracing::Off,
            drain_timeout: std::time::Duration::from_secs(30),
        },
        root_namespace: Namespace::parse("outrigger-system").unwrap(),
        membership: Membership::Labelled,
    }
}

/// A compiler with the objects of a YAML text.
pub(crate) fn compile(text: &str) -> Compiler {
    compile_with(options(), text)
}

/// The same as another mesh compiles it.
pub(crate) fn compile_with(options: Options, text: &str) -> Compiler {
    let mut compiler = Compiler::new(options);
    compiler.apply(objects(text).into_iter().map(Change::Upsert));
    compiler
}
