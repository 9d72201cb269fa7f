//! Several workers of one sidecar: what holds for the sidecar holds however many they are.

use std::{net::SocketAddr, time::Instant};

use outrigger_model::Percent;

use super::{
    mesh::{Mesh, run},
    peer::{App, get, once},
    plan::{eject_after, on_5xx, retry, service},
};

/// Where `count` further workers of the client's sidecar take requests for `orders`.
async fn workers(mesh: &Mesh, count: u64) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for seed in 0..count {
        addresses.push(mesh.another_worker(seed).await.1);
    }
    addresses
}

#[test]
fn failures_in_a_row_are_counted_over_all_workers() {
    run(async {
        for (count, threshold) in [(2, 5), (4, 6)] {
            let mesh = Mesh::new();
            let app = App::answering(&mesh, 500).await;
            let endpoint = mesh.behind(app.address).await;
            let plan = service("orders:80", vec![endpoint])
                .policy(|policy| eject_after(policy, threshold));
            mesh.client.knows(&[plan]);
            let workers = workers(&mesh, count).await;
            let ejections = || mesh.client.metric("outrigger_ejections_total", &[]);
            let mut through = workers.iter().cycle();
            for _ in 1..threshold {
                let reply = once(&mesh, *through.next().unwrap(), get("/")).await;
                assert_eq!((reply.status, reply.reason()), (500, ""));
            }
            assert_eq!(ejections(), 0);
            once(&mesh, *through.next().unwrap(), get("/")).await;
            assert_eq!(ejections(), 1);
            assert_eq!(mesh.client.metric("outrigger_endpoints_ejected", &[]), 1);
            for worker in &workers {
                let reply = once(&mesh, *worker, get("/")).await;
                reply.assert_refused(503, "no-endpoint; ");
            }
            assert_eq!(app.count(), usize::try_from(threshold).unwrap());
            assert_eq!(ejections(), 1);
        }
    });
}

#[test]
fn the_floor_of_the_retry_budget_is_one_for_all_workers() {
    run(async {
        const FLOOR: u64 = 4;
        let mesh = Mesh::new();
        let app = App::answering(&mesh, 500).await;
        let endpoint = mesh.behind(app.address).await;
        let plan = service("orders:80", vec![endpoint]).rule(|rule| {
            rule.retry = retry(1, on_5xx());
            rule.retry.budget.percent = Percent::ZERO;
            rule.retry.budget.min_per_second = u32::try_from(FLOOR).unwrap();
        });
        mesh.client.knows(&[plan]);
        let workers = workers(&mesh, 4).await;
        let begun = Instant::now();
        for worker in workers.iter().cycle().take(24) {
            assert_eq!(once(&mesh, *worker, get("/")).await.status, 500);
        }
        let retries = mesh.client.metric("outrigger_retries_total", &[]);
        // In every second so many; the time that the requests took is not ours to choose.
        let most = FLOOR * (begun.elapsed().as_secs() + 1);
        assert!((FLOOR..=most).contains(&retries), "{retries} of {most}");
    });
}
