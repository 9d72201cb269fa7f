//! Who may ask, and who may change (DEF-40, T17).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Request, header};

/// The header that a change needs: a browser sends no foreign header across origins unasked.
const CHANGE: &str = "x-outrigger-admin";

/// Every request: exactly one `Host`, which is an address or `localhost`.
pub(super) fn read<B>(request: &Request<B>) -> Result<(), &'static str> {
    host(request.headers()).map(|_| ())
}

/// A request that changes something, on top of [`read`].
pub(super) fn change<B>(request: &Request<B>, peer: SocketAddr) -> Result<(), &'static str> {
    let local = match host(request.headers())? {
        Host::Localhost => true,
        Host::Address(address) => address.to_canonical().is_loopback(),
    };
    if !local {
        return Err("changes need a Host that is localhost or a loopback address");
    }
    if !peer.ip().to_canonical().is_loopback() {
        return Err("changes are taken from loopback only");
    }
    let mut values = request.headers().get_all(CHANGE).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "1" => {}
        _ => return Err("changes need the header x-outrigger-admin: 1"),
    }
    // Browsers say where a request comes from; nothing that has an origin belongs here.
    if request.headers().contains_key(header::ORIGIN) {
        return Err("changes are not taken from web pages");
    }
    Ok(())
}

enum Host {
    Localhost,
    Address(IpAddr),
}

fn host(headers: &HeaderMap) -> Result<Host, &'static str> {
    let refusal = "the Host header must be an address or localhost";
    let mut values = headers.get_all(header::HOST).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refusal);
    };
    let text = value.to_str().map_err(|_| refusal)?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Host::Address(address.ip()));
    }
    if let Some(address) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        return address.parse().map(Host::Address).map_err(|_| refusal);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Address(address));
    }
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        Some(_) => return Err(refusal),
        None => text,
    };
    if name.eq_ignore_ascii_case("localhost") {
        Ok(Host::Localhost)
    } else {
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/log");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_name_other_than_localhost_is_refused() {
        let check = |host: &str, ok: bool| {
            assert_eq!(read(&request(&[("host", host)])).is_ok(), ok, "{host:?}");
        };
        for good in [
            "localhost",
            "LocalHost:15020",
            "127.0.0.1",
            "10.1.2.3:15020",
            "[::1]",
            "[fd00::7]:15020",
        ] {
            check(good, true);
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:15020",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:evil",
            "user@localhost",
            "[::1",
            "1",
        ] {
            check(bad, false);
        }
        assert!(read(&request(&[])).is_err(), "no Host");
        assert!(
            read(&request(&[("host", "localhost"), ("host", "localhost")])).is_err(),
            "two"
        );
    }

    #[test]
    fn a_change_needs_everything_at_once() {
        let local: SocketAddr = "127.0.0.1:40000".parse().unwrap();
        let other: SocketAddr = "10.0.0.1:40000".parse().unwrap();
        let check = |headers: &[(&str, &str)], peer, ok: bool| {
            assert_eq!(
                change(&request(headers), peer).is_ok(),
                ok,
                "{headers:?} {peer}"
            );
        };
        let header = ("x-outrigger-admin", "1");
        check(&[("host", "localhost"), header], local, true);
        check(&[("host", "127.0.0.1:15020"), header], local, true);
        check(
            &[("host", "[::1]:15020"), header],
            "[::1]:1".parse().unwrap(),
            true,
        );
        check(
            &[("host", "localhost"), header],
            "[::ffff:127.0.0.1]:1".parse().unwrap(),
            true,
        );
        check(&[("host", "localhost"), header], other, false);
        check(&[("host", "10.0.0.1:15020"), header], local, false);
        check(&[("host", "evil.example"), header], local, false);
        check(&[("host", "localhost")], local, false);
        check(
            &[("host", "localhost"), ("x-outrigger-admin", "0")],
            local,
            false,
        );
        check(&[("host", "localhost"), header, header], local, false);
        check(
            &[
                ("host", "localhost"),
                header,
                ("origin", "http://localhost"),
            ],
            local,
            false,
        );
    }
}
