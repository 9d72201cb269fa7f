//! Processes that die are started again, and none is left. One that is out of file descriptors waits
//! for some.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use outrigger_tests::{PATIENCE, eventually, http1::call, signal};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use super::bed::Bed;

const PATH: &str = "/api/v1/products";

#[test]
fn a_killed_sidecar_and_a_killed_application_come_back() {
    let mut bed = Bed::new();
    bed.service("products", "products", "http");
    let app = bed.app("products-v1", "products", "product", "v1");
    bed.start(&[]);
    let products = bed.outbound("products");
    assert_eq!(call(products, "GET", PATH, &[]).status, 200);
    assert_eq!(app.requests(), 1);

    for role in ["sidecar", "application"] {
        let start = bed.seen().iter().rfind(|event| {
            event["event"] == "child_start"
                && event["workload"] == "shop/products-v1"
                && event["role"] == role
        });
        let pid = start.unwrap()["pid"].as_u64().unwrap();
        signal(u32::try_from(pid).unwrap(), Signal::KILL).unwrap();
        let exit = bed.event(|event| event["event"] == "child_exit" && event["role"] == role);
        assert_eq!(exit["workload"], "shop/products-v1");
        assert_eq!(exit["expected"], false);
        assert!(exit["status"].as_str().unwrap().contains('9'), "{exit}");
        assert!(exit["restart_in_ms"].is_u64(), "{exit}");
        let again = bed.event(|event| event["event"] == "child_start" && event["role"] == role);
        assert_ne!(again["pid"].as_u64(), Some(pid));
        eventually("traffic flows again", || {
            call(products, "GET", PATH, &[]).status == 200
        });
    }
    // The application that died took its counts along.
    assert!(app.requests() >= 1);
    bed.end();
}

/// One that cannot open a file accepts no connection: it neither dies nor spins, and goes on as soon as
/// it can (D4). `ask` makes it answer something.
fn waits_for_files(bed: &Bed, pid: u32, address: SocketAddr, ask: &str) -> String {
    let process = Pid::from_raw(i32::try_from(pid).unwrap());
    let maximum = getrlimit(Resource::Nofile).maximum;
    let none = Rlimit {
        current: Some(1),
        maximum,
    };
    let before = prlimit(process, Resource::Nofile, none).unwrap();
    let used = ticks(pid);
    let mut waiting = TcpStream::connect(address).unwrap();
    waiting.write_all(ask.as_bytes()).unwrap();
    waiting
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let early = waiting.read(&mut [0]).unwrap_err();
    assert!(
        matches!(early.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{early}"
    );
    // A loop that failed at once would take half a second, or its share of it.
    let used = ticks(pid) - used;
    assert!(used <= 10, "{used} hundredths of a second");
    prlimit(process, Resource::Nofile, before).unwrap();
    let raised = Instant::now();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    // The control plane may cut a client that speaks no TLS.
    let _end = waiting.read_to_end(&mut answer);
    let late = raised.elapsed();
    assert!(late < Duration::from_secs(3), "{late:?}");
    let ended = bed
        .seen()
        .iter()
        .find(|event| event["event"] == "child_exit");
    assert_eq!(ended, None);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn out_of_file_descriptors_a_sidecar_and_the_control_plane_wait_and_go_on() {
    let mut bed = Bed::new();
    bed.service("products", "products", "http");
    let app = bed.app("products-v1", "products", "product", "v1");
    bed.start(&[]);
    let products = bed.outbound("products");
    assert_eq!(call(products, "GET", PATH, &[]).status, 200);
    let get = format!("GET {PATH} HTTP/1.1\r\nhost: products\r\nconnection: close\r\n\r\n");
    let sidecar = bed.sidecar_pid("client");
    let answer = waits_for_files(&bed, sidecar, products, &get);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = waits_for_files(&bed, parent(sidecar), control_plane(&bed), &get);
    assert!(!answer.is_empty(), "a TLS alert");
    assert_eq!(call(products, "GET", PATH, &[]).status, 200);
    assert_eq!(app.requests(), 3);
    bed.end();
}

/// Where sidecars reach the control plane, as the client's was told.
fn control_plane(bed: &Bed) -> SocketAddr {
    let pid = bed.sidecar_pid("client");
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let mut arguments = arguments.split('\0');
    let file = arguments.find(|argument| argument.ends_with("bootstrap.json"));
    let text = fs::read_to_string(file.unwrap()).unwrap();
    let bootstrap: serde_json::Value = serde_json::from_str(&text).unwrap();
    bootstrap["control_plane"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// The process that started another.
fn parent(pid: u32) -> u32 {
    stat(pid, 1).try_into().unwrap()
}

/// Processor time that a process has used, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    stat(pid, 11) + stat(pid, 12)
}

/// A number of `/proc/PID/stat`, counted from the state.
fn stat(pid: u32, field: usize) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields
        .split_whitespace()
        .nth(field)
        .unwrap()
        .parse()
        .unwrap()
}
