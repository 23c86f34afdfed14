//! Reading from a terminal what nobody should see there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::Failure;

/// What shells answer for a program that the user interrupted.
const INTERRUPTED: u8 = 130;

/// A terminal that does not show what is typed, until dropped.
struct Hidden<T: AsFd> {
    terminal: T,
    before: Termios,
}

impl<T: AsFd> Hidden<T> {
    fn enter(terminal: T) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
        // What was typed ahead of the question may be meant for it.
        tcsetattr(&terminal, OptionalActions::Drain, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl<T: AsFd> Drop for Hidden<T> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}

/// Reads what is typed until its end (Ctrl-D), at most `limit` bytes. An interruption leaves the terminal as it was.
pub(super) async fn read(terminal: File, limit: u64) -> Result<Vec<u8>, Failure> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let hidden = Hidden::enter(terminal.try_clone()?)?;
    let (reply, typed) = oneshot::channel();
    // A thread that nobody waits for: nothing but a key ends its read.
    std::thread::Builder::new().name("typed input".to_owned()).spawn(move || {
        let mut value = Vec::new();
        let read = terminal.take(limit).read_to_end(&mut value);
        // After an interruption nobody asks any more.
        let _ = reply.send(read.map(|_| value));
    })?;
    let typed = tokio::select! {
        typed = typed => Some(typed),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    drop(hidden);
    match typed {
        Some(Ok(read)) => Ok(read?),
        Some(Err(_)) => Err(Failure::new(super::EXIT_FAILURE, "the input cannot be read")),
        None => Err(Failure::silent(INTERRUPTED)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    fn shows(terminal: &File) -> bool {
        tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    #[tokio::test]
    async fn what_is_typed_is_read_but_not_shown() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal = File::from(open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
        let mut master = File::from(master);
        assert!(shows(&terminal));
        let typing = tokio::spawn(read(terminal.try_clone().unwrap(), 100));
        let deadline = Instant::now() + Duration::from_secs(20);
        while shows(&terminal) {
            assert!(Instant::now() < deadline, "what is typed is shown");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        master.write_all(b"hunter2\n\x04").unwrap();
        let typed = tokio::time::timeout(Duration::from_secs(20), typing).await;
        assert_eq!(typed.unwrap().unwrap().ok(), Some(b"hunter2\n".to_vec()));
        assert!(shows(&terminal));
        // Everything the terminal has shown; there is nothing to wait for.
        let mut shown = [0; 100];
        let length = master.read(&mut shown).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&shown[..length]).contains("hunter2"));
    }
}
