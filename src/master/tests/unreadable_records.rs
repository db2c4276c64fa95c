//! Records of a database that cannot be read, at a running master.

use super::*;
use crate::{
    config::UnknownKeys,
    policy::{Admission, ServiceKey},
    store::Store,
};

/// Opens a database with a key whose row is invalid, and with another key.
async fn open_store(folder: &std::path::Path) -> Arc<Store> {
    let url = format!("sqlite:{}", folder.join("keys.db").display());
    let store = Store::open(url.parse().expect("an address")).await;
    let store = store.expect("a database");
    let mut change = store.change().await.expect("a change");
    for key in [PORT, OTHER_PORT] {
        let key = ServiceKey::new(key, "service");
        change.create_key(key).await.expect("created");
    }
    change.commit().await.expect("committed");
    let invalid = "UPDATE service_keys SET limits = '{' WHERE id = $1";
    let query = store.dialect().query(invalid).bind(PORT.to_string());
    let mut transaction = store.write().await.expect("a transaction");
    transaction.execute(query).await.expect("changed");
    transaction.commit().await.expect("committed");
    Arc::new(store)
}

async fn next_answer(server: &mut TestPeer) -> Registered {
    match server.next().await {
        Frame::Registered(answer) => answer,
        other => panic!("REGISTERED was expected, not {other:?}"),
    }
}

fn refused(answer: &Registered) -> Vec<Id> {
    answer.refused.iter().map(|refused| refused.port).collect()
}

#[tokio::test]
async fn key_that_cannot_be_read_is_refused_and_others_follow_their_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open_store(folder.path()).await;
    let clock = Arc::new(SystemClock);
    let policies = MasterPolicies::new(Admission::Open, UnknownKeys::Refuse, clock);
    policies.follow(Arc::clone(&store)).await.expect("loaded");
    let master = start_with(|parameters| parameters.policies = Arc::clone(&policies));
    let register = Frame::Register(Ports {
        ports: vec![PORT, OTHER_PORT],
    });
    let joined = master.join(Role::Server, 1, 1, &[register]).await;
    let mut server = joined.expect("joined");
    let answer = next_answer(&mut server).await;
    assert_eq!(
        (&answer.ports[..], refused(&answer)),
        (&[OTHER_PORT][..], vec![PORT])
    );
    until("the master names the record", || {
        let problem = policies.problem();
        problem.is_some_and(|problem| problem.cause.contains("limits of the key"))
    })
    .await;

    let mut change = store.change().await.expect("a change");
    let mut other = ServiceKey::new(OTHER_PORT, "service");
    other.enabled = false;
    change.update_key(other, None).await.expect("changed");
    change.commit().await.expect("committed");
    let answer = next_answer(&mut server).await;
    assert_eq!(refused(&answer), [OTHER_PORT]);

    // The record can be removed although it cannot be read.
    let mut change = store.change().await.expect("a change");
    change.remove_key(PORT, None, 1).await.expect("removed");
    change.commit().await.expect("committed");
    let answer = next_answer(&mut server).await;
    assert_eq!((&answer.ports[..], refused(&answer)), (&[PORT][..], vec![]));
    until("no record is named", || policies.problem().is_none()).await;
}
