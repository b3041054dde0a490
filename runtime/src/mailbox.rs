//! Bounded mailboxes between the data cores and the control plane.
//!
//! **Owns** the flume channels at the seam and their bounds.
//! **Lives on** both planes: one end on a data core, the other on the control plane's thread.
//! **Invariants** the data side never waits: a full mailbox gives the message back. Messages of one
//! sender arrive in the order they were sent. The receiving side takes whatever has piled up in one
//! go, so a wake-up (20-50 us for a parked core) is paid once for a batch.
//! **Limits** [`MAILBOX_MESSAGES_MAX`] unless the caller chooses less; one batch is at most
//! [`BATCH_MESSAGES_MAX`].
//! **Not here** messages between data cores (`mesh`).

use crate::shard::breathe;

/// Most messages waiting in one mailbox. A control message is small (a heartbeat, a topic change):
/// at about 1 KiB each this bounds one mailbox to some 16 MiB.
pub const MAILBOX_MESSAGES_MAX: usize = 16 * 1024;
/// Most messages handed out in one batch, so that a flood cannot hold a core for long.
pub const BATCH_MESSAGES_MAX: usize = 1024;

const _: () = assert!(BATCH_MESSAGES_MAX <= MAILBOX_MESSAGES_MAX);

/// A message that could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError<M> {
    /// The mailbox is full: the other plane is behind. The message is given back.
    #[error("the mailbox is full")]
    Full(M),
    /// The other plane is gone.
    #[error("the other end of the mailbox is gone")]
    Closed(M),
}

impl<M> SendError<M> {
    /// The message that was not sent.
    pub fn into_message(self) -> M {
        match self {
            Self::Full(message) | Self::Closed(message) => message,
        }
    }
}

/// The sending end. The data side uses [`MailSender::try_send`], the control side may wait.
#[derive(Debug)]
pub struct MailSender<M> {
    inner: flume::Sender<M>,
}

impl<M> Clone for MailSender<M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<M> MailSender<M> {
    /// Sends without waiting.
    ///
    /// # Errors
    /// The message comes back when the mailbox is full or the receiver gone.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        self.inner.try_send(message).map_err(|error| match error {
            flume::TrySendError::Full(message) => SendError::Full(message),
            flume::TrySendError::Disconnected(message) => SendError::Closed(message),
        })
    }

    /// Sends, waiting for room. Control plane only.
    ///
    /// # Errors
    /// The message comes back when the receiver is gone.
    pub async fn send(&self, message: M) -> Result<(), SendError<M>> {
        self.inner
            .send_async(message)
            .await
            .map_err(|error| SendError::Closed(error.0))
    }

    /// Sends, blocking this thread for room. For plain threads, such as the main one.
    ///
    /// # Errors
    /// The message comes back when the receiver is gone.
    pub fn send_blocking(&self, message: M) -> Result<(), SendError<M>> {
        self.inner
            .send(message)
            .map_err(|error| SendError::Closed(error.0))
    }

    /// Messages waiting now.
    pub fn waiting(&self) -> usize {
        self.inner.len()
    }
}

/// The receiving end; one owner.
#[derive(Debug)]
pub struct MailReceiver<M> {
    inner: flume::Receiver<M>,
}

impl<M> MailReceiver<M> {
    /// Waits until something is there, then moves up to [`BATCH_MESSAGES_MAX`] messages to the end
    /// of `batch`. False when every sender is gone and nothing is left.
    pub async fn recv_batch(&self, batch: &mut Vec<M>) -> bool {
        match self.inner.recv_async().await {
            Ok(first) => {
                batch.push(first);
                self.take_more(batch, BATCH_MESSAGES_MAX - 1);
                true
            }
            Err(_) => false,
        }
    }

    /// On a data core: gives `take` batch after batch until every sender is gone. After a full one
    /// the core's other tasks have their turn, and its rings: more may wait already.
    pub async fn serve(self, mut take: impl FnMut(&mut Vec<M>)) {
        let mut batch = Vec::new();
        while self.recv_batch(&mut batch).await {
            let is_full = batch.len() >= BATCH_MESSAGES_MAX;
            take(&mut batch);
            batch.clear();
            if is_full {
                breathe().await;
            }
        }
    }

    /// Takes what is there without waiting; returns how many.
    pub fn try_batch(&self, batch: &mut Vec<M>) -> usize {
        self.take_more(batch, BATCH_MESSAGES_MAX)
    }

    fn take_more(&self, batch: &mut Vec<M>, most: usize) -> usize {
        let before = batch.len();
        batch.extend(self.inner.try_iter().take(most));
        batch.len() - before
    }
}

/// A mailbox for at most `messages_max` messages (at most [`MAILBOX_MESSAGES_MAX`], at least 1).
pub fn mailbox<M>(messages_max: usize) -> (MailSender<M>, MailReceiver<M>) {
    let (sender, receiver) = flume::bounded(messages_max.clamp(1, MAILBOX_MESSAGES_MAX));
    (
        MailSender { inner: sender },
        MailReceiver { inner: receiver },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_gives_the_message_back_and_batches_keep_order() {
        let (sender, receiver) = mailbox(3);
        for n in 0..3 {
            sender.try_send(n).unwrap();
        }
        assert!(matches!(sender.try_send(9), Err(SendError::Full(9))));
        let mut batch = Vec::new();
        assert_eq!(receiver.try_batch(&mut batch), 3);
        assert_eq!(batch, [0, 1, 2]);
        drop(receiver);
        assert!(matches!(sender.try_send(7), Err(SendError::Closed(7))));
    }

    /// What fills the mailbox holds up nobody else on the core for longer than a batch.
    #[test]
    fn a_core_breathes_between_full_batches() {
        use std::cell::Cell;
        use std::rc::Rc;

        let (sender, receiver) = mailbox(MAILBOX_MESSAGES_MAX);
        for n in 0..MAILBOX_MESSAGES_MAX {
            sender.try_send(n).unwrap();
        }
        drop(sender);
        let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
        executor.run(async move {
            let turns = Rc::new(Cell::new(0));
            let seen = Rc::clone(&turns);
            let other = glommio::spawn_local(async move {
                loop {
                    breathe().await;
                    seen.set(seen.get() + 1);
                }
            });
            let (mut batches, mut taken) = (0, 0);
            receiver
                .serve(|batch| {
                    batches += 1;
                    taken += batch.len();
                })
                .await;
            assert_eq!(taken, MAILBOX_MESSAGES_MAX);
            assert_eq!(batches, MAILBOX_MESSAGES_MAX / BATCH_MESSAGES_MAX);
            assert!(turns.get() >= batches / 2, "{} turns", turns.get());
            other.cancel().await;
        });
    }

    #[test]
    fn crosses_from_tokio_to_a_core_and_back() {
        let (to_core, at_core) = mailbox::<u32>(16);
        let (to_control, at_control) = mailbox::<u32>(16);
        let core = std::thread::spawn(move || {
            glommio::LocalExecutorBuilder::default()
                .make()
                .unwrap()
                .run(async move {
                    let mut batch = Vec::new();
                    while at_core.recv_batch(&mut batch).await {
                        for n in batch.drain(..) {
                            to_control.try_send(n + 1).unwrap();
                        }
                    }
                });
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async move {
            for n in 0..100 {
                to_core.send(n).await.unwrap();
                let mut batch = Vec::new();
                assert!(at_control.recv_batch(&mut batch).await);
                assert_eq!(batch, [n + 1]);
            }
        });
        core.join().unwrap();
    }
}
