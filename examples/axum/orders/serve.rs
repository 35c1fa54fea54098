//! Starts and ends the shop, in order. The example `web` says why in this order.

use std::sync::Arc;
use std::time::Duration;

use leveret::{BoxError, Client, Worker};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::payment::Bank;
use crate::web::{self, Shop};

pub(crate) async fn serve() -> Result<(), BoxError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let client = Client::builder().publish_timeout(Duration::from_secs(2)).from_env().await?;
    let bank = Arc::new(Bank::default());
    let worker = Worker::new(&client).shared(bank.clone()).signals(false);
    // All queues, before the first order: an event goes to those that are there.
    worker.declare().await?;
    let stop_working = worker.handle();
    let mut working = tokio::spawn(worker.run());

    let address = std::env::var("WEB_ADDRESS").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener =
        TcpListener::bind(&address).await.map_err(|error| format!("listen on {address}: {error}"))?;
    println!("listening on http://{}", listener.local_addr()?);
    let (stop_serving, stop) = oneshot::channel::<()>();
    let server = axum::serve(listener, web::routes(Shop { client: client.clone(), bank }));
    let serving = tokio::spawn(server.with_graceful_shutdown(async { drop(stop.await) }).into_future());

    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut working => Some(ended),
    };

    drop(stop_serving);
    // Requests under way have their own timeouts; connections that say nothing have this one.
    let _ = tokio::time::timeout(Duration::from_secs(10), serving).await;
    stop_working.shutdown();
    let ended = match ended {
        Some(ended) => ended,
        None => working.await,
    };
    client.close().await;
    Ok(ended??)
}
