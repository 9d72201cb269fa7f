//! What is shown, in order; the first that fails ends the run.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, ensure};

use super::{
    application::Application,
    client,
    ground::{Ground, Namespace},
    mesh::{Mesh, SIDECAR},
    wire::{SECRET, Tap},
};

/// Bytes of the large transfer.
const LARGE: usize = 32 << 20;
const CLIENT_ID: &str = "spiffe://cluster.local/ns/shop/sa/client";
const WEB_ID: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// All that the cases use.
struct Stage<'a> {
    proxy: &'a Path,
    ground: Ground,
    tap: Tap,
    mesh: Mesh,
}

type Case = fn(&mut Stage<'_>) -> anyhow::Result<()>;

/// In order: the last ones take the mesh apart.
const CASES: &[(&str, Case)] = &[
    ("the rules are nft's own, applied twice and once", rules),
    ("HTTP/1 by virtual address, IPv4 and IPv6", http1),
    ("gRPC over HTTP/2", grpc),
    ("a server that speaks first", server_first),
    ("a large transfer on an undeclared port", large),
    ("one's own service", own_service),
    ("loopback and the own pod are left alone", loopback),
    ("strangers are passed through and counted", strangers),
    ("from outside, strict mutual TLS refuses plain text", strict),
    ("skipped ports", skipped),
    ("the sidecar's user is exempt", exempt),
    ("the sidecar's own ports lead nowhere", own_ports),
    ("health and probes need no mesh", health),
    ("without the capability: a clear error", no_capability),
    ("without a sidecar: refused, not leaked", sidecar_down),
    ("undone, traffic is as it was", undone),
];

pub(crate) fn run(proxy: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // The sidecar is another user.
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let ground = Ground::new()?;
    let _applications = [&ground.client, &ground.web, &ground.outside]
        .into_iter()
        .map(Application::start)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let tap = Tap::start(&ground.node, &ground.outside)?;
    redirect(&ground.client, proxy, &["--skip-outbound-ports", "2222"])?;
    redirect(&ground.web, proxy, &["--skip-inbound-ports", "2222"])?;
    let mesh = Mesh::start(&ground, proxy, folder.path())?;
    let mut stage = Stage {
        proxy,
        ground,
        tap,
        mesh,
    };
    for (name, case) in CASES {
        case(&mut stage).with_context(|| {
            let (client, web) = (stage.mesh.client.log(), stage.mesh.web.log());
            format!("{name}\n-- client\n{client}\n-- web\n{web}\n--")
        })?;
        say(name);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report of this program")]
fn say(name: &str) {
    println!("ok: {name}");
}

fn redirect(pod: &Namespace, proxy: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let arguments: Vec<&str> = [&["redirect"], arguments].concat();
    let (code, text) = pod.output(None, proxy, &arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {code:?} {text}");
    Ok(())
}

fn at(text: &str) -> anyhow::Result<SocketAddr> {
    Ok(text.parse()?)
}

fn rules(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let pod = &stage.ground.client;
    let nft = |arguments: &[&str]| -> anyhow::Result<String> {
        let (code, text) = pod.output(None, Path::new("nft"), arguments)?;
        ensure!(code == Some(0), "nft (install nftables): {text}");
        Ok(text)
    };
    let options = ["--skip-outbound-ports", "2222"];
    let printed = [&["redirect", "--dry-run"][..], &options].concat();
    let (_, planned) = pod.output(None, stage.proxy, &printed)?;
    let table = ["list", "table", "inet", "outrigger"];
    ensure!(nft(&table)? == planned, "not as planned: {}", nft(&table)?);
    redirect(pod, stage.proxy, &options)?;
    ensure!(nft(&table)? == planned, "applied twice: {}", nft(&table)?);
    let all = nft(&["list", "ruleset"])?;
    ensure!(all == planned, "something else was written: {all}");
    Ok(())
}

/// A request that must have gone through both sidecars; returns what the application saw.
fn meshed(stage: &Stage<'_>, to: &str, host: &str) -> anyhow::Result<String> {
    let (plain, records) = stage.tap.seen()?;
    let path = format!("/{SECRET}");
    let answer = client::get(&stage.ground.client, at(to)?, host, &path)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    ensure!(
        answer.contains(&path) && answer.contains(CLIENT_ID),
        "{answer}"
    );
    let (plain_now, records_now) = stage.tap.seen()?;
    ensure!(plain_now == plain, "plain text crossed the bridge");
    ensure!(records_now > records, "no TLS crossed the bridge");
    Ok(answer)
}

fn http1(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    meshed(stage, "10.96.0.10:80", "web.shop")?;
    meshed(stage, "[fd00:96::10]:80", "web6.shop")?;
    meshed(stage, "10.96.0.20:80", "dual.shop.svc.cluster.local")?;
    meshed(stage, "[fd00:96::20]:80", "dual")?;
    // A name that is no service's: the address decides.
    meshed(stage, "10.96.0.10:80", "www.example.com")?;
    // A name that is another service's: the name decides.
    meshed(stage, "10.96.0.10:80", "web6.shop:80")?;
    let seen = stage.mesh.client.metric(
        &stage.ground.node,
        "outrigger_requests_total",
        &["web6", "mutual_tls"],
    )?;
    ensure!(seen == 2, "{seen} requests to web6");
    Ok(())
}

fn grpc(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    for to in ["10.96.0.10:82", "[fd00:96::10]:82"] {
        let (status, seen) = client::grpc(&stage.ground.client, at(to)?, "web.shop:82")?;
        ensure!(
            status == "0" && seen.contains(CLIENT_ID),
            "{status:?} {seen:?}"
        );
    }
    Ok(())
}

fn server_first(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let (plain, _) = stage.tap.seen()?;
    for to in ["10.96.0.10:5432", "[fd00:96::10]:5432"] {
        client::banner(&stage.ground.client, at(to)?, SECRET)?;
    }
    ensure!(
        stage.tap.seen()?.0 == plain,
        "plain text crossed the bridge"
    );
    Ok(())
}

fn large(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    for to in ["10.96.0.10:90", "[fd00:96::10]:90"] {
        client::mirror(&stage.ground.client, at(to)?, LARGE)?;
    }
    Ok(())
}

fn own_service(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let answer = client::get(&stage.ground.web, at("10.96.0.10:80")?, "web", "/own")?;
    ensure!(answer.contains(WEB_ID), "past the inbound side: {answer}");
    let answer = client::get(&stage.ground.web, at("[fd00:96::10]:80")?, "web6", "/own")?;
    ensure!(answer.contains(WEB_ID), "past the inbound side: {answer}");
    Ok(())
}

/// That the client's sidecar has taken, in either direction.
fn connections(stage: &Stage<'_>) -> anyhow::Result<u64> {
    let pod = &stage.mesh.client;
    pod.metric(&stage.ground.node, "outrigger_connections_total", &[])
}

fn loopback(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let client = &stage.ground.client;
    let before = connections(stage)?;
    client::banner(client, at("127.0.0.1:7000")?, "local")?;
    client::banner(client, at("[::1]:5432")?, "local")?;
    client::banner(client, SocketAddr::new(client.v4(), 5432), "own address")?;
    client::banner(client, SocketAddr::new(client.v6(), 5432), "own address")?;
    let after = connections(stage)?;
    ensure!(before == after, "{before} connections, then {after}");
    Ok(())
}

fn passed_through(stage: &Stage<'_>) -> anyhow::Result<u64> {
    stage.mesh.client.metric(
        &stage.ground.node,
        "outrigger_tcp_connections_opened_total",
        &["PassthroughCluster"],
    )
}

fn strangers(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let (client, outside) = (&stage.ground.client, &stage.ground.outside);
    let (plain, _) = stage.tap.seen()?;
    client::banner(client, SocketAddr::new(outside.v4(), 5432), SECRET)?;
    client::banner(client, SocketAddr::new(outside.v6(), 5432), "six")?;
    let to = SocketAddr::new(outside.v4(), 8080);
    let answer = client::get(client, to, "www.example.com", "/out")?;
    ensure!(
        answer.contains("GET /out") && !answer.contains("x-outrigger"),
        "{answer}"
    );
    ensure!(stage.tap.seen()?.0 > plain, "the tap sees nothing");
    let counted = passed_through(stage)?;
    ensure!(counted == 3, "{counted} counted");
    // A name that is a service's leads into the mesh from any address.
    meshed(stage, &to.to_string(), "web.shop:80")?;
    Ok(())
}

fn strict(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let outside = &stage.ground.outside;
    for address in [stage.ground.web.v4(), stage.ground.web.v6()] {
        let to = SocketAddr::new(address, 8080);
        let answer = client::get(outside, to, "web", "/in")?;
        ensure!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("plaintext-refused"),
            "{answer}"
        );
        let bytes = client::says(outside, SocketAddr::new(address, 5432), "hello\n")?;
        ensure!(bytes.is_empty(), "{}", String::from_utf8_lossy(&bytes));
    }
    let refused = stage.mesh.web.metric(
        &stage.ground.node,
        "outrigger_refusals_total",
        &["plaintext-refused"],
    )?;
    ensure!(refused >= 4, "{refused} refusals counted");
    Ok(())
}

fn skipped(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let (client, outside) = (&stage.ground.client, &stage.ground.outside);
    client::banner(outside, SocketAddr::new(stage.ground.web.v4(), 2222), "in")?;
    client::banner(outside, SocketAddr::new(stage.ground.web.v6(), 2222), "in")?;
    let before = passed_through(stage)?;
    client::banner(client, SocketAddr::new(outside.v4(), 2222), "out")?;
    ensure!(
        passed_through(stage)? == before,
        "a skipped port was captured"
    );
    let ranges = ["--skip-outbound-ranges", "10.77.0.4/32,fd00:77::4/128"];
    redirect(client, stage.proxy, &ranges)?;
    client::banner(client, SocketAddr::new(outside.v4(), 5432), "out")?;
    client::banner(client, SocketAddr::new(outside.v6(), 5432), "out")?;
    ensure!(
        passed_through(stage)? == before,
        "a skipped range was captured"
    );
    redirect(
        client,
        stage.proxy,
        &["--only-outbound-ranges", "10.96.0.0/12"],
    )?;
    client::banner(client, SocketAddr::new(outside.v4(), 5432), "out")?;
    ensure!(
        passed_through(stage)? == before,
        "captured outside the ranges included"
    );
    meshed(stage, "10.96.0.10:80", "web.shop")?;
    redirect(client, stage.proxy, &[])
}

/// A plain connection of the sidecar's user goes past the sidecar.
fn exempt(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let script = "exec 3<>/dev/tcp/10.77.0.4/5432; read -r line <&3; echo $line";
    let arguments = ["-c", script];
    let shell = Path::new("bash");
    let client = &stage.ground.client;
    let before = passed_through(stage)?;
    let (_, text) = client.output(Some(SIDECAR), shell, &arguments)?;
    ensure!(text.contains("outrigger-banner"), "{text}");
    ensure!(
        passed_through(stage)? == before,
        "the sidecar's user was captured"
    );
    let (_, text) = client.output(Some(1000), shell, &arguments)?;
    ensure!(text.contains("outrigger-banner"), "{text}");
    ensure!(passed_through(stage)? == before + 1, "another user was not");
    Ok(())
}

fn own_ports(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let (client, outside) = (&stage.ground.client, &stage.ground.outside);
    for to in [
        SocketAddr::new(stage.ground.web.v4(), 15_001),
        SocketAddr::new(stage.ground.web.v4(), 15_006),
        SocketAddr::new(stage.ground.web.v6(), 15_006),
    ] {
        let bytes = client::says(outside, to, "GET / HTTP/1.1\r\nhost: web\r\n\r\n")?;
        ensure!(
            bytes.is_empty(),
            "{to}: {}",
            String::from_utf8_lossy(&bytes)
        );
    }
    for to in ["127.0.0.1:15001", "127.0.0.1:15006", "[::1]:15001"] {
        let bytes = client::says(client, at(to)?, "GET / HTTP/1.1\r\nhost: web\r\n\r\n")?;
        ensure!(
            bytes.is_empty(),
            "{to}: {}",
            String::from_utf8_lossy(&bytes)
        );
    }
    meshed(stage, "10.96.0.10:80", "web.shop")?;
    Ok(())
}

fn health(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    for (path, status) in [
        ("/live", "200"),
        ("/ready", "200"),
        ("/app-health/app/livez", "200"),
        ("/app-health/app/readyz", "200"),
        ("/app-health/app/startupz", "503"),
        ("/app-health/other/livez", "404"),
        ("/metrics", "404"),
        ("/config", "404"),
    ] {
        let answer = stage.mesh.web.health(&stage.ground.outside, path)?;
        ensure!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
    }
    Ok(())
}

fn no_capability(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    for arguments in [&["redirect"][..], &["redirect", "--undo"]] {
        let (code, text) = stage
            .ground
            .client
            .output(Some(1000), stage.proxy, arguments)?;
        ensure!(
            code == Some(2) && text.contains("NET_ADMIN"),
            "{code:?} {text}"
        );
    }
    Ok(())
}

fn sidecar_down(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let (client, outside) = (&stage.ground.client, &stage.ground.outside);
    stage.mesh.client.kill()?;
    for to in [
        at("10.96.0.10:80")?,
        SocketAddr::new(outside.v4(), 5432),
        SocketAddr::new(outside.v6(), 5432),
    ] {
        ensure!(client::is_refused(client, to)?, "{to} was reached");
    }
    for address in [client.v4(), client.v6()] {
        let to = SocketAddr::new(address, 5432);
        ensure!(client::is_refused(outside, to)?, "{to} was reached");
    }
    client::banner(client, at("127.0.0.1:7000")?, "local")?;
    stage.mesh.client.start(client, stage.proxy)?;
    stage.mesh.client.await_ready(&stage.ground.node)?;
    meshed(stage, "10.96.0.10:80", "web.shop")?;
    Ok(())
}

fn undone(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let (client, outside) = (&stage.ground.client, &stage.ground.outside);
    stage.mesh.client.kill()?;
    for _ in 0..2 {
        redirect(client, stage.proxy, &["--undo"])?;
        let (_, left) = client.output(None, Path::new("nft"), &["list", "ruleset"])?;
        ensure!(left.is_empty(), "left: {left}");
    }
    client::banner(client, SocketAddr::new(outside.v4(), 5432), "out")?;
    client::banner(client, SocketAddr::new(outside.v6(), 5432), "out")?;
    client::banner(outside, SocketAddr::new(client.v4(), 5432), "in")
}
