//! Whose transaction is taken in when: one at a time from each server, and the
//! same one once.
//!
//! What a repeat is answered is held in memory for the last few transactions of
//! a server. Beyond that, and across restarts, a transaction that comes again is
//! told apart by its content: events that are here are not appended again, and
//! what became of them is told from what is stored.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::watch;

/// Servers whose last transactions are remembered.
const ORIGINS_MAX: usize = 4_096;
/// Transactions of a server that are remembered, with answers of some 4 KiB.
const REMEMBERED_MAX: usize = 2;
/// Transactions of a server that are not answered yet, one of which is at work:
/// the specification has servers send one after the other.
const UNANSWERED_MAX: usize = 3;

/// Why a transaction is not taken in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTurn {
    /// The server has several others that are not answered.
    TooMany,
    /// The work on it ended without an answer.
    Broken,
}

/// The transactions of all servers; `A` is what one is answered.
pub struct Origins<A> {
    by_server: Cache<OwnedServerName, Arc<Origin<A>>>,
}

/// Lock order: `turn` is awaited without `known`, which is never held across an await.
struct Origin<A> {
    turn: tokio::sync::Mutex<()>,
    known: Mutex<VecDeque<Known<A>>>,
}

struct Known<A> {
    transaction_id: Box<str>,
    /// None until it is answered; closed if it never will be.
    answer: watch::Receiver<Option<A>>,
}

impl<A: Clone + Send + Sync + 'static> Default for Origins<A> {
    fn default() -> Origins<A> {
        Origins {
            by_server: Cache::new(ORIGINS_MAX),
        }
    }
}

impl<A: Clone + Send + Sync + 'static> Origins<A> {
    /// The answer to a transaction: that of the first time, or what `work` makes
    /// of it. Work that was begun goes on when its request goes away. An answer
    /// that is not `final` is told to those who wait, and not remembered.
    pub async fn once<W>(
        &self,
        server: &ServerName,
        transaction_id: &str,
        is_final: fn(&A) -> bool,
        work: impl FnOnce() -> Result<W, A>,
    ) -> Result<A, NoTurn>
    where
        W: Future<Output = A> + Send + 'static,
    {
        let origin = self.origin(server);
        let mut answer = match origin.find_or_begin(transaction_id)? {
            Found::Known(answer) => answer,
            Found::New(told, answer) => {
                match work() {
                    Ok(work) => origin.clone().run(transaction_id, told, is_final, work),
                    Err(refused) => {
                        origin.forget(transaction_id);
                        return Ok(refused);
                    }
                }
                answer
            }
        };
        match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().ok_or(NoTurn::Broken),
            Err(_) => {
                // Whoever comes next tries anew.
                origin.forget(transaction_id);
                Err(NoTurn::Broken)
            }
        }
    }

    fn origin(&self, server: &ServerName) -> Arc<Origin<A>> {
        let made = self
            .by_server
            .get_or_insert_with(server, || Ok::<_, std::convert::Infallible>(Arc::default()));
        match made {
            Ok(origin) => origin,
            Err(never) => match never {},
        }
    }
}

enum Found<A> {
    Known(watch::Receiver<Option<A>>),
    New(watch::Sender<Option<A>>, watch::Receiver<Option<A>>),
}

impl<A> Default for Origin<A> {
    fn default() -> Origin<A> {
        Origin {
            turn: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }
}

impl<A: Clone + Send + Sync + 'static> Origin<A> {
    fn find_or_begin(&self, transaction_id: &str) -> Result<Found<A>, NoTurn> {
        let mut known = self.known.lock();
        let same = |known: &&Known<A>| *known.transaction_id == *transaction_id;
        if let Some(found) = known.iter().find(same) {
            return Ok(Found::Known(found.answer.clone()));
        }
        let unanswered = |known: &Known<A>| known.answer.borrow().is_none();
        if known.iter().filter(|known| unanswered(known)).count() >= UNANSWERED_MAX {
            return Err(NoTurn::TooMany);
        }
        let answered = known.iter().filter(|known| !unanswered(known)).count();
        if answered >= REMEMBERED_MAX
            && let Some(oldest) = known.iter().position(|known| !unanswered(known))
        {
            known.remove(oldest);
        }
        let (told, answer) = watch::channel(None);
        known.push_back(Known {
            transaction_id: transaction_id.into(),
            answer: answer.clone(),
        });
        Ok(Found::New(told, answer))
    }

    fn run(
        self: Arc<Self>,
        transaction_id: &str,
        told: watch::Sender<Option<A>>,
        is_final: fn(&A) -> bool,
        work: impl Future<Output = A> + Send + 'static,
    ) {
        let transaction_id: Box<str> = transaction_id.into();
        tokio::spawn(async move {
            let _turn = self.turn.lock().await;
            let answer = work.await;
            if !is_final(&answer) {
                self.forget(&transaction_id);
            }
            // Nobody may wait any more; the answer is there for a repeat.
            let _ = told.send_replace(Some(answer));
        });
    }

    fn forget(&self, transaction_id: &str) {
        let mut known = self.known.lock();
        known.retain(|known| *known.transaction_id != *transaction_id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ruma::server_name;
    use tokio::sync::Notify;

    use super::*;

    #[derive(Clone, Default)]
    struct Counted {
        times: Arc<AtomicUsize>,
        go: Arc<Notify>,
    }

    impl Counted {
        fn work(&self) -> Result<impl Future<Output = usize> + Send + 'static, usize> {
            let this = self.clone();
            Ok(async move {
                this.go.notified().await;
                this.times.fetch_add(1, Ordering::Relaxed) + 1
            })
        }
    }

    #[tokio::test]
    async fn a_repeat_gets_the_answer_of_the_first() {
        let (origins, counted) = (Arc::new(Origins::<usize>::default()), Counted::default());
        let ask = |server: &'static str, id: &'static str| {
            let (origins, counted) = (origins.clone(), counted.clone());
            let server = OwnedServerName::try_from(server).expect("a name");
            tokio::spawn(async move {
                let counted = || counted.work();
                origins
                    .once(&server, id, |answer| *answer != 3, counted)
                    .await
            })
        };
        // While it runs, when it is done, and whoever went away.
        let (first, second) = (ask("a", "t"), ask("a", "t"));
        tokio::task::yield_now().await;
        first.abort();
        counted.go.notify_one();
        assert_eq!(second.await.expect("runs"), Ok(1));
        assert_eq!(ask("a", "t").await.expect("runs"), Ok(1));
        // Of another server it is another transaction.
        counted.go.notify_one();
        assert_eq!(ask("b", "t").await.expect("runs"), Ok(2));
        // What was no final answer is not remembered.
        for answer in [3, 4] {
            counted.go.notify_one();
            assert_eq!(ask("a", "again").await.expect("runs"), Ok(answer));
        }
        assert_eq!(ask("a", "again").await.expect("runs"), Ok(4));
    }

    #[tokio::test]
    async fn cve_2026_45078_a_server_has_one_at_work_and_few_that_wait() {
        let origins = Arc::new(Origins::<u8>::default());
        let at_work = Arc::new(AtomicUsize::new(0));
        let go = Arc::new(tokio::sync::Semaphore::new(0));
        let ask = |id: String| {
            let (origins, at_work, go) = (origins.clone(), at_work.clone(), go.clone());
            tokio::spawn(async move {
                let work = || {
                    Ok(async move {
                        assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
                        go.acquire().await.expect("is open").forget();
                        at_work.fetch_sub(1, Ordering::SeqCst);
                        0
                    })
                };
                origins.once(server_name!("a"), &id, |_| true, work).await
            })
        };
        let mut asked: Vec<_> = (0..UNANSWERED_MAX).map(|n| ask(n.to_string())).collect();
        tokio::task::yield_now().await;
        let more = ask("more".to_owned()).await.expect("runs");
        assert_eq!(more, Err(NoTurn::TooMany));
        go.add_permits(UNANSWERED_MAX + 1);
        for asked in asked.drain(..) {
            assert_eq!(asked.await.expect("runs"), Ok(0));
        }
        assert_eq!(ask("more".to_owned()).await.expect("runs"), Ok(0));
        let origin = origins.origin(server_name!("a"));
        assert!(origin.known.lock().len() <= REMEMBERED_MAX + 1);
    }

    #[tokio::test]
    async fn work_that_panics_is_tried_anew() {
        let origins = Origins::<u8>::default();
        let server = server_name!("a");
        let broken = origins.once(server, "t", |_| true, || Ok(async { panic!("a test") }));
        assert_eq!(broken.await, Err(NoTurn::Broken));
        let whole = origins.once(server, "t", |_| true, || Ok(std::future::ready(1)));
        assert_eq!(whole.await, Ok(1));
        let refused = origins.once(
            server,
            "u",
            |_| true,
            || Err::<std::future::Ready<u8>, u8>(9),
        );
        assert_eq!(refused.await, Ok(9));
    }
}
