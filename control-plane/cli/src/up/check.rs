//! What can be found out before anything starts: ports in use, programs that are not there.

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::plan::WorkloadPlan;

/// The program of an `outrigger.dev/exec`, found: `outrigger` is this program itself, a name with
/// a slash a path, any other is looked up in `PATH`.
///
/// # Errors
/// With what to do, when there is no such program.
pub(super) fn program(name: &str) -> Result<PathBuf, String> {
    if name == "outrigger" {
        return env::current_exe().map_err(|error| format!("cannot find this program: {error}"));
    }
    let found = if name.contains('/') {
        Some(PathBuf::from(name)).filter(|path| is_program(path))
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .map(|folder| folder.join(name))
            .find(|path| is_program(path))
    };
    found.ok_or_else(|| {
        format!(
            "the program {name:?} cannot be found: write a path to it, or a name that is in PATH"
        )
    })
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Tries every address that a workload needs; those of its application only if `up` starts it.
///
/// # Errors
/// With what to do, when one cannot be bound.
pub(super) fn addresses(plan: &WorkloadPlan) -> Result<(), String> {
    let sidecar = plan
        .inbound()
        .chain(plan.outbound.values().copied())
        .chain([plan.forward_proxy(), plan.admin()]);
    for address in sidecar {
        bind(address).map_err(|why| format!("its sidecar cannot listen on {address}: {why}"))?;
    }
    if plan.exec.is_some() {
        for port in &plan.ports {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.get()));
            bind(address)
                .map_err(|why| format!("its application cannot listen on {address}: {why}"))?;
        }
    }
    Ok(())
}

fn bind(address: SocketAddr) -> Result<(), String> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err("the port is in use; end the process that has it, or change the port".to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(format!(
            "{error}; ports below 1024 need privileges: name the service's port in spec.ports to lead it to another"
        )),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found() {
        let check = |name: &str, found: bool| assert_eq!(program(name).is_ok(), found, "{name}");
        check("outrigger", true);
        check("sh", true);
        check("/bin/sh", true);
        check("/etc/passwd", false);
        check("/etc", false);
        check("no-such-program-anywhere", false);
        check("./no/such", false);
    }

    #[test]
    fn a_port_in_use_is_said() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(held.local_addr().unwrap()).unwrap_err();
        assert!(error.contains("in use"), "{error}");
    }
}
