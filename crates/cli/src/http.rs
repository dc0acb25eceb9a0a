//! A minimal HTTP client for health pages; nothing else in this program needs one.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use conclave_client::{CaId, Net};
use conclave_net::{Expect, TlsClient, TlsError, Trust};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// The longest answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// An HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: String,
}

/// Reads the pages of servers and name servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    /// The network to those of a cluster with TLS.
    secured: Option<Net>,
}

impl Pages {
    /// The pages of a cluster. With an authority, pages beyond loopback use TLS, and their server must belong to the cluster.
    /// All other pages are read without TLS, since nothing secret is said to them.
    ///
    /// # Errors
    /// If the cryptography cannot be used.
    pub(crate) fn of(authority: Option<CaId>) -> Result<Self, TlsError> {
        let trust = authority.map(|ca| Trust::Cluster(ca, Expect::AnyServer));
        let client = trust.map(|trust| TlsClient::new(trust, None)).transpose()?;
        Ok(Self { secured: client.map(|client| Net::System.secured(client)) })
    }

    /// Gets a page.
    ///
    /// # Errors
    /// If there is no complete answer before the deadline, or the answer is not HTTP.
    pub(crate) async fn get(
        &self,
        address: &str,
        path: &str,
        deadline: Duration,
    ) -> io::Result<HttpResponse> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {deadline:?}"));
        timeout(deadline, self.get_patiently(address, path)).await.map_err(late)?
    }

    async fn get_patiently(&self, address: &str, path: &str) -> io::Result<HttpResponse> {
        // Without asking anybody for the name: a container may have no list of hosts.
        let Some(port) = localhost_port(address) else { return self.get_at(address, path).await };
        match self.get_at(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string(), path).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let ipv6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port)).to_string();
                self.get_at(&ipv6, path).await.map_err(|_| error)
            }
        }
    }

    async fn get_at(&self, address: &str, path: &str) -> io::Result<HttpResponse> {
        let Some(secured) = &self.secured else { return exchange(&Net::System, address, path).await };
        let encrypted = match secured.connect(address).await {
            Ok(wire) => return say(wire, address, path).await,
            Err(error) => error,
        };
        match exchange(&Net::System, address, path).await {
            // It speaks TLS, and is not believed.
            Err(plain) if plain.kind() == io::ErrorKind::InvalidData => Err(encrypted),
            answer => answer,
        }
    }
}

/// The port of an address whose host is `localhost`: this machine, at 127.0.0.1 or `::1`.
fn localhost_port(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    host.eq_ignore_ascii_case("localhost").then(|| port.parse().ok()).flatten()
}

async fn exchange(net: &Net, address: &str, path: &str) -> io::Result<HttpResponse> {
    say(net.connect(address).await?, address, path).await
}

async fn say(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &str,
    path: &str,
) -> io::Result<HttpResponse> {
    // With HTTP 1.0 the answer ends with the connection and is not chunked.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

fn parse(answer: &str) -> Option<HttpResponse> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let rest = head.strip_prefix("HTTP/1.")?;
    let status = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(HttpResponse { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(answer: &str) -> io::Result<HttpResponse> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            assert!(request.starts_with(b"GET /readyz HTTP"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let pages = Pages::default();
        let (said, ()) = tokio::join!(pages.get(&address, "/readyz", Duration::from_secs(10)), serve);
        said
    }

    #[tokio::test]
    async fn status_and_body_are_parsed() {
        let ok = ask("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").await.unwrap();
        assert_eq!(ok, HttpResponse { status: 200, body: "ok\n".into() });
        let no = ask("HTTP/1.0 503 Service Unavailable\r\n\r\n").await.unwrap();
        assert_eq!(no, HttpResponse { status: 503, body: String::new() });
        for bad in ["", "HTTP/1.1", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 many OK\r\n\r\n"] {
            assert!(ask(bad).await.is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn localhost_is_this_machine_at_either_address() {
        for ip in ["127.0.0.1", "[::1]"] {
            let Ok(listener) = tokio::net::TcpListener::bind(format!("{ip}:0")).await else {
                assert_ne!(ip, "127.0.0.1", "every machine has it");
                continue;
            };
            let address = format!("LocalHost:{}", listener.local_addr().unwrap().port());
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nok").await.unwrap();
            };
            let pages = Pages::default();
            let (said, ()) = tokio::join!(pages.get(&address, "/readyz", Duration::from_secs(10)), serve);
            assert_eq!(said.unwrap().body, "ok", "{ip}");
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_a_timeout() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let error = Pages::default().get(&address, "/", Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
