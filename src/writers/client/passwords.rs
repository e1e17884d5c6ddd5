//! Password hashing off the async threads, few at once.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::crypto::passwords;

/// Hashes at once per processor: each takes 19 MiB and tens of milliseconds.
const HASHES_PER_CORE: usize = 2;

/// The hash could not be made, or the process is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("password hash could not be made")]
pub struct HashFailed;

/// Makes and checks password hashes.
pub struct Passwords {
    /// Taken before the blocking thread, so that waiting costs no thread.
    permits: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Passwords {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Passwords {
            permits: Arc::new(Semaphore::new(cores * HASHES_PER_CORE)),
        }
    }
}

impl Passwords {
    /// The PHC string of a new password.
    pub async fn hash(&self, password: String) -> Result<String, HashFailed> {
        let made = self.run(move || passwords::hash(&password)).await?;
        made.map_err(|_| HashFailed)
    }

    /// Whether the password fits. Without a hash (no such user, or no password
    /// login) the same time goes by, so that the answer does not tell.
    pub async fn verify(&self, password: String, phc: Option<String>) -> Result<bool, HashFailed> {
        self.run(move || passwords::verify(&password, phc.as_deref()))
            .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HashFailed> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| HashFailed)?;
        let task = spawn_blocking(move || {
            // Held here: a request that is dropped leaves its hash running.
            let _permit = permit;
            work()
        });
        task.await.map_err(|_| HashFailed)
    }
}
