//! Over real connections on the loopback interface.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::*;

fn started() -> (Server, Arc<Status>, Metrics) {
    let status = Arc::new(Status::new("shop", "shop-0"));
    let metrics = Metrics::new("shop", "shop-0").unwrap();
    let server = Server::start("127.0.0.1:0", status.clone(), metrics.clone()).unwrap();
    (server, status, metrics)
}

/// The code and the body of an answer.
fn get(server: &Server, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: millstream\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_loop_without_progress_is_unhealthy() {
    let (server, status, _) = started();
    let patient = status.watch("worker-0", Duration::from_secs(60));
    let hasty = status.watch("worker-1", Duration::from_millis(20));
    std::thread::sleep(Duration::from_millis(50));
    let (code, body) = get(&server, "/healthz");
    assert_eq!(code, 503);
    assert!(
        body.starts_with("`worker-1` has made no progress for") && body.ends_with("allowed are 20ms\n"),
        "{body}"
    );
    assert!(!body.contains("worker-0"), "{body}");
    assert!(hasty.silence() >= Duration::from_millis(50));
    hasty.beat();
    assert_eq!(status.unhealthy(), [] as [String; 0]);
    hasty.end();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(get(&server, "/healthz"), (200, "ok\n".to_owned()));

    // A thread that panics does not come back.
    let panics = move || {
        let _alive = patient;
        panic!("on purpose");
    };
    let panicked = std::thread::Builder::new().name("worker-0".to_owned()).spawn(panics).unwrap();
    assert!(panicked.join().is_err());
    assert_eq!(get(&server, "/healthz"), (503, "`worker-0` is gone\n".to_owned()));
}

#[test]
fn a_process_is_ready_when_nothing_is_missing() {
    let (server, status, _) = started();
    let joining = status.pending("the first assignment of the group");
    assert_eq!(get(&server, "/readyz"), (503, "waits for the first assignment of the group\n".to_owned()));
    status.update_task("orders", 3, |task| {
        task.restore = Some(RestoreProgress { restored: 10, total: 40, since: Instant::now() });
    });
    drop(joining);
    let said = "task orders-3 restores its state: 10 of 40 records\n".to_owned();
    assert_eq!(get(&server, "/readyz"), (503, said));
    status.update_task("orders", 3, |task| task.state = TaskState::Running);
    assert_eq!(get(&server, "/readyz"), (200, "ok\n".to_owned()));
    // Readiness is not health: a process that restores is alive.
    assert_eq!(get(&server, "/healthz").0, 200);
}

#[test]
fn tasks_are_json() {
    let (server, status, _) = started();
    let since = Instant::now() - Duration::from_secs(10);
    status.update_task("orders", 10, |task| {
        task.restore = Some(RestoreProgress { restored: 1_000, total: 3_000, since });
    });
    status.update_task("orders", 9, |task| {
        *task = TaskStatus {
            state: TaskState::Running,
            worker: Some(1),
            restore: None,
            inputs: vec![InputStatus { topic: "orders-topic".to_owned(), offset: 17, lag: Some(5) }],
            stream_time: Some(1_767_225_600_000),
        };
    });
    status.update_task("refunds", 0, |_| {});
    status.remove_task("refunds", 0);
    let (code, body) = get(&server, "/tasks");
    assert_eq!(code, 200);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["app"], &body["instance"]), (&"shop".into(), &"shop-0".into()));
    assert_eq!(
        body["tasks"][0],
        serde_json::json!({
            "task": "orders-9", "sub_topology": "orders", "partition": 9, "state": "running", "worker": 1, "restore": null,
            "inputs": [{ "topic": "orders-topic", "partition": 9, "offset": 17, "lag": 5 }],
            "stream_time": "2026-01-01T00:00:00.000Z",
        })
    );
    let restoring = &body["tasks"][1];
    assert_eq!((&restoring["task"], &restoring["state"]), (&"orders-10".into(), &"restoring".into()));
    let restore = &restoring["restore"];
    assert_eq!((&restore["restored"], &restore["total"]), (&1_000.into(), &3_000.into()));
    let near = |value: &serde_json::Value, expected: f64| {
        (value.as_f64().unwrap() - expected).abs() <= expected / 10.0
    };
    assert!(near(&restore["records_per_second"], 100.0) && near(&restore["seconds_left"], 20.0), "{restore}");
    assert_eq!(body["tasks"].as_array().map(Vec::len), Some(2));
}

#[test]
fn metrics_and_the_page_are_served() {
    let (server, _, metrics) = started();
    metrics.committed(Duration::from_millis(3));
    let (code, body) = get(&server, "/metrics");
    assert_eq!(code, 200);
    assert!(body.contains("\nmillstream_commits_total{app=\"shop\"} 1\n"), "{body}");
    let (code, body) = get(&server, "/");
    assert_eq!(code, 200);
    for link in ["/healthz", "/readyz", "/metrics", "/tasks"] {
        assert!(body.contains(&format!("href=\"{link}\"")), "{body}");
        assert_eq!(get(&server, link).0, 200, "{link}");
    }
    assert_eq!(get(&server, "/nothing").0, 404);
}

#[test]
fn the_server_ends_although_a_client_stays() {
    let (server, status, metrics) = started();
    let address = server.address();
    let mut idle = TcpStream::connect(address).unwrap();
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    get(&server, "/healthz");
    let start = Instant::now();
    server.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let mut nothing = String::new();
    assert!(matches!(idle.read_to_string(&mut nothing), Ok(0) | Err(_)));
    // The port is free again.
    Server::start(&address.to_string(), status, metrics).unwrap().stop();
}

#[test]
fn an_address_that_cannot_be_had_is_said() {
    let (server, status, metrics) = started();
    let refused = |listen: &str| Server::start(listen, status.clone(), metrics.clone()).unwrap_err();
    let taken = server.address().to_string();
    let error = refused(&taken);
    assert!(matches!(error, HttpError::InUse { .. }));
    assert!(
        error.to_string().starts_with(&format!("cannot listen on {taken}: another process does")),
        "{error}"
    );
    // An address for documentation, which no machine has.
    assert!(matches!(refused("192.0.2.1:7780"), HttpError::NotOurs { .. }));
    assert!(matches!(refused("no port"), HttpError::Io { .. }));
    assert_eq!(error.code(), Code::ListenAddress);
}
