//! A TCP proxy between child and parent that can stall or cut.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Forwards TCP connections until told to stall or cut.
pub(crate) struct Proxy {
    pub address: SocketAddr,
    mode: watch::Sender<Mode>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Forward,
    Stall,
    Cut,
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Forward);
        let modes = mode.subscribe();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                let modes = modes.clone();
                tokio::spawn(async move {
                    let Ok(outer) = TcpStream::connect(target).await else { return };
                    let (inner_read, inner_write) = inner.into_split();
                    let (outer_read, outer_write) = outer.into_split();
                    tokio::join!(
                        pump(inner_read, outer_write, modes.clone()),
                        pump(outer_read, inner_write, modes)
                    );
                });
            }
        }));
        Self { address, mode, _task: task }
    }

    pub(crate) fn stall(&self) {
        self.mode.send_replace(Mode::Stall);
    }

    pub(crate) fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
        self.mode.send_replace(Mode::Forward);
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut modes: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 * 1024];
    modes.mark_unchanged();
    loop {
        let is_forwarding = *modes.borrow() == Mode::Forward;
        tokio::select! {
            count = from.read(&mut buffer), if is_forwarding => match count {
                Ok(count) if count > 0 => if to.write_all(&buffer[..count]).await.is_err() { return },
                _ => return,
            },
            changed = modes.changed() => {
                // A cut goes back to forwarding at once for new connections; any change but a stall ends this one.
                if changed.is_err() || *modes.borrow() != Mode::Stall { return }
            }
        }
    }
}
