//! Keeps messages of an ended session from being handled after the hello of the next one.

use std::sync::Arc;

use tokio::sync::Mutex;

/// Messages wait in the channel of events while the link already asks for the next hello. A message that is handled
/// after that hello would change a state the parent believes to know. A shell that passes both through one gate
/// drops such messages; the welcome that follows tells everything anyway. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SessionGate(Arc<Mutex<bool>>);

impl SessionGate {
    /// Makes the payload of a hello; from now on messages are dropped until [`SessionGate::open`].
    pub async fn hello<T>(&self, make: impl Future<Output = T>) -> T {
        let mut is_open = self.0.lock().await;
        *is_open = false;
        make.await
    }

    /// The welcome of the new session arrived; `handle` takes it, then messages pass.
    pub async fn open<T>(&self, handle: impl Future<Output = T>) -> T {
        let mut is_open = self.0.lock().await;
        *is_open = true;
        handle.await
    }

    /// Handles a message unless its session has ended; `None` then.
    pub async fn message<T>(&self, handle: impl Future<Output = T>) -> Option<T> {
        let is_open = self.0.lock().await;
        if *is_open { Some(handle.await) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_pass_only_between_welcome_and_hello() {
        let gate = SessionGate::default();
        assert_eq!(gate.message(async { 1 }).await, None);
        gate.open(async {}).await;
        assert_eq!(gate.message(async { 2 }).await, Some(2));
        gate.hello(async {}).await;
        assert_eq!(gate.message(async { 3 }).await, None);
    }
}
