//! RouteTable.

use outrigger_model::{
    Backend, HttpAction, HttpBackend, HttpRule, HttpTarget, Origin, RouteTable, SubsetName,
    TcpRule, Weight, WeightedBackend,
};

use super::{
    bound,
    error::{FieldError, Problem},
    field::{Result, list, message, not_empty, text, weight},
    limit::{BACKENDS_PER_RULE_MAX, HTTP_RULES_MAX, MATCHES_PER_RULE_MAX, TCP_RULES_MAX},
    wire::{self, http_backend, http_rule},
};

mod filter;
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
            backends: backends.iter().map(encode_share).collect(),
        }),
        HttpAction::Redirect(redirect) => {
            http_rule::Action::Redirect(filter::encode_redirect(redirect))
        }
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
        filters: filter::encode(&rule.filters),
    }
}

fn decode_http(rule: &wire::HttpRule) -> Result<HttpRule> {
    let action = match &rule.action {
        Some(http_rule::Action::Forward(forward)) => {
            let backends =
                decode_shares(&forward.backends).map_err(|error| error.within("forward"))?;
            HttpAction::Forward(backends)
        }
        Some(http_rule::Action::Redirect(redirect)) => HttpAction::Redirect(
            filter::decode_redirect(redirect).map_err(|error| error.within("redirect"))?,
        ),
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
        filters: filter::decode(rule.filters.as_ref()).map_err(|error| error.within("filters"))?,
        timeout: bound::read_timeout("timeout", rule.timeout.as_ref())?,
        retry: message("retry", rule.retry.as_ref(), retry::decode)?,
    })
}

fn encode_share(share: &HttpBackend) -> wire::HttpBackend {
    let (target, subset) = match &share.target {
        HttpTarget::Backend(backend) => (
            http_backend::Target::Destination(backend.destination.to_string()),
            backend.subset.as_ref(),
        ),
        HttpTarget::Invalid { reason } => {
            let reason = reason.to_string();
            let invalid = http_backend::Target::Invalid(wire::Invalid { reason });
            (invalid, None)
        }
    };
    wire::HttpBackend {
        weight: share.weight.get(),
        target: Some(target),
        subset: subset.map(ToString::to_string),
        filters: filter::encode(&share.filters),
    }
}

fn decode_shares(shares: &[wire::HttpBackend]) -> Result<Vec<HttpBackend>> {
    not_empty("backends", shares)?;
    let shares = list("backends", shares, BACKENDS_PER_RULE_MAX, |share| {
        let target = match &share.target {
            Some(http_backend::Target::Destination(destination)) => HttpTarget::Backend(Backend {
                destination: text("destination", destination)?,
                subset: decode_subset(share.subset.as_deref())?,
            }),
            Some(http_backend::Target::Invalid(invalid)) => HttpTarget::Invalid {
                reason: Origin::new(&invalid.reason),
            },
            None => return Err(FieldError::new("target", Problem::Missing)),
        };
        let filters = filter::decode(share.filters.as_ref());
        Ok(HttpBackend {
            weight: weight("weight", share.weight)?,
            target,
            filters: filters.map_err(|error| error.within("filters"))?,
        })
    })?;
    some_weight(shares.iter().map(|share| share.weight))?;
    Ok(shares)
}

fn decode_subset(subset: Option<&str>) -> Result<Option<SubsetName>> {
    subset.map(|name| text("subset", name)).transpose()
}

fn some_weight(mut weights: impl Iterator<Item = Weight>) -> Result<()> {
    if weights.all(|weight| weight.get() == 0) {
        return Err(FieldError::new("backends", Problem::Zero));
    }
    Ok(())
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
        Ok(WeightedBackend {
            weight: weight("weight", weighted.weight)?,
            backend: Backend {
                destination: text("destination", &weighted.destination)?,
                subset: decode_subset(weighted.subset.as_deref())?,
            },
        })
    })?;
    some_weight(backends.iter().map(|weighted| weighted.weight))?;
    Ok(backends)
}
