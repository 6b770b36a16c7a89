//! What needs a whole pool: where connections are made, and that nobody waits for what is there.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::auth::login::PassThrough;
use crate::auth::server_login::ServerCredential;
use crate::config::tls::{SslMode, TlsSettings};
use crate::config::{HealthSettings, Role, Server, TcpSettings};
use crate::net::dns;
use crate::net::tls::{Connector, ServerTls};
use crate::server::Derived;

fn pool(port: u16, shares: Vec<Arc<Share>>) -> Arc<Pool> {
    let host = Host::Tcp("127.0.0.1".to_owned());
    let config =
        Server { host: host.clone(), port, dbname: "d".to_owned(), role: Role::Primary, weight: 1.0, zone: None };
    let key = PoolKey { database: "d".to_owned(), user: "u".to_owned(), shard: ShardIndex(0), server: ServerIndex(0) };
    let target = Target {
        host,
        port,
        dbname: "d".to_owned(),
        user: "u".to_owned(),
        credential: ServerCredential::new(None, &PassThrough::Nothing),
        derived: Derived::default(),
        parameters: Vec::new(),
        connect_query: None,
    };
    let wait = Duration::from_secs(20);
    let login = LoginSettings {
        timeout: wait,
        tcp: TcpSettings::default(),
        max_statements: 1,
        tls: Arc::new(ServerTls::new(Connector::new(&TlsSettings::new(SslMode::Disable)).unwrap())),
        dns: Dns::new(dns::Settings::default()),
    };
    let settings = PoolSettings {
        limits: Limits { size: 1, reserve: 0, round_robin: false },
        reserve_after: Duration::ZERO,
        min_size: 0,
        login,
        login_retry: wait,
        idle_timeout: Duration::ZERO,
        lifetime: Duration::ZERO,
        reset_query: String::new(),
        check: None,
        cancel_timeout: wait,
        load_balance: LoadBalance::RoundRobin,
        logs: Arc::default(),
    };
    let health = ServerHealth::new(ServerIndex(0), &config, &HealthSettings::default(), clock::now());
    Pool::new(key, target, settings, Arc::new(health), (shares, None))
}

/// A server that lets everybody in and then says nothing.
async fn serve(listener: TcpListener) {
    let mut all = Vec::new();
    loop {
        all.push(serve_one(&listener).await);
    }
}

async fn serve_one(listener: &TcpListener) -> TcpStream {
    let (mut client, _) = listener.accept().await.unwrap();
    let mut startup = [0; 256];
    let _read = client.read(&mut startup).await;
    let mut out = Vec::new();
    crate::wire::encode::frame(&mut out, b'R', |body| body.extend_from_slice(&[0; 4]));
    crate::wire::encode::backend_key(&mut out, 7, &[1, 2, 3, 4]);
    crate::wire::encode::ready_for_query(&mut out, crate::wire::message::TransactionStatus::Idle);
    client.write_all(&out).await.unwrap();
    client
}

#[tokio::test]
async fn a_connection_is_at_home_where_it_was_made() {
    let (here, asking) = (WorkerId(3), WorkerId(0));
    here.settle();
    let work = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool(listener.local_addr().unwrap().port(), Vec::new());
        tokio::task::spawn_local(serve(listener));
        let home =
            |pool: &Pool| pool.inner.lock().idle.values().map(|connection| connection.worker).collect::<Vec<_>>();
        let Ok(Asked::Later(mut ticket)) = pool.ask(here) else { panic!() };
        let lent = ticket.wait(here).await.unwrap();
        // It is closed while a client of another worker waits: the next one is made for that one, on this thread.
        let Ok(Asked::Later(waits)) = pool.ask(asking) else { panic!() };
        drop(lent);
        drop(waits);
        while pool.counts().login > 0 {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(home(&pool), [here]);
    };
    LocalSet::new().run_until(work).await;
}

#[tokio::test]
async fn what_was_given_back_before_it_was_known_to_be_wanted_is_taken() {
    WorkerId(0).settle();
    let work = async {
        let share = Arc::<Share>::default();
        share.quota.set_most(1);
        assert!(share.quota.take(), "another pool has it");
        let pool = pool(1, vec![Arc::clone(&share)]);
        // The client finds nothing left; in this moment it is given back, and nobody seems to want it.
        let queued = pool.inner.lock().ledger.acquire(WaiterId(1), WorkerId(0), clock::now());
        assert_eq!(queued, Acquire::Queued(None));
        share.quota.give_back();
        pool.make_room();
        assert_eq!((pool.counts().login, share.quota.used()), (1, 1));
    };
    LocalSet::new().run_until(work).await;
}

/// A connection that ends on its way to who waits for it is nobody's error: another is made.
#[tokio::test]
async fn who_waits_is_given_another_for_one_that_has_ended() {
    let here = WorkerId(0);
    here.settle();
    let work = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool(listener.local_addr().unwrap().port(), Vec::new());
        let (ends, end) = oneshot::channel::<()>();
        let first = async move {
            let one = serve_one(&listener).await;
            let _asked = end.await;
            drop(one);
            serve(listener).await;
        };
        tokio::task::spawn_local(first);
        let Ok(Asked::Later(mut ticket)) = pool.ask(here) else { panic!() };
        let lent = ticket.wait(here).await.unwrap();
        let Ok(Asked::Later(mut waits)) = pool.ask(here) else { panic!() };
        ends.send(()).unwrap();
        // Its end has to be here before it is looked at.
        tokio::time::sleep(Duration::from_millis(50)).await;
        lent.release(Verdict::Clean);
        assert!(waits.wait(here).await.is_ok());
        assert_eq!(pool.counts().login, 0);
    };
    LocalSet::new().run_until(work).await;
}
