//! A TCP proxy on loopback between a client and its node, which can do what networks do: cut with RST, go silent
//! without closing (half-open), refuse, and be slow.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::wait::until;

/// How much the proxy takes from a client before it stands still. Small, so that a frozen connection backs up.
const BUFFER: u32 = 16 * 1024;

/// What becomes of bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// Everything passes.
    Pass,
    /// Nothing passes, and nothing is closed: as if the other host had vanished.
    Frozen,
    /// Nothing passes on connections of this role.
    FrozenFor(Role),
    /// New connections are reset at once.
    Refuse,
}

impl Mode {
    fn stops(self, role: Option<Role>) -> bool {
        match self {
            Self::Frozen => true,
            Self::FrozenFor(frozen) => role == Some(frozen),
            Self::Pass | Self::Refuse => false,
        }
    }
}

/// Which of the broker's connections it is, by the name that it gives itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Publisher,
    Consumer,
    /// On which queues are asked about and walked through.
    Questions,
    /// By which it is seen whether a silent node lets anybody in.
    Question,
}

impl Role {
    /// One whose name begins with that of another comes first.
    const ALL: [Self; 4] = [Self::Publisher, Self::Consumer, Self::Questions, Self::Question];

    /// What the connection's name ends with; it stands in its second frame.
    fn name(self) -> &'static str {
        match self {
            Self::Publisher => " publisher",
            Self::Consumer => " consumer",
            Self::Questions => " questions",
            Self::Question => " question",
        }
    }
}

/// Dropped, it cuts all connections and listens no more.
pub(crate) struct Proxy {
    url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Bound and not yet listening: whoever connects is refused.
    closed: Option<TcpSocket>,
    tasks: JoinSet<()>,
}

struct Shared {
    node: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counted up to cut all that are open, or those of one role.
    cut: watch::Sender<(u64, Option<Role>)>,
    /// For connections of one role, or all.
    delay: Mutex<(Duration, Option<Role>)>,
    /// What is written in the place of what, both of one length.
    rewrite: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    accepted: AtomicUsize,
    /// When those came that were not refused.
    passed: Mutex<Vec<Instant>>,
    /// What clients have sent, of all connections.
    sent: Mutex<Vec<u8>>,
}

impl Proxy {
    /// A proxy in front of the node of this URL.
    pub(crate) fn to(url: &str) -> Self {
        let mut proxy = Self::closed(url);
        proxy.listen();
        proxy
    }

    /// The same, but nobody listens until [`listen`](Self::listen): connections are refused.
    pub(crate) fn closed(url: &str) -> Self {
        let (login, rest) = url.split_once('@').expect("a login in the URL");
        let (host, path) = rest.split_once('/').expect("a vhost in the URL");
        let node = host.parse().expect("an address in the URL");
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(BUFFER).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let path = path.split('?').next().unwrap_or_default();
        Self {
            url: format!("{login}@{address}/{path}"),
            address,
            shared: Arc::new(Shared {
                node,
                mode: watch::Sender::new(Mode::Pass),
                cut: watch::Sender::new((0, None)),
                delay: Mutex::default(),
                rewrite: Mutex::default(),
                accepted: AtomicUsize::new(0),
                passed: Mutex::default(),
                sent: Mutex::default(),
            }),
            closed: Some(socket),
            tasks: JoinSet::new(),
        }
    }

    pub(crate) fn listen(&mut self) {
        let listener = self.closed.take().expect("listens already").listen(1024).unwrap();
        self.tasks.spawn(accept(listener, self.shared.clone()));
    }

    /// The node's URL, by way of the proxy, with these options: `heartbeat=1`.
    pub(crate) fn url(&self, options: &str) -> String {
        format!("{}?{options}", self.url)
    }

    /// Cuts all connections with RST; new ones pass.
    pub(crate) fn reset(&self) {
        // In this order: nothing that a freeze has held may slip through.
        self.shared.cut(None);
        self.shared.mode.send_replace(Mode::Pass);
    }

    /// Cuts the connections of one role with RST; new ones pass.
    pub(crate) fn reset_only(&self, role: Role) {
        self.shared.cut(Some(role));
    }

    /// Cuts all connections with RST, and whoever comes anew.
    pub(crate) fn refuse(&self) {
        self.shared.mode.send_replace(Mode::Refuse);
        self.shared.cut(None);
    }

    /// From now on nothing passes, and nothing is closed.
    pub(crate) fn freeze(&self) {
        self.shared.mode.send_replace(Mode::Frozen);
    }

    /// The same for the connections of one role only.
    pub(crate) fn freeze_only(&self, role: Role) {
        self.shared.mode.send_replace(Mode::FrozenFor(role));
    }

    /// Everything passes again, also what was held.
    pub(crate) fn pass(&self) {
        self.shared.mode.send_replace(Mode::Pass);
    }

    /// Holds everything for so long before it passes.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap_or_else(PoisonError::into_inner) = (delay, None);
    }

    /// The same on connections of one role only.
    pub(crate) fn delay_only(&self, role: Role, delay: Duration) {
        *self.shared.delay.lock().unwrap_or_else(PoisonError::into_inner) = (delay, Some(role));
    }

    /// Writes `to` wherever a client has sent `from`, which is as long.
    pub(crate) fn rewrite(&self, from: &[u8], to: &[u8]) {
        assert_eq!(from.len(), to.len());
        let rewrite = Some((from.to_vec(), to.to_vec()));
        *self.shared.rewrite.lock().unwrap_or_else(PoisonError::into_inner) = rewrite;
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// When those connections came that were not refused.
    pub(crate) fn passed(&self) -> Vec<Instant> {
        self.shared.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many of them had this role.
    pub(crate) fn opened(&self, role: Role) -> usize {
        self.sent(role.name().as_bytes())
    }

    /// How often clients have sent these bytes.
    pub(crate) fn sent(&self, bytes: &[u8]) -> usize {
        let sent = self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.windows(bytes.len()).filter(|window| *window == bytes).count()
    }

    /// How many sockets of this process lead here, by the kernel's own list: also those that lapin has forgotten.
    pub(crate) fn client_sockets(&self) -> usize {
        let port = format!("0100007F:{:04X}", self.address.port());
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let leads_here = |line: &&str| {
            let mut words = line.split_whitespace().skip(2);
            let (remote, state) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            // Established, or half closed: ours as long as somebody holds it.
            remote == port && ["01", "08"].contains(&state)
        };
        sockets.lines().filter(leads_here).count()
    }

    /// Waits until there have been more connections than this.
    #[track_caller]
    pub(crate) fn until_accepted(&self, more_than: usize) -> impl Future<Output = ()> {
        until("a new connection", async move || self.accepted() > more_than)
    }
}

impl Shared {
    fn cut(&self, only: Option<Role>) {
        self.cut.send_modify(|(cuts, role)| (*cuts, *role) = (*cuts + 1, only));
    }
}

/// Waits until a connection is cut, whose role is known by then.
async fn until_cut(mut cut: watch::Receiver<(u64, Option<Role>)>, role: &OnceLock<Role>) {
    while cut.changed().await.is_ok() {
        let (_, only) = *cut.borrow_and_update();
        if only.is_none() || only == role.get().copied() {
            return;
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        // Dropped, it sends RST and not FIN.
        client.set_zero_linger().unwrap();
        if *shared.mode.borrow() == Mode::Refuse {
            continue;
        }
        shared.passed.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        links.spawn(link(client, shared.clone()));
        while links.try_join_next().is_some() {}
    }
}

/// One connection, until one side has ended it or it is cut.
async fn link(client: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    cut.mark_unchanged();
    if let Ok(node) = TcpStream::connect(shared.node).await {
        node.set_nodelay(true).unwrap();
        client.set_nodelay(true).unwrap();
        let ((from_client, to_client), (from_node, to_node)) = (client.into_split(), node.into_split());
        let role = Arc::new(OnceLock::new());
        let up = pump(from_client, to_node, &shared, &role, true);
        let down = pump(from_node, to_client, &shared, &role, false);
        tokio::select! {
            () = until_cut(cut, &role) => {}
            _ = async { tokio::join!(up, down) } => {}
        }
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    role: &OnceLock<Role>,
    is_from_client: bool,
) {
    let mut mode = shared.mode.subscribe();
    let cut = shared.cut.subscribe();
    let (cuts, _) = *cut.borrow();
    let mut buffer = vec![0; BUFFER as usize];
    loop {
        let _ = mode.wait_for(|mode| !mode.stops(role.get().copied())).await;
        let Ok(length @ 1..) = from.read(&mut buffer).await else { break };
        let bytes = &mut buffer[..length];
        if is_from_client {
            if let Some((from, to)) = &*shared.rewrite.lock().unwrap_or_else(PoisonError::into_inner)
                && let Some(at) = bytes.windows(from.len()).position(|window| window == from)
            {
                bytes[at..at + to.len()].copy_from_slice(to);
            }
            shared.sent.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            for is in Role::ALL {
                let name = is.name().as_bytes();
                if role.get().is_none() && bytes.windows(name.len()).any(|window| window == name) {
                    let _ = role.set(is);
                }
            }
        }
        let (delay, only) = *shared.delay.lock().unwrap_or_else(PoisonError::into_inner);
        if !delay.is_zero() && (only.is_none() || only == role.get().copied()) {
            tokio::time::sleep(delay).await;
        }
        // What was on its way when the freeze came is held.
        let _ = mode.wait_for(|mode| !mode.stops(role.get().copied())).await;
        // A cut comes before the end of its freeze: who sees that end sees the cut.
        let (now, only) = *cut.borrow();
        let is_cut = now != cuts && (only.is_none() || only == role.get().copied());
        if is_cut || to.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
