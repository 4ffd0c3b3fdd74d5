//! A rolling update as deploy/k8s makes it: each replica is replaced by one that is ready first. No request is refused, and
//! each like is counted once.

use std::mem::replace;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use like_testkit::{TestClient, TestSystem};
use tokio::task::JoinSet;

/// How long a load balancer sends requests to a replica that is ending.
const NOTICED_AFTER: Duration = Duration::from_secs(1);

/// What the load balancer knows.
type Replicas = Arc<RwLock<Vec<TestClient>>>;

/// Likes one product after the other. Each like must be acknowledged at once.
async fn like_all(user: usize, replicas: Replicas, enough: Arc<AtomicBool>) -> i64 {
    let mut likes = 0;
    while !enough.load(Ordering::Relaxed) {
        let replica = {
            let replicas = replicas.read().unwrap();
            replicas[likes as usize % replicas.len()].clone()
        };
        let like = replica.try_click(&format!("u{user}"), &format!("p{likes}"), true, &format!("k{likes}")).await;
        assert!(like.is_some(), "like {likes} of user {user} was refused");
        likes += 1;
    }
    likes
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_update_refuses_nothing() {
    let mut system = TestSystem::set_up(4).await;
    system.set("SHUTDOWN_DELAY", "2s");
    let mut apis = vec![system.api(&[]).await, system.api(&[]).await];
    let mut aggregator = system.aggregator(&[]).await;
    let replicas = Replicas::new(RwLock::new(apis.iter().map(|api| api.client()).collect()));
    let enough = Arc::<AtomicBool>::default();
    let users: JoinSet<_> = (0..8).map(|user| like_all(user, Arc::clone(&replicas), Arc::clone(&enough))).collect();

    for api in &mut apis {
        let mut old = replace(api, system.api(&[]).await);
        replicas.write().unwrap().push(api.client());
        old.process.terminate();
        tokio::time::sleep(NOTICED_AFTER).await;
        replicas.write().unwrap().remove(0);
        assert!(old.process.ended().await.success());

        let mut old = replace(&mut aggregator, system.aggregator(&[]).await);
        assert!(old.stop().await.0.success());
    }

    enough.store(true, Ordering::Relaxed);
    let likes = users.join_all().await.iter().sum();
    assert!(likes > 100, "{likes}");
    system.likes_become(likes).await;
    assert_eq!(system.wrong_counts().await, 0);
}
