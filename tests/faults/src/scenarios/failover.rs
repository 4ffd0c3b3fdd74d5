//! PostgreSQL's primary is killed and its standby promoted. Both services have one URL with two hosts. A standby that was
//! behind has lost the last batches: offsets and counts are older together, and the log has the rest. A synchronous one has
//! lost nothing that a receipt called counted, since a receipt waits for it.

use like_testkit::{Acknowledged, Click, Server, TestClient, TestServers, server_of, until};

use super::scene::{SHORT_SESSIONS, Scene, offsets};
use crate::{Outcome, Run};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Standby {
    Behind,
    Synchronous,
}

pub async fn failover(run: Run) -> Outcome {
    let behind = to(Standby::Behind, run).await;
    if run.quick { behind } else { behind.and(to(Standby::Synchronous, run).await) }
}

/// One more user's like.
async fn click(client: &TestClient, scene: &mut Scene, user: &str) -> Acknowledged {
    let acknowledged = client.click(user, "product-0", true, "click").await;
    let (user, product) = (user.to_owned(), "product-0".to_owned());
    scene.others.note(Click { user, product, liked: true, acknowledged: acknowledged.clone() });
    acknowledged
}

async fn to(kind: Standby, run: Run) -> Outcome {
    let servers = TestServers::start().await;
    let standby = servers.standby().await;
    let mut system = servers.system().await;
    let (primary, second) = (server_of(&servers.postgres), server_of(&standby.postgres));
    let both = system.database.url.replace(primary, &format!("{primary},{second}"));
    system.set("DATABASE_URL", &format!("{both}?target_session_attrs=read-write"));
    let mut scene = Scene::on(run, system, SHORT_SESSIONS).await;
    let mut aggregator = scene.system.aggregator(&[]).await;
    scene.counts().await;
    until("the standby follows", async || {
        scene.system.number("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").await == 1
    })
    .await;
    match kind {
        Standby::Behind => standby.line.cut(),
        Standby::Synchronous => {
            scene.system.database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
            scene.system.database.execute("SELECT pg_reload_conf()").await;
            until("the standby is synchronous", async || {
                scene.system.number("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").await == 1
            })
            .await;
        }
    }
    scene.acknowledges(200).await;
    let client = scene.api.client();
    let counted = click(&client, &mut scene, "first").await;
    client.wait_until_counted(&counted.receipt).await;
    if kind == Standby::Synchronous {
        standby.line.cut();
        let waiting = click(&client, &mut scene, "second").await;
        // The batch's deadline has closed its connection, and its transaction still waits for the standby.
        aggregator.process.says("canceling statement due to lock timeout").await;
        assert_eq!(client.receipt(&waiting.receipt).await["status"], "pending", "the standby lacks it");
    }
    let folded = offsets(&scene.system).await;

    servers.kill(Server::Postgres).await;
    // Likes are acknowledged without a database, and the standby is not mistaken for one.
    aggregator.waits_for("postgresql", "no host takes writes").await;
    scene.acknowledges(200).await;
    scene.system.database.move_to(&standby.postgres).await;
    let kept = async || offsets(&scene.system).await;
    match kind {
        Standby::Behind => assert!(kept().await.iter().sum::<i64>() < folded.iter().sum(), "the tail is not lost"),
        // It has everything, and may still be replaying it.
        Standby::Synchronous => {
            until("nothing is lost", async || kept().await.iter().zip(&folded).all(|(kept, folded)| kept >= folded))
                .await;
        }
    }
    if kind == Standby::Behind {
        // Until the tail is folded again, its receipts don't say that it is counted.
        aggregator.process.freeze();
        standby.promote().await;
        until("like-api asks the new primary", async || {
            let url = format!("{}/v1/receipts/{}", scene.api.url, counted.receipt);
            let answer = scene.api.http.get(url).send().await.expect("an answer");
            if !answer.status().is_success() {
                return false;
            }
            let receipt = answer.text().await.expect("a receipt");
            assert!(receipt.contains(r#""status":"pending""#), "the new primary lacks it: {receipt}");
            true
        })
        .await;
        aggregator.process.thaw();
    } else {
        standby.promote().await;
    }
    aggregator.wait_until_ready().await;
    aggregator.process.says("PostgreSQL's primary is another host").await;
    if kind == Standby::Synchronous {
        assert_eq!(client.receipt(&counted.receipt).await["status"], "counted");
    }
    client.wait_until_counted(&counted.receipt).await;
    scene.counts().await;
    scene.acknowledges(50).await;
    scene.outcome(1).await
}
