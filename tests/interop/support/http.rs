//! HTTP as one request on one connection: all that the examples are asked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// From the first byte sent to the last one read.
    pub(crate) took: Duration,
    headers: Vec<(String, String)>,
}

impl Answer {
    /// A header's value; the name is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }
}

/// A server by its address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server(pub(crate) SocketAddr);

impl Server {
    /// From a line such as `listening on http://127.0.0.1:8080`.
    pub(crate) fn in_line(line: &str) -> Self {
        let (_, address) = line.split_once("http://").unwrap_or_else(|| panic!("no address: {line}"));
        Self(address.parse().unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    pub(crate) async fn get(self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1"), "", "").await
    }

    pub(crate) async fn post(self, path: &str, json: &str) -> Answer {
        self.ask(&format!("POST {path} HTTP/1.1"), "content-type: application/json\r\n", json).await
    }

    /// `headers` end with CRLF each.
    pub(crate) async fn ask(self, request: &str, headers: &str, body: &str) -> Answer {
        let mut slowly = self.begin(request, headers, body.len()).await;
        slowly.send(body).await;
        slowly.answer().await
    }

    /// A request whose body of `length` bytes is yet to come.
    pub(crate) async fn begin(self, request: &str, headers: &str, length: usize) -> Asking {
        let started = Instant::now();
        let mut stream = BufReader::new(TcpStream::connect(self.0).await.expect("the server listens"));
        let head = format!(
            "{request}\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("the server reads");
        Asking { stream, started }
    }
}

/// A request that is not whole yet.
pub(crate) struct Asking {
    stream: BufReader<TcpStream>,
    started: Instant,
}

impl Asking {
    pub(crate) async fn send(&mut self, body: &str) {
        // A server that has answered early reads no further.
        let _ = self.stream.write_all(body.as_bytes()).await;
    }

    /// Waits for `100 Continue`, which a server says once its handler reads the body.
    pub(crate) async fn until_it_is_read(&mut self) {
        let (status, _) = self.head().await;
        assert_eq!(status, 100);
    }

    pub(crate) async fn answer(mut self) -> Answer {
        let (status, headers) = self.head().await;
        let mut body = String::new();
        // A server that has not read the body to its end may close with a reset, behind the whole answer.
        let _ = self.stream.read_to_string(&mut body).await;
        Answer { status, headers, body, took: self.started.elapsed() }
    }

    async fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let status = self.line().await;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            match line.split_once(": ") {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
                None => break,
            }
        }
        (code.unwrap_or_else(|| panic!("no HTTP: {status}")), headers)
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.expect("the server answers");
        line.trim_end().to_owned()
    }
}
