//! A TCP proxy between client and node, which a test cuts, stops, or makes swallow what the node says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the proxy does with what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes it on.
    Open,
    /// Swallows what the node says. What the client says is passed on.
    Mute,
    /// Reads nothing of what the client says, so that it can soon write no more.
    Stuck,
    /// Passes nothing on, and lets nobody in.
    Shut,
}

/// A proxy in front of one node. Ends with the test.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of `node`, a host and port.
    pub(crate) async fn start(node: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mode = watch::Sender::new(Mode::Open);
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let (node, modes, passing) = (node.to_owned(), mode.subscribe(), connections.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() != Mode::Shut {
                    let node = TcpStream::connect(&node).await.expect("the node listens");
                    passing.lock().unwrap().spawn(pass(client, node, modes.clone()));
                }
            }
        });
        Self { address, mode, connections, accepting }
    }

    /// Changes what is done with what passes from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        let mut connections = self.connections.lock().unwrap();
        while connections.try_join_next().is_some() {}
        connections.len()
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn pass(client: TcpStream, node: TcpStream, mode: watch::Receiver<Mode>) {
    let (from_client, to_client) = client.into_split();
    let (from_node, to_node) = node.into_split();
    // Either end ends both.
    tokio::select! {
        () = copy(from_client, to_node, mode.clone(), |mode| mode != Mode::Stuck, |_| true) => {}
        () = copy(from_node, to_client, mode, |_| true, |mode| mode == Mode::Open) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    reads: impl Fn(Mode) -> bool,
    passes: impl Fn(Mode) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    while mode.wait_for(|mode| reads(*mode)).await.is_ok()
        && let Ok(read @ 1..) = from.read(&mut buffer).await
    {
        let passes = passes(*mode.borrow());
        if passes && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
