//! What people write that is meant well: applications that start others, services outside, edits
//! that come too early or are wrong for a moment.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use outrigger_tests::{Folder, eventually, free_address, free_port, http1::call};
use rustix::process::Signal;
use serde_json::Value;

use crate::outrigger::up;

fn entry(name: &str, spec: &str, exec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, annotations: {{outrigger.dev/exec: {exec:?}}}}}\nspec: {{{spec}}}\n"
    )
}

fn client(own: Ipv4Addr) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: client}}\nspec: {{address: {own}}}\n"
    )
}

fn service(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}\n"
    )
}

/// Processes of a group that live.
fn members(group: i64) -> Vec<String> {
    let group = group.to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let mut fields = stat.rsplit(')').next().unwrap().split_whitespace();
            fields.next() != Some("Z") && fields.nth(1) == Some(group.as_str())
        })
        .collect()
}

fn is_start_of_application(event: &Value) -> bool {
    event["event"] == "child_start" && event["role"] == "application"
}

#[test]
fn what_an_application_started_ends_with_it() {
    let folder = Folder::new();
    let exec = "sh -c 'trap \"\" TERM; sleep 600 & sleep 600 & wait; wait'";
    folder.write(
        "a.yaml",
        &entry("a", &format!("address: {}", free_address()), exec),
    );
    let mut mesh = up(&folder, &[]);
    let group = mesh.until_that(is_start_of_application).unwrap()["pid"]
        .as_i64()
        .unwrap();
    eventually("the application has started two others", || {
        members(group).len() == 3
    });
    mesh.signal(Signal::INT).unwrap();
    // Asked twice: nobody waits for the one that does not heed it.
    mesh.signal(Signal::INT).unwrap();
    assert!(mesh.ended().unwrap().success());
    assert_eq!(members(group), [""; 0]);
}

/// Nobody runs a sidecar at an address in a list: it is spoken to in plain text.
#[test]
fn services_outside_are_spoken_to_in_plain_text() {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in outside.incoming().map_while(Result::ok) {
            let mut head = [0; 4];
            if stream.read_exact(&mut head).is_ok() && head == *b"GET " {
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\noutside";
                stream.write_all(answer).ok();
                stream.shutdown(std::net::Shutdown::Write).ok();
                stream.read_to_end(&mut Vec::new()).ok();
            }
        }
    });
    let folder = Folder::new();
    folder.write("client.yaml", &client(free_address())).write(
        "outside.yaml",
        &["", ", location: MESH_INTERNAL"].iter().enumerate().map(|(number, location)| format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: outside-{number}}}\nspec: {{hosts: [outside-{number}.example], ports: [{{number: 80, name: http}}], resolution: STATIC, endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]{location}}}\n"
        )).collect::<String>(),
    );
    let mut mesh = up(&folder, &[]);
    let ready = mesh.until("ready").unwrap();
    for number in 0..2 {
        let listener = &ready["workloads"][0]["outbound"][format!("outside-{number}.example:80")];
        let listener = listener.as_str().unwrap().parse().unwrap();
        let reply = call(listener, "GET", "/", &[]);
        assert_eq!((reply.status, reply.text()), (200, "outside".to_owned()));
    }
}

#[test]
fn a_port_that_is_put_right_before_it_is_ready_is_waited_for() {
    let folder = Folder::new();
    let (wrong, right) = (free_port(), free_port());
    let own = free_address();
    let exec = format!("outrigger shop product --port {right} --version v1");
    let with = |port: u16| {
        entry(
            "a",
            &format!("address: {own}, ports: {{http: {port}}}"),
            &exec,
        )
    };
    folder.write("a.yaml", &with(wrong));
    let mut mesh = up(&folder, &[]);
    mesh.until_that(is_start_of_application).unwrap();
    folder.write("a.yaml", &with(right));
    let ready = mesh.until("ready").unwrap();
    assert_eq!(
        ready["workloads"][0]["inbound"][0],
        format!("{own}:{right}")
    );
}

/// A sidecar that starts does not take SIGHUP yet: it gets none.
#[test]
fn edits_while_sidecars_start_end_none_of_them() {
    let folder = Folder::new();
    let own = free_address();
    folder.write("client.yaml", &client(own));
    let mut mesh = up(&folder, &[]);
    mesh.until("child_start").unwrap();
    for number in 0..8 {
        folder.write(&format!("{number}.yaml"), &service(&format!("s{number}")));
        thread::park_timeout(std::time::Duration::from_millis(60));
    }
    let mut listener = None;
    while listener.is_none() {
        let event = mesh.event().unwrap();
        assert_ne!(event["event"], "child_exit", "{event}");
        let workloads = event["workloads"].as_array().into_iter().flatten();
        for workload in workloads.chain(event.get("workload")) {
            listener = listener.or(workload["outbound"]["s7.default.svc.cluster.local:80"]
                .as_str()
                .map(str::to_owned));
        }
    }
    let listener: SocketAddr = listener.unwrap().parse().unwrap();
    eventually("the last one is listened for", || {
        TcpStream::connect(listener).is_ok()
    });
    mesh.signal(Signal::INT).unwrap();
    assert!(mesh.ended().unwrap().success());
}

#[test]
fn a_command_that_is_wrong_for_a_moment_ends_nothing() {
    let folder = Folder::new();
    let (port, own) = (free_port(), free_address());
    let spec = format!("address: {own}, ports: {{http: {port}}}, labels: {{app: web}}");
    let exec = format!("outrigger shop product --port {port} --version v1");
    folder
        .write("client.yaml", &client(free_address()))
        .write("service.yaml", &service("web"))
        .write("a.yaml", &entry("a", &spec, &exec));
    let mut mesh = up(&folder, &[]);
    let ready = mesh.until("ready").unwrap();
    let web = &ready["workloads"][1]["outbound"]["web.default.svc.cluster.local:80"];
    let web = web.as_str().unwrap().parse().unwrap();
    for (wrong, said) in [
        ("outriger shop", "cannot be found"),
        ("outrigger 'shop", "holds no command"),
    ] {
        folder.write("a.yaml", &entry("a", &spec, wrong));
        let warning = mesh
            .until_that(|event| {
                assert_ne!(event["event"], "child_exit", "{event}");
                let message = event["message"].as_str();
                message.is_some_and(|message| message.contains(said))
            })
            .unwrap();
        assert_eq!(warning["event"], "warning");
        let reply = call(web, "GET", "/api/v1/products", &[]);
        assert_eq!(reply.status, 200, "{}", reply.reason());
    }
    // Put right, and it is replaced as any other.
    folder.write("a.yaml", &entry("a", &spec, &exec.replace("v1", "v2")));
    mesh.until_that(is_start_of_application).unwrap();
    eventually("the new one answers", || {
        call(web, "GET", "/api/v1/products", &[]).version() == "v2"
    });
}
