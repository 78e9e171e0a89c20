//! The sub-command `health`: asks the admin port of the server on this machine how it is, for the health check of a container,
//! in which there is neither a shell nor a client. It decides nothing.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use clap::ValueEnum;

use super::{CLEAN, WRONG_CONFIGURATION, refuse};

/// For the connection, and for each piece of the answer: whoever is well answers within milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// No probe answers more, its head included.
const ANSWER_BYTES_MAX: u64 = 8 * 1024;

/// Which probe is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Probe {
    /// Whether a restart would help
    Live,
    /// Whether to send it traffic
    Ready,
    /// Whether it has started
    Startup,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::Startup => "/startupz",
        }
    }
}

/// Prints what the probe says: 0 where it is 200, 1 where it is anything else or nothing.
pub(super) fn run(probe: Probe, admin: SocketAddr) -> u8 {
    if admin.port() == 0 {
        return refuse("server.admin_listen has port 0, so that nobody knows where to ask: give it a port");
    }
    match ask(probe.path(), reachable(admin)) {
        Ok((status, document)) => {
            let _ = writeln!(io::stdout().lock(), "{document}");
            if status == 200 { CLEAN } else { WRONG_CONFIGURATION }
        }
        Err(error) => refuse(&format!("the admin port {admin} does not answer: {error}")),
    }
}

/// The way to an address that may stand for all of this machine's.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

fn ask(path: &str, address: SocketAddr) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, WAIT_MAX)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    read(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no answer of a server"))
}

/// Status and document of an answer.
fn read(answer: &str) -> Option<(u16, String)> {
    let (head, document) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, document.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_for_all_is_asked_on_this_machine() {
        for (listens, asked) in
            [("0.0.0.0:9091", "127.0.0.1:9091"), ("[::]:9091", "[::1]:9091"), ("192.0.2.7:1", "192.0.2.7:1")]
        {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn only_200_is_well() {
        for (answer, code) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}", CLEAN),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n{}", WRONG_CONFIGURATION),
            ("HTTP/1.1 204 No Content\r\n\r\n", WRONG_CONFIGURATION),
            ("SSH-2.0-OpenSSH\r\n\r\n", WRONG_CONFIGURATION),
            ("", WRONG_CONFIGURATION),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let served = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 512];
                let length = stream.read(&mut asked).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&asked[..length]).into_owned()
            });
            assert_eq!(run(Probe::Ready, address), code, "{answer}");
            assert!(served.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        }
        // Nobody listens there now.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(run(Probe::Live, gone), WRONG_CONFIGURATION);
    }
}
