//! Fields of Istio's kinds, as the CRDs of Istio 1.31 list them (the versions v1, v1beta1 and
//! v1alpha3 are the same).
//!
//! Longer than most, because it is one table to be read beside the CRDs: every field of four kinds,
//! in their order.

use super::{
    COUNT, Field, PERCENT, PORT, Shape, TEXTS, UNSIGNED, WEIGHT, extension, kubernetes::kind,
    later, required, used,
};

pub(crate) const WORKLOAD_ENTRY: Shape = kind!(ENDPOINT);
pub(crate) const SERVICE_ENTRY: Shape = kind!(SERVICE_ENTRY_SPEC);
pub(crate) const VIRTUAL_SERVICE: Shape = kind!(VIRTUAL_SERVICE_SPEC);
pub(crate) const DESTINATION_RULE: Shape = kind!(DESTINATION_RULE_SPEC);

const ENDPOINT: &[Field] = &[
    used("address", Shape::Text),
    used("ports", Shape::Map(&PORT)),
    used("labels", Shape::Labels),
    used("locality", Shape::Text),
    used("serviceAccount", Shape::Text),
    used("weight", WEIGHT),
    later("network", Shape::Text),
];

const SERVICE_ENTRY_SPEC: &[Field] = &[
    required("hosts", TEXTS),
    used("addresses", TEXTS),
    required("ports", Shape::List(&Shape::Object(SERVICE_ENTRY_PORT))),
    used("location", Shape::Enum(&["MESH_EXTERNAL", "MESH_INTERNAL"])),
    used(
        "resolution",
        Shape::Enum(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]),
    ),
    used("endpoints", Shape::List(&Shape::Object(ENDPOINT))),
    used(
        "workloadSelector",
        Shape::Object(&[used("labels", Shape::Labels)]),
    ),
    later("exportTo", TEXTS),
    later("subjectAltNames", TEXTS),
];

const SERVICE_ENTRY_PORT: &[Field] = &[
    required("number", PORT),
    used("name", Shape::Text),
    used("protocol", Shape::Text),
    used("targetPort", PORT),
];

const VIRTUAL_SERVICE_SPEC: &[Field] = &[
    required("hosts", TEXTS),
    used("gateways", TEXTS),
    used("http", Shape::List(&Shape::Object(HTTP_ROUTE))),
    used("tcp", Shape::List(&Shape::Object(TCP_ROUTE))),
    later("tls", Shape::List(&Shape::Object(TLS_ROUTE))),
    later("exportTo", TEXTS),
    extension("timeout", Shape::DurationOrZero),
    extension("retries", Shape::Object(RETRIES)),
];

const HTTP_ROUTE: &[Field] = &[
    used("name", Shape::Text),
    used("match", Shape::List(&Shape::Object(HTTP_MATCH))),
    used("route", Shape::List(&Shape::Object(HTTP_DESTINATION))),
    used("timeout", Shape::DurationOrZero),
    used("retries", Shape::Object(RETRIES)),
    later("redirect", Shape::Object(REDIRECT)),
    later("directResponse", Shape::Object(DIRECT_RESPONSE)),
    later(
        "delegate",
        Shape::Object(&[later("name", Shape::Text), later("namespace", Shape::Text)]),
    ),
    later("rewrite", Shape::Object(REWRITE)),
    later("fault", Shape::Object(FAULT)),
    later("mirror", Shape::Object(DESTINATION)),
    later("mirrors", Shape::List(&Shape::Object(MIRROR))),
    later("mirrorPercent", UNSIGNED),
    later("mirror_percent", UNSIGNED),
    later("mirrorPercentage", PERCENTAGE),
    later("corsPolicy", Shape::Object(CORS)),
    later("headers", Shape::Object(HEADERS)),
];

const HTTP_MATCH: &[Field] = &[
    used("name", Shape::Text),
    used("uri", STRING_MATCH),
    used("method", STRING_MATCH),
    used("headers", Shape::Map(&STRING_MATCH)),
    used("port", PORT),
    used("gateways", TEXTS),
    later("authority", STRING_MATCH),
    later("scheme", STRING_MATCH),
    later("queryParams", Shape::Map(&STRING_MATCH)),
    later("withoutHeaders", Shape::Map(&STRING_MATCH)),
    later("ignoreUriCase", Shape::Bool),
    later("sourceLabels", Shape::Labels),
    later("sourceNamespace", Shape::Text),
    later("statPrefix", Shape::Text),
];

const STRING_MATCH: Shape = Shape::Object(&[
    used("exact", Shape::Text),
    used("prefix", Shape::Text),
    used("regex", Shape::Regex),
]);

const DESTINATION: &[Field] = &[
    required("host", Shape::Text),
    used("port", Shape::Object(&[used("number", PORT)])),
    used("subset", Shape::Text),
];

const HTTP_DESTINATION: &[Field] = &[
    required("destination", Shape::Object(DESTINATION)),
    used("weight", WEIGHT),
    later("headers", Shape::Object(HEADERS)),
];

const ROUTE_DESTINATION: &[Field] = &[
    required("destination", Shape::Object(DESTINATION)),
    used("weight", WEIGHT),
];

const RETRIES: &[Field] = &[
    used("attempts", Shape::Integer(0, 255)),
    used("perTryTimeout", Shape::DurationOrZero),
    used("retryOn", Shape::Text),
    used("backoff", Shape::Duration),
    later("retryIgnorePreviousHosts", Shape::Bool),
    later("retryRemoteLocalities", Shape::Bool),
];

const TCP_ROUTE: &[Field] = &[
    used("match", Shape::List(&Shape::Object(TCP_MATCH))),
    required("route", Shape::List(&Shape::Object(ROUTE_DESTINATION))),
];

const TCP_MATCH: &[Field] = &[
    used("port", PORT),
    used("gateways", TEXTS),
    later("destinationSubnets", TEXTS),
    later("sourceLabels", Shape::Labels),
    later("sourceNamespace", Shape::Text),
    later("sourceSubnet", Shape::Text),
];

const TLS_ROUTE: &[Field] = &[
    later("match", Shape::List(&Shape::Object(TLS_MATCH))),
    later("route", Shape::List(&Shape::Object(ROUTE_DESTINATION))),
];

const TLS_MATCH: &[Field] = &[
    later("sniHosts", TEXTS),
    later("port", PORT),
    later("gateways", TEXTS),
    later("destinationSubnets", TEXTS),
    later("sourceLabels", Shape::Labels),
    later("sourceNamespace", Shape::Text),
];

const REDIRECT: &[Field] = &[
    later("uri", Shape::Text),
    later("authority", Shape::Text),
    later("port", UNSIGNED),
    later(
        "derivePort",
        Shape::Enum(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]),
    ),
    later("prefixRewrite", Shape::Text),
    later("scheme", Shape::Text),
    later("redirectCode", UNSIGNED),
];

const DIRECT_RESPONSE: &[Field] = &[
    later("status", UNSIGNED),
    later(
        "body",
        Shape::Object(&[later("string", Shape::Text), later("bytes", Shape::Text)]),
    ),
];

const REWRITE: &[Field] = &[
    later("uri", Shape::Text),
    later("authority", Shape::Text),
    later(
        "uriRegexRewrite",
        Shape::Object(&[later("match", Shape::Text), later("rewrite", Shape::Text)]),
    ),
];

const FAULT: &[Field] = &[
    later(
        "delay",
        Shape::Object(&[
            later("fixedDelay", Shape::Text),
            later("exponentialDelay", Shape::Text),
            later("percent", COUNT),
            later("percentage", PERCENTAGE),
        ]),
    ),
    later(
        "abort",
        Shape::Object(&[
            later("httpStatus", COUNT),
            later("grpcStatus", Shape::Text),
            later("http2Error", Shape::Text),
            later("percentage", PERCENTAGE),
        ]),
    ),
];

const PERCENTAGE: Shape = Shape::Object(&[later("value", Shape::Number)]);

const MIRROR: &[Field] = &[
    later("destination", Shape::Object(DESTINATION)),
    later("percentage", PERCENTAGE),
];

const CORS: &[Field] = &[
    later("allowOrigin", TEXTS),
    later("allowOrigins", Shape::List(&STRING_MATCH)),
    later("allowMethods", TEXTS),
    later("allowHeaders", TEXTS),
    later("exposeHeaders", TEXTS),
    later("maxAge", Shape::Text),
    later("allowCredentials", Shape::Bool),
    later(
        "unmatchedPreflights",
        Shape::Enum(&["UNSPECIFIED", "FORWARD", "IGNORE"]),
    ),
];

const HEADERS: &[Field] = &[
    later("request", Shape::Object(HEADER_OPERATIONS)),
    later("response", Shape::Object(HEADER_OPERATIONS)),
];

const HEADER_OPERATIONS: &[Field] = &[
    later("set", Shape::Labels),
    later("add", Shape::Labels),
    later("remove", TEXTS),
];

const DESTINATION_RULE_SPEC: &[Field] = &[
    required("host", Shape::Text),
    used("trafficPolicy", Shape::Object(TRAFFIC_POLICY)),
    used("subsets", Shape::List(&Shape::Object(SUBSET))),
    later("exportTo", TEXTS),
    later(
        "workloadSelector",
        Shape::Object(&[later("matchLabels", Shape::Labels)]),
    ),
];

const SUBSET: &[Field] = &[
    required("name", Shape::Text),
    used("labels", Shape::Labels),
    used("trafficPolicy", Shape::Object(TRAFFIC_POLICY)),
];

const TRAFFIC_POLICY: &[Field] = &[
    used("loadBalancer", Shape::Object(LOAD_BALANCER)),
    used("connectionPool", Shape::Object(CONNECTION_POOL)),
    used("outlierDetection", Shape::Object(OUTLIER_DETECTION)),
    used("portLevelSettings", Shape::List(&Shape::Object(PORT_LEVEL))),
    later("tls", Shape::Object(TLS)),
    later(
        "tunnel",
        Shape::Object(&[
            later("protocol", Shape::Text),
            later("targetHost", Shape::Text),
            later("targetPort", UNSIGNED),
        ]),
    ),
    later(
        "proxyProtocol",
        Shape::Object(&[later("version", Shape::Enum(&["V1", "V2"]))]),
    ),
    later(
        "retryBudget",
        Shape::Object(&[
            later("percent", Shape::Number),
            later("minRetryConcurrency", UNSIGNED),
            later("budgetInterval", Shape::Text),
        ]),
    ),
];

const PORT_LEVEL: &[Field] = &[
    required("port", Shape::Object(&[required("number", PORT)])),
    used("loadBalancer", Shape::Object(LOAD_BALANCER)),
    used("connectionPool", Shape::Object(CONNECTION_POOL)),
    used("outlierDetection", Shape::Object(OUTLIER_DETECTION)),
    later("tls", Shape::Object(TLS)),
];

const LOAD_BALANCER: &[Field] = &[
    used(
        "simple",
        Shape::Enum(&[
            "UNSPECIFIED",
            "ROUND_ROBIN",
            "RANDOM",
            "LEAST_REQUEST",
            "LEAST_CONN",
            "PASSTHROUGH",
        ]),
    ),
    later("consistentHash", Shape::Object(CONSISTENT_HASH)),
    later("localityLbSetting", Shape::Object(LOCALITY)),
    later("zoneAwareLbSetting", Shape::Object(ZONE_AWARE)),
    later(
        "warmup",
        Shape::Object(&[
            later("duration", Shape::Text),
            later("minimumPercent", Shape::Number),
            later("aggression", Shape::Number),
        ]),
    ),
    later("warmupDurationSecs", Shape::Text),
];

const CONSISTENT_HASH: &[Field] = &[
    later("httpHeaderName", Shape::Text),
    later(
        "httpCookie",
        Shape::Object(&[
            later("name", Shape::Text),
            later("path", Shape::Text),
            later("ttl", Shape::Text),
            later("attributes", Shape::List(&Shape::Object(COOKIE_ATTRIBUTE))),
        ]),
    ),
    later("useSourceIp", Shape::Bool),
    later("httpQueryParameterName", Shape::Text),
    later("minimumRingSize", UNSIGNED),
    later(
        "ringHash",
        Shape::Object(&[later("minimumRingSize", UNSIGNED)]),
    ),
    later("maglev", Shape::Object(&[later("tableSize", UNSIGNED)])),
];

const COOKIE_ATTRIBUTE: &[Field] = &[later("name", Shape::Text), later("value", Shape::Text)];

const FAILOVER: Shape = Shape::List(&Shape::Object(&[
    later("from", Shape::Text),
    later("to", Shape::Text),
]));

const LOCALITY: &[Field] = &[
    later("enabled", Shape::Bool),
    later(
        "distribute",
        Shape::List(&Shape::Object(&[
            later("from", Shape::Text),
            later("to", Shape::Map(&UNSIGNED)),
        ])),
    ),
    later("failover", FAILOVER),
    later("failoverPriority", TEXTS),
];

const ZONE_AWARE: &[Field] = &[
    later("enabled", Shape::Bool),
    later("failover", FAILOVER),
    later("failoverPriority", TEXTS),
    later("minClusterSize", UNSIGNED),
];

const CONNECTION_POOL: &[Field] = &[
    used(
        "tcp",
        Shape::Object(&[
            used("maxConnections", COUNT),
            used("connectTimeout", Shape::Duration),
            used("idleTimeout", Shape::DurationOrZero),
            used("maxConnectionDuration", Shape::Duration),
            later(
                "tcpKeepalive",
                Shape::Object(&[
                    later("probes", UNSIGNED),
                    later("time", Shape::Text),
                    later("interval", Shape::Text),
                ]),
            ),
        ]),
    ),
    used(
        "http",
        Shape::Object(&[
            used("http1MaxPendingRequests", COUNT),
            used("http2MaxRequests", COUNT),
            used("maxRequestsPerConnection", COUNT),
            used("maxRetries", COUNT),
            used("idleTimeout", Shape::DurationOrZero),
            later(
                "h2UpgradePolicy",
                Shape::Enum(&["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]),
            ),
            later("useClientProtocol", Shape::Bool),
            later("maxConcurrentStreams", COUNT),
            later(
                "http2KeepAlive",
                Shape::Object(&[
                    later("interval", Shape::Text),
                    later("timeout", Shape::Text),
                ]),
            ),
        ]),
    ),
];

const OUTLIER_DETECTION: &[Field] = &[
    used("consecutive5xxErrors", UNSIGNED),
    used("consecutiveGatewayErrors", UNSIGNED),
    used("consecutiveErrors", COUNT),
    used("interval", Shape::Duration),
    used("baseEjectionTime", Shape::Duration),
    used("maxEjectionPercent", PERCENT),
    used("minHealthPercent", PERCENT),
    later("consecutiveLocalOriginFailures", UNSIGNED),
    later("splitExternalLocalOriginErrors", Shape::Bool),
    later("outlierDetectionHttpErrorCodes", Shape::List(&COUNT)),
];

const TLS: &[Field] = &[
    later(
        "mode",
        Shape::Enum(&["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]),
    ),
    later("clientCertificate", Shape::Text),
    later("privateKey", Shape::Text),
    later("caCertificates", Shape::Text),
    later("caCrl", Shape::Text),
    later("credentialName", Shape::Text),
    later("subjectAltNames", TEXTS),
    later("sni", Shape::Text),
    later("insecureSkipVerify", Shape::Bool),
];
