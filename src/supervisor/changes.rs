//! Passes changes of the configuration to a server or client that runs.

use std::error::Error;

use tokio::sync::{mpsc, oneshot};

/// The reason why a role does not apply a change. It keeps its former configuration.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The role drains, or has ended.
    #[error("the role drains and takes no changes")]
    Draining,
    /// A part of the change is impossible.
    #[error("{0}")]
    Impossible(Box<dyn Error + Send + Sync>),
}

/// A change with the place of its answer.
pub struct PendingChange<C> {
    change: C,
    answer: oneshot::Sender<Result<(), ChangeError>>,
}

impl<C> PendingChange<C> {
    /// Separates the change from its answer.
    pub(crate) fn into_parts(self) -> (C, oneshot::Sender<Result<(), ChangeError>>) {
        (self.change, self.answer)
    }
}

/// Passes changes to a role.
pub struct ChangeSender<C>(mpsc::Sender<PendingChange<C>>);

impl<C> Clone for ChangeSender<C> {
    fn clone(&self) -> Self {
        ChangeSender(self.0.clone())
    }
}

impl<C> ChangeSender<C> {
    /// Applies a change, after the earlier ones.
    ///
    /// # Errors
    /// When the role drains, or the change is impossible.
    ///
    /// # Cancel safety
    /// Not safe: a dropped future may have applied the change.
    pub async fn apply(&self, change: C) -> Result<(), ChangeError> {
        let (answer, applied) = oneshot::channel();
        let pending = PendingChange { change, answer };
        let sent = self.0.send(pending).await;
        sent.map_err(|_| ChangeError::Draining)?;
        applied.await.unwrap_or(Err(ChangeError::Draining))
    }
}

/// Both ends of the passage of changes to a role, before the role runs.
pub struct Changes<C> {
    sender: ChangeSender<C>,
    receiver: mpsc::Receiver<PendingChange<C>>,
}

impl<C> Default for Changes<C> {
    fn default() -> Self {
        // One at a time: the process applies the next change after the answer to this one.
        let (sender, receiver) = mpsc::channel(1);
        Changes {
            sender: ChangeSender(sender),
            receiver,
        }
    }
}

impl<C> Changes<C> {
    /// Returns the sending end.
    #[must_use]
    pub fn sender(&self) -> ChangeSender<C> {
        self.sender.clone()
    }

    /// Waits for the next change.
    ///
    /// # Cancel safety
    /// No change is lost when the future is dropped.
    pub async fn next(&mut self) -> PendingChange<C> {
        match self.receiver.recv().await {
            Some(pending) => pending,
            // Impossible: this struct has a sender.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_gets_the_answer_of_the_role() {
        let mut changes = Changes::<u32>::default();
        let sender = changes.sender();
        let role = async {
            let (change, answer) = changes.next().await.into_parts();
            let error = ChangeError::Impossible(format!("{change} is odd").into());
            answer.send(Err(error)).expect("awaited");
        };
        let (outcome, ()) = tokio::join!(sender.apply(7), role);
        assert_eq!(outcome.expect_err("refused").to_string(), "7 is odd");
    }

    #[tokio::test]
    async fn a_role_that_has_ended_takes_no_changes() {
        let changes = Changes::<u32>::default();
        let sender = changes.sender();
        drop(changes);
        assert!(matches!(sender.apply(1).await, Err(ChangeError::Draining)));
        // The role ends between the receipt of a change and its answer.
        let mut changes = Changes::<u32>::default();
        let sender = changes.sender();
        let role = async { drop(changes.next().await) };
        let (outcome, ()) = tokio::join!(sender.apply(1), role);
        assert!(matches!(outcome, Err(ChangeError::Draining)));
    }
}
