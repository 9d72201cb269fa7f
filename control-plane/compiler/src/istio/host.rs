//! Hosts as VirtualService and DestinationRule write them.

use outrigger_model::{Hostname, InvalidValue};

use crate::ir::Host;

/// Parses a host: a short name, a full name, `*`, or `*.suffix`.
///
/// # Errors
/// When it is none of these.
pub(crate) fn parse(text: &str) -> Result<Host, InvalidValue> {
    if text == "*" {
        return Ok(Host::Any);
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        let suffix = Hostname::parse(suffix)?;
        return Ok(Host::Suffix(format!(".{suffix}").into()));
    }
    let name = Hostname::parse(text)?;
    Ok(if name.as_str().contains('.') {
        Host::Full(name)
    } else {
        Host::Short(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms() {
        let check = |text: &str, expected: Option<Host>| {
            assert_eq!(parse(text).ok(), expected, "{text}");
        };
        let name = |text| Hostname::parse(text).unwrap();
        check("orders", Some(Host::Short(name("orders"))));
        check("Orders", Some(Host::Short(name("orders"))));
        check("orders.shop", Some(Host::Full(name("orders.shop"))));
        check("*", Some(Host::Any));
        check("*.shop", Some(Host::Suffix(".shop".into())));
        check("*shop", None);
        check("orders:80", None);
        check("a b", None);
        check("", None);
    }

    #[test]
    fn short_names_are_completed_in_the_objects_namespace() {
        let namespace = outrigger_model::Namespace::parse("shop").unwrap();
        let domain = Hostname::parse("cluster.local").unwrap();
        let full = parse("orders").unwrap().complete(&namespace, &domain);
        let expected = Hostname::parse("orders.shop.svc.cluster.local").unwrap();
        assert_eq!(full, Host::Full(expected));
    }
}
