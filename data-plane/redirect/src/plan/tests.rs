//! The rules as text: reviewed as a whole, in nft's own syntax.

use super::*;
use crate::netlink::{encode, message::batch};

fn ports(numbers: &[u16]) -> Vec<Port> {
    numbers
        .iter()
        .map(|number| Port::new(*number).unwrap())
        .collect()
}

fn ranges(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn full() -> Capture {
    Capture {
        skip_inbound_ports: ports(&[22]),
        only_inbound_ports: ports(&[80, 8080]),
        skip_outbound_ports: ports(&[5432]),
        skip_outbound_ranges: ranges(&["169.254.169.254", "10.0.0.0/9", "fd00::/8"]),
        only_outbound_ranges: ranges(&["10.96.0.0/12", "fd00:10:96::/112", "2001:db8::1"]),
        ..Capture::default()
    }
}

#[test]
fn the_default_rules() {
    insta::assert_snapshot!(ruleset(&Capture::default()));
}

#[test]
fn rules_with_every_list() {
    insta::assert_snapshot!(ruleset(&full()));
}

#[test]
fn the_sidecar_passes_before_anything_is_redirected_to_the_outbound_port() {
    for capture in [Capture::default(), full()] {
        let outbound = &ruleset(&capture).chains[0];
        let at = |wanted: &dyn Fn(&Rule) -> bool| outbound.rules.iter().position(wanted).unwrap();
        let passes = at(&|rule| rule.matches == [Match::User(1337)]);
        let captured = at(&|rule| rule.verdict == Verdict::Redirect(capture.outbound_port));
        assert!(passes < captured);
        let own = at(&|rule| rule.verdict == Verdict::Redirect(capture.inbound_port));
        assert!(own < passes, "own service is met before the sidecar passes");
    }
}

#[test]
fn every_comment_fits_a_rules_user_data() {
    let ruleset = ruleset(&full());
    let mut rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    assert!(rules.all(|rule| rule.comment.len() < 127 && rule.comment.is_ascii()));
}

#[test]
fn the_largest_capture_fits_one_transaction() {
    let many: Vec<Port> = (1..=256_u16)
        .map(|number| Port::new(number).unwrap())
        .collect();
    let wide: Vec<Cidr> = (0..=255_u8)
        .map(|octet| Cidr::new([octet, 0, 0, 0].into(), 8).unwrap())
        .collect();
    let capture = Capture {
        skip_inbound_ports: many.clone(),
        only_inbound_ports: many.clone(),
        skip_outbound_ports: many,
        skip_outbound_ranges: wide.clone(),
        only_outbound_ranges: wide,
        ..Capture::default()
    };
    capture.check().unwrap();
    let bytes = batch(&encode::replace(&ruleset(&capture)));
    assert!(bytes.len() < 1024 * 1024, "{} bytes", bytes.len());
}
