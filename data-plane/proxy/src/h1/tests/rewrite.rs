//! What leaves: heads rewritten for the next hop.

use super::super::write::{self, FieldEdit, RequestEdit, Reserved, ResponseEdit};
use super::super::{Asked, Framing, RequestHead, ResponseHead, Version};
use bytes::Bytes;
use outrigger_policy::filter::Changes;

const PLAIN: RequestEdit<'static> = RequestEdit {
    path: None,
    authority: None,
    framing: Framing::None,
    expect: true,
    upgrade: true,
    close: false,
    fields: FieldEdit::NONE,
};

fn request(raw: &str, edit: &RequestEdit<'_>) -> String {
    let head = RequestHead::parse(Bytes::copy_from_slice(raw.as_bytes())).unwrap();
    let mut out = Vec::new();
    write::request(&head, edit, &mut out);
    let text = String::from_utf8(out.clone()).unwrap();
    // What we write, we would take: strictly parsed again, with the framing that was asked for.
    let again = RequestHead::parse(Bytes::from(out));
    if !text.contains("host: \r\n") {
        assert_eq!(again.unwrap().framing(), edit.framing, "{text}");
    }
    text
}

fn response(raw: &str, asked: Asked, edit: &ResponseEdit<'_>) -> String {
    let head = ResponseHead::parse(Bytes::copy_from_slice(raw.as_bytes()), asked).unwrap();
    let mut out = Vec::new();
    write::response(&head, edit, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn what_belongs_to_the_hop_stays_behind() {
    let out = request(
        "GET /p HTTP/1.1\r\nA: 1\r\nHost: a\r\nConnection: x-mine, keep-alive\r\nKeep-Alive: 5\r\n\
         X-Mine: 2\r\nProxy-Connection: x\r\nTE: gzip, Trailers\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AA\r\nTransfer-Encoding: chunked\r\nB:  2 \r\nC: 3\r\n\r\n",
        &RequestEdit {
            framing: Framing::Chunked,
            ..PLAIN
        },
    );
    assert_eq!(
        out,
        "GET /p HTTP/1.1\r\nA: 1\r\nHost: a\r\nB:  2 \r\nC: 3\r\ntransfer-encoding: chunked\r\n\
         connection: te\r\nte: trailers\r\n\r\n"
    );
}

#[test]
fn a_host_with_odd_space_around_it_is_written_anew() {
    for odd in ["\ta", " \ta", "a\t", "a ", "  a"] {
        let out = request(&format!("GET / HTTP/1.1\r\nHost:{odd}\r\n\r\n"), &PLAIN);
        assert_eq!(out, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "{odd:?}");
    }
    for plain in ["a", " a"] {
        let out = request(&format!("GET / HTTP/1.1\r\nHost:{plain}\r\n\r\n"), &PLAIN);
        assert_eq!(out, format!("GET / HTTP/1.1\r\nHost:{plain}\r\n\r\n"));
    }
}

#[test]
fn framing_and_host_cannot_be_nominated_away() {
    let out = request(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: host, content-length, close\r\nContent-Length: 3\r\n\r\n",
        &RequestEdit {
            framing: Framing::Length(3),
            ..PLAIN
        },
    );
    assert_eq!(
        out,
        "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\n"
    );
}

#[test]
fn what_the_mesh_sets_replaces_every_spelling() {
    let set = [
        ("traceparent", Bytes::from_static(b"00-1")),
        ("x-outrigger-peer", Bytes::from_static(b"p\r\nEvil: 1")),
    ];
    let fields = FieldEdit {
        set: &set,
        remove: &["x-gone", "x-b3-*"],
        ..FieldEdit::NONE
    };
    let out = request(
        "GET / HTTP/1.1\r\nHost: a\r\nTraceParent: x\r\nX-More: 1\r\nX-Outrigger-Peer: q\r\n\
         x_outrigger-peer: q\r\nX_OUTRIGGER_OTHER: q\r\nX_Gone: 1\r\nX-B3-Sampled: 1\r\nX-B: k\r\n\r\n",
        &RequestEdit { fields, ..PLAIN },
    );
    assert_eq!(
        out,
        "GET / HTTP/1.1\r\nHost: a\r\nX-More: 1\r\nX-B: k\r\ntraceparent: 00-1\r\n\
         x-outrigger-peer: p  Evil: 1\r\n\r\n"
    );
}

#[test]
fn absolute_form_becomes_origin_form_and_decides_host() {
    let out = request(
        "GET http://B:81/p?q HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n",
        &PLAIN,
    );
    assert_eq!(out, "GET /p?q HTTP/1.1\r\nhost: B:81\r\nX: 1\r\n\r\n");
    let out = request("OPTIONS http://b HTTP/1.1\r\nHost: b\r\n\r\n", &PLAIN);
    assert_eq!(out, "OPTIONS * HTTP/1.1\r\nhost: b\r\n\r\n");
    let out = request("GET http://b HTTP/1.0\r\n\r\n", &PLAIN);
    assert_eq!(out, "GET / HTTP/1.1\r\nhost: b\r\n\r\n");
}

#[test]
fn an_http10_request_is_passed_on_as_http11() {
    let out = request(
        "GET / HTTP/1.0\r\nExpect: 100-continue\r\nX: 1\r\n\r\n",
        &PLAIN,
    );
    assert_eq!(out, "GET / HTTP/1.1\r\nhost: \r\nX: 1\r\n\r\n");
}

#[test]
fn a_route_sets_adds_and_removes_fields_in_any_case() {
    let name = |text| outrigger_model::FieldName::parse(text).unwrap();
    let field = |name_text, value| outrigger_model::NewField {
        name: name(name_text),
        value: outrigger_model::FieldValue::parse(value).unwrap(),
    };
    let filters = outrigger_model::Filters {
        request: outrigger_model::FieldEdit {
            set: vec![field("X-Set", "new"), field("traceparent", "theirs")],
            add: vec![field("X-Add", "two")],
            remove: vec![name("X-Gone")],
        },
        ..Default::default()
    };
    let changes = Changes::compile(&filters, &Default::default()).unwrap();
    let set = [("traceparent", Bytes::from_static(b"00-1"))];
    let fields = FieldEdit {
        changes: Some(&changes.request),
        set: &set,
        ..FieldEdit::NONE
    };
    let out = request(
        "POST / HTTP/1.1\r\nHost: a\r\nx-SET: old\r\nX-Add: one\r\nContent-Length: 2\r\n\
         x-set: older\r\nX-GONE: 1\r\nX-Kept: 1\r\nTraceparent: x\r\n\r\n",
        &RequestEdit {
            fields,
            framing: Framing::Length(2),
            ..PLAIN
        },
    );
    assert_eq!(
        out,
        "POST / HTTP/1.1\r\nHost: a\r\nX-Add: one\r\nX-Kept: 1\r\ncontent-length: 2\r\n\
         x-set: new\r\nx-add: two\r\ntraceparent: 00-1\r\n\r\n",
        "what the mesh sets goes before what the route says"
    );
}

#[test]
fn path_authority_and_close_can_be_set() {
    let edit = RequestEdit {
        path: Some("/new"),
        authority: Some("b:1"),
        close: true,
        ..PLAIN
    };
    let out = request("GET /old HTTP/1.1\r\nX: 1\r\nHost: a\r\n\r\n", &edit);
    assert_eq!(
        out,
        "GET /new HTTP/1.1\r\nhost: b:1\r\nX: 1\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn a_websocket_upgrade_passes_and_no_other_does() {
    let upgrade = |extra: &str| {
        let raw = format!("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: k\r\n{extra}\r\n");
        request(&raw, &PLAIN).contains("connection: upgrade\r\nupgrade: websocket\r\n")
    };
    assert!(upgrade(
        "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    ));
    assert!(!upgrade("Upgrade: websocket\r\n"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: h2c\r\n"));
    assert!(!upgrade(
        "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"
    ));
    assert!(!upgrade(
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n"
    ));
}

#[test]
fn responses_carry_our_framing_and_the_declared_length() {
    let edit = |framing, close| ResponseEdit {
        framing,
        close,
        fields: FieldEdit::NONE,
    };
    let raw =
        "HTTP/1.0 200 Fine\r\nConnection: x-a\r\nX-A: 1\r\nX-Outrigger-Reason: lie\r\nB: 2\r\n\r\n";
    assert_eq!(
        response(raw, Asked::Other, &edit(Framing::Chunked, false)),
        "HTTP/1.1 200 Fine\r\nB: 2\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        response(raw, Asked::Other, &edit(Framing::UntilClose, false)),
        "HTTP/1.1 200 Fine\r\nB: 2\r\nconnection: close\r\n\r\n"
    );
    let raw = "HTTP/1.1 200\r\nContent-Length: 7\r\n\r\n";
    assert_eq!(
        response(raw, Asked::Head, &edit(Framing::None, true)),
        "HTTP/1.1 200 \r\ncontent-length: 7\r\nconnection: close\r\n\r\n"
    );
    let raw = "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        response(raw, Asked::Other, &edit(Framing::None, false)),
        "HTTP/1.1 204 No Content\r\n\r\n"
    );
    let raw =
        "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec: 1\r\n\r\n";
    assert_eq!(
        response(raw, Asked::Other, &edit(Framing::None, false)),
        "HTTP/1.1 101 Switching\r\nSec: 1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
    );
}

/// `Trailer` names what comes, so it names nothing that is taken out on the way.
#[test]
fn trailers_that_do_not_pass_are_not_announced() {
    let chunked = RequestEdit {
        framing: Framing::Chunked,
        ..PLAIN
    };
    let ask = |fields: &str| {
        let head =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{fields}\r\n");
        request(&head, &chunked)
    };
    let sent = "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n";
    assert_eq!(
        ask("Trailer: X-Sum, Host, ,bad name\r\ntrailer: Content_Length,expires, x-end\r\n"),
        format!("{sent}trailer: X-Sum, x-end\r\n\r\n")
    );
    assert_eq!(
        ask("Trailer: x-outrigger-reason, te\r\n"),
        format!("{sent}\r\n")
    );
    assert_eq!(
        ask("Connection: trailer\r\nTrailer: x\r\n"),
        format!("{sent}\r\n")
    );
    let raw = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: 1\r\nTrailer: x-sum, set-cookie\r\nB: 2\r\n\r\n";
    let answer = |framing| {
        let edit = ResponseEdit {
            framing,
            close: false,
            fields: FieldEdit::NONE,
        };
        response(raw, Asked::Other, &edit)
    };
    assert_eq!(
        answer(Framing::Chunked),
        "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
    );
    // An old client gets no chunks, so no trailers.
    assert_eq!(
        answer(Framing::UntilClose),
        "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn reserved_fields_of_a_sidecar_are_kept() {
    let fields = FieldEdit {
        reserved: Reserved::Keep,
        ..FieldEdit::NONE
    };
    let raw = "HTTP/1.1 503 No\r\nx-outrigger-reason: no-endpoint\r\ncontent-length: 0\r\n\r\n";
    let edit = ResponseEdit {
        framing: Framing::Length(0),
        close: false,
        fields,
    };
    assert_eq!(response(raw, Asked::Other, &edit), raw);
}

#[test]
fn bodies_reach_old_clients_without_chunks() {
    use Framing::{Chunked, Length, None, UntilClose};
    let cases = [
        (None, None, None),
        (Length(3), Length(3), Length(3)),
        (Chunked, Chunked, UntilClose),
        (UntilClose, Chunked, UntilClose),
    ];
    for (upstream, to_11, to_10) in cases {
        assert_eq!(write::downstream_framing(upstream, Version::Http11), to_11);
        assert_eq!(write::downstream_framing(upstream, Version::Http10), to_10);
    }
}

#[test]
fn lookups_ignore_case_and_keep_values_apart() {
    let raw = "GET / HTTP/1.1\r\nHost: a\r\nAccept: x\r\nACCEPT: y, z\r\n\r\n";
    let head = RequestHead::parse(Bytes::from_static(raw.as_bytes())).unwrap();
    assert_eq!(head.get("accept"), Some(&b"x"[..]));
    assert_eq!(
        head.get_all("Accept").collect::<Vec<_>>(),
        [&b"x"[..], b"y, z"]
    );
    assert_eq!(head.get("none"), Option::None);
    assert_eq!(
        (head.method(), head.path_and_query(), head.authority()),
        ("GET", "/", Some("a"))
    );
}

#[test]
fn decimals_are_exact() {
    for number in [0, 9, 10, 12_345, u64::MAX] {
        let mut out = Vec::new();
        write::put_decimal(number, &mut out);
        assert_eq!(out, number.to_string().as_bytes());
    }
}
