//! The HTTP listener: /metrics for Prometheus and /health for load balancers and orchestrators.
//!
//! It speaks to scrapers and probes, so it is strict and small: GET and HEAD only, no request body, one request per
//! connection, and a limit on everything that a stranger could hold on to. It runs on a thread of its own, away from the
//! data path.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::families;
use super::snapshot::{Detail, Readiness, ReplicaSnapshot, ShardSnapshot, Snapshot, SnapshotSource};
use crate::shard::check::{Check, Effect, Finding};

/// Connections at once; one beyond is closed at once.
const MAX_CONNECTIONS: usize = 64;
/// Headers of a request at most.
const MAX_HEADERS: usize = 64;
/// Bytes of a request's head at most.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long the head of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole connection may take: a peer that does not read its answer is dropped.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Rest after a failed accept, which is mostly for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What is served, for the answer to anything else.
const PATHS: &str = "/metrics\n/health\n/health/live\n/health/ready\n/health/detailed\n";

/// Serves until `shutdown` is ready, then drops the open connections.
///
/// Wants a tokio runtime with I/O and time; a current-thread one is enough.
pub async fn serve(listener: TcpListener, source: Arc<dyn SnapshotSource>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(connection(stream, Arc::clone(&source)));
                }
                Ok((_, peer)) => tracing::warn!(%peer, limit = MAX_CONNECTIONS, "too many HTTP connections: closed one"),
                Err(error) => {
                    tracing::warn!(%error, "accepting an HTTP connection failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
}

async fn connection(stream: TcpStream, source: Arc<dyn SnapshotSource>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, source.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection failed"),
        Err(_) => tracing::debug!("HTTP connection took too long"),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// The answer to a request. The body of the request is never read.
fn respond<B: Body>(request: &Request<B>, source: &dyn SnapshotSource) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if !request.body().is_end_stream() {
        return reply(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "a request has no body here\n");
    }
    let snapshot = || source.snapshot(Detail::Summary);
    match request.uri().path() {
        "/metrics" => match families::text(&snapshot()) {
            Ok(text) => reply(StatusCode::OK, families::CONTENT_TYPE, text),
            Err(error) => {
                tracing::error!(%error, "the metrics could not be written");
                reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics could not be written\n")
            }
        },
        "/health" | "/health/live" => reply(StatusCode::OK, TEXT, "ok\n"),
        "/health/ready" => ready(&snapshot().readiness),
        "/health/detailed" => reply(StatusCode::OK, JSON, format!("{:#}\n", detailed(&snapshot()))),
        _ => reply(StatusCode::NOT_FOUND, TEXT, format!("not found; there is:\n{PATHS}")),
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn ready(readiness: &Readiness) -> Response<Full<Bytes>> {
    let (status, word) = match readiness {
        Readiness::Ready(_) => (StatusCode::OK, "ready"),
        Readiness::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let lines = std::iter::once(word).chain(readiness.reasons().iter().map(String::as_str));
    reply(status, TEXT, lines.map(|line| format!("{line}\n")).collect::<String>())
}

/// The process, its databases and their servers. Times are in seconds.
fn detailed(s: &Snapshot) -> Value {
    let databases: Vec<Value> = s
        .databases
        .iter()
        .map(|db| {
            let pools = || s.pools.iter().filter(|p| p.database == db.name);
            json!({
                "name": db.name,
                "paused": db.paused,
                "disabled": db.disabled,
                "clients": s.logins.iter().filter(|l| l.database == db.name).map(|l| u64::from(l.clients)).sum::<u64>(),
                "clients_waiting": pools().map(|p| u64::from(p.clients.waiting)).sum::<u64>(),
                "server_connections": pools().map(|p| u64::from(p.servers.total())).sum::<u64>(),
                "max_wait": pools().map(|p| p.max_wait).max().unwrap_or_default().as_secs_f64(),
                "shards": s.shards.iter().filter(|shard| shard.database == db.name).filter_map(shard_check).collect::<Vec<_>>(),
                "servers": s.replicas.iter().filter(|r| r.database == db.name).map(server).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "version": s.version,
        "uptime": s.uptime.as_secs_f64(),
        "state": s.state.as_str(),
        "ready": s.readiness.is_ready(),
        "reasons": s.readiness.reasons(),
        "databases": databases,
    })
}

/// A shard of a sharded database.
fn shard_check(s: &ShardSnapshot) -> Option<Value> {
    let check = s.check.as_ref()?;
    let (state, error, findings): (_, _, &[Finding]) = match check {
        Check::Pending(why) => ("pending", why.as_deref(), &[]),
        Check::Done(findings) if findings.is_empty() => ("ok", None, &[]),
        Check::Done(findings) => ("findings", None, findings),
    };
    let findings: Vec<Value> = findings
        .iter()
        .map(|f| json!({ "message": f.message, "advice": f.advice, "refuses": f.effect != Effect::Warning }))
        .collect();
    Some(json!({ "name": s.name, "check": state, "error": error, "findings": findings }))
}

fn server(s: &ReplicaSnapshot) -> Value {
    json!({
        "shard": s.shard,
        "host": s.host,
        "port": s.port,
        "role": s.role.as_str(),
        "state": s.state,
        "breaker": s.breaker.as_str(),
        "weight": s.weight,
        "effective_weight": s.effective_weight,
        "latency": s.latency.map(|d| d.as_secs_f64()),
        "lag_bytes": s.lag_bytes,
        "lag": s.lag.map(|d| d.as_secs_f64()),
        "in_flight": s.in_flight,
        "last_error": s.last_error,
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;
    use crate::metrics::example;

    /// The example, with a readiness of its own; never asked for the lists of connections.
    struct Source(Readiness);

    impl SnapshotSource for Source {
        fn snapshot(&self, detail: Detail) -> Snapshot {
            assert_eq!(detail, Detail::Summary, "a scrape must not cost a list of all clients");
            Snapshot { readiness: self.0.clone(), ..example::snapshot() }
        }
    }

    async fn start(readiness: Readiness) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, Arc::new(Source(readiness)), async {
            drop(stopped.await);
        }));
        (address, stop, server)
    }

    /// Sends raw bytes and returns the head and the body of what comes back until the server closes.
    async fn raw(address: SocketAddr, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is fine: the server does not read what it refused.
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.to_owned(), body.to_owned())
    }

    async fn get(address: SocketAddr, path: &str) -> (String, String) {
        raw(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }

    #[tokio::test]
    async fn each_path_answers_over_tcp() {
        let (address, _stop, _server) = start(Readiness::default()).await;
        let (head, body) = get(address, "/metrics").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        assert_eq!(body, families::text(&example::snapshot()).unwrap());
        for (path, status, text) in [
            ("/health", "200 OK", "ok\n"),
            ("/health/live?verbose=1", "200 OK", "ok\n"),
            ("/health/ready", "200 OK", "ready\n"),
            ("/", "404 Not Found", "not found; there is:\n/metrics\n/health\n"),
            ("/metrics/", "404 Not Found", "not found"),
        ] {
            let (head, body) = get(address, path).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {head}");
            assert!(body.starts_with(text), "{path}: {body}");
        }
    }

    #[tokio::test]
    async fn unready_is_503_with_its_reasons_and_still_alive() {
        let (address, _stop, _server) = start(Readiness::NotReady(vec!["the process is draining".to_owned()])).await;
        let (head, body) = get(address, "/health/ready").await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(body, "not ready\nthe process is draining\n");
        assert!(get(address, "/health/live").await.0.starts_with("HTTP/1.1 200 "));
        let (_, body) = get(address, "/health/detailed").await;
        let json: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["ready"], false);
        assert_eq!(json["reasons"], json!(["the process is draining"]));
        assert_eq!(json["databases"][0]["name"], "shop");
        assert_eq!(json["databases"][0]["clients"], 14);
        assert_eq!(json["databases"][0]["clients_waiting"], 6);
        assert_eq!(json["databases"][0]["server_connections"], 84);
        assert_eq!(json["databases"][0]["servers"][1]["breaker"], "half_open");
        assert_eq!(json["databases"][0]["servers"][1]["lag"], 0.25);
        assert_eq!(json["databases"][0]["servers"][0]["lag"], Value::Null);
    }

    #[tokio::test]
    async fn what_is_no_plain_get_is_refused() {
        let (address, _stop, _server) = start(Readiness::default()).await;
        let (head, _) = raw(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na").await;
        assert!(head.starts_with("HTTP/1.1 405 ") && head.to_lowercase().contains("allow: get, head"), "{head}");
        let (head, _) = raw(address, "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        let (head, _) = raw(address, "GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        let (head, body) = raw(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: "), "{head}");
        assert_eq!(body, "");
        let long = "a".repeat(MAX_HEAD_BYTES + 1);
        let (head, _) = raw(address, &format!("GET /health HTTP/1.1\r\nX: {long}\r\n\r\n")).await;
        assert!(!head.contains(" 200 "), "{head}");
        let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
        let (head, _) = raw(address, &format!("GET /health HTTP/1.1\r\n{many}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
        let (head, _) = raw(address, "\u{1}\u{2}garbage\r\n\r\n").await;
        assert!(!head.contains(" 200 "), "{head}");
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_a_free_place_is_used_again() {
        let (address, _stop, _server) = start(Readiness::default()).await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        let (head, _) = get(address, "/health").await;
        assert_eq!(head, "", "closed without an answer");
        held.clear();
        for _ in 0..100 {
            if get(address, "/health").await.0.starts_with("HTTP/1.1 200 ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the places of closed connections were not used again");
    }

    #[tokio::test]
    async fn a_peer_that_sends_no_request_is_dropped_in_time() {
        let (address, _stop, _server) = start(Readiness::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nX: ").await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(HEADER_TIMEOUT + Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "still open after the header timeout");
        assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    }

    #[tokio::test]
    async fn shutdown_ends_it() {
        let (address, stop, server) = start(Readiness::default()).await;
        assert!(get(address, "/health").await.0.starts_with("HTTP/1.1 200 "));
        stop.send(()).unwrap();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
