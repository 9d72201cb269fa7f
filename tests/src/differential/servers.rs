//! Six real HTTP/1 servers, each by another hand, as child processes on ports of 127.0.0.1.
//!
//! Node, Go and gunicorn print a line for each request they saw; nginx, HAProxy and Apache are
//! proxies in front of a recorder of ours, which sees what they made of it. Their limits on the
//! size of heads are raised above Outrigger's: sizes are no difference of understanding.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, bail};

use super::{
    ground,
    record::{Record, Records, recorder},
};
use crate::{Program, free_port, wait_until};

/// How long a server may take to listen.
const READY_MAX: Duration = Duration::from_secs(30);

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// What it is, and the name of its workload.
    pub name: &'static str,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// What it saw.
    pub records: Records,
    program: Program,
    reader: Option<JoinHandle<()>>,
}

/// Starts all, with their files in `folder`. Installs programs that are missing.
///
/// # Errors
/// When one cannot be had, or does not listen in time.
pub fn start_all(folder: &Path) -> anyhow::Result<Vec<Server>> {
    ground::prepare()?;
    fs::create_dir_all(folder)?;
    let node = |port: u16| {
        fs::write(folder.join("server.js"), include_str!("servers/server.js"))?;
        let mut command = Command::new(ground::program("node")?);
        command
            .arg("--max-http-header-size=262144")
            .arg(folder.join("server.js"))
            .arg(port.to_string());
        Ok(command)
    };
    let go = |port: u16| {
        let program = build_go(folder, "server", include_str!("servers/server.go"))?;
        let mut command = Command::new(program);
        command.arg(port.to_string());
        Ok(command)
    };
    let gunicorn = |port: u16| {
        fs::write(folder.join("server.py"), include_str!("servers/server.py"))?;
        let mut command = Command::new(ground::program("gunicorn")?);
        command
            .args(["--worker-class", "gthread", "--threads", "32"])
            .args(["--keep-alive", "75", "--graceful-timeout", "1"])
            .args(["--limit-request-line", "0", "--limit-request-fields", "300"])
            .args(["--limit-request-field_size", "0", "--log-level", "critical"])
            .arg("--bind")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--chdir")
            .arg(folder)
            .arg("server:application");
        Ok(command)
    };
    let servers = vec![
        speaking("node", &node)?,
        speaking("go", &go)?,
        speaking("gunicorn", &gunicorn)?,
        proxying("nginx", folder, include_str!("servers/nginx.conf"), &["-c"])?,
        proxying(
            "haproxy",
            folder,
            include_str!("servers/haproxy.cfg"),
            &["-db", "-f"],
        )?,
        proxying(
            "apache2",
            folder,
            include_str!("servers/apache.conf"),
            &["-D", "FOREGROUND", "-f"],
        )?,
    ];
    for server in &servers {
        server.await_ready()?;
    }
    // What the waiting itself asked for does not count.
    servers
        .iter()
        .for_each(|server| drop(server.records.take()));
    Ok(servers)
}

/// Builds a Go program of one file in `folder`.
pub(super) fn build_go(
    folder: &Path,
    name: &str,
    source: &str,
) -> anyhow::Result<std::path::PathBuf> {
    let file = folder.join(format!("{name}.go"));
    let program = folder.join(format!("{name}-go"));
    fs::write(&file, source)?;
    let built = Command::new(ground::program("go")?)
        .args(["build", "-o"])
        .arg(&program)
        .arg(&file)
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .output()?;
    if !built.status.success() {
        bail!("go build: {}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(program)
}

type Recipe<'a> = &'a dyn Fn(u16) -> anyhow::Result<Command>;

/// A server that prints its records.
fn speaking(name: &'static str, recipe: Recipe<'_>) -> anyhow::Result<Server> {
    let port = free_port();
    let mut program = Program::spawn(recipe(port)?.stdout(Stdio::piped()))?;
    let stdout = program.stdout().context("stdout is piped")?;
    let records = Records::default();
    let into = records.clone();
    let reader = thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        lines
            .filter_map(|line| serde_json::from_str::<Record>(&line).ok())
            .for_each(|record| into.push(record));
    });
    Ok(Server {
        name,
        port,
        records,
        program,
        reader: Some(reader),
    })
}

/// A server that forwards to a recorder.
fn proxying(
    name: &'static str,
    folder: &Path,
    template: &str,
    arguments: &[&str],
) -> anyhow::Result<Server> {
    let port = free_port();
    let records = Records::default();
    let recorder = recorder(records.clone())?;
    let config = folder.join(format!("{name}.conf"));
    let text = template
        .replace("@DIR@", &folder.to_string_lossy())
        .replace("@PORT@", &port.to_string())
        .replace("@RECORDER@", &recorder.to_string());
    fs::write(&config, text)?;
    let mut command = Command::new(ground::program(name)?);
    let program = Program::spawn(command.args(arguments).arg(&config))?;
    Ok(Server {
        name,
        port,
        records,
        program,
        reader: None,
    })
}

impl Server {
    fn await_ready(&self) -> anyhow::Result<()> {
        let what = format!("{} listens", self.name);
        wait_until(&what, READY_MAX, || {
            Ok(TcpStream::connect(("127.0.0.1", self.port)).is_ok())
        })
    }

    /// Ends it and returns what it saw.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end(mut self) -> anyhow::Result<Vec<Record>> {
        self.program.end()?;
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            bail!("the reader of {} broke", self.name);
        }
        Ok(self.records.take())
    }
}
