//! The durable outbox: a submitted request is sent, by this process or the next.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use conclave_client::{Client, Content, Follow, Incoming, Kept, Outbox, Position, Route, SendError};
use conclave_proto::chat::{Pin, RoomAction, room_action};

use crate::fake::Cluster;
use crate::{POLL, soon};

fn builder(cluster: &Cluster, dir: &Path) -> conclave_client::Builder {
    Client::builder()
        .servers(cluster.addresses())
        .user("ana")
        .route(Route::Pinned)
        .outbox(Outbox::Durable(dir.to_owned()))
}

#[tokio::test]
async fn a_submitted_request_is_sent_by_the_next_process() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    soon("ack", client.send("general", "first")).await.unwrap();
    let session = client.session();
    cluster.nodes[0].set(|f| f.dead = true);
    for text in ["second", "third"] {
        let ticket = client.submit("general", Content::Text(text.into())).await.unwrap();
        drop(ticket);
    }
    // Drops the client without closing it, as a kill does.
    drop(client);

    let mut again = None;
    soon("the lock is free again", async {
        while again.is_none() {
            again = builder(&cluster, dir.path()).connect().await.ok();
        }
    })
    .await;
    let again = again.unwrap();
    assert_eq!(again.session(), session, "the session was restored without a server");
    assert_eq!(again.pending().len(), 2);
    cluster.nodes[0].set(|f| f.dead = false);
    assert_eq!(soon("flush", again.flush(Duration::from_secs(15))).await, 0);
    assert_eq!(soon("ack", again.send("general", "fourth")).await.unwrap().request_no, 4);
    assert_eq!(cluster.data().texts("general"), ["first", "second", "third", "fourth"]);
    again.close().await;
}

/// What another process reads, such as one that lists what waits.
#[tokio::test]
async fn an_acked_request_does_not_wait_in_the_file_of_a_client_that_runs() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    for text in ["first", "last"] {
        soon("ack", client.send("general", text)).await.unwrap();
    }
    soon("the file says that nothing waits", async {
        while !Kept::read(dir.path()).await.unwrap().pending.is_empty() {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
    client.close().await;
}

#[tokio::test]
async fn a_request_above_the_clusters_level_does_not_hold_back_later_ones() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    client.close().await;
    // The session is restored from the disk, so that no node has reported the level when the requests are submitted.
    cluster.nodes[0].set(|f| {
        f.dead = true;
        f.first_level = true;
    });
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    let pin = RoomAction { kind: Some(room_action::Kind::Pin(Pin { target_seq: 1, off: false })) };
    let before = client.submit("general", Content::Text("before".into())).await.unwrap();
    let pin = client.submit("general", Content::Action(pin)).await.unwrap();
    let after = client.submit("general", Content::Text("after".into())).await.unwrap();
    cluster.nodes[0].set(|f| f.dead = false);
    let error = soon("refusal", pin.wait()).await.unwrap_err();
    assert_eq!(error.code(), Some("not_yet"), "{error}");
    assert_eq!(soon("ack", before.wait()).await.unwrap().request_no, 1);
    assert_eq!(
        soon("ack", after.wait()).await.unwrap().request_no,
        2,
        "the refused request used up no number"
    );
    assert_eq!(cluster.data().texts("general"), ["before", "after"]);
}

#[tokio::test]
async fn a_crash_after_the_ack_does_not_double_a_message() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    cluster.nodes[0].set(|f| f.dead = true);
    for n in 0..20 {
        client.submit("general", Content::Text(format!("{n}"))).await.unwrap();
    }
    // The file as a power failure leaves it: without the settlements that were not synced.
    std::fs::copy(dir.path().join("outbox"), copy.path().join("outbox")).unwrap();
    cluster.nodes[0].set(|f| f.dead = false);
    soon("flush", client.flush(Duration::from_secs(15))).await;
    client.close().await;
    let again = soon("connect", builder(&cluster, copy.path()).connect()).await.unwrap();
    assert_eq!(soon("flush", again.flush(Duration::from_secs(15))).await, 0);
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(cluster.data().texts("general"), expected);
}

#[tokio::test]
async fn the_file_stays_small_and_private() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    let text = "x".repeat(8 * 1024);
    for _ in 0..8 {
        let mut tickets = Vec::new();
        for _ in 0..64 {
            let client = client.clone();
            let text = text.clone();
            tickets.push(tokio::spawn(async move { client.send("general", text).await }));
        }
        for ticket in tickets {
            soon("ack", ticket).await.unwrap().unwrap();
        }
    }
    client.close().await;
    let meta = std::fs::metadata(dir.path().join("outbox")).unwrap();
    assert!(meta.len() < 3 * 1024 * 1024, "4 MiB were sent, the file has {}", meta.len());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let again = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    assert_eq!(again.pending_count(), 0);
    assert_eq!(soon("ack", again.send("general", "y")).await.unwrap().request_no, 513);
}

#[tokio::test]
async fn an_outbox_has_one_process_and_one_user() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    let error = builder(&cluster, dir.path()).connect().await.unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    client.close().await;
    let error = builder(&cluster, dir.path()).user("bob").connect().await.unwrap_err();
    assert!(error.to_string().contains("belongs to the user \"ana\""), "{error}");
}

#[tokio::test]
async fn damage_is_reported_and_an_incomplete_write_is_dropped() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    cluster.nodes[0].set(|f| f.dead = true);
    for text in ["one", "two", "three"] {
        client.submit("general", Content::Text(text.into())).await.unwrap();
    }
    client.close().await;
    let file = dir.path().join("outbox");
    let whole = std::fs::read(&file).unwrap();

    std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let torn = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    assert_eq!(torn.pending_count(), 2);
    torn.close().await;

    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let error = builder(&cluster, dir.path()).connect().await.unwrap_err();
    assert!(error.to_string().contains("is damaged at byte 0"), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
}

#[tokio::test]
async fn a_new_session_renumbers_the_outbox_file() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    soon("ack", client.send("general", "first")).await.unwrap();
    let session = client.session().id;
    cluster.data().rooms.get_mut("general").unwrap().sessions.clear();
    soon("ack", client.send("general", "second")).await.unwrap();
    assert_ne!(client.session().id, session);
    client.close().await;
    let again = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    assert_ne!(again.session().id, session);
    assert_eq!(soon("ack", again.send("general", "third")).await.unwrap().request_no, 2);
    assert_eq!(cluster.data().texts("general"), ["first", "second", "third"]);
}

#[tokio::test]
async fn a_request_to_an_unknown_room_does_not_use_up_its_number() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
        let error = soon("refusal", client.send("nowhere", "x")).await.unwrap_err();
        assert!(matches!(error, SendError::Refused { .. }), "{error:?}");
        client.close().await;
    }
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    let session = client.session().id;
    client.create_room("nowhere").await.unwrap();
    assert_eq!(soon("ack", client.send("nowhere", "y")).await.unwrap().request_no, 1);
    assert_eq!(client.session().id, session);
}

#[tokio::test]
async fn a_queued_request_is_never_sent_to_another_cluster_at_the_same_address() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    soon("ack", client.send("general", "first")).await.unwrap();
    client.close().await;

    cluster.data().status.cluster_id = "another".into();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    let mut ticket = client.submit("general", Content::Text("secret".into())).await.unwrap();
    let error = client.history(conclave_client::HistoryQuery::newest("general", 1)).await.unwrap_err();
    assert!(error.to_string().contains("belongs to another cluster (another)"), "{error}");
    assert_eq!(cluster.data().texts("general"), ["first"]);

    cluster.data().status.cluster_id = "c".into();
    let ack = soon("it is sent once the cluster is back", ticket.wait_for(Duration::from_secs(60))).await;
    assert_eq!(ack.unwrap().request_no, 2);
    client.close().await;
}

#[tokio::test]
async fn a_position_and_its_replies_are_kept_together_or_not_at_all() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let client = soon("connect", builder(&cluster, dir.path()).connect()).await.unwrap();
    let reply = |text: &str| ("general".to_owned(), Content::Text(text.to_owned()));
    let at = |seq| Position { room_id: 7, seq };
    let mut lengths = Vec::new();
    let length = || usize::try_from(std::fs::metadata(dir.path().join("outbox")).unwrap().len()).unwrap();
    cluster.nodes[0].set(|f| f.dead = true);
    soon("reply", client.reply(at(3), vec![reply("one"), reply("two")])).await.unwrap();
    lengths.push(length());
    soon("nothing to say", client.reply(at(4), vec![])).await.unwrap();
    lengths.push(length());
    let both = vec![at(5), Position { room_id: 8, seq: 1 }];
    soon("reply", client.reply_to_all(both, vec![reply("three")])).await.unwrap();
    let long = "x".repeat(16 * 1024 + 1);
    assert!(client.reply(at(6), vec![reply("four"), reply(&long)]).await.is_err());
    assert_eq!(client.positions()[&7], 5, "a reply that is refused at once moves nothing");
    drop(client);

    // The file of a crash at each byte.
    let file = std::fs::read(dir.path().join("outbox")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for cut in lengths[0]..=file.len() {
        std::fs::write(copy.path().join("outbox"), &file[..cut]).unwrap();
        let kept = Kept::read(copy.path()).await.unwrap();
        let expected = match cut {
            _ if cut < lengths[1] => (3, None, 2),
            _ if cut < file.len() => (4, None, 2),
            _ => (5, Some(&1), 3),
        };
        let found = (kept.positions[&7], kept.positions.get(&8), kept.pending.len());
        assert_eq!(found, expected, "cut at {cut}");
    }
    cluster.nodes[0].set(|f| f.dead = false);
    let again = soon("connect", builder(&cluster, copy.path()).connect()).await.unwrap();
    assert_eq!((soon("flush", again.flush(Duration::from_secs(15))).await, again.positions()[&7]), (0, 5));
    assert_eq!(cluster.data().texts("general"), ["one", "two", "three"]);
    again.retain_positions(|position| position.room_id == 7);
    assert_eq!(again.positions().into_iter().collect::<Vec<_>>(), [(7, 5)]);
    again.close().await;

    // To give requests up keeps the position.
    let dropped = Kept::drop_requests(copy.path()).await.unwrap();
    let both = BTreeMap::from([(7, 5), (8, 1)]);
    assert_eq!(
        (dropped.user.as_str(), &dropped.positions),
        ("ana", &both),
        "the file forgets when it is rewritten"
    );
    let fresh = soon("connect", builder(&cluster, copy.path()).connect()).await.unwrap();
    assert_eq!((fresh.session().id, fresh.positions()[&7]), (2, 5), "a session of its own");
    fresh.close().await;
    assert_eq!(Kept::read(copy.path()).await.unwrap().positions[&7], 5);
}

#[tokio::test]
async fn a_session_of_another_cluster_is_neither_opened_nor_restored() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let of = |id: &str| builder(&cluster, dir.path()).cluster(id).connect();
    // The node tells one cluster when it is asked, and another one when it opens a session.
    cluster.data().status.cluster_id = "another".into();
    let refused = soon("connect", of("another")).await.unwrap_err();
    assert!(refused.to_string().contains("of another cluster"), "{refused}");

    cluster.data().status.cluster_id = "c".into();
    soon("connect", of("c")).await.unwrap().close().await;
    let refused = soon("connect", of("another")).await.unwrap_err();
    assert!(refused.to_string().contains("of another cluster"), "{refused}");
    soon("connect", of("c")).await.unwrap().close().await;
}

#[tokio::test]
async fn a_user_without_a_session_queues_and_sends_once_a_session_is_open() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    let builder = || builder(&cluster, dir.path()).patience(Duration::from_millis(200));
    cluster.nodes[0].set(|f| f.dead = true);
    let refused = soon("connect", builder().connect()).await.unwrap_err().to_string();
    assert!(refused.contains("no server is reachable"), "nobody knows which cluster it is: {refused}");

    // Each process that finds no session open adds a request.
    for (text, waiting) in [("first", 1), ("second", 2), ("third", 3)] {
        let client = soon("start", builder().cluster("c").connect()).await.unwrap();
        assert_eq!((client.session().id, &*client.session().user), (0, "ana"));
        let mut ticket = client.submit("general", Content::Text(text.into())).await.unwrap();
        assert!(matches!(ticket.wait_for(Duration::ZERO).await, Err(SendError::Queued(_))));
        assert_eq!(client.pending_count(), waiting);
        client.close().await;
        let kept = Kept::read(dir.path()).await.unwrap();
        assert_eq!((&*kept.user, &*kept.cluster_id, kept.pending.len()), ("ana", "c", waiting));
    }
    let other = builder().cluster("c").user("bo").connect().await.unwrap_err().to_string();
    assert!(other.contains("belongs to the user \"ana\""), "{other}");

    let client = soon("start", builder().cluster("c").connect()).await.unwrap();
    cluster.nodes[0].set(|f| f.dead = false);
    assert_eq!(soon("flush", client.flush(Duration::from_secs(15))).await, 0);
    assert_ne!(client.session().id, 0);
    assert_eq!(soon("ack", client.send("general", "fourth")).await.unwrap().request_no, 4);
    assert_eq!(cluster.data().texts("general"), ["first", "second", "third", "fourth"]);
    let session = client.session();
    client.close().await;
    let again = soon("connect", builder().cluster("c").connect()).await.unwrap();
    assert_eq!((again.session(), again.pending_count()), (session, 0), "the session is kept");
    again.close().await;
}

/// A server that answers, and cannot open a session, refuses calls of a client without one. They wait.
#[tokio::test]
async fn calls_without_a_session_wait_for_it() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().unwrap();
    cluster.nodes[0].set(|f| f.opens_no_session = true);
    let connect = builder(&cluster, dir.path()).cluster("c").patience(Duration::from_millis(200)).connect();
    let client = soon("start", connect).await.unwrap();
    let error = soon("a call", client.create_room("more")).await.unwrap_err();
    assert!(error.to_string().contains("there is no session yet"), "{error}");
    let mut following = client.subscribe(vec![Follow::room("general")]);
    let opens = async {
        loop {
            if let Incoming::Connected { .. } = following.next().await.unwrap() {
                return;
            }
        }
    };
    cluster.nodes[0].set(|f| f.opens_no_session = false);
    soon("the subscription opens", opens).await;
    client.close().await;
}
