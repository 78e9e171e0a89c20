//! How `break` and `heal` reach a running `up`: a Unix socket in its run folder, in a folder that only this user can
//! enter. One line asks, one answer comes back. What is done is in `up.rs`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::folder::{self, RunFolder};
use crate::up::{Request, Wish, same};

const FOLDER: &str = "control";
const SOCKET: &str = "socket";
/// The proxy's address, to tell one running `up` from another.
const PROXY: &str = "proxy";
/// The longest wish is far shorter.
const WISH_BYTES_MAX: u64 = 256;
/// A client that connects and says nothing is left after this.
const WISH_LIMIT: Duration = Duration::from_secs(5);
/// A database may take this long to start again.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Opens the socket; the future serves it, one request after another, and never ends.
pub(super) fn listen(
    run: &RunFolder,
    proxy: SocketAddr,
    requests: mpsc::Sender<Request>,
) -> Result<impl Future<Output = ()> + Send + use<>, Error> {
    let folder = run.private(FOLDER)?;
    let path = folder.join(SOCKET);
    let listener = UnixListener::bind(&path).map_err(Error::io(format!("open {}", path.display())))?;
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path, mode).map_err(Error::io("protect the control socket"))?;
    fs::write(folder.join(PROXY), proxy.to_string()).map_err(Error::io("write the proxy's address"))?;
    Ok(async move {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                // A client that went away misses only its answer.
                let _ = serve(stream, &requests).await;
            } else {
                // Out of file descriptors, most likely: accepting again at once would only spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    })
}

async fn serve(stream: UnixStream, requests: &mpsc::Sender<Request>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(WISH_BYTES_MAX));
    if tokio::time::timeout(WISH_LIMIT, reader.read_line(&mut line)).await.is_err() {
        return Ok(());
    }
    let answer = match Wish::read(&line) {
        Some(what) => {
            let (answer, answered) = oneshot::channel();
            if requests.send(Request { what, answer }).await.is_err() {
                return Ok(());
            }
            answered.await.unwrap_or_else(|_| Err("the stack is being stopped".to_owned()))
        }
        None => Err(format!("`{}` is not understood; `break FAULT` and `heal [FAULT]` are", line.trim())),
    };
    let text = match answer {
        Ok(text) => format!("ok\n{text}\n"),
        Err(text) => format!("failed\n{text}\n"),
    };
    write.write_all(text.as_bytes()).await
}

/// Asks a running `up` and gives its answer. `listen` is its proxy's address, needed where more than one runs.
///
/// # Errors
/// [`Error::State`] where none or more than one runs, or the wish could not be fulfilled.
///
/// # Cancel safety
/// What was asked for is done also when the answer is no longer waited for.
pub(crate) async fn ask(wish: &Wish, listen: Option<SocketAddr>) -> Result<String, Error> {
    let path = find(listen)?;
    let work = async {
        let mut stream = UnixStream::connect(&path).await?;
        stream.write_all(format!("{wish}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let late =
        |_| Error::Late { what: "get an answer from the running stack".to_owned(), limit: ANSWER_LIMIT };
    let answer = tokio::time::timeout(ANSWER_LIMIT, work).await.map_err(late)?;
    let answer = answer.map_err(Error::io("ask the running stack"))?;
    match answer.split_once('\n') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some((_, text)) => Err(Error::state(format!("get `{wish}` done"), text.trim_end().to_owned())),
        None => Err(Error::state(format!("get `{wish}` done"), "the running stack ended meanwhile")),
    }
}

fn find(listen: Option<SocketAddr>) -> Result<PathBuf, Error> {
    let folders = folder::living()?.into_iter().map(|run| run.join(FOLDER));
    let running: Vec<(String, PathBuf)> = folders
        .filter_map(|folder| Some((fs::read_to_string(folder.join(PROXY)).ok()?, folder.join(SOCKET))))
        .collect();
    let mut matching = running.iter().filter(|(proxy, _)| same(proxy, listen));
    let what = "find a running stack";
    match (matching.next(), matching.next()) {
        (Some((_, socket)), None) => Ok(socket.clone()),
        (None, _) => Err(Error::state(what, "none is running; start one with `ridethrough-chaos up`")),
        (Some(_), Some(_)) => {
            let all: Vec<&str> = running.iter().map(|(proxy, _)| proxy.trim()).collect();
            let reason = format!("more than one is running; choose with --listen one of {}", all.join(", "));
            Err(Error::state(what, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_chosen_by_its_proxy() {
        assert!(same("127.0.0.1:8080\n", None));
        assert!(same("127.0.0.1:8080", Some("127.0.0.1:8080".parse().unwrap())));
        assert!(!same("127.0.0.1:8080", Some("127.0.0.1:8081".parse().unwrap())));
    }
}
