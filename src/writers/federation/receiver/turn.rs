//! A turn among all that is taken in at a time. Whoever waits for another server
//! gives it back meanwhile: servers that are slow on purpose, under however many
//! names, must not keep the turns of the others.

use std::future::Future;

use tokio::sync::{Semaphore, SemaphorePermit};

/// See the module.
pub struct Turn<'a> {
    all: &'a Semaphore,
    /// None while it is given back. Nobody closes the semaphore.
    held: Option<SemaphorePermit<'a>>,
}

impl<'a> Turn<'a> {
    /// Waits for a turn.
    pub async fn take(all: &'a Semaphore) -> Turn<'a> {
        let held = all.acquire().await.ok();
        Turn { all, held }
    }

    /// Waits for work of somebody else's, while another has the turn.
    pub async fn given_back<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.held = None;
        let done = work.await;
        self.held = self.all.acquire().await.ok();
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_have_their_turn_while_one_waits_for_a_server() {
        let all = Semaphore::new(1);
        let mut slow = Turn::take(&all).await;
        assert_eq!(all.available_permits(), 0);
        let between = slow.given_back(async {
            let _other = Turn::take(&all).await;
            all.available_permits()
        });
        assert_eq!(between.await, 0);
        assert_eq!(all.available_permits(), 0);
        drop(slow);
        assert_eq!(all.available_permits(), 1);
    }
}
