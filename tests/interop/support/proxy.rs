//! A TCP proxy on loopback, by which a broker is kept from a program.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Everything passes.
    Open,
    /// Connections are closed, and new ones too.
    Closed,
    /// Nothing passes, and nothing is closed.
    Silent,
}

/// Dropped, it cuts all connections.
pub(crate) struct Proxy {
    /// The broker's URL, by way of the proxy.
    pub(crate) url: String,
    mode: Arc<watch::Sender<Mode>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before the broker of this URL.
    pub(crate) async fn before(url: &str) -> Self {
        let (login, rest) = url.split_once('@').expect("a login in the URL");
        let (node, vhost) = rest.split_once('/').expect("a vhost in the URL");
        let node: SocketAddr = node.parse().expect("an address in the URL");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("{login}@{}/{vhost}", listener.local_addr().expect("its address"));
        let mode = Arc::new(watch::Sender::new(Mode::Open));
        let accepting = tokio::spawn(accept(listener, node, mode.clone()));
        Self { url, mode, accepting }
    }

    /// From now on the broker cannot be reached.
    pub(crate) fn close(&self) {
        self.mode.send_replace(Mode::Closed);
    }

    /// From now on the broker says nothing, and hears nothing.
    pub(crate) fn silence(&self) {
        self.mode.send_replace(Mode::Silent);
    }

    /// The broker is back. What was silent meanwhile goes on.
    pub(crate) fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, node: SocketAddr, mode: Arc<watch::Sender<Mode>>) {
    while let Ok((client, _)) = listener.accept().await {
        // Ends with its connection, or when the proxy closes.
        tokio::spawn(pass(client, node, mode.subscribe()));
    }
}

async fn pass(mut client: TcpStream, node: SocketAddr, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Closed {
        return;
    }
    let Ok(mut server) = TcpStream::connect(node).await else { return };
    loop {
        if mode.wait_for(|mode| *mode != Mode::Silent).await.is_err() {
            return;
        }
        let is_silent = tokio::select! {
            // In this order: nothing passes after the mode has changed.
            biased;
            changed = mode.wait_for(|mode| *mode != Mode::Open) => changed.is_ok_and(|mode| *mode == Mode::Silent),
            _ = copy_bidirectional(&mut client, &mut server) => false,
        };
        if !is_silent {
            return;
        }
    }
}
