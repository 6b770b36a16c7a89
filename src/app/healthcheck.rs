//! `pgweir healthcheck`: one plain HTTP request, for containers that have no other client.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use url::Url;

use crate::config;

/// For connecting, and for every read and write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A status line is shorter than this.
const HEAD: u64 = 256;

/// Asks the page /health/ready at `http_listen` of a configuration; as [`check`].
///
/// # Errors
/// Those of [`check`], the mistakes of the file, and that it has no `http_listen`.
pub fn check_configured(path: &Path) -> Result<(), Vec<String>> {
    let config = config::load(path).map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let Some(mut address) = config.general.http_listen else {
        return Err(vec![format!("{}: there is no http_listen in it", path.display())]);
    };
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    check(&format!("http://{address}/health/ready")).map_err(|why| vec![why])
}

/// Asks for `url`, which may begin without `http://`, and wants a status from 200 to 299.
///
/// # Errors
/// What came instead, or why nothing did.
pub fn check(url: &str) -> Result<(), String> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let parsed = Url::parse(&whole).map_err(|why| format!("{url}: {why}"))?;
    if parsed.scheme() != "http" {
        return Err(format!("{url}: only http:// is asked"));
    }
    let line = status_line(&parsed).map_err(|why| format!("{url}: {why}"))?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=299) if line.starts_with("HTTP/1.") => Ok(()),
        _ => Err(format!("{url}: answered {:?}", line.trim_end())),
    }
}

fn status_line(url: &Url) -> io::Result<String> {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or(80);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (bare, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return ask(stream, host, port, &url[url::Position::BeforePath..url::Position::AfterQuery]),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn ask(mut stream: TcpStream, host: &str, port: u16, path: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.contains(&b'\n') && (head.len() as u64) < HEAD {
        let mut piece = [0; 64];
        match stream.read(&mut piece)? {
            0 => break,
            n => head.extend(piece.iter().take(n)),
        }
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/health?x", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            assert!(request[..n].starts_with(b"GET /health?x HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        url
    }

    #[test]
    fn only_a_good_status_is_good() {
        assert_eq!(check(&answering("HTTP/1.1 200 OK\r\n\r\nok")), Ok(()));
        assert_eq!(check(&answering("HTTP/1.1 204 No Content\r\n")), Ok(()));
        let bare = answering("HTTP/1.1 200 OK\r\n\r\nok");
        assert_eq!(check(bare.strip_prefix("http://").unwrap()), Ok(()), "the scheme goes without saying");
        let error = check(&answering("HTTP/1.1 503 Service Unavailable\r\n\r\n")).unwrap_err();
        assert!(error.contains("503"), "{error}");
        assert!(check(&answering("SSH-2.0-200 200\r\n")).is_err());
        assert!(check(&answering("")).is_err());
    }

    #[test]
    fn what_cannot_be_asked_says_why() {
        assert!(check("https://127.0.0.1/").unwrap_err().contains("only http"));
        assert!(check("no url").is_err());
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(check(&format!("http://{free}/")).is_err());
    }
}
