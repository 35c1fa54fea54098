//! Opens one connection under one deadline over TCP, TLS and login. Called by `dial`.
//!
//! lapin has no such deadline: a connect that is dropped leaves its thread and socket behind. So the socket is
//! duplicated before lapin gets it, and shut down when the deadline passes or the caller no longer waits, which ends lapin's
//! thread.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties};

use super::fault::{self, Fault};
use super::transport;
use super::url::{Host, Target};
use crate::broker::rabbitmq::message::convert::short;

/// A connection, and a handle on its socket that works when lapin is stuck.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    /// The node it goes to.
    pub(crate) host: Host,
    /// Its place in the URL.
    pub(crate) at: usize,
    socket: Socket,
}

/// A duplicate of a connection's socket.
#[derive(Debug, Clone, Default)]
struct Socket(Arc<Mutex<Stream>>);

#[derive(Debug, Default)]
enum Stream {
    /// TCP is not connected yet.
    #[default]
    None,
    Open(TcpStream),
    /// Ended, or to be ended as soon as it is connected.
    Cut,
}

impl Socket {
    fn set(&self, socket: TcpStream) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *stream {
            Stream::Cut => drop(socket.shutdown(Shutdown::Both)),
            _ => *stream = Stream::Open(socket),
        }
    }

    /// Ends the connection at once, whatever state it is in: lapin's thread sees the end of the stream.
    fn cut(&self) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stream::Open(socket) = std::mem::replace(&mut *stream, Stream::Cut) {
            // It may be gone already, which is as good.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Cuts the socket of a connect that fails, takes too long, or is dropped half-way.
struct CutOnDrop(Option<Socket>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            socket.cut();
        }
    }
}

impl Link {
    /// Closes politely if that works within `patience`, and cuts the socket in any case: lapin's own close hangs
    /// while the server blocks the connection.
    pub(crate) async fn close(&self, patience: Duration) {
        if self.connection.status().connected() {
            let closing = async {
                // A channel that was just dropped is still being closed, and lapin takes a connection's close in between
                // for an error: it drops what it has not written, acks among it. An answer on a new channel says that
                // all before it has been written.
                if let Ok(channel) = self.connection.create_channel().await {
                    let _ = channel.close(200, "OK".into()).await;
                }
                self.connection.close(200, "OK".into()).await
            };
            match tokio::time::timeout(patience, closing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the connection to RabbitMQ was not closed politely")
                }
                Err(_) => tracing::debug!(?patience, "RabbitMQ does not answer a close"),
            }
        }
        self.cut();
    }

    /// Ends the connection at once.
    pub(crate) fn cut(&self) {
        self.socket.cut();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Connects to one node, by its place in the URL. Must run on the broker's own runtime, to which lapin binds itself.
///
/// # Errors
/// The error, and if trying again can help.
pub(super) async fn open(target: &Target, at: usize, name: &str, deadline: Duration) -> Result<Link, Fault> {
    let host = &target.hosts[at];
    let socket = Socket::default();
    let mut guard = CutOnDrop(Some(socket.clone()));
    let connecting = connector(target, host, name, deadline, socket.clone());
    match tokio::time::timeout(deadline, connecting).await {
        Ok(Ok(connection)) => {
            guard.0 = None;
            Ok(Link { connection, host: host.clone(), at, socket })
        }
        Ok(Err(error)) => Err(fault::connecting(target, host, &error)),
        Err(_) => Err(fault::timed_out(host, deadline)),
    }
}

async fn connector(
    target: &Target,
    host: &Host,
    name: &str,
    deadline: Duration,
    socket: Socket,
) -> lapin::Result<Connection> {
    let uri = AMQPUri {
        // lapin knows of no TLS: `transport` adds it.
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: target.user.clone(), password: target.password.clone() },
            host: host.name.clone(),
            port: host.port,
        },
        vhost: target.vhost.clone(),
        query: AMQPQueryString {
            frame_max: target.frame_max,
            channel_max: target.channel_max,
            heartbeat: Some(target.heartbeat),
            connection_timeout: None,
            auth_mechanism: None,
        },
    };
    let mut properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "Leveret".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    if let Some(locale) = &target.locale {
        properties = properties.with_locale(short(locale));
    }
    let tls = target.tls.clone();
    let connect = async move |uri: AMQPUri, _runtime| {
        let connecting = async {
            let AMQPAuthority { host, port, .. } = &uri.authority;
            let stream = transport::connect((host.as_str(), *port)).await?;
            socket.set(TcpStream::from(stream.as_fd().try_clone_to_owned()?));
            transport::secure(stream, tls.as_ref(), host).await.map(AsyncTcpStream::Plain)
        };
        // Cutting the socket ends a login, but not a name lookup or a TCP handshake: those end here.
        let connected = tokio::time::timeout(deadline, connecting).await;
        let stream =
            connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).and_then(|stream| stream);
        stream.map_err(lapin::Error::from)
    };
    Connection::connector(uri, transport::current_runtime(), connect, properties).await
}
