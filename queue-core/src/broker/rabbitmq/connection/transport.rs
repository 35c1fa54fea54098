//! The byte stream under one AMQP connection, plain or TLS, and the runtime by which lapin drives it. Used by `connect`.
//!
//! lapin's own TLS reads PKCS#12 key stores, which Leveret does not offer, and brings fifty crates for it: a sixth of what
//! a first build compiles. So TLS is made here, with rustls, and lapin is given a stream that it takes for a plain one.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::url::Tls;

/// The current tokio runtime, for lapin.
pub(super) fn current_runtime() -> Runtime<Kit> {
    Runtime::new(Kit(Tokio::current()))
}

/// Connects to the first address of the host that answers.
///
/// # Errors
/// If the name has no address, or none of its addresses answers.
pub(super) async fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Makes TLS on top of a TCP connection, if `tls` asks for it, and hands the result over in the form that lapin reads.
///
/// # Errors
/// If a certificate or key is no PEM, the system has no certificates to trust, or the handshake fails.
pub(super) async fn secure(tcp: TcpStream, tls: Option<&Tls>, host: &str) -> io::Result<Compat<Transport>> {
    let Some(tls) = tls else { return Ok(Transport::Plain(tcp).compat()) };
    let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
    let name =
        ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let config = tls.config.0.get_or_try_init(async || {
        let tls = tls.clone();
        // Reads some hundred files where the system keeps each authority in one of its own.
        let config = tokio::task::spawn_blocking(move || client_config(&tls)).await;
        config.map_err(io::Error::other)?.map(Arc::new)
    });
    let stream = TlsConnector::from(config.await?.clone()).connect(name, tcp).await?;
    Ok(Transport::Tls(Box::new(stream)).compat())
}

/// Made for the first connection and shared by all that follow, which can then resume TLS sessions.
#[derive(Debug, Clone, Default)]
pub(super) struct Config(Arc<OnceCell<Arc<ClientConfig>>>);

/// Trusts the authorities of the system and the one that the URL names, and shows our certificate where it names one.
fn client_config(tls: &Tls) -> io::Result<ClientConfig> {
    let invalid = |error: rustls::pki_types::pem::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(target: "leveret", %error, "a certificate of this system cannot be read; it is not trusted");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(pem) = &tls.ca {
        let named = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        if roots.add_parsable_certificates(named.map_err(invalid)?).0 == 0 {
            let words = "`cacertfile=` in the URL holds no certificate that can be read";
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
    }
    if roots.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no certificate authority is trusted: install the system's (Debian: `ca-certificates`), or name one with \
             `cacertfile=` in the URL",
        ));
    }
    // Named, because rustls cannot choose where a program has been built with two.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.with_root_certificates(roots);
    let Some((certificates, key)) = &tls.identity else { return Ok(config.with_no_client_auth()) };
    let chain =
        CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(invalid)?;
    config
        .with_client_auth_cert(chain, key)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A connection's bytes.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    // Boxed: TLS state is a kilobyte, and most connections have none.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// tokio as lapin's runtime, with [`Transport`] as its stream.
#[derive(Debug, Clone)]
pub(super) struct Kit(Tokio);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        function: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(function)
    }
}

impl Reactor for Kit {
    type TcpStream = Compat<Transport>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl futures_util::io::AsyncRead + futures_util::io::AsyncWrite + Send + Unpin + 'static>
    {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        connect_plain(address)
    }
}

async fn connect_plain(address: SocketAddr) -> io::Result<Compat<Transport>> {
    Ok(Transport::Plain(connect(address).await?).compat())
}
