//! RouteTable.

use outrigger_model::{
    Backend, HttpAction, HttpRule, Origin, RouteTable, TcpRule, WeightedBackend,
};

use super::{
    bound,
    error::{FieldError, Problem},
    field::{Result, list, message, not_empty, text, weight},
    limit::{BACKENDS_PER_RULE_MAX, HTTP_RULES_MAX, MATCHES_PER_RULE_MAX, TCP_RULES_MAX},
    wire::{self, http_rule},
};

mod matching;
mod retry;

pub(super) fn encode(table: &RouteTable) -> wire::RouteTable {
    wire::RouteTable {
        name: table.name.to_string(),
        http: table.http.iter().map(encode_http).collect(),
        tcp: table
            .tcp
            .iter()
            .map(|rule| wire::TcpRule {
                origin: rule.origin.to_string(),
                backends: encode_backends(&rule.backends),
            })
            .collect(),
    }
}

pub(super) fn decode(table: &wire::RouteTable) -> Result<RouteTable> {
    Ok(RouteTable {
        name: text("name", &table.name)?,
        http: list("http", &table.http, HTTP_RULES_MAX, decode_http)?,
        tcp: list("tcp", &table.tcp, TCP_RULES_MAX, |rule| {
            Ok(TcpRule {
                origin: Origin::new(&rule.origin),
                backends: decode_backends(&rule.backends)?,
            })
        })?,
    })
}

fn encode_http(rule: &HttpRule) -> wire::HttpRule {
    let action = match &rule.action {
        HttpAction::Forward(backends) => http_rule::Action::Forward(wire::Forward {
            backends: encode_backends(backends),
        }),
        HttpAction::Invalid { reason } => http_rule::Action::Invalid(wire::Invalid {
            reason: reason.to_string(),
        }),
    };
    wire::HttpRule {
        origin: rule.origin.to_string(),
        matches: rule.matches.iter().map(matching::encode).collect(),
        action: Some(action),
        timeout: bound::timeout(rule.timeout),
        retry: Some(retry::encode(&rule.retry)),
    }
}

fn decode_http(rule: &wire::HttpRule) -> Result<HttpRule> {
    let action = match &rule.action {
        Some(http_rule::Action::Forward(forward)) => {
            let backends =
                decode_backends(&forward.backends).map_err(|error| error.within("forward"))?;
            HttpAction::Forward(backends)
        }
        Some(http_rule::Action::Invalid(invalid)) => HttpAction::Invalid {
            reason: Origin::new(&invalid.reason),
        },
        None => return Err(FieldError::new("action", Problem::Missing)),
    };
    Ok(HttpRule {
        origin: Origin::new(&rule.origin),
        matches: list(
            "matches",
            &rule.matches,
            MATCHES_PER_RULE_MAX,
            matching::decode,
        )?,
        action,
        timeout: bound::read_timeout("timeout", rule.timeout.as_ref())?,
        retry: message("retry", rule.retry.as_ref(), retry::decode)?,
    })
}

fn encode_backends(backends: &[WeightedBackend]) -> Vec<wire::WeightedBackend> {
    let encode = |weighted: &WeightedBackend| wire::WeightedBackend {
        weight: weighted.weight.get(),
        destination: weighted.backend.destination.to_string(),
        subset: weighted.backend.subset.as_ref().map(ToString::to_string),
    };
    backends.iter().map(encode).collect()
}

fn decode_backends(backends: &[wire::WeightedBackend]) -> Result<Vec<WeightedBackend>> {
    not_empty("backends", backends)?;
    let backends = list("backends", backends, BACKENDS_PER_RULE_MAX, |weighted| {
        let subset = weighted.subset.as_deref();
        Ok(WeightedBackend {
            weight: weight("weight", weighted.weight)?,
            backend: Backend {
                destination: text("destination", &weighted.destination)?,
                subset: subset.map(|name| text("subset", name)).transpose()?,
            },
        })
    })?;
    if backends.iter().all(|weighted| weighted.weight.get() == 0) {
        return Err(FieldError::new("backends", Problem::Zero));
    }
    Ok(backends)
}
