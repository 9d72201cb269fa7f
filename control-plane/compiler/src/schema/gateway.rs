//! Fields of the Gateway API's kinds, as the CRDs of Gateway API 1.7 list them (the experimental
//! channel, which holds the standard one; v1 and v1beta1 are the same).

use super::{
    COUNT, Field, PERCENT, PORT, Shape, TEXTS, WEIGHT, ignored, kubernetes::kind, later, required,
    used,
};

const FROM_ONE: Shape = Shape::Integer(1, 2_147_483_647);

pub(crate) const HTTP_ROUTE: Shape = kind!(HTTP_ROUTE_SPEC);
pub(crate) const GRPC_ROUTE: Shape = kind!(GRPC_ROUTE_SPEC);
pub(crate) const REFERENCE_GRANT: Shape = kind!(&[
    required(
        "from",
        Shape::List(&Shape::Object(&[
            required("group", Shape::Text),
            required("kind", Shape::Text),
            required("namespace", Shape::Text),
        ]))
    ),
    required(
        "to",
        Shape::List(&Shape::Object(&[
            required("group", Shape::Text),
            required("kind", Shape::Text),
            used("name", Shape::Text),
        ]))
    ),
]);

const HTTP_ROUTE_SPEC: &[Field] = &[
    used("parentRefs", Shape::List(&Shape::Object(PARENT))),
    // For gateways: a mesh addresses services, not hosts.
    used("hostnames", TEXTS),
    used("rules", Shape::List(&Shape::Object(HTTP_RULE))),
    ignored("useDefaultGateways"),
];

const GRPC_ROUTE_SPEC: &[Field] = &[
    used("parentRefs", Shape::List(&Shape::Object(PARENT))),
    used("hostnames", TEXTS),
    used("rules", Shape::List(&Shape::Object(GRPC_RULE))),
    ignored("useDefaultGateways"),
];

const PARENT: &[Field] = &[
    used("group", Shape::Text),
    used("kind", Shape::Text),
    used("namespace", Shape::Text),
    required("name", Shape::Text),
    used("sectionName", Shape::Text),
    used("port", PORT),
];

const HTTP_RULE: &[Field] = &[
    used("name", Shape::Text),
    used("matches", Shape::List(&Shape::Object(HTTP_MATCH))),
    used("filters", Shape::List(&Shape::Object(HTTP_FILTER))),
    used("backendRefs", Shape::List(&Shape::Object(HTTP_BACKEND))),
    used(
        "timeouts",
        Shape::Object(&[
            used("request", Shape::DurationOrZero),
            used("backendRequest", Shape::DurationOrZero),
        ]),
    ),
    used(
        "retry",
        Shape::Object(&[
            used("attempts", Shape::Integer(0, 255)),
            used("backoff", Shape::DurationOrZero),
            used("codes", Shape::List(&Shape::Integer(400, 599))),
        ]),
    ),
    later("sessionPersistence", Shape::Object(SESSION_PERSISTENCE)),
];

const GRPC_RULE: &[Field] = &[
    used("name", Shape::Text),
    used("matches", Shape::List(&Shape::Object(GRPC_MATCH))),
    used("filters", Shape::List(&Shape::Object(GRPC_FILTER))),
    used("backendRefs", Shape::List(&Shape::Object(GRPC_BACKEND))),
    later("sessionPersistence", Shape::Object(SESSION_PERSISTENCE)),
];

const SESSION_PERSISTENCE: &[Field] = &[
    later("absoluteTimeout", Shape::Duration),
    later("type", Shape::Enum(&["Cookie", "Header"])),
    later(
        "cookie",
        Shape::Object(&[
            later("lifetimeType", Shape::Enum(&["Permanent", "Session"])),
            later("name", Shape::Text),
            later("path", Shape::Text),
        ]),
    ),
    later("header", Shape::Object(&[later("name", Shape::Text)])),
];

const HTTP_MATCH: &[Field] = &[
    used(
        "path",
        Shape::Object(&[
            used(
                "type",
                Shape::Enum(&["Exact", "PathPrefix", "RegularExpression"]),
            ),
            used("value", Shape::Text),
        ]),
    ),
    used("headers", NAMED_VALUES),
    used("queryParams", NAMED_VALUES),
    used(
        "method",
        Shape::Enum(&[
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ]),
    ),
];

const GRPC_MATCH: &[Field] = &[
    used(
        "method",
        Shape::Object(&[
            used("type", TEXT_MATCH_TYPE),
            used("service", Shape::Text),
            used("method", Shape::Text),
        ]),
    ),
    used("headers", NAMED_VALUES),
];

const TEXT_MATCH_TYPE: Shape = Shape::Enum(&["Exact", "RegularExpression"]);
const NAMED_VALUES: Shape = Shape::List(&Shape::Object(&[
    used("type", TEXT_MATCH_TYPE),
    required("name", Shape::Text),
    required("value", Shape::Text),
]));

const HTTP_BACKEND: &[Field] = &[
    used("group", Shape::Text),
    used("kind", Shape::Text),
    required("name", Shape::Text),
    used("namespace", Shape::Text),
    used("port", PORT),
    used("weight", WEIGHT),
    used("filters", Shape::List(&Shape::Object(HTTP_FILTER))),
];

const GRPC_BACKEND: &[Field] = &[
    used("group", Shape::Text),
    used("kind", Shape::Text),
    required("name", Shape::Text),
    used("namespace", Shape::Text),
    used("port", PORT),
    used("weight", WEIGHT),
    used("filters", Shape::List(&Shape::Object(GRPC_FILTER))),
];

const HTTP_FILTER: &[Field] = &[
    required(
        "type",
        Shape::Enum(&[
            "RequestHeaderModifier",
            "ResponseHeaderModifier",
            "RequestMirror",
            "RequestRedirect",
            "URLRewrite",
            "ExtensionRef",
            "CORS",
            "ExternalAuth",
        ]),
    ),
    used("requestHeaderModifier", Shape::Object(HEADERS)),
    used("responseHeaderModifier", Shape::Object(HEADERS)),
    used(
        "requestRedirect",
        Shape::Object(&[
            used("scheme", Shape::Enum(&["http", "https"])),
            used("hostname", Shape::Text),
            used("path", PATH_MODIFIER),
            used("port", PORT),
            used("statusCode", Shape::Integer(301, 308)),
        ]),
    ),
    used(
        "urlRewrite",
        Shape::Object(&[used("hostname", Shape::Text), used("path", PATH_MODIFIER)]),
    ),
    later("requestMirror", Shape::Object(MIRROR)),
    later("extensionRef", EXTENSION),
    later("cors", Shape::Object(CORS)),
    later("externalAuth", Shape::Object(EXTERNAL_AUTH)),
];

const GRPC_FILTER: &[Field] = &[
    required(
        "type",
        Shape::Enum(&[
            "ResponseHeaderModifier",
            "RequestHeaderModifier",
            "RequestMirror",
            "ExtensionRef",
        ]),
    ),
    used("requestHeaderModifier", Shape::Object(HEADERS)),
    used("responseHeaderModifier", Shape::Object(HEADERS)),
    later("requestMirror", Shape::Object(MIRROR)),
    later("extensionRef", EXTENSION),
];

const HEADERS: &[Field] = &[
    used("set", NEW_FIELDS),
    used("add", NEW_FIELDS),
    used("remove", TEXTS),
];

const NEW_FIELDS: Shape = Shape::List(&Shape::Object(&[
    required("name", Shape::Text),
    required("value", Shape::Text),
]));

const PATH_MODIFIER: Shape = Shape::Object(&[
    required(
        "type",
        Shape::Enum(&["ReplaceFullPath", "ReplacePrefixMatch"]),
    ),
    used("replaceFullPath", Shape::Text),
    used("replacePrefixMatch", Shape::Text),
]);

const EXTENSION: Shape = Shape::Object(&[
    later("group", Shape::Text),
    later("kind", Shape::Text),
    later("name", Shape::Text),
]);

const REFERENCE: &[Field] = &[
    later("group", Shape::Text),
    later("kind", Shape::Text),
    later("name", Shape::Text),
    later("namespace", Shape::Text),
    later("port", PORT),
];

const MIRROR: &[Field] = &[
    later("backendRef", Shape::Object(REFERENCE)),
    later("percent", PERCENT),
    later(
        "fraction",
        Shape::Object(&[later("numerator", COUNT), later("denominator", FROM_ONE)]),
    ),
];

const CORS: &[Field] = &[
    later("allowCredentials", Shape::Bool),
    later("allowHeaders", TEXTS),
    later("allowMethods", TEXTS),
    later("allowOrigins", TEXTS),
    later("exposeHeaders", TEXTS),
    later("maxAge", FROM_ONE),
];

const EXTERNAL_AUTH: &[Field] = &[
    later("protocol", Shape::Enum(&["HTTP", "GRPC"])),
    later("backendRef", Shape::Object(REFERENCE)),
    later("forwardBody", Shape::Object(&[later("maxSize", COUNT)])),
    later("grpc", Shape::Object(&[later("allowedHeaders", TEXTS)])),
    later(
        "http",
        Shape::Object(&[
            later("allowedHeaders", TEXTS),
            later("allowedResponseHeaders", TEXTS),
            later("path", Shape::Text),
        ]),
    ),
];
