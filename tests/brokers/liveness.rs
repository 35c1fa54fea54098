//! Processes that live are told from those that have ended. Clients stand for them: a client that is closed counts as ended.

use crate::support::Fixture;

pub(crate) async fn client_lives_until_it_is_closed(t: &Fixture) {
    let other = t.other_client().await;
    let (asker, asked) = (t.broker.liveness().unwrap(), other.broker().liveness().unwrap());
    let (own, name) = (asker.name().await.unwrap(), asked.name().await.unwrap());
    assert_ne!(own, name);
    assert_eq!(asked.name().await.unwrap(), name, "it keeps its name");
    assert!(!name.contains(char::is_whitespace), "{name}");
    for client in [asker, asked] {
        assert!(client.is_alive(&own).await.unwrap() && client.is_alive(&name).await.unwrap());
    }

    other.close().await;

    assert!(!asker.is_alive(&name).await.unwrap());
    assert!(asker.is_alive(&own).await.unwrap());
}
